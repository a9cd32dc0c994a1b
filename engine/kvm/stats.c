/* SPDX-License-Identifier: MIT */
/*
 * What is counted, by name, and the two ways to read it: KVM_GET_STATS_FD and KAGE_GET_STATS (see stats.h).
 *
 *     0            24           72                        page boundary
 *     | header     | id string  | descriptors: 16 bytes and 48 of name … | counters |
 *
 * The file is mapped once, shared; the counters move into it when it is made. It is sealed: nobody writes it by a descriptor,
 * cuts it, or makes it longer.
 */
#include "kvm/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kage.h"
#include "kvm/vcpu.h"
#include "mmu/ept.h"
#include "vmx/vmx.h"

#define STATS_NAME_BYTES 48u /* KVM_STATS_NAME_SIZE */
#define STATS_DESC_BYTES (sizeof(struct kvm_stats_desc) + STATS_NAME_BYTES)

enum stat_type {
    COUNT = KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10,
    LEVEL = KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10,
    NANOSECONDS = KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS | KVM_STATS_BASE_POW10,
    BYTES = KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_BYTES | KVM_STATS_BASE_POW10,
};

struct stat_row {
    const char *name; /* stable: kage.h and clients know it */
    uint16_t offset;
    uint16_t type;
};

#define VM_STAT(name, type) { #name, offsetof(struct kvm_vm_counters, name), type }
#define SHADOW_STAT(name, type) { #name, offsetof(struct kvm_vm_counters, shadow.name), type }
static const struct stat_row vm_rows[] = {
    VM_STAT(remote_tlb_flush, COUNT), VM_STAT(remote_tlb_flush_requests, COUNT),
    VM_STAT(pages_4k, LEVEL),         VM_STAT(pages_2m, LEVEL),
    VM_STAT(pages_1g, LEVEL),
    VM_STAT(memory_slots, LEVEL),     VM_STAT(memory_slot_changes, COUNT),
    VM_STAT(vcpus, LEVEL),            VM_STAT(ept_violations, COUNT),
    VM_STAT(dirty_pages, COUNT),      VM_STAT(ept_table_pages, LEVEL),
    VM_STAT(ept_mmio_entries, LEVEL),
    SHADOW_STAT(mmu_shadow_zapped, COUNT), SHADOW_STAT(mmu_pte_write, COUNT),
    SHADOW_STAT(mmu_pde_zapped, COUNT),    SHADOW_STAT(mmu_flooded, COUNT),
    SHADOW_STAT(mmu_recycled, COUNT),      SHADOW_STAT(mmu_cache_miss, COUNT),
    SHADOW_STAT(mmu_unsync, LEVEL),        SHADOW_STAT(mmu_closed, COUNT),
    SHADOW_STAT(mmu_compared, COUNT),      SHADOW_STAT(mmu_dropped, COUNT),
    { "shadow_pages", offsetof(struct kvm_vm_counters, shadow.pages), LEVEL },
    { "shadow_pages_max", offsetof(struct kvm_vm_counters, shadow.max_pages), LEVEL },
    { "shadow_pages_mmio", offsetof(struct kvm_vm_counters, shadow.pages_mmio), LEVEL },
};

