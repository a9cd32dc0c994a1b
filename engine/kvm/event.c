/* SPDX-License-Identifier: MIT */
/*
 * Events on their way into the guest: exceptions, NMIs and interrupts are chosen before each entry,
 * put into the VM-entry interruption field, and taken back from the IDT-vectoring field if the
 * delivery was cut short by an exit (SDM 3C 25.9.3, 27.6). INIT, SIPI, MP state.
 */
#include <errno.h>
#include <string.h>

#include "kvm/vcpu.h"
#include "mmu/mmu.h"

void kvm_event_queue_exception(struct kvm_vcpu *vcpu, unsigned vector, bool has_error, uint32_t error)
{
    vcpu->exception = (struct kvm_vcpu_exception){ .pending = true, .nr = (uint8_t)vector, .has_error = has_error,
                                                   .error = error };
}

/* SDM 3A table 6-5: a page fault in the delivery of one is a double fault, in a double fault's the end. */
void kvm_event_queue_page_fault(struct kvm_vcpu *vcpu, gva_t va, uint32_t error)
{
    bool delivering = vcpu->exception.injected;
    unsigned first = vcpu->exception.nr;

    if (delivering && first == X86_EXC_DF) {
        vcpu->exception = (struct kvm_vcpu_exception){ 0 };
        vcpu->triple_fault_pending = true;
        return;
    }
    if (delivering && first == X86_EXC_PF) {
        vcpu->cpu->cr2 = va;
        kvm_event_queue_exception(vcpu, X86_EXC_DF, true, 0);
        return;
    }
    kvm_event_queue_exception(vcpu, X86_EXC_PF, true, error);
    vcpu->exception.has_payload = true;
    vcpu->exception.payload = va;
}

void kvm_event_take_fault(struct kvm_vcpu *vcpu)
{
    struct cpu_event *event = &vcpu->cpu->event;

    kvm_event_queue_exception(vcpu, event->vector, event->has_error, event->error);
    vcpu->exception.has_payload = event->vector == X86_EXC_PF || event->vector == X86_EXC_DB;
    vcpu->exception.payload = event->payload;
    event->valid = false;
}

void kvm_event_recover(struct kvm_vcpu *vcpu)
{
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;
    uint32_t info = vmcs->idt_vectoring_info;
    uint8_t vector = info & VMX_INFO_VECTOR;

    vcpu->exception.injected = vcpu->interrupt.injected = vcpu->nmi.injected = false;
    if (!(info & VMX_INFO_VALID))
        return;
    vcpu->event_insn_len = (uint8_t)vmcs->exit_instruction_len;
    switch ((info & VMX_INFO_TYPE) >> VMX_INFO_TYPE_SHIFT) {
    case VMX_EVENT_NMI:
        vcpu->nmi.injected = true;
        vcpu->cpu->vmcs.guest_interruptibility &= ~VMX_INTR_NMI; /* it blocks again when it is delivered */
        break;
    case VMX_EVENT_EXT_INTR:
    case VMX_EVENT_SW_INTR:
        vcpu->interrupt.injected = true;
        vcpu->interrupt.nr = vector;
        vcpu->interrupt.soft = (info & VMX_INFO_TYPE) >> VMX_INFO_TYPE_SHIFT == VMX_EVENT_SW_INTR;
        break;
    case VMX_EVENT_HW_EXCEPTION:
    case VMX_EVENT_SW_EXCEPTION:
    case VMX_EVENT_PRIV_SW_EXCEPTION:
        vcpu->exception = (struct kvm_vcpu_exception){ .injected = true, .nr = vector,
                                                       .has_error = (info & VMX_INFO_ERROR_CODE) != 0,
                                                       .error = vmcs->idt_vectoring_error_code };
        break;
    default:
        break;
    }
}

static void inject(struct kvm_vcpu *vcpu, unsigned type, unsigned vector)
{
    struct vmcs *vmcs = &vcpu->cpu->vmcs;

    vmcs->entry_intr_info = VMX_INFO_VALID | type << VMX_INFO_TYPE_SHIFT | vector;
    vmcs->entry_instruction_len = vcpu->event_insn_len;
}

