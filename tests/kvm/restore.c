/* SPDX-License-Identifier: MIT */
/*
 * A VM saved and restored by the client: a guest that changes state at every step is stopped between two, all its vCPU state is taken by
 * GET ioctls, given to the vCPU of a new VM by SET ioctls in the order that clients use, and goes on there.
 */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

#define MSR_ASYNC_PF_INT 0x4b564d06u /* may not be set where no local APIC is */

/* Counts in RBX, R15, [GPA_DATA], XMM3 (by integer moves) and a stack that grows; each round a byte to port 80h. */
GUEST(counter, 64,
      "1: inc %rbx; lea 3(%r15), %r15; addq $1, 0x10000; push %rbx\n"
      "mov %bl, %al; out %al, $0x80; jmp 1b");
/* The same with vector state and the FPU, which an emulating kernel does not carry. */
GUEST(vectors, 64,
      "1: inc %rbx; movq %xmm3, %rax; inc %rax; movq %rax, %xmm3; out %al, $0x80; jmp 1b");
/* Interrupts through an APIC that was set up before: raises IRR by a self-IPI, and counts in the handler. */
GUEST(apic, 64,
      "mov $0xfee00000, %edi; movl $0x1ff, 0xf0(%rdi); sti\n"
      "1: movl $0x44040, 0x300(%rdi); mov %bl, %al; out %al, $0x80; jmp 1b");
GUEST(handler, 64, "inc %rbx; mov $0xfee00000, %edi; movl $0, 0xb0(%rdi); iretq");

struct saved {
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debugregs;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp_state;
    struct kvm_lapic_state lapic;
    struct kvm_irqchip chips[3];
    struct kvm_pit_state2 pit;
    struct kvm_clock_data clock;
    void *xsave;
    struct kvm_msrs *msrs;
    struct kvm_cpuid2 *cpuid;
};

static struct kvm_msrs *list_msrs(int system, bool chip)
{
    struct kvm_msr_list probe = { 0 };

    CHECK_EQ(ask(system, KVM_GET_MSR_INDEX_LIST, &probe), -E2BIG);
    struct kvm_msr_list *list = calloc(1, sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]));
    struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + probe.nmsrs * sizeof(msrs->entries[0]));
    list->nmsrs = probe.nmsrs;
    CHECK_OK(ask(system, KVM_GET_MSR_INDEX_LIST, list));
    msrs->nmsrs = 0;
    for (uint32_t i = 0; i < list->nmsrs; i++)
        if (chip || list->indices[i] != MSR_ASYNC_PF_INT)
            msrs->entries[msrs->nmsrs++].index = list->indices[i];
    free(list);
    return msrs;
}

static struct saved save(struct machine *m, bool chip)
{
    struct saved s = { .xsave = machine_anonymous(65536), .msrs = list_msrs(m->system, chip) };
    int vcpu = m->vcpu[0];

    CHECK_OK(ask(vcpu, KVM_GET_REGS, &s.regs));
    CHECK_OK(ask(vcpu, KVM_GET_SREGS2, &s.sregs));
    CHECK_OK(ask(vcpu, KVM_GET_XCRS, &s.xcrs));
    CHECK_OK(ask(vcpu, KVM_GET_DEBUGREGS, &s.debugregs));
    CHECK_OK(ask(vcpu, KVM_GET_VCPU_EVENTS, &s.events));
    CHECK_OK(ask(vcpu, KVM_GET_MP_STATE, &s.mp_state));
    CHECK_OK(ask(vcpu, KVM_GET_XSAVE2, s.xsave));
    int count = ask(vcpu, KVM_GET_MSRS, s.msrs);
    CHECK(count > 0);
    s.msrs->nmsrs = (uint32_t)count;
    CHECK_OK(ask(m->vm, KVM_GET_CLOCK, &s.clock));
    s.clock.flags = 0;
    if (!chip)
        return s;
    CHECK_OK(ask(vcpu, KVM_GET_LAPIC, &s.lapic));
    for (uint32_t i = 0; i < 3; i++) {
        s.chips[i].chip_id = i;
        CHECK_OK(ask(m->vm, KVM_GET_IRQCHIP, &s.chips[i]));
    }
    CHECK_OK(ask(m->vm, KVM_GET_PIT2, &s.pit));
    return s;
}

/* A new VM over a copy of the memory. */
static struct machine restore(struct machine *old, struct saved *s, bool chip)
{
    struct machine m = machine_new(chip ? WITH_IRQCHIP | WITH_PIT : 0, 1);
    int vcpu = m.vcpu[0];

