#!/bin/sh
# SPDX-License-Identifier: MIT
# The set `mmu` of `make bench`: the same guest by EPT and by shadow page tables, interleaved, medians of BENCH_RUNS (5) of the times,
# with VM exits and page faults of the MMU for each, counted from outside (`kage inspect exits`) before and behind what is measured.
# Writes the table into docs/memory.md, and prints it. Usage: mmu.sh BUILD-DIR. Environment: KAGE, CACHE, BENCH_RUNS, BENCH_MMU_OUT,
# BENCH_MMU_ONLY (names; boot is one), BENCH_TIMEOUT (seconds a boot).
set -eu
cd "$(dirname "$0")/.."
build=$1
: "${KAGE:=$build/kage}" "${BENCH_RUNS:=5}" "${BENCH_MMU_OUT:=docs/memory.md}" "${BENCH_TIMEOUT:=600}"
: "${BENCH_MMU_ONLY:=boot fork-exec mmap-touch pipe-ping-pong chase-1g tlb-misses qsort matrix interpreter}"
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
export CACHE
tools/fetch-guest.sh cloud busybox
kernel=$CACHE/cloud/vmlinuz
benches=$(echo " $BENCH_MMU_ONLY " | sed 's/ boot / /')
tsc=$(awk '/^cpu MHz/ { printf "tsc_early_khz=%d", $4 * 1000; exit }' /proc/cpuinfo)

work=$(mktemp -d)
guard=
put_away() {
	[ -z "$guard" ] || { kill "$guard" 2>/dev/null || :; wait "$guard" || :; }
	guard=
}
trap 'put_away; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cp "$build/bench/kage-bench" "$work/" && strip "$work/kage-bench"
tools/mkinitramfs.sh -o "$work/boot.cpio" -c "echo 'kage: settled'; sleep 1"
tools/mkinitramfs.sh -o "$work/bench.cpio" -c "kage-bench -w $benches" "$work/kage-bench"
mkfifo "$work/serial"
cr=$(printf '\r') tab=$(printf '\t')

# counters: exits and faults so far of the guest that runs
counters() {
	"$KAGE" inspect "$(cat "$work/pid")" exits --json 2>/dev/null | awk -F'[:,]' '/"total"/ { exits = $2 } /"taken"/ { faults = $2 } END { print exits + 0, faults + 0 }'
}

# guest MODE INITRD: rows of the run. A boot's counters are those at init's last line.
guest() {
	mode=$1
	# Its own number, which is not that of timeout, is what `kage inspect` wants.
	timeout -k 5 "$BENCH_TIMEOUT" sh -c 'echo $$ >"$0"; exec "$@"' "$work/pid" "$KAGE" run -accel soft -machine "microvm,mmu=$mode" -m 2G \
		-kernel "$kernel" -initrd "$work/$2" -append "console=ttyS0 quiet panic=-1 $tsc" -nographic -no-reboot \
		</dev/null >"$work/serial" 2>>"$work/errors" &
	guard=$!
	before='0 0' rounds=1
	while IFS="$cr $tab" read -r word name value _; do
		case $word in
		kage:) [ "$name" != settled ] || { at=$(counters); echo "$mode boot exits $at 1" >>"$work/counts"; } ;;
		bench-begin) rounds=$value before=$(counters) ;;
		bench)
			at=$(counters)
			echo "$mode $name $value" >>"$work/rows"
			echo "$mode $name exits $((${at% *} - ${before% *})) $((${at#* } - ${before#* })) $rounds" >>"$work/counts"
			;;
		esac
	done <"$work/serial"
	put_away
}

run=1
: >"$work/rows"
: >"$work/counts"
while [ "$run" -le "$BENCH_RUNS" ]; do
	# In turns: what runs after a guest that has given much memory back pays the host for getting it again.
	modes='ept shadow'
	[ $((run % 2)) = 1 ] || modes='shadow ept'
	for mode in $modes; do
		echo "bench: mmu, run $run of $BENCH_RUNS, $mode" >&2
		case " $BENCH_MMU_ONLY " in
		*" boot "*)
			timeout -k 5 "$BENCH_TIMEOUT" "$build/bench/kage-stamp" 2048 "$KAGE" run -accel soft -machine "microvm,mmu=$mode" -m 2G -kernel "$kernel" \
				-initrd "$work/boot.cpio" -append "console=ttyS0 quiet panic=-1 $tsc" -nographic -no-reboot </dev/null 2>>"$work/errors" |
				awk -v mode="$mode" '$1 == "boot_ms" { print mode, "boot", $2 * 1e6 }' >>"$work/rows"
			guest "$mode" boot.cpio
			;;
		esac
		[ -z "${benches# }" ] || guest "$mode" bench.cpio
	done
	run=$((run + 1))
done

{
	echo "Command: \`make bench BENCH_SETS=mmu\` (BENCH_RUNS=$BENCH_RUNS), $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo none)."
	echo "Machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors, Linux $(uname -r); guest $(cat "$CACHE/cloud/package"), 2 GiB, one processor."
	echo "Exits and faults are of one round: a process, a page, a round trip, a load, a run; those of the boot are of all of it."
	echo
	awk -v names="$BENCH_MMU_ONLY" "$(cat bench/tables.awk)"'
	function number(v) { return v < 0 ? "none" : v >= 100 ? sprintf("%.0f", v) : v >= 0.0005 ? sprintf("%.3g", v) : "0" }
	$3 == "exits" { add($1 " exits " $2, $4 / $6); add($1 " faults " $2, $5 / $6); next }
	{ add($1 " " $2, $3) }
	END {
		print "| | ept | shadow | shadow / ept | exits, ept | exits, shadow | faults, ept | faults, shadow |"
		print "|---|--:|--:|--:|--:|--:|--:|--:|"
		n = split(names, list, " ")
		for (i = 1; i <= n; i++) {
			name = list[i]; e = median("ept " name); s = median("shadow " name)
			ratio = (e > 0 && s > 0) ? sprintf("%.2f", s / e) : "none"
			printf "| %s | %s | %s | %s | %s | %s | %s | %s |\n", name, show(e), show(s), ratio, number(median("ept exits " name)),
				number(median("shadow exits " name)), number(median("ept faults " name)), number(median("shadow faults " name))
		}
	}' "$work/rows" "$work/counts"
} >"$work/table"
[ ! -s "$work/errors" ] || { echo "bench: messages of kage:" >&2; sort "$work/errors" | uniq -c | tail -n 10 >&2; }
bench/markers.sh "$BENCH_MMU_OUT" 'bench mmu' "$work/table" '## What each costs'
cat "$work/table"
