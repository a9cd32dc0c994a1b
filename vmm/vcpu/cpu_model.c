/* SPDX-License-Identifier: MIT */
/*
 * The table of models, and the grammar of -cpu. What a model has is what its makers' manuals say of the first
 * processors of that name, in the first version (-v1) that QEMU offers, so that a guest finds the same features here.
 */
#include "vcpu/cpu_model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INTEL CPU_VENDOR_INTEL
#define AMD CPU_VENDOR_AMD

const struct cpu_definition cpu_definitions[] = {
    {"qemu64", "QEMU Virtual CPU version 2.5+", AMD, 15, 107, 1, 0xd, 0x80000008u, NULL,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni cx16 syscall nx lm lahf-lm"},
    {"kvm64", "Common KVM processor", INTEL, 15, 6, 1, 0xd, 0x80000008u, NULL,
     "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni cx16 syscall nx lm"},

    {"Nehalem", "Intel Core i7 9xx (Nehalem Class Core i7)", INTEL, 6, 26, 3, 0xb, 0x80000008u, "kvm64",
     "ssse3 sse4.1 sse4.2 popcnt lahf-lm"},
    {"Westmere", "Westmere E56xx/L56xx/X56xx (Nehalem-C)", INTEL, 6, 44, 1, 0xb, 0x80000008u, "Nehalem", "aes pclmulqdq arat"},
    {"SandyBridge", "Intel Xeon E312xx (Sandy Bridge)", INTEL, 6, 42, 1, 0xd, 0x80000008u, "Westmere",
     "avx xsave tsc-deadline x2apic rdtscp xsaveopt"},
    {"IvyBridge", "Intel Xeon E3-12xx v2 (Ivy Bridge)", INTEL, 6, 58, 9, 0xd, 0x80000008u, "SandyBridge",
     "f16c rdrand fsgsbase smep erms"},
    {"Haswell-noTSX", "Intel Core Processor (Haswell, no TSX)", INTEL, 6, 60, 1, 0xd, 0x80000008u, "IvyBridge",
     "fma movbe pcid abm bmi1 avx2 bmi2 invpcid"},
    {"Haswell", "Intel Core Processor (Haswell)", INTEL, 6, 60, 4, 0xd, 0x80000008u, "Haswell-noTSX", "hle rtm"},
    {"Broadwell-noTSX", "Intel Core Processor (Broadwell, no TSX)", INTEL, 6, 61, 2, 0xd, 0x80000008u, "Haswell-noTSX",
     "rdseed adx smap 3dnowprefetch"},
    {"Broadwell", "Intel Core Processor (Broadwell)", INTEL, 6, 61, 2, 0xd, 0x80000008u, "Broadwell-noTSX", "hle rtm"},
    {"Skylake-Client", "Intel Core Processor (Skylake)", INTEL, 6, 94, 3, 0xd, 0x80000008u, "Broadwell", "xsavec xgetbv1"},
    {"Skylake-Server", "Intel Xeon Processor (Skylake)", INTEL, 6, 85, 4, 0xd, 0x80000008u, "Skylake-Client",
     "pdpe1gb clwb clflushopt avx512f avx512dq avx512bw avx512cd avx512vl pku"},
    {"Cascadelake-Server", "Intel Xeon Processor (Cascadelake)", INTEL, 6, 85, 6, 0xd, 0x80000008u, "Skylake-Server",
     "avx512vnni spec-ctrl ssbd"},
    {"Icelake-Server", "Intel Xeon Processor (Icelake)", INTEL, 6, 134, 0, 0xd, 0x80000008u, "Cascadelake-Server",
     "avx512vbmi umip avx512vbmi2 gfni vaes vpclmulqdq avx512bitalg avx512-vpopcntdq la57 wbnoinvd"},

    {"EPYC", "AMD EPYC Processor", AMD, 23, 1, 2, 0xd, 0x8000001eu, NULL,
     "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 "
     "sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm cr8legacy abm sse4a "
     "misalignsse 3dnowprefetch osvw topoext fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt sha-ni xsaveopt xsavec xgetbv1 "
     "arat"},
    {"EPYC-Rome", "AMD EPYC-Rome Processor", AMD, 23, 49, 0, 0xd, 0x8000001eu, "EPYC",
     "clwb umip rdpid clzero xsaveerptr wbnoinvd ibpb amd-stibp perfctr-core"},
    {"EPYC-Milan", "AMD EPYC-Milan Processor", AMD, 25, 1, 1, 0xd, 0x8000001eu, "EPYC-Rome",
     "pcid invpcid erms fsrm pku ibrs amd-ssbd xsaves"},
    {"EPYC-Genoa", "AMD EPYC-Genoa Processor", AMD, 25, 17, 0, 0xd, 0x80000021u, "EPYC-Milan",
     "x2apic avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512vbmi avx512vbmi2 gfni vaes vpclmulqdq avx512vnni "
     "avx512bitalg avx512-vpopcntdq avx512-bf16 la57 stibp-always-on amd-psfd no-nested-data-bp lfence-always-serializing "
     "null-sel-clr-base auto-ibrs"},
};
const size_t cpu_definition_count = sizeof(cpu_definitions) / sizeof(cpu_definitions[0]);

/* "" or "-v1" may follow the name. */
static const struct cpu_definition *cpu_definition_find(const char *name, size_t length)
{
    if (length > 3 && memcmp(name + length - 3, "-v1", 3) == 0) {
        length -= 3;
    }
    for (size_t i = 0; i < cpu_definition_count; i++) {
        if (strlen(cpu_definitions[i].name) == length && memcmp(cpu_definitions[i].name, name, length) == 0) {
            return &cpu_definitions[i];
        }
    }
    return NULL;
}

struct feature_set cpu_definition_features(const struct cpu_definition *definition)
{
    struct feature_set set = {{0}};

    for (const struct cpu_definition *d = definition; d != NULL; d = d->base != NULL ? cpu_definition_find(d->base, strlen(d->base)) : NULL) {
        feature_set_names(&set, d->features);
    }
    return set;
}

/* ---- the grammar ---- */

struct cpu_word {
    const char *text, *value; /* value: "" for `name` alone */
    size_t length, name_length, value_length;
};

static bool cpu_word_is(const struct cpu_word *word, const char *name)
{
    return strlen(name) == word->name_length && memcmp(word->text, name, word->name_length) == 0;
}

static bool cpu_value_is(const struct cpu_word *word, const char *value)
{
    return strlen(value) == word->value_length && memcmp(word->value, value, word->value_length) == 0;
}

static int cpu_word_bool(const struct cpu_word *word, bool *out, struct error *error)
{
    bool on = word->value_length == 0 || cpu_value_is(word, "on") || cpu_value_is(word, "yes") || cpu_value_is(word, "true");

    if (!on && !cpu_value_is(word, "off") && !cpu_value_is(word, "no") && !cpu_value_is(word, "false")) {
        return error_set(error, "-cpu: '%.*s' must be +feature, -feature, feature=on or feature=off", (int)word->length, word->text);
    }
    *out = on;
    return 0;
}

/* A whole number, 0x… too; with `suffixes`, of hertz: k, M, G. */
static int cpu_word_number(const struct cpu_word *word, uint64_t low, uint64_t high, bool suffixes, uint64_t *out, struct error *error)
{
    char text[32], *end = text;
    unsigned long long value = 0, scale = 1;

    errno = 0;
    if (word->value_length > 0 && word->value_length < sizeof(text)) {
        memcpy(text, word->value, word->value_length);
        text[word->value_length] = '\0';
        value = text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 0) : 0;
    }
    if (suffixes && end != text) {
        scale = *end == 'k' || *end == 'K' ? 1000 : *end == 'M' ? 1000000 : *end == 'G' ? 1000000000 : 1;
        end += scale != 1;
    }
    if (end == text || *end != '\0' || errno != 0 || value > UINT64_MAX / scale || value * scale < low || value * scale > high) {
        return error_set(error, "-cpu: '%.*s': a number from %llu to %llu is needed", (int)word->length, word->text,
                         (unsigned long long)low, (unsigned long long)high);
    }
    *out = value * scale;
    return 0;
}

