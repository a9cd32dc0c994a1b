/* SPDX-License-Identifier: MIT */
/*
 * State round trips, SET then GET, for every pair of ioctls, and the state of a new vCPU. GET, new vCPU, SET, run is
 * restore.c.
 */
#include <string.h>

#include "machine.h"

/* SET, then GET into fresh memory: the same bytes. */
static void round_trip(int handle, unsigned long set, unsigned long get, const void *in, void *out, size_t bytes)
{
    CHECK_OK(ask(handle, set, (void *)(uintptr_t)in));
    memset(out, 0xcc, bytes);
    CHECK_OK(ask(handle, get, out));
    for (size_t i = 0; i < bytes; i++)
        if (((const uint8_t *)in)[i] != ((const uint8_t *)out)[i])
            check_failed(__FILE__, __LINE__, "byte %zu of %zu is 0x%x, not 0x%x", i, bytes, ((const uint8_t *)out)[i],
                         ((const uint8_t *)in)[i]);
}

static void regs(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_regs in, out;

    memset(&in, 0x5a, sizeof(in));
    in.rip = 0x1234567;
    in.rflags = 0x246;
    round_trip(m.vcpu[0], KVM_SET_REGS, KVM_GET_REGS, &in, &out, sizeof(in));
}

/* Bit 1 of RFLAGS is always one. */
static void rflags_fixed(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_regs regs = machine_regs(&m, 0);

    regs.rflags = 0;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    CHECK_EQ(machine_regs(&m, 0).rflags, 2);
}

static void sregs(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 1);
    struct kvm_sregs in, out;

    machine_cpuid(&m, 0);
    machine_long_mode(&m, 0, GPA_CODE);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &in));
    in.cr2 = 0x123456789000;
    in.cr8 = 5;
    in.fs.base = 0x7fff12345678;
    in.gs.base = 0xffff888000000000;
    in.ldt = (struct kvm_segment){ .base = 0x3000, .limit = 0xff, .selector = 0x20, .type = 2, .present = 1 };
    in.gdt.base = 0xffff800000001000;
    in.gdt.limit = 0x7f;
    round_trip(m.vcpu[0], KVM_SET_SREGS, KVM_GET_SREGS, &in, &out, sizeof(in));
}

/* Bits 63:32 of CR0 and NW without CD; PG without PE; long mode without PAE, without LMA, LMA without paging. */
static void sregs_refused(void)
{
    static const struct {
        const char *what;
        uint64_t cr0, cr4, efer;
    } bad[] = {
        { "pg without pe", 0x80000010, 0x20, 0 },      { "nw without cd", 0x20000011, 0, 0 },
        { "cr0 bit 32", 0x100000011, 0, 0 },           { "lme pg without pae", 0x80000011, 0, 0x500 },
        { "lme pg without lma", 0x80000011, 0x20, 0x100 }, { "lma without pg", 0x11, 0x20, 0x500 },
        { "cr4 bit 40", 0x11, 1ull << 40, 0 },
    };
    struct machine m = machine_new(0, 1);
    struct kvm_sregs good, sregs, after;

    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &good));
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        sregs = good;
        sregs.cr0 = bad[i].cr0;
        sregs.cr4 = bad[i].cr4;
        sregs.efer = bad[i].efer;
        EXPECT(bad[i].what, ask(m.vcpu[0], KVM_SET_SREGS, &sregs), -EINVAL);
        CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &after)); /* nothing has changed */
        CHECK_EQ(memcmp(&good, &after, sizeof(good)), 0);
    }
}

static void sregs_interrupt_bitmap(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_sregs in, out;
    struct kvm_vcpu_events events;

    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &in));
    in.interrupt_bitmap[0x41 / 64] = 1ull << (0x41 % 64);
    CHECK_OK(ask(m.vcpu[0], KVM_SET_SREGS, &in));
    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &out));
    CHECK_EQ(out.interrupt_bitmap[1], 2);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    CHECK_EQ(events.interrupt.injected, 1);
    CHECK_EQ(events.interrupt.nr, 0x41);
}

static void sregs2(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 1);
    struct kvm_sregs2 in, out;

    machine_cpuid(&m, 0);
    machine_long_mode(&m, 0, GPA_CODE);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS2, &in));
    CHECK_EQ(in.flags, 0);
    in.cr3 = 0x5000;
    round_trip(m.vcpu[0], KVM_SET_SREGS2, KVM_GET_SREGS2, &in, &out, sizeof(in));
    in.flags = 2;
    CHECK_EQ(ask(m.vcpu[0], KVM_SET_SREGS2, &in), -EINVAL);
    in.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID; /* not of IA-32e paging */
    CHECK_EQ(ask(m.vcpu[0], KVM_SET_SREGS2, &in), -EINVAL);
}

