/* SPDX-License-Identifier: MIT */
/*
 * kvm-races: what one thread changes while vCPUs run in others. Every interrupt that is sent is received once, what was written is
 * where it should be, and nothing hangs. Guests leave by an OUT in every round, so that vCPU threads see that they are to stop without a
 * signal: ThreadSanitizer holds signals back.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "irq_guest.h"

#define PAGE 4096u
#define SLOT_GPA 0x10000000ul
#define PORT_ROUND 0x80
#define RACE_NS 700000000u /* a row's time under load */

/* ---- vCPU threads ---- */

struct runner {
    struct machine *m;
    unsigned vcpu;
    pthread_t thread;
    atomic_bool stop;
    atomic_ullong rounds;  /* OUTs to PORT_ROUND */
    atomic_ullong mmio;    /* MMIO writes that came to the client */
    atomic_ullong last;    /* the last of them */
    atomic_ullong other;   /* OUTs to other ports */
    atomic_ullong faults;  /* KVM_RUN failed with EFAULT */
};

static void *runner_run(void *opaque)
{
    struct runner *r = opaque;
    struct kvm_run *run = r->m->run[r->vcpu];

    while (!atomic_load(&r->stop)) {
        int result = machine_run(r->m, r->vcpu);
        if (result == -EINTR || result == -EAGAIN)
            continue;
        if (result == -EFAULT) {
            atomic_fetch_add(&r->faults, 1);
            continue;
        }
        CHECK_EQ(result, 0);
        if (run->exit_reason == KVM_EXIT_IO && run->io.port == PORT_ROUND) {
            atomic_fetch_add(&r->rounds, 1);
        } else if (run->exit_reason == KVM_EXIT_IO) {
            atomic_fetch_add(&r->other, 1);
        } else if (run->exit_reason == KVM_EXIT_MMIO) {
            uint64_t value = 0;
            memcpy(&value, run->mmio.data, run->mmio.len);
            if (run->mmio.is_write) {
                atomic_store(&r->last, value);
                atomic_fetch_add(&r->mmio, 1);
            } else {
                memset(run->mmio.data, 0, sizeof(run->mmio.data));
            }
        } else if (run->exit_reason == KVM_EXIT_X86_RDMSR) {
            run->msr.data = 0x77;
            atomic_fetch_add(&r->other, 1);
        } else {
            check_failed(__FILE__, __LINE__, "vCPU %u: exit %u", r->vcpu, run->exit_reason);
        }
    }
    return NULL;
}

static void start(struct runner *r, struct machine *m, unsigned vcpu)
{
    memset(r, 0, sizeof(*r));
    r->m = m;
    r->vcpu = vcpu;
    CHECK_EQ(pthread_create(&r->thread, NULL, runner_run, r), 0);
}

static void stop(struct runner *r)
{
    atomic_store(&r->stop, true);
    pthread_join(r->thread, NULL);
}

/* The instruction of the last exit is over. */
static void finish(struct machine *m, unsigned vcpu)
{
    m->run[vcpu]->immediate_exit = 1;
    CHECK_EQ(machine_run(m, vcpu), -EINTR);
    m->run[vcpu]->immediate_exit = 0;
}

static void wait_rounds(struct runner *r, uint64_t more)
{
    uint64_t until = atomic_load(&r->rounds) + more;

    while (atomic_load(&r->rounds) < until)
        sched_yield();
}

static bool in_time(uint64_t begin)
{
    return now_ns() - begin < RACE_NS;
}

/* ---- memory ---- */

/* Counts in RBX, and writes the count to RSI. */
GUEST(stores, 64, "1: inc %rbx; mov %rbx, (%rsi); out %al, $0x80; jmp 1b");
/* The same without an exit each time: 256 stores over as many pages, then the round. */
GUEST(pages, 64, "1: xor %ecx, %ecx; 2: inc %rbx; mov %ecx, %eax; shl $12, %eax; mov %rbx, (%rsi,%rax); inc %cl; jnz 2b; out %al, $0x80; jmp 1b");

static struct machine store_machine(const uint8_t *code, size_t bytes)
{
    struct machine m = machine_boot(WITH_IRQCHIP, code, bytes);
    struct kvm_regs regs = machine_regs(&m, 0);

