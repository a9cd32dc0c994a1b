/* SPDX-License-Identifier: MIT */
/*
 * Random sequences of operations on qcow2 images, Kage and QEMU in turn: what one wrote, the other checks, reads, and writes on. The content is
 * compared byte for byte with a model in memory after each turn, by both. Backing chains, snapshots, compression, all cluster sizes, both
 * versions, subclusters, all widths of refcounts.
 * Usage: block-ops [-s FIRST-SEED] [-n SEQUENCES] [-v]
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/node.h"
#include "block/qcow2_create.h"

#define DISK_MAX (6u << 20)
#define TURNS 6u
#define SNAPSHOTS_MAX 3u

struct run {
    unsigned seed;
    uint64_t random;
    bool verbose;
    char directory[64], image[96], base[96], raw[96], script[96];
    struct qcow2_create_options create;
    uint64_t bytes;
    uint8_t model[DISK_MAX], before[DISK_MAX];
    uint8_t maybe[DISK_MAX / 512]; /* 1: discarded in this turn: as before, or zero */
    struct {
        char name[16];
        uint64_t bytes;
        uint8_t *content;
    } snapshots[SNAPSHOTS_MAX];
    unsigned snapshot_count, snapshot_names;
    bool has_base, raw_base;
    char what[4096];
};

static uint8_t buffer[DISK_MAX], other[DISK_MAX];

static uint64_t next_random(struct run *r)
{
    r->random ^= r->random << 13;
    r->random ^= r->random >> 7;
    r->random ^= r->random << 17;
    return r->random;
}

static uint64_t below(struct run *r, uint64_t limit)
{
    return next_random(r) % limit;
}

static void note(struct run *r, const char *format, ...)
{
    size_t used = strlen(r->what);
    va_list args;
    va_start(args, format);
    if (used < sizeof(r->what) - 200) {
        vsnprintf(r->what + used, sizeof(r->what) - used, format, args);
    }
    va_end(args);
}

static int wrong(struct run *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("FAIL: seed %u: ", r->seed);
    vprintf(format, args);
    printf("\n  image %s version %u cluster_bits %u extended %d refcount_bits %u zstd %d lazy %d base %d\n%s\n", r->image, r->create.version,
           r->create.cluster_bits, r->create.extended_l2, r->create.refcount_bits, r->create.zstd, r->create.lazy_refcounts, r->has_base, r->what);
    va_end(args);
    return 1;
}

static int shell(const char *format, ...)
{
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* ---- The image at the start ---- */

static int start_base(struct run *r)
{
    uint64_t bytes = (below(r, r->bytes / 512 + r->bytes / 2048) + 1) * 512;
    bytes = bytes > DISK_MAX ? DISK_MAX : bytes;
    r->raw_base = below(r, 2);
    memset(buffer, 0, bytes);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t at = below(r, bytes), count = below(r, bytes / 4 + 1);
        count = count < bytes - at ? count : bytes - at;
        memset(buffer + at, (int)below(r, 256), count);
    }
    FILE *file = fopen(r->raw, "we");
    if (file == NULL || fwrite(buffer, 1, bytes, file) != bytes || fclose(file) != 0) {
        return wrong(r, "cannot write %s", r->raw);
    }
    int status = r->raw_base ? shell("cp %s %s", r->raw, r->base) : shell("qemu-img convert -f raw -O qcow2 -o cluster_size=4096 %s %s", r->raw, r->base);
    memcpy(r->model, buffer, bytes < r->bytes ? bytes : r->bytes);
    r->create.backing_file = r->base;
    r->create.backing_format = r->raw_base ? "raw" : "qcow2";
    return status != 0 ? wrong(r, "no base") : 0;
}

