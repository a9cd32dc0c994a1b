/* SPDX-License-Identifier: MIT */
/*
 * The client takes memory from under a slot: what madvise(2) emptied reads as zeroes; what is not there (munmap, PROT_NONE, a file cut
 * short) makes KVM_RUN fail with EFAULT, and the vCPU goes on when it is back. Accesses of the guest: its data by loads, stores and
 * read-modify-write, by REP, its stack, its page tables, its code.
 */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine.h"

#define PAGE 4096u
#define SLOT_GPA 0x10000000ul

/* Port 80h before; then the access at RSI; port 81h behind it; again. */
GUEST(load, 64, "1: out %al, $0x80; mov (%rsi), %rbx; mov %bl, %al; out %al, $0x81; jmp 1b");
GUEST(store, 64, "1: out %al, $0x80; movb $0x42, (%rsi); mov $0x42, %al; out %al, $0x81; jmp 1b");
GUEST(modify, 64, "1: out %al, $0x80; incb (%rsi); mov (%rsi), %al; out %al, $0x81; jmp 1b");
GUEST(locked, 64, "1: out %al, $0x80; mov $1, %al; lock xadd %al, (%rsi); out %al, $0x81; jmp 1b");
GUEST(string, 64, "1: out %al, $0x80; mov %rsi, %rdi; mov $16, %ecx; mov $0x77, %al; rep stosb; out %al, $0x81; jmp 1b");
GUEST(stack, 64, "lea 4096(%rsi), %rsp; 1: out %al, $0x80; push $0x33; pop %rax; out %al, $0x81; jmp 1b");
GUEST(call, 64, "1: out %al, $0x80; call *%rsi; out %al, $0x81; jmp 1b");
GUEST(callee, 64, "mov $0x66, %al; ret");

struct access {
    const char *name;
    const uint8_t *code, *end;
};
#define ACCESS(code) { #code, guestcode_##code, guestcode_##code##_end }
static const struct access accesses[] = { ACCESS(load), ACCESS(store), ACCESS(modify), ACCESS(locked),
                                          ACCESS(string), ACCESS(stack), ACCESS(call) };

enum loss { LOSS_MUNMAP, LOSS_PROT_NONE, LOSS_TRUNCATE, LOSS_COUNT };
static const char *const loss_names[] = { "munmap", "prot_none", "truncate" };

/* Unmapped, and nobody else's: a hole would be given to whoever maps next. */
static void take_away(uint8_t *memory)
{
    CHECK_EQ(munmap(memory, PAGE), 0);
    CHECK(mmap(memory, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == memory);
}

/* How KVM_RUN ends that needs memory which is not there: -errno, or the exit. */
static int lost_run(struct machine *m)
{
    int result = machine_run(m, 0);

    return result ? result : (int)m->run[0]->exit_reason;
}

static struct machine gone_machine(const struct access *access, uint8_t *memory)
{
    struct machine m = machine_boot(0, access->code, (size_t)(access->end - access->code));
    struct kvm_regs regs = machine_regs(&m, 0);

    memcpy(memory, GUEST_BYTES(callee));
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    regs.rsi = SLOT_GPA;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    return m;
}

static void lose_and_return(size_t access, enum loss loss)
{
    int fd = memfd_create("conform", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
    uint8_t *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    struct machine m = gone_machine(&accesses[access], memory);

    for (unsigned i = 0; i < 3; i++) {
        RUN_TO_OUT(&m, 0, 0x80);
        RUN_TO_OUT(&m, 0, 0x81);
    }
    RUN_TO_OUT(&m, 0, 0x80);
    if (loss == LOSS_MUNMAP)
        CHECK_EQ(munmap(memory, PAGE), 0);
    else if (loss == LOSS_PROT_NONE)
        CHECK_EQ(mprotect(memory, PAGE, PROT_NONE), 0);
    else
        CHECK_EQ(ftruncate(fd, 0), 0);
    for (unsigned i = 0; i < 2; i++)
        EXPECT("lost", lost_run(&m), -EFAULT);

    if (loss == LOSS_MUNMAP)
        CHECK(mmap(memory, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == memory);
    else if (loss == LOSS_PROT_NONE)
        CHECK_EQ(mprotect(memory, PAGE, PROT_READ | PROT_WRITE), 0);
    else
        CHECK_EQ(ftruncate(fd, PAGE), 0);
    if (loss == LOSS_TRUNCATE) /* it comes back empty */
        memcpy(memory, GUEST_BYTES(callee));
    RUN_TO_OUT(&m, 0, 0x81);
}

/* ---- memory that is there, and became other memory ---- */

static struct machine peek(uint8_t *memory)
{
    return gone_machine(&accesses[0], memory);
}

static void round_of(struct machine *m, uint8_t value)
{
    RUN_TO_OUT(m, 0, 0x80);
    CHECK_EQ(RUN_TO_OUT(m, 0, 0x81), value);
}

static void dontneed(void)
{
    uint8_t *memory = machine_anonymous(PAGE);
    struct machine m = peek(memory);

    memory[0] = 9;
    round_of(&m, 9);
    CHECK_EQ(madvise(memory, PAGE, MADV_DONTNEED), 0);
    round_of(&m, 0);
    memory[0] = 10;
    round_of(&m, 10);
}

static void dontneed_of_code(void)
{
    uint8_t *memory = machine_anonymous(PAGE);
    struct machine m = gone_machine(&accesses[6], memory);

    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x81), 0x66);
    CHECK_EQ(madvise(memory, PAGE, MADV_DONTNEED), 0);
    memcpy(memory, GUEST_BYTES(callee));
    memory[1] = 0x67;
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x81), 0x67);
}

