/* SPDX-License-Identifier: MIT */
/*
 * syscall(2): the numbers of what this library serves go to the same functions; and the two interfaces by which the kernel
 * writes memory whenever it likes are not there (ENOSYS), so that clients take their threads for files. All other numbers
 * go straight on with their registers and stack as they are: a clone(2) returns on another stack.
 */
#include "real.h"

#include <errno.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#define SYSCALL_LIMIT 512

typedef long syscall_fn(long number, long a, long b, long c, long d, long e, long f);

#define SYSCALL(name) static long name(long number, long a, long b, long c, long d, long e, long f)

SYSCALL(serve_nothing)
{
    errno = ENOSYS;
    return -1;
}

SYSCALL(serve_ioctl)
{
    return preload_ioctl((int)a, (unsigned long)b, (void *)c);
}

SYSCALL(serve_open)
{
    return preload_open(AT_FDCWD, (const char *)a, (int)b, (mode_t)c);
}

SYSCALL(serve_openat)
{
    return preload_open((int)a, (const char *)b, (int)c, (mode_t)d);
}

SYSCALL(serve_openat2)
{
    if (c && preload_is_device((const char *)b))
        return preload_open((int)a, (const char *)b, (int)((const struct open_how *)c)->flags, 0);
    return REAL(syscall)(number, a, b, c, d);
}

SYSCALL(serve_close)
{
    return preload_close((int)a);
}

SYSCALL(serve_close_range)
{
    return preload_close_range((unsigned)a, (unsigned)b, (int)c);
}

SYSCALL(serve_dup)
{
    return preload_duplicated((int)a, (int)REAL(syscall)(number, a, b, c));
}

SYSCALL(serve_fcntl)
{
    int result = (int)REAL(syscall)(number, a, b, c);

    return b == F_DUPFD || b == F_DUPFD_CLOEXEC ? preload_duplicated((int)a, result) : result;
}

SYSCALL(serve_mmap)
{
    return (long)preload_mmap((void *)a, (size_t)b, (int)c, (int)d, (int)e, f);
}

/* munmap, mprotect, madvise */
SYSCALL(serve_mapping)
{
    return preload_changed((int)REAL(syscall)(number, a, b, c), (void *)a, (size_t)b);
}

SYSCALL(serve_read)
{
    bool told = atomic_load(&preload_has_vm);

    if (told)
        kage_memory_begin_write((void *)b, (size_t)c);
    long result = REAL(syscall)(number, a, b, c, d, e, f);
    int saved = errno;
    if (told)
        kage_memory_end_write((void *)b, (size_t)c);
    errno = saved;
    return result;
}

/* By syscall()'s code below. */
__attribute__((used)) static syscall_fn *const served_syscalls[SYSCALL_LIMIT] = {
    [SYS_ioctl] = serve_ioctl,
    [SYS_open] = serve_open,
    [SYS_openat] = serve_openat,
    [SYS_openat2] = serve_openat2,
    [SYS_close] = serve_close,
    [SYS_close_range] = serve_close_range,
    [SYS_dup] = serve_dup,
    [SYS_dup2] = serve_dup,
    [SYS_dup3] = serve_dup,
    [SYS_fcntl] = serve_fcntl,
    [SYS_mmap] = serve_mmap,
    [SYS_munmap] = serve_mapping,
    [SYS_mprotect] = serve_mapping,
    [SYS_madvise] = serve_mapping,
    [SYS_read] = serve_read,
    [SYS_pread64] = serve_read,
    [SYS_recvfrom] = serve_read,
    [SYS_io_setup] = serve_nothing,
    [SYS_io_uring_setup] = serve_nothing,
};

/* The C library's syscall(), or its address. */
__attribute__((used)) static void *next_syscall(void)
{
    return (void *)REAL(syscall);
}

/* r11 and rax are free at a call; the stack holds the seventh argument. */
__asm__(".pushsection .text\n"
        ".globl syscall\n"
        ".type syscall, @function\n"
        "syscall:\n"
        "    cmpq $512, %rdi\n"
        "    jae 1f\n"
        "    leaq served_syscalls(%rip), %r11\n"
        "    movq (%r11,%rdi,8), %r11\n"
        "    testq %r11, %r11\n"
        "    jz 1f\n"
        "    jmp *%r11\n"
        "1:  pushq %rdi\n"
        "    pushq %rsi\n"
        "    pushq %rdx\n"
        "    pushq %rcx\n"
        "    pushq %r8\n"
        "    pushq %r9\n"
        "    subq $8, %rsp\n"
        "    call next_syscall\n"
        "    addq $8, %rsp\n"
        "    popq %r9\n"
        "    popq %r8\n"
        "    popq %rcx\n"
        "    popq %rdx\n"
        "    popq %rsi\n"
        "    popq %rdi\n"
        "    jmp *%rax\n"
        ".size syscall, .-syscall\n"
        ".popsection\n");
_Static_assert(SYSCALL_LIMIT == 512, "as syscall() has it");

/* ---- The libraries of the same two interfaces, which do not go through syscall(): they answer -errno ---- */

#define UNSERVED(name) \
    PRELOAD_EXPORT int name(void); \
    PRELOAD_EXPORT int name(void) \
    { \
        return -ENOSYS; \
    }
UNSERVED(io_setup)
UNSERVED(io_queue_init)
UNSERVED(io_uring_queue_init)
UNSERVED(io_uring_queue_init_params)
