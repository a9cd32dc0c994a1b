/* SPDX-License-Identifier: MIT */
#include "inspect/words.h"

#include <stdio.h>
#include <string.h>

#include <kage_inspect.h>

const struct word_bit words_cr0[] = {
    {0, "PE"}, {1, "MP"}, {2, "EM"}, {3, "TS"}, {4, "ET"}, {5, "NE"}, {16, "WP"}, {18, "AM"}, {29, "NW"}, {30, "CD"}, {31, "PG"}, {0, NULL},
};
const struct word_bit words_cr4[] = {
    {0, "VME"},     {1, "PVI"},     {2, "TSD"},        {3, "DE"},          {4, "PSE"},   {5, "PAE"},   {6, "MCE"},  {7, "PGE"},      {8, "PCE"},
    {9, "OSFXSR"},  {10, "OSXMMEXCPT"}, {11, "UMIP"},  {12, "LA57"},       {13, "VMXE"}, {14, "SMXE"}, {16, "FSGSBASE"}, {17, "PCIDE"},
    {18, "OSXSAVE"}, {19, "KL"},    {20, "SMEP"},      {21, "SMAP"},       {22, "PKE"},  {23, "CET"},  {24, "PKS"}, {0, NULL},
};
const struct word_bit words_efer[] = {{0, "SCE"}, {8, "LME"}, {10, "LMA"}, {11, "NX"}, {0, NULL}};
const struct word_bit words_rflags[] = {
    {0, "CF"}, {2, "PF"}, {4, "AF"}, {6, "ZF"}, {7, "SF"}, {8, "TF"}, {9, "IF"}, {10, "DF"}, {11, "OF"}, {14, "NT"}, {16, "RF"},
    {17, "VM"}, {18, "AC"}, {19, "VIF"}, {20, "VIP"}, {21, "ID"}, {0, NULL},
};
const struct word_bit words_page_fault[] = {{0, "P"}, {1, "W"}, {2, "U"}, {3, "RSVD"}, {4, "I"}, {5, "PK"}, {15, "SGX"}, {0, NULL}};

/* SDM 3C tables 25-5 to 25-7, 25-13, 25-15 */
static const struct word_bit words_pin[] = {
    {0, "external-interrupt exiting"}, {3, "NMI exiting"}, {5, "virtual NMIs"}, {6, "preemption timer"}, {7, "posted interrupts"}, {0, NULL},
};
static const struct word_bit words_proc[] = {
    {2, "interrupt-window exiting"}, {3, "TSC offsetting"}, {7, "HLT exiting"}, {9, "INVLPG exiting"}, {10, "MWAIT exiting"}, {11, "RDPMC exiting"},
    {12, "RDTSC exiting"}, {15, "CR3-load exiting"}, {16, "CR3-store exiting"}, {19, "CR8-load exiting"}, {20, "CR8-store exiting"},
    {21, "TPR shadow"}, {22, "NMI-window exiting"}, {23, "MOV-DR exiting"}, {24, "unconditional I/O exiting"}, {25, "I/O bitmaps"},
    {27, "monitor trap flag"}, {28, "MSR bitmaps"}, {29, "MONITOR exiting"}, {30, "PAUSE exiting"}, {31, "secondary controls"}, {0, NULL},
};
static const struct word_bit words_proc2[] = {
    {0, "virtualize APIC accesses"}, {1, "EPT"}, {2, "descriptor-table exiting"}, {3, "RDTSCP"}, {4, "virtualize x2APIC mode"}, {5, "VPID"},
    {6, "WBINVD exiting"}, {7, "unrestricted guest"}, {8, "APIC-register virtualization"}, {9, "virtual-interrupt delivery"},
    {10, "PAUSE-loop exiting"}, {11, "RDRAND exiting"}, {12, "INVPCID"}, {13, "VM functions"}, {14, "VMCS shadowing"}, {16, "RDSEED exiting"},
    {17, "PML"}, {18, "EPT-violation #VE"}, {20, "XSAVES"}, {22, "mode-based execute control"}, {25, "TSC scaling"}, {26, "user wait and pause"}, {0, NULL},
};
static const struct word_bit words_exit_ctls[] = {
    {2, "save debug controls"}, {9, "host address-space size"}, {12, "load PERF_GLOBAL_CTRL"}, {15, "acknowledge interrupt on exit"},
    {18, "save PAT"}, {19, "load PAT"}, {20, "save EFER"}, {21, "load EFER"}, {22, "save preemption timer"}, {0, NULL},
};
static const struct word_bit words_entry_ctls[] = {
    {2, "load debug controls"}, {9, "IA-32e mode guest"}, {10, "entry to SMM"}, {11, "deactivate dual-monitor"}, {13, "load PERF_GLOBAL_CTRL"},
    {14, "load PAT"}, {15, "load EFER"}, {0, NULL},
};
static const struct word_bit words_interruptibility[] = {
    {0, "blocking by STI"}, {1, "blocking by MOV SS"}, {2, "blocking by SMI"}, {3, "blocking by NMI"}, {4, "enclave"}, {0, NULL},
};
static const struct word_bit words_exceptions[] = {
    {0, "#DE"}, {1, "#DB"}, {2, "NMI"}, {3, "#BP"}, {4, "#OF"}, {5, "#BR"}, {6, "#UD"}, {7, "#NM"}, {8, "#DF"}, {10, "#TS"}, {11, "#NP"},
    {12, "#SS"}, {13, "#GP"}, {14, "#PF"}, {16, "#MF"}, {17, "#AC"}, {18, "#MC"}, {19, "#XM"}, {20, "#VE"}, {21, "#CP"}, {0, NULL},
};
static const struct word_bit words_pending_debug[] = {
    {0, "B0"}, {1, "B1"}, {2, "B2"}, {3, "B3"}, {12, "enabled breakpoint"}, {14, "BS"}, {16, "RTM"}, {0, NULL},
};

