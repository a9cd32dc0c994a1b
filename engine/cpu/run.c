/* SPDX-License-Identifier: MIT */
/*
 * The processor's run loop: deliver events, honour requests, find or make the block at RIP, run it.
 * Also what translated code calls when it cannot go on by itself.
 */
#include "cpu/run.h"

#include <errno.h>

#include "cpu/sys.h"
#include "cpu/translate.h"
#include "mmu/mmu.h"

#define NO_EXIT UINT32_MAX

static unsigned jump_index(gva_t rip)
{
    return (unsigned)(rip >> 1) & (JUMP_CACHE_SIZE - 1);
}

/* No event may come before the instruction at RIP has taken the bytes that MMIO gave it: no window is open. */
static bool is_bound_to_mmio(const struct cpu *cpu)
{
    return cpu->mmio[0].state == CPU_MMIO_DONE || cpu->mmio[1].state == CPU_MMIO_DONE;
}

static uint32_t open_window(const struct cpu *cpu)
{
    uint32_t ctls = cpu->vmcs.proc_based_ctls;

    if (is_bound_to_mmio(cpu)) {
        return NO_EXIT;
    }
    if ((ctls & VMX_PROC_NMI_WINDOW_EXITING) != 0 && !cpu->nmi_blocked && cpu->intr_shadow == 0) {
        return VMX_EXIT_NMI_WINDOW;
    }
    if ((ctls & VMX_PROC_INTR_WINDOW_EXITING) != 0 && cpu->iflag && cpu->intr_shadow == 0) {
        return VMX_EXIT_INTR_WINDOW;
    }
    return NO_EXIT;
}

static bool trap_wanted(const struct cpu *cpu)
{
    return (cpu->rflags & X86_FLAGS_TF) != 0 || cpu->guest_debug_step;
}

/* ---- called from translated code ---- */

/* Its blocks may be found by RIP alone: CS adds nothing to it. */
static bool has_flat_code(const struct cpu *cpu)
{
    return (cpu->mode & (CPU_MODE_LONG | CPU_MODE_FLAT(X86_CS))) != 0;
}

static const void *code_if_cached(struct cpu *cpu)
{
    unsigned idx = cpu_mmu_idx(cpu);
    const struct jump_cache_entry *e = &cpu->jump_cache[idx][jump_index(cpu->rip)];

    if (atomic_load_explicit(&cpu->pending, memory_order_relaxed) != 0 || cpu->event.valid ||
        cpu->intr_shadow != 0 || cpu_window_wanted(cpu) || (cpu->mode & (CPU_MODE_STEP | CPU_MODE_BREAK)) != 0 ||
        cpu->jump_mode[idx] != cpu->mode || !has_flat_code(cpu) || e->neg_rip + cpu->rip != 0) {
        return NULL;
    }
    return (const void *)e->host;
}

/* What EFLAGS.AC asks of an operand (SDM 3A table 6-7): its size; 10-byte reals want 8. */
static unsigned alignment_of(unsigned len)
{
    if (len > 16 && (len & (len - 1)) == 0) {
        return isa_vendor_amd() ? 16 : 1; /* AMD's processors check YMM operands, by their halves; Intel's do not */
    }
    return len == 10 ? 8 : (len & (len - 1)) == 0 && len <= 16 ? len : 1;
}

#define SHARE_MISSES_MAX 24u

/* Counts a shared check that did not hold; a block with too many of them in one tick loses them. */
static void count_share_miss(struct cpu *cpu, const struct slow_desc *d)
{
    struct block *b = code_find_by_host(cpu->vm, (const uint8_t *)d);
    uint64_t tick = cpu->stats[CPU_STAT_INTERRUPTS];

    cpu->stats[CPU_STAT_SHARE_MISSES]++;
    if (b == NULL) {
        return;
    }
    if (b->share_tick != tick) {
        b->share_tick = tick;
        b->share_misses = 0;
    }
    if (++b->share_misses > SHARE_MISSES_MAX) {
        code_unshare(cpu, b);
    }
}

static bool x87_error_waits(void)
{
    uint16_t fsw;

    __asm__ volatile("fnstsw %0" : "=m"(fsw));
    return (fsw & 0x80) != 0;
}

