/* SPDX-License-Identifier: MIT */
/*
 * ACPI 6.4, chapter 5. What the board does not have is said in so many bits, because each saves the
 * guest a search: no VGA, no 8042, no CMOS clock unless asked for. It is not
 * "hardware-reduced", though it could be: on such a board Linux takes no reset register but EFI's, and without EFI
 * leaves through real-mode firmware, which there is none of.
 */
#include "machine/acpi.h"

#include <stddef.h>
#include <string.h>

#include "dev/acpi_pm.h"
#include "dev/hpet.h"
#include "machine/aml.h"
#include "machine/layout.h"

struct acpi_gas {
    uint8_t space; /* 1: system I/O */
    uint8_t bit_width;
    uint8_t bit_offset;
    uint8_t access_size; /* 1: byte */
    uint64_t address;
} __attribute__((packed));

struct acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem_id[6];
    char oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
} __attribute__((packed));

struct acpi_rsdp {
    char signature[8];
    uint8_t checksum; /* of the first 20 bytes */
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum; /* of all */
    uint8_t reserved[3];
} __attribute__((packed));

/* Only what is not zero on our boards has a name. */
struct acpi_fadt {
    struct acpi_header header;
    uint32_t facs32;
    uint32_t dsdt32;
    uint8_t reserved0;
    uint8_t preferred_pm_profile;
    uint16_t sci_int;
    uint32_t smi_cmd; /* 0: always in ACPI mode */
    uint8_t smi_values[4];
    uint32_t pm1a_evt_blk;
    uint32_t pm1b_evt_blk;
    uint32_t pm1a_cnt_blk;
    uint32_t pm1b_cnt_blk;
    uint32_t pm2_cnt_blk;
    uint32_t pm_tmr_blk;
    uint32_t gpe_blk[2];
    uint8_t pm1_evt_len;
    uint8_t pm1_cnt_len;
    uint8_t pm2_cnt_len;
    uint8_t pm_tmr_len;
    uint8_t other_lengths[96 - 92]; /* GPE0_BLK_LEN up to CST_CNT */
    uint16_t p_lvl2_lat;
    uint16_t p_lvl3_lat;
    uint8_t more[109 - 100]; /* FLUSH_SIZE up to CENTURY */
    uint16_t iapc_boot_arch;
    uint8_t reserved1;
    uint32_t flags;
    struct acpi_gas reset_reg;
    uint8_t reset_value;
    uint16_t arm_boot_arch;
    uint8_t minor_version;
    uint64_t facs;
    uint64_t dsdt;
    struct acpi_gas x_pm1a_evt_blk;
    struct acpi_gas x_pm1b_evt_blk;
    struct acpi_gas x_pm1a_cnt_blk;
    struct acpi_gas x_pm1b_cnt_blk;
    struct acpi_gas x_pm2_cnt_blk;
    struct acpi_gas x_pm_tmr_blk;
    struct acpi_gas x_gpe_blk[2];
    struct acpi_gas sleep_control_reg;
    struct acpi_gas sleep_status_reg;
    uint64_t hypervisor_vendor;
} __attribute__((packed));

_Static_assert(sizeof(struct acpi_header) == 36, "ACPI 6.4, table 5.4");
_Static_assert(sizeof(struct acpi_rsdp) == 36, "ACPI 6.4, table 5.3");
_Static_assert(offsetof(struct acpi_fadt, pm1a_evt_blk) == 56, "ACPI 6.4, table 5.9");
_Static_assert(offsetof(struct acpi_fadt, pm_tmr_blk) == 76, "ACPI 6.4, table 5.9");
_Static_assert(offsetof(struct acpi_fadt, x_pm_tmr_blk) == 208, "ACPI 6.4, table 5.9");
_Static_assert(offsetof(struct acpi_fadt, pm1_evt_len) == 88, "ACPI 6.4, table 5.9");
_Static_assert(offsetof(struct acpi_fadt, p_lvl2_lat) == 96, "ACPI 6.4, table 5.9");
_Static_assert(offsetof(struct acpi_fadt, iapc_boot_arch) == 109, "ACPI 6.4, table 5.9");
_Static_assert(offsetof(struct acpi_fadt, reset_reg) == 116, "ACPI 6.4, table 5.9");
_Static_assert(offsetof(struct acpi_fadt, x_pm1a_cnt_blk) == 172, "ACPI 6.4, table 5.9");
_Static_assert(offsetof(struct acpi_fadt, sleep_control_reg) == 244, "ACPI 6.4, table 5.9");
_Static_assert(sizeof(struct acpi_fadt) == 276, "ACPI 6.4, table 5.9");

