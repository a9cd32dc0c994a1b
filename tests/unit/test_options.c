/* SPDX-License-Identifier: MIT */
/*
 * The option grammar: what is taken, what is refused with a line that names it, and the escape keys.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "cli/options.h"
#include "cli/terminal.h"

static struct options options;
static struct error error;

/* Parses words up to a NULL. */
static int parse(char **words)
{
    int count = 0;
    while (words[count] != NULL) {
        count++;
    }
    memset(&error, 0, sizeof(error));
    options_fini(&options);
    return options_parse(&options, count, words, &error);
}

/* What was said of the first device of that name; NULL: there is none. */
static const struct device_values *device(const char *name)
{
    for (unsigned i = 0; i < options.lists.device_count; i++) {
        if (strcmp(options.lists.devices[i]->model->name, name) == 0) {
            return &options.lists.devices[i]->values;
        }
    }
    return NULL;
}

#define PARSE(...) parse((char *[]){__VA_ARGS__, NULL})

static void test_taken(void **state)
{
    (void)state;
    assert_int_equal(PARSE("-kernel", "vmlinuz"), 0);
    assert_int_equal(options.action, OPTIONS_RUN);
    assert_string_equal(options.accel, "auto");
    assert_int_equal(options.ram_bytes, 128u << 20);
    assert_string_equal(options.append, "");
    assert_int_equal(options.serial_count, 1);
    assert_string_equal(options.serial[0], "mon:stdio");
    assert_true(options.acpi);
    assert_int_equal(options.mmu, -1);
    assert_false(options.rtc || options.no_reboot || options.lists.device_count != 0);

    assert_int_equal(PARSE("--machine", "microvm,acpi=off,rtc=on,accel=kvm,mmu=shadow", "-m", "size=2G", "-smp", "cpus=1,cores=1", "-cpu", "max,-avx2",
                           "-kernel", "k", "-initrd", "i", "-append", "a=b,c -d", "-serial", "null", "-serial", "file:x", "-nographic",
                           "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-display", "none", "-nodefaults",
                           "-no-user-config", "-name", "guest=x"),
                     0);
    assert_string_equal(options.accel, "kvm");
    assert_int_equal(options.mmu, KAGE_MMU_SHADOW);
    assert_true(options.ram_bytes == UINT64_C(2) << 30);
    assert_string_equal(options.append, "a=b,c -d");
    assert_int_equal(options.serial_count, 2);
    assert_string_equal(options.serial[1], "file:x");
    assert_false(options.acpi);
    assert_true(options.rtc && options.no_reboot);
    assert_int_equal(options.lists.device_count, 1);
    assert_int_equal(device("isa-debug-exit")->port, 0xf4);
    assert_int_equal(device("isa-debug-exit")->bytes, 4);
    assert_null(options.cpu_model.definition);
    assert_int_equal(options.cpu_model.off.word[FEATURES_7_0_EBX], 1u << 5);

    assert_int_equal(PARSE("-kernel", "k", "-nodefaults"), 0);
    assert_int_equal(options.serial_count, 0);
    assert_int_equal(PARSE("-m", "5000k", "-kernel", "k"), 0);
    assert_int_equal(options.ram_bytes, 5000u << 10);
    assert_int_equal(PARSE("-version", "-nonsense"), 0);
    assert_int_equal(options.action, OPTIONS_VERSION);
    assert_int_equal(PARSE("-h"), 0);
    assert_int_equal(options.action, OPTIONS_HELP);
}

