/* SPDX-License-Identifier: MIT */
#include "dev/fw_cfg.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SELECTOR_AT 0u
#define DATA_AT 1u
#define DMA_HIGH_AT 4u
#define DMA_LOW_AT 8u
#define SELECTOR_MASK 0xbfffu /* bit 14 is an old "write" bit */

#define ID_TRADITIONAL 1u
#define ID_DMA 2u

#define DMA_ERROR 0x01u
#define DMA_READ 0x02u
#define DMA_SKIP 0x04u
#define DMA_SELECT 0x08u
#define DMA_WRITE 0x10u

struct dma_descriptor {
    uint32_t control;
    uint32_t length;
    uint64_t address;
};
_Static_assert(sizeof(struct dma_descriptor) == 16, "QEMU, docs/specs/fw_cfg");

struct directory_entry {
    uint32_t size;
    uint16_t select;
    uint16_t reserved;
    char name[FW_CFG_NAME_BYTES];
};
_Static_assert(sizeof(struct directory_entry) == 64, "QEMU, docs/specs/fw_cfg");

void fw_cfg_init(struct fw_cfg *fw, uint8_t *(*memory_at)(void *opaque, uint64_t gpa, uint64_t bytes), void *opaque)
{
    *fw = (struct fw_cfg){.memory_at = memory_at, .opaque = opaque};
    pthread_mutex_init(&fw->lock, NULL);
}

void fw_cfg_fini(struct fw_cfg *fw)
{
    for (unsigned i = 0; i < fw->count; i++) {
        if (fw->items[i].owned) {
            free((void *)(uintptr_t)fw->items[i].bytes);
        }
    }
    fw->count = 0;
    pthread_mutex_destroy(&fw->lock);
}

static int fw_cfg_put(struct fw_cfg *fw, uint16_t key, const char *name, const void *bytes, size_t size, bool copy)
{
    if (fw->count == FW_CFG_ITEMS_MAX || size > UINT32_MAX) {
        return -ENOSPC;
    }
    if (copy && size != 0) {
        void *own = malloc(size);
        if (own == NULL) {
            return -ENOMEM;
        }
        memcpy(own, bytes, size);
        bytes = own;
    }
    struct fw_cfg_item *item = &fw->items[fw->count++];
    *item = (struct fw_cfg_item){.key = key, .owned = copy && size != 0, .bytes = bytes, .size = (uint32_t)size};
    strncpy(item->name, name, sizeof(item->name) - 1);
    return 0;
}

int fw_cfg_add(struct fw_cfg *fw, uint16_t key, const void *bytes, size_t size)
{
    return fw_cfg_put(fw, key, "", bytes, size, true);
}

int fw_cfg_add_static(struct fw_cfg *fw, uint16_t key, const void *bytes, size_t size)
{
    return fw_cfg_put(fw, key, "", bytes, size, false);
}

int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *bytes, size_t size)
{
    int result = fw_cfg_put(fw, (uint16_t)(FW_CFG_FILE_FIRST + fw->files), name, bytes, size, true);
    fw->files += result == 0;
    return result;
}

int fw_cfg_add_number(struct fw_cfg *fw, uint16_t key, uint64_t value, unsigned bytes)
{
    uint64_t little = htole64(value);
    return fw_cfg_add(fw, key, &little, bytes);
}

void fw_cfg_on_select(struct fw_cfg *fw, void (*selecting)(void *opaque, const char *name), void *opaque)
{
    fw->selecting = selecting;
    fw->selecting_opaque = opaque;
}

void fw_cfg_update_file(struct fw_cfg *fw, const char *name, const void *bytes, size_t size)
{
    for (unsigned i = 0; i < fw->count; i++) {
        struct fw_cfg_item *item = &fw->items[i];
        if (item->owned && item->size == size && strcmp(item->name, name) == 0) {
            memcpy((void *)(uintptr_t)item->bytes, bytes, size);
        }
    }
}

/* ---- reading ---- */

/* A byte of the directory, which is made as it is read: a count, then an entry for each file. */
static uint8_t fw_cfg_directory_byte(const struct fw_cfg *fw, uint32_t offset)
{
    uint32_t count = htobe32(fw->files);
    if (offset < sizeof(count)) {
        return ((const uint8_t *)&count)[offset];
    }
    uint32_t index = (offset - (uint32_t)sizeof(count)) / (uint32_t)sizeof(struct directory_entry);
    for (unsigned i = 0; i < fw->count; i++) {
        const struct fw_cfg_item *item = &fw->items[i];
        if (item->key == FW_CFG_FILE_FIRST + index && item->name[0] != '\0') {
            struct directory_entry entry = {.size = htobe32(item->size), .select = htobe16(item->key)};
            memcpy(entry.name, item->name, sizeof(entry.name));
            return ((const uint8_t *)&entry)[(offset - sizeof(count)) % sizeof(entry)];
        }
    }
    return 0;
}

static uint32_t fw_cfg_directory_size(const struct fw_cfg *fw)
{
    return (uint32_t)(sizeof(uint32_t) + fw->files * sizeof(struct directory_entry));
}

