/* SPDX-License-Identifier: MIT */
/*
 * Messages of the engine: to the client's callback (kage_set_log), and, for what ended a KVM_RUN or
 * an ioctl, as the last error of the VM or vCPU. Never called while guest vector state is live.
 */
#ifndef KAGE_KVM_LOG_H
#define KAGE_KVM_LOG_H

#include <pthread.h>

#include "kage.h"

/* The last error of one object, readable from any thread. */
struct kvm_last_error {
    pthread_mutex_t lock;
    char text[256];
};

void kvm_log(enum kage_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Logs at KAGE_LOG_ERROR and keeps the text. */
void kvm_error_set(struct kvm_last_error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* KAGE_GET_ERROR. */
int kvm_error_get(struct kvm_last_error *error, struct kage_text *text);

#endif
