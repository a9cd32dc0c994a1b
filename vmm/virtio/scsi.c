/* SPDX-License-Identifier: MIT */
/*
 * Queues: 0 control, 1 events, then requests. A request is a header with the CDB, what the initiator sends, a response with
 * status and sense, what the initiator gets (5.6.6.1).
 */
#include "virtio/scsi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <kage.h>

#define SCSI_TYPE 8u
#define QUEUE_CONTROL 0u
#define QUEUE_EVENT 1u
#define QUEUE_REQUESTS 2u
#define SENSE_ROOM 96u
#define PARAMETERS_MAX 64u /* of a parameter list that is looked at */
#define MAX_SECTORS 0xffffu
#define CMD_PER_LUN 128u

enum { S_OK = 0, S_OVERRUN = 1, S_ABORTED = 2, S_BAD_TARGET = 3, S_RESET = 4, S_FAILURE = 9 };
enum { S_FUNCTION_COMPLETE = 0, S_FUNCTION_SUCCEEDED = 10, S_FUNCTION_REJECTED = 11, S_INCORRECT_LUN = 12 };
enum { T_TMF = 0, T_AN_QUERY = 1, T_AN_SUBSCRIBE = 2 };

#define F_CHANGE VIRTIO_F(2)
#define EVENT_PARAM_CHANGE 3u
#define EVENTS_MISSED 0x80000000u
#define CAPACITY_HAS_CHANGED (0x2au | 0x09u << 8) /* ASC | ASCQ << 8 (5.6.6.3) */

struct scsi_config {
    uint32_t num_queues, seg_max, max_sectors, cmd_per_lun, event_info_size, sense_size, cdb_size;
    uint16_t max_channel, max_target;
    uint32_t max_lun;
};
_Static_assert(sizeof(struct scsi_config) == 36, "virtio 1.2, 5.6.4");

struct scsi_header {
    uint8_t lun[8];
    uint64_t tag;
    uint8_t task_attr, prio, crn;
    uint8_t cdb[SCSI_CDB_BYTES];
} __attribute__((packed));
_Static_assert(sizeof(struct scsi_header) == 51, "virtio 1.2, 5.6.6.1");

struct scsi_response {
    uint32_t sense_len, residual;
    uint16_t status_qualifier;
    uint8_t status, response;
    uint8_t sense[SENSE_ROOM];
};
_Static_assert(sizeof(struct scsi_response) == 108, "virtio 1.2, 5.6.6.1");

/* A task management function that waits for the tasks that it has called back. */
struct scsi_tmf {
    struct virtqueue *queue;
    struct virtio_chain chain; /* without its iov */
    uint8_t *response;         /* in guest memory */
    unsigned tasks;
};

struct scsi_request {
    struct block_request io; /* first: its callback gets it */
    struct virtio_scsi *scsi;
    struct scsi_disk *disk;
    struct scsi_request *next, **link; /* of those in flight */
    uint64_t tag;
    struct scsi_tmf *tmf; /* NULL: nobody has called it back */
    uint8_t called_back;  /* then: the response */
    bool waiting;         /* for the machine to go on */
    struct virtqueue *queue;
    struct virtio_chain chain;
    struct scsi_command command;
    uint32_t data_bytes; /* that the initiator has room for, or sends */
    unsigned buffer_count; /* of the chain */
    struct iovec *buffers, *data; /* data: buffers without header or response, cut to io.bytes */
};

struct virtio_scsi {
    struct virtio_device device; /* first: the class's callbacks get it */
    struct scsi_request *tasks; /* in flight, those that wait too; the latest first */
    bool events_missed;
    bool watching;
    struct run_watch watch;
    struct scsi_target {
        struct virtio_scsi *scsi;
        struct scsi_disk disk;
    } *targets[VIRTIO_SCSI_TARGETS];
};

/* The one logical unit of a target (5.6.6.1: 1, target, 0x40 | high bits, low bits). */
static struct scsi_disk *scsi_find(const struct virtio_scsi *scsi, const uint8_t lun[8])
{
    bool single = lun[0] == 1 && (lun[2] & 0xbf) == 0 && lun[3] == 0 && scsi->targets[lun[1]] != NULL;
    return single ? &scsi->targets[lun[1]]->disk : NULL;
}

