/* SPDX-License-Identifier: MIT */
/*
 * The IDE function of PIIX3 (Intel 290550, 2.3 and 4.3): two channels of two drives each, at the ports of old, with bus mastering.
 *
 *   command block   +0 data | +1 error, feature | +2 count | +3..+5 LBA 7:0 15:8 23:16 | +6 device | +7 status, command
 *   control block   +0 alternate status, device control: 7 HOB | 2 SRST | 1 nIEN
 *   bus master      +0 BMIC: 3 to memory, 0 start | +2 BMIS: 6, 5 drives can | 2 interrupt | 1 error | 0 active | +4 BMIDTP; +8: channel 1
 *   PRD             address 32, bit 0 is 0 | bytes 16, 0 is 64 KiB | 31 the last
 *
 * Lock: that of the disk_requests, inside of the PCI bus's. A vCPU waits where it stops bus mastering, or forbids it, while the host has not finished.
 */
#ifndef KAGE_DISK_IDE_H
#define KAGE_DISK_IDE_H

#include "dev/device.h"
#include "dev/pci.h"
#include "disk/request.h"
#include "util/error.h"

#define IDE_CHANNELS 2u
#define IDE_UNITS 2u
#define IDE_COMMAND_PORTS 8u
#define IDE_BUFFER_BYTES 0x10000u /* PIO: of a request to the disk */

struct ide;

enum ide_state {
    IDE_IDLE,
    IDE_PACKET,  /* a packet comes by PIO */
    IDE_PIO_IN,  /* a block is there to be read */
    IDE_PIO_OUT, /* a block is to be written */
    IDE_DMA,     /* for the guest to start bus mastering */
    IDE_BUSY,    /* a request is under way */
};

struct ide_unit {
    bool present;
    struct ata_drive drive;
    struct ata_registers registers;
};

struct ide_channel {
    struct ide *ide;
    unsigned index;
    struct irq irq;
    struct ide_unit units[IDE_UNITS];
    unsigned selected;
    uint8_t control;
    bool interrupt; /* INTRQ */
    bool resetting; /* SRST, or DEVICE RESET of the selected unit, until the host has finished */
    bool reset_all; /* it is SRST */
    bool enabled;   /* decoded (IDETIM, bit 15, and the I/O space bit) */
    enum ide_state state;
    struct ata_command command;
    uint64_t done_bytes; /* of the command's */
    struct disk_request request;
    uint8_t *buffer;
    uint32_t buffer_bytes, buffer_at, block_end; /* what is in it, how far it is read or written, where the block ends */
    struct iovec *iov, one;
    unsigned iov_count;
    uint8_t bmic, bmis;
    uint32_t bmidtp;
};

struct ide {
    struct pci_function function;
    struct disk_requests requests;
    struct dma dma;
    bool master; /* the PCI command register lets it move data */
    struct ide_channel channels[IDE_CHANNELS];
};

extern const struct device_ops ide_command_ops; /* IDE_COMMAND_PORTS, of struct ide_channel */
extern const struct device_ops ide_control_ops; /* one port, of struct ide_channel */

/* The bus's BAR 4 is bus mastering. `run`: NULL: errors never stop the machine. NULL with `error` filled. On the main loop's thread. */
struct ide *ide_new(const struct run_control *run, const struct dma *dma, const struct irq irqs[IDE_CHANNELS], struct error *error);
/* A vCPU that waits goes on. From any thread. */
void ide_stop(struct ide *ide);
/* Waits for what is under way. The vCPUs are gone. */
void ide_free(struct ide *ide);
/* Before a guest runs. 0; -EEXIST: there is one; -EINVAL: its image cannot be a disk. */
int ide_add(struct ide *ide, unsigned channel, unsigned unit, const struct ata_config *config);

#endif
