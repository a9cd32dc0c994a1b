/* SPDX-License-Identifier: MIT */
/*
 * Runtime of the guest tests: what every image links. Images run alone in 64-bit ring 0 on memory
 * that start.S has mapped one to one; there is no libc, no vector state and no interrupt until a
 * test asks for one. Everything a test reports goes through check(): one line, one name.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define USER_TEXT __attribute__((section(".user.text"), noinline))
#define USER_DATA __attribute__((section(".user.data")))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* ---- selectors of the GDT that start.S loads ---- */
#define SEL_KCS 0x08
#define SEL_KDS 0x10
#define SEL_UCS32 0x18
#define SEL_UDS 0x20
#define SEL_UCS 0x28
#define SEL_TSS 0x30    /* and 0x38 */
#define SEL_FREE 0x40   /* to the end: for the tests */
#define GDT_ENTRIES 32
extern uint64_t gdt[GDT_ENTRIES];

/* ---- result ---- */
void print(const char *fmt, ...); /* %s %c %d %u %x %lx %lu %p */
void check(bool ok, const char *name);
void check_eq(uint64_t got, uint64_t expected, const char *name);
void skip(const char *name, const char *why);
_Noreturn void finish(void);
extern uint64_t guest_arg; /* column arg= of the index */

/* ---- exceptions ---- */
#define VEC_NONE 0xffffu
enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM };

struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error, rip, cs, rflags, rsp, ss;
};
/* What the last caught exception looked like; vector is VEC_NONE if there was none. */
struct fault {
    uint64_t vector, error, rip, cs, rflags, rsp, ss, cr2, dr6, handler_rsp, rax, rcx, rsi, rdi;
};
extern volatile struct fault fault;

typedef void test_fn(uint64_t arg);
typedef void irq_fn(struct frame *frame);
extern irq_fn *volatile irq_handlers[256];

/* Runs fn(arg) in ring 0 / in ring 3 until it returns or faults; gives fault.vector. */
unsigned run_catch(test_fn *fn, uint64_t arg);
unsigned run_user(test_fn *fn, uint64_t arg);
extern uint64_t user_rflags;       /* RFLAGS of run_user(); starts as 2 */
extern uint64_t user_result;       /* RAX with which the user function returned */
extern uint8_t user_stack[8192];
void user_return(void);            /* return address of user code */

/* Jumps to rip as CPL 3 by hand-made frames: see entry.S. */
unsigned run_asm(void *entry, uint64_t arg); /* like run_catch, entry is raw code that ends by ret */

void exceptions_init(void);
void idt_set(unsigned vector, void *entry, unsigned type_attr, unsigned ist, unsigned selector);
void idt_set_ist(unsigned vector, unsigned ist);
void idt_set_dpl(unsigned vector, unsigned dpl);
void idt_set_present(unsigned vector, bool present);
void idt_reset(void);
struct idt_gate {
    uint16_t offset_low, selector;
    uint8_t ist, type_attr;
    uint16_t offset_mid;
    uint32_t offset_high, zero;
};
extern struct idt_gate idt[256];
struct table_ptr {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));
extern const struct table_ptr gdt_ptr;
struct tss {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, iomap;
    uint8_t bitmap[8193];
} __attribute__((packed));
extern struct tss tss;
extern uint8_t ist_stack[7][4096];
extern uint8_t rsp0_stack[8192];

/*
 * TRY("insn", outputs : inputs : clobbers): runs one instruction that may fault, and goes on behind
 * it; gives fault.vector. The instruction must leave RSP alone.
 */
#define EX_ENTRY "\n8:\n.pushsection .ex,\"a\"\n.quad 7b, 8b\n.popsection\n"
#define TRY(insn, ...)                                                                             \
    ({                                                                                         \
        fault.vector = VEC_NONE;                                                           \
        fault.error = 0;                                                                   \
        asm volatile("7: " insn EX_ENTRY __VA_ARGS__);                                     \
        (unsigned)fault.vector;                                                            \
    })

/* ---- paging ---- */
#define PTE_P (1ull << 0)
#define PTE_W (1ull << 1)
#define PTE_U (1ull << 2)
#define PTE_PWT (1ull << 3)
#define PTE_PCD (1ull << 4)
#define PTE_A (1ull << 5)
#define PTE_D (1ull << 6)
#define PTE_PS (1ull << 7)
#define PTE_G (1ull << 8)
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

