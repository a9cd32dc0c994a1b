/* SPDX-License-Identifier: MIT */
/* ioeventfd (api.rst 4.59) and coalesced MMIO and PIO (4.116). */
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "machine.h"

/* Port 80h's exit: the client sets RSI, RDX, RAX. Then one write of 1, 2, 4 or 8 bytes by the code at the entry; again. */
GUEST(mmio1, 64, "1: out %al, $0x80; mov %bl, (%rsi); jmp 1b");
GUEST(mmio2, 64, "1: out %al, $0x80; mov %bx, (%rsi); jmp 1b");
GUEST(mmio4, 64, "1: out %al, $0x80; mov %ebx, (%rsi); jmp 1b");
GUEST(mmio8, 64, "1: out %al, $0x80; mov %rbx, (%rsi); jmp 1b");
GUEST(pio1, 64, "1: out %al, $0x80; mov %esi, %edx; mov %ebx, %eax; out %al, %dx; jmp 1b");
GUEST(pio2, 64, "1: out %al, $0x80; mov %esi, %edx; mov %ebx, %eax; out %ax, %dx; jmp 1b");
GUEST(pio4, 64, "1: out %al, $0x80; mov %esi, %edx; mov %ebx, %eax; out %eax, %dx; jmp 1b");

struct writer {
    const uint8_t *code, *end;
};
#define WRITER(code) { guestcode_##code, guestcode_##code##_end }
static const struct writer writers[2][9] = {
    { [1] = WRITER(mmio1), [2] = WRITER(mmio2), [4] = WRITER(mmio4), [8] = WRITER(mmio8) },
    { [1] = WRITER(pio1), [2] = WRITER(pio2), [4] = WRITER(pio4) },
};
#define PORT 0x1000u

static uint64_t writer_gpa(bool pio, unsigned bytes)
{
    return GPA_CODE + 0x40 * (16 * pio + bytes);
}

static struct machine write_machine(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(mmio1));

    for (unsigned bytes = 1; bytes <= 8; bytes *= 2) {
        machine_load(&m, writer_gpa(false, bytes), writers[0][bytes].code, (size_t)(writers[0][bytes].end - writers[0][bytes].code));
        if (bytes <= 4)
            machine_load(&m, writer_gpa(true, bytes), writers[1][bytes].code, (size_t)(writers[1][bytes].end - writers[1][bytes].code));
    }
    return m;
}

/* One guest write; 0 if it was absorbed, else the exit's reason. Left completed either way. */
static uint32_t guest_write(struct machine *m, bool pio, unsigned bytes, uint64_t where, uint64_t value)
{
    struct kvm_regs regs = machine_regs(m, 0);

    regs.rip = writer_gpa(pio, bytes);
    regs.rsi = where;
    regs.rbx = value;
    CHECK_OK(ask(m->vcpu[0], KVM_SET_REGS, &regs));
    RUN_TO_OUT(m, 0, 0x80);
    CHECK_EQ(machine_run(m, 0), 0);
    if (m->run[0]->exit_reason == KVM_EXIT_IO && m->run[0]->io.port == 0x80) {
        m->run[0]->immediate_exit = 1;
        CHECK_EQ(machine_run(m, 0), -EINTR);
        m->run[0]->immediate_exit = 0;
        return 0;
    }
    uint32_t reason = m->run[0]->exit_reason;
    RUN_TO_OUT(m, 0, 0x80);
    m->run[0]->immediate_exit = 1;
    CHECK_EQ(machine_run(m, 0), -EINTR);
    m->run[0]->immediate_exit = 0;
    return reason;
}

static int new_eventfd(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    CHECK(fd >= 0);
    return fd;
}

