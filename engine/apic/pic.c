/* SPDX-License-Identifier: MIT */
/*
 * 8259A (datasheet 231468-003). Command words:
 *   ICW1  A0=0, D4=1    D0 ICW4 follows
 *   ICW2  A0=1          T7-T3 of the vector
 *   ICW3  A0=1          cascade (fixed: the slave is on line 2)
 *   ICW4  A0=1          D4 special fully nested, D1 automatic EOI
 *   OCW1  A0=1          mask
 *   OCW2  A0=0, D4:3=00 D7 rotate, D6 specific, D5 EOI, D2-D0 level
 *   OCW3  A0=0, D4:3=01 D6 change special mask to D5, D2 poll, D1 change read select to D0
 */
#include "apic/pic.h"

#include <string.h>

#define CASCADE 2
#define NO_PRIORITY 8u

static const uint8_t elcr_valid[2] = { 0xf8, 0xde };

/* 0 is the highest priority, NO_PRIORITY: mask is empty */
static uint32_t priority(const struct kvm_pic_state *s, uint32_t mask)
{
	uint32_t p = 0;

	mask &= 0xff;
	if (!mask)
		return NO_PRIORITY;
	while (!(mask & 1u << ((p + s->priority_add) & 7)))
		p++;
	return p;
}

/* The line that this chip asks service for, or -1. */
static int requested(const struct pic *pic, uint32_t which)
{
	const struct kvm_pic_state *s = &pic->chip[which];
	uint32_t in_service = s->isr, p = priority(s, s->irr & ~(uint32_t)s->imr);

	if (p == NO_PRIORITY)
		return -1;
	if (s->special_mask)
		in_service &= ~(uint32_t)s->imr;
	if (s->special_fully_nested_mode && which == 0)
		in_service &= ~(1u << CASCADE);
	return p < priority(s, in_service) ? (int)((p + s->priority_add) & 7) : -1;
}

static int set_line(struct kvm_pic_state *s, uint32_t line, bool level)
{
	uint8_t bit = (uint8_t)(1u << line);
	bool fresh = true;

	if (s->elcr & bit) {
		fresh = !level || !(s->irr & bit);
		s->irr = level ? s->irr | bit : s->irr & (uint8_t)~bit;
	} else if (level && !(s->last_irr & bit)) {
		fresh = !(s->irr & bit);
		s->irr |= bit;
	}
	s->last_irr = level ? s->last_irr | bit : s->last_irr & (uint8_t)~bit;
	return s->imr & bit ? -1 : fresh;
}

static void update(struct pic *pic)
{
	struct kvm_pic_state *master = &pic->chip[0];

	/* the cascade line follows the slave's INT; an edge for each look, so that no request of the slave is lost */
	if (requested(pic, 1) >= 0)
		(void)set_line(master, CASCADE, true);
	else
		master->irr &= (uint8_t)~(1u << CASCADE);
	master->last_irr &= (uint8_t)~(1u << CASCADE);
	atomic_store(&pic->output, requested(pic, 0) >= 0);
}

static void end_service(struct pic *pic, uint32_t which, uint32_t line)
{
	pic->chip[which].isr &= (uint8_t)~(1u << line);
	pic->acked |= 1u << (which * 8 + line);
}

static void begin_service(struct pic *pic, uint32_t which, uint32_t line)
{
	struct kvm_pic_state *s = &pic->chip[which];
	uint8_t bit = (uint8_t)(1u << line);

	s->isr |= bit;
	if (!(s->elcr & bit)) /* a level line stays requested until it falls */
		s->irr &= (uint8_t)~bit;
	if (s->auto_eoi) {
		if (s->rotate_on_auto_eoi)
			s->priority_add = (line + 1) & 7;
		end_service(pic, which, line);
	}
}

void pic_reset(struct pic *pic)
{
	memset(pic, 0, sizeof(*pic));
	pic->chip[0].elcr_mask = elcr_valid[0];
	pic->chip[1].elcr_mask = elcr_valid[1];
}

int pic_set_irq(struct pic *pic, uint32_t line, uint32_t source, bool level)
{
	int result;

	if (line >= 16 || source >= 8)
		return -1;
	if (level)
		pic->sources[line] |= (uint8_t)(1u << source);
	else
		pic->sources[line] &= (uint8_t)~(1u << source);
	result = set_line(&pic->chip[line >> 3], line & 7, pic->sources[line] != 0);
	update(pic);
	return result;
}

