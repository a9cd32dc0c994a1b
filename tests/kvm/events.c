/* SPDX-License-Identifier: MIT */
/* Events that the client gives to a vCPU: NMI, interrupts without a chip, exceptions, and what KVM_GET_VCPU_EVENTS says of them. */
#include <string.h>

#include "machine.h"

#define VECTOR_NMI 2
#define VECTOR_GP 13
#define VECTOR_PF 14

/* A byte of BL to port 80h, for ever; handlers add to RBX. */
GUEST(loop, 64, "1: mov %bl, %al; out %al, $0x80; pause; nop; jmp 1b");
GUEST(loop_sti, 64, "sti; 1: mov %bl, %al; out %al, $0x80; pause; nop; jmp 1b");
GUEST(count, 64, "inc %rbx; iretq");
GUEST(nmi_in_service, 64, "inc %rbx; mov %bl, %al; out %al, $0x81; out %al, $0x81; out %al, $0x81; iretq");
GUEST(error_code, 64, "pop %rax; out %al, $0x82; mov %cr2, %rax; out %al, $0x83; hlt");

static struct machine event_machine(unsigned with, bool interrupts, unsigned vector, const uint8_t *handler, size_t bytes)
{
    struct machine m = interrupts ? machine_boot(with, GUEST_BYTES(loop_sti)) : machine_boot(with, GUEST_BYTES(loop));

    machine_load(&m, GPA_HANDLER, handler, bytes);
    machine_gate(&m, vector, GPA_HANDLER);
    return m;
}

/* Runs some rounds; RBX then. */
static uint8_t rounds(struct machine *m)
{
    uint8_t value = 0;

    for (unsigned i = 0; i < 30; i++)
        value = RUN_TO_OUT(m, 0, 0x80);
    return value;
}

static void nmi(void)
{
    struct machine m = event_machine(0, false, VECTOR_NMI, GUEST_BYTES(count));

    CHECK_EQ(rounds(&m), 0);
    CHECK_OK(ask_number(m.vcpu[0], KVM_NMI, 0xdead)); /* takes no argument */
    CHECK_EQ(rounds(&m), 1);
}

static void nmi_with_chip(void)
{
    struct machine m = event_machine(WITH_IRQCHIP, false, VECTOR_NMI, GUEST_BYTES(count));

    CHECK_OK(ask(m.vcpu[0], KVM_NMI, NULL));
    CHECK_EQ(rounds(&m), 1);
}

/* While one is in service, one more waits; the rest are lost (SDM 3A 6.7.1). */
static void nmi_blocked(void)
{
    struct machine m = event_machine(0, false, VECTOR_NMI, GUEST_BYTES(nmi_in_service));
    struct kvm_vcpu_events events;

    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_OK(ask(m.vcpu[0], KVM_NMI, NULL));
    while (m.run[0]->io.port != 0x81)
        CHECK_EQ(machine_run(&m, 0), 0);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    CHECK_EQ(events.nmi.masked, 1);
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(ask(m.vcpu[0], KVM_NMI, NULL));
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(RUN_TO_OUT(&m, 0, 0x81), 1);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(RUN_TO_OUT(&m, 0, 0x81), 2);
    CHECK_EQ(rounds(&m), 2);
}

static void nmi_by_events(void)
{
    struct machine m = event_machine(0, false, VECTOR_NMI, GUEST_BYTES(count));
    struct kvm_vcpu_events events;

    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    events.nmi.pending = 1;
    events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
    events.nmi.masked = 1;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_VCPU_EVENTS, &events));
    CHECK_EQ(rounds(&m), 0); /* masked */
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    CHECK_EQ(events.nmi.pending, 1);
    events.nmi.masked = 0;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_VCPU_EVENTS, &events));
    CHECK_EQ(rounds(&m), 1);
}

static void interrupt(void)
{
    struct machine m = event_machine(0, true, 0x41, GUEST_BYTES(count));
    struct kvm_interrupt irq = { .irq = 0x41 };

    for (uint8_t i = 0; i < 3; i++) {
        CHECK_EQ(rounds(&m), i);
        CHECK_EQ(m.run[0]->ready_for_interrupt_injection, 1);
        CHECK_OK(ask(m.vcpu[0], KVM_INTERRUPT, &irq));
    }
    CHECK_EQ(rounds(&m), 3);
}

/* The client waits for the window: KVM_EXIT_IRQ_WINDOW_OPEN once the guest has interrupts on. */
GUEST(late_sti, 64, "out %al, $0x80; nop; sti; nop; nop; nop; 1: mov %bl, %al; out %al, $0x81; jmp 1b");

