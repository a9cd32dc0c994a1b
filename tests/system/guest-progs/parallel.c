/* SPDX-License-Identifier: MIT */
/*
 * Parallel stress for several processors: every job runs on several threads at once for the seconds given
 * (argv[1], 2 by default) and checks its own results. Each says what it did, so that a job that never ran
 * is seen; a hang is the caller's to notice.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "arch.h"
#include "check.h"

enum { WORKERS = 4, PAGE = 4096 };

static double deadline;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool over(void)
{
    return (double)now_ns() / 1e9 > deadline;
}

/* Shared between threads: aligned, so that it is one access in 32-bit code, too. */
typedef uint64_t counter_t __attribute__((aligned(8)));

static uint64_t load(const counter_t *p)
{
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

/* ---- mutexes and condition variables: futexes under contention ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static counter_t mutex_count;
static unsigned mutex_turn;
static bool mutex_over;

static uint64_t job_mutex(unsigned self)
{
    uint64_t mine = 0;

    for (bool stop = false; !stop;) {
        for (int i = 0; i < 100; i++, mine++) {
            pthread_mutex_lock(&mutex);
            mutex_count++;
            pthread_mutex_unlock(&mutex);
        }
        pthread_mutex_lock(&mutex);
        while (mutex_turn != self && !mutex_over) {
            pthread_cond_wait(&changed, &mutex);
        }
        mutex_turn = (self + 1) % WORKERS;
        mutex_over |= over();
        stop = mutex_over;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return mine;
}

static void end_mutex(uint64_t sum)
{
    CHECK(mutex_count == sum);
}

/* ---- processes: fork storms, exit statuses, pipes ---- */

static uint64_t job_fork(unsigned self)
{
    uint64_t mine = 0;

    while (!over()) {
        int fds[2], status = 0;
        uint64_t token = (mine << 8 | self) * 0x9e3779b97f4a7c15ull, got[64];
        CHECK(pipe2(fds, O_CLOEXEC) == 0);
        pid_t child = fork();
        if (child == 0) {
            for (unsigned i = 0; i < 64; i++) {
                got[i] = token + i;
            }
            _exit(write(fds[1], got, sizeof(got)) == sizeof(got) ? (int)(token & 63) : 99);
        }
        CHECK(child > 0);
        close(fds[1]);
        size_t have = 0;
        for (ssize_t n; have < sizeof(got) && (n = read(fds[0], (char *)got + have, sizeof(got) - have)) > 0;) {
            have += (size_t)n;
        }
        close(fds[0]);
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == (int)(token & 63));
        CHECK(have == sizeof(got) && got[0] == token && got[63] == token + 63);
        mine++;
    }
    return mine;
}

/* ---- mappings that come and go while others use theirs ---- */

static uint64_t job_mmap(unsigned self)
{
    uint64_t mine = 0, seed = self * 77 + 1;

    while (!over()) {
        unsigned pages = 1 + (unsigned)(next_random(&seed) >> 60);
        uint64_t *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p != MAP_FAILED);
        bool ok = true;
        for (unsigned i = 0; i < pages * PAGE / 8; i += 64) {
            ok &= p[i] == 0;
            p[i] = seed + i;
        }
        CHECK(mprotect(p, pages * PAGE, PROT_READ) == 0);
        for (unsigned i = 0; i < pages * PAGE / 8; i += 64) {
            ok &= p[i] == seed + i;
        }
        CHECK(ok);
        CHECK(munmap(p, pages * PAGE) == 0);
        mine++;
    }
    return mine;
}

/* ---- shootdown: nobody writes to a page once mprotect(PROT_READ) has returned ---- */

static volatile uint64_t *shot;
static counter_t shot_faults, shot_bad_address, shot_round, shot_over;

static void on_shot(int sig, siginfo_t *info, void *context)
{
    uint64_t round = load(&shot_round);

    (void)sig;
    (void)context;
    if ((volatile uint64_t *)info->si_addr < shot || (volatile uint64_t *)info->si_addr >= shot + PAGE / 8) {
        __atomic_fetch_add(&shot_bad_address, 1, __ATOMIC_SEQ_CST);
        _exit(3); /* a fault of somebody else's: it would repeat for ever */
    }
    __atomic_fetch_add(&shot_faults, 1, __ATOMIC_SEQ_CST);
    while ((round & 1) != 0 && load(&shot_round) == round) {
        sched_yield();
    }
}

static uint64_t job_shootdown(unsigned self)
{
    uint64_t mine = 0;

    if (self != 0) {
        while (load(&shot_over) == 0) {
            shot[self * 8]++;
            mine++;
        }
        return mine;
    }
    while (!over()) {
        uint64_t before[WORKERS];
        __atomic_fetch_add(&shot_round, 1, __ATOMIC_SEQ_CST); /* odd: read-only */
        CHECK(mprotect((void *)(uintptr_t)shot, PAGE, PROT_READ) == 0);
        for (unsigned i = 1; i < WORKERS; i++) {
            before[i] = shot[i * 8];
        }
        for (int i = 0; i < 3; i++) {
            sched_yield();
        }
        bool still = true;
        for (unsigned i = 1; i < WORKERS; i++) {
            still &= shot[i * 8] == before[i];
        }
        CHECK(still);
        CHECK(mprotect((void *)(uintptr_t)shot, PAGE, PROT_READ | PROT_WRITE) == 0);
        __atomic_fetch_add(&shot_round, 1, __ATOMIC_SEQ_CST);
        mine++;
        usleep(200);
    }
    __atomic_store_n(&shot_over, 1, __ATOMIC_SEQ_CST);
    return mine;
}