#define VCPU_STAT(name, type) { #name, offsetof(struct kvm_vcpu_counters, name), type }
#define ALSO(name, field, type) { name, offsetof(struct kvm_vcpu_counters, field), type }
#define EXIT_STAT(name, reason) { name, offsetof(struct kvm_vcpu_counters, exit) + 8 * (reason), COUNT }
#define CPU_STAT(name, index, type) { name, offsetof(struct kvm_vcpu_counters, cpu) + 8 * (index), type }
static const struct stat_row vcpu_rows[] = {
    VCPU_STAT(pf_taken, COUNT),
    VCPU_STAT(pf_fixed, COUNT),
    VCPU_STAT(pf_emulate, COUNT),
    VCPU_STAT(pf_spurious, COUNT),
    VCPU_STAT(pf_guest, COUNT),
    VCPU_STAT(pf_mmio_spte_created, COUNT),
    VCPU_STAT(exits, COUNT),
    EXIT_STAT("io_exits", VMX_EXIT_IO),
    VCPU_STAT(mmio_exits, COUNT),
    VCPU_STAT(signal_exits, COUNT),
    EXIT_STAT("irq_window_exits", VMX_EXIT_INTR_WINDOW),
    EXIT_STAT("nmi_window_exits", VMX_EXIT_NMI_WINDOW),
    VCPU_STAT(request_irq_exits, COUNT),
    EXIT_STAT("irq_exits", VMX_EXIT_EXT_INTR),
    EXIT_STAT("halt_exits", VMX_EXIT_HLT),
    VCPU_STAT(halt_wakeup, COUNT),
    VCPU_STAT(halt_wait_ns, NANOSECONDS),
    ALSO("halt_successful_poll", never, COUNT),
    ALSO("halt_attempted_poll", never, COUNT),
    ALSO("halt_poll_invalid", never, COUNT),
    VCPU_STAT(blocking, LEVEL),
    EXIT_STAT("hypercalls", VMX_EXIT_VMCALL),
    VCPU_STAT(irq_injections, COUNT),
    VCPU_STAT(nmi_injections, COUNT),
    VCPU_STAT(req_event, COUNT),
    VCPU_STAT(directed_yield_attempted, COUNT),
    VCPU_STAT(preemption_reported, COUNT),
    VCPU_STAT(insn_emulation_fail, COUNT),
    CPU_STAT("tlb_flush", CPU_STAT_TLB_FLUSHES, COUNT),
    CPU_STAT("invlpg", CPU_STAT_TLB_FLUSH_PAGES, COUNT),
    VCPU_STAT(user_exits, COUNT),
    VCPU_STAT(halts, COUNT),
    ALSO("halt_ns", halt_wait_ns, NANOSECONDS),
    VCPU_STAT(dirty_ring_exits, COUNT),
    CPU_STAT("blocks_translated", CPU_STAT_BLOCKS_TRANSLATED, COUNT),
    CPU_STAT("guest_bytes", CPU_STAT_GUEST_BYTES, BYTES),
    CPU_STAT("host_bytes", CPU_STAT_HOST_BYTES, BYTES),
    CPU_STAT("guest_insns", CPU_STAT_GUEST_INSNS, COUNT),
    CPU_STAT("dispatches", CPU_STAT_DISPATCHES, COUNT),
    CPU_STAT("jump_misses", CPU_STAT_JUMP_MISSES, COUNT),
    CPU_STAT("tlb_misses", CPU_STAT_TLB_MISSES, COUNT),
    CPU_STAT("tlb2_misses", CPU_STAT_TLB2_MISSES, COUNT),
    CPU_STAT("tlb_flushes", CPU_STAT_TLB_FLUSHES, COUNT),
    CPU_STAT("tlb_flush_pages", CPU_STAT_TLB_FLUSH_PAGES, COUNT),
    CPU_STAT("slow_accesses", CPU_STAT_SLOW_ACCESSES, COUNT),
    CPU_STAT("smc_invalidations", CPU_STAT_SMC_INVALIDATIONS, COUNT),
    CPU_STAT("exceptions", CPU_STAT_EXCEPTIONS, COUNT),
    CPU_STAT("interrupts", CPU_STAT_INTERRUPTS, COUNT),
    CPU_STAT("helper_calls", CPU_STAT_HELPER_CALLS, COUNT),
    CPU_STAT("host_faults", CPU_STAT_HOST_FAULTS, COUNT),
    CPU_STAT("links", CPU_STAT_LINKS, COUNT),
    CPU_STAT("code_flushes", CPU_STAT_CODE_FLUSHES, COUNT),
    CPU_STAT("stub_bytes", CPU_STAT_STUB_BYTES, BYTES),
    CPU_STAT("share_misses", CPU_STAT_SHARE_MISSES, COUNT),
};
_Static_assert(CPU_STAT_COUNT <= sizeof(((struct kvm_vcpu_counters *)0)->cpu) / 8, "a word for each of the processor's counters");

