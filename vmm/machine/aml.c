/* SPDX-License-Identifier: MIT */
/*
 * AML encoding (ACPI 6.4, 20.2) and small resource descriptors (6.4.2). Package lengths are always
 * written in their two-byte form, so that a package can be closed in place:
 *
 *   byte 0: 01 00 llll   length bits 3..0, one byte follows
 *   byte 1: llllllll     length bits 11..4; the length counts these two bytes too
 */
#include "machine/aml.h"

#include <string.h>

enum aml_op {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_NAME = 0x08,
    AML_BYTE = 0x0a,
    AML_WORD = 0x0b,
    AML_DWORD = 0x0c,
    AML_STRING = 0x0d,
    AML_QWORD = 0x0e,
    AML_SCOPE = 0x10,
    AML_BUFFER = 0x11,
    AML_PACKAGE = 0x12,
    AML_METHOD = 0x14,
    AML_EXT = 0x5b,
    AML_EXT_DEVICE = 0x82,
};

#define AML_PKG_LENGTH_MAX 0xfffu
#define AML_PKG_LENGTH_BYTES 2u

#define RESOURCE_IRQ_NO_FLAGS 0x22u /* two bytes of mask */
#define RESOURCE_WORD_SPACE 0x88u
#define RESOURCE_DWORD_SPACE 0x87u
#define RESOURCE_QWORD_SPACE 0x8au
#define RESOURCE_MEMORY32_FIXED 0x86u
#define RESOURCE_INTERRUPT 0x89u
#define RESOURCE_IO 0x47u           /* seven bytes */
#define RESOURCE_END 0x79u          /* one byte of checksum; 0: not used */
#define RESOURCE_IO_DECODE16 0x01u

void aml_init(struct aml *aml, uint8_t *bytes, size_t room)
{
    *aml = (struct aml){.bytes = bytes, .room = room};
}

void aml_raw(struct aml *aml, const void *bytes, size_t count)
{
    if (aml->overflow || count > aml->room - aml->used) {
        aml->overflow = true;
        return;
    }
    memcpy(aml->bytes + aml->used, bytes, count);
    aml->used += count;
}

void aml_byte(struct aml *aml, uint8_t value)
{
    aml_raw(aml, &value, 1);
}

static void aml_name_string(struct aml *aml, const char *name)
{
    aml_raw(aml, name, strlen(name));
}

void aml_name(struct aml *aml, const char *name)
{
    aml_byte(aml, AML_NAME);
    aml_name_string(aml, name);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    uint8_t bytes[8];
    for (unsigned i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(value >> (i * 8));
    }
    if (value <= 1) {
        aml_byte(aml, value == 0 ? AML_ZERO : AML_ONE);
    } else if (value <= 0xff) {
        aml_byte(aml, AML_BYTE);
        aml_raw(aml, bytes, 1);
    } else if (value <= 0xffff) {
        aml_byte(aml, AML_WORD);
        aml_raw(aml, bytes, 2);
    } else if (value <= 0xffffffff) {
        aml_byte(aml, AML_DWORD);
        aml_raw(aml, bytes, 4);
    } else {
        aml_byte(aml, AML_QWORD);
        aml_raw(aml, bytes, 8);
    }
}

static unsigned aml_hex_digit(char digit)
{
    return (unsigned)(digit <= '9' ? digit - '0' : digit - 'A' + 10);
}

/* ACPI 6.4, 19.3.4: three letters of five bits and four digits of four, stored big-endian. */
void aml_eisa_id(struct aml *aml, const char *id)
{
    uint32_t value = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 | (uint32_t)(id[2] - '@') << 16;
    for (unsigned i = 0; i < 4; i++) {
        value |= aml_hex_digit(id[3 + i]) << (12 - 4 * i);
    }
    aml_integer(aml, __builtin_bswap32(value));
}

static size_t aml_open(struct aml *aml)
{
    static const uint8_t space[AML_PKG_LENGTH_BYTES];
    size_t mark = aml->used;
    aml_raw(aml, space, sizeof(space));
    return mark;
}

void aml_close(struct aml *aml, size_t mark)
{
    size_t length = aml->used - mark;
    if (aml->overflow || length > AML_PKG_LENGTH_MAX) {
        aml->overflow = true;
        return;
    }
    aml->bytes[mark] = (uint8_t)(0x40u | (length & 0xf));
    aml->bytes[mark + 1] = (uint8_t)(length >> 4);
}

size_t aml_open_scope(struct aml *aml, const char *name)
{
    aml_byte(aml, AML_SCOPE);
    size_t mark = aml_open(aml);
    aml_name_string(aml, name);
    return mark;
}

size_t aml_open_device(struct aml *aml, const char *name)
{
    aml_byte(aml, AML_EXT);
    aml_byte(aml, AML_EXT_DEVICE);
    size_t mark = aml_open(aml);
    aml_name_string(aml, name);
    return mark;
}

size_t aml_open_method(struct aml *aml, const char *name, uint8_t arguments)
{
    aml_byte(aml, AML_METHOD);
    size_t mark = aml_open(aml);
    aml_name_string(aml, name);
    aml_byte(aml, arguments); /* MethodFlags: 2..0 how many */
    return mark;
}

