/* SPDX-License-Identifier: MIT */
/*
 * A running guest is moved from VM to VM: all state is read by KVM_GET_*, a new VM gets it by KVM_SET_*, and the guest must not
 * notice. It goes through 16-, 32- and 64-bit code with 8259 and 8254, with a local APIC in both modes, with timers running,
 * interrupts pending and shadowed, one NMI masked behind another, and x87, SSE and debug registers in use. It is moved at every
 * instruction (single steps) and at random times (signals).
 */
#include "kvm_client.h"

#include <signal.h>
#include <sys/time.h>

#define CODE 0x8000
#define RESULT_PORT 0x99

#define A(label) "(" #label " - move_code_from + 0x8000)"
GUEST_CODE(move_code, ".code16",
           "cli; xor %ax, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov $0x7c00, %sp\n"
           "movw $" A(irq0_16) ", 0x80; movw $0, 0x82; movw $" A(int21_16) ", 0x84; movw $0, 0x86\n"
           "mov %cr4, %eax; or $0x600, %ax; mov %eax, %cr4\n"
           "fninit; fld1; fldpi; mov $0x12345678, %eax; movd %eax, %xmm5; pshufd $0, %xmm5, %xmm5\n"
           "mov $0xabcd0, %eax; mov %eax, %dr3\n"
           "rdtsc; mov %eax, 0x510; mov %edx, 0x514\n"
           /* 8259 pair: vectors 20h and 28h, only IRQ 0 open; 8254: its rate */
           "mov $0x11, %al; out %al, $0x20; out %al, $0xa0; mov $0x20, %al; out %al, $0x21; mov $0x28, %al; out %al, $0xa1\n"
           "mov $4, %al; out %al, $0x21; mov $2, %al; out %al, $0xa1; mov $1, %al; out %al, $0x21; out %al, $0xa1\n"
           "mov $0xfe, %al; out %al, $0x21; mov $0xff, %al; out %al, $0xa1\n"
           "mov $0x34, %al; out %al, $0x43; mov 0x51c, %ax; out %al, $0x40; mov %ah, %al; out %al, $0x40\n"
           "xor %bx, %bx; mov $6, %cx\n"
           "1: push %cx; int $0x21; mov $0x9000, %si; mov $0x9003, %di; mov $5, %cx; rep movsb; pop %cx; loop 1b\n"
           "cmp $6, %bx; jne fail_16\n"
           "movw $0, 0x500; sti\n"
           "2: hlt; cmpw $3, 0x500; jb 2b\n"
           "cli; mov $0xff, %al; out %al, $0x21\n"
           "lgdtl " A(gdtr_16) "; mov %cr0, %eax; or $1, %al; mov %eax, %cr0; ljmpl $0x18, $" A(start_32) "\n"
           "fail_16: mov $1, %al; out %al, $0x99\n"
           "irq0_16: push %ax; incw 0x500; mov $0x20, %al; out %al, $0x20; pop %ax; iret\n"
           "int21_16: inc %bx; iret\n"
           ".code32\n"
           "start_32: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss; mov $0x7c00, %esp\n"
           "movl $(" A(timer_32) " + 0x180000), 0xa208; movl $0x8e00, 0xa20c; lidtl " A(idtr_32) "\n"
           "movl $0x1ff, 0xfee000f0; movl $0xb, 0xfee003e0; movl $0x41, 0xfee00320; movl $0, 0x504; movl $500000, 0xfee00380\n"
           "sti; hlt; cli; cmpl $1, 0x504; jne fail_32\n"
           "mov $4, %ecx; xor %ebx, %ebx\n"
           "3: call call_32; loop 3b\n"
           "cmp $8, %ebx; jne fail_32\n"
           "mov %cr4, %eax; or $0x20, %eax; mov %eax, %cr4; mov $0x2000, %eax; mov %eax, %cr3\n"
           "mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr; mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0\n"
           "ljmpl $8, $" A(start_64) "\n"
           "fail_32: mov $2, %al; out %al, $0x99\n"
           "timer_32: push %eax; incl 0x504; movl $0, 0xfee000b0; pop %eax; iretl\n"
           "call_32: pushal; popal; enter $16, $1; add $2, %ebx; leave; ret\n"
           ".code64\n"
           "start_64: mov $0x10, %eax; mov %eax, %ss; mov $0x7c00, %esp; lidt " A(idtr_64) "\n"
           "mov $0x1b, %ecx; rdmsr; or $0xc00, %eax; wrmsr\n"
           "xor %edx, %edx; mov $0x80f, %ecx; mov $0x1ff, %eax; wrmsr; mov $0x83e, %ecx; mov $0xb, %eax; wrmsr\n"
           /* an NMI whose handler sends another, which must wait for its IRET */
           "movl $0, 0x508; movl $0, 0x50c; mov $0x830, %ecx; mov $0x4400, %eax; wrmsr\n"
           "mov $200, %ecx; 4: cmpl $2, 0x508; loopne 4b; jne fail_64\n"
           "cmpl $1, 0x50c; jne fail_64\n"
           /* the timer, periodic */
           "mov $0x832, %ecx; mov $0x20042, %eax; wrmsr; mov $0x838, %ecx; mov 0x518, %eax; wrmsr\n"
           "movl $0, 0x504; sti\n"
           "5: hlt; cmpl $3, 0x504; jb 5b\n"
           "cli; mov $0x838, %ecx; xor %eax, %eax; wrmsr\n"
           "mov %ss, %eax; mov %eax, %ss; pushfq; popfq\n"
           /* one shot of the TSC deadline */
           "mov $0x832, %ecx; mov $0x40042, %eax; wrmsr; movl $0, 0x504\n"
           "rdtsc; shl $32, %rdx; or %rdx, %rax; add $2000000, %rax; mov %rax, %rdx; shr $32, %rdx; mov $0x6e0, %ecx; wrmsr\n"
           "sti; hlt; cli; cmpl $1, 0x504; jne fail_64\n"
           /* what was there from the beginning */
           "fldpi; fcomip %st(1), %st; jne fail_64; fstp %st(0); fld1; fcomip %st(1), %st; jne fail_64\n"
           "movhlps %xmm5, %xmm5; movq %xmm5, %rax; mov $0x1234567812345678, %rbx; cmp %rax, %rbx; jne fail_64\n"
           "mov %dr3, %rax; cmp $0xabcd0, %eax; jne fail_64\n"
           "rdtsc; shl $32, %rdx; or %rdx, %rax; cmp 0x510, %rax; jbe fail_64\n"
           "xor %eax, %eax; out %al, $0x99\n"
           "fail_64: mov $3, %al; out %al, $0x99\n"
           "timer_64: push %rax; push %rcx; push %rdx; incl 0x504\n"
           "mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; pop %rdx; pop %rcx; pop %rax; iretq\n"
           "nmi_64: push %rax; push %rcx; push %rdx; incl 0x508; cmpl $1, 0x508; jne 6f\n"
           "xor %edx, %edx; mov $0x830, %ecx; mov $0x4400, %eax; wrmsr; mov $3, %ecx; 7: loop 7b\n"
           "mov 0x508, %eax; mov %eax, 0x50c\n"
           "6: pop %rdx; pop %rcx; pop %rax; iretq\n"
           ".balign 8\n"
           "gdt_move: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff\n"
           "gdtr_16: .word 31; .long " A(gdt_move) "\n"
           "idtr_32: .word 0x7ff; .long 0xa000\n"
           "idtr_64: .word 0xfff; .quad 0x7000\n"
           ".balign 8\n"
           "move_handlers: .quad " A(nmi_64) ", " A(timer_64) "\n");
