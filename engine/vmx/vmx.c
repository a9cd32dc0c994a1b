/* SPDX-License-Identifier: MIT */
/*
 * VM entry and VM exit. Entry checks the controls as far as this processor depends on them (SDM 3C
 * 27.2) and the guest state (guest_state.c), hands RIP, RSP and RFLAGS to the processor, and injects
 * the event of the VM-entry interruption-information field; exit takes them back.
 */
#include "vmx/vmx.h"

#include "cpu/run.h"
#include "cpu/sys.h"
#include "mmu/mmu.h"

/* VM-instruction errors (SDM 3C 31.4) */
#define VMX_ERROR_ENTRY_CONTROLS 7u

/* Bits that must be 1, and bits that may be 1, of each control field: what this processor has. */
struct control_rule {
    uint16_t offset;
    uint32_t must, may;
};

static const struct control_rule control_rules[] = {
    {offsetof(struct vmcs, pin_based_ctls), VMX_PIN_EXT_INTR_EXITING | VMX_PIN_NMI_EXITING,
     VMX_PIN_EXT_INTR_EXITING | VMX_PIN_NMI_EXITING | VMX_PIN_VIRTUAL_NMIS},
    {offsetof(struct vmcs, proc_based_ctls), VMX_PROC_SECONDARY,
     VMX_PROC_INTR_WINDOW_EXITING | VMX_PROC_USE_TSC_OFFSETTING | VMX_PROC_HLT_EXITING | VMX_PROC_INVLPG_EXITING |
         VMX_PROC_MWAIT_EXITING | VMX_PROC_RDPMC_EXITING | VMX_PROC_RDTSC_EXITING | VMX_PROC_CR3_LOAD_EXITING |
         VMX_PROC_CR3_STORE_EXITING | VMX_PROC_CR8_LOAD_EXITING | VMX_PROC_CR8_STORE_EXITING |
         VMX_PROC_NMI_WINDOW_EXITING | VMX_PROC_MOV_DR_EXITING | VMX_PROC_UNCOND_IO_EXITING |
         VMX_PROC_USE_IO_BITMAPS | VMX_PROC_USE_MSR_BITMAPS | VMX_PROC_MONITOR_EXITING | VMX_PROC_PAUSE_EXITING |
         VMX_PROC_SECONDARY},
    {offsetof(struct vmcs, proc_based_ctls2), 0,
     VMX_PROC2_EPT | VMX_PROC2_DESC_TABLE_EXITING | VMX_PROC2_RDTSCP | VMX_PROC2_VPID | VMX_PROC2_WBINVD_EXITING |
         VMX_PROC2_UNRESTRICTED_GUEST | VMX_PROC2_RDRAND_EXITING | VMX_PROC2_INVPCID | VMX_PROC2_RDSEED_EXITING |
         VMX_PROC2_PAUSE_LOOP_EXITING},
    {offsetof(struct vmcs, exit_ctls), VMX_EXIT_HOST_ADDR_SPACE_SIZE, VMX_EXIT_HOST_ADDR_SPACE_SIZE},
    {offsetof(struct vmcs, entry_ctls), 0, VMX_ENTRY_IA32E_MODE | VMX_ENTRY_LOAD_PAT | VMX_ENTRY_LOAD_EFER},
};

void vmx_init_controls(struct cpu *cpu)
{
    struct vmcs *v = &cpu->vmcs;

    v->pin_based_ctls = VMX_PIN_EXT_INTR_EXITING | VMX_PIN_NMI_EXITING | VMX_PIN_VIRTUAL_NMIS;
    v->proc_based_ctls = VMX_PROC_USE_TSC_OFFSETTING | VMX_PROC_HLT_EXITING | VMX_PROC_RDPMC_EXITING |
                         VMX_PROC_CR8_LOAD_EXITING | VMX_PROC_CR8_STORE_EXITING | VMX_PROC_UNCOND_IO_EXITING |
                         VMX_PROC_USE_MSR_BITMAPS | VMX_PROC_SECONDARY;
    v->proc_based_ctls2 = VMX_PROC2_EPT | VMX_PROC2_RDTSCP | VMX_PROC2_VPID | VMX_PROC2_WBINVD_EXITING |
                          VMX_PROC2_UNRESTRICTED_GUEST | VMX_PROC2_INVPCID;
    v->exit_ctls = VMX_EXIT_HOST_ADDR_SPACE_SIZE;
    v->entry_ctls = VMX_ENTRY_LOAD_PAT | VMX_ENTRY_LOAD_EFER;
    v->guest_vmcs_link_pointer = ~0ull;
    v->vpid = (uint16_t)(cpu->index + 1);
    v->cr0_mask = v->cr4_mask = 0;
}

/*
 * With EPT off, guest "physical" memory is all of the client's address space: no root but the hypervisor's, and no write that
 * passes over its rights, may be in the guest's hands. (A processor of Intel's takes any of this, and no unrestricted guest.)
 */
