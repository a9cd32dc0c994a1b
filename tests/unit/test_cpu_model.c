/* SPDX-License-Identifier: MIT */
/*
 * -cpu: the grammar, the table of models, and what a vCPU's CPUID says in the end, never more than the
 * accelerator offers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <kage.h>

#include "vcpu/cpuid.h"

#define ENTRIES 100

static const struct kvm_backend *const soft = &kage_backend_soft;

union cpuid_room {
    struct kvm_cpuid2 head;
    uint8_t bytes[sizeof(struct kvm_cpuid2) + ENTRIES * sizeof(struct kvm_cpuid_entry2)];
};

struct machine {
    int system, vm, vcpu;
    struct error error;
    union cpuid_room cpuid; /* last: it ends in its entries */
};

static void machine_open(struct machine *m)
{
    m->system = soft->open();
    m->vm = soft->ioctl(m->system, KVM_CREATE_VM, NULL);
    assert_int_equal(soft->ioctl(m->vm, KVM_CREATE_IRQCHIP, NULL), 0);
    m->vcpu = soft->ioctl(m->vm, KVM_CREATE_VCPU, NULL);
    assert_true(m->vcpu >= 0);
}

static void machine_close(struct machine *m)
{
    soft->close(m->vcpu);
    soft->close(m->vm);
    soft->close(m->system);
}

static const struct cpu_topology one = {.cpus = 1, .max_cpus = 1, .sockets = 1, .dies = 1, .cores = 1, .threads = 1};

/* Result of cpuid_set(); m->cpuid is the vCPU's table. Not the boot processor's: no warnings in the test's output. */
static int set_with(struct machine *m, const char *text, uint32_t apic_id, const struct cpu_topology *topology)
{
    struct cpu_model model;

    assert_int_equal(cpu_model_parse(&model, text, &m->error), 0);
    int result = cpuid_set(soft, m->system, m->vcpu, apic_id, topology, &model, &m->error);
    m->cpuid.head.nent = ENTRIES;
    if (result == 0)
        assert_int_equal(soft->ioctl(m->vcpu, KVM_GET_CPUID2, &m->cpuid), 0);
    return result;
}

static const struct kvm_cpuid_entry2 *leaf(const struct machine *m, uint32_t function, uint32_t index)
{
    for (uint32_t i = 0; i < m->cpuid.head.nent; i++)
        if (m->cpuid.head.entries[i].function == function && m->cpuid.head.entries[i].index == index)
            return &m->cpuid.head.entries[i];
    return NULL;
}

static uint32_t eax(const struct machine *m, uint32_t function)
{
    return leaf(m, function, 0) ? leaf(m, function, 0)->eax : 0;
}

static struct feature_set supported(const struct machine *m)
{
    union cpuid_room room = {.head.nent = ENTRIES};
    struct feature_set set = {{0}};

    assert_int_equal(soft->ioctl(m->system, KVM_GET_SUPPORTED_CPUID, &room), 0);
    for (uint32_t i = 0; i < room.head.nent; i++)
        for (unsigned w = 0; w < FEATURE_WORDS; w++) {
            const struct kvm_cpuid_entry2 *e = &room.head.entries[i];
            const uint32_t regs[] = {e->eax, e->ebx, e->ecx, e->edx};
            if (e->function == feature_registers[w].leaf && e->index == feature_registers[w].subleaf)
                set.word[w] = regs[feature_registers[w].reg];
        }
    return set;
}

static struct feature_set offered(const struct machine *m)
{
    struct feature_set set = {{0}};

    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        const struct kvm_cpuid_entry2 *e = leaf(m, feature_registers[w].leaf, feature_registers[w].subleaf);
        if (e) {
            const uint32_t regs[] = {e->eax, e->ebx, e->ecx, e->edx};
            set.word[w] = regs[feature_registers[w].reg];
        }
    }
    return set;
}

static bool has(const struct feature_set *set, const char *name)
{
    struct feature_set wanted = {{0}};

    assert_true(feature_set_name(&wanted, name, strlen(name), true));
    for (unsigned w = 0; w < FEATURE_WORDS; w++)
        if (wanted.word[w] & ~set->word[w])
            return false;
    return true;
}