static void fpu(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_fpu in = { .fcw = 0x37f, .fsw = 0x3800, .ftwx = 0x80, .last_opcode = 0x123, .last_ip = 0x1000, .last_dp = 0x2000,
                          .mxcsr = 0x1fa0 };
    struct kvm_fpu out;

    memset(in.xmm, 0xa5, sizeof(in.xmm));
    memset(in.fpr[0], 0x3c, 10);
    round_trip(m.vcpu[0], KVM_SET_FPU, KVM_GET_FPU, &in, &out, offsetof(struct kvm_fpu, mxcsr));
    EXPECT("mxcsr", out.mxcsr, 0x1fa0);
}

/* KVM_SET_XSAVE of what KVM_GET_XSAVE said; KVM_GET_XSAVE2 begins with the same, and says all its size. */
static void xsave(void)
{
    struct machine m = machine_new(0, 1);
    int bytes = CHECK_OK(ask_number(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2));
    struct kvm_xsave *a = machine_anonymous(65536), *b = machine_anonymous(65536);

    CHECK(bytes <= 65536);
    machine_cpuid(&m, 0);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_XSAVE, a));
    CHECK_EQ(a->region[6], 0x1f80);
    a->region[0] = 0x27f;
    a->region[40] = 0x12345678; /* XMM0 */
    a->region[128] |= 3;        /* XSTATE_BV */
    CHECK_OK(ask(m.vcpu[0], KVM_SET_XSAVE, a));
    CHECK_OK(ask(m.vcpu[0], KVM_GET_XSAVE2, b));
    CHECK_EQ(memcmp(a, b, sizeof(*a)), 0);
}

static void xcrs(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_xcrs xcrs;

    machine_cpuid(&m, 0);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_XCRS, &xcrs));
    CHECK_EQ(xcrs.nr_xcrs, 1);
    CHECK_EQ(xcrs.xcrs[0].xcr, 0);
    CHECK_EQ(xcrs.xcrs[0].value, 1);
    xcrs.xcrs[0].value = 3;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_XCRS, &xcrs));
    xcrs.xcrs[0].value = 5; /* AVX without SSE */
    CHECK_EQ(ask(m.vcpu[0], KVM_SET_XCRS, &xcrs), -EINVAL);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_XCRS, &xcrs));
    CHECK_EQ(xcrs.xcrs[0].value, 3);
}

static void debugregs(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_debugregs in = { .db = { 0x1000, 0x2000, 0x3000, 0x4000 }, .dr6 = 0xffff0ff1, .dr7 = 0x455 }, out;

    round_trip(m.vcpu[0], KVM_SET_DEBUGREGS, KVM_GET_DEBUGREGS, &in, &out, sizeof(in));
}

static void events(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_vcpu_events in, out;

    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &in));
    CHECK_EQ(in.flags & KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SHADOW);
    CHECK_EQ(in.exception.injected | in.interrupt.injected | in.nmi.injected | in.nmi.pending | in.nmi.masked, 0);
    in.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    in.exception.injected = 1;
    in.exception.nr = 13;
    in.exception.has_error_code = 1;
    in.exception.error_code = 0x18;
    in.interrupt.injected = 0;
    in.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
    in.nmi.pending = 1;
    in.nmi.masked = 1;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_VCPU_EVENTS, &in));
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &out));
    CHECK_EQ(out.exception.injected, 1);
    CHECK_EQ(out.exception.nr, 13);
    CHECK_EQ(out.exception.error_code, 0x18);
    EXPECT("nmi pending", out.nmi.pending, 1);
    EXPECT("nmi masked", out.nmi.masked, 1);
    EXPECT("shadow", out.interrupt.shadow, KVM_X86_SHADOW_INT_STI);
}

static void events_payload(void)
{
    struct machine m = machine_new(0, 0);

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_EXCEPTION_PAYLOAD, 1));
    machine_add_vcpu(&m, 0);
    struct kvm_vcpu_events in, out;
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &in));
    CHECK_EQ(in.flags & KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_PAYLOAD);
    in.exception.pending = 1;
    in.exception.nr = 14;
    in.exception.has_error_code = 1;
    in.exception.error_code = 2;
    in.exception_has_payload = 1;
    in.exception_payload = 0xdeadbeef000;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_VCPU_EVENTS, &in));
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &out));
    CHECK_EQ(out.exception.pending, 1);
    CHECK_EQ(out.exception.injected, 0);
    CHECK_EQ(out.exception_has_payload, 1);
    CHECK_EQ(out.exception_payload, 0xdeadbeef000);
    in.exception.injected = 1; /* and pending, which wins */
    CHECK_OK(ask(m.vcpu[0], KVM_SET_VCPU_EVENTS, &in));
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &out));
    CHECK_EQ(out.exception.pending, 1);
    CHECK_EQ(out.exception.injected, 0);
}

