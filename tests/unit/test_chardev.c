/* SPDX-License-Identifier: MIT */
/* Character backends: what they are read from, and their bytes between two of them, a mux's front ends, a ring and a log. */
#include <netinet/in.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "chardev/chardev.h"

static struct loop loop;
static struct error error;
static char directory[] = "/tmp/kage-chardev-XXXXXX";
static struct chardev_config config;

static int parse(const char *spec)
{
    memset(&error, 0, sizeof(error));
    return chardev_config_parse(&config, spec, &error);
}

static int read_list(const char *text, bool qmp)
{
    struct keyval_list list;
    memset(&error, 0, sizeof(error));
    assert_int_equal(keyval_parse(&list, "-chardev", "backend", text, &error), 0);
    return qmp ? chardev_config_read_qmp(&config, &list, &error) : chardev_config_read(&config, &list, &error);
}

/* ---- Reading ---- */

static void test_short_forms(void **state)
{
    (void)state;
    assert_int_equal(parse("mon:stdio"), 0);
    assert_true(config.mux && !config.signal && chardev_config_is_stdio(&config));
    assert_int_equal(parse("stdio"), 0);
    assert_true(!config.mux && config.signal);
    assert_int_equal(parse("file:a,b=c"), 0); /* all of it is the name */
    assert_string_equal(config.path, "a,b=c");
    assert_int_equal(parse("unix:/s,server,nowait"), 0);
    assert_true(config.server && !config.wait);
    assert_int_equal(parse("tcp:[::1]:99,server=on,wait=off,nodelay"), 0);
    assert_string_equal(config.host, "::1");
    assert_string_equal(config.port, "99");
    assert_true(config.nodelay);
    assert_int_equal(parse("mon:telnet::23,server=on,wait=off"), 0);
    assert_true(config.mux && config.telnet);
    assert_string_equal(config.host, "");
    assert_int_equal(parse("udp:h:1@l:2"), 0);
    assert_string_equal(config.host, "h");
    assert_string_equal(config.local_host, "l");
    assert_string_equal(config.local_port, "2");
    assert_int_equal(parse("/dev/ttyS0"), 0);
    assert_string_equal(chardev_config_kind(&config), "serial");
}

static void test_lists(void **state)
{
    (void)state;
    assert_int_equal(read_list("socket,id=a,host=h,port=7,reconnect=2", false), 0);
    assert_int_equal(config.reconnect, 2);
    assert_int_equal(read_list("memory,id=r,size=4K", false), 0);
    assert_int_equal(config.size, 4096);
    assert_int_equal(read_list("socket,id=m,fd=28,server=on,wait=off,logfile=l,logappend=on", false), 0);
    assert_true(config.fd == 28 && config.server && config.logappend);
    assert_int_equal(read_list("{\"id\": \"q\", \"backend\": {\"type\": \"socket\", \"data\": {\"wait\": false, \"addr\": {\"type\": \"unix\", \"data\": "
                               "{\"path\": \"/p\"}}}}}", true), 0);
    assert_true(config.server && !config.wait);
    assert_string_equal(config.path, "/p");
    assert_int_equal(read_list("{\"id\": \"q\", \"backend\": {\"type\": \"file\", \"data\": {\"out\": \"/o\", \"append\": true}}}", true), 0);
    assert_true(config.append);
    assert_string_equal(config.path, "/o");
}