static void test_tables(void **state)
{
    (void)state;
    for (size_t i = 0; i < cpu_definition_count; i++) {
        struct feature_set set = {{0}};
        struct cpu_model model;
        struct error error;
        char name[64];
        assert_true(feature_set_names(&set, cpu_definitions[i].features));
        assert_int_equal(strlen(cpu_definitions[i].vendor), CPU_VENDOR_BYTES);
        assert_true(strlen(cpu_definitions[i].brand) <= CPU_BRAND_BYTES);
        snprintf(name, sizeof(name), "%s-v1", cpu_definitions[i].name);
        assert_int_equal(cpu_model_parse(&model, name, &error), 0);
        assert_ptr_equal(model.definition, &cpu_definitions[i]);
        if (cpu_definitions[i].base) {
            assert_int_equal(cpu_model_parse(&model, cpu_definitions[i].base, &error), 0);
            assert_true(model.definition < &cpu_definitions[i]); /* no circles */
        }
    }
    for (size_t i = 1; i < cpu_feature_count; i++) {
        const struct cpu_feature *a = &cpu_features[i - 1], *b = &cpu_features[i];
        assert_true(a->word < b->word || (a->word == b->word && a->bit <= b->bit));
        assert_null(strchr(b->name, '_'));
    }
}

static void test_models(void **state)
{
    static const struct {
        const char *model, *with, *without;
    } rows[] = {
        {"qemu64", "sse2 pni cx16 lm nx lahf-lm", "ssse3 vme"},
        {"Nehalem", "sse4.2 popcnt", "aes avx arat"},
        {"SandyBridge", "avx xsave aes xsaveopt rdtscp", "f16c fsgsbase"},
        {"Haswell", "avx2 rtm hle bmi2 fma invpcid", "smap rdseed"},
        {"Broadwell-noTSX", "smap adx", "rtm hle"},
        {"Skylake-Server", "avx512f avx512vl pku clwb", "avx512vnni spec-ctrl"},
        {"Icelake-Server", "avx512-vpopcntdq gfni la57 wbnoinvd", "fsrm"},
        {"EPYC", "sha-ni sse4a topoext", "pcid clzero"},
        {"EPYC-Milan", "pcid fsrm clzero", "avx512f"},
        {"EPYC-Genoa", "avx512-bf16 auto-ibrs", "rtm"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct feature_set with = {{0}}, without = {{0}};
        struct cpu_model model;
        struct error error;
        assert_int_equal(cpu_model_parse(&model, rows[i].model, &error), 0);
        struct feature_set set = cpu_definition_features(model.definition);
        assert_true(feature_set_names(&with, rows[i].with) && feature_set_names(&without, rows[i].without));
        for (unsigned w = 0; w < FEATURE_WORDS; w++) {
            assert_int_equal(with.word[w] & ~set.word[w], 0);
            assert_int_equal(without.word[w] & set.word[w], 0);
        }
    }
}

static void test_grammar(void **state)
{
    static const struct {
        const char *text, *error;
    } bad[] = {
        {"i486", "no such model"},
        {"Haswell-v9", "no such model"},
        {"host-v1", "no such model"},
        {"host,+flux", "flux"},
        {"host,avx=maybe", "avx=maybe"},
        {"host,phys-bits=80", "32 to 52"},
        {"host,phys-bits=", "32 to 52"},
        {"host,stepping=16", "0 to 15"},
        {"host,vendor=Short", "12 to 12"},
        {"host,tsc-frequency=2.5G", "a number"},
        {"host,tsc-frequency=99999999999999999999", "a number"},
    };
    struct cpu_model model;
    struct error error;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(cpu_model_parse(&model, bad[i].text, &error), -1);
        assert_non_null(strstr(error.text, bad[i].error));
    }
    /* signs win, and the later of two */
    assert_int_equal(cpu_model_parse(&model, "max,-avx,avx=on,+sse4_2,-sse4.2,,lahf_lm", &error), 0);
    assert_true(has(&model.off, "avx"));
    assert_false(has(&model.on, "avx"));
    assert_true(has(&model.off, "sse4.2"));
    assert_true(has(&model.on, "lahf-lm"));
    assert_int_equal(cpu_model_parse(&model, "EPYC-Rome,enforce,check=off,kvm=off,family=0x17,tsc-frequency=2500M,vendor=KageKageKage", &error), 0);
    assert_true(model.enforce && model.quiet && model.no_kvm && !model.migratable);
    assert_true(model.family.given && model.family.value == 0x17 && !model.model.given);
    assert_int_equal(model.tsc_hz, 2500000000ull);
    assert_string_equal(model.vendor, "KageKageKage");
}

