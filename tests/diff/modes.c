/* SPDX-License-Identifier: MIT */
/*
 * The guest side of 16- and 32-bit cases: code in compatibility mode, under 32-bit kernels with and without paging,
 * in virtual-8086 and in real mode. There is no guest kernel to speak of: the VMM puts the processor into
 * the case's state with KVM_SET_SREGS and KVM_SET_REGS, every vector leads to a HLT of its own, and the state that the
 * case ended in is read from the registers and from the frame that the exception pushed. Before each case, 64-bit code
 * copies the case's code to where it runs, so that the guest has written it itself.
 * Where an exception is taken without a change of stacks (real mode, CPL 0 under a 32-bit kernel) the frame lies on the
 * case's stack: those bytes are not compared, and cases that leave no room for it are left out.
 */
#include "diff.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kage.h"

/* The kernel's memory: guest-physical from 0 on; linear addresses by the kind of paging. */
#define KERNEL_BYTES   ((uint64_t)DIFF_KERNEL32_BYTES)
#define LONG_VA        0xffffffffa0000000ull
#define LEGACY_VA      ((uint64_t)DIFF_KERNEL32)
#define LONG_PML4      0x1000
#define LONG_PDPT_LOW  0x2000
#define LONG_PD_LOW    0x3000
#define LONG_PT_LOW    0x4000
#define LONG_PDPT_HIGH 0x5000
#define LONG_PD_HIGH   0x6000
#define LONG_PT_HIGH   0x7000
#define PAE_PDPT       0x8000
#define PAE_PD_LOW     0x9000
#define PAE_PT_LOW     0xa000
#define PAE_PD_HIGH    0xb000
#define PAE_PT_HIGH    0xc000
#define TWO_PD         0xd000
#define TWO_PT_LOW     0xe000
#define TWO_PT_HIGH    0xf000
#define GDT_AT         0x10000
#define LDT_USER_AT    0x11000
#define LDT_KERNEL_AT  0x11800
#define TSS64_AT       0x12000
#define TSS32_AT       0x13000
#define IDT64_AT       0x14000
#define IDT32_AT       0x15000
#define IDT16_AT       0x16000
#define STUBS_AT       0x17000
#define COPIER_AT      0x18000
#define STACK_TOP      0x1a000
#define SOURCE_AT      0x1b000
#define STUB_BYTES     4

#define SEL_KERNEL_CS32 0x08
#define SEL_TSS         0x40
#define SEL_LDT         0x50
#define GDT_ENTRIES     16
#define TSS64_BYTES     0x68
#define TSS32_BYTES     0x88 /* with 32 bytes of interrupt redirection: all vectors to the kernel */

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_U  4ull
#define PTE_NX (1ull << 63)

#define CR0_PE      0x00050033u /* AM WP NE ET MP PE */
#define CR0_PG      0x80000000u
#define CR4_COMMON  0x40600u /* OSXSAVE OSXMMEXCPT OSFXSR */
#define CR4_VME     1u
#define CR4_PAE     0x20u
#define CR4_PSE_PGE 0x90u
#define EFER_LONG   0xd01u /* NXE LMA LME SCE */
#define EFER_NXE    0x800u
#define FLAGS_VM    0x20000u

struct modes {
    const struct kvm_backend *kvm;
    const struct diff_mode *mode;
    int sys, vm, vcpu;
    uint8_t *kernel, *code, *data;
    struct kvm_run *run;
    struct kvm_sregs sregs; /* what the vCPU began with: APIC base and the like */
    struct kvm_xsave xsave;
};

static bool is_legacy_paging(enum diff_env env)
{
    return env == DIFF_PAE || env == DIFF_2LEVEL || env == DIFF_V86 || env == DIFF_VME;
}

static uint64_t kernel_va(enum diff_env env)
{
    return env == DIFF_COMPAT ? LONG_VA : is_legacy_paging(env) ? LEGACY_VA : 0;
}

/* Does an exception push its frame on the case's own stack? */
static bool frame_is_on_stack(const struct diff_mode *mode)
{
    return mode->env == DIFF_REAL || (mode->cpl0 && mode->env != DIFF_COMPAT);
}

static bool has_error_code(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21;
}

/* ---- tables ---- */

static void put64(struct modes *g, uint64_t at, uint64_t value)
{
    memcpy(g->kernel + at, &value, 8);
}

