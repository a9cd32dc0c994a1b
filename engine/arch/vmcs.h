/* SPDX-License-Identifier: MIT */
/*
 * The VMCS: every field of the guest-state, host-state, control and exit-information areas that
 * this processor has, in one struct (SDM 3C chapter 25 and appendix B). The processor's hot code
 * reads it by struct offset; VMREAD/VMWRITE, inspection and migration go by encoding through the
 * table in vmx/vmcs_fields.c. Nothing is kept twice: segments, control registers, descriptor
 * tables and the MSRs below exist only here. RIP, RSP and RFLAGS are the exception that hardware
 * makes too: between VM entry and VM exit the processor holds them in struct cpu.
 */
#ifndef KAGE_ARCH_VMCS_H
#define KAGE_ARCH_VMCS_H

#include "arch/x86.h"

struct vmcs_segment {
    uint64_t base;
    uint32_t limit;
    uint32_t access_rights; /* X86_AR_* */
    uint16_t selector;
    uint16_t pad[3];
};

struct vmcs {
    /* guest-state area */
    struct vmcs_segment guest_seg[X86_SEG_COUNT]; /* ES CS SS DS FS GS LDTR TR */
    uint64_t guest_gdtr_base, guest_idtr_base;
    uint32_t guest_gdtr_limit, guest_idtr_limit;
    uint64_t guest_cr0, guest_cr3, guest_cr4, guest_dr7;
    uint64_t guest_rsp, guest_rip, guest_rflags;
    uint64_t guest_sysenter_esp, guest_sysenter_eip;
    uint32_t guest_sysenter_cs;
    uint32_t guest_interruptibility; /* VMX_INTR_* */
    uint32_t guest_activity_state;   /* VMX_ACTIVITY_* */
    uint32_t guest_smbase;
    uint64_t guest_pending_dbg_exceptions;
    uint64_t guest_ia32_debugctl, guest_ia32_pat, guest_ia32_efer;
    uint64_t guest_pdpte[4];
    uint64_t guest_vmcs_link_pointer;
    uint32_t guest_preemption_timer_value;
    uint16_t guest_interrupt_status, guest_pml_index;

    /* host-state area: where a VM exit of a nested guest leads; filled for completeness */
    uint16_t host_selector[X86_SEG_COUNT];
    uint64_t host_cr0, host_cr3, host_cr4, host_fs_base, host_gs_base, host_tr_base;
    uint64_t host_gdtr_base, host_idtr_base, host_sysenter_esp, host_sysenter_eip;
    uint64_t host_rsp, host_rip, host_ia32_pat, host_ia32_efer;
    uint32_t host_sysenter_cs;

    /* VM-execution, exit and entry controls */
    uint32_t pin_based_ctls, proc_based_ctls, proc_based_ctls2;
    uint32_t exception_bitmap, pf_error_code_mask, pf_error_code_match;
    uint32_t cr3_target_count, tpr_threshold, ple_gap, ple_window;
    uint32_t exit_ctls, exit_msr_store_count, exit_msr_load_count;
    uint32_t entry_ctls, entry_msr_load_count;
    uint32_t entry_intr_info, entry_exception_error_code, entry_instruction_len;
    uint64_t io_bitmap_a, io_bitmap_b; /* host pointers to 4 KiB each (this processor's "physical" memory is the host's) */
    uint64_t msr_bitmap;               /* host pointer to 4 KiB, laid out as SDM 3C 25.6.9 */
    uint64_t exit_msr_store_addr, exit_msr_load_addr, entry_msr_load_addr;
    uint64_t executive_vmcs_pointer, pml_address, tsc_offset, tsc_multiplier;
    uint64_t virtual_apic_page_addr, apic_access_addr, posted_intr_desc_addr;
    uint64_t ept_pointer; /* host pointer to the EPT PML4 | memory type | walk length, as SDM 3C 25.6.11 */
    uint64_t eoi_exit_bitmap[4];
    uint64_t vmread_bitmap, vmwrite_bitmap, xss_exit_bitmap;
    uint64_t cr0_mask, cr4_mask, cr0_read_shadow, cr4_read_shadow, cr3_target[4];
    uint16_t vpid, posted_intr_vector, eptp_index;

