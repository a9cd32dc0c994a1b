/* SPDX-License-Identifier: MIT */
/*
 * Port and memory I/O: first the chips and eventfds of the engine, then the client, by KVM_EXIT_IO and
 * KVM_EXIT_MMIO. The access that the client was asked for is completed when it enters again,
 * before anything else (api.rst 5, "KVM_EXIT_IO").
 */
#include <string.h>

#include "cpu/run.h"
#include "cpu/sys.h"
#include "kvm/vcpu.h"

#define PIO_PAGE_BYTES KAGE_PAGE_SIZE

static bool pio_engine(struct kvm_vcpu *vcpu, bool in, uint16_t port, uint8_t *data, uint32_t size)
{
    struct irqchip *chip = kvm_vm_irqchip(vcpu->vm);
    uint64_t value = 0;

    if (in)
        return chip && irqchip_pio_read(chip, port, data, size);
    memcpy(&value, data, size);
    return (chip && irqchip_pio_write(chip, port, data, size)) ||
           ioeventfd_write(vcpu->vm->ioeventfds, true, port, size, value) ||
           kvm_coalesced_write(vcpu->vm, true, port, size, data);
}

/* What is left of the instruction when every element has been read, to be done by kvm_pio_complete(). */
static struct kvm_pending_pio pio_to_finish(const struct kvm_vcpu *vcpu)
{
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;

    return (struct kvm_pending_pio){ .active = true, .in = true, .qualification = vmcs->exit_qualification,
                                     .instruction_info = vmcs->exit_instruction_info, .instruction_len = vmcs->exit_instruction_len };
}

/* Ends the instruction (one round of a REP): registers or memory, and RIP. */
static int pio_finish(struct kvm_vcpu *vcpu)
{
    uint64_t rip = vcpu->cpu->rip;
    struct kvm_pending_pio again = pio_to_finish(vcpu);
    enum cpu_result result;

    for (;;) {
        /* Not past a flush that is asked for: the TLB may let it write what must not be written any more. */
        bool held = cpu_hold_memory(vcpu->cpu);
        cpu_flush_if_asked(vcpu->cpu);
        result = cpu_io_complete(vcpu->cpu);
        cpu_release_memory(vcpu->cpu, held);
        if (result != CPU_FAULT || !vcpu->vm->shadow || vcpu->cpu->event.vector != X86_EXC_PF)
            break;
        int fault = kvm_shadow_fault(vcpu, vcpu->cpu->event.payload, &vcpu->cpu->event.error);
        if (fault < 0)
            return fault;
        if (fault == KVM_SHADOW_GUEST)
            break;
        vcpu->cpu->event.valid = false;
        if (fault == KVM_SHADOW_NO_ROOM) {
            vcpu->pio = again; /* when the ring has some */
            return KVM_RUN_ENTER;
        }
        int err = kvm_shadow_enter(vcpu);
        if (err)
            return err;
    }
    if (result == CPU_FAULT) {
        vcpu->cpu->exit_breaks = 0;
        kvm_event_take_fault(vcpu);
    } else if (vcpu->cpu->rip != rip || vcpu->cpu->exit_breaks) {
        kvm_debug_note_step(vcpu);
    }
    if (result == CPU_EXIT && vcpu->cpu->vmcs.exit_reason == VMX_EXIT_EPT_VIOLATION)
        vcpu->pio = again; /* the port was read, and is not read twice: when the ring has room, when the memory is there again */
    if (result == CPU_EXIT)
        return kvm_exit_handle(vcpu, vcpu->cpu->vmcs.exit_reason);
    return KVM_RUN_ENTER;
}

int kvm_pio_exit(struct kvm_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    uint64_t qualification = cpu->vmcs.exit_qualification;
    bool in = (qualification & VMX_IO_IN) != 0;
    uint16_t port = VMX_IO_PORT(qualification);
    uint32_t size = VMX_IO_SIZE(qualification), count = (uint32_t)cpu->imm, done = 0;

    /* Elements that the engine serves one by one; the first that it does not goes to the client with all after it. */
    while (done < count && pio_engine(vcpu, in, port, cpu->pio_buf + done * size, size))
        done++;
    if (done == count)
        return pio_finish(vcpu);

    vcpu->pio = (struct kvm_pending_pio){ .active = true, .in = in, .size = (uint8_t)size, .port = port,
                                          .count = count - done, .done = done };
    if (!in)
        memcpy(vcpu->pio_data, cpu->pio_buf + done * size, (size_t)(count - done) * size);
    vcpu->run->exit_reason = KVM_EXIT_IO;
    vcpu->run->io.direction = in ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
    vcpu->run->io.size = (uint8_t)size;
    vcpu->run->io.port = port;
    vcpu->run->io.count = count - done;
    vcpu->run->io.data_offset = KVM_PIO_PAGE_OFFSET * KAGE_PAGE_SIZE;
    /* The kernel's old way with this port, which clients' TPR patching relies on: RIP stands behind the OUT at the exit. */
    if (!in && port == 0x7e && count == 1 && kvm_vm_has_quirk(vcpu->vm, KVM_X86_QUIRK_OUT_7E_INC_RIP)) {
        vcpu->pio.active = false;
        (void)pio_finish(vcpu);
    }
    return KVM_RUN_USER;
}