static void put32(struct modes *g, uint64_t at, uint64_t value)
{
    memcpy(g->kernel + at, &value, 4);
}

/* Code and data, linear as physical, into tables of `entry_bytes`; both lie in one page table's reach. */
static void map_cases(struct modes *g, uint64_t table, unsigned entry_bytes, bool nx)
{
    uint64_t mask = entry_bytes == 8 ? 0x1fffff : 0x3fffff;
    unsigned data_pages = DIFF_DATA_BYTES / 4096 * (diff_arch->bits == 16 ? DIFF_DATA_COPIES : 1);

    for (uint64_t i = 0; i < DIFF_CODE_BYTES >> 12; i++) {
        uint64_t va = DIFF_CODE + (i << 12), pte = va | PTE_P | PTE_W | PTE_U;
        memcpy(g->kernel + table + (va & mask) / 4096 * entry_bytes, &pte, entry_bytes);
    }
    for (uint64_t i = 0; i < data_pages; i++) {
        uint64_t va = DIFF_DATA + (i << 12), pte = va | PTE_P | PTE_U | (nx ? PTE_NX : 0);
        if (i * 4096 % DIFF_DATA_BYTES < DIFF_DATA_RW_BYTES)
            pte |= PTE_W;
        memcpy(g->kernel + table + (va & mask) / 4096 * entry_bytes, &pte, entry_bytes);
    }
}

static void map_kernel(struct modes *g, uint64_t table, unsigned entry_bytes)
{
    for (uint64_t i = 0; i < KERNEL_BYTES >> 12; i++) {
        uint64_t pte = i << 12 | PTE_P | PTE_W;
        memcpy(g->kernel + table + i * entry_bytes, &pte, entry_bytes);
    }
}

static void build_page_tables(struct modes *g)
{
    const uint64_t user = PTE_P | PTE_W | PTE_U, kernel = PTE_P | PTE_W;

    put64(g, LONG_PML4, LONG_PDPT_LOW | user);
    put64(g, LONG_PDPT_LOW, LONG_PD_LOW | user);
    put64(g, LONG_PD_LOW + 8 * (DIFF_CODE >> 21), LONG_PT_LOW | user);
    put64(g, LONG_PML4 + 8 * 511, LONG_PDPT_HIGH | kernel);
    put64(g, LONG_PDPT_HIGH + 8 * 510, LONG_PD_HIGH | kernel);
    put64(g, LONG_PD_HIGH + 8 * 0x100, LONG_PT_HIGH | kernel);
    map_cases(g, LONG_PT_LOW, 8, true);
    map_kernel(g, LONG_PT_HIGH, 8);

    put64(g, PAE_PDPT, PAE_PD_LOW | PTE_P);
    put64(g, PAE_PDPT + 8 * 3, PAE_PD_HIGH | PTE_P);
    put64(g, PAE_PD_LOW + 8 * (DIFF_CODE >> 21), PAE_PT_LOW | user);
    put64(g, PAE_PD_HIGH + 8 * ((LEGACY_VA & 0x3fffffff) >> 21), PAE_PT_HIGH | kernel);
    map_cases(g, PAE_PT_LOW, 8, true);
    map_kernel(g, PAE_PT_HIGH, 8);

    put32(g, TWO_PD + 4 * (DIFF_CODE >> 22), TWO_PT_LOW | user);
    put32(g, TWO_PD + 4 * (LEGACY_VA >> 22), TWO_PT_HIGH | kernel);
    map_cases(g, TWO_PT_LOW, 4, false);
    map_kernel(g, TWO_PT_HIGH, 4);
}

