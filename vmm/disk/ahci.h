/* SPDX-License-Identifier: MIT */
/*
 * The AHCI controller of ICH9 (Serial ATA AHCI 1.3.1): six ports, 32 commands each, native command queuing, an interrupt by pin or MSI.
 *
 *   command list    32 headers of 32 bytes:   DW0 31:16 PRDTL | 10 C | 6 W | 5 A | 4:0 CFL   DW1 PRDBC   DW2, DW3 the table's address
 *   command table   00 CFIS | 40 ACMD | 80 PRDT, 16 bytes each: address 64 | reserved 32 | 31 I, 21:0 bytes less one
 *   received FISes  00 DMA setup | 20 PIO setup | 40 D2H register | 58 set device bits
 *
 * A guest's write to PxCI runs commands on its vCPU; ends come on the loop's thread. No vCPU waits: what is stopped or reset while the
 * host has not finished keeps CR, HR or BSY until it has, as the manual lets it. Only who takes Bus Master Enable away waits.
 *
 * Lock: that of the disk_requests, inside of the PCI bus's.
 */
#ifndef KAGE_DISK_AHCI_H
#define KAGE_DISK_AHCI_H

#include "dev/device.h"
#include "dev/msix.h"
#include "dev/pci.h"
#include "disk/request.h"
#include "util/error.h"

#define AHCI_PORTS 6u
#define AHCI_SLOTS 32u
#define AHCI_BAR 5u
#define AHCI_BAR_BYTES 0x1000u

struct ahci;
struct ahci_port;

/* A command that has been taken from the list. */
struct ahci_slot {
    struct disk_request request; /* first: its callback gets it */
    struct ahci_port *port;
    uint8_t index;
    bool busy, queued;
    bool dropped; /* nobody wants to know how it ends */
    struct ata_command command;
    struct ata_registers registers;
    struct iovec *iov;
    unsigned iov_count;
    uint8_t *list; /* of ranges to be discarded */
    uint64_t header_gpa;
};

struct ahci_port {
    struct ahci *ahci;
    unsigned index;
    bool present;
    struct ata_drive drive;
    uint64_t clb, fb;
    uint32_t is, ie, cmd, tfd, sig, ssts, sctl, serr, sact, ci;
    uint32_t taken;     /* slots that are under way */
    bool halted;        /* an error: nothing more until ST is cleared */
    bool resetting;     /* a signature is due once nothing is under way */
    bool soft_reset;    /* SRST has come, its end has not */
    unsigned next_slot; /* in turn */
    struct ahci_slot slots[AHCI_SLOTS];
};

struct ahci {
    struct pci_function function;
    struct msi_capability msi;
    struct disk_requests requests;
    struct dma dma;
    uint32_t ghc, is;
    bool master;   /* the PCI command register lets it read and write memory */
    bool messages; /* MSI is on */
    bool level;    /* of the pin */
    bool told;     /* nothing in `is` came while GHC.IE was off */
    struct ahci_port ports[AHCI_PORTS];
};

/* `run`: NULL: errors never stop the machine. NULL with `error` filled. On the main loop's thread. */
struct ahci *ahci_new(const struct run_control *run, const struct dma *dma, const struct msi *msi, struct error *error);
void ahci_stop(struct ahci *ahci);
/* Waits for what is under way. The vCPUs are gone. */
void ahci_free(struct ahci *ahci);
/* Before a guest runs. 0; -EEXIST: there is one; -EINVAL: its image cannot be a disk. */
int ahci_add(struct ahci *ahci, unsigned port, const struct ata_config *config);

#endif
