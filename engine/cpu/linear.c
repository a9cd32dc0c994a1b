/* SPDX-License-Identifier: MIT */
/*
 * Segmented addresses: offset in a segment to linear address, with the checks of type and limit
 * (SDM 3A 5.3, 5.5). What holds for all of a segment at once is worked out when a segment changes:
 * flatness, which is part of the block's mode, and the ranges that emitted code compares with.
 */
#include "cpu/sys.h"

#define AR_CODE 8u
#define AR_EXPAND_DOWN 4u /* of data */
#define AR_RW 2u          /* writable data, readable code */

static bool is_protected(const struct cpu *cpu)
{
    return !cpu_in_real_mode(cpu) && !cpu_in_v86_mode(cpu);
}

/* Real and virtual-8086 mode know no types (SDM 3A 20.1.1). */
static bool type_allows(const struct cpu *cpu, const struct vmcs_segment *s, enum mmu_access access)
{
    uint32_t ar = s->access_rights;

    if (!is_protected(cpu)) {
        return true;
    }
    if ((ar & X86_AR_UNUSABLE) != 0) {
        return false;
    }
    switch (access) {
    case MMU_READ:
        return (ar & (AR_CODE | AR_RW)) != AR_CODE;
    case MMU_WRITE:
        return (ar & (AR_CODE | AR_RW)) == AR_RW;
    default:
        return true;
    }
}

static bool is_expand_down(const struct cpu *cpu, const struct vmcs_segment *s)
{
    return is_protected(cpu) && (s->access_rights & (X86_AR_S | AR_CODE | AR_EXPAND_DOWN)) == (X86_AR_S | AR_EXPAND_DOWN);
}

bool cpu_linear_is_good(const struct cpu *cpu, unsigned seg, uint64_t offset, uint64_t len, enum mmu_access access)
{
    const struct vmcs_segment *s = &cpu->vmcs.guest_seg[seg];
    uint64_t last = offset + len - 1;

    if (cpu_in_64bit_code(cpu)) {
        return true;
    }
    if (!type_allows(cpu, s, access)) {
        return false;
    }
    if (is_expand_down(cpu, s)) {
        return offset > s->limit && last <= ((s->access_rights & X86_AR_DB) != 0 ? UINT32_MAX : UINT16_MAX);
    }
    return last <= s->limit;
}

uint64_t cpu_linear_run(const struct cpu *cpu, unsigned seg, uint64_t offset, unsigned bytes, bool down)
{
    const struct vmcs_segment *s = &cpu->vmcs.guest_seg[seg];
    bool expand_down = is_expand_down(cpu, s);
    uint64_t low = expand_down ? (uint64_t)s->limit + 1 : 0;
    uint64_t end = !expand_down ? (uint64_t)s->limit + 1 : (s->access_rights & X86_AR_DB) != 0 ? 1ull << 32 : 1ull << 16;

    if (cpu_in_64bit_code(cpu)) {
        return UINT64_MAX;
    }
    return down ? (offset - low) / bytes + 1 : (end - offset) / bytes;
}

enum cpu_result cpu_linear(struct cpu *cpu, unsigned seg, uint64_t offset, unsigned len, enum mmu_access access, gva_t *va)
{
    uint64_t base = cpu->vmcs.guest_seg[seg].base;

    if (cpu_in_64bit_code(cpu)) {
        *va = offset + (seg == X86_FS || seg == X86_GS ? base : 0);
        return CPU_NEXT;
    }
    if (!cpu_linear_is_good(cpu, seg, offset, len, access)) {
        return cpu_raise_error(cpu, seg == X86_SS ? X86_EXC_SS : X86_EXC_GP, 0);
    }
    *va = (uint32_t)(base + offset);
    return CPU_NEXT;
}

bool cpu_segment_is_flat(const struct cpu *cpu, unsigned seg)
{
    const struct vmcs_segment *s = &cpu->vmcs.guest_seg[seg];

    return s->base == 0 && s->limit == UINT32_MAX && !is_expand_down(cpu, s) && type_allows(cpu, s, MMU_READ) &&
           (seg == X86_CS || type_allows(cpu, s, MMU_WRITE));
}

void cpu_update_seg_ranges(struct cpu *cpu)
{
    for (unsigned seg = X86_ES; seg <= X86_GS; seg++) {
        const struct vmcs_segment *s = &cpu->vmcs.guest_seg[seg];
        for (unsigned access = MMU_READ; access <= MMU_WRITE; access++) {
            bool simple = !is_expand_down(cpu, s) && type_allows(cpu, s, (enum mmu_access)access);
            uint64_t end = simple ? (uint64_t)s->limit + 1 : 0;
            cpu->seg_range[seg][access] = (struct cpu_seg_range){.end = end, .neg_end = 0 - end};
        }
    }
}