static void build_descriptors(struct modes *g)
{
    static const uint64_t gdt[GDT_ENTRIES] = {
        [1] = 0x00cf9b000000ffff, [2] = 0x00af9b000000ffff, [3] = 0x00cf93000000ffff,  [4] = 0x00cffb000000ffff,
        [5] = 0x00cff3000000ffff, [6] = 0x00affb000000ffff, [15] = 0x0040f50000000000,
    };
    const struct diff_seg *segs = diff_seg_table();
    uint64_t va = kernel_va(g->mode->env), stack = va + STACK_TOP;

    memcpy(g->kernel + GDT_AT, gdt, sizeof(gdt));
    for (unsigned i = 0; i < DIFF_LDT_ENTRIES; i++) {
        put64(g, LDT_USER_AT + 8 * i, diff_seg_descriptor(&segs[i], 3));
        put64(g, LDT_KERNEL_AT + 8 * i, diff_seg_descriptor(&segs[i], 0));
    }
    put64(g, TSS64_AT + 0x24, LONG_VA + STACK_TOP); /* IST1 */
    g->kernel[TSS64_AT + 0x66] = TSS64_BYTES;
    put32(g, TSS32_AT + 4, stack); /* ESP0, SS0 */
    put32(g, TSS32_AT + 8, DIFF_SEL_KERNEL_DS);
    g->kernel[TSS32_AT + 0x66] = TSS32_BYTES;
    memset(g->kernel + TSS32_AT + 0x68, 0xff, 32);
    for (unsigned v = 0; v < 256; v++) {
        uint64_t dpl = v == 3 || v == 4 || v == 0x80 ? 3 : 0, offset = STUBS_AT + STUB_BYTES * v, at = LONG_VA + offset;
        static const uint8_t stub[STUB_BYTES] = {0xf4, 0xeb, 0xfd, 0xcc}; /* hlt; jmp to it */
        memcpy(g->kernel + offset, stub, sizeof(stub));
        put64(g, IDT64_AT + 16 * v,
              (at & 0xffff) | (uint64_t)DIFF_SEL_KERNEL_CS << 16 | 1ull << 32 | (0x8eull | dpl << 5) << 40 |
                  ((at >> 16) & 0xffff) << 48);
        put64(g, IDT64_AT + 16 * v + 8, at >> 32);
        at = va + offset;
        put64(g, IDT32_AT + 8 * v,
              (at & 0xffff) | (uint64_t)SEL_KERNEL_CS32 << 16 | (0x8eull | dpl << 5) << 40 |
                  ((at >> 16) & 0xffff) << 48);
        put32(g, IDT16_AT + 4 * v, (uint64_t)(STUBS_AT >> 4) << 16 | STUB_BYTES * v);
    }
    static const uint8_t copier[] = {0xf3, 0x48, 0xa5, 0xf4}; /* rep movsq; hlt */
    memcpy(g->kernel + COPIER_AT, copier, sizeof(copier));
}

/* ---- the processor's state ---- */

static const struct kvm_segment no_segment = {.unusable = 1};

static struct kvm_segment flat_segment(uint16_t selector, bool code, bool is_64)
{
    return (struct kvm_segment){.selector = selector,
                                .limit = 0xffffffff,
                                .type = code ? 11 : 3,
                                .present = 1,
                                .db = !is_64,
                                .l = is_64,
                                .s = 1,
                                .g = 1};
}

/* The case's segment as its register holds it. */
static struct kvm_segment case_segment(const struct modes *g, uint16_t selector, bool code)
{
    const struct diff_seg *seg = diff_seg_find(selector);
    bool cpl0 = g->mode->cpl0, ldt = (selector & 4) != 0;

    if (!seg || (selector & ~3) == 0) {
        struct kvm_segment none = no_segment;
        none.selector = selector;
        return none;
    }
    struct kvm_segment s = {
        .base = seg->base,
        .limit = seg->pages ? seg->limit << 12 | 0xfff : seg->limit,
        .type = (uint8_t)(1 | (seg->no_write ? 0 : 2) | (seg->down ? 4 : 0) | (seg->code ? 8 : 0)),
        .present = 1,
        .db = seg->big,
        .s = 1,
        .g = seg->pages,
        .dpl = cpl0 ? 0 : 3,
        .selector = selector,
    };
    if (cpl0)
        s.selector = ldt ? selector & 0xfffc : seg->code ? SEL_KERNEL_CS32 : DIFF_SEL_KERNEL_DS;
    if (g->mode->env >= DIFF_REAL) {
        s.selector = (uint16_t)(seg->base >> 4);
        s.dpl = g->mode->env == DIFF_REAL ? 0 : 3;
        s.type = code && g->mode->env == DIFF_REAL ? 11 : 3;
    }
    return s;
}

/* Tables and control registers of an environment; segments are the caller's. */
static struct kvm_sregs environment(const struct modes *g, enum diff_env env)
{
    struct kvm_sregs s = g->sregs;
    uint64_t va = kernel_va(env);
    bool is_long = env == DIFF_COMPAT || env == DIFF_LONG;