static void append(char text[WORDS_MAX], const char *separator, const char *word)
{
    size_t length = strlen(text);
    snprintf(text + length, WORDS_MAX - length, "%s%s", length != 0 ? separator : "", word);
}

static const char *name_bits(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value, const char *separator)
{
    text[0] = '\0';
    for (unsigned bit = 0; bit < 64; bit++) {
        if ((value >> bit & 1) == 0) {
            continue;
        }
        const struct word_bit *b = bits;
        char unknown[16];
        while (b->name != NULL && b->bit != bit) {
            b++;
        }
        snprintf(unknown, sizeof(unknown), "bit %u", bit);
        append(text, separator, b->name != NULL ? b->name : unknown);
    }
    return text;
}

const char *words_bits(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    return name_bits(text, bits, value, " ");
}

/* ---- VMCS ---- */

static void decode_controls(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    name_bits(text, bits, value, ", ");
}

static void decode_registers(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    name_bits(text, bits, value, " ");
}

/* RFLAGS' bit 1 is always set, and means nothing. */
static void decode_rflags(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    name_bits(text, bits, value & ~2ull, " ");
}

/* SDM 3C 25.6.11 */
static void decode_eptp(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    (void)bits;
    snprintf(text, WORDS_MAX, "%s, %u levels%s, root 0x%llx", (value & 7) == 6 ? "write-back" : (value & 7) == 0 ? "uncached" : "memory type ?",
             (unsigned)(value >> 3 & 7) + 1, (value >> 6 & 1) != 0 ? ", accessed and dirty bits" : "",
             (unsigned long long)(value & 0x000ffffffffff000ull));
}

/* Event information, SDM 3C 25.8.3 and 25.9.2 */
static void decode_event(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    static const char *const types[8] = {
        "external interrupt", "reserved", "NMI", "hardware exception", "software interrupt", "privileged software exception",
        "software exception", "other event",
    };
    (void)bits;
    snprintf(text, WORDS_MAX, "%s%s, vector %u%s", (value >> 31 & 1) != 0 ? "" : "not valid: ", types[value >> 8 & 7], (unsigned)(value & 0xff),
             (value >> 11 & 1) != 0 ? ", with an error code" : "");
}

static void decode_activity(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    static const char *const states[] = {"active", "HLT", "shutdown", "wait for SIPI"};
    (void)bits;
    snprintf(text, WORDS_MAX, "%s", value < 4 ? states[value] : "?");
}

static void decode_cr3(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    (void)bits;
    snprintf(text, WORDS_MAX, "table 0x%llx, low bits 0x%03llx", (unsigned long long)(value & 0x000ffffffffff000ull),
             (unsigned long long)(value & 0xfff));
}

static void decode_segment(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    (void)bits;
    words_segment(text, (uint32_t)value);
}