static void events_triple_fault(void)
{
    struct machine m = machine_new(0, 0);

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1));
    machine_add_vcpu(&m, 0);
    struct kvm_vcpu_events events;
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    CHECK_EQ(events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT, KVM_VCPUEVENT_VALID_TRIPLE_FAULT);
    events.triple_fault.pending = 1;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_VCPU_EVENTS, &events));
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    CHECK_EQ(events.triple_fault.pending, 1);
    RUN_TO(&m, 0, KVM_EXIT_SHUTDOWN);
}

static void mp_state(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 2);
    struct kvm_mp_state state = { 99 };

    CHECK_OK(ask(m.vcpu[0], KVM_GET_MP_STATE, &state));
    CHECK_EQ(state.mp_state, KVM_MP_STATE_RUNNABLE);
    CHECK_OK(ask(m.vcpu[1], KVM_GET_MP_STATE, &state));
    CHECK_EQ(state.mp_state, KVM_MP_STATE_UNINITIALIZED);
    for (uint32_t value = KVM_MP_STATE_RUNNABLE; value <= KVM_MP_STATE_HALTED; value++) {
        state.mp_state = value;
        CHECK_OK(ask(m.vcpu[1], KVM_SET_MP_STATE, &state));
        CHECK_OK(ask(m.vcpu[1], KVM_GET_MP_STATE, &state));
        CHECK_EQ(state.mp_state, value);
    }
}

static void mp_state_without_chip(void)
{
    struct machine m = machine_new(0, 2);
    struct kvm_mp_state state = { 99 };

    CHECK_OK(ask(m.vcpu[1], KVM_GET_MP_STATE, &state));
    CHECK_EQ(state.mp_state, KVM_MP_STATE_RUNNABLE);
    CHECK_OK(ask(m.vcpu[1], KVM_SET_MP_STATE, &state));
}

static uint32_t lapic_word(const struct kvm_lapic_state *lapic, unsigned offset)
{
    uint32_t value;

    memcpy(&value, lapic->regs + offset, sizeof(value));
    return value;
}

static void lapic(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 2);
    struct kvm_lapic_state in, out;
    const uint32_t lint0 = 0x700, svr = 0x1ff;

    CHECK_OK(ask(m.vcpu[1], KVM_GET_LAPIC, &in));
    CHECK_EQ(lapic_word(&in, 0x20), 1u << 24); /* ID */
    CHECK_EQ(lapic_word(&in, 0xf0), 0xff);     /* SVR: disabled by software */
    memcpy(in.regs + 0x350, &lint0, 4);
    memcpy(in.regs + 0xf0, &svr, 4);
    CHECK_OK(ask(m.vcpu[1], KVM_SET_LAPIC, &in));
    CHECK_OK(ask(m.vcpu[1], KVM_GET_LAPIC, &out));
    CHECK_EQ(lapic_word(&out, 0x350), lint0);
    CHECK_EQ(lapic_word(&out, 0xf0), svr);
}

static void irqchip_states(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 1);

    for (uint32_t chip = 0; chip < 3; chip++) {
        struct kvm_irqchip in = { .chip_id = chip }, out = { .chip_id = chip };
        CHECK_OK(ask(m.vm, KVM_GET_IRQCHIP, &in));
        if (chip == KVM_IRQCHIP_IOAPIC)
            in.chip.ioapic.redirtbl[5].bits = 0x10031;
        else
            in.chip.pic.imr = 0x5a, in.chip.pic.irq_base = 0x30;
        CHECK_OK(ask(m.vm, KVM_SET_IRQCHIP, &in));
        CHECK_OK(ask(m.vm, KVM_GET_IRQCHIP, &out));
        CHECK_EQ(memcmp(&in, &out, sizeof(in)), 0);
    }
}

