/* SPDX-License-Identifier: MIT */
/*
 * What a KVM client pays for an exit: round trips of port I/O and memory-mapped I/O to KVM_RUN's caller, of a store that an
 * ioeventfd takes, of CPUID, and of KVM_RUN itself. A guest of a few bytes of real-mode code, on both back ends where they are
 * there. Prints "exit BACKEND NAME NANOSECONDS", the median of several runs.
 * Usage: kage-exits [ROUNDS]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kage.h"

#define CODE 0x1000u
#define RAM_BYTES 0x4000u
#define RUNS 5
#define PORT 0x80u

static const struct {
    const char *name;
    uint8_t code[16]; /* DX is the port, ES:DI lies beyond memory */
    bool is_eventfd;
} cases[] = {
    {"pio-write", {0xee, 0xeb, 0xfd}, false},             /* 1: out %al, %dx; jmp 1b */
    {"pio-read", {0xec, 0xeb, 0xfd}, false},              /* 1: in %dx, %al; jmp 1b */
    {"mmio-write", {0x26, 0x88, 0x05, 0xeb, 0xfb}, false}, /* 1: mov %al, %es:(%di); jmp 1b */
    {"mmio-read", {0x26, 0x8a, 0x05, 0xeb, 0xfb}, false},  /* 1: mov %es:(%di), %al; jmp 1b */
    /* CX times an access that stays inside, then a HLT */
    {"ioeventfd-pio", {0xee, 0xe2, 0xfd, 0xf4}, true},
    {"ioeventfd-mmio", {0x26, 0x88, 0x05, 0xe2, 0xfb, 0xf4}, true},
    {"cpuid", {0x51, 0x0f, 0xa2, 0x59, 0xe2, 0xfa, 0xf4}, true},
};

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool set_up(const struct kvm_backend *kvm, int vm, int vcpu, const uint8_t *code, uint8_t *ram)
{
    struct kvm_userspace_memory_region region = {.memory_size = RAM_BYTES, .userspace_addr = (uintptr_t)ram};

    memcpy(ram + CODE, code, 16);
    return kvm->ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) == 0 && vcpu >= 0;
}

static bool start(const struct kvm_backend *kvm, int vcpu, unsigned rounds)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = CODE, .rsp = 0x3000, .rflags = 2, .rdx = PORT, .rcx = rounds};

    if (kvm->ioctl(vcpu, KVM_GET_SREGS, &sregs) != 0)
        return false;
    sregs.cs.selector = 0;
    sregs.cs.base = 0;
    sregs.es.selector = 0x8000;
    sregs.es.base = 0x80000;
    return kvm->ioctl(vcpu, KVM_SET_SREGS, &sregs) == 0 && kvm->ioctl(vcpu, KVM_SET_REGS, &regs) == 0;
}

static bool add_eventfds(const struct kvm_backend *kvm, int vm, int fd)
{
    struct kvm_ioeventfd pio = {.addr = PORT, .len = 1, .fd = fd, .flags = KVM_IOEVENTFD_FLAG_PIO};
    struct kvm_ioeventfd mmio = {.addr = 0x80000, .len = 1, .fd = fd};
    return kvm->ioctl(vm, KVM_IOEVENTFD, &pio) == 0 && kvm->ioctl(vm, KVM_IOEVENTFD, &mmio) == 0;
}

/* Nanoseconds for each exit, or a negative number. */
static double measure(const struct kvm_backend *kvm, int vcpu, struct kvm_run *run, bool inside, unsigned rounds)
{
    if (inside) {
        double from = now_ns();
        for (unsigned left = rounds; left > 0;) {
            unsigned some = left < 60000 ? left : 60000; /* CX has 16 bits */
            if (!start(kvm, vcpu, some) || kvm->ioctl(vcpu, KVM_RUN, NULL) != 0 || run->exit_reason != KVM_EXIT_HLT)
                return -1;
            left -= some;
        }
        return (now_ns() - from) / rounds;
    }
    if (!start(kvm, vcpu, 0) || kvm->ioctl(vcpu, KVM_RUN, NULL) != 0)
        return -1;
    double from = now_ns();
    for (unsigned i = 0; i < rounds; i++)
        if (kvm->ioctl(vcpu, KVM_RUN, NULL) != 0 || (run->exit_reason != KVM_EXIT_IO && run->exit_reason != KVM_EXIT_MMIO))
            return -1;
    return (now_ns() - from) / rounds;
}

static void run_case(const struct kvm_backend *kvm, size_t index, unsigned rounds)
{
    double times[RUNS];
    uint8_t *ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int system = kvm->open(), fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int vm = system < 0 ? -1 : kvm->ioctl(system, KVM_CREATE_VM, NULL);
    int vcpu = vm < 0 ? -1 : kvm->ioctl(vm, KVM_CREATE_VCPU, NULL);
    int bytes = system < 0 ? 0 : kvm->ioctl(system, KVM_GET_VCPU_MMAP_SIZE, NULL);
    void *run = vcpu < 0 ? MAP_FAILED : kvm->mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    bool good = run != MAP_FAILED && ram != MAP_FAILED && fd >= 0 && set_up(kvm, vm, vcpu, cases[index].code, ram) &&
                (!cases[index].is_eventfd || add_eventfds(kvm, vm, fd));

    for (unsigned i = 0; good && i < RUNS; i++) {
        times[i] = measure(kvm, vcpu, run, cases[index].is_eventfd, rounds);
        good = times[i] >= 0;
    }
    if (good) {
        qsort(times, RUNS, sizeof(times[0]), ascending);
        printf("exit %s %s %.1f\n", kvm->name, cases[index].name, times[RUNS / 2]);
    }
    if (run != MAP_FAILED)
        kvm->munmap(run, (size_t)bytes);
    const int handles[] = {vcpu, vm, system};
    for (size_t i = 0; i < sizeof(handles) / sizeof(handles[0]); i++)
        if (handles[i] >= 0)
            kvm->close(handles[i]);
    if (fd >= 0)
        close(fd);
    if (ram != MAP_FAILED)
        munmap(ram, RAM_BYTES);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 200000;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        run_case(&kage_backend_soft, i, rounds);
        if (access("/dev/kvm", R_OK | W_OK) == 0)
            run_case(&kage_backend_kernel, i, rounds / 20);
    }
    return 0;
}
