/* SPDX-License-Identifier: MIT */
/*
 * A display: the pixels between the device that draws them (a VGA) and those who look (VNC servers, screendumps). The process has one, which
 * outlives its machines: a reset's new device attaches again, and until it draws, the last picture stays.
 *
 * All of it on the loop's thread. A device draws only when it is asked, at most DISPLAY_RATE times a second and only while somebody looks.
 */
#ifndef KAGE_DISPLAY_DISPLAY_H
#define KAGE_DISPLAY_DISPLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"
#include "util/loop.h"

#define DISPLAY_RATE 30u
#define DISPLAY_SIDE_MAX 8192u /* pixels; of a picture's width and height */

/* XRGB8888: blue is the lowest byte, the highest is 0. Rows follow one another without gaps. */
struct display_surface {
    unsigned width, height;
    uint32_t *pixels;
};

struct display_rect {
    unsigned x, y, width, height;
};

/* A device that draws. In its owner's storage. */
struct display_source {
    /* Draws what has changed since the last time (`all`: everything), with display_resize() and display_changed(). */
    void (*refresh)(void *opaque, bool all);
    void *opaque;
};

/* Somebody who looks. In its owner's storage; the display's callbacks must not add or remove viewers. */
struct display_viewer {
    /* There is a new surface, all of it changed. */
    void (*resized)(void *opaque, const struct display_surface *surface);
    /* These pixels have changed; several times for one refresh. */
    void (*changed)(void *opaque, const struct display_surface *surface, const struct display_rect *rect);
    /* One refresh is through. NULL: nothing to do. */
    void (*refreshed)(void *opaque);
    void *opaque;
    /* The display's. */
    bool looks;
    struct display_viewer *next;
};

struct display;

/* NULL, with `error` filled. */
struct display *display_new(struct loop *loop, struct error *error);
void display_free(struct display *display); /* NULL: nothing to do */

/* ---- For the device ---- */

/* The newest source is the one that draws. */
void display_attach(struct display *display, struct display_source *source);
void display_detach(struct display *display, struct display_source *source);
/* The surface gets this size, black, if it has another. NULL: the size is 0, too large, or there is no memory; the old one stays. */
uint32_t *display_resize(struct display *display, unsigned width, unsigned height);
/* Cut to the surface. */
void display_changed(struct display *display, unsigned x, unsigned y, unsigned width, unsigned height);

/* ---- For those who look ---- */

void display_add_viewer(struct display *display, struct display_viewer *viewer);
void display_remove_viewer(struct display *display, struct display_viewer *viewer);
/* It wants refreshes, from now on, or no more. The first one is of everything. */
void display_look(struct display_viewer *viewer, struct display *display, bool looks);
/* The picture as it is; never without pixels. */
const struct display_surface *display_surface(const struct display *display);
/* A device is there to draw. */
bool display_has_source(const struct display *display);
/* Has the device draw now. */
void display_refresh(struct display *display);

/* ---- screendump.c ---- */

enum display_format { DISPLAY_PPM, DISPLAY_PNG };

/* Has the device draw, and writes the picture into a file (made or truncated). 0, or -1 with `error` filled. */
int display_screendump(struct display *display, const char *path, enum display_format format, struct error *error);

#endif
