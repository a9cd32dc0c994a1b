#!/bin/sh
# SPDX-License-Identifier: MIT
# `make bench`: the same static programs native, in kage (-accel soft) and in QEMU TCG, interleaved, medians of
# BENCH_RUNS (5); boot from exec to init's first line; memory; code expansion. Writes the table between the
# markers of docs/performance.md, and prints it. Never judges a time.
# Usage: run.sh BUILD-DIR. Environment: KAGE, CACHE, QEMU, BENCH_RUNS, BENCH_ONLY (names), BENCH_OUT, BENCH_TIMEOUT (seconds a boot).
set -eu
cd "$(dirname "$0")/.."
build=$1
: "${KAGE:=$build/kage}" "${QEMU:=qemu-system-x86_64}" "${BENCH_RUNS:=5}" "${BENCH_ONLY:=}" "${BENCH_OUT:=docs/performance.md}" "${BENCH_TIMEOUT:=600}"
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
export CACHE
memory=512
bench=$build/bench/kage-bench
stamp=$build/bench/kage-stamp
tools/fetch-guest.sh cloud busybox
kernel=$CACHE/cloud/vmlinuz

work=$(mktemp -d)
trap 'rm -rf "$work"; rm -f /tmp/kage-bench.input' EXIT
trap 'exit 1' INT TERM
# Native runs use the guest's busybox too.
ln -s "$CACHE/busybox" "$work/busybox"
cp "$bench" "$work/kage-bench" && strip "$work/kage-bench"
tools/mkinitramfs.sh -o "$work/bench.cpio" -c "echo 'kage: settled'; kage-bench $BENCH_ONLY" "$work/kage-bench"
tools/mkinitramfs.sh -o "$work/boot.cpio" -c "echo 'kage: settled'; sleep 1"

# vmm WHICH INITRD [options...]: the same microvm in both. A boot that hangs is counted and tried again.
vmm() {
	which=$1 initrd=$2
	shift 2
	set -- -m ${memory}M -kernel "$kernel" -initrd "$initrd" -append "console=ttyS0 quiet panic=-1" -nographic -no-reboot "$@"
	case $which in
	kage) set -- "$KAGE" run -accel soft -machine microvm "$@" ;;
	tcg) set -- "$QEMU" -M microvm -accel tcg -cpu max "$@" ;;
	esac
	for try in 1 2 3; do
		status=0
		timeout -k 5 "$BENCH_TIMEOUT" "$stamp" "$memory" "$@" </dev/null >"$work/out" 2>>"$work/errors" || status=$?
		[ $status = 3 ] || break
		echo "$which hung $try" >>"$work/rows"
	done
	tr -d '\r' <"$work/out"
}

# Rows of raw results: "WHICH NAME VALUE [CHECK]".
record() { awk -v which="$1" '$1 == "bench" && $3 != "failed" { print which, $2, $3, $4 } $1 == "boot_ms" || $1 == "rss_kib" { print which, $1, $2 }' >>"$work/rows"; }
: >"$work/rows"
run=1
while [ "$run" -le "$BENCH_RUNS" ]; do
	echo "bench: run $run of $BENCH_RUNS" >&2
	# shellcheck disable=SC2086
	PATH=$work:$PATH "$work/kage-bench" $BENCH_ONLY | record native
	for which in kage tcg; do
		vmm $which "$work/bench.cpio" | grep '^bench ' | record $which
		vmm $which "$work/boot.cpio" | record $which
	done
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
	awk '
	function median(key,   n, i, j, t, v) {
		n = count[key]
		if (!n) return -1
		for (i = 1; i <= n; i++) v[i] = value[key, i]
		for (i = 2; i <= n; i++) { t = v[i]; for (j = i - 1; j > 0 && v[j] > t; j--) v[j+1] = v[j]; v[j+1] = t }
		return n % 2 ? v[(n+1)/2] : (v[n/2] + v[n/2+1]) / 2
	}
	function show(ns) {
		if (ns < 0) return "none"
		if (ns >= 1e9) return sprintf("%.2f s", ns / 1e9)
		if (ns >= 1e6) return sprintf("%.2f ms", ns / 1e6)
		if (ns >= 1e3) return sprintf("%.2f us", ns / 1e3)
		return sprintf("%.1f ns", ns)
	}
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
	{
		key = $1 " " $2; value[key, ++count[key]] = $3
		if ($4 != "") { if ($2 in check && check[$2] != $4) differs[$2] = 1; check[$2] = $4 }
	}
	END {
		compute = "shell-loop sha256sum gzip-9 qsort matrix interpreter pointer-chase"
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
begin='<!-- bench: begin -->'
end='<!-- bench: end -->'
if [ ! -f "$BENCH_OUT" ]; then
	printf '# Performance\n\nWritten by `make bench`; what stands between the markers is replaced by each run.\n\n%s\n%s\n' "$begin" "$end" >"$BENCH_OUT"
fi
awk -v begin="$begin" -v end="$end" -v table="$work/table" '
	$0 == begin { print; while ((getline line < table) > 0) print line; skipping = 1; next }
	$0 == end { skipping = 0 }
	!skipping' "$BENCH_OUT" >"$work/new"
cat "$work/new" >"$BENCH_OUT"
cat "$work/table"