static void interrupt_window(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(late_sti));
    struct kvm_interrupt irq = { .irq = 0x41 };

    machine_load(&m, GPA_HANDLER, GUEST_BYTES(count));
    machine_gate(&m, 0x41, GPA_HANDLER);
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_EQ(m.run[0]->ready_for_interrupt_injection, 0);
    m.run[0]->request_interrupt_window = 1;
    RUN_TO(&m, 0, KVM_EXIT_IRQ_WINDOW_OPEN);
    CHECK_EQ(m.run[0]->ready_for_interrupt_injection, 1);
    CHECK_EQ(m.run[0]->if_flag, 1);
    m.run[0]->request_interrupt_window = 0;
    CHECK_OK(ask(m.vcpu[0], KVM_INTERRUPT, &irq));
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x81), 1);
}

/* MOV to CR8 that lowers it, without a chip. */
GUEST(lower_tpr, 64, "mov $9, %eax; mov %rax, %cr8; mov $2, %eax; mov %rax, %cr8; out %al, $0x80; hlt");

static void set_tpr_exit(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(lower_tpr));

    RUN_TO(&m, 0, KVM_EXIT_SET_TPR);
    CHECK_EQ(m.run[0]->cr8, 2);
    RUN_TO_OUT(&m, 0, 0x80);
}

static void exception(void)
{
    struct machine m = event_machine(0, false, VECTOR_GP, GUEST_BYTES(error_code));
    struct kvm_vcpu_events events;

    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    events.flags = 0;
    events.exception.injected = 1;
    events.exception.nr = VECTOR_GP;
    events.exception.has_error_code = 1;
    events.exception.error_code = 0x5a;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_VCPU_EVENTS, &events));
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x82), 0x5a);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    CHECK_EQ(events.exception.injected, 0); /* it was delivered */
}

/* Pending, with its payload: CR2 is set when it is delivered, not before. */
static void exception_with_payload(void)
{
    struct machine m = machine_new(0, 0);
    struct kvm_vcpu_events events;
    struct kvm_sregs sregs;

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_EXCEPTION_PAYLOAD, 1));
    machine_add_vcpu(&m, 0);
    machine_load(&m, GPA_CODE, GUEST_BYTES(loop));
    machine_load(&m, GPA_HANDLER, GUEST_BYTES(error_code));
    machine_gate(&m, VECTOR_PF, GPA_HANDLER);
    machine_cpuid(&m, 0);
    machine_long_mode(&m, 0, GPA_CODE);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    events.exception.pending = 1;
    events.exception.nr = VECTOR_PF;
    events.exception.has_error_code = 1;
    events.exception.error_code = 6;
    events.exception_has_payload = 1;
    events.exception_payload = 0x123477;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_VCPU_EVENTS, &events));
    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &sregs));
    CHECK_EQ(sregs.cr2, 0);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x82), 6);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x83), 0x77);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &sregs));
    CHECK_EQ(sregs.cr2, 0x123477);
}

/* A corrected error is logged in its bank, and raises nothing. */
static void machine_check(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(loop));
    struct kvm_x86_mce mce = { .status = 1ull << 63 | 1ull << 58 | 0x1234, .addr = 0x8000, .bank = 2 };
    uint64_t cap = 1u << 8 | 10;

    CHECK_OK(ask(m.vcpu[0], KVM_X86_SETUP_MCE, &cap));
    CHECK_EQ(machine_set_msr(&m, 0, 0x400 + 4 * 2, UINT64_MAX), 1); /* MC2_CTL */
    CHECK_OK(ask(m.vcpu[0], KVM_X86_SET_MCE, &mce)); /* corrected: logged, nothing raised */
    CHECK_EQ(machine_get_msr(&m, 0, 0x401 + 4 * 2), mce.status);
    CHECK_EQ(machine_get_msr(&m, 0, 0x402 + 4 * 2), mce.addr);
    CHECK_EQ(rounds(&m), 0);
}

static void triple_fault_event(void)
{
    struct machine m = machine_new(0, 0);
    struct kvm_vcpu_events events;

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1));
    machine_add_vcpu(&m, 0);
    machine_load(&m, GPA_CODE, GUEST_BYTES(loop));
    machine_cpuid(&m, 0);
    machine_long_mode(&m, 0, GPA_CODE);
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    events.triple_fault.pending = 1;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_VCPU_EVENTS, &events));
    RUN_TO(&m, 0, KVM_EXIT_SHUTDOWN);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_VCPU_EVENTS, &events));
    CHECK_EQ(events.triple_fault.pending, 0);
    RUN_TO_OUT(&m, 0, 0x80);
}

static const struct row rows[] = {
    { "nmi", nmi }, { "nmi with chip", nmi_with_chip }, { "nmi blocked", nmi_blocked }, { "nmi by events", nmi_by_events },
    { "interrupt", interrupt }, { "interrupt window", interrupt_window }, { "set tpr exit", set_tpr_exit }, { "exception", exception },
    { "exception with payload", exception_with_payload }, { "machine check", machine_check }, { "triple fault event", triple_fault_event },
};
THEME(events, rows);
