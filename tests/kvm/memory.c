/* SPDX-License-Identifier: MIT */
/* Memory slots (api.rst 4.35): add, move, delete, read-only, any kind of memory behind them. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine.h"

#define PAGE 4096u
#define SLOT_GPA 0x10000000ul

/* A byte to port 80h: what is at RSI. Then that byte plus one is written there, and a byte to port 81h; again. */
GUEST(peek, 64, "1: mov (%rsi), %al; out %al, $0x80; incb (%rsi); out %al, $0x81; jmp 1b");

static struct machine peek_machine(uint64_t gpa)
{
    struct machine m = machine_boot(0, GUEST_BYTES(peek));
    struct kvm_regs regs = machine_regs(&m, 0);

    regs.rsi = gpa;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    return m;
}

static void round_of(struct machine *m, uint8_t value)
{
    CHECK_EQ(RUN_TO_OUT(m, 0, 0x80), value);
    RUN_TO_OUT(m, 0, 0x81);
}

/* Both sides see each other's stores at once, whatever the memory is. */
static void check_shared(uint8_t *memory)
{
    struct machine m = peek_machine(SLOT_GPA + PAGE);

    memory[PAGE] = 7;
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, 4 * PAGE, memory));
    round_of(&m, 7);
    CHECK_EQ(memory[PAGE], 8);
    memory[PAGE] = 40;
    round_of(&m, 40);
    CHECK_EQ(memory[PAGE], 41);
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, 0, memory));
}

static void on_anonymous(void)
{
    check_shared(machine_anonymous(4 * PAGE));
}

static void on_shared_anonymous(void)
{
    uint8_t *memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(memory != MAP_FAILED);
    check_shared(memory);
}

static void on_memfd(void)
{
    int fd = memfd_create("conform", MFD_CLOEXEC);

    CHECK(fd >= 0 && ftruncate(fd, 4 * PAGE) == 0);
    uint8_t *memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    check_shared(memory);
    uint8_t byte = 0; /* through the file too */
    CHECK_EQ(pread(fd, &byte, 1, PAGE), 1);
    CHECK_EQ(byte, 41);
}

static void on_file(void)
{
    char path[] = "/tmp/kvm-conform-XXXXXX";
    int fd = mkstemp(path);

    CHECK(fd >= 0 && unlink(path) == 0 && ftruncate(fd, 4 * PAGE) == 0);
    uint8_t *memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(memory != MAP_FAILED);
    check_shared(memory);
    uint8_t byte = 1;
    CHECK_EQ(pread(fd, &byte, 1, PAGE), 1);
    CHECK_EQ(byte, 0); /* private */
}

static void on_hugetlb(void)
{
    uint8_t *memory = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

    if (memory == MAP_FAILED)
        row_skip("the host has no huge pages to give");
    check_shared(memory);
}

static void on_transparent_huge(void)
{
    uint8_t *memory = machine_anonymous(4 << 20);

    memory = (uint8_t *)(((uintptr_t)memory + (2 << 20) - 1) & ~((uintptr_t)(2 << 20) - 1));
    madvise(memory, 2 << 20, MADV_HUGEPAGE);
    check_shared(memory);
}

/* The same pages under two slots. */
static void aliased(void)
{
    struct machine m = peek_machine(SLOT_GPA);
    uint8_t *memory = machine_anonymous(PAGE);

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    CHECK_OK(machine_slot(&m, 2, 0, SLOT_GPA + PAGE, PAGE, memory));
    round_of(&m, 0);
    struct kvm_regs regs = machine_regs(&m, 0);
    regs.rsi += PAGE;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    round_of(&m, 1);
    CHECK_EQ(memory[0], 2);
}

