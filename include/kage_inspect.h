/* SPDX-License-Identifier: MIT */
/*
 * Looking into a VM of the soft back end while it runs: KAGE_INSPECT, an extension ioctl beside those of kage.h, which
 * KVM_CHECK_EXTENSION(KAGE_CAP_INSPECT) says the version of (1; 0 on the kernel). It changes nothing that a guest can see: no
 * accessed bit, no EPT entry, no TLB entry. docs/memory.md shows what can be read off it; `kage inspect` is made of it.
 *
 * What belongs to a vCPU is taken between two of its VM exits: by the vCPU's own thread if it is in KVM_RUN, else by the
 * caller with the vCPU's mutex. Numbers are those of one moment within a topic, not across topics.
 */
#ifndef KAGE_INSPECT_H
#define KAGE_INSPECT_H

#include "kage.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KAGE_CAP_INSPECT 0x6b616769 /* "kagi" */

enum kage_inspect_topic {
    KAGE_INSPECT_VM = 0,     /* one struct kage_inspect_vm */
    KAGE_INSPECT_VCPU = 1,   /* one struct kage_inspect_vcpu */
    KAGE_INSPECT_VMCS = 2,   /* struct kage_inspect_field, one for each VMCS field, by encoding */
    KAGE_INSPECT_WALK = 3,   /* one struct kage_inspect_walk: the way of `address` to memory */
    KAGE_INSPECT_TABLES = 4, /* struct kage_inspect_level, one for each level of the EPT, the root's last: EOPNOTSUPP without EPT */
    KAGE_INSPECT_RANGES = 5, /* struct kage_inspect_range: what the EPT maps at `address` and above */
    KAGE_INSPECT_TLB = 6,    /* struct kage_inspect_tlb, then its entries */
    KAGE_INSPECT_SLOTS = 7,  /* struct kage_inspect_slot, by guest-physical address */
    KAGE_INSPECT_EXITS = 8,  /* struct kage_inspect_exit of one vCPU, for each reason that there was */
    KAGE_INSPECT_STATS = 9,  /* struct kage_stat of one vCPU, or of the VM (`vcpu` KAGE_INSPECT_WHOLE_VM) */
    KAGE_INSPECT_SHADOW = 10, /* struct kage_inspect_shadow_page, most recently used first */
    KAGE_INSPECT_TOPICS
};

#define KAGE_INSPECT_WHOLE_VM UINT32_MAX

/*
 * On a VM handle. As many whole elements as there is room for are stored. EINVAL: no such topic or vCPU. ETIMEDOUT: the
 * vCPU's thread did not come by for five seconds. EOPNOTSUPP: not with this VM's MMU.
 */
struct kage_inspect {
    __u32 topic;   /* enum kage_inspect_topic */
    __u32 vm;      /* of kage_inspect() */
    __u32 vcpu;    /* by index, in the order in which they were made */
    __u32 flags;   /* KAGE_INSPECT_GPA */
    __u64 address; /* WALK, RANGES; after RANGES: where the next call goes on, UINT64_MAX at the end */
    __u64 data;    /* address of the room for the answer */
    __u32 bytes;   /* in: room; out: what was filled */
    __u32 count;   /* out: elements that there are */
};
#define KAGE_INSPECT_GPA (1u << 0) /* WALK: `address` is guest-physical */
#define KAGE_INSPECT _IOWR(KAGE_IO, 0x10, struct kage_inspect)
#define KAGE_INSPECT_MAX_BYTES (1u << 20) /* more room than this is not used */

/*
 * The same for the VM of number ask->vm among those of the calling process, oldest first, without a handle: from a thread
 * that has no descriptors, say. ENODEV: there is no such VM. 0, or -1 and errno.
 */
int kage_inspect(struct kage_inspect *ask);

struct kage_inspect_vm {
    __u32 mmu; /* KAGE_MMU_* */
    __u32 vms; /* of this process */
    __u32 vcpus;
    __u32 slots;
    __u64 memory_bytes; /* of all slots */
    __u64 ept_pointer;
    __u64 table_pages; /* of the EPT, or shadow pages */
    __u64 pages[3];    /* mapped at 4 KiB, 2 MiB, 1 GiB: by the EPT, or entries of shadow pages */
    __u64 max_table_pages; /* the bound on shadow pages */
};

