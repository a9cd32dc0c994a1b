/* SPDX-License-Identifier: MIT */
/*
 * The software processor: one struct cpu for each vCPU, run by one host thread.
 *
 * While translated code runs, the guest's general registers are the host's registers (R10 and R11
 * excepted: they stay in gpr[] and the host's R10/R11 are the translator's scratch), the arithmetic
 * flags are the host's, the vector and x87 state is the host's, and GS base points at this struct.
 * In C ("outside"), gpr[], rip, rflags and iflag hold the guest's state, and the vector state is
 * still in the host's registers while fpu_live is set: code under engine/ is therefore compiled
 * without vector instructions, and calls cpu_fpu_save() before it calls anything that is not.
 *
 * The layout is private to cpu/ and mmu/; others use the functions below and the VMCS.
 */
#ifndef KAGE_CPU_CPU_H
#define KAGE_CPU_CPU_H

#include <stdatomic.h>

#include "arch/vmcs.h"
#include "arch/x86.h"

/* Which translation regime a data access uses. Also the index of the TLB banks. */
enum mmu_idx {
    MMU_IDX_KERNEL = 0,      /* supervisor, SMAP enforced; also implicit supervisor accesses at CPL 3 */
    MMU_IDX_KERNEL_USER = 1, /* supervisor, user pages allowed: EFLAGS.AC=1, or CR4.SMAP=0 */
    MMU_IDX_USER = 2,        /* CPL 3 */
    MMU_IDX_COUNT = 3,
};

enum mmu_access { MMU_READ = 0, MMU_WRITE = 1, MMU_FETCH = 2 };

/*
 * First-level TLB entry, probed by translated code:
 *   offset = va + neg_tag; hit if offset <= 4096 - size; host address = host + offset.
 * An entry that is not valid has TLB_INVALID in both words: only a non-canonical va can match it,
 * and the access through it then takes the host's #GP, which is the guest's.
 */
#define TLB_BITS 12
#define TLB_SIZE (1u << TLB_BITS)
struct tlb_bank {
    uint64_t neg_tag[TLB_SIZE]; /* -(va & ~0xfff) */
    uint64_t host[TLB_SIZE];    /* host address of the page's first byte */
};
#define TLB_INVALID (1ull << 63)

/* Jump cache: guest RIP to host code, for indirect branches; validity is the same as the TLB's. */
struct jump_cache_entry {
    uint64_t neg_rip; /* -rip; an empty entry is all zeros, but entry 0, which RIP 0 would match, has 1 here */
    uint64_t host;
};
/* Which entries of a table were filled since it was last cleared; too many: clear it all. */
#define CLEAR_LOG_MAX 1024u
struct clear_log {
    uint32_t count;
    uint16_t index[CLEAR_LOG_MAX];
};

static inline void clear_log_note(struct clear_log *log, unsigned index)
{
    if (log->count < CLEAR_LOG_MAX) {
        log->index[log->count++] = (uint16_t)index;
    } else {
        log->count = CLEAR_LOG_MAX + 1;
    }
}

#define JUMP_CACHE_BITS 14
#define JUMP_CACHE_SIZE (1u << JUMP_CACHE_BITS)
#define CODE_TLB_BITS 12
#define CODE_TLB_SIZE (1u << CODE_TLB_BITS)

/*
 * What a helper, called from translated code or from the run loop, asks for.
 * CPU_NEXT: go on behind this instruction. CPU_JUMP: rip (and maybe the mode) were set.
 * CPU_FAULT: an exception was recorded by cpu_raise(); registers are as before the instruction.
 * CPU_EXIT: a VM exit was recorded by cpu_vmexit(), or an MMIO access is wanted; as for a fault,
 * the instruction has not happened, unless the exit is trap-like and says so by having moved rip.
 */
enum cpu_result { CPU_NEXT = 0, CPU_JUMP = 1, CPU_FAULT = 2, CPU_EXIT = 3 };

