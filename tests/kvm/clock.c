/* SPDX-License-Identifier: MIT */
/* KVM_GET/SET_CLOCK (api.rst 4.29), TSC (4.55), kvm-clock and KVM_KVMCLOCK_CTRL (4.70). */
#include <string.h>

#include "machine.h"

#define MSR_TSC 0x10u
#define MSR_SYSTEM_TIME 0x4b564d01u

static uint64_t clock_now(struct machine *m)
{
    struct kvm_clock_data data;

    memset(&data, 0xcc, sizeof(data));
    CHECK_OK(ask(m->vm, KVM_GET_CLOCK, &data));
    return data.clock;
}

static void clock_runs(void)
{
    struct machine m = machine_new(0, 1);
    uint64_t before = clock_now(&m), start = now_ns();

    sleep_ms(20);
    uint64_t after = clock_now(&m), host = now_ns() - start;
    CHECK(after > before);
    CHECK(after - before >= 19000000 && after - before <= host + 1000000);
}

static void clock_set(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_clock_data data = { .clock = 5000000000 };

    CHECK_OK(ask(m.vm, KVM_SET_CLOCK, &data));
    uint64_t now = clock_now(&m);
    CHECK(now >= 5000000000 && now < 6000000000);
    data.clock = 1000; /* back too */
    CHECK_OK(ask(m.vm, KVM_SET_CLOCK, &data));
    CHECK(clock_now(&m) < 1000000000);
}

/* KVM_CLOCK_REALTIME: the time that went by since `realtime` is added. */
static void clock_set_by_realtime(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_clock_data data;

    CHECK_OK(ask(m.vm, KVM_GET_CLOCK, &data));
    if (!(data.flags & KVM_CLOCK_REALTIME))
        row_skip("the implementation does not say the real time with its clock");
    CHECK(data.realtime > 1600000000ull * 1000000000);
    data.realtime -= 3000000000; /* as if it had been read three seconds ago */
    data.clock = 10000000000;
    data.flags = KVM_CLOCK_REALTIME;
    CHECK_OK(ask(m.vm, KVM_SET_CLOCK, &data));
    uint64_t now = clock_now(&m);
    CHECK(now >= 13000000000 && now < 14000000000);
}

static void tsc_khz(void)
{
    struct machine m = machine_new(0, 1);
    int khz = CHECK_OK(ask(m.vcpu[0], KVM_GET_TSC_KHZ, NULL));

    CHECK(khz > 100000);
    CHECK_OK(ask_number(m.vcpu[0], KVM_SET_TSC_KHZ, (uintptr_t)khz));
    CHECK_EQ(ask(m.vcpu[0], KVM_GET_TSC_KHZ, NULL), khz);
    CHECK_OK(ask_number(m.vcpu[0], KVM_SET_TSC_KHZ, (uintptr_t)khz + 1)); /* within 250 ppm */
}

/* RDTSC, and the client's view of it by KVM_GET_MSRS. */
GUEST(rdtsc, 64, "1: rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, 0x10000; out %al, $0x80; jmp 1b");

static uint64_t guest_tsc(struct machine *m)
{
    uint64_t tsc;

    RUN_TO_OUT(m, 0, 0x80);
    memcpy(&tsc, m->ram + GPA_DATA, 8);
    return tsc;
}

static void tsc_set(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(rdtsc));
    int khz = CHECK_OK(ask(m.vcpu[0], KVM_GET_TSC_KHZ, NULL));
    uint64_t value = 1ull << 50;

    CHECK_EQ(machine_set_msr(&m, 0, MSR_TSC, value), 1);
    uint64_t client = machine_get_msr(&m, 0, MSR_TSC), guest = guest_tsc(&m);
    CHECK(client >= value && client - value < (uint64_t)khz * 1000);
    CHECK(guest >= client && guest - client < (uint64_t)khz * 1000);
    CHECK(guest_tsc(&m) > guest);
}

/* vCPUs whose TSC is set to nearly the same have the same (the kernel's rule for clients that restore them one by one). */
static void tsc_synchronized(void)
{
    struct machine m = machine_new(0, 2);
    uint64_t a, b;
    struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&a };

    CHECK_EQ(machine_set_msr(&m, 0, MSR_TSC, 1ull << 50), 1);
    CHECK_EQ(machine_set_msr(&m, 1, MSR_TSC, (1ull << 50) + 1000), 1);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_DEVICE_ATTR, &attr));
    attr.addr = (uintptr_t)&b;
    CHECK_OK(ask(m.vcpu[1], KVM_GET_DEVICE_ATTR, &attr));
    CHECK_EQ(a, b);
}

/* struct pvclock_vcpu_time_info (msr.rst) is written where the guest asked for it. */
GUEST(kvmclock, 64, "mov $0x4b564d01, %ecx; mov $0x10001, %eax; xor %edx, %edx; wrmsr; 1: out %al, $0x80; jmp 1b");

static void kvm_clock(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(kvmclock));
    struct {
        uint32_t version, pad;
        uint64_t tsc_timestamp, system_time;
        uint32_t mul;
        int8_t shift;
        uint8_t flags, pad2[2];
    } info;

    RUN_TO_OUT(&m, 0, 0x80);
    RUN_TO_OUT(&m, 0, 0x80);
    memcpy(&info, m.ram + GPA_DATA, sizeof(info));
    CHECK(info.version != 0 && (info.version & 1) == 0);
    CHECK(info.mul != 0);
    CHECK_EQ(info.flags & 2, 0);
    CHECK_OK(ask(m.vcpu[0], KVM_KVMCLOCK_CTRL, NULL)); /* "the guest was stopped" */
    RUN_TO_OUT(&m, 0, 0x80);
    memcpy(&info, m.ram + GPA_DATA, sizeof(info));
    CHECK_EQ(info.flags & 2, 2);
}

static const struct row rows[] = {
    { "clock runs", clock_runs }, { "clock set", clock_set }, { "clock set by realtime", clock_set_by_realtime }, { "tsc khz", tsc_khz },
    { "tsc set", tsc_set }, { "tsc synchronized", tsc_synchronized }, { "kvm-clock", kvm_clock },
};
THEME(clock, rows);
