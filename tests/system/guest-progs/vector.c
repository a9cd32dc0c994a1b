/* SPDX-License-Identifier: MIT */
/* Vector and x87 state across context switches: processes that each hold known values in every register while others run. */
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch.h"
#include "check.h"

typedef uint64_t vec256 __attribute__((vector_size(32), aligned(32)));

enum { PROCESSES = 6, ROUNDS = 400 };

#define LOW_REGISTERS(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7)
#if VECTOR_REGISTERS == 16
#define ALL_REGISTERS(op) LOW_REGISTERS(op) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define VECTOR_CLOBBERS                                                                                                  \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
        "xmm14", "xmm15"
#else
#define ALL_REGISTERS(op) LOW_REGISTERS(op)
#define VECTOR_CLOBBERS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7"
#endif
#define LOAD_SSE(n) "movdqa 16*" #n "(%0), %%xmm" #n "\n\t"
#define SAVE_SSE(n) "movdqa %%xmm" #n ", 16*" #n "(%1)\n\t"
#define LOAD_AVX(n) "vmovdqa 32*" #n "(%0), %%ymm" #n "\n\t"
#define SAVE_AVX(n) "vmovdqa %%ymm" #n ", 32*" #n "(%1)\n\t"
/* Others run meanwhile. */
#define SPIN YIELD "movl $2000, %%ecx; 1: decl %%ecx; jnz 1b\n\t" YIELD

/* Loads all vector registers, spins and gives up the processor, then compares. Returns wrong bytes. */
__attribute__((noinline)) static unsigned hold_sse(uint64_t seed)
{
    uint8_t in[VECTOR_REGISTERS][16] __attribute__((aligned(16))), out[VECTOR_REGISTERS][16] __attribute__((aligned(16)));
    unsigned wrong = 0;

    for (int r = 0; r < VECTOR_REGISTERS; r++)
        for (int i = 0; i < 16; i += 8) {
            uint64_t word = next_random(&seed);
            memcpy(&in[r][i], &word, 8);
        }
    __asm__ volatile(ALL_REGISTERS(LOAD_SSE) SPIN ALL_REGISTERS(SAVE_SSE) : : "r"(in), "r"(out) : YIELD_CLOBBERS, VECTOR_CLOBBERS);
    for (int r = 0; r < VECTOR_REGISTERS; r++)
        for (int i = 0; i < 16; i++)
            wrong += in[r][i] != out[r][i];
    return wrong;
}

/* The upper halves too. */
__attribute__((noinline, target("avx"))) static unsigned hold_avx(uint64_t seed)
{
    vec256 in[VECTOR_REGISTERS], out[VECTOR_REGISTERS];
    unsigned wrong = 0;

    for (int r = 0; r < VECTOR_REGISTERS; r++)
        for (int i = 0; i < 4; i++)
            in[r][i] = next_random(&seed);
    __asm__ volatile(ALL_REGISTERS(LOAD_AVX) SPIN ALL_REGISTERS(SAVE_AVX) "vzeroupper"
                     :
                     : "r"(in), "r"(out)
                     : YIELD_CLOBBERS, VECTOR_CLOBBERS);
    for (int r = 0; r < VECTOR_REGISTERS; r++)
        for (int i = 0; i < 4; i++)
            wrong += in[r][i] != out[r][i];
    return wrong;
}

/* x87: eight values on the register stack, and a control word of its own. */
__attribute__((noinline)) static unsigned hold_x87(int id)
{
    uint16_t control = (uint16_t)(0x037f ^ (id & 3) << 10), after = 0, saved;
    double sum = 0;

    __asm__ volatile("fnstcw %2; fldcw %3; fld1; fldpi; fldl2e; fldz\n\t" SPIN "fnstcw %1; fldcw %2; faddp; faddp; faddp; fstpl %0"
                     : "=m"(sum), "=m"(after), "=m"(saved)
                     : "m"(control)
                     : YIELD_CLOBBERS);
    return (after != control) + !(sum > 5.584287694 && sum < 5.584287696);
}

int main(void)
{
    pid_t children[PROCESSES];
    int avx = __builtin_cpu_supports("avx");

    for (int p = 0; p < PROCESSES; p++) {
        children[p] = fork();
        if (children[p] == 0) {
            unsigned wrong = 0;
            for (uint64_t i = 1; i <= ROUNDS; i++) {
                wrong += hold_sse(i * 977 + (uint64_t)p * 131 + 1);
                if (avx)
                    wrong += hold_avx(i * 1009 + (uint64_t)p * 137 + 1);
                wrong += hold_x87(p);
            }
            _exit(wrong != 0);
        }
    }
    for (int p = 0; p < PROCESSES; p++) {
        int status = -1;
        CHECK(waitpid(children[p], &status, 0) == children[p]);
        CHECK(status == 0);
    }
    printf("vector: avx %s\n", avx ? "yes" : "no");
    return check_done("vector");
}
