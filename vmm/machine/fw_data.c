/* SPDX-License-Identifier: MIT */
#include "machine/fw_data.h"

#include <asm/bootparam.h>
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "machine/layout.h"
#include "machine/linux_rom.h"
#include "machine/multiboot.h"
#include "machine/smbios.h"

/* ---- ACPI: etc/table-loader's script (QEMU, hw/acpi/bios-linker-loader.c has the format) ---- */

#define TABLES_FILE "etc/acpi/tables"
#define RSDP_FILE "etc/acpi/rsdp"
#define TABLES_ROOM 0x4000u

enum { LOADER_ALLOCATE = 1, LOADER_ADD_POINTER = 2, LOADER_ADD_CHECKSUM = 3 };
enum { LOADER_ZONE_HIGH = 1, LOADER_ZONE_FSEG = 2 };

struct loader_command {
    uint32_t command;
    union {
        struct {
            char file[FW_CFG_NAME_BYTES];
            uint32_t align;
            uint8_t zone;
        } __attribute__((packed)) allocate;
        struct {
            char file[FW_CFG_NAME_BYTES]; /* whose field it is */
            char to[FW_CFG_NAME_BYTES];   /* what the field points into */
            uint32_t offset;
            uint8_t size;
        } __attribute__((packed)) pointer;
        struct {
            char file[FW_CFG_NAME_BYTES];
            uint32_t offset;
            uint32_t start;
            uint32_t length;
        } __attribute__((packed)) checksum;
        uint8_t room[124];
    };
} __attribute__((packed));
_Static_assert(sizeof(struct loader_command) == 128, "QEMU, bios-linker-loader");

struct loader_script {
    unsigned count;
    struct loader_command commands[2 * ACPI_FIXUPS_MAX + 8];
};

static struct loader_command *script_add(struct loader_script *script, uint32_t command)
{
    struct loader_command *c = &script->commands[script->count++];
    memset(c, 0, sizeof(*c));
    c->command = htole32(command);
    return c;
}

static void script_allocate(struct loader_script *script, const char *file, uint32_t align, uint8_t zone)
{
    struct loader_command *c = script_add(script, LOADER_ALLOCATE);
    strcpy(c->allocate.file, file);
    c->allocate.align = htole32(align);
    c->allocate.zone = zone;
}

static void script_pointer(struct loader_script *script, const char *file, uint32_t offset, uint8_t size)
{
    struct loader_command *c = script_add(script, LOADER_ADD_POINTER);
    strcpy(c->pointer.file, file);
    strcpy(c->pointer.to, TABLES_FILE);
    c->pointer.offset = htole32(offset);
    c->pointer.size = size;
}

static void script_checksum(struct loader_script *script, const char *file, uint32_t offset, uint32_t start, uint32_t length)
{
    struct loader_command *c = script_add(script, LOADER_ADD_CHECKSUM);
    strcpy(c->checksum.file, file);
    c->checksum.offset = htole32(offset);
    c->checksum.start = htole32(start);
    c->checksum.length = htole32(length);
}

/* A checksum field must be 0 before firmware sums over it. */
static void blob_clear_checksums(struct acpi_blob *blob)
{
    for (unsigned i = 0; i < blob->checksum_count; i++) {
        blob->tables[blob->checksums[i].at] = 0;
    }
    blob->rsdp[8] = blob->rsdp[32] = 0;
}

static int fw_data_add_acpi(struct fw_cfg *fw, const struct acpi_config *acpi)
{
    uint8_t *tables = malloc(TABLES_ROOM);
    struct acpi_blob blob = {.tables = tables, .room = TABLES_ROOM};
    struct loader_script *script = calloc(1, sizeof(*script));
    if (tables == NULL || script == NULL) {
        free(tables);
        free(script);
        return -ENOMEM;
    }
    int result = acpi_write_blob(&blob, acpi) ? 0 : -ENOSPC;
    blob_clear_checksums(&blob);
    script_allocate(script, RSDP_FILE, 16, LOADER_ZONE_FSEG);
    script_allocate(script, TABLES_FILE, 64, LOADER_ZONE_HIGH);
    for (unsigned i = 0; i < blob.pointer_count; i++) {
        script_pointer(script, TABLES_FILE, blob.pointers[i].offset, blob.pointers[i].size);
    }
    for (unsigned i = 0; i < blob.checksum_count; i++) {
        script_checksum(script, TABLES_FILE, blob.checksums[i].at, blob.checksums[i].start, blob.checksums[i].bytes);
    }
    script_pointer(script, RSDP_FILE, 24, 8);
    script_checksum(script, RSDP_FILE, 8, 0, 20);
    script_checksum(script, RSDP_FILE, 32, 0, ACPI_RSDP_BYTES);
    if (result == 0) {
        result = fw_cfg_add_file(fw, RSDP_FILE, blob.rsdp, sizeof(blob.rsdp));
    }
    if (result == 0) {
        result = fw_cfg_add_file(fw, TABLES_FILE, blob.tables, blob.bytes);
    }
    if (result == 0) {
        result = fw_cfg_add_file(fw, "etc/table-loader", script->commands, script->count * sizeof(script->commands[0]));
    }
    free(tables);
    free(script);
    return result;
}

