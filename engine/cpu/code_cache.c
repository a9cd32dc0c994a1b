/* SPDX-License-Identifier: MIT */
/*
 * Code cache: storage, indexes, links, invalidation. It never runs or decodes guest code, and it
 * never sleeps with the lock held.
 */
#include "cpu/code_cache.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/host_pages.h"
#include "mmu/mmu.h"

#define CODE_CACHE_BYTES (160u << 20)
#define CODE_COLD_START (64u << 20)
#define BLOCK_MAX (1u << 20)
#define LINK_MAX (1u << 21)
#define MAP_MAX (1u << 23)
#define PAGE_MAX (1u << 18)
#define TOKEN_MAX (1u << 19)
#define HASH_SIZE (1u << 18)
#define MAX_GFN (1ull << (40 - KAGE_PAGE_SHIFT))
#define ROOM_BYTES (64u << 10) /* more than one block can need */
#define CALM_WRITES 256u       /* a code page is let go after so many, at first */
#define CALM_DOUBLINGS 12u
#define HOT_CYCLES 100000000u  /* a page that is let go sooner than that after it was prepared is hot */
#define HOT_COMPARED 4u        /* from here on its blocks are compared */
#define HOT_MAX 16u
#define CALM_COMPARES 128u     /* after so many without a write it is frozen once more; twice as many for each step above HOT_COMPARED */

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void release(void *p, size_t bytes)
{
    if (p != NULL) {
        munmap(p, bytes);
    }
}

int code_cache_init(struct cpu_vm *vm)
{
    vm->size = CODE_CACHE_BYTES;
    vm->block_max = BLOCK_MAX;
    vm->link_max = LINK_MAX;
    vm->map_max = MAP_MAX;
    vm->page_max = PAGE_MAX;
    vm->token_max = TOKEN_MAX;
    vm->max_gfn = MAX_GFN;
    vm->rx = vm->rw = NULL;

    vm->fd = memfd_create("kage-code", MFD_CLOEXEC);
    if (vm->fd < 0) {
        return -errno;
    }
    if (ftruncate(vm->fd, (off_t)vm->size) != 0) {
        goto out_close;
    }
    void *rx = mmap(NULL, vm->size, PROT_READ | PROT_EXEC, MAP_SHARED, vm->fd, 0);
    void *rw = mmap(NULL, vm->size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->fd, 0);
    vm->rx = rx == MAP_FAILED ? NULL : rx;
    vm->rw = rw == MAP_FAILED ? NULL : rw;
    vm->blocks = reserve(BLOCK_MAX * sizeof(struct block));
    vm->links = reserve(LINK_MAX * sizeof(struct link));
    vm->maps = reserve(MAP_MAX * sizeof(struct insn_map));
    vm->pages = reserve(PAGE_MAX * sizeof(struct code_page));
    vm->tokens = reserve(TOKEN_MAX * sizeof(struct code_token));
    vm->hash = reserve(HASH_SIZE * sizeof(uint32_t));
    vm->token_hash = reserve(HASH_SIZE * sizeof(uint32_t));
    vm->page_index = reserve(MAX_GFN * sizeof(uint32_t));
    if (vm->rx == NULL || vm->rw == NULL || vm->blocks == NULL || vm->links == NULL || vm->maps == NULL ||
        vm->pages == NULL || vm->tokens == NULL || vm->hash == NULL || vm->token_hash == NULL ||
        vm->page_index == NULL) {
        code_cache_fini(vm);
        return -ENOMEM;
    }
    /* Index 0 means "none" everywhere. */
    vm->block_count = vm->link_count = vm->map_count = vm->page_count = vm->token_count = 1;
    vm->used = 64;
    vm->cold_start = vm->cold_used = CODE_COLD_START;
    return 0;

out_close:;
    int err = -errno;
    close(vm->fd);
    vm->fd = -1;
    return err;
}