struct kage_inspect_vcpu {
    __u64 gpr[16]; /* RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15 */
    __u64 rip, rflags, cr0, cr2, cr3, cr4, cr8, efer, xcr0; /* as the guest sees them */
    __u64 actual_cr0, actual_cr3, actual_cr4, actual_efer;  /* as the processor runs with them */
    __u64 cs_base, tsc_offset, exits;
    __u32 id;
    __u32 mp_state; /* KVM_MP_STATE_* */
    __u32 cpl;
    __u32 code_bits; /* 16, 32 or 64 */
    __u32 in_run;    /* its thread is in KVM_RUN */
    __u32 cs_selector;
    __u32 exit_reason;  /* of the last VM exit, SDM 3C appendix C */
    __u32 pad;
    char exit_name[40];
};

struct kage_inspect_field {
    __u32 encoding; /* SDM 3C appendix B */
    __u16 width;    /* 16, 32, 64, or 0 for natural */
    __u16 read_only;
    __u64 value;
    char name[40];
};

/* One entry on the way down. */
struct kage_inspect_step {
    __u64 table; /* address of its table: guest-physical in the guest's own tables, the client's in EPT and shadow tables */
    __u64 entry;
    __u64 host; /* where the entry lies in the client's memory; 0: in a register, or nowhere */
    __u32 level; /* 1: page table */
    __u32 index;
    __u32 flags;  /* KAGE_STEP_* */
    __u32 rights; /* KAGE_RIGHT_* that remain from the root to here */
};
#define KAGE_STEP_READ (1u << 0) /* there is memory: `entry` holds */
#define KAGE_STEP_PRESENT (1u << 1)
#define KAGE_STEP_LEAF (1u << 2)
#define KAGE_STEP_RESERVED (1u << 3) /* reserved bits are set: the walk ends here */
#define KAGE_STEP_REGISTER (1u << 4) /* PDPTE of PAE paging, in the VMCS */
#define KAGE_STEP_MMIO (1u << 5)     /* EPT, shadow: an entry that says "no memory" */

#define KAGE_RIGHT_R (1u << 0)
#define KAGE_RIGHT_W (1u << 1)
#define KAGE_RIGHT_X (1u << 2)
#define KAGE_RIGHT_U (1u << 3) /* of user mode, too */

#define KAGE_INSPECT_STEPS 5
struct kage_inspect_walk {
    __u64 gva, gpa, hva;
    __u32 flags;       /* KAGE_WALK_* */
    __u32 error;       /* page-fault error code of a supervisor's read, where the guest's tables end it */
    __u32 paging;      /* enum kage_inspect_paging */
    __u32 page_shift;  /* of the guest's page */
    __u32 rights;      /* of the guest's mapping */
    __u32 second_page_shift, second_rights;
    __u32 slot, slot_flags; /* if KAGE_WALK_SLOT; KVM_MEM_* */
    __u32 tlb_first;   /* first-level entries for it: bit 2 * regime (KAGE_REGIME_*) for reads, 2 * regime + 1 for writes */
    __u32 guest_count, second_count;
    struct kage_inspect_step guest[KAGE_INSPECT_STEPS];
    struct kage_inspect_step second[KAGE_INSPECT_STEPS]; /* of the EPT for gpa; of the shadow tables for gva */
};
#define KAGE_WALK_GVA (1u << 0)          /* asked by guest-virtual address */
#define KAGE_WALK_NOT_CANONICAL (1u << 1)
#define KAGE_WALK_GPA (1u << 2)          /* the guest's tables lead to gpa (or it was given) */
#define KAGE_WALK_SECOND (1u << 3)       /* EPT or shadow tables lead to hva */
#define KAGE_WALK_SLOT (1u << 4)         /* a memory slot holds gpa; without KAGE_WALK_SECOND, hva is where it would lead */
#define KAGE_WALK_GLOBAL (1u << 5)
#define KAGE_WALK_DIRTY (1u << 6)
#define KAGE_WALK_TLB (1u << 7)          /* the second-level TLB holds it */
/* second[] is of shadow tables; else of the EPT, which in a VM with shadow tables the engine walks, not the processor. */
#define KAGE_WALK_SHADOW (1u << 8)

