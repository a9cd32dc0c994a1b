/* SPDX-License-Identifier: MIT */
/*
 * What every KVM object has in common: its kind, its handle and its references, and the table from
 * handles to objects. A handle is a real file descriptor, of a memfd (a vCPU's is its mapping), so
 * that its number is nobody else's, and poll(2), epoll_ctl(2) and fcntl(2) answer as they do for the
 * kernel's handles, which have no poll operation either. An object lives until its last handle is
 * closed and the last reference is dropped: a vCPU holds one on its VM.
 *
 * Lock order in kvm/: vCPU mutex, VM mutex, MMU mutex, handle-table mutex.
 */
#ifndef KAGE_KVM_OBJECT_H
#define KAGE_KVM_OBJECT_H

#include <stdatomic.h>
#include <sys/types.h>

#include <linux/kvm.h>

#include "arch/types.h"

enum kvm_kind { KVM_KIND_SYSTEM, KVM_KIND_VM, KVM_KIND_VCPU, KVM_KIND_COUNT };

struct kvm_object {
    enum kvm_kind kind;
    atomic_uint refs;
    pid_t pid; /* the process that made it: inert in any other */
    uint64_t serial; /* in the order in which they were made, from 1 */
    dev_t dev; /* of its descriptors */
    ino_t ino;
};

/*
 * The third argument of an ioctl. A structure of fixed size is copied in before, and out after success: its handler sees
 * the engine's copy, which the client cannot change meanwhile, and an address that leads nowhere is EFAULT. The size is
 * the request's own (_IOC_SIZE).
 */
enum kvm_arg {
    KVM_ARG_VALUE, /* a number, or nothing: as it came */
    KVM_ARG_IN,
    KVM_ARG_OUT,   /* zeroed before */
    KVM_ARG_INOUT,
    KVM_ARG_RAW,   /* the client's address, NULL included: the handler copies, by kvm_copy_in() and kvm_copy_out() */
};
#define KVM_ARG_MAX_BYTES 4096u

/* An ioctl: 0 or a positive answer, or -errno. */
typedef int kvm_ioctl_fn(struct kvm_object *object, void *arg);

/* 0 or -EFAULT; what was copied before the fault stays. `client` is any number that a client gave as an address. */
KAGE_MUST_CHECK int kvm_copy_in(void *to, const void *client, size_t bytes);
KAGE_MUST_CHECK int kvm_copy_out(void *client, const void *from, size_t bytes);

struct kvm_ioctl_desc {
    uint32_t request;
    enum kvm_arg kind;
    kvm_ioctl_fn *fn;
};

/* The ioctls of one kind of object. */
struct kvm_ioctl_table {
    const struct kvm_ioctl_desc *rows;
    size_t count;
};
extern const struct kvm_ioctl_table kvm_system_ioctls, kvm_vm_ioctls, kvm_vcpu_ioctls;

/* getpid(2), cheaper. */
pid_t kvm_process(void);

void kvm_object_init(struct kvm_object *object, enum kvm_kind kind);
struct kvm_object *kvm_object_get(struct kvm_object *object);
/* Drops a reference; the last one frees the object. */
void kvm_object_put(struct kvm_object *object);

/* A descriptor to be a handle, or -1 and errno. */
int kvm_handle_new_fd(const char *name);
/* Gives the object the handle `fd`; takes over the caller's reference and the descriptor. 0 or -ENOMEM. */
KAGE_MUST_CHECK int kvm_handle_install(int fd, struct kvm_object *object);
/* The object of a handle with a reference for the caller, or NULL. */
struct kvm_object *kvm_handle_lookup(int fd);
/* Calls fn for the object of every handle of this process, with the table locked: it may take references, not drop the last. */
void kvm_handle_each(void (*fn)(struct kvm_object *object, void *arg), void *arg);
/* Closes a handle: 0 or -EBADF. */
int kvm_handle_close(int fd);

/* Freeing, by kind (vm.c, vcpu.c). */
void kvm_vm_free(struct kvm_object *object);
void kvm_vcpu_free(struct kvm_object *object);

int kvm_vm_create(uintptr_t type); /* a handle, or -errno */

/* KVM_CHECK_EXTENSION, on the system and on a VM alike (system.c). */
int kvm_check_extension(uintptr_t capability);

/* KVM_GET_MSRS on the system: feature MSRs (msr.c). */
int kvm_msr_get_features(struct kvm_msrs *msrs);
int kvm_msr_index_list(struct kvm_msr_list *list, bool features);

#endif
