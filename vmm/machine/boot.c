/* SPDX-License-Identifier: MIT */
/*
 * What every boot protocol needs: files, command line, initrd, memory map; and which protocol a kernel
 * file takes. An error says which option it is about, then what is wrong with the file.
 */
#include "machine/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/elf.h"
#include "machine/layout.h"
#include "machine/multiboot.h"
#include "util/log.h"

#define BOOT_PAGE UINT64_C(0x1000)

static int boot_file_open(const char *option, const char *path, uint64_t *size, struct error *error)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set(error, "%s %s: %s", option, path, strerror(errno));
    }
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        close(fd);
        return error_set(error, "%s %s: not a regular file", option, path);
    }
    if (status.st_size == 0) {
        close(fd);
        return error_set(error, "%s %s: the file is empty", option, path);
    }
    *size = (uint64_t)status.st_size;
    return fd;
}

int boot_file_map(struct boot_file *file, const char *option, const char *path, struct error *error)
{
    uint64_t size;
    int fd = boot_file_open(option, path, &size, error);
    if (fd < 0) {
        return -1;
    }
    void *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    int result = bytes == MAP_FAILED ? error_set(error, "%s %s: %s", option, path, strerror(errno)) : 0;
    close(fd);
    *file = result == 0 ? (struct boot_file){.bytes = bytes, .size = size} : (struct boot_file){0};
    return result;
}

void boot_file_unmap(struct boot_file *file)
{
    munmap((void *)(uintptr_t)file->bytes, file->size);
    *file = (struct boot_file){0};
}

int boot_place_cmdline(const struct ram *ram, const char *cmdline, uint64_t max_bytes, struct error *error)
{
    size_t length = strlen(cmdline);
    if (max_bytes > LAYOUT_CMDLINE_BYTES - 1) {
        max_bytes = LAYOUT_CMDLINE_BYTES - 1;
    }
    if (length > max_bytes) {
        return error_set(error, "-append: %zu bytes of command line; this kernel takes at most %" PRIu64, length, max_bytes);
    }
    memcpy(ram_at(ram, LAYOUT_CMDLINE_GPA, LAYOUT_CMDLINE_BYTES), cmdline, length + 1);
    return 0;
}

int boot_place_initrd(const struct ram *ram, const char *path, uint64_t min_gpa, uint64_t max_gpa, uint64_t *gpa, uint64_t *bytes,
                      struct error *error)
{
    uint64_t size;
    int fd = boot_file_open("-initrd", path, &size, error);
    if (fd < 0) {
        return -1;
    }
    uint64_t end = max_gpa < ram->low_bytes - 1 ? max_gpa + 1 : ram->low_bytes;
    uint64_t at = size <= end ? (end - size) & ~(BOOT_PAGE - 1) : 0;
    if (at == 0 || at < min_gpa) {
        close(fd);
        return error_set(error, "-initrd %s: its %" PRIu64 " KiB do not fit into the memory behind the kernel; give the guest more with -m", path,
                         size >> 10);
    }
    ram_populate(ram, at, size);
    uint8_t *target = ram_at(ram, at, size);
    for (uint64_t done = 0; done < size;) {
        ssize_t got = read(fd, target + done, size - done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            int problem = errno;
            close(fd);
            return error_set(error, "-initrd %s: %s", path, got == 0 ? "the file shrank while it was read" : strerror(problem));
        }
        done += (uint64_t)got;
    }
    close(fd);
    *gpa = at;
    *bytes = size;
    log_line(LOG_LOADER, "initrd %s at 0x%" PRIx64 ", %" PRIu64 " bytes", path, at, size);
    return 0;
}

struct vcpu_start boot_start(const struct ram *ram, enum vcpu_mode mode, uint64_t entry_gpa)
{
    uint64_t gdt[VCPU_GDT_ENTRIES];
    vcpu_gdt(gdt, mode, LAYOUT_TSS_GPA);
    memcpy(ram_at(ram, LAYOUT_GDT_GPA, sizeof(gdt)), gdt, sizeof(gdt));
    return (struct vcpu_start){
        .mode = mode, .rip = entry_gpa, .rsp = LAYOUT_STACK_GPA, .gdt_gpa = LAYOUT_GDT_GPA, .tss_gpa = LAYOUT_TSS_GPA};
}

unsigned boot_memory_map(const struct ram *ram, struct boot_memory map[BOOT_MEMORY_MAX])
{
    unsigned count = 0;
    map[count++] = (struct boot_memory){0, LAYOUT_LOW_END_GPA, BOOT_MEMORY_RAM};
    map[count++] = (struct boot_memory){LAYOUT_ACPI_GPA, LAYOUT_ACPI_BYTES, BOOT_MEMORY_RESERVED};
    map[count++] = (struct boot_memory){LAYOUT_KERNEL_GPA, ram->low_bytes - LAYOUT_KERNEL_GPA, BOOT_MEMORY_RAM};
    if (ram_high_bytes(ram) != 0) {
        map[count++] = (struct boot_memory){RAM_HIGH_GPA, ram_high_bytes(ram), BOOT_MEMORY_RAM};
    }
    return count;
}

/*
 * A vmlinux is entered at its 64-bit entry, which e_entry is; so is any 64-bit ELF file without a PVH
 * note. Everything else that has the note is entered as PVH says, in 32-bit protected mode.
 */
static int boot_load_elf(const struct ram *ram, const struct boot_file *file, const struct boot_request *request, struct vcpu_start *start,
                         struct error *error)
{
    struct elf_image elf;
    if (elf_parse(&elf, file->bytes, file->size, error) != 0 ||
        elf_place(&elf, ram, (uint8_t *)(uintptr_t)file->bytes, file->size, error) != 0) {
        return -1;
    }
    if (elf.pvh_entry != 0 && !(elf.is_64 && elf.is_linux)) {
        return pvh_prepare(ram, request, elf.pvh_entry, elf.end_gpa, start, error);
    }
    if (!elf.is_64) {
        return error_set(error, "it is a 32-bit ELF file without a PVH note; such kernels do not boot yet");
    }
    struct linux_kernel kernel = {
        .entry_gpa = elf.entry,
        .end_gpa = elf.end_gpa,
        .initrd_max_gpa = RAM_HOLE_GPA - 1,
        .cmdline_max = LAYOUT_CMDLINE_BYTES - 1,
    };
    return linux_prepare(ram, request, &kernel, start, error);
}

int boot_load(const struct ram *ram, const struct boot_request *request, struct vcpu_start *start, struct error *error)
{
    struct boot_file file;
    struct error reason = {""};
    if (request->kernel == NULL) {
        return error_set(error, "no kernel to boot; name one with -kernel FILE");
    }
    if (boot_file_map(&file, "-kernel", request->kernel, error) != 0) {
        return -1;
    }
    bool is_elf = file.size >= 4 && memcmp(file.bytes, "\x7f" "ELF", 4) == 0;
    int result = multiboot_is(&file)
                     ? multiboot_load(ram, &file, request, start, &reason)
                     : is_elf ? boot_load_elf(ram, &file, request, start, &reason) : bzimage_load(ram, &file, request, start, &reason);
    boot_file_unmap(&file);
    if (result != 0) {
        /* An option's own message stands by itself; a message about the file gets its name. */
        return reason.text[0] == '-' ? error_set(error, "%s", reason.text) : error_set(error, "-kernel %s: %s", request->kernel, reason.text);
    }
    log_line(LOG_LOADER, "kernel %s, entry 0x%" PRIx64, request->kernel, start->rip);
    return 0;
}