/* Board pc, and what goes with it. A property's value outlives the list that it came in. */
static void test_firmware(void **state)
{
    (void)state;
    assert_int_equal(PARSE("-M", "pc"), 0); /* firmware runs without a kernel */
    assert_string_equal(options.machine, "pc");
    assert_null(options.bios);
    assert_int_equal(options.lists.device_count, 0);
    assert_int_equal(PARSE("-machine", "pc", "-bios", "b", "-debugcon", "file:x", "-device", "pvpanic", "-device", "pc-testdev"), 0);
    assert_string_equal(options.bios, "b");
    assert_string_equal(device("isa-debugcon")->chardev, "file:x");
    assert_int_equal(device("isa-debugcon")->port, 0x402);
    assert_int_equal(device("pvpanic")->port, 0x505);
    assert_non_null(device("pc-testdev"));
    assert_int_equal(PARSE("-machine", "pc", "-device", "isa-debugcon,chardev=file:some/path,iobase=0xe9", "-device", "pvpanic,ioport=0x506"), 0);
    assert_string_equal(device("isa-debugcon")->chardev, "file:some/path");
    assert_int_equal(device("isa-debugcon")->port, 0xe9);
    assert_int_equal(device("pvpanic")->port, 0x506);
    assert_int_equal(PARSE("-machine", "pc", "-nodefaults", "-debugcon", "stdio"), 0);
    assert_int_equal(PARSE("-machine", "pc", "-serial", "null", "-debugcon", "stdio"), 0);
}