/* MXCSR.MM (APM 1 4.2.2): vector operands of computations need no alignment; moves then fault by themselves. */
static bool misaligned_sse_allowed(void)
{
    uint32_t mxcsr;

    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    return (mxcsr & 1u << 17) != 0;
}

/* Outside 64-bit code `ea` is an offset: now it becomes linear, or the fault is recorded. */
static bool check_segment(struct cpu *cpu, const struct slow_desc *d, enum mmu_access access, unsigned len)
{
    return (d->info & ACCESS_SEGMENTED) == 0 ||
           cpu_linear(cpu, d->info >> ACCESS_SEG_SHIFT & 7u, cpu->ea, len, access, &cpu->ea) == CPU_NEXT;
}

static bool is_misaligned_vector(const struct cpu *cpu, const struct slow_desc *d)
{
    unsigned len = d->info >> ACCESS_BYTES_SHIFT & 0x7f;
    return (d->info & ACCESS_VECTOR) != 0 && (cpu->ea & (len - 1)) != 0 && !misaligned_sse_allowed();
}

static bool faults_before_paging(const struct cpu *cpu, const struct slow_desc *d)
{
    return ((d->info & ACCESS_X87) != 0 && x87_error_waits()) || is_misaligned_vector(cpu, d);
}

/* The block that the descriptor of an access or of a helper's call belongs to. */
static bool is_dropped(const struct cpu *cpu, const void *d)
{
    const struct block *b = code_find_by_host(cpu->vm, d);
    return b == NULL || !b->valid;
}

/* Has this vCPU dropped the block that it is in, since it had counted that many? */
static bool is_own_dropped(const struct cpu *cpu, const void *d, uint64_t invalidations)
{
    return cpu->stats[CPU_STAT_SMC_INVALIDATIONS] != invalidations && is_dropped(cpu, d);
}

/*
 * A leader's check failed. Its own access must be served or fault as ever; then the range must lie
 * in that page, with the rights that all of the group needs. Otherwise the block goes on unshared.
 */
static const void *slow_shared(struct cpu *cpu, const struct slow_desc *d)
{
    enum mmu_idx idx = (enum mmu_idx)(d->info >> ACCESS_IDX_SHIFT & 3u);
    bool write = (d->info & ACCESS_WRITE) != 0, range_write = (d->info & ACCESS_RANGE_WRITE) != 0;
    gva_t low = cpu->ea + (uint64_t)(int64_t)d->bounce;
    struct mmu_map map;

    /* What comes before a page fault (a waiting x87 error, a misaligned vector) the unshared form tells. */
    uint64_t invalidations = cpu->stats[CPU_STAT_SMC_INVALIDATIONS];
    if (!faults_before_paging(cpu, d) &&
        (low & ~KAGE_PAGE_MASK) + (uint32_t)d->host_disp <= KAGE_PAGE_SIZE &&
        mmu_translate(cpu, cpu->ea, write ? MMU_WRITE : MMU_READ, idx, &map) == MMU_OK &&
        !(range_write && !mmu_is_writable_now(cpu, cpu->ea, idx))) {
        if (is_own_dropped(cpu, d, invalidations)) {
            cpu->again = true;
            return NULL;
        }
        cpu_fpu_load(cpu);
        cpu->scratch[0] = (uint64_t)(uintptr_t)map.hva + (uint64_t)(int64_t)d->bounce;
        return (const uint8_t *)d + d->resume;
    }
    if (!cpu->event.valid && cpu->vmcs.exit_reason == NO_EXIT) {
        count_share_miss(cpu, d);
        cpu->run_unshared = cpu->again = true;
        return NULL;
    }
    if (cpu->event.valid && (d->info & ACCESS_STACK) != 0 && cpu->event.vector == X86_EXC_GP) {
        cpu->event.vector = X86_EXC_SS;
    }
    return NULL;
}

