/* SPDX-License-Identifier: MIT */
/*
 * The runtime itself: if these fail, the other images' results mean nothing.
 */
#include "guest.h"

USER_TEXT static void user_add(uint64_t arg)
{
    asm volatile("lea 1(%0), %%rax" ::"r"(arg) : "rax");
}

USER_TEXT static void user_cli(uint64_t arg)
{
    (void)arg;
    asm volatile("cli");
}

static void kernel_ud(uint64_t arg)
{
    (void)arg;
    asm volatile("ud2");
}

static void kernel_nothing(uint64_t arg)
{
    (void)arg;
}

void test_main(void)
{
    check(true, "console");
    check_eq(TRY("ud2", ::), UD, "try-ud2");
    check_eq(TRY("nop", ::), VEC_NONE, "try-nop");
    check_eq(run_catch(kernel_ud, 0), UD, "catch-ud2");
    check_eq(run_catch(kernel_nothing, 0), VEC_NONE, "catch-nothing");
    check_eq(run_user(user_add, 41), VEC_NONE, "user-returns");
    check_eq(user_result & 0xff, 42, "user-result");
    check_eq(run_user(user_cli, 0), GP, "user-cli");
    check_eq(fault.cs, SEL_UCS | 3, "user-cs");
    check_eq(TRY("mov (%0), %%rax", ::"r"(0x400000000000ull) : "rax"), PF, "page-fault");
    check_eq(fault.cr2, 0x400000000000ull, "page-fault-cr2");
}
