/* SPDX-License-Identifier: MIT */
/* KVM_GET_STATS_FD (api.rst 4.133) and dirty rings (8.29): capabilities that an implementation may lack, then the rows are skipped. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine.h"

#define PAGE 4096u
#define SLOT_GPA 0x10000000ul
#define RING_ENTRIES 256u

GUEST(loop, 64, "1: out %al, $0x80; jmp 1b");
/* Dirties one page after the other from RSI on, RCX of them; then port 81h. */
GUEST(dirty, 64, "out %al, $0x80; 1: incb (%rsi); add $4096, %rsi; dec %rcx; jnz 1b; out %al, $0x81; hlt");

static int stats_fd(struct machine *m, int handle)
{
    if (!ask_number(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_BINARY_STATS_FD))
        row_skip("KVM_CAP_BINARY_STATS_FD is 0");
    return CHECK_OK(ask(handle, KVM_GET_STATS_FD, NULL));
}

static void *read_all(int fd, uint64_t offset, size_t bytes)
{
    void *buffer = calloc(1, bytes + 1);

    CHECK_EQ(pread(fd, buffer, bytes, (off_t)offset), bytes);
    return buffer;
}

static void check_stats(int fd)
{
    const struct kvm_stats_header *header = read_all(fd, 0, sizeof(*header));
    CHECK(header->name_size > 0 && header->name_size <= 256 && header->num_desc > 0 && header->num_desc < 1000);
    const char *id = read_all(fd, header->id_offset, header->name_size);
    CHECK(strncmp(id, "kvm-", 4) == 0);
    size_t desc_bytes = sizeof(struct kvm_stats_desc) + header->name_size;
    const uint8_t *descs = read_all(fd, header->desc_offset, desc_bytes * header->num_desc);
    for (uint32_t i = 0; i < header->num_desc; i++) {
        const struct kvm_stats_desc *desc = (const struct kvm_stats_desc *)(const void *)(descs + i * desc_bytes);
        CHECK(desc->name[0] != '\0' && strnlen(desc->name, header->name_size) < header->name_size);
        CHECK((desc->flags & KVM_STATS_TYPE_MASK) <= KVM_STATS_TYPE_MAX);
        CHECK((desc->flags & KVM_STATS_UNIT_MASK) <= KVM_STATS_UNIT_MAX);
        CHECK(desc->size > 0 && desc->offset % 8 == 0);
        free(read_all(fd, header->data_offset + desc->offset, 8ull * desc->size));
    }
}

/* The value of a statistic. */
static uint64_t value_of(int fd, const char *name)
{
    const struct kvm_stats_header *header = read_all(fd, 0, sizeof(*header));
    size_t desc_bytes = sizeof(struct kvm_stats_desc) + header->name_size;
    const uint8_t *descs = read_all(fd, header->desc_offset, desc_bytes * header->num_desc);

    for (uint32_t i = 0; i < header->num_desc; i++) {
        const struct kvm_stats_desc *desc = (const struct kvm_stats_desc *)(const void *)(descs + i * desc_bytes);
        if (strcmp(desc->name, name) == 0)
            return *(const uint64_t *)read_all(fd, header->data_offset + desc->offset, 8);
    }
    check_failed(__FILE__, __LINE__, "no statistic %s", name);
}

static void stats_of_vm(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(loop));

    check_stats(stats_fd(&m, m.vm));
}

static void stats_of_vcpu(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(loop));
    int fd = stats_fd(&m, m.vcpu[0]);

    check_stats(fd);
    uint64_t before = value_of(fd, "exits");
    for (unsigned i = 0; i < 10; i++)
        RUN_TO_OUT(&m, 0, 0x80);
    CHECK(value_of(fd, "exits") >= before + 10);
}

/* It lives as long as it is open. */
static void stats_outlive_handles(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(loop));
    int fd = stats_fd(&m, m.vcpu[0]), vm_fd = stats_fd(&m, m.vm);

    CHECK_EQ(kvm->close(m.vcpu[0]) | kvm->close(m.vm) | kvm->close(m.system), 0);
    check_stats(fd);
    check_stats(vm_fd);
    CHECK_EQ(close(fd) | close(vm_fd), 0);
}

static void stats_read_in_order(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(loop));
    int fd = stats_fd(&m, m.vcpu[0]);
    struct kvm_stats_header a, b;

    CHECK_EQ(read(fd, &a, sizeof(a)), sizeof(a));
    CHECK_EQ(pread(fd, &b, sizeof(b), 0), sizeof(b));
    CHECK_EQ(memcmp(&a, &b, sizeof(a)), 0);
    EXPECT("read beyond the end", pread(fd, &b, sizeof(b), 1 << 24), 0);
    CHECK(write(fd, &b, sizeof(b)) < 0);
}

/* ---- dirty rings ---- */

struct ringed {
    struct machine m;
    struct kvm_dirty_gfn *ring;
    uint8_t *memory;
};

static struct ringed ring_machine(unsigned pages)
{
    struct ringed r = { .m = machine_new(0, 0), .memory = machine_anonymous((size_t)pages * PAGE) };
    uint32_t bytes = RING_ENTRIES * sizeof(struct kvm_dirty_gfn);
    int most = ask_number(r.m.vm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING);

