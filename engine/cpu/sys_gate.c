/* SPDX-License-Identifier: MIT */
/*
 * Delivery of exceptions and interrupts outside IA-32e mode: through the IVT in real mode, and in
 * virtual-8086 mode where CR4.VME redirects INT n; through 16- and 32-bit gates and task gates of the
 * IDT else (SDM 2A, INT n; SDM 3A 6.12, 20.1.4, 20.2, 20.3). As in sys_event.c, an event is delivered
 * whole or not at all; a task gate alone can fault behind the switch.
 */
#include "cpu/segment.h"

#define TSS_IO_MAP_BASE 102u
#define REDIRECTION_BYTES 32u

/* ---- IVT ---- */

/* CS:IP of the IVT's entry at `va`: pushes FLAGS, CS and IP as words. */
static enum cpu_result enter_vector(struct cpu *cpu, const struct cpu_event *ev, gva_t va, uint64_t flags)
{
    uint64_t words[3] = {flags, cpu->vmcs.guest_seg[X86_CS].selector, cpu_next_rip(cpu, ev->insn_len)};
    uint32_t limit = cpu_in_v86_mode(cpu) ? 0xffff : cpu->vmcs.guest_seg[X86_CS].limit;
    struct cpu_stack st;
    uint16_t target[2];

    enum cpu_result r = cpu_read(cpu, cpu_system_va(cpu, va), target, sizeof(target), cpu_implicit_idx(cpu));
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_stack_current(cpu, &st, 0);
    if (target[0] > limit) {
        r = cpu_stack_check(cpu, &st, 3, 2);
        return r == CPU_NEXT ? cpu_raise_gp(cpu, 0) : r;
    }
    r = cpu_stack_push(cpu, &st, words, 3, 2);
    if (cpu_stored(cpu, r)) {
        cpu_set_sp(cpu, st.sp);
        cpu_segment_set_real(cpu, X86_CS, target[1]);
        cpu->rip = target[0];
    }
    return r;
}

static void note_delivery(struct cpu *cpu, const struct cpu_event *ev)
{
    if (ev->type == VMX_EVENT_NMI) {
        cpu->nmi_blocked = true;
    }
    cpu->intr_shadow = 0;
}

enum cpu_result cpu_deliver_real(struct cpu *cpu, const struct cpu_event *ev)
{
    if (ev->vector * 4u + 3u > cpu->vmcs.guest_idtr_limit) {
        return cpu_raise_gp(cpu, ev->vector * 8u + 2u + cpu_event_ext(ev));
    }
    enum cpu_result r =
        enter_vector(cpu, ev, cpu->vmcs.guest_idtr_base + ev->vector * 4u, cpu_event_rflags(cpu, ev));
    if (!cpu_stored(cpu, r)) {
        return r;
    }
    cpu->rflags &= ~(X86_FLAGS_TF | X86_FLAGS_AC | X86_FLAGS_RF);
    cpu->iflag = 0;
    note_delivery(cpu, ev);
    return cpu_jumped(cpu, r);
}

/* Is INT n of virtual-8086 mode for the program's own IVT? The bit before the I/O map says 0 (SDM 3A 20.3.3). */
static enum cpu_result is_redirected(struct cpu *cpu, unsigned vector, bool *redirected)
{
    const struct vmcs_segment *tr = &cpu->vmcs.guest_seg[X86_TR];
    uint16_t io_map;
    uint8_t byte;

    if (tr->limit < TSS_IO_MAP_BASE + 1) {
        return cpu_raise_gp(cpu, 0);
    }
    enum cpu_result r =
        cpu_read(cpu, cpu_system_va(cpu, tr->base + TSS_IO_MAP_BASE), &io_map, 2, cpu_implicit_idx(cpu));
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t offset = io_map - REDIRECTION_BYTES + vector / 8;
    if (io_map < REDIRECTION_BYTES || offset > tr->limit) {
        return cpu_raise_gp(cpu, 0);
    }
    r = cpu_read(cpu, cpu_system_va(cpu, tr->base + offset), &byte, 1, cpu_implicit_idx(cpu));
    *redirected = (byte >> (vector & 7) & 1) == 0;
    return r;
}

