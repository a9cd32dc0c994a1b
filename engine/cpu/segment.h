/* SPDX-License-Identifier: MIT */
/*
 * What the users of descriptors share: segment loads, far transfers, interrupt delivery and task
 * switches. One function for each kind of descriptor makes the checks of SDM 3A chapters 5 to 7;
 * who asks decides the rule for the privilege levels and the exceptions.
 */
#ifndef KAGE_CPU_SEGMENT_H
#define KAGE_CPU_SEGMENT_H

#include "cpu/sys.h"

/* Type bits of code and data (SDM 3A table 3-1) */
#define AR_TYPE_CODE 8u
#define AR_TYPE_CONFORMING 4u
#define AR_TYPE_EXPAND_DOWN 4u
#define AR_TYPE_RW 2u /* writable data, readable code */
#define AR_TYPE_ACCESSED 1u
#define AR_DPL3 (3u << X86_AR_DPL_SHIFT)
#define AR_REAL_DATA (X86_AR_P | X86_AR_S | AR_TYPE_RW | AR_TYPE_ACCESSED)
#define AR_V86 (AR_REAL_DATA | AR_DPL3)
/* Flat segments, accessed; DPL is added */
#define AR_FLAT_CODE64 (X86_AR_P | X86_AR_S | 0xbu | X86_AR_L | X86_AR_G)
#define AR_FLAT_CODE32 (X86_AR_P | X86_AR_S | 0xbu | X86_AR_DB | X86_AR_G)
#define AR_FLAT_DATA (X86_AR_P | X86_AR_S | 0x3u | X86_AR_DB | X86_AR_G)

/* System and gate descriptors (SDM 3A table 3-2) */
enum {
    SYS_TSS16 = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL_GATE16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INT_GATE16 = 6,
    SYS_TRAP_GATE16 = 7,
    SYS_TSS = 9,
    SYS_TSS_BUSY = 11,
    SYS_CALL_GATE = 12,
    SYS_INT_GATE = 14,
    SYS_TRAP_GATE = 15,
};
#define SYS_BUSY_BIT 2u

static inline unsigned ar_dpl(uint32_t ar)
{
    return (ar & X86_AR_DPL) >> X86_AR_DPL_SHIFT;
}

static inline bool ar_is_code(uint32_t ar)
{
    return (ar & (X86_AR_S | AR_TYPE_CODE)) == (X86_AR_S | AR_TYPE_CODE);
}

static inline bool ar_is_conforming(uint32_t ar)
{
    return ar_is_code(ar) && (ar & AR_TYPE_CONFORMING) != 0;
}

/* S and type of a descriptor: of a system descriptor, its SYS_* number. */
static inline unsigned ar_kind(uint32_t ar)
{
    return ar & (X86_AR_S | X86_AR_TYPE);
}

/* Is a system descriptor of one of `types`, a mask of SYS_* bits. */
static inline bool ar_is_system(uint32_t ar, uint32_t types)
{
    return (ar & X86_AR_S) == 0 && (types >> (ar & X86_AR_TYPE) & 1) != 0;
}

static inline bool selector_is_null(uint16_t selector)
{
    return (selector & ~3u) == 0;
}

/* Error code that names a selector (SDM 3A 6.13); ext is bit 0. */
static inline uint32_t selector_error(uint16_t selector, uint32_t ext)
{
    return (selector & ~3u) | ext;
}

/* Protected mode, IA-32e mode included, without virtual-8086 mode. */
static inline bool cpu_is_protected(const struct cpu *cpu)
{
    return !cpu_in_real_mode(cpu) && !cpu_in_v86_mode(cpu);
}

static inline unsigned cpu_iopl(const struct cpu *cpu)
{
    return (cpu->rflags & X86_FLAGS_IOPL) >> X86_FLAGS_IOPL_SHIFT;
}

/* Address in a system table or TSS: 32 bits outside IA-32e mode. */
static inline gva_t cpu_system_va(const struct cpu *cpu, gva_t va)
{
    return cpu_in_long_mode(cpu) ? va : (uint32_t)va;
}

/* A result after which registers change: done, or done with the store posted to MMIO. */
static inline bool cpu_stored(const struct cpu *cpu, enum cpu_result r)
{
    return r == CPU_NEXT || (r == CPU_EXIT && cpu_mmio_posted(cpu));
}

/* The end of a transfer that has changed RIP, and maybe the mode. */
static inline enum cpu_result cpu_jumped(struct cpu *cpu, enum cpu_result r)
{
    cpu_update_mode(cpu);
    return r == CPU_EXIT ? CPU_EXIT : CPU_JUMP;
}

/* ---- checked descriptors (sys_segment.c) ---- */

/* Who wants a code segment: the rule for CPL, DPL and RPL, and what is raised. */
enum code_use {
    CODE_DIRECT,    /* far JMP and CALL */
    CODE_JMP_GATE,  /* through a call gate */
    CODE_CALL_GATE,
    CODE_INTERRUPT, /* through an interrupt or trap gate */
    CODE_RETURN,    /* far RET and IRET */
    CODE_TASK,      /* of a new task: #TS in place of #GP */
};

/* Reads and checks the code segment of a transfer; the new CS:RIP is left to cpu_check_rip(). */
KAGE_MUST_CHECK enum cpu_result cpu_code_descriptor(struct cpu *cpu, uint16_t selector, enum code_use use, uint32_t ext,
                                                    struct cpu_descriptor *d);
/* RIP in a new code segment: canonical in 64-bit code, within the limit otherwise; else #GP(ext). */
KAGE_MUST_CHECK enum cpu_result cpu_check_rip(struct cpu *cpu, uint64_t rip, const struct cpu_descriptor *cs,
                                              uint32_t ext);
