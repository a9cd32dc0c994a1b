/* SPDX-License-Identifier: MIT */
/*
 * kvm-clock and the TSC's frequency (see clock.h). The guest's clock is a straight line over the
 * host's TSC: reference_ns at reference_tsc, and the frequency, so that all vCPUs agree for ever.
 */
#include "kvm/clock.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <asm/kvm_para.h>

#include "kvm/vcpu.h"
#include "mmu/mmu.h"

#define NS_PER_SEC 1000000000ull

uint64_t kvm_host_tsc(void)
{
    return __builtin_ia32_rdtsc();
}

static ns_t clock_ns(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (ns_t)now.tv_sec * NS_PER_SEC + (ns_t)now.tv_nsec;
}

ns_t kvm_monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* Intel's crystal ratio (SDM 2A CPUID leaf 15H), or the hypervisor's timing leaf. */
static uint32_t tsc_khz_from_cpuid(void)
{
    uint32_t a, b, c, d;

    if (__get_cpuid_count(0x15, 0, &a, &b, &c, &d) && a && b && c)
        return (uint32_t)((uint64_t)c * b / a / 1000);
    __cpuid(1, a, b, c, d);
    if (!(c >> 31))
        return 0;
    __cpuid(0x40000000, a, b, c, d);
    if (a < 0x40000010 || a > 0x400000ff)
        return 0;
    __cpuid(0x40000010, a, b, c, d);
    return a;
}

/* The kernel's own conversion from TSC to ns, which it publishes for self-monitoring tasks (perf_event_open(2)). */
static uint32_t tsc_khz_from_perf(void)
{
    struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = PERF_COUNT_SW_DUMMY };
    uint32_t khz = 0;

    attr.exclude_kernel = 1;
    attr.exclude_hv = 1;
    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        return 0;
    struct perf_event_mmap_page *page = mmap(NULL, KAGE_PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) {
        if (page->cap_user_time && page->time_mult) {
            unsigned __int128 cycles = (unsigned __int128)1000000 << page->time_shift; /* cycles in 1 ms */
            khz = (uint32_t)((cycles + page->time_mult / 2) / page->time_mult);
        }
        munmap(page, KAGE_PAGE_SIZE);
    }
    close(fd);
    return khz;
}

/* One reading of both clocks, the tightest of several. */
static void clock_pair(uint64_t *tsc, ns_t *ns)
{
    uint64_t best = UINT64_MAX;

    for (int i = 0; i < 8; i++) {
        uint64_t before = kvm_host_tsc();
        ns_t now = clock_ns(CLOCK_MONOTONIC_RAW);
        uint64_t after = kvm_host_tsc();
        if (after - before < best) {
            best = after - before;
            *tsc = before + best / 2;
            *ns = now;
        }
    }
}

static uint32_t tsc_khz_from_clock(void)
{
    uint64_t tsc0 = 0, tsc1 = 0;
    ns_t ns0 = 0, ns1 = 0;
    struct timespec pause = { .tv_nsec = 8000000 };

    clock_pair(&tsc0, &ns0);
    nanosleep(&pause, NULL);
    do {
        clock_pair(&tsc1, &ns1);
    } while (ns1 - ns0 < 1000000); /* a signal may have cut the pause short */
    return (uint32_t)((unsigned __int128)(tsc1 - tsc0) * 1000000u / (ns1 - ns0));
}

static uint32_t host_tsc_khz;
static pthread_once_t host_tsc_once = PTHREAD_ONCE_INIT;

static void host_tsc_measure(void)
{
    static uint32_t (*const sources[])(void) = { tsc_khz_from_cpuid, tsc_khz_from_perf, tsc_khz_from_clock };

    for (size_t i = 0; i < KAGE_ARRAY_SIZE(sources) && !host_tsc_khz; i++)
        host_tsc_khz = sources[i]();
}

uint32_t kvm_host_tsc_khz(void)
{
    pthread_once(&host_tsc_once, host_tsc_measure);
    return host_tsc_khz;
}

int64_t kvm_tsc_to_ns(int64_t tsc)
{
    return (int64_t)((__int128)tsc * 1000000 / kvm_host_tsc_khz());
}

void kvm_clock_init(struct kvm_clock *clock)
{
    pthread_mutex_init(&clock->lock, NULL);
    clock->reference_tsc = kvm_host_tsc();
    clock->reference_ns = 0;
    clock->generation = 1;
}

void kvm_clock_fini(struct kvm_clock *clock)
{
    pthread_mutex_destroy(&clock->lock);
}

int64_t kvm_clock_at(struct kvm_clock *clock, uint64_t host_tsc, uint32_t *generation)
{
    pthread_mutex_lock(&clock->lock);
    int64_t ns = clock->reference_ns + kvm_tsc_to_ns((int64_t)(host_tsc - clock->reference_tsc));
    if (generation)
        *generation = clock->generation;
    pthread_mutex_unlock(&clock->lock);
    return ns;
}

bool kvm_clock_is_stable(struct kvm_clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    bool stable = !clock->tsc_differs;
    pthread_mutex_unlock(&clock->lock);
    return stable;
}

