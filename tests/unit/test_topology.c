/* SPDX-License-Identifier: MIT */
/*
 * -smp: how the numbers complete each other, what cannot be, and the APIC ids that follow.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "vcpu/topology.h"

static void test_complete(void **state)
{
    static const struct {
        struct cpu_topology in, out;
    } rows[] = {
        /* cpus, max_cpus, sockets, dies, cores, threads */
        {{0, 0, 0, 0, 0, 0}, {1, 1, 1, 1, 1, 1}},
        {{4, 0, 0, 0, 0, 0}, {4, 4, 1, 1, 4, 1}}, /* cores before sockets */
        {{4, 8, 0, 0, 0, 0}, {4, 8, 1, 1, 8, 1}},
        {{0, 8, 0, 0, 0, 2}, {8, 8, 1, 1, 4, 2}},
        {{8, 0, 2, 0, 0, 2}, {8, 8, 2, 1, 2, 2}},
        {{8, 0, 0, 0, 4, 0}, {8, 8, 2, 1, 4, 1}},
        {{8, 0, 1, 0, 4, 0}, {8, 8, 1, 1, 4, 2}},
        {{0, 0, 2, 0, 3, 2}, {12, 12, 2, 1, 3, 2}},
        {{0, 0, 1, 2, 2, 2}, {8, 8, 1, 2, 2, 2}},
        {{3, 12, 2, 1, 3, 2}, {3, 12, 2, 1, 3, 2}},
        {{64, 0, 0, 0, 0, 0}, {64, 64, 1, 1, 64, 1}},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct error error = {""};
        struct cpu_topology topology = rows[i].in;
        if (topology_complete(&topology, &error) != 0 || memcmp(&topology, &rows[i].out, sizeof(topology)) != 0) {
            fail_msg("row %u: %u %u %u %u %u %u %s", i, topology.cpus, topology.max_cpus, topology.sockets, topology.dies, topology.cores,
                     topology.threads, error.text);
        }
    }
}

static void test_refused(void **state)
{
    static const struct {
        struct cpu_topology in;
        const char *says;
    } rows[] = {
        {{6, 0, 0, 0, 4, 0}, "maxcpus (6)"},
        {{4, 2, 0, 0, 0, 0}, "at least cpus (4)"},
        {{65, 0, 0, 0, 0, 0}, "at most 64"},
        {{0, 0, 0, 0, 65, 0}, "at most 64"},
        {{3, 0, 2, 0, 0, 0}, "maxcpus (3)"},
        {{1, 0, 65535, 65535, 65535, 65535}, "maxcpus (1)"}, /* a product that would wrap */
        {{0, 0, 65535, 65535, 65535, 65535}, "at most 64"},
        {{4, 0, 8, 0, 0, 0}, "maxcpus (4)"}, /* more sockets than processors */
        {{0, 65535, 0, 0, 0, 65535}, "at most 64"},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct error error = {""};
        struct cpu_topology topology = rows[i].in;
        if (topology_complete(&topology, &error) == 0 || strstr(error.text, rows[i].says) == NULL) {
            fail_msg("row %u: \"%s\" does not say \"%s\"", i, error.text, rows[i].says);
        }
    }
}

/* Fields of whole bits, threads lowest; ids are distinct and ascend. */
static void test_apic_ids(void **state)
{
    const struct cpu_topology odd = {.cpus = 12, .max_cpus = 12, .sockets = 2, .dies = 1, .cores = 3, .threads = 2};
    static const uint32_t odd_ids[] = {0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13};
    (void)state;
    assert_int_equal(topology_core_shift(&odd), 1);
    assert_int_equal(topology_die_shift(&odd), 3);
    assert_int_equal(topology_package_shift(&odd), 3);
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(topology_apic_id(&odd, i), odd_ids[i]);
    }
    for (unsigned sockets = 1; sockets <= 4; sockets++) {
        for (unsigned dies = 1; dies <= 3; dies++) {
            for (unsigned cores = 1; cores <= 5; cores++) {
                for (unsigned threads = 1; threads <= 3; threads++) {
                    unsigned cpus = sockets * dies * cores * threads;
                    struct cpu_topology t = {cpus, cpus, sockets, dies, cores, threads};
                    uint32_t last = 0;
                    for (unsigned i = 0; i < cpus; i++) {
                        uint32_t id = topology_apic_id(&t, i);
                        assert_true(i == 0 ? id == 0 : id > last);
                        assert_int_equal(id >> topology_package_shift(&t), i / (threads * cores * dies));
                        assert_int_equal(id & ((1u << topology_core_shift(&t)) - 1), i % threads);
                        last = id;
                    }
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_complete),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_apic_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
