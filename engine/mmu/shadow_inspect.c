/* SPDX-License-Identifier: MIT */
/*
 * Looking at shadow pages for inspect.h: a walk in its form, and how much of guest memory they map. With the lock of shadow.h's functions.
 */
#include "mmu/inspect.h"
#include "mmu/shadow_page.h"

_Static_assert(SHADOW_MAX_LEVELS <= MMU_STEPS_MAX, "a walk of shadow tables fits");

unsigned shadow_mmu_steps(const struct shadow *shadow, const struct shadow_vcpu *vcpu, gva_t va, struct mmu_step steps[MMU_STEPS_MAX])
{
    struct shadow_step walked[SHADOW_MAX_LEVELS];
    unsigned count = shadow_walk_steps(shadow, vcpu, va, walked);
    bool w = true, x = true, u = true;

    for (unsigned i = 0; i < count; i++) {
        uint64_t e = walked[i].entry;
        bool present = (e & X86_PTE_P) != 0, mmio = present && entry_is_mmio(e);
        w = w && present && (e & X86_PTE_W) != 0;
        u = u && present && (e & X86_PTE_U) != 0;
        x = x && present && (e & X86_PTE_NX) == 0;
        steps[i] = (struct mmu_step){
            .table = walked[i].table, .entry = e, .host = (const uint64_t *)(uintptr_t)walked[i].table + walked[i].index,
            .level = walked[i].level, .index = walked[i].index, .read = true, .present = present, .mmio = mmio,
            .leaf = present && !mmio && entry_is_leaf(e, walked[i].level), .r = present, .w = w, .x = x, .u = u,
        };
    }
    return count;
}

void shadow_count_frames(const struct shadow *shadow, uint64_t gfn, uint64_t frames, uint64_t pages[3])
{
    memset(pages, 0, 3 * sizeof(*pages));
    for (unsigned bucket = 0; bucket < CHUNK_BUCKETS; bucket++) {
        for (const struct frame_chunk *c = shadow->chunks[bucket]; c != NULL; c = c->next) {
            unsigned level = c->key & 3;
            uint64_t first = (c->key >> 2) << (9 * level), size = frames_at(level);
            if (level == 0 || level > FRAME_LEVELS || first >= gfn + frames || first + 512 * size <= gfn) {
                continue;
            }
            for (unsigned i = 0; i < KAGE_ARRAY_SIZE(c->frames); i++) {
                uint64_t at = first + i * size;
                pages[level - 1] += c->frames[i].rmap != 0 && at >= gfn && at < gfn + frames;
            }
        }
    }
}
