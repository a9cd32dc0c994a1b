/* SPDX-License-Identifier: MIT */
/*
 * The differential CPU test: the same short instruction sequence runs on the bare host processor and
 * in a guest, from the same registers, vector state and memory, and must end in the same state or in
 * the same exception. This header is what a case and its outcome are, and who makes and runs them.
 *
 * A run is for one kind of code, 64-, 32- or 16-bit (struct diff_arch). Both sides see the same address space:
 *
 *            64, 32      16
 *   CODE 0x10000000  0x50000   2 pages  rwx   the case lies in the window around the boundary of the two;
 *                                             every other byte of the window is INT3
 *   DATA 0x10010000  0x60000   3 pages  rw-
 *        0x10013000  0x63000   1 page   r--   16-bit: rw-, and the four again and again up to 0x74000, so that
 *                                             64 KiB from anywhere in the first are memory
 *   and nothing before, between and behind. 32- and 16-bit code runs in segments of the table in segs.c.
 */
#ifndef KAGE_TESTS_DIFF_DIFF_H
#define KAGE_TESTS_DIFF_DIFF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <Zydis/Zydis.h>

#define DIFF_CODE (diff_arch->code)
#define DIFF_CODE_BYTES 0x2000ull
#define DIFF_WINDOW (DIFF_CODE + 0xf00) /* what is rewritten for each case */
#define DIFF_WINDOW_BYTES 0x200
#define DIFF_DATA (diff_arch->data)
#define DIFF_DATA_RW_BYTES (diff_arch->rw_bytes)
#define DIFF_DATA_BYTES 0x4000 /* the read-only page included */
#define DIFF_DATA_COPIES 5     /* 16-bit: so often the data lie behind each other */

/* The kind of code of this run. */
struct diff_arch {
    const char *name;
    unsigned bits;
    ZydisMachineMode machine;
    ZydisStackWidth stack;
    uint64_t code, data;
    uint32_t rw_bytes;
    unsigned gprs;
};
extern const struct diff_arch *diff_arch;
extern const struct diff_arch diff_archs[3];

/* KAGE_MMU_* of the guests of libkage; 0: its default. */
extern int diff_mmu;

/* Selectors, the same as Linux uses on x86-64. */
#define DIFF_SEL_KERNEL_CS 0x10
#define DIFF_SEL_KERNEL_DS 0x18
#define DIFF_SEL_USER_CS32 0x23
#define DIFF_SEL_USER_DS 0x2b
#define DIFF_SEL_USER_CS 0x33

/* modes.c: where a 32-bit kernel with paging is, linear */
#define DIFF_KERNEL32 0xe0000000u
#define DIFF_KERNEL32_BYTES 0x20000u

#define DIFF_CODE_MAX 160
#define DIFF_INSNS_MAX 48
#define DIFF_PATCHES 6
#define DIFF_TEMPLATES 8

#define DIFF_FLAGS_AC 0x40000u
#define DIFF_FLAGS_ARITH 0x8d5u /* CF PF AF ZF SF OF */

/* All that XSAVE holds of the vector state, in one layout for every host. */
struct diff_vector {
    uint8_t fx[512];      /* as FXSAVE64 stores it */
    uint8_t ymmh[16][16]; /* YMM0-15, bits 255:128 */
    uint64_t k[8];
    uint8_t zmmh[16][32]; /* ZMM0-15, bits 511:256 */
    uint8_t hi16[16][64]; /* ZMM16-31 */
};

struct diff_regs {
    uint64_t gpr[16]; /* in encoding order: RAX RCX RDX RBX RSP RBP RSI RDI R8-R15 */
    uint64_t rip, rflags;
    uint64_t fs_base, gs_base;
    uint64_t seg; /* DS, ES, FS, GS selectors, 16 bits each from bit 0 */
    uint16_t cs, ss;
};

/* Segment registers by their numbers. */
enum { DIFF_ES, DIFF_CS, DIFF_SS, DIFF_DS, DIFF_FS, DIFF_GS, DIFF_SREGS };

/* segs.c: a segment, as modify_ldt(2) makes it for the host and a descriptor table for the guest. */
struct diff_seg {
    uint32_t base, limit; /* limit: of the segment in bytes, or in pages */
    bool code, down, big, pages, no_write, absent; /* no_write: of code, no reading */
};
#define DIFF_LDT_ENTRIES 16

struct diff_patch {
    uint16_t offset; /* into DATA */
    uint16_t size;   /* 1 to 8 bytes; 0: unused */
    uint64_t value;
};

