/* SPDX-License-Identifier: MIT */
/* KVM_SET_GUEST_DEBUG (api.rst 4.87). */
#include <string.h>

#include "machine.h"

#define VECTOR_DB 1
#define VECTOR_BP 3
#define DR6_BS (1u << 14)

/*      8000 nop  8001 nop  8002 inc rbx  8005 mov [10000h],al  800c nop  800d out  800f hlt */
GUEST(steps, 64, "nop; nop; inc %rbx; mov %al, 0x10000; nop; out %al, $0x80; hlt");
GUEST(breakpoint, 64, "nop; int3; out %al, $0x80; hlt");
GUEST(handler, 64, "mov $0x5a, %al; out %al, $0x81; iretq");

static int set_debug(struct machine *m, uint32_t control, uint64_t dr0, uint64_t dr7)
{
    struct kvm_guest_debug debug = { .control = control, .arch.debugreg = { [0] = dr0, [7] = dr7 } };

    return ask(m->vcpu[0], KVM_SET_GUEST_DEBUG, &debug);
}

static void single_step(void)
{
    static const uint64_t rips[] = { 0x8001, 0x8002, 0x8005, 0x800c, 0x800d };
    struct machine m = machine_boot(0, GUEST_BYTES(steps));

    CHECK_OK(set_debug(&m, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, 0, 0));
    for (size_t i = 0; i < COUNT_OF(rips); i++) {
        RUN_TO(&m, 0, KVM_EXIT_DEBUG);
        CHECK_EQ(m.run[0]->debug.arch.exception, VECTOR_DB);
        CHECK_EQ(m.run[0]->debug.arch.pc, rips[i]);
        CHECK_EQ(m.run[0]->debug.arch.dr6 & DR6_BS, DR6_BS);
        CHECK_EQ(machine_regs(&m, 0).rip, rips[i]);
        CHECK_EQ(machine_regs(&m, 0).rflags & 0x100, 0); /* TF is not the guest's */
    }
    RUN_TO_OUT(&m, 0, 0x80);
    RUN_TO(&m, 0, KVM_EXIT_DEBUG); /* the OUT, when it is over */
    CHECK_EQ(m.run[0]->debug.arch.pc, 0x800f);
    CHECK_OK(set_debug(&m, 0, 0, 0));
    RUN_TO(&m, 0, KVM_EXIT_HLT);
}

static void hardware_breakpoint(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(steps));

    CHECK_OK(set_debug(&m, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 0x8005, 0x402 | 1));
    RUN_TO(&m, 0, KVM_EXIT_DEBUG);
    CHECK_EQ(m.run[0]->debug.arch.exception, VECTOR_DB);
    CHECK_EQ(m.run[0]->debug.arch.pc, 0x8005);
    CHECK_EQ(m.run[0]->debug.arch.dr6 & 0xf, 1);
    CHECK_EQ(m.run[0]->debug.arch.dr7 & 3, 3);
    CHECK_OK(set_debug(&m, 0, 0, 0));
    RUN_TO_OUT(&m, 0, 0x80);
}

/* On a write of one byte at GPA_DATA. */
static void watchpoint(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(steps));

    CHECK_OK(set_debug(&m, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, GPA_DATA, 0x10402));
    RUN_TO(&m, 0, KVM_EXIT_DEBUG);
    CHECK_EQ(m.run[0]->debug.arch.pc, 0x800c); /* behind it */
    CHECK_EQ(m.run[0]->debug.arch.dr6 & 0xf, 1);
    RUN_TO_OUT(&m, 0, 0x80);
}

static void software_breakpoint(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(breakpoint));

    CHECK_OK(set_debug(&m, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, 0, 0));
    RUN_TO(&m, 0, KVM_EXIT_DEBUG);
    CHECK_EQ(m.run[0]->debug.arch.exception, VECTOR_BP);
    CHECK_EQ(m.run[0]->debug.arch.pc, 0x8001);
    CHECK_EQ(machine_regs(&m, 0).rip, 0x8001); /* INT3 has not been executed */
}

/* Not asked for, it is the guest's own. */
static void guests_own_breakpoint(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(breakpoint));

    machine_load(&m, GPA_HANDLER, GUEST_BYTES(handler));
    machine_gate(&m, VECTOR_BP, GPA_HANDLER);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x81), 0x5a);
    RUN_TO_OUT(&m, 0, 0x80);
}

static void injected(void)
{
    static const struct {
        uint32_t control;
        unsigned vector;
    } rows[] = { { KVM_GUESTDBG_INJECT_DB, VECTOR_DB }, { KVM_GUESTDBG_INJECT_BP, VECTOR_BP } };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct machine m = machine_boot(0, GUEST_BYTES(steps));
        machine_load(&m, GPA_HANDLER, GUEST_BYTES(handler));
        machine_gate(&m, rows[i].vector, GPA_HANDLER);
        CHECK_OK(set_debug(&m, rows[i].control, 0, 0));
        CHECK_EQ(RUN_TO_OUT(&m, 0, 0x81), 0x5a);
    }
}

/* A debugger's breakpoint patched into code that has run, and taken out again, as gdb stubs do. */
GUEST(loop, 64, "1: inc %rbx; nop; out %al, $0x80; jmp 1b");

static void patched_breakpoint(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(loop));

    CHECK_OK(set_debug(&m, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, 0, 0));
    for (unsigned i = 0; i < 5; i++) {
        RUN_TO_OUT(&m, 0, 0x80);
        m.ram[GPA_CODE + 3] = 0xcc;
        RUN_TO(&m, 0, KVM_EXIT_DEBUG);
        CHECK_EQ(m.run[0]->debug.arch.pc, GPA_CODE + 3);
        m.ram[GPA_CODE + 3] = 0x90;
    }
    CHECK_EQ(machine_regs(&m, 0).rbx, 6);
}

/* BLOCKIRQ: what is pending waits while the client steps. */
GUEST(interruptible, 64, "sti; nop; 1: nop; nop; nop; out %al, $0x80; jmp 1b");

static void step_without_interrupts(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(interruptible));
    struct kvm_interrupt irq = { .irq = 0x41 };

    machine_load(&m, GPA_HANDLER, GUEST_BYTES(handler));
    machine_gate(&m, 0x41, GPA_HANDLER);
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_OK(set_debug(&m, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ, 0, 0));
    for (unsigned i = 0; i < 3; i++)
        RUN_TO(&m, 0, KVM_EXIT_DEBUG);
    CHECK(m.run[0]->debug.arch.pc < GPA_CODE + 0x20);
    CHECK_OK(set_debug(&m, 0, 0, 0));
    CHECK_OK(ask(m.vcpu[0], KVM_INTERRUPT, &irq));
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x81), 0x5a);
}

static const struct row rows[] = {
    { "single step", single_step }, { "hardware breakpoint", hardware_breakpoint }, { "watchpoint", watchpoint },
    { "software breakpoint", software_breakpoint }, { "guest's own breakpoint", guests_own_breakpoint }, { "injected", injected },
    { "patched breakpoint", patched_breakpoint }, { "step without interrupts", step_without_interrupts },
};
THEME(debug, rows);
