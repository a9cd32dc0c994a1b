/* SPDX-License-Identifier: MIT */
/*
 * The life of a processor and of what the processors of a VM share.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "cpu/host_pages.h"
#include "cpu/run.h"
#include "cpu/sys.h"
#include "cpu/translate.h"
#include "mmu/mmu.h"

#define AT_HWCAP2_FSGSBASE (1u << 1)

/* What the translator itself needs of the host: BMI2 (PEXT, SARX), XSAVE, and user-mode WRGSBASE. */
static bool host_is_good(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & bit_BMI2) == 0) {
        return false;
    }
    return (getauxval(AT_HWCAP2) & AT_HWCAP2_FSGSBASE) != 0;
}

int cpu_vm_new(struct ept *ept, struct cpu_vm **out)
{
    if (!host_is_good()) {
        return -ENOTSUP;
    }
    struct cpu_vm *vm = calloc(1, sizeof(*vm));
    if (vm == NULL) {
        return -ENOMEM;
    }
    vm->ept = ept;
    vm->fd = -1;
    int err = cpu_signal_init();
    if (err == 0) {
        err = code_cache_init(vm);
    }
    if (err != 0) {
        free(vm);
        return err;
    }
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->sync_lock, NULL);
    pthread_cond_init(&vm->sync_cond, NULL);
    classify_init();
    *out = vm;
    return 0;
}

void cpu_vm_free(struct cpu_vm *vm)
{
    if (vm == NULL) {
        return;
    }
    host_pages_forget(vm);
    code_cache_fini(vm);
    pthread_cond_destroy(&vm->sync_cond);
    pthread_mutex_destroy(&vm->sync_lock);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

void cpu_vm_set_test_flags(struct cpu_vm *vm, unsigned flags)
{
    vm->test_flags = flags;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        mmu_set_test_tiny_tlb(vm->cpus[i], (flags & CODE_TEST_TINY_TLB) != 0);
    }
}

struct ept *cpu_vm_ept(const struct cpu_vm *vm)
{
    return vm->ept;
}

static size_t cpu_map_bytes(void)
{
    return (sizeof(struct cpu) + 4095) & ~(size_t)4095;
}

