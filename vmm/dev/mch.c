/* SPDX-License-Identifier: MIT */
#include "dev/mch.h"

#include <string.h>

#define PCIEXBAR 0x60u
#define PCIEXBAR_ENABLE 0x1u
#define PCIEXBAR_LENGTH_SHIFT 1u
#define PCIEXBAR_FIRST 0xb0000000u /* after a reset */
#define PCIEXBAR_BITS UINT64_C(0xffc000000) /* of a base: 35..26 */
#define SMRAM 0x9du
#define ESMRAMC 0x9eu

static void mch_update_ecam(struct mch *mch)
{
    static const uint64_t lengths[4] = {UINT64_C(256) << 20, UINT64_C(128) << 20, UINT64_C(64) << 20, 0 /* reserved */};
    uint32_t low = pci_get_long(mch->function.config, PCIEXBAR);
    uint64_t base = low | (uint64_t)pci_get_long(mch->function.config, PCIEXBAR + 4) << 32;
    uint64_t bytes = (low & PCIEXBAR_ENABLE) != 0 ? lengths[low >> PCIEXBAR_LENGTH_SHIFT & 3] : 0;
    base = bytes != 0 ? base & PCIEXBAR_BITS & ~(bytes - 1) : 0;
    mch->ecam_moved(mch->opaque, base, bytes);
}

static void mch_written(void *self, unsigned offset, unsigned size)
{
    struct mch *mch = self;
    if (offset < MCH_PAM0 + PAM_REGISTERS && offset + size > MCH_PAM0) {
        mch->map_changed(mch->map);
    }
    if (offset < PCIEXBAR + 8 && offset + size > PCIEXBAR) {
        mch_update_ecam(mch);
    }
}

void mch_init(struct mch *mch, void (*map_changed)(void *opaque), void *map, void (*ecam_moved)(void *opaque, uint64_t base, uint64_t bytes),
              void *opaque)
{
    *mch = (struct mch){.map_changed = map_changed, .map = map, .ecam_moved = ecam_moved, .opaque = opaque};
    pci_function_init(&mch->function, "MCH", 0x8086, 0x29c0, 0x0600, 0x00);
    mch->function.written = mch_written;
    mch->function.self = mch;
    pci_set_long(mch->function.config, PCIEXBAR, PCIEXBAR_FIRST);
    pci_set_long(mch->function.writable, PCIEXBAR, 0xfc000007);
    pci_set_long(mch->function.writable, PCIEXBAR + 4, 0x0000000f);
    memset(&mch->function.writable[MCH_PAM0], PAM_WRITABLE, PAM_REGISTERS);
    mch->function.config[SMRAM] = 0x02;
    mch->function.writable[SMRAM] = 0x78;
    mch->function.writable[ESMRAMC] = 0x07;
}
