/* SPDX-License-Identifier: MIT */
/*
 * What a client turns on: KVM_ENABLE_CAP's rules, and that each capability does what it says: registers in struct kvm_run,
 * hypercalls, emulation failures, halts; limits on vCPUs; kvm-clock's stable flag.
 */
#include "kvm_client.h"

#include <asm/kvm_para.h>
#include <linux/kvm_para.h>
#include <signal.h>
#include <sys/time.h>

GUEST_CODE(count_code, ".code16", "1: inc %ax; out %al, $0x80; jmp 1b");
GUEST_CODE(hlt_code, ".code16", "sti; hlt; out %al, $0x80");
GUEST_CODE(hypercall_code, ".code64",
           "1: mov $12, %eax; movabs $0x123456000, %rbx; mov $7, %ecx; mov $0x10, %edx; vmcall\n"
           "mov %rax, %r15; out %al, $0x80; jmp 1b");
GUEST_CODE(rom_code, ".code64", "1: incq 0x12000; mov %cr3, %rax; mov %rax, %cr3; out %al, $0x80; jmp 1b");

static const struct kvm_device_attr tsc_offset = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET };

static int setup_vm(void **state)
{
    struct client *c = malloc(sizeof(*c));

    client_new_vm(c);
    c->vcpu = -1;
    assert_int_equal(client_slot(c, 0, 0, CLIENT_HOLE, 0), 0);
    *state = c;
    return 0;
}

static void test_masks(void **state)
{
    struct client *c = *state;
    static const struct { uint32_t cap; uint64_t good, bad; } rows[] = {
        { KVM_CAP_DISABLE_QUIRKS2, 0x3f, 0x8000000000000000 }, { KVM_CAP_X86_DISABLE_EXITS, 0xf, 0x10 },
        { KVM_CAP_EXIT_HYPERCALL, 1 << 12, 1 << 11 },          { KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1, 2 },
        { KVM_CAP_PMU_CAPABILITY, 1, 2 },                      { KVM_CAP_X86_USER_SPACE_MSR, 7, 0x100 },
        { KVM_CAP_X2APIC_API, 3, 4 },                          { KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3, 2 },
        { KVM_CAP_HALT_POLL, 1000, 1ull << 32 },               { KVM_CAP_KAGE_MMU, KAGE_MMU_EPT, 1ull << 32 },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_true(ask(c->vm, KVM_CHECK_EXTENSION, number(rows[i].cap)) > 0);
        assert_int_equal(client_cap(c->vm, rows[i].cap, rows[i].bad), -EINVAL);
        assert_int_equal(client_cap(c->vm, rows[i].cap, rows[i].good), 0);
        struct kvm_enable_cap flags = { .cap = rows[i].cap, .flags = 1 };
        assert_int_equal(ask(c->vm, KVM_ENABLE_CAP, &flags), -EINVAL);
    }
    assert_int_equal(client_cap(c->vm, KVM_CAP_DISABLE_QUIRKS, UINT64_MAX), 0); /* the old one takes anything */
    assert_int_equal(client_cap(c->vm, 0xdead, 0), -EINVAL);
    client_new_vcpu(c);
    assert_int_equal(client_cap(c->vm, KVM_CAP_X86_DISABLE_EXITS, 2), -EINVAL); /* too late */
    assert_int_equal(client_cap(c->vm, KVM_CAP_PMU_CAPABILITY, 1), -EINVAL);
    assert_int_equal(client_cap(c->vm, KVM_CAP_KAGE_MMU, KAGE_MMU_EPT), -EBUSY);
}

static void test_mmus(void **state)
{
    struct client *c = *state;
    int offered = ask(c->vm, KVM_CHECK_EXTENSION, number(KVM_CAP_KAGE_MMU));

    assert_true(offered & 1 << KAGE_MMU_EPT);
    for (int mmu = 0; mmu < 8; mmu++) {
        bool there = offered >> mmu & 1;
        assert_int_equal(client_cap(c->vm, KVM_CAP_KAGE_MMU, (uint64_t)mmu), there ? 0 : -EINVAL);
        errno = 0;
        assert_int_equal(kage_vm_set_mmu(kvm, c->vm, mmu), there ? 0 : -1);
        assert_int_equal(errno, there ? 0 : EOPNOTSUPP);
        assert_true(!there || kage_mmu_find(kage_mmu_name(mmu)) == mmu);
    }
    assert_int_equal(kage_vm_set_mmu(kvm, c->vm, -1), -1);
    assert_int_equal(kage_vm_set_mmu(kvm, -1, KAGE_MMU_EPT), -1);
    assert_int_equal(errno, EBADF);
    assert_int_equal(kage_mmu_find("eptx"), -1);
    assert_null(kage_mmu_name(-1));
}

