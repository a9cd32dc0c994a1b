/* SPDX-License-Identifier: MIT */
/* MSR lists, KVM_GET_MSRS and KVM_SET_MSRS, the filter and the exits of KVM_CAP_X86_USER_SPACE_MSR (api.rst 4.3, 4.18, 4.97, 6.x). */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

#define MSR_SYSENTER_CS 0x174u
#define MSR_NOWHERE 0x12345678u
#define MSR_KERNEL_GS 0xc0000102u
#define MSR_PLATFORM 0xceu
#define MSR_PAT 0x277u
#define VECTOR_GP 13

/* RDMSR of ECX, the low byte to port 80h; again. Or WRMSR of EDX:EAX, then a byte to port 81h. #GP: EEh to port 82h. */
GUEST(rdmsr, 64, "1: rdmsr; out %al, $0x80; jmp 1b");
GUEST(wrmsr, 64, "1: wrmsr; out %al, $0x81; jmp 1b");
GUEST(fault, 64, "mov $0xee, %al; out %al, $0x82; hlt");

static struct machine msr_machine(const uint8_t *code, size_t bytes, uint32_t index, uint64_t value)
{
    struct machine m = machine_boot(0, code, bytes);
    struct kvm_regs regs = machine_regs(&m, 0);

    machine_load(&m, GPA_HANDLER, GUEST_BYTES(fault));
    machine_gate(&m, VECTOR_GP, GPA_HANDLER);
    regs.rcx = index;
    regs.rax = (uint32_t)value;
    regs.rdx = value >> 32;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    return m;
}

static struct kvm_msr_list *msr_list(int system, unsigned long request)
{
    struct kvm_msr_list probe = { 0 };

    CHECK_EQ(ask(system, request, &probe), -E2BIG);
    CHECK(probe.nmsrs > 0 && probe.nmsrs < 1000);
    struct kvm_msr_list *list = calloc(1, sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]));
    list->nmsrs = probe.nmsrs;
    CHECK_OK(ask(system, request, list));
    CHECK_EQ(list->nmsrs, probe.nmsrs);
    return list;
}

/* Every MSR of the list can be read by the client, and what was read can be set. */
static void list_round_trip(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 1);
    const struct kvm_msr_list *list = msr_list(m.system, KVM_GET_MSR_INDEX_LIST);
    uint64_t mce = 0x10a;

    machine_cpuid(&m, 0);
    CHECK_OK(ask(m.vcpu[0], KVM_X86_SETUP_MCE, &mce));
    struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + list->nmsrs * sizeof(msrs->entries[0]));
    msrs->nmsrs = list->nmsrs;
    for (uint32_t i = 0; i < list->nmsrs; i++)
        msrs->entries[i].index = list->indices[i];
    int done = ask(m.vcpu[0], KVM_GET_MSRS, msrs);
    if (done != (int)list->nmsrs)
        check_failed(__FILE__, __LINE__, "KVM_GET_MSRS stops at 0x%x", done < 0 ? 0 : list->indices[done]);
    done = ask(m.vcpu[0], KVM_SET_MSRS, msrs);
    if (done != (int)list->nmsrs)
        check_failed(__FILE__, __LINE__, "KVM_SET_MSRS stops at 0x%x", done < 0 ? 0 : list->indices[done]);
}

static void feature_list(void)
{
    int system = CHECK_OK(kvm->open());
    const struct kvm_msr_list *list = msr_list(system, KVM_GET_MSR_FEATURE_INDEX_LIST);
    struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + list->nmsrs * sizeof(msrs->entries[0]));

    msrs->nmsrs = list->nmsrs;
    for (uint32_t i = 0; i < list->nmsrs; i++)
        msrs->entries[i].index = list->indices[i];
    CHECK_EQ(ask(system, KVM_GET_MSRS, msrs), list->nmsrs);
}