    /* VM-exit information */
    uint32_t exit_reason, exit_intr_info, exit_intr_error_code;
    uint32_t idt_vectoring_info, idt_vectoring_error_code;
    uint32_t exit_instruction_len, exit_instruction_info, vm_instruction_error;
    uint64_t exit_qualification, guest_linear_address, guest_physical_address;
    uint64_t io_rcx, io_rsi, io_rdi, io_rip;
};

/* Pin-based controls (SDM 3C 25.6.1) */
#define VMX_PIN_EXT_INTR_EXITING (1u << 0)
#define VMX_PIN_NMI_EXITING (1u << 3)
#define VMX_PIN_VIRTUAL_NMIS (1u << 5)
#define VMX_PIN_PREEMPTION_TIMER (1u << 6)

/* Primary processor-based controls (SDM 3C 25.6.2) */
#define VMX_PROC_INTR_WINDOW_EXITING (1u << 2)
#define VMX_PROC_USE_TSC_OFFSETTING (1u << 3)
#define VMX_PROC_HLT_EXITING (1u << 7)
#define VMX_PROC_INVLPG_EXITING (1u << 9)
#define VMX_PROC_MWAIT_EXITING (1u << 10)
#define VMX_PROC_RDPMC_EXITING (1u << 11)
#define VMX_PROC_RDTSC_EXITING (1u << 12)
#define VMX_PROC_CR3_LOAD_EXITING (1u << 15)
#define VMX_PROC_CR3_STORE_EXITING (1u << 16)
#define VMX_PROC_CR8_LOAD_EXITING (1u << 19)
#define VMX_PROC_CR8_STORE_EXITING (1u << 20)
#define VMX_PROC_USE_TPR_SHADOW (1u << 21)
#define VMX_PROC_NMI_WINDOW_EXITING (1u << 22)
#define VMX_PROC_MOV_DR_EXITING (1u << 23)
#define VMX_PROC_UNCOND_IO_EXITING (1u << 24)
#define VMX_PROC_USE_IO_BITMAPS (1u << 25)
#define VMX_PROC_MONITOR_TRAP (1u << 27)
#define VMX_PROC_USE_MSR_BITMAPS (1u << 28)
#define VMX_PROC_MONITOR_EXITING (1u << 29)
#define VMX_PROC_PAUSE_EXITING (1u << 30)
#define VMX_PROC_SECONDARY (1u << 31)

/* Secondary processor-based controls (SDM 3C 25.6.2) */
#define VMX_PROC2_VIRT_APIC_ACCESSES (1u << 0)
#define VMX_PROC2_EPT (1u << 1)
#define VMX_PROC2_DESC_TABLE_EXITING (1u << 2)
#define VMX_PROC2_RDTSCP (1u << 3)
#define VMX_PROC2_VPID (1u << 5)
#define VMX_PROC2_WBINVD_EXITING (1u << 6)
#define VMX_PROC2_UNRESTRICTED_GUEST (1u << 7)
#define VMX_PROC2_PAUSE_LOOP_EXITING (1u << 10)
#define VMX_PROC2_RDRAND_EXITING (1u << 11)
#define VMX_PROC2_INVPCID (1u << 12)
#define VMX_PROC2_RDSEED_EXITING (1u << 16)
#define VMX_PROC2_XSAVES (1u << 20)

/* Exit and entry controls in use */
#define VMX_EXIT_HOST_ADDR_SPACE_SIZE (1u << 9)
#define VMX_ENTRY_IA32E_MODE (1u << 9)
#define VMX_ENTRY_LOAD_PAT (1u << 14)
#define VMX_ENTRY_LOAD_EFER (1u << 15)

/* Guest interruptibility (SDM 3C 25.4.2) */
#define VMX_INTR_STI (1u << 0)
#define VMX_INTR_MOV_SS (1u << 1)
#define VMX_INTR_SMI (1u << 2)
#define VMX_INTR_NMI (1u << 3)

#define VMX_ACTIVITY_ACTIVE 0u
#define VMX_ACTIVITY_HLT 1u
#define VMX_ACTIVITY_SHUTDOWN 2u
#define VMX_ACTIVITY_WAIT_SIPI 3u

/*
 * Interruption information, the same shape in entry, exit and IDT-vectoring fields (SDM 3C 25.8.3):
 *   31 valid | 30..12 reserved (12: NMI unblocking) | 11 error code valid | 10..8 type | 7..0 vector
 */
