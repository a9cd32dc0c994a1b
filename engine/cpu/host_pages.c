/* SPDX-License-Identifier: MIT */
/*
 * Host pages of guest memory (see host_pages.h). Lock order: a VM's code lock, then pages_lock; who has only pages_lock may try
 * the other. Nothing here touches guest memory with a lock held, so that the signal handler may take them.
 */
#include "cpu/host_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>


#define BUCKETS 16384u
#define PROT_UNKNOWN (-1)

struct range {
    uintptr_t first, end;
    unsigned users;
    int prot; /* of all its mappings, PROT_UNKNOWN (look), or PROT_NONE (they differ, or are not writable) */
};

struct pin {
    uintptr_t first, end;
};

static pthread_mutex_t pages_lock = PTHREAD_MUTEX_INITIALIZER;
static struct code_page *frozen[BUCKETS]; /* by host page */
static struct range *ranges;
static size_t range_room;
static _Atomic size_t range_count;
static struct pin *pins; /* where the kernel writes at the moment */
static size_t pin_count, pin_room;

static struct code_page **bucket_of(uintptr_t page)
{
    return &frozen[(page >> KAGE_PAGE_SHIFT) % BUCKETS];
}

static uintptr_t page_of(const struct code_page *p)
{
    return (uintptr_t)p->host;
}

static struct code_page *find_frozen(uintptr_t page)
{
    struct code_page *p = *bucket_of(page);

    while (p != NULL && page_of(p) != page) {
        p = p->next_frozen;
    }
    return p;
}

/* ---- ranges ---- */

/* One line of /proc/self/maps: "first-end rwxp …". Returns what follows it, or NULL if it is not whole. */
static const char *parse_mapping(const char *s, const char *end, uintptr_t *first, uintptr_t *last, int *prot)
{
    uintptr_t *value = first;

    *first = *last = 0;
    for (; s < end && *s != ' '; s++) {
        if (*s == '-') {
            value = last;
        } else {
            *value = *value << 4 | (uintptr_t)(*s <= '9' ? *s - '0' : *s - 'a' + 10);
        }
    }
    if (end - s < 5) {
        return NULL;
    }
    *prot = (s[1] == 'r' ? PROT_READ : 0) | (s[2] == 'w' ? PROT_WRITE : 0) | (s[3] == 'x' ? PROT_EXEC : 0);
    while (s < end && *s != '\n') {
        s++;
    }
    return s < end ? s + 1 : NULL;
}

/* Read-only mappings of ours look like this one. */
static bool all_frozen(uintptr_t first, uintptr_t end)
{
    for (uintptr_t page = first; page < end; page += KAGE_PAGE_SIZE) {
        if (find_frozen(page) == NULL) {
            return false;
        }
    }
    return true;
}

/* What all mappings of the range allow, if it is the same and can be written; else PROT_NONE. */
static int look_up_prot(const struct range *r)
{
    char text[4096];
    size_t have = 0;
    ssize_t got;
    uintptr_t covered = r->first;
    int result = PROT_UNKNOWN;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return PROT_NONE;
    }
    while (covered < r->end && (got = read(fd, text + have, sizeof(text) - have)) > 0) {
        const char *s = text, *next;
        uintptr_t first, end;
        int prot;
        have += (size_t)got;
        while ((next = parse_mapping(s, text + have, &first, &end, &prot)) != NULL) {
            s = next;
            if (end <= covered || first >= r->end) {
                continue;
            }
            first = first < r->first ? r->first : first;
            end = end > r->end ? r->end : end;
            if (first != covered) {
                break; /* a hole */
            }
            if ((prot & PROT_WRITE) == 0 && (prot & PROT_READ) != 0 && all_frozen(first, end)) {
                prot |= PROT_WRITE;
            }
            if (result != PROT_UNKNOWN && prot != result) {
                break;
            }
            result = prot;
            covered = end;
        }
        have -= (size_t)(s - text);
        memmove(text, s, have);
    }
    close(fd);
    return covered == r->end && (result & (PROT_READ | PROT_WRITE)) == (PROT_READ | PROT_WRITE) ? result : PROT_NONE;
}

int host_range_add(hva_t hva, uint64_t bytes)
{
    struct range r = {.first = hva, .end = hva + bytes, .users = 1, .prot = PROT_UNKNOWN};
    int err = 0;

    pthread_mutex_lock(&pages_lock);
    size_t count = range_count;
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].first == r.first && ranges[i].end == r.end) {
            ranges[i].users++;
            goto out_unlock;
        }
    }
    if (count == range_room) {
        size_t room = range_room != 0 ? range_room * 2 : 16;
        struct range *more = realloc(ranges, room * sizeof(*ranges));
        if (more == NULL) {
            err = -ENOMEM;
            goto out_unlock;
        }
        ranges = more;
        range_room = room;
    }
    ranges[count] = r;
    range_count = count + 1;
