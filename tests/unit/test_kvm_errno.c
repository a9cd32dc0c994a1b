/* SPDX-License-Identifier: MIT */
/*
 * What a client gets for its mistakes: EFAULT for every bad address of every ioctl, at its first byte, its last, and in what it
 * points to; and the kernel's errno values for the rest. Never a crash.
 */
#include "kvm_client.h"

#include "kage_inspect.h"

#include <fcntl.h>
#include <sys/eventfd.h>

enum { SYSTEM, VM, VCPU };

static const struct row {
    int object;
    unsigned long request;
    const char *name;
    size_t bytes; /* read from the address at least; 0: the request's own size */
} rows[] = {
#define R(object, request) { object, request, #request, 0 }
#define H(object, request, bytes) { object, request, #request, bytes }
    H(SYSTEM, KVM_GET_SUPPORTED_CPUID, 4), H(SYSTEM, KVM_GET_EMULATED_CPUID, 4), H(SYSTEM, KVM_GET_MSR_INDEX_LIST, 4),
    H(SYSTEM, KVM_GET_MSR_FEATURE_INDEX_LIST, 4), H(SYSTEM, KVM_GET_MSRS, 4), R(SYSTEM, KVM_X86_GET_MCE_CAP_SUPPORTED),
    R(SYSTEM, KVM_HAS_DEVICE_ATTR), R(SYSTEM, KVM_GET_DEVICE_ATTR),
    R(VM, KVM_SET_USER_MEMORY_REGION), R(VM, KVM_GET_DIRTY_LOG), R(VM, KVM_CLEAR_DIRTY_LOG), R(VM, KVM_SET_IDENTITY_MAP_ADDR),
    R(VM, KVM_GET_CLOCK), R(VM, KVM_SET_CLOCK), R(VM, KVM_ENABLE_CAP), R(VM, KVM_GET_IRQCHIP), R(VM, KVM_SET_IRQCHIP),
    R(VM, KVM_IRQ_LINE), R(VM, KVM_IRQ_LINE_STATUS), H(VM, KVM_SET_GSI_ROUTING, 8), R(VM, KVM_SIGNAL_MSI), R(VM, KVM_IRQFD),
    R(VM, KVM_IOEVENTFD), R(VM, KVM_CREATE_PIT2), R(VM, KVM_GET_PIT), R(VM, KVM_SET_PIT), R(VM, KVM_GET_PIT2),
    R(VM, KVM_SET_PIT2), H(VM, KVM_REINJECT_CONTROL, sizeof(struct kvm_reinject_control)), R(VM, KVM_REGISTER_COALESCED_MMIO),
    R(VM, KVM_UNREGISTER_COALESCED_MMIO), R(VM, KVM_X86_SET_MSR_FILTER), R(VM, KVM_SET_PMU_EVENT_FILTER), R(VM, KVM_CREATE_DEVICE),
    H(VM, KAGE_GET_STATS, 4), H(VM, KAGE_GET_ERROR, 4), R(VM, KAGE_INSPECT),
    R(VCPU, KVM_GET_REGS), R(VCPU, KVM_SET_REGS), R(VCPU, KVM_GET_SREGS), R(VCPU, KVM_SET_SREGS), R(VCPU, KVM_GET_SREGS2),
    R(VCPU, KVM_SET_SREGS2), R(VCPU, KVM_GET_FPU), R(VCPU, KVM_SET_FPU), R(VCPU, KVM_GET_XSAVE), R(VCPU, KVM_GET_XSAVE2),
    R(VCPU, KVM_SET_XSAVE), R(VCPU, KVM_GET_XCRS), R(VCPU, KVM_SET_XCRS), H(VCPU, KVM_GET_MSRS, 4), H(VCPU, KVM_SET_MSRS, 4),
    H(VCPU, KVM_SET_CPUID, 4), H(VCPU, KVM_SET_CPUID2, 4), H(VCPU, KVM_GET_CPUID2, 4), R(VCPU, KVM_GET_LAPIC), R(VCPU, KVM_SET_LAPIC),
    R(VCPU, KVM_GET_MP_STATE), R(VCPU, KVM_SET_MP_STATE), R(VCPU, KVM_GET_VCPU_EVENTS), R(VCPU, KVM_SET_VCPU_EVENTS),
    R(VCPU, KVM_GET_DEBUGREGS), R(VCPU, KVM_SET_DEBUGREGS), R(VCPU, KVM_SET_GUEST_DEBUG), R(VCPU, KVM_TRANSLATE),
    R(VCPU, KVM_INTERRUPT), H(VCPU, KVM_SET_SIGNAL_MASK, 4), R(VCPU, KVM_TPR_ACCESS_REPORTING), R(VCPU, KVM_SET_VAPIC_ADDR),
    R(VCPU, KVM_X86_SETUP_MCE), R(VCPU, KVM_X86_SET_MCE), R(VCPU, KVM_ENABLE_CAP), R(VCPU, KVM_HAS_DEVICE_ATTR),
    R(VCPU, KVM_GET_DEVICE_ATTR), R(VCPU, KVM_SET_DEVICE_ATTR), H(VCPU, KAGE_GET_STATS, 4), H(VCPU, KAGE_DUMP_VMCS, 4),
    R(VCPU, KAGE_VMREAD), H(VCPU, KAGE_GET_ERROR, 4),
};

