/* SPDX-License-Identifier: MIT */
/*
 * The vCPU thread. A stop, or a park, is a flag, immediate_exit and a signal: the flag for a thread that is not in
 * KVM_RUN, immediate_exit for one that is about to enter it, the signal for one that is in it.
 */
#include "vcpu/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "util/log.h"

#define VCPU_KICK_SIGNAL SIGUSR1

static void vcpu_kick_handler(int number)
{
    (void)number; /* its delivery is what counts: KVM_RUN returns */
}

int vcpu_init(struct vcpu *vcpu, const struct vcpu_config *config, struct error *error)
{
    *vcpu = (struct vcpu){.backend = config->backend, .fd = -1, .pio = config->pio, .mmio = config->mmio, .power = config->power, .gate = config->gate};
    atomic_init(&vcpu->stopping, false);
    atomic_init(&vcpu->parking, false);
    const struct kvm_backend *backend = config->backend;
    int bytes = backend->ioctl(config->system_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (bytes < (int)sizeof(struct kvm_run)) {
        return error_set(error, "-accel %s: KVM_GET_VCPU_MMAP_SIZE: %s", backend->name, bytes < 0 ? strerror(errno) : "too small");
    }
    uint32_t apic_id = topology_apic_id(config->topology, config->index); /* a vCPU's id is its APIC id (api.rst 4.7) */
    vcpu->fd = backend->ioctl(config->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)apic_id);
    if (vcpu->fd < 0) {
        return error_set(error, "-accel %s: cannot make processor %u: %s", backend->name, config->index, strerror(errno));
    }
    vcpu->run_bytes = (size_t)bytes;
    void *run = backend->mmap(NULL, vcpu->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED) {
        error_set(error, "-accel %s: cannot map a processor: %s", backend->name, strerror(errno));
        vcpu_fini(vcpu);
        return -1;
    }
    vcpu->run = run;
    if (cpuid_set(backend, config->system_fd, vcpu->fd, apic_id, config->topology, config->model, error) != 0) {
        vcpu_fini(vcpu);
        return -1;
    }
    return 0;
}

void vcpu_fini(struct vcpu *vcpu)
{
    if (vcpu->run != NULL) {
        vcpu->backend->munmap(vcpu->run, vcpu->run_bytes);
        vcpu->run = NULL;
    }
    if (vcpu->fd >= 0) {
        vcpu->backend->close(vcpu->fd);
        vcpu->fd = -1;
    }
}

/* ---- The gate ---- */

void vcpu_gate_init(struct vcpu_gate *gate, int event_fd)
{
    *gate = (struct vcpu_gate){.event_fd = event_fd};
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->opened, NULL);
}

void vcpu_gate_fini(struct vcpu_gate *gate)
{
    pthread_cond_destroy(&gate->opened);
    pthread_mutex_destroy(&gate->lock);
}

/* A request to stop goes before: whoever makes it takes the lock afterwards (vcpu_stop()) to wake us. */
static void vcpu_park(struct vcpu *vcpu)
{
    struct vcpu_gate *gate = vcpu->gate;
    pthread_mutex_lock(&gate->lock);
    gate->parked++;
    eventfd_write(gate->event_fd, 1);
    while (atomic_load(&vcpu->parking) && !atomic_load(&vcpu->stopping)) {
        pthread_cond_wait(&gate->opened, &gate->lock);
    }
    gate->parked--;
    pthread_mutex_unlock(&gate->lock);
}

/* Its own immediate_exit is over; one that a stop sets after this store is seen by KVM_RUN, one before it by the look at `stopping`. */
static void vcpu_unpark(struct vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

void vcpu_request_park(struct vcpu *vcpu)
{
    atomic_store(&vcpu->parking, true);
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (vcpu->started) {
        pthread_kill(vcpu->thread, VCPU_KICK_SIGNAL);
    }
}

void vcpu_gate_open(struct vcpu_gate *gate, struct vcpu *vcpus, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        atomic_store(&vcpus[i].parking, false);
    }
    pthread_cond_broadcast(&gate->opened);
}

/* ---- The thread ---- */

