/* SPDX-License-Identifier: MIT */
/*
 * Port and memory-mapped I/O as the client sees it: exact sequences of accesses, read from the
 * runner's log; strings, faults inside REP, read-modify-write, page crossings; LOCK and alignment.
 */
#include "guest.h"

enum { OUT, IN, MWRITE, MREAD };
struct access {
    uint32_t kind, bytes, where;
    uint64_t data;
};

static void log_clear(void) { outl(PORT_LOG_CTRL, 0); }

static void log_check(const struct access *want, unsigned count, const char *name)
{
    bool ok = true;
    for (unsigned i = 0; i <= count; i++) {
        uint32_t w[4];
        for (unsigned j = 0; j < 4; j++)
            w[j] = inl(PORT_LOG_DATA);
        const bool end = w[0] == ~0u;
        if (i == count) {
            ok &= end;
            break;
        }
        const uint64_t data = w[2] | (uint64_t)w[3] << 32;
        if (end || w[0] != (want[i].kind | want[i].bytes << 8) || w[1] != want[i].where || data != want[i].data) {
            print("%s: access %u: got kind/bytes %x at %x data %lx, expected %x at %x data %lx\n", name, i, w[0], w[1],
                  data, want[i].kind | want[i].bytes << 8, want[i].where, want[i].data);
            ok = false;
            break;
        }
    }
    check(ok, name);
    log_clear();
}
#define LOG(name, ...)                                                                                                 \
    do {                                                                                                               \
        const struct access want_[] = {__VA_ARGS__};                                                                   \
        log_check(want_, ARRAY_SIZE(want_), name);                                                                     \
    } while (0)

static void ports(void)
{
    static uint8_t buf[16] = {1, 2, 3, 4, 5, 6, 7, 8};
    log_clear();
    outb(0x500, 0x12);
    outw(0x502, 0x3456);
    outl(0x504, 0x789abcde);
    LOG("out", {OUT, 1, 0x500, 0x12}, {OUT, 2, 0x502, 0x3456}, {OUT, 4, 0x504, 0x789abcde});
    uint64_t a = inb(0x500), b = inw(0x501), c = inl(0x502);
    LOG("in", {IN, 1, 0x500, 0x11}, {IN, 2, 0x501, 0x1212}, {IN, 4, 0x502, 0x13131313});
    check(a == 0x11 && b == 0x1212 && c == 0x13131313, "in-values");
    uint64_t rax = 0xaaaaaaaabbbbbbbbull;
    asm volatile("inb %%dx, %%al" : "+a"(rax) : "d"(0x500));
    check_eq(rax, 0xaaaaaaaabbbbbb11ull, "in-al-keeps-rest");
    asm volatile("inl %%dx, %%eax" : "+a"(rax) : "d"(0x500));
    check_eq(rax, 0x12121212, "in-eax-zero-extends");
    log_clear();
    const void *s = buf;
    uint64_t n = 4;
    asm volatile("rep outsb" : "+S"(s), "+c"(n) : "d"(0x500) : "memory");
    check(s == buf + 4 && n == 0, "rep-outsb-registers");
    LOG("rep-outsb", {OUT, 1, 0x500, 1}, {OUT, 1, 0x500, 2}, {OUT, 1, 0x500, 3}, {OUT, 1, 0x500, 4});
    void *d = buf;
    n = 2;
    asm volatile("rep insl" : "+D"(d), "+c"(n) : "d"(0x500) : "memory");
    check(d == buf + 8 && n == 0, "rep-insl-registers");
    check(*(volatile uint32_t *)buf == 0x11111111 && *(volatile uint32_t *)(buf + 4) == 0x12121212, "rep-insl-data");
    LOG("rep-insl", {IN, 4, 0x500, 0x11111111}, {IN, 4, 0x500, 0x12121212});
    n = 0;
    asm volatile("rep outsw" : "+S"(s), "+c"(n) : "d"(0x500) : "memory");
    check_eq(inl(PORT_LOG_DATA), ~0u, "rep-outsw-0");
    log_clear();
    s = buf + 3;
    n = 3;
    asm volatile("std; rep outsb; cld" : "+S"(s), "+c"(n) : "d"(0x500) : "memory");
    LOG("rep-outsb-down", {OUT, 1, 0x500, 0x11}, {OUT, 1, 0x500, 0x11}, {OUT, 1, 0x500, 0x11});
    /* a fault in the middle of REP INS: what was done stays, the registers say where */
    uint8_t *const page = (uint8_t *)table_alloc();
    map_page(TEST_VA, (uint64_t)page, PTE_P | PTE_W);
    map_page(TEST_VA + 0x1000, 0, 0);
    d = (void *)(TEST_VA + 0xffe);
    n = 5;
    check_eq(TRY("rep insb", : "+D"(d), "+c"(n) : "d"(0x500) : "memory"), PF, "rep-insb-fault");
    check(d == (void *)(TEST_VA + 0x1000) && n == 3, "rep-insb-fault-registers");
    check_eq(fault.cr2, TEST_VA + 0x1000, "rep-insb-fault-cr2");
    LOG("rep-insb-fault-log", {IN, 1, 0x500, 0x11}, {IN, 1, 0x500, 0x12});
}