    regs.rsi = SLOT_GPA;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    return m;
}

static uint64_t word(const volatile uint8_t *memory)
{
    return *(const volatile uint64_t *)(const volatile void *)memory;
}

/* Between two memories and none; behind a delete, nothing is written to what was deleted. */
static void slot_replaced(void)
{
    struct machine m = store_machine(GUEST_BYTES(stores));
    uint8_t *memory[2] = { machine_anonymous(PAGE), machine_anonymous(PAGE) };
    struct runner r;
    uint64_t begin = now_ns();

    start(&r, &m, 0);
    for (unsigned i = 0; in_time(begin); i++) {
        CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory[i & 1]));
        wait_rounds(&r, 3);
        CHECK_OK(machine_slot(&m, 1, 0, 0, 0, NULL));
        uint64_t before = word(memory[i & 1]);
        wait_rounds(&r, 3);
        CHECK(before > 0);
        CHECK_EQ(word(memory[i & 1]), before);
    }
    stop(&r);
    finish(&m, 0);
    uint64_t count = machine_regs(&m, 0).rbx, last = atomic_load(&r.last);
    uint64_t most = word(memory[0]) > word(memory[1]) ? word(memory[0]) : word(memory[1]);
    CHECK_EQ(last > most ? last : most, count);
}

static void slot_moved(void)
{
    struct machine m = store_machine(GUEST_BYTES(stores));
    uint8_t *memory = machine_anonymous(PAGE);
    struct runner r;
    uint64_t begin = now_ns();

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    start(&r, &m, 0);
    while (in_time(begin)) {
        CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA + PAGE, PAGE, memory));
        uint64_t before = word(memory);
        wait_rounds(&r, 3);
        CHECK_EQ(word(memory), before);
        CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
        wait_rounds(&r, 3);
        CHECK(word(memory) > before);
    }
    stop(&r);
}

/* Whatever is harvested, copied page by page, is in the end all that the guest wrote. */
static void harvest_log(struct machine *m, const uint8_t *memory, uint64_t *copy)
{
    uint64_t bitmap[4];
    struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bitmap };

    CHECK_OK(ask(m->vm, KVM_GET_DIRTY_LOG, &log));
    for (unsigned page = 0; page < 256; page++)
        if (bitmap[page / 64] >> (page % 64) & 1)
            copy[page] = word(memory + (size_t)page * PAGE);
}

static void dirty_log(void)
{
    struct machine m = store_machine(GUEST_BYTES(pages));
    uint8_t *memory = machine_anonymous(256 * PAGE);
    static uint64_t copy[256];
    struct runner r;
    uint64_t begin = now_ns();

    CHECK_OK(machine_slot(&m, 1, KVM_MEM_LOG_DIRTY_PAGES, SLOT_GPA, 256 * PAGE, memory));
    start(&r, &m, 0);
    while (in_time(begin))
        harvest_log(&m, memory, copy);
    stop(&r);
    harvest_log(&m, memory, copy);
    for (unsigned page = 0; page < 256; page++)
        CHECK_EQ(copy[page], word(memory + (size_t)page * PAGE));
}

static void dirty_log_toggled(void)
{
    struct machine m = store_machine(GUEST_BYTES(pages));
    uint8_t *memory = machine_anonymous(256 * PAGE);
    struct runner r;
    uint64_t begin = now_ns();

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, 256 * PAGE, memory));
    start(&r, &m, 0);
    for (unsigned i = 0; in_time(begin); i++)
        CHECK_OK(machine_slot(&m, 1, i & 1 ? 0 : KVM_MEM_LOG_DIRTY_PAGES, SLOT_GPA, 256 * PAGE, memory));
    stop(&r);
    finish(&m, 0);
    CHECK_EQ(word(memory + 255 * (size_t)PAGE), machine_regs(&m, 0).rbx);
}

