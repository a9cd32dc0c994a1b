/* SPDX-License-Identifier: MIT */
/* `kage inspect tlb`: how full the two levels are, whose entries they hold, what they have spared, and the entries. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "inspect/view.h"
#include "inspect/words.h"

#define ENTRIES_SHOWN 32u
#define PCIDS_SHOWN 16u

static const char *const regimes[] = {"kernel", "kernel, user pages too", "user"};

struct share {
    unsigned pcid;
    bool global;
    uint32_t count;
};

/* Entries by owner, the largest share first; how many owners (of at most `room`). */
static unsigned count_shares(const struct kage_inspect_tlb *tlb, uint32_t count, struct share *shares, unsigned room)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < count; i++) {
        bool global = (tlb->entries[i].flags & KAGE_TLB_GLOBAL) != 0;
        unsigned pcid = global ? 0 : tlb->entries[i].pcid, at = 0;
        while (at < n && (shares[at].pcid != pcid || shares[at].global != global)) {
            at++;
        }
        if (at == n && n == room) {
            continue;
        }
        if (at == n) {
            shares[n++] = (struct share){.pcid = pcid, .global = global};
        }
        shares[at].count++;
    }
    for (unsigned i = 1; i < n; i++) {
        for (unsigned j = i; j > 0 && shares[j].count > shares[j - 1].count; j--) {
            struct share t = shares[j];
            shares[j] = shares[j - 1];
            shares[j - 1] = t;
        }
    }
    return n;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole != 0 ? 100.0 * (double)part / (double)whole : 0;
}

static void print_sizes(struct inspect_view *view, const struct kage_inspect_tlb *tlb)
{
    static const char *const names[] = {"cache", "of", ">entries", ">valid", ">full", NULL};
    struct table table;
    char a[OUT_NUMBER];

    table_begin(&table, &view->out, names);
    for (unsigned i = 0; i < 6; i++) {
        table_cell(&table, OUT_NAME, "first level");
        table_cell(&table, OUT_PLAIN, "%s, %s", regimes[i / 2], i % 2 == 0 ? "reads" : "writes");
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, tlb->first_size));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, tlb->first_valid[i / 2][i % 2]));
        table_cell(&table, OUT_PLAIN, "%.0f%%", percent(tlb->first_valid[i / 2][i % 2], tlb->first_size));
    }
    const struct { const char *name, *of; uint32_t size, valid; } others[] = {
        {"second level", "all address spaces", tlb->second_size, tlb->count},
        {"paging structures", "ways to page tables", tlb->pde_size, tlb->pde_valid},
        {"paging structures", "ways to page directories", tlb->pdpte_size, tlb->pdpte_valid},
        {"guest-physical", "walks of the second dimension", tlb->phys_size, tlb->phys_valid},
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        table_cell(&table, OUT_NAME, "%s", others[i].name);
        table_cell(&table, OUT_PLAIN, "%s", others[i].of);
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, others[i].size));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, others[i].valid));
        table_cell(&table, OUT_PLAIN, "%.0f%%", percent(others[i].valid, others[i].size));
    }
    table_end(&table);
}

/* What may be expected of it: the first level's hits are not counted (they cost nothing to count on). */
static void print_expected(struct inspect_view *view, const struct kage_inspect_tlb *tlb, uint32_t count)
{
    const struct out *out = &view->out;
    struct share shares[PCIDS_SHOWN];
    char a[OUT_NUMBER], b[OUT_NUMBER];
    unsigned n = count_shares(tlb, count, shares, PCIDS_SHOWN);
    uint32_t here = 0, at_once = 0;

    for (uint32_t i = 0; i < count; i++) {
        here += (tlb->entries[i].flags & KAGE_TLB_GLOBAL) != 0 || tlb->entries[i].pcid == tlb->pcid;
        at_once += tlb->entries[i].first != 0;
    }
    char c[OUT_NUMBER], owners[1024] = "";
    fputc('\n', out->file);
    out_paragraph(out, OUT_PLAIN, "Without a walk the current address space (PCID %u) reaches %s, of it %s by the first level alone.", tlb->pcid,
                  out_bytes(a, (uint64_t)here << 12), out_bytes(b, (uint64_t)at_once << 12));
    out_paragraph(out, OUT_PLAIN, "Of %s misses of the first level %.1f%% found their page in the second; %s walked. Flushed %s times.",
                  out_count(a, tlb->misses), percent(tlb->misses - tlb->second_misses, tlb->misses), out_count(b, tlb->second_misses), out_count(c, tlb->flushes));
    for (unsigned i = 0; i < n; i++) {
        size_t length = strlen(owners);
        if (shares[i].global) {
            snprintf(owners + length, sizeof(owners) - length, "%s%s global", i != 0 ? ", " : "", out_count(a, shares[i].count));
        } else {
            snprintf(owners + length, sizeof(owners) - length, "%s%s PCID %u", i != 0 ? ", " : "", out_count(a, shares[i].count), shares[i].pcid);
        }
    }
    out_paragraph(out, OUT_PLAIN, "The second level's entries: %s.", n != 0 ? owners : "none");
    fputc('\n', out->file);
}

