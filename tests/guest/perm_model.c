/* SPDX-License-Identifier: MIT */
/*
 * The rules of SDM 3A chapter 4 for one access: reserved bits (4.3, 4.4.2, 4.5.4), rights (4.6.1), error code (4.7), accessed and
 * dirty flags (4.8). It knows nothing of the tables in memory.
 */
#include "perm.h"

static uint64_t bits(unsigned high, unsigned low)
{
    return high < low ? 0 : (~0ull >> (63 - high)) & (~0ull << low);
}

bool perm_is_leaf(const struct perm_format *f, const struct perm_context *c, unsigned level, uint64_t entry)
{
    if (level == 1)
        return true;
    if (!(entry & E_PS))
        return false;
    return level == 2 ? f->wide || c->pse : level == 3 && f->ia32e && f->pages_1g;
}

/* Which of the entry's bits must be 0 and are not. */
uint64_t perm_reserved(const struct perm_format *f, const struct perm_context *c, unsigned level, uint64_t entry)
{
    const bool leaf = perm_is_leaf(f, c, level, entry);
    uint64_t mask = 0;
    if (!f->wide) { /* table 4-4: the 4 MiB page has its address bits 39:32 in 20:13 */
        if (leaf && level == 2)
            mask = f->maxphyaddr < 40 ? bits(21, f->maxphyaddr - 19) : 1u << 21;
        return entry & mask;
    }
    mask = bits(51, f->maxphyaddr);
    if (!f->ia32e)
        mask |= bits(62, 52); /* table 4-11 */
    if (!c->nxe)
        mask |= E_NX;
    if (level > 2 && !leaf)
        mask |= E_PS; /* tables 4-14, 4-15; 4-17 where there are no 1 GiB pages */
    if (level > 3 && f->amd)
        mask |= E_G;
    if (level == 2 && leaf)
        mask |= bits(20, 13);
    if (level == 3 && leaf)
        mask |= bits(29, 13);
    return entry & mask;
}

/* Rights of an access that found its page (4.6.1). user, writable: in every entry. no_execute: in any. */
static bool allowed(const struct perm_context *c, struct perm_access a, enum perm_kind kind, bool user, bool writable, bool no_execute)
{
    const bool implicit = a.kind == IMPLICIT_READ || a.kind == IMPLICIT_WRITE;
    if (a.user && !implicit) /* user-mode access */
        return user && (kind != WRITE || writable) && (kind != FETCH || !no_execute);
    if (kind == FETCH)
        return !no_execute && !(user && c->smep);
    if (user && c->smap && (implicit || !c->ac))
        return false;
    return kind == READ || writable || !c->wp;
}

static struct perm_outcome walk(const struct perm_format *f, const struct perm_context *c, struct perm_access a, enum perm_kind kind,
                                const uint64_t entries[LEVELS_MAX + 1])
{
    const bool implicit = a.kind == IMPLICIT_READ || a.kind == IMPLICIT_WRITE;
    /* The I bit is there only with CR4.SMEP, or with PAE and EFER.NXE. */
    const int error = (kind == WRITE ? ERR_W : 0) | (a.user && !implicit ? ERR_U : 0) |
                      (kind == FETCH && (c->smep || (f->wide && c->nxe)) ? ERR_I : 0);
    struct perm_outcome out = {.error = -1};
    bool user = true, writable = true, no_execute = false;

    for (unsigned level = f->levels; level >= 1; level--) {
        const uint64_t e = entries[level];
        if (!(e & E_P)) {
            out.error = error;
            return out;
        }
        if (f->wide && !f->ia32e && level == 3)
            continue; /* a PDPTE register of PAE paging: no rights, no accessed flag */
        if (perm_reserved(f, c, level, e)) {
            out.error = error | ERR_P | ERR_RSVD;
            return out;
        }
        out.may_accessed |= 1u << level;
        user &= (e & E_U) != 0;
        writable &= (e & E_W) != 0;
        no_execute |= f->wide && (e & E_NX) != 0;
        if (perm_is_leaf(f, c, level, e)) {
            out.leaf = level;
            break;
        }
    }
    if (!allowed(c, a, kind, user, writable, no_execute)) {
        out.error = error | ERR_P;
        return out;
    }
    out.accessed = out.may_accessed;
    out.dirty = kind == WRITE;
    return out;
}

struct perm_outcome perm_model(const struct perm_format *f, const struct perm_context *c, struct perm_access a,
                               const uint64_t entries[LEVELS_MAX + 1])
{
    switch (a.kind) {
    case IMPLICIT_READ:
        return walk(f, c, a, READ, entries);
    case IMPLICIT_WRITE: {
        struct perm_outcome read = walk(f, c, a, READ, entries);
        if (read.error >= 0)
            return read;
        struct perm_outcome write = walk(f, c, a, WRITE, entries);
        write.accessed |= read.accessed;
        return write;
    }
    case MODIFY: /* it is checked as a write before it reads */
        return walk(f, c, a, WRITE, entries);
    default:
        return walk(f, c, a, a.kind, entries);
    }
}
