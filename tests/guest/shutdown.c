/* SPDX-License-Identifier: MIT */
/*
 * Triple faults: each argument ends the VM in another way, and the runner expects KVM_EXIT_SHUTDOWN.
 */
#include "guest.h"

void test_main(void)
{
    const struct table_ptr none = {0, 0};
    if (guest_arg == 0) { /* no IDT at all */
        asm volatile("lidt %0; ud2" ::"m"(none));
    } else if (guest_arg == 1) { /* #PF, then #DF, on a stack that is not there */
        idt_set_ist(DF, 0);
        asm volatile("mov %0, %%rsp; push %%rax" ::"r"(TEST_VA) : "memory");
    } else if (guest_arg == 2) { /* #DF's own gate is absent */
        idt_set_present(PF, false);
        idt_set_present(DF, false);
        asm volatile("mov (%0), %%rax" ::"r"(TEST_VA) : "rax");
    } else { /* page tables vanish */
        write_cr3((uint64_t)table_alloc());
        asm volatile("nop");
    }
}
