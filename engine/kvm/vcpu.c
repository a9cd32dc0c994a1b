/* SPDX-License-Identifier: MIT */
/*
 * The vCPU object: its life, its mapping, the VMCS controls, and the table of its ioctls.
 */
#include "kvm/vcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/signal.h"
#include "mmu/ept.h"
#include "mmu/mmu.h"
#include "vmx/vmx.h"

#define VCPU_BITMAP_BYTES (3 * KAGE_PAGE_SIZE) /* I/O A, I/O B, MSR */

/* In TSC cycles, of this processor's PAUSE, which takes longer than hardware's: a spin of some microseconds. */
#define VCPU_PLE_GAP 2048u
#define VCPU_PLE_WINDOW 16384u

static void vcpu_phys_written(struct cpu *cpu, gpa_t gpa, size_t len)
{
    kvm_shadow_written(cpu->owner, gpa, len);
}

static const struct cpu_ops vcpu_cpu_ops = {
    .ept_violation = kvm_memslot_ept_violation,
    .guest_page = kvm_shadow_guest_page,
    .page_fault = kvm_shadow_mend,
    .load_cr3 = kvm_shadow_load_cr3,
    .phys_written = vcpu_phys_written,
};

/* MSRs that the processor serves without an exit: SDM 3C 25.6.9 has a bit for each, set to exit. */
static const struct {
    uint32_t index;
    bool read, write;
} vcpu_open_msrs[] = {
    { MSR_IA32_TSC, true, false },
    { MSR_IA32_SYSENTER_CS, true, true },
    { MSR_IA32_SYSENTER_ESP, true, true },
    { MSR_IA32_SYSENTER_EIP, true, true },
    { MSR_EFER, true, false },
    { MSR_STAR, true, true },
    { MSR_LSTAR, true, true },
    { MSR_CSTAR, true, true },
    { MSR_SYSCALL_MASK, true, true },
    { MSR_FS_BASE, true, true },
    { MSR_GS_BASE, true, true },
    { MSR_KERNEL_GS_BASE, true, true },
    { MSR_TSC_AUX, true, true },
};

static void vcpu_fill_msr_bitmap(struct kvm_vcpu *vcpu)
{
    uint8_t *bitmap = (uint8_t *)vcpu->bitmaps + 2 * KAGE_PAGE_SIZE;

    memset(bitmap, 0xff, KAGE_PAGE_SIZE);
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(vcpu_open_msrs); i++) {
        uint32_t index = vcpu_open_msrs[i].index, bit = index & 0x1fff;
        uint8_t *read = bitmap + (index >= 0xc0000000u ? 1024 : 0);
        uint8_t mask = (uint8_t)~(1u << (bit % 8));
        if (!kvm_limits_has_msr(vcpu, index))
            continue;
        if (vcpu_open_msrs[i].read && kvm_msr_filter_allows(vcpu->vm, index, KVM_MSR_FILTER_READ))
            read[bit / 8] &= mask;
        if (vcpu_open_msrs[i].write && kvm_msr_filter_allows(vcpu->vm, index, KVM_MSR_FILTER_WRITE))
            read[2048 + bit / 8] &= mask;
    }
}