static void deleted_is_mmio(void)
{
    struct machine m = peek_machine(SLOT_GPA);
    uint8_t *memory = machine_anonymous(PAGE);

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    round_of(&m, 0);
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, 0, NULL));
    RUN_TO(&m, 0, KVM_EXIT_MMIO);
    CHECK_EQ(m.run[0]->mmio.phys_addr, SLOT_GPA);
    CHECK_EQ(m.run[0]->mmio.is_write, 0);
    CHECK_EQ(m.run[0]->mmio.len, 1);
    m.run[0]->mmio.data[0] = 0x33;
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x33);
    CHECK_EQ(memory[0], 1);
}

static void moved(void)
{
    struct machine m = peek_machine(SLOT_GPA);
    uint8_t *memory = machine_anonymous(PAGE);

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    round_of(&m, 0);
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA + PAGE, PAGE, memory));
    RUN_TO(&m, 0, KVM_EXIT_MMIO);
    struct kvm_regs regs = machine_regs(&m, 0);
    regs.rsi += PAGE;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory)); /* and back */
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA + PAGE, PAGE, memory));
    CHECK_EQ(memory[0], 1);
}

/* Delete and create with other memory: the guest sees the new. */
static void replaced(void)
{
    struct machine m = peek_machine(SLOT_GPA);
    uint8_t *a = machine_anonymous(PAGE), *b = machine_anonymous(PAGE);

    b[0] = 0x60;
    for (unsigned i = 0; i < 10; i++) {
        CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, i & 1 ? b : a));
        round_of(&m, (uint8_t)((i & 1 ? 0x60 : 0) + i / 2));
        CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, 0, NULL));
    }
}

/* A slot split in three, as a client does for a hole. */
static void split_slot(void)
{
    struct machine m = peek_machine(SLOT_GPA + PAGE);
    uint8_t *memory = machine_anonymous(3 * PAGE);

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, 3 * PAGE, memory));
    round_of(&m, 0);
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, 0, memory));
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    CHECK_OK(machine_slot(&m, 2, KVM_MEM_READONLY, SLOT_GPA + PAGE, PAGE, memory + PAGE));
    CHECK_OK(machine_slot(&m, 3, 0, SLOT_GPA + 2 * PAGE, PAGE, memory + 2 * PAGE));
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 1);
    RUN_TO(&m, 0, KVM_EXIT_MMIO);
    CHECK_EQ(m.run[0]->mmio.is_write, 1);
}

static void read_only(void)
{
    struct machine m = peek_machine(SLOT_GPA);
    uint8_t *memory = machine_anonymous(PAGE);

    memory[0] = 5;
    CHECK_OK(machine_slot(&m, 1, KVM_MEM_READONLY, SLOT_GPA, PAGE, memory));
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 5);
    RUN_TO(&m, 0, KVM_EXIT_MMIO);
    CHECK_EQ(m.run[0]->mmio.phys_addr, SLOT_GPA);
    CHECK_EQ(m.run[0]->mmio.is_write, 1);
    CHECK_EQ(m.run[0]->mmio.len, 1);
    CHECK_EQ(m.run[0]->mmio.data[0], 6);
    RUN_TO_OUT(&m, 0, 0x81);
    CHECK_EQ(memory[0], 5);
    CHECK_EQ(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory), -EINVAL); /* not in place */
}

/* Memory that the host gave for reading only serves a read-only slot. */
static void read_only_mapping(void)
{
    struct machine m = peek_machine(SLOT_GPA);
    uint8_t *memory = machine_anonymous(PAGE);

    memory[0] = 0x21;
    CHECK_EQ(mprotect(memory, PAGE, PROT_READ), 0);
    CHECK_OK(machine_slot(&m, 1, KVM_MEM_READONLY, SLOT_GPA, PAGE, memory));
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x21);
    RUN_TO(&m, 0, KVM_EXIT_MMIO);
}

