/* SPDX-License-Identifier: MIT */
/* An input that is taken piece by piece. */
#ifndef KAGE_TESTS_FUZZ_INPUT_H
#define KAGE_TESTS_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct input {
    const uint8_t *at;
    size_t left;
};

/* Up to 8, little-endian; zeroes behind the end. */
static inline uint64_t take(struct input *input, unsigned bytes)
{
    uint64_t value = 0;
    bytes = bytes < input->left ? bytes : (unsigned)input->left;
    memcpy(&value, input->at, bytes);
    input->at += bytes;
    input->left -= bytes;
    return value;
}

#endif
