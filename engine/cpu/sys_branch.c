/* SPDX-License-Identifier: MIT */
/*
 * Far control transfers: far CALL, JMP and RET, IRET, SYSCALL, SYSENTER and their returns, and the
 * software interrupts (SDM 2, the instructions' pages; SDM 3A 5.8). Each reads and checks all that
 * it needs, stores its frame in one write, and then changes registers.
 */
#include "cpu/sys.h"

#define AR_TYPE_CODE 8u
#define AR_TYPE_CONFORMING 4u
#define AR_TYPE_RW 2u
#define SYS_CALL_GATE 12u
/* Present, S, accessed code or data, flat; DPL is added. */
#define AR_FLAT_CODE64 (X86_AR_P | X86_AR_S | 0xbu | X86_AR_L | X86_AR_G)
#define AR_FLAT_CODE32 (X86_AR_P | X86_AR_S | 0xbu | X86_AR_DB | X86_AR_G)
#define AR_FLAT_DATA (X86_AR_P | X86_AR_S | 0x3u | X86_AR_DB | X86_AR_G)
#define AR_DPL3 (3u << X86_AR_DPL_SHIFT)

static unsigned ar_dpl(uint32_t ar)
{
    return (ar & X86_AR_DPL) >> X86_AR_DPL_SHIFT;
}

static bool ar_is_code(uint32_t ar)
{
    return (ar & (X86_AR_S | AR_TYPE_CODE)) == (X86_AR_S | AR_TYPE_CODE);
}

/* A result after which registers change: done, or done with the store posted to MMIO. */
static bool stored(const struct cpu *cpu, enum cpu_result r)
{
    return r == CPU_NEXT || (r == CPU_EXIT && cpu_mmio_posted(cpu));
}

static enum cpu_result jumped(struct cpu *cpu, enum cpu_result r)
{
    cpu_update_mode(cpu);
    return r == CPU_EXIT ? CPU_EXIT : CPU_JUMP;
}

/* Target check for a new RIP in segment `ar`: canonical in 64-bit code, within the limit otherwise. */
static bool rip_is_valid(const struct cpu *cpu, uint64_t rip, const struct cpu_descriptor *cs)
{
    if (cpu_in_long_mode(cpu) && (cs->access_rights & X86_AR_L) != 0) {
        return x86_is_canonical(rip);
    }
    return rip <= cs->limit;
}

/* ---- far CALL and JMP ---- */

struct far_target {
    uint64_t rip;
    uint16_t selector;
    unsigned cpl; /* after the transfer */
    bool gate;    /* through a call gate: 64-bit pushes */
    bool inner;   /* through a call gate to more privilege: the stack switches */
    struct cpu_descriptor cs;
};

static enum cpu_result read_far_pointer(struct cpu *cpu, unsigned bytes, struct far_target *t)
{
    uint8_t raw[10];

    enum cpu_result r = cpu_read(cpu, cpu->ea, raw, bytes + 2, cpu_mmu_idx(cpu));
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

/* Checks common to every code segment that a transfer arrives in, after its privilege was checked. */
static enum cpu_result check_code_common(struct cpu *cpu, const struct cpu_descriptor *d, uint32_t error)
{
    if ((d->access_rights & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, X86_EXC_NP, error);
    }
    if (cpu_in_long_mode(cpu) && (d->access_rights & (X86_AR_L | X86_AR_DB)) == (X86_AR_L | X86_AR_DB)) {
        return cpu_raise_gp(cpu, error);
    }
    return CPU_NEXT;
}

/* A code segment named directly by the far pointer. */
static enum cpu_result resolve_direct(struct cpu *cpu, struct far_target *t)
{
    uint32_t ar = t->cs.access_rights, error = t->selector & ~3u;
    unsigned cpl = cpu_cpl(cpu), rpl = t->selector & 3u, dpl = ar_dpl(ar);
    bool good = (ar & AR_TYPE_CONFORMING) != 0 ? dpl <= cpl : dpl == cpl && rpl <= cpl;

