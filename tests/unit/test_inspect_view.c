/* SPDX-License-Identifier: MIT */
/*
 * What `kage inspect` prints, of a VM of this process: words, aligned tables that fit their width, JSON that says the same. And
 * the socket between the two: who asks what in a bad way gets nothing, and the process keeps its descriptors.
 */
#include "kvm_client.h"

#include <dirent.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "inspect/client.h"
#include "inspect/protocol.h"
#include "inspect/server.h"
#include "inspect/view.h"
#include "inspect/words.h"

GUEST_CODE(touch_code, ".code64", "mov 0x3000, %eax\n movl $1, 0x9000\n xor %eax, %eax\n cpuid\n hlt");

static int ask_here(void *opaque, struct kage_inspect *look, void *data)
{
    (void)opaque;
    look->data = (uintptr_t)data;
    return kage_inspect(look) == 0 ? 0 : -errno;
}

/* A topic as text; free() it. */
static char *text_of(view_topic *topic, struct inspect_view *view, unsigned width, bool utf8)
{
    struct error error = { "" };
    char *text = NULL;
    size_t bytes;

    view->ask = ask_here;
    view->pid = getpid();
    view->out = (struct out){ .file = open_memstream(&text, &bytes), .width = width, .utf8 = utf8 };
    if (topic(view, &error) != 0)
        fail_msg("%s", error.text);
    fclose(view->out.file);
    free(view->before);
    view->before = NULL;
    return text;
}

static json_t *json_of(view_topic *topic, struct inspect_view *view)
{
    struct error error = { "" };
    json_error_t bad;

    view->ask = ask_here;
    view->pid = getpid();
    view->json = json_object();
    if (topic(view, &error) != 0)
        fail_msg("%s", error.text);
    free(view->before);
    view->before = NULL;
    /* Through its text, as a reader gets it. */
    char *text = json_dumps(view->json, 0);
    assert_non_null(text);
    json_t *again = json_loads(text, 0, &bad);
    assert_non_null(again);
    assert_true(json_equal(view->json, again));
    json_decref(view->json);
    view->json = NULL;
    free(text);
    return again;
}

static void has_line(const char *text, const char *line)
{
    size_t length = strlen(line);

    for (const char *at = text; (at = strstr(at, line)) != NULL; at++)
        if ((at == text || at[-1] == '\n') && (at[length] == '\n' || at[length] == '\0'))
            return;
    fail_msg("no line \"%s\" in:\n%s", line, text);
}

static uint64_t hex(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    assert_non_null(text);
    assert_memory_equal(text, "0x", 2);
    return strtoull(text, NULL, 16);
}

/* ---- Words ---- */

