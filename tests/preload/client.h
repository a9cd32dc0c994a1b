/* SPDX-License-Identifier: MIT */
/*
 * A small KVM client: one page of guest code in real mode. And the counting of checks.
 */
#ifndef PRELOAD_CLIENT_H
#define PRELOAD_CLIENT_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

static int checks_passed, checks_failed;

#define CHECK(condition) check_that(condition, #condition, __LINE__)
static inline bool check_that(bool good, const char *what, int line)
{
    if (good) {
        checks_passed++;
    } else {
        checks_failed++;
        printf("FAIL: line %d: %s (errno %d, %s)\n", line, what, errno, strerror(errno));
    }
    return good;
}

/* -1 and this errno */
#define CHECK_FAILS(expression, error) (errno = 0, CHECK((long)(expression) == -1 && errno == (error)))

static inline int checks_summary(void)
{
    printf("%d passed, %d failed, 0 skipped\n", checks_passed, checks_failed);
    return checks_failed != 0;
}

struct client {
    int system, vm, vcpu;
    uint8_t *memory; /* one page at guest-physical 0 */
    struct kvm_run *run;
    size_t run_bytes;
};

static inline void client_give_up(const char *what)
{
    printf("FAIL: %s: %s\n0 passed, 1 failed, 0 skipped\n", what, strerror(errno));
    exit(1);
}

static inline struct client client_new(void)
{
    struct client c = {.system = open("/dev/kvm", O_RDWR | O_CLOEXEC)};

    if (c.system < 0)
        client_give_up("/dev/kvm");
    c.vm = ioctl(c.system, KVM_CREATE_VM, 0);
    if (c.vm < 0)
        client_give_up("KVM_CREATE_VM");
    c.memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = 4096, .userspace_addr = (uintptr_t)c.memory};
    if (ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        client_give_up("KVM_SET_USER_MEMORY_REGION");
    c.vcpu = ioctl(c.vm, KVM_CREATE_VCPU, 0);
    if (c.vcpu < 0)
        client_give_up("KVM_CREATE_VCPU");
    c.run_bytes = (size_t)ioctl(c.system, KVM_GET_VCPU_MMAP_SIZE, 0);
    c.run = mmap(NULL, c.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c.vcpu, 0);
    if (c.run == MAP_FAILED)
        client_give_up("the mapping of a vCPU");
    return c;
}

/* Has the guest begin with these bytes at 0, in real mode, with rAX = ax. */
static inline void client_load(struct client *c, const void *code, size_t bytes, uint64_t ax)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rflags = 2, .rax = ax, .rsp = 4096};

    memcpy(c->memory, code, bytes);
    if (ioctl(c->vcpu, KVM_GET_SREGS, &sregs) < 0)
        client_give_up("KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    if (ioctl(c->vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(c->vcpu, KVM_SET_REGS, &regs) < 0)
        client_give_up("KVM_SET_REGS");
}

/* inc %ax; out %al, $0x80; jmp back */
static const uint8_t client_counter[] = {0x40, 0xe6, 0x80, 0xeb, 0xfb};

/* One KVM_RUN to the counter's OUT: what it wrote, or -1. */
static inline int client_count(struct client *c, int vcpu)
{
    if (ioctl(vcpu, KVM_RUN, 0) < 0 || c->run->exit_reason != KVM_EXIT_IO || c->run->io.port != 0x80)
        return -1;
    return *((uint8_t *)c->run + c->run->io.data_offset);
}

#endif
