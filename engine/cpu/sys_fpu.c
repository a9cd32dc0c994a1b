/* SPDX-License-Identifier: MIT */
/*
 * The FXSAVE, XSAVE and FNSAVE families. The host's own instruction works on the live registers and
 * on cpu->fpu_buf; bytes are then moved between that buffer and guest memory as the instruction's
 * definition says (SDM 1 chapter 13), after the checks that would fault. XSAVEOPT is without the
 * modified optimisation, which is keyed by an address that here is always the buffer's. Instruction
 * and data pointers are host addresses: they are turned into the guest's (x87_pointers.c).
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
/* Outside 64-bit code there are 8 vector registers: the bytes of the others are left alone (SDM 1 13.5.2, 13.5.3, 13.5.5). */
#define LEGACY_XMM_BYTES 128u
#define NOW_OFFSET (CPU_FPU_BUF_BYTES / 2) /* of a second area in cpu->fpu_buf: the state before the instruction */
#define COMP_YMM 2u
#define COMP_ZMM_HIGH 6u
#define COMP_ZMM16 7u

static uint16_t get16(const uint8_t *p)
{
    uint16_t v;
    __builtin_memcpy(&v, p, 2);
    return v;
}

static void put16(uint8_t *p, uint32_t v)
{
    uint16_t v16 = (uint16_t)v;
    __builtin_memcpy(p, &v16, 2);
}

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

static void copy(uint8_t *to, const uint8_t *from, unsigned n)
{
    while (n-- > 0) {
        *to++ = *from++;
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

/*
 * Pointers in the legacy region:
 *   6  FOP   8  FIP (32 bits), FCS (16)   16  FDP (32), FDS (16);  with REX.W FIP and FDP have 64 bits, and no selectors
 */
#define FSW_ES 0x80u

static bool has_wide_pointers(const struct cpu *cpu, uint32_t arg)
{
    return cpu_in_64bit_code(cpu) && HELPER_ARG_OPSIZE(arg) == 8;
}

/* The host's pointers of the image become the guest's. AMD's processors give them only while an exception waits. */
static void show_pointers(struct cpu *cpu, uint32_t arg, uint8_t *legacy)
{
    struct cpu_x87_pointers p = {0};

    if ((legacy[2] & FSW_ES) != 0) {
        cpu_x87_pointers(cpu, get64(legacy + 8), get64(legacy + 16), 8, true, &p);
    }
    zero(legacy + 6, 18);
    put16(legacy + 6, p.fop);
    if (has_wide_pointers(cpu, arg)) {
        put64(legacy + 8, p.fip);
        put64(legacy + 16, p.fdp);
    } else {
        put32(legacy + 8, (uint32_t)p.fip);
        put16(legacy + 12, p.fcs);
        put32(legacy + 16, (uint32_t)p.fdp);
        put16(legacy + 20, p.fds);
    }
}

/* The guest's pointers of an image are remembered; the host's unit takes the first, by which they are known again. */
static void take_pointers(struct cpu *cpu, uint32_t arg, uint8_t *legacy)
{
    struct cpu_x87_pointers p = {.fop = get16(legacy + 6)};

    if (has_wide_pointers(cpu, arg)) {
        p.fip = get64(legacy + 8);
        p.fdp = get64(legacy + 16);
    } else {
        p.fip = get32(legacy + 8);
        p.fcs = get16(legacy + 12);
        p.fdp = get32(legacy + 16);
        p.fds = get16(legacy + 20);
    }
    cpu->x87_loaded = p;
    zero(legacy + 6, 18);
    put64(legacy + 8, p.fip);
}

static bool fpu_absent(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_cr0 & (X86_CR0_EM | X86_CR0_TS)) != 0;
}

/* Checks that a store of all of [ea, ea+bytes) will go to RAM, so that pieces can be written one by one. */
static enum cpu_result check_store(struct cpu *cpu, gva_t va, unsigned bytes)
{
    struct cpu_piece p;

    for (unsigned done = 0; done < bytes;) {
        gva_t at = cpu_va_add(cpu, va, done);
        enum cpu_result r = cpu_locate(cpu, at, MMU_WRITE, cpu_mmu_idx(cpu), &p);
        if (r != CPU_NEXT) {
            return r;
        }
        if (p.host == NULL) { /* state areas in MMIO are not carried */
            r = cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 0, 0);
            cpu->vmcs.guest_physical_address = p.gpa;
            return r;
        }
        done += (unsigned)(KAGE_PAGE_SIZE - (at & ~KAGE_PAGE_MASK));
    }
    return CPU_NEXT;
}

