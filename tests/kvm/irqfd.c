/* SPDX-License-Identifier: MIT */
/* irqfd (api.rst 4.75): edges, resampling, life of the descriptors. */
#include <sys/eventfd.h>
#include <unistd.h>

#include "irq_guest.h"

static int new_eventfd(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    CHECK(fd >= 0);
    return fd;
}

static void signal_fd(int fd)
{
    const uint64_t one = 1;

    CHECK_EQ(write(fd, &one, sizeof(one)), sizeof(one));
}

static int irqfd(struct machine *m, int fd, uint32_t gsi, uint32_t flags, int resample)
{
    struct kvm_irqfd args = { .fd = (uint32_t)fd, .gsi = gsi, .flags = flags, .resamplefd = (uint32_t)resample };

    return ask(m->vm, KVM_IRQFD, &args);
}

static void edge_by_pin(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5));
    int fd = new_eventfd();

    wait_ready(&m);
    CHECK_OK(irqfd(&m, fd, 5, 0, 0));
    for (unsigned i = 1; i <= 5; i++) {
        signal_fd(fd);
        CHECK_EQ(wait_taken(&m, IRQ_VECTOR), i);
    }
    CHECK_EQ(settle(&m, IRQ_VECTOR), 5);
}

static void edge_by_msi(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    int fd = new_eventfd();

    wait_ready(&m);
    route_msi(&m, 30, IRQ_VECTOR);
    CHECK_OK(irqfd(&m, fd, 30, 0, 0));
    signal_fd(fd);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
    route_msi(&m, 30, IRQ_VECTOR + 1); /* changes under the irqfd */
    signal_fd(fd);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR + 1), 1);
    CHECK_EQ(taken(&m, IRQ_VECTOR), 1);
}

static void edge_by_msi_split(void)
{
    struct machine m = irq_machine(WITH_SPLIT, 0);
    int fd = new_eventfd();

    wait_ready(&m);
    route_msi(&m, 30, IRQ_VECTOR);
    CHECK_OK(irqfd(&m, fd, 30, 0, 0));
    signal_fd(fd);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
}

/* What was signalled before it is assigned counts. */
static void signalled_before(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5));
    int fd = new_eventfd();

    wait_ready(&m);
    signal_fd(fd);
    CHECK_OK(irqfd(&m, fd, 5, 0, 0));
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
}

static void deassigned(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5));
    int fd = new_eventfd();
    uint64_t count = 0;

    wait_ready(&m);
    CHECK_OK(irqfd(&m, fd, 5, 0, 0));
    signal_fd(fd);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
    CHECK_OK(irqfd(&m, fd, 5, KVM_IRQFD_FLAG_DEASSIGN, 0));
    signal_fd(fd);
    CHECK_EQ(settle(&m, IRQ_VECTOR), 1);
    CHECK_EQ(read(fd, &count, sizeof(count)), sizeof(count)); /* the client's own again */
    CHECK_EQ(count, 1);
    CHECK_OK(irqfd(&m, fd, 5, 0, 0));
    signal_fd(fd);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 2);
}

static void assigned_twice(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5) | IRQ_PINS(6));
    int fd = new_eventfd();

    CHECK_OK(irqfd(&m, fd, 5, 0, 0));
    CHECK_EQ(irqfd(&m, fd, 6, 0, 0), -EBUSY);
    CHECK_EQ(irqfd(&m, dup(fd), 6, 0, 0), -EBUSY);
    CHECK_OK(irqfd(&m, new_eventfd(), 5, 0, 0)); /* two for one GSI */
}

static void deassign_none(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5));

    CHECK_OK(irqfd(&m, new_eventfd(), 5, KVM_IRQFD_FLAG_DEASSIGN, 0));
}