void fw_data_selected(struct fw_cfg *fw, const char *name, const struct acpi_config *acpi)
{
    uint8_t *tables = strcmp(name, TABLES_FILE) == 0 ? malloc(TABLES_ROOM) : NULL;
    if (tables != NULL) {
        struct acpi_blob blob = {.tables = tables, .room = TABLES_ROOM};
        if (acpi_write_blob(&blob, acpi)) {
            blob_clear_checksums(&blob);
            fw_cfg_update_file(fw, TABLES_FILE, blob.tables, blob.bytes);
        }
        free(tables);
    }
}

/* ---- SMBIOS ---- */

static int fw_data_add_smbios(struct fw_cfg *fw, const struct machine_config *config, const struct ram *ram)
{
    struct smbios smbios = {.tables = malloc(SMBIOS_ROOM)};
    if (smbios.tables == NULL) {
        return -ENOMEM;
    }
    int result = smbios_write(&smbios, config->board->name, &config->smp, ram) ? 0 : -ENOSPC;
    result = result != 0 ? result : fw_cfg_add_file(fw, "etc/smbios/smbios-tables", smbios.tables, smbios.bytes);
    result = result != 0 ? result : fw_cfg_add_file(fw, "etc/smbios/smbios-anchor", smbios.anchor, sizeof(smbios.anchor));
    free(smbios.tables);
    return result;
}

/* ---- memory and processors ---- */

struct e820_entry {
    uint64_t address;
    uint64_t length;
    uint32_t type;
} __attribute__((packed));

/* RAM only: firmware knows best what it takes of it. */
static int fw_data_add_memory(struct fw_cfg *fw, const struct machine_config *config, const struct ram *ram)
{
    struct e820_entry map[2] = {{.length = htole64(ram->low_bytes), .type = htole32(1)},
                                {.address = htole64(RAM_HIGH_GPA), .length = htole64(ram_high_bytes(ram)), .type = htole32(1)}};
    const struct {
        uint16_t key;
        uint64_t value;
        unsigned bytes;
    } numbers[] = {
        {FW_CFG_RAM_SIZE, ram->bytes, 8},
        {FW_CFG_NB_CPUS, config->smp.cpus, 2},
        {FW_CFG_MAX_CPUS, topology_apic_id(&config->smp, config->smp.cpus - 1) + 1, 2}, /* firmware counts APIC ids */
        {FW_CFG_NOGRAPHIC, config->serial_count > 0 && config->serial[0] != NULL, 2}, /* 1: firmware's screen is the serial port */
        {FW_CFG_BOOT_MENU, config->boot_menu, 2},
        {FW_CFG_IRQ0_OVERRIDE, 1, 1}, /* KVM's default routing */
    };
    int result = fw_cfg_add_file(fw, "etc/e820", map, (ram_high_bytes(ram) != 0 ? 2 : 1) * sizeof(map[0]));
    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]) && result == 0; i++) {
        result = fw_cfg_add_number(fw, numbers[i].key, numbers[i].value, numbers[i].bytes);
    }
    return result;
}

/* ---- the kernel ---- */

#define SETUP_GPA 0x10000u
#define SETUP_BYTES_MAX 0x8000u
#define SETUP_HEAP_END 0xfe00u /* less 0x200, as boot.rst wants it */
#define KERNEL_GPA 0x100000u
#define CMDLINE_GPA 0x20000u

static int fw_data_map_kernel(struct fw_data *data, const struct machine_config *config, struct error *error)
{
    if (boot_file_map(&data->kernel, "-kernel", config->kernel, error) != 0) {
        return -1;
    }
    if (multiboot_is(&data->kernel)) {
        data->direct = true;
        boot_file_unmap(&data->kernel);
        return 0;
    }
    if (config->initrd != NULL && boot_file_map(&data->initrd, "-initrd", config->initrd, error) != 0) {
        return -1;
    }
    return 0;
}