/* A stack segment for `cpl`, not null; `vector` is #GP or #TS. Not present is #SS. */
KAGE_MUST_CHECK enum cpu_result cpu_stack_descriptor(struct cpu *cpu, uint16_t selector, unsigned cpl, unsigned vector,
                                                     uint32_t ext, struct cpu_descriptor *d);
/* DS, ES, FS or GS, not null. */
KAGE_MUST_CHECK enum cpu_result cpu_data_descriptor(struct cpu *cpu, uint16_t selector, unsigned vector, uint32_t ext,
                                                    struct cpu_descriptor *d);
/* Sets or clears the busy bit of a TSS descriptor in memory. */
KAGE_MUST_CHECK enum cpu_result cpu_descriptor_set_busy(struct cpu *cpu, struct cpu_descriptor *d, bool busy);
/* A segment register in real or virtual-8086 mode. */
void cpu_segment_set_real(struct cpu *cpu, unsigned seg, uint16_t selector);
/* All that virtual-8086 mode makes of a selector. */
struct vmcs_segment cpu_v86_segment(uint16_t selector);

/* The 16-bit operand of MOV Sreg, LLDT, LAR and their kin: register or memory. */
KAGE_MUST_CHECK enum cpu_result cpu_selector_operand(struct cpu *cpu, uint32_t arg, uint16_t *selector);
/* Stores one: all of a register, 2 bytes of memory. */
KAGE_MUST_CHECK enum cpu_result cpu_store_selector(struct cpu *cpu, uint32_t arg, uint32_t len, uint16_t selector);

/* ---- stacks (sys_frame.c) ---- */

/* A stack to push on or pop from: the current one, or one that a gate switches to. */
struct cpu_stack {
    struct vmcs_segment ss;
    uint64_t sp;
    unsigned bytes;   /* of the stack pointer: 8 (no segmentation), 4 or 2 */
    bool expand_down, aligned; /* aligned: subject to EFLAGS.AC */
    enum mmu_idx idx;
    uint32_t error;   /* of its #SS */
};

#define CPU_FRAME_WORDS 40u

void cpu_stack_current(const struct cpu *cpu, struct cpu_stack *st, uint32_t error);
/* The stack of a checked descriptor, in a mode without 64-bit code, used at privilege level cpl. */
void cpu_stack_from_descriptor(const struct cpu *cpu, struct cpu_stack *st, uint16_t selector,
                               const struct cpu_descriptor *d, uint64_t sp, unsigned cpl, uint32_t error);
/* Pushes n words, the first one deepest, in one checked write: all or nothing. st->sp moves. */
KAGE_MUST_CHECK enum cpu_result cpu_stack_push(struct cpu *cpu, struct cpu_stack *st, const uint64_t *words, unsigned n,
                                               unsigned bytes);
/* Checks the room that a push of n words would take. */
KAGE_MUST_CHECK enum cpu_result cpu_stack_check(struct cpu *cpu, const struct cpu_stack *st, unsigned n, unsigned bytes);
/* Reads n words from `skip` bytes above the stack pointer; words[0] is on top. st->sp stays. */
KAGE_MUST_CHECK enum cpu_result cpu_stack_read(struct cpu *cpu, const struct cpu_stack *st, uint64_t skip,
                                               uint64_t *words, unsigned n, unsigned bytes);
/* Where st->sp + n lies: as wide as the stack pointer. */
static inline uint64_t cpu_stack_above(const struct cpu_stack *st, uint64_t n)
{
    return (st->sp + n) & cpu_size_mask(st->bytes);
}

/* ---- gates and tasks (sys_gate.c, sys_task.c) ---- */

/* SS:eSP for `cpl` of a 16- or 32-bit TSS, checked (SDM 2A, CALL: more privilege). */
KAGE_MUST_CHECK enum cpu_result cpu_tss_legacy_stack(struct cpu *cpu, unsigned cpl, uint32_t ext, struct cpu_stack *st);
/* Delivers through the IVT, or through an 8-byte gate of the IDT; as deliver_once() in sys_event.c. */
KAGE_MUST_CHECK enum cpu_result cpu_deliver_real(struct cpu *cpu, const struct cpu_event *ev);
KAGE_MUST_CHECK enum cpu_result cpu_deliver_legacy(struct cpu *cpu, const struct cpu_event *ev);
/* Bit 0 of error codes: the event is not the program's own (SDM 3A 6.13). */
uint32_t cpu_event_ext(const struct cpu_event *ev);
/* RFLAGS as pushed: with RF after a fault. */
uint64_t cpu_event_rflags(const struct cpu *cpu, const struct cpu_event *ev);

/* Offset of the instruction `len` bytes on, as pushed. */
static inline uint64_t cpu_next_rip(const struct cpu *cpu, uint32_t len)
{
    return cpu_in_64bit_code(cpu) ? cpu->rip + len : (uint32_t)(cpu->rip + len);
}

struct task_switch {
    enum { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT } how;
    uint64_t rip, rflags; /* saved in the old TSS */
    uint32_t ext;         /* bit 0 of error codes */
    bool has_error;       /* an error code is pushed on the new task's stack */
    uint32_t error;
};

/*
 * Switches to the task of a TSS (SDM 3A 7.3). The rights to do so were checked by the caller; all else
 * is checked here. CPU_JUMP; CPU_FAULT or CPU_EXIT before anything has changed; or CPU_FAULT in the
 * new task, which is then the current one.
 */
KAGE_MUST_CHECK enum cpu_result cpu_task_switch(struct cpu *cpu, uint16_t selector, const struct task_switch *s);

#endif
