/* SPDX-License-Identifier: MIT */
/*
 * The vCPU object: what KVM holds beside the processor itself. Architectural state is in struct cpu
 * and its VMCS; here are events on their way, the exit to the client that waits for its completion,
 * CPUID, and the MSRs that are KVM's.
 */
#ifndef KAGE_KVM_VCPU_H
#define KAGE_KVM_VCPU_H

#include <pthread.h>
#include <signal.h>

#include "kvm/dirty_ring.h"
#include "kvm/shadow_mmu.h"
#include "kvm/vm.h"

#define KVM_VCPU_PAGES 3u /* struct kvm_run, PIO data, coalesced ring */
#define KVM_VCPU_RING_PAGE 2u
#define KVM_CPUID_MAX_ENTRIES 256u
#define KVM_MCE_BANKS 32u
#define KVM_VCPU_MSR_SLOTS 96u

/* Notes of other threads to the vCPU; each also kicks. */
#define KVM_REQ_NMI (1u << 0)
#define KVM_REQ_INIT (1u << 1)
#define KVM_REQ_SIPI (1u << 2)
#define KVM_REQ_EVENT (1u << 3)      /* an interrupt may be deliverable: look */
#define KVM_REQ_IOAPIC_EOI (1u << 4) /* split irqchip: KVM_EXIT_IOAPIC_EOI */
#define KVM_REQ_UNHALT (1u << 5)     /* KVM_HC_KICK_CPU */
#define KVM_REQ_CLOCK (1u << 6)      /* renew the kvm-clock page */
#define KVM_REQ_MSR_FILTER (1u << 7)  /* which MSRs exit has changed */
#define KVM_REQ_INSPECT (1u << 8)     /* somebody waits for a look at its state */

/* What an exit handler tells the run loop. Negative: KVM_RUN fails with that errno. */
enum kvm_run_result { KVM_RUN_USER = 0, KVM_RUN_ENTER = 1 };

/* An access that the client has been asked to do, or its PIO string. */
struct kvm_pending_pio {
    bool active, in;
    uint8_t size;
    uint16_t port;
    uint32_t count, done; /* elements at the client, and those before them; count 0: all are there, what is left is to store them */
    uint64_t qualification; /* then, of its exit */
    uint32_t instruction_info, instruction_len;
};

struct kvm_vcpu_exception {
    bool pending, injected, has_error, has_payload;
    uint8_t nr;
    uint32_t error;
    uint64_t payload;
};

struct kvm_vcpu {
    struct kvm_object object; /* first */
    struct kvm_vm *vm;        /* a reference */
    uint32_t id, index;
    pthread_mutex_t lock;     /* one ioctl at a time, KVM_RUN included */

    struct cpu *cpu;
    struct kvm_run *run;
    uint8_t *pio_data;
    struct lapic *lapic; /* NULL without one in the engine */

    /* other threads */
    atomic_uint requests; /* KVM_REQ_* */
    atomic_uint nmi_queued;
    atomic_uint sipi_vector;
    atomic_uint ioapic_eoi_vector;
    _Atomic bool in_halt; /* asleep on cpu->pending, or about to be */
    struct kvm_inspect_call *_Atomic inspect_call; /* with KVM_REQ_INSPECT (inspect_call.c) */

    /* events (event.c) */
    uint32_t mp_state; /* KVM_MP_STATE_* */
    struct kvm_vcpu_exception exception;
    struct { bool injected, soft; uint8_t nr; } interrupt;
    struct { bool injected; uint32_t pending; } nmi;
    int extint;             /* split chip: the vector of the client's 8259, or -1 */
    uint8_t event_insn_len; /* of a soft event to inject again */
    bool triple_fault_pending;
    bool latched_init;

    /* the exit under way */
    struct kvm_pending_pio pio;
    int mmio_index;        /* cpu->mmio[] entry at the client, or -1 */
    unsigned mmio_done;    /* bytes of it already served */
    unsigned mmio_sent;    /* bytes of the piece at the client */
    bool msr_at_client, msr_is_write, hypercall_at_client;
    uint64_t linear_rip_at_exit; /* where all of it belongs */