uint8_t pic_ack(struct pic *pic)
{
	int line = requested(pic, 0), second;
	uint8_t vector;

	if (line == CASCADE) {
		begin_service(pic, 0, CASCADE);
		second = requested(pic, 1);
		if (second >= 0)
			begin_service(pic, 1, (uint32_t)second);
		else
			second = 7; /* it went away: the default interrupt */
		vector = (uint8_t)(pic->chip[1].irq_base + second);
	} else if (line >= 0) {
		begin_service(pic, 0, (uint32_t)line);
		vector = (uint8_t)(pic->chip[0].irq_base + line);
	} else {
		vector = (uint8_t)(pic->chip[0].irq_base + 7);
	}
	update(pic);
	return vector;
}

static void write_icw1(struct pic *pic, uint32_t which, uint8_t value)
{
	struct kvm_pic_state *s = &pic->chip[which];
	uint32_t ended = (s->irr & ~(uint32_t)s->elcr) | s->isr;

	s->irr &= s->elcr; /* edges are forgotten, level lines are still up */
	s->imr = 0;
	s->isr = 0;
	s->priority_add = 0;
	s->special_mask = 0;
	s->read_reg_select = 0;
	s->poll = 0;
	s->rotate_on_auto_eoi = 0;
	s->init4 = value & 1;
	if (!s->init4) {
		s->auto_eoi = 0;
		s->special_fully_nested_mode = 0;
	}
	s->init_state = 1;
	pic->acked |= ended << (which * 8);
}

static void write_ocw2(struct pic *pic, uint32_t which, uint8_t value)
{
	struct kvm_pic_state *s = &pic->chip[which];
	bool rotate = value & 0x80, specific = value & 0x40, eoi = value & 0x20;
	uint32_t line = value & 7, p;

	if (!specific && !eoi) {
		s->rotate_on_auto_eoi = rotate;
		return;
	}
	if (eoi && !specific) {
		/* in special mask mode the bits that are masked are left alone */
		p = priority(s, s->special_mask ? s->isr & ~(uint32_t)s->imr : s->isr);
		if (p == NO_PRIORITY)
			return;
		line = (p + s->priority_add) & 7;
	}
	if (rotate)
		s->priority_add = (line + 1) & 7;
	if (eoi)
		end_service(pic, which, line);
}

static void write_command(struct pic *pic, uint32_t which, uint8_t value)
{
	struct kvm_pic_state *s = &pic->chip[which];

	if (value & 0x10) {
		write_icw1(pic, which, value);
	} else if (value & 0x08) {
		if (value & 0x04)
			s->poll = 1;
		if (value & 0x02)
			s->read_reg_select = value & 1;
		if (value & 0x40)
			s->special_mask = value >> 5 & 1;
	} else {
		write_ocw2(pic, which, value);
	}
}

static void write_data(struct kvm_pic_state *s, uint8_t value)
{
	switch (s->init_state) {
	case 1: /* ICW2 */
		s->irq_base = value & 0xf8;
		s->init_state = 2;
		break;
	case 2: /* ICW3 */
		s->init_state = s->init4 ? 3 : 0;
		break;
	case 3: /* ICW4 */
		s->special_fully_nested_mode = value >> 4 & 1;
		s->auto_eoi = value >> 1 & 1;
		s->init_state = 0;
		break;
	default: /* OCW1 */
		s->imr = value;
		break;
	}
}

void pic_write(struct pic *pic, uint16_t port, uint8_t value)
{
	uint32_t which = port >= 0x4d0 ? port & 1 : port >> 7 & 1;

	if (port >= 0x4d0)
		pic->chip[which].elcr = value & pic->chip[which].elcr_mask;
	else if (port & 1)
		write_data(&pic->chip[which], value);
	else
		write_command(pic, which, value);
	update(pic);
}

static uint8_t read_poll(struct pic *pic, uint32_t which)
{
	int line = requested(pic, which);

	pic->chip[which].poll = 0;
	if (line < 0)
		return 0;
	begin_service(pic, which, (uint32_t)line);
	update(pic);
	return (uint8_t)(0x80 | line);
}

uint8_t pic_read(struct pic *pic, uint16_t port)
{
	uint32_t which = port >= 0x4d0 ? port & 1 : port >> 7 & 1;
	struct kvm_pic_state *s = &pic->chip[which];

	if (port >= 0x4d0)
		return s->elcr;
	if (s->poll)
		return read_poll(pic, which);
	if (port & 1)
		return s->imr;
	return s->read_reg_select ? s->isr : s->irr;
}

void pic_set_state(struct pic *pic, uint32_t which, const struct kvm_pic_state *in)
{
	struct kvm_pic_state *s = &pic->chip[which];

	*s = *in;
	s->elcr_mask = elcr_valid[which];
	s->elcr &= s->elcr_mask;
	s->priority_add &= 7;
	s->init_state &= 3;
	update(pic);
}