struct pages {
    uint8_t *none, *writable, *read_only; /* each followed by a page that is nobody's */
};

static struct pages pages_new(void)
{
    struct pages p;
    uint8_t *at = mmap(NULL, 6 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    p.none = at;
    p.writable = at + 2 * 4096;
    p.read_only = at + 4 * 4096;
    assert_int_equal(mprotect(p.writable, 4096, PROT_READ | PROT_WRITE), 0);
    assert_int_equal(mprotect(p.read_only, 4096, PROT_READ), 0);
    return p;
}

static int handle_of(const struct client *c, int object)
{
    return object == SYSTEM ? c->system : object == VM ? c->vm : c->vcpu;
}

static int setup_chips(void **state)
{
    struct client *c = malloc(sizeof(*c));
    struct kvm_pit_config pit = { 0 };

    client_new_vm(c);
    assert_int_equal(client_slot(c, 0, 0, CLIENT_HOLE, KVM_MEM_LOG_DIRTY_PAGES), 0);
    assert_int_equal(ask(c->vm, KVM_CREATE_IRQCHIP, NULL), 0);
    assert_int_equal(ask(c->vm, KVM_CREATE_PIT2, &pit), 0);
    client_new_vcpu(c);
    *state = c;
    return 0;
}

static void test_addresses(void **state)
{
    struct client *c = *state;
    struct pages p = pages_new();

    kvm->close(kvm->open()); /* the test's runner has put its fault handlers over the engine's */
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct row *r = &rows[i];
        size_t bytes = r->bytes ? r->bytes : _IOC_SIZE(r->request);
        const void *bad[] = { NULL, number(8), p.none, p.none + 4095, number(0x8000000000000000), number(0xffff888000000000),
                              number(UINTPTR_MAX), p.writable + 4096 - bytes + 1, p.writable + 4095 };
        for (size_t k = 0; k < sizeof(bad) / sizeof(bad[0]); k++) {
            if (r->request == KVM_SET_SIGNAL_MASK && !bad[k])
                continue; /* means something */
            if ((uintptr_t)bad[k] == (uintptr_t)p.writable + 4095 && bytes == 1)
                continue;
            int result = ask(handle_of(c, r->object), r->request, (void *)(uintptr_t)bad[k]);
            if (result != -EFAULT)
                fail_msg("%s at %p: %d", r->name, bad[k], result);
        }
    }
    munmap(p.none, 6 * 4096);
}

/* What is only written may not be writable. */
static void test_read_only(void **state)
{
    static const struct { int object; unsigned long request; } out[] = {
        { SYSTEM, KVM_X86_GET_MCE_CAP_SUPPORTED }, { VM, KVM_GET_CLOCK },     { VM, KVM_GET_PIT2 },
        { VCPU, KVM_GET_REGS },                    { VCPU, KVM_GET_SREGS },   { VCPU, KVM_GET_FPU },
        { VCPU, KVM_GET_XSAVE },                   { VCPU, KVM_GET_LAPIC },   { VCPU, KVM_GET_MP_STATE },
        { VCPU, KVM_GET_VCPU_EVENTS },             { VCPU, KVM_GET_DEBUGREGS }, { VM, KVM_GET_IRQCHIP },
        { VM, KVM_IRQ_LINE_STATUS },               { VCPU, KVM_TRANSLATE },   { SYSTEM, KVM_GET_MSR_INDEX_LIST },
    };
    struct client *c = *state;
    struct pages p = pages_new();

    kvm->close(kvm->open());
    for (size_t i = 0; i < sizeof(out) / sizeof(out[0]); i++)
        assert_int_equal(ask(handle_of(c, out[i].object), out[i].request, p.read_only), -EFAULT);
    munmap(p.none, 6 * 4096);
}

