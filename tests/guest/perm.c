/* SPDX-License-Identifier: MIT */
/*
 * Every combination of flags in the entry of a page and in one entry above it, of each size and at each level, for every setting of
 * CR0.WP, CR4.SMEP, CR4.SMAP, EFLAGS.AC, EFER.NXE (CR4.PSE), either CPL and every kind of access: fault or none, error code, CR2, the
 * accessed and dirty flags afterwards, and no other bit changed. Then every single bit of every entry. A stride above 1 takes a
 * sample, another one for each setting.
 */
#include "perm.h"

void print(const char *fmt, ...);
void check(bool ok, const char *name);
void skip(const char *name, const char *why);

#define OPEN (E_P | E_W | E_U)
enum { OFFSET = 0x120 }; /* of the access in its page: CR2 has it */

static struct perm_format format;
static struct perm_context context;
static uint64_t count; /* accesses */
static bool no_modify; /* see perm_run() */
static unsigned turn;  /* which sample of the combinations comes next */

static void store_entry(unsigned level, uint64_t e)
{
    if (format.wide)
        *(volatile uint64_t *)format.entry[level] = e;
    else
        *(volatile uint32_t *)format.entry[level] = (uint32_t)e;
}

static uint64_t load_entry(unsigned level)
{
    return format.wide ? *(volatile uint64_t *)format.entry[level] : *(volatile uint32_t *)format.entry[level];
}

static void print_failure(const char *what, struct perm_access a, const uint64_t *before, const struct perm_outcome *expected, int error)
{
    static const char *const names[PERM_KINDS] = {"read", "write", "modify", "fetch", "implicit read", "implicit write"};
    print("%s: CPL %u %s, WP %u SMEP %u SMAP %u AC %u NXE %u PSE %u:", what, a.user ? 3u : 0u, names[a.kind], context.wp, context.smep,
          context.smap, context.ac, context.nxe, context.pse);
    for (unsigned level = format.levels; level >= 1; level--) {
        const uint64_t now = load_entry(level);
        print(" %x_%x>%x_%x", (uint32_t)(before[level] >> 32), (uint32_t)before[level], (uint32_t)(now >> 32), (uint32_t)now);
    }
    print(" cr2 %x_%x error %x expected %x, A in levels %x to %x D %u\n", (uint32_t)(perm_cr2 >> 32), (uint32_t)perm_cr2, (uint32_t)error,
          (uint32_t)expected->error, expected->accessed, expected->may_accessed, expected->dirty);
}

/* A and D as they should be, and nothing else changed. */
static bool entries_good(const uint64_t *before, const struct perm_outcome *o)
{
    for (unsigned level = 1; level <= format.levels; level++) {
        const uint64_t changed = load_entry(level) ^ before[level];
        uint64_t must = o->accessed >> level & 1 ? E_A : 0, may = o->may_accessed >> level & 1 ? E_A : 0;
        if (o->dirty && level == o->leaf)
            must |= E_D, may |= E_D;
        /* What is there already needs not be set; nothing is ever cleared. */
        if ((changed & ~may) || (changed & before[level]) || (must & ~(before[level] | changed)))
            return false;
    }
    return true;
}

/* The access through these entries; the address is one that a page of any size maps to the same frame. */
static bool try_access(struct perm_access a, const uint64_t *entries, unsigned leaf, bool whole_flush, const char *what, unsigned *bad)
{
    const uint64_t va = format.va[leaf] + (a.kind == FETCH ? format.frame[1] - format.frame[0] : 0) + OFFSET;
    const bool implicit = a.kind == IMPLICIT_READ || a.kind == IMPLICIT_WRITE;
    volatile uint64_t *const descriptor = (volatile uint64_t *)(uintptr_t)(format.frame[0] + OFFSET);
    uint64_t before[LEVELS_MAX + 1];
    for (unsigned level = 1; level <= format.levels; level++) {
        before[level] = entries[level];
        /* A 4 KiB page holds either frame by its own entry. */
        if (level == 1 && leaf == 1 && a.kind == FETCH)
            before[1] += format.frame[1] - format.frame[0];
        store_entry(level, before[level]);
    }
    const uint64_t address = leaf == 1 ? format.va[1] + OFFSET : va;
    if (implicit)
        *descriptor = perm_descriptor[a.kind == IMPLICIT_WRITE];
    if (whole_flush)
        perm_flush_all();
    perm_flush(address);
    const struct perm_outcome expected = perm_model(&format, &context, a, before);
    perm_cr2 = 0;
    const int error = perm_do(a, context.ac, address);
    count++;
    bool ok = error == expected.error && entries_good(before, &expected);
    if (error >= 0 && ok)
        ok = implicit ? perm_cr2 - address < 8 : perm_cr2 == address;
    if (ok && a.kind == IMPLICIT_WRITE && error < 0)
        ok = *descriptor == perm_descriptor[0];
    if (!ok && ++*bad <= 3)
        print_failure(what, a, before, &expected, error);
    return ok;
}