static void test_refused(void **state)
{
    static const struct {
        const char *spec, *says;
    } shorts[] = {
        {"", "no such backend"},        {"telegraph", "no such backend"}, {"file:", "no such backend"},   {"tcp:9", "HOST:PORT"},
        {"tcp::", "HOST:PORT"},         {"unix:/s,colour=red", "colour"}, {"nullx", "no such backend"},   {"vc", "not there"},
        {"unix:/s,server=2", "'on'"},   {"stdio,path=x", "path"},         {"tcp:h:1,reconnect=99999999", "reconnect"},
        {"unix:/s,wait=on", "wait"},    {"tcp:h:1,server=on,reconnect=1", "reconnect"},
    }, lists[] = {
        {"null", "no id"},              {"null,id=1x", "identifier"},     {"id=x", "backend"},            {"socket,id=x", "no path"},
        {"socket,id=x,path=p,fd=1", "one of"}, {"ringbuf,id=x,size=3", "power of two"}, {"ringbuf,id=x,size=0", "power of two"},
        {"file,id=x", "no filename"},   {"udp,id=x", "port"},             {"socket,id=x,host=h", "no port"}, {"spicevmc,id=x", "SPICE"},
        {"ringbuf,id=x,size=1T", "size"}, {"socket,id=x,fd=-1", "fd"},
    };
    char path[200] = "unix:";
    (void)state;
    for (unsigned i = 0; i < sizeof(shorts) / sizeof(shorts[0]); i++) {
        assert_int_equal(parse(shorts[i].spec), -1);
        if (strstr(error.text, shorts[i].says) == NULL) {
            fail_msg("%s: \"%s\" does not say \"%s\"", shorts[i].spec, error.text, shorts[i].says);
        }
    }
    for (unsigned i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        assert_int_equal(read_list(lists[i].spec, false), -1);
        if (strstr(error.text, lists[i].says) == NULL) {
            fail_msg("%s: \"%s\" does not say \"%s\"", lists[i].spec, error.text, lists[i].says);
        }
    }
    memset(path + 5, 'x', 108);
    assert_int_equal(parse(path), -1);
    assert_int_equal(read_list("{\"id\": \"q\", \"backend\": {\"type\": \"null\"}, \"more\": 1}", true), -1);
}

/* ---- Bytes ---- */

static void stop_loop(void *opaque, uint32_t events)
{
    (void)opaque;
    (void)events;
    loop_stop(&loop);
}

/* Serves the loop for so long. */
static void serve(long milliseconds)
{
    struct itimerspec when = {.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000000}};
    struct loop_source end = {.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), .ready = stop_loop};
    timerfd_settime(end.fd, 0, &when, NULL);
    assert_int_equal(loop_add(&loop, &end, 1 /* EPOLLIN */), 0);
    atomic_store(&loop.stopped, false);
    assert_int_equal(loop_run(&loop), 0);
    loop_remove(&loop, &end);
    close(end.fd);
}

static struct chardev *open_spec(const char *id, const char *format, ...)
{
    char spec[300];
    va_list args;
    va_start(args, format);
    vsnprintf(spec, sizeof(spec), format, args);
    va_end(args);
    assert_int_equal(parse(spec), 0);
    snprintf(config.id, sizeof(config.id), "%s", id);
    struct chardev *chardev = chardev_open(&config, &loop, &error);
    if (chardev == NULL) {
        fail_msg("%s: %s", spec, error.text);
    }
    return chardev;
}

static void say(struct chardev *chardev, const char *text)
{
    assert_int_equal(chardev_write_bytes(chardev, (const uint8_t *)text, strlen(text)), strlen(text));
}

static void expect(struct chardev *chardev, const char *text)
{
    char got[300] = "";
    assert_int_equal(chardev_read(chardev, (uint8_t *)got, sizeof(got) - 1), strlen(text));
    assert_string_equal(got, text);
}

static int opened, closed;
static void count_open(void *opaque, bool open)
{
    (void)opaque;
    opened += open;
    closed += !open;
}

/* A server's client leaves, and the next one comes; each end hears of it. */
static void test_unix(void **state)
{
    (void)state;
    struct chardev *server = open_spec("s", "unix:%s/s,server=on,wait=off", directory);
    opened = closed = 0;
    chardev_on_open(server, count_open, NULL);
    for (int round = 1; round <= 2; round++) {
        struct chardev *client = open_spec("c", "unix:%s/s", directory);
        serve(20);
        assert_true(chardev_is_open(server) && chardev_is_open(client));
        say(client, "ping");
        say(server, "pong");
        serve(20);
        expect(server, "ping");
        expect(client, "pong");
        chardev_free(client);
        serve(20);
        assert_true(!chardev_is_open(server) && opened == round && closed == round);
        say(server, "lost"); /* taken and dropped: nobody is there */
    }
    chardev_free(server);
}

/* A client that comes before its server, and again when that was away. */
static void test_reconnect(void **state)
{
    (void)state;
    struct chardev *client = open_spec("c", "unix:%s/r,reconnect=1", directory);
    serve(10);
    assert_false(chardev_is_open(client));
    for (int round = 0; round < 2; round++) {
        struct chardev *server = open_spec("s", "unix:%s/r,server=on,wait=off", directory);
        serve(1200);
        assert_true(chardev_is_open(client));
        say(client, "x");
        serve(20);
        expect(server, "x");
        chardev_free(server);
        serve(20);
        assert_false(chardev_is_open(client));
    }
    chardev_free(client);
}