const void *cpu_slow_access(struct cpu *cpu, const struct slow_desc *d)
{
    if (d->info & ACCESS_SHARED) {
        cpu->rip = d->rip;
        return slow_shared(cpu, d);
    }

    unsigned len = d->info >> ACCESS_BYTES_SHIFT & 0x7f;
    enum mmu_idx idx = (enum mmu_idx)(d->info >> ACCESS_IDX_SHIFT & 3u);
    uint8_t *host = NULL;

    cpu->rip = d->rip;
    if ((d->info & ACCESS_X87) != 0 && x87_error_waits()) {
        cpu_raise(cpu, X86_EXC_MF);
        return NULL;
    }
    enum mmu_access access = (d->info & ACCESS_WRITE) != 0 ? MMU_WRITE : (d->info & ACCESS_LINE) != 0 ? MMU_FETCH : MMU_READ;
    if (!check_segment(cpu, d, access, len)) {
        return NULL;
    }
    /* Before #AC: what must be aligned always, and operands that are not canonical to their last byte. */
    if (is_misaligned_vector(cpu, d)) {
        cpu_raise_error(cpu, X86_EXC_GP, 0);
        return NULL;
    }
    if ((d->info & ACCESS_ALIGNED) != 0 && (cpu->ea & (alignment_of(len) - 1)) != 0 && cpu_is_canonical(cpu, cpu->ea) &&
        cpu_is_canonical(cpu, cpu->ea + len - 1)) {
        cpu_raise_error(cpu, X86_EXC_AC, 0);
        return NULL;
    }
    uint64_t generation = cpu->vm->generation, invalidations = cpu->stats[CPU_STAT_SMC_INVALIDATIONS];
    bool stack = (d->info & ACCESS_STACK) != 0;
    enum cpu_result r = cpu_access_prepare(cpu, cpu->ea, len, (d->info & ACCESS_READ) != 0,
                                           (d->info & ACCESS_WRITE) != 0, (d->info & ACCESS_LOCKED) != 0, idx, &host);
    if (r == CPU_NEXT && (cpu->vm->generation != generation || is_own_dropped(cpu, d, invalidations))) {
        cpu->again = true;
        cpu_access_abandon(cpu); /* the cache was emptied while we waited for others, or this very page let go: the instruction runs anew */
        return NULL;
    }
    if (r != CPU_NEXT) {
        if (r == CPU_FAULT && stack && cpu->event.vector == X86_EXC_GP) {
            cpu->event.vector = X86_EXC_SS; /* SDM 3A 6.15, interrupt 12 */
        }
        return NULL;
    }
    cpu_fpu_load(cpu);
    cpu->scratch[0] = (uint64_t)(uintptr_t)host - (uint64_t)(int64_t)d->host_disp;
    /* A write that must be followed by a commit runs a copy of the instruction that does so. */
    int32_t to = d->bounce != 0 && cpu->bounce_state != 0 ? d->bounce : d->resume;
    return (const uint8_t *)d + to;
}

const void *cpu_slow_commit(struct cpu *cpu, const struct slow_desc *d)
{
    uint64_t invalidations = cpu->stats[CPU_STAT_SMC_INVALIDATIONS];
    bool was_alone = cpu->bounce_alone, has_code = cpu->bounce_piece[0].has_code || cpu->bounce_piece[1].has_code;

    cpu->rip = d->next_rip != 0 ? d->next_rip : d->rip;
    if (cpu_access_commit(cpu) != CPU_NEXT) {
        return NULL;
    }
    /*
     * The store may have changed this very block, which another vCPU may have dropped before: look the next instruction up anew. And
     * where others were waited for, the host addresses that the block's shared checks have found may be gone.
     */
    if ((was_alone || cpu->stats[CPU_STAT_SMC_INVALIDATIONS] != invalidations || (has_code && is_dropped(cpu, d))) && d->next_rip != 0) {
        return NULL;
    }
    cpu_fpu_load(cpu);
    return (const uint8_t *)d + d->resume;
}

