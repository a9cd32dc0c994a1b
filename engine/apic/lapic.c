/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's registers, priorities and messages (SDM 3A chapter 11). The timer is lapic_timer.c.
 * A chip that touches nothing but itself: everything outward goes through struct lapic_ops.
 *
 * The register page, one 32-bit register every 16 bytes; ISR, TMR, IRR are 8 registers of 32 vectors each:
 *   0x020 ID  0x030 version  0x080 TPR  0x0a0 PPR  0x0b0 EOI  0x0d0 LDR  0x0e0 DFR  0x0f0 spurious vector
 *   0x100 ISR  0x180 TMR  0x200 IRR  0x280 ESR  0x300 ICR  0x320-0x370 LVT  0x380 TMICT  0x390 TMCCT  0x3e0 TDCR
 */
#include "apic/lapic.h"

#include <errno.h>
#include <string.h>

#include "apic/lapic_timer.h"
#include "arch/x86.h"

#define APIC_VERSION 0x00050014u /* 6 LVT entries, integrated APIC */
#define APIC_LVR_DIRECTED_EOI (1u << 24)
#define APIC_SPIV_ENABLE (1u << 8)
#define APIC_SPIV_DIRECTED_EOI (1u << 12)
#define APIC_DFR_FLAT 0xffffffffu
#define APIC_LVT_MODE(v) ((v) >> 8 & 7)
#define APIC_LVT_PENDING (1u << 12)

#define APIC_ICR_BUSY (1u << 12)
#define APIC_ICR_X2APIC_RESERVED 0xfff32000u

#define APIC_ESR_SEND_ILLEGAL (1u << 5)
#define APIC_ESR_RECV_ILLEGAL (1u << 6)
#define APIC_ESR_ILLEGAL_REG (1u << 7)

_Static_assert(sizeof(struct kvm_lapic_state) == KVM_APIC_REG_SIZE, "the page is KVM's");

