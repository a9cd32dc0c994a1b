/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Present, writable, a 2 MiB page. */
#define PDE_PAGE 0x83u
#define PTE_TABLE 3u

void *machine_anonymous(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(memory != MAP_FAILED);
    return memory;
}

int machine_slot(struct machine *m, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t bytes, const void *memory)
{
    struct kvm_userspace_memory_region region = { .slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = bytes,
                                                  .userspace_addr = (uintptr_t)memory };

    return ask(m->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static void put64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof(value));
}

static void fill_tables(uint8_t *ram)
{
    put64(ram + GPA_GDT + SELECTOR_CODE, 0x00af9b000000ffffu); /* 64-bit code, accessed */
    put64(ram + GPA_GDT + SELECTOR_DATA, 0x00cf93000000ffffu);
    put64(ram + GPA_PML4, GPA_PDPT | PTE_TABLE);
    for (unsigned i = 0; i < 4; i++)
        put64(ram + GPA_PDPT + 8 * i, (GPA_PD + 0x1000u * i) | PTE_TABLE);
    for (uint64_t i = 0; i < 2048; i++)
        put64(ram + GPA_PD + 8 * i, i << 21 | PDE_PAGE);
}

int machine_add_vcpu(struct machine *m, unsigned id)
{
    unsigned index = m->vcpus++;

    CHECK(index < MACHINE_VCPUS);
    m->vcpu[index] = CHECK_OK(ask_number(m->vm, KVM_CREATE_VCPU, id));
    m->run[index] = kvm->mmap(NULL, m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu[index], 0);
    CHECK(m->run[index] != MAP_FAILED);
    return m->vcpu[index];
}

int machine_mmu;

struct machine machine_new(unsigned with, unsigned vcpus)
{
    struct machine m = { .system = kvm->open() };

    CHECK(m.system >= 0);
    m.vm = CHECK_OK(ask(m.system, KVM_CREATE_VM, NULL));
    if (machine_mmu)
        CHECK_OK(kage_vm_set_mmu(kvm, m.vm, machine_mmu) < 0 ? -errno : 0);
    m.run_bytes = (size_t)CHECK_OK(ask(m.system, KVM_GET_VCPU_MMAP_SIZE, NULL));
    if (implementation & IMPL_KERNEL) /* needed by processors without unrestricted guest (api.rst 4.36) */
        CHECK_OK(ask_number(m.vm, KVM_SET_TSS_ADDR, 0xfffbd000u));
    if (with & WITH_IRQCHIP)
        CHECK_OK(ask(m.vm, KVM_CREATE_IRQCHIP, NULL));
    if (with & WITH_SPLIT)
        CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_SPLIT_IRQCHIP, 24));
    if (with & WITH_PIT)
        CHECK_OK(ask(m.vm, KVM_CREATE_PIT2, &(struct kvm_pit_config){ 0 }));
    if (!(with & WITHOUT_RAM)) {
        m.ram = machine_anonymous(RAM_BYTES);
        fill_tables(m.ram);
        CHECK_OK(machine_slot(&m, RAM_SLOT, 0, 0, RAM_BYTES, m.ram));
    }
    for (unsigned i = 0; i < vcpus; i++)
        machine_add_vcpu(&m, i);
    return m;
}

void machine_load(struct machine *m, uint64_t gpa, const void *code, size_t bytes)
{
    CHECK(gpa + bytes <= RAM_BYTES);
    memcpy(m->ram + gpa, code, bytes);
}

void machine_gate(struct machine *m, unsigned vector, uint64_t handler)
{
    uint8_t *gate = m->ram + GPA_IDT + 16 * vector;

    put64(gate, (handler & 0xffff) | (uint64_t)SELECTOR_CODE << 16 | 0x8eull << 40 | (handler >> 16 & 0xffff) << 48);
    put64(gate + 8, handler >> 32);
}

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, uint8_t l)
{
    return (struct kvm_segment){ .limit = UINT32_MAX, .selector = selector, .type = type, .present = 1, .db = !l, .s = 1, .l = l,
                                 .g = 1 };
}

void machine_long_mode(struct machine *m, unsigned vcpu, uint64_t rip)
{
    struct kvm_regs regs = { .rip = rip, .rsp = GPA_STACK + 0x1000u * vcpu, .rflags = 2 };
    struct kvm_sregs sregs;

    CHECK_OK(ask(m->vcpu[vcpu], KVM_GET_SREGS, &sregs));
    sregs.cs = flat_segment(SELECTOR_CODE, 11, 1);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat_segment(SELECTOR_DATA, 3, 0);
    sregs.gdt = (struct kvm_dtable){ .base = GPA_GDT, .limit = 0x17 };
    sregs.idt = (struct kvm_dtable){ .base = GPA_IDT, .limit = 0xfff };
    sregs.cr0 = 0x80010033u; /* PG WP NE ET MP PE */
    sregs.cr3 = GPA_PML4;
    sregs.cr4 = 0x620; /* OSXMMEXCPT OSFXSR PAE */
    sregs.efer = 0x500; /* LMA LME */
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_SREGS, &sregs));
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_REGS, &regs));
}

