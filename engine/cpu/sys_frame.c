/* SPDX-License-Identifier: MIT */
/*
 * Frames on stacks of every width: what far calls, gates and interrupts push and their returns pop.
 * A frame is checked whole, segment limit and pages, before a byte of it is written.
 */
#include "cpu/segment.h"

static bool is_expand_down(uint32_t ar)
{
    return (ar & (X86_AR_S | AR_TYPE_CODE | AR_TYPE_EXPAND_DOWN)) == (X86_AR_S | AR_TYPE_EXPAND_DOWN);
}

void cpu_stack_current(const struct cpu *cpu, struct cpu_stack *st, uint32_t error)
{
    const struct vmcs_segment *ss = &cpu->vmcs.guest_seg[X86_SS];

    *st = (struct cpu_stack){
        .ss = *ss,
        .sp = cpu_sp(cpu),
        .bytes = cpu_stack_bytes(cpu),
        .expand_down = cpu_is_protected(cpu) && is_expand_down(ss->access_rights),
        .aligned = true,
        .idx = cpu_mmu_idx(cpu),
        .error = error,
    };
}

void cpu_stack_from_descriptor(const struct cpu *cpu, struct cpu_stack *st, uint16_t selector,
                               const struct cpu_descriptor *d, uint64_t sp, unsigned cpl, uint32_t error)
{
    unsigned bytes = (d->access_rights & X86_AR_DB) != 0 ? 4 : 2;

    *st = (struct cpu_stack){
        .ss = {.base = d->base, .limit = d->limit, .access_rights = d->access_rights, .selector = selector},
        .sp = sp & cpu_size_mask(bytes),
        .bytes = bytes,
        .expand_down = is_expand_down(d->access_rights),
        .idx = cpu_idx_at_cpl(cpu, cpl),
        .error = error,
    };
}

/* Linear address of the bytes at an offset of the stack, or #SS. */
static enum cpu_result stack_linear(struct cpu *cpu, const struct cpu_stack *st, uint64_t offset, unsigned len, gva_t *va)
{
    const struct vmcs_segment *ss = &st->ss;
    uint64_t last = offset + len - 1;
    bool good;

    if (st->bytes == 8) {
        good = cpu_is_canonical(cpu, offset) && cpu_is_canonical(cpu, last);
        *va = offset;
    } else {
        uint64_t top = (ss->access_rights & X86_AR_DB) != 0 ? UINT32_MAX : UINT16_MAX;
        good = st->expand_down ? offset > ss->limit && last <= top : last <= ss->limit;
        good = good && (!cpu_is_protected(cpu) || (ss->access_rights & X86_AR_UNUSABLE) == 0);
        *va = (uint32_t)(ss->base + offset);
    }
    return good ? CPU_NEXT : cpu_raise_error(cpu, X86_EXC_SS, st->error);
}

/* A frame in one piece, or in two where the stack pointer wraps; each word begins below the wrap. */
struct frame_piece {
    gva_t va;
    unsigned words;
};

static enum cpu_result frame_pieces(struct cpu *cpu, const struct cpu_stack *st, uint64_t offset, unsigned n,
                                    unsigned bytes, struct frame_piece p[2])
{
    uint64_t mask = cpu_size_mask(st->bytes);

    p[0].words = n;
    if (st->bytes != 8 && (mask - offset) / bytes + 1 < n) {
        p[0].words = (unsigned)((mask - offset) / bytes) + 1;
    }
    p[1].words = n - p[0].words;
    enum cpu_result r = stack_linear(cpu, st, offset, p[0].words * bytes, &p[0].va);
    if (r == CPU_NEXT && p[1].words != 0) {
        r = stack_linear(cpu, st, (offset + (uint64_t)p[0].words * bytes) & mask, p[1].words * bytes, &p[1].va);
    }
    if (r == CPU_NEXT && st->aligned) {
        r = cpu_check_aligned(cpu, p[0].va, bytes);
    }
    return r;
}