#define FADT_IAPC_LEGACY_DEVICES 0x01u
#define FADT_IAPC_8042 0x02u
#define FADT_IAPC_VGA_NOT_PRESENT 0x04u
#define FADT_IAPC_NO_CMOS_RTC 0x20u
#define FADT_WBINVD (1u << 0)
#define FADT_SLP_BUTTON (1u << 5) /* none as a fixed feature, unlike the power button */
#define FADT_FIX_RTC (1u << 6)
#define FADT_RESET_REG_SUP (1u << 10)
#define FADT_HEADLESS (1u << 12)
#define FADT_NO_C2 101u /* a latency of more than 100 us says so, for C3 one of more than 1000 */
#define FADT_NO_C3 1001u

#define FACS_BYTES 64u
#define FACS_ALIGNMENT 64u

struct acpi_madt {
    struct acpi_header header;
    uint32_t lapic_gpa;
    uint32_t flags; /* 1: PCAT_COMPAT, there are 8259s too */
} __attribute__((packed));

struct acpi_madt_lapic {
    uint8_t type;
    uint8_t length;
    uint8_t uid;
    uint8_t apic_id;
    uint32_t flags; /* 1: enabled */
} __attribute__((packed));

#define ACPI_XAPIC_IDS 255u /* 255 is everybody's */

struct acpi_madt_x2apic {
    uint8_t type;
    uint8_t length;
    uint16_t reserved;
    uint32_t apic_id;
    uint32_t flags;
    uint32_t uid;
} __attribute__((packed));

struct acpi_madt_ioapic {
    uint8_t type;
    uint8_t length;
    uint8_t id;
    uint8_t reserved;
    uint32_t gpa;
    uint32_t gsi_base;
} __attribute__((packed));

struct acpi_madt_override {
    uint8_t type;
    uint8_t length;
    uint8_t bus; /* 0: ISA */
    uint8_t source;
    uint32_t gsi;
    uint16_t flags; /* 0: as the bus has it */
} __attribute__((packed));

#define MADT_ACTIVE_HIGH 0x1u
#define MADT_LEVEL 0xcu

struct acpi_madt_lapic_nmi {
    uint8_t type;
    uint8_t length;
    uint8_t uid; /* 0xff: all */
    uint16_t flags;
    uint8_t lint;
} __attribute__((packed));

/* IA-PC HPET 1.0a, 3.2.4 */
struct acpi_hpet {
    struct acpi_header header;
    uint32_t block_id; /* as the capabilities register has it */
    struct acpi_gas base;
    uint8_t number;
    uint16_t min_tick; /* periodic without loss, in ticks */
    uint8_t protection;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_hpet) == 56, "IA-PC HPET 1.0a, table 3");

/* PCI Firmware 3.0, 4.1.2 */
struct acpi_mcfg {
    struct acpi_header header;
    uint64_t reserved;
    uint64_t gpa;
    uint16_t segment;
    uint8_t first_bus, last_bus;
    uint32_t reserved2;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_mcfg) == 60, "PCI Firmware 3.0, table 4-2");

/* The area that tables are put into, one after the other. */
struct acpi_area {
    struct aml out; /* any bytes, not only AML */
    uint8_t *base;
    uint64_t gpa;          /* of its first byte */
    struct acpi_blob *blob; /* NULL: what is written is final */
    const char *table_id;
};

/* The field of `size` bytes at offset `at` holds an address in the area. */
static void acpi_note_pointer(struct acpi_area *area, size_t at, uint8_t size)
{
    struct acpi_blob *blob = area->blob;
    if (blob != NULL && blob->pointer_count < ACPI_FIXUPS_MAX) {
        blob->pointers[blob->pointer_count].offset = (uint32_t)at;
        blob->pointers[blob->pointer_count++].size = size;
    }
}

static void acpi_note_checksum(struct acpi_area *area, size_t start, size_t bytes)
{
    struct acpi_blob *blob = area->blob;
    if (blob != NULL && blob->checksum_count < ACPI_FIXUPS_MAX) {
        blob->checksums[blob->checksum_count].at = (uint32_t)(start + offsetof(struct acpi_header, checksum));
        blob->checksums[blob->checksum_count].start = (uint32_t)start;
        blob->checksums[blob->checksum_count++].bytes = (uint32_t)bytes;
    }
}

