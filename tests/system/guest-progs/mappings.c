/* SPDX-License-Identifier: MIT */
/*
 * Mappings that change all the time, with their contents verified, for the seconds given (argv[1], 2 by default): several processes
 * at once that map, unmap, protect, move and throw away pages of their own by a model of what each page must be; a second thread in
 * each that reads what the first one replaces; fork, after which parent and child see what was there; and a storm of fork and exec
 * of this program. Prints its seed; argv[2] sets it.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { PAGE = 4096, PAGES = 384, WORKERS = 4, STORMS = 3 };

static double deadline;
static const char *self_path;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool over(void)
{
    return now_s() > deadline;
}

/* ---- faults ---- */

static sigjmp_buf on_fault;
static volatile uintptr_t fault_address;
static volatile int fault_code;

static void handle_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    fault_address = (uintptr_t)info->si_addr;
    fault_code = info->si_code;
    siglongjmp(on_fault, 1);
}

/* si_code of the fault that an access makes, 0 for none, -1 if it is reported for another address. */
static int access_faults(volatile uint64_t *at, bool write)
{
    if (sigsetjmp(on_fault, 1))
        return fault_address == (uintptr_t)at ? fault_code : -1;
    if (write)
        *at = *at;
    else
        (void)*at;
    return 0;
}

/* ---- one process's pages, and what they must be ---- */

struct page {
    bool mapped;
    int prot;
    uint64_t seed; /* of the contents; 0: zeros */
};

static struct page pages[PAGES];
static char *arena;
static uint64_t random_state, seeds;

static unsigned below(unsigned n)
{
    return (unsigned)((next_random(&random_state) >> 33) % n);
}

static volatile uint64_t *page_word(unsigned i, unsigned word)
{
    return (volatile uint64_t *)(void *)(arena + (size_t)i * PAGE) + word;
}

static uint64_t expected_word(const struct page *p, unsigned word)
{
    return p->seed ? (p->seed + word) * 0x9e3779b97f4a7c15ull : 0;
}

static const uint8_t words_looked_at[] = {0, 1, 63, 255};

/* Every page that can be read has its contents; every access that must not go through faults as it should. */
static void verify_page(unsigned i)
{
    const struct page *p = &pages[i];
    if (p->mapped && (p->prot & PROT_READ)) {
        for (unsigned n = 0; n < sizeof words_looked_at; n++)
            if (*page_word(i, 2u * words_looked_at[n]) != expected_word(p, 2u * words_looked_at[n])) {
                FAIL("the contents of a page are wrong");
                printf("page %u word %u is %llx, not %llx\n", i, 2u * words_looked_at[n], (unsigned long long)*page_word(i, 2u * words_looked_at[n]),
                       (unsigned long long)expected_word(p, 2u * words_looked_at[n]));
                return;
            }
    } else {
        CHECK(access_faults(page_word(i, below(512)), false) == (p->mapped ? SEGV_ACCERR : SEGV_MAPERR));
    }
    if (p->mapped && p->prot == PROT_READ)
        CHECK(access_faults(page_word(i, below(512)), true) == SEGV_ACCERR);
}

static void verify_all(void)
{
    for (unsigned i = 0; i < PAGES; i++)
        verify_page(i);
}

static void write_page(unsigned i)
{
    struct page *p = &pages[i];
    if (!p->mapped || p->prot != (PROT_READ | PROT_WRITE))
        return;
    p->seed = ++seeds << 8 | (unsigned)getpid() << 20 | 1;
    for (unsigned word = 0; word < 512; word++)
        *page_word(i, word) = expected_word(p, word);
}

static int random_prot(void)
{
    static const int prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE};
    return prots[below(4)];
}

static void do_map(unsigned first, unsigned count)
{
    const int prot = random_prot();
    void *at = arena + (size_t)first * PAGE;
    CHECK(mmap(at, (size_t)count * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (below(8) ? 0 : MAP_POPULATE), -1, 0) == at);
    for (unsigned i = first; i < first + count; i++)
        pages[i] = (struct page){true, prot, 0};
}

