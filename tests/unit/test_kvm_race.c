/* SPDX-License-Identifier: MIT */
/*
 * Changes under running vCPUs, each with a sum that must come out: memory slots that come and go below a guest that writes them,
 * interrupt routes that change below an irqfd, ioeventfds that come and go below a guest's OUTs.
 */
#include "kvm_client.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>

#define FIRST_PAGE 0x100u
#define PAGES 64u
#define ROUNDS 1500
#define LIMIT 200000
#define STOP 0x600

GUEST_CODE(write_code, ".code64",
           "xor %r8, %r8\n"
           "1: inc %r8; mov $0x100000, %edi; mov $64, %ecx\n"
           "2: mov %r8, (%rdi); add $0x1000, %rdi; dec %ecx; jnz 2b\n"
           "cmpq $0, 0x600; je 1b; out %al, $0x80");
GUEST_CODE(irq_code, ".code64",
           "xor %ebx, %ebx; sti\n"
           "1: inc %rbx; out %al, $0x70; cmpq $0, 0x600; je 1b; cli; out %al, $0x80");
GUEST_CODE(irq_50, ".code64", "incq 0x608; push %rax; push %rcx; push %rdx; xor %eax, %eax; xor %edx, %edx\n"
                              "mov $0x80b, %ecx; wrmsr; pop %rdx; pop %rcx; pop %rax; iretq");

struct race {
    struct client c;
    uint64_t mmio_last[PAGES];
    _Atomic uint64_t mmio_exits, io_exits;
    _Atomic bool over;
};

static uint64_t word(const struct race *r, uint64_t gpa)
{
    return __atomic_load_n((const uint64_t *)(const void *)(r->c.memory + gpa), __ATOMIC_ACQUIRE);
}

static void stop(struct race *r)
{
    __atomic_store_n((uint64_t *)(void *)(r->c.memory + STOP), 1, __ATOMIC_RELEASE);
}

/* Runs until the guest says that it is done; takes every access that is nobody's. */
static void *vcpu_thread(void *arg)
{
    struct race *r = arg;
    struct kvm_run *run = r->c.run;

    for (;;) {
        int result = ask(r->c.vcpu, KVM_RUN, NULL);
        if (result == -EINTR)
            continue;
        if (result)
            return number((uintptr_t)-result);
        if (run->exit_reason == KVM_EXIT_IO && run->io.port == 0x80)
            return NULL;
        if (run->exit_reason == KVM_EXIT_IO && run->io.port == 0x70) {
            r->io_exits++;
        } else if (run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write && run->mmio.len == 8) {
            memcpy(&r->mmio_last[(run->mmio.phys_addr >> 12) - FIRST_PAGE], run->mmio.data, 8);
            r->mmio_exits++;
        } else {
            return number(1000 + run->exit_reason);
        }
    }
}

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1103515245u + 12345u;
    return *seed >> 16;
}

static void test_slots(void **state)
{
    struct race *r = calloc(1, sizeof(*r));
    bool there[PAGES] = { false };
    struct kvm_regs regs;
    unsigned seed = 1, logs = 0;
    pthread_t thread;
    void *result;

    (void)state;
    client_new_vm(&r->c);
    assert_int_equal(client_slot(&r->c, 0, 0, 0x100000, 0), 0);
    client_new_vcpu(&r->c);
    client_load_64(&r->c, 0x10000, write_code, GUEST_BYTES(write_code));
    assert_int_equal(pthread_create(&thread, NULL, vcpu_thread, r), 0);
    /* Until the guest has met what is to be shown, however busy the host is. */
    for (int i = 0; i < 4000 || (i < LIMIT && (r->mmio_exits <= 100 || logs <= 100)); i++) {
        unsigned page = next_random(&seed) % PAGES, flags = next_random(&seed) & KVM_MEM_LOG_DIRTY_PAGES;
        uint64_t gpa = (FIRST_PAGE + page) * 4096ull, bits = 0;
        if (there[page] && next_random(&seed) % 4 == 0) { /* the same slot, logged or not */
            assert_int_equal(client_slot(&r->c, 1 + page, gpa, 4096, flags), 0);
            struct kvm_dirty_log log = { .slot = 1 + page, .dirty_bitmap = &bits };
            assert_int_equal(ask(r->c.vm, KVM_GET_DIRTY_LOG, &log), flags ? 0 : -ENOENT);
            logs++;
            continue;
        }
        assert_int_equal(client_slot(&r->c, 1 + page, gpa, there[page] ? 0 : 4096, flags), 0);
        there[page] = !there[page];
    }
    if (!there[0])
        assert_int_equal(client_slot(&r->c, 1, FIRST_PAGE * 4096ull, 4096, 0), 0);
    for (int i = 0; word(r, FIRST_PAGE * 4096ull) < 2 && i < LIMIT; i++)
        usleep(100);
    stop(r);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_null(result);
    assert_int_equal(ask(r->c.vcpu, KVM_GET_REGS, &regs), 0);
    assert_true(regs.r8 > 1 && logs > 100 && r->mmio_exits > 100);
    for (unsigned page = 0; page < PAGES; page++) { /* the last round of stores went somewhere, each of them */
        uint64_t in_memory = word(r, (FIRST_PAGE + page) * 4096ull);
        assert_int_equal(in_memory > r->mmio_last[page] ? in_memory : r->mmio_last[page], regs.r8);
    }
    client_free(&r->c);
    free(r);
}

/* ---- interrupts ---- */