static uint8_t acpi_checksum(const void *bytes, size_t count)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
    }
    return (uint8_t)-sum;
}

static void acpi_align(struct acpi_area *area)
{
    while (area->out.used % 16 != 0 && !area->out.overflow) {
        aml_byte(&area->out, 0);
    }
}

static struct acpi_header acpi_make_header(const struct acpi_area *area, const char *signature, uint8_t revision)
{
    struct acpi_header header = {.revision = revision, .oem_revision = 1, .creator_revision = 1};
    memcpy(header.signature, signature, sizeof(header.signature));
    memcpy(header.oem_id, "KAGE  ", sizeof(header.oem_id));
    memcpy(header.oem_table_id, area->table_id, sizeof(header.oem_table_id));
    memcpy(header.creator_id, "KAGE", sizeof(header.creator_id));
    return header;
}

/* Sets length and checksum of the table that began at `start` and ends here. Returns its address. */
static uint64_t acpi_finish(struct acpi_area *area, size_t start)
{
    if (!area->out.overflow) {
        struct acpi_header header;
        memcpy(&header, area->base + start, sizeof(header));
        header.length = (uint32_t)(area->out.used - start);
        memcpy(area->base + start, &header, sizeof(header));
        header.checksum = acpi_checksum(area->base + start, header.length);
        memcpy(area->base + start, &header, sizeof(header));
        acpi_note_checksum(area, start, header.length);
    }
    acpi_align(area);
    return area->gpa + start;
}

#define PCI_SLOTS 32u
#define PCI_PINS 4u
#define PRT_ALL_FUNCTIONS 0xffffu

/* Each pin of each slot, wired to an I/O APIC's (ACPI 6.4, 6.2.13): no link devices, since nothing else can be chosen. */
static void acpi_write_prt(struct aml *aml, const struct acpi_config *config)
{
    aml_name(aml, "_PRT");
    size_t table = aml_open_package(aml, PCI_SLOTS * PCI_PINS);
    for (unsigned i = 0; i < PCI_SLOTS * PCI_PINS; i++) {
        size_t entry = aml_open_package(aml, 4);
        aml_integer(aml, (i / PCI_PINS) << 16 | PRT_ALL_FUNCTIONS);
        aml_integer(aml, i % PCI_PINS);
        aml_integer(aml, 0);
        aml_integer(aml, config->pirq_gsi[config->pirq_of(i / PCI_PINS, i % PCI_PINS)]);
        aml_close(aml, entry);
    }
    aml_close(aml, table);
}

static void acpi_write_virtio(struct aml *aml, const struct acpi_config *config)
{
    for (unsigned i = 0; i < config->virtio_count; i++) {
        char name[5] = {'V', 'R', (char)('0' + i / 10 % 10), (char)('0' + i % 10), '\0'};
        size_t device = aml_open_device(aml, name);
        aml_name(aml, "_HID");
        aml_string(aml, "LNRO0005");
        aml_name(aml, "_UID");
        aml_integer(aml, i);
        aml_name(aml, "_CRS");
        size_t resources = aml_open_resources(aml);
        aml_memory(aml, (uint32_t)config->virtio_gpa + i * ACPI_VIRTIO_BYTES, ACPI_VIRTIO_BYTES);
        aml_gsi(aml, config->virtio_gsi[i]);
        aml_close_resources(aml, resources);
        aml_close(aml, device);
    }
}

#define DISPLAY_GPA 0xa0000u
#define DISPLAY_LAST_GPA 0xbffffu

/* A window that has no place says what another one has said: the tables' length must not depend on where firmware has put things. */
static void acpi_write_window(struct aml *aml, uint64_t first, uint64_t end)
{
    aml_memory_window(aml, first < end ? (uint32_t)first : DISPLAY_GPA, first < end ? (uint32_t)(end - 1) : DISPLAY_LAST_GPA);
}