static enum cpu_result store(struct cpu *cpu, unsigned at, const uint8_t *from, unsigned bytes)
{
    return cpu_write(cpu, cpu_va_add(cpu, cpu->ea, at), from, bytes, cpu_mmu_idx(cpu));
}

static enum cpu_result load(struct cpu *cpu, unsigned at, uint8_t *to, unsigned bytes)
{
    return cpu_read(cpu, cpu_va_add(cpu, cpu->ea, at), to, bytes, cpu_mmu_idx(cpu));
}

/* ---- FXSAVE, FXRSTOR ---- */

/* FXRSTOR of AMD's processors begins with the last byte, at an address of its own: that is the one which faults. */
static enum cpu_result fx_check_last(struct cpu *cpu, uint32_t arg)
{
    uint64_t offset = (cpu->ea + LEGACY_BYTES - 1) & cpu_size_mask(HELPER_ARG_ADDRSIZE(arg));
    uint64_t base = cpu_in_64bit_code(cpu) ? 0 : cpu->vmcs.guest_seg[HELPER_ARG_SEG(arg)].base;
    gva_t va = cpu->ea + LEGACY_BYTES - 1;
    enum cpu_result r = CPU_NEXT;

    if (((base + cpu->ea) & 15) != 0) {
        return CPU_NEXT; /* #GP whatever limits and page tables say */
    }
    if (!cpu_in_64bit_code(cpu)) {
        r = cpu_linear(cpu, HELPER_ARG_SEG(arg), offset, 1, MMU_READ, &va);
    }
    return r == CPU_NEXT ? cpu_probe(cpu, va, 1, MMU_READ, cpu_mmu_idx(cpu)) : r;
}

static enum cpu_result fx_check(struct cpu *cpu, uint32_t arg, enum mmu_access access)
{
    if (fpu_absent(cpu)) {
        return cpu_raise(cpu, X86_EXC_NM);
    }
    enum cpu_result r = access == MMU_READ ? fx_check_last(cpu, arg) : CPU_NEXT;
    if (r == CPU_NEXT) {
        r = cpu_operand(cpu, arg, LEGACY_BYTES, access);
    }
    return r == CPU_NEXT && (cpu->ea & 15) != 0 ? cpu_raise_gp(cpu, 0) : r;
}

/* EFER.FFXSR: in 64-bit code of the kernel XMM registers are neither saved nor restored (APM 2 3.1.7). */
static bool fx_is_fast(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_ia32_efer & X86_EFER_FFXSR) != 0 && cpu_in_64bit_code(cpu) && cpu_cpl(cpu) == 0;
}

/* Bytes of the FXSAVE area that are the processor's: in 64-bit code with 16 vector registers, else with 8. */
static unsigned fx_bytes(const struct cpu *cpu)
{
    if (fx_is_fast(cpu)) {
        return XMM_OFFSET;
    }
    return cpu_in_64bit_code(cpu) ? FXSAVE_BYTES : XMM_OFFSET + LEGACY_XMM_BYTES;
}

static enum cpu_result fxsave(struct cpu *cpu, uint32_t arg)
{
    enum cpu_result r = fx_check(cpu, arg, MMU_WRITE);

    if (r == CPU_NEXT) {
        r = check_store(cpu, cpu->ea, fx_bytes(cpu));
    }
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_fpu_load(cpu);
    __asm__ volatile("fxsave64 (%0)" : : "r"(cpu->fpu_buf) : "memory");
    show_pointers(cpu, arg, cpu->fpu_buf);
    return store(cpu, 0, cpu->fpu_buf, fx_bytes(cpu));
}

