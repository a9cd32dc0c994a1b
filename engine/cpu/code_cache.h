/* SPDX-License-Identifier: MIT */
/*
 * The code cache of a VM: translated blocks, their index by guest code and by host address, and
 * the links between them. One cache serves all vCPUs; translating, linking and invalidating take
 * its lock, running and looking up by jump cache do not.
 *
 * Executable memory is one memfd seen twice: `rx` is what runs, `rw` is where it is written
 * (law: never writable and executable through the same mapping). When the cache is full it is
 * emptied as a whole with every vCPU stopped.
 *
 * A store against a translation that is under way on another vCPU: the translator publishes (sets `lines`), then compares the
 * bytes that it has decoded with memory; the store is done, then looks at `lines`. Each has a full fence between its two steps, so
 * at least one of them sees the other.
 */
#ifndef KAGE_CPU_CODE_CACHE_H
#define KAGE_CPU_CODE_CACHE_H

#include <pthread.h>

#include "cpu/cpu.h"

#define BLOCK_MAX_INSNS 48u /* of 15 bytes each at most: BLOCK_BYTES_MAX of mmu/tlb.c */
#define BLOCK_MAX_EXITS 8u

/* Where a guest instruction's host code begins; sorted by host offset within a block. */
struct insn_map {
    uint16_t host;   /* offset from the first byte of the body, or of the stubs */
    uint8_t guest;   /* offset from the block's first guest byte */
    uint8_t spilled; /* 0, or 1 + number of the register whose guest value is in gpr[] meanwhile, or 1 + SPILLED_STRING; SPILLED_FLAGS */
};
#define SPILLED_STRING 16 /* RCX, RSI and RDI are */
#define SPILLED_FLAGS 0x80u /* a bit: the arithmetic flags are in cpu->parked */

/* A direct exit of a block: a rel32 that leads to its stub, or to the target once linked. */
struct link {
    uint32_t site;    /* offset of the rel32 in the cache */
    uint32_t stub;    /* offset of the exit stub */
    uint32_t from;    /* block index */
    uint32_t to;      /* block index, 0: not linked */
    uint32_t next_in; /* next link that leads to the same block */
    uint32_t next_out;/* next exit of the same block */
    uint64_t target;  /* guest RIP, an offset in CS */
    bool parked;      /* it is left with the flags in cpu->parked */
};

/* Where the arithmetic flags are. */
enum flags_place {
    FLAGS_NOWHERE, /* dead: written before they are read */
    FLAGS_HERE,    /* in the host's RFLAGS */
    FLAGS_PARKED,  /* in cpu->parked */
};

struct block {
    gva_t va;         /* linear address of the first byte */
    uint64_t rip;     /* the same as an offset in CS, which had this base and limit (0 and all ones in 64-bit code) */
    uint32_t cs_base, cs_limit;
    gpa_t gpa;        /* of the first byte */
    gpa_t gpa2;       /* page of the last bytes if the one instruction crosses a page, else 0 */
    uint32_t mode;    /* CPU_MODE_* */
    uint32_t token;   /* of its (va page, gpa page) pair */
    uint32_t token2;  /* of the pair of gpa2, else 0 */
    uint32_t host;    /* offset of its first byte: entry with the flags in cpu->parked */
    uint32_t here;    /* entry with the flags in the host's RFLAGS */
    uint32_t body;    /* entry with them in both; the others lead to it. It polls, and is aligned, so that 8 bytes can be replaced at once */
    uint32_t host_len;/* without the stubs */
    uint32_t cold, cold_len; /* the stubs, in the cold half of the cache */
    uint32_t relookup;/* offset of the stub that leaves to look the block's address up */
    uint32_t map;     /* index of its first insn_map; those of the stubs follow those of the body */
    uint16_t map_len, cold_map_len;
    uint16_t guest_len;
    _Atomic bool valid;
    uint8_t flags_in; /* enum flags_place: where the body wants them */
    bool no_link;     /* of a mode that must pass through the run loop */
    bool compared;    /* of a page that is guarded by comparing: with the guest_len bytes at cache offset `source` */
    uint32_t source;
    _Atomic uint32_t next_hash; /* stays when the block is dropped: somebody may be on his way past it */
    uint32_t next_page, next_page2;
    uint32_t links_in, links_out;
    uint32_t share_misses;
    uint64_t share_tick; /* when they were last counted from zero */
};