/* Memory goes away and comes back: EFAULT at worst, and the guest goes on. */
static void memory_lost(void)
{
    struct machine m = store_machine(GUEST_BYTES(stores));
    uint8_t *memory = machine_anonymous(PAGE);
    struct runner r;
    uint64_t begin = now_ns();

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    start(&r, &m, 0);
    while (in_time(begin)) {
        CHECK_EQ(mprotect(memory, PAGE, PROT_NONE), 0);
        sched_yield();
        CHECK_EQ(mprotect(memory, PAGE, PROT_READ | PROT_WRITE), 0);
        wait_rounds(&r, 3);
        CHECK_EQ(madvise(memory, PAGE, MADV_DONTNEED), 0);
        wait_rounds(&r, 3);
    }
    stop(&r);
    finish(&m, 0);
    CHECK_EQ(word(memory), machine_regs(&m, 0).rbx);
}

/* The client patches code that runs: what it wrote is what runs, soon, and nothing else ever. */
GUEST(patched, 64, "1: mov $0, %al; out %al, $0x80; jmp 1b");

static void code_patched(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(patched));
    struct runner r;
    uint64_t begin = now_ns();

    start(&r, &m, 0);
    for (unsigned i = 1; in_time(begin); i++) {
        __atomic_store_n(&m.ram[GPA_CODE + 1], (uint8_t)i, __ATOMIC_SEQ_CST);
        wait_rounds(&r, 3);
        while (__atomic_load_n(machine_io_data(&m, 0), __ATOMIC_SEQ_CST) != (uint8_t)i)
            sched_yield();
    }
    stop(&r);
}

/* ---- interrupts ---- */

/* Waits until a vector was taken so often; the row's time limit is the watchdog. */
static void wait_count(const struct machine *m, unsigned vector, uint32_t count)
{
    while (__atomic_load_n((const uint32_t *)(const void *)(m->ram + GPA_COUNTS + 4 * vector), __ATOMIC_SEQ_CST) < count)
        sched_yield();
}

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

static int irqfd(struct machine *m, int fd, uint32_t gsi, uint32_t flags)
{
    struct kvm_irqfd args = { .fd = (uint32_t)fd, .gsi = gsi, .flags = flags };

    return ask(m->vm, KVM_IRQFD, &args);
}

struct noise {
    struct machine *m;
    atomic_bool stop;
    pthread_t thread;
};

static void start_noise(struct noise *n, struct machine *m, void *(*run)(void *))
{
    n->m = m;
    atomic_store(&n->stop, false);
    CHECK_EQ(pthread_create(&n->thread, NULL, run, n), 0);
}

static void stop_noise(struct noise *n)
{
    atomic_store(&n->stop, true);
    pthread_join(n->thread, NULL);
}

/* Two tables that send GSI 24 to vector 41h; the rest of them changes. */
static void *change_routes(void *opaque)
{
    struct noise *n = opaque;
    static struct {
        struct routing_head head;
        struct kvm_irq_routing_entry entries[32];
    } table;

    for (unsigned i = 0; !atomic_load(&n->stop); i++) {
        table.head.nr = 1 + i % 31;
        for (uint32_t e = 0; e < table.head.nr; e++)
            table.entries[e] = (struct kvm_irq_routing_entry){ .gsi = 24 + e, .type = KVM_IRQ_ROUTING_MSI,
                                                               .u.msi = { .address_lo = 0xfee00000u, .data = e ? 0x90 + i % 8 : IRQ_VECTOR } };
        CHECK_OK(ask(n->m->vm, KVM_SET_GSI_ROUTING, &table));
    }
    return NULL;
}

static void send_and_count(struct machine *m, void (*send)(struct machine *m, int fd), int fd)
{
    uint64_t begin = now_ns();
    uint32_t sent = 0;

    while (in_time(begin)) {
        send(m, fd);
        wait_count(m, IRQ_VECTOR, ++sent);
        CHECK_EQ(taken(m, IRQ_VECTOR), sent);
    }
    CHECK(sent > 0);
}

static void send_line(struct machine *m, int fd)
{
    (void)fd;
    set_line(m, 24, 1);
    set_line(m, 24, 0);
}

static void send_event(struct machine *m, int fd)
{
    (void)m;
    signal_fd(fd);
}

static void send_msi(struct machine *m, int fd)
{
    struct kvm_msi msi = { .address_lo = 0xfee00000u, .data = IRQ_VECTOR };

    (void)fd;
    CHECK_EQ(ask(m->vm, KVM_SIGNAL_MSI, &msi), 1);
}

