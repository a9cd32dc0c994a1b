/* SPDX-License-Identifier: MIT */
/*
 * The C side of instructions that the translator does not copy: what cpu/sys_*.c share with each
 * other, with the translator, and with kvm/. Helpers themselves are reached through
 * cpu_helper_table only.
 *
 * MMIO. A read that no slot backs fills cpu->mmio[] (WANTED) and exits with
 * VMX_EXIT_EPT_MISCONFIG; rip is at the instruction. kvm/ supplies the bytes of every WANTED entry,
 * sets it DONE and enters; the instruction runs again and takes them. No interrupt may be injected
 * while an entry is DONE: it belongs to the instruction at rip.
 * A write is posted: the instruction completes (rip and registers have moved, or, in a repeated
 * string instruction, the element is counted) and the exit follows it. kvm/ performs every WANTED
 * entry with is_write, sets it NONE and enters.
 *
 * Port I/O. VMX_EXIT_IO has the qualification of SDM 3C table 28-5:
 *   31..16 port | 6 immediate operand | 5 REP | 4 string | 3 IN | 2..0 size - 1
 * and cpu->imm is the number of elements, at least 1, at most what stays inside one guest page.
 * For OUT and OUTS the data are in cpu->pio_buf, element after element in the order of the
 * operation. For IN and INS kvm/ puts them there in the same order. When the I/O is done, in
 * either direction, kvm/ calls cpu_io_complete() once, before the next vmx_enter(): it writes RAX
 * or memory, and moves RCX, RSI, RDI and RIP (both cpu->rip and vmcs.guest_rip; RIP stays at the
 * instruction while a REP has elements left). It returns CPU_NEXT; CPU_FAULT if storing INS data
 * raised an exception (it is in cpu->event, nothing else to do); or CPU_EXIT if the data went to
 * MMIO or the memory is gone: vmcs.exit_reason is then a new exit to handle.
 * For INS and OUTS guest_linear_address and exit_instruction_info (table 28-9: 9..7 address size,
 * 17..15 segment) are set as well.
 */
#ifndef KAGE_CPU_SYS_H
#define KAGE_CPU_SYS_H

#include "cpu/cpu.h"

/* ---- port I/O (sys_io.c) ---- */

#define CPU_PIO_BUF_BYTES 4096u

#define VMX_IO_SIZE(q) ((unsigned)((q)&7u) + 1u)
#define VMX_IO_IN (1u << 3)
#define VMX_IO_STRING (1u << 4)
#define VMX_IO_REP (1u << 5)
#define VMX_IO_IMM (1u << 6)
#define VMX_IO_PORT(q) ((uint16_t)((q) >> 16))

enum cpu_result cpu_io_complete(struct cpu *cpu);

/* ---- control registers (paging.c) ---- */

/* Bits that the guest has in a read shadow while EPT is off: all that says how its tables are to be read. */
#define CPU_NOEPT_CR0_MASK (X86_CR0_PG | X86_CR0_WP | X86_CR0_CD | X86_CR0_NW)
#define CPU_NOEPT_CR4_MASK                                                                                             \
    (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_LA57)

/* A value that MOV writes without an exit: bits that the hypervisor owns stay as they are. */
static inline uint64_t cpu_keep_masked(const struct cpu *cpu, uint64_t value, uint64_t actual, uint64_t mask)
{
    return cpu_uses_ept(cpu) ? (value & ~mask) | (actual & mask) : value; /* EPT off: these are its read shadow's */
}

/* ---- MSRs that live in the processor (sys_msr.c) ---- */

/*
 * 0; -ENOENT: not an MSR of the processor's own; -EINVAL: the value makes WRMSR raise #GP.
 * The processor's own: TSC, SYSENTER_*, PAT, EFER, STAR, LSTAR, CSTAR, SYSCALL_MASK, FS_BASE,
 * GS_BASE, KERNEL_GS_BASE, TSC_AUX. RDMSR and WRMSR of these do not exit if the MSR bitmap has
 * their bits clear; all others exit always.
 */
int cpu_get_msr(struct cpu *cpu, uint32_t msr, uint64_t *value);
int cpu_set_msr(struct cpu *cpu, uint32_t msr, uint64_t value);

/* ---- buffers of the helpers (sys_mem.c); cpu_new() and cpu_free() call these ---- */

