/* SPDX-License-Identifier: MIT */
/*
 * What KVM_ENABLE_CAP turns on that no other theme has (api.rst 7), KVM_CAP_SYNC_REGS (8.x), hypercalls, and the good paths of ioctls that do
 * little. A capability that reads 0 skips its row.
 */
#include <string.h>

#include <linux/kvm_para.h>

#include "machine.h"

GUEST(count, 64, "1: inc %rbx; out %al, $0x80; jmp 1b");
GUEST(halt, 64, "hlt; out %al, $0x80; hlt");
GUEST(vmcall, 64, "vmcall; mov %rax, 0x10000; out %al, $0x80; hlt");
GUEST(vmmcall, 64, "vmmcall; mov %rax, 0x10000; out %al, $0x80; hlt");
GUEST(fault, 64, "mov $0xee, %al; out %al, $0x82; hlt");
GUEST(rdmsr, 64, "rdmsr; out %al, $0x80; hlt");

static int need(struct machine *m, int cap, const char *name)
{
    int value = ask_number(m->vm, KVM_CHECK_EXTENSION, (uintptr_t)cap);

    if (value <= 0)
        row_skip("%s is 0", name);
    return value;
}
#define NEED(m, cap) need(m, cap, #cap)

/* ---- KVM_CAP_SYNC_REGS ---- */

static void sync_regs_store(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(count));

    NEED(&m, KVM_CAP_SYNC_REGS);
    m.run[0]->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    for (uint64_t i = 1; i < 4; i++) {
        RUN_TO_OUT(&m, 0, 0x80);
        struct kvm_regs regs = machine_regs(&m, 0);
        CHECK_EQ(m.run[0]->s.regs.regs.rbx, i);
        CHECK_EQ(memcmp(&m.run[0]->s.regs.regs, &regs, sizeof(regs)), 0);
        CHECK_EQ(m.run[0]->s.regs.sregs.cr3, GPA_PML4);
    }
}

static void sync_regs_load(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(count));

    NEED(&m, KVM_CAP_SYNC_REGS);
    m.run[0]->kvm_valid_regs = KVM_SYNC_X86_REGS;
    RUN_TO_OUT(&m, 0, 0x80);
    m.run[0]->s.regs.regs.rbx = 100;
    RUN_TO_OUT(&m, 0, 0x80); /* not marked: not taken */
    CHECK_EQ(m.run[0]->s.regs.regs.rbx, 2);
    m.run[0]->s.regs.regs.rbx = 100;
    m.run[0]->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_EQ(m.run[0]->s.regs.regs.rbx, 101);
    CHECK_EQ(m.run[0]->kvm_dirty_regs, 0);
}

static void sync_regs_bad(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(count));
    int mask = NEED(&m, KVM_CAP_SYNC_REGS);

    m.run[0]->kvm_valid_regs = KVM_SYNC_X86_SREGS;
    RUN_TO_OUT(&m, 0, 0x80);
    m.run[0]->s.regs.sregs.cr0 = 0x80000010; /* PG without PE */
    m.run[0]->kvm_dirty_regs = KVM_SYNC_X86_SREGS;
    CHECK_EQ(machine_run(&m, 0), -EINVAL);
    m.run[0]->kvm_dirty_regs = (uint64_t)mask + 1;
    CHECK_EQ(machine_run(&m, 0), -EINVAL);
}

/* ---- capabilities of a VM ---- */

static void hlt_without_exit(void)
{
    struct machine m = machine_new(0, 0);

    if (!(NEED(&m, KVM_CAP_X86_DISABLE_EXITS) & KVM_X86_DISABLE_EXITS_HLT))
        row_skip("KVM_CAP_X86_DISABLE_EXITS is without HLT");
    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT));
    machine_add_vcpu(&m, 0);
    machine_load(&m, GPA_CODE, GUEST_BYTES(halt));
    machine_cpuid(&m, 0);
    machine_long_mode(&m, 0, GPA_CODE);
    m.run[0]->immediate_exit = 1;
    CHECK_EQ(machine_run(&m, 0), -EINTR);
    CHECK_EQ(machine_enable_cap(m.vm, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT), -EINVAL); /* there is a vCPU */
}

/* Which of VMCALL and VMMCALL the processor has: KVM patches the other where it may, so the host's own is taken. */
static struct machine hypercall_machine(uint64_t number, uint64_t a, uint64_t b, uint64_t c)
{
    int system = CHECK_OK(kvm->open());
    const struct kvm_cpuid2 *cpuid = machine_supported_cpuid(system);
    bool intel = false;

    for (uint32_t i = 0; i < cpuid->nent; i++)
        intel = intel || (cpuid->entries[i].function == 0 && cpuid->entries[i].ebx == 0x756e6547);
    struct machine m = intel ? machine_boot(WITH_IRQCHIP, GUEST_BYTES(vmcall)) : machine_boot(WITH_IRQCHIP, GUEST_BYTES(vmmcall));
    struct kvm_regs regs = machine_regs(&m, 0);
    regs.rax = number;
    regs.rbx = a;
    regs.rcx = b;
    regs.rdx = c;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    return m;
}

static void hypercall_unknown(void)
{
    struct machine m = hypercall_machine(9999, 0, 0, 0);
    int64_t result;

    RUN_TO_OUT(&m, 0, 0x80);
    memcpy(&result, m.ram + GPA_DATA, 8);
    CHECK_EQ(result, -KVM_ENOSYS);
}

