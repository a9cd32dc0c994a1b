#!/bin/sh
# SPDX-License-Identifier: MIT
# Debian's kernels by EPT and by shadow page tables: fork and exec storms and mappings that change all the time (guest-progs/mappings.c)
# on several processors, with page tables of two, three and four levels, with and without PCIDs and page-table isolation; and
# KASLR: the kernel is somewhere else at each boot. MMU_TEST_SECONDS (1) is the stress of a boot, MMU_TEST_MODES the modes.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz generic/vmlinuz 686/vmlinuz 686-pae/vmlinuz i386/busybox
: "${GUEST_PROGS:=build/tests/system/guest-progs}" "${MMU_TEST_SECONDS:=1}" "${MMU_TEST_MODES:=ept shadow}"

for name in guest-mappings guest32-mappings; do
	[ ! -x "$GUEST_PROGS/$name" ] || { cp "$GUEST_PROGS/$name" "$work/" && strip "$work/$name"; }
done

# stress NAME KERNEL PROGRAM PROCESSORS [kage options...]: one boot, with $append
stress() {
	name=$1 kernel=$2 program=$3 processors=$4
	shift 4
	if [ ! -x "$work/$program" ]; then
		skip "$name" "$program was not built"
		return
	fi
	guest_initrd "$work/initrd" "$kernel" "set -e
[ \$(nproc) = $processors ]
echo \"text: \$(sed -n 's/ T _text\$//p' /proc/kallsyms)\"
$program $MMU_TEST_SECONDS
! dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|general protection|stall|lockup|Bad page|bad pmd'
echo stress: done" "$work/$program"
	boot $((120 + 20 * MMU_TEST_SECONDS)) "$work/log" "$work/initrd" "$CACHE/$kernel/vmlinuz" -smp "$processors" "$@"
	status=$?
	if [ $status = 0 ] && has "$work/log" '^stress: done$' && has "$work/log" '^kage: status 0$'; then
		pass "$name"
	else
		fail "$name (status $status; 124 and 137: it hung)" "$work/log"
	fi
}
text() {
	tr -d '\r' <"$work/log" | sed -n 's/^text: //p'
}

linked_at=ffffffff81000000 # where _text is without KASLR
for mode in $MMU_TEST_MODES; do
	machine=microvm,mmu=$mode
	append=
	stress "$mode, 4 processors" cloud guest-mappings 4
	append='nosmap nosmep noexec=off'
	stress "$mode, 2 processors, no SMEP and SMAP, 32-bit programs" generic guest32-mappings 2
	append=
	stress "$mode, 4 processors, PAE" 686-pae guest32-mappings 4
	stress "$mode, 2 processors, two levels" 686 guest32-mappings 2
	# On this board the kernel unpacks itself, and chooses where to.
	machine=pc,mmu=$mode
	append=pti=on
	stress "$mode, 4 processors, page-table isolation, KASLR" cloud guest-mappings 4
	first=$(text)
	append='pti=on nopcid'
	stress "$mode, 2 processors, page-table isolation without PCIDs, KASLR" cloud guest-mappings 2
	second=$(text)
	if [ -n "$first$second" ] && [ "$first" != "$second" ] && [ "$first$second" != $linked_at$linked_at ]; then
		pass "$mode, KASLR"
	else
		fail "$mode, KASLR: _text is at '$first', then at '$second'"
	fi
	# Another client, which knows nothing of MMUs.
	name="$mode, QEMU"
	if ! command -v qemu-system-x86_64 >/dev/null || [ ! -e "$(dirname "$KAGE")/preload/libkage-preload.so" ]; then
		skip "$name" "there is no QEMU, or no libkage-preload.so"
		continue
	fi
	guest_initrd "$work/initrd" cloud "guest-mappings $MMU_TEST_SECONDS && echo stress: done" "$work/guest-mappings"
	timeout -k 5 $((120 + 20 * MMU_TEST_SECONDS)) "$KAGE" kvm --mmu "$mode" -- qemu-system-x86_64 -accel kvm -M q35 -cpu host -m 512M -smp 2 -nodefaults \
		-no-user-config -nographic -serial stdio -no-reboot -kernel "$CACHE/cloud/vmlinuz" -initrd "$work/initrd" -append 'console=ttyS0 quiet panic=-1' \
		</dev/null >"$work/log" 2>&1
	status=$?
	if [ $status = 0 ] && has "$work/log" '^stress: done$'; then pass "$name"; else fail "$name (status $status)" "$work/log"; fi
done
summary
