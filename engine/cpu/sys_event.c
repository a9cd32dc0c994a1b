/* SPDX-License-Identifier: MIT */
/*
 * Exceptions and interrupts: recording them, VM exits, double and triple faults, and delivery through
 * the 64-bit IDT with stack switch and error codes (SDM 3A chapter 6, SDM 2A INT n). Delivery in other
 * modes is in sys_gate.c.
 *
 * An event is delivered whole or not at all: everything that can fault is done first, the frame is
 * one write, and only then do registers change.
 */
#include "cpu/segment.h"
#include "mmu/mmu.h"

#define DR6_ACTIVE_LOW 0xffff0ff0u /* bits that read as one (bit 16 only clears for RTM) */
#define DR7_GD (1u << 13)

/* ---- recording ---- */

static enum cpu_result record(struct cpu *cpu, const struct cpu_event *ev)
{
    cpu->event = *ev;
    /* The instruction that asked for the bytes will ask again; unless it only waits for the hypervisor's tables. */
    if (cpu_uses_ept(cpu) || ev->vector != X86_EXC_PF || !cpu_event_intercepted(cpu, ev)) {
        cpu_mmio_consume(cpu);
    }
    return CPU_FAULT;
}

enum cpu_result cpu_raise(struct cpu *cpu, unsigned vector)
{
    return record(cpu, &(struct cpu_event){
                           .valid = true, .raised = true, .vector = (uint8_t)vector, .type = VMX_EVENT_HW_EXCEPTION});
}

enum cpu_result cpu_raise_error(struct cpu *cpu, unsigned vector, uint32_t error)
{
    return record(cpu, &(struct cpu_event){.valid = true,
                                           .raised = true,
                                           .vector = (uint8_t)vector,
                                           .type = VMX_EVENT_HW_EXCEPTION,
                                           .has_error = !cpu_in_real_mode(cpu), /* none there (SDM 3A 20.1.4) */
                                           .error = error});
}

enum cpu_result cpu_raise_page_fault(struct cpu *cpu, gva_t va, uint32_t error)
{
    return record(cpu, &(struct cpu_event){.valid = true,
                                           .raised = true,
                                           .vector = X86_EXC_PF,
                                           .type = VMX_EVENT_HW_EXCEPTION,
                                           .has_error = true,
                                           .error = error,
                                           .payload = va});
}

enum cpu_result cpu_raise_debug(struct cpu *cpu, uint64_t dr6_bits)
{
    return record(cpu, &(struct cpu_event){.valid = true,
                                           .raised = true,
                                           .vector = X86_EXC_DB,
                                           .type = VMX_EVENT_HW_EXCEPTION,
                                           .payload = dr6_bits});
}

enum cpu_result cpu_raise_software(struct cpu *cpu, unsigned vector, unsigned type, uint32_t len)
{
    return record(cpu, &(struct cpu_event){.valid = true,
                                           .raised = true,
                                           .vector = (uint8_t)vector,
                                           .type = (uint8_t)type,
                                           .insn_len = (uint8_t)len});
}

enum cpu_result cpu_vmexit(struct cpu *cpu, uint32_t reason, uint64_t qualification, uint32_t len)
{
    cpu->vmcs.exit_reason = reason;
    cpu->vmcs.exit_qualification = qualification;
    cpu->vmcs.exit_instruction_len = len;
    cpu->vmcs.exit_instruction_info = 0;
    cpu->vmcs.exit_intr_info = 0;
    cpu->vmcs.idt_vectoring_info = 0;
    return CPU_EXIT;
}

/* ---- interception ---- */

static uint32_t event_info(const struct cpu_event *ev)
{
    return VMX_INFO_VALID | (ev->has_error ? VMX_INFO_ERROR_CODE : 0) | ((uint32_t)ev->type << VMX_INFO_TYPE_SHIFT) |
           ev->vector;
}

