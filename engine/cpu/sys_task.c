/* SPDX-License-Identifier: MIT */
/*
 * Tasks: the stacks that a TSS holds, and task switches by JMP, CALL, IRET and task gates (SDM 3A
 * chapter 7), outside IA-32e mode.
 *
 * VT-x exits on every task switch and leaves it to the hypervisor, and kvm.ko then emulates it in full.
 * Here the processor does it by itself: what the guest sees is the same, the checks and segment loads
 * that it takes are all in this directory, and no client can tell. A nested hypervisor, which must see
 * the exit, would need it before cpu_task_switch() changes anything.
 */
#include "cpu/segment.h"
#include "mmu/mmu.h"

/*
 * Both formats (SDM 3A figures 7-2 and 7-10): link, stacks, [CR3,] IP, FLAGS, eight general registers,
 * segment registers from ES on, LDT, [trap bit, I/O map]. Slots are `word` bytes; a selector has the
 * low half of a 32-bit one.
 */
struct tss_format {
    uint8_t word, last, ip, seg_count;
    uint8_t cr3, trap; /* 0: not there */
};
#define TSS_MAX_BYTES 104u

static const struct tss_format tss_formats[2] = {
    {.word = 2, .last = 0x2b, .ip = 0x0e, .seg_count = 4},
    {.word = 4, .last = 0x67, .ip = 0x20, .seg_count = 6, .cr3 = 0x1c, .trap = 0x64},
};
enum { SLOT_IP, SLOT_FLAGS, SLOT_GPR, SLOT_SEG = SLOT_GPR + 8 };

#define DR6_BT (1u << 15)
#define DR7_LOCAL 0x155u /* L0 to L3 and LE */

static const struct tss_format *tss_format(uint32_t access_rights)
{
    return &tss_formats[(access_rights & 8u) != 0];
}

static unsigned slot_offset(const struct tss_format *f, unsigned slot)
{
    return f->ip + slot * f->word;
}

static uint32_t slot_get(const struct tss_format *f, const uint8_t *raw, unsigned slot, unsigned bytes)
{
    uint32_t value = 0;

    __builtin_memcpy(&value, raw + slot_offset(f, slot), bytes < f->word ? bytes : f->word);
    return value;
}

static void slot_set(const struct tss_format *f, uint8_t *raw, unsigned slot, uint32_t value, unsigned bytes)
{
    __builtin_memcpy(raw + slot_offset(f, slot), &value, bytes < f->word ? bytes : f->word);
}

/* ---- stacks of the current TSS ---- */

enum cpu_result cpu_tss_stack(struct cpu *cpu, unsigned cpl, unsigned ist, uint64_t *rsp, uint32_t ext)
{
    const struct vmcs_segment *tr = &cpu->vmcs.guest_seg[X86_TR];
    uint32_t offset = ist != 0 ? 36 + (ist - 1) * 8 : 4 + cpl * 8; /* IST1, RSP0: SDM 3A figure 7-11 */

    if (offset + 7 > tr->limit) {
        return cpu_raise_error(cpu, X86_EXC_TS, selector_error(tr->selector, ext));
    }
    enum cpu_result r = cpu_read(cpu, tr->base + offset, rsp, 8, cpu_implicit_idx(cpu));
    if (r == CPU_NEXT && !cpu_is_canonical(cpu, *rsp)) {
        return cpu_raise_error(cpu, X86_EXC_SS, ext);
    }
    return r;
}

enum cpu_result cpu_tss_legacy_stack(struct cpu *cpu, unsigned cpl, uint32_t ext, struct cpu_stack *st)
{
    const struct vmcs_segment *tr = &cpu->vmcs.guest_seg[X86_TR];
    unsigned word = tss_format(tr->access_rights)->word;
    uint32_t offset = word + cpl * 2 * word; /* SPn and SSn, behind the link */
    uint32_t sp = 0;
    uint16_t ss;
    uint8_t raw[6];
    struct cpu_descriptor d;

