/* SPDX-License-Identifier: MIT */
/*
 * Multiboot, version 0.6.96: a kernel with a header in its first 8 KiB, entered in flat 32-bit protected
 * mode with EAX = 2BADB002h and EBX at the boot information.
 */
#ifndef KAGE_MACHINE_MULTIBOOT_H
#define KAGE_MACHINE_MULTIBOOT_H

#include <stdbool.h>

#include "machine/boot.h"

/* Does the file have a multiboot header? */
bool multiboot_is(const struct boot_file *file);

/* -initrd names modules: "FILE [STRING],FILE [STRING],…". */
int multiboot_load(const struct ram *ram, const struct boot_file *file, const struct boot_request *request, struct vcpu_start *start,
                   struct error *error);

#endif