out_unlock:
    pthread_mutex_unlock(&pages_lock);
    return err;
}

void host_range_remove(hva_t hva, uint64_t bytes)
{
    pthread_mutex_lock(&pages_lock);
    for (size_t i = 0; i < range_count; i++) {
        if (ranges[i].first == hva && ranges[i].end == hva + bytes) {
            if (--ranges[i].users == 0) {
                ranges[i] = ranges[range_count - 1];
                range_count--;
            }
            break;
        }
    }
    pthread_mutex_unlock(&pages_lock);
}

static struct range *range_of(uintptr_t addr)
{
    for (size_t i = 0; i < range_count; i++) {
        if (addr >= ranges[i].first && addr < ranges[i].end) {
            return &ranges[i];
        }
    }
    return NULL;
}

static bool meets_ranges(uintptr_t first, uintptr_t end)
{
    for (size_t i = 0; i < range_count; i++) {
        if (first < ranges[i].end && end > ranges[i].first) {
            return true;
        }
    }
    return false;
}

bool host_range_has(const void *addr)
{
    pthread_mutex_lock(&pages_lock);
    bool has = range_of((uintptr_t)addr) != NULL;
    pthread_mutex_unlock(&pages_lock);
    return has;
}

/* ---- freezing ---- */

static bool is_pinned(uintptr_t page)
{
    for (size_t i = 0; i < pin_count; i++) {
        if (page < pins[i].end && page + KAGE_PAGE_SIZE > pins[i].first) {
            return true;
        }
    }
    return false;
}

bool host_page_freeze(struct code_page *p)
{
    uintptr_t page = page_of(p);
    bool done = false;

    pthread_mutex_lock(&pages_lock);
    struct range *r = range_of(page);
    if (r == NULL || is_pinned(page)) {
        goto out_unlock;
    }
    if (r->prot == PROT_UNKNOWN) {
        r->prot = look_up_prot(r);
    }
    if (r->prot == PROT_NONE || mprotect((void *)page, KAGE_PAGE_SIZE, r->prot & ~PROT_WRITE) != 0) {
        goto out_unlock;
    }
    p->next_frozen = *bucket_of(page);
    *bucket_of(page) = p;
    done = true;
out_unlock:
    pthread_mutex_unlock(&pages_lock);
    return done;
}

/* pages_lock held. */
static void thaw(struct code_page *p)
{
    uintptr_t page = page_of(p);
    struct code_page **at = bucket_of(page);

    while (*at != NULL && *at != p) {
        at = &(*at)->next_frozen;
    }
    if (*at == NULL) {
        return;
    }
    *at = p->next_frozen;
    if (find_frozen(page) == NULL) { /* no other guest page lies there */
        const struct range *r = range_of(page);
        int prot = r != NULL && r->prot > PROT_NONE ? r->prot : PROT_READ | PROT_WRITE;
        mprotect((void *)page, KAGE_PAGE_SIZE, prot); /* fails where the client has unmapped it */
    }
}

void host_page_thaw(struct code_page *p)
{
    pthread_mutex_lock(&pages_lock);
    thaw(p);
    pthread_mutex_unlock(&pages_lock);
}

/* Drops the code of one host page, as far as its VM's lock is free. False: none there. */
static bool drop_page(uintptr_t page)
{
    pthread_mutex_lock(&pages_lock);
    struct code_page *p = find_frozen(page);
    if (p == NULL) {
        pthread_mutex_unlock(&pages_lock);
        return false;
    }
    struct cpu_vm *vm = p->vm;
    bool locked = pthread_mutex_trylock(&vm->lock) == 0; /* with it the VM stays, and the page in its table */
    pthread_mutex_unlock(&pages_lock);
    if (locked) {
        code_page_let_go(NULL, p);
        pthread_mutex_unlock(&vm->lock);
    } else {
        sched_yield();
    }
    return true;
}

bool host_page_written(const void *addr)
{
    int err = errno;
    uintptr_t page = (uintptr_t)addr & KAGE_PAGE_MASK;
    bool ours = range_count != 0 && drop_page(page);

    if (!ours && range_count != 0) {
        pthread_mutex_lock(&pages_lock); /* nobody freezes or thaws meanwhile */
        ours = range_of(page) != NULL && look_up_prot(&(struct range){.first = page, .end = page + KAGE_PAGE_SIZE}) != PROT_NONE;
        pthread_mutex_unlock(&pages_lock); /* if so, another thread's store has thawed it since */
    }
    errno = err;
    return ours;
}

