/* SPDX-License-Identifier: MIT */
/*
 * The VMCS by encoding: every row obeys the encoding rules of SDM 3C 25.11.2, every member of
 * struct vmcs has a row, reads and writes have the width of the field. And the checks of VM entry
 * that end before guest code runs.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmx/vmx.h"

static void test_encodings(void **state)
{
    static const uint8_t widths[4] = {16, 64, 32, 0};
    static const uint8_t bytes[4] = {2, 8, 4, 8};

    (void)state;
    for (size_t i = 0; i < vmcs_fields_len; i++) {
        const struct vmcs_field *f = &vmcs_fields[i];
        unsigned width = f->encoding >> 13 & 3, type = f->encoding >> 10 & 3;

        assert_true(i == 0 || vmcs_fields[i - 1].encoding < f->encoding);
        assert_int_equal(f->encoding & ~0x6ffeu, 0); /* reserved bits, and the full access type */
        assert_int_equal(f->width, widths[width]);
        assert_int_equal(f->bytes, bytes[width]);
        assert_int_equal(f->read_only, type == 1);
        assert_int_equal(f->offset % f->bytes, 0);
        assert_true(strlen(f->name) > 3);
        assert_int_equal(strncmp(f->name, "HOST_", 5) == 0, type == 3);
        assert_ptr_equal(vmcs_field_find(f->encoding), f);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(vmcs_fields[j].name, f->name);
    }
}

/* Rows that the manual prints, picked from each group. */
static void test_known_encodings(void **state)
{
    static const struct {
        uint32_t encoding;
        size_t offset;
        const char *name;
    } known[] = {
        {0x0000, offsetof(struct vmcs, vpid), "VPID"},
        {0x0802, offsetof(struct vmcs, guest_seg[X86_CS].selector), "GUEST_CS_SELECTOR"},
        {0x080e, offsetof(struct vmcs, guest_seg[X86_TR].selector), "GUEST_TR_SELECTOR"},
        {0x2010, offsetof(struct vmcs, tsc_offset), "TSC_OFFSET"},
        {0x201a, offsetof(struct vmcs, ept_pointer), "EPT_POINTER"},
        {0x2400, offsetof(struct vmcs, guest_physical_address), "GUEST_PHYSICAL_ADDRESS"},
        {0x2806, offsetof(struct vmcs, guest_ia32_efer), "GUEST_IA32_EFER"},
        {0x4016, offsetof(struct vmcs, entry_intr_info), "VM_ENTRY_INTR_INFO_FIELD"},
        {0x4402, offsetof(struct vmcs, exit_reason), "VM_EXIT_REASON"},
        {0x4818, offsetof(struct vmcs, guest_seg[X86_SS].access_rights), "GUEST_SS_AR_BYTES"},
        {0x482a, offsetof(struct vmcs, guest_sysenter_cs), "GUEST_SYSENTER_CS"},
        {0x6000, offsetof(struct vmcs, cr0_mask), "CR0_GUEST_HOST_MASK"},
        {0x640a, offsetof(struct vmcs, guest_linear_address), "GUEST_LINEAR_ADDRESS"},
        {0x6802, offsetof(struct vmcs, guest_cr3), "GUEST_CR3"},
        {0x6810, offsetof(struct vmcs, guest_seg[X86_GS].base), "GUEST_GS_BASE"},
        {0x6820, offsetof(struct vmcs, guest_rflags), "GUEST_RFLAGS"},
        {0x6c16, offsetof(struct vmcs, host_rip), "HOST_RIP"},
    };

    (void)state;
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(known); i++) {
        const struct vmcs_field *f = vmcs_field_find(known[i].encoding);

        assert_non_null(f);
        assert_int_equal(f->offset, known[i].offset);
        assert_string_equal(f->name, known[i].name);
    }
    assert_null(vmcs_field_find(0x0c0e)); /* there is no host LDTR */
    assert_null(vmcs_field_find(0x7fff));
    assert_null(vmcs_field_find(0xffffffff));
}