static void strings(void)
{
    uint8_t *const src = (uint8_t *)table_alloc(), *const dst = (uint8_t *)table_alloc();
    for (unsigned i = 0; i < 64; i++)
        src[4096 - 64 + i] = (uint8_t)(i + 1);
    map_page(TEST_VA, (uint64_t)src, PTE_P | PTE_W);
    map_page(TEST_VA + 0x1000, 0, 0);
    const void *s = (void *)(TEST_VA + 0xff0);
    void *d = dst;
    uint64_t n = 32;
    check_eq(TRY("rep movsb", : "+S"(s), "+D"(d), "+c"(n)::"memory"), PF, "rep-movsb-fault");
    check(n == 16 && d == dst + 16 && s == (void *)(TEST_VA + 0x1000), "rep-movsb-fault-registers");
    check(!memcmp(dst, src + 0xff0, 16), "rep-movsb-fault-data");
    d = (void *)(TEST_VA + 0xff8);
    n = 4;
    check_eq(TRY("rep stosq", : "+D"(d), "+c"(n) : "a"(5ull) : "memory"), PF, "rep-stosq-fault");
    check(n == 3 && d == (void *)(TEST_VA + 0x1000), "rep-stosq-fault-registers");
    check_eq(fault.error, PF_W, "rep-stosq-fault-error");
    d = dst;
    n = 10;
    dst[4] = 0xee;
    asm volatile("repne scasb" : "+D"(d), "+c"(n) : "a"(0xee) : "memory", "cc");
    check(d == dst + 5 && n == 5, "repne-scasb");
    uint64_t old_n = 0;
    d = (void *)0x10;
    asm volatile("rep stosb" : "+D"(d), "+c"(old_n) : "a"(0) : "memory");
    check(d == (void *)0x10, "rep-count-0-touches-nothing");
    /* overlapping: a pattern fill */
    dst[0] = 0x5a;
    s = dst;
    d = dst + 1;
    n = 20;
    asm volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(n)::"memory");
    check(dst[20] == 0x5a && dst[10] == 0x5a, "rep-movsb-overlap");
    s = dst + 19;
    d = dst + 20;
    n = 20;
    for (unsigned i = 0; i < 20; i++)
        dst[i] = (uint8_t)i;
    asm volatile("std; rep movsb; cld" : "+S"(s), "+D"(d), "+c"(n)::"memory");
    check(dst[20] == 19 && dst[1] == 0, "rep-movsb-down");
}