    va = is_long ? LONG_VA : va;
    s.cr2 = 0;
    s.cr0 = env == DIFF_REAL ? CR0_PE & ~1u : CR0_PE;
    s.cr0 |= is_long || is_legacy_paging(env) ? CR0_PG : 0;
    s.cr4 = CR4_COMMON | CR4_PSE_PGE | (is_long || env == DIFF_PAE ? CR4_PAE : 0) | (env == DIFF_VME ? CR4_VME : 0);
    s.cr3 = is_long ? LONG_PML4 : env == DIFF_PAE ? PAE_PDPT : is_legacy_paging(env) ? TWO_PD : 0;
    s.efer = is_long ? EFER_LONG : env == DIFF_PAE ? EFER_NXE : 0;
    s.gdt = (struct kvm_dtable){.base = va + GDT_AT, .limit = 8 * GDT_ENTRIES - 1};
    s.idt = (struct kvm_dtable){.base = va + (is_long            ? IDT64_AT
                                              : env == DIFF_REAL ? IDT16_AT
                                                                 : IDT32_AT),
                                .limit = is_long            ? 0xfff
                                         : env == DIFF_REAL ? 0x3ff
                                                            : 0x7ff};
    s.tr = (struct kvm_segment){
        .base = va + (is_long ? TSS64_AT : TSS32_AT), .selector = SEL_TSS, .type = 11, .present = 1};
    s.tr.limit = is_long ? TSS64_BYTES - 1 : TSS32_BYTES - 1;
    s.ldt = (struct kvm_segment){
        .base = va + (g->mode->cpl0 ? LDT_KERNEL_AT : LDT_USER_AT), .selector = SEL_LDT, .type = 2, .present = 1};
    s.ldt.limit = 8 * DIFF_LDT_ENTRIES - 1;
    return s;
}

/* Runs to the next HLT. 0; or -1, with errno 0 if it ended otherwise. */
static int run_to_halt(struct modes *g)
{
    int err;

    do
        err = g->kvm->ioctl(g->vcpu, KVM_RUN, NULL);
    while (err && (errno == EINTR || errno == EAGAIN));
    if (err)
        return -1;
    errno = 0;
    return g->run->exit_reason == KVM_EXIT_HLT ? 0 : -1;
}

static int copy_window(struct modes *g)
{
    struct kvm_sregs s = environment(g, DIFF_LONG);
    struct kvm_regs r = {
        .rflags = 2, .rsp = LONG_VA + STACK_TOP, .rip = LONG_VA + COPIER_AT, .rsi = LONG_VA + SOURCE_AT};

    s.cs = flat_segment(DIFF_SEL_KERNEL_CS, true, true);
    s.ss = s.ds = s.es = s.fs = s.gs = flat_segment(DIFF_SEL_KERNEL_DS, false, false);
    r.rdi = DIFF_WINDOW;
    r.rcx = DIFF_WINDOW_BYTES / 8;
    if (g->kvm->ioctl(g->vcpu, KVM_SET_SREGS, &s) || g->kvm->ioctl(g->vcpu, KVM_SET_REGS, &r))
        return -1;
    return run_to_halt(g);
}

static int case_load(struct modes *g, const struct diff_case *c)
{
    struct kvm_sregs s = environment(g, g->mode->env);
    struct kvm_regs r = {
        .rax = c->in.gpr[0],
        .rcx = c->in.gpr[1],
        .rdx = c->in.gpr[2],
        .rbx = c->in.gpr[3],
        .rsp = c->in.gpr[4],
        .rbp = c->in.gpr[5],
        .rsi = c->in.gpr[6],
        .rdi = c->in.gpr[7],
        .rip = c->in.rip,
        .rflags = c->in.rflags,
    };

    diff_case_memory(c, g->data);
    diff_case_window(c, g->kernel + SOURCE_AT);
    if (copy_window(g))
        return -1;
    if (g->mode->env == DIFF_V86 || g->mode->env == DIFF_VME)
        r.rflags |= FLAGS_VM;
    s.es = case_segment(g, c->sel[DIFF_ES], false);
    s.cs = case_segment(g, c->sel[DIFF_CS], true);
    s.ss = case_segment(g, c->sel[DIFF_SS], false);
    s.ds = case_segment(g, c->sel[DIFF_DS], false);
    s.fs = case_segment(g, c->sel[DIFF_FS], false);
    s.gs = case_segment(g, c->sel[DIFF_GS], false);
    diff_vector_to_xsave(&c->vec, (uint8_t *)g->xsave.region);
    return g->kvm->ioctl(g->vcpu, KVM_SET_XSAVE, &g->xsave) || g->kvm->ioctl(g->vcpu, KVM_SET_SREGS, &s) ||
                   g->kvm->ioctl(g->vcpu, KVM_SET_REGS, &r)
               ? -1
               : 0;
}