static int cpu_word_text(const struct cpu_word *word, char *out, size_t least, size_t most, struct error *error)
{
    if (word->value_length < least || word->value_length > most) {
        return error_set(error, "-cpu: '%.*s': %zu to %zu characters are needed", (int)word->length, word->text, least, most);
    }
    memcpy(out, word->value, word->value_length);
    out[word->value_length] = '\0';
    return 0;
}

/* Properties that are no features. `at` is where in struct cpu_model their value goes. */
static const struct cpu_property {
    const char *name;
    enum { PROPERTY_BOOL, PROPERTY_NOT_BOOL, PROPERTY_NUMBER } kind;
    size_t at;
    uint32_t low, high;
    const char *help;
} cpu_properties[] = {
    {"enforce", PROPERTY_BOOL, offsetof(struct cpu_model, enforce), 0, 0, "a feature that the accelerator lacks is an error"},
    {"check", PROPERTY_NOT_BOOL, offsetof(struct cpu_model, quiet), 0, 0, "... is a warning (on)"},
    {"kvm", PROPERTY_NOT_BOOL, offsetof(struct cpu_model, no_kvm), 0, 0, "the guest may see that it runs on KVM (on)"},
    {"migratable", PROPERTY_BOOL, offsetof(struct cpu_model, migratable), 0, 0, "host and max without invtsc (off)"},
    {"family", PROPERTY_NUMBER, offsetof(struct cpu_model, family), 0, 0xff + 0xf, "family, as displayed"},
    {"model", PROPERTY_NUMBER, offsetof(struct cpu_model, model), 0, 0xff, "model, as displayed"},
    {"stepping", PROPERTY_NUMBER, offsetof(struct cpu_model, stepping), 0, 0xf, "stepping"},
    {"level", PROPERTY_NUMBER, offsetof(struct cpu_model, level), 1, 0xff, "highest basic CPUID leaf"},
    {"xlevel", PROPERTY_NUMBER, offsetof(struct cpu_model, xlevel), 0x80000001u, 0x800000ffu, "highest extended CPUID leaf"},
    {"phys-bits", PROPERTY_NUMBER, offsetof(struct cpu_model, phys_bits), 32, 52, "width of physical addresses"},
};
#define CPU_PROPERTIES (sizeof(cpu_properties) / sizeof(cpu_properties[0]))