extern const uint64_t move_handlers[2]; /* addresses in the guest */

#define MSRS_MAX 200

/* All that a client saves. */
struct saved {
    struct kvm_cpuid2 *cpuid;
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_xcrs xcrs;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp;
    struct kvm_debugregs debug;
    struct kvm_lapic_state lapic;
    struct kvm_irqchip chips[3];
    struct kvm_pit_state2 pit;
    struct kvm_clock_data clock;
    union { struct kvm_msrs list; uint8_t room[sizeof(struct kvm_msrs) + MSRS_MAX * sizeof(struct kvm_msr_entry)]; } *msrs;
    struct kvm_xsave *xsave;
};

static struct saved *saved_new(void)
{
    struct saved *s = calloc(1, sizeof(*s));

    s->msrs = calloc(1, sizeof(*s->msrs));
    s->xsave = calloc(1, sizeof(*s->xsave));
    return s;
}

static void saved_free(struct saved *s)
{
    free(s->cpuid);
    free(s->msrs);
    free(s->xsave);
    free(s);
}

static void list_msrs(struct client *c, struct saved *s)
{
    union { struct kvm_msr_list list; uint8_t room[sizeof(struct kvm_msr_list) + MSRS_MAX * 4]; } u = { { .nmsrs = MSRS_MAX } };

    assert_int_equal(ask(c->system, KVM_GET_MSR_INDEX_LIST, &u), 0);
    s->msrs->list.nmsrs = u.list.nmsrs;
    for (uint32_t i = 0; i < u.list.nmsrs; i++)
        s->msrs->list.entries[i].index = u.list.indices[i];
}

