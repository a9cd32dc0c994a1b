/* SPDX-License-Identifier: MIT */
/*
 * The ACPI tables of our boards: RSDP, XSDT, FADT, FACS, MADT, DSDT; HPET and MCFG where there is such a thing.
 */
#ifndef KAGE_MACHINE_ACPI_H
#define KAGE_MACHINE_ACPI_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/ram.h"
#include "vcpu/topology.h"

#define ACPI_SERIAL_MAX 2u
#define ACPI_VIRTIO_BYTES 512u

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
    uint16_t pvpanic_port; /* 0: none */
    bool pm_timer;         /* ACPI_PM_TMR_AT behind pm_port */
    bool hpet;             /* dev/hpet.h */
    bool i8042;            /* with a keyboard and a mouse: dev/i8042.h */
    bool pci;              /* a host bridge with configuration mechanism #1 */
    uint64_t pci_gpa;      /* memory below the I/O APIC from here on is its, but for what follows */
    uint64_t ecam_gpa, ecam_bytes; /* PCI Express: configuration spaces of buses from 0 on; 0 bytes: none */
    uint64_t pci_high_gpa, pci_high_last; /* memory behind all RAM that is its too; both 0: none */
    /* Interrupts of a device's pins, 0 INTA to 3 INTD: the PIRQ, and its GSI. NULL: pins go nowhere. */
    unsigned (*pirq_of)(unsigned device, unsigned pin);
    const uint8_t *pirq_gsi;
    unsigned virtio_count; /* virtio-mmio devices, one behind the other */
    uint64_t virtio_gpa;
    const uint8_t *virtio_gsi;
    unsigned serial_count;
    struct acpi_serial serial[ACPI_SERIAL_MAX];
};

/* Writes the tables to LAYOUT_ACPI_GPA. Returns the RSDP's address; 0: there is no room. */
uint64_t acpi_write(const struct ram *ram, const struct acpi_config *config);

#define ACPI_FIXUPS_MAX 32u
#define ACPI_RSDP_BYTES 36u

/*
 * The same tables for firmware to place: addresses in them count from the first byte of `tables`, and
 * each field with an address, and each checksum, is listed.
 */
struct acpi_blob {
    uint8_t *tables; /* in: room for them */
    size_t room, bytes;
    uint8_t rsdp[ACPI_RSDP_BYTES]; /* points to the XSDT, at offset 24 */
    unsigned pointer_count, checksum_count;
    struct {
        uint32_t offset;
        uint8_t size;
    } pointers[ACPI_FIXUPS_MAX];
    struct {
        uint32_t at, start, bytes;
    } checksums[ACPI_FIXUPS_MAX];
};

/* False: there is no room. */
bool acpi_write_blob(struct acpi_blob *blob, const struct acpi_config *config);

#endif
