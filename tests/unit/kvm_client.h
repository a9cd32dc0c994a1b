/* SPDX-License-Identifier: MIT */
/*
 * A KVM client small enough for unit tests: a VM, a vCPU, 2 MiB for memory of which the fixture gives the guest what lies
 * below f000h. Include it first.
 */
#ifndef TESTS_UNIT_KVM_CLIENT_H
#define TESTS_UNIT_KVM_CLIENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kage.h"

#define CLIENT_MEMORY (2u << 20)
#define CLIENT_HOLE 0xf000u /* where the fixture's memory ends */

struct client {
    int system, vm, vcpu;
    struct kvm_run *run;
    size_t run_bytes;
    uint8_t *memory;
};

static const struct kvm_backend *const kvm = &kage_backend_soft;

static int client_mmu = KAGE_MMU_EPT; /* what client_new_vm() asks for */

static inline int ask(int handle, unsigned long request, void *arg)
{
    int result = kvm->ioctl(handle, request, arg);
    return result < 0 ? -errno : result;
}

static inline void *number(uintptr_t value)
{
    return (void *)value;
}

static inline int client_cap(int vm, uint32_t cap, uint64_t arg)
{
    struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };
    return ask(vm, KVM_ENABLE_CAP, &enable);
}

static inline int client_slot(struct client *c, uint32_t slot, uint64_t gpa, uint64_t bytes, uint32_t flags)
{
    struct kvm_userspace_memory_region region = { .slot = slot, .guest_phys_addr = gpa, .memory_size = bytes, .flags = flags,
                                                  .userspace_addr = (uintptr_t)c->memory + gpa };
    return ask(c->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static inline void client_new_vm(struct client *c)
{
    memset(c, 0, sizeof(*c));
    c->system = kvm->open();
    c->vm = ask(c->system, KVM_CREATE_VM, NULL);
    assert_true(c->vm >= 0);
    assert_int_equal(kage_vm_set_mmu(kvm, c->vm, client_mmu), 0);
    c->memory = mmap(NULL, CLIENT_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(c->memory, MAP_FAILED);
}

static inline void client_new_vcpu(struct client *c)
{
    c->vcpu = ask(c->vm, KVM_CREATE_VCPU, NULL);
    assert_true(c->vcpu >= 0);
    c->run_bytes = (size_t)ask(c->system, KVM_GET_VCPU_MMAP_SIZE, NULL);
    c->run = kvm->mmap(NULL, c->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->vcpu, 0);
    assert_ptr_not_equal(c->run, MAP_FAILED);
}

static inline void client_close_vcpu(struct client *c)
{
    if (c->vcpu < 0)
        return;
    kvm->munmap(c->run, c->run_bytes);
    assert_int_equal(kvm->close(c->vcpu), 0);
    c->vcpu = -1;
}

static inline void client_free(struct client *c)
{
    client_close_vcpu(c);
    assert_int_equal(kvm->close(c->vm), 0);
    assert_int_equal(kvm->close(c->system), 0);
    munmap(c->memory, CLIENT_MEMORY);
}

/* 16-bit code at gpa, in a flat real mode with all segments at 0. */
static inline void client_load_16(struct client *c, uint16_t gpa, const uint8_t *code, size_t bytes)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = gpa, .rsp = 0x8000, .rflags = 2 };

    memcpy(c->memory + gpa, code, bytes);
    assert_int_equal(ask(c->vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    assert_int_equal(ask(c->vcpu, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_REGS, &regs), 0);
}

/* Page tables of 4 KiB pages for the 2 MiB, one to one; a GDT; an IDT whose gates the test sets. Stack below 10000h. */
#define CLIENT_PML4 0x2000u
#define CLIENT_PDPT 0x3000u
#define CLIENT_PD 0x4000u
#define CLIENT_PT 0x5000u
#define CLIENT_GDT 0x6000u
#define CLIENT_IDT 0x7000u

static inline void client_word(struct client *c, uint64_t gpa, uint64_t value)
{
    memcpy(c->memory + gpa, &value, sizeof(value));
}

static inline void client_gate_64(struct client *c, unsigned vector, uint64_t offset)
{
    client_word(c, CLIENT_IDT + vector * 16, (offset & 0xffff) | 8u << 16 | 0x8e00ull << 32 | (offset & 0xffff0000) << 32);
    client_word(c, CLIENT_IDT + vector * 16 + 8, offset >> 32);
}

static inline void client_tables_64(struct client *c)
{
    client_word(c, CLIENT_PML4, CLIENT_PDPT | 7);
    client_word(c, CLIENT_PDPT, CLIENT_PD | 7);
    client_word(c, CLIENT_PD, CLIENT_PT | 7);
    for (uint64_t page = 0; page < 512; page++)
        client_word(c, CLIENT_PT + page * 8, page << 12 | 7);
    client_word(c, CLIENT_GDT, 0);
    client_word(c, CLIENT_GDT + 8, 0x00af9b000000ffffull);
    client_word(c, CLIENT_GDT + 16, 0x00cf93000000ffffull);
}

/* 64-bit code at gpa. */
static inline void client_load_64(struct client *c, uint64_t gpa, const void *code, size_t bytes)
{
    struct kvm_segment cs = { .limit = UINT32_MAX, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
    struct kvm_segment ds = { .limit = UINT32_MAX, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
    struct kvm_regs regs = { .rip = gpa, .rsp = 0x10000, .rflags = 2 };
    struct kvm_sregs sregs;

    client_tables_64(c);
    memcpy(c->memory + gpa, code, bytes);
    assert_int_equal(ask(c->vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.cs = cs;
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = ds;
    sregs.cr0 = 0x80010033;
    sregs.cr3 = CLIENT_PML4;
    sregs.cr4 = 0x620;
    sregs.efer = 0xd00;
    sregs.gdt.base = CLIENT_GDT;
    sregs.gdt.limit = 23;
    sregs.idt.base = CLIENT_IDT;
    sregs.idt.limit = 0xfff;
    assert_int_equal(ask(c->vcpu, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_REGS, &regs), 0);
}

static inline void client_supported_cpuid(struct client *c)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 100 * sizeof(cpuid->entries[0]));

    cpuid->nent = 100;
    assert_int_equal(ask(c->system, KVM_GET_SUPPORTED_CPUID, cpuid), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_CPUID2, cpuid), 0);
    free(cpuid);
}

static inline void client_set_msr(struct client *c, uint32_t index, uint64_t value)
{
    union { struct kvm_msrs head; uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)]; } msrs = { .head.nmsrs = 1 };
    msrs.head.entries[0] = (struct kvm_msr_entry){ .index = index, .data = value };
    if (ask(c->vcpu, KVM_SET_MSRS, &msrs) != 1)
        fail_msg("MSR 0x%x was refused", index);
}

/* Guest code as the assembler makes it: GUEST_CODE(name, ".code16", "…") then name and GUEST_BYTES(name). */
#define GUEST_CODE(name, mode, text)                                                                                   \
    __asm__(".pushsection .rodata\n" #name "_from:\n" mode "\n" text "\n" #name "_to:\n.code64\n.popsection");         \
    extern const uint8_t name[] __asm__(#name "_from"), name##_to[] __asm__(#name "_to")
#define GUEST_BYTES(name) ((size_t)(name##_to - name))

static inline void client_run(struct client *c, uint32_t reason)
{
    int result = ask(c->vcpu, KVM_RUN, NULL);
    if (result || c->run->exit_reason != reason)
        fail_msg("KVM_RUN: %d, exit reason %u, expected %u", result, c->run->exit_reason, reason);
}

static inline int client_setup(void **state)
{
    struct client *c = malloc(sizeof(*c));

    client_new_vm(c);
    assert_int_equal(client_slot(c, 0, 0, CLIENT_HOLE, 0), 0);
    client_new_vcpu(c);
    *state = c;
    return 0;
}

static inline int client_teardown(void **state)
{
    client_free(*state);
    free(*state);
    return 0;
}

#endif
