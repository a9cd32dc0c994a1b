/* SPDX-License-Identifier: MIT */
/*
 * MOVS, STOS and LODS in place. One element is a load and a store like any other. A repeated one that
 * stays inside the page of each operand is the host's own instruction on host addresses, behind a probe
 * of the TLB for the whole length; everything else (crossing, MMIO, code pages) is the helper's. All of it is flag-neutral. Only upwards, and with addresses as wide as the mode's.
 */
#include "cpu/sys.h"
#include "cpu/translate.h"

#define R10 X86_R10
#define R11 X86_R11
#define RCX X86_RCX
#define RSI X86_RSI
#define RDI X86_RDI

bool lower_string_serves(const struct trans *t, const struct insn *in)
{
    const ZydisDecodedInstruction *z = &in->z;
    unsigned seg = HELPER_ARG_SEG(in->helper_arg);
    bool loads = in->fn != sys_stos, stores = in->fn != sys_lods;

    if ((in->fn != sys_movs && in->fn != sys_stos && in->fn != sys_lods) ||
        (t->mode & (CPU_MODE_DF | CPU_MODE_AC | CPU_MODE_BREAK | CPU_MODE_STEP)) != 0 ||
        z->address_width != (t->legacy ? 32 : 64)) {
        return false;
    }
    if (HELPER_ARG_REP(in->helper_arg) != 0 && !stores) {
        return false; /* nobody repeats LODS */
    }
    return (!loads || lower_is_flat(t, seg)) && (!stores || lower_is_flat(t, X86_ES));
}

static unsigned log2_of(unsigned bytes)
{
    return bytes == 8 ? 3 : bytes == 4 ? 2 : bytes == 2 ? 1 : 0;
}

/* reg += bytes, as wide as addresses are */
static void advance(struct trans *t, unsigned reg, unsigned bytes)
{
    e_op_mem(&t->e, 0x8d, reg, reg, EMIT_NO_REG, 0, (int32_t)bytes, !t->legacy);
}

/* mov between a register and [m], 1 to 8 bytes; load: into the register */
static void emit_element(struct emit *e, bool load, unsigned reg, struct mem_operand m, unsigned bytes)
{
    unsigned opcode = (load ? 0x8au : 0x88u) | (bytes > 1 ? 1u : 0u);

    if (bytes == 2) {
        e_b(e, 0x66);
    }
    e_op_mem(e, opcode, reg, m.base, m.index, 0, m.disp, bytes == 8);
}

static struct mem_operand access_at(struct trans *t, unsigned i, uint32_t access, unsigned bytes, unsigned reg)
{
    unsigned seg = access == ACCESS_WRITE ? X86_ES : HELPER_ARG_SEG(t->insns[i].helper_arg);

    return lower_access_at(t, i, access, bytes, flags_in_use(t, i), reg, EMIT_NO_REG, 0, 0,
                           t->legacy ? seg : X86_DS, t->legacy ? 4 : 8, false);
}

static void lower_one(struct trans *t, unsigned i, unsigned bytes)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;
    unsigned value = X86_RAX;

    if (in->fn != sys_stos) {
        struct mem_operand m = access_at(t, i, ACCESS_READ, bytes, RSI);
        if (in->fn == sys_lods) {
            emit_element(e, true, X86_RAX, m, bytes);
            advance(t, RSI, bytes);
            lower_access_done(t);
            return;
        }
        emit_element(e, true, R11, m, bytes);
        e_store_gs(e, OFF(scratch[1]), R11);
        lower_access_done(t);
        value = R11;
    }
    struct mem_operand m = access_at(t, i, ACCESS_WRITE, bytes, RDI);
    if (value == R11) {
        e_load_gs(e, R11, OFF(scratch[1]));
    }
    emit_element(e, false, value, m, bytes);
    advance(t, RDI, bytes);
    if (value == R11) {
        advance(t, RSI, bytes);
    }
    lower_access_done(t);
}

/* jrcxz over `bytes` bytes; 0: to be filled in */
static void emit_jrcxz(struct emit *e, unsigned bytes)
{
    e_b(e, 0xe3);
    e_b(e, bytes);
}

/*
 * R10 becomes the host address of the RCX elements at `reg` (RCX waits in gpr[]), or the code at `slow` is
 * reached. The length is below a page, so the last byte tells whether all are in the entry's page.
 */