/* The real-mode part with the fields that a boot loader fills in (boot.rst, "Details of header fields"). */
static int fw_data_prepare_setup(struct fw_data *data, const struct machine_config *config, const struct ram *ram, uint32_t *setup_bytes,
                                 uint32_t *initrd_gpa, struct error *error)
{
    struct setup_header header;
    const struct boot_file *kernel = &data->kernel;
    if (kernel->size < 0x1f1 + sizeof(header)) {
        return error_set(error, "-kernel %s: it is neither a Linux kernel nor a multiboot one, or it is truncated", config->kernel);
    }
    memcpy(&header, kernel->bytes + 0x1f1, sizeof(header));
    if (header.boot_flag != 0xaa55 || header.header != 0x53726448 || header.version < 0x203 || (header.loadflags & LOADED_HIGH) == 0) {
        return error_set(error, "-kernel %s: board pc starts bzImage (boot protocol 2.03 or newer) and multiboot kernels", config->kernel);
    }
    *setup_bytes = ((header.setup_sects == 0 ? 4u : header.setup_sects) + 1u) * 512u;
    uint64_t cmdline_max = header.version >= 0x206 ? header.cmdline_size : 255;
    if (*setup_bytes >= kernel->size || *setup_bytes > SETUP_BYTES_MAX) {
        return error_set(error, "-kernel %s: it is truncated, or its setup code of %u bytes is too long", config->kernel, *setup_bytes);
    }
    if (strlen(config->cmdline) > cmdline_max) {
        return error_set(error, "-append: %zu bytes of command line; this kernel takes at most %llu", strlen(config->cmdline),
                         (unsigned long long)cmdline_max);
    }
    uint64_t top = ram->low_bytes - 0x100000 < header.initrd_addr_max ? ram->low_bytes - 0x100000 : (uint64_t)header.initrd_addr_max + 1;
    /* Unpacked, the kernel is where it prefers to be, and as long as it says. */
    uint64_t end = KERNEL_GPA + kernel->size - *setup_bytes;
    uint64_t preferred = header.version < 0x20a ? 0 : header.pref_address < RAM_HIGH_GPA ? header.pref_address : RAM_HIGH_GPA;
    end = preferred + header.init_size > end && preferred != 0 ? preferred + header.init_size : end;
    if (end > top) {
        return error_set(error, "-kernel %s: it needs %llu MiB of memory below 3 GiB, and the guest has %llu; give it more with -m", config->kernel,
                         (unsigned long long)(end + 0x100000) >> 20, (unsigned long long)ram->low_bytes >> 20);
    }
    if (data->initrd.size > top - end) {
        return error_set(error, "-initrd %s: it does not fit into memory behind the kernel; give the guest more with -m", config->initrd);
    }
    *initrd_gpa = data->initrd.size != 0 ? (uint32_t)((top - data->initrd.size) & ~UINT64_C(0xfff)) : 0;
    header.type_of_loader = 0xff;
    header.loadflags |= CAN_USE_HEAP;
    header.heap_end_ptr = SETUP_HEAP_END - 0x200;
    header.cmd_line_ptr = CMDLINE_GPA;
    header.ramdisk_image = *initrd_gpa;
    header.ramdisk_size = (uint32_t)data->initrd.size;
    data->setup = malloc(*setup_bytes);
    if (data->setup == NULL) {
        return error_set(error, "no memory for the kernel's setup");
    }
    memcpy(data->setup, kernel->bytes, *setup_bytes);
    size_t header_bytes = 0x202u + kernel->bytes[0x201] - 0x1f1u; /* what this kernel has of it */
    memcpy(data->setup + 0x1f1, &header, header_bytes < sizeof(header) ? header_bytes : sizeof(header));
    return 0;
}

/* The bytes of an option ROM add up to 0; its last one sees to that. */
static int fw_data_add_rom(struct fw_cfg *fw)
{
    uint8_t *rom = malloc(linux_rom_bytes);
    if (rom == NULL) {
        return -ENOMEM;
    }
    memcpy(rom, linux_rom, linux_rom_bytes);
    uint8_t sum = 0;
    for (uint32_t i = 0; i < linux_rom_bytes - 1; i++) {
        sum = (uint8_t)(sum + rom[i]);
    }
    rom[linux_rom_bytes - 1] = (uint8_t)-sum;
    int result = fw_cfg_add_file(fw, FW_DATA_ROM, rom, linux_rom_bytes);
    free(rom);
    return result;
}

