/* SPDX-License-Identifier: MIT */
/*
 * KVM_RUN and its exits (api.rst 5): IO and MMIO of every size and direction, HLT, SHUTDOWN, FAIL_ENTRY, the fields of
 * struct kvm_run, and what happens to an instruction that waits for the client.
 */
#include <string.h>

#include "machine.h"

/* ---- port I/O ---- */

GUEST(out, 64, "mov $0x11223344, %eax; mov $0x1234, %dx; out %al, %dx; out %ax, %dx; out %eax, %dx; out %al, $0x80; hlt");
GUEST(in, 64,
      "mov $-1, %rax; mov $0x1234, %dx; in %dx, %al; mov %rax, 0x10000; in %dx, %ax; mov %rax, 0x10008; in %dx, %eax; mov %rax, 0x10010\n"
      "out %al, $0x80; hlt");
GUEST(outs, 64, "mov $0x10000, %esi; mov $0x1234, %dx; mov $5, %ecx; cld; rep outsb; mov $3, %ecx; rep outsl; out %al, $0x80; hlt");
GUEST(ins, 64, "mov $0x10000, %edi; mov $0x1234, %dx; mov $5, %ecx; cld; rep insb; mov $2, %ecx; rep insw; out %al, $0x80; hlt");
GUEST(backwards, 64, "mov $0x10004, %edi; mov $0x1234, %dx; mov $3, %ecx; std; rep insb; cld; out %al, $0x80; hlt");

static void port_out(void)
{
    static const uint32_t values[] = { 0x44, 0x3344, 0x11223344 };
    struct machine m = machine_boot(0, GUEST_BYTES(out));

    for (unsigned i = 0; i < 3; i++) {
        uint32_t value = 0;
        RUN_TO(&m, 0, KVM_EXIT_IO);
        CHECK_EQ(m.run[0]->io.direction, KVM_EXIT_IO_OUT);
        CHECK_EQ(m.run[0]->io.port, 0x1234);
        CHECK_EQ(m.run[0]->io.size, 1 << i);
        CHECK_EQ(m.run[0]->io.count, 1);
        memcpy(&value, machine_io_data(&m, 0), (size_t)1 << i);
        CHECK_EQ(value, values[i]);
    }
    RUN_TO_OUT(&m, 0, 0x80);
}

static void port_in(void)
{
    static const uint64_t want[] = { 0xffffffffffffff88, 0xffffffffffff7788, 0x55667788 };
    struct machine m = machine_boot(0, GUEST_BYTES(in));

    for (unsigned i = 0; i < 3; i++) {
        RUN_TO(&m, 0, KVM_EXIT_IO);
        CHECK_EQ(m.run[0]->io.direction, KVM_EXIT_IO_IN);
        CHECK_EQ(m.run[0]->io.size, 1 << i);
        memcpy(machine_io_data(&m, 0), &(uint32_t){ 0x55667788 }, (size_t)1 << i);
    }
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_EQ(memcmp(m.ram + GPA_DATA, want, sizeof(want)), 0);
}

/* REP OUTS: the client sees every element, in as few exits as it likes. */
static void port_outs(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(outs));
    uint8_t seen[17];
    size_t bytes = 0;

    for (uint8_t i = 0; i < 32; i++)
        m.ram[GPA_DATA + i] = (uint8_t)(0xa0 + i);
    for (;;) {
        RUN_TO(&m, 0, KVM_EXIT_IO);
        if (m.run[0]->io.port == 0x80)
            break;
        size_t more = m.run[0]->io.size * m.run[0]->io.count;
        CHECK_EQ(m.run[0]->io.size, bytes < 5 ? 1 : 4);
        CHECK(bytes + more <= sizeof(seen));
        memcpy(seen + bytes, machine_io_data(&m, 0), more);
        bytes += more;
    }
    CHECK_EQ(bytes, 17);
    CHECK_EQ(memcmp(seen, m.ram + GPA_DATA, 17), 0);
}

static unsigned serve_ins(struct machine *m, uint8_t start)
{
    unsigned bytes = 0;

    for (;;) {
        RUN_TO(m, 0, KVM_EXIT_IO);
        if (m->run[0]->io.port == 0x80)
            return bytes;
        for (unsigned i = 0; i < m->run[0]->io.size * m->run[0]->io.count; i++)
            machine_io_data(m, 0)[i] = (uint8_t)(start + bytes++);
    }
}