static void race_routes(unsigned with, void (*send)(struct machine *, int), bool by_fd)
{
    struct machine m = irq_machine(with, 0);
    struct runner r;
    struct noise n;
    int fd = new_eventfd();

    route_msi(&m, 24, IRQ_VECTOR);
    if (by_fd)
        CHECK_OK(irqfd(&m, fd, 24, 0));
    start(&r, &m, 0);
    start_noise(&n, &m, change_routes);
    send_and_count(&m, send, fd);
    stop_noise(&n);
    stop(&r);
}

static void routes_under_lines(void)
{
    race_routes(WITH_IRQCHIP, send_line, false);
}

static void routes_under_irqfds(void)
{
    race_routes(WITH_IRQCHIP, send_event, true);
}

static void routes_under_irqfds_split(void)
{
    race_routes(WITH_SPLIT, send_event, true);
}

static void routes_under_msis(void)
{
    race_routes(WITH_IRQCHIP, send_msi, false);
}

/* Other irqfds come and go. */
static void *change_irqfds(void *opaque)
{
    struct noise *n = opaque;
    int fds[4];

    for (unsigned i = 0; i < 4; i++)
        fds[i] = new_eventfd();
    for (unsigned i = 0; !atomic_load(&n->stop); i++) {
        int fd = fds[i % 4];
        CHECK_OK(irqfd(n->m, fd, 40 + i % 8, 0));
        signal_fd(fd);
        CHECK_OK(irqfd(n->m, fd, 40 + i % 8, KVM_IRQFD_FLAG_DEASSIGN));
    }
    return NULL;
}

static void irqfds_under_load(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct runner r;
    struct noise n;
    int fd = new_eventfd();

    route_msi(&m, 24, IRQ_VECTOR);
    CHECK_OK(irqfd(&m, fd, 24, 0));
    start(&r, &m, 0);
    start_noise(&n, &m, change_irqfds);
    send_and_count(&m, send_event, fd);
    stop_noise(&n);
    stop(&r);
}

/* One that is itself taken away and given back between its signals: what it was signalled comes, once, by the interrupt or to the client. */
static void irqfd_reassigned(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct runner r;
    int fd = new_eventfd();
    uint64_t begin = now_ns(), kept = 0;
    uint32_t sent = 0;

    route_msi(&m, 24, IRQ_VECTOR);
    start(&r, &m, 0);
    while (in_time(begin)) {
        uint64_t count = 0;
        CHECK_OK(irqfd(&m, fd, 24, 0));
        signal_fd(fd);
        if (sent % 3 == 0)
            wait_count(&m, IRQ_VECTOR, sent + 1 - (uint32_t)kept);
        sent++;
        CHECK_OK(irqfd(&m, fd, 24, KVM_IRQFD_FLAG_DEASSIGN));
        if (read(fd, &count, sizeof(count)) == sizeof(count))
            kept += count;
        wait_count(&m, IRQ_VECTOR, sent - (uint32_t)kept);
        CHECK_EQ(taken(&m, IRQ_VECTOR), sent - kept);
    }
    stop(&r);
}

/* Four threads, a vector each, at two vCPUs that run. */
struct sender {
    struct machine *m;
    pthread_t thread;
    unsigned vector, apic;
};

static void *send_msis(void *opaque)
{
    struct sender *s = opaque;
    struct kvm_msi msi = { .address_lo = 0xfee00000u | s->apic << 12, .data = s->vector };
    uint64_t begin = now_ns();

    for (uint32_t sent = 0; in_time(begin);) {
        CHECK_EQ(ask(s->m->vm, KVM_SIGNAL_MSI, &msi), 1);
        wait_count(s->m, s->vector, ++sent);
        CHECK_EQ(taken(s->m, s->vector), sent);
    }
    return NULL;
}

