#!/bin/sh
# SPDX-License-Identifier: MIT
# Debian, as `kage image debian` makes it, boots from its own disk: by firmware and GRUB, or its kernel by the board. For each cell: a login on the
# serial line, data that the boot before has written, fio with checksums on disks of raw, qcow2 and NBD beside the root disk, new data, power off, on pc by its shell, elsewhere by the power button;
# then the host finds the file system clean and the images whole.
# KAGE_TEST_MATRIX=all: every board with every bus and ring, each on a new disk, with a reboot between two boots; M/N: those of them whose number
# modulo N is M. Without it one disk goes through three boards, so that each boot reads what another board's has written.
. "$(dirname "$0")/lib.sh"
: "${KAGE_TEST_MATRIX:=few}"
need_guest debian/cloud.qcow2 debian/vmlinuz-cloud debian/initrd-cloud
ovmf=/usr/share/ovmf/OVMF.fd
nbd=
# Nothing of ours stays when we are stopped.
trap '[ -z "$nbd" ] || kill "$nbd" 2>/dev/null; [ ! -e "$work/kage" ] || kill "$(cat "$work/kage")" 2>/dev/null; rm -rf "$work"' EXIT
PATH=$PATH:/sbin:/usr/sbin

# await REGEX [TIMES]: in the log, that often
await() {
	_n=0
	until [ "$(tr -d '\r' <"$work/log" | grep -Ec -- "$1")" -ge "${2:-1}" ]; do
		_n=$((_n + 1))
		[ $_n -lt 1200 ] || return 1
		[ ! -e "$work/status" ] || return 1
		sleep 0.5
	done 2>/dev/null
}

# What is typed at the shell. $((40 + 2)) tells what commands print from what was typed. The disks for fio are known by their sizes.
raw_bytes=$((96 << 20)) qcow2_bytes=$((97 << 20)) nbd_bytes=$((98 << 20))
check='journalctl -kb | grep -E "BUG:|Oops|Call Trace|I/O error|EXT4-fs error"; findmnt -no SOURCE,FSTYPE /; ls -d /sys/firmware/efi'
check="$check; echo \"rings: \$(cut -c35 /sys/bus/virtio/devices/virtio*/features | tr -d '\n')\"" # bit 34 of the features is RING_PACKED
check="$check; [ ! -e /sum ] || { md5sum </data | cmp - /sum && echo \"data: \$((40 + 2))\"; }"
fio="disk() { lsblk -bdnpo NAME,SIZE | sed -n \"s/ *\$1\$//p\"; }; fio --ioengine=libaio --direct=1 --rw=randwrite --bsrange=4k-64k --blockalign=4k --size=16M
--iodepth=16 --verify=crc32c --verify_fatal=1 --minimal --name=raw --filename=\$(disk $raw_bytes)
--name=qcow2 --filename=\$(disk $qcow2_bytes) --name=nbd --filename=\$(disk $nbd_bytes) >/tmp/fio && [ \$(grep -c '^3;' /tmp/fio) = 3 ] && echo \"fio: \$((40 + 2))\""
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
		truncate -s $raw_bytes "$work/fio.raw" && truncate -s $nbd_bytes "$work/fio.nbd" && "$KAGE" img create -q -f qcow2 "$work/fio.qcow2" $qcow2_bytes >>"$work/log" 2>&1
}

# cell NAME BOOTS EXPECTED [options...]: boots of one kage; what the log has to have beside the rest
cell() {
	_name=$1 _boots=$2 _expected=$3
	shift 3
	rm -f "$work/status"
	: >"$work/log"
	# It ends with its client.
	qemu-nbd -f raw --discard=unmap -k "$work/nbd" "$work/fio.nbd" &
	nbd=$!
	_n=0
	until [ -S "$work/nbd" ] || [ $_n = 100 ]; do _n=$((_n + 1)) && sleep 0.1; done
	{
		[ "$_boots" = 1 ] || { shell 1 reboot; }
		case $_name in
		pc*) shell "$_boots" poweroff ;;
		*) shell "$_boots" '' && await 'written: 42$' "$_boots" && sleep 1 && printf '\001o' ;; # the power button
		esac
		await 'reboot: Power down'
	} | {
		timeout -k 5 1200 "$KAGE" run -accel soft -m 1G -smp 2 -nographic -d guest_errors \
			-drive "file=$work/top.qcow2,format=qcow2,if=none,id=root,discard=unmap" -drive "file=$work/fio.raw,format=raw,if=none,id=raw,discard=unmap" \
			-drive "file=$work/fio.qcow2,format=qcow2,if=none,id=qcow2,discard=unmap" \
			-drive "file=nbd+unix:///?socket=$work/nbd,format=raw,if=none,id=nbd,discard=unmap" -device virtio-rng "$@" <&3 >"$work/log" 2>&1 &
		echo $! >"$work/kage"
		wait $!
		echo $? >"$work/status"
		rm -f "$work/kage"
	} 3<&0
	kill $nbd 2>/dev/null
	wait $nbd 2>/dev/null
	nbd=
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

