/* SPDX-License-Identifier: MIT */
/*
 * Breakpoints of the debug registers (SDM 3B 18.2): the guest's own, or those of a debugger outside
 * (KVM_SET_GUEST_DEBUG) in their place. While any is armed (CPU_MODE_BREAK) the run loop runs one
 * instruction at a time and every access comes through the slow path, so that both are asked here.
 */
#include "cpu/run.h"
#include "cpu/sys.h"

enum { DR7_EXECUTE = 0, DR7_WRITE = 1, DR7_IO = 2, DR7_READ_WRITE = 3 };

/*  DR7:  31:30 LEN3  29:28 R/W3  …  19:18 LEN0  17:16 R/W0  …  7:0 G3 L3 … G0 L0 */
struct breakpoint {
    gva_t address;
    unsigned kind, len;
};

/* False: breakpoint i is off. */
static bool breakpoint_get(const struct cpu *cpu, unsigned i, struct breakpoint *b)
{
    static const uint8_t lens[4] = {1, 2, 8, 4};
    bool outside = cpu->guest_debug_break;
    uint64_t dr7 = outside ? cpu->guest_debug_dr7 : cpu->vmcs.guest_dr7;

    b->kind = (unsigned)(dr7 >> (16 + 4 * i)) & 3;
    b->len = lens[dr7 >> (18 + 4 * i) & 3];
    b->address = (outside ? cpu->guest_debug_dr[i] : cpu->dr[i]) & ~(gva_t)(b->len - 1);
    return (dr7 >> (2 * i) & 3) != 0;
}

bool cpu_stopped_by_breakpoint(struct cpu *cpu)
{
    struct breakpoint b;
    uint64_t hit = 0;

    /* An instruction behind MOV SS is not stopped at (SDM 3A 6.8.3). */
    if ((cpu->mode & CPU_MODE_BREAK) == 0 || (cpu->rflags & X86_FLAGS_RF) != 0 || cpu->intr_shadow == VMX_INTR_MOV_SS) {
        return false;
    }
    for (unsigned i = 0; i < 4; i++) {
        if (breakpoint_get(cpu, i, &b) && b.kind == DR7_EXECUTE && b.address == cpu_code_va(cpu)) {
            hit |= 1ull << i;
        }
    }
    if (hit != 0) {
        cpu_raise_debug(cpu, hit);
    }
    return hit != 0;
}

void cpu_note_data_access(struct cpu *cpu, gva_t va, unsigned len, bool write)
{
    struct breakpoint b;

    for (unsigned i = 0; i < 4; i++) {
        if (breakpoint_get(cpu, i, &b) && (b.kind == DR7_READ_WRITE || (b.kind == DR7_WRITE && write)) &&
            va < b.address + b.len && b.address < va + len) {
            cpu->data_breaks |= (uint8_t)(1u << i);
        }
    }
}

void cpu_note_io_access(struct cpu *cpu, uint16_t port, unsigned len)
{
    struct breakpoint b;

    if ((cpu->vmcs.guest_cr4 & X86_CR4_DE) == 0) {
        return; /* R/W = 10b means nothing then */
    }
    for (unsigned i = 0; i < 4; i++) {
        if (breakpoint_get(cpu, i, &b) && b.kind == DR7_IO && port < b.address + b.len && b.address < (gva_t)port + len) {
            cpu->data_breaks |= (uint8_t)(1u << i);
        }
    }
}
