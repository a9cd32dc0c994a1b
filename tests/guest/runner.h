/* SPDX-License-Identifier: MIT */
/*
 * Shared by the two halves of the guest test runner: runner.c reads the index, starts one process
 * a test, and judges what it prints; vm.c is that process: one VM on a back end.
 */
#ifndef GUEST_RUNNER_H
#define GUEST_RUNNER_H

#include <stdbool.h>
#include <stdint.h>

#include "kage.h"

#define GUEST_CPUS_MAX 16u

struct guest_test {
    char name[40], image[40];
    uint64_t arg;          /* RDI at the image's entry */
    unsigned time_s;       /* wall-clock limit */
    bool on_soft, on_kvm;  /* back ends it runs on */
    bool expect_shutdown;  /* passes by KVM_EXIT_SHUTDOWN and in no other way */
    bool no_irqchip;
    bool la57;             /* the processor has 5-level paging, where the back end can give it */
    unsigned cpus;         /* 1 to GUEST_CPUS_MAX; all but the first wait for INIT and SIPI */
    unsigned ram_mib;      /* 32 to 3072: what is not touched costs nothing */
};

struct vm_options {
    const struct kvm_backend *backend;
    const char *image_dir;
    uint32_t test_flags; /* KAGE_TEST_*; 0: none */
    int mmu;             /* KAGE_MMU_*; 0: the back end's own choice */
};

/*
 * Runs one test in this process. The guest's console goes to standard output, then one line
 * "PASS end" or "FAIL end: reason". Returns 0, or -1 if the VM could not be made (said on a FAIL line).
 */
int vm_run_test(const struct vm_options *options, const struct guest_test *test);

#endif
