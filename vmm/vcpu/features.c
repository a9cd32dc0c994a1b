/* SPDX-License-Identifier: MIT */
#include "vcpu/features.h"

#include <string.h>

#include <asm/kvm_para.h>

const struct feature_register feature_registers[FEATURE_WORDS] = {
    [FEATURES_1_EDX] = {1, 0, CPUID_EDX},
    [FEATURES_1_ECX] = {1, 0, CPUID_ECX},
    [FEATURES_6_EAX] = {6, 0, CPUID_EAX},
    [FEATURES_7_0_EBX] = {7, 0, CPUID_EBX},
    [FEATURES_7_0_ECX] = {7, 0, CPUID_ECX},
    [FEATURES_7_0_EDX] = {7, 0, CPUID_EDX},
    [FEATURES_7_1_EAX] = {7, 1, CPUID_EAX},
    [FEATURES_D_1_EAX] = {0xd, 1, CPUID_EAX},
    [FEATURES_80000001_EDX] = {0x80000001u, 0, CPUID_EDX},
    [FEATURES_80000001_ECX] = {0x80000001u, 0, CPUID_ECX},
    [FEATURES_80000007_EDX] = {0x80000007u, 0, CPUID_EDX},
    [FEATURES_80000008_EBX] = {0x80000008u, 0, CPUID_EBX},
    [FEATURES_80000021_EAX] = {0x80000021u, 0, CPUID_EAX},
    [FEATURES_KVM_EAX] = {KVM_CPUID_FEATURES, 0, CPUID_EAX},
};

#define ROW(word, bit, name) {name, FEATURES_##word, bit}

