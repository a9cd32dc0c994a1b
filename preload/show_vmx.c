/* SPDX-License-Identifier: MIT */
/*
 * Clients that ask the processor for VT-x themselves before they open the device: the CPUID instructions in the main
 * program's own text become UD2, which is as long, and the SIGILL is answered with CPUID's registers and the feature bit.
 *
 * The bytes 0F A2 may also be a part of another instruction. A place counts if decoding arrives there from the start of its
 * function, as the table of .eh_frame_hdr (LSB 5.0, 10.6.2) has it; without that table, from the start of the segment.
 */
#include "real.h"

#include <Zydis/Zydis.h>
#include <cpuid.h>
#include <elf.h>
#include <link.h>
#include <string.h>
#include <ucontext.h>

#define SITES_MAX 256
#define CPUID_BYTES 2
static const uint8_t cpuid_code[CPUID_BYTES] = { 0x0f, 0xa2 }, ud2_code[CPUID_BYTES] = { 0x0f, 0x0b };

/* The sorted table of .eh_frame_hdr in the only form that linkers write: pairs of (function, FDE), relative to the header. */
#define EH_VERSION 1
#define EH_COUNT_UDATA4 0x03
#define EH_TABLE_DATAREL_SDATA4 0x3b
#define EH_TABLE_OFFSET 12
struct eh_frame_hdr {
    uint8_t version, frame_encoding, count_encoding, table_encoding;
    int32_t frame;
    uint32_t count;
    struct {
        int32_t function, fde;
    } table[];
};
_Static_assert(offsetof(struct eh_frame_hdr, table) == EH_TABLE_OFFSET, "the header's layout");

static uintptr_t sites[SITES_MAX];
static size_t site_count;
static bool is_amd;

struct program {
    uintptr_t base;
    const ElfW(Phdr) *headers;
    size_t header_count;
    const struct eh_frame_hdr *eh;
    ZydisDecoder decoder;
};

static bool answer_cpuid(int sig, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned leaf = (unsigned)regs[REG_RAX], a, b, c, d;
    bool ours = false;

    if (sig != SIGILL || info->si_code <= 0)
        return false;
    for (size_t i = 0; i < site_count && !ours; i++)
        ours = sites[i] == (uintptr_t)regs[REG_RIP];
    if (!ours)
        return false;
    __cpuid_count(leaf, (unsigned)regs[REG_RCX], a, b, c, d);
    if (leaf == 1 && !is_amd)
        c |= 1u << 5; /* VMX (SDM 2A, CPUID) */
    if (leaf == 0x80000001u && is_amd)
        c |= 1u << 2; /* SVM (APM 3, E.4.2) */
    regs[REG_RAX] = a;
    regs[REG_RBX] = b;
    regs[REG_RCX] = c;
    regs[REG_RDX] = d;
    regs[REG_RIP] += CPUID_BYTES;
    return true;
}

/* The last function of the table that begins at or before `at`, or `lowest`. */
static uintptr_t function_of(const struct program *program, uintptr_t at, uintptr_t lowest)
{
    const struct eh_frame_hdr *eh = program->eh;
    uintptr_t best = lowest;

    for (uint32_t low = 0, high = eh ? eh->count : 0; low < high;) {
        uint32_t middle = low + (high - low) / 2;
        uintptr_t function = (uintptr_t)eh + (uintptr_t)(intptr_t)eh->table[middle].function;
        if (function <= at) {
            best = function > best ? function : best;
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return best;
}

static bool is_instruction(const struct program *program, uintptr_t start, uintptr_t at, uintptr_t end)
{
    ZydisDecodedInstruction instruction;

    while (start < at) {
        if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&program->decoder, NULL, (const void *)start, end - start, &instruction)))
            start += instruction.length;
        else
            start++;
    }
    return start == at;
}

static bool patch(uintptr_t at, int prot)
{
    uintptr_t page = at & ~(uintptr_t)4095, end = (at + CPUID_BYTES + 4095) & ~(uintptr_t)4095;

    if (mprotect((void *)page, end - page, PROT_READ | PROT_WRITE | PROT_EXEC) < 0)
        return false;
    memcpy((void *)at, ud2_code, sizeof(ud2_code));
    return mprotect((void *)page, end - page, prot) == 0;
}

static void patch_segment(const struct program *program, const ElfW(Phdr) *header)
{
    uintptr_t start = program->base + header->p_vaddr, end = start + header->p_filesz;
    int prot = ((header->p_flags & PF_R) ? PROT_READ : 0) | PROT_EXEC | ((header->p_flags & PF_W) ? PROT_WRITE : 0);

    for (const uint8_t *at = (const uint8_t *)start; (at = memmem(at, end - (uintptr_t)at, cpuid_code, CPUID_BYTES)); at++) {
        uintptr_t site = (uintptr_t)at;
        if (!is_instruction(program, function_of(program, site, start), site, end))
            continue;
        if (site_count == SITES_MAX || !patch(site, prot)) {
            preload_say("--show-vmx: not every CPUID instruction could be rewritten");
            return;
        }
        sites[site_count++] = site; /* nothing else runs yet */
    }
}

/* The first object is the main program. */
static int take_program(struct dl_phdr_info *info, size_t bytes, void *opaque)
{
    struct program *program = opaque;

    (void)bytes;
    program->base = info->dlpi_addr;
    program->headers = info->dlpi_phdr;
    program->header_count = info->dlpi_phnum;
    return 1;
}

void preload_show_vmx(void)
{
    struct program program = { 0 };
    unsigned a, b, c, d;

    __cpuid(0, a, b, c, d);
    is_amd = (b == 0x68747541u && c == 0x444d4163u) || b == 0x6f677948u; /* "Auth…cAMD", "Hygo…" */
    dl_iterate_phdr(take_program, &program);
    ZydisDecoderInit(&program.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (size_t i = 0; i < program.header_count; i++) {
        if (program.headers[i].p_type != PT_GNU_EH_FRAME)
            continue;
        const struct eh_frame_hdr *eh = (const void *)(program.base + program.headers[i].p_vaddr);
        if (eh->version == EH_VERSION && eh->count_encoding == EH_COUNT_UDATA4 && eh->table_encoding == EH_TABLE_DATAREL_SDATA4 &&
            EH_TABLE_OFFSET + 8ull * eh->count <= program.headers[i].p_memsz)
            program.eh = eh;
    }
    for (size_t i = 0; i < program.header_count; i++)
        if (program.headers[i].p_type == PT_LOAD && (program.headers[i].p_flags & PF_X))
            patch_segment(&program, &program.headers[i]);
    if (site_count && kage_set_fault_handler(answer_cpuid) < 0)
        preload_say("--show-vmx: no handler for SIGILL: %m");
}
