/* SPDX-License-Identifier: MIT */
/*
 * `kage kvm`: another program, a KVM client, run on libkage.
 */
#ifndef KAGE_CLI_KVM_H
#define KAGE_CLI_KVM_H

#include "util/error.h"

/* Becomes the program and does not return; or 0 after --check; or -1 with `error` filled. */
int kvm_client(int count, char **words, struct error *error);

#endif
