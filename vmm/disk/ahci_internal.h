/* SPDX-License-Identifier: MIT */
/*
 * What ahci.c (registers, life) and ahci_command.c (commands, FISes) share. All with the lock.
 */
#ifndef KAGE_DISK_AHCI_INTERNAL_H
#define KAGE_DISK_AHCI_INTERNAL_H

#include "disk/ahci.h"

/* PxIS and PxIE (3.3.5) */
#define PORT_IS_DHRS 0x00000001u
#define PORT_IS_PSS 0x00000002u
#define PORT_IS_SDBS 0x00000008u
#define PORT_IS_PCS 0x00000040u
#define PORT_IS_OFS 0x01000000u
#define PORT_IS_IFS 0x08000000u
#define PORT_IS_HBDS 0x10000000u
#define PORT_IS_HBFS 0x20000000u
#define PORT_IS_TFES 0x40000000u

/* PxCMD (3.3.7) */
#define PORT_CMD_ST 0x00000001u
#define PORT_CMD_SUD 0x00000002u
#define PORT_CMD_POD 0x00000004u
#define PORT_CMD_CLO 0x00000008u
#define PORT_CMD_FRE 0x00000010u
#define PORT_CMD_CCS_SHIFT 8u
#define PORT_CMD_FR 0x00004000u
#define PORT_CMD_CR 0x00008000u
#define PORT_CMD_ATAPI 0x01000000u

/* Pending bits are `bits` more. */
void ahci_raise(struct ahci_port *port, uint32_t bits);
/* A reset that waited for the host, or a stop, is over. */
void ahci_drained(struct ahci_port *port);

/* Commands that can begin do. */
void ahci_run(struct ahci_port *port);
/* What is under way ends unheard; what waits to be made again, now. */
void ahci_drop(struct ahci_port *port);
/* The device's signature, as a D2H register FIS. */
void ahci_send_signature(struct ahci_port *port, const struct ata_registers *registers);
void ahci_free_slot(struct ahci_slot *slot);

#endif
