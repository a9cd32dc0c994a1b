#!/bin/sh
# SPDX-License-Identifier: MIT
# `make soak`, for SOAK_MINUTES (30): boot, parallel stress, reboot by the guest, again, in one kage that builds its machine anew
# each time; on each board, kernel and number of processors of the table below in turn, for SOAK_CYCLES (5) boots. Between the
# turns, for each MMU, page tables that change under several processors and permissions of pages (tests/guest), other samples of
# them each time, and the system tests; the stress of mmu.sh for 20 seconds a boot; random work on disk images, and kage killed
# 50 times under guests that write. Stops at the first failure, or at a boot that takes longer than
# SOAK_LIMIT (180) seconds, and keeps what it printed. Usage: soak.sh BUILD-DIR
set -u
cd "$(dirname "$0")/.." || exit 1
GUEST_PROGS=$1/tests/system/guest-progs TEST_KERNELS=$1/tests/system/kernels TEST_TOOLS=$1/tests/system
export GUEST_PROGS TEST_KERNELS TEST_TOOLS
: "${KAGE:=$1/kage}" "${SOAK_MINUTES:=30}" "${SOAK_CYCLES:=5}" "${SOAK_LIMIT:=180}"
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
export KAGE CACHE KAGE_TEST_BOOTS=1 KAGE_TEST_SMP_BOOTS=1 MMU_TEST_SECONDS=20
guest="$1/tests/guest/guest-runner --index tests/guest/index.txt --images $1/tests/guest --backend soft --verbose"
tools/fetch-guest.sh || exit 1
tools/fetch-guest.sh debian-generic || exit 1

# board processors kernel program
turns="microvm 4 cloud guest-parallel
pc 4 cloud guest-parallel
microvm 8 generic guest-parallel
microvm 4 686-pae guest32-parallel
microvm 1 cloud guest-parallel
microvm 2 686 guest32-parallel
microvm 4 cloud guest32-parallel
pc 2 generic guest-parallel"

work=$(mktemp -d)
pid=
# Whatever ends this ends its kage.
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
started=$(date +%s)
end=$((started + SOAK_MINUTES * 60)) cycles=0 rounds=0 slowest=0

stop() {
	kill "$pid" 2>/dev/null
	wait "$pid"
	pid=
}
failed() {
	[ -z "$pid" ] || stop
	log=$(mktemp)
	cp "$work/log" "$log"
	tail -n 40 "$log" | tr -d '\r'
	echo "soak: $1; $cycles boots passed before it; its output is in $log"
	exit 1
}

# turn BOARD PROCESSORS KERNEL PROGRAM
turn() {
	what="$3 kernel on $1, $2 processors, $4"
	if [ ! -x "$GUEST_PROGS/$4" ]; then
		echo "soak: $what: skipped, it was not built"
		return
	fi
	cp "$GUEST_PROGS/$4" "$work/$4" && strip "$work/$4"
	# Without a status the guest's init did not get to the end of the command: it reboots first.
	cache=$CACHE
	case $3 in 686*) cache=$CACHE/i386 ;; esac
	CACHE=$cache tools/mkinitramfs.sh -o "$work/initrd" -c "[ \$(nproc) = $2 ] && $4 3 &&
! dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|general protection|stall|lockup' && echo 'soak: good' && reboot -f; sleep 5" "$work/$4"
	"$KAGE" run -machine "$1" -smp "$2" -m 512M -kernel "$CACHE/$3/vmlinuz" -initrd "$work/initrd" \
		-append 'console=ttyS0 quiet panic=-1' -nographic </dev/null >"$work/log" 2>&1 &
	pid=$!
	good=0 since=$(date +%s)
	while [ "$good" -lt "$SOAK_CYCLES" ]; do
		sleep 1
		now=$(date +%s)
		seen=$(grep -ac '^soak: good' "$work/log")
		if [ "$seen" -gt "$good" ]; then
			[ $((now - since)) -le "$slowest" ] || slowest=$((now - since))
			cycles=$((cycles + seen - good)) good=$seen since=$now
		fi
		! grep -aqE '^kage: status|FAIL|Kernel panic' "$work/log" || failed "$what: a check failed"
		kill -0 "$pid" 2>/dev/null || failed "$what: kage ended"
		[ $((now - since)) -le "$SOAK_LIMIT" ] || failed "$what: no boot in $SOAK_LIMIT seconds: it hangs"
		[ "$now" -lt "$end" ] || break
	done
	stop
	echo "soak: $what: $good boots"
}

while [ "$(date +%s)" -lt "$end" ]; do
	while read -r board processors kernel program; do
		[ "$(date +%s)" -lt "$end" ] || break
		turn "$board" "$processors" "$kernel" "$program"
	done <<-T
		$turns
	T
	# The MMUs: the first argument of a line is the test, the second its argument. The clock is the seed.
	number=$(date +%s)
	for mmu in ept shadow; do
		while read -r test argument; do
			[ "$(date +%s)" -lt "$end" ] || break
			$guest --mmu $mmu --time 900 --test "$test" --arg "$argument" >"$work/log" 2>&1 ||
				failed "tests/guest: $test --arg $argument --mmu $mmu failed"
		done <<-T
			coherence $((number << 32 | 0x403e8))
			coherence-one $((number << 32 | 0x103e8))
			perm-4-level $((0x100000000 | number % 97 << 20 | 97))
			perm-5-level $((0x200000000 | number % 193 << 20 | 193))
			perm-32-bit $((0x10000000 | number % 17 << 16 | 17))
			perm-pae $((0x20000000 | number % 17 << 16 | 17))
		T
		export KAGE_TEST_MMU=$mmu
		for script in boot progs smp firmware qemu; do
			[ "$(date +%s)" -lt "$end" ] || break
			tests/system/$script.sh >"$work/log" 2>&1 || failed "tests/system/$script.sh with the MMU $mmu failed"
		done
		unset KAGE_TEST_MMU
	done
	# Disk images: other random sequences in each round.
	for program in ops crash errors nbd; do
		[ "$(date +%s)" -lt "$end" ] || break
		"$1/tests/block/block-$program" -s $((10000 + rounds * 1000)) -n 300 >"$work/log" 2>&1 || failed "block-$program failed"
	done
	[ "$(date +%s)" -ge "$end" ] || KILLS=50 KILL_SEED=$((20000 + rounds * 1000)) tests/system/kill.sh >"$work/log" 2>&1 || failed "tests/system/kill.sh failed"
	# Debian: four of 24 cells in each round.
	[ "$(date +%s)" -ge "$end" ] || KAGE_TEST_MATRIX=$rounds/6 tests/system/debian.sh >"$work/log" 2>&1 || failed "tests/system/debian.sh, part $rounds of 6, failed"
	[ "$(date +%s)" -ge "$end" ] || tests/system/mmu.sh >"$work/log" 2>&1 || failed "tests/system/mmu.sh failed"
	rounds=$((rounds + 1))
	echo "soak: round $rounds: $cycles boots, $(($(date +%s) - started)) s"
done
echo "soak: passed: $cycles boots with stress and reboot, the slowest in $slowest s; $rounds rounds"
