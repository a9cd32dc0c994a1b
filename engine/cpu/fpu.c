/* SPDX-License-Identifier: MIT */
/*
 * The vector and x87 state: while fpu_live it is in the host's registers, else in cpu->xsave in the
 * standard XSAVE format of the host. The guest may only use what its XCR0 and CR0/CR4 allow; the
 * components it has not enabled keep their initial state.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

#include "cpu/run.h"
#include "cpu/translate.h"

#define MXCSR_DEFAULT 0x1f80u

uint64_t cpu_host_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

int cpu_fpu_init(struct cpu *cpu)
{
    unsigned a, b, c, d;

    __cpuid(1, a, b, c, d);
    if ((c & bit_OSXSAVE) == 0) {
        return -ENOTSUP;
    }
    __cpuid_count(0xd, 0, a, b, c, d);
    cpu->xsave_bytes = b < 1024 ? 1024 : (b + 63u) & ~63u;
    cpu->host_xcr0 = cpu_host_xcr0();
    cpu->xsave = aligned_alloc(64, cpu->xsave_bytes);
    if (cpu->xsave == NULL) {
        return -ENOMEM;
    }
    cpu_fpu_reset(cpu);
    return 0;
}

void cpu_fpu_fini(struct cpu *cpu)
{
    free(cpu->xsave);
    cpu->xsave = NULL;
}

/* Power-up state (SDM 3A table 9-1): FCW 0040h after RESET; every component but x87 and MXCSR initial. */
void cpu_fpu_reset(struct cpu *cpu)
{
    static const uint16_t fcw_reset = 0x0040;
    static const uint32_t mxcsr = MXCSR_DEFAULT;
    uint64_t xstate_bv = X86_XCR0_X87 | X86_XCR0_SSE;

    cpu->fpu_live = 0;
    memset(cpu->xsave, 0, cpu->xsave_bytes);
    memcpy(cpu->xsave, &fcw_reset, sizeof(fcw_reset));
    memcpy(cpu->xsave + 24, &mxcsr, sizeof(mxcsr));
    memcpy(cpu->xsave + 512, &xstate_bv, sizeof(xstate_bv));
}

void cpu_fpu_save(struct cpu *cpu)
{
    static const uint32_t mxcsr = MXCSR_DEFAULT;

    if (!cpu->fpu_live) {
        return;
    }
    __asm__ volatile("xsave64 (%0)"
                     :
                     : "r"(cpu->xsave), "a"((uint32_t)cpu->host_xcr0), "d"((uint32_t)(cpu->host_xcr0 >> 32))
                     : "memory");
    if (cpu->host_xcr0 & X86_XCR0_AVX) {
        __asm__ volatile("vzeroupper");
    }
    __asm__ volatile("fninit\n ldmxcsr %0" : : "m"(mxcsr));
    cpu->fpu_live = 0;
}

void cpu_fpu_load(struct cpu *cpu)
{
    if (cpu->fpu_live) {
        return;
    }
    __asm__ volatile("xrstor64 (%0)"
                     :
                     : "r"(cpu->xsave), "a"((uint32_t)cpu->host_xcr0), "d"((uint32_t)(cpu->host_xcr0 >> 32))
                     : "memory");
    cpu->fpu_live = 1;
}

/* SDM 3A table 14-1 and 2A 2.4: who may use the x87, MMX, SSE, AVX and AVX-512 units. */
enum cpu_result cpu_fpu_check(struct cpu *cpu, uint32_t kind, uint32_t len)
{
    uint64_t cr0 = cpu->vmcs.guest_cr0, cr4 = cpu->vmcs.guest_cr4;
    uint64_t need = kind == FPU_CHECK_AVX512 ? X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512
                                             : X86_XCR0_SSE | X86_XCR0_AVX;
    bool ts = (cr0 & X86_CR0_TS) != 0;

    (void)len;
    switch (kind) {
    case FPU_CHECK_FWAIT:
        return ts && (cr0 & X86_CR0_MP) != 0 ? cpu_raise(cpu, X86_EXC_NM) : CPU_NEXT;
    case FPU_CHECK_X87:
        return ts || (cr0 & X86_CR0_EM) != 0 ? cpu_raise(cpu, X86_EXC_NM) : CPU_NEXT;
    case FPU_CHECK_MMX:
        if (cr0 & X86_CR0_EM) {
            return cpu_raise(cpu, X86_EXC_UD);
        }
        break;
    case FPU_CHECK_SSE:
        if ((cr0 & X86_CR0_EM) != 0 || (cr4 & X86_CR4_OSFXSR) == 0) {
            return cpu_raise(cpu, X86_EXC_UD);
        }
        break;
    default:
        if ((cr4 & X86_CR4_OSXSAVE) == 0 || (cpu->xcr0 & need) != need) {
            return cpu_raise(cpu, X86_EXC_UD);
        }
        break;
    }
    return ts ? cpu_raise(cpu, X86_EXC_NM) : CPU_NEXT;
}
