/* SPDX-License-Identifier: MIT */
#include "dev/piix.h"

#define PIRQRC_A 0x60u
#define PIRQRC_OFF 0x80u

#define PMBASE 0x40u
#define PMBASE_BITS 0xffc0u
#define DEVACTB_APMC_EN 0x5bu /* bit 25 of DEVACTB: firmware reads it as "there is no SMM left to set up" */
#define PMREGMISC 0x80u
#define PMREGMISC_PMIOSE 0x01u

static void piix_isa_written(void *self, unsigned offset, unsigned size)
{
    struct piix_isa *isa = self;
    if (offset < PIRQRC_A + PIIX_PIRQS && offset + size > PIRQRC_A) {
        isa->routed(isa->opaque);
    }
}

int piix_isa_irq(const struct piix_isa *isa, unsigned pirq)
{
    uint8_t route = isa->function.config[PIRQRC_A + pirq];
    return (route & PIRQRC_OFF) == 0 ? route & 0xf : -1;
}

void piix_isa_init(struct piix_isa *isa, void (*routed)(void *opaque), void *opaque)
{
    *isa = (struct piix_isa){.routed = routed, .opaque = opaque};
    pci_function_init(&isa->function, "PIIX3 ISA", 0x8086, 0x7000, 0x0601, 0x00);
    isa->function.written = piix_isa_written;
    isa->function.self = isa;
    isa->function.config[PCI_HEADER_TYPE] = PCI_HEADER_MULTI_FUNCTION;
    isa->function.config[PCI_COMMAND] = 0x07; /* always on */
    isa->function.writable[PCI_COMMAND] = 0;
    for (unsigned i = 0; i < 4; i++) {
        isa->function.config[PIRQRC_A + i] = PIRQRC_OFF;
        isa->function.writable[PIRQRC_A + i] = 0x8f;
    }
    pci_set_word(isa->function.config, 0x4c, 0x004d); /* IORT */
    pci_set_word(isa->function.config, 0x4e, 0x0003); /* XBCS */
    isa->function.writable[0x4e] = 0xff;
    isa->function.writable[0x4f] = 0x07;
}

static void piix_pm_written(void *self, unsigned offset, unsigned size)
{
    struct piix_pm *pm = self;
    const uint8_t *config = pm->function.config;
    uint16_t base = (uint16_t)(pci_get_long(config, PMBASE) & PMBASE_BITS);

    (void)offset;
    (void)size;
    if ((config[PMREGMISC] & PMREGMISC_PMIOSE) == 0) {
        base = 0;
    }
    if (base != pm->base) {
        pm->base = base;
        pm->moved(pm->opaque, base);
    }
}

void piix_pm_init(struct piix_pm *pm, uint8_t sci, void (*moved)(void *opaque, uint16_t base), void *opaque)
{
    *pm = (struct piix_pm){.moved = moved, .opaque = opaque};
    pci_function_init(&pm->function, "PIIX4 PM", 0x8086, 0x7113, 0x0680, 0x03);
    pm->function.written = piix_pm_written;
    pm->function.self = pm;
    pm->function.config[PCI_INTERRUPT_LINE] = sci;
    pm->function.config[PCI_INTERRUPT_PIN] = 1;
    pm->function.config[PMBASE] = 0x01; /* an I/O space */
    pm->function.writable[PMBASE] = PMBASE_BITS & 0xff;
    pm->function.writable[PMBASE + 1] = PMBASE_BITS >> 8;
    pm->function.config[DEVACTB_APMC_EN] = 0x02;
    pm->function.writable[PMREGMISC] = PMREGMISC_PMIOSE;
}
