/* SPDX-License-Identifier: MIT */
#include "dev/postcode.h"

#include "util/log.h"

static uint64_t postcode_read(void *self, uint64_t offset, unsigned size)
{
    struct postcode *postcode = self;
    (void)offset;
    (void)size;
    return atomic_load(&postcode->value);
}

static void postcode_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct postcode *postcode = self;
    (void)offset;
    (void)size;
    if (atomic_exchange(&postcode->value, (uint8_t)value) != (uint8_t)value) {
        log_line(LOG_FIRMWARE, "POST code 0x%02x", (unsigned)(value & 0xff));
    }
}

const struct device_ops postcode_ops = {.name = "port 80", .read = postcode_read, .write = postcode_write};
