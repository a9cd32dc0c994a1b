/* SPDX-License-Identifier: MIT */
/*
 * The KVM API of the soft back end without running guest code: handles, errors, state round trips,
 * CPUID tables, MSR lists, memory slots.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kage.h"

static const struct kvm_backend *const kvm = &kage_backend_soft;

struct fixture {
    int system, vm, vcpu;
    struct kvm_run *run;
    int run_bytes;
};

static int ask(int handle, unsigned long request, void *arg)
{
    int result = kvm->ioctl(handle, request, arg);
    return result < 0 ? -errno : result;
}

static void *number(uintptr_t value)
{
    return (void *)value;
}

static int setup_with(void **state, bool irqchip)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->system = kvm->open();
    f->vm = ask(f->system, KVM_CREATE_VM, NULL);
    if (irqchip && ask(f->vm, KVM_CREATE_IRQCHIP, number(0x1234)) != 0)
        return -1;
    f->vcpu = ask(f->vm, KVM_CREATE_VCPU, NULL);
    f->run_bytes = ask(f->system, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (f->system < 0 || f->vm < 0 || f->vcpu < 0 || f->run_bytes <= 0)
        return -1;
    f->run = kvm->mmap(NULL, (size_t)f->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->vcpu, 0);
    *state = f;
    return f->run == MAP_FAILED ? -1 : 0;
}

static int setup(void **state)
{
    return setup_with(state, true);
}

static int setup_without_irqchip(void **state)
{
    return setup_with(state, false);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    kvm->munmap(f->run, (size_t)f->run_bytes);
    /* in this order: the VM must live until the vCPU's handle goes */
    int err = kvm->close(f->system) | kvm->close(f->vm) | kvm->close(f->vcpu);
    free(f);
    return err;
}

static void test_handles(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(ask(f->system, KVM_GET_API_VERSION, NULL), KVM_API_VERSION);
    assert_int_equal(ask(f->system, 0xffffffff00000000ul | KVM_GET_API_VERSION, NULL), KVM_API_VERSION);
    assert_int_equal(ask(f->system, KVM_RUN, NULL), -EINVAL);
    assert_int_equal(ask(f->vcpu, KVM_CREATE_VCPU, NULL), -EINVAL);
    assert_int_equal(ask(f->vm, KVM_GET_API_VERSION, NULL), -ENOTTY);
    assert_int_equal(ask(0, KVM_GET_API_VERSION, NULL), -EBADF);
    assert_int_equal(ask(f->system, KVM_CREATE_VM, number(1)), -EINVAL);
    assert_int_equal(ask(f->vm, KVM_CREATE_VCPU, NULL), -EEXIST);
    assert_int_equal(ask(f->vm, KVM_CREATE_VCPU, number(100000)), -EINVAL);
    assert_int_equal(ask(f->vm, KVM_SET_BOOT_CPU_ID, number(1)), -EBUSY);
    assert_int_equal(ask(f->vm, KVM_CREATE_IRQCHIP, NULL), -EEXIST);
    assert_int_equal(kvm->close(kvm->open()), 0); /* the test's runner puts its handlers in place of the engine's */
    assert_int_equal(ask(f->vcpu, KVM_GET_REGS, NULL), -EFAULT);
    assert_ptr_equal(kvm->mmap(NULL, 4096, PROT_READ, MAP_SHARED, f->vm, 0), MAP_FAILED);
    int vm = ask(f->system, KVM_CREATE_VM, NULL);
    assert_true(vm >= 0);
    assert_int_equal(kvm->close(vm), 0);
    assert_int_equal(kvm->close(vm), -1);
}