static const char *rights_of(char text[8], uint16_t flags)
{
    snprintf(text, 8, "R%c%c%c", (flags & KAGE_TLB_WRITE) != 0 ? 'W' : '.', (flags & KAGE_TLB_NX) != 0 ? '.' : 'X',
             (flags & KAGE_TLB_USER) != 0 ? 'U' : '.');
    return text;
}

/* K, k and U: the three regimes; r and w behind each that the first level holds. */
static const char *first_of(char text[24], uint32_t first)
{
    static const char *const names[] = {"K:", "k:", "U:"};
    text[0] = '\0';
    for (unsigned i = 0; i < 3; i++) {
        if ((first >> (2 * i) & 3) != 0) {
            size_t length = strlen(text);
            snprintf(text + length, 24 - length, "%s%s%s%s", length != 0 ? " " : "", names[i], (first >> (2 * i) & 1) != 0 ? "r" : "",
                     (first >> (2 * i + 1) & 1) != 0 ? "w" : "");
        }
    }
    return text;
}

static int by_address(const void *a, const void *b)
{
    const struct kage_inspect_tlb_entry *x = a, *y = b;
    return x->va < y->va ? -1 : x->va > y->va ? 1 : (int)x->pcid - (int)y->pcid;
}

static void print_entries(struct inspect_view *view, struct kage_inspect_tlb *tlb, uint32_t count)
{
    static const char *const all[] = {"guest-virtual", "guest-physical", ">PCID", "rights", "first level", "host", NULL};
    static const char *const few[] = {"guest-virtual", "guest-physical", ">PCID", "rights", "first level", NULL};
    bool narrow = out_is_narrow(&view->out);
    struct table table;
    uint32_t shown = 0, matching = 0;

    table_begin(&table, &view->out, narrow ? few : all);
    for (uint32_t i = 0; i < count; i++) {
        const struct kage_inspect_tlb_entry *e = &tlb->entries[i];
        char rights[8], first[24];
        if ((view->has_gva && e->va != (view->gva & ~0xfffull)) || (view->has_gpa && e->gpa != (view->gpa & ~0xfffull))) {
            continue;
        }
        matching++;
        if (shown == ENTRIES_SHOWN && !view->all) {
            continue;
        }
        shown++;
        table_cell(&table, OUT_PLAIN, "0x%016" PRIx64, (uint64_t)e->va);
        table_cell(&table, OUT_PLAIN, "0x%010" PRIx64, (uint64_t)e->gpa);
        if ((e->flags & KAGE_TLB_GLOBAL) != 0) {
            table_cell(&table, OUT_NAME, "global");
        } else {
            table_cell(&table, e->pcid == tlb->pcid ? OUT_PLAIN : OUT_DIM, "%u", e->pcid);
        }
        table_cell(&table, OUT_PLAIN, "%s %c%c%c", rights_of(rights, e->flags), (e->flags & KAGE_TLB_DIRTY) != 0 ? 'D' : '.',
                   (e->flags & KAGE_TLB_LARGE) != 0 ? 'L' : '.', (e->flags & KAGE_TLB_HOST_WRITE) != 0 ? 'w' : '.');
        table_cell(&table, OUT_GOOD, "%s", first_of(first, e->first));
        if (!narrow) {
            table_cell(&table, OUT_DIM, "0x%012" PRIx64, (uint64_t)e->host);
        }
    }
    table_end(&table);
    if (shown < matching) {
        out_text(&view->out, OUT_DIM, "  %u more (--all)\n", matching - shown);
    }
    out_paragraph(&view->out, OUT_DIM, "D dirty, L a piece of a large page, w the host's page may be written; K kernel, k kernel on user pages, U user");
}

