/* SPDX-License-Identifier: MIT */
/*
 * Guest-virtual memory for C code: helpers' reads and writes, and the translator's slow path.
 * An access is one or two pieces, one for each page. Every piece is translated, with all checks,
 * before a byte moves. RAM is copied; MMIO goes through cpu->mmio[] as cpu/sys.h states.
 */
#include <errno.h>
#include <stdlib.h>

#include "cpu/code_cache.h"
#include "cpu/sys.h"
#include "mmu/mmu.h"

#define MMIO_MAX_BYTES 64u

enum { BOUNCE_NONE, BOUNCE_DIRECT_CODE, BOUNCE_COPY };

int cpu_sys_init(struct cpu *cpu)
{
    cpu->pio_buf = calloc(1, CPU_PIO_BUF_BYTES);
    cpu->fpu_buf = aligned_alloc(64, CPU_FPU_BUF_BYTES);
    if (cpu->pio_buf == NULL || cpu->fpu_buf == NULL) {
        cpu_sys_fini(cpu);
        return -ENOMEM;
    }
    cpu_fpu_probe_host(cpu);
    return 0;
}

void cpu_sys_fini(struct cpu *cpu)
{
    free(cpu->pio_buf);
    free(cpu->fpu_buf);
    cpu->pio_buf = NULL;
    cpu->fpu_buf = NULL;
}

/* Copies with one access where the size has one: other processors must not see torn words. */
static void copy_bytes(void *to, const void *from, unsigned len)
{
    switch (len) {
    case 1:
        __builtin_memcpy(to, from, 1);
        break;
    case 2:
        __builtin_memcpy(to, from, 2);
        break;
    case 4:
        __builtin_memcpy(to, from, 4);
        break;
    case 8:
        __builtin_memcpy(to, from, 8);
        break;
    default: {
        uint8_t *d = to;
        const uint8_t *s = from;
        for (; len >= 8; len -= 8, d += 8, s += 8) {
            __builtin_memcpy(d, s, 8);
        }
        while (len-- > 0) {
            *d++ = *s++;
        }
        break;
    }
    }
}

static uint8_t *l1_probe(struct cpu *cpu, gva_t va, unsigned len, enum mmu_access access, enum mmu_idx idx)
{
    const struct tlb_bank *bank = &cpu->tlb[idx][access];
    unsigned i = (unsigned)(va >> KAGE_PAGE_SHIFT) & (TLB_SIZE - 1);
    uint64_t offset = va + bank->neg_tag[i];

    /* An invalid entry can only match a non-canonical va; leave that to mmu_translate(). */
    if (offset > KAGE_PAGE_SIZE - len || bank->host[i] == TLB_INVALID) {
        return NULL;
    }
    return (uint8_t *)(uintptr_t)(bank->host[i] + offset);
}

static enum cpu_result piece_translate(struct cpu *cpu, gva_t va, unsigned len, enum mmu_access access,
                                       enum mmu_idx idx, struct cpu_piece *p)
{
    struct mmu_map map;

    *p = (struct cpu_piece){.len = len};
    p->host = l1_probe(cpu, va, len, access, idx);
    if (p->host != NULL) {
        return CPU_NEXT;
    }
    switch (mmu_translate(cpu, va, access, idx, &map)) {
    case MMU_OK:
        p->host = map.hva;
        p->gpa = map.gpa;
        p->has_code = access == MMU_WRITE && map.has_code;
        return CPU_NEXT;
    case MMU_MMIO:
        p->gpa = map.gpa;
        return CPU_NEXT;
    case MMU_FAULT:
        return CPU_FAULT;
    case MMU_EXIT:
        break;
    }
    return CPU_EXIT;
}

/* The bytes themselves, if the first-level TLB has them and nobody watches: most accesses of helpers end here. */
static uint8_t *quick(struct cpu *cpu, gva_t va, unsigned len, enum mmu_access access, enum mmu_idx idx)
{
    return (cpu->mode & CPU_MODE_BREAK) == 0 ? l1_probe(cpu, va, len, access, idx) : NULL;
}