static void inject_exception(struct kvm_vcpu *vcpu)
{
    struct vmcs *vmcs = &vcpu->cpu->vmcs;
    struct kvm_vcpu_exception *exception = &vcpu->exception;
    bool soft = exception->nr == X86_EXC_BP || exception->nr == X86_EXC_OF;

    if (exception->pending && exception->has_payload && exception->nr == X86_EXC_PF)
        vcpu->cpu->cr2 = exception->payload;
    if (exception->pending && exception->nr == X86_EXC_DB) {
        if (exception->has_payload)
            vcpu->cpu->dr6 |= exception->payload;
        vmcs->guest_dr7 &= ~(1ull << 13); /* GD */
    }
    exception->has_payload = false;
    exception->pending = false;
    exception->injected = true;
    if (soft && !vcpu->event_insn_len)
        vcpu->event_insn_len = 1;
    inject(vcpu, soft ? VMX_EVENT_SW_EXCEPTION : VMX_EVENT_HW_EXCEPTION, exception->nr);
    if (exception->has_error && (vmcs->guest_cr0 & X86_CR0_PE)) { /* real mode pushes none (SDM 3C 27.2.1.3) */
        vmcs->entry_intr_info |= VMX_INFO_ERROR_CODE;
        vmcs->entry_exception_error_code = exception->error;
    }
}

/* A read that the client has served belongs to the instruction at RIP: nothing may come between. */
static bool mmio_bound(const struct kvm_vcpu *vcpu)
{
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(vcpu->cpu->mmio); i++)
        if (vcpu->cpu->mmio[i].state == CPU_MMIO_DONE)
            return true;
    return false;
}

static bool shadowed(const struct kvm_vcpu *vcpu)
{
    return (vcpu->cpu->vmcs.guest_interruptibility & (VMX_INTR_STI | VMX_INTR_MOV_SS)) != 0;
}

bool kvm_event_can_inject_interrupt(const struct kvm_vcpu *vcpu)
{
    return (vcpu->cpu->vmcs.guest_rflags & X86_FLAGS_IF) && !shadowed(vcpu) &&
           !(vcpu->guest_debug & KVM_GUESTDBG_BLOCKIRQ);
}

static bool can_inject_nmi(const struct kvm_vcpu *vcpu)
{
    return !(vcpu->cpu->vmcs.guest_interruptibility & VMX_INTR_NMI) && !shadowed(vcpu);
}

bool kvm_event_pic_is_clients(const struct kvm_vcpu *vcpu)
{
    return !vcpu->lapic || irqchip_is_split(kvm_vm_irqchip(vcpu->vm));
}

/* Would the processor take an interrupt of the client's 8259 once its window opens? */
static bool accepts_from_client(const struct kvm_vcpu *vcpu)
{
    return !vcpu->lapic || (irqchip_is_split(kvm_vm_irqchip(vcpu->vm)) && vcpu->extint < 0 && lapic_accepts_pic(vcpu->lapic));
}

bool kvm_event_client_may_inject(const struct kvm_vcpu *vcpu)
{
    return accepts_from_client(vcpu) && kvm_event_can_inject_interrupt(vcpu) && !vcpu->interrupt.injected &&
           !vcpu->exception.pending && !vcpu->exception.injected && !vcpu->nmi.injected;
}

static bool has_extint(const struct kvm_vcpu *vcpu)
{
    return vcpu->extint >= 0 && lapic_accepts_pic(vcpu->lapic);
}

static int get_interrupt(struct kvm_vcpu *vcpu)
{
    if (has_extint(vcpu)) {
        int vector = vcpu->extint;
        vcpu->extint = -1;
        return vector;
    }
    return irqchip_vcpu_get_interrupt(kvm_vm_irqchip(vcpu->vm), vcpu->lapic);
}

static bool has_interrupt(struct kvm_vcpu *vcpu)
{
    if (!vcpu->lapic)
        return false;
    return has_extint(vcpu) || irqchip_vcpu_has_interrupt(kvm_vm_irqchip(vcpu->vm), vcpu->lapic);
}

