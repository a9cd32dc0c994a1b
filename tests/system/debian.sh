#!/bin/sh
# SPDX-License-Identifier: MIT
# Debian, as `kage image debian` makes it, boots from its own disk: by firmware and GRUB, or its kernel by the board. For each cell: a login on the
# serial line, data that the boot before has written, fio with checksums on a raw and a qcow2 disk beside the root disk, new data, power off;
# then the host finds the file system clean and the image whole.
# KAGE_TEST_MATRIX=all: every board with every bus and ring, each on a new disk, with a reboot between two boots. Without it one disk goes through
# three boards, so that each boot reads what another board's has written.
. "$(dirname "$0")/lib.sh"
: "${KAGE_TEST_MATRIX:=few}"
need_guest debian/cloud.qcow2 debian/vmlinuz-cloud debian/initrd-cloud
ovmf=/usr/share/ovmf/OVMF.fd
PATH=$PATH:/sbin:/usr/sbin

# await REGEX [TIMES]: in the log, that often
await() {
	_n=0
	until [ "$(tr -d '\r' <"$work/log" | grep -Ec -- "$1")" -ge "${2:-1}" ]; do
		_n=$((_n + 1))
		[ $_n -lt 900 ] || return 1
		kill -0 "$(cat "$work/pid")" 2>/dev/null || return 1
		sleep 0.5
	done 2>/dev/null
}

# What is typed at the shell. $((40 + 2)) tells what commands print from what was typed. The disks for fio are known by their sizes.
raw_bytes=$((96 << 20)) qcow2_bytes=$((97 << 20))
check='journalctl -kb | grep -E "BUG:|Oops|Call Trace|I/O error|EXT4-fs error"; findmnt -no SOURCE,FSTYPE /; ls -d /sys/firmware/efi'
check="$check; echo \"rings: \$(cut -c35 /sys/bus/virtio/devices/virtio*/features | tr -d '\n')\"" # bit 34 of the features is RING_PACKED
check="$check; [ ! -e /sum ] || { md5sum </data | cmp - /sum && echo \"data: \$((40 + 2))\"; }"
fio="disk() { lsblk -bdnpo NAME,SIZE | sed -n \"s/ *\$1\$//p\"; }; fio --ioengine=libaio --direct=1 --rw=randwrite --bsrange=4k-64k --blockalign=4k --size=16M
--iodepth=16 --verify=crc32c --verify_fatal=1 --minimal --name=raw --filename=\$(disk $raw_bytes) --name=qcow2 --filename=\$(disk $qcow2_bytes) >/tmp/fio &&
[ \$(grep -c '^3;' /tmp/fio) = 2 ] && echo \"fio: \$((40 + 2))\""
fio=$(echo "$fio" | tr '\n' ' ')
write='dd if=/dev/urandom of=/data bs=1M count=8 2>/dev/null; sync; md5sum </data >/sum; sync; echo 3 >/proc/sys/vm/drop_caches'
write="$write; md5sum </data | cmp - /sum && echo \"written: \$((40 + 2))\""

# shell NUMBER LAST: logs in at the login prompt of that number, and does it all
shell() {
	await 'debian login:' "$1" && echo root
	# The prompt is no whole line.
	await 'root@debian:~# *$' && printf '%s\n' 'export TERM=dumb' "$check" "$fio" "$write" "$2"
}

# new_disks KIND: the disk, and empty ones
new_disks() {
	rm -f "$work/top.qcow2"
	"$KAGE" img create -q -f qcow2 -b "$CACHE/debian/$1.qcow2" -F qcow2 "$work/top.qcow2" >"$work/log" 2>&1 &&
		truncate -s $raw_bytes "$work/fio.raw" && "$KAGE" img create -q -f qcow2 "$work/fio.qcow2" $qcow2_bytes >>"$work/log" 2>&1
}