static void test_words(void **state)
{
    char text[WORDS_MAX];

    (void)state;
    assert_string_equal(words_bits(text, words_cr0, 0x80050033), "PE MP ET NE WP AM PG");
    assert_string_equal(words_bits(text, words_efer, 0xd01 | 1ull << 40), "SCE LME LMA NX bit 40");
    assert_string_equal(words_bits(text, words_cr4, 0), "");
    assert_string_equal(words_vmcs(text, 0x4000, 0x29), "external-interrupt exiting, NMI exiting, virtual NMIs");
    assert_string_equal(words_vmcs(text, 0x401e, 0x82), "EPT, unrestricted guest");
    assert_string_equal(words_vmcs(text, 0x201a, 0x12345000 | 6 | 3 << 3 | 1 << 6), "write-back, 4 levels, accessed and dirty bits, root 0x12345000");
    assert_string_equal(words_vmcs(text, 0x4016, 0x80000b0e), "hardware exception, vector 14, with an error code");
    assert_string_equal(words_vmcs(text, 0x4004, 0x4002), "#DB #PF");
    assert_string_equal(words_vmcs(text, 0x6820, 0x246), "PF ZF IF");
    assert_string_equal(words_vmcs(text, 0x0802, 0x33), "GDT entry 6, RPL 3");
    assert_string_equal(words_vmcs(text, 0x681e, 0x1234), "");
    assert_string_equal(words_segment(text, 0xa09b), "64-bit code, readable, DPL 0");
    assert_string_equal(words_segment(text, 0xc0f3), "32-bit data, writable, DPL 3");
    assert_string_equal(words_segment(text, 0x10000), "unusable");
    assert_string_equal(words_segment(text, 0x8b), "busy TSS, DPL 0");
    assert_string_equal(words_qualification(text, 28, 0x303), "MOV to CR3, rbx");
    assert_string_equal(words_qualification(text, 30, 0x3f80000), "OUT port 0x3f8, 1 byte");
    assert_string_equal(words_qualification(text, 48, 0x182), "write, linear address valid, of the access, not of a table");
    assert_string_equal(words_qualification(text, 12, 5), "");
    assert_string_equal(words_guest_entry(text, 0x8000000000000163, true, true), "PW...ADGN");
    assert_string_equal(words_guest_entry(text, 0x27, false, true), "PWU..A...");
    assert_string_equal(words_ept_entry(text, 0x1b7 | 0x200, true), "RWXAD WB");
    assert_string_equal(words_ept_entry(text, 0x7, false), "RWX..");
    assert_string_equal(words_rights(text, KAGE_RIGHT_R | KAGE_RIGHT_X, false), "R.X");
    /* Everything set: bounded. */
    for (uint32_t encoding = 0; encoding < 0x7000; encoding++)
        assert_true(strlen(words_vmcs(text, encoding, UINT64_MAX)) < WORDS_MAX);
}

static void test_numbers(void **state)
{
    char text[OUT_NUMBER];

    (void)state;
    assert_string_equal(out_bytes(text, 0), "0 bytes");
    assert_string_equal(out_bytes(text, 4096), "4 KiB");
    assert_string_equal(out_bytes(text, 1536), "1.5 KiB");
    assert_string_equal(out_bytes(text, 512ull << 20), "512 MiB");
    assert_string_equal(out_bytes(text, 3ull << 30), "3 GiB");
    assert_string_equal(out_bytes(text, 1ull << 40), "1 TiB");
    assert_string_equal(out_bytes(text, UINT64_MAX), "16384 PiB");
    assert_string_equal(out_count(text, 0), "0");
    assert_string_equal(out_count(text, 999), "999");
    assert_string_equal(out_count(text, 1234567), "1,234,567");
    assert_string_equal(out_count(text, UINT64_MAX), "18,446,744,073,709,551,615");
    assert_int_equal(out_width("→ 1"), 3);
}

static void test_table(void **state)
{
    static const char *const names[] = { "a", ">number", "|words", NULL };
    struct table table;
    char *text = NULL;
    size_t bytes;
    struct out out = { .file = open_memstream(&text, &bytes), .width = 40, .utf8 = true };

    (void)state;
    table_begin(&table, &out, names);
    table_cell(&table, OUT_NAME, "→");
    table_cell(&table, OUT_PLAIN, "1");
    table_cell(&table, OUT_PLAIN, "one two three four five six seven");
    table_cell(&table, OUT_NAME, "xyz");
    table_cell(&table, OUT_PLAIN, "22222");
    table_cell(&table, OUT_PLAIN, "%s", "");
    table_end(&table);
    fclose(out.file);
    assert_string_equal(text, "  a    number  words\n"
                              "  →         1  one two three four five\n"
                              "               six seven\n"
                              "  xyz   22222\n");
    free(text);
}

/* ---- Topics ---- */

static const struct { const char *name; view_topic *topic; } all_topics[] = {
    { "overview", view_overview }, { "vmcs", view_vmcs }, { "ept", view_ept }, { "tlb", view_tlb }, { "slots", view_slots }, { "exits", view_exits },
    { "walk", view_walk },
};

static void ready(struct client *c)
{
    client_load_64(c, 0x8000, touch_code, GUEST_BYTES(touch_code));
    assert_int_equal(client_slot(c, 3, 0x100000, 0x40000, KVM_MEM_READONLY), 0);
    client_run(c, KVM_EXIT_HLT);
}

