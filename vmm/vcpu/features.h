/* SPDX-License-Identifier: MIT */
/*
 * The features that CPUID names, by the names that Linux and QEMU give them. A set of them is the feature
 * registers themselves, a word for each.
 */
#ifndef KAGE_VCPU_FEATURES_H
#define KAGE_VCPU_FEATURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* The registers that hold features: leaf, subleaf, register (SDM 2A CPUID, APM 3 appendix E, KVM's cpuid.rst). */
enum feature_word {
    FEATURES_1_EDX,
    FEATURES_1_ECX,
    FEATURES_6_EAX,
    FEATURES_7_0_EBX,
    FEATURES_7_0_ECX,
    FEATURES_7_0_EDX,
    FEATURES_7_1_EAX,
    FEATURES_D_1_EAX,
    FEATURES_80000001_EDX,
    FEATURES_80000001_ECX,
    FEATURES_80000007_EDX,
    FEATURES_80000008_EBX,
    FEATURES_80000021_EAX,
    FEATURES_KVM_EAX,
    FEATURE_WORDS,
};

struct feature_set {
    uint32_t word[FEATURE_WORDS];
};

struct feature_register {
    uint32_t leaf;
    uint8_t subleaf;
    uint8_t reg; /* enum cpuid_register */
};
extern const struct feature_register feature_registers[FEATURE_WORDS];

struct cpu_feature {
    const char *name; /* lower case, with '-' */
    uint8_t word;     /* enum feature_word */
    uint8_t bit;
};
/* Sorted by word and bit. A name may have more than one row: it stands for all their bits. */
extern const struct cpu_feature cpu_features[];
extern const size_t cpu_feature_count;

static inline bool feature_is_in(const struct feature_set *set, enum feature_word word, unsigned bit)
{
    return (set->word[word] >> bit & 1) != 0;
}

/* Adds (or with `on` false removes) what the name stands for; '_' is as good as '-'. False: no such name. */
bool feature_set_name(struct feature_set *set, const char *name, size_t length, bool on);

/* Adds each of a list of names with spaces between; false: one of them is none. */
bool feature_set_names(struct feature_set *set, const char *names);

/* Takes away what cannot be without something that is not there: AVX without XSAVE, and so on. */
void feature_set_drop_dependents(struct feature_set *set);

/* A bit's name, or NULL. */
const char *feature_name(enum feature_word word, unsigned bit);

#endif
