/* SPDX-License-Identifier: MIT */
/*
 * The display between a device and those who look, screendumps, the input hub and the table of keys.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <cmocka.h>

#include <linux/input-event-codes.h>

#include "display/display.h"
#include "display/input.h"

static struct loop loop;

static int setup(void **state)
{
    (void)state;
    return loop_init(&loop);
}

static int teardown(void **state)
{
    (void)state;
    loop_fini(&loop);
    return 0;
}

static void end_loop(void *opaque, uint32_t events)
{
    struct loop_source *timer = opaque;
    (void)events;
    loop_remove(&loop, timer);
    close(timer->fd);
    loop_stop(&loop);
}

/* The loop serves what there is for so long. */
static void serve(unsigned ms)
{
    struct loop_source timer = {.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), .ready = end_loop, .opaque = &timer};
    struct itimerspec when = {.it_value = {.tv_nsec = (long)ms * 1000000}};
    assert_int_equal(timerfd_settime(timer.fd, 0, &when, NULL), 0);
    assert_int_equal(loop_add(&loop, &timer, EPOLLIN), 0);
    atomic_store(&loop.stopped, false);
    assert_int_equal(loop_run(&loop), 0);
}

/* ---- The display ---- */

static struct display *display;
static unsigned refreshes, alls, resizes, changes, dones;
static struct display_rect last;

static void draw(void *opaque, bool all)
{
    refreshes++;
    alls += all;
    uint32_t *pixels = display_resize(display, 320, 200);
    assert_non_null(pixels);
    pixels[5 * 320 + 7] = 0x123456;
    display_changed(display, 7, 5, 1000, 1);
    (void)opaque;
}

static void resized(void *opaque, const struct display_surface *surface)
{
    (void)opaque;
    assert_non_null(surface->pixels);
    resizes++;
}

static void changed(void *opaque, const struct display_surface *surface, const struct display_rect *rect)
{
    (void)opaque;
    assert_true(rect->x + rect->width <= surface->width && rect->y + rect->height <= surface->height);
    last = *rect;
    changes++;
}

static void refreshed(void *opaque)
{
    (void)opaque;
    dones++;
}

static void test_display(void **state)
{
    (void)state;
    struct error error;
    display = display_new(&loop, &error);
    assert_non_null(display);
    assert_int_equal(display_surface(display)->width, 720);
    struct display_source source = {.refresh = draw};
    struct display_viewer viewer = {.resized = resized, .changed = changed, .refreshed = refreshed};
    display_attach(display, &source);
    display_add_viewer(display, &viewer);
    serve(100);
    assert_int_equal(refreshes, 0); /* nobody looks */
    display_look(&viewer, display, true);
    serve(200);
    assert_in_range(refreshes, 1, 8);
    assert_int_equal(alls, 1);
    assert_int_equal(resizes, 1);
    assert_int_equal(changes, refreshes);
    assert_int_equal(dones, refreshes);
    assert_int_equal(last.x, 7);
    assert_int_equal(last.width, 313);
    display_look(&viewer, display, false);
    refreshes = 0;
    serve(100);
    assert_int_equal(refreshes, 0);
    display_refresh(display);
    assert_int_equal(refreshes, 1);
    assert_null(display_resize(display, 0, 5));
    assert_null(display_resize(display, DISPLAY_SIDE_MAX + 1, 5));
    assert_int_equal(display_surface(display)->width, 320);
    changes = 0;
    display_changed(display, 320, 0, 1, 1);
    display_changed(display, 0, 200, 1, 1);
    display_changed(display, 0, 0, 0, 1);
    assert_int_equal(changes, 0);
    /* The last picture stays. */
    display_detach(display, &source);
    display_refresh(display);
    assert_int_equal(display_surface(display)->pixels[5 * 320 + 7], 0x123456);
    display_remove_viewer(display, &viewer);
    display_free(display);
}

static void test_screendump(void **state)
{
    (void)state;
    struct error error;
    char path[] = "/tmp/test_display_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    display = display_new(&loop, &error);
    uint32_t *pixels = display_resize(display, 3, 2);
    pixels[4] = 0xa1b2c3;
    assert_int_equal(display_screendump(display, path, DISPLAY_PPM, &error), 0);
    uint8_t data[200];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(data, 1, sizeof(data), file), 11 + 18);
    assert_memory_equal(data, "P6\n3 2\n255\n", 11);
    assert_memory_equal(data + 11 + 12, "\xa1\xb2\xc3", 3);
    fclose(file);
    assert_int_equal(display_screendump(display, path, DISPLAY_PNG, &error), 0);
    file = fopen(path, "rb");
    assert_true(fread(data, 1, sizeof(data), file) > 40);
    assert_memory_equal(data, "\x89PNG\r\n\x1a\n", 8);
    assert_memory_equal(data + 16, "\0\0\0\3\0\0\0\2\x08\2", 10);
    fclose(file);
    unlink(path);
    assert_int_equal(display_screendump(display, "/nowhere/x.png", DISPLAY_PNG, &error), -1);
    assert_string_equal(error.text, "failed to open file '/nowhere/x.png': No such file or directory");
    assert_int_equal(display_screendump(display, "/dev/full", DISPLAY_PNG, &error), -1);
    assert_int_equal(display_screendump(display, "/dev/full", DISPLAY_PPM, &error), -1);
    display_free(display);
}

