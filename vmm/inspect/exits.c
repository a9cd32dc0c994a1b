/* SPDX-License-Identifier: MIT */
/* `kage inspect exits`: VM exits by reason, for each processor and in all; with an interval, how many a second. */
#include <stdlib.h>
#include <string.h>

#include "inspect/view.h"

#define REASONS_MAX 256u
#define CPUS_SHOWN 5u /* with a column of their own, at most */
#define BAR 12u

/* Faults of the MMU, which are mostly mended in the middle of guest code and are then no exits. By the kernel's names. */
enum { TAKEN, FIXED, GUEST, SPURIOUS, MMIO, FAULTS };
static const char *const fault_names[FAULTS] = {"pf_taken", "pf_fixed", "pf_guest", "pf_spurious", "pf_emulate"};

struct exits {
    uint32_t cpus, first; /* how many processors, and the number of the first */
    uint32_t columns;     /* the last one is of all that have none of their own */
    struct exit_row {
        bool seen;
        char name[40];
        uint64_t total, cpu[CPUS_SHOWN];
    } rows[REASONS_MAX];
    uint64_t total;
    uint64_t faults[FAULTS];
};

static int fetch(struct inspect_view *view, struct exits *exits, struct error *error)
{
    struct kage_inspect_vm vm;

    if (view_vm(view, &vm, error) != 0) {
        return -1;
    }
    exits->first = view->cpu < 0 ? 0 : (uint32_t)view->cpu;
    exits->cpus = view->cpu < 0 ? vm.vcpus : 1;
    uint32_t room = (view->out.width - 66) / 11, most = room < CPUS_SHOWN ? room : CPUS_SHOWN;
    exits->columns = exits->cpus < most ? exits->cpus : most;
    for (uint32_t i = 0; i < exits->cpus; i++) {
        void *data;
        uint32_t count;
        if (view_stats(view, exits->first + i, fault_names, exits->faults, FAULTS, error) != 0 ||
            view_list(view, KAGE_INSPECT_EXITS, exits->first + i, sizeof(struct kage_inspect_exit), &data, &count, error) != 0) {
            return -1;
        }
        for (uint32_t e = 0; e < count; e++) {
            struct kage_inspect_exit *x = (struct kage_inspect_exit *)data + e;
            if (x->reason >= REASONS_MAX) {
                continue;
            }
            struct exit_row *row = &exits->rows[x->reason];
            row->seen = true;
            view_clean(x->name, sizeof(x->name));
            memcpy(row->name, x->name, sizeof(row->name));
            row->total += x->count;
            row->cpu[i < exits->columns ? i : exits->columns - 1] += x->count;
            exits->total += x->count;
        }
        free(data);
    }
    return 0;
}

/* Reasons that there were, the most frequent first; by the rate where there is one. */
static unsigned sort_reasons(const struct exits *now, const struct exits *before, unsigned order[REASONS_MAX])
{
    unsigned n = 0;

    for (unsigned reason = 0; reason < REASONS_MAX; reason++) {
        if (!now->rows[reason].seen) {
            continue;
        }
        uint64_t key = now->rows[reason].total - (before != NULL ? before->rows[reason].total : 0);
        unsigned at = n++;
        for (; at > 0; at--) {
            unsigned other = order[at - 1];
            uint64_t theirs = now->rows[other].total - (before != NULL ? before->rows[other].total : 0);
            if (theirs > key || (theirs == key && now->rows[other].total >= now->rows[reason].total)) {
                break;
            }
            order[at] = other;
        }
        order[at] = reason;
    }
    return n;
}

static const char *bar_of(const struct out *out, char text[4 * BAR + 1], double share)
{
    unsigned eighths = (unsigned)(share * BAR * 8 + 0.5), at = 0;

    for (unsigned i = 0; i < BAR && eighths > 0; i++) {
        if (out->utf8) {
            static const char *const blocks[] = {"▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"};
            unsigned n = eighths < 8 ? eighths : 8;
            at += (unsigned)snprintf(text + at, 4 * BAR + 1 - at, "%s", blocks[n - 1]);
            eighths -= n;
        } else {
            at += (unsigned)snprintf(text + at, 4 * BAR + 1 - at, "#");
            eighths -= eighths < 8 ? eighths : 8;
        }
    }
    text[at] = '\0';
    return text;
}

