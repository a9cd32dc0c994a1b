/* SPDX-License-Identifier: MIT */
/*
 * Lowering of everything that moves RSP or RIP: stack instructions, branches, block entry and exit,
 * and helper calls. An exit with a known target is a rel32 that leads to
 * its stub until it is linked; an indirect one probes the jump cache without touching flags,
 * because flags may well be live across it.
 */
#include "cpu/run.h"
#include "cpu/sys.h"
#include "cpu/translate.h"

#include "mmu/mmu.h"

#define R10 X86_R10
#define R11 X86_R11
#define RCX X86_RCX
#define RSP X86_RSP

void lower_set_rip(struct emit *e, gva_t rip)
{
    if (e_fits_s32(rip)) {
        e_b(e, 0x65); /* mov qword gs:[rip], imm32 */
        e_b(e, 0x48);
        e_b(e, 0xc7);
        e_b(e, 0x04);
        e_b(e, 0x25);
        e_d(e, OFF(rip));
        e_d(e, (uint32_t)rip);
        return;
    }
    e_mov_imm(e, R10, rip);
    e_store_gs(e, OFF(rip), R10);
}

static void emit_nops(struct emit *e, unsigned n)
{
    static const uint8_t nops[4][3] = {{0}, {0x90}, {0x66, 0x90}, {0x0f, 0x1f, 0x00}};
    e_bytes(e, nops[n], n);
}

/* Pads so that a rel32 that comes `before` bytes later is aligned: it is patched while others run it. */
static void align_rel32(struct emit *e, unsigned before)
{
    emit_nops(e, (0u - ((unsigned)(uintptr_t)e->p + before)) & 3u);
}

/* The rel32 just emitted at `field` is an exit to guest address target. */
static void note_exit(struct trans *t, unsigned i, uint8_t *field, gva_t target)
{
    struct cold *c = trans_cold(t, COLD_EXIT, i);
    c->from = field;
    c->target = target;
}

static void emit_exit_jmp(struct trans *t, unsigned i, gva_t target)
{
    align_rel32(&t->e, 1);
    e_b(&t->e, 0xe9);
    uint8_t *field = t->e.p;
    e_d(&t->e, 0);
    note_exit(t, i, field, target);
}

void lower_goto(struct trans *t, unsigned i, gva_t va)
{
    emit_exit_jmp(t, i, va);
}

/*
 * A block is found by RIP alone where CS has no base, or is not 64-bit code's to have one; elsewhere
 * the run loop looks for it.
 */
static bool jumps_by_rip(const struct trans *t)
{
    return !t->legacy || (t->mode & CPU_MODE_FLAT(X86_CS)) != 0;
}

/* The flags go to cpu->parked, in which form LAHF and SETO have them; R10 and R11 are free. */
void lower_park(struct emit *e)
{
    static const uint8_t lahf_seto_al[] = {0x9f, 0x0f, 0x90, 0xc0};

    e_mov_rr(e, R10, X86_RAX);
    e_bytes(e, lahf_seto_al, sizeof(lahf_seto_al));
    e_b(e, 0x66);
    e_op_gs(e, 0x89, X86_RAX, OFF(parked), false); /* mov gs:[parked], ax */
    e_mov_rr(e, X86_RAX, R10);
}

/* And back: ADD makes OF of bit 0, SAHF the others. */
void lower_unpark(struct emit *e)
{
    static const uint8_t add_al_127_sahf[] = {0x04, 0x7f, 0x9e};

    e_mov_rr(e, R10, X86_RAX);
    e_b(e, 0x65); /* movzx eax, word gs:[parked] */
    e_b(e, 0x0f);
    e_b(e, 0xb7);
    e_b(e, 0x04);
    e_b(e, 0x25);
    e_d(e, OFF(parked));
    e_bytes(e, add_al_127_sahf, sizeof(add_al_127_sahf));
    e_mov_rr(e, X86_RAX, R10);
}