static void do_unmap(unsigned first, unsigned count)
{
    CHECK(munmap(arena + (size_t)first * PAGE, (size_t)count * PAGE) == 0);
    for (unsigned i = first; i < first + count; i++)
        pages[i] = (struct page){0};
}

/* The part of the range, from its start on, that is mapped. */
static unsigned mapped_run(unsigned first, unsigned count)
{
    unsigned n = 0;
    while (n < count && pages[first + n].mapped)
        n++;
    return n;
}

static void do_protect(unsigned first, unsigned count)
{
    const int prot = random_prot();
    if (!(count = mapped_run(first, count)))
        return;
    CHECK(mprotect(arena + (size_t)first * PAGE, (size_t)count * PAGE, prot) == 0);
    for (unsigned i = first; i < first + count; i++)
        pages[i].prot = prot;
}

static void do_forget(unsigned first, unsigned count)
{
    if (!(count = mapped_run(first, count)))
        return;
    CHECK(madvise(arena + (size_t)first * PAGE, (size_t)count * PAGE, MADV_DONTNEED) == 0);
    for (unsigned i = first; i < first + count; i++)
        pages[i].seed = 0;
}

/* Moves a run of pages of one kind (mremap wants one mapping) onto others. */
static void do_move(unsigned first, unsigned count)
{
    unsigned n = 0, to = below(PAGES - count);
    while (n < count && pages[first + n].mapped && pages[first + n].prot == pages[first].prot)
        n++;
    if (!n || (to < first + n && first < to + n))
        return;
    void *at = arena + (size_t)to * PAGE;
    if (mremap(arena + (size_t)first * PAGE, (size_t)n * PAGE, (size_t)n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at) {
        /* Several mappings of the same kind that were not merged: nothing has moved, but the target may be gone. */
        CHECK(errno == EFAULT);
        do_map(to, n);
        return;
    }
    memcpy(&pages[to], &pages[first], n * sizeof pages[0]);
    memset(&pages[first], 0, n * sizeof pages[0]);
}

/* The child sees what was there, and what it writes is its own; so it is for the parent. */
static void do_fork(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        check_failed = 0;
        verify_all();
        for (unsigned i = 0; i < 40; i++)
            write_page(below(PAGES));
        verify_all();
        _exit(check_failed != 0);
    }
    for (unsigned i = 0; i < 40; i++)
        write_page(below(PAGES));
    int status = -1;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    verify_all();
}

/* ---- what one thread replaces, another reads ---- */

static uint64_t *shared_view;
static volatile uint32_t shared_least, shared_over;

static void *read_shared(void *unused)
{
    uint64_t reads = 0;
    (void)unused;
    while (!shared_over) {
        const uint32_t least = __atomic_load_n(&shared_least, __ATOMIC_SEQ_CST);
        const uint64_t seen = *(volatile uint64_t *)shared_view;
        if (seen < least)
            FAIL("a page that was replaced is still there");
        reads++;
    }
    return (void *)(uintptr_t)(reads != 0);
}

/* Two pages of a file in turn under one address: the one that is not there gets the next number, then takes its place. */
static void replace_shared(int fd, uint64_t *const both, unsigned count)
{
    static uint32_t version;
    for (unsigned n = 0; n < count; n++) {
        const uint32_t next = version + 1;
        both[next % 2 * (PAGE / 8)] = next;
        CHECK(mmap(shared_view, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)(next % 2 * PAGE)) == shared_view);
        version = next;
        __atomic_store_n(&shared_least, next, __ATOMIC_SEQ_CST);
    }
}

