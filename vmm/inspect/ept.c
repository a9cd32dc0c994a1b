/* SPDX-License-Identifier: MIT */
/* `kage inspect ept`: the tables by level, and what they map, run by run. */
#include <inttypes.h>
#include <stdlib.h>

#include "inspect/view.h"
#include "inspect/words.h"

#define RANGES_SHOWN 40u

static const char *const level_names[] = {"?", "PT", "PD", "PDPT", "PML4", "PML5"};

struct ept_view {
    struct kage_inspect_vm vm;
    struct kage_inspect_level *levels;
    uint32_t level_count;
    struct kage_inspect_range *ranges;
    uint32_t range_count;
};

/* All of them, or a bounded number: a guest can make one of every page. */
static int fetch_ranges(struct inspect_view *view, struct ept_view *ept, struct error *error)
{
    enum { RANGES_MAX = 1u << 18 };
    uint64_t at = 0;

    while (at != UINT64_MAX && ept->range_count < RANGES_MAX && (view->all || view->json != NULL || ept->range_count <= RANGES_SHOWN)) {
        struct kage_inspect ask = {.topic = KAGE_INSPECT_RANGES, .address = at};
        void *data;
        if (view_ask(view, &ask, &data, error) != 0) {
            return -1;
        }
        uint32_t count = (uint32_t)(ask.bytes / sizeof(*ept->ranges));
        struct kage_inspect_range *more = realloc(ept->ranges, (ept->range_count + count + 1) * sizeof(*more));
        if (more == NULL) {
            free(data);
            return error_set(error, "no memory");
        }
        ept->ranges = more;
        if (ask.address != UINT64_MAX && (ask.address <= at || count == 0)) {
            free(data);
            return error_set(error, "process %d: it is of another version of kage", (int)view->pid);
        }
        for (uint32_t i = 0; i < count; i++) {
            ept->ranges[ept->range_count] = ((struct kage_inspect_range *)data)[i];
            ept->ranges[ept->range_count++].page_shift &= 63;
        }
        free(data);
        at = ask.address;
    }
    return 0;
}

static void print_levels(struct inspect_view *view, const struct ept_view *ept)
{
    static const char *const names[] = {"level", ">tables", ">size", ">links", ">pages", ">of size", ">that map", ">MMIO", NULL};
    static const char *const sizes[] = {"4 KiB", "2 MiB", "1 GiB", "", ""};
    struct table table;

    table_begin(&table, &view->out, names);
    for (uint32_t i = ept->level_count; i-- > 0;) {
        const struct kage_inspect_level *l = &ept->levels[i];
        char a[OUT_NUMBER];
        unsigned level = l->level < 6 ? l->level : 0;
        table_cell(&table, OUT_NAME, "%s", level_names[level]);
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, l->tables));
        table_cell(&table, OUT_DIM, "%s", out_bytes(a, l->tables * 4096));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, l->links));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, l->leaves));
        table_cell(&table, OUT_DIM, "%s", level > 0 ? sizes[level - 1] : "");
        table_cell(&table, OUT_PLAIN, "%s", level > 0 && level < 4 ? out_bytes(a, l->leaves << (12 + 9 * (level - 1))) : "");
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, l->mmio));
    }
    table_end(&table);
}

static void print_ranges(struct inspect_view *view, const struct ept_view *ept)
{
    static const char *const all[] = {"guest-physical", "", "host", ">bytes", ">by", "rights", ">pages", ">dirty", ">accessed", NULL};
    static const char *const few[] = {"guest-physical", "", "host", ">bytes", ">by", "rights", ">pages", ">dirty", NULL};
    bool narrow = out_is_narrow(&view->out);
    uint32_t shown = view->all || ept->range_count <= RANGES_SHOWN ? ept->range_count : RANGES_SHOWN;
    struct table table;

    table_begin(&table, &view->out, narrow ? few : all);
    for (uint32_t i = 0; i < shown; i++) {
        const struct kage_inspect_range *r = &ept->ranges[i];
        char a[OUT_NUMBER], rights[WORDS_MAX];
        table_cell(&table, OUT_PLAIN, "0x%010" PRIx64, (uint64_t)r->gpa);
        table_cell(&table, OUT_DIM, "%s", out_sign(&view->out, "→", "->"));
        table_cell(&table, OUT_PLAIN, "0x%012" PRIx64, (uint64_t)r->host);
        table_cell(&table, OUT_PLAIN, "%s", out_bytes(a, r->bytes));
        table_cell(&table, OUT_DIM, "%s", r->page_shift == 12 ? "4K" : r->page_shift == 21 ? "2M" : "1G");
        table_cell(&table, OUT_GOOD, "%s", words_rights(rights, r->rights, false));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, (r->bytes + (1ull << r->page_shift) - 1) >> r->page_shift));
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, r->dirty));
        if (!narrow) {
            table_cell(&table, OUT_PLAIN, "%s", out_count(a, r->accessed));
        }
    }
    table_end(&table);
    if (shown < ept->range_count) {
        out_text(&view->out, OUT_DIM, "  and more (--all shows them)\n");
    }
}

static void ept_json(struct inspect_view *view, const struct ept_view *ept)
{
    json_t *levels = json_array(), *ranges = json_array();

    for (uint32_t i = ept->level_count; i-- > 0;) {
        const struct kage_inspect_level *l = &ept->levels[i];
        json_array_append_new(levels, json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "level", level_names[l->level < 6 ? l->level : 0], "number",
                                                view_number(l->level), "tables", view_number(l->tables), "links", view_number(l->links), "pages",
                                                view_number(l->leaves), "mmio", view_number(l->mmio)));
    }
    for (uint32_t i = 0; i < ept->range_count; i++) {
        const struct kage_inspect_range *r = &ept->ranges[i];
        char rights[WORDS_MAX];
        json_array_append_new(ranges, json_pack("{s:o, s:o, s:o, s:o, s:s, s:o, s:o}", "gpa", view_hex(r->gpa), "host", view_hex(r->host), "bytes",
                                                view_number(r->bytes), "page_bytes", view_number(1ull << r->page_shift), "rights",
                                                words_rights(rights, r->rights, false), "accessed", view_number(r->accessed), "dirty",
                                                view_number(r->dirty)));
    }
    json_object_set_new(view->json, "ept_pointer", view_hex(ept->vm.ept_pointer));
    json_object_set_new(view->json, "levels", levels);
    json_object_set_new(view->json, "ranges", ranges);
}

int view_ept(struct inspect_view *view, struct error *error)
{
    struct ept_view ept = {0};
    void *levels;
    int result = -1;

    if (view->has_gva || view->has_gpa) {
        return view_walk(view, error);
    }
    if (view_vm(view, &ept.vm, error) != 0 ||
        view_list(view, KAGE_INSPECT_TABLES, 0, sizeof(*ept.levels), &levels, &ept.level_count, error) != 0) {
        return -1;
    }
    ept.levels = levels;
    if (fetch_ranges(view, &ept, error) == 0) {
        result = 0;
        if (view->json != NULL) {
            ept_json(view, &ept);
        } else {
            char text[WORDS_MAX];
            out_heading(&view->out, "EPT: guest-physical to host");
            out_paragraph(&view->out, OUT_PLAIN, "EPTP 0x%" PRIx64 ": %s", (uint64_t)ept.vm.ept_pointer,
                          words_vmcs(text, 0x201a, ept.vm.ept_pointer));
            fputc('\n', view->out.file);
            print_levels(view, &ept);
            fputc('\n', view->out.file);
            print_ranges(view, &ept);
        }
    }
    free(ept.levels);
    free(ept.ranges);
    return result;
}