static void port_ins(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(ins));

    CHECK_EQ(serve_ins(&m, 0x30), 9);
    for (uint8_t i = 0; i < 9; i++)
        CHECK_EQ(m.ram[GPA_DATA + i], 0x30 + i);
    CHECK_EQ(m.ram[GPA_DATA + 9], 0);
}

static void port_ins_backwards(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(backwards));

    CHECK_EQ(serve_ins(&m, 1), 3);
    CHECK_EQ(memcmp(m.ram + GPA_DATA, "\0\0\3\2\1\0", 6), 0);
}

/* ---- MMIO ---- */

GUEST(mmio_write, 64,
      "mov $0x1122334455667788, %rax; mov %al, (%rsi); mov %ax, (%rsi); mov %eax, (%rsi); mov %rax, (%rsi); movl $0x99, 4(%rsi)\n"
      "out %al, $0x80; hlt");
GUEST(mmio_read, 64, "mov $-1, %rax; mov (%rsi), %al; mov %rax, 0x10000; mov (%rsi), %ax; mov %rax, 0x10008; mov (%rsi), %eax\n"
                     "mov %rax, 0x10010; mov (%rsi), %rax; mov %rax, 0x10018; movzbl (%rsi), %eax; mov %rax, 0x10020; movswq (%rsi), %rax\n"
                     "mov %rax, 0x10028; out %al, $0x80; hlt");
GUEST(mmio_modify, 64, "addl $5, (%rsi); lock incl (%rsi); xchg %eax, (%rsi); cmpl $7, (%rsi); sete %al; out %al, $0x80; hlt");
GUEST(mmio_string, 64, "mov %rsi, %rdi; mov $0x10000, %esi; mov $4, %ecx; cld; rep movsb; out %al, $0x80; hlt");
GUEST(mmio_from, 64, "mov $0x10000, %edi; mov $4, %ecx; cld; rep movsl; out %al, $0x80; hlt");

static struct machine mmio_machine(const uint8_t *code, size_t bytes, uint64_t gpa)
{
    struct machine m = machine_boot(0, code, bytes);
    struct kvm_regs regs = machine_regs(&m, 0);

    regs.rsi = gpa;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    return m;
}

static void mmio_writes(void)
{
    struct machine m = mmio_machine(GUEST_BYTES(mmio_write), GPA_MMIO);
    uint64_t value;

    for (unsigned i = 0; i < 4; i++) {
        RUN_TO(&m, 0, KVM_EXIT_MMIO);
        CHECK_EQ(m.run[0]->mmio.phys_addr, GPA_MMIO);
        CHECK_EQ(m.run[0]->mmio.is_write, 1);
        CHECK_EQ(m.run[0]->mmio.len, 1 << i);
        value = 0;
        memcpy(&value, m.run[0]->mmio.data, (size_t)1 << i);
        CHECK_EQ(value, i == 3 ? 0x1122334455667788 : 0x1122334455667788 & ((1ull << (8 << i)) - 1));
    }
    RUN_TO(&m, 0, KVM_EXIT_MMIO);
    CHECK_EQ(m.run[0]->mmio.phys_addr, GPA_MMIO + 4);
    CHECK_EQ(m.run[0]->mmio.data[0], 0x99);
    RUN_TO_OUT(&m, 0, 0x80);
}

static void mmio_reads(void)
{
    static const uint64_t want[] = { 0xffffffffffffff88, 0xffffffffffff9988, 0xbbaa9988, 0x8f00ddccbbaa9988, 0x88, 0xffffffffffff9988 };
    static const uint8_t data[8] = { 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0, 0x8f }, sizes[] = { 1, 2, 4, 8, 1, 2 };
    struct machine m = mmio_machine(GUEST_BYTES(mmio_read), GPA_MMIO);

    for (unsigned i = 0; i < 6; i++) {
        RUN_TO(&m, 0, KVM_EXIT_MMIO);
        CHECK_EQ(m.run[0]->mmio.is_write, 0);
        CHECK_EQ(m.run[0]->mmio.len, sizes[i]);
        memcpy(m.run[0]->mmio.data, data, 8);
    }
    RUN_TO_OUT(&m, 0, 0x80);
    for (unsigned i = 0; i < 6; i++) {
        uint64_t got;
        memcpy(&got, m.ram + GPA_DATA + 8 * i, 8);
        CHECK_EQ(got, want[i]);
    }
}