enum kage_inspect_paging {
    KAGE_PAGING_NONE, KAGE_PAGING_32, KAGE_PAGING_PAE, KAGE_PAGING_4LEVEL, KAGE_PAGING_5LEVEL
};

struct kage_inspect_level {
    __u32 level; /* 1: page tables */
    __u32 pad;
    __u64 tables, links, leaves, mmio; /* tables at this level; their entries that lead to tables, to pages, and that say "no memory" */
};

struct kage_inspect_range {
    __u64 gpa, bytes, host;
    __u32 page_shift, rights; /* KAGE_RIGHT_* */
    __u64 accessed, dirty;    /* pages of that size */
};

/* Translation regimes of the first level's banks. */
#define KAGE_REGIME_KERNEL 0u      /* supervisor, SMAP enforced */
#define KAGE_REGIME_KERNEL_USER 1u /* supervisor, user pages allowed */
#define KAGE_REGIME_USER 2u

struct kage_inspect_tlb_entry {
    __u64 va, gpa, host;
    __u16 pcid;
    __u16 flags; /* KAGE_TLB_* */
    __u32 first; /* as tlb_first of kage_inspect_walk */
};
#define KAGE_TLB_GLOBAL (1u << 0)
#define KAGE_TLB_USER (1u << 1)
#define KAGE_TLB_WRITE (1u << 2)
#define KAGE_TLB_NX (1u << 3)
#define KAGE_TLB_DIRTY (1u << 4)
#define KAGE_TLB_LARGE (1u << 5)       /* a piece of a large page */
#define KAGE_TLB_HOST_WRITE (1u << 6)  /* the memory behind it may be written */

struct kage_inspect_tlb {
    __u32 first_size, second_size;      /* entries of one bank, and of the second level */
    __u32 first_valid[3][2];            /* by regime: reads, writes */
    __u32 pde_size, pde_valid;          /* cached ways to the guest's page tables */
    __u32 pdpte_size, pdpte_valid;      /* and to its page directories */
    __u32 phys_size, phys_valid;        /* cached walks of the second dimension */
    __u32 pcid, pcids;                  /* the current one; those that have valid entries to come */
    __u64 misses, second_misses;        /* of the first level; of both: walks */
    __u64 flushes, page_flushes;
    __u32 count, pad;
    struct kage_inspect_tlb_entry entries[];
};

struct kage_inspect_slot {
    __u32 id, flags; /* KVM_MEM_* */
    __u64 gpa, bytes, hva;
    __u64 dirty_pages; /* noted since the log was last taken */
    __u64 pages[3];    /* mapped at 4 KiB, 2 MiB, 1 GiB */
};

struct kage_inspect_exit {
    __u32 reason, pad; /* basic exit reason, SDM 3C appendix C */
    __u64 count;
    char name[40];
};

struct kage_inspect_shadow_page {
    __u64 gfn;   /* of the guest's table that it shadows; of the first page that it maps, if direct */
    __u64 table; /* the client's address of the shadow table */
    __u32 level; /* 1: page table */
    __u32 flags; /* KAGE_SHADOW_* */
    __u32 entries; /* present ones of its 512 */
    __u32 parents; /* entries of other shadow pages that lead here */
    __u32 roots;   /* that vCPUs have or had */
    __u32 rights;  /* KAGE_RIGHT_* that are left above it */
    __u32 quadrant; /* of a 32-bit guest's table */
    __u32 pad;
};
#define KAGE_SHADOW_DIRECT (1u << 0)   /* no guest table: paging is off, or a large guest page in smaller ones */
#define KAGE_SHADOW_OWN_ROOT (1u << 1) /* no guest table: a level that the guest's format does not have */
#define KAGE_SHADOW_OPEN (1u << 2)     /* the guest may write its table: it is compared at each flush (KVM's "unsync") */
#define KAGE_SHADOW_CLOSING (1u << 3)  /* being write-protected */
#define KAGE_SHADOW_32BIT (1u << 4)
#define KAGE_SHADOW_PAE (1u << 5)
#define KAGE_SHADOW_WP (1u << 6)       /* of the role: CR0.WP */
#define KAGE_SHADOW_NX (1u << 7)       /* EFER.NX */

#ifdef __cplusplus
}
#endif

#endif
