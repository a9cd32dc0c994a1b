/* SPDX-License-Identifier: MIT */
/*
 * KAGE_INSPECT and kage_inspect(): what they say is what the test has set up, by the tables that it wrote itself; nothing
 * changes by looking; a vCPU in KVM_RUN is reached wherever it is; VMs come and go meanwhile.
 */
#include "kvm_client.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include <kage_inspect.h>

GUEST_CODE(halt_code, ".code64", "hlt");
GUEST_CODE(spin_code, ".code64", "1: jmp 1b");
GUEST_CODE(wait_code, ".code64", "sti\n 1: hlt\n jmp 1b");
/* Reads 3000h's alias, writes 9000h, then two CPUIDs. */
GUEST_CODE(touch_code, ".code64", "mov 0x3000, %eax\n movl $1, 0x9000\n xor %eax, %eax\n cpuid\n xor %eax, %eax\n cpuid\n hlt");

static int look_at(int vm, uint32_t topic, uint64_t address, uint32_t flags, void *data, uint32_t *bytes, uint32_t *count)
{
    struct kage_inspect look = { .topic = topic, .address = address, .flags = flags, .data = (uintptr_t)data, .bytes = *bytes };
    int result = ask(vm, KAGE_INSPECT, &look);

    *bytes = look.bytes;
    if (count)
        *count = look.count;
    return result;
}

static void one(struct client *c, uint32_t topic, void *data, uint32_t bytes)
{
    uint32_t filled = bytes;

    assert_int_equal(look_at(c->vm, topic, 0, 0, data, &filled, NULL), 0);
    assert_int_equal(filled, bytes);
}

static struct kage_inspect_walk walk(struct client *c, uint64_t address, uint32_t flags)
{
    struct kage_inspect_walk out;
    uint32_t bytes = sizeof(out), count;

    assert_int_equal(look_at(c->vm, KAGE_INSPECT_WALK, address, flags, &out, &bytes, &count), 0);
    assert_int_equal(bytes, sizeof(out));
    assert_int_equal(count, 1);
    return out;
}

static uint64_t field(struct client *c, uint32_t encoding, const char *name)
{
    struct kage_inspect_field fields[256];
    uint32_t bytes = sizeof(fields), count;

    assert_int_equal(look_at(c->vm, KAGE_INSPECT_VMCS, 0, 0, fields, &bytes, &count), 0);
    assert_int_equal(bytes, count * sizeof(fields[0]));
    for (uint32_t i = 0; i < count; i++) {
        assert_true(i == 0 || fields[i].encoding > fields[i - 1].encoding);
        if (fields[i].encoding == encoding) {
            assert_string_equal(fields[i].name, name);
            return fields[i].value;
        }
    }
    fail_msg("no field 0x%x", encoding);
    return 0;
}

/* ---- State ---- */

static void test_state(void **state)
{
    struct client *c = *state;
    struct kage_inspect_vm vm;
    struct kage_inspect_vcpu cpu;
    struct kvm_regs regs;
    struct kvm_sregs sregs;

    assert_int_equal(ask(c->vm, KVM_CHECK_EXTENSION, number(KAGE_CAP_INSPECT)), 1);
    client_load_64(c, 0x8000, halt_code, GUEST_BYTES(halt_code));
    client_run(c, KVM_EXIT_HLT);
    assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal(ask(c->vcpu, KVM_GET_SREGS, &sregs), 0);

    one(c, KAGE_INSPECT_VM, &vm, sizeof(vm));
    assert_int_equal(vm.mmu, KAGE_MMU_EPT);
    assert_int_equal(vm.vms, 1);
    assert_int_equal(vm.vcpus, 1);
    assert_int_equal(vm.slots, 1);
    assert_int_equal(vm.memory_bytes, CLIENT_HOLE);
    assert_true(vm.pages[0] > 0 && vm.pages[1] == 0 && vm.pages[2] == 0); /* the slot is too short for a large page */

    one(c, KAGE_INSPECT_VCPU, &cpu, sizeof(cpu));
    assert_int_equal(cpu.rip, regs.rip);
    assert_int_equal(cpu.rip, 0x8000 + GUEST_BYTES(halt_code));
    assert_int_equal(cpu.gpr[0], regs.rax);
    assert_int_equal(cpu.gpr[4], regs.rsp);
    assert_int_equal(cpu.gpr[15], regs.r15);
    assert_int_equal(cpu.rflags, regs.rflags);
    assert_int_equal(cpu.cr0, sregs.cr0);
    assert_int_equal(cpu.cr3, CLIENT_PML4);
    assert_int_equal(cpu.cr4, sregs.cr4);
    assert_int_equal(cpu.efer, sregs.efer);
    assert_int_equal(cpu.code_bits, 64);
    assert_int_equal(cpu.cpl, 0);
    assert_int_equal(cpu.in_run, 0);
    assert_string_equal(cpu.exit_name, "HLT");

    assert_int_equal(field(c, 0x681e, "GUEST_RIP"), regs.rip);
    assert_int_equal(field(c, 0x6802, "GUEST_CR3"), CLIENT_PML4);
    assert_int_equal(field(c, 0x4802, "GUEST_CS_LIMIT"), UINT32_MAX);
    assert_int_equal(field(c, 0x4402, "VM_EXIT_REASON"), 12);
    assert_int_equal(field(c, 0x201a, "EPT_POINTER"), vm.ept_pointer);
}

