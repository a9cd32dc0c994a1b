/* SPDX-License-Identifier: MIT */
/*
 * MOVS, STOS, LODS, CMPS, SCAS. A repeated instruction runs in chunks that stay inside the pages of
 * its operands; each chunk is the host's own string instruction on host pointers, which gives the
 * architecture's order and overlap semantics. What has no host pointer (MMIO, an element across
 * two pages) goes element by element. Registers are moved after each chunk, so that a fault finds
 * them at the element that faults.
 */
#include "cpu/sys.h"
#include "mmu/mmu.h"

enum string_kind { STRING_MOVS, STRING_STOS, STRING_LODS, STRING_CMPS, STRING_SCAS };

struct string_op {
    enum string_kind kind;
    unsigned bytes, addr_bytes, rep, seg;
    uint32_t len;
    bool down;
    bool wrote_code;
    uint32_t flags; /* of the last comparison */
};

uint64_t cpu_string_run(const struct cpu *cpu, unsigned seg, gva_t va, uint64_t reg, unsigned bytes, unsigned addr_bytes)
{
    uint64_t offset = va & ~KAGE_PAGE_MASK, n;
    bool down = (cpu->rflags & X86_FLAGS_DF) != 0;
    uint64_t inside = cpu_linear_run(cpu, seg, reg, bytes, down);

    if (offset + bytes > KAGE_PAGE_SIZE) {
        return 0;
    }
    n = down ? offset / bytes + 1 : (KAGE_PAGE_SIZE - offset) / bytes;
    if (addr_bytes < 8) { /* the register wraps before the linear address does */
        uint64_t size = cpu_size_mask(addr_bytes) + 1;
        uint64_t wrap = down ? reg / bytes + 1 : (size - reg) / bytes;
        n = wrap == 0 ? 1 : wrap < n ? wrap : n;
    }
    return inside < n ? inside : n;
}

void cpu_string_advance(struct cpu *cpu, unsigned reg, uint64_t n, unsigned bytes, unsigned addr_bytes)
{
    bool down = (cpu->rflags & X86_FLAGS_DF) != 0;
    uint64_t by = n * bytes;

    cpu_set_gpr(cpu, reg, addr_bytes, down ? cpu->gpr[reg] - by : cpu->gpr[reg] + by);
}

static bool uses_source(enum string_kind kind)
{
    return kind == STRING_MOVS || kind == STRING_LODS || kind == STRING_CMPS;
}

static bool uses_destination(enum string_kind kind)
{
    return kind != STRING_LODS;
}

static bool compares(enum string_kind kind)
{
    return kind == STRING_CMPS || kind == STRING_SCAS;
}

/* ---- chunks on host memory ---- */

/* One host string instruction for each element size, upwards or downwards. */
#define STRING_ASM(insn, ...)                                                                                          \
    do {                                                                                                               \
        if (down) {                                                                                                    \
            __asm__ volatile("std\n\t" insn "\n\tcld" __VA_ARGS__);                                                    \
        } else {                                                                                                       \
            __asm__ volatile(insn __VA_ARGS__);                                                                        \
        }                                                                                                              \
    } while (0)

static void host_movs(uint8_t *to, const uint8_t *from, uint64_t n, unsigned bytes, bool down)
{
#define MOVS_OPERANDS : "+D"(to), "+S"(from), "+c"(n) : : "memory", "cc"
    switch (bytes) {
    case 1:
        STRING_ASM("rep movsb", MOVS_OPERANDS);
        break;
    case 2:
        STRING_ASM("rep movsw", MOVS_OPERANDS);
        break;
    case 4:
        STRING_ASM("rep movsl", MOVS_OPERANDS);
        break;
    default:
        STRING_ASM("rep movsq", MOVS_OPERANDS);
        break;
    }
}

static void host_stos(uint8_t *to, uint64_t value, uint64_t n, unsigned bytes, bool down)
{
#define STOS_OPERANDS : "+D"(to), "+c"(n) : "a"(value) : "memory", "cc"
    switch (bytes) {
    case 1:
        STRING_ASM("rep stosb", STOS_OPERANDS);
        break;
    case 2:
        STRING_ASM("rep stosw", STOS_OPERANDS);
        break;
    case 4:
        STRING_ASM("rep stosl", STOS_OPERANDS);
        break;
    default:
        STRING_ASM("rep stosq", STOS_OPERANDS);
        break;
    }
}

