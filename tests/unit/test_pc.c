/* SPDX-License-Identifier: MIT */
/*
 * The board pc on the soft back end, without running a guest. Every memory slot that it sets is written down on its way:
 * slots must never overlap nor change in place, and with them what the processors see of each page must be what the i440FX's map says.
 */
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "dev/i440fx.h"
#include "machine/machine.h"

#define BIOS_BYTES 0x40000u
#define SLOTS_MAX 32u
#define AREA_GPA 0xc0000u
#define AREA_END_GPA 0x100000u

struct slot {
    uint64_t gpa, bytes, flags, host;
};
static struct slot slots[SLOTS_MAX];
static unsigned slot_calls;
static int slot_failure; /* errno of the next calls */

static int spy_ioctl(int handle, unsigned long request, void *arg)
{
    if ((uint32_t)request == (uint32_t)KVM_SET_USER_MEMORY_REGION) {
        const struct kvm_userspace_memory_region *region = arg;
        slot_calls++;
        if (slot_failure != 0) {
            errno = slot_failure;
            return -1;
        }
        assert_true(region->slot < SLOTS_MAX);
        struct slot *slot = &slots[region->slot];
        assert_true(region->memory_size == 0 || slot->bytes == 0); /* goes before it comes again */
        for (unsigned i = 0; i < SLOTS_MAX && region->memory_size != 0; i++) {
            assert_true(slots[i].bytes == 0 || slots[i].gpa >= region->guest_phys_addr + region->memory_size ||
                        region->guest_phys_addr >= slots[i].gpa + slots[i].bytes);
        }
        *slot = (struct slot){region->guest_phys_addr, region->memory_size, region->flags, region->userspace_addr};
    }
    return kage_backend_soft.ioctl(handle, request, arg);
}

static struct kvm_backend spy;
static struct loop loop;
static struct machine machine;
static struct config_lists lists;
static struct machine_config config;
static struct error error;
static uint8_t bios[BIOS_BYTES];
static char bios_path[] = "/tmp/kage-bios-XXXXXX";

static int group_setup(void **state)
{
    (void)state;
    int fd = mkstemp(bios_path);
    for (unsigned i = 0; i < BIOS_BYTES; i++) {
        bios[i] = (uint8_t)(i * 3 + (i >> 8) * 7 + (i >> 16));
    }
    bool written = fd >= 0 && write(fd, bios, BIOS_BYTES) == BIOS_BYTES;
    close(fd);
    spy = kage_backend_soft;
    spy.ioctl = spy_ioctl;
    return written ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    unlink(bios_path);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    memset(slots, 0, sizeof(slots));
    memset(&error, 0, sizeof(error));
    slot_failure = 0;
    config = (struct machine_config){
        .lists = &lists,
        .board = machine_find_board("pc"),
        .backend = &spy,
        .loop = &loop,
        .ram_bytes = 16u << 20,
        .smp = {.cpus = 2, .max_cpus = 2, .sockets = 1, .dies = 1, .cores = 2, .threads = 1},
        .cmdline = "",
        .acpi = true,
        .i8042 = true,
        .bios = bios_path,
    };
    return loop_init(&loop);
}

static int teardown(void **state)
{
    (void)state;
    loop_fini(&loop);
    return 0;
}

static int build(void)
{
    memset(slots, 0, sizeof(slots));
    return machine_init(&machine, &config, &error);
}

static void power_on(void)
{
    if (build() != 0) {
        fail_msg("%s", error.text);
    }
    for (uint32_t gpa = 0xa0000; gpa < AREA_END_GPA; gpa++) {
        machine.ram.base[gpa] = (uint8_t)(gpa * 11 + (gpa >> 12)); /* never what the ROM has there */
        machine.ram.base[gpa] ^= gpa >= 0xe0000 && machine.ram.base[gpa] == bios[BIOS_BYTES - 0x20000 + gpa - 0xe0000] ? 0xff : 0;
    }
}

static void config_write(unsigned devfn, unsigned offset, unsigned size, uint32_t value)
{
    bus_write(&machine.pio, 0xcf8, 4, 0x80000000u | devfn << 8 | (offset & 0xfc));
    bus_write(&machine.pio, 0xcfc + (offset & 3), size, value);
}

/* ---- a processor's view ---- */

static const struct slot *slot_at(uint64_t gpa)
{
    for (unsigned i = 0; i < SLOTS_MAX; i++) {
        if (slots[i].bytes != 0 && gpa >= slots[i].gpa && gpa - slots[i].gpa < slots[i].bytes) {
            return &slots[i];
        }
    }
    return NULL;
}

static uint8_t see(uint64_t gpa)
{
    const struct slot *slot = slot_at(gpa);
    return slot != NULL ? ((const uint8_t *)(uintptr_t)slot->host)[gpa - slot->gpa] : (uint8_t)bus_read(&machine.mmio, gpa, 1);
}

