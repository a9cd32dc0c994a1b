/* SPDX-License-Identifier: MIT */
/*
 * Lowering of a guest memory access, in one place: address computation, the inline probe of the
 * first-level TLB, and the way to the slow path. The hot path of an access with dead flags is
 *
 *     lea   r10, [address]
 *     mov   r11d, r10d ; shr r11d, 12 ; and r11d, TLB_SIZE - 1
 *     add   r10, gs:[r11 * 8 + neg_tag]   offset in the page, if it is that page
 *     cmp   r10, 4096 - size ; ja slow
 *     add   r10, gs:[r11 * 8 + host]
 *
 * With live flags the same is done by PEXT and LEA, and the test by JRCXZ. An address that is known
 * at translation time needs no index and no offset.
 */
#include "cpu/translate.h"

#define R10 X86_R10
#define R11 X86_R11

void lower_cut_r10(struct emit *e)
{
    static const uint8_t movzx[] = {0x45, 0x0f, 0xb7, 0xd2};
    e_bytes(e, movzx, sizeof(movzx));
}

/* lea r10, [...], r10d for shorter addresses */
static void emit_lea_r10(struct trans *t, unsigned base, unsigned index, unsigned scale_log2, int32_t disp,
                         unsigned addr_bytes)
{
    struct emit *e = &t->e;

    if (addr_bytes == 8 && index == EMIT_NO_REG && disp == 0 && base != EMIT_NO_REG) {
        if (base != R10) {
            e_mov_rr(e, R10, base);
        }
        return;
    }
    e_op_mem(e, 0x8d, R10, base, index, scale_log2, disp, addr_bytes == 8);
    if (addr_bytes == 2) {
        lower_cut_r10(e);
    }
}

static uint64_t cut_address(int64_t disp, unsigned addr_bytes)
{
    return addr_bytes == 8 ? (uint64_t)disp : addr_bytes == 4 ? (uint32_t)disp : (uint16_t)disp;
}

bool lower_is_flat(const struct trans *t, unsigned seg)
{
    return seg != X86_FS && seg != X86_GS && (!t->legacy || (t->mode & CPU_MODE_FLAT(seg)) != 0);
}

void lower_address(struct trans *t, unsigned base, unsigned index, unsigned scale_log2, int64_t disp, unsigned seg,
                   unsigned addr_bytes, bool rip_relative, bool flags_live)
{
    struct emit *e = &t->e;

    if (base == BASE_SCRATCH) {
        e_load_gs(e, R10, OFF(scratch[2]));
    } else if (rip_relative || (base == EMIT_NO_REG && index == EMIT_NO_REG)) {
        e_mov_imm(e, R10, cut_address(disp, addr_bytes));
    } else {
        if (base == R10 || index == R10) {
            e_load_gs(e, R10, OFF_GPR(R10));
        }
        if (base == R11 || index == R11) {
            e_load_gs(e, R11, OFF_GPR(R11));
        }
        emit_lea_r10(t, base, index, scale_log2, (int32_t)disp, addr_bytes);
    }
    if (!t->legacy && (seg == X86_FS || seg == X86_GS)) {
        if (flags_live) {
            e_load_gs(e, R11, OFF_SEG_BASE(seg));
            e_lea(e, R10, R10, R11, 0, 0);
        } else {
            e_op_gs(e, 0x03, R10, OFF_SEG_BASE(seg), true); /* add r10, gs:[base] */
        }
    }
}

/* jcc rel32 with the field to be patched returned */
static uint8_t *emit_jcc(struct emit *e, unsigned cc)
{
    e_b(e, 0x0f);
    e_b(e, 0x80 | cc);
    uint8_t *field = e->p;
    e_d(e, 0);
    return field;
}

static uint8_t *emit_jmp(struct emit *e)
{
    e_b(e, 0xe9);
    uint8_t *field = e->p;
    e_d(e, 0);
    return field;
}

#define CC_NE 5u
#define CC_A 7u
#define CC_AE 3u

/*
 * R10, an offset in a segment that is not flat, becomes a linear address. The whole operand must end
 * before the segment does; whatever is not that simple (expand-down, not usable, not writable) has an
 * end of 0 and is the slow path's to judge.
 */
