#!/bin/sh
# SPDX-License-Identifier: MIT
# `make soak`, for SOAK_MINUTES (30): boot, parallel stress, reboot by the guest, again, in one kage that builds its machine anew
# each time; on each board, kernel and number of processors of the table below in turn, for SOAK_CYCLES (5) boots. Between the
# turns, the boots and programs of the system tests, and random work on disk images. Stops at the first failure, or at a boot that takes longer than
# SOAK_LIMIT (180) seconds, and keeps what it printed. Usage: soak.sh BUILD-DIR
set -u
cd "$(dirname "$0")/.." || exit 1
GUEST_PROGS=$1/tests/system/guest-progs
export GUEST_PROGS
: "${KAGE:=$1/kage}" "${SOAK_MINUTES:=30}" "${SOAK_CYCLES:=5}" "${SOAK_LIMIT:=180}"
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
export KAGE CACHE KAGE_TEST_BOOTS=1 KAGE_TEST_SMP_BOOTS=1
tools/fetch-guest.sh || exit 1

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
	for script in boot progs smp; do
		[ "$(date +%s)" -lt "$end" ] || break
		tests/system/$script.sh >"$work/log" 2>&1 || failed "tests/system/$script.sh failed"
	done
	# Disk images: other random sequences in each round.
	for program in ops crash errors; do
		[ "$(date +%s)" -lt "$end" ] || break
		"$1/tests/block/block-$program" -s $((10000 + rounds * 1000)) -n 300 >"$work/log" 2>&1 || failed "block-$program failed"
	done
	rounds=$((rounds + 1))
	echo "soak: round $rounds: $cycles boots, $(($(date +%s) - started)) s"
done
echo "soak: passed: $cycles boots with stress and reboot, the slowest in $slowest s; $rounds rounds"
