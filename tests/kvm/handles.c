/* SPDX-License-Identifier: MIT */
/* Handles: they are file descriptors, with all that such have. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine.h"

GUEST(loop, 64, "1: mov $0x5a, %al; out %al, $0x80; jmp 1b");

static void kinds_do_not_mix(void)
{
    struct machine m = machine_new(0, 1);
    struct kvm_regs regs;

    /* unknown to a VM is ENOTTY, to the others EINVAL */
    CHECK_EQ(ask(m.system, KVM_GET_REGS, &regs), -EINVAL);
    CHECK_EQ(ask(m.vm, KVM_GET_REGS, &regs), -ENOTTY);
    CHECK_EQ(ask(m.system, KVM_CREATE_VCPU, NULL), -EINVAL);
    CHECK_EQ(ask_number(m.vcpu[0], KVM_CREATE_VCPU, 1), -EINVAL);
    CHECK_EQ(ask(m.vm, KVM_GET_API_VERSION, NULL), -ENOTTY);
    CHECK_EQ(ask(m.vcpu[0], KVM_CREATE_VM, NULL), -EINVAL);
    CHECK_EQ(ask(m.vm, _IO('Q', 1), NULL), -ENOTTY);
    CHECK(ask(0x7fffffff, KVM_GET_API_VERSION, NULL) == -EBADF);
    CHECK(ask(-1, KVM_GET_API_VERSION, NULL) == -EBADF);
}

static void cloexec(void)
{
    struct machine m = machine_new(0, 1);

    CHECK_EQ(fcntl(m.vm, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    CHECK_EQ(fcntl(m.vcpu[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

static void close_twice(void)
{
    struct machine m = machine_new(0, 0);

    CHECK_EQ(kvm->close(m.vm), 0);
    CHECK_EQ(kvm->close(m.vm), -1);
    CHECK_EQ(errno, EBADF);
    CHECK_EQ(ask(m.vm, KVM_CHECK_EXTENSION, NULL), -EBADF);
}

/* A VM lives until its last vCPU handle is closed too; a vCPU's mapping longer than its handle. */
static void vm_closed_first(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(loop));

    CHECK_EQ(kvm->close(m.system), 0);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x5a);
    CHECK_EQ(kvm->close(m.vm), 0);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x5a);
    CHECK_EQ(kvm->close(m.vcpu[0]), 0);
    CHECK_EQ(m.run[0]->exit_reason, KVM_EXIT_IO);
    m.run[0]->immediate_exit = 1;
    CHECK_EQ(kvm->munmap(m.run[0], m.run_bytes), 0);
}

/* vCPUs that are closed leave their number taken. */
static void vcpu_closed_first(void)
{
    struct machine m = machine_new(0, 1);

    CHECK_EQ(kvm->close(m.vcpu[0]), 0);
    EXPECT("same id again", ask_number(m.vm, KVM_CREATE_VCPU, 0), -EEXIST);
    CHECK_OK(ask_number(m.vm, KVM_CREATE_VCPU, 1));
}

static void many_vms(void)
{
    int system = CHECK_OK(kvm->open()), last = -1;

    for (unsigned i = 0; i < 100; i++) {
        int vm = CHECK_OK(ask(system, KVM_CREATE_VM, NULL)), vcpu = CHECK_OK(ask_number(vm, KVM_CREATE_VCPU, i));
        CHECK_EQ(kvm->close(i & 1 ? vm : vcpu) | kvm->close(i & 1 ? vcpu : vm), 0);
        CHECK(last < 0 || vm == last); /* descriptors are given back */
        last = vm;
    }
}

static void mmap_rules(void)
{
    struct machine m = machine_new(0, 1);

    CHECK(kvm->mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu[0], 0) != MAP_FAILED);
    CHECK(kvm->mmap(NULL, m.run_bytes, PROT_READ, MAP_SHARED, m.vcpu[0], 0) != MAP_FAILED);
    CHECK(kvm->mmap(NULL, m.run_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, m.vcpu[0], 0) != MAP_FAILED);
    CHECK(kvm->mmap(NULL, 4096, PROT_READ, MAP_SHARED, m.vm, 0) == MAP_FAILED);
    EXPECT("errno of a vm's", errno, ENODEV);
    CHECK(kvm->mmap(NULL, 4096, PROT_READ, MAP_SHARED, m.system, 0) == MAP_FAILED);
    CHECK(kvm->mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu[0], 1) == MAP_FAILED);
    CHECK_EQ(errno, EINVAL);
}

/* Two mappings are one. */
static void mmap_twice(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(loop));
    volatile struct kvm_run *other = kvm->mmap(NULL, m.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu[0], 0);

    CHECK(other != MAP_FAILED);
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_EQ(other->exit_reason, KVM_EXIT_IO);
    other->immediate_exit = 1;
    CHECK_EQ(machine_run(&m, 0), -EINTR);
}

/* The ring's page and the data page can be mapped by themselves. */
static void mmap_pages(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(loop));
    const uint8_t *data = kvm->mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu[0], KVM_PIO_PAGE_OFFSET * 4096);

    CHECK(data != MAP_FAILED);
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_EQ(data[m.run[0]->io.data_offset - KVM_PIO_PAGE_OFFSET * 4096], 0x5a);
}

