/* SPDX-License-Identifier: MIT */
/*
 * fw_cfg (QEMU, docs/specs/fw_cfg): what firmware asks of the machine. Items by number, some of them
 * files with a name, read byte by byte at a port or copied into memory by DMA.
 *
 *   port 0  selector, 16 bits, little-endian        (0x510 on a PC)
 *   port 1  data, one byte after the other
 *   port 4  DMA address, bits 63..32, big-endian; reads give "QEMU"
 *   port 8  bits 31..0: starts the transfer;       reads give " CFG"
 *
 *   DMA descriptor, big-endian: 0 control | 4 length | 8 address
 *     control: 31..16 item to select | 4 write | 3 select | 2 skip | 1 read | 0 error
 */
#ifndef KAGE_DEV_FW_CFG_H
#define KAGE_DEV_FW_CFG_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dev/device.h"

#define FW_CFG_PORTS 12u
#define FW_CFG_ITEMS_MAX 64u
#define FW_CFG_FILE_FIRST 0x20u
#define FW_CFG_NAME_BYTES 56u

/* Numbers of the items without a name */
enum {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_UUID = 0x02,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NOGRAPHIC = 0x04,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_KERNEL_ADDR = 0x07,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_INITRD_ADDR = 0x0a,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_ADDR = 0x13,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_ADDR = 0x16,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_IRQ0_OVERRIDE = 0x8002, /* 1: the 8254 is at pin 2 of the I/O APIC, for firmware's own MP table */
};

struct fw_cfg_item {
    uint16_t key;
    bool owned; /* bytes are freed with the device */
    const uint8_t *bytes;
    uint32_t size;
    char name[FW_CFG_NAME_BYTES]; /* "" for those without */
};

struct fw_cfg {
    pthread_mutex_t lock;
    /* Host bytes of guest memory, or NULL where it is not all RAM. */
    uint8_t *(*memory_at)(void *opaque, uint64_t gpa, uint64_t bytes);
    void *opaque;
    void (*selecting)(void *opaque, const char *name);
    void *selecting_opaque;
    unsigned count;
    struct fw_cfg_item items[FW_CFG_ITEMS_MAX];
    unsigned files;
    uint16_t selected;
    uint32_t offset;
    uint64_t dma_address;
};

extern const struct device_ops fw_cfg_ops; /* FW_CFG_PORTS ports */

void fw_cfg_init(struct fw_cfg *fw, uint8_t *(*memory_at)(void *opaque, uint64_t gpa, uint64_t bytes), void *opaque);
void fw_cfg_fini(struct fw_cfg *fw);

/* Called with the lock held before a file is read; it may call fw_cfg_update_file(). */
void fw_cfg_on_select(struct fw_cfg *fw, void (*selecting)(void *opaque, const char *name), void *opaque);
/* New contents of the same size; nothing happens if it is another. */
void fw_cfg_update_file(struct fw_cfg *fw, const char *name, const void *bytes, size_t size);

/* 0, -ENOSPC or -ENOMEM. The bytes are copied, or with fw_cfg_add_static() stay where they are. */
int fw_cfg_add(struct fw_cfg *fw, uint16_t key, const void *bytes, size_t size) __attribute__((warn_unused_result));
int fw_cfg_add_static(struct fw_cfg *fw, uint16_t key, const void *bytes, size_t size) __attribute__((warn_unused_result));
int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *bytes, size_t size) __attribute__((warn_unused_result));
/* Little-endian numbers, as most items are. */
int fw_cfg_add_number(struct fw_cfg *fw, uint16_t key, uint64_t value, unsigned bytes) __attribute__((warn_unused_result));

#endif
