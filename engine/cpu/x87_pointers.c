/* SPDX-License-Identifier: MIT */
/*
 * The x87 instruction and data pointers (SDM 1 8.1.8). What the host's unit notes are addresses of
 * translated code and of host memory; here they become the guest's, or nothing: no host address is
 * ever shown. Values that the guest has loaded itself are remembered, and given back as long as the
 * unit still holds them.
 */
#include <Zydis/Zydis.h>

#include "cpu/code_cache.h"
#include "cpu/sys.h"
#include "mmu/mmu.h"

#define CODE_MAX 15u

static uint64_t low_bytes(uint64_t value, unsigned bytes)
{
    return value & cpu_size_mask(bytes);
}

/* Bytes of the guest's code at RIP, as far as they can be read without any effect. */
static unsigned read_code(struct cpu *cpu, uint64_t rip, uint8_t *code)
{
    uint64_t base = cpu_in_64bit_code(cpu) ? 0 : cpu->vmcs.guest_seg[X86_CS].base;
    unsigned n = 0;

    while (n < CODE_MAX) {
        gva_t va = cpu_va_add(cpu, base, rip + n);
        unsigned left = (unsigned)(KAGE_PAGE_SIZE - (va & ~KAGE_PAGE_MASK));
        unsigned part = left < CODE_MAX - n ? left : CODE_MAX - n;
        bool writable, user;
        gpa_t gpa;
        if (!mmu_probe(cpu, va, &gpa, &writable, &user) || !mmu_phys_read(cpu, gpa, code + n, part)) {
            break;
        }
        n += part;
    }
    return n;
}

/* The guest address that a first-level TLB entry has led to `host`, of which the low bytes are known. */
static bool guest_address(const struct cpu *cpu, uint64_t host, unsigned bytes, gva_t *va)
{
    uint64_t page = low_bytes(host, bytes) & KAGE_PAGE_MASK;

    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++) {
        for (unsigned access = MMU_READ; access <= MMU_WRITE; access++) {
            const struct tlb_bank *bank = &cpu->tlb[idx][access];
            for (unsigned i = 0; i < TLB_SIZE; i++) {
                if (bank->host[i] != TLB_INVALID && low_bytes(bank->host[i], bytes) == page) {
                    *va = 0 - bank->neg_tag[i] + (host & ~KAGE_PAGE_MASK);
                    return true;
                }
            }
        }
    }
    return false;
}

/* Opcode and operand of the instruction at p->fip: its bytes are looked at again, as exception handlers do. */
static void describe(struct cpu *cpu, uint64_t host_fdp, unsigned bytes, struct cpu_x87_pointers *p)
{
    bool wide = cpu_in_64bit_code(cpu), db = (cpu->mode & CPU_MODE_DB) != 0;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction z;
    ZydisDecoder decoder;
    uint8_t code[CODE_MAX];
    gva_t va;

    unsigned n = read_code(cpu, p->fip, code);
    cpu_fpu_save(cpu); /* Zydis is not ours */
    if (!ZYAN_SUCCESS(ZydisDecoderInit(&decoder,
                                       wide ? ZYDIS_MACHINE_MODE_LONG_64
                                       : db ? ZYDIS_MACHINE_MODE_LEGACY_32
                                            : ZYDIS_MACHINE_MODE_LEGACY_16,
                                       wide ? ZYDIS_STACK_WIDTH_64
                                       : db ? ZYDIS_STACK_WIDTH_32
                                            : ZYDIS_STACK_WIDTH_16)) ||
        !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, n, &z, op)) || (z.opcode & 0xf8) != 0xd8) {
        return;
    }
    p->fop = (uint16_t)((z.opcode & 7u) << 8 | (unsigned)z.raw.modrm.mod << 6 | (unsigned)z.raw.modrm.reg << 3 |
                        z.raw.modrm.rm);
    for (unsigned i = 0; i < z.operand_count; i++) {
        if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && guest_address(cpu, host_fdp, bytes, &va)) {
            int seg = ZydisRegisterGetId(op[i].mem.segment);
            const struct vmcs_segment *s = &cpu->vmcs.guest_seg[seg >= X86_ES && seg <= X86_GS ? seg : X86_DS];
            bool based = !wide || seg == X86_FS || seg == X86_GS;
            p->fdp = based ? va - s->base : va;
            p->fdp = wide ? p->fdp : (uint32_t)p->fdp;
            p->fds = s->selector;
        }
    }
}

void cpu_x87_pointers(struct cpu *cpu, uint64_t host_fip, uint64_t host_fdp, unsigned bytes, bool all,
                      struct cpu_x87_pointers *p)
{
    const uint8_t *rx = cpu->vm->rx;
    uint64_t offset = low_bytes(host_fip - (uint64_t)(uintptr_t)rx, bytes);

    *p = (struct cpu_x87_pointers){0};
    /* First: what a guest loads may look like an address of ours. */
    if (host_fip != 0 && low_bytes(cpu->x87_loaded.fip, bytes) == host_fip) {
        *p = cpu->x87_loaded;
        return;
    }
    if (offset >= cpu->vm->size) {
        return;
    }
    const struct block *b = code_find_by_host(cpu->vm, rx + offset);
    int spilled;
    bool parked;
    if (b == NULL) {
        return; /* the cache was emptied since */
    }
    p->fip = code_guest_rip(cpu->vm, b, rx + offset, &spilled, &parked);
    p->fcs = cpu->vmcs.guest_seg[X86_CS].selector;
    if (all) {
        describe(cpu, host_fdp, bytes, p);
    }
}