static int start(struct run *r)
{
    unsigned cluster_bits = 9 + (unsigned)below(r, 13);
    bool v3 = below(r, 4) != 0;
    r->create = (struct qcow2_create_options){
        .version = v3 ? 3 : 2,
        .cluster_bits = cluster_bits,
        .refcount_bits = v3 ? 1u << below(r, 7) : 16,
        .lazy_refcounts = v3 && below(r, 5) == 0,
        .extended_l2 = v3 && cluster_bits >= 14 && below(r, 2),
        .zstd = v3 && below(r, 3) == 0,
    };
    uint64_t max = DISK_MAX / 512, most = (UINT64_C(512) << cluster_bits) / 512;
    r->bytes = (below(r, most < max ? most : max) + 1) * 512;
    r->create.size = r->bytes;
    memset(r->model, 0, sizeof(r->model));
    r->has_base = below(r, 3) == 0;
    if (r->has_base && start_base(r) != 0) {
        return 1;
    }
    if (below(r, 2)) {
        char backing[200] = "";
        if (r->has_base) {
            snprintf(backing, sizeof(backing), "-b %s -F %s", r->base, r->create.backing_format);
        }
        return shell("qemu-img create -q -f qcow2 -o compat=v%u,cluster_size=%u,refcount_bits=%u,lazy_refcounts=%s,extended_l2=%s%s %s %s %llu", r->create.version,
                     1u << cluster_bits, r->create.refcount_bits, r->create.lazy_refcounts ? "on" : "off", r->create.extended_l2 ? "on" : "off",
                     r->create.zstd ? ",compression_type=zstd" : "", backing, r->image, (unsigned long long)r->bytes)
                   ? wrong(r, "qemu-img create")
                   : 0;
    }
    struct error error = {""};
    struct node_options options = {0};
    FILE *file = fopen(r->image, "we");
    if (file == NULL || fclose(file) != 0) {
        return wrong(r, "cannot create");
    }
    struct block_node *node = node_open_file(r->image, &options, &error);
    if (node == NULL || qcow2_create(node, &r->create, &error) != 0 || node_close(node) != 0) {
        return wrong(r, "create: %s", error.text);
    }
    return 0;
}

/* ---- Operations; each is done to the model and to the image ---- */

enum op { OP_WRITE, OP_ZERO, OP_ZERO_UNMAP, OP_DISCARD, OP_COMPRESSED, OP_KINDS };

static void pick_range(struct run *r, enum op op, uint64_t *offset, uint64_t *bytes)
{
    uint64_t cluster = UINT64_C(1) << r->create.cluster_bits, sectors = r->bytes / 512;
    *offset = below(r, sectors) * 512;
    uint64_t most = r->bytes - *offset, want = below(r, 3) == 0 ? 512 * (1 + below(r, 16)) : below(r, 2) ? cluster * (1 + below(r, 8)) : 1 + below(r, 256 * 1024);
    if (below(r, 2)) {
        *offset &= ~(cluster - 1);
        most = r->bytes - *offset;
    }
    *bytes = ((want < most ? want : most) + 511) & ~UINT64_C(511);
    if (op == OP_COMPRESSED) { /* one cluster, or the end of the disk */
        *offset &= ~(cluster - 1);
        *bytes = cluster < r->bytes - *offset ? cluster : r->bytes - *offset;
    }
}

static void model_op(struct run *r, enum op op, uint64_t offset, uint64_t bytes, int pattern)
{
    note(r, "  %s %llu %llu %d\n", (const char *[]){"write", "zero", "zero-unmap", "discard", "compressed"}[op], (unsigned long long)offset,
         (unsigned long long)bytes, pattern);
    if (op == OP_DISCARD) {
        memset(r->maybe + offset / 512, 1, bytes / 512);
        return;
    }
    memset(r->maybe + offset / 512, 0, bytes / 512);
    memset(r->model + offset, op == OP_WRITE || op == OP_COMPRESSED ? pattern : 0, bytes);
}

