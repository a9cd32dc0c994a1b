/* SPDX-License-Identifier: MIT */
/*
 * VMREAD and VMWRITE by encoding. Knows the table, not the meaning of a field.
 */
#include <errno.h>

#include "vmx/vmx.h"

#define VMCS_HIGH 1u /* access type: bits 63..32 of a 64-bit field */

const struct vmcs_field *vmcs_field_find(uint32_t encoding)
{
    size_t lo = 0, hi = vmcs_fields_len;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (vmcs_fields[mid].encoding < encoding) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < vmcs_fields_len && vmcs_fields[lo].encoding == encoding ? &vmcs_fields[lo] : NULL;
}

/* The field of an encoding whose access type may be "high"; only 64-bit fields have a high half. */
static const struct vmcs_field *find_half(uint32_t encoding, bool *high)
{
    const struct vmcs_field *f = vmcs_field_find(encoding & ~VMCS_HIGH);

    *high = (encoding & VMCS_HIGH) != 0;
    return f != NULL && *high && f->width != 64 ? NULL : f;
}

int vmcs_read(const struct vmcs *vmcs, uint32_t encoding, uint64_t *value)
{
    bool high;
    const struct vmcs_field *f = find_half(encoding, &high);

    if (f == NULL) {
        return -ENOENT;
    }
    *value = 0;
    memcpy(value, (const uint8_t *)vmcs + f->offset, f->bytes);
    *value >>= high ? 32 : 0;
    return 0;
}

int vmcs_write(struct vmcs *vmcs, uint32_t encoding, uint64_t value)
{
    bool high;
    const struct vmcs_field *f = find_half(encoding, &high);

    if (f == NULL) {
        return -ENOENT;
    }
    if (f->read_only) {
        return -EROFS;
    }
    uint8_t *at = (uint8_t *)vmcs + f->offset;
    if (high) {
        memcpy(at + 4, &value, 4);
    } else {
        memcpy(at, &value, f->bytes);
    }
    return 0;
}
