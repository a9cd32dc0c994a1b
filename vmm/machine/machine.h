/* SPDX-License-Identifier: MIT */
/*
 * A machine: what the user configured, made of the KVM API's objects, buses and devices. A board is
 * one function that builds one. A reset is a new machine of the same configuration: nothing of the
 * old one's state can survive by mistake.
 */
#ifndef KAGE_MACHINE_MACHINE_H
#define KAGE_MACHINE_MACHINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <kage.h>

#include "bus/bus.h"
#include "chardev/chardev.h"
#include "dev/acpi_pm.h"
#include "dev/hpet_timer.h"
#include "dev/i8042.h"
#include "dev/postcode.h"
#include "dev/powerctl.h"
#include "dev/rtc.h"
#include "dev/serial.h"
#include "dev/testdev.h"
#include "machine/acpi.h"
#include "bus/pci.h"
#include "machine/boot.h"
#include "machine/config.h"
#include "machine/disks.h"
#include "machine/events.h"
#include "machine/iothread.h"
#include "machine/ram.h"
#include "machine/runstate.h"
#include "util/error.h"
#include "util/loop.h"
#include "vcpu/topology.h"
#include "vcpu/vcpu.h"

#define MACHINE_SERIALS_MAX 2u
#define MACHINE_FLASHES_MAX 2u

struct machine;
struct pc;

/* A board: one function that builds a machine; what it leaves undone after a failure machine_fini() undoes. */
struct board {
    const char *name;
    const char *help;
    int (*init)(struct machine *machine, struct error *error);
    const char *pci_bus; /* what -device's bus= calls its PCI bus; NULL: it has none */
    bool has_firmware;   /* it needs no kernel */
    unsigned ide_units, ide_places; /* of its own disk controller: places of a bus, and all; 0: it has none, and disks are virtio's */
};
extern const struct board machine_boards[]; /* ends with a name of NULL */
const struct board *machine_find_board(const char *name);

struct machine_config {
    const struct board *board;
    const struct kvm_backend *backend;
    int mmu; /* KAGE_MMU_*, -1: the back end's own choice */
    struct loop *loop; /* stopped when the machine's power goes */
    uint64_t ram_bytes;
    struct ram_backing ram_backing;
    struct cpu_model cpu_model;
    struct cpu_topology smp;
    const char *kernel;
    const char *initrd;
    const char *cmdline;
    const char *boot_order; /* letters of -boot; of the first machine, perhaps another one */
    bool boot_menu, boot_strict;
    int boot_menu_wait, boot_fail_wait; /* milliseconds; -1: not said */
    bool acpi;
    bool rtc; /* announce the real-time clock to the guest */
    int64_t rtc_offset_seconds; /* its time less the host's UTC */
    unsigned serial_count;
    struct chardev *serial[MACHINE_SERIALS_MAX]; /* NULL: no such port */
    bool debug_exit;
    uint16_t debug_exit_port;
    uint16_t debug_exit_bytes;
    const char *bios; /* NULL: the board's own choice */
    struct drive *flash[MACHINE_FLASHES_MAX]; /* opened, without a loop; NULL: none */
    bool hpet;
    bool i8042; /* the keyboard controller's ports are there */
    struct input_hub *input; /* who types; NULL: nobody */
    uint16_t debugcon_port; /* 0: none */
    struct chardev *debugcon; /* NULL: its bytes go to the log only */
    uint16_t pvpanic_port; /* 0: none */
    bool testdev;
    struct run_watch *run_watch; /* NULL: nobody; told of each machine's stops, after its devices */
    bool kernel_cmdline; /* tell the kernel of devices that no table lists (microvm without ACPI) */
    struct config_lists *lists; /* devices, drives, objects, character backends; drives and backends are opened. They change while a machine runs */
};

struct virtio_mmio;
struct virtio_pci;
struct virtio_device;

struct pci_root_port;

/* A device of the user's, or a disk controller of the board's. */
struct machine_device {
    const struct device_spec *spec; /* NULL: the board's */
    struct virtio_device *virtio;   /* NULL: it is another */
    void *self;
    void (*release)(void *self);
    void (*stop)(void *self); /* of one that is not virtio: who waits goes on; NULL: nobody does */
    struct virtio_mmio *mmio; /* one of the two */
    struct virtio_pci *pci;
    struct pci_function *function;  /* on a PCI bus; NULL: it is on none */
    struct pci_root_port *root_port; /* NULL: it is none */
};

/* Where a board without PCI puts virtio devices. */
struct virtio_slots {
    uint64_t base;
    unsigned count; /* 0: it does not */
    const uint8_t *irqs;
};

struct machine {
    const struct machine_config *config;
    int system_fd;
    int vm_fd;
    struct ram ram;
    struct bus pio;
    struct bus mmio;
    struct vcpu *vcpus; /* the first is the boot processor */
    unsigned vcpu_count;
    struct serial serial[MACHINE_SERIALS_MAX];
    bool serial_present[MACHINE_SERIALS_MAX];
    struct rtc rtc;
    bool rtc_present;
    struct i8042 i8042;
    bool i8042_present;
    struct acpi_pm acpi_pm;
    bool acpi_pm_present;
    struct powerctl reset;
    struct powerctl port92;
    struct powerctl debug_exit;
    struct debugcon debugcon;
    bool debugcon_present;
    struct pvpanic pvpanic;
    struct postcode postcode;
    struct hpet_device *hpet; /* NULL: none */
    atomic_bool hpet_legacy;  /* it has the RTC's interrupt */
    struct testdev *testdev; /* NULL: none */
    struct pc *pc;           /* what only boards pc and q35 have (pc_common.h) */
    struct events events;
    struct dma dma;          /* memory as devices see it */
    struct pci_bus *pci;     /* NULL: the board has none */
    struct virtio_slots virtio_slots;
    unsigned virtio_slots_used;
    unsigned device_count;
    struct machine_device **devices; /* in the order in which they came; and the board's disk controller */
    unsigned boot_entry_count;
    struct boot_entry *boot_entries;
    struct power power;
    struct runstate run;
    unsigned iothread_count;
    struct iothread *iothreads;
    /* How it ended: enum power_event in the low 8 bits, the exit status above; 0 while it runs. */
    atomic_uint outcome;
};

/* Builds the machine, ready to start; `config` outlives it. On failure everything is undone. */
int machine_init(struct machine *machine, const struct machine_config *config, struct error *error);
void machine_fini(struct machine *machine);

/* Runs until the power goes, serving the loop. The outcome and the exit status that came with it. */
enum power_event machine_run(struct machine *machine, int *status, struct error *error);

/* Ends machine_run() from any thread: the first request counts. */
void machine_request(struct machine *machine, enum power_event event, int status);

/* The boards. */
int microvm_init(struct machine *machine, struct error *error);
int pc_init(struct machine *machine, struct error *error);
int q35_init(struct machine *machine, struct error *error);
void pc_fini(struct machine *machine);

#endif
