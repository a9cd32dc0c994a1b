/* SPDX-License-Identifier: MIT */
/*
 * MSRs and what CPUID takes away, as a guest meets them: a few bytes of real-mode code on the soft back end, an
 * interrupt table whose handlers halt, and the place of the halt tells what happened.
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

#include <kage.h>

#define HANDLERS 0x1000u /* a HLT for each vector */
#define CODE 0x2000u
#define RAM_BYTES 0x4000u
#define CPUID_ROOM 100
enum { NOTHING = -1, UD = 6, GP = 13 };

/* Each instruction, with a HLT behind it, lies at a place of its own. */
enum { RDMSR, WRMSR, RDTSCP, MOV_CR4_EAX, VMCALL, SNIPPETS };
static const uint8_t snippets[SNIPPETS][4] = {
    [RDMSR] = {0x0f, 0x32, 0xf4},
    [WRMSR] = {0x0f, 0x30, 0xf4},
    [RDTSCP] = {0x0f, 0x01, 0xf9, 0xf4},
    [MOV_CR4_EAX] = {0x0f, 0x22, 0xe0, 0xf4},
    [VMCALL] = {0x0f, 0x01, 0xc1, 0xf4},
};

static const struct kvm_backend *const kvm = &kage_backend_soft;

union cpuid_room {
    struct kvm_cpuid2 head;
    uint8_t bytes[sizeof(struct kvm_cpuid2) + CPUID_ROOM * sizeof(struct kvm_cpuid_entry2)];
};

struct guest {
    int system, vm, vcpu;
    struct kvm_run *run;
    int run_bytes;
    uint8_t *ram;
    union cpuid_room cpuid;
};

static int ask(int handle, unsigned long request, void *arg)
{
    int result = kvm->ioctl(handle, request, arg);
    return result < 0 ? -errno : result;
}

static int setup(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));

    g->system = kvm->open();
    g->vm = ask(g->system, KVM_CREATE_VM, NULL);
    g->vcpu = ask(g->vm, KVM_CREATE_VCPU, NULL); /* no irqchip: HLT comes back to us */
    g->run_bytes = ask(g->system, KVM_GET_VCPU_MMAP_SIZE, NULL);
    g->run = kvm->mmap(NULL, (size_t)g->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
    g->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = RAM_BYTES, .userspace_addr = (uintptr_t)g->ram};
    if (ask(g->vm, KVM_SET_USER_MEMORY_REGION, &region) != 0)
        return -1;
    for (uint32_t v = 0; v < 32; v++) {
        uint32_t entry = HANDLERS + 2 * v;
        memcpy(g->ram + 4 * v, &entry, 4);
        g->ram[entry] = 0xf4;
    }
    memcpy(g->ram + CODE, snippets, sizeof(snippets));
    g->cpuid.head.nent = CPUID_ROOM;
    *state = g;
    return ask(g->system, KVM_GET_SUPPORTED_CPUID, &g->cpuid);
}

static int teardown(void **state)
{
    struct guest *g = *state;

    kvm->munmap(g->run, (size_t)g->run_bytes);
    kvm->close(g->vcpu);
    kvm->close(g->vm);
    kvm->close(g->system);
    munmap(g->ram, RAM_BYTES);
    free(g);
    return 0;
}

/* Clears bits of a register of the table (0 EAX … 3 EDX), which the vCPU then gets. */
static void take_away(struct guest *g, uint32_t function, uint32_t index, unsigned reg, uint32_t bits)
{
    for (uint32_t i = 0; i < g->cpuid.head.nent; i++) {
        struct kvm_cpuid_entry2 *e = &g->cpuid.head.entries[i];
        uint32_t *const regs[] = {&e->eax, &e->ebx, &e->ecx, &e->edx};
        if (e->function == function && e->index == index)
            *regs[reg] &= ~bits;
    }
    assert_int_equal(ask(g->vcpu, KVM_SET_CPUID2, &g->cpuid), 0);
}

