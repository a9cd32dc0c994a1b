/* SPDX-License-Identifier: MIT */
/*
 * x87, SSE and extended state: KVM_GET/SET_FPU, XSAVE, XSAVE2, XCRS. Between VM exits it lies in
 * cpu->xsave, in the standard format of the XSAVE area (SDM 1 13.4), which is the API's too.
 */
#include <errno.h>
#include <string.h>

#include "kvm/vcpu.h"

/*
 * Legacy region (SDM 1 table 10-2), and the header behind it:
 *   0 FCW | 2 FSW | 4 FTW | 6 FOP | 8 FIP | 16 FDP | 24 MXCSR | 28 MXCSR_MASK | 32 ST0..7 | 160 XMM0..15
 *   512 XSTATE_BV | 520 XCOMP_BV | 528..575 reserved
 */
#define XSAVE_FCW 0
#define XSAVE_FSW 2
#define XSAVE_FTW 4
#define XSAVE_FOP 6
#define XSAVE_FIP 8
#define XSAVE_FDP 16
#define XSAVE_MXCSR 24
#define XSAVE_ST 32
#define XSAVE_XMM 160
#define XSAVE_XSTATE_BV 512
#define XSAVE_XCOMP_BV 520
#define MXCSR_VALID 0x2ffffu
#define FCW_INIT 0x37fu
#define XSAVE_API_BYTES sizeof(struct kvm_xsave)

static uint64_t area_u64(const uint8_t *area, size_t offset)
{
    uint64_t value;

    memcpy(&value, area + offset, sizeof(value));
    return value;
}

static uint32_t area_u32(const uint8_t *area, size_t offset)
{
    uint32_t value;

    memcpy(&value, area + offset, sizeof(value));
    return value;
}

/* A component whose XSTATE_BV bit is clear is in its initial state, whatever its bytes are. */
int kvm_vcpu_get_fpu(struct kvm_object *object, void *arg)
{
    const uint8_t *area = kvm_vcpu_of(object)->cpu->xsave;
    uint64_t xstate_bv = area_u64(area, XSAVE_XSTATE_BV);
    struct kvm_fpu *fpu = arg;

    memset(fpu, 0, sizeof(*fpu));
    fpu->fcw = FCW_INIT;
    if (xstate_bv & X86_XCR0_X87) {
        memcpy(&fpu->fcw, area + XSAVE_FCW, sizeof(fpu->fcw));
        memcpy(&fpu->fsw, area + XSAVE_FSW, sizeof(fpu->fsw));
        fpu->ftwx = area[XSAVE_FTW];
        memcpy(&fpu->last_opcode, area + XSAVE_FOP, sizeof(fpu->last_opcode));
        memcpy(&fpu->last_ip, area + XSAVE_FIP, sizeof(fpu->last_ip));
        memcpy(&fpu->last_dp, area + XSAVE_FDP, sizeof(fpu->last_dp));
        memcpy(fpu->fpr, area + XSAVE_ST, sizeof(fpu->fpr));
    }
    if (xstate_bv & X86_XCR0_SSE)
        memcpy(fpu->xmm, area + XSAVE_XMM, sizeof(fpu->xmm));
    fpu->mxcsr = area_u32(area, XSAVE_MXCSR);
    return 0;
}

