/* SPDX-License-Identifier: MIT */
/*
 * The boundary of Kage: the KVM API of <linux/kvm.h>, unchanged, and two implementations of it.
 *
 *   kage_backend_kernel   /dev/kvm of the host's kernel
 *   kage_backend_soft     libkage, KVM and VT-x in user space
 *
 * A client holds a `const struct kvm_backend *` and calls nothing else; what it may ask and what it
 * gets back is what the kernel's Documentation/virt/kvm/api.rst says. docs/kvm-api.md lists what the
 * soft back end has. What that API cannot say is in the extension ioctls at the end of this file.
 *
 * Handles are file descriptors of the calling process, for both back ends: the soft one takes them
 * from memfd_create(2), so that a handle never has the number of anything else. fork(2): the handle of a VM
 * or vCPU is inert in the child (its ioctls fail with EIO), as the kernel's are.
 */
#ifndef KAGE_H
#define KAGE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <linux/kvm.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * One implementation of the KVM API. Every function may be called from any thread. All of them
 * report failure as the system calls do: -1 (mmap: MAP_FAILED), with errno set.
 */
struct kvm_backend {
    const char *name; /* "kvm" or "soft" */

    /* Opens the system object ("/dev/kvm"). Returns its handle. */
    int (*open)(void);

    /*
     * ioctl(2) on a system, VM or vCPU handle. `arg` is the structure's address, or the number where
     * the API takes a number, or anything at all where it takes nothing. Only the low 32 bits of
     * `request` count. KVM_CREATE_VM and KVM_CREATE_VCPU return new handles. EBADF: not a handle of
     * this back end. No such ioctl on this kind of object: ENOTTY of a VM, EINVAL of the others, as the kernel's.
     */
    int (*ioctl)(int handle, unsigned long request, void *arg);

    /*
     * mmap(2) of a vCPU handle, offset 0, KVM_GET_VCPU_MMAP_SIZE bytes, MAP_SHARED: struct kvm_run at
     * page 0, the data of string I/O at page KVM_PIO_PAGE_OFFSET, the ring of coalesced MMIO at the page
     * that KVM_CHECK_EXTENSION(KVM_CAP_COALESCED_MMIO) returns. Unmapped with munmap below; the mapping
     * outlives its handle.
     */
    void *(*mmap)(void *addr, size_t length, int prot, int flags, int handle, off_t offset);
    int (*munmap)(void *addr, size_t length);

    /* Closes a handle. A VM lives on until its last vCPU handle is closed too. */
    int (*close)(int handle);
};

extern const struct kvm_backend kage_backend_kernel;
extern const struct kvm_backend kage_backend_soft;

/*
 * Signals and KVM_RUN on the soft back end. As with the kernel, a signal that the vCPU thread does
 * not block (KVM_SET_SIGNAL_MASK counts, while in KVM_RUN) ends KVM_RUN with EINTR and exit reason
 * KVM_EXIT_INTR, after its handler has run. Handlers need no SA_ONSTACK: libkage takes delivery
 * on a stack of its own. kvm_run.immediate_exit is honoured.
 */

/*
 * Is this back end worth using here? True, or false with the reason in one line of text (no full stop,
 * no newline) for people; in both cases `reason` says why. For the kernel: the processor shows vmx or
 * svm in /proc/cpuinfo, /dev/kvm opens, and a 64-bit guest runs a counted loop at native speed.
 * Takes up to about 20 ms.
 */
bool kage_backend_probe(const struct kvm_backend *backend, char *reason, size_t reason_bytes);

/* `-accel auto`: the kernel's if the probe shows it good, else the soft one. `reason` says why. */
const struct kvm_backend *kage_backend_auto(char *reason, size_t reason_bytes);

/* Back end by the name that -accel takes ("soft", "kvm"), or NULL. */
const struct kvm_backend *kage_backend_find(const char *name);

/* ---- Memory of the client's on the soft back end ---- */

/*
 * Guest memory stays the client's own. Its stores are noticed wherever code was translated from. A system call that
 * has the kernel write guest memory (read(2), recvmsg(2), …) may find pages read-only for that reason: it is told of
 * before and after. Any address may be given; what is no guest's memory costs next to nothing. Thread-safe.
 */
void kage_memory_begin_write(const void *addr, size_t bytes);
void kage_memory_end_write(const void *addr, size_t bytes);
/* After mmap(2), munmap(2), mremap(2), mprotect(2) or madvise(2) of it. */
void kage_memory_changed(const void *addr, size_t bytes);

/* ---- Handles of the soft back end as descriptors ---- */

enum kage_handle_kind { KAGE_HANDLE_NONE, KAGE_HANDLE_SYSTEM, KAGE_HANDLE_VM, KAGE_HANDLE_VCPU };

/* What the descriptor is a handle of; NONE too if a handle of that number was closed by other means than the back end. */
enum kage_handle_kind kage_handle_kind(int fd);
/* `fd` was made from the handle by dup(2) or its kin: it is one more handle of the same object. 0, or -1 and errno. */
int kage_handle_add(int handle, int fd);
/* The descriptors from `first` to `last`, inclusive, are about to be closed by close_range(2): none of them is a handle any more. */
void kage_handles_close(unsigned first, unsigned last);

/* ---- Signals of a client that shares its process with the soft back end ---- */

