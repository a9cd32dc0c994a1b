/* SPDX-License-Identifier: MIT */
/*
 * `kage run IMAGE`: what the image's first bytes decide, and what they must not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "cli/options.h"
#include "cli/run_image.h"

static struct options options;
static struct error error;
static char path[] = "/tmp/kage-test-run-image.XXXXXX";
static uint8_t bytes[64 << 10];

static void write_image(void)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, sizeof(bytes), file), sizeof(bytes));
    fclose(file);
}

/* The result of looking at the image, with its name as a word and perhaps more words. */
static int choose(const char *tail, char *option, char *value)
{
    char word[80];
    snprintf(word, sizeof(word), "%s%s", path, tail);
    char *words[] = {word, option, value};
    memset(&error, 0, sizeof(error));
    options_fini(&options);
    assert_int_equal(options_parse(&options, option == NULL ? 1 : 3, words, &error), 0);
    return run_image_choose(&options, &error);
}

/* A GPT as the table of UEFI 2.10, 5.3 begins, behind its protective MBR. */
static void make_gpt(uint8_t code)
{
    memset(bytes, 0, sizeof(bytes));
    bytes[0] = code;
    bytes[446 + 4] = 0xee;
    bytes[510] = 0x55;
    bytes[511] = 0xaa;
    memcpy(bytes + 512, "EFI PART", 8);
    write_image();
}

static void test_format(void **state)
{
    (void)state;
    make_gpt(0xeb);
    assert_int_equal(choose("", NULL, NULL), -1);
    assert_non_null(strstr(error.text, ",format=raw"));
    assert_int_equal(choose(",format=raw", NULL, NULL), 0);
    assert_string_equal(options.machine, "pc");
    /* What a guest may have written into its raw image changes nothing. */
    memcpy(bytes, "QFI\xfb", 4);
    write_image();
    assert_int_equal(choose(",format=raw", NULL, NULL), 0);
    assert_string_equal(options.lists.drives[0]->values.format, "raw");
    memset(bytes, 0, 4);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(choose("", NULL, NULL), -1);
    /* Nothing is said of what is not there: who opens it does. */
    unlink(path);
    assert_int_equal(choose("", NULL, NULL), 0);
}

static void test_uefi(void **state)
{
    (void)state;
    make_gpt(0);
    int result = choose(",format=raw", NULL, NULL);
    if (access("/usr/share/ovmf/OVMF.fd", R_OK) == 0) {
        assert_int_equal(result, 0);
        assert_string_equal(options.machine, "q35");
        assert_non_null(options.bios);
    } else {
        assert_int_equal(result, -1);
        assert_non_null(strstr(error.text, "package ovmf"));
    }
    /* What was said stands. */
    assert_int_equal(choose(",format=raw", "-machine", "pc"), 0);
    assert_string_equal(options.machine, "pc");
    assert_null(options.bios);
    assert_int_equal(choose(",format=raw", "-bios", "x"), 0);
    assert_string_equal(options.machine, "pc");
    /* No GPT; no image. */
    memset(bytes + 512, 0, 8);
    write_image();
    assert_int_equal(choose(",format=raw", NULL, NULL), 0);
    assert_string_equal(options.machine, "pc");
    options_fini(&options);
    assert_int_equal(options_parse(&options, 2, (char *[]){"-kernel", "k"}, &error), 0);
    assert_int_equal(run_image_choose(&options, &error), 0);
    assert_string_equal(options.machine, "microvm");
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_format), cmocka_unit_test(test_uefi)};
    int fd = mkstemp(path);
    if (fd >= 0) {
        close(fd);
    }
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return result;
}
