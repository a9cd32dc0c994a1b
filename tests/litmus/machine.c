/* SPDX-License-Identifier: MIT */
/*
 * Processors that call code in an arena: threads of this process, or vCPUs of one VM, each run by a
 * thread here. The guest has no kernel: 64-bit mode at CPL 0 with the arena in its page tables, and a loop at
 * each vCPU that calls what the words above its stack say and reports with OUT. An exception shuts it down.
 */
#include "litmus.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kage.h"

#define ARENA_VA    0x40000000ull /* in the guest; 2 MiB aligned */
#define ARENA_PAGES (ARENA_BYTES >> 12)
#define TABLES_GPA  ARENA_BYTES /* behind the arena: PML4, PDPT, PD, PTs */
#define PT_COUNT    (ARENA_PAGES / 512)
#define RAM_BYTES   (ARENA_BYTES + ((3 + PT_COUNT) << 12))
#define STACK_BYTES 4096u
#define REPORT_PORT 0x10

#define PTE_P 1ull
#define PTE_W 2ull

struct processor {
    struct machine *machine;
    pthread_t thread;
    unsigned index;
    int vcpu;
    struct kvm_run *run;
    uint64_t *mailbox; /* function, argument */
    uint64_t entry, arg;
    bool failed;
};

struct machine_impl {
    struct processor cpu[CPUS_MAX];
    pthread_mutex_t lock;
    pthread_cond_t go, done;
    unsigned generation, wanted, left;
    bool stop;
    /* guest */
    const struct kvm_backend *kvm;
    int sys, vm, memory;
    uint8_t *ram; /* in guest-physical order */
    size_t run_bytes;
};

/* ---- the arena ---- */

void *machine_alloc(struct machine *m, size_t bytes, size_t align)
{
    size_t at = (m->used + align - 1) & ~(align - 1);

    if (at + bytes > ARENA_BYTES)
        return NULL;
    m->used = at + bytes;
    return m->arena + at;
}

static int arena_host(struct machine *m)
{
    m->arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    m->va = (uint64_t)(uintptr_t)m->arena;
    return m->arena == MAP_FAILED ? -1 : 0;
}

/* The page of the guest's memory that page i of the arena is in. */
static size_t arena_frame(size_t i)
{
    return i ^ 1;
}

static int arena_guest(struct machine *m)
{
    struct machine_impl *impl = m->impl;

    impl->memory = memfd_create("litmus", MFD_CLOEXEC);
    if (impl->memory < 0 || ftruncate(impl->memory, RAM_BYTES))
        return -1;
    impl->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, impl->memory, 0);
    m->arena = mmap(NULL, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (impl->ram == MAP_FAILED || m->arena == MAP_FAILED)
        return -1;
    for (size_t i = 0; i < ARENA_PAGES; i++)
        if (mmap(m->arena + (i << 12), 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, impl->memory,
                 (off_t)(arena_frame(i) << 12)) == MAP_FAILED)
            return -1;
    m->va = ARENA_VA;
    return 0;
}

static void put64(struct machine_impl *impl, uint64_t gpa, uint64_t value)
{
    memcpy(impl->ram + gpa, &value, 8);
}

static void build_page_tables(struct machine_impl *impl)
{
    const uint64_t pml4 = TABLES_GPA, pdpt = pml4 + 0x1000, pd = pdpt + 0x1000, pt = pd + 0x1000;

    put64(impl, pml4, pdpt | PTE_P | PTE_W);
    put64(impl, pdpt + 8 * (ARENA_VA >> 30), pd | PTE_P | PTE_W);
    for (uint64_t i = 0; i < PT_COUNT; i++)
        put64(impl, pd + 8 * (((ARENA_VA >> 21) & 511) + i), (pt + (i << 12)) | PTE_P | PTE_W);
    for (uint64_t i = 0; i < ARENA_PAGES; i++)
        put64(impl, pt + 8 * i, arena_frame(i) << 12 | PTE_P | PTE_W);
}

/* ---- vCPUs ---- */