static void decode_selector(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    (void)bits;
    snprintf(text, WORDS_MAX, "%s entry %u, RPL %u", (value & 4) != 0 ? "LDT" : "GDT", (unsigned)(value >> 3), (unsigned)(value & 3));
}

static void decode_pat(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value)
{
    static const char *const types[8] = {"UC", "WC", "?", "?", "WT", "WP", "WB", "UC-"};
    (void)bits;
    text[0] = '\0';
    for (unsigned i = 0; i < 8; i++) {
        append(text, " ", types[value >> (8 * i) & 7]);
    }
}

static const struct vmcs_words {
    uint32_t first, last; /* encodings, in steps of 2 */
    void (*decode)(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value);
    const struct word_bit *bits;
} vmcs_words[] = {
    {0x0800, 0x080e, decode_selector, NULL},
    {0x201a, 0x201a, decode_eptp, NULL},
    {0x2804, 0x2804, decode_pat, NULL},
    {0x2806, 0x2806, decode_registers, words_efer},
    {0x4000, 0x4000, decode_controls, words_pin},
    {0x4002, 0x4002, decode_controls, words_proc},
    {0x4004, 0x4004, decode_registers, words_exceptions},
    {0x4006, 0x4008, decode_registers, words_page_fault},
    {0x400c, 0x400c, decode_controls, words_exit_ctls},
    {0x4012, 0x4012, decode_controls, words_entry_ctls},
    {0x4016, 0x4016, decode_event, NULL},
    {0x401e, 0x401e, decode_controls, words_proc2},
    {0x4404, 0x4404, decode_event, NULL},
    {0x4408, 0x4408, decode_event, NULL},
    {0x4814, 0x4822, decode_segment, NULL},
    {0x4824, 0x4824, decode_controls, words_interruptibility},
    {0x4826, 0x4826, decode_activity, NULL},
    {0x6000, 0x6000, decode_registers, words_cr0},
    {0x6002, 0x6002, decode_registers, words_cr4},
    {0x6004, 0x6004, decode_registers, words_cr0},
    {0x6006, 0x6006, decode_registers, words_cr4},
    {0x6800, 0x6800, decode_registers, words_cr0},
    {0x6802, 0x6802, decode_cr3, NULL},
    {0x6804, 0x6804, decode_registers, words_cr4},
    {0x6820, 0x6820, decode_rflags, words_rflags},
    {0x6822, 0x6822, decode_controls, words_pending_debug},
};

const char *words_vmcs(char text[WORDS_MAX], uint32_t encoding, uint64_t value)
{
    text[0] = '\0';
    for (size_t i = 0; i < sizeof(vmcs_words) / sizeof(vmcs_words[0]); i++) {
        if (encoding >= vmcs_words[i].first && encoding <= vmcs_words[i].last) {
            vmcs_words[i].decode(text, vmcs_words[i].bits, value);
        }
    }
    return text;
}

