/* SPDX-License-Identifier: MIT */
/*
 * Inside of the translator: one pass decodes a block and works out which flags are live, a second
 * emits host code. Stubs that are seldom run are collected and put behind the block.
 */
#ifndef KAGE_CPU_TRANSLATE_H
#define KAGE_CPU_TRANSLATE_H

#include <Zydis/Zydis.h>

#include "cpu/code_cache.h"
#include "cpu/cpu.h"
#include "cpu/emit.h"

/* How an instruction is carried over. */
enum insn_class {
    INSN_COPY,       /* the same instruction, operands rewritten */
    INSN_DROP,       /* NOP, PREFETCH, ENDBR: nothing to do */
    INSN_HELPER,     /* a C function: cpu_helper_table */
    INSN_UD,         /* #UD in every mode that the engine carries */
    INSN_LEA,
    INSN_PUSH,
    INSN_POP,
    INSN_CALL,
    INSN_RET,
    INSN_JMP,
    INSN_JCC,
    INSN_LOOP,       /* LOOP, LOOPE, LOOPNE, JRCXZ, JECXZ; with 16-bit addresses, and JCXZ: a helper */
    INSN_LEAVE,
    INSN_BIT_STRING, /* BT, BTS, BTR, BTC with a memory and a register operand */
    INSN_MOFFS,      /* MOV with an absolute address, of all 64 bits in 64-bit code */
    INSN_CLI,
    INSN_SWAPGS,
    INSN_STI,
    INSN_RDTSC,
    INSN_STRING,     /* MOVS, STOS, LODS where they can be done in place */
};

/* A decoded guest instruction, as far as the translator cares. */
struct insn {
    ZydisDecodedInstruction z;
    uint8_t cls;            /* enum insn_class */
    uint8_t offset;         /* from the block's first byte */
    bool has_mem;
    bool line;              /* CLFLUSH and its like */
    bool aligned;           /* its memory operand must be: ACCESS_VECTOR */
    bool mem_read, mem_write;
    uint16_t mem_bytes;
    uint8_t seg;            /* 64-bit code: X86_FS, X86_GS, or X86_DS for "no base"; else the effective segment */
    bool stack_seg;         /* a non-canonical address is #SS, not #GP */
    uint8_t base, index, scale_log2; /* EMIT_NO_REG: none */
    bool rip_relative;
    uint8_t addr_bytes;     /* 8, 4 or 2 */
    int64_t disp;           /* for RIP-relative: the absolute address */
    uint8_t high_read, high_write; /* data operands in R10 (bit 0) and R11 (bit 1) */
    bool high_byte;         /* names AH, CH, DH or BH */
    uint32_t flags_read, flags_kill;
    bool live_in, live_out; /* any arithmetic flag is live before / behind it */
    bool flags_written;     /* all, some, or perhaps */
    bool park;              /* from here on they wait in cpu->parked: plan_flags() */
    uint64_t target;        /* RIP that a direct branch leads to */
    bool target_bad;        /* beyond CS's limit: the branch is #GP(0) */
    const struct cpu_helper_desc *helper;
    cpu_helper *fn;
    uint32_t helper_arg, helper_flags;
    uint16_t gpr_written;
    int8_t moved_reg;       /* register that this instruction changes by the constant `moved`, or -1 */
    int32_t moved;
};

/*
 * One memory access of a block, noted by a dry run of the emitter. Accesses off the same unchanged
 * base and index registers share one TLB check: the first of them (the leader) checks the whole
 * range and leaves the host address of its first byte in cpu->share[], which the others use.
 */
struct access_note {
    uint8_t base;        /* register, or EMIT_NO_REG: cannot share */
    uint8_t index, scale_log2; /* the same for all of a group */
    uint8_t slot;        /* 0: on its own; else 1 + index into cpu->share[] */
    bool leader, write;
    uint16_t bytes;
    uint32_t version, index_version; /* of the registers' values */
    int32_t at;          /* displacement off that value */
    int32_t offset;      /* from the first byte of the range */
    int32_t range;       /* of a leader: bytes */
};
#define ACCESS_NOTES_MAX (3 * BLOCK_MAX_INSNS)
#define SHARE_SLOTS 16u
#define SHARE_RANGE 1024

