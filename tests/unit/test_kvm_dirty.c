/* SPDX-License-Identifier: MIT */
/*
 * Dirty pages, by bitmap and by ring. The law: a page that is not as it was when it was last asked for has been reported, whoever
 * wrote it: the guest's instructions, its page walks (accessed and dirty bits), or the engine (kvm-clock, steal time, PV EOI).
 */
#include "kvm_client.h"

#include <asm/kvm_para.h>

#define PAGES (CLIENT_MEMORY >> 12)
#define CLOCK_PAGE 0x20u
#define STEAL_PAGE 0x21u
#define EOI_PAGE 0x22u
#define READ_PAGE 0x41u

/* A round: new translations (so accessed and dirty bits are set anew), reads, writes of several kinds, an interrupt, OUT. */
GUEST_CODE(round_code, ".code64",
           "1: mov %cr3, %rax; mov %rax, %cr3\n"
           "mov 0x41000, %ebx\n"             /* only read */
           "incq 0x40000\n"
           "lock incq 0x42ffc\n"             /* both pages */
           "mov $0x50000, %edi; mov $0x3000, %ecx; inc %eax; rep stosb\n"
           "push %rax; pop %rax\n"
           "sti; nop; cli\n"
           "out %al, $0x80\n"
           "jmp 1b");
GUEST_CODE(handler_code, ".code64", "lock incq 0x43000; lock btrl $0, 0x22000; iretq"); /* the EOI, by its paravirtual flag */
/* 400 pages: one store each, then one instruction over all. */
GUEST_CODE(many_code, ".code64",
           "mov $0x20000, %edi; mov $400, %ecx\n"
           "1: incq (%rdi); add $0x1000, %rdi; dec %ecx; jnz 1b\n"
           "out %al, $0x80\n"
           "mov $0x20000, %edi; mov $400*512, %ecx; mov $0x55, %eax; rep stosq\n"
           "out %al, $0x80\n"
           "jmp .");

static int setup_logged(void **state, uint64_t ring_bytes)
{
    struct client *c = malloc(sizeof(*c));

    client_new_vm(c);
    assert_int_equal(ask(c->vm, KVM_CREATE_IRQCHIP, NULL), 0);
    if (ring_bytes)
        assert_int_equal(client_cap(c->vm, KVM_CAP_DIRTY_LOG_RING, ring_bytes), 0);
    assert_int_equal(client_slot(c, 3, 0, CLIENT_MEMORY, KVM_MEM_LOG_DIRTY_PAGES), 0);
    client_new_vcpu(c);
    *state = c;
    return 0;
}

static int setup_bitmap(void **state)
{
    return setup_logged(state, 0);
}

static int setup_ring(void **state)
{
    return setup_logged(state, 4096);
}

static bool test_bit(const uint64_t *bits, unsigned page)
{
    return bits[page / 64] >> (page % 64) & 1;
}

/* The law. before: memory as it was. */
static void check_all_reported(struct client *c, const uint8_t *before, const uint64_t *bits)
{
    for (unsigned page = 0; page < PAGES; page++)
        if (memcmp(before + page * 4096, c->memory + page * 4096, 4096) && !test_bit(bits, page))
            fail_msg("page 0x%x was written and not reported", page);
}

static void get_log(struct client *c, uint64_t bits[PAGES / 64])
{
    struct kvm_dirty_log log = { .slot = 3, .dirty_bitmap = bits };
    assert_int_equal(ask(c->vm, KVM_GET_DIRTY_LOG, &log), 0);
}

static void load_rounds(struct client *c)
{
    client_supported_cpuid(c);
    client_load_64(c, 0x10000, round_code, GUEST_BYTES(round_code));
    memcpy(c->memory + 0x11000, handler_code, GUEST_BYTES(handler_code));
    client_gate_64(c, 0x40, 0x11000);
    client_set_msr(c, MSR_KVM_SYSTEM_TIME_NEW, CLOCK_PAGE << 12 | 1);
    client_set_msr(c, MSR_KVM_STEAL_TIME, STEAL_PAGE << 12 | 1);
    client_set_msr(c, MSR_KVM_PV_EOI_EN, EOI_PAGE << 12 | 1);
    struct kvm_lapic_state lapic;
    assert_int_equal(ask(c->vcpu, KVM_GET_LAPIC, &lapic), 0);
    memcpy(lapic.regs + 0xf0, &(uint32_t){ 0x1ff }, 4);
    assert_int_equal(ask(c->vcpu, KVM_SET_LAPIC, &lapic), 0);
}

