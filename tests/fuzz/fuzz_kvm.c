/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer harness of the KVM API on libkage: the input is a program of operations on up to two VMs of four vCPUs: ioctls of every kind with
 * hostile arguments, guest code of the input's that runs for moments, writes into guest memory and into struct kvm_run, memory that goes
 * away and comes back, handles that are closed. A client's mistake must be an errno: a signal, a sanitizer's report or a hang is a
 * bug. tests/fuzz-smoke.sh builds and runs this; FUZZ_KVM_SEEDS=DIR writes seeds there and ends.
 */
#include "fuzz_kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../kvm/requests.h"

#define OPERATIONS_MAX 64u
#define RUN_NS 1000000 /* a KVM_RUN is kicked this often */
#define RUNS_MAX 12u
#define GPA_CODE 0x8000u

enum operation {
    OP_IOCTL, OP_IOCTL_ANY_HANDLE, OP_RUN, OP_WRITE_GUEST, OP_WRITE_RUN, OP_NEW_VM, OP_NEW_VCPU, OP_CHIPS, OP_START, OP_MEMORY, OP_EVENT,
    OP_CLOSE, OP_MAP, OP_IOCTL_RAW, OP_INSPECT, OP_COUNT
};

static struct world world;
static timer_t timer;
static unsigned runs;

/* ---- input ---- */

uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t value = 0;

    take_into(in, &value, bytes);
    return value;
}

void take_into(struct input *in, void *to, size_t bytes)
{
    size_t have = bytes < in->left ? bytes : in->left;

    memset(to, 0, bytes);
    memcpy(to, in->at, have);
    in->at += have;
    in->left -= have;
}

uint64_t take_number(struct input *in)
{
    uint8_t kind = take8(in);
    uint64_t bit = 1ull << (kind % 64);

    switch (kind >> 6) {
    case 0:
        return take8(in);
    case 1:
        return bit - (take8(in) & 1);
    case 2:
        return bit * (1 + take8(in));
    default:
        return take(in, 8);
    }
}

/* ---- the world ---- */

/* FUZZ_KVM_TRACE in the environment says what an input does. */
static int call(int handle, unsigned long request, void *arg)
{
    static int trace = -1;

    if (trace < 0)
        trace = getenv("FUZZ_KVM_TRACE") != NULL;
    if (trace)
        for (size_t i = 0; i < KVM_REQUEST_COUNT; i++)
            if (kvm_requests[i].request == (uint32_t)request)
                fprintf(stderr, "%d %s %p", handle, kvm_requests[i].name, arg);
    int result = kage_backend_soft.ioctl(handle, request, arg);
    if (trace)
        fprintf(stderr, " = %d\n", result < 0 ? -errno : result);
    return result;
}

static void on_timer(int sig)
{
    (void)sig;
}

