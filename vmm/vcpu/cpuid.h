/* SPDX-License-Identifier: MIT */
/*
 * CPU models: what the back end supports (KVM_GET_SUPPORTED_CPUID), with the topology of our machine
 * and the features that -cpu adds or takes away.
 */
#ifndef KAGE_VCPU_CPUID_H
#define KAGE_VCPU_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#include <kage.h>

#include "util/error.h"
#include "vcpu/topology.h"

#define CPU_FEATURES_MAX 32u

struct cpu_model {
    bool enforce; /* a feature that the back end lacks is an error, not a warning */
    unsigned count;
    struct {
        uint8_t feature; /* index of the table in cpuid.c */
        bool on;
    } features[CPU_FEATURES_MAX];
};

/* MODEL[,+feature][,-feature][,feature=on|off][,enforce]; MODEL is host or max. */
int cpu_model_parse(struct cpu_model *model, const char *text, struct error *error);
/* The list for `-cpu help`, to stdout. */
void cpu_model_help(void);

/* KVM_SET_CPUID2 of a vCPU. */
int cpuid_set(const struct kvm_backend *backend, int system_fd, int vcpu_fd, uint32_t apic_id, const struct cpu_topology *topology,
              const struct cpu_model *model, struct error *error);

#endif