const void *cpu_call_helper(struct cpu *cpu, const struct helper_site *s)
{
    cpu->rip = s->rip;
    cpu->imm = s->imm;
    cpu->stats[CPU_STAT_HELPER_CALLS]++;
    if (s->flags & HELPER_VECTOR) {
        cpu_fpu_load(cpu);
    }
    uint64_t invalidations = cpu->stats[CPU_STAT_SMC_INVALIDATIONS];
    switch (((cpu_helper *)s->fn)(cpu, s->arg, s->len)) {
    case CPU_NEXT:
        if ((s->flags & HELPER_ENDS_BLOCK) == 0 && !is_own_dropped(cpu, s, invalidations)) {
            cpu_fpu_load(cpu);
            return (const uint8_t *)s + s->resume;
        }
        cpu_advance(cpu, s->len);
        break;
    case CPU_JUMP:
        break;
    case CPU_FAULT:
        if (HELPER_ARG_IS_MEM(s->arg) && HELPER_ARG_SEG(s->arg) == X86_SS && cpu->event.vector == X86_EXC_GP && cpu->event.address) {
            cpu->event.vector = X86_EXC_SS;
        }
        return NULL;
    default:
        return NULL;
    }
    const void *code = code_if_cached(cpu);
    if (code != NULL) {
        cpu_fpu_load(cpu);
        cpu_park(cpu);
    }
    return code;
}

/* ---- finding code ---- */

static void flush_code(void *arg)
{
    code_flush(arg);
}

static void remember_page(struct cpu *cpu, unsigned idx, gva_t va, uint32_t token)
{
    unsigned page = (unsigned)(va >> KAGE_PAGE_SHIFT) & (CODE_TLB_SIZE - 1);

    if (cpu->code_tlb[idx][page] != token) {
        clear_log_note(&cpu->code_log[idx], page);
        cpu->code_tlb[idx][page] = token;
    }
}

static void remember_jump_target(struct cpu *cpu, const struct block *b)
{
    unsigned idx = cpu_mmu_idx(cpu);

    if (cpu->jump_mode[idx] != cpu->mode) {
        for (unsigned i = 0; i < JUMP_CACHE_SIZE; i++) {
            cpu->jump_cache[idx][i] = (struct jump_cache_entry){.neg_rip = i == 0 ? 1 : 0, .host = 0};
        }
        cpu->jump_log[idx].count = cpu->code_log[idx].count = 0;
        memset(cpu->code_tlb[idx], 0, sizeof(cpu->code_tlb[idx]));
        cpu->jump_mode[idx] = cpu->mode;
    }
    if ((cpu->vm->test_flags & CODE_TEST_NO_CHAIN) == 0) {
        clear_log_note(&cpu->jump_log[idx], jump_index(b->va));
        cpu->jump_cache[idx][jump_index(b->va)] = (struct jump_cache_entry){
            .neg_rip = 0 - b->va,
            .host = (uint64_t)(uintptr_t)(cpu->vm->rx + b->host),
        };
        mmu_note_jump_target(cpu, b->va);
        mmu_note_jump_target(cpu, b->va + b->guest_len - 1);
    }
}

static void remember_block(struct cpu *cpu, const struct block *b)
{
    unsigned idx = cpu_mmu_idx(cpu);

    if ((cpu->mode & (CPU_MODE_STEP | CPU_MODE_BREAK)) != 0 || b->compared) {
        return;
    }
    if (has_flat_code(cpu)) {
        remember_jump_target(cpu, b);
    }
    remember_page(cpu, idx, b->va, b->token);
    if (b->gpa2 != 0) {
        remember_page(cpu, idx, block_next_page(b), b->token2);
    }
}

static bool straddle_still_mapped(struct cpu *cpu, const struct block *b, enum mmu_idx idx, const uint8_t **second_page,
                                  enum cpu_result *result)
{
    struct mmu_map map;
    enum mmu_result r;

    *second_page = NULL;
    if (b->gpa2 == 0) {
        return true;
    }
    r = mmu_translate(cpu, block_next_page(b), MMU_FETCH, idx, &map);
    *second_page = map.hva;
    *result = r == MMU_FAULT ? CPU_FAULT : r == MMU_EXIT ? CPU_EXIT : CPU_NEXT;
    return r == MMU_OK && (map.gpa & KAGE_PAGE_MASK) == b->gpa2;
}

/* The block at RIP, translated if need be. NULL: *result is CPU_FAULT or CPU_EXIT. */
static struct block *find_block(struct cpu *cpu, enum cpu_result *result)
{
    struct cpu_vm *vm = cpu->vm;
    enum mmu_idx idx = (cpu->mode & CPU_MODE_CPL) == 3 ? MMU_IDX_USER : MMU_IDX_KERNEL;
    struct code_key key = {.va = cpu_code_va(cpu), .mode = cpu->mode, .cs_limit = UINT32_MAX};