static void store(uint64_t gpa, uint8_t value)
{
    const struct slot *slot = slot_at(gpa);
    if (slot != NULL && (slot->flags & KVM_MEM_READONLY) == 0) {
        ((uint8_t *)(uintptr_t)slot->host)[gpa - slot->gpa] = value;
    } else {
        bus_write(&machine.mmio, gpa, 1, value);
    }
}

static uint8_t rom_byte(uint32_t gpa)
{
    return gpa >= 0xe0000 ? bios[BIOS_BYTES - 0x20000 + gpa - 0xe0000] : 0xff;
}

/* map: two bits a segment, 1 reads from RAM, 2 writes to RAM. */
static void check_map(uint32_t map)
{
    for (uint32_t gpa = AREA_GPA; gpa < AREA_END_GPA; gpa += 0x800) {
        unsigned bits = map >> pam_segment_of(gpa) * 2 & 3;
        uint8_t in_ram = machine.ram.base[gpa];
        uint8_t seen = (bits & 1) != 0 ? in_ram : rom_byte(gpa);
        if (see(gpa) != seen) {
            fail_msg("map 0x%x: 0x%x reads 0x%x, not 0x%x", map, gpa, see(gpa), seen);
        }
        /* What no slot serves reads the same through the bus: another processor may come while slots change. */
        assert_int_equal(bus_read(&machine.mmio, gpa, 1), seen);
        uint8_t other = in_ram ^ 0x55;
        store(gpa, other);
        if (machine.ram.base[gpa] != ((bits & 2) != 0 ? other : in_ram)) {
            fail_msg("map 0x%x: a write to 0x%x %s RAM", map, gpa, (bits & 2) != 0 ? "misses" : "reaches");
        }
        store(gpa, in_ram);
        assert_int_equal(see(gpa), seen);
    }
    for (unsigned i = 0; i < 0x20000; i += 0x1000) {
        assert_int_equal(see(0xfffe0000u + i), bios[BIOS_BYTES - 0x20000 + i]); /* the ROM itself stays */
    }
}

static void set_map(uint32_t map)
{
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        unsigned bits = map >> i * 2 & 3;
        bool top = i == PAM_SEGMENTS - 1;
        unsigned offset = top ? 0x59 : 0x5a + i / 2, shift = top || i % 2 != 0 ? 4 : 0;
        bus_write(&machine.pio, 0xcf8, 4, 0x80000000u | (offset & 0xfc));
        uint64_t old = bus_read(&machine.pio, 0xcfc + (offset & 3), 1);
        bus_write(&machine.pio, 0xcfc + (offset & 3), 1, (old & ~(UINT64_C(0xf) << shift)) | (uint64_t)bits << shift);
    }
}

static unsigned area_slots(void)
{
    unsigned count = 0;
    for (unsigned i = 0; i < SLOTS_MAX; i++) {
        count += slots[i].bytes != 0 && slots[i].gpa >= AREA_GPA && slots[i].gpa < AREA_END_GPA;
    }
    return count;
}

/* ---- tests ---- */

static void test_power_on(void **state)
{
    (void)state;
    power_on();
    check_map(0);
    assert_int_equal(area_slots(), 1); /* E0000-FFFFF, in one piece */
    assert_int_equal(see(0xfffffff0), bios[BIOS_BYTES - 16]);
    assert_int_equal(see(0x100000000 - BIOS_BYTES), bios[0]);
    store(0xfffffff0, 0);
    assert_int_equal(see(0xfffffff0), bios[BIOS_BYTES - 16]);
    assert_null(slot_at(0xa0000)); /* the display's, of which there is none */
    assert_int_equal(see(0xa0000), 0xff);
    assert_ptr_equal(slot_at(0x9ffff)->host, machine.ram.base);
    assert_int_equal(slot_at(0x100000)->bytes, (16u << 20) - 0x100000);
    assert_null(slot_at(16u << 20));
    /* The vCPU is where a processor starts. */
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    assert_int_equal(kage_backend_soft.ioctl(machine.vcpus[0].fd, KVM_GET_SREGS, &sregs), 0);
    assert_int_equal(kage_backend_soft.ioctl(machine.vcpus[0].fd, KVM_GET_REGS, &regs), 0);
    assert_int_equal(sregs.cs.selector, 0xf000);
    assert_int_equal(sregs.cs.base, 0xffff0000);
    assert_int_equal(regs.rip, 0xfff0);
    assert_int_equal(sregs.cr0 & 1, 0);
    machine_fini(&machine);
}

