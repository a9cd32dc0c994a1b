/* SPDX-License-Identifier: MIT */
/*
 * CPUID of our processors. The back end says what it can do; this only takes away, adds what the user
 * asks for and the back end has, and states the topology.
 */
#include "vcpu/cpuid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CPUID_ENTRIES_MAX 100 /* kvmtool's number: back ends know clients that give no more */

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* SDM 2A, CPUID; names as Linux and QEMU have them. */
static const struct cpuid_feature {
    const char *name;
    uint32_t leaf;
    uint8_t subleaf;
    uint8_t reg; /* enum cpuid_register */
    uint8_t bit;
} cpuid_features[] = {
    {"sse3", 1, 0, CPUID_ECX, 0}, {"pclmulqdq", 1, 0, CPUID_ECX, 1}, {"vmx", 1, 0, CPUID_ECX, 5}, {"ssse3", 1, 0, CPUID_ECX, 9},
    {"fma", 1, 0, CPUID_ECX, 12}, {"cx16", 1, 0, CPUID_ECX, 13}, {"pcid", 1, 0, CPUID_ECX, 17}, {"sse4.1", 1, 0, CPUID_ECX, 19},
    {"sse4.2", 1, 0, CPUID_ECX, 20}, {"x2apic", 1, 0, CPUID_ECX, 21}, {"movbe", 1, 0, CPUID_ECX, 22}, {"popcnt", 1, 0, CPUID_ECX, 23},
    {"tsc-deadline", 1, 0, CPUID_ECX, 24}, {"aes", 1, 0, CPUID_ECX, 25}, {"xsave", 1, 0, CPUID_ECX, 26}, {"avx", 1, 0, CPUID_ECX, 28},
    {"f16c", 1, 0, CPUID_ECX, 29}, {"rdrand", 1, 0, CPUID_ECX, 30}, {"hypervisor", 1, 0, CPUID_ECX, 31},
    {"pse", 1, 0, CPUID_EDX, 3}, {"mtrr", 1, 0, CPUID_EDX, 12}, {"pge", 1, 0, CPUID_EDX, 13}, {"pat", 1, 0, CPUID_EDX, 16},
    {"clflush", 1, 0, CPUID_EDX, 19},
    {"fsgsbase", 7, 0, CPUID_EBX, 0}, {"tsc_adjust", 7, 0, CPUID_EBX, 1}, {"bmi1", 7, 0, CPUID_EBX, 3}, {"avx2", 7, 0, CPUID_EBX, 5},
    {"smep", 7, 0, CPUID_EBX, 7}, {"bmi2", 7, 0, CPUID_EBX, 8}, {"erms", 7, 0, CPUID_EBX, 9}, {"invpcid", 7, 0, CPUID_EBX, 10},
    {"avx512f", 7, 0, CPUID_EBX, 16}, {"avx512dq", 7, 0, CPUID_EBX, 17}, {"rdseed", 7, 0, CPUID_EBX, 18}, {"adx", 7, 0, CPUID_EBX, 19},
    {"smap", 7, 0, CPUID_EBX, 20}, {"avx512ifma", 7, 0, CPUID_EBX, 21}, {"clflushopt", 7, 0, CPUID_EBX, 23}, {"clwb", 7, 0, CPUID_EBX, 24},
    {"avx512cd", 7, 0, CPUID_EBX, 28}, {"sha-ni", 7, 0, CPUID_EBX, 29}, {"avx512bw", 7, 0, CPUID_EBX, 30}, {"avx512vl", 7, 0, CPUID_EBX, 31},
    {"avx512vbmi", 7, 0, CPUID_ECX, 1}, {"umip", 7, 0, CPUID_ECX, 2}, {"pku", 7, 0, CPUID_ECX, 3}, {"avx512vbmi2", 7, 0, CPUID_ECX, 6},
    {"gfni", 7, 0, CPUID_ECX, 8}, {"vaes", 7, 0, CPUID_ECX, 9}, {"vpclmulqdq", 7, 0, CPUID_ECX, 10}, {"avx512vnni", 7, 0, CPUID_ECX, 11},
    {"avx512bitalg", 7, 0, CPUID_ECX, 12}, {"avx512-vpopcntdq", 7, 0, CPUID_ECX, 14}, {"la57", 7, 0, CPUID_ECX, 16},
    {"rdpid", 7, 0, CPUID_ECX, 22}, {"fsrm", 7, 0, CPUID_EDX, 4}, {"md-clear", 7, 0, CPUID_EDX, 10}, {"spec-ctrl", 7, 0, CPUID_EDX, 26},
    {"stibp", 7, 0, CPUID_EDX, 27}, {"arch-capabilities", 7, 0, CPUID_EDX, 29}, {"ssbd", 7, 0, CPUID_EDX, 31},
    {"avx-vnni", 7, 1, CPUID_EAX, 4}, {"avx512-bf16", 7, 1, CPUID_EAX, 5},
    {"xsaveopt", 0xd, 1, CPUID_EAX, 0}, {"xsavec", 0xd, 1, CPUID_EAX, 1}, {"xgetbv1", 0xd, 1, CPUID_EAX, 2}, {"xsaves", 0xd, 1, CPUID_EAX, 3},
    {"kvmclock", 0x40000001, 0, CPUID_EAX, 3}, {"kvm-asyncpf", 0x40000001, 0, CPUID_EAX, 4}, {"kvm-steal-time", 0x40000001, 0, CPUID_EAX, 5},
    {"kvm-pv-eoi", 0x40000001, 0, CPUID_EAX, 6}, {"kvm-pv-unhalt", 0x40000001, 0, CPUID_EAX, 7},
    {"kvm-pv-tlb-flush", 0x40000001, 0, CPUID_EAX, 9}, {"kvm-pv-ipi", 0x40000001, 0, CPUID_EAX, 11},
    {"lahf_lm", 0x80000001, 0, CPUID_ECX, 0}, {"svm", 0x80000001, 0, CPUID_ECX, 2}, {"abm", 0x80000001, 0, CPUID_ECX, 5},
    {"sse4a", 0x80000001, 0, CPUID_ECX, 6}, {"3dnowprefetch", 0x80000001, 0, CPUID_ECX, 8}, {"perfctr_core", 0x80000001, 0, CPUID_ECX, 23},
    {"syscall", 0x80000001, 0, CPUID_EDX, 11}, {"nx", 0x80000001, 0, CPUID_EDX, 20}, {"pdpe1gb", 0x80000001, 0, CPUID_EDX, 26},
    {"rdtscp", 0x80000001, 0, CPUID_EDX, 27}, {"lm", 0x80000001, 0, CPUID_EDX, 29}, {"invtsc", 0x80000007, 0, CPUID_EDX, 8},
    {"clzero", 0x80000008, 0, CPUID_EBX, 0}, {"wbnoinvd", 0x80000008, 0, CPUID_EBX, 9}, {"ibpb", 0x80000008, 0, CPUID_EBX, 12},
};