void kvm_clock_check_tsc(struct kvm_vm *vm)
{
    unsigned count = atomic_load(&vm->vcpu_count);
    bool differs = false;

    pthread_mutex_lock(&vm->clock.lock);
    for (unsigned i = 1; i < count; i++)
        differs |= __atomic_load_n(&kvm_vm_vcpu(vm, i)->cpu->tsc_offset, __ATOMIC_RELAXED) !=
                   __atomic_load_n(&kvm_vm_vcpu(vm, 0)->cpu->tsc_offset, __ATOMIC_RELAXED);
    bool changed = differs != vm->clock.tsc_differs;
    vm->clock.tsc_differs = differs;
    vm->clock.generation += changed;
    pthread_mutex_unlock(&vm->clock.lock);
    for (unsigned i = 0; changed && i < count; i++)
        kvm_vcpu_request(kvm_vm_vcpu(vm, i), KVM_REQ_CLOCK);
}

/* mul and shift such that ns = ((tsc << shift) * mul) >> 32, as pvclock defines them. */
static void pvclock_scale(uint32_t tsc_khz, uint32_t *mul, int8_t *shift)
{
    uint64_t hz = (uint64_t)tsc_khz * 1000;
    int s = 0;

    while (hz > NS_PER_SEC * 2) {
        hz >>= 1;
        s--;
    }
    while (hz <= NS_PER_SEC) {
        hz <<= 1;
        s++;
    }
    /* from the exact frequency: mul = 2^32 * 10^9 / (hz * 2^s) */
    unsigned __int128 numerator = (unsigned __int128)NS_PER_SEC << 32;
    uint64_t exact = (uint64_t)tsc_khz * 1000;
    *mul = (uint32_t)(s < 0 ? (numerator << -s) / exact : (numerator / exact) >> s);
    *shift = (int8_t)s;
}

void kvm_clock_update(struct kvm_vcpu *vcpu)
{
    gpa_t gpa = vcpu->system_time_msr & ~1ull;
    struct kvm_pvclock_page page = { 0 };
    uint32_t generation;

    if (!(vcpu->system_time_msr & KVM_MSR_ENABLED))
        return;
    uint64_t host_tsc = kvm_host_tsc();
    page.system_time_ns = (uint64_t)kvm_clock_at(&vcpu->vm->clock, host_tsc, &generation);
    if (generation == vcpu->clock_generation && !vcpu->clock_dirty)
        return;
    vcpu->clock_generation = generation;
    vcpu->clock_dirty = false;
    page.tsc_timestamp = host_tsc + vcpu->cpu->tsc_offset;
    pvclock_scale(vcpu->tsc_khz, &page.tsc_to_system_mul, &page.tsc_shift);
    page.flags = kvm_clock_is_stable(&vcpu->vm->clock) ? KVM_PVCLOCK_TSC_STABLE : 0;
    if (vcpu->clock_guest_stopped)
        page.flags |= KVM_PVCLOCK_GUEST_STOPPED;
    vcpu->clock_guest_stopped = false;

    /* Odd version first, the fields, then even: the guest may read on another vCPU. */
    vcpu->pvclock_version = (vcpu->pvclock_version | 1u) + 2u;
    page.version = vcpu->pvclock_version;
    if (!mmu_phys_write(vcpu->cpu, gpa, &page.version, sizeof(page.version)))
        return;
    atomic_thread_fence(memory_order_release);
    if (!mmu_phys_write(vcpu->cpu, gpa, &page, sizeof(page)))
        return;
    atomic_thread_fence(memory_order_release);
    page.version = ++vcpu->pvclock_version;
    if (!mmu_phys_write(vcpu->cpu, gpa, &page.version, sizeof(page.version)))
        vcpu->system_time_msr = 0;
}

bool kvm_clock_set_system_time(struct kvm_vcpu *vcpu, uint64_t value)
{
    vcpu->system_time_msr = value;
    vcpu->clock_dirty = true;
    vcpu->pvclock_version = 0;
    kvm_vcpu_request(vcpu, KVM_REQ_CLOCK);
    return true;
}

bool kvm_clock_set_wall_clock(struct kvm_vcpu *vcpu, uint64_t value)
{
    struct kvm_wall_clock_page page = { 0 };

    if (!value)
        return true;
    if (!mmu_phys_read(vcpu->cpu, value, &page.version, sizeof(page.version)))
        return true; /* as the kernel: nobody home, nothing written */
    page.version |= 1u;
    if (!mmu_phys_write(vcpu->cpu, value, &page.version, sizeof(page.version)))
        return true;
    int64_t boot_ns = (int64_t)clock_ns(CLOCK_REALTIME) - kvm_clock_at(&vcpu->vm->clock, kvm_host_tsc(), NULL);
    page.sec = (uint32_t)(boot_ns / (int64_t)NS_PER_SEC);
    page.nsec = (uint32_t)(boot_ns % (int64_t)NS_PER_SEC);
    if (mmu_phys_write(vcpu->cpu, value, &page, sizeof(page))) {
        page.version++;
        if (!mmu_phys_write(vcpu->cpu, value, &page.version, sizeof(page.version)))
            kvm_log(KAGE_LOG_WARNING, "kvm-clock: the wall clock page at 0x%llx went away", (unsigned long long)value);
    }
    return true;
}

ns_t kvm_clock_guest_tsc_to_monotonic(struct kvm_vcpu *vcpu, uint64_t guest_tsc)
{
    ns_t now = kvm_monotonic_ns();
    int64_t ahead = (int64_t)(guest_tsc - (kvm_host_tsc() + vcpu->cpu->tsc_offset));

    if (ahead <= 0)
        return now;
    return now + (ns_t)kvm_tsc_to_ns(ahead);
}