static enum cpu_result fxrstor(struct cpu *cpu, uint32_t arg)
{
    enum cpu_result r = fx_check(cpu, arg, MMU_READ);
    uint8_t *buf = cpu->fpu_buf, *now = buf + NOW_OFFSET;

    if (r == CPU_NEXT) {
        zero(buf, LEGACY_BYTES);
        r = load(cpu, 0, buf, fx_bytes(cpu));
    }
    if (r != CPU_NEXT) {
        return r;
    }
    if ((get32(buf + MXCSR_OFFSET) & ~cpu->mxcsr_mask) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    cpu_fpu_load(cpu);
    take_pointers(cpu, arg, buf);
    if (fx_is_fast(cpu)) {
        __asm__ volatile("fxsave64 (%0)" : : "r"(now) : "memory");
        copy(buf + XMM_OFFSET, now + XMM_OFFSET, FXSAVE_BYTES - XMM_OFFSET);
    } else if (!cpu_in_64bit_code(cpu)) {
        __asm__ volatile("fxsave64 (%0)" : : "r"(now) : "memory");
        copy(buf + XMM_OFFSET + LEGACY_XMM_BYTES, now + XMM_OFFSET + LEGACY_XMM_BYTES, LEGACY_XMM_BYTES);
    }
    __asm__ volatile("fxrstor64 (%0)" : : "r"(buf) : "memory");
    return CPU_NEXT;
}

/* ---- XSAVE family ---- */

enum xsave_kind { KIND_XSAVE, KIND_XSAVEOPT, KIND_XSAVEC };

static uint64_t rfbm(const struct cpu *cpu)
{
    return ((uint32_t)cpu->gpr[X86_RAX] | cpu->gpr[X86_RDX] << 32) & cpu->xcr0 & OFFERED_XCR0;
}

/* `bytes`: of the area as far as is known before its header is read. */
static enum cpu_result xs_check(struct cpu *cpu, uint32_t arg, unsigned bytes, enum mmu_access access)
{
    if ((cpu->vmcs.guest_cr4 & X86_CR4_OSXSAVE) == 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if ((cpu->vmcs.guest_cr0 & X86_CR0_TS) != 0) {
        return cpu_raise(cpu, X86_EXC_NM);
    }
    enum cpu_result r = cpu_operand(cpu, arg, bytes, access);
    return r == CPU_NEXT && (cpu->ea & 63) != 0 ? cpu_raise_gp(cpu, 0) : r;
}

/* Bytes of component i that the current mode's instructions touch. */
static unsigned component_bytes(const struct cpu *cpu, unsigned i)
{
    unsigned size = cpu->xcomp[i].size;

    if (cpu_in_64bit_code(cpu)) {
        return size;
    }
    return i == COMP_ZMM16 ? 0 : i == COMP_YMM || i == COMP_ZMM_HIGH ? size / 2 : size;
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
        r = store(cpu, XMM_OFFSET, buf + XMM_OFFSET, fx_bytes(cpu) - XMM_OFFSET);
    }
    return r;
}

static enum cpu_result xsave(struct cpu *cpu, uint32_t arg, enum xsave_kind kind)
{
    uint64_t mask = rfbm(cpu);
    bool compact = kind == KIND_XSAVEC;
    unsigned area = area_bytes(cpu, mask, compact, mask);
    uint8_t *buf = cpu->fpu_buf;
    uint8_t old[8] = {0};

