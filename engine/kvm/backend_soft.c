/* SPDX-License-Identifier: MIT */
/*
 * The soft back end: system calls on handles, served from the objects' ioctl tables. The one place
 * where -errno becomes -1 and errno.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/guarded_copy.h"
#include "cpu/run.h"
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

int kvm_copy_in(void *to, const void *client, size_t bytes)
{
    return cpu_guarded_copy(to, client, bytes) ? -EFAULT : 0;
}

int kvm_copy_out(void *client, const void *from, size_t bytes)
{
    return cpu_guarded_copy(client, from, bytes) ? -EFAULT : 0;
}

static int soft_open(void)
{
    int err = cpu_signal_init(); /* from now on a client's bad address is an error, not a crash */
    if (err)
        return soft_result(err);
    struct kvm_object *system = calloc(1, sizeof(*system));
    if (!system)
        return soft_result(-ENOMEM);
    int fd = kvm_handle_new_fd("kvm");
    if (fd < 0) {
        free(system);
        return -1;
    }
    kvm_object_init(system, KVM_KIND_SYSTEM);
    err = kvm_handle_install(fd, system);
    if (err) {
        close(fd);
        free(system);
        return soft_result(err);
    }
    return fd;
}

static int soft_call_with_copy(struct kvm_object *object, const struct kvm_ioctl_desc *row, void *arg)
{
    _Alignas(16) uint8_t copy[KVM_ARG_MAX_BYTES];
    size_t bytes = _IOC_SIZE(row->request);

    if (bytes > sizeof(copy))
        return -EINVAL; /* no structure of fixed size is: see the tables */
    if (row->kind == KVM_ARG_OUT)
        memset(copy, 0, bytes);
    else if (kvm_copy_in(copy, arg, bytes))
        return -EFAULT;
    int result = row->fn(object, copy);
    if (result >= 0 && row->kind != KVM_ARG_IN && kvm_copy_out(arg, copy, bytes))
        return -EFAULT;
    return result;
}

static int soft_dispatch(struct kvm_object *object, uint32_t request, void *arg)
{
    const struct kvm_ioctl_table *table = soft_ioctls[object->kind];

    if (object->kind != KVM_KIND_SYSTEM && object->pid != kvm_process())
        return -EIO;
    for (size_t i = 0; i < table->count; i++) {
        const struct kvm_ioctl_desc *row = &table->rows[i];
        if (row->request != request)
            continue;
        return row->kind == KVM_ARG_VALUE || row->kind == KVM_ARG_RAW ? row->fn(object, arg)
                                                                     : soft_call_with_copy(object, row, arg);
    }
    return object->kind == KVM_KIND_VM ? -ENOTTY : -EINVAL; /* as the kernel answers for each */
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
    int err = object->kind != KVM_KIND_VCPU ? ENODEV : 0;
    kvm_object_put(object);
    /* The dirty ring's pages are data that both sides see: neither private nor code. */
    if (!err && offset >= (off_t)(KVM_DIRTY_LOG_PAGE_OFFSET * KAGE_PAGE_SIZE) && ((prot & PROT_EXEC) || !(flags & MAP_SHARED)))
        err = EINVAL;
    if (err) {
        errno = err;
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
