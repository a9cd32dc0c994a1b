#!/bin/sh
# SPDX-License-Identifier: MIT
# The set `disk` of `make bench`: fio of Debian 12 in a guest, on raw and qcow2 images by virtio-blk-pci, in kage and in QEMU TCG (the same
# kernel, initramfs, images and options: aio=io_uring, cache=writeback, one processor); `kage img convert` beside qemu-img; and an installed Debian from exec
# to its login prompt. All interleaved, medians of BENCH_RUNS (5). Writes the table into docs/performance.md, and prints it.
# Usage: disk.sh BUILD-DIR. Environment: KAGE, CACHE, QEMU, QEMU_IMG, BENCH_RUNS, BENCH_OUT, BENCH_TIMEOUT (seconds a boot),
# BENCH_DISK_ONLY (of fio convert boot), BENCH_DISK_SECONDS (a job of fio's: 3).
set -eu
cd "$(dirname "$0")/.."
build=$1
: "${KAGE:=$build/kage}" "${QEMU:=qemu-system-x86_64}" "${QEMU_IMG:=qemu-img}" "${BENCH_RUNS:=5}" "${BENCH_OUT:=docs/performance.md}"
: "${BENCH_TIMEOUT:=600}" "${BENCH_DISK_ONLY:=fio convert boot}" "${BENCH_DISK_SECONDS:=3}"
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
export CACHE
tools/fetch-guest.sh cloud busybox modules debian
debian=$CACHE/debian/cloud.qcow2
kernel=$CACHE/cloud/vmlinuz
tsc=$(awk '/^cpu MHz/ { printf "tsc_early_khz=%d", $4 * 1000; exit }' /proc/cpuinfo)
[ -s "$debian" ] || { echo "bench: disk: there is no Debian image" >&2; exit 0; }
wanted() { case " $BENCH_DISK_ONLY " in *" $1 "*) return 0 ;; esac; return 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
: >"$work/rows"
: >"$work/errors"

# ---- fio: the disks are full of data that does not compress, but `fresh`, whose clusters are made by the run ----

jobs="raw-randread raw-randwrite raw-read raw-write qcow2-randread qcow2-randwrite qcow2-read qcow2-write fresh-randwrite fresh-write"
cat >"$work/script" <<S
for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do insmod /lib/modules/\$m.ko; done
for part in /dev/vda[0-9]*; do
	mount -t ext4 -o ro,noload \$part /mnt 2>/dev/null || continue
	[ ! -x /mnt/usr/bin/fio ] || break
	umount /mnt
done
for d in proc sys dev tmp; do mount --bind /\$d /mnt/\$d; done
for job in $jobs; do
	case \$job in raw-*) disk=vdb ;; qcow2-*) disk=vdc ;; fresh-r*) disk=vdd ;; *) disk=vde ;; esac
	case \$job in *-rand*) how="--bs=4k --iodepth=32" ;; *) how="--bs=1M --iodepth=4" ;; esac
	case \$job in fresh-*) how="\$how --size=128M" ;; *) how="\$how --time_based --runtime=$BENCH_DISK_SECONDS --norandommap" ;; esac
	chroot /mnt fio --minimal --name=\$job --filename=/dev/\$disk --rw=\${job#*-} \$how --ioengine=libaio --direct=1 --randrepeat=1 |
		awk -F';' -v job=\$job '{ print "fio", job, \$8 + \$49, \$7 + \$48 }'
done
S
if wanted fio; then
	modules=
	for module in "$CACHE"/cloud/modules/virtio*.ko; do modules="$modules $module:lib/modules/$(basename "$module")"; done
	# shellcheck disable=SC2086
	tools/mkinitramfs.sh -o "$work/fio.cpio" -c "$(cat "$work/script")" $modules
	dd if=/dev/urandom of="$work/raw" bs=1M count=256 status=none
	"$QEMU_IMG" convert -f raw -O qcow2 "$work/raw" "$work/qcow2"
fi

drive() { # NUMBER FILE FORMAT [OPTIONS]
	echo "-drive file=$2,format=$3,if=none,id=d$1,aio=io_uring,cache=writeback${4:-} -device virtio-blk-pci,drive=d$1"
}
# fio_guest WHICH
fio_guest() {
	which=$1
	rm -f "$work/fresh1" "$work/fresh2"
	"$QEMU_IMG" create -q -f qcow2 "$work/fresh1" 256M
	"$QEMU_IMG" create -q -f qcow2 "$work/fresh2" 256M
	case $which in
	kage) set -- "$KAGE" run -accel soft -machine pc ;;
	tcg) set -- "$QEMU" -M pc -accel tcg -cpu max -nodefaults -vga none ;;
	esac
	# shellcheck disable=SC2046
	timeout -k 5 "$BENCH_TIMEOUT" "$@" -m 512M -kernel "$kernel" -initrd "$work/fio.cpio" -append "console=ttyS0 quiet panic=-1 $tsc" -nographic -serial stdio \
		-no-reboot $(drive 0 "$debian" qcow2 ,readonly=on) $(drive 1 "$work/raw" raw) $(drive 2 "$work/qcow2" qcow2) \
		$(drive 3 "$work/fresh1" qcow2) $(drive 4 "$work/fresh2" qcow2) </dev/null 2>>"$work/errors" | tr -d '\r' |
		awk -v which="$which" '$1 == "fio" { print which, $2, ($2 ~ /rand/) ? $3 : $4 / 1024 }' >>"$work/rows"
}

# ---- convert ----