/* ---- Input ---- */

struct log {
    unsigned count, syncs;
    struct input_event events[INPUT_QUEUE * 2];
};

static void take_event(void *opaque, const struct input_event *event)
{
    struct log *log = opaque;
    assert_true(log->count < INPUT_QUEUE * 2);
    log->events[log->count++] = *event;
}

static void take_sync(void *opaque)
{
    struct log *log = opaque;
    log->syncs++;
}

static struct log keyboard_log, mouse_log, tablet_log;

static void test_input_routing(void **state)
{
    (void)state;
    struct error error;
    struct input_hub *hub = input_hub_new(&loop, &error);
    struct input_sink keyboard = {.name = "keyboard", .takes = INPUT_TAKES_KEYS, .event = take_event, .sync = take_sync, .opaque = &keyboard_log};
    struct input_sink mouse = {.name = "mouse", .takes = INPUT_TAKES_REL, .event = take_event, .sync = take_sync, .opaque = &mouse_log};
    struct input_sink tablet = {.name = "tablet", .takes = INPUT_TAKES_ABS, .event = take_event, .sync = take_sync, .opaque = &tablet_log};
    assert_false(input_takes(hub, INPUT_KEY));
    input_add(hub, &keyboard);
    input_add(hub, &mouse);
    input_add(hub, &tablet);
    assert_true(input_takes(hub, INPUT_KEY));
    assert_false(input_is_absolute(hub));
    input_activate(hub, &tablet, true);
    assert_true(input_is_absolute(hub));

    input_send(hub, INPUT_KEY, KEY_A, 1);
    input_send(hub, INPUT_KEY, KEY_A, 1); /* repeats */
    input_send(hub, INPUT_KEY, KEY_A, 0);
    input_send(hub, INPUT_KEY, KEY_A, 0); /* it is up */
    input_send(hub, INPUT_KEY, KEY_B, 0);
    input_send(hub, INPUT_KEY, 0xffff, 1);
    input_send(hub, INPUT_ABS, INPUT_AXIS_X, 0x9000);
    input_send(hub, INPUT_ABS, INPUT_AXIS_Y, -1);
    input_send(hub, INPUT_BUTTON, INPUT_LEFT, 1);
    input_send(hub, INPUT_BUTTON, INPUT_BUTTONS, 1);
    input_sync(hub);
    assert_int_equal(keyboard_log.count, 0); /* on the loop's thread only */
    serve(20);
    assert_int_equal(keyboard_log.count, 3);
    assert_int_equal(keyboard_log.syncs, 1);
    assert_int_equal(tablet_log.count, 3);
    assert_int_equal(tablet_log.syncs, 1);
    assert_int_equal(mouse_log.count + mouse_log.syncs, 0);
    assert_int_equal(tablet_log.events[0].value, INPUT_ABS_MAX);
    assert_int_equal(tablet_log.events[1].value, 0);

    /* The release goes to who has the press; a sink that leaves is forgotten. */
    input_activate(hub, &tablet, false);
    assert_false(input_is_absolute(hub));
    input_send(hub, INPUT_BUTTON, INPUT_LEFT, 0);
    input_send(hub, INPUT_BUTTON, INPUT_RIGHT, 1);
    input_sync(hub);
    serve(20);
    assert_int_equal(tablet_log.count, 4);
    assert_int_equal(mouse_log.count, 1);
    input_remove(hub, &mouse);
    input_send(hub, INPUT_BUTTON, INPUT_RIGHT, 0);
    input_send(hub, INPUT_REL, INPUT_AXIS_X, 5);
    input_sync(hub);
    serve(20);
    assert_int_equal(mouse_log.count, 1);
    assert_int_equal(tablet_log.count, 4);

    /* While the machine stands: releases only. */
    input_send(hub, INPUT_KEY, KEY_C, 1);
    serve(20);
    input_set_running(hub, false);
    input_send(hub, INPUT_KEY, KEY_C, 0);
    input_send(hub, INPUT_KEY, KEY_D, 1);
    input_send(hub, INPUT_KEY, KEY_D, 0);
    input_sync(hub);
    serve(20);
    assert_int_equal(keyboard_log.count, 5);
    assert_int_equal(keyboard_log.events[4].code, KEY_C);
    input_set_leds(hub, INPUT_LED_CAPS);
    assert_int_equal(input_leds(hub), INPUT_LED_CAPS);
    input_remove(hub, &keyboard);
    input_remove(hub, &tablet);
    input_hub_free(hub);
}