/* Translates all of an access of at most a page; *n is the number of pieces. */
static enum cpu_result pieces_translate(struct cpu *cpu, gva_t va, unsigned len, enum mmu_access access,
                                        enum mmu_idx idx, struct cpu_piece p[2], unsigned *n)
{
    unsigned first = (unsigned)(KAGE_PAGE_SIZE - (va & ~KAGE_PAGE_MASK));

    if (first > len) {
        first = len;
    }
    *n = first == len ? 1 : 2;
    if (*n == 2 && cpu_is_canonical(cpu, va) && !cpu_is_canonical(cpu, va + len - 1) && cpu_in_long_mode(cpu)) {
        enum cpu_result gp = cpu_raise_gp(cpu, 0); /* of the whole operand, before its first page is looked at */
        cpu->event.address = true;
        return gp;
    }
    gva_t next = cpu_va_add(cpu, va, first);
    enum cpu_result r = piece_translate(cpu, va, first, access, idx, &p[0]);
    if (r == CPU_NEXT && *n == 2) {
        r = piece_translate(cpu, next, len - first, access, idx, &p[1]);
    }
    if ((cpu->mode & CPU_MODE_BREAK) != 0 && r == CPU_NEXT) {
        cpu_note_data_access(cpu, va, first, access == MMU_WRITE);
        if (*n == 2) {
            cpu_note_data_access(cpu, next, len - first, access == MMU_WRITE);
        }
    }
    return r;
}

/* ---- MMIO ---- */

bool cpu_mmio_posted(const struct cpu *cpu)
{
    for (unsigned i = 0; i < 2; i++) {
        if (cpu->mmio[i].state == CPU_MMIO_WANTED && cpu->mmio[i].is_write) {
            return true;
        }
    }
    return false;
}

void cpu_mmio_consume(struct cpu *cpu)
{
    cpu->mmio[0].state = CPU_MMIO_NONE;
    cpu->mmio[1].state = CPU_MMIO_NONE;
}

static enum cpu_result mmio_exit(struct cpu *cpu, gpa_t gpa, bool write)
{
    enum cpu_result r = cpu_vmexit(cpu, VMX_EXIT_EPT_MISCONFIG, write ? VMX_EPT_QUAL_WRITE : VMX_EPT_QUAL_READ, 0);

    cpu->vmcs.guest_physical_address = gpa;
    return r;
}

static enum cpu_result mmio_too_long(struct cpu *cpu, gpa_t gpa)
{
    enum cpu_result r = cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 0, 0);

    cpu->vmcs.guest_physical_address = gpa;
    return r;
}

static const struct cpu_mmio *mmio_find_done(const struct cpu *cpu, const struct cpu_piece *p)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct cpu_mmio *m = &cpu->mmio[i];
        if (m->state == CPU_MMIO_DONE && !m->is_write && m->gpa == p->gpa && m->len == p->len) {
            return m;
        }
    }
    return NULL;
}

static void mmio_want(struct cpu *cpu, const struct cpu_piece *p, const uint8_t *data)
{
    struct cpu_mmio *m = cpu->mmio[0].state == CPU_MMIO_NONE ? &cpu->mmio[0] : &cpu->mmio[1];

    m->state = CPU_MMIO_WANTED;
    m->is_write = data != NULL;
    m->len = (uint8_t)p->len;
    m->gpa = p->gpa;
    if (data != NULL) {
        copy_bytes(m->data, data, p->len);
    }
}

/* Copies every piece to buf, or asks for the MMIO bytes that are missing. */
static enum cpu_result pieces_load(struct cpu *cpu, const struct cpu_piece *p, unsigned n, uint8_t *buf)
{
    const struct cpu_piece *missing[2];
    unsigned missing_count = 0, done_count = 0;

    for (unsigned i = 0; i < n; buf += p[i].len, i++) {
        if (p[i].host != NULL) {
            copy_bytes(buf, p[i].host, p[i].len);
            continue;
        }
        if (p[i].len > MMIO_MAX_BYTES) {
            return mmio_too_long(cpu, p[i].gpa);
        }
        const struct cpu_mmio *m = mmio_find_done(cpu, &p[i]);
        if (m != NULL) {
            copy_bytes(buf, m->data, p[i].len);
        } else {
            missing[missing_count++] = &p[i];
        }
    }
    if (missing_count == 0) {
        return CPU_NEXT;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (cpu->mmio[i].state == CPU_MMIO_DONE && !cpu->mmio[i].is_write) {
            done_count++;
        } else {
            cpu->mmio[i].state = CPU_MMIO_NONE;
        }
    }
    if (done_count + missing_count > 2) {
        cpu_mmio_consume(cpu); /* left by an instruction that never finished */
    }
    for (unsigned i = 0; i < missing_count; i++) {
        mmio_want(cpu, missing[i], NULL);
    }
    return mmio_exit(cpu, missing[0]->gpa, false);
}

