#!/bin/sh
# SPDX-License-Identifier: MIT
# Guest memory: more of it than the host has, from files, allocated at the start; and 5-level paging, which needs nothing of the host's processor.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz generic/vmlinuz
: "${GUEST_PROGS:=build/tests/system/guest-progs}"

[ ! -x "$GUEST_PROGS/guest-wide" ] || { cp "$GUEST_PROGS/guest-wide" "$work/" && strip "$work/guest-wide"; }

# try NAME SCRIPT KERNEL [kage options...]: one boot
try() {
	_name=$1 _script=$2 _kernel=$3
	shift 3
	guest_initrd "$work/initrd" "$_kernel" "set -e
$_script
! dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|general protection|stall|lockup'
echo memory: done" "$work/guest-wide"
	boot 300 "$work/log" "$work/initrd" "$CACHE/$_kernel/vmlinuz" "$@"
	status=$?
	if [ $status = 0 ] && has "$work/log" '^memory: done$' && has "$work/log" '^kage: status 0$'; then
		pass "$_name"
	else
		fail "$_name (status $status)" "$work/log"
	fi
}

# at_least GIBIBYTES: for a script
at_least() {
	echo "[ \$(awk '/^MemTotal/ { print \$2 }' /proc/meminfo) -gt $(($1 * 1048576)) ]"
}

host_gib=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1048576))
more=$((host_gib + host_gib / 2 > 64 ? host_gib + host_gib / 2 : 64))
try "more memory than the host has" "$(at_least $((more * 9 / 10)))" cloud -m "${more}G"
has "$work/log" "warning: -m" || fail "more memory than the host has is told"
try "memory from a file without a name" "$(at_least 1)" cloud -m 1536M -mem-path "$work" -mem-prealloc
: >"$work/ram"
try "memory from a file" "$(at_least 1)" cloud -m 1536M -mem-path "$work/ram"
rm -f "$work/ram"

# 2^57 bytes have 100 times more room for vmalloc than 2^48.
five='[ $(awk "/^VmallocTotal/ { printf \"%d\", \$2 / 1000000 }" /proc/meminfo) -gt 1000000 ]'
for mmu in ept shadow; do
	for machine in microvm pc; do
		try "5-level paging, $machine, $mmu" "$five
grep -q ' la57' /proc/cpuinfo
guest-wide" cloud -cpu host,+la57 -smp 2 -M "$machine,mmu=$mmu"
	done
done
machine=microvm
try "5-level paging, generic kernel" "$five
guest-wide" generic -cpu host,+la57
append=no5lvl
try "no5lvl" "! { $five; }" cloud -cpu host,+la57
append=
if ! grep -q ' la57' /proc/cpuinfo; then
	try "no 5-level paging unless asked" "! { $five; }
! grep -q ' la57' /proc/cpuinfo" cloud
fi
summary
