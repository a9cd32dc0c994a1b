/* SPDX-License-Identifier: MIT */
/*
 * The high precision event timers (IA-PC HPET 1.0a): a counter of 100 MHz and three comparators, each periodic or not, 64 or 32 bits
 * wide; no messages (FSB). A pure state machine over a clock; hpet_timer.c is its attachment.
 *
 *   000 GCAP_ID    63..32 period in fs | 31..16 vendor | 15 legacy routes | 13 64 bits | 12..8 timers less one | 7..0 revision
 *   010 GEN_CONF   1 LEG_RT_CNF: timer 0 is IRQ 0, timer 1 is IRQ 8 | 0 ENABLE_CNF
 *   020 GINTR_STA  a bit for each level-triggered timer that stands; write 1 to clear
 *   0F0 MAIN_CNT
 *   100+20n TnCONF 63..32 routes that it can have | 13..9 route | 8 32 bits | 6 VAL_SET | 5 can have 64 | 4 can be periodic
 *                  | 3 periodic | 2 enable | 1 level
 *   108+20n TnCMP
 */
#ifndef KAGE_DEV_HPET_H
#define KAGE_DEV_HPET_H

#include <stdbool.h>
#include <stdint.h>

#define HPET_GPA UINT64_C(0xfed00000)
#define HPET_BYTES 0x400u
#define HPET_TIMERS 3u
#define HPET_ID 0x8086a201u /* the low half of GCAP_ID */
#define HPET_TICK_NS 10u

struct hpet_backend {
    uint64_t (*now_ns)(void *opaque);
    /* `line`: an input of the I/O APIC; 0 and 8 of legacy routes are the ISA interrupts. */
    void (*set_irq)(void *opaque, unsigned line, bool level);
    /* hpet_expired() is to be called for the timer after that many nanoseconds; -1: not at all. */
    void (*arm)(void *opaque, unsigned timer, int64_t ns);
    /* The 8254's and the RTC's interrupts are replaced now, or not any more. */
    void (*legacy)(void *opaque, bool on);
};

struct hpet_timer {
    uint64_t config;
    uint64_t comparator;
    uint64_t period; /* what is added to the comparator of a periodic timer */
    int line;        /* that it holds up; -1: none */
};

struct hpet {
    const struct hpet_backend *backend;
    void *opaque;
    uint64_t config, status;
    uint64_t counter;  /* while it stands */
    uint64_t start_ns; /* since when it goes: `counter` is of then */
    struct hpet_timer timers[HPET_TIMERS];
};

/* routes: TnCONF's upper half. */
void hpet_init(struct hpet *hpet, uint32_t routes, const struct hpet_backend *backend, void *opaque);
/* `size` 1 to 8 bytes inside of an aligned 8. */
uint64_t hpet_read(struct hpet *hpet, unsigned offset, unsigned size);
void hpet_write(struct hpet *hpet, unsigned offset, unsigned size, uint64_t value);
/* The time has come that arm() was told. */
void hpet_expired(struct hpet *hpet, unsigned timer);

#endif
