#!/bin/sh
# SPDX-License-Identifier: MIT
# `make fuzz-smoke`: FUZZ_RUNS (40) kernels, each with some bytes of its first two pages (boot header and setup code)
# changed. Kage may refuse or run them; a signal of its own or a sanitizer's report is a failure. Seeds are printed, FUZZ_SEED is the first.
# Then, where clang has libFuzzer, FUZZ_SECONDS (20) of it on the loaders, FUZZ_KVM_SECONDS (60) on the KVM API, FUZZ_VIRTIO_SECONDS (60) on
# virtqueues and PCI configuration space, FUZZ_BOARD_SECONDS (60) on PCI bridges, flash memory and HPET, FUZZ_DISK_SECONDS (60) on IDE and on
# AHCI, and FUZZ_QCOW2_SECONDS (60) on qcow2 images (tests/fuzz). The corpora are kept in BUILD-DIR/fuzz, and what crashed too.
# Best with MODE=asan. Usage: fuzz-smoke.sh BUILD-DIR
set -u
cd "$(dirname "$0")/.." || exit 1
: "${KAGE:=$1/kage}" "${FUZZ_RUNS:=40}" "${FUZZ_SEED:=1}" "${FUZZ_SECONDS:=20}" "${FUZZ_KVM_SECONDS:=60}" "${FUZZ_VIRTIO_SECONDS:=60}" \
	"${FUZZ_DISK_SECONDS:=60}" "${FUZZ_BOARD_SECONDS:=60}" "${FUZZ_QCOW2_SECONDS:=60}"
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
export CACHE
tools/fetch-guest.sh cloud || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
seed=$FUZZ_SEED passed=0 failed=0
while [ "$seed" -lt $((FUZZ_SEED + FUZZ_RUNS)) ]; do
	cp "$CACHE/cloud/vmlinuz" "$work/kernel"
	# Half of the changes hit the header's fields at 0x1f0-0x26f.
	LC_ALL=C awk -v seed="$seed" 'BEGIN { srand(seed)
		for (i = 0; i < 6; i++) print (rand() < 0.5 ? 496 + int(rand() * 128) : int(rand() * 8192)), int(rand() * 256) }' |
		while read -r offset byte; do
			# shellcheck disable=SC2059
			printf "\\$(printf %03o "$byte")" | dd of="$work/kernel" bs=1 seek="$offset" conv=notrunc status=none
		done
	timeout -k 2 4 "$KAGE" run -machine microvm -m 256M -nographic -no-reboot -kernel "$work/kernel" \
		-append "console=ttyS0 panic=-1" </dev/null >"$work/log" 2>&1
	status=$?
	if { [ $status = 0 ] || [ $status = 1 ] || [ $status = 124 ]; } && ! grep -Eq 'Sanitizer|runtime error:' "$work/log"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL: seed $seed, status $status"
		tail -n 20 "$work/log"
	fi
	seed=$((seed + 1))
done

# ---- libFuzzer ----

fuzz=$1/fuzz skipped=0 seeds=