static int cpu_model_set_property(struct cpu_model *model, const struct cpu_property *p, const struct cpu_word *word, struct error *error)
{
    void *at = (char *)model + p->at;
    uint64_t value;
    bool on;

    if (p->kind == PROPERTY_NUMBER) {
        if (cpu_word_number(word, p->low, p->high, false, &value, error) != 0) {
            return -1;
        }
        *(struct cpu_number *)at = (struct cpu_number){.given = true, .value = (uint32_t)value};
        return 0;
    }
    if (cpu_word_bool(word, &on, error) != 0) {
        return -1;
    }
    *(bool *)at = p->kind == PROPERTY_BOOL ? on : !on;
    return 0;
}

static int cpu_model_set_feature(struct cpu_model *model, const char *name, size_t length, bool on, struct error *error)
{
    if (!feature_set_name(on ? &model->on : &model->off, name, length, true)) {
        return error_set(error, "-cpu: no such feature '%.*s'; '-cpu help' lists them", (int)length, name);
    }
    feature_set_name(on ? &model->off : &model->on, name, length, false);
    return 0;
}

static int cpu_model_apply(struct cpu_model *model, const struct cpu_word *word, struct error *error)
{
    bool on;

    for (size_t i = 0; i < CPU_PROPERTIES; i++) {
        if (cpu_word_is(word, cpu_properties[i].name)) {
            return cpu_model_set_property(model, &cpu_properties[i], word, error);
        }
    }
    if (cpu_word_is(word, "vendor")) {
        return cpu_word_text(word, model->vendor, CPU_VENDOR_BYTES, CPU_VENDOR_BYTES, error);
    }
    if (cpu_word_is(word, "model-id") || cpu_word_is(word, "model_id")) {
        return cpu_word_text(word, model->brand, 0, CPU_BRAND_BYTES, error);
    }
    if (cpu_word_is(word, "tsc-frequency") || cpu_word_is(word, "tsc-freq")) {
        return cpu_word_number(word, 1000, 1000000000000ull, true, &model->tsc_hz, error);
    }
    if (cpu_word_bool(word, &on, error) != 0) {
        return -1;
    }
    return cpu_model_set_feature(model, word->text, word->name_length, on, error);
}

