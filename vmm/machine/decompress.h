/* SPDX-License-Identifier: MIT */
/*
 * Decompression of kernel payloads (gzip, xz, lz4 as Linux packs it, zstd), straight to where the
 * caller wants the bytes.
 */
#ifndef KAGE_MACHINE_DECOMPRESS_H
#define KAGE_MACHINE_DECOMPRESS_H

#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* Names the format of `in`, or NULL if it is none of ours. */
const char *decompress_format(const uint8_t *in, size_t in_bytes);

/*
 * Writes at most `room` bytes to `out`; `*out_bytes` says how many. Bytes behind the compressed stream
 * (Linux appends the size) are ignored. A stream that is damaged, ends early or does not fit fails.
 */
int decompress(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room, size_t *out_bytes, struct error *error);

#endif
