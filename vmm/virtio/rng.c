/* SPDX-License-Identifier: MIT */
#include "virtio/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define RNG_TYPE 4u
#define RNG_QUEUE_SIZE 8u
#define RNG_PIECE 256u /* getrandom(2) is never interrupted for that much */
#define RNG_CHAIN_MAX 65536u /* of one buffer, however large: a driver takes what it gets */

struct virtio_rng {
    struct virtio_device device; /* first: the class's callbacks get it */
    struct virtio_rng_config config;
    int fd; /* -1: getrandom(2) */
    uint64_t left; /* of max_bytes, in this period */
    struct loop_source timer; /* ends the period; fd -1: no limit */
};

/* How many bytes there were; 0: none now. */
static size_t rng_get(struct virtio_rng *rng, uint8_t *bytes, size_t count)
{
    ssize_t got;
    do {
        got = rng->fd >= 0 ? read(rng->fd, bytes, count) : getrandom(bytes, count, 0);
    } while (got < 0 && errno == EINTR);
    return got > 0 ? (size_t)got : 0;
}

static uint32_t rng_fill(struct virtio_rng *rng, const struct virtio_chain *chain)
{
    uint8_t piece[RNG_PIECE];
    uint32_t done = 0;
    while (done < chain->in_bytes && done < RNG_CHAIN_MAX && rng->left != 0) {
        size_t count = chain->in_bytes - done < sizeof(piece) ? chain->in_bytes - done : sizeof(piece);
        count = rng_get(rng, piece, count < rng->left ? count : (size_t)rng->left);
        if (count == 0) {
            break;
        }
        done += (uint32_t)virtio_chain_write(chain, done, piece, count);
        rng->left -= rng->timer.fd >= 0 ? count : 0;
    }
    return done;
}

static void rng_notified(struct virtio_device *device, struct virtqueue *queue)
{
    struct virtio_rng *rng = (struct virtio_rng *)device;
    struct virtio_chain chain;
    unsigned budget = queue->size; /* then others have their turn */
    while (rng->left != 0 && budget > 0 && virtqueue_pop(queue, &chain) > 0) {
        virtqueue_push(queue, &chain, rng_fill(rng, &chain));
        budget--;
    }
    virtqueue_interrupt(queue);
    if (budget == 0) {
        virtio_kick_queue(device, queue->index);
    }
}

static void rng_period_over(void *opaque, uint32_t events)
{
    struct virtio_rng *rng = opaque;
    uint64_t count;
    (void)events;
    ssize_t got = read(rng->timer.fd, &count, sizeof(count));
    (void)got;
    virtio_lock(&rng->device);
    rng->left = rng->config.max_bytes;
    virtio_unlock(&rng->device);
    virtio_kick_queue(&rng->device, 0);
}

static const struct virtio_class rng_class = {.name = "virtio-rng", .type = RNG_TYPE, .notified = rng_notified};

static int rng_start_timer(struct virtio_rng *rng)
{
    struct itimerspec period = {.it_interval = {.tv_sec = rng->config.period_ms / 1000, .tv_nsec = (long)(rng->config.period_ms % 1000) * 1000000}};
    period.it_value = period.it_interval;
    rng->timer = (struct loop_source){
        .fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .ready = rng_period_over, .opaque = rng};
    if (rng->timer.fd < 0) {
        return -errno;
    }
    int result = timerfd_settime(rng->timer.fd, 0, &period, NULL) == 0 ? loop_add(rng->device.loop, &rng->timer, EPOLLIN) : -errno;
    if (result != 0) {
        close(rng->timer.fd);
        rng->timer.fd = -1;
    }
    return result;
}

struct virtio_rng *virtio_rng_new(const struct virtio_rng_config *config, struct loop *loop, const struct dma *dma, struct error *error)
{
    const uint16_t size = RNG_QUEUE_SIZE;
    struct virtio_rng *rng = calloc(1, sizeof(*rng));
    if (rng == NULL) {
        error_set(error, "virtio-rng: no memory");
        return NULL;
    }
    rng->config = *config;
    rng->fd = rng->timer.fd = -1;
    rng->left = config->max_bytes;
    int result = virtio_init(&rng->device, &rng_class, loop, dma, virtio_options_features(&config->virtio), 1, &size);
    if (result != 0) {
        error_set(error, "virtio-rng: %s", strerror(-result));
        free(rng);
        return NULL;
    }
    rng->fd = config->filename != NULL ? open(config->filename, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (config->filename != NULL && rng->fd < 0) {
        error_set(error, "Could not open '%s': %s", config->filename, strerror(errno));
        virtio_rng_free(rng);
        return NULL;
    }
    result = config->max_bytes != UINT64_MAX ? rng_start_timer(rng) : 0;
    if (result != 0) {
        error_set(error, "virtio-rng: its timer: %s", strerror(-result));
        virtio_rng_free(rng);
        return NULL;
    }
    return rng;
}

void virtio_rng_free(struct virtio_rng *rng)
{
    if (rng == NULL) {
        return;
    }
    if (rng->timer.fd >= 0) {
        loop_remove(rng->device.loop, &rng->timer);
        close(rng->timer.fd);
    }
    if (rng->fd >= 0) {
        close(rng->fd);
    }
    virtio_fini(&rng->device);
    free(rng);
}

struct virtio_device *virtio_rng_device(struct virtio_rng *rng)
{
    return &rng->device;
}