# fuzz NAME SECONDS OPTIONS sources...: builds tests/fuzz/fuzz_NAME.c and runs it; with `seeds`, the name of a variable that makes it write
# its seeds into a directory, after that. It must have fuzzed: libFuzzer says so at the end.
fuzz() {
	_name=$1 _seconds=$2 _options=$3
	shift 3
	mkdir -p "$fuzz/corpus-$_name"
	: >"$work/log"
	# shellcheck disable=SC2086
	if "$clang" -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -Iinclude -Ivmm \
		"tests/fuzz/fuzz_$_name.c" "$@" -luring -lnbd -lz -llzma -llz4 -lzstd -lpthread -o "$fuzz/fuzz_$_name" >"$work/log" 2>&1 &&
		{ [ -z "$seeds" ] || env "$seeds=$fuzz/corpus-$_name" "$fuzz/fuzz_$_name" >"$work/log" 2>&1; } &&
		"$fuzz/fuzz_$_name" $_options -max_total_time="$_seconds" -artifact_prefix="$fuzz/" "$fuzz/corpus-$_name" >"$work/log" 2>&1 &&
		grep -q '^Done' "$work/log"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL: fuzz_$_name"
		grep -v "^kage: qcow2:" "$work/log" | tail -n 60
	fi
	grep '^Done' "$work/log"
}
clang=$(command -v clang || command -v clang-14 || :)
mkdir -p "$fuzz/corpus"
if [ -n "$clang" ] && echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
	"$clang" -x c - -fsanitize=fuzzer -o "$work/probe" 2>/dev/null; then
	# A sound ELF file to start from, as the file and as what is packed.
	if [ -s "$1/tests/guest/smoke.elf" ]; then
		for kind in 001 003; do
			# shellcheck disable=SC2059
			{ printf "\\$kind" && head -c 60000 "$1/tests/guest/smoke.elf"; } >"$fuzz/corpus/seed-$kind"
		done
	fi
	# Multiboot: addresses that hold, and, behind five of them that nobody looks at, a 32-bit ELF file.
	{ printf '\004\000\004\040\000\000\000\040\000\000\020\040\000\000\200\040\000\020\000\040\000' && head -c 5000 /dev/zero; } >"$fuzz/corpus/seed-004"
	if [ -s "$1/tests/guest/paging32.elf" ]; then
		{ printf '\005%020d' 0 && head -c 60000 "$1/tests/guest/paging32.elf"; } >"$fuzz/corpus/seed-005"
	fi
	mkdir -p "$fuzz/corpus-loader"
	mv "$fuzz"/corpus/* "$fuzz/corpus-loader/" 2>/dev/null
	fuzz loader "$FUZZ_SECONDS" '-max_len=65536' vmm/machine/boot.c vmm/machine/bzimage.c vmm/machine/decompress.c vmm/machine/elf.c \
		vmm/machine/linux.c vmm/machine/multiboot.c vmm/machine/pvh.c vmm/machine/ram.c vmm/util/error.c vmm/util/log.c vmm/vcpu/state.c

	# The KVM API: sequences of ioctls, guest code between them. SIGSEGV and its kin are the engine's first, then libFuzzer's.
	mkdir -p "$fuzz/corpus-kvm"
	: >"$work/log"
	if make -s -j"$(nproc)" -f tests/fuzz/engine.mk OUT="$fuzz/kvm" CC="$clang" &&
		FUZZ_KVM_SEEDS="$fuzz/corpus-kvm" "$fuzz/kvm/fuzz_kvm" -runs=0 >"$work/log" 2>&1 &&
		ASAN_OPTIONS=handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:allow_user_segv_handler=1:halt_on_error=1:abort_on_error=1 \
			"$fuzz/kvm/fuzz_kvm" -max_len=512 -timeout=10 -max_total_time="$FUZZ_KVM_SECONDS" -artifact_prefix="$fuzz/" "$fuzz/corpus-kvm" \
			>"$work/log" 2>&1; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL: fuzz_kvm"
		tail -n 60 "$work/log"
	fi
	grep '^Done' "$work/log"

	# What a guest does to the board's own parts, and a driver to virtio devices on a PCI bus, and to disk controllers.
	devices='vmm/disk/*.c vmm/block/*.c vmm/bus/*.c vmm/dev/pci.c vmm/dev/msix.c vmm/dev/disk_error.c vmm/util/*.c'
	fuzz board "$FUZZ_BOARD_SECONDS" '-max_len=512 -timeout=10' vmm/bus/*.c vmm/dev/pci.c vmm/dev/mch.c vmm/dev/ich9.c vmm/dev/pflash.c \
		vmm/dev/hpet.c vmm/util/log.c vmm/util/error.c
	fuzz virtio "$FUZZ_VIRTIO_SECONDS" '-max_len=512 -timeout=10' $devices vmm/virtio/*.c vmm/chardev/*.c
	fuzz ide "$FUZZ_DISK_SECONDS" '-max_len=512 -timeout=10' $devices
	fuzz ahci "$FUZZ_DISK_SECONDS" '-max_len=512 -timeout=10' $devices

	# Disk images: operations on damaged ones. What is said about them is not wanted.
	seeds=FUZZ_QCOW2_SEEDS
	fuzz qcow2 "$FUZZ_QCOW2_SECONDS" '-max_len=131072 -timeout=20 -rss_limit_mb=4096' tests/block/testnode.c vmm/block/qcow2*.c vmm/block/node.c \
		vmm/block/raw.c vmm/block/file.c vmm/block/bounce.c vmm/block/nbd*.c vmm/block/lock.c vmm/util/error.c vmm/util/thread.c
else
	skipped=7
	echo "no clang with libFuzzer: the harnesses of the loaders, of the KVM API, of the board, virtio, IDE, AHCI and qcow2 are skipped"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