/* Mode of a translated block: everything that its code was specialised for. */
#define CPU_MODE_CPL 0x3u              /* bits 1:0 */
#define CPU_MODE_LONG (1u << 2)        /* CS.L in IA-32e mode */
#define CPU_MODE_DB (1u << 3)          /* CS.D */
#define CPU_MODE_IDX_SHIFT 4           /* bits 5:4, enum mmu_idx of explicit accesses */
#define CPU_MODE_DF (1u << 6)          /* RFLAGS.DF */
#define CPU_MODE_STEP (1u << 7)        /* RFLAGS.TF, guest debug, or a shadow: one instruction, then look */
#define CPU_MODE_NO_SSE (1u << 8)      /* CR0.EM/TS or CR4.OSFXSR: x87/MMX/SSE need a check */
#define CPU_MODE_NO_AVX (1u << 9)      /* CR4.OSXSAVE or XCR0: VEX/EVEX need a check */
#define CPU_MODE_AC (1u << 10)         /* alignment is checked (CR0.AM, RFLAGS.AC, CPL 3) */
#define CPU_MODE_BREAK (1u << 11)      /* data or instruction breakpoints are armed */
#define CPU_MODE_PAGING (1u << 12)
#define CPU_MODE_UMIP (1u << 13)
#define CPU_MODE_TSD (1u << 14)        /* RDTSC is refused, or exits */
#define CPU_MODE_UNSHARED (1u << 15)   /* only while translating: no shared TLB checks */
/* Outside 64-bit code: */
#define CPU_MODE_STACK32 (1u << 16)    /* SS.B: the stack pointer is ESP, else SP */
#define CPU_MODE_FLAT_SHIFT 17         /* bits 20:17: ES, CS, SS, DS are flat, see cpu_segment_is_flat() */
#define CPU_MODE_FLAT(seg) (1u << (CPU_MODE_FLAT_SHIFT + (seg)))
#define CPU_MODE_PROTECTED (1u << 21)  /* CR0.PE and not RFLAGS.VM */

/* Requests of other threads (and of ourselves): any bit makes translated code leave at its next block. */
#define CPU_REQ_KICK (1u << 0)        /* leave guest mode: VM exit "external interrupt" */
#define CPU_REQ_TLB_FLUSH (1u << 1)   /* drop every cached translation */
#define CPU_REQ_SYNC (1u << 2)        /* stop at a safe point until the requester is done */

/* An exception or interrupt on its way into the guest. type is enum VMX_EVENT_*. */
struct cpu_event {
    bool valid;
    bool has_error;
    uint8_t vector;
    uint8_t type;
    bool raised;      /* by cpu_raise…: subject to the exception bitmap; injected events are not */
    bool guests_own;  /* #PF: CPU_PF_GUEST */
    bool address;     /* #GP: of an operand's address that is not canonical; it is #SS if that is the stack's */
    uint8_t insn_len; /* of INT n, INT3, INTO, INT1: the pushed RIP is rip + insn_len */
    uint32_t error;
    uint64_t payload; /* #PF: CR2; #DB: DR6 bits to set */
};

/*
 * A memory access that no memory slot backs. The access routine of the instruction fills a request
 * (state WANTED) and the vCPU leaves with VMX_EXIT_EPT_MISCONFIG. kvm/ performs a write, or supplies
 * a read's bytes and sets DONE, and enters again; for a read the same instruction runs anew and
 * takes its bytes from here. A page-crossing access may use two.
 */
struct cpu_mmio {
    enum { CPU_MMIO_NONE, CPU_MMIO_WANTED, CPU_MMIO_DONE } state;
    bool is_write;
    uint8_t len; /* bytes, 1 to 64 */
    gpa_t gpa;
    uint8_t data[64];
};

struct cpu;
struct cpu_vm;
struct ept;
struct tlb2;
struct code_cache;

