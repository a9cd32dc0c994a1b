/* SPDX-License-Identifier: MIT */
/*
 * The interrupt chips, as the tests drive them: local APIC in either mode, I/O APIC, the two 8259s
 * and channel 0 of the 8254.
 */
#include "guest.h"

bool apic_x2;
volatile unsigned irq_count[256];

uint32_t apic_read(unsigned reg)
{
    return apic_x2 ? (uint32_t)rdmsr(0x800 + reg / 16) : *(volatile uint32_t *)(0xfee00000ull + reg);
}

void apic_write(unsigned reg, uint32_t value)
{
    if (apic_x2)
        wrmsr(0x800 + reg / 16, value);
    else
        *(volatile uint32_t *)(0xfee00000ull + reg) = value;
}

void apic_enable(bool x2)
{
    uint64_t base = rdmsr(MSR_APIC_BASE);
    if ((base & 0x400) && !x2)
        wrmsr(MSR_APIC_BASE, base & ~0xc00ull); /* the only way back */
    wrmsr(MSR_APIC_BASE, (base & ~0x400ull) | 0x800);
    if (x2)
        wrmsr(MSR_APIC_BASE, base | 0xc00);
    apic_x2 = x2;
    apic_write(APIC_SPIV, 0x1ff);
    apic_write(APIC_LVT0, 0x10000);
    apic_write(APIC_LVT1, 0x10400);
    apic_write(APIC_LVTT, 0x10000);
    apic_write(APIC_TPR, 0);
}

void apic_icr(uint32_t dest, uint32_t low)
{
    if (apic_x2) {
        wrmsr(0x830, (uint64_t)dest << 32 | low);
        return;
    }
    apic_write(APIC_ICR2, dest << 24);
    apic_write(APIC_ICR, low);
}

bool apic_bit(unsigned base, unsigned vector)
{
    return apic_read(base + vector / 32 * 16) >> (vector % 32) & 1;
}

void pic_init(unsigned base1, unsigned base2)
{
    outb(0x20, 0x11);
    outb(0xa0, 0x11);
    outb(0x21, (uint8_t)base1);
    outb(0xa1, (uint8_t)base2);
    outb(0x21, 4);
    outb(0xa1, 2);
    outb(0x21, 1);
    outb(0xa1, 1);
    pic_mask(0xffff);
}

void pic_mask(uint16_t mask)
{
    outb(0x21, (uint8_t)mask);
    outb(0xa1, (uint8_t)(mask >> 8));
}

uint32_t ioapic_read(unsigned reg)
{
    *(volatile uint32_t *)0xfec00000ull = reg;
    return *(volatile uint32_t *)0xfec00010ull;
}

void ioapic_write(unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)0xfec00000ull = reg;
    *(volatile uint32_t *)0xfec00010ull = value;
}

void ioapic_route(unsigned pin, uint64_t entry)
{
    ioapic_write(0x10 + 2 * pin, 0x10000);
    ioapic_write(0x11 + 2 * pin, (uint32_t)(entry >> 32));
    ioapic_write(0x10 + 2 * pin, (uint32_t)entry);
}

void pit_start(unsigned mode, uint16_t count)
{
    outb(0x43, (uint8_t)(0x30 | mode << 1));
    outb(0x40, (uint8_t)count);
    outb(0x40, (uint8_t)(count >> 8));
}

void irq_count_only(struct frame *f)
{
    irq_count[f->vector]++;
}

void irq_count_eoi(struct frame *f)
{
    irq_count[f->vector]++;
    apic_write(APIC_EOI, 0);
}

/* The TSC runs at 1 GHz or more on any host in question: `ms` is a lower bound of the wait. */
bool wait_irq(unsigned vector, unsigned count, unsigned ms)
{
    uint64_t end = rdtsc() + ms * 5000000ull;
    while (irq_count[vector] < count && rdtsc() < end)
        sti_nop_cli();
    return irq_count[vector] >= count;
}
