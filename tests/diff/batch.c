/* SPDX-License-Identifier: MIT */
/*
 * Runs a batch of cases in processes of their own. Cases and outcomes are in shared memory. A runner
 * that dies or stops making progress costs the case that it was at; the next runner goes on behind it.
 */
#include "diff.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STALL_MS 3000       /* without a case finished: the runner hangs */
#define NAP_NS 2000000 /* between looks at the runner; shorter at first, for batches of one */
/* more than these, and the rest of the batch is lost */
#define CRASHES_PER_BATCH 200
#define STALLS_PER_BATCH 2

static void *shared_alloc(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

struct diff_batch *diff_batch_new(uint32_t room)
{
    struct diff_batch *batch = shared_alloc(sizeof(*batch));

    if (!batch)
        return NULL;
    batch->room = room;
    batch->cases = shared_alloc(room * sizeof(*batch->cases));
    batch->outcomes = shared_alloc(room * sizeof(*batch->outcomes));
    if (!batch->cases || !batch->outcomes) {
        diff_batch_free(batch);
        return NULL;
    }
    return batch;
}

void diff_batch_free(struct diff_batch *batch)
{
    if (!batch)
        return;
    if (batch->cases)
        munmap(batch->cases, batch->room * sizeof(*batch->cases));
    if (batch->outcomes)
        munmap(batch->outcomes, batch->room * sizeof(*batch->outcomes));
    munmap(batch, sizeof(*batch));
}

/* Waits for the runner; kills it when it makes no progress. Returns its wait status; *stalled says if it was killed here. */
static int runner_wait(struct diff_batch *batch, pid_t pid, bool *stalled)
{
    struct timespec nap = {0, NAP_NS / 16};
    uint32_t last = UINT32_MAX;
    unsigned quiet = 0;
    int status;

    *stalled = false;
    for (;;) {
        pid_t done = waitpid(pid, &status, WNOHANG);
        if (done == pid)
            return status;
        if (done < 0 && errno != EINTR)
            return -1;
        nanosleep(&nap, NULL);
        nap.tv_nsec = nap.tv_nsec < NAP_NS ? nap.tv_nsec * 2 : NAP_NS;
        uint32_t now = atomic_load(&batch->current);
        quiet = now == last ? quiet + 1 : 0;
        last = now;
        if (quiet * (NAP_NS / 1000000) > STALL_MS && !*stalled) {
            *stalled = true;
            kill(pid, SIGKILL);
        }
    }
}

int diff_batch_run(struct diff_batch *batch, const struct diff_mode *mode)
{
    uint32_t first = 0;
    unsigned crashes = 0, stalls = 0;

    memset(batch->outcomes, 0, batch->count * sizeof(*batch->outcomes));
    while (first < batch->count) {
        bool stalled;
        atomic_store(&batch->current, first);
        fflush(NULL);
        pid_t pid = fork();
        if (pid < 0)
            return -1;
        if (pid == 0) {
            if (mode->guest && diff_arch->bits != 64)
                diff_modes_run(batch, first, mode);
            if (mode->guest)
                diff_guest_run(batch, first, mode);
            diff_host_run(batch, first);
        }
        int status = runner_wait(batch, pid, &stalled);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            return 0;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
            return -1;
        uint32_t at = atomic_load(&batch->current);
        if (at >= batch->count)
            return 0;
        if (batch->outcomes[at].status == DIFF_NONE) {
            batch->outcomes[at].status = stalled ? DIFF_HANG : DIFF_CRASH;
            batch->outcomes[at].note = (uint32_t)status;
        }
        first = at + 1;
        if (++crashes > CRASHES_PER_BATCH || (stalled && ++stalls > STALLS_PER_BATCH))
            break;
    }
    return 0;
}
