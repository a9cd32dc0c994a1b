/* SPDX-License-Identifier: MIT */
/*
 * The processors' topology: how -smp's numbers complete each other, and the APIC ids that follow from
 * them (SDM 3A 9.9.1: each level of the hierarchy has a field of whole bits in the id).
 *
 *   APIC id:  | package | die | core | thread |
 */
#ifndef KAGE_VCPU_TOPOLOGY_H
#define KAGE_VCPU_TOPOLOGY_H

#include <stdint.h>

#include "util/error.h"

#define TOPOLOGY_CPUS_MAX 64u

struct cpu_topology {
    unsigned cpus; /* that are there */
    unsigned max_cpus; /* product of the four below */
    unsigned sockets, dies, cores, threads; /* dies in a socket, cores in a die, threads in a core */
};

/* Fills in what is 0, as QEMU does for its current machines: cores before sockets before threads. */
int topology_complete(struct cpu_topology *topology, struct error *error);

/* Widths of the id's fields, up to and including that level. */
unsigned topology_core_shift(const struct cpu_topology *topology);    /* of the thread */
unsigned topology_die_shift(const struct cpu_topology *topology);     /* of thread and core */
unsigned topology_package_shift(const struct cpu_topology *topology); /* of all but the package */

/* APIC id of processor `index`, counted from 0 through threads, cores, dies, packages. */
uint32_t topology_apic_id(const struct cpu_topology *topology, unsigned index);

#endif
