/* SPDX-License-Identifier: MIT */
/*
 * What only 32-bit programs do: every way into the kernel, segments with bases and limits of their own, 16-bit code and
 * stacks, instructions that 64-bit code lost, and 64-bit code called from 32-bit code where the kernel has it.
 */
#include <asm/ldt.h>
#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "check.h"

#ifndef __i386__
#error "segments.c is for 32-bit code"
#endif

enum { PAGE = 4096 };

/* Entries of the LDT, and their selectors: TI and RPL 3. */
enum { ENTRY_DATA, ENTRY_DOWN, ENTRY_READ_ONLY, ENTRY_CODE32, ENTRY_CODE16, ENTRY_STACK16, ENTRY_ABSENT };
#define LDT_SELECTOR(entry) ((unsigned)((entry) << 3 | 7))

static sigjmp_buf back;
static volatile int last_signal, last_code;
static uint16_t user_ds, user_es;

static void handle(int number, siginfo_t *info, void *context)
{
    (void)context;
    /* A signal handler starts with the flat segments, whatever was in the registers. */
    last_signal = number;
    last_code = info->si_code;
    siglongjmp(back, 1);
}

/* An instruction, with its operands as asm() takes them, that must end in the signal. */
#define FAULTS(number, ...)                                                                                            \
    do {                                                                                                               \
        last_signal = 0;                                                                                               \
        if (!sigsetjmp(back, 1)) {                                                                                     \
            __asm__ volatile(__VA_ARGS__);                                                                             \
            FAIL(#__VA_ARGS__ " went through");                                                                        \
        }                                                                                                              \
        __asm__ volatile("mov %0, %%ds; mov %1, %%es" ::"m"(user_ds), "m"(user_es));                                   \
        CHECK(last_signal == (number));                                                                                \
    } while (0)

/* ---- system calls ---- */

enum way { WAY_INT80, WAY_VSYSCALL, WAY_SYSENTER, WAY_SYSCALL, WAYS };
static const char *const way_names[] = {"int 0x80", "vsyscall", "sysenter", "syscall"};

/* Arguments as the kernel's entries want them; SYSENTER and SYSCALL come back in the vDSO, which pops and returns. */
#define WITH_FRAME(text)                                                                                               \
    "push %%ebp; mov 24(%%eax), %%ebp; push $1f; push %%ecx; push %%edx; push %%ebp\n\t"                               \
    "mov (%%eax), %%eax\n\t" text "; ud2\n1: pop %%ebp"

__asm__(".local vsyscall_entry\n.comm vsyscall_entry, 4, 4");
extern uintptr_t vsyscall_entry;

static long system_call(enum way way, long number, long a, long b, long c, long d, long e, long f)
{
    long in[7] = {number, a, b, c, d, e, f}, result = (long)in;

    switch (way) {
    case WAY_INT80:
        __asm__ volatile("push %%ebp; mov 24(%%eax), %%ebp; mov (%%eax), %%eax; int $0x80; pop %%ebp"
                         : "+a"(result)
                         : "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                         : "memory");
        break;
    case WAY_VSYSCALL:
        __asm__ volatile("push %%ebp; push vsyscall_entry; mov 24(%%eax), %%ebp; mov (%%eax), %%eax; call *(%%esp); pop %%ecx; pop %%ebp"
                         : "+a"(result), "+c"(b)
                         : "b"(a), "d"(c), "S"(d), "D"(e)
                         : "memory");
        break;
    case WAY_SYSENTER:
        __asm__ volatile(WITH_FRAME("mov %%esp, %%ebp; sysenter")
                         : "+a"(result), "+c"(b), "+d"(c)
                         : "b"(a), "S"(d), "D"(e)
                         : "memory");
        break;
    default:
        __asm__ volatile(WITH_FRAME("mov %%ecx, %%ebp; syscall")
                         : "+a"(result), "+c"(b), "+d"(c)
                         : "b"(a), "S"(d), "D"(e)
                         : "memory");
        break;
    }
    return result;
}

static bool kernel_is_64(void)
{
    struct utsname name;
    return uname(&name) == 0 && !strcmp(name.machine, "x86_64");
}

/* Which of the two the processor has here: AMD's lack SYSENTER in long mode, Intel's SYSCALL outside 64-bit code. */
static bool way_exists(enum way way)
{
    unsigned a, b = 0, c, d;

    __cpuid(0, a, b, c, d);
    bool amd = b == signature_AMD_ebx || b == 0x6f677948 /* HygonGenuine */;
    switch (way) {
    case WAY_SYSENTER: return !(kernel_is_64() && amd);
    case WAY_SYSCALL: return kernel_is_64() && amd; /* a 32-bit kernel leaves EFER.SCE off */
    default: return true;
    }
}

static void test_system_calls(void)
{
    static int fd; /* survives siglongjmp */

    vsyscall_entry = getauxval(AT_SYSINFO);
    CHECK(vsyscall_entry != 0);
    fd = memfd_create("words", 0);
    CHECK(fd >= 0 && ftruncate(fd, 3 * PAGE) == 0 && pwrite(fd, "page two", 8, 2 * PAGE) == 8);
    for (volatile enum way way = 0; way < WAYS; way++) {
        if (!way_exists(way)) {
            last_signal = 0;
            if (!sigsetjmp(back, 1)) {
                system_call(way, SYS_getpid, 0, 0, 0, 0, 0, 0);
            }
            CHECK(last_signal == SIGILL);
            continue;
        }
        printf("segments: %s\n", way_names[way]);
        for (int i = 0; i < 2000; i++)
            CHECK(system_call(way, SYS_getpid, 0, 0, 0, 0, 0, 0) == getpid());
        CHECK(system_call(way, SYS_close, -1, 0, 0, 0, 0, 0) == -EBADF);
        CHECK(system_call(way, 100000, 1, 2, 3, 4, 5, 6) == -ENOSYS);
        /* All six arguments matter to mmap2; the last is in EBP. */
        char *page = (char *)system_call(way, SYS_mmap2, 0, PAGE, PROT_READ, MAP_SHARED, fd, 2);
        CHECK(page != MAP_FAILED && (uintptr_t)page < -4096u && !memcmp(page, "page two", 8));
        CHECK(system_call(way, SYS_munmap, (long)page, PAGE, 0, 0, 0, 0) == 0);
    }
    close(fd);
}

/* ---- segments of the LDT ---- */

struct segment {
    unsigned entry;
    unsigned base;
    unsigned limit;
    unsigned contents; /* 0 data, 1 expand-down data, 2 code */
    unsigned is_32 : 1, read_only : 1, absent : 1, pages : 1;
};

static bool set_segment(struct segment s)
{
    struct user_desc d = {
        .entry_number = s.entry,
        .base_addr = s.base,
        .limit = s.limit,
        .seg_32bit = s.is_32,
        .contents = s.contents & 3,
        .read_exec_only = s.read_only,
        .limit_in_pages = s.pages,
        .seg_not_present = s.absent,
        .useable = 1,
    };
    return syscall(SYS_modify_ldt, 0x11, &d, sizeof d) == 0;
}

static void test_data_segments(uint8_t *page)
{
    uint32_t got = 0;
    unsigned limit = 0, rights = 0;
    bool equal = false;

    memset(page, 0, 2 * PAGE);
    memcpy(page + 100, "\x78\x56\x34\x12", 4);
    CHECK(set_segment((struct segment){ENTRY_DATA, (uintptr_t)page, 103, 0, true}));
    __asm__ volatile("mov %1, %%fs; movl %%fs:100, %0; movl %0, %%fs:4" : "=&r"(got) : "r"(LDT_SELECTOR(ENTRY_DATA)) : "memory");
    CHECK(got == 0x12345678 && page[4] == 0x78);
    /* One byte beyond the limit, wholly beyond it, and a wrap around the segment's end. */
    FAULTS(SIGSEGV, "movl %%fs:101, %%eax" ::: "eax");
    CHECK(last_code == SI_KERNEL);
    FAULTS(SIGSEGV, "movb $1, %%fs:104" ::: "memory");
    FAULTS(SIGSEGV, "movl %%fs:-2, %%eax" ::: "eax");
    __asm__ volatile("mov %1, %%fs; movb %%fs:103, %b0" : "=&q"(got) : "r"(LDT_SELECTOR(ENTRY_DATA)));
    CHECK((got & 0xff) == 0x12);
    /* The string instructions go to ES. */
    __asm__ volatile("push %%es; mov %0, %%es; cld; rep stosb; pop %%es"
                     :
                     : "r"(LDT_SELECTOR(ENTRY_DATA)), "D"(10), "c"(94), "a"(0x5a)
                     : "memory");
    FAULTS(SIGSEGV, "mov %0, %%es; cld; rep stosb" ::"r"(LDT_SELECTOR(ENTRY_DATA)), "D"(10), "c"(95), "a"(0x6b) : "memory");
    CHECK(page[9] == 0 && page[10] == 0x6b && page[103] == 0x6b && page[104] == 0);

    __asm__ volatile("lsl %1, %0" : "=r"(limit) : "r"(LDT_SELECTOR(ENTRY_DATA)));
    __asm__ volatile("lar %1, %0" : "=r"(rights) : "r"(LDT_SELECTOR(ENTRY_DATA)));
    CHECK(limit == 103 && (rights & 0x00e0ff00) == 0x0040f300); /* present, DPL 3, writable, accessed; B */
    __asm__ volatile("verw %w1" : "=@ccz"(equal) : "r"(LDT_SELECTOR(ENTRY_DATA)));
    CHECK(equal);

    CHECK(set_segment((struct segment){ENTRY_READ_ONLY, (uintptr_t)page, 1, 0, true, true, false, true}));
    __asm__ volatile("mov %1, %%fs; movb %%fs:103, %b0" : "=&q"(got) : "r"(LDT_SELECTOR(ENTRY_READ_ONLY)));
    CHECK((got & 0xff) == 0x6b);
    FAULTS(SIGSEGV, "movb $1, %%fs:3" ::: "memory");
    __asm__ volatile("lsl %1, %0" : "=r"(limit) : "r"(LDT_SELECTOR(ENTRY_READ_ONLY)));
    CHECK(limit == 2 * PAGE - 1);
    __asm__ volatile("verw %w1" : "=@ccz"(equal) : "r"(LDT_SELECTOR(ENTRY_READ_ONLY)));
    CHECK(!equal);

    /* Expand down: what is above the limit is the segment. */
    CHECK(set_segment((struct segment){ENTRY_DOWN, (uintptr_t)page, 199, 1, true}));
    __asm__ volatile("mov %0, %%fs; movb $0x77, %%fs:200" ::"r"(LDT_SELECTOR(ENTRY_DOWN)) : "memory");
    CHECK(page[200] == 0x77);
    FAULTS(SIGSEGV, "movb $1, %%fs:199" ::: "memory");
    FAULTS(SIGSEGV, "movw $1, %%fs:199" ::: "memory");

    CHECK(set_segment((struct segment){ENTRY_ABSENT, 0, 100, 0, true, false, true}));
    FAULTS(SIGBUS, "mov %0, %%fs" ::"r"(LDT_SELECTOR(ENTRY_ABSENT)));
    FAULTS(SIGSEGV, "mov %0, %%ss" ::"r"(LDT_SELECTOR(ENTRY_READ_ONLY)));
    FAULTS(SIGSEGV, "mov %0, %%fs" ::"r"(LDT_SELECTOR(50)));
    /* A null selector loads, and faults when it is used. */
    FAULTS(SIGSEGV, "mov %0, %%fs; movb %%fs:0, %%al" ::"r"(0) : "eax");
}

static void test_far_calls(uint8_t *page)
{
    struct { uint32_t offset; uint16_t selector; } __attribute__((packed)) far;
    uint32_t a = 0;

    /* add $5, %eax ; push %cs ; pop %edx ; lret   -- at offset 16 of its segment */
    static const uint8_t code32[] = {0x83, 0xc0, 0x05, 0x0e, 0x5a, 0xcb};
    memcpy(page + 16, code32, sizeof code32);
    CHECK(set_segment((struct segment){ENTRY_CODE32, (uintptr_t)page, 16 + sizeof code32 - 1, 2, true}));
    far.offset = 16, far.selector = (uint16_t)LDT_SELECTOR(ENTRY_CODE32);
    uint32_t d = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        a = i;
        __asm__ volatile("lcall *%2" : "+a"(a), "=&d"(d) : "m"(far) : "memory");
        CHECK(a == i + 5 && (d & 0xffff) == far.selector);
    }
    /* Running off the end of a code segment: the limit cuts the RET off. */
    CHECK(set_segment((struct segment){ENTRY_CODE32, (uintptr_t)page, 16 + sizeof code32 - 2, 2, true}));
    FAULTS(SIGSEGV, "lcall *%0" ::"m"(far) : "eax", "edx", "memory");
    /* A data segment is nowhere to call. */
    far.selector = (uint16_t)LDT_SELECTOR(ENTRY_DATA);
    FAULTS(SIGSEGV, "lcall *%0" ::"m"(far) : "eax", "edx", "memory");

    /* 16-bit code: add $0x8001, %ax ; mov %cs:0x40, %bx ; o32 lret */
    static const uint8_t code16[] = {0x05, 0x01, 0x80, 0x2e, 0x8b, 0x1e, 0x40, 0x00, 0x66, 0xcb};
    memcpy(page + 32, code16, sizeof code16);
    memcpy(page + 0x40, "\xef\xbe", 2);
    if (!set_segment((struct segment){ENTRY_CODE16, (uintptr_t)page, 0xfff, 2, false})) {
        printf("segments: this kernel has no 16-bit segments\n");
        return;
    }
    far.offset = 32, far.selector = (uint16_t)LDT_SELECTOR(ENTRY_CODE16);
    uint32_t b = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        a = 0x12340000 + i, b = 0x55550000;
        __asm__ volatile("lcall *%2" : "+a"(a), "+b"(b) : "m"(far) : "memory");
        CHECK(a == 0x12340000 + ((i + 0x8001) & 0xffff) && b == 0x5555beef);
    }
    /*
     * A 16-bit stack: pushes move SP alone, and a system call must bring back all of ESP (the kernel's ESPFIX,
     * since IRET to such a stack restores SP alone).
     */
    CHECK(set_segment((struct segment){ENTRY_STACK16, (uintptr_t)page, 0x1fff, 0, false}));
    uint32_t high = 0, low = 0;
    __asm__ volatile("mov %%ss, %%ecx; mov %%esp, %%edx\n\t"
                     "mov %2, %%ss; mov $0x56781ff0, %%esp\n\t"
                     "pushl $0x11223344; mov %%esp, %1\n\t"
                     "push %%ecx; push %%edx; mov $20, %%eax; int $0x80; pop %%edx; pop %%ecx\n\t"
                     "mov %%esp, %0; mov %%ecx, %%ss; mov %%edx, %%esp"
                     : "=&S"(high), "=&D"(low)
                     : "b"(LDT_SELECTOR(ENTRY_STACK16))
                     : "eax", "ecx", "edx", "memory");
    CHECK(low == 0x56781fec && high == 0x56781fec && !memcmp(page + 0x1fec, "\x44\x33\x22\x11", 4));
}

