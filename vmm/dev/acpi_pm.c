/* SPDX-License-Identifier: MIT */
/*
 * PM1 registers, byte by byte as any width of access may reach them:
 *
 *   0 PM1a_STS  write 1 to clear
 *   2 PM1a_EN   which status bits raise the SCI
 *   4 PM1a_CNT  0 SCI_EN (always set: there is no other mode) | 12..10 SLP_TYP | 13 SLP_EN
 */
#include "dev/acpi_pm.h"

#include "dev/isa.h"

#define PM1_EVENTS 0x8731u /* TMR, BM, GBL, PWRBTN, SLPBTN, RTC, WAK */
#define PM1_CNT_SCI_EN 0x0001u
#define PM1_CNT_SLP_TYP_SHIFT 10u
#define PM1_CNT_SLP_TYP_MASK 0x7u
#define PM1_CNT_SLP_EN 0x2000u
#define PM1_CNT_KEPT 0x1c06u /* BM_RLD, GBL_RLS, SLP_TYP */

static uint8_t acpi_pm_read_byte(void *self, unsigned offset)
{
    const struct acpi_pm *pm = self;
    const uint16_t registers[] = {pm->pm1_sts, pm->pm1_en, pm->pm1_cnt};
    return (uint8_t)(registers[offset / 2] >> (offset % 2 * 8));
}

static void acpi_pm_write_byte(void *self, unsigned offset, uint8_t value)
{
    struct acpi_pm *pm = self;
    unsigned shift = offset % 2 * 8;
    uint16_t bits = (uint16_t)((unsigned)value << shift);
    uint16_t mask = (uint16_t)(0xffu << shift);
    switch (offset / 2) {
    case 0:
        pm->pm1_sts &= (uint16_t)~bits;
        break;
    case 1:
        pm->pm1_en = (uint16_t)((pm->pm1_en & ~mask) | (bits & PM1_EVENTS));
        break;
    default:
        pm->pm1_cnt = (uint16_t)((pm->pm1_cnt & ~mask) | (bits & PM1_CNT_KEPT) | PM1_CNT_SCI_EN);
        if ((bits & PM1_CNT_SLP_EN) != 0 && (pm->pm1_cnt >> PM1_CNT_SLP_TYP_SHIFT & PM1_CNT_SLP_TYP_MASK) == ACPI_SLP_TYP_S5) {
            power_request(&pm->power, POWER_OFF, 0);
        }
        break;
    }
}

static void acpi_pm_update_sci(struct acpi_pm *pm)
{
    bool level = (pm->pm1_sts & pm->pm1_en) != 0;
    if (level != pm->sci_level) {
        pm->sci_level = level;
        irq_set(&pm->sci, level);
    }
}

static uint64_t acpi_pm_read(void *self, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = self;
    pthread_mutex_lock(&pm->lock);
    uint64_t value = isa_read_bytes(acpi_pm_read_byte, self, offset, size);
    pthread_mutex_unlock(&pm->lock);
    return value;
}

static void acpi_pm_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct acpi_pm *pm = self;
    pthread_mutex_lock(&pm->lock);
    isa_write_bytes(acpi_pm_write_byte, self, offset, size, value);
    acpi_pm_update_sci(pm);
    pthread_mutex_unlock(&pm->lock);
}

const struct device_ops acpi_pm_ops = {.name = "acpi-pm", .read = acpi_pm_read, .write = acpi_pm_write};

void acpi_pm_reset(struct acpi_pm *pm)
{
    pm->pm1_sts = 0;
    pm->pm1_en = 0;
    pm->pm1_cnt = PM1_CNT_SCI_EN;
    acpi_pm_update_sci(pm);
}

void acpi_pm_init(struct acpi_pm *pm, const struct irq *sci, const struct power *power)
{
    *pm = (struct acpi_pm){.sci = *sci, .power = *power};
    pthread_mutex_init(&pm->lock, NULL);
    acpi_pm_reset(pm);
}

void acpi_pm_fini(struct acpi_pm *pm)
{
    pthread_mutex_destroy(&pm->lock);
}
