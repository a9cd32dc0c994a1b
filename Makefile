# SPDX-License-Identifier: MIT
# The front door: make build | run | test | bench | soak | fuzz-smoke | format | install | clean.
#   MODE=asan|ubsan|tsan   an instrumented build, in a build directory of its own
#   CC=clang-14            another compiler (make clean first)
#   CMD='uname -a'         make run: run a command in the guest and power off, instead of a shell
#   PREFIX=/usr/local      make install
MODE ?=
PREFIX ?= /usr/local
CMD ?=
MEM ?= 512M
KERNEL ?= cloud
NINJAFLAGS ?=

BUILD := build$(if $(MODE),-$(MODE))
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/kage
KAGE := $(BUILD)/kage

SANITIZE_ := none
SANITIZE_asan := address
SANITIZE_ubsan := undefined
SANITIZE_tsan := thread
SANITIZE := $(SANITIZE_$(MODE))
ifeq ($(SANITIZE),)
$(error MODE=$(MODE) is not one of asan, ubsan, tsan)
endif

# SIGSEGV and its kin are the engine's: a fault in translated code is the guest's.
ENGINE_SIGNALS := handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:allow_user_segv_handler=1
export ASAN_OPTIONS ?= $(ENGINE_SIGNALS):halt_on_error=1:abort_on_error=1
export TSAN_OPTIONS ?= $(ENGINE_SIGNALS):halt_on_error=1:suppressions=$(CURDIR)/tests/tsan.supp
export UBSAN_OPTIONS ?= halt_on_error=1:print_stacktrace=1

# ThreadSanitizer's runtime uses vector registers wherever a lock is taken: no guests under it but those of the races, which have none.
TEST_ARGS := $(if $(filter tsan,$(MODE)),--suite unit --suite tree --suite races)

BUILD_PACKAGES := build-essential meson ninja-build pkg-config libzydis-dev libcmocka-dev zlib1g-dev liblzma-dev \
	liblz4-dev libzstd-dev libjansson-dev liburing-dev libnbd-dev libslirp-dev libglib2.0-dev libvncserver-dev libpng-dev libc6-dev-i386 lib32gcc-12-dev
RUN_PACKAGES := cpio
TEST_PACKAGES := cpio util-linux bsdutils seabios ovmf qemu-system-x86 qemu-utils nbdkit mmdebstrap e2fsprogs fdisk xorriso grub-pc-bin grub-efi-amd64-bin grub-common mtools
BENCH_PACKAGES := cpio qemu-system-x86 qemu-utils busybox-static seabios mmdebstrap e2fsprogs fdisk

FORMAT_SOURCES = $(shell git ls-files '*.c' '*.h')

.PHONY: build configure deps deps-run deps-test deps-bench run test bench soak fuzz-smoke format install clean
.DEFAULT_GOAL := build

deps:
	@tools/install-deps.sh $(BUILD_PACKAGES)
deps-run: deps
	@tools/install-deps.sh $(RUN_PACKAGES)
deps-test: deps
	@tools/install-deps.sh $(TEST_PACKAGES)
deps-bench: deps
	@tools/install-deps.sh $(BENCH_PACKAGES)

# The list of sources is taken when meson runs: run it again when that list has changed.
configure: deps
	@tools/configure.sh $(BUILD) -Db_sanitize=$(SANITIZE) -Db_lundef=$(if $(MODE),false,true)

build: configure
	@ninja -C $(BUILD) $(NINJAFLAGS)

run: build deps-run
	@KAGE=$(KAGE) KERNEL=$(KERNEL) MEM=$(MEM) CACHE=$(CACHE) tools/run.sh "$$RUN_CMD"

# As it was written: make would expand a shell's dollars.
RUN_CMD := $(value CMD)
export RUN_CMD

test: build deps-test
	@KAGE=$(KAGE) CACHE=$(CACHE) tests/run.sh $(BUILD) $(TEST_ARGS)

bench: build deps-bench
	@KAGE=$(KAGE) CACHE=$(CACHE) bench/run.sh $(BUILD)

soak: build deps-test
	@KAGE=$(KAGE) CACHE=$(CACHE) tests/soak.sh $(BUILD)

fuzz-smoke: build
	@tests/fuzz-smoke.sh $(BUILD)

format:
	@command -v clang-format >/dev/null || tools/install-deps.sh clang-format
	@clang-format -i $(FORMAT_SOURCES)

# libkage-preload.so goes with kage: `kage kvm` finds it from there.
install: build
	@meson configure $(BUILD) -Dprefix=$(abspath $(PREFIX)) >/dev/null
	@meson install -C $(BUILD)

clean:
	rm -rf build build-asan build-ubsan build-tsan
