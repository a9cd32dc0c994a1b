/* SPDX-License-Identifier: MIT */
/*
 * KVM's descriptors behave as descriptors: dup, close, poll, fork, exec, and what is refused.
 */
#include "client.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>

/* A system call that no library sees. */
static long raw_call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static void test_device(void)
{
    struct stat st;

    CHECK(access("/dev/kvm", R_OK | W_OK) == 0);
    CHECK_FAILS(access("/dev/kvm", X_OK), EACCES);
    CHECK(stat("/dev/kvm", &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 232));
    CHECK_FAILS(open("/dev/kvm", O_RDWR | O_DIRECTORY), ENOTDIR);
    CHECK_FAILS(open("/dev/kvm", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    CHECK_FAILS(open("/dev/vhost-net", O_RDWR), ENOENT);

    int kept = open("/dev/kvm", O_RDWR), gone = openat(AT_FDCWD, "/dev/kvm", O_RDWR | O_CLOEXEC);
    CHECK(kept >= 0 && fcntl(kept, F_GETFD) == 0);
    CHECK(gone >= 0 && fcntl(gone, F_GETFD) == FD_CLOEXEC);
    CHECK((fcntl(kept, F_GETFL) & O_ACCMODE) == O_RDWR);
    CHECK(fstat(kept, &st) == 0 && st.st_rdev == makedev(10, 232));
    CHECK(ioctl(kept, KVM_GET_API_VERSION, 0) == KVM_API_VERSION);
    CHECK(syscall(SYS_ioctl, gone, KVM_GET_API_VERSION, 0) == KVM_API_VERSION);
    CHECK(close(kept) == 0 && close(gone) == 0);
    CHECK_FAILS(ioctl(kept, KVM_GET_API_VERSION, 0), EBADF);
}

static void test_poll(struct client *c)
{
    int all[] = {c->system, c->vm, c->vcpu}, epoll = epoll_create1(0);

    for (int i = 0; i < 3; i++) {
        struct pollfd p = {.fd = all[i], .events = POLLIN | POLLOUT};
        struct epoll_event event = {.events = EPOLLIN};
        CHECK(poll(&p, 1, 0) == 1 && p.revents == (POLLIN | POLLOUT));
        CHECK_FAILS(epoll_ctl(epoll, EPOLL_CTL_ADD, all[i], &event), EPERM);
    }
    CHECK(fcntl(c->vm, F_GETFD) == FD_CLOEXEC && fcntl(c->vcpu, F_GETFD) == FD_CLOEXEC);
    CHECK_FAILS((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, c->vm, 0), ENODEV);
    CHECK_FAILS(ioctl(c->vcpu, KVM_CREATE_VM, 0), EINVAL);
    close(epoll);
}

static void test_dup(void)
{
    struct client c = client_new();
    client_load(&c, client_counter, sizeof(client_counter), 0);

    int vm = dup(c.vm), vcpu = fcntl(c.vcpu, F_DUPFD_CLOEXEC, 100);
    CHECK(vm >= 0 && vcpu >= 100);
    CHECK(client_count(&c, vcpu) == 1 && client_count(&c, c.vcpu) == 2);
    CHECK(close(c.vcpu) == 0 && close(c.vm) == 0 && close(c.system) == 0);
    CHECK_FAILS(ioctl(c.vcpu, KVM_RUN, 0), EBADF);
    CHECK(client_count(&c, vcpu) == 3);
    CHECK(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) > 0);

    /* One of them gives way to another file; what was there is no handle any more. */
    int null = open("/dev/null", O_RDWR);
    CHECK(dup2(null, vm) == vm);
    CHECK_FAILS(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), ENOTTY);
    CHECK(client_count(&c, vcpu) == 4); /* the vCPU holds its VM */
    struct kvm_run *again = mmap(NULL, c.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, dup(vcpu), 0);
    CHECK(again != MAP_FAILED && again->exit_reason == KVM_EXIT_IO);
    close(vcpu);
    close(null);
}

static void test_closed_behind(void)
{
    struct client c = client_new();

    /* By a system call of the client's own; the number then means another file. */
    CHECK(raw_call(SYS_close, c.vm, 0, 0) == 0);
    int null = open("/dev/null", O_RDWR);
    CHECK(null == c.vm || dup2(null, c.vm) == c.vm);
    CHECK_FAILS(ioctl(c.vm, KVM_CREATE_VCPU, 1), ENOTTY);
    CHECK(write(c.vm, "x", 1) == 1 && close(c.vm) == 0);
    CHECK_FAILS(close(c.vm), EBADF);

    int first = dup2(c.vcpu, 200), second = dup2(c.system, 201);
    CHECK(first == 200 && second == 201 && close_range(200, 201, 0) == 0);
    CHECK_FAILS(ioctl(200, KVM_RUN, 0), EBADF);
    CHECK_FAILS(ioctl(201, KVM_GET_API_VERSION, 0), EBADF);
    client_load(&c, client_counter, sizeof(client_counter), 6);
    CHECK(client_count(&c, c.vcpu) == 7);
    close(c.vcpu);
    close(c.system);
}

