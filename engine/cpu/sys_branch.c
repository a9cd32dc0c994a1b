/* SPDX-License-Identifier: MIT */
/*
 * Far CALL and JMP in every mode: direct, through call gates, to tasks (SDM 2A, CALL and JMP; SDM 3A
 * 5.8). Each reads and checks all that it needs, stores its frame in one write, and then changes
 * registers.
 */
#include "cpu/segment.h"

struct far_target {
    uint64_t rip;
    uint16_t selector;
    unsigned cpl;        /* after the transfer */
    unsigned gate_bytes; /* through a call gate: size of what is pushed, else 0 */
    unsigned gate_words; /* parameters that the gate copies */
    bool inner;          /* through a call gate to more privilege: the stack switches */
    struct cpu_descriptor cs;
};

/* The operand: an immediate in cpu->imm, or a pointer in memory. */
static enum cpu_result read_far_pointer(struct cpu *cpu, uint32_t arg, struct far_target *t)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg);
    uint8_t raw[10];

    if (!HELPER_ARG_IS_MEM(arg)) {
        t->rip = (uint32_t)cpu->imm & cpu_size_mask(bytes);
        t->selector = (uint16_t)(cpu->imm >> 32);
        return CPU_NEXT;
    }
    enum cpu_result r = cpu_operand(cpu, arg, bytes + 2, MMU_READ);
    if (r == CPU_NEXT) {
        r = cpu_check_aligned(cpu, cpu->ea, bytes);
    }
    if (r == CPU_NEXT) {
        r = cpu_read(cpu, cpu->ea, raw, bytes + 2, cpu_mmu_idx(cpu));
    }
    if (r != CPU_NEXT) {
        return r;
    }
    t->rip = 0;
    for (unsigned i = bytes; i-- > 0;) {
        t->rip = t->rip << 8 | raw[i];
    }
    t->selector = (uint16_t)(raw[bytes] | raw[bytes + 1] << 8);
    return CPU_NEXT;
}

/* A gate may be used from its DPL inward, by CPL and by RPL (SDM 3A 5.8.4). */
static enum cpu_result check_gate(struct cpu *cpu, uint16_t selector, const struct cpu_descriptor *gate)
{
    uint32_t ar = gate->access_rights;

    if (ar_dpl(ar) < cpu_cpl(cpu) || ar_dpl(ar) < (selector & 3u)) {
        return cpu_raise_gp(cpu, selector_error(selector, 0));
    }
    return (ar & X86_AR_P) == 0 ? cpu_raise_error(cpu, X86_EXC_NP, selector_error(selector, 0)) : CPU_NEXT;
}

/* A code segment named directly by the far pointer. */
static enum cpu_result resolve_direct(struct cpu *cpu, struct far_target *t)
{
    enum cpu_result r = cpu_code_descriptor(cpu, t->selector, CODE_DIRECT, 0, &t->cs);

    t->cpl = cpu_cpl(cpu);
    return r == CPU_NEXT ? cpu_check_rip(cpu, t->rip, &t->cs, 0) : r;
}

/* A call gate; in IA-32e mode it is a 64-bit one (SDM 3A 5.8.3.1). The stack is checked before RIP: later. */
static enum cpu_result resolve_gate(struct cpu *cpu, struct far_target *t, bool call)
{
    struct cpu_descriptor gate = t->cs;
    bool gate16 = ar_kind(gate.access_rights) == SYS_CALL_GATE16;
    unsigned cpl = cpu_cpl(cpu);

    enum cpu_result r = check_gate(cpu, t->selector, &gate);
    if (r != CPU_NEXT) {
        return r;
    }
    t->selector = gate.gate_selector;
    t->rip = gate16 ? (uint16_t)gate.gate_offset : gate.gate_offset;
    t->gate_bytes = cpu_in_long_mode(cpu) ? 8 : gate16 ? 2 : 4;
    t->gate_words = cpu_in_long_mode(cpu) ? 0 : gate.gate_words;
    r = cpu_code_descriptor(cpu, t->selector, call ? CODE_CALL_GATE : CODE_JMP_GATE, 0, &t->cs);
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = t->cs.access_rights;
    t->inner = call && !ar_is_conforming(ar) && ar_dpl(ar) < cpl;
    t->cpl = t->inner ? ar_dpl(ar) : cpl;
    return t->inner && !cpu_in_long_mode(cpu) ? CPU_NEXT : cpu_check_rip(cpu, t->rip, &t->cs, 0);
}

#define CALL_GATES (1u << SYS_CALL_GATE | 1u << SYS_CALL_GATE16)
#define TSS_AVAILABLE (1u << SYS_TSS | 1u << SYS_TSS16)
#define TSS_ANY (TSS_AVAILABLE | 1u << SYS_TSS_BUSY | 1u << SYS_TSS16_BUSY)

/* A TSS or task gate: the whole transfer is a task switch. */
static enum cpu_result far_task(struct cpu *cpu, struct far_target *t, bool call, uint32_t len)
{
    uint16_t selector = t->selector;

    enum cpu_result r = check_gate(cpu, selector, &t->cs);
    if (ar_kind(t->cs.access_rights) == SYS_TASK_GATE) {
        selector = t->cs.gate_selector;
    } else if (r == CPU_FAULT && cpu->event.vector == X86_EXC_NP && !ar_is_system(t->cs.access_rights, TSS_AVAILABLE)) {
        r = cpu_raise_gp(cpu, selector_error(selector, 0)); /* busy comes before not present */
    }
    if (r != CPU_NEXT) {
        return r;
    }
    return cpu_task_switch(
        cpu, selector,
        &(struct task_switch){.how = call ? TASK_CALL : TASK_JMP, .rip = cpu_next_rip(cpu, len), .rflags = cpu_rflags(cpu)});
}