/* ---- 64-bit code, and back ---- */

static void test_64bit_code(uint8_t *page)
{
    if (!kernel_is_64()) {
        return;
    }
    /* mov $0x123456789abcdef0, %r9 ; add %r9, %rax ; bswap %rax ; mov %rax, %rdx ; shr $32, %rdx ; lret (32-bit operands) */
    static const uint8_t code64[] = {0x49, 0xb9, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 0x4c, 0x01, 0xc8,
                                     0x48, 0x0f, 0xc8, 0x48, 0x89, 0xc2, 0x48, 0xc1, 0xea, 0x20, 0xcb};
    struct { uint32_t offset; uint16_t selector; } __attribute__((packed)) far = {(uintptr_t)page + 512, 0x33};
    memcpy(page + 512, code64, sizeof code64);
    for (uint32_t i = 0; i < 1000; i++) {
        uint32_t a = i, d = 0;
        __asm__ volatile("lcall *%2" : "+a"(a), "=&d"(d) : "m"(far) : "memory", "cc");
        uint64_t sum = __builtin_bswap64(0x123456789abcdef0ull + i);
        CHECK(a == (uint32_t)sum && d == (uint32_t)(sum >> 32));
    }
}

/* ---- instructions that 64-bit code lost ---- */

static void test_old_instructions(void)
{
    static const int32_t bounds[2] = {-5, 10};
    uint32_t a, b;

    a = 0x79; /* BCD: 79 + 35 = 114 */
    __asm__ volatile("clc; add $0x35, %b0; daa; setc %h0" : "+a"(a));
    CHECK(a == 0x114);
    a = 0x0042;
    __asm__ volatile("aam $10" : "+a"(a));
    CHECK((a & 0xffff) == 0x0606);
    __asm__ volatile("aad $10" : "+a"(a));
    CHECK((a & 0xffff) == 0x0042);
    FAULTS(SIGFPE, "aam $0" ::: "eax");
    a = 1, b = 2;
    __asm__ volatile("pusha; mov $77, %%eax; mov $88, %%ebx; popa" : "+a"(a), "+b"(b));
    CHECK(a == 1 && b == 2);
    __asm__ volatile("bound %0, %1" ::"r"(-5), "m"(bounds));
    FAULTS(SIGSEGV, "bound %0, %1" ::"r"(11), "m"(bounds));
    __asm__ volatile("mov $0x7ffffffe, %%eax; inc %%eax; into" ::: "eax", "cc");
    FAULTS(SIGSEGV, "mov $0x7fffffff, %%eax; inc %%eax; into" ::: "eax", "cc");
    FAULTS(SIGSEGV, "cli" :);
    FAULTS(SIGSEGV, "inb $0x60, %%al" ::: "eax");
    FAULTS(SIGILL, ".byte 0x0f, 0x0b" :);
    bool below = false;
    a = 0x10;
    __asm__ volatile("arpl %w2, %w1" : "=@ccz"(below), "+r"(a) : "r"(3));
    CHECK(below && a == 0x13);
    a = 0, b = 0x10003; /* the address size says that CX counts */
    __asm__ volatile("1: inc %0; addr16 loop 1b" : "+a"(a), "+c"(b) : : "cc");
    CHECK(a == 3 && b == 0x10000);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
    const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

    __asm__("mov %%ds, %0; mov %%es, %1" : "=m"(user_ds), "=m"(user_es));
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigaction(faults[i], &action, NULL);
    uint8_t *page = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    test_system_calls();
    test_data_segments(page);
    test_far_calls(page);
    test_64bit_code(page);
    test_old_instructions();
    return check_done("segments");
}
