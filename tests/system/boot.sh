#!/bin/sh
# SPDX-License-Identifier: MIT
# Debian's kernels boot to userspace, run a script and power off, KAGE_TEST_BOOTS times in a row each: cloud and generic of amd64, 686
# (no PAE) and 686-pae of i386.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz generic/vmlinuz 686/vmlinuz 686-pae/vmlinuz i386/busybox
: "${KAGE_TEST_BOOTS:=5}"

cat >"$work/script" <<'S'
set -e
[ "$(id -u)" = 0 ]
uname -srm
a=0; i=0
while [ $i -lt 1000 ]; do i=$((i+1)); a=$((a+i)); done
[ $a = 500500 ]
head -c 1000000 /dev/zero | sha256sum | grep -q ^d29751f2649b32ff572b5e0a9f541ea660a50f94ff0beedfb0b692b924cc8025
seq 1 20000 | gzip -9 | gunzip | md5sum | grep -q "^$(seq 1 20000 | md5sum | cut -c1-32)"
dmesg | grep -q 'Linux version'
! dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|general protection'
echo script: done
S

for kernel in cloud generic 686 686-pae; do
	guest_initrd "$work/initrd" $kernel "$(cat "$work/script")"
	n=1
	while [ "$n" -le "$KAGE_TEST_BOOTS" ]; do
		boot 120 "$work/log" "$work/initrd" "$CACHE/$kernel/vmlinuz"
		status=$?
		if [ $status = 0 ] && has "$work/log" '^script: done$' && has "$work/log" '^kage: status 0$'; then
			pass "$kernel kernel, boot $n"
		else
			fail "$kernel kernel, boot $n (status $status)" "$work/log"
		fi
		n=$((n + 1))
	done
done
summary