int cpu_new(struct cpu_vm *vm, unsigned index, const struct cpu_ops *ops, void *owner, struct cpu **out)
{
    struct cpu *cpu =
        mmap(NULL, cpu_map_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (cpu == MAP_FAILED) {
        return -ENOMEM;
    }
    cpu->self = cpu;
    cpu->vm = vm;
    cpu->index = index;
    cpu->ops = ops;
    cpu->owner = owner;
    cpu->stats = cpu->own_stats;
    for (unsigned i = 0; i < THUNK_COUNT; i++) {
        cpu->thunks[i] = cpu_thunk_table[i];
    }
    cpu->pext_tlb = (uint64_t)(TLB_SIZE - 1) << KAGE_PAGE_SHIFT;
    cpu->pext_page = KAGE_PAGE_MASK;
    cpu->pext_bits[0] = 15;
    cpu->pext_bits[1] = 31;
    cpu->pext_bits[2] = 63;
    cpu->pext_sign = 1ull << 63;

    int err = -ENOMEM;
    struct trans *t = calloc(1, sizeof(*t));
    if (t == NULL) {
        goto out_unmap;
    }
    cpu->trans = t;
    ZydisDecoderInit(&t->decoders[DECODE_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisDecoderInit(&t->decoders[DECODE_32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&t->decoders[DECODE_16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    err = cpu_fpu_init(cpu);
    if (err != 0) {
        goto out_trans;
    }
    err = cpu_sys_init(cpu);
    if (err != 0) {
        goto out_fpu;
    }
    err = mmu_init(cpu);
    if (err != 0) {
        goto out_sys;
    }
    pthread_mutex_lock(&vm->sync_lock);
    if (vm->cpu_count == KAGE_ARRAY_SIZE(vm->cpus)) {
        err = -ENOSPC;
    } else {
        vm->cpus[vm->cpu_count++] = cpu;
    }
    pthread_mutex_unlock(&vm->sync_lock);
    if (err != 0) {
        mmu_fini(cpu);
        goto out_sys;
    }
    cpu->vmcs.proc_based_ctls = VMX_PROC_SECONDARY;
    cpu->vmcs.proc_based_ctls2 = VMX_PROC2_EPT; /* until the hypervisor says what it wants */
    cpu_reset(cpu, false);
    mmu_set_test_tiny_tlb(cpu, (vm->test_flags & CODE_TEST_TINY_TLB) != 0);
    *out = cpu;
    return 0;

out_sys:
    cpu_sys_fini(cpu);
out_fpu:
    cpu_fpu_fini(cpu);
out_trans:
    free(t);
out_unmap:
    munmap(cpu, cpu_map_bytes());
    return err;
}

void cpu_free(struct cpu *cpu)
{
    if (cpu == NULL) {
        return;
    }
    struct cpu_vm *vm = cpu->vm;
    pthread_mutex_lock(&vm->sync_lock);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        if (vm->cpus[i] == cpu) {
            vm->cpus[i] = vm->cpus[--vm->cpu_count];
            break;
        }
    }
    pthread_mutex_unlock(&vm->sync_lock);
    mmu_fini(cpu);
    cpu_sys_fini(cpu);
    cpu_fpu_fini(cpu);
    free(cpu->trans);
    munmap(cpu, cpu_map_bytes());
}

static struct vmcs_segment reset_segment(uint16_t selector, uint64_t base, uint32_t access_rights)
{
    return (struct vmcs_segment){
        .base = base, .limit = 0xffff, .access_rights = access_rights, .selector = selector};
}

void cpu_reset(struct cpu *cpu, bool init)
{
    struct vmcs *v = &cpu->vmcs;
    uint64_t cr0_kept = cpu_guest_cr0(cpu) & (X86_CR0_CD | X86_CR0_NW);

    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->gpr[X86_RDX] = 0x600; /* family 6; the VMM may set the model's own */
    cpu->rip = 0xfff0;
    cpu_set_rflags(cpu, X86_FLAGS_FIXED);
    for (unsigned s = 0; s < X86_SEG_COUNT; s++) {
        v->guest_seg[s] = reset_segment(0, 0, X86_AR_P | X86_AR_S | 3);
    }
    v->guest_seg[X86_CS] = reset_segment(0xf000, 0xffff0000, X86_AR_P | X86_AR_S | 0xb);
    v->guest_seg[X86_LDTR] = reset_segment(0, 0, X86_AR_P | 2);
    v->guest_seg[X86_TR] = reset_segment(0, 0, X86_AR_P | 0xb);
    v->guest_gdtr_base = v->guest_idtr_base = 0;
    v->guest_gdtr_limit = v->guest_idtr_limit = 0xffff;
    v->guest_dr7 = 0x400;
    v->guest_interruptibility = v->guest_activity_state = 0;
    v->guest_ia32_debugctl = 0;
    cpu->cr2 = 0;
    memset(cpu->dr, 0, sizeof(cpu->dr));
    cpu->dr6 = 0xffff0ff0;
    cpu->event.valid = false;
    cpu->mmio[0].state = cpu->mmio[1].state = CPU_MMIO_NONE;
    cpu->nmi_blocked = false;
    cpu->intr_shadow = 0;
    if (!init) {
        cpu->xcr0 = X86_XCR0_X87;
        cpu->cr8 = 0;
        cpu->msr_star = cpu->msr_lstar = cpu->msr_cstar = cpu->msr_syscall_mask = 0;
        cpu->msr_kernel_gs_base = cpu->msr_xss = 0;
        cpu->msr_tsc_aux = 0;
        v->guest_sysenter_cs = 0;
        v->guest_sysenter_esp = v->guest_sysenter_eip = 0;
        v->guest_ia32_pat = 0x0007040600070406ull;
        cpu_fpu_reset(cpu);
    }
    v->guest_rip = cpu->rip;
    v->guest_rsp = 0;
    v->guest_rflags = X86_FLAGS_FIXED;
    cpu_set_paging(cpu, X86_CR0_ET | (init ? cr0_kept : X86_CR0_CD | X86_CR0_NW), 0, 0, 0);
    mmu_flush_all(cpu);
}
