/* SPDX-License-Identifier: MIT */
/* Dirty logs (api.rst 4.8, 4.117) and KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (7.18). */
#include <string.h>
#include <sys/mman.h>

#include "machine.h"

#define PAGE 4096u
#define SLOT 1
#define SLOT_GPA 0x10000000ul
#define SLOT_PAGES 200u /* of them the last 64-page word is not whole */

/* Writes the page whose number the client puts into RAX at port 80h's exit; then port 81h; again. */
GUEST(writer, 64, "1: out %al, $0x80; shl $12, %eax; incb (%rsi,%rax); out %al, $0x81; jmp 1b");
GUEST(reader, 64, "1: out %al, $0x80; shl $12, %eax; mov (%rsi,%rax), %al; out %al, $0x81; jmp 1b");

struct log {
    struct machine m;
    uint8_t *memory;
};

static struct log log_machine(uint64_t manual, uint32_t flags, const uint8_t *code, size_t bytes)
{
    struct log l = { .m = machine_boot(0, code, bytes), .memory = machine_anonymous(SLOT_PAGES * PAGE) };
    struct kvm_regs regs = machine_regs(&l.m, 0);

    if (manual)
        CHECK_OK(machine_enable_cap(l.m.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual));
    CHECK_OK(machine_slot(&l.m, SLOT, flags, SLOT_GPA, SLOT_PAGES * PAGE, l.memory));
    regs.rsi = SLOT_GPA;
    CHECK_OK(ask(l.m.vcpu[0], KVM_SET_REGS, &regs));
    return l;
}

static void touch(struct log *l, unsigned page)
{
    RUN_TO_OUT(&l->m, 0, 0x80);
    struct kvm_regs regs = machine_regs(&l->m, 0);
    regs.rax = page;
    CHECK_OK(ask(l->m.vcpu[0], KVM_SET_REGS, &regs));
    RUN_TO_OUT(&l->m, 0, 0x81);
}

struct bitmap {
    uint64_t word[4];
};

static struct bitmap get_log(struct log *l)
{
    struct bitmap bitmap;
    struct kvm_dirty_log log = { .slot = SLOT, .dirty_bitmap = &bitmap };

    memset(&bitmap, 0xff, sizeof(bitmap));
    CHECK_OK(ask(l->m.vm, KVM_GET_DIRTY_LOG, &log));
    return bitmap;
}

static int clear_log(struct log *l, uint64_t first, uint32_t pages, const struct bitmap *bitmap)
{
    struct kvm_clear_dirty_log log = { .slot = SLOT, .first_page = first, .num_pages = pages, .dirty_bitmap = (void *)(uintptr_t)bitmap };

    return ask(l->m.vm, KVM_CLEAR_DIRTY_LOG, &log);
}

static void check_log(struct log *l, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    struct bitmap bitmap = get_log(l);

    CHECK_EQ(bitmap.word[0], a);
    CHECK_EQ(bitmap.word[1], b);
    CHECK_EQ(bitmap.word[2], c);
    CHECK_EQ(bitmap.word[3], d);
}

static void writes_are_logged(void)
{
    struct log l = log_machine(0, KVM_MEM_LOG_DIRTY_PAGES, GUEST_BYTES(writer));

    check_log(&l, 0, 0, 0, 0);
    touch(&l, 0);
    touch(&l, 65);
    touch(&l, 199);
    check_log(&l, 1, 2, 0, 1 << 7);
    check_log(&l, 0, 0, 0, 0); /* taken and cleared */
    touch(&l, 65);
    touch(&l, 65);
    check_log(&l, 0, 2, 0, 0);
}

static void reads_are_not(void)
{
    struct log l = log_machine(0, KVM_MEM_LOG_DIRTY_PAGES, GUEST_BYTES(reader));

    touch(&l, 3);
    check_log(&l, 0, 0, 0, 0);
}

/* The client's own writes are not the guest's. */
static void client_writes_are_not(void)
{
    struct log l = log_machine(0, KVM_MEM_LOG_DIRTY_PAGES, GUEST_BYTES(writer));

    l.memory[5 * PAGE] = 1;
    check_log(&l, 0, 0, 0, 0);
}

static void switched_on_later(void)
{
    struct log l = log_machine(0, 0, GUEST_BYTES(writer));

    touch(&l, 1);
    CHECK_OK(machine_slot(&l.m, SLOT, KVM_MEM_LOG_DIRTY_PAGES, SLOT_GPA, SLOT_PAGES * PAGE, l.memory));
    check_log(&l, 0, 0, 0, 0);
    touch(&l, 1);
    check_log(&l, 2, 0, 0, 0);
    CHECK_OK(machine_slot(&l.m, SLOT, 0, SLOT_GPA, SLOT_PAGES * PAGE, l.memory));
    struct kvm_dirty_log log = { .slot = SLOT, .dirty_bitmap = l.memory };
    CHECK_EQ(ask(l.m.vm, KVM_GET_DIRTY_LOG, &log), -ENOENT);
    touch(&l, 1);
    CHECK_EQ(l.memory[PAGE], 3);
}

/* By the page tables' accessed and dirty bits, the stack and REP too; page tables in the slot. */
GUEST(stack, 64, "lea 0x3008(%rsi), %rsp; push %rax; lea 0x5000(%rsi), %rdi; mov $600, %ecx; rep stosq; out %al, $0x81; hlt");

