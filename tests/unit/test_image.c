/* SPDX-License-Identifier: MIT */
/*
 * The options of `kage image`: what is taken, what the script is told, and what is refused before anything is done.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "cli/image/image.h"

static struct image_request request;
static struct error error;

static int parse(char **words)
{
    int count = 0;
    while (words[count] != NULL) {
        count++;
    }
    memset(&error, 0, sizeof(error));
    return image_parse(&request, count, words, &error);
}

#define PARSE(...) parse((char *[]){__VA_ARGS__, NULL})

static void test_taken(void **state)
{
    (void)state;
    setenv("HOME", "/home/somebody", 1);
    unsetenv("XDG_CACHE_HOME");
    assert_int_equal(PARSE("debian", "out.qcow2"), 0);
    assert_string_equal(image_value(&request, "OUT"), "out.qcow2");
    assert_string_equal(image_value(&request, "SIZE"), "4294967296");
    assert_string_equal(image_value(&request, "FIRMWARE"), "both");
    assert_string_equal(image_value(&request, "CACHE"), "/home/somebody/.cache/kage/debs");
    assert_null(image_value(&request, "ROOT_PASSWORD"));
    /* A password that nobody gave is made up, each time another. */
    char first[32];
    snprintf(first, sizeof(first), "%s", image_value(&request, "PASSWORD"));
    assert_int_equal(strlen(first), 12);
    setenv("XDG_CACHE_HOME", "/cache", 1);
    assert_int_equal(PARSE("debian", "out.qcow2"), 0);
    assert_string_not_equal(first, image_value(&request, "PASSWORD"));
    assert_string_equal(image_value(&request, "CACHE"), "/cache/kage/debs");

    assert_int_equal(PARSE("debian", "--size=10g", "--hostname", "a-1.example.org", "--user", "me", "--password", "", "out", "--root-password", "x:y",
                           "--packages", "fio,g++,linux-image-amd64", "--firmware=uefi", "--kernel", "generic", "--suite", "bookworm", "--mirror",
                           "http://localhost:3142/debian", "--format", "raw", "--cache", "none", "--force", "--verbose"),
                     0);
    assert_string_equal(image_value(&request, "SIZE"), "10737418240");
    assert_string_equal(image_value(&request, "PASSWORD"), "");
    assert_string_equal(image_value(&request, "ROOT_PASSWORD"), "x:y");
    assert_string_equal(image_value(&request, "PACKAGES"), "fio,g++,linux-image-amd64");
    assert_string_equal(image_value(&request, "CACHE"), "");
    assert_string_equal(image_value(&request, "FORCE"), "1");
    assert_int_equal(PARSE("debian", "--help"), 0);
    assert_true(request.help);
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_files(void **state)
{
    char directory[] = "/tmp/kage-test-image.XXXXXX", key[64], user_data[64], meta_data[64];
    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(key, sizeof(key), "%s/key.pub", directory);
    snprintf(user_data, sizeof(user_data), "%s/user-data", directory);
    snprintf(meta_data, sizeof(meta_data), "%s/meta-data", directory);
    assert_int_equal(PARSE("debian", "o", "--ssh-key", key), -1);
    write_file(key, "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    assert_int_equal(PARSE("debian", "o", "--ssh-key", key), -1);
    assert_non_null(strstr(error.text, "public key"));
    assert_int_equal(PARSE("debian", "o", "--ssh-key", directory), -1);
    write_file(key, "ssh-ed25519 AAAA me@here\n");
    assert_int_equal(PARSE("debian", "o", "--ssh-key", key), 0);

    assert_int_equal(PARSE("debian", "o", "--cloud-init", directory), -1);
    write_file(user_data, "#cloud-config\n");
    assert_int_equal(PARSE("debian", "o", "--cloud-init", directory), -1);
    assert_non_null(strstr(error.text, "meta-data"));
    write_file(meta_data, "");
    assert_int_equal(PARSE("debian", "o", "--cloud-init", directory), 0);
    unlink(key);
    unlink(user_data);
    unlink(meta_data);
    rmdir(directory);
}

static void test_refused(void **state)
{
    static const struct {
        char *words[5];
        const char *says;
    } rows[] = {
        {{NULL}, "nothing to make"},
        {{"windows", "o"}, "windows"},
        {{"debian"}, "name of the image"},
        {{"debian", ""}, "name of the image"},
        {{"debian", "a", "b"}, "a and b"},
        {{"debian", "o", "--colour"}, "--colour"},
        {{"debian", "o", "--size"}, "SIZE is missing"},
        {{"debian", "o", "--force=yes"}, "--force takes no argument"},
        {{"debian", "o", "--size", "100M"}, "1G to 16T"},
        {{"debian", "o", "--size", "17T"}, "1G to 16T"},
        {{"debian", "o", "--size", "-4G"}, "1G to 16T"},
        {{"debian", "o", "--hostname", "a_b"}, "host's name"},
        {{"debian", "o", "--hostname", "-a"}, "host's name"},
        {{"debian", "o", "--hostname", "a..b"}, "host's name"},
        {{"debian", "o", "--hostname", ""}, "host's name"},
        {{"debian", "o", "--user", "root"}, "--root-password"},
        {{"debian", "o", "--user", "a b"}, "user's name"},
        {{"debian", "o", "--user", "-f"}, "user's name"},
        {{"debian", "o", "--user", "../x"}, "user's name"},
        {{"debian", "o", "--password", "a\nroot:b"}, "control characters"},
        {{"debian", "o", "--packages", "a;b"}, "names of packages"},
        {{"debian", "o", "--packages", "-oX=y"}, "names of packages"},
        {{"debian", "o", "--firmware", "coreboot"}, "bios, uefi, both"},
        {{"debian", "o", "--kernel", "hurd"}, "cloud, generic"},
        {{"debian", "o", "--format", "vmdk"}, "qcow2, raw"},
        {{"debian", "o", "--mirror", "http://a [trusted=yes] b"}, "URL"},
        {{"debian", "o", "--mirror", "a"}, "URL"},
        {{"debian", "o", "--suite", "../x"}, "release"},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *words[6] = {NULL};
        memcpy(words, rows[i].words, sizeof(rows[i].words));
        if (parse(words) == 0 || strstr(error.text, rows[i].says) == NULL || strchr(error.text, '\n') != NULL) {
            fail_msg("%s: \"%s\" does not say \"%s\"", words[0] != NULL ? words[0] : "", error.text, rows[i].says);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
