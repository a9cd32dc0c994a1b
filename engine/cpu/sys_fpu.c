/* SPDX-License-Identifier: MIT */
/*
 * The FXSAVE, XSAVE and FNSAVE families. The host's own instruction works on the live registers and
 * on cpu->fpu_buf; bytes are then moved between that buffer and guest memory as the instruction's
 * definition says (SDM 1 chapter 13), after the checks that would fault. XSAVEOPT is without the
 * modified optimisation, which is keyed by an address that here is always the buffer's. Instruction
 * and data pointers are host addresses and are never shown.
 *
 *   0        24    32       160      416   512     576
 *   | x87    |MXCSR| ST0..7 | XMM0.. | ... | header | components 2.. at their offsets, or packed
 */
#include <cpuid.h>

#include "cpu/sys.h"
#include "mmu/mmu.h"

#define OFFERED_XCR0 (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512)
#define LEGACY_BYTES 512u
#define HEADER_BYTES 64u
#define EXTENDED_OFFSET 576u
#define FXSAVE_BYTES 416u /* what FXSAVE writes; the rest of the 512 is software's */
#define XCOMP_COMPACT (1ull << 63)
#define MXCSR_OFFSET 24u
#define XMM_OFFSET 160u
#define MXCSR_INIT 0x1f80u

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, 4);
    return v;
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, 8);
    return v;
}

static void put32(uint8_t *p, uint32_t v)
{
    __builtin_memcpy(p, &v, 4);
}

static void put64(uint8_t *p, uint64_t v)
{
    __builtin_memcpy(p, &v, 8);
}

static void zero(uint8_t *p, unsigned n)
{
    while (n-- > 0) {
        *p++ = 0;
    }
}

void cpu_fpu_probe_host(struct cpu *cpu)
{
    uint32_t a, b, c, d;

    for (unsigned i = 2; i < KAGE_ARRAY_SIZE(cpu->xcomp); i++) {
        cpu->xcomp[i] = (struct cpu_xcomp){0};
        if (__get_cpuid_count(0xd, i, &a, &b, &c, &d) != 0) {
            cpu->xcomp[i] = (struct cpu_xcomp){.offset = b, .size = a, .align64 = (c & 2) != 0};
        }
    }
    zero(cpu->fpu_buf, LEGACY_BYTES);
    __asm__ volatile("fxsave64 %0" : "=m"(*(uint8_t(*)[LEGACY_BYTES])cpu->fpu_buf));
    cpu->mxcsr_mask = get32(cpu->fpu_buf + MXCSR_OFFSET + 4);
    if (cpu->mxcsr_mask == 0) {
        cpu->mxcsr_mask = 0xffbf; /* SDM 1 11.6.6 */
    }
}

/* FIP, FDP, their selectors and FOP are of the host's code. */
static void hide_pointers(uint8_t *legacy)
{
    zero(legacy + 6, 18);
}

static bool fpu_absent(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_cr0 & (X86_CR0_EM | X86_CR0_TS)) != 0;
}

/* Checks that a store of all of [ea, ea+bytes) will go to RAM, so that pieces can be written one by one. */
static enum cpu_result check_store(struct cpu *cpu, gva_t va, unsigned bytes)
{
    struct cpu_piece p;

    for (gva_t at = va; at < va + bytes; at = (at & KAGE_PAGE_MASK) + KAGE_PAGE_SIZE) {
        enum cpu_result r = cpu_locate(cpu, at, MMU_WRITE, cpu_mmu_idx(cpu), &p);
        if (r != CPU_NEXT) {
            return r;
        }
        if (p.host == NULL) { /* state areas in MMIO are not carried */
            r = cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 0, 0);
            cpu->vmcs.guest_physical_address = p.gpa;
            return r;
        }
    }
    return CPU_NEXT;
}

static enum cpu_result store(struct cpu *cpu, unsigned at, const uint8_t *from, unsigned bytes)
{
    return cpu_write(cpu, cpu->ea + at, from, bytes, cpu_mmu_idx(cpu));
}

static enum cpu_result load(struct cpu *cpu, unsigned at, uint8_t *to, unsigned bytes)
{
    return cpu_read(cpu, cpu->ea + at, to, bytes, cpu_mmu_idx(cpu));
}

/* ---- FXSAVE, FXRSTOR ---- */

