/* SPDX-License-Identifier: MIT */
#include "dev/i440fx.h"

#include <string.h>

#define SMRAM 0x72u
#define SMRAM_BITS 0x7fu

static void i440fx_written(void *self, unsigned offset, unsigned size)
{
    struct i440fx *bridge = self;

    if (offset < I440FX_PAM0 + PAM_REGISTERS && offset + size > I440FX_PAM0) {
        bridge->map_changed(bridge->opaque);
    }
}

void i440fx_init(struct i440fx *bridge, void (*map_changed)(void *opaque), void *opaque)
{
    *bridge = (struct i440fx){.map_changed = map_changed, .opaque = opaque};
    pci_function_init(&bridge->function, "i440FX", 0x8086, 0x1237, 0x0600, 0x02);
    bridge->function.written = i440fx_written;
    bridge->function.self = bridge;
    memset(&bridge->function.writable[I440FX_PAM0], PAM_WRITABLE, PAM_REGISTERS);
    bridge->function.config[SMRAM] = 0x02; /* its place is A0000, and cannot be another */
    bridge->function.writable[SMRAM] = SMRAM_BITS & ~0x07u;
}