static void feature_unknown(void)
{
    struct kvm_msrs *msrs = machine_anonymous(4096);

    msrs->nmsrs = 1;
    msrs->entries[0].index = MSR_NOWHERE;
    CHECK_EQ(ask(CHECK_OK(kvm->open()), KVM_GET_MSRS, msrs), 0);
}

/* "…return the number of MSRs successfully set": the first that is not taken ends it. */
static void stops_at_the_first_bad(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_msrs *msrs = machine_anonymous(4096);

    msrs->nmsrs = 3;
    msrs->entries[0] = (struct kvm_msr_entry){ .index = MSR_SYSENTER_CS, .data = 8 };
    msrs->entries[1].index = MSR_NOWHERE;
    msrs->entries[2] = (struct kvm_msr_entry){ .index = MSR_KERNEL_GS, .data = 0x1000 };
    CHECK_EQ(ask(m.vcpu[0], KVM_SET_MSRS, msrs), 1);
    CHECK_EQ(machine_get_msr(&m, 0, MSR_SYSENTER_CS), 8);
    CHECK_EQ(machine_get_msr(&m, 0, MSR_KERNEL_GS), 0);
    CHECK_EQ(ask(m.vcpu[0], KVM_GET_MSRS, msrs), 1);
    msrs->nmsrs = 0;
    CHECK_EQ(ask(m.vcpu[0], KVM_GET_MSRS, msrs), 0);
}

/* Values that VM entry or WRMSR would refuse are refused. */
static void bad_values(void)
{
    static const struct {
        uint32_t index;
        uint64_t value;
    } bad[] = { { MSR_PAT, 2 }, { 0xc0000080u, 1ull << 40 } };
    struct machine m = machine_new(WITH_IRQCHIP, 1);

    machine_cpuid(&m, 0);
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        if (machine_set_msr(&m, 0, bad[i].index, bad[i].value) != 0)
            check_failed(__FILE__, __LINE__, "MSR 0x%x takes 0x%llx", bad[i].index, (unsigned long long)bad[i].value);
}

/* What clients write at reset. */
static void reset_values(void)
{
    static const struct {
        uint32_t index;
        uint64_t value;
    } values[] = {
        { 0x174, 0 }, { 0x175, 0 }, { 0x176, 0 }, { 0x277, 0x0007040600070406 }, { 0xc0000081, 0 }, { 0xc0000082, 0 }, { 0xc0000083, 0 },
        { 0xc0000084, 0 }, { 0xc0000102, 0 }, { 0x10, 0 }, { 0x11, 0 }, { 0x12, 0 }, { 0x1a0, 1 }, { 0x2ff, 0 }, { 0x250, 0 },
        { 0x200, 0 }, { 0x17a, 0 }, { 0x1b, 0xfee00900 },
    };
    struct machine m = machine_new(WITH_IRQCHIP, 1);

    for (size_t i = 0; i < COUNT_OF(values); i++)
        if (machine_set_msr(&m, 0, values[i].index, values[i].value) != 1)
            check_failed(__FILE__, __LINE__, "MSR 0x%x does not take 0x%llx", values[i].index, (unsigned long long)values[i].value);
}

static void guest_rdmsr(void)
{
    struct machine m = msr_machine(GUEST_BYTES(rdmsr), MSR_SYSENTER_CS, 0);

    CHECK_EQ(machine_set_msr(&m, 0, MSR_SYSENTER_CS, 0x5a), 1);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x5a);
}

static void guest_wrmsr(void)
{
    struct machine m = msr_machine(GUEST_BYTES(wrmsr), MSR_KERNEL_GS, 0x123456789a);

    RUN_TO_OUT(&m, 0, 0x81);
    CHECK_EQ(machine_get_msr(&m, 0, MSR_KERNEL_GS), 0x123456789a);
}

static void guest_unknown_is_gp(void)
{
    struct machine m = msr_machine(GUEST_BYTES(rdmsr), MSR_NOWHERE, 0);

    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x82), 0xee);
}

