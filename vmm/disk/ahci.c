/* SPDX-License-Identifier: MIT */
/*
 * Registers of the controller and its ports (AHCI 1.3.1, 3), resets (10.4), interrupts (10.7), the PCI function, life.
 */
#include "disk/ahci_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"

/* Generic host control */
enum { HBA_CAP = 0x00, HBA_GHC = 0x04, HBA_IS = 0x08, HBA_PI = 0x0c, HBA_VS = 0x10, HBA_PORTS = 0x100 };
#define CAP_VALUE (0x80000000u /* S64A */ | 0x40000000u /* SNCQ */ | 0x01000000u /* SCLO */ | 3u << 20 /* 6 Gb/s */ | 0x00040000u /* SAM */ | \
                   0x00008000u /* PMD */ | (AHCI_SLOTS - 1) << 8 | (AHCI_PORTS - 1))
#define VS_VALUE 0x00010300u
#define GHC_HR 0x00000001u
#define GHC_IE 0x00000002u
#define GHC_AE 0x80000000u /* there is no other way: SAM */

enum {
    PORT_CLB = 0x00,
    PORT_CLBU = 0x04,
    PORT_FB = 0x08,
    PORT_FBU = 0x0c,
    PORT_IS = 0x10,
    PORT_IE = 0x14,
    PORT_CMD = 0x18,
    PORT_TFD = 0x20,
    PORT_SIG = 0x24,
    PORT_SSTS = 0x28,
    PORT_SCTL = 0x2c,
    PORT_SERR = 0x30,
    PORT_SACT = 0x34,
    PORT_CI = 0x38,
};
#define PORT_BYTES 0x80u
#define PORT_IS_CLEARABLE 0xfd8000afu
#define PORT_IE_BITS 0xfdc000ffu
#define SCTL_BITS 0x00000fffu
#define SERR_BITS 0x07ff0f03u
#define SERR_X 0x04000000u /* exchanged: a COMINIT has come */
#define SSTS_UP 0x00000133u /* active, 6 Gb/s, device there */
#define SSTS_OFF 0x00000004u
#define TFD_NONE 0x0000007fu
#define DET_NONE 0u
#define DET_COMRESET 1u
#define DET_OFF 4u

/* ---- Interrupts ---- */

static uint32_t ahci_port_pending(const struct ahci_port *port)
{
    return port->is | ((port->serr & SERR_X) != 0 ? PORT_IS_PCS : 0);
}

/* IS has a bit for each port with something that is enabled; a bit that comes is a message. */
static void ahci_update_interrupt(struct ahci *ahci)
{
    uint32_t before = ahci->is;
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        ahci->is |= (ahci_port_pending(&ahci->ports[i]) & ahci->ports[i].ie) != 0 ? 1u << i : 0;
    }
    bool enabled = (ahci->ghc & GHC_IE) != 0;
    bool level = enabled && ahci->is != 0 && !ahci->messages;
    if (enabled && ahci->messages && ((ahci->is & ~before) != 0 || !ahci->told)) {
        msi_signal(&ahci->msi);
    }
    ahci->told = enabled || ahci->is == 0;
    if (level != ahci->level) {
        ahci->level = level;
        irq_set(&ahci->function.intx, level);
    }
}

void ahci_raise(struct ahci_port *port, uint32_t bits)
{
    port->is |= bits;
    ahci_update_interrupt(port->ahci);
}

/* ---- Resets ---- */

static void ahci_show_device(struct ahci_port *port, bool soft)
{
    struct ata_registers registers = {0};
    ata_reset(&port->drive, soft, &registers);
    port->sig = ata_signature(&port->drive);
    ahci_send_signature(port, &registers);
}

void ahci_drained(struct ahci_port *port)
{
    struct ahci *ahci = port->ahci;
    if (port->taken != 0) {
        return;
    }
    if (port->resetting && (port->sctl & 0xf) == DET_NONE) {
        bool soft = port->ssts == SSTS_UP && port->sig != UINT32_MAX;
        port->resetting = false;
        port->ssts = SSTS_UP;
        ahci_show_device(port, soft);
    }
    if ((port->cmd & PORT_CMD_ST) == 0) {
        port->cmd &= ~PORT_CMD_CR;
    }
    if ((ahci->ghc & GHC_HR) != 0) {
        bool all = true;
        for (unsigned i = 0; i < AHCI_PORTS; i++) {
            all = all && ahci->ports[i].taken == 0;
        }
        ahci->ghc = all ? GHC_AE : ahci->ghc;
    }
}

