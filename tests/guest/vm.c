/* SPDX-License-Identifier: MIT */
/*
 * One VM for one guest test: 32 MiB of RAM or more, a vCPU that starts in 64-bit mode at 1 MiB, others that wait
 * for INIT and SIPI (each a thread of its own), irqchip and PIT, and four devices: console (port 0xe9), result (0xf4), the test device (ports 0x500-0x50f and
 * the MMIO page at 0xd0000000, every access logged) and its control ports (0x510-0x51f). It speaks
 * the KVM API through struct kvm_backend and uses nothing else of the engine.
 *
 * A log entry as the guest reads it at port 0x514, four words:
 *   31..16 0   15..8 bytes   7..0 kind  |  port or MMIO offset  |  data 31..0  |  data 63..32
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "runner.h"

enum { IMAGE_GPA = 0x100000, IMAGE_MAX = 0x100000 };
enum { PML4_GPA = 0x1000, PDPT_GPA = 0x2000, PD_GPA = 0x3000 };
enum { PORT_TEST = 0x500, PORT_LOG_CTRL = 0x510, PORT_LOG_DATA = 0x514, PORT_COMMAND = 0x518, PORT_PRESENT = 0x51c };
enum { LOG_OUT, LOG_IN, LOG_MMIO_WRITE, LOG_MMIO_READ };
enum { COMMAND_IRQ_HIGH = 1, COMMAND_IRQ_LOW = 2, COMMAND_NMI = 3 };
#define MMIO_GPA 0xd0000000ull
#define LOG_MAX 512u
#define CPUID_MAX 200u

struct vm;

struct vcpu {
    struct vm *vm;
    int fd;
    unsigned index;
    struct kvm_run *run;
    pthread_t thread;
    atomic_bool nmi_wanted;
};

struct vm {
    const struct kvm_backend *backend;
    const struct guest_test *test;
    int system, vm;
    uint8_t *ram;
    struct vcpu vcpus[GUEST_CPUS_MAX];
    pthread_mutex_t devices; /* all below */
    uint32_t log[LOG_MAX][4];
    unsigned log_len, log_read; /* entries, words */
    uint32_t in_value;          /* what the next IN from the test ports gives */
    uint8_t mmio[4096];
    bool done;
    uint32_t result;
};

static _Thread_local struct kvm_run *kicked_run; /* for the signal handler */

static int vm_fail(const char *what)
{
    printf("FAIL end: %s: %s\n", what, strerror(errno));
    return -1;
}

static int vm_ioctl(struct vm *vm, int handle, unsigned long request, void *arg)
{
    return vm->backend->ioctl(handle, request, arg);
}

/* ---- the test device ---- */

static void log_access(struct vm *vm, uint32_t kind, uint32_t bytes, uint32_t where, uint64_t data)
{
    if (vm->log_len == LOG_MAX)
        return;
    uint32_t *entry = vm->log[vm->log_len++];
    entry[0] = kind | bytes << 8;
    entry[1] = where;
    entry[2] = (uint32_t)data;
    entry[3] = (uint32_t)(data >> 32);
}

static void log_clear(struct vm *vm)
{
    vm->log_len = vm->log_read = 0;
    vm->in_value = 0x11111111;
    for (unsigned i = 0; i < sizeof vm->mmio; i++)
        vm->mmio[i] = (uint8_t)(i * 7 + 3);
}

/* KVM_NMI waits for the vCPU to leave KVM_RUN: its own thread calls it, and others get it out of there. */
static void nmi_deliver(struct vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    if (atomic_exchange(&vcpu->nmi_wanted, false) && vm_ioctl(vcpu->vm, vcpu->fd, KVM_NMI, NULL) < 0)
        vm_fail("KVM_NMI");
}

