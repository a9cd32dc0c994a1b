/* SPDX-License-Identifier: MIT */
/*
 * Far RET and IRET in every mode (SDM 2A, IRET; SDM 2B, RET; SDM 3A 5.8.6, 20.2): to the same and to
 * an outer privilege level, to virtual-8086 mode, and from a nested task.
 */
#include "cpu/segment.h"

/* The stack segment that a return loads. *null: a null selector, allowed for 64-bit code below CPL 3. */
static enum cpu_result return_stack_segment(struct cpu *cpu, uint16_t selector, unsigned cpl, bool to_64,
                                            struct cpu_descriptor *d, bool *null)
{
    *null = selector_is_null(selector);
    if (*null) {
        bool ok = to_64 && cpl != 3 && (selector & 3u) == cpl;
        return ok ? CPU_NEXT : cpu_raise_gp(cpu, 0);
    }
    return cpu_stack_descriptor(cpu, selector, cpl, X86_EXC_GP, 0, d);
}

/* A return to less privilege drops data segments that the outer level may not use (SDM 3A 5.8.6). */
static void drop_inner_segments(struct cpu *cpu, unsigned cpl)
{
    static const unsigned segs[] = {X86_ES, X86_FS, X86_GS, X86_DS};

    for (size_t i = 0; i < KAGE_ARRAY_SIZE(segs); i++) {
        const struct vmcs_segment *s = &cpu->vmcs.guest_seg[segs[i]];
        uint32_t ar = s->access_rights;
        if ((ar & X86_AR_UNUSABLE) == 0 && !ar_is_conforming(ar) && ar_dpl(ar) < cpl) {
            uint64_t base = s->base;
            cpu_segment_set_null(cpu, segs[i], 0, 0);
            cpu->vmcs.guest_seg[segs[i]].base = base;
        }
    }
}

/* Where a return leads: all of it is read and checked before any of it is set. */
struct return_target {
    uint64_t rip, sp;
    uint16_t cs_selector, ss_selector;
    bool pops_stack, null_ss; /* SS:SP come from the stack */
    struct cpu_descriptor cs, ss;
};

/* Checks SS, if it is popped, then RIP, and marks both descriptors accessed. */
static enum cpu_result check_return(struct cpu *cpu, struct return_target *t)
{
    enum cpu_result r = CPU_NEXT;

    t->null_ss = false;
    if (t->pops_stack) {
        r = return_stack_segment(cpu, t->ss_selector, t->cs_selector & 3u, (t->cs.access_rights & X86_AR_L) != 0,
                                 &t->ss, &t->null_ss);
    }
    if (r == CPU_NEXT) {
        r = cpu_check_rip(cpu, t->rip, &t->cs, 0);
    }
    if (r == CPU_NEXT) {
        r = cpu_descriptor_set_accessed(cpu, &t->cs);
    }
    if (r == CPU_NEXT && t->pops_stack && !t->null_ss) {
        r = cpu_descriptor_set_accessed(cpu, &t->ss);
    }
    return r;
}

/* RSP becomes t->sp, as wide as the stack pointer is there: an outer 16-bit stack takes SP only. */
static enum cpu_result enter_return(struct cpu *cpu, const struct return_target *t)
{
    unsigned cpl = cpu_cpl(cpu), rpl = t->cs_selector & 3u;

    cpu_segment_set(cpu, X86_CS, t->cs_selector, &t->cs);
    if (t->null_ss) {
        cpu_segment_set_null(cpu, X86_SS, t->ss_selector, rpl);
    } else if (t->pops_stack) {
        cpu_segment_set(cpu, X86_SS, t->ss_selector, &t->ss);
    }
    cpu->rip = t->rip;
    if (rpl > cpl) {
        drop_inner_segments(cpu, rpl);
    }
    cpu_update_mode(cpu);
    cpu_set_sp(cpu, t->sp);
    return CPU_JUMP;
}

/* Real and virtual-8086 mode: CS:IP without checks but the limit's. */
static enum cpu_result check_real_ip(struct cpu *cpu, uint64_t rip)
{
    uint32_t limit = cpu_in_v86_mode(cpu) ? 0xffff : cpu->vmcs.guest_seg[X86_CS].limit;

    return rip <= limit ? CPU_NEXT : cpu_raise_gp(cpu, 0);
}

