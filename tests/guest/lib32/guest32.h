/* SPDX-License-Identifier: MIT */
/*
 * Runtime of the guest tests that run below 64-bit mode: 32-bit C on bare protected mode without
 * paging, flat segments, and ways down to ring 3, virtual-8086 mode and real mode. As in lib/, what a
 * test reports goes through check(): one line, one name.
 */
#ifndef GUEST32_H
#define GUEST32_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Code and data in pages of their own, for tests that map those for CPL 3. */
#define USER_TEXT __attribute__((section(".user.text"), noinline))
#define USER_DATA __attribute__((section(".user.data")))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* ---- selectors of the GDT that start32.S loads ---- */
#define SEL_KCS 0x08
#define SEL_KDS 0x10
#define SEL_CS16 0x18  /* 64 KiB at 0 */
#define SEL_DS16 0x20
#define SEL_UCS 0x28
#define SEL_UDS 0x30
#define SEL_TSS 0x38
#define SEL_DF_TSS 0x40
#define SEL_FREE 0x50  /* to the end: for the tests */
#define GDT_ENTRIES 64
extern uint64_t gdt[GDT_ENTRIES];
/* A descriptor: flags are G, D, L, AVL in bits 3..0; access is byte 5. */
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags);
uint64_t gate(uint32_t offset, unsigned selector, unsigned access, unsigned words);
#define FLAT32(access) descriptor(0, 0xfffff, access, 0xc)
#define FLAT16(access) descriptor(0, 0xfffff, access, 0x8)

/* ---- result ---- */
void print(const char *fmt, ...); /* %s %c %d %u %x */
void check(bool ok, const char *name);
void check_eq(uint32_t got, uint32_t expected, const char *name);
void skip(const char *name, const char *why);
_Noreturn void finish(void);
extern uint32_t guest_arg; /* column arg= of the index */

/* ---- exceptions ---- */
#define VEC_NONE 0xffffu
enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM };

struct frame32 {
    uint32_t gs, fs, es, ds, edi, esi, ebp, esp0, ebx, edx, ecx, eax;
    uint32_t vector, error, eip, cs, eflags, esp, ss, v86_es, v86_ds, v86_fs, v86_gs;
};
/* What the last caught exception looked like; vector is VEC_NONE if there was none. */
struct fault {
    uint32_t vector, error, eip, cs, eflags, esp, ss, es, ds, fs, gs, eax, ebx, ecx, edx, esi, edi, ebp;
    uint32_t cr2, dr6, handler_esp, tr;
    uint32_t handler_ds, handler_gs;
};
extern volatile struct fault fault;
typedef void irq_fn(struct frame32 *frame);
extern irq_fn *volatile irq_handlers[256];

/* Calls entry(arg) in ring 0 until it returns or faults; gives fault.vector. */
unsigned run_catch(const void *entry, uint32_t arg);
/* Enters ring 3 at entry with EAX = arg, flags user_eflags; HLT ends it (VEC_NONE), and any exception. */
unsigned run_user(const void *entry, uint32_t arg);
/* Calls fn(arg) in ring 3, on a stack in USER_DATA. */
unsigned call_user(void (*fn)(uint32_t), uint32_t arg);
extern uint32_t user_eflags, user_cs, user_ss, user_esp;
extern uint8_t user_stack[4096], ring0_stack[8192];

struct tss32 {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
    uint32_t es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
    uint8_t redirection[32], bitmap[0x800], end;
} __attribute__((packed));
extern struct tss32 tss, df_tss;

void idt_set(unsigned vector, const void *entry, unsigned access, unsigned selector);
void idt_reset(void);
extern uint64_t idt[256];
extern uint8_t vector_stubs[];
struct table_ptr {
    uint16_t limit;
    uint32_t base;
} __attribute__((packed));
extern const struct table_ptr idt_ptr, gdt_ptr;
void load_main_tss(void); /* LTR of the main TSS, freshly made */