static bool noept_is_good(const struct vmcs *v)
{
    return (v->proc_based_ctls & VMX_PROC_CR3_LOAD_EXITING) != 0 &&
           (v->cr0_mask & CPU_NOEPT_CR0_MASK) == CPU_NOEPT_CR0_MASK && (v->cr4_mask & CPU_NOEPT_CR4_MASK) == CPU_NOEPT_CR4_MASK;
}

void vmx_disable_ept(struct cpu *cpu)
{
    struct vmcs *v = &cpu->vmcs;

    if (cpu_uses_ept(cpu)) {
        v->guest_cr3 = 0; /* no root yet */
    }
    v->proc_based_ctls2 &= ~VMX_PROC2_EPT;
    v->proc_based_ctls |= VMX_PROC_CR3_LOAD_EXITING | VMX_PROC_CR3_STORE_EXITING | VMX_PROC_INVLPG_EXITING;
    v->exception_bitmap |= 1u << X86_EXC_PF;
    v->pf_error_code_mask = v->pf_error_code_match = 0;
    v->cr0_mask |= CPU_NOEPT_CR0_MASK;
    v->cr4_mask |= CPU_NOEPT_CR4_MASK;
}

static bool controls_are_good(const struct vmcs *v)
{
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(control_rules); i++) {
        uint32_t value;
        memcpy(&value, (const uint8_t *)v + control_rules[i].offset, sizeof(value));
        if ((value & control_rules[i].must) != control_rules[i].must || (value & ~control_rules[i].may) != 0) {
            return false;
        }
    }
    if ((v->proc_based_ctls & VMX_PROC_USE_MSR_BITMAPS) != 0 && v->msr_bitmap == 0) {
        return false;
    }
    if ((v->proc_based_ctls & VMX_PROC_USE_IO_BITMAPS) != 0 && (v->io_bitmap_a == 0 || v->io_bitmap_b == 0)) {
        return false;
    }
    if ((v->proc_based_ctls2 & VMX_PROC2_EPT) == 0 && !noept_is_good(v)) {
        return false;
    }
    uint32_t info = v->entry_intr_info;
    if ((info & VMX_INFO_VALID) != 0) {
        unsigned type = (info & VMX_INFO_TYPE) >> VMX_INFO_TYPE_SHIFT, vector = info & VMX_INFO_VECTOR;
        if (type == 1 || type == 7 || (info & 0x7ffff000u) != 0 ||
            (type == VMX_EVENT_NMI && vector != X86_EXC_NMI) || (type == VMX_EVENT_HW_EXCEPTION && vector > 31)) {
            return false;
        }
    }
    return true;
}

/* The event of the interruption-information field becomes the processor's to deliver. */
static void inject(struct cpu *cpu)
{
    struct vmcs *v = &cpu->vmcs;
    uint32_t info = v->entry_intr_info;
    unsigned type = (info & VMX_INFO_TYPE) >> VMX_INFO_TYPE_SHIFT;
    bool software = type == VMX_EVENT_SW_INTR || type == VMX_EVENT_PRIV_SW_EXCEPTION || type == VMX_EVENT_SW_EXCEPTION;

    if ((info & VMX_INFO_VALID) == 0) {
        return;
    }
    v->entry_intr_info &= ~VMX_INFO_VALID;
    cpu->event = (struct cpu_event){
        .valid = true,
        .has_error = (info & VMX_INFO_ERROR_CODE) != 0,
        .vector = (uint8_t)(info & VMX_INFO_VECTOR),
        .type = (uint8_t)type,
        .insn_len = software ? (uint8_t)v->entry_instruction_len : 0,
        .error = v->entry_exception_error_code,
        .payload = cpu->cr2,
    };
    if (cpu->event.type == VMX_EVENT_HW_EXCEPTION && cpu->event.vector == X86_EXC_DB) {
        cpu->event.payload = 0; /* DR6 is the injector's business */
    }
    if (type == VMX_EVENT_EXT_INTR) {
        cpu->stats[CPU_STAT_INTERRUPTS]++;
    }
    if (!cpu_uses_ept(cpu) && type == VMX_EVENT_HW_EXCEPTION && cpu->event.vector == X86_EXC_PF) {
        cpu_mmio_consume(cpu); /* the instruction that asked for the bytes is refused: it will ask again */
    }
}

static void load_guest(struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;

    cpu->rip = v->guest_rip;
    cpu->gpr[X86_RSP] = v->guest_rsp;
    cpu_set_rflags(cpu, v->guest_rflags);
    cpu->intr_shadow = (uint8_t)(v->guest_interruptibility & (VMX_INTR_STI | VMX_INTR_MOV_SS));
    cpu->nmi_blocked = (v->guest_interruptibility & VMX_INTR_NMI) != 0;
    cpu->tsc_offset = (v->proc_based_ctls & VMX_PROC_USE_TSC_OFFSETTING) != 0 ? v->tsc_offset : 0;
    cpu_update_mode(cpu);
}