static void tlb_json(struct inspect_view *view, const struct kage_inspect_tlb *tlb, uint32_t count)
{
    static const char *const keys[] = {"kernel", "kernel_user", "user"};
    json_t *first = json_object(), *entries = json_array();

    json_object_set_new(view->json, "cpu", view_number(view_cpu(view)));
    json_object_set_new(view->json, "pcid", view_number(tlb->pcid));
    json_object_set_new(first, "size", view_number(tlb->first_size));
    for (unsigned i = 0; i < 3; i++) {
        json_object_set_new(first, keys[i], json_pack("{s:o, s:o}", "reads", view_number(tlb->first_valid[i][0]), "writes",
                                                      view_number(tlb->first_valid[i][1])));
    }
    json_object_set_new(view->json, "first_level", first);
    json_object_set_new(view->json, "second_level", json_pack("{s:o, s:o}", "size", view_number(tlb->second_size), "valid", view_number(tlb->count)));
    json_object_set_new(view->json, "page_tables", json_pack("{s:o, s:o}", "size", view_number(tlb->pde_size), "valid", view_number(tlb->pde_valid)));
    json_object_set_new(view->json, "page_directories", json_pack("{s:o, s:o}", "size", view_number(tlb->pdpte_size), "valid",
                                                                  view_number(tlb->pdpte_valid)));
    json_object_set_new(view->json, "guest_physical", json_pack("{s:o, s:o}", "size", view_number(tlb->phys_size), "valid",
                                                                view_number(tlb->phys_valid)));
    json_object_set_new(view->json, "misses", view_number(tlb->misses));
    json_object_set_new(view->json, "walks", view_number(tlb->second_misses));
    json_object_set_new(view->json, "flushes", view_number(tlb->flushes));
    json_object_set_new(view->json, "page_flushes", view_number(tlb->page_flushes));
    for (uint32_t i = 0; i < count; i++) {
        const struct kage_inspect_tlb_entry *e = &tlb->entries[i];
        char rights[8];
        if ((view->has_gva && e->va != (view->gva & ~0xfffull)) || (view->has_gpa && e->gpa != (view->gpa & ~0xfffull))) {
            continue;
        }
        json_t *entry = json_pack("{s:o, s:o, s:o, s:b, s:s, s:b, s:b, s:b, s:o}", "gva", view_hex(e->va), "gpa", view_hex(e->gpa), "host",
                                  view_hex(e->host), "global", (e->flags & KAGE_TLB_GLOBAL) != 0, "rights",
                                  rights_of(rights, e->flags), "dirty", (e->flags & KAGE_TLB_DIRTY) != 0, "large",
                                  (e->flags & KAGE_TLB_LARGE) != 0, "host_writable", (e->flags & KAGE_TLB_HOST_WRITE) != 0, "first",
                                  view_number(e->first));
        if ((e->flags & KAGE_TLB_GLOBAL) == 0) {
            json_object_set_new(entry, "pcid", view_number(e->pcid));
        }
        json_array_append_new(entries, entry);
    }
    json_object_set_new(view->json, "entries", entries);
}

int view_tlb(struct inspect_view *view, struct error *error)
{
    struct kage_inspect ask = {.topic = KAGE_INSPECT_TLB, .vcpu = view_cpu(view)};
    void *data;

    if (view_ask(view, &ask, &data, error) != 0) {
        return -1;
    }
    struct kage_inspect_tlb *tlb = data;
    if (ask.bytes < sizeof(*tlb)) {
        free(data);
        return error_set(error, "process %d: it is of another version of kage", (int)view->pid);
    }
    uint32_t count = (uint32_t)((ask.bytes - sizeof(*tlb)) / sizeof(tlb->entries[0]));
    qsort(tlb->entries, count, sizeof(tlb->entries[0]), by_address);
    if (view->json != NULL) {
        tlb_json(view, tlb, count);
    } else {
        out_heading(&view->out, "TLBs of processor %u", view_cpu(view));
        print_sizes(view, tlb);
        print_expected(view, tlb, count);
        print_entries(view, tlb, count);
    }
    free(data);
    return 0;
}