static void test_host(void **state)
{
    struct machine m;

    (void)state;
    machine_open(&m);
    struct feature_set all = supported(&m);
    assert_int_equal(set_with(&m, "host,enforce", 0, &one), 0);
    struct feature_set set = offered(&m);
    for (unsigned w = 0; w < FEATURE_WORDS; w++)
        assert_int_equal(set.word[w] & ~all.word[w] & ~(w == FEATURES_80000001_ECX ? 1u << 1 : 0), 0);
    assert_true(has(&set, "kvmclock") && has(&set, "hypervisor") && has(&set, "x2apic"));
    assert_int_equal(set_with(&m, "host,-x2apic,hypervisor=off,kvm=off,-nx", 1, &one), 0);
    set = offered(&m);
    assert_false(has(&set, "x2apic") || has(&set, "hypervisor") || has(&set, "nx"));
    assert_null(leaf(&m, 0x40000000, 0));
    assert_null(leaf(&m, 0x40000001, 0));
    assert_int_equal(set_with(&m, "host,migratable=on", 1, &one), 0);
    set = offered(&m);
    assert_false(has(&set, "invtsc"));
    machine_close(&m);
}

static void test_named(void **state)
{
    struct machine m;

    (void)state;
    machine_open(&m);
    struct feature_set all = supported(&m);
    for (size_t i = 0; i < cpu_definition_count; i++) {
        const struct cpu_definition *d = &cpu_definitions[i];
        char brand[49] = "";
        assert_int_equal(set_with(&m, d->name, 1, &one), 0);
        const struct kvm_cpuid_entry2 *zero = leaf(&m, 0, 0);
        assert_memory_equal(&zero->ebx, d->vendor, 4);
        assert_memory_equal(&zero->edx, d->vendor + 4, 4);
        assert_memory_equal(&zero->ecx, d->vendor + 8, 4);
        uint32_t s = eax(&m, 1), low = s >> 8 & 0xf;
        assert_int_equal(low == 15 ? low + (s >> 20 & 0xff) : low, d->family);
        assert_int_equal((s >> 12 & 0xf0) | (s >> 4 & 0xf), d->model);
        assert_int_equal(s & 0xf, d->stepping);
        for (uint32_t k = 0; k < 3; k++)
            memcpy(brand + 16 * k, &leaf(&m, 0x80000002u + k, 0)->eax, 16);
        assert_string_equal(brand, d->brand);
        /* what it has is what the model has and the accelerator too; nothing of either is lost */
        struct feature_set want = cpu_definition_features(d), got = offered(&m);
        feature_set_drop_dependents(&want);
        for (unsigned w = 0; w < FEATURE_WORDS; w++) {
            uint32_t mirror = w == FEATURES_80000001_EDX ? 0x0183f3ffu : 0;
            uint32_t by_topology = w == FEATURES_1_EDX ? 1u << 28 : w == FEATURES_80000001_ECX ? 1u << 1 | 1u << 22 : 0;
            assert_int_equal(got.word[w] & ~all.word[w] & ~mirror & ~by_topology, 0);
            if (w != FEATURES_80000001_ECX)
                assert_int_equal(want.word[w] & all.word[w] & ~got.word[w], 0);
        }
        bool intel = strcmp(d->vendor, CPU_VENDOR_INTEL) == 0;
        assert_true((leaf(&m, 4, 0) != NULL) == intel);
        assert_true((leaf(&m, 0x8000001du, 0) != NULL) == (!intel && d->xlevel >= 0x8000001du));
        for (uint32_t k = 0; k < m.cpuid.head.nent; k++) {
            uint32_t function = m.cpuid.head.entries[k].function;
            if (function < 0x40000000u)
                assert_true(function <= zero->eax);
            if (function >= 0x80000000u)
                assert_true(function <= eax(&m, 0x80000000u));
        }
    }
    machine_close(&m);
}