    if (!good) {
        return cpu_raise_gp(cpu, error);
    }
    enum cpu_result r = check_code_common(cpu, &t->cs, error);
    if (r != CPU_NEXT) {
        return r;
    }
    t->cpl = cpl;
    t->gate = t->inner = false;
    return rip_is_valid(cpu, t->rip, &t->cs) ? CPU_NEXT : cpu_raise_gp(cpu, 0);
}

/* A 64-bit call gate (SDM 3A 5.8.3.1). */
static enum cpu_result resolve_gate(struct cpu *cpu, struct far_target *t, bool call)
{
    struct cpu_descriptor gate = t->cs;
    uint32_t error = t->selector & ~3u;
    unsigned cpl = cpu_cpl(cpu), rpl = t->selector & 3u;
    bool found;

    if (ar_dpl(gate.access_rights) < cpl || ar_dpl(gate.access_rights) < rpl) {
        return cpu_raise_gp(cpu, error);
    }
    if ((gate.access_rights & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, X86_EXC_NP, error);
    }
    t->selector = gate.gate_selector;
    t->rip = gate.gate_offset;
    error = t->selector & ~3u;
    if (error == 0) {
        return cpu_raise_gp(cpu, 0);
    }
    enum cpu_result r = cpu_descriptor_read(cpu, t->selector, false, &t->cs, &found);
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = t->cs.access_rights;
    bool conforming = (ar & AR_TYPE_CONFORMING) != 0;
    bool dpl_ok = call || conforming ? ar_dpl(ar) <= cpl : ar_dpl(ar) == cpl;
    if (!found || !ar_is_code(ar) || !dpl_ok || (ar & (X86_AR_L | X86_AR_DB)) != X86_AR_L) {
        return cpu_raise_gp(cpu, error);
    }
    if ((ar & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, X86_EXC_NP, error);
    }
    t->gate = true;
    t->inner = call && !conforming && ar_dpl(ar) < cpl;
    t->cpl = t->inner ? ar_dpl(ar) : cpl;
    return x86_is_canonical(t->rip) ? CPU_NEXT : cpu_raise_gp(cpu, 0);
}

static enum cpu_result resolve(struct cpu *cpu, uint32_t arg, bool call, struct far_target *t)
{
    uint32_t error;
    bool found;

    enum cpu_result r = read_far_pointer(cpu, HELPER_ARG_OPSIZE(arg), t);
    if (r != CPU_NEXT) {
        return r;
    }
    error = t->selector & ~3u;
    if (error == 0) {
        return cpu_raise_gp(cpu, 0);
    }
    r = cpu_descriptor_read(cpu, t->selector, true, &t->cs, &found);
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = t->cs.access_rights;
    if (found && ar_is_code(ar)) {
        r = resolve_direct(cpu, t);
    } else if (found && (ar & (X86_AR_S | X86_AR_TYPE)) == SYS_CALL_GATE && cpu_in_long_mode(cpu)) {
        r = resolve_gate(cpu, t, call);
    } else {
        r = cpu_raise_gp(cpu, error); /* TSS and task gates too: none in IA-32e mode */
    }
    return r == CPU_NEXT ? cpu_descriptor_set_accessed(cpu, &t->cs) : r;
}

static void enter_target(struct cpu *cpu, const struct far_target *t)
{
    cpu_segment_set(cpu, X86_CS, (uint16_t)((t->selector & ~3u) | t->cpl), &t->cs);
    cpu->rip = t->rip;
}

enum cpu_result sys_jmp_far(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct far_target t;

    (void)len;
    enum cpu_result r = resolve(cpu, arg, false, &t);
    if (r != CPU_NEXT) {
        return r;
    }
    enter_target(cpu, &t);
    return jumped(cpu, r);
}

/* Pushes n words of `bytes` each, first one deepest; *rsp moves. */
static enum cpu_result push_words(struct cpu *cpu, uint64_t *rsp, const uint64_t *words, unsigned n, unsigned bytes,
                                  enum mmu_idx idx)
{
    uint8_t raw[32];

