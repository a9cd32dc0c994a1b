#!/bin/sh
# SPDX-License-Identifier: MIT
# `kage inspect` of a booted kernel, under `kage run` and in QEMU under `kage kvm`: where it says a page is, is where the guest's own kernel
# says it is (/proc/self/pagemap, /proc/kallsyms with /proc/iomem), where QEMU says it is (gva2gpa, gpa2hva), and where its bytes are found
# in the process' memory. And the sockets: which VM is meant, and what is left when one has ended.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz
: "${GUEST_PROGS:=build/tests/system/guest-progs}"
kernel=$CACHE/cloud/vmlinuz
# The user may have other VMs.
dir=$work/run
export KAGE_INSPECT="$dir" LC_ALL=C.UTF-8
pids=
put_away() {
	for _pid in $pids; do kill -9 "$_pid" 2>/dev/null; done
	pids=
}
trap 'put_away; rm -rf "$work"' EXIT

# ended PID: is gone within some seconds
ended() {
	_left=100
	while kill -0 "$1" 2>/dev/null && [ $_left -gt 0 ]; do
		_left=$((_left - 1))
		sleep 0.1
	done
	! kill -0 "$1" 2>/dev/null
}
# await LOG REGEX
await() {
	_left=600
	until has "$1" "$2"; do
		_left=$((_left - 1))
		[ $_left -gt 0 ] || return 1
		sleep 0.1
	done
}
check() {
	_name=$1
	shift
	if "$@" >"$work/check" 2>&1; then pass "$_name"; else fail "$_name" "$work/check"; fi
}
inspect() { timeout 30 "$KAGE" inspect "$@"; }
# member NAME FILE: of the outermost JSON object
member() { sed -n "s/^  \"$1\": \"*\([^\",]*\)\"*,*\$/\1/p" "$2"; }

cp "$GUEST_PROGS/guest-pagemap" "$work/" && strip "$work/guest-pagemap"
guest_initrd "$work/initrd" cloud 'grep -E " (_text|linux_banner|jiffies)$" /proc/kallsyms | sed "s/^/symbol: /"
sed -n "s/^ *\([0-9a-f]*\)-.*: Kernel code/kernel: \1/p" /proc/iomem
guest-pagemap' "$work/guest-pagemap"

# page NAME VIRTUAL PHYSICAL RIGHTS PATTERN: does kage inspect say the same, and are the bytes there? Whoever runs on the processor at
# the moment may be another process: it is asked again.
page() {
	_tries=20
	while [ $_tries -gt 0 ]; do
		_tries=$((_tries - 1))
		inspect "$pid" --cpu 0 --gva "$2" --json >"$work/json" || return 1
		_gpa=$(member gpa "$work/json")
		if [ "$3" = 0 ]; then
			[ -z "$_gpa" ] && [ -n "$(member page_fault_error "$work/json")" ] && return 0
		elif [ "$_gpa" = "0x$3" ] && [ "$(member rights "$work/json")" = "$4" ]; then
			bytes_at "$(member host "$work/json")" "$5"
			return
		fi
		sleep 0.2
	done
	cat "$work/json"
	return 1
}
# bytes_at HOST PATTERN: in the process' memory
bytes_at() {
	dd if="/proc/$pid/mem" bs=8 count=1 iflag=skip_bytes skip="$(($1))" 2>/dev/null | od -An -tx8 | grep -Fxq " $2"
}