/* ---- The end of a request ---- */

/* Without an interrupt: it comes behind all that ends together. */
static void scsi_finish(struct scsi_request *request, uint8_t code, uint32_t data_bytes)
{
    struct scsi_response response = {.response = code, .status = request->command.status};
    if (code == S_OK && request->command.status == SCSI_CHECK_CONDITION) {
        response.sense_len = SCSI_SENSE_BYTES;
        memcpy(response.sense, request->command.sense, SCSI_SENSE_BYTES);
    }
    response.residual = request->data_bytes - data_bytes;
    request->chain.iov = request->buffers;
    virtio_chain_write(&request->chain, 0, &response, sizeof(response));
    bool to_driver = request->io.op == BLOCK_READ || request->command.reply_bytes != 0;
    virtqueue_push(request->queue, &request->chain, (uint32_t)sizeof(response) + (to_driver ? data_bytes : 0));
    free(request->buffers);
    free(request->data);
    free(request);
}

/* A task leaves the list; the function that has called it back ends with the last of its tasks (5.6.6.2). */
static void scsi_end(struct scsi_request *request, uint8_t code, uint32_t data_bytes)
{
    struct scsi_tmf *tmf = request->tmf;
    *request->link = request->next;
    if (request->next != NULL) {
        request->next->link = request->link;
    }
    scsi_finish(request, tmf != NULL ? request->called_back : code, tmf != NULL ? 0 : data_bytes);
    if (tmf != NULL && --tmf->tasks == 0) {
        *tmf->response = S_FUNCTION_COMPLETE;
        virtqueue_push(tmf->queue, &tmf->chain, 1);
        free(tmf);
    }
}

/* On the soft back end the pages that a disk's bytes go to may hold code that was translated. */
static void scsi_memory(const struct scsi_request *request, void (*tell)(const void *addr, size_t bytes))
{
    for (unsigned i = 0; request->io.op == BLOCK_READ && i < request->io.iov_count; i++) {
        tell(request->io.iov[i].iov_base, request->io.iov[i].iov_len);
    }
}

static void scsi_send(struct scsi_request *request)
{
    scsi_memory(request, kage_memory_begin_write);
    block_submit(request->disk->block, &request->io);
}

static void scsi_done(struct block_request *io, int result)
{
    struct scsi_request *request = (struct scsi_request *)io;
    struct virtio_device *device = &request->scsi->device;
    const struct disk_errors *errors = &request->disk->errors;
    scsi_memory(request, kage_memory_end_write);
    virtio_lock(device);
    enum disk_error_action action = result != 0 ? disk_error_action(errors, io->op == BLOCK_READ, result) : DISK_ERROR_IGNORE;
    if (action == DISK_ERROR_STOP && virtio_live(device) && !request->queue->resetting && !device->halted && request->tmf == NULL) {
        request->waiting = true;
        disk_error_stop(errors, block_filename(request->disk->block), result);
    } else {
        if (action != DISK_ERROR_IGNORE) {
            scsi_disk_failed(&request->command, result);
        }
        scsi_end(request, S_OK, action == DISK_ERROR_IGNORE && io->iov_count != 0 ? (uint32_t)io->bytes : 0);
    }
    virtio_unlock(device);
}

static void scsi_completed(void *opaque)
{
    struct virtio_scsi *scsi = opaque;
    virtio_lock(&scsi->device);
    virtqueue_interrupt_all(&scsi->device);
    virtio_unlock(&scsi->device);
}

static void scsi_run_changed(void *opaque, bool running)
{
    struct virtio_scsi *scsi = opaque;
    virtio_lock(&scsi->device);
    for (struct scsi_request *request = scsi->tasks; running && request != NULL; request = request->next) {
        if (request->waiting) {
            request->waiting = false;
            scsi_send(request);
        }
    }
    virtio_unlock(&scsi->device);
}