/* ---- where it ended ---- */

static uint64_t get(const struct modes *g, const uint8_t **at, unsigned bytes)
{
    uint64_t v = 0;

    (void)g;
    memcpy(&v, *at, bytes);
    *at += bytes;
    return v;
}

/* The frame on the case's stack: of `bytes`, at its stack pointer; notes where it is. NULL: not in the cases' memory.
 */
static const uint8_t *frame_on_stack(struct modes *g, const struct kvm_sregs *s, uint64_t sp, unsigned bytes,
                                     struct diff_outcome *o)
{
    uint64_t at = ((s->ss.db ? sp & 0xffffffff : sp & 0xffff) + s->ss.base - DIFF_DATA) & 0xffffffff;

    if (at >= DIFF_DATA_COPIES * DIFF_DATA_BYTES || at % DIFF_DATA_BYTES + bytes > DIFF_DATA_BYTES)
        return NULL;
    o->frame_off = (uint16_t)(at % DIFF_DATA_BYTES);
    o->frame_len = (uint16_t)bytes;
    return g->data + o->frame_off;
}

static int outcome_take(struct modes *g, struct diff_outcome *o)
{
    const enum diff_env env = g->mode->env;
    const bool v86 = env == DIFF_V86 || env == DIFF_VME;
    unsigned word = env == DIFF_COMPAT ? 8 : env == DIFF_REAL ? 2 : 4;
    struct kvm_regs r;
    struct kvm_sregs s;

    if (g->kvm->ioctl(g->vcpu, KVM_GET_XSAVE, &g->xsave) || g->kvm->ioctl(g->vcpu, KVM_GET_REGS, &r) ||
        g->kvm->ioctl(g->vcpu, KVM_GET_SREGS, &s))
        return -1;
    uint64_t stub = r.rip - (env == DIFF_REAL ? 0 : kernel_va(env) + STUBS_AT);
    if (stub / STUB_BYTES > 255)
        return -1;
    o->vector = (uint32_t)(stub / STUB_BYTES);
    bool error = env != DIFF_REAL && has_error_code(o->vector);
    unsigned words = 3u + error, outer = env == DIFF_COMPAT || !frame_is_on_stack(g->mode) ? 2 : 0;
    words += outer + (v86 ? 4 : 0);
    const uint8_t *frame = frame_is_on_stack(g->mode) ? frame_on_stack(g, &s, r.rsp, words * word, o)
                                                      : g->kernel + STACK_TOP - words * word;
    if (!frame)
        return -1;

    const uint64_t gpr[8] = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi};
    memcpy(o->out.gpr, gpr, sizeof(gpr));
    o->error = error ? (uint32_t)get(g, &frame, word) : 0;
    o->out.rip = get(g, &frame, word);
    o->out.cs = (uint16_t)get(g, &frame, word);
    o->out.rflags = get(g, &frame, word);
    if (env == DIFF_REAL)
        o->out.rflags |= r.rflags & 0xffff0000;
    if (outer) {
        o->out.gpr[4] = get(g, &frame, word);
        o->out.ss = (uint16_t)get(g, &frame, word);
    } else {
        o->out.gpr[4] = s.ss.db ? r.rsp + words * word : (r.rsp & ~0xffffull) | ((r.rsp + words * word) & 0xffff);
        o->out.ss = s.ss.selector;
    }
    o->out.seg =
        s.ds.selector | (uint64_t)s.es.selector << 16 | (uint64_t)s.fs.selector << 32 | (uint64_t)s.gs.selector << 48;
    o->cr2 = o->vector == 14 ? s.cr2 : 0;
    diff_vector_from_xsave(&o->vec, (const uint8_t *)g->xsave.region);
    memcpy(o->mem, g->data, DIFF_DATA_BYTES);
    o->status = DIFF_DONE;
    return 0;
}

