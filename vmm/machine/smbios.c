/* SPDX-License-Identifier: MIT */
#include "machine/smbios.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MANUFACTURER "Kage"
#define VERSION_MAJOR 2u
#define VERSION_MINOR 8u
#define NO_HANDLE 0xffffu
#define NO_ERRORS 0xfffeu /* as a handle: there is no such information */

enum { SYSTEM = 1, CHASSIS = 3, PROCESSOR = 4, MEMORY_ARRAY = 16, MEMORY_DEVICE = 17, MEMORY_MAP = 19, BOOT = 32, END = 127 };
#define HANDLE(type, index) ((uint16_t)((unsigned)(type) << 8 | (index)))
#define MEMORY_DEVICE_MIB_MAX 16384u

struct smbios_head {
    uint8_t type, length;
    uint16_t handle;
} __attribute__((packed));

struct smbios_system {
    struct smbios_head head;
    uint8_t manufacturer, product, version, serial;
    uint8_t uuid[16];
    uint8_t wake_up; /* 6: the power switch */
    uint8_t sku, family;
} __attribute__((packed));

struct smbios_chassis {
    struct smbios_head head;
    uint8_t manufacturer, type, version, serial, asset;
    uint8_t boot_state, power_state, thermal_state, security;
    uint32_t oem;
    uint8_t height, cords, elements, element_bytes, sku;
} __attribute__((packed));

struct smbios_processor {
    struct smbios_head head;
    uint8_t socket, type, family, manufacturer;
    uint64_t id;
    uint8_t version, voltage;
    uint16_t clock, speed_max, speed;
    uint8_t status, upgrade;
    uint16_t l1, l2, l3;
    uint8_t serial, asset, part;
    uint8_t cores, cores_enabled, threads;
    uint16_t characteristics, family2;
} __attribute__((packed));

struct smbios_memory_array {
    struct smbios_head head;
    uint8_t location, use, correction;
    uint32_t kib_max;
    uint16_t errors, devices;
    uint64_t bytes_max;
} __attribute__((packed));

struct smbios_memory_device {
    struct smbios_head head;
    uint16_t array, errors, total_width, data_width, mib;
    uint8_t form, set, locator, bank, type;
    uint16_t detail, speed;
    uint8_t manufacturer, serial, asset, part, attributes;
    uint32_t mib_extended;
    uint16_t clock, volts_min, volts_max, volts;
} __attribute__((packed));

struct smbios_memory_map {
    struct smbios_head head;
    uint32_t first_kib, last_kib;
    uint16_t array;
    uint8_t width;
    uint64_t first, last;
} __attribute__((packed));

struct smbios_boot {
    struct smbios_head head;
    uint8_t reserved[6], status;
} __attribute__((packed));

_Static_assert(sizeof(struct smbios_system) == 27, "DSP0134 3.0, 7.2");
_Static_assert(sizeof(struct smbios_chassis) == 22, "DSP0134 3.0, 7.4");
_Static_assert(sizeof(struct smbios_processor) == 42, "DSP0134 3.0, 7.5");
_Static_assert(sizeof(struct smbios_memory_array) == 23, "DSP0134 3.0, 7.17");
_Static_assert(sizeof(struct smbios_memory_device) == 40, "DSP0134 3.0, 7.18");
_Static_assert(sizeof(struct smbios_memory_map) == 31, "DSP0134 3.0, 7.20");
_Static_assert(sizeof(struct smbios_boot) == 11, "DSP0134 3.0, 7.33");

static void smbios_raw(struct smbios *smbios, const void *bytes, size_t count)
{
    if (count > SMBIOS_ROOM - smbios->bytes) {
        smbios->overflow = true;
        return;
    }
    memcpy(smbios->tables + smbios->bytes, bytes, count);
    smbios->bytes += count;
}

/* A structure, then its strings, numbered from 1 on and ended by NULL. */
static void smbios_add(struct smbios *smbios, void *structure, uint8_t type, size_t length, unsigned index, ...)
{
    struct smbios_head head = {.type = type, .length = (uint8_t)length, .handle = HANDLE(type, index)};
    size_t start = smbios->bytes;
    const char *text;
    va_list strings;
    memcpy(structure, &head, sizeof(head));
    smbios_raw(smbios, structure, length);
    va_start(strings, index);
    bool any = false;
    while ((text = va_arg(strings, const char *)) != NULL) {
        smbios_raw(smbios, text, strlen(text) + 1);
        any = true;
    }
    va_end(strings);
    smbios_raw(smbios, "\0", any ? 1 : 2);
    size_t bytes = smbios->bytes - start;
    smbios->largest = bytes > smbios->largest ? bytes : smbios->largest;
    smbios->count++;
}