/* Serves accesses as a little memory; how many there were. */
static unsigned serve_mmio(struct machine *m, uint8_t *device)
{
    unsigned count = 0;

    for (;; count++) {
        CHECK_EQ(machine_run(m, 0), 0);
        struct kvm_run *run = m->run[0];
        if (run->exit_reason == KVM_EXIT_IO)
            return count;
        CHECK_EQ(run->exit_reason, KVM_EXIT_MMIO);
        CHECK(run->mmio.phys_addr >= GPA_MMIO && run->mmio.phys_addr + run->mmio.len <= GPA_MMIO + 64 && run->mmio.len <= 8);
        if (run->mmio.is_write)
            memcpy(device + (run->mmio.phys_addr - GPA_MMIO), run->mmio.data, run->mmio.len);
        else
            memcpy(run->mmio.data, device + (run->mmio.phys_addr - GPA_MMIO), run->mmio.len);
    }
}

static void mmio_read_modify_write(void)
{
    struct machine m = mmio_machine(GUEST_BYTES(mmio_modify), GPA_MMIO);
    uint8_t device[64] = { 1 };
    struct kvm_regs regs = machine_regs(&m, 0);

    regs.rax = 7;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    CHECK_EQ(serve_mmio(&m, device), 7); /* three pairs and the compare */
    CHECK_EQ(device[0], 7);
    CHECK_EQ(*machine_io_data(&m, 0), 1);
}

static void mmio_strings(void)
{
    struct machine m = mmio_machine(GUEST_BYTES(mmio_string), GPA_MMIO);
    uint8_t device[64] = { 0 };

    memcpy(m.ram + GPA_DATA, "abcd", 4);
    CHECK_EQ(serve_mmio(&m, device), 4);
    CHECK_EQ(memcmp(device, "abcd", 5), 0);
    m = mmio_machine(GUEST_BYTES(mmio_from), GPA_MMIO);
    for (uint8_t i = 0; i < 16; i++)
        device[i] = (uint8_t)(i * 3);
    serve_mmio(&m, device);
    CHECK_EQ(memcmp(m.ram + GPA_DATA, device, 16), 0);
}

/* An access across the end of a slot: its bytes in memory are memory's, the others the client's. */
static void mmio_half(void)
{
    struct machine m = mmio_machine(GUEST_BYTES(mmio_write), GPA_MMIO - 2);
    uint8_t *page = machine_anonymous(4096), device[64] = { 0 };

    CHECK_OK(machine_slot(&m, 1, 0, GPA_MMIO - 4096, 4096, page));
    CHECK(serve_mmio(&m, device) >= 3);
    CHECK_EQ(page[4094], 0x88);
    CHECK_EQ(page[4095], 0x77);
    CHECK_EQ(device[0], 0x66);
    CHECK_EQ(device[1], 0x55);
    CHECK_EQ(device[2], 0x99);
    CHECK_EQ(device[5], 0); /* the 32-bit store at +4 ended there */
}

/* ---- other exits ---- */

GUEST(hlt, 64, "hlt; out %al, $0x80; hlt");
GUEST(triple, 64, "lidt 0x10000; ud2");
GUEST(real, 16, "mov $0x5a, %al; mov $0x1234, %dx; outb %al, %dx; hlt");
GUEST(undefined, 64, "ud2");

static void halt(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(hlt));

    RUN_TO(&m, 0, KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, 0).rip, GPA_CODE + 1);
    RUN_TO_OUT(&m, 0, 0x80);
}

static void shutdown(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(triple)); /* an IDT of length 0 */

    RUN_TO(&m, 0, KVM_EXIT_SHUTDOWN);
}

/* An exception whose gate is not there, and no other either. */
static void shutdown_by_gates(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(undefined));

    RUN_TO(&m, 0, KVM_EXIT_SHUTDOWN);
}