static int child_status(pid_t child)
{
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_fork(struct client *c)
{
    client_load(c, client_counter, sizeof(client_counter), 20);
    pid_t child = fork();
    if (child == 0) {
        int bad = 0;
        bad += !(ioctl(c->vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == -1 && errno == EIO);
        bad += !(ioctl(c->vcpu, KVM_RUN, 0) == -1 && errno == EIO);
        bad += close(c->vm) != 0 || close(c->vcpu) != 0;
        /* The device itself is nobody's: a VM of the child's own. */
        struct client own = client_new();
        client_load(&own, client_counter, sizeof(client_counter), 40);
        bad += client_count(&own, own.vcpu) != 41;
        bad += ioctl(c->system, KVM_CREATE_VM, 0) < 0;
        _exit(bad);
    }
    CHECK(child_status(child) == 0);
    CHECK(client_count(c, c->vcpu) == 21);

    /* A child of vfork closes what it does not need: the table that it shares stays as it is. */
    child = vfork();
    if (child == 0) {
        close(c->vcpu);
        close(c->vm);
        close(c->system);
        _exit(0);
    }
    CHECK(child_status(child) == 0);
    CHECK(client_count(c, c->vcpu) == 22);
}

static void test_exec(const char *self, struct client *c)
{
    char open_ones[64];
    int kept = open("/dev/kvm", O_RDWR);

    snprintf(open_ones, sizeof(open_ones), "%d %d %d %d", c->system, c->vm, c->vcpu, kept);
    pid_t child = fork();
    if (child == 0) {
        execl(self, self, "--after-exec", open_ones, (char *)NULL);
        _exit(99);
    }
    CHECK(child_status(child) == 0);
    close(kept);
}

static int after_exec(const char *list)
{
    int system, vm, vcpu, kept;

    if (sscanf(list, "%d %d %d %d", &system, &vm, &vcpu, &kept) != 4)
        return 98;
    return (fcntl(system, F_GETFD) != -1) + (fcntl(vm, F_GETFD) != -1) + (fcntl(vcpu, F_GETFD) != -1) + (fcntl(kept, F_GETFD) == -1);
}

static void test_rights(struct client *c)
{
    int pair[2], plain = open("/dev/null", O_RDONLY);
    union {
        char space[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    char byte = 0;
    struct iovec iov = {&byte, 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(header), &plain, sizeof(int));
    memcpy(CMSG_DATA(header) + sizeof(int), &c->vm, sizeof(int));
    CHECK_FAILS(sendmsg(pair[0], &message, 0), EINVAL);
    memcpy(CMSG_DATA(header) + sizeof(int), &plain, sizeof(int));
    CHECK(sendmsg(pair[0], &message, 0) == 1);
    CHECK(recv(pair[1], &byte, 1, 0) == 1);
    close(pair[0]);
    close(pair[1]);
    close(plain);
}

/* The kernel writes guest memory: by every name that a client may call. */
static void test_writes(struct client *c)
{
    static const uint8_t bytes[4] = {1, 2, 3, 4};
    char name[] = "/tmp/kage-preload-XXXXXX";
    int fd = mkstemp(name);
    struct iovec iov[2] = {{c->memory + 0x800, 2}, {c->memory + 0x810, 2}};

    unlink(name);
    CHECK(write(fd, bytes, 4) == 4 && lseek(fd, 0, SEEK_SET) == 0);
    CHECK(read(fd, c->memory + 0x800, 4) == 4 && memcmp(c->memory + 0x800, bytes, 4) == 0);
    CHECK(pread(fd, c->memory + 0x900, 3, 1) == 3 && memcmp(c->memory + 0x900, bytes + 1, 3) == 0);
    CHECK(preadv(fd, iov, 2, 0) == 4 && c->memory[0x811] == 4);
    CHECK(getrandom(c->memory + 0xa00, 64, 0) == 64);
    FILE *file = fdopen(fd, "r");
    CHECK(fseek(file, 0, SEEK_SET) == 0);
    CHECK(fread(c->memory + 0xb00, 1, 4, file) == 4 && memcmp(c->memory + 0xb00, bytes, 4) == 0);
    fclose(file);
    CHECK_FAILS(read(-1, c->memory, 1), EBADF);
    CHECK_FAILS(syscall(SYS_io_uring_setup, 4, NULL), ENOSYS);
    CHECK_FAILS(syscall(SYS_io_setup, 4, NULL), ENOSYS);
    CHECK(syscall(SYS_getpid) == getpid());
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--after-exec") == 0)
        return after_exec(argv[2]);
    test_device();
    struct client c = client_new();
    test_poll(&c);
    test_dup();
    test_closed_behind();
    test_fork(&c);
    test_exec(argv[0], &c);
    test_rights(&c);
    test_writes(&c);
    CHECK(client_count(&c, c.vcpu) == 23);
    return checks_summary();
}
