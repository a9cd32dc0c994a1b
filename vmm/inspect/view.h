/* SPDX-License-Identifier: MIT */
/*
 * What `kage inspect` shows: each topic asks the VM for structures of kage_inspect.h and makes text or JSON of them. How the VM
 * is reached is behind a function, so that a test may ask its own process.
 */
#ifndef KAGE_INSPECT_VIEW_H
#define KAGE_INSPECT_VIEW_H

#include <jansson.h>
#include <sys/types.h>

#include <kage_inspect.h>

#include "inspect/out.h"
#include "util/error.h"

struct inspect_view {
    /* kage_inspect() at the other end: 0 or -errno; ask->data is not used, `data` has ask->bytes. */
    int (*ask)(void *opaque, struct kage_inspect *ask, void *data);
    void *opaque;
    struct out out;
    json_t *json;   /* an object: the topic adds members, and prints nothing. NULL: text */
    pid_t pid;
    uint32_t vm;
    int cpu;        /* -1: none asked for */
    bool has_gva, has_gpa, all;
    uint64_t gva, gpa;
    double interval; /* seconds since the last look, 0: the first */
    void *before;    /* of the topic: what it saw then; free() */
};

/* A topic: 0, or -1 with the error. */
typedef int view_topic(struct inspect_view *view, struct error *error);
view_topic view_overview, view_vmcs, view_ept, view_shadow, view_tlb, view_slots, view_exits, view_walk;

/* ---- Asking ---- */

/* One structure. 0 or -1 with the error. */
int view_one(struct inspect_view *view, uint32_t topic, uint32_t vcpu, void *to, size_t bytes, struct error *error);
/* All elements, with free() of *list; `address` as kage_inspect.h has it. */
int view_list(struct inspect_view *view, uint32_t topic, uint32_t vcpu, size_t bytes, void **list, uint32_t *count, struct error *error);
/* The same in the raw: `ask` filled by the caller but for topic, VM and data; *data with free(). */
int view_ask(struct inspect_view *view, struct kage_inspect *ask, void **data, struct error *error);
/* Root may look into somebody else's process: names end, and have nothing in them that a terminal would obey. */
void view_clean(char *name, size_t bytes);
/* The VM, with a bound on what the process says of itself. 0 or -1 with the error. */
int view_vm(struct inspect_view *view, struct kage_inspect_vm *vm, struct error *error);
int view_vcpu(struct inspect_view *view, uint32_t index, struct kage_inspect_vcpu *vcpu, struct error *error);
/* Adds statistics of a processor, or of the VM (KAGE_INSPECT_WHOLE_VM), to `values`, by name; one that there is not adds 0. */
int view_stats(struct inspect_view *view, uint32_t vcpu, const char *const *names, uint64_t *values, size_t count, struct error *error);
/* The processor that is asked for, or 0. */
static inline uint32_t view_cpu(const struct inspect_view *view)
{
    return view->cpu < 0 ? 0 : (uint32_t)view->cpu;
}

/* ---- JSON ---- */

/* Addresses, entries and registers are strings "0x…", since they need all 64 bits; counts are numbers. */
json_t *view_hex(uint64_t value);
json_t *view_number(uint64_t value);
json_t *view_words(const char *text, const char *separator); /* an array of the words */

#endif