/* What an access to each register may do, and the bits that may be written. */
enum { R = 1, W = 2, XAPIC = 4, X2APIC = 8 };
#define BOTH (XAPIC | X2APIC)
static const struct {
	uint8_t access;
	uint32_t valid;
} apic_regs[KVM_APIC_REG_SIZE / 16] = {
	[APIC_ID >> 4] = { R | BOTH, 0 },
	[APIC_LVR >> 4] = { R | BOTH, 0 },
	[APIC_TASKPRI >> 4] = { R | W | BOTH, 0xff },
	[APIC_ARBPRI >> 4] = { R | XAPIC, 0 },
	[APIC_PROCPRI >> 4] = { R | BOTH, 0 },
	[APIC_EOI >> 4] = { W | BOTH, 0 },
	[APIC_LDR >> 4] = { R | W | BOTH, 0xff000000u }, /* read-only in x2APIC mode: see lapic_x2apic_write */
	[APIC_DFR >> 4] = { R | W | XAPIC, 0xf0000000u },
	[APIC_SPIV >> 4] = { R | W | BOTH, 0x3ffu | APIC_SPIV_DIRECTED_EOI },
	[APIC_ISR >> 4] = { R | BOTH, 0 },
	[(APIC_ISR >> 4) + 1] = { R | BOTH, 0 },
	[(APIC_ISR >> 4) + 2] = { R | BOTH, 0 },
	[(APIC_ISR >> 4) + 3] = { R | BOTH, 0 },
	[(APIC_ISR >> 4) + 4] = { R | BOTH, 0 },
	[(APIC_ISR >> 4) + 5] = { R | BOTH, 0 },
	[(APIC_ISR >> 4) + 6] = { R | BOTH, 0 },
	[(APIC_ISR >> 4) + 7] = { R | BOTH, 0 },
	[APIC_TMR >> 4] = { R | BOTH, 0 },
	[(APIC_TMR >> 4) + 1] = { R | BOTH, 0 },
	[(APIC_TMR >> 4) + 2] = { R | BOTH, 0 },
	[(APIC_TMR >> 4) + 3] = { R | BOTH, 0 },
	[(APIC_TMR >> 4) + 4] = { R | BOTH, 0 },
	[(APIC_TMR >> 4) + 5] = { R | BOTH, 0 },
	[(APIC_TMR >> 4) + 6] = { R | BOTH, 0 },
	[(APIC_TMR >> 4) + 7] = { R | BOTH, 0 },
	[APIC_IRR >> 4] = { R | BOTH, 0 },
	[(APIC_IRR >> 4) + 1] = { R | BOTH, 0 },
	[(APIC_IRR >> 4) + 2] = { R | BOTH, 0 },
	[(APIC_IRR >> 4) + 3] = { R | BOTH, 0 },
	[(APIC_IRR >> 4) + 4] = { R | BOTH, 0 },
	[(APIC_IRR >> 4) + 5] = { R | BOTH, 0 },
	[(APIC_IRR >> 4) + 6] = { R | BOTH, 0 },
	[(APIC_IRR >> 4) + 7] = { R | BOTH, 0 },
	[APIC_ESR >> 4] = { R | W | BOTH, 0 },
	[APIC_ICR >> 4] = { R | W | BOTH, 0xcdfffu },
	[APIC_ICR2 >> 4] = { R | W | XAPIC, 0xff000000u },
	[APIC_LVTT >> 4] = { R | W | BOTH, 0x700ffu },
	[APIC_LVTTHMR >> 4] = { R | W | BOTH, 0x107ffu },
	[APIC_LVTPC >> 4] = { R | W | BOTH, 0x107ffu },
	[APIC_LVT0 >> 4] = { R | W | BOTH, 0x1a7ffu },
	[APIC_LVT1 >> 4] = { R | W | BOTH, 0x1a7ffu },
	[APIC_LVTERR >> 4] = { R | W | BOTH, 0x100ffu },
	[APIC_TMICT >> 4] = { R | W | BOTH, 0xffffffffu },
	[APIC_TMCCT >> 4] = { R | BOTH, 0 },
	[APIC_TDCR >> 4] = { R | W | BOTH, 0xb },
	[APIC_SELF_IPI >> 4] = { W | X2APIC, 0xff },
};

static const uint16_t apic_lvts[] = { APIC_LVTT, APIC_LVTTHMR, APIC_LVTPC, APIC_LVT0, APIC_LVT1, APIC_LVTERR };

/* --- vector registers ------------------------------------------------------------------------------------------- */

static uint32_t *vector_word(struct lapic *l, uint32_t base, uint32_t vector)
{
	return (uint32_t *)(void *)(l->regs + base + (vector >> 5) * 16);
}

/* true: the bit was clear */
static bool vector_set(struct lapic *l, uint32_t base, uint32_t vector)
{
	uint32_t bit = 1u << (vector & 31);

	return !(__atomic_fetch_or(vector_word(l, base, vector), bit, __ATOMIC_SEQ_CST) & bit);
}

static void vector_clear(struct lapic *l, uint32_t base, uint32_t vector)
{
	__atomic_fetch_and(vector_word(l, base, vector), ~(1u << (vector & 31)), __ATOMIC_SEQ_CST);
}

static bool vector_test(struct lapic *l, uint32_t base, uint32_t vector)
{
	return __atomic_load_n(vector_word(l, base, vector), __ATOMIC_SEQ_CST) >> (vector & 31) & 1;
}

static int vector_highest(const struct lapic *l, uint32_t base)
{
	for (int word = 7; word >= 0; word--) {
		uint32_t bits = lapic_reg(l, base + (uint32_t)word * 16);

		if (bits)
			return word * 32 + 31 - __builtin_clz(bits);
	}
	return -1;
}

/* --- identity and mode ------------------------------------------------------------------------------------------ */

uint32_t lapic_id(const struct lapic *l)
{
	return lapic_x2apic(l) ? l->vcpu_id : lapic_reg(l, APIC_ID) >> 24;
}

