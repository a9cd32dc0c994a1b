/* SPDX-License-Identifier: MIT */
/*
 * A PCI function as a device is one: 256 bytes of configuration space, a mask of the bits that a guest can
 * write, and a callback for those that do something. bus/pci.h gives it a place.
 */
#ifndef KAGE_DEV_PCI_H
#define KAGE_DEV_PCI_H

#include <stdbool.h>
#include <stdint.h>

#define PCI_CONFIG_BYTES 256u

/* Offsets in configuration space (PCI 3.0, 6.1) */
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION_ID = 0x08,
    PCI_CLASS_PROG = 0x09,
    PCI_CLASS_DEVICE = 0x0a,
    PCI_HEADER_TYPE = 0x0e,
    PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
};
#define PCI_HEADER_MULTI_FUNCTION 0x80u

struct pci_function {
    const char *name;
    uint8_t config[PCI_CONFIG_BYTES];
    uint8_t writable[PCI_CONFIG_BYTES]; /* bits that a guest can change */
    /* Bytes [offset, offset + size) were written. The bus's lock is held. NULL: nothing to do. */
    void (*written)(void *self, unsigned offset, unsigned size);
    void *self;
};

/* Identification and class; everything else 0 and read-only. class is base class and subclass, 16 bits. */
void pci_function_init(struct pci_function *function, const char *name, uint16_t vendor, uint16_t device, uint16_t class, uint8_t revision);
void pci_set_word(uint8_t *config, unsigned offset, uint16_t value);
uint32_t pci_get_long(const uint8_t *config, unsigned offset);

#endif