/* No two rows overlap, and what no row covers is padding and the host's LDTR. */
static void test_every_member_has_a_row(void **state)
{
    uint8_t covered[sizeof(struct vmcs)] = {0};

    (void)state;
    for (size_t i = 0; i < vmcs_fields_len; i++) {
        for (unsigned b = 0; b < vmcs_fields[i].bytes; b++) {
            assert_int_equal(covered[vmcs_fields[i].offset + b], 0);
            covered[vmcs_fields[i].offset + b] = 1;
        }
    }
    for (unsigned s = 0; s < X86_SEG_COUNT; s++)
        memset(&covered[offsetof(struct vmcs, guest_seg[s].pad)], 1, sizeof(((struct vmcs *)0)->guest_seg[s].pad));
    memset(&covered[offsetof(struct vmcs, host_selector[X86_LDTR])], 1, 2);
    /* The compiler's own padding is shorter than a 64-bit member and ends on its boundary. */
    for (size_t i = 0; i < sizeof(covered); i++) {
        if (covered[i])
            continue;
        size_t end = i;
        while (end < sizeof(covered) && !covered[end])
            end++;
        assert_int_equal(end % 8, 0);
        assert_true(end - i < 8);
        i = end;
    }
}

static void test_read_write(void **state)
{
    struct vmcs v;
    uint64_t got;

    (void)state;
    for (size_t i = 0; i < vmcs_fields_len; i++) {
        const struct vmcs_field *f = &vmcs_fields[i];
        const uint64_t value = 0x8877665544332211ull;
        uint64_t kept = f->bytes == 8 ? value : value & ((1ull << (8 * f->bytes)) - 1);

        memset(&v, 0, sizeof(v));
        if (f->read_only) {
            assert_int_equal(vmcs_write(&v, f->encoding, value), -EROFS);
            memcpy((uint8_t *)&v + f->offset, &kept, f->bytes);
        } else {
            assert_int_equal(vmcs_write(&v, f->encoding, value), 0);
        }
        assert_int_equal(vmcs_read(&v, f->encoding, &got), 0);
        assert_int_equal(got, kept);
        uint8_t *at = (uint8_t *)&v + f->offset;
        memset(at, 0, f->bytes); /* nothing else was touched */
        for (size_t b = 0; b < sizeof(v); b++)
            assert_int_equal(((uint8_t *)&v)[b], 0);

        if (f->width != 64) {
            assert_int_equal(vmcs_read(&v, f->encoding | 1, &got), -ENOENT);
            assert_int_equal(vmcs_write(&v, f->encoding | 1, 0), -ENOENT);
        } else if (!f->read_only) {
            assert_int_equal(vmcs_write(&v, f->encoding, value), 0);
            assert_int_equal(vmcs_write(&v, f->encoding | 1, 0xaaaaaaaacafef00dull), 0);
            assert_int_equal(vmcs_read(&v, f->encoding, &got), 0);
            assert_int_equal(got, 0xcafef00d44332211ull);
            assert_int_equal(vmcs_read(&v, f->encoding | 1, &got), 0);
            assert_int_equal(got, 0xcafef00du);
        }
    }
    assert_int_equal(vmcs_read(&v, 0x7ffe, &got), -ENOENT);
    assert_int_equal(vmcs_write(&v, 0x7ffe, 1), -ENOENT);
}

static void test_exit_names(void **state)
{
    (void)state;
    assert_string_equal(vmx_exit_reason_name(VMX_EXIT_HLT), "HLT");
    assert_string_equal(vmx_exit_reason_name(VMX_EXIT_EPT_VIOLATION), "EPT_VIOLATION");
    assert_string_equal(vmx_exit_reason_name(VMX_EXIT_ENTRY_GUEST_STATE | VMX_EXIT_REASON_ENTRY_FAILURE),
                        "INVALID_STATE");
    assert_non_null(vmx_exit_reason_name(5)); /* no such reason: still a string */
    assert_non_null(vmx_exit_reason_name(UINT32_MAX));
}

/* ---- VM entry, as far as it gets without guest code ---- */

static uint8_t msr_bitmap[4096] __attribute__((aligned(4096)));

static struct cpu *cpu_in_long_mode_new(void)
{
    struct cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) / 64 * 64);

    assert_non_null(cpu);
    memset(cpu, 0, sizeof(*cpu));
    cpu->stats = cpu->own_stats;
    vmx_init_controls(cpu);

    struct vmcs *v = &cpu->vmcs;
    v->msr_bitmap = (uint64_t)(uintptr_t)msr_bitmap;
    v->guest_cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG;
    v->guest_cr4 = X86_CR4_PAE;
    v->guest_ia32_efer = X86_EFER_LME | X86_EFER_LMA;
    v->guest_rflags = X86_FLAGS_FIXED;
    for (unsigned s = 0; s < X86_SEG_COUNT; s++)
        v->guest_seg[s] = (struct vmcs_segment){.limit = 0xffffffff, .access_rights = 0xc093};
    v->guest_seg[X86_CS].access_rights = 0xa09b;
    v->guest_seg[X86_LDTR] = (struct vmcs_segment){.limit = 0xffff, .access_rights = X86_AR_UNUSABLE};
    v->guest_seg[X86_TR] = (struct vmcs_segment){.limit = 0x67, .access_rights = 0x8b};
    return cpu;
}