enum cpu_page_fault {
    CPU_PF_MENDED, /* something was done: look again */
    CPU_PF_EXITS,  /* it is to be raised, and to exit */
    CPU_PF_GUEST,  /* the guest's own tables refuse the access: it is raised, and does not exit */
    CPU_PF_GONE,   /* a VM exit was recorded */
    CPU_PF_ONCE,   /* this write is allowed, and no entry may say so: it is done to the guest page, and nothing is cached */
};

/* What the processor asks of its hypervisor without leaving guest mode. */
struct cpu_ops {
    /* EPT violation at gpa. 0: the EPT was filled, walk again; -ENOENT: nothing there (MMIO); -EFAULT: the slot's host memory is gone. qualification: VMX_EPT_QUAL_*. */
    int (*ept_violation)(struct cpu *cpu, gpa_t gpa, uint64_t qualification);
    /* EPT off: the guest page that is at host page `page`, which `entry` of the tables maps. False: the entry is on its way out. */
    bool (*guest_page)(struct cpu *cpu, const uint64_t *entry, hva_t page, gpa_t *gpa);
    /*
     * EPT off: the tables refuse an access, and the hypervisor may see to that on the spot, as it does to an EPT violation, before it becomes
     * a #PF that exits. May be NULL. enum cpu_page_fault; CPU_PF_GUEST: the guest gets it, with *error; CPU_PF_ONCE: to *gpa.
     */
    int (*page_fault)(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, uint32_t *error, gpa_t *gpa);
    /* EPT off: a task switch loads CR3. False: it is #GP(0). */
    bool (*load_cr3)(struct cpu *cpu, uint64_t cr3);
    /* Guest-physical memory is about to be written by mmu_phys_write() and its kin. May be NULL. */
    void (*phys_written)(struct cpu *cpu, gpa_t gpa, size_t len);
};

struct cpu {
    /* ---- read and written by translated code ---- */
    uint64_t gpr[16];
    uint64_t rip;
    uint32_t rflags;  /* without IF: see cpu_rflags(); bit 1 set; arithmetic bits valid outside only */
    uint8_t iflag;    /* RFLAGS.IF */
    uint8_t intr_shadow; /* VMX_INTR_STI or VMX_INTR_MOV_SS: interrupts wait for one instruction */
    uint8_t fpu_live; /* guest vector state is in the host's registers */
    bool again;       /* translated code was left before the instruction at RIP had done anything: it starts anew */
    uint8_t sti_slow; /* somebody waits for the end of STI's interrupt shadow */
    _Atomic uint8_t in_guest; /* inside cpu_run(), or in guest memory: whoever wants the VM to himself waits */
    _Atomic uint32_t pending; /* CPU_REQ_* */
    _Atomic uint64_t flush_asked, flush_done; /* tickets of cpu_ask_flush() */
    uint32_t mode;            /* CPU_MODE_*, always current: see cpu_update_mode() */
    uint64_t ea;              /* operand address for helpers: linear in 64-bit code, else an offset: cpu_operand() */
    uint64_t imm;             /* immediate for helpers that need more than 8 bits */
    uint64_t tsc_offset;      /* guest TSC - host TSC */
    uint64_t host_rsp, host_fs_base, host_gs_base;
    uint64_t scratch[8];      /* of the translator's glue */
    uint16_t parked;          /* arithmetic flags, parked: see cpu_park() */
    uint64_t pext_tlb, pext_page; /* masks for flag-free index computation */
    uint64_t share[16];       /* host addresses that a block's shared checks found */
    uint64_t pext_bits[3];                   /* low 4, 5, 6 bits */
    uint64_t pext_sign;                      /* bit 63 */
    /* Outside 64-bit code, by segment and access: an access that ends below `end` needs no check but paging's. */
    struct cpu_seg_range { uint64_t end, neg_end; } seg_range[X86_GS + 1][2];
    const void *thunks[16];
    struct cpu *self;

    struct vmcs vmcs;

