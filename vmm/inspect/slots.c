/* SPDX-License-Identifier: MIT */
/* `kage inspect slots`: the memory slots, and how much of each is mapped. */
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>

#include "inspect/view.h"

static void slots_json(struct inspect_view *view, const struct kage_inspect_slot *slots, uint32_t count)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < count; i++) {
        const struct kage_inspect_slot *s = &slots[i];
        json_array_append_new(list, json_pack("{s:o, s:o, s:o, s:o, s:b, s:b, s:o, s:{s:o, s:o, s:o}}", "slot", view_number(s->id), "gpa",
                                              view_hex(s->gpa), "bytes", view_number(s->bytes), "host", view_hex(s->hva), "read_only",
                                              (s->flags & KVM_MEM_READONLY) != 0, "log_dirty_pages", (s->flags & KVM_MEM_LOG_DIRTY_PAGES) != 0,
                                              "dirty_pages", view_number(s->dirty_pages), "mapped", "4k", view_number(s->pages[0]), "2m",
                                              view_number(s->pages[1]), "1g", view_number(s->pages[2])));
    }
    json_object_set_new(view->json, "slots", list);
}

int view_slots(struct inspect_view *view, struct error *error)
{
    static const char *const all[] = {">slot", "guest-physical", "to", ">bytes", "host", "flags", ">4K", ">2M", ">1G", ">mapped", NULL};
    static const char *const few[] = {">slot", "guest-physical", ">bytes", "host", "|flags", ">4K", ">2M", ">1G", ">mapped", NULL};
    bool narrow = out_is_narrow(&view->out);
    void *data;
    uint32_t count;

    if (view_list(view, KAGE_INSPECT_SLOTS, 0, sizeof(struct kage_inspect_slot), &data, &count, error) != 0) {
        return -1;
    }
    const struct kage_inspect_slot *slots = data;
    if (view->json != NULL) {
        slots_json(view, slots, count);
        free(data);
        return 0;
    }
    struct table table;
    out_heading(&view->out, "Memory slots");
    table_begin(&table, &view->out, narrow ? few : all);
    for (uint32_t i = 0; i < count; i++) {
        const struct kage_inspect_slot *s = &slots[i];
        char a[OUT_NUMBER];
        uint64_t mapped = (s->pages[0] << 12) + (s->pages[1] << 21) + (s->pages[2] << 30);
        mapped = mapped < s->bytes ? mapped : s->bytes;
        table_cell(&table, OUT_NAME, "%u", s->id);
        table_cell(&table, OUT_PLAIN, "0x%010" PRIx64, (uint64_t)s->gpa);
        if (!narrow) {
            table_cell(&table, OUT_PLAIN, "0x%010" PRIx64, (uint64_t)(s->gpa + s->bytes - 1));
        }
        table_cell(&table, OUT_PLAIN, "%s", out_bytes(a, s->bytes));
        table_cell(&table, OUT_PLAIN, "0x%012" PRIx64, (uint64_t)s->hva);
        if ((s->flags & KVM_MEM_LOG_DIRTY_PAGES) != 0) {
            table_cell(&table, OUT_NAME, "%slog: %s dirty", (s->flags & KVM_MEM_READONLY) != 0 ? "ro, " : "", out_count(a, s->dirty_pages));
        } else {
            table_cell(&table, OUT_PLAIN, "%s", (s->flags & KVM_MEM_READONLY) != 0 ? "ro" : "");
        }
        for (unsigned size = 0; size < 3; size++) {
            table_cell(&table, s->pages[size] != 0 ? OUT_PLAIN : OUT_DIM, "%s", out_count(a, s->pages[size]));
        }
        table_cell(&table, OUT_PLAIN, "%.0f%%", s->bytes != 0 ? 100.0 * (double)mapped / (double)s->bytes : 0.0);
    }
    table_end(&table);
    free(data);
    return 0;
}