static void test_bad_controls(void **state)
{
    static const struct {
        size_t offset;
        uint32_t set, clear;
    } bad[] = {
        {offsetof(struct vmcs, pin_based_ctls), 1u << 7, 0}, /* posted interrupts: not here */
        {offsetof(struct vmcs, proc_based_ctls), VMX_PROC_MONITOR_TRAP, 0},
        {offsetof(struct vmcs, proc_based_ctls), 1u, 0},
        {offsetof(struct vmcs, proc_based_ctls2), 1u << 31, 0},
        {offsetof(struct vmcs, exit_ctls), 0, VMX_EXIT_HOST_ADDR_SPACE_SIZE},
        {offsetof(struct vmcs, entry_ctls), 1u << 10, 0}, /* entry to SMM */
        {offsetof(struct vmcs, entry_intr_info), VMX_INFO_VALID | 7u << VMX_INFO_TYPE_SHIFT, 0},
        {offsetof(struct vmcs, entry_intr_info), VMX_INFO_VALID | 1u << VMX_INFO_TYPE_SHIFT, 0},
        {offsetof(struct vmcs, entry_intr_info), VMX_INFO_VALID | VMX_EVENT_NMI << VMX_INFO_TYPE_SHIFT | 3, 0},
        {offsetof(struct vmcs, entry_intr_info), VMX_INFO_VALID | VMX_EVENT_HW_EXCEPTION << VMX_INFO_TYPE_SHIFT | 32, 0},
        {offsetof(struct vmcs, entry_intr_info), VMX_INFO_VALID | 1u << 20, 0},
    };

    (void)state;
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(bad); i++) {
        struct cpu *cpu = cpu_in_long_mode_new();
        uint32_t value;

        memcpy(&value, (uint8_t *)&cpu->vmcs + bad[i].offset, sizeof(value));
        value = (value | bad[i].set) & ~bad[i].clear;
        memcpy((uint8_t *)&cpu->vmcs + bad[i].offset, &value, sizeof(value));
        assert_int_equal(vmx_enter(cpu), VMX_INVALID_CONTROLS);
        assert_int_equal(cpu->vmcs.vm_instruction_error, 7);
        free(cpu);
    }
    struct cpu *cpu = cpu_in_long_mode_new();
    cpu->vmcs.msr_bitmap = 0;
    assert_int_equal(vmx_enter(cpu), VMX_INVALID_CONTROLS);
    free(cpu);
}

