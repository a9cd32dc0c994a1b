/* SPDX-License-Identifier: MIT */
/*
 * What a device is to the rest of the machine, and the rest of the machine to a device: registers at
 * offsets, an interrupt line, and the machine's power. A device never sees an absolute address, a
 * vCPU, an exit record or another device.
 */
#ifndef KAGE_DEV_DEVICE_H
#define KAGE_DEV_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Accesses to a device's registers. `offset` is from the start of the range, `size` 1, 2, 4 or 8, and
 * offset + size never passes the range's end. Called from any vCPU thread, at the same time as from
 * others: a device locks by itself.
 */
struct device_ops {
    const char *name;
    uint64_t (*read)(void *self, uint64_t offset, unsigned size);
    void (*write)(void *self, uint64_t offset, unsigned size, uint64_t value);
};

/* An interrupt line. `set` may be called from any thread. */
struct irq {
    void (*set)(void *opaque, uint32_t line, bool level);
    void *opaque;
    uint32_t line;
};

static inline void irq_set(const struct irq *irq, bool level)
{
    irq->set(irq->opaque, irq->line, level);
}

/*
 * Guest memory for a device that masters the bus: host bytes of guest-physical [gpa, gpa + bytes), or NULL where that is not all RAM of
 * one piece. What it gives stays valid as long as the machine is there. From any thread.
 */
struct dma {
    uint8_t *(*at)(void *opaque, uint64_t gpa, uint64_t bytes);
    void *opaque;
};

static inline uint8_t *dma_at(const struct dma *dma, uint64_t gpa, uint64_t bytes)
{
    return dma->at(dma->opaque, gpa, bytes);
}

/*
 * Message-signalled interrupts. A route is a number that open() gives, and the message that set() gives it; what is signalled before that
 * is lost. signal() may be called from any thread; the others while nobody signals that route.
 */
struct msi {
    int (*open)(void *opaque); /* a route, or -errno */
    void (*set)(void *opaque, int route, uint64_t address, uint32_t data);
    void (*signal)(void *opaque, int route);
    void (*close)(void *opaque, int route);
    void *opaque;
};

/*
 * Doorbells: a guest's write of `value` (`match`; else any value) of `bytes` bytes to an address adds 1 to the eventfd instead of leaving
 * the guest. 0 or -errno; where it fails, the write comes as every other. From any thread.
 */
struct doorbell {
    bool port; /* a port; else memory */
    bool match;
    uint64_t address;
    uint32_t bytes;
    uint64_t value;
    int fd;
};

struct doorbells {
    int (*add)(void *opaque, const struct doorbell *doorbell);
    void (*remove)(void *opaque, const struct doorbell *doorbell);
    void *opaque;
};

enum power_event {
    POWER_NONE,
    POWER_OFF,   /* the guest has switched itself off */
    POWER_RESET, /* the guest asks for a reset */
    POWER_EXIT,  /* a test device ends the VMM with `status` */
    POWER_ERROR, /* a vCPU cannot go on */
    POWER_QUIT,  /* somebody outside asks the VMM to end */
};

/* The machine's power switch. The first request counts. From any thread. */
struct power {
    void (*request)(void *opaque, enum power_event event, int status);
    void *opaque;
};

static inline void power_request(const struct power *power, enum power_event event, int status)
{
    power->request(power->opaque, event, status);
}

/*
 * Run states, spelled as QMP's RunState; those that a machine here can be in. Not running: no vCPU executes, and the guest's clock stands.
 */
enum run_state {
    RUN_STATE_PRELAUNCH, /* not started yet */
    RUN_STATE_RUNNING,
    RUN_STATE_PAUSED,    /* a user has stopped it */
    RUN_STATE_IO_ERROR,  /* a disk waits: werror=, rerror= */
    RUN_STATES,
};

/* Told, on the main loop's thread, when the machine has stopped (every vCPU stands) or goes on. In its owner's storage. */
struct run_watch {
    void (*changed)(void *opaque, bool running);
    void *opaque;
    struct run_watch *next;
};

/*
 * How a device stops the machine. stop() may be called from any thread, a vCPU's too, with a device's lock; it asks and does not wait, and
 * does nothing to a machine that is stopping or has stopped. `text` says why, for people. What must be done again when the machine goes on
 * is put where changed() finds it *before* stop() is called. watch() and unwatch() on the main loop's thread.
 */
struct run_control {
    void (*stop)(void *opaque, enum run_state state, const char *text);
    void (*watch)(void *opaque, struct run_watch *watch);
    void (*unwatch)(void *opaque, struct run_watch *watch);
    void *opaque;
};

#endif