    for (unsigned i = 0; i < n; i++) {
        for (unsigned b = 0; b < bytes; b++) {
            raw[(n - 1 - i) * bytes + b] = (uint8_t)(words[i] >> (8 * b));
        }
    }
    uint64_t top = *rsp - n * bytes;
    if (!x86_is_canonical(top) || !x86_is_canonical(*rsp - 1)) {
        return cpu_raise_error(cpu, X86_EXC_SS, 0);
    }
    enum cpu_result r = cpu_write(cpu, top, raw, n * bytes, idx);
    if (stored(cpu, r)) {
        *rsp = top;
    }
    return r;
}

enum cpu_result sys_call_far(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;
    uint64_t rsp = cpu->gpr[X86_RSP];
    struct far_target t;

    enum cpu_result r = resolve(cpu, arg, true, &t);
    if (r != CPU_NEXT) {
        return r;
    }
    uint64_t words[4] = {v->guest_seg[X86_SS].selector, rsp, v->guest_seg[X86_CS].selector, cpu->rip + len};
    if (t.inner) {
        r = cpu_tss_stack(cpu, t.cpl, 0, &rsp, 0);
        if (r != CPU_NEXT) {
            return r;
        }
        r = push_words(cpu, &rsp, words, 4, 8, cpu_idx_at_cpl(cpu, t.cpl));
    } else {
        r = push_words(cpu, &rsp, words + 2, 2, t.gate ? 8 : HELPER_ARG_OPSIZE(arg), cpu_mmu_idx(cpu));
    }
    if (!stored(cpu, r)) {
        return r;
    }
    enter_target(cpu, &t);
    if (t.inner) {
        cpu_segment_set_null(cpu, X86_SS, (uint16_t)t.cpl, t.cpl);
    }
    cpu->gpr[X86_RSP] = rsp;
    return jumped(cpu, r);
}

/* ---- far RET and IRET ---- */

static uint64_t stack_word(const uint8_t *raw, unsigned index, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned b = bytes; b-- > 0;) {
        value = value << 8 | raw[index * bytes + b];
    }
    return value;
}

/* The code segment that RET or IRET goes back to. */
static enum cpu_result return_code_segment(struct cpu *cpu, uint16_t selector, uint64_t rip, struct cpu_descriptor *d)
{
    uint32_t error = selector & ~3u;
    unsigned rpl = selector & 3u;
    bool found;

    if (error == 0) {
        return cpu_raise_gp(cpu, 0);
    }
    enum cpu_result r = cpu_descriptor_read(cpu, selector, false, d, &found);
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = d->access_rights;
    bool dpl_ok = (ar & AR_TYPE_CONFORMING) != 0 ? ar_dpl(ar) <= rpl : ar_dpl(ar) == rpl;
    if (!found || !ar_is_code(ar) || rpl < cpu_cpl(cpu) || !dpl_ok) {
        return cpu_raise_gp(cpu, error);
    }
    r = check_code_common(cpu, d, error);
    if (r == CPU_NEXT && !rip_is_valid(cpu, rip, d)) {
        r = cpu_raise_gp(cpu, 0);
    }
    return r == CPU_NEXT ? cpu_descriptor_set_accessed(cpu, d) : r;
}

/* The stack segment that a return loads. *null: a null selector, allowed for 64-bit code below CPL 3. */
static enum cpu_result return_stack_segment(struct cpu *cpu, uint16_t selector, unsigned cpl, bool to_64,
                                            struct cpu_descriptor *d, bool *null)
{
    uint32_t error = selector & ~3u;
    bool found;

    *null = error == 0;
    if (*null) {
        bool ok = to_64 && cpl != 3 && (selector & 3u) == cpl;
        return ok ? CPU_NEXT : cpu_raise_gp(cpu, 0);
    }
    enum cpu_result r = cpu_descriptor_read(cpu, selector, false, d, &found);
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = d->access_rights;
    if (!found || (selector & 3u) != cpl || (ar & (X86_AR_S | AR_TYPE_CODE | AR_TYPE_RW)) != (X86_AR_S | AR_TYPE_RW) ||
        ar_dpl(ar) != cpl) {
        return cpu_raise_gp(cpu, error);
    }
    if ((ar & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, X86_EXC_SS, error);
    }
    return cpu_descriptor_set_accessed(cpu, d);
}