    /* CPUID and what follows from it */
    struct kvm_cpuid_entry2 *cpuid;
    uint32_t cpuid_count;
    uint64_t guest_xcr0_supported;
    bool enforce_pv; /* KVM_CAP_ENFORCE_PV_FEATURE_CPUID */

    /* MSRs that are KVM's (msr.c); indexed by the table's slot */
    uint64_t msr[KVM_VCPU_MSR_SLOTS];
    uint64_t mtrr_var[16], mtrr_fix[11];
    uint64_t mcg_cap, mcg_status, mcg_ctl, mce_bank[KVM_MCE_BANKS * 4];
    uint64_t tsc_adjust;
    uint32_t tsc_khz;
    uint64_t user_apic_base; /* without a local APIC in the engine */

    /* kvm-clock, PV EOI */
    uint64_t system_time_msr, pv_eoi_msr;
    bool system_time_old;
    uint32_t clock_generation;
    bool clock_dirty, clock_guest_stopped;
    uint32_t pvclock_version;
    bool pv_eoi_armed;

    /* steal time (pv.c) */
    uint64_t steal_time_msr, steal_seen_ns;
    ns_t steal_updated_ns;
    int schedstat_fd;    /* of the thread; 0: not opened yet, -1: there is none */
    bool preempted_told; /* the guest's byte says that the vCPU does not run */

    struct kvm_dirty_ring dirty_ring;

    /* without EPT (shadow_mmu.c) */
    struct shadow_vcpu shadow;
    uint64_t shadow_spurious_va, shadow_spurious_rip;
    unsigned shadow_spurious_count;

    /* KVM_SET_GUEST_DEBUG */
    uint32_t guest_debug;
    uint64_t debug_dr[8];
    bool stepped; /* an instruction done by KVM itself has ended under RFLAGS.TF or single step */

    /* KVM_SET_SIGNAL_MASK */
    bool has_sigmask, signal_seen;
    sigset_t sigmask;

    void *bitmaps; /* VMCS: I/O bitmap A and B, MSR bitmap */
    pthread_t thread;
    bool in_run; /* in KVM_RUN */
    bool attached; /* cpu_signal_attach_thread() was called for `thread` */

    struct kvm_vcpu_counters *counters; /* own_counters, or in the file */
    struct kvm_vcpu_counters own_counters;
    struct kvm_stats_file stats_file;
    struct kvm_last_error error;
};

static inline struct kvm_vcpu *kvm_vcpu_of(struct kvm_object *object)
{
    return (struct kvm_vcpu *)(void *)object;
}

static inline bool kvm_vcpu_test_request(struct kvm_vcpu *vcpu, uint32_t bit)
{
    if (!(atomic_load_explicit(&vcpu->requests, memory_order_acquire) & bit))
        return false;
    return (atomic_fetch_and(&vcpu->requests, ~bit) & bit) != 0;
}

/* Notes requests and makes the vCPU look at them: out of guest code, out of HLT. Any thread. */
void kvm_vcpu_request(struct kvm_vcpu *vcpu, uint32_t bits);
/* Reset state of KVM's part; init: INIT. */
void kvm_vcpu_reset(struct kvm_vcpu *vcpu, bool init);
bool kvm_vcpu_is_bsp(const struct kvm_vcpu *vcpu);
/* The VMCS' controls as they follow from the VM and the vCPU's settings. */
void kvm_vcpu_setup_vmcs(struct kvm_vcpu *vcpu);
/* Moves RIP over the instruction that exited, and ends its interrupt shadow. */
void kvm_vcpu_skip(struct kvm_vcpu *vcpu);
uint64_t kvm_vcpu_apic_base(const struct kvm_vcpu *vcpu);
uint8_t kvm_vcpu_cr8(const struct kvm_vcpu *vcpu);
void kvm_vcpu_set_cr8(struct kvm_vcpu *vcpu, uint8_t cr8);

/* limits.c: what the vCPU's CPUID leaves out */
uint64_t kvm_limits_cr4_reserved(const struct kvm_vcpu *vcpu);
uint64_t kvm_limits_efer_valid(const struct kvm_vcpu *vcpu, bool host);
bool kvm_limits_has_msr(const struct kvm_vcpu *vcpu, uint32_t index); /* for the guest: an ioctl reaches all */
bool kvm_limits_has_pv(const struct kvm_vcpu *vcpu, unsigned feature); /* KVM_FEATURE_* */
uint32_t kvm_limits_proc2(const struct kvm_vcpu *vcpu); /* VMX_PROC2_* */