static void save_guest(struct cpu *cpu)
{
    struct vmcs *v = &cpu->vmcs;

    v->guest_rip = cpu->rip;
    v->guest_rsp = cpu->gpr[X86_RSP];
    v->guest_rflags = cpu_rflags(cpu);
    v->guest_interruptibility = cpu->intr_shadow | (cpu->nmi_blocked ? VMX_INTR_NMI : 0);
    v->guest_activity_state = VMX_ACTIVITY_ACTIVE;
}

uint32_t vmx_enter(struct cpu *cpu)
{
    struct vmcs *v = &cpu->vmcs;

    if (!controls_are_good(v)) {
        v->vm_instruction_error = VMX_ERROR_ENTRY_CONTROLS;
        return VMX_INVALID_CONTROLS;
    }
    v->entry_ctls = (v->entry_ctls & ~VMX_ENTRY_IA32E_MODE) |
                    ((v->guest_ia32_efer & X86_EFER_LMA) != 0 ? VMX_ENTRY_IA32E_MODE : 0);
    if (!vmx_guest_state_is_good(cpu)) {
        v->exit_reason = VMX_EXIT_ENTRY_GUEST_STATE | VMX_EXIT_REASON_ENTRY_FAILURE;
        v->exit_qualification = 0;
        return v->exit_reason;
    }
    v->idt_vectoring_info = 0;
    v->exit_intr_info = 0;
    /* Before the event is delivered: cpu_run() looks at requests only after it. */
    cpu_flush_if_asked(cpu);
    load_guest(cpu);
    inject(cpu);
    cpu_run(cpu);
    save_guest(cpu);
    return v->exit_reason;
}

static const char *const exit_names[VMX_EXIT_COUNT] = {
    [VMX_EXIT_EXCEPTION_NMI] = "EXCEPTION_NMI",
    [VMX_EXIT_EXT_INTR] = "EXTERNAL_INTERRUPT",
    [VMX_EXIT_TRIPLE_FAULT] = "TRIPLE_FAULT",
    [VMX_EXIT_INIT] = "INIT_SIGNAL",
    [VMX_EXIT_SIPI] = "SIPI_SIGNAL",
    [VMX_EXIT_INTR_WINDOW] = "INTERRUPT_WINDOW",
    [VMX_EXIT_NMI_WINDOW] = "NMI_WINDOW",
    [VMX_EXIT_TASK_SWITCH] = "TASK_SWITCH",
    [VMX_EXIT_CPUID] = "CPUID",
    [VMX_EXIT_HLT] = "HLT",
    [VMX_EXIT_INVD] = "INVD",
    [VMX_EXIT_INVLPG] = "INVLPG",
    [VMX_EXIT_RDPMC] = "RDPMC",
    [VMX_EXIT_RDTSC] = "RDTSC",
    [VMX_EXIT_VMCALL] = "VMCALL",
    [VMX_EXIT_VMXOFF] = "VMXOFF",
    [VMX_EXIT_VMXON] = "VMXON",
    [VMX_EXIT_CR_ACCESS] = "CR_ACCESS",
    [VMX_EXIT_MOV_DR] = "DR_ACCESS",
    [VMX_EXIT_IO] = "IO_INSTRUCTION",
    [VMX_EXIT_RDMSR] = "MSR_READ",
    [VMX_EXIT_WRMSR] = "MSR_WRITE",
    [VMX_EXIT_ENTRY_GUEST_STATE] = "INVALID_STATE",
    [VMX_EXIT_MWAIT] = "MWAIT_INSTRUCTION",
    [VMX_EXIT_MONITOR_TRAP] = "MONITOR_TRAP_FLAG",
    [VMX_EXIT_MONITOR] = "MONITOR_INSTRUCTION",
    [VMX_EXIT_PAUSE] = "PAUSE_INSTRUCTION",
    [VMX_EXIT_GDTR_IDTR] = "GDTR_IDTR",
    [VMX_EXIT_LDTR_TR] = "LDTR_TR",
    [VMX_EXIT_EPT_VIOLATION] = "EPT_VIOLATION",
    [VMX_EXIT_EPT_MISCONFIG] = "EPT_MISCONFIG",
    [VMX_EXIT_RDTSCP] = "RDTSCP",
    [VMX_EXIT_PREEMPTION_TIMER] = "PREEMPTION_TIMER",
    [VMX_EXIT_WBINVD] = "WBINVD",
    [VMX_EXIT_XSETBV] = "XSETBV",
    [VMX_EXIT_RDRAND] = "RDRAND",
    [VMX_EXIT_INVPCID] = "INVPCID",
    [VMX_EXIT_RDSEED] = "RDSEED",
    [VMX_EXIT_XSAVES] = "XSAVES",
    [VMX_EXIT_XRSTORS] = "XRSTORS",
    [VMX_EXIT_KAGE_UNSUPPORTED] = "KAGE_UNSUPPORTED",
};
_Static_assert(KAGE_ARRAY_SIZE(exit_names) == VMX_EXIT_COUNT, "a name for every exit reason");

const char *vmx_exit_reason_name(uint32_t basic_reason)
{
    uint32_t reason = basic_reason & 0xffff;
    return reason < VMX_EXIT_COUNT && exit_names[reason] != NULL ? exit_names[reason] : "RESERVED";
}