static void test_drives(void **state)
{
    (void)state;
    /* if= makes the device that the board has a bus for; names that are aliases too. */
    assert_int_equal(PARSE("-kernel", "k", "-drive", "file=a,,b=c,format=raw,readonly=on,cache=none,throttling.bps-total=1M"), 0);
    assert_int_equal(options.lists.drive_count, 1);
    assert_string_equal(options.lists.drives[0]->values.file, "a,b=c");
    assert_string_equal(options.lists.drives[0]->values.format, "raw");
    assert_true(options.lists.drives[0]->values.read_only);
    assert_int_equal(options.lists.drives[0]->values.cache, DRIVE_CACHE_NONE);
    assert_true(options.lists.drives[0]->values.throttle.bps_total.rate == 1u << 20);
    assert_string_equal(device("virtio-blk-device")->drive, options.lists.drives[0]->values.id);
    assert_int_equal(PARSE("-drive", "file=a,if=virtio", "-machine", "pc"), 0);
    assert_non_null(device("virtio-blk-pci"));
    assert_int_equal(PARSE("-device", "virtio-rng", "-kernel", "k"), 0);
    assert_non_null(device("virtio-rng-device"));
    assert_int_equal(PARSE("-device", "virtio-rng", "-machine", "pc"), 0);
    assert_non_null(device("virtio-rng-pci"));

    /* The device may come before its drive; JSON says the same as commas do, numbers and truth without quotes. */
    assert_int_equal(PARSE("-machine", "pc", "-device",
                           "{\"driver\":\"virtio-blk-pci\",\"drive\":\"d\",\"num-queues\":4,\"packed\":true,\"addr\":\"07.0\",\"serial\":\"x\"}", "-blockdev",
                           "{\"driver\":\"qcow2\",\"node-name\":\"d\",\"file\":{\"driver\":\"file\",\"filename\":\"f.qcow2\"},\"cache\":{\"direct\":true}}"),
                     0);
    assert_int_equal(device("virtio-blk-pci")->num_queues, 4);
    assert_true(device("virtio-blk-pci")->packed && device("virtio-blk-pci")->event_idx);
    assert_string_equal(device("virtio-blk-pci")->addr, "07.0");
    assert_string_equal(options.lists.drives[0]->values.file, "f.qcow2");
    assert_string_equal(options.lists.drives[0]->values.format, "qcow2");
    assert_true(options.lists.drives[0]->values.cache_direct && options.lists.drives[0]->used_by != NULL);

    /* A node on a node, and a protocol node by itself, whose bytes are the disk's. */
    assert_int_equal(PARSE("-kernel", "k", "-blockdev", "qcow2,node-name=top,file=below", "-blockdev", "file,node-name=below,filename=x,read-only=on",
                           "-blockdev", "file,node-name=alone,filename=y", "-device", "virtio-blk-device,drive=top", "-device",
                           "virtio-blk-device,drive=alone"),
                     0);
    assert_string_equal(options.lists.drives[0]->values.file, "x");
    assert_true(options.lists.drives[0]->values.read_only);
    assert_string_equal(options.lists.drives[2]->values.format, "raw");
    assert_int_equal(PARSE("-kernel", "k", "-object", "rng-random,id=r,filename=/dev/zero", "-device", "virtio-rng-device,rng=r,max-bytes=1k,period=100"), 0);
    assert_string_equal(options.lists.objects[0]->values.filename, "/dev/zero");
    assert_int_equal(device("virtio-rng-device")->max_bytes, 1024);

    /* NBD exports: their parts become a name, of a drive and of nodes. */
    assert_int_equal(PARSE("-kernel", "k", "-blockdev",
                           "{\"driver\":\"qcow2\",\"node-name\":\"d\",\"file\":{\"driver\":\"nbd\",\"server\":{\"type\":\"inet\",\"host\":\"::1\",\"port\":\"10810\"},"
                           "\"export\":\"x\",\"reconnect-delay\":7}}",
                           "-blockdev", "driver=nbd,node-name=n,server.type=unix,server.path=/s", "-blockdev", "qcow2,node-name=q,file=n", "-drive",
                           "file=nbd:unix:/t:exportname=y,format=raw"),
                     0);
    assert_string_equal(options.lists.drives[0]->values.file, "nbd://[::1]:10810/x");
    assert_int_equal(options.lists.drives[0]->values.nbd.reconnect_delay_s, 7);
    assert_string_equal(options.lists.drives[2]->values.file, "nbd+unix://?socket=/s");
    assert_string_equal(options.lists.drives[2]->values.format, "qcow2");
    assert_string_equal(options.lists.drives[3]->values.file, "nbd:unix:/t:exportname=y");

    /* Limits: old names, groups by name, and an object's by a filter. */
    assert_int_equal(PARSE("-kernel", "k", "-drive", "file=a,format=raw,iops=100,bps_wr_max=1M,iops_size=4k,throttling.iops-read-max-length=5", "-drive",
                           "file=b,format=raw,group=g,iops=7", "-drive", "file=c,format=raw,throttling.group=g"),
                     0);
    assert_int_equal(options.lists.drives[0]->values.throttle.iops_total.rate, 100);
    assert_int_equal(options.lists.drives[0]->values.throttle.bps_write.burst, 1u << 20);
    assert_int_equal(options.lists.drives[0]->values.throttle.iops_size, 4096);
    assert_int_equal(options.lists.drives[0]->values.throttle.iops_read.burst_s, 5);
    assert_true(options.lists.drives[0]->throttle_with == NULL && options.lists.drives[2]->throttle_with == options.lists.drives[1]);
    assert_int_equal(PARSE("-kernel", "k", "-object", "throttle-group,id=g,x-iops-total=9,limits.bps-read=10", "-blockdev", "raw,node-name=a,file.filename=x",
                           "-blockdev", "throttle,node-name=t,throttle-group=g,file=a", "-device", "virtio-blk-device,drive=t", "-drive", "file=y,format=raw,group=g"),
                     0);
    assert_string_equal(options.lists.drives[1]->values.file, "x");
    assert_int_equal(options.lists.drives[1]->values.throttle.iops_total.rate, 9);
    assert_int_equal(options.lists.drives[1]->values.throttle.bps_read.rate, 10);
    assert_true(options.lists.drives[2]->throttle_with == options.lists.drives[1]);

    /* One disk serves one device. */
    assert_int_not_equal(PARSE("-kernel", "k", "-drive", "file=x,if=none,id=d", "-device", "virtio-blk-device,drive=d", "-device", "virtio-blk-device,drive=d"), 0);
    assert_non_null(strstr(error.text, "in use"));
}