bool lapic_sw_enabled(const struct lapic *l)
{
	return (lapic_reg(l, APIC_SPIV) & APIC_SPIV_ENABLE) != 0;
}

static uint32_t x2apic_ldr(uint32_t id)
{
	return id >> 4 << 16 | 1u << (id & 15);
}

static void set_identity(struct lapic *l)
{
	lapic_set_reg(l, APIC_LVR, APIC_VERSION | (l->directed_eoi ? APIC_LVR_DIRECTED_EOI : 0));
	if (lapic_x2apic(l)) {
		lapic_set_reg(l, APIC_ID, l->vcpu_id);
		lapic_set_reg(l, APIC_LDR, x2apic_ldr(l->vcpu_id));
	} else {
		lapic_set_reg(l, APIC_ID, l->vcpu_id << 24);
	}
}

static void reset_registers(struct lapic *l, bool bsp)
{
	lapic_timer_stop(l);
	for (uint32_t reg = 0; reg < KVM_APIC_REG_SIZE; reg += 16)
		lapic_set_reg(l, reg, 0);
	for (size_t i = 0; i < KAGE_ARRAY_SIZE(apic_lvts); i++)
		lapic_set_reg(l, apic_lvts[i], APIC_LVT_MASKED);
	if (bsp) /* as KVM, and as firmware leaves it: the 8259 reaches the boot processor */
		lapic_set_reg(l, APIC_LVT0, APIC_DM_EXTINT << 8);
	lapic_set_reg(l, APIC_DFR, APIC_DFR_FLAT);
	lapic_set_reg(l, APIC_SPIV, 0xff);
	__atomic_store_n(&l->esr_pending, 0, __ATOMIC_RELAXED);
	atomic_store(&l->irr_pending, false);
	set_identity(l);
}

void lapic_mask_lint0(struct lapic *l)
{
	lapic_set_reg(l, APIC_LVT0, APIC_LVT_MASKED);
}

void lapic_init(struct lapic *l, uint32_t index, uint32_t vcpu_id, const struct lapic_ops *ops, void *opaque)
{
	memset(l, 0, sizeof(*l));
	l->index = index;
	l->vcpu_id = vcpu_id;
	l->ops = ops;
	l->opaque = opaque;
	pthread_mutex_init(&l->timer_lock, NULL);
}

void lapic_fini(struct lapic *l)
{
	pthread_mutex_destroy(&l->timer_lock);
}

void lapic_reset(struct lapic *l, bool init_event, bool bsp)
{
	if (!init_event)
		atomic_store(&l->apic_base, APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (bsp ? APIC_BASE_BSP : 0));
	reset_registers(l, bsp);
}

int lapic_set_base(struct lapic *l, uint64_t value, bool host)
{
	uint64_t old = lapic_base(l);
	uint64_t mode = APIC_BASE_ENABLE | APIC_BASE_EXTD;

	if (value & ~(0xfffffffffffffull & (KAGE_PAGE_MASK | APIC_BASE_BSP | mode)))
		return -1;
	if ((value & mode) == APIC_BASE_EXTD)
		return -1;
	/* SDM 3A 11.12.5: x2APIC is reached from xAPIC only, and left to disabled only */
	if (!host && (value & APIC_BASE_EXTD) && !(old & APIC_BASE_ENABLE))
		return -1;
	if (!host && (old & APIC_BASE_EXTD) && (value & mode) == APIC_BASE_ENABLE)
		return -1;
	atomic_store(&l->apic_base, value);
	if ((old ^ value) & mode) {
		if (!(value & APIC_BASE_ENABLE) && !host)
			reset_registers(l, false);
		else
			set_identity(l);
		/* whatever is pending is looked at again in the new mode */
		l->ops->kick(l->opaque, l);
	}
	return 0;
}

/* --- priorities and delivery ------------------------------------------------------------------------------------ */