static void mmio(void)
{
    volatile uint8_t *const m = (void *)MMIO_TEST;
    log_clear();
    *(volatile uint8_t *)(m + 1) = 0x12;
    *(volatile uint16_t *)(m + 2) = 0x3456;
    *(volatile uint32_t *)(m + 4) = 0x789abcde;
    *(volatile uint64_t *)(m + 8) = 0x1122334455667788ull;
    LOG("mmio-write", {MWRITE, 1, 1, 0x12}, {MWRITE, 2, 2, 0x3456}, {MWRITE, 4, 4, 0x789abcde}, {MWRITE, 8, 8, 0x1122334455667788ull});
    uint64_t v;
    asm volatile("movzbl 0x10(%1), %k0" : "=r"(v) : "r"(m));
    check_eq(v, 0x73, "mmio-read-1");
    asm volatile("movswq 0x10(%1), %0" : "=r"(v) : "r"(m));
    check_eq(v, 0x7a73, "mmio-read-2");
    asm volatile("mov 0x10(%1), %k0" : "=r"(v) : "r"(m));
    check_eq(v, 0x88817a73, "mmio-read-4");
    asm volatile("mov 0x10(%1), %0" : "=r"(v) : "r"(m));
    check_eq(v, 0xa49d968f88817a73ull, "mmio-read-8");
    LOG("mmio-read", {MREAD, 1, 0x10, 0x73}, {MREAD, 2, 0x10, 0x7a73}, {MREAD, 4, 0x10, 0x88817a73}, {MREAD, 8, 0x10, 0xa49d968f88817a73ull});
    asm volatile("addl $1, 0x10(%0)" ::"r"(m) : "memory", "cc");
    LOG("mmio-add", {MREAD, 4, 0x10, 0x88817a73}, {MWRITE, 4, 0x10, 0x88817a74});
    asm volatile("orb $0x80, 0x11(%0)" ::"r"(m) : "memory", "cc");
    LOG("mmio-or", {MREAD, 1, 0x11, 0x7a}, {MWRITE, 1, 0x11, 0xfa});
    v = 0x55;
    asm volatile("xchg %k0, 0x20(%1)" : "+r"(v) : "r"(m) : "memory");
    check_eq(v, 0xf8f1eae3, "mmio-xchg-value");
    LOG("mmio-xchg", {MREAD, 4, 0x20, 0xf8f1eae3}, {MWRITE, 4, 0x20, 0x55});
    bool zero;
    asm volatile("testb $4, 0x30(%1); setz %0" : "=qm"(zero) : "r"(m) : "cc");
    check(zero, "mmio-test-flags");
    LOG("mmio-test", {MREAD, 1, 0x30, 0x53});
    asm volatile("cmpl %%eax, 0x30(%1); setz %0" : "=qm"(zero) : "r"(m), "a"(0x68615a53) : "cc");
    LOG("mmio-cmp", {MREAD, 4, 0x30, 0x68615a53});
    log_clear();
    asm volatile("movq $0x11, 0x40(%0); movb $7, 0x48(%0)" ::"r"(m) : "memory");
    LOG("mmio-immediate", {MWRITE, 8, 0x40, 0x11}, {MWRITE, 1, 0x48, 7});
    /* strings */
    static uint32_t words[2] = {0xcafe0001, 0xcafe0002};
    const void *s = words;
    void *d = (void *)(MMIO_TEST + 0x50);
    uint64_t n = 2;
    asm volatile("rep movsl" : "+S"(s), "+D"(d), "+c"(n)::"memory");
    LOG("mmio-rep-movs-to", {MWRITE, 4, 0x50, 0xcafe0001}, {MWRITE, 4, 0x54, 0xcafe0002});
    d = (void *)(MMIO_TEST + 0x60);
    n = 2;
    asm volatile("rep stosw" : "+D"(d), "+c"(n) : "a"(0x1234) : "memory");
    LOG("mmio-rep-stos", {MWRITE, 2, 0x60, 0x1234}, {MWRITE, 2, 0x62, 0x1234});
    /* across RAM and MMIO: the page before the MMIO page is RAM */
    uint8_t *const page = (uint8_t *)table_alloc();
    map_page(TEST_VA, (uint64_t)page, PTE_P | PTE_W);
    map_page(TEST_VA + 0x1000, MMIO_TEST, PTE_P | PTE_W);
    log_clear();
    *(volatile uint32_t *)(TEST_VA + 0xffe) = 0x44332211;
    check_eq(*(volatile uint16_t *)(page + 0xffe), 0x2211, "crossing-write-ram-part");
    LOG("crossing-write", {MWRITE, 2, 0, 0x4433});
    v = *(volatile uint32_t *)(TEST_VA + 0xffe);
    check_eq(v, 0x0a032211, "crossing-read");
    LOG("crossing-read-log", {MREAD, 2, 0, 0x0a03});
    /* a load to SSE registers: 16 bytes come as two accesses of 8 */
    write_cr4(read_cr4() | CR4_OSFXSR);
    static uint64_t out[2] __attribute__((aligned(16)));
    asm volatile("movups 0x80(%1), %%xmm0; movups %%xmm0, %0" : "=m"(out) : "r"(m));
    uint64_t want[2];
    for (unsigned i = 0; i < 16; i++)
        ((uint8_t *)want)[i] = (uint8_t)((0x80 + i) * 7 + 3);
    check(!memcmp(out, want, 16), "mmio-sse-read");
    LOG("mmio-sse-read-log", {MREAD, 8, 0x80, want[0]}, {MREAD, 8, 0x88, want[1]});
    asm volatile("movups %%xmm0, 0x90(%0)" ::"r"(m) : "memory");
    LOG("mmio-sse-write", {MWRITE, 8, 0x90, want[0]}, {MWRITE, 8, 0x98, want[1]});
}