static void real_mode(void)
{
    struct machine m = machine_new(0, 1);

    machine_load(&m, GPA_CODE, GUEST_BYTES(real));
    machine_real_mode(&m, 0, GPA_CODE);
    RUN_TO(&m, 0, KVM_EXIT_IO);
    CHECK_EQ(m.run[0]->io.port, 0x1234);
    CHECK_EQ(*machine_io_data(&m, 0), 0x5a);
    RUN_TO(&m, 0, KVM_EXIT_HLT);
}

static void reset_vector(void)
{
    struct machine m = machine_new(0, 1);
    uint8_t *rom = machine_anonymous(0x10000);

    memcpy(rom + 0xfff0, GUEST_BYTES(real));
    CHECK_OK(machine_slot(&m, 1, KVM_MEM_READONLY, 0xffff0000u, 0x10000, rom));
    RUN_TO(&m, 0, KVM_EXIT_IO);
    CHECK_EQ(m.run[0]->io.port, 0x1234);
}

/* No memory at all where the code should be: no hang, no crash, and the client is told. */
static void no_code(void)
{
    struct machine m = machine_new(WITHOUT_RAM, 1);

    CHECK_EQ(machine_run(&m, 0), 0);
    EXPECT("exit", m.run[0]->exit_reason, KVM_EXIT_INTERNAL_ERROR);
    CHECK_EQ(m.run[0]->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
}

/* Long rows of instructions that each access memory: ADD AL to [RAX], as zeroes read; from every start in the page. */
GUEST(end_of_row, 64, "out %al, $0x80; hlt");

static void zeroes(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(end_of_row));

    machine_load(&m, GPA_FREE + 0x1000, GUEST_BYTES(end_of_row));
    for (uint64_t at = 0; at < 0x1000; at += 0x1be) {
        struct kvm_regs regs = machine_regs(&m, 0);
        regs.rip = GPA_FREE + at;
        regs.rax = GPA_DATA + 1;
        m.ram[GPA_DATA + 1] = 0;
        CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
        RUN_TO_OUT(&m, 0, 0x80);
        CHECK_EQ(m.ram[GPA_DATA + 1], (uint8_t)((0x1000 - at) / 2)); /* AL is 1 */
    }
}

/* ---- kvm_run ---- */

static void run_fields(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(hlt));
    struct kvm_regs regs = machine_regs(&m, 0);

    m.run[0]->cr8 = 3;
    regs.rflags |= 0x200;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    RUN_TO(&m, 0, KVM_EXIT_HLT);
    CHECK_EQ(m.run[0]->if_flag, 1);
    CHECK_EQ(m.run[0]->cr8, 3);
    CHECK_EQ(m.run[0]->apic_base, 0xfee00900u);
    CHECK_EQ(m.run[0]->ready_for_interrupt_injection, 1);
    regs = machine_regs(&m, 0);
    regs.rflags &= ~0x200ull;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    RUN_TO_OUT(&m, 0, 0x80);
    CHECK_EQ(m.run[0]->if_flag, 0);
    CHECK_EQ(m.run[0]->ready_for_interrupt_injection, 0);
}

static void sync_regs_refused(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(hlt));

    m.run[0]->kvm_dirty_regs = 1ull << 40;
    CHECK_EQ(machine_run(&m, 0), -EINVAL);
    m.run[0]->kvm_dirty_regs = 0;
    m.run[0]->kvm_valid_regs = 1ull << 40;
    CHECK_EQ(machine_run(&m, 0), -EINVAL);
    m.run[0]->kvm_valid_regs = 0;
    RUN_TO(&m, 0, KVM_EXIT_HLT);
}

/* ---- the instruction that waits ---- */

/* Its registers are not there yet at an IN's exit, and are when KVM_RUN was entered again, even if it left at once. */
static void immediate_exit_completes(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(in));

    RUN_TO(&m, 0, KVM_EXIT_IO);
    CHECK_EQ(machine_regs(&m, 0).rax & 0xff, 0xff);
    *machine_io_data(&m, 0) = 0x21;
    m.run[0]->immediate_exit = 1;
    CHECK_EQ(machine_run(&m, 0), -EINTR);
    CHECK_EQ(machine_regs(&m, 0).rax & 0xff, 0x21);
    CHECK_EQ(machine_run(&m, 0), -EINTR); /* as often as one likes */
    m.run[0]->immediate_exit = 0;
    RUN_TO(&m, 0, KVM_EXIT_IO);
    CHECK_EQ(m.run[0]->io.size, 2);
}