struct diff_case {
    uint32_t id;
    uint32_t form; /* index of the form of the first instruction; UINT32_MAX: hand-picked */
    const char *name; /* of a hand-picked case */
    uint8_t code[DIFF_CODE_MAX];
    uint16_t code_len;
    uint16_t code_off;     /* from DIFF_WINDOW */
    uint8_t insns;         /* instructions in the straight line */
    uint8_t mem_template;
    bool user_only; /* means something else at CPL 0 */
    bool not_real;  /* 16-bit: means something else in real mode */
    bool ud_real;   /* 16-bit: one instruction, which real and virtual-8086 mode do not have */
    bool not_v86;   /* ... or in virtual-8086 mode only: its segments are larger */
    struct diff_patch patch[DIFF_PATCHES];
    struct diff_regs in; /* rip: where it starts; 16- and 32-bit: from its segment's base */
    uint16_t sel[DIFF_SREGS]; /* 16- and 32-bit; 64-bit: nulls */
    struct diff_vector vec;

    /* Filled by case_analyse(). */
    uint8_t insn_off[DIFF_INSNS_MAX];
    uint16_t flags_live[DIFF_INSNS_MAX];          /* arithmetic flags that are live before the instruction */
    uint16_t flags_undefined[DIFF_INSNS_MAX + 1]; /* undefined before the instruction; the last: at the end */
    bool reads_undefined;                         /* some instruction reads an undefined flag */
    uint16_t mnemonic[DIFF_INSNS_MAX];
    bool repeats_compare[DIFF_INSNS_MAX]; /* REPE or REPNE with CMPS or SCAS */
};

enum diff_status {
    DIFF_NONE,    /* never ran */
    DIFF_DONE,    /* ended in an exception, INT3 included */
    DIFF_HANG,    /* did not end */
    DIFF_SYSCALL, /* tried a system call */
    DIFF_CRASH,   /* took its runner down */
    DIFF_REFUSED, /* the back end said that it cannot run it (kernel's KVM: emulation failure) */
};

struct diff_outcome {
    uint32_t status; /* enum diff_status */
    uint32_t vector, error;
    uint32_t note; /* of a runner that failed: errno, or the KVM exit reason */
    uint64_t cr2;
    struct diff_regs out;
    struct diff_vector vec;
    uint8_t mem[DIFF_DATA_BYTES];
    uint16_t frame_off, frame_len; /* of mem: where the exception's frame went over it */
    char text[128]; /* what the engine says about its failure */
};

/* Cases and outcomes in memory that the runner's process shares with the driver. */
struct diff_batch {
    _Atomic uint32_t current; /* index of the case that runs */
    uint32_t count; /* of cases in it, at most room */
    uint32_t room;
    struct diff_case *cases;
    struct diff_outcome *outcomes;
};

/* What the guest's processor is in when a case runs. */
enum diff_env { DIFF_LONG, DIFF_COMPAT, DIFF_FLAT, DIFF_2LEVEL, DIFF_PAE, DIFF_REAL, DIFF_V86, DIFF_VME };

/* Where a case may run. */
struct diff_mode {
    const char *name;
    uint8_t bits; /* of the code that it is for; 0: any */
    enum diff_env env;
    bool guest;     /* in a VM; else on the host */
    bool kernel;    /* on the kernel's KVM, not on libkage */
    bool cpl0;
    bool part;      /* of all #UD, some are enough */
    bool strict;    /* arithmetic flags are compared at faults even where they are dead */
    unsigned flags; /* KAGE_TEST_* */
};

/* segs.c. */
const struct diff_seg *diff_seg_find(uint16_t selector); /* NULL: there is no such segment */
const struct diff_seg *diff_seg_table(void);             /* DIFF_LDT_ENTRIES; all zero: none */
uint64_t diff_seg_descriptor(const struct diff_seg *seg, unsigned dpl);
uint32_t diff_seg_base(const struct diff_case *c, unsigned sreg);
int diff_seg_host_init(void); /* the same for this process */
void diff_seg_pick(struct diff_case *c); /* segments for a case, by chance */
void diff_seg_usual(struct diff_case *c);
uint16_t diff_seg_random(void);          /* some selector, mostly good */
bool diff_seg_v86(uint16_t selector);    /* a segment as virtual-8086 mode has them */
bool diff_seg_real(uint16_t selector);   /* or as protected mode may have left it to real mode */

/* state.c: memory templates and the conversion of XSAVE images. */
extern uint8_t (*diff_templates)[DIFF_DATA_BYTES];
int diff_state_init(uint64_t seed);
uint64_t diff_host_xcr0(void);
void diff_vector_from_xsave(struct diff_vector *vec, const uint8_t *xsave);
void diff_vector_to_xsave(const struct diff_vector *vec, uint8_t *xsave);
void diff_case_memory(const struct diff_case *c, uint8_t *mem); /* RW part only: DIFF_DATA_RW_BYTES */
void diff_case_window(const struct diff_case *c, uint8_t window[DIFF_WINDOW_BYTES]);
void diff_copy(void *dst, const void *src, size_t len);
void diff_random_seed(uint64_t seed);
uint64_t diff_random(void);