/* Starts a snippet; the exit reason. */
static uint32_t start(struct guest *g, unsigned snippet, struct kvm_regs *regs)
{
    struct kvm_sregs sregs;

    assert_int_equal(ask(g->vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.selector = 0;
    sregs.cs.base = 0;
    assert_int_equal(ask(g->vcpu, KVM_SET_SREGS, &sregs), 0);
    regs->rip = CODE + snippet * sizeof(snippets[0]);
    regs->rsp = RAM_BYTES;
    regs->rflags = 2;
    assert_int_equal(ask(g->vcpu, KVM_SET_REGS, regs), 0);
    assert_int_equal(ask(g->vcpu, KVM_RUN, NULL), 0);
    return g->run->exit_reason;
}

/* Where it halted: the vector of the exception, or NOTHING. */
static int outcome(struct guest *g, struct kvm_regs *regs)
{
    assert_int_equal(g->run->exit_reason, KVM_EXIT_HLT);
    assert_int_equal(ask(g->vcpu, KVM_GET_REGS, regs), 0);
    return regs->rip < CODE ? (int)(regs->rip - 1 - HANDLERS) / 2 : NOTHING;
}

static int run(struct guest *g, unsigned snippet, struct kvm_regs *regs)
{
    start(g, snippet, regs);
    return outcome(g, regs);
}

static int read_msr(struct guest *g, uint32_t index, uint64_t *value)
{
    struct kvm_regs regs = {.rcx = index};
    int vector = run(g, RDMSR, &regs);

    *value = (uint32_t)regs.rax | regs.rdx << 32;
    return vector;
}

static int write_msr(struct guest *g, uint32_t index, uint64_t value)
{
    struct kvm_regs regs = {.rcx = index, .rax = (uint32_t)value, .rdx = value >> 32};

    return run(g, WRMSR, &regs);
}

/* By ioctl: 1 if it was taken. */
static int host_msr(struct guest *g, unsigned long request, uint32_t index, uint64_t *value)
{
    struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + sizeof(msrs->entries[0]));

    msrs->nmsrs = 1;
    msrs->entries[0] = (struct kvm_msr_entry){.index = index, .data = *value};
    int done = ask(g->vcpu, request, msrs);
    *value = msrs->entries[0].data;
    free(msrs);
    return done;
}

static void test_unknown(void **state)
{
    struct guest *g = *state;
    uint64_t value;

    assert_int_equal(read_msr(g, 0x12345678, &value), GP);
    assert_int_equal(write_msr(g, 0x12345678, 0), GP);
    assert_int_equal(write_msr(g, 0x277, 0x0007040600070402ull), GP); /* PAT: type 2 */
    assert_int_equal(write_msr(g, 0x277, 0x0001040500070406ull), NOTHING);
    assert_int_equal(read_msr(g, 0x277, &value), NOTHING);
    assert_int_equal(value, 0x0001040500070406ull);
    static const struct { uint32_t index; uint64_t value; int vector; } mtrrs[] = {
        {0x2ff, 0xc06, NOTHING}, {0x2ff, 0xc02, GP}, {0x2ff, 0x1006, GP}, {0x250, 0x0606060606060606ull, NOTHING},
        {0x250, 0x0606060606060602ull, GP}, {0x200, 0xc0000006, NOTHING}, {0x200, 0xc0000003, GP}, {0x200, 1ull << 52, GP},
        {0x201, 0xfc0000800ull, NOTHING}, {0x201, 0xfc0000801ull, GP}, {0x20f, 0, NOTHING}, {0x210, 0, GP}, {0xfe, 0, GP},
    };
    for (size_t i = 0; i < sizeof(mtrrs) / sizeof(mtrrs[0]); i++)
        assert_int_equal(write_msr(g, mtrrs[i].index, mtrrs[i].value), mtrrs[i].vector);
}

static uint32_t msr_exit(struct guest *g, unsigned snippet, uint32_t index, uint64_t value)
{
    struct kvm_regs regs = {.rcx = index, .rax = (uint32_t)value, .rdx = value >> 32};
    uint32_t reason = start(g, snippet, &regs);

    assert_int_equal(reason, snippet == RDMSR ? KVM_EXIT_X86_RDMSR : KVM_EXIT_X86_WRMSR);
    assert_int_equal(g->run->msr.index, index);
    return g->run->msr.reason;
}

static void test_at_client(void **state)
{
    struct guest *g = *state;
    uint8_t bitmap[8] = {0xfe}; /* 0x174 is denied */
    struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR, .args = {KVM_MSR_EXIT_REASON_UNKNOWN}};
    struct kvm_regs regs;
    uint64_t value;

    assert_int_equal(ask(g->vm, KVM_ENABLE_CAP, &cap), 0);
    assert_int_equal(msr_exit(g, RDMSR, 0x12345678, 0), KVM_MSR_EXIT_REASON_UNKNOWN);
    g->run->msr.data = 0x1122334455667788ull;
    assert_int_equal(ask(g->vcpu, KVM_RUN, NULL), 0);
    assert_int_equal(outcome(g, &regs), NOTHING);
    assert_int_equal(regs.rax, 0x55667788);
    assert_int_equal(regs.rdx, 0x11223344);
    assert_int_equal(write_msr(g, 0x277, 2), GP); /* INVAL was not asked for */

    cap.args[0] = KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_FILTER;
    assert_int_equal(ask(g->vm, KVM_ENABLE_CAP, &cap), 0);
    assert_int_equal(msr_exit(g, WRMSR, 0x277, 2), KVM_MSR_EXIT_REASON_INVAL);
    assert_int_equal(g->run->msr.data, 2);
    g->run->msr.error = 1;
    assert_int_equal(ask(g->vcpu, KVM_RUN, NULL), 0);
    assert_int_equal(outcome(g, &regs), GP);
    assert_int_equal(read_msr(g, 0x12345678, &value), GP);

    struct kvm_msr_filter filter = {.ranges = {{.flags = KVM_MSR_FILTER_READ, .base = 0x174, .nmsrs = 8, .bitmap = bitmap}}};
    assert_int_equal(ask(g->vm, KVM_X86_SET_MSR_FILTER, &filter), 0);
    assert_int_equal(msr_exit(g, RDMSR, 0x174, 0), KVM_MSR_EXIT_REASON_FILTER);
    assert_int_equal(ask(g->vcpu, KVM_RUN, NULL), 0);
    assert_int_equal(write_msr(g, 0x174, 8), NOTHING);
    assert_int_equal(read_msr(g, 0x175, &value), NOTHING);
    assert_int_equal(host_msr(g, KVM_GET_MSRS, 0x174, &value), 1); /* the filter is the guest's */
    assert_int_equal(value, 8);
}