void kvm_vcpu_setup_vmcs(struct kvm_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    struct vmcs *vmcs = &cpu->vmcs;
    uint8_t *bitmaps = vcpu->bitmaps;
    uint64_t cr0 = cpu_guest_cr0(cpu), cr3 = cpu_guest_cr3(cpu), cr4 = cpu_guest_cr4(cpu), efer = cpu_guest_efer(cpu);

    vcpu_fill_msr_bitmap(vcpu);
    memset(bitmaps, 0xff, 2 * KAGE_PAGE_SIZE); /* every port exits */
    vmcs->io_bitmap_a = (uint64_t)(uintptr_t)bitmaps;
    vmcs->io_bitmap_b = (uint64_t)(uintptr_t)(bitmaps + KAGE_PAGE_SIZE);
    vmcs->msr_bitmap = (uint64_t)(uintptr_t)(bitmaps + 2 * KAGE_PAGE_SIZE);
    vmcs->pin_based_ctls = VMX_PIN_EXT_INTR_EXITING | VMX_PIN_NMI_EXITING | VMX_PIN_VIRTUAL_NMIS;
    vmcs->proc_based_ctls = VMX_PROC_USE_TSC_OFFSETTING | VMX_PROC_HLT_EXITING | VMX_PROC_MWAIT_EXITING |
                            VMX_PROC_MONITOR_EXITING | VMX_PROC_RDPMC_EXITING | VMX_PROC_CR8_LOAD_EXITING |
                            VMX_PROC_CR8_STORE_EXITING | VMX_PROC_UNCOND_IO_EXITING | VMX_PROC_USE_MSR_BITMAPS |
                            VMX_PROC_SECONDARY;
    vmcs->proc_based_ctls2 = (vmcs->proc_based_ctls2 & VMX_PROC2_EPT) | VMX_PROC2_VPID | VMX_PROC2_UNRESTRICTED_GUEST | VMX_PROC2_PAUSE_LOOP_EXITING |
                             kvm_limits_proc2(vcpu);
    if (vcpu->vm->disabled_exits & KVM_X86_DISABLE_EXITS_PAUSE)
        vmcs->proc_based_ctls2 &= ~VMX_PROC2_PAUSE_LOOP_EXITING;
    vmcs->ple_gap = VCPU_PLE_GAP;
    vmcs->ple_window = VCPU_PLE_WINDOW;
    vmcs->exit_ctls = VMX_EXIT_HOST_ADDR_SPACE_SIZE;
    vmcs->ept_pointer = ept_pointer(vcpu->vm->ept);
    vmcs->vpid = (uint16_t)(vcpu->index + 1);
    vmcs->guest_vmcs_link_pointer = UINT64_MAX;
    vmcs->cr0_mask = vmcs->cr0_read_shadow = 0;
    vmcs->cr4_mask = kvm_limits_cr4_reserved(vcpu); /* setting one of them exits, and raises #GP */
    vmcs->cr4_read_shadow = 0;
    kvm_debug_update(vcpu);
    if (vcpu->vm->mmu == KAGE_MMU_SHADOW) {
        vmx_disable_ept(cpu);
        cpu_set_paging(cpu, cr0, cr3, cr4, efer);
    }
}

bool kvm_vcpu_is_bsp(const struct kvm_vcpu *vcpu)
{
    return vcpu->id == vcpu->vm->boot_cpu_id;
}

uint64_t kvm_vcpu_apic_base(const struct kvm_vcpu *vcpu)
{
    return vcpu->lapic ? lapic_base(vcpu->lapic) : vcpu->user_apic_base;
}

uint8_t kvm_vcpu_cr8(const struct kvm_vcpu *vcpu)
{
    return vcpu->lapic ? lapic_cr8(vcpu->lapic) : (uint8_t)(vcpu->cpu->cr8 & 0xf);
}

void kvm_vcpu_set_cr8(struct kvm_vcpu *vcpu, uint8_t cr8)
{
    vcpu->cpu->cr8 = cr8;
    if (vcpu->lapic)
        lapic_set_cr8(vcpu->lapic, cr8);
}

void kvm_vcpu_skip(struct kvm_vcpu *vcpu)
{
    vcpu->cpu->rip += vcpu->cpu->vmcs.exit_instruction_len;
    vcpu->cpu->vmcs.guest_rip = vcpu->cpu->rip;
    vcpu->cpu->intr_shadow = 0;
    vcpu->cpu->vmcs.guest_interruptibility &= ~(VMX_INTR_STI | VMX_INTR_MOV_SS);
    kvm_debug_note_step(vcpu);
}

