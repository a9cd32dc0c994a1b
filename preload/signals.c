/* SPDX-License-Identifier: MIT */
/*
 * The client's signals go through libkage (include/kage.h): what it sets neither displaces the engine's handlers nor shows them.
 */
#include "real.h"

#include <errno.h>

PRELOAD_EXPORT int sigaction(int sig, const struct sigaction *action, struct sigaction *old)
{
    return kage_sigaction(sig, action, old);
}

PRELOAD_EXPORT int __sigaction(int sig, const struct sigaction *action, struct sigaction *old)
{
    return kage_sigaction(sig, action, old);
}

static sighandler_t set_handler(int sig, sighandler_t handler, int flags)
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = flags }, old;

    sigemptyset(&action.sa_mask);
    if (!(flags & SA_NODEFER))
        sigaddset(&action.sa_mask, sig);
    return kage_sigaction(sig, &action, &old) == 0 ? old.sa_handler : SIG_ERR;
}

/* signal(2): BSD's semantics under its plain names, System V's under the others. */
PRELOAD_EXPORT sighandler_t signal(int sig, sighandler_t handler)
{
    return set_handler(sig, handler, SA_RESTART);
}

PRELOAD_EXPORT sighandler_t bsd_signal(int sig, sighandler_t handler);
PRELOAD_EXPORT sighandler_t bsd_signal(int sig, sighandler_t handler)
{
    return set_handler(sig, handler, SA_RESTART);
}

PRELOAD_EXPORT sighandler_t ssignal(int sig, sighandler_t handler)
{
    return set_handler(sig, handler, SA_RESTART);
}

PRELOAD_EXPORT sighandler_t sysv_signal(int sig, sighandler_t handler)
{
    return set_handler(sig, handler, (int)(SA_RESETHAND | SA_NODEFER));
}

PRELOAD_EXPORT sighandler_t __sysv_signal(int sig, sighandler_t handler)
{
    return set_handler(sig, handler, (int)(SA_RESETHAND | SA_NODEFER));
}

PRELOAD_EXPORT int sigaltstack(const stack_t *stack, stack_t *old)
{
    return kage_sigaltstack(stack, old);
}

PRELOAD_EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    return kage_sigmask(how, set, old);
}

PRELOAD_EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
    int err = kage_sigmask(how, set, old);

    if (!err)
        return 0;
    errno = err;
    return -1;
}