    if (!cpu_in_64bit_code(cpu)) {
        const struct vmcs_segment *cs = &cpu->vmcs.guest_seg[X86_CS];
        key.cs_base = (uint32_t)cs->base;
        key.cs_limit = cs->limit;
        if (cpu->rip > cs->limit) {
            *result = cpu_raise_gp(cpu, 0);
            return NULL;
        }
    }
    for (;;) {
        struct mmu_map map;
        switch (mmu_translate(cpu, key.va, MMU_FETCH, idx, &map)) {
        case MMU_OK:
            break;
        case MMU_FAULT:
            *result = CPU_FAULT;
            return NULL;
        case MMU_MMIO: /* no code is run out of devices */
            *result = cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 1, 0);
            return NULL;
        default:
            *result = CPU_EXIT;
            return NULL;
        }
        key.gpa = map.gpa;
        uint8_t *host_page = (uint8_t *)((uintptr_t)map.hva & ~(uintptr_t)4095);
        const uint8_t *second_page;
        int err = code_page_prepare(cpu, map.gpa, host_page);
        struct block *b = NULL;
        if (err == -EAGAIN) {
            continue;
        }
        if (err == -ERANGE) {
            *result = cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 2, 0);
            return NULL;
        }
        if (err == 0) {
            b = code_find(vm, &key);
            *result = CPU_NEXT;
            if (b != NULL && !straddle_still_mapped(cpu, b, idx, &second_page, result)) {
                if (*result != CPU_NEXT) {
                    return NULL;
                }
                cpu_code_written(cpu, b->gpa, b->guest_len);
                b = NULL;
            }
            if (b != NULL && b->compared && !code_still_holds(cpu, b, map.hva, second_page)) {
                continue;
            }
            if (b == NULL) {
                b = translate(cpu, &key, map.hva, result);
            }
            if (b == NULL && *result == CPU_JUMP) {
                continue; /* the code changed meanwhile */
            }
            if (b != NULL || *result != CPU_NEXT) {
                return b;
            }
        }
        cpu_vm_exclusive(vm, cpu, flush_code, vm);
    }
}

static bool is_requested(const struct cpu *cpu)
{
    return atomic_load_explicit(&cpu->pending, memory_order_relaxed) != 0;
}

const void *cpu_jump_miss(struct cpu *cpu, const struct jump_site *s)
{
    enum cpu_result result;

    cpu->stats[CPU_STAT_JUMP_MISSES]++;
    bool legacy = !cpu_in_64bit_code(cpu);
    if (legacy ? cpu->rip > cpu->vmcs.guest_seg[X86_CS].limit : !cpu_is_canonical(cpu, cpu->rip)) {
        cpu->rip = s->rip;
        cpu_set_sp(cpu, cpu_sp(cpu) + (uint64_t)s->rsp_undo);
        cpu_raise_error(cpu, X86_EXC_GP, 0);
        return NULL;
    }
    if (is_requested(cpu) ||
        (cpu->mode & (CPU_MODE_STEP | CPU_MODE_BREAK)) != 0 || (cpu->vm->test_flags & CODE_TEST_NO_CHAIN) != 0) {
        return NULL;
    }
    struct block *b = find_block(cpu, &result);
    if (b == NULL) {
        return NULL;
    }
    remember_block(cpu, b);
    cpu_fpu_load(cpu);
    cpu_park(cpu);
    return cpu->vm->rx + b->body;
}

static void link_blocks(struct cpu *cpu, uint32_t index, struct block *to)
{
    struct cpu_vm *vm = cpu->vm;

    pthread_mutex_lock(&vm->lock);
    if (index != 0 && index < vm->link_count && vm->links[index].target == to->rip) {
        code_link(cpu, &vm->links[index], to);
    }
    pthread_mutex_unlock(&vm->lock);
}

/* ---- the loop ---- */

/*
 * A vCPU comes into guest mode only while nobody is exclusive. It sets in_guest, then looks at `exclusive`; who wants to be exclusive
 * sets that, then looks at in_guest: at least one sees the other, so that neither takes a lock where nobody wants to.
 */