/* What a client may do between rounds: clear accessed and dirty bits by its own stores, turn the clock, send an interrupt. */
static void prepare_round(struct client *c)
{
    struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x40 };
    struct kvm_clock_data clock = { .clock = 1000 };

    for (unsigned page = 0; page < 512; page++)
        c->memory[CLIENT_PT + page * 8] &= (uint8_t)~0x60u;
    c->memory[CLIENT_PD] &= (uint8_t)~0x20u;
    assert_int_equal(ask(c->vm, KVM_SET_CLOCK, &clock), 0);
    assert_int_equal(ask(c->vm, KVM_SIGNAL_MSI, &msi), 1);
    usleep(2000); /* steal time is renewed once in a millisecond */
}

static void test_bitmap(void **state)
{
    struct client *c = *state;
    uint64_t bits[PAGES / 64];
    uint8_t *before = malloc(CLIENT_MEMORY);

    load_rounds(c);
    get_log(c, bits); /* what SET_MSRS wrote */
    for (int round = 0; round < 4; round++) {
        prepare_round(c);
        memcpy(before, c->memory, CLIENT_MEMORY);
        client_run(c, KVM_EXIT_IO);
        get_log(c, bits);
        check_all_reported(c, before, bits);
        static const unsigned written[] = { CLIENT_PT >> 12, CLOCK_PAGE, STEAL_PAGE, EOI_PAGE, 0xf, 0x40, 0x42, 0x43, 0x50, 0x52 };
        for (size_t i = 0; i < sizeof(written) / sizeof(written[0]); i++)
            if (!test_bit(bits, written[i]))
                fail_msg("round %d: page 0x%x was not reported", round, written[i]);
        assert_memory_not_equal(before + (CLIENT_PT & ~0xfffu), c->memory + (CLIENT_PT & ~0xfffu), 4096);
        assert_false(test_bit(bits, READ_PAGE));
        assert_false(test_bit(bits, 0x53));
    }
    get_log(c, bits);
    for (unsigned i = 0; i < PAGES / 64; i++)
        assert_int_equal(bits[i], 0);
    free(before);
}

/* A log that cannot be handed out is not lost. */
static void test_bitmap_fault(void **state)
{
    struct client *c = *state;
    struct kvm_dirty_log log = { .slot = 3, .dirty_bitmap = number(0x1000) };
    uint64_t bits[PAGES / 64];

    kvm->close(kvm->open());
    load_rounds(c);
    get_log(c, bits);
    client_run(c, KVM_EXIT_IO);
    assert_int_equal(ask(c->vm, KVM_GET_DIRTY_LOG, &log), -EFAULT);
    get_log(c, bits);
    assert_true(test_bit(bits, 0x40) && test_bit(bits, 0x50));
}

/* ---- rings ---- */

static struct kvm_dirty_gfn *map_ring(struct client *c)
{
    const off_t at = KVM_DIRTY_LOG_PAGE_OFFSET * 4096;

    assert_ptr_equal(kvm->mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, c->vcpu, at), MAP_FAILED);
    assert_int_equal(errno, EINVAL);
    assert_ptr_equal(kvm->mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, c->vcpu, at), MAP_FAILED);
    assert_int_equal(errno, EINVAL);
    struct kvm_dirty_gfn *ring = kvm->mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, c->vcpu, at);
    assert_ptr_not_equal(ring, MAP_FAILED);
    return ring;
}

