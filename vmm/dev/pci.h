/* SPDX-License-Identifier: MIT */
/*
 * A PCI function as a device is one: 256 bytes of configuration space, a mask of the bits that a guest can
 * write, base address registers with what answers behind them, an interrupt pin, and callbacks for what does something.
 * bus/pci.h gives it a place.
 */
#ifndef KAGE_DEV_PCI_H
#define KAGE_DEV_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "dev/device.h"

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
    PCI_BASE_ADDRESS_0 = 0x10,
    /* of a bridge */
    PCI_PRIMARY_BUS = 0x18,
    PCI_SECONDARY_BUS = 0x19,
    PCI_SUBORDINATE_BUS = 0x1a,
    PCI_IO_BASE = 0x1c,
    PCI_IO_LIMIT = 0x1d,
    PCI_SEC_STATUS = 0x1e,
    PCI_MEMORY_BASE = 0x20,
    PCI_MEMORY_LIMIT = 0x22,
    PCI_PREF_MEMORY_BASE = 0x24,
    PCI_PREF_MEMORY_LIMIT = 0x26,
    PCI_PREF_BASE_UPPER32 = 0x28,
    PCI_PREF_LIMIT_UPPER32 = 0x2c,
    PCI_IO_BASE_UPPER16 = 0x30,
    PCI_BRIDGE_CONTROL = 0x3e,
    PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_CAPABILITIES_POINTER = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
};
#define PCI_HEADER_MULTI_FUNCTION 0x80u
#define PCI_HEADER_BRIDGE 0x01u

#define PCI_COMMAND_IO 0x0001u
#define PCI_COMMAND_MEMORY 0x0002u
#define PCI_COMMAND_MASTER 0x0004u
#define PCI_COMMAND_INTX_DISABLE 0x0400u
#define PCI_STATUS_INTERRUPT 0x0008u
#define PCI_STATUS_CAPABILITIES 0x0010u

#define PCI_BARS 6u

/* A base address register. A 64-bit one takes its number and the next. */
struct pci_bar {
    uint64_t bytes; /* a power of 2, at least 4 of ports and 16 of memory; 0: there is none */
    bool port, wide, prefetchable;
    const struct device_ops *ops;
    void *device;
    /* The bus's. */
    uint64_t base;
    bool mapped;
};

struct pci_bus;

struct pci_function {
    const char *name;
    uint8_t config[PCI_CONFIG_BYTES];
    uint8_t writable[PCI_CONFIG_BYTES]; /* bits that a guest can change */
    struct pci_bar bars[PCI_BARS];      /* set before the function goes on a bus */
    /* Configuration space gives something else than `config` there. NULL: never. */
    uint64_t (*read)(void *self, unsigned offset, unsigned size, uint64_t value);
    /* Bytes [offset, offset + size) were written. The bus's lock is held. NULL: nothing to do. */
    void (*written)(void *self, unsigned offset, unsigned size);
    /* A BAR is decoded at bars[].base now, or not any more (`mapped`). The bus's lock is held. NULL: nothing to do. */
    void (*moved)(void *self, unsigned bar);
    void *self;
    unsigned capabilities_end; /* of pci_add_capability() */
    bool express;              /* it has a PCI Express capability, and extended configuration space, which is empty */
    struct pci_bus *secondary; /* what is behind it, of a bridge; NULL: nothing */
    /* The bus's: where it is, where its pin is connected, and the two inputs of that. */
    struct pci_bus *bus;
    uint8_t devfn;
    struct irq intx;
    bool intx_asserted, intx_disabled;
    struct pci_function *next; /* of the whole hierarchy, in the order in which they came */
};

/* Identification and class; everything else 0 and read-only. class is base class and subclass, 16 bits. */
void pci_function_init(struct pci_function *function, const char *name, uint16_t vendor, uint16_t device, uint16_t class, uint8_t revision);
void pci_set_word(uint8_t *config, unsigned offset, uint16_t value);
void pci_set_long(uint8_t *config, unsigned offset, uint32_t value);
uint16_t pci_get_word(const uint8_t *config, unsigned offset);
uint32_t pci_get_long(const uint8_t *config, unsigned offset);
/* Links a capability of `bytes` bytes, its two first ones filled in. Its offset; -ENOSPC. */
int pci_add_capability(struct pci_function *function, uint8_t id, unsigned bytes);


/* PCI Express (PCI Express 4.0, 7.5.3): kinds of functions, and offsets in the capability that a root port has more to say at. */
enum { PCI_EXPRESS_ENDPOINT = 0x0, PCI_EXPRESS_ROOT_PORT = 0x4 };
enum { PCI_EXPRESS_LINK_CAPABILITIES = 0x0c, PCI_EXPRESS_SLOT_CAPABILITIES = 0x14, PCI_EXPRESS_SLOT_STATUS = 0x1a, PCI_EXPRESS_ROOT_CONTROL = 0x1c };
/* The capability, of a link of one lane; `flags`: more of its first register. Its offset; -ENOSPC. */
int pci_add_express(struct pci_function *function, unsigned kind, uint16_t flags);

#endif