void code_cache_fini(struct cpu_vm *vm)
{
    release(vm->rx, vm->size);
    release(vm->rw, vm->size);
    release(vm->blocks, BLOCK_MAX * sizeof(struct block));
    release(vm->links, LINK_MAX * sizeof(struct link));
    release(vm->maps, MAP_MAX * sizeof(struct insn_map));
    release(vm->pages, PAGE_MAX * sizeof(struct code_page));
    release(vm->tokens, TOKEN_MAX * sizeof(struct code_token));
    release(vm->hash, HASH_SIZE * sizeof(uint32_t));
    release(vm->token_hash, HASH_SIZE * sizeof(uint32_t));
    release(vm->page_index, MAX_GFN * sizeof(uint32_t));
    if (vm->fd >= 0) {
        close(vm->fd);
    }
    vm->fd = -1;
}

static uint32_t hash_block(gva_t va, gpa_t gpa, uint32_t mode)
{
    uint64_t h = (gpa ^ (va << 1) ^ ((uint64_t)mode << 40)) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(h >> 46) & (HASH_SIZE - 1);
}

struct block *code_find(struct cpu_vm *vm, const struct code_key *key)
{
    for (uint32_t i = atomic_load_explicit(&vm->hash[hash_block(key->va, key->gpa, key->mode)], memory_order_acquire); i != 0;
         i = atomic_load_explicit(&vm->blocks[i].next_hash, memory_order_acquire)) {
        struct block *b = &vm->blocks[i];
        if (b->gpa == key->gpa && b->va == key->va && b->mode == key->mode && b->cs_base == key->cs_base &&
            b->cs_limit == key->cs_limit && atomic_load_explicit(&b->valid, memory_order_acquire)) {
            return b;
        }
    }
    return NULL;
}

struct block *code_find_by_host(const struct cpu_vm *vm, const uint8_t *pc)
{
    if (pc < vm->rx || pc >= vm->rx + vm->size) {
        return NULL;
    }
    uint32_t off = (uint32_t)(pc - vm->rx);
    bool cold = off >= vm->cold_start;
    uint32_t lo = 1, count = atomic_load_explicit(&vm->block_count, memory_order_acquire), hi = count;

    /* Blocks are allocated in the order of their host addresses, bodies and stubs alike. */
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        const struct block *b = &vm->blocks[mid];
        if ((cold ? b->cold + b->cold_len : b->host + b->host_len) <= off) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    if (lo == count) {
        return NULL;
    }
    struct block *b = &vm->blocks[lo];
    return (cold ? b->cold : b->host) <= off ? b : NULL;
}

gva_t code_guest_rip(const struct cpu_vm *vm, const struct block *b, const uint8_t *pc, int *spilled, bool *parked)
{
    uint32_t off = (uint32_t)(pc - vm->rx);
    bool cold = off >= vm->cold_start;
    const struct insn_map *map = &vm->maps[b->map + (cold ? b->map_len : 0)];
    uint32_t found = 0, count = cold ? b->cold_map_len : b->map_len;

    off -= cold ? b->cold : b->host;
    for (uint32_t i = 0; i < count && map[i].host <= off; i++) {
        found = i;
    }
    unsigned reg = map[found].spilled & ~SPILLED_FLAGS;
    *spilled = reg != 0 ? (int)reg - 1 : -1;
    *parked = (map[found].spilled & SPILLED_FLAGS) != 0;
    return b->rip + map[found].guest;
}

uint32_t code_token(struct cpu_vm *vm, gva_t va, gpa_t gpa)
{
    gva_t va_page = va & KAGE_PAGE_MASK;
    gpa_t gpa_page = gpa & KAGE_PAGE_MASK;
    uint32_t h = hash_block(va_page, gpa_page, 0);

    for (uint32_t i = vm->token_hash[h]; i != 0; i = vm->tokens[i].next) {
        if (vm->tokens[i].va_page == va_page && vm->tokens[i].gpa_page == gpa_page) {
            return i;
        }
    }
    if (vm->token_count == vm->token_max) {
        return 0;
    }
    uint32_t i = vm->token_count++;
    vm->tokens[i] = (struct code_token){.va_page = va_page, .gpa_page = gpa_page, .next = vm->token_hash[h]};
    vm->token_hash[h] = i;
    return i;
}

bool code_has_room(const struct cpu_vm *vm)
{
    return vm->used + ROOM_BYTES < vm->cold_start && vm->cold_used + ROOM_BYTES < vm->size && vm->block_count + 1 < vm->block_max &&
           vm->link_count + BLOCK_MAX_EXITS < vm->link_max && vm->map_count + 4 * BLOCK_MAX_INSNS < vm->map_max &&
           vm->token_count + 2 < vm->token_max && vm->page_count + 2 < vm->page_max;
}