/* Flags of the host after a comparison, as RFLAGS bits: AH from LAHF, AL from SETO. */
static uint32_t unpack_flags(uint64_t ax)
{
    return ((uint32_t)(ax >> 8) & 0xd5) | ((ax & 1) != 0 ? X86_FLAGS_OF : 0);
}

/* Compares up to n elements; returns how many are left. repne: stop at an equal pair, else at an unequal one. */
static uint64_t host_cmps(const uint8_t *a, const uint8_t *b, uint64_t n, unsigned bytes, bool down, bool repne,
                          uint32_t *flags)
{
    uint64_t ax = 0;
#define CMPS_TAIL "\n\tlahf\n\tseto %%al"
#define CMPS_OPERANDS : "+S"(a), "+D"(b), "+c"(n), "+a"(ax) : : "memory", "cc"
#define CMPS_BOTH(suffix)                                                                                              \
    do {                                                                                                               \
        if (repne) {                                                                                                   \
            STRING_ASM("repne cmps" suffix CMPS_TAIL, CMPS_OPERANDS);                                                  \
        } else {                                                                                                       \
            STRING_ASM("repe cmps" suffix CMPS_TAIL, CMPS_OPERANDS);                                                   \
        }                                                                                                              \
    } while (0)
    switch (bytes) {
    case 1:
        CMPS_BOTH("b");
        break;
    case 2:
        CMPS_BOTH("w");
        break;
    case 4:
        CMPS_BOTH("l");
        break;
    default:
        CMPS_BOTH("q");
        break;
    }
    *flags = unpack_flags(ax);
    return n;
}

static uint64_t host_scas(uint64_t ax, const uint8_t *b, uint64_t n, unsigned bytes, bool down, bool repne,
                          uint32_t *flags)
{
#define SCAS_OPERANDS : "+D"(b), "+c"(n), "+a"(ax) : : "memory", "cc"
#define SCAS_BOTH(suffix)                                                                                              \
    do {                                                                                                               \
        if (repne) {                                                                                                   \
            STRING_ASM("repne scas" suffix CMPS_TAIL, SCAS_OPERANDS);                                                  \
        } else {                                                                                                       \
            STRING_ASM("repe scas" suffix CMPS_TAIL, SCAS_OPERANDS);                                                   \
        }                                                                                                              \
    } while (0)
    switch (bytes) {
    case 1:
        SCAS_BOTH("b");
        break;
    case 2:
        SCAS_BOTH("w");
        break;
    case 4:
        SCAS_BOTH("l");
        break;
    default:
        SCAS_BOTH("q");
        break;
    }
    *flags = unpack_flags(ax);
    return n;
}

/* One access, as the guest's is: other vCPUs may be writing. */
static uint64_t load_element(const uint8_t *p, unsigned bytes)
{
    uint64_t v;

    switch (bytes) {
    case 1:
        __asm__ volatile("movzbl %1, %k0" : "=r"(v) : "m"(*p));
        break;
    case 2:
        __asm__ volatile("movzwl %1, %k0" : "=r"(v) : "m"(*(const uint8_t(*)[2])p));
        break;
    case 4:
        __asm__ volatile("movl %1, %k0" : "=r"(v) : "m"(*(const uint8_t(*)[4])p));
        break;
    default:
        __asm__ volatile("movq %1, %0" : "=r"(v) : "m"(*(const uint8_t(*)[8])p));
        break;
    }
    return v;
}

