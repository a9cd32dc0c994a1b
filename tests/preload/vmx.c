/* SPDX-License-Identifier: MIT */
/*
 * A client that asks the processor for VT-x (SVM on AMD's) before it opens the device, as kvmtool does. Status 0: it is there.
 * With an argument: the bytes of CPUID inside other instructions are still what they were.
 */
#include <cpuid.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static int has_virtualization(void)
{
    unsigned a, b, c, d;

    __cpuid(0, a, b, c, d);
    if (b == signature_INTEL_ebx) {
        __cpuid(1, a, b, c, d);
        return (c & 1u << 5) != 0;
    }
    __cpuid(0x80000001u, a, b, c, d);
    return (c & 1u << 2) != 0;
}

/* 0F A2 as an immediate, and as the end of one instruction with the beginning of the next. */
static int bytes_are_kept(void)
{
    uint32_t value;
    const uint8_t *pair;

    __asm__ volatile("movl $0x12a20f34, %0" : "=r"(value));
    /* mov $0xf, %al; mov %al, 0: not run */
    __asm__ volatile("jmp 1f; 2: .byte 0xb0, 0x0f, 0xa2; .quad 0; 1: leaq 2b(%%rip), %0" : "=r"(pair));
    return value == 0x12a20f34 && pair[1] == 0x0f && pair[2] == 0xa2;
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
        puts(bytes_are_kept() ? "bytes: kept" : "bytes: changed");
        return 0;
    }
    puts(has_virtualization() ? "virtualization: yes" : "virtualization: no");
    return 0;
}