/* A return to less privilege drops data segments that the outer level may not use (SDM 3A 5.8.6). */
static void drop_inner_segments(struct cpu *cpu, unsigned cpl)
{
    static const unsigned segs[] = {X86_ES, X86_FS, X86_GS, X86_DS};

    for (size_t i = 0; i < KAGE_ARRAY_SIZE(segs); i++) {
        const struct vmcs_segment *s = &cpu->vmcs.guest_seg[segs[i]];
        uint32_t ar = s->access_rights;
        bool conforming = ar_is_code(ar) && (ar & AR_TYPE_CONFORMING) != 0;
        if ((ar & X86_AR_UNUSABLE) == 0 && !conforming && ar_dpl(ar) < cpl) {
            uint64_t base = s->base;
            cpu_segment_set_null(cpu, segs[i], 0, 0);
            cpu->vmcs.guest_seg[segs[i]].base = base;
        }
    }
}

static void set_stack(struct cpu *cpu, uint16_t selector, unsigned cpl, const struct cpu_descriptor *ss, bool null)
{
    if (null) {
        cpu_segment_set_null(cpu, X86_SS, selector, cpl);
    } else {
        cpu_segment_set(cpu, X86_SS, selector, ss);
    }
}

enum cpu_result sys_ret_far(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg), cpl = cpu_cpl(cpu);
    uint64_t rsp = cpu->gpr[X86_RSP], release = (uint16_t)cpu->imm;
    struct cpu_descriptor cs, ss;
    uint8_t raw[16];
    bool null;

    (void)len;
    enum cpu_result r = cpu_stack_result(cpu, cpu_read(cpu, rsp, raw, 2 * bytes, cpu_mmu_idx(cpu)));
    if (r != CPU_NEXT) {
        return r;
    }
    uint64_t rip = stack_word(raw, 0, bytes);
    uint16_t selector = (uint16_t)stack_word(raw, 1, bytes);
    r = return_code_segment(cpu, selector, rip, &cs);
    if (r != CPU_NEXT) {
        return r;
    }
    unsigned rpl = selector & 3u;
    if (rpl == cpl) {
        cpu_segment_set(cpu, X86_CS, selector, &cs);
        cpu->rip = rip;
        cpu->gpr[X86_RSP] = rsp + 2 * bytes + release;
        return jumped(cpu, CPU_NEXT);
    }
    r = cpu_stack_result(cpu, cpu_read(cpu, rsp + 2 * bytes + release, raw, 2 * bytes, cpu_mmu_idx(cpu)));
    if (r != CPU_NEXT) {
        return r;
    }
    uint64_t new_rsp = stack_word(raw, 0, bytes) + release;
    uint16_t ss_selector = (uint16_t)stack_word(raw, 1, bytes);
    r = return_stack_segment(cpu, ss_selector, rpl, (cs.access_rights & X86_AR_L) != 0, &ss, &null);
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_segment_set(cpu, X86_CS, selector, &cs);
    set_stack(cpu, ss_selector, rpl, &ss, null);
    cpu->rip = rip;
    cpu->gpr[X86_RSP] = new_rsp;
    drop_inner_segments(cpu, rpl);
    return jumped(cpu, CPU_NEXT);
}

/* Flags that IRET may change at the privilege level it runs at. */
static uint64_t iret_flags(const struct cpu *cpu, uint64_t value, unsigned bytes)
{
    uint32_t changes = X86_FLAGS_ARITH | X86_FLAGS_TF | X86_FLAGS_DF | X86_FLAGS_NT;
    unsigned cpl = cpu_cpl(cpu);

    if (bytes != 2) {
        /* RF matters, and is cleared by the run loop after an instruction, only if breakpoints are armed. */
        value &= (cpu->mode & CPU_MODE_BREAK) != 0 ? ~0ull : ~(uint64_t)X86_FLAGS_RF;
        changes |= X86_FLAGS_RF | X86_FLAGS_AC | X86_FLAGS_ID;
    }
    if (cpl <= (cpu->rflags & X86_FLAGS_IOPL) >> X86_FLAGS_IOPL_SHIFT) {
        changes |= X86_FLAGS_IF;
    }
    if (cpl == 0) {
        changes |= X86_FLAGS_IOPL | (bytes != 2 ? X86_FLAGS_VIF | X86_FLAGS_VIP : 0);
    }
    return (cpu_rflags(cpu) & ~(uint64_t)changes) | (value & changes);
}

