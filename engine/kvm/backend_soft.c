/* SPDX-License-Identifier: MIT */
/*
 * The soft back end: system calls on handles, served from the objects' ioctl tables. The one place
 * where -errno becomes -1 and errno.
 */
#include <errno.h>
#include <sys/mman.h>
#include <stdlib.h>
#include <unistd.h>

#include "kage.h"
#include "kvm/object.h"

static const struct kvm_ioctl_table *const soft_ioctls[KVM_KIND_COUNT] = {
    [KVM_KIND_SYSTEM] = &kvm_system_ioctls,
    [KVM_KIND_VM] = &kvm_vm_ioctls,
    [KVM_KIND_VCPU] = &kvm_vcpu_ioctls,
};

static int soft_result(int result)
{
    if (result >= 0)
        return result;
    errno = -result;
    return -1;
}

static int soft_open(void)
{
    struct kvm_object *system = calloc(1, sizeof(*system));
    if (!system)
        return soft_result(-ENOMEM);
    int fd = kvm_handle_new_fd("kvm");
    if (fd < 0) {
        free(system);
        return -1;
    }
    kvm_object_init(system, KVM_KIND_SYSTEM);
    int err = kvm_handle_install(fd, system);
    if (err) {
        close(fd);
        free(system);
        return soft_result(err);
    }
    return fd;
}

static int soft_dispatch(struct kvm_object *object, uint32_t request, void *arg)
{
    const struct kvm_ioctl_table *table = soft_ioctls[object->kind];

    if (object->kind != KVM_KIND_SYSTEM && object->pid != getpid())
        return -EIO;
    for (size_t i = 0; i < table->count; i++) {
        const struct kvm_ioctl_desc *row = &table->rows[i];
        if (row->request != request)
            continue;
        if (row->takes_pointer && !arg)
            return -EFAULT;
        return row->fn(object, arg);
    }
    return -ENOTTY;
}

static int soft_ioctl(int handle, unsigned long request, void *arg)
{
    struct kvm_object *object = kvm_handle_lookup(handle);
    if (!object)
        return soft_result(-EBADF);
    int result = soft_dispatch(object, (uint32_t)request, arg);
    kvm_object_put(object);
    return soft_result(result);
}

/* A vCPU's handle is the memfd of its mapping, so the system's own mmap serves it. */
static void *soft_mmap(void *addr, size_t length, int prot, int flags, int handle, off_t offset)
{
    struct kvm_object *object = kvm_handle_lookup(handle);
    if (!object) {
        errno = EBADF;
        return MAP_FAILED;
    }
    bool mappable = object->kind == KVM_KIND_VCPU;
    kvm_object_put(object);
    if (!mappable) {
        errno = ENODEV;
        return MAP_FAILED;
    }
    return mmap(addr, length, prot, flags, handle, offset);
}

static int soft_close(int handle)
{
    return soft_result(kvm_handle_close(handle));
}

const struct kvm_backend kage_backend_soft = {
    .name = "soft",
    .open = soft_open,
    .ioctl = soft_ioctl,
    .mmap = soft_mmap,
    .munmap = munmap,
    .close = soft_close,
};