/* R10 holds the target. rsp_undo: what RSP gets back if the target is not canonical, which is the branch's own fault. */
static void lower_indirect(struct trans *t, unsigned i, int rsp_undo)
{
    struct emit *e = &t->e;
    uint32_t table = OFF_JUMP(t->idx);

    if (t->b->no_link || !jumps_by_rip(t) || (t->vm->test_flags & CODE_TEST_NO_CHAIN) != 0) {
        struct cold *c = trans_cold(t, COLD_JUMP, i);
        e_b(e, 0xe9);
        c->from = e->p;
        c->disp = rsp_undo;
        e_d(e, 0);
        return;
    }
    if (!t->parked) { /* who is behind a jump cache finds them there */
        e_store_gs(e, OFF(scratch[1]), R10);
        lower_park(e);
        e_load_gs(e, R10, OFF(scratch[1]));
        t->parked = true;
    }
    static const uint8_t index[] = {
        0x45, 0x89, 0xd3, /* mov r11d, r10d */
        0x41, 0x81, 0xe3, /* and r11d, imm32 */
    };
    e_bytes(e, index, sizeof(index));
    e_d(e, (uint32_t)JUMP_MASK);
    e_op_gs_mem(e, 0x03, R10, EMIT_NO_REG, R11, 3, table); /* 0 if the entry is the target's */
    struct cold *c = trans_cold(t, COLD_JUMP, i);
    c->undo_tag = true;
    c->tlb_off = table;
    c->disp = rsp_undo;
    e_b(e, 0x0f); /* jne stub */
    e_b(e, 0x85);
    c->from = e->p;
    e_d(e, 0);
    /* jmp qword gs:[r11 * 8 + host] */
    e_b(e, 0x65);
    e_b(e, 0x42);
    e_b(e, 0xff);
    e_b(e, 0x24);
    e_b(e, 0xdd);
    e_d(e, table + 8);
}

void lower_helper(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;
    struct cold *c;

    if (in->has_mem) {
        lower_address(t, in->base, in->index, in->scale_log2, in->disp, in->seg, in->addr_bytes, in->rip_relative, true);
        e_store_gs(e, OFF(ea), R10);
    }
    c = trans_cold(t, COLD_HELPER, i);
    e_b(e, 0xe9);
    c->from = e->p;
    e_d(e, 0);
    c->resume = e->p;
}

/*
 * STI at CPL 0 sets a byte, as long as nobody waits for the end of its shadow; else it is a helper,
 * and the run loop looks at the boundary behind the next instruction.
 */
void lower_sti(struct trans *t, unsigned i)
{
    struct insn *in = &t->insns[i];
    struct emit *e = &t->e;

    in->fn = sys_sti;
    in->helper_flags = HELPER_ENDS_BLOCK;
    if ((t->mode & (CPU_MODE_CPL | CPU_MODE_STEP | CPU_MODE_BREAK)) != 0 || i == t->count - 1) { /* its shadow is over the next block */
        lower_helper(t, i);
        return;
    }
    e_store_gs(e, OFF_GPR(RCX), RCX);
    e_b(e, 0x65); /* movzx ecx, byte gs:[sti_slow] */
    e_b(e, 0x0f);
    e_b(e, 0xb6);
    e_b(e, 0x0c);
    e_b(e, 0x25);
    e_d(e, OFF(sti_slow));
    e_b(e, 0xe3); /* jrcxz fast */
    uint8_t *rel8 = e->p;
    e_b(e, 0);
    e_load_gs(e, RCX, OFF_GPR(RCX));
    lower_helper(t, i);
    if (!e->overflow) {
        *rel8 = (uint8_t)(e->p - (rel8 + 1));
    }
    e_load_gs(e, RCX, OFF_GPR(RCX));
    e_b(e, 0x65); /* mov byte gs:[iflag], 1 */
    e_b(e, 0xc6);
    e_b(e, 0x04);
    e_b(e, 0x25);
    e_d(e, OFF(iflag));
    e_b(e, 1);
}

/* rorx dst, src, 32 */
static void emit_swap_halves(struct emit *e, unsigned dst, unsigned src)
{
    e_b(e, 0xc4);
    e_b(e, (dst >= 8 ? 0u : 0x80u) | 0x40 | (src >= 8 ? 0u : 0x20u) | 3);
    e_b(e, 0xfb);
    e_b(e, 0xf0);
    e_b(e, 0xc0 | (dst & 7) << 3 | (src & 7));
    e_b(e, 32);
}