/* As in QEMU, +feature and -feature win over feature=…, wherever they stand. */
static int cpu_model_parse_words(struct cpu_model *model, const char *text, bool signs, struct error *error)
{
    for (size_t length; *text != '\0'; text += length + (text[length] == ',')) {
        length = strcspn(text, ",");
        bool sign = length > 0 && (text[0] == '+' || text[0] == '-');
        const char *equals = memchr(text, '=', length);
        size_t name_length = equals != NULL ? (size_t)(equals - text) : length;
        struct cpu_word word = {.text = text,
                                .length = length,
                                .name_length = name_length,
                                .value = equals != NULL ? equals + 1 : "",
                                .value_length = equals != NULL ? length - name_length - 1 : 0};
        if (length == 0 || sign != signs) {
            continue;
        }
        int err = sign ? cpu_model_set_feature(model, text + 1, length - 1, text[0] == '+', error) : cpu_model_apply(model, &word, error);
        if (err != 0) {
            return err;
        }
    }
    return 0;
}

int cpu_model_parse(struct cpu_model *model, const char *text, struct error *error)
{
    *model = (struct cpu_model){0};
    size_t length = strcspn(text, ",");
    bool all = (length == 4 && memcmp(text, "host", 4) == 0) || (length == 3 && memcmp(text, "max", 3) == 0);

    model->definition = cpu_definition_find(text, length);
    if (!all && model->definition == NULL) {
        return error_set(error, "-cpu %.*s: no such model; '-cpu help' lists them", (int)length, text);
    }
    text += length + (text[length] == ',');
    if (cpu_model_parse_words(model, text, false, error) != 0) {
        return -1;
    }
    return cpu_model_parse_words(model, text, true, error);
}

static void cpu_model_help_names(void)
{
    size_t column = 0;

    for (size_t i = 0; i < cpu_feature_count; i++) {
        const char *name = cpu_features[i].name;
        if (i > 0 && strcmp(name, "kvmclock") == 0 && cpu_features[i].bit != 0) {
            continue; /* its second bit */
        }
        if (column + strlen(name) > 76) {
            column = 0;
        }
        column += (size_t)printf("%s%s", column == 0 ? "\n  " : " ", name);
    }
}

void cpu_model_help(void)
{
    puts("Models for -cpu (NAME-v1 is the same):\n  host                all that the accelerator supports\n  max                 the same");
    for (size_t i = 0; i < cpu_definition_count; i++) {
        printf("  %-19s %s\n", cpu_definitions[i].name, cpu_definitions[i].brand);
    }
    puts("\nProperties (name=value):");
    for (size_t i = 0; i < CPU_PROPERTIES; i++) {
        printf("  %-19s %s\n", cpu_properties[i].name, cpu_properties[i].help);
    }
    puts("  vendor              12 characters\n  model-id            name of the processor\n"
         "  tsc-frequency       Hz, or with k, M, G; where the accelerator can");
    printf("\nFeatures (+name, -name, name=on|off):");
    cpu_model_help_names();
    putchar('\n');
}