static uint8_t *guarded(size_t bytes)
{
    uint8_t *space = mmap(NULL, bytes + 2 * 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (space == MAP_FAILED || mprotect(space + 65536, bytes, PROT_READ | PROT_WRITE) != 0)
        abort();
    return space + 65536;
}

static void arena_reset(void)
{
    if (mmap(world.arena, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != world.arena)
        abort();
    kage_memory_changed(world.arena, ARENA_BYTES);
}

static void world_init(void)
{
    struct sigaction action = { .sa_handler = on_timer };
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1 };

    world.timer_signal = event.sigev_signo;
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    if (sigaction(event.sigev_signo, &action, NULL) != 0 || timer_create(CLOCK_MONOTONIC, &event, &timer) != 0)
        abort();
    world.system = kage_backend_soft.open();
    world.run_bytes = (size_t)call(world.system, KVM_GET_VCPU_MMAP_SIZE, NULL);
    world.arena = guarded(ARENA_BYTES);
    world.argument = guarded(ARGUMENT_BYTES);
    world.scratch = guarded(ARGUMENT_BYTES);
    world.read_only = guarded(65536);
    mprotect(world.read_only, 65536, PROT_READ);
    for (unsigned i = 0; i < FDS_MAX; i++)
        world.eventfd[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static void vm_new(void)
{
    if (world.vms == VMS_MAX)
        return;
    int fd = call(world.system, KVM_CREATE_VM, NULL);
    if (fd >= 0)
        world.vm[world.vms++] = (struct vm){ .fd = fd };
}

static struct vm *any_vm(struct input *in)
{
    if (!world.vms)
        vm_new();
    return world.vms ? &world.vm[take8(in) % world.vms] : NULL;
}

static void vcpu_new(struct vm *vm, uintptr_t id)
{
    if (vm->vcpus == VCPUS_MAX)
        return;
    int fd = call(vm->fd, KVM_CREATE_VCPU, (void *)id);
    if (fd < 0)
        return;
    struct kvm_run *run = kage_backend_soft.mmap(NULL, world.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (run == MAP_FAILED)
        abort();
    vm->vcpu[vm->vcpus++] = (struct vcpu){ fd, run };
}

static struct vcpu *any_vcpu(struct input *in)
{
    struct vm *vm = any_vm(in);

    if (vm && !vm->vcpus)
        vcpu_new(vm, 0);
    return vm && vm->vcpus ? &vm->vcpu[take8(in) % vm->vcpus] : NULL;
}

static void vcpu_close(struct vcpu *vcpu)
{
    kage_backend_soft.munmap(vcpu->run, world.run_bytes);
    kage_backend_soft.close(vcpu->fd);
}

static void vm_close(struct vm *vm, bool vcpus_first)
{
    if (!vcpus_first)
        kage_backend_soft.close(vm->fd);
    for (unsigned i = 0; i < vm->vcpus; i++)
        vcpu_close(&vm->vcpu[i]);
    if (vcpus_first)
        kage_backend_soft.close(vm->fd);
}

/* ---- operations ---- */

static void run(struct vcpu *vcpu)
{
    struct itimerspec often = { { 0, RUN_NS }, { 0, RUN_NS } }, never = { { 0, 0 }, { 0, 0 } };

    if (runs++ >= RUNS_MAX)
        return;
    timer_settime(timer, 0, &often, NULL);
    call(vcpu->fd, KVM_RUN, NULL);
    timer_settime(timer, 0, &never, NULL);
}

/* New handles are the world's, or closed. */
static void take_result(struct vm *vm, uint32_t request, int result)
{
    if (result < 0 || (request != KVM_CREATE_VM && request != KVM_CREATE_VCPU && request != KVM_GET_STATS_FD))
        return;
    if (request == KVM_CREATE_VM && world.vms < VMS_MAX) {
        world.vm[world.vms++] = (struct vm){ .fd = result };
    } else if (request == KVM_CREATE_VCPU && vm && vm->vcpus < VCPUS_MAX) {
        struct kvm_run *map = kage_backend_soft.mmap(NULL, world.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, result, 0);
        vm->vcpu[vm->vcpus++] = (struct vcpu){ result, map };
    } else if (request == KVM_GET_STATS_FD) {
        uint8_t buffer[512];
        while (read(result, buffer, sizeof(buffer)) > 0)
            ;
        close(result);
    } else {
        kage_backend_soft.close(result);
    }
}

static void op_ioctl(struct input *in, bool any_handle)
{
    unsigned row = take8(in) % KVM_REQUEST_COUNT;
    const struct kvm_request *request = &kvm_requests[row];
    struct vm *vm = any_vm(in);
    struct vcpu *vcpu = any_vcpu(in);

    if (!vm || !vcpu || request->request == KVM_RUN)
        return;
    unsigned kinds = any_handle ? 1u << take8(in) % 3 : request->handles;
    unsigned choice = take8(in);
    int handle = (kinds & ON_VCPU) && (!(kinds & ~ON_VCPU) || choice & 1) ? vcpu->fd : kinds & ON_VM ? vm->fd : world.system;
    void *arg = argument_make(&world, in, handle, row);
    take_result(handle == vm->fd ? vm : NULL, request->request, call(handle, request->request, arg));
}

/* A request that the table does not have. */
static void op_ioctl_raw(struct input *in)
{
    struct vcpu *vcpu = any_vcpu(in);
    uint32_t request = take32(in);

    for (size_t i = 0; i < KVM_REQUEST_COUNT; i++)
        if (kvm_requests[i].request == request)
            return;
    if (vcpu && request != KVM_KAGE_SET_TEST_FLAGS)
        call(take8(in) & 1 ? vcpu->fd : world.vm[0].fd, request, pointer_make(&world, in));
}

static void op_write_guest(struct input *in)
{
    uint8_t code[64];
    size_t at = take(in, 2) % (ARENA_BYTES - sizeof(code)), bytes = take8(in) % sizeof(code);

    if (take8(in) & 1)
        at = GPA_CODE + at % 4096;
    take_into(in, code, bytes);
    /* The page may not be there: written as a client's read(2) would be. */
    int zero[2];
    if (pipe(zero) != 0)
        return;
    if (write(zero[1], code, bytes) == (ssize_t)bytes) {
        kage_memory_begin_write(world.arena + at, bytes);
        if (read(zero[0], world.arena + at, bytes) < 0)
            errno = 0;
        kage_memory_end_write(world.arena + at, bytes);
    }
    close(zero[0]);
    close(zero[1]);
}

static void op_write_run(struct input *in)
{
    struct vcpu *vcpu = any_vcpu(in);
    uint8_t bytes[16];
    size_t at = take(in, 2), count = take8(in) % sizeof(bytes);

    if (!vcpu)
        return;
    take_into(in, bytes, count);
    memcpy((uint8_t *)vcpu->run + at % (world.run_bytes - sizeof(bytes)), bytes, count);
}

static void op_chips(struct input *in)
{
    struct vm *vm = any_vm(in);
    struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
    struct kvm_pit_config pit = { 0 };

    if (!vm)
        return;
    if (take8(in) & 1) {
        call(vm->fd, KVM_ENABLE_CAP, &split);
    } else {
        call(vm->fd, KVM_CREATE_IRQCHIP, NULL);
        call(vm->fd, KVM_CREATE_PIT2, &pit);
    }
}

static struct kvm_segment flat(uint8_t type, bool wide)
{
    return (struct kvm_segment){ .limit = UINT32_MAX, .selector = 8, .type = type, .present = 1, .db = !wide, .s = 1, .l = wide, .g = 1 };
}

/* RAM at 0, the input's code at GPA_CODE, and the vCPU before it in 64-bit, 32-bit or real mode. */
static void op_start(struct input *in)
{
    struct vm *vm = any_vm(in);
    struct vcpu *vcpu = any_vcpu(in);
    struct kvm_userspace_memory_region ram = { .slot = 7, .memory_size = ARENA_BYTES, .userspace_addr = (uintptr_t)world.arena };
    struct kvm_regs regs = { .rip = GPA_CODE, .rsp = 0x7000, .rflags = 2, .rsi = 0x10000, .rdi = 0xd0000000u, .rdx = 0x1000 };
    struct kvm_sregs sregs;
    uint8_t mode = take8(in) % 3, code[96];

    if (!vm || !vcpu || call(vcpu->fd, KVM_GET_SREGS, &sregs) != 0)
        return;
    arena_reset();
    call(vm->fd, KVM_SET_USER_MEMORY_REGION, &ram);
    uint64_t *tables = (uint64_t *)(void *)world.arena;
    tables[0x1000 / 8] = 0x2003;
    tables[0x2000 / 8] = 0x3003;
    tables[0x2018 / 8] = 0x4003;
    for (uint64_t i = 0; i < 512; i++) {
        tables[0x3000 / 8 + i] = i << 21 | 0x83;
        tables[0x4000 / 8 + i] = (0xc0000000u + (i << 21)) | 0x83;
    }
    take_into(in, code, take8(in) % sizeof(code));
    memcpy(world.arena + GPA_CODE, code, sizeof(code));
    if (mode < 2) {
        sregs.cs = flat(11, mode == 0);
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(3, false);
        sregs.cr0 = mode == 0 ? 0x80010033u : 0x33;
        sregs.cr3 = 0x1000;
        sregs.cr4 = mode == 0 ? 0x620 : 0x600;
        sregs.efer = mode == 0 ? 0x500 : 0;
    } else {
        sregs.cs.base = sregs.cs.selector = 0;
    }
    call(vcpu->fd, KVM_SET_SREGS, &sregs);
    call(vcpu->fd, KVM_SET_REGS, &regs);
    run(vcpu);
}

static void op_memory(struct input *in)
{
    uint8_t *at = world.arena + take(in, 2) % (ARENA_BYTES / PAGE) * PAGE;
    size_t bytes = (size_t)(1 + take8(in) % 8) * PAGE;

    if (bytes > (size_t)(world.arena + ARENA_BYTES - at))
        bytes = (size_t)(world.arena + ARENA_BYTES - at);
    switch (take8(in) % 6) {
    case 0:
        munmap(at, bytes);
        break;
    case 1:
        madvise(at, bytes, MADV_DONTNEED);
        break;
    case 2:
        mprotect(at, bytes, PROT_NONE);
        break;
    case 3:
        mprotect(at, bytes, PROT_READ);
        break;
    default:
        arena_reset();
        break;
    }
    if (take8(in) & 1)
        kage_memory_changed(at, bytes);
}

static void op_close(struct input *in)
{
    struct vm *vm = any_vm(in);

    if (!vm)
        return;
    if (vm->vcpus && take8(in) & 1) {
        vcpu_close(&vm->vcpu[--vm->vcpus]);
    } else {
        vm_close(vm, take8(in) & 1);
        *vm = world.vm[--world.vms];
    }
}

static void op_map(struct input *in)
{
    struct vcpu *vcpu = any_vcpu(in);
    size_t bytes = (size_t)(1 + take8(in) % 80) * PAGE;

    if (!vcpu)
        return;
    void *map = kage_backend_soft.mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, take8(in) & 7 ? vcpu->fd : world.vm[0].fd,
                                       (off_t)(take8(in) % 80) * PAGE);
    if (map != MAP_FAILED)
        kage_backend_soft.munmap(map, bytes);
}

/* A look into a VM, by its handle or by number; one that must be answered fills what it says it fills. */
static void op_inspect(struct input *in)
{
    static uint8_t answer[1 << 16];
    struct vm *vm = any_vm(in);
    struct kage_inspect ask = { .topic = take8(in) % (KAGE_INSPECT_TOPICS + 1), .vm = take8(in) % 4, .vcpu = take8(in) % 4,
                                .flags = take8(in) % 4, .address = take_number(in), .bytes = (uint32_t)take_number(in) };
    bool sound = take8(in) & 7;

    ask.vcpu = ask.vcpu == 3 ? KAGE_INSPECT_WHOLE_VM : ask.vcpu;
    if (sound && ask.bytes > sizeof(answer))
        ask.bytes = sizeof(answer);
    ask.data = sound ? (uintptr_t)answer : (uintptr_t)pointer_make(&world, in);
    uint32_t room = ask.bytes;
    int result = take8(in) & 1 ? kage_inspect(&ask) : vm ? call(vm->fd, KAGE_INSPECT, &ask) : -1;
    if (result == 0 && ask.bytes > room)
        abort();
}

static void operate(struct input *in)
{
    struct vcpu *vcpu;
    struct vm *vm;
    const uint64_t one = 1;

    switch ((enum operation)(take8(in) % OP_COUNT)) {
    case OP_IOCTL: op_ioctl(in, false); break;
    case OP_IOCTL_ANY_HANDLE: op_ioctl(in, true); break;
    case OP_RUN:
        if ((vcpu = any_vcpu(in)))
            run(vcpu);
        break;
    case OP_WRITE_GUEST: op_write_guest(in); break;
    case OP_WRITE_RUN: op_write_run(in); break;
    case OP_NEW_VM: vm_new(); break;
    case OP_NEW_VCPU:
        if ((vm = any_vm(in)))
            vcpu_new(vm, take8(in) % 8);
        break;
    case OP_CHIPS: op_chips(in); break;
    case OP_START: op_start(in); break;
    case OP_MEMORY: op_memory(in); break;
    case OP_EVENT:
        if (write(world.eventfd[take8(in) % FDS_MAX], &one, sizeof(one)) < 0)
            errno = 0;
        break;
    case OP_CLOSE: op_close(in); break;
    case OP_MAP: op_map(in); break;
    case OP_IOCTL_RAW: op_ioctl_raw(in); break;
    case OP_INSPECT: op_inspect(in); break;
    default: break;
    }
}

/* ---- seeds ---- */

static void write_seed(const char *dir, const char *name, const uint8_t *bytes, size_t count)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/seed-%s", dir, name);
    FILE *file = fopen(path, "w");
    if (!file || fwrite(bytes, 1, count, file) != count || fclose(file) != 0)
        exit(1);
}

#define SEED(dir, name, ...) write_seed(dir, name, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))
#define CODE(...) (uint8_t)sizeof((const uint8_t[]){ __VA_ARGS__ }), __VA_ARGS__

static void write_seeds(const char *dir)
{
    char name[64];

    for (uint8_t i = 0; i < KVM_REQUEST_COUNT; i++) { /* each request, with and without chips, then a run */
        snprintf(name, sizeof(name), "request-%u", i);
        SEED(dir, name, OP_NEW_VM, OP_NEW_VCPU, 0, 0, OP_IOCTL, i, 0, 0, 0, 0, 0, OP_RUN, 0, 0);
        snprintf(name, sizeof(name), "chips-%u", i);
        SEED(dir, name, OP_NEW_VM, OP_CHIPS, 0, 0, OP_NEW_VCPU, 0, 0, OP_IOCTL, i, 0, 0, 0, 1, 1, 2, 3, OP_RUN, 0, 0);
    }
    /* OUT, IN, MMIO both ways, HLT; 64-bit and real mode */
    SEED(dir, "exits", OP_START, 0, 0, 0, 0, 0, CODE(0xe6, 0x80, 0xe4, 0x81, 0x88, 0x07, 0x8a, 0x07, 0xf4), OP_RUN, 0, 0, OP_RUN, 0, 0,
         OP_RUN, 0, 0, OP_RUN, 0, 0);
    SEED(dir, "real", OP_START, 0, 0, 0, 2, CODE(0xb0, 0x11, 0xe6, 0x20, 0xec, 0xf3, 0x6e, 0xcd, 0x10, 0xf4), OP_RUN, 0, 0, OP_RUN, 0, 0);
    for (uint8_t topic = 0; topic < KAGE_INSPECT_TOPICS; topic++) { /* of a guest that has run */
        snprintf(name, sizeof(name), "inspect-%u", topic);
        SEED(dir, name, OP_START, 0, 0, 0, 0, 0, CODE(0xe6, 0x80, 0xf4), OP_INSPECT, 0, topic, 0, 0, 0, 0, 0x80, 2, 0xff, 1, 0);
    }
    /* a loop, with chips: MSR, CPUID, STI */
    SEED(dir, "loop", OP_CHIPS, 0, 0, OP_START, 0, 0, 0, 0, CODE(0x0f, 0xa2, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0xfb, 0xeb, 0xf6),
         OP_EVENT, 0, OP_RUN, 0, 0);
    /* code that writes itself */
    SEED(dir, "self", OP_START, 0, 0, 0, 0, CODE(0xfe, 0x05, 0xfa, 0xff, 0xff, 0xff, 0xeb, 0xf8), OP_WRITE_GUEST, 0, 0, 4, 1, 0x90,
         0x90, 0x90, 0xf4, OP_RUN, 0, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = { data, size };
    const char *seeds = getenv("FUZZ_KVM_SEEDS");

    if (seeds) {
        write_seeds(seeds);
        _exit(0);
    }
    if (!world.arena)
        world_init();
    runs = 0;
    for (unsigned i = 0; i < OPERATIONS_MAX && in.left; i++)
        operate(&in);
    while (world.vms)
        vm_close(&world.vm[--world.vms], size & 1);
    arena_reset();
    for (unsigned i = 0; i < FDS_MAX; i++) {
        uint64_t count;
        if (read(world.eventfd[i], &count, sizeof(count)) < 0)
            errno = 0;
    }
    return 0;
}