/* Each segment in each of its four states, alone; then all of them in random ones, from one map to the next. */
static void test_shadow(void **state)
{
    (void)state;
    power_on();
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        for (uint32_t bits = 0; bits < 4; bits++) {
            set_map(bits << i * 2);
            check_map(bits << i * 2);
        }
        set_map(0);
    }
    srand(1);
    for (unsigned n = 0; n < 200; n++) {
        uint32_t map = (uint32_t)rand() & 0x3ffffff;
        set_map(map);
        check_map(map);
    }
    set_map(0x3ffffff);
    check_map(0x3ffffff);
    assert_int_equal(area_slots(), 1); /* neighbours that are alike are one slot */
    set_map(0);
    assert_int_equal(area_slots(), 1);
    slot_calls = 0;
    set_map(0);
    config_write(0, 0x58, 4, 0);
    config_write(0, 0x72, 1, 0x4a);
    assert_int_equal(slot_calls, 0); /* what changes nothing touches no slot */
    machine_fini(&machine);
}

/* Accesses of any width over the borders of segments. */
static void test_widths(void **state)
{
    (void)state;
    power_on();
    set_map(1u << 24 | 2u << 22); /* F0000: reads from RAM; EC000: writes to RAM */
    uint64_t value = bus_read(&machine.mmio, 0xefffc, 8);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal((uint8_t)(value >> i * 8), i < 4 ? rom_byte(0xefffc + i) : machine.ram.base[0xefffc + i]);
    }
    uint8_t before = machine.ram.base[0xf0000];
    bus_write(&machine.mmio, 0xefffe, 4, 0x44332211);
    assert_int_equal(machine.ram.base[0xefffe], 0x11);
    assert_int_equal(machine.ram.base[0xeffff], 0x22);
    assert_int_equal(machine.ram.base[0xf0000], before);
    assert_int_equal(bus_read(&machine.mmio, AREA_END_GPA - 4, 8) == UINT64_MAX, 1); /* over the area's end: nobody's */
    machine_fini(&machine);
}

/* Another processor's accesses to the area while the map changes: they see one map or the other, whole. */
static atomic_bool done;

static void *other_processor(void *opaque)
{
    unsigned *wrong = opaque;
    while (!atomic_load(&done)) {
        uint64_t seen = bus_read(&machine.mmio, 0xf1000, 1);
        *wrong += seen != rom_byte(0xf1000) && seen != machine.ram.base[0xf1000];
    }
    return NULL;
}

