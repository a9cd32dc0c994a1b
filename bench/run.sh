#!/bin/sh
# SPDX-License-Identifier: MIT
# `make bench`: the same static programs native, in kage (-accel soft) and in QEMU TCG, interleaved, medians of
# BENCH_RUNS (5); boot from exec to init's first line; memory; code expansion. Then two threads on one processor and on
# two, the compute programs in 32-bit code, SeaBIOS from exec to the end of its search for a boot device, the same QEMU with
# TCG and on libkage, and what exits cost a KVM client. Writes the
# tables between the markers of docs/performance.md, and prints them; a run of only some of these sets or programs prints them alone, unless BENCH_OUT
# names a page, so that no table of the page is lost. Never judges a time. The set mmu is mmu.sh's, with a page of its own, the set disk disk.sh's.
# Usage: run.sh BUILD-DIR. Environment: KAGE, CACHE, QEMU, BENCH_RUNS, BENCH_SETS (of main smp i386 firmware qemu exits mmu disk),
# BENCH_ONLY (names in main), BENCH_OUT, BENCH_TIMEOUT (seconds a boot), BIOS.
set -eu
cd "$(dirname "$0")/.."
build=$1
: "${KAGE:=$build/kage}" "${QEMU:=qemu-system-x86_64}" "${BENCH_RUNS:=5}" "${BENCH_ONLY:=}" "${BENCH_OUT:=}" "${BENCH_TIMEOUT:=600}"
: "${BENCH_SETS:=main smp i386 firmware qemu exits mmu disk}" "${BIOS:=/usr/share/seabios/bios-256k.bin}"
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
export CACHE
export KAGE BENCH_RUNS BENCH_TIMEOUT
case " $BENCH_SETS " in *" mmu "*) bench/mmu.sh "$build" ;; esac
case " $BENCH_SETS " in *" disk "*) bench/disk.sh "$build" ;; esac
others=$(echo " $BENCH_SETS " | sed 's/ mmu / /; s/ disk / /')
[ -n "${others# }" ] || exit 0
memory=512
bench=$build/bench/kage-bench
stamp=$build/bench/kage-stamp
compute="shell-loop sha256sum gzip-9 qsort matrix interpreter pointer-chase"
parallel="two-qsort two-interpreter two-pointer-chase"
tools/fetch-guest.sh cloud busybox i386
kernel=$CACHE/cloud/vmlinuz
# Linux under TCG often fails to calibrate its TSC, and then hangs: it is told the rate, which is the host's.
tsc=$(awk '/^cpu MHz/ { printf "tsc_early_khz=%d", $4 * 1000; exit }' /proc/cpuinfo)

work=$(mktemp -d)
trap 'rm -rf "$work"; rm -f /tmp/kage-bench.input' EXIT
trap 'exit 1' INT TERM
# Native runs use the guest's busybox too.
ln -s "$CACHE/busybox" "$work/busybox"
cp "$bench" "$work/kage-bench" && strip "$work/kage-bench"
tools/mkinitramfs.sh -o "$work/bench.cpio" -c "echo 'kage: settled'; kage-bench $BENCH_ONLY" "$work/kage-bench"
tools/mkinitramfs.sh -o "$work/boot.cpio" -c "echo 'kage: settled'; sleep 1"
tools/mkinitramfs.sh -o "$work/smp.cpio" -c "kage-bench $parallel" "$work/kage-bench"
# 32-bit programs under the 64-bit kernel; the busybox that they start is one, too.
if [ -x "$build/bench/kage-bench32" ]; then
	mkdir "$work/bin32"
	ln -s "$CACHE/i386/busybox" "$work/bin32/busybox"
	cp "$build/bench/kage-bench32" "$work/bin32/" && strip "$work/bin32/kage-bench32"
	tools/mkinitramfs.sh -o "$work/i386.cpio" -c "PATH=/bin32:\$PATH kage-bench32 $compute" "$CACHE/i386/busybox:bin32/busybox" \
		"$work/bin32/kage-bench32:bin32/kage-bench32"
fi