/* IDT-vectoring information: the event that was being delivered when something exited. */
static void set_vectoring(struct cpu *cpu, const struct cpu_event *ev)
{
    cpu->vmcs.idt_vectoring_info = event_info(ev);
    cpu->vmcs.idt_vectoring_error_code = ev->error;
    if (ev->insn_len != 0) {
        cpu->vmcs.exit_instruction_len = ev->insn_len;
    }
}

static bool event_is_exception(const struct cpu_event *ev)
{
    return ev->type == VMX_EVENT_HW_EXCEPTION || ev->type == VMX_EVENT_SW_EXCEPTION ||
           ev->type == VMX_EVENT_PRIV_SW_EXCEPTION;
}

bool cpu_event_intercepted(const struct cpu *cpu, const struct cpu_event *ev)
{
    const struct vmcs *v = &cpu->vmcs;

    if (!ev->raised || ev->guests_own || !event_is_exception(ev) || ev->vector > 31) {
        return false;
    }
    bool bit = (v->exception_bitmap >> ev->vector & 1) != 0;
    if (ev->vector == X86_EXC_PF && (ev->error & v->pf_error_code_mask) != v->pf_error_code_match) {
        return !bit; /* SDM 3C 26.2 */
    }
    return bit;
}

static enum cpu_result event_exit(struct cpu *cpu, const struct cpu_event *ev)
{
    bool has_payload = ev->vector == X86_EXC_PF || ev->vector == X86_EXC_DB;
    enum cpu_result r = cpu_vmexit(cpu, VMX_EXIT_EXCEPTION_NMI, has_payload ? ev->payload : 0, ev->insn_len);

    cpu->vmcs.exit_intr_info = event_info(ev);
    cpu->vmcs.exit_intr_error_code = ev->error;
    return r;
}

/* ---- delivery ---- */

uint32_t cpu_event_ext(const struct cpu_event *ev)
{
    return ev->type == VMX_EVENT_SW_INTR || ev->type == VMX_EVENT_SW_EXCEPTION ? 0 : 1;
}

/* A 64-bit gate of the IDT. */
struct gate {
    uint64_t offset;
    uint16_t selector;
    uint8_t type, ist;
};

/*  63      32 31    16 15 14..13 12..8  7..3  2..0 | 31     16 15     0
 * | offset 63..32     |P | DPL  | type | 0   | IST  | selector | offset | */
static enum cpu_result gate_read(struct cpu *cpu, const struct cpu_event *ev, struct gate *g)
{
    uint32_t idt_error = ev->vector * 8u + 2u + cpu_event_ext(ev);
    uint64_t raw[2];

    if (ev->vector * 16u + 15u > cpu->vmcs.guest_idtr_limit) {
        return cpu_raise_gp(cpu, idt_error);
    }
    enum cpu_result r = cpu_read(cpu, cpu->vmcs.guest_idtr_base + ev->vector * 16u, raw, 16, cpu_implicit_idx(cpu));
    if (r != CPU_NEXT) {
        return r;
    }
    unsigned type = (unsigned)(raw[0] >> 40) & 0x1f;
    unsigned dpl = (unsigned)(raw[0] >> 45) & 3;
    if ((type != SYS_INT_GATE && type != SYS_TRAP_GATE) || (raw[1] >> 40 & 0x1f) != 0) {
        return cpu_raise_gp(cpu, idt_error);
    }
    if ((ev->type == VMX_EVENT_SW_INTR || ev->type == VMX_EVENT_SW_EXCEPTION) && dpl < cpu_cpl(cpu)) {
        return cpu_raise_gp(cpu, idt_error);
    }
    if ((raw[0] >> 47 & 1) == 0) {
        return cpu_raise_error(cpu, X86_EXC_NP, idt_error);
    }
    g->offset = (raw[0] & 0xffff) | (raw[0] >> 32 & 0xffff0000) | raw[1] << 32;
    g->selector = (uint16_t)(raw[0] >> 16);
    g->type = (uint8_t)type;
    g->ist = (uint8_t)(raw[0] >> 32) & 7;
    return CPU_NEXT;
}