/* Below IOPL 3 the program sees VIF in place of IF, and IOPL 3 (SDM 3A 20.3.3.4, methods 5 and 6). */
static enum cpu_result deliver_redirected(struct cpu *cpu, const struct cpu_event *ev)
{
    uint64_t flags = cpu_rflags(cpu);
    bool virtual_if = cpu_iopl(cpu) < 3;

    if (virtual_if) {
        flags = (flags & ~(uint64_t)X86_FLAGS_IF) | X86_FLAGS_IOPL | ((flags & X86_FLAGS_VIF) != 0 ? X86_FLAGS_IF : 0);
    }
    enum cpu_result r = enter_vector(cpu, ev, ev->vector * 4u, flags);
    if (!cpu_stored(cpu, r)) {
        return r;
    }
    cpu->rflags &= ~(X86_FLAGS_TF | X86_FLAGS_RF | (virtual_if ? X86_FLAGS_VIF : 0));
    if (!virtual_if) {
        cpu->iflag = 0;
    }
    return cpu_jumped(cpu, r);
}

/* ---- IDT ---- */

struct gate {
    uint32_t offset;
    uint16_t selector;
    uint8_t type; /* SYS_* */
};

#define GATES (1u << SYS_TASK_GATE | 1u << SYS_INT_GATE16 | 1u << SYS_TRAP_GATE16 | 1u << SYS_INT_GATE | 1u << SYS_TRAP_GATE)

/*  63          48 47 46..45 44..40 39..32 31     16 15         0
 * | offset 31..16 |P | DPL  | type |   0  | selector | offset 15..0 | */
static enum cpu_result gate_read(struct cpu *cpu, const struct cpu_event *ev, struct gate *g)
{
    const struct vmcs *v = &cpu->vmcs;
    uint32_t idt_error = ev->vector * 8u + 2u + cpu_event_ext(ev);
    uint64_t raw;

    if (ev->vector * 8u + 7u > v->guest_idtr_limit) {
        return cpu_raise_gp(cpu, idt_error);
    }
    gva_t va = cpu_system_va(cpu, v->guest_idtr_base + ev->vector * 8u);
    enum cpu_result r = cpu_read(cpu, va, &raw, 8, cpu_implicit_idx(cpu));
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = (uint32_t)(raw >> 40) & 0xff;
    bool software = ev->type == VMX_EVENT_SW_INTR || ev->type == VMX_EVENT_SW_EXCEPTION;
    if (!ar_is_system(ar, GATES) || (software && ar_dpl(ar) < cpu_cpl(cpu))) {
        return cpu_raise_gp(cpu, idt_error);
    }
    if ((ar & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, X86_EXC_NP, idt_error);
    }
    g->type = ar & X86_AR_TYPE;
    g->selector = (uint16_t)(raw >> 16);
    g->offset = (uint32_t)(raw & 0xffff) | (g->type >= SYS_INT_GATE ? (uint32_t)(raw >> 32) & 0xffff0000 : 0);
    return CPU_NEXT;
}

/* The outer level's words of a frame, deepest first; SS and ESP only if the stack switches, the rest from virtual-8086 mode. */
static unsigned outer_words(const struct cpu *cpu, bool inner, uint64_t *words)
{
    static const uint8_t order[] = {X86_GS, X86_FS, X86_DS, X86_ES, X86_SS};
    unsigned n = 0;

    for (unsigned i = inner ? cpu_in_v86_mode(cpu) ? 0 : 4 : 5; i < KAGE_ARRAY_SIZE(order); i++) {
        words[n++] = cpu->vmcs.guest_seg[order[i]].selector;
    }
    if (inner) {
        words[n++] = cpu->gpr[X86_RSP];
    }
    return n;
}

static enum cpu_result enter_handler(struct cpu *cpu, const struct cpu_event *ev, const struct gate *g,
                                     struct cpu_descriptor *cs, unsigned cpl, struct cpu_stack *st, bool inner)
{
    bool v86 = cpu_in_v86_mode(cpu);
    unsigned bytes = g->type >= SYS_INT_GATE ? 4 : 2;
    uint64_t words[10];
    unsigned n = outer_words(cpu, inner, words);

