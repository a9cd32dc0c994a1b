/* SPDX-License-Identifier: MIT */
/*
 * EPT as a VM has it: the largest pages that a slot allows, small ones while it is logged and large ones again after, tables that go
 * with their slot, misconfigured entries where there is no memory, and slots that are much larger than the host's memory.
 */
#include "kvm_client.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define MAIN_BYTES 0x20000ull /* the slot of code and tables; 4 KiB pages */
#define PDPT_512 0xc000ull    /* of the second 512 GiB */
#define SLOT_GPA GIB
#define FAR_GPA (520 * GIB)

GUEST_CODE(touch_code, ".code64", "1: mov (%rsi), %al; incb (%rsi); out %al, $0x80; jmp 1b");
GUEST_CODE(peek_code, ".code64", "1: mov (%rsi), %al; out %al, $0x80; jmp 1b");

/* One to one by 1 GiB pages, from 1 GiB on and from 512 GiB on. */
static int setup(void **state)
{
    struct client *c = malloc(sizeof(*c));

    client_new_vm(c);
    assert_int_equal(client_slot(c, 0, 0, MAIN_BYTES, 0), 0);
    client_new_vcpu(c);
    client_load_64(c, 0x10000, touch_code, GUEST_BYTES(touch_code));
    memcpy(c->memory + 0x11000, peek_code, GUEST_BYTES(peek_code));
    for (uint64_t i = 1; i < 512; i++)
        client_word(c, CLIENT_PDPT + 8 * i, i * GIB | 0xe7);
    client_word(c, CLIENT_PML4 + 8, PDPT_512 | 7);
    for (uint64_t i = 0; i < 512; i++)
        client_word(c, PDPT_512 + 8 * i, (512 + i) * GIB | 0xe7);
    *state = c;
    return 0;
}

static void go(struct client *c, uint64_t rip, uint64_t rsi, uint32_t reason)
{
    struct kvm_regs regs;

    c->run->immediate_exit = 1; /* what the last exit left to do is done */
    assert_int_equal(ask(c->vcpu, KVM_RUN, NULL), -EINTR);
    c->run->immediate_exit = 0;
    assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &regs), 0);
    regs.rip = rip;
    regs.rsi = rsi;
    assert_int_equal(ask(c->vcpu, KVM_SET_REGS, &regs), 0);
    client_run(c, reason);
}

static void touch(struct client *c, uint64_t gpa)
{
    go(c, 0x10000, gpa, KVM_EXIT_IO);
}

static uint64_t stat_of(int handle, const char *name)
{
    union { struct kage_stats head; uint8_t room[sizeof(struct kage_stats) + 200 * sizeof(struct kage_stat)]; } stats = { .head.count = 200 };

    assert_int_equal(ask(handle, KAGE_GET_STATS, &stats), 0);
    for (uint32_t i = 0; i < stats.head.count; i++)
        if (!strcmp(stats.head.entries[i].name, name))
            return stats.head.entries[i].value;
    fail_msg("no statistic %s", name);
    return 0;
}

static void check_pages(struct client *c, uint64_t small, uint64_t of_2m, uint64_t of_1g)
{
    assert_int_equal(stat_of(c->vm, "pages_4k"), small);
    assert_int_equal(stat_of(c->vm, "pages_2m"), of_2m);
    assert_int_equal(stat_of(c->vm, "pages_1g"), of_1g);
}