static void emit_range_probe(struct trans *t, unsigned reg, unsigned rw, unsigned bytes, const uint8_t *slow)
{
    struct emit *e = &t->e;
    uint32_t tlb_off = OFF_TLB(t->idx, rw);

    if (t->legacy) {
        e_b(e, 0x44); /* mov r10d, reg */
        e_b(e, 0x8b);
        e_b(e, 0xc0 | (R10 & 7) << 3 | reg);
        reg = R10;
    }
    e_pext_gs(e, R11, reg, OFF(pext_tlb));
    e_op_gs_mem(e, 0x8b, RCX, EMIT_NO_REG, R11, 3, tlb_off);
    e_lea(e, R10, reg, RCX, 0, 0);
    e_load_gs(e, RCX, OFF_GPR(RCX));
    e_lea(e, RCX, R10, RCX, log2_of(bytes), -1);
    e_pext_gs(e, RCX, RCX, OFF(pext_page));
    emit_jrcxz(e, 5);
    e_b(e, 0xe9); /* jmp slow */
    e_d(e, (uint32_t)(slow - (e->p + 4)));
    e_op_gs_mem(e, 0x8b, R11, EMIT_NO_REG, R11, 3, tlb_off + OFF_HOST);
    e_lea(e, R10, R10, R11, 0, 0);
}

static void lower_rep(struct trans *t, unsigned i, unsigned bytes)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;
    bool moves = in->fn == sys_movs;

    if (t->legacy) { /* what is above ECX belongs to nobody */
        e_b(e, 0x89);
        e_b(e, 0xc9);
    }
    /*
     *       jrcxz zero ; gpr.rcx := rcx ; rcx := count / 4096 ; jrcxz probes
     * slow: rcx := gpr.rcx ; jmp stub of the helper
     * zero: jmp end
     */
    uint8_t *start = e->p;
    emit_jrcxz(e, 0);
    e_store_gs(e, OFF_GPR(RCX), RCX);
    e_pext_gs(e, RCX, RCX, OFF(pext_page));
    uint8_t *to_probes = e->p;
    emit_jrcxz(e, 0);
    uint8_t *slow = e->p;
    e_load_gs(e, RCX, OFF_GPR(RCX));
    struct cold *c = trans_cold(t, COLD_HELPER, i);
    e_b(e, 0xe9);
    c->from = e->p;
    e_d(e, 0);
    if (!e->overflow) {
        start[1] = (uint8_t)(e->p - (start + 2));
    }
    e_b(e, 0xe9);
    uint8_t *to_end = e->p;
    e_d(e, 0);
    if (!e->overflow) {
        to_probes[1] = (uint8_t)(e->p - (to_probes + 2));
    }

    if (moves) {
        emit_range_probe(t, RSI, MMU_READ, bytes, slow);
        e_store_gs(e, OFF(scratch[1]), R10);
    }
    emit_range_probe(t, RDI, MMU_WRITE, bytes, slow);
    e_store_gs(e, OFF_GPR(RSI), RSI);
    if (moves) {
        e_load_gs(e, RSI, OFF(scratch[1]));
    }
    e_store_gs(e, OFF_GPR(RDI), RDI);
    e_mov_rr(e, RDI, R10);
    e_load_gs(e, RCX, OFF_GPR(RCX));
    trans_note(t, i, SPILLED_STRING);
    e_b(e, 0xf3);
    if (bytes == 2) {
        e_b(e, 0x66);
    } else if (bytes == 8) {
        e_b(e, 0x48);
    }
    e_b(e, (moves ? 0xa4u : 0xaau) | (bytes > 1 ? 1u : 0u));
    e_load_gs(e, RCX, OFF_GPR(RCX));
    if (moves) {
        e_load_gs(e, RSI, OFF_GPR(RSI));
        e_op_mem(e, 0x8d, RSI, RSI, RCX, log2_of(bytes), 0, !t->legacy);
    }
    e_load_gs(e, RDI, OFF_GPR(RDI));
    e_op_mem(e, 0x8d, RDI, RDI, RCX, log2_of(bytes), 0, !t->legacy);
    e_mov_imm(e, RCX, 0);
    trans_note(t, i, -1);
    if (!e->overflow) {
        e_patch_rel32(to_end, e->p);
    }
    c->resume = e->p;
}

void lower_string(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    unsigned bytes = HELPER_ARG_OPSIZE(in->helper_arg);

    if (HELPER_ARG_REP(in->helper_arg) != 0) {
        lower_rep(t, i, bytes);
    } else {
        lower_one(t, i, bytes);
    }
}
