/* SPDX-License-Identifier: MIT */
/*
 * Second pass of the translator and its driver: a block is emitted as one transaction into the code
 * cache and published only when it is whole.
 */
#include "cpu/translate.h"

#include "cpu/sys.h"

void trans_note(struct trans *t, unsigned i, int spilled)
{
    if (t->map_count == KAGE_ARRAY_SIZE(t->maps)) {
        t->failed = true;
        return;
    }
    t->maps[t->map_count++] = (struct insn_map){
        .host = (uint16_t)(t->e.p - t->section),
        .guest = t->insns[i].offset,
        .spilled = (uint8_t)((unsigned)(spilled + 1) | (t->parked ? SPILLED_FLAGS : 0)),
    };
}

struct cold *trans_cold(struct trans *t, enum cold_kind kind, unsigned i)
{
    if (t->cold_count == KAGE_ARRAY_SIZE(t->colds)) {
        t->failed = true;
        t->cold_count--;
    }
    struct cold *c = &t->colds[t->cold_count++];
    memset(c, 0, sizeof(*c));
    c->kind = kind;
    c->insn = (uint8_t)i;
    c->parked = t->parked;
    return c;
}

/* Which unit an instruction uses, for CR0.EM/TS, CR4.OSFXSR, CR4.OSXSAVE and XCR0: FPU_CHECK_*, 0 for none. */
static uint32_t fpu_kind(const ZydisDecodedInstruction *z)
{
    switch (z->meta.isa_ext) {
    case ZYDIS_ISA_EXT_X87:
        return z->mnemonic == ZYDIS_MNEMONIC_FWAIT ? FPU_CHECK_FWAIT : FPU_CHECK_X87;
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_AMD3DNOW:
        return FPU_CHECK_MMX;
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
        break;
    case ZYDIS_ISA_EXT_GFNI:
        if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
            return FPU_CHECK_SSE;
        }
        return FPU_CHECK_AVX;
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVX2GATHER:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_AVX_VNNI:
    case ZYDIS_ISA_EXT_F16C:
    case ZYDIS_ISA_EXT_FMA:
    case ZYDIS_ISA_EXT_FMA4:
    case ZYDIS_ISA_EXT_XOP:
    case ZYDIS_ISA_EXT_VAES:
    case ZYDIS_ISA_EXT_VPCLMULQDQ:
        return z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ? FPU_CHECK_AVX512 : FPU_CHECK_AVX;
    case ZYDIS_ISA_EXT_AVX512EVEX:
    case ZYDIS_ISA_EXT_AVX512VEX:
        return FPU_CHECK_AVX512;
    default:
        return 0;
    }
    switch (z->mnemonic) { /* in the SSE sets, but without SSE state */
    case ZYDIS_MNEMONIC_POPCNT:
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_PAUSE:
        return 0;
    default:
        return z->operand_width == 0 ? 0 : FPU_CHECK_SSE;
    }
}

/* A call of cpu_fpu_check() ahead of the instruction. */
static void emit_fpu_check(struct trans *t, unsigned i, uint32_t kind)
{
    struct cold *c = trans_cold(t, COLD_HELPER, i);
    c->info = kind;
    c->target = (uint64_t)(uintptr_t)cpu_fpu_check;
    e_b(&t->e, 0xe9);
    c->from = t->e.p;
    e_d(&t->e, 0);
    c->resume = t->e.p;
}

/* Puts the flags where instruction i wants them. */
static void place_flags(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];

    if (!in->live_in) {
        t->parked = false;
    } else if (t->parked && !insn_leaves(in) && (in->flags_read != 0 || in->flags_written)) {
        lower_unpark(&t->e);
        t->parked = false;
    } else if (!t->parked && in->park) {
        lower_park(&t->e);
        t->parked = true;
    }
}