/*
 * These do what sigaction(2), pthread_sigmask(3) and sigaltstack(2) do and let the client see what it has set, while
 * libkage keeps SIGSEGV, SIGBUS, SIGFPE and SIGILL (the client's handler gets those that are not the guest's), has no
 * thread block them, and has every handler run on a vCPU thread's own signal stack. A client that uses the C
 * library's instead must install its handlers before its first KVM_RUN. 0, or -1 and errno (the mask: an error number).
 */
int kage_sigaction(int sig, const struct sigaction *action, struct sigaction *old);
int kage_sigmask(int how, const sigset_t *set, sigset_t *old);
int kage_sigaltstack(const stack_t *stack, stack_t *old);

/* Has these four signals looked at by `fn` before the client's handler; true: it was dealt with. 0, or -1 and errno. */
typedef bool kage_fault_fn(int sig, siginfo_t *info, void *context);
int kage_set_fault_handler(kage_fault_fn *fn);

/* ---- Messages of the soft back end ---- */

enum kage_log_level { KAGE_LOG_ERROR = 0, KAGE_LOG_WARNING = 1, KAGE_LOG_INFO = 2, KAGE_LOG_DEBUG = 3 };

/* One line without newline, from any thread; must not call the back end. */
typedef void kage_log_fn(void *opaque, enum kage_log_level level, const char *message);

/* Where messages go, process wide; NULL (at start): nowhere. Levels above `max` are not made. */
void kage_set_log(kage_log_fn *fn, void *opaque, enum kage_log_level max);

/* ---- Extensions: ioctls of the soft back end beyond the kernel's ---- */

/* KVM_CHECK_EXTENSION(KAGE_CAP_EXTENSIONS) returns the version of what follows (1), 0 on the kernel. */
#define KAGE_CAP_EXTENSIONS 0x6b616765 /* "kage" */

/*
 * KVM_ENABLE_CAP of a VM before its first vCPU (EBUSY after): args[0] is the MMU that its guest gets. EINVAL: not on this
 * back end. KVM_CHECK_EXTENSION returns what there is, 1 << KAGE_MMU_* for each.
 */
#define KVM_CAP_KAGE_MMU 0x6b616766
#define KAGE_MMU_EPT 0    /* two levels of tables, the guest's and EPT: the default */
#define KAGE_MMU_SHADOW 1 /* shadow page tables, made of the guest's */

/*
 * KVM_CHECK_EXTENSION returns 1 where KVM_SET_CPUID2 may give a guest LA57 (7.0:ECX bit 16, 57 linear-address bits) even though
 * KVM_GET_SUPPORTED_CPUID does not show it, which tells what the host has: page walks are the engine's own.
 */
#define KVM_CAP_KAGE_LA57 0x6b616768

/* KAGE_MMU_* by name ("ept", "shadow"), or -1. */
int kage_mmu_find(const char *name);
const char *kage_mmu_name(int mmu); /* NULL: no such */
/* Gives a VM this MMU. 0, or -1 and errno; EOPNOTSUPP: the back end lets nobody choose, or has no such MMU. */
int kage_vm_set_mmu(const struct kvm_backend *backend, int vm, int mmu);

#define KAGE_IO 0xCA

/*
 * Statistics of a VM or a vCPU, by name. In: count, entries that there is room for. Out: the number of
 * entries filled; E2BIG, with the needed count, if there is not enough room. Names are stable, for
 * example "blocks_translated", "tlb_misses", "exits", "exit_cpuid", "halt_ns", "ept_pages_4k".
 */
struct kage_stat {
    char name[40];
    __u64 value;
};
struct kage_stats {
    __u32 count;
    __u32 pad;
    struct kage_stat entries[];
};
#define KAGE_GET_STATS _IOWR(KAGE_IO, 0x01, struct kage_stats)

/* Text for people. In: bytes, room in `text`. Out: the text, cut to fit and NUL-terminated; returns its whole length. */
struct kage_text {
    __u32 bytes;
    __u32 pad;
    char text[];
};
/* vCPU: every VMCS field, one "NAME encoding = value" a line. */
#define KAGE_DUMP_VMCS _IOWR(KAGE_IO, 0x02, struct kage_text)
/* VM or vCPU: what the last KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_FAIL_ENTRY or failed ioctl of it was about, one line; "" if none. */
#define KAGE_GET_ERROR _IOWR(KAGE_IO, 0x03, struct kage_text)

/* vCPU: one VMCS field by its encoding (SDM 3C appendix B). ENOENT: no such field. */
struct kage_vmcs_field {
    __u32 encoding;
    __u32 pad;
    __u64 value;
};
#define KAGE_VMREAD _IOWR(KAGE_IO, 0x04, struct kage_vmcs_field)

/*
 * VM, before its first KVM_RUN: makes the engine take its rare ways, for tests. arg: KAGE_TEST_* bits.
 * They change how fast a guest runs, never what it sees.
 */
#define KVM_KAGE_SET_TEST_FLAGS _IO(0xAF, 0x01)
#define KAGE_TEST_NO_CHAIN (1u << 0)    /* translated blocks are never linked to each other */
#define KAGE_TEST_SINGLE_INSN (1u << 1) /* one instruction a block */
#define KAGE_TEST_TINY_TLB (1u << 2)    /* a first-level TLB of one entry */

#ifdef __cplusplus
}
#endif

#endif