static void test_fork(void **state)
{
    struct fixture *f = *state;
    int status = 0;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        _exit(ask(f->system, KVM_GET_API_VERSION, NULL) == 12 && ask(f->vm, KVM_CHECK_EXTENSION, NULL) == -EIO ? 0 : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void test_vm_outlives_handle(void **state)
{
    struct kvm_regs regs = { 0 };
    int vm, vcpu;

    (void)state;
    int system = kvm->open();
    vm = ask(system, KVM_CREATE_VM, NULL);
    vcpu = ask(vm, KVM_CREATE_VCPU, NULL);
    assert_true(vcpu >= 0);
    assert_int_equal(kvm->close(vm), 0);
    assert_int_equal(ask(vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal(kvm->close(vcpu), 0);
    assert_int_equal(kvm->close(system), 0);
}

static void test_regs(void **state)
{
    struct fixture *f = *state;
    struct kvm_regs in, out;

    memset(&in, 0x5a, sizeof(in));
    in.rip = 0x1234567;
    in.rflags = 0x246;
    assert_int_equal(ask(f->vcpu, KVM_SET_REGS, &in), 0);
    assert_int_equal(ask(f->vcpu, KVM_GET_REGS, &out), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    in.rflags = UINT64_MAX;
    assert_int_equal(ask(f->vcpu, KVM_SET_REGS, &in), 0);
    assert_int_equal(ask(f->vcpu, KVM_GET_REGS, &out), 0);
    assert_int_equal(out.rflags, 0x3f7fd7);
}

static void test_reset_state(void **state)
{
    struct fixture *f = *state;
    struct kvm_sregs sregs;
    struct kvm_regs regs;

    assert_int_equal(ask(f->vcpu, KVM_GET_SREGS, &sregs), 0);
    assert_int_equal(ask(f->vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal(sregs.cr0, 0x60000010);
    assert_int_equal(sregs.cs.selector, 0xf000);
    assert_int_equal(sregs.cs.base, 0xffff0000);
    assert_int_equal(regs.rip, 0xfff0);
    assert_int_equal(regs.rflags, 2);
    assert_int_equal(sregs.apic_base, 0xfee00900);
}

static void test_sregs(void **state)
{
    struct fixture *f = *state;
    struct kvm_sregs in, out;
    struct kvm_sregs2 sregs2;

    assert_int_equal(ask(f->vcpu, KVM_GET_SREGS, &in), 0);
    in.cs = (struct kvm_segment){ .limit = UINT32_MAX, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
    in.cr0 = 0x80010031;
    in.cr3 = 0x5000;
    in.cr4 = 0x6b0;
    in.efer = 0xd01;
    in.cr8 = 5;
    in.fs.base = 0x7fff12345678;
    in.gdt.base = 0xffff800000001000;
    in.gdt.limit = 0x7f;
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS, &in), 0);
    assert_int_equal(ask(f->vcpu, KVM_GET_SREGS, &out), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    assert_int_equal(ask(f->vcpu, KVM_GET_SREGS2, &sregs2), 0);
    assert_int_equal(sregs2.cr3, 0x5000);
    assert_int_equal(sregs2.flags, 0);

    in.cr4 &= ~0x20ull; /* long mode without PAE */
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS, &in), -EINVAL);
    in = out;
    in.efer &= ~0x400ull;
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS, &in), -EINVAL);
    in = out;
    in.cr4 |= 1u << 12; /* LA57 */
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS, &in), -EINVAL);
    assert_int_equal(ask(f->vcpu, KVM_GET_SREGS, &in), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    sregs2.flags = 2;
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS2, &sregs2), -EINVAL);
}

static void test_fpu(void **state)
{
    struct fixture *f = *state;
    struct kvm_fpu in = { .fcw = 0x37f, .fsw = 0x3800, .ftwx = 0x80, .mxcsr = 0x1fa0, .last_ip = 0x1000 }, out;
    static struct kvm_xsave xsave, again;

    memset(in.xmm, 0xa5, sizeof(in.xmm));
    memset(in.fpr[0], 0x3c, 10);
    assert_int_equal(ask(f->vcpu, KVM_SET_FPU, &in), 0);
    assert_int_equal(ask(f->vcpu, KVM_GET_FPU, &out), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    assert_int_equal(ask(f->vcpu, KVM_GET_XSAVE, &xsave), 0);
    assert_int_equal(xsave.region[6], 0x1fa0);
    assert_int_equal(xsave.region[40], 0xa5a5a5a5);
    assert_int_equal(ask(f->vcpu, KVM_SET_XSAVE, &xsave), 0);
    assert_int_equal(ask(f->vcpu, KVM_GET_XSAVE2, &again), 0);
    assert_memory_equal(&xsave, &again, sizeof(xsave));
    xsave.region[6] = 0xffff0000; /* reserved bits of MXCSR */
    assert_int_equal(ask(f->vcpu, KVM_SET_XSAVE, &xsave), -EINVAL);
    xsave.region[6] = 0x1f80;
    xsave.region[129] = 0x40000000; /* XSTATE_BV bit 62 */
    assert_int_equal(ask(f->vcpu, KVM_SET_XSAVE, &xsave), -EINVAL);
}

static struct kvm_cpuid2 *supported_cpuid(int system, uint32_t room)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + room * sizeof(cpuid->entries[0]));

    cpuid->nent = room;
    int err = ask(system, KVM_GET_SUPPORTED_CPUID, cpuid);
    if (!err)
        return cpuid;
    free(cpuid);
    errno = -err;
    return NULL;
}

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *cpuid, uint32_t function, uint32_t index)
{
    for (uint32_t i = 0; i < cpuid->nent; i++)
        if (cpuid->entries[i].function == function && cpuid->entries[i].index == index)
            return &cpuid->entries[i];
    fail_msg("no CPUID leaf 0x%x.%u", function, index);
    return NULL;
}

