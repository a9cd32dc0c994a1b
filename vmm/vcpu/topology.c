/* SPDX-License-Identifier: MIT */
#include "vcpu/topology.h"

#include <stdint.h>

static unsigned topology_or_1(unsigned count)
{
    return count != 0 ? count : 1;
}

int topology_complete(struct cpu_topology *t, struct error *error)
{
    uint64_t given = t->max_cpus != 0 ? t->max_cpus : t->cpus;

    t->dies = topology_or_1(t->dies);
    if (given == 0) {
        t->sockets = topology_or_1(t->sockets);
        t->cores = topology_or_1(t->cores);
        t->threads = topology_or_1(t->threads);
    } else if (t->cores == 0) {
        t->sockets = topology_or_1(t->sockets);
        t->threads = topology_or_1(t->threads);
        t->cores = (unsigned)(given / ((uint64_t)t->sockets * t->dies * t->threads));
    } else if (t->sockets == 0) {
        t->threads = topology_or_1(t->threads);
        t->sockets = (unsigned)(given / ((uint64_t)t->dies * t->cores * t->threads));
    } else if (t->threads == 0) {
        t->threads = (unsigned)(given / ((uint64_t)t->sockets * t->dies * t->cores));
    }
    uint64_t product = (uint64_t)t->sockets * t->dies;
    product = product > UINT32_MAX ? UINT32_MAX : product * t->cores;
    product = product > UINT32_MAX ? UINT32_MAX : product * t->threads;
    if (given == 0) {
        given = product;
    }
    t->cpus = t->cpus != 0 ? t->cpus : (unsigned)(given > UINT32_MAX ? UINT32_MAX : given);
    if (product != given) {
        return error_set(error, "-smp: sockets (%u) * dies (%u) * cores (%u) * threads (%u) must be maxcpus (%llu)", t->sockets, t->dies, t->cores,
                         t->threads, (unsigned long long)given);
    }
    if (given < t->cpus) {
        return error_set(error, "-smp: maxcpus (%llu) must be at least cpus (%u)", (unsigned long long)given, t->cpus);
    }
    if (given > TOPOLOGY_CPUS_MAX) {
        return error_set(error, "-smp: %llu processors; a machine has at most %u", (unsigned long long)given, TOPOLOGY_CPUS_MAX);
    }
    t->max_cpus = (unsigned)given;
    return 0;
}

/* Bits that hold the numbers below `count`. */
static unsigned topology_bits(unsigned count)
{
    unsigned bits = 0;

    while (1u << bits < count) {
        bits++;
    }
    return bits;
}

unsigned topology_core_shift(const struct cpu_topology *t)
{
    return topology_bits(t->threads);
}

unsigned topology_die_shift(const struct cpu_topology *t)
{
    return topology_core_shift(t) + topology_bits(t->cores);
}

unsigned topology_package_shift(const struct cpu_topology *t)
{
    return topology_die_shift(t) + topology_bits(t->dies);
}

uint32_t topology_apic_id(const struct cpu_topology *t, unsigned index)
{
    unsigned thread = index % t->threads;
    unsigned core = index / t->threads % t->cores;
    unsigned die = index / (t->threads * t->cores) % t->dies;
    unsigned package = index / (t->threads * t->cores * t->dies);

    return package << topology_package_shift(t) | die << topology_die_shift(t) | core << topology_core_shift(t) | thread;
}