/* "exit_" and the reason's name in small letters; false for a reason that has none. */
static bool exit_stat_name(uint32_t reason, char name[STATS_NAME_BYTES])
{
    const char *manual = vmx_exit_reason_name(reason);

    if (strcmp(manual, "RESERVED") == 0)
        return false;
    snprintf(name, STATS_NAME_BYTES, "exit_%s", manual);
    for (char *c = name; *c; c++)
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c - 'A' + 'a') : *c == ' ' || *c == '-' || *c == '/' ? '_' : *c;
    return true;
}

/* ---- the file ---- */

void kvm_stats_file_init(struct kvm_stats_file *file)
{
    *file = (struct kvm_stats_file){ .fd = -1 };
}

void kvm_stats_file_fini(struct kvm_stats_file *file)
{
    if (file->fd < 0)
        return;
    munmap(file->map, file->map_bytes);
    close(file->fd);
}

static void put_desc(uint8_t *descs, uint32_t *count, const char *name, uint32_t offset, uint32_t type)
{
    uint8_t *at = descs + *count * STATS_DESC_BYTES;
    struct kvm_stats_desc desc = { .flags = type, .size = 1, .offset = offset };

    if ((type & KVM_STATS_UNIT_MASK) == KVM_STATS_UNIT_SECONDS)
        desc.exponent = -9;
    memcpy(at, &desc, sizeof(desc));
    memset(at + sizeof(desc), 0, STATS_NAME_BYTES);
    memcpy(at + sizeof(desc), name, strnlen(name, STATS_NAME_BYTES - 1));
    ++*count;
}

/* Makes the file for rows (and the exits by reason), with the counters as they are. 0 or -errno. */
static int file_make(struct kvm_stats_file *file, const char *id, const struct stat_row *rows, size_t row_count,
                     bool is_vcpu, const void *counters, size_t counter_bytes)
{
    const size_t desc_at = sizeof(struct kvm_stats_header) + STATS_NAME_BYTES;
    const size_t desc_room = row_count + (is_vcpu ? VMX_EXIT_COUNT : 0);
    const size_t data_at = (desc_at + desc_room * STATS_DESC_BYTES + KAGE_PAGE_SIZE - 1) & KAGE_PAGE_MASK;
    const size_t bytes = data_at + counter_bytes;
    uint32_t count = 0;
    int err;

    int fd = memfd_create("kvm-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) < 0)
        goto out_errno;
    uint8_t *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        goto out_errno;
    memcpy(map + sizeof(struct kvm_stats_header), id, strnlen(id, STATS_NAME_BYTES - 1));
    for (size_t i = 0; i < row_count; i++)
        put_desc(map + desc_at, &count, rows[i].name, rows[i].offset, rows[i].type);
    for (uint32_t reason = 0; is_vcpu && reason < VMX_EXIT_COUNT; reason++) {
        char name[STATS_NAME_BYTES];
        if (exit_stat_name(reason, name))
            put_desc(map + desc_at, &count, name, (uint32_t)offsetof(struct kvm_vcpu_counters, exit) + 8 * reason, COUNT);
    }
    struct kvm_stats_header header = { .name_size = STATS_NAME_BYTES, .num_desc = count, .id_offset = sizeof(header),
                                       .desc_offset = (uint32_t)desc_at, .data_offset = (uint32_t)data_at };
    memcpy(map, &header, sizeof(header));
    memcpy(map + data_at, counters, counter_bytes);
    /* The mapping above stays writable; an old kernel without this seal still has the read-only descriptors. */
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) < 0)
        (void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    *file = (struct kvm_stats_file){ .fd = fd, .map = map, .map_bytes = bytes };
    return 0;

out_errno:
    err = -errno;
    close(fd);
    return err;
}

static void *file_counters(const struct kvm_stats_file *file)
{
    struct kvm_stats_header header;

    memcpy(&header, file->map, sizeof(header));
    return (uint8_t *)file->map + header.data_offset;
}

