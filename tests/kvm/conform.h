/* SPDX-License-Identifier: MIT */
/*
 * The conformance suite's frame. A theme is a table of rows; each row runs in a process of its own, with a time limit, so that
 * one that dies or hangs fails alone. A row passes unless a check fails; differences.c says where an implementation
 * other than libkage is expected to answer otherwise, and why.
 */
#ifndef KVM_CONFORM_H
#define KVM_CONFORM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kage.h"

#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

/* ---- the implementation under test ---- */

enum implementation {
    IMPL_LINKED = 1,    /* libkage, called */
    IMPL_PRELOADED = 2, /* libkage behind the system's own calls */
    IMPL_KERNEL = 4,    /* the kernel's */
    IMPL_EMULATING = 8, /* the kernel's without vmx or svm: it emulates guest kernels; always with IMPL_KERNEL */
};
#define IMPL_KAGE (IMPL_LINKED | IMPL_PRELOADED)

extern const struct kvm_backend *kvm; /* plain functions; only these touch a handle */
extern unsigned implementation;       /* enum implementation, or-ed */

/* ---- rows ---- */

struct theme {
    const char *name;
    size_t count;
    const char *(*row_name)(size_t row);
    void (*run)(size_t row);
};

/* What the program has to run. */
extern const struct theme *const themes[];
extern const size_t theme_count;

struct row {
    const char *name;
    void (*run)(void);
};

/* A theme whose rows are functions. */
#define THEME(title, rows)                                                                                                       \
    static const char *rows##_name(size_t row) { return rows[row].name; }                                                         \
    static void rows##_run(size_t row) { rows[row].run(); }                                                                       \
    const struct theme theme_##title = { #title, COUNT_OF(rows), rows##_name, rows##_run }

/* ---- where implementations differ (differences.c) ---- */

enum difference_kind { DIFFERS_SKIP, DIFFERS_VALUE };
struct difference {
    const char *key;  /* "THEME/ROW", or "THEME/ROW:CHECK" of EXPECT; a pattern of fnmatch(3) */
    unsigned where;   /* enum implementation: applies if any of these is running */
    enum difference_kind kind;
    long value;       /* DIFFERS_VALUE: its answer */
    const char *why;
};
extern const struct difference differences[];
extern const size_t difference_count;

/* ---- checks: the first that fails ends the row ---- */

_Noreturn void check_failed(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
_Noreturn void row_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* `want`, or what differences.c names for the running row's check `what` on this implementation. */
void check_expected(const char *file, int line, const char *what, long got, long want);

#define CHECK(condition) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, "%s", #condition))
#define CHECK_EQ(got, want) check_equal(__FILE__, __LINE__, #got, (long long)(got), (long long)(want))
/* A call that answers with 0 or more; its answer. */
#define CHECK_OK(call) check_ok(__FILE__, __LINE__, #call, call)
/* A check that differences.c may name. */
#define EXPECT(what, got, want) check_expected(__FILE__, __LINE__, what, (long)(got), (long)(want))

static inline void check_equal(const char *file, int line, const char *text, long long got, long long want)
{
    if (got != want)
        check_failed(file, line, "%s is %lld (0x%llx), not %lld (0x%llx)", text, got, (unsigned long long)got, want,
                     (unsigned long long)want);
}

static inline int check_ok(const char *file, int line, const char *text, int result)
{
    if (result < 0)
        check_failed(file, line, "%s: %d", text, result);
    return result;
}

/* ---- calls ---- */

/* The ioctl's answer, or -errno. */
int ask(int handle, unsigned long request, void *arg);
static inline int ask_number(int handle, unsigned long request, uintptr_t number)
{
    return ask(handle, request, (void *)number);
}

uint64_t now_ns(void);
void sleep_ms(unsigned ms);

#endif
