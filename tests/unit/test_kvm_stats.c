/* SPDX-License-Identifier: MIT */
/*
 * KVM_GET_STATS_FD: the layout that api.rst 4.133 gives, data that is current at each read, and what the descriptor refuses.
 */
#include "kvm_client.h"

#include <fcntl.h>

struct stats {
    int fd;
    struct kvm_stats_header header;
    uint8_t *descs;
};

static const struct kvm_stats_desc *desc_at(const struct stats *s, uint32_t i)
{
    return (const struct kvm_stats_desc *)(const void *)(s->descs + i * (sizeof(struct kvm_stats_desc) + s->header.name_size));
}

static void stats_open(struct stats *s, int handle)
{
    s->fd = ask(handle, KVM_GET_STATS_FD, NULL);
    assert_true(s->fd >= 0);
    assert_int_equal(read(s->fd, &s->header, sizeof(s->header)), sizeof(s->header));
    size_t bytes = s->header.num_desc * (sizeof(struct kvm_stats_desc) + s->header.name_size);
    s->descs = malloc(bytes);
    assert_int_equal(pread(s->fd, s->descs, bytes, s->header.desc_offset), (ssize_t)bytes);
}

static void stats_close(struct stats *s)
{
    close(s->fd);
    free(s->descs);
}

static const struct kvm_stats_desc *stats_find(const struct stats *s, const char *name)
{
    for (uint32_t i = 0; i < s->header.num_desc; i++)
        if (!strcmp(desc_at(s, i)->name, name))
            return desc_at(s, i);
    fail_msg("no statistic %s", name);
    return NULL;
}

static uint64_t stats_value(const struct stats *s, const char *name)
{
    uint64_t value;

    assert_int_equal(pread(s->fd, &value, 8, s->header.data_offset + stats_find(s, name)->offset), 8);
    return value;
}

static void check_layout(const struct stats *s, const char *id)
{
    char text[64] = { 0 };
    struct stat st;

    assert_int_equal(s->header.flags, 0);
    assert_true(s->header.name_size >= 16 && s->header.name_size <= sizeof(text));
    assert_int_equal(pread(s->fd, text, s->header.name_size, s->header.id_offset), (ssize_t)s->header.name_size);
    assert_string_equal(text, id);
    assert_int_equal(s->header.desc_offset % 8, 0);
    assert_int_equal(s->header.data_offset % 8, 0);
    assert_int_equal(fstat(s->fd, &st), 0);
    for (uint32_t i = 0; i < s->header.num_desc; i++) {
        const struct kvm_stats_desc *d = desc_at(s, i);
        assert_true((d->flags & KVM_STATS_TYPE_MASK) <= KVM_STATS_TYPE_MAX);
        assert_true((d->flags & KVM_STATS_UNIT_MASK) <= KVM_STATS_UNIT_MAX);
        assert_true((d->flags & KVM_STATS_BASE_MASK) <= KVM_STATS_BASE_MAX);
        assert_int_equal(d->size, 1);
        assert_int_equal(d->offset % 8, 0);
        assert_true(s->header.data_offset + d->offset + 8 <= (uint64_t)st.st_size);
        assert_true(strnlen(d->name, s->header.name_size) < s->header.name_size && d->name[0]);
        for (uint32_t k = 0; k < i; k++)
            assert_string_not_equal(d->name, desc_at(s, k)->name);
    }
}

static void test_layout(void **state)
{
    struct client *c = *state;
    struct stats vm, vcpu;
    char id[48];

    assert_int_equal(ask(c->system, KVM_CHECK_EXTENSION, number(KVM_CAP_BINARY_STATS_FD)), 1);
    assert_int_equal(ask(c->system, KVM_GET_STATS_FD, NULL), -EINVAL);
    stats_open(&vm, c->vm);
    stats_open(&vcpu, c->vcpu);
    snprintf(id, sizeof(id), "kvm-%d", (int)getpid());
    check_layout(&vm, id);
    snprintf(id, sizeof(id), "kvm-%d/vcpu-0", (int)getpid());
    check_layout(&vcpu, id);
    assert_int_equal(stats_find(&vcpu, "halt_wait_ns")->exponent, -9);
    assert_int_equal(stats_value(&vm, "vcpus"), 1);
    assert_int_equal(stats_value(&vm, "memory_slots"), 1);
    stats_close(&vm);
    stats_close(&vcpu);
}

/* The same descriptors before, between and after runs; also while another thread's counts. */
static void test_current(void **state)
{
    static const uint8_t code[] = { 0xe6, 0x80, 0x0f, 0xa2, 0xa2, 0x00, 0xf0, 0xeb, 0xf7 }; /* out 80h; cpuid; mov [f000h], al; jmp */
    struct client *c = *state;
    struct stats a, b;

    client_load_16(c, 0x1000, code, sizeof(code));
    client_run(c, KVM_EXIT_IO);
    stats_open(&a, c->vcpu);
    stats_open(&b, c->vcpu);
    uint64_t io = stats_value(&a, "io_exits"), exits = stats_value(&a, "exits"), cpuid = stats_value(&a, "exit_cpuid");
    assert_int_equal(io, 1);
    client_run(c, KVM_EXIT_MMIO);
    client_run(c, KVM_EXIT_IO);
    for (int i = 0; i < 2; i++) {
        const struct stats *s = i ? &b : &a;
        assert_int_equal(stats_value(s, "io_exits"), io + 1);
        assert_int_equal(stats_value(s, "mmio_exits"), 1);
        assert_int_equal(stats_value(s, "exit_cpuid"), cpuid + 1);
        assert_true(stats_value(s, "exits") >= exits + 3);
        assert_true(stats_value(s, "guest_insns") >= 3);
        assert_int_equal(stats_value(s, "user_exits"), 3);
    }
    /* Offsets are each descriptor's own: b still stands behind the header. */
    assert_int_equal(lseek(a.fd, 0, SEEK_SET), 0);
    assert_int_equal(lseek(b.fd, 0, SEEK_CUR), sizeof(b.header));
    stats_close(&a);
    client_close_vcpu(c);
    assert_int_equal(stats_value(&b, "io_exits"), io + 1); /* outlives its vCPU */
    stats_close(&b);
}

static void test_read_only(void **state)
{
    struct client *c = *state;
    struct stats s;
    char path[40];

    stats_open(&s, c->vcpu);
    assert_int_equal(pwrite(s.fd, "x", 1, 0), -1);
    assert_int_equal(errno, EBADF);
    assert_int_equal(ftruncate(s.fd, 0), -1);
    assert_ptr_equal(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, s.fd, 0), MAP_FAILED);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", s.fd); /* opened anew for writing, it is sealed */
    int fd = open(path, O_RDWR);
    if (fd >= 0) {
        assert_int_equal(pwrite(fd, "x", 1, 0), -1);
        assert_int_equal(ftruncate(fd, 0), -1);
        close(fd);
    }
    assert_true(fcntl(s.fd, F_GETFD) & FD_CLOEXEC);
    stats_close(&s);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, client_setup, client_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = { TEST(test_layout), TEST(test_current), TEST(test_read_only) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