KAGE_MUST_CHECK int cpu_sys_init(struct cpu *cpu); /* pio_buf and fpu_buf; 0 or -ENOMEM */
void cpu_sys_fini(struct cpu *cpu);
#define CPU_FPU_BUF_BYTES 16384u
void cpu_fpu_probe_host(struct cpu *cpu); /* sys_fpu.c: layout of the host's XSAVE area */

/*
 * The guest's x87 pointers, of which the host's unit has host_fip and host_fdp, with the low `bytes` of each known
 * (x87_pointers.c). fip and fcs; `all`: the operand and opcode too, which takes a look at the code, and is what the
 * handler of an exception that waits asks for. May save the vector state.
 */
void cpu_x87_pointers(struct cpu *cpu, uint64_t host_fip, uint64_t host_fdp, unsigned bytes, bool all,
                      struct cpu_x87_pointers *p);

/* ---- memory accesses (sys_mem.c) ---- */

/*
 * The translator's slow path. prepare checks an access of len bytes, 1 to 64, and gives in *host
 * either a pointer to the bytes themselves or cpu->bounce, loaded with them if `read`. After an
 * access with `write`, commit stores a bounce back, tells the code cache, or posts an MMIO write:
 * it returns CPU_NEXT or CPU_EXIT, and never faults on RAM. cpu->rip must have moved behind the
 * instruction before commit.
 */
KAGE_MUST_CHECK enum cpu_result cpu_access_prepare(struct cpu *cpu, gva_t va, unsigned len, bool read, bool write, bool locked,
                                                   enum mmu_idx idx, uint8_t **host);
KAGE_MUST_CHECK enum cpu_result cpu_access_commit(struct cpu *cpu);
/* Lets the other vCPUs go on, if a locked access that has not come to its commit holds them. */
void cpu_access_abandon(struct cpu *cpu);

/* True if the CPU_EXIT that a write just returned is a posted MMIO write: complete the instruction, then return CPU_EXIT. */
bool cpu_mmio_posted(const struct cpu *cpu);
/* cpu_write() as the last act of an instruction of `len` bytes: moves rip behind it if the write was posted. */
KAGE_MUST_CHECK enum cpu_result cpu_write_last(struct cpu *cpu, gva_t va, const void *buf, unsigned bytes, uint32_t len);
/* Reads like cpu_read(), but leaves served MMIO bytes for another run; cpu_mmio_consume() drops them. */
KAGE_MUST_CHECK enum cpu_result cpu_read_keep(struct cpu *cpu, gva_t va, void *buf, unsigned len, enum mmu_idx idx);
void cpu_mmio_consume(struct cpu *cpu);
/*
 * Where the byte at va is, after all checks for `access`: p->host reaches to the end of the page,
 * and is NULL for MMIO. After a write, if p->has_code, call cpu_code_written() with p->gpa.
 */
KAGE_MUST_CHECK enum cpu_result cpu_locate(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx,
                                           struct cpu_piece *p);
/* Checks that [va, va+len) can be accessed, without touching the bytes. */
KAGE_MUST_CHECK enum cpu_result cpu_probe(struct cpu *cpu, gva_t va, unsigned len, enum mmu_access access, enum mmu_idx idx);

/* ---- string operands (sys_string.c) ---- */

/*
 * Elements of `bytes` from offset `reg` of a segment, at linear address va, in the direction of DF, that stay inside
 * page and segment before the register wraps; 0: the first crosses the page.
 */
uint64_t cpu_string_run(const struct cpu *cpu, unsigned seg, gva_t va, uint64_t reg, unsigned bytes, unsigned addr_bytes);
/* Moves an index register over n elements. */
void cpu_string_advance(struct cpu *cpu, unsigned reg, uint64_t n, unsigned bytes, unsigned addr_bytes);

/* The host's processor is AMD's, or Hygon's (isa.c): it decides where the vendors differ. */
bool isa_vendor_amd(void);

/* ---- registers ---- */

/* Writes a general register as an instruction of that operand size does (32: zero-extends; 8 and 16: merges). */
static inline void cpu_set_gpr(struct cpu *cpu, unsigned reg, unsigned bytes, uint64_t value)
{
    switch (bytes) {
    case 1:
        cpu->gpr[reg] = (cpu->gpr[reg] & ~0xffull) | (value & 0xff);
        break;
    case 2:
        cpu->gpr[reg] = (cpu->gpr[reg] & ~0xffffull) | (value & 0xffff);
        break;
    case 4:
        cpu->gpr[reg] = (uint32_t)value;
        break;
    default:
        cpu->gpr[reg] = value;
        break;
    }
}