/* Stores buf to every piece; MMIO pieces are posted. */
static enum cpu_result pieces_store(struct cpu *cpu, const struct cpu_piece *p, unsigned n, const uint8_t *buf)
{
    const struct cpu_piece *posted = NULL;

    for (unsigned i = 0; i < n; buf += p[i].len, i++) {
        if (p[i].host != NULL) {
            copy_bytes(p[i].host, buf, p[i].len);
            if (p[i].has_code) {
                cpu_code_written(cpu, p[i].gpa, p[i].len);
            }
            continue;
        }
        if (posted == NULL) {
            cpu_mmio_consume(cpu);
            posted = &p[i];
        }
        mmio_want(cpu, &p[i], buf);
    }
    return posted == NULL ? CPU_NEXT : mmio_exit(cpu, posted->gpa, true);
}

/* ---- helpers' accesses ---- */

enum cpu_result cpu_read_keep(struct cpu *cpu, gva_t va, void *buf, unsigned len, enum mmu_idx idx)
{
    struct cpu_piece p[2];
    unsigned n;
    enum cpu_result r = pieces_translate(cpu, va, len, MMU_READ, idx, p, &n);

    return r == CPU_NEXT ? pieces_load(cpu, p, n, buf) : r;
}

enum cpu_result cpu_read(struct cpu *cpu, gva_t va, void *buf, unsigned len, enum mmu_idx idx)
{
    const uint8_t *host = quick(cpu, va, len, MMU_READ, idx);
    struct cpu_piece p[2];
    unsigned n;

    if (host != NULL) {
        copy_bytes(buf, host, len);
        return CPU_NEXT;
    }
    enum cpu_result r = pieces_translate(cpu, va, len, MMU_READ, idx, p, &n);

    if (r == CPU_NEXT) {
        r = pieces_load(cpu, p, n, buf);
    }
    if (r == CPU_NEXT && (p[0].host == NULL || (n == 2 && p[1].host == NULL))) {
        cpu_mmio_consume(cpu);
    }
    return r;
}

enum cpu_result cpu_write(struct cpu *cpu, gva_t va, const void *buf, unsigned len, enum mmu_idx idx)
{
    uint8_t *host = quick(cpu, va, len, MMU_WRITE, idx);
    struct cpu_piece p[2];
    unsigned n;

    if (host != NULL) {
        copy_bytes(host, buf, len);
        return CPU_NEXT;
    }
    enum cpu_result r = pieces_translate(cpu, va, len, MMU_WRITE, idx, p, &n);

    if (r != CPU_NEXT) {
        return r;
    }
    for (unsigned i = 0; i < n; i++) {
        if (p[i].host == NULL && p[i].len > MMIO_MAX_BYTES) {
            return mmio_too_long(cpu, p[i].gpa);
        }
    }
    return pieces_store(cpu, p, n, buf);
}

enum cpu_result cpu_write_last(struct cpu *cpu, gva_t va, const void *buf, unsigned bytes, uint32_t len)
{
    enum cpu_result r = cpu_write(cpu, va, buf, bytes, cpu_mmu_idx(cpu));

    if (r == CPU_EXIT && cpu_mmio_posted(cpu)) {
        cpu_advance(cpu, len);
    }
    return r;
}

enum cpu_result cpu_locate(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, struct cpu_piece *p)
{
    return piece_translate(cpu, va, 1, access, idx, p);
}

enum cpu_result cpu_probe(struct cpu *cpu, gva_t va, unsigned len, enum mmu_access access, enum mmu_idx idx)
{
    struct cpu_piece p[2];
    unsigned n;

    return pieces_translate(cpu, va, len, access, idx, p, &n);
}

/* ---- the translator's slow path ---- */