/* EDX:EAX = host TSC + offset, without flags */
void lower_rdtsc(struct trans *t)
{
    struct emit *e = &t->e;

    e_b(e, 0x0f);
    e_b(e, 0x31);
    emit_swap_halves(e, R10, X86_RDX);
    e_lea(e, X86_RAX, X86_RAX, R10, 0, 0);
    e_load_gs(e, R10, OFF(tsc_offset));
    e_lea(e, X86_RAX, X86_RAX, R10, 0, 0);
    emit_swap_halves(e, X86_RDX, X86_RAX);
    e_b(e, 0x89); /* mov edx, edx */
    e_b(e, 0xd2);
    e_b(e, 0x89); /* mov eax, eax */
    e_b(e, 0xc0);
}

/* op [r10 + disp], reg or reg, [r10 + disp], 16, 32 or 64 bits */
static void emit_move(struct emit *e, unsigned opcode, unsigned reg, struct mem_operand m, unsigned bytes)
{
    if (bytes == 2) {
        e_b(e, 0x66);
    }
    e_op_mem(e, opcode, reg, m.base, m.index, 0, m.disp, bytes == 8);
}

/* Bytes of the stack pointer. */
static unsigned sp_bytes(const struct trans *t)
{
    return !t->legacy ? 8 : (t->mode & CPU_MODE_STACK32) != 0 ? 4 : 2;
}

static struct mem_operand stack_access(struct trans *t, unsigned i, uint32_t access, unsigned bytes, int disp,
                                       unsigned base, bool live)
{
    return lower_access_at(t, i, access | ACCESS_STACK, bytes, live, base, EMIT_NO_REG, 0, disp,
                           t->legacy ? X86_SS : X86_DS, sp_bytes(t), false);
}

/* RSP, ESP or SP becomes base + n; a 16-bit one leaves the rest of ESP alone, and goes through R11. */
static void set_sp(struct trans *t, unsigned base, int n)
{
    struct emit *e = &t->e;
    unsigned bytes = sp_bytes(t);

    if (bytes != 2) {
        e_op_mem(e, 0x8d, RSP, base, EMIT_NO_REG, 0, n, bytes == 8);
        return;
    }
    e_lea(e, R11, base, EMIT_NO_REG, 0, n);
    e_b(e, 0x66); /* mov sp, r11w */
    e_b(e, 0x44);
    e_b(e, 0x89);
    e_b(e, 0xc0 | (R11 & 7) << 3 | RSP);
}

/* R10 becomes the low `bytes` of a register: the target of a near branch. */
static void take_target(struct emit *e, unsigned reg, unsigned bytes)
{
    if (bytes == 8) {
        e_mov_rr(e, R10, reg);
        return;
    }
    e_b(e, 0x44 | (reg >= 8 ? 1u : 0u));
    if (bytes == 4) {
        e_b(e, 0x8b); /* mov r10d, reg */
    } else {
        e_b(e, 0x0f); /* movzx r10d, reg16 */
        e_b(e, 0xb7);
    }
    e_b(e, 0xc0 | (R10 & 7) << 3 | (reg & 7));
}

/* The same from memory. */
static void load_target(struct emit *e, struct mem_operand m, unsigned bytes)
{
    if (bytes != 2) {
        e_op_mem(e, 0x8b, R10, m.base, m.index, 0, m.disp, bytes == 8);
        return;
    }
    e_b(e, 0x40 | 4 | (m.base >= 8 ? 1u : 0u)); /* movzx r10d, word [m] */
    e_b(e, 0x0f);
    e_b(e, 0xb7);
    e_modrm_mem(e, R10, m.base, m.index, 0, m.disp);
}

/* The register that PUSH, POP, CALL or JMP names, or EMIT_NO_REG for memory and immediates. */
static unsigned named_register(const struct insn *in)
{
    const ZydisDecodedInstruction *z = &in->z;
    unsigned rex_b = (z->attributes & ZYDIS_ATTRIB_HAS_REX) && z->raw.rex.B ? 8u : 0u;

    if (in->has_mem && z->raw.modrm.mod != 3 && (z->attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
        return EMIT_NO_REG;
    }
    if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
        return z->raw.modrm.rm | rex_b;
    }
    return z->opcode >= 0x50 && z->opcode <= 0x5f ? (z->opcode & 7u) | rex_b : EMIT_NO_REG;
}

