/* SPDX-License-Identifier: MIT */
#include "dev/i440fx.h"

#define PAM0 0x59u
#define PAM1 0x5au
#define PAM6 0x5fu
#define PAM_RE 1u
#define PAM_WE 2u
#define SMRAM 0x72u
#define SMRAM_BITS 0x7fu

static void i440fx_written(void *self, unsigned offset, unsigned size)
{
    struct i440fx *bridge = self;

    if (offset <= PAM6 && offset + size > PAM0) {
        bridge->map_changed(bridge->opaque);
    }
}

void i440fx_init(struct i440fx *bridge, void (*map_changed)(void *opaque), void *opaque)
{
    *bridge = (struct i440fx){.map_changed = map_changed, .opaque = opaque};
    pci_function_init(&bridge->function, "i440FX", 0x8086, 0x1237, 0x0600, 0x02);
    bridge->function.written = i440fx_written;
    bridge->function.self = bridge;
    for (unsigned i = PAM0; i <= PAM6; i++) {
        bridge->function.writable[i] = 0x33;
    }
    bridge->function.config[SMRAM] = 0x02; /* its place is A0000, and cannot be another */
    bridge->function.writable[SMRAM] = SMRAM_BITS & ~0x07u;
}

struct i440fx_segment i440fx_segment(const struct i440fx *bridge, unsigned index)
{
    const uint8_t *config = bridge->function.config;
    bool top = index == I440FX_PAM_SEGMENTS - 1; /* F0000 */
    unsigned bits = top ? config[PAM0] >> 4 : config[PAM1 + index / 2] >> (index % 2 * 4);

    return (struct i440fx_segment){
        .gpa = I440FX_PAM_FIRST_GPA + index * 0x4000u,
        .bytes = top ? 0x10000u : 0x4000u,
        .read_ram = (bits & PAM_RE) != 0,
        .write_ram = (bits & PAM_WE) != 0,
    };
}
