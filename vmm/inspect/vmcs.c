/* SPDX-License-Identifier: MIT */
/* `kage inspect vmcs`: the state of a processor in words, then its VMCS field by field. */
#include <stdlib.h>
#include <string.h>

#include "inspect/view.h"
#include "inspect/words.h"

/* Bits 11..10 of an encoding (SDM 3C 25.11.2), in the order in which they are shown. */
static const struct { uint32_t type; const char *name, *key; } areas[] = {
    {2, "Guest-state area", "guest"}, {0, "Control fields", "control"}, {1, "VM-exit information", "exit"}, {3, "Host-state area", "host"},
};

static uint32_t area_of(const struct kage_inspect_field *field)
{
    return field->encoding >> 10 & 3;
}

static uint64_t value_of(const struct kage_inspect_field *fields, uint32_t count, uint32_t encoding)
{
    for (uint32_t i = 0; i < count; i++) {
        if (fields[i].encoding == encoding) {
            return fields[i].value;
        }
    }
    return 0;
}

static unsigned digits_of(const struct kage_inspect_field *field)
{
    return field->width != 0 ? field->width / 4u : 16u;
}

/* ---- In words ---- */

static void print_registers(struct inspect_view *view, const struct kage_inspect_vcpu *cpu)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    struct out *out = &view->out;
    unsigned across = out->width >= 104 ? 4 : 3;

    for (unsigned i = 0; i < 16; i++) {
        fputs("  ", out->file);
        out_text(out, OUT_DIM, "%-3s", names[i]);
        fprintf(out->file, " 0x%016llx%s", (unsigned long long)cpu->gpr[i], (i + 1) % across == 0 || i == 15 ? "\n" : " ");
    }
}

static void print_segments(struct inspect_view *view, const struct kage_inspect_field *fields, uint32_t count)
{
    static const char *const names[] = {"segment", "selector", "base", "limit", "|rights", NULL};
    static const char *const segments[] = {"ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"};
    struct table table;

    table_begin(&table, &view->out, names);
    for (uint32_t i = 0; i < 8; i++) {
        char text[WORDS_MAX];
        uint32_t rights = (uint32_t)value_of(fields, count, 0x4814 + 2 * i);
        bool usable = (rights >> 16 & 1) == 0;
        table_cell(&table, OUT_NAME, "%s", segments[i]);
        table_cell(&table, usable ? OUT_PLAIN : OUT_DIM, "0x%04llx", (unsigned long long)value_of(fields, count, 0x0800 + 2 * i));
        table_cell(&table, usable ? OUT_PLAIN : OUT_DIM, "0x%016llx", (unsigned long long)value_of(fields, count, 0x6806 + 2 * i));
        table_cell(&table, usable ? OUT_PLAIN : OUT_DIM, "0x%08llx", (unsigned long long)value_of(fields, count, 0x4800 + 2 * i));
        table_cell(&table, usable ? OUT_PLAIN : OUT_DIM, "%s", words_segment(text, rights));
    }
    for (uint32_t i = 0; i < 2; i++) {
        table_cell(&table, OUT_NAME, i == 0 ? "GDTR" : "IDTR");
        table_cell(&table, OUT_PLAIN, "%s", "");
        table_cell(&table, OUT_PLAIN, "0x%016llx", (unsigned long long)value_of(fields, count, 0x6816 + 2 * i));
        table_cell(&table, OUT_PLAIN, "0x%08llx", (unsigned long long)value_of(fields, count, 0x4810 + 2 * i));
        table_cell(&table, OUT_PLAIN, "%s", "");
    }
    table_end(&table);
}

static void print_word_line(struct inspect_view *view, const char *name, uint64_t value, const struct word_bit *bits)
{
    char text[WORDS_MAX];

    fputs("  ", view->out.file);
    out_text(&view->out, OUT_DIM, "%-7s", name);
    words_bits(text, bits, value);
    fprintf(view->out.file, "0x%016llx%s%s\n", (unsigned long long)value, text[0] != '\0' ? "  " : "", text);
}

static void print_state(struct inspect_view *view, const struct kage_inspect_vcpu *cpu, const struct kage_inspect_field *fields, uint32_t count)
{
    struct out *out = &view->out;

    out_heading(out, "Processor %u: %u-bit code at CPL %u", view_cpu(view), cpu->code_bits, cpu->cpl);
    fputs("  ", out->file);
    out_text(out, OUT_DIM, "%-7s", "rip");
    fprintf(out->file, "0x%016llx\n", (unsigned long long)cpu->rip);
    print_word_line(view, "rflags", cpu->rflags & ~2ull, words_rflags);
    print_word_line(view, "cr0", cpu->cr0, words_cr0);
    print_word_line(view, "cr4", cpu->cr4, words_cr4);
    print_word_line(view, "efer", cpu->efer, words_efer);
    fputs("  ", out->file);
    out_text(out, OUT_DIM, "%-7s", "cr3");
    fprintf(out->file, "0x%016llx  ", (unsigned long long)cpu->cr3);
    out_text(out, OUT_DIM, "cr2 ");
    fprintf(out->file, "0x%016llx  ", (unsigned long long)cpu->cr2);
    out_text(out, OUT_DIM, "cr8 ");
    fprintf(out->file, "%llu\n\n", (unsigned long long)cpu->cr8);
    print_registers(view, cpu);
    fputc('\n', out->file);
    print_segments(view, fields, count);
    fputc('\n', out->file);
}

