/* SPDX-License-Identifier: MIT */
/*
 * Reaching a vCPU that may be in KVM_RUN, which holds its mutex for as long as it likes. The caller leaves a note and kicks: a
 * vCPU in guest code leaves it at its next poll, one in HLT wakes, and run_loop() takes the note between two exits, where
 * the vCPU's state is whole. The mutex may come free meanwhile, or never have been taken: then the caller takes its note
 * back and does the work itself. Whoever takes the note, by an exchange, does the work; nobody waits for both.
 */
#include <errno.h>
#include <time.h>

#include "cpu/cpu.h"
#include "kvm/inspect.h"

#define CALL_LIMIT_NS 5000000000ll
#define CALL_LOOK_NS 2000000l /* how often the mutex is tried */

struct kvm_inspect_call {
    void (*fn)(void *);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

void kvm_inspect_serve(struct kvm_vcpu *vcpu)
{
    if (!kvm_vcpu_test_request(vcpu, KVM_REQ_INSPECT))
        return;
    struct kvm_inspect_call *call = atomic_exchange(&vcpu->inspect_call, NULL);
    if (!call)
        return; /* the caller has done it, or given up */
    cpu_fpu_save(vcpu->cpu);
    call->fn(call->arg);
    pthread_mutex_lock(&call->lock);
    call->done = true;
    pthread_cond_signal(&call->cond);
    pthread_mutex_unlock(&call->lock);
}

/* Waits for the vCPU's thread; false: not yet. */
static bool call_wait(struct kvm_inspect_call *call, bool for_ever)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += CALL_LOOK_NS;
    if (until.tv_nsec >= 1000000000l) {
        until.tv_nsec -= 1000000000l;
        until.tv_sec++;
    }
    pthread_mutex_lock(&call->lock);
    for (int err = 0; !call->done && !err;)
        err = for_ever ? pthread_cond_wait(&call->cond, &call->lock) : pthread_cond_timedwait(&call->cond, &call->lock, &until);
    bool done = call->done;
    pthread_mutex_unlock(&call->lock);
    return done;
}

int kvm_inspect_call(struct kvm_vcpu *vcpu, void (*fn)(void *), void *arg)
{
    struct kvm_inspect_call call = { .fn = fn, .arg = arg };
    pthread_condattr_t attr;
    int result = 0;

    pthread_mutex_init(&call.lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&call.cond, &attr);
    pthread_condattr_destroy(&attr);

    pthread_mutex_lock(&vcpu->vm->inspect_lock); /* one note at a time */
    atomic_store(&vcpu->inspect_call, &call);
    kvm_vcpu_request(vcpu, KVM_REQ_INSPECT);
    for (ns_t start = kvm_monotonic_ns();;) {
        bool late = kvm_monotonic_ns() - start > CALL_LIMIT_NS, mine = false;
        if (pthread_mutex_trylock(&vcpu->lock) == 0) {
            mine = atomic_exchange(&vcpu->inspect_call, NULL) != NULL;
            if (mine)
                fn(arg);
            pthread_mutex_unlock(&vcpu->lock);
        } else if (late) {
            mine = atomic_exchange(&vcpu->inspect_call, NULL) != NULL;
            result = mine ? -ETIMEDOUT : 0;
        }
        if (mine || call_wait(&call, late))
            break;
    }
    pthread_mutex_unlock(&vcpu->vm->inspect_lock);
    pthread_cond_destroy(&call.cond);
    pthread_mutex_destroy(&call.lock);
    return result;
}
