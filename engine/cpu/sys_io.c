/* SPDX-License-Identifier: MIT */
/*
 * IN, OUT, INS, OUTS. Permission by IOPL and the TSS bitmap (SDM 1 19.5), then the VM exit; the
 * contract with kvm/ is at the top of cpu/sys.h. Ports that the controls let through reach the
 * processor's own bus, which is empty: reads give all ones.
 */
#include "cpu/sys.h"
#include "mmu/mmu.h"

#define TSS_IO_BASE 102u
#define TSS_TYPE_32 9u /* of a 32-bit or 64-bit TSS, without the busy bit */

struct io_op {
    uint16_t port;
    uint8_t bytes, addr_bytes, len;
    bool in, string, rep;
    uint64_t count;
};

/* ---- permission ---- */

static enum cpu_result check_permission(struct cpu *cpu, uint16_t port, unsigned bytes)
{
    const struct vmcs_segment *tr = &cpu->vmcs.guest_seg[X86_TR];
    uint16_t base, bits;

    /* Virtual-8086 mode asks the bitmap whatever IOPL is. */
    if (!cpu_in_v86_mode(cpu) && cpu_cpl(cpu) <= (cpu->rflags & X86_FLAGS_IOPL) >> X86_FLAGS_IOPL_SHIFT) {
        return CPU_NEXT;
    }
    /* A 16-bit TSS has no bitmap. */
    if ((tr->access_rights & (X86_AR_UNUSABLE | X86_AR_S | TSS_TYPE_32)) != TSS_TYPE_32 || tr->limit < TSS_IO_BASE + 1) {
        return cpu_raise_gp(cpu, 0);
    }
    enum cpu_result r = cpu_read(cpu, cpu_va_add(cpu, tr->base, TSS_IO_BASE), &base, 2, cpu_implicit_idx(cpu));
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t offset = (uint32_t)base + port / 8u; /* two bytes are read: ports may straddle */
    if (offset + 1 > tr->limit) {
        return cpu_raise_gp(cpu, 0);
    }
    r = cpu_read(cpu, cpu_va_add(cpu, tr->base, offset), &bits, 2, cpu_implicit_idx(cpu));
    if (r != CPU_NEXT) {
        return r;
    }
    return (bits >> (port & 7) & ((1u << bytes) - 1)) != 0 ? cpu_raise_gp(cpu, 0) : CPU_NEXT;
}

/* I/O bitmaps A (0 to 7fff) and B (8000 to ffff) (SDM 3C 26.1.3). */
static bool io_exits(const struct cpu *cpu, uint16_t port, unsigned bytes)
{
    if (!cpu_proc_ctl(cpu, VMX_PROC_USE_IO_BITMAPS)) {
        return cpu_proc_ctl(cpu, VMX_PROC_UNCOND_IO_EXITING);
    }
    for (uint32_t p = port; p < (uint32_t)port + bytes; p++) {
        if (p > 0xffff) {
            return true; /* wraps around */
        }
        uint64_t map = p < 0x8000 ? cpu->vmcs.io_bitmap_a : cpu->vmcs.io_bitmap_b;
        uint32_t bit = p & 0x7fff;
        if (map == 0 || (((const uint8_t *)(uintptr_t)map)[bit / 8] >> (bit & 7) & 1) != 0) {
            return true;
        }
    }
    return false;
}

/* ---- completion ---- */

/* Turns element order between ascending addresses and the order of the operation if DF is set. */
static void reverse_elements(uint8_t *buf, uint64_t count, unsigned bytes)
{
    for (uint64_t i = 0, j = count - 1; i < j; i++, j--) {
        for (unsigned b = 0; b < bytes; b++) {
            uint8_t t = buf[i * bytes + b];
            buf[i * bytes + b] = buf[j * bytes + b];
            buf[j * bytes + b] = t;
        }
    }
}

static bool direction_down(const struct cpu *cpu)
{
    return (cpu->rflags & X86_FLAGS_DF) != 0;
}

/* Lowest linear address of a run of elements, which lies in one page. */
static gva_t run_low(const struct cpu *cpu, gva_t va, const struct io_op *op)
{
    return direction_down(cpu) ? va - (op->count - 1) * op->bytes : va;
}

static enum cpu_result complete_string(struct cpu *cpu, const struct io_op *op)
{
    uint64_t addr_mask = cpu_size_mask(op->addr_bytes);
    enum cpu_result r = CPU_NEXT;

