/* SPDX-License-Identifier: MIT */
/*
 * What lies behind a block: the stubs of its accesses that miss, its helpers, and its exits before they are linked; and the checks that a link
 * between blocks passes through.
 */
#include "cpu/run.h"
#include "cpu/sys.h"
#include "cpu/translate.h"

#define R10 X86_R10
#define R11 X86_R11
#define RCX X86_RCX

/* lea r11, [rip + distance to `target`], patched later: returns the field */
static uint8_t *emit_lea_r11_rip(struct emit *e)
{
    e_b(e, 0x4c);
    e_b(e, 0x8d);
    e_b(e, 0x1d);
    uint8_t *field = e->p;
    e_d(e, 0);
    return field;
}

static void emit_thunk(struct emit *e, unsigned thunk, bool parked)
{
    e_jmp_gs(e, OFF_THUNK(parked ? THUNK_PARKED + thunk : thunk));
}

static void emit_padded(struct emit *e, unsigned align)
{
    while (((uintptr_t)e->p & (align - 1)) != 0 && !e->overflow) {
        e_b(e, 0xcc);
    }
}

/* A descriptor's place, which the stub's LEA leads to, and its first word; NULL: no room. */
static uint8_t *begin_desc(struct emit *e, const struct cold *c, uint8_t *lea_field)
{
    emit_padded(e, 8);
    if (e->overflow) {
        return NULL;
    }
    uint8_t *desc = e->p;
    e_patch_rel32(lea_field, desc);
    e_d(e, c->info);
    return desc;
}

static void emit_slow_desc(struct trans *t, const struct cold *c, uint8_t *lea_field, const uint8_t *resume,
                           const uint8_t *bounce)
{
    struct emit *e = &t->e;
    const struct insn *in = &t->insns[c->insn];
    uint64_t rip = trans_rip(t, c->insn), next = trans_next_rip(t, c->insn);

    uint8_t *desc = begin_desc(e, c, lea_field);
    if (desc == NULL) {
        return;
    }
    e_d(e, (uint32_t)(resume - desc));
    e_d(e, bounce != NULL ? (uint32_t)(bounce - desc) : 0);
    e_d(e, (uint32_t)c->target);
    e_q(e, rip);
    e_q(e, insn_leaves(in) ? 0 : next);
}

/* A leader's descriptor: the same shape, with the range where the bounce path would be. */
static void emit_share_desc(struct trans *t, const struct cold *c, uint8_t *lea_field)
{
    struct emit *e = &t->e;
    uint8_t *desc = begin_desc(e, c, lea_field);
    if (desc == NULL) {
        return;
    }
    e_d(e, (uint32_t)(c->resume - desc));
    e_d(e, (uint32_t)c->share_low);
    e_d(e, (uint32_t)c->share_bytes);
    e_q(e, trans_rip(t, c->insn));
    e_q(e, trans_next_rip(t, c->insn));
}

/* First part of a slow access: the address again, then the thunk, which goes on at resume or bounce. */
static void cold_access(struct trans *t, struct cold *c)
{
    struct emit *e = &t->e;

    if (c->restore_rcx) {
        e_load_gs(e, RCX, OFF_GPR(RCX));
    }
    if (c->undo_tag) {
        e_op_gs_mem(e, 0x2b, R10, EMIT_NO_REG, R11, 3, c->tlb_off); /* sub r10, gs:[r11 * 8 + neg_tag] */
    } else {
        lower_address(t, c->base, c->index, c->scale_log2, c->disp, c->seg, c->addr_bytes, c->rip_relative, true);
    }
    e_store_gs(e, OFF(ea), R10);
    uint8_t *field = emit_lea_r11_rip(e);
    emit_thunk(e, THUNK_SLOW, c->parked);

    uint8_t *bounce = NULL;
    uint8_t *desc_field2 = NULL;
    if (c->share) {
        emit_share_desc(t, c, field);
        return;
    }
    if ((c->info & ACCESS_WRITE) != 0) {
        bounce = e->p;
        trans_note(t, c->insn, -1);
        e_bytes(e, c->op_begin, (unsigned)(c->op_end - c->op_begin));
        desc_field2 = emit_lea_r11_rip(e);
        emit_thunk(e, THUNK_COMMIT, c->parked);
    }
    emit_slow_desc(t, c, field, c->resume, bounce);
    if (bounce != NULL) {
        emit_slow_desc(t, c, desc_field2, c->after, NULL);
    }
}

