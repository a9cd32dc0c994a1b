#!/bin/sh
# SPDX-License-Identifier: MIT
# Disks and CD-ROMs by PIIX3's IDE and by AHCI: Debian's generic kernel (ata_piix, ahci) mounts an ext4 disk and an ISO image; what it wrote, and
# verified, before a reboot it reads back after it, and the host finds the file system whole. It trims, and queues. Then SeaBIOS boots
# GRUB and that kernel from the same ISO image, as a CD (El Torito) and as a disk, in the order that bootindex says. Then what is refused.
. "$(dirname "$0")/lib.sh"
need_guest generic/vmlinuz generic/modules/ahci.ko
for tool in mke2fs xorriso grub-mkrescue; do
	command -v $tool >/dev/null || { skip ide "no $tool"; summary; }
done

modules=
for module in "$CACHE"/generic/modules/*.ko; do modules="$modules $module:lib/modules/$(basename "$module")"; done

# What both kernels' scripts begin with.
{ echo "$guest_write_data"; cat <<'S'; } >"$work/begin"
set -e
for m in scsi_common scsi_mod crc64 crc64-rocksoft crct10dif_common crct10dif_generic crc-t10dif t10-pi sd_mod cdrom sr_mod libata ata_piix libahci ahci \
	crc16 crc32c_generic mbcache jbd2 ext4 isofs; do
	insmod /lib/modules/$m.ko || echo "no $m"
done
# wait_for FILE
wait_for() {
	n=0
	until [ -e $1 ]; do n=$((n + 1)); [ $n -lt 100 ] || { echo "no $1"; dmesg | tail -n 30; exit 1; }; sleep 0.1; done
}
clean() {
	! dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|I/O error|EXT4-fs error|ata[0-9.]*: .*(exception|failed|error|timeout)'
}
S
{
	cat "$work/begin"
	cat <<'S'
wait_for /dev/sda
wait_for /dev/sr0
mount -t ext4 -o discard /dev/sda /mnt
if [ ! -e /mnt/sum ]; then
	[ "$(cat /mnt/hello)" = "from the host" ]
	write_data
	umount /mnt
	clean
	echo "ide: written"
	reboot -f
fi
[ "$(cat /mnt/data* | md5sum)" = "$(cat /mnt/sum)" ]
rm /mnt/data*
sync
fstrim /mnt
umount /mnt
echo "ide: model $(cat /sys/block/sda/device/model) depth $(cat /sys/block/sda/device/queue_depth) cache $(cat /sys/block/sda/queue/write_cache)"
dmesg | grep -E '^.*ata[0-9.]+: .*(SATA link up|configured for)' | sed 's/.*\] /ide: /'
grep -E 'ata|ahci' /proc/interrupts | sed 's/^/ide: interrupts /'
mount -t iso9660 -o ro /dev/sr0 /mnt
(cd /mnt && md5sum -c sums >/dev/null)
umount /mnt
[ "$(dd if=/dev/sr0 bs=2048 skip=16 count=1 2>/dev/null | head -c 6 | tail -c 5)" = CD001 ]
! dd if=/dev/zero of=/dev/sr0 bs=2048 count=1 2>/dev/null
dd if=/dev/sda of=/dev/null bs=4096 count=64 iflag=direct 2>/dev/null
! dd if=/dev/sda of=/dev/null bs=512 skip=262144 count=1 2>/dev/null | grep .
clean
echo "ide: read back"
S
} >"$work/script"
guest_initrd "$work/initrd" generic "$(cat "$work/script")" $modules

# A CD that is bootable, as a disk too: GRUB, the kernel, an initramfs that checks what the kernel sees of it.
{
	cat "$work/begin"
	cat <<'S'
device=$(sed 's/.*device=\([a-z0-9]*\).*/\1/' /proc/cmdline)
for d in sr0 sda sdb; do [ ! -e /dev/$d ] || echo "iso: $d is there"; done
for d in sr0 sda sdb; do
	n=0
	while [ $n -lt 30 ]; do
		mount -t iso9660 -o ro /dev/$d /mnt 2>/dev/null && break
		n=$((n + 1))
		sleep 0.1
	done
	[ ! -e /mnt/sums ] || break
done
(cd /mnt && md5sum -c sums >/dev/null)
clean
echo "iso: booted, and mounted from $d"
S
} >"$work/iso-script"
guest_initrd "$work/initrd-iso" generic "$(cat "$work/iso-script")" $modules
mkdir -p "$work/iso/boot/grub"
cp "$CACHE/generic/vmlinuz" "$work/iso/boot/vmlinuz"
cp "$work/initrd-iso" "$work/iso/boot/initrd"
dd if=/dev/urandom of="$work/iso/data" bs=64k count=16 status=none
(cd "$work/iso" && md5sum data boot/initrd >sums)
cat >"$work/iso/boot/grub/grub.cfg" <<'S'
serial --unit=0 --speed=115200
terminal_output serial
echo GRUB starts from $root
linux /boot/vmlinuz console=ttyS0 quiet panic=-1
initrd /boot/initrd
boot
S
grub-mkrescue -d /usr/lib/grub/i386-pc -o "$work/cd.iso" "$work/iso" >"$work/log" 2>&1 || { fail "a bootable ISO image" "$work/log"; summary; }