    if (op->in) {
        gva_t va;
        r = cpu_linear(cpu, X86_ES, cpu->gpr[X86_RDI] & addr_mask, op->bytes, MMU_WRITE, &va);
        if (r != CPU_NEXT) {
            return r;
        }
        if (direction_down(cpu)) {
            reverse_elements(cpu->pio_buf, op->count, op->bytes);
        }
        r = cpu_write(cpu, run_low(cpu, va, op), cpu->pio_buf, (unsigned)(op->count * op->bytes), cpu_mmu_idx(cpu));
        if (r != CPU_NEXT && !(r == CPU_EXIT && cpu_mmio_posted(cpu))) {
            if (direction_down(cpu)) { /* it may be completed anew */
                reverse_elements(cpu->pio_buf, op->count, op->bytes);
            }
            return r;
        }
    }
    cpu_string_advance(cpu, op->in ? X86_RDI : X86_RSI, op->count, op->bytes, op->addr_bytes);
    if (op->rep) {
        uint64_t left = (cpu->gpr[X86_RCX] & addr_mask) - op->count;
        cpu_set_gpr(cpu, X86_RCX, op->addr_bytes, left);
        if (left != 0) {
            return r;
        }
    }
    cpu_advance(cpu, op->len);
    return r;
}

static enum cpu_result complete(struct cpu *cpu, const struct io_op *op)
{
    if (op->string) {
        return complete_string(cpu, op);
    }
    if (op->in) {
        uint32_t value = 0;
        for (unsigned i = op->bytes; i-- > 0;) {
            value = value << 8 | cpu->pio_buf[i];
        }
        cpu_set_gpr(cpu, X86_RAX, op->bytes, value);
    }
    cpu_advance(cpu, op->len);
    return CPU_NEXT;
}

struct io_call {
    struct cpu *cpu;
    const struct io_op *op;
    enum cpu_result result;
};

static void call_complete(void *arg)
{
    struct io_call *call = arg;
    call->result = complete(call->cpu, call->op);
}

/* Outside cpu_run(): the memory may be gone, which is an EPT violation here too. */
enum cpu_result cpu_io_complete(struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;
    uint64_t q = v->exit_qualification;
    struct io_op op = {
        .port = VMX_IO_PORT(q),
        .bytes = (uint8_t)VMX_IO_SIZE(q),
        .addr_bytes = (uint8_t)(2u << (v->exit_instruction_info >> 7 & 3)),
        .len = (uint8_t)v->exit_instruction_len,
        .in = (q & VMX_IO_IN) != 0,
        .string = (q & VMX_IO_STRING) != 0,
        .rep = (q & VMX_IO_REP) != 0,
        .count = cpu->imm,
    };
    cpu->rip = v->guest_rip;
    struct io_call call = {.cpu = cpu, .op = &op};
    cpu->gone = NULL;
    if (!cpu_guarded_call(cpu, call_complete, &call)) {
        if (op.in && op.string && direction_down(cpu)) {
            reverse_elements(cpu->pio_buf, op.count, op.bytes);
        }
        call.result = cpu_vmexit(cpu, VMX_EXIT_EPT_VIOLATION, VMX_EPT_QUAL_WRITE, 0);
    }
    cpu->vmcs.guest_rip = cpu->rip;
    return call.result;
}

/* Exits, or answers for the empty bus. */
static enum cpu_result perform(struct cpu *cpu, const struct io_op *op, bool imm, gva_t va, unsigned seg)
{
    if (!io_exits(cpu, op->port, op->bytes)) {
        for (uint64_t i = 0; op->in && i < op->count * op->bytes; i++) {
            cpu->pio_buf[i] = 0xff;
        }
        enum cpu_result r = complete(cpu, op);
        return r == CPU_NEXT ? CPU_JUMP : r;
    }
    uint64_t q = (op->bytes - 1u) | (op->in ? VMX_IO_IN : 0) | (op->string ? VMX_IO_STRING : 0) |
                 (op->rep ? VMX_IO_REP : 0) | (imm ? VMX_IO_IMM : 0) | (uint64_t)op->port << 16;
    enum cpu_result r = cpu_vmexit(cpu, VMX_EXIT_IO, q, op->len);
    cpu->imm = op->count;
    cpu->exit_breaks = cpu->data_breaks;
    if (op->string) {
        uint32_t size_code = op->addr_bytes == 8 ? 2 : op->addr_bytes == 4 ? 1 : 0;
        cpu->vmcs.guest_linear_address = va;
        cpu->vmcs.exit_instruction_info = size_code << 7 | (op->in ? 0 : seg << 15);
    }
    return r;
}