    struct tlb_bank tlb[MMU_IDX_COUNT][2] __attribute__((aligned(64))); /* [idx][MMU_READ or MMU_WRITE] */
    struct jump_cache_entry jump_cache[MMU_IDX_COUNT][JUMP_CACHE_SIZE];
    uint32_t code_tlb[MMU_IDX_COUNT][CODE_TLB_SIZE]; /* token of the code page mapped there */

    /* ---- the rest of the processor's state ---- */
    uint64_t cr2, cr8, xcr0;
    uint64_t guest_cr3, guest_efer; /* with EPT off what the guest has there: see cpu_guest_cr3() */
    uint64_t dr[4], dr6;
    uint64_t msr_star, msr_lstar, msr_cstar, msr_syscall_mask, msr_kernel_gs_base, msr_xss;
    uint32_t msr_tsc_aux;
    uint64_t maxphyaddr_mask; /* reserved physical-address bits of page-table entries */
    bool has_1g_pages, has_nx, has_la57;
    uint64_t efer_valid;      /* bits of EFER that the guest may set */
    bool no_pml4e_bit8; /* AMD: bit 8 of PML4Es and PML5Es is reserved */
    bool no_sysenter64; /* AMD: SYSENTER and SYSEXIT are #UD in IA-32e mode */
    uint8_t data_breaks; /* DR6 bits of the data and I/O breakpoints that this instruction has met */
    uint8_t exit_breaks; /* those of a port access that has exited: due when kvm/ has completed it */

    struct cpu_event event;  /* to be delivered before the next instruction */
    struct cpu_mmio mmio[2];
    bool nmi_blocked;
    bool guest_debug_step, guest_debug_break; /* KVM_SET_GUEST_DEBUG: see kvm/ */
    uint64_t guest_debug_dr[4], guest_debug_dr7;

    uint8_t bounce[128] __attribute__((aligned(64))); /* operand copy for accesses that no single host pointer serves */
    uint64_t bounce_va;
    uint32_t bounce_len, bounce_state;
    bool holds_code_lock; /* of the VM, while it reads guest memory */
    void *escape[5];      /* __builtin_setjmp: where the thread goes when guest memory turns out to be gone */
    const void *gone;     /* where it was, of an EPT violation that such memory made; else NULL */
    bool gone_write;
    bool bounce_alone; /* the other vCPUs stand still until its commit */
    struct cpu_piece { uint8_t *host; gpa_t gpa; uint32_t len; bool has_code; } bounce_piece[2]; /* host NULL: MMIO */
    uint8_t *pio_buf; /* data of port I/O, see cpu/sys.h */
    uint8_t *fpu_buf; /* 64-byte aligned copy of an FXSAVE or XSAVE area, see sys_fpu.c */
    struct cpu_x87_pointers { uint64_t fip, fdp; uint16_t fcs, fds, fop; } x87_loaded; /* that the guest loaded last */
    uint32_t mxcsr_mask; /* of the host; bits outside raise #GP */
    struct cpu_xcomp { uint32_t offset, size; bool align64; } xcomp[8]; /* XSAVE components 2 to 7, of the host */

    /* ---- machinery ---- */
    struct cpu_vm *vm;
    unsigned index; /* of this vCPU in the VM */
    const struct cpu_ops *ops;
    void *owner; /* the KVM vCPU object */
    struct trans *trans; /* the translator's working storage */
    struct clear_log jump_log[MMU_IDX_COUNT], code_log[MMU_IDX_COUNT];
    uint64_t jump_filter[64]; /* 4096 bits: pages that jump_cache[] may lead to */
    struct ept *vm_ept;
    uint32_t jump_mode[MMU_IDX_COUNT]; /* mode of the blocks in jump_cache[] */
    bool run_unshared;    /* the next block is to run without shared checks */
    uint32_t leave_link;  /* link that translated code asked for when it left */
    struct tlb2 *tlb2; /* second-level TLB, PCID-tagged (mmu/) */
    uint64_t *stats;    /* by enum cpu_stat; the owner may have them elsewhere than in own_stats */
    uint64_t own_stats[64];
    uint8_t *xsave;     /* 64-byte aligned, XSAVE standard format, host layout; valid while !fpu_live */
    uint32_t xsave_bytes;
    _Atomic int signal_seen; /* a signal ran on the vCPU's thread */
    uint64_t host_xcr0;   /* components that the host has */
    uint64_t pause_first, pause_last; /* host TSC of the first and the last PAUSE of a loop */
};