static uint64_t pair[4] __attribute__((aligned(16))) = {1, 2, 3, 4};

static void cmpxchg16b(void)
{
    uint64_t a = 1, d = 2;
    bool ok;
    if (!HAS_CX16) {
        skip("cmpxchg16b", "not in CPUID");
        return;
    }
    asm volatile("lock cmpxchg16b %0; setz %1" : "+m"(*(__int128 *)pair), "=qm"(ok), "+a"(a), "+d"(d) : "b"(10ull), "c"(20ull) : "cc");
    check(ok && pair[0] == 10 && pair[1] == 20, "cmpxchg16b");
    asm volatile("lock cmpxchg16b %0; setz %1" : "+m"(*(__int128 *)pair), "=qm"(ok), "+a"(a), "+d"(d) : "b"(11ull), "c"(21ull) : "cc");
    check(!ok && a == 10 && d == 20, "cmpxchg16b-fails");
    check_eq(TRY("cmpxchg16b (%0)", ::"r"((uint64_t)pair + 8) : "rax", "rdx", "memory"), GP, "cmpxchg16b-unaligned");
}

static void atomics(void)
{
    uint64_t v = 5;
    asm volatile("lock xadd %0, %1" : "+r"(v), "+m"(pair[2])::"cc");
    check(v == 3 && pair[2] == 8, "lock-xadd");
    asm volatile("lock btsq $60, %0" : "+m"(pair[2])::"cc");
    check_eq(pair[2], 1ull << 60 | 8, "lock-bts");
    uint8_t *const p = (uint8_t *)table_alloc(), *const q = (uint8_t *)table_alloc();
    map_page(TEST_VA, (uint64_t)q, PTE_P | PTE_W); /* two pages, not adjacent in memory */
    map_page(TEST_VA + 0x1000, (uint64_t)p, PTE_P | PTE_W);
    volatile uint64_t *const cross = (volatile uint64_t *)(TEST_VA + 0xffd);
    *cross = 0x1122334455667788ull;
    check_eq(*cross, 0x1122334455667788ull, "page-crossing");
    check_eq(p[0], 0x55, "page-crossing-second-page");
    check_eq(q[0xfff], 0x66, "page-crossing-first-page");
    asm volatile("lock addq $1, (%0)" ::"r"(cross) : "memory", "cc");
    check_eq(*cross, 0x1122334455667789ull, "page-crossing-lock");
    asm volatile("movq (%1), %0" : "=r"(v) : "r"((uint8_t *)pair + 3));
    check_eq(v, pair[0] >> 24 | pair[1] << 40, "unaligned");
    volatile uint32_t *const bits = (volatile uint32_t *)table_alloc();
    asm volatile("btsq %1, (%0)" ::"r"(bits), "r"(1000ull) : "memory", "cc");
    check_eq(bits[1000 / 32], 1u << (1000 % 32), "bts-beyond-operand");
    asm volatile("btsl %k1, 64(%0)" ::"r"(bits), "r"(-1) : "memory", "cc");
    check_eq(bits[15], 1u << 31, "bts-negative");
}

/* Argument: mask of parts. */
void test_main(void)
{
    static void (*const parts[])(void) = {ports, strings, mmio, atomics, cmpxchg16b};
    idt_set_ist(PF, 2);
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (!guest_arg || (guest_arg >> i & 1))
            parts[i]();
}
