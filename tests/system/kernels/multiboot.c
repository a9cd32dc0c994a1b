/* SPDX-License-Identifier: MIT */
/*
 * A small multiboot kernel. It says on the first serial line what its loader told it, one line a fact, for the script that
 * started it to compare; does what words of its command line ask for; and ends by isa-debug-exit. Built twice: as an ELF
 * file, and with -DADDRESSES as a flat image whose header says where it goes.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEADER_MAGIC 0x1badb002u
#define HEADER_MEMORY 0x00002u
#define HEADER_ADDRESSES 0x10000u
#define LOADER_MAGIC 0x2badb002u

#define SERIAL_PORT 0x3f8u
#define EXIT_PORT 0x501u
#define PVPANIC_PORT 0x505u
#define DEBUG_PORT 0xe9u
#define TESTDEV_IO_PORT 0xe0u
#define TESTDEV_IRQ_PORT 0x2000u
#define TESTDEV_MEMORY 0xff000000u

enum { EXIT_GOOD = 0x10, EXIT_BAD = 0x11 }; /* kage's status: 33 and 35 */

struct info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr, drives[2], config_table,
        boot_loader_name;
};

struct module {
    uint32_t start, end, string, reserved;
};

struct memory {
    uint32_t size;
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));

extern uint8_t image_begin[], image_data_end[], image_end[], start[];
void kernel_main(uint32_t magic, const struct info *info);

#ifdef ADDRESSES
#define HEADER_FLAGS (HEADER_MEMORY | HEADER_ADDRESSES)
#else
#define HEADER_FLAGS HEADER_MEMORY
#endif

struct header {
    uint32_t magic, flags, checksum;
    const void *header_addr, *load_addr, *load_end_addr, *bss_end_addr, *entry_addr;
};

__attribute__((section(".multiboot"), used)) static const struct header header = {
    .magic = HEADER_MAGIC,
    .flags = HEADER_FLAGS,
    .checksum = -(HEADER_MAGIC + HEADER_FLAGS),
    .header_addr = &header,
    .load_addr = image_begin,
    .load_end_addr = image_data_end,
    .bss_end_addr = image_end,
    .entry_addr = start,
};

/* The specification leaves the stack to the kernel. */
static uint8_t stack[8192] __attribute__((used));
__asm__(".globl start\n"
        "start: movl $stack + 8192, %esp\n"
        "pushl %ebx\n"
        "pushl %eax\n"
        "call kernel_main\n"
        "1: hlt\n"
        "jmp 1b\n");

/* ---- ports and text ---- */

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static void say_byte(char byte)
{
    while ((in8(SERIAL_PORT + 5) & 0x20) == 0) {
    }
    out8(SERIAL_PORT, (uint8_t)byte);
}

static void say(const char *text)
{
    while (*text != '\0') {
        say_byte(*text++);
    }
}

static void say_number(uint64_t value)
{
    say(" 0x");
    for (int shift = 60; shift >= 0; shift -= 4) {
        if (value >> shift != 0 || shift == 0) {
            say_byte("0123456789abcdef"[value >> shift & 15]);
        }
    }
}

static void finish(uint8_t value)
{
    out8(EXIT_PORT, value);
}

static void check(bool good, const char *what)
{
    if (!good) {
        say("FAIL: ");
        say(what);
        say("\n");
        finish(EXIT_BAD);
    }
}

static bool has_text(const char *text, const char *word)
{
    for (; *text != '\0'; text++) {
        size_t i = 0;
        while (word[i] != '\0' && text[i] == word[i]) {
            i++;
        }
        if (word[i] == '\0') {
            return true;
        }
    }
    return false;
}

/* ---- what the loader told ---- */

