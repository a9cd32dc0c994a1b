#!/bin/sh
# SPDX-License-Identifier: MIT
# A host whose disk is full, under a guest that writes (a tmpfs that is too small): the machine stops, stops again where it is told to go on
# without space, goes on once there is space, and has lost nothing; the image is whole. With werror=report the guest sees the error.
# raw by virtio-blk, qcow2 by virtio-scsi and by AHCI, raw by IDE.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz cloud/modules/virtio_scsi.ko generic/vmlinuz generic/modules/ahci.ko
mkdir "$work/full"
mount -t tmpfs -o size=24m tmpfs "$work/full" 2>/dev/null || { skip diskfull "no tmpfs can be mounted here"; summary; }
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; umount -l "$work/full"; rm -rf "$work"' EXIT

cat >"$work/script" <<'S'
for m in virtio_ring virtio virtio_mmio virtio_blk scsi_common scsi_mod crc64 crc64-rocksoft crct10dif_common crct10dif_generic crc-t10dif t10-pi sd_mod \
	virtio_scsi libata ata_piix libahci ahci; do
	[ ! -e /lib/modules/$m.ko ] || insmod /lib/modules/$m.ko
done
n=0
until [ -b /dev/vda ] || [ -b /dev/sda ]; do n=$((n + 1)); [ $n -lt 100 ] || exit 1; sleep 0.1; done
disk=/dev/vda
[ -b $disk ] || disk=/dev/sda
dd if=/dev/urandom of=/tmp/data bs=1M count=40 2>/dev/null
echo "full: sum $(md5sum </tmp/data | cut -d' ' -f1)"
dd if=/tmp/data of=$disk bs=64k conv=fsync 2>/tmp/said || { echo "full: the guest sees $(sed -n 's/.*: \(.* error\|No space.*\)$/\1/p' /tmp/said)"; exit 0; }
echo 3 >/proc/sys/vm/drop_caches
echo "full: back $(dd if=$disk bs=64k count=640 2>/dev/null | md5sum | cut -d' ' -f1)"
dmesg | grep -E 'BUG:|Oops|Call Trace|I/O error|(Power-on|device) reset' || echo "full: no errors"
S
for kernel in cloud generic; do
	modules=
	for module in "$CACHE/$kernel"/modules/*.ko; do modules="$modules $module:lib/modules/$(basename "$module")"; done
	guest_initrd "$work/initrd-$kernel" $kernel "$(cat "$work/script")" $modules
done

# await COUNT REGEX: so many lines of the log
await() {
	_n=0
	until [ "$(tr -d '\r' <"$work/log" | grep -cE "$2")" -ge "$1" ]; do
		_n=$((_n + 1))
		[ $_n -lt 600 ] && kill -0 "$pid" 2>/dev/null || return 1
		sleep 0.1
	done
}
# start FORMAT KERNEL [options...]: a machine with that image
start() {
	_format=$1 _kernel=$2
	shift 2
	rm -f "$work/full/disk"
	mount -o remount,size=24m "$work/full"
	"$KAGE" img create -q -f "$_format" "$work/full/disk" 64M
	: >"$work/log"
	"$KAGE" run -accel soft -m 512M -smp 2 -kernel "$CACHE/$_kernel/vmlinuz" -initrd "$work/initrd-$_kernel" -append "console=ttyS0 quiet panic=-1" -nographic \
		"$@" </dev/null >"$work/log" 2>&1 &
	pid=$!
}

while read -r format kernel options; do
	# shellcheck disable=SC2086
	start "$format" "$kernel" -drive "file=$work/full/disk,format=$format,if=none,id=d" $options
	stops='the machine has stopped .io-error.: .*: No space left on device'
	good=1
	await 1 "$stops" || good=0
	kill -CONT "$pid"
	await 2 "$stops" || good=0
	# It stands: what a guest that runs would do does not happen.
	cpu=$(cut -d' ' -f14 "/proc/$pid/stat")
	sleep 1
	[ $(($(cut -d' ' -f14 "/proc/$pid/stat") - cpu)) -le 10 ] || good=0
	mount -o remount,size=80m "$work/full"
	kill -CONT "$pid"
	await 1 'kage: status 0' || good=0
	wait "$pid"
	status=$?
	pid=
	sum=$(tr -d '\r' <"$work/log" | sed -n 's/^full: sum //p')
	"$KAGE" img convert -f "$format" -O raw "$work/full/disk" "$work/raw"
	if [ $good$status = 10 ] && [ -n "$sum" ] && has "$work/log" "^full: back $sum" && has "$work/log" '^full: no errors' &&
		[ "$(head -c 40M "$work/raw" | md5sum | cut -d' ' -f1)" = "$sum" ] &&
		{ [ "$format" = raw ] || qemu-img check -q -f "$format" "$work/full/disk" >>"$work/log" 2>&1; }; then
		pass "a full host under $format ($options)"
	else
		fail "a full host under $format ($options), status $status" "$work/log"
	fi
	rm -f "$work/raw"
done <<T
raw cloud -device virtio-blk,drive=d
qcow2 cloud -device virtio-scsi -device scsi-hd,drive=d
raw generic -machine pc -device ide-hd,drive=d
qcow2 generic -machine q35 -device ide-hd,drive=d
T

start raw cloud -drive "file=$work/full/disk,format=raw,if=none,id=d,werror=report" -device virtio-blk,drive=d
if await 1 'full: the guest sees' && await 1 'kage: status 0' && ! has "$work/log" 'has stopped'; then
	pass "werror=report"
else
	fail "werror=report" "$work/log"
fi
wait "$pid"
pid=

# A machine that stands can be ended.
start raw cloud -drive "file=$work/full/disk,format=raw,if=none,id=d" -device virtio-blk,drive=d
if await 1 "$stops" && kill -TERM "$pid" && wait "$pid" && has "$work/log" 'ended by signal 15'; then
	pass "SIGTERM while stopped"
else
	fail "SIGTERM while stopped" "$work/log"
fi
pid=
summary
