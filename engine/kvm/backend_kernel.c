/* SPDX-License-Identifier: MIT */
/*
 * The kernel back end: /dev/kvm by the system calls themselves. Nothing is interpreted here.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kage.h"

static int kernel_open(void)
{
    return open("/dev/kvm", O_RDWR | O_CLOEXEC);
}

static int kernel_ioctl(int handle, unsigned long request, void *arg)
{
    return ioctl(handle, (uint32_t)request, arg);
}

const struct kvm_backend kage_backend_kernel = {
    .name = "kvm",
    .open = kernel_open,
    .ioctl = kernel_ioctl,
    .mmap = mmap,
    .munmap = munmap,
    .close = close,
};

const struct kvm_backend *kage_backend_find(const char *name)
{
    static const struct kvm_backend *const backends[] = { &kage_backend_kernel, &kage_backend_soft };

    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}