extern uint64_t root_table[512];
uint64_t *table_alloc(void);      /* a zeroed page: of page tables, or for any use */
/* The entry of va at level 1 (4 KiB) to 4, making tables (P|W|U) above it. root: page of the PML4. */
uint64_t *pte_of(uint64_t *root, uint64_t va, unsigned level);
void map_page(uint64_t va, uint64_t pa, uint64_t flags); /* 4 KiB in root_table, and INVLPG */
#define TEST_VA 0x8000000000ull /* PML4 entry 1: nothing is mapped there */

/* ---- runner services (see runner.c) ---- */
#define PORT_CONSOLE 0xe9
#define PORT_EXIT 0xf4
#define PORT_TEST 0x500    /* 16 ports that log */
#define PORT_LOG_CTRL 0x510 /* out32: 0 clear log */
#define PORT_LOG_DATA 0x514 /* in32: next word of the log: see struct log_word in runner.c */
#define PORT_COMMAND 0x518 /* out32: command | argument << 8 | delay_ms << 16 */
#define PORT_PRESENT 0x51c /* in32: 0x4b414745 if the runner's test device is there */
#define CMD_IRQ_HIGH 1
#define CMD_IRQ_LOW 2
#define CMD_NMI 3
#define MMIO_TEST 0xd0000000ull
bool have_test_device(void);

/* ---- CPU ---- */
static inline void outb(uint16_t p, uint8_t v) { asm volatile("outb %0, %1" ::"a"(v), "Nd"(p) : "memory"); }
static inline void outw(uint16_t p, uint16_t v) { asm volatile("outw %0, %1" ::"a"(v), "Nd"(p) : "memory"); }
static inline void outl(uint16_t p, uint32_t v) { asm volatile("outl %0, %1" ::"a"(v), "Nd"(p) : "memory"); }
static inline uint8_t inb(uint16_t p) { uint8_t v; asm volatile("inb %1, %0" : "=a"(v) : "Nd"(p) : "memory"); return v; }
static inline uint16_t inw(uint16_t p) { uint16_t v; asm volatile("inw %1, %0" : "=a"(v) : "Nd"(p) : "memory"); return v; }
static inline uint32_t inl(uint16_t p) { uint32_t v; asm volatile("inl %1, %0" : "=a"(v) : "Nd"(p) : "memory"); return v; }
#define CR_ACCESS(n)                                                                               \
    static inline uint64_t read_cr##n(void) { uint64_t v; asm volatile("mov %%cr" #n ", %0" : "=r"(v)::"memory"); return v; } \
    static inline void write_cr##n(uint64_t v) { asm volatile("mov %0, %%cr" #n ::"r"(v) : "memory"); }
CR_ACCESS(0) CR_ACCESS(2) CR_ACCESS(3) CR_ACCESS(4) CR_ACCESS(8)
#define DR_ACCESS(n)                                                                               \
    static inline uint64_t read_dr##n(void) { uint64_t v; asm volatile("mov %%dr" #n ", %0" : "=r"(v)::"memory"); return v; } \
    static inline void write_dr##n(uint64_t v) { asm volatile("mov %0, %%dr" #n ::"r"(v) : "memory"); }
