#!/bin/sh
# SPDX-License-Identifier: MIT
# The static programs of guest-progs verify their own results inside the guest, on both kernels.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz generic/vmlinuz
: "${GUEST_PROGS:=build/tests/system/guest-progs}"

set --
script=
for file in "$GUEST_PROGS"/guest-*; do
	[ -f "$file" ] && [ -x "$file" ] || continue
	name=$(basename "$file")
	# Code that does not depend on the kernel needs no debug information in an initramfs.
	cp "$file" "$work/$name" && strip "$work/$name"
	set -- "$@" "$work/$name"
	script="$script
$name; echo \"result: $name \$?\""
done
[ $# -gt 0 ] || { fail "there are guest programs in $GUEST_PROGS"; summary; }
"$top/tools/mkinitramfs.sh" -o "$work/initrd" -c "$script" "$@"

for kernel in cloud generic; do
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
done
summary