/* Every refusal says one line that names what is refused. */
static void test_refused(void **state)
{
    static const struct {
        char *words[6];
        const char *says;
    } rows[] = {
        {{"-frobnicate"}, "-frobnicate"},
        {{"disk.img", "other.img"}, "there is an image already, disk.img"},
        {{"disk.img,format=vhd2,color=blue"}, "color"},
        {{"disk.img", "-machine", "microvm"}, "no kernel"},
        {{"-"}, "-"},
        {{""}, "'': expected an image or an option"},
        {{"-kernel"}, "needs an argument"},
        {{"-blockdev", "driver=nbd,node-name=n"}, "server.type"},
        {{"-blockdev", "driver=nbd,node-name=n,server.type=inet,server.host=x"}, "server.port"},
        {{"-blockdev", "driver=nbd,node-name=n,server.type=unix,server.path=/s,file.filename=x"}, "no file"},
        {{"-blockdev", "driver=qcow2,node-name=n,file.filename=x,export=y"}, "of driver nbd"},
        {{"-kernel", "k", "-blockdev", "throttle,node-name=t,throttle-group=g,file=x"}, "node-name='x'"},
        {{"-blockdev", "throttle,node-name=t,file=x"}, "throttle-group"},
        {{"-nographic"}, "-kernel"},
        {{"-m", "0"}, "-m 0"},
        {{"-m", "0G"}, "-m 0G"},
        {{"-m", "lots"}, "lots"},
        {{"-m", "-5"}, "-5"},
        {{"-m", "5x"}, "5x"},
        {{"-m", "5GG"}, "5GG"},
        {{"-m", "99999999999999999999"}, "-m"},
        {{"-m", "18446744073709551615b"}, "-m"},
        {{"-m", "17592186044416"}, "-m"},
        {{"-m", "1G,slots=2"}, "slots"},
        {{"-smp", "65", "-kernel", "k"}, "65 processors"},
        {{"-smp", "6,cores=4", "-kernel", "k"}, "must be maxcpus (6)"},
        {{"-smp", "4,maxcpus=2", "-kernel", "k"}, "at least cpus (4)"},
        {{"-smp", "cores=0"}, "-smp cores=0"},
        {{"-smp", "0"}, "-smp 0"},
        {{"-smp", "cpus=1,wings=2"}, "wings"},
        {{"-smp", "x"}, "-smp x"},
        {{"-machine", "abacus"}, "abacus"},
        {{"-machine", "microvm,beads=9"}, "beads"},
        {{"-machine", "microvm,acpi=perhaps"}, "perhaps"},
        {{"-machine", "microvm,mmu=soft"}, "mmu=soft"},
        {{"-accel", "steam"}, "steam"},
        {{"-cpu", "i486"}, "i486"},
        {{"-cpu", "host,+flux"}, "flux"},
        {{"-cpu", "host,avx=maybe"}, "avx=maybe"},
        {{"-device", "flux-capacitor,x=y"}, "flux-capacitor"},
        {{"-device", "isa-debug-exit,iobase=0x10000"}, "iobase"},
        {{"-device", "isa-debug-exit,iobase=0xffff"}, "0xffff"},
        {{"-device", "isa-debug-exit,iosize=0"}, "iosize"},
        {{"-device", "isa-debug-exit,irq=4"}, "irq"},
        {{"-device", "isa-debug-exit", "-device", "isa-debug-exit"}, "one"},
        {{"-device", "isa-debugcon,iobase=0"}, "'iobase'"},
        {{"-device", "isa-debugcon", "-debugcon", "null", "-kernel", "k"}, "only one"},
        {{"-debugcon", "null", "-device", "isa-debugcon"}, "only one"},
        {{"-device", "pvpanic,ioport=0x10000"}, "'ioport'"},
        {{"-device", "pvpanic", "-device", "pvpanic"}, "only one"},
        {{"-device", "pc-testdev", "-device", "pc-testdev"}, "only one"},
        {{"-device", "pc-testdev,iobase=1"}, "iobase"},
        {{"-debugcon", "telegraph"}, "telegraph"},
        {{"-debugcon", "stdio", "-kernel", "k"}, "terminal"},
        {{"-device", "virtio-blk-device"}, "-kernel"}, /* that a drive is missing is seen when it is built */
        {{"-device", "virtio-blk-device,drive=nobody"}, "can't find value 'nobody'"},
        {{"-device", "virtio-blk-device,queue-size=1"}, "'queue-size' expects a number from 2 to 1024"},
        {{"-device", "virtio-blk-device,packed=perhaps"}, "'packed' expects 'on' or 'off'"},
        {{"-device", "virtio-blk-device,werror=cry"}, "does not accept value 'cry'"},
        {{"-device", "id=x"}, "'driver' is missing"},
        {{"-device", "{\"driver\":\"virtio-blk-device\""}, "no JSON"},
        {{"-device", "{\"driver\":[1]}"}, "'driver' has a value of no use"},
        {{"-device", "{\"driver\":\"pvpanic\",\"driver\":\"pvpanic\"}"}, "duplicate"},
        {{"-device", "pvpanic,id=a", "-device", "pc-testdev,id=a"}, "Duplicate ID 'a'"},
        {{"-drive", "format=raw"}, "must be specified for \"file\""},
        {{"-drive", "file=a,id=x", "-drive", "file=b,id=x"}, "Duplicate ID 'x'"},
        {{"-drive", "file=a,colour=red"}, "'-drive.colour' not found"},
        {{"-drive", "file=a,cache=wallet"}, "does not accept value 'wallet'"},
        {{"-drive", "file=a,if=ide"}, "does not support if=ide"},
        {{"-hda", "a", "-drive", "file=b,index=0", "-machine", "pc"}, "drive with bus=0, unit=0 (index=0) exists"},
        {{"-drive", "file=b,bus=2,if=ide", "-machine", "pc"}, "4 places"},
        {{"-boot", "cxz"}, "Invalid boot device 'x'"},
        {{"-boot", "order=cc"}, "given twice"},
        {{"-boot", "once=c,menus=on"}, "menus"},
        {{"-blockdev", "node-name=x"}, "'driver' is missing"},
        {{"-blockdev", "raw,file.filename=a"}, "'node-name' must be specified"},
        {{"-blockdev", "raw,node-name=x"}, "'file' is missing"},
        {{"-blockdev", "raw,node-name=x,file=y"}, "node-name='y'"},
        {{"-blockdev", "raw,node-name=x,file.driver=tape,file.filename=a"}, "Unknown driver 'tape'"},
        {{"-object", "rng-moon,id=a"}, "invalid object type"},
        {{"-object", "rng-builtin"}, "'id' is missing"},
        {{"-object", "rng-random,id=a", "-object", "rng-builtin,id=a"}, "duplicate property 'a'"},
        {{"-bios", "b", "-kernel", "k"}, "microvm"},
        {{"-serial", "carrier-pigeon"}, "carrier-pigeon"},
        {{"-serial", "file:"}, "file:"},
        {{"-serial", "stdio", "-serial", "mon:stdio"}, "terminal"},
        {{"-display", "gtk"}, "gtk"},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *words[7] = {NULL};
        memcpy(words, rows[i].words, sizeof(rows[i].words));
        if (parse(words) == 0 || strstr(error.text, rows[i].says) == NULL || strchr(error.text, '\n') != NULL) {
            fail_msg("%s %s: \"%s\" does not say \"%s\"", words[0], words[1] != NULL ? words[1] : "", error.text, rows[i].says);
        }
    }
}

