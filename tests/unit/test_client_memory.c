/* SPDX-License-Identifier: MIT */
/*
 * Guest memory that the client writes, maps anew and takes away, under code that runs: real-mode guests on the soft back
 * end, whose result is AX at a HLT.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <kage.h>

#define PAGE 0x1000u
#define RAM_BYTES 0x8000u
#define CODE 0x2000u
#define DATA 0x4000u
#define STACK 0x7000u
#define ALIAS 0x10000u /* a second slot, on the host page of CODE */

static const struct kvm_backend *const kvm = &kage_backend_soft;

struct guest {
    int system, vm, vcpu;
    struct kvm_run *run;
    int run_bytes;
    uint8_t *ram;
};

static int mmu = KAGE_MMU_EPT; /* all of it is run by both */

static int ask(int handle, unsigned long request, void *arg)
{
    int result = kvm->ioctl(handle, request, arg);
    return result < 0 ? -errno : result;
}

static int set_slot(struct guest *g, uint32_t slot, uint64_t gpa, uint64_t bytes, void *at)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uintptr_t)at};
    return ask(g->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

/* In the tests themselves, not before: cmocka sets its signal handlers for each part of a test, and ours take theirs when a VM is made. */
static void guest_open(struct guest *g, void *ram)
{
    g->ram = ram;
    g->system = kvm->open();
    g->vm = ask(g->system, KVM_CREATE_VM, NULL);
    assert_int_equal(kage_vm_set_mmu(kvm, g->vm, mmu), 0);
    g->vcpu = ask(g->vm, KVM_CREATE_VCPU, NULL); /* no irqchip: HLT comes back to us */
    g->run_bytes = ask(g->system, KVM_GET_VCPU_MMAP_SIZE, NULL);
    g->run = kvm->mmap(NULL, (size_t)g->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
    assert_int_equal(set_slot(g, 0, 0, RAM_BYTES, ram), 0);
}

static void guest_close(struct guest *g)
{
    kvm->munmap(g->run, (size_t)g->run_bytes);
    kvm->close(g->vcpu);
    kvm->close(g->vm);
    kvm->close(g->system);
}

static void *new_ram(void)
{
    void *ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(ram, MAP_FAILED);
    return ram;
}

/* Runs from `rip` to a HLT: AX, or -errno of KVM_RUN. */
static int run(struct guest *g, uint64_t rip)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = rip, .rsp = STACK, .rflags = 2};

    assert_int_equal(ask(g->vcpu, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.selector = 0;
    sregs.cs.base = 0;
    assert_int_equal(ask(g->vcpu, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(ask(g->vcpu, KVM_SET_REGS, &regs), 0);
    int err = ask(g->vcpu, KVM_RUN, NULL);
    if (err < 0)
        return err;
    assert_int_equal(g->run->exit_reason, KVM_EXIT_HLT);
    assert_int_equal(ask(g->vcpu, KVM_GET_REGS, &regs), 0);
    return (int)(regs.rax & 0xffff);
}

static void put_mov_hlt(uint8_t *at, uint16_t value) /* mov $value, %ax; hlt */
{
    const uint8_t code[] = {0xb8, (uint8_t)value, (uint8_t)(value >> 8), 0xf4};
    memcpy(at, code, sizeof(code));
}

/* Often enough for every way of guarding the page. */
static void test_stores(void **state)
{
    struct guest guest, *g = &guest;

    (void)state;
    guest_open(g, new_ram());
    for (unsigned i = 0; i < 20000; i++) {
        put_mov_hlt(g->ram + CODE, (uint16_t)i);
        for (unsigned k = 0; k < (i % 1000 == 0 ? 3000u : i % 3); k++)
            assert_int_equal(run(g, CODE), i & 0xffff);
    }
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

/* Other bytes of the page do not matter, and a page at rest comes back to where stores to it are noticed. */
static void test_beside(void **state)
{
    struct guest guest, *g = &guest;

    (void)state;
    guest_open(g, new_ram());
    put_mov_hlt(g->ram + CODE, 1);
    for (unsigned i = 0; i < 3000; i++) {
        g->ram[CODE + 2048 + i % 1024] = (uint8_t)i;
        assert_int_equal(run(g, CODE), 1);
        assert_int_equal(g->ram[CODE + 2048 + i % 1024], i & 0xff);
    }
    put_mov_hlt(g->ram + CODE, 2);
    assert_int_equal(run(g, CODE), 2);
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

static _Atomic uint16_t told;
static _Atomic bool stop;

static void *count_up(void *arg)
{
    for (uint16_t i = 1; !stop; i = i == 30000 ? 30000 : i + 1) {
        *(volatile uint16_t *)arg = i;
        told = i;
        for (volatile unsigned k = 0; k < i % 64 * 8; k++) {
        }
    }
    return NULL;
}

/* What it runs is at least what it was told of. */
static void test_thread(void **state)
{
    struct guest guest, *g = &guest;
    pthread_t thread;
    unsigned late = 0;

    (void)state;
    guest_open(g, new_ram());
    put_mov_hlt(g->ram + CODE + 1, 0); /* at an odd address, so that the value is aligned */
    told = 0;
    stop = false;
    assert_int_equal(pthread_create(&thread, NULL, count_up, g->ram + CODE + 2), 0);
    while (told < 30000) {
        uint16_t least = told;
        late += run(g, CODE + 1) < least;
    }
    stop = true;
    pthread_join(thread, NULL);
    assert_int_equal(late, 0);
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

/* The kernel writes for the client. */
static void test_read(void **state)
{
    struct guest guest, *g = &guest;
    int fds[2];

    (void)state;
    guest_open(g, new_ram());
    assert_int_equal(pipe(fds), 0);
    for (unsigned i = 0; i < 500; i++) {
        uint8_t page[PAGE] = {0};
        put_mov_hlt(page + 8, (uint16_t)(i + 7));
        assert_int_equal(write(fds[1], page, PAGE), PAGE);
        kage_memory_begin_write(g->ram + CODE, PAGE);
        assert_int_equal(read(fds[0], g->ram + CODE, PAGE), PAGE);
        kage_memory_end_write(g->ram + CODE, PAGE);
        for (unsigned k = 0; k <= i % 5; k++)
            assert_int_equal(run(g, CODE + 8), i + 7);
    }
    /* While a write is on its way the guest may run the page, which then stays writable. */
    kage_memory_begin_write(g->ram + CODE, PAGE);
    assert_int_equal(run(g, CODE + 8), 506);
    uint8_t page[PAGE] = {0};
    put_mov_hlt(page + 8, 77);
    assert_int_equal(write(fds[1], page, PAGE), PAGE);
    assert_int_equal(read(fds[0], g->ram + CODE, PAGE), PAGE);
    kage_memory_end_write(g->ram + CODE, PAGE);
    assert_int_equal(run(g, CODE + 8), 77);
    close(fds[0]);
    close(fds[1]);
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

/* The guest itself writes code through another guest-physical address of the same memory. */
static void test_alias(void **state)
{
    struct guest guest, *g = &guest;
    /* mov $0x1000, %bx; mov %bx, %ds; movw $0, 1+…; call CODE; … the value is put in by us */
    static const uint8_t caller[] = {0xbb, 0x00, 0x10, 0x8e, 0xdb, 0xc7, 0x06, 0x01, 0x00, 0, 0, 0xe9, 0, 0};

    (void)state;
    guest_open(g, new_ram());
    assert_int_equal(set_slot(g, 1, ALIAS, PAGE, g->ram + CODE), 0);
    put_mov_hlt(g->ram + CODE, 1);
    for (unsigned i = 0; i < 300; i++) {
        assert_int_equal(run(g, CODE), i == 0 ? 1 : i + 99);
        uint8_t code[sizeof(caller)];
        memcpy(code, caller, sizeof(code));
        code[9] = (uint8_t)(i + 100);
        code[10] = (uint8_t)((i + 100) >> 8);
        int16_t distance = (int16_t)(CODE - (0x3000 + sizeof(code)));
        memcpy(code + 12, &distance, 2);
        memcpy(g->ram + 0x3000, code, sizeof(code));
        assert_int_equal(run(g, 0x3000), i + 100);
    }
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

/* Two VMs run the same page. */
static void test_two_vms(void **state)
{
    struct guest guest, other, *g = &guest;

    (void)state;
    guest_open(g, new_ram());
    guest_open(&other, g->ram);
    for (unsigned i = 0; i < 300; i++) {
        put_mov_hlt(g->ram + CODE, (uint16_t)i);
        assert_int_equal(run(g, CODE), i);
        assert_int_equal(run(&other, CODE), i);
    }
    guest_close(&other);
    put_mov_hlt(g->ram + CODE, 5);
    assert_int_equal(run(g, CODE), 5);
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

static void test_discard(void **state)
{
    struct guest guest, *g = &guest;
    static const uint8_t load[] = {0xa1, DATA & 0xff, DATA >> 8, 0xf4}; /* mov DATA, %ax; hlt */

    (void)state;
    guest_open(g, new_ram());
    memcpy(g->ram + CODE, load, sizeof(load));
    memset(g->ram + DATA, 0x5a, PAGE);
    assert_int_equal(run(g, CODE), 0x5a5a);
    assert_int_equal(madvise(g->ram + DATA, PAGE, MADV_DONTNEED), 0);
    kage_memory_changed(g->ram + DATA, PAGE);
    assert_int_equal(run(g, CODE), 0);
    /* Code that was discarded is gone, too: ADD %al, (%bx,%si) up to the HLT. */
    assert_int_equal(madvise(g->ram + CODE, PAGE, MADV_DONTNEED), 0);
    kage_memory_changed(g->ram + CODE, PAGE);
    g->ram[CODE + 6] = 0xf4;
    assert_int_equal(run(g, CODE), 0);
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

/* The same, told of as part of something much larger, as a client does that unmaps a guest of many gigabytes. */
static void test_discard_of_all(void **state)
{
    const uint64_t big_bytes = UINT64_C(1) << 30;
    struct guest guest, *g = &guest;

    (void)state;
    guest_open(g, new_ram());
    void *big = mmap(NULL, big_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(big, MAP_FAILED);
    assert_int_equal(set_slot(g, 9, UINT64_C(1) << 32, big_bytes, big), 0);
    for (uint8_t value = 1; value < 20; value++) {
        assert_int_equal(madvise(g->ram + CODE, PAGE, MADV_DONTNEED), 0);
        kage_memory_changed((void *)(uintptr_t)PAGE, ((size_t)1 << 47) - 2 * PAGE);
        put_mov_hlt(g->ram + CODE, value);
        assert_int_equal(run(g, CODE), value);
    }
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
    munmap(big, big_bytes);
}

/* A page that the client maps read-only is run, and stays as it is. */
static void test_read_only(void **state)
{
    struct guest guest, *g = &guest;

    (void)state;
    guest_open(g, new_ram());
    put_mov_hlt(g->ram + CODE, 3);
    assert_int_equal(mprotect(g->ram + CODE, PAGE, PROT_READ), 0);
    kage_memory_changed(g->ram + CODE, PAGE);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(run(g, CODE), 3);
    assert_int_equal(mprotect(g->ram + CODE, PAGE, PROT_READ | PROT_WRITE), 0);
    kage_memory_changed(g->ram + CODE, PAGE);
    put_mov_hlt(g->ram + CODE, 4);
    assert_int_equal(run(g, CODE), 4);
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

/* Memory that is gone: KVM_RUN says EFAULT, wherever it is missed. */
static void test_gone(void **state)
{
    struct guest guest, *g = &guest;
    static const struct {
        const char *what;
        uint8_t code[12];
    } cases[] = {
        {"load", {0xa1, DATA & 0xff, DATA >> 8, 0xf4}},
        {"store", {0xa3, DATA & 0xff, DATA >> 8, 0xf4}},
        {"read-modify-write", {0xf0, 0xff, 0x06, DATA & 0xff, DATA >> 8, 0xf4}},
        {"string", {0xbf, DATA & 0xff, DATA >> 8, 0xb9, 0x10, 0x00, 0xf3, 0xaa, 0xf4}},
        {"stack of an interrupt", {0xbc, (DATA + 0x800) & 0xff, (DATA + 0x800) >> 8, 0xcd, 0x03, 0xf4}},
        {"far pointer", {0xc4, 0x1e, DATA & 0xff, DATA >> 8, 0xf4}},
        {"x87 state", {0xdd, 0x36, DATA & 0xff, DATA >> 8, 0xf4}},
        {"code", {0xe9, (DATA - CODE - 3) & 0xff, (DATA - CODE - 3) >> 8}},
    };

    (void)state;
    guest_open(g, new_ram());
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memset(g->ram + DATA, 0xf4, PAGE);
        memset(g->ram, 0, 0x400); /* interrupt vectors: 0:0 */
        g->ram[0] = 0xf4;
        memcpy(g->ram + CODE, cases[i].code, sizeof(cases[i].code));
        if (run(g, CODE) < 0) /* with its memory it works */
            fail_msg("%s", cases[i].what);
        assert_int_equal(munmap(g->ram + DATA, PAGE), 0);
        kage_memory_changed(g->ram + DATA, PAGE);
        for (unsigned k = 0; k < 3; k++)
            if (run(g, CODE) != -EFAULT)
                fail_msg("%s: not EFAULT", cases[i].what);
        void *again = mmap(g->ram + DATA, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        assert_ptr_equal(again, g->ram + DATA);
        kage_memory_changed(g->ram + DATA, PAGE);
        memset(g->ram + DATA, 0xf4, PAGE);
        if (run(g, CODE) < 0)
            fail_msg("%s: does not come back", cases[i].what);
    }
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

/* A file that ends before its mapping raises SIGBUS. */
static void test_file_end(void **state)
{
    struct guest guest, *g = &guest;
    static const uint8_t load[] = {0xbb, 0x00, 0x10, 0x8e, 0xdb, 0xa1, 0x00, 0x00, 0xf4}; /* DS = 0x1000; mov 0, %ax; hlt */
    int fd = memfd_create("guest", MFD_CLOEXEC);

    (void)state;
    guest_open(g, new_ram());
    assert_int_equal(ftruncate(fd, PAGE), 0);
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_int_equal(set_slot(g, 1, ALIAS, PAGE, at), 0);
    memcpy(g->ram + CODE, load, sizeof(load));
    memset(at, 0x11, PAGE);
    assert_int_equal(run(g, CODE), 0x1111);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(run(g, CODE), -EFAULT);
    assert_int_equal(ftruncate(fd, PAGE), 0);
    assert_int_equal(run(g, CODE), 0);
    assert_int_equal(set_slot(g, 1, ALIAS, 0, at), 0);
    munmap(at, PAGE);
    close(fd);
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

/* A child has its memory for itself, and does not disturb the parent's guest. */
static void test_fork(void **state)
{
    struct guest guest, *g = &guest;
    int status;

    (void)state;
    guest_open(g, new_ram());
    put_mov_hlt(g->ram + CODE, 9);
    assert_int_equal(run(g, CODE), 9);
    pid_t pid = fork();
    if (pid == 0) {
        put_mov_hlt(g->ram + CODE, 10);
        memset(g->ram, 0, RAM_BYTES);
        _exit(ask(g->vcpu, KVM_RUN, NULL) == -EIO ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(run(g, CODE), 9);
    put_mov_hlt(g->ram + CODE, 11);
    assert_int_equal(run(g, CODE), 11);
    guest_close(g);
    munmap(g->ram, RAM_BYTES);
}

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_stores),   TEST(test_beside),    TEST(test_thread), TEST(test_read),     TEST(test_alias), TEST(test_two_vms),
        TEST(test_discard),  TEST(test_discard_of_all), TEST(test_read_only), TEST(test_gone),   TEST(test_file_end), TEST(test_fork),
    };
    int failed = cmocka_run_group_tests_name("ept", tests, NULL, NULL);
    mmu = KAGE_MMU_SHADOW;
    return failed + cmocka_run_group_tests_name("shadow", tests, NULL, NULL);
}
