/* SPDX-License-Identifier: MIT */
/*
 * VT-x for the software processor: VM entry, VM exit, and access to the VMCS by field encoding.
 */
#ifndef KAGE_VMX_VMX_H
#define KAGE_VMX_VMX_H

#include "cpu/cpu.h"

/*
 * VM entry (SDM 3C chapter 27): checks controls and guest state, loads RIP, RSP and RFLAGS into the
 * processor, injects the event of the VM-entry interruption-information field, runs the guest, and
 * on VM exit saves them back (SDM 3C chapter 28). Returns the exit reason field: a basic reason
 * VMX_EXIT_*, or VMX_EXIT_ENTRY_GUEST_STATE | VMX_EXIT_REASON_ENTRY_FAILURE. Returns
 * VMX_INVALID_CONTROLS, with vm_instruction_error set, if the controls are bad (VMfailValid).
 */
uint32_t vmx_enter(struct cpu *cpu);
#define VMX_INVALID_CONTROLS UINT32_MAX

/* The checks of VM entry on the guest-state area (guest_state.c). */
bool vmx_guest_state_is_good(const struct cpu *cpu);

/* The controls that KVM wants, in a new VMCS. The MSR bitmap and the EPT pointer are the caller's to set. */
void vmx_init_controls(struct cpu *cpu);
/*
 * Adds to the controls and masks what a guest without EPT needs (cpu.h, mmu/noept.h). What the guest sees is to be taken
 * before, and given back with cpu_set_paging() behind it. There is no root at first.
 */
void vmx_disable_ept(struct cpu *cpu);

/* A row for each VMCS field: encoding (SDM 3C appendix B), name as in the SDM, place in struct vmcs. */
struct vmcs_field {
    uint32_t encoding;
    uint16_t offset;
    uint8_t bytes; /* 2, 4 or 8, storage */
    uint8_t width; /* 16, 32, 64, or 0 for natural */
    bool read_only; /* VM-exit information */
    const char *name;
};
extern const struct vmcs_field vmcs_fields[];
extern const size_t vmcs_fields_len;

const struct vmcs_field *vmcs_field_find(uint32_t encoding); /* NULL if there is none */
/* 0, or -ENOENT; a write to a read-only field is -EROFS. High-half encodings of 64-bit fields work. */
int vmcs_read(const struct vmcs *vmcs, uint32_t encoding, uint64_t *value);
int vmcs_write(struct vmcs *vmcs, uint32_t encoding, uint64_t value);

const char *vmx_exit_reason_name(uint32_t basic_reason);

#endif