static int turn_kage(struct run *r)
{
    struct error error = {""};
    struct node_options options = {0};
    struct block_node *node = node_open(r->image, "qcow2", &options, &error);
    if (node == NULL) {
        return wrong(r, "open: %s", error.text);
    }
    unsigned ops = 1 + (unsigned)below(r, 12);
    for (unsigned i = 0; i < ops; i++) {
        enum op op = (enum op)below(r, OP_KINDS);
        uint64_t offset, bytes;
        int pattern = 1 + (int)below(r, 255), result;
        pick_range(r, op, &offset, &bytes);
        model_op(r, op, offset, bytes, pattern);
        memset(buffer, pattern, bytes);
        result = op == OP_WRITE        ? node_write(node, offset, buffer, bytes)
                 : op == OP_DISCARD    ? node_discard(node, offset, bytes)
                 : op == OP_COMPRESSED ? node_write_compressed(node, offset, buffer, bytes)
                                       : node_write_zeroes(node, offset, bytes, op == OP_ZERO_UNMAP ? NODE_UNMAP : 0);
        if (result == 0 && below(r, 6) == 0) {
            note(r, "  flush\n");
            result = node_flush(node);
        }
        if (result != 0) {
            node_close(node);
            return wrong(r, "operation: %s", strerror(-result));
        }
        uint64_t at = below(r, r->bytes), count = below(r, r->bytes - at + 1);
        result = node_read(node, at, other, count);
        for (uint64_t j = 0; j < count && result == 0; j++) {
            if (other[j] != r->model[at + j] && !(r->maybe[(at + j) / 512] && other[j] == 0)) {
                node_close(node);
                return wrong(r, "read at %llu: %02x, not %02x", (unsigned long long)(at + j), other[j], r->model[at + j]);
            }
        }
    }
    int result = node_close(node);
    return result != 0 ? wrong(r, "close: %s", strerror(-result)) : 0;
}

static int turn_qemu(struct run *r)
{
    FILE *file = fopen(r->script, "we");
    unsigned ops = 1 + (unsigned)below(r, 12);
    if (file == NULL) {
        return wrong(r, "no script");
    }
    for (unsigned i = 0; i < ops; i++) {
        enum op op = (enum op)below(r, OP_KINDS);
        uint64_t offset, bytes;
        int pattern = 1 + (int)below(r, 255);
        pick_range(r, op, &offset, &bytes);
        if (op == OP_COMPRESSED) {
            op = OP_WRITE; /* QEMU refuses to compress over what is allocated; whole images it compresses are read below */
        }
        model_op(r, op, offset, bytes, pattern);
        static const char *const commands[] = {"write -P %d", "write -z", "write -z -u", "discard"};
        fprintf(file, commands[op], pattern);
        fprintf(file, " %llu %llu\n", (unsigned long long)offset, (unsigned long long)bytes);
    }
    fclose(file);
    return shell("qemu-io -f qcow2 -d unmap %s <%s >%s.out 2>&1", r->image, r->script, r->script) ? wrong(r, "qemu-io") : 0;
}

