/* SPDX-License-Identifier: MIT */
/*
 * Bits in words: registers, VMCS controls, page-table entries, as the manuals name them.
 */
#ifndef KAGE_INSPECT_WORDS_H
#define KAGE_INSPECT_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WORDS_MAX 512

struct word_bit {
    unsigned bit;
    const char *name;
};
/* Tables end with a NULL name. */
extern const struct word_bit words_cr0[], words_cr4[], words_efer[], words_rflags[], words_page_fault[];

/* Names of the bits that are set, a space between them; one without a name is "bit N". */
const char *words_bits(char text[WORDS_MAX], const struct word_bit *bits, uint64_t value);

/* What the value of a VMCS field means; "" where the number says it all. */
const char *words_vmcs(char text[WORDS_MAX], uint32_t encoding, uint64_t value);

/* What an exit qualification means for that basic reason; "" where it says nothing, or is an address. */
const char *words_qualification(char text[WORDS_MAX], unsigned reason, uint64_t value);

/* The bits of an entry as letters in fixed places, '.' where clear ("P W U . . A D . G NX" without the spaces). */
const char *words_guest_entry(char text[WORDS_MAX], uint64_t entry, bool leaf, bool wide);
const char *words_ept_entry(char text[WORDS_MAX], uint64_t entry, bool leaf);
/* KAGE_RIGHT_* as "RWXU". */
const char *words_rights(char text[WORDS_MAX], uint32_t rights, bool with_user);
/* Access rights of a segment: "code, readable, accessed, DPL 0, 64-bit". */
const char *words_segment(char text[WORDS_MAX], uint32_t access_rights);

#endif