uint8_t lapic_ppr(const struct lapic *l)
{
	uint32_t tpr = lapic_reg(l, APIC_TASKPRI) & 0xff;
	int isr = vector_highest(l, APIC_ISR);
	uint32_t isrv = isr < 0 ? 0 : (uint32_t)isr;

	return (uint8_t)((tpr & 0xf0) >= (isrv & 0xf0) ? tpr : isrv & 0xf0);
}

int lapic_has_interrupt(struct lapic *l)
{
	int vector;

	if (!atomic_load_explicit(&l->irr_pending, memory_order_relaxed) || !lapic_hw_enabled(l))
		return -1;
	vector = vector_highest(l, APIC_IRR);
	if (vector < 0) {
		/* clear the flag first, then look again: lapic_set_irq sets the bit first, then the flag */
		atomic_store(&l->irr_pending, false);
		vector = vector_highest(l, APIC_IRR);
		if (vector < 0)
			return -1;
		atomic_store(&l->irr_pending, true);
	}
	return (vector & 0xf0) > (lapic_ppr(l) & 0xf0) ? vector : -1;
}

void lapic_ack(struct lapic *l, int vector)
{
	vector_clear(l, APIC_IRR, (uint32_t)vector);
	(void)vector_set(l, APIC_ISR, (uint32_t)vector);
	atomic_store(&l->irr_pending, false);
	if (vector_highest(l, APIC_IRR) >= 0)
		atomic_store(&l->irr_pending, true);
}

static void report_error(struct lapic *l, uint32_t error)
{
	if (__atomic_fetch_or(&l->esr_pending, error, __ATOMIC_SEQ_CST) & error)
		return;
	if ((lapic_reg(l, APIC_LVTERR) & 0xff) >= 16) /* an illegal vector here must not report itself */
		(void)lapic_local(l, APIC_LVTERR);
}

int lapic_set_irq(struct lapic *l, uint8_t vector, bool level)
{
	bool fresh;

	if (!lapic_hw_enabled(l) || !lapic_sw_enabled(l))
		return -1;
	if (vector < 16) {
		report_error(l, APIC_ESR_RECV_ILLEGAL);
		return -1;
	}
	if (level != vector_test(l, APIC_TMR, vector)) {
		if (level)
			(void)vector_set(l, APIC_TMR, vector);
		else
			vector_clear(l, APIC_TMR, vector);
	}
	fresh = vector_set(l, APIC_IRR, vector);
	atomic_store(&l->irr_pending, true);
	if (!fresh)
		return 0;
	l->ops->kick(l->opaque, l);
	return 1;
}

int lapic_accept(struct lapic *l, const struct apic_msg *msg)
{
	switch (msg->mode) {
	case APIC_DM_FIXED:
	case APIC_DM_LOWEST:
		return msg->level && !msg->assert ? 0 : lapic_set_irq(l, msg->vector, msg->level);
	case APIC_DM_NMI:
		l->ops->nmi(l->opaque, l);
		return 1;
	case APIC_DM_INIT:
		if (!msg->level || msg->assert) /* else the INIT level de-assert of old APICs */
			l->ops->init(l->opaque, l);
		return 1;
	case APIC_DM_SIPI:
		l->ops->sipi(l->opaque, l, msg->vector);
		return 1;
	default: /* SMI: there is no SMM; ExtINT comes by LINT0 only */
		return 0;
	}
}

static bool match_broadcast(const struct lapic *l, const struct apic_msg *msg)
{
	if (msg->dest == 0xffffffffu)
		return true;
	return msg->dest == 0xff && !(msg->x2apic && lapic_x2apic(l));
}

bool lapic_match(const struct lapic *l, const struct apic_msg *msg)
{
	uint32_t ldr, dest = msg->dest;

	if (!lapic_hw_enabled(l))
		return false;
	if (match_broadcast(l, msg))
		return true;
	if (!msg->logical)
		return dest == (lapic_x2apic(l) || l->vcpu_id > 0xff ? l->vcpu_id : lapic_id(l));
	ldr = lapic_reg(l, APIC_LDR);
	if (lapic_x2apic(l))
		return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff) != 0;
	ldr >>= 24;
	if (dest > 0xff)
		return false;
	if (lapic_reg(l, APIC_DFR) >> 28 == 0xf)
		return (ldr & dest) != 0;
	return ldr >> 4 == dest >> 4 && (ldr & dest & 0xf) != 0;
}

