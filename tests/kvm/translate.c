/* SPDX-License-Identifier: MIT */
/* KVM_TRANSLATE (api.rst 4.11) in every paging mode (SDM 3A 4.1.1), with every size of page. */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

#define CR0_PAGING 0x80010033ull
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define CR4_LA57 0x1000u
#define EFER_LONG 0x500u
#define PTE_ALL 7u /* present, writable, user */
#define PTE_PS 0x80u
#define TABLES GPA_FREE /* of 4 KiB, one after the other */
#define TARGET 0x2345000ull

struct mode {
    const char *name;
    uint32_t cr4, efer;
    unsigned levels, index_bits;
    unsigned large[2]; /* levels, from 1, whose entries may map pages; 0: none */
    uint64_t va[4];    /* the last one is left unmapped */
};

static const struct mode modes[] = {
    { "32-bit", 0, 0, 2, 10, { 0 }, { 0x1000, 0x80455123, 0xfffff000, 0x7fc00000 } },
    { "32-bit pse", CR4_PSE, 0, 2, 10, { 2 }, { 0x1000, 0x80455123, 0xfffff000, 0x7fc00000 } },
    { "pae", CR4_PAE, 0, 3, 9, { 2 }, { 0x1000, 0x80455123, 0xfffff000, 0x7fc00000 } },
    { "4-level", CR4_PAE, EFER_LONG, 4, 9, { 2, 3 }, { 0x1000, 0x7ffffffff123, 0xffff812345678000, 0x700000000000 } },
    { "5-level", CR4_PAE | CR4_LA57, EFER_LONG, 5, 9, { 2, 3 }, { 0x1000, 0x00fffffffffff123, 0xff12345678901000, 0x0070000000000000 } },
};

/* Entries of 8 bytes, of 4 with 10 bits of index. */
static uint64_t load_entry(struct machine *m, const struct mode *mode, uint64_t at)
{
    uint64_t e = 0;

    memcpy(&e, m->ram + at, mode->index_bits == 10 ? 4 : 8);
    return e;
}

static void store_entry(struct machine *m, const struct mode *mode, uint64_t at, uint64_t e)
{
    memcpy(m->ram + at, &e, mode->index_bits == 10 ? 4 : 8);
}

/* Maps the page around va by an entry at `level`; where the entry is. */
static uint64_t map(struct machine *m, const struct mode *mode, uint64_t *next, uint64_t va, unsigned level, uint64_t target)
{
    uint64_t table = TABLES;

    for (unsigned l = mode->levels;; l--) {
        bool pdpte = mode->levels == 3 && l == 3;
        uint64_t index = va >> (12 + mode->index_bits * (l - 1)) & (pdpte ? 3 : (1u << mode->index_bits) - 1);
        uint64_t at = table + index * (mode->index_bits == 10 ? 4 : 8);
        if (l == level) {
            store_entry(m, mode, at, target | PTE_ALL | (level > 1 ? PTE_PS : 0));
            return at;
        }
        if (!(load_entry(m, mode, at) & 1)) {
            store_entry(m, mode, at, *next | (pdpte ? 1 : PTE_ALL));
            *next += 4096;
        }
        table = load_entry(m, mode, at) & 0x000ffffffffff000ull;
    }
}

static void give_la57(struct machine *m)
{
    struct kvm_cpuid2 *cpuid = machine_supported_cpuid(m->system);
    bool can = ask_number(m->system, KVM_CHECK_EXTENSION, KVM_CAP_KAGE_LA57) > 0, has = false;

    for (unsigned i = 0; i < cpuid->nent; i++)
        if (cpuid->entries[i].function == 7 && cpuid->entries[i].index == 0) {
            cpuid->entries[i].ecx |= can ? 1u << 16 : 0;
            has = cpuid->entries[i].ecx >> 16 & 1;
        }
    if (!has)
        row_skip("no 5-level paging");
    CHECK_OK(ask(m->vcpu[0], KVM_SET_CPUID2, cpuid));
    free(cpuid);
}

static void set_paging(struct machine *m, const struct mode *mode)
{
    struct kvm_sregs sregs;

    CHECK_OK(ask(m->vcpu[0], KVM_GET_SREGS, &sregs));
    sregs.cr0 = CR0_PAGING;
    sregs.cr3 = TABLES;
    sregs.cr4 = mode->cr4;
    sregs.efer = mode->efer;
    sregs.cs.l = mode->efer != 0;
    sregs.cs.db = mode->efer == 0;
    CHECK_OK(ask(m->vcpu[0], KVM_SET_SREGS, &sregs));
}

static struct kvm_translation translate(struct machine *m, uint64_t va)
{
    struct kvm_translation where = { .linear_address = va };

    CHECK_OK(ask(m->vcpu[0], KVM_TRANSLATE, &where));
    return where;
}

static void check_reaches(struct machine *m, uint64_t va, uint64_t pa)
{
    struct kvm_translation where = translate(m, va);

    CHECK(where.valid);
    CHECK_EQ(where.physical_address, pa);
}

static void run_mode(size_t row)
{
    const struct mode *mode = &modes[row];
    struct machine m = machine_new(0, 1);
    uint64_t next = TABLES + 4096, at = 0;

    machine_cpuid(&m, 0);
    if (mode->cr4 & CR4_LA57)
        give_la57(&m);
    machine_long_mode(&m, 0, GPA_CODE);
    for (unsigned i = 0; i < 3; i++)
        at = map(&m, mode, &next, mode->va[i] & ~0xfffull, 1, TARGET + i * 4096);
    uint64_t large_va[2] = { 0 }, large_bytes[2] = { 0 };
    for (unsigned i = 0; i < COUNT_OF(mode->large) && mode->large[i]; i++) { /* beside the first page */
        large_bytes[i] = 4096ull << (mode->index_bits * (mode->large[i] - 1));
        large_va[i] = (mode->va[0] & ~(large_bytes[i] - 1)) + large_bytes[i];
        map(&m, mode, &next, large_va[i], mode->large[i], large_bytes[i] * 2);
    }
    set_paging(&m, mode); /* PAE's four pointers are read here */

    uint8_t *before = machine_anonymous(RAM_BYTES);
    memcpy(before, m.ram, RAM_BYTES);
    for (unsigned i = 0; i < 3; i++)
        check_reaches(&m, mode->va[i], TARGET + i * 4096 + (mode->va[i] & 0xfff));
    for (unsigned i = 0; i < COUNT_OF(mode->large) && mode->large[i]; i++)
        check_reaches(&m, large_va[i] + large_bytes[i] - 5, large_bytes[i] * 3 - 5);
    CHECK(!translate(&m, mode->va[3]).valid);
    if (implementation & IMPL_KAGE) {
        CHECK(memcmp(before, m.ram, RAM_BYTES) == 0); /* no accessed bit is set on the way */
        CHECK_EQ(translate(&m, mode->va[3]).physical_address, -1);
        CHECK(translate(&m, mode->va[2]).writeable && translate(&m, mode->va[2]).usermode);
        store_entry(&m, mode, at, TARGET | 1); /* read-only, of the supervisor */
        struct kvm_translation where = translate(&m, mode->va[2]);
        CHECK(where.valid && !where.writeable && !where.usermode);
    }
    store_entry(&m, mode, at, TARGET); /* not present: what memory says now counts, not what was cached */
    CHECK(!translate(&m, mode->va[2]).valid);
}

static const char *mode_name(size_t row)
{
    return modes[row].name;
}

const struct theme theme_translate = { "translate", COUNT_OF(modes), mode_name, run_mode };