#define VMX_INFO_VALID (1u << 31)
#define VMX_INFO_NMI_UNBLOCK (1u << 12)
#define VMX_INFO_ERROR_CODE (1u << 11)
#define VMX_INFO_TYPE_SHIFT 8
#define VMX_INFO_TYPE (7u << 8)
#define VMX_INFO_VECTOR 0xffu
enum {
    VMX_EVENT_EXT_INTR = 0,
    VMX_EVENT_NMI = 2,
    VMX_EVENT_HW_EXCEPTION = 3,
    VMX_EVENT_SW_INTR = 4,           /* INT n */
    VMX_EVENT_PRIV_SW_EXCEPTION = 5, /* INT1 */
    VMX_EVENT_SW_EXCEPTION = 6,      /* INT3, INTO */
};

/* Basic exit reasons (SDM 3C appendix C) */
enum {
    VMX_EXIT_EXCEPTION_NMI = 0,
    VMX_EXIT_EXT_INTR = 1,
    VMX_EXIT_TRIPLE_FAULT = 2,
    VMX_EXIT_INIT = 3,
    VMX_EXIT_SIPI = 4,
    VMX_EXIT_INTR_WINDOW = 7,
    VMX_EXIT_NMI_WINDOW = 8,
    VMX_EXIT_TASK_SWITCH = 9,
    VMX_EXIT_CPUID = 10,
    VMX_EXIT_HLT = 12,
    VMX_EXIT_INVD = 13,
    VMX_EXIT_INVLPG = 14,
    VMX_EXIT_RDPMC = 15,
    VMX_EXIT_RDTSC = 16,
    VMX_EXIT_VMCALL = 18,
    VMX_EXIT_VMXOFF = 26,
    VMX_EXIT_VMXON = 27,
    VMX_EXIT_CR_ACCESS = 28,
    VMX_EXIT_MOV_DR = 29,
    VMX_EXIT_IO = 30,
    VMX_EXIT_RDMSR = 31,
    VMX_EXIT_WRMSR = 32,
    VMX_EXIT_ENTRY_GUEST_STATE = 33,
    VMX_EXIT_MWAIT = 36,
    VMX_EXIT_MONITOR_TRAP = 37,
    VMX_EXIT_MONITOR = 39,
    VMX_EXIT_PAUSE = 40,
    VMX_EXIT_GDTR_IDTR = 46,
    VMX_EXIT_LDTR_TR = 47,
    VMX_EXIT_EPT_VIOLATION = 48,
    VMX_EXIT_EPT_MISCONFIG = 49,
    VMX_EXIT_RDTSCP = 51,
    VMX_EXIT_PREEMPTION_TIMER = 52,
    VMX_EXIT_WBINVD = 54,
    VMX_EXIT_XSETBV = 55,
    VMX_EXIT_RDRAND = 57,
    VMX_EXIT_INVPCID = 58,
    VMX_EXIT_RDSEED = 61,
    VMX_EXIT_XSAVES = 63,
    VMX_EXIT_XRSTORS = 64,
    /* Beyond Intel's list: the engine met code of a mode that it does not carry yet. */
    VMX_EXIT_KAGE_UNSUPPORTED = 200,
    VMX_EXIT_COUNT = 201,
};
#define VMX_EXIT_REASON_ENTRY_FAILURE (1u << 31)

/* EPT-violation qualification (SDM 3C table 28-7) */
#define VMX_EPT_QUAL_READ (1u << 0)
#define VMX_EPT_QUAL_WRITE (1u << 1)
#define VMX_EPT_QUAL_FETCH (1u << 2)
#define VMX_EPT_QUAL_ALLOWS_R (1u << 3)
#define VMX_EPT_QUAL_ALLOWS_W (1u << 4)
#define VMX_EPT_QUAL_ALLOWS_X (1u << 5)
#define VMX_EPT_QUAL_GLA_VALID (1u << 7)
#define VMX_EPT_QUAL_GLA_FINAL (1u << 8)
/* Of the linear address, with both bits above: user mode, read/write, execute-disable. 1, 1, 0 without paging. */
#define VMX_EPT_QUAL_GLA_USER (1u << 9)
#define VMX_EPT_QUAL_GLA_WRITE (1u << 10)
#define VMX_EPT_QUAL_GLA_NX (1u << 11)

#endif