enum cold_kind { COLD_ACCESS, COLD_HELPER, COLD_EXIT, COLD_JUMP, COLD_RELOOKUP, COLD_PARK, COLD_UNPARK };

/* Code to be put behind the block. */
struct cold {
    enum cold_kind kind;
    uint8_t insn;         /* index */
    uint8_t *from;        /* rel32 that leads here, or NULL */
    uint8_t *from2;       /* another, or NULL */
    uint8_t *resume;      /* where the hot path goes on */
    uint32_t info;        /* ACCESS_*; or CPU_JUMP-ness of a helper */
    uint8_t *op_begin, *op_end; /* the access itself, copied for bounce buffers */
    uint8_t *after;
    bool restore_rcx;     /* the check spilled RCX */
    bool parked;          /* the flags are in cpu->parked */
    bool share;           /* leader of a shared check */
    int32_t share_low, share_bytes;
    bool undo_tag;        /* R10 holds the difference to the entry's at R11: add that back */
    uint32_t tlb_off;
    uint8_t base, index, scale_log2, seg; /* operand address to recompute */
    uint8_t addr_bytes;
    bool rip_relative;
    int64_t disp;
    uint64_t target;
    struct link *link;
};

/* Descriptor that the slow-access thunk finds at R11; see thunks.c. */
struct slow_desc {
    uint32_t info;        /* ACCESS_* */
    int32_t resume;       /* relative to this struct */
    int32_t bounce;       /* 0: go on at resume with the bounce buffer */
    int32_t host_disp;    /* displacement that the access adds to R10 */
    uint64_t rip, next_rip;
};
/* Base register of an address that the glue has put into scratch[2]. */
#define BASE_SCRATCH 0xfeu

#define ACCESS_READ (1u << 0)
#define ACCESS_WRITE (1u << 1)
#define ACCESS_STACK (1u << 2)
#define ACCESS_FLAGS (1u << 3)      /* flags are live: put them back */
#define ACCESS_RANGE_WRITE (1u << 30) /* some access of the range is a write */
#define ACCESS_SHARED (1u << 31)    /* a leader: `bounce` is the low end of the range, `host_disp` its bytes */
#define ACCESS_ALIGNED (1u << 6)    /* alignment is checked: #AC */
#define ACCESS_VECTOR (1u << 7)     /* an operand that is not aligned to its size is #GP, whatever the page tables say */
#define ACCESS_X87 (1u << 16)       /* an x87 error that waits is #MF before any fault of the operand */
#define ACCESS_SEGMENTED (1u << 17) /* not 64-bit code: `ea` is an offset in the segment of bits 20:18 */
#define ACCESS_SEG_SHIFT 18
#define ACCESS_LINE (1u << 22)      /* CLFLUSH and its like: execute-only segments too */
#define ACCESS_LOCKED (1u << 21)    /* LOCK, or XCHG: one step for all vCPUs */
#define ACCESS_IDX_SHIFT 4
#define ACCESS_BYTES_SHIFT 8

/* Descriptor that the helper thunk finds at R11. */
struct helper_site {
    uint64_t fn;
    uint64_t rip;
    uint32_t arg, len;
    uint32_t flags;       /* HELPER_* */
    int32_t resume;       /* relative to this struct */
    uint64_t imm;
};

/* Descriptor that the jump thunk finds at R11. */
struct jump_site {
    uint64_t rip;
    int64_t rsp_undo;
};

enum { DECODE_64, DECODE_32, DECODE_16 };

