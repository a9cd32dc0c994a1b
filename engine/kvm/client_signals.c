/* SPDX-License-Identifier: MIT */
/*
 * The signals of a client in the same process, for a preload library (include/kage.h): cpu/signal.c does it.
 */
#include <errno.h>

#include "cpu/signal.h"
#include "kage.h"

static int client_result(int err)
{
    if (!err)
        return 0;
    errno = -err;
    return -1;
}

int kage_sigaction(int sig, const struct sigaction *action, struct sigaction *old)
{
    return client_result(cpu_signal_action(sig, action, old));
}

int kage_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    return -cpu_signal_mask(how, set, old);
}

int kage_sigaltstack(const stack_t *stack, stack_t *old)
{
    return client_result(cpu_signal_stack(stack, old));
}

int kage_set_fault_handler(kage_fault_fn *fn)
{
    return client_result(cpu_signal_set_fault_handler(fn));
}
