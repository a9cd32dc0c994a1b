/* SPDX-License-Identifier: MIT */
/*
 * Guest memory is the client's. Its system calls that map, unmap and protect are reported to the engine after the fact;
 * those that have the kernel write memory, before and after. Until there is a VM that costs one load.
 */
#include "real.h"

#include <errno.h>

#undef fread_unlocked /* a macro too */

static bool has_vm(void)
{
    return atomic_load_explicit(&preload_has_vm, memory_order_relaxed);
}

/* ---- Mappings ---- */

int preload_changed(int result, const void *addr, size_t bytes)
{
    if (result == 0 && has_vm()) {
        int saved = errno;
        kage_memory_changed(addr, bytes);
        errno = saved;
    }
    return result;
}

void *preload_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    if (fd >= 0 && !(flags & MAP_ANONYMOUS) && kage_handle_kind(fd) != KAGE_HANDLE_NONE)
        return kage_backend_soft.mmap(addr, bytes, prot, flags, fd, offset);
    void *map = REAL(mmap)(addr, bytes, prot, flags, fd, offset);
    if (map != MAP_FAILED)
        preload_changed(0, map, bytes);
    return map;
}

PRELOAD_EXPORT void *mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    return preload_mmap(addr, bytes, prot, flags, fd, offset);
}

PRELOAD_EXPORT void *mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off64_t offset)
{
    return preload_mmap(addr, bytes, prot, flags, fd, offset);
}

PRELOAD_EXPORT int munmap(void *addr, size_t bytes)
{
    return preload_changed(REAL(munmap)(addr, bytes), addr, bytes);
}

PRELOAD_EXPORT int mprotect(void *addr, size_t bytes, int prot)
{
    return preload_changed(REAL(mprotect)(addr, bytes, prot), addr, bytes);
}

PRELOAD_EXPORT int madvise(void *addr, size_t bytes, int advice)
{
    return preload_changed(REAL(madvise)(addr, bytes, advice), addr, bytes);
}

PRELOAD_EXPORT void *mremap(void *addr, size_t from, size_t to, int flags, ...)
{
    va_list args;

    va_start(args, flags);
    void *place = flags & MREMAP_FIXED ? va_arg(args, void *) : NULL;
    va_end(args);
    void *map = REAL(mremap)(addr, from, to, flags, place);
    if (map != MAP_FAILED) {
        preload_changed(0, addr, from);
        preload_changed(0, map, to);
    }
    return map;
}

/* ---- Memory that the kernel writes ---- */

struct writes {
    const struct iovec *iov;
    size_t count;
    struct iovec one;
    bool told;
};

static void writes_tell(const struct writes *writes, void (*tell)(const void *addr, size_t bytes))
{
    int saved = errno;
    const struct iovec *iov = writes->iov ? writes->iov : &writes->one;

    for (size_t i = 0; i < writes->count; i++)
        tell(iov[i].iov_base, iov[i].iov_len);
    errno = saved;
}

/* Of more vectors than the kernel takes none is written. */
static struct writes writes_begin_iov(const struct iovec *iov, size_t count)
{
    struct writes writes = { .iov = iov, .count = count, .told = iov && count <= 1024 && has_vm() };

    if (writes.told)
        writes_tell(&writes, kage_memory_begin_write);
    return writes;
}

static struct writes writes_begin(void *addr, size_t bytes)
{
    struct writes writes = { .count = 1, .one = { addr, bytes }, .told = has_vm() };

    if (writes.told)
        writes_tell(&writes, kage_memory_begin_write);
    return writes;
}

/* On every way out of the function, a thread's cancellation too. */
static void writes_end(struct writes *writes)
{
    if (writes->told)
        writes_tell(writes, kage_memory_end_write);
}

#define WRITES(addr, bytes) struct writes writes __attribute__((cleanup(writes_end), unused)) = writes_begin(addr, bytes)
#define WRITES_IOV(iov, count) \
    struct writes writes __attribute__((cleanup(writes_end), unused)) = writes_begin_iov(iov, count)

/* One function with its parameters and arguments, which writes memory as the third says. */
#define WRITER(type, name, parameters, arguments, what) \
    PRELOAD_EXPORT type name parameters \
    { \
        what; \
        return REAL(name) arguments; \
    }