static int fw_data_add_kernel(struct fw_data *data, struct fw_cfg *fw, const struct machine_config *config, const struct ram *ram,
                              struct error *error)
{
    uint32_t setup_bytes = 0, initrd_gpa = 0;
    if (fw_data_map_kernel(data, config, error) != 0) {
        return -1;
    }
    if (data->direct) {
        return 0;
    }
    if (fw_data_prepare_setup(data, config, ram, &setup_bytes, &initrd_gpa, error) != 0) {
        return -1;
    }
    const struct {
        uint16_t key;
        uint32_t value;
    } numbers[] = {
        {FW_CFG_SETUP_ADDR, SETUP_GPA},
        {FW_CFG_SETUP_SIZE, setup_bytes},
        {FW_CFG_KERNEL_ADDR, KERNEL_GPA},
        {FW_CFG_KERNEL_SIZE, (uint32_t)(data->kernel.size - setup_bytes)},
        {FW_CFG_CMDLINE_ADDR, CMDLINE_GPA},
        {FW_CFG_CMDLINE_SIZE, (uint32_t)strlen(config->cmdline) + 1},
        {FW_CFG_INITRD_ADDR, initrd_gpa},
        {FW_CFG_INITRD_SIZE, (uint32_t)data->initrd.size},
    };
    int result = 0;
    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]) && result == 0; i++) {
        result = fw_cfg_add_number(fw, numbers[i].key, numbers[i].value, 4);
    }
    result = result != 0 ? result : fw_cfg_add_static(fw, FW_CFG_SETUP_DATA, data->setup, setup_bytes);
    result = result != 0 ? result : fw_cfg_add_static(fw, FW_CFG_KERNEL_DATA, data->kernel.bytes + setup_bytes, data->kernel.size - setup_bytes);
    result = result != 0 ? result : fw_cfg_add(fw, FW_CFG_CMDLINE_DATA, config->cmdline, strlen(config->cmdline) + 1);
    result = result != 0 ? result : fw_cfg_add_static(fw, FW_CFG_INITRD_DATA, data->initrd.bytes, data->initrd.size);
    result = result != 0 ? result : fw_data_add_rom(fw);
    return result == 0 ? 0 : error_set(error, "fw_cfg: %s", strerror(-result));
}

/* Boot order and waits. */
static int fw_data_add_boot(struct fw_data *data, struct fw_cfg *fw, const struct machine_config *config)
{
    uint16_t menu_wait = htole16((uint16_t)(config->boot_menu_wait < 0xffff ? config->boot_menu_wait : 0xffff));
    uint32_t fail_wait = htole32((uint32_t)config->boot_fail_wait);
    int result = 0;
    if (data->bootorder != NULL && data->bootorder[0] != '\0') {
        result = fw_cfg_add_file(fw, "bootorder", data->bootorder, strlen(data->bootorder) + 1);
    }
    if (result == 0 && config->boot_menu_wait > 0) {
        result = fw_cfg_add_file(fw, "etc/boot-menu-wait", &menu_wait, sizeof(menu_wait));
    }
    if (result == 0 && config->boot_fail_wait > 0) {
        result = fw_cfg_add_file(fw, "etc/boot-fail-wait", &fail_wait, sizeof(fail_wait));
    }
    return result;
}

int fw_data_fill(struct fw_data *data, struct fw_cfg *fw, const struct machine_config *config, const struct ram *ram,
                 const struct acpi_config *acpi, struct error *error)
{
    int result = fw_data_add_memory(fw, config, ram);
    result = result != 0 ? result : fw_data_add_smbios(fw, config, ram);
    if (result == 0 && config->acpi) {
        result = fw_data_add_acpi(fw, acpi);
    }
    if (result == 0) {
        result = fw_data_add_boot(data, fw, config);
    }
    if (result != 0) {
        return error_set(error, "fw_cfg: %s", strerror(-result));
    }
    return config->kernel != NULL ? fw_data_add_kernel(data, fw, config, ram, error) : 0;
}

void fw_data_fini(struct fw_data *data)
{
    if (data->kernel.bytes != NULL) {
        boot_file_unmap(&data->kernel);
    }
    if (data->initrd.bytes != NULL) {
        boot_file_unmap(&data->initrd);
    }
    free(data->setup);
    free(data->bootorder);
    data->setup = NULL;
    data->bootorder = NULL;
}