static void emit_insn(struct trans *t, unsigned i)
{
    struct insn *in = &t->insns[i];

    if (in->cls != INSN_DROP && (t->mode & (CPU_MODE_NO_SSE | CPU_MODE_NO_AVX)) != 0) {
        uint32_t kind = fpu_kind(&in->z);
        if (kind != 0) {
            emit_fpu_check(t, i, kind);
        }
    }
    switch (in->cls) {
    case INSN_COPY:
        rewrite_copy(t, i);
        break;
    case INSN_DROP:
        break;
    case INSN_LEA:
        rewrite_lea(t, i);
        break;
    case INSN_BIT_STRING:
        rewrite_bit_string(t, i);
        break;
    case INSN_MOFFS:
        rewrite_moffs(t, i);
        break;
    case INSN_UD:
        in->has_mem = false;
        in->fn = sys_ud;
        in->helper_flags = HELPER_ENDS_BLOCK;
        lower_helper(t, i);
        break;
    case INSN_HELPER:
        lower_helper(t, i);
        break;
    case INSN_CLI:
        if ((t->mode & CPU_MODE_CPL) != 0) {
            in->fn = sys_cli;
            in->helper_flags = 0;
            lower_helper(t, i);
        } else {
            e_b(&t->e, 0x65); /* mov byte gs:[iflag], 0 */
            e_b(&t->e, 0xc6);
            e_b(&t->e, 0x04);
            e_b(&t->e, 0x25);
            e_d(&t->e, OFF(iflag));
            e_b(&t->e, 0);
        }
        break;
    case INSN_SWAPGS:
        if ((t->mode & CPU_MODE_CPL) != 0) {
            in->fn = sys_swapgs;
            in->helper_flags = 0;
            lower_helper(t, i);
        } else {
            e_load_gs(&t->e, X86_R10, OFF_SEG_BASE(X86_GS));
            e_load_gs(&t->e, X86_R11, OFF(msr_kernel_gs_base));
            e_store_gs(&t->e, OFF_SEG_BASE(X86_GS), X86_R11);
            e_store_gs(&t->e, OFF(msr_kernel_gs_base), X86_R10);
        }
        break;
    case INSN_STRING:
        lower_string(t, i);
        break;
    case INSN_STI:
        lower_sti(t, i);
        break;
    case INSN_RDTSC:
        if (t->mode & CPU_MODE_TSD) {
            in->fn = sys_rdtsc;
            in->helper_flags = 0;
            lower_helper(t, i);
        } else {
            lower_rdtsc(t);
        }
        break;
    default:
        lower_branch(t, i);
        break;
    }
}

/* A dry run of the emitter, to know the accesses; what it writes is overwritten. */
static bool share_block(struct trans *t)
{
    struct emit start = t->e;

    t->note_count = t->next_note = t->last_version = 0;
    memset(t->version, 0, sizeof(t->version));
    memset(t->moved, 0, sizeof(t->moved));
    if (t->unshared) {
        t->next_note = ACCESS_NOTES_MAX;
        return true;
    }
    t->dry = true;
    t->parked = t->insns[0].park;
    for (unsigned i = 0; i < t->count; i++) {
        place_flags(t, i);
        emit_insn(t, i);
        share_note_insn(t, &t->insns[i]);
    }
    t->dry = false;
    bool ok = !t->e.overflow && !t->failed;
    share_decide(t);
    t->e = start;
    t->next_note = 0;
    t->cold_count = t->map_count = 0;
    return ok;
}

/* Emits t->insns at the end of the cache; the transaction is committed by the caller. */
static bool emit_block(struct trans *t)
{
    struct block *b = t->b;

    b->host = (uint32_t)t->vm->used;
    t->e = (struct emit){.p = t->vm->rw + b->host, .end = t->vm->rw + t->vm->cold_start};
    t->section = t->e.p;
    t->cold_count = t->map_count = 0;
    t->failed = false;

    if (!share_block(t)) {
        return false;
    }
    lower_entry(t);
    trans_note(t, 0, -1);
    lower_poll(t);
    for (unsigned i = 0; i < t->count; i++) {
        place_flags(t, i);
        trans_note(t, i, -1);
        emit_insn(t, i);
    }
    const struct insn *last = &t->insns[t->count - 1];
    if (!insn_ends_block(last)) {
        lower_goto(t, t->count - 1, trans_next_rip(t, t->count - 1));
    }
    b->host_len = (uint32_t)(t->e.p - t->section);
    t->hot_map_count = t->map_count;
    bool fits = !t->e.overflow;

    b->cold = (uint32_t)t->vm->cold_used;
    t->e = (struct emit){.p = t->vm->rw + b->cold, .end = t->vm->rw + t->vm->size};
    t->section = t->e.p;
    cold_emit(t);
    b->cold_len = (uint32_t)(t->e.p - t->section);
    return fits && !t->failed && !t->e.overflow && b->host_len < 0xfff0 && b->cold_len < 0xfff0;
}

static void commit(struct trans *t)
{
    struct cpu_vm *vm = t->vm;
    struct block *b = t->b;

    vm->used = (b->host + b->host_len + 15) & ~(size_t)15;
    vm->cold_used = (b->cold + b->cold_len + 7) & ~(size_t)7;
    b->map = vm->map_count;
    b->map_len = (uint16_t)t->hot_map_count;
    b->cold_map_len = (uint16_t)(t->map_count - t->hot_map_count);
    memcpy(&vm->maps[vm->map_count], t->maps, t->map_count * sizeof(t->maps[0]));
    vm->map_count += t->map_count;
    if (b->compared) {
        b->source = (uint32_t)vm->cold_used;
        memcpy(vm->rw + b->source, t->bytes, b->guest_len);
        vm->cold_used += (b->guest_len + 7u) & ~7u;
    }
    code_publish(t->cpu, b);
    t->cpu->stats[CPU_STAT_BLOCKS_TRANSLATED]++;
    t->cpu->stats[CPU_STAT_GUEST_BYTES] += b->guest_len;
    t->cpu->stats[CPU_STAT_GUEST_INSNS] += t->count;
    t->cpu->stats[CPU_STAT_HOST_BYTES] += b->host_len;
    t->cpu->stats[CPU_STAT_STUB_BYTES] += b->cold_len;
}