static void on_kick(int sig)
{
    (void)sig;
    __atomic_store_n(&kicked_run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

static void command_run(struct vm *vm, uint32_t command)
{
    struct kvm_irq_level level = {.irq = command >> 8 & 0xff, .level = (command & 0xff) == COMMAND_IRQ_HIGH};
    if ((command & 0xff) == COMMAND_NMI) {
        atomic_store(&vm->vcpus[0].nmi_wanted, true);
        pthread_kill(vm->vcpus[0].thread, SIGUSR1);
    } else if (vm_ioctl(vm, vm->vm, KVM_IRQ_LINE, &level) < 0) {
        vm_fail("KVM_IRQ_LINE");
    }
}

struct delayed_command {
    struct vm *vm;
    uint32_t command;
};

static void *command_thread(void *opaque)
{
    struct delayed_command *d = opaque;
    const unsigned ms = d->command >> 16;
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
    command_run(d->vm, d->command);
    free(d);
    return NULL;
}

static void command_start(struct vm *vm, uint32_t command)
{
    if (!(command >> 16)) {
        command_run(vm, command);
        return;
    }
    struct delayed_command *d = malloc(sizeof *d);
    pthread_t thread;
    if (!d)
        return;
    *d = (struct delayed_command){vm, command};
    if (pthread_create(&thread, NULL, command_thread, d) == 0)
        pthread_detach(thread);
    else
        free(d);
}

static uint32_t port_in(struct vm *vm, uint16_t port, uint32_t bytes)
{
    if (port >= PORT_TEST && port < PORT_TEST + 16) {
        uint32_t value = bytes == 4 ? vm->in_value : vm->in_value & ((1u << 8 * bytes) - 1);
        vm->in_value += 0x01010101;
        log_access(vm, LOG_IN, bytes, port, value);
        return value;
    }
    if (port == PORT_LOG_DATA) {
        unsigned i = vm->log_read++;
        return i / 4 < vm->log_len ? vm->log[i / 4][i % 4] : ~0u;
    }
    return port == PORT_PRESENT ? 0x4b414745 : ~0u;
}

static void port_out(struct vm *vm, uint16_t port, uint32_t bytes, uint32_t value)
{
    if (port >= PORT_TEST && port < PORT_TEST + 16)
        log_access(vm, LOG_OUT, bytes, port, value);
    else if (port == 0xe9)
        putchar((int)(value & 0xff));
    else if (port == 0xf4)
        vm->done = true, vm->result = value & 0xff;
    else if (port == PORT_LOG_CTRL)
        log_clear(vm);
    else if (port == PORT_COMMAND)
        command_start(vm, value);
}

static void exit_io(struct vm *vm, struct kvm_run *run)
{
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        uint32_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_IN) {
            value = port_in(vm, run->io.port, run->io.size);
            memcpy(data, &value, run->io.size);
        } else {
            memcpy(&value, data, run->io.size);
            port_out(vm, run->io.port, run->io.size, value);
        }
    }
}

static void exit_mmio(struct vm *vm, struct kvm_run *run)
{
    uint64_t value = 0;
    uint64_t offset = run->mmio.phys_addr - MMIO_GPA;
    const uint32_t len = run->mmio.len <= 8 ? run->mmio.len : 8;
    if (run->mmio.phys_addr < MMIO_GPA || offset + len > sizeof vm->mmio) {
        memset(run->mmio.data, 0xff, sizeof run->mmio.data);
        return;
    }
    if (run->mmio.is_write)
        memcpy(vm->mmio + offset, run->mmio.data, len);
    else
        memcpy(run->mmio.data, vm->mmio + offset, len);
    memcpy(&value, vm->mmio + offset, len);
    log_access(vm, run->mmio.is_write ? LOG_MMIO_WRITE : LOG_MMIO_READ, run->mmio.len, (uint32_t)offset, value);
}

/* ---- making the VM ---- */

static int vm_load_image(struct vm *vm, const char *dir, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vm_fail(path);
    size_t done = 0;
    ssize_t n;
    while ((n = read(fd, vm->ram + IMAGE_GPA + done, IMAGE_MAX - done)) > 0)
        done += (size_t)n;
    close(fd);
    return n < 0 || done == 0 ? vm_fail("image is empty or unreadable") : 0;
}