static void stack_and_strings(void)
{
    struct log l = log_machine(0, KVM_MEM_LOG_DIRTY_PAGES, GUEST_BYTES(stack));

    RUN_TO_OUT(&l.m, 0, 0x81);
    check_log(&l, 1 << 3 | 1 << 5 | 1 << 6, 0, 0, 0);
}

static void code_page(void)
{
    struct log l = log_machine(0, KVM_MEM_LOG_DIRTY_PAGES, GUEST_BYTES(writer));
    struct kvm_regs regs = machine_regs(&l.m, 0);

    memcpy(l.memory + 2 * PAGE, GUEST_BYTES(writer));
    regs.rip = SLOT_GPA + 2 * PAGE; /* runs from the slot, and writes its own page far from the code */
    regs.rsi = SLOT_GPA + 2048;
    CHECK_OK(ask(l.m.vcpu[0], KVM_SET_REGS, &regs));
    touch(&l, 2);
    check_log(&l, 4, 0, 0, 0);
    touch(&l, 2);
    check_log(&l, 4, 0, 0, 0);
}

static void manual_get_does_not_clear(void)
{
    struct log l = log_machine(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES, GUEST_BYTES(writer));
    struct bitmap one = { { 1 } }, all;

    touch(&l, 0);
    touch(&l, 1);
    touch(&l, 130);
    check_log(&l, 3, 0, 4, 0);
    check_log(&l, 3, 0, 4, 0);
    CHECK_EQ(clear_log(&l, 0, 64, &one), 0);
    check_log(&l, 2, 0, 4, 0);
    touch(&l, 0); /* write-protected again by the clear: logged again */
    check_log(&l, 3, 0, 4, 0);
    memset(&all, 0xff, sizeof(all));
    CHECK_EQ(clear_log(&l, 64, 136, &all), 0); /* to the end, which is no multiple of 64 */
    check_log(&l, 3, 0, 0, 0);
    touch(&l, 130);
    check_log(&l, 3, 0, 4, 0);
}

static void manual_initially_set(void)
{
    struct log l = log_machine(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET, KVM_MEM_LOG_DIRTY_PAGES,
                               GUEST_BYTES(writer));
    struct bitmap all;

    check_log(&l, UINT64_MAX, UINT64_MAX, UINT64_MAX, 0xff);
    memset(&all, 0xff, sizeof(all));
    CHECK_EQ(clear_log(&l, 0, SLOT_PAGES, &all), 0);
    check_log(&l, 0, 0, 0, 0);
    touch(&l, 64);
    check_log(&l, 0, 1, 0, 0);
}

static void clear_refused(void)
{
    struct log l = log_machine(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES, GUEST_BYTES(writer));
    struct bitmap none = { { 0 } };

    CHECK_EQ(clear_log(&l, 1, 64, &none), -EINVAL);   /* first page */
    CHECK_EQ(clear_log(&l, 0, 65, &none), -EINVAL);   /* neither a multiple of 64 nor the end */
    CHECK_EQ(clear_log(&l, 192, 64, &none), -EINVAL); /* beyond the end */
    CHECK_EQ(clear_log(&l, 0x1000000, 64, &none), -EINVAL);
    CHECK_EQ(clear_log(&l, 0, 64, NULL), -EFAULT);
    CHECK_EQ(clear_log(&l, 0, SLOT_PAGES, &none), 0);
    CHECK_EQ(clear_log(&l, 192, 8, &none), 0);
}

/* A slot that moves keeps what was logged? It starts anew: the kernel makes a new bitmap when it makes the slot. */
static void deleted_and_made_again(void)
{
    struct log l = log_machine(0, KVM_MEM_LOG_DIRTY_PAGES, GUEST_BYTES(writer));

    touch(&l, 9);
    CHECK_OK(machine_slot(&l.m, SLOT, 0, 0, 0, NULL));
    CHECK_OK(machine_slot(&l.m, SLOT, KVM_MEM_LOG_DIRTY_PAGES, SLOT_GPA, SLOT_PAGES * PAGE, l.memory));
    check_log(&l, 0, 0, 0, 0);
}

static void bitmap_ends_where_it_should(void)
{
    struct log l = log_machine(0, KVM_MEM_LOG_DIRTY_PAGES, GUEST_BYTES(writer));
    uint8_t *pages = machine_anonymous(2 * PAGE);
    struct kvm_dirty_log log = { .slot = SLOT, .dirty_bitmap = pages + PAGE - sizeof(struct bitmap) };

    CHECK_EQ(munmap(pages + PAGE, PAGE), 0);
    touch(&l, 199);
    CHECK_OK(ask(l.m.vm, KVM_GET_DIRTY_LOG, &log));
    CHECK_EQ(pages[PAGE - 8], 1 << 7);
    log.dirty_bitmap = pages + PAGE - sizeof(struct bitmap) + 8;
    touch(&l, 1);
    CHECK_EQ(ask(l.m.vm, KVM_GET_DIRTY_LOG, &log), -EFAULT);
}

static const struct row rows[] = {
    { "writes are logged", writes_are_logged }, { "reads are not", reads_are_not }, { "client writes are not", client_writes_are_not },
    { "switched on later", switched_on_later }, { "stack and strings", stack_and_strings }, { "code page", code_page },
    { "manual get does not clear", manual_get_does_not_clear }, { "manual initially set", manual_initially_set },
    { "clear refused", clear_refused }, { "deleted and made again", deleted_and_made_again },
    { "bitmap ends where it should", bitmap_ends_where_it_should },
};
THEME(dirty, rows);
