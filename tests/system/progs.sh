#!/bin/sh
# SPDX-License-Identifier: MIT
# The static programs of guest-progs verify their own results inside the guest: 64-bit ones and, in compatibility mode,
# 32-bit ones on the 64-bit kernels, 32-bit ones on the 32-bit kernels without and with PAE.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz generic/vmlinuz 686/vmlinuz 686-pae/vmlinuz i386/busybox
: "${GUEST_PROGS:=build/tests/system/guest-progs}"

# progs_on KERNEL PROGRAM...
progs_on() {
	kernel=$1
	shift
	guest_initrd "$work/initrd" "$kernel" "$(for file; do
		name=$(basename "$file")
		echo "$name; echo \"result: $name \$?\""
	done)" "$@"
	boot 300 "$work/log" "$work/initrd" "$CACHE/$kernel/vmlinuz"
	status=$?
	for file; do
		name=$(basename "$file")
		if has "$work/log" "^result: $name 0\$"; then
			pass "$name, $kernel kernel"
		else
			grep -a FAIL "$work/log" >"$work/why" || cp "$work/log" "$work/why"
			fail "$name, $kernel kernel" "$work/why"
		fi
	done
	if [ $status = 0 ]; then pass "power off, $kernel kernel"; else fail "power off, $kernel kernel (status $status)" "$work/log"; fi
}

for file in "$GUEST_PROGS"/guest*; do
	[ -f "$file" ] && [ -x "$file" ] || continue
	# inspect.sh's, which never ends; memory.sh's, which wants 5 levels; q35.sh's and kill.sh's, which want arguments.
	case $file in *-pagemap | *-wide | *-clocksource | *-diskload) continue ;; esac
	# Code that does not depend on the kernel needs no debug information in an initramfs.
	cp "$file" "$work/" && strip "$work/$(basename "$file")"
done
[ -e "$work/guest-memory" ] || { fail "there are guest programs in $GUEST_PROGS"; summary; }
if [ -e "$work/guest32-memory" ]; then
	progs_on 686 "$work"/guest32-*
	progs_on 686-pae "$work"/guest32-*
else
	skip "32-bit guest programs" "there was no 32-bit C library to build them with"
fi
progs_on cloud "$work"/guest*-*
progs_on generic "$work"/guest*-*
summary