static void duplicated(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(loop));
    int vm = dup(m.vm), vcpu = fcntl(m.vcpu[0], F_DUPFD_CLOEXEC, 100);

    CHECK(vm >= 0 && vcpu >= 100);
    CHECK_OK(ask_number(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY));
    CHECK_EQ(kvm->close(m.vm) | kvm->close(m.vcpu[0]), 0);
    m.vcpu[0] = vcpu;
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x5a);
    CHECK_OK(ask_number(vm, KVM_CREATE_VCPU, 7));
    int other = dup2(vcpu, 200);
    CHECK_EQ(other, 200);
    CHECK_EQ(kvm->close(vcpu), 0);
    m.vcpu[0] = other;
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x5a);
}

/* A handle's number is free behind its close, and nobody else's before. */
static void numbers_are_real(void)
{
    struct machine m = machine_new(0, 1);
    int other = open("/dev/null", O_RDONLY | O_CLOEXEC);

    CHECK(other >= 0 && other != m.system && other != m.vm && other != m.vcpu[0]);
    CHECK_EQ(kvm->close(m.vcpu[0]), 0);
    CHECK_EQ(open("/dev/null", O_RDONLY | O_CLOEXEC), m.vcpu[0]);
    CHECK(ask(m.vcpu[0], KVM_RUN, NULL) < 0);
}

/* In a child every ioctl fails with EIO; the parent's VM goes on. */
static void forked(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(loop));

    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x5a);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct kvm_regs regs;
        bool inert = ask_number(m.vm, KVM_CHECK_EXTENSION, 0) == -EIO && ask(m.vcpu[0], KVM_GET_REGS, &regs) == -EIO &&
                     ask(m.vcpu[0], KVM_RUN, NULL) == -EIO;
        kvm->close(m.vcpu[0]);
        kvm->close(m.vm);
        _exit(inert ? 0 : 1);
    }
    int status = 0;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x5a);
}

static void forked_child_can_open(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(loop));

    RUN_TO_OUT(&m, 0, 0x80);
    pid_t pid = fork();
    if (pid == 0) {
        struct machine own = machine_boot(0, GUEST_BYTES(loop));
        _exit(RUN_TO_OUT(&own, 0, 0x80) == 0x5a ? 0 : 1);
    }
    int status = 0;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
}

/* A vCPU may be run by any thread, one after the other. */
static void *run_in_thread(void *opaque)
{
    struct machine *m = opaque;

    CHECK_EQ(RUN_TO_OUT(m, 0, 0x80), 0x5a);
    return NULL;
}

static void other_threads(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(loop));

    for (unsigned i = 0; i < 8; i++) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, run_in_thread, &m), 0);
        pthread_join(thread, NULL);
        CHECK_EQ(RUN_TO_OUT(&m, 0, 0x80), 0x5a);
    }
}

/* vCPU ids need not be dense, and their number is limited. */
static void vcpu_ids(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 0);
    int max_id = CHECK_OK(ask_number(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID));

    CHECK_OK(ask_number(m.vm, KVM_CREATE_VCPU, 5));
    CHECK_OK(ask_number(m.vm, KVM_CREATE_VCPU, 2));
    CHECK_OK(ask_number(m.vm, KVM_CREATE_VCPU, (uintptr_t)max_id - 1));
    CHECK_EQ(ask_number(m.vm, KVM_CREATE_VCPU, (uintptr_t)max_id), -EINVAL);
    CHECK_EQ(ask_number(m.vm, KVM_CREATE_VCPU, 5), -EEXIST);
}

static void max_vcpu_id(void)
{
    struct machine m = machine_new(0, 0);

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_MAX_VCPU_ID, 4));
    CHECK_OK(ask_number(m.vm, KVM_CREATE_VCPU, 3));
    CHECK_EQ(ask_number(m.vm, KVM_CREATE_VCPU, 4), -EINVAL);
}

static void max_vcpus(void)
{
    struct machine m = machine_new(0, 0);
    int max = CHECK_OK(ask_number(m.vm, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS));

    for (int i = 0; i < max; i++)
        CHECK_OK(ask_number(m.vm, KVM_CREATE_VCPU, (uintptr_t)i));
}

static const struct row rows[] = {
    { "kinds do not mix", kinds_do_not_mix }, { "cloexec", cloexec }, { "close twice", close_twice },
    { "vm closed first", vm_closed_first }, { "vcpu closed first", vcpu_closed_first }, { "many vms", many_vms },
    { "mmap rules", mmap_rules }, { "mmap twice", mmap_twice }, { "mmap pages", mmap_pages }, { "duplicated", duplicated },
    { "numbers are real", numbers_are_real }, { "forked", forked }, { "forked child can open", forked_child_can_open },
    { "other threads", other_threads }, { "vcpu ids", vcpu_ids }, { "max vcpu id", max_vcpu_id }, { "max vcpus", max_vcpus },
};
THEME(handles, rows);