/* Stores R11-or-register / immediate at [rsp - bytes] and moves RSP. */
static void push_register(struct trans *t, unsigned i, unsigned reg, unsigned bytes, bool live)
{
    struct mem_operand m = stack_access(t, i, ACCESS_WRITE, bytes, -(int)bytes, RSP, live);
    if (reg == R10 || reg == R11) {
        e_load_gs(&t->e, R11, OFF_GPR(reg));
        reg = R11;
    }
    emit_move(&t->e, 0x89, reg, m, bytes);
    set_sp(t, RSP, -(int)bytes);
    lower_access_done(t);
}

static void push_imm(struct trans *t, unsigned i, uint64_t imm, unsigned bytes, bool live)
{
    struct emit *e = &t->e;
    struct mem_operand m = stack_access(t, i, ACCESS_WRITE, bytes, -(int)bytes, RSP, live);
    if (bytes == 8 && !e_fits_s32(imm)) {
        e_mov_imm(e, R11, imm);
        emit_move(e, 0x89, R11, m, 8);
    } else {
        emit_move(e, 0xc7, 0, m, bytes);
        e_b(e, imm & 0xff);
        e_b(e, imm >> 8 & 0xff);
        if (bytes != 2) {
            e_b(e, imm >> 16 & 0xff);
            e_b(e, imm >> 24 & 0xff);
        }
    }
    set_sp(t, RSP, -(int)bytes);
    lower_access_done(t);
}

/* Bytes that a stack instruction moves. */
static unsigned stack_bytes(const struct trans *t, const struct insn *in)
{
    return in->z.operand_width == 16 ? 2 : t->legacy ? 4 : 8;
}

/* Bytes of a near branch's target and return address. */
static unsigned branch_bytes(const struct trans *t, const struct insn *in)
{
    return !t->legacy ? 8 : in->z.operand_width == 16 ? 2 : 4;
}

/* The explicit memory operand of PUSH, CALL or JMP goes through R11 to scratch[1]. */
static void load_operand(struct trans *t, unsigned i, unsigned bytes)
{
    struct mem_operand m = lower_access(t, i, ACCESS_READ, bytes, flags_in_use(t, i));
    emit_move(&t->e, 0x8b, R11, m, bytes);
    e_store_gs(&t->e, OFF(scratch[1]), R11);
    lower_access_done(t);
}

static void lower_push(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    unsigned bytes = stack_bytes(t, in), reg = named_register(in);

    if (reg != EMIT_NO_REG) {
        push_register(t, i, reg, bytes, flags_in_use(t, i));
    } else if (in->z.opcode == 0x68 || in->z.opcode == 0x6a) {
        push_imm(t, i, (uint64_t)in->z.raw.imm[0].value.s, bytes, flags_in_use(t, i));
    } else {
        load_operand(t, i, bytes);
        struct mem_operand m = stack_access(t, i, ACCESS_WRITE, bytes, -(int)bytes, RSP, flags_in_use(t, i));
        e_load_gs(&t->e, R11, OFF(scratch[1]));
        emit_move(&t->e, 0x89, R11, m, bytes);
        set_sp(t, RSP, -(int)bytes);
        lower_access_done(t);
    }
}