/* Those that wait are given up. */
static void scsi_cancel(struct virtio_device *device, struct virtqueue *queue)
{
    struct virtio_scsi *scsi = (struct virtio_scsi *)device;
    for (struct scsi_request *request = scsi->tasks, *next; request != NULL; request = next) {
        next = request->next;
        if (request->waiting && (queue == NULL || request->queue == queue)) {
            scsi_end(request, S_RESET, 0);
        }
    }
    virtqueue_interrupt_all(device);
}

/* ---- The beginning ---- */

/* [skip, skip + bytes) of one direction's buffers. */
static unsigned scsi_cut(const struct iovec *from, unsigned count, size_t skip, uint64_t bytes, struct iovec *to)
{
    unsigned used = 0;
    for (unsigned i = 0; i < count && bytes != 0; i++) {
        size_t at = skip < from[i].iov_len ? skip : from[i].iov_len;
        size_t part = from[i].iov_len - at < bytes ? from[i].iov_len - at : (size_t)bytes;
        skip -= at;
        bytes -= part;
        if (part != 0) {
            to[used++] = (struct iovec){(uint8_t *)from[i].iov_base + at, part};
        }
    }
    return used;
}

/* A request to the disk. The initiator's buffers must be as long as the command says: more is left alone, less is an overrun. */
static void scsi_submit(struct scsi_request *request)
{
    const struct scsi_command *command = &request->command;
    bool data = command->op == BLOCK_READ || command->op == BLOCK_WRITE, write = command->op == BLOCK_WRITE;
    uint32_t room = write ? request->chain.out_bytes - (uint32_t)sizeof(struct scsi_header)
                          : request->chain.in_bytes - (uint32_t)sizeof(struct scsi_response);
    if (data && command->bytes > room) {
        scsi_finish(request, S_OVERRUN, 0);
        return;
    }
    request->io.op = command->op;
    request->io.flags = command->flags;
    request->io.offset = command->offset;
    request->io.bytes = command->bytes;
    request->io.done = scsi_done;
    if (data) {
        request->io.iov = request->data;
        request->io.iov_count =
            write ? scsi_cut(request->buffers, request->chain.out_count, sizeof(struct scsi_header), command->bytes, request->data)
                  : scsi_cut(request->buffers + request->chain.out_count, request->chain.in_count, sizeof(struct scsi_response), command->bytes,
                             request->data);
    }
    struct virtio_scsi *scsi = request->scsi;
    request->next = scsi->tasks;
    request->link = &scsi->tasks;
    if (scsi->tasks != NULL) {
        scsi->tasks->link = &request->next;
    }
    scsi->tasks = request;
    scsi_send(request);
}

static void scsi_start(struct scsi_request *request, const struct virtio_chain *chain)
{
    struct scsi_header header;
    uint8_t parameters[PARAMETERS_MAX];
    virtio_chain_read(chain, 0, &header, sizeof(header));
    size_t sent = virtio_chain_read(chain, sizeof(header), parameters, sizeof(parameters));
    uint32_t out = chain->out_bytes - (uint32_t)sizeof(header), in = chain->in_bytes - (uint32_t)sizeof(struct scsi_response);
    struct scsi_disk *disk = scsi_find(request->scsi, header.lun);
    request->io.op = BLOCK_FLUSH; /* until it is known */
    request->data_bytes = out != 0 ? out : in;
    if (disk == NULL || (out != 0 && in != 0)) { /* both ways at once: VIRTIO_SCSI_F_INOUT is not offered */
        scsi_finish(request, disk == NULL ? S_BAD_TARGET : S_FAILURE, 0);
        return;
    }
    scsi_disk_execute(disk, header.cdb, parameters, sent, &request->command);
    if (request->command.io) {
        request->disk = disk;
        request->tag = header.tag;
        scsi_submit(request);
        return;
    }
    uint32_t bytes = (uint32_t)virtio_chain_write(chain, sizeof(struct scsi_response), request->command.reply, request->command.reply_bytes);
    scsi_finish(request, S_OK, request->command.reply_bytes != 0 ? bytes : 0);
}

