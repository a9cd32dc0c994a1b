/* SPDX-License-Identifier: MIT */
/*
 * What holds of every ioctl (requests.c): it is known on its own kinds of handle only, and an address where nothing is, or that may
 * not be written, is EFAULT or an earlier refusal, never more.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine.h"
#include "requests.h"

enum bad_address { ADDRESS_NULL, ADDRESS_UNMAPPED, ADDRESS_KERNEL, ADDRESS_CUT, ADDRESS_READ_ONLY, ADDRESS_COUNT };

static int handle_of(const struct machine *m, enum handle_kind kind)
{
    return kind == ON_SYSTEM ? m->system : kind == ON_VM ? m->vm : m->vcpu[0];
}

/* Requests that this implementation knows on a handle say anything but the answer for an unknown one. */
static int unknown_answer(const struct machine *m, enum handle_kind kind)
{
    return ask(handle_of(m, kind), _IO(KVMIO, 0xfe), NULL);
}

static void *bad_address(enum bad_address kind)
{
    uint8_t *pages = machine_anonymous(2 * 65536);

    CHECK_EQ(munmap(pages + 65536, 65536), 0);
    switch (kind) {
    case ADDRESS_UNMAPPED:
        return pages + 65536;
    case ADDRESS_KERNEL:
        return (void *)0xffff800000000000u;
    case ADDRESS_CUT: /* its first three bytes are there, and no more */
        return pages + 65536 - 3;
    case ADDRESS_READ_ONLY:
        CHECK_EQ(mprotect(pages, 65536, PROT_READ), 0);
        return pages;
    default:
        return NULL;
    }
}

/* A refusal for another reason may come first: the structure is looked at in pieces, or not at all before other checks. */
static bool may_refuse(int answer)
{
    return answer == -EFAULT || answer == -EINVAL || answer == -ENOTTY || answer == -ENXIO || answer == -E2BIG || answer == -EPERM ||
           answer == -EEXIST || answer == -ENOENT || answer == -EOPNOTSUPP || answer == -ENODEV || answer == -ENOSYS;
}

static void check_address(const struct kvm_request *request, struct machine *m, enum handle_kind kind, enum bad_address bad)
{
    int answer = ask(handle_of(m, kind), request->request, bad_address(bad));
    bool reads = (_IOC_DIR(request->request) & _IOC_READ) != 0;

    if (bad == ADDRESS_NULL && request->request == KVM_SET_SIGNAL_MASK) /* no mask */
        CHECK_EQ(answer, 0);
    else if (bad == ADDRESS_READ_ONLY && answer >= 0) /* a structure that is only read may lie there; zeroes may be good */
        CHECK(!reads || request->request == KVM_SET_IRQCHIP || request->request == KVM_SET_PIT || request->request == (uint32_t)KVM_GET_MSRS);
    else if (!may_refuse(answer))
        check_failed(__FILE__, __LINE__, "address kind %d: %d", (int)bad, answer);
}

static void requests_run(size_t row)
{
    const struct kvm_request *request = &kvm_requests[row];

    for (unsigned kind = ON_SYSTEM; kind <= ON_VCPU; kind <<= 1) {
        struct machine m = machine_new(WITH_IRQCHIP | WITH_PIT, 1);
        if (!(request->handles & kind)) {
            CHECK_EQ(ask(handle_of(&m, kind), request->request, NULL), unknown_answer(&m, kind));
            continue;
        }
        for (int bad = ADDRESS_NULL; request->bytes && bad < ADDRESS_COUNT; bad++)
            check_address(request, &m, kind, (enum bad_address)bad);
    }
}

static const char *requests_name(size_t row)
{
    return kvm_requests[row].name;
}

const struct theme theme_requests = { "requests", KVM_REQUEST_COUNT, requests_name, requests_run };