static uint8_t *emit_segment(struct trans *t, unsigned seg, unsigned rw, unsigned bytes, bool flags_live)
{
    struct emit *e = &t->e;
    uint32_t range = OFF_SEG_RANGE(seg, rw);
    uint8_t *field;

    if (!flags_live) {
        e_lea(e, R11, R10, EMIT_NO_REG, 0, (int32_t)bytes - 1);
        e_op_gs(e, 0x3b, R11, range + (uint32_t)offsetof(struct cpu_seg_range, end), true); /* cmp r11, gs:[end] */
        field = emit_jcc(e, CC_AE);
        e_op_gs(e, 0x03, R10, OFF_SEG_BASE(seg), false); /* add r10d, gs:[base] */
        return field;
    }
    e_store_gs(e, OFF_GPR(X86_RCX), X86_RCX);
    e_load_gs(e, X86_RCX, range + (uint32_t)offsetof(struct cpu_seg_range, neg_end));
    e_lea(e, X86_RCX, X86_RCX, R10, 0, (int32_t)bytes - 1); /* negative: inside */
    e_pext_gs(e, X86_RCX, X86_RCX, OFF(pext_sign));
    e_lea(e, X86_RCX, X86_RCX, EMIT_NO_REG, 0, -1);
    e_b(e, 0xe3); /* jrcxz over the jump */
    e_b(e, 5);
    field = emit_jmp(e);
    e_load_gs(e, X86_RCX, OFF_GPR(X86_RCX));
    e_load_gs(e, R11, OFF_SEG_BASE(seg));
    e_op_mem(e, 0x8d, R10, R10, R11, 0, 0, false); /* lea r10d, [r10 + r11] */
    return field;
}

static uint8_t *emit_probe_dead_flags(struct trans *t, uint32_t tlb_off, unsigned bytes)
{
    struct emit *e = &t->e;

    /* Measured: PEXT is shorter, but its load and its port cost a quarter of an access-bound loop. */
    static const uint8_t index[] = {
        0x45, 0x89, 0xd3,       /* mov r11d, r10d */
        0x41, 0xc1, 0xeb, 0x0c, /* shr r11d, 12 */
        0x41, 0x81, 0xe3,       /* and r11d, imm32 */
    };
    e_bytes(e, index, sizeof(index));
    e_d(e, TLB_SIZE - 1);
    e_op_gs_mem(e, 0x03, R10, EMIT_NO_REG, R11, 3, tlb_off);
    e_b(e, 0x49); /* cmp r10, imm32 */
    e_b(e, 0x81);
    e_b(e, 0xfa);
    e_d(e, (uint32_t)KAGE_PAGE_SIZE - bytes);
    uint8_t *field = emit_jcc(e, CC_A);
    e_op_gs_mem(e, 0x03, R10, EMIT_NO_REG, R11, 3, tlb_off + OFF_HOST);
    return field;
}

static uint8_t *emit_probe_live_flags(struct trans *t, uint32_t tlb_off, unsigned bytes)
{
    struct emit *e = &t->e;

    e_store_gs(e, OFF_GPR(X86_RCX), X86_RCX);
    e_pext_gs(e, R11, R10, OFF(pext_tlb));
    e_op_gs_mem(e, 0x8b, X86_RCX, EMIT_NO_REG, R11, 3, tlb_off);
    e_lea(e, R10, R10, X86_RCX, 0, 0);
    e_lea(e, X86_RCX, R10, EMIT_NO_REG, 0, (int32_t)bytes - 1);
    e_pext_gs(e, X86_RCX, X86_RCX, OFF(pext_page));
    e_b(e, 0xe3); /* jrcxz over the jump */
    e_b(e, 5);
    uint8_t *field = emit_jmp(e);
    e_load_gs(e, X86_RCX, OFF_GPR(X86_RCX));
    e_op_gs_mem(e, 0x8b, R11, EMIT_NO_REG, R11, 3, tlb_off + OFF_HOST);
    e_lea(e, R10, R10, R11, 0, 0);
    return field;
}

