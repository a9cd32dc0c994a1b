/* SPDX-License-Identifier: MIT */
/*
 * Interrupts: local APIC (both modes, timer modes, self-IPI, priorities), 8259 with the 8254, I/O APIC,
 * lines and NMIs from the runner, interrupt shadows, HLT. Argument: mask of parts.
 */
#include "guest.h"

static void handler_order(struct frame *f);
static volatile unsigned order[8], order_len;

static void handler_order(struct frame *f)
{
    if (order_len < ARRAY_SIZE(order))
        order[order_len++] = (unsigned)f->vector;
    apic_write(APIC_EOI, 0);
}

static void reset_counts(void)
{
    for (unsigned i = 0; i < 256; i++)
        irq_count[i] = 0;
    order_len = 0;
}

static void self_ipi(uint8_t vector)
{
    apic_icr(apic_x2 ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24, 0x4000u | vector);
}

static const char *mode_name(const char *xapic, const char *x2apic) { return apic_x2 ? x2apic : xapic; }
#define N(name) mode_name("xapic-" name, "x2apic-" name)

static void apic_mode(void)
{
    reset_counts();
    irq_handlers[0x40] = irq_handlers[0x50] = handler_order;
    irq_handlers[0x31] = irq_handlers[0x32] = irq_count_eoi;
    check_eq(apic_read(APIC_VERSION) & 0xf0, 0x10, N("version"));
    self_ipi(0x31);
    check(apic_bit(APIC_IRR, 0x31), N("irr-pending-with-if-0"));
    sti_nop_cli();
    check_eq(irq_count[0x31], 1, N("self-ipi"));
    check(!apic_bit(APIC_IRR, 0x31) && !apic_bit(APIC_ISR, 0x31), N("eoi-clears"));
    /* shorthand "self", and both at once: higher vector first */
    apic_icr(0, 0x40000 | 0x4000 | 0x40);
    apic_icr(0, 0x40000 | 0x4000 | 0x50);
    sti_nop_cli();
    check(order_len == 2 && order[0] == 0x50 && order[1] == 0x40, N("priority-order"));
    /* TPR and CR8 */
    apic_write(APIC_TPR, 0x30);
    check_eq(read_cr8(), 3, N("tpr-is-cr8"));
    self_ipi(0x31);
    sti_nop_cli();
    check_eq(irq_count[0x31], 1, N("tpr-masks"));
    write_cr8(2);
    check_eq(apic_read(APIC_TPR), 0x20, N("cr8-is-tpr"));
    sti_nop_cli();
    check_eq(irq_count[0x31], 2, N("tpr-lowered-delivers"));
    write_cr8(0);
    /* one-shot timer */
    apic_write(APIC_TDCR, 3); /* by 16 */
    apic_write(APIC_LVTT, 0x32);
    apic_write(APIC_TMICT, 20000);
    check(apic_read(APIC_TMCCT) <= 20000, N("timer-counts"));
    check(wait_irq(0x32, 1, 500), N("timer-one-shot"));
    check_eq(apic_read(APIC_TMCCT), 0, N("timer-one-shot-stops"));
    check(!wait_irq(0x32, 2, 2), N("timer-one-shot-once"));
    /* periodic */
    irq_count[0x32] = 0;
    apic_write(APIC_LVTT, 0x20032);
    apic_write(APIC_TMICT, 20000);
    check(wait_irq(0x32, 4, 1000), N("timer-periodic"));
    apic_write(APIC_LVTT, 0x10032);
    apic_write(APIC_TMICT, 0);
    wait_irq(0x32, ~0u, 2); /* one may be pending */
    irq_count[0x32] = 0;
    check(!wait_irq(0x32, 1, 2), N("timer-masked"));
    /* deadline */
    if (HAS_DEADLINE) {
        apic_write(APIC_LVTT, 0x40032);
        asm volatile("mfence");
        wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000);
        check(rdmsr(MSR_TSC_DEADLINE) != 0 || irq_count[0x32] == 0, N("deadline-armed"));
        check(wait_irq(0x32, 1, 500), N("deadline"));
        check_eq(rdmsr(MSR_TSC_DEADLINE), 0, N("deadline-reads-0-after"));
        wrmsr(MSR_TSC_DEADLINE, 1);
        check(wait_irq(0x32, 2, 500), N("deadline-in-the-past"));
        wrmsr(MSR_TSC_DEADLINE, rdtsc() + 5000000000ull);
        wrmsr(MSR_TSC_DEADLINE, 0);
        check(!wait_irq(0x32, 3, 2), N("deadline-disarmed"));
        /* HLT wakes up */
        wrmsr(MSR_TSC_DEADLINE, rdtsc() + 3000000);
        sti_hlt();
        cli();
        check_eq(irq_count[0x32], 3, N("hlt-wakes-by-deadline"));
    } else {
        skip(N("deadline"), "not in CPUID");
    }
    /* a software-disabled APIC takes nothing */
    apic_write(APIC_SPIV, 0xff);
    check_eq(apic_read(APIC_LVTT) >> 16 & 1, 1, N("software-disable-masks-lvt"));
    apic_write(APIC_SPIV, 0x1ff);
}