# vmm WHICH INITRD [options...]: the same microvm in both. A boot that hangs is counted and tried again.
vmm() {
	which=$1 initrd=$2
	shift 2
	set -- -m ${memory}M -kernel "$kernel" -initrd "$initrd" -append "console=ttyS0 quiet panic=-1 $tsc" -nographic -no-reboot "$@"
	case $which in
	kage) set -- "$KAGE" run -accel soft -machine microvm "$@" ;;
	# With rtc=auto that board has no clock under KVM, and Linux looks for it for a second.
	tcg) set -- "$QEMU" -M microvm,rtc=on -accel tcg -cpu max "$@" ;;
	qemu) set -- "$KAGE" kvm -- "$QEMU" -M microvm,rtc=on -accel kvm -cpu host "$@" ;;
	esac
	for try in 1 2 3; do
		status=0
		timeout -k 5 "$BENCH_TIMEOUT" "$stamp" "$memory" "$@" </dev/null >"$work/out" 2>>"$work/errors" || status=$?
		[ $status = 3 ] || break
		echo "$which hung $try" >>"$work/rows"
	done
	tr -d '\r' <"$work/out"
}

# firmware WHICH: the same firmware file on board pc, without devices that the other has not
firmware() {
	set -- "$1" "$stamp" -u 'No bootable device' -n seabios_ms 128
	case $1 in
	kage) shift; set -- "$@" "$KAGE" run -accel soft -machine pc -m 128M -bios "$BIOS" -nodefaults -serial none -debugcon stdio ;;
	tcg)
		shift
		set -- "$@" "$QEMU" -M pc -accel tcg -cpu max -m 128M -bios "$BIOS" -nodefaults -vga none -display none \
			-chardev stdio,id=debug -device isa-debugcon,iobase=0x402,chardev=debug
		;;
	esac
	timeout -k 5 "$BENCH_TIMEOUT" "$@" </dev/null 2>>"$work/errors" || :
}

# Rows of raw results: "WHICH NAME VALUE [CHECK]". record WHICH [SUFFIX of the names]
record() {
	awk -v which="$1" -v suffix="${2:-}" '
	$1 == "bench" && $3 != "failed" { print which, $2 suffix, $3, $4 }
	$1 ~ /_ms$/ || $1 == "rss_kib" { print which, $1, $2 }' >>"$work/rows"
}
set_wanted() { case " $BENCH_SETS " in *" $1 "*) return 0 ;; esac; return 1; }
: >"$work/rows"
run=1
while [ "$run" -le "$BENCH_RUNS" ]; do
	echo "bench: run $run of $BENCH_RUNS" >&2
	if set_wanted main; then
		# shellcheck disable=SC2086
		PATH=$work:$PATH "$work/kage-bench" $BENCH_ONLY | record native
		for which in kage tcg; do
			vmm $which "$work/bench.cpio" | grep '^bench ' | record $which
			vmm $which "$work/boot.cpio" | record $which
		done
	fi
	if set_wanted smp; then
		# shellcheck disable=SC2086
		{
			taskset -c 0 "$work/kage-bench" $parallel | record native @1
			"$work/kage-bench" $parallel | record native @2
		}
		for which in kage tcg; do
			for processors in 1 2; do
				vmm $which "$work/smp.cpio" -smp $processors | grep '^bench ' | record $which @$processors
			done
		done
	fi
	if set_wanted i386 && [ -f "$work/i386.cpio" ]; then
		# shellcheck disable=SC2086
		PATH=$work/bin32:$PATH "$work/bin32/kage-bench32" $compute | record native /32
		for which in kage tcg; do
			vmm $which "$work/i386.cpio" | grep '^bench ' | record $which /32
		done
		if ! set_wanted main; then
			# shellcheck disable=SC2086
			PATH=$work:$PATH "$work/kage-bench" $compute | record native
			for which in kage tcg; do
				vmm $which "$work/bench.cpio" | grep '^bench ' | record $which
			done
		fi
	fi
	if set_wanted firmware && [ -f "$BIOS" ]; then
		for which in kage tcg; do
			firmware $which | record $which
		done
	fi
	if set_wanted qemu; then
		vmm qemu "$work/bench.cpio" | grep '^bench ' | record qemu
		vmm qemu "$work/boot.cpio" | record qemu
		if ! set_wanted main; then
			vmm tcg "$work/bench.cpio" | grep '^bench ' | record tcg
			vmm tcg "$work/boot.cpio" | record tcg
		fi
	fi
	if set_wanted exits; then
		"$build/bench/kage-exits" | awk '$1 == "exit" { print $2, $3, $4 }' >>"$work/rows"
	fi
	run=$((run + 1))