/* IOPL decides about these in virtual-8086 mode. */
static bool is_iopl_sensitive(uint16_t mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_PUSHF || mnemonic == ZYDIS_MNEMONIC_PUSHFD || mnemonic == ZYDIS_MNEMONIC_POPF ||
           mnemonic == ZYDIS_MNEMONIC_POPFD || mnemonic == ZYDIS_MNEMONIC_INT || mnemonic == ZYDIS_MNEMONIC_IRET ||
           mnemonic == ZYDIS_MNEMONIC_IRETD || mnemonic == ZYDIS_MNEMONIC_CLI || mnemonic == ZYDIS_MNEMONIC_STI;
}

const struct diff_outcome *diff_modes_expected(const struct diff_case *c, const struct diff_outcome *host,
                                               const struct diff_mode *mode, struct diff_outcome *room)
{
    if (!mode->guest || mode->env < DIFF_REAL || !c->ud_real)
        return host;
    memset(room, 0, sizeof(*room));
    room->status = DIFF_DONE;
    room->vector = 6;
    room->out = c->in;
    room->out.cs = c->sel[DIFF_CS];
    room->out.ss = c->sel[DIFF_SS];
    room->vec = c->vec;
    diff_case_memory(c, room->mem);
    return room;
}

bool diff_modes_can(const struct diff_case *c, const struct diff_outcome *host, const struct diff_mode *mode)
{
    const struct diff_seg *ss = diff_seg_find(c->sel[DIFF_SS]);
    bool page_fault = host->vector == 14;

    if ((mode->env >= DIFF_REAL && c->not_real) || (mode->env > DIFF_REAL && c->not_v86))
        return false;
    if (host->out.cs == DIFF_SEL_USER_CS && mode->env != DIFF_COMPAT) /* it went to 64-bit code */
        return false;
    for (unsigned i = 0; i < c->insns; i++) /* EFER.SCE is clear, and there is no 64-bit code to return to */
        if ((c->mnemonic[i] == ZYDIS_MNEMONIC_SYSRET || c->mnemonic[i] == ZYDIS_MNEMONIC_SYSCALL) &&
            mode->env != DIFF_COMPAT)
            return false;
    if (mode->env == DIFF_V86 || mode->env == DIFF_VME)
        for (unsigned i = 0; i < c->insns; i++)
            if (is_iopl_sensitive(c->mnemonic[i]))
                return false;
    if (page_fault && (mode->env == DIFF_REAL || mode->env == DIFF_FLAT))
        return false;
    if (page_fault && (host->error & 0x10) && mode->env != DIFF_COMPAT && mode->env != DIFF_PAE) /* no NX there */
        return false;
    if (!frame_is_on_stack(mode))
        return true;
    if (!ss || host->out.ss != c->sel[DIFF_SS])
        return false;
    const unsigned room = 24;
    uint64_t sp = ss->big ? host->out.gpr[4] & 0xffffffff : host->out.gpr[4] & 0xffff, low = sp - room;
    uint64_t limit = ss->pages ? (uint64_t)ss->limit << 12 | 0xfff : ss->limit,
             at = ((low & 0xffffffff) + ss->base - DIFF_DATA) & 0xffffffff;
    bool inside = ss->down ? low > limit && sp <= (ss->big ? 1ull << 32 : 0x10000) : sp <= limit + 1;
    return sp >= room && inside && at % DIFF_DATA_BYTES + room <= DIFF_DATA_RW_BYTES &&
           at < (diff_arch->bits == 16 ? DIFF_DATA_COPIES : 1) * (uint64_t)DIFF_DATA_BYTES;
}

/* ---- the VM ---- */

static int add_slot(struct modes *g, uint32_t slot, uint64_t gpa, void *at, uint64_t bytes)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uintptr_t)at};
    return g->kvm->ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static int set_cpuid(struct modes *g)
{
    const unsigned room = 256;
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + room * sizeof(cpuid->entries[0]));
    int err;

    if (!cpuid)
        return -1;
    cpuid->nent = room;
    err = g->kvm->ioctl(g->sys, KVM_GET_SUPPORTED_CPUID, cpuid) || g->kvm->ioctl(g->vcpu, KVM_SET_CPUID2, cpuid);
    free(cpuid);
    return err ? -1 : 0;
}

