/* SPDX-License-Identifier: MIT */
/*
 * The full interrupt chip: lines, routing, MSI, PIT (api.rst 4.24 to 4.26, 4.52, 4.70 to 4.72). Handlers in the guest count what is taken.
 */
#include <pthread.h>
#include <string.h>

#include "irq_guest.h"

static void edge_by_ioapic(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5));

    wait_ready(&m);
    set_line(&m, 5, 1);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
    set_line(&m, 5, 1); /* still high: no edge */
    CHECK_EQ(settle(&m, IRQ_VECTOR), 1);
    set_line(&m, 5, 0);
    CHECK_EQ(settle(&m, IRQ_VECTOR), 1);
    set_line(&m, 5, 1);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 2);
}

/* A level that stays high comes again after each EOI. */
static void level_by_ioapic(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(9) | IRQ_LEVEL);

    wait_ready(&m);
    set_line(&m, 9, 1);
    CHECK(wait_for_more(&m, IRQ_VECTOR, 3) >= 3);
    set_line(&m, 9, 0);
    unsigned count = settle(&m, IRQ_VECTOR);
    CHECK_EQ(settle(&m, IRQ_VECTOR), count);
}

static void line_status(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5));
    struct kvm_irq_level line = { .irq = 5, .level = 1 };

    wait_ready(&m);
    CHECK_OK(ask(m.vm, KVM_IRQ_LINE_STATUS, &line));
    CHECK(line.status > 0);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
    line.irq = 15; /* masked everywhere */
    line.level = 1;
    CHECK_OK(ask(m.vm, KVM_IRQ_LINE_STATUS, &line));
    CHECK((int)line.status <= 0);
}

/* A line that no route names is taken and goes nowhere. */
static void line_without_route(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5));
    struct kvm_irq_level line = { .irq = 1000, .level = 1 };

    CHECK_OK(ask(m.vm, KVM_IRQ_LINE, &line));
    line.irq = 0xffffffffu;
    CHECK_OK(ask(m.vm, KVM_IRQ_LINE, &line));
}

static void by_pic(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PIC);

    wait_ready(&m);
    set_line(&m, 4, 1);
    set_line(&m, 4, 0);
    CHECK_EQ(wait_taken(&m, PIC_VECTOR + 4), 1);
}

static void by_msi(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct kvm_msi msi = { .address_lo = 0xfee00000u, .data = IRQ_VECTOR };

    wait_ready(&m);
    for (unsigned i = 1; i <= 3; i++) {
        CHECK_EQ(ask(m.vm, KVM_SIGNAL_MSI, &msi), 1); /* delivered */
        CHECK_EQ(wait_taken(&m, IRQ_VECTOR), i);
    }
    msi.address_lo = 0xfee05000u; /* APIC 5 is nobody */
    CHECK(ask(m.vm, KVM_SIGNAL_MSI, &msi) <= 0);
}

static void msi_route(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);

    wait_ready(&m);
    route_msi(&m, 24, IRQ_VECTOR);
    set_line(&m, 24, 1);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
    set_line(&m, 24, 0);
    CHECK_EQ(settle(&m, IRQ_VECTOR), 1);
    route_msi(&m, 24, IRQ_VECTOR + 1); /* another vector */
    set_line(&m, 24, 1);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR + 1), 1);
    CHECK_EQ(settle(&m, IRQ_VECTOR), 1);
}

/* An empty table: nothing goes anywhere any more. */
static void routes_removed(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5));
    struct kvm_irq_routing none = { 0 };

    wait_ready(&m);
    CHECK_OK(ask(m.vm, KVM_SET_GSI_ROUTING, &none));
    set_line(&m, 5, 1);
    CHECK_EQ(settle(&m, IRQ_VECTOR), 0);
}

static void chip_route(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5));
    struct {
        struct routing_head head;
        struct kvm_irq_routing_entry entries[2];
    } table = { .head.nr = 2,
                .entries = { { .gsi = 77, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { KVM_IRQCHIP_IOAPIC, 5 } },
                             { .gsi = 77, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { KVM_IRQCHIP_PIC_MASTER, 5 } } } };

    wait_ready(&m);
    CHECK_OK(ask(m.vm, KVM_SET_GSI_ROUTING, &table));
    set_line(&m, 77, 1);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
}