# agrees NAME MMU: what all VMs are asked, once the guest has spoken
agrees() {
	tr -d '\r' <"$log" | grep '^page ' >"$work/pages"
	while read -r _ name virtual physical rights pattern; do
		check "$1: page $name is where the guest has it" page "$name" "$virtual" "$physical" "$rights" "$pattern"
	done <"$work/pages"
	[ "$(wc -l <"$work/pages")" = 6 ] || fail "$1: six pages" "$log"
	# The kernel's image lies in one piece: a symbol is as far from its start as in the linear addresses.
	code=$(tr -d '\r' <"$log" | sed -n 's/^kernel: //p')
	text=$(tr -d '\r' <"$log" | sed -n 's/^symbol: \([0-9a-f]*\) . _text$/\1/p')
	for symbol in _text linux_banner jiffies; do
		at=$(tr -d '\r' <"$log" | sed -n "s/^symbol: \([0-9a-f]*\) . $symbol\$/\1/p")
		inspect "$pid" --gva "$at" --json >"$work/json" 2>&1
		expected=$(printf '0x%x' $((0x$code + 0x${at#ffffffff} - 0x${text#ffffffff}))) # the shell's numbers have 63 bits
		if [ -n "$at" ] && [ "$(member gpa "$work/json")" = "$expected" ]; then
			pass "$1: $symbol at $at is at $expected"
		else
			fail "$1: $symbol at $at is at $expected" "$work/json"
		fi
	done
	inspect "$pid" --gva "$(tr -d '\r' <"$log" | sed -n 's/^symbol: \([0-9a-f]*\) . linux_banner$/\1/p')" --json >"$work/json"
	check "$1: the bytes of linux_banner" banner
	# Text: of every topic, and no line is longer than the width of a file.
	for topic in "" vmcs "$2" tlb slots exits "exits --cpu 0" "tlb --all" "--gpa 1000000" "$2 --gva 0"; do
		# shellcheck disable=SC2086
		check "$1: kage inspect $topic" shows $topic
	done
	for topic in "" vmcs "$2" tlb slots exits "--gva 0"; do
		# shellcheck disable=SC2086
		check "$1: kage inspect $topic --json" is_json $topic
	done
	inspect "$pid" exits --interval 0.5 --count 2 >"$work/rates" 2>&1
	check "$1: exits a second" grep -q 'a second' "$work/rates"
	inspect "$pid" exits --interval 0.2 --count 3 --json >"$work/rates" 2>&1
	check "$1: three lines of JSON at intervals" [ "$(grep -c '^{.*}$' "$work/rates")" = 3 ]
	check "$1: the processor is in user mode" in_user_mode
	other=shadow
	[ "$2" = ept ] || other=ept
	! inspect "$pid" $other >"$work/out" 2>&1
	check "$1: there is nothing of $other" grep -q 'not with the MMU' "$work/out"
	inspect "$pid" --json >"$work/json"
	check "$1: it is $2" [ "$(member mmu "$work/json")" = "$2" ]
	! inspect "$pid" vmcs --cpu 77 >"$work/out" 2>&1
	check "$1: there is no processor 77" grep -q 'no such processor' "$work/out"
}
banner() { dd if="/proc/$pid/mem" bs=14 count=1 iflag=skip_bytes skip="$(($(member host "$work/json")))" 2>/dev/null | grep -q '^Linux version '; }
shows() {
	inspect "$pid" "$@" >"$work/text" || return 1
	[ -s "$work/text" ] && ! grep -E '.{101}' "$work/text" && ! grep ' $' "$work/text"
}
is_json() {
	inspect "$pid" "$@" --json >"$work/json" || return 1
	[ "$(member kage_inspect "$work/json")" = 1 ] && [ "$(member pid "$work/json")" = "$pid" ] && [ "$(tail -n 1 "$work/json")" = "}" ]
}
in_user_mode() {
	for _ in 1 2 3 4 5 6 7 8 9; do
		inspect "$pid" --json >"$work/json" || return 1
		grep -q '"cpl": 3' "$work/json" && return 0
		sleep 0.2
	done
	return 1
}

# ---- kage run ----

# The last one stays.
for mmu in shadow ept; do
	put_away
	log=$work/log1
	"$KAGE" run -machine mmu=$mmu -m 256M -smp 1 -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1" -nographic -no-reboot \
		</dev/null >"$log" 2>&1 &
	pid=$!
	pids=$pid
	if await "$log" '^pagemap: done$'; then
		agrees "kage run, $mmu" $mmu
	else
		fail "the guest under kage run, $mmu, speaks" "$log"
	fi
done
check "a socket will do for a name" inspect "$dir/$pid.sock" slots
check "the only VM needs no name" inspect
check "the directory is the user's own" [ "$(stat -c %a "$dir")" = 700 ]

# ---- Two VMs, and ends ----

"$KAGE" run -m 256M -smp 2 -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1" -nographic </dev/null >"$work/log2" 2>&1 &
second=$!
pids="$pids $second"
await "$work/log2" '^pagemap: done$' || fail "a second guest speaks" "$work/log2"
! inspect slots >"$work/out" 2>&1
check "of two VMs one must be chosen" grep -q "2 virtual machines run: say which" "$work/out"
check "both are listed" [ "$(inspect --list | grep -c "^ *\($pid\|$second\) ")" = 2 ]
kill -TERM "$second"
ended "$second"
check "one that has ended leaves nothing" [ ! -e "$dir/$second.sock" ]
kill -9 "$pid"
ended "$pid"
check "one that was killed leaves its socket" [ -S "$dir/$pid.sock" ]
! inspect >"$work/out" 2>&1
check "which is then not taken for a VM" grep -q 'no virtual machine of yours runs' "$work/out"
check "and goes away" [ ! -e "$dir/$pid.sock" ]
KAGE_INSPECT=0 "$KAGE" run -m 256M -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1" -nographic </dev/null >"$work/log2" 2>&1 &
pids=$!
await "$work/log2" '^kage: init$' || fail "a third guest speaks" "$work/log2"
check "KAGE_INSPECT=0 leaves the socket out" [ -z "$(ls "$dir")" ]
put_away

# ---- A machine that resets ----

guest_initrd "$work/initrd-reboot" cloud 'echo up; sleep 2; reboot -f; sleep 100'
log=$work/log4
"$KAGE" run -m 256M -kernel "$kernel" -initrd "$work/initrd-reboot" -append "console=ttyS0 quiet panic=-1" -nographic </dev/null >"$log" 2>&1 &
pid=$!
pids=$pid
_left=600
until [ "$(tr -d '\r' <"$log" | grep -c '^up$')" -ge 3 ] || [ $_left = 0 ]; do
	inspect "$pid" slots >>"$work/resets" 2>&1 # whenever it is, also while there is no machine
	_left=$((_left - 1))
	sleep 0.1
done
check "a machine that resets is looked at all the while" [ "$(grep -c 'Memory slots' "$work/resets")" -ge 3 ]
check "and says so when there is none" [ -z "$(grep -Ev 'Memory slots|guest-physical|^ +0 |no virtual machine on the soft back end' "$work/resets")" ]
check "after its resets, too" inspect "$pid" --gva 0
put_away

# ---- QEMU under kage kvm ----

if ! command -v qemu-system-x86_64 >/dev/null || [ ! -e "$(dirname "$KAGE")/preload/libkage-preload.so" ]; then
	skip "QEMU under kage kvm" "there is no QEMU, or no libkage-preload.so"
	summary
fi
log=$work/log3
mkfifo "$work/mon.in" "$work/mon.out"
cat "$work/mon.out" >"$work/mon" &
exec 4<>"$work/mon.in"
"$KAGE" kvm -- qemu-system-x86_64 -accel kvm -M q35 -cpu host -m 256M -nodefaults -no-user-config -nographic -serial stdio \
	-chardev "pipe,id=mon,path=$work/mon" -mon mon -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1" \
	</dev/null >"$log" 2>&1 &
pid=$!
pids=$pid
# QEMU's own view of an address: its monitor's last line that says so
monitor() {
	_from=$(wc -l <"$work/mon")
	printf '%s\n' "$1" >&4
	_left=50
	until tail -n +$((_from + 1)) "$work/mon" | tr -d '\r' | grep -E "$2"; do
		_left=$((_left - 1))
		[ $_left -gt 0 ] || return 1
		sleep 0.1
	done
}
if await "$log" '^pagemap: done$'; then
	agrees "QEMU" ept
	at=$(tr -d '\r' <"$log" | sed -n 's/^symbol: \([0-9a-f]*\) . linux_banner$/\1/p')
	inspect "$pid" --gva "$at" --json >"$work/json"
	gpa=$(member gpa "$work/json")
	host=$(member host "$work/json")
	monitor "gva2gpa 0x$at" '^gpa: ' >"$work/out"
	check "QEMU's gva2gpa says the same" grep -q "^gpa: $gpa\$" "$work/out"
	monitor "gpa2hva $gpa" '^Host virtual address' >"$work/out"
	check "QEMU's gpa2hva says the same" grep -q " is $host\$" "$work/out"
	check "QEMU goes on" monitor 'info registers' '^CR0='
	# All signals but SIGILL, SIGBUS, SIGFPE and SIGSEGV; nobody can block SIGKILL, SIGSTOP and the C library's two.
	blocked=$(grep -l '^kage-inspect$' "/proc/$pid/task/"*/comm | sed 's/comm$/status/' | xargs sed -n 's/^SigBlk:[[:space:]]*//p')
	check "its signals are its own" [ "$blocked" = fffffffe7ffbfa37 ]
	check "its descriptors are its own" [ "$(find "/proc/$pid/fd" -lname 'socket:*' | wc -l)" = 0 ]
	monitor quit nothing >/dev/null
	ended "$pid"
	check "QEMU that has quit leaves nothing" [ ! -e "$dir/$pid.sock" ]
else
	fail "the guest in QEMU speaks" "$log"
fi
summary