/* Returns NULL, or what failed. */
static const char *modes_init(struct modes *g)
{
    unsigned copies = diff_arch->bits == 16 ? DIFF_DATA_COPIES : 1;
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = diff_host_xcr0() & 0xe7}}};

    g->kvm = g->mode->kernel ? &kage_backend_kernel : &kage_backend_soft;
    if ((g->sys = g->kvm->open()) < 0)
        return "open";
    if ((g->vm = g->kvm->ioctl(g->sys, KVM_CREATE_VM, NULL)) < 0)
        return "KVM_CREATE_VM";
    if (diff_mmu && !g->mode->kernel && kage_vm_set_mmu(g->kvm, g->vm, diff_mmu))
        return "KVM_CAP_KAGE_MMU";
    if (g->mode->kernel)
        (void)g->kvm->ioctl(g->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000);
    if (g->mode->flags && g->kvm->ioctl(g->vm, KVM_KAGE_SET_TEST_FLAGS, (void *)(uintptr_t)g->mode->flags))
        return "KVM_KAGE_SET_TEST_FLAGS";
    g->kernel = mmap(NULL, KERNEL_BYTES + DIFF_CODE_BYTES + DIFF_DATA_BYTES, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (g->kernel == MAP_FAILED)
        return "mmap of guest memory";
    g->code = g->kernel + KERNEL_BYTES;
    g->data = g->code + DIFF_CODE_BYTES;
    memset(g->code, 0xcc, DIFF_CODE_BYTES);
    memcpy(g->data, diff_templates[0], DIFF_DATA_BYTES);
    build_page_tables(g);
    build_descriptors(g);
    if (add_slot(g, 0, 0, g->kernel, KERNEL_BYTES) || add_slot(g, 1, DIFF_CODE, g->code, DIFF_CODE_BYTES))
        return "KVM_SET_USER_MEMORY_REGION";
    for (unsigned i = 0; i < copies; i++)
        if (add_slot(g, 2 + i, DIFF_DATA + i * DIFF_DATA_BYTES, g->data, DIFF_DATA_BYTES))
            return "KVM_SET_USER_MEMORY_REGION";
    if ((g->vcpu = g->kvm->ioctl(g->vm, KVM_CREATE_VCPU, NULL)) < 0)
        return "KVM_CREATE_VCPU";
    int run_bytes = g->kvm->ioctl(g->sys, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (run_bytes <= 0)
        return "KVM_GET_VCPU_MMAP_SIZE";
    g->run = g->kvm->mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
    if (g->run == MAP_FAILED)
        return "mmap of kvm_run";
    if (set_cpuid(g) || g->kvm->ioctl(g->vcpu, KVM_GET_SREGS, &g->sregs) ||
        g->kvm->ioctl(g->vcpu, KVM_SET_XCRS, &xcrs) || g->kvm->ioctl(g->vcpu, KVM_GET_XSAVE, &g->xsave))
        return "setting registers";
    return NULL;
}

/* What the engine says about its failure. */
static void explain(struct modes *g, struct diff_outcome *o)
{
    _Alignas(struct kage_text) uint8_t buffer[sizeof(struct kage_text) + sizeof(o->text)] = {0};
    struct kage_text *message = (struct kage_text *)buffer;

    message->bytes = sizeof(o->text);
    if (!g->mode->kernel && g->kvm->ioctl(g->vcpu, KAGE_GET_ERROR, message) >= 0)
        memcpy(o->text, message->text, sizeof(o->text) - 1);
}

_Noreturn void diff_modes_run(struct diff_batch *batch, uint32_t first, const struct diff_mode *mode)
{
    static struct modes modes;
    struct modes *g = &modes;
    struct rlimit no_core = {0, 0};

    setrlimit(RLIMIT_CORE, &no_core);
    g->mode = mode;
    const char *failed = modes_init(g);
    if (failed) {
        fprintf(stderr, "difftest: %s: %s: %s\n", mode->name, failed, strerror(errno));
        _exit(3);
    }
    for (uint32_t i = first; i < batch->count; i++) {
        struct diff_outcome *o = &batch->outcomes[i];
        atomic_store(&batch->current, i);
        if (case_load(g, &batch->cases[i]) || run_to_halt(g) || outcome_take(g, o)) {
            o->note = g->run->exit_reason;
            o->status = mode->kernel && g->run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? DIFF_REFUSED : DIFF_CRASH;
            explain(g, o);
            _exit(5);
        }
    }
    atomic_store(&batch->current, batch->count);
    _exit(0);
}
