/* SPDX-License-Identifier: MIT */
/* KVM_CAP_SPLIT_IRQCHIP (api.rst 7.5): local APICs in the engine, I/O APIC and 8259s with the client; KVM_EXIT_IOAPIC_EOI. */
#include <pthread.h>
#include <string.h>

#include "irq_guest.h"

static void local_apic_is_there(void)
{
    struct machine m = irq_machine(WITH_SPLIT, 0);
    struct kvm_lapic_state lapic;
    struct kvm_msi msi = { .address_lo = 0xfee00000u, .data = IRQ_VECTOR };

    CHECK_OK(ask(m.vcpu[0], KVM_GET_LAPIC, &lapic));
    wait_ready(&m);
    CHECK_EQ(ask(m.vm, KVM_SIGNAL_MSI, &msi), 1);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
}

/* The I/O APIC's page is the client's. */
GUEST(read_ioapic, 64, "mov $0xfec00000, %edi; movl $1, (%rdi); mov 0x10(%rdi), %eax; out %al, $0x80; hlt");

static void ioapic_is_mmio(void)
{
    struct machine m = machine_boot(WITH_SPLIT, GUEST_BYTES(read_ioapic));

    RUN_TO(&m, 0, KVM_EXIT_MMIO);
    CHECK_EQ(m.run[0]->mmio.phys_addr, GPA_IOAPIC);
    CHECK_EQ(m.run[0]->mmio.is_write, 1);
    RUN_TO(&m, 0, KVM_EXIT_MMIO);
    CHECK_EQ(m.run[0]->mmio.phys_addr, GPA_IOAPIC + 0x10);
    memcpy(m.run[0]->mmio.data, &(uint32_t){ 0x170020 }, 4);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x20);
}

GUEST(pic_ports, 64, "mov $0x11, %al; out %al, $0x20; in $0x21, %al; out %al, $0x80; hlt");

static void pic_is_pio(void)
{
    struct machine m = machine_boot(WITH_SPLIT, GUEST_BYTES(pic_ports));

    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x20), 0x11);
    RUN_TO(&m, 0, KVM_EXIT_IO);
    CHECK_EQ(m.run[0]->io.direction, KVM_EXIT_IO_IN);
    CHECK_EQ(m.run[0]->io.port, 0x21);
    *machine_io_data(&m, 0) = 0x99;
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x99);
}

/* The next exit that is not the loop's own OUT within some rounds; its reason, or 0. */
static uint32_t other_exit(struct machine *m)
{
    for (unsigned i = 0; i < 200; i++) {
        CHECK_EQ(machine_run(m, 0), 0);
        if (m->run[0]->exit_reason != KVM_EXIT_IO)
            return m->run[0]->exit_reason;
    }
    return 0;
}

/* A level-triggered vector of the client's I/O APIC tells its EOI; by the routes of its first 24 GSIs. */
static void eoi_exit(void)
{
    struct machine m = irq_machine(WITH_SPLIT, 0);

    wait_ready(&m);
    route_msi(&m, 3, IRQ_VECTOR | 1u << 15); /* level */
    RUN_TO_OUT(&m, 0, 0x80);
    set_line(&m, 3, 1);
    CHECK_EQ(other_exit(&m), KVM_EXIT_IOAPIC_EOI);
    CHECK_EQ(m.run[0]->eoi.vector, IRQ_VECTOR);
    CHECK_EQ(taken(&m, IRQ_VECTOR), 1);
    CHECK_EQ(other_exit(&m), 0); /* told once */
}

static void edge_has_no_eoi_exit(void)
{
    struct machine m = irq_machine(WITH_SPLIT, 0);

    wait_ready(&m);
    route_msi(&m, 3, IRQ_VECTOR);
    set_line(&m, 3, 1);
    CHECK_EQ(other_exit(&m), 0);
    CHECK_EQ(taken(&m, IRQ_VECTOR), 1);
}

/* Routes of GSIs that are no pins of it (24 on) have none. */
static void other_gsi_has_no_eoi_exit(void)
{
    struct machine m = irq_machine(WITH_SPLIT, 0);

    wait_ready(&m);
    route_msi(&m, 30, IRQ_VECTOR | 1u << 15);
    set_line(&m, 30, 1);
    CHECK_EQ(other_exit(&m), 0);
    CHECK_EQ(taken(&m, IRQ_VECTOR), 1);
}

/* The client's own 8259: KVM_INTERRUPT, taken where LINT0 is ExtINT; one at a time. */
static void interrupt_of_the_clients_pic(void)
{
    struct machine m = irq_machine(WITH_SPLIT, 0);
    struct kvm_interrupt irq = { .irq = IRQ_VECTOR + 5 };
    struct kvm_lapic_state lapic;
    const uint32_t lint0 = 0x700;

    wait_ready(&m);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_LAPIC, &lapic));
    memcpy(lapic.regs + 0x350, &lint0, 4);
    CHECK_OK(ask(m.vcpu[0], KVM_SET_LAPIC, &lapic));
    CHECK_OK(ask(m.vcpu[0], KVM_INTERRUPT, &irq));
    CHECK_EQ(ask(m.vcpu[0], KVM_INTERRUPT, &irq), -EEXIST);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR + 5), 1);
    CHECK_EQ(settle(&m, IRQ_VECTOR + 5), 1);
}

/* HLT stays in the engine, which has the local APIC: the wait ends with the interrupt, not with an exit. */
static void *msi_later(void *opaque)
{
    struct machine *m = opaque;
    struct kvm_msi msi = { .address_lo = 0xfee00000u, .data = IRQ_VECTOR };

    sleep_ms(30);
    CHECK_EQ(ask(m->vm, KVM_SIGNAL_MSI, &msi), 1);
    return NULL;
}

static void halt_stays_in(void)
{
    struct machine m = irq_machine(WITH_SPLIT, IRQ_HALTS);
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, msi_later, &m), 0);
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_EQ(taken(&m, IRQ_VECTOR), 1);
    pthread_join(thread, NULL);
}

/* x2APIC ids of more than 8 bits in MSIs, with KVM_CAP_X2APIC_API. */
static void x2apic_destinations(void)
{
    struct machine m = machine_new(WITH_SPLIT, 1);
    struct kvm_msi msi = { .address_lo = 0xfee00000u, .address_hi = 0x100, .data = IRQ_VECTOR };

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_X2APIC_API,
                                KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK));
    CHECK(ask(m.vm, KVM_SIGNAL_MSI, &msi) <= 0); /* APIC 256 is nobody */
    msi.address_hi = 1;                          /* its low byte is reserved */
    CHECK_EQ(ask(m.vm, KVM_SIGNAL_MSI, &msi), -EINVAL);
}

static const struct row rows[] = {
    { "local apic is there", local_apic_is_there }, { "ioapic is mmio", ioapic_is_mmio }, { "pic is pio", pic_is_pio },
    { "eoi exit", eoi_exit }, { "edge has no eoi exit", edge_has_no_eoi_exit }, { "other gsi has no eoi exit", other_gsi_has_no_eoi_exit },
    { "interrupt of the client's pic", interrupt_of_the_clients_pic }, { "halt stays in", halt_stays_in },
    { "x2apic destinations", x2apic_destinations },
};
THEME(split, rows);
