/* SPDX-License-Identifier: MIT */
/*
 * Where an implementation is known to answer otherwise than libkage, and why. docs/kvm-api.md, "Where the kernel differs", explains
 * the kernel's. Those of IMPL_EMULATING are of a /dev/kvm without vmx or svm that emulates guest kernels.
 */
#include "conform.h"

#define SKIP(key, where, why) { key, where, DIFFERS_SKIP, 0, why }
#define VALUE(key, where, value, why) { key, where, DIFFERS_VALUE, value, why }

#define NO_INSTRUCTION "its emulator does not have the instruction"
#define LOST_IS_MMIO "its emulator takes memory that is not there for a device's"
#define LATE_INTERRUPTS "interrupts are taken late, several instructions behind STI"

const struct difference differences[] = {
    /* ---- the linked library ---- */
    SKIP("handles/duplicated", IMPL_LINKED, "a program that calls libkage directly duplicates a descriptor that libkage does not know"),

    VALUE("gone/call behind *:lost", IMPL_KAGE, KVM_EXIT_IO, "code that is translated runs on until libkage is told that its page is gone"),

    /* ---- the kernel, any ---- */
    VALUE("state/fpu:mxcsr", IMPL_KERNEL, 0, "KVM_GET_FPU leaves mxcsr out"),
    VALUE("errors/interrupt twice", IMPL_KERNEL, 0, "without a chip the second KVM_INTERRUPT replaces the first"),
    SKIP("system/vm agrees", IMPL_KERNEL, "a VM's answers may be its own, as api.rst says"),
    VALUE("system/KVM_CAP_MULTI_ADDRESS_SPACE", IMPL_KERNEL, 0, "0 where it has no SMM"),
    VALUE("extras/mmu pages", IMPL_KERNEL, -ENOTTY, "KVM_GET_NR_MMU_PAGES is gone from newer kernels"),

    /* ---- a kernel that emulates guest kernels ---- */
    SKIP("extras/hypercall *", IMPL_EMULATING, "its guests have hypercalls of another kind: VMCALL and VMMCALL never end"),
    VALUE("cpuid/set and get:entries", IMPL_EMULATING, 6, "it adds leaves to the client's"),
    VALUE("cpuid/guest sees it:leaf 0xd.1", IMPL_EMULATING, 7, "leaf 0xd.1 is the host's"),
    SKIP("msr/bad values", IMPL_EMULATING, "IA32_PAT is not checked"),
    SKIP("msr/exit, write invalid", IMPL_EMULATING, "WRMSR of IA32_PAT is not checked"),
    SKIP("state/tsc offset", IMPL_EMULATING, "it cannot offset the TSC"),
    SKIP("stats/ring fills", IMPL_EMULATING, "pages are missing from a ring that was full, or the guest hangs; cause not known"),
    SKIP("race_dirty/*", IMPL_EMULATING, NO_INSTRUCTION " (FXSAVE)"),
    SKIP("race_stores/ring*", IMPL_EMULATING, "vCPUs hang behind a ring that was full; cause not known"),
    SKIP("clock/tsc set", IMPL_EMULATING, "it cannot offset the TSC"),
    SKIP("translate/*", IMPL_EMULATING, "it answers by other tables than the guest's; cause not known"),
    SKIP("race_dirty/*", IMPL_EMULATING, "its emulator gives up on one of the writes (KVM_EXIT_INTERNAL_ERROR)"),
    SKIP("restore/vector state", IMPL_EMULATING, NO_INSTRUCTION " (MOVQ of a vector register)"),
    SKIP("restore/interrupts", IMPL_EMULATING, LATE_INTERRUPTS),
    SKIP("restore/pending interrupt", IMPL_EMULATING, LATE_INTERRUPTS),
    VALUE("gone/*:lost", IMPL_EMULATING, KVM_EXIT_MMIO, LOST_IS_MMIO),
    SKIP("gone/slot of lost memory deleted", IMPL_EMULATING, LOST_IS_MMIO),
    SKIP("gone/* behind *", IMPL_EMULATING, LOST_IS_MMIO),
    SKIP("gone/ins lost", IMPL_EMULATING, LOST_IS_MMIO),
    SKIP("gone/write to read-only", IMPL_EMULATING, LOST_IS_MMIO),
    SKIP("gone/page tables", IMPL_EMULATING, LOST_IS_MMIO),
    SKIP("gone/code never there", IMPL_EMULATING, LOST_IS_MMIO),
    SKIP("run/no code", IMPL_EMULATING, "it builds its first page table in the guest's memory: ENOSPC"),
    SKIP("run/rip set while an in waits", IMPL_EMULATING, "its emulator completes the IN whose RIP was moved"),
    SKIP("events/nmi blocked", IMPL_EMULATING, "NMIs are not blocked while one is in service"),
    SKIP("events/interrupt window", IMPL_EMULATING, LATE_INTERRUPTS),
    SKIP("events/set tpr exit", IMPL_EMULATING, "MOV to CR8 is emulated without KVM_EXIT_SET_TPR"),
    SKIP("debug/single step", IMPL_EMULATING, "its emulator steps over two instructions where an exit comes between"),
    SKIP("debug/hardware breakpoint", IMPL_EMULATING, "the DR7 that it reports is the guest's"),
    SKIP("debug/watchpoint", IMPL_EMULATING, "its emulator does not look for data breakpoints"),
    SKIP("debug/*breakpoint", IMPL_EMULATING, NO_INSTRUCTION " (INT3)"),
};
const size_t difference_count = COUNT_OF(differences);
