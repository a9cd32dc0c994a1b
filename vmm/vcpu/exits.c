/* SPDX-License-Identifier: MIT */
/*
 * What a vCPU does with each way out of KVM_RUN: a row for every reason that <linux/kvm.h> numbers. A
 * reason that our machines never cause, or one without a row, ends the VM with one clear line.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "util/log.h"
#include "vcpu/vcpu.h"

static enum vcpu_next exit_io(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint16_t port = run->io.port;
    unsigned size = run->io.size;
    uint64_t offset = run->io.data_offset;
    uint64_t bytes = (uint64_t)size * run->io.count;
    if ((size != 1 && size != 2 && size != 4) || offset > vcpu->run_bytes || bytes > vcpu->run_bytes - offset) {
        error_set(&vcpu->error, "the back end reports a port access of %u bytes, %u times", size, run->io.count);
        return VCPU_STOP;
    }
    uint8_t *data = (uint8_t *)run + offset;
    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        uint64_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, size);
            bus_write(vcpu->pio, port, size, value);
        } else {
            value = bus_read(vcpu->pio, port, size);
            memcpy(data, &value, size);
        }
    }
    return VCPU_GO_ON;
}

/* Anything from 1 to 8 bytes; what is no power of two goes byte by byte. */
static enum vcpu_next exit_mmio(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint64_t address = run->mmio.phys_addr;
    unsigned length = run->mmio.len <= sizeof(run->mmio.data) ? run->mmio.len : (unsigned)sizeof(run->mmio.data);
    unsigned step = length != 0 && (length & (length - 1)) == 0 ? length : 1;
    for (unsigned at = 0; at < length; at += step) {
        uint64_t value = 0;
        if (run->mmio.is_write != 0) {
            memcpy(&value, run->mmio.data + at, step);
            bus_write(vcpu->mmio, address + at, step, value);
        } else {
            value = bus_read(vcpu->mmio, address + at, step);
            memcpy(run->mmio.data + at, &value, step);
        }
    }
    return VCPU_GO_ON;
}

static enum vcpu_next exit_go_on(struct vcpu *vcpu)
{
    (void)vcpu;
    return VCPU_GO_ON;
}

/* A triple fault: on a PC the chip set answers the processor's shutdown cycle with a reset. */
static enum vcpu_next exit_shutdown(struct vcpu *vcpu)
{
    log_line(LOG_RESET, "triple fault");
    vcpu_log_registers(vcpu);
    power_request(&vcpu->power, POWER_RESET, 0);
    return VCPU_GO_ON;
}

static enum vcpu_next exit_system_event(struct vcpu *vcpu)
{
    static const enum power_event events[] = {
        [KVM_SYSTEM_EVENT_SHUTDOWN] = POWER_OFF,
        [KVM_SYSTEM_EVENT_RESET] = POWER_RESET,
        [KVM_SYSTEM_EVENT_CRASH] = POWER_RESET,
    };
    uint32_t type = vcpu->run->system_event.type;
    if (type == 0 || type >= sizeof(events) / sizeof(events[0])) {
        error_set(&vcpu->error, "the back end reports an unknown system event %u", type);
        return VCPU_STOP;
    }
    power_request(&vcpu->power, events[type], 0);
    return VCPU_GO_ON;
}

/* What the soft back end has to say about it; "" on the kernel's. */
static void exit_backend_text(const struct vcpu *vcpu, char *text, size_t bytes)
{
    union {
        struct kage_text head;
        char room[sizeof(struct kage_text) + 256];
    } reply;
    memset(&reply, 0, sizeof(reply));
    reply.head.bytes = sizeof(reply) - sizeof(struct kage_text);
    text[0] = '\0';
    if (vcpu->backend->ioctl(vcpu->fd, KAGE_GET_ERROR, &reply) >= 0) {
        reply.room[sizeof(reply.room) - 1] = '\0';
        snprintf(text, bytes, "%s", reply.room + offsetof(struct kage_text, text));
    }
}

static enum vcpu_next exit_give_up(struct vcpu *vcpu, const char *what, uint64_t number)
{
    char text[256];
    struct kvm_regs regs;
    memset(&regs, 0, sizeof(regs));
    exit_backend_text(vcpu, text, sizeof(text));
    vcpu->backend->ioctl(vcpu->fd, KVM_GET_REGS, &regs);
    error_set(&vcpu->error, "the guest's processor cannot go on at rip 0x%llx: %s (%s 0x%" PRIx64 ")", regs.rip,
              text[0] != '\0' ? text : "the back end gives no reason", what, number);
    vcpu_log_registers(vcpu);
    return VCPU_STOP;
}

static enum vcpu_next exit_internal_error(struct vcpu *vcpu)
{
    return exit_give_up(vcpu, "internal error", vcpu->run->internal.suberror);
}

static enum vcpu_next exit_fail_entry(struct vcpu *vcpu)
{
    return exit_give_up(vcpu, "failed VM entry", vcpu->run->fail_entry.hardware_entry_failure_reason);
}