/* More than the rings hold, through TCP to a port of the kernel's choice: nothing is lost, and who waits is told. */
static bool room;
static void note_room(void *opaque)
{
    (void)opaque;
    room = true;
}

static void test_tcp_flow(void **state)
{
    enum { TOTAL = 1 << 20 };
    static uint8_t out[TOTAL], in[TOTAL];
    (void)state;
    struct chardev *server = open_spec("s", "tcp:127.0.0.1:0,server=on,wait=off,ipv4=on");
    char spec[128];
    snprintf(spec, sizeof(spec), "%s", chardev_filename(server));
    assert_non_null(strstr(spec, ",server=on"));
    *strchr(spec, ',') = '\0';
    struct chardev *client = open_spec("c", "%s,nodelay=on", spec);
    serve(20);
    chardev_attach(server, note_room, NULL);
    for (size_t i = 0; i < TOTAL; i++) {
        out[i] = (uint8_t)(i * 7 + i / 251);
    }
    size_t sent = 0, got = 0;
    for (int round = 0; round < 2000 && got < TOTAL; round++) {
        size_t taken = chardev_write_bytes(server, out + sent, TOTAL - sent);
        sent += taken;
        serve(1);
        got += chardev_read(client, in + got, TOTAL - got);
    }
    assert_int_equal(got, TOTAL);
    assert_memory_equal(out, in, TOTAL);
    assert_true(room);
    chardev_free(client);
    chardev_free(server);
}

/* Commands of the other end go no further; a byte of 255 is doubled both ways. */
static void test_telnet(void **state)
{
    (void)state;
    struct chardev *server = open_spec("s", "telnet:127.0.0.1:0,server=on,wait=off,ipv4=on");
    char spec[128];
    snprintf(spec, sizeof(spec), "tcp%s", strchr(chardev_filename(server), ':'));
    *strchr(spec, ',') = '\0';
    struct chardev *client = open_spec("c", "%s", spec);
    serve(20);
    uint8_t offer[16];
    assert_int_equal(chardev_read(client, offer, sizeof(offer)), 12);
    assert_memory_equal(offer, "\xff\xfb\x01\xff\xfb\x03\xff\xfb\x00\xff\xfd\x00", 12);
    say(server, "a\xff");
    say(client, "x\xff\xfd\x01y\xff\xff\xff\xfa\x18\x01\xff\xf0z\xff\xf9");
    serve(20);
    expect(client, "a\xff\xff");
    expect(server, "xy\xffz");
    chardev_free(client);
    chardev_free(server);
}

static bool mux_keys(void *opaque, uint8_t byte)
{
    if (byte == '!') {
        chardev_focus_next(opaque);
    }
    return byte != '!';
}

static int focused, unfocused;
static void count_focus(void *opaque, bool focus)
{
    (void)opaque;
    focused += focus;
    unfocused += !focus;
}

static void test_mux(void **state)
{
    (void)state;
    struct chardev *server = open_spec("m", "mon:unix:%s/m,server=on,wait=off", directory);
    struct chardev *one = chardev_claim(server, &error), *two = chardev_claim(server, &error);
    assert_true(one != NULL && two != NULL && one != two && chardev_is_claimed(server));
    chardev_set_filter(server, mux_keys, server);
    chardev_on_focus(two, count_focus, NULL);
    struct chardev *client = open_spec("c", "unix:%s/m", directory);
    serve(20);
    assert_true(chardev_is_open(one) && chardev_is_open(two) && chardev_has_focus(one) && !chardev_has_focus(two));
    say(client, "ab!cd!e"); /* in one write */
    say(one, "1");
    say(two, "2");
    serve(20);
    expect(one, "abe");
    expect(two, "cd");
    expect(client, "12");
    assert_true(focused == 1 && unfocused == 1);
    chardev_release(two); /* the next that claims has its place; until then there is nowhere to go to */
    say(client, "!f");
    serve(20);
    expect(one, "f");
    assert_ptr_equal(chardev_claim(server, &error), two);
    assert_non_null(chardev_claim(server, &error));
    assert_non_null(chardev_claim(server, &error));
    assert_null(chardev_claim(server, &error));
    assert_non_null(strstr(error.text, "too many uses"));
    chardev_free(client);
    chardev_free(server);
}

static void test_claim(void **state)
{
    (void)state;
    struct chardev *chardev = open_spec("n", "null");
    assert_ptr_equal(chardev_claim(chardev, &error), chardev);
    assert_null(chardev_claim(chardev, &error));
    assert_string_equal(error.text, "Device 'n' is in use");
    chardev_release(chardev);
    assert_ptr_equal(chardev_claim(chardev, &error), chardev);
    chardev_free(chardev);
}