enum cpu_stat {
    CPU_STAT_BLOCKS_TRANSLATED,
    CPU_STAT_GUEST_BYTES,
    CPU_STAT_HOST_BYTES,
    CPU_STAT_GUEST_INSNS,
    CPU_STAT_DISPATCHES,     /* returns to the C run loop */
    CPU_STAT_JUMP_MISSES,    /* lookups that the jump cache missed */
    CPU_STAT_TLB_MISSES,     /* first-level misses */
    CPU_STAT_TLB2_MISSES,    /* walks of the guest's tables */
    CPU_STAT_TLB_FLUSHES,
    CPU_STAT_TLB_FLUSH_PAGES,
    CPU_STAT_SLOW_ACCESSES,  /* page-crossing, MMIO, code page */
    CPU_STAT_SMC_INVALIDATIONS,
    CPU_STAT_EXCEPTIONS,
    CPU_STAT_INTERRUPTS,
    CPU_STAT_HELPER_CALLS,
    CPU_STAT_HOST_FAULTS,    /* SIGSEGV, SIGFPE, … taken in translated code */
    CPU_STAT_LINKS,
    CPU_STAT_CODE_FLUSHES,
    CPU_STAT_STUB_BYTES,     /* host bytes of stubs, seldom run */
    CPU_STAT_SHARE_MISSES,   /* shared checks that did not hold */
    CPU_STAT_COUNT,
};

/*
 * A helper: the C side of an instruction that is not copied. `arg` describes the operands:
 *    4..0  ModRM.reg register   9..5  ModRM.rm register   10  rm is memory, at cpu->ea
 *   13..11 log2 of the operand size in bytes   15..14 log2 of the address size in bytes
 *   18..16 segment of the memory operand       20..19 0 none, 1 REP/REPE, 2 REPNE
 *   31..24 imm8
 * `len` is the instruction's length in bytes; cpu->rip is the instruction's own address, and
 * gpr[] and rflags are complete. On CPU_NEXT the caller moves rip; everything in gpr[], and rflags
 * if the table says HELPER_WRITES_FLAGS, is taken back into the host's registers.
 */
typedef enum cpu_result cpu_helper(struct cpu *cpu, uint32_t arg, uint32_t len);

#define HELPER_ARG_REG(arg) ((arg)&0x1fu)
#define HELPER_ARG_RM(arg) (((arg) >> 5) & 0x1fu)
#define HELPER_ARG_IS_MEM(arg) (((arg) >> 10) & 1u)
#define HELPER_ARG_OPSIZE(arg) (1u << (((arg) >> 11) & 7u))
#define HELPER_ARG_ADDRSIZE(arg) (1u << (((arg) >> 14) & 3u))
#define HELPER_ARG_SEG(arg) (((arg) >> 16) & 7u)
#define HELPER_ARG_REP(arg) (((arg) >> 19) & 3u)
#define HELPER_ARG_IMM8(arg) ((uint8_t)((arg) >> 24))

#define HELPER_WRITES_FLAGS (1u << 0)
#define HELPER_ENDS_BLOCK (1u << 1) /* changes mode, paging or control flow */
#define HELPER_VECTOR (1u << 2)     /* works on the vector state in the host's registers */
#define HELPER_SSE_CHECK (1u << 3)  /* subject to CPU_MODE_NO_SSE */
#define HELPER_AVX_CHECK (1u << 4)