/* ---- Walks ---- */

static void check_step(const struct kage_inspect_step *s, struct client *c, unsigned level, uint64_t table, unsigned index, uint32_t rights)
{
    uint64_t entry;

    memcpy(&entry, c->memory + table + index * 8, 8);
    assert_int_equal(s->level, level);
    assert_int_equal(s->table, table);
    assert_int_equal(s->index, index);
    assert_int_equal(s->entry, entry);
    assert_int_equal(s->host, (uintptr_t)c->memory + table + index * 8);
    assert_int_equal(s->rights, rights);
    assert_true(s->flags & KAGE_STEP_READ);
}

#define RWXU (KAGE_RIGHT_R | KAGE_RIGHT_W | KAGE_RIGHT_X | KAGE_RIGHT_U)

static void test_walk_steps(void **state)
{
    struct client *c = *state;
    struct kage_inspect_walk w;

    client_load_64(c, 0x8000, halt_code, GUEST_BYTES(halt_code));
    client_word(c, CLIENT_PT + 8 * 9, 0x3000 | 1ull << 63 | 0x163);   /* 9000h: kernel, writable, dirty, global, no execution */
    client_word(c, CLIENT_PT + 8 * 10, 0x4000);                       /* not present */
    client_word(c, CLIENT_PT + 8 * 11, 0x4001 | 1ull << 51);          /* reserved */
    client_word(c, CLIENT_PT + 8 * 12, (0xfff000000001ull & ~0xfffull) | 5); /* to where no memory is */
    client_word(c, CLIENT_PD + 8 * 3, 0x83);                          /* 600000h: 2 MiB */
    client_word(c, CLIENT_PDPT + 8 * 2, 0x40000003);                  /* a table without memory */
    uint8_t before[0xf000];
    memcpy(before, c->memory, sizeof(before));
    struct kage_inspect_vm vm, after;
    one(c, KAGE_INSPECT_VM, &vm, sizeof(vm));

    w = walk(c, 0x7123, 0);
    assert_int_equal(w.paging, KAGE_PAGING_4LEVEL);
    assert_int_equal(w.guest_count, 4);
    check_step(&w.guest[0], c, 4, CLIENT_PML4, 0, RWXU);
    check_step(&w.guest[1], c, 3, CLIENT_PDPT, 0, RWXU);
    check_step(&w.guest[2], c, 2, CLIENT_PD, 0, RWXU);
    check_step(&w.guest[3], c, 1, CLIENT_PT, 7, RWXU);
    assert_int_equal(w.guest[3].flags, KAGE_STEP_READ | KAGE_STEP_PRESENT | KAGE_STEP_LEAF);
    assert_int_equal(w.guest[2].flags, KAGE_STEP_READ | KAGE_STEP_PRESENT);
    assert_int_equal(w.gpa, 0x7123);
    assert_int_equal(w.page_shift, 12);
    /* Not touched yet: not in the EPT, but known to the slot. */
    assert_int_equal(w.flags, KAGE_WALK_GVA | KAGE_WALK_GPA | KAGE_WALK_SLOT);
    assert_int_equal(w.hva, (uintptr_t)c->memory + 0x7123);
    assert_int_equal(w.slot, 0);

    w = walk(c, 0x9fff, 0);
    assert_int_equal(w.gpa, 0x3fff);
    assert_int_equal(w.rights, KAGE_RIGHT_R | KAGE_RIGHT_W);
    assert_int_equal(w.flags, KAGE_WALK_GVA | KAGE_WALK_GPA | KAGE_WALK_SLOT | KAGE_WALK_DIRTY);

    w = walk(c, 0xa000, 0);
    assert_int_equal(w.guest_count, 4);
    assert_int_equal(w.guest[3].flags, KAGE_STEP_READ);
    assert_int_equal(w.guest[3].rights, 0);
    assert_int_equal(w.flags, KAGE_WALK_GVA);
    assert_int_equal(w.error, 0);

    w = walk(c, 0xb000, 0);
    assert_true(w.guest[3].flags & KAGE_STEP_RESERVED);
    assert_int_equal(w.error, 9);

    w = walk(c, 0x6abcde, 0);
    assert_int_equal(w.guest_count, 3);
    assert_int_equal(w.gpa, 0xabcde);
    assert_int_equal(w.page_shift, 21);
    assert_int_equal(w.flags & KAGE_WALK_SLOT, 0);
    assert_int_equal(w.rights, KAGE_RIGHT_R | KAGE_RIGHT_W | KAGE_RIGHT_X);

    w = walk(c, 0x80000000, 0);
    assert_int_equal(w.guest_count, 3);
    assert_int_equal(w.guest[2].flags, 0);
    assert_int_equal(w.guest[2].host, 0);
    assert_int_equal(w.error, 9);

    w = walk(c, 0x800000000000, 0);
    assert_true(w.flags & KAGE_WALK_NOT_CANONICAL);
    assert_int_equal(w.guest_count, 0);

    w = walk(c, 0x3456, KAGE_INSPECT_GPA);
    assert_int_equal(w.flags, KAGE_WALK_GPA | KAGE_WALK_SLOT);
    assert_int_equal(w.hva, (uintptr_t)c->memory + 0x3456);
    w = walk(c, UINT64_MAX, KAGE_INSPECT_GPA);
    assert_int_equal(w.flags, KAGE_WALK_GPA);

    /* Looking has changed nothing: no bit of the guest's, no entry of the EPT. */
    assert_memory_equal(c->memory, before, sizeof(before));
    one(c, KAGE_INSPECT_VM, &after, sizeof(after));
    assert_memory_equal(&vm, &after, sizeof(vm));
}

