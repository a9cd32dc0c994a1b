/* SPDX-License-Identifier: MIT */
/*
 * The state in which a boot processor starts, and how it gets into a vCPU through the KVM API.
 */
#ifndef KAGE_VCPU_STATE_H
#define KAGE_VCPU_STATE_H

#include <stdint.h>

#include <kage.h>

#include "util/error.h"

enum vcpu_mode {
    VCPU_MODE_LONG,      /* 64-bit, paging on */
    VCPU_MODE_PROTECTED, /* 32-bit, flat, paging off */
};

struct vcpu_start {
    enum vcpu_mode mode;
    uint64_t rip;
    uint64_t rsp;
    uint64_t rax;
    uint64_t rbx;
    uint64_t rsi;
    uint64_t cr3;     /* long mode: the guest's page tables */
    uint64_t cr3_la57; /* and those of five levels, for a processor with LA57; 0: none */
    uint64_t gdt_gpa; /* holds what vcpu_gdt() makes */
    uint64_t tss_gpa;
};

/* Selectors of Linux's boot protocol (Documentation/arch/x86/boot.rst): __BOOT_CS, __BOOT_DS. */
#define VCPU_CS_SELECTOR 0x10u
#define VCPU_DS_SELECTOR 0x18u
#define VCPU_TR_SELECTOR 0x20u
#define VCPU_GDT_ENTRIES 6u /* the TSS takes two */

/* The descriptors that the selectors above stand for. */
void vcpu_gdt(uint64_t gdt[VCPU_GDT_ENTRIES], enum vcpu_mode mode, uint64_t tss_gpa);

/* Sets registers, MSRs, FPU and local APIC of a new vCPU 0. */
int vcpu_set_start(const struct kvm_backend *backend, int vcpu_fd, const struct vcpu_start *start, struct error *error);

#endif