struct trans {
    struct cpu *cpu;
    struct cpu_vm *vm;
    struct emit e;
    struct block *b;
    uint32_t mode;
    bool legacy;          /* not 64-bit code */
    uint64_t rip;         /* of the block's first instruction: an offset in CS, where b->va is linear */
    unsigned idx;         /* enum mmu_idx of the block's accesses */
    unsigned count;
    struct insn insns[BLOCK_MAX_INSNS + 1];
    struct cold colds[4 * BLOCK_MAX_INSNS];
    unsigned cold_count;
    struct insn_map maps[4 * BLOCK_MAX_INSNS];
    unsigned map_count, hot_map_count;
    uint8_t *section; /* where insn_map offsets count from: the body, then the stubs */
    const uint8_t *code;  /* guest bytes of the block: bytes[] */
    const uint8_t *second_page; /* host address of the page where a straddling instruction ends, else NULL */
    uint8_t bytes[304];
    bool failed;
    ZydisDecoder decoders[3]; /* DECODE_* */
    bool unshared;           /* every access checks for itself */
    bool dry;                /* only noting accesses */
    struct access_note notes[ACCESS_NOTES_MAX];
    unsigned note_count, next_note;
    uint32_t version[16];
    int32_t moved[16];
    uint32_t last_version;
    bool access_open;        /* the last COLD_ACCESS waits for lower_access_done() */
    bool parked;             /* the flags are in cpu->parked, and the host's are free */
};

#define OFF(field) ((uint32_t)offsetof(struct cpu, field))
#define OFF_GPR(n) (OFF(gpr) + 8u * (uint32_t)(n))
#define OFF_SEG_BASE(s) (OFF(vmcs.guest_seg) + (uint32_t)(s) * (uint32_t)sizeof(struct vmcs_segment))
#define OFF_SEG_RANGE(s, rw) (OFF(seg_range) + ((uint32_t)(s)*2u + (uint32_t)(rw)) * (uint32_t)sizeof(struct cpu_seg_range))
#define OFF_TLB(idx, rw) (OFF(tlb) + ((uint32_t)(idx)*2u + (uint32_t)(rw)) * (uint32_t)sizeof(struct tlb_bank))
#define OFF_HOST ((uint32_t)offsetof(struct tlb_bank, host)) /* from a bank's neg_tag[] */
#define OFF_JUMP(idx) (OFF(jump_cache) + (uint32_t)(idx)*JUMP_CACHE_SIZE * (uint32_t)sizeof(struct jump_cache_entry))
#define OFF_CODE_TLB(idx) (OFF(code_tlb) + (uint32_t)(idx)*CODE_TLB_SIZE * 4u)

/* Where thunks stand in cpu->thunks. */
enum {
    THUNK_LEAVE,       /* to the run loop; rip is set */
    THUNK_LINK,        /* the same, asking for the link whose index is in R10D */
    THUNK_SLOW,        /* memory access: descriptor at R11, address in ea */
    THUNK_COMMIT,      /* write the bounce buffer back: descriptor at R11 */
    THUNK_HELPER,      /* descriptor at R11 */
    THUNK_JUMP,        /* indirect branch to the address in R10 that missed the jump cache; struct jump_site at R11 */
    THUNK_PARKED,      /* the same again, with the flags in cpu->parked */
    THUNK_COUNT = 2 * THUNK_PARKED,
};
#define OFF_THUNK(n) (OFF(thunks) + 8u * (uint32_t)(n))

/* isa.c: does the host lack the instruction? Then it is #UD, before any access. */
void isa_init(void);
bool isa_missing(const ZydisDecodedInstruction *z);

/* classes.c */
void classify_init(void);
enum insn_class classify(const struct trans *t, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops, struct insn *in);

/* scan.c: decodes the block into t->insns and works out liveness; 0, or the reason why not even one instruction was had */
enum scan_result { SCAN_OK, SCAN_FAULT, SCAN_EXIT, SCAN_AGAIN };
/* A near branch that is always taken. */
static inline bool insn_leaves(const struct insn *in)
{
    return in->cls == INSN_CALL || in->cls == INSN_RET || in->cls == INSN_JMP;
}
/* False: execution goes on with the next instruction. */
bool insn_ends_block(const struct insn *in);
enum scan_result scan_block(struct trans *t, gva_t va, gpa_t gpa, const uint8_t *host);