/* After the guest has used it, the EPT and the TLB have what the walk leads to. */
static void test_walk_after_use(void **state)
{
    struct client *c = *state;
    struct kage_inspect_walk w;
    enum { ROOM = 1 << 20 };
    struct kage_inspect_tlb *tlb = malloc(ROOM);
    uint32_t bytes = ROOM;

    client_load_64(c, 0x8000, touch_code, GUEST_BYTES(touch_code));
    client_run(c, KVM_EXIT_HLT);
    w = walk(c, 0x9000, 0);
    assert_int_equal(w.guest[3].entry, 0x9000 | 0x67);
    assert_int_equal(w.flags, KAGE_WALK_GVA | KAGE_WALK_GPA | KAGE_WALK_SECOND | KAGE_WALK_SLOT | KAGE_WALK_DIRTY | KAGE_WALK_TLB);
    assert_int_equal(w.hva, (uintptr_t)c->memory + 0x9000);
    assert_true(w.second_count >= 3);
    assert_int_equal(w.second[w.second_count - 1].flags, KAGE_STEP_READ | KAGE_STEP_PRESENT | KAGE_STEP_LEAF);
    assert_int_equal(w.second[w.second_count - 1].entry & 0x000ffffffffff000ull, ((uintptr_t)c->memory + 0x9000) & ~0xfffull);
    for (unsigned i = 0; i + 1 < w.second_count; i++)
        assert_int_equal(w.second[i].entry & 0x000ffffffffff000ull, w.second[i + 1].table);
    for (unsigned i = 0; i < w.second_count; i++) {
        uint64_t entry = *(const uint64_t *)(uintptr_t)w.second[i].host;
        assert_int_equal(entry, w.second[i].entry);
    }
    assert_int_equal(w.second_rights & (KAGE_RIGHT_R | KAGE_RIGHT_W), KAGE_RIGHT_R | KAGE_RIGHT_W);
    assert_true(w.tlb_first & 2u << (2 * KAGE_REGIME_KERNEL_USER));
    assert_false(w.tlb_first & 3u << (2 * KAGE_REGIME_USER));

    assert_int_equal(look_at(c->vm, KAGE_INSPECT_TLB, 0, 0, tlb, &bytes, NULL), 0);
    assert_int_equal(bytes, sizeof(*tlb) + tlb->count * sizeof(tlb->entries[0]));
    unsigned seen = 0;
    for (uint32_t i = 0; i < tlb->count; i++) {
        const struct kage_inspect_tlb_entry *e = &tlb->entries[i];
        assert_int_equal(e->host, (uintptr_t)c->memory + e->gpa);
        assert_int_equal(e->va, e->gpa); /* one to one */
        if (e->va == 0x9000) {
            seen++;
            assert_int_equal(e->flags, KAGE_TLB_USER | KAGE_TLB_WRITE | KAGE_TLB_DIRTY | KAGE_TLB_HOST_WRITE);
            assert_int_equal(e->first, w.tlb_first);
        } else if (e->va == 0x3000) {
            seen++;
            assert_int_equal(e->flags & KAGE_TLB_DIRTY, 0);
        }
    }
    assert_int_equal(seen, 2);
    assert_true(tlb->first_valid[KAGE_REGIME_KERNEL_USER][1] >= 1);
    assert_true(tlb->second_misses > 0 && tlb->misses >= tlb->second_misses);
    free(tlb);
}