/* Works out where a far JMP or CALL in protected mode goes. CPU_JUMP: it was a task switch, which is done. */
static enum cpu_result resolve(struct cpu *cpu, struct far_target *t, bool call, uint32_t len)
{
    uint32_t error = selector_error(t->selector, 0);
    bool found;

    if (selector_is_null(t->selector)) {
        return cpu_raise_gp(cpu, 0);
    }
    enum cpu_result r = cpu_descriptor_read(cpu, t->selector, true, &t->cs, &found);
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = t->cs.access_rights;
    if (found && ar_is_code(ar)) {
        r = resolve_direct(cpu, t);
    } else if (found && ar_is_system(ar, cpu_in_long_mode(cpu) ? 1u << SYS_CALL_GATE : CALL_GATES)) {
        r = resolve_gate(cpu, t, call);
    } else if (found && !cpu_in_long_mode(cpu) && ar_is_system(ar, TSS_ANY | 1u << SYS_TASK_GATE)) {
        return far_task(cpu, t, call, len);
    } else {
        r = cpu_raise_gp(cpu, error); /* IA-32e mode has no tasks to switch to */
    }
    return r == CPU_NEXT ? cpu_descriptor_set_accessed(cpu, &t->cs) : r;
}

/* Real and virtual-8086 mode: any selector, and the limit that CS has (SDM 2A, JMP). */
static enum cpu_result resolve_real(struct cpu *cpu, const struct far_target *t)
{
    uint32_t limit = cpu_in_v86_mode(cpu) ? 0xffff : cpu->vmcs.guest_seg[X86_CS].limit;

    return t->rip <= limit ? CPU_NEXT : cpu_raise_gp(cpu, 0);
}

static void enter_target(struct cpu *cpu, const struct far_target *t)
{
    if (cpu_is_protected(cpu)) {
        cpu_segment_set(cpu, X86_CS, (uint16_t)((t->selector & ~3u) | t->cpl), &t->cs);
    } else {
        cpu_segment_set_real(cpu, X86_CS, t->selector);
    }
    cpu->rip = t->rip;
}

enum cpu_result sys_jmp_far(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct far_target t = {0};

    enum cpu_result r = read_far_pointer(cpu, arg, &t);
    if (r == CPU_NEXT) {
        r = cpu_is_protected(cpu) ? resolve(cpu, &t, false, len) : resolve_real(cpu, &t);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    enter_target(cpu, &t);
    return cpu_jumped(cpu, r);
}

/* The stack that a call gate switches to, and what is on it before the return address. */
static enum cpu_result push_inner(struct cpu *cpu, const struct far_target *t, const uint64_t ret[4], struct cpu_stack *st)
{
    struct cpu_stack old;
    uint64_t words[CPU_FRAME_WORDS], params[32];
    unsigned n = t->gate_words;

    if (cpu_in_long_mode(cpu)) {
        *st = (struct cpu_stack){.bytes = 8, .idx = cpu_idx_at_cpl(cpu, t->cpl)};
        enum cpu_result r = cpu_tss_stack(cpu, t->cpl, 0, &st->sp, 0);
        return r == CPU_NEXT ? cpu_stack_push(cpu, st, ret, 4, 8) : r;
    }
    enum cpu_result r = cpu_tss_legacy_stack(cpu, t->cpl, 0, st);
    if (r == CPU_NEXT && n != 0) {
        cpu_stack_current(cpu, &old, 0);
        r = cpu_stack_read(cpu, &old, 0, params, n, t->gate_bytes);
    }
    if (r == CPU_NEXT) {
        r = cpu_stack_check(cpu, st, n + 4, t->gate_bytes);
    }
    if (r == CPU_NEXT) {
        r = cpu_check_rip(cpu, t->rip, &t->cs, 0);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    words[0] = ret[0];
    words[1] = ret[1];
    for (unsigned i = 0; i < n; i++) {
        words[2 + i] = params[n - 1 - i];
    }
    words[2 + n] = ret[2];
    words[3 + n] = ret[3];
    return cpu_stack_push(cpu, st, words, n + 4, t->gate_bytes);
}

enum cpu_result sys_call_far(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;
    struct far_target t = {0};
    struct cpu_stack st;

    enum cpu_result r = read_far_pointer(cpu, arg, &t);
    if (r == CPU_NEXT) {
        r = cpu_is_protected(cpu) ? resolve(cpu, &t, true, len) : resolve_real(cpu, &t);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    uint64_t words[4] = {v->guest_seg[X86_SS].selector, cpu->gpr[X86_RSP], v->guest_seg[X86_CS].selector,
                         cpu_next_rip(cpu, len)};
    if (t.inner) {
        r = push_inner(cpu, &t, words, &st);
    } else {
        cpu_stack_current(cpu, &st, 0);
        if (t.gate_bytes == 8 && st.bytes != 8) { /* from compatibility mode into 64-bit code: its stack already */
            st = (struct cpu_stack){.sp = cpu->gpr[X86_RSP], .bytes = 8, .idx = st.idx};
        }
        r = cpu_stack_push(cpu, &st, words + 2, 2, t.gate_bytes != 0 ? t.gate_bytes : HELPER_ARG_OPSIZE(arg));
    }
    if (!cpu_stored(cpu, r)) {
        return r;
    }
    enter_target(cpu, &t);
    if (t.inner && st.bytes == 8) {
        cpu_segment_set_null(cpu, X86_SS, (uint16_t)t.cpl, t.cpl);
    } else if (t.inner) {
        v->guest_seg[X86_SS] = st.ss;
    }
    cpu_set_gpr(cpu, X86_RSP, st.bytes, st.sp);
    return cpu_jumped(cpu, r);
}
