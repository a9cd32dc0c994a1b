/* SPDX-License-Identifier: MIT */
/*
 * CPUID of a vCPU: the model that -cpu asks for, out of what the back end supports
 * (KVM_GET_SUPPORTED_CPUID), with the topology of our machine.
 */
#ifndef KAGE_VCPU_CPUID_H
#define KAGE_VCPU_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#include <kage.h>

#include "util/error.h"
#include "vcpu/cpu_model.h"
#include "vcpu/topology.h"

/* KVM_SET_CPUID2 of a vCPU, and its TSC frequency. */
int cpuid_set(const struct kvm_backend *backend, int system_fd, int vcpu_fd, uint32_t apic_id, const struct cpu_topology *topology,
              const struct cpu_model *model, struct error *error);

#endif