/* What paging and canonical checks raise as #GP is the stack's #SS. */
static enum cpu_result stack_fault(struct cpu *cpu, const struct cpu_stack *st, enum cpu_result r)
{
    if (r == CPU_FAULT && cpu->event.vector == X86_EXC_GP) {
        cpu->event.vector = X86_EXC_SS;
        cpu->event.error = st->error;
    }
    return r;
}

static enum cpu_result probe_pieces(struct cpu *cpu, const struct cpu_stack *st, const struct frame_piece p[2],
                                    unsigned bytes)
{
    enum cpu_result r = CPU_NEXT;

    for (unsigned i = 0; i < 2 && r == CPU_NEXT && p[i].words != 0; i++) {
        r = cpu_probe(cpu, p[i].va, p[i].words * bytes, MMU_WRITE, st->idx);
    }
    return stack_fault(cpu, st, r);
}

enum cpu_result cpu_stack_check(struct cpu *cpu, const struct cpu_stack *st, unsigned n, unsigned bytes)
{
    struct frame_piece p[2];

    enum cpu_result r = frame_pieces(cpu, st, cpu_stack_above(st, 0 - (uint64_t)n * bytes), n, bytes, p);
    return r == CPU_NEXT ? probe_pieces(cpu, st, p, bytes) : r;
}

enum cpu_result cpu_stack_push(struct cpu *cpu, struct cpu_stack *st, const uint64_t *words, unsigned n, unsigned bytes)
{
    uint64_t top = cpu_stack_above(st, 0 - (uint64_t)n * bytes);
    uint8_t raw[CPU_FRAME_WORDS * 8];
    struct frame_piece p[2];

    for (unsigned i = 0; i < n; i++) {
        __builtin_memcpy(raw + (n - 1 - i) * bytes, &words[i], bytes); /* little-endian: the low bytes */
    }
    enum cpu_result r = frame_pieces(cpu, st, top, n, bytes, p);
    if (r == CPU_NEXT && p[1].words != 0) {
        r = probe_pieces(cpu, st, p, bytes);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    r = stack_fault(cpu, st, cpu_write(cpu, p[0].va, raw, p[0].words * bytes, st->idx));
    if (r == CPU_NEXT && p[1].words != 0) {
        r = stack_fault(cpu, st, cpu_write(cpu, p[1].va, raw + p[0].words * bytes, p[1].words * bytes, st->idx));
    } else if (r == CPU_EXIT && p[1].words != 0 && cpu_mmio_posted(cpu)) {
        cpu_mmio_consume(cpu); /* a stack in a device's registers that wraps */
        r = cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 0, 0);
    }
    if (cpu_stored(cpu, r)) {
        st->sp = top;
    }
    return r;
}

enum cpu_result cpu_stack_read(struct cpu *cpu, const struct cpu_stack *st, uint64_t skip, uint64_t *words, unsigned n,
                               unsigned bytes)
{
    uint8_t raw[CPU_FRAME_WORDS * 8];
    struct frame_piece p[2];

    enum cpu_result r = frame_pieces(cpu, st, cpu_stack_above(st, skip), n, bytes, p);
    if (r == CPU_NEXT && bytes == 8) { /* as they are, and in one piece: only 64-bit stacks have such words */
        return stack_fault(cpu, st, cpu_read(cpu, p[0].va, words, n * 8, st->idx));
    }
    if (r == CPU_NEXT) {
        r = cpu_read(cpu, p[0].va, raw, p[0].words * bytes, st->idx);
    }
    if (r == CPU_NEXT && p[1].words != 0) {
        r = cpu_read(cpu, p[1].va, raw + p[0].words * bytes, p[1].words * bytes, st->idx);
    }
    if (r != CPU_NEXT) {
        return stack_fault(cpu, st, r);
    }
    for (unsigned i = 0; i < n; i++) {
        words[i] = 0;
        __builtin_memcpy(&words[i], raw + i * bytes, bytes);
    }
    return CPU_NEXT;
}
