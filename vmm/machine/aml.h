/* SPDX-License-Identifier: MIT */
/*
 * A writer of ACPI Machine Language (ACPI 6.4, chapter 20): just the terms that our boards use, into a
 * buffer of fixed size. Packages nest by aml_open()/aml_close(); a buffer that overflows is remembered
 * and nothing is written past it.
 */
#ifndef KAGE_MACHINE_AML_H
#define KAGE_MACHINE_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
    uint8_t *bytes;
    size_t room;
    size_t used;
    bool overflow;
};

void aml_init(struct aml *aml, uint8_t *bytes, size_t room);
void aml_raw(struct aml *aml, const void *bytes, size_t count);
void aml_byte(struct aml *aml, uint8_t value);

/* Name (NAME, ...): what is written next is its value. `name` has four characters, perhaps after a '\'. */
void aml_name(struct aml *aml, const char *name);
void aml_integer(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
/* A compressed EISA id, as of "PNP0501". */
void aml_eisa_id(struct aml *aml, const char *id);

/* Terms with a package length. Each returns a mark for aml_close(). */
size_t aml_open_scope(struct aml *aml, const char *name);
size_t aml_open_device(struct aml *aml, const char *name);
size_t aml_open_package(struct aml *aml, uint8_t elements);
/* A method that is not serialized; its terms are aml_raw()'s. */
size_t aml_open_method(struct aml *aml, const char *name, uint8_t arguments);
void aml_close(struct aml *aml, size_t mark);

/* A resource template; descriptors come between the two. */
size_t aml_open_resources(struct aml *aml);
void aml_io(struct aml *aml, uint16_t port, uint8_t count);
/* What a bridge forwards: bus numbers, ports, memory below 4 GiB and anywhere; last included. */
void aml_bus_numbers(struct aml *aml, uint16_t first, uint16_t last);
void aml_io_window(struct aml *aml, uint16_t first, uint16_t last);
void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last);
void aml_memory_window64(struct aml *aml, uint64_t first, uint64_t last);
void aml_irq(struct aml *aml, uint8_t irq);
/* A device's registers in memory, and a level-triggered, active-high interrupt of the I/O APIC. */
void aml_memory(struct aml *aml, uint32_t first, uint32_t bytes);
void aml_gsi(struct aml *aml, uint32_t gsi);
void aml_close_resources(struct aml *aml, size_t mark);

#endif