static void test_input_press(void **state)
{
    (void)state;
    struct error error;
    struct input_hub *hub = input_hub_new(&loop, &error);
    struct input_sink keyboard = {.name = "keyboard", .takes = INPUT_TAKES_KEYS, .event = take_event, .sync = take_sync, .opaque = &keyboard_log};
    memset(&keyboard_log, 0, sizeof(keyboard_log));
    input_add(hub, &keyboard);
    const uint16_t chord[] = {KEY_LEFTCTRL, KEY_LEFTALT, KEY_DELETE};
    input_press(hub, chord, 3, 300);
    input_send(hub, INPUT_KEY, KEY_A, 1);
    input_send(hub, INPUT_KEY, KEY_A, 0);
    serve(100);
    assert_int_equal(keyboard_log.count, 3);
    serve(500);
    assert_int_equal(keyboard_log.count, 8);
    assert_int_equal(keyboard_log.events[3].code, KEY_DELETE);
    assert_int_equal(keyboard_log.events[3].value, 0);
    assert_int_equal(keyboard_log.events[6].code, KEY_A);

    /* A flood: what was pressed is released all the same. */
    memset(&keyboard_log, 0, sizeof(keyboard_log));
    for (unsigned i = 0; i < INPUT_QUEUE; i++) {
        input_send(hub, INPUT_KEY, 1 + i % 200, 1);
        input_sync(hub);
    }
    for (unsigned i = 0; i < INPUT_QUEUE; i++) {
        input_send(hub, INPUT_KEY, 1 + i % 200, 0);
        input_sync(hub);
    }
    serve(200);
    unsigned down = 0, up = 0;
    bool state_of[256] = {false};
    for (unsigned i = 0; i < keyboard_log.count; i++) {
        struct input_event event = keyboard_log.events[i];
        down += event.value == 1 && !state_of[event.code];
        up += event.value == 0;
        state_of[event.code] = event.value == 1;
    }
    assert_true(down > 100);
    assert_int_equal(down, up);
    input_remove(hub, &keyboard);
    input_hub_free(hub);
}

static void assert_stroke(const char *layout, uint32_t keysym, unsigned key, bool shift, bool altgr)
{
    struct input_stroke stroke = input_key_by_keysym(layout, keysym);
    assert_int_equal(stroke.key, key);
    assert_int_equal(stroke.shift, shift);
    assert_int_equal(stroke.altgr, altgr);
}

static void test_keys(void **state)
{
    (void)state;
    assert_int_equal(input_key_by_name("ret"), KEY_ENTER);
    assert_int_equal(input_key_by_name("ctrl_r"), KEY_RIGHTCTRL);
    assert_int_equal(input_key_by_name("asterisk"), KEY_KPASTERISK);
    assert_int_equal(input_key_by_name("nonsense"), -1);
    assert_string_equal(input_key_name(KEY_KPASTERISK), "kp_multiply");
    assert_null(input_key_name(0x2ff));
    assert_int_equal(input_key_by_number(0x1c), KEY_ENTER);
    assert_int_equal(input_key_by_number(0x9c), KEY_KPENTER);
    assert_int_equal(input_key_by_number(0), -1);
    assert_int_equal(input_button_by_name("wheel-down"), INPUT_WHEEL_DOWN);
    assert_int_equal(input_button_by_name("third"), -1);
    assert_stroke(NULL, 'a', KEY_A, false, false);
    assert_stroke("en-us", 'A', KEY_A, true, false);
    assert_stroke("en-us", '|', KEY_BACKSLASH, true, false);
    assert_stroke("en-us", 0xff0d, KEY_ENTER, false, false);
    assert_stroke("en-us", 0xffb7, KEY_KP7, false, false);
    assert_stroke("de", 'z', KEY_Y, false, false);
    assert_stroke("de", '@', KEY_Q, false, true);
    assert_stroke("de", '|', KEY_102ND, false, true);
    assert_stroke("de", '-', KEY_SLASH, false, false);
    assert_stroke("fr", '1', KEY_1, true, false);
    assert_stroke("fr", 'm', KEY_SEMICOLON, false, false);
    assert_stroke("en-us", 0x12345678, 0, false, false);
    assert_stroke("en-us", 0, 0, false, false);
    assert_true(input_has_layout("de"));
    assert_false(input_has_layout("xx"));
    /* Every printable character of ASCII can be typed, in each layout. */
    const char *const layouts[] = {"en-us", "en-gb", "de"};
    for (unsigned i = 0; i < 3; i++) {
        for (uint32_t c = 0x20; c < 0x7f; c++) {
            assert_int_not_equal(input_key_by_keysym(layouts[i], c).key, 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_display, setup, teardown),       cmocka_unit_test_setup_teardown(test_screendump, setup, teardown),
        cmocka_unit_test_setup_teardown(test_input_routing, setup, teardown), cmocka_unit_test_setup_teardown(test_input_press, setup, teardown),
        cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