/* The page behind the block's first: of its last bytes if it straddles two. */
static inline gva_t block_next_page(const struct block *b)
{
    gva_t next = (b->va & KAGE_PAGE_MASK) + KAGE_PAGE_SIZE;
    return (b->mode & CPU_MODE_LONG) != 0 ? next : (uint32_t)next;
}

/* Guest memory is the client's, who writes it as it likes: what tells that code has changed. */
enum code_guard {
    CODE_GUARD_NONE,    /* not ready */
    CODE_GUARD_FROZEN,  /* the page is read-only in the host's page tables: host_pages.h */
    CODE_GUARD_COMPARE, /* no link leads to its blocks, and their bytes are compared each time: for pages that are often written */
};

/*
 * A guest-physical page with translated code. Its writes are slow, so a page that has become data (the guest reuses its memory) is let
 * go after many writes that met no code; one that has code again is held on to twice as long each time.
 */
struct code_page {
    gpa_t gpa;
    uint32_t blocks;     /* list by next_page / next_page2 */
    _Atomic uint64_t lines; /* bit n: bytes [64n, 64n+64) have code */
    uint32_t invalidations;
    _Atomic uint32_t calm_writes; /* that met no code, since the last translation */
    uint32_t releases;
    uint8_t hot;           /* how often in a row it was let go soon */
    _Atomic uint8_t guard; /* enum code_guard: against the client's stores. Changes under the lock */
    bool on_trial;         /* compared until now: frozen next time, hot or not */
    _Atomic uint32_t compares; /* of its blocks, since the last write */
    uint64_t ready_tsc;
    uint8_t *host;
    struct cpu_vm *vm;
    struct code_page *next_frozen;
    _Atomic bool watched; /* no new write entries for it */
    _Atomic bool ready;   /* and no vCPU has one any more: its bytes may be read. Implies watched; both change under the lock */
};

struct code_token {
    gva_t va_page;
    gpa_t gpa_page;
    uint32_t next;
};

struct cpu_vm {
    struct ept *ept;
    pthread_mutex_t lock; /* code cache and page index; taken inside nothing, takes nothing */

    int fd;
    uint8_t *rx, *rw;
    size_t size, used;    /* bodies grow from the start, */
    size_t cold_start, cold_used; /* stubs from here: what is run often stays dense */

    struct block *blocks;
    _Atomic uint32_t block_count; /* grows when a block is whole */
    uint32_t block_max;
    struct link *links;
    uint32_t link_count, link_max;
    struct insn_map *maps;
    uint32_t map_count, map_max;
    struct code_page *pages;
    uint32_t page_count, page_max;
    struct code_token *tokens;
    uint32_t token_count, token_max;
    _Atomic uint32_t *hash; /* blocks by (gpa, va, mode); read without the lock */
    uint32_t *token_hash;
    _Atomic uint32_t *page_index; /* by gfn: index into pages, 0: none */
    uint64_t max_gfn;
    uint64_t generation;  /* of the whole cache: counts flushes */

    uint64_t unshared[1024]; /* by hash of the address: blocks whose shared checks often failed */
    unsigned test_flags;  /* CODE_TEST_* */

    /* vCPUs and the exclusive section (run.c) */
    pthread_mutex_t sync_lock;
    pthread_cond_t sync_cond;
    struct cpu *cpus[256];
    unsigned cpu_count;
    struct cpu *exclusive_owner;
    _Atomic bool exclusive;
    bool exclusive_from_guest; /* its owner goes on in guest code */
    _Atomic uint64_t flush_wanted;
};