/* Every line of every topic fits; nothing but ASCII where the terminal has no more; no colour where there is none. */
static void test_fits(void **state)
{
    ready(*state);
    for (size_t t = 0; t < sizeof(all_topics) / sizeof(all_topics[0]); t++) {
        for (unsigned width = 80; width <= 120; width += 20) {
            for (unsigned utf8 = 0; utf8 < 2; utf8++) {
                struct inspect_view view = { .cpu = -1, .all = true, .gva = 0x9000, .has_gva = all_topics[t].topic == view_walk };
                char *text = text_of(all_topics[t].topic, &view, width, utf8);
                assert_true(strlen(text) > 40);
                for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
                    if (out_width(line) > width)
                        fail_msg("%s, width %u: \"%s\" has %u columns", all_topics[t].name, width, line, out_width(line));
                    for (const char *p = line; *p != '\0'; p++)
                        assert_true(utf8 || ((unsigned char)*p >= ' ' && (unsigned char)*p < 0x7f));
                    assert_null(strchr(line, '\033'));
                    assert_int_not_equal(line[strlen(line) - 1], ' ');
                }
                free(text);
            }
        }
    }
}

/* The same of a VM with shadow tables, wide enough for the two side by side. */
static void test_shadow_text(void **state)
{
    struct inspect_view view = { .cpu = -1, .gva = 0x9010, .has_gva = true };
    struct client c;
    char line[200];

    (void)state;
    client_new_vm(&c);
    assert_int_equal(kage_vm_set_mmu(kvm, c.vm, KAGE_MMU_SHADOW), 0);
    assert_int_equal(client_slot(&c, 0, 0, CLIENT_HOLE, 0), 0);
    client_new_vcpu(&c);
    client_load_64(&c, 0x8000, touch_code, GUEST_BYTES(touch_code));
    client_run(&c, KVM_EXIT_HLT);
    for (unsigned width = 80; width <= 120; width += 20) {
        char *text = text_of(view_walk, &view, width, true);
        snprintf(line, sizeof(line), "  └─▶ host 0x%lx, by a page of 4 KiB, RWXU; memory slot 0", (unsigned long)(uintptr_t)c.memory + 0x9010);
        has_line(text, line);
        assert_int_equal(strstr(text, "Shadow tables: guest-virtual to host") != NULL, width < 120);
        snprintf(line, sizeof(line), "0x%016lx  PWU..AD..  RWXU\n", ((unsigned long)(uintptr_t)c.memory + 0x9000) | 0x67);
        assert_non_null(strstr(text, line)); /* the leaf */
        for (char *row = strtok(text, "\n"); row != NULL; row = strtok(NULL, "\n"))
            if (out_width(row) > width)
                fail_msg("width %u: \"%s\"", width, row);
        free(text);
        view.has_gva = false;
        text = text_of(view_shadow, &view, width, false);
        for (char *row = strtok(text, "\n"); row != NULL; row = strtok(NULL, "\n"))
            if (out_width(row) > width)
                fail_msg("width %u: \"%s\"", width, row);
        free(text);
        view.has_gva = true;
    }
    json_t *json = json_of(view_walk, &view);
    assert_int_equal(json_array_size(json_object_get(json, "shadow")), 4);
    assert_null(json_object_get(json, "ept"));
    assert_int_equal(hex(json, "host"), (uintptr_t)c.memory + 0x9010);
    json_decref(json);
    view.has_gva = false;
    json = json_of(view_shadow, &view);
    json_t *pages = json_object_get(json, "pages");
    assert_true(json_array_size(pages) >= 4);
    json_decref(json);
    client_free(&c);
}

