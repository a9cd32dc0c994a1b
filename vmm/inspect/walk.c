/* SPDX-License-Identifier: MIT */
/*
 * `kage inspect --gva` and `--gpa`: an address on its way to memory, table by table: the guest's own tables first, then the EPT or
 * the shadow tables, down to the address in the client's process.
 */
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "inspect/view.h"
#include "inspect/words.h"

static const char *const paging_names[] = {
    [KAGE_PAGING_NONE] = "paging is off", [KAGE_PAGING_32] = "32-bit paging", [KAGE_PAGING_PAE] = "PAE paging",
    [KAGE_PAGING_4LEVEL] = "4-level paging", [KAGE_PAGING_5LEVEL] = "5-level paging",
};
static const char *const level_names[] = {"?", "PT", "PD", "PDPT", "PML4", "PML5"};
static const char *const regimes[] = {"kernel reads", "kernel writes", "kernel-on-user reads", "kernel-on-user writes", "user reads", "user writes"};

static const char *level_name(unsigned level)
{
    return level < sizeof(level_names) / sizeof(level_names[0]) ? level_names[level] : "?";
}

static const char *page_name(unsigned shift)
{
    return shift == 12 ? "4 KiB" : shift == 21 ? "2 MiB" : shift == 22 ? "4 MiB" : shift == 30 ? "1 GiB" : "?";
}

static unsigned clamp_count(uint32_t count)
{
    return count < KAGE_INSPECT_STEPS ? count : KAGE_INSPECT_STEPS;
}

static bool is_wide(const struct kage_inspect_walk *walk)
{
    return walk->paging != KAGE_PAGING_32;
}

/* Why a walk ended at this entry; NULL: it did not. */
static const char *stop_of(const struct kage_inspect_step *step)
{
    if ((step->flags & KAGE_STEP_READ) == 0) {
        return "no memory there";
    }
    if ((step->flags & KAGE_STEP_MMIO) != 0) {
        return "marked: no memory, MMIO";
    }
    if ((step->flags & KAGE_STEP_PRESENT) == 0) {
        return "not present";
    }
    return (step->flags & KAGE_STEP_RESERVED) != 0 ? "reserved bits are set" : NULL;
}

enum side { SIDE_GUEST, SIDE_EPT, SIDE_SHADOW };

/* The bits of an address that choose an entry at each level, and the offset. */
static void print_split(struct inspect_view *view, uint64_t address, const struct kage_inspect_step *steps, unsigned count, unsigned shift)
{
    const char *dot = out_sign(&view->out, " · ", " . ");

    out_text(&view->out, OUT_DIM, "  0x%016" PRIx64 " %s ", address, out_sign(&view->out, "=", "="));
    for (unsigned i = 0; i < count; i++) {
        out_text(&view->out, OUT_DIM, "%s", i != 0 ? dot : "");
        fprintf(view->out.file, "%s %u", level_name(steps[i].level), steps[i].index);
    }
    if (count != 0 && shift != 0) {
        out_text(&view->out, OUT_DIM, "%s", dot);
        fprintf(view->out.file, "offset 0x%" PRIx64, address & (((uint64_t)1 << shift) - 1));
    }
    fputs("\n\n", view->out.file);
}