static void immediate_exit_completes_mmio(void)
{
    struct machine m = mmio_machine(GUEST_BYTES(mmio_read), GPA_MMIO);

    RUN_TO(&m, 0, KVM_EXIT_MMIO);
    m.run[0]->mmio.data[0] = 0x42;
    m.run[0]->immediate_exit = 1;
    CHECK_EQ(machine_run(&m, 0), -EINTR);
    m.run[0]->mmio.data[0] = 0x99; /* not looked at any more */
    m.run[0]->immediate_exit = 0;
    RUN_TO(&m, 0, KVM_EXIT_MMIO);
    CHECK_EQ(m.run[0]->mmio.len, 2);
    CHECK_EQ(m.ram[GPA_DATA], 0x42);
}

/* The client resets a vCPU whose last exit was an OUT: it starts where the client says, not behind the OUT. */
static void rip_set_while_out_waits(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(out));

    RUN_TO(&m, 0, KVM_EXIT_IO);
    machine_load(&m, GPA_HANDLER, GUEST_BYTES(hlt));
    struct kvm_regs regs = machine_regs(&m, 0);
    regs.rip = GPA_HANDLER;
    regs.rax = 0x77;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    RUN_TO(&m, 0, KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, 0).rip, GPA_HANDLER + 1);
    CHECK_EQ(machine_regs(&m, 0).rax, 0x77);
}

static void rip_set_while_in_waits(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(in));

    RUN_TO(&m, 0, KVM_EXIT_IO);
    machine_load(&m, GPA_HANDLER, GUEST_BYTES(hlt));
    struct kvm_regs regs = machine_regs(&m, 0);
    regs.rip = GPA_HANDLER;
    regs.rax = 0x77;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    *machine_io_data(&m, 0) = 0x21;
    RUN_TO(&m, 0, KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, 0).rax, 0x77);
}

/* A whole reset between: registers and segments. */
static void reset_while_out_waits(void)
{
    struct machine m = machine_new(0, 1);

    machine_cpuid(&m, 0);
    machine_load(&m, GPA_CODE, GUEST_BYTES(out));
    machine_load(&m, GPA_HANDLER, GUEST_BYTES(real));
    struct kvm_sregs sregs;
    struct kvm_regs regs = machine_regs(&m, 0);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_SREGS, &sregs));
    machine_long_mode(&m, 0, GPA_CODE);
    RUN_TO(&m, 0, KVM_EXIT_IO);
    sregs.cs.base = sregs.cs.selector = 0;
    regs.rip = GPA_HANDLER;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_SREGS, &sregs));
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    RUN_TO(&m, 0, KVM_EXIT_IO);
    CHECK_EQ(*machine_io_data(&m, 0), 0x5a);
}

static const struct row rows[] = {
    { "out", port_out }, { "in", port_in }, { "outs", port_outs }, { "ins", port_ins }, { "ins backwards", port_ins_backwards },
    { "mmio writes", mmio_writes }, { "mmio reads", mmio_reads }, { "mmio read-modify-write", mmio_read_modify_write },
    { "mmio strings", mmio_strings }, { "mmio half", mmio_half }, { "halt", halt }, { "shutdown", shutdown },
    { "shutdown by gates", shutdown_by_gates }, { "real mode", real_mode }, { "reset vector", reset_vector }, { "no code", no_code },
    { "zeroes", zeroes }, { "run fields", run_fields }, { "sync regs refused", sync_regs_refused }, { "immediate exit completes", immediate_exit_completes },
    { "immediate exit completes mmio", immediate_exit_completes_mmio }, { "rip set while an out waits", rip_set_while_out_waits },
    { "rip set while an in waits", rip_set_while_in_waits }, { "reset while an out waits", reset_while_out_waits },
};
THEME(run, rows);
