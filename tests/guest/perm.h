/* SPDX-License-Identifier: MIT */
/*
 * The exhaustive permission test, in three parts: perm_model.c says what the manual's rules give for one access through given
 * entries; perm.c walks through the combinations and compares; perm64.c and perm32.c make the tables and the accesses of the
 * paging modes that 64-bit and 32-bit code can have.
 */
#ifndef PERM_H
#define PERM_H

#include <stdbool.h>
#include <stdint.h>

/* An entry, of either width (SDM 3A figures 4-4, 4-7, 4-11). Bit 6 is D in a leaf, ignored above it; bit 7 is PS, or PAT at level 1. */
#define E_P (1ull << 0)
#define E_W (1ull << 1)
#define E_U (1ull << 2)
#define E_A (1ull << 5)
#define E_D (1ull << 6)
#define E_PS (1ull << 7)
#define E_G (1ull << 8)
#define E_NX (1ull << 63)

/* Error code of #PF (SDM 3A figure 4-12). */
#define ERR_P 1u
#define ERR_W 2u
#define ERR_U 4u
#define ERR_RSVD 8u
#define ERR_I 16u

enum { LEVELS_MAX = 5 };

/* A paging mode, and where the entries of the address under test lie. Level 1 holds the entries of 4 KiB pages. */
struct perm_format {
    const char *name;
    unsigned levels;
    bool wide;          /* 8-byte entries */
    bool ia32e;         /* 4 or 5 levels: bits 62:52 are not reserved, level 3 has rights and can be a 1 GiB page */
    bool amd;           /* bit 8 is reserved from level 4 on (APM volume 2, 5.3.3) */
    unsigned maxphyaddr;
    bool pages_1g;
    uint64_t va[4];     /* [leaf level]: address that a page of that size maps to the frame below */
    volatile void *entry[LEVELS_MAX + 1]; /* [level] */
    uint64_t next[LEVELS_MAX + 1];        /* [level]: address of the table that this level's entry leads to */
    uint64_t frame[2];  /* physical addresses: data; code, which is all RET */
};

struct perm_context {
    bool wp, smep, smap, ac, nxe, pse;
};

enum perm_kind {
    READ,
    WRITE,
    MODIFY,         /* read and write in one instruction */
    FETCH,
    IMPLICIT_READ,  /* of a segment descriptor, by whatever CPL */
    IMPLICIT_WRITE, /* of its accessed bit, after it was read */
    PERM_KINDS
};

struct perm_access {
    bool user; /* CPL is 3 */
    enum perm_kind kind;
};

/* What must come of it. */
struct perm_outcome {
    int error;             /* of the #PF; -1: none */
    unsigned leaf;         /* level of the page; 0: the walk did not get there */
    unsigned accessed;     /* mask of levels whose entries must have A afterwards */
    unsigned may_accessed; /* … and may: entries that the walk used before it faulted */
    bool dirty;            /* the leaf must have D; if not, its D must be as it was */
};

uint64_t perm_reserved(const struct perm_format *f, const struct perm_context *c, unsigned level, uint64_t entry);
bool perm_is_leaf(const struct perm_format *f, const struct perm_context *c, unsigned level, uint64_t entry);
struct perm_outcome perm_model(const struct perm_format *f, const struct perm_context *c, struct perm_access access,
                               const uint64_t entries[LEVELS_MAX + 1]);

/* ---- what perm64.c and perm32.c have ---- */
extern const unsigned perm_format_count;
const char *perm_enter(unsigned index, struct perm_format *format); /* NULL, or why there is no such mode here */
void perm_leave(unsigned index);
void perm_set_context(const struct perm_context *c); /* but for AC */
bool perm_has_context(const struct perm_format *f, const struct perm_context *c);
void perm_flush(uint64_t va);
void perm_flush_all(void); /* MOV to CR3: PDPTEs too */
/* One access at va; the error code of its #PF, or -1. */
int perm_do(struct perm_access access, bool ac, uint64_t va);
extern volatile uint64_t perm_cr2;
extern const uint64_t perm_descriptor[2]; /* for IMPLICIT_READ and IMPLICIT_WRITE, which has to set A in it */

/*
 * The test. formats: a mask. stride: 1 tries every combination, more a sample of them, another one for each setting; start says with
 * which it begins. kvm_kinds: without the kinds of access that KVM's emulator is known to do otherwise.
 */
void perm_run(unsigned formats, unsigned stride, unsigned start, bool kvm_kinds);

#endif