/* False: the chain is none of a request. */
static bool scsi_take(struct virtio_scsi *scsi, struct virtqueue *queue, const struct virtio_chain *chain)
{
    unsigned count = chain->out_count + chain->in_count;
    if (chain->out_bytes < sizeof(struct scsi_header) || chain->in_bytes < sizeof(struct scsi_response)) {
        virtio_fail(&scsi->device, "queue %u: a request of %u bytes, with room for %u", queue->index, chain->out_bytes, chain->in_bytes);
        return false;
    }
    struct scsi_request *request = calloc(1, sizeof(*request));
    struct iovec *buffers = calloc(count, sizeof(*buffers)), *data = calloc(count, sizeof(*data));
    if (request == NULL || buffers == NULL || data == NULL) {
        free(request);
        free(buffers);
        free(data);
        virtio_fail(&scsi->device, "no memory for a request");
        return false;
    }
    memcpy(buffers, chain->iov, count * sizeof(*buffers));
    *request = (struct scsi_request){.scsi = scsi, .queue = queue, .chain = *chain, .buffer_count = count, .buffers = buffers, .data = data};
    scsi_start(request, chain);
    return true;
}

/* ---- Control ---- */

/* Task management functions (5.6.6.2), by subtype. */
static const struct {
    bool calls_back, asks;
    bool one_task;    /* that with its tag; else all of the unit, which is all of the target */
    uint8_t response; /* of a task that is called back */
} scsi_functions[] = {
    {.calls_back = true, .one_task = true, .response = S_ABORTED},  /* ABORT TASK */
    {.calls_back = true, .response = S_ABORTED},                    /* ABORT TASK SET */
    {0},                                                            /* CLEAR ACA: there is none */
    {.calls_back = true, .response = S_ABORTED},                    /* CLEAR TASK SET */
    {.calls_back = true, .response = S_RESET},                      /* I_T NEXUS RESET */
    {.calls_back = true, .response = S_RESET},                      /* LOGICAL UNIT RESET */
    {.asks = true, .one_task = true},                               /* QUERY TASK */
    {.asks = true},                                                 /* QUERY TASK SET */
};

/*
 * What the host has already cannot be called back: the task ends as called back when the host is done with its memory, and the function when
 * its last task has. NULL: it has nothing to wait for, and *response is its answer.
 */
static struct scsi_tmf *scsi_manage(struct virtio_scsi *scsi, struct scsi_disk *disk, uint32_t subtype, uint64_t tag, uint8_t *response)
{
    struct scsi_tmf *tmf = NULL;
    *response = S_FUNCTION_COMPLETE;
    if (subtype >= sizeof(scsi_functions) / sizeof(scsi_functions[0])) {
        *response = S_FUNCTION_REJECTED;
        return NULL;
    }
    if (scsi_functions[subtype].response == S_RESET) {
        disk->attention = SCSI_ATTENTION_RESET; /* the next command finds it (SAM-5 6.3.2) */
    }
    for (struct scsi_request *request = scsi->tasks; request != NULL; request = request->next) {
        if (request->disk != disk || (scsi_functions[subtype].one_task && request->tag != tag)) {
            continue;
        }
        if (scsi_functions[subtype].asks) {
            *response = S_FUNCTION_SUCCEEDED;
        } else if (scsi_functions[subtype].calls_back && request->tmf == NULL) {
            tmf = tmf != NULL ? tmf : calloc(1, sizeof(*tmf));
            if (tmf == NULL) {
                *response = S_FUNCTION_REJECTED;
                return NULL;
            }
            tmf->tasks++;
            request->tmf = tmf;
            request->called_back = scsi_functions[subtype].response;
        }
    }
    return tmf;
}

/* True: the chain is given back later. */
static bool scsi_task_management(struct virtio_scsi *scsi, struct virtqueue *queue, const struct virtio_chain *chain, const uint8_t lun[8],
                                 uint32_t subtype, uint64_t tag, uint32_t *written)
{
    struct scsi_disk *disk = scsi_find(scsi, lun);
    uint8_t response = S_INCORRECT_LUN;
    struct scsi_tmf *tmf = disk != NULL && chain->in_bytes != 0 ? scsi_manage(scsi, disk, subtype, tag, &response) : NULL;
    if (tmf == NULL) {
        *written = (uint32_t)virtio_chain_write(chain, 0, &response, 1);
        return false;
    }
    tmf->queue = queue;
    tmf->chain = *chain;
    tmf->chain.iov = NULL;
    tmf->response = chain->iov[chain->out_count].iov_base;
    for (struct scsi_request *request = scsi->tasks, *next; request != NULL; request = next) {
        next = request->next;
        if (request->waiting && request->tmf == tmf) {
            scsi_end(request, S_OK, 0); /* may end the function too */
        }
    }
    virtqueue_interrupt_all(&scsi->device);
    return true;
}