void kvm_vcpu_request(struct kvm_vcpu *vcpu, uint32_t bits)
{
    atomic_fetch_or(&vcpu->requests, bits);
    cpu_request(vcpu->cpu, CPU_REQ_KICK);
    if (atomic_load(&vcpu->in_halt))
        syscall(SYS_futex, &vcpu->cpu->pending, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void kvm_vcpu_reset(struct kvm_vcpu *vcpu, bool init)
{
    vcpu->exception = (struct kvm_vcpu_exception){ 0 };
    vcpu->interrupt.injected = false;
    vcpu->extint = -1;
    vcpu->nmi.injected = false;
    vcpu->nmi.pending = 0;
    vcpu->pio.active = false;
    vcpu->mmio_index = -1;
    cpu_reset(vcpu->cpu, init);
    if (vcpu->lapic) {
        lapic_reset(vcpu->lapic, init, kvm_vcpu_is_bsp(vcpu));
        if (!kvm_vm_has_quirk(vcpu->vm, KVM_X86_QUIRK_LINT0_REENABLED))
            lapic_mask_lint0(vcpu->lapic);
    }
    if (!vcpu->lapic && !init)
        vcpu->user_apic_base = APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (kvm_vcpu_is_bsp(vcpu) ? APIC_BASE_BSP : 0);
    kvm_msr_reset(vcpu, init);
    kvm_vcpu_setup_vmcs(vcpu);
    mmu_flush_all(vcpu->cpu);
}

static int vcpu_map_run(struct kvm_vcpu *vcpu, int *fd)
{
    size_t bytes = KVM_VCPU_PAGES * KAGE_PAGE_SIZE, ring_end = kvm_dirty_ring_file_bytes(vcpu->vm);

    *fd = kvm_handle_new_fd("kvm-vcpu");
    if (*fd < 0)
        return -errno;
    /* Sealed: a client cannot cut off what the engine has mapped. */
    if (ftruncate(*fd, (off_t)(ring_end ? ring_end : bytes)) == 0 &&
        fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
        if (map != MAP_FAILED) {
            vcpu->run = map;
            vcpu->pio_data = (uint8_t *)map + KVM_PIO_PAGE_OFFSET * KAGE_PAGE_SIZE;
            return 0;
        }
    }
    int err = -errno;
    close(*fd);
    return err;
}

/* VM mutex held. */
int kvm_vcpu_create(struct kvm_vm *vm, uintptr_t id)
{
    unsigned index = atomic_load(&vm->vcpu_count);
    uint32_t id_limit = vm->max_vcpu_id ? vm->max_vcpu_id : KVM_VM_MAX_VCPU_ID;
    int fd = -1, err;

    vm->max_vcpu_id = id_limit; /* KVM_CAP_MAX_VCPU_ID comes too late from now on */
    if (id >= id_limit || index >= KVM_VM_MAX_VCPUS)
        return -EINVAL;
    for (unsigned i = 0; i < index; i++)
        if (kvm_vm_vcpu(vm, i)->id == id)
            return -EEXIST;
    struct kvm_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu)
        return -ENOMEM;
    kvm_object_init(&vcpu->object, KVM_KIND_VCPU);
    vcpu->vm = vm;
    vcpu->id = (uint32_t)id;
    vcpu->index = index;
    vcpu->tsc_khz = kvm_host_tsc_khz();
    vcpu->counters = &vcpu->own_counters;
    kvm_stats_file_init(&vcpu->stats_file);
    pthread_mutex_init(&vcpu->lock, NULL);
    pthread_mutex_init(&vcpu->error.lock, NULL);
    vcpu->bitmaps = aligned_alloc(KAGE_PAGE_SIZE, VCPU_BITMAP_BYTES);
    err = vcpu->bitmaps ? cpu_new(vm->cpu_vm, index, &vcpu_cpu_ops, vcpu, &vcpu->cpu) : -ENOMEM;
    if (err)
        goto out_vcpu;
    vcpu->cpu->stats = vcpu->counters->cpu;
    err = vcpu_map_run(vcpu, &fd);
    if (err)
        goto out_cpu;
    err = kvm_dirty_ring_map(vcpu, fd);
    if (err)
        goto out_run;
    if (kvm_vm_irqchip(vm)) {
        vcpu->lapic = irqchip_add_vcpu(kvm_vm_irqchip(vm), index, vcpu->id, kvm_vcpu_is_bsp(vcpu));
        if (!vcpu->lapic) {
            err = -errno;
            goto out_run;
        }
    }
    vcpu->mp_state = !vcpu->lapic || kvm_vcpu_is_bsp(vcpu) ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED;
    /* All TSCs of a VM start from zero at the same moment. */
    if (!index)
        atomic_store(&vm->tsc_offset, 0 - kvm_host_tsc());
    vcpu->cpu->tsc_offset = atomic_load(&vm->tsc_offset);
    vcpu->cpu->vmcs.tsc_offset = vcpu->cpu->tsc_offset;
    kvm_vcpu_reset(vcpu, false);
    err = kvm_handle_install(fd, &vcpu->object);
    if (err)
        goto out_run;
    kvm_object_get(&vm->object); /* until the vCPU's handle is closed */
    atomic_store_explicit(&vm->vcpus[index], vcpu, memory_order_release);
    atomic_store(&vm->vcpu_count, index + 1);
    vm->counters->vcpus = index + 1;
    kvm_clock_check_tsc(vm);
    if (!index)
        atomic_store(&vm->ring, (struct kvm_coalesced_mmio_ring *)(void *)((uint8_t *)vcpu->run +
                                                                           KVM_VCPU_RING_PAGE * KAGE_PAGE_SIZE));
    return fd;

out_run:
    kvm_dirty_ring_unmap(vcpu);
    munmap(vcpu->run, KVM_VCPU_PAGES * KAGE_PAGE_SIZE);
    close(fd);
out_cpu:
    cpu_free(vcpu->cpu);
out_vcpu:
    free(vcpu->bitmaps);
    free(vcpu);
    return err;
}

/* The handle is closed and nobody runs it. Other vCPUs and the chips may still name it: its memory goes with the VM. */
void kvm_vcpu_free(struct kvm_object *object)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);

    cpu_signal_detach_thread(vcpu->cpu); /* if this thread ran it */
    kvm_object_put(&vcpu->vm->object);
}