static void msis_to_two_vcpus(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct runner r[2];
    struct sender senders[4];

    machine_add_vcpu(&m, 1);
    irq_vcpu(&m, 1, 0);
    start(&r[0], &m, 0);
    start(&r[1], &m, 1);
    wait_rounds(&r[0], 3);
    wait_rounds(&r[1], 3); /* their APICs are on */
    for (unsigned i = 0; i < 4; i++) {
        senders[i] = (struct sender){ .m = &m, .vector = 0x60 + 0x11 * i, .apic = i & 1 };
        CHECK_EQ(pthread_create(&senders[i].thread, NULL, send_msis, &senders[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(senders[i].thread, NULL);
    stop(&r[0]);
    stop(&r[1]);
}

/* vCPUs that sleep are woken by what is sent, every time. */
static void msis_wake_from_halt(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_HALTS);
    struct runner r;
    struct kvm_msi msi = { .address_lo = 0xfee00000u, .data = IRQ_VECTOR };

    start(&r, &m, 0);
    send_and_count(&m, send_msi, -1);
    atomic_store(&r.stop, true);
    while (atomic_load(&r.stop) && pthread_tryjoin_np(r.thread, NULL) != 0) /* asleep: out of KVM_RUN by one more */
        CHECK_EQ(ask(m.vm, KVM_SIGNAL_MSI, &msi), 1);
}

/* ---- I/O ---- */

GUEST(notify, 64, "1: inc %rbx; mov %ebx, (%rsi); out %al, $0x80; jmp 1b");

/* Each write is an event or an exit. */
static void ioeventfd_changes(void)
{
    struct machine m = store_machine(GUEST_BYTES(notify));
    struct runner r;
    int fd = new_eventfd();
    struct kvm_ioeventfd args = { .addr = SLOT_GPA, .len = 4, .fd = fd };
    uint64_t begin = now_ns(), count = 0, events = 0;

    start(&r, &m, 0);
    while (in_time(begin)) {
        args.flags = 0;
        CHECK_OK(ask(m.vm, KVM_IOEVENTFD, &args));
        wait_rounds(&r, 2);
        args.flags = KVM_IOEVENTFD_FLAG_DEASSIGN;
        CHECK_OK(ask(m.vm, KVM_IOEVENTFD, &args));
        wait_rounds(&r, 1);
    }
    stop(&r);
    finish(&m, 0);
    if (read(fd, &count, sizeof(count)) == sizeof(count))
        events = count;
    CHECK_EQ(events + atomic_load(&r.mmio), machine_regs(&m, 0).rbx);
}

/* Two vCPUs into one coalescing zone, a reader of the ring: nothing is lost. */
static void coalesced_ring(void)
{
    struct machine m = store_machine(GUEST_BYTES(notify));
    struct kvm_coalesced_mmio_zone zone = { .addr = SLOT_GPA, .size = PAGE };
    int page = CHECK_OK(ask_number(m.system, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO));
    struct kvm_coalesced_mmio_ring *ring = (void *)((uint8_t *)m.run[0] + (size_t)page * PAGE);
    uint32_t entries = (PAGE - sizeof(*ring)) / sizeof(ring->coalesced_mmio[0]);
    struct runner r[2];
    uint64_t begin, drained = 0;

    machine_add_vcpu(&m, 1);
    machine_cpuid(&m, 1);
    machine_long_mode(&m, 1, GPA_CODE);
    CHECK_OK(ask(m.vcpu[1], KVM_SET_MP_STATE, &(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE }));
    struct kvm_regs regs = machine_regs(&m, 1);
    regs.rsi = SLOT_GPA + 8;
    CHECK_OK(ask(m.vcpu[1], KVM_SET_REGS, &regs));
    CHECK_OK(ask(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone));
    start(&r[0], &m, 0);
    start(&r[1], &m, 1);
    for (begin = now_ns(); in_time(begin) || ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE);) {
        if (!in_time(begin)) { /* stop, then the rest */
            if (!atomic_load(&r[0].stop))
                stop(&r[0]);
            if (!atomic_load(&r[1].stop))
                stop(&r[1]);
        }
        for (uint32_t first = ring->first; first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE);) {
            drained++;
            first = (first + 1) % entries;
            __atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        if (!atomic_load(&r[i].stop))
            stop(&r[i]);
        finish(&m, i);
    }
    while (ring->first != ring->last) {
        drained++;
        ring->first = (ring->first + 1) % entries;
    }
    CHECK_EQ(drained + atomic_load(&r[0].mmio) + atomic_load(&r[1].mmio), machine_regs(&m, 0).rbx + machine_regs(&m, 1).rbx);
}

/* ---- the rest of a VM's changes ---- */

GUEST(rdmsr, 64, "mov $0x174, %ecx; 1: rdmsr; out %al, $0x80; jmp 1b");

static void msr_filter_changes(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(rdmsr));
    uint8_t bits = 0;
    struct kvm_msr_filter deny = { .ranges = { { .flags = KVM_MSR_FILTER_READ, .base = 0x174, .nmsrs = 1, .bitmap = &bits } } }, allow = { 0 };
    struct runner r;
    uint64_t begin = now_ns();

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER));
    start(&r, &m, 0);
    while (in_time(begin)) {
        CHECK_OK(ask(m.vm, KVM_X86_SET_MSR_FILTER, &deny));
        uint64_t before = atomic_load(&r.other);
        wait_rounds(&r, 3);
        CHECK(atomic_load(&r.other) > before);
        CHECK_OK(ask(m.vm, KVM_X86_SET_MSR_FILTER, &allow));
        wait_rounds(&r, 1);
    }
    stop(&r);
}