static void lower_pop(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;
    unsigned bytes = stack_bytes(t, in), reg = named_register(in);
    struct mem_operand m = stack_access(t, i, ACCESS_READ, bytes, 0, RSP, flags_in_use(t, i));

    if (reg == R10 || reg == R11) {
        if (bytes == 2) {
            e_load_gs(e, R11, OFF_GPR(reg));
        }
        emit_move(e, 0x8b, R11, m, bytes);
        e_store_gs(e, OFF_GPR(reg), R11);
    } else if (reg == RSP) {
        if (bytes == 2) {
            set_sp(t, RSP, 2);
        }
        emit_move(e, 0x8b, RSP, m, bytes);
        lower_access_done(t);
        return;
    } else if (reg != EMIT_NO_REG) {
        emit_move(e, 0x8b, reg, m, bytes);
    } else {
        emit_move(e, 0x8b, R11, m, bytes);
        e_store_gs(e, OFF(scratch[1]), R11);
        lower_access_done(t);
        /* The address is computed with RSP already moved (SDM 2B, POP). */
        int64_t disp = in->disp + (in->base == RSP ? (int)bytes : 0);
        m = lower_access_at(t, i, ACCESS_WRITE | (in->stack_seg ? ACCESS_STACK : 0), bytes, flags_in_use(t, i), in->base,
                            in->index, in->scale_log2, disp, in->seg, in->addr_bytes, in->rip_relative);
        e_load_gs(e, R11, OFF(scratch[1]));
        emit_move(e, 0x89, R11, m, bytes);
    }
    set_sp(t, RSP, (int)bytes);
    lower_access_done(t);
}

static void lower_leave(struct trans *t, unsigned i)
{
    struct emit *e = &t->e;
    unsigned bytes = stack_bytes(t, &t->insns[i]);
    struct mem_operand m = stack_access(t, i, ACCESS_READ, bytes, 0, X86_RBP, flags_in_use(t, i));

    if (bytes == 8) {
        emit_move(e, 0x8b, R11, m, 8);
        e_lea(e, RSP, X86_RBP, EMIT_NO_REG, 0, 8);
        e_mov_rr(e, X86_RBP, R11);
    } else {
        set_sp(t, X86_RBP, (int)bytes);
        emit_move(e, 0x8b, X86_RBP, m, bytes);
    }
    lower_access_done(t);
}

static void lower_ret(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;
    unsigned bytes = branch_bytes(t, in);
    int pop = (int)bytes + (in->z.raw.imm[0].size != 0 ? (int)(uint16_t)in->z.raw.imm[0].value.u : 0);
    struct mem_operand m = stack_access(t, i, ACCESS_READ, bytes, 0, RSP, flags_in_use(t, i));

    load_target(e, m, bytes);
    set_sp(t, RSP, pop);
    lower_access_done(t);
    lower_indirect(t, i, -pop);
}

static void lower_call(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;
    unsigned bytes = branch_bytes(t, in);
    uint64_t next = trans_next_rip(t, i);

    if (in->z.raw.imm[0].is_relative) {
        push_imm(t, i, next, bytes, flags_in_use(t, i));
        emit_exit_jmp(t, i, in->target);
        return;
    }
    unsigned reg = named_register(in);
    if (reg == EMIT_NO_REG) {
        load_operand(t, i, bytes);
    }
    push_imm(t, i, next, bytes, flags_in_use(t, i));
    if (reg == EMIT_NO_REG) {
        e_load_gs(e, R10, OFF(scratch[1]));
        if (bytes != 8) {
            take_target(e, R10, bytes);
        }
    } else if (reg == R10 || reg == R11) {
        e_load_gs(e, R10, OFF_GPR(reg));
    } else if (reg == RSP) {
        e_lea(e, R10, RSP, EMIT_NO_REG, 0, (int)bytes);
        if (bytes != 8) {
            take_target(e, R10, bytes);
        }
    } else {
        take_target(e, reg, bytes);
    }
    lower_indirect(t, i, (int)bytes);
}

static void lower_jmp(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;
    unsigned bytes = branch_bytes(t, in);

    if (in->z.raw.imm[0].is_relative) {
        emit_exit_jmp(t, i, in->target);
        return;
    }
    unsigned reg = named_register(in);
    if (reg == EMIT_NO_REG) {
        struct mem_operand m = lower_access(t, i, ACCESS_READ, bytes, flags_in_use(t, i));
        load_target(e, m, bytes);
        lower_access_done(t);
    } else if (reg == R10 || reg == R11) {
        e_load_gs(e, R10, OFF_GPR(reg));
    } else {
        take_target(e, reg, bytes);
    }
    lower_indirect(t, i, 0);
}

/* An exit to a target beyond CS's limit: the branch, if it is taken, raises #GP(0) instead. */
static void note_bad_exit(struct trans *t, unsigned i, uint8_t *field)
{
    struct cold *c = trans_cold(t, COLD_HELPER, i);
    c->info = 1;
    c->target = (uint64_t)(uintptr_t)sys_gp;
    c->from = field;
    c->resume = field; /* never */
}

