/* SPDX-License-Identifier: MIT */
/*
 * The start of the library in a client: environment variables, and where messages go.
 *   KAGE_KVM_PATH   the device's path, if not /dev/kvm
 *   KAGE_LOG        error (default), warning, info, debug: which of the engine's messages are shown
 *   KAGE_SHOW_VMX   1: see show_vmx.c
 *   KAGE_INSPECT    0: nobody answers `kage inspect`; a path: the directory of its socket (inspect.c)
 */
#include "real.h"

#include <stdlib.h>
#include <string.h>

static const char *const log_levels[] = {
    [KAGE_LOG_ERROR] = "error", [KAGE_LOG_WARNING] = "warning", [KAGE_LOG_INFO] = "info", [KAGE_LOG_DEBUG] = "debug"
};

void preload_say(const char *format, ...)
{
    char line[512];
    va_list args;

    va_start(args, format);
    int length = vsnprintf(line, sizeof(line) - 1, format, args);
    va_end(args);
    if (length < 0)
        return;
    dprintf(STDERR_FILENO, "kage: %.*s\n", (int)sizeof(line), line);
}

static void say_log(void *opaque, enum kage_log_level level, const char *message)
{
    (void)opaque;
    preload_say("%s: %s", log_levels[level], message);
}

static void init_log(void)
{
    const char *wanted = getenv("KAGE_LOG");
    enum kage_log_level level = KAGE_LOG_ERROR;

    for (unsigned i = 0; wanted && i < sizeof(log_levels) / sizeof(log_levels[0]); i++)
        if (strcmp(wanted, log_levels[i]) == 0)
            level = (enum kage_log_level)i;
    kage_set_log(say_log, NULL, level);
}

__attribute__((constructor(101))) static void preload_init(void)
{
    (void)preload_real();
    preload_device_init();
    preload_handles_init();
    init_log();
    /* A handler of the client's that it sets in a forked child must find that this was the parent. */
    (void)kage_sigaction(SIGSEGV, NULL, NULL);
    const char *vmx = getenv("KAGE_SHOW_VMX");
    if (vmx && strcmp(vmx, "1") == 0)
        preload_show_vmx();
}