/* A general register at an exit: RSP is the VMCS' then (SDM 3C 28.3). */
static inline uint64_t *kvm_exit_gpr(struct kvm_vcpu *vcpu, unsigned reg)
{
    return reg == X86_RSP ? &vcpu->cpu->vmcs.guest_rsp : &vcpu->cpu->gpr[reg];
}

/* run.c */
kvm_ioctl_fn kvm_vcpu_run;
/* exits.c: handles the exit in the VMCS: enum kvm_run_result, or -errno. */
int kvm_exit_handle(struct kvm_vcpu *vcpu, uint32_t reason);
/* KVM_EXIT_INTERNAL_ERROR with the last error set. */
/* The client has answered KVM_EXIT_X86_RDMSR or WRMSR. */
int kvm_exit_msr_complete(struct kvm_vcpu *vcpu);
/* Whether XSETBV or KVM_SET_XCRS may set XCR0 to this. */
bool kvm_xcr0_valid(const struct kvm_vcpu *vcpu, uint64_t value);
int kvm_exit_internal_error(struct kvm_vcpu *vcpu, uint32_t suberror);
/* The client has answered KVM_EXIT_HYPERCALL. */
int kvm_exit_hypercall_complete(struct kvm_vcpu *vcpu);

/* emulation_failure.c: VMX_EXIT_KAGE_UNSUPPORTED */
int kvm_exit_emulation_failure(struct kvm_vcpu *vcpu);
/* Bytes at RIP, as many as can be read of `room`. */
unsigned kvm_read_insn(struct kvm_vcpu *vcpu, uint8_t *bytes, unsigned room);

/* sync_regs.c: around KVM_RUN */
KAGE_MUST_CHECK int kvm_sync_regs_check(const struct kvm_run *run);
KAGE_MUST_CHECK int kvm_sync_regs_load(struct kvm_vcpu *vcpu);
void kvm_sync_regs_store(struct kvm_vcpu *vcpu);

/* io.c: port and memory I/O */
int kvm_pio_exit(struct kvm_vcpu *vcpu);
int kvm_pio_complete(struct kvm_vcpu *vcpu);
int kvm_mmio_exit(struct kvm_vcpu *vcpu);
int kvm_mmio_complete(struct kvm_vcpu *vcpu);

/* event.c */
void kvm_event_queue_exception(struct kvm_vcpu *vcpu, unsigned vector, bool has_error, uint32_t error);
/* A page fault that a walk of the guest's tables came to; double or worse if it was met while an exception was delivered. */
void kvm_event_queue_page_fault(struct kvm_vcpu *vcpu, gva_t va, uint32_t error);
/* An exception that the processor recorded outside of VM entry (cpu_io_complete) is KVM's to inject. */
void kvm_event_take_fault(struct kvm_vcpu *vcpu);
/* After a VM exit: what the exit interrupted on its way in. */
void kvm_event_recover(struct kvm_vcpu *vcpu);
/* Before VM entry: chooses what to inject and which windows to ask for. */
void kvm_event_inject(struct kvm_vcpu *vcpu);
bool kvm_event_can_inject_interrupt(const struct kvm_vcpu *vcpu);
/* Whether the 8259 is the client's, which then uses KVM_INTERRUPT, and whether it may now. */
bool kvm_event_pic_is_clients(const struct kvm_vcpu *vcpu);
bool kvm_event_client_may_inject(const struct kvm_vcpu *vcpu);
/* Whether something would wake it from HLT. */
bool kvm_event_has_wakeup(struct kvm_vcpu *vcpu);
/* INIT and SIPI that came. */
void kvm_event_accept_apic_events(struct kvm_vcpu *vcpu);
void kvm_event_pv_eoi_before_entry(struct kvm_vcpu *vcpu);
void kvm_event_pv_eoi_after_exit(struct kvm_vcpu *vcpu);
kvm_ioctl_fn kvm_vcpu_interrupt, kvm_vcpu_nmi, kvm_vcpu_get_events, kvm_vcpu_set_events, kvm_vcpu_get_mp_state,
    kvm_vcpu_set_mp_state;