/* Up to two NMIs wait: one blocked by the one in service, as on hardware. */
static void take_queued_nmis(struct kvm_vcpu *vcpu)
{
    bool blocked = (vcpu->cpu->vmcs.guest_interruptibility & VMX_INTR_NMI) || vcpu->nmi.injected;
    uint32_t limit = blocked ? 1 : 2;

    vcpu->nmi.pending += atomic_exchange(&vcpu->nmi_queued, 0u);
    if (vcpu->nmi.pending > limit)
        vcpu->nmi.pending = limit;
}

static void set_window(struct kvm_vcpu *vcpu, uint32_t control, bool on)
{
    if (on)
        vcpu->cpu->vmcs.proc_based_ctls |= control;
    else
        vcpu->cpu->vmcs.proc_based_ctls &= ~control;
}

void kvm_event_inject(struct kvm_vcpu *vcpu)
{
    bool busy = mmio_bound(vcpu);
    bool want_irq = false, want_nmi = false;

    vcpu->cpu->vmcs.entry_intr_info = 0;
    if (atomic_load_explicit(&vcpu->requests, memory_order_acquire) & (KVM_REQ_NMI | KVM_REQ_EVENT)) {
        atomic_fetch_and(&vcpu->requests, ~(KVM_REQ_NMI | KVM_REQ_EVENT));
        vcpu->counters->req_event++;
    }
    take_queued_nmis(vcpu);

    /* What an exit cut short goes first, but for an exception that was met in its delivery: that has taken its place. */
    if (vcpu->exception.injected || (vcpu->exception.pending && (vcpu->nmi.injected || vcpu->interrupt.injected))) {
        inject_exception(vcpu);
        busy = true;
    } else if (vcpu->nmi.injected) {
        inject(vcpu, VMX_EVENT_NMI, X86_EXC_NMI);
        busy = true;
    } else if (vcpu->interrupt.injected) {
        inject(vcpu, vcpu->interrupt.soft ? VMX_EVENT_SW_INTR : VMX_EVENT_EXT_INTR, vcpu->interrupt.nr);
        busy = true;
    } else if (vcpu->exception.pending) {
        inject_exception(vcpu);
        busy = true;
    }
    if (vcpu->nmi.pending && !busy && can_inject_nmi(vcpu)) {
        vcpu->nmi.pending--;
        vcpu->nmi.injected = true;
        vcpu->counters->nmi_injections++;
        inject(vcpu, VMX_EVENT_NMI, X86_EXC_NMI);
        busy = true;
    }
    want_nmi = vcpu->nmi.pending != 0;
    if (has_interrupt(vcpu)) {
        int vector = -1;
        if (!busy && kvm_event_can_inject_interrupt(vcpu))
            vector = get_interrupt(vcpu);
        if (vector >= 0) {
            vcpu->interrupt.injected = true;
            vcpu->interrupt.soft = false;
            vcpu->interrupt.nr = (uint8_t)vector;
            vcpu->counters->irq_injections++;
            inject(vcpu, VMX_EVENT_EXT_INTR, (unsigned)vector);
        }
        want_irq = has_interrupt(vcpu);
    }
    if (vcpu->run->request_interrupt_window && accepts_from_client(vcpu))
        want_irq = true;
    set_window(vcpu, VMX_PROC_INTR_WINDOW_EXITING, want_irq && !(vcpu->guest_debug & KVM_GUESTDBG_BLOCKIRQ));
    set_window(vcpu, VMX_PROC_NMI_WINDOW_EXITING, want_nmi);
}

bool kvm_event_has_wakeup(struct kvm_vcpu *vcpu)
{
    if (atomic_load(&vcpu->requests) & (KVM_REQ_INIT | KVM_REQ_SIPI | KVM_REQ_UNHALT))
        return true;
    if (atomic_load(&vcpu->nmi_queued) || vcpu->nmi.pending || vcpu->exception.pending || vcpu->interrupt.injected)
        return true;
    return (vcpu->cpu->vmcs.guest_rflags & X86_FLAGS_IF) && has_interrupt(vcpu);
}