/* Nobody subscribes to events: there are none of those that are asked for here. True: the chain is given back later. */
static bool scsi_control(struct virtio_scsi *scsi, struct virtqueue *queue, const struct virtio_chain *chain, uint32_t *written)
{
    struct {
        uint32_t type, subtype;
        uint8_t lun[8];
        uint64_t tag;
    } request = {0};
    size_t got = virtio_chain_read(chain, 0, &request, sizeof(request));
    if (got >= sizeof(request) && request.type == T_TMF) {
        return scsi_task_management(scsi, queue, chain, request.lun, request.subtype, request.tag, written);
    }
    if (got >= 16 && (request.type == T_AN_QUERY || request.type == T_AN_SUBSCRIBE)) {
        uint8_t response[5] = {0}; /* no event, OK */
        *written = (uint32_t)virtio_chain_write(chain, 0, response, sizeof(response));
    } else {
        virtio_fail(&scsi->device, "a control request of type %u and %zu bytes", request.type, got);
    }
    return false;
}

/* ---- Events (5.6.6.3) ---- */

/* Into the buffer that the driver has there; without one, the next says that something was missed. */
static void scsi_event(struct virtio_scsi *scsi, unsigned target, uint32_t reason)
{
    struct virtqueue *queue = &scsi->device.queues[QUEUE_EVENT];
    struct virtio_chain chain;
    struct {
        uint32_t event;
        uint8_t lun[8];
        uint32_t reason;
    } event = {EVENT_PARAM_CHANGE, {1, (uint8_t)target, 0x40, 0}, reason};
    if (!virtio_has(&scsi->device, F_CHANGE) || virtqueue_pop(queue, &chain) <= 0) {
        scsi->events_missed = virtio_has(&scsi->device, F_CHANGE);
        return;
    }
    event.event |= scsi->events_missed ? EVENTS_MISSED : 0;
    scsi->events_missed = false;
    virtqueue_push(queue, &chain, (uint32_t)virtio_chain_write(&chain, 0, &event, sizeof(event)));
    virtqueue_interrupt(queue);
}

static void scsi_resized(void *opaque)
{
    struct scsi_target *target = opaque;
    struct virtio_scsi *scsi = target->scsi;
    virtio_lock(&scsi->device);
    for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++) {
        if (scsi->targets[i] == target) {
            scsi_event(scsi, i, CAPACITY_HAS_CHANGED);
        }
    }
    virtio_unlock(&scsi->device);
}

/* What the disks get meanwhile goes to the host together. */
static void scsi_plug(const struct virtio_scsi *scsi, void (*plug)(struct block *block))
{
    for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++) {
        if (scsi->targets[i] != NULL && scsi->targets[i]->disk.block != NULL) {
            plug(scsi->targets[i]->disk.block);
        }
    }
}

static void scsi_notified(struct virtio_device *device, struct virtqueue *queue)
{
    struct virtio_scsi *scsi = (struct virtio_scsi *)device;
    struct virtio_chain chain;
    unsigned budget = queue->size; /* then others have their turn */
    if (queue->index == QUEUE_EVENT) {
        return; /* its buffers wait for an event */
    }
    scsi_plug(scsi, block_plug);
    for (; budget > 0 && virtqueue_pop(queue, &chain) > 0; budget--) {
        uint32_t written = 0;
        if (queue->index == QUEUE_CONTROL) {
            if (!scsi_control(scsi, queue, &chain, &written)) {
                virtqueue_push(queue, &chain, written);
            }
        } else if (!scsi_take(scsi, queue, &chain)) {
            virtqueue_push(queue, &chain, 0); /* the device has failed: it is only counted off */
        }
    }
    scsi_plug(scsi, block_unplug);
    virtqueue_interrupt(queue);
    if (budget == 0) {
        virtio_kick_queue(device, queue->index);
    }
}