/* The client has unmapped what a slot says is memory: the walk ends there. */
static void test_memory_gone(void **state)
{
    struct client *c = *state;

    kvm->close(kvm->open());
    client_load_64(c, 0x8000, halt_code, GUEST_BYTES(halt_code));
    munmap(c->memory + CLIENT_PD, 4096);
    struct kage_inspect_walk w = walk(c, 0x8000, 0);
    assert_int_equal(w.guest_count, 3);
    assert_int_equal(w.guest[1].flags, KAGE_STEP_READ | KAGE_STEP_PRESENT);
    assert_int_equal(w.guest[2].flags, 0);
    assert_int_equal(w.guest[2].host, (uintptr_t)c->memory + CLIENT_PD);
    assert_int_equal(w.flags, KAGE_WALK_GVA);
    mmap(c->memory + CLIENT_PD, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void test_other_paging(void **state)
{
    struct client *c = *state;
    struct kvm_sregs sregs;
    struct kage_inspect_walk w;

    assert_int_equal(ask(c->vcpu, KVM_GET_SREGS, &sregs), 0);
    w = walk(c, 0x123456, 0);
    assert_int_equal(w.paging, KAGE_PAGING_NONE);
    assert_int_equal(w.gpa, 0x123456);
    assert_int_equal(w.guest_count, 0);

    /* 32-bit: an entry of 4 bytes, and a 4 MiB page. */
    uint32_t pd[2] = { 0x3007, 0x83 }, pt = 0x8025;
    memcpy(c->memory + 0x2000, &pd, sizeof(pd));
    memcpy(c->memory + 0x3000 + 4 * 5, &pt, sizeof(pt));
    sregs.cr0 = 0x80000011;
    sregs.cr3 = 0x2000;
    sregs.cr4 = 0x10;
    assert_int_equal(ask(c->vcpu, KVM_SET_SREGS, &sregs), 0);
    w = walk(c, 0x5fed, 0);
    assert_int_equal(w.paging, KAGE_PAGING_32);
    assert_int_equal(w.guest_count, 2);
    assert_int_equal(w.guest[0].level, 2);
    assert_int_equal(w.guest[0].entry, 0x3007);
    assert_int_equal(w.guest[1].index, 5);
    assert_int_equal(w.guest[1].entry, 0x8025);
    assert_int_equal(w.gpa, 0x8fed);
    assert_int_equal(w.rights, KAGE_RIGHT_R | KAGE_RIGHT_X | KAGE_RIGHT_U);
    w = walk(c, 0x40abcd, 0);
    assert_int_equal(w.guest_count, 1);
    assert_int_equal(w.page_shift, 22);
    assert_int_equal(w.gpa, 0xabcd);

    /* PAE: the root is a register. */
    client_word(c, 0x4000, 0x5001);
    client_word(c, 0x4008, 0);
    client_word(c, 0x5000, 0x6003);
    client_word(c, 0x6008, 0x7003);
    sregs.cr3 = 0x4000;
    sregs.cr4 = 0x20;
    assert_int_equal(ask(c->vcpu, KVM_SET_SREGS, &sregs), 0);
    w = walk(c, 0x1abc, 0);
    assert_int_equal(w.paging, KAGE_PAGING_PAE);
    assert_int_equal(w.guest_count, 3);
    assert_int_equal(w.guest[0].flags, KAGE_STEP_READ | KAGE_STEP_PRESENT | KAGE_STEP_REGISTER);
    assert_int_equal(w.guest[0].entry, 0x5001);
    assert_int_equal(w.gpa, 0x7abc);
    w = walk(c, 0x40000000, 0);
    assert_int_equal(w.guest_count, 1);
    assert_int_equal(w.guest[0].index, 1);
    assert_int_equal(w.flags, KAGE_WALK_GVA);
}

/* ---- The VM ---- */

static void test_slots_and_exits(void **state)
{
    struct client *c = *state;
    struct kage_inspect_slot slots[4];
    struct kage_inspect_exit exits[64];
    struct kage_inspect_range ranges[16];
    struct kage_inspect_level levels[5];
    uint32_t bytes = sizeof(slots), count;

    client_load_64(c, 0x8000, touch_code, GUEST_BYTES(touch_code));
    assert_int_equal(client_slot(c, 7, 0x100000, 0x40000, KVM_MEM_READONLY), 0);
    assert_int_equal(client_slot(c, 0, 0, CLIENT_HOLE, KVM_MEM_LOG_DIRTY_PAGES), 0);
    client_run(c, KVM_EXIT_HLT);
    assert_int_equal(look_at(c->vm, KAGE_INSPECT_SLOTS, 0, 0, slots, &bytes, &count), 0);
    assert_int_equal(count, 2);
    assert_int_equal(bytes, 2 * sizeof(slots[0]));
    assert_int_equal(slots[0].id, 0);
    assert_int_equal(slots[0].flags, KVM_MEM_LOG_DIRTY_PAGES);
    assert_int_equal(slots[0].hva, (uintptr_t)c->memory);
    assert_int_equal(slots[0].bytes, CLIENT_HOLE);
    assert_true(slots[0].dirty_pages >= 1 && slots[0].dirty_pages < CLIENT_HOLE / 4096);
    assert_true(slots[0].pages[0] >= 3 && slots[0].pages[0] <= CLIENT_HOLE / 4096);
    assert_int_equal(slots[1].id, 7);
    assert_int_equal(slots[1].gpa, 0x100000);
    assert_int_equal(slots[1].flags, KVM_MEM_READONLY);
    assert_int_equal(slots[1].pages[0] + slots[1].pages[1] + slots[1].pages[2], 0);

    /* The ranges say the same, page by page. */
    uint64_t pages = 0;
    for (uint64_t at = 0; at != UINT64_MAX;) {
        struct kage_inspect look = { .topic = KAGE_INSPECT_RANGES, .address = at, .data = (uintptr_t)ranges, .bytes = 2 * sizeof(ranges[0]) };
        assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), 0);
        for (uint32_t i = 0; i < look.bytes / sizeof(ranges[0]); i++) {
            assert_int_equal(ranges[i].page_shift, 12);
            assert_int_equal(ranges[i].host, (uintptr_t)c->memory + ranges[i].gpa);
            assert_true(ranges[i].dirty <= ranges[i].accessed && ranges[i].accessed <= ranges[i].bytes >> 12);
            pages += ranges[i].bytes >> 12;
        }
        assert_true(look.address > at);
        at = look.address;
    }
    assert_int_equal(pages, slots[0].pages[0]);
    bytes = sizeof(levels);
    assert_int_equal(look_at(c->vm, KAGE_INSPECT_TABLES, 0, 0, levels, &bytes, &count), 0);
    assert_true(count >= 4);
    assert_int_equal(levels[0].leaves, pages);
    assert_int_equal(levels[count - 1].tables, 1);
    for (unsigned i = 0; i + 1 < count; i++)
        assert_int_equal(levels[i].tables, levels[i + 1].links);

    bytes = sizeof(exits);
    assert_int_equal(look_at(c->vm, KAGE_INSPECT_EXITS, 0, 0, exits, &bytes, &count), 0);
    unsigned found = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (exits[i].reason == 10) {
            assert_string_equal(exits[i].name, "CPUID");
            assert_int_equal(exits[i].count, 2);
            found++;
        } else if (exits[i].reason == 12) {
            assert_int_equal(exits[i].count, 1);
            found++;
        }
    }
    assert_int_equal(found, 2);

    struct kage_stat stats[256];
    bytes = sizeof(stats);
    assert_int_equal(look_at(c->vm, KAGE_INSPECT_STATS, 0, 0, stats, &bytes, &count), 0);
    assert_true(count > 20);
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += strcmp(stats[i].name, "exits") == 0 ? stats[i].value : 0;
    assert_true(total >= 3);
}