void kvm_vcpu_destroy(struct kvm_vcpu *vcpu)
{
    kvm_pv_thread_changed(vcpu);
    kvm_shadow_vcpu_fini(vcpu);
    cpu_free(vcpu->cpu);
    kvm_stats_file_fini(&vcpu->stats_file);
    kvm_dirty_ring_unmap(vcpu);
    munmap(vcpu->run, KVM_VCPU_PAGES * KAGE_PAGE_SIZE);
    pthread_mutex_destroy(&vcpu->error.lock);
    pthread_mutex_destroy(&vcpu->lock);
    free(vcpu->bitmaps);
    free(vcpu->cpuid);
    free(vcpu);
}

/* ---- ioctls without a file of their own ---- */

static int vcpu_get_lapic(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);

    if (!vcpu->lapic)
        return -EINVAL;
    irqchip_get_lapic(kvm_vm_irqchip(vcpu->vm), vcpu->lapic, arg);
    return 0;
}

static int vcpu_set_lapic(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);

    if (!vcpu->lapic)
        return -EINVAL;
    return irqchip_set_lapic(kvm_vm_irqchip(vcpu->vm), vcpu->lapic, arg);
}

static int vcpu_set_signal_mask(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    const struct kvm_signal_mask *client = arg;
    struct { uint32_t len; uint8_t sigset[8]; } mask;

    if (!client) {
        vcpu->has_sigmask = false;
        return 0;
    }
    if (kvm_copy_in(&mask.len, &client->len, sizeof(mask.len)))
        return -EFAULT;
    if (mask.len != sizeof(mask.sigset)) /* the kernel's sigset_t */
        return -EINVAL;
    if (kvm_copy_in(mask.sigset, client->sigset, sizeof(mask.sigset)))
        return -EFAULT;
    sigemptyset(&vcpu->sigmask);
    for (int signo = 1; signo <= 64; signo++)
        if ((mask.sigset[(signo - 1) / 8] >> ((signo - 1) % 8)) & 1)
            sigaddset(&vcpu->sigmask, signo);
    sigdelset(&vcpu->sigmask, SIGKILL);
    sigdelset(&vcpu->sigmask, SIGSTOP);
    vcpu->has_sigmask = true;
    return 0;
}

static int vcpu_kvmclock_ctrl(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);

    (void)arg;
    if (!(vcpu->system_time_msr & 1))
        return -EINVAL; /* no kvm-clock in use (api.rst 4.70) */
    vcpu->clock_guest_stopped = true;
    vcpu->clock_dirty = true;
    return 0;
}

static int vcpu_get_tsc_khz(struct kvm_object *object, void *arg)
{
    (void)arg;
    return (int)kvm_vcpu_of(object)->tsc_khz;
}

static int vcpu_set_tsc_khz(struct kvm_object *object, void *arg)
{
    (void)object;
    return kvm_tsc_khz_check((uintptr_t)arg);
}

static int vcpu_tpr_access_reporting(struct kvm_object *object, void *arg)
{
    const struct kvm_tpr_access_ctl *ctl = arg;

    (void)object;
    return ctl->flags || ctl->enabled ? -EINVAL : 0; /* KVM_CAP_VAPIC is 0: there is nothing to report on */
}

static int vcpu_set_vapic_addr(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);

    (void)arg; /* a hint for guests that patch TPR accesses: not used */
    return vcpu->lapic ? 0 : -EINVAL;
}