/* Addresses inside of structures, and lists that end where memory does. */
static void test_inner_addresses(void **state)
{
    struct client *c = *state;
    struct pages p = pages_new();
    struct kvm_dirty_log log = { .dirty_bitmap = p.none };
    struct kvm_clear_dirty_log clear = { .num_pages = CLIENT_HOLE >> 12, .dirty_bitmap = p.none };
    struct kvm_device_attr attr = { .addr = (uintptr_t)p.none };
    struct kvm_msr_filter filter = { .ranges = { { .flags = KVM_MSR_FILTER_READ, .nmsrs = 8, .bitmap = p.none } } };
    struct kvm_msrs *msrs = (void *)(p.writable + 4096 - sizeof(*msrs) - sizeof(struct kvm_msr_entry));
    struct kvm_cpuid2 *cpuid = (void *)(p.writable + 4096 - sizeof(*cpuid) - sizeof(cpuid->entries[0]));
    struct kvm_irq_routing *routing = (void *)(p.writable + 4096 - sizeof(*routing) - sizeof(routing->entries[0]));
    struct kvm_signal_mask *mask = (void *)(p.writable + 4096 - sizeof(*mask) - 4);

    kvm->close(kvm->open());
    assert_int_equal(ask(c->vm, KVM_GET_DIRTY_LOG, &log), -EFAULT);
    assert_int_equal(ask(c->vm, KVM_CLEAR_DIRTY_LOG, &clear), -EFAULT);
    assert_int_equal(ask(c->system, KVM_GET_DEVICE_ATTR, &attr), -EFAULT);
    assert_int_equal(ask(c->vcpu, KVM_GET_DEVICE_ATTR, &attr), -EFAULT);
    assert_int_equal(ask(c->vcpu, KVM_SET_DEVICE_ATTR, &attr), -EFAULT);
    assert_int_equal(ask(c->vm, KVM_X86_SET_MSR_FILTER, &filter), -EFAULT);
    for (uint32_t count = 1; count <= 2; count++) { /* the second entry is not there */
        msrs->nmsrs = routing->nr = count;
        msrs->entries[0].index = 0x10;
        msrs->entries[0].data = 0;
        routing->entries[0].type = KVM_IRQ_ROUTING_IRQCHIP;
        assert_int_equal(ask(c->vcpu, KVM_GET_MSRS, msrs), count == 1 ? 1 : -EFAULT);
        assert_int_equal(ask(c->vcpu, KVM_SET_MSRS, msrs), count == 1 ? 1 : -EFAULT);
        assert_int_equal(ask(c->vm, KVM_SET_GSI_ROUTING, routing), count == 1 ? 0 : -EFAULT);
        cpuid->nent = count;
        assert_int_equal(ask(c->vcpu, KVM_SET_CPUID2, cpuid), count == 1 ? 0 : -EFAULT);
    }
    cpuid->nent = 100;
    assert_int_equal(ask(c->system, KVM_GET_SUPPORTED_CPUID, cpuid), -EFAULT);
    mask->len = 8;
    assert_int_equal(ask(c->vcpu, KVM_SET_SIGNAL_MASK, mask), -EFAULT);
    munmap(p.none, 6 * 4096);
}

/* Counts that no memory holds. */
static void test_huge_counts(void **state)
{
    struct client *c = *state;
    union { struct kvm_msrs msrs; struct kvm_cpuid2 cpuid; struct kvm_irq_routing routing; struct kvm_pmu_event_filter pmu;
            uint8_t room[4096]; } u = { .room = { 0 } };

    u.msrs.nmsrs = 256;
    assert_int_equal(ask(c->vcpu, KVM_GET_MSRS, &u), -E2BIG);
    u.msrs.nmsrs = UINT32_MAX;
    assert_int_equal(ask(c->vcpu, KVM_SET_MSRS, &u), -E2BIG);
    assert_int_equal(ask(c->system, KVM_GET_MSRS, &u), -E2BIG);
    u.cpuid.nent = UINT32_MAX;
    assert_int_equal(ask(c->vcpu, KVM_SET_CPUID2, &u), -E2BIG);
    assert_int_equal(ask(c->vcpu, KVM_SET_CPUID, &u), -E2BIG);
    u.cpuid.nent = 0;
    assert_int_equal(ask(c->system, KVM_GET_SUPPORTED_CPUID, &u), -E2BIG);
    assert_int_equal(ask(c->system, KVM_GET_EMULATED_CPUID, &u), -E2BIG);
    u.routing.nr = UINT32_MAX;
    assert_int_equal(ask(c->vm, KVM_SET_GSI_ROUTING, &u), -EINVAL);
    memset(&u, 0, sizeof(u));
    u.pmu.nevents = UINT32_MAX;
    assert_int_equal(ask(c->vm, KVM_SET_PMU_EVENT_FILTER, &u), -E2BIG);
}