/*
 * The bytes of a read-modify-write of which a piece cannot be written as memory: a read-only slot
 * is still read from memory, the rest is MMIO.
 */
static enum cpu_result bounce_load(struct cpu *cpu, gva_t va, enum mmu_idx idx, unsigned n, uint8_t *buf)
{
    struct cpu_piece p[2] = {cpu->bounce_piece[0], cpu->bounce_piece[1]};
    bool mmio = false;

    for (unsigned i = 0; i < n; va = cpu_va_add(cpu, va, p[i].len), i++) {
        if (p[i].host == NULL) {
            enum cpu_result r = piece_translate(cpu, va, p[i].len, MMU_READ, idx, &p[i]);
            if (r != CPU_NEXT) {
                return r;
            }
            mmio |= p[i].host == NULL;
        }
    }
    enum cpu_result r = pieces_load(cpu, p, n, buf);
    if (r == CPU_NEXT && mmio) {
        cpu_mmio_consume(cpu);
    }
    return r;
}

void cpu_access_abandon(struct cpu *cpu)
{
    if (cpu->bounce_alone) {
        cpu->bounce_alone = false;
        cpu_vm_exclusive_end(cpu->vm, cpu);
    }
}

/*
 * A locked operation across two pages of memory: there is no host address for all of it, and no host instruction that does it in
 * one step. The other vCPUs stop until its commit. The translation is made again: they may have changed it before they did.
 */
static enum cpu_result lock_two_pages(struct cpu *cpu, gva_t va, unsigned len, enum mmu_idx idx, unsigned *n)
{
    cpu_vm_exclusive_begin(cpu->vm, cpu);
    cpu->bounce_alone = true;
    return pieces_translate(cpu, va, len, MMU_WRITE, idx, cpu->bounce_piece, n);
}

enum cpu_result cpu_access_prepare(struct cpu *cpu, gva_t va, unsigned len, bool read, bool write, bool locked, enum mmu_idx idx,
                                   uint8_t **host)
{
    struct cpu_piece *p = cpu->bounce_piece;
    unsigned n;

    cpu->bounce_state = BOUNCE_NONE;
    enum cpu_result r = pieces_translate(cpu, va, len, write ? MMU_WRITE : MMU_READ, idx, p, &n);
    if (r == CPU_NEXT && locked && n == 2 && p[0].host != NULL && p[1].host != NULL && cpu->vm->cpu_count > 1) {
        r = lock_two_pages(cpu, va, len, idx, &n);
    }
    if (r != CPU_NEXT) {
        cpu_access_abandon(cpu);
        return r;
    }
    if (n == 1 && p[0].host != NULL) {
        /* Code pages too are written directly, so that locked operations stay atomic. */
        cpu->bounce_state = p[0].has_code ? BOUNCE_DIRECT_CODE : BOUNCE_NONE;
        *host = p[0].host;
        return CPU_NEXT;
    }
    cpu->stats[CPU_STAT_SLOW_ACCESSES]++;
    /* The copy is aligned as the original: instructions that check alignment fault alike. */
    uint8_t *buf = cpu->bounce + (va & 63);
    if (read) {
        r = bounce_load(cpu, va, idx, n, buf);
        if (r != CPU_NEXT) {
            cpu_access_abandon(cpu);
            return r;
        }
    }
    cpu->bounce_va = va;
    cpu->bounce_len = len;
    cpu->bounce_state = write ? BOUNCE_COPY : BOUNCE_NONE;
    *host = buf;
    return CPU_NEXT;
}

enum cpu_result cpu_access_commit(struct cpu *cpu)
{
    const struct cpu_piece *p = cpu->bounce_piece;
    uint32_t state = cpu->bounce_state;

    cpu->bounce_state = BOUNCE_NONE;
    if (state == BOUNCE_DIRECT_CODE) {
        cpu_code_written(cpu, p[0].gpa, p[0].len);
        return CPU_NEXT;
    }
    enum cpu_result r = CPU_NEXT;
    if (state == BOUNCE_COPY) {
        r = pieces_store(cpu, p, p[0].len == cpu->bounce_len ? 1 : 2, cpu->bounce + (cpu->bounce_va & 63));
    }
    cpu_access_abandon(cpu);
    return r;
}
