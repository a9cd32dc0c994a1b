/* SPDX-License-Identifier: MIT */
/*
 * The table from file descriptors to KVM objects, and the objects' references. Descriptors are
 * small numbers, so the table is an array indexed by them. Each entry holds a reference. A descriptor
 * may be closed behind the table's back (close_range(2), a raw system call): every object knows the
 * inode behind its descriptors, and what has another inode is no handle.
 *
 * In a forked child the table is a copy: its entries are left alone, since the objects' threads and
 * memory are the parent's.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kage.h"
#include "kvm/object.h"

static pthread_mutex_t handle_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvm_object **handle_table;
static size_t handle_count;

static void (*const kvm_object_free[KVM_KIND_COUNT])(struct kvm_object *) = {
    [KVM_KIND_SYSTEM] = NULL, /* plain memory */
    [KVM_KIND_VM] = kvm_vm_free,
    [KVM_KIND_VCPU] = kvm_vcpu_free,
};

/* One page that fork(2) empties in the child: the process's ID, without a system call at each ioctl. */
static pid_t *process_pid;
static pthread_once_t process_once = PTHREAD_ONCE_INIT;

static void process_init(void)
{
    void *page = mmap(NULL, KAGE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page != MAP_FAILED && madvise(page, KAGE_PAGE_SIZE, MADV_WIPEONFORK) == 0)
        process_pid = page;
}

pid_t kvm_process(void)
{
    pthread_once(&process_once, process_init);
    if (!process_pid)
        return getpid();
    pid_t pid = __atomic_load_n(process_pid, __ATOMIC_RELAXED);
    if (!pid) {
        pid = getpid();
        __atomic_store_n(process_pid, pid, __ATOMIC_RELAXED);
    }
    return pid;
}

void kvm_object_init(struct kvm_object *object, enum kvm_kind kind)
{
    static _Atomic uint64_t last_serial;

    object->kind = kind;
    object->serial = atomic_fetch_add(&last_serial, 1) + 1;
    atomic_init(&object->refs, 1u);
    object->pid = kvm_process();
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

int kvm_handle_new_fd(const char *name)
{
    return memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

static void handle_before_fork(void)
{
    pthread_mutex_lock(&handle_lock);
}

static void handle_after_fork(void)
{
    pthread_mutex_unlock(&handle_lock);
}

/* The child of a fork must not find the table locked by a thread that it does not have. */
static void handle_init_once(void)
{
    pthread_atfork(handle_before_fork, handle_after_fork, handle_after_fork);
}

/* Table locked: puts an object (or NULL) at `fd`. What was there is returned, for kvm_object_put() without the lock. */
static struct kvm_object *handle_exchange(int fd, struct kvm_object *object)
{
    struct kvm_object *stale = handle_table[fd];

    handle_table[fd] = object;
    return stale && stale->pid == getpid() ? stale : NULL;
}

int kvm_handle_install(int fd, struct kvm_object *object)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct kvm_object *stale = NULL;
    struct stat st;
    int err = 0;

    pthread_once(&once, handle_init_once);
    if (fstat(fd, &st) < 0)
        return -errno;
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
        object->dev = st.st_dev;
        object->ino = st.st_ino;
        stale = handle_exchange(fd, object); /* its descriptor was closed behind our back */
    }
    pthread_mutex_unlock(&handle_lock);
    if (stale)
        kvm_object_put(stale);
    return err;
}

/* Table locked: the object whose handle `fd` is said to be, or NULL. */
static struct kvm_object *handle_at(int fd)
{
    return fd >= 0 && (size_t)fd < handle_count ? handle_table[fd] : NULL;
}

struct kvm_object *kvm_handle_lookup(int fd)
{
    pthread_mutex_lock(&handle_lock);
    struct kvm_object *object = handle_at(fd);
    if (object)
        kvm_object_get(object);
    pthread_mutex_unlock(&handle_lock);
    return object;
}

int kvm_handle_close(int fd)
{
    struct kvm_object *object = NULL;

    pthread_mutex_lock(&handle_lock);
    bool known = handle_at(fd) != NULL;
    if (known) {
        /* In a child of vfork(2) the table is the parent's own. */
        if (handle_at(fd)->pid == getpid())
            object = handle_exchange(fd, NULL);
        close(fd); /* inside the lock: the number may be handed out again at once */
    }
    pthread_mutex_unlock(&handle_lock);
    if (!known)
        return -EBADF;
    if (object)
        kvm_object_put(object);
    return 0;
}

void kvm_handle_each(void (*fn)(struct kvm_object *object, void *arg), void *arg)
{
    pthread_mutex_lock(&handle_lock);
    for (size_t i = 0; i < handle_count; i++)
        if (handle_table[i] && handle_table[i]->pid == kvm_process())
            fn(handle_table[i], arg);
    pthread_mutex_unlock(&handle_lock);
}

static bool handle_is_object(int fd, const struct kvm_object *object)
{
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_ino == object->ino && st.st_dev == object->dev;
}

enum kage_handle_kind kage_handle_kind(int fd)
{
    static const enum kage_handle_kind kinds[KVM_KIND_COUNT] = {
        [KVM_KIND_SYSTEM] = KAGE_HANDLE_SYSTEM, [KVM_KIND_VM] = KAGE_HANDLE_VM, [KVM_KIND_VCPU] = KAGE_HANDLE_VCPU
    };
    struct kvm_object *stale = NULL;
    enum kage_handle_kind kind = KAGE_HANDLE_NONE;
    int saved = errno;

    pthread_mutex_lock(&handle_lock);
    struct kvm_object *object = handle_at(fd);
    if (object && handle_is_object(fd, object))
        kind = kinds[object->kind];
    else if (object && object->pid == getpid())
        stale = handle_exchange(fd, NULL);
    pthread_mutex_unlock(&handle_lock);
    if (stale)
        kvm_object_put(stale);
    errno = saved;
    return kind;
}

int kage_handle_add(int handle, int fd)
{
    struct kvm_object *object = kvm_handle_lookup(handle);

    if (!object) {
        errno = EBADF;
        return -1;
    }
    int err = object->pid == getpid() ? kvm_handle_install(fd, object) : -EIO;
    if (!err)
        return 0;
    kvm_object_put(object);
    errno = -err;
    return -1;
}

void kage_handles_close(unsigned first, unsigned last)
{
    for (;;) {
        struct kvm_object *object = NULL;
        pthread_mutex_lock(&handle_lock);
        for (; first <= last && first < handle_count && !object; first++)
            if (handle_table[first] && handle_table[first]->pid == getpid())
                object = handle_exchange((int)first, NULL);
        pthread_mutex_unlock(&handle_lock);
        if (!object)
            return;
        kvm_object_put(object);
    }
}