# bus NAME: options of the four disks, the root disk first: firmware starts that
bus() {
	case $1 in
	*packed*) _packed=,packed=on ;;
	*) _packed= ;;
	esac
	case $1 in
	virtio-scsi*) echo "-device virtio-scsi$_packed" && _device=scsi-hd _packed= ;;
	virtio-blk*) _device=virtio-blk ;;
	*) _device=ide-hd ;;
	esac
	for _drive in root raw qcow2 nbd; do echo "-device $_device,drive=$_drive$_packed"; done
}
# row NAME BOOTS BOARD BUS: BOARD as "pc, SeaBIOS"
row() {
	_row=$1 _boots=$2 _by=$3 _bus=$4
	# GRUB says where it found the kernel; only UEFI leaves tables. Options have no spaces.
	# shellcheck disable=SC2046
	case $_by in
	*SeaBIOS) cell "$_row" "$_boots" 'BOOT_IMAGE=/boot/vmlinuz' -machine "$(board "${_by%%,*}")" $(bus "$_bus") ;;
	*OVMF)
		if [ -s $ovmf ]; then
			cell "$_row" "$_boots" '^/sys/firmware/efi' -machine "$(board "${_by%%,*}")" -bios $ovmf $(bus "$_bus")
		else
			skip "$_row" "there is no $ovmf"
		fi
		;;
	*) cell "$_row" "$_boots" '^/dev/[vs]da1 ext4' -machine "$(board microvm)" -kernel "$CACHE/debian/vmlinuz-cloud" \
		-initrd "$CACHE/debian/initrd-cloud" -append 'root=LABEL=root ro console=ttyS0' $(bus "$_bus") ;;
	esac
}

if [ "$KAGE_TEST_MATRIX" = few ]; then
	new_disks cloud || { fail "disks for Debian" "$work/log"; summary; }
	row "pc, SeaBIOS, virtio-blk" 1 'pc, SeaBIOS' virtio-blk
	row "q35, OVMF, virtio-scsi, packed rings" 1 'q35, OVMF' 'virtio-scsi packed'
	row "microvm, its kernel, virtio-blk, packed rings" 1 'microvm, its kernel' 'virtio-blk packed'
	summary
fi

# Each board with each bus, except for those that it does not have. The cloud kernel has no AHCI.
number=0
for bus in 'virtio-blk, split rings' 'virtio-scsi, packed rings' IDE AHCI 'virtio-blk, packed rings' 'virtio-scsi, split rings'; do
	for by in 'pc, SeaBIOS' 'q35, OVMF' 'q35, SeaBIOS' 'microvm, its kernel' 'pc, OVMF'; do
		kernel=cloud
		case $bus,$by in
		IDE,pc*) ;;
		AHCI,q35*) kernel=generic ;;
		IDE,* | AHCI,*) continue ;;
		esac
		number=$((number + 1))
		case $KAGE_TEST_MATRIX in
		*/*) [ $((number % ${KAGE_TEST_MATRIX#*/})) = $((${KAGE_TEST_MATRIX%/*} % ${KAGE_TEST_MATRIX#*/})) ] || continue ;;
		esac
		[ -s "$CACHE/debian/$kernel.qcow2" ] || { skip "$by, $bus" "there is no $kernel.qcow2"; continue; }
		new_disks $kernel && written= || { fail "disks for Debian" "$work/log"; summary; }
		row "$by, $bus, two boots" 2 "$by" "$bus"
	done
done
summary