static void many_slots(void)
{
    struct machine m = peek_machine(SLOT_GPA + 399ul * 2 * PAGE);
    uint8_t *memory = machine_anonymous(400 * PAGE);

    for (uint32_t i = 0; i < 400; i++)
        CHECK_OK(machine_slot(&m, 1 + i, 0, SLOT_GPA + (uint64_t)i * 2 * PAGE, PAGE, memory + (size_t)i * PAGE));
    memory[399 * PAGE] = 0x44;
    round_of(&m, 0x44);
    for (uint32_t i = 0; i < 400; i++)
        CHECK_OK(machine_slot(&m, 1 + i, 0, 0, 0, NULL));
    RUN_TO(&m, 0, KVM_EXIT_MMIO);
}

static void highest_slot_number(void)
{
    struct machine m = peek_machine(SLOT_GPA);
    int slots = CHECK_OK(ask_number(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS));
    uint8_t *memory = machine_anonymous(PAGE);

    CHECK_OK(machine_slot(&m, (uint32_t)slots - 1, 0, SLOT_GPA, PAGE, memory));
    CHECK_EQ(machine_slot(&m, (uint32_t)slots, 0, SLOT_GPA + PAGE, PAGE, memory), -EINVAL);
    round_of(&m, 0);
}

static void unchanged_is_fine(void)
{
    struct machine m = peek_machine(SLOT_GPA);
    uint8_t *memory = machine_anonymous(PAGE);

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    round_of(&m, 0);
}

/* Above 4 GiB. */
GUEST(high, 64, "mov $0x5a, %al; mov %al, (%rsi); mov (%rsi), %al; out %al, $0x80; hlt");

static void above_4g(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(high));
    uint8_t *memory = machine_anonymous(2 << 20);
    struct kvm_regs regs = machine_regs(&m, 0);
    uint64_t pdpte = 0x6000 | 3; /* the fifth GiB by a table at 6000h, which maps it to 4 GiB */

    memcpy(m.ram + GPA_PDPT + 8 * 4, &pdpte, 8);
    for (uint64_t i = 0; i < 512; i++) {
        uint64_t pde = (0x100000000ull + (i << 21)) | 0x83;
        memcpy(m.ram + 0x6000 + 8 * i, &pde, 8);
    }
    regs.rsi = 0x100000000ull + PAGE;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    CHECK_OK(machine_slot(&m, 1, 0, 0x100000000ull, 2 << 20, memory));
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x5a);
    CHECK_EQ(memory[PAGE], 0x5a);
}

/* The client patches code that has run (a debugger, DMA): what runs next is what is there. */
GUEST(patched, 64, "1: mov $0x11, %al; out %al, $0x80; jmp 1b");

static void client_writes_code(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(patched));

    for (unsigned i = 0; i < 50; i++) {
        m.ram[GPA_CODE + 1] = (uint8_t)i;
        CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), i);
    }
}

static void client_writes_page_tables(void)
{
    struct machine m = peek_machine(0x200000);
    struct kvm_sregs sregs;
    uint64_t pde = 0x83; /* to 0 */

    m.ram[0x200000] = 0x20;
    m.ram[0] = 0x70;
    round_of(&m, 0x20);
    memcpy(m.ram + GPA_PD + 8, &pde, 8);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &sregs));
    CHECK_OK(ask(m.vcpu[0], KVM_SET_SREGS, &sregs)); /* a TLB flush */
    round_of(&m, 0x70);
}

static const struct row rows[] = {
    { "anonymous", on_anonymous }, { "shared anonymous", on_shared_anonymous }, { "memfd", on_memfd }, { "file", on_file },
    { "hugetlb", on_hugetlb }, { "transparent huge", on_transparent_huge }, { "aliased", aliased },
    { "deleted is mmio", deleted_is_mmio }, { "moved", moved }, { "replaced", replaced }, { "split slot", split_slot },
    { "read-only", read_only }, { "read-only mapping", read_only_mapping }, { "many slots", many_slots },
    { "highest slot number", highest_slot_number }, { "unchanged is fine", unchanged_is_fine }, { "above 4 GiB", above_4g },
    { "client writes code", client_writes_code }, { "client writes page tables", client_writes_page_tables },
};
THEME(memory, rows);
