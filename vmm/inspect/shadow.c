/* SPDX-License-Identifier: MIT */
/* `kage inspect shadow`: the shadow pages, by level and one by one. */
#include <inttypes.h>
#include <stdlib.h>

#include "inspect/view.h"
#include "inspect/words.h"

#define PAGES_SHOWN 40u

static const char *const level_names[] = {"?", "PT", "PD", "PDPT", "PML4", "PML5"};

static const char *name_of(uint32_t level)
{
    return level_names[level < 6 ? level : 0];
}

static void print_levels(struct inspect_view *view, const struct kage_inspect_shadow_page *pages, uint32_t count)
{
    static const char *const names[] = {"level", ">shadow pages", ">direct", ">open", ">closed", ">roots", ">entries", ">full", NULL};
    struct table table;

    table_begin(&table, &view->out, names);
    for (uint32_t level = 5; level > 0; level--) {
        uint64_t all = 0, direct = 0, open = 0, closed = 0, roots = 0, entries = 0;
        char a[OUT_NUMBER];
        for (uint32_t i = 0; i < count; i++) {
            if (pages[i].level == level) {
                all++;
                direct += (pages[i].flags & (KAGE_SHADOW_DIRECT | KAGE_SHADOW_OWN_ROOT)) != 0;
                open += (pages[i].flags & KAGE_SHADOW_OPEN) != 0;
                closed += (pages[i].flags & (KAGE_SHADOW_DIRECT | KAGE_SHADOW_OWN_ROOT | KAGE_SHADOW_OPEN)) == 0;
                roots += pages[i].roots != 0;
                entries += pages[i].entries;
            }
        }
        if (all == 0) {
            continue;
        }
        table_cell(&table, OUT_NAME, "%s", name_of(level));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, all));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, direct));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, open));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, closed));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, roots));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, entries));
        table_cell(&table, OUT_PLAIN, "%.1f%%", 100.0 * (double)entries / (double)(all * 512));
    }
    table_end(&table);
}

/* What it is made of. */
static const char *kind_of(const struct kage_inspect_shadow_page *p)
{
    return (p->flags & KAGE_SHADOW_DIRECT) != 0     ? "direct"
           : (p->flags & KAGE_SHADOW_OWN_ROOT) != 0 ? "root"
           : (p->flags & KAGE_SHADOW_OPEN) != 0     ? "open"
           : (p->flags & KAGE_SHADOW_CLOSING) != 0  ? "closing"
                                                    : "closed";
}

static void print_pages(struct inspect_view *view, const struct kage_inspect_shadow_page *pages, uint32_t count)
{
    static const char *const names[] = {"level", "guest's table", "shadow table", ">used", "rights", ">parents", ">roots", "|role", NULL};
    uint32_t shown = view->all || count <= PAGES_SHOWN ? count : PAGES_SHOWN;
    struct table table;

    table_begin(&table, &view->out, names);
    for (uint32_t i = 0; i < shown; i++) {
        const struct kage_inspect_shadow_page *p = &pages[i];
        char rights[WORDS_MAX], quadrant[24] = "";
        if ((p->flags & KAGE_SHADOW_32BIT) != 0) {
            snprintf(quadrant, sizeof(quadrant), ", 32-bit part %u", p->quadrant);
        }
        table_cell(&table, OUT_NAME, "%s", name_of(p->level));
        table_cell(&table, OUT_PLAIN, "0x%010" PRIx64, (uint64_t)p->gfn << 12);
        table_cell(&table, OUT_PLAIN, "0x%012" PRIx64, (uint64_t)p->table);
        table_cell(&table, OUT_PLAIN, "%u", p->entries);
        table_cell(&table, OUT_GOOD, "%s", words_rights(rights, p->rights, true));
        table_cell(&table, OUT_PLAIN, "%u", p->parents);
        table_cell(&table, p->roots != 0 ? OUT_TITLE : OUT_DIM, "%u", p->roots);
        table_cell(&table, OUT_DIM, "%s%s%s%s", kind_of(p), (p->flags & KAGE_SHADOW_WP) != 0 ? "" : ", WP=0",
                   (p->flags & KAGE_SHADOW_NX) != 0 ? ", NX" : "", quadrant);
    }
    table_end(&table);
    if (shown < count) {
        out_text(&view->out, OUT_DIM, "  %u more (--all)\n", count - shown);
    }
}