done
# Code expansion, of a boot, from kage's own counters.
vmm kage "$work/boot.cpio" -d stats -D "$work/stats" >/dev/null || :
[ -f "$work/stats" ] || : >"$work/stats"

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
{
	echo "Command: \`make bench\` (BENCH_RUNS=$BENCH_RUNS), $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo none)."
	echo "Machine: $cpu, $(nproc) processors, Linux $(uname -r); $("$QEMU" --version | head -n 1); guest $(cat "$CACHE/cloud/package")."
	echo
	awk -v compute="$compute" -v parallel="$parallel" "$(cat bench/tables.awk)"'
	function ratio(a, b) { return a > 0 && b > 0 ? sprintf("%.2f", a / b) : "none" }
	function geomean(names, label,   n, list, i, sum, used, s2) {
		n = split(names, list, " ")
		for (i = 1; i <= n; i++) {
			k = median("kage " list[i]); t = median("tcg " list[i]); h = median("native " list[i])
			if (k > 0 && t > 0 && h > 0) { sum += log(t / k); s2 += log(k / h); used++ }
		}
		if (used) printf "| **%s, geometric mean** | | | | **%.2f** | **%.2f** |\n", label, exp(sum / used), exp(s2 / used)
	}
	function row(name,   h, k, t) {
		h = median("native " name); k = median("kage " name); t = median("tcg " name)
		if (h < 0 && k < 0 && t < 0) return
		printf "| %s%s | %s | %s | %s | %s | %s |\n", name, differs[name] ? " (results differ)" : "", show(h), show(k), show(t), ratio(t, k), ratio(k, h)
	}
	# Two threads on one processor, and on two.
	function row_smp(name, which, label,   one, two) {
		one = median(which " " name "@1"); two = median(which " " name "@2")
		if (one < 0 && two < 0) return
		printf "| %s, %s | %s | %s | %s |\n", name, label, show(one), show(two), ratio(one, two)
		if (one > 0 && two > 0) { smp_sum[which] += log(one / two); smp_used[which]++ }
	}
	function row_32(name,   h, k, t, h64, k64) {
		h = median("native " name "/32"); k = median("kage " name "/32"); t = median("tcg " name "/32")
		if (h < 0 && k < 0 && t < 0) return
		h64 = median("native " name); k64 = median("kage " name)
		printf "| %s | %s | %s | %s | %s | %s | %s | %s |\n", name, show(h), show(k), show(t), ratio(t, k), ratio(k, h), ratio(k, k64), ratio(h, h64)
		if (h > 0 && k > 0 && t > 0 && h64 > 0 && k64 > 0) {
			sum32[1] += log(t / k); sum32[2] += log(k / h); sum32[3] += log(k / k64); sum32[4] += log(h / h64); sum32[5] += log(k64 / h64)
			used32++
		}
	}
	function row_qemu(name, unit,   q, t) {
		q = median("qemu " name); t = median("tcg " name)
		if (q < 0 || t < 0) return
		printf "| %s | %s | %s | %s |\n", name == "boot_ms" ? "boot, exec to the first line of init" : name, show(t * unit), show(q * unit), ratio(t, q)
		if (index(" " system_ " ", " " name " ") == 0) { sum_qemu += log(t / q); used_qemu++ }
	}
	{
		key = $1 " " $2; value[key, ++count[key]] = $3
		if ($4 != "") { if ($2 in check && check[$2] != $4) differs[$2] = 1; check[$2] = $4 }
	}
	END {
		system_ = "getppid pipe-ping-pong fork-exec mmap-touch"
		print "| | native | kage | QEMU TCG | times as fast as TCG | times native |"
		print "|---|--:|--:|--:|--:|--:|"
		n = split(compute, list, " "); for (i = 1; i <= n; i++) row(list[i])
		geomean(compute, "compute")
		n = split(system_, list, " "); for (i = 1; i <= n; i++) row(list[i])
		geomean(system_, "kernel")
		k = median("kage boot_ms"); t = median("tcg boot_ms")
		printf "| boot, exec to the first line of init | | %s | %s | %s | |\n", show(k < 0 ? -1 : k * 1e6), show(t < 0 ? -1 : t * 1e6), ratio(t, k)
		k = median("kage rss_kib"); t = median("tcg rss_kib")
		if (count["kage hung"] + count["tcg hung"])
			printf "| boots that hung, not counted | | %d | %d | | |\n", count["kage hung"], count["tcg hung"]
		printf "| resident memory beyond guest RAM after boot | | %s | %s | | |\n", k < 0 ? "none" : sprintf("%.1f MiB", k / 1024), t < 0 ? "none" : sprintf("%.1f MiB", t / 1024)
		k = median("kage seabios_ms"); t = median("tcg seabios_ms")
		if (k >= 0 || t >= 0)
			printf "| SeaBIOS on `pc`, exec to \"No bootable device\" | | %s | %s | %s | |\n", show(k < 0 ? -1 : k * 1e6), show(t < 0 ? -1 : t * 1e6), ratio(t, k)

		print "\nTwo threads that do half of the work each, with one virtual processor and with two:\n"
		print "| | one | two | times as fast |"
		print "|---|--:|--:|--:|"
		n = split("native kage tcg", list, " "); split("native,kage,QEMU TCG", label, ",")
		m = split(parallel, names, " ")
		for (j = 1; j <= m; j++) for (i = 1; i <= n; i++) row_smp(names[j], list[i], label[i])
		for (i = 1; i <= n; i++)
			if (smp_used[list[i]]) printf "| **%s, geometric mean** | | | **%.2f** |\n", label[i], exp(smp_sum[list[i]] / smp_used[list[i]])

		print "\nThe compute programs in 32-bit code, under the same 64-bit kernel; the last two columns are 32-bit against 64-bit:\n"
		print "| | native | kage | QEMU TCG | times as fast as TCG | times native | kage, times 64-bit | native, times 64-bit |"
		print "|---|--:|--:|--:|--:|--:|--:|--:|"
		n = split(compute, list, " "); for (i = 1; i <= n; i++) row_32(list[i])
		if (used32) {
			for (i = 1; i <= 5; i++) mean[i] = exp(sum32[i] / used32)
			printf "| **geometric mean** | | | | **%.2f** | **%.2f** | **%.2f** | **%.2f** |\n", mean[1], mean[2], mean[3], mean[4]
			printf "\nSlowdown against native of 32-bit code, by that of 64-bit code: %.2f.\n", mean[2] / mean[5]
		}

		print "\nThe same QEMU on board `microvm`, with its TCG and on libkage (`kage kvm -- qemu-system-x86_64 -accel kvm`):\n"
		print "| | TCG | libkage | times as fast |"
		print "|---|--:|--:|--:|"
		n = split(compute " " system_, list, " ")
		for (i = 1; i <= n; i++) row_qemu(list[i], 1)
		row_qemu("boot_ms", 1e6)
		if (used_qemu) printf "| **geometric mean of the compute programs and the boot** | | | **%.2f** |\n", exp(sum_qemu / used_qemu)

		print "\nAn exit and the way back, for a KVM client (ioeventfd and CPUID: handled by KVM, the client does not see them):\n"
		print "| | libkage | the kernel\x27s /dev/kvm |"
		print "|---|--:|--:|"
		n = split("pio-write pio-read mmio-write mmio-read ioeventfd-pio ioeventfd-mmio cpuid", list, " ")
		for (i = 1; i <= n; i++) {
			k = median("soft " list[i]); t = median("kvm " list[i])
			if (k >= 0 || t >= 0) printf "| %s | %s | %s |\n", list[i], show(k), show(t)
		}
	}' "$work/rows"
	awk '
	{ gsub(/[=:]/, " ") }
	$1 == "guest_code_bytes" { guest += $2 }
	$1 == "host_code_bytes" { host += $2 }
	END { if (guest > 0) printf "\nCode expansion over a boot: %.2f host bytes for each guest byte (%d / %d).\n", host / guest, host, guest }' "$work/stats"
} >"$work/table"

if [ -s "$work/errors" ]; then
	echo "bench: messages of the VMMs:" >&2
	sort "$work/errors" | uniq -c | tail -n 20 >&2
fi
if [ -z "$BENCH_OUT" ]; then
	BENCH_OUT=docs/performance.md
	for set in main smp i386 firmware qemu exits; do
		if ! set_wanted $set || [ -n "$BENCH_ONLY" ]; then
			cat "$work/table"
			echo "bench: a part of the sets: $BENCH_OUT is left as it is" >&2
			exit 0
		fi
	done
fi
[ -f "$BENCH_OUT" ] || printf '# Performance\n\nWritten by `make bench`; what stands between the markers is replaced by each run.\n' >"$BENCH_OUT"
bench/markers.sh "$BENCH_OUT" bench "$work/table" '## Measured'
cat "$work/table"