/* The rest that is not a read or write: snapshots and sizes. */
static int turn_manage(struct run *r)
{
    /* QEMU cannot make a version 2 image longer that lies on another: it has no zeroes to hide it with. */
    bool kage = below(r, 2) || (r->has_base && r->create.version == 2);
    struct error error = {""};
    struct node_options options = {0};
    unsigned which = (unsigned)below(r, 4), pick = r->snapshot_count > 0 ? (unsigned)below(r, r->snapshot_count) : 0;
    char command[300] = "";
    int result = 0;
    struct block_node *node = NULL;
    if (kage) {
        node = node_open(r->image, "qcow2", &options, &error);
        if (node == NULL) {
            return wrong(r, "open: %s", error.text);
        }
    }
    /* Narrow refcounts are soon full, where compressed clusters share one of the file. */
    if (which == 0 && r->snapshot_count < SNAPSHOTS_MAX && r->create.refcount_bits >= 16) {
        char *name = r->snapshots[r->snapshot_count].name;
        snprintf(name, 16, "s%u", r->snapshot_names++);
        note(r, "  snapshot %s%s\n", name, kage ? "" : " by QEMU");
        r->snapshots[r->snapshot_count].content = malloc(r->bytes);
        memcpy(r->snapshots[r->snapshot_count].content, r->model, r->bytes);
        r->snapshots[r->snapshot_count++].bytes = r->bytes;
        result = kage ? node->driver->snapshot_create(node, name, &error) : (snprintf(command, sizeof(command), "snapshot -c %s", name), 0);
    } else if (which == 1 && r->snapshot_count > 0) {
        note(r, "  apply %s%s\n", r->snapshots[pick].name, kage ? "" : " by QEMU");
        r->bytes = r->snapshots[pick].bytes;
        memset(r->model, 0, sizeof(r->model));
        memcpy(r->model, r->snapshots[pick].content, r->bytes);
        result = kage ? node->driver->snapshot_apply(node, r->snapshots[pick].name, &error)
                      : (snprintf(command, sizeof(command), "snapshot -a %s", r->snapshots[pick].name), 0);
    } else if (which == 2 && r->snapshot_count > 0) {
        char name[16];
        memcpy(name, r->snapshots[pick].name, sizeof(name));
        note(r, "  delete %s%s\n", name, kage ? "" : " by QEMU");
        free(r->snapshots[pick].content);
        r->snapshots[pick] = r->snapshots[--r->snapshot_count];
        result = kage ? node->driver->snapshot_delete(node, name, &error) : (snprintf(command, sizeof(command), "snapshot -d %s", name), 0);
    } else if (r->snapshot_count == 0 || r->create.version >= 3) {
        uint64_t bytes = below(r, 2) ? r->bytes + 512 * below(r, (DISK_MAX - r->bytes) / 512 + 1) : 512 * (1 + below(r, r->bytes / 512));
        if (!kage && bytes < r->bytes) { /* QEMU leaves the rest of a last cluster as it is, and shows it again when it grows */
            uint64_t cluster = UINT64_C(1) << r->create.cluster_bits;
            bytes = bytes < cluster ? r->bytes : bytes & ~(cluster - 1);
        }
        note(r, "  resize %llu to %llu%s\n", (unsigned long long)r->bytes, (unsigned long long)bytes, kage ? "" : " by QEMU");
        if (bytes > r->bytes) {
            memset(r->model + r->bytes, 0, bytes - r->bytes);
        } else {
            memset(r->model + bytes, 0, r->bytes - bytes);
        }
        r->bytes = bytes;
        int prealloc = kage && below(r, 6) == 0 ? NODE_PREALLOC_METADATA : NODE_PREALLOC_OFF;
        result = kage ? node_resize(node, bytes, bytes > r->bytes ? prealloc : 0, &error) : 0;
        if (!kage) {
            return shell("qemu-img resize -q -f qcow2 --shrink %s %llu", r->image, (unsigned long long)bytes) ? wrong(r, "qemu-img resize") : 0;
        }
    }
    if (kage) {
        int closed = node_close(node);
        return result != 0 || closed != 0 ? wrong(r, "manage: %s", error.text) : 0;
    }
    return command[0] != '\0' && shell("qemu-img %s %s", command, r->image) ? wrong(r, "qemu-img %s", command) : 0;
}

/* ---- What must hold after a turn ---- */

static int verify_content(struct run *r)
{
    struct error error = {""};
    struct node_options options = {.read_only = true};
    struct block_node *node = node_open(r->image, "qcow2", &options, &error);
    if (node == NULL || node->bytes != r->bytes) {
        return wrong(r, "open to read: %s, size %llu not %llu", error.text, node != NULL ? (unsigned long long)node->bytes : 0, (unsigned long long)r->bytes);
    }
    int result = node_read(node, 0, buffer, r->bytes);
    struct node_check check = {.messages = stdout};
    int checked = node->driver->check(node, 0, &check);
    node_close(node);
    if (result != 0 || checked != 0 || check.corruptions != 0 || check.leaks != 0 || check.check_errors != 0) {
        return wrong(r, "read %d, check %d: %llu corruptions, %llu leaks", result, checked, (unsigned long long)check.corruptions, (unsigned long long)check.leaks);
    }
    for (uint64_t i = 0; i < r->bytes; i++) {
        if (r->maybe[i / 512] && buffer[i] == 0) {
            r->model[i] = 0;
        }
        if (buffer[i] != r->model[i]) {
            return wrong(r, "content at %llu: %02x, not %02x", (unsigned long long)i, buffer[i], r->model[i]);
        }
    }
    memset(r->maybe, 0, sizeof(r->maybe));
    if (shell("qemu-img check -q -f qcow2 %s >%s.out 2>&1", r->image, r->script)) {
        shell("qemu-img check -f qcow2 %s | head -20", r->image);
        return wrong(r, "qemu-img check");
    }
    /* QEMU reads the same, the disk and each snapshot. */
    for (unsigned i = 0; i <= r->snapshot_count; i++) {
        const uint8_t *content = i == 0 ? r->model : r->snapshots[i - 1].content;
        uint64_t bytes = i == 0 ? r->bytes : r->snapshots[i - 1].bytes;
        if (i > 0 && below(r, 3) != 0) {
            continue;
        }
        char snapshot[40] = "";
        if (i > 0) {
            snprintf(snapshot, sizeof(snapshot), "-l %s", r->snapshots[i - 1].name);
        }
        if (shell("qemu-img convert -f qcow2 -O raw %s %s %s", snapshot, r->image, r->raw)) {
            return wrong(r, "qemu-img convert %s", snapshot);
        }
        FILE *file = fopen(r->raw, "re");
        size_t got = file != NULL ? fread(other, 1, DISK_MAX, file) : 0;
        if (file != NULL) {
            fclose(file);
        }
        if (got != bytes || memcmp(other, content, bytes) != 0) {
            return wrong(r, "QEMU reads other content (%zu bytes) %s", got, snapshot);
        }
    }
    return 0;
}