#define CODE_TEST_NO_CHAIN 1u
#define CODE_TEST_SINGLE_INSN 2u
#define CODE_TEST_TINY_TLB 4u

int code_cache_init(struct cpu_vm *vm);
void code_cache_fini(struct cpu_vm *vm);

/* What a block was made from, besides the bytes. */
struct code_key {
    gva_t va;
    gpa_t gpa;
    uint32_t mode, cs_base, cs_limit;
};
/* The block made from that code, or NULL. Needs no lock: blocks and their chains go away only while no vCPU runs. */
struct block *code_find(struct cpu_vm *vm, const struct code_key *key);
/* The block whose host code holds `pc` (an address in rx), or NULL. Safe in a signal handler. */
struct block *code_find_by_host(const struct cpu_vm *vm, const uint8_t *pc);
/* The guest RIP of host address pc in block b, the spilled register (SPILLED_STRING, or -1), and whether the flags are in cpu->parked. */
gva_t code_guest_rip(const struct cpu_vm *vm, const struct block *b, const uint8_t *pc, int *spilled, bool *parked);
/* Token of the (va page, gpa page) pair, made if new; 0 if the table is full. Lock held. */
uint32_t code_token(struct cpu_vm *vm, gva_t va, gpa_t gpa);

/* Room for a translation: block, maps, links, bytes. False: the cache must be flushed first. Lock held. */
bool code_has_room(const struct cpu_vm *vm);
/*
 * From here on a store to the bytes of b, which may be in the making, comes to cpu_code_written()'s lock. False: its page is not ready.
 * Lock held until b is published or given up: nobody may find a block whose bytes were not compared since.
 */
bool code_watch(struct cpu_vm *vm, const struct block *b);
/* Adds block number vm->block_count, filled in by the caller, to the indexes. Lock held. */
void code_publish(struct cpu *cpu, struct block *b);
/* True if the page is a code page, and writes to it are noticed. Lock held. */
bool code_page_is_ready(const struct cpu_vm *vm, gpa_t gpa);
/* Of a compared block: are its bytes still those that it was made from? False: it is dropped. No lock held. */
bool code_still_holds(struct cpu *cpu, const struct block *b, const uint8_t *host, const uint8_t *second_page);
/* Drops the page's code, and stops watching it. cpu: who does it, or NULL. Lock held. */
void code_page_let_go(struct cpu *cpu, struct code_page *page);
/* Leads a link to its target block. Lock held. */
void code_link(struct cpu *cpu, struct link *l, struct block *to);
/*
 * Makes `gpa` a code page before its bytes are read: from then on writes to it are noticed. 0, -ENOSPC (flush first), -ERANGE, or
 * -EAGAIN: it is one now, but other vCPUs were waited for, and what the caller has translated may no longer hold.
 */
int code_page_prepare(struct cpu *cpu, gpa_t gpa, uint8_t *host_page);
/* Emits the check that the pages of a link's target are still mapped, and the jump to `entry`; returns its offset, or 0. Lock held (cold.c). */
uint32_t code_emit_link(struct cpu *cpu, const struct block *from, const struct block *to, const struct link *l,
                        uint32_t entry, bool cross_page);
/* Empties the cache. Every vCPU is stopped. */
void code_flush(struct cpu_vm *vm);

static inline bool code_is_unshared(const struct cpu_vm *vm, gva_t va)
{
    uint64_t h = (va * 0x9e3779b97f4a7c15ull) >> 48;
    return (vm->unshared[h / 64] >> (h % 64) & 1) != 0;
}

/* The shared checks of block b do not hold often enough: it is dropped, and made without them next time. */
void code_unshare(struct cpu *cpu, struct block *b);

static inline struct code_page *code_page_at(const struct cpu_vm *vm, gpa_t gpa)
{
    uint64_t gfn = gpa >> KAGE_PAGE_SHIFT;
    uint32_t i = gfn < vm->max_gfn ? atomic_load_explicit(&vm->page_index[gfn], memory_order_acquire) : 0;
    return i != 0 ? &vm->pages[i] : NULL;
}

#endif