const struct cpu_feature cpu_features[] = {
    ROW(1_EDX, 0, "fpu"), ROW(1_EDX, 1, "vme"), ROW(1_EDX, 2, "de"), ROW(1_EDX, 3, "pse"), ROW(1_EDX, 4, "tsc"),
    ROW(1_EDX, 5, "msr"), ROW(1_EDX, 6, "pae"), ROW(1_EDX, 7, "mce"), ROW(1_EDX, 8, "cx8"), ROW(1_EDX, 9, "apic"),
    ROW(1_EDX, 11, "sep"), ROW(1_EDX, 12, "mtrr"), ROW(1_EDX, 13, "pge"), ROW(1_EDX, 14, "mca"), ROW(1_EDX, 15, "cmov"),
    ROW(1_EDX, 16, "pat"), ROW(1_EDX, 17, "pse36"), ROW(1_EDX, 18, "pn"), ROW(1_EDX, 19, "clflush"), ROW(1_EDX, 21, "ds"),
    ROW(1_EDX, 22, "acpi"), ROW(1_EDX, 23, "mmx"), ROW(1_EDX, 24, "fxsr"), ROW(1_EDX, 25, "sse"), ROW(1_EDX, 26, "sse2"),
    ROW(1_EDX, 27, "ss"), ROW(1_EDX, 28, "ht"), ROW(1_EDX, 29, "tm"), ROW(1_EDX, 31, "pbe"),

    ROW(1_ECX, 0, "pni"), ROW(1_ECX, 0, "sse3"), ROW(1_ECX, 1, "pclmulqdq"), ROW(1_ECX, 1, "pclmuldq"), ROW(1_ECX, 2, "dtes64"),
    ROW(1_ECX, 3, "monitor"), ROW(1_ECX, 4, "ds-cpl"), ROW(1_ECX, 5, "vmx"), ROW(1_ECX, 6, "smx"), ROW(1_ECX, 7, "est"),
    ROW(1_ECX, 8, "tm2"), ROW(1_ECX, 9, "ssse3"), ROW(1_ECX, 10, "cid"), ROW(1_ECX, 12, "fma"), ROW(1_ECX, 13, "cx16"),
    ROW(1_ECX, 14, "xtpr"), ROW(1_ECX, 15, "pdcm"), ROW(1_ECX, 17, "pcid"), ROW(1_ECX, 18, "dca"), ROW(1_ECX, 19, "sse4.1"),
    ROW(1_ECX, 19, "sse4-1"), ROW(1_ECX, 20, "sse4.2"), ROW(1_ECX, 20, "sse4-2"), ROW(1_ECX, 21, "x2apic"), ROW(1_ECX, 22, "movbe"),
    ROW(1_ECX, 23, "popcnt"), ROW(1_ECX, 24, "tsc-deadline"), ROW(1_ECX, 25, "aes"), ROW(1_ECX, 26, "xsave"), ROW(1_ECX, 28, "avx"),
    ROW(1_ECX, 29, "f16c"), ROW(1_ECX, 30, "rdrand"), ROW(1_ECX, 31, "hypervisor"),

    ROW(6_EAX, 2, "arat"),

    ROW(7_0_EBX, 0, "fsgsbase"), ROW(7_0_EBX, 1, "tsc-adjust"), ROW(7_0_EBX, 2, "sgx"), ROW(7_0_EBX, 3, "bmi1"), ROW(7_0_EBX, 4, "hle"),
    ROW(7_0_EBX, 5, "avx2"), ROW(7_0_EBX, 6, "fdp-excptn-only"), ROW(7_0_EBX, 7, "smep"), ROW(7_0_EBX, 8, "bmi2"),
    ROW(7_0_EBX, 9, "erms"), ROW(7_0_EBX, 10, "invpcid"), ROW(7_0_EBX, 11, "rtm"), ROW(7_0_EBX, 13, "zero-fcs-fds"),
    ROW(7_0_EBX, 14, "mpx"), ROW(7_0_EBX, 16, "avx512f"), ROW(7_0_EBX, 17, "avx512dq"), ROW(7_0_EBX, 18, "rdseed"),
    ROW(7_0_EBX, 19, "adx"), ROW(7_0_EBX, 20, "smap"), ROW(7_0_EBX, 21, "avx512ifma"), ROW(7_0_EBX, 22, "pcommit"),
    ROW(7_0_EBX, 23, "clflushopt"), ROW(7_0_EBX, 24, "clwb"), ROW(7_0_EBX, 25, "intel-pt"), ROW(7_0_EBX, 26, "avx512pf"),
    ROW(7_0_EBX, 27, "avx512er"), ROW(7_0_EBX, 28, "avx512cd"), ROW(7_0_EBX, 29, "sha-ni"), ROW(7_0_EBX, 30, "avx512bw"),
    ROW(7_0_EBX, 31, "avx512vl"),

    ROW(7_0_ECX, 1, "avx512vbmi"), ROW(7_0_ECX, 2, "umip"), ROW(7_0_ECX, 3, "pku"), ROW(7_0_ECX, 4, "ospke"),
    ROW(7_0_ECX, 5, "waitpkg"), ROW(7_0_ECX, 6, "avx512vbmi2"), ROW(7_0_ECX, 8, "gfni"), ROW(7_0_ECX, 9, "vaes"),
    ROW(7_0_ECX, 10, "vpclmulqdq"), ROW(7_0_ECX, 11, "avx512vnni"), ROW(7_0_ECX, 12, "avx512bitalg"),
    ROW(7_0_ECX, 14, "avx512-vpopcntdq"), ROW(7_0_ECX, 16, "la57"), ROW(7_0_ECX, 22, "rdpid"), ROW(7_0_ECX, 24, "bus-lock-detect"),
    ROW(7_0_ECX, 25, "cldemote"), ROW(7_0_ECX, 27, "movdiri"), ROW(7_0_ECX, 28, "movdir64b"), ROW(7_0_ECX, 31, "pks"),

    ROW(7_0_EDX, 2, "avx512-4vnniw"), ROW(7_0_EDX, 3, "avx512-4fmaps"), ROW(7_0_EDX, 4, "fsrm"),
    ROW(7_0_EDX, 8, "avx512-vp2intersect"), ROW(7_0_EDX, 10, "md-clear"), ROW(7_0_EDX, 14, "serialize"),
    ROW(7_0_EDX, 16, "tsx-ldtrk"), ROW(7_0_EDX, 22, "amx-bf16"), ROW(7_0_EDX, 23, "avx512-fp16"), ROW(7_0_EDX, 24, "amx-tile"),
    ROW(7_0_EDX, 25, "amx-int8"), ROW(7_0_EDX, 26, "spec-ctrl"), ROW(7_0_EDX, 27, "stibp"), ROW(7_0_EDX, 28, "flush-l1d"),
    ROW(7_0_EDX, 29, "arch-capabilities"), ROW(7_0_EDX, 30, "core-capability"), ROW(7_0_EDX, 31, "ssbd"),

    ROW(7_1_EAX, 4, "avx-vnni"), ROW(7_1_EAX, 5, "avx512-bf16"), ROW(7_1_EAX, 10, "fzrm"), ROW(7_1_EAX, 11, "fsrs"),
    ROW(7_1_EAX, 12, "fsrc"),

    ROW(D_1_EAX, 0, "xsaveopt"), ROW(D_1_EAX, 1, "xsavec"), ROW(D_1_EAX, 2, "xgetbv1"), ROW(D_1_EAX, 3, "xsaves"),
    ROW(D_1_EAX, 4, "xfd"),

    ROW(80000001_EDX, 11, "syscall"), ROW(80000001_EDX, 19, "mp"), ROW(80000001_EDX, 20, "nx"), ROW(80000001_EDX, 20, "xd"),
    ROW(80000001_EDX, 22, "mmxext"), ROW(80000001_EDX, 25, "fxsr-opt"), ROW(80000001_EDX, 25, "ffxsr"),
    ROW(80000001_EDX, 26, "pdpe1gb"), ROW(80000001_EDX, 27, "rdtscp"), ROW(80000001_EDX, 29, "lm"), ROW(80000001_EDX, 29, "i64"),
    ROW(80000001_EDX, 30, "3dnowext"), ROW(80000001_EDX, 31, "3dnow"),

    ROW(80000001_ECX, 0, "lahf-lm"), ROW(80000001_ECX, 1, "cmp-legacy"), ROW(80000001_ECX, 2, "svm"), ROW(80000001_ECX, 3, "extapic"),
    ROW(80000001_ECX, 4, "cr8legacy"), ROW(80000001_ECX, 5, "abm"), ROW(80000001_ECX, 5, "lzcnt"), ROW(80000001_ECX, 6, "sse4a"),
    ROW(80000001_ECX, 7, "misalignsse"), ROW(80000001_ECX, 8, "3dnowprefetch"), ROW(80000001_ECX, 9, "osvw"),
    ROW(80000001_ECX, 10, "ibs"), ROW(80000001_ECX, 11, "xop"), ROW(80000001_ECX, 12, "skinit"), ROW(80000001_ECX, 13, "wdt"),
    ROW(80000001_ECX, 15, "lwp"), ROW(80000001_ECX, 16, "fma4"), ROW(80000001_ECX, 17, "tce"), ROW(80000001_ECX, 19, "nodeid-msr"),
    ROW(80000001_ECX, 21, "tbm"), ROW(80000001_ECX, 22, "topoext"), ROW(80000001_ECX, 23, "perfctr-core"),
    ROW(80000001_ECX, 24, "perfctr-nb"),

    ROW(80000007_EDX, 8, "invtsc"),

    ROW(80000008_EBX, 0, "clzero"), ROW(80000008_EBX, 2, "xsaveerptr"), ROW(80000008_EBX, 9, "wbnoinvd"), ROW(80000008_EBX, 12, "ibpb"),
    ROW(80000008_EBX, 14, "ibrs"), ROW(80000008_EBX, 15, "amd-stibp"), ROW(80000008_EBX, 17, "stibp-always-on"),
    ROW(80000008_EBX, 24, "amd-ssbd"), ROW(80000008_EBX, 25, "virt-ssbd"), ROW(80000008_EBX, 26, "amd-no-ssb"),
    ROW(80000008_EBX, 28, "amd-psfd"), ROW(80000008_EBX, 29, "btc-no"),

    ROW(80000021_EAX, 0, "no-nested-data-bp"), ROW(80000021_EAX, 2, "lfence-always-serializing"),
    ROW(80000021_EAX, 6, "null-sel-clr-base"), ROW(80000021_EAX, 8, "auto-ibrs"), ROW(80000021_EAX, 29, "srso-no"),

    ROW(KVM_EAX, 0, "kvmclock"), ROW(KVM_EAX, 1, "kvm-nopiodelay"), ROW(KVM_EAX, 2, "kvm-mmu"), ROW(KVM_EAX, 3, "kvmclock"),
    ROW(KVM_EAX, 4, "kvm-asyncpf"), ROW(KVM_EAX, 5, "kvm-steal-time"), ROW(KVM_EAX, 6, "kvm-pv-eoi"), ROW(KVM_EAX, 7, "kvm-pv-unhalt"),
    ROW(KVM_EAX, 9, "kvm-pv-tlb-flush"), ROW(KVM_EAX, 10, "kvm-asyncpf-vmexit"), ROW(KVM_EAX, 11, "kvm-pv-ipi"),
    ROW(KVM_EAX, 12, "kvm-poll-control"), ROW(KVM_EAX, 13, "kvm-pv-sched-yield"), ROW(KVM_EAX, 14, "kvm-asyncpf-int"),
    ROW(KVM_EAX, 15, "kvm-msi-ext-dest-id"), ROW(KVM_EAX, 24, "kvmclock-stable-bit"),
};
const size_t cpu_feature_count = sizeof(cpu_features) / sizeof(cpu_features[0]);