static void test_bad_requests(void **state)
{
    struct client *c = *state;
    struct kage_inspect look = { .topic = KAGE_INSPECT_TOPICS };
    struct kage_inspect_field fields[4];

    kvm->close(kvm->open()); /* the test's runner has put its fault handlers over the engine's */
    assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), -EINVAL);
    look = (struct kage_inspect){ .topic = UINT32_MAX };
    assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), -EINVAL);
    look = (struct kage_inspect){ .topic = KAGE_INSPECT_VMCS, .vcpu = 1 };
    assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), -EINVAL);
    look = (struct kage_inspect){ .topic = KAGE_INSPECT_WALK, .vcpu = KAGE_INSPECT_WHOLE_VM };
    assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), -EINVAL);
    look = (struct kage_inspect){ .topic = KAGE_INSPECT_WALK, .flags = 2 };
    assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), -EINVAL);
    look = (struct kage_inspect){ .topic = KAGE_INSPECT_VMCS, .data = 8, .bytes = 4096 };
    assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), -EFAULT);
    look = (struct kage_inspect){ .topic = KAGE_INSPECT_SHADOW, .data = (uintptr_t)fields, .bytes = sizeof(fields) };
    assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), -EOPNOTSUPP);

    /* Less room than there is: whole elements, and how many there are. */
    memset(fields, 0xaa, sizeof(fields));
    look = (struct kage_inspect){ .topic = KAGE_INSPECT_VMCS, .data = (uintptr_t)fields, .bytes = 2 * sizeof(fields[0]) + 7 };
    assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), 0);
    assert_int_equal(look.bytes, 2 * sizeof(fields[0]));
    assert_true(look.count > 100);
    assert_string_equal(fields[1].name, "POSTED_INTR_NV");
    assert_int_equal(fields[2].encoding, 0xaaaaaaaa);
    look = (struct kage_inspect){ .topic = KAGE_INSPECT_VMCS };
    assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), 0);
    assert_int_equal(look.bytes, 0);
    /* More than is ever used, which must not be asked of the allocator. */
    struct kage_inspect_vm vm;
    look = (struct kage_inspect){ .topic = KAGE_INSPECT_VM, .data = (uintptr_t)&vm, .bytes = UINT32_MAX };
    assert_int_equal(ask(c->vm, KAGE_INSPECT, &look), 0);
    assert_int_equal(look.bytes, sizeof(vm));

    look = (struct kage_inspect){ .topic = KAGE_INSPECT_VM, .vm = 99 };
    assert_int_equal(kage_inspect(&look), -1);
    assert_int_equal(errno, ENODEV);
}