struct cpu_helper_desc {
    uint16_t mnemonic; /* ZydisMnemonic */
    uint16_t flags;    /* HELPER_* */
    cpu_helper *fn;
    const char *name;
};
/* One table for every instruction that is not copied, sorted by mnemonic (sys_table.c). */
extern const struct cpu_helper_desc cpu_helper_table[];
extern const size_t cpu_helper_table_len;

/* ---- state access for kvm/, vmx/ and the helpers ---- */

/*
 * With EPT off the processor runs by tables of the hypervisor's, and by control registers that go with these: what the
 * guest has in its own is found in the read shadows, and for CR3 and EFER, which have none, in struct cpu. These
 * functions say what the guest sees in either case. vmcs.guest_pdpte[] is the guest's own in both.
 */
static inline bool cpu_uses_ept(const struct cpu *cpu)
{
    return (cpu->vmcs.proc_based_ctls2 & VMX_PROC2_EPT) != 0;
}

static inline uint64_t cpu_guest_cr0(const struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;
    return (v->guest_cr0 & ~v->cr0_mask) | (v->cr0_read_shadow & v->cr0_mask);
}

static inline uint64_t cpu_guest_cr4(const struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;
    return (v->guest_cr4 & ~v->cr4_mask) | (v->cr4_read_shadow & v->cr4_mask);
}

static inline uint64_t cpu_guest_cr3(const struct cpu *cpu)
{
    return cpu_uses_ept(cpu) ? cpu->vmcs.guest_cr3 : cpu->guest_cr3;
}

static inline uint64_t cpu_guest_efer(const struct cpu *cpu)
{
    return cpu_uses_ept(cpu) ? cpu->vmcs.guest_ia32_efer : cpu->guest_efer;
}

/* Gives the guest these values, unchecked, and the processor what goes with them; with EPT off the root stays the hypervisor's. */
void cpu_set_paging(struct cpu *cpu, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer);
/*
 * All that MOV to a control register, or WRMSR of EFER, does to what the guest sees, for a hypervisor that took the exit;
 * flushes and the root are its business with EPT off. False: #GP(0), and nothing has changed. CR3: without bit 63.
 */
KAGE_MUST_CHECK bool cpu_load_cr0(struct cpu *cpu, uint64_t value);
KAGE_MUST_CHECK bool cpu_load_cr3(struct cpu *cpu, uint64_t value);
KAGE_MUST_CHECK bool cpu_load_cr4(struct cpu *cpu, uint64_t value);
KAGE_MUST_CHECK bool cpu_load_efer(struct cpu *cpu, uint64_t value);

/* RFLAGS as the guest sees it. */
static inline uint64_t cpu_rflags(const struct cpu *cpu)
{
    return cpu->rflags | (cpu->iflag ? X86_FLAGS_IF : 0u);
}

/* Sets all of RFLAGS; bit 1 is forced on, reserved bits off. Call cpu_update_mode() afterwards. */
static inline void cpu_set_rflags(struct cpu *cpu, uint64_t value)
{
    cpu->iflag = (value & X86_FLAGS_IF) != 0;
    cpu->rflags = ((uint32_t)value & X86_FLAGS_VALID & ~X86_FLAGS_IF) | X86_FLAGS_FIXED;
}

/*
 * Arithmetic flags as LAHF and SETO leave them in AX: where translated code keeps them while it needs the host's for itself.
 * Whoever enters it has them in both places.
 */
static inline void cpu_park(struct cpu *cpu)
{
    cpu->parked = (uint16_t)((cpu->rflags & 0xd5u) << 8 | (cpu->rflags >> 11 & 1u));
}

static inline uint32_t cpu_parked_flags(const struct cpu *cpu)
{
    return (cpu->parked >> 8 & 0xd5u) | (cpu->parked & 1u) << 11;
}

/* CPL is SS.DPL (SDM 3C 25.4.1). */
static inline unsigned cpu_cpl(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_seg[X86_SS].access_rights & X86_AR_DPL) >> X86_AR_DPL_SHIFT;
}

