/* SPDX-License-Identifier: MIT */
/* User compute: what a translator does best and worst at. Each is a fixed amount of work. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* One input file for sha256sum and gzip: 8 MiB of text-like bytes, made once. */
static const char *input_file(void)
{
    static const char path[] = "/tmp/kage-bench.input";
    static char chunk[1 << 16];
    uint64_t seed = 99;

    if (access(path, R_OK) == 0)
        return path;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        return NULL;
    for (int i = 0; i < 128; i++) {
        for (size_t k = 0; k < sizeof chunk; k++) {
            uint64_t r = random_next(&seed);
            chunk[k] = (char)((r & 7) == 0 ? ' ' : "etaoinshrdlucmfw"[(r >> 8) & (r >> 13) & 15]);
        }
        if (write(fd, chunk, sizeof chunk) != (ssize_t)sizeof chunk) {
            close(fd);
            unlink(path);
            return NULL;
        }
    }
    close(fd);
    return path;
}

static uint64_t run_shell(uint64_t rounds)
{
    const char *const argv[] = {"busybox", "sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done", NULL};
    for (uint64_t i = 0; i < rounds; i++)
        if (!bench_spawn(argv))
            return 0;
    return 1;
}

static uint64_t run_sha256(uint64_t rounds)
{
    const char *const argv[] = {"busybox", "sha256sum", input_file(), NULL};
    for (uint64_t i = 0; i < rounds; i++)
        if (!argv[2] || !bench_spawn(argv))
            return 0;
    return 1;
}

static uint64_t run_gzip(uint64_t rounds)
{
    const char *const argv[] = {"busybox", "gzip", "-9", "-c", input_file(), NULL};
    for (uint64_t i = 0; i < rounds; i++)
        if (!argv[4] || !bench_spawn(argv))
            return 0;
    return 1;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

uint64_t bench_qsort(uint64_t rounds)
{
    const size_t count = 300000;
    uint64_t *words = malloc(count * 8), seed = 12345, check = 1;

    if (!words)
        return 0;
    for (uint64_t i = 0; i < rounds; i++) {
        for (size_t k = 0; k < count; k++)
            words[k] = random_next(&seed);
        qsort(words, count, 8, compare);
        check = check * 31 + words[count / 3];
    }
    free(words);
    return check | 1;
}

static double left[256][256], right[256][256], product[256][256];

static uint64_t run_matrix(uint64_t rounds)
{
    uint64_t bits;
    for (int i = 0; i < 256; i++)
        for (int k = 0; k < 256; k++)
            left[i][k] = i * 0.5 + k, right[i][k] = i - k * 0.25;
    for (uint64_t n = 0; n < rounds; n++) {
        memset(product, 0, sizeof product);
        for (int i = 0; i < 256; i++)
            for (int k = 0; k < 256; k++)
                for (int j = 0; j < 256; j++)
                    product[i][j] += left[i][k] * right[k][j];
        left[0][0] = product[17][31] * 1e-9;
    }
    memcpy(&bits, &product[255][200], 8);
    return bits | 1;
}

/* A bytecode interpreter that calls each operation through a table: one indirect call and return an operation. */
struct machine {
    uint64_t a, b, counter;
    const uint8_t *pc;
};
static void op_add(struct machine *m) { m->a += m->b; }
static void op_xor(struct machine *m) { m->a ^= m->counter; }
static void op_rotate(struct machine *m) { m->a = m->a << 7 | m->a >> 57; }
static void op_swap(struct machine *m)
{
    uint64_t t = m->a;
    m->a = m->b;
    m->b = t;
}
static void op_multiply(struct machine *m) { m->b = m->b * 6364136223846793005ull + 1; }
static void op_loop(struct machine *m)
{
    static const uint8_t *const start = (const uint8_t *)"\0\1\2\3\4\1\0\2\4\3\0\5";
    m->pc = start;
    m->counter--;
}
static void (*const ops[])(struct machine *) = {op_add, op_xor, op_rotate, op_swap, op_multiply, op_loop};

uint64_t bench_interpreter(uint64_t rounds)
{
    struct machine m = {.a = 1, .b = 2, .counter = rounds};
    op_loop(&m);
    m.counter = rounds;
    while (m.counter > 0)
        ops[*m.pc++](&m);
    return (m.a ^ m.b) | 1;
}

uint64_t bench_chase(uint64_t rounds)
{
    const size_t count = 1u << 20; /* 8 MiB of indices in one random cycle (Sattolo) */
    uint64_t *next = mmap(NULL, count * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t seed = 777, at = 0;

    if (next == MAP_FAILED)
        return 0;
    for (size_t i = 0; i < count; i++)
        next[i] = i;
    for (size_t i = count - 1; i > 0; i--) {
        size_t k = (size_t)(random_next(&seed) % i);
        uint64_t t = next[i];
        next[i] = next[k];
        next[k] = t;
    }
    for (uint64_t i = 0; i < rounds; i++)
        at = next[at];
    munmap(next, count * 8);
    return at + 1;
}

const struct bench bench_compute[] = {
    {"shell-loop", "200000 turns", 1, run_shell},
    {"sha256sum", "8 MiB", 2, run_sha256},
    {"gzip-9", "8 MiB", 1, run_gzip},
    {"qsort", "300000 words", 5, bench_qsort},
    {"matrix", "256x256 double", 10, run_matrix},
    {"interpreter", "12 indirect calls", 2000000, bench_interpreter},
    {"pointer-chase", "load", 5000000, bench_chase},
    {0},
};