#define CPUID_FEATURES (sizeof(cpuid_features) / sizeof(cpuid_features[0]))
_Static_assert(CPUID_FEATURES <= 256, "struct cpu_model keeps an index in a byte");

/* kvm_cpuid2 ends in its entries: `room` is where they lie. */
union cpuid_table {
    struct kvm_cpuid2 head;
    uint8_t room[sizeof(struct kvm_cpuid2) + CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2)];
};

static int cpu_model_add(struct cpu_model *model, const char *name, size_t length, bool on, struct error *error)
{
    for (unsigned i = 0; i < CPUID_FEATURES; i++) {
        if (strlen(cpuid_features[i].name) == length && memcmp(cpuid_features[i].name, name, length) == 0) {
            if (model->count == CPU_FEATURES_MAX) {
                return error_set(error, "-cpu: more than %u features", CPU_FEATURES_MAX);
            }
            model->features[model->count].feature = (uint8_t)i;
            model->features[model->count].on = on;
            model->count++;
            return 0;
        }
    }
    return error_set(error, "-cpu: no such feature '%.*s'; '-cpu help' lists them", (int)length, name);
}

static int cpu_model_parse_word(struct cpu_model *model, const char *word, size_t length, struct error *error)
{
    if (length == 7 && memcmp(word, "enforce", 7) == 0) {
        model->enforce = true;
        return 0;
    }
    if (length > 1 && (word[0] == '+' || word[0] == '-')) {
        return cpu_model_add(model, word + 1, length - 1, word[0] == '+', error);
    }
    const char *equals = memchr(word, '=', length);
    size_t name_length = equals != NULL ? (size_t)(equals - word) : length;
    size_t value_length = equals != NULL ? length - name_length - 1 : 0;
    bool on = equals == NULL || (value_length == 2 && memcmp(equals + 1, "on", 2) == 0);
    bool off = value_length == 3 && memcmp(equals + 1, "off", 3) == 0;
    if (!on && !off) {
        return error_set(error, "-cpu: '%.*s' must be +feature, -feature, feature=on or feature=off", (int)length, word);
    }
    return cpu_model_add(model, word, name_length, on, error);
}