/* The link goes down; it comes up when SCTL lets it, with a signature. */
static void ahci_reset_link(struct ahci_port *port)
{
    ahci_drop(port);
    port->soft_reset = false;
    if (port->present) {
        port->resetting = true;
        port->sig = UINT32_MAX;
        port->ssts = 0;
        port->tfd = TFD_NONE | ATA_BSY;
    }
}

static void ahci_reset_port(struct ahci_port *port)
{
    port->is = port->ie = port->serr = port->sctl = port->sact = port->ci = 0;
    port->cmd = PORT_CMD_SUD | PORT_CMD_POD | (port->present && port->drive.config.cdrom ? PORT_CMD_ATAPI : 0);
    port->halted = false;
    port->next_slot = 0;
    port->tfd = TFD_NONE;
    port->sig = UINT32_MAX;
    port->ssts = 0;
    ahci_reset_link(port);
}

static void ahci_reset_hba(struct ahci *ahci)
{
    ahci->ghc = GHC_AE | GHC_HR;
    ahci->is = 0;
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        ahci_reset_port(&ahci->ports[i]);
    }
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        ahci_drained(&ahci->ports[i]);
    }
    ahci_update_interrupt(ahci);
}

/* ---- A port's registers ---- */

static void ahci_write_sctl(struct ahci_port *port, uint32_t value)
{
    unsigned before = port->sctl & 0xf, det = value & 0xf;
    port->sctl = value & SCTL_BITS;
    if (!port->present || det == before) {
        return;
    }
    if (det == DET_COMRESET || det == DET_OFF) {
        ahci_reset_link(port);
        port->ssts = det == DET_OFF ? SSTS_OFF : 0;
    } else if (det == DET_NONE) {
        port->ssts = SSTS_UP; /* the signature comes once the host has finished */
        port->serr |= SERR_X;
        ahci_drained(port);
        ahci_update_interrupt(port->ahci);
    }
}

static void ahci_stop_port(struct ahci_port *port)
{
    port->ci = port->sact = 0;
    port->halted = false;
    ahci_drop(port);
    ahci_drained(port);
}

static void ahci_write_cmd(struct ahci_port *port, uint32_t value)
{
    uint32_t before = port->cmd, kept = PORT_CMD_ST | PORT_CMD_FRE | PORT_CMD_ATAPI;
    port->cmd = (before & ~kept) | (value & kept);
    port->cmd = (port->cmd & PORT_CMD_FRE) != 0 ? port->cmd | PORT_CMD_FR : port->cmd & ~PORT_CMD_FR;
    if ((value & PORT_CMD_CLO) != 0) { /* and reads as 0 at once */
        port->tfd &= ~(uint32_t)(ATA_BSY | ATA_DRQ);
    }
    if ((before & PORT_CMD_ST) != 0 && (value & PORT_CMD_ST) == 0) {
        ahci_stop_port(port);
    } else if ((before & PORT_CMD_ST) == 0 && (value & PORT_CMD_ST) != 0) {
        if ((before & PORT_CMD_CR) != 0) {
            log_line(LOG_GUEST, "AHCI port %u: started before it has stopped", port->index);
            port->cmd &= ~PORT_CMD_ST;
        } else {
            port->cmd |= PORT_CMD_CR;
            port->next_slot = 0;
            ahci_run(port);
        }
    }
}

static uint32_t ahci_port_read(const struct ahci_port *port, unsigned offset)
{
    switch (offset) {
    case PORT_CLB:
        return (uint32_t)port->clb;
    case PORT_CLBU:
        return (uint32_t)(port->clb >> 32);
    case PORT_FB:
        return (uint32_t)port->fb;
    case PORT_FBU:
        return (uint32_t)(port->fb >> 32);
    case PORT_IS:
        return ahci_port_pending(port);
    case PORT_IE:
        return port->ie;
    case PORT_CMD:
        return port->cmd;
    case PORT_TFD:
        return port->tfd;
    case PORT_SIG:
        return port->sig;
    case PORT_SSTS:
        return port->ssts;
    case PORT_SCTL:
        return port->sctl;
    case PORT_SERR:
        return port->serr;
    case PORT_SACT:
        return port->sact;
    case PORT_CI:
        return port->ci;
    default:
        return 0;
    }
}