    memcpy(m.ram, old->ram, RAM_BYTES);
    machine_cpuid(&m, 0);
    CHECK_OK(ask(vcpu, KVM_SET_SREGS2, &s->sregs));
    CHECK_OK(ask(vcpu, KVM_SET_REGS, &s->regs));
    CHECK_OK(ask(vcpu, KVM_SET_XSAVE, s->xsave));
    CHECK_OK(ask(vcpu, KVM_SET_XCRS, &s->xcrs));
    int done = ask(vcpu, KVM_SET_MSRS, s->msrs);
    if (done != (int)s->msrs->nmsrs)
        check_failed(__FILE__, __LINE__, "KVM_SET_MSRS stops at 0x%x", done < 0 ? 0 : s->msrs->entries[done].index);
    CHECK_OK(ask(vcpu, KVM_SET_VCPU_EVENTS, &s->events));
    CHECK_OK(ask(vcpu, KVM_SET_MP_STATE, &s->mp_state));
    if (chip) {
        CHECK_OK(ask(vcpu, KVM_SET_LAPIC, &s->lapic));
        for (uint32_t i = 0; i < 3; i++)
            CHECK_OK(ask(m.vm, KVM_SET_IRQCHIP, &s->chips[i]));
        CHECK_OK(ask(m.vm, KVM_SET_PIT2, &s->pit));
    }
    CHECK_OK(ask(vcpu, KVM_SET_DEBUGREGS, &s->debugregs));
    CHECK_OK(ask(m.vm, KVM_SET_CLOCK, &s->clock));
    return m;
}

/* The OUT whose exit was last is over once KVM_RUN has been entered again (api.rst 5): immediate_exit does just that. */
static void finish_instruction(struct machine *m)
{
    m->run[0]->immediate_exit = 1;
    CHECK_EQ(machine_run(m, 0), -EINTR);
    m->run[0]->immediate_exit = 0;
}

static void restore_rounds(const uint8_t *code, size_t bytes, bool chip)
{
    struct machine m = machine_boot(chip ? WITH_IRQCHIP | WITH_PIT : 0, code, bytes);
    struct kvm_regs regs = machine_regs(&m, 0);
    unsigned round = 1;

    machine_load(&m, GPA_HANDLER, GUEST_BYTES(handler));
    machine_gate(&m, 0x40, GPA_HANDLER);
    regs.rsp = GPA_FREE;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    for (unsigned vm = 0; vm < 3; vm++) {
        for (unsigned i = 0; i < 4; i++, round++)
            CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), round);
        finish_instruction(&m);
        struct saved s = save(&m, chip);
        struct machine next = restore(&m, &s, chip);
        CHECK_EQ(kvm->close(m.vcpu[0]) | kvm->close(m.vm) | kvm->close(m.system), 0);
        m = next;
    }
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), round);
}

static void registers(void)
{
    restore_rounds(GUEST_BYTES(counter), false);
}

static void registers_with_chips(void)
{
    restore_rounds(GUEST_BYTES(counter), true);
}

static void vector_state(void)
{
    restore_rounds(GUEST_BYTES(vectors), false);
}

static void interrupts(void)
{
    restore_rounds(GUEST_BYTES(apic), true);
}

/* An interrupt that waits in the APIC's IRR, the guest's IF clear, is taken behind the restore. */
GUEST(waits, 64,
      "mov $0xfee00000, %edi; movl $0x1ff, 0xf0(%rdi); movl $0x44040, 0x300(%rdi); xor %ebx, %ebx\n"
      "out %al, $0x80; sti; nop; nop; nop; nop; mov %bl, %al; out %al, $0x80; hlt");

static void pending_interrupt(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP | WITH_PIT, GUEST_BYTES(waits));

    machine_load(&m, GPA_HANDLER, GUEST_BYTES(handler));
    machine_gate(&m, 0x40, GPA_HANDLER);
    RUN_TO_OUT(&m, 0, 0x80);
    finish_instruction(&m);
    struct saved s = save(&m, true);
    CHECK_EQ(s.lapic.regs[0x220] & 1, 1); /* IRR, vector 40h */
    struct machine next = restore(&m, &s, true);
    CHECK_EQ(RUN_TO_OUT(&next, 0, 0x80), 1);
}

/* HLT in the engine: restored as halted, it sleeps until the NMI. */
GUEST(halts, 64, "mov $1, %al; out %al, $0x80; hlt; mov $2, %al; out %al, $0x80; hlt");
GUEST(nmi, 64, "iretq");

static void halted(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP | WITH_PIT, GUEST_BYTES(halts));
    struct kvm_mp_state halt = { KVM_MP_STATE_HALTED };

    machine_load(&m, GPA_HANDLER, GUEST_BYTES(nmi));
    machine_gate(&m, 2, GPA_HANDLER);
    RUN_TO_OUT(&m, 0, 0x80);
    finish_instruction(&m);
    struct saved s = save(&m, true);
    s.regs.rip++; /* as if HLT had been executed */
    s.mp_state = halt;
    struct machine next = restore(&m, &s, true);
    CHECK_OK(ask(next.vcpu[0], KVM_NMI, NULL));
    CHECK_EQ(RUN_TO_OUT(&next, 0, 0x80), 2);
}

static const struct row rows[] = {
    { "registers", registers },
    { "registers with chips", registers_with_chips },
    { "vector state", vector_state },
    { "interrupts", interrupts },
    { "pending interrupt", pending_interrupt },
    { "halted", halted },
};
THEME(restore, rows);