WRITER(ssize_t, read, (int fd, void *buf, size_t bytes), (fd, buf, bytes), WRITES(buf, bytes))
WRITER(ssize_t, __read_chk, (int fd, void *buf, size_t bytes, size_t room), (fd, buf, bytes, room), WRITES(buf, bytes))
WRITER(ssize_t, pread, (int fd, void *buf, size_t bytes, off_t at), (fd, buf, bytes, at), WRITES(buf, bytes))
WRITER(ssize_t, pread64, (int fd, void *buf, size_t bytes, off64_t at), (fd, buf, bytes, at), WRITES(buf, bytes))
WRITER(ssize_t, __pread_chk, (int fd, void *buf, size_t bytes, off_t at, size_t room), (fd, buf, bytes, at, room), WRITES(buf, bytes))
WRITER(ssize_t, __pread64_chk, (int fd, void *buf, size_t bytes, off64_t at, size_t room), (fd, buf, bytes, at, room),
       WRITES(buf, bytes))
WRITER(ssize_t, readv, (int fd, const struct iovec *iov, int count), (fd, iov, count), WRITES_IOV(iov, (size_t)count))
WRITER(ssize_t, preadv, (int fd, const struct iovec *iov, int count, off_t at), (fd, iov, count, at), WRITES_IOV(iov, (size_t)count))
WRITER(ssize_t, preadv64, (int fd, const struct iovec *iov, int count, off64_t at), (fd, iov, count, at),
       WRITES_IOV(iov, (size_t)count))
WRITER(ssize_t, preadv2, (int fd, const struct iovec *iov, int count, off_t at, int flags), (fd, iov, count, at, flags),
       WRITES_IOV(iov, (size_t)count))
WRITER(ssize_t, preadv64v2, (int fd, const struct iovec *iov, int count, off64_t at, int flags), (fd, iov, count, at, flags),
       WRITES_IOV(iov, (size_t)count))
WRITER(ssize_t, recv, (int fd, void *buf, size_t bytes, int flags), (fd, buf, bytes, flags), WRITES(buf, bytes))
WRITER(ssize_t, __recv_chk, (int fd, void *buf, size_t bytes, size_t room, int flags), (fd, buf, bytes, room, flags), WRITES(buf, bytes))
WRITER(ssize_t, recvfrom, (int fd, void *buf, size_t bytes, int flags, struct sockaddr *from, socklen_t *from_bytes),
       (fd, buf, bytes, flags, from, from_bytes), WRITES(buf, bytes))
WRITER(ssize_t, __recvfrom_chk,
       (int fd, void *buf, size_t bytes, size_t room, int flags, struct sockaddr *from, socklen_t *from_bytes),
       (fd, buf, bytes, room, flags, from, from_bytes), WRITES(buf, bytes))
WRITER(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags),
       WRITES_IOV(message ? message->msg_iov : NULL, message ? message->msg_iovlen : 0))
WRITER(ssize_t, process_vm_readv,
       (pid_t pid, const struct iovec *iov, unsigned long count, const struct iovec *from, unsigned long from_count, unsigned long flags),
       (pid, iov, count, from, from_count, flags), WRITES_IOV(iov, count))
WRITER(ssize_t, getrandom, (void *buf, size_t bytes, unsigned flags), (buf, bytes, flags), WRITES(buf, bytes))
WRITER(int, getentropy, (void *buf, size_t bytes), (buf, bytes), WRITES(buf, bytes))
WRITER(size_t, fread, (void *buf, size_t size, size_t count, FILE *file), (buf, size, count, file), WRITES(buf, size * count))
WRITER(size_t, fread_unlocked, (void *buf, size_t size, size_t count, FILE *file), (buf, size, count, file), WRITES(buf, size * count))
WRITER(size_t, __fread_chk, (void *buf, size_t room, size_t size, size_t count, FILE *file), (buf, room, size, count, file),
       WRITES(buf, size * count))
WRITER(size_t, __fread_unlocked_chk, (void *buf, size_t room, size_t size, size_t count, FILE *file),
       (buf, room, size, count, file), WRITES(buf, size * count))

struct messages {
    struct mmsghdr *messages;
    unsigned count;
};

static void messages_tell(const struct messages *m, void (*tell)(const void *addr, size_t bytes))
{
    for (unsigned i = 0; i < m->count; i++) {
        const struct msghdr *header = &m->messages[i].msg_hdr;
        struct writes writes = { .iov = header->msg_iov, .count = header->msg_iovlen };
        if (writes.iov && writes.count <= 1024)
            writes_tell(&writes, tell);
    }
}

static void messages_end(struct messages *m)
{
    messages_tell(m, kage_memory_end_write);
}

PRELOAD_EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout)
{
    struct messages told __attribute__((cleanup(messages_end))) = { messages, messages && count <= 1024 && has_vm() ? count : 0 };

    messages_tell(&told, kage_memory_begin_write);
    return REAL(recvmmsg)(fd, messages, count, flags, timeout);
}