/*
 * Runs cases from `first` on, in a process of its own, and does not return: it ends with status 0
 * at the end of the batch, 3 if it cannot run anything (a line on stderr says why), and otherwise the
 * case at batch->current brought it down.
 */
_Noreturn void diff_host_run(struct diff_batch *batch, uint32_t first);
/* What is expected of a case in this mode: the host's outcome, or, where the mode has no such instruction, #UD, made in *room. */
const struct diff_outcome *diff_modes_expected(const struct diff_case *c, const struct diff_outcome *host, const struct diff_mode *mode,
                                               struct diff_outcome *room);
/* True if the way in which the guest takes an exception can be seen through: see modes.c. */
bool diff_modes_can(const struct diff_case *c, const struct diff_outcome *host, const struct diff_mode *mode);
_Noreturn void diff_modes_run(struct diff_batch *batch, uint32_t first, const struct diff_mode *mode); /* 16- and 32-bit code */
_Noreturn void diff_guest_run(struct diff_batch *batch, uint32_t first, const struct diff_mode *mode);

/* batch.c: runs all cases of a batch, with as many processes as it takes. -1: the mode cannot run here. */
struct diff_batch *diff_batch_new(uint32_t room);
void diff_batch_free(struct diff_batch *batch);
int diff_batch_run(struct diff_batch *batch, const struct diff_mode *mode);

/* compare.c. */
bool diff_same(const struct diff_case *c, const struct diff_outcome *host, const struct diff_outcome *guest, const struct diff_mode *mode);
void diff_print_case(FILE *out, const struct diff_case *c);
void diff_print_difference(FILE *out, const struct diff_case *c, const struct diff_outcome *host, const struct diff_outcome *guest,
                           const struct diff_mode *mode);
/* Fills the fields that follow from the code. False: some instruction does not decode. */
bool diff_case_analyse(struct diff_case *c);

/* forms.c: every encoding form that Zydis decodes. */
struct diff_form {
    uint64_t key;
    uint16_t mnemonic;
    uint8_t isa_set, category;
    uint8_t len;
    uint8_t bytes[15]; /* an example */
    uint8_t modrm_off; /* 0: no ModRM byte */
    uint8_t address_width;
    uint8_t encoding;  /* ZydisInstructionEncoding */
};
extern struct diff_form *diff_forms;
extern size_t diff_form_count;
extern const char *diff_elsewhere[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* why 64-bit mode has no such instruction */
int diff_forms_init(void);
uint64_t diff_form_key(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops);
extern ZydisDecoder diff_decoder;

/* gen.c: random cases of a form, and random sequences of forms that work on this host. */
bool diff_gen_form(struct diff_case *c, uint32_t form);
bool diff_gen_sequence(struct diff_case *c);
void diff_gen_state(struct diff_case *c); /* random registers and vector state */

/* place.c: gives one decoded instruction operands that mean something. */
struct diff_place {
    uint32_t pinned; /* registers whose initial value is fixed by an earlier instruction */
    uint32_t dirty;  /* registers that an earlier instruction wrote */
    bool branch;     /* out: a relative branch, whose target the caller sets */
};
/* code: the instruction's bytes, at `rip`; displacements and branch distances in them may be changed. False: try another encoding. */
bool diff_place_operands(struct diff_case *c, struct diff_place *place, uint8_t *code, uint64_t rip, const ZydisDecodedInstruction *insn,
                         const ZydisDecodedOperand *ops);

/* seqs.c: hand-picked cases. False: there are no more. */
size_t diff_seq_count(void);
bool diff_seq_case(struct diff_case *c, size_t index);

/* cover.c: what is refused, and what was covered. */
const char *diff_refused(uint16_t mnemonic, uint8_t isa_set, uint8_t category);
bool diff_user_only(uint16_t mnemonic, uint8_t category);
bool diff_not_real(const ZydisDecodedInstruction *insn);
bool diff_vendor_specific(const ZydisDecodedInstruction *insn);
int diff_cover_init(void);
void diff_cover_case(const struct diff_case *c, const struct diff_outcome *host);
bool diff_form_tried(uint32_t form);
bool diff_form_works(uint32_t form); /* some case of it ended otherwise than in #UD */
/* Prints the report; returns, if the run was complete, the number of mnemonics that are neither covered nor refused. */
unsigned diff_cover_report(FILE *out, bool verbose, bool complete);

#endif
