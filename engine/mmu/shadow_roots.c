/* SPDX-License-Identifier: MIT */
/*
 * The roots of a vCPU: one is current, those before it are kept, so that a switch between a few address spaces finds its tables (and under
 * PCIDs what the TLB holds) as it left them. A format with fewer than four levels gets upper ones that are the vCPU's own.
 */
#include <errno.h>
#include <string.h>

#include "mmu/shadow_page.h"

#define PTE_ADDR 0x000ffffffffff000ull

static union shadow_role role_of(const struct paging_regime *r, bool has_1g)
{
    union shadow_role role = {.level = 4, .has_1g = has_1g};
    bool wp = (r->cr0 & X86_CR0_WP) != 0, long_mode = (r->efer & X86_EFER_LMA) != 0;

    if ((r->cr0 & X86_CR0_PG) == 0) {
        role.direct = 1;
        role.access = SHADOW_ALL;
        return role;
    }
    role.access = SHADOW_ALL;
    role.pge = (r->cr4 & X86_CR4_PGE) != 0;
    role.no_wp = !wp;
    role.smep_no_wp = !wp && (r->cr4 & X86_CR4_SMEP) != 0;
    role.smap_no_wp = !wp && (r->cr4 & X86_CR4_SMAP) != 0;
    if (long_mode) {
        role.nx = (r->efer & X86_EFER_NX) != 0;
        role.levels5 = (r->cr4 & X86_CR4_LA57) != 0;
        role.level = role.levels5 ? 5 : 4;
    } else if (r->cr4 & X86_CR4_PAE) {
        role.nx = (r->efer & X86_EFER_NX) != 0;
        role.pae = role.own_root = 1;
    } else {
        role.entry4 = role.own_root = 1;
        role.pse = (r->cr4 & X86_CR4_PSE) != 0;
    }
    return role;
}

static bool same_root(const struct shadow_root *root, const struct paging_regime *r, union shadow_role role)
{
    return root->page != NULL && root->page->use == PAGE_LIVE && root->role.word == role.word && root->cr3 == r->cr3 &&
           (!role.pae || memcmp(root->pdpte, r->pdpte, sizeof(root->pdpte)) == 0);
}

bool shadow_has_root(const struct shadow_vcpu *vcpu, const struct paging_regime *r, bool has_1g)
{
    return same_root(&vcpu->root[0], r, role_of(r, has_1g));
}

static void root_clear(struct shadow *s, struct shadow_root *root)
{
    if (root->page != NULL) {
        page_unpin(s, root->page);
    }
    root->page = NULL;
}

/* Moves slot i to the front; what was there before it is one further back. */
static void to_front(struct shadow_vcpu *vcpu, unsigned i)
{
    struct shadow_root root = vcpu->root[i];

    memmove(&vcpu->root[1], &vcpu->root[0], i * sizeof(root));
    vcpu->root[0] = root;
}

static struct shadow_page *root_page(struct shadow *s, const struct paging_regime *r, union shadow_role role)
{
    struct shadow_frame frame;
    uint64_t gfn = role.direct || role.own_root ? 0 : (r->cr3 & PTE_ADDR) >> KAGE_PAGE_SHIFT;

    if (!role.direct && !role.own_root && s->ops->frame(s->owner, gfn, false, &frame) != 0) {
        role.own_root = 1; /* a root that is not in memory: every walk of it is refused, and it stays empty */
    }
    struct shadow_page *p = role.own_root ? NULL : page_find(s, gfn, role);
    if (p == NULL) {
        return page_make(s, gfn, role);
    }
    sync_page(s, p);
    page_touch(s, p);
    return p;
}

int shadow_set_root(struct shadow *s, struct shadow_vcpu *vcpu, const struct paging_regime *r, bool has_1g, bool *kept)
{
    union shadow_role role = role_of(r, has_1g);

    *kept = true;
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        if (same_root(&vcpu->root[i], r, role)) {
            to_front(vcpu, i);
            page_touch(s, vcpu->root[0].page);
            return 0;
        }
    }
    *kept = false;
    int err = pages_reserve(s, 1);
    if (err != 0) {
        return err;
    }
    unsigned last = SHADOW_ROOTS - 1;
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) { /* rather one that is good for nothing */
        if (vcpu->root[i].page == NULL || vcpu->root[i].page->use != PAGE_LIVE) {
            last = i;
        }
    }
    struct shadow_page *p = root_page(s, r, role);
    page_pin(p);
    root_clear(s, &vcpu->root[last]);
    to_front(vcpu, last);
    vcpu->root[0] = (struct shadow_root){.page = p, .cr3 = r->cr3, .role = role};
    if (role.pae) {
        memcpy(vcpu->root[0].pdpte, r->pdpte, sizeof(vcpu->root[0].pdpte));
    }
    return 0;
}

uint64_t shadow_root_address(const struct shadow_vcpu *vcpu)
{
    return vcpu->root[0].page != NULL ? (uint64_t)(uintptr_t)vcpu->root[0].page->table : 0;
}

void shadow_drop_roots(struct shadow *s, struct shadow_vcpu *vcpu)
{
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        root_clear(s, &vcpu->root[i]);
    }
}