/* Runs n elements on host memory; returns how many were done (comparisons stop early). */
static uint64_t run_chunk(struct cpu *cpu, struct string_op *op, uint8_t *src, uint8_t *dst, uint64_t n)
{
    switch (op->kind) {
    case STRING_MOVS:
        host_movs(dst, src, n, op->bytes, op->down);
        return n;
    case STRING_STOS:
        host_stos(dst, cpu->gpr[X86_RAX], n, op->bytes, op->down);
        return n;
    case STRING_LODS: {
        const uint8_t *last = op->down ? src - (n - 1) * op->bytes : src + (n - 1) * op->bytes;
        cpu_set_gpr(cpu, X86_RAX, op->bytes, load_element(last, op->bytes));
        return n;
    }
    case STRING_CMPS:
        return n - host_cmps(src, dst, n, op->bytes, op->down, op->rep == 2, &op->flags);
    case STRING_SCAS:
        return n - host_scas(cpu->gpr[X86_RAX], dst, n, op->bytes, op->down, op->rep == 2, &op->flags);
    }
    return n;
}

/* ---- one element by cpu_read and cpu_write ---- */

static enum cpu_result run_element(struct cpu *cpu, struct string_op *op, gva_t src_va, gva_t dst_va)
{
    enum mmu_idx idx = cpu_mmu_idx(cpu);
    enum mmu_access dst_access = compares(op->kind) ? MMU_READ : MMU_WRITE;
    uint8_t a[8] = {0}, b[8] = {0};
    enum cpu_result r = CPU_NEXT;

    /* Both operands are checked before MMIO is touched. */
    if (uses_source(op->kind)) {
        r = cpu_probe(cpu, src_va, op->bytes, MMU_READ, idx);
    }
    if (r == CPU_NEXT && uses_destination(op->kind)) {
        r = cpu_probe(cpu, dst_va, op->bytes, dst_access, idx);
    }
    if (r == CPU_NEXT && uses_source(op->kind)) {
        r = cpu_read_keep(cpu, src_va, a, op->bytes, idx);
    }
    if (r == CPU_NEXT && compares(op->kind)) {
        r = cpu_read_keep(cpu, dst_va, b, op->bytes, idx);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_mmio_consume(cpu);
    switch (op->kind) {
    case STRING_MOVS:
        return cpu_write(cpu, dst_va, a, op->bytes, idx);
    case STRING_STOS:
        return cpu_write(cpu, dst_va, &cpu->gpr[X86_RAX], op->bytes, idx);
    default:
        /* Registers only: the same code as for host memory, on the copies. */
        (void)run_chunk(cpu, op, a, b, 1);
        return CPU_NEXT;
    }
}

/* ---- the loop ---- */

/* Moves registers over n elements; true if the instruction is finished. */
static bool account(struct cpu *cpu, const struct string_op *op, uint64_t n)
{
    if (uses_source(op->kind)) {
        cpu_string_advance(cpu, X86_RSI, n, op->bytes, op->addr_bytes);
    }
    if (uses_destination(op->kind)) {
        cpu_string_advance(cpu, X86_RDI, n, op->bytes, op->addr_bytes);
    }
    if (op->rep == 0) {
        return true;
    }
    uint64_t left = (cpu->gpr[X86_RCX] - n) & cpu_size_mask(op->addr_bytes);
    cpu_set_gpr(cpu, X86_RCX, op->addr_bytes, left);
    bool equal = (op->flags & X86_FLAGS_ZF) != 0;
    return left == 0 || (compares(op->kind) && (op->rep == 2 ? equal : !equal));
}

/*
 * One operand at its next element: its linear address after the segment's checks, and where it is. *count shrinks to
 * what can be done in one go: inside page and segment, before the register wraps.
 */
static enum cpu_result operand(struct cpu *cpu, const struct string_op *op, unsigned seg, unsigned reg,
                               enum mmu_access access, gva_t *va, struct cpu_piece *p, uint64_t *count)
{
    uint64_t offset = cpu->gpr[reg] & cpu_size_mask(op->addr_bytes);
    enum cpu_result r = cpu_linear(cpu, seg, offset, op->bytes, access, va);