    if (offset + word + 1 > tr->limit) {
        return cpu_raise_error(cpu, X86_EXC_TS, selector_error(tr->selector, ext));
    }
    enum cpu_result r = cpu_read(cpu, cpu_system_va(cpu, tr->base + offset), raw, word + 2, cpu_implicit_idx(cpu));
    if (r != CPU_NEXT) {
        return r;
    }
    __builtin_memcpy(&sp, raw, word);
    __builtin_memcpy(&ss, raw + word, 2);
    if (selector_is_null(ss)) {
        return cpu_raise_error(cpu, X86_EXC_TS, ext);
    }
    r = cpu_stack_descriptor(cpu, ss, cpl, X86_EXC_TS, ext, &d);
    if (r == CPU_NEXT) {
        r = cpu_descriptor_set_accessed(cpu, &d);
    }
    if (r == CPU_NEXT) {
        cpu_stack_from_descriptor(cpu, st, ss, &d, sp, cpl, selector_error(ss, ext));
    }
    return r;
}

/* ---- task switch: before the point of no return ---- */

struct task {
    const struct tss_format *f;
    struct cpu_descriptor tss;
    uint16_t selector;
    uint8_t raw[TSS_MAX_BYTES];
};

#define TSS_AVAILABLE (1u << SYS_TSS | 1u << SYS_TSS16)
#define TSS_BUSY (1u << SYS_TSS_BUSY | 1u << SYS_TSS16_BUSY)

/* The new TSS: in the GDT, of the right type, present, long enough (SDM 3A table 7-1). */
static enum cpu_result find_task(struct cpu *cpu, uint16_t selector, const struct task_switch *s, struct task *t)
{
    bool back = s->how == TASK_IRET, found = false;
    uint32_t error = selector_error(selector, s->ext);

    t->selector = selector;
    if ((selector & 4) == 0) {
        enum cpu_result r = cpu_descriptor_read(cpu, selector, false, &t->tss, &found);
        if (r != CPU_NEXT) {
            return r;
        }
    }
    if (!found || !ar_is_system(t->tss.access_rights, back ? TSS_BUSY : TSS_AVAILABLE)) {
        return cpu_raise_error(cpu, back ? X86_EXC_TS : X86_EXC_GP, error);
    }
    if ((t->tss.access_rights & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, X86_EXC_NP, error);
    }
    t->f = tss_format(t->tss.access_rights);
    if (t->tss.limit < t->f->last) {
        return cpu_raise_error(cpu, X86_EXC_TS, error);
    }
    return cpu_read(cpu, cpu_system_va(cpu, t->tss.base), t->raw, t->f->last + 1u, cpu_implicit_idx(cpu));
}

/* A store of the switch. What was found good before it cannot fault; a TSS in a device's registers is not carried. */
static enum cpu_result task_write(struct cpu *cpu, gva_t va, const void *bytes, unsigned len)
{
    enum cpu_result r = cpu_write(cpu, cpu_system_va(cpu, va), bytes, len, cpu_implicit_idx(cpu));

    if (r == CPU_EXIT && cpu_mmio_posted(cpu)) {
        cpu_mmio_consume(cpu);
        r = cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 0, 0);
    }
    return r;
}

static enum cpu_result task_probe(struct cpu *cpu, gva_t va, unsigned len)
{
    return cpu_probe(cpu, cpu_system_va(cpu, va), len, MMU_WRITE, cpu_implicit_idx(cpu));
}

/* Saves the old task, and moves the busy bits and the link. Every page is probed before the first store. */
static enum cpu_result leave_task(struct cpu *cpu, const struct task_switch *s, struct task *t)
{
    const struct vmcs_segment *tr = &cpu->vmcs.guest_seg[X86_TR];
    const struct tss_format *f = tss_format(tr->access_rights);
    unsigned from = slot_offset(f, SLOT_IP), bytes = slot_offset(f, SLOT_SEG + f->seg_count) - from;
    bool nests = s->how == TASK_CALL || s->how == TASK_EVENT, back = s->how == TASK_IRET;
    uint8_t raw[TSS_MAX_BYTES];
    struct cpu_descriptor old;
    bool found;