static void load_irq_guest(struct race *r)
{
    struct kvm_lapic_state lapic;
    struct kvm_sregs sregs;

    client_new_vm(&r->c);
    assert_int_equal(ask(r->c.vm, KVM_CREATE_IRQCHIP, NULL), 0);
    assert_int_equal(client_slot(&r->c, 0, 0, CLIENT_MEMORY, 0), 0);
    client_new_vcpu(&r->c);
    client_supported_cpuid(&r->c);
    client_load_64(&r->c, 0x10000, irq_code, GUEST_BYTES(irq_code));
    memcpy(r->c.memory + 0x11000, irq_50, GUEST_BYTES(irq_50));
    for (unsigned vector = 0x50; vector < 0x60; vector++)
        client_gate_64(&r->c, vector, 0x11000);
    assert_int_equal(ask(r->c.vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.apic_base |= 0xc00; /* x2APIC */
    assert_int_equal(ask(r->c.vcpu, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(ask(r->c.vcpu, KVM_GET_LAPIC, &lapic), 0);
    memcpy(lapic.regs + 0xf0, &(uint32_t){ 0x1ff }, 4);
    assert_int_equal(ask(r->c.vcpu, KVM_SET_LAPIC, &lapic), 0);
}

static void route(const struct race *r, uint32_t vector, uint32_t extra)
{
    union { struct kvm_irq_routing list; uint8_t room[sizeof(struct kvm_irq_routing) + 64 * sizeof(struct kvm_irq_routing_entry)]; }
        routing = { { .nr = 1 + extra } };

    for (uint32_t i = 0; i <= extra; i++) {
        routing.list.entries[i] = (struct kvm_irq_routing_entry){ .gsi = 40 + i, .type = KVM_IRQ_ROUTING_MSI };
        routing.list.entries[i].u.msi.address_lo = 0xfee00000;
        routing.list.entries[i].u.msi.data = vector;
    }
    assert_int_equal(ask(r->c.vm, KVM_SET_GSI_ROUTING, &routing), 0);
}

static void *router_thread(void *arg)
{
    struct race *r = arg;

    for (uint32_t i = 0; !r->over; i++)
        route(r, 0x50 + i % 16, i % 60);
    return NULL;
}

static bool wait_for_count(const struct race *r, uint64_t count)
{
    for (int ms = 0; ms < 30000; ms++) {
        for (int spin = 0; spin < 2000; spin++)
            if (word(r, 0x608) >= count)
                return true;
        usleep(1000);
    }
    return false;
}

/* Each signal of an irqfd, and each MSI, arrives once, whichever route stands when it comes. */
static void test_routing(void **state)
{
    struct race *r = calloc(1, sizeof(*r));
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), out = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct kvm_irqfd irqfd = { .fd = (uint32_t)event, .gsi = 40 };
    struct kvm_ioeventfd io = { .addr = 0x70, .len = 1, .fd = out, .flags = KVM_IOEVENTFD_FLAG_PIO };
    pthread_t vcpu, router;
    uint64_t sent = 0;
    void *result;

    (void)state;
    load_irq_guest(r);
    route(r, 0x50, 0);
    assert_int_equal(ask(r->c.vm, KVM_IRQFD, &irqfd), 0);
    assert_int_equal(ask(r->c.vm, KVM_IOEVENTFD, &io), 0); /* its OUTs need nobody */
    assert_int_equal(pthread_create(&vcpu, NULL, vcpu_thread, r), 0);
    assert_int_equal(pthread_create(&router, NULL, router_thread, r), 0);
    for (int i = 0; i < ROUNDS; i++) {
        struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x50 + (uint32_t)i % 16 };
        if (i % 3)
            assert_int_equal(write(event, &(uint64_t){ 1 }, 8), 8);
        else
            assert_int_equal(ask(r->c.vm, KVM_SIGNAL_MSI, &msi), 1);
        if (!wait_for_count(r, ++sent))
            fail_msg("interrupt %d was lost", i);
    }
    r->over = true;
    pthread_join(router, NULL);
    stop(r);
    pthread_join(vcpu, &result);
    assert_null(result);
    assert_int_equal(word(r, 0x608), sent);
    assert_int_equal(r->io_exits, 0);
    close(event);
    close(out);
    client_free(&r->c);
    free(r);
}

/* Each OUT is an exit, or a count of the eventfd that stood there: none twice, none never. */
static void test_ioeventfd(void **state)
{
    struct race *r = calloc(1, sizeof(*r));
    int out = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct kvm_ioeventfd io = { .addr = 0x70, .len = 1, .fd = out, .flags = KVM_IOEVENTFD_FLAG_PIO };
    struct kvm_regs regs;
    uint64_t signals = 0, count;
    pthread_t vcpu;
    void *result;

    (void)state;
    load_irq_guest(r);
    assert_int_equal(pthread_create(&vcpu, NULL, vcpu_thread, r), 0);
    for (int i = 0; i < 500 || (i < LIMIT && (signals <= 100 || !r->io_exits)); i++) {
        io.flags = KVM_IOEVENTFD_FLAG_PIO;
        assert_int_equal(ask(r->c.vm, KVM_IOEVENTFD, &io), 0);
        struct pollfd p = { .fd = out, .events = POLLIN };
        poll(&p, 1, 1);
        io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
        assert_int_equal(ask(r->c.vm, KVM_IOEVENTFD, &io), 0);
        if (read(out, &count, 8) == 8)
            signals += count;
    }
    stop(r);
    pthread_join(vcpu, &result);
    assert_null(result);
    assert_int_equal(ask(r->c.vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal(signals + r->io_exits, regs.rbx);
    assert_true(signals > 100 && r->io_exits > 0);
    close(out);
    client_free(&r->c);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots), cmocka_unit_test(test_routing), cmocka_unit_test(test_ioeventfd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