static enum cpu_result iret(struct cpu *cpu, unsigned bytes)
{
    uint64_t rsp = cpu->gpr[X86_RSP];
    struct cpu_descriptor cs, ss;
    uint8_t raw[40];
    bool null = false;

    if ((cpu->rflags & X86_FLAGS_NT) != 0) {
        return cpu_raise_gp(cpu, 0); /* task returns do not exist in IA-32e mode */
    }
    /* In 64-bit mode SS:RSP is popped whatever the privilege levels. */
    enum cpu_result r = cpu_stack_result(cpu, cpu_read(cpu, rsp, raw, 5 * bytes, cpu_mmu_idx(cpu)));
    if (r != CPU_NEXT) {
        return r;
    }
    uint64_t rip = stack_word(raw, 0, bytes), flags = stack_word(raw, 2, bytes);
    uint16_t selector = (uint16_t)stack_word(raw, 1, bytes), ss_selector = (uint16_t)stack_word(raw, 4, bytes);
    unsigned rpl = selector & 3u, cpl = cpu_cpl(cpu);
    r = return_code_segment(cpu, selector, rip, &cs);
    if (r == CPU_NEXT) {
        r = return_stack_segment(cpu, ss_selector, rpl, (cs.access_rights & X86_AR_L) != 0, &ss, &null);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_set_rflags(cpu, iret_flags(cpu, flags, bytes));
    cpu_segment_set(cpu, X86_CS, selector, &cs);
    set_stack(cpu, ss_selector, rpl, &ss, null);
    cpu->rip = rip;
    cpu->gpr[X86_RSP] = stack_word(raw, 3, bytes);
    if (rpl > cpl) {
        drop_inner_segments(cpu, rpl);
    }
    return jumped(cpu, CPU_NEXT);
}

enum cpu_result sys_iret(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    enum cpu_result r = iret(cpu, HELPER_ARG_OPSIZE(arg));
    if (r != CPU_EXIT) {
        cpu->nmi_blocked = false; /* also if it faults (SDM 3A 6.7.1) */
    }
    return r;
}

/* ---- SYSCALL and SYSENTER ---- */

enum cpu_result sys_syscall(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;
    uint16_t selector = (uint16_t)(cpu->msr_star >> 32) & 0xfffc;

    (void)arg;
    if ((v->guest_ia32_efer & X86_EFER_SCE) == 0 || (cpu->mode & CPU_MODE_LONG) == 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    uint64_t flags = cpu_rflags(cpu);
    cpu->gpr[X86_RCX] = cpu->rip + len;
    cpu->gpr[X86_R11] = flags & ~(uint64_t)X86_FLAGS_RF;
    cpu->rip = cpu->msr_lstar;
    cpu_set_rflags(cpu, flags & ~cpu->msr_syscall_mask & ~(uint64_t)X86_FLAGS_RF);
    cpu_segment_set_flat(cpu, X86_CS, selector, AR_FLAT_CODE64);
    cpu_segment_set_flat(cpu, X86_SS, (uint16_t)(selector + 8), AR_FLAT_DATA);
    return jumped(cpu, CPU_NEXT);
}

enum cpu_result sys_sysret(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;
    bool to_64 = HELPER_ARG_OPSIZE(arg) == 8;
    uint16_t base = (uint16_t)(cpu->msr_star >> 48);
    uint64_t rip = cpu->gpr[X86_RCX];

    (void)len;
    if ((v->guest_ia32_efer & X86_EFER_SCE) == 0 || (cpu->mode & CPU_MODE_LONG) == 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (cpu_cpl(cpu) != 0 || (to_64 && !x86_is_canonical(rip))) {
        return cpu_raise_gp(cpu, 0);
    }
    cpu->rip = to_64 ? rip : (uint32_t)rip;
    cpu_set_rflags(cpu, cpu->gpr[X86_R11] & 0x3c7fd7); /* RF, VM and reserved bits clear (SDM 2B) */
    uint16_t cs = (uint16_t)((to_64 ? base + 16 : base) | 3), ss = (uint16_t)((base + 8) | 3);
    cpu_segment_set_flat(cpu, X86_CS, cs, (to_64 ? AR_FLAT_CODE64 : AR_FLAT_CODE32) | AR_DPL3);
    cpu_segment_set_flat(cpu, X86_SS, ss, AR_FLAT_DATA | AR_DPL3);
    return jumped(cpu, CPU_NEXT);
}

enum cpu_result sys_sysenter(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;
    uint16_t selector = (uint16_t)v->guest_sysenter_cs & 0xfffc;

    (void)arg;
    (void)len;
    if (cpu->no_sysenter64 && cpu_in_long_mode(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if ((v->guest_cr0 & X86_CR0_PE) == 0 || selector == 0) {
        return cpu_raise_gp(cpu, 0);
    }
    bool lm = cpu_in_long_mode(cpu);
    cpu->rflags &= ~(X86_FLAGS_VM | X86_FLAGS_RF);
    cpu->iflag = 0;
    cpu->gpr[X86_RSP] = lm ? v->guest_sysenter_esp : (uint32_t)v->guest_sysenter_esp;
    cpu->rip = lm ? v->guest_sysenter_eip : (uint32_t)v->guest_sysenter_eip;
    cpu_segment_set_flat(cpu, X86_CS, selector, lm ? AR_FLAT_CODE64 : AR_FLAT_CODE32);
    cpu_segment_set_flat(cpu, X86_SS, (uint16_t)(selector + 8), AR_FLAT_DATA);
    return jumped(cpu, CPU_NEXT);
}

enum cpu_result sys_sysexit(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;
    bool to_64 = HELPER_ARG_OPSIZE(arg) == 8;
    uint16_t base = (uint16_t)v->guest_sysenter_cs;
    uint64_t rip = cpu->gpr[X86_RDX], rsp = cpu->gpr[X86_RCX];

    (void)len;
    if (cpu_cpl(cpu) != 0) { /* on AMD, too, before the mode is looked at */
        return cpu_raise_gp(cpu, 0);
    }
    if (cpu->no_sysenter64 && cpu_in_long_mode(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if ((base & 0xfffcu) == 0 || (v->guest_cr0 & X86_CR0_PE) == 0 ||
        (to_64 && (!x86_is_canonical(rip) || !x86_is_canonical(rsp)))) {
        return cpu_raise_gp(cpu, 0);
    }
    cpu->rip = to_64 ? rip : (uint32_t)rip;
    cpu->gpr[X86_RSP] = to_64 ? rsp : (uint32_t)rsp;
    uint16_t cs = (uint16_t)(base + (to_64 ? 32 : 16)) | 3, ss = (uint16_t)((base + (to_64 ? 40 : 24)) | 3);
    cpu_segment_set_flat(cpu, X86_CS, cs, (to_64 ? AR_FLAT_CODE64 : AR_FLAT_CODE32) | AR_DPL3);
    cpu_segment_set_flat(cpu, X86_SS, ss, AR_FLAT_DATA | AR_DPL3);
    return jumped(cpu, CPU_NEXT);
}

/* ---- software interrupts ---- */

enum cpu_result sys_int(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return cpu_raise_software(cpu, HELPER_ARG_IMM8(arg), VMX_EVENT_SW_INTR, len);
}

enum cpu_result sys_int3(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    return cpu_raise_software(cpu, X86_EXC_BP, VMX_EVENT_SW_EXCEPTION, len);
}

enum cpu_result sys_int1(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    return cpu_raise_software(cpu, X86_EXC_DB, VMX_EVENT_PRIV_SW_EXCEPTION, len);
}