/* What an access through SS raises instead of #GP(0): #SS(0) (SDM 3A 6.15, interrupt 12). */
static inline enum cpu_result cpu_stack_result(struct cpu *cpu, enum cpu_result r)
{
    if (r == CPU_FAULT && cpu->event.vector == X86_EXC_GP) {
        cpu->event.vector = X86_EXC_SS;
    }
    return r;
}

static inline uint64_t cpu_size_mask(unsigned bytes)
{
    return bytes >= 8 ? ~0ull : (1ull << (bytes * 8)) - 1;
}

static inline enum cpu_result cpu_raise_gp(struct cpu *cpu, uint32_t error)
{
    return cpu_raise_error(cpu, X86_EXC_GP, error);
}

/* Exits for an instruction with a control bit in the primary controls. */
static inline bool cpu_proc_ctl(const struct cpu *cpu, uint32_t bit)
{
    return (cpu->vmcs.proc_based_ctls & bit) != 0;
}

/* Interrupt- or NMI-window exiting wants to know about the very next boundary. */
static inline bool cpu_window_wanted(const struct cpu *cpu)
{
    return cpu_proc_ctl(cpu, VMX_PROC_INTR_WINDOW_EXITING | VMX_PROC_NMI_WINDOW_EXITING);
}

static inline bool cpu_proc_ctl2(const struct cpu *cpu, uint32_t bit)
{
    return (cpu->vmcs.proc_based_ctls & VMX_PROC_SECONDARY) != 0 && (cpu->vmcs.proc_based_ctls2 & bit) != 0;
}

/* ---- segmented addresses (linear.c) ---- */

/*
 * Linear address of the bytes [offset, offset + len) of a segment, after the checks of SDM 3A 5.3
 * and 5.5: usable, type, limit. Outside 64-bit code it is cut to 32 bits; in 64-bit code only FS and
 * GS have a base, and nothing is checked (the access itself tells of a non-canonical address).
 * CPU_NEXT, or CPU_FAULT with #GP(0), through SS #SS(0).
 */
KAGE_MUST_CHECK enum cpu_result cpu_linear(struct cpu *cpu, unsigned seg, uint64_t offset, unsigned len,
                                           enum mmu_access access, gva_t *va);
/* The same without raising anything. */
bool cpu_linear_is_good(const struct cpu *cpu, unsigned seg, uint64_t offset, uint64_t len, enum mmu_access access);
/* Elements of `bytes` from offset, upwards or downwards, that lie in the segment; the first of them is known to. */
uint64_t cpu_linear_run(const struct cpu *cpu, unsigned seg, uint64_t offset, unsigned bytes, bool down);
/* Base 0, all of 4 GiB, readable and writable (CS: readable): its offsets are linear addresses. */
bool cpu_segment_is_flat(const struct cpu *cpu, unsigned seg);
/* cpu->seg_range[], for cpu_update_mode() */
void cpu_update_seg_ranges(struct cpu *cpu);

/* Makes cpu->ea, the address of a helper's memory operand, linear: once, before the first access to it. */
KAGE_MUST_CHECK static inline enum cpu_result cpu_operand(struct cpu *cpu, uint32_t arg, unsigned len,
                                                          enum mmu_access access)
{
    return cpu_in_64bit_code(cpu) ? CPU_NEXT : cpu_linear(cpu, HELPER_ARG_SEG(arg), cpu->ea, len, access, &cpu->ea);
}

/* RIP behind an instruction of `len` bytes. */
static inline void cpu_advance(struct cpu *cpu, uint32_t len)
{
    cpu->rip = cpu_in_64bit_code(cpu) ? cpu->rip + len : (uint32_t)(cpu->rip + len);
}

/* The linear address n bytes behind va: outside 64-bit code the address space ends, and begins again, at 4 GiB. */
static inline gva_t cpu_va_add(const struct cpu *cpu, gva_t va, uint64_t n)
{
    return !cpu_in_64bit_code(cpu) && va <= UINT32_MAX ? (uint32_t)(va + n) : va + n;
}

