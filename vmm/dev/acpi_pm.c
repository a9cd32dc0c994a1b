/* SPDX-License-Identifier: MIT */
/*
 * PM1 registers, byte by byte as any width of access may reach them:
 *
 *   0 PM1a_STS  write 1 to clear
 *   2 PM1a_EN   which status bits raise the SCI
 *   4 PM1a_CNT  0 SCI_EN (always set: there is no other mode) | 12..10 SLP_TYP | 13 SLP_EN
 *   8 PM_TMR    24 bits at 3.579545 MHz; its overflow is no event
 *  30 SMI_EN    (ICH9) read-only: there is no system management mode
 */
#include "dev/acpi_pm.h"

#include <time.h>

#include "dev/isa.h"

#define PM1_PWRBTN 0x0100u
#define PM1_EVENTS 0x8731u /* TMR, BM, GBL, PWRBTN, SLPBTN, RTC, WAK */
#define PM1_CNT_SCI_EN 0x0001u
#define PM1_CNT_SLP_TYP_SHIFT 10u
#define PM1_CNT_SLP_TYP_MASK 0x7u
#define PM1_CNT_SLP_EN 0x2000u
#define PM1_CNT_KEPT 0x1c06u /* BM_RLD, GBL_RLS, SLP_TYP */

#define PM_TMR_HZ UINT64_C(3579545)
#define PM_TMR_MASK 0xffffffu
#define SMI_EN 0x30u
#define NS_PER_SECOND UINT64_C(1000000000)

static uint32_t acpi_pm_timer(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)((uint64_t)now.tv_sec * PM_TMR_HZ + (uint64_t)now.tv_nsec * PM_TMR_HZ / NS_PER_SECOND) & PM_TMR_MASK;
}

static uint8_t acpi_pm_read_byte(void *self, unsigned offset)
{
    const struct acpi_pm *pm = self;
    const struct {
        unsigned at;
        uint32_t value;
    } registers[] = {{0, pm->pm1_sts | (uint32_t)pm->pm1_en << 16}, {ACPI_PM_CNT_AT, pm->pm1_cnt}, {ACPI_PM_TMR_AT, pm->timer}, {SMI_EN, pm->smi_en}};
    for (unsigned i = 0; i < sizeof(registers) / sizeof(registers[0]); i++) {
        if (offset - registers[i].at < 4) {
            return (uint8_t)(registers[i].value >> ((offset - registers[i].at) * 8));
        }
    }
    return 0;
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
    case 2:
        pm->pm1_cnt = (uint16_t)((pm->pm1_cnt & ~mask) | (bits & PM1_CNT_KEPT) | PM1_CNT_SCI_EN);
        if ((bits & PM1_CNT_SLP_EN) != 0 && (pm->pm1_cnt >> PM1_CNT_SLP_TYP_SHIFT & PM1_CNT_SLP_TYP_MASK) == ACPI_SLP_TYP_S5) {
            power_request(&pm->power, POWER_OFF, 0);
        }
        break;
    default:
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
    pm->timer = acpi_pm_timer(); /* all bytes of one moment */
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

bool acpi_pm_power_button(struct acpi_pm *pm)
{
    pthread_mutex_lock(&pm->lock);
    pm->pm1_sts |= PM1_PWRBTN;
    bool heard = (pm->pm1_en & PM1_PWRBTN) != 0;
    acpi_pm_update_sci(pm);
    pthread_mutex_unlock(&pm->lock);
    return heard;
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
