/* SPDX-License-Identifier: MIT */
/*
 * The two cascaded 8259A interrupt controllers, with the PIIX edge/level registers. A pure state machine: the owner holds
 * its lock around all calls, but for reading `output`.
 */
#ifndef KAGE_APIC_PIC_H
#define KAGE_APIC_PIC_H

#include <linux/kvm.h>
#include <stdatomic.h>

#include "arch/types.h"

struct pic {
	struct kvm_pic_state chip[2]; /* master, slave */
	_Atomic bool output;          /* the master's INT line */
	uint8_t sources[16];          /* level of each source, OR'ed onto the line */
	uint32_t acked;               /* lines whose service ended since the owner last cleared this */
};

void pic_reset(struct pic *pic);
/* 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 */
uint8_t pic_read(struct pic *pic, uint16_t port);
void pic_write(struct pic *pic, uint16_t port, uint8_t value);
/* -1 masked, 0 coalesced, 1 delivered */
int pic_set_irq(struct pic *pic, uint32_t line, uint32_t source, bool level);
/* INTA: the vector */
uint8_t pic_ack(struct pic *pic);
/* KVM_SET_IRQCHIP: which is 0 or 1 */
void pic_set_state(struct pic *pic, uint32_t which, const struct kvm_pic_state *in);

#endif