static void acpi_write_pci_windows(struct aml *aml, const struct acpi_config *config)
{
    uint64_t ecam_end = config->ecam_gpa + config->ecam_bytes;
    aml_memory_window(aml, DISPLAY_GPA, DISPLAY_LAST_GPA);
    if (config->ecam_bytes == 0) {
        aml_memory_window(aml, (uint32_t)config->pci_gpa, LAYOUT_IOAPIC_GPA - 1);
    } else {
        acpi_write_window(aml, config->pci_gpa, config->ecam_gpa < LAYOUT_IOAPIC_GPA ? config->ecam_gpa : LAYOUT_IOAPIC_GPA);
        acpi_write_window(aml, ecam_end > config->pci_gpa ? ecam_end : config->pci_gpa, LAYOUT_IOAPIC_GPA);
    }
    if (config->pci_high_last != 0) {
        aml_memory_window64(aml, config->pci_high_gpa, config->pci_high_last);
    }
}

/*
 * PCI Firmware 3.0, 4.5.1: what of PCI Express the operating system may drive itself. Of the features in the third double word power
 * management events, error reports and the capability are its; there is no hotplug.
 *
 *   CreateDWordField (Arg3, Zero, CDW1)
 *   If (LEqual (Arg0, UUID)) { CreateDWordField (Arg3, 8, CDW3)  And (CDW3, 1Ch, CDW3)  If (LNotEqual (Arg1, One)) { Or (CDW1, 8, CDW1) } }
 *   Else { Or (CDW1, 4, CDW1) }                  8: another revision, 4: another UUID
 *   Return (Arg3)
 */
static void acpi_write_osc(struct aml *aml)
{
    static const uint8_t terms[] = {
        0x8a, 0x6b, 0x00, 'C', 'D', 'W', '1',
        0xa0, 0x3b,
        0x93, 0x68, 0x11, 0x13, 0x0a, 0x10, 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66,
        0x8a, 0x6b, 0x0a, 0x08, 'C', 'D', 'W', '3',
        0x7b, 'C', 'D', 'W', '3', 0x0a, 0x1c, 'C', 'D', 'W', '3',
        0xa0, 0x10, 0x92, 0x93, 0x69, 0x01, 0x7d, 'C', 'D', 'W', '1', 0x0a, 0x08, 'C', 'D', 'W', '1',
        0xa1, 0x0c, 0x7d, 'C', 'D', 'W', '1', 0x0a, 0x04, 'C', 'D', 'W', '1',
        0xa4, 0x6b,
    };
    size_t method = aml_open_method(aml, "_OSC", 4);
    aml_raw(aml, terms, sizeof(terms));
    aml_close(aml, method);
}

/* The host bridge and what it forwards. */
static void acpi_write_pci(struct aml *aml, const struct acpi_config *config)
{
    size_t device = aml_open_device(aml, "PCI0");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, config->ecam_bytes != 0 ? "PNP0A08" : "PNP0A03");
    if (config->ecam_bytes != 0) {
        aml_name(aml, "_CID");
        aml_eisa_id(aml, "PNP0A03");
    }
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_name(aml, "_CRS");
    size_t resources = aml_open_resources(aml);
    aml_bus_numbers(aml, 0, 0xff);
    aml_io(aml, 0xcf8, 8);
    aml_io_window(aml, 0, 0xcf7);
    aml_io_window(aml, 0xd00, 0xffff);
    acpi_write_pci_windows(aml, config);
    aml_close_resources(aml, resources);
    if (config->pirq_of != NULL) {
        acpi_write_prt(aml, config);
    }
    if (config->ecam_bytes != 0) {
        acpi_write_osc(aml);
    }
    aml_close(aml, device);
}

/* The controller's ports are the keyboard's. */
static void acpi_add_ps2(struct aml *aml, const char *name, const char *id, uint8_t irq, bool ports)
{
    size_t device = aml_open_device(aml, name);
    aml_name(aml, "_HID");
    aml_eisa_id(aml, id);
    aml_name(aml, "_CRS");
    size_t resources = aml_open_resources(aml);
    if (ports) {
        aml_io(aml, 0x60, 1);
        aml_io(aml, 0x64, 1);
    }
    aml_irq(aml, irq);
    aml_close_resources(aml, resources);
    aml_close(aml, device);
}

/* A device that is nothing but memory that others must leave alone. */
static void acpi_write_memory(struct aml *aml, const char *name, const char *hid, uint64_t gpa, uint64_t bytes)
{
    size_t device = aml_open_device(aml, name);
    aml_name(aml, "_HID");
    aml_eisa_id(aml, hid);
    aml_name(aml, "_CRS");
    size_t resources = aml_open_resources(aml);
    aml_memory(aml, (uint32_t)gpa, (uint32_t)bytes);
    aml_close_resources(aml, resources);
    aml_close(aml, device);
}