/* A read-only descriptor with its own offset, as the kernel gives with each call. */
static int file_open(const struct kvm_stats_file *file)
{
    char path[40];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int kvm_vm_get_stats_fd(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    char id[STATS_NAME_BYTES];
    int result = 0;

    (void)arg;
    snprintf(id, sizeof(id), "kvm-%d", (int)object->pid);
    pthread_mutex_lock(&vm->lock);
    pthread_mutex_lock(&vm->memslots.mmu_lock);
    if (vm->stats_file.fd < 0) {
        result = file_make(&vm->stats_file, id, vm_rows, KAGE_ARRAY_SIZE(vm_rows), false, vm->counters, sizeof(*vm->counters));
        if (!result)
            vm->counters = file_counters(&vm->stats_file);
    }
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    if (!result)
        result = file_open(&vm->stats_file);
    pthread_mutex_unlock(&vm->lock);
    return result;
}

/* vCPU mutex held: nothing counts meanwhile. */
int kvm_vcpu_get_stats_fd(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    char id[STATS_NAME_BYTES];

    (void)arg;
    if (vcpu->stats_file.fd < 0) {
        snprintf(id, sizeof(id), "kvm-%d/vcpu-%u", (int)object->pid, vcpu->id);
        int err = file_make(&vcpu->stats_file, id, vcpu_rows, KAGE_ARRAY_SIZE(vcpu_rows), true, vcpu->counters,
                            sizeof(*vcpu->counters));
        if (err)
            return err;
        vcpu->counters = file_counters(&vcpu->stats_file);
        vcpu->cpu->stats = vcpu->counters->cpu;
    }
    return file_open(&vcpu->stats_file);
}

/* ---- KAGE_GET_STATS ---- */

struct stat_writer {
    struct kage_stats *client;
    uint32_t room, count;
    int err;
};

static int stat_begin(struct stat_writer *w, void *arg)
{
    *w = (struct stat_writer){ .client = arg };
    return kvm_copy_in(&w->room, &w->client->count, sizeof(w->room));
}

static void stat_add(struct stat_writer *w, const char *name, uint64_t value)
{
    if (w->count < w->room && !w->err) {
        struct kage_stat entry = { .value = value };
        snprintf(entry.name, sizeof(entry.name), "%s", name);
        w->err = kvm_copy_out(&w->client->entries[w->count], &entry, sizeof(entry));
    }
    w->count++;
}

static void stat_add_rows(struct stat_writer *w, const struct stat_row *rows, size_t row_count, const void *counters)
{
    for (size_t i = 0; i < row_count; i++) {
        uint64_t value;
        memcpy(&value, (const uint8_t *)counters + rows[i].offset, sizeof(value));
        stat_add(w, rows[i].name, value);
    }
}

static int stat_end(struct stat_writer *w)
{
    int err = w->err ? w->err : kvm_copy_out(&w->client->count, &w->count, sizeof(w->count));

    return err ? err : w->count <= w->room ? 0 : -E2BIG;
}

int kvm_vcpu_get_stats(struct kvm_object *object, void *arg)
{
    const struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    struct stat_writer w;

    if (stat_begin(&w, arg))
        return -EFAULT;
    stat_add_rows(&w, vcpu_rows, KAGE_ARRAY_SIZE(vcpu_rows), vcpu->counters);
    for (uint32_t reason = 0; reason < VMX_EXIT_COUNT; reason++) {
        char name[STATS_NAME_BYTES];
        if (vcpu->counters->exit[reason] && exit_stat_name(reason, name))
            stat_add(&w, name, vcpu->counters->exit[reason]);
    }
    return stat_end(&w);
}

int kvm_vm_get_stats(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    struct kvm_vm_counters counters;
    struct stat_writer w;
    struct ept_stats ept;

    if (stat_begin(&w, arg))
        return -EFAULT;
    pthread_mutex_lock(&vm->lock);
    pthread_mutex_lock(&vm->memslots.mmu_lock);
    ept_get_stats(vm->ept, &ept);
    counters = *vm->counters;
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    pthread_mutex_unlock(&vm->lock);
    stat_add_rows(&w, vm_rows, KAGE_ARRAY_SIZE(vm_rows), &counters);
    stat_add(&w, "ept_pages_4k", ept.pages_4k);
    stat_add(&w, "ept_pages_2m", ept.pages_2m);
    stat_add(&w, "ept_pages_1g", ept.pages_1g);
    return stat_end(&w);
}