static void begin_shootdown(void)
{
    struct sigaction action = {.sa_sigaction = on_shot, .sa_flags = SA_SIGINFO};

    shot = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(shot != MAP_FAILED && sigaction(SIGSEGV, &action, NULL) == 0);
}

static void end_shootdown(uint64_t sum)
{
    CHECK(sum > 0 && shot_bad_address == 0);
    signal(SIGSEGV, SIG_DFL);
}

/* ---- signals between threads, and a timer's ---- */

static counter_t signals_sent, signals_taken, alarms;

static void on_signal(int sig)
{
    __atomic_fetch_add(sig == SIGALRM ? &alarms : &signals_taken, 1, __ATOMIC_SEQ_CST);
}

static pthread_t signal_threads[WORKERS];
static counter_t signal_ready, signal_done;

static uint64_t job_signal(unsigned self)
{
    uint64_t mine = 0;

    signal_threads[self] = pthread_self();
    __atomic_fetch_add(&signal_ready, 1, __ATOMIC_SEQ_CST);
    while (load(&signal_ready) < WORKERS) {
        sched_yield();
    }
    do {
        /* Standard signals do not queue: the next is sent when one more was taken. */
        uint64_t taken = load(&signals_taken);
        CHECK(pthread_kill(signal_threads[(self + 1 + mine % (WORKERS - 1)) % WORKERS], SIGUSR1) == 0);
        __atomic_fetch_add(&signals_sent, 1, __ATOMIC_SEQ_CST);
        while (load(&signals_taken) == taken && !over()) {
            sched_yield();
        }
        mine++;
    } while (!over());
    __atomic_fetch_add(&signal_done, 1, __ATOMIC_SEQ_CST);
    while (load(&signal_done) < WORKERS) { /* stay: others may still signal us */
        sched_yield();
    }
    return mine;
}

static void begin_signal(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct itimerval every = {{0, 5000}, {0, 5000}};

    CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
}

static void end_signal(uint64_t sum)
{
    struct itimerval none = {{0, 0}, {0, 0}};

    CHECK(setitimer(ITIMER_REAL, &none, NULL) == 0);
    CHECK(sum == signals_sent && signals_taken > 0 && signals_taken <= signals_sent && alarms > 0);
}

/* ---- migration: the thread is where it was sent ---- */

static uint64_t job_migrate(unsigned self)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t mine = 0;

    while (!over()) {
        unsigned want = (unsigned)((mine + self) % (uint64_t)cpus), is = 0;
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(want, &set);
        CHECK(sched_setaffinity(0, sizeof(set), &set) == 0);
        CHECK(syscall(SYS_getcpu, &is, NULL, NULL) == 0 && is == want);
        CHECK((unsigned)sched_getcpu() == want); /* by the vDSO: RDPID, or the limit of a segment */
        mine++;
    }
    return mine;
}

/* ---- atomics ---- */

static counter_t atomic_add, atomic_exchanged;
static struct { unsigned long low, high; } __attribute__((aligned(16))) pair;

static void pair_add(void)
{
    unsigned long low = pair.low, high = pair.high;
    bool done = false;

    while (!done) {
        unsigned long new_low = low + 1, new_high = high + 2;
        __asm__ volatile(LOCK_CMPXCHG_PAIR " %1"
                         : "=@ccz"(done), "+m"(pair), "+a"(low), "+d"(high)
                         : "b"(new_low), "c"(new_high)
                         : "memory");
    }
}

static uint64_t job_atomic(unsigned self)
{
    uint64_t mine = 0;

    while (!over()) {
        for (int i = 0; i < 500; i++, mine++) {
            __atomic_fetch_add(&atomic_add, 1, __ATOMIC_SEQ_CST);
            uint64_t old = load(&atomic_exchanged);
            while (!__atomic_compare_exchange_n(&atomic_exchanged, &old, old + self, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            }
            pair_add();
        }
    }
    return mine;
}

static void end_atomic(uint64_t sum)
{
    CHECK(atomic_add == sum);
    CHECK(pair.low == (unsigned long)sum && pair.high == 2 * (unsigned long)sum);
}

/* ---- code that is patched while others run it ---- */

static uint8_t *patched; /* mov eax, imm32 ; ret, the immediate aligned */
static counter_t patch_value, patch_over;

static uint32_t call_patched(void)
{
    uint32_t (*fn)(void);
    uint8_t *at = patched + 3;
    memcpy(&fn, &at, sizeof(fn));
    return fn();
}

static uint64_t job_patch(unsigned self)
{
    uint64_t mine = 0;

    if (self != 0) {
        uint32_t last = 0;
        while (load(&patch_over) == 0) {
            uint64_t before = load(&patch_value);
            uint32_t got = call_patched();
            uint64_t after = load(&patch_value);
            CHECK(got >= before && got <= after + 1 && got >= last);
            last = got;
            mine++;
        }
        return mine;
    }
    while (!over()) {
        __atomic_store_n((uint32_t *)(void *)(patched + 4), (uint32_t)(patch_value + 1), __ATOMIC_SEQ_CST);
        /* From here on everybody runs the new code; only then is it announced. */
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0);
        __atomic_fetch_add(&patch_value, 1, __ATOMIC_SEQ_CST);
        mine++;
        usleep(100);
    }
    __atomic_store_n(&patch_over, 1, __ATOMIC_SEQ_CST);
    return mine;
}