static void test_cpuid(void **state)
{
    struct fixture *f = *state;

    assert_null(supported_cpuid(f->system, 1));
    assert_int_equal(errno, E2BIG);
    struct kvm_cpuid2 *cpuid = supported_cpuid(f->system, 100);
    assert_non_null(cpuid);
    const struct kvm_cpuid_entry2 *l1 = leaf(cpuid, 1, 0), *l7 = leaf(cpuid, 7, 0), *ld = leaf(cpuid, 0xd, 0);
    assert_int_equal(l1->ecx & (1u << 3 | 1u << 5 | 1u << 27), 0); /* MONITOR, VMX, OSXSAVE */
    assert_int_equal(l1->ecx & (1u << 17 | 1u << 21 | 1u << 24 | 1u << 31), 1u << 17 | 1u << 21 | 1u << 24 | 1u << 31);
    assert_int_equal(l7->ebx & (1u << 4 | 1u << 11 | 1u << 14 | 1u << 2), 0); /* HLE, RTM, MPX, SGX */
    assert_int_equal(l7->ebx & (1u << 0 | 1u << 7 | 1u << 10 | 1u << 20), 1u << 0 | 1u << 7 | 1u << 10 | 1u << 20);
    assert_int_equal(l7->ecx & (1u << 3 | 1u << 16 | 1u << 7), 0); /* PKU, LA57, CET */
    assert_true(l7->edx & (1u << 29));
    assert_int_equal(ld->eax & ~0xe7u, 0);
    assert_int_equal(leaf(cpuid, 0xd, 1)->eax & 8, 0); /* XSAVES */
    assert_int_equal(leaf(cpuid, 0x80000008, 0)->eax & 0xff, 40);
    assert_memory_equal(&leaf(cpuid, 0x40000000, 0)->ebx, "KVMKVMKVM\0\0\0", 12);
    assert_true(leaf(cpuid, 0x40000010, 0)->eax > 100000);
    assert_int_equal(leaf(cpuid, 0x40000010, 0)->eax, ask(f->vm, KVM_GET_TSC_KHZ, NULL));
    assert_int_equal(ask(f->vm, KVM_SET_TSC_KHZ, number(leaf(cpuid, 0x40000010, 0)->eax)), 0);
    assert_int_equal(ask(f->vm, KVM_SET_TSC_KHZ, number(1000)), -EINVAL);

    assert_int_equal(ask(f->vcpu, KVM_SET_CPUID2, cpuid), 0);
    struct kvm_cpuid2 *back = calloc(1, sizeof(*back) + 100 * sizeof(back->entries[0]));
    assert_int_equal(ask(f->vcpu, KVM_GET_CPUID2, back), -E2BIG);
    assert_int_equal(back->nent, cpuid->nent);
    assert_int_equal(ask(f->vcpu, KVM_GET_CPUID2, back), 0);
    assert_memory_equal(back->entries, cpuid->entries, cpuid->nent * sizeof(cpuid->entries[0]));
    back->nent = 1000;
    assert_int_equal(ask(f->vcpu, KVM_SET_CPUID2, back), -E2BIG);
    free(back);
    free(cpuid);
}

static void test_xcrs(void **state)
{
    struct fixture *f = *state;
    struct kvm_xcrs xcrs = { .nr_xcrs = 1 };
    struct kvm_cpuid2 *cpuid = supported_cpuid(f->system, 100);

    assert_int_equal(ask(f->vcpu, KVM_SET_CPUID2, cpuid), 0);
    xcrs.xcrs[0].value = 3;
    assert_int_equal(ask(f->vcpu, KVM_SET_XCRS, &xcrs), 0);
    xcrs.xcrs[0].value = 2; /* without x87 */
    assert_int_equal(ask(f->vcpu, KVM_SET_XCRS, &xcrs), -EINVAL);
    xcrs.xcrs[0].value = 5; /* AVX without SSE */
    assert_int_equal(ask(f->vcpu, KVM_SET_XCRS, &xcrs), -EINVAL);
    assert_int_equal(ask(f->vcpu, KVM_GET_XCRS, &xcrs), 0);
    assert_int_equal(xcrs.xcrs[0].value, 3);
    free(cpuid);
}