static void print_steps(struct inspect_view *view, const struct kage_inspect_step *steps, unsigned count, enum side side, bool wide)
{
    static const char *const guest_names[] = {"level", "table (guest)", ">index", "entry", "bits", "left", "entry in the host", NULL};
    static const char *const second_names[] = {"level", "table (host)", ">index", "entry", "bits", "left", NULL};
    static const char *const *const names[2] = {guest_names, second_names};
    bool hosts = side == SIDE_GUEST && !out_is_narrow(&view->out);
    struct table table;

    table_begin(&table, &view->out, names[hosts ? 0 : 1]);
    table.names[1] = side == SIDE_GUEST ? guest_names[1] : second_names[1];
    for (unsigned i = 0; i < count; i++) {
        const struct kage_inspect_step *s = &steps[i];
        bool leaf = (s->flags & KAGE_STEP_LEAF) != 0, user = side != SIDE_EPT;
        const char *stop = stop_of(s);
        char bits[WORDS_MAX], rights[WORDS_MAX];
        table_cell(&table, OUT_NAME, "%s", level_name(s->level));
        if ((s->flags & KAGE_STEP_REGISTER) != 0) {
            table_cell(&table, OUT_PLAIN, "a register");
        } else {
            table_cell(&table, OUT_PLAIN, "0x%012" PRIx64, (uint64_t)s->table);
        }
        table_cell(&table, OUT_PLAIN, "%u", s->index);
        if ((s->flags & KAGE_STEP_READ) != 0) {
            table_cell(&table, OUT_PLAIN, wide ? "0x%016" PRIx64 : "0x%08" PRIx64, (uint64_t)s->entry);
            table_cell(&table, OUT_PLAIN, "%s", side == SIDE_EPT ? words_ept_entry(bits, s->entry, leaf) : words_guest_entry(bits, s->entry, leaf, wide));
        } else {
            table_cell(&table, OUT_PLAIN, "%s", "");
            table_cell(&table, OUT_PLAIN, "%s", "");
        }
        table_cell(&table, stop == NULL ? OUT_GOOD : OUT_BAD, "%s", words_rights(rights, s->rights, user));
        if (hosts && s->host != 0) {
            table_cell(&table, OUT_DIM, "0x%012" PRIx64, (uint64_t)s->host);
        } else if (hosts) {
            table_cell(&table, OUT_DIM, "%s", "");
        }
    }
    table_end(&table);
}

static void put_side(struct table *table, const struct kage_inspect_step *s, enum side side, bool wide)
{
    char bits[WORDS_MAX], rights[WORDS_MAX];

    if (s == NULL) {
        for (unsigned i = 0; i < 4; i++) {
            table_cell(table, OUT_PLAIN, "%s", "");
        }
        return;
    }
    if ((s->flags & KAGE_STEP_REGISTER) != 0) {
        table_cell(table, OUT_PLAIN, "a register");
    } else {
        table_cell(table, OUT_PLAIN, "0x%012" PRIx64, (uint64_t)s->table);
    }
    if ((s->flags & KAGE_STEP_READ) != 0) {
        table_cell(table, OUT_PLAIN, wide ? "0x%016" PRIx64 : "0x%08" PRIx64, (uint64_t)s->entry);
        table_cell(table, OUT_PLAIN, "%s", words_guest_entry(bits, s->entry, (s->flags & KAGE_STEP_LEAF) != 0, wide));
    } else {
        table_cell(table, OUT_PLAIN, "%s", "");
        table_cell(table, OUT_PLAIN, "%s", "");
    }
    table_cell(table, stop_of(s) == NULL ? OUT_GOOD : OUT_BAD, "%s", words_rights(rights, s->rights, side != SIDE_EPT));
}

static const struct kage_inspect_step *step_at(const struct kage_inspect_step *steps, unsigned count, unsigned level)
{
    for (unsigned i = 0; i < count; i++) {
        if (steps[i].level == level) {
            return &steps[i];
        }
    }
    return NULL;
}

/* The guest's tables and the shadows that were made of them, level beside level. */
static void print_beside_shadow(struct inspect_view *view, const struct kage_inspect_walk *walk)
{
    static const char *const names[] = {"level", ">index", "table (guest)", "entry", "bits", "left", "shadow (host)", "entry", "bits", "left", NULL};
    unsigned guests = clamp_count(walk->guest_count), shadows = clamp_count(walk->second_count);
    struct table table;

    table_begin(&table, &view->out, names);
    for (unsigned level = KAGE_INSPECT_STEPS; level > 0; level--) {
        const struct kage_inspect_step *guest = step_at(walk->guest, guests, level), *shadow = step_at(walk->second, shadows, level);
        if (guest == NULL && shadow == NULL) {
            continue;
        }
        table_cell(&table, OUT_NAME, "%s", level_name(level));
        table_cell(&table, OUT_PLAIN, "%u", (guest != NULL ? guest : shadow)->index);
        put_side(&table, guest, SIDE_GUEST, is_wide(walk));
        put_side(&table, shadow, SIDE_SHADOW, true);
    }
    table_end(&table);
}

