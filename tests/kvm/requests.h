/* SPDX-License-Identifier: MIT */
/*
 * Every ioctl of the KVM API on x86 (api.rst section 4): on which handles it is, and what its argument is. The
 * conformance suite walks the table for what holds of all of them; the fuzzer draws from it.
 */
#ifndef KVM_REQUESTS_H
#define KVM_REQUESTS_H

#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

enum handle_kind { ON_SYSTEM = 1, ON_VM = 2, ON_VCPU = 4 };

struct kvm_request {
    const char *name;
    uint32_t request;
    uint8_t handles; /* enum handle_kind, or-ed */
    uint16_t bytes;  /* of the structure that the argument points at, without its variable tail; 0: no pointer */
};

#define KVM_REQUEST_COUNT 92
extern const struct kvm_request kvm_requests[KVM_REQUEST_COUNT];

#endif