static int set_cr4(struct guest *g, uint32_t cr4)
{
    struct kvm_regs regs = {.rax = cr4};
    int vector = run(g, MOV_CR4_EAX, &regs);

    regs = (struct kvm_regs){.rax = 0};
    assert_int_equal(run(g, MOV_CR4_EAX, &regs), NOTHING);
    return vector;
}

static void test_cpuid_limits(void **state)
{
    static const struct { uint32_t function; unsigned reg; uint32_t bit, cr4; } rows[] = {
        {7, 1, 7, 20}, {7, 1, 20, 21}, {7, 1, 0, 16}, {7, 2, 2, 11}, {1, 2, 26, 18},
    };
    struct guest *g = *state;
    struct kvm_regs regs = {0};
    uint64_t value = 0;

    take_away(g, 0, 0, 0, 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(set_cr4(g, 1u << rows[i].cr4), NOTHING);
    assert_int_equal(run(g, RDTSCP, &regs), NOTHING);
    assert_int_equal(write_msr(g, 0xc0000103u, 5), NOTHING);
    assert_int_equal(read_msr(g, 0x10a, &value), NOTHING);
    assert_int_equal(read_msr(g, 0x3b, &value), NOTHING);
    assert_int_equal(write_msr(g, 0x48, 1), NOTHING); /* SPEC_CTRL.IBRS, which ARCH_CAPABILITIES speaks of */
    assert_int_equal(read_msr(g, 0xda0, &value), GP); /* XSS is never offered … */
    value = 0;
    assert_int_equal(host_msr(g, KVM_SET_MSRS, 0xda0, &value), 1); /* … but a client may keep it */
    assert_int_equal(write_msr(g, 0xc0000080u, 1u << 11), NOTHING);
    assert_int_equal(write_msr(g, 0xc0000080u, 1u << 12), GP); /* SVME */

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kvm_sregs sregs;
        take_away(g, rows[i].function, 0, rows[i].reg, 1u << rows[i].bit);
        assert_int_equal(set_cr4(g, 1u << rows[i].cr4), GP);
        assert_int_equal(ask(g->vcpu, KVM_GET_SREGS, &sregs), 0);
        sregs.cr4 = 1u << rows[i].cr4;
        assert_int_equal(ask(g->vcpu, KVM_SET_SREGS, &sregs), -EINVAL);
    }
    take_away(g, 0x80000001u, 0, 3, 1u << 27); /* RDTSCP; RDPID is still there */
    assert_int_equal(read_msr(g, 0xc0000103u, &value), NOTHING);
    assert_int_equal(value, 5);
    take_away(g, 7, 0, 2, 1u << 22);
    assert_int_equal(read_msr(g, 0xc0000103u, &value), GP);
    regs = (struct kvm_regs){0};
    assert_int_equal(run(g, RDTSCP, &regs), UD);
    take_away(g, 7, 0, 3, 1u << 29);
    assert_int_equal(read_msr(g, 0x10a, &value), GP);
    assert_int_equal(read_msr(g, 0x48, &value), GP);
    take_away(g, 7, 0, 1, 1u << 1);
    assert_int_equal(write_msr(g, 0x3b, 0), GP);
    take_away(g, 0x80000001u, 0, 3, 1u << 20 | 1u << 29);
    assert_int_equal(write_msr(g, 0xc0000080u, 1u << 11), GP);
    assert_int_equal(write_msr(g, 0xc0000080u, 1u << 8), GP);
    value = 1u << 12;
    assert_int_equal(host_msr(g, KVM_SET_MSRS, 0xc0000080u, &value), 0);
}