static void test_walk_text(void **state)
{
    struct client *c = *state;
    struct inspect_view view = { .cpu = -1, .gva = 0x9010, .has_gva = true };
    char line[200];

    ready(c);
    char *text = text_of(view_walk, &view, 120, false);
    has_line(text, "  The guest's own tables: 4-level paging, CR3 0x2000");
    has_line(text, "  0x0000000000009010 = PML4 0 . PDPT 0 . PD 0 . PT 9 . offset 0x10");
    /* Side by side: the leaves are in the last line of both. */
    snprintf(line, sizeof(line), "  PT         9  0x000000005000  0x0000000000009067  PWU..AD..  RWXU  PT        9  0x%016lx  RWXAD WB  RWX",
             ((unsigned long)(uintptr_t)c->memory + 0x9000) | 0x337);
    has_line(text, line);
    assert_null(strstr(text, "EPT: guest-physical to host"));
    has_line(text, "  `-> guest-physical 0x9010, a page of 4 KiB, RWXU, dirty");
    snprintf(line, sizeof(line), "  `-> host 0x%lx, by a page of 4 KiB, RWX; memory slot 0", (unsigned long)(uintptr_t)c->memory + 0x9010);
    has_line(text, line);
    free(text);
    /* One below the other, with where the guest's entries lie. */
    text = text_of(view_walk, &view, 100, false);
    snprintf(line, sizeof(line), "  PT     0x000000005000      9  0x0000000000009067  PWU..AD..  RWXU  0x%012lx", (unsigned long)(uintptr_t)c->memory + 0x5048);
    has_line(text, line);
    assert_non_null(strstr(text, "EPT: guest-physical to host"));
    free(text);

    view.gva = 0xc0000000;
    text = text_of(view_walk, &view, 100, true);
    has_line(text, "  └─▶ not present: #PF, error code 0x0 for a kernel's read");
    free(text);
    view.gva = 0x8000000000000000;
    text = text_of(view_walk, &view, 100, true);
    has_line(text, "  └─▶ not canonical: #GP");
    free(text);
    view = (struct inspect_view){ .cpu = -1, .has_gpa = true, .gpa = 0xfee00000 };
    text = text_of(view_walk, &view, 100, true);
    assert_non_null(strstr(text, "no memory slot: MMIO\n"));
    free(text);
}

static void test_json(void **state)
{
    struct client *c = *state;
    struct inspect_view view = { .cpu = -1 };
    json_t *json, *item;
    size_t i;

    ready(c);
    json = json_of(view_overview, &view);
    assert_string_equal(json_string_value(json_object_get(json, "mmu")), "ept");
    assert_int_equal(json_integer_value(json_object_get(json, "memory_bytes")), CLIENT_HOLE + 0x40000);
    item = json_array_get(json_object_get(json, "cpus"), 0);
    assert_int_equal(hex(item, "rip"), 0x8000 + GUEST_BYTES(touch_code));
    assert_int_equal(hex(item, "cr3"), CLIENT_PML4);
    json_decref(json);

    json = json_of(view_vmcs, &view);
    bool seen = false;
    json_array_foreach(json_object_get(json, "fields"), i, item) {
        if (hex(item, "encoding") == 0x6802) {
            seen = true;
            assert_string_equal(json_string_value(json_object_get(item, "name")), "GUEST_CR3");
            assert_string_equal(json_string_value(json_object_get(item, "area")), "guest");
            assert_int_equal(hex(item, "value"), CLIENT_PML4);
        }
    }
    assert_true(seen);
    json_decref(json);

    view.has_gva = true;
    view.gva = 0x9010;
    json = json_of(view_walk, &view);
    assert_int_equal(json_array_size(json_object_get(json, "guest")), 4);
    item = json_array_get(json_object_get(json, "guest"), 3);
    assert_int_equal(hex(item, "table"), CLIENT_PT);
    assert_int_equal(json_integer_value(json_object_get(item, "index")), 9);
    assert_int_equal(hex(item, "entry"), 0x9067);
    assert_int_equal(hex(json, "gpa"), 0x9010);
    assert_int_equal(hex(json, "host"), (uintptr_t)c->memory + 0x9010);
    assert_true(json_is_true(json_object_get(json, "mapped")));
    assert_true(json_is_true(json_object_get(json, "tlb_second")));
    json_decref(json);

    json = json_of(view_tlb, &view); /* of that page only */
    assert_int_equal(json_array_size(json_object_get(json, "entries")), 1);
    item = json_array_get(json_object_get(json, "entries"), 0);
    assert_int_equal(hex(item, "gva"), 0x9000);
    assert_int_equal(hex(item, "host"), (uintptr_t)c->memory + 0x9000);
    json_decref(json);
    view.has_gva = false;

    json = json_of(view_slots, &view);
    assert_int_equal(json_array_size(json_object_get(json, "slots")), 2);
    item = json_array_get(json_object_get(json, "slots"), 1);
    assert_int_equal(json_integer_value(json_object_get(item, "slot")), 3);
    assert_true(json_is_true(json_object_get(item, "read_only")));
    json_decref(json);

    json = json_of(view_exits, &view);
    seen = false;
    json_array_foreach(json_object_get(json, "exits"), i, item) {
        if (json_integer_value(json_object_get(item, "reason")) == 10) {
            seen = true;
            assert_string_equal(json_string_value(json_object_get(item, "name")), "CPUID");
            assert_int_equal(json_integer_value(json_object_get(item, "count")), 1);
        }
    }
    assert_true(seen);
    json_decref(json);

    json = json_of(view_ept, &view);
    uint64_t bytes = 0;
    json_array_foreach(json_object_get(json, "ranges"), i, item) {
        assert_int_equal(hex(item, "host"), (uintptr_t)c->memory + hex(item, "gpa"));
        bytes += (uint64_t)json_integer_value(json_object_get(item, "bytes"));
    }
    assert_true(bytes >= 3 * 4096 && bytes <= CLIENT_HOLE);
    json_decref(json);
}