DR_ACCESS(0) DR_ACCESS(1) DR_ACCESS(2) DR_ACCESS(3) DR_ACCESS(6) DR_ACCESS(7)
static inline void invlpg(uint64_t va) { asm volatile("invlpg (%0)" ::"r"(va) : "memory"); }
static inline uint64_t rdmsr(uint32_t i) { uint32_t l, h; asm volatile("rdmsr" : "=a"(l), "=d"(h) : "c"(i) : "memory"); return l | (uint64_t)h << 32; }
static inline void wrmsr(uint32_t i, uint64_t v) { asm volatile("wrmsr" ::"c"(i), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory"); }
static inline unsigned try_wrmsr(uint32_t i, uint64_t v) { return TRY("wrmsr", ::"c"(i), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory"); }
static inline unsigned try_rdmsr(uint32_t i, uint64_t *v) {
    uint32_t l = 0, h = 0;
    unsigned vec = TRY("rdmsr", : "+a"(l), "+d"(h) : "c"(i) : "memory");
    *v = l | (uint64_t)h << 32;
    return vec;
}
static inline unsigned try_write_cr0(uint64_t v) { return TRY("mov %0, %%cr0", ::"r"(v) : "memory"); }
static inline unsigned try_write_cr3(uint64_t v) { return TRY("mov %0, %%cr3", ::"r"(v) : "memory"); }
static inline unsigned try_write_cr4(uint64_t v) { return TRY("mov %0, %%cr4", ::"r"(v) : "memory"); }
static inline uint64_t rdtsc(void) { uint32_t l, h; asm volatile("rdtsc" : "=a"(l), "=d"(h)::"memory"); return l | (uint64_t)h << 32; }
static inline uint64_t read_rflags(void) { uint64_t v; asm volatile("pushfq; pop %0" : "=r"(v)::"memory"); return v; }
static inline void write_rflags(uint64_t v) { asm volatile("push %0; popfq" ::"r"(v) : "memory", "cc"); }
static inline void cli(void) { asm volatile("cli" ::: "memory"); }
static inline void sti(void) { asm volatile("sti" ::: "memory"); }
static inline void sti_hlt(void) { asm volatile("sti; hlt" ::: "memory"); }
static inline void sti_nop_cli(void) { asm volatile("sti; .rept 16; nop; .endr; cli" ::: "memory"); }
struct cpuid { uint32_t a, b, c, d; };
static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub) { struct cpuid r; asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub)); return r; }
bool is_amd(void);
bool has_feature(uint32_t leaf, unsigned reg, unsigned bit); /* reg: 0 eax … 3 edx; false above the maximum leaf */
#define HAS_X2APIC has_feature(1, 2, 21)
#define HAS_DEADLINE has_feature(1, 2, 24)
#define HAS_PCID has_feature(1, 2, 17)
#define HAS_XSAVE has_feature(1, 2, 26)
#define HAS_AVX has_feature(1, 2, 28)
#define HAS_CX16 has_feature(1, 2, 13)
#define HAS_FSGSBASE has_feature(7, 1, 0)
#define HAS_SMEP has_feature(7, 1, 7)
#define HAS_INVPCID has_feature(7, 1, 10)
#define HAS_SMAP has_feature(7, 1, 20)
#define HAS_UMIP has_feature(7, 2, 2)
#define HAS_1G has_feature(0x80000001u, 3, 26)
#define HAS_RDTSCP has_feature(0x80000001u, 3, 27)
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)
#define CR4_TSD (1u << 2)
#define CR4_DE (1u << 3)
#define CR4_PAE (1u << 5)
#define CR4_PGE (1u << 7)
#define CR4_OSFXSR (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP (1u << 11)
#define CR4_FSGSBASE (1u << 16)
#define CR4_PCIDE (1u << 17)
#define CR4_OSXSAVE (1u << 18)
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)
#define FL_CF (1u << 0)
#define FL_ZF (1u << 6)
#define FL_TF (1u << 8)
#define FL_IF (1u << 9)
#define FL_DF (1u << 10)
#define FL_IOPL (3u << 12)
#define FL_NT (1u << 14)
#define FL_RF (1u << 16)
#define FL_AC (1u << 18)
#define FL_ID (1u << 21)
#define MSR_EFER 0xc0000080u
#define EFER_SCE 1u
#define EFER_NX (1u << 11)

void *memcpy(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* ---- interrupt chips (apic.c) ---- */
#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SPIV 0xf0
#define APIC_ISR 0x100
#define APIC_TMR 0x180
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define APIC_LVTT 0x320
#define APIC_LVT0 0x350
#define APIC_LVT1 0x360
#define APIC_LVTERR 0x370
#define APIC_TMICT 0x380
#define APIC_TMCCT 0x390
#define APIC_TDCR 0x3e0
#define MSR_APIC_BASE 0x1b
#define MSR_TSC_DEADLINE 0x6e0
extern bool apic_x2;
uint32_t apic_read(unsigned reg);
void apic_write(unsigned reg, uint32_t value);
void apic_enable(bool x2);       /* software-enables it, spurious vector 0xff, LINT0 masked */
void apic_icr(uint32_t dest, uint32_t low);
bool apic_bit(unsigned base, unsigned vector); /* IRR, ISR or TMR */
void pic_init(unsigned base1, unsigned base2); /* remap, all masked */
void pic_mask(uint16_t mask);
uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t value);
void ioapic_route(unsigned pin, uint64_t entry);
void pit_start(unsigned mode, uint16_t count);
extern volatile unsigned irq_count[256];
void irq_count_eoi(struct frame *f); /* handler: counts, APIC EOI */
void irq_count_only(struct frame *f);
bool wait_irq(unsigned vector, unsigned count, unsigned ms); /* spins with IF=1; true if it came */

void test_main(void); /* the test */

#endif