static uint64_t acpi_write_dsdt(struct acpi_area *area, const struct acpi_config *config)
{
    struct aml *aml = &area->out;
    size_t start = aml->used;
    struct acpi_header header = acpi_make_header(area, "DSDT", 2);
    aml_raw(aml, &header, sizeof(header));

    aml_name(aml, "\\_S5_");
    size_t package = aml_open_package(aml, 2); /* SLP_TYPa, SLP_TYPb */
    aml_integer(aml, ACPI_SLP_TYP_S5);
    aml_integer(aml, 0);
    aml_close(aml, package);

    size_t scope = aml_open_scope(aml, "\\_SB_");
    for (unsigned i = 0; i < config->serial_count; i++) {
        char name[5] = {'C', 'O', 'M', (char)('1' + (char)i), '\0'};
        size_t device = aml_open_device(aml, name);
        aml_name(aml, "_HID");
        aml_eisa_id(aml, "PNP0501");
        aml_name(aml, "_UID");
        aml_integer(aml, i + 1);
        aml_name(aml, "_CRS");
        size_t resources = aml_open_resources(aml);
        aml_io(aml, config->serial[i].port, 8);
        aml_irq(aml, config->serial[i].irq);
        aml_close_resources(aml, resources);
        aml_close(aml, device);
    }
    if (config->rtc) {
        size_t device = aml_open_device(aml, "RTC_");
        aml_name(aml, "_HID");
        aml_eisa_id(aml, "PNP0B00");
        aml_name(aml, "_CRS");
        size_t resources = aml_open_resources(aml);
        aml_io(aml, 0x70, 2);
        aml_irq(aml, 8);
        aml_close_resources(aml, resources);
        aml_close(aml, device);
    }
    if (config->i8042) {
        acpi_add_ps2(aml, "KBD_", "PNP0303", 1, true);
        acpi_add_ps2(aml, "MOU_", "PNP0F13", 12, false);
    }
    if (config->pvpanic_port != 0) {
        size_t device = aml_open_device(aml, "PEVT");
        aml_name(aml, "_HID");
        aml_string(aml, "QEMU0001");
        aml_name(aml, "_CRS");
        size_t resources = aml_open_resources(aml);
        aml_io(aml, config->pvpanic_port, 1);
        aml_close_resources(aml, resources);
        aml_close(aml, device);
    }
    if (config->pci) {
        acpi_write_pci(aml, config);
    }
    if (config->ecam_bytes != 0) {
        acpi_write_memory(aml, "ECAM", "PNP0C02", config->ecam_gpa, config->ecam_bytes);
    }
    if (config->hpet) {
        acpi_write_memory(aml, "HPET", "PNP0103", HPET_GPA, HPET_BYTES);
    }
    acpi_write_virtio(aml, config);
    aml_close(aml, scope);
    return acpi_finish(area, start);
}

/* The firmware control structure: a waking vector and a lock that nobody shares. It has no checksum. */
static uint64_t acpi_write_facs(struct acpi_area *area)
{
    uint8_t facs[FACS_BYTES] = {'F', 'A', 'C', 'S', FACS_BYTES};
    facs[32] = 2; /* version */
    while (area->out.used % FACS_ALIGNMENT != 0 && !area->out.overflow) {
        aml_byte(&area->out, 0);
    }
    uint64_t gpa = area->gpa + area->out.used;
    aml_raw(&area->out, facs, sizeof(facs));
    return gpa;
}

static struct acpi_gas acpi_io(unsigned port, unsigned bytes, uint8_t access_size)
{
    return (struct acpi_gas){.space = 1, .bit_width = (uint8_t)(bytes * 8), .access_size = access_size, .address = port};
}