/* ---- exits to the client ---- */

static struct machine exit_machine(bool write, uint32_t index, uint64_t value, uint64_t reasons)
{
    struct machine m = write ? msr_machine(GUEST_BYTES(wrmsr), index, value) : msr_machine(GUEST_BYTES(rdmsr), index, value);

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_X86_USER_SPACE_MSR, reasons));
    return m;
}

static void exit_read_unknown(void)
{
    struct machine m = exit_machine(false, MSR_NOWHERE, 0, KVM_MSR_EXIT_REASON_UNKNOWN);

    RUN_TO(&m, 0, KVM_EXIT_X86_RDMSR);
    CHECK_EQ(m.run[0]->msr.reason, KVM_MSR_EXIT_REASON_UNKNOWN);
    CHECK_EQ(m.run[0]->msr.index, MSR_NOWHERE);
    CHECK_EQ(m.run[0]->msr.error, 0);
    m.run[0]->msr.data = 0xabcdef0123456742;
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x42);
    CHECK_EQ(machine_regs(&m, 0).rdx, 0xabcdef01);
    CHECK_EQ(machine_regs(&m, 0).rax, 0x23456742);
}

static void exit_read_refused(void)
{
    struct machine m = exit_machine(false, MSR_NOWHERE, 0, KVM_MSR_EXIT_REASON_UNKNOWN);

    RUN_TO(&m, 0, KVM_EXIT_X86_RDMSR);
    m.run[0]->msr.error = 1;
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x82), 0xee);
}

static void exit_write_unknown(void)
{
    struct machine m = exit_machine(true, MSR_NOWHERE, 0x1122334455, KVM_MSR_EXIT_REASON_UNKNOWN);

    RUN_TO(&m, 0, KVM_EXIT_X86_WRMSR);
    CHECK_EQ(m.run[0]->msr.data, 0x1122334455);
    CHECK_EQ(m.run[0]->msr.reason, KVM_MSR_EXIT_REASON_UNKNOWN);
    RUN_TO_OUT(&m, 0, 0x81);
}

static void exit_write_invalid(void)
{
    struct machine m = exit_machine(true, MSR_PAT, 2, KVM_MSR_EXIT_REASON_INVAL);

    RUN_TO(&m, 0, KVM_EXIT_X86_WRMSR);
    CHECK_EQ(m.run[0]->msr.reason, KVM_MSR_EXIT_REASON_INVAL);
    m.run[0]->msr.error = 1;
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x82), 0xee);
}

static void exit_only_for_its_reason(void)
{
    struct machine m = exit_machine(false, MSR_NOWHERE, 0, KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_FILTER);

    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x82), 0xee);
}

/* ---- the filter ---- */

static void set_filter(struct machine *m, uint32_t flags, uint32_t access, uint32_t base, uint8_t *bitmap)
{
    struct kvm_msr_filter filter = { .flags = flags, .ranges = { { .flags = access, .base = base, .nmsrs = 8, .bitmap = bitmap } } };

    CHECK_OK(ask(m->vm, KVM_X86_SET_MSR_FILTER, &filter));
}

static void filter_denies_read(void)
{
    uint8_t bits = 0xfe; /* the first is denied */
    struct machine m = exit_machine(false, MSR_SYSENTER_CS, 0, KVM_MSR_EXIT_REASON_FILTER);

    set_filter(&m, 0, KVM_MSR_FILTER_READ, MSR_SYSENTER_CS, &bits);
    RUN_TO(&m, 0, KVM_EXIT_X86_RDMSR);
    CHECK_EQ(m.run[0]->msr.reason, KVM_MSR_EXIT_REASON_FILTER);
    m.run[0]->msr.data = 0x77;
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x77);
    /* the client itself is not filtered */
    CHECK_EQ(machine_set_msr(&m, 0, MSR_SYSENTER_CS, 9), 1);
    CHECK_EQ(machine_get_msr(&m, 0, MSR_SYSENTER_CS), 9);
}