static bool feature_names_equal(const char *known, const char *name, size_t length)
{
    if (strlen(known) != length) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        if (known[i] != (name[i] == '_' ? '-' : name[i])) {
            return false;
        }
    }
    return true;
}

bool feature_set_name(struct feature_set *set, const char *name, size_t length, bool on)
{
    bool found = false;

    for (size_t i = 0; i < cpu_feature_count; i++) {
        const struct cpu_feature *f = &cpu_features[i];
        if (feature_names_equal(f->name, name, length)) {
            uint32_t bit = 1u << f->bit;
            set->word[f->word] = on ? set->word[f->word] | bit : set->word[f->word] & ~bit;
            found = true;
        }
    }
    return found;
}

bool feature_set_names(struct feature_set *set, const char *names)
{
    bool good = true;

    while (*names != '\0') {
        size_t length = strcspn(names, " ");
        good &= length == 0 || feature_set_name(set, names, length, true);
        names += length + (names[length] != '\0');
    }
    return good;
}

/* SDM 1 13.2 and 14.3, 15.2: the state of vector registers is XSAVE's, and each set needs the one below it. */
static const struct {
    const char *needed, *by;
} feature_dependents[] = {
    {"xsave", "avx xsaveopt xsavec xgetbv1 xsaves pku"},
    {"avx", "avx2 fma f16c vaes vpclmulqdq avx-vnni avx512f"},
    {"avx512f", "avx512dq avx512ifma avx512cd avx512bw avx512vl avx512vbmi avx512vbmi2 avx512vnni avx512bitalg avx512-vpopcntdq "
                "avx512-vp2intersect avx512-fp16 avx512-bf16"},
};

void feature_set_drop_dependents(struct feature_set *set)
{
    for (size_t i = 0; i < sizeof(feature_dependents) / sizeof(feature_dependents[0]); i++) {
        struct feature_set needed = {{0}}, by = {{0}};
        bool there = true;
        feature_set_names(&needed, feature_dependents[i].needed);
        feature_set_names(&by, feature_dependents[i].by);
        for (unsigned w = 0; w < FEATURE_WORDS; w++) {
            there &= (needed.word[w] & ~set->word[w]) == 0;
        }
        for (unsigned w = 0; w < FEATURE_WORDS && !there; w++) {
            set->word[w] &= ~by.word[w];
        }
    }
}

const char *feature_name(enum feature_word word, unsigned bit)
{
    for (size_t i = 0; i < cpu_feature_count; i++) {
        if (cpu_features[i].word == word && cpu_features[i].bit == bit) {
            return cpu_features[i].name;
        }
    }
    return NULL;
}