/* Rates: of two looks, what came between. */
static void test_rates(void **state)
{
    struct client *c = *state;
    struct inspect_view view = { .cpu = -1, .ask = ask_here };
    struct error error;
    struct kvm_regs regs;

    ready(c);
    view.json = json_object();
    assert_int_equal(view_exits(&view, &error), 0);
    json_decref(view.json);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(ask(c->vcpu, KVM_GET_REGS, &regs), 0);
        regs.rip = 0x8000;
        assert_int_equal(ask(c->vcpu, KVM_SET_REGS, &regs), 0);
        client_run(c, KVM_EXIT_HLT);
    }
    view.interval = 0.5;
    view.json = json_object();
    assert_int_equal(view_exits(&view, &error), 0);
    json_t *first = json_array_get(json_object_get(view.json, "exits"), 0);
    json_t *second = json_array_get(json_object_get(view.json, "exits"), 1);
    assert_true(json_real_value(json_object_get(first, "per_second")) == 6.0);
    assert_true(json_real_value(json_object_get(second, "per_second")) == 6.0);
    json_decref(view.json);
    free(view.before);
}

static void test_errors(void **state)
{
    struct inspect_view view = { .cpu = 5, .ask = ask_here, .pid = 7 };
    struct error error = { "" };

    (void)state;
    view.json = NULL;
    assert_int_equal(view_vmcs(&view, &error), -1);
    assert_string_equal(error.text, "process 7: there is no such processor");
    view.cpu = -1;
    assert_int_equal(view_shadow(&view, &error), -1);
    assert_string_equal(error.text, "process 7: not with the MMU that this virtual machine has");
    view.vm = 44;
    assert_int_equal(view_overview(&view, &error), -1);
    assert_non_null(strstr(error.text, "no virtual machine"));
}