static enum cpu_result fx_check(struct cpu *cpu)
{
    if (fpu_absent(cpu)) {
        return cpu_raise(cpu, X86_EXC_NM);
    }
    return (cpu->ea & 15) != 0 ? cpu_raise_gp(cpu, 0) : CPU_NEXT;
}

static enum cpu_result fxsave(struct cpu *cpu)
{
    enum cpu_result r = fx_check(cpu);

    if (r == CPU_NEXT) {
        r = check_store(cpu, cpu->ea, FXSAVE_BYTES);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_fpu_load(cpu);
    __asm__ volatile("fxsave64 (%0)" : : "r"(cpu->fpu_buf) : "memory");
    hide_pointers(cpu->fpu_buf);
    return store(cpu, 0, cpu->fpu_buf, FXSAVE_BYTES);
}

static enum cpu_result fxrstor(struct cpu *cpu)
{
    enum cpu_result r = fx_check(cpu);

    if (r == CPU_NEXT) {
        zero(cpu->fpu_buf, LEGACY_BYTES);
        r = load(cpu, 0, cpu->fpu_buf, FXSAVE_BYTES);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    if ((get32(cpu->fpu_buf + MXCSR_OFFSET) & ~cpu->mxcsr_mask) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    cpu_fpu_load(cpu);
    hide_pointers(cpu->fpu_buf);
    __asm__ volatile("fxrstor64 (%0)" : : "r"(cpu->fpu_buf) : "memory");
    return CPU_NEXT;
}

/* ---- XSAVE family ---- */

enum xsave_kind { KIND_XSAVE, KIND_XSAVEOPT, KIND_XSAVEC };

static uint64_t rfbm(const struct cpu *cpu)
{
    return ((uint32_t)cpu->gpr[X86_RAX] | cpu->gpr[X86_RDX] << 32) & cpu->xcr0 & OFFERED_XCR0;
}

static enum cpu_result xs_check(struct cpu *cpu)
{
    if ((cpu->vmcs.guest_cr4 & X86_CR4_OSXSAVE) == 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if ((cpu->vmcs.guest_cr0 & X86_CR0_TS) != 0) {
        return cpu_raise(cpu, X86_EXC_NM);
    }
    return (cpu->ea & 63) != 0 ? cpu_raise_gp(cpu, 0) : CPU_NEXT;
}

/* Where component i stands: at its own offset, or packed behind the lower ones of `layout` (SDM 1 13.4.3). */
static unsigned component_offset(const struct cpu *cpu, unsigned i, bool compact, uint64_t layout)
{
    unsigned at = EXTENDED_OFFSET;

    if (!compact) {
        return cpu->xcomp[i].offset;
    }
    for (unsigned j = 2; j <= i; j++) {
        if ((layout >> j & 1) != 0) {
            if (cpu->xcomp[j].align64) {
                at = (at + 63) & ~63u;
            }
            if (j < i) {
                at += cpu->xcomp[j].size;
            }
        }
    }
    return at;
}

/* Bytes of an area that holds `components`. */
static unsigned area_bytes(const struct cpu *cpu, uint64_t components, bool compact, uint64_t layout)
{
    unsigned end = EXTENDED_OFFSET;

    for (unsigned i = 2; i < KAGE_ARRAY_SIZE(cpu->xcomp); i++) {
        if ((components >> i & 1) != 0) {
            unsigned e = component_offset(cpu, i, compact, layout) + cpu->xcomp[i].size;
            end = e > end ? e : end;
        }
    }
    return end;
}

/* Legacy region of a save: only what the requested components own. */
static enum cpu_result store_legacy(struct cpu *cpu, const uint8_t *buf, uint64_t mask, uint64_t written)
{
    enum cpu_result r = CPU_NEXT;

    if ((written & X86_XCR0_X87) != 0) {
        r = store(cpu, 0, buf, MXCSR_OFFSET);
        if (r == CPU_NEXT) {
            r = store(cpu, 32, buf + 32, XMM_OFFSET - 32);
        }
    }
    if (r == CPU_NEXT && (mask & (X86_XCR0_SSE | X86_XCR0_AVX)) != 0) {
        r = store(cpu, MXCSR_OFFSET, buf + MXCSR_OFFSET, 8);
    }
    if (r == CPU_NEXT && (written & X86_XCR0_SSE) != 0) {
        r = store(cpu, XMM_OFFSET, buf + XMM_OFFSET, FXSAVE_BYTES - XMM_OFFSET);
    }
    return r;
}

static enum cpu_result xsave(struct cpu *cpu, enum xsave_kind kind)
{
    uint64_t mask = rfbm(cpu);
    bool compact = kind == KIND_XSAVEC;
    uint8_t *buf = cpu->fpu_buf;
    uint8_t old[8] = {0};

    enum cpu_result r = xs_check(cpu);
    if (r == CPU_NEXT) {
        r = check_store(cpu, cpu->ea, area_bytes(cpu, mask, compact, mask));
    }
    if (r == CPU_NEXT && !compact) {
        r = load(cpu, LEGACY_BYTES, old, 8);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_fpu_load(cpu);
    zero(buf + LEGACY_BYTES, HEADER_BYTES);
    __asm__ volatile("xsave64 (%0)" : : "r"(buf), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");
    hide_pointers(buf);

    uint64_t in_use = get64(buf + LEGACY_BYTES) & mask;
    if (compact && (mask & X86_XCR0_SSE) != 0 && get32(buf + MXCSR_OFFSET) != MXCSR_INIT) {
        in_use |= X86_XCR0_SSE; /* SDM 1 13.10 */
    }
    uint64_t written = kind == KIND_XSAVE ? mask : in_use;
    uint64_t mxcsr_owner = compact ? written & X86_XCR0_SSE : mask;
    uint8_t header[16];
    put64(header, compact ? in_use : (get64(old) & ~mask) | in_use);
    put64(header + 8, mask | XCOMP_COMPACT);

    r = store_legacy(cpu, buf, mxcsr_owner, written);
    for (unsigned i = 2; r == CPU_NEXT && i < KAGE_ARRAY_SIZE(cpu->xcomp); i++) {
        if ((written >> i & 1) != 0) {
            r = store(cpu, component_offset(cpu, i, compact, mask), buf + cpu->xcomp[i].offset, cpu->xcomp[i].size);
        }
    }
    return r == CPU_NEXT ? store(cpu, LEGACY_BYTES, header, compact ? 16 : 8) : r;
}

/* Header rules of XRSTOR (SDM 1 13.8): false raises #GP. */
static bool header_is_valid(const struct cpu *cpu, const uint8_t *header, bool compact)
{
    uint64_t bv = get64(header), xcomp = get64(header + 8) & ~XCOMP_COMPACT;
    uint64_t reserved = compact ? 0 : get64(header + 8) | get64(header + 16);

    if (compact) {
        for (unsigned i = 16; i < HEADER_BYTES; i += 8) {
            reserved |= get64(header + i);
        }
        return reserved == 0 && (xcomp & ~cpu->xcr0) == 0 && (bv & ~xcomp) == 0;
    }
    return reserved == 0 && (bv & ~cpu->xcr0) == 0;
}

static enum cpu_result xrstor(struct cpu *cpu)
{
    uint64_t mask = rfbm(cpu);
    uint8_t *buf = cpu->fpu_buf, *header = buf + LEGACY_BYTES;

    enum cpu_result r = xs_check(cpu);
    if (r == CPU_NEXT) {
        r = load(cpu, LEGACY_BYTES, header, HEADER_BYTES);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    bool compact = (get64(header + 8) & XCOMP_COMPACT) != 0;
    uint64_t layout = get64(header + 8) & ~XCOMP_COMPACT, bv = get64(header) & mask;
    if (!header_is_valid(cpu, header, compact)) {
        return cpu_raise_gp(cpu, 0);
    }

    /* Built in the standard form, with the components that are asked for and present. */
    zero(buf, LEGACY_BYTES);
    r = load(cpu, 0, buf, FXSAVE_BYTES);
    for (unsigned i = 2; r == CPU_NEXT && i < KAGE_ARRAY_SIZE(cpu->xcomp); i++) {
        if ((bv >> i & 1) != 0) {
            r = load(cpu, component_offset(cpu, i, compact, layout), buf + cpu->xcomp[i].offset, cpu->xcomp[i].size);
        }
    }
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_fpu_load(cpu);
    uint32_t mxcsr = get32(buf + MXCSR_OFFSET);
    if (compact && (bv & X86_XCR0_SSE) == 0) {
        /* The compacted form takes MXCSR with SSE only; initial, or kept if SSE is not asked for. */
        mxcsr = MXCSR_INIT;
        if ((mask & X86_XCR0_SSE) == 0) {
            __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
        }
        put32(buf + MXCSR_OFFSET, mxcsr);
    }
    bool loads_mxcsr = (mask & (X86_XCR0_SSE | X86_XCR0_AVX)) != 0;
    if (loads_mxcsr && (mxcsr & ~cpu->mxcsr_mask) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    hide_pointers(buf);
    zero(header, HEADER_BYTES);
    put64(header, bv);
    __asm__ volatile("xrstor64 (%0)" : : "r"(buf), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");
    return CPU_NEXT;
}

/* ---- x87 environment ---- */

/* Offset of the pointers in an environment of 28 (or 14) bytes. */
static void hide_environment(uint8_t *env, bool small)
{
    zero(env + (small ? 6 : 12), small ? 8 : 16);
}

static enum cpu_result save_x87(struct cpu *cpu, uint32_t arg, bool all)
{
    bool small = HELPER_ARG_OPSIZE(arg) == 2;
    unsigned env = small ? 14 : 28, bytes = env + (all ? 80 : 0);
    uint8_t *buf = cpu->fpu_buf;

    if (fpu_absent(cpu)) {
        return cpu_raise(cpu, X86_EXC_NM);
    }
    enum cpu_result r = check_store(cpu, cpu->ea, bytes);
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_fpu_load(cpu);
    if (all) {
        if (small) {
            __asm__ volatile("data16 fnsave (%0)" : : "r"(buf) : "memory");
        } else {
            __asm__ volatile("fnsave (%0)" : : "r"(buf) : "memory");
        }
    } else if (small) {
        __asm__ volatile("data16 fnstenv (%0)" : : "r"(buf) : "memory");
    } else {
        __asm__ volatile("fnstenv (%0)" : : "r"(buf) : "memory");
    }
    hide_environment(buf, small);
    return store(cpu, 0, buf, bytes);
}

static enum cpu_result restore_x87(struct cpu *cpu, uint32_t arg, bool all)
{
    bool small = HELPER_ARG_OPSIZE(arg) == 2;
    unsigned env = small ? 14 : 28, bytes = env + (all ? 80 : 0);
    uint8_t *buf = cpu->fpu_buf;

    if (fpu_absent(cpu)) {
        return cpu_raise(cpu, X86_EXC_NM);
    }
    uint16_t fsw;
    cpu_fpu_load(cpu);
    __asm__ volatile("fnstsw %0" : "=m"(fsw));
    if ((fsw & 0x80) != 0) { /* FRSTOR and FLDENV wait: they must not take the error here, in C */
        return cpu_raise(cpu, X86_EXC_MF);
    }
    enum cpu_result r = load(cpu, 0, buf, bytes);
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_fpu_load(cpu);
    if (all) {
        if (small) {
            __asm__ volatile("data16 frstor (%0)" : : "r"(buf) : "memory");
        } else {
            __asm__ volatile("frstor (%0)" : : "r"(buf) : "memory");
        }
    } else if (small) {
        __asm__ volatile("data16 fldenv (%0)" : : "r"(buf) : "memory");
    } else {
        __asm__ volatile("fldenv (%0)" : : "r"(buf) : "memory");
    }
    return CPU_NEXT;
}

/* ---- helpers ---- */

/* The forms with and without REX.W differ only in pointers that are not shown. */
#define FPU_HELPER(name, call)                                                                                         \
    enum cpu_result name(struct cpu *cpu, uint32_t arg, uint32_t len)                                                  \
    {                                                                                                                  \
        (void)arg;                                                                                                     \
        (void)len;                                                                                                     \
        return call;                                                                                                   \
    }

FPU_HELPER(sys_fxsave, fxsave(cpu))
FPU_HELPER(sys_fxrstor, fxrstor(cpu))
FPU_HELPER(sys_xsave, xsave(cpu, KIND_XSAVE))
FPU_HELPER(sys_xsaveopt, xsave(cpu, KIND_XSAVEOPT))
FPU_HELPER(sys_xsavec, xsave(cpu, KIND_XSAVEC))
FPU_HELPER(sys_xrstor, xrstor(cpu))
FPU_HELPER(sys_fnsave, save_x87(cpu, arg, true))
FPU_HELPER(sys_fnstenv, save_x87(cpu, arg, false))
FPU_HELPER(sys_frstor, restore_x87(cpu, arg, true))
FPU_HELPER(sys_fldenv, restore_x87(cpu, arg, false))