/* An image without an option, and what it brings with it. */
static void test_image(void **state)
{
    (void)state;
    assert_int_equal(PARSE("a=b.qcow2"), 0);
    assert_string_equal(options.image, "a=b.qcow2");
    assert_string_equal(options.lists.drives[0]->values.file, "a=b.qcow2");
    assert_string_equal(options.lists.drives[0]->values.format, "qcow2");
    assert_int_equal(options.lists.drives[0]->values.interface, DRIVE_IF_VIRTIO);
    assert_false(options.image_format_said);
    assert_string_equal(options.machine, "pc");
    assert_int_equal(options.smp.cpus, 2);
    assert_true(options.ram_bytes == UINT64_C(1) << 30);
    assert_string_equal(options.serial[0], "mon:stdio");
    assert_string_equal(device("virtio-blk-pci")->drive, "drive0");
    assert_non_null(device("virtio-rng-pci"));

    assert_int_equal(PARSE("-m", "2G", "d.raw,format=raw,if=none,id=x,discard=ignore", "-smp", "4", "-device", "virtio-scsi", "-device",
                           "scsi-hd,drive=x", "-nodefaults"),
                     0);
    assert_string_equal(options.lists.drives[0]->values.format, "raw");
    assert_true(options.image_format_said);
    assert_int_equal(options.smp.cpus, 4);
    assert_true(options.ram_bytes == UINT64_C(2) << 30);
    assert_null(device("virtio-blk-pci"));
    assert_null(device("virtio-rng-pci"));

    assert_int_equal(PARSE("d.qcow2", "-machine", "microvm", "-kernel", "k", "-drive", "file=e,format=raw"), 0);
    assert_string_equal(options.machine, "microvm");
    assert_int_equal(options.lists.drive_count, 2);
    assert_non_null(device("virtio-blk-device"));
    assert_int_equal(PARSE("-kernel", "k"), 0);
    assert_int_equal(options.smp.cpus, 1);
}