    words[n++] = cpu_event_rflags(cpu, ev);
    words[n++] = cpu->vmcs.guest_seg[X86_CS].selector;
    words[n++] = cpu_next_rip(cpu, ev->insn_len);
    if (ev->has_error) {
        words[n++] = ev->error;
    }
    if (g->offset > cs->limit) {
        enum cpu_result r = cpu_stack_check(cpu, st, n, bytes);
        return r == CPU_NEXT ? cpu_raise_gp(cpu, cpu_event_ext(ev)) : r;
    }
    enum cpu_result r = cpu_descriptor_set_accessed(cpu, cs);
    if (r == CPU_NEXT) {
        r = cpu_stack_push(cpu, st, words, n, bytes);
    }
    if (!cpu_stored(cpu, r)) {
        return r;
    }
    /* Nothing can fail from here. */
    cpu_segment_set(cpu, X86_CS, (uint16_t)((g->selector & ~3u) | cpl), cs);
    if (inner) {
        cpu->vmcs.guest_seg[X86_SS] = st->ss;
    }
    for (unsigned seg = X86_ES; v86 && seg <= X86_GS; seg++) {
        if (seg != X86_CS && seg != X86_SS) {
            cpu_segment_set_null(cpu, seg, 0, 0);
        }
    }
    cpu_set_gpr(cpu, X86_RSP, st->bytes, st->sp);
    cpu->rip = g->offset;
    cpu->rflags &= ~(X86_FLAGS_TF | X86_FLAGS_NT | X86_FLAGS_RF | X86_FLAGS_VM);
    if (g->type == SYS_INT_GATE || g->type == SYS_INT_GATE16) {
        cpu->iflag = 0;
    }
    return cpu_jumped(cpu, r);
}

static enum cpu_result deliver_code(struct cpu *cpu, const struct cpu_event *ev, const struct gate *g)
{
    uint32_t ext = cpu_event_ext(ev);
    unsigned cpl = cpu_cpl(cpu);
    struct cpu_descriptor cs;
    struct cpu_stack st;

    enum cpu_result r = cpu_code_descriptor(cpu, g->selector, CODE_INTERRUPT, ext, &cs);
    if (r != CPU_NEXT) {
        return r;
    }
    bool inner = !ar_is_conforming(cs.access_rights) && ar_dpl(cs.access_rights) < cpl;
    unsigned new_cpl = inner ? ar_dpl(cs.access_rights) : cpl;
    if (cpu_in_v86_mode(cpu) && (!inner || new_cpl != 0)) {
        return cpu_raise_gp(cpu, selector_error(g->selector, ext)); /* virtual-8086 mode is left for CPL 0 only */
    }
    if (inner) {
        r = cpu_tss_legacy_stack(cpu, new_cpl, ext, &st);
    } else {
        cpu_stack_current(cpu, &st, ext);
    }
    return r == CPU_NEXT ? enter_handler(cpu, ev, g, &cs, new_cpl, &st, inner) : r;
}

enum cpu_result cpu_deliver_legacy(struct cpu *cpu, const struct cpu_event *ev)
{
    struct gate g = {0};
    enum cpu_result r;

    if (cpu_in_v86_mode(cpu) && ev->type == VMX_EVENT_SW_INTR && (cpu->vmcs.guest_cr4 & X86_CR4_VME) != 0) {
        bool redirected = false;
        r = is_redirected(cpu, ev->vector, &redirected);
        if (r == CPU_NEXT && redirected) {
            r = deliver_redirected(cpu, ev);
            cpu->intr_shadow = 0;
            return r;
        }
        if (r == CPU_NEXT && cpu_iopl(cpu) < 3) {
            r = cpu_raise_gp(cpu, 0);
        }
        if (r != CPU_NEXT) {
            return r;
        }
    }
    r = gate_read(cpu, ev, &g);
    if (r != CPU_NEXT) {
        return r;
    }
    if (g.type == SYS_TASK_GATE) {
        r = cpu_task_switch(cpu, g.selector,
                            &(struct task_switch){.how = TASK_EVENT,
                                                  .rip = cpu_next_rip(cpu, ev->insn_len),
                                                  .rflags = cpu_event_rflags(cpu, ev),
                                                  .ext = cpu_event_ext(ev),
                                                  .has_error = ev->has_error,
                                                  .error = ev->error});
    } else {
        r = deliver_code(cpu, ev, &g);
    }
    if (r == CPU_JUMP || cpu_stored(cpu, r)) {
        note_delivery(cpu, ev);
        cpu_update_mode(cpu);
    }
    return r;
}