static void apic(void)
{
    pic_init(0x20, 0x28);
    apic_enable(false);
    apic_mode();
    if (!HAS_X2APIC) {
        skip("x2apic", "not in CPUID");
        return;
    }
    apic_enable(true);
    apic_mode();
    uint64_t v;
    check_eq(try_rdmsr(0x80e, &v), GP, "x2apic-no-dfr");
    check_eq(try_rdmsr(0x831, &v), GP, "x2apic-no-icr2");
    check_eq(try_wrmsr(0x802, 0), GP, "x2apic-id-read-only");
    check_eq(try_wrmsr(0x80b, 1), GP, "x2apic-eoi-nonzero");
    irq_count[0x31] = 0;
    wrmsr(0x83f, 0x31);
    sti_nop_cli();
    check_eq(irq_count[0x31], 1, "x2apic-self-ipi-msr");
    check_eq(try_wrmsr(MSR_APIC_BASE, (rdmsr(MSR_APIC_BASE) & ~0x400ull)), GP, "x2apic-to-xapic-directly");
    apic_enable(false);
    check_eq(apic_read(APIC_VERSION) & 0xf0, 0x10, "back-to-xapic");
}

static void pic_eoi(struct frame *f)
{
    irq_count[f->vector]++;
    if (f->vector >= 0x28)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

static void pic(void)
{
    reset_counts();
    apic_enable(false);
    apic_write(APIC_LVT0, 0x700); /* ExtINT */
    ioapic_route(2, 0x10000);
    irq_handlers[0x20] = irq_handlers[0x27] = irq_handlers[0x24] = irq_handlers[0x2b] = pic_eoi;
    pic_init(0x20, 0x28);
    check_eq(inb(0x21), 0xff, "pic-imr");
    pit_start(2, 1193); /* 1 ms */
    check(!wait_irq(0x20, 1, 3), "pic-masked");
    pic_mask(0xfffe);
    irq_count[0x20] = 0;
    check(wait_irq(0x20, 5, 1000), "pit-rate-generator-by-pic");
    pic_mask(0xffff);
    sti_nop_cli();
    pit_start(0, 1193);
    pic_init(0x20, 0x28); /* forgets the edge that mode 2 left in IRR */
    irq_count[0x20] = 0;
    pic_mask(0xfffe);
    check(wait_irq(0x20, 1, 500), "pit-mode-0");
    irq_count[0x20] = 0;
    check(!wait_irq(0x20, 1, 3), "pit-mode-0-once");
    /* latch and read back */
    pit_start(2, 0);
    outb(0x43, 0);
    unsigned a = inb(0x40);
    a |= (unsigned)inb(0x40) << 8;
    for (volatile unsigned i = 0; i < 2000; i++)
        ;
    outb(0x43, 0);
    unsigned b = inb(0x40);
    b |= (unsigned)inb(0x40) << 8;
    check(a != b, "pit-latch-counts");
    outb(0x43, 0xe2); /* status of channel 0 */
    check_eq(inb(0x40) & 0x3e, 0x34, "pit-status");
    outb(0x61, 1);
    check_eq(inb(0x61) & 1, 1, "port-61-gate");
    pic_mask(0xffff);
    if (have_test_device()) {
        pic_mask(0xffef);
        outl(PORT_COMMAND, CMD_IRQ_HIGH | 4 << 8);
        check(wait_irq(0x24, 1, 200), "pic-line-4");
        outl(PORT_COMMAND, CMD_IRQ_LOW | 4 << 8);
        pic_mask(0xf7fb);
        outl(PORT_COMMAND, CMD_IRQ_HIGH | 11 << 8);
        check(wait_irq(0x2b, 1, 200), "pic-slave-line-11");
        outl(PORT_COMMAND, CMD_IRQ_LOW | 11 << 8);
        pic_mask(0xffff);
    }
    apic_write(APIC_LVT0, 0x10000);
}

static volatile bool level_hold;
static void level_handler(struct frame *f)
{
    irq_count[f->vector]++;
    if (!level_hold || irq_count[f->vector] == 3)
        outl(PORT_COMMAND, CMD_IRQ_LOW | 10 << 8);
    apic_write(APIC_EOI, 0);
}

static void ioapic(void)
{
    reset_counts();
    pic_init(0x20, 0x28);
    apic_enable(false);
    check_eq(ioapic_read(1) >> 16 & 0xff, 23, "ioapic-pins");
    irq_handlers[0x60] = irq_count_eoi;
    irq_handlers[0x61] = level_handler;
    ioapic_route(2, 0x60); /* the PIT: GSI 0 comes in at pin 2 on a PC, at pin 0 in KVM's default routing */
    ioapic_route(0, 0x60);
    check_eq(ioapic_read(0x14) & 0x100ff, 0x60, "ioapic-entry");
    pit_start(2, 1193);
    check(wait_irq(0x60, 3, 1000), "pit-by-ioapic");
    ioapic_route(2, 0x10000);
    ioapic_route(0, 0x10000);
    wait_irq(0x60, ~0u, 2); /* one may be pending */
    irq_count[0x60] = 0;
    check(!wait_irq(0x60, 1, 3), "ioapic-masked");
    if (!have_test_device()) {
        skip("ioapic-lines", "not under our runner");
        return;
    }
    ioapic_route(5, 0x60);
    irq_count[0x60] = 0;
    outl(PORT_COMMAND, CMD_IRQ_HIGH | 5 << 8);
    check(wait_irq(0x60, 1, 200), "ioapic-edge");
    check(!wait_irq(0x60, 2, 2), "ioapic-edge-once");
    outl(PORT_COMMAND, CMD_IRQ_LOW | 5 << 8);
    outl(PORT_COMMAND, CMD_IRQ_HIGH | 5 << 8);
    check(wait_irq(0x60, 2, 200), "ioapic-edge-again");
    outl(PORT_COMMAND, CMD_IRQ_LOW | 5 << 8);
    ioapic_route(10, 0x8061); /* level */
    outl(PORT_COMMAND, CMD_IRQ_HIGH | 10 << 8);
    check(wait_irq(0x61, 1, 200), "ioapic-level");
    check(!wait_irq(0x61, 2, 2), "ioapic-level-lowered");
    irq_count[0x61] = 0;
    level_hold = true;
    outl(PORT_COMMAND, CMD_IRQ_HIGH | 10 << 8);
    check(wait_irq(0x61, 3, 200), "ioapic-level-held-comes-again");
    check_eq(ioapic_read(0x24) >> 14 & 1, 0, "ioapic-remote-irr-clear");
    /* delayed line wakes HLT */
    irq_count[0x60] = 0;
    outl(PORT_COMMAND, CMD_IRQ_HIGH | 5 << 8 | 20u << 16);
    sti_hlt();
    cli();
    check_eq(irq_count[0x60], 1, "hlt-wakes-by-line");
    outl(PORT_COMMAND, CMD_IRQ_LOW | 5 << 8);
}

static volatile uint64_t seen_rip;
static void rip_handler(struct frame *f)
{
    seen_rip = f->rip;
    irq_count[f->vector]++;
    apic_write(APIC_EOI, 0);
}

extern uint8_t sti_shadow_end[], ss_shadow_end[];
void sti_shadow(void), ss_shadow(void);
asm("sti_shadow: sti; nop\nsti_shadow_end: nop; cli; ret\n"
    "ss_shadow: mov %ss, %eax; sti; mov %eax, %ss; nop\nss_shadow_end: nop; cli; ret\n");

static volatile unsigned nmis, nested;
static void nmi_handler(struct frame *f)
{
    (void)f;
    nmis++;
    if (nmis == 1) {
        outl(PORT_COMMAND, CMD_NMI);
        for (volatile unsigned i = 0; i < 1000; i++)
            nested |= nmis > 1;
    }
}

static void shadows_and_nmi(void)
{
    reset_counts();
    pic_init(0x20, 0x28);
    apic_enable(false);
    irq_handlers[0x31] = rip_handler;
    self_ipi(0x31);
    sti_shadow();
    check_eq(seen_rip, (uint64_t)sti_shadow_end, "sti-shadow");
    seen_rip = 0;
    self_ipi(0x31);
    ss_shadow();
    /* Of instructions in a row that each hold interrupts back only the first is sure to (SDM 3A 6.8.3). */
    check(seen_rip == (uint64_t)ss_shadow_end - 1 || seen_rip == (uint64_t)ss_shadow_end, "sti-then-mov-ss");
    self_ipi(0x31);
    asm volatile("sti; cli");
    check_eq(irq_count[0x31], 2, "sti-cli-takes-nothing");
    sti_hlt();
    cli();
    check_eq(irq_count[0x31], 3, "sti-hlt-pending");
    /* popf and iret enable at once */
    self_ipi(0x31);
    write_rflags(2 | FL_IF);
    asm volatile("nop; nop; cli");
    check_eq(irq_count[0x31], 4, "popf-enables");
    if (!have_test_device()) {
        skip("nmi", "not under our runner");
        return;
    }
    irq_handlers[NMI] = nmi_handler;
    outl(PORT_COMMAND, CMD_NMI);
    asm volatile("nop; nop; nop" ::: "memory");
    check_eq(nested, 0, "nmi-blocked-in-nmi");
    check_eq(nmis, 2, "nmi-pending-after-iret");
    outl(PORT_COMMAND, CMD_NMI | 20u << 16);
    asm volatile("hlt" ::: "memory");
    check_eq(nmis, 3, "nmi-wakes-hlt-with-if-0");
    irq_handlers[NMI] = 0;
}

void test_main(void)
{
    static void (*const parts[])(void) = {apic, pic, ioapic, shadows_and_nmi};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (!guest_arg || (guest_arg >> i & 1))
            parts[i]();
}