static int work(uint64_t seed)
{
    unsigned long rounds = 0;
    void *read_any = NULL;
    pthread_t reader;
    int fd = (int)syscall(SYS_memfd_create, "shared", 0);
    random_state = seed;
    arena = mmap(NULL, (size_t)PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint64_t *both = NULL;
    if (fd < 0 || ftruncate(fd, 2 * PAGE) != 0 || arena == MAP_FAILED ||
        (both = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED ||
        (shared_view = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED ||
        pthread_create(&reader, NULL, read_shared, NULL) != 0) {
        FAIL("cannot start");
        return 1;
    }
    do_unmap(0, PAGES);
    do {
        const unsigned first = below(PAGES), most = PAGES - first < 24 ? PAGES - first : 24, count = 1 + below(most);
        switch (below(10)) {
        case 0: case 1: do_map(first, count); break;
        case 2: do_unmap(first, count); break;
        case 3: case 4: do_protect(first, count); break;
        case 5: do_forget(first, count); break;
        case 6: do_move(first, count); break;
        case 7: replace_shared(fd, both, 4); break;
        default:
            for (unsigned i = first; i < first + count; i++)
                write_page(i);
        }
        for (unsigned i = 0; i < 12; i++)
            verify_page(below(PAGES));
        if (++rounds % 64 == 0)
            do_fork();
        if (rounds % 256 == 0)
            verify_all();
    } while ((!over() || rounds < 64) && check_failed < 5); /* 64: at least one fork, on any machine */
    verify_all();
    shared_over = 1;
    pthread_join(reader, &read_any);
    CHECK(read_any != NULL);
    return check_failed != 0;
}

/* ---- fork and exec ---- */

static uint64_t mix(uint64_t v)
{
    return (v ^ v >> 31) * 0x9e3779b97f4a7c15ull;
}

/* What a program that was started finds: its arguments, its memory, its statics as they were linked. */
static int born(const char *number)
{
    static uint64_t bss[3000];
    static uint64_t data[3000] = {1, 2, 3};
    const uint64_t v = strtoull(number, NULL, 10);
    uint64_t *heap = malloc(200000), sum = 0;
    for (unsigned i = 0; i < 3000; i++)
        sum += bss[i] + data[i];
    if (!heap || sum != 6)
        return 99;
    for (unsigned i = 0; i < 25000; i++)
        heap[i] = mix(v + i);
    for (unsigned i = 0; i < 3000; i++)
        bss[i] = data[i] = v;
    for (unsigned i = 0; i < 25000; i++)
        if (heap[i] != mix(v + i))
            return 98;
    return (int)(v % 97);
}

/* By itself, since vfork() lends the frame to the child. */
static __attribute__((noinline)) pid_t start(bool by_vfork, const char *text)
{
    pid_t pid = by_vfork ? vfork() : fork();
    if (pid == 0) {
        execl(self_path, "mappings", "--born", text, (char *)NULL);
        _exit(97);
    }
    return pid;
}

static int storm(uint64_t seed)
{
    uint64_t number = seed & 0xffff, runs = 0;
    do {
        char text[24];
        int status = -1;
        snprintf(text, sizeof text, "%llu", (unsigned long long)++number);
        const pid_t pid = start(runs % 3 == 2, text);
        CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == (int)(number % 97));
        runs++;
    } while ((!over() || runs < 3) && check_failed < 5);
    return check_failed != 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--born"))
        return born(argv[2]);
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)now_s() * 1000003 + (uint64_t)getpid() + 1;
    pid_t pids[WORKERS + STORMS];
    struct sigaction action = {.sa_sigaction = handle_fault, .sa_flags = SA_SIGINFO};
    self_path = argv[0][0] == '/' || argv[0][0] == '.' ? argv[0] : "/proc/self/exe";
    deadline = now_s() + (argc > 1 ? atof(argv[1]) : 2.0);
    printf("mappings: seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    for (unsigned i = 0; i < WORKERS + STORMS; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            const int result = i < WORKERS ? work(seed * 31 + i + 1) : storm(seed + i);
            fflush(stdout);
            _exit(result);
        }
    }
    for (unsigned i = 0; i < WORKERS + STORMS; i++) {
        int status = -1;
        CHECK(pids[i] > 0 && waitpid(pids[i], &status, 0) == pids[i] && status == 0);
    }
    return check_done("mappings");
}