static void test_vcpu_limits(void **state)
{
    struct client *c = *state;
    int max = ask(c->vm, KVM_CHECK_EXTENSION, number(KVM_CAP_MAX_VCPUS));
    int ids = ask(c->vm, KVM_CHECK_EXTENSION, number(KVM_CAP_MAX_VCPU_ID));
    int recommended = ask(c->vm, KVM_CHECK_EXTENSION, number(KVM_CAP_NR_VCPUS));

    assert_true(recommended >= 1 && recommended <= max && max <= ids);
    assert_int_equal(client_cap(c->vm, KVM_CAP_MAX_VCPU_ID, (uint64_t)ids + 1), -EINVAL);
    assert_int_equal(client_cap(c->vm, KVM_CAP_MAX_VCPU_ID, 4), 0);
    assert_int_equal(client_cap(c->vm, KVM_CAP_MAX_VCPU_ID, 4), 0); /* the same again */
    assert_int_equal(client_cap(c->vm, KVM_CAP_MAX_VCPU_ID, 5), -EINVAL);
    assert_int_equal(ask(c->vm, KVM_CREATE_VCPU, number(4)), -EINVAL);
    int vcpu = ask(c->vm, KVM_CREATE_VCPU, number(3));
    assert_true(vcpu >= 0);
    assert_int_equal(ask(c->vm, KVM_CREATE_VCPU, number(3)), -EEXIST);
    kvm->close(vcpu);
    assert_int_equal(ask(c->vm, KVM_CREATE_VCPU, number(3)), -EEXIST); /* its place in the VM stays */

    int vm = ask(c->system, KVM_CREATE_VM, NULL), count = 0, first = -1;
    for (;; count++) {
        vcpu = ask(vm, KVM_CREATE_VCPU, number((uintptr_t)count));
        if (vcpu < 0)
            break;
        if (count)
            kvm->close(vcpu);
        else
            first = vcpu;
    }
    assert_int_equal(vcpu, -EINVAL);
    assert_int_equal(count, max);
    assert_int_equal(client_cap(vm, KVM_CAP_MAX_VCPU_ID, 8), -EINVAL); /* too late */
    kvm->close(first);
    kvm->close(vm);
}

static void test_sync_regs(void **state)
{
    struct client *c = *state;
    struct kvm_sync_regs *s = &c->run->s.regs;
    struct kvm_regs regs;

    assert_int_equal(ask(c->vm, KVM_CHECK_EXTENSION, number(KVM_CAP_SYNC_REGS)), 7);
    client_load_16(c, 0x1000, count_code, GUEST_BYTES(count_code));
    c->run->kvm_valid_regs = 8;
    assert_int_equal(ask(c->vcpu, KVM_RUN, NULL), -EINVAL);
    c->run->kvm_valid_regs = 0;
    c->run->kvm_dirty_regs = 1ull << 63;
    assert_int_equal(ask(c->vcpu, KVM_RUN, NULL), -EINVAL);
    c->run->kvm_dirty_regs = 0;

    memset(s, 0x77, sizeof(*s));
    client_run(c, KVM_EXIT_IO);
    assert_int_equal(s->regs.rax, 0x7777777777777777); /* not asked for */
    c->run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    client_run(c, KVM_EXIT_IO);
    assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &regs), 0);
    assert_memory_equal(&s->regs, &regs, sizeof(regs));
    assert_int_equal(s->regs.rax, 2);
    assert_int_equal(s->sregs.cs.base, 0);
    assert_int_equal(s->events.interrupt.injected, 0);

    s->regs.rax = 0x1000; /* changed, but not said so */
    client_run(c, KVM_EXIT_IO);
    assert_int_equal(s->regs.rax, 3);
    s->regs.rax = 0x1000;
    c->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    client_run(c, KVM_EXIT_IO);
    assert_int_equal(s->regs.rax, 0x1001);
    assert_int_equal(c->run->kvm_dirty_regs, 0);
    s->sregs.cr0 = 0x80000000; /* paging without protection */
    c->run->kvm_dirty_regs = KVM_SYNC_X86_SREGS;
    assert_int_equal(ask(c->vcpu, KVM_RUN, NULL), -EINVAL);
}

