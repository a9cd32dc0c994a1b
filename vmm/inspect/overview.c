/* SPDX-License-Identifier: MIT */
/* `kage inspect` without a topic: what the VM is, and its processors in a line each. */
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "inspect/view.h"
#include "inspect/words.h"

static const char *const mp_states[] = {
    [KVM_MP_STATE_RUNNABLE] = "runs", [KVM_MP_STATE_UNINITIALIZED] = "waits for INIT", [KVM_MP_STATE_INIT_RECEIVED] = "waits for SIPI",
    [KVM_MP_STATE_HALTED] = "halted", [KVM_MP_STATE_SIPI_RECEIVED] = "starts",
};

static const char *state_of(const struct kage_inspect_vcpu *cpu)
{
    size_t known = sizeof(mp_states) / sizeof(mp_states[0]);
    const char *state = cpu->mp_state < known && mp_states[cpu->mp_state] != NULL ? mp_states[cpu->mp_state] : "?";
    return cpu->in_run != 0 || cpu->mp_state != KVM_MP_STATE_RUNNABLE ? state : "at the VMM";
}

static const char *paging_of(const struct kage_inspect_vcpu *cpu)
{
    if ((cpu->cr0 >> 31 & 1) == 0) {
        return "none";
    }
    if ((cpu->efer >> 10 & 1) != 0) {
        return (cpu->cr4 >> 12 & 1) != 0 ? "5-level" : "4-level";
    }
    return (cpu->cr4 >> 5 & 1) != 0 ? "PAE" : "32-bit";
}

/* What the process is, from its command line. */
static void command_of(pid_t pid, char *text, size_t room)
{
    char path[40];

    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    FILE *file = fopen(path, "re");
    size_t length = file != NULL ? fread(text, 1, room - 1, file) : 0;
    if (file != NULL) {
        fclose(file);
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        text[i] = (char)(c == '\0' ? ' ' : c < ' ' || c >= 0x7f ? '?' : c);
    }
    while (length > 0 && text[length - 1] == ' ') {
        length--;
    }
    text[length] = '\0';
}

static void overview_json(struct inspect_view *view, const struct kage_inspect_vm *vm, const struct kage_inspect_vcpu *cpus)
{
    json_t *list = json_array();

    json_object_set_new(view->json, "mmu", json_string(kage_mmu_name((int)vm->mmu)));
    json_object_set_new(view->json, "vms", view_number(vm->vms));
    json_object_set_new(view->json, "slots", view_number(vm->slots));
    json_object_set_new(view->json, "memory_bytes", view_number(vm->memory_bytes));
    json_object_set_new(view->json, "table_pages", view_number(vm->table_pages));
    if (vm->mmu == KAGE_MMU_SHADOW) {
        json_object_set_new(view->json, "max_table_pages", view_number(vm->max_table_pages));
    }
    json_object_set_new(view->json, "mapped", json_pack("{s:o, s:o, s:o}", "4k", view_number(vm->pages[0]), "2m", view_number(vm->pages[1]),
                                                        "1g", view_number(vm->pages[2])));
    for (uint32_t i = 0; i < vm->vcpus; i++) {
        const struct kage_inspect_vcpu *c = &cpus[i];
        json_array_append_new(list, json_pack("{s:o, s:o, s:s, s:i, s:s, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s}", "cpu", view_number(i), "id",
                                              view_number(c->id), "state", state_of(c), "code_bits", (int)c->code_bits, "paging", paging_of(c), "cpl",
                                              (int)c->cpl, "rip", view_hex(c->rip), "rsp", view_hex(c->gpr[4]), "cr0", view_hex(c->cr0), "cr3",
                                              view_hex(c->cr3), "cr4", view_hex(c->cr4), "efer", view_hex(c->efer), "exits", view_number(c->exits),
                                              "last_exit", c->exit_name));
    }
    json_object_set_new(view->json, "cpus", list);
}