static uint64_t acpi_write_fadt(struct acpi_area *area, const struct acpi_config *config, uint64_t dsdt_gpa, uint64_t facs_gpa)
{
    size_t start = area->out.used;
    struct acpi_fadt fadt = {
        .header = acpi_make_header(area, "FACP", 6),
        .facs32 = (uint32_t)facs_gpa,
        .sci_int = config->sci,
        .pm1a_evt_blk = config->pm_port,
        .pm1a_cnt_blk = config->pm_port + ACPI_PM_CNT_AT,
        .pm1_evt_len = ACPI_PM_EVT_BYTES,
        .pm1_cnt_len = ACPI_PM_CNT_BYTES,
        .p_lvl2_lat = FADT_NO_C2,
        .p_lvl3_lat = FADT_NO_C3,
        .iapc_boot_arch = (uint16_t)((config->serial_count != 0 ? FADT_IAPC_LEGACY_DEVICES : 0u) | FADT_IAPC_VGA_NOT_PRESENT |
                                     (config->rtc ? 0u : FADT_IAPC_NO_CMOS_RTC) | (config->i8042 ? FADT_IAPC_8042 : 0u)),
        .flags = FADT_WBINVD | FADT_SLP_BUTTON | FADT_FIX_RTC | FADT_RESET_REG_SUP | FADT_HEADLESS,
        .reset_reg = acpi_io(config->reset_port, 1, 1),
        .reset_value = config->reset_value,
        .minor_version = 4,
        .dsdt32 = (uint32_t)dsdt_gpa,
        .dsdt = dsdt_gpa,
        .x_pm1a_evt_blk = acpi_io(config->pm_port, ACPI_PM_EVT_BYTES, 2),
        .x_pm1a_cnt_blk = acpi_io(config->pm_port + ACPI_PM_CNT_AT, ACPI_PM_CNT_BYTES, 2),
    };
    if (config->pm_timer) {
        fadt.pm_tmr_blk = config->pm_port + ACPI_PM_TMR_AT;
        fadt.pm_tmr_len = ACPI_PM_TMR_BYTES;
        fadt.x_pm_tmr_blk = acpi_io(config->pm_port + ACPI_PM_TMR_AT, ACPI_PM_TMR_BYTES, 3);
    }
    acpi_note_pointer(area, start + offsetof(struct acpi_fadt, facs32), 4);
    acpi_note_pointer(area, start + offsetof(struct acpi_fadt, dsdt32), 4);
    acpi_note_pointer(area, start + offsetof(struct acpi_fadt, dsdt), 8);
    aml_raw(&area->out, &fadt, sizeof(fadt));
    return acpi_finish(area, start);
}

static uint64_t acpi_write_madt(struct acpi_area *area, const struct acpi_config *config)
{
    size_t start = area->out.used;
    struct acpi_madt madt = {.header = acpi_make_header(area, "APIC", 5), .lapic_gpa = LAYOUT_LAPIC_GPA, .flags = 1};
    aml_raw(&area->out, &madt, sizeof(madt));
    for (unsigned i = 0; i < config->topology->cpus; i++) {
        uint32_t apic_id = topology_apic_id(config->topology, i);
        if (apic_id < ACPI_XAPIC_IDS) {
            struct acpi_madt_lapic lapic = {.type = 0, .length = sizeof(lapic), .uid = (uint8_t)i, .apic_id = (uint8_t)apic_id, .flags = 1};
            aml_raw(&area->out, &lapic, sizeof(lapic));
        } else {
            struct acpi_madt_x2apic x2apic = {.type = 9, .length = sizeof(x2apic), .apic_id = apic_id, .flags = 1, .uid = i};
            aml_raw(&area->out, &x2apic, sizeof(x2apic));
        }
    }
    struct acpi_madt_ioapic ioapic = {.type = 1, .length = sizeof(ioapic), .id = 0, .gpa = LAYOUT_IOAPIC_GPA};
    aml_raw(&area->out, &ioapic, sizeof(ioapic));
    /* KVM's default routing has the 8254 at I/O APIC pin 2. */
    struct acpi_madt_override timer = {.type = 2, .length = sizeof(timer), .source = 0, .gsi = 2};
    aml_raw(&area->out, &timer, sizeof(timer));
    struct acpi_madt_override sci = {.type = 2, .length = sizeof(sci), .source = config->sci, .gsi = config->sci, .flags = MADT_ACTIVE_HIGH | MADT_LEVEL};
    aml_raw(&area->out, &sci, sizeof(sci));
    struct acpi_madt_lapic_nmi nmi = {.type = 4, .length = sizeof(nmi), .uid = 0xff, .lint = 1};
    aml_raw(&area->out, &nmi, sizeof(nmi));
    return acpi_finish(area, start);
}

