/* SPDX-License-Identifier: MIT */
#include "dev/ich9.h"

#include <string.h>

#include "dev/isa.h"

/* ---- LPC ---- */

#define PMBASE 0x40u
#define PMBASE_BITS 0xff80u
#define ACPI_CNTL 0x44u
#define ACPI_CNTL_ACPI_EN 0x80u
#define PIRQA_ROUT 0x60u
#define PIRQE_ROUT 0x68u
#define PIRQ_ROUT_OFF 0x80u
#define GEN_PMCON 0xa0u
#define RCBA 0xf0u
#define RCBA_BITS 0xffffc000u
#define RCBA_ENABLE 0x1u

/* Root complex registers: interrupt routes of the slots 31 to 25, as they come up. */
#define D31IR 0x3140u
#define D25IR 0x3150u
#define DIR_RESET 0x3210u

static unsigned ich9_rout(unsigned pirq)
{
    return pirq < 4 ? PIRQA_ROUT + pirq : PIRQE_ROUT + pirq - 4;
}

int ich9_lpc_irq(const struct ich9_lpc *lpc, unsigned pirq)
{
    uint8_t route = lpc->function.config[ich9_rout(pirq)];
    return (route & PIRQ_ROUT_OFF) == 0 ? route & 0xf : -1;
}

/*
 * Slots 25 to 31 have a register that says it, and its value after a reset is what firmware and _PRT take: A to D, in order. The
 * others, and 30, the old bridge to PCI, take turns over E to H.
 */
unsigned ich9_pirq_of(unsigned device, unsigned pin)
{
    return device >= 25 && device != 30 ? pin : (device == 30 ? pin : (device + pin) % 4) + 4;
}

static void ich9_lpc_written(void *self, unsigned offset, unsigned size)
{
    struct ich9_lpc *lpc = self;
    const uint8_t *config = lpc->function.config;
    uint16_t pm_base = (config[ACPI_CNTL] & ACPI_CNTL_ACPI_EN) != 0 ? pci_get_word(config, PMBASE) & PMBASE_BITS : 0;
    uint32_t rcba = pci_get_long(config, RCBA);
    uint32_t rcrb_base = (rcba & RCBA_ENABLE) != 0 ? rcba & RCBA_BITS : 0;
    if (offset < PIRQE_ROUT + 4 && offset + size > PIRQA_ROUT) {
        lpc->routed(lpc->opaque);
    }
    if (pm_base != lpc->pm_base) {
        lpc->pm_base = pm_base;
        lpc->pm_moved(lpc->opaque, pm_base);
    }
    if (rcrb_base != lpc->rcrb_base) {
        lpc->rcrb_base = rcrb_base;
        lpc->rcrb_moved(lpc->opaque, rcrb_base);
    }
}

static uint8_t ich9_rcrb_read_byte(void *self, unsigned offset)
{
    const struct ich9_lpc *lpc = self;
    return lpc->rcrb[offset];
}

/* Pins are wired as they come up: what a guest writes of their routes is not taken. */
static void ich9_rcrb_write_byte(void *self, unsigned offset, uint8_t value)
{
    struct ich9_lpc *lpc = self;
    if (offset < D31IR || offset >= D25IR + 2) {
        lpc->rcrb[offset] = value;
    }
}

static uint64_t ich9_rcrb_read(void *self, uint64_t offset, unsigned size)
{
    struct ich9_lpc *lpc = self;
    pthread_mutex_lock(&lpc->lock);
    uint64_t value = isa_read_bytes(ich9_rcrb_read_byte, self, offset, size);
    pthread_mutex_unlock(&lpc->lock);
    return value;
}

static void ich9_rcrb_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct ich9_lpc *lpc = self;
    pthread_mutex_lock(&lpc->lock);
    isa_write_bytes(ich9_rcrb_write_byte, self, offset, size, value);
    pthread_mutex_unlock(&lpc->lock);
}

const struct device_ops ich9_rcrb_ops = {.name = "root complex registers", .read = ich9_rcrb_read, .write = ich9_rcrb_write};