/* There is no system management mode: as a kernel that is built without it. */
static int vcpu_smi(struct kvm_object *object, void *arg)
{
    (void)object, (void)arg;
    return -ENOTTY;
}

static int vcpu_enable_cap(struct kvm_object *object, void *arg)
{
    const struct kvm_enable_cap *cap = arg;

    if (cap->flags || cap->cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID)
        return -EINVAL; /* the others that x86 has on vCPUs are Hyper-V's */
    kvm_vcpu_of(object)->enforce_pv = cap->args[0] != 0;
    return 0;
}

/* KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET (devices/vcpu.rst). */
static int vcpu_has_device_attr(struct kvm_object *object, void *arg)
{
    const struct kvm_device_attr *attr = arg;

    (void)object;
    return attr->group == KVM_VCPU_TSC_CTRL && attr->attr == KVM_VCPU_TSC_OFFSET ? 0 : -ENXIO;
}

static int vcpu_get_device_attr(struct kvm_object *object, void *arg)
{
    const struct kvm_device_attr *attr = arg;
    int err = vcpu_has_device_attr(object, arg);

    if (err)
        return err;
    return kvm_copy_out((void *)(uintptr_t)attr->addr, &kvm_vcpu_of(object)->cpu->tsc_offset, sizeof(uint64_t));
}

static int vcpu_set_device_attr(struct kvm_object *object, void *arg)
{
    const struct kvm_device_attr *attr = arg;
    int err = vcpu_has_device_attr(object, arg);

    if (err)
        return err;
    uint64_t offset;
    if (kvm_copy_in(&offset, (const void *)(uintptr_t)attr->addr, sizeof(offset)))
        return -EFAULT;
    atomic_store(&kvm_vcpu_of(object)->vm->tsc_offset, offset); /* the next vCPU starts with it, as the kernel's do */
    kvm_tsc_set_offset(kvm_vcpu_of(object), offset);
    return 0;
}

/* Every ioctl of a vCPU runs with its mutex held: they wait for KVM_RUN to return, as the kernel's do. */
#define VCPU_LOCKED(fn)                                                                                                \
    static int fn##_locked(struct kvm_object *object, void *arg)                                                       \
    {                                                                                                                  \
        struct kvm_vcpu *vcpu = kvm_vcpu_of(object);                                                                   \
        pthread_mutex_lock(&vcpu->lock);                                                                               \
        int result = fn(object, arg);                                                                                  \
        pthread_mutex_unlock(&vcpu->lock);                                                                             \
        return result;                                                                                                 \
    }