/* The guest's tables, and the EPT's way from the address that they lead to: each from its top, the levels of one being no matter of the other's. */
static void print_beside_ept(struct inspect_view *view, const struct kage_inspect_walk *walk)
{
    static const char *const names[] = {"level", ">index", "table (guest)", "entry", "bits", "left", "EPT", ">index", "entry", "bits", "left", NULL};
    unsigned guests = clamp_count(walk->guest_count), steps = clamp_count(walk->second_count);
    struct table table;

    table_begin(&table, &view->out, names);
    for (unsigned i = 0; i < guests || i < steps; i++) {
        const struct kage_inspect_step *guest = i < guests ? &walk->guest[i] : NULL, *s = i < steps ? &walk->second[i] : NULL;
        char bits[WORDS_MAX], rights[WORDS_MAX];
        table_cell(&table, OUT_NAME, "%s", guest != NULL ? level_name(guest->level) : "");
        if (guest != NULL) {
            table_cell(&table, OUT_PLAIN, "%u", guest->index);
        } else {
            table_cell(&table, OUT_PLAIN, "%s", "");
        }
        put_side(&table, guest, SIDE_GUEST, is_wide(walk));
        if (s == NULL) {
            for (unsigned c = 0; c < 5; c++) {
                table_cell(&table, OUT_PLAIN, "%s", "");
            }
            continue;
        }
        table_cell(&table, OUT_NAME, "%s", level_name(s->level));
        table_cell(&table, OUT_PLAIN, "%u", s->index);
        table_cell(&table, OUT_PLAIN, "0x%016" PRIx64, (uint64_t)s->entry);
        table_cell(&table, OUT_PLAIN, "%s", words_ept_entry(bits, s->entry, (s->flags & KAGE_STEP_LEAF) != 0));
        table_cell(&table, stop_of(s) == NULL ? OUT_GOOD : OUT_BAD, "%s", words_rights(rights, s->rights, false));
    }
    table_end(&table);
}

/* On a wide screen. Of a 32-bit guest shadow tables have other levels and other indexes. */
static bool is_beside(const struct inspect_view *view, const struct kage_inspect_walk *walk)
{
    return view->out.width >= 120 && walk->guest_count != 0 &&
           ((walk->flags & KAGE_WALK_SHADOW) != 0 ? walk->paging >= KAGE_PAGING_4LEVEL : (walk->flags & KAGE_WALK_GPA) != 0);
}

static void print_arrow(struct inspect_view *view, enum out_style style)
{
    out_text(&view->out, style, "  %s ", out_sign(&view->out, "└─▶", "`->"));
}