/* What EFLAGS.AC asks of an operand at linear address va that is to be aligned to `bytes`: CPU_NEXT, or #AC(0). */
KAGE_MUST_CHECK static inline enum cpu_result cpu_check_aligned(struct cpu *cpu, gva_t va, unsigned bytes)
{
    bool bad = (cpu->mode & CPU_MODE_AC) != 0 && (va & (bytes - 1)) != 0 && cpu_is_canonical(cpu, va);
    return bad ? cpu_raise_error(cpu, X86_EXC_AC, 0) : CPU_NEXT;
}

/* Bytes of the stack pointer: 8 in 64-bit code, else 4 or 2 by SS.B. */
static inline unsigned cpu_stack_bytes(const struct cpu *cpu)
{
    return cpu_in_64bit_code(cpu) ? 8 : (cpu->mode & CPU_MODE_STACK32) != 0 ? 4 : 2;
}

/* The stack pointer, as wide as it is; and what an instruction leaves there (16 bits merge). */
static inline uint64_t cpu_sp(const struct cpu *cpu)
{
    return cpu->gpr[X86_RSP] & cpu_size_mask(cpu_stack_bytes(cpu));
}

static inline void cpu_set_sp(struct cpu *cpu, uint64_t value)
{
    cpu_set_gpr(cpu, X86_RSP, cpu_stack_bytes(cpu), value);
}

/* Linear address of the `bytes` at offset `at` (cut to the stack pointer's width) of SS: #SS(0) or #AC(0) if refused (sys_stack.c). */
KAGE_MUST_CHECK enum cpu_result cpu_stack_va(struct cpu *cpu, uint64_t at, unsigned bytes, enum mmu_access access, gva_t *va);

/* ---- segmentation (sys_segment.c) ---- */

struct cpu_descriptor {
    uint64_t base;
    uint32_t limit;         /* bytes, scaled by G */
    uint32_t access_rights; /* X86_AR_* */
    uint64_t gate_offset;   /* of a call gate */
    uint16_t gate_selector;
    uint8_t gate_words; /* parameters that a 16- or 32-bit call gate copies */
    gva_t address;          /* of the descriptor, for the accessed and busy bits */
};

/*
 * Reads the descriptor that a selector names: 8 bytes, or 16 in IA-32e mode if `system16` and it
 * is a system descriptor. A selector beyond its table sets *found to false; nothing is raised for that.
 */
KAGE_MUST_CHECK enum cpu_result cpu_descriptor_read(struct cpu *cpu, uint16_t selector, bool system16,
                                                    struct cpu_descriptor *d, bool *found);
/* Sets the accessed bit of a code or data descriptor in memory, if clear. */
KAGE_MUST_CHECK enum cpu_result cpu_descriptor_set_accessed(struct cpu *cpu, struct cpu_descriptor *d);
/* Puts a checked descriptor into a segment register. */
void cpu_segment_set(struct cpu *cpu, unsigned seg, uint16_t selector, const struct cpu_descriptor *d);
/* A null selector in a data segment or SS; dpl matters for SS. */
void cpu_segment_set_null(struct cpu *cpu, unsigned seg, uint16_t selector, unsigned dpl);
/* Flat segments of SYSCALL, SYSENTER and their returns. */
void cpu_segment_set_flat(struct cpu *cpu, unsigned seg, uint16_t selector, uint32_t access_rights);
/* Loads DS, ES, FS, GS or SS with all checks, as MOV Sreg does. */
KAGE_MUST_CHECK enum cpu_result cpu_segment_load(struct cpu *cpu, unsigned seg, uint16_t selector);

/* ---- events (sys_event.c) ---- */

