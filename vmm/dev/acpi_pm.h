/* SPDX-License-Identifier: MIT */
/*
 * ACPI's fixed hardware as far as a PC with a power button has it: the PM1 event and control registers and the PM timer
 * (ACPI 6.4, 4.8.3). A guest switches itself off here, by itself or because somebody has pressed the button. Chip sets have more at the same place; boards without one map the first six bytes.
 */
#ifndef KAGE_DEV_ACPI_PM_H
#define KAGE_DEV_ACPI_PM_H

#include <pthread.h>
#include <stdint.h>

#include "dev/device.h"

#define ACPI_PM_BYTES 6u     /* PM1a_EVT_BLK (status, enable) and PM1a_CNT_BLK */
#define ACPI_PM_PIIX_BYTES 64u  /* with the timer: PIIX4's block */
#define ACPI_PM_ICH9_BYTES 128u /* and SMI_EN: ICH9's */
#define ACPI_PM_EVT_BYTES 4u
#define ACPI_PM_CNT_AT 4u
#define ACPI_PM_CNT_BYTES 2u
#define ACPI_PM_TMR_AT 8u
#define ACPI_PM_TMR_BYTES 4u
/* A bit of ICH9's SMI_EN: firmware reads it as "there is no system management mode left to set up". */
#define ACPI_PM_SMI_EN_APMC 0x20u

/* SLP_TYP of \_S5, in the DSDT and in PM1a_CNT. */
#define ACPI_SLP_TYP_S5 5u

struct acpi_pm {
    pthread_mutex_t lock;
    struct irq sci;
    struct power power;
    uint16_t pm1_sts;
    uint16_t pm1_en;
    uint16_t pm1_cnt;
    uint32_t smi_en; /* the board's */
    uint32_t timer;  /* as it was read last */
    bool sci_level;
};

extern const struct device_ops acpi_pm_ops;

void acpi_pm_init(struct acpi_pm *pm, const struct irq *sci, const struct power *power);
void acpi_pm_reset(struct acpi_pm *pm);
void acpi_pm_fini(struct acpi_pm *pm);
/* The power button is pressed: an SCI, if the guest listens. Any thread. False: it does not, and nothing will come of it but the status bit. */
bool acpi_pm_power_button(struct acpi_pm *pm);

#endif