int cpu_model_parse(struct cpu_model *model, const char *text, struct error *error)
{
    *model = (struct cpu_model){0};
    size_t length = strcspn(text, ",");
    bool host = length == 4 && memcmp(text, "host", 4) == 0;
    bool max = length == 3 && memcmp(text, "max", 3) == 0;
    if (!host && !max) {
        return error_set(error, "-cpu %.*s: no such model; host and max are there", (int)length, text);
    }
    for (text += length; *text == ','; text += length) {
        text++;
        length = strcspn(text, ",");
        if (length != 0 && cpu_model_parse_word(model, text, length, error) != 0) {
            return -1;
        }
    }
    return 0;
}

void cpu_model_help(void)
{
    puts("Models for -cpu:\n  host  everything that the back end supports\n  max   the same\nFeatures (+name, -name, name=on|off):");
    for (unsigned i = 0; i < CPUID_FEATURES; i++) {
        printf("%s%-18s%s", i % 4 == 0 ? "  " : "", cpuid_features[i].name, i % 4 == 3 || i + 1 == CPUID_FEATURES ? "\n" : "");
    }
}

static uint32_t *cpuid_word(struct kvm_cpuid_entry2 *entry, unsigned reg)
{
    uint32_t *const words[] = {&entry->eax, &entry->ebx, &entry->ecx, &entry->edx};
    return words[reg];
}

static struct kvm_cpuid_entry2 *cpuid_find(union cpuid_table *table, uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t i = 0; i < table->head.nent; i++) {
        if (table->head.entries[i].function == leaf && table->head.entries[i].index == subleaf) {
            return &table->head.entries[i];
        }
    }
    return NULL;
}

/* SDM 2A CPUID leaf 0BH: levels' types */
enum { CPUID_LEVEL_NONE = 0, CPUID_LEVEL_THREAD = 1, CPUID_LEVEL_CORE = 2, CPUID_LEVEL_DIE = 5 };

static void cpuid_set_level(struct kvm_cpuid_entry2 *entry, unsigned type, unsigned shift, unsigned cpus)
{
    entry->eax = shift;
    entry->ebx = cpus;
    entry->ecx = (entry->index & 0xff) | type << 8;
}

/* Extended topology: leaf 0xB has no dies, its second level is the package; 0x1F has them if there is more than one. */
static void cpuid_set_levels(struct kvm_cpuid_entry2 *entry, uint32_t apic_id, const struct cpu_topology *t)
{
    unsigned per_die = t->cores * t->threads, per_package = t->dies * per_die;
    bool dies = entry->function == 0x1f && t->dies > 1;

    switch (entry->index) {
    case 0:
        cpuid_set_level(entry, CPUID_LEVEL_THREAD, topology_core_shift(t), t->threads);
        break;
    case 1:
        cpuid_set_level(entry, CPUID_LEVEL_CORE, dies ? topology_die_shift(t) : topology_package_shift(t), dies ? per_die : per_package);
        break;
    case 2:
        cpuid_set_level(entry, dies ? CPUID_LEVEL_DIE : CPUID_LEVEL_NONE, dies ? topology_package_shift(t) : 0, dies ? per_package : 0);
        break;
    default:
        cpuid_set_level(entry, CPUID_LEVEL_NONE, 0, 0);
        break;
    }
    entry->edx = apic_id;
}

/* Caches of levels 1 and 2 belong to a core, those above to a package (leaf 4; AMD's 0x8000001D has the same fields). */
static void cpuid_set_cache(struct kvm_cpuid_entry2 *entry, const struct cpu_topology *t)
{
    unsigned level = entry->eax >> 5 & 7u;
    unsigned sharing = level <= 2 ? 1u << topology_core_shift(t) : 1u << topology_package_shift(t);
    unsigned cores = 1u << (topology_package_shift(t) - topology_core_shift(t));

    if ((entry->eax & 0x1fu) == 0) {
        return;
    }
    entry->eax = (entry->eax & 0x00003fffu) | (sharing - 1) << 14 | (entry->function == 4 ? (cores - 1) << 26 : 0);
}