/* ---- Shadow page tables ---- */

static void test_shadow(void **state)
{
    struct client c;
    struct kage_inspect_walk w;
    struct kage_inspect_shadow_page pages[64];
    struct kage_inspect_slot slot;
    struct kage_inspect_vm vm;
    struct kage_inspect_vcpu cpu;
    uint32_t bytes = sizeof(pages), count;

    (void)state;
    client_new_vm(&c);
    assert_int_equal(kage_vm_set_mmu(kvm, c.vm, KAGE_MMU_SHADOW), 0);
    assert_int_equal(client_slot(&c, 0, 0, CLIENT_HOLE, 0), 0);
    client_new_vcpu(&c);
    client_load_64(&c, 0x8000, touch_code, GUEST_BYTES(touch_code));
    w = walk(&c, 0x9000, 0); /* nothing has run yet: there are no tables of the processor's */
    assert_int_equal(w.flags, KAGE_WALK_GVA | KAGE_WALK_GPA | KAGE_WALK_SLOT | KAGE_WALK_SHADOW);
    assert_int_equal(w.second_count, 0);
    client_run(&c, KVM_EXIT_HLT);

    /* The guest's registers are the guest's, the processor's others. */
    one(&c, KAGE_INSPECT_VCPU, &cpu, sizeof(cpu));
    assert_int_equal(cpu.cr3, CLIENT_PML4);
    assert_int_not_equal(cpu.actual_cr3, CLIENT_PML4);
    one(&c, KAGE_INSPECT_VM, &vm, sizeof(vm));
    assert_int_equal(vm.mmu, KAGE_MMU_SHADOW);
    assert_int_equal(vm.ept_pointer, 0);
    assert_true(vm.table_pages >= 4 && vm.table_pages <= vm.max_table_pages);

    w = walk(&c, 0x9ab0, 0);
    assert_int_equal(w.gpa, 0x9ab0);
    assert_int_equal(w.flags, KAGE_WALK_GVA | KAGE_WALK_GPA | KAGE_WALK_SECOND | KAGE_WALK_SLOT | KAGE_WALK_DIRTY | KAGE_WALK_TLB | KAGE_WALK_SHADOW);
    assert_int_equal(w.hva, (uintptr_t)c.memory + 0x9ab0);
    assert_int_equal(w.guest_count, 4);
    assert_int_equal(w.second_count, 4);
    assert_int_equal(w.second[0].table, cpu.actual_cr3 & ~0xfffull);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(w.second[i].level, w.guest[i].level);
        assert_int_equal(w.second[i].index, w.guest[i].index);
        assert_int_equal(w.second[i].entry, *(const uint64_t *)(uintptr_t)w.second[i].host);
    }
    assert_int_equal(w.second_rights, RWXU);
    /* Clean: only read so far, so the guest's D bit must still be asked for. */
    w = walk(&c, 0x3000, 0);
    assert_int_equal(w.second_rights & KAGE_RIGHT_W, 0);
    assert_int_equal(w.rights, RWXU);

    assert_int_equal(look_at(c.vm, KAGE_INSPECT_SHADOW, 0, 0, pages, &bytes, &count), 0);
    assert_int_equal(count, vm.table_pages);
    assert_int_equal(bytes, count * sizeof(pages[0]));
    unsigned found = 0;
    uint64_t entries = 0;
    for (uint32_t i = 0; i < count; i++) {
        for (unsigned level = 0; level < 4; level++)
            if (pages[i].table == w.second[level].table) {
                assert_int_equal(pages[i].gfn << 12, w.guest[level].table);
                assert_int_equal(pages[i].level, w.guest[level].level);
                assert_int_equal(pages[i].roots != 0, level == 0);
                assert_int_equal(pages[i].flags & (KAGE_SHADOW_DIRECT | KAGE_SHADOW_32BIT | KAGE_SHADOW_PAE), 0);
                found++;
            }
        entries += pages[i].level == 1 ? pages[i].entries : 0;
    }
    assert_int_equal(found, 4);
    bytes = sizeof(slot);
    assert_int_equal(look_at(c.vm, KAGE_INSPECT_SLOTS, 0, 0, &slot, &bytes, &count), 0);
    assert_int_equal(slot.pages[0], entries); /* one to one: each frame by one entry */
    bytes = sizeof(pages);
    assert_int_equal(look_at(c.vm, KAGE_INSPECT_TABLES, 0, 0, pages, &bytes, &count), -EOPNOTSUPP);
    client_free(&c);
}