/* The address is known: compare the tag of its one entry. R10 becomes the page's host address. */
static uint8_t *emit_probe_constant(struct trans *t, uint32_t entry_off, gva_t page, bool flags_live)
{
    struct emit *e = &t->e;
    uint64_t neg = 0 - page;
    uint8_t *field;

    if (flags_live) {
        e_store_gs(e, OFF_GPR(X86_RCX), X86_RCX);
        e_load_gs(e, X86_RCX, entry_off);
        if (e_fits_s32(page)) {
            e_lea(e, X86_RCX, X86_RCX, EMIT_NO_REG, 0, (int32_t)page);
        } else {
            e_mov_imm(e, R10, page);
            e_lea(e, X86_RCX, X86_RCX, R10, 0, 0);
        }
        e_b(e, 0xe3);
        e_b(e, 5);
        field = emit_jmp(e);
        e_load_gs(e, X86_RCX, OFF_GPR(X86_RCX));
    } else if (e_fits_s32(neg)) {
        e_b(e, 0x65); /* cmp qword gs:[entry], imm32 */
        e_b(e, 0x48);
        e_b(e, 0x81);
        e_b(e, 0x3c);
        e_b(e, 0x25);
        e_d(e, entry_off);
        e_d(e, (uint32_t)neg);
        field = emit_jcc(e, CC_NE);
    } else {
        e_mov_imm(e, R10, neg);
        e_op_gs(e, 0x3b, R10, entry_off, true); /* cmp r10, gs:[entry] */
        field = emit_jcc(e, CC_NE);
    }
    e_load_gs(e, R10, entry_off + OFF_HOST);
    return field;
}

/* As lower_is_flat(), and the access needs no check of the segment's type: code is read, not written. */
static bool is_flat_for(const struct trans *t, unsigned seg, uint32_t access)
{
    return lower_is_flat(t, seg) && !(t->legacy && seg == X86_CS && (access & ACCESS_WRITE) != 0);
}

/* The note of this access: made in the dry run, looked up in the other. NULL: too many. */
static const struct access_note *note_access(struct trans *t, unsigned i, uint32_t access, unsigned bytes,
                                             unsigned base, unsigned index, unsigned scale_log2, int64_t disp,
                                             unsigned seg, unsigned addr_bytes, bool rip_relative)
{
    if (t->next_note == ACCESS_NOTES_MAX) {
        return NULL;
    }
    struct access_note *n = &t->notes[t->next_note++];
    if (!t->dry) {
        return n;
    }
    bool has_index = index != EMIT_NO_REG;
    bool can = base < 16 && base != R10 && base != R11 && index != R10 && index != R11 && is_flat_for(t, seg, access) &&
               addr_bytes == (t->legacy ? 4 : 8) && !rip_relative && !t->insns[i].high_byte &&
               (t->mode & (CPU_MODE_AC | CPU_MODE_BREAK)) == 0;
    *n = (struct access_note){
        .base = can ? (uint8_t)base : EMIT_NO_REG,
        .write = (access & ACCESS_WRITE) != 0,
        .bytes = (uint16_t)bytes,
        .index = (uint8_t)index,
        .scale_log2 = (uint8_t)scale_log2,
        .version = can ? t->version[base] : 0,
        .index_version = can && has_index ? t->version[index] + ((uint32_t)t->moved[index] << 16) : 0,
        .at = can ? (int32_t)disp + t->moved[base] : 0,
    };
    t->note_count = t->next_note;
    return n;
}

/*
 * An access whose check is shared. The leader leaves the host address of the range's first byte in
 * its slot; every access of the group is at a known distance from there.
 */
static struct mem_operand lower_shared(struct trans *t, unsigned i, const struct access_note *note, uint32_t access,
                                       unsigned bytes, bool flags_live, unsigned base, unsigned index,
                                       unsigned scale_log2, int32_t disp)
{
    struct emit *e = &t->e;
    struct mem_operand m = {.base = R10, .index = EMIT_NO_REG, .disp = note->offset};
    uint32_t slot = OFF(share) + 8u * (note->slot - 1u);

    if (!note->leader) {
        e_load_gs(e, R10, slot);
        return m;
    }
    uint32_t tlb_off = OFF_TLB(t->idx, note->write ? 1 : 0);
    struct cold *c = trans_cold(t, COLD_ACCESS, i);

    c->info = access | (flags_live ? ACCESS_FLAGS : 0) | t->idx << ACCESS_IDX_SHIFT | bytes << ACCESS_BYTES_SHIFT |
              ACCESS_SHARED | (note->write ? ACCESS_RANGE_WRITE : 0);
    c->base = (uint8_t)base;
    c->index = (uint8_t)index;
    c->scale_log2 = (uint8_t)scale_log2;
    c->seg = X86_DS;
    c->addr_bytes = t->legacy ? 4 : 8;
    c->disp = disp;
    c->share = true;
    c->share_low = -note->offset;
    c->share_bytes = note->range;
    c->restore_rcx = flags_live;
    emit_lea_r10(t, base, index, scale_log2, disp - note->offset, c->addr_bytes);
    c->from = flags_live ? emit_probe_live_flags(t, tlb_off, (unsigned)note->range)
                         : emit_probe_dead_flags(t, tlb_off, (unsigned)note->range);
    c->resume = e->p;
    e_store_gs(e, slot, R10);
    return m;
}

