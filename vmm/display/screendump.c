/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "display/display.h"

static void screendump_row(const uint32_t *pixels, unsigned width, uint8_t *row)
{
    for (unsigned x = 0; x < width; x++) {
        row[x * 3] = (uint8_t)(pixels[x] >> 16);
        row[x * 3 + 1] = (uint8_t)(pixels[x] >> 8);
        row[x * 3 + 2] = (uint8_t)pixels[x];
    }
}

/* 0 or -errno; so the next. */
static int screendump_ppm(const struct display_surface *surface, FILE *file, uint8_t *row)
{
    fprintf(file, "P6\n%u %u\n255\n", surface->width, surface->height);
    for (unsigned y = 0; y < surface->height; y++) {
        screendump_row(surface->pixels + (size_t)y * surface->width, surface->width, row);
        fwrite(row, 3, surface->width, file);
    }
    return ferror(file) != 0 ? -EIO : 0;
}

/* libpng comes back here by longjmp(): nothing that changes is kept in local variables. */
static int screendump_png(const struct display_surface *surface, FILE *file, uint8_t *row)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png != NULL ? png_create_info_struct(png) : NULL;
    if (info == NULL || setjmp(png_jmpbuf(png)) != 0) {
        png_destroy_write_struct(&png, NULL);
        return info == NULL ? -ENOMEM : -EIO;
    }
    png_init_io(png, file);
    png_set_IHDR(png, info, surface->width, surface->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (unsigned y = 0; y < surface->height; y++) {
        screendump_row(surface->pixels + (size_t)y * surface->width, surface->width, row);
        png_write_row(png, row);
    }
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return 0;
}

int display_screendump(struct display *display, const char *path, enum display_format format, struct error *error)
{
    display_refresh(display);
    const struct display_surface *surface = display_surface(display);
    uint8_t *row = malloc((size_t)surface->width * 3);
    FILE *file = row != NULL ? fopen(path, "wbe") : NULL;
    if (file == NULL) {
        int reason = row != NULL ? errno : ENOMEM;
        free(row);
        return error_set(error, "failed to open file '%s': %s", path, strerror(reason));
    }
    int result = format == DISPLAY_PNG ? screendump_png(surface, file, row) : screendump_ppm(surface, file, row);
    if (fclose(file) != 0 && result == 0) {
        result = -errno;
    }
    free(row);
    return result == 0 ? 0 : error_set(error, "failed to write to file '%s': %s", path, strerror(-result));
}