static void descriptor_closed(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(5));
    int fd = new_eventfd(), other = dup(fd);

    wait_ready(&m);
    CHECK_OK(irqfd(&m, fd, 5, 0, 0));
    CHECK_EQ(close(fd), 0);
    signal_fd(other);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
    CHECK_EQ(close(other), 0);
    CHECK_EQ(settle(&m, IRQ_VECTOR), 1);
}

/* Level: the line stays up until the guest's EOI, which is told by the resamplefd. */
static void resample(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(9) | IRQ_LEVEL);
    int fd = new_eventfd(), resampler = new_eventfd();
    uint64_t count;

    wait_ready(&m);
    CHECK_OK(irqfd(&m, fd, 9, KVM_IRQFD_FLAG_RESAMPLE, resampler));
    for (unsigned i = 1; i <= 3; i++) {
        signal_fd(fd);
        CHECK_EQ(wait_taken(&m, IRQ_VECTOR), i);
        CHECK_EQ(settle(&m, IRQ_VECTOR), i); /* once: the EOI took the line down */
        CHECK_EQ(read(resampler, &count, sizeof(count)), sizeof(count));
        CHECK_EQ(count, 1);
    }
    CHECK_OK(irqfd(&m, fd, 9, KVM_IRQFD_FLAG_DEASSIGN, 0));
    signal_fd(fd);
    CHECK_EQ(settle(&m, IRQ_VECTOR), 3);
}

/* The device says again what its line is when it is asked: asserted still, it comes once more. */
static void resample_still_high(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(9) | IRQ_LEVEL);
    int fd = new_eventfd(), resampler = new_eventfd();
    uint64_t count;

    wait_ready(&m);
    CHECK_OK(irqfd(&m, fd, 9, KVM_IRQFD_FLAG_RESAMPLE, resampler));
    signal_fd(fd);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 1);
    settle(&m, IRQ_VECTOR);
    CHECK_EQ(read(resampler, &count, sizeof(count)), sizeof(count));
    signal_fd(fd);
    CHECK_EQ(wait_taken(&m, IRQ_VECTOR), 2);
}

static void resample_bad_descriptor(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_PINS(9) | IRQ_LEVEL);

    CHECK_EQ(irqfd(&m, new_eventfd(), 9, KVM_IRQFD_FLAG_RESAMPLE, 0x7fffffff), -EBADF);
    CHECK_EQ(irqfd(&m, new_eventfd(), 9, KVM_IRQFD_FLAG_RESAMPLE, 2), -EINVAL);
}

static void many(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    static struct {
        struct routing_head head;
        struct kvm_irq_routing_entry entries[64];
    } table;
    int fds[64];

    wait_ready(&m);
    table.head.nr = 64;
    for (uint32_t i = 0; i < 64; i++)
        table.entries[i] = (struct kvm_irq_routing_entry){ .gsi = 24 + i, .type = KVM_IRQ_ROUTING_MSI,
                                                           .u.msi = { .address_lo = 0xfee00000u, .data = 0x60 + i } };
    CHECK_OK(ask(m.vm, KVM_SET_GSI_ROUTING, &table));
    for (uint32_t i = 0; i < 64; i++)
        CHECK_OK(irqfd(&m, fds[i] = new_eventfd(), 24 + i, 0, 0));
    for (uint32_t i = 0; i < 64; i++)
        signal_fd(fds[i]);
    for (uint32_t i = 0; i < 64; i++)
        CHECK_EQ(wait_for_more(&m, 0x60 + i, 1), 1);
}

static const struct row rows[] = {
    { "edge by pin", edge_by_pin }, { "edge by msi", edge_by_msi }, { "edge by msi, split", edge_by_msi_split },
    { "signalled before", signalled_before }, { "deassigned", deassigned }, { "assigned twice", assigned_twice },
    { "deassign none", deassign_none }, { "descriptor closed", descriptor_closed }, { "resample", resample },
    { "resample, still high", resample_still_high }, { "resample, bad descriptor", resample_bad_descriptor }, { "many", many },
};
THEME(irqfd, rows);
