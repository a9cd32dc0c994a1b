/* SPDX-License-Identifier: MIT */
/*
 * What ide.c (registers, PIO) and ide_dma.c (bus master, PCI function) share. All with the lock.
 */
#ifndef KAGE_DISK_IDE_INTERNAL_H
#define KAGE_DISK_IDE_INTERNAL_H

#include "disk/ide.h"

#define BMIS_ACTIVE 0x01u
#define BMIS_ERROR 0x02u
#define BMIS_INTERRUPT 0x04u

void ide_set_interrupt(struct ide_channel *channel, bool level);
/* The command is over; its registers are filled. */
void ide_finish(struct ide_channel *channel, bool interrupt);
/* The request that stands in channel->request.io. */
void ide_submit(struct ide_channel *channel, bool to_guest);
void ide_done(struct disk_request *request, int result);
void ide_packet(struct ide_channel *channel);

/* A DMA command waits for the bus master: goes on if that is started. */
void ide_dma_go(struct ide_channel *channel);
void ide_dma_done(struct ide_channel *channel, int result);

#endif