static void test_two_processors(void **state)
{
    pthread_t thread;
    unsigned wrong = 0;
    (void)state;
    power_on();
    atomic_store(&done, false);
    assert_int_equal(pthread_create(&thread, NULL, other_processor, &wrong), 0);
    for (unsigned n = 0; n < 500; n++) {
        set_map((n & 1) != 0 ? 0x3ffffff : 0);
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    assert_int_equal(wrong, 0);
    machine_fini(&machine);
}

static void test_slot_failure(void **state)
{
    (void)state;
    power_on();
    slot_failure = ENOMEM;
    set_map(3);
    slot_failure = 0;
    assert_int_equal(atomic_load(&machine.outcome) & 0xff, POWER_ERROR); /* the machine ends: it cannot go on without its memory */
    machine_fini(&machine);
    slot_failure = EINVAL;
    assert_int_equal(build(), -1);
    assert_non_null(strstr(error.text, "KVM_SET_USER_MEMORY_REGION"));
}

/* ---- devices ---- */

static void test_pm_base(void **state)
{
    (void)state;
    power_on();
    assert_int_equal(bus_read(&machine.pio, 0x604, 2), 0xffff);
    config_write(0x0b, 0x40, 4, 0x601);
    config_write(0x0b, 0x80, 1, 1);
    assert_int_equal(bus_read(&machine.pio, 0x604, 2), 1); /* SCI_EN */
    config_write(0x0b, 0x40, 4, 0xb001);
    assert_int_equal(bus_read(&machine.pio, 0x604, 2), 0xffff);
    assert_int_equal(bus_read(&machine.pio, 0xb004, 2), 1);
    config_write(0x0b, 0x40, 4, 0x40 << 2); /* 0x100: free */
    assert_int_equal(bus_read(&machine.pio, 0x104, 2), 1);
    config_write(0x0b, 0x40, 4, 0x40); /* over i8042's and the clock's ports: they stay, the registers are nowhere */
    assert_int_equal(bus_read(&machine.pio, 0x104, 2), 0xffff);
    assert_int_not_equal(bus_read(&machine.pio, 0x64, 1), 0xff);
    config_write(0x0b, 0x40, 4, 0x601);
    assert_int_equal(bus_read(&machine.pio, 0x604, 2), 1);
    config_write(0x0b, 0x80, 1, 0);
    assert_int_equal(bus_read(&machine.pio, 0x604, 2), 0xffff);
    machine_fini(&machine);
}

static uint32_t dma(uint32_t control, uint32_t length, uint64_t address)
{
    uint32_t words[4] = {htobe32(control), htobe32(length), htobe32((uint32_t)(address >> 32)), htobe32((uint32_t)address)};
    memcpy(machine.ram.base + 0x7000, words, sizeof(words));
    bus_write(&machine.pio, 0x518, 4, htobe32(0x7000));
    memcpy(words, machine.ram.base + 0x7000, sizeof(words));
    return be32toh(words[0]);
}

/* fw_cfg writes where the processors could: RAM, and of the area what the bridge maps to RAM. */
static void test_dma(void **state)
{
    const uint32_t read_signature = 0x0a; /* item 0: select and read */
    (void)state;
    power_on();
    assert_int_equal(dma(read_signature, 4, 0x8000), 0);
    assert_memory_equal(machine.ram.base + 0x8000, "QEMU", 4);
    const struct {
        uint64_t gpa;
        uint32_t bytes, map;
        bool done;
    } rows[] = {
        {0x9fffc, 4, 0, true},           {0x9fffd, 4, 0x3ffffff, false},       {0xa0000, 4, 0x3ffffff, false}, {0xbfffe, 4, 0x3ffffff, false},
        {0xc0000, 4, 0, false},          {0xc0000, 4, 1, false},               {0xc0000, 4, 2, false},         {0xc0000, 4, 3, true},
        {0xc3ffe, 4, 3, false},          {0xc3ffe, 4, 0xf, true},              {0xffffe, 4, 3u << 24, true},   {0xffffe, 4, 3, false},
        {0xc0000, 0x40000, 0x3ffffff, true}, {0xc0000, 0x40000, 0x3f7ffff, false}, {0x100000, 4, 0, true},     {(16u << 20) - 4, 4, 0, true},
        {(16u << 20) - 3, 4, 0, false},  {0xfffe0000, 4, 0, false},            {UINT64_MAX, 4, 0, false},      {0x8000, 0xffffffff, 0x3ffffff, false},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        set_map(rows[i].map);
        uint32_t result = dma(read_signature, rows[i].bytes, rows[i].gpa);
        if (result != (rows[i].done ? 0u : 1u)) {
            fail_msg("row %u: 0x%x", i, result);
        }
    }
    machine_fini(&machine);
}

static void test_ports(void **state)
{
    (void)state;
    config.debugcon_port = 0; /* the debug port is there without being asked for */
    config.pvpanic_port = 0x505;
    config.testdev = true;
    power_on();
    assert_int_equal(bus_read(&machine.pio, 0x402, 1), 0xe9);
    assert_int_equal(bus_read(&machine.pio, 0x505, 1), 0x03);
    bus_write(&machine.pio, 0xe0, 4, 0x01020304);
    assert_int_equal(bus_read(&machine.pio, 0xe8, 4), 0x01020304);
    bus_write(&machine.mmio, 0xff000000, 8, 42);
    assert_int_equal(bus_read(&machine.mmio, 0xff000000, 8), 42);
    bus_write(&machine.pio, 0x70, 1, 0x5f);
    assert_int_equal(bus_read(&machine.pio, 0x71, 1), 1); /* two processors */
    bus_write(&machine.pio, 0xcf9, 1, 0x06);
    assert_int_equal(atomic_load(&machine.outcome) & 0xff, POWER_RESET);
    machine_fini(&machine);

    config.pvpanic_port = 0x402;
    assert_int_equal(build(), -1);
    assert_non_null(strstr(error.text, "0x402"));
    config.pvpanic_port = 0;
    config.debugcon_port = 0xe9; /* pc-testdev has it */
    assert_int_equal(build(), -1);
    assert_non_null(strstr(error.text, "0xe8-0xeb"));
}

static void test_bios_refused(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 0x10000, 0x1ffff, 0x20001, 0x28000, 0x1010000};
    char path[] = "/tmp/kage-bios-odd-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    config.bios = path;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        assert_int_equal(ftruncate(fd, (off_t)sizes[i]), 0);
        assert_int_equal(build(), -1);
        assert_non_null(strstr(error.text, path));
    }
    assert_int_equal(ftruncate(fd, 0x20000), 0);
    assert_int_equal(build(), 0);
    machine_fini(&machine);
    close(fd);
    unlink(path);
    assert_int_equal(build(), -1);
    assert_non_null(strstr(error.text, path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_power_on, setup, teardown),     cmocka_unit_test_setup_teardown(test_shadow, setup, teardown),
        cmocka_unit_test_setup_teardown(test_widths, setup, teardown),       cmocka_unit_test_setup_teardown(test_two_processors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slot_failure, setup, teardown), cmocka_unit_test_setup_teardown(test_pm_base, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma, setup, teardown),          cmocka_unit_test_setup_teardown(test_ports, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bios_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
