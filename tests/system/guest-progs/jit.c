/* SPDX-License-Identifier: MIT */
/* Code made at run time: rewritten in place, under mprotect, through a second mapping, and across a page boundary. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

enum { PAGE = 4096 };

/* mov $value, %eax; ret */
static void emit(uint8_t *at, uint32_t value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static uint32_t call(const uint8_t *at)
{
    uint32_t (*fn)(void);
    memcpy(&fn, &at, sizeof fn);
    return fn();
}

static void test_in_place(uint8_t *code)
{
    for (uint32_t i = 0; i < 5000; i++) {
        emit(code, i * 3);
        CHECK(call(code) == i * 3);
    }
    /* Only the immediate changes, one byte at a time, and data on the same page is written too. */
    emit(code, 0);
    for (uint32_t i = 0; i < 256; i++) {
        code[1] = (uint8_t)i;
        code[2000] = (uint8_t)~i;
        CHECK(call(code) == i && code[2000] == (uint8_t)~i);
    }
}

static void test_protected(uint8_t *code)
{
    for (uint32_t i = 0; i < 300; i++) {
        CHECK(mprotect(code, PAGE, PROT_READ | PROT_WRITE) == 0);
        emit(code + i, 7 * i);
        CHECK(mprotect(code, PAGE, PROT_READ | PROT_EXEC) == 0);
        CHECK(call(code + i) == 7 * i);
    }
    mprotect(code, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static void test_alias(void)
{
    int fd = memfd_create("code", 0);
    CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
    uint8_t *writable = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *executable = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    CHECK(writable != MAP_FAILED && executable != MAP_FAILED);
    for (uint32_t i = 0; i < 2000; i++) {
        emit(writable, i);
        CHECK(call(executable) == i);
    }
}

static void test_across_pages(uint8_t *code)
{
    for (int split = 1; split < 6; split++) {
        uint8_t *at = code + PAGE - split;
        for (uint32_t i = 0; i < 200; i++) {
            emit(at, i << 16 | i);
            CHECK(call(at) == (i << 16 | i));
        }
    }
}

/* An instruction that changes the one after it: x86 needs no serializing jump on the same processor's next fetch. */
static void test_next_instruction(uint8_t *code)
{
    /* A jump between, as the manual asks (SDM 3A 9.1.3). */
#ifdef __x86_64__
    /* movb %dil, 1f+1(%rip) ; jmp 1f ; 1: mov $0, %eax ; ret */
    static const uint8_t text[] = {0x40, 0x88, 0x3d, 0x03, 0, 0, 0, 0xeb, 0x00, 0xb8, 0, 0, 0, 0, 0xc3};
    memcpy(code, text, sizeof text);
#else
    /* mov 4(%esp), %al ; mov %al, 1f+1 ; jmp 1f ; 1: mov $0, %eax ; ret */
    static const uint8_t text[] = {0x8a, 0x44, 0x24, 0x04, 0xa2, 0, 0, 0, 0, 0xeb, 0x00, 0xb8, 0, 0, 0, 0, 0xc3};
    uint32_t immediate = (uintptr_t)code + 12;
    memcpy(code, text, sizeof text);
    memcpy(code + 5, &immediate, 4);
#endif
    for (unsigned i = 0; i < 500; i++) {
        uint32_t (*fn)(unsigned);
        memcpy(&fn, &code, sizeof fn);
        CHECK(fn(i & 0xff) == (i & 0xff));
    }
}

int main(void)
{
    uint8_t *code = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(code != MAP_FAILED);
    test_in_place(code);
    test_protected(code);
    test_alias();
    test_across_pages(code);
    test_next_instruction(code);
    return check_done("jit");
}