    if (most <= 0)
        row_skip("KVM_CAP_DIRTY_LOG_RING is 0");
    if ((uint32_t)most < bytes)
        check_failed(__FILE__, __LINE__, "rings of at most %d bytes", most);
    CHECK_EQ(machine_enable_cap(r.m.vm, KVM_CAP_DIRTY_LOG_RING, bytes + 16), -EINVAL); /* a power of two */
    CHECK_OK(machine_enable_cap(r.m.vm, KVM_CAP_DIRTY_LOG_RING, bytes));
    machine_add_vcpu(&r.m, 0);
    machine_load(&r.m, GPA_CODE, GUEST_BYTES(dirty));
    machine_cpuid(&r.m, 0);
    machine_long_mode(&r.m, 0, GPA_CODE);
    CHECK_OK(machine_slot(&r.m, 1, KVM_MEM_LOG_DIRTY_PAGES, SLOT_GPA, (uint64_t)pages * PAGE, r.memory));
    r.ring = kvm->mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r.m.vcpu[0], KVM_DIRTY_LOG_PAGE_OFFSET * PAGE);
    CHECK(r.ring != MAP_FAILED);
    RUN_TO_OUT(&r.m, 0, 0x80);
    struct kvm_regs regs = machine_regs(&r.m, 0);
    regs.rsi = SLOT_GPA;
    regs.rcx = pages;
    CHECK_OK(ask(r.m.vcpu[0], KVM_SET_REGS, &regs));
    return r;
}

static void ring_collects(void)
{
    struct ringed r = ring_machine(20);

    RUN_TO_OUT(&r.m, 0, 0x81);
    for (uint32_t i = 0; i < 20; i++) {
        CHECK_EQ(__atomic_load_n(&r.ring[i].flags, __ATOMIC_ACQUIRE), KVM_DIRTY_GFN_F_DIRTY);
        CHECK_EQ(r.ring[i].slot, 1);
        CHECK_EQ(r.ring[i].offset, i);
        r.ring[i].flags = KVM_DIRTY_GFN_F_RESET;
    }
    CHECK_EQ(r.ring[20].flags, 0);
    CHECK_EQ(ask(r.m.vm, KVM_RESET_DIRTY_RINGS, NULL), 20);
    CHECK_EQ(ask(r.m.vm, KVM_RESET_DIRTY_RINGS, NULL), 0);
    CHECK_EQ(r.ring[3].flags, 0);
}

/* More pages than entries: KVM_EXIT_DIRTY_RING_FULL until the client has collected and reset; every page comes once. */
static void ring_fills(void)
{
    enum { PAGES = 1000 };
    struct ringed r = ring_machine(PAGES);
    static uint8_t seen[PAGES];
    uint32_t next = 0, fulls = 0;

    for (;;) {
        CHECK_EQ(machine_run(&r.m, 0), 0);
        uint32_t reason = r.m.run[0]->exit_reason, count = 0;
        for (struct kvm_dirty_gfn *gfn; (gfn = &r.ring[next % RING_ENTRIES])->flags & KVM_DIRTY_GFN_F_DIRTY; next++, count++) {
            CHECK(gfn->offset < PAGES);
            seen[gfn->offset]++;
            __atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        }
        CHECK_EQ(ask(r.m.vm, KVM_RESET_DIRTY_RINGS, NULL), count);
        if (reason == KVM_EXIT_IO)
            break;
        CHECK_EQ(reason, KVM_EXIT_DIRTY_RING_FULL);
        fulls++;
    }
    CHECK(fulls >= 3);
    for (unsigned i = 0; i < PAGES; i++)
        if (seen[i] != 1)
            check_failed(__FILE__, __LINE__, "page %u came %u times, %u exits for a full ring", i, seen[i], fulls);
}

static void ring_excludes_the_log(void)
{
    struct ringed r = ring_machine(20);
    uint64_t bitmap[1];
    struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bitmap };

    CHECK_EQ(ask(r.m.vm, KVM_GET_DIRTY_LOG, &log), -ENXIO);
    CHECK_EQ(machine_enable_cap(r.m.vm, KVM_CAP_DIRTY_LOG_RING, 8192), -EINVAL); /* there is a vCPU, and a ring */
}

static void ring_reset_without(void)
{
    struct machine m = machine_new(0, 1);

    if (!ask_number(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING))
        row_skip("KVM_CAP_DIRTY_LOG_RING is 0");
    CHECK_EQ(ask(m.vm, KVM_RESET_DIRTY_RINGS, NULL), -EINVAL);
    CHECK_EQ(machine_enable_cap(m.vm, KVM_CAP_DIRTY_LOG_RING, 4096), -EINVAL); /* behind the first vCPU */
}

static const struct row rows[] = {
    { "of a vm", stats_of_vm }, { "of a vcpu", stats_of_vcpu }, { "outlive handles", stats_outlive_handles },
    { "read in order", stats_read_in_order }, { "ring collects", ring_collects }, { "ring fills", ring_fills },
    { "ring excludes the log", ring_excludes_the_log }, { "ring reset without", ring_reset_without },
};
THEME(stats, rows);
