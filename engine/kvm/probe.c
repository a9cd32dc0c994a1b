/* SPDX-License-Identifier: MIT */
/*
 * Which back end is worth using: kage_backend_probe and kage_backend_auto. A host may offer a /dev/kvm
 * that emulates guest kernels instruction by instruction; the proof of a good one is a small 64-bit
 * guest kernel loop at native speed. The probe speaks the KVM API only.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kage.h"

#define PROBE_BYTES (4u << 12)
#define PROBE_LOOPS 200000u
#define PROBE_CPUID_ROOM 128u
#define PROBE_LIMIT_NS 4000000u /* a native loop takes a tenth of this; an emulated one a hundred times more */

/* Guest layout: PML4 at 0, PDPT at 0x1000 (one 1 GiB page of identity), code at 0x2000. */
#define PROBE_CODE 0x2000u
static const uint8_t probe_code[] = {
    0xb9, PROBE_LOOPS & 0xff, PROBE_LOOPS >> 8 & 0xff, PROBE_LOOPS >> 16 & 0xff, 0, /* mov $PROBE_LOOPS, %ecx */
    0xff, 0xc9,                                                                     /* 1: dec %ecx */
    0x75, 0xfc,                                                                     /* jnz 1b */
    0xe6, 0x80,                                                                     /* out %al, $0x80 */
};

static bool cpuinfo_has_virtualization(void)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[4096];
    bool found = false;

    if (!file)
        return false;
    while (!found && fgets(line, sizeof(line), file)) {
        if (strncmp(line, "flags", 5) != 0)
            continue;
        found = strstr(line, " vmx ") || strstr(line, " svm ") || strstr(line, " vmx\n") || strstr(line, " svm\n");
        break;
    }
    fclose(file);
    return found;
}

static struct kvm_segment probe_segment(uint16_t selector, uint8_t type, uint8_t l)
{
    return (struct kvm_segment){ .limit = UINT32_MAX, .selector = selector, .type = type, .present = 1,
                                 .db = !l, .s = 1, .l = l, .g = 1 };
}

static int probe_set_state(const struct kvm_backend *backend, int vcpu)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = PROBE_CODE, .rsp = PROBE_BYTES, .rflags = 2 };

    if (backend->ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
        return -1;
    sregs.cs = probe_segment(8, 11, 1);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = probe_segment(16, 3, 0);
    sregs.cr0 = 0x80000031u; /* PG NE ET PE */
    sregs.cr3 = 0;
    sregs.cr4 = 0x20;        /* PAE */
    sregs.efer = 0x500;      /* LMA LME */
    if (backend->ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0)
        return -1;
    return backend->ioctl(vcpu, KVM_SET_REGS, &regs);
}

static int probe_set_cpuid(const struct kvm_backend *backend, int system, int vcpu)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + PROBE_CPUID_ROOM * sizeof(cpuid->entries[0]));
    int result = -1;

    if (!cpuid)
        return -1;
    cpuid->nent = PROBE_CPUID_ROOM;
    if (backend->ioctl(system, KVM_GET_SUPPORTED_CPUID, cpuid) >= 0)
        result = backend->ioctl(vcpu, KVM_SET_CPUID2, cpuid);
    free(cpuid);
    return result;
}

static uint64_t probe_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Runs the loop to its OUT; nanoseconds, or 0 if it did not get there. */
static uint64_t probe_time_loop(const struct kvm_backend *backend, int vcpu, struct kvm_run *run)
{
    uint64_t start = probe_now_ns();

    for (;;) {
        if (backend->ioctl(vcpu, KVM_RUN, NULL) < 0) {
            if (errno != EINTR && errno != EAGAIN)
                return 0;
            continue;
        }
        uint64_t took = probe_now_ns() - start;
        return run->exit_reason == KVM_EXIT_IO && run->io.port == 0x80 ? took + 1 : 0;
    }
}

static uint64_t probe_vcpu(const struct kvm_backend *backend, int system, int vm)
{
    uint64_t took = 0;
    int bytes = backend->ioctl(system, KVM_GET_VCPU_MMAP_SIZE, NULL);
    int vcpu = backend->ioctl(vm, KVM_CREATE_VCPU, NULL);

    if (bytes < (int)sizeof(struct kvm_run) || vcpu < 0)
        goto out;
    struct kvm_run *run = backend->mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        goto out;
    if (probe_set_cpuid(backend, system, vcpu) >= 0 && probe_set_state(backend, vcpu) >= 0)
        took = probe_time_loop(backend, vcpu, run);
    backend->munmap(run, (size_t)bytes);
out:
    if (vcpu >= 0)
        backend->close(vcpu);
    return took;
}

static uint64_t probe_vm(const struct kvm_backend *backend, int system, int vm)
{
    uint8_t *memory = mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 0;
    uint64_t pml4e = 0x1000 | 3, pdpte = 0x80 | 3;
    memcpy(memory, &pml4e, sizeof(pml4e));
    memcpy(memory + 0x1000, &pdpte, sizeof(pdpte));
    memcpy(memory + PROBE_CODE, probe_code, sizeof(probe_code));
    struct kvm_userspace_memory_region region = { .memory_size = PROBE_BYTES,
                                                  .userspace_addr = (uint64_t)(uintptr_t)memory };
    uint64_t took = 0;
    if (backend->ioctl(vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul) >= 0 &&
        backend->ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) >= 0)
        took = probe_vcpu(backend, system, vm);
    backend->close(vm);
    munmap(memory, PROBE_BYTES);
    return took;
}

static bool probe_speed(const struct kvm_backend *backend, int system, char *reason, size_t reason_bytes)
{
    int vm = backend->ioctl(system, KVM_CREATE_VM, NULL);
    if (vm < 0) {
        snprintf(reason, reason_bytes, "%s: no VM can be created: %s", backend->name, strerror(errno));
        return false;
    }
    uint64_t took = probe_vm(backend, system, vm);
    if (!took) {
        snprintf(reason, reason_bytes, "%s: a small 64-bit guest does not run", backend->name);
        return false;
    }
    bool good = took <= PROBE_LIMIT_NS;
    snprintf(reason, reason_bytes, "%s: a 64-bit guest loop of %u rounds took %llu us%s", backend->name, PROBE_LOOPS,
             (unsigned long long)(took / 1000), good ? "" : ", far from native speed");
    return good;
}

bool kage_backend_probe(const struct kvm_backend *backend, char *reason, size_t reason_bytes)
{
    bool kernel = backend == &kage_backend_kernel, good;

    if (kernel && !cpuinfo_has_virtualization()) {
        snprintf(reason, reason_bytes, "kvm: the processor shows neither vmx nor svm");
        return false;
    }
    int system = backend->open();
    if (system < 0) {
        snprintf(reason, reason_bytes, "%s: %s%s", backend->name, kernel ? "/dev/kvm: " : "", strerror(errno));
        return false;
    }
    if (backend->ioctl(system, KVM_GET_API_VERSION, NULL) != KVM_API_VERSION) {
        snprintf(reason, reason_bytes, "%s: not version %d of the KVM API", backend->name, KVM_API_VERSION);
        good = false;
    } else {
        good = probe_speed(backend, system, reason, reason_bytes);
    }
    backend->close(system);
    return good;
}

const struct kvm_backend *kage_backend_auto(char *reason, size_t reason_bytes)
{
    if (kage_backend_probe(&kage_backend_kernel, reason, reason_bytes))
        return &kage_backend_kernel;
    return &kage_backend_soft;
}