new_image() {
	mkdir -p "$work/files"
	echo "from the host" >"$work/files/hello"
	rm -f "$1"
	truncate -s 128M "$1" && mke2fs -q -t ext4 -d "$work/files" "$1"
}

# disks NAME EXPECTED-IN-LOG [options...]: a boot that writes, a reboot, a boot that reads
disks() {
	_name=$1 _expected=$2
	shift 2
	new_image "$work/disk"
	timeout -k 5 180 "$KAGE" run -machine "$(board pc)" -m 512M -smp 2 -accel soft -kernel "$CACHE/generic/vmlinuz" -initrd "$work/initrd" \
		-append "console=ttyS0 quiet panic=-1" -nographic -d guest_errors "$@" </dev/null >"$work/log" 2>&1
	if has "$work/log" '^ide: written' && has "$work/log" '^ide: read back' && has "$work/log" '^kage: status 0$' &&
		has "$work/log" "$_expected" && e2fsck -fn "$work/disk" >>"$work/log" 2>&1 && [ "$(du -k "$work/disk" | cut -f1)" -lt 10000 ]; then
		pass "$_name"
	else
		fail "$_name" "$work/log"
	fi
}
disks "pc, PIIX3 IDE: disk and CD-ROM" '^ide: model DISK-42 +depth 1 cache write back' \
	-drive "file=$work/disk,format=raw,discard=unmap,if=none,id=d" -device ide-hd,drive=d,bus=ide.0,model=DISK-42 -cdrom "$work/cd.iso"
disks "pc, AHCI: disk and CD-ROM, queued, MSI" '^ide: interrupts .*MSI.*ahci' \
	-device ahci,id=sata -drive "file=$work/disk,format=raw,discard=unmap,if=none,id=d" -device ide-hd,drive=d,bus=sata.0 \
	-drive "file=$work/cd.iso,if=none,id=c,media=cdrom" -device ide-cd,drive=c,bus=sata.3
if has "$work/log" 'model KAGE HARDDISK +depth 32' && has "$work/log" 'ide: ata.*SATA link up 6.0 Gbps'; then
	pass "AHCI: commands are queued"
else
	fail "AHCI: commands are queued" "$work/log"
fi

# boots NAME EXPECTED [options...]: firmware finds GRUB
boots() {
	_name=$1 _expected=$2
	shift 2
	timeout -k 5 120 "$KAGE" run -machine "$(board "${machine:-pc}")" -m 512M -accel soft -nographic -no-reboot -d guest_errors "$@" </dev/null >"$work/log" 2>&1
	if has "$work/log" 'GRUB starts from' && has "$work/log" "$_expected" && has "$work/log" '^kage: status 0$'; then
		pass "$_name"
	else
		fail "$_name" "$work/log"
	fi
}
truncate -s 16M "$work/blank"
boots "SeaBIOS boots a CD by El Torito, ATAPI" '^iso: booted, and mounted from sr0' -cdrom "$work/cd.iso" -hda "$work/blank" -boot d
boots "SeaBIOS boots the disk that bootindex names, AHCI" '^iso: booted, and mounted from sdb' -hda "$work/blank" -device ahci,id=sata \
	-drive "file=$work/cd.iso,format=raw,if=none,id=d,readonly=on" -device ide-hd,drive=d,bus=sata.5,bootindex=1
machine=q35
boots "SeaBIOS boots a CD by El Torito, q35's AHCI" '^iso: booted, and mounted from sr0' -cdrom "$work/cd.iso" -drive "file=$work/blank,format=raw,index=0" \
	-boot once=d
machine=pc
boots "SeaBIOS boots a disk, IDE" '^iso: booted, and mounted from sda' -drive "file=$work/cd.iso,format=raw,readonly=on,index=1"

# refused SAYS [options...]
refused() {
	_says=$1
	shift
	timeout 20 "$KAGE" run -accel soft -machine pc -nographic "$@" </dev/null >"$work/log" 2>&1
	if [ $? = 1 ] && has "$work/log" "$_says" && [ "$(wc -l <"$work/log")" = 1 ]; then
		pass "refused: $_says"
	else
		fail "refused: $_says" "$work/log"
	fi
}
"$KAGE" img create -f qcow2 "$work/image" 1M >/dev/null
refused "looks like a qcow2 image; say its format" -hda "$work/image"
refused "drive property not set" -device ide-hd
refused "Bus 'ide.2' not found" -drive "file=$work/blank,format=raw,if=none,id=d" -device ide-hd,drive=d,bus=ide.2
refused "IDE unit 1 is in use" -hdb "$work/blank" -device ide-cd,bus=ide.0,unit=1
refused "Can't create IDE unit 2, bus supports only 2 units" -device ide-cd,bus=ide.1,unit=2
refused "Bus 'ide.0' is full" $(for i in 1 2 3 4 5; do echo -device ide-cd; done)
refused "The bootindex 3 has already been used" -drive "file=$work/blank,format=raw,if=none,id=d" -device ide-hd,drive=d,bootindex=3 \
	-device ide-cd,bootindex=3
summary