void lapic_eoi(struct lapic *l)
{
	int vector = vector_highest(l, APIC_ISR);
	bool level;

	if (vector < 0)
		return;
	vector_clear(l, APIC_ISR, (uint32_t)vector);
	level = vector_test(l, APIC_TMR, (uint32_t)vector);
	if (level && l->directed_eoi && (lapic_reg(l, APIC_SPIV) & APIC_SPIV_DIRECTED_EOI))
		return;
	if (level || l->ops->eoi_wanted(l->opaque, (uint8_t)vector))
		l->ops->eoi(l->opaque, l, (uint8_t)vector, level);
}

bool lapic_pv_eoi_allowed(struct lapic *l)
{
	int vector = vector_highest(l, APIC_ISR);

	if (vector < 0 || atomic_load(&l->irr_pending))
		return false;
	for (int word = 0; word < 8; word++) { /* nested: the second EOI must see the APIC */
		uint32_t bits = lapic_reg(l, APIC_ISR + (uint32_t)word * 16);

		if (word == vector >> 5)
			bits &= ~(1u << (vector & 31));
		if (bits)
			return false;
	}
	return !vector_test(l, APIC_TMR, (uint32_t)vector) && !l->ops->eoi_wanted(l->opaque, (uint8_t)vector);
}

bool lapic_accepts_pic(const struct lapic *l)
{
	uint32_t lvt0 = lapic_reg(l, APIC_LVT0);

	return !lapic_hw_enabled(l) || (!(lvt0 & APIC_LVT_MASKED) && APIC_LVT_MODE(lvt0) == APIC_DM_EXTINT);
}

bool lapic_accepts_nmi_pin(const struct lapic *l)
{
	uint32_t lvt1 = lapic_reg(l, APIC_LVT1);

	return lapic_hw_enabled(l) && !(lvt1 & APIC_LVT_MASKED) && APIC_LVT_MODE(lvt1) == APIC_DM_NMI;
}

int lapic_local(struct lapic *l, uint32_t lvt)
{
	uint32_t value = lapic_reg(l, lvt);
	struct apic_msg msg = { .vector = (uint8_t)value, .assert = true };

	if (!lapic_hw_enabled(l) || (value & APIC_LVT_MASKED))
		return -1;
	if (lvt != APIC_LVTT && lvt != APIC_LVTERR) /* those two have no mode field: bits 10:8 are zero */
		msg.mode = APIC_LVT_MODE(value);
	if (lvt == APIC_LVT0 || lvt == APIC_LVT1)
		msg.level = (value & 1u << 15) != 0;
	if (lvt == APIC_LVTPC) /* SDM 3A 11.5.1: the performance entry masks itself */
		lapic_set_reg(l, APIC_LVTPC, value | APIC_LVT_MASKED);
	return lapic_accept(l, &msg);
}

/* --- register access -------------------------------------------------------------------------------------------- */

uint8_t lapic_cr8(const struct lapic *l)
{
	return (uint8_t)(lapic_reg(l, APIC_TASKPRI) >> 4 & 0xf);
}

void lapic_set_cr8(struct lapic *l, uint8_t cr8)
{
	lapic_set_reg(l, APIC_TASKPRI, (uint32_t)(cr8 & 0xf) << 4);
}