static void enter_guest(struct cpu *cpu)
{
    struct cpu_vm *vm = cpu->vm;

    atomic_store(&cpu->in_guest, 1);
    if (!atomic_load(&vm->exclusive)) {
        return;
    }
    pthread_mutex_lock(&vm->sync_lock);
    atomic_store(&cpu->in_guest, 0);
    pthread_cond_broadcast(&vm->sync_cond);
    while (vm->exclusive) {
        pthread_cond_wait(&vm->sync_cond, &vm->sync_lock);
    }
    atomic_store(&cpu->in_guest, 1);
    pthread_mutex_unlock(&vm->sync_lock);
}

static void leave_guest(struct cpu *cpu)
{
    struct cpu_vm *vm = cpu->vm;

    atomic_store(&cpu->in_guest, 0);
    if (atomic_load(&vm->exclusive)) {
        pthread_mutex_lock(&vm->sync_lock);
        pthread_cond_broadcast(&vm->sync_cond);
        pthread_mutex_unlock(&vm->sync_lock);
    }
}

bool cpu_hold_memory(struct cpu *cpu)
{
    if (cpu->in_guest || cpu->vm->exclusive_owner == cpu) {
        return false;
    }
    enter_guest(cpu);
    return true;
}

void cpu_release_memory(struct cpu *cpu, bool held)
{
    if (held) {
        leave_guest(cpu);
    }
}

/* Waits at a safe point while another thread has the VM to itself. */
static void park(struct cpu *cpu)
{
    struct cpu_vm *vm = cpu->vm;

    pthread_mutex_lock(&vm->sync_lock);
    cpu->in_guest = 0;
    pthread_cond_broadcast(&vm->sync_cond);
    while (vm->exclusive && vm->exclusive_owner != cpu) {
        pthread_cond_wait(&vm->sync_cond, &vm->sync_lock);
    }
    atomic_fetch_and(&cpu->pending, ~CPU_REQ_SYNC);
    cpu->in_guest = 1;
    pthread_mutex_unlock(&vm->sync_lock);
}

/* Honours requests; true if they end in a VM exit. */
static bool honour_requests(struct cpu *cpu)
{
    uint32_t req = atomic_load_explicit(&cpu->pending, memory_order_acquire);

    if (req & CPU_REQ_SYNC) {
        cpu_fpu_save(cpu);
        park(cpu);
    }
    cpu_flush_if_asked(cpu);
    if (req & CPU_REQ_KICK) {
        atomic_fetch_and(&cpu->pending, ~CPU_REQ_KICK);
        cpu_vmexit(cpu, VMX_EXIT_EXT_INTR, 0, 0);
        return true;
    }
    return false;
}

/* Runs b and what it leads to; the link wanted on leaving, or 0. */
static uint32_t enter_block(struct cpu *cpu, const struct block *b)
{
    cpu_fpu_load(cpu);
    cpu_park(cpu);
    return (uint32_t)cpu_enter_code(cpu, cpu->vm->rx + b->body);
}

/*
 * One instruction, then a look: RFLAGS.TF, guest debugging, breakpoints, or the end of an interrupt shadow. It cannot be left
 * before the instruction by a request (lower_poll()): an interrupt that came between STI and HLT would be lost on the HLT.
 */
static void run_one(struct cpu *cpu)
{
    enum cpu_result result;
    uint8_t shadow = cpu->intr_shadow;
    uint32_t rf = cpu->rflags & X86_FLAGS_RF;
    uint64_t trap = trap_wanted(cpu) ? X86_DR6_BS : 0;

    if (cpu_stopped_by_breakpoint(cpu)) {
        return;
    }
    cpu->mode |= CPU_MODE_STEP;
    struct block *b = find_block(cpu, &result);
    cpu->rflags &= ~X86_FLAGS_RF;
    cpu->again = false;
    if (b != NULL) {
        cpu->intr_shadow = 0;
        enter_block(cpu, b);
    }
    bool page_fault_exits = cpu->event.valid && cpu->event.vector == X86_EXC_PF && cpu_event_intercepted(cpu, &cpu->event);
    if (cpu->again || page_fault_exits || cpu->vmcs.exit_reason == VMX_EXIT_EPT_VIOLATION ||
        cpu->vmcs.exit_reason == VMX_EXIT_EPT_MISCONFIG) {
        cpu->intr_shadow = shadow; /* it has not happened yet */
        cpu->rflags |= rf;
    }
    cpu_update_mode(cpu);
    if (cpu->again) {
        cpu->data_breaks = 0;
        return;
    }
    if (b == NULL || cpu->event.valid || cpu->vmcs.exit_reason != NO_EXIT) {
        cpu->data_breaks = 0; /* not finished: it runs anew */
        return;
    }
    if (cpu->intr_shadow == VMX_INTR_MOV_SS) {
        return; /* its single step is lost, its data breakpoints wait (SDM 3A 6.8.3) */
    }
    trap |= cpu->data_breaks;
    cpu->data_breaks = 0;
    if (trap != 0) {
        cpu_raise_debug(cpu, trap);
    }
}