static struct code_page *page_get(struct cpu_vm *vm, gpa_t gpa)
{
    struct code_page *p = code_page_at(vm, gpa);
    uint64_t gfn = gpa >> KAGE_PAGE_SHIFT;

    if (p == NULL && gfn < vm->max_gfn) {
        uint32_t i = vm->page_count++;
        p = &vm->pages[i];
        *p = (struct code_page){.gpa = gpa & KAGE_PAGE_MASK, .vm = vm};
        atomic_store_explicit(&vm->page_index[gfn], i, memory_order_release);
    }
    return p;
}

bool code_page_is_ready(const struct cpu_vm *vm, gpa_t gpa)
{
    const struct code_page *p = code_page_at(vm, gpa);
    return p != NULL && atomic_load_explicit(&p->ready, memory_order_acquire);
}

struct protect_request {
    struct cpu_vm *vm;
    gpa_t gpa;
    uint8_t *host_page;
};

static void guard_page(struct code_page *p)
{
    p->compares = 0;
    p->guard = (p->hot < HOT_COMPARED || p->on_trial) && host_page_freeze(p) ? CODE_GUARD_FROZEN : CODE_GUARD_COMPARE;
    p->on_trial = false;
}

static void protect_all(void *arg)
{
    struct protect_request *r = arg;
    struct code_page *p = code_page_at(r->vm, r->gpa); /* none if the cache was emptied while we waited for our turn */

    for (unsigned i = 0; i < r->vm->cpu_count; i++) {
        mmu_protect_host_page(r->vm->cpus[i], r->host_page);
    }
    pthread_mutex_lock(&r->vm->lock);
    if (p != NULL && p->watched && !p->ready) { /* not let go meanwhile */
        p->host = r->host_page;
        p->ready_tsc = __builtin_ia32_rdtsc();
        guard_page(p);
        atomic_store_explicit(&p->ready, true, memory_order_release);
    }
    pthread_mutex_unlock(&r->vm->lock);
}

int code_page_prepare(struct cpu *cpu, gpa_t gpa, uint8_t *host_page)
{
    struct cpu_vm *vm = cpu->vm;

    if (code_page_is_ready(vm, gpa)) {
        return 0;
    }
    if ((gpa >> KAGE_PAGE_SHIFT) >= vm->max_gfn) {
        return -ERANGE;
    }
    pthread_mutex_lock(&vm->lock);
    bool room = code_has_room(vm);
    if (room) {
        atomic_store_explicit(&page_get(vm, gpa)->watched, true, memory_order_release);
    }
    pthread_mutex_unlock(&vm->lock);
    if (!room) {
        return -ENOSPC;
    }
    /* From here on new first-level write entries are refused; the old ones go now. */
    struct protect_request r = {.vm = vm, .gpa = gpa, .host_page = host_page};
    if (vm->cpu_count == 1) {
        cpu_fpu_save(cpu);
        protect_all(&r);
        return 0;
    }
    cpu_vm_exclusive(vm, cpu, protect_all, &r);
    return -EAGAIN;
}

static uint64_t lines_of(uint64_t first, uint64_t last)
{
    uint64_t from = (first & 4095) >> 6, to = (last & 4095) >> 6;
    return (~0ull << from) & (~0ull >> (63 - to));
}

bool code_watch(struct cpu_vm *vm, const struct block *b)
{
    gpa_t last = b->gpa + b->guest_len - 1;

    if (!code_page_is_ready(vm, b->gpa) || (b->gpa2 != 0 && !code_page_is_ready(vm, b->gpa2))) {
        return false;
    }
    if (b->gpa2 != 0) {
        code_page_at(vm, b->gpa)->lines |= lines_of(b->gpa, 4095);
        code_page_at(vm, b->gpa2)->lines |= lines_of(0, last & 4095);
    } else {
        code_page_at(vm, b->gpa)->lines |= lines_of(b->gpa, last);
    }
    return true;
}