/* Answers of a process that means no good: anything goes, so long as it is said calmly. */
static int ask_noise(void *opaque, struct kage_inspect *look, void *data)
{
    static const size_t sizes[KAGE_INSPECT_TOPICS] = {
        [KAGE_INSPECT_VM] = sizeof(struct kage_inspect_vm), [KAGE_INSPECT_VCPU] = sizeof(struct kage_inspect_vcpu),
        [KAGE_INSPECT_WALK] = sizeof(struct kage_inspect_walk),
    };
    unsigned *seed = opaque;
    uint32_t bytes = sizes[look->topic] ? (uint32_t)sizes[look->topic] : (uint32_t)rand_r(seed) % (look->bytes < 6000 ? look->bytes : 6000);

    for (uint32_t i = 0; i < bytes; i++)
        ((uint8_t *)data)[i] = rand_r(seed) % 4 == 0 ? 0x1b : rand_r(seed) % 3 == 0 ? 0xff : (uint8_t)rand_r(seed);
    if (look->topic == KAGE_INSPECT_VM && rand_r(seed) % 8 != 0) {
        ((struct kage_inspect_vm *)data)->mmu &= 1;
        ((struct kage_inspect_vm *)data)->vcpus %= 5;
    }
    look->bytes = rand_r(seed) % 16 == 0 ? bytes / 2 : bytes;
    look->count = (uint32_t)rand_r(seed);
    look->address = rand_r(seed) % 2 == 0 ? UINT64_MAX : (uint64_t)rand_r(seed) << (rand_r(seed) % 33);
    return rand_r(seed) % 64 == 0 ? -rand_r(seed) % 140 : 0;
}

static void test_hostile_answers(void **state)
{
    unsigned seed = 7, good = 0;

    (void)state;
    for (unsigned round = 0; round < 600; round++) {
        view_topic *topic = round % 8 == 7 ? view_shadow : all_topics[round % 8].topic;
        struct inspect_view view = { .ask = ask_noise, .opaque = &seed, .cpu = -1, .pid = getpid(), .all = round % 3 == 0, .gva = 0x1000 };
        struct error error = { "" };
        char *text = NULL;
        size_t bytes;
        view.has_gva = topic == view_walk;
        view.out = (struct out){ .file = open_memstream(&text, &bytes), .width = 80 + round % 41, .utf8 = round % 2 };
        if (round / 8 % 2)
            view.json = json_object();
        int result = topic(&view, &error);
        good += result == 0;
        fclose(view.out.file);
        assert_true(result == 0 || error.text[0] != '\0');
        for (const char *p = text; *p != '\0'; p++)
            assert_true((unsigned char)*p >= ' ' || *p == '\n');
        json_decref(view.json);
        free(view.before);
        free(text);
    }
    assert_true(good > 100);
}

/* ---- The socket ---- */

static char runtime_dir[64];

static unsigned count_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;

    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

static void wait_for(struct inspect_server *server)
{
    for (unsigned i = 0; i < 1000 && !atomic_load(&server->listening); i++)
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    assert_true(atomic_load(&server->listening));
}

static void note_pid(void *opaque, pid_t pid, const char *path)
{
    assert_int_equal(access(path, F_OK), 0);
    *(unsigned *)opaque += pid == getpid() ? 1 : 1000;
}

