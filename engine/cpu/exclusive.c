/* SPDX-License-Identifier: MIT */
/*
 * Stopping every vCPU of a VM at a safe point outside translated code, for what must be done while none of them runs. run.c
 * has the other side: where a vCPU waits.
 */
#include "cpu/code_cache.h"
#include "cpu/run.h"
#include "cpu/sys.h"
#include "mmu/mmu.h"

void cpu_flush_if_asked(struct cpu *cpu)
{
    if (atomic_load_explicit(&cpu->pending, memory_order_acquire) & CPU_REQ_TLB_FLUSH) {
        atomic_fetch_and(&cpu->pending, ~CPU_REQ_TLB_FLUSH);
        uint64_t asked = atomic_load(&cpu->flush_asked); /* one that comes now sets the bit again */
        mmu_flush_all(cpu);
        atomic_store(&cpu->flush_done, asked);
    }
}

void cpu_ask_flush(struct cpu *cpu, uint64_t ticket)
{
    atomic_store(&cpu->flush_asked, ticket);
    cpu_request(cpu, CPU_REQ_TLB_FLUSH);
}

/* Outside of guest mode it has the flush before it; who has the VM to himself is in the middle of an instruction all the same. */
bool cpu_has_flushed(struct cpu *cpu, uint64_t ticket)
{
    struct cpu_vm *vm = cpu->vm;

    if (atomic_load(&cpu->flush_done) >= ticket) {
        return true;
    }
    pthread_mutex_lock(&vm->sync_lock);
    bool outside = !cpu->in_guest && vm->exclusive_owner != cpu;
    pthread_mutex_unlock(&vm->sync_lock);
    return outside;
}

void cpu_vm_exclusive_begin(struct cpu_vm *vm, struct cpu *self)
{
    bool self_in_guest = self != NULL && self->in_guest;

    if (self != NULL) {
        cpu_fpu_save(self);
    }
    pthread_mutex_lock(&vm->sync_lock);
    if (self_in_guest) {
        self->in_guest = 0; /* whoever is exclusive now need not wait for us */
        pthread_cond_broadcast(&vm->sync_cond);
    }
    while (vm->exclusive) {
        pthread_cond_wait(&vm->sync_cond, &vm->sync_lock);
    }
    vm->exclusive = true;
    vm->exclusive_owner = self;
    vm->exclusive_from_guest = self_in_guest;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        if (vm->cpus[i] != self) {
            cpu_request(vm->cpus[i], CPU_REQ_SYNC);
        }
    }
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        while (vm->cpus[i] != self && vm->cpus[i]->in_guest) {
            pthread_cond_wait(&vm->sync_cond, &vm->sync_lock);
        }
    }
    pthread_mutex_unlock(&vm->sync_lock);
    if (self_in_guest) {
        cpu_flush_if_asked(self); /* whoever was exclusive before may have taken memory away */
    }
}

void cpu_vm_exclusive_end(struct cpu_vm *vm, struct cpu *self)
{
    pthread_mutex_lock(&vm->sync_lock);
    vm->exclusive = false;
    vm->exclusive_owner = NULL;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        if (vm->cpus[i] != self) {
            atomic_fetch_and(&vm->cpus[i]->pending, ~CPU_REQ_SYNC);
        }
    }
    if (vm->exclusive_from_guest) {
        self->in_guest = 1;
    }
    pthread_cond_broadcast(&vm->sync_cond);
    pthread_mutex_unlock(&vm->sync_lock);
}

void cpu_vm_exclusive(struct cpu_vm *vm, struct cpu *self, void (*fn)(void *), void *arg)
{
    cpu_vm_exclusive_begin(vm, self);
    fn(arg);
    cpu_vm_exclusive_end(vm, self);
}