static int vm_make_memory(struct vm *vm)
{
    const size_t bytes = (size_t)vm->test->ram_mib << 20;
    vm->ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (vm->ram == MAP_FAILED)
        return vm_fail("mmap of guest RAM");
    struct kvm_userspace_memory_region slot = {
        .slot = 0, .guest_phys_addr = 0, .memory_size = bytes, .userspace_addr = (uintptr_t)vm->ram};
    if (vm_ioctl(vm, vm->vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
        return vm_fail("KVM_SET_USER_MEMORY_REGION");

    uint64_t *pml4 = (uint64_t *)(vm->ram + PML4_GPA), *pdpt = (uint64_t *)(vm->ram + PDPT_GPA);
    uint64_t *pd = (uint64_t *)(vm->ram + PD_GPA);
    pml4[0] = PDPT_GPA | 3;
    for (unsigned i = 0; i < 4; i++)
        pdpt[i] = (PD_GPA + 0x1000u * i) | 3;
    for (uint64_t i = 0; i < 2048; i++)
        pd[i] = i << 21 | 0x83;
    return 0;
}

static int vcpu_set_cpuid(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + CPUID_MAX * sizeof cpuid->entries[0]);
    if (!cpuid)
        return vm_fail("memory");
    cpuid->nent = CPUID_MAX;
    int err = vm_ioctl(vm, vm->system, KVM_GET_SUPPORTED_CPUID, cpuid);
    const bool la57 = vm_ioctl(vm, vm->system, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_KAGE_LA57) > 0;
    const bool deadline =
        vm_ioctl(vm, vm->system, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    for (unsigned i = 0; err >= 0 && i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
        if (e->function == 1) {
            e->ebx = (e->ebx & 0x00ffffff) | vcpu->index << 24; /* APIC ID */
            e->ecx |= deadline ? 1u << 24 : 0;
        }
        if (e->function == 0xb)
            e->edx = vcpu->index;
        if (e->function == 7 && e->index == 0)
            e->ecx = !vm->test->la57 ? e->ecx & ~(1u << 16) : la57 ? e->ecx | 1u << 16 : e->ecx;
        if (e->function == 0x80000008u && (la57 || !vm->test->la57))
            e->eax = (e->eax & ~0xff00u) | (vm->test->la57 ? 57u : 48u) << 8;
    }
    if (err >= 0)
        err = vm_ioctl(vm, vcpu->fd, KVM_SET_CPUID2, cpuid);
    free(cpuid);
    return err < 0 ? vm_fail("KVM_SET_CPUID2") : 0;
}

static int vcpu_set_registers(struct vcpu *vcpu, uint64_t arg)
{
    struct vm *vm = vcpu->vm;
    struct kvm_sregs s;
    if (vm_ioctl(vm, vcpu->fd, KVM_GET_SREGS, &s) < 0)
        return vm_fail("KVM_GET_SREGS");
    s.cs = (struct kvm_segment){.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    s.ds = (struct kvm_segment){.limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    s.es = s.fs = s.gs = s.ss = s.ds;
    s.tr = (struct kvm_segment){.limit = 0xffff, .type = 11, .present = 1};
    s.ldt = (struct kvm_segment){.unusable = 1};
    s.cr3 = PML4_GPA;
    s.cr4 = 1 << 5;
    s.cr0 = 0x80000033;
    s.efer = 0x500;
    if (vm_ioctl(vm, vcpu->fd, KVM_SET_SREGS, &s) < 0)
        return vm_fail("KVM_SET_SREGS");
    struct kvm_regs r = {.rip = IMAGE_GPA, .rsp = 0x8000, .rflags = 2, .rdi = arg};
    return vm_ioctl(vm, vcpu->fd, KVM_SET_REGS, &r) < 0 ? vm_fail("KVM_SET_REGS") : 0;
}

static int vm_set_test_flags(struct vm *vm, uint32_t flags)
{
#ifdef KVM_KAGE_SET_TEST_FLAGS
    if (flags && vm_ioctl(vm, vm->vm, KVM_KAGE_SET_TEST_FLAGS, (void *)(uintptr_t)flags) < 0)
        return vm_fail("KVM_KAGE_SET_TEST_FLAGS");
    return 0;
#else
    (void)vm;
    if (!flags)
        return 0;
    errno = ENOTTY;
    return vm_fail("engine test flags");
#endif
}

static int vcpu_make(struct vm *vm, unsigned index)
{
    struct vcpu *vcpu = &vm->vcpus[index];
    vcpu->vm = vm;
    vcpu->index = index;
    if ((vcpu->fd = vm_ioctl(vm, vm->vm, KVM_CREATE_VCPU, (void *)(uintptr_t)index)) < 0)
        return vm_fail("KVM_CREATE_VCPU");
    int bytes = vm_ioctl(vm, vm->system, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (bytes < 0)
        return vm_fail("KVM_GET_VCPU_MMAP_SIZE");
    vcpu->run = vm->backend->mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (vcpu->run == MAP_FAILED)
        return vm_fail("mmap of the vCPU");
    return vcpu_set_cpuid(vcpu);
}

static int vm_make(struct vm *vm, const struct guest_test *test, const struct vm_options *options)
{
    uint64_t identity_map = 0xfffbc000;
    struct kvm_pit_config pit = {0};
    if ((vm->system = vm->backend->open()) < 0)
        return vm_fail("open of the back end");
    if ((vm->vm = vm_ioctl(vm, vm->system, KVM_CREATE_VM, NULL)) < 0)
        return vm_fail("KVM_CREATE_VM");
    if (options->mmu && kage_vm_set_mmu(vm->backend, vm->vm, options->mmu) < 0)
        return vm_fail("KVM_CAP_KAGE_MMU");
    if (vm_ioctl(vm, vm->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0 ||
        vm_ioctl(vm, vm->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000ul) < 0)
        return vm_fail("KVM_SET_TSS_ADDR");
    if (!test->no_irqchip && (vm_ioctl(vm, vm->vm, KVM_CREATE_IRQCHIP, NULL) < 0 ||
                              vm_ioctl(vm, vm->vm, KVM_CREATE_PIT2, &pit) < 0))
        return vm_fail("KVM_CREATE_IRQCHIP");
    if (vm_set_test_flags(vm, options->test_flags) < 0 || vm_make_memory(vm) < 0 ||
        vm_load_image(vm, options->image_dir, test->image) < 0)
        return -1;
    for (unsigned i = 0; i < test->cpus; i++)
        if (vcpu_make(vm, i) < 0)
            return -1;
    log_clear(vm);
    pthread_mutex_init(&vm->devices, NULL);
    if (sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_kick}, NULL) < 0)
        return vm_fail("sigaction");
    return vcpu_set_registers(&vm->vcpus[0], test->arg);
}

static void print_end(struct vcpu *vcpu, const char *what)
{
    struct vm *vm = vcpu->vm;
    struct kvm_regs r = {0};
    char text[300] = "";
    union {
        struct kage_text head;
        char room[sizeof(struct kage_text) + 256];
    } message = {.head.bytes = 256};
    vm_ioctl(vm, vcpu->fd, KVM_GET_REGS, &r);
    if (vm_ioctl(vm, vcpu->fd, KAGE_GET_ERROR, &message) > 0)
        snprintf(text, sizeof text, " (%.255s)", message.head.text);
    printf("FAIL end: vCPU %u: %s at rip 0x%llx rsp 0x%llx%s\n", vcpu->index, what, r.rip, r.rsp, text);
}

/* Serves the exit; false: the test has ended, and how is said. */
static bool vcpu_exit(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    char what[80];
    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_IO:
        exit_io(vm, vcpu->run);
        break;
    case KVM_EXIT_MMIO:
        exit_mmio(vm, vcpu->run);
        break;
    case KVM_EXIT_INTR:
        break;
    case KVM_EXIT_SHUTDOWN:
        if (vm->test->expect_shutdown)
            printf("PASS end\n");
        else
            print_end(vcpu, "KVM_EXIT_SHUTDOWN");
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        snprintf(what, sizeof what, "KVM_EXIT_INTERNAL_ERROR %u", vcpu->run->internal.suberror);
        print_end(vcpu, what);
        return false;
    default:
        snprintf(what, sizeof what, "KVM exit reason %u", vcpu->run->exit_reason);
        print_end(vcpu, what);
        return false;
    }
    if (vm->done)
        printf("%s end%s\n", vm->test->expect_shutdown ? "FAIL" : "PASS",
               vm->test->expect_shutdown ? ": the guest went on instead of shutting down" : "");
    return !vm->done;
}

/* Runs until the test ends on this vCPU. */
static int vcpu_run(struct vcpu *vcpu)
{
    vcpu->thread = pthread_self();
    kicked_run = vcpu->run;
    for (;;) {
        nmi_deliver(vcpu);
        if (vm_ioctl(vcpu->vm, vcpu->fd, KVM_RUN, NULL) < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            return vm_fail("KVM_RUN");
        }
        pthread_mutex_lock(&vcpu->vm->devices);
        if (!vcpu_exit(vcpu))
            return 0; /* with the lock: nobody else may say anything */
        pthread_mutex_unlock(&vcpu->vm->devices);
    }
}

static void *vcpu_thread(void *opaque)
{
    int err = vcpu_run(opaque);
    fflush(stdout);
    _exit(err ? 1 : 0);
}

int vm_run_test(const struct vm_options *options, const struct guest_test *test)
{
    static struct vm vm;
    vm.backend = options->backend;
    vm.test = test;
    if (vm_make(&vm, test, options) < 0)
        return -1;
    for (unsigned i = 1; i < test->cpus; i++) {
        pthread_t thread;
        int err = pthread_create(&thread, NULL, vcpu_thread, &vm.vcpus[i]);
        if (err) {
            errno = err;
            return vm_fail("pthread_create");
        }
    }
    return vcpu_run(&vm.vcpus[0]);
}