static void print_guest(struct inspect_view *view, const struct kage_inspect_walk *walk, const struct kage_inspect_vcpu *cpu)
{
    struct out *out = &view->out;
    unsigned count = clamp_count(walk->guest_count);
    char rights[WORDS_MAX];

    out_heading(out, "Guest-virtual 0x%" PRIx64 ", processor %u", (uint64_t)walk->gva, view_cpu(view));
    fprintf(out->file, "  The guest's own tables: ");
    out_text(out, OUT_NAME, "%s", walk->paging < sizeof(paging_names) / sizeof(paging_names[0]) ? paging_names[walk->paging] : "?");
    if (walk->paging != KAGE_PAGING_NONE) {
        fprintf(out->file, ", CR3 0x%" PRIx64, (uint64_t)cpu->cr3);
        if ((cpu->cr4 >> 17 & 1) != 0) {
            fprintf(out->file, " (PCID %u)", (unsigned)(cpu->cr3 & 0xfff));
        }
    }
    fputc('\n', out->file);
    if ((walk->flags & KAGE_WALK_NOT_CANONICAL) != 0) {
        print_arrow(view, OUT_BAD);
        out_text(out, OUT_BAD, "not canonical: #GP\n");
        return;
    }
    if (count != 0) {
        print_split(view, walk->gva, walk->guest, count, walk->page_shift);
        if (is_beside(view, walk)) {
            ((walk->flags & KAGE_WALK_SHADOW) != 0 ? print_beside_shadow : print_beside_ept)(view, walk);
        } else {
            print_steps(view, walk->guest, count, SIDE_GUEST, is_wide(walk));
        }
    }
    if ((walk->flags & KAGE_WALK_GPA) == 0) {
        const char *stop = count != 0 ? stop_of(&walk->guest[count - 1]) : NULL;
        print_arrow(view, OUT_BAD);
        out_text(out, OUT_BAD, "%s: #PF, error code 0x%x for a kernel's read\n", stop != NULL ? stop : "?", walk->error);
        return;
    }
    print_arrow(view, OUT_GOOD);
    fprintf(out->file, "guest-physical ");
    out_text(out, OUT_TITLE, "0x%" PRIx64, (uint64_t)walk->gpa);
    if (walk->paging != KAGE_PAGING_NONE) {
        fprintf(out->file, ", a page of %s, %s%s%s", page_name(walk->page_shift), words_rights(rights, walk->rights, true),
                (walk->flags & KAGE_WALK_GLOBAL) != 0 ? ", global" : "", (walk->flags & KAGE_WALK_DIRTY) != 0 ? ", dirty" : ", clean");
    }
    fputc('\n', out->file);
}

static void print_slot(struct inspect_view *view, const struct kage_inspect_walk *walk)
{
    if ((walk->flags & KAGE_WALK_SLOT) == 0) {
        out_text(&view->out, OUT_BAD, "no memory slot: MMIO\n");
        return;
    }
    fprintf(view->out.file, "memory slot %u%s%s\n", walk->slot & 0xffff, (walk->slot_flags & KVM_MEM_READONLY) != 0 ? ", read only" : "",
            (walk->slot_flags & KVM_MEM_LOG_DIRTY_PAGES) != 0 ? ", dirty pages logged" : "");
}

/* Where the second dimension leads. */
static void print_end(struct inspect_view *view, const struct kage_inspect_walk *walk, unsigned count, bool shadow)
{
    struct out *out = &view->out;
    char rights[WORDS_MAX];

    if ((walk->flags & KAGE_WALK_SECOND) != 0) {
        print_arrow(view, OUT_GOOD);
        fprintf(out->file, "host ");
        out_text(out, OUT_TITLE, "0x%" PRIx64, (uint64_t)walk->hva);
        fprintf(out->file, ", by a page of %s, %s; ", page_name(walk->second_page_shift), words_rights(rights, walk->second_rights, shadow));
    } else {
        const char *stop = count != 0 ? stop_of(&walk->second[count - 1]) : shadow ? "there is no root yet" : NULL;
        print_arrow(view, OUT_BAD);
        out_text(out, OUT_BAD, "%s%s", stop != NULL ? stop : "beyond the tables", (walk->flags & KAGE_WALK_GPA) != 0 ? "; " : "");
        if ((walk->flags & KAGE_WALK_GPA) == 0) {
            fputc('\n', out->file);
            return;
        }
        if ((walk->flags & KAGE_WALK_SLOT) != 0) {
            fprintf(out->file, "an access will map host 0x%" PRIx64 " of ", (uint64_t)walk->hva);
        }
    }
    print_slot(view, walk);
}

static void print_second(struct inspect_view *view, const struct kage_inspect_walk *walk, bool own)
{
    struct out *out = &view->out;
    bool shadow = (walk->flags & KAGE_WALK_SHADOW) != 0;
    unsigned count = clamp_count(walk->second_count);

    if (is_beside(view, walk)) {
        print_end(view, walk, count, shadow);
        return;
    }
    fputc('\n', out->file);
    out_heading(out, shadow ? "Shadow tables: guest-virtual to host" : own ? "The engine's own map: guest-physical to host" : "EPT: guest-physical to host");
    print_split(view, shadow ? walk->gva : walk->gpa, walk->second, count, walk->second_page_shift);
    print_steps(view, walk->second, count, shadow ? SIDE_SHADOW : SIDE_EPT, true);
    print_end(view, walk, count, shadow);
}