/* ---- vCPUs that run ---- */

static void *run_thread(void *arg)
{
    struct client *c = arg;
    int result = ask(c->vcpu, KVM_RUN, NULL);
    return (void *)(intptr_t)result;
}

static void on_signal(int sig)
{
    (void)sig;
}

/* A vCPU that runs `code` for ever is looked at many times, quickly, and is where it should be. */
static void check_running(struct client *c, uint64_t first, uint64_t last)
{
    struct sigaction action = { .sa_handler = on_signal };
    struct timespec from, to;
    pthread_t thread;
    void *result;

    sigaction(SIGUSR1, &action, NULL);
    pthread_create(&thread, NULL, run_thread, c);
    for (struct kage_inspect_vcpu cpu = { 0 }; !cpu.in_run;) /* until it is there */
        one(c, KAGE_INSPECT_VCPU, &cpu, sizeof(cpu));
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (unsigned i = 0; i < 200; i++) {
        struct kage_inspect_vcpu cpu;
        one(c, KAGE_INSPECT_VCPU, &cpu, sizeof(cpu));
        assert_int_equal(cpu.in_run, 1);
        assert_true(cpu.rip >= first && cpu.rip <= last);
        struct kage_inspect_walk w = walk(c, cpu.rip, 0);
        assert_int_equal(w.gpa, cpu.rip);
        assert_int_equal(w.hva, (uintptr_t)c->memory + cpu.rip);
        assert_true(w.flags & KAGE_WALK_SECOND);
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_true(to.tv_sec - from.tv_sec < 30);
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, &result);
    assert_int_equal((intptr_t)result, -EINTR);
}

