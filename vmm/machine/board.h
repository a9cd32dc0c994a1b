/* SPDX-License-Identifier: MIT */
/*
 * The pieces that every board of ours has: memory slots, the VM with its interrupt chips, the devices
 * of a PC that are always there, processors. A board calls them in its own physical order.
 */
#ifndef KAGE_MACHINE_BOARD_H
#define KAGE_MACHINE_BOARD_H

#include "machine/machine.h"

#define BOARD_SCI 9u
#define BOARD_RESET_PORT 0xcf9u

/* "-accel NAME: what: errno" */
int board_fail(const struct machine *machine, const char *what, struct error *error);
struct irq board_irq(struct machine *machine, uint32_t line);

/* KVM_SET_USER_MEMORY_REGION; flags: KVM_MEM_*. bytes 0: the slot goes. 0 or -errno. */
int board_set_slot(struct machine *machine, uint32_t slot, uint32_t flags, uint64_t gpa, uint8_t *host, uint64_t bytes);

/* Each returns 0, or -1 with `error` filled. */
int board_init_ram(struct machine *machine, struct error *error);
int board_init_vm(struct machine *machine, struct error *error);
int board_init_irqchip(struct machine *machine, struct error *error);
/* Places a device on the port bus. */
int board_place(struct machine *machine, uint16_t port, uint16_t bytes, const struct device_ops *ops, void *device, struct error *error);
/* Serial ports, RTC, i8042, port 92; what -device names. */
int board_init_devices(struct machine *machine, struct error *error);
/* Unless the user has none; `routes`: inputs of the I/O APIC that a timer can have, a bit each. */
int board_init_hpet(struct machine *machine, uint32_t routes, struct error *error);
/* All processors; all but the first wait for INIT and SIPI. */
int board_init_vcpus(struct machine *machine, struct error *error);
/* What the ACPI tables say of the devices above. */
void board_fill_acpi(const struct machine *machine, struct acpi_config *acpi);

#endif
