#!/bin/sh
# SPDX-License-Identifier: MIT
# Disks and random numbers by virtio: Debian's cloud kernel mounts an ext4 image on microvm (MMIO) and on pc (PCI: modern, legacy, without
# MSI-X), with split and packed rings and two processors; what it wrote, and verified, before a reboot it reads back after it, and the
# host finds the file system whole. Discards free the host's space. Then what is refused.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz cloud/modules/virtio-rng.ko cloud/modules/virtio_scsi.ko
command -v mke2fs >/dev/null || { skip disks "no mke2fs"; summary; }

modules=
for module in "$CACHE"/cloud/modules/virtio*.ko; do modules="$modules $module:lib/modules/$(basename "$module")"; done
{ echo "$guest_write_data"; cat <<'S'; } >"$work/script"
set -e
for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_mmio virtio_blk virtio-rng; do
	insmod /lib/modules/$m.ko
done
disk=/dev/vda
mount -t ext4 $disk /mnt
if [ ! -e /mnt/sum ]; then
	[ "$(cat /mnt/hello)" = "from the host" ]
	cat /sys/bus/virtio/devices/virtio0/features >/mnt/features
	write_data
	umount /mnt
	echo "disks: written"
	reboot -f
fi
[ "$(cat /mnt/data* | md5sum)" = "$(cat /mnt/sum)" ]
[ "$(cat /sys/bus/virtio/devices/virtio0/features)" = "$(cat /mnt/features)" ]
echo "disks: features $(cat /mnt/features)"
[ "$(cat /sys/block/vda/serial)" = abc123 ]
rm /mnt/data*
sync
fstrim /mnt
umount /mnt
[ "$(cat /sys/class/misc/hw_random/rng_current)" = virtio_rng.0 ] || [ "$(cat /sys/class/misc/hw_random/rng_current)" = virtio_rng.1 ]
[ "$(head -c 4096 /dev/hwrng | wc -c)" = 4096 ]
[ "$(head -c 4096 /dev/hwrng | md5sum)" != "$(head -c 4096 /dev/hwrng | md5sum)" ]
grep virtio /proc/interrupts | sed 's/^/disks: interrupts /'
! dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|I/O error|EXT4-fs error'
echo "disks: read back"
S
guest_initrd "$work/initrd" cloud "$(cat "$work/script")" $modules

new_image() {
	mkdir -p "$work/files"
	echo "from the host" >"$work/files/hello"
	rm -f "$1"
	truncate -s 128M "$1" && mke2fs -q -t ext4 -d "$work/files" "$1"
}

# disks NAME MACHINE EXPECTED-IN-LOG [options...]: a boot that writes, a reboot, a boot that reads
disks() {
	_name=$1 _machine=$2 _expected=$3
	shift 3
	new_image "$work/disk"
	timeout -k 5 180 "$KAGE" run -machine "$_machine" -m 512M -smp 2 -accel soft -kernel "$CACHE/cloud/vmlinuz" -initrd "$work/initrd" \
		-append "console=ttyS0 quiet panic=-1" -nographic -d guest_errors -drive "file=$work/disk,format=raw,if=none,id=d0,discard=unmap" "$@" \
		</dev/null >"$work/log" 2>&1
	if has "$work/log" '^disks: written' && has "$work/log" '^disks: read back' && has "$work/log" '^kage: status 0$' &&
		has "$work/log" "$_expected" && e2fsck -fn "$work/disk" >>"$work/log" 2>&1; then
		pass "$_name"
	else
		fail "$_name" "$work/log"
	fi
}

# Bit 34 of the features, from the left, is RING_PACKED; no bit 32 is a legacy driver.
modern='^disks: features .{32}1'
packed='^disks: features .{32}1.1'
disks "microvm, split rings" microvm "$modern.0" -device virtio-blk-device,drive=d0,serial=abc123 -device virtio-rng-device
disks "microvm, packed rings" microvm "$packed" -device virtio-blk-device,drive=d0,serial=abc123,packed=on,num-queues=2 -device virtio-rng-device,packed=on
disks "pc, split rings, MSI-X" pc 'interrupts .*MSI.*virtio0-req.1' -device virtio-blk-pci,drive=d0,serial=abc123 -device virtio-rng-pci
disks "pc, packed rings, MSI-X, an iothread" pc "$packed" -object iothread,id=io \
	-device virtio-blk-pci,drive=d0,serial=abc123,packed=on,iothread=io -device virtio-rng-pci,packed=on
disks "pc, without MSI-X" pc 'interrupts .*IO-APIC.*virtio0' -device virtio-blk-pci,drive=d0,serial=abc123,vectors=0 -device virtio-rng-pci,vectors=0
disks "pc, the legacy interface" pc '^disks: features .{32}0' -device virtio-blk-pci,drive=d0,serial=abc123,disable-modern=on -device virtio-rng-pci,disable-modern=on
disks "pc, virtio 1.x only, no event index, no indirect descriptors" pc "$modern.0" \
	-device virtio-blk-pci-non-transitional,drive=d0,serial=abc123,event_idx=off,indirect_desc=off -device virtio-rng-pci-non-transitional,rng=r \
	-object rng-random,id=r

used=$(du -k "$work/disk" | cut -f1)

# The same disk as a qcow2 image, from before the first write to after the reboot; kage img checks it.
new_image "$work/disk"
"$KAGE" img convert -f raw -O qcow2 "$work/disk" "$work/disk.qcow2" >"$work/log" 2>&1
timeout -k 5 180 "$KAGE" run -machine pc -m 512M -smp 2 -accel soft -kernel "$CACHE/cloud/vmlinuz" -initrd "$work/initrd" \
	-append "console=ttyS0 quiet panic=-1" -nographic -d guest_errors -blockdev "file,node-name=f,filename=$work/disk.qcow2" \
	-blockdev '{"driver":"qcow2","node-name":"q","file":"f","discard":"unmap"}' -device virtio-blk,drive=q,serial=abc123,packed=on -device virtio-rng \
	</dev/null >>"$work/log" 2>&1