/* Every MSR of the list can be read, and written back. */
static void test_msr_list(void **state)
{
    struct fixture *f = *state;
    struct kvm_msr_list probe = { 0 };
    struct kvm_cpuid2 *cpuid = supported_cpuid(f->system, 100);

    assert_int_equal(ask(f->vcpu, KVM_SET_CPUID2, cpuid), 0);
    free(cpuid);
    assert_int_equal(ask(f->system, KVM_GET_MSR_INDEX_LIST, &probe), -E2BIG);
    assert_true(probe.nmsrs > 20 && probe.nmsrs < 200);
    struct kvm_msr_list *list = calloc(1, sizeof(*list) + probe.nmsrs * sizeof(uint32_t));
    struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + probe.nmsrs * sizeof(struct kvm_msr_entry));
    list->nmsrs = msrs->nmsrs = probe.nmsrs;
    assert_int_equal(ask(f->system, KVM_GET_MSR_INDEX_LIST, list), 0);
    for (uint32_t i = 0; i < list->nmsrs; i++)
        msrs->entries[i].index = list->indices[i];
    assert_int_equal(ask(f->vcpu, KVM_GET_MSRS, msrs), (int)list->nmsrs);
    assert_int_equal(ask(f->vcpu, KVM_SET_MSRS, msrs), (int)list->nmsrs);
    free(list);
    free(msrs);
}

/* What QEMU sets at reset: all must be taken (KVM_SET_MSRS stops at the first that is not). */
static void test_msrs_of_clients(void **state)
{
    static const struct { uint32_t index; uint64_t value; } rows[] = {
        { 0x174, 0 }, { 0x175, 0 }, { 0x176, 0 }, { 0x277, 0x0007040600070406 }, { 0xc0000081, 0 }, { 0xc0000082, 0 },
        { 0xc0000083, 0 }, { 0xc0000084, 0 }, { 0xc0000102, 0 }, { 0xc0010117, 0 }, { 0xc001011f, 0 }, { 0x3b, 0 },
        { 0x1a0, 1 }, { 0x34, 0 }, { 0x10, 0 }, { 0x12, 0 }, { 0x11, 0 }, { 0x4b564d02, 0 }, { 0x4b564d03, 0 },
        { 0x4b564d04, 0 }, { 0x4b564d05, 1 }, { 0x4b564d06, 0 }, { 0x2ff, 0 }, { 0x250, 0 }, { 0x258, 0 }, { 0x26f, 0 },
        { 0x200, 0 }, { 0x201, 0 }, { 0x20f, 0 }, { 0x17a, 0 }, { 0x17b, UINT64_MAX }, { 0x400, UINT64_MAX },
        { 0x427, 0 }, { 0x6e0, 0 }, { 0x1b, 0xfee00900 },
    };
    enum { COUNT = sizeof(rows) / sizeof(rows[0]) };
    struct fixture *f = *state;
    struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + COUNT * sizeof(struct kvm_msr_entry));
    uint64_t mce = 0x100010a;

    assert_int_equal(ask(f->vcpu, KVM_X86_SETUP_MCE, &mce), 0);
    mce = 0x1000121; /* 33 banks */
    assert_int_equal(ask(f->vcpu, KVM_X86_SETUP_MCE, &mce), -EINVAL);
    msrs->nmsrs = COUNT;
    for (uint32_t i = 0; i < COUNT; i++) {
        msrs->entries[i].index = rows[i].index;
        msrs->entries[i].data = rows[i].value;
    }
    int done = ask(f->vcpu, KVM_SET_MSRS, msrs);
    if (done < COUNT)
        fail_msg("MSR 0x%x was refused", rows[done].index);
    msrs->nmsrs = 2; /* the second exists nowhere */
    msrs->entries[1].index = 0x12345678;
    assert_int_equal(ask(f->vcpu, KVM_GET_MSRS, msrs), 1);
    assert_int_equal(ask(f->vcpu, KVM_SET_MSRS, msrs), 1);
    free(msrs);
}

