/* SPDX-License-Identifier: MIT */
/*
 * A chip whose reads give its bytes is a read-only memory slot, on which writes leave the guest; while it does anything else the slot is
 * away, and reads leave too. What a guest writes goes down to the image before its write is done: the drive has no loop, and the vCPU
 * that writes waits for it with the chip's lock held.
 */
#include "machine/firmware.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "machine/board.h"
#include "machine/rom_map.h"
#include "util/log.h"

#define FIRMWARE_MAX (UINT64_C(16) << 20)

/* ---- An image ---- */

static int firmware_load_image(struct firmware *firmware, const char *path, struct error *error)
{
    const char *asked = firmware->machine->config->bios;
    struct boot_file file;
    if (boot_file_map(&file, "-bios", asked != NULL ? asked : path, error) != 0) {
        return asked != NULL ? -1 : error_set(error, "-bios: there is no %s; install the package seabios, or name a file", path);
    }
    if (file.size < ROM_MAP_ROM_BYTES || file.size > FIRMWARE_MAX || file.size % 0x10000 != 0) {
        boot_file_unmap(&file);
        return error_set(error, "-bios %s: it must be 128 KiB to 16 MiB long, in pieces of 64 KiB", asked != NULL ? asked : path);
    }
    firmware->size = file.size;
    void *bytes = mmap(NULL, file.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes != MAP_FAILED) {
        firmware->bytes = memcpy(bytes, file.bytes, file.size);
    }
    boot_file_unmap(&file);
    return bytes != MAP_FAILED ? 0 : error_set(error, "-bios: %s", strerror(errno));
}

/* ---- Flash chips ---- */

static int flash_set_slot(const struct firmware_flash *flash, bool there)
{
    return board_set_slot(flash->machine, flash->slot, there ? KVM_MEM_READONLY : 0, flash->gpa, flash->bytes, there ? flash->size : 0);
}

static void flash_mode(void *opaque, bool array)
{
    const struct firmware_flash *flash = opaque;
    int result = flash_set_slot(flash, array);
    if (result != 0) {
        log_line(LOG_GUEST, "flash memory at 0x%llx: %s", (unsigned long long)flash->gpa, strerror(-result));
        machine_request(flash->machine, POWER_ERROR, 1);
    }
}

static int flash_changed(void *opaque, uint32_t offset, uint32_t size)
{
    const struct firmware_flash *flash = opaque;
    int result = block_write(flash->drive->block, offset, flash->bytes + offset, size, 0);
    if (result != 0) {
        log_line(LOG_GUEST, "%s: %s", flash->drive->values.file, strerror(-result));
    }
    return result;
}

static const struct pflash_backend flash_backend = {.changed = flash_changed, .mode = flash_mode};

static uint64_t flash_read(void *self, uint64_t offset, unsigned size)
{
    struct firmware_flash *flash = self;
    pthread_mutex_lock(&flash->lock);
    uint64_t value = pflash_read(&flash->chip, (uint32_t)offset, size);
    pthread_mutex_unlock(&flash->lock);
    return value;
}

static void flash_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct firmware_flash *flash = self;
    pthread_mutex_lock(&flash->lock);
    pflash_write(&flash->chip, (uint32_t)offset, size, value);
    pthread_mutex_unlock(&flash->lock);
}

static const struct device_ops flash_ops = {.name = "flash memory", .read = flash_read, .write = flash_write};

static int firmware_load_flash(struct firmware *firmware, unsigned unit, uint64_t end_gpa, struct error *error)
{
    struct firmware_flash *flash = &firmware->flash[unit];
    struct drive *drive = firmware->machine->config->flash[unit];
    uint64_t size = block_bytes(drive->block);
    uint64_t least = unit == 0 ? ROM_MAP_ROM_BYTES : PFLASH_BLOCK_BYTES, most = end_gpa - (RAM_HIGH_GPA - FIRMWARE_MAX);
    if (size < least || size > most || size % PFLASH_BLOCK_BYTES != 0) {
        return error_set(error, "pflash%u: %s: it must be %u KiB to %u MiB long (all of them together), in pieces of 4 KiB", unit, drive->values.file,
                         (unsigned)(least >> 10), (unsigned)(FIRMWARE_MAX >> 20));
    }
    void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) {
        return error_set(error, "pflash%u: %s", unit, strerror(errno));
    }
    *flash = (struct firmware_flash){.machine = firmware->machine, .drive = drive, .gpa = end_gpa - size, .bytes = bytes, .size = (uint32_t)size};
    pthread_mutex_init(&flash->lock, NULL);
    firmware->flash_count = unit + 1;
    int result = block_read(drive->block, 0, bytes, size);
    if (result != 0) {
        return error_set(error, "pflash%u: %s: %s", unit, drive->values.file, strerror(-result));
    }
    pflash_init(&flash->chip, bytes, flash->size, block_read_only(drive->block), &flash_backend, flash);
    return 0;
}

/* ---- Both ---- */

int firmware_load(struct firmware *firmware, struct machine *machine, const char *path, struct error *error)
{
    *firmware = (struct firmware){.machine = machine};
    const struct machine_config *config = machine->config;
    if (config->flash[0] == NULL) {
        return config->flash[1] == NULL ? firmware_load_image(firmware, path, error) : error_set(error, "pflash1 requires pflash0");
    }
    if (config->bios != NULL) {
        return error_set(error, "-bios and flash memory (pflash0) cannot be together");
    }
    uint64_t end_gpa = RAM_HIGH_GPA;
    for (unsigned unit = 0; unit < MACHINE_FLASHES_MAX && config->flash[unit] != NULL; unit++) {
        if (firmware_load_flash(firmware, unit, end_gpa, error) != 0) {
            return -1;
        }
        end_gpa = firmware->flash[unit].gpa;
    }
    return 0;
}

int firmware_map(struct firmware *firmware, uint32_t slot)
{
    if (firmware->flash_count == 0) {
        return board_set_slot(firmware->machine, slot, KVM_MEM_READONLY, RAM_HIGH_GPA - firmware->size, firmware->bytes, firmware->size);
    }
    int result = 0;
    for (unsigned i = 0; i < firmware->flash_count && result == 0; i++) {
        struct firmware_flash *flash = &firmware->flash[i];
        flash->slot = slot + i;
        result = flash_set_slot(flash, true);
        result = result != 0 ? result : bus_add(&firmware->machine->mmio, flash->gpa, flash->size, &flash_ops, flash);
    }
    return result;
}

uint8_t *firmware_end(const struct firmware *firmware)
{
    const struct firmware_flash *first = &firmware->flash[0];
    return firmware->flash_count != 0 ? first->bytes + first->size - ROM_MAP_ROM_BYTES : firmware->bytes + firmware->size - ROM_MAP_ROM_BYTES;
}

void firmware_fini(struct firmware *firmware)
{
    for (unsigned i = 0; i < firmware->flash_count; i++) {
        pthread_mutex_destroy(&firmware->flash[i].lock);
        munmap(firmware->flash[i].bytes, firmware->flash[i].size);
    }
    firmware->flash_count = 0;
    if (firmware->bytes != NULL) {
        munmap(firmware->bytes, firmware->size);
        firmware->bytes = NULL;
    }
}