/* cpu->imm of a helper. ENTER has two, imm16, then imm8; a direct far pointer is offset | selector << 32; LOOP has its target. */
static uint64_t helper_imm(const struct insn *in)
{
    uint64_t imm = in->z.raw.imm[0].value.u;

    if (in->z.mnemonic == ZYDIS_MNEMONIC_ENTER) {
        return imm | in->z.raw.imm[1].value.u << 16;
    }
    if (in->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (in->z.opcode == 0x9a || in->z.opcode == 0xea)) {
        return (uint32_t)imm | in->z.raw.imm[1].value.u << 32;
    }
    return in->z.raw.imm[0].is_relative ? in->target : imm;
}

static void cold_helper(struct trans *t, struct cold *c)
{
    struct emit *e = &t->e;
    const struct insn *in = &t->insns[c->insn];
    uint8_t *field = emit_lea_r11_rip(e);

    emit_thunk(e, THUNK_HELPER, c->parked);
    emit_padded(e, 8);
    if (e->overflow) {
        return;
    }
    uint8_t *desc = e->p;
    e_patch_rel32(field, desc);
    bool check = c->info != 0;
    e_q(e, check ? c->target : (uint64_t)(uintptr_t)in->fn);
    e_q(e, trans_rip(t, c->insn));
    e_d(e, check ? c->info : in->helper_arg);
    e_d(e, in->z.length);
    e_d(e, check ? 0 : in->helper_flags);
    e_d(e, (uint32_t)(c->resume - desc));
    e_q(e, helper_imm(in));
}

static void cold_exit(struct trans *t, struct cold *c)
{
    struct emit *e = &t->e;
    struct cpu_vm *vm = t->vm;
    uint32_t index = vm->link_count++;
    struct link *l = &vm->links[index];

    *l = (struct link){
        .site = cache_offset(t, c->from),
        .stub = cache_offset(t, e->p),
        .from = (uint32_t)(t->b - vm->blocks),
        .target = c->target,
        .parked = c->parked,
        .next_out = t->b->links_out,
    };
    t->b->links_out = index;
    lower_set_rip(e, c->target);
    if (t->b->no_link) {
        emit_thunk(e, THUNK_LEAVE, c->parked);
        return;
    }
    e_mov_imm(e, R10, index);
    emit_thunk(e, THUNK_LINK, c->parked);
}

/* The jump cache missed: C finds the block, or raises #GP for a target that is not canonical. */
static void cold_jump(struct trans *t, struct cold *c)
{
    struct emit *e = &t->e;

    if (c->undo_tag) {
        e_op_gs_mem(e, 0x2b, R10, EMIT_NO_REG, R11, 3, c->tlb_off); /* sub r10, gs:[r11 * 8 + neg_rip] */
    }
    uint8_t *field = emit_lea_r11_rip(e);
    emit_thunk(e, THUNK_JUMP, c->parked);
    emit_padded(e, 8);
    if (e->overflow) {
        return;
    }
    e_patch_rel32(field, e->p);
    e_q(e, trans_rip(t, c->insn));
    e_q(e, (uint64_t)c->disp);
}

static void cold_relookup(struct trans *t, struct cold *c)
{
    struct emit *e = &t->e;

    if (c->restore_rcx) {
        e_load_gs(e, RCX, OFF_GPR(RCX));
    }
    t->b->relookup = cache_offset(t, e->p);
    lower_set_rip(e, t->b->rip);
    /* Where the body does not want them, most of those that come have them parked. */
    emit_thunk(e, THUNK_LEAVE, t->b->flags_in != FLAGS_HERE);
}

static void cold_entry(struct trans *t, struct cold *c)
{
    struct emit *e = &t->e;

    if (c->kind == COLD_PARK) {
        t->b->here = cache_offset(t, e->p);
        lower_park(e);
    } else {
        lower_unpark(e);
    }
    e_b(e, 0xe9);
    e_d(e, t->b->body - (cache_offset(t, e->p) + 4));
}