static void test_ringbuf(void **state)
{
    uint8_t got[16];
    (void)state;
    assert_int_equal(read_list("ringbuf,id=r,size=8", false), 0);
    struct chardev *ring = chardev_open(&config, &loop, &error);
    assert_non_null(ring);
    say(ring, "0123456789"); /* the last 8 stay */
    assert_int_equal(chardev_ringbuf_read(ring, got, 3), 3);
    assert_memory_equal(got, "234", 3);
    assert_int_equal(chardev_ringbuf_write(ring, (const uint8_t *)"ab", 2), 2);
    assert_int_equal(chardev_ringbuf_read(ring, got, sizeof(got)), 7);
    assert_memory_equal(got, "56789ab", 7);
    assert_int_equal(chardev_ringbuf_read(ring, got, sizeof(got)), 0);
    chardev_free(ring);
    struct chardev *null = open_spec("n", "null");
    assert_int_equal(chardev_ringbuf_read(null, got, 1), -1);
    chardev_free(null);
}

/* A log has what a pty's guest wrote, whether somebody was there or not. */
static void test_log(void **state)
{
    char text[200], got[32] = "";
    (void)state;
    for (int round = 0; round < 2; round++) {
        snprintf(text, sizeof(text), "pty,id=p,logfile=%s/log,logappend=on", directory);
        assert_int_equal(read_list(text, false), 0);
        struct chardev *pty = chardev_open(&config, &loop, &error);
        assert_non_null(pty);
        assert_int_equal(strncmp(chardev_filename(pty), "pty:/dev/pts/", 13), 0);
        serve(20);
        say(pty, "boot\n");
        serve(20);
        chardev_free(pty);
    }
    snprintf(text, sizeof(text), "%s/log", directory);
    FILE *file = fopen(text, "re");
    assert_non_null(file);
    assert_int_equal(fread(got, 1, sizeof(got) - 1, file), 10);
    assert_string_equal(got, "boot\nboot\n");
    fclose(file);
}

static void test_pipe(void **state)
{
    char path[100];
    (void)state;
    snprintf(path, sizeof(path), "%s/p.in", directory);
    assert_int_equal(mkfifo(path, 0600), 0);
    FILE *in = fopen(path, "r+e");
    snprintf(path, sizeof(path), "%s/p.out", directory);
    assert_int_equal(mkfifo(path, 0600), 0);
    FILE *out = fopen(path, "r+e");
    struct chardev *chardev = open_spec("p", "pipe:%s/p", directory);
    assert_true(fputs("to", in) >= 0 && fflush(in) == 0);
    say(chardev, "from\n");
    serve(20);
    expect(chardev, "to");
    char line[16] = "";
    assert_non_null(fgets(line, sizeof(line), out));
    assert_string_equal(line, "from\n");
    chardev_free(chardev);
    fclose(in);
    fclose(out);
}

static void test_impossible(void **state)
{
    static const char *const specs[] = {"file:/no/such/file", "pipe:/no/such/pipe", "unix:/no/such/socket", "unix:/no/such/socket,server=on,wait=off",
                                        "/dev/no-such-tty"};
    (void)state;
    for (unsigned i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
        assert_int_equal(parse(specs[i]), 0);
        assert_null(chardev_open(&config, &loop, &error));
        assert_non_null(strstr(error.text, "No such file"));
    }
    assert_int_equal(read_list("socket,id=f,fd=1048575", false), 0);
    assert_null(chardev_open(&config, &loop, &error));
}

static int begin(void **state)
{
    (void)state;
    return mkdtemp(directory) != NULL && loop_init(&loop) == 0 ? 0 : -1;
}

static int end(void **state)
{
    static const char *const names[] = {"log", "p.in", "p.out"};
    char path[100];
    (void)state;
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
        unlink(path);
    }
    loop_fini(&loop);
    return rmdir(directory); /* sockets are gone with their backends */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_forms), cmocka_unit_test(test_lists),     cmocka_unit_test(test_refused),  cmocka_unit_test(test_unix),
        cmocka_unit_test(test_reconnect),   cmocka_unit_test(test_tcp_flow),  cmocka_unit_test(test_telnet),   cmocka_unit_test(test_mux),
        cmocka_unit_test(test_claim),       cmocka_unit_test(test_ringbuf),   cmocka_unit_test(test_log),      cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_impossible),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
