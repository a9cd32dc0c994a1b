/* SPDX-License-Identifier: MIT */
/*
 * State of a case: the memory that it starts from, and the vector state in a layout that does not
 * depend on the host. What runs here also runs in the host side's signal handler: no libc calls
 * past diff_state_init(), because FS base is the case's there.
 */
#include "diff.h"

#include <cpuid.h>
#include <stdlib.h>

#define XSTATE_SSE_AND_X87 3u
#define XSAVE_HEADER 512
#define MXCSR_OFFSET 24
#define MXCSR_DEFAULT 0x1f80u
#define FCW_DEFAULT 0x37fu

/* State components beyond the legacy area (SDM 1 13.4.1). */
static const struct {
    unsigned bit;
    uint32_t member, size;
} components[] = {
    {2, offsetof(struct diff_vector, ymmh), sizeof(((struct diff_vector *)0)->ymmh)},
    {5, offsetof(struct diff_vector, k), sizeof(((struct diff_vector *)0)->k)},
    {6, offsetof(struct diff_vector, zmmh), sizeof(((struct diff_vector *)0)->zmmh)},
    {7, offsetof(struct diff_vector, hi16), sizeof(((struct diff_vector *)0)->hi16)},
};
#define COMPONENTS (sizeof(components) / sizeof(components[0]))

uint8_t (*diff_templates)[DIFF_DATA_BYTES];
static uint32_t component_offset[COMPONENTS];
static uint64_t host_xcr0;
static uint64_t random_state = 1;

/* splitmix64 */
uint64_t diff_random(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* Seeds next to each other must not give streams that are each other's shifted: hash twice. */
void diff_random_seed(uint64_t seed)
{
    random_state = seed;
    random_state = diff_random() ^ 0xda942042e4dd58b5ull;
    random_state = diff_random();
}

void diff_copy(void *dst, const void *src, size_t len)
{
    __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(len) : : "memory");
}

static void fill(void *dst, uint8_t value, size_t len)
{
    __asm__ volatile("rep stosb" : "+D"(dst), "+c"(len) : "a"(value) : "memory");
}

uint64_t diff_host_xcr0(void)
{
    return host_xcr0;
}

static uint64_t template_cell(void)
{
    static const uint64_t special[] = {
        0, ~0ull, 1, 0x8000000000000000ull, 0x7fffffffffffffffull, 0x3ff0000000000000ull, 0xbff8000000000000ull,
        0x7ff0000000000000ull, 0x7ff8000000000001ull, 0x7ff0000000000001ull, 0x0000000000000001ull, 0x000fffffffffffffull,
        0x3f8000003fc00000ull, 0x7f800000ff800000ull, 0x7fc000017f800001ull, 0x0000000180000001ull, 0x4130000000000000ull,
        0x4b0000004f000000ull, 0x3c00bc007c00fe01ull, 0x0000000000003fffull, 0x8000000000007fffull,
    };
    uint64_t r = diff_random();

    switch (r & 7) {
    case 0:
    case 1:
        return special[(r >> 8) % (sizeof(special) / sizeof(special[0]))];
    case 2:
        return (r >> 8) & 0xff;
    case 3: /* two floats of moderate size */
        return (diff_random() & 0x83ffffff83ffffffull) | 0x3c0000003c000000ull;
    case 4: /* a double of moderate size */
        return (diff_random() & 0x803fffffffffffffull) | 0x3fc0000000000000ull;
    case 5:
        return DIFF_DATA + ((r >> 8) % DIFF_DATA_RW_BYTES);
    default:
        return diff_random();
    }
}

int diff_state_init(uint64_t seed)
{
    unsigned a, b, c, d;

    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE)) {
        uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        host_xcr0 = (uint64_t)high << 32 | low;
    }
    for (size_t i = 0; i < COMPONENTS; i++)
        if (((host_xcr0 >> components[i].bit) & 1) && __get_cpuid_count(0xd, components[i].bit, &a, &b, &c, &d))
            component_offset[i] = b;

    diff_templates = malloc(DIFF_TEMPLATES * sizeof(*diff_templates));
    if (!diff_templates)
        return -1;
    diff_random_seed(seed ^ 0x6d656d6f7279ull);
    for (size_t t = 0; t < DIFF_TEMPLATES; t++)
        for (size_t i = 0; i < DIFF_DATA_BYTES; i += 8) {
            uint64_t cell = template_cell();
            /* the read-only page is the same in all */
            if (t > 0 && i >= DIFF_DATA_RW_BYTES)
                diff_copy(&cell, &diff_templates[0][i], 8);
            diff_copy(&diff_templates[t][i], &cell, 8);
        }
    return 0;
}

void diff_vector_from_xsave(struct diff_vector *vec, const uint8_t *xsave)
{
    uint64_t present;

    diff_copy(&present, xsave + XSAVE_HEADER, 8);
    fill(vec, 0, sizeof(*vec));
    diff_copy(vec->fx, xsave, 416);
    if (!(present & 1)) {
        uint16_t fcw = FCW_DEFAULT;
        fill(vec->fx, 0, MXCSR_OFFSET);
        fill(vec->fx + 32, 0, 128);
        diff_copy(vec->fx, &fcw, 2);
    }
    if (!(present & 2))
        fill(vec->fx + 160, 0, 256);
    for (size_t i = 0; i < COMPONENTS; i++)
        if (component_offset[i] && ((present >> components[i].bit) & 1))
            diff_copy((uint8_t *)vec + components[i].member, xsave + component_offset[i], components[i].size);
}

void diff_vector_to_xsave(const struct diff_vector *vec, uint8_t *xsave)
{
    uint64_t present = XSTATE_SSE_AND_X87;

    diff_copy(xsave, vec->fx, 416);
    for (size_t i = 0; i < COMPONENTS; i++)
        if (component_offset[i]) {
            diff_copy(xsave + component_offset[i], (const uint8_t *)vec + components[i].member, components[i].size);
            present |= 1ull << components[i].bit;
        }
    diff_copy(xsave + XSAVE_HEADER, &present, 8);
}

void diff_case_memory(const struct diff_case *c, uint8_t *mem)
{
    diff_copy(mem, diff_templates[c->mem_template % DIFF_TEMPLATES], DIFF_DATA_RW_BYTES);
    for (size_t i = 0; i < DIFF_PATCHES; i++)
        if (c->patch[i].size)
            diff_copy(mem + c->patch[i].offset, &c->patch[i].value, c->patch[i].size);
}

void diff_case_window(const struct diff_case *c, uint8_t window[DIFF_WINDOW_BYTES])
{
    fill(window, 0xcc, DIFF_WINDOW_BYTES);
    diff_copy(window + c->code_off, c->code, c->code_len);
}