size_t aml_open_package(struct aml *aml, uint8_t elements)
{
    aml_byte(aml, AML_PACKAGE);
    size_t mark = aml_open(aml);
    aml_byte(aml, elements);
    return mark;
}

/* Buffer (size) { bytes }: the size is a word, filled in when the template ends. */
size_t aml_open_resources(struct aml *aml)
{
    static const uint8_t space[2];
    aml_byte(aml, AML_BUFFER);
    size_t mark = aml_open(aml);
    aml_byte(aml, AML_WORD);
    aml_raw(aml, space, sizeof(space));
    return mark;
}

void aml_io(struct aml *aml, uint16_t port, uint8_t count)
{
    uint8_t low = (uint8_t)port;
    uint8_t high = (uint8_t)(port >> 8);
    uint8_t descriptor[] = {RESOURCE_IO, RESOURCE_IO_DECODE16, low, high, low, high, 1, count};
    aml_raw(aml, descriptor, sizeof(descriptor));
}

void aml_string(struct aml *aml, const char *text)
{
    aml_byte(aml, AML_STRING);
    aml_raw(aml, text, strlen(text) + 1);
}

#define WINDOW_FIXED 0x0cu /* both ends are */
enum { WINDOW_MEMORY = 0, WINDOW_IO = 1, WINDOW_BUS = 2 };

/* Word address space descriptor (ACPI 6.4, 6.4.3.5.3) */
static void aml_word_window(struct aml *aml, uint8_t type, uint8_t type_flags, uint16_t first, uint16_t last)
{
    const uint16_t words[] = {0, first, last, 0, (uint16_t)(last - first + 1)}; /* granularity, ends, translation, length */
    const uint8_t head[] = {RESOURCE_WORD_SPACE, 13, 0, type, WINDOW_FIXED, type_flags};
    aml_raw(aml, head, sizeof(head));
    aml_raw(aml, words, sizeof(words));
}

void aml_bus_numbers(struct aml *aml, uint16_t first, uint16_t last)
{
    aml_word_window(aml, WINDOW_BUS, 0, first, last);
}

void aml_io_window(struct aml *aml, uint16_t first, uint16_t last)
{
    aml_word_window(aml, WINDOW_IO, 3 /* all of it */, first, last);
}

/* Double-word address space descriptor (ACPI 6.4, 6.4.3.5.2) */
void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last)
{
    const uint32_t words[] = {0, first, last, 0, last - first + 1};
    const uint8_t head[] = {RESOURCE_DWORD_SPACE, 23, 0, WINDOW_MEMORY, WINDOW_FIXED, 1 /* writable */};
    aml_raw(aml, head, sizeof(head));
    aml_raw(aml, words, sizeof(words));
}

/* Quad-word address space descriptor (ACPI 6.4, 6.4.3.5.1) */
void aml_memory_window64(struct aml *aml, uint64_t first, uint64_t last)
{
    const uint64_t words[] = {0, first, last, 0, last - first + 1};
    const uint8_t head[] = {RESOURCE_QWORD_SPACE, 43, 0, WINDOW_MEMORY, WINDOW_FIXED, 3 /* cacheable, writable */};
    aml_raw(aml, head, sizeof(head));
    aml_raw(aml, words, sizeof(words));
}

void aml_irq(struct aml *aml, uint8_t irq)
{
    uint16_t mask = (uint16_t)(1u << irq);
    uint8_t descriptor[] = {RESOURCE_IRQ_NO_FLAGS, (uint8_t)mask, (uint8_t)(mask >> 8)};
    aml_raw(aml, descriptor, sizeof(descriptor));
}

/* 32-bit fixed memory range descriptor (ACPI 6.4, 6.4.3.4) */
void aml_memory(struct aml *aml, uint32_t first, uint32_t bytes)
{
    const uint8_t head[] = {RESOURCE_MEMORY32_FIXED, 9, 0, 1 /* writable */};
    const uint32_t range[] = {first, bytes};
    aml_raw(aml, head, sizeof(head));
    aml_raw(aml, range, sizeof(range));
}

/* Extended interrupt descriptor (ACPI 6.4, 6.4.3.6) */
void aml_gsi(struct aml *aml, uint32_t gsi)
{
    const uint8_t head[] = {RESOURCE_INTERRUPT, 6, 0, 1 /* consumer, level, active high, exclusive */, 1 /* how many */};
    aml_raw(aml, head, sizeof(head));
    aml_raw(aml, &gsi, sizeof(gsi));
}

void aml_close_resources(struct aml *aml, size_t mark)
{
    static const uint8_t end[] = {RESOURCE_END, 0};
    aml_raw(aml, end, sizeof(end));
    size_t data = mark + AML_PKG_LENGTH_BYTES + 3; /* behind the word's opcode and the word */
    if (!aml->overflow) {
        aml->bytes[data - 2] = (uint8_t)(aml->used - data);
        aml->bytes[data - 1] = (uint8_t)((aml->used - data) >> 8);
    }
    aml_close(aml, mark);
}