    if (from + bytes - 1 > tr->limit) {
        return cpu_raise_error(cpu, X86_EXC_TS, selector_error(tr->selector, s->ext));
    }
    enum cpu_result r = cpu_read(cpu, cpu_system_va(cpu, tr->base + from), raw + from, bytes, cpu_implicit_idx(cpu));
    if (r == CPU_NEXT) {
        r = task_probe(cpu, tr->base + from, bytes);
    }
    if (r == CPU_NEXT && nests) {
        r = task_probe(cpu, t->tss.base, 2);
    }
    if (r == CPU_NEXT && !back) {
        r = task_probe(cpu, t->tss.address, 8);
    }
    if (r == CPU_NEXT) {
        r = cpu_descriptor_read(cpu, tr->selector, false, &old, &found);
    }
    if (r == CPU_NEXT && !nests && found) {
        r = task_probe(cpu, old.address, 8);
    }
    if (r == CPU_NEXT && !nests && found && ar_is_system(old.access_rights, TSS_BUSY)) {
        r = cpu_descriptor_set_busy(cpu, &old, false);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    slot_set(f, raw, SLOT_IP, (uint32_t)s->rip, 4);
    slot_set(f, raw, SLOT_FLAGS, (uint32_t)s->rflags & ~(back ? X86_FLAGS_NT : 0), 4);
    for (unsigned i = 0; i < 8; i++) {
        slot_set(f, raw, SLOT_GPR + i, (uint32_t)cpu->gpr[i], 4);
    }
    for (unsigned i = 0; i < f->seg_count; i++) {
        slot_set(f, raw, SLOT_SEG + i, cpu->vmcs.guest_seg[i].selector, 2);
    }
    r = task_write(cpu, tr->base + from, raw + from, bytes);
    if (r == CPU_NEXT && nests) {
        r = task_write(cpu, t->tss.base, &tr->selector, 2);
    }
    if (r == CPU_NEXT && !back) {
        r = cpu_descriptor_set_busy(cpu, &t->tss, true);
    }
    return r;
}

/* ---- task switch: in the new task ---- */

/* Selectors are loaded before any is checked (SDM 3A 7.3, step 12): what a fault interrupts is not usable. */
static void load_selectors(struct cpu *cpu, const struct task *t)
{
    struct vmcs_segment *seg = cpu->vmcs.guest_seg;
    unsigned cpl = slot_get(t->f, t->raw, SLOT_SEG + X86_CS, 2) & 3u;

    for (unsigned i = X86_ES; i <= X86_GS; i++) {
        uint16_t selector = i < t->f->seg_count ? (uint16_t)slot_get(t->f, t->raw, SLOT_SEG + i, 2) : 0;
        if (cpu_in_v86_mode(cpu)) {
            seg[i] = cpu_v86_segment(selector);
        } else if (i == X86_CS) {
            seg[i].selector = selector; /* the old code segment's descriptor, until the new one is checked */
        } else {
            cpu_segment_set_null(cpu, i, selector, i == X86_SS ? cpl : 0); /* CPL is SS.DPL */
        }
    }
}

/* CR3, and with PAE what it points to; false: there are reserved bits, which is #GP in the new task. */
static bool load_cr3(struct cpu *cpu, const struct task *t)
{
    uint32_t cr3;

    if (t->f->cr3 == 0 || (cpu_guest_cr0(cpu) & X86_CR0_PG) == 0) {
        return true;
    }
    __builtin_memcpy(&cr3, t->raw + t->f->cr3, 4);
    if (!cpu_uses_ept(cpu)) {
        return cpu->ops->load_cr3 != NULL && cpu->ops->load_cr3(cpu, cr3);
    }
    if (!cpu_load_cr3(cpu, cr3)) {
        return false;
    }
    mmu_switch_cr3(cpu, false);
    return true;
}

static void load_registers(struct cpu *cpu, const struct task_switch *s, const struct task *t)
{
    struct vmcs *v = &cpu->vmcs;
    uint32_t flags = slot_get(t->f, t->raw, SLOT_FLAGS, 4);

    cpu_segment_set(cpu, X86_TR, t->selector, &t->tss);
    v->guest_seg[X86_TR].access_rights |= SYS_BUSY_BIT;
    v->guest_cr0 |= X86_CR0_TS;
    v->cr0_read_shadow |= X86_CR0_TS;
    v->guest_dr7 &= ~(uint64_t)DR7_LOCAL;
    if (s->how == TASK_CALL || s->how == TASK_EVENT) {
        flags |= X86_FLAGS_NT;
    }
    cpu_set_rflags(cpu, flags);
    cpu->rip = slot_get(t->f, t->raw, SLOT_IP, 4);
    for (unsigned i = 0; i < 8; i++) {
        cpu->gpr[i] = slot_get(t->f, t->raw, SLOT_GPR + i, 4);
    }
    cpu->intr_shadow = 0;
    load_selectors(cpu, t);
}

static enum cpu_result load_ldt(struct cpu *cpu, uint16_t selector, uint32_t ext)
{
    struct cpu_descriptor d;
    bool found = false;

