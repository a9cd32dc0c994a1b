/* SPDX-License-Identifier: MIT */
/*
 * Inside libkage-preload.so. The library's exported functions have the C library's names; inside it, those names mean the
 * C library's own functions (the linker's --wrap, real.c), for the engine too.
 *
 * Every function here may be called before the constructor has run, in a forked child, and most of them in a signal
 * handler: no locks and no allocation on the way to the C library for what is not ours.
 */
#ifndef KAGE_PRELOAD_H
#define KAGE_PRELOAD_H

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "kage.h"

#define PRELOAD_EXPORT __attribute__((visibility("default")))

/* Names that the C library has, but its headers do not declare (all of them). */
struct statx;
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);
int __xstat(int version, const char *path, struct stat *st);
int __xstat64(int version, const char *path, struct stat64 *st);
int __lxstat(int version, const char *path, struct stat *st);
int __lxstat64(int version, const char *path, struct stat64 *st);
int __fxstat(int version, int fd, struct stat *st);
int __fxstat64(int version, int fd, struct stat64 *st);
int __fxstatat(int version, int dir, const char *path, struct stat *st, int flags);
int __fxstatat64(int version, int dir, const char *path, struct stat64 *st, int flags);
ssize_t __read_chk(int fd, void *buf, size_t bytes, size_t room);
ssize_t __pread_chk(int fd, void *buf, size_t bytes, off_t offset, size_t room);
ssize_t __pread64_chk(int fd, void *buf, size_t bytes, off64_t offset, size_t room);
ssize_t __recv_chk(int fd, void *buf, size_t bytes, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *buf, size_t bytes, size_t room, int flags, struct sockaddr *from, socklen_t *from_bytes);
size_t __fread_chk(void *buf, size_t room, size_t size, size_t count, FILE *file);
size_t __fread_unlocked_chk(void *buf, size_t room, size_t size, size_t count, FILE *file);
int __sigaction(int sig, const struct sigaction *action, struct sigaction *old);

/* Every function of the C library's that is passed on to. */
#define PRELOAD_REALS(X) \
    X(open) X(open64) X(openat) X(openat64) X(access) X(faccessat) X(euidaccess) X(eaccess) \
    X(__open_2) X(__open64_2) X(__openat_2) X(__openat64_2) \
    X(stat) X(stat64) X(lstat) X(lstat64) X(fstat) X(fstat64) X(fstatat) X(fstatat64) X(statx) \
    X(__xstat) X(__xstat64) X(__lxstat) X(__lxstat64) X(__fxstat) X(__fxstat64) X(__fxstatat) X(__fxstatat64) \
    X(ioctl) X(close) X(close_range) X(closefrom) X(dup) X(dup2) X(dup3) X(fcntl) X(fcntl64) X(sendmsg) X(sendmmsg) \
    X(mmap) X(mmap64) X(munmap) X(mremap) X(mprotect) X(madvise) \
    X(read) X(readv) X(pread) X(pread64) X(preadv) X(preadv64) X(preadv2) X(preadv64v2) \
    X(recv) X(recvfrom) X(recvmsg) X(recvmmsg) X(process_vm_readv) X(getrandom) X(getentropy) X(fread) X(fread_unlocked) \
    X(__read_chk) X(__pread_chk) X(__pread64_chk) X(__recv_chk) X(__recvfrom_chk) X(__fread_chk) X(__fread_unlocked_chk) \
    X(sigaction) X(signal) X(sigaltstack) X(pthread_sigmask) X(sigprocmask) X(syscall)

/* The C library's functions, by name; found at the first use. */
const struct preload_reals *preload_real(void);

/* ---- device.c ---- */

/* Where the device is, from the environment; once, by the constructor. */
void preload_device_init(void);
bool preload_is_device(const char *path);
int preload_open(int dir, const char *path, int flags, mode_t mode); /* openat(2) */
/* The device's own attributes: the kernel's misc device 10:232. */
void preload_device_stat(struct stat *st);

/* ---- handles.c ---- */

/* What the environment says of VMs; once, by the constructor. */
void preload_handles_init(void);

/* A VM has been made in this process: guest memory is told of from now on. */
extern atomic_bool preload_has_vm;
int preload_ioctl(int fd, unsigned long request, void *arg);
int preload_close(int fd);
int preload_close_range(unsigned first, unsigned last, int flags);
/* `fd` was duplicated from `from`. */
int preload_duplicated(int from, int fd);

/* ---- memory.c ---- */

void *preload_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
int preload_changed(int result, const void *addr, size_t bytes);

/* ---- inspect.c ---- */

/* Has a thread of this process answer `kage inspect`, from the first VM on. */
void preload_inspect_start(void);

/* ---- show_vmx.c ---- */

/* Has the CPUID instructions of the main program say that there is VMX (SVM on AMD's processors). */
void preload_show_vmx(void);

/* ---- init.c ---- */

/* One line on stderr, without the stream. */
void preload_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