static void test_hypercall(void **state)
{
    struct client *c = *state;
    struct kvm_regs regs;

    assert_int_equal(client_slot(c, 0, 0, 0, 0), 0);
    assert_int_equal(client_slot(c, 0, 0, CLIENT_MEMORY, 0), 0);
    client_new_vcpu(c);
    client_load_64(c, 0x10000, hypercall_code, GUEST_BYTES(hypercall_code));
    client_run(c, KVM_EXIT_IO);
    assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal((int64_t)regs.r15, -KVM_ENOSYS); /* not asked for */
    assert_int_equal(client_cap(c->vm, KVM_CAP_EXIT_HYPERCALL, 1 << KVM_HC_MAP_GPA_RANGE), 0);
    client_run(c, KVM_EXIT_HYPERCALL);
    assert_int_equal(c->run->hypercall.nr, KVM_HC_MAP_GPA_RANGE);
    assert_int_equal(c->run->hypercall.args[0], 0x123456000);
    assert_int_equal(c->run->hypercall.args[1], 7);
    assert_int_equal(c->run->hypercall.args[2], 0x10);
    assert_int_equal(c->run->hypercall.longmode, 1);
    c->run->hypercall.ret = 0x1122334455667788;
    client_run(c, KVM_EXIT_IO);
    assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal(regs.r15, 0x1122334455667788);
    regs.rip = 0x10000 + 5 + 10 + 5 + 5; /* at the VMCALL, with a page that is not aligned */
    regs.rax = KVM_HC_MAP_GPA_RANGE;
    regs.rbx = 0x123;
    assert_int_equal(ask(c->vcpu, KVM_SET_REGS, &regs), 0);
    client_run(c, KVM_EXIT_IO);
    assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal((int64_t)regs.r15, -KVM_EINVAL);
}