static const struct fw_cfg_item *fw_cfg_item(const struct fw_cfg *fw)
{
    for (unsigned i = 0; i < fw->count; i++) {
        if (fw->items[i].key == fw->selected) {
            return &fw->items[i];
        }
    }
    return NULL;
}

/* `size` bytes of the selected item; zeros behind its end. */
static void fw_cfg_copy(struct fw_cfg *fw, uint8_t *to, uint32_t size)
{
    static const uint8_t signature[] = {'Q', 'E', 'M', 'U'};
    static const uint8_t id[] = {ID_TRADITIONAL | ID_DMA, 0, 0, 0};
    const struct fw_cfg_item *item = fw_cfg_item(fw);
    const uint8_t *from = item != NULL ? item->bytes : NULL;
    uint32_t have = item != NULL ? item->size : 0;

    if (fw->selected == FW_CFG_SIGNATURE || fw->selected == FW_CFG_ID) {
        from = fw->selected == FW_CFG_ID ? id : signature;
        have = sizeof(id);
    }
    uint32_t left = fw->offset < have ? have - fw->offset : 0;
    uint32_t n = left < size ? left : size;
    if (n != 0) {
        memcpy(to, from + fw->offset, n);
    }
    memset(to + n, 0, size - n);
    if (fw->selected == FW_CFG_FILE_DIR) {
        uint32_t end = fw_cfg_directory_size(fw);
        for (uint32_t i = 0; i < size && fw->offset < end && i < end - fw->offset; i++) {
            to[i] = fw_cfg_directory_byte(fw, fw->offset + i);
        }
    }
}

static void fw_cfg_advance(struct fw_cfg *fw, uint32_t bytes)
{
    if (__builtin_add_overflow(fw->offset, bytes, &fw->offset)) {
        fw->offset = UINT32_MAX;
    }
}

static void fw_cfg_select(struct fw_cfg *fw, uint16_t key)
{
    fw->selected = key & SELECTOR_MASK;
    fw->offset = 0;
    const struct fw_cfg_item *item = fw->selecting != NULL ? fw_cfg_item(fw) : NULL;
    if (item != NULL && item->name[0] != '\0') {
        fw->selecting(fw->selecting_opaque, item->name);
    }
}

/* ---- DMA ---- */

static uint32_t fw_cfg_dma_transfer(struct fw_cfg *fw, uint32_t control, uint32_t length, uint64_t address)
{
    if ((control & DMA_SELECT) != 0) {
        fw_cfg_select(fw, (uint16_t)(control >> 16));
    }
    if ((control & DMA_READ) != 0) {
        uint8_t *to = fw->memory_at(fw->opaque, address, length);
        if (length != 0 && to == NULL) {
            return DMA_ERROR;
        }
        if (length != 0) {
            fw_cfg_copy(fw, to, length);
        }
    } else if ((control & DMA_WRITE) != 0) {
        return DMA_ERROR; /* no item can be written */
    } else if ((control & DMA_SKIP) == 0) {
        return 0;
    }
    fw_cfg_advance(fw, length);
    return 0;
}

static void fw_cfg_dma(struct fw_cfg *fw, uint64_t gpa)
{
    struct dma_descriptor descriptor;
    uint8_t *at = fw->memory_at(fw->opaque, gpa, sizeof(descriptor));

    if (at == NULL) {
        return; /* nowhere to say that it is an error */
    }
    memcpy(&descriptor, at, sizeof(descriptor)); /* once: the guest may change it meanwhile */
    uint32_t result = fw_cfg_dma_transfer(fw, be32toh(descriptor.control), be32toh(descriptor.length), be64toh(descriptor.address));
    uint32_t control = htobe32(result);
    memcpy(at, &control, sizeof(control));
}

/* ---- ports ---- */

static uint64_t fw_cfg_read(void *self, uint64_t offset, unsigned size)
{
    static const uint8_t dma_signature[] = {'Q', 'E', 'M', 'U', ' ', 'C', 'F', 'G'};
    struct fw_cfg *fw = self;
    uint64_t value = 0;

    if (offset >= DMA_HIGH_AT) {
        memcpy(&value, dma_signature + (offset - DMA_HIGH_AT), size);
        return value;
    }
    pthread_mutex_lock(&fw->lock);
    if (offset == DATA_AT) {
        uint8_t byte;
        fw_cfg_copy(fw, &byte, 1);
        fw_cfg_advance(fw, 1);
        value = byte;
    }
    pthread_mutex_unlock(&fw->lock);
    return value;
}

static void fw_cfg_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct fw_cfg *fw = self;

    pthread_mutex_lock(&fw->lock);
    if (offset == SELECTOR_AT && size == 2) {
        fw_cfg_select(fw, (uint16_t)value);
    } else if (offset == DMA_HIGH_AT && size == 4) {
        fw->dma_address = (uint64_t)be32toh((uint32_t)value) << 32;
    } else if (offset == DMA_LOW_AT && size == 4) {
        uint64_t gpa = fw->dma_address | be32toh((uint32_t)value);
        fw->dma_address = 0;
        fw_cfg_dma(fw, gpa);
    }
    pthread_mutex_unlock(&fw->lock);
}

const struct device_ops fw_cfg_ops = {.name = "fw_cfg", .read = fw_cfg_read, .write = fw_cfg_write};