/* vCPUs are made, run a moment and closed, beside one that runs all the time. */
static void vcpus_come_and_go(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct runner r;
    uint64_t begin = now_ns();

    start(&r, &m, 0);
    for (unsigned id = 1; in_time(begin) && id < 60; id++) {
        struct machine other = m;
        other.vcpus = 1;
        machine_add_vcpu(&other, id);
        irq_vcpu(&other, 1, 0);
        RUN_TO_OUT(&other, 1, PORT_ROUND);
        CHECK_EQ(kvm->munmap(other.run[1], m.run_bytes) | kvm->close(other.vcpu[1]), 0);
        wait_rounds(&r, 1);
    }
    stop(&r);
}

/* State is read and written by other threads: each ioctl finds the vCPU between two KVM_RUNs. */
static void *read_state(void *opaque)
{
    struct noise *n = opaque;

    while (!atomic_load(&n->stop)) {
        struct kvm_regs regs;
        struct kvm_vcpu_events events;
        struct kvm_lapic_state lapic;
        struct kvm_clock_data clock;
        CHECK_OK(ask(n->m->vcpu[0], KVM_GET_REGS, &regs));
        CHECK(regs.rip >= GPA_CODE && regs.rip < GPA_CODE + 0x2000 + 0x1000 * 2);
        CHECK_OK(ask(n->m->vcpu[0], KVM_GET_VCPU_EVENTS, &events));
        CHECK_OK(ask(n->m->vcpu[0], KVM_GET_LAPIC, &lapic));
        CHECK_OK(ask(n->m->vm, KVM_GET_CLOCK, &clock));
        CHECK_OK(ask(n->m->vcpu[0], KVM_NMI, NULL));
    }
    return NULL;
}

GUEST(nmi, 64, "lock incl 0x10ff8; iretq");

static void state_read_under_load(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct runner r;
    struct noise n;

    machine_load(&m, 0xb800, GUEST_BYTES(nmi));
    machine_gate(&m, 2, 0xb800);
    start(&r, &m, 0);
    start_noise(&n, &m, read_state);
    send_and_count(&m, send_msi, -1);
    stop_noise(&n);
    stop(&r);
    CHECK(*(const uint32_t *)(const void *)(m.ram + 0x10ff8) > 0);
}

/*
 * Kicks by immediate_exit and a signal, of vCPUs that never leave by themselves, while interrupts are sent to them: each kick ends one KVM_RUN,
 * and each interrupt is taken once.
 */
GUEST(spin, 64, "sti; 1: inc %rbx; pause; jmp 1b");

struct kicked {
    struct machine *m;
    unsigned vcpu;
    pthread_t thread;
    atomic_uint done; /* kicks that ended a KVM_RUN */
    atomic_bool stop;
};

static void on_kick(int sig)
{
    (void)sig;
}

static void *run_kicked(void *opaque)
{
    struct kicked *k = opaque;
    struct kvm_run *run = k->m->run[k->vcpu];

    while (!atomic_load(&k->stop)) {
        CHECK_EQ(machine_run(k->m, k->vcpu), -EINTR);
        if (__atomic_exchange_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST))
            atomic_fetch_add(&k->done, 1);
    }
    return NULL;
}