static void test_memory_slots(void **state)
{
    struct fixture *f = *state;
    uint8_t *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region a = { .slot = 0, .guest_phys_addr = 0x100000, .memory_size = 0x10000,
                                             .userspace_addr = (uintptr_t)memory }, b = a;
    uint64_t bitmap[2] = { 0 };
    struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bitmap };

    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &a), 0);
    b.slot = 1;
    b.guest_phys_addr = 0x10f000;
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &b), -EEXIST);
    b.guest_phys_addr = 0x110000;
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &b), 0);
    b.memory_size = 0x20000; /* a slot cannot grow */
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &b), -EINVAL);
    b.memory_size = 0x10000;
    b.guest_phys_addr = 0x10f000; /* nor move onto another */
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &b), -EEXIST);
    b.guest_phys_addr = 0x200000;
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &b), 0);
    b.memory_size = 0;
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &b), 0);
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &b), -EINVAL);

    struct kvm_userspace_memory_region bad = a;
    bad.slot = 2;
    bad.guest_phys_addr = 0x300001;
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &bad), -EINVAL);
    bad.guest_phys_addr = ~0xfffull;
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &bad), -EINVAL);
    bad.guest_phys_addr = 0x300000;
    bad.flags = 0x80;
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &bad), -EINVAL);
    bad.flags = 0;
    bad.slot = 0x10000; /* another address space */
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &bad), -EINVAL);

    assert_int_equal(ask(f->vm, KVM_GET_DIRTY_LOG, &log), -ENOENT);
    a.flags = KVM_MEM_LOG_DIRTY_PAGES;
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &a), 0);
    bitmap[0] = UINT64_MAX;
    assert_int_equal(ask(f->vm, KVM_GET_DIRTY_LOG, &log), 0);
    assert_int_equal(bitmap[0], 0);
    munmap(memory, 1 << 20);
}

static void test_without_irqchip(void **state)
{
    struct fixture *f = *state;
    struct kvm_interrupt irq = { .irq = 0x30 };
    struct kvm_lapic_state lapic;
    struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_HALTED };
    struct kvm_irq_level line = { .irq = 1, .level = 1 };
    struct kvm_vcpu_events events;

    assert_int_equal(ask(f->vm, KVM_CREATE_IRQCHIP, NULL), -EINVAL); /* after a vCPU */
    assert_int_equal(ask(f->vm, KVM_IRQ_LINE, &line), -ENXIO);
    assert_int_equal(ask(f->vcpu, KVM_GET_LAPIC, &lapic), -EINVAL);
    assert_int_equal(ask(f->vcpu, KVM_SET_MP_STATE, &mp), -EINVAL);
    assert_int_equal(ask(f->vcpu, KVM_INTERRUPT, &irq), 0);
    assert_int_equal(ask(f->vcpu, KVM_INTERRUPT, &irq), -EEXIST);
    assert_int_equal(ask(f->vcpu, KVM_GET_VCPU_EVENTS, &events), 0);
    assert_int_equal(events.interrupt.injected, 1);
    assert_int_equal(events.interrupt.nr, 0x30);
    irq.irq = 256;
    assert_int_equal(ask(f->vcpu, KVM_INTERRUPT, &irq), -EINVAL);
}

static void test_events(void **state)
{
    struct fixture *f = *state;
    struct kvm_vcpu_events events;
    struct kvm_interrupt irq = { .irq = 0x30 };

    assert_int_equal(ask(f->vcpu, KVM_INTERRUPT, &irq), -ENXIO);
    assert_int_equal(ask(f->vcpu, KVM_NMI, number(0xdead)), 0);
    assert_int_equal(ask(f->vcpu, KVM_GET_VCPU_EVENTS, &events), 0);
    assert_int_equal(events.nmi.pending, 1);
    events.exception.injected = 1;
    events.exception.nr = 13;
    events.exception.has_error_code = 1;
    events.exception.error_code = 0x18;
    events.nmi.masked = 1;
    assert_int_equal(ask(f->vcpu, KVM_SET_VCPU_EVENTS, &events), 0);
    memset(&events, 0, sizeof(events));
    assert_int_equal(ask(f->vcpu, KVM_GET_VCPU_EVENTS, &events), 0);
    assert_int_equal(events.exception.nr, 13);
    assert_int_equal(events.exception.error_code, 0x18);
    assert_int_equal(events.nmi.masked, 1);
    events.exception.nr = 2;
    assert_int_equal(ask(f->vcpu, KVM_SET_VCPU_EVENTS, &events), -EINVAL);
    events.exception.nr = 13;
    events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD; /* not enabled */
    assert_int_equal(ask(f->vcpu, KVM_SET_VCPU_EVENTS, &events), -EINVAL);
}