static void shadow_json(struct inspect_view *view, const struct kage_inspect_shadow_page *pages, uint32_t count)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < count; i++) {
        const struct kage_inspect_shadow_page *p = &pages[i];
        char rights[WORDS_MAX];
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:s, s:b, s:b, s:b, s:b, s:o}", "level", name_of(p->level),
                                              "number", view_number(p->level), "gpa", view_hex(p->gfn << 12), "table", view_hex(p->table),
                                              "entries", view_number(p->entries), "parents", view_number(p->parents), "roots",
                                              view_number(p->roots), "rights", words_rights(rights, p->rights, true), "state", kind_of(p), "wp",
                                              (p->flags & KAGE_SHADOW_WP) != 0, "nx", (p->flags & KAGE_SHADOW_NX) != 0, "32bit",
                                              (p->flags & KAGE_SHADOW_32BIT) != 0, "pae", (p->flags & KAGE_SHADOW_PAE) != 0, "quadrant",
                                              view_number(p->quadrant)));
    }
    json_object_set_new(view->json, "pages", list);
}

/* What the shadow MMU has done so far, by the kernel's names. */
enum { MADE, RECYCLED, ZAPPED, OPENED, CLOSED, COMPARED, DROPPED, STATS };
static const char *const stat_names[STATS] = {"mmu_cache_miss", "mmu_recycled", "mmu_shadow_zapped", "mmu_pte_write", "mmu_closed", "mmu_compared",
                                              "mmu_dropped"};

static void print_stats(struct inspect_view *view, const uint64_t *stats)
{
    char text[STATS][OUT_NUMBER];

    for (unsigned i = 0; i < STATS; i++) {
        out_count(text[i], stats[i]);
    }
    out_paragraph(&view->out, OUT_PLAIN, "So far %s were made, %s given up, %s of them for others; closed %s times, opened again by a write %s "
                                         "times; compared %s times, with %s entries that had changed.",
                  text[MADE], text[ZAPPED], text[RECYCLED], text[CLOSED], text[OPENED], text[COMPARED], text[DROPPED]);
}

int view_shadow(struct inspect_view *view, struct error *error)
{
    uint64_t stats[STATS] = {0};
    void *data;
    uint32_t count;

    if (view->has_gva || view->has_gpa) {
        return view_walk(view, error);
    }
    if (view_stats(view, KAGE_INSPECT_WHOLE_VM, stat_names, stats, STATS, error) != 0 ||
        view_list(view, KAGE_INSPECT_SHADOW, 0, sizeof(struct kage_inspect_shadow_page), &data, &count, error) != 0) {
        return -1;
    }
    if (view->json != NULL) {
        shadow_json(view, data, count);
        json_t *so_far = json_object();
        for (unsigned i = 0; i < STATS; i++) {
            json_object_set_new(so_far, stat_names[i], view_number(stats[i]));
        }
        json_object_set_new(view->json, "statistics", so_far);
    } else {
        out_heading(&view->out, "Shadow pages: %u", count);
        out_paragraph(&view->out, OUT_DIM, "open: the guest may write its table, so it is compared at each flush; closed: its table is "
                                           "write-protected; direct and root: of no table of the guest's");
        fputc('\n', view->out.file);
        print_levels(view, data, count);
        fputc('\n', view->out.file);
        print_stats(view, stats);
        fputc('\n', view->out.file);
        print_pages(view, data, count);
    }
    free(data);
    return 0;
}