static void test_bad_guest_state(void **state)
{
    static const struct {
        size_t offset;
        uint64_t set, clear;
        unsigned bytes;
    } bad[] = {
        {offsetof(struct vmcs, guest_cr0), 0, X86_CR0_PE, 8},
        {offsetof(struct vmcs, guest_cr0), 0, X86_CR0_PG, 8}, /* LMA stays */
        {offsetof(struct vmcs, guest_cr0), X86_CR0_NW, X86_CR0_CD, 8},
        {offsetof(struct vmcs, guest_cr0), 1ull << 32, 0, 8},
        {offsetof(struct vmcs, guest_cr4), 0, X86_CR4_PAE, 8},
        {offsetof(struct vmcs, guest_ia32_efer), 0, X86_EFER_LMA, 8},
        {offsetof(struct vmcs, guest_ia32_efer), 0, X86_EFER_LME, 8},
        {offsetof(struct vmcs, guest_rflags), 0, X86_FLAGS_FIXED, 8},
        {offsetof(struct vmcs, guest_rflags), 1u << 3, 0, 8},
        {offsetof(struct vmcs, guest_rflags), 1u << 22, 0, 8},
        {offsetof(struct vmcs, guest_rflags), X86_FLAGS_VM, 0, 8},
        {offsetof(struct vmcs, guest_gdtr_base), 1ull << 47, 0, 8},
        {offsetof(struct vmcs, guest_idtr_base), 1ull << 63, 0, 8},
        {offsetof(struct vmcs, guest_gdtr_limit), 0x10000, 0, 4},
        {offsetof(struct vmcs, guest_seg[X86_FS].base), 1ull << 47, 0, 8},
        {offsetof(struct vmcs, guest_seg[X86_GS].base), 1ull << 63, 0, 8},
        {offsetof(struct vmcs, guest_seg[X86_TR].base), 1ull << 50, 0, 8},
        {offsetof(struct vmcs, guest_seg[X86_CS].access_rights), 0, X86_AR_P, 4},
        {offsetof(struct vmcs, guest_seg[X86_CS].access_rights), 0, X86_AR_S, 4},
        {offsetof(struct vmcs, guest_seg[X86_CS].access_rights), X86_AR_DB, 0, 4}, /* with L */
        {offsetof(struct vmcs, guest_seg[X86_TR].access_rights), X86_AR_UNUSABLE, 0, 4},
        {offsetof(struct vmcs, guest_activity_state), 4, 0, 4},
        {offsetof(struct vmcs, guest_interruptibility), VMX_INTR_STI | VMX_INTR_MOV_SS, 0, 4},
        {offsetof(struct vmcs, guest_interruptibility), VMX_INTR_STI, 0, 4}, /* IF is clear */
        {offsetof(struct vmcs, guest_interruptibility), 1u << 5, 0, 4},
    };

    (void)state;
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(bad); i++) {
        struct cpu *cpu = cpu_in_long_mode_new();
        uint64_t value = 0;

        memcpy(&value, (uint8_t *)&cpu->vmcs + bad[i].offset, bad[i].bytes);
        value = (value | bad[i].set) & ~bad[i].clear;
        memcpy((uint8_t *)&cpu->vmcs + bad[i].offset, &value, bad[i].bytes);
        cpu->vmcs.entry_intr_info = VMX_INFO_VALID | VMX_EVENT_HW_EXCEPTION << VMX_INFO_TYPE_SHIFT | X86_EXC_UD;
        assert_int_equal(vmx_enter(cpu), VMX_EXIT_ENTRY_GUEST_STATE | VMX_EXIT_REASON_ENTRY_FAILURE);
        assert_int_equal(cpu->vmcs.exit_reason, VMX_EXIT_ENTRY_GUEST_STATE | VMX_EXIT_REASON_ENTRY_FAILURE);
        /* A failed entry injects nothing and keeps the event (SDM 3C 27.8). */
        assert_true((cpu->vmcs.entry_intr_info & VMX_INFO_VALID) != 0);
        assert_false(cpu->event.valid);
        free(cpu);
    }
}

/* ---- guest states of every mode ---- */

enum state_mode { MODE_REAL, MODE_V86, MODE_PROTECTED, MODE_PAE, MODE_COMPAT, MODE_64BIT, MODE_COUNT };

static struct cpu *cpu_in_mode_new(enum state_mode mode)
{
    struct cpu *cpu = cpu_in_long_mode_new();
    struct vmcs *v = &cpu->vmcs;

    if (mode == MODE_64BIT)
        return cpu;
    v->guest_seg[X86_CS].access_rights = 0xc09b;
    if (mode == MODE_COMPAT)
        return cpu;
    v->guest_ia32_efer = 0;
    v->guest_cr4 = mode == MODE_PAE ? X86_CR4_PAE : 0;
    if (mode == MODE_REAL) {
        v->guest_cr0 = X86_CR0_ET;
        for (unsigned s = X86_ES; s <= X86_GS; s++)
            v->guest_seg[s] = (struct vmcs_segment){.selector = 0x1000, .base = 0x10000, .limit = 0xffff, .access_rights = 0x93};
        v->guest_seg[X86_CS] = (struct vmcs_segment){.selector = 0xf000, .base = 0xffff0000, .limit = 0xffff, .access_rights = 0x9b};
    } else if (mode == MODE_V86) {
        v->guest_rflags |= X86_FLAGS_VM;
        for (unsigned s = X86_ES; s <= X86_GS; s++)
            v->guest_seg[s] = (struct vmcs_segment){.selector = 0x1234, .base = 0x12340, .limit = 0xffff, .access_rights = 0xf3};
        v->guest_seg[X86_TR].access_rights = 0x83; /* a 16-bit TSS, busy */
    }
    return cpu;
}