static void save(struct client *c, struct saved *s)
{
    assert_int_equal(ask(c->vcpu, KVM_GET_MP_STATE, &s->mp), 0); /* first: it takes in INIT and SIPI (as QEMU has it) */
    assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &s->regs), 0);
    assert_int_equal(ask(c->vcpu, KVM_GET_SREGS2, &s->sregs), 0);
    assert_int_equal(ask(c->vcpu, KVM_GET_XSAVE, s->xsave), 0);
    assert_int_equal(ask(c->vcpu, KVM_GET_XCRS, &s->xcrs), 0);
    assert_int_equal(ask(c->vcpu, KVM_GET_MSRS, s->msrs), (int)s->msrs->list.nmsrs);
    assert_int_equal(ask(c->vcpu, KVM_GET_VCPU_EVENTS, &s->events), 0);
    assert_int_equal(ask(c->vcpu, KVM_GET_DEBUGREGS, &s->debug), 0);
    assert_int_equal(ask(c->vcpu, KVM_GET_LAPIC, &s->lapic), 0);
    for (uint32_t i = 0; i < 3; i++) {
        s->chips[i].chip_id = i;
        assert_int_equal(ask(c->vm, KVM_GET_IRQCHIP, &s->chips[i]), 0);
    }
    assert_int_equal(ask(c->vm, KVM_GET_PIT2, &s->pit), 0);
    assert_int_equal(ask(c->vm, KVM_GET_CLOCK, &s->clock), 0);
}

static uint64_t saved_msr(const struct saved *s, uint32_t index)
{
    for (uint32_t i = 0; i < s->msrs->list.nmsrs; i++)
        if (s->msrs->list.entries[i].index == index)
            return s->msrs->list.entries[i].data;
    fail_msg("MSR 0x%x is not in the list", index);
    return 0;
}

static void load(struct client *c, struct saved *s)
{
    struct kvm_clock_data clock = { .clock = s->clock.clock };

    assert_int_equal(ask(c->vm, KVM_SET_CLOCK, &clock), 0);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(ask(c->vm, KVM_SET_IRQCHIP, &s->chips[i]), 0);
    assert_int_equal(ask(c->vm, KVM_SET_PIT2, &s->pit), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_CPUID2, s->cpuid), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_SREGS2, &s->sregs), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_LAPIC, &s->lapic), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_REGS, &s->regs), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_XCRS, &s->xcrs), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_XSAVE, s->xsave), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_MSRS, s->msrs), (int)s->msrs->list.nmsrs);
    assert_int_equal(ask(c->vcpu, KVM_SET_VCPU_EVENTS, &s->events), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_MP_STATE, &s->mp), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_DEBUGREGS, &s->debug), 0);
    client_set_msr(c, 0x6e0, saved_msr(s, 0x6e0)); /* the deadline needs the TSC, and the timer's mode */
}

static void machine_new(struct client *c, uint8_t *memory)
{
    struct kvm_pit_config pit = { 0 };

    client_new_vm(c);
    if (memory) {
        munmap(c->memory, CLIENT_MEMORY);
        c->memory = memory;
    }
    assert_int_equal(ask(c->vm, KVM_CREATE_IRQCHIP, NULL), 0);
    assert_int_equal(ask(c->vm, KVM_CREATE_PIT2, &pit), 0);
    assert_int_equal(client_slot(c, 0, 0, CLIENT_MEMORY, 0), 0);
    client_new_vcpu(c);
}