void code_publish(struct cpu *cpu, struct block *b)
{
    struct cpu_vm *vm = cpu->vm;
    uint32_t index = (uint32_t)(b - vm->blocks);
    uint32_t h = hash_block(b->va, b->gpa, b->mode);
    struct code_page *page = code_page_at(vm, b->gpa);

    atomic_store_explicit(&page->calm_writes, 0, memory_order_relaxed);
    atomic_store_explicit(&b->valid, true, memory_order_relaxed);
    atomic_store_explicit(&b->next_hash, vm->hash[h], memory_order_relaxed);
    b->next_page = page->blocks;
    page->blocks = index;
    if (b->gpa2 != 0) {
        struct code_page *page2 = code_page_at(vm, b->gpa2);
        b->next_page2 = page2->blocks;
        page2->blocks = index;
    }
    /* Others find it from here on. */
    atomic_store_explicit(&vm->block_count, index + 1, memory_order_release);
    atomic_store_explicit(&vm->hash[h], index, memory_order_release);
}

/* Atomically points the rel32 at cache offset `site` to cache offset `to`. */
static void patch_site(struct cpu_vm *vm, uint32_t site, uint32_t to)
{
    __atomic_store_n((uint32_t *)(void *)(vm->rw + site), to - (site + 4), __ATOMIC_RELEASE);
}

static void unlink_out(struct cpu_vm *vm, struct link *l)
{
    if (l->to == 0) {
        return;
    }
    uint32_t index = (uint32_t)(l - vm->links);
    uint32_t *at = &vm->blocks[l->to].links_in;
    while (*at != 0 && *at != index) {
        at = &vm->links[*at].next_in;
    }
    if (*at == index) {
        *at = l->next_in;
    }
    l->to = 0;
    patch_site(vm, l->site, l->stub);
}

/*
 * The block stays where it is (a vCPU may be inside) but cannot be entered any more: links are led
 * back to their stubs, and the body's first 8 bytes become a jump to the stub that looks its address up
 * again, for host addresses still in jump caches.
 */
static void invalidate_block(struct cpu *cpu, struct cpu_vm *vm, struct block *b)
{
    if (!b->valid) {
        return;
    }
    b->valid = false;
    for (uint32_t i = b->links_in; i != 0;) {
        struct link *l = &vm->links[i];
        i = l->next_in;
        l->to = 0;
        l->next_in = 0;
        patch_site(vm, l->site, l->stub);
    }
    b->links_in = 0;
    for (uint32_t i = b->links_out; i != 0; i = vm->links[i].next_out) {
        unlink_out(vm, &vm->links[i]);
    }
    uint32_t rel = b->relookup - (b->body + 5);
    uint64_t jump = 0x9090900000000000ull | (uint64_t)rel << 8 | 0xe9;
    __atomic_store_n((uint64_t *)(void *)(vm->rw + b->body), jump, __ATOMIC_RELEASE);

    uint32_t h = hash_block(b->va, b->gpa, b->mode);
    uint32_t index = (uint32_t)(b - vm->blocks);
    _Atomic uint32_t *at = &vm->hash[h];
    while (*at != 0 && *at != index) {
        at = &vm->blocks[*at].next_hash;
    }
    if (*at == index) {
        *at = b->next_hash;
    }
    if (cpu != NULL) {
        cpu->stats[CPU_STAT_SMC_INVALIDATIONS]++;
    }
}

/* Drops the blocks of one page that overlap [first, last] (offsets in the page). Lock held. */
static void invalidate_in_page(struct cpu *cpu, struct cpu_vm *vm, struct code_page *page, unsigned first,
                               unsigned last)
{
    uint32_t *at = &page->blocks;
    uint64_t lines = 0;

    while (*at != 0) {
        struct block *b = &vm->blocks[*at];
        bool second = (b->gpa & KAGE_PAGE_MASK) != page->gpa;
        uint32_t *next = second ? &b->next_page2 : &b->next_page;
        unsigned b_first = second ? 0 : (unsigned)(b->gpa & 4095);
        unsigned b_last = second            ? (unsigned)((b->gpa + b->guest_len - 1) & 4095)
                          : b->gpa2 != 0 ? 4095
                                         : b_first + b->guest_len - 1;
        if (b->valid && b_first <= last && b_last >= first) {
            invalidate_block(cpu, vm, b);
        }
        if (!b->valid) {
            *at = *next;
            continue;
        }
        lines |= lines_of(b_first, b_last);
        at = next;
    }
    page->lines = lines;
    page->invalidations++;
}