/* ---- Field by field ---- */

/* The last exit's reason has a name, and its qualification depends on it. */
static const char *meaning_of(char text[WORDS_MAX], const struct kage_inspect_field *field, const struct kage_inspect_vcpu *cpu)
{
    if (field->encoding == 0x4402) {
        snprintf(text, WORDS_MAX, "%u %.39s%s", (unsigned)(field->value & 0xffff), cpu->exit_name, (field->value >> 31 & 1) != 0 ? ", of VM entry" : "");
        return text;
    }
    if (field->encoding == 0x6400) {
        return words_qualification(text, cpu->exit_reason & 0xffff, field->value);
    }
    return words_vmcs(text, field->encoding, field->value);
}

static void print_area(struct inspect_view *view, uint32_t type, const char *name, const struct kage_inspect_vcpu *cpu,
                       const struct kage_inspect_field *fields, uint32_t count)
{
    static const char *const names[] = {"encoding", "field", "value", "|meaning", NULL};
    struct table table;
    unsigned hidden = 0;

    out_heading(&view->out, "%s", name);
    table_begin(&table, &view->out, names);
    for (uint32_t i = 0; i < count; i++) {
        char text[WORDS_MAX];
        if (area_of(&fields[i]) != type) {
            continue;
        }
        if (fields[i].value == 0 && !view->all) {
            hidden++;
            continue;
        }
        table_cell(&table, OUT_DIM, "0x%04x", fields[i].encoding);
        table_cell(&table, OUT_NAME, "%s", fields[i].name);
        table_cell(&table, OUT_PLAIN, "0x%0*llx", (int)digits_of(&fields[i]), (unsigned long long)fields[i].value);
        table_cell(&table, OUT_PLAIN, "%s", meaning_of(text, &fields[i], cpu));
    }
    if (table.rows != 0) {
        table_end(&table);
    }
    if (hidden != 0) {
        out_text(&view->out, OUT_DIM, "  %u field%s more %s 0 (--all)\n", hidden, hidden == 1 ? "" : "s", hidden == 1 ? "is" : "are");
    }
    fputc('\n', view->out.file);
}

static void vmcs_json(struct inspect_view *view, const struct kage_inspect_vcpu *cpu, const struct kage_inspect_field *fields, uint32_t count)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    json_t *registers = json_object(), *list = json_array();

    for (unsigned i = 0; i < 16; i++) {
        json_object_set_new(registers, names[i], view_hex(cpu->gpr[i]));
    }
    const struct { const char *name; uint64_t value; } others[] = {
        {"rip", cpu->rip}, {"rflags", cpu->rflags}, {"cr0", cpu->cr0}, {"cr2", cpu->cr2}, {"cr3", cpu->cr3},
        {"cr4", cpu->cr4}, {"cr8", cpu->cr8}, {"efer", cpu->efer}, {"xcr0", cpu->xcr0},
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        json_object_set_new(registers, others[i].name, view_hex(others[i].value));
    }
    json_object_set_new(view->json, "cpu", view_number(view_cpu(view)));
    json_object_set_new(view->json, "registers", registers);
    for (uint32_t i = 0; i < count; i++) {
        char text[WORDS_MAX];
        const char *area = "";
        for (size_t a = 0; a < sizeof(areas) / sizeof(areas[0]); a++) {
            area = areas[a].type == area_of(&fields[i]) ? areas[a].key : area;
        }
        json_array_append_new(list, json_pack("{s:o, s:s, s:s, s:o, s:s}", "encoding", view_hex(fields[i].encoding), "name", fields[i].name, "area",
                                              area, "value", view_hex(fields[i].value), "meaning",
                                              meaning_of(text, &fields[i], cpu)));
    }
    json_object_set_new(view->json, "fields", list);
}

int view_vmcs(struct inspect_view *view, struct error *error)
{
    struct kage_inspect_vcpu cpu;
    void *fields;
    uint32_t count;

    if (view_vcpu(view, view_cpu(view), &cpu, error) != 0 ||
        view_list(view, KAGE_INSPECT_VMCS, view_cpu(view), sizeof(struct kage_inspect_field), &fields, &count, error) != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < count; i++) {
        view_clean(((struct kage_inspect_field *)fields)[i].name, sizeof(((struct kage_inspect_field *)fields)[i].name));
    }
    if (view->json != NULL) {
        vmcs_json(view, &cpu, fields, count);
    } else {
        print_state(view, &cpu, fields, count);
        for (size_t i = 0; i < sizeof(areas) / sizeof(areas[0]); i++) {
            print_area(view, areas[i].type, areas[i].name, &cpu, fields, count);
        }
    }
    free(fields);
    return 0;
}