    cpu_segment_set_null(cpu, X86_LDTR, selector, 0);
    if (selector_is_null(selector)) {
        return CPU_NEXT;
    }
    if ((selector & 4) == 0) {
        enum cpu_result r = cpu_descriptor_read(cpu, selector, false, &d, &found);
        if (r != CPU_NEXT) {
            return r;
        }
    }
    if (!found || !ar_is_system(d.access_rights, 1u << SYS_LDT) || (d.access_rights & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, X86_EXC_TS, selector_error(selector, ext));
    }
    cpu_segment_set(cpu, X86_LDTR, selector, &d);
    return CPU_NEXT;
}

static enum cpu_result load_task_segment(struct cpu *cpu, unsigned seg, uint32_t ext)
{
    uint16_t selector = cpu->vmcs.guest_seg[seg].selector;
    struct cpu_descriptor d;
    enum cpu_result r;

    if (seg == X86_CS) {
        r = cpu_code_descriptor(cpu, selector, CODE_TASK, ext, &d);
    } else if (selector_is_null(selector)) {
        return seg == X86_SS ? cpu_raise_error(cpu, X86_EXC_TS, ext) : CPU_NEXT;
    } else if (seg == X86_SS) {
        r = cpu_stack_descriptor(cpu, selector, cpu_cpl(cpu), X86_EXC_TS, ext, &d);
    } else {
        r = cpu_data_descriptor(cpu, selector, X86_EXC_TS, ext, &d);
    }
    if (r == CPU_NEXT) {
        r = cpu_descriptor_set_accessed(cpu, &d);
    }
    if (r == CPU_NEXT) {
        cpu_segment_set(cpu, seg, selector, &d);
    }
    return r;
}

static enum cpu_result qualify_segments(struct cpu *cpu, const struct task_switch *s)
{
    static const uint8_t order[] = {X86_CS, X86_SS, X86_DS, X86_ES, X86_FS, X86_GS};

    for (unsigned i = 0; !cpu_in_v86_mode(cpu) && i < KAGE_ARRAY_SIZE(order); i++) {
        enum cpu_result r = load_task_segment(cpu, order[i], s->ext);
        if (r != CPU_NEXT) {
            return r;
        }
    }
    cpu_update_mode(cpu);
    return CPU_NEXT;
}

/* The error code of the exception that came by a task gate; then RIP's limit, then the T bit of the TSS. */
static enum cpu_result begin_task(struct cpu *cpu, const struct task_switch *s, const struct task *t)
{
    enum cpu_result r = CPU_NEXT;

    if (s->has_error) {
        uint64_t error = s->error;
        struct cpu_stack st;
        cpu_stack_current(cpu, &st, s->ext);
        r = cpu_stack_push(cpu, &st, &error, 1, t->f->word);
        if (cpu_stored(cpu, r)) {
            cpu_set_sp(cpu, st.sp);
        }
    }
    if (r == CPU_NEXT && cpu->rip > cpu->vmcs.guest_seg[X86_CS].limit) {
        r = cpu_raise_gp(cpu, s->ext);
    }
    if (r == CPU_NEXT && t->f->trap != 0 && (t->raw[t->f->trap] & 1) != 0) {
        r = cpu_raise_debug(cpu, DR6_BT);
    }
    return r;
}

enum cpu_result cpu_task_switch(struct cpu *cpu, uint16_t selector, const struct task_switch *s)
{
    struct task t;

    enum cpu_result r = find_task(cpu, selector, s, &t);
    if (r == CPU_NEXT) {
        r = leave_task(cpu, s, &t);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    load_registers(cpu, s, &t);
    bool cr3_good = load_cr3(cpu, &t);
    cpu_update_mode(cpu);
    uint16_t ldt = (uint16_t)slot_get(t.f, t.raw, SLOT_SEG + t.f->seg_count, 2);
    r = cr3_good ? load_ldt(cpu, ldt, s->ext) : cpu_raise_gp(cpu, s->ext);
    if (r == CPU_NEXT) {
        r = qualify_segments(cpu, s);
    }
    if (r == CPU_NEXT) {
        r = begin_task(cpu, s, &t);
    }
    cpu_update_mode(cpu);
    return r == CPU_NEXT ? CPU_JUMP : r;
}
