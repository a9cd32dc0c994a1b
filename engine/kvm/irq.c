/* SPDX-License-Identifier: MIT */
/*
 * The interrupt chips' ioctls: checks as api.rst states them, then apic/.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/vcpu.h"

/* ---- how the chips reach vCPUs (see irqchip_ops: no call back into the chip, no blocking) ---- */

static struct kvm_vcpu *irq_vcpu(void *opaque, uint32_t index)
{
    struct kvm_vm *vm = opaque;

    return index < KVM_VM_MAX_VCPUS ? kvm_vm_vcpu(vm, index) : NULL;
}

static void irq_kick(void *opaque, uint32_t index)
{
    struct kvm_vcpu *vcpu = irq_vcpu(opaque, index);
    if (vcpu)
        kvm_vcpu_request(vcpu, KVM_REQ_EVENT);
}

static void irq_nmi(void *opaque, uint32_t index)
{
    struct kvm_vcpu *vcpu = irq_vcpu(opaque, index);
    if (!vcpu)
        return;
    atomic_fetch_add(&vcpu->nmi_queued, 1u);
    kvm_vcpu_request(vcpu, KVM_REQ_NMI);
}

static void irq_init(void *opaque, uint32_t index)
{
    struct kvm_vcpu *vcpu = irq_vcpu(opaque, index);
    if (vcpu)
        kvm_vcpu_request(vcpu, KVM_REQ_INIT);
}

static void irq_sipi(void *opaque, uint32_t index, uint8_t vector)
{
    struct kvm_vcpu *vcpu = irq_vcpu(opaque, index);
    if (!vcpu)
        return;
    atomic_store(&vcpu->sipi_vector, vector);
    kvm_vcpu_request(vcpu, KVM_REQ_SIPI);
}

static ns_t irq_guest_tsc_to_ns(void *opaque, uint32_t index, uint64_t guest_tsc)
{
    struct kvm_vcpu *vcpu = irq_vcpu(opaque, index);
    return vcpu ? kvm_clock_guest_tsc_to_monotonic(vcpu, guest_tsc) : kvm_monotonic_ns();
}

static void irq_ioapic_eoi(void *opaque, uint32_t index, uint8_t vector)
{
    struct kvm_vcpu *vcpu = irq_vcpu(opaque, index);
    if (!vcpu)
        return;
    atomic_store(&vcpu->ioapic_eoi_vector, vector);
    kvm_vcpu_request(vcpu, KVM_REQ_IOAPIC_EOI);
}

static const struct irqchip_ops irq_ops = {
    .kick = irq_kick,
    .nmi = irq_nmi,
    .init = irq_init,
    .sipi = irq_sipi,
    .guest_tsc_to_ns = irq_guest_tsc_to_ns,
    .ioapic_eoi = irq_ioapic_eoi,
};

/* VM mutex held. */
int kvm_irq_create_chip(struct kvm_vm *vm, bool split, uint32_t split_pins)
{
    if (kvm_vm_irqchip(vm))
        return -EEXIST;
    if (atomic_load(&vm->vcpu_count))
        return -EINVAL;
    struct irqchip *chip = irqchip_new(split, &irq_ops, vm);
    if (!chip)
        return -errno;
    if (split)
        irqchip_set_split_pins(chip, split_pins);
    irqchip_set_x2apic_api(chip, vm->x2apic_api);
    irqchip_set_mmio_hole(chip, kvm_vm_has_quirk(vm, KVM_X86_QUIRK_LAPIC_MMIO_HOLE));
    atomic_store_explicit(&vm->irqchip, chip, memory_order_release);
    return 0;
}

int kvm_vm_create_irqchip(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);

    (void)arg; /* none: clients pass garbage */
    pthread_mutex_lock(&vm->lock);
    int err = kvm_irq_create_chip(vm, false, 0);
    pthread_mutex_unlock(&vm->lock);
    return err;
}

/* The chip if it is the full one, else NULL. */
static struct irqchip *full_chip(struct kvm_object *object)
{
    struct irqchip *chip = kvm_vm_irqchip(kvm_vm_of(object));

    return chip && !irqchip_is_split(chip) ? chip : NULL;
}

int kvm_vm_get_irqchip(struct kvm_object *object, void *arg)
{
    struct irqchip *chip = full_chip(object);
    return chip ? irqchip_get_state(chip, arg) : -ENXIO;
}

int kvm_vm_set_irqchip(struct kvm_object *object, void *arg)
{
    struct irqchip *chip = full_chip(object);
    return chip ? irqchip_set_state(chip, arg) : -ENXIO;
}