# cell NAME BOOTS EXPECTED [options...]: boots of one kage; what the log has to have beside the rest
cell() {
	_name=$1 _boots=$2 _expected=$3
	shift 3
	: >"$work/log"
	{
		echo $$ >"$work/pid"
		[ "$_boots" = 1 ] || { shell 1 reboot; }
		shell "$_boots" poweroff
		await 'reboot: Power down'
	} | {
		timeout -k 5 900 "$KAGE" run -accel soft -m 1G -smp 2 -nographic -d guest_errors \
			-drive "file=$work/top.qcow2,format=qcow2,if=none,id=root,discard=unmap" -drive "file=$work/fio.raw,format=raw,if=none,id=raw,discard=unmap" \
			-drive "file=$work/fio.qcow2,format=qcow2,if=none,id=qcow2,discard=unmap" -device virtio-rng "$@" >"$work/log" 2>&1
		echo $? >"$work/status"
	}
	_rings='rings: 0+$'
	case $_name in *packed*) _rings='rings: [01]*1' ;; esac
	if [ "$(cat "$work/status")" = 0 ] && has "$work/log" "$_expected" && has "$work/log" "$_rings" && has "$work/log" 'reboot: Power down' &&
		[ "$(tr -d '\r' <"$work/log" | grep -c 'fio: 42$')" = "$_boots" ] && [ "$(tr -d '\r' <"$work/log" | grep -c 'written: 42$')" = "$_boots" ] &&
		{ [ -z "$written" ] && [ "$_boots" = 1 ] || has "$work/log" 'data: 42$'; } &&
		! has "$work/log" '(BUG:|Oops|Call Trace|I/O error|EXT4-fs error)[^"|]*$' && whole; then
		pass "$_name"
	else
		fail "$_name (status $(cat "$work/status"))" "$work/log"
	fi
	written=1
}
written=

# whole: the images, and the file system of the first partition, which was unmounted
whole() {
	"$KAGE" img check -f qcow2 "$work/top.qcow2" >>"$work/log" 2>&1 && "$KAGE" img check -f qcow2 "$work/fio.qcow2" >>"$work/log" 2>&1 &&
		rm -f "$work/whole" && "$KAGE" img convert -f qcow2 -O raw "$work/top.qcow2" "$work/whole" >>"$work/log" 2>&1 &&
		_start=$(sfdisk -d "$work/whole" | sed -n 's/.*whole1 *: *start= *\([0-9]*\),.*/\1/p') &&
		e2fsck -fn "$work/whole?offset=$((_start * 512))" >>"$work/log" 2>&1
	_result=$?
	rm -f "$work/whole"
	return $_result
}

# Options of a bus, for three disks. The root disk is the first one: firmware starts that.
# shellcheck disable=SC2034
blk='-device virtio-blk,drive=root@ -device virtio-blk,drive=raw@ -device virtio-blk,drive=qcow2@'
scsi='-device virtio-scsi@ -device scsi-hd,drive=root -device scsi-hd,drive=raw -device scsi-hd,drive=qcow2'
bus() {
	case $1 in
	*' packed') echo "$2" | sed 's/@/,packed=on/g' ;;
	*) echo "$2" | sed 's/@//g' ;;
	esac
}
# GRUB says where it found the kernel; only UEFI leaves tables.
by_grub='BOOT_IMAGE=/boot/vmlinuz'
by_uefi='^/sys/firmware/efi'
direct() { echo "-machine microvm -kernel $CACHE/debian/vmlinuz-cloud -initrd $CACHE/debian/initrd-cloud"; }
direct_append='root=LABEL=root ro console=ttyS0'

# shellcheck disable=SC2046
if [ "$KAGE_TEST_MATRIX" != all ]; then
	new_disks cloud || { fail "disks for Debian" "$work/log"; summary; }
	cell "pc, SeaBIOS and GRUB, virtio-blk" 1 "$by_grub" -machine "$(board pc)" $(bus split "$blk")
	if [ -s $ovmf ]; then
		cell "q35, OVMF and GRUB, virtio-scsi, packed rings" 1 "$by_uefi" -machine "$(board q35)" -bios $ovmf $(bus ' packed' "$scsi")
	else
		skip "q35, OVMF and GRUB" "there is no $ovmf"
	fi
	cell "microvm, its kernel, virtio-blk, packed rings" 1 '^/dev/vda1 ext4' $(direct) -append "$direct_append" $(bus ' packed' "$blk")
	summary
fi

for disks in 'virtio-blk, split' 'virtio-blk, packed' 'virtio-scsi, split' 'virtio-scsi, packed'; do
	case $disks in
	virtio-blk*) devices=$(bus "$disks" "$blk") ;;
	*) devices=$(bus "$disks" "$scsi") ;;
	esac
	for by in 'pc, SeaBIOS' 'q35, SeaBIOS' 'q35, OVMF' 'pc, OVMF' 'microvm, its kernel'; do
		new_disks cloud && written= || { fail "disks for Debian" "$work/log"; summary; }
		name="$by, $disks rings, two boots"
		case $by in
		*SeaBIOS) cell "$name" 2 "$by_grub" -machine "$(board "${by%%,*}")" $devices ;;
		*OVMF) cell "$name" 2 "$by_uefi" -machine "$(board "${by%%,*}")" -bios $ovmf $devices ;;
		*) cell "$name" 2 'ext4$' $(direct) -append "$direct_append" $devices ;;
		esac
	done
done
summary