static void test_running(void **state)
{
    struct client *c = *state;

    client_load_64(c, 0x8000, spin_code, GUEST_BYTES(spin_code));
    check_running(c, 0x8000, 0x8000);
}

static void test_halted(void **state)
{
    struct client c;

    (void)state;
    client_new_vm(&c);
    assert_int_equal(ask(c.vm, KVM_CREATE_IRQCHIP, NULL), 0);
    assert_int_equal(client_slot(&c, 0, 0, CLIENT_HOLE, 0), 0);
    client_new_vcpu(&c);
    client_load_64(&c, 0x8000, wait_code, GUEST_BYTES(wait_code));
    check_running(&c, 0x8000, 0x8002); /* STI, HLT, JMP */
    client_free(&c);
}

/* ---- By number, while VMs come and go ---- */

static atomic_bool stop_asking;
static atomic_uint answers, refusals;

static void *ask_thread(void *arg)
{
    static const uint32_t topics[] = { KAGE_INSPECT_VM, KAGE_INSPECT_VCPU, KAGE_INSPECT_VMCS, KAGE_INSPECT_WALK, KAGE_INSPECT_TLB, KAGE_INSPECT_RANGES,
                                       KAGE_INSPECT_TABLES, KAGE_INSPECT_SLOTS, KAGE_INSPECT_EXITS, KAGE_INSPECT_STATS };
    void *room = malloc(65536);

    (void)arg;
    for (unsigned i = 0; !atomic_load(&stop_asking); i++) {
        struct kage_inspect look = { .topic = topics[i % 10], .vm = i / 10 % 2, .address = 0x8000, .data = (uintptr_t)room, .bytes = 65536 };
        int result = kage_inspect(&look);
        atomic_fetch_add(result == 0 ? &answers : &refusals, 1);
        if (result && errno != ENODEV && errno != EINVAL) /* not now, or not yet a vCPU */
            return (void *)"another error";
    }
    free(room);
    return NULL;
}

static void test_come_and_go(void **state)
{
    pthread_t askers[2];
    void *complaint;

    (void)state;
    atomic_store(&stop_asking, false);
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&askers[i], NULL, ask_thread, NULL);
    for (unsigned round = 0; round < 60; round++) {
        struct client c, d;
        client_new_vm(&c);
        assert_int_equal(client_slot(&c, 0, 0, CLIENT_HOLE, 0), 0);
        client_new_vcpu(&c);
        client_new_vm(&d);
        client_load_64(&c, 0x8000, touch_code, GUEST_BYTES(touch_code));
        client_run(&c, KVM_EXIT_HLT);
        struct kage_inspect_vm vm;
        one(&d, KAGE_INSPECT_VM, &vm, sizeof(vm));
        assert_int_equal(vm.vms, 2);
        d.vcpu = -1;
        client_free(&d);
        assert_int_equal(client_slot(&c, 0, 0, 0, 0), 0); /* memory goes under the askers, too */
        client_free(&c);
    }
    atomic_store(&stop_asking, true);
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(askers[i], &complaint);
        assert_null(complaint);
    }
    assert_true(atomic_load(&answers) > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_state, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_walk_steps, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_walk_after_use, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_memory_gone, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_other_paging, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_slots_and_exits, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_bad_requests, client_setup, client_teardown),
        cmocka_unit_test(test_shadow),
        cmocka_unit_test_setup_teardown(test_running, client_setup, client_teardown),
        cmocka_unit_test(test_halted),
        cmocka_unit_test(test_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