static const struct virtio_class scsi_class = {.name = "virtio-scsi", .type = SCSI_TYPE, .notified = scsi_notified, .cancel = scsi_cancel};

/* ---- Life ---- */

struct virtio_scsi *virtio_scsi_new(const struct virtio_options *options, uint16_t num_queues, uint16_t queue_size, struct loop *loop,
                                    const struct dma *dma, struct error *error)
{
    uint16_t sizes[VIRTIO_QUEUES_MAX];
    struct virtio_scsi *scsi = calloc(1, sizeof(*scsi));
    if (scsi == NULL) {
        error_set(error, "virtio-scsi: no memory");
        return NULL;
    }
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        sizes[i] = queue_size;
    }
    int result = virtio_init(&scsi->device, &scsi_class, loop, dma, virtio_options_features(options) | F_CHANGE, QUEUE_REQUESTS + num_queues, sizes);
    if (result != 0) {
        error_set(error, "virtio-scsi: %s", strerror(-result));
        free(scsi);
        return NULL;
    }
    struct scsi_config config = {
        .num_queues = num_queues,
        .seg_max = queue_size > 2 ? queue_size - 2u : 1,
        .max_sectors = MAX_SECTORS,
        .cmd_per_lun = CMD_PER_LUN,
        .event_info_size = 16,
        .sense_size = SENSE_ROOM,
        .cdb_size = SCSI_CDB_BYTES,
        .max_target = VIRTIO_SCSI_TARGETS - 1,
    };
    memcpy(scsi->device.config, &config, sizeof(config));
    scsi->device.config_bytes = sizeof(config);
    return scsi;
}

void virtio_scsi_free(struct virtio_scsi *scsi)
{
    if (scsi == NULL) {
        return;
    }
    virtio_stop(&scsi->device);
    virtio_lock(&scsi->device);
    scsi_cancel(&scsi->device, NULL);
    virtio_unlock(&scsi->device);
    for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++) {
        struct scsi_target *target = scsi->targets[i];
        if (target != NULL && target->disk.block != NULL) {
            block_drain(target->disk.block);
            block_on_resize(target->disk.block, NULL, NULL);
            block_on_completed(target->disk.block, NULL, NULL);
        }
        if (target != NULL && target->disk.errors.run != NULL && scsi->watching) {
            target->disk.errors.run->unwatch(target->disk.errors.run->opaque, &scsi->watch);
            scsi->watching = false;
        }
    }
    for (unsigned i = 0; i < VIRTIO_SCSI_TARGETS; i++) {
        free(scsi->targets[i]);
    }
    virtio_fini(&scsi->device);
    free(scsi);
}

struct virtio_device *virtio_scsi_device(struct virtio_scsi *scsi)
{
    return &scsi->device;
}

int virtio_scsi_add(struct virtio_scsi *scsi, int target, const struct scsi_disk *disk, int *at_target)
{
    unsigned at = target >= 0 ? (unsigned)target : 0;
    while (target < 0 && at < VIRTIO_SCSI_TARGETS && scsi->targets[at] != NULL) {
        at++;
    }
    if (at >= VIRTIO_SCSI_TARGETS) {
        return -ENOSPC;
    }
    if (scsi->targets[at] != NULL) {
        return -EEXIST;
    }
    struct scsi_target *added = malloc(sizeof(*added));
    if (added == NULL) {
        return -ENOMEM;
    }
    *added = (struct scsi_target){.scsi = scsi, .disk = *disk};
    scsi->targets[at] = added;
    if (disk->block != NULL) {
        block_on_resize(disk->block, scsi_resized, added);
        block_on_completed(disk->block, scsi_completed, scsi);
    }
    if (disk->errors.run != NULL && !scsi->watching) { /* there is one machine */
        scsi->watch = (struct run_watch){.changed = scsi_run_changed, .opaque = scsi};
        scsi->watching = true;
        disk->errors.run->watch(disk->errors.run->opaque, &scsi->watch);
    }
    if (at_target != NULL) {
        *at_target = (int)at;
    }
    return 0;
}