/* Entries that allow everything, with a page at `leaf`. */
static void open_entries(uint64_t *entries, unsigned leaf)
{
    for (unsigned level = format.levels; level >= 1; level--) {
        entries[level] = format.next[level] | OPEN;
        if (level == leaf && leaf > 1)
            entries[level] = (format.frame[0] & ~((1ull << (format.wide ? 3 + 9 * leaf : 22)) - 1)) | OPEN | E_PS;
        if (format.wide && !format.ia32e && level == 3)
            entries[level] = format.next[level] | E_P;
    }
}

/* A bit that is reserved in this entry, if there is one; else none. */
static uint64_t some_reserved(unsigned level, unsigned leaf)
{
    if (format.wide)
        return format.maxphyaddr < 52 ? 1ull << 51 : level == leaf && leaf > 1 ? 1u << 13 : 0;
    return level == leaf && leaf > 1 ? 1u << 21 : 0;
}

/* Bits that may be anything: the ones that software has, and D and G in an entry that is no page. */
static uint64_t ignored_bits(unsigned level, unsigned leaf)
{
    return 0xe00 | (format.ia32e ? 0x7full << 52 : 0) | (level == leaf ? 0 : level > 3 && format.amd ? E_D : E_D | E_G);
}

/* Flags of an entry from the bits of a number. */
static uint64_t flags_of(unsigned n, const uint64_t *table, unsigned table_count)
{
    uint64_t flags = 0;
    for (unsigned i = 0; i < table_count; i++)
        if (n >> i & 1)
            flags |= table[i];
    return flags;
}

static const struct perm_access accesses[] = {
    {false, READ}, {false, WRITE}, {false, MODIFY}, {false, FETCH}, {false, IMPLICIT_READ}, {false, IMPLICIT_WRITE},
    {true, READ},  {true, WRITE},  {true, MODIFY},  {true, FETCH},  {true, IMPLICIT_READ},  {true, IMPLICIT_WRITE},
};
enum { ACCESSES = sizeof accesses / sizeof accesses[0] };

static void all_accesses(const uint64_t *entries, unsigned leaf, bool whole_flush, const char *what, unsigned *bad)
{
    for (unsigned i = 0; i < ACCESSES; i++)
        if (!(no_modify && accesses[i].kind == MODIFY))
            try_access(accesses[i], entries, leaf, whole_flush, what, bad);
}

/* Every flag of the page's entry, every flag of one entry above it. upper 0: none. */
static void pair(unsigned leaf, unsigned upper, unsigned stride, unsigned start, const char *what, unsigned *bad)
{
    const bool pdpte = format.wide && !format.ia32e && upper == 3;
    const uint64_t low[] = {E_P, E_W, E_U, E_A, E_D, E_G, leaf == 1 ? E_PS : 1u << 12, format.wide ? E_NX : 0, some_reserved(leaf, leaf)};
    const uint64_t high[] = {E_P, E_W, E_U, E_A, E_PS, ignored_bits(upper, leaf), format.wide ? E_NX : 0, some_reserved(upper, leaf)};
    enum { LOW = sizeof low / sizeof low[0], HIGH = sizeof high / sizeof high[0] };
    const unsigned high_bits = !upper ? 0 : pdpte ? 1 : HIGH;
    uint64_t open[LEVELS_MAX + 1], entries[LEVELS_MAX + 1];

    open_entries(open, leaf);
    for (unsigned level = 1; level <= format.levels; level++)
        entries[level] = open[level];
    for (unsigned n = start; n < 1u << (LOW + high_bits); n += stride) {
        entries[leaf] = (open[leaf] & ~OPEN) | flags_of(n & ((1u << LOW) - 1), low, LOW);
        if (upper)
            entries[upper] = (open[upper] & ~OPEN) | flags_of(n >> LOW, high, high_bits);
        all_accesses(entries, leaf, pdpte, what, bad);
    }
}