struct mem_operand lower_access_at(struct trans *t, unsigned i, uint32_t access, unsigned bytes, bool flags_live,
                                   unsigned base, unsigned index, unsigned scale_log2, int64_t disp, unsigned seg,
                                   unsigned addr_bytes, bool rip_relative)
{
    unsigned rw = (access & ACCESS_WRITE) != 0 ? 1 : 0;
    uint32_t tlb_off = OFF_TLB(t->idx, rw);
    bool constant = (rip_relative || (base == EMIT_NO_REG && index == EMIT_NO_REG)) && is_flat_for(t, seg, access);
    struct mem_operand m = {.base = R10, .index = EMIT_NO_REG, .disp = 0};
    uint64_t va = cut_address(disp, addr_bytes);

    if (bytes == 0 || bytes > 64) {
        t->failed = true;
        return m;
    }
    const struct access_note *note = note_access(t, i, access, bytes, base, index, scale_log2, disp, seg, addr_bytes, rip_relative);
    t->access_open = note == NULL || note->slot == 0;
    if (!t->access_open) {
        return lower_shared(t, i, note, access, bytes, flags_live, base, index, scale_log2, (int32_t)disp);
    }
    struct cold *c = trans_cold(t, COLD_ACCESS, i);
    c->info = access | (flags_live ? ACCESS_FLAGS : 0) | t->idx << ACCESS_IDX_SHIFT | bytes << ACCESS_BYTES_SHIFT;
    c->base = (uint8_t)base;
    c->index = (uint8_t)index;
    c->scale_log2 = (uint8_t)scale_log2;
    c->seg = (uint8_t)seg;
    c->addr_bytes = (uint8_t)addr_bytes;
    c->rip_relative = rip_relative;
    c->disp = disp;
    c->restore_rcx = flags_live;
    c->tlb_off = tlb_off;
    if (t->legacy) {
        c->info |= ACCESS_SEGMENTED | seg << ACCESS_SEG_SHIFT;
    }
    if (t->mode & (CPU_MODE_AC | CPU_MODE_BREAK)) { /* rare enough to go the slow way always */
        c->info |= t->mode & CPU_MODE_AC ? ACCESS_ALIGNED : 0;
        c->restore_rcx = false;
        c->from = emit_jmp(&t->e);
    } else if (constant && (va & 4095) + bytes <= 4096 && x86_is_canonical(va, X86_LA57_BITS)) {
        uint32_t entry = tlb_off + ((uint32_t)(va >> KAGE_PAGE_SHIFT) & (TLB_SIZE - 1)) * 8u;
        c->from = emit_probe_constant(t, entry, va & KAGE_PAGE_MASK, flags_live);
        m.disp = (int32_t)(va & 4095);
    } else {
        bool segmented = t->legacy && !is_flat_for(t, seg, access);
        lower_address(t, base, index, scale_log2, disp, seg, addr_bytes, rip_relative, flags_live);
        if (segmented) {
            c->from2 = emit_segment(t, seg, rw, bytes, flags_live);
        }
        c->undo_tag = !flags_live && !segmented;
        c->from = flags_live ? emit_probe_live_flags(t, tlb_off, bytes)
                             : emit_probe_dead_flags(t, tlb_off, bytes);
    }
    c->resume = c->op_begin = t->e.p;
    c->target = (uint64_t)m.disp; /* what the slow path must subtract from the host address */
    return m;
}

struct mem_operand lower_access(struct trans *t, unsigned i, uint32_t access, unsigned bytes, bool flags_live)
{
    const struct insn *in = &t->insns[i];

    return lower_access_at(t, i, access | (in->stack_seg ? ACCESS_STACK : 0), bytes, flags_live, in->base, in->index,
                           in->scale_log2, in->disp, in->seg, in->addr_bytes, in->rip_relative);
}

void lower_access_done(struct trans *t)
{
    if (!t->access_open) {
        return;
    }
    struct cold *c = &t->colds[t->cold_count - 1];
    c->op_end = c->after = t->e.p;
}