static void lower_jcc(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;

    align_rel32(e, 2);
    e_b(e, 0x0f);
    e_b(e, 0x80 | (in->z.opcode & 0xfu));
    uint8_t *field = e->p;
    e_d(e, 0);
    if (in->target_bad) {
        note_bad_exit(t, i, field);
    } else {
        note_exit(t, i, field, in->target);
    }
}

/* LOOPcc and JrCXZ have only a short form: it skips the jump of the not-taken way. */
static void lower_loop(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;
    bool addr32 = in->z.address_width == 32;

    align_rel32(e, addr32 ? 4 : 3);
    if (addr32) {
        e_b(e, 0x67);
    }
    e_b(e, in->z.opcode);
    e_b(e, 8); /* over jmp rel32 and three bytes of padding, which keep the second rel32 aligned */
    emit_exit_jmp(t, i, trans_next_rip(t, i));
    emit_nops(e, 3);
    emit_exit_jmp(t, i, in->target);
}

void lower_branch(struct trans *t, unsigned i)
{
    switch (t->insns[i].cls) {
    case INSN_PUSH: lower_push(t, i); break;
    case INSN_POP: lower_pop(t, i); break;
    case INSN_LEAVE: lower_leave(t, i); break;
    case INSN_CALL: lower_call(t, i); break;
    case INSN_RET: lower_ret(t, i); break;
    case INSN_JMP: lower_jmp(t, i); break;
    case INSN_JCC: lower_jcc(t, i); break;
    case INSN_LOOP: lower_loop(t, i); break;
    default: t->failed = true; break;
    }
}

/*
 * Whoever comes by the jump cache has the flags parked, a link has them in either place. The body wants them in one of them, or
 * not at all.
 */
void lower_entry(struct trans *t)
{
    struct block *b = t->b;
    struct emit *e = &t->e;

    t->parked = t->insns[0].park;
    b->flags_in = t->parked ? FLAGS_PARKED : t->insns[0].live_in ? FLAGS_HERE : FLAGS_NOWHERE;
    b->here = b->body = b->host;
    if (b->no_link || b->flags_in == FLAGS_NOWHERE) {
        return;
    }
    if (t->parked) {
        trans_cold(t, COLD_PARK, 0);
        return;
    }
    t->parked = true;
    struct cold *c = trans_cold(t, COLD_UNPARK, 0);
    t->parked = false;
    e_b(e, 0xe9);
    c->from = e->p;
    e_d(e, 0);
    emit_nops(e, 3);
    b->here = b->body = cache_offset(t, e->p);
}

/*
 * Every block polls for requests at its start. (Polling only where a branch leads backward is less
 * code, but measured twice as slow on code full of indirect calls.)
 */
void lower_poll(struct trans *t)
{
    struct emit *e = &t->e;
    struct cold *c = trans_cold(t, COLD_RELOOKUP, 0);

    if (t->mode & CPU_MODE_STEP) { /* the run loop has looked; room for the jump of a dropped block */
        e_b(e, 0xeb); /* jmp over the jump */
        e_b(e, 6);
        e_b(e, 0x90);
        e_b(e, 0xe9);
        c->from = e->p;
        e_d(e, 0);
        return;
    }
    if (t->b->flags_in != FLAGS_HERE) {
        e_b(e, 0x65); /* cmp dword gs:[pending], 0 */
        e_b(e, 0x83);
        e_b(e, 0x3c);
        e_b(e, 0x25);
        e_d(e, OFF(pending));
        e_b(e, 0);
        e_b(e, 0x0f); /* jne stub */
        e_b(e, 0x85);
        c->from = e->p;
        e_d(e, 0);
        return;
    }
    e_store_gs(e, OFF_GPR(RCX), RCX);
    e_op_gs(e, 0x8b, RCX, OFF(pending), false);
    e_b(e, 0xe3); /* jrcxz over the jump */
    e_b(e, 5);
    e_b(e, 0xe9);
    c->from = e->p;
    c->restore_rcx = true;
    e_d(e, 0);
    e_load_gs(e, RCX, OFF_GPR(RCX));
}