static void pit(void)
{
    struct machine m = machine_new(WITH_IRQCHIP | WITH_PIT, 1);
    struct kvm_pit_state2 in, out;
    struct kvm_pit_state old;

    CHECK_OK(ask(m.vm, KVM_GET_PIT2, &in));
    in.channels[2].mode = 3;
    in.channels[2].gate = 1;
    in.channels[2].count = 0x1234;
    in.flags = KVM_PIT_FLAGS_HPET_LEGACY;
    CHECK_OK(ask(m.vm, KVM_SET_PIT2, &in));
    CHECK_OK(ask(m.vm, KVM_GET_PIT2, &out));
    CHECK_EQ(out.channels[2].mode, 3);
    CHECK_EQ(out.channels[2].count, 0x1234);
    CHECK_EQ(out.flags & KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_FLAGS_HPET_LEGACY);
    CHECK_OK(ask(m.vm, KVM_GET_PIT, &old));
    CHECK_EQ(old.channels[2].count, 0x1234);
    old.channels[2].count = 0x4321;
    CHECK_OK(ask(m.vm, KVM_SET_PIT, &old));
    CHECK_OK(ask(m.vm, KVM_GET_PIT2, &out));
    CHECK_EQ(out.channels[2].count, 0x4321);
}

/* SDM 3A table 9-1, and an APIC base that says which vCPU boots. */
static void reset_state(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 2);
    struct kvm_sregs sregs;
    struct kvm_regs regs = machine_regs(&m, 0);

    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &sregs));
    CHECK_EQ(regs.rip, 0xfff0);
    CHECK_EQ(regs.rflags, 2);
    CHECK_EQ(sregs.cs.selector, 0xf000);
    CHECK_EQ(sregs.cs.base, 0xffff0000u);
    CHECK_EQ(sregs.cr0, 0x60000010);
    CHECK_EQ(sregs.cr4 | sregs.efer, 0);
    CHECK_EQ(sregs.apic_base, 0xfee00900u);
    CHECK_OK(ask(m.vcpu[1], KVM_GET_SREGS, &sregs));
    CHECK_EQ(sregs.apic_base, 0xfee00800u);
}

static void boot_cpu_id(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 0);
    struct kvm_mp_state state;

    CHECK_OK(ask_number(m.vm, KVM_SET_BOOT_CPU_ID, 1));
    machine_add_vcpu(&m, 0);
    machine_add_vcpu(&m, 1);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_MP_STATE, &state));
    CHECK_EQ(state.mp_state, KVM_MP_STATE_UNINITIALIZED);
    CHECK_OK(ask(m.vcpu[1], KVM_GET_MP_STATE, &state));
    CHECK_EQ(state.mp_state, KVM_MP_STATE_RUNNABLE);
}

static void translate(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_translation where = { .linear_address = 0x123456 };

    CHECK_OK(ask(m.vcpu[0], KVM_TRANSLATE, &where)); /* no paging */
    CHECK(where.valid && where.physical_address == 0x123456);
    machine_cpuid(&m, 0);
    machine_long_mode(&m, 0, GPA_CODE);
    CHECK_OK(ask(m.vcpu[0], KVM_TRANSLATE, &where));
    CHECK(where.valid && where.physical_address == 0x123456);
    where.linear_address = 0x123456789000;
    CHECK_OK(ask(m.vcpu[0], KVM_TRANSLATE, &where));
    CHECK(!where.valid);
}

static void tsc_offset(void)
{
    struct machine m = machine_new(0, 1);
    uint64_t offset = 0, again = 0;
    struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset };

    CHECK_OK(ask(m.vcpu[0], KVM_HAS_DEVICE_ATTR, &attr));
    CHECK_OK(ask(m.vcpu[0], KVM_GET_DEVICE_ATTR, &attr));
    offset += 1000000;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_DEVICE_ATTR, &attr));
    attr.addr = (uintptr_t)&again;
    CHECK_OK(ask(m.vcpu[0], KVM_GET_DEVICE_ATTR, &attr));
    CHECK_EQ(again, offset);
}

static const struct row rows[] = {
    { "regs", regs }, { "rflags fixed", rflags_fixed }, { "sregs", sregs }, { "sregs refused", sregs_refused },
    { "sregs interrupt bitmap", sregs_interrupt_bitmap }, { "sregs2", sregs2 }, { "fpu", fpu }, { "xsave", xsave }, { "xcrs", xcrs },
    { "debugregs", debugregs }, { "events", events }, { "events payload", events_payload },
    { "events triple fault", events_triple_fault }, { "mp state", mp_state }, { "mp state without chip", mp_state_without_chip },
    { "lapic", lapic }, { "irqchip states", irqchip_states }, { "pit", pit }, { "reset state", reset_state },
    { "boot cpu id", boot_cpu_id }, { "translate", translate }, { "tsc offset", tsc_offset },
};
THEME(state, rows);
