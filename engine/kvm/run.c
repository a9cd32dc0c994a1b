/* SPDX-License-Identifier: MIT */
/*
 * KVM_RUN: complete what the client was asked for, then enter, exit, handle, until the client is
 * needed or a signal came.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/signal.h"
#include "kvm/inspect.h"
#include "vmx/vmx.h"

#define RUN_INTERRUPTED (-EINTR)

/* True if KVM_RUN must end: a signal's handler ran on this thread. cpu_signal_pending() tells only once. */
static bool run_signal(struct kvm_vcpu *vcpu)
{
    vcpu->signal_seen = cpu_signal_pending(vcpu->cpu) || vcpu->signal_seen;
    return vcpu->signal_seen || __atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_RELAXED);
}

/*
 * Blocks until something wakes the vCPU, a request is there to look at, or a signal came. It sleeps on
 * the processor's request word, which kvm_vcpu_request() and the signal handler both change.
 */
static void run_block(struct kvm_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    ns_t start = kvm_monotonic_ns();

    kvm_pv_leave(vcpu);
    atomic_store(&vcpu->in_halt, true);
    vcpu->counters->blocking = 1;
    uint32_t seen = atomic_fetch_and(&cpu->pending, ~CPU_REQ_KICK) & ~CPU_REQ_KICK;
    if (!run_signal(vcpu) && !kvm_event_has_wakeup(vcpu) && !(atomic_load(&vcpu->requests) & KVM_REQ_INSPECT))
        syscall(SYS_futex, &cpu->pending, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_store(&vcpu->in_halt, false);
    vcpu->counters->blocking = 0;
    vcpu->counters->halts++;
    vcpu->counters->halt_wait_ns += kvm_monotonic_ns() - start;
}

/* Not runnable: wait for an event that changes it. */
static int run_halted(struct kvm_vcpu *vcpu)
{
    kvm_event_accept_apic_events(vcpu);
    if (vcpu->mp_state == KVM_MP_STATE_RUNNABLE)
        return KVM_RUN_ENTER;
    bool unhalt = kvm_vcpu_test_request(vcpu, KVM_REQ_UNHALT);
    if (vcpu->mp_state == KVM_MP_STATE_HALTED && (unhalt || kvm_event_has_wakeup(vcpu))) {
        vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
        vcpu->counters->halt_wakeup++;
        return KVM_RUN_ENTER;
    }
    run_block(vcpu);
    return KVM_RUN_ENTER;
}

static int run_requests(struct kvm_vcpu *vcpu)
{
    if (kvm_dirty_ring_is_full(vcpu)) {
        vcpu->counters->dirty_ring_exits++;
        vcpu->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
        return KVM_RUN_USER;
    }
    if (vcpu->triple_fault_pending) {
        vcpu->triple_fault_pending = false;
        vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
        return KVM_RUN_USER;
    }
    if (!atomic_load_explicit(&vcpu->requests, memory_order_acquire))
        return KVM_RUN_ENTER;
    if (atomic_load(&vcpu->requests) & (KVM_REQ_INIT | KVM_REQ_SIPI))
        kvm_event_accept_apic_events(vcpu);
    if (kvm_vcpu_test_request(vcpu, KVM_REQ_MSR_FILTER))
        kvm_vcpu_setup_vmcs(vcpu);
    kvm_vcpu_test_request(vcpu, KVM_REQ_CLOCK);
    if (kvm_vcpu_test_request(vcpu, KVM_REQ_IOAPIC_EOI)) {
        vcpu->run->exit_reason = KVM_EXIT_IOAPIC_EOI;
        vcpu->run->eoi.vector = (uint8_t)atomic_load(&vcpu->ioapic_eoi_vector);
        return KVM_RUN_USER;
    }
    return KVM_RUN_ENTER;
}

static int run_enter(struct kvm_vcpu *vcpu)
{
    int result = run_requests(vcpu);
    if (result != KVM_RUN_ENTER || vcpu->mp_state != KVM_MP_STATE_RUNNABLE)
        return result;
    if (vcpu->run->request_interrupt_window && kvm_event_client_may_inject(vcpu)) {
        vcpu->counters->request_irq_exits++;
        vcpu->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
        return KVM_RUN_USER;
    }
    vcpu->cpu->vmcs.entry_ctls =
        VMX_ENTRY_LOAD_EFER | (cpu_in_long_mode(vcpu->cpu) ? VMX_ENTRY_IA32E_MODE : 0);
    kvm_pv_enter(vcpu);
    if (vcpu->vm->shadow) {
        result = kvm_shadow_enter(vcpu);
        if (result)
            return result;
    }
    kvm_event_inject(vcpu);
    kvm_event_pv_eoi_before_entry(vcpu);
    kvm_clock_update(vcpu);

    uint32_t reason = vmx_enter(vcpu->cpu);

    kvm_event_recover(vcpu);
    kvm_event_pv_eoi_after_exit(vcpu);
    vcpu->counters->exits++;
    return kvm_exit_handle(vcpu, reason);
}

static uint64_t run_linear_rip(const struct kvm_vcpu *vcpu)
{
    uint64_t rip = vcpu->cpu->vmcs.guest_rip;

    return cpu_in_64bit_code(vcpu->cpu) ? rip : (uint32_t)(rip + vcpu->cpu->vmcs.guest_seg[X86_CS].base);
}

/* A client that moved RIP meanwhile (a reset, say) wants no instruction completed there; as the kernel's (kvm_is_linear_rip). */
static void run_forget(struct kvm_vcpu *vcpu)
{
    vcpu->pio.active = vcpu->msr_at_client = vcpu->hypercall_at_client = false;
    vcpu->mmio_index = -1;
    vcpu->mmio_done = 0;
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(vcpu->cpu->mmio); i++)
        vcpu->cpu->mmio[i].state = CPU_MMIO_NONE;
}