static int vcpu_init(struct machine *m, struct processor *p, uint64_t loop)
{
    struct machine_impl *impl = m->impl;
    const struct kvm_backend *kvm = impl->kvm;
    struct kvm_segment data = {.limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    const unsigned room = 256;
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rflags = 2, .rip = loop};
    uint8_t *stack = machine_alloc(m, STACK_BYTES, 4096);

    p->vcpu = kvm->ioctl(impl->vm, KVM_CREATE_VCPU, (void *)(uintptr_t)p->index);
    if (p->vcpu < 0 || !stack)
        return -1;
    p->run = kvm->mmap(NULL, impl->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    if (p->run == MAP_FAILED)
        return -1;
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + room * sizeof(cpuid->entries[0]));
    if (!cpuid)
        return -1;
    cpuid->nent = room;
    int err = kvm->ioctl(impl->sys, KVM_GET_SUPPORTED_CPUID, cpuid) || kvm->ioctl(p->vcpu, KVM_SET_CPUID2, cpuid);
    free(cpuid);
    p->mailbox = (uint64_t *)(void *)(stack + STACK_BYTES - 16);
    regs.rsp = machine_va(m, p->mailbox);
    if (err || kvm->ioctl(p->vcpu, KVM_GET_SREGS, &sregs))
        return -1;
    sregs.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
    sregs.cr3 = TABLES_GPA;
    sregs.cr4 = 0x6a0;  /* OSXMMEXCPT OSFXSR PGE PAE */
    sregs.efer = 0x500; /* LMA LME */
    sregs.gdt = sregs.idt = (struct kvm_dtable){0};
    sregs.cs =
        (struct kvm_segment){.selector = 8, .limit = 0xffffffff, .type = 11, .present = 1, .l = 1, .s = 1, .g = 1};
    sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = data;
    sregs.tr = (struct kvm_segment){.selector = 0x18, .limit = 0x67, .type = 11, .present = 1};
    sregs.ldt = (struct kvm_segment){.unusable = 1};
    return kvm->ioctl(p->vcpu, KVM_SET_SREGS, &sregs) || kvm->ioctl(p->vcpu, KVM_SET_REGS, &regs) ? -1 : 0;
}

int machine_mmu;

static int vm_init(struct machine *m)
{
    struct machine_impl *impl = m->impl;
    struct kvm_userspace_memory_region slot = {.memory_size = RAM_BYTES};
    struct emit e;

    impl->kvm = &kage_backend_soft;
    if ((impl->sys = impl->kvm->open()) < 0 || (impl->vm = impl->kvm->ioctl(impl->sys, KVM_CREATE_VM, NULL)) < 0 ||
        arena_guest(m))
        return -1;
    if (machine_mmu && kage_vm_set_mmu(impl->kvm, impl->vm, machine_mmu))
        return -1;
    if (m->mode->flags && impl->kvm->ioctl(impl->vm, KVM_KAGE_SET_TEST_FLAGS, (void *)(uintptr_t)m->mode->flags))
        return -1;
    build_page_tables(impl);
    slot.userspace_addr = (uintptr_t)impl->ram;
    int run_bytes = impl->kvm->ioctl(impl->sys, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (impl->kvm->ioctl(impl->vm, KVM_SET_USER_MEMORY_REGION, &slot) || run_bytes <= 0)
        return -1;
    impl->run_bytes = (size_t)run_bytes;

    e.start = e.at = machine_alloc(m, 64, 64);
    e.end = e.start + 64;
    EMIT(&e, 0x48, 0x8b, 0x04, 0x24);              /* mov rax, [rsp] */
    EMIT(&e, 0x48, 0x8b, 0x7c, 0x24, 0x08);        /* mov rdi, [rsp + 8] */
    EMIT(&e, 0xff, 0xd0);                          /* call rax */
    EMIT(&e, 0xe6, REPORT_PORT);                   /* out REPORT_PORT, al */
    EMIT(&e, 0xeb, (uint8_t)(e.start - e.at - 2)); /* jmp start */
    for (unsigned i = 0; i < CPUS_MAX; i++)
        if (vcpu_init(m, &impl->cpu[i], machine_va(m, e.start)))
            return -1;
    return 0;
}

/* Runs until the call has returned. */
static bool vcpu_call(struct processor *p)
{
    struct machine_impl *impl = p->machine->impl;
    int err;

    p->mailbox[0] = p->entry;
    p->mailbox[1] = p->arg;
    do
        err = impl->kvm->ioctl(p->vcpu, KVM_RUN, NULL);
    while (err && (errno == EINTR || errno == EAGAIN));
    if (!err && p->run->exit_reason == KVM_EXIT_IO && p->run->io.port == REPORT_PORT)
        return true;
    char buffer[sizeof(struct kage_text) + 256] __attribute__((aligned(8))) = {0};
    struct kage_text *text = (struct kage_text *)buffer;
    struct kvm_regs regs = {0};
    text->bytes = 255;
    (void)impl->kvm->ioctl(p->vcpu, KAGE_GET_ERROR, text);
    (void)impl->kvm->ioctl(p->vcpu, KVM_GET_REGS, &regs);
    fprintf(stderr, "litmus: %s: vCPU %u ends with %s %d at %#llx %s\n", running, p->index,
            err ? "errno" : "exit reason", err ? errno : (int)p->run->exit_reason, regs.rip, text->text);
    return false;
}

/* ---- threads ---- */

static void host_call(uint64_t entry, uint64_t arg)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
                     "push %%rbx; push %%rbp; push %%r12; push %%r13; push %%r14; push %%r15\n\t"
                     "call *%%rax\n\t"
                     "pop %%r15; pop %%r14; pop %%r13; pop %%r12; pop %%rbp; pop %%rbx\n\t"
                     "lea 128(%%rsp), %%rsp"
                     : "+a"(entry), "+D"(arg)
                     :
                     : "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "memory", "cc");
}