void kvm_event_accept_apic_events(struct kvm_vcpu *vcpu)
{
    if (kvm_vcpu_test_request(vcpu, KVM_REQ_INIT)) {
        kvm_vcpu_reset(vcpu, true);
        vcpu->mp_state = kvm_vcpu_is_bsp(vcpu) ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
    }
    if (!(atomic_load(&vcpu->requests) & KVM_REQ_SIPI))
        return;
    kvm_vcpu_test_request(vcpu, KVM_REQ_SIPI);
    if (vcpu->mp_state != KVM_MP_STATE_INIT_RECEIVED)
        return; /* ignored outside wait-for-SIPI (SDM 3A 8.4.3) */
    struct vmcs *vmcs = &vcpu->cpu->vmcs;
    uint32_t vector = atomic_load(&vcpu->sipi_vector) & 0xff;
    vmcs->guest_seg[X86_CS].selector = (uint16_t)(vector << 8);
    vmcs->guest_seg[X86_CS].base = (uint64_t)vector << 12;
    vmcs->guest_rip = vcpu->cpu->rip = 0;
    vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
}

/* ---- PV EOI (Documentation/virt/kvm/x86/msr.rst): bit 0 of a guest byte says "no EOI write needed" ---- */

void kvm_event_pv_eoi_before_entry(struct kvm_vcpu *vcpu)
{
    uint8_t flag;
    gpa_t gpa = vcpu->pv_eoi_msr & ~3ull;

    if (!(vcpu->pv_eoi_msr & 1) || vcpu->pv_eoi_armed || !vcpu->lapic || !lapic_pv_eoi_allowed(vcpu->lapic))
        return;
    if (!mmu_phys_read(vcpu->cpu, gpa, &flag, sizeof(flag)))
        return;
    flag |= 1;
    vcpu->pv_eoi_armed = mmu_phys_write(vcpu->cpu, gpa, &flag, sizeof(flag));
}

void kvm_event_pv_eoi_after_exit(struct kvm_vcpu *vcpu)
{
    uint8_t flag;
    gpa_t gpa = vcpu->pv_eoi_msr & ~3ull;

    if (!vcpu->pv_eoi_armed)
        return;
    vcpu->pv_eoi_armed = false;
    if (!mmu_phys_read(vcpu->cpu, gpa, &flag, sizeof(flag)))
        return;
    if (!(flag & 1)) {
        lapic_eoi(vcpu->lapic); /* the guest cleared it: this was its EOI */
        return;
    }
    flag &= (uint8_t)~1u;
    if (!mmu_phys_write(vcpu->cpu, gpa, &flag, sizeof(flag)))
        vcpu->pv_eoi_msr = 0;
}

/* ---- ioctls ---- */

int kvm_vcpu_interrupt(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    uint32_t irq = ((const struct kvm_interrupt *)arg)->irq;

    if (irq >= KVM_NR_INTERRUPTS)
        return -EINVAL;
    if (!kvm_event_pic_is_clients(vcpu))
        return -ENXIO;
    if (vcpu->lapic) { /* the client's 8259 behind a local APIC of ours */
        if (vcpu->extint >= 0)
            return -EEXIST;
        vcpu->extint = (int)irq;
        kvm_vcpu_request(vcpu, KVM_REQ_EVENT);
        return 0;
    }
    if (vcpu->interrupt.injected)
        return -EEXIST;
    vcpu->interrupt.injected = true;
    vcpu->interrupt.soft = false;
    vcpu->interrupt.nr = (uint8_t)irq;
    return 0;
}

int kvm_vcpu_nmi(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);

    (void)arg;
    atomic_fetch_add(&vcpu->nmi_queued, 1u);
    kvm_vcpu_request(vcpu, KVM_REQ_NMI);
    return 0;
}

int kvm_vcpu_get_events(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    struct kvm_vcpu_events *events = arg;
    uint32_t shadow = vcpu->cpu->vmcs.guest_interruptibility;

    take_queued_nmis(vcpu);
    memset(events, 0, sizeof(*events));
    events->exception.nr = vcpu->exception.nr;
    events->exception.has_error_code = vcpu->exception.has_error;
    events->exception.error_code = vcpu->exception.error;
    if (vcpu->vm->exception_payload) {
        events->exception.injected = vcpu->exception.injected;
        events->exception.pending = vcpu->exception.pending;
        events->exception_has_payload = vcpu->exception.has_payload;
        events->exception_payload = vcpu->exception.payload;
        events->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    } else {
        events->exception.injected = vcpu->exception.injected || vcpu->exception.pending;
    }
    events->interrupt.injected = vcpu->interrupt.injected && !vcpu->interrupt.soft;
    events->interrupt.nr = vcpu->interrupt.nr;
    events->interrupt.shadow = (uint8_t)((shadow & VMX_INTR_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0) |
                                         (shadow & VMX_INTR_STI ? KVM_X86_SHADOW_INT_STI : 0));
    events->nmi.injected = vcpu->nmi.injected;
    events->nmi.pending = vcpu->nmi.pending != 0;
    events->nmi.masked = (shadow & VMX_INTR_NMI) != 0;
    events->sipi_vector = atomic_load(&vcpu->sipi_vector);
    events->flags |= KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    if (vcpu->vm->triple_fault_event) {
        events->triple_fault.pending = vcpu->triple_fault_pending;
        events->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    }
    return 0;
}