static void overview_text(struct inspect_view *view, const struct kage_inspect_vm *vm, const struct kage_inspect_vcpu *cpus)
{
    static const char *const all[] = {">cpu", "state", ">code", "paging", ">CPL", "RIP", "CR3", ">exits", "last exit", NULL};
    static const char *const few[] = {">cpu", "state", ">code", "paging", ">CPL", "RIP", ">exits", NULL};
    bool narrow = out_is_narrow(&view->out);
    struct out *out = &view->out;
    char a[OUT_NUMBER], b[OUT_NUMBER], command[400];
    struct table table;

    command_of(view->pid, command, sizeof(command));
    if (strlen(command) > out->width - 24) {
        snprintf(command + out->width - 27, 4, "...");
    }
    out_heading(out, "Process %d", (int)view->pid);
    if (command[0] != '\0') {
        fprintf(out->file, "  ");
        out_text(out, OUT_DIM, "%s\n", command);
    }
    uint64_t mapped = (vm->pages[0] << 12) + (vm->pages[1] << 21) + (vm->pages[2] << 30);
    char levels[64] = "", c4[OUT_NUMBER], c2[OUT_NUMBER], c1[OUT_NUMBER], tables[OUT_NUMBER];
    if (vm->mmu == KAGE_MMU_EPT) {
        snprintf(levels, sizeof(levels), ", %u levels", (unsigned)(vm->ept_pointer >> 3 & 7) + 1);
    } else {
        snprintf(levels, sizeof(levels), ", at most %s", out_count(c4, vm->max_table_pages));
    }
    out_paragraph(out, OUT_PLAIN, "memory  %s in %u slot%s; MMU: %s%s", out_bytes(a, vm->memory_bytes), vm->slots, vm->slots == 1 ? "" : "s",
                  vm->mmu == KAGE_MMU_EPT ? "EPT" : "shadow page tables", levels);
    out_count(c4, vm->pages[0]);
    out_count(c2, vm->pages[1]);
    out_count(c1, vm->pages[2]);
    out_count(tables, vm->table_pages);
    if (vm->mmu == KAGE_MMU_EPT) {
        out_paragraph(out, OUT_PLAIN, "mapped  %s by %s pages of 4 KiB, %s of 2 MiB and %s of 1 GiB, in %s table%s", out_bytes(b, mapped), c4, c2, c1,
                      tables, vm->table_pages == 1 ? "" : "s");
    } else { /* of one page there may be many */
        out_paragraph(out, OUT_PLAIN, "entries %s for pages of 4 KiB, %s of 2 MiB and %s of 1 GiB, in %s shadow page%s", c4, c2, c1, tables,
                      vm->table_pages == 1 ? "" : "s");
    }
    if (vm->vms > 1) {
        out_paragraph(out, OUT_PLAIN, "this is VM %u of %u in the process: --vm N shows another", view->vm, vm->vms);
    }
    fputc('\n', out->file);
    table_begin(&table, out, narrow ? few : all);
    for (uint32_t i = 0; i < vm->vcpus; i++) {
        const struct kage_inspect_vcpu *c = &cpus[i];
        bool runs = c->mp_state == KVM_MP_STATE_RUNNABLE;
        table_cell(&table, OUT_NAME, "%u", i);
        table_cell(&table, runs ? OUT_GOOD : OUT_PLAIN, "%s", state_of(c));
        table_cell(&table, OUT_PLAIN, "%u-bit", c->code_bits);
        table_cell(&table, OUT_PLAIN, "%s", paging_of(c));
        table_cell(&table, OUT_PLAIN, "%u", c->cpl);
        table_cell(&table, OUT_PLAIN, "0x%016llx", (unsigned long long)c->rip);
        if (!narrow) {
            table_cell(&table, OUT_PLAIN, "0x%09llx", (unsigned long long)c->cr3);
        }
        table_cell(&table, OUT_PLAIN, "%s", out_count(a, c->exits));
        if (!narrow) {
            table_cell(&table, OUT_DIM, "%s", c->exit_name);
        }
    }
    table_end(&table);
    fputc('\n', out->file);
    out_paragraph(out, OUT_DIM, "Topics: vmcs, ept, shadow, tlb, slots, exits. --gva or --gpa ADDRESS: its way to memory.");
}

int view_overview(struct inspect_view *view, struct error *error)
{
    struct kage_inspect_vm vm;

    if (view_vm(view, &vm, error) != 0) {
        return -1;
    }
    struct kage_inspect_vcpu *cpus = calloc(vm.vcpus + 1, sizeof(*cpus));
    if (cpus == NULL) {
        return error_set(error, "no memory");
    }
    int result = 0;
    for (uint32_t i = 0; i < vm.vcpus && result == 0; i++) {
        result = view_vcpu(view, i, &cpus[i], error);
    }
    if (result == 0) {
        (view->json != NULL ? overview_json : overview_text)(view, &vm, cpus);
    }
    free(cpus);
    return result;
}
