/* SPDX-License-Identifier: MIT */
/*
 * The C library's own functions: found once by dlsym(RTLD_NEXT), and passed on to under the names that the linker's --wrap
 * gives to calls from inside this library, the engine's most of all. The engine makes some of these calls with guest
 * vector registers live, so they were found before, and this file is compiled for the general registers only.
 */
#include "real.h"

#include <dlfcn.h>

static struct preload_reals reals;
static atomic_bool reals_found;

/* Two threads may find the same at the same time. */
const struct preload_reals *preload_real(void)
{
    if (!atomic_load_explicit(&reals_found, memory_order_acquire)) {
#define PRELOAD_FIND(name) *(void **)&reals.name##_ = dlsym(RTLD_NEXT, #name);
        PRELOAD_REALS(PRELOAD_FIND)
#undef PRELOAD_FIND
        atomic_store_explicit(&reals_found, true, memory_order_release);
    }
    return &reals;
}

#define PASS_ON(type, name, parameters, arguments) \
    type __wrap_##name parameters; \
    type __wrap_##name parameters \
    { \
        return REAL(name) arguments; \
    }

PASS_ON(int, close, (int fd), (fd))
PASS_ON(int, dup, (int fd), (fd))
PASS_ON(int, close_range, (unsigned first, unsigned last, int flags), (first, last, flags))
PASS_ON(int, ioctl, (int fd, unsigned long request, void *arg), (fd, request, arg))
PASS_ON(int, fcntl, (int fd, int command, void *arg), (fd, command, arg))
PASS_ON(int, fcntl64, (int fd, int command, void *arg), (fd, command, arg))
PASS_ON(int, open, (const char *path, int flags, mode_t mode), (path, flags, mode))
PASS_ON(int, open64, (const char *path, int flags, mode_t mode), (path, flags, mode))
PASS_ON(int, stat, (const char *path, struct stat *st), (path, st))
PASS_ON(int, lstat, (const char *path, struct stat *st), (path, st))
PASS_ON(int, fstat, (int fd, struct stat *st), (fd, st))
PASS_ON(int, fstat64, (int fd, struct stat64 *st), (fd, st))
PASS_ON(void *, mmap, (void *addr, size_t bytes, int prot, int flags, int fd, off_t offset), (addr, bytes, prot, flags, fd, offset))
PASS_ON(void *, mmap64, (void *addr, size_t bytes, int prot, int flags, int fd, off64_t offset), (addr, bytes, prot, flags, fd, offset))
PASS_ON(int, munmap, (void *addr, size_t bytes), (addr, bytes))
PASS_ON(int, mprotect, (void *addr, size_t bytes, int prot), (addr, bytes, prot))
PASS_ON(int, madvise, (void *addr, size_t bytes, int advice), (addr, bytes, advice))
PASS_ON(void *, mremap, (void *addr, size_t from, size_t to, int flags, void *place), (addr, from, to, flags, place))
PASS_ON(ssize_t, read, (int fd, void *buf, size_t bytes), (fd, buf, bytes))
PASS_ON(ssize_t, readv, (int fd, const struct iovec *iov, int count), (fd, iov, count))
PASS_ON(ssize_t, pread, (int fd, void *buf, size_t bytes, off_t offset), (fd, buf, bytes, offset))
PASS_ON(ssize_t, pread64, (int fd, void *buf, size_t bytes, off64_t offset), (fd, buf, bytes, offset))
PASS_ON(ssize_t, recv, (int fd, void *buf, size_t bytes, int flags), (fd, buf, bytes, flags))
PASS_ON(int, sigaction, (int sig, const struct sigaction *action, struct sigaction *old), (sig, action, old))
PASS_ON(int, sigaltstack, (const stack_t *stack, stack_t *old), (stack, old))
PASS_ON(int, pthread_sigmask, (int how, const sigset_t *set, sigset_t *old), (how, set, old))
PASS_ON(int, sigprocmask, (int how, const sigset_t *set, sigset_t *old), (how, set, old))
PASS_ON(sighandler_t, signal, (int sig, sighandler_t handler), (sig, handler))
PASS_ON(long, syscall, (long number, long a, long b, long c, long d, long e, long f), (number, a, b, c, d, e, f))