static void print_tlb(struct inspect_view *view, const struct kage_inspect_walk *walk)
{
    char first[256] = "";

    for (unsigned i = 0; i < sizeof(regimes) / sizeof(regimes[0]); i++) {
        if ((walk->tlb_first >> i & 1) != 0) {
            size_t length = strlen(first);
            snprintf(first + length, sizeof(first) - length, "%s%s", length != 0 ? ", " : "", regimes[i]);
        }
    }
    fputc('\n', view->out.file);
    if (first[0] == '\0' && (walk->flags & KAGE_WALK_TLB) == 0) {
        out_paragraph(&view->out, OUT_PLAIN, "TLB: no entry, the next access walks");
    } else {
        out_paragraph(&view->out, OUT_PLAIN, "TLB: %s%s%s%s", first[0] != '\0' ? "the first level serves " : "", first,
                      first[0] != '\0' && (walk->flags & KAGE_WALK_TLB) != 0 ? "; " : "",
                      (walk->flags & KAGE_WALK_TLB) != 0 ? "the second level holds it" : "");
    }
}

/* ---- JSON ---- */

static json_t *json_steps(const struct kage_inspect_step *steps, unsigned count, enum side side, bool wide)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < count; i++) {
        const struct kage_inspect_step *s = &steps[i];
        bool leaf = (s->flags & KAGE_STEP_LEAF) != 0;
        char bits[WORDS_MAX], rights[WORDS_MAX];
        json_t *step = json_pack("{s:s, s:i, s:o, s:i}", "level", level_name(s->level), "number", (int)s->level, "table", view_hex(s->table), "index",
                                 (int)s->index);
        if ((s->flags & KAGE_STEP_READ) != 0) {
            json_object_set_new(step, "entry", view_hex(s->entry));
            json_object_set_new(step, "bits", json_string(side == SIDE_EPT ? words_ept_entry(bits, s->entry, leaf)
                                                                           : words_guest_entry(bits, s->entry, leaf, wide)));
        }
        json_object_set_new(step, "host", view_hex(s->host));
        json_object_set_new(step, "present", json_boolean((s->flags & KAGE_STEP_PRESENT) != 0));
        json_object_set_new(step, "leaf", json_boolean(leaf));
        json_object_set_new(step, "reserved", json_boolean((s->flags & KAGE_STEP_RESERVED) != 0));
        json_object_set_new(step, "mmio", json_boolean((s->flags & KAGE_STEP_MMIO) != 0));
        json_object_set_new(step, "rights", json_string(words_rights(rights, s->rights, side != SIDE_EPT)));
        json_array_append_new(list, step);
    }
    return list;
}