/* 5-level paging is the accelerator's own: shown where the host has it, given to whoever names it. */
static void test_la57(void **state)
{
    struct machine m;

    (void)state;
    machine_open(&m);
    struct feature_set all = supported(&m);
    assert_int_equal(set_with(&m, "host", 1, &one), 0);
    struct feature_set set = offered(&m);
    assert_int_equal(has(&set, "la57"), has(&all, "la57"));
    assert_int_equal(eax(&m, 0x80000008u) >> 8 & 0xff, has(&all, "la57") ? 57 : 48);
    assert_int_equal(set_with(&m, "host,+la57,enforce", 1, &one), 0);
    set = offered(&m);
    assert_true(has(&set, "la57"));
    assert_int_equal(eax(&m, 0x80000008u) >> 8 & 0xff, 57);
    assert_int_equal(set_with(&m, "host,-la57", 1, &one), 0);
    set = offered(&m);
    assert_false(has(&set, "la57"));
    assert_int_equal(eax(&m, 0x80000008u) >> 8 & 0xff, 48);
    machine_close(&m);
}

static void test_enforce(void **state)
{
    struct machine m;

    (void)state;
    machine_open(&m);
    assert_int_equal(set_with(&m, "Haswell,enforce", 0, &one), -1); /* TSX is never offered */
    assert_non_null(strstr(m.error.text, "CPUID.07H:EBX.hle [bit 4]"));
    assert_non_null(strstr(m.error.text, "CPUID.07H:EBX.rtm [bit 11]"));
    assert_int_equal(set_with(&m, "Haswell-noTSX,enforce,-avx,-x2apic,-pcid,-fma,-movbe,-rdrand,-aes,-pclmulqdq", 0, &one), 0);
    assert_int_equal(set_with(&m, "max,+vmx,enforce", 0, &one), -1);
    assert_non_null(strstr(m.error.text, "CPUID.01H:ECX.vmx [bit 5]"));
    assert_int_equal(set_with(&m, "host,phys-bits=52", 0, &one), -1);
    assert_non_null(strstr(m.error.text, "at most"));
    assert_int_equal(set_with(&m, "host,tsc-frequency=1000k", 0, &one), -1);
    assert_non_null(strstr(m.error.text, "TSC scaling"));
    machine_close(&m);
}

static void test_leaves(void **state)
{
    static const struct cpu_topology dies = {.cpus = 8, .max_cpus = 8, .sockets = 1, .dies = 2, .cores = 2, .threads = 2};
    struct machine m;

    (void)state;
    machine_open(&m);
    assert_int_equal(set_with(&m, "host,phys-bits=36", 1, &one), 0);
    assert_int_equal(eax(&m, 0x80000008u) & 0xff, 36);
    assert_int_equal(set_with(&m, "host,-avx", 1, &one), 0);
    assert_int_equal(eax(&m, 0xd), 3);
    assert_int_equal(leaf(&m, 0xd, 0)->ecx, 576);
    struct feature_set set = offered(&m);
    assert_false(has(&set, "avx2") || has(&set, "fma"));
    assert_int_equal(set_with(&m, "host,-xsave", 1, &one), 0);
    assert_null(leaf(&m, 0xd, 0));
    assert_int_equal(set_with(&m, "kvm64,family=6,model=0x2d,stepping=7,model-id=Mine,level=7", 1, &one), 0);
    assert_int_equal(eax(&m, 1), 0x206d7);
    assert_int_equal(eax(&m, 0), 7);
    assert_memory_equal(&leaf(&m, 0x80000002u, 0)->eax, "Mine", 5);
    assert_int_equal(set_with(&m, "Skylake-Server", 5, &dies), 0);
    assert_int_equal(eax(&m, 0), 0x1f);
    assert_int_equal(leaf(&m, 0x1f, 2)->ecx >> 8, 5); /* a level of dies */
    assert_int_equal(leaf(&m, 0x1f, 1)->edx, 5);
    assert_int_equal(leaf(&m, 1, 0)->ebx >> 24, 5);
    assert_int_equal(set_with(&m, "EPYC", 5, &dies), 0);
    assert_null(leaf(&m, 0x1f, 0));
    machine_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),  cmocka_unit_test(test_models),  cmocka_unit_test(test_grammar), cmocka_unit_test(test_host),
        cmocka_unit_test(test_named), cmocka_unit_test(test_la57),   cmocka_unit_test(test_enforce), cmocka_unit_test(test_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