static uint64_t ahci_low(uint64_t old, uint32_t value, uint32_t mask)
{
    return (old & ~UINT64_C(0xffffffff)) | (value & mask);
}

static uint64_t ahci_high(uint64_t old, uint32_t value)
{
    return (uint32_t)old | (uint64_t)value << 32;
}

static void ahci_port_write(struct ahci_port *port, unsigned offset, uint32_t value)
{
    switch (offset) {
    case PORT_CLB:
        port->clb = ahci_low(port->clb, value, 0xfffffc00);
        break;
    case PORT_CLBU:
        port->clb = ahci_high(port->clb, value);
        break;
    case PORT_FB:
        port->fb = ahci_low(port->fb, value, 0xffffff00);
        break;
    case PORT_FBU:
        port->fb = ahci_high(port->fb, value);
        break;
    case PORT_IS:
        port->is &= ~(value & PORT_IS_CLEARABLE);
        break;
    case PORT_IE:
        port->ie = value & PORT_IE_BITS;
        break;
    case PORT_CMD:
        ahci_write_cmd(port, value);
        break;
    case PORT_SCTL:
        ahci_write_sctl(port, value);
        break;
    case PORT_SERR:
        port->serr &= ~(value & SERR_BITS);
        break;
    case PORT_SACT:
        port->sact |= (port->cmd & PORT_CMD_ST) != 0 ? value : 0;
        break;
    case PORT_CI:
        port->ci |= (port->cmd & PORT_CMD_ST) != 0 ? value : 0;
        ahci_run(port);
        break;
    default:
        break;
    }
    ahci_update_interrupt(port->ahci);
}

/* ---- The controller's registers ---- */

static uint32_t ahci_register_read(struct ahci *ahci, unsigned offset)
{
    if (offset >= HBA_PORTS) {
        unsigned port = (offset - HBA_PORTS) / PORT_BYTES;
        return port < AHCI_PORTS ? ahci_port_read(&ahci->ports[port], (offset - HBA_PORTS) % PORT_BYTES) : 0;
    }
    return offset == HBA_CAP   ? CAP_VALUE
           : offset == HBA_GHC ? ahci->ghc
           : offset == HBA_IS  ? ahci->is
           : offset == HBA_PI  ? (1u << AHCI_PORTS) - 1
           : offset == HBA_VS  ? VS_VALUE
                               : 0;
}

static void ahci_register_write(struct ahci *ahci, unsigned offset, uint32_t value)
{
    if (offset >= HBA_PORTS) {
        unsigned port = (offset - HBA_PORTS) / PORT_BYTES;
        if (port < AHCI_PORTS) {
            ahci_port_write(&ahci->ports[port], (offset - HBA_PORTS) % PORT_BYTES, value);
        }
    } else if (offset == HBA_GHC) {
        if ((value & GHC_HR) != 0) {
            ahci_reset_hba(ahci);
        } else if ((ahci->ghc & GHC_HR) == 0) {
            ahci->ghc = GHC_AE | (value & GHC_IE);
        }
    } else if (offset == HBA_IS) {
        ahci->is &= ~value;
    }
    ahci_update_interrupt(ahci);
}

/* Registers are double words; what is read of one is a part of it, and what is written must be whole (3). */
static uint64_t ahci_read(void *self, uint64_t offset, unsigned size)
{
    struct ahci *ahci = self;
    unsigned at = (unsigned)offset & ~3u;
    pthread_mutex_lock(&ahci->requests.lock);
    uint64_t value = ahci_register_read(ahci, at);
    if (at + 4 < AHCI_BAR_BYTES) {
        value |= (uint64_t)ahci_register_read(ahci, at + 4) << 32;
    }
    pthread_mutex_unlock(&ahci->requests.lock);
    value >>= (offset & 3) * 8;
    return size == 8 ? value : value & ((UINT64_C(1) << size * 8) - 1);
}