/* TRY("insn", outputs : inputs : clobbers): one instruction that may fault, and must leave ESP alone; gives fault.vector. */
#define EX_ENTRY "\n8:\n.pushsection .ex,\"a\"\n.long 7b, 8b\n.popsection\n"
#define TRY(insn, ...)                                                                             \
    ({                                                                                         \
        fault.vector = VEC_NONE;                                                           \
        fault.error = 0;                                                                   \
        asm volatile("7: " insn EX_ENTRY __VA_ARGS__);                                     \
        (unsigned)fault.vector;                                                            \
    })

/* Pieces of code: their bytes are name[0 .. name_end). */
#define CODE(bits, name, text)                                                                     \
    extern const uint8_t name[], name##_end[];                                                 \
    asm(".pushsection .text\n.code" #bits "\n" #name ":\n" text "\n" #name "_end:\n.code32\n.popsection")
#define CODE16(name, text) CODE(16, name, text)
#define CODE32(name, text) CODE(32, name, text)

/* ---- virtual-8086 mode ---- */
#define V86_CS 0x2000
#define V86_SS 0x3000
#define V86_SP 0xff00
#define V86_MEM(seg, off) ((void *)(((uint32_t)(seg) << 4) + (off)))
/* Runs a copy of the code at V86_CS:0 in virtual-8086 mode with EAX = arg; HLT ends it (VEC_NONE). eflags without VM. */
unsigned run_v86(const uint8_t *code, const uint8_t *end, uint32_t arg, uint32_t eflags);
extern uint16_t v86_ds; /* and ES, FS, GS: + 1, + 2, + 3 */

/* ---- real mode ---- */
#define REAL_CS 0x1000
struct real_regs { /* at 0x1000, see entry32.S */
    uint32_t eax, ebx, ecx, edx, esi, edi, ebp, eflags, sp;
    uint16_t ds, es, fs, gs, ss, cs, ip, vector; /* vector: VEC_NONE if the code came to its end by RETF */
    uint16_t frame_flags, pad;
};
extern struct real_regs real; /* in: eax to ebp; out: all */
/* Runs a copy of the code at REAL_CS:0 until it returns by RETF or faults; gives real.vector. */
unsigned run_real(const uint8_t *code, const uint8_t *end);

/* ---- paging ---- */
#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_A 0x20u
#define PTE_D 0x40u
#define PTE_PS 0x80u
#define PTE_G 0x100u
#define PTE_NX (1ull << 63)
#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u
void *page_alloc(void); /* a zeroed page, from 2 MiB up */

/* ---- runner services (see ../runner.c) ---- */
#define PORT_TEST 0x500    /* 16 ports that log */
#define PORT_LOG_CTRL 0x510 /* out32: 0 clear log */
#define PORT_LOG_DATA 0x514 /* in32: next word of the log */

/* ---- CPU ---- */
static inline void outl(uint16_t p, uint32_t v) { asm volatile("outl %0, %1" ::"a"(v), "Nd"(p) : "memory"); }
static inline uint32_t inl(uint16_t p) { uint32_t v; asm volatile("inl %1, %0" : "=a"(v) : "Nd"(p) : "memory"); return v; }
static inline void write_cr2(uint32_t v) { asm volatile("mov %0, %%cr2" ::"r"(v)); }
static inline unsigned try_write_cr0(uint32_t v) { return TRY("mov %0, %%cr0", ::"r"(v) : "memory"); }
static inline unsigned try_write_cr3(uint32_t v) { return TRY("mov %0, %%cr3", ::"r"(v) : "memory"); }
static inline unsigned try_write_cr4(uint32_t v) { return TRY("mov %0, %%cr4", ::"r"(v) : "memory"); }
static inline void invlpg(uint32_t va) { asm volatile("invlpg (%0)" ::"r"(va) : "memory"); }
static inline void outb(uint16_t p, uint8_t v) { asm volatile("outb %0, %1" ::"a"(v), "Nd"(p) : "memory"); }
static inline uint32_t read_cr0(void) { uint32_t v; asm volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline void write_cr0(uint32_t v) { asm volatile("mov %0, %%cr0" ::"r"(v) : "memory"); }
static inline uint32_t read_cr2(void) { uint32_t v; asm volatile("mov %%cr2, %0" : "=r"(v)); return v; }
static inline uint32_t read_cr3(void) { uint32_t v; asm volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline void write_cr3(uint32_t v) { asm volatile("mov %0, %%cr3" ::"r"(v) : "memory"); }
static inline uint32_t read_cr4(void) { uint32_t v; asm volatile("mov %%cr4, %0" : "=r"(v)); return v; }
static inline void write_cr4(uint32_t v) { asm volatile("mov %0, %%cr4" ::"r"(v) : "memory"); }
static inline uint32_t read_dr6(void) { uint32_t v; asm volatile("mov %%dr6, %0" : "=r"(v)); return v; }
static inline uint32_t read_dr7(void) { uint32_t v; asm volatile("mov %%dr7, %0" : "=r"(v)); return v; }
static inline void write_dr7(uint32_t v) { asm volatile("mov %0, %%dr7" ::"r"(v)); }
static inline uint32_t read_eflags(void) { uint32_t v; asm volatile("pushf; pop %0" : "=r"(v)); return v; }
static inline void write_eflags(uint32_t v) { asm volatile("push %0; popf" ::"r"(v) : "memory", "cc"); }
static inline uint16_t read_tr(void) { uint32_t v; asm volatile("str %0" : "=r"(v)); return (uint16_t)v; }
static inline uint64_t rdmsr(uint32_t m) { uint64_t v; asm volatile("rdmsr" : "=A"(v) : "c"(m)); return v; }
static inline void wrmsr(uint32_t m, uint64_t v) { asm volatile("wrmsr" ::"c"(m), "A"(v) : "memory"); }
void cpuid(uint32_t leaf, uint32_t r[4]);
bool is_amd(void);
bool has_feature(uint32_t leaf, unsigned reg, unsigned bit); /* reg: 0 eax … 3 edx; false above the maximum leaf */
#define HAS_XSAVE has_feature(1, 2, 26)
#define HAS_SMEP has_feature(7, 1, 7)
#define HAS_SMAP has_feature(7, 1, 20)
#define HAS_UMIP has_feature(7, 2, 2)
#define HAS_NX has_feature(0x80000001u, 3, 20)

#define CR0_PE 1u
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)
#define CR4_VME 1u
#define CR4_PVI 2u
#define CR4_DE (1u << 3)
#define CR4_PSE (1u << 4)
#define CR4_PAE (1u << 5)
#define CR4_PGE (1u << 7)
#define CR4_OSFXSR (1u << 9)
#define CR4_UMIP (1u << 11)
#define CR4_PCIDE (1u << 17)
#define CR4_OSXSAVE (1u << 18)
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)
#define FL_CF 1u
#define FL_ZF (1u << 6)
#define FL_TF (1u << 8)
#define FL_IF (1u << 9)
#define FL_OF (1u << 11)
#define FL_IOPL (3u << 12)
#define FL_NT (1u << 14)
#define FL_RF (1u << 16)
#define FL_VM (1u << 17)
#define FL_AC (1u << 18)
#define FL_VIF (1u << 19)
#define FL_VIP (1u << 20)
#define MSR_SYSENTER_CS 0x174u
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_EFER 0xc0000080u
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NX (1u << 11)
#define MSR_STAR 0xc0000081u

/* Memory at a low address, 0 too, which the compiler must not take for a null pointer. */
static inline volatile uint16_t *low_words(uint32_t address)
{
    asm("" : "+r"(address));
    return (volatile uint16_t *)address;
}

void *memcpy(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

void test_main(void); /* the test */

#endif