void cold_emit(struct trans *t)
{
    for (unsigned n = 0; n < t->cold_count && !t->e.overflow; n++) {
        struct cold *c = &t->colds[n];
        t->parked = c->parked;
        trans_note(t, c->insn, -1);
        if (c->from != NULL) {
            e_patch_rel32(c->from, t->e.p);
        }
        if (c->from2 != NULL) {
            e_patch_rel32(c->from2, t->e.p);
        }
        switch (c->kind) {
        case COLD_ACCESS: cold_access(t, c); break;
        case COLD_HELPER: cold_helper(t, c); break;
        case COLD_EXIT: cold_exit(t, c); break;
        case COLD_JUMP: cold_jump(t, c); break;
        case COLD_RELOOKUP: cold_relookup(t, c); break;
        case COLD_PARK: case COLD_UNPARK: cold_entry(t, c); break;
        }
    }
}

/* jrcxz over a jump to `out`; RCX, whose guest value is in gpr[], is given back on both ways. */
static void emit_out_unless_rcx_zero(struct emit *e, const uint8_t *out)
{
    e_b(e, 0xe3);
    uint8_t *rel8 = e->p;
    e_b(e, 0);
    e_load_gs(e, RCX, OFF_GPR(RCX));
    e_b(e, 0xe9);
    e_d(e, 0);
    e_patch_rel32(e->p - 4, out);
    *rel8 = (uint8_t)(e->p - (rel8 + 1));
}

/* Leaves unless the code TLB holds `token` for the page of va. */
static void emit_token_check(struct emit *e, unsigned idx, gva_t va, uint32_t token, const uint8_t *out)
{
    uint32_t slot = OFF_CODE_TLB(idx) + ((uint32_t)(va >> KAGE_PAGE_SHIFT) & (CODE_TLB_SIZE - 1)) * 4u;

    e_op_gs(e, 0x8b, RCX, slot, false);
    e_lea(e, RCX, RCX, EMIT_NO_REG, 0, -(int32_t)token);
    emit_out_unless_rcx_zero(e, out);
}

/* The same with the flags parked. */
static void emit_token_compare(struct emit *e, unsigned idx, gva_t va, uint32_t token, const uint8_t *out)
{
    uint32_t slot = OFF_CODE_TLB(idx) + ((uint32_t)(va >> KAGE_PAGE_SHIFT) & (CODE_TLB_SIZE - 1)) * 4u;

    e_b(e, 0x65); /* cmp dword gs:[slot], imm32 */
    e_b(e, 0x81);
    e_b(e, 0x3c);
    e_b(e, 0x25);
    e_d(e, slot);
    e_d(e, token);
    e_b(e, 0x0f); /* jne out */
    e_b(e, 0x85);
    e_d(e, 0);
    e_patch_rel32(e->p - 4, out);
}

/*
 * Flags may be live, and the target may turn out to be another: if they are not parked, nothing here touches them. The code
 * TLB must still hold the token of the target's page, which names its virtual and physical address.
 */
uint32_t code_emit_link(struct cpu *cpu, const struct block *from, const struct block *to, const struct link *l,
                        uint32_t target, bool cross_page)
{
    struct cpu_vm *vm = cpu->vm;
    struct emit e = {.p = vm->rw + vm->used, .end = vm->rw + vm->cold_start};
    unsigned idx = (from->mode >> CPU_MODE_IDX_SHIFT) & 3u;
    uint32_t entry = (uint32_t)vm->used;
    const uint8_t *out = vm->rw + l->stub;

    if ((cross_page && to->token == 0) || vm->used + 192 > vm->cold_start) {
        return 0;
    }
    void (*check)(struct emit *, unsigned, gva_t, uint32_t, const uint8_t *) = l->parked ? emit_token_compare : emit_token_check;
    if (!l->parked) {
        e_store_gs(&e, OFF_GPR(RCX), RCX);
    }
    if (cross_page) {
        check(&e, idx, to->va, to->token, out);
    }
    if (to->token2 != 0) {
        check(&e, idx, block_next_page(to), to->token2, out);
    }
    if (!l->parked) {
        e_load_gs(&e, RCX, OFF_GPR(RCX));
    }
    e_b(&e, 0xe9);
    e_d(&e, 0);
    e_patch_rel32(e.p - 4, vm->rw + target);
    vm->used = ((size_t)(e.p - vm->rw) + 15) & ~(size_t)15;
    return entry;
}
