/* SPDX-License-Identifier: MIT */
/*
 * CPUID of our processors: the accelerator says what it can do; from that the model that the user asks for is
 * made, which is never more.
 */
#include "vcpu/cpuid.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <asm/kvm_para.h>

#include "vcpu/cpuid_table.h"

#define PHYS_BITS_OF_NAMED 40u /* QEMU's default */
#define XSAVE_LEGACY_BYTES 576u

/*
 * What a named model has beside its own features, where the accelerator does: KVM's for guests, and what of the local APIC
 * KVM makes by itself. (Without the TSC deadline Linux would look for a PIT to find the timer's frequency.)
 */
static const char always_if_supported[] = "x2apic tsc-deadline hypervisor";

static struct feature_set features_of_table(union cpuid_table *table)
{
    struct feature_set set = {{0}};

    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        struct kvm_cpuid_entry2 *e = cpuid_find(table, feature_registers[w].leaf, feature_registers[w].subleaf);
        set.word[w] = e != NULL ? *cpuid_word(e, feature_registers[w].reg) : 0;
    }
    return set;
}

/* 0 or -1: no room. Features that the table has no leaf for are none. */
static int features_to_table(union cpuid_table *table, const struct feature_set *set)
{
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        const struct feature_register *r = &feature_registers[w];
        bool indexed = r->leaf == 7 || r->leaf == 0xd;
        struct kvm_cpuid_entry2 *e = set->word[w] != 0 ? cpuid_need(table, r->leaf, r->subleaf, indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0)
                                                       : cpuid_find(table, r->leaf, r->subleaf);
        if (e != NULL) {
            *cpuid_word(e, r->reg) = set->word[w];
        } else if (set->word[w] != 0) {
            return -1;
        }
    }
    return 0;
}

static struct feature_set features_wanted(const struct cpu_model *model, const struct feature_set *supported)
{
    struct feature_set set = *supported, always = {{0}}, unmigratable = {{0}};

    if (model->definition != NULL) {
        set = cpu_definition_features(model->definition);
        feature_set_names(&always, always_if_supported);
        always.word[FEATURES_KVM_EAX] = UINT32_MAX;
    } else if (model->migratable) {
        feature_set_names(&unmigratable, "invtsc");
    }
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        set.word[w] = (((set.word[w] | (always.word[w] & supported->word[w])) & ~unmigratable.word[w]) | model->on.word[w]) & ~model->off.word[w];
    }
    return set;
}

/* One missing feature, as QEMU names it: CPUID.07H:EBX.hle [bit 4]; a bit without a name by its number alone. */
static int feature_text(char *text, size_t bytes, enum feature_word word, unsigned bit)
{
    static const char *const registers[] = {[CPUID_EAX] = "EAX", [CPUID_EBX] = "EBX", [CPUID_ECX] = "ECX", [CPUID_EDX] = "EDX"};
    const struct feature_register *r = &feature_registers[word];
    const char *name = feature_name(word, bit);
    char subleaf[8] = "";

    if (r->subleaf != 0) {
        snprintf(subleaf, sizeof(subleaf), ".%u", r->subleaf);
    }
    return snprintf(text, bytes, "CPUID.%02XH%s:%s%s%s [bit %u]", r->leaf, subleaf, registers[r->reg], name != NULL ? "." : "",
                    name != NULL ? name : "", bit);
}

/* Tells of what is wanted and not there; with `enforce` it is an error, which names as many as fit. */
static int features_report(const struct feature_set *missing, const struct cpu_model *model, const char *accelerator, struct error *error)
{
    char text[80], all[300] = "";
    size_t used = 0;
    unsigned count = 0;

    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        for (unsigned bit = 0; bit < 32; bit++) {
            if (!feature_is_in(missing, (enum feature_word)w, bit)) {
                continue;
            }
            int length = feature_text(text, sizeof(text), (enum feature_word)w, bit);
            if (!model->enforce && !model->quiet) {
                fprintf(stderr, "kage: warning: -cpu: accelerator %s doesn't support requested feature: %s\n", accelerator, text);
            }
            if (length > 0 && used + (size_t)length + 3 < sizeof(all)) {
                used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s", count > 0 ? ", " : "", text);
            }
            count++;
        }
    }
    return model->enforce && count > 0 ? error_set(error, "-cpu: accelerator %s doesn't support requested features: %s", accelerator, all) : 0;
}

/* ---- leaves that follow from the features ---- */

