/* SPDX-License-Identifier: MIT */
/*
 * Says where pages of its own are, as the guest's kernel has it (/proc/self/pagemap), and stays in user mode, so that whoever
 * looks into the VM finds them in place:
 *   page NAME VIRTUAL PHYSICAL RIGHTS PATTERN     all in hexadecimal, PHYSICAL 0 where there is none
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
#define LARGE (2ul << 20)

static int pagemap;

static uint64_t physical(uintptr_t address)
{
    uint64_t entry = 0;

    if (pread(pagemap, &entry, sizeof(entry), (off_t)(address / PAGE * sizeof(entry))) != sizeof(entry))
        perror("pagemap");
    return entry >> 63 != 0 ? (entry & ((1ull << 55) - 1)) * PAGE + address % PAGE : 0;
}

static void say(const char *name, void *page, const char *rights)
{
    uint64_t at = physical((uintptr_t)page), pattern = at != 0 ? *(volatile uint64_t *)page : 0;

    printf("page %s %lx %lx %s %016lx\n", name, (unsigned long)(uintptr_t)page, (unsigned long)at, rights, (unsigned long)pattern);
}

static void fill(void *page, uint64_t seed)
{
    for (unsigned i = 0; i < PAGE / 8; i++)
        ((volatile uint64_t *)page)[i] = (seed + i) * 0x9e3779b97f4a7c15ull;
}

int main(void)
{
    pagemap = open("/proc/self/pagemap", O_RDONLY);
    uint8_t *pages = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *room = mmap(NULL, 2 * LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pagemap < 0 || pages == MAP_FAILED || room == MAP_FAILED)
        return 1;
    uint8_t *large = (uint8_t *)(((uintptr_t)room + LARGE - 1) & ~(LARGE - 1));
    madvise(large, LARGE, MADV_HUGEPAGE);
    fill(large + 5 * PAGE, 99);
    for (unsigned i = 0; i < 4; i++)
        fill(pages + 2 * i * PAGE, i + 1);
    mprotect(pages + 2 * PAGE, PAGE, PROT_READ);
    mprotect(pages + 4 * PAGE, PAGE, PROT_READ | PROT_EXEC);
    mprotect(pages + 6 * PAGE, PAGE, PROT_NONE);
    say("written", pages, "RW.U");
    say("read-only", pages + 2 * PAGE, "R..U");
    say("code", pages + 4 * PAGE, "R.XU");
    say("untouched", pages + 5 * PAGE, "....");
    say("large", large + 5 * PAGE, "RW.U");
    printf("page closed %lx 0 .... 0\n", (unsigned long)(uintptr_t)(pages + 6 * PAGE));
    puts("pagemap: done");
    fflush(stdout);
    for (volatile uint64_t i = 0;; i++)
        ;
}