static void begin_patch(void)
{
    static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0xc3};

    patched = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(patched != MAP_FAILED);
    memcpy(patched + 3, code, sizeof(code));
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) == 0);
}

/* ---- store buffering: Dekker's algorithm needs its fences, and they must work ---- */

static counter_t want[2], dekker_turn, dekker_inside, dekker_count;

static uint64_t job_dekker(unsigned self)
{
    uint64_t mine = 0;

    if (self > 1) {
        return 0;
    }
    while (!over()) {
        __atomic_store_n(&want[self], 1, __ATOMIC_RELAXED);
        __asm__ volatile("mfence" ::: "memory");
        while (__atomic_load_n(&want[!self], __ATOMIC_RELAXED) != 0) {
            if (load(&dekker_turn) != self) {
                __atomic_store_n(&want[self], 0, __ATOMIC_RELAXED);
                while (load(&dekker_turn) != self && !over()) {
                    sched_yield();
                }
                __atomic_store_n(&want[self], 1, __ATOMIC_RELAXED);
                __asm__ volatile("mfence" ::: "memory");
            }
        }
        uint64_t inside = __atomic_load_n(&dekker_inside, __ATOMIC_RELAXED);
        __atomic_store_n(&dekker_inside, inside + 1, __ATOMIC_RELAXED);
        CHECK(inside == 0);
        dekker_count++;
        __atomic_store_n(&dekker_inside, 0, __ATOMIC_RELEASE);
        __atomic_store_n(&dekker_turn, !self, __ATOMIC_RELEASE);
        __atomic_store_n(&want[self], 0, __ATOMIC_RELEASE);
        mine++;
    }
    __atomic_store_n(&dekker_turn, !self, __ATOMIC_RELEASE);
    return mine;
}

static void end_dekker(uint64_t sum)
{
    CHECK(dekker_count == sum);
}

/* ---- clocks agree on all processors ---- */

static counter_t latest;

static uint64_t job_clock(unsigned self)
{
    uint64_t mine = 0;

    (void)self;
    while (!over()) {
        for (int i = 0; i < 200; i++, mine++) {
            uint64_t before = load(&latest), t = now_ns();
            CHECK(t >= before);
            while (before < t && !__atomic_compare_exchange_n(&latest, &before, t, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            }
        }
        if ((mine & 0x3ff) == 0) {
            sched_yield();
        }
    }
    return mine;
}

static const struct job {
    const char *name;
    void (*begin)(void);
    uint64_t (*run)(unsigned self);
    void (*end)(uint64_t sum);
} jobs[] = {
    {"mutex", NULL, job_mutex, end_mutex},
    {"fork", NULL, job_fork, NULL},
    {"mmap", NULL, job_mmap, NULL},
    {"shootdown", begin_shootdown, job_shootdown, end_shootdown},
    {"signal", begin_signal, job_signal, end_signal},
    {"migrate", NULL, job_migrate, NULL},
    {"atomic", NULL, job_atomic, end_atomic},
    {"patch", begin_patch, job_patch, NULL},
    {"dekker", NULL, job_dekker, end_dekker},
    {"clock", NULL, job_clock, NULL},
};

struct worker {
    const struct job *job;
    unsigned self;
    uint64_t count;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    w->count = w->job->run(w->self);
    return NULL;
}

static void run_job(const struct job *job, double seconds)
{
    pthread_t threads[WORKERS];
    struct worker workers[WORKERS];
    uint64_t sum = 0;

    if (job->begin != NULL) {
        job->begin();
    }
    deadline = (double)now_ns() / 1e9 + seconds;
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){.job = job, .self = i};
        CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        sum += workers[i].count;
    }
    CHECK(sum > 0);
    if (job->end != NULL) {
        job->end(sum);
    }
    printf("parallel: %s: %llu rounds on %ld processors\n", job->name, (unsigned long long)sum, sysconf(_SC_NPROCESSORS_ONLN));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    unsigned count = sizeof(jobs) / sizeof(jobs[0]);

    for (unsigned i = 0; i < count; i++) {
        run_job(&jobs[i], seconds / count);
    }
    return check_done("parallel");
}