/* Each single bit of each entry turned over, but for those of its address. */
static void single_bits(unsigned leaf, const char *what, unsigned *bad)
{
    uint64_t open[LEVELS_MAX + 1], entries[LEVELS_MAX + 1];
    open_entries(open, leaf);
    for (unsigned level = leaf; level <= format.levels; level++) {
        if (format.wide && !format.ia32e && level == 3)
            continue; /* MOV to CR3 looks at those */
        for (unsigned bit = 0; bit < (format.wide ? 64u : 32u); bit++) {
            for (unsigned l = 1; l <= format.levels; l++)
                entries[l] = open[l];
            entries[level] ^= 1ull << bit;
            const uint64_t address_bits = format.wide ? (1ull << format.maxphyaddr) - 0x1000 : 0xfffff000u;
            const bool pat = bit == 12 && level == leaf && leaf > 1;
            if (level == leaf && leaf > 1 && 1ull << bit == E_PS)
                continue; /* it would lead to a table */
            if ((1ull << bit & address_bits) && !pat && !perm_reserved(&format, &context, level, entries[level]))
                continue;
            all_accesses(entries, leaf, false, what, bad);
        }
    }
}

static bool next_context(unsigned n, struct perm_context *c)
{
    *c = (struct perm_context){n & 1, n & 2, n & 4, n & 8, n & 16, n & 32};
    return perm_has_context(&format, c);
}

static void leaf_name(char *out, unsigned leaf, unsigned upper)
{
    const char *const sizes[] = {"", "4k", format.wide ? "2m" : "4m", "1g"};
    const char *parts[] = {format.name, "-", sizes[leaf]};
    for (unsigned i = 0; i < 3; i++)
        for (const char *s = parts[i]; *s; s++)
            *out++ = *s;
    if (upper) {
        for (const char *s = "-below-level-"; *s; s++)
            *out++ = *s;
        *out++ = (char)('0' + upper);
    }
    *out = 0;
}

/* One name, all contexts. upper 0: the single bits. */
static void run_part(unsigned leaf, unsigned upper, unsigned stride)
{
    unsigned settings = 0;
    char name[48];
    unsigned bad = 0;
    leaf_name(name, leaf, upper);
    for (unsigned n = 0; n < 64; n++) {
        if (!next_context(n, &context))
            continue;
        if (leaf > 1 && !format.wide && !context.pse)
            continue; /* there are no large pages */
        perm_set_context(&context);
        if (upper || leaf == format.levels)
            pair(leaf, upper, stride, turn++ % stride, name, &bad);
        if (!upper && (stride < 0x1000 || settings++ % 16 == leaf))
            single_bits(leaf, name, &bad);
    }
    if (bad)
        print("%s: %u of the accesses were wrong\n", name, bad);
    check(!bad, name);
}

void perm_run(unsigned formats, unsigned stride, unsigned start, bool kvm_kinds)
{
    no_modify = kvm_kinds;
    turn = start;
    if (!stride)
        stride = 1;
    for (unsigned i = 0; i < perm_format_count; i++) {
        if (!(formats >> i & 1))
            continue;
        format = (struct perm_format){0};
        const char *why = perm_enter(i, &format);
        if (why) {
            skip(format.name, why);
            continue;
        }
        count = 0;
        const unsigned largest = format.ia32e && format.pages_1g ? 3 : 2;
        for (unsigned leaf = 1; leaf <= largest && leaf <= format.levels; leaf++) {
            run_part(leaf, 0, stride);
            for (unsigned upper = leaf + 1; upper <= format.levels; upper++)
                run_part(leaf, upper, stride);
        }
        const struct perm_context off = {.wp = true};
        perm_set_context(&off);
        perm_leave(i);
        print("%s: %u accesses\n", format.name, (uint32_t)count);
    }
}