/* Requests that the object does not have, and arguments of those that take none. */
static void test_requests(void **state)
{
    struct client *c = *state;

    for (unsigned long nr = 0xe8; nr < 0x100; nr++) {
        assert_int_equal(ask(c->system, _IO(KVMIO, nr), NULL), -EINVAL);
        assert_int_equal(ask(c->vm, _IO(KVMIO, nr), NULL), -ENOTTY);
        assert_int_equal(ask(c->vcpu, _IO(KVMIO, nr), NULL), -EINVAL);
    }
    assert_int_equal(ask(c->vcpu, KVM_RUN, number(1)), -EINVAL);
    assert_int_equal(ask(c->vcpu, KVM_SMI, NULL), -ENOTTY);
    assert_int_equal(ask(c->vm, KVM_CREATE_DEVICE, &(struct kvm_create_device){ .type = 99 }), -ENODEV);
}

/* Each state that refuses, and with what (compared with the kernel's KVM). */
static void test_states(void **state)
{
    struct client *c = *state;
    struct kvm_irqfd irqfd = { .fd = (uint32_t)eventfd(0, EFD_CLOEXEC), .gsi = 3 };
    struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
    struct kvm_msi msi = { .address_lo = 0xfee05000, .data = 0x40 };
    struct kvm_interrupt irq = { .irq = 0x30 };
    struct kvm_tpr_access_ctl tpr = { .flags = 1 };
    uint64_t mce;

    int vm = ask(c->system, KVM_CREATE_VM, NULL);
    assert_int_equal(ask(vm, KVM_IRQFD, &irqfd), -EINVAL); /* no chip */
    assert_int_equal(ask(vm, KVM_SIGNAL_MSI, &msi), -EINVAL);
    int vcpu = ask(vm, KVM_CREATE_VCPU, NULL);
    assert_int_equal(ask(vm, KVM_CREATE_IRQCHIP, NULL), -EINVAL); /* too late, and it differs: */
    assert_int_equal(ask(vm, KVM_ENABLE_CAP, &split), -EEXIST);
    kvm->close(vcpu);
    kvm->close(vm);

    vm = ask(c->system, KVM_CREATE_VM, NULL);
    assert_int_equal(ask(vm, KVM_ENABLE_CAP, &split), 0);
    assert_int_equal(ask(vm, KVM_ENABLE_CAP, &split), -EEXIST);
    assert_int_equal(ask(vm, KVM_CREATE_IRQCHIP, NULL), -EEXIST);
    vcpu = ask(vm, KVM_CREATE_VCPU, NULL);
    assert_int_equal(ask(vcpu, KVM_INTERRUPT, &irq), 0); /* the client's 8259 */
    assert_int_equal(ask(vcpu, KVM_INTERRUPT, &irq), -EEXIST);
    kvm->close(vcpu);
    kvm->close(vm);

    assert_int_equal(ask(c->vcpu, KVM_INTERRUPT, &irq), -ENXIO); /* ours */
    assert_int_equal(ask(c->vm, KVM_SIGNAL_MSI, &msi), -EPERM); /* to nobody */
    msi.address_lo = 0xfee00000;
    assert_int_equal(ask(c->vm, KVM_SIGNAL_MSI, &msi), 0); /* to an APIC that is not on */
    assert_int_equal(ask(c->vcpu, KVM_TPR_ACCESS_REPORTING, &tpr), -EINVAL);
    assert_int_equal(ask(c->system, KVM_X86_GET_MCE_CAP_SUPPORTED, &mce), 0);
    assert_int_equal(mce & 0xff, 0);
    mce |= 10;
    assert_int_equal(ask(c->vcpu, KVM_X86_SETUP_MCE, &mce), 0);
    close((int)irqfd.fd);
}

/* The vCPU's file is the engine's too: it cannot be cut. */
static void test_vcpu_file(void **state)
{
    struct client *c = *state;

    assert_int_equal(ftruncate(c->vcpu, 0), -1);
    assert_int_equal(errno, EPERM);
    c->run->immediate_exit = 1;
    assert_int_equal(ask(c->vcpu, KVM_RUN, NULL), -EINTR);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup_chips, client_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_addresses), TEST(test_read_only), TEST(test_inner_addresses), TEST(test_huge_counts), TEST(test_requests),
        TEST(test_states), TEST(test_vcpu_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