/* Memory of its own at this alignment, of which little is touched. */
static uint8_t *reserve(uint64_t bytes, uint64_t alignment, uint64_t offset)
{
    uint8_t *space = mmap(NULL, bytes + 2 * alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_ptr_not_equal(space, MAP_FAILED);
    return (uint8_t *)(((uintptr_t)space + alignment - 1) & ~(uintptr_t)(alignment - 1)) + offset;
}

static int slot_at(struct client *c, uint32_t slot, uint64_t gpa, uint64_t bytes, uint32_t flags, const uint8_t *memory)
{
    struct kvm_userspace_memory_region region = { .slot = slot, .guest_phys_addr = gpa, .memory_size = bytes, .flags = flags,
                                                  .userspace_addr = (uintptr_t)memory };
    return ask(c->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static void test_page_sizes(void **state)
{
    struct client *c = *state;
    uint8_t *memory = reserve(4 * GIB, GIB, 0);

    touch(c, 0x18000);
    go(c, 0x11000, 0x18000, KVM_EXIT_IO); /* what all of it needs is mapped */
    uint64_t small = stat_of(c->vm, "pages_4k");
    check_pages(c, small, 0, 0);
    assert_int_equal(slot_at(c, 1, SLOT_GPA, 2 * GIB, 0, memory), 0);
    touch(c, SLOT_GPA + 5);
    touch(c, SLOT_GPA + GIB / 2);
    check_pages(c, small, 0, 1);
    touch(c, SLOT_GPA + 2 * GIB - 1);
    check_pages(c, small, 0, 2);
    assert_int_equal(memory[5] + memory[GIB / 2] + memory[2 * GIB - 1], 3);
    assert_int_equal(slot_at(c, 1, SLOT_GPA, 0, 0, memory), 0);
    check_pages(c, small, 0, 0);

    /* Not a whole GiB, and one whose host address lies otherwise: 2 MiB, and 4 KiB at the end. */
    assert_int_equal(slot_at(c, 1, SLOT_GPA, GIB - 4096, 0, memory), 0);
    touch(c, SLOT_GPA);
    touch(c, SLOT_GPA + GIB - 4097);
    check_pages(c, small + 1, 1, 0);
    assert_int_equal(slot_at(c, 1, SLOT_GPA, 0, 0, memory), 0);
    assert_int_equal(slot_at(c, 1, SLOT_GPA, 2 * GIB, 0, memory + 2 * MIB), 0);
    touch(c, SLOT_GPA);
    check_pages(c, small, 1, 0);
    assert_int_equal(slot_at(c, 1, SLOT_GPA, 0, 0, memory), 0);
    assert_int_equal(slot_at(c, 1, SLOT_GPA, 2 * GIB, 0, memory + 4096), 0);
    touch(c, SLOT_GPA);
    check_pages(c, small + 1, 0, 0);
    assert_int_equal(slot_at(c, 1, SLOT_GPA, 0, 0, memory), 0);
    assert_int_equal(slot_at(c, 1, SLOT_GPA + 4096, 2 * GIB, KVM_MEM_READONLY, memory + 4096), 0);
    go(c, 0x11000, SLOT_GPA + 4096, KVM_EXIT_IO);
    go(c, 0x11000, SLOT_GPA + GIB, KVM_EXIT_IO);
    check_pages(c, small + 1, 0, 1);
}

static void test_logging(void **state)
{
    struct client *c = *state;
    const uint64_t bytes = 64 * MIB;
    uint8_t *memory = reserve(bytes, GIB, 0);
    uint64_t *bits = calloc(1, bytes / 4096 / 8);
    struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bits };

    touch(c, 0x18000);
    go(c, 0x11000, 0x18000, KVM_EXIT_IO); /* what all of it needs is mapped */
    uint64_t small = stat_of(c->vm, "pages_4k"), tables = 0;
    assert_int_equal(slot_at(c, 1, SLOT_GPA, bytes, 0, memory), 0);
    for (unsigned round = 0; round < 3; round++) {
        touch(c, SLOT_GPA);
        touch(c, SLOT_GPA + 41 * MIB);
        check_pages(c, small, 2, 0);
        if (round == 0)
            tables = stat_of(c->vm, "ept_table_pages");
        assert_int_equal(stat_of(c->vm, "ept_table_pages"), tables); /* none are left behind */

        assert_int_equal(slot_at(c, 1, SLOT_GPA, bytes, KVM_MEM_LOG_DIRTY_PAGES, memory), 0);
        check_pages(c, small, 0, 0);
        go(c, 0x11000, SLOT_GPA + 3 * MIB, KVM_EXIT_IO); /* only read */
        touch(c, SLOT_GPA + 41 * MIB);
        touch(c, SLOT_GPA + 5 * 4096);
        check_pages(c, small + 3, 0, 0);
        assert_int_equal(ask(c->vm, KVM_GET_DIRTY_LOG, &log), 0);
        for (uint64_t i = 0; i < bytes / 4096 / 64; i++)
            assert_int_equal(bits[i], i == 0 ? 1 << 5 : i == 41 * MIB / 4096 / 64 ? 1ull << (41 * MIB / 4096 % 64) : 0);
        /* Protected again, each by itself: the first write of a page asks, others do not. */
        uint64_t asked = stat_of(c->vm, "ept_violations");
        touch(c, SLOT_GPA + 41 * MIB + 8);
        touch(c, SLOT_GPA + 41 * MIB + 16);
        go(c, 0x11000, SLOT_GPA + 5 * 4096, KVM_EXIT_IO);
        assert_int_equal(stat_of(c->vm, "ept_violations"), asked + 1);
        assert_int_equal(slot_at(c, 1, SLOT_GPA, bytes, 0, memory), 0);
    }
    free(bits);
}

/* A clear of some pages takes nothing from others that are dirty. */
static void test_clear_by_page(void **state)
{
    struct client *c = *state;
    uint8_t *memory = reserve(MIB, MIB, 0);
    uint64_t mask = 1ull << 3;
    struct kvm_clear_dirty_log clear = { .slot = 1, .num_pages = 64, .dirty_bitmap = &mask };

    assert_int_equal(client_cap(c->vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1), 0);
    assert_int_equal(slot_at(c, 1, SLOT_GPA, MIB, KVM_MEM_LOG_DIRTY_PAGES, memory), 0);
    for (unsigned page = 0; page < 8; page++)
        touch(c, SLOT_GPA + page * 4096);
    assert_int_equal(ask(c->vm, KVM_CLEAR_DIRTY_LOG, &clear), 0);
    uint64_t asked = stat_of(c->vm, "ept_violations");
    for (unsigned page = 0; page < 8; page++)
        touch(c, SLOT_GPA + page * 4096);
    assert_int_equal(stat_of(c->vm, "ept_violations"), asked + 1);
}

static void test_mmio(void **state)
{
    struct client *c = *state;
    uint8_t *memory = reserve(4 * MIB, GIB, 0);

    go(c, 0x11000, SLOT_GPA + 5, KVM_EXIT_MMIO);
    assert_int_equal(c->run->mmio.phys_addr, SLOT_GPA + 5);
    uint64_t asked = stat_of(c->vm, "ept_violations"), created = stat_of(c->vcpu, "pf_mmio_spte_created");
    uint64_t entries = stat_of(c->vm, "ept_mmio_entries"), tables = stat_of(c->vm, "ept_table_pages");
    assert_true(entries >= 1 && created >= 1);
    for (uint64_t gpa = SLOT_GPA; gpa < SLOT_GPA + GIB; gpa += 17 * MIB + 4096) { /* one entry serves all of the GiB */
        go(c, 0x11000, gpa, KVM_EXIT_MMIO);
        assert_int_equal(c->run->mmio.phys_addr, gpa);
    }
    assert_int_equal(stat_of(c->vm, "ept_violations"), asked);
    for (uint64_t gpa = 2 * GIB; gpa < 100 * GIB; gpa += GIB) /* a guest that looks everywhere makes entries, not tables */
        go(c, 0x11000, gpa, KVM_EXIT_MMIO);
    assert_int_equal(stat_of(c->vm, "ept_table_pages"), tables);
    assert_true(stat_of(c->vm, "ept_mmio_entries") <= entries + 98);

    /* A slot in the middle is memory at once, what is around it is not. */
    assert_int_equal(slot_at(c, 1, SLOT_GPA + 6 * MIB, 4096, 0, memory), 0);
    memory[7] = 0x42;
    touch(c, SLOT_GPA + 6 * MIB + 7);
    assert_int_equal(memory[7], 0x43);
    go(c, 0x11000, SLOT_GPA + 6 * MIB - 1, KVM_EXIT_MMIO);
    go(c, 0x11000, SLOT_GPA + 6 * MIB + 4096, KVM_EXIT_MMIO);
    assert_int_equal(slot_at(c, 1, SLOT_GPA + 10 * MIB, 4096, 0, memory), 0);
    go(c, 0x11000, SLOT_GPA + 6 * MIB + 7, KVM_EXIT_MMIO);
    touch(c, SLOT_GPA + 10 * MIB + 7);
    assert_int_equal(memory[7], 0x44);
    assert_int_equal(slot_at(c, 1, SLOT_GPA + 10 * MIB, 0, 0, memory), 0);
    go(c, 0x11000, SLOT_GPA + 10 * MIB + 7, KVM_EXIT_MMIO);
}

static uint64_t resident_bytes(void)
{
    unsigned long long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%llu %llu", &total, &resident), 2);
    fclose(f);
    return resident * 4096;
}

/* A slot is address space: neither it nor its dirty bitmap costs what is not touched. */
static void test_huge_slot(void **state)
{
    struct client *c = *state;
    const uint64_t bytes = 400 * GIB;
    uint8_t *memory = reserve(bytes, GIB, 0);
    uint64_t before = resident_bytes();

    assert_int_equal(slot_at(c, 1, FAR_GPA, bytes, 0, memory), 0);
    touch(c, FAR_GPA);
    touch(c, FAR_GPA + bytes - 1);
    assert_int_equal(memory[0] + memory[bytes - 1], 2);
    assert_int_equal(stat_of(c->vm, "pages_1g"), 2);
    assert_int_equal(slot_at(c, 1, FAR_GPA, bytes, KVM_MEM_LOG_DIRTY_PAGES, memory), 0);
    touch(c, FAR_GPA + bytes - 1);
    uint64_t *bits = calloc(1, bytes / 4096 / 8);
    struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bits };
    assert_true(resident_bytes() - before < 64 * MIB);
    assert_int_equal(ask(c->vm, KVM_GET_DIRTY_LOG, &log), 0);
    assert_int_equal(bits[bytes / 4096 / 64 - 1], 1ull << 63);
    assert_int_equal(bits[0], 0);
    free(bits);
    assert_int_equal(slot_at(c, 1, FAR_GPA, 0, 0, memory), 0);

    /* 2^31 - 1 pages are the most; the address space ends where it ends. */
    assert_int_equal(slot_at(c, 1, FAR_GPA, (1ull << 31) * 4096, 0, memory), -EINVAL);
    assert_int_equal(slot_at(c, 1, FAR_GPA, ((1ull << 31) - 1) * 4096, 0, number(1ull << 44)), 0); /* nothing is there, nobody looks */
    assert_int_equal(slot_at(c, 2, (1ull << 48) - 4096, 2 * 4096, 0, memory), -EINVAL);
    assert_int_equal(slot_at(c, 2, (1ull << 48) - 4096, 4096, 0, memory), 0);
    munmap(memory, bytes);
}

static uint64_t vmread(struct client *c, uint32_t encoding)
{
    struct kage_vmcs_field field = { .encoding = encoding };

    assert_int_equal(ask(c->vcpu, KAGE_VMREAD, &field), 0);
    return field.value;
}

/* Memory that the client has unmapped: the violation says where in the guest that is, and what was done there. */
static void test_gone(void **state)
{
    struct client *c = *state;
    uint8_t *memory = reserve(4 * MIB, GIB, 0);

    assert_int_equal(slot_at(c, 1, SLOT_GPA, 4 * MIB, 0, memory), 0);
    for (unsigned rip = 0x10000; rip <= 0x11000; rip += 0x1000) { /* met before, and never yet */
        struct kvm_regs regs;
        if (rip == 0x10000)
            touch(c, SLOT_GPA + 3 * MIB + 0x123);
        assert_int_equal(munmap(memory + 3 * MIB, 4096), 0);
        assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &regs), 0);
        regs.rip = rip;
        regs.rsi = SLOT_GPA + 3 * MIB + 0x123;
        assert_int_equal(ask(c->vcpu, KVM_SET_REGS, &regs), 0);
        int result;
        while ((result = ask(c->vcpu, KVM_RUN, NULL)) == 0 && c->run->exit_reason == KVM_EXIT_IO) {
        }
        assert_int_equal(result, -EFAULT);
        assert_int_equal(vmread(c, 0x2400), SLOT_GPA + 3 * MIB + 0x123); /* GUEST_PHYSICAL_ADDRESS */
        assert_int_equal(vmread(c, 0x4402) & 0xffff, 48);                /* EXIT_REASON: EPT violation */
        assert_int_equal(vmread(c, 0x6400) & 3, 1);                      /* EXIT_QUALIFICATION: a read */
        assert_ptr_equal(mmap(memory + 3 * MIB, 4096, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), memory + 3 * MIB);
        client_run(c, KVM_EXIT_IO);
    }
}

/* SEV and TDX are not there, and said so as by a kernel without them. */
static void test_no_encryption(void **state)
{
    struct client *c = *state;
    struct kvm_sev_cmd command = { .id = KVM_SEV_INIT };
    struct kvm_enc_region region = { .addr = (uintptr_t)c->memory, .size = 4096 };

    assert_int_equal(ask(c->vm, KVM_MEMORY_ENCRYPT_OP, &command), -ENOTTY);
    assert_int_equal(ask(c->vm, KVM_MEMORY_ENCRYPT_OP, NULL), -ENOTTY);
    assert_int_equal(ask(c->vm, KVM_MEMORY_ENCRYPT_REG_REGION, &region), -ENOTTY);
    assert_int_equal(ask(c->vm, KVM_MEMORY_ENCRYPT_UNREG_REGION, &region), -ENOTTY);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, client_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_page_sizes), TEST(test_logging), TEST(test_clear_by_page), TEST(test_mmio), TEST(test_huge_slot), TEST(test_gone), TEST(test_no_encryption),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