/* SDM 3C 28.2.1 */
const char *words_qualification(char text[WORDS_MAX], unsigned reason, uint64_t value)
{
    static const char *const cr_access[] = {"MOV to", "MOV from", "CLTS", "LMSW"};
    static const char *const registers[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    static const struct word_bit ept[] = {
        {0, "read"}, {1, "write"}, {2, "fetch"}, {3, "R allowed"}, {4, "W allowed"}, {5, "X allowed"}, {7, "linear address valid"},
        {8, "of the access, not of a table"}, {12, "NMI unblocking"}, {0, NULL},
    };

    text[0] = '\0';
    switch (reason) {
    case 28: /* control-register access */
        if ((value >> 4 & 3) < 2) {
            snprintf(text, WORDS_MAX, "%s CR%u, %s", cr_access[value >> 4 & 3], (unsigned)(value & 15), registers[value >> 8 & 15]);
        } else {
            snprintf(text, WORDS_MAX, "%s", cr_access[value >> 4 & 3]);
        }
        break;
    case 29: /* MOV DR */
        snprintf(text, WORDS_MAX, "MOV %s DR%u, %s", (value & 16) != 0 ? "from" : "to", (unsigned)(value & 7), registers[value >> 8 & 15]);
        break;
    case 30: /* I/O instruction */
        snprintf(text, WORDS_MAX, "%s%s port 0x%x, %u byte%s%s", (value & 8) != 0 ? "IN" : "OUT", (value & 16) != 0 ? "S" : "",
                 (unsigned)(value >> 16 & 0xffff), (unsigned)(value & 7) + 1, (value & 7) != 0 ? "s" : "", (value & 32) != 0 ? ", REP" : "");
        break;
    case 48: /* EPT violation */
        name_bits(text, ept, value, ", ");
        break;
    default:
        break;
    }
    return text;
}

/* SDM 3C 25.4.1 table 25-2, and the types of SDM 3A 3.4.5.1 and 3.5 */
const char *words_segment(char text[WORDS_MAX], uint32_t ar)
{
    static const char *const systems[16] = {
        "type 0", "16-bit TSS", "LDT", "busy 16-bit TSS", "type 4", "type 5", "type 6", "type 7",
        "type 8", "TSS", "type 10", "busy TSS", "type 12", "type 13", "type 14", "type 15",
    };
    char more[64];

    text[0] = '\0';
    if ((ar >> 16 & 1) != 0) {
        append(text, "", "unusable");
        return text;
    }
    if ((ar >> 4 & 1) == 0) {
        append(text, "", systems[ar & 15]);
    } else if ((ar & 8) != 0) {
        append(text, "", (ar >> 13 & 1) != 0 ? "64-bit code" : (ar >> 14 & 1) != 0 ? "32-bit code" : "16-bit code");
        append(text, ", ", (ar & 2) != 0 ? "readable" : "execute only");
        append(text, (ar & 4) != 0 ? ", " : "", (ar & 4) != 0 ? "conforming" : "");
    } else {
        append(text, "", (ar >> 14 & 1) != 0 ? "32-bit data" : "16-bit data");
        append(text, ", ", (ar & 2) != 0 ? "writable" : "read only");
        append(text, (ar & 4) != 0 ? ", " : "", (ar & 4) != 0 ? "expand down" : "");
    }
    snprintf(more, sizeof(more), "DPL %u%s", ar >> 5 & 3, (ar >> 7 & 1) != 0 ? "" : ", not present");
    append(text, ", ", more);
    return text;
}

/* ---- Page-table entries ---- */

static void letter(char text[WORDS_MAX], bool set, const char *sign)
{
    size_t length = strlen(text);
    snprintf(text + length, WORDS_MAX - length, "%s", set ? sign : ".");
}

/*
 *   63   51..12   8 7  6 5 4 3 2 1 0        SDM 3A table 4-15 and on
 *   NX | address |G|PS|D|A|CD|WT|U|W|P
 */
const char *words_guest_entry(char text[WORDS_MAX], uint64_t entry, bool leaf, bool wide)
{
    text[0] = '\0';
    letter(text, (entry & 1) != 0, "P");
    letter(text, (entry & 2) != 0, "W");
    letter(text, (entry & 4) != 0, "U");
    letter(text, (entry & 8) != 0, "t"); /* PWT */
    letter(text, (entry & 16) != 0, "c"); /* PCD */
    letter(text, (entry & 32) != 0, "A");
    letter(text, (entry & 64) != 0, "D");
    letter(text, leaf && (entry & 256) != 0, "G");
    letter(text, wide && entry >> 63 != 0, "N"); /* NX */
    return text;
}

/*
 *   51..12   9 8 7  6    5..3 2 1 0           SDM 3C 29.3.2
 *   address |D|A|PS|IPAT|MT  |X|W|R
 */
const char *words_ept_entry(char text[WORDS_MAX], uint64_t entry, bool leaf)
{
    static const char *const types[8] = {"UC", "WC", "?", "?", "WT", "WP", "WB", "?"};

    text[0] = '\0';
    letter(text, (entry & 1) != 0, "R");
    letter(text, (entry & 2) != 0, "W");
    letter(text, (entry & 4) != 0, "X");
    letter(text, (entry & 256) != 0, "A");
    letter(text, leaf && (entry & 512) != 0, "D");
    if (leaf) {
        append(text, " ", types[entry >> 3 & 7]);
    }
    return text;
}

const char *words_rights(char text[WORDS_MAX], uint32_t rights, bool with_user)
{
    text[0] = '\0';
    letter(text, (rights & KAGE_RIGHT_R) != 0, "R");
    letter(text, (rights & KAGE_RIGHT_W) != 0, "W");
    letter(text, (rights & KAGE_RIGHT_X) != 0, "X");
    if (with_user) {
        letter(text, (rights & KAGE_RIGHT_U) != 0, "U");
    }
    return text;
}
