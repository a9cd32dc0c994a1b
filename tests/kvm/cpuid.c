/* SPDX-License-Identifier: MIT */
/* CPUID tables (api.rst 4.20, 4.46, 4.88, 4.98) and what the guest's CPUID makes of them. */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

/* A byte to port 81h, for the client to set EAX and ECX; CPUID of that leaf, its registers to GPA_DATA; a byte to port 80h; again. */
GUEST(cpuid, 64, "1: out %al, $0x81; cpuid; mov %eax, 0x10000; mov %ebx, 0x10004; mov %ecx, 0x10008; mov %edx, 0x1000c\n"
                 "out %al, $0x80; jmp 1b");

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index)
{
    for (uint32_t i = 0; i < cpuid->nent; i++)
        if (cpuid->entries[i].function == function && cpuid->entries[i].index == index)
            return &cpuid->entries[i];
    check_failed(__FILE__, __LINE__, "no CPUID leaf 0x%x.%u", function, index);
}

static void guest_cpuid(struct machine *m, uint32_t function, uint32_t index, uint32_t out[4])
{
    RUN_TO_OUT(m, 0, 0x81);
    struct kvm_regs regs = machine_regs(m, 0);
    regs.rax = function;
    regs.rcx = index;
    CHECK_OK(ask(m->vcpu[0], KVM_SET_REGS, &regs));
    RUN_TO_OUT(m, 0, 0x80);
    memcpy(out, m->ram + GPA_DATA, 16);
}

static void supported_sizes(void)
{
    int system = CHECK_OK(kvm->open());
    const struct kvm_cpuid2 *all = machine_supported_cpuid(system);

    CHECK(all->nent > 10);
    CHECK(all->nent <= 100); /* kvmtool has room for so many */
    struct kvm_cpuid2 *exact = calloc(1, sizeof(*exact) + (all->nent + 1) * sizeof(exact->entries[0]));
    exact->nent = all->nent - 1;
    CHECK_EQ(ask(system, KVM_GET_SUPPORTED_CPUID, exact), -E2BIG);
    exact->nent = all->nent;
    exact->entries[all->nent].function = 0xdeadbeef;
    CHECK_OK(ask(system, KVM_GET_SUPPORTED_CPUID, exact));
    CHECK_EQ(exact->nent, all->nent);
    CHECK_EQ(exact->entries[all->nent].function, 0xdeadbeef);
}

/* As QEMU asks: twice as much room until it fits. */
static void supported_growing(void)
{
    int system = CHECK_OK(kvm->open()), result = -E2BIG;

    for (uint32_t room = 1; result == -E2BIG; room *= 2) {
        CHECK(room <= 1024);
        struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + room * sizeof(cpuid->entries[0]));
        cpuid->nent = room;
        result = ask(system, KVM_GET_SUPPORTED_CPUID, cpuid);
        free(cpuid);
    }
    CHECK_EQ(result, 0);
}

static void supported_content(void)
{
    const struct kvm_cpuid2 *cpuid = machine_supported_cpuid(CHECK_OK(kvm->open()));

    CHECK(leaf(cpuid, 0, 0)->eax >= 0xd);
    CHECK(leaf(cpuid, 0x80000000u, 0)->eax >= 0x80000008u);
    CHECK_EQ(memcmp(&leaf(cpuid, 0x40000000u, 0)->ebx, "KVMKVMKVM\0\0\0", 12), 0);
    CHECK(leaf(cpuid, 0x40000000u, 0)->eax >= 0x40000001u);
    CHECK(leaf(cpuid, 1, 0)->ecx & 1u << 21);  /* x2APIC, whatever the host has (api.rst 4.46) */
    CHECK(leaf(cpuid, 1, 0)->edx & 1u << 9);   /* APIC */
    CHECK(leaf(cpuid, 0x40000001u, 0)->eax & 1u << 3); /* kvm-clock, the new MSRs */
    CHECK(leaf(cpuid, 0x80000001u, 0)->edx & 1u << 29); /* long mode */
}

static void no_leaf_twice(void)
{
    const struct kvm_cpuid2 *cpuid = machine_supported_cpuid(CHECK_OK(kvm->open()));

    for (uint32_t i = 0; i < cpuid->nent; i++)
        for (uint32_t j = i + 1; j < cpuid->nent; j++)
            CHECK(cpuid->entries[i].function != cpuid->entries[j].function || cpuid->entries[i].index != cpuid->entries[j].index);
}

