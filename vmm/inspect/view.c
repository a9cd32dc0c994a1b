/* SPDX-License-Identifier: MIT */
#include "inspect/view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM (16u << 10)
#define VCPUS_MAX 1024u

static const struct { int number; const char *text; } reasons[] = {
    {ENODEV, "it has no virtual machine on the soft back end at the moment"},
    {ETIMEDOUT, "the processor's thread did not come by (is the process stopped?)"},
    {EPROTO, "it is of another version of kage"},
    {EOPNOTSUPP, "not with the MMU that this virtual machine has"},
    {EINVAL, "there is no such processor"},
    {ECONNREFUSED, "it has ended"},
    {ECONNRESET, "it has ended"},
    {EPIPE, "it has ended"},
    {ENOENT, "it has ended"},
    {EAGAIN, "it does not answer"},
};

static int complain(const struct inspect_view *view, int err, struct error *error)
{
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        if (reasons[i].number == err) {
            return error_set(error, "process %d: %s", (int)view->pid, reasons[i].text);
        }
    }
    return error_set(error, "process %d: %s", (int)view->pid, strerror(err));
}

int view_ask(struct inspect_view *view, struct kage_inspect *ask, void **data, struct error *error)
{
    const struct kage_inspect asked = *ask;

    for (uint32_t room = FIRST_ROOM;; room = KAGE_INSPECT_MAX_BYTES) {
        *data = malloc(room);
        if (*data == NULL) {
            return error_set(error, "no memory");
        }
        *ask = asked;
        ask->vm = view->vm;
        ask->bytes = room;
        int err = view->ask(view->opaque, ask, *data);
        if (err != 0) {
            free(*data);
            *data = NULL;
            return complain(view, -err, error);
        }
        /* Elements that there was no room for: once more, with all that there can be. */
        if (room == KAGE_INSPECT_MAX_BYTES || ask->bytes <= room / 2) {
            return 0;
        }
        free(*data);
    }
}

int view_one(struct inspect_view *view, uint32_t topic, uint32_t vcpu, void *to, size_t bytes, struct error *error)
{
    struct kage_inspect ask = {.topic = topic, .vcpu = vcpu};
    void *data;

    if (view_ask(view, &ask, &data, error) != 0) {
        return -1;
    }
    int result = ask.bytes == bytes ? 0 : error_set(error, "process %d: it is of another version of kage", (int)view->pid);
    if (result == 0) {
        memcpy(to, data, bytes);
    }
    free(data);
    return result;
}

int view_list(struct inspect_view *view, uint32_t topic, uint32_t vcpu, size_t bytes, void **list, uint32_t *count, struct error *error)
{
    struct kage_inspect ask = {.topic = topic, .vcpu = vcpu};

    if (view_ask(view, &ask, list, error) != 0) {
        return -1;
    }
    *count = (uint32_t)(ask.bytes / bytes);
    return 0;
}

void view_clean(char *name, size_t bytes)
{
    name[bytes - 1] = '\0';
    for (; *name != '\0'; name++) {
        *name = *name >= ' ' && *name < 0x7f ? *name : '?';
    }
}

int view_vm(struct inspect_view *view, struct kage_inspect_vm *vm, struct error *error)
{
    if (view_one(view, KAGE_INSPECT_VM, 0, vm, sizeof(*vm), error) != 0) {
        return -1;
    }
    if (vm->vcpus > VCPUS_MAX || kage_mmu_name((int)vm->mmu) == NULL) {
        return error_set(error, "process %d: it is of another version of kage", (int)view->pid);
    }
    return 0;
}

int view_vcpu(struct inspect_view *view, uint32_t index, struct kage_inspect_vcpu *vcpu, struct error *error)
{
    if (view_one(view, KAGE_INSPECT_VCPU, index, vcpu, sizeof(*vcpu), error) != 0) {
        return -1;
    }
    view_clean(vcpu->exit_name, sizeof(vcpu->exit_name));
    return 0;
}

int view_stats(struct inspect_view *view, uint32_t vcpu, const char *const *names, uint64_t *values, size_t count, struct error *error)
{
    uint32_t stat_count;
    void *data;

    if (view_list(view, KAGE_INSPECT_STATS, vcpu, sizeof(struct kage_stat), &data, &stat_count, error) != 0) {
        return -1;
    }
    const struct kage_stat *stats = data;
    for (uint32_t i = 0; i < stat_count; i++) {
        for (size_t n = 0; n < count; n++) {
            values[n] += strncmp(stats[i].name, names[n], sizeof(stats[i].name)) == 0 ? stats[i].value : 0;
        }
    }
    free(data);
    return 0;
}

/* ---- JSON ---- */

json_t *view_hex(uint64_t value)
{
    return json_sprintf("0x%llx", (unsigned long long)value);
}

json_t *view_number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

json_t *view_words(const char *text, const char *separator)
{
    json_t *array = json_array();
    size_t step = strlen(separator);

    while (*text != '\0') {
        const char *end = strstr(text, separator);
        size_t length = end != NULL ? (size_t)(end - text) : strlen(text);
        json_array_append_new(array, json_stringn(text, length));
        text += length + (end != NULL ? step : 0);
    }
    return array;
}