static void test_guest_state_of_each_mode(void **state)
{
#define SEG(s, field) offsetof(struct vmcs, guest_seg[X86_##s].field)
    enum { R = 1 << MODE_REAL, V = 1 << MODE_V86, P = 1 << MODE_PROTECTED, A = 1 << MODE_PAE, C = 1 << MODE_COMPAT,
           L = 1 << MODE_64BIT, ALL = R | V | P | A | C | L };
    /* A change, and the modes in which it makes the state one that cannot be entered. */
    static const struct {
        size_t offset;
        uint64_t set, clear;
        unsigned bytes, bad_in;
    } changes[] = {
        {offsetof(struct vmcs, guest_rflags), X86_FLAGS_VM, 0, 8, R | P | A | C | L},
        {offsetof(struct vmcs, guest_rip), 1ull << 32, 0, 8, ALL & ~L},
        {offsetof(struct vmcs, guest_rip), 1ull << 47, 0, 8, ALL},
        {offsetof(struct vmcs, guest_pdpte[2]), 1 | 1ull << 40, 0, 8, A},
        {offsetof(struct vmcs, guest_pdpte[2]), 1 | 0x100, 0, 8, A},
        {offsetof(struct vmcs, guest_pdpte[2]), 1ull << 40, 0, 8, 0}, /* not present */
        {offsetof(struct vmcs, guest_cr3), 1ull << 40, 0, 8, ALL},
        {offsetof(struct vmcs, guest_cr4), X86_CR4_PCIDE, 0, 8, R | V | P | A},
        {offsetof(struct vmcs, guest_ia32_efer), X86_EFER_LME, 0, 8, V | P | A},
        {SEG(CS, base), 1ull << 32, 0, 8, ALL},
        {SEG(DS, base), 1ull << 32, 0, 8, ALL},
        {SEG(FS, base), 1ull << 32, 0, 8, V},
        {SEG(FS, base), 1ull << 47, 0, 8, ALL},
        {SEG(DS, base), 1, 0, 8, V},
        {SEG(DS, limit), 0x10000, 0, 4, V}, /* of 64 KiB; the flat ones have the bit already */
        {SEG(DS, access_rights), 0, X86_AR_G, 4, P | A | C | L},
        {SEG(DS, access_rights), 0, 1, 4, ALL}, /* accessed */
        {SEG(DS, access_rights), 8, 2, 4, ALL}, /* code that cannot be read */
        {SEG(DS, access_rights), 0, X86_AR_S, 4, ALL},
        {SEG(DS, access_rights), X86_AR_UNUSABLE, 0, 4, V},
        {SEG(SS, access_rights), 4, 0, 4, V}, /* expand-down */
        {SEG(SS, access_rights), 8, 0, 4, ALL},
        {SEG(SS, access_rights), X86_AR_DPL, 0, 4, R | P | A | C | L}, /* CS.DPL is 0 */
        {SEG(SS, access_rights), 0, X86_AR_DPL, 4, V},
        {SEG(CS, access_rights), 3, 8, 4, 0}, /* data */
        {SEG(CS, access_rights), 4, 0, 4, V}, /* conforming */
        {SEG(CS, access_rights), 0, 1, 4, ALL},
        {SEG(CS, access_rights), X86_AR_L, 0, 4, V | C}, /* with D */
        {SEG(TR, access_rights), 0, 8, 4, C | L}, /* a 16-bit TSS */
        {SEG(TR, access_rights), 0, 2, 4, ALL}, /* not busy */
        {SEG(TR, access_rights), X86_AR_S, 0, 4, ALL},
        {SEG(TR, selector), 4, 0, 2, ALL},
        {SEG(LDTR, access_rights), X86_AR_P | 2, X86_AR_UNUSABLE, 4, 0},
        {SEG(LDTR, access_rights), X86_AR_P | 3, X86_AR_UNUSABLE, 4, ALL},
    };
#undef SEG

    (void)state;
    for (unsigned mode = 0; mode < MODE_COUNT; mode++) {
        struct cpu *cpu = cpu_in_mode_new((enum state_mode)mode);
        cpu->maxphyaddr_mask = 0x000fff0000000000ull;
        assert_true(vmx_guest_state_is_good(cpu));
        struct vmcs good = cpu->vmcs;
        for (size_t i = 0; i < KAGE_ARRAY_SIZE(changes); i++) {
            uint64_t value = 0;
            memcpy(&value, (uint8_t *)&cpu->vmcs + changes[i].offset, changes[i].bytes);
            value = (value | changes[i].set) & ~changes[i].clear;
            memcpy((uint8_t *)&cpu->vmcs + changes[i].offset, &value, changes[i].bytes);
            if (vmx_guest_state_is_good(cpu) == ((changes[i].bad_in >> mode & 1) != 0))
                fail_msg("change %zu in mode %u", i, mode);
            cpu->vmcs = good;
        }
        free(cpu);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encodings),
        cmocka_unit_test(test_known_encodings),
        cmocka_unit_test(test_every_member_has_a_row),
        cmocka_unit_test(test_read_write),
        cmocka_unit_test(test_exit_names),
        cmocka_unit_test(test_bad_controls),
        cmocka_unit_test(test_bad_guest_state),
        cmocka_unit_test(test_guest_state_of_each_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
