/* SPDX-License-Identifier: MIT */
/*
 * The PC's real-time clock and its 128 bytes of battery-backed RAM (Motorola MC146818A, data sheet
 * names). The clock is the host's plus an offset that the guest sets. The chip is a pure state machine
 * over a clock callback; rtc.c is its attachment.
 */
#ifndef KAGE_DEV_CMOS_H
#define KAGE_DEV_CMOS_H

#include <stdbool.h>
#include <stdint.h>

#define CMOS_BYTES 128u

struct cmos_backend {
    int64_t (*now_ns)(void *opaque); /* nanoseconds since 1970, UTC */
    void (*set_irq)(void *opaque, bool level);
};

struct cmos {
    const struct cmos_backend *backend;
    void *opaque;
    int64_t offset_ns; /* guest's time less the host's */
    int64_t seen_ns;   /* guest's time up to which the flags of register C are made */
    uint8_t index;
    uint8_t ram[CMOS_BYTES]; /* clock registers here count only while SET is on */
    bool irq_level;
};

void cmos_init(struct cmos *cmos, const struct cmos_backend *backend, void *opaque);
/* What the reset pin does: interrupts off; time and RAM stay. */
void cmos_reset(struct cmos *cmos);
/* The guest's time less the host's. Before a guest looks. */
void cmos_set_offset(struct cmos *cmos, int64_t seconds);
/* Where firmware looks for the size of memory: below and above 4 GiB. */
void cmos_set_memory(struct cmos *cmos, uint64_t low_bytes, uint64_t high_bytes);
/*
 * Where SeaBIOS looks for the number of processors, 1 to 256, and the order of devices to boot from: up to three of a floppy, c disk,
 * d CD-ROM, n network; others are passed over.
 */
void cmos_set_boot(struct cmos *cmos, unsigned cpus, const char *order);

/* Port 0 selects, port 1 is the selected byte. */
uint8_t cmos_read(struct cmos *cmos, unsigned port);
void cmos_write(struct cmos *cmos, unsigned port, uint8_t value);

/* Makes the flags up to now, and the interrupt. */
void cmos_update(struct cmos *cmos);
/* Nanoseconds until an enabled interrupt can come next; -1: none is enabled. */
int64_t cmos_next_ns(const struct cmos *cmos);

#endif