int kvm_vm_irq_line_status(struct kvm_object *object, void *arg)
{
    struct irqchip *chip = kvm_vm_irqchip(kvm_vm_of(object));
    struct kvm_irq_level *line = arg;

    if (!chip)
        return -ENXIO;
    line->status = irqchip_set_irq(chip, IRQ_SOURCE_USER, line->irq, line->level != 0);
    return 0;
}

int kvm_vm_irq_line(struct kvm_object *object, void *arg)
{
    struct irqchip *chip = kvm_vm_irqchip(kvm_vm_of(object));
    const struct kvm_irq_level *line = arg;

    if (!chip)
        return -ENXIO;
    (void)irqchip_set_irq(chip, IRQ_SOURCE_USER, line->irq, line->level != 0);
    return 0;
}

int kvm_vm_set_gsi_routing(struct kvm_object *object, void *arg)
{
    struct irqchip *chip = kvm_vm_irqchip(kvm_vm_of(object));
    const struct kvm_irq_routing *client = arg;
    struct kvm_irq_routing header;
    struct kvm_irq_routing_entry *entries = NULL;

    if (kvm_copy_in(&header, client, sizeof(header)))
        return -EFAULT;
    if (!chip || header.nr > IRQCHIP_MAX_GSI || header.flags)
        return -EINVAL;
    size_t bytes = header.nr * sizeof(*entries);
    entries = malloc(bytes + 1);
    if (!entries)
        return -ENOMEM;
    int err = kvm_copy_in(entries, client->entries, bytes);
    if (!err)
        err = irqchip_set_routing(chip, entries, header.nr);
    free(entries);
    return err;
}

int kvm_vm_signal_msi(struct kvm_object *object, void *arg)
{
    struct irqchip *chip = kvm_vm_irqchip(kvm_vm_of(object));
    return chip ? irqchip_signal_msi(chip, arg) : -EINVAL;
}

int kvm_vm_irqfd(struct kvm_object *object, void *arg)
{
    struct irqchip *chip = kvm_vm_irqchip(kvm_vm_of(object));
    const struct kvm_irqfd *irqfd = arg;

    if (!chip) /* nothing to take away is no error */
        return irqfd->flags == KVM_IRQFD_FLAG_DEASSIGN && fcntl((int)irqfd->fd, F_GETFD) >= 0 ? 0 : -EINVAL;
    return irqchip_irqfd(chip, irqfd);
}

int kvm_vm_ioeventfd(struct kvm_object *object, void *arg)
{
    return ioeventfd_ioctl(kvm_vm_of(object)->ioeventfds, arg);
}

static int create_pit(struct kvm_object *object, uint32_t flags)
{
    struct kvm_vm *vm = kvm_vm_of(object);

    pthread_mutex_lock(&vm->lock);
    struct irqchip *chip = full_chip(object);
    int err = chip ? irqchip_create_pit(chip, flags) : -ENOENT;
    pthread_mutex_unlock(&vm->lock);
    return err;
}

int kvm_vm_create_pit(struct kvm_object *object, void *arg)
{
    (void)arg;
    return create_pit(object, KVM_PIT_SPEAKER_DUMMY);
}

int kvm_vm_create_pit2(struct kvm_object *object, void *arg)
{
    const struct kvm_pit_config *config = arg;
    return create_pit(object, config->flags);
}

int kvm_vm_get_pit2(struct kvm_object *object, void *arg)
{
    struct irqchip *chip = full_chip(object);
    return chip ? irqchip_get_pit(chip, arg) : -ENXIO;
}

int kvm_vm_set_pit2(struct kvm_object *object, void *arg)
{
    struct irqchip *chip = full_chip(object);
    return chip ? irqchip_set_pit(chip, arg) : -ENXIO;
}

/* The old pair: the channels without the flags. */
int kvm_vm_get_pit(struct kvm_object *object, void *arg)
{
    struct kvm_pit_state2 state;
    int err = kvm_vm_get_pit2(object, &state);

    if (!err)
        memcpy(((struct kvm_pit_state *)arg)->channels, state.channels, sizeof(state.channels));
    return err;
}

int kvm_vm_set_pit(struct kvm_object *object, void *arg)
{
    struct kvm_pit_state2 state;
    int err = kvm_vm_get_pit2(object, &state);

    if (err)
        return err;
    memcpy(state.channels, ((const struct kvm_pit_state *)arg)->channels, sizeof(state.channels));
    return kvm_vm_set_pit2(object, &state);
}

int kvm_vm_reinject_control(struct kvm_object *object, void *arg)
{
    struct irqchip *chip = full_chip(object);
    struct kvm_reinject_control control;

    if (kvm_copy_in(&control, arg, sizeof(control)))
        return -EFAULT;
    return chip ? irqchip_set_pit_reinject(chip, control.pit_reinject != 0) : -ENXIO;
}
