/* SPDX-License-Identifier: MIT */
#include "irq_guest.h"

#include <string.h>

enum { ROUNDS_TO_SETTLE = 40, STUB_BYTES = 16, GPA_STUBS = 0xa000, GPA_LEVEL = 0x10ff0 };

/* APIC on by software; then the loop. */
GUEST(irq_loop, 64, "mov $0xfee00000, %edi; movl $0x1ff, 0xf0(%rdi); sti; 1: out %al, $0x80; pause; nop; nop; jmp 1b");
GUEST(irq_halt, 64, "mov $0xfee00000, %edi; movl $0x1ff, 0xf0(%rdi); 1: sti; hlt; out %al, $0x80; jmp 1b");
/*
 * Every vector has a stub: PUSH vector, JMP here. Counts; EOI to the 8259 for its vectors, else to the APIC. A level that stays high leaves
 * the loop no time: then the handler is what writes to port 80h.
 */
GUEST(irq_common, 64,
      "push %rax; push %rbx; mov 16(%rsp), %rax; lock incl 0x11000(,%rax,4); cmpb $0, 0x10ff0; je 3f; out %al, $0x80; 3:\n"
      "mov $0xfee000b0, %ebx; sub $0x50, %rax; cmp $16, %rax; jb 1f\n"
      "movl $0, (%rbx); jmp 2f; 1: mov $0x20, %al; out %al, $0x20; out %al, $0xa0; 2: pop %rbx; pop %rax; add $8, %rsp; iretq");

static void set_redirection(struct machine *m, uint32_t what)
{
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

    CHECK_OK(ask(m->vm, KVM_GET_IRQCHIP, &chip));
    for (unsigned pin = 0; pin < 24; pin++)
        if (what & IRQ_PINS(pin))
            chip.chip.ioapic.redirtbl[pin].bits = IRQ_VECTOR | (what & IRQ_LEVEL ? 1u << 15 : 0);
    CHECK_OK(ask(m->vm, KVM_SET_IRQCHIP, &chip));
}

/* The lines go to the 8259s too, which are open at reset. */
static void set_pic(struct machine *m, uint8_t imr)
{
    const uint32_t lint0 = 0x700;
    struct kvm_lapic_state lapic;

    for (uint32_t id = 0; id < 2; id++) {
        struct kvm_irqchip chip = { .chip_id = id };
        CHECK_OK(ask(m->vm, KVM_GET_IRQCHIP, &chip));
        chip.chip.pic.irq_base = (uint8_t)(PIC_VECTOR + 8 * id);
        chip.chip.pic.imr = imr;
        chip.chip.pic.init4 = 1;
        CHECK_OK(ask(m->vm, KVM_SET_IRQCHIP, &chip));
    }
    CHECK_OK(ask(m->vcpu[0], KVM_GET_LAPIC, &lapic));
    memcpy(lapic.regs + 0x350, &lint0, 4); /* ExtINT */
    CHECK_OK(ask(m->vcpu[0], KVM_SET_LAPIC, &lapic));
}

void irq_vcpu(struct machine *m, unsigned vcpu, uint32_t what)
{
    const uint32_t svr = 0x1ff; /* an APIC that is off drops what comes before the guest has turned it on */
    struct kvm_lapic_state lapic;

    CHECK_OK(ask(m->vcpu[vcpu], KVM_GET_LAPIC, &lapic));
    memcpy(lapic.regs + 0xf0, &svr, sizeof(svr));
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_LAPIC, &lapic));
    machine_cpuid(m, vcpu);
    machine_long_mode(m, vcpu, what & IRQ_HALTS ? GPA_CODE + 0x100 : GPA_CODE);
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_MP_STATE, &(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE }));
}

struct machine irq_machine(unsigned with, uint32_t what)
{
    struct machine m = machine_new(with, 1);

    machine_load(&m, GPA_CODE, GUEST_BYTES(irq_loop));
    machine_load(&m, GPA_CODE + 0x100, GUEST_BYTES(irq_halt));
    machine_load(&m, GPA_HANDLER, GUEST_BYTES(irq_common));
    for (unsigned vector = 32; vector < 256; vector++) {
        uint8_t *stub = m.ram + GPA_STUBS + STUB_BYTES * vector;
        int32_t distance = (int32_t)(GPA_HANDLER - (GPA_STUBS + STUB_BYTES * vector + 10));
        stub[0] = 0x68; /* PUSH imm32 */
        memcpy(stub + 1, &(uint32_t){ vector }, 4);
        stub[5] = 0xe9; /* JMP rel32 */
        memcpy(stub + 6, &distance, 4);
        machine_gate(&m, vector, GPA_STUBS + STUB_BYTES * vector);
    }
    m.ram[GPA_LEVEL] = (what & IRQ_LEVEL) != 0;
    irq_vcpu(&m, 0, what);
    if (what & 0xffffff)
        set_redirection(&m, what);
    if (with & WITH_IRQCHIP)
        set_pic(&m, what & IRQ_PIC ? 0 : 0xff);
    return m;
}

uint32_t taken(const struct machine *m, unsigned vector)
{
    uint32_t count;

    memcpy(&count, m->ram + GPA_COUNTS + 4 * vector, sizeof(count));
    return count;
}

void wait_ready(struct machine *m)
{
    for (unsigned i = 0; i < 3; i++)
        RUN_TO_OUT(m, 0, 0x80);
}

uint32_t settle(struct machine *m, unsigned vector)
{
    for (unsigned i = 0; i < ROUNDS_TO_SETTLE; i++)
        RUN_TO_OUT(m, 0, 0x80);
    return taken(m, vector);
}

uint32_t wait_for_more(struct machine *m, unsigned vector, uint32_t least)
{
    uint64_t end = now_ns() + 5000000000u;

    while (taken(m, vector) < least) {
        if (now_ns() > end)
            check_failed(__FILE__, __LINE__, "vector 0x%x was taken %u times, not %u, in 5 s", vector, taken(m, vector), least);
        RUN_TO_OUT(m, 0, 0x80);
    }
    return taken(m, vector);
}

uint32_t wait_taken(struct machine *m, unsigned vector)
{
    wait_for_more(m, vector, taken(m, vector) + 1);
    return taken(m, vector);
}

void set_line(struct machine *m, uint32_t gsi, uint32_t level)
{
    struct kvm_irq_level line = { .irq = gsi, .level = level };

    CHECK_OK(ask(m->vm, KVM_IRQ_LINE, &line));
}

void route_msi(struct machine *m, uint32_t gsi, uint32_t vector)
{
    struct {
        struct routing_head head;
        struct kvm_irq_routing_entry entry;
    } table = { .head.nr = 1, .entry = { .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { .address_lo = 0xfee00000u, .data = vector } } };

    CHECK_OK(ask(m->vm, KVM_SET_GSI_ROUTING, &table));
}