/* Takes what is there from *next on: sets bits, counts. */
static unsigned harvest(struct kvm_dirty_gfn *ring, unsigned *next, uint64_t *bits)
{
    unsigned count = 0;

    for (;; count++, ++*next) {
        struct kvm_dirty_gfn *e = &ring[*next % 256];
        if (!(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
            return count;
        assert_int_equal(e->slot, 3);
        assert_true(e->offset < PAGES);
        bits[e->offset / 64] |= 1ull << (e->offset % 64);
        __atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
}

/* Runs to the next OUT, harvesting each time that the ring is full. How many times that was. */
static unsigned run_with_ring(struct client *c, struct kvm_dirty_gfn *ring, unsigned *next, uint64_t *bits)
{
    for (unsigned full = 0;; full++) {
        assert_int_equal(ask(c->vcpu, KVM_RUN, NULL), 0);
        unsigned count = c->run->exit_reason == KVM_EXIT_IO ? 0 : 1;
        if (count) {
            assert_int_equal(c->run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
            assert_int_equal(ask(c->vcpu, KVM_RUN, NULL), 0); /* still so */
            assert_int_equal(c->run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
        }
        unsigned taken = harvest(ring, next, bits);
        assert_true(!count || taken >= 192);
        assert_int_equal(ask(c->vm, KVM_RESET_DIRTY_RINGS, NULL), (int)taken);
        if (!count)
            return full;
    }
}

static void test_ring(void **state)
{
    struct client *c = *state;
    struct kvm_dirty_gfn *ring = map_ring(c);
    uint64_t bits[PAGES / 64] = { 0 };
    uint8_t *before = malloc(CLIENT_MEMORY);
    struct kvm_dirty_log log = { .slot = 3, .dirty_bitmap = bits };
    unsigned next = 0;

    assert_int_equal(ask(c->vm, KVM_GET_DIRTY_LOG, &log), -ENXIO);
    client_load_64(c, 0x10000, many_code, GUEST_BYTES(many_code));
    for (int part = 0; part < 2; part++) { /* by stores, by REP STOS */
        memcpy(before, c->memory, CLIENT_MEMORY);
        memset(bits, 0, sizeof(bits));
        assert_true(run_with_ring(c, ring, &next, bits) >= 2);
        check_all_reported(c, before, bits);
        for (unsigned page = 0x20; page < 0x20 + 400; page++)
            assert_true(test_bit(bits, page));
    }
    free(before);
    kvm->munmap(ring, 4096);
}

static void test_ring_rounds(void **state)
{
    struct client *c = *state;
    struct kvm_dirty_gfn *ring = map_ring(c);
    uint64_t bits[PAGES / 64];
    uint8_t *before = malloc(CLIENT_MEMORY);
    unsigned next = 0;

    load_rounds(c);
    for (int round = 0; round < 40; round++) { /* the ring goes round */
        prepare_round(c);
        memcpy(before, c->memory, CLIENT_MEMORY);
        memset(bits, 0, sizeof(bits));
        run_with_ring(c, ring, &next, bits);
        check_all_reported(c, before, bits);
        assert_true(test_bit(bits, CLOCK_PAGE) && test_bit(bits, STEAL_PAGE) && test_bit(bits, CLIENT_PT >> 12));
    }
    assert_true(next > 256);
    free(before);
    kvm->munmap(ring, 4096);
}

/* The client writes nonsense where entries are. */
static void test_ring_hostile(void **state)
{
    struct client *c = *state;
    struct kvm_dirty_gfn *ring = map_ring(c);

    client_load_64(c, 0x10000, many_code, GUEST_BYTES(many_code));
    client_run(c, KVM_EXIT_DIRTY_RING_FULL);
    assert_int_equal(ask(c->vm, KVM_RESET_DIRTY_RINGS, NULL), 0); /* nothing was taken */
    for (unsigned i = 0; i < 256; i++)
        ring[i] = (struct kvm_dirty_gfn){ .flags = KVM_DIRTY_GFN_F_RESET, .slot = i & 1 ? 3 : UINT32_MAX,
                                          .offset = i & 2 ? UINT64_MAX - i : 1ull << (i % 64) };
    int taken = ask(c->vm, KVM_RESET_DIRTY_RINGS, NULL);
    assert_true(taken >= 192 && taken <= 256);
    assert_int_equal(ask(c->vm, KVM_RESET_DIRTY_RINGS, NULL), 0);
    assert_int_equal(client_slot(c, 3, 0, 0, 0), 0); /* entries of a slot that is gone */
    memset(ring, 0xff, 4096);
    (void)ask(c->vm, KVM_RESET_DIRTY_RINGS, NULL);
    kvm->munmap(ring, 4096);
}

static void test_ring_errors(void **state)
{
    struct client *c = *state;

    assert_int_equal(ask(c->system, KVM_CHECK_EXTENSION, number(KVM_CAP_DIRTY_LOG_RING)), 1 << 20);
    assert_int_equal(client_cap(c->vm, KVM_CAP_DIRTY_LOG_RING, 4096), -EINVAL); /* set once */
    int vm = ask(c->system, KVM_CREATE_VM, NULL);
    assert_int_equal(ask(vm, KVM_RESET_DIRTY_RINGS, NULL), -EINVAL);
    assert_int_equal(client_cap(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 0), -EINVAL);
    assert_int_equal(client_cap(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 2048), -EINVAL);
    assert_int_equal(client_cap(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 5000), -EINVAL);
    assert_int_equal(client_cap(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 2 << 20), -E2BIG);
    assert_int_equal(client_cap(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 1 << 20), 0);
    kvm->close(vm);
    vm = ask(c->system, KVM_CREATE_VM, NULL);
    int vcpu = ask(vm, KVM_CREATE_VCPU, NULL);
    assert_int_equal(client_cap(vm, KVM_CAP_DIRTY_LOG_RING, 4096), -EINVAL); /* too late */
    kvm->close(vcpu);
    kvm->close(vm);
}

#define BITMAP(fn) cmocka_unit_test_setup_teardown(fn, setup_bitmap, client_teardown)
#define RING(fn) cmocka_unit_test_setup_teardown(fn, setup_ring, client_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BITMAP(test_bitmap), BITMAP(test_bitmap_fault), RING(test_ring), RING(test_ring_rounds), RING(test_ring_hostile),
        RING(test_ring_errors),
    };
    int failed = cmocka_run_group_tests_name("ept", tests, NULL, NULL);
    client_mmu = KAGE_MMU_SHADOW;
    return failed + cmocka_run_group_tests_name("shadow", tests, NULL, NULL);
}