/* IA-32e mode: 64-bit or compatibility mode. */
static inline bool cpu_in_long_mode(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_ia32_efer & X86_EFER_LMA) != 0;
}

static inline bool cpu_in_v86_mode(const struct cpu *cpu)
{
    return (cpu->rflags & X86_FLAGS_VM) != 0;
}

static inline bool cpu_in_real_mode(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_cr0 & X86_CR0_PE) == 0;
}

/* 64-bit code: CS.L in IA-32e mode. */
static inline bool cpu_in_64bit_code(const struct cpu *cpu)
{
    return (cpu->mode & CPU_MODE_LONG) != 0;
}

/*
 * Canonical where memory is reached, RIP and RSP are loaded: by the paging mode. Outside IA-32e mode addresses have 32 bits, and nobody asks.
 * CR4.LA57 changes only there (SDM 3A 4.5).
 */
static inline bool cpu_is_canonical(const struct cpu *cpu, gva_t va)
{
    return x86_is_canonical(va, (cpu->vmcs.guest_cr4 & X86_CR4_LA57) != 0 ? X86_LA57_BITS : X86_LA48_BITS);
}

/* Canonical for what only holds an address: MSRs, bases of segments and tables, INVLPG, INVPCID, VM entry. By what the processor could do. */
static inline bool cpu_is_cpu_canonical(const struct cpu *cpu, gva_t va)
{
    return x86_is_canonical(va, cpu->has_la57 ? X86_LA57_BITS : X86_LA48_BITS);
}

/* Linear address of the instruction at cpu->rip, which is an offset in CS. */
static inline gva_t cpu_code_va(const struct cpu *cpu)
{
    return cpu_in_64bit_code(cpu) ? cpu->rip : (uint32_t)(cpu->vmcs.guest_seg[X86_CS].base + cpu->rip);
}

/* Recomputes cpu->mode: after any change of CR0, CR4, EFER, XCR0, a segment, RFLAGS (DF TF AC VM), DR7, guest debug. */
void cpu_update_mode(struct cpu *cpu);

/* Records an exception for delivery; returns CPU_FAULT. Contributory faults (double, triple) are worked out at delivery. */
enum cpu_result cpu_raise(struct cpu *cpu, unsigned vector);
enum cpu_result cpu_raise_error(struct cpu *cpu, unsigned vector, uint32_t error);
enum cpu_result cpu_raise_page_fault(struct cpu *cpu, gva_t va, uint32_t error);

/*
 * Records a VM exit in the VMCS and returns CPU_EXIT. rip is left at the instruction (fault-like);
 * exit_instruction_len is set to len, so that the handler can step over it.
 */
enum cpu_result cpu_vmexit(struct cpu *cpu, uint32_t reason, uint64_t qualification, uint32_t len);

/* The event will exit rather than be delivered (SDM 3C 26.2). */
bool cpu_event_intercepted(const struct cpu *cpu, const struct cpu_event *ev);

/* Delivers cpu->event through the IDT (sys_event.c): CPU_JUMP, or CPU_EXIT (triple fault, intercepted exception, …). */
enum cpu_result cpu_deliver_event(struct cpu *cpu);

/*
 * Reads or writes guest-virtual memory for a helper: len bytes, page-crossing allowed, all or
 * nothing (a fault on the second page leaves the first unwritten). Returns CPU_NEXT, CPU_FAULT or
 * CPU_EXIT (MMIO: the request is in cpu->mmio, rerun the instruction).
 */
KAGE_MUST_CHECK enum cpu_result cpu_read(struct cpu *cpu, gva_t va, void *buf, unsigned len, enum mmu_idx idx);
KAGE_MUST_CHECK enum cpu_result cpu_write(struct cpu *cpu, gva_t va, const void *buf, unsigned len, enum mmu_idx idx);

/* The regime of explicit data accesses in the current mode. */
static inline enum mmu_idx cpu_mmu_idx(const struct cpu *cpu)
{
    return (enum mmu_idx)((cpu->mode >> CPU_MODE_IDX_SHIFT) & 3u);
}