void code_page_let_go(struct cpu *cpu, struct code_page *page)
{
    if (!page->ready) {
        return;
    }
    invalidate_in_page(cpu, page->vm, page, 0, 4095);
    if (page->guard == CODE_GUARD_FROZEN) {
        host_page_thaw(page);
    }
    page->guard = CODE_GUARD_NONE;
    if (__builtin_ia32_rdtsc() - page->ready_tsc > HOT_CYCLES) {
        page->hot = 0;
    } else if (page->hot < HOT_MAX) {
        page->hot++;
    }
    atomic_store_explicit(&page->ready, false, memory_order_release);
    atomic_store_explicit(&page->watched, false, memory_order_release);
    page->releases++;
    page->calm_writes = 0;
}

/* Lets the page go if it was written often enough without a change of code. */
static void note_calm_write(struct cpu *cpu, struct cpu_vm *vm, struct code_page *page)
{
    unsigned doublings = page->releases < CALM_DOUBLINGS ? page->releases : CALM_DOUBLINGS;

    if (atomic_fetch_add_explicit(&page->calm_writes, 1, memory_order_relaxed) + 1 < CALM_WRITES << doublings) {
        return;
    }
    pthread_mutex_lock(&vm->lock);
    code_page_let_go(cpu, page);
    pthread_mutex_unlock(&vm->lock);
}

void cpu_code_written(struct cpu *cpu, gpa_t gpa, unsigned len)
{
    struct cpu_vm *vm = cpu->vm;
    struct code_page *page = code_page_at(vm, gpa);

    if (page == NULL || len == 0) {
        return;
    }
    gpa_t last = gpa + len - 1;
    unsigned end = (last & KAGE_PAGE_MASK) == (gpa & KAGE_PAGE_MASK) ? (unsigned)(last & 4095) : 4095;

    atomic_thread_fence(memory_order_seq_cst); /* the store, then the look at what was made from its bytes */
    page->compares = 0;
    if ((page->lines & lines_of(gpa, end)) != 0) {
        pthread_mutex_lock(&vm->lock);
        invalidate_in_page(cpu, vm, page, (unsigned)(gpa & 4095), end);
        pthread_mutex_unlock(&vm->lock);
    } else if (atomic_load_explicit(&page->ready, memory_order_relaxed)) {
        note_calm_write(cpu, vm, page);
    }
    if ((last & KAGE_PAGE_MASK) != (gpa & KAGE_PAGE_MASK)) {
        cpu_code_written(cpu, last & KAGE_PAGE_MASK, (unsigned)(last & 4095) + 1);
    }
}

bool cpu_vm_has_code(const struct cpu_vm *vm, gpa_t gpa)
{
    const struct code_page *p = code_page_at(vm, gpa);
    return p != NULL && atomic_load_explicit(&p->watched, memory_order_acquire);
}

bool cpu_code_write_begins(struct cpu *cpu, gpa_t gpa)
{
    struct cpu_vm *vm = cpu->vm;
    struct code_page *p = code_page_at(vm, gpa);

    if (p == NULL || !atomic_load_explicit(&p->watched, memory_order_acquire)) {
        return false;
    }
    if (p->guard != CODE_GUARD_FROZEN) {
        return true;
    }
    pthread_mutex_lock(&vm->lock);
    code_page_let_go(cpu, p);
    pthread_mutex_unlock(&vm->lock);
    return false;
}

bool code_still_holds(struct cpu *cpu, const struct block *b, const uint8_t *host, const uint8_t *second_page)
{
    struct cpu_vm *vm = cpu->vm;
    const uint8_t *source = vm->rx + b->source;
    unsigned left = (unsigned)(KAGE_PAGE_SIZE - (b->va & (KAGE_PAGE_SIZE - 1)));
    unsigned first = b->guest_len < left ? b->guest_len : left;

    if (memcmp(source, host, first) != 0 || (second_page != NULL && memcmp(source + first, second_page, b->guest_len - first) != 0)) {
        cpu_code_written(cpu, b->gpa, b->guest_len);
        return false;
    }
    struct code_page *p = code_page_at(vm, b->gpa);
    if (p == NULL || p->guard != CODE_GUARD_COMPARE || ++p->compares < CALM_COMPARES << (p->hot > HOT_COMPARED ? p->hot - HOT_COMPARED : 0)) {
        return true;
    }
    pthread_mutex_lock(&vm->lock);
    uint8_t hot = p->hot;
    code_page_let_go(cpu, p);
    p->hot = hot;
    p->on_trial = true;
    pthread_mutex_unlock(&vm->lock);
    return false;
}