static void write_icr(struct lapic *l, uint32_t low, uint32_t dest)
{
	struct apic_msg msg = {
		.dest = dest,
		.vector = (uint8_t)low,
		.mode = low >> 8 & 7,
		.shorthand = low >> 18 & 3,
		.logical = (low & 1u << 11) != 0,
		.assert = (low & 1u << 14) != 0,
		.level = (low & 1u << 15) != 0,
		.x2apic = lapic_x2apic(l),
	};

	if (msg.mode <= APIC_DM_LOWEST && msg.vector < 16) {
		report_error(l, APIC_ESR_SEND_ILLEGAL);
		return;
	}
	if (msg.mode <= APIC_DM_LOWEST) /* SDM 3A 11.6.1: the level and trigger bits count for INIT only */
		msg.level = false;
	l->ops->ipi(l->opaque, l, &msg);
}

static void write_spiv(struct lapic *l, uint32_t value)
{
	lapic_set_reg(l, APIC_SPIV, value & (l->directed_eoi ? ~0u : ~APIC_SPIV_DIRECTED_EOI));
	if (value & APIC_SPIV_ENABLE)
		return;
	for (size_t i = 0; i < KAGE_ARRAY_SIZE(apic_lvts); i++)
		lapic_set_reg(l, apic_lvts[i], lapic_reg(l, apic_lvts[i]) | APIC_LVT_MASKED);
}

static uint32_t read_reg(struct lapic *l, uint32_t reg)
{
	switch (reg) {
	case APIC_TMCCT:
		return lapic_timer_tmcct(l);
	case APIC_PROCPRI:
		return lapic_ppr(l);
	default:
		return lapic_reg(l, reg);
	}
}

/* value is masked to the register's valid bits already */
static void write_reg(struct lapic *l, uint32_t reg, uint32_t value)
{
	switch (reg) {
	case APIC_EOI:
		lapic_eoi(l);
		break;
	case APIC_SPIV:
		write_spiv(l, value);
		break;
	case APIC_DFR:
		lapic_set_reg(l, APIC_DFR, value | 0x0fffffff);
		break;
	case APIC_ESR:
		lapic_set_reg(l, APIC_ESR, __atomic_exchange_n(&l->esr_pending, 0, __ATOMIC_SEQ_CST));
		break;
	case APIC_ICR:
		lapic_set_reg(l, APIC_ICR, value);
		write_icr(l, value, lapic_reg(l, APIC_ICR2) >> 24);
		break;
	case APIC_LVTT:
		lapic_timer_write_lvtt(l, value);
		break;
	case APIC_LVTTHMR:
	case APIC_LVTPC:
	case APIC_LVT0:
	case APIC_LVT1:
	case APIC_LVTERR:
		lapic_set_reg(l, reg, value | (lapic_sw_enabled(l) ? 0 : APIC_LVT_MASKED));
		break;
	case APIC_TMICT:
		lapic_timer_write_tmict(l, value);
		break;
	case APIC_TDCR:
		lapic_timer_write_tdcr(l, value);
		break;
	default: /* TPR, LDR, ICR2 */
		lapic_set_reg(l, reg, value);
		break;
	}
}

void lapic_mmio_read(struct lapic *l, uint32_t offset, void *data, uint32_t len)
{
	uint32_t byte = offset & 0xf, reg = offset & ~0xfu;
	uint32_t value = 0;

	memset(data, 0, len);
	/* SDM 3A 11.4.1: only the first 32 bits of every 16 bytes are there */
	if (byte + len > 4 || byte + len < len)
		return;
	if (reg < KVM_APIC_REG_SIZE && (apic_regs[reg >> 4].access & (R | XAPIC)) == (R | XAPIC))
		value = read_reg(l, reg);
	else if (reg != APIC_EOI)
		report_error(l, APIC_ESR_ILLEGAL_REG);
	memcpy(data, (const uint8_t *)&value + byte, len);
}

void lapic_mmio_write(struct lapic *l, uint32_t offset, const void *data, uint32_t len)
{
	uint32_t value;

	if (len != 4 || (offset & 0xf))
		return;
	if (offset == APIC_ID) /* read-only, as on processors since Nehalem */
		return;
	if (offset >= KVM_APIC_REG_SIZE || (apic_regs[offset >> 4].access & (W | XAPIC)) != (W | XAPIC)) {
		report_error(l, APIC_ESR_ILLEGAL_REG);
		return;
	}
	memcpy(&value, data, sizeof(value));
	write_reg(l, offset, value & apic_regs[offset >> 4].valid);
}

