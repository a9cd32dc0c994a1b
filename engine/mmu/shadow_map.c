/* SPDX-License-Identifier: MIT */
/*
 * From a walk of the guest's tables to entries of shadow pages. Upper levels give every right: what the guest's upper entries take away is in
 * the role of the page below, and comes to the leaf. A leaf is writable only if the guest's dirty bit is set, so that the write that must set it is seen.
 */
#include <errno.h>
#include <string.h>

#include "mmu/shadow_page.h"

#define TABLE_RIGHTS (X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A | X86_PTE_D)
#define PTE_ADDR 0x000ffffffffff000ull

/* One shadow_map() under way. */
struct mapping {
    struct shadow *s;
    const struct shadow_root *root;
    const struct walk *w;
    gva_t va;
    uint64_t gfn;
    bool paging, global, changed;
    uint32_t access;                        /* of the leaf */
    unsigned level;                         /* of the leaf, 1 to 3 */
    uint64_t gpte[SHADOW_MAX_LEVELS + 1];   /* by level, as memory has them */
};

static uint32_t rights_of(uint32_t map_flags)
{
    return (map_flags & MAP_WRITE ? SHADOW_W : 0) | (map_flags & MAP_USER ? SHADOW_U : 0) | (map_flags & MAP_NX ? 0 : SHADOW_X);
}

/* With the lock held, the entries must still be what the walk has found: whoever changed one and flushed has compared before us. */
static bool walk_holds(struct mapping *m)
{
    const struct walk *w = m->w;
    unsigned bytes = m->root->role.entry4 ? 4 : 8;

    for (unsigned level = w->top; m->paging && level >= w->level; level--) {
        const struct walk_step *step = &w->step[level];
        uint64_t now = 0;
        if (!m->s->ops->read(m->s->owner, step->gpa, &now, bytes) ||
            ((now ^ step->entry) & ~(step->read_only ? X86_PTE_A | X86_PTE_D : 0)) != 0) {
            return false;
        }
        m->gpte[level] = now;
    }
    return true;
}

/*
 * The leaf's rights. With CR0.WP 0 the guest's kernel may write to pages that are read-only, but the actual WP is 1: the page becomes
 * writable for the kernel, and not the user's, who comes by a fault and gets it back read-only. Nor may the kernel then run it under SMEP.
 */
static uint32_t leaf_access(const struct mapping *m, bool write, bool user)
{
    uint32_t access = m->paging ? rights_of(m->w->flags) : SHADOW_ALL;

    if (write && !user && (access & SHADOW_W) == 0 && m->root->role.no_wp) {
        bool was_user = (access & SHADOW_U) != 0;
        access = (access | SHADOW_W) & ~SHADOW_U;
        if (was_user && m->root->role.smep_no_wp) {
            access &= ~SHADOW_X;
        }
    }
    return access;
}

/* As large as guest, slot and host allow, and no table in it is write-protected. */
static unsigned leaf_level(const struct mapping *m, const struct shadow_frame *frame)
{
    unsigned level = frame->max_level, most = m->paging ? m->w->level : 3;

    if (!m->root->role.has_1g && most > 2) {
        most = 2;
    }
    level = level < most ? level : most;
    for (; level > 1; level--) {
        const struct frame_entry *f = frame_find(m->s, m->gfn, level, false);
        if (f == NULL || f->closed == 0) {
            break;
        }
    }
    return level;
}

/* The page that an entry of level `level` + 1 in page `above` must lead to, by gfn and role. */
static union shadow_role child_role(const struct mapping *m, const struct shadow_page *above, uint64_t *gfn)
{
    unsigned at = above->role.level; /* of the entry */
    union shadow_role role = m->root->role;

    role.level = (at - 1) & 7;
    role.own_root = 0;
    role.quadrant = 0;
    if (!m->paging || at <= m->w->level) { /* pieces of a large guest page */
        *gfn = m->gfn & ~(frames_at(at) - 1);
        return (union shadow_role){.level = role.level, .direct = 1, .access = m->access & 7, .pge = m->global};
    }
    if (above->role.own_root && at == 4) {
        *gfn = 0;
        role.own_root = 1;
        return role;
    }
    if (above->role.own_root) { /* PDPTEs give no rights, and a page directory of 32-bit paging is the root */
        *gfn = (role.pae ? m->root->pdpte[m->va >> 30 & 3] & PTE_ADDR : m->root->cr3 & 0xfffff000ull) >> KAGE_PAGE_SHIFT;
        role.access = SHADOW_ALL;
        role.quadrant = role.entry4 ? m->va >> 30 & 3 : 0;
        return role;
    }
    const struct walk_step *step = &m->w->step[at];
    *gfn = (step->entry & (role.entry4 ? 0xfffff000ull : PTE_ADDR)) >> KAGE_PAGE_SHIFT;
    role.access = rights_of(step->flags) & 7;
    role.quadrant = role.entry4 ? m->va >> 21 & 1 : 0;
    return role;
}

static struct shadow_page *child_get(struct mapping *m, struct shadow_page *p, uint64_t gpte, int *err)
{
    struct shadow *s = m->s;
    unsigned i = va_index(m->va, p->role.level);
    uint64_t e = entry_get(p, i), gfn;
    union shadow_role role = child_role(m, p, &gfn);

