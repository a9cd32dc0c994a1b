/* SPDX-License-Identifier: MIT */
/*
 * CPU models, as -cpu names them: a vendor, a family, a model, a stepping, and the features that such a
 * processor has. `host` and `max` are all that the accelerator can do.
 */
#ifndef KAGE_VCPU_CPU_MODEL_H
#define KAGE_VCPU_CPU_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"
#include "vcpu/features.h"

#define CPU_VENDOR_BYTES 12u
#define CPU_BRAND_BYTES 48u
#define CPU_VENDOR_INTEL "GenuineIntel"
#define CPU_VENDOR_AMD "AuthenticAMD"

/* A row of the table of models. */
struct cpu_definition {
    const char *name;
    const char *brand;    /* of CPUID leaves 0x80000002 to 0x80000004 */
    const char *vendor;
    uint16_t family, model, stepping;
    uint32_t level, xlevel; /* highest basic and extended leaf, if the features need no higher one */
    const char *base;     /* another model, whose features this one has too; NULL: none */
    const char *features;
};
extern const struct cpu_definition cpu_definitions[];
extern const size_t cpu_definition_count;

/* All features of a model. */
struct feature_set cpu_definition_features(const struct cpu_definition *definition);

struct cpu_number {
    bool given;
    uint32_t value;
};

/* What the user asks for; all zeros is `host`. */
struct cpu_model {
    const struct cpu_definition *definition; /* NULL: all that the accelerator has */
    struct feature_set on, off; /* +feature, -feature */
    bool enforce;               /* what the accelerator lacks is an error */
    bool quiet;                 /* check=off: and no warning */
    bool no_kvm;                /* kvm=off: no leaves that say KVM */
    bool migratable;            /* nothing that another host may not have: no invariant TSC */
    struct cpu_number family, model, stepping, level, xlevel, phys_bits;
    uint64_t tsc_hz; /* 0: the host's */
    char vendor[CPU_VENDOR_BYTES + 1], brand[CPU_BRAND_BYTES + 1]; /* "": the model's */
};

/* MODEL[,+feature][,-feature][,feature=on|off][,property=value…], in QEMU's grammar. */
int cpu_model_parse(struct cpu_model *model, const char *text, struct error *error);
/* The lists for `-cpu help`, to stdout. */
void cpu_model_help(void);

#endif