int lapic_x2apic_read(struct lapic *l, uint32_t msr, uint64_t *value)
{
	uint32_t reg = (msr - MSR_X2APIC_FIRST) << 4;

	if (!lapic_x2apic(l) || reg >= KVM_APIC_REG_SIZE ||
	    (apic_regs[reg >> 4].access & (R | X2APIC)) != (R | X2APIC))
		return -1;
	*value = read_reg(l, reg);
	if (reg == APIC_ICR)
		*value |= (uint64_t)lapic_reg(l, APIC_ICR2) << 32;
	return 0;
}

int lapic_x2apic_write(struct lapic *l, uint32_t msr, uint64_t value)
{
	uint32_t reg = (msr - MSR_X2APIC_FIRST) << 4;
	uint32_t low = (uint32_t)value;

	if (!lapic_x2apic(l) || reg >= KVM_APIC_REG_SIZE ||
	    (apic_regs[reg >> 4].access & (W | X2APIC)) != (W | X2APIC) || reg == APIC_LDR)
		return -1;
	if (reg == APIC_ICR) {
		if (low & APIC_ICR_X2APIC_RESERVED)
			return -1;
		lapic_set_reg(l, APIC_ICR, low & ~APIC_ICR_BUSY);
		lapic_set_reg(l, APIC_ICR2, (uint32_t)(value >> 32));
		write_icr(l, low, (uint32_t)(value >> 32));
		return 0;
	}
	if (reg == APIC_SELF_IPI) {
		if (value > 0xff)
			return -1;
		write_icr(l, low | APIC_DEST_SELF << 18 | 1u << 14, 0);
		return 0;
	}
	/* the delivery status of an LVT entry is read-only, a write of what was read is fine */
	if (reg >= APIC_LVTT && reg <= APIC_LVTERR)
		value &= ~(uint64_t)(APIC_LVT_PENDING | 1u << 14);
	if (value & ~(uint64_t)apic_regs[reg >> 4].valid)
		return -1;
	write_reg(l, reg, (uint32_t)value);
	return 0;
}

/* --- KVM_GET/SET_LAPIC ------------------------------------------------------------------------------------------ */

void lapic_get_state(struct lapic *l, struct kvm_lapic_state *out, bool ids32)
{
	uint32_t id;

	lapic_set_reg(l, APIC_TMCCT, lapic_timer_tmcct(l));
	lapic_set_reg(l, APIC_PROCPRI, lapic_ppr(l));
	memcpy(out->regs, l->regs, sizeof(out->regs));
	if (lapic_x2apic(l) && !ids32) {
		id = l->vcpu_id << 24;
		memcpy(out->regs + APIC_ID, &id, sizeof(id));
	}
}

int lapic_set_state(struct lapic *l, const struct kvm_lapic_state *in, bool ids32)
{
	uint32_t id;

	memcpy(&id, in->regs + APIC_ID, sizeof(id));
	if (lapic_x2apic(l) && ids32 && id != l->vcpu_id)
		return -EINVAL;
	memcpy(l->regs, in->regs, sizeof(l->regs));
	lapic_set_reg(l, APIC_LVR, APIC_VERSION | (l->directed_eoi ? APIC_LVR_DIRECTED_EOI : 0));
	lapic_set_reg(l, APIC_DFR, lapic_reg(l, APIC_DFR) | 0x0fffffff);
	if (lapic_x2apic(l))
		set_identity(l);
	__atomic_store_n(&l->esr_pending, 0, __ATOMIC_RELAXED);
	lapic_timer_resume(l);
	atomic_store(&l->irr_pending, true); /* let the next entry look */
	l->ops->kick(l->opaque, l);
	return 0;
}