static void set_tokens(struct cpu_vm *vm, struct block *b)
{
    b->token = code_token(vm, b->va, b->gpa);
    b->token2 = b->gpa2 != 0 ? code_token(vm, block_next_page(b), b->gpa2) : 0;
}

/* Whoever changes the block's bytes from here on waits for the lock, then drops it (code_cache.h). Those that were decoded may be older. */
static bool bytes_still_hold(const struct trans *t, const struct block *b, const uint8_t *host)
{
    unsigned left = (unsigned)(KAGE_PAGE_SIZE - (b->va & (KAGE_PAGE_SIZE - 1)));
    unsigned first = b->guest_len < left ? b->guest_len : left;

    atomic_thread_fence(memory_order_seq_cst);
    return memcmp(t->bytes, host, first) == 0 &&
           (t->second_page == NULL || memcmp(t->bytes + first, t->second_page, b->guest_len - first) == 0);
}

struct block *translate(struct cpu *cpu, const struct code_key *key, const uint8_t *host, enum cpu_result *result)
{
    struct cpu_vm *vm = cpu->vm;
    struct trans *t = cpu->trans;
    struct block draft;

    t->cpu = cpu;
    t->vm = vm;
    t->mode = cpu->mode;
    t->legacy = !cpu_in_64bit_code(cpu);
    t->rip = cpu->rip;
    t->idx = cpu_mmu_idx(cpu);
    memset(&draft, 0, sizeof(draft));
    t->b = &draft;
    draft.va = key->va;
    draft.gpa = key->gpa;
    draft.mode = key->mode;
    draft.rip = cpu->rip;
    draft.cs_base = key->cs_base;
    draft.cs_limit = key->cs_limit;

    cpu_fpu_save(cpu); /* Zydis uses vector registers */
    enum scan_result s = scan_block(t, key->va, key->gpa, host);
    if (s != SCAN_OK) {
        *result = s == SCAN_FAULT ? CPU_FAULT : s == SCAN_AGAIN ? CPU_JUMP : CPU_EXIT;
        return NULL;
    }
    t->unshared = (cpu->mode & CPU_MODE_UNSHARED) != 0 || code_is_unshared(vm, key->va) ||
                  (vm->test_flags & CODE_TEST_TINY_TLB) != 0;
    draft.no_link = (cpu->mode & CPU_MODE_UNSHARED) != 0 || (cpu->mode & (CPU_MODE_STEP | CPU_MODE_BREAK)) != 0;

    pthread_mutex_lock(&vm->lock);
    cpu->holds_code_lock = true;
    struct block *b = code_find(vm, key);
    if (b != NULL && b->gpa2 == draft.gpa2) {
        cpu->holds_code_lock = false;
        pthread_mutex_unlock(&vm->lock);
        return b; /* another vCPU was faster */
    }
    if (!code_watch(vm, &draft) || !bytes_still_hold(t, &draft, host)) {
        cpu->holds_code_lock = false;
        pthread_mutex_unlock(&vm->lock);
        *result = CPU_JUMP;
        return NULL;
    }
    cpu->holds_code_lock = false;
    draft.compared = code_page_at(vm, draft.gpa)->guard == CODE_GUARD_COMPARE ||
                     (draft.gpa2 != 0 && code_page_at(vm, draft.gpa2)->guard == CODE_GUARD_COMPARE);
    draft.no_link |= draft.compared;
    b = NULL;
    if (code_has_room(vm)) {
        uint32_t links = vm->link_count;
        b = &vm->blocks[vm->block_count];
        *b = draft;
        t->b = b;
        set_tokens(vm, b);
        if (emit_block(t)) {
            commit(t);
        } else if (t->count > 1) {
            /* Too long for one block: half of it fits. */
            vm->link_count = links;
            *b = draft;
            set_tokens(vm, b);
            t->count /= 2;
            b->guest_len = (uint16_t)(t->insns[t->count].offset);
            if (emit_block(t)) {
                commit(t);
            } else {
                b = NULL;
            }
        } else {
            b = NULL;
        }
        if (b == NULL) {
            vm->link_count = links;
        }
    }
    *result = CPU_NEXT; /* without a block: the cache must be flushed */
    pthread_mutex_unlock(&vm->lock);
    return b;
}