/* RSP may point anywhere in the called code: on a stack of its own, out of the red zone, with all signals blocked. */
static void *processor_main(void *opaque)
{
    struct processor *p = opaque;
    struct machine_impl *impl = p->machine->impl;

    for (unsigned seen = 0;;) {
        pthread_mutex_lock(&impl->lock);
        while (!impl->stop && (impl->generation == seen || p->index >= impl->wanted)) {
            seen = impl->generation;
            pthread_cond_wait(&impl->go, &impl->lock);
        }
        seen = impl->generation;
        bool stop = impl->stop;
        pthread_mutex_unlock(&impl->lock);
        if (stop)
            return NULL;
        if (p->machine->mode->guest)
            p->failed = !vcpu_call(p);
        else
            host_call(p->entry, p->arg);
        pthread_mutex_lock(&impl->lock);
        if (--impl->left == 0)
            pthread_cond_signal(&impl->done);
        pthread_mutex_unlock(&impl->lock);
    }
}

int machine_run(struct machine *m, unsigned cpus, const uint64_t entry[], const uint64_t arg[])
{
    struct machine_impl *impl = m->impl;
    bool failed = false;

    pthread_mutex_lock(&impl->lock);
    for (unsigned i = 0; i < cpus; i++) {
        impl->cpu[i].entry = entry[i];
        impl->cpu[i].arg = arg[i];
    }
    impl->wanted = impl->left = cpus;
    impl->generation++;
    pthread_cond_broadcast(&impl->go);
    while (impl->left)
        pthread_cond_wait(&impl->done, &impl->lock);
    pthread_mutex_unlock(&impl->lock);
    for (unsigned i = 0; i < cpus; i++)
        failed |= impl->cpu[i].failed;
    return failed ? -1 : 0;
}

/* Each on a core of its own as far as there are cores: the scheduler would wake them all where the waker is. */
static void spread(struct machine_impl *impl)
{
    cpu_set_t here, one;
    unsigned next = 0;

    if (sched_getaffinity(0, sizeof(here), &here) || !CPU_COUNT(&here))
        return;
    for (unsigned i = 0; i < CPUS_MAX; i++) {
        while (!CPU_ISSET(next, &here))
            next = (next + 1) % CPU_SETSIZE;
        CPU_ZERO(&one);
        CPU_SET(next, &one);
        (void)pthread_setaffinity_np(impl->cpu[i].thread, sizeof(one), &one);
        next = (next + 1) % CPU_SETSIZE;
    }
}

int machine_init(struct machine *m, const struct machine_mode *mode)
{
    sigset_t all, before;

    *m = (struct machine){.mode = mode};
    m->impl = calloc(1, sizeof(*m->impl));
    if (!m->impl)
        return -1;
    pthread_mutex_init(&m->impl->lock, NULL);
    pthread_cond_init(&m->impl->go, NULL);
    pthread_cond_init(&m->impl->done, NULL);
    for (unsigned i = 0; i < CPUS_MAX; i++)
        m->impl->cpu[i] = (struct processor){.machine = m, .index = i};
    if (mode->guest ? vm_init(m) : arena_host(m)) {
        fprintf(stderr, "litmus: %s: cannot make the machine: %s\n", mode->name, strerror(errno));
        return -1;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < CPUS_MAX; i++)
        if (pthread_create(&m->impl->cpu[i].thread, NULL, processor_main, &m->impl->cpu[i]))
            return -1;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    spread(m->impl);
    return 0;
}

void machine_fini(struct machine *m)
{
    struct machine_impl *impl = m->impl;

    pthread_mutex_lock(&impl->lock);
    impl->stop = true;
    pthread_cond_broadcast(&impl->go);
    pthread_mutex_unlock(&impl->lock);
    for (unsigned i = 0; i < CPUS_MAX; i++) {
        pthread_join(impl->cpu[i].thread, NULL);
        if (m->mode->guest) {
            impl->kvm->munmap(impl->cpu[i].run, impl->run_bytes);
            impl->kvm->close(impl->cpu[i].vcpu);
        }
    }
    if (m->mode->guest) {
        impl->kvm->close(impl->vm);
        impl->kvm->close(impl->sys);
        munmap(impl->ram, RAM_BYTES);
        close(impl->memory);
    }
    munmap(m->arena, ARENA_BYTES);
    free(m->order);
    free(impl);
}