void ich9_lpc_init(struct ich9_lpc *lpc, const struct ich9_lpc_events *events)
{
    static const uint16_t routes[] = {0x3140, 0x3144, 0x3146, 0x3148, 0x314c, 0x3150}; /* D31IR, D29IR, D28IR, D27IR, D26IR, D25IR */
    *lpc = (struct ich9_lpc){
        .routed = events->routed, .pm_moved = events->pm_moved, .rcrb_moved = events->rcrb_moved, .opaque = events->opaque};
    pthread_mutex_init(&lpc->lock, NULL);
    struct pci_function *function = &lpc->function;
    pci_function_init(function, "ICH9 LPC", 0x8086, 0x2918, 0x0601, 0x02);
    function->written = ich9_lpc_written;
    function->self = lpc;
    function->config[PCI_HEADER_TYPE] = PCI_HEADER_MULTI_FUNCTION;
    function->config[PCI_COMMAND] = 0x07; /* always on */
    function->writable[PCI_COMMAND] = 0;
    pci_set_long(function->config, PMBASE, 0x1); /* an I/O space */
    pci_set_long(function->writable, PMBASE, PMBASE_BITS);
    function->writable[ACPI_CNTL] = ACPI_CNTL_ACPI_EN | 0x07;
    for (unsigned i = 0; i < ICH9_PIRQS; i++) {
        function->config[ich9_rout(i)] = PIRQ_ROUT_OFF;
        function->writable[ich9_rout(i)] = 0x8f;
    }
    pci_set_long(function->writable, GEN_PMCON, 0x0000ffff);
    pci_set_long(function->writable, RCBA, RCBA_BITS | RCBA_ENABLE);
    for (unsigned i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
        pci_set_word(lpc->rcrb, routes[i], DIR_RESET);
    }
}

void ich9_lpc_fini(struct ich9_lpc *lpc)
{
    pthread_mutex_destroy(&lpc->lock);
}

/* ---- SMBus (chapter 19): a transfer finds nobody ---- */

#define SMB_BAR 4u
#define SMB_BYTES 64u
#define HOSTC 0x40u
#define HST_STS 0x00u
#define HST_STS_DEV_ERR 0x04u
#define HST_STS_EVENTS 0xfeu /* write 1 to clear */
#define HST_CNT 0x02u
#define HST_CNT_START 0x40u

static uint8_t ich9_smbus_read_byte(void *self, unsigned offset)
{
    const struct ich9_smbus *smbus = self;
    return offset < sizeof(smbus->registers) ? smbus->registers[offset] : 0;
}

static void ich9_smbus_write_byte(void *self, unsigned offset, uint8_t value)
{
    struct ich9_smbus *smbus = self;
    if (offset == HST_STS) {
        smbus->registers[HST_STS] &= (uint8_t)~(value & HST_STS_EVENTS);
    } else if (offset < sizeof(smbus->registers)) {
        smbus->registers[offset] = value;
    }
    if (offset == HST_CNT && (value & HST_CNT_START) != 0) {
        smbus->registers[HST_CNT] &= (uint8_t)~HST_CNT_START;
        smbus->registers[HST_STS] |= HST_STS_DEV_ERR;
    }
}

static uint64_t ich9_smbus_read(void *self, uint64_t offset, unsigned size)
{
    struct ich9_smbus *smbus = self;
    pthread_mutex_lock(&smbus->lock);
    uint64_t value = isa_read_bytes(ich9_smbus_read_byte, self, offset, size);
    pthread_mutex_unlock(&smbus->lock);
    return value;
}

static void ich9_smbus_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct ich9_smbus *smbus = self;
    pthread_mutex_lock(&smbus->lock);
    isa_write_bytes(ich9_smbus_write_byte, self, offset, size, value);
    pthread_mutex_unlock(&smbus->lock);
}

static const struct device_ops ich9_smbus_ops = {.name = "SMBus", .read = ich9_smbus_read, .write = ich9_smbus_write};

void ich9_smbus_init(struct ich9_smbus *smbus)
{
    memset(smbus, 0, sizeof(*smbus));
    pthread_mutex_init(&smbus->lock, NULL);
    pci_function_init(&smbus->function, "ICH9 SMBus", 0x8086, 0x2930, 0x0c05, 0x02);
    smbus->function.self = smbus;
    smbus->function.config[PCI_INTERRUPT_PIN] = 1;
    smbus->function.writable[HOSTC] = 0x1d; /* host enable, SMI, I2C, reset */
    smbus->function.bars[SMB_BAR] = (struct pci_bar){.bytes = SMB_BYTES, .port = true, .ops = &ich9_smbus_ops, .device = smbus};
}

void ich9_smbus_fini(struct ich9_smbus *smbus)
{
    pthread_mutex_destroy(&smbus->lock);
}
