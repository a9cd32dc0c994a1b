/* SPDX-License-Identifier: MIT */
/*
 * The ACPI tables of a board without PCI: RSDP, XSDT, FADT, FACS, MADT, DSDT.
 */
#ifndef KAGE_MACHINE_ACPI_H
#define KAGE_MACHINE_ACPI_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/ram.h"
#include "vcpu/topology.h"

#define ACPI_SERIAL_MAX 2u

struct acpi_serial {
    uint16_t port;
    uint8_t irq;
};

struct acpi_config {
    const struct cpu_topology *topology;
    bool rtc; /* announce the real-time clock */
    uint16_t pm_port; /* dev/acpi_pm.h */
    uint8_t sci;
    uint16_t reset_port;
    uint8_t reset_value;
    unsigned serial_count;
    struct acpi_serial serial[ACPI_SERIAL_MAX];
};

/* Writes the tables to LAYOUT_ACPI_GPA. Returns the RSDP's address; 0: there is no room. */
uint64_t acpi_write(const struct ram *ram, const struct acpi_config *config);

#endif