static void test_run_is_interrupted(void **state)
{
    struct fixture *f = *state;

    f->run->immediate_exit = 1;
    assert_int_equal(ask(f->vcpu, KVM_RUN, NULL), -EINTR);
    assert_int_equal(f->run->exit_reason, KVM_EXIT_INTR);
}

/* The state after reset runs: 16-bit code at the top of 4 GiB. Where there is no memory the run ends with a text. */
static void test_reset_vector(void **state)
{
    static const uint8_t code[] = { 0xb0, 0x5a, 0xe6, 0x80, 0xf4 }; /* mov al, 5ah; out 80h, al; hlt */
    struct fixture *f = *state;
    char buffer[sizeof(struct kage_text) + 256];
    struct kage_text *text = (struct kage_text *)(void *)buffer;
    uint8_t *memory = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = { .slot = 0, .guest_phys_addr = 0xffff0000, .memory_size = 0x10000,
                                                .userspace_addr = (uintptr_t)memory };
    struct kvm_regs regs;

    text->bytes = 256;
    assert_int_equal(ask(f->vcpu, KVM_RUN, NULL), 0);
    assert_int_equal(f->run->exit_reason, KVM_EXIT_INTERNAL_ERROR);
    assert_int_equal(f->run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
    assert_true(ask(f->vcpu, KAGE_GET_ERROR, text) > 0);
    assert_non_null(strstr(text->text, "device memory"));

    memcpy(memory + 0xfff0, code, sizeof(code));
    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
    assert_int_equal(ask(f->vcpu, KVM_RUN, NULL), 0);
    assert_int_equal(f->run->exit_reason, KVM_EXIT_IO);
    assert_int_equal(f->run->io.port, 0x80);
    assert_int_equal(*((uint8_t *)f->run + f->run->io.data_offset), 0x5a);
    assert_int_equal(ask(f->vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal(regs.rax & 0xff, 0x5a);
    munmap(memory, 0x10000);
}

/* What the kernel refuses of KVM_SET_SREGS, and PAE's page-directory pointers in KVM_GET/SET_SREGS2 and KVM_TRANSLATE. */
static void test_legacy_sregs(void **state)
{
    struct fixture *f = *state;
    uint64_t *memory = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = { .slot = 0, .memory_size = 0x10000, .userspace_addr = (uintptr_t)memory };
    struct kvm_sregs good, bad;
    struct kvm_sregs2 sregs2;
    struct kvm_translation where = { .linear_address = 0xc0123456 };

    assert_int_equal(ask(f->vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
    assert_int_equal(ask(f->vcpu, KVM_GET_SREGS, &good), 0);
    static const struct {
        uint64_t cr0, cr4, efer;
    } refused[] = {
        { 0x80000010, 0, 0 }, { 0x20000011, 0, 0 }, { 0x100000011, 0, 0 }, /* PG without PE, NW without CD, bit 32 */
        { 0x11, 0, 0x400 }, { 0x80000011, 0x20, 0x400 },                   /* LMA without LME and paging */
    };
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        bad = good;
        bad.cr0 = refused[i].cr0;
        bad.cr4 = refused[i].cr4;
        bad.efer = refused[i].efer;
        assert_int_equal(ask(f->vcpu, KVM_SET_SREGS, &bad), -EINVAL);
    }
    bad = good;
    bad.cs.l = 1; /* outside IA-32e mode */
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS, &bad), -EINVAL);

    /* "Accessed" is set for the client, as with unrestricted guest; but not for the LDT. */
    good.ds.type = 2;
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS, &good), 0);
    assert_int_equal(ask(f->vcpu, KVM_GET_SREGS, &good), 0);
    assert_int_equal(good.ds.type, 3);
    assert_int_equal(good.ldt.type, 2);

    assert_int_equal(ask(f->vcpu, KVM_TRANSLATE, &where), 0); /* no paging */
    assert_true(where.valid && where.physical_address == 0xc0123456);

    /* Two levels at 1000h: a 4 MiB page. */
    ((uint32_t *)(void *)memory)[0x1000 / 4 + 0x300] = 0x00800083;
    good.cr0 = 0x80000011;
    good.cr3 = 0x1000;
    good.cr4 = 0x10;
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS, &good), 0);
    assert_int_equal(ask(f->vcpu, KVM_TRANSLATE, &where), 0);
    assert_true(where.valid && where.physical_address == 0x923456 && !where.usermode);
    assert_int_equal(ask(f->vcpu, KVM_GET_SREGS2, &sregs2), 0);
    assert_int_equal(sregs2.flags, 0);

    /* PAE at 2020h: a 2 MiB page by the fourth pointer, loaded from memory, then the client's own pointers. */
    memory[0x2020 / 8 + 3] = 0x3001;
    memory[0x3000 / 8] = 0x00a000e3;
    good.cr3 = 0x2020;
    good.cr4 = 0x20;
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS, &good), 0);
    assert_int_equal(ask(f->vcpu, KVM_TRANSLATE, &where), 0);
    assert_true(where.valid && where.physical_address == 0xb23456);
    assert_int_equal(ask(f->vcpu, KVM_GET_SREGS2, &sregs2), 0);
    assert_int_equal(sregs2.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
    assert_int_equal(sregs2.pdptrs[3], 0x3001);
    sregs2.pdptrs[3] = 0;
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS2, &sregs2), 0);
    assert_int_equal(ask(f->vcpu, KVM_TRANSLATE, &where), 0);
    assert_false(where.valid);
    sregs2.flags = 0;
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS2, &sregs2), 0); /* from memory again */
    assert_int_equal(ask(f->vcpu, KVM_TRANSLATE, &where), 0);
    assert_true(where.valid);
    sregs2.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
    sregs2.cr4 = 0x10; /* no PAE, no pointers */
    assert_int_equal(ask(f->vcpu, KVM_SET_SREGS2, &sregs2), -EINVAL);
    munmap(memory, 0x10000);
}

