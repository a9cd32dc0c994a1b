/* SPDX-License-Identifier: MIT */
/* What SDM 3A 4.10 allows an access to see, given the versions of its entries that may be cached and those that are in memory. */
#include "coherence.h"

/* Does the translation by these entries, the last one a page, give what was seen? */
static bool explains(const struct cpu *c, const struct slot *s, enum kind kind, bool user, uint64_t upper, uint64_t leaf, unsigned level,
                     const struct seen *seen)
{
    const uint64_t both = upper & leaf, error = (kind == WRITE ? PF_W : 0) | (user ? PF_U : 0) | (kind == FETCH ? PF_I : 0);
    const bool denied = (user && !(both & PTE_U)) || (kind == WRITE && !(both & PTE_W)) || (kind == FETCH && ((upper | leaf) & PTE_NX));
    if (denied)
        return seen->error == (error | PF_P);
    if (seen->error != ~0ull)
        return false;
    const uint64_t frame = (leaf & PTE_ADDR & ~(leaf_size(level) - 1)) + (s->sub & (leaf_size(level) - 1));
    if (kind == WRITE)
        return *(volatile uint64_t *)(frame + 64 * (c->index + 1)) == seen->token;
    return seen->value == frame >> 12;
}

static uint64_t absent_error(enum kind kind, bool user)
{
    return (kind == WRITE ? PF_W : 0) | (user ? PF_U : 0) | (kind == FETCH ? PF_I : 0);
}

static bool lower_explains(const struct cpu *c, const struct slot *s, enum kind kind, bool user, uint64_t upper, unsigned which,
                           const struct window *w, const struct seen *seen)
{
    const struct cell *cell = s->lower[which];
    for (unsigned j = w->floor; j <= w->after; j++) {
        const uint64_t e = cell->log[j % LOG];
        if (!(e & PTE_P)) {
            if (j >= w->before && seen->error == absent_error(kind, user))
                return true;
            continue;
        }
        if (explains(c, s, kind, user, upper, e, 1, seen))
            return true;
    }
    return false;
}

bool is_allowed(const struct cpu *c, const struct slot *s, enum kind kind, bool user, const struct window w[PER_SLOT],
                const struct seen *seen)
{
    if (!s->upper)
        return lower_explains(c, s, kind, user, PTE_W | PTE_U, 0, &w[1], seen);
    for (unsigned i = w[0].floor; i <= w[0].after; i++) {
        const uint64_t e = s->upper->log[i % LOG];
        if (!(e & PTE_P)) {
            if (i >= w[0].before && seen->error == absent_error(kind, user))
                return true;
        } else if (e & PTE_PS) {
            if (explains(c, s, kind, user, PTE_W | PTE_U, e, s->upper->level, seen))
                return true;
        } else if (s->fixed) {
            if (explains(c, s, kind, user, e, s->fixed, 2, seen))
                return true;
        } else {
            const unsigned which = (e & PTE_ADDR) == s->upper->tables[1];
            if (lower_explains(c, s, kind, user, e, which, &w[1 + which], seen))
                return true;
        }
    }
    return false;
}

/* With one translation possible, its entries have the flags that the access sets, and are otherwise what was written. */
bool flags_good(const struct slot *s, enum kind kind, const struct window w[PER_SLOT])
{
    const uint64_t upper = s->upper ? s->upper->log[w[0].after % LOG] : 0;
    const bool has_leaf = !s->upper || (!(upper & PTE_PS) && !s->fixed);
    const unsigned which = s->upper && (upper & PTE_ADDR) == s->upper->tables[1] ? 2 : 1;
    if (s->upper) {
        if (w[0].floor != w[0].after)
            return true;
        const uint64_t now = *s->upper->entry, must = PTE_A | (kind == WRITE && (upper & PTE_PS) ? PTE_D : 0);
        if (s->upper->started == w[0].after && ((now & must) != must || ((now ^ upper) & ~LEAF_BITS)))
            return false;
    }
    if (has_leaf && w[which].floor == w[which].after) {
        const struct cell *cell = s->lower[which - 1];
        const uint64_t e = cell->log[w[which].after % LOG], now = *cell->entry, must = PTE_A | (kind == WRITE ? PTE_D : 0);
        if (cell->started == w[which].after && ((now & must) != must || ((now ^ e) & ~LEAF_BITS)))
            return false;
    }
    return true;
}