static void test_pv(void **state)
{
    struct guest *g = *state;
    struct kvm_enable_cap cap = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};
    struct kvm_regs regs = {.rax = 5 /* KICK_CPU */, .rcx = 99};
    uint64_t value;

    take_away(g, 0x40000001u, 0, 0, UINT32_MAX);
    assert_int_equal(write_msr(g, 0x4b564d04u, 0), NOTHING);
    assert_int_equal(run(g, VMCALL, &regs), NOTHING);
    assert_int_equal((uint32_t)regs.rax, 0);
    assert_int_equal(ask(g->vcpu, KVM_ENABLE_CAP, &cap), 0);
    static const uint32_t msrs[] = {0x11, 0x12, 0x4b564d00u, 0x4b564d01u, 0x4b564d02u, 0x4b564d03u, 0x4b564d04u, 0x4b564d05u};
    for (size_t i = 0; i < sizeof(msrs) / sizeof(msrs[0]); i++)
        assert_int_equal(write_msr(g, msrs[i], 0), GP);
    regs = (struct kvm_regs){.rax = 5, .rcx = 99};
    assert_int_equal(run(g, VMCALL, &regs), NOTHING);
    assert_int_equal((int32_t)regs.rax, -1000); /* KVM_ENOSYS */
    cap = (struct kvm_enable_cap){.cap = KVM_CAP_MSR_PLATFORM_INFO};
    assert_int_equal(read_msr(g, 0xce, &value), NOTHING);
    assert_int_equal(ask(g->vm, KVM_ENABLE_CAP, &cap), 0);
    assert_int_equal(read_msr(g, 0xce, &value), GP);
    assert_int_equal(host_msr(g, KVM_GET_MSRS, 0xce, &value), 1);
}

static void test_tsc(void **state)
{
    struct guest *g = *state;
    uint64_t value = 0, before, after;

    take_away(g, 0, 0, 0, 0);
    assert_int_equal(read_msr(g, 0x10, &before), NOTHING);
    assert_int_equal(write_msr(g, 0x10, before + (1ull << 50)), NOTHING); /* the guest moves its TSC: TSC_ADJUST tells */
    assert_int_equal(host_msr(g, KVM_GET_MSRS, 0x3b, &value), 1);
    assert_true(value <= 1ull << 50 && value > (1ull << 50) - (1ull << 40));
    assert_int_equal(write_msr(g, 0x3b, 0), NOTHING); /* and takes it back */
    assert_int_equal(read_msr(g, 0x10, &after), NOTHING);
    assert_true(after > before && after - before < 1ull << 40);
    value = 77; /* a client only keeps it */
    assert_int_equal(host_msr(g, KVM_SET_MSRS, 0x3b, &value), 1);
    assert_int_equal(read_msr(g, 0x10, &after), NOTHING);
    assert_true(after - before < 1ull << 40);
    uint64_t offset, moved;
    struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
    assert_int_equal(ask(g->vcpu, KVM_GET_DEVICE_ATTR, &attr), 0);
    offset += 1ull << 52;
    assert_int_equal(ask(g->vcpu, KVM_SET_DEVICE_ATTR, &attr), 0);
    assert_int_equal(read_msr(g, 0x10, &moved), NOTHING);
    assert_true(moved - after >= 1ull << 52 && moved - after < (1ull << 52) + (1ull << 40));
}

static void test_xsave_initial(void **state)
{
    struct guest *g = *state;
    static struct kvm_xsave area;
    uint8_t *bytes = (uint8_t *)area.region;

    memset(bytes, 0xa5, 512);
    area.region[6] = 0x1f80; /* MXCSR; XSTATE_BV is 0: the rest is nothing but rubbish */
    memset(bytes + 576, 0xa5, 256);
    assert_int_equal(ask(g->vcpu, KVM_SET_XSAVE, &area), 0);
    assert_int_equal(ask(g->vcpu, KVM_GET_XSAVE2, &area), 0);
    assert_int_equal(area.region[0], 0x37f);
    assert_int_equal(area.region[6], 0x1f80);
    for (unsigned i = 32; i < 512; i++)
        assert_int_equal(bytes[i], 0);
    uint32_t avx = 0;
    for (uint32_t i = 0; i < g->cpuid.head.nent; i++)
        if (g->cpuid.head.entries[i].function == 0xd && g->cpuid.head.entries[i].index == 2)
            avx = g->cpuid.head.entries[i].ebx;
    for (unsigned i = 0; avx != 0 && i < 256; i++)
        assert_int_equal(bytes[avx + i], 0);
    bytes[520] = 1; /* XCOMP_BV: the API has the standard format only */
    assert_int_equal(ask(g->vcpu, KVM_SET_XSAVE, &area), -EINVAL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_unknown), TEST(test_at_client), TEST(test_cpuid_limits),
                                       TEST(test_pv),      TEST(test_tsc),       TEST(test_xsave_initial)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