/* state.c */
kvm_ioctl_fn kvm_vcpu_get_regs, kvm_vcpu_set_regs, kvm_vcpu_get_sregs, kvm_vcpu_set_sregs, kvm_vcpu_get_sregs2,
    kvm_vcpu_set_sregs2, kvm_vcpu_get_debugregs, kvm_vcpu_set_debugregs, kvm_vcpu_translate;
int kvm_regs_set(struct kvm_vcpu *vcpu, const struct kvm_regs *regs);
void kvm_regs_get(struct kvm_vcpu *vcpu, struct kvm_regs *regs);
/* fpu.c */
kvm_ioctl_fn kvm_vcpu_get_fpu, kvm_vcpu_set_fpu, kvm_vcpu_get_xsave, kvm_vcpu_get_xsave2, kvm_vcpu_set_xsave,
    kvm_vcpu_get_xcrs, kvm_vcpu_set_xcrs;
/* debug.c */
kvm_ioctl_fn kvm_vcpu_set_guest_debug;
/* #DB or #BP that the guest took while debugged: KVM_RUN_USER if it is the client's. */
int kvm_debug_exit(struct kvm_vcpu *vcpu, unsigned vector);
void kvm_debug_update(struct kvm_vcpu *vcpu);
/* An instruction that KVM completed is over: notes the trap that single-stepping owes. */
void kvm_debug_note_step(struct kvm_vcpu *vcpu);
int kvm_debug_stepped(struct kvm_vcpu *vcpu);

/* pv.c */
uint64_t kvm_pv_hypercall(struct kvm_vcpu *vcpu); /* RAX of a VMCALL */
bool kvm_pv_hypercall_to_client(struct kvm_vcpu *vcpu); /* true: KVM_EXIT_HYPERCALL */
void kvm_pv_set_steal_time(struct kvm_vcpu *vcpu, uint64_t value);
void kvm_pv_thread_changed(struct kvm_vcpu *vcpu);
/* Around the times when it does not run: HLT, and outside of KVM_RUN. */
void kvm_pv_leave(struct kvm_vcpu *vcpu);
void kvm_pv_enter(struct kvm_vcpu *vcpu);

/* cpuid.c */
int kvm_cpuid_supported(struct kvm_cpuid2 *cpuid); /* in the engine's memory */
uint64_t kvm_cpuid_xcr0_supported(void); /* of the host and the engine */
bool kvm_cpuid_host_is_amd(void);
kvm_ioctl_fn kvm_vcpu_set_cpuid, kvm_vcpu_set_cpuid2, kvm_vcpu_get_cpuid2;
void kvm_cpuid_query(struct kvm_vcpu *vcpu, uint32_t function, uint32_t index, uint32_t out[4]);
/* The register (0 EAX … 3 EDX) of an entry as the client set it, 0 if absent. */
uint32_t kvm_cpuid_register(const struct kvm_vcpu *vcpu, uint32_t function, uint32_t index, unsigned reg);

/* msr.c. 0, or -1 for #GP. host: an ioctl, not the guest. */
/* 0, KVM_MSR_UNKNOWN: there is no such MSR, or another negative number: not for this access, or not this value. */
#define KVM_MSR_UNKNOWN (-2)
int kvm_msr_get(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *value, bool host);
int kvm_msr_set(struct kvm_vcpu *vcpu, uint32_t index, uint64_t value, bool host);
void kvm_msr_reset(struct kvm_vcpu *vcpu, bool init);
kvm_ioctl_fn kvm_vcpu_get_msrs, kvm_vcpu_set_msrs, kvm_vcpu_setup_mce, kvm_vcpu_set_mce;
uint64_t kvm_msr_mce_cap_supported(void);
uint64_t kvm_msr_misc_enable(const struct kvm_vcpu *vcpu); /* IA32_MISC_ENABLE */
void kvm_tsc_write(struct kvm_vcpu *vcpu, uint64_t guest_tsc, bool host);
void kvm_tsc_set_offset(struct kvm_vcpu *vcpu, uint64_t offset);

#endif