static void test_clock(void **state)
{
    struct fixture *f = *state;
    struct kvm_clock_data data = { .clock = 5000000000 }, now;

    assert_int_equal(ask(f->vcpu, KVM_KVMCLOCK_CTRL, NULL), -EINVAL);
    assert_int_equal(ask(f->vm, KVM_SET_CLOCK, &data), 0);
    assert_int_equal(ask(f->vm, KVM_GET_CLOCK, &now), 0);
    assert_true(now.clock >= 5000000000 && now.clock < 6000000000);
    data.flags = 0x80;
    assert_int_equal(ask(f->vm, KVM_SET_CLOCK, &data), -EINVAL);
}

static void test_extensions(void **state)
{
    struct fixture *f = *state;
    struct kage_stats probe = { 0 };
    struct kage_vmcs_field field = { .encoding = 0x681e }; /* guest RIP */
    struct kage_text *text = calloc(1, 65536);

    assert_int_equal(ask(f->system, KVM_CHECK_EXTENSION, number(KAGE_CAP_EXTENSIONS)), 1);
    assert_int_equal(ask(f->vcpu, KAGE_GET_STATS, &probe), -E2BIG);
    assert_true(probe.count > 10);
    assert_int_equal(ask(f->vcpu, KAGE_VMREAD, &field), 0);
    assert_int_equal(field.value, 0xfff0);
    field.encoding = 0x7ffe;
    assert_int_equal(ask(f->vcpu, KAGE_VMREAD, &field), -ENOENT);
    text->bytes = 65536 - sizeof(*text);
    assert_true(ask(f->vcpu, KAGE_DUMP_VMCS, text) > 1000);
    assert_non_null(strstr(text->text, "0x681e = 0xfff0"));
    free(text);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_handles), TEST(test_fork), cmocka_unit_test(test_vm_outlives_handle), TEST(test_regs),
        TEST(test_reset_state), TEST(test_sregs), TEST(test_fpu), TEST(test_cpuid), TEST(test_xcrs),
        TEST(test_msr_list), TEST(test_msrs_of_clients), TEST(test_memory_slots), TEST(test_events),
        TEST(test_run_is_interrupted), TEST(test_reset_vector), TEST(test_legacy_sregs), TEST(test_clock), TEST(test_extensions),
        cmocka_unit_test_setup_teardown(test_without_irqchip, setup_without_irqchip, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
