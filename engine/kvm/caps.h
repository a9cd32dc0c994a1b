/* SPDX-License-Identifier: MIT */
/*
 * What KVM_CHECK_EXTENSION answers with where it is a mask, and KVM_ENABLE_CAP judges by.
 */
#ifndef KAGE_KVM_CAPS_H
#define KAGE_KVM_CAPS_H

#include <linux/kvm.h>
#include <linux/kvm_para.h>

#include "kage.h"

#define KVM_VALID_QUIRKS                                                                                               \
    (KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_CD_NW_CLEARED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE |                     \
     KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT | KVM_X86_QUIRK_FIX_HYPERCALL_INSN)
#define KVM_VALID_EXIT_HYPERCALLS (1u << KVM_HC_MAP_GPA_RANGE)
#define KVM_VALID_X2APIC_API (KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
#define KVM_VALID_MSR_EXIT_REASONS (KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)
/* MWAIT is a NOP and there are no C-states; the client may ask for all, as of the kernel, and gets these. */
#define KVM_OFFERED_DISABLE_EXITS (KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE)
#define KVM_OFFERED_MMUS (1u << KAGE_MMU_EPT | 1u << KAGE_MMU_SHADOW)

#endif