enum cpu_result sys_ret_far(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg);
    uint64_t release = (uint16_t)cpu->imm, words[2];
    struct return_target t;
    struct cpu_stack st;

    (void)len;
    cpu_stack_current(cpu, &st, 0);
    enum cpu_result r = cpu_stack_read(cpu, &st, 0, words, 2, bytes);
    if (r != CPU_NEXT) {
        return r;
    }
    t.rip = words[0];
    t.cs_selector = (uint16_t)words[1];
    t.sp = cpu_stack_above(&st, 2 * bytes + release);
    if (!cpu_is_protected(cpu)) {
        r = check_real_ip(cpu, t.rip);
        if (r == CPU_NEXT) {
            cpu_segment_set_real(cpu, X86_CS, t.cs_selector);
            cpu->rip = t.rip;
            cpu_set_sp(cpu, t.sp);
            r = cpu_jumped(cpu, r);
        }
        return r;
    }
    r = cpu_code_descriptor(cpu, t.cs_selector, CODE_RETURN, 0, &t.cs);
    t.pops_stack = (t.cs_selector & 3u) != cpu_cpl(cpu);
    if (r == CPU_NEXT && t.pops_stack) {
        r = cpu_stack_read(cpu, &st, 2 * bytes + release, words, 2, bytes);
        t.sp = words[0] + release;
        t.ss_selector = (uint16_t)words[1];
    }
    if (r == CPU_NEXT) {
        r = check_return(cpu, &t);
    }
    return r == CPU_NEXT ? enter_return(cpu, &t) : r;
}

/* ---- IRET ---- */

/* Flags that IRET may change at the privilege level it runs at. */
static uint32_t iret_changes(const struct cpu *cpu, unsigned bytes)
{
    uint32_t changes = X86_FLAGS_ARITH | X86_FLAGS_TF | X86_FLAGS_DF | X86_FLAGS_NT;
    unsigned cpl = cpu_cpl(cpu);

    if (bytes != 2) {
        changes |= X86_FLAGS_RF | X86_FLAGS_AC | X86_FLAGS_ID;
    }
    if (cpl <= cpu_iopl(cpu)) {
        changes |= X86_FLAGS_IF;
    }
    if (cpl == 0) {
        /* The real-mode form leaves VIF and VIP (SDM 2A, IRET). */
        changes |= X86_FLAGS_IOPL | (bytes != 2 && !cpu_in_real_mode(cpu) ? X86_FLAGS_VIF | X86_FLAGS_VIP : 0);
    }
    return changes;
}

static void set_flags(struct cpu *cpu, uint64_t value, uint32_t changes)
{
    /* RF matters, and is cleared by the run loop after an instruction, only if breakpoints are armed. */
    value &= (cpu->mode & CPU_MODE_BREAK) != 0 ? ~0ull : ~(uint64_t)X86_FLAGS_RF;
    cpu_set_rflags(cpu, (cpu_rflags(cpu) & ~(uint64_t)changes) | (value & changes));
}

/* 64-bit code: SS:RSP is popped whatever the privilege levels. */
static enum cpu_result iret_64(struct cpu *cpu, unsigned bytes)
{
    struct cpu_stack st;
    struct return_target t;
    uint64_t words[5];

    if ((cpu->rflags & X86_FLAGS_NT) != 0) {
        return cpu_raise_gp(cpu, 0); /* task returns do not exist in IA-32e mode */
    }
    cpu_stack_current(cpu, &st, 0);
    enum cpu_result r = cpu_stack_read(cpu, &st, 0, words, 5, bytes);
    if (r != CPU_NEXT) {
        return r;
    }
    t.rip = words[0];
    t.cs_selector = (uint16_t)words[1];
    t.sp = words[3];
    t.ss_selector = (uint16_t)words[4];
    t.pops_stack = true;
    r = cpu_code_descriptor(cpu, t.cs_selector, CODE_RETURN, 0, &t.cs);
    if (r == CPU_NEXT) {
        r = check_return(cpu, &t);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    set_flags(cpu, words[2], iret_changes(cpu, bytes));
    return enter_return(cpu, &t);
}

/* Real mode, and virtual-8086 mode at IOPL 3 or by CR4.VME (SDM 2A, IRET; SDM 3A 20.2.4, table 20-2). */
static enum cpu_result iret_real(struct cpu *cpu, unsigned bytes)
{
    bool v86 = cpu_in_v86_mode(cpu), virtual_if = v86 && cpu_iopl(cpu) < 3;
    struct cpu_stack st;
    uint64_t words[3];