/* Components of the XSAVE area and the feature that brings each (SDM 1 13.1). */
static const struct {
    uint8_t component, word, bit;
} xsave_components[] = {
    {2, FEATURES_1_ECX, 28},   {3, FEATURES_7_0_EBX, 14}, {4, FEATURES_7_0_EBX, 14},  {5, FEATURES_7_0_EBX, 16},
    {6, FEATURES_7_0_EBX, 16}, {7, FEATURES_7_0_EBX, 16}, {9, FEATURES_7_0_ECX, 3},   {17, FEATURES_7_0_EDX, 24},
    {18, FEATURES_7_0_EDX, 24},
};

static bool xsave_has(const struct feature_set *features, unsigned component)
{
    for (size_t i = 0; i < sizeof(xsave_components) / sizeof(xsave_components[0]); i++) {
        if (xsave_components[i].component == component) {
            return feature_is_in(features, (enum feature_word)xsave_components[i].word, xsave_components[i].bit);
        }
    }
    return component < 2;
}

/* Leaf 0xD: XCR0 has no more than the features use. Its EBX and that of subleaf 1 follow XCR0, in the accelerator. */
static void cpuid_set_xsave(union cpuid_table *table, const struct feature_set *features)
{
    struct kvm_cpuid_entry2 *main = cpuid_find(table, 0xd, 0), *one = cpuid_find(table, 0xd, 1);
    bool xsave = feature_is_in(features, FEATURES_1_ECX, 26);
    uint64_t xcr0 = 0;

    if (main == NULL || !xsave) {
        cpuid_remove(table, 0xd, 0xd);
        return;
    }
    uint64_t offered = main->eax | (uint64_t)main->edx << 32;
    uint32_t bytes = XSAVE_LEGACY_BYTES;
    for (unsigned i = 0; i < 63; i++) {
        struct kvm_cpuid_entry2 *e = i >= 2 ? cpuid_find(table, 0xd, i) : NULL;
        if ((offered >> i & 1) != 0 && xsave_has(features, i)) {
            xcr0 |= 1ull << i;
            bytes = e != NULL && e->eax + e->ebx > bytes ? e->eax + e->ebx : bytes;
        } else if (e != NULL && (e->ecx & 1) == 0) { /* not XSS's */
            e->eax = e->ebx = e->ecx = e->edx = 0;
        }
    }
    main->eax = (uint32_t)xcr0;
    main->edx = (uint32_t)(xcr0 >> 32);
    main->ebx = main->ecx = bytes;
    if (one != NULL && !feature_is_in(features, FEATURES_D_1_EAX, 3)) {
        one->ecx = one->edx = 0;
    }
}

/* AMD repeats leaf 1 EDX in 0x80000001 EDX (APM 3 E.3.6); Intel's has those bits clear. */
#define AMD_MIRROR 0x0183f3ffu

static void features_set_mirror(struct feature_set *set, bool amd)
{
    uint32_t *ext = &set->word[FEATURES_80000001_EDX];

    *ext = (*ext & ~AMD_MIRROR) | (amd ? set->word[FEATURES_1_EDX] & AMD_MIRROR : 0);
}

static int cpuid_set_widths(union cpuid_table *table, const struct cpu_model *model, const struct feature_set *features, const char *accelerator,
                            struct error *error)
{
    struct kvm_cpuid_entry2 *e = cpuid_find(table, 0x80000008u, 0);

    if (e == NULL) {
        return 0; /* xlevel= is below it */
    }
    uint32_t most = e->eax & 0xff, bits = most;
    if (model->phys_bits.given) {
        bits = model->phys_bits.value;
        if (bits > most) {
            return error_set(error, "-cpu phys-bits=%u: accelerator %s has at most %u", bits, accelerator, most);
        }
    } else if (model->definition != NULL && bits > PHYS_BITS_OF_NAMED) {
        bits = PHYS_BITS_OF_NAMED;
    }
    e->eax = bits | (feature_is_in(features, FEATURES_7_0_ECX, 16) ? 57u : 48u) << 8;
    return 0;
}

/* A dialect that only the soft accelerator can give: on hardware SYSCALL and SYSENTER are the host's vendor's. */
static const char *vendor_of(const struct kvm_backend *backend, int system_fd, const struct cpu_model *model, const char *host)
{
    bool any = backend->ioctl(system_fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KAGE_CAP_EXTENSIONS) > 0;

    if (model->vendor[0] != '\0') {
        return model->vendor;
    }
    return model->definition != NULL && any ? model->definition->vendor : host;
}

/* What the accelerator can do beyond what it shows, if the user asks for it by name: 5-level paging where the host's processor has none. */
static void add_unshown(const struct kvm_backend *backend, int system_fd, const struct cpu_model *model, struct feature_set *supported)
{
    struct feature_set unshown = {{0}};

    if (backend->ioctl(system_fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_KAGE_LA57) > 0) {
        feature_set_names(&unshown, "la57");
    }
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        supported->word[w] |= unshown.word[w] & model->on.word[w];
    }
}

