/* SPDX-License-Identifier: MIT */
/*
 * Power registers. Intel ICH9, 13.7.1 (PORT92) and 13.7.5 (RST_CNT).
 */
#include "dev/powerctl.h"

#define RST_CNT_SYS_RST 0x02u
#define RST_CNT_RST_CPU 0x04u
#define RST_CNT_FULL_RST 0x08u

#define PORT92_FAST_INIT 0x01u
#define PORT92_A20 0x02u

void powerctl_init(struct powerctl *powerctl, const struct power *power, uint8_t value)
{
    powerctl->power = *power;
    atomic_init(&powerctl->value, value);
}

static uint64_t powerctl_read(void *self, uint64_t offset, unsigned size)
{
    struct powerctl *powerctl = self;
    (void)size;
    return offset == 0 ? atomic_load(&powerctl->value) : 0;
}

static void reset_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct powerctl *powerctl = self;
    (void)offset;
    (void)size;
    if ((value & RST_CNT_RST_CPU) != 0) {
        power_request(&powerctl->power, POWER_RESET, 0);
    }
    atomic_store(&powerctl->value, (uint8_t)(value & (RST_CNT_SYS_RST | RST_CNT_FULL_RST)));
}

static void port92_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct powerctl *powerctl = self;
    (void)offset;
    (void)size;
    if ((value & PORT92_FAST_INIT) != 0) {
        power_request(&powerctl->power, POWER_RESET, 0);
    }
    atomic_store(&powerctl->value, (uint8_t)(value & PORT92_A20)); /* A20 itself is always open */
}

static void debug_exit_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct powerctl *powerctl = self;
    (void)offset;
    (void)size;
    power_request(&powerctl->power, POWER_EXIT, (int)((value << 1 | 1) & 0xff));
}

const struct device_ops reset_ops = {.name = "reset control", .read = powerctl_read, .write = reset_write};
const struct device_ops port92_ops = {.name = "port 92", .read = powerctl_read, .write = port92_write};
const struct device_ops debug_exit_ops = {.name = "isa-debug-exit", .read = powerctl_read, .write = debug_exit_write};
