/* SPDX-License-Identifier: MIT */
/*
 * KVM_CAP_DISABLE_QUIRKS2: each quirk with a visible effect, on (as it is at first) and disabled.
 */
#include "kvm_client.h"

GUEST_CODE(vmmcall_code, ".code16", "mov $99, %eax; vmmcall; out %al, $0x80; mov $99, %eax; vmcall; out %al, $0x80");

GUEST_CODE(out_7e_code, ".code16", "out %al, $0x7e; out %al, $0x7f");
GUEST_CODE(apic_code, ".code64", "mov 0x100020, %eax; out %al, $0x80; jmp .");
GUEST_CODE(monitor_code, ".code16", "1: mov $1, %eax; xor %ecx, %ecx; cpuid; out %al, $0x80; jmp 1b");

static int setup_vm(void **state)
{
    struct client *c = malloc(sizeof(*c));

    client_new_vm(c);
    c->vcpu = -1;
    assert_int_equal(client_slot(c, 0, 0, CLIENT_HOLE, 0), 0);
    *state = c;
    return 0;
}

/* Of VMCALL and VMMCALL one is foreign to the host: without the quirk it is #UD. */
static void test_hypercall_quirk(void **state)
{
    struct client *c = *state;

    client_new_vcpu(c);
    client_load_16(c, 0x1000, vmmcall_code, GUEST_BYTES(vmmcall_code));
    memcpy(c->memory + 0x3000, (const uint8_t[]){ 0xe6, 0x81, 0xf4 }, 3); /* #UD: out 81h */
    memcpy(c->memory + 6 * 4, (const uint8_t[]){ 0x00, 0x30, 0x00, 0x00 }, 4);
    client_run(c, KVM_EXIT_IO);
    assert_int_equal(c->run->io.port, 0x80);
    client_run(c, KVM_EXIT_IO);
    assert_int_equal(c->run->io.port, 0x80);
    unsigned ud = 0;
    assert_int_equal(client_cap(c->vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_FIX_HYPERCALL_INSN), 0);
    for (unsigned part = 0; part < 2; part++) {
        client_load_16(c, (uint16_t)0x1000, vmmcall_code, GUEST_BYTES(vmmcall_code));
        struct kvm_regs regs = { .rip = 0x1000 + part * (GUEST_BYTES(vmmcall_code) / 2), .rsp = 0x8000, .rflags = 2 };
        assert_int_equal(ask(c->vcpu, KVM_SET_REGS, &regs), 0);
        client_run(c, KVM_EXIT_IO);
        ud += c->run->io.port == 0x81;
    }
    assert_int_equal(ud, 1);
}

static void test_lint0_quirk(void **state)
{
    struct client *c = *state;
    struct kvm_lapic_state lapic;
    uint32_t lvt0;

    for (int disabled = 0; disabled < 2; disabled++) {
        int vm = ask(c->system, KVM_CREATE_VM, NULL);
        assert_int_equal(ask(vm, KVM_CREATE_IRQCHIP, NULL), 0);
        if (disabled)
            assert_int_equal(client_cap(vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_LINT0_REENABLED), 0);
        int vcpu = ask(vm, KVM_CREATE_VCPU, NULL);
        assert_int_equal(ask(vcpu, KVM_GET_LAPIC, &lapic), 0);
        memcpy(&lvt0, lapic.regs + 0x350, 4);
        assert_int_equal(lvt0, disabled ? 0x10000 : 0x700);
        kvm->close(vcpu);
        kvm->close(vm);
    }
}

/* At the exit of an OUT to port 7eh RIP stands behind it already. */
static void test_out_7e(void **state)
{
    struct client *c = *state;
    struct kvm_regs regs;

    client_new_vcpu(c);
    for (int disabled = 0; disabled < 2; disabled++) {
        if (disabled)
            assert_int_equal(client_cap(c->vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_OUT_7E_INC_RIP), 0);
        client_load_16(c, 0x1000, out_7e_code, GUEST_BYTES(out_7e_code));
        for (int port = 0x7e; port < 0x80; port++) {
            client_run(c, KVM_EXIT_IO);
            assert_int_equal(c->run->io.port, port);
            assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &regs), 0);
            assert_int_equal(regs.rip, 0x1000 + 2 * (port - 0x7e) + (port == 0x7e && !disabled ? 2 : 0));
        }
    }
}

/* The page of a local APIC in x2APIC mode: all ones, or the client's. (The APIC is moved to where this guest has a page.) */
static void test_mmio_hole(void **state)
{
    struct client *c = *state;
    struct kvm_regs regs;

    for (int disabled = 0; disabled < 2; disabled++) {
        struct client n;
        struct kvm_sregs sregs;
        client_new_vm(&n);
        assert_int_equal(ask(n.vm, KVM_CREATE_IRQCHIP, NULL), 0);
        if (disabled)
            assert_int_equal(client_cap(n.vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_LAPIC_MMIO_HOLE), 0);
        assert_int_equal(client_slot(&n, 0, 0, 0x100000, 0), 0);
        client_new_vcpu(&n);
        client_supported_cpuid(&n);
        client_load_64(&n, 0x10000, apic_code, GUEST_BYTES(apic_code));
        assert_int_equal(ask(n.vcpu, KVM_GET_SREGS, &sregs), 0);
        sregs.apic_base = 0x100000 | 0xd00;
        assert_int_equal(ask(n.vcpu, KVM_SET_SREGS, &sregs), 0);
        client_run(&n, disabled ? KVM_EXIT_MMIO : KVM_EXIT_IO);
        assert_int_equal(ask(n.vcpu, KVM_GET_REGS, &regs), 0);
        if (disabled)
            assert_int_equal(n.run->mmio.phys_addr, 0x100020);
        else
            assert_int_equal(regs.rax, 0xffffffff);
        client_free(&n);
    }
    (void)c;
}

/* CPUID's MONITOR bit: the client's, or that of IA32_MISC_ENABLE. */
static void test_monitor_bit(void **state)
{
    struct client *c = *state;
    struct kvm_regs regs;

    client_new_vcpu(c);
    client_supported_cpuid(c);
    assert_int_equal(client_cap(c->vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT), 0);
    client_load_16(c, 0x1000, monitor_code, GUEST_BYTES(monitor_code));
    for (uint64_t on = 0; on < 4; on++) {
        client_set_msr(c, 0x1a0, 1 | (on & 1) << 18);
        client_run(c, KVM_EXIT_IO);
        assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &regs), 0);
        assert_int_equal(regs.rcx >> 3 & 1, on & 1);
    }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup_vm, client_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_hypercall_quirk), TEST(test_lint0_quirk), TEST(test_out_7e), TEST(test_mmio_hole), TEST(test_monitor_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