static void kick_once(struct kicked *k)
{
    unsigned done = atomic_load(&k->done);

    __atomic_store_n(&k->m->run[k->vcpu]->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill(k->thread, SIGUSR1);
    while (atomic_load(&k->done) == done)
        sched_yield();
}

static void *kick_on(void *opaque)
{
    struct kicked *k = opaque;

    while (!atomic_load(&k->stop))
        kick_once(k);
    return NULL;
}

static void kicks_under_interrupts(void)
{
#ifdef __SANITIZE_THREAD__
    row_skip("ThreadSanitizer holds signals back");
#endif
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct kicked kicked[2];
    pthread_t kickers[2];
    struct sigaction action = { .sa_handler = on_kick };

    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    machine_load(&m, 0xb900, GUEST_BYTES(spin));
    machine_add_vcpu(&m, 1);
    irq_vcpu(&m, 1, 0);
    for (unsigned i = 0; i < 2; i++) {
        struct kvm_regs regs = machine_regs(&m, i);
        regs.rip = 0xb900;
        CHECK_OK(ask(m.vcpu[i], KVM_SET_REGS, &regs));
        memset(&kicked[i], 0, sizeof(kicked[i]));
        kicked[i].m = &m;
        kicked[i].vcpu = i;
        CHECK_EQ(pthread_create(&kicked[i].thread, NULL, run_kicked, &kicked[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&kickers[i], NULL, kick_on, &kicked[i]), 0);
    send_and_count(&m, send_msi, -1);
    for (unsigned i = 0; i < 2; i++) {
        atomic_store(&kicked[i].stop, true);
        pthread_join(kickers[i], NULL); /* its last kick ends the last KVM_RUN, or another one does */
        m.run[i]->immediate_exit = 1;
        while (pthread_tryjoin_np(kicked[i].thread, NULL) != 0)
            pthread_kill(kicked[i].thread, SIGUSR1);
        CHECK(atomic_load(&kicked[i].done) > 10);
    }
}

/* Everything is closed while the threads of the chips and of irqfds are at work. */
static void closed_under_load(void)
{
    uint64_t begin = now_ns();

    while (in_time(begin)) {
        struct machine m = irq_machine(WITH_IRQCHIP | WITH_PIT, 0);
        struct runner r;
        int fd = new_eventfd();
        route_msi(&m, 24, IRQ_VECTOR);
        CHECK_OK(irqfd(&m, fd, 24, 0));
        start(&r, &m, 0);
        for (unsigned i = 0; i < 20; i++)
            signal_fd(fd);
        wait_rounds(&r, 2);
        stop(&r);
        signal_fd(fd);
        CHECK_EQ(kvm->close(m.vm) | kvm->close(m.vcpu[0]) | kvm->close(m.system), 0);
        CHECK_EQ(kvm->munmap(m.run[0], m.run_bytes) | munmap(m.ram, RAM_BYTES) | close(fd), 0);
    }
}

static const struct row rows[] = {
    { "slot replaced", slot_replaced }, { "slot moved", slot_moved }, { "dirty log", dirty_log }, { "dirty log toggled", dirty_log_toggled },
    { "memory lost", memory_lost }, { "code patched", code_patched }, { "routes under lines", routes_under_lines },
    { "routes under irqfds", routes_under_irqfds }, { "routes under irqfds, split", routes_under_irqfds_split },
    { "routes under msis", routes_under_msis }, { "irqfds under load", irqfds_under_load }, { "irqfd reassigned", irqfd_reassigned },
    { "msis to two vcpus", msis_to_two_vcpus }, { "msis wake from halt", msis_wake_from_halt }, { "ioeventfd changes", ioeventfd_changes },
    { "coalesced ring", coalesced_ring }, { "msr filter changes", msr_filter_changes }, { "vcpus come and go", vcpus_come_and_go },
    { "state read under load", state_read_under_load }, { "kicks under interrupts", kicks_under_interrupts }, { "closed under load", closed_under_load },
};
THEME(races, rows);

const struct theme *const themes[] = { &theme_races };
const size_t theme_count = COUNT_OF(themes);