/* Moves the guest's vector state from the host's registers to cpu->xsave and gives C a clean FPU; and back. Both do nothing if already so. */
void cpu_fpu_save(struct cpu *cpu);
void cpu_fpu_load(struct cpu *cpu);

/* ---- life cycle and running (run.c) ---- */

/* Shared by all vCPUs of a VM: code cache and code-page index. ept: the VM's second-level tables. Returns 0 or -errno. */
KAGE_MUST_CHECK int cpu_vm_new(struct ept *ept, struct cpu_vm **out);
void cpu_vm_free(struct cpu_vm *vm);
struct ept *cpu_vm_ept(const struct cpu_vm *vm);
KAGE_MUST_CHECK int cpu_new(struct cpu_vm *vm, unsigned index, const struct cpu_ops *ops, void *owner, struct cpu **out);
void cpu_free(struct cpu *cpu);
/* Power-up state (SDM 3A table 9-1), vector state included. init: INIT instead of RESET. */
void cpu_reset(struct cpu *cpu, bool init);

/* Test knobs of all vCPUs of a VM: CODE_TEST_* (code_cache.h). */
void cpu_vm_set_test_flags(struct cpu_vm *vm, unsigned flags);

/* Runs guest code until a VM exit is recorded (cpu->vmcs.exit_reason). Only vmx_enter() calls it. */
void cpu_run(struct cpu *cpu);

/* Asks a vCPU, from any thread or a signal handler, for CPU_REQ_* at its next poll. */
static inline void cpu_request(struct cpu *cpu, uint32_t bits)
{
    atomic_fetch_or_explicit(&cpu->pending, bits, memory_order_seq_cst);
}

/*
 * Asks a vCPU to flush its TLB before it runs on, and nobody waits: cpu_has_flushed() tells whether no translation from before can be used any
 * more. Tickets of a VM grow; one lock of the caller's is held over both.
 */
void cpu_ask_flush(struct cpu *cpu, uint64_t ticket);
bool cpu_has_flushed(struct cpu *cpu, uint64_t ticket);

/*
 * Stops every vCPU of the VM but `self` (may be NULL) at a safe point outside translated code,
 * runs fn, lets them go on. For changes that no cached translation may survive.
 */
void cpu_vm_exclusive(struct cpu_vm *vm, struct cpu *self, void (*fn)(void *), void *arg);
/* The same in two halves. Between them self may not ask for another. */
void cpu_vm_exclusive_begin(struct cpu_vm *vm, struct cpu *self);
void cpu_vm_exclusive_end(struct cpu_vm *vm, struct cpu *self);
/* Around uses of guest memory by the vCPU's thread that may be outside cpu_run(): meanwhile nobody is exclusive. Nests. */
bool cpu_hold_memory(struct cpu *cpu);
void cpu_release_memory(struct cpu *cpu, bool held);

/* True if translated code came from the guest page at gpa: writes to it must go through cpu_code_written(). */
bool cpu_vm_has_code(const struct cpu_vm *vm, gpa_t gpa);
/* Calls fn, which uses guest memory by host addresses, on the vCPU's thread. False: it met memory that the client has unmapped; inside cpu_run() that ends the run. */
bool cpu_guarded_call(struct cpu *cpu, void (*fn)(void *), void *arg);
/* The guest is about to write to the page at gpa. True: the write must go through cpu_code_written(). */
bool cpu_code_write_begins(struct cpu *cpu, gpa_t gpa);
/* Guest bytes [gpa, gpa+len) changed or are about to: drops the blocks made from them. */
void cpu_code_written(struct cpu *cpu, gpa_t gpa, unsigned len);
/* Drops all translated code made from a range, from outside a vCPU (slot change). */
void cpu_vm_code_invalidate(struct cpu_vm *vm, gpa_t gpa, uint64_t len);

#endif