    if (virtual_if && ((cpu->vmcs.guest_cr4 & X86_CR4_VME) == 0 || bytes != 2)) {
        return cpu_raise_gp(cpu, 0); /* the monitor's */
    }
    cpu_stack_current(cpu, &st, 0);
    enum cpu_result r = cpu_stack_read(cpu, &st, 0, words, 3, bytes);
    if (r == CPU_NEXT) {
        r = check_real_ip(cpu, words[0]);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t changes = iret_changes(cpu, bytes);
    uint64_t flags = words[2];
    if (virtual_if) {
        if ((flags & X86_FLAGS_TF) != 0 || ((flags & X86_FLAGS_IF) != 0 && (cpu->rflags & X86_FLAGS_VIP) != 0)) {
            return cpu_raise_gp(cpu, 0);
        }
        flags = (flags & ~(uint64_t)X86_FLAGS_VIF) | ((flags & X86_FLAGS_IF) != 0 ? X86_FLAGS_VIF : 0);
        changes |= X86_FLAGS_VIF;
    }
    cpu_segment_set_real(cpu, X86_CS, (uint16_t)words[1]);
    cpu->rip = words[0];
    cpu_set_sp(cpu, cpu_stack_above(&st, 3 * bytes));
    set_flags(cpu, flags, changes);
    return cpu_jumped(cpu, CPU_NEXT);
}

/* From a monitor at CPL 0 to virtual-8086 mode: nine words, and nothing of them is checked but EIP. */
static enum cpu_result iret_to_v86(struct cpu *cpu, const struct cpu_stack *st)
{
    static const uint8_t order[] = {X86_SS, X86_ES, X86_DS, X86_FS, X86_GS};
    uint64_t words[9];

    enum cpu_result r = cpu_stack_read(cpu, st, 0, words, 9, 4);
    if (r == CPU_NEXT && words[0] > 0xffff) {
        r = cpu_raise_gp(cpu, 0);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    set_flags(cpu, words[2], X86_FLAGS_VALID);
    cpu->vmcs.guest_seg[X86_CS] = cpu_v86_segment((uint16_t)words[1]);
    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(order); i++) {
        cpu->vmcs.guest_seg[order[i]] = cpu_v86_segment((uint16_t)words[4 + i]);
    }
    cpu->rip = words[0];
    cpu->gpr[X86_RSP] = words[3];
    return cpu_jumped(cpu, CPU_NEXT);
}

/* NT: back to the task that the link field of the TSS names (SDM 3A 7.4). */
static enum cpu_result iret_task(struct cpu *cpu, uint32_t len)
{
    uint16_t link;

    if (cpu_in_long_mode(cpu)) {
        return cpu_raise_gp(cpu, 0);
    }
    enum cpu_result r =
        cpu_read(cpu, cpu_system_va(cpu, cpu->vmcs.guest_seg[X86_TR].base), &link, 2, cpu_implicit_idx(cpu));
    if (r != CPU_NEXT) {
        return r;
    }
    return cpu_task_switch(
        cpu, link, &(struct task_switch){.how = TASK_IRET, .rip = cpu_next_rip(cpu, len), .rflags = cpu_rflags(cpu)});
}

/* 16- and 32-bit protected mode, and compatibility mode. */
static enum cpu_result iret_protected(struct cpu *cpu, unsigned bytes, uint32_t len)
{
    struct cpu_stack st;
    struct return_target t;
    uint64_t words[3], outer[2];

    if ((cpu->rflags & X86_FLAGS_NT) != 0) {
        return iret_task(cpu, len);
    }
    cpu_stack_current(cpu, &st, 0);
    enum cpu_result r = cpu_stack_read(cpu, &st, 0, words, 3, bytes);
    if (r != CPU_NEXT) {
        return r;
    }
    if (bytes == 4 && (words[2] & X86_FLAGS_VM) != 0 && cpu_cpl(cpu) == 0 && !cpu_in_long_mode(cpu)) {
        return iret_to_v86(cpu, &st);
    }
    t.rip = words[0];
    t.cs_selector = (uint16_t)words[1];
    t.sp = cpu_stack_above(&st, 3 * bytes);
    r = cpu_code_descriptor(cpu, t.cs_selector, CODE_RETURN, 0, &t.cs);
    t.pops_stack = (t.cs_selector & 3u) != cpu_cpl(cpu);
    if (r == CPU_NEXT && t.pops_stack) {
        r = cpu_stack_read(cpu, &st, 3 * bytes, outer, 2, bytes);
        t.sp = outer[0];
        t.ss_selector = (uint16_t)outer[1];
    }
    if (r == CPU_NEXT) {
        r = check_return(cpu, &t);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    set_flags(cpu, words[2], iret_changes(cpu, bytes));
    return enter_return(cpu, &t);
}

enum cpu_result sys_iret(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg);
    enum cpu_result r = cpu_in_64bit_code(cpu)   ? iret_64(cpu, bytes)
                        : cpu_is_protected(cpu) ? iret_protected(cpu, bytes, len)
                                                : iret_real(cpu, bytes);
    if (r != CPU_EXIT) {
        cpu->nmi_blocked = false; /* also if it faults (SDM 3A 6.7.1) */
    }
    return r;
}