/* ---- helpers ---- */

static enum cpu_result in_out(struct cpu *cpu, uint32_t arg, uint32_t len, bool in)
{
    bool imm = HELPER_ARG_IS_MEM(arg);
    struct io_op op = {
        .port = imm ? HELPER_ARG_IMM8(arg) : (uint16_t)cpu->gpr[X86_RDX],
        .bytes = (uint8_t)(HELPER_ARG_OPSIZE(arg) == 8 ? 4 : HELPER_ARG_OPSIZE(arg)),
        .len = (uint8_t)len,
        .in = in,
        .count = 1,
    };
    enum cpu_result r = check_permission(cpu, op.port, op.bytes);
    if (r != CPU_NEXT) {
        return r;
    }
    if ((cpu->mode & CPU_MODE_BREAK) != 0) {
        cpu_note_io_access(cpu, op.port, op.bytes);
    }
    for (unsigned i = 0; !in && i < op.bytes; i++) {
        cpu->pio_buf[i] = (uint8_t)(cpu->gpr[X86_RAX] >> (8 * i));
    }
    return perform(cpu, &op, imm, 0, 0);
}

enum cpu_result sys_in(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return in_out(cpu, arg, len, true);
}

enum cpu_result sys_out(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return in_out(cpu, arg, len, false);
}

static enum cpu_result ins_outs(struct cpu *cpu, uint32_t arg, uint32_t len, bool in)
{
    unsigned seg = in ? X86_ES : HELPER_ARG_SEG(arg);
    struct io_op op = {
        .port = (uint16_t)cpu->gpr[X86_RDX],
        .bytes = (uint8_t)(HELPER_ARG_OPSIZE(arg) == 8 ? 4 : HELPER_ARG_OPSIZE(arg)),
        .addr_bytes = (uint8_t)HELPER_ARG_ADDRSIZE(arg),
        .len = (uint8_t)len,
        .in = in,
        .string = true,
        .rep = HELPER_ARG_REP(arg) != 0,
        .count = 1,
    };
    uint64_t addr_mask = cpu_size_mask(op.addr_bytes);
    uint64_t reg = cpu->gpr[in ? X86_RDI : X86_RSI] & addr_mask;
    enum mmu_access access = in ? MMU_WRITE : MMU_READ;
    gva_t va;

    enum cpu_result r = check_permission(cpu, op.port, op.bytes);
    if (r != CPU_NEXT) { /* even if RCX is 0 */
        return r;
    }
    if (op.rep && (cpu->gpr[X86_RCX] & addr_mask) == 0) {
        return CPU_NEXT;
    }
    /* A fault on the memory operand comes before the I/O. */
    struct cpu_piece p;
    r = cpu_linear(cpu, seg, reg, op.bytes, access, &va);
    if (r == CPU_NEXT) {
        r = cpu_check_aligned(cpu, va, op.bytes);
    }
    if (r == CPU_NEXT) {
        r = cpu_locate(cpu, va, access, cpu_mmu_idx(cpu), &p);
    }
    if (r == CPU_NEXT) {
        r = cpu_probe(cpu, va, op.bytes, access, cpu_mmu_idx(cpu));
    }
    if (r != CPU_NEXT) {
        return r;
    }
    if ((cpu->mode & CPU_MODE_BREAK) != 0) {
        cpu_note_io_access(cpu, op.port, op.bytes);
    }
    if (op.rep && p.host != NULL && (cpu->mode & (CPU_MODE_STEP | CPU_MODE_BREAK)) == 0) {
        uint64_t run = cpu_string_run(cpu, seg, va, reg, op.bytes, op.addr_bytes);
        uint64_t left = cpu->gpr[X86_RCX] & addr_mask;
        op.count = run == 0 ? 1 : run < left ? run : left;
    }
    if (!in) {
        r = cpu_read(cpu, run_low(cpu, va, &op), cpu->pio_buf, (unsigned)(op.count * op.bytes), cpu_mmu_idx(cpu));
        if (r != CPU_NEXT) {
            return r;
        }
        if (direction_down(cpu)) {
            reverse_elements(cpu->pio_buf, op.count, op.bytes);
        }
    }
    return perform(cpu, &op, false, va, seg);
}

enum cpu_result sys_ins(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return ins_outs(cpu, arg, len, true);
}

enum cpu_result sys_outs(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return ins_outs(cpu, arg, len, false);
}
