/* SPDX-License-Identifier: MIT */
/*
 * The table from file descriptors to KVM objects, and the objects' references. Descriptors are
 * small numbers, so the table is an array indexed by them. It must never hold an object whose
 * descriptor was given back to the system.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm/object.h"

static pthread_mutex_t handle_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvm_object **handle_table;
static size_t handle_count;

static void (*const kvm_object_free[KVM_KIND_COUNT])(struct kvm_object *) = {
    [KVM_KIND_SYSTEM] = NULL, /* plain memory */
    [KVM_KIND_VM] = kvm_vm_free,
    [KVM_KIND_VCPU] = kvm_vcpu_free,
};

void kvm_object_init(struct kvm_object *object, enum kvm_kind kind)
{
    object->kind = kind;
    atomic_init(&object->refs, 1u);
    object->pid = getpid();
}

struct kvm_object *kvm_object_get(struct kvm_object *object)
{
    atomic_fetch_add_explicit(&object->refs, 1u, memory_order_relaxed);
    return object;
}

void kvm_object_put(struct kvm_object *object)
{
    if (atomic_fetch_sub_explicit(&object->refs, 1u, memory_order_acq_rel) != 1)
        return;
    if (kvm_object_free[object->kind])
        kvm_object_free[object->kind](object);
    else
        free(object);
}

int kvm_handle_install(int fd, struct kvm_object *object)
{
    struct kvm_object *stale = NULL;
    int err = 0;

    pthread_mutex_lock(&handle_lock);
    if ((size_t)fd >= handle_count) {
        size_t count = handle_count ? handle_count : 64;
        while (count <= (size_t)fd)
            count *= 2;
        struct kvm_object **table = realloc(handle_table, count * sizeof(*table));
        if (table) {
            memset(table + handle_count, 0, (count - handle_count) * sizeof(*table));
            handle_table = table;
            handle_count = count;
        } else {
            err = -ENOMEM;
        }
    }
    if (!err) {
        stale = handle_table[fd]; /* its descriptor was closed behind our back */
        handle_table[fd] = object;
    }
    pthread_mutex_unlock(&handle_lock);
    if (stale)
        kvm_object_put(stale);
    return err;
}

struct kvm_object *kvm_handle_lookup(int fd)
{
    struct kvm_object *object = NULL;

    pthread_mutex_lock(&handle_lock);
    if (fd >= 0 && (size_t)fd < handle_count && handle_table[fd])
        object = kvm_object_get(handle_table[fd]);
    pthread_mutex_unlock(&handle_lock);
    return object;
}

int kvm_handle_close(int fd)
{
    struct kvm_object *object = NULL;

    pthread_mutex_lock(&handle_lock);
    if (fd >= 0 && (size_t)fd < handle_count) {
        object = handle_table[fd];
        handle_table[fd] = NULL;
        if (object)
            close(fd); /* inside the lock: the number may be handed out again at once */
    }
    pthread_mutex_unlock(&handle_lock);
    if (!object)
        return -EBADF;
    kvm_object_put(object);
    return 0;
}