    enum cpu_result r = xs_check(cpu, arg, area, MMU_WRITE);
    if (r == CPU_NEXT) {
        r = check_store(cpu, cpu->ea, area);
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
    show_pointers(cpu, arg, buf);

    uint64_t in_use = get64(buf + LEGACY_BYTES) & mask;
    if (!cpu_in_64bit_code(cpu)) {
        in_use &= ~(1ull << COMP_ZMM16);
    }
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
            r = store(cpu, component_offset(cpu, i, compact, mask), buf + cpu->xcomp[i].offset, component_bytes(cpu, i));
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

/*
 * Outside 64-bit code XRSTOR leaves the registers alone that such code does not have: their present values go into the
 * image, which thereby gets every component that has any.
 */
static uint64_t keep_upper_registers(struct cpu *cpu, uint8_t *buf, uint64_t mask, uint64_t bv)
{
    uint8_t *now = buf + NOW_OFFSET;
    uint64_t kept = mask & (X86_XCR0_SSE | 1ull << COMP_YMM | 1ull << COMP_ZMM_HIGH | 1ull << COMP_ZMM16);

    zero(now + LEGACY_BYTES, HEADER_BYTES);
    __asm__ volatile("xsave64 (%0)" : : "r"(now), "a"((uint32_t)kept), "d"((uint32_t)(kept >> 32)) : "memory");
    kept &= get64(now + LEGACY_BYTES);
    if ((kept & X86_XCR0_SSE) != 0) {
        copy(buf + XMM_OFFSET + LEGACY_XMM_BYTES, now + XMM_OFFSET + LEGACY_XMM_BYTES, LEGACY_XMM_BYTES);
    }
    for (unsigned i = 2; i < KAGE_ARRAY_SIZE(cpu->xcomp); i++) {
        if ((kept >> i & 1) != 0) {
            unsigned at = cpu->xcomp[i].offset, own = component_bytes(cpu, i);
            if ((bv >> i & 1) == 0) {
                zero(buf + at, own);
            }
            copy(buf + at + own, now + at + own, cpu->xcomp[i].size - own);
        }
    }
    return bv | kept;
}

static enum cpu_result xrstor(struct cpu *cpu, uint32_t arg)
{
    uint64_t mask = rfbm(cpu), offset = cpu->ea;
    uint8_t *buf = cpu->fpu_buf, *header = buf + LEGACY_BYTES;

    enum cpu_result r = xs_check(cpu, arg, EXTENDED_OFFSET, MMU_READ);
    if (r == CPU_NEXT) { /* the first byte is what a page fault names */
        r = cpu_probe(cpu, cpu->ea, 1, MMU_READ, cpu_mmu_idx(cpu));
    }
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
    unsigned seg = HELPER_ARG_SEG(arg);
    if (!cpu_linear_is_good(cpu, seg, offset, area_bytes(cpu, bv, compact, layout), MMU_READ)) {
        return cpu_raise_error(cpu, seg == X86_SS ? X86_EXC_SS : X86_EXC_GP, 0);
    }

    /* Built in the standard form, with the components that are asked for and present. */
    zero(buf, LEGACY_BYTES);
    r = load(cpu, 0, buf, fx_bytes(cpu));
    for (unsigned i = 2; r == CPU_NEXT && i < KAGE_ARRAY_SIZE(cpu->xcomp); i++) {
        if ((bv >> i & 1) != 0) {
            r = load(cpu, component_offset(cpu, i, compact, layout), buf + cpu->xcomp[i].offset, component_bytes(cpu, i));
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
    if ((mask & X86_XCR0_X87) != 0) {
        if ((bv & X86_XCR0_X87) == 0) {
            zero(buf, MXCSR_OFFSET);
        }
        take_pointers(cpu, arg, buf);
    }
    if (!cpu_in_64bit_code(cpu)) {
        if ((bv & X86_XCR0_SSE) == 0) {
            zero(buf + XMM_OFFSET, LEGACY_XMM_BYTES);
        }
        bv = keep_upper_registers(cpu, buf, mask, bv);
    }
    zero(header, HEADER_BYTES);
    put64(header, bv);
    __asm__ volatile("xrstor64 (%0)" : : "r"(buf), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");
    return CPU_NEXT;
}

/* ---- x87 environment ---- */

/*
 * An environment is 14 or 28 bytes by operand size, and in real and virtual-8086 mode has linear addresses in place of
 * selectors (SDM 1 8.1.10, figures 8-9 to 8-12). The host's own instruction makes and takes the 32-bit protected form.
 *
 *   bytes   0   4   8   | 12     16            20     24
 *   prot32  FCW FSW FTW | FIP    FOP:FCS       FDP    FDS
 *   real32  FCW FSW FTW | FIP lo FIP hi:0:FOP  FDP lo FDP hi:0    (hi: bits 31..16, at bit 12)
 *   bytes   0   2   4   | 6      8             10     12
 *   prot16  FCW FSW FTW | FIP    FCS           FDP    FDS
 *   real16  FCW FSW FTW | FIP lo FIP hi:0:FOP  FDP lo FDP hi:0    (hi: bits 19..16, at bit 12)
 */
#define ENV_BYTES 28u
#define ENV_BYTES_16 14u
#define X87_REGISTER_BYTES 80u
#define ENV_RESERVED 0xffff0000u

static bool has_real_form(const struct cpu *cpu)
{
    return cpu_in_real_mode(cpu) || cpu_in_v86_mode(cpu);
}

/* The guest's form of the environment at `host`, with the guest's pointers. */
static void env_encode(uint8_t *env, const uint8_t *host, const struct cpu_x87_pointers *p, bool small, bool real)
{
    uint32_t fip = (uint32_t)p->fip + (real ? (uint32_t)p->fcs << 4 : 0);
    uint32_t fdp = (uint32_t)p->fdp + (real ? (uint32_t)p->fds << 4 : 0);

    for (unsigned i = 0; i < 3; i++) { /* FCW, FSW, FTW */
        small ? put16(env + 2 * i, get16(host + 4 * i)) : put32(env + 4 * i, get32(host + 4 * i));
    }
    if (small) {
        put16(env + 6, fip);
        put16(env + 8, real ? (fip >> 16 & 0xf) << 12 | p->fop : p->fcs);
        put16(env + 10, fdp);
        put16(env + 12, real ? (fdp >> 16 & 0xf) << 12 : p->fds);
    } else {
        put32(env + 12, real ? ENV_RESERVED | (fip & 0xffff) : fip);
        put32(env + 16, real ? fip >> 16 << 12 | p->fop : (uint32_t)p->fop << 16 | p->fcs);
        put32(env + 20, real ? ENV_RESERVED | (fdp & 0xffff) : fdp);
        put32(env + 24, real ? fdp >> 16 << 12 : ENV_RESERVED | p->fds);
    }
}

/* The host's form of the guest's environment; its pointers. */
static void env_decode(uint8_t *host, const uint8_t *env, struct cpu_x87_pointers *p, bool small, bool real)
{
    zero(host, ENV_BYTES);
    for (unsigned i = 0; i < 3; i++) {
        put32(host + 4 * i, ENV_RESERVED | get16(env + (small ? 2 : 4) * i));
    }
    *p = (struct cpu_x87_pointers){0};
    if (real) { /* linear addresses, of 20 or 32 bits */
        unsigned step = small ? 2 : 4;
        uint32_t fip_high = small ? get16(env + 8) : get32(env + 16), fdp_high = small ? get16(env + 12) : get32(env + 24);
        p->fip = get16(env + 3 * step) | (fip_high >> 12 & 0xffff) << 16;
        p->fdp = get16(env + 5 * step) | (fdp_high >> 12 & 0xffff) << 16;
        p->fop = fip_high & 0x7ff;
    } else if (small) {
        p->fip = get16(env + 6);
        p->fcs = get16(env + 8);
        p->fdp = get16(env + 10);
        p->fds = get16(env + 12);
    } else {
        p->fip = get32(env + 12);
        p->fcs = get16(env + 16);
        p->fop = get16(env + 18) & 0x7ff;
        p->fdp = get32(env + 20);
        p->fds = get16(env + 24);
    }
    put32(host + 12, (uint32_t)p->fip);
}

/* The operand of all four: #NM, segment, alignment to its size. */
static enum cpu_result x87_operand(struct cpu *cpu, uint32_t arg, unsigned bytes, enum mmu_access access)
{
    if (fpu_absent(cpu)) {
        return cpu_raise(cpu, X86_EXC_NM);
    }
    enum cpu_result r = cpu_operand(cpu, arg, bytes, access);
    return r == CPU_NEXT ? cpu_check_aligned(cpu, cpu->ea, HELPER_ARG_OPSIZE(arg) == 2 ? 2 : 4) : r;
}

static enum cpu_result save_x87(struct cpu *cpu, uint32_t arg, bool all)
{
    struct cpu_x87_pointers pointers;
    bool small = HELPER_ARG_OPSIZE(arg) == 2;
    unsigned env = small ? ENV_BYTES_16 : ENV_BYTES, bytes = env + (all ? X87_REGISTER_BYTES : 0);
    uint8_t *host = cpu->fpu_buf, *image = cpu->fpu_buf + NOW_OFFSET;

    enum cpu_result r = x87_operand(cpu, arg, bytes, MMU_WRITE);
    if (r == CPU_NEXT) {
        r = check_store(cpu, cpu->ea, bytes);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_fpu_load(cpu);
    if (all) {
        __asm__ volatile("fnsave (%0)" : : "r"(host) : "memory");
        copy(image + env, host + ENV_BYTES, X87_REGISTER_BYTES);
    } else {
        __asm__ volatile("fnstenv (%0)" : : "r"(host) : "memory");
    }
    cpu_x87_pointers(cpu, get32(host + 12), get32(host + 20), 4, (get16(host + 4) & FSW_ES) != 0, &pointers);
    env_encode(image, host, &pointers, small, has_real_form(cpu));
    return store(cpu, 0, image, bytes);
}

static enum cpu_result restore_x87(struct cpu *cpu, uint32_t arg, bool all)
{
    bool small = HELPER_ARG_OPSIZE(arg) == 2;
    unsigned env = small ? ENV_BYTES_16 : ENV_BYTES, bytes = env + (all ? X87_REGISTER_BYTES : 0);
    uint8_t *host = cpu->fpu_buf, *image = cpu->fpu_buf + NOW_OFFSET;

    if (fpu_absent(cpu)) {
        return cpu_raise(cpu, X86_EXC_NM);
    }
    uint16_t fsw;
    cpu_fpu_load(cpu);
    __asm__ volatile("fnstsw %0" : "=m"(fsw));
    if ((fsw & 0x80) != 0) { /* FRSTOR and FLDENV wait: they must not take the error here, in C */
        return cpu_raise(cpu, X86_EXC_MF);
    }
    enum cpu_result r = x87_operand(cpu, arg, bytes, MMU_READ);
    if (r == CPU_NEXT) {
        r = load(cpu, 0, image, bytes);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    cpu_fpu_load(cpu);
    env_decode(host, image, &cpu->x87_loaded, small, has_real_form(cpu));
    if (all) {
        copy(host + ENV_BYTES, image + env, X87_REGISTER_BYTES);
        __asm__ volatile("frstor (%0)" : : "r"(host) : "memory");
    } else {
        __asm__ volatile("fldenv (%0)" : : "r"(host) : "memory");
    }
    return CPU_NEXT;
}

/* ---- helpers ---- */

/* The forms with and without REX.W differ only in pointers that are not shown. */
#define FPU_HELPER(name, call)                                                                                         \
    enum cpu_result name(struct cpu *cpu, uint32_t arg, uint32_t len)                                                  \
    {                                                                                                                  \
        (void)len;                                                                                                     \
        return call;                                                                                                   \
    }

FPU_HELPER(sys_fxsave, fxsave(cpu, arg))
FPU_HELPER(sys_fxrstor, fxrstor(cpu, arg))
FPU_HELPER(sys_xsave, xsave(cpu, arg, KIND_XSAVE))
FPU_HELPER(sys_xsaveopt, xsave(cpu, arg, KIND_XSAVEOPT))
FPU_HELPER(sys_xsavec, xsave(cpu, arg, KIND_XSAVEC))
FPU_HELPER(sys_xrstor, xrstor(cpu, arg))
FPU_HELPER(sys_fnsave, save_x87(cpu, arg, true))
FPU_HELPER(sys_fnstenv, save_x87(cpu, arg, false))
FPU_HELPER(sys_frstor, restore_x87(cpu, arg, true))
FPU_HELPER(sys_fldenv, restore_x87(cpu, arg, false))
