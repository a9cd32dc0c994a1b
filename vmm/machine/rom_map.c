/* SPDX-License-Identifier: MIT */
#include "machine/rom_map.h"

#include <string.h>

#include "machine/board.h"
#include "util/log.h"

#define DISPLAY_GPA 0xa0000u

/* ROM at a place of the map: the firmware's end at E0000, nothing below. */
static uint8_t *rom_map_rom_at(const struct rom_map *map, uint32_t gpa)
{
    uint32_t rom_gpa = PAM_END_GPA - ROM_MAP_ROM_BYTES;
    return gpa >= rom_gpa ? map->rom + (gpa - rom_gpa) : NULL;
}

static struct rom_map_piece rom_map_piece_of(const struct rom_map *map, const struct pam_segment *segment)
{
    struct rom_map_piece piece = {.gpa = segment->gpa, .bytes = segment->bytes};
    piece.host = segment->read_ram ? map->machine->ram.base + segment->gpa : rom_map_rom_at(map, segment->gpa);
    piece.readonly = !(segment->read_ram && segment->write_ram);
    return piece;
}

static bool rom_map_pieces_join(const struct rom_map_piece *a, const struct rom_map_piece *b)
{
    return a->gpa + a->bytes == b->gpa && a->readonly == b->readonly && (a->host == NULL) == (b->host == NULL) &&
           (a->host == NULL || a->host + a->bytes == b->host);
}

/* All pieces of the map, neighbours that are alike joined. */
static unsigned rom_map_list(const struct rom_map *map, struct rom_map_piece *pieces)
{
    unsigned count = 0;
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        struct rom_map_piece piece = rom_map_piece_of(map, &map->segments[i]);
        if (count > 0 && rom_map_pieces_join(&pieces[count - 1], &piece)) {
            pieces[count - 1].bytes += piece.bytes;
        } else {
            pieces[count++] = piece;
        }
    }
    return count;
}

static bool rom_map_piece_equal(const struct rom_map_piece *a, const struct rom_map_piece *b)
{
    return a->gpa == b->gpa && a->bytes == b->bytes && a->host == b->host && a->readonly == b->readonly;
}

static int rom_map_set(struct rom_map *map, unsigned index, const struct rom_map_piece *piece)
{
    uint32_t flags = piece->readonly ? KVM_MEM_READONLY : 0;
    return piece->host == NULL ? 0 : board_set_slot(map->machine, map->first_slot + index, flags, piece->gpa, piece->host, piece->bytes);
}

/* Slots cannot overlap nor change their backing: those that differ go first, then their successors come. */
static int rom_map_update(struct rom_map *map)
{
    struct rom_map_piece pieces[PAM_SEGMENTS];
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        map->segments[i] = pam_segment(map->pam, i);
    }
    unsigned count = rom_map_list(map, pieces);
    int result = 0;
    for (unsigned i = 0; i < map->piece_count && result == 0; i++) {
        bool stays = i < count && rom_map_piece_equal(&pieces[i], &map->pieces[i]);
        if (!stays && map->pieces[i].host != NULL) {
            result = board_set_slot(map->machine, map->first_slot + i, 0, map->pieces[i].gpa, map->pieces[i].host, 0);
        }
    }
    for (unsigned i = 0; i < count && result == 0; i++) {
        bool stays = i < map->piece_count && rom_map_piece_equal(&pieces[i], &map->pieces[i]);
        if (!stays) {
            result = rom_map_set(map, i, &pieces[i]);
        }
    }
    memcpy(map->pieces, pieces, sizeof(pieces));
    map->piece_count = count;
    return result;
}

void rom_map_changed(void *self)
{
    struct rom_map *map = self;
    pthread_mutex_lock(&map->lock);
    int result = rom_map_update(map);
    pthread_mutex_unlock(&map->lock);
    if (result != 0) {
        log_line(LOG_GUEST, "the memory map cannot change: %s", strerror(-result));
        machine_request(map->machine, POWER_ERROR, 1);
    }
}

/*
 * What no slot serves: writes that go to RAM while reads come from ROM, all that goes nowhere, and what another processor
 * does while slots are being exchanged. The map's lock is held then: such an access waits, and is served by the new map.
 */
static uint64_t rom_map_read(void *self, uint64_t offset, unsigned size)
{
    struct rom_map *map = self;
    uint64_t value = 0;
    pthread_mutex_lock(&map->lock);
    for (unsigned i = 0; i < size; i++) {
        uint32_t gpa = PAM_FIRST_GPA + (uint32_t)offset + i;
        struct rom_map_piece piece = rom_map_piece_of(map, &map->segments[pam_segment_of(gpa)]);
        uint8_t byte = piece.host != NULL ? piece.host[gpa - piece.gpa] : 0xff;
        value |= (uint64_t)byte << (i * 8);
    }
    pthread_mutex_unlock(&map->lock);
    return value;
}

static void rom_map_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct rom_map *map = self;
    pthread_mutex_lock(&map->lock);
    for (unsigned i = 0; i < size; i++) {
        uint32_t gpa = PAM_FIRST_GPA + (uint32_t)offset + i;
        if (map->segments[pam_segment_of(gpa)].write_ram) {
            map->machine->ram.base[gpa] = (uint8_t)(value >> (i * 8));
        }
    }
    pthread_mutex_unlock(&map->lock);
}

static const struct device_ops rom_map_ops = {.name = "ROM area", .read = rom_map_read, .write = rom_map_write};

uint8_t *rom_map_memory_at(void *self, uint64_t gpa, uint64_t bytes)
{
    struct rom_map *map = self;
    uint8_t *host = ram_at(&map->machine->ram, gpa, bytes);
    if (host == NULL || gpa + bytes <= DISPLAY_GPA || gpa >= PAM_END_GPA) {
        return host;
    }
    bool whole = gpa >= PAM_FIRST_GPA;
    pthread_mutex_lock(&map->lock);
    for (uint64_t at = gpa; whole && at < gpa + bytes && at < PAM_END_GPA; at++) {
        const struct pam_segment *segment = &map->segments[pam_segment_of((uint32_t)at)];
        whole = segment->read_ram && segment->write_ram;
        at = segment->gpa + segment->bytes - 1;
    }
    pthread_mutex_unlock(&map->lock);
    return whole ? host : NULL;
}

int rom_map_init(struct rom_map *map, struct machine *machine, const uint8_t *pam, uint8_t *rom, uint32_t first_slot)
{
    *map = (struct rom_map){.machine = machine, .pam = pam, .rom = rom, .first_slot = first_slot};
    pthread_mutex_init(&map->lock, NULL);
    int result = rom_map_update(map);
    return result != 0 ? result : bus_add(&machine->mmio, PAM_FIRST_GPA, PAM_END_GPA - PAM_FIRST_GPA, &rom_map_ops, map);
}

void rom_map_fini(struct rom_map *map)
{
    if (map->machine != NULL) {
        pthread_mutex_destroy(&map->lock);
        map->machine = NULL;
    }
}
