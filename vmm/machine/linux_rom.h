/* SPDX-License-Identifier: MIT */
/*
 * An option ROM that starts a Linux kernel (linux_rom.S): firmware finds it among fw_cfg's files, and boots
 * from it as from a device. It fetches the kernel through fw_cfg's DMA.
 */
#ifndef KAGE_MACHINE_LINUX_ROM_H
#define KAGE_MACHINE_LINUX_ROM_H

#include <stddef.h>
#include <stdint.h>

extern const uint8_t linux_rom[];
extern const uint32_t linux_rom_bytes; /* a multiple of 512 */

#endif