/* A user program that jumps into device memory: #UD for the guest, or the client's if it asks. At CPL 0 always the client's. */
static void test_emulation_failure(void **state)
{
    struct client *c = *state;
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = 0x1fe000, .rsp = 0x9000, .rflags = 2 };

    assert_int_equal(client_slot(c, 0, 0, 0, 0), 0);
    assert_int_equal(client_slot(c, 0, 0, 0x100000, 0), 0); /* 1fe000h is nobody's */
    client_new_vcpu(c);
    client_load_64(c, 0x10000, count_code, 1);
    assert_int_equal(ask(c->vcpu, KVM_SET_REGS, &regs), 0);
    client_run(c, KVM_EXIT_INTERNAL_ERROR);
    assert_int_equal(c->run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
    assert_true(c->run->internal.ndata >= 1 && c->run->internal.ndata <= 16);

    memcpy(c->memory + 0x11000, (const uint8_t[]){ 0xe6, 0x81 }, 2);
    client_gate_64(c, 6, 0x11000);
    memset(c->memory + 0xa000, 0, 104);
    client_word(c, 0xa004, 0xb000); /* RSP0 */
    assert_int_equal(ask(c->vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.tr = (struct kvm_segment){ .base = 0xa000, .limit = 103, .selector = 0x20, .type = 11, .present = 1 };
    sregs.cs.selector = 0x1b;
    sregs.ss.selector = 0x23;
    sregs.cs.dpl = sregs.ss.dpl = 3;
    for (int asked = 0; asked < 2; asked++) {
        assert_int_equal(client_cap(c->vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, (uint64_t)asked), 0);
        assert_int_equal(ask(c->vcpu, KVM_SET_SREGS, &sregs), 0);
        assert_int_equal(ask(c->vcpu, KVM_SET_REGS, &regs), 0);
        client_run(c, asked ? KVM_EXIT_INTERNAL_ERROR : KVM_EXIT_IO);
    }
}

static void on_alarm(int sig)
{
    (void)sig;
}

/* HLT without a local APIC is the client's, unless it gives that up: then KVM_RUN waits inside. */
static void test_disable_hlt(void **state)
{
    struct client *c = *state;
    struct sigaction sa = { .sa_handler = on_alarm };
    struct itimerval timer = { .it_value = { .tv_usec = 50000 } };

    for (int disabled = 0; disabled < 2; disabled++) {
        if (disabled)
            assert_int_equal(client_cap(c->vm, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT), 0);
        client_new_vcpu(c);
        client_load_16(c, 0x1000, hlt_code, GUEST_BYTES(hlt_code));
        memcpy(c->memory + 0x3000, (const uint8_t[]){ 0xcf }, 1);
        memcpy(c->memory + 0x30 * 4, (const uint8_t[]){ 0x00, 0x30, 0x00, 0x00 }, 4);
        if (disabled) {
            assert_int_equal(sigaction(SIGALRM, &sa, NULL), 0);
            assert_int_equal(setitimer(ITIMER_REAL, &timer, NULL), 0);
            assert_int_equal(ask(c->vcpu, KVM_RUN, NULL), -EINTR);
            assert_int_equal(ask(c->vcpu, KVM_INTERRUPT, &(struct kvm_interrupt){ .irq = 0x30 }), 0);
        } else {
            client_run(c, KVM_EXIT_HLT);
        }
        client_run(c, KVM_EXIT_IO);
        client_close_vcpu(c);
        if (!disabled) {
            client_free(c);
            client_new_vm(c);
            assert_int_equal(client_slot(c, 0, 0, CLIENT_HOLE, 0), 0);
        }
    }
}

static void set_tsc_offset(int vcpu, uint64_t offset)
{
    struct kvm_device_attr attr = tsc_offset;

    attr.addr = (uintptr_t)&offset;
    assert_int_equal(ask(vcpu, KVM_SET_DEVICE_ATTR, &attr), 0);
}

/* kvm-clock of a VM whose vCPUs' TSCs differ: not stable, in the page and in KVM_GET_CLOCK; until they agree again. */
static void test_clock_stable(void **state)
{
    struct client *c = *state;
    struct kvm_clock_data clock;
    const uint8_t *flags = c->memory + 0x5000 + 29;
    uint64_t offset = 0;
    struct kvm_device_attr attr = tsc_offset;

    client_load_16(c, 0x1000, count_code, GUEST_BYTES(count_code));
    client_set_msr(c, MSR_KVM_SYSTEM_TIME_NEW, 0x5001);
    int other = ask(c->vm, KVM_CREATE_VCPU, number(1));
    attr.addr = (uintptr_t)&offset;
    assert_int_equal(ask(c->vcpu, KVM_GET_DEVICE_ATTR, &attr), 0);
    for (int differ = 0; differ < 4; differ++) {
        set_tsc_offset(other, offset + (uint64_t)(differ & 1) * 12345678);
        assert_int_equal(ask(c->vm, KVM_GET_CLOCK, &clock), 0);
        assert_int_equal(clock.flags, differ & 1 ? 0 : KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC);
        client_run(c, KVM_EXIT_IO);
        assert_int_equal(*flags & 1, !(differ & 1));
    }
    set_tsc_offset(other, 1);
    int third = ask(c->vm, KVM_CREATE_VCPU, number(2)); /* starts with the offset that was set last */
    assert_int_equal(ask(third, KVM_GET_DEVICE_ATTR, &attr), 0);
    assert_int_equal(offset, 1);
    kvm->close(third);
    kvm->close(other);
}

/* Page tables in a read-only slot, with accessed and dirty bits clear: the guest runs by them, and they stay as they are. */
static void test_rom_tables(void **state)
{
    struct client *c = *state;
    uint8_t tables[0x4000];

    assert_int_equal(client_slot(c, 0, 0, 0, 0), 0);
    assert_int_equal(client_slot(c, 0, 0, 0x2000, 0), 0);
    assert_int_equal(client_slot(c, 1, 0x2000, 0x4000, KVM_MEM_READONLY), 0);
    assert_int_equal(client_slot(c, 2, 0x6000, 0x20000, 0), 0);
    client_new_vcpu(c);
    client_load_64(c, 0x10000, rom_code, GUEST_BYTES(rom_code));
    memcpy(tables, c->memory + 0x2000, sizeof(tables));
    for (int i = 1; i <= 3; i++) {
        client_run(c, KVM_EXIT_IO);
        assert_int_equal(c->memory[0x12000], i);
    }
    assert_memory_equal(tables, c->memory + 0x2000, sizeof(tables));
}

static void test_mmu_pages_and_pmu(void **state)
{
    struct client *c = *state;
    struct kvm_pmu_event_filter filter = { .action = KVM_PMU_EVENT_DENY };

    assert_int_equal(ask(c->vm, KVM_SET_NR_MMU_PAGES, number(63)), -EINVAL);
    assert_int_equal(ask(c->vm, KVM_SET_NR_MMU_PAGES, number(1000)), 0);
    assert_int_equal(ask(c->vm, KVM_GET_NR_MMU_PAGES, NULL), 1000);
    assert_int_equal(ask(c->vm, KVM_SET_PMU_EVENT_FILTER, &filter), 0);
    filter.nevents = 301;
    assert_int_equal(ask(c->vm, KVM_SET_PMU_EVENT_FILTER, &filter), -E2BIG);
    filter.action = 2;
    assert_int_equal(ask(c->vm, KVM_SET_PMU_EVENT_FILTER, &filter), -EINVAL);
}

#define VM(fn) cmocka_unit_test_setup_teardown(fn, setup_vm, client_teardown)
#define VCPU(fn) cmocka_unit_test_setup_teardown(fn, client_setup, client_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        VM(test_masks), VM(test_mmus), VM(test_vcpu_limits), VCPU(test_sync_regs), VM(test_hypercall),
        VM(test_emulation_failure), VM(test_disable_hlt), VCPU(test_clock_stable),
        VM(test_mmu_pages_and_pmu), VM(test_rom_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
