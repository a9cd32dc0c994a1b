#!/bin/sh
# SPDX-License-Identifier: MIT
# Several processors: the parallel stress (guest-progs/parallel.c), which checks its own results, after each of many boots in a
# row on four, then on as many processors as the host does not have, on the 32-bit kernels, and in every shape -smp can give.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz generic/vmlinuz 686/vmlinuz 686-pae/vmlinuz i386/busybox
: "${GUEST_PROGS:=build/tests/system/guest-progs}" "${KAGE_TEST_SMP_BOOTS:=10}" "${KAGE_TEST_SMP_SECONDS:=2}"

for name in guest-parallel guest32-parallel; do
	[ ! -x "$GUEST_PROGS/$name" ] || { cp "$GUEST_PROGS/$name" "$work/" && strip "$work/$name"; }
done

# stress NAME KERNEL PROGRAM PROCESSORS SMP-OPTION: one boot
stress() {
	if [ ! -x "$work/$3" ]; then
		skip "$1" "$3 was not built"
		return
	fi
	guest_initrd "$work/initrd" "$2" "set -e
[ \$(nproc) = $4 ]
$3 $KAGE_TEST_SMP_SECONDS
! dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|general protection|stall|lockup'
echo stress: done" "$work/$3"
	boot 150 "$work/log" "$work/initrd" "$CACHE/$2/vmlinuz" -smp "$5"
	status=$?
	if [ $status = 0 ] && has "$work/log" '^stress: done$' && has "$work/log" '^kage: status 0$'; then
		pass "$1"
	else
		fail "$1 (status $status; 124 and 137: it hung)" "$work/log"
	fi
}

n=1
while [ "$n" -le "$KAGE_TEST_SMP_BOOTS" ]; do
	stress "4 processors, boot $n" cloud guest-parallel 4 4
	n=$((n + 1))
done
stress "8 processors" cloud guest-parallel 8 8
stress "4 processors, generic kernel" generic guest-parallel 4 4
stress "4 processors, 32-bit programs" cloud guest32-parallel 4 4
stress "4 processors, 686-pae kernel" 686-pae guest32-parallel 4 4
stress "2 processors, 686 kernel" 686 guest32-parallel 2 2

# What the guest makes of the topology leaves: "package core threads" of each processor.
# shape SMP-OPTION EXPECTED
shape() {
	guest_initrd "$work/initrd" cloud 'cd /sys/devices/system/cpu
for t in cpu[0-9]*/topology; do
	echo "shape: $t $(cat $t/physical_package_id) $(cat $t/core_id) $(cat $t/thread_siblings_list)"
done'
	boot 60 "$work/log" "$work/initrd" "$CACHE/cloud/vmlinuz" -smp "$1"
	tr -d '\r' <"$work/log" | sed -n 's/^shape: cpu\([0-9]*\)[^ ]* \(.*\)/\1 \2/p' | sort -n | tr '\n' ';' >"$work/shape"
	if [ "$(cat "$work/shape")" = "$2" ]; then pass "-smp $1"; else fail "-smp $1: $(cat "$work/shape")" "$work/log"; fi
}
shape 1 '0 0 0 0;'
shape 4,sockets=2,cores=2,threads=1 '0 0 0 0;1 0 1 1;2 1 0 2;3 1 1 3;'
shape 4,sockets=1,cores=2,threads=2 '0 0 0 0-1;1 0 0 0-1;2 0 1 2-3;3 0 1 2-3;'
shape 6,cores=3,threads=2 '0 0 0 0-1;1 0 0 0-1;2 0 1 2-3;3 0 1 2-3;4 0 2 4-5;5 0 2 4-5;'
summary