int kvm_vcpu_set_fpu(struct kvm_object *object, void *arg)
{
    uint8_t *area = kvm_vcpu_of(object)->cpu->xsave;
    uint64_t xstate_bv = area_u64(area, XSAVE_XSTATE_BV) | X86_XCR0_X87 | X86_XCR0_SSE;
    const struct kvm_fpu *fpu = arg;
    uint32_t mxcsr = fpu->mxcsr & MXCSR_VALID;

    memcpy(area + XSAVE_FCW, &fpu->fcw, sizeof(fpu->fcw));
    memcpy(area + XSAVE_FSW, &fpu->fsw, sizeof(fpu->fsw));
    area[XSAVE_FTW] = fpu->ftwx;
    memcpy(area + XSAVE_FOP, &fpu->last_opcode, sizeof(fpu->last_opcode));
    memcpy(area + XSAVE_FIP, &fpu->last_ip, sizeof(fpu->last_ip));
    memcpy(area + XSAVE_FDP, &fpu->last_dp, sizeof(fpu->last_dp));
    memcpy(area + XSAVE_ST, fpu->fpr, sizeof(fpu->fpr));
    memcpy(area + XSAVE_XMM, fpu->xmm, sizeof(fpu->xmm));
    memcpy(area + XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
    memcpy(area + XSAVE_XSTATE_BV, &xstate_bv, sizeof(xstate_bv));
    return 0;
}

/* A component without its XSTATE_BV bit has its initial bytes, whatever the client left there: clients look at bytes alone. */
static void area_set_initial(const struct cpu *cpu, uint8_t *area, uint64_t xstate_bv)
{
    static const uint16_t fcw = FCW_INIT;

    if (!(xstate_bv & X86_XCR0_X87)) {
        memset(area, 0, XSAVE_MXCSR);
        memcpy(area + XSAVE_FCW, &fcw, sizeof(fcw));
        memset(area + XSAVE_ST, 0, XSAVE_XMM - XSAVE_ST);
    }
    if (!(xstate_bv & X86_XCR0_SSE))
        memset(area + XSAVE_XMM, 0, XSAVE_XSTATE_BV - XSAVE_XMM);
    for (unsigned i = 2; i < KAGE_ARRAY_SIZE(cpu->xcomp); i++)
        if (!(xstate_bv >> i & 1) && cpu->xcomp[i].size && cpu->xcomp[i].offset + cpu->xcomp[i].size <= XSAVE_API_BYTES)
            memset(area + cpu->xcomp[i].offset, 0, cpu->xcomp[i].size);
}

int kvm_vcpu_get_xsave(struct kvm_object *object, void *arg)
{
    const struct cpu *cpu = kvm_vcpu_of(object)->cpu;
    size_t bytes = cpu->xsave_bytes < XSAVE_API_BYTES ? cpu->xsave_bytes : XSAVE_API_BYTES;

    memset(arg, 0, XSAVE_API_BYTES);
    memcpy(arg, cpu->xsave, bytes);
    return 0;
}

/* The same here: KVM_CAP_XSAVE2 is the size of struct kvm_xsave. */
int kvm_vcpu_get_xsave2(struct kvm_object *object, void *arg)
{
    return kvm_vcpu_get_xsave(object, arg);
}

int kvm_vcpu_set_xsave(struct kvm_object *object, void *arg)
{
    struct cpu *cpu = kvm_vcpu_of(object)->cpu;
    size_t bytes = cpu->xsave_bytes < XSAVE_API_BYTES ? cpu->xsave_bytes : XSAVE_API_BYTES;
    uint8_t area[XSAVE_API_BYTES];

    memcpy(area, arg, sizeof(area)); /* once: what is checked is what is loaded */
    uint64_t xstate_bv = area_u64(area, XSAVE_XSTATE_BV);
    if ((xstate_bv & ~kvm_cpuid_xcr0_supported()) || area_u64(area, XSAVE_XCOMP_BV))
        return -EINVAL;
    if (area_u32(area, XSAVE_MXCSR) & ~MXCSR_VALID)
        return -EINVAL;
    memset(area + XSAVE_XCOMP_BV, 0, 64 - 8); /* XRSTOR wants the header's reserved bytes zero */
    area_set_initial(cpu, area, xstate_bv);
    memset(cpu->xsave, 0, cpu->xsave_bytes);
    memcpy(cpu->xsave, area, bytes);
    return 0;
}

int kvm_vcpu_get_xcrs(struct kvm_object *object, void *arg)
{
    struct kvm_xcrs *xcrs = arg;

    memset(xcrs, 0, sizeof(*xcrs));
    xcrs->nr_xcrs = 1;
    xcrs->xcrs[0].xcr = 0;
    xcrs->xcrs[0].value = kvm_vcpu_of(object)->cpu->xcr0;
    return 0;
}

int kvm_vcpu_set_xcrs(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    const struct kvm_xcrs *xcrs = arg;

    if (xcrs->nr_xcrs > KVM_MAX_XCRS || xcrs->flags)
        return -EINVAL;
    for (uint32_t i = 0; i < xcrs->nr_xcrs; i++) {
        if (xcrs->xcrs[i].xcr != 0)
            continue;
        if (!kvm_xcr0_valid(vcpu, xcrs->xcrs[i].value) && xcrs->xcrs[i].value != X86_XCR0_X87)
            return -EINVAL;
        vcpu->cpu->xcr0 = xcrs->xcrs[i].value;
        cpu_update_mode(vcpu->cpu);
        break;
    }
    return 0;
}