static void smbios_add_processors(struct smbios *smbios, const struct cpu_topology *topology)
{
    unsigned cores = topology->dies * topology->cores, threads = cores * topology->threads;
    for (unsigned i = 0; i < topology->sockets; i++) {
        char name[16];
        snprintf(name, sizeof(name), "CPU %u", i);
        struct smbios_processor processor = {
            .socket = 1,
            .type = 3,   /* a central processor */
            .family = 1, /* other */
            .manufacturer = 2,
            .status = 0x41, /* there, and on */
            .upgrade = 1,
            .l1 = NO_HANDLE,
            .l2 = NO_HANDLE,
            .l3 = NO_HANDLE,
            .cores = (uint8_t)cores,
            .cores_enabled = (uint8_t)cores,
            .threads = (uint8_t)threads,
            .characteristics = 2, /* unknown */
            .family2 = 1,
        };
        smbios_add(smbios, &processor, PROCESSOR, sizeof(processor), i, name, MANUFACTURER, NULL);
    }
}

static void smbios_add_memory(struct smbios *smbios, const struct ram *ram)
{
    uint64_t mib = (ram->bytes + 0xfffff) >> 20;
    unsigned devices = (unsigned)((mib + MEMORY_DEVICE_MIB_MAX - 1) / MEMORY_DEVICE_MIB_MAX);
    struct smbios_memory_array array = {
        .location = 1, .use = 3 /* system memory */, .correction = 6, .kib_max = 0x80000000 /* below */, .errors = NO_ERRORS,
        .devices = (uint16_t)devices, .bytes_max = mib << 20};
    smbios_add(smbios, &array, MEMORY_ARRAY, sizeof(array), 0, NULL);
    for (unsigned i = 0; i < devices; i++) {
        uint64_t left = mib - (uint64_t)i * MEMORY_DEVICE_MIB_MAX;
        char name[16];
        snprintf(name, sizeof(name), "DIMM %u", i);
        struct smbios_memory_device device = {
            .array = HANDLE(MEMORY_ARRAY, 0),
            .errors = NO_ERRORS,
            .total_width = 0xffff,
            .data_width = 0xffff,
            .mib = (uint16_t)(left < MEMORY_DEVICE_MIB_MAX ? left : MEMORY_DEVICE_MIB_MAX),
            .form = 9, /* DIMM */
            .locator = 1,
            .type = 7, /* RAM */
            .detail = 2,
            .manufacturer = 2,
        };
        smbios_add(smbios, &device, MEMORY_DEVICE, sizeof(device), i, name, MANUFACTURER, NULL);
    }
    const uint64_t ranges[2][2] = {{0, ram->low_bytes}, {RAM_HIGH_GPA, RAM_HIGH_GPA + ram_high_bytes(ram)}};
    for (unsigned i = 0; i < 2 && ranges[i][0] < ranges[i][1]; i++) {
        struct smbios_memory_map map = {
            .first_kib = 0xffffffff, .last_kib = 0xffffffff /* in `first` and `last` */, .array = HANDLE(MEMORY_ARRAY, 0), .width = 1,
            .first = ranges[i][0], .last = ranges[i][1] - 1};
        smbios_add(smbios, &map, MEMORY_MAP, sizeof(map), i, NULL);
    }
}

static uint8_t smbios_checksum(const uint8_t *bytes, size_t count)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum = (uint8_t)(sum + bytes[i]);
    }
    return (uint8_t)-sum;
}

/* DSP0134 3.0, 5.2.1. The address stays 0. */
static void smbios_write_anchor(struct smbios *smbios)
{
    uint8_t anchor[SMBIOS_ANCHOR_BYTES] = {'_', 'S', 'M', '_', 0, SMBIOS_ANCHOR_BYTES, VERSION_MAJOR, VERSION_MINOR};
    anchor[8] = (uint8_t)smbios->largest;
    anchor[9] = (uint8_t)(smbios->largest >> 8);
    memcpy(anchor + 16, "_DMI_", 5);
    anchor[22] = (uint8_t)smbios->bytes;
    anchor[23] = (uint8_t)(smbios->bytes >> 8);
    anchor[28] = (uint8_t)smbios->count;
    anchor[29] = (uint8_t)(smbios->count >> 8);
    anchor[30] = VERSION_MAJOR << 4 | VERSION_MINOR;
    anchor[21] = smbios_checksum(anchor + 16, sizeof(anchor) - 16);
    anchor[4] = smbios_checksum(anchor, sizeof(anchor));
    memcpy(smbios->anchor, anchor, sizeof(anchor));
}

bool smbios_write(struct smbios *smbios, const char *board, const struct cpu_topology *topology, const struct ram *ram)
{
    struct smbios_system system = {.manufacturer = 1, .product = 2, .wake_up = 6};
    struct smbios_chassis chassis = {
        .manufacturer = 1, .type = 1, .boot_state = 3, .power_state = 3, .thermal_state = 3, .security = 2};
    struct smbios_boot boot = {.status = 0};
    struct smbios_head end;
    *smbios = (struct smbios){.tables = smbios->tables};
    smbios_add(smbios, &system, SYSTEM, sizeof(system), 0, MANUFACTURER, board, NULL);
    smbios_add(smbios, &chassis, CHASSIS, sizeof(chassis), 0, MANUFACTURER, NULL);
    smbios_add_processors(smbios, topology);
    smbios_add_memory(smbios, ram);
    smbios_add(smbios, &boot, BOOT, sizeof(boot), 0, NULL);
    smbios_add(smbios, &end, END, sizeof(end), 0, NULL);
    smbios_write_anchor(smbios);
    return !smbios->overflow;
}