static void mapped_anew(void)
{
    uint8_t *memory = machine_anonymous(PAGE);
    struct machine m = peek(memory);

    memory[0] = 1;
    round_of(&m, 1);
    CHECK(mmap(memory, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory);
    memory[0] = 2;
    round_of(&m, 2);
}

static void moved_away(void)
{
    uint8_t *memory = machine_anonymous(PAGE);
    struct machine m = peek(memory);

    memory[0] = 3;
    round_of(&m, 3);
    uint8_t *elsewhere = mremap(memory, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, machine_anonymous(PAGE));
    CHECK(elsewhere != MAP_FAILED);
    RUN_TO_OUT(&m, 0, 0x80);
    EXPECT("lost", lost_run(&m), -EFAULT);
    CHECK_EQ(elsewhere[0], 3);
}

static void punched(void)
{
    int fd = memfd_create("conform", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
    uint8_t *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    struct machine m = peek(memory);

    memory[0] = 4;
    round_of(&m, 4);
    CHECK_EQ(madvise(memory, PAGE, MADV_REMOVE), 0);
    round_of(&m, 0);
}

/* A slot over addresses where nothing was ever mapped. */
static void never_there(void)
{
    uint8_t *memory = machine_anonymous(PAGE);
    struct machine m = machine_boot(0, accesses[0].code, (size_t)(accesses[0].end - accesses[0].code));
    struct kvm_regs regs = machine_regs(&m, 0);

    take_away(memory);
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    regs.rsi = SLOT_GPA;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    RUN_TO_OUT(&m, 0, 0x80);
    EXPECT("lost", lost_run(&m), -EFAULT);
}

/* Read-only memory under a slot that may be written: a store is EFAULT, a load is not. */
static void write_to_read_only(void)
{
    uint8_t *memory = machine_anonymous(PAGE);
    struct machine m = gone_machine(&accesses[1], memory);

    CHECK_EQ(mprotect(memory, PAGE, PROT_READ), 0);
    RUN_TO_OUT(&m, 0, 0x80);
    EXPECT("lost", lost_run(&m), -EFAULT);
    CHECK_EQ(mprotect(memory, PAGE, PROT_READ | PROT_WRITE), 0);
    CHECK_EQ(RUN_TO_OUT(&m, 0, 0x81), 0x42);
    CHECK_EQ(memory[0], 0x42);
}

static void page_tables(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(load));
    struct kvm_regs regs = machine_regs(&m, 0);
    uint8_t *memory = machine_anonymous(PAGE);
    uint64_t pml4e = SLOT_GPA | 3;

    regs.rsi = 1ull << 39; /* the second entry of the PML4 */
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    memcpy(m.ram + GPA_PML4 + 8, &pml4e, 8);
    take_away(memory);
    RUN_TO_OUT(&m, 0, 0x80);
    EXPECT("lost", lost_run(&m), -EFAULT);
}

static void code_never_there(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(load));
    struct kvm_regs regs = machine_regs(&m, 0);
    uint8_t *memory = machine_anonymous(PAGE);

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    take_away(memory);
    regs.rip = SLOT_GPA;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    EXPECT("lost", lost_run(&m), -EFAULT);
}

