/* SPDX-License-Identifier: MIT */
/*
 * Where things stand in guest-physical memory that a loader or the firmware tables put there. All of
 * it below 640 KiB is free for the kernel once it has taken what it needs.
 */
#ifndef KAGE_MACHINE_LAYOUT_H
#define KAGE_MACHINE_LAYOUT_H

#define LAYOUT_GDT_GPA 0x500u
#define LAYOUT_TSS_GPA 0x600u
#define LAYOUT_START_INFO_GPA 0x6000u /* PVH: start info, module list, memory map */
#define LAYOUT_ZERO_PAGE_GPA 0x7000u  /* Linux boot_params */
#define LAYOUT_PAGE_TABLES_GPA 0x9000u /* seven pages */
#define LAYOUT_STACK_GPA 0x8ff0u
#define LAYOUT_CMDLINE_GPA 0x20000u
#define LAYOUT_CMDLINE_BYTES 0x10000u
#define LAYOUT_LOW_END_GPA 0x9fc00u /* end of usable conventional memory */
#define LAYOUT_ACPI_GPA 0xe0000u
#define LAYOUT_ACPI_BYTES 0x20000u
#define LAYOUT_KERNEL_GPA 0x100000u /* nothing of a kernel may lie below */

#define LAYOUT_LAPIC_GPA 0xfee00000u
#define LAYOUT_IOAPIC_GPA 0xfec00000u
/* Four pages that Intel's real-mode emulation wants, below the largest firmware. */
#define LAYOUT_IDENTITY_MAP_GPA 0xfeffc000u
#define LAYOUT_TSS_ADDR_GPA 0xfeffd000u

#endif