static void test_server(void **state)
{
    struct client *c = *state;
    struct inspect_server server;
    char path[INSPECT_PATH_MAX], stale[INSPECT_PATH_MAX + 16];
    struct kage_inspect_vm vm;
    struct stat st;
    unsigned found = 0, before = count_descriptors();

    ready(c);
    inspect_server_start(&server);
    wait_for(&server);
    assert_int_equal(count_descriptors(), before); /* none of its own here */
    assert_int_equal(stat(server.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    char *slash = strrchr(strcpy(path, server.path), '/');
    *slash = '\0';
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    /* A socket that nobody listens on any more goes away. */
    snprintf(stale, sizeof(stale), "%s/999999.sock", path);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    memcpy(address.sun_path, stale, strlen(stale) + 1);
    int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(dead, (struct sockaddr *)&address, sizeof(address)), 0);
    close(dead);

    assert_true(inspect_find(getpid(), path));
    assert_string_equal(path, server.path);
    inspect_each(geteuid(), note_pid, &found);
    assert_int_equal(found, 1);
    assert_int_equal(access(stale, F_OK), -1);

    struct kage_inspect look = { .topic = KAGE_INSPECT_VM, .bytes = sizeof(vm) };
    assert_int_equal(inspect_client_ask(path, &look, &vm), 0);
    assert_int_equal(look.bytes, sizeof(vm));
    assert_int_equal(vm.vcpus, 1);
    look = (struct kage_inspect){ .topic = KAGE_INSPECT_VM, .vm = 3, .bytes = sizeof(vm) };
    assert_int_equal(inspect_client_ask(path, &look, &vm), -ENODEV);
    look = (struct kage_inspect){ .topic = 77, .bytes = sizeof(vm) };
    assert_int_equal(inspect_client_ask(path, &look, &vm), -EINVAL);
    inspect_server_stop(&server);
    assert_int_equal(access(path, F_OK), -1);
    assert_false(inspect_find(getpid(), path));
    assert_int_equal(count_descriptors(), before);
}

/* What a request is not, is not answered; and the next sound one is. */
static void test_bad_peers(void **state)
{
    struct client *c = *state;
    struct inspect_server server;
    struct inspect_request request = { .magic = INSPECT_MAGIC, .version = INSPECT_VERSION, .ask = { .topic = KAGE_INSPECT_VM, .bytes = UINT32_MAX } };
    struct inspect_reply reply;
    struct kage_inspect_vm vm;
    unsigned seed = 1;

    ready(c);
    inspect_server_start(&server);
    wait_for(&server);
    /* The wildest room, and an address of ours, which is not what is written to. */
    request.ask.data = (uintptr_t)&request;
    int fd = inspect_connect(server.path);
    assert_int_equal(send(fd, &request, sizeof(request), 0), sizeof(request));
    assert_int_equal(recv(fd, &reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
    assert_int_equal(reply.error, 0);
    assert_int_equal(reply.ask.bytes, sizeof(vm));
    assert_int_equal(reply.ask.data, 0);
    close(fd); /* without reading on */
    /* Another version: an answer that says so. Another magic: none. */
    request.version = 9;
    fd = inspect_connect(server.path);
    assert_int_equal(send(fd, &request, sizeof(request), 0), sizeof(request));
    assert_int_equal(recv(fd, &reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
    assert_int_equal(reply.error, EPROTO);
    close(fd);
    for (unsigned round = 0; round < 300; round++) {
        uint8_t noise[3 * sizeof(request)];
        size_t bytes = (size_t)rand_r(&seed) % sizeof(noise);
        for (size_t i = 0; i < sizeof(noise); i++)
            noise[i] = (uint8_t)rand_r(&seed);
        if (round % 2 == 0) { /* behind a sound head */
            request.version = INSPECT_VERSION;
            memcpy(noise, &request, 8);
            noise[8] %= 16;
            memset(noise + 9, 0, 3);
            bytes = bytes < sizeof(request) ? sizeof(request) : bytes;
        }
        fd = inspect_connect(server.path);
        assert_true(fd >= 0);
        send(fd, noise, bytes, MSG_NOSIGNAL);
        shutdown(fd, SHUT_WR);
        uint8_t sink[4096];
        while (recv(fd, sink, sizeof(sink), 0) > 0) {
        }
        close(fd);
    }
    struct kage_inspect look = { .topic = KAGE_INSPECT_VM, .bytes = sizeof(vm) };
    assert_int_equal(inspect_client_ask(server.path, &look, &vm), 0);
    inspect_server_stop(&server);
}

/* Another user, whom a mistake in the rights of the directory lets in. */
static void test_other_user(void **state)
{
    struct inspect_server server;
    char dir[INSPECT_PATH_MAX];
    int status;

    if (geteuid() != 0)
        skip();
    ready(*state);
    inspect_server_start(&server);
    wait_for(&server);
    *strrchr(strcpy(dir, server.path), '/') = '\0';
    chmod(runtime_dir, 0711);
    chmod(dir, 0711);
    chmod(server.path, 0666);
    pid_t child = fork();
    if (child == 0) {
        struct inspect_request request = { .magic = INSPECT_MAGIC, .version = INSPECT_VERSION, .ask = { .topic = KAGE_INSPECT_VM, .bytes = 4096 } };
        char byte;
        if (setgid(65534) != 0 || setuid(65534) != 0)
            _exit(2);
        int fd = inspect_connect(server.path);
        if (fd < 0)
            _exit(3);
        send(fd, &request, sizeof(request), MSG_NOSIGNAL);
        _exit(recv(fd, &byte, 1, 0) <= 0 ? 0 : 1); /* it hangs up */
    }
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    chmod(dir, 0700);
    inspect_server_stop(&server);
}

/* Its thread has the signals blocked that are the process's, and a child of fork(2) has neither thread nor socket. */
static void test_fork(void **state)
{
    struct inspect_server server;
    char path[INSPECT_PATH_MAX];
    int status;

    ready(*state);
    inspect_server_start(&server);
    wait_for(&server);
    pid_t child = fork();
    if (child == 0) {
        inspect_server_remove(&server); /* as at exit */
        _exit(access(server.path, F_OK) == 0 ? 0 : 1);
    }
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    struct kage_inspect_vm vm;
    struct kage_inspect look = { .topic = KAGE_INSPECT_VM, .bytes = sizeof(vm) };
    assert_int_equal(inspect_client_ask(server.path, &look, &vm), 0);
    strcpy(path, server.path);
    inspect_server_stop(&server);
    assert_int_equal(access(path, F_OK), -1);
}

/* A directory that others may enter is not used; a variable leaves the socket out. */
static void test_directories(void **state)
{
    char dir[96], path[INSPECT_PATH_MAX];
    struct inspect_server server;

    (void)state;
    snprintf(dir, sizeof(dir), "%s/kage", runtime_dir);
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(inspect_listen(path), -1);
    assert_int_equal(chmod(dir, 0700), 0);
    setenv("KAGE_INSPECT", "0", 1);
    inspect_server_start(&server);
    assert_false(server.started);
    inspect_server_stop(&server);
    /* By the usual rules: first $XDG_RUNTIME_DIR, unless it is of no use. */
    setenv("XDG_RUNTIME_DIR", runtime_dir, 1);
    unsetenv("KAGE_INSPECT");
    int fd = inspect_listen(path);
    assert_true(fd >= 0);
    assert_memory_equal(path, dir, strlen(dir));
    close(fd);
    unlink(path);
    assert_int_equal(chmod(dir, 0711), 0);
    fd = inspect_listen(path);
    assert_true(fd < 0 || strncmp(path, dir, strlen(dir)) != 0);
    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    assert_true(inspect_directory(2, 77, path));
    assert_string_equal(path, "/tmp/kage-77");
    assert_false(inspect_directory(3, 77, path));
    setenv("KAGE_INSPECT", dir, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_table),
        cmocka_unit_test_setup_teardown(test_fits, client_setup, client_teardown),
        cmocka_unit_test(test_shadow_text),
        cmocka_unit_test_setup_teardown(test_walk_text, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_json, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_rates, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_errors, client_setup, client_teardown),
        cmocka_unit_test(test_hostile_answers),
        cmocka_unit_test_setup_teardown(test_server, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_bad_peers, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_other_user, client_setup, client_teardown),
        cmocka_unit_test_setup_teardown(test_fork, client_setup, client_teardown),
        cmocka_unit_test(test_directories),
    };

    snprintf(runtime_dir, sizeof(runtime_dir), "/tmp/kage-test-XXXXXX");
    if (mkdtemp(runtime_dir) == NULL)
        return 1;
    char dir[96];
    snprintf(dir, sizeof(dir), "%s/kage", runtime_dir);
    setenv("KAGE_INSPECT", dir, 1); /* the user may have other VMs */
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    rmdir(runtime_dir);
    return result;
}