void machine_real_mode(struct machine *m, unsigned vcpu, uint64_t ip)
{
    struct kvm_regs regs = { .rip = ip, .rsp = 0x7000, .rflags = 2 };
    struct kvm_sregs sregs;

    CHECK_OK(ask(m->vcpu[vcpu], KVM_GET_SREGS, &sregs));
    sregs.cs.selector = 0;
    sregs.cs.base = 0;
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_SREGS, &sregs));
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_REGS, &regs));
}

struct kvm_cpuid2 *machine_supported_cpuid(int system)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_ROOM * sizeof(cpuid->entries[0]));

    CHECK(cpuid != NULL);
    cpuid->nent = CPUID_ROOM;
    CHECK_OK(ask(system, KVM_GET_SUPPORTED_CPUID, cpuid));
    return cpuid;
}

void machine_cpuid(struct machine *m, unsigned vcpu)
{
    struct kvm_cpuid2 *cpuid = machine_supported_cpuid(m->system);

    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_CPUID2, cpuid));
    free(cpuid);
}

struct machine machine_boot(unsigned with, const void *code, size_t bytes)
{
    struct machine m = machine_new(with, 1);

    machine_load(&m, GPA_CODE, code, bytes);
    machine_cpuid(&m, 0);
    machine_long_mode(&m, 0, GPA_CODE);
    return m;
}

int machine_run(struct machine *m, unsigned vcpu)
{
    return ask(m->vcpu[vcpu], KVM_RUN, NULL);
}

void machine_run_to(const char *file, int line, struct machine *m, unsigned vcpu, uint32_t reason)
{
    int result = machine_run(m, vcpu);
    const struct kvm_run *run = m->run[vcpu];

    if (result == 0 && run->exit_reason == reason)
        return;
    char more[96] = "";
    if (result == 0 && run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
        snprintf(more, sizeof(more), " (suberror %u)", run->internal.suberror);
    else if (result == 0 && run->exit_reason == KVM_EXIT_IO)
        snprintf(more, sizeof(more), " (port 0x%x, data 0x%x)", run->io.port, *machine_io_data(m, vcpu));
    else if (result == 0 && run->exit_reason == KVM_EXIT_MMIO)
        snprintf(more, sizeof(more), " (0x%llx, %u bytes, %s)", run->mmio.phys_addr, run->mmio.len,
                 run->mmio.is_write ? "write" : "read");
    struct kvm_regs regs = { 0 };
    ask(m->vcpu[vcpu], KVM_GET_REGS, &regs);
    check_failed(file, line, "KVM_RUN gave %d with exit %u%s at rip 0x%llx, not exit %u", result, run->exit_reason, more, regs.rip,
                 reason);
}

uint8_t *machine_io_data(struct machine *m, unsigned vcpu)
{
    return (uint8_t *)m->run[vcpu] + m->run[vcpu]->io.data_offset;
}

uint8_t machine_run_to_out(const char *file, int line, struct machine *m, unsigned vcpu, uint16_t port)
{
    machine_run_to(file, line, m, vcpu, KVM_EXIT_IO);
    const struct kvm_run *run = m->run[vcpu];
    if (run->io.port != port || run->io.direction != KVM_EXIT_IO_OUT || run->io.size != 1)
        check_failed(file, line, "the exit is direction %u, size %u, port 0x%x (data 0x%x), not a byte to port 0x%x",
                     run->io.direction, run->io.size, run->io.port, *machine_io_data(m, vcpu), port);
    return *machine_io_data(m, vcpu);
}

struct kvm_regs machine_regs(struct machine *m, unsigned vcpu)
{
    struct kvm_regs regs;

    CHECK_OK(ask(m->vcpu[vcpu], KVM_GET_REGS, &regs));
    return regs;
}

struct one_msr {
    struct msrs_head msrs;
    struct kvm_msr_entry entry;
};

uint64_t machine_get_msr(struct machine *m, unsigned vcpu, uint32_t index)
{
    struct one_msr one = { .msrs.nmsrs = 1, .entry.index = index };

    if (ask(m->vcpu[vcpu], KVM_GET_MSRS, &one) != 1)
        check_failed(__FILE__, __LINE__, "KVM_GET_MSRS of 0x%x", index);
    return one.entry.data;
}

int machine_set_msr(struct machine *m, unsigned vcpu, uint32_t index, uint64_t value)
{
    struct one_msr one = { .msrs.nmsrs = 1, .entry = { .index = index, .data = value } };

    return ask(m->vcpu[vcpu], KVM_SET_MSRS, &one);
}

int machine_enable_cap(int handle, uint32_t cap, uint64_t arg)
{
    struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

    return ask(handle, KVM_ENABLE_CAP, &enable);
}
