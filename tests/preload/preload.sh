#!/bin/sh
# SPDX-License-Identifier: MIT
# Small KVM clients under `kage kvm`: descriptors, signals, --show-vmx, --path, --check, and what is refused.
: "${KAGE:=build/kage}" "${CLIENTS:=build/tests/preload}"
passed=0 failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

pass() {
	passed=$((passed + 1))
	echo "ok: $1"
}
fail() {
	failed=$((failed + 1))
	echo "FAIL: $1"
	sed 's/^/    /' "$work/out"
}
# runs NAME STATUS PATTERN kage-kvm-arguments...: the status, and a line of output like the pattern
runs() {
	_name=$1 _expected=$2 _pattern=$3
	shift 3
	timeout -k 5 60 "$KAGE" kvm "$@" </dev/null >"$work/out" 2>&1
	_status=$?
	if [ $_status = "$_expected" ] && grep -Eq -- "$_pattern" "$work/out"; then
		pass "$_name"
	else
		fail "$_name (status $_status, expected $_expected and a line like $_pattern)"
	fi
}
# client NAME kage-kvm-arguments...: a client that counts its own checks
client() {
	_name=$1
	shift
	timeout -k 5 60 "$KAGE" kvm "$@" </dev/null >"$work/out" 2>&1
	_status=$?
	_sum=$(grep -E '^[0-9]+ passed, [0-9]+ failed, 0 skipped$' "$work/out" | tail -n 1)
	if [ $_status != 0 ] || [ -z "$_sum" ]; then
		fail "$_name (status $_status)"
	else
		passed=$((passed + ${_sum%% *}))
		echo "ok: $_name: $_sum"
	fi
}

client descriptors -- "$CLIENTS/client-handles"
grep -q 'cannot be sent to another process' "$work/out" || fail "a refused SCM_RIGHTS is said"
client signals -- "$CLIENTS/client-signals"

virtual=no
grep -Eqw 'vmx|svm' /proc/cpuinfo && virtual=yes
runs "CPUID as it is" 0 "^virtualization: $virtual\$" -- "$CLIENTS/client-vmx"
runs "--show-vmx" 0 '^virtualization: yes$' --show-vmx -- "$CLIENTS/client-vmx"
runs "--show-vmx keeps other bytes" 0 '^bytes: kept$' --show-vmx -- "$CLIENTS/client-vmx" bytes

runs "--mmu ept" 0 '^virtualization:' --mmu ept -- "$CLIENTS/client-vmx"
runs "--mmu of another name" 1 "ept and shadow are there" --mmu soft -- "$CLIENTS/client-vmx"

# The path need not exist, and /dev/kvm is then the system's own.
runs "--path" 0 '^crw.* 10, 232 .*/no/such/kvm$' --path /no/such/kvm -- ls -l /no/such/kvm
runs "PATH is searched" 0 '^crw.* 10, 232 .*/dev/kvm$' ls -l /dev/kvm
LD_PRELOAD='' runs "LD_PRELOAD of the user's own is kept" 0 'libkage-preload.so:/no/such.so$' -- sh -c 'LD_PRELOAD=$LD_PRELOAD:/no/such.so; echo "$LD_PRELOAD"'

runs "--check" 0 '^-accel auto +takes (soft|kvm): ' --check
runs "--check of a program" 0 "^program .*/client-vmx: dynamically linked, can be run\$" --check "$CLIENTS/client-vmx"
printf '#! /bin/sh -e\ntrue\n' >"$work/script"
chmod 755 "$work/script"
runs "--check of a script" 0 "^program .*/script, a script for .*: dynamically linked, can be run\$" --check "$work/script"
runs "--check of a static program" 1 '^kage: .*/client-static: statically linked' --check "$CLIENTS/client-static"

# refused NAME PATTERN arguments...: status 1 and one line
refused() {
	_name=$1 _line=$2
	shift 2
	timeout -k 5 20 "$KAGE" kvm "$@" </dev/null >"$work/out" 2>&1
	_status=$?
	if [ $_status = 1 ] && [ "$(wc -l <"$work/out")" = 1 ] && grep -Eq -- "^kage: .*$_line" "$work/out"; then
		pass "refused: $_name"
	else
		fail "refused: $_name (status $_status, expected 1 and one line like $_line)"
	fi
}
refused "a static program" 'client-static: statically linked' -- "$CLIENTS/client-static"
cp "$CLIENTS/client-vmx" "$work/setuid"
chmod 4755 "$work/setuid"
refused "a set-user-ID program" 'setuid: it is set-user-ID' -- "$work/setuid"
cp "$CLIENTS/client-vmx" "$work/other"
printf '\267\000' | dd of="$work/other" bs=1 seek=18 conv=notrunc 2>/dev/null
refused "a program of another processor" 'other: not an x86-64 program' -- "$work/other"
head -c 100 "$CLIENTS/client-vmx" >"$work/cut"
chmod 755 "$work/cut"
refused "a damaged program" 'cut: a damaged program' -- "$work/cut"
printf '#!%s\n' "$CLIENTS/client-static" >"$work/static-script"
chmod 755 "$work/static-script"
refused "a script for a static program" 'client-static: statically linked' -- "$work/static-script"
printf '#!%s\n' "$work/loop" >"$work/loop"
chmod 755 "$work/loop"
refused "a script of itself" 'too many scripts' -- "$work/loop"
refused "text" 'neither a program nor a script' -- "$( (echo words >"$work/text") && chmod 755 "$work/text" && echo "$work/text")"
refused "a directory" 'not a program' -- "$work"
refused "a program that is not there" 'no such program' -- no-such-program-here
refused "nothing to run" 'no program to run' --
refused "an unknown option" "no such option '--levitate'" --levitate -- true
refused "a path without its value" '--path' --path

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