static void ahci_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct ahci *ahci = self;
    if ((offset & 3) != 0 || size < 4) {
        log_line(LOG_GUEST, "AHCI: a write of %u bytes at 0x%x", size, (unsigned)offset);
        return;
    }
    pthread_mutex_lock(&ahci->requests.lock);
    ahci_register_write(ahci, (unsigned)offset, (uint32_t)value);
    if (size == 8) {
        ahci_register_write(ahci, (unsigned)offset + 4, (uint32_t)(value >> 32));
    }
    pthread_mutex_unlock(&ahci->requests.lock);
}

static const struct device_ops ahci_ops = {.name = "AHCI", .read = ahci_read, .write = ahci_write};

/* ---- Life ---- */

static void ahci_config_written(void *self, unsigned offset, unsigned size)
{
    struct ahci *ahci = self;
    (void)offset;
    (void)size;
    msi_written(&ahci->msi);
    pthread_mutex_lock(&ahci->requests.lock);
    ahci->messages = ahci->msi.enabled; /* written by the line above alone */
    ahci->master = (ahci->function.config[PCI_COMMAND] & PCI_COMMAND_MASTER) != 0;
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        struct ahci_port *port = &ahci->ports[i];
        for (unsigned s = 0; s < AHCI_SLOTS && !ahci->master && port->taken != 0; s++) {
            if (port->slots[s].request.active) {
                disk_cancel(&ahci->requests, port);
                disk_wait(&ahci->requests, &port->slots[s].request);
            }
        }
        ahci_run(port); /* what has waited for the right */
    }
    ahci_update_interrupt(ahci);
    pthread_mutex_unlock(&ahci->requests.lock);
}

static int ahci_init_function(struct ahci *ahci, const struct msi *msi)
{
    struct pci_function *function = &ahci->function;
    pci_function_init(function, "ICH9 AHCI", 0x8086, 0x2922, 0x0106, 0x02);
    function->config[PCI_CLASS_PROG] = 0x01;
    function->config[PCI_INTERRUPT_PIN] = 1;
    function->bars[AHCI_BAR] = (struct pci_bar){.bytes = AHCI_BAR_BYTES, .ops = &ahci_ops, .device = ahci};
    function->written = ahci_config_written;
    function->self = ahci;
    return msi_init(&ahci->msi, function, msi);
}

struct ahci *ahci_new(const struct run_control *run, const struct dma *dma, const struct msi *msi, struct error *error)
{
    struct ahci *ahci = calloc(1, sizeof(*ahci));
    int result = ahci != NULL ? ahci_init_function(ahci, msi) : -ENOMEM;
    if (result != 0) {
        error_set(error, "AHCI: %s", strerror(-result));
        free(ahci);
        return NULL;
    }
    disk_requests_init(&ahci->requests, run);
    ahci->dma = *dma;
    ahci->ghc = GHC_AE;
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        struct ahci_port *port = &ahci->ports[i];
        port->ahci = ahci;
        port->index = i;
        for (unsigned s = 0; s < AHCI_SLOTS; s++) {
            port->slots[s].port = port;
            port->slots[s].index = (uint8_t)s;
        }
        ahci_reset_port(port);
    }
    return ahci;
}

void ahci_stop(struct ahci *ahci)
{
    disk_requests_stop(&ahci->requests);
}

void ahci_free(struct ahci *ahci)
{
    if (ahci == NULL) {
        return;
    }
    ahci_stop(ahci);
    for (unsigned i = 0; i < AHCI_PORTS; i++) {
        struct ahci_port *port = &ahci->ports[i];
        pthread_mutex_lock(&ahci->requests.lock);
        port->halted = true; /* nothing more begins */
        ahci_drop(port);
        pthread_mutex_unlock(&ahci->requests.lock);
        if (port->present && port->drive.config.block != NULL) {
            block_drain(port->drive.config.block);
        }
    }
    msi_fini(&ahci->msi);
    disk_requests_fini(&ahci->requests);
    free(ahci);
}

int ahci_add(struct ahci *ahci, unsigned port, const struct ata_config *config)
{
    struct ahci_port *at = &ahci->ports[port];
    if (at->present) {
        return -EEXIST;
    }
    int result = ata_init(&at->drive, config);
    if (result == 0) {
        at->present = true;
        ahci_reset_port(at);
        ahci_drained(at);
    }
    return result;
}