static uint64_t acpi_write_hpet(struct acpi_area *area)
{
    size_t start = area->out.used;
    struct acpi_hpet hpet = {
        .header = acpi_make_header(area, "HPET", 1),
        .block_id = HPET_ID,
        .base = {.space = 0, .bit_width = 64, .address = HPET_GPA},
        .min_tick = 100,
    };
    aml_raw(&area->out, &hpet, sizeof(hpet));
    return acpi_finish(area, start);
}

static uint64_t acpi_write_mcfg(struct acpi_area *area, const struct acpi_config *config)
{
    size_t start = area->out.used;
    struct acpi_mcfg mcfg = {
        .header = acpi_make_header(area, "MCFG", 1), .gpa = config->ecam_gpa, .last_bus = (uint8_t)((config->ecam_bytes >> 20) - 1)};
    aml_raw(&area->out, &mcfg, sizeof(mcfg));
    return acpi_finish(area, start);
}

static uint64_t acpi_write_xsdt(struct acpi_area *area, const uint64_t *tables, unsigned count)
{
    size_t start = area->out.used;
    struct acpi_header header = acpi_make_header(area, "XSDT", 1);
    aml_raw(&area->out, &header, sizeof(header));
    for (unsigned i = 0; i < count; i++) {
        acpi_note_pointer(area, area->out.used, 8);
        aml_raw(&area->out, &tables[i], sizeof(tables[i]));
    }
    return acpi_finish(area, start);
}

/* All tables but the RSDP; returns the XSDT's address. */
static uint64_t acpi_write_tables(struct acpi_area *area, const struct acpi_config *config)
{
    uint64_t dsdt_gpa = acpi_write_dsdt(area, config);
    uint64_t facs_gpa = acpi_write_facs(area);
    uint64_t tables[4];
    unsigned count = 0;
    tables[count++] = acpi_write_fadt(area, config, dsdt_gpa, facs_gpa);
    tables[count++] = acpi_write_madt(area, config);
    if (config->hpet) {
        tables[count++] = acpi_write_hpet(area);
    }
    if (config->ecam_bytes != 0) {
        tables[count++] = acpi_write_mcfg(area, config);
    }
    return acpi_write_xsdt(area, tables, count);
}

static void acpi_make_rsdp(struct acpi_rsdp *rsdp, uint64_t xsdt)
{
    *rsdp = (struct acpi_rsdp){.revision = 2, .length = sizeof(*rsdp), .xsdt = xsdt};
    memcpy(rsdp->signature, "RSD PTR ", sizeof(rsdp->signature));
    memcpy(rsdp->oem_id, "KAGE  ", sizeof(rsdp->oem_id));
    rsdp->checksum = acpi_checksum(rsdp, 20);
    rsdp->extended_checksum = acpi_checksum(rsdp, sizeof(*rsdp));
}

uint64_t acpi_write(const struct ram *ram, const struct acpi_config *config)
{
    struct acpi_area area = {
        .base = ram_at(ram, LAYOUT_ACPI_GPA, LAYOUT_ACPI_BYTES), .gpa = LAYOUT_ACPI_GPA, .table_id = "MICROVM "};
    if (area.base == NULL) {
        return 0;
    }
    aml_init(&area.out, area.base, LAYOUT_ACPI_BYTES);

    /* The RSDP stands first, where a guest that is not told searches; it is filled in last. */
    struct acpi_rsdp rsdp = {.revision = 0};
    aml_raw(&area.out, &rsdp, sizeof(rsdp));
    acpi_align(&area);
    acpi_make_rsdp(&rsdp, acpi_write_tables(&area, config));
    memcpy(area.base, &rsdp, sizeof(rsdp));
    return area.out.overflow ? 0 : LAYOUT_ACPI_GPA;
}

_Static_assert(sizeof(struct acpi_rsdp) == ACPI_RSDP_BYTES, "ACPI 6.4, table 5.3");

bool acpi_write_blob(struct acpi_blob *blob, const struct acpi_config *config)
{
    struct acpi_area area = {.base = blob->tables, .blob = blob, .table_id = "PC      "};
    struct acpi_rsdp rsdp;

    blob->pointer_count = blob->checksum_count = 0;
    aml_init(&area.out, area.base, blob->room);
    acpi_make_rsdp(&rsdp, acpi_write_tables(&area, config));
    memcpy(blob->rsdp, &rsdp, sizeof(rsdp));
    blob->bytes = area.out.used;
    return !area.out.overflow;
}