static int cpuid_no_room(struct error *error)
{
    return error_set(error, "-cpu: more than %u CPUID leaves", CPUID_ENTRIES_MAX);
}

static int cpuid_set_model(const struct kvm_backend *backend, int system_fd, union cpuid_table *table, const struct cpu_model *model,
                           bool report, struct error *error)
{
    struct feature_set supported = features_of_table(table), set = features_wanted(model, &supported), missing;
    struct kvm_cpuid_entry2 *basic = cpuid_find(table, 0, 0);
    char host[CPU_VENDOR_BYTES + 1] = CPU_VENDOR_INTEL;

    if (basic != NULL) {
        memcpy(host, &basic->ebx, 4);
        memcpy(host + 4, &basic->edx, 4);
        memcpy(host + 8, &basic->ecx, 4);
    }
    const char *vendor = vendor_of(backend, system_fd, model, host);
    feature_set_drop_dependents(&set);
    add_unshown(backend, system_fd, model, &supported);
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        missing.word[w] = set.word[w] & ~supported.word[w];
        set.word[w] &= supported.word[w];
    }
    if (report && features_report(&missing, model, backend->name, error) != 0) {
        return -1;
    }
    feature_set_drop_dependents(&set);
    features_set_mirror(&set, memcmp(vendor, CPU_VENDOR_INTEL, CPU_VENDOR_BYTES) != 0);
    if (features_to_table(table, &set) != 0 || cpuid_set_identity(table, model, vendor, &set) != 0) {
        return cpuid_no_room(error);
    }
    cpuid_set_xsave(table, &set);
    if (model->no_kvm) {
        cpuid_remove(table, KVM_CPUID_SIGNATURE, KVM_CPUID_SIGNATURE + 0xffff);
    }
    return cpuid_set_widths(table, model, &set, backend->name, error);
}

/* Dies are in leaf 0x1F alone, which only Intel's processors have. */
static int cpuid_need_dies(union cpuid_table *table)
{
    enum { LEVELS = 4 };
    struct kvm_cpuid_entry2 *basic = cpuid_find(table, 0, 0);

    if (basic == NULL || memcmp(&basic->ebx, CPU_VENDOR_INTEL, 4) != 0) {
        return 0;
    }
    for (uint32_t i = 0; i < LEVELS; i++) {
        if (cpuid_need(table, 0x1f, i, KVM_CPUID_FLAG_SIGNIFCANT_INDEX) == NULL) {
            return -1;
        }
    }
    basic->eax = basic->eax > 0x1f ? basic->eax : 0x1f;
    return 0;
}

/* KVM_SET_TSC_KHZ: an accelerator that cannot scale has only the host's. */
static int cpuid_set_tsc(const struct kvm_backend *backend, int vcpu_fd, const struct cpu_model *model, struct error *error)
{
    if (model->tsc_hz == 0 || backend->ioctl(vcpu_fd, KVM_SET_TSC_KHZ, (void *)(uintptr_t)(model->tsc_hz / 1000)) == 0) {
        return 0;
    }
    int khz = backend->ioctl(vcpu_fd, KVM_GET_TSC_KHZ, NULL);
    return error_set(error, "-cpu tsc-frequency=%llu: accelerator %s has no TSC scaling; the host's is %d kHz", (unsigned long long)model->tsc_hz,
                     backend->name, khz);
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
    struct kvm_cpuid_entry2 *features = cpuid_find(&table, 1, 0);
    if (features != NULL) {
        /* api.rst: a client with an in-kernel APIC may set it where the capability says so. */
        bool deadline = backend->ioctl(system_fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_TSC_DEADLINE_TIMER) > 0;
        features->ecx |= 1u << 31 | (deadline ? 1u << 24 : 0);
    }
    /* The boot processor's is like all others': what is missing is told once. */
    if (cpuid_set_model(backend, system_fd, &table, model, apic_id == 0, error) != 0) {
        return -1;
    }
    if (topology->dies > 1 && cpuid_need_dies(&table) != 0) {
        return cpuid_no_room(error);
    }
    for (uint32_t i = 0; i < table.head.nent; i++) {
        cpuid_set_topology(&table.head.entries[i], apic_id, topology);
    }
    if (backend->ioctl(vcpu_fd, KVM_SET_CPUID2, &table) != 0) {
        return error_set(error, "-accel %s: KVM_SET_CPUID2: %s", backend->name, strerror(errno));
    }
    return cpuid_set_tsc(backend, vcpu_fd, model, error);
}
