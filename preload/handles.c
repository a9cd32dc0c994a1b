/* SPDX-License-Identifier: MIT */
/*
 * KVM's handles as descriptors: ioctl, close, and what makes more descriptors of one. Everything else that can be done to a
 * descriptor (poll, F_GETFL, FD_CLOEXEC, /proc/self/fd) the memfd below answers as the kernel's handles do.
 */
#include "real.h"

#include <errno.h>
#include <linux/close_range.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

atomic_bool preload_has_vm;

static bool is_handle(int fd)
{
    return fd >= 0 && kage_handle_kind(fd) != KAGE_HANDLE_NONE;
}

static const char *wanted_mmu; /* NULL: the engine's default */

void preload_handles_init(void)
{
    wanted_mmu = getenv("KAGE_MMU");
}

/* A VM for a client that knows nothing of MMUs gets the one that the environment names. */
static int new_vm(int vm)
{
    if (wanted_mmu && kage_vm_set_mmu(&kage_backend_soft, vm, kage_mmu_find(wanted_mmu)) < 0) {
        int err = errno;
        preload_say("no VM: there is no MMU '%s'", wanted_mmu);
        kage_backend_soft.close(vm);
        errno = err;
        return -1;
    }
    atomic_store(&preload_has_vm, true);
    preload_inspect_start();
    return vm;
}

int preload_ioctl(int fd, unsigned long request, void *arg)
{
    /* The hot one is not worth a look at the descriptor: nobody runs what is none. */
    if ((uint32_t)request == KVM_RUN) {
        int result = kage_backend_soft.ioctl(fd, request, arg);
        if (result >= 0 || errno != EBADF)
            return result;
    }
    if (!is_handle(fd))
        return REAL(ioctl)(fd, request, arg);
    int result = kage_backend_soft.ioctl(fd, request, arg);
    return result >= 0 && (uint32_t)request == KVM_CREATE_VM ? new_vm(result) : result;
}

PRELOAD_EXPORT int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    return preload_ioctl(fd, request, arg);
}

/* ---- Fewer descriptors ---- */

int preload_close(int fd)
{
    return is_handle(fd) ? kage_backend_soft.close(fd) : REAL(close)(fd);
}

PRELOAD_EXPORT int close(int fd)
{
    return preload_close(fd);
}

int preload_close_range(unsigned first, unsigned last, int flags)
{
    if (first <= last && !(flags & CLOSE_RANGE_CLOEXEC))
        kage_handles_close(first, last);
    return REAL(close_range)(first, last, flags);
}

PRELOAD_EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    return preload_close_range(first, last, flags);
}

PRELOAD_EXPORT void closefrom(int first)
{
    kage_handles_close(first < 0 ? 0 : (unsigned)first, UINT32_MAX);
    REAL(closefrom)(first);
}

/* ---- More of them ---- */

int preload_duplicated(int from, int fd)
{
    if (fd >= 0 && fd != from && is_handle(from) && kage_handle_add(from, fd) < 0 && errno != EIO) {
        int saved = errno;
        REAL(close)(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

PRELOAD_EXPORT int dup(int fd)
{
    return preload_duplicated(fd, REAL(dup)(fd));
}

/* What was a handle at `to` is none any more. */
static int replaced(int from, int to, int result)
{
    if (result >= 0 && from != to)
        (void)is_handle(to); /* sees another inode there, and lets the object go */
    return preload_duplicated(from, result);
}

PRELOAD_EXPORT int dup2(int fd, int to)
{
    return replaced(fd, to, REAL(dup2)(fd, to));
}

PRELOAD_EXPORT int dup3(int fd, int to, int flags)
{
    return replaced(fd, to, REAL(dup3)(fd, to, flags));
}

static int duplicated_by_fcntl(int fd, int command, int result)
{
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? preload_duplicated(fd, result) : result;
}

PRELOAD_EXPORT int fcntl(int fd, int command, ...)
{
    va_list args;

    va_start(args, command);
    void *arg = va_arg(args, void *);
    va_end(args);
    return duplicated_by_fcntl(fd, command, REAL(fcntl)(fd, command, arg));
}

PRELOAD_EXPORT int fcntl64(int fd, int command, ...)
{
    va_list args;

    va_start(args, command);
    void *arg = va_arg(args, void *);
    va_end(args);
    return duplicated_by_fcntl(fd, command, REAL(fcntl64)(fd, command, arg));
}

/* ---- To other processes: never ---- */

static bool sends_handle(const struct msghdr *message)
{
    if (!message || !message->msg_control)
        return false;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
            if (is_handle(fd)) {
                preload_say("a KVM descriptor (%d) cannot be sent to another process: its VM is in this one", fd);
                errno = EINVAL;
                return true;
            }
        }
    }
    return false;
}

PRELOAD_EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    return sends_handle(message) ? -1 : REAL(sendmsg)(fd, message, flags);
}

PRELOAD_EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    for (unsigned i = 0; messages && i < count; i++)
        if (sends_handle(&messages[i].msg_hdr))
            return -1;
    return REAL(sendmmsg)(fd, messages, count, flags);
}