static int sequence(struct run *r, unsigned seed)
{
    r->seed = seed;
    r->random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    r->what[0] = '\0';
    r->snapshot_count = 0;
    memset(r->maybe, 0, sizeof(r->maybe));
    for (unsigned i = 0; i < 8; i++) {
        next_random(r);
    }
    int failed = start(r);
    for (unsigned turn = 0; turn < TURNS && !failed; turn++) {
        unsigned who = (unsigned)below(r, 5);
        note(r, "%s:\n", who < 2 ? "kage" : who < 4 ? "QEMU" : "manage");
        failed = who < 2 ? turn_kage(r) : who < 4 ? turn_qemu(r) : turn_manage(r);
        failed = failed || verify_content(r);
    }
    /* A copy that QEMU compresses whole. */
    if (!failed && below(r, 3) == 0) {
        note(r, "compressed by QEMU\n");
        failed = shell("qemu-img convert -q -c -f qcow2 -O qcow2 -o compression_type=%s %s %s.c && mv %s.c %s", r->create.zstd ? "zstd" : "zlib", r->image, r->image,
                       r->image, r->image) ? wrong(r, "qemu-img convert -c") : 0;
        for (unsigned i = 0; i < r->snapshot_count; i++) {
            free(r->snapshots[i].content);
        }
        r->snapshot_count = 0;
        r->create.cluster_bits = 16;
        r->create.extended_l2 = false;
        r->create.refcount_bits = 16;
        failed = failed || verify_content(r) || turn_kage(r) || verify_content(r);
    }
    for (unsigned i = 0; i < r->snapshot_count; i++) {
        free(r->snapshots[i].content);
    }
    return failed;
}

int main(int argc, char **argv)
{
    static struct run run;
    unsigned first = 1, count = 60, passed = 0, failed = 0;
    int option;
    setvbuf(stdout, NULL, _IOLBF, 0); /* what failed is seen though the rest be cut off */
    while ((option = getopt(argc, argv, "s:n:v")) != -1) {
        if (option == 's') {
            first = (unsigned)strtoul(optarg, NULL, 0);
        } else if (option == 'n') {
            count = (unsigned)strtoul(optarg, NULL, 0);
        } else if (option == 'v') {
            run.verbose = true;
        } else {
            return 2;
        }
    }
    if (shell("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null")) {
        puts("no qemu-img and qemu-io to compare with\n0 passed, 0 failed, 1 skipped");
        return 77;
    }
    strcpy(run.directory, access("/dev/shm", W_OK) == 0 ? "/dev/shm/kage-ops-XXXXXX" : "/tmp/kage-ops-XXXXXX");
    if (mkdtemp(run.directory) == NULL) {
        return 2;
    }
    snprintf(run.image, sizeof(run.image), "%s/image", run.directory);
    snprintf(run.base, sizeof(run.base), "%s/base", run.directory);
    snprintf(run.raw, sizeof(run.raw), "%s/raw", run.directory);
    snprintf(run.script, sizeof(run.script), "%s/script", run.directory);
    for (unsigned seed = first; seed < first + count; seed++) {
        if (sequence(&run, seed) != 0) {
            failed++;
            if (run.verbose) {
                return 1; /* the image stays */
            }
        } else {
            passed++;
        }
    }
    shell("rm -rf %s", run.directory);
    printf("%u passed, %u failed, 0 skipped\n", passed, failed);
    return failed != 0;
}
