/* SPDX-License-Identifier: MIT */
/*
 * A small machine for one row: a VM with RAM at 0, vCPUs in flat 64-bit or real mode, guest code assembled into this program.
 * Every function ends the row if the API refuses; rows end with their process, so nothing here is given back.
 */
#ifndef KVM_MACHINE_H
#define KVM_MACHINE_H

#include "conform.h"

enum {
    RAM_BYTES = 4 << 20,
    RAM_SLOT = 0,
    GPA_GDT = 0x500,
    GPA_PML4 = 0x1000,
    GPA_PDPT = 0x2000,
    GPA_PD = 0x3000, /* four: 4 GiB, one to one */
    GPA_IDT = 0x7000,
    GPA_CODE = 0x8000,
    GPA_HANDLER = 0x9000,
    GPA_DATA = 0x10000,
    GPA_STACK = 0x20000, /* its top; that of vCPU n is 0x1000 * n above */
    GPA_FREE = 0x100000,
};
#define GPA_MMIO 0xd0000000ul
#define GPA_APIC 0xfee00000ul
#define GPA_IOAPIC 0xfec00000ul
#define SELECTOR_CODE 8
#define SELECTOR_DATA 16

/* vm_new */
enum { WITH_IRQCHIP = 1, WITH_PIT = 2, WITH_SPLIT = 4, WITHOUT_RAM = 8 };

/* The API's structures of open length without their tails, for structures that have them at a fixed one. */
struct routing_head {
    uint32_t nr, flags;
};
struct msrs_head {
    uint32_t nmsrs, pad;
};
struct cpuid_head {
    uint32_t nent, padding;
};
struct signal_mask_head {
    uint32_t len;
};
_Static_assert(sizeof(struct routing_head) == sizeof(struct kvm_irq_routing) && sizeof(struct msrs_head) == sizeof(struct kvm_msrs) &&
                   sizeof(struct cpuid_head) == sizeof(struct kvm_cpuid2) && sizeof(struct cpuid_head) == sizeof(struct kvm_cpuid) &&
                   sizeof(struct signal_mask_head) == sizeof(struct kvm_signal_mask),
               "the API's");

#define MACHINE_VCPUS 4

/* KAGE_MMU_* that every machine asks for; 0: the back end's own choice. */
extern int machine_mmu;

struct machine {
    int system, vm;
    uint8_t *ram;
    unsigned vcpus;
    int vcpu[MACHINE_VCPUS];
    struct kvm_run *run[MACHINE_VCPUS];
    size_t run_bytes;
};

/* Guest code: GUEST(name, 64, "…") defines it, machine_load(m, gpa, GUEST_BYTES(name)) puts it into memory. */
#define GUEST(name, bits, text)                                                                                                  \
    extern const uint8_t guestcode_##name[] __attribute__((visibility("hidden")));                                               \
    extern const uint8_t guestcode_##name##_end[] __attribute__((visibility("hidden")));                                         \
    __asm__(".pushsection .rodata\n.code" #bits "\nguestcode_" #name ":\n" text "\nguestcode_" #name "_end:\n.code64\n.popsection\n")
#define GUEST_BYTES(name) guestcode_##name, (size_t)(guestcode_##name##_end - guestcode_##name)

struct machine machine_new(unsigned with, unsigned vcpus);
int machine_add_vcpu(struct machine *m, unsigned id);
void machine_load(struct machine *m, uint64_t gpa, const void *code, size_t bytes);
/* KVM_SET_USER_MEMORY_REGION; its answer. */
int machine_slot(struct machine *m, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t bytes, const void *memory);
void *machine_anonymous(size_t bytes);

/* The vCPU in ring 0 of 64-bit mode at rip, or in real mode at cs 0. */
void machine_long_mode(struct machine *m, unsigned vcpu, uint64_t rip);
void machine_real_mode(struct machine *m, unsigned vcpu, uint64_t ip);
/* Gives the vCPU KVM_GET_SUPPORTED_CPUID's leaves. */
void machine_cpuid(struct machine *m, unsigned vcpu);
/* An interrupt gate of the 64-bit IDT (which machine_long_mode points IDTR at). */
void machine_gate(struct machine *m, unsigned vector, uint64_t handler);
/* machine_new, machine_load at GPA_CODE, machine_long_mode. */
struct machine machine_boot(unsigned with, const void *code, size_t bytes);

/* KVM_RUN: 0 or -errno; and the same, but with the exit it must end in. */
int machine_run(struct machine *m, unsigned vcpu);
#define RUN_TO(m, vcpu, reason) machine_run_to(__FILE__, __LINE__, m, vcpu, reason)
void machine_run_to(const char *file, int line, struct machine *m, unsigned vcpu, uint32_t reason);
/* Runs to an OUT of a byte to `port`; the byte. */
#define RUN_TO_OUT(m, vcpu, port) machine_run_to_out(__FILE__, __LINE__, m, vcpu, port)
uint8_t machine_run_to_out(const char *file, int line, struct machine *m, unsigned vcpu, uint16_t port);
uint8_t *machine_io_data(struct machine *m, unsigned vcpu);

struct kvm_regs machine_regs(struct machine *m, unsigned vcpu);
uint64_t machine_get_msr(struct machine *m, unsigned vcpu, uint32_t index);
/* KVM_SET_MSRS of one: its answer (1: done). */
int machine_set_msr(struct machine *m, unsigned vcpu, uint32_t index, uint64_t value);
int machine_enable_cap(int handle, uint32_t cap, uint64_t arg);

/* KVM_GET_SUPPORTED_CPUID, calloc'ed, with room for CPUID_ROOM entries. */
#define CPUID_ROOM 256u
struct kvm_cpuid2 *machine_supported_cpuid(int system);

#endif
