/* SPDX-License-Identifier: MIT */
/* Machine code, as far as these tests need to make it. */
#include "litmus.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void emit_bytes(struct emit *e, const void *bytes, size_t len)
{
    if ((size_t)(e->end - e->at) < len) {
        fprintf(stderr, "litmus: no room for code\n");
        exit(2);
    }
    memcpy(e->at, bytes, len);
    e->at += len;
}

void emit_u32(struct emit *e, uint32_t value)
{
    emit_bytes(e, &value, 4);
}

void emit_u64(struct emit *e, uint64_t value)
{
    emit_bytes(e, &value, 8);
}

void emit_rm(struct emit *e, bool lock, unsigned size, unsigned opcode, unsigned reg, unsigned base)
{
    uint8_t rex = (uint8_t)((size == 8 ? 8 : 0) | (reg >> 3) << 2 | base >> 3);

    if (lock)
        EMIT(e, 0xf0);
    if (size == 2)
        EMIT(e, 0x66);
    if (rex || size == 1) /* with REX, SPL to DIL and not AH to BH */
        EMIT(e, (uint8_t)(0x40 | rex));
    if (opcode >> 8)
        EMIT(e, (uint8_t)(opcode >> 8));
    EMIT(e, (uint8_t)opcode);
    unsigned modrm = (reg & 7) << 3 | (base & 7);
    if ((base & 7) == RSP)
        EMIT(e, (uint8_t)modrm, 0x24);
    else if ((base & 7) == RBP)
        EMIT(e, (uint8_t)(modrm | 0x40), 0);
    else
        EMIT(e, (uint8_t)modrm);
}

void emit_mov_imm(struct emit *e, unsigned reg, uint64_t value)
{
    EMIT(e, (uint8_t)(0x48 | reg >> 3), (uint8_t)(0xb8 | (reg & 7)));
    emit_u64(e, value);
}

void emit_meet(struct emit *e, unsigned cpus)
{
    /* where processors take turns on fewer cores, the others are not there to be waited for */
    uint32_t spins = (long)cpus > sysconf(_SC_NPROCESSORS_ONLN) ? 100 : 1000;

    emit_rm(e, true, 4, 0xff, 0, R15); /* lock inc dword [r15] */
    EMIT(e, 0xb9);                     /* mov ecx, spins */
    emit_u32(e, spins);
    uint8_t *again = e->at;
    EMIT(e, 0x41, 0x83, 0x3f, (uint8_t)cpus); /* cmp dword [r15], cpus */
    EMIT(e, 0x73, 0x04);                      /* jae over */
    EMIT(e, 0xff, 0xc9);                      /* dec ecx: no PAUSE, a hypervisor may yield at it */
    EMIT(e, 0x75, (uint8_t)(again - e->at - 2));
}

void emit_dec_jnz(struct emit *e, unsigned reg, const uint8_t *target)
{
    EMIT(e, (uint8_t)(0x48 | reg >> 3), 0xff, (uint8_t)(0xc8 | (reg & 7))); /* dec reg */
    EMIT(e, 0x0f, 0x85);                                                    /* jnz target */
    emit_u32(e, (uint32_t)(target - e->at - 4));
}
