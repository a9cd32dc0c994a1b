/* SPDX-License-Identifier: MIT */
#include "display/display.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define NS_PER_S 1000000000
#define SOURCES_MAX 8u
/* Before any device has drawn: VGA's text mode. */
#define FIRST_WIDTH 720u
#define FIRST_HEIGHT 400u

struct display {
    struct loop *loop;
    struct loop_source timer; /* on while somebody looks */
    struct display_surface surface;
    unsigned source_count;
    struct display_source *sources[SOURCES_MAX]; /* in the order in which they came */
    struct display_viewer *viewers;
    bool all; /* the next refresh is of everything */
};

static bool display_is_looked_at(const struct display *display)
{
    bool looks = false;
    for (const struct display_viewer *viewer = display->viewers; viewer != NULL; viewer = viewer->next) {
        looks = looks || viewer->looks;
    }
    return looks;
}

static void display_set_timer(struct display *display)
{
    bool on = display_is_looked_at(display);
    struct itimerspec when = {{0, NS_PER_S / DISPLAY_RATE}, {0, NS_PER_S / DISPLAY_RATE}};
    if (!on) {
        memset(&when, 0, sizeof(when));
    }
    timerfd_settime(display->timer.fd, 0, &when, NULL);
}

static void display_timer_ready(void *opaque, uint32_t events)
{
    struct display *display = opaque;
    uint64_t count;
    (void)events;
    if (read(display->timer.fd, &count, sizeof(count)) == sizeof(count)) {
        display_refresh(display);
    }
}

struct display *display_new(struct loop *loop, struct error *error)
{
    struct display *display = calloc(1, sizeof(*display));
    if (display == NULL || display_resize(display, FIRST_WIDTH, FIRST_HEIGHT) == NULL) {
        error_set(error, "no memory for a display");
        free(display);
        return NULL;
    }
    display->loop = loop;
    display->timer = (struct loop_source){
        .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), .ready = display_timer_ready, .opaque = display};
    int result = display->timer.fd < 0 ? -errno : loop_add(loop, &display->timer, EPOLLIN);
    if (result != 0) {
        error_set(error, "the display's timer: %s", strerror(-result));
        if (display->timer.fd >= 0) {
            close(display->timer.fd);
        }
        free(display->surface.pixels);
        free(display);
        return NULL;
    }
    return display;
}

void display_free(struct display *display)
{
    if (display == NULL) {
        return;
    }
    loop_remove(display->loop, &display->timer);
    close(display->timer.fd);
    free(display->surface.pixels);
    free(display);
}

/* ---- The device ---- */

void display_attach(struct display *display, struct display_source *source)
{
    if (display->source_count < SOURCES_MAX) {
        display->sources[display->source_count++] = source;
        display->all = true;
    }
}

void display_detach(struct display *display, struct display_source *source)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < display->source_count; i++) {
        if (display->sources[i] != source) {
            display->sources[kept++] = display->sources[i];
        }
    }
    display->source_count = kept;
    display->all = true;
}

bool display_has_source(const struct display *display)
{
    return display->source_count != 0;
}

uint32_t *display_resize(struct display *display, unsigned width, unsigned height)
{
    struct display_surface *surface = &display->surface;
    if (width == surface->width && height == surface->height) {
        return surface->pixels;
    }
    if (width == 0 || height == 0 || width > DISPLAY_SIDE_MAX || height > DISPLAY_SIDE_MAX) {
        return NULL;
    }
    uint32_t *pixels = calloc((size_t)width * height, sizeof(*pixels));
    if (pixels == NULL) {
        return NULL;
    }
    uint32_t *old = surface->pixels;
    *surface = (struct display_surface){.width = width, .height = height, .pixels = pixels};
    for (struct display_viewer *viewer = display->viewers; viewer != NULL; viewer = viewer->next) {
        viewer->resized(viewer->opaque, surface);
    }
    free(old);
    return pixels;
}

void display_changed(struct display *display, unsigned x, unsigned y, unsigned width, unsigned height)
{
    const struct display_surface *surface = &display->surface;
    struct display_rect rect = {.x = x, .y = y};
    if (x >= surface->width || y >= surface->height || width == 0 || height == 0) {
        return;
    }
    rect.width = width < surface->width - x ? width : surface->width - x;
    rect.height = height < surface->height - y ? height : surface->height - y;
    for (struct display_viewer *viewer = display->viewers; viewer != NULL; viewer = viewer->next) {
        viewer->changed(viewer->opaque, surface, &rect);
    }
}

/* ---- Those who look ---- */

void display_add_viewer(struct display *display, struct display_viewer *viewer)
{
    viewer->looks = false;
    viewer->next = display->viewers;
    display->viewers = viewer;
}

void display_remove_viewer(struct display *display, struct display_viewer *viewer)
{
    for (struct display_viewer **at = &display->viewers; *at != NULL; at = &(*at)->next) {
        if (*at == viewer) {
            *at = viewer->next;
            break;
        }
    }
    viewer->looks = false;
    display_set_timer(display);
}

void display_look(struct display_viewer *viewer, struct display *display, bool looks)
{
    display->all = display->all || (looks && !viewer->looks);
    viewer->looks = looks;
    display_set_timer(display);
}

const struct display_surface *display_surface(const struct display *display)
{
    return &display->surface;
}

void display_refresh(struct display *display)
{
    bool all = display->all;
    if (display->source_count != 0) {
        struct display_source *source = display->sources[display->source_count - 1];
        display->all = false;
        source->refresh(source->opaque, all);
    } else if (all) {
        display->all = false;
        display_changed(display, 0, 0, display->surface.width, display->surface.height);
    }
    for (struct display_viewer *viewer = display->viewers; viewer != NULL; viewer = viewer->next) {
        if (viewer->refreshed != NULL) {
            viewer->refreshed(viewer->opaque);
        }
    }
}
