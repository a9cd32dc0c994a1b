/* SPDX-License-Identifier: MIT */
/*
 * Interrupts as a client with chips of its own sees them: level lines with a resampling irqfd, the EOIs of a split I/O APIC, its
 * 8259 behind our local APIC (KVM_INTERRUPT and the interrupt window), an NMI and an MSI while the vCPU is halted.
 */
#include "kvm_client.h"

#include <sys/eventfd.h>

#define COUNT 0x600

/* Halts with interrupts on; the handler counts, tells which by RBX, ends the interrupt; then OUT. */
GUEST_CODE(halt_code, ".code64", "1: sti; hlt; cli; out %al, $0x80; jmp 1b");
GUEST_CODE(handler_code, ".code64", "incq 0x600; push %rax; push %rcx; push %rdx; xor %eax, %eax; xor %edx, %edx\n"
                                    "mov $0x80b, %ecx; wrmsr; pop %rdx; pop %rcx; pop %rax; iretq");
GUEST_CODE(plain_code, ".code64", "incq 0x600; iretq");
GUEST_CODE(closed_code, ".code64", "1: out %al, $0x81; sti; nop; nop; cli; out %al, $0x80; jmp 1b");

static void start(struct client *c, bool split, const uint8_t *code, size_t bytes)
{
    struct kvm_lapic_state lapic;
    struct kvm_sregs sregs;

    client_new_vm(c);
    if (split)
        assert_int_equal(client_cap(c->vm, KVM_CAP_SPLIT_IRQCHIP, 24), 0);
    else
        assert_int_equal(ask(c->vm, KVM_CREATE_IRQCHIP, NULL), 0);
    assert_int_equal(client_slot(c, 0, 0, CLIENT_MEMORY, 0), 0);
    client_new_vcpu(c);
    client_supported_cpuid(c);
    client_load_64(c, 0x10000, code, bytes);
    memcpy(c->memory + 0x11000, handler_code, GUEST_BYTES(handler_code));
    memcpy(c->memory + 0x12000, plain_code, GUEST_BYTES(plain_code));
    client_gate_64(c, 2, 0x12000);
    client_gate_64(c, 0x33, 0x12000); /* of an 8259 */
    client_gate_64(c, 0x50, 0x11000);
    assert_int_equal(ask(c->vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.apic_base |= 0xc00;
    assert_int_equal(ask(c->vcpu, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(ask(c->vcpu, KVM_GET_LAPIC, &lapic), 0);
    memcpy(lapic.regs + 0xf0, &(uint32_t){ 0x1ff }, 4);
    memcpy(lapic.regs + 0x350, &(uint32_t){ split ? 0x700 : 0x10000 }, 4); /* LINT0: the client's 8259; ours is not set up */
    assert_int_equal(ask(c->vcpu, KVM_SET_LAPIC, &lapic), 0);
}

static uint64_t counted(const struct client *c)
{
    uint64_t count;

    memcpy(&count, c->memory + COUNT, 8);
    return count;
}

/* I/O APIC pin 5, level, vector 50h: the irqfd raises it, the EOI lowers it and tells the client, again and again. */
static void test_resample(void **state)
{
    struct kvm_irqchip ioapic = { .chip_id = KVM_IRQCHIP_IOAPIC };
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), resample = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct kvm_irqfd irqfd = { .fd = (uint32_t)event, .gsi = 5, .flags = KVM_IRQFD_FLAG_RESAMPLE, .resamplefd = (uint32_t)resample };
    struct client c;
    uint64_t count;

    (void)state;
    start(&c, false, halt_code, GUEST_BYTES(halt_code));
    assert_int_equal(ask(c.vm, KVM_GET_IRQCHIP, &ioapic), 0);
    ioapic.chip.ioapic.redirtbl[5].bits = 0x8050; /* level, to APIC 0 */
    assert_int_equal(ask(c.vm, KVM_SET_IRQCHIP, &ioapic), 0);
    assert_int_equal(ask(c.vm, KVM_IRQFD, &irqfd), 0);
    for (uint64_t i = 1; i <= 20; i++) {
        assert_int_equal(read(resample, &count, 8), -1);
        assert_int_equal(write(event, &(uint64_t){ 1 }, 8), 8);
        client_run(&c, KVM_EXIT_IO);
        assert_int_equal(counted(&c), i);
        assert_int_equal(read(resample, &count, 8), 8);
        assert_int_equal(count, 1);
    }
    irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
    assert_int_equal(ask(c.vm, KVM_IRQFD, &irqfd), 0);
    close(event);
    close(resample);
    client_free(&c);
}

/* The client's I/O APIC pin 4, as an MSI route: a level-triggered one's EOI comes to the client, an edge's does not. */
static void test_split_eoi(void **state)
{
    union { struct kvm_irq_routing list; uint8_t room[sizeof(struct kvm_irq_routing) + sizeof(struct kvm_irq_routing_entry)]; }
        routing = { { .nr = 1 } };
    struct kvm_irq_routing_entry *entry = routing.list.entries;
    struct kvm_irq_level line = { .irq = 4, .level = 1 };
    struct client c;

    (void)state;
    start(&c, true, halt_code, GUEST_BYTES(halt_code));
    *entry = (struct kvm_irq_routing_entry){ .gsi = 4, .type = KVM_IRQ_ROUTING_MSI };
    entry->u.msi.address_lo = 0xfee00000;
    for (int level = 1; level >= 0; level--) {
        entry->u.msi.data = 0x50 | (level ? 0xc000 : 0);
        assert_int_equal(ask(c.vm, KVM_SET_GSI_ROUTING, &routing), 0);
        assert_int_equal(ask(c.vm, KVM_IRQ_LINE, &line), 0);
        if (level) {
            client_run(&c, KVM_EXIT_IOAPIC_EOI);
            assert_int_equal(c.run->eoi.vector, 0x50);
        }
        client_run(&c, KVM_EXIT_IO);
        assert_int_equal(counted(&c), level ? 1 : 2);
    }
    client_free(&c);
}

/* The client's 8259: an interrupt is taken at once where it can be, and where it cannot, after the window that was asked for. */
static void test_split_extint(void **state)
{
    struct kvm_interrupt irq = { .irq = 0x33 };
    struct client c;

    (void)state;
    start(&c, true, closed_code, GUEST_BYTES(closed_code));
    client_run(&c, KVM_EXIT_IO);
    assert_int_equal(c.run->ready_for_interrupt_injection, 0); /* IF is clear */
    c.run->request_interrupt_window = 1;
    client_run(&c, KVM_EXIT_IRQ_WINDOW_OPEN);
    assert_int_equal(c.run->ready_for_interrupt_injection, 1);
    c.run->request_interrupt_window = 0;
    assert_int_equal(ask(c.vcpu, KVM_INTERRUPT, &irq), 0);
    assert_int_equal(ask(c.vcpu, KVM_INTERRUPT, &irq), -EEXIST);
    client_run(&c, KVM_EXIT_IO);
    assert_int_equal(c.run->io.port, 0x80);
    assert_int_equal(counted(&c), 1);
    /* before the window: kept until the guest opens it */
    client_run(&c, KVM_EXIT_IO);
    assert_int_equal(c.run->io.port, 0x81);
    assert_int_equal(ask(c.vcpu, KVM_INTERRUPT, &irq), 0);
    client_run(&c, KVM_EXIT_IO);
    assert_int_equal(c.run->io.port, 0x80);
    assert_int_equal(counted(&c), 2);
    client_free(&c);
}

/* The window asked for while the local APIC does not listen to the 8259: nothing opens, and the guest goes on. */
static void test_split_masked(void **state)
{
    struct kvm_lapic_state lapic;
    struct client c;

    (void)state;
    start(&c, true, closed_code, GUEST_BYTES(closed_code));
    assert_int_equal(ask(c.vcpu, KVM_GET_LAPIC, &lapic), 0);
    memcpy(lapic.regs + 0x350, &(uint32_t){ 0x10000 }, 4);
    assert_int_equal(ask(c.vcpu, KVM_SET_LAPIC, &lapic), 0);
    c.run->request_interrupt_window = 1;
    for (int i = 0; i < 10; i++)
        client_run(&c, KVM_EXIT_IO);
    assert_int_equal(c.run->ready_for_interrupt_injection, 0);
    client_free(&c);
}

/* What wakes a halted vCPU, one by one. */
static void test_wake(void **state)
{
    struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x50 };
    struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_HALTED };
    struct client c;

    (void)state;
    start(&c, false, halt_code, GUEST_BYTES(halt_code));
    assert_int_equal(ask(c.vm, KVM_SIGNAL_MSI, &msi), 1);
    client_run(&c, KVM_EXIT_IO);
    assert_int_equal(counted(&c), 1);
    assert_int_equal(ask(c.vcpu, KVM_SET_MP_STATE, &mp), 0); /* halted by the client, with interrupts off: only an NMI */
    assert_int_equal(ask(c.vm, KVM_SIGNAL_MSI, &msi), 1);
    assert_int_equal(ask(c.vcpu, KVM_GET_MP_STATE, &mp), 0);
    assert_int_equal(mp.mp_state, KVM_MP_STATE_HALTED);
    assert_int_equal(ask(c.vcpu, KVM_NMI, NULL), 0);
    client_run(&c, KVM_EXIT_IO);
    assert_int_equal(counted(&c), 3); /* and the MSI, once they were on */
    client_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resample), cmocka_unit_test(test_split_eoi), cmocka_unit_test(test_split_extint), cmocka_unit_test(test_split_masked),
        cmocka_unit_test(test_wake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