static void exits_json(struct inspect_view *view, const struct exits *now, const struct exits *before)
{
    unsigned order[REASONS_MAX], n = sort_reasons(now, NULL, order);
    json_t *list = json_array();

    for (unsigned i = 0; i < n; i++) {
        const struct exit_row *row = &now->rows[order[i]];
        json_t *one = json_pack("{s:i, s:s, s:o}", "reason", (int)order[i], "name", row->name, "count", view_number(row->total));
        if (before != NULL && view->interval > 0) {
            json_object_set_new(one, "per_second", json_real((double)(row->total - before->rows[order[i]].total) / view->interval));
        }
        json_array_append_new(list, one);
    }
    if (view->cpu >= 0) {
        json_object_set_new(view->json, "cpu", view_number(now->first));
    }
    json_object_set_new(view->json, "total", view_number(now->total));
    json_object_set_new(view->json, "mmu_faults", json_pack("{s:o, s:o, s:o, s:o, s:o}", "taken", view_number(now->faults[TAKEN]), "fixed",
                                                            view_number(now->faults[FIXED]), "guest", view_number(now->faults[GUEST]), "spurious",
                                                            view_number(now->faults[SPURIOUS]), "mmio", view_number(now->faults[MMIO])));
    json_object_set_new(view->json, "exits", list);
}

static void exits_text(struct inspect_view *view, const struct exits *now, const struct exits *before)
{
    unsigned order[REASONS_MAX], n = sort_reasons(now, before, order), columns = now->columns;
    bool per_cpu = now->cpus > 1, rates = before != NULL && view->interval > 0;
    const char *names[OUT_COLUMNS + 1];
    char cpu_names[CPUS_SHOWN][24];
    unsigned c = 0;
    struct table table;

    names[c++] = ">reason";
    names[c++] = "name";
    names[c++] = ">count";
    names[c++] = ">share";
    names[c++] = "";
    if (rates) {
        names[c++] = ">a second";
        columns = out_is_narrow(&view->out) ? 0 : columns;
    }
    for (unsigned i = 0; i < columns && per_cpu; i++) {
        bool rest = i + 1 == columns && now->cpus > columns;
        snprintf(cpu_names[i], sizeof(cpu_names[i]), rest ? ">cpu %u-%u" : ">cpu %u", i, now->cpus - 1);
        names[c++] = cpu_names[i];
    }
    names[c] = NULL;
    if (per_cpu) {
        out_heading(&view->out, "VM exits of %u processors", now->cpus);
    } else {
        out_heading(&view->out, "VM exits of processor %u", now->first);
    }
    table_begin(&table, &view->out, names);
    for (unsigned i = 0; i < n; i++) {
        const struct exit_row *row = &now->rows[order[i]];
        uint64_t delta = rates ? row->total - before->rows[order[i]].total : 0, all = rates ? now->total - before->total : now->total;
        double share = all != 0 ? (double)(rates ? delta : row->total) / (double)all : 0;
        char a[OUT_NUMBER], bar[4 * BAR + 1];
        table_cell(&table, OUT_DIM, "%u", order[i]);
        table_cell(&table, OUT_NAME, "%s", row->name);
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, row->total));
        table_cell(&table, OUT_PLAIN, "%.1f%%", 100 * share);
        table_cell(&table, OUT_GOOD, "%s", bar_of(&view->out, bar, share));
        if (rates) {
            table_cell(&table, OUT_TITLE, "%s", out_count(a, (uint64_t)((double)delta / view->interval + 0.5)));
        }
        for (unsigned cpu = 0; cpu < columns && per_cpu; cpu++) {
            table_cell(&table, OUT_DIM, "%s", out_count(a, row->cpu[cpu]));
        }
    }
    table_end(&table);
    char a[OUT_NUMBER];
    fprintf(view->out.file, "  %s in all", out_count(a, now->total));
    if (rates) {
        fprintf(view->out.file, ", %s a second", out_count(a, (uint64_t)((double)(now->total - before->total) / view->interval + 0.5)));
    }
    fputc('\n', view->out.file);
    char b[OUT_NUMBER], c2[OUT_NUMBER], d[OUT_NUMBER], e[OUT_NUMBER];
    out_paragraph(&view->out, OUT_DIM, "Mostly without an exit: %s faults of the MMU, of them %s mended, %s the guest's own, %s at MMIO, %s spurious.",
                  out_count(a, now->faults[TAKEN]), out_count(b, now->faults[FIXED]), out_count(c2, now->faults[GUEST]),
                  out_count(d, now->faults[MMIO]), out_count(e, now->faults[SPURIOUS]));
}

int view_exits(struct inspect_view *view, struct error *error)
{
    struct exits *now = calloc(1, sizeof(*now));

    if (now == NULL) {
        return error_set(error, "no memory");
    }
    if (fetch(view, now, error) != 0) {
        free(now);
        return -1;
    }
    struct exits *before = view->before;
    if (before != NULL && now->total < before->total) {
        before = NULL; /* the machine was reset */
    }
    (view->json != NULL ? exits_json : exits_text)(view, now, before);
    free(view->before);
    view->before = now;
    return 0;
}