    *err = 0;
    if (e & X86_PTE_P) {
        struct shadow_page *child = entry_is_leaf(e, p->role.level) ? NULL : entry_child(e);
        if (child != NULL && child->gfn == gfn && child->role.word == role.word) {
            p->gpte[i] = gpte;
            return child;
        }
        entry_drop(s, p, i);
    }
    struct shadow_page *child = role.own_root ? NULL : page_find(s, gfn, role);
    if (child != NULL) {
        sync_page(s, child); /* its frame may have been anything since it was last linked to */
    } else {
        child = page_make(s, gfn, role);
    }
    m->changed = true;
    *err = entry_set(s, p, i, (uint64_t)(uintptr_t)child->table | TABLE_RIGHTS, gpte);
    return child;
}

static uint64_t leaf_entry(const struct mapping *m, const struct shadow_frame *frame, bool mmio)
{
    uint64_t e = X86_PTE_P | X86_PTE_A | X86_PTE_D;
    bool dirty = !m->paging || (m->w->flags & MAP_DIRTY) != 0 || m->w->step[m->w->level].read_only;
    const struct frame_entry *f = frame_find(m->s, m->gfn, m->level, false);

    e |= (m->access & SHADOW_U) != 0 ? X86_PTE_U : 0;
    e |= (m->access & SHADOW_X) != 0 ? 0 : X86_PTE_NX;
    e |= m->global ? X86_PTE_G : 0;
    bool w = (m->access & SHADOW_W) != 0 && dirty;
    if (mmio) {
        return e | (w ? X86_PTE_W : 0) | SHADOW_PTE_MMIO | m->gfn << KAGE_PAGE_SHIFT;
    }
    uint64_t inside = (m->gfn & (frames_at(m->level) - 1)) << KAGE_PAGE_SHIFT;
    e |= ((uint64_t)(uintptr_t)frame->host - inside) | (m->level > 1 ? X86_PTE_PS : 0);
    if (frame->read_only) {
        return e | SHADOW_PTE_ROM | (w ? X86_PTE_W : 0);
    }
    return e | (w && frame->may_write && (f == NULL || f->closed == 0) ? X86_PTE_W : 0);
}

/* Puts the leaf where another or none may be. */
static int leaf_put(const struct mapping *m, struct shadow_page *p, uint64_t e, uint64_t gpte, bool *spurious)
{
    unsigned i = va_index(m->va, p->role.level);
    uint64_t was = entry_get(p, i);

    if (was == e && p->gpte[i] == gpte) {
        *spurious = !m->changed;
        return 0;
    }
    if (was & X86_PTE_P) {
        bool same_place = entry_is_leaf(was, p->role.level) && entry_is_mmio(was) == entry_is_mmio(e) &&
                          ((was ^ e) & (SHADOW_PTE_ADDR | X86_PTE_PS)) == 0 && p->gpte[i] == gpte;
        if (same_place) {
            entry_put(p, i, e);
            return 0;
        }
        entry_drop(m->s, p, i);
    }
    return entry_set(m->s, p, i, e, gpte);
}

int shadow_map(struct shadow *s, struct shadow_vcpu *vcpu, gva_t va, const struct walk *w, bool write, bool user, bool *spurious)
{
    struct mapping m = {.s = s, .root = &vcpu->root[0], .w = w, .va = va, .gfn = w->gpa >> KAGE_PAGE_SHIFT, .paging = w->top != 0};
    struct shadow_frame frame = {0};

    *spurious = false;
    if (m.root->page == NULL || m.root->page->use != PAGE_LIVE) {
        return 0; /* slots have changed: the vCPU gets a new root before it runs */
    }
    if (m.root->page->role.own_root && !m.root->role.own_root) {
        page_zap(s, m.root->page); /* the root was not in memory, and is now */
        return 0;
    }
    int err = pages_reserve(s, SHADOW_MAX_LEVELS);
    if (err != 0) {
        return err;
    }
    if (!walk_holds(&m)) {
        return 0;
    }
    err = s->ops->frame(s->owner, m.gfn, write, &frame);
    bool mmio = err == -ENOENT;
    if (err != 0 && !mmio) {
        return err;
    }
    if (write && !mmio && !frame.read_only) {
        sync_open_frame(s, m.gfn);
    }
    sync_missed(s, m.root->page, va);
    m.global = m.paging && (w->flags & MAP_GLOBAL) != 0;
    m.access = leaf_access(&m, write, user);
    if (m.paging && (w->flags & MAP_DIRTY) == 0 && !w->step[w->level].read_only) {
        m.access &= ~SHADOW_W; /* also in the role of pieces */
    }
    m.level = mmio ? 1 : leaf_level(&m, &frame);
    err = 0;

    struct shadow_page *p = m.root->page;
    for (; p->role.level > m.level && err == 0; page_touch(s, p)) {
        unsigned level = p->role.level;
        p = child_get(&m, p, m.paging && !p->role.direct && !p->role.own_root ? m.gpte[level] : 0, &err);
    }
    if (err != 0) {
        return err;
    }
    if (p->role.direct && m.paging) {
        unsigned bit = (unsigned)(va >> 21) & 4095, bit_1g = (unsigned)(va >> 30) & 4095;
        s->pieces[bit / 64] |= 1ull << (bit % 64);
        if (w->page_shift == 22) { /* the other half of 4 MiB */
            s->pieces[bit / 64] |= 1ull << ((bit ^ 1) % 64);
        }
        if (w->level == 3) { /* INVLPG of any address of it flushes all of it */
            s->pieces_1g[bit_1g / 64] |= 1ull << (bit_1g % 64);
        }
    }
    return leaf_put(&m, p, leaf_entry(&m, &frame, mmio), p->role.direct ? 0 : m.gpte[p->role.level], spurious);
}
