/* SPDX-License-Identifier: MIT */
/*
 * The extension ioctls of kage.h: the VMCS as text and by field, last errors (statistics: stats.c).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kage.h"
#include "kvm/vcpu.h"
#include "vmx/vmx.h"

int kvm_vm_get_error(struct kvm_object *object, void *arg)
{
    return kvm_error_get(&kvm_vm_of(object)->error, arg);
}

int kvm_vcpu_get_error(struct kvm_object *object, void *arg)
{
    return kvm_error_get(&kvm_vcpu_of(object)->error, arg);
}

int kvm_vcpu_dump_vmcs(struct kvm_object *object, void *arg)
{
    const struct vmcs *vmcs = &kvm_vcpu_of(object)->cpu->vmcs;
    struct kage_text *client = arg;
    size_t length = 0;
    uint32_t room;

    if (kvm_copy_in(&room, &client->bytes, sizeof(room)) || (room && kvm_copy_out(client->text, "", 1)))
        return -EFAULT;
    for (size_t i = 0; i < vmcs_fields_len; i++) {
        char line[96];
        uint64_t value;
        if (vmcs_read(vmcs, vmcs_fields[i].encoding, &value))
            continue;
        size_t n = (size_t)snprintf(line, sizeof(line), "%s 0x%04x = 0x%llx\n", vmcs_fields[i].name,
                                    vmcs_fields[i].encoding, (unsigned long long)value);
        if (n >= sizeof(line))
            n = sizeof(line) - 1;
        if (length + n < room && kvm_copy_out(client->text + length, line, n + 1))
            return -EFAULT;
        length += n;
    }
    return (int)length;
}

int kvm_vcpu_vmread(struct kvm_object *object, void *arg)
{
    struct kage_vmcs_field *field = arg;
    uint64_t value = 0;
    int err = vmcs_read(&kvm_vcpu_of(object)->cpu->vmcs, field->encoding, &value);

    field->value = value;
    return err;
}
