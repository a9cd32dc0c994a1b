/* SPDX-License-Identifier: MIT */
/* Shared by the two halves of the KVM API's harness: fuzz_kvm.c, the world and its operations; fuzz_kvm_args.c, what an ioctl is given. */
#ifndef FUZZ_KVM_H
#define FUZZ_KVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kage_inspect.h"

#define VMS_MAX 2u
#define VCPUS_MAX 4u
#define FDS_MAX 4u
#define PAGE 4096u
#define ARENA_BYTES (16u << 20) /* all that a slot's memory may be: parts of it come and go */
#define ARGUMENT_BYTES (64u << 10)
#define FAR_HVA 0x200000000000ull /* nothing is ever mapped there, for slots of any size */
#define FAR_BYTES 0x200000000000ull

/* What the input still has to say; zeroes behind its end. */
struct input {
    const uint8_t *at;
    size_t left;
};
uint64_t take(struct input *in, unsigned bytes);
static inline uint8_t take8(struct input *in)
{
    return (uint8_t)take(in, 1);
}
static inline uint32_t take32(struct input *in)
{
    return (uint32_t)take(in, 4);
}
void take_into(struct input *in, void *to, size_t bytes);
/* A number that likes the edges of things. */
uint64_t take_number(struct input *in);

struct vcpu {
    int fd;
    struct kvm_run *run;
};

struct vm {
    int fd;
    unsigned vcpus;
    struct vcpu vcpu[VCPUS_MAX];
};

struct world {
    int system;
    unsigned vms;
    struct vm vm[VMS_MAX];
    int eventfd[FDS_MAX];
    int timer_signal; /* never blocked: it ends KVM_RUN */
    size_t run_bytes;
    uint8_t *arena;
    uint8_t *argument; /* ARGUMENT_BYTES, between pages that are not there */
    uint8_t *scratch;  /* what pointers inside structures point at: the same */
    uint8_t *read_only;
};

/* The argument of an ioctl on this handle: an address in world->argument, a bad one, or a number. */
void *argument_make(struct world *w, struct input *in, int handle, unsigned row);
/* An address for a structure's pointer. */
void *pointer_make(struct world *w, struct input *in);

#endif