/* clang-format off */
#define VCPU_IOCTLS(X) \
    X(KVM_RUN, KVM_ARG_VALUE, kvm_vcpu_run) \
    X(KVM_GET_REGS, KVM_ARG_OUT, kvm_vcpu_get_regs) \
    X(KVM_SET_REGS, KVM_ARG_IN, kvm_vcpu_set_regs) \
    X(KVM_GET_SREGS, KVM_ARG_OUT, kvm_vcpu_get_sregs) \
    X(KVM_SET_SREGS, KVM_ARG_IN, kvm_vcpu_set_sregs) \
    X(KVM_GET_SREGS2, KVM_ARG_OUT, kvm_vcpu_get_sregs2) \
    X(KVM_SET_SREGS2, KVM_ARG_IN, kvm_vcpu_set_sregs2) \
    X(KVM_GET_FPU, KVM_ARG_OUT, kvm_vcpu_get_fpu) \
    X(KVM_SET_FPU, KVM_ARG_IN, kvm_vcpu_set_fpu) \
    X(KVM_GET_XSAVE, KVM_ARG_OUT, kvm_vcpu_get_xsave) \
    X(KVM_GET_XSAVE2, KVM_ARG_OUT, kvm_vcpu_get_xsave2) \
    X(KVM_SET_XSAVE, KVM_ARG_IN, kvm_vcpu_set_xsave) \
    X(KVM_GET_XCRS, KVM_ARG_OUT, kvm_vcpu_get_xcrs) \
    X(KVM_SET_XCRS, KVM_ARG_IN, kvm_vcpu_set_xcrs) \
    X(KVM_GET_MSRS, KVM_ARG_RAW, kvm_vcpu_get_msrs) \
    X(KVM_SET_MSRS, KVM_ARG_RAW, kvm_vcpu_set_msrs) \
    X(KVM_SET_CPUID, KVM_ARG_RAW, kvm_vcpu_set_cpuid) \
    X(KVM_SET_CPUID2, KVM_ARG_RAW, kvm_vcpu_set_cpuid2) \
    X(KVM_GET_CPUID2, KVM_ARG_RAW, kvm_vcpu_get_cpuid2) \
    X(KVM_GET_LAPIC, KVM_ARG_OUT, vcpu_get_lapic) \
    X(KVM_SET_LAPIC, KVM_ARG_IN, vcpu_set_lapic) \
    X(KVM_GET_MP_STATE, KVM_ARG_OUT, kvm_vcpu_get_mp_state) \
    X(KVM_SET_MP_STATE, KVM_ARG_IN, kvm_vcpu_set_mp_state) \
    X(KVM_GET_VCPU_EVENTS, KVM_ARG_OUT, kvm_vcpu_get_events) \
    X(KVM_SET_VCPU_EVENTS, KVM_ARG_IN, kvm_vcpu_set_events) \
    X(KVM_GET_DEBUGREGS, KVM_ARG_OUT, kvm_vcpu_get_debugregs) \
    X(KVM_SET_DEBUGREGS, KVM_ARG_IN, kvm_vcpu_set_debugregs) \
    X(KVM_SET_GUEST_DEBUG, KVM_ARG_IN, kvm_vcpu_set_guest_debug) \
    X(KVM_TRANSLATE, KVM_ARG_INOUT, kvm_vcpu_translate) \
    X(KVM_INTERRUPT, KVM_ARG_IN, kvm_vcpu_interrupt) \
    X(KVM_NMI, KVM_ARG_VALUE, kvm_vcpu_nmi) \
    X(KVM_SMI, KVM_ARG_VALUE, vcpu_smi) \
    X(KVM_SET_SIGNAL_MASK, KVM_ARG_RAW, vcpu_set_signal_mask) \
    X(KVM_KVMCLOCK_CTRL, KVM_ARG_VALUE, vcpu_kvmclock_ctrl) \
    X(KVM_GET_TSC_KHZ, KVM_ARG_VALUE, vcpu_get_tsc_khz) \
    X(KVM_SET_TSC_KHZ, KVM_ARG_VALUE, vcpu_set_tsc_khz) \
    X(KVM_TPR_ACCESS_REPORTING, KVM_ARG_INOUT, vcpu_tpr_access_reporting) \
    X(KVM_SET_VAPIC_ADDR, KVM_ARG_IN, vcpu_set_vapic_addr) \
    X(KVM_X86_SETUP_MCE, KVM_ARG_IN, kvm_vcpu_setup_mce) \
    X(KVM_X86_SET_MCE, KVM_ARG_IN, kvm_vcpu_set_mce) \
    X(KVM_ENABLE_CAP, KVM_ARG_IN, vcpu_enable_cap) \
    X(KVM_HAS_DEVICE_ATTR, KVM_ARG_IN, vcpu_has_device_attr) \
    X(KVM_GET_DEVICE_ATTR, KVM_ARG_IN, vcpu_get_device_attr) \
    X(KVM_SET_DEVICE_ATTR, KVM_ARG_IN, vcpu_set_device_attr) \
    X(KVM_GET_STATS_FD, KVM_ARG_VALUE, kvm_vcpu_get_stats_fd) \
    X(KAGE_GET_STATS, KVM_ARG_RAW, kvm_vcpu_get_stats) \
    X(KAGE_DUMP_VMCS, KVM_ARG_RAW, kvm_vcpu_dump_vmcs) \
    X(KAGE_VMREAD, KVM_ARG_INOUT, kvm_vcpu_vmread)
/* clang-format on */

#define VCPU_LOCKED_OF(request, kind, fn) VCPU_LOCKED(fn)
VCPU_IOCTLS(VCPU_LOCKED_OF)

#define VCPU_ROW(request, kind, fn) { (uint32_t)(request), kind, fn##_locked },
static const struct kvm_ioctl_desc vcpu_rows[] = {
    VCPU_IOCTLS(VCPU_ROW)
    /* readable while KVM_RUN is under way */
    { (uint32_t)KAGE_GET_ERROR, KVM_ARG_RAW, kvm_vcpu_get_error },
};
const struct kvm_ioctl_table kvm_vcpu_ioctls = { vcpu_rows, KAGE_ARRAY_SIZE(vcpu_rows) };