# A quarter each: data that does not compress, zeroes, a hole, text.
make_source() {
	dd if=/dev/urandom of="$work/source" bs=1M count=128 status=none
	dd if=/dev/zero of="$work/source" bs=1M count=128 seek=128 status=none
	awk 'BEGIN { srand(1); for (i = 0; i < 2000000; i++) printf "%d the quick brown fox jumps over %x lazy dogs\n", i, rand() * 1048576 }' |
		dd of="$work/source" bs=1M count=128 seek=384 iflag=fullblock status=none
	truncate -s 512M "$work/source"
}
now() { date +%s%N; }
# convert NAME SOURCE-NAME [options...]: kage's and QEMU's turn; each converts what it made itself before
convert() {
	name=$1 source=$2
	shift 2
	for which in kage tcg; do
		from=$work/source
		[ "$source" = source ] || from=$work/$which-$source
		rm -f "$work/$which-$name"
		began=$(now)
		case $which in
		kage) "$KAGE" img convert "$@" "$from" "$work/$which-$name" ;;
		tcg) "$QEMU_IMG" convert "$@" "$from" "$work/$which-$name" ;;
		esac
		echo "$which convert-$name $(($(now) - began))" >>"$work/rows"
	done
}

# ---- boot ----

boot() {
	which=$1
	"$QEMU_IMG" create -q -f qcow2 -b "$debian" -F qcow2 "$work/top" >/dev/null
	case $which in
	kage) set -- "$KAGE" run -accel soft -machine pc ;;
	tcg) set -- "$QEMU" -M pc -accel tcg -cpu max -nodefaults -vga none ;;
	esac
	timeout -k 5 "$BENCH_TIMEOUT" "$build/bench/kage-stamp" -u 'login:' -n boot-login -t "$BENCH_TIMEOUT" 1024 "$@" -m 1G -smp 2 -nographic -serial stdio \
		-drive "file=$work/top,format=qcow2,if=none,id=d" -device virtio-blk-pci,drive=d </dev/null 2>>"$work/errors" |
		awk -v which="$which" '$1 == "boot-login" { print which, $1, $2 * 1e6 }' >>"$work/rows" || :
	rm -f "$work/top"
}

run=1
! wanted convert || make_source
while [ "$run" -le "$BENCH_RUNS" ]; do
	echo "bench: disk, run $run of $BENCH_RUNS" >&2
	for which in kage tcg; do
		! wanted fio || fio_guest $which
		! wanted boot || boot $which
	done
	if wanted convert; then
		convert qcow2 source -f raw -O qcow2
		convert raw qcow2 -f qcow2 -O raw
		convert compressed source -f raw -O qcow2 -c
		convert uncompressed compressed -f qcow2 -O raw
	fi
	run=$((run + 1))
done
# What was measured must be right.
if wanted convert; then
	for which in kage tcg; do
		for name in raw uncompressed; do
			cmp "$work/source" "$work/$which-$name" || { echo "bench: $which: $name differs from what was converted" >&2; exit 1; }
		done
	done
fi

{
	echo "Command: \`make bench BENCH_SETS=disk\` (BENCH_RUNS=$BENCH_RUNS), $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo none)."
	echo "Machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors, Linux $(uname -r); $("$QEMU" --version | head -n 1); guest $(cat "$CACHE/cloud/package")."
	echo "Board \`pc\`, virtio-blk-pci, aio=io_uring, cache=writeback, images of 256 MiB in the host's cache; fio with libaio and direct=1, at depth 32 (4 KiB) or 4 (1 MiB). A fresh image's clusters are made by the run."
	echo
	awk "$(cat bench/tables.awk)"'
	function ratio(a, b) { return a > 0 && b > 0 ? sprintf("%.2f", a / b) : "none" }
	function rate(v, unit) { return v < 0 ? "none" : sprintf("%.0f %s", v, unit) }
	function time(v) { return v < 0 ? "none" : sprintf("%.2f s", v / 1e9) }
	function fio(name, label,   k, t, unit) {
		k = median("kage " name); t = median("tcg " name); unit = name ~ /rand/ ? "IOPS" : "MiB/s"
		if (k >= 0 || t >= 0) printf "| %s | %s | %s | %s |\n", label, rate(k, unit), rate(t, unit), ratio(k, t)
	}
	function timed(name, label,   k, t) {
		k = median("kage " name); t = median("tcg " name)
		if (k >= 0 || t >= 0) printf "| %s | %s | %s | %s |\n", label, time(k), time(t), ratio(t, k)
	}
	{ add($1 " " $2, $3) }
	END {
		print "| | kage | QEMU TCG | times as fast |"
		print "|---|--:|--:|--:|"
		n = split("raw qcow2", formats, " ")
		for (i = 1; i <= n; i++) {
			fio(formats[i] "-randread", formats[i] ", 4 KiB random read")
			fio(formats[i] "-randwrite", formats[i] ", 4 KiB random write")
			fio(formats[i] "-read", formats[i] ", 1 MiB sequential read")
			fio(formats[i] "-write", formats[i] ", 1 MiB sequential write")
		}
		fio("fresh-randwrite", "fresh qcow2, 4 KiB random write")
		fio("fresh-write", "fresh qcow2, 1 MiB sequential write")
		timed("boot-login", "Debian from its disk, exec to the login prompt")
		print "\n| `kage img`, and qemu-img | kage img | qemu-img | times as fast |"
		print "|---|--:|--:|--:|"
		timed("convert-qcow2", "convert raw to qcow2, 512 MiB")
		timed("convert-raw", "convert qcow2 to raw")
		timed("convert-compressed", "convert -c raw to qcow2")
		timed("convert-uncompressed", "convert compressed qcow2 to raw")
	}' "$work/rows"
} >"$work/table"
[ ! -s "$work/errors" ] || { echo "bench: messages of the VMMs:" >&2; sort "$work/errors" | uniq -c | tail -n 10 >&2; }
bench/markers.sh "$BENCH_OUT" 'bench disk' "$work/table" '## Disks'
cat "$work/table"