static void cpuid_set_topology(struct kvm_cpuid_entry2 *entry, uint32_t apic_id, const struct cpu_topology *t)
{
    unsigned per_package = t->dies * t->cores * t->threads;
    unsigned ids = 1u << topology_package_shift(t);

    switch (entry->function) {
    case 1: /* EBX: initial APIC id, ids in a package; EDX.HTT */
        entry->ebx = (entry->ebx & 0x0000ffffu) | apic_id << 24 | (ids & 0xff) << 16;
        entry->edx = (entry->edx & ~(1u << 28)) | (per_package > 1 ? 1u << 28 : 0);
        break;
    case 4:
    case 0x8000001d:
        cpuid_set_cache(entry, t);
        break;
    case 0xb:
    case 0x1f:
        cpuid_set_levels(entry, apic_id, t);
        break;
    case 0x80000001: /* ECX.CmpLegacy: cores, no threads; TopologyExtensions: leaves 0x8000001D and 0x8000001E */
        entry->ecx &= ~(1u << 1) & ~(t->threads == 1 ? 1u << 22 : 0);
        entry->ecx |= per_package > 1 && t->threads == 1 ? 1u << 1 : 0;
        break;
    case 0x80000008: /* ECX: processors in a package, bits of their ids */
        entry->ecx = (entry->ecx & ~0xf0ffu) | (per_package - 1) | topology_package_shift(t) << 12;
        break;
    case 0x8000001e: /* EAX: APIC id; EBX: core, threads in it; ECX: nodes in a package, node (APM 3 E.4.18) */
        entry->eax = apic_id;
        entry->ebx = ((apic_id & (ids - 1)) >> topology_core_shift(t)) | (t->threads - 1) << 8;
        entry->ecx = apic_id >> topology_package_shift(t) & 0xff;
        break;
    default:
        break;
    }
}

static int cpuid_apply_features(union cpuid_table *table, const union cpuid_table *supported, const struct cpu_model *model,
                                struct error *error)
{
    for (unsigned i = 0; i < model->count; i++) {
        const struct cpuid_feature *feature = &cpuid_features[model->features[i].feature];
        struct kvm_cpuid_entry2 *entry = cpuid_find(table, feature->leaf, feature->subleaf);
        const struct kvm_cpuid_entry2 *offered = cpuid_find((union cpuid_table *)(uintptr_t)supported, feature->leaf, feature->subleaf);
        uint32_t bit = 1u << feature->bit;
        bool has = entry != NULL && offered != NULL && (*cpuid_word((struct kvm_cpuid_entry2 *)(uintptr_t)offered, feature->reg) & bit) != 0;
        if (!model->features[i].on) {
            if (entry != NULL) {
                *cpuid_word(entry, feature->reg) &= ~bit;
            }
        } else if (has) {
            *cpuid_word(entry, feature->reg) |= bit;
        } else if (model->enforce) {
            return error_set(error, "-cpu: the back end does not support %s", feature->name);
        } else {
            fprintf(stderr, "kage: warning: -cpu: the back end does not support %s\n", feature->name);
        }
    }
    return 0;
}

int cpuid_set(const struct kvm_backend *backend, int system_fd, int vcpu_fd, uint32_t apic_id, const struct cpu_topology *topology,
              const struct cpu_model *model, struct error *error)
{
    union cpuid_table table;
    memset(&table, 0, sizeof(table));
    table.head.nent = CPUID_ENTRIES_MAX;
    if (backend->ioctl(system_fd, KVM_GET_SUPPORTED_CPUID, &table) != 0) {
        return error_set(error, "-accel %s: KVM_GET_SUPPORTED_CPUID: %s", backend->name, strerror(errno));
    }
    union cpuid_table supported = table;
    for (uint32_t i = 0; i < table.head.nent; i++) {
        cpuid_set_topology(&table.head.entries[i], apic_id, topology);
    }
    struct kvm_cpuid_entry2 *features = cpuid_find(&table, 1, 0);
    if (features != NULL) {
        /* api.rst: a client with an in-kernel APIC may set it where the capability says so. */
        bool deadline = backend->ioctl(system_fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_TSC_DEADLINE_TIMER) > 0;
        features->ecx |= 1u << 31 | (deadline ? 1u << 24 : 0);
        cpuid_find(&supported, 1, 0)->ecx = features->ecx;
    }
    if (cpuid_apply_features(&table, &supported, model, error) != 0) {
        return -1;
    }
    if (backend->ioctl(vcpu_fd, KVM_SET_CPUID2, &table) != 0) {
        return error_set(error, "-accel %s: KVM_SET_CPUID2: %s", backend->name, strerror(errno));
    }
    return 0;
}