void cpu_vm_code_invalidate(struct cpu_vm *vm, gpa_t gpa, uint64_t len)
{
    pthread_mutex_lock(&vm->lock);
    for (uint32_t i = 1; i < vm->page_count; i++) {
        struct code_page *p = &vm->pages[i];
        if (p->gpa + KAGE_PAGE_SIZE > gpa && p->gpa < gpa + len) {
            code_page_let_go(NULL, p);
            p->hot = 0;
        }
    }
    pthread_mutex_unlock(&vm->lock);
}

void code_link(struct cpu *cpu, struct link *l, struct block *to)
{
    struct cpu_vm *vm = cpu->vm;
    struct block *from = &vm->blocks[l->from];

    if (l->to != 0 || !from->valid || !to->valid || to->no_link || from->no_link || from->mode != to->mode || from->cs_base != to->cs_base || from->cs_limit != to->cs_limit ||
        (vm->test_flags & CODE_TEST_NO_CHAIN) != 0) {
        return;
    }
    bool cross_page = ((from->va ^ to->va) & KAGE_PAGE_MASK) != 0 || from->gpa2 != 0;
    if (!cross_page && from->token != to->token) {
        return;
    }
    uint32_t entry = l->parked ? to->host : to->here;
    if (cross_page || to->gpa2 != 0) {
        entry = code_emit_link(cpu, from, to, l, entry, cross_page);
        if (entry == 0) {
            return;
        }
    }
    l->to = (uint32_t)(to - vm->blocks);
    l->next_in = to->links_in;
    to->links_in = (uint32_t)(l - vm->links);
    patch_site(vm, l->site, entry);
    cpu->stats[CPU_STAT_LINKS]++;
}

void code_flush(struct cpu_vm *vm)
{
    pthread_mutex_lock(&vm->lock); /* no vCPU runs, but a thread that changes memory slots may be looking for their code */
    for (uint32_t i = 1; i < vm->page_count; i++) {
        if (vm->pages[i].guard == CODE_GUARD_FROZEN) {
            host_page_thaw(&vm->pages[i]);
        }
        atomic_store_explicit(&vm->page_index[vm->pages[i].gpa >> KAGE_PAGE_SHIFT], 0, memory_order_release);
    }
    madvise(vm->hash, HASH_SIZE * sizeof(uint32_t), MADV_DONTNEED);
    madvise(vm->token_hash, HASH_SIZE * sizeof(uint32_t), MADV_DONTNEED);
    vm->block_count = vm->link_count = vm->map_count = vm->page_count = vm->token_count = 1;
    vm->used = 64;
    vm->cold_used = vm->cold_start;
    memset(vm->unshared, 0, sizeof(vm->unshared));
    vm->generation++;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        /*
         * Jump caches and code TLBs hold addresses and tokens of the old contents. Others flush by themselves before they run on:
         * one outside guest mode may be in the middle of a flush of its own.
         */
        if (vm->cpus[i] == vm->exclusive_owner) {
            mmu_flush_all(vm->cpus[i]);
        } else {
            cpu_request(vm->cpus[i], CPU_REQ_TLB_FLUSH);
        }
        vm->cpus[i]->stats[CPU_STAT_CODE_FLUSHES]++;
    }
    pthread_mutex_unlock(&vm->lock);
}

void code_unshare(struct cpu *cpu, struct block *b)
{
    struct cpu_vm *vm = cpu->vm;
    uint64_t h = (b->va * 0x9e3779b97f4a7c15ull) >> 48;

    pthread_mutex_lock(&vm->lock);
    vm->unshared[h / 64] |= 1ull << (h % 64);
    invalidate_block(cpu, vm, b);
    pthread_mutex_unlock(&vm->lock);
}