/* The block at RIP with every access checking for itself; it leaves for the run loop at its end. */
static void run_unshared(struct cpu *cpu)
{
    enum cpu_result result;

    cpu->run_unshared = false;
    cpu->mode |= CPU_MODE_UNSHARED;
    struct block *b = find_block(cpu, &result);
    cpu->mode &= ~CPU_MODE_UNSHARED;
    if (b != NULL) {
        enter_block(cpu, b);
    }
}

static void run_block(struct cpu *cpu, uint32_t *link)
{
    enum cpu_result result;
    uint64_t generation = cpu->vm->generation;
    struct block *b = find_block(cpu, &result);

    cpu->stats[CPU_STAT_DISPATCHES]++;
    if (b == NULL) {
        *link = 0;
        return;
    }
    if (*link != 0 && cpu->vm->generation == generation) { /* link numbers do not outlive a flush */
        link_blocks(cpu, *link, b);
    }
    remember_block(cpu, b);
    *link = enter_block(cpu, b);
}

static void run_loop(struct cpu *cpu)
{
    uint32_t link = 0;

    while (cpu->vmcs.exit_reason == NO_EXIT) {
        cpu_access_abandon(cpu); /* of an instruction that the host's processor refused */
        if (cpu->event.valid) {
            link = 0;
            cpu_deliver_event(cpu);
            continue;
        }
        if (is_requested(cpu)) {
            link = 0; /* the cache may be emptied meanwhile */
            if (honour_requests(cpu)) {
                break;
            }
            continue;
        }
        if (cpu_window_wanted(cpu)) {
            uint32_t reason = open_window(cpu);
            if (reason != NO_EXIT) {
                cpu_vmexit(cpu, reason, 0, 0);
                break;
            }
        }
        if (cpu->mode & (CPU_MODE_STEP | CPU_MODE_BREAK)) {
            link = 0;
            run_one(cpu);
            continue;
        }
        if (cpu->run_unshared) {
            link = 0;
            run_unshared(cpu);
            continue;
        }
        run_block(cpu, &link);
    }
}

void cpu_run(struct cpu *cpu)
{
    uint64_t host_gs;

    cpu->vmcs.exit_reason = NO_EXIT;
    cpu->gone = NULL;
    cpu->sti_slow = cpu_window_wanted(cpu);
    enter_guest(cpu);
    cpu_flush_if_asked(cpu); /* memory may have changed on the way here, and the event below is delivered first */
    __asm__ volatile("rdgsbase %0" : "=r"(host_gs));
    __asm__ volatile("wrgsbase %0" : : "r"(cpu) : "memory");
    cpu_signal_enter(cpu);
    if (__builtin_setjmp(cpu->escape) == 0) {
        run_loop(cpu);
    } else { /* guest memory is gone under C code: the signal handler sent the thread here */
        if (cpu->holds_code_lock) {
            cpu->holds_code_lock = false;
            pthread_mutex_unlock(&cpu->vm->lock);
        }
        cpu_vmexit(cpu, VMX_EXIT_EPT_VIOLATION, cpu->gone_write ? VMX_EPT_QUAL_WRITE : VMX_EPT_QUAL_READ, 0);
    }
    cpu->run_unshared = false;
    cpu_access_abandon(cpu);
    cpu_fpu_save(cpu);
    cpu_signal_leave(cpu);
    __asm__ volatile("wrgsbase %0" : : "r"(host_gs) : "memory");
    leave_guest(cpu);
}