void host_pages_forget(struct cpu_vm *vm)
{
    pthread_mutex_lock(&pages_lock);
    for (uint32_t i = 1; i < vm->page_count; i++) {
        if (vm->pages[i].guard == CODE_GUARD_FROZEN) {
            thaw(&vm->pages[i]);
        }
    }
    pthread_mutex_unlock(&pages_lock);
    pthread_mutex_lock(&vm->lock); /* a handler may be at work there */
    pthread_mutex_unlock(&vm->lock);
}

/* ---- fork ---- */

static void before_fork(void)
{
    pthread_mutex_lock(&pages_lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&pages_lock);
}

/* Handles are inert in the child, but its memory is its own. */
static void in_child(void)
{
    for (unsigned i = 0; i < BUCKETS; i++) {
        while (frozen[i] != NULL) {
            thaw(frozen[i]);
        }
    }
    pin_count = 0;
    pthread_mutex_unlock(&pages_lock);
}

/*
 * A constructor, so that this stands before all that the client registers: what the client prepares for a fork then runs before pages_lock is
 * taken, and may store into guest memory, for which the signal handler takes that lock.
 */
__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, in_child);
}

/* ---- what the client tells ---- */

/* A frozen page of the bucket in the range; 0: none. */
static uintptr_t frozen_in(unsigned bucket, uintptr_t first, uintptr_t end)
{
    uintptr_t found = 0;

    pthread_mutex_lock(&pages_lock);
    for (const struct code_page *p = frozen[bucket]; p != NULL && found == 0; p = p->next_frozen) {
        if (page_of(p) + KAGE_PAGE_SIZE > first && page_of(p) < end) {
            found = page_of(p);
        }
    }
    pthread_mutex_unlock(&pages_lock);
    return found;
}

static void drop_range(uintptr_t first, uintptr_t end)
{
    if ((end - first) >> KAGE_PAGE_SHIFT > BUCKETS) { /* gigabytes: what is frozen is less */
        for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
            uintptr_t page;
            while ((page = frozen_in(bucket, first, end)) != 0) {
                drop_page(page);
            }
        }
        return;
    }
    for (uintptr_t page = first & KAGE_PAGE_MASK; page < end; page += KAGE_PAGE_SIZE) {
        while (drop_page(page)) {
        }
    }
}

void host_write_begins(uintptr_t first, uintptr_t end)
{
    if (range_count == 0 || end <= first) {
        return;
    }
    pthread_mutex_lock(&pages_lock);
    bool ours = meets_ranges(first, end);
    if (ours && pin_count == pin_room) {
        size_t room = pin_room != 0 ? pin_room * 2 : 16;
        struct pin *more = realloc(pins, room * sizeof(*pins));
        ours = more != NULL;
        if (ours) {
            pins = more;
            pin_room = room;
        }
    }
    if (ours) {
        pins[pin_count++] = (struct pin){.first = first, .end = end};
    }
    pthread_mutex_unlock(&pages_lock);
    if (ours) {
        drop_range(first, end);
    }
}

void host_write_ends(uintptr_t first, uintptr_t end)
{
    if (end <= first) {
        return;
    }
    pthread_mutex_lock(&pages_lock);
    for (size_t i = pin_count; i-- > 0;) {
        if (pins[i].first == first && pins[i].end == end) {
            pins[i] = pins[--pin_count];
            break;
        }
    }
    pthread_mutex_unlock(&pages_lock);
}

void host_mapping_changed(uintptr_t first, uintptr_t end)
{
    if (range_count == 0 || end <= first) {
        return;
    }
    pthread_mutex_lock(&pages_lock);
    bool ours = meets_ranges(first, end);
    for (size_t i = 0; i < range_count; i++) {
        if (first < ranges[i].end && end > ranges[i].first) {
            ranges[i].prot = PROT_UNKNOWN;
        }
    }
    pthread_mutex_unlock(&pages_lock);
    if (ours) {
        uintptr_t low = UINTPTR_MAX, high = 0;
        for (size_t i = 0; i < range_count; i++) { /* of a huge range only what can be frozen */
            low = ranges[i].first < low ? ranges[i].first : low;
            high = ranges[i].end > high ? ranges[i].end : high;
        }
        drop_range(first > low ? first : low, end < high ? end : high);
    }
}