static void check_state(uint32_t magic)
{
    uint32_t cr0, flags, zero = 0;
    uint16_t cs, ss;
    __asm__("movl %%cr0, %0" : "=r"(cr0));
    __asm__("pushfl; popl %0" : "=r"(flags));
    __asm__("movw %%cs, %0; movw %%ss, %1" : "=r"(cs), "=r"(ss));
    check(magic == LOADER_MAGIC, "EAX is the loader's magic number");
    check((cr0 & 0x80000001u) == 1, "protected mode, no paging");
    check((flags & 0x20200u) == 0, "interrupts are off, no virtual-8086 mode");
    check((cs & 7u) == 0 && (ss & 7u) == 0, "ring 0, segments of the GDT");
    for (const uint8_t *p = image_data_end; p < image_end; p++) {
        zero |= p < stack || p >= stack + sizeof(stack) ? *p : 0u;
    }
    check(zero == 0, "the memory behind the file's bytes is zero");
}

static void say_info(const struct info *info)
{
    check((info->flags & 0x24du) == 0x24du, "memory, command line, modules, map, loader's name");
    say("loader ");
    say((const char *)info->boot_loader_name);
    say("\ncmdline ");
    say((const char *)info->cmdline);
    say("\nlower");
    say_number(info->mem_lower);
    say("\nupper");
    say_number(info->mem_upper);
    say("\n");
    for (uint32_t at = info->mmap_addr; at < info->mmap_addr + info->mmap_length;) {
        const struct memory *memory = (const struct memory *)at;
        check(memory->size >= 20, "an entry of the map");
        say("memory");
        say_number(memory->base);
        say_number(memory->length);
        say_number(memory->type);
        say("\n");
        at += memory->size + 4;
    }
    for (uint32_t i = 0; i < info->mods_count; i++) {
        const struct module *module = (const struct module *)info->mods_addr + i;
        uint32_t sum = 0;
        check(module->start % 4096 == 0 && module->start >= (uint32_t)image_end && module->end > module->start, "a module's place");
        for (uint32_t at = module->start; at < module->end; at++) {
            sum = sum * 31 + *(const uint8_t *)at;
        }
        say("module");
        say_number(module->end - module->start);
        say_number(sum);
        say(" ");
        say((const char *)module->string);
        say("\n");
    }
}

/* ---- what the command line asks for ---- */

static void use_testdev(void)
{
    volatile uint32_t *memory = (volatile uint32_t *)TESTDEV_MEMORY;
    out32(TESTDEV_IO_PORT, 0x12345678);
    check(in32(TESTDEV_IO_PORT) == 0x12345678 && in8(TESTDEV_IO_PORT + 1) == 0x56, "pc-testdev's ports keep what they are given");
    memory[0x3fff] = 0xcafe0001;
    check(memory[0x3fff] == 0xcafe0001, "pc-testdev's memory");
    out8(0x20, 0x0a); /* OCW3: read the interrupt request register */
    check((in8(0x20) & 0x20) == 0, "line 5 is low");
    out8(TESTDEV_IRQ_PORT + 5, 1);
    check((in8(0x20) & 0x20) != 0, "line 5 is high");
    out8(TESTDEV_IRQ_PORT + 5, 0);
    say("testdev done\n");
}

static void use_debug_port(void)
{
    check(in8(DEBUG_PORT) == 0xe9, "the debug port says that it is there");
    for (const char *text = "kernel: debug port\n"; *text != '\0'; text++) {
        out8(DEBUG_PORT, (uint8_t)*text);
    }
}

void kernel_main(uint32_t magic, const struct info *info)
{
    const char *cmdline = (const char *)info->cmdline;
    check_state(magic);
    say_info(info);
    if (has_text(cmdline, " testdev")) {
        use_testdev();
    }
    if (has_text(cmdline, " debug")) {
        use_debug_port();
    }
    if (has_text(cmdline, " crashload")) {
        check((in8(PVPANIC_PORT) & 3) == 3, "pvpanic's events");
        out8(PVPANIC_PORT, 2);
    }
    if (has_text(cmdline, " panic")) {
        out8(PVPANIC_PORT, 1);
        check(false, "nothing follows a panic");
    }
    say("done\n");
    finish(EXIT_GOOD);
}