int kvm_pio_complete(struct kvm_vcpu *vcpu)
{
    struct kvm_pending_pio *pio = &vcpu->pio;

    pio->active = false;
    if (!pio->count) { /* only to be finished: another exit has come between */
        vcpu->cpu->vmcs.exit_qualification = pio->qualification;
        vcpu->cpu->vmcs.exit_instruction_info = pio->instruction_info;
        vcpu->cpu->vmcs.exit_instruction_len = pio->instruction_len;
    } else if (pio->in)
        memcpy(vcpu->cpu->pio_buf + (size_t)pio->done * pio->size, vcpu->pio_data, (size_t)pio->count * pio->size);
    return pio_finish(vcpu);
}

static bool mmio_engine(struct kvm_vcpu *vcpu, bool write, gpa_t gpa, uint8_t *data, uint32_t len)
{
    struct irqchip *chip = kvm_vm_irqchip(vcpu->vm);
    uint64_t value = 0;

    if (!write)
        return chip && irqchip_mmio_read(chip, vcpu->lapic, gpa, data, len);
    memcpy(&value, data, len < sizeof(value) ? len : sizeof(value));
    return (chip && irqchip_mmio_write(chip, vcpu->lapic, gpa, data, len)) ||
           ioeventfd_write(vcpu->vm->ioeventfds, false, gpa, len, value) ||
           kvm_coalesced_write(vcpu->vm, false, gpa, len, data);
}

/* One piece of an entry to the client: at most 8 bytes, not across an 8-byte boundary. */
static int mmio_to_client(struct kvm_vcpu *vcpu, int index)
{
    const struct cpu_mmio *mmio = &vcpu->cpu->mmio[index];
    unsigned left = mmio->len - vcpu->mmio_done;
    unsigned len = left < 8 ? left : 8;

    vcpu->counters->mmio_exits++;
    vcpu->mmio_index = index;
    vcpu->mmio_sent = len;
    vcpu->run->exit_reason = KVM_EXIT_MMIO;
    vcpu->run->mmio.phys_addr = mmio->gpa + vcpu->mmio_done;
    vcpu->run->mmio.len = len;
    vcpu->run->mmio.is_write = mmio->is_write;
    memset(vcpu->run->mmio.data, 0, sizeof(vcpu->run->mmio.data));
    if (mmio->is_write)
        memcpy(vcpu->run->mmio.data, mmio->data + vcpu->mmio_done, len);
    return KVM_RUN_USER;
}

/* Serves every access wanted; returns at the first that the client must do. */
int kvm_mmio_exit(struct kvm_vcpu *vcpu)
{
    for (int i = 0; i < (int)KAGE_ARRAY_SIZE(vcpu->cpu->mmio); i++) {
        struct cpu_mmio *mmio = &vcpu->cpu->mmio[i];
        if (mmio->state != CPU_MMIO_WANTED)
            continue;
        if (!vcpu->mmio_done && mmio_engine(vcpu, mmio->is_write, mmio->gpa, mmio->data, mmio->len))
            vcpu->mmio_done = mmio->len;
        if (vcpu->mmio_done < mmio->len)
            return mmio_to_client(vcpu, i);
        mmio->state = mmio->is_write ? CPU_MMIO_NONE : CPU_MMIO_DONE;
        vcpu->mmio_done = 0;
    }
    vcpu->mmio_index = -1;
    return KVM_RUN_ENTER;
}

int kvm_mmio_complete(struct kvm_vcpu *vcpu)
{
    struct cpu_mmio *mmio = &vcpu->cpu->mmio[vcpu->mmio_index];

    if (!mmio->is_write)
        memcpy(mmio->data + vcpu->mmio_done, vcpu->run->mmio.data, vcpu->mmio_sent);
    vcpu->mmio_done += vcpu->mmio_sent;
    vcpu->mmio_index = -1;
    return kvm_mmio_exit(vcpu);
}