static enum vcpu_next exit_unknown(struct vcpu *vcpu)
{
    return exit_give_up(vcpu, "hardware exit", vcpu->run->hw.hardware_exit_reason);
}

static enum vcpu_next exit_unexpected(struct vcpu *vcpu)
{
    return exit_give_up(vcpu, "unexpected exit", vcpu->run->exit_reason);
}

static const struct {
    const char *name;
    enum vcpu_next (*handle)(struct vcpu *vcpu);
} exits[] = {
    [KVM_EXIT_UNKNOWN] = {"UNKNOWN", exit_unknown},
    [KVM_EXIT_EXCEPTION] = {"EXCEPTION", exit_unexpected},
    [KVM_EXIT_IO] = {"IO", exit_io},
    [KVM_EXIT_HYPERCALL] = {"HYPERCALL", exit_unexpected},
    [KVM_EXIT_DEBUG] = {"DEBUG", exit_unexpected},
    [KVM_EXIT_HLT] = {"HLT", exit_unexpected}, /* the irqchip is in the back end: it waits there */
    [KVM_EXIT_MMIO] = {"MMIO", exit_mmio},
    [KVM_EXIT_IRQ_WINDOW_OPEN] = {"IRQ_WINDOW_OPEN", exit_go_on},
    [KVM_EXIT_SHUTDOWN] = {"SHUTDOWN", exit_shutdown},
    [KVM_EXIT_FAIL_ENTRY] = {"FAIL_ENTRY", exit_fail_entry},
    [KVM_EXIT_INTR] = {"INTR", exit_go_on},
    [KVM_EXIT_SET_TPR] = {"SET_TPR", exit_go_on},
    [KVM_EXIT_TPR_ACCESS] = {"TPR_ACCESS", exit_unexpected},
    [KVM_EXIT_S390_SIEIC] = {"S390_SIEIC", exit_unexpected},
    [KVM_EXIT_S390_RESET] = {"S390_RESET", exit_unexpected},
    [KVM_EXIT_DCR] = {"DCR", exit_unexpected},
    [KVM_EXIT_NMI] = {"NMI", exit_unexpected},
    [KVM_EXIT_INTERNAL_ERROR] = {"INTERNAL_ERROR", exit_internal_error},
    [KVM_EXIT_OSI] = {"OSI", exit_unexpected},
    [KVM_EXIT_PAPR_HCALL] = {"PAPR_HCALL", exit_unexpected},
    [KVM_EXIT_S390_UCONTROL] = {"S390_UCONTROL", exit_unexpected},
    [KVM_EXIT_WATCHDOG] = {"WATCHDOG", exit_unexpected},
    [KVM_EXIT_S390_TSCH] = {"S390_TSCH", exit_unexpected},
    [KVM_EXIT_EPR] = {"EPR", exit_unexpected},
    [KVM_EXIT_SYSTEM_EVENT] = {"SYSTEM_EVENT", exit_system_event},
    [KVM_EXIT_S390_STSI] = {"S390_STSI", exit_unexpected},
    [KVM_EXIT_IOAPIC_EOI] = {"IOAPIC_EOI", exit_unexpected},
    [KVM_EXIT_HYPERV] = {"HYPERV", exit_unexpected},
    [KVM_EXIT_ARM_NISV] = {"ARM_NISV", exit_unexpected},
    [KVM_EXIT_X86_RDMSR] = {"X86_RDMSR", exit_unexpected},
    [KVM_EXIT_X86_WRMSR] = {"X86_WRMSR", exit_unexpected},
    [KVM_EXIT_DIRTY_RING_FULL] = {"DIRTY_RING_FULL", exit_unexpected},
    [KVM_EXIT_AP_RESET_HOLD] = {"AP_RESET_HOLD", exit_unexpected},
    [KVM_EXIT_X86_BUS_LOCK] = {"X86_BUS_LOCK", exit_go_on},
    [KVM_EXIT_XEN] = {"XEN", exit_unexpected},
    [KVM_EXIT_RISCV_SBI] = {"RISCV_SBI", exit_unexpected},
    [KVM_EXIT_RISCV_CSR] = {"RISCV_CSR", exit_unexpected},
    [KVM_EXIT_NOTIFY] = {"NOTIFY", exit_go_on},
};

#define EXIT_ROWS (sizeof(exits) / sizeof(exits[0]))
_Static_assert(EXIT_ROWS == KVM_EXIT_NOTIFY + 1, "a row for every reason");
_Static_assert(EXIT_ROWS <= VCPU_EXIT_REASONS, "a counter for every reason");

const char *vcpu_exit_name(unsigned reason)
{
    return reason < EXIT_ROWS ? exits[reason].name : "?";
}

enum vcpu_next vcpu_handle_exit(struct vcpu *vcpu)
{
    uint32_t reason = vcpu->run->exit_reason;
    if (reason >= EXIT_ROWS) {
        return exit_unexpected(vcpu);
    }
    vcpu->exits[reason]++;
    return exits[reason].handle(vcpu);
}