static void move(struct client *c, struct saved *s, bool step)
{
    struct client next;
    struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };

    c->run->immediate_exit = 1; /* an instruction that waits for its completion is completed first */
    assert_int_equal(ask(c->vcpu, KVM_RUN, NULL), -EINTR);
    c->run->immediate_exit = 0;
    save(c, s);
    machine_new(&next, c->memory);
    c->memory = mmap(NULL, CLIENT_MEMORY, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); /* for client_free() */
    load(&next, s);
    client_free(c);
    *c = next;
    if (step)
        assert_int_equal(ask(c->vcpu, KVM_SET_GUEST_DEBUG, &debug), 0);
}

/* period: of the periodic timer, divisor: of the 8254; both longer than it takes to step through their handlers. */
static void start(struct client *c, struct saved *s, uint32_t period, uint16_t divisor)
{
    machine_new(c, NULL);
    free(s->cpuid);
    s->cpuid = calloc(1, sizeof(*s->cpuid) + 100 * sizeof(s->cpuid->entries[0]));
    s->cpuid->nent = 100;
    assert_int_equal(ask(c->system, KVM_GET_SUPPORTED_CPUID, s->cpuid), 0);
    assert_int_equal(ask(c->vcpu, KVM_SET_CPUID2, s->cpuid), 0);
    list_msrs(c, s);
    client_tables_64(c);
    client_load_16(c, CODE, move_code, GUEST_BYTES(move_code));
    client_word(c, 0x518, period);
    client_word(c, 0x51c, divisor);
    client_gate_64(c, 2, move_handlers[0]);
    client_gate_64(c, 0x42, move_handlers[1]);
}

/* True at the end: the guest's own verdict must be 0. */
static bool at_end(struct client *c, unsigned moves)
{
    if (c->run->exit_reason != KVM_EXIT_IO || c->run->io.port != RESULT_PORT)
        return false;
    uint8_t verdict = *((uint8_t *)c->run + c->run->io.data_offset);
    if (verdict)
        fail_msg("the guest failed in part %u, after %u moves", verdict, moves);
    return true;
}

static void test_still(void **state)
{
    struct client c;
    struct saved *s = saved_new();

    (void)state;
    start(&c, s, 700000, 1193);
    client_run(&c, KVM_EXIT_IO);
    assert_true(at_end(&c, 0));
    client_free(&c);
    saved_free(s);
}

static void test_every_instruction(void **state)
{
    struct client c;
    struct saved *s = saved_new();
    struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
    unsigned moves = 0;

    (void)state;
    start(&c, s, 100000000, 0); /* 0.1 s, and 55 ms */
    assert_int_equal(ask(c.vcpu, KVM_SET_GUEST_DEBUG, &debug), 0);
    for (;; moves++) {
        assert_int_equal(ask(c.vcpu, KVM_RUN, NULL), 0);
        if (at_end(&c, moves))
            break;
        assert_int_equal(c.run->exit_reason, KVM_EXIT_DEBUG);
        move(&c, s, true);
    }
    assert_true(moves > 300);
    client_free(&c);
    saved_free(s);
}

static void on_alarm(int sig)
{
    (void)sig;
}

static void test_any_time(void **state)
{
    struct saved *s = saved_new();
    struct sigaction sa = { .sa_handler = on_alarm };
    struct client c;
    unsigned moves = 0;

    (void)state;
    assert_int_equal(sigaction(SIGALRM, &sa, NULL), 0);
    for (unsigned round = 0; round < 100 && moves < 40; round++) {
        start(&c, s, 700000, 1193);
        for (;;) {
            struct itimerval timer = { .it_value = { .tv_usec = 50 + 397 * (moves % 7) } };
            assert_int_equal(setitimer(ITIMER_REAL, &timer, NULL), 0);
            int result = ask(c.vcpu, KVM_RUN, NULL);
            assert_true(result == 0 || result == -EINTR);
            if (!result && at_end(&c, moves))
                break;
            assert_int_equal(c.run->exit_reason, KVM_EXIT_INTR);
            move(&c, s, false);
            moves++;
        }
        client_free(&c);
    }
    assert_true(moves >= 40);
    saved_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_still), cmocka_unit_test(test_every_instruction), cmocka_unit_test(test_any_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