static void *vcpu_thread(void *opaque)
{
    struct vcpu *vcpu = opaque;
    enum vcpu_next next = VCPU_GO_ON;
    while (next == VCPU_GO_ON && !atomic_load(&vcpu->stopping)) {
        if (atomic_load(&vcpu->parking)) {
            vcpu_park(vcpu);
            vcpu_unpark(vcpu);
            continue;
        }
        int result = vcpu->backend->ioctl(vcpu->fd, KVM_RUN, NULL);
        if (result == 0) {
            next = vcpu_handle_exit(vcpu);
        } else if (errno != EINTR && errno != EAGAIN) {
            error_set(&vcpu->error, "-accel %s: KVM_RUN: %s", vcpu->backend->name, strerror(errno));
            next = VCPU_STOP;
        }
    }
    if (next == VCPU_STOP) {
        power_request(&vcpu->power, POWER_ERROR, 1);
    }
    return NULL;
}

int vcpu_start(struct vcpu *vcpu, struct error *error)
{
    struct sigaction kick = {.sa_handler = vcpu_kick_handler};
    sigemptyset(&kick.sa_mask);
    sigaction(VCPU_KICK_SIGNAL, &kick, NULL);

    /* The thread takes the kick and the signals of its own faults; all others are the main thread's. */
    static const int taken[] = {VCPU_KICK_SIGNAL, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t blocked;
    sigset_t before;
    sigfillset(&blocked);
    for (unsigned i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        sigdelset(&blocked, taken[i]);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int result = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result != 0) {
        return error_set(error, "cannot start a processor's thread: %s", strerror(result));
    }
    vcpu->started = true;
    return 0;
}

void vcpu_request_stop(struct vcpu *vcpu)
{
    atomic_store(&vcpu->stopping, true);
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

void vcpu_stop(struct vcpu *vcpu)
{
    if (vcpu->started) {
        vcpu_request_stop(vcpu);
        pthread_mutex_lock(&vcpu->gate->lock);
        pthread_cond_broadcast(&vcpu->gate->opened);
        pthread_mutex_unlock(&vcpu->gate->lock);
        pthread_kill(vcpu->thread, VCPU_KICK_SIGNAL);
        pthread_join(vcpu->thread, NULL);
        vcpu->started = false;
    }
}

void vcpu_log_registers(const struct vcpu *vcpu)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    if (!log_on(LOG_RESET) || vcpu->fd < 0 || vcpu->backend->ioctl(vcpu->fd, KVM_GET_REGS, &regs) != 0 ||
        vcpu->backend->ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) != 0) {
        return;
    }
    const struct {
        const char *names[4];
        uint64_t values[4];
    } rows[] = {
        {{"RAX", "RBX", "RCX", "RDX"}, {regs.rax, regs.rbx, regs.rcx, regs.rdx}},
        {{"RSI", "RDI", "RBP", "RSP"}, {regs.rsi, regs.rdi, regs.rbp, regs.rsp}},
        {{"R8 ", "R9 ", "R10", "R11"}, {regs.r8, regs.r9, regs.r10, regs.r11}},
        {{"R12", "R13", "R14", "R15"}, {regs.r12, regs.r13, regs.r14, regs.r15}},
        {{"RIP", "RFL", "EFE", "CR8"}, {regs.rip, regs.rflags, sregs.efer, sregs.cr8}},
        {{"CR0", "CR2", "CR3", "CR4"}, {sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4}},
        {{"GDT", "IDT", "FSB", "GSB"}, {sregs.gdt.base, sregs.idt.base, sregs.fs.base, sregs.gs.base}},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        log_line(LOG_RESET, "%s=%016" PRIx64 " %s=%016" PRIx64 " %s=%016" PRIx64 " %s=%016" PRIx64, rows[i].names[0], rows[i].values[0],
                 rows[i].names[1], rows[i].values[1], rows[i].names[2], rows[i].values[2], rows[i].names[3], rows[i].values[3]);
    }
    log_line(LOG_RESET, "CS=%04x SS=%04x DS=%04x ES=%04x FS=%04x GS=%04x TR=%04x LDT=%04x CPL=%u L=%u", sregs.cs.selector, sregs.ss.selector,
             sregs.ds.selector, sregs.es.selector, sregs.fs.selector, sregs.gs.selector, sregs.tr.selector, sregs.ldt.selector, sregs.cs.dpl,
             sregs.cs.l);
}

void vcpu_log_exits(const struct vcpu *vcpu)
{
    for (unsigned i = 0; i < VCPU_EXIT_REASONS; i++) {
        if (vcpu->exits[i] != 0) {
            log_line(LOG_EXITS, "%-16s %" PRIu64, vcpu_exit_name(i), vcpu->exits[i]);
        }
    }
}
