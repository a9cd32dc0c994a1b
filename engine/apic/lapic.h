/* SPDX-License-Identifier: MIT */
/*
 * The local APIC (SDM 3A chapter 11) as KVM emulates it.
 * The 1 KiB register page *is* the state; everything beside it is configuration or the timer's deadline.
 *
 * Threads: IRR and TMR are changed with atomics by anybody (lapic_set_irq). ISR, TPR and all other registers are written
 * only by the thread that owns the vCPU (or by an ioctl that holds the vCPU); others read them. The timer has its own lock,
 * a leaf but for the timer queue's.
 */
#ifndef KAGE_APIC_LAPIC_H
#define KAGE_APIC_LAPIC_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "arch/types.h"

#define APIC_DEFAULT_BASE 0xfee00000ull
#define APIC_BASE_BSP (1ull << 8)
#define APIC_BASE_EXTD (1ull << 10)
#define APIC_BASE_ENABLE (1ull << 11)
#define APIC_BASE_ADDR_MASK 0xffffff000ull

/* register offsets in the page; an x2APIC MSR is 0x800 + offset / 16 */
enum apic_reg {
	APIC_ID = 0x20,
	APIC_LVR = 0x30,
	APIC_TASKPRI = 0x80,
	APIC_ARBPRI = 0x90,
	APIC_PROCPRI = 0xa0,
	APIC_EOI = 0xb0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SPIV = 0xf0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_LVTCMCI = 0x2f0,
	APIC_ICR = 0x300,
	APIC_ICR2 = 0x310,
	APIC_LVTT = 0x320,
	APIC_LVTTHMR = 0x330,
	APIC_LVTPC = 0x340,
	APIC_LVT0 = 0x350,
	APIC_LVT1 = 0x360,
	APIC_LVTERR = 0x370,
	APIC_TMICT = 0x380,
	APIC_TMCCT = 0x390,
	APIC_TDCR = 0x3e0,
	APIC_SELF_IPI = 0x3f0, /* x2APIC only */
};

enum apic_delivery_mode {
	APIC_DM_FIXED = 0,
	APIC_DM_LOWEST = 1,
	APIC_DM_SMI = 2,
	APIC_DM_NMI = 4,
	APIC_DM_INIT = 5,
	APIC_DM_SIPI = 6,
	APIC_DM_EXTINT = 7,
};

enum apic_shorthand { APIC_DEST_NONE = 0, APIC_DEST_SELF = 1, APIC_DEST_ALL = 2, APIC_DEST_OTHERS = 3 };

/* An interrupt message on the "APIC bus": from an ICR, an I/O APIC pin or an MSI. */
struct apic_msg {
	uint32_t dest;     /* APIC ID, or logical destination */
	uint8_t vector;
	uint8_t mode;      /* enum apic_delivery_mode */
	uint8_t shorthand; /* enum apic_shorthand */
	bool logical;
	bool level;  /* trigger mode */
	bool assert; /* level de-assert (INIT only) is ignored */
	bool x2apic; /* dest is 32 bits wide with x2APIC meaning (broadcast is all-ones) */
};

struct lapic;

/* What a local APIC asks of its surroundings. Any of them may be called from any thread, with no lapic lock held. */
struct lapic_ops {
	void (*kick)(void *opaque, struct lapic *l); /* something became pending: leave guest code or HLT */
	void (*nmi)(void *opaque, struct lapic *l);
	void (*init)(void *opaque, struct lapic *l);
	void (*sipi)(void *opaque, struct lapic *l, uint8_t vector);
	void (*ipi)(void *opaque, struct lapic *from, const struct apic_msg *msg);
	void (*eoi)(void *opaque, struct lapic *l, uint8_t vector, bool level);
	bool (*eoi_wanted)(void *opaque, uint8_t vector); /* somebody waits for this vector's EOI: no PV EOI */
	void (*arm)(void *opaque, struct lapic *l, ns_t deadline_ns); /* 0: disarm; timer lock held */
	ns_t (*now_ns)(void *opaque);                                 /* CLOCK_MONOTONIC */
	ns_t (*guest_tsc_to_ns)(void *opaque, struct lapic *l, uint64_t guest_tsc); /* when the guest's TSC will read this */
};

struct lapic {
	_Alignas(64) uint8_t regs[KVM_APIC_REG_SIZE];
	_Atomic bool irr_pending;      /* false: IRR is empty for sure */
	_Atomic uint64_t apic_base;    /* IA32_APIC_BASE */
	uint32_t index;                /* the owner's number for this vCPU */
	uint32_t vcpu_id;              /* initial and x2APIC ID */
	uint32_t esr_pending;          /* errors since the last write to ESR */
	const struct lapic_ops *ops;
	void *opaque;
	bool directed_eoi;             /* LVR bit 24: guest may suppress EOI broadcast (no I/O APIC in the engine) */
	pthread_mutex_t timer_lock;    /* the timer's fields below, TMICT and TDCR */
	uint64_t tsc_deadline;         /* IA32_TSC_DEADLINE, 0: not armed */
	ns_t period_ns;                /* of the running TMICT count */
	_Atomic ns_t deadline_ns;      /* next expiry, 0: none */
};