/* lower_mem.c */
struct mem_operand { /* a host memory operand: [base + index + disp] */
    uint8_t base;
    uint8_t index; /* EMIT_NO_REG: none */
    int32_t disp;
};
/* Emits the address computation and TLB check of an access; afterwards R10 (+ disp) is the host address, R11 is free. */
struct mem_operand lower_access(struct trans *t, unsigned i, uint32_t access, unsigned bytes, bool flags_live);
struct mem_operand lower_access_at(struct trans *t, unsigned i, uint32_t access, unsigned bytes, bool flags_live,
                                   unsigned base, unsigned index, unsigned scale_log2, int64_t disp, unsigned seg,
                                   unsigned addr_bytes, bool rip_relative);
/* Marks the end of the instruction that does the access: what lies between is copied for the bounce path. */
void lower_access_done(struct trans *t);
/* share.c: after an instruction of the dry run; and, at its end, who shares with whom. */
void share_note_insn(struct trans *t, const struct insn *in);
void share_decide(struct trans *t);
/*
 * Address of a memory operand into R10, flags untouched if flags_live. May use R11. It is linear in
 * 64-bit code, and else the offset in the segment, cut to the address size.
 */
void lower_address(struct trans *t, unsigned base, unsigned index, unsigned scale_log2, int64_t disp, unsigned seg,
                   unsigned addr_bytes, bool rip_relative, bool flags_live);
/* Offsets in the segment are linear addresses. */
bool lower_is_flat(const struct trans *t, unsigned seg);
/* movzx r10d, r10w */
void lower_cut_r10(struct emit *e);
/* Glue of instruction i must leave the host's flags alone. */
static inline bool flags_in_use(const struct trans *t, unsigned i)
{
    return t->insns[i].live_in && !t->parked;
}
/* Guest RIP of instruction i, and of what follows it. */
uint64_t trans_rip(const struct trans *t, unsigned i);
uint64_t trans_next_rip(const struct trans *t, unsigned i);

/* rewrite.c: copies instruction i with operands rewritten */
void rewrite_copy(struct trans *t, unsigned i);
void rewrite_lea(struct trans *t, unsigned i);
void rewrite_bit_string(struct trans *t, unsigned i);
void rewrite_moffs(struct trans *t, unsigned i);

/* lower_branch.c */
void lower_branch(struct trans *t, unsigned i);
/* Ends the block by going on at guest address va. */
void lower_goto(struct trans *t, unsigned i, gva_t va);
void lower_set_rip(struct emit *e, gva_t rip);
void lower_poll(struct trans *t);
/* The block's entries, and where its flags are from the first instruction on. */
void lower_entry(struct trans *t);
void lower_park(struct emit *e);
void lower_unpark(struct emit *e);
void lower_helper(struct trans *t, unsigned i);
void lower_sti(struct trans *t, unsigned i);
void lower_rdtsc(struct trans *t);

/* cold.c */
void cold_emit(struct trans *t);
/* Where in the code cache p is. */
static inline uint32_t cache_offset(const struct trans *t, const uint8_t *p)
{
    return (uint32_t)(p - t->vm->rw);
}

/* lower_string.c: MOVS, STOS, LODS without their helper; serves: can it be? (helper and its argument are filled in) */
bool lower_string_serves(const struct trans *t, const struct insn *in);
void lower_string(struct trans *t, unsigned i);

/* fpu.c: may an instruction of this unit run in the current mode? arg: FPU_CHECK_*. Raises #UD or #NM. */
cpu_helper cpu_fpu_check;
#define FPU_CHECK_X87 1u
#define FPU_CHECK_FWAIT 2u
#define FPU_CHECK_MMX 3u
#define FPU_CHECK_SSE 4u
#define FPU_CHECK_AVX 5u
#define FPU_CHECK_AVX512 6u

/* translate.c: the block for the code at rip in the current mode. Returns NULL with an event or exit recorded (result). */
struct block *translate(struct cpu *cpu, const struct code_key *key, const uint8_t *host, enum cpu_result *result);
void trans_note(struct trans *t, unsigned i, int spilled);
struct cold *trans_cold(struct trans *t, enum cold_kind kind, unsigned i);

/* thunks.c: entry to and way out of translated code */
extern uint64_t cpu_enter_code(struct cpu *cpu, const void *code);
extern const void *const cpu_thunk_table[THUNK_COUNT];

#endif
