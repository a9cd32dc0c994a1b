/* SPDX-License-Identifier: MIT */
#include "cli/run_image.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "block/node.h"
#include "machine/machine.h"

#define IMAGE_SECTOR 512u
#define IMAGE_OVMF "/usr/share/ovmf/OVMF.fd" /* of Debian's package ovmf: code and variables, which it keeps in memory */

/* Without a word about its format the image is qcow2, never raw: it is written to. */
static int image_check_format(const struct options *options, struct error *error)
{
    char head[4] = "";
    int fd = options->image_format_said ? -1 : open(options->image, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0; /* who opens it says what is wrong */
    }
    bool other = pread(fd, head, sizeof(head), 0) >= 0 && memcmp(head, "QFI\xfb", sizeof(head)) != 0;
    close(fd);
    return other ? error_set(error, "%s: no qcow2 image; if it is a raw one, say '%s,format=raw'", options->image, options->image) : 0;
}

/* A GPT behind a protective MBR (UEFI 2.10, 5.2.3) without code in it: BIOS has nothing to start there. */
static bool image_is_uefi_only(const uint8_t mbr[IMAGE_SECTOR], const uint8_t gpt[IMAGE_SECTOR])
{
    static const uint8_t no_code[440];
    return mbr[510] == 0x55 && mbr[511] == 0xaa && mbr[446 + 4] == 0xee && memcmp(gpt, "EFI PART", 8) == 0 &&
           memcmp(mbr, no_code, sizeof(no_code)) == 0;
}

static bool image_wants_uefi(const struct options *options)
{
    const struct drive_values *values = NULL;
    struct node_options node_options = {.read_only = true};
    struct error ignored = {""}; /* it is opened again, to be used: then it is said */
    uint8_t sectors[2 * IMAGE_SECTOR];
    for (unsigned i = 0; i < options->lists.drive_count; i++) {
        values = strcmp(options->lists.drives[i]->values.file, options->image) == 0 ? &options->lists.drives[i]->values : values;
    }
    struct block_node *node = values != NULL ? node_open(values->file, values->format, &node_options, &ignored) : NULL;
    if (node == NULL) {
        return false;
    }
    bool uefi = node_read(node, 0, sectors, sizeof(sectors)) == 0 && image_is_uefi_only(sectors, sectors + IMAGE_SECTOR);
    (void)!node_close(node);
    return uefi;
}

int run_image_choose(struct options *options, struct error *error)
{
    if (options->image[0] == '\0') {
        return 0;
    }
    if (image_check_format(options, error) != 0) {
        return -1;
    }
    bool free_choice = !options->machine_said && options->bios == NULL && options->kernel == NULL && options->flash[0] == NULL;
    if (!free_choice || !image_wants_uefi(options)) {
        return 0;
    }
    if (access(IMAGE_OVMF, R_OK) != 0) {
        return error_set(error, "%s: it boots by UEFI only, and there is no %s; install the package ovmf, or name firmware by -machine and -bios",
                         options->image, IMAGE_OVMF);
    }
    options->machine = "q35";
    options->bios = IMAGE_OVMF;
    return 0;
}

void run_image_greet(const struct options *options)
{
    bool keys = false;
    for (unsigned i = 0; i < options->serial_count; i++) {
        keys = keys || strcmp(options->serial[i], "mon:stdio") == 0;
    }
    if (options->image[0] != '\0') {
        fprintf(stderr, "kage: %s on board %s%s, processors: %u, memory: %" PRIu64 " MiB%s\n", options->image, options->machine,
                options->bios != NULL && strcmp(options->bios, IMAGE_OVMF) == 0 ? " with UEFI" : "", options->smp.cpus, options->ram_bytes >> 20,
                keys ? "; Ctrl-a x leaves, Ctrl-a h helps" : "");
    }
}