    if (r == CPU_NEXT) {
        r = cpu_check_aligned(cpu, *va, op->bytes);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    if ((cpu->mode & CPU_MODE_BREAK) != 0) {
        cpu_note_data_access(cpu, *va, op->bytes, access == MMU_WRITE);
    }
    uint64_t run = cpu_string_run(cpu, seg, *va, offset, op->bytes, op->addr_bytes);
    *count = run < *count ? run : *count;
    return cpu_locate(cpu, *va, access, cpu_mmu_idx(cpu), p);
}

/* One chunk or one element; *n is how many elements were done. */
static enum cpu_result step(struct cpu *cpu, struct string_op *op, uint64_t *n)
{
    bool single = op->rep == 0 || (cpu->mode & CPU_MODE_STEP) != 0;
    uint64_t count = single ? 1 : cpu->gpr[X86_RCX] & cpu_size_mask(op->addr_bytes);
    gva_t src_va = 0, dst_va = 0;
    struct cpu_piece src = {.host = NULL}, dst = {.host = NULL};
    enum cpu_result r = CPU_NEXT;

    if (uses_source(op->kind)) {
        r = operand(cpu, op, op->seg, X86_RSI, MMU_READ, &src_va, &src, &count);
    }
    if (r == CPU_NEXT && uses_destination(op->kind)) { /* no prefix overrides ES */
        enum mmu_access access = compares(op->kind) ? MMU_READ : MMU_WRITE;
        r = operand(cpu, op, X86_ES, X86_RDI, access, &dst_va, &dst, &count);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    bool direct = count != 0 && (!uses_source(op->kind) || src.host != NULL) &&
                  (!uses_destination(op->kind) || dst.host != NULL);
    if (!direct) {
        *n = 1;
        return run_element(cpu, op, src_va, dst_va);
    }
    *n = run_chunk(cpu, op, src.host, dst.host, count);
    if (dst.has_code) {
        uint64_t bytes = *n * op->bytes;
        gpa_t low = op->down ? dst.gpa + op->bytes - bytes : dst.gpa;
        cpu_code_written(cpu, low, (unsigned)bytes);
        op->wrote_code = true;
    }
    return CPU_NEXT;
}

static enum cpu_result run_string(struct cpu *cpu, uint32_t arg, uint32_t len, enum string_kind kind)
{
    struct string_op op = {
        .kind = kind,
        .bytes = HELPER_ARG_OPSIZE(arg),
        .addr_bytes = HELPER_ARG_ADDRSIZE(arg),
        .rep = HELPER_ARG_REP(arg),
        .seg = HELPER_ARG_SEG(arg),
        .len = len,
        .down = (cpu->rflags & X86_FLAGS_DF) != 0,
    };

    if (op.rep != 0 && (cpu->gpr[X86_RCX] & cpu_size_mask(op.addr_bytes)) == 0) {
        return CPU_NEXT;
    }
    for (;;) {
        uint64_t n;
        enum cpu_result r = step(cpu, &op, &n);
        bool posted = r == CPU_EXIT && cpu_mmio_posted(cpu);
        if (r != CPU_NEXT && !posted) {
            return r; /* flags stay as they were (SDM 2B REP) */
        }
        bool finished = account(cpu, &op, n);
        bool pause = posted || (cpu->mode & CPU_MODE_STEP) != 0 || cpu_window_wanted(cpu) ||
                     atomic_load_explicit(&cpu->pending, memory_order_relaxed) != 0;
        if (!finished && !pause) {
            continue;
        }
        if (compares(kind)) {
            cpu->rflags = (cpu->rflags & ~X86_FLAGS_ARITH) | op.flags;
        }
        if (finished && !posted && !op.wrote_code) {
            return CPU_NEXT;
        }
        cpu_advance(cpu, finished ? len : 0);
        return posted ? CPU_EXIT : CPU_JUMP;
    }
}

enum cpu_result sys_movs(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return run_string(cpu, arg, len, STRING_MOVS);
}

enum cpu_result sys_stos(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return run_string(cpu, arg, len, STRING_STOS);
}

enum cpu_result sys_lods(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return run_string(cpu, arg, len, STRING_LODS);
}

enum cpu_result sys_cmps(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return run_string(cpu, arg, len, STRING_CMPS);
}

enum cpu_result sys_scas(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return run_string(cpu, arg, len, STRING_SCAS);
}