static uint64_t count_of(int fd)
{
    uint64_t count = 0;

    return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static int set_ioeventfd(struct machine *m, int fd, uint32_t flags, uint64_t addr, uint32_t len, uint64_t datamatch)
{
    struct kvm_ioeventfd args = { .fd = fd, .flags = flags, .addr = addr, .len = len, .datamatch = datamatch };

    return ask(m->vm, KVM_IOEVENTFD, &args);
}

static void check_every_length(bool pio, uint64_t addr, uint32_t exit)
{
    for (unsigned bytes = 1; bytes <= (pio ? 4 : 8); bytes *= 2) {
        struct machine m = write_machine();
        int fd = new_eventfd();

        CHECK_OK(set_ioeventfd(&m, fd, pio ? KVM_IOEVENTFD_FLAG_PIO : 0, addr, bytes, 0));
        for (unsigned other = 1; other <= (pio ? 4 : 8); other *= 2) {
            CHECK_EQ(guest_write(&m, pio, other, addr, 7), other == bytes ? 0 : exit);
            CHECK_EQ(count_of(fd), other == bytes);
        }
        CHECK_EQ(guest_write(&m, pio, bytes, addr + bytes, 7), exit);
        CHECK_EQ(count_of(fd), 0);
        CHECK_OK(set_ioeventfd(&m, fd, KVM_IOEVENTFD_FLAG_DEASSIGN | (pio ? KVM_IOEVENTFD_FLAG_PIO : 0), addr, bytes, 0));
        CHECK_EQ(guest_write(&m, pio, bytes, addr, 7), exit);
    }
}

static void event_mmio(void)
{
    check_every_length(false, GPA_MMIO, KVM_EXIT_MMIO);
}

static void event_pio(void)
{
    check_every_length(true, PORT, KVM_EXIT_IO);
}

static void event_any_length(void)
{
    struct machine m = write_machine();
    int fd = new_eventfd();

    CHECK_OK(set_ioeventfd(&m, fd, 0, GPA_MMIO, 0, 0));
    for (unsigned bytes = 1; bytes <= 8; bytes *= 2) {
        CHECK_EQ(guest_write(&m, false, bytes, GPA_MMIO, 7), 0);
        CHECK_EQ(count_of(fd), 1);
    }
    CHECK_EQ(guest_write(&m, false, 1, GPA_MMIO + 1, 7), KVM_EXIT_MMIO);
    CHECK_EQ(set_ioeventfd(&m, new_eventfd(), 0, GPA_MMIO, 4, 0), -EEXIST); /* any length covers it */
}

static void event_datamatch(void)
{
    struct machine m = write_machine();
    int one = new_eventfd(), two = new_eventfd();

    CHECK_OK(set_ioeventfd(&m, one, KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO, PORT, 2, 1));
    CHECK_OK(set_ioeventfd(&m, two, KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO, PORT, 2, 2));
    CHECK_EQ(set_ioeventfd(&m, new_eventfd(), KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO, PORT, 2, 2), -EEXIST);
    CHECK_EQ(set_ioeventfd(&m, new_eventfd(), KVM_IOEVENTFD_FLAG_PIO, PORT, 2, 0), -EEXIST);
    CHECK_EQ(guest_write(&m, true, 2, PORT, 1), 0);
    CHECK_EQ(count_of(one), 1);
    CHECK_EQ(guest_write(&m, true, 2, PORT, 0x10002), 0); /* 16 bits of it */
    CHECK_EQ(count_of(two), 1);
    CHECK_EQ(guest_write(&m, true, 2, PORT, 3), KVM_EXIT_IO);
    CHECK_EQ(count_of(one) + count_of(two), 0);
}

/* Datamatch of eight bytes, as virtio's does not need but the API has. */
static void event_datamatch_8(void)
{
    struct machine m = write_machine();
    int fd = new_eventfd();

    CHECK_OK(set_ioeventfd(&m, fd, KVM_IOEVENTFD_FLAG_DATAMATCH, GPA_MMIO, 8, 0x1122334455667788));
    CHECK_EQ(guest_write(&m, false, 8, GPA_MMIO, 0x1122334455667788), 0);
    CHECK_EQ(guest_write(&m, false, 8, GPA_MMIO, 0x0022334455667788), KVM_EXIT_MMIO);
    CHECK_EQ(count_of(fd), 1);
}

static void event_counts(void)
{
    struct machine m = write_machine();
    int fd = new_eventfd();

    CHECK_OK(set_ioeventfd(&m, fd, 0, GPA_MMIO, 4, 0));
    for (unsigned i = 0; i < 5; i++)
        CHECK_EQ(guest_write(&m, false, 4, GPA_MMIO, i), 0);
    CHECK_EQ(count_of(fd), 5);
}

/* QEMU's probe: seven at one port, with a datamatch each, and all away again. */
static void event_probe(void)
{
    struct machine m = write_machine();
    int fds[7];

    for (unsigned i = 0; i < 7; i++)
        CHECK_OK(set_ioeventfd(&m, fds[i] = new_eventfd(), KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO, 0, 2, i));
    for (unsigned i = 0; i < 7; i++)
        CHECK_OK(set_ioeventfd(&m, fds[i], KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN, 0, 2, i));
}

static void event_deassign_none(void)
{
    struct machine m = write_machine();
    int fd = new_eventfd();

    CHECK_EQ(set_ioeventfd(&m, fd, KVM_IOEVENTFD_FLAG_DEASSIGN, GPA_MMIO, 4, 0), -ENOENT);
    CHECK_OK(set_ioeventfd(&m, fd, 0, GPA_MMIO, 4, 0));
    CHECK_EQ(set_ioeventfd(&m, fd, KVM_IOEVENTFD_FLAG_DEASSIGN, GPA_MMIO, 2, 0), -ENOENT);
    CHECK_EQ(set_ioeventfd(&m, new_eventfd(), KVM_IOEVENTFD_FLAG_DEASSIGN, GPA_MMIO, 4, 0), -ENOENT);
    CHECK_OK(set_ioeventfd(&m, fd, KVM_IOEVENTFD_FLAG_DEASSIGN, GPA_MMIO, 4, 0));
}

/* The client closes its own descriptor: the eventfd stays with the VM, and with whoever else has it. */
static void event_descriptor_closed(void)
{
    struct machine m = write_machine();
    int fd = new_eventfd(), other = dup(fd);

    CHECK_OK(set_ioeventfd(&m, fd, 0, GPA_MMIO, 4, 0));
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(guest_write(&m, false, 4, GPA_MMIO, 1), 0);
    CHECK_EQ(count_of(other), 1);
    CHECK_OK(set_ioeventfd(&m, other, KVM_IOEVENTFD_FLAG_DEASSIGN, GPA_MMIO, 4, 0)); /* the same eventfd by another number */
}

/* A slot in front of an ioeventfd's address is memory. */
static void event_under_memory(void)
{
    struct machine m = write_machine();
    int fd = new_eventfd();
    uint32_t *memory = machine_anonymous(4096);

    CHECK_OK(set_ioeventfd(&m, fd, 0, GPA_MMIO, 4, 0));
    CHECK_OK(machine_slot(&m, 1, 0, GPA_MMIO, 4096, memory));
    CHECK_EQ(guest_write(&m, false, 4, GPA_MMIO, 5), 0);
    CHECK_EQ(memory[0], 5);
    CHECK_EQ(count_of(fd), 0);
    CHECK_OK(machine_slot(&m, 1, 0, 0, 0, NULL));
    CHECK_EQ(guest_write(&m, false, 4, GPA_MMIO, 5), 0);
    CHECK_EQ(count_of(fd), 1);
}

/* ---- coalescing ---- */

static volatile struct kvm_coalesced_mmio_ring *ring_of(struct machine *m)
{
    int page = CHECK_OK(ask_number(m->system, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO));

    return (volatile struct kvm_coalesced_mmio_ring *)(volatile void *)((uint8_t *)m->run[0] + (size_t)page * 4096);
}

static int zone(struct machine *m, unsigned long request, uint32_t pio, uint64_t addr, uint32_t size)
{
    struct kvm_coalesced_mmio_zone args = { .addr = addr, .size = size, .pio = pio };

    return ask(m->vm, request, &args);
}

static void check_entry(const volatile struct kvm_coalesced_mmio_ring *ring, uint32_t at, uint32_t pio, uint64_t addr, uint32_t len,
                        uint32_t value)
{
    uint32_t data = 0;

    memcpy(&data, (const void *)(uintptr_t)ring->coalesced_mmio[at].data, len);
    CHECK_EQ(ring->coalesced_mmio[at].phys_addr, addr);
    CHECK_EQ(ring->coalesced_mmio[at].len, len);
    CHECK_EQ(ring->coalesced_mmio[at].pio, pio);
    CHECK_EQ(data, value);
}

static void ring_mmio(void)
{
    struct machine m = write_machine();
    volatile struct kvm_coalesced_mmio_ring *ring = ring_of(&m);

    CHECK_OK(zone(&m, KVM_REGISTER_COALESCED_MMIO, 0, GPA_MMIO, 0x100));
    CHECK_EQ(guest_write(&m, false, 4, GPA_MMIO + 0xfc, 0x11223344), 0);
    CHECK_EQ(guest_write(&m, false, 1, GPA_MMIO, 0x55), 0);
    CHECK_EQ(ring->first, 0);
    CHECK_EQ(ring->last, 2);
    check_entry(ring, 0, 0, GPA_MMIO + 0xfc, 4, 0x11223344);
    check_entry(ring, 1, 0, GPA_MMIO, 1, 0x55);
    CHECK_EQ(guest_write(&m, false, 4, GPA_MMIO + 0xfe, 1), KVM_EXIT_MMIO); /* not wholly inside */
    CHECK_EQ(guest_write(&m, true, 1, 0x10, 1), KVM_EXIT_IO);
    CHECK_OK(zone(&m, KVM_UNREGISTER_COALESCED_MMIO, 0, GPA_MMIO, 0x100));
    CHECK_EQ(guest_write(&m, false, 1, GPA_MMIO, 0x55), KVM_EXIT_MMIO);
}

static void ring_pio(void)
{
    struct machine m = write_machine();
    volatile struct kvm_coalesced_mmio_ring *ring = ring_of(&m);

    CHECK_OK(zone(&m, KVM_REGISTER_COALESCED_MMIO, 1, 0xcf8, 4));
    CHECK_OK(zone(&m, KVM_REGISTER_COALESCED_MMIO, 1, 0x70, 1));
    CHECK_EQ(guest_write(&m, true, 4, 0xcf8, 0x80000010), 0);
    CHECK_EQ(guest_write(&m, true, 1, 0x70, 0x0f), 0);
    check_entry(ring, 0, 1, 0xcf8, 4, 0x80000010);
    check_entry(ring, 1, 1, 0x70, 1, 0x0f);
    CHECK_EQ(guest_write(&m, true, 2, 0x70, 1), KVM_EXIT_IO);
    CHECK_EQ(guest_write(&m, true, 1, 0x71, 1), KVM_EXIT_IO);
}

/* A ring that nobody empties: the writes become exits, and none is lost. */
static void ring_full(void)
{
    struct machine m = write_machine();
    volatile struct kvm_coalesced_mmio_ring *ring = ring_of(&m);
    uint32_t entries = (4096 - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio), taken = 0;

    CHECK_OK(zone(&m, KVM_REGISTER_COALESCED_MMIO, 0, GPA_MMIO, 0x1000));
    while (guest_write(&m, false, 4, GPA_MMIO, taken) == 0)
        taken++;
    CHECK_EQ(taken, entries - 1);
    ring->first = ring->last; /* emptied */
    CHECK_EQ(guest_write(&m, false, 4, GPA_MMIO, 0x77), 0);
    check_entry(ring, entries - 1, 0, GPA_MMIO, 4, 0x77);
    CHECK_EQ(ring->last, 0);
}

/* The client writes nonsense into the ring's indices: nothing is written outside of its page. */
static void ring_nonsense(void)
{
    struct machine m = write_machine();
    volatile struct kvm_coalesced_mmio_ring *ring = ring_of(&m);

    CHECK_OK(zone(&m, KVM_REGISTER_COALESCED_MMIO, 0, GPA_MMIO, 0x1000));
    ring->last = 0x7fffffff;
    ring->first = 0xffffffff;
    guest_write(&m, false, 4, GPA_MMIO, 1);
    ring->first = 0;
    ring->last = 0xfffffff0;
    guest_write(&m, false, 4, GPA_MMIO, 2);
}

static void ring_many_zones(void)
{
    struct machine m = write_machine();

    for (unsigned i = 0; i < 50; i++)
        CHECK_OK(zone(&m, KVM_REGISTER_COALESCED_MMIO, 0, GPA_MMIO + 0x1000ull * i, 0x10));
    CHECK_EQ(guest_write(&m, false, 4, GPA_MMIO + 0x1000 * 49, 1), 0);
    for (unsigned i = 0; i < 50; i++)
        CHECK_OK(zone(&m, KVM_UNREGISTER_COALESCED_MMIO, 0, GPA_MMIO + 0x1000ull * i, 0x10));
    CHECK_EQ(guest_write(&m, false, 4, GPA_MMIO + 0x1000 * 49, 1), KVM_EXIT_MMIO);
    CHECK_OK(zone(&m, KVM_UNREGISTER_COALESCED_MMIO, 0, GPA_MMIO, 0x10)); /* none there: fine */
}

static const struct row rows[] = {
    { "event, mmio", event_mmio }, { "event, pio", event_pio }, { "event, any length", event_any_length },
    { "event, datamatch", event_datamatch }, { "event, datamatch of 8 bytes", event_datamatch_8 }, { "event counts", event_counts },
    { "event, qemu's probe", event_probe }, { "event, deassign none", event_deassign_none },
    { "event, descriptor closed", event_descriptor_closed }, { "event under memory", event_under_memory },
    { "ring, mmio", ring_mmio }, { "ring, pio", ring_pio }, { "ring full", ring_full }, { "ring nonsense", ring_nonsense },
    { "ring, many zones", ring_many_zones },
};
THEME(io, rows);
