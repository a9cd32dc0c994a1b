/* SPDX-License-Identifier: MIT */
/*
 * Random sequences of operations on qcow2 images, Kage and QEMU in turn: what one wrote, the other checks, reads, and writes on. The content is
 * compared byte for byte with a model in memory after each turn, by both. Backing chains, snapshots, bitmaps, compression, all cluster sizes, both
 * versions, subclusters, all widths of refcounts; sizes, commits, rebasing, conversions (kage img and qemu-img).
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
#include "cli/img/img.h"
#include "seeds.h"

#define DISK_MAX (6u << 20)
#define TURNS 8u
#define SNAPSHOTS_MAX 3u
#define BITMAPS_MAX 3u

struct run {
    unsigned seed;
    uint64_t random;
    bool verbose;
    char directory[64], image[96], base[96], deep[96], raw[96], script[96];
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
    struct { /* that do not follow changes any more: what they must hold */
        char name[16];
        uint32_t granularity;
        uint8_t dirty[DISK_MAX / 512]; /* a byte for each bit */
    } bitmaps[BITMAPS_MAX];
    unsigned bitmap_count, bitmap_names;
    bool follower; /* one that does was made */
    uint8_t *record; /* sectors that QEMU writes to are noted here */
    bool has_base, raw_base;
    bool packed; /* some clusters are compressed */
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
    if (status == 0 && !r->raw_base && below(r, 2)) { /* and it lies on another */
        uint64_t at = below(r, bytes / 512) * 512, count = 512 * (1 + below(r, (bytes - at) / 512));
        int pattern = (int)below(r, 256);
        status = shell("mv %s %s && qemu-img create -q -f qcow2 -o cluster_size=1024 -b %s -F qcow2 %s && qemu-io -f qcow2 -c 'write -P %d %llu %llu' %s >%s.out 2>&1",
                       r->base, r->deep, r->deep, r->base, pattern, (unsigned long long)at, (unsigned long long)count, r->base, r->script);
        memset(buffer + at, pattern, count);
    }
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
    r->packed = r->packed || op == OP_COMPRESSED;
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
        if (r->record != NULL) {
            memset(r->record + offset / 512, 1, bytes / 512);
        }
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
    } else if (which == 1 && r->snapshot_count > 0 && (kage || (r->bitmap_count == 0 && !r->follower))) { /* QEMU does not with bitmaps */
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
    } else if (r->bitmap_count == 0 && !r->follower && (r->snapshot_count == 0 || r->create.version >= 3)) {
        uint64_t bytes = below(r, 2) ? r->bytes + 512 * below(r, (DISK_MAX - r->bytes) / 512 + 1) : 512 * (1 + below(r, r->bytes / 512));
        if (!kage && bytes > r->bytes && r->create.extended_l2 && r->packed) {
            return 0; /* QEMU has no zeroes for the rest of a last cluster that is compressed */
        }
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

/* ---- Bitmaps ---- */

static int bitmap_verb(struct run *r, bool kage, const char *actions, const char *name)
{
    char line[300], *words[16] = {(char[]){"bitmap"}, (char[]){"-f"}, (char[]){"qcow2"}};
    int count = 3;
    note(r, "  bitmap %s %s%s\n", actions, name, kage ? "" : " by QEMU");
    if (!kage) {
        return shell("qemu-img bitmap -f qcow2 %s %s %s", actions, r->image, name) ? wrong(r, "qemu-img bitmap %s %s", actions, name) : 0;
    }
    snprintf(line, sizeof(line), "%s %s %s", actions, r->image, name);
    for (char *save, *word = strtok_r(line, " ", &save); word != NULL && count < 15; word = strtok_r(NULL, " ", &save)) {
        words[count++] = word;
    }
    return img_main(count, words) != 0 ? wrong(r, "kage img bitmap %s %s", actions, name) : 0;
}

static void bitmap_widen(uint8_t *dirty, uint32_t granularity)
{
    uint32_t sectors = granularity / 512;
    for (uint32_t first = 0; first < DISK_MAX / 512; first += sectors) {
        uint32_t count = sectors < DISK_MAX / 512 - first ? sectors : DISK_MAX / 512 - first;
        if (memchr(dirty + first, 1, count) != NULL) {
            memset(dirty + first, 1, count);
        }
    }
}

static int turn_qemu(struct run *r);

static int turn_bitmap(struct run *r)
{
    unsigned which = (unsigned)below(r, 6), pick = r->bitmap_count > 0 ? (unsigned)below(r, r->bitmap_count) : 0;
    char actions[100];
    if (r->create.version < 3) {
        return turn_qemu(r);
    }
    if (which < 3 && r->bitmap_count < BITMAPS_MAX) { /* follows what QEMU does for a turn, then does not any more; or is a copy of another */
        char *name = r->bitmaps[r->bitmap_count].name;
        uint8_t *dirty = r->bitmaps[r->bitmap_count].dirty;
        uint32_t granularity = 512u << below(r, 9);
        snprintf(name, 16, "b%u", r->bitmap_names++);
        memset(dirty, 0, sizeof(r->bitmaps[0].dirty));
        r->bitmaps[r->bitmap_count].granularity = granularity;
        bool copy = r->bitmap_count > 0 && which == 2;
        if (copy) {
            snprintf(actions, sizeof(actions), "--add --disable -g %u --merge %s", granularity, r->bitmaps[pick].name);
            memcpy(dirty, r->bitmaps[pick].dirty, sizeof(r->bitmaps[0].dirty));
        } else {
            snprintf(actions, sizeof(actions), "--add -g %u", granularity);
        }
        int failed = bitmap_verb(r, below(r, 2), actions, name);
        if (!failed && !copy) {
            r->record = dirty;
            failed = turn_qemu(r);
            r->record = NULL;
            failed = failed || bitmap_verb(r, below(r, 2), "--disable", name);
        }
        bitmap_widen(dirty, granularity);
        r->bitmap_count++;
        return failed;
    }
    if (which == 3 && !r->follower) {
        r->follower = true;
        return bitmap_verb(r, below(r, 2), "--add", "follower");
    }
    if (r->bitmap_count == 0) {
        return 0;
    }
    if (which == 4) {
        memset(r->bitmaps[pick].dirty, 0, sizeof(r->bitmaps[0].dirty));
        return bitmap_verb(r, below(r, 2), "--clear", r->bitmaps[pick].name);
    }
    int failed = bitmap_verb(r, below(r, 2), "--remove", r->bitmaps[pick].name);
    r->bitmaps[pick] = r->bitmaps[--r->bitmap_count];
    return failed;
}

static int verify_bits(struct run *r, const char *image, const char *name, unsigned index, uint32_t granularity)
{
    struct error error = {""};
    struct node_bits bits = {0};
    struct block_node *node = node_open(image, "qcow2", &(struct node_options){.read_only = true, .no_backing = true}, &error);
    int result = node == NULL ? -1 : node->driver->bitmap_read(node, name, &bits, &error);
    if (node != NULL) {
        node_close(node);
    }
    if (result != 0) {
        return wrong(r, "bitmap %s: %s", name, error.text);
    }
    result = bits.granularity != granularity || bits.count != (r->bytes + granularity - 1) / granularity;
    for (uint64_t i = 0; i < r->bytes / 512 && !result; i++) {
        uint64_t bit = i * 512 / granularity;
        result = (bits.bits[bit / 8] >> bit % 8 & 1) != r->bitmaps[index].dirty[i];
    }
    free(bits.bits);
    return result ? wrong(r, "bitmap %s of %s holds something else", name, image) : 0;
}

/* What Kage reads in it; and now and then what it reads in a copy that QEMU made of it. */
static int verify_bitmaps(struct run *r)
{
    for (unsigned i = 0; i < r->bitmap_count; i++) {
        if (verify_bits(r, r->image, r->bitmaps[i].name, i, r->bitmaps[i].granularity) != 0) {
            return 1;
        }
        if (below(r, 4) == 0) {
            char copy[128];
            snprintf(copy, sizeof(copy), "%s.b", r->image);
            if (shell("cp %s %s && qemu-img bitmap -f qcow2 --add -g 512 --disable --merge %s %s copy", r->image, copy, r->bitmaps[i].name, copy)) {
                return wrong(r, "QEMU cannot copy bitmap %s", r->bitmaps[i].name);
            }
            if (verify_bits(r, copy, "copy", i, 512) != 0) {
                return 1;
            }
        }
    }
    return 0;
}

/* ---- Tools that write whole images ---- */

static void forget(struct run *r)
{
    for (unsigned i = 0; i < r->snapshot_count; i++) {
        free(r->snapshots[i].content);
    }
    r->snapshot_count = r->bitmap_count = 0;
    r->follower = false;
}

static int tool(struct run *r, bool kage, const char *line)
{
    char copy[600], *words[24];
    int count = 0;
    note(r, "  %s%s\n", line, kage ? "" : " by QEMU");
    if (!kage) {
        /* QEMU 7.2 does not come to an end of some changes of refcount_bits with clusters of 2 MiB; then ours goes on from the image as it was. */
        int status = shell("cp --sparse=always %s %s.before && timeout 60 qemu-img %s", r->image, r->image, line);
        if (status != 124) {
            return status != 0 ? wrong(r, "qemu-img %s", line) : 0;
        }
        printf("note: seed %u: qemu-img has not ended in 60 s: %s\n", r->seed, line);
        if (shell("mv %s.before %s", r->image, r->image) != 0) {
            return wrong(r, "mv");
        }
    }
    snprintf(copy, sizeof(copy), "%s", line);
    for (char *at = copy, *word; (word = strsep(&at, " ")) != NULL && count < 24;) {
        words[count++] = strcmp(word, "''") == 0 ? (char[]){""} : word;
    }
    return img_main(count, words) != 0 ? wrong(r, "kage img %s", line) : 0;
}

static int turn_tool(struct run *r)
{
    bool kage = below(r, 2);
    char line[600];
    unsigned which = (unsigned)below(r, 5);
    if (which >= 3) { /* what the format allows must work; downgrading goes only without snapshots and bitmaps */
        bool old = r->create.refcount_bits == 16 && r->snapshot_count == 0 && r->bitmap_count == 0 && !r->follower && !r->create.zstd && !r->create.extended_l2 &&
                   below(r, 2);
        unsigned refcount_bits = old ? 16 : 1u << below(r, 7);
        refcount_bits = r->snapshot_count > 0 && refcount_bits < 16 ? 32 : refcount_bits;
        bool lazy = !old && below(r, 2);
        if (r->packed && refcount_bits < 16) { /* clusters that share one of the file have a refcount above 1 */
            refcount_bits = 16;
        }
        snprintf(line, sizeof(line), "amend -q -f qcow2 -o compat=%s,refcount_bits=%u,lazy_refcounts=%s %s", old ? "0.10" : "1.1", refcount_bits, lazy ? "on" : "off", r->image);
        r->create.version = old ? 2 : 3;
        r->create.refcount_bits = refcount_bits;
        r->create.lazy_refcounts = lazy;
        return tool(r, kage, line);
    }
    if (which == 0 && r->has_base) { /* the image alone holds everything; its snapshots do not */
        if (r->snapshot_count > 0) {
            return 0;
        }
        snprintf(line, sizeof(line), "rebase -q -f qcow2 -b '' %s", r->image);
        r->has_base = false;
        r->create.backing_file = r->create.backing_format = NULL;
        return tool(r, kage, line);
    }
    if (which == 1 && r->has_base && r->snapshot_count == 0) {
        snprintf(line, sizeof(line), "commit -q -f qcow2 %s", r->image);
        return tool(r, kage, line);
    }
    unsigned bits = 9 + (unsigned)below(r, 13), version = 2 + (unsigned)below(r, 2);
    bool zstd = version == 3 && below(r, 2), extended = version == 3 && bits >= 14 && below(r, 3) == 0;
    if ((UINT64_C(512) << bits) < r->bytes) {
        bits = 16;
    }
    forget(r);
    r->has_base = false;
    r->packed = below(r, 2);
    r->create = (struct qcow2_create_options){.size = r->bytes, .version = version, .cluster_bits = bits, .refcount_bits = 16, .zstd = zstd, .extended_l2 = extended};
    snprintf(line, sizeof(line), "convert -q -f qcow2 -O qcow2 %s-o compat=v%u,cluster_size=%u%s%s %s %s.c", r->packed ? "-c " : "", version, 1u << bits,
             extended ? ",extended_l2=on" : "", zstd ? ",compression_type=zstd" : "", r->image, r->image);
    int failed = tool(r, kage, line);
    return failed != 0 ? failed : shell("mv %s.c %s", r->image, r->image) ? wrong(r, "mv") : 0;
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
        uint64_t both = bytes < r->bytes ? bytes : r->bytes; /* a snapshot comes out as long as the disk is now */
        if (got != r->bytes || memcmp(other, content, both) != 0) {
            return wrong(r, "QEMU reads other content (%zu bytes) %s", got, snapshot);
        }
    }
    return verify_bitmaps(r);
}