static void set_and_get(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 1);
    struct kvm_cpuid2 *cpuid = machine_supported_cpuid(m.system);
    struct kvm_cpuid2 *back = calloc(1, sizeof(*back) + CPUID_ROOM * sizeof(back->entries[0]));

    cpuid->nent = 3;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_CPUID2, cpuid));
    back->nent = 2;
    CHECK_EQ(ask(m.vcpu[0], KVM_GET_CPUID2, back), -E2BIG);
    back->nent = CPUID_ROOM;
    CHECK_OK(ask(m.vcpu[0], KVM_GET_CPUID2, back));
    EXPECT("entries", back->nent, 3);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(back->entries[i].function, cpuid->entries[i].function);
}

static void set_none(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_cpuid2 none = { 0 };

    CHECK_OK(ask(m.vcpu[0], KVM_SET_CPUID2, &none));
    none.nent = 1;
    CHECK_OK(ask(m.vcpu[0], KVM_GET_CPUID2, (struct kvm_cpuid2 *)machine_anonymous(4096)));
}

/* The old form, without indices. */
static void set_old_form(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(cpuid));
    struct {
        struct cpuid_head head;
        struct kvm_cpuid_entry entries[2];
    } old = { .head.nent = 2,
              .entries = { { .function = 0, .eax = 1, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69 },
                           { .function = 1, .eax = 0x12345, .edx = 1 << 4 } } };
    uint32_t out[4];

    CHECK_OK(ask(m.vcpu[0], KVM_SET_CPUID, &old));
    guest_cpuid(&m, 1, 0, out);
    CHECK_EQ(out[0], 0x12345);
}

static void guest_sees_it(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(cpuid));
    const struct kvm_cpuid2 *cpuid = machine_supported_cpuid(m.system);
    uint32_t out[4];

    guest_cpuid(&m, 0, 0, out);
    CHECK_EQ(out[0], leaf(cpuid, 0, 0)->eax);
    CHECK_EQ(out[1], leaf(cpuid, 0, 0)->ebx);
    guest_cpuid(&m, 0x40000000u, 0, out);
    CHECK_EQ(memcmp(out + 1, "KVMKVMKVM\0\0\0", 12), 0);
    guest_cpuid(&m, 4, 1, out); /* by its index, if the processor has it */
    guest_cpuid(&m, 0xd, 1, out);
    EXPECT("leaf 0xd.1", out[0] & ~leaf(cpuid, 0xd, 1)->eax, 0);
}

/* Indices count where the flag says so; a leaf that is not there reads as nothing, or as the highest of its range. */
static void indices(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(cpuid));
    struct {
        struct cpuid_head head;
        struct kvm_cpuid_entry2 entries[4];
    } table = { .head.nent = 4,
                .entries = { { .function = 0, .eax = 4, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69 },
                             { .function = 1, .eax = 0x306a9, .edx = 0x1 },
                             { .function = 4, .index = 0, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 0x11 },
                             { .function = 4, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 0x22 } } };
    uint32_t out[4];

    CHECK_OK(ask(m.vcpu[0], KVM_SET_CPUID2, &table));
    guest_cpuid(&m, 4, 1, out);
    CHECK_EQ(out[0], 0x22);
    guest_cpuid(&m, 4, 0, out);
    CHECK_EQ(out[0], 0x11);
    guest_cpuid(&m, 1, 77, out); /* no indices there */
    CHECK_EQ(out[0], 0x306a9);
    guest_cpuid(&m, 4, 9, out);
    CHECK_EQ(out[0], 0);
    guest_cpuid(&m, 2, 0, out); /* in range, not there */
    CHECK_EQ(out[0] | out[1] | out[2] | out[3], 0);
}

/* What a guest's CR4 makes of CPUID: OSXSAVE. */
static void osxsave_follows_cr4(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(cpuid));
    struct kvm_sregs sregs;
    uint32_t out[4];

    guest_cpuid(&m, 1, 0, out);
    CHECK_EQ(out[2] & 1u << 27, 0);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &sregs));
    sregs.cr4 |= 1u << 18;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_SREGS, &sregs));
    guest_cpuid(&m, 1, 0, out);
    CHECK_EQ(out[2] & 1u << 27, 1u << 27);
}

static void emulated_is_a_list(void)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_ROOM * sizeof(cpuid->entries[0]));

    cpuid->nent = CPUID_ROOM;
    CHECK_OK(ask(CHECK_OK(kvm->open()), KVM_GET_EMULATED_CPUID, cpuid));
    CHECK(cpuid->nent < 16);
}

static const struct row rows[] = {
    { "supported sizes", supported_sizes },
    { "supported, room growing", supported_growing },
    { "supported content", supported_content },
    { "no leaf twice", no_leaf_twice },
    { "set and get", set_and_get },
    { "set none", set_none },
    { "set old form", set_old_form },
    { "guest sees it", guest_sees_it },
    { "indices", indices },
    { "osxsave follows cr4", osxsave_follows_cr4 },
    { "emulated is a list", emulated_is_a_list },
};
THEME(cpuid, rows);