/* RFLAGS as pushed: RF tells the handler's IRET not to repeat an instruction breakpoint (SDM 3B 18.3.1.1). */
uint64_t cpu_event_rflags(const struct cpu *cpu, const struct cpu_event *ev)
{
    bool fault = ev->type == VMX_EVENT_HW_EXCEPTION && ev->vector != X86_EXC_DB && ev->vector != X86_EXC_DF &&
                 ev->vector != X86_EXC_MC && ev->vector != X86_EXC_BP && ev->vector != X86_EXC_OF;

    return cpu_rflags(cpu) | (fault ? X86_FLAGS_RF : 0);
}

static enum cpu_result deliver_64(struct cpu *cpu, const struct cpu_event *ev)
{
    struct vmcs *v = &cpu->vmcs;
    uint32_t ext = cpu_event_ext(ev);
    struct gate gate = {0};
    struct cpu_descriptor cs;
    unsigned cpl;
    uint64_t rsp = cpu->gpr[X86_RSP];

    enum cpu_result r = gate_read(cpu, ev, &gate);
    if (r == CPU_NEXT) {
        r = cpu_code_descriptor(cpu, gate.selector, CODE_INTERRUPT, ext, &cs);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    cpl = ar_is_conforming(cs.access_rights) ? cpu_cpl(cpu) : ar_dpl(cs.access_rights);
    bool inner = cpl < cpu_cpl(cpu);
    if (inner || gate.ist != 0) {
        r = cpu_tss_stack(cpu, cpl, gate.ist, &rsp, ext);
        if (r != CPU_NEXT) {
            return r;
        }
    } else if (!cpu_is_canonical(cpu, rsp)) {
        return cpu_raise_error(cpu, X86_EXC_SS, ext);
    }
    if (!cpu_is_canonical(cpu, gate.offset)) {
        return cpu_raise_gp(cpu, ext);
    }
    r = cpu_descriptor_set_accessed(cpu, &cs);
    if (r != CPU_NEXT) {
        return r;
    }

    uint64_t frame[6] = {
        ev->error,
        cpu->rip + ev->insn_len,
        v->guest_seg[X86_CS].selector,
        cpu_event_rflags(cpu, ev),
        cpu->gpr[X86_RSP],
        v->guest_seg[X86_SS].selector,
    };
    unsigned skip = ev->has_error ? 0 : 1;
    unsigned bytes = (6 - skip) * 8;
    rsp = (rsp & ~0xfull) - bytes;
    r = cpu_write(cpu, rsp, frame + skip, bytes, cpu_idx_at_cpl(cpu, cpl));
    if (r != CPU_NEXT && !(r == CPU_EXIT && cpu_mmio_posted(cpu))) {
        return r;
    }

    /* Nothing can fail from here. */
    cpu_segment_set(cpu, X86_CS, (uint16_t)((gate.selector & ~3u) | cpl), &cs);
    if (inner) {
        cpu_segment_set_null(cpu, X86_SS, (uint16_t)cpl, cpl);
    }
    cpu->gpr[X86_RSP] = rsp;
    cpu->rip = gate.offset;
    cpu->rflags &= ~(X86_FLAGS_TF | X86_FLAGS_NT | X86_FLAGS_RF | X86_FLAGS_VM);
    if (gate.type == SYS_INT_GATE) {
        cpu->iflag = 0;
    }
    if (ev->type == VMX_EVENT_NMI) {
        cpu->nmi_blocked = true;
    }
    cpu->intr_shadow = 0;
    cpu_update_mode(cpu);
    return r == CPU_EXIT ? CPU_EXIT : CPU_JUMP;
}

static enum cpu_result deliver_once(struct cpu *cpu, const struct cpu_event *ev)
{
    return cpu_in_long_mode(cpu)   ? deliver_64(cpu, ev)
           : cpu_in_real_mode(cpu) ? cpu_deliver_real(cpu, ev)
                                   : cpu_deliver_legacy(cpu, ev);
}

/* What the processor notes of an exception before it looks at the IDT. */
static void commit_payload(struct cpu *cpu, const struct cpu_event *ev)
{
    if (ev->type != VMX_EVENT_HW_EXCEPTION || !ev->raised) {
        return; /* injected: the hypervisor has set CR2 and DR6 */
    }
    if (ev->vector == X86_EXC_PF) {
        cpu->cr2 = ev->payload;
    } else if (ev->vector == X86_EXC_DB) {
        cpu->dr6 = (cpu->dr6 & ~0xfull) | ev->payload | DR6_ACTIVE_LOW;
        cpu->vmcs.guest_dr7 &= ~(uint64_t)DR7_GD;
        cpu->vmcs.guest_ia32_debugctl &= ~3ull; /* LBR, BTF */
    }
}

enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE_FAULT };