static int sequence(struct run *r, unsigned seed)
{
    r->seed = seed;
    r->random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    r->what[0] = '\0';
    r->snapshot_count = r->bitmap_count = 0;
    r->follower = r->packed = false;
    memset(r->maybe, 0, sizeof(r->maybe));
    for (unsigned i = 0; i < 8; i++) {
        next_random(r);
    }
    int failed = start(r);
    for (unsigned turn = 0; turn < TURNS && !failed; turn++) {
        static const struct {
            const char *name;
            int (*run)(struct run *r);
        } turns[] = {{"kage", turn_kage}, {"kage", turn_kage}, {"kage", turn_kage}, {"QEMU", turn_qemu}, {"QEMU", turn_qemu}, {"QEMU", turn_qemu},
                     {"manage", turn_manage}, {"manage", turn_manage}, {"bitmap", turn_bitmap}, {"tool", turn_tool}};
        unsigned who = (unsigned)below(r, sizeof(turns) / sizeof(turns[0]));
        note(r, "%s:\n", turns[who].name);
        failed = turns[who].run(r);
        failed = failed || verify_content(r);
    }
    forget(r);
    return failed;
}

int main(int argc, char **argv)
{
    static struct run run;
    unsigned first, count = 60, passed = 0, failed = 0;
    if (!seeds_options(argc, argv, &first, &count, &run.verbose)) {
        return 2;
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
    snprintf(run.deep, sizeof(run.deep), "%s/deep", run.directory);
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