if has "$work/log" '^disks: written' && has "$work/log" '^disks: read back' && has "$work/log" '^kage: status 0$' &&
	"$KAGE" img check -f qcow2 "$work/disk.qcow2" >>"$work/log" 2>&1 && "$KAGE" img convert -f qcow2 -O raw "$work/disk.qcow2" "$work/back" &&
	e2fsck -fn "$work/back" >>"$work/log" 2>&1; then
	pass "pc, a qcow2 image by -blockdev"
else
	fail "pc, a qcow2 image by -blockdev" "$work/log"
fi

# The same by SCSI, with a CD-ROM beside the disk.
cat >"$work/scsi" <<'S'
set -e
for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_mmio scsi_common scsi_mod sd_mod cdrom sr_mod virtio_scsi; do
	insmod /lib/modules/$m.ko
done
n=0
until [ -b /dev/sda ] && [ -b /dev/sr0 ]; do n=$((n + 1)); [ $n -lt 100 ]; sleep 0.1; done
mount -t ext4 /dev/sda /mnt
if [ ! -e /mnt/sum ]; then
	[ "$(cat /mnt/hello)" = "from the host" ]
	dd if=/dev/urandom of=/mnt/data bs=64k count=160 2>/dev/null
	sync
	echo 3 >/proc/sys/vm/drop_caches
	md5sum </mnt/data >/mnt/sum
	umount /mnt
	echo "scsi: written"
	reboot -f
fi
[ "$(md5sum </mnt/data)" = "$(cat /mnt/sum)" ]
rm /mnt/data
sync
fstrim /mnt
umount /mnt
mount -t iso9660 /dev/sr0 /mnt 2>/dev/null || [ "$(head -c 12 /dev/sr0)" = "hello CD-ROM" ]
! head -c 12 /dev/zero >/dev/sr0 2>/dev/null
! dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|I/O error|EXT4-fs error'
echo "scsi: read back"
S
modules=
for module in "$CACHE"/cloud/modules/*.ko; do modules="$modules $module:lib/modules/$(basename "$module")"; done
guest_initrd "$work/initrd-scsi" cloud "$(cat "$work/scsi")" $modules
truncate -s 1M "$work/cd" && printf 'hello CD-ROM' | dd of="$work/cd" conv=notrunc status=none
for machine in microvm pc; do
	new_image "$work/disk"
	timeout -k 5 180 "$KAGE" run -machine $machine -m 512M -smp 2 -accel soft -kernel "$CACHE/cloud/vmlinuz" -initrd "$work/initrd-scsi" \
		-append "console=ttyS0 quiet panic=-1" -nographic -d guest_errors -drive "file=$work/disk,format=raw,if=none,id=d0,discard=unmap" \
		-drive "file=$work/cd,format=raw,if=none,id=d1,media=cdrom" -object iothread,id=io -device virtio-scsi,id=s,iothread=io -device scsi-hd,drive=d0,bus=s.0,scsi-id=3 \
		-device scsi-cd,drive=d1 </dev/null >"$work/log" 2>&1
	if has "$work/log" '^scsi: written' && has "$work/log" '^scsi: read back' && has "$work/log" '^kage: status 0$' &&
		e2fsck -fn "$work/disk" >>"$work/log" 2>&1 && [ "$(du -k "$work/disk" | cut -f1)" -lt 10000 ]; then
		pass "$machine, SCSI disk and CD-ROM"
	else
		fail "$machine, SCSI disk and CD-ROM" "$work/log"
	fi
done

# What was trimmed is free again: of the 20 MiB that were written nothing is left beside the file system itself.
if [ "$used" -lt 10000 ]; then
	pass "discards free space"
else
	fail "discards free space: $used KiB are in use"
fi

# refused SAYS [options...]
refused() {
	_says=$1
	shift
	timeout 20 "$KAGE" run -accel soft -kernel "$CACHE/cloud/vmlinuz" -nographic "$@" </dev/null >"$work/log" 2>&1
	if [ $? = 1 ] && has "$work/log" "$_says" && [ "$(wc -l <"$work/log")" = 1 ]; then
		pass "refused: $_says"
	else
		fail "refused: $_says" "$work/log"
	fi
}
refused "No 'PCI' bus found for device 'virtio-blk-pci'" -device virtio-blk-pci,drive=d0 -drive "file=$work/disk,format=raw,if=none,id=d0"
refused "No 'virtio-bus' bus found for device 'virtio-rng-device'" -machine pc -device virtio-rng-device
refused "drive property not set" -device virtio-blk-device
refused "slot 1 function 0 not available for virtio-rng-pci, in use by PIIX3" -machine pc -device virtio-rng-pci,addr=1
refused "Device 'none' not found" -drive "file=$work/disk,format=raw,if=none,id=d0" -device virtio-blk-device,drive=d0,iothread=none
refused "$work/nothing" -drive "file=$work/nothing,format=raw"
refused "all 8 places of the machine are taken" $(for i in 1 2 3 4 5 6 7 8 9; do echo -device virtio-rng; done)

# Help prints what builds devices.
if "$KAGE" run -device help | grep -q '^name "virtio-blk-pci", bus PCI, alias "virtio-blk"' &&
	"$KAGE" run -device virtio-blk-pci,help | grep -q '^  num-queues=<number> ' && "$KAGE" run -drive help | grep -q '^  cache=<enum> '; then
	pass "help"
else
	fail "help"
fi
summary