static void most_routes(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 1);
    static struct {
        struct routing_head head;
        struct kvm_irq_routing_entry entries[4096];
    } table;

    table.head.nr = 4096;
    for (uint32_t i = 0; i < 4096; i++)
        table.entries[i] = (struct kvm_irq_routing_entry){ .gsi = i, .type = KVM_IRQ_ROUTING_MSI,
                                                           .u.msi = { .address_lo = 0xfee00000u, .data = 0x41 } };
    CHECK_OK(ask(m.vm, KVM_SET_GSI_ROUTING, &table));
}

/* A HLT with an interrupt that is yet to come: KVM_RUN stays in, and the guest goes on. */
static void *line_later(void *opaque)
{
    struct machine *m = opaque;

    sleep_ms(50);
    set_line(m, 5, 1);
    return NULL;
}

static void wakes_from_halt(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5) | IRQ_HALTS);
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, line_later, &m), 0);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
    pthread_join(thread, NULL);
}

/* The interrupt that comes while the guest has interrupts off is taken when it has not. */
static void pit_ticks(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP | WITH_PIT, IRQ_PINS(2) | IRQ_PINS(0));
    struct kvm_pit_state2 pit;

    wait_ready(&m);
    CHECK_OK(ask(m.vm, KVM_GET_PIT2, &pit));
    pit.channels[0].mode = 2;
    pit.channels[0].count = 1193; /* a kHz */
    pit.channels[0].gate = 1;
    pit.channels[0].count_load_time = 0;
    CHECK_OK(ask(m.vm, KVM_SET_PIT2, &pit));
    CHECK(wait_for_more(&m, IRQ_VECTOR, 5) >= 5);
}

static void pit_speaker(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 0);
    struct kvm_pit_config config = { .flags = KVM_PIT_SPEAKER_DUMMY };

    CHECK_OK(ask(m.vm, KVM_CREATE_PIT2, &config));
}

static void pit_reinject(void)
{
    struct machine m = machine_new(WITH_IRQCHIP | WITH_PIT, 0);
    struct kvm_reinject_control control = { .pit_reinject = 0 };

    CHECK_OK(ask(m.vm, KVM_REINJECT_CONTROL, &control));
    control.pit_reinject = 1;
    CHECK_OK(ask(m.vm, KVM_REINJECT_CONTROL, &control));
}

/* INIT and SIPI by the APIC of the first vCPU start the second, in real mode at the vector's page. */
GUEST(starter, 64,
      "mov $0xfee00000, %edi; movl $0x1ff, 0xf0(%rdi); movl $0x01000000, 0x310(%rdi); movl $0x4500, 0x300(%rdi)\n"
      "movl $0x01000000, 0x310(%rdi); movl $0x460c, 0x300(%rdi); out %al, $0x80; hlt");
GUEST(started, 16, "mov $0x5a, %al; out %al, $0x81; hlt");

static void init_and_sipi(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 2);
    struct kvm_mp_state state;

    machine_cpuid(&m, 0);
    machine_cpuid(&m, 1);
    machine_load(&m, GPA_CODE, GUEST_BYTES(starter));
    machine_load(&m, 0xc000, GUEST_BYTES(started));
    machine_long_mode(&m, 0, GPA_CODE);
    RUN_TO_OUT(&m, 0, 0x80);
    for (unsigned tries = 0; tries < 10; tries++) {
        int result = machine_run(&m, 1);
        if (result == 0)
            break;
        CHECK_EQ(result, -EAGAIN); /* the kernel's answer where the state has just changed */
    }
    CHECK_EQ(m.run[1]->exit_reason, KVM_EXIT_IO);
    CHECK_EQ(*machine_io_data(&m, 1), 0x5a);
    struct kvm_sregs sregs;
    CHECK_OK(ask(m.vcpu[1], KVM_GET_SREGS, &sregs));
    CHECK_EQ(sregs.cs.selector, 0x0c00);
    CHECK_OK(ask(m.vcpu[1], KVM_GET_MP_STATE, &state));
    CHECK_EQ(state.mp_state, KVM_MP_STATE_RUNNABLE);
}

static const struct row rows[] = {
    { "edge by ioapic", edge_by_ioapic }, { "level by ioapic", level_by_ioapic }, { "line status", line_status },
    { "line without route", line_without_route }, { "by pic", by_pic }, { "by msi", by_msi }, { "msi route", msi_route },
    { "routes removed", routes_removed }, { "chip route", chip_route }, { "most routes", most_routes },
    { "wakes from halt", wakes_from_halt }, { "pit ticks", pit_ticks }, { "pit speaker", pit_speaker },
    { "pit reinject", pit_reinject }, { "init and sipi", init_and_sipi },
};
THEME(irqchip, rows);