static void filter_denies_write(void)
{
    uint8_t bits = 0xfe;
    struct machine m = exit_machine(true, MSR_SYSENTER_CS, 0x33, KVM_MSR_EXIT_REASON_FILTER);

    set_filter(&m, 0, KVM_MSR_FILTER_WRITE, MSR_SYSENTER_CS, &bits);
    RUN_TO(&m, 0, KVM_EXIT_X86_WRMSR);
    CHECK_EQ(m.run[0]->msr.data, 0x33);
    RUN_TO_OUT(&m, 0, 0x81);
    CHECK_EQ(machine_get_msr(&m, 0, MSR_SYSENTER_CS), 0);
}

static void filter_without_exits_is_gp(void)
{
    uint8_t bits = 0xfe;
    struct machine m = msr_machine(GUEST_BYTES(rdmsr), MSR_SYSENTER_CS, 0);

    set_filter(&m, 0, KVM_MSR_FILTER_READ, MSR_SYSENTER_CS, &bits);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x82), 0xee);
}

static void filter_default_deny(void)
{
    uint8_t bits = 0xff; /* allowed: MSR_PLATFORM and the next seven */
    struct machine m = exit_machine(false, MSR_SYSENTER_CS, 0, KVM_MSR_EXIT_REASON_FILTER);

    set_filter(&m, KVM_MSR_FILTER_DEFAULT_DENY, KVM_MSR_FILTER_READ, MSR_PLATFORM, &bits);
    RUN_TO(&m, 0, KVM_EXIT_X86_RDMSR);
    CHECK_EQ(m.run[0]->msr.reason, KVM_MSR_EXIT_REASON_FILTER);
}

/* A filter may change while a vCPU exists: the next access sees the new one. */
static void filter_changes(void)
{
    uint8_t bits = 0xfe;
    struct machine m = exit_machine(false, MSR_SYSENTER_CS, 0, KVM_MSR_EXIT_REASON_FILTER);
    struct kvm_msr_filter none = { 0 };

    CHECK_EQ(machine_set_msr(&m, 0, MSR_SYSENTER_CS, 0x11), 1);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x11);
    set_filter(&m, 0, KVM_MSR_FILTER_READ, MSR_SYSENTER_CS, &bits);
    RUN_TO(&m, 0, KVM_EXIT_X86_RDMSR);
    m.run[0]->msr.data = 0x22;
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x22);
    CHECK_OK(ask(m.vm, KVM_X86_SET_MSR_FILTER, &none));
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x11);
}

static void platform_info_off(void)
{
    struct machine m = msr_machine(GUEST_BYTES(rdmsr), MSR_PLATFORM, 0);

    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_MSR_PLATFORM_INFO, 0));
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x82), 0xee);
}

static const struct row rows[] = {
    { "list round trip", list_round_trip },
    { "feature list", feature_list },
    { "feature unknown", feature_unknown },
    { "stops at the first bad", stops_at_the_first_bad },
    { "bad values", bad_values },
    { "reset values", reset_values },
    { "guest rdmsr", guest_rdmsr },
    { "guest wrmsr", guest_wrmsr },
    { "guest unknown is gp", guest_unknown_is_gp },
    { "exit, read of unknown", exit_read_unknown },
    { "exit, read refused", exit_read_refused },
    { "exit, write of unknown", exit_write_unknown },
    { "exit, write invalid", exit_write_invalid },
    { "exit only for its reason", exit_only_for_its_reason },
    { "filter denies read", filter_denies_read },
    { "filter denies write", filter_denies_write },
    { "filter without exits is gp", filter_without_exits_is_gp },
    { "filter default deny", filter_default_deny },
    { "filter changes", filter_changes },
    { "platform info off", platform_info_off },
};
THEME(msr, rows);
