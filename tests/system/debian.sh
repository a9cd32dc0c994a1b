#!/bin/sh
# SPDX-License-Identifier: MIT
# An installed Debian boots from its own disk: SeaBIOS reads GRUB by virtio-blk, GRUB the kernel, the kernel its root file system; to a login, to
# a shell, to power off. The disk is a qcow2 image over the raw one that fetch-guest.sh made: both are whole afterwards.
. "$(dirname "$0")/lib.sh"
need_guest debian/disk.img

"$KAGE" img create -f qcow2 -b "$CACHE/debian/disk.img" -F raw "$work/top.qcow2" >"$work/log" 2>&1 || { fail "an image on the disk" "$work/log"; summary; }

# await REGEX: in the log
await() {
	_n=0
	until has "$work/log" "$1"; do
		_n=$((_n + 1))
		[ $_n -lt 900 ] || return 1
		sleep 0.5
	done 2>/dev/null
}
: >"$work/log"
{
	await 'debian login:' && echo root
	await '# *$' && printf '%s\n' 'mount | grep -q "^/dev/vda1 on / type ext4" && lsblk -dno SERIAL /dev/vda; dd if=/dev/urandom of=/data bs=1M count=16 2>/dev/null' \
		'sync; md5sum </data >/sum; echo 3 >/proc/sys/vm/drop_caches; md5sum </data | cmp - /sum && echo "data: $((40 + 2))"' \
		'journalctl -k | grep -E "BUG:|Oops|Call Trace|I/O error|EXT4-fs error"; poweroff'
	await 'Power down|data: nothing'
} | timeout -k 5 600 "$KAGE" run -accel soft -machine pc -m 1G -smp 2 -nographic -d guest_errors \
	-drive "file=$work/top.qcow2,format=qcow2,if=none,id=d" -device virtio-blk-pci,drive=d,serial=disk-42 -device virtio-rng-pci >"$work/log" 2>&1
status=$?
if [ $status = 0 ] && has "$work/log" 'GRUB starts Debian' && has "$work/log" 'disk-42$' && has "$work/log" 'data: 42$' &&
	has "$work/log" 'reboot: Power down' && ! has "$work/log" '(BUG:|Oops|Call Trace|I/O error|EXT4-fs error)[^"|]*$'; then
	pass "Debian from its disk to a login and power off"
else
	fail "Debian from its disk to a login and power off (status $status)" "$work/log"
fi

if "$KAGE" img check -f qcow2 "$work/top.qcow2" >"$work/log" 2>&1 && "$KAGE" img convert -f qcow2 -O raw "$work/top.qcow2" "$work/whole" &&
	dd if="$work/whole" of="$work/root" bs=1M skip=1 conv=sparse status=none && e2fsck -fn "$work/root" >>"$work/log" 2>&1; then
	pass "the disk is whole afterwards"
else
	fail "the disk is whole afterwards" "$work/log"
fi
summary