/* life */
void lapic_init(struct lapic *l, uint32_t index, uint32_t vcpu_id, const struct lapic_ops *ops, void *opaque);
void lapic_fini(struct lapic *l);
/* Power-up (init_event false: also APIC_BASE) or INIT. Called by the thread that owns the vCPU. */
void lapic_reset(struct lapic *l, bool init_event, bool bsp);
/* After a reset that is not to leave the boot processor's LINT0 open (KVM_X86_QUIRK_LINT0_REENABLED disabled). */
void lapic_mask_lint0(struct lapic *l);

/* registers; the MMIO ones take an offset in the page */
void lapic_mmio_read(struct lapic *l, uint32_t offset, void *data, uint32_t len);
void lapic_mmio_write(struct lapic *l, uint32_t offset, const void *data, uint32_t len);
/* RDMSR/WRMSR 0x800..0x8ff. Return 0, or -1 for #GP. */
int lapic_x2apic_read(struct lapic *l, uint32_t msr, uint64_t *value) KAGE_MUST_CHECK;
int lapic_x2apic_write(struct lapic *l, uint32_t msr, uint64_t value) KAGE_MUST_CHECK;
/* IA32_APIC_BASE. host: an ioctl sets it, any transition goes. Return 0, or -1 for #GP. */
static inline uint64_t lapic_base(const struct lapic *l)
{
	return atomic_load_explicit(&l->apic_base, memory_order_relaxed);
}
int lapic_set_base(struct lapic *l, uint64_t value, bool host) KAGE_MUST_CHECK;
uint64_t lapic_tsc_deadline(struct lapic *l);
void lapic_set_tsc_deadline(struct lapic *l, uint64_t guest_tsc);
/* CR8: bits 7:4 of TPR */
uint8_t lapic_cr8(const struct lapic *l);
void lapic_set_cr8(struct lapic *l, uint8_t cr8);

/* interrupts */
/* Highest deliverable vector above PPR, or -1. The vCPU's thread only; one load when nothing is pending. */
int lapic_has_interrupt(struct lapic *l);
/* Move the vector that lapic_has_interrupt() named from IRR to ISR. */
void lapic_ack(struct lapic *l, int vector);
/* Accept a fixed interrupt; any thread. 1 delivered, 0 coalesced (was in IRR already), -1 APIC is disabled. */
int lapic_set_irq(struct lapic *l, uint8_t vector, bool level);
/* Accept any message that already names this APIC. Same results. */
int lapic_accept(struct lapic *l, const struct apic_msg *msg);
bool lapic_match(const struct lapic *l, const struct apic_msg *msg);
/* Highest-priority vector in service ends: APIC_EOI write, or the guest cleared its PV EOI flag. */
void lapic_eoi(struct lapic *l);
/* May the next EOI be by PV EOI flag? (one in service, nothing pending, nobody waits for the EOI) */
bool lapic_pv_eoi_allowed(struct lapic *l);
/* KVM's rule for ExtINT: APIC off, or LINT0 unmasked in ExtINT mode. */
bool lapic_accepts_pic(const struct lapic *l);
/* LVT1 as the NMI pin (KVM_NMI in KVM_SET_LAPIC terms): true if it is unmasked NMI */
bool lapic_accepts_nmi_pin(const struct lapic *l);
/* Deliver through an LVT entry (performance counter, thermal, error, …). -1 masked. */
int lapic_local(struct lapic *l, uint32_t lvt);
uint8_t lapic_ppr(const struct lapic *l);
bool lapic_sw_enabled(const struct lapic *l);

/* timer */
/* Host time of the next expiry, UINT64_MAX when none. */
ns_t lapic_next_expiry(const struct lapic *l);
/* Fire if due by now_ns; any thread. True if it fired. After a change of the TSC (offset, rate): lapic_timer_restart. */
bool lapic_timer_expired(struct lapic *l, ns_t now_ns);
void lapic_timer_restart(struct lapic *l);

/* KVM_GET/SET_LAPIC. ids32: KVM_X2APIC_API_USE_32BIT_IDS. set returns 0 or -EINVAL (x2APIC ID other than the vCPU's). */
void lapic_get_state(struct lapic *l, struct kvm_lapic_state *out, bool ids32);
int lapic_set_state(struct lapic *l, const struct kvm_lapic_state *in, bool ids32) KAGE_MUST_CHECK;

static inline uint32_t lapic_reg(const struct lapic *l, uint32_t offset)
{
	return __atomic_load_n((const uint32_t *)(const void *)(l->regs + offset), __ATOMIC_RELAXED);
}
static inline bool lapic_hw_enabled(const struct lapic *l)
{
	return (lapic_base(l) & APIC_BASE_ENABLE) != 0;
}
static inline bool lapic_x2apic(const struct lapic *l)
{
	return (lapic_base(l) & (APIC_BASE_ENABLE | APIC_BASE_EXTD)) == (APIC_BASE_ENABLE | APIC_BASE_EXTD);
}
uint32_t lapic_id(const struct lapic *l);

#endif
