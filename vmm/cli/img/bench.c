/* SPDX-License-Identifier: MIT */
/* `kage img bench`: many requests through the front end that devices use. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block/block.h"
#include "cli/img/img.h"
#include "machine/drive.h"

struct bench {
    struct block *block;
    uint64_t count, submitted, done, offset, step, at, flush_interval, until_flush;
    size_t bytes;
    bool write, no_drain, flushing;
    int result;
    struct bench_slot {
        struct bench *bench;
        struct block_request request;
        struct iovec iov;
    } *slots;
};

static void bench_next(struct bench_slot *slot);

static void bench_done(struct block_request *request, int result)
{
    struct bench_slot *slot = request->opaque;
    struct bench *bench = slot->bench;
    bench->result = result != 0 ? result : bench->result;
    bench->done += request->op != BLOCK_FLUSH;
    if (bench->result == 0) {
        bench_next(slot);
    }
}

static void bench_next(struct bench_slot *slot)
{
    struct bench *bench = slot->bench;
    bool flush = bench->flush_interval != 0 && bench->until_flush == 0;
    if (flush) {
        bench->until_flush = bench->flush_interval;
        slot->request = (struct block_request){.op = BLOCK_FLUSH, .done = bench_done, .opaque = slot};
    } else {
        if (bench->submitted == bench->count) {
            return;
        }
        bench->submitted++;
        bench->until_flush -= bench->flush_interval != 0;
        if (bench->at + bench->bytes > block_bytes(bench->block)) {
            bench->at = bench->offset % (block_bytes(bench->block) - bench->bytes + 1);
        }
        slot->request = (struct block_request){
            .op = bench->write ? BLOCK_WRITE : BLOCK_READ, .offset = bench->at, .bytes = bench->bytes, .iov = &slot->iov, .iov_count = 1, .done = bench_done, .opaque = slot};
        bench->at += bench->step;
    }
    block_submit(bench->block, &slot->request);
}

int img_bench(int argc, char **argv)
{
    static const struct option longs[] = {{"pattern", required_argument, NULL, IMG_OPT_PATTERN}, {"flush-interval", required_argument, NULL, IMG_OPT_FLUSH_INTERVAL},
                                          {"no-drain", no_argument, NULL, IMG_OPT_NO_DRAIN}, {0}};
    struct img_common common = {.verb = "bench", .takes = IMG_TAKES_FORCE_SHARE};
    struct bench bench = {.count = 75000};
    struct block_config config = {.read_only = true};
    uint64_t depth = 64, bytes = 4096, step = 0, pattern = 0, *number;
    int option;
    while ((option = img_option(&common, argc, argv, "c:d:i:no:s:S:t:w", longs)) != -1) {
        number = option == 'c' ? &bench.count : option == 'd' ? &depth : option == 'o' ? &bench.offset : option == 's' ? &bytes : option == 'S' ? &step :
                 option == IMG_OPT_PATTERN ? &pattern : option == IMG_OPT_FLUSH_INTERVAL ? &bench.flush_interval : NULL;
        if (number != NULL) {
            if (img_parse_size(optarg, number) != 0) {
                return img_fail("Invalid number specified: '%s'", optarg);
            }
            continue;
        }
        switch (option) {
        case 'i':
            config.aio = strcmp(optarg, "threads") == 0 ? BLOCK_AIO_THREADS : strcmp(optarg, "io_uring") == 0 ? BLOCK_AIO_IO_URING : BLOCK_AIO_AUTO;
            if (config.aio == BLOCK_AIO_AUTO) {
                return img_fail("Invalid aio option: %s", optarg);
            }
            break;
        case 'n': /* the host's own asynchronous I/O is what is used anyway */
            break;
        case 't':
            if (block_config_cache(&config, optarg) != 0) {
                return img_fail("Invalid cache mode");
            }
            break;
        case 'w':
            bench.write = true;
            config.read_only = false;
            break;
        case IMG_OPT_NO_DRAIN:
            bench.no_drain = true;
            break;
        default:
            return 1;
        }
    }
    if (optind != argc - 1) {
        return img_usage("bench", "Expecting one image file name");
    }
    if (bench.flush_interval != 0 && !bench.write) {
        return img_fail("--flush-interval is only available in write tests");
    }
    if (depth == 0 || depth > 4096 || bytes == 0 || bytes > 1u << 30 || pattern > 255 || bench.count == 0) {
        return img_fail("Invalid queue depth, buffer size, count or pattern specified");
    }
    struct error error = {""};
    struct drive_values values;
    config.filename = argv[optind];
    config.format = common.format;
    config.force_share = common.force_share;
    if (common.image_opts) {
        struct block_config base = config;
        int wrong = img_parse_image_opts(argv[optind], &values);
        if (wrong != 0) {
            return wrong == 1;
        }
        drive_config(&values, &config);
        config.read_only = base.read_only;
        config.force_share = config.force_share || base.force_share;
        config.cache_direct = config.cache_direct || base.cache_direct;
        config.cache_writethrough = base.cache_writethrough;
        config.cache_no_flush = config.cache_no_flush || base.cache_no_flush;
        config.aio = base.aio != BLOCK_AIO_AUTO ? base.aio : config.aio;
    }
    bench.block = block_open(&config, &error);
    if (bench.block == NULL) {
        return img_fail("%s", error.text);
    }
    if (bytes > block_bytes(bench.block)) {
        block_close(bench.block);
        return img_fail("The image is smaller than one request");
    }
    bench.bytes = bytes;
    bench.step = step != 0 ? step : bytes;
    bench.at = bench.offset % (block_bytes(bench.block) - bytes + 1);
    bench.until_flush = bench.flush_interval;
    bench.slots = calloc(depth, sizeof(*bench.slots));
    size_t stride = (bytes + 4095) & ~(size_t)4095;
    uint8_t *buffers = aligned_alloc(4096, stride * depth);
    int status = bench.slots == NULL || buffers == NULL ? img_fail("%s", strerror(ENOMEM)) : 0;
    if (!common.quiet && status == 0) {
        printf("Sending %" PRIu64 " %s requests, %" PRIu64 " bytes each, %" PRIu64 " in parallel (starting at offset %" PRIu64 ", step size %" PRIu64 ")\n",
               bench.count, bench.write ? "write" : "read", bytes, depth, bench.offset, bench.step);
        if (bench.flush_interval != 0) {
            printf("Sending flush every %" PRIu64 " requests\n", bench.flush_interval);
        }
    }
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (status == 0) {
        memset(buffers, (int)pattern, stride * depth);
        block_plug(bench.block);
        for (uint64_t i = 0; i < depth; i++) {
            bench.slots[i] = (struct bench_slot){.bench = &bench, .iov = {buffers + i * stride, bytes}};
            bench_next(&bench.slots[i]);
        }
        block_unplug(bench.block);
        block_drain(bench.block);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (status == 0 && bench.result != 0) {
        status = img_fail("Failed request: %s", strerror(-bench.result));
    } else if (status == 0 && !common.quiet) {
        printf("Run completed in %3.3f seconds.\n", (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
    }
    block_close(bench.block);
    free(bench.slots);
    free(buffers);
    return status;
}