/* The VM and its slot die in any order with the memory. */
static void slot_of_lost_memory_deleted(void)
{
    uint8_t *memory = machine_anonymous(PAGE);
    struct machine m = peek(memory);

    round_of(&m, guestcode_callee[0]);
    take_away(memory);
    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, 0, NULL));
    RUN_TO_OUT(&m, 0, 0x80);
    RUN_TO(&m, 0, KVM_EXIT_MMIO);
    struct kvm_sregs sregs;
    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &sregs));
    CHECK_EQ(munmap(m.ram, RAM_BYTES), 0);
    CHECK_OK(ask(m.vcpu[0], KVM_SET_SREGS, &sregs)); /* nothing that it knew of its tables holds */
    EXPECT("lost", lost_run(&m), -EFAULT);
    CHECK_EQ(kvm->close(m.vcpu[0]) | kvm->close(m.vm) | kvm->close(m.system), 0);
}

/* The page that INS is to fill goes away while the client has the port: nothing is written, and nothing is read twice. */
GUEST(ins, 64, "mov %rsi, %rdi; mov $0x71, %edx; mov $8, %ecx; rep insb; out %al, $0x81; hlt");

static void ins_lost(void)
{
    uint8_t *memory = machine_anonymous(PAGE);
    struct machine m = machine_boot(0, GUEST_BYTES(ins));
    struct kvm_regs regs = machine_regs(&m, 0);

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    regs.rsi = SLOT_GPA + 16;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    for (unsigned done = 0; done < 8; done += m.run[0]->io.count) {
        RUN_TO(&m, 0, KVM_EXIT_IO);
        CHECK_EQ(m.run[0]->io.direction, KVM_EXIT_IO_IN);
        for (unsigned i = 0; i < m.run[0]->io.count; i++)
            machine_io_data(&m, 0)[i] = (uint8_t)(0x40 + done + i);
        if (done == 0) {
            CHECK_EQ(munmap(memory, PAGE), 0);
            CHECK_EQ(machine_run(&m, 0), -EFAULT);
            CHECK_EQ(machine_run(&m, 0), -EFAULT);
            CHECK(mmap(memory, PAGE, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == memory);
        }
    }
    RUN_TO_OUT(&m, 0, 0x81);
    for (unsigned i = 0; i < 8; i++)
        CHECK_EQ(memory[16 + i], 0x40 + i);
}

static const struct row rows[] = {
    { "dontneed", dontneed }, { "dontneed of code", dontneed_of_code }, { "mapped anew", mapped_anew }, { "moved away", moved_away },
    { "punched", punched }, { "never there", never_there }, { "write to read-only", write_to_read_only },
    { "page tables", page_tables }, { "code never there", code_never_there },
    { "slot of lost memory deleted", slot_of_lost_memory_deleted }, { "ins lost", ins_lost },
};

static const char *gone_name(size_t row)
{
    static char name[64];

    if (row < COUNT_OF(rows))
        return rows[row].name;
    row -= COUNT_OF(rows);
    strcpy(name, accesses[row / LOSS_COUNT].name);
    strcat(name, " behind ");
    return strcat(name, loss_names[row % LOSS_COUNT]);
}

static void gone_run(size_t row)
{
    if (row < COUNT_OF(rows))
        rows[row].run();
    else
        lose_and_return((row - COUNT_OF(rows)) / LOSS_COUNT, (enum loss)((row - COUNT_OF(rows)) % LOSS_COUNT));
}

const struct theme theme_gone = { "gone", COUNT_OF(rows) + COUNT_OF(accesses) * LOSS_COUNT, gone_name, gone_run };
