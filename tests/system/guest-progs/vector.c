/* SPDX-License-Identifier: MIT */
/* Vector and x87 state across context switches: processes that each hold known values in every register while others run. */
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

typedef uint64_t vec256 __attribute__((vector_size(32), aligned(32)));

enum { PROCESSES = 6, ROUNDS = 400 };

/* Loads all 16 vector registers, spins and gives up the processor, then compares. Returns wrong bytes. */
__attribute__((noinline)) static unsigned hold_sse(uint64_t seed)
{
    uint8_t in[16][16] __attribute__((aligned(16))), out[16][16] __attribute__((aligned(16)));
    unsigned wrong = 0;

    for (int r = 0; r < 16; r++)
        for (int i = 0; i < 16; i += 8) {
            uint64_t word = next_random(&seed);
            memcpy(&in[r][i], &word, 8);
        }
    __asm__ volatile(
        "movdqa 0x00(%0), %%xmm0; movdqa 0x10(%0), %%xmm1; movdqa 0x20(%0), %%xmm2; movdqa 0x30(%0), %%xmm3\n\t"
        "movdqa 0x40(%0), %%xmm4; movdqa 0x50(%0), %%xmm5; movdqa 0x60(%0), %%xmm6; movdqa 0x70(%0), %%xmm7\n\t"
        "movdqa 0x80(%0), %%xmm8; movdqa 0x90(%0), %%xmm9; movdqa 0xa0(%0), %%xmm10; movdqa 0xb0(%0), %%xmm11\n\t"
        "movdqa 0xc0(%0), %%xmm12; movdqa 0xd0(%0), %%xmm13; movdqa 0xe0(%0), %%xmm14; movdqa 0xf0(%0), %%xmm15\n\t"
        "movl $24, %%eax; syscall\n\t" /* sched_yield */
        "movl $2000, %%ecx; 1: decl %%ecx; jnz 1b\n\t"
        "movl $24, %%eax; syscall\n\t"
        "movdqa %%xmm0, 0x00(%1); movdqa %%xmm1, 0x10(%1); movdqa %%xmm2, 0x20(%1); movdqa %%xmm3, 0x30(%1)\n\t"
        "movdqa %%xmm4, 0x40(%1); movdqa %%xmm5, 0x50(%1); movdqa %%xmm6, 0x60(%1); movdqa %%xmm7, 0x70(%1)\n\t"
        "movdqa %%xmm8, 0x80(%1); movdqa %%xmm9, 0x90(%1); movdqa %%xmm10, 0xa0(%1); movdqa %%xmm11, 0xb0(%1)\n\t"
        "movdqa %%xmm12, 0xc0(%1); movdqa %%xmm13, 0xd0(%1); movdqa %%xmm14, 0xe0(%1); movdqa %%xmm15, 0xf0(%1)\n\t"
        :
        : "r"(in), "r"(out)
        : "rax", "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
          "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    for (int r = 0; r < 16; r++)
        for (int i = 0; i < 16; i++)
            wrong += in[r][i] != out[r][i];
    return wrong;
}

/* The upper halves too. */
__attribute__((noinline, target("avx"))) static unsigned hold_avx(uint64_t seed)
{
    vec256 in[4], out[4];
    unsigned wrong = 0;

    for (int r = 0; r < 4; r++)
        for (int i = 0; i < 4; i++)
            in[r][i] = next_random(&seed);
    __asm__ volatile("vmovdqa 0(%0), %%ymm0; vmovdqa 32(%0), %%ymm5; vmovdqa 64(%0), %%ymm10; vmovdqa 96(%0), %%ymm15\n\t"
                     "movl $24, %%eax; syscall\n\t"
                     "movl $2000, %%ecx; 1: decl %%ecx; jnz 1b\n\t"
                     "movl $24, %%eax; syscall\n\t"
                     "vmovdqa %%ymm0, 0(%1); vmovdqa %%ymm5, 32(%1); vmovdqa %%ymm10, 64(%1); vmovdqa %%ymm15, 96(%1)\n\t"
                     "vzeroupper"
                     :
                     : "r"(in), "r"(out)
                     : "rax", "rcx", "r11", "memory", "xmm0", "xmm5", "xmm10", "xmm15");
    for (int r = 0; r < 4; r++)
        for (int i = 0; i < 4; i++)
            wrong += in[r][i] != out[r][i];
    return wrong;
}

/* x87: eight values on the register stack, and a control word of its own. */
__attribute__((noinline)) static unsigned hold_x87(int id)
{
    uint16_t control = (uint16_t)(0x037f ^ (id & 3) << 10), after = 0, saved;
    double sum = 0;

    __asm__ volatile("fnstcw %2; fldcw %3; fld1; fldpi; fldl2e; fldz; movl $24, %%eax; syscall\n\t"
                     "movl $2000, %%ecx; 1: decl %%ecx; jnz 1b\n\t"
                     "fnstcw %1; fldcw %2; faddp; faddp; faddp; fstpl %0"
                     : "=m"(sum), "=m"(after), "=m"(saved)
                     : "m"(control)
                     : "rax", "rcx", "r11", "memory");
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