static void test_long_part(void **state)
{
    char text[1000];
    (void)state;
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(PARSE("-machine", text), -1);
    assert_int_equal(PARSE("-frobnicate", text), -1);
    assert_int_equal(PARSE("-device", text), -1);
    assert_int_equal(PARSE("-cpu", text), -1);
    text[0] = '\n';
    assert_int_equal(PARSE("-device", text), -1);
    assert_null(strchr(error.text, '\n'));
}

static void test_size(void **state)
{
    uint64_t bytes;
    (void)state;
    assert_int_equal(options_parse_size("3", 1 << 20, &bytes), 0);
    assert_int_equal(bytes, 3 << 20);
    assert_int_equal(options_parse_size("0x10b", 1 << 20, &bytes), 0); /* a digit, not a suffix */
    assert_int_equal(bytes, 0x10b << 20);
    assert_int_equal(options_parse_size("1T", 1, &bytes), 0);
    assert_true(bytes == UINT64_C(1) << 40);
    assert_int_equal(options_parse_size("", 1, &bytes), -1);
    assert_int_equal(options_parse_size(" 1", 1, &bytes), -1);
    assert_int_equal(options_parse_size("16777216T", 1, &bytes), -1);
}

static int quits;
static void count_quit(void *opaque)
{
    (void)opaque;
    quits++;
}

static void test_escape_keys(void **state)
{
    struct terminal_keys keys = {.quit = count_quit};
    uint8_t bytes[] = "ab\001\001c\001";
    size_t count = sizeof(bytes) - 1;
    (void)state;
    terminal_filter(&keys, bytes, &count);
    assert_int_equal(count, 4);
    assert_memory_equal(bytes, "ab\001c", 4);
    uint8_t more[] = "xyz"; /* the key behind an escape that came with the read before */
    count = 3;
    terminal_filter(&keys, more, &count);
    assert_int_equal(quits, 1);
    assert_int_equal(count, 2);
    assert_memory_equal(more, "yz", 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),     cmocka_unit_test(test_firmware), cmocka_unit_test(test_refused), cmocka_unit_test(test_drives),
        cmocka_unit_test(test_image),
        cmocka_unit_test(test_long_part), cmocka_unit_test(test_size),     cmocka_unit_test(test_escape_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