/* The instruction, or the piece of it, that the last KVM_RUN left to the client. */
static int run_complete(struct kvm_vcpu *vcpu)
{
    if (run_linear_rip(vcpu) != vcpu->linear_rip_at_exit)
        run_forget(vcpu);
    if (vcpu->pio.active)
        return kvm_pio_complete(vcpu);
    if (vcpu->mmio_index >= 0)
        return kvm_mmio_complete(vcpu);
    if (vcpu->msr_at_client)
        return kvm_exit_msr_complete(vcpu);
    if (vcpu->hypercall_at_client)
        return kvm_exit_hypercall_complete(vcpu);
    return KVM_RUN_ENTER;
}

static int run_loop(struct kvm_vcpu *vcpu)
{
    int result = run_complete(vcpu);

    if (vcpu->stepped && result == KVM_RUN_ENTER)
        result = kvm_debug_stepped(vcpu);
    while (result == KVM_RUN_ENTER) {
        /* Whoever kicks from here on ends the entry below at once; what came before is seen now. */
        atomic_fetch_and(&vcpu->cpu->pending, ~CPU_REQ_KICK);
        if (run_signal(vcpu)) {
            vcpu->counters->signal_exits++;
            return RUN_INTERRUPTED;
        }
        kvm_inspect_serve(vcpu);
        result = vcpu->mp_state == KVM_MP_STATE_RUNNABLE ? run_enter(vcpu) : run_halted(vcpu);
        if (vcpu->stepped && result == KVM_RUN_ENTER)
            result = kvm_debug_stepped(vcpu);
    }
    return result;
}

/* What kvm_run says at every return (api.rst 5). */
static void run_post(struct kvm_vcpu *vcpu)
{
    vcpu->run->if_flag = (vcpu->cpu->vmcs.guest_rflags & X86_FLAGS_IF) != 0;
    vcpu->run->flags = 0;
    vcpu->run->cr8 = kvm_vcpu_cr8(vcpu);
    vcpu->run->apic_base = kvm_vcpu_apic_base(vcpu);
    vcpu->run->ready_for_interrupt_injection = !kvm_event_pic_is_clients(vcpu) || kvm_event_client_may_inject(vcpu);
}

int kvm_vcpu_run(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);

    if (arg)
        return -EINVAL;
    int err = kvm_sync_regs_check(vcpu->run);
    if (!err)
        err = kvm_sync_regs_load(vcpu);
    if (err)
        return err;
    if (!vcpu->attached || !pthread_equal(vcpu->thread, pthread_self()) || !cpu_signal_is_attached(vcpu->cpu)) {
        cpu_signal_attach_thread(vcpu->cpu);
        kvm_pv_thread_changed(vcpu);
        vcpu->thread = pthread_self();
        vcpu->attached = true;
    }
    (void)cpu_signal_pending(vcpu->cpu); /* handled before this call: not ours */
    vcpu->signal_seen = false;
    sigset_t outside;
    if (vcpu->has_sigmask)
        cpu_signal_enter_mask(&vcpu->sigmask, &outside);
    if (!vcpu->lapic)
        kvm_vcpu_set_cr8(vcpu, (uint8_t)(vcpu->run->cr8 & 0xf));

    cpu_signal_begin_run();
    vcpu->in_run = true;
    int result = run_loop(vcpu);
    vcpu->in_run = false;
    cpu_signal_end_run();

    if (result == RUN_INTERRUPTED)
        vcpu->run->exit_reason = KVM_EXIT_INTR;
    else if (result == KVM_RUN_USER)
        vcpu->counters->user_exits++;
    run_post(vcpu);
    vcpu->linear_rip_at_exit = run_linear_rip(vcpu);
    kvm_sync_regs_store(vcpu);
    kvm_pv_leave(vcpu);
    if (vcpu->has_sigmask)
        cpu_signal_leave_mask(&outside);
    return result < 0 ? result : 0;
}