int kvm_vcpu_set_events(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    struct kvm_vcpu_events events = *(const struct kvm_vcpu_events *)arg;
    const uint32_t known = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                           KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD |
                           KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    bool payload = (events.flags & KVM_VCPUEVENT_VALID_PAYLOAD) != 0;
    uint32_t *shadow = &vcpu->cpu->vmcs.guest_interruptibility;

    if (events.flags & ~known)
        return -EINVAL;
    if (payload && !vcpu->vm->exception_payload)
        return -EINVAL;
    if (payload && events.exception.pending)
        events.exception.injected = 0; /* of both, as the kernel takes them */
    if ((events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && !vcpu->vm->triple_fault_event)
        return -EINVAL;
    if ((events.exception.injected || events.exception.pending) &&
        (events.exception.nr > 31 || events.exception.nr == X86_EXC_NMI))
        return -EINVAL;
    if ((events.flags & KVM_VCPUEVENT_VALID_SMM) && (events.smi.smm || events.smi.pending))
        return -EINVAL; /* no SMM */

    vcpu->exception = (struct kvm_vcpu_exception){
        .injected = events.exception.injected != 0, .pending = payload && events.exception.pending,
        .nr = events.exception.nr, .has_error = events.exception.has_error_code != 0,
        .error = events.exception.error_code, .has_payload = payload && events.exception_has_payload,
        .payload = payload ? events.exception_payload : 0 };
    vcpu->interrupt.injected = events.interrupt.injected != 0;
    vcpu->interrupt.nr = events.interrupt.nr;
    vcpu->interrupt.soft = events.interrupt.soft != 0;
    if (events.flags & KVM_VCPUEVENT_VALID_SHADOW) {
        *shadow &= ~(VMX_INTR_STI | VMX_INTR_MOV_SS);
        *shadow |= (events.interrupt.shadow & KVM_X86_SHADOW_INT_STI ? VMX_INTR_STI : 0) |
                   (events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? VMX_INTR_MOV_SS : 0);
    }
    vcpu->nmi.injected = events.nmi.injected != 0;
    if (events.flags & KVM_VCPUEVENT_VALID_NMI_PENDING) {
        vcpu->nmi.pending = 0;
        atomic_store(&vcpu->nmi_queued, events.nmi.pending);
    }
    *shadow = events.nmi.masked ? *shadow | VMX_INTR_NMI : *shadow & ~VMX_INTR_NMI;
    if (events.flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR)
        atomic_store(&vcpu->sipi_vector, events.sipi_vector);
    if (events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
        vcpu->triple_fault_pending = events.triple_fault.pending != 0;
    return 0;
}

int kvm_vcpu_get_mp_state(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);

    kvm_event_accept_apic_events(vcpu);
    ((struct kvm_mp_state *)arg)->mp_state = vcpu->mp_state;
    return 0;
}

int kvm_vcpu_set_mp_state(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    uint32_t state = ((const struct kvm_mp_state *)arg)->mp_state;

    if (!vcpu->lapic && state != KVM_MP_STATE_RUNNABLE)
        return -EINVAL;
    if (state > KVM_MP_STATE_SIPI_RECEIVED)
        return -EINVAL;
    if (state == KVM_MP_STATE_SIPI_RECEIVED) {
        vcpu->mp_state = KVM_MP_STATE_INIT_RECEIVED;
        kvm_vcpu_request(vcpu, KVM_REQ_SIPI);
    } else {
        vcpu->mp_state = state;
    }
    return 0;
}