static void hypercall_exit(void)
{
    struct machine m = hypercall_machine(KVM_HC_MAP_GPA_RANGE, 0x10000, 2, 0x10);
    uint64_t result;

    if (!(NEED(&m, KVM_CAP_EXIT_HYPERCALL) & 1 << KVM_HC_MAP_GPA_RANGE))
        row_skip("KVM_CAP_EXIT_HYPERCALL is without MAP_GPA_RANGE");
    CHECK_EQ(machine_enable_cap(m.vm, KVM_CAP_EXIT_HYPERCALL, 1ull << 40), -EINVAL);
    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_EXIT_HYPERCALL, 1 << KVM_HC_MAP_GPA_RANGE));
    RUN_TO(&m, 0, KVM_EXIT_HYPERCALL);
    CHECK_EQ(m.run[0]->hypercall.nr, KVM_HC_MAP_GPA_RANGE);
    CHECK_EQ(m.run[0]->hypercall.args[0], 0x10000);
    CHECK_EQ(m.run[0]->hypercall.args[1], 2);
    CHECK_EQ(m.run[0]->hypercall.args[2], 0x10);
    m.run[0]->hypercall.ret = 0x55;
    RUN_TO_OUT(&m, 0, 0x80);
    memcpy(&result, m.ram + GPA_DATA, 8);
    CHECK_EQ(result, 0x55);
}

/* KVM_CAP_ENFORCE_PV_FEATURE_CPUID: a paravirtual MSR that CPUID does not name is not there. */
static void pv_features_enforced(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(rdmsr));
    struct kvm_cpuid2 none = { 0 };
    struct kvm_regs regs = machine_regs(&m, 0);

    machine_load(&m, GPA_HANDLER, GUEST_BYTES(fault));
    machine_gate(&m, 13, GPA_HANDLER);
    NEED(&m, KVM_CAP_ENFORCE_PV_FEATURE_CPUID);
    machine_add_vcpu(&m, 1); /* without CPUID, which no vCPU that has run may lose */
    CHECK_OK(ask(m.vcpu[1], KVM_SET_CPUID2, &none));
    CHECK_OK(machine_enable_cap(m.vcpu[1], KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1));
    machine_long_mode(&m, 1, GPA_CODE);
    regs.rcx = 0x4b564d01;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    regs.rsp += 0x1000;
    CHECK_OK(ask(m.vcpu[1], KVM_SET_REGS, &regs));
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_EQ(RUN_TO_OUT(&m, 1, 0x82), 0xee);
}

static void max_vcpu_id_twice(void)
{
    struct machine m = machine_new(0, 0);

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_MAX_VCPU_ID, 8));
    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_MAX_VCPU_ID, 8)); /* the same again */
    CHECK_EQ(machine_enable_cap(m.vm, KVM_CAP_MAX_VCPU_ID, 9), -EINVAL);
}

static void quirks(void)
{
    struct machine m = machine_new(0, 0);
    int mask = NEED(&m, KVM_CAP_DISABLE_QUIRKS2);

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_DISABLE_QUIRKS2, (uint64_t)mask & ~(uint64_t)KVM_X86_QUIRK_CD_NW_CLEARED));
}

/* ---- ioctls that do little ---- */

static void addresses(void)
{
    struct machine m = machine_new(0, 0);
    uint64_t identity = 0xfeffc000u, zero = 0;

    CHECK_OK(ask(m.vm, KVM_SET_IDENTITY_MAP_ADDR, &identity));
    CHECK_OK(ask(m.vm, KVM_SET_IDENTITY_MAP_ADDR, &zero)); /* the default again */
    CHECK_OK(ask_number(m.vm, KVM_SET_TSS_ADDR, 0xfeffd000u));
    machine_add_vcpu(&m, 0);
}

static void mmu_pages(void)
{
    struct machine m = machine_new(0, 1);

    CHECK_OK(ask_number(m.vm, KVM_SET_NR_MMU_PAGES, 1000));
    EXPECT("", ask(m.vm, KVM_GET_NR_MMU_PAGES, NULL), 1000);
}

static void tpr_and_vapic(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 1);
    struct kvm_tpr_access_ctl off = { 0 };
    struct kvm_vapic_addr address = { 0 };

    CHECK_OK(ask(m.vcpu[0], KVM_TPR_ACCESS_REPORTING, &off));
    CHECK_OK(ask(m.vcpu[0], KVM_SET_VAPIC_ADDR, &address));
}

static void old_pit(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 0);
    struct kvm_pit_state state;

    CHECK_OK(ask(m.vm, KVM_CREATE_PIT, NULL));
    CHECK_OK(ask(m.vm, KVM_GET_PIT, &state));
    CHECK_OK(ask(m.vm, KVM_SET_PIT, &state));
}

static const struct row rows[] = {
    { "sync regs store", sync_regs_store }, { "sync regs load", sync_regs_load }, { "sync regs bad", sync_regs_bad },
    { "hlt without exit", hlt_without_exit }, { "hypercall unknown", hypercall_unknown }, { "hypercall exit", hypercall_exit },
    { "pv features enforced", pv_features_enforced }, { "max vcpu id twice", max_vcpu_id_twice }, { "quirks", quirks },
    { "addresses", addresses }, { "mmu pages", mmu_pages }, { "tpr and vapic", tpr_and_vapic }, { "old pit", old_pit },
};
THEME(extras, rows);