static enum fault_class fault_class(const struct cpu_event *ev)
{
    static const uint32_t contributory = 1u << X86_EXC_DE | 1u << X86_EXC_TS | 1u << X86_EXC_NP | 1u << X86_EXC_SS |
                                         1u << X86_EXC_GP | 1u << 21 /* #CP */;

    if (ev->type != VMX_EVENT_HW_EXCEPTION) {
        return CLASS_BENIGN;
    }
    if (ev->vector == X86_EXC_PF || ev->vector == 20 /* #VE */) {
        return CLASS_PAGE_FAULT;
    }
    if (ev->vector == X86_EXC_DF) {
        return CLASS_DOUBLE_FAULT;
    }
    return ev->vector < 32 && (contributory >> ev->vector & 1) != 0 ? CLASS_CONTRIBUTORY : CLASS_BENIGN;
}

/* SDM 3A table 6-5: does a fault of `second` while `first` is delivered escalate? */
static bool escalates(enum fault_class first, enum fault_class second)
{
    switch (first) {
    case CLASS_CONTRIBUTORY:
        return second == CLASS_CONTRIBUTORY;
    case CLASS_PAGE_FAULT:
    case CLASS_DOUBLE_FAULT:
        return second == CLASS_CONTRIBUTORY || second == CLASS_PAGE_FAULT;
    default:
        return false;
    }
}

enum cpu_result cpu_deliver_event(struct cpu *cpu)
{
    struct cpu_event ev = cpu->event;
    struct cpu_event original = {.valid = false}; /* whose delivery led to ev, if still to be reported */

    /* Each turn delivers ev or replaces it by what its delivery raised; #DF bounds the chain. */
    for (;;) {
        cpu->event.valid = false;
        if (cpu_event_intercepted(cpu, &ev)) {
            enum cpu_result r = event_exit(cpu, &ev);
            if (original.valid) {
                set_vectoring(cpu, &original);
            }
            return r;
        }
        commit_payload(cpu, &ev);
        cpu->stats[event_is_exception(&ev) ? CPU_STAT_EXCEPTIONS : CPU_STAT_INTERRUPTS]++;
        enum cpu_result r = deliver_once(cpu, &ev);
        if (r == CPU_EXIT && !cpu_mmio_posted(cpu)) {
            set_vectoring(cpu, &ev);
        }
        if (r != CPU_FAULT) {
            return r;
        }

        struct cpu_event second = cpu->event;
        if (!escalates(fault_class(&ev), fault_class(&second))) {
            original = ev;
            ev = second;
            continue;
        }
        if (cpu_event_intercepted(cpu, &second)) {
            cpu->event.valid = false;
            r = event_exit(cpu, &second);
            set_vectoring(cpu, &ev);
            return r;
        }
        if (fault_class(&ev) == CLASS_DOUBLE_FAULT) {
            cpu->event.valid = false;
            return cpu_vmexit(cpu, VMX_EXIT_TRIPLE_FAULT, 0, 0);
        }
        commit_payload(cpu, &second);
        original.valid = false; /* SDM 3C 28.2.4: an exit by #DF reports no vectoring */
        ev = (struct cpu_event){.valid = true,
                                .raised = true,
                                .vector = X86_EXC_DF,
                                .type = VMX_EVENT_HW_EXCEPTION,
                                .has_error = !cpu_in_real_mode(cpu)};
    }
}