/* Debug exception: dr6_bits are committed to DR6 at delivery. */
enum cpu_result cpu_raise_debug(struct cpu *cpu, uint64_t dr6_bits);
/* Compares an access of the instruction at RIP with the armed data breakpoints (breakpoints.c); #DB follows it. */
void cpu_note_data_access(struct cpu *cpu, gva_t va, unsigned len, bool write);
/* The same for ports, with CR4.DE. */
void cpu_note_io_access(struct cpu *cpu, uint16_t port, unsigned len);
/* Regime of implicit supervisor accesses: descriptor tables, IDT and TSS (SDM 3A 4.6.1). */
static inline enum mmu_idx cpu_implicit_idx(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_cr4 & X86_CR4_SMAP) != 0 ? MMU_IDX_KERNEL : MMU_IDX_KERNEL_USER;
}
/* Regime of explicit accesses at another privilege level. */
static inline enum mmu_idx cpu_idx_at_cpl(const struct cpu *cpu, unsigned cpl)
{
    if (cpl == 3) {
        return MMU_IDX_USER;
    }
    bool smap = (cpu->vmcs.guest_cr4 & X86_CR4_SMAP) != 0 && (cpu->rflags & X86_FLAGS_AC) == 0;
    return smap ? MMU_IDX_KERNEL : MMU_IDX_KERNEL_USER;
}

/* The stack that a 64-bit gate with a switch to `cpl` uses: RSPn of the TSS, or ISTn if ist is not 0. */
KAGE_MUST_CHECK enum cpu_result cpu_tss_stack(struct cpu *cpu, unsigned cpl, unsigned ist, uint64_t *rsp, uint32_t ext);
/* INT n, INT3, INT1: records the event as software's; returns CPU_FAULT, which delivers it. */
enum cpu_result cpu_raise_software(struct cpu *cpu, unsigned vector, unsigned type, uint32_t len);

/*
 * What `arg` says beyond cpu.h. MOV with CR, DR or Sreg: imm8 is the opcode byte (20 21 22 23 8C
 * 8E), reg is the control, debug or segment register. PUSH, POP: reg is the segment register.
 * IN, OUT: bit 10 set if the port is imm8, clear if it is DX. RET far: cpu->imm is the immediate.
 * CALL, JMP and RET rows are for the far forms, MOV, PUSH and POP rows for system registers only,
 * MOVSD and CMPSD rows for the string forms only. Gathers and masked moves decode themselves.
 */

/* ---- helpers, by file; see sys_table.c for their instructions ---- */
cpu_helper sys_mov_from_cr, sys_mov_to_cr, sys_mov_dr, sys_clts, sys_lmsw, sys_smsw;
cpu_helper sys_mov_system, sys_xsetbv, sys_xgetbv, sys_invlpg, sys_invpcid;
cpu_helper sys_rdmsr, sys_wrmsr, sys_rdtsc, sys_rdtscp, sys_rdpmc, sys_swapgs, sys_rdpid;
cpu_helper sys_rdfsbase, sys_rdgsbase, sys_wrfsbase, sys_wrgsbase;
cpu_helper sys_wbinvd, sys_invd, sys_hlt, sys_cpuid, sys_monitor, sys_mwait, sys_pause, sys_vmcall, sys_ud, sys_gp, sys_too_long,
    sys_clzero;
cpu_helper sys_rdrand, sys_rdseed;
cpu_helper sys_cli, sys_sti, sys_clac, sys_stac, sys_cld, sys_std, sys_pushf, sys_popf;
cpu_helper sys_mov_sreg, sys_push_sreg, sys_pop_sreg, sys_lds, sys_les, sys_lfs, sys_lgs, sys_lss;
cpu_helper sys_lar, sys_lsl, sys_verr, sys_verw;
cpu_helper sys_lgdt, sys_lidt, sys_sgdt, sys_sidt, sys_lldt, sys_ltr, sys_sldt, sys_str;
cpu_helper sys_call_far, sys_jmp_far, sys_ret_far, sys_iret, sys_syscall, sys_sysret, sys_sysenter, sys_sysexit;
cpu_helper sys_int, sys_int3, sys_int1, sys_into;
cpu_helper sys_in, sys_out, sys_ins, sys_outs;
cpu_helper sys_movs, sys_stos, sys_lods, sys_cmps, sys_scas;
cpu_helper sys_fxsave, sys_fxrstor, sys_xsave, sys_xsaveopt, sys_xsavec, sys_xrstor;
cpu_helper sys_fnsave, sys_frstor, sys_fnstenv, sys_fldenv;
cpu_helper sys_enter, sys_pusha, sys_popa, sys_loop;
cpu_helper sys_daa, sys_das, sys_aaa, sys_aas, sys_aam, sys_aad, sys_salc, sys_bound, sys_arpl, sys_xlat;
cpu_helper sys_gather, sys_maskmov, sys_maskmov_implicit;

#endif