static void walk_json(struct inspect_view *view, const struct kage_inspect_walk *walk)
{
    bool shadow = (walk->flags & KAGE_WALK_SHADOW) != 0;
    char rights[WORDS_MAX];
    json_t *tlb = json_array();

    json_object_set_new(view->json, "cpu", view_number(view_cpu(view)));
    if ((walk->flags & KAGE_WALK_GVA) != 0) {
        json_object_set_new(view->json, "gva", view_hex(walk->gva));
        json_object_set_new(view->json, "paging", json_string(walk->paging < 5 ? paging_names[walk->paging] : "?"));
        json_object_set_new(view->json, "canonical", json_boolean((walk->flags & KAGE_WALK_NOT_CANONICAL) == 0));
        json_object_set_new(view->json, "guest", json_steps(walk->guest, clamp_count(walk->guest_count), SIDE_GUEST, is_wide(walk)));
    }
    if ((walk->flags & KAGE_WALK_GPA) != 0) {
        json_object_set_new(view->json, "gpa", view_hex(walk->gpa));
        if ((walk->flags & KAGE_WALK_GVA) != 0) {
            json_object_set_new(view->json, "page_bytes", view_number(1ull << walk->page_shift));
            json_object_set_new(view->json, "rights", json_string(words_rights(rights, walk->rights, true)));
            json_object_set_new(view->json, "global", json_boolean((walk->flags & KAGE_WALK_GLOBAL) != 0));
            json_object_set_new(view->json, "dirty", json_boolean((walk->flags & KAGE_WALK_DIRTY) != 0));
        }
        if ((walk->flags & KAGE_WALK_SLOT) != 0) {
            json_object_set_new(view->json, "slot", view_number(walk->slot));
        }
    } else if ((walk->flags & KAGE_WALK_NOT_CANONICAL) == 0) {
        json_object_set_new(view->json, "page_fault_error", view_number(walk->error));
    }
    if ((walk->flags & (KAGE_WALK_GPA | KAGE_WALK_SHADOW)) != 0) {
        bool mapped = (walk->flags & KAGE_WALK_SECOND) != 0;
        json_object_set_new(view->json, shadow ? "shadow" : "ept",
                            json_steps(walk->second, clamp_count(walk->second_count), shadow ? SIDE_SHADOW : SIDE_EPT, true));
        json_object_set_new(view->json, "mapped", json_boolean(mapped));
        if (mapped || (walk->flags & KAGE_WALK_SLOT) != 0) {
            json_object_set_new(view->json, "host", view_hex(walk->hva));
        }
        if (mapped) {
            json_object_set_new(view->json, "host_page_bytes", view_number(1ull << walk->second_page_shift));
            json_object_set_new(view->json, "host_rights", json_string(words_rights(rights, walk->second_rights, shadow)));
        }
    }
    if ((walk->flags & KAGE_WALK_GVA) != 0) {
        for (unsigned i = 0; i < sizeof(regimes) / sizeof(regimes[0]); i++) {
            if ((walk->tlb_first >> i & 1) != 0) {
                json_array_append_new(tlb, json_string(regimes[i]));
            }
        }
        json_object_set_new(view->json, "tlb_first", tlb);
        json_object_set_new(view->json, "tlb_second", json_boolean((walk->flags & KAGE_WALK_TLB) != 0));
    } else {
        json_decref(tlb);
    }
}

int view_walk(struct inspect_view *view, struct error *error)
{
    struct kage_inspect ask = {.topic = KAGE_INSPECT_WALK, .vcpu = view_cpu(view), .flags = view->has_gpa ? KAGE_INSPECT_GPA : 0,
                               .address = view->has_gpa ? view->gpa : view->gva};
    struct kage_inspect_walk walk;
    struct kage_inspect_vcpu cpu;
    struct kage_inspect_vm vm;
    void *data;

    if (view_vm(view, &vm, error) != 0 ||
        view_vcpu(view, view_cpu(view), &cpu, error) != 0 || view_ask(view, &ask, &data, error) != 0) {
        return -1;
    }
    bool whole = ask.bytes == sizeof(walk);
    if (whole) {
        memcpy(&walk, data, sizeof(walk));
        walk.page_shift &= 63;
        walk.second_page_shift &= 63;
    }
    free(data);
    if (!whole) {
        return error_set(error, "process %d: it is of another version of kage", (int)view->pid);
    }
    if (view->json != NULL) {
        walk_json(view, &walk);
        return 0;
    }
    if ((walk.flags & KAGE_WALK_GVA) != 0) {
        print_guest(view, &walk, &cpu);
    } else {
        out_heading(&view->out, "Guest-physical 0x%" PRIx64, (uint64_t)walk.gpa);
    }
    if ((walk.flags & (KAGE_WALK_GPA | KAGE_WALK_SHADOW)) != 0) {
        print_second(view, &walk, vm.mmu == KAGE_MMU_SHADOW);
    }
    if ((walk.flags & KAGE_WALK_GVA) != 0 && (walk.flags & KAGE_WALK_NOT_CANONICAL) == 0) {
        print_tlb(view, &walk);
    }
    return 0;
}
