#!/bin/sh
# SPDX-License-Identifier: MIT
# Board q35: SeaBIOS by itself; Debian's cloud kernel with disks behind a root port and on the root bus, by messages and by pins, with one and
# four processors, over a reboot by ACPI to a power-off by ACPI, with the HPET for a clock; then GRUB and that kernel from an ISO image as
# a virtio disk, by SeaBIOS and by OVMF in flash memory, which keeps a variable of the guest's over two runs.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz cloud/modules/virtio_blk.ko cloud/modules/efivarfs.ko
: "${GUEST_PROGS:=build/tests/system/guest-progs}"
command -v mke2fs >/dev/null || { skip q35 "no mke2fs"; summary; }

# ---- SeaBIOS alone ----

gave_up() { grep -q '^No bootable device' "$work/debug" 2>/dev/null; }
watched="-machine $(board q35) -smp 2 -nographic -serial null -debugcon file:$work/debug"
if watch 60 gave_up && has "$work/debug" '^PCIe: using q35 mmconfig at 0xb0000000' && has "$work/debug" '^Found 2 cpu\(s\)' &&
	has "$work/debug" '^Found 4 PCI devices' && has "$work/debug" '^Moving pm_base to 0x600$' && has "$work/debug" '^table\(50434146\)='; then
	pass "SeaBIOS to 'No bootable device'"
else
	fail "SeaBIOS to 'No bootable device'" "$work/debug"
fi

# ---- Linux ----

modules=
for module in "$CACHE"/cloud/modules/*.ko; do modules="$modules $module:lib/modules/$(basename "$module")"; done
cat >"$work/begin" <<'S'
set -e
for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk virtio-rng scsi_common scsi_mod sd_mod cdrom sr_mod virtio_scsi; do
	insmod /lib/modules/$m.ko
done
[ ! -d /sys/firmware/efi ] || insmod /lib/modules/efivarfs.ko
clean() {
	! dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|I/O error|EXT4-fs error|nobody cared|ACPI.*(Error|Warning|BIOS (Error|Warning|bug))|Firmware (Bug|Warn)|no compatible bridge window'
}
S
{
	cat "$work/begin"
	cat <<'S'
[ $(nproc) = $(sed 's/.*cpus=\([0-9]*\).*/\1/' /proc/cmdline) ]
for disk in vda vdb; do
	mount -t ext4 /dev/$disk /mnt
	if [ ! -e /mnt/sum ]; then
		dd if=/dev/urandom of=/mnt/data bs=64k count=40 2>/dev/null
		md5sum </mnt/data >/mnt/sum
		last=first
	else
		[ "$(md5sum </mnt/data)" = "$(cat /mnt/sum)" ]
		last=second
	fi
	umount /mnt
done
clean
echo "q35: the $last boot"
[ $last = second ] || reboot -f
for d in /sys/bus/pci/devices/*; do
	echo "pci: $(basename $d) $(cat $d/vendor):$(cat $d/device) $(cat $d/class) $(wc -c <$d/config) $(basename $(readlink -f $d/driver))"
done
echo "pci: secondary $(hexdump -s 24 -n 3 -e '3/1 "%02x "' /sys/bus/pci/devices/0000:00:02.0/config)"
grep virtio /proc/interrupts | sed 's/^/interrupts: /'
[ "$(head -c 512 /dev/hwrng | wc -c)" = 512 ]
# Reserved by firmware, or by the tables.
grep -Eiq '^ *b0000000-bfffffff : PCI (MMCONFIG|ECAM) 0000 .bus 00-ff' /proc/iomem
dmesg | grep -q 'hpet0: at MMIO 0xfed00000, IRQs 2, 8, 0'
grep -q nomsi /proc/cmdline || dmesg | grep -q '_OSC: OS now controls .PME AER PCIeCapability.'
[ -e /sys/firmware/acpi/tables/HPET ] && [ -e /sys/firmware/acpi/tables/MCFG ]
[ "$(cat /sys/class/dmi/id/sys_vendor) $(cat /sys/class/dmi/id/product_name)" = "Kage q35" ]
echo "clock: $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
! grep -q clocksource=hpet /proc/cmdline || /bin/guest-clocksource $(dmesg | sed -n 's/.*tsc: Detected \([0-9]*\)\.\([0-9]*\) MHz.*/\1\2/p' | head -n 1)
echo "q35: done"
S
} >"$work/script"
guest_initrd "$work/initrd" cloud "$(cat "$work/script")" $modules "$GUEST_PROGS/guest-clocksource"

# linux NAME CPUS COMMAND-LINE INTERRUPTS CLOCK: two boots
linux() {
	_name=$1 _cpus=$2 _append=$3 _interrupts=$4 _clock=$5
	for _disk in a b; do
		rm -f "$work/$_disk"
		truncate -s 32M "$work/$_disk" && mke2fs -q -t ext4 "$work/$_disk"
	done
	timeout -k 5 200 "$KAGE" run -machine "$(board q35)" -m 512M -smp "$_cpus" -accel soft -kernel "$CACHE/cloud/vmlinuz" -initrd "$work/initrd" \
		-append "console=ttyS0 quiet panic=-1 cpus=$_cpus $_append" -nographic -d guest_errors -device pcie-root-port,id=rp,chassis=1,slot=7 \
		-drive "file=$work/a,format=raw,if=none,id=a" -drive "file=$work/b,format=raw,if=none,id=b" -device virtio-rng-pci,addr=5.1,multifunction=on \
		-device virtio-blk-pci,drive=b,bus=pcie.0,addr=5.0,multifunction=on -device virtio-blk-pci,drive=a,bus=rp </dev/null >"$work/log" 2>&1
	for _line in '0000:00:00.0 0x8086:0x29c0 0x060000 256 ' '0000:00:02.0 0x1b36:0x000c 0x060400 4096 pcieport' \
		'0000:00:05.0 0x1af4:0x1001 0x010000 256 virtio-pci' '0000:00:05.1 0x1af4:0x1005 0x00ff00 256 virtio-pci' \
		'0000:00:1f.0 0x8086:0x2918 0x060100 256 ' '0000:00:1f.2 0x8086:0x2922 0x010601 256 ' '0000:00:1f.3 0x8086:0x2930 0x0c0500 256 ' \
		'0000:01:00.0 0x1af4:0x1042 0x010000 4096 virtio-pci' 'secondary 00 01 01'; do
		has "$work/log" "^pci: $_line" || { fail "$_name: no $_line" "$work/log"; return; }
	done
	if has "$work/log" '^q35: the first boot' && has "$work/log" '^q35: the second boot' && has "$work/log" '^q35: done' &&
		has "$work/log" '^kage: status 0$' && has "$work/log" "^interrupts: .*$_interrupts" && has "$work/log" "^clock: $_clock" &&
		e2fsck -fn "$work/a" >>"$work/log" 2>&1 && e2fsck -fn "$work/b" >>"$work/log" 2>&1; then
		pass "$_name"
	else
		fail "$_name" "$work/log"
	fi
}
linux "MSI-X, the HPET for a clock" 1 clocksource=hpet 'PCI-MSI.*virtio.*-req.0' hpet
linux "MSI-X, four processors" 4 '' 'PCI-MSI.*virtio.*-req.3' tsc
linux "pins, four processors" 4 pci=nomsi 'IO-APIC +2[0-3]-fasteoi .*virtio' tsc

# ---- GRUB ----

command -v grub-mkrescue >/dev/null && command -v xorriso >/dev/null && command -v mmd >/dev/null &&
	[ -d /usr/lib/grub/i386-pc ] && [ -d /usr/lib/grub/x86_64-efi ] || { skip "booting from disks" "no grub-mkrescue for both firmwares"; summary; }
{
	cat "$work/begin"
	cat <<'S'
disk=$(ls -d /sys/block/[vs]d* | sed 's/.*\///' | head -n 1)
mount -t iso9660 -o ro /dev/$disk /mnt 2>/dev/null || true
[ "$(dd if=/dev/$disk bs=2048 skip=16 count=1 2>/dev/null | head -c 6 | tail -c 5)" = CD001 ]
echo "boot: from $disk"
if [ -d /sys/firmware/efi ]; then
	variable=/sys/firmware/efi/efivars/KageTest-d3b07384-d9a0-4c1b-8f5e-111111111111
	mount -t efivarfs efivarfs /sys/firmware/efi/efivars
	if [ -e $variable ]; then
		[ "$(tail -c +5 $variable)" = "of the first run" ]
		echo "boot: the variable is there"
	else
		printf '\007\000\000\000of the first run' >$variable
		echo "boot: the variable is new"
	fi
	[ "$(cat /sys/class/dmi/id/sys_vendor)" = Kage ]
	dmesg | grep -q 'SMBIOS 2.8 present'
fi
clean
echo "boot: done"
S
} >"$work/script"
guest_initrd "$work/initrd" cloud "$(cat "$work/script")" $modules
mkdir -p "$work/iso/boot/grub"
cp "$CACHE/cloud/vmlinuz" "$work/iso/boot/vmlinuz"
cp "$work/initrd" "$work/iso/boot/initrd"
cat >"$work/iso/boot/grub/grub.cfg" <<'S'
serial --unit=0 --speed=115200
terminal_output serial
echo GRUB for $grub_platform
linux /boot/vmlinuz console=ttyS0 quiet panic=-1
initrd /boot/initrd
boot
S
grub-mkrescue -o "$work/disk.iso" "$work/iso" >"$work/log" 2>&1 || { fail "a bootable ISO image" "$work/log"; summary; }

# boots NAME EXPECTED [options...]: firmware finds GRUB
boots() {
	_name=$1 _expected=$2
	shift 2
	timeout -k 5 150 "$KAGE" run -machine "$(board q35)" -m 512M -smp 2 -accel soft -nographic -no-reboot -d guest_errors \
		-drive "file=$work/disk.iso,format=raw,if=none,id=d,readonly=on" "$@" </dev/null >"$work/log" 2>&1
	if has "$work/log" "GRUB for $_expected" && has "$work/log" '^boot: done' && has "$work/log" '^kage: status 0$'; then
		pass "$_name"
	else
		fail "$_name" "$work/log"
		return 1
	fi
}
boots "SeaBIOS boots GRUB, virtio-blk behind a root port" pc -device pcie-root-port,id=rp -device virtio-blk-pci,drive=d,bus=rp,bootindex=1
boots "SeaBIOS boots GRUB, virtio-scsi" pc -device virtio-scsi-pci,id=s -device scsi-hd,drive=d,bus=s.0

ovmf=/usr/share/OVMF/OVMF_CODE_4M.fd
[ -e $ovmf ] || { skip "OVMF" "the package ovmf is not there"; summary; }
cp /usr/share/OVMF/OVMF_VARS_4M.fd "$work/vars"
boots "OVMF boots GRUB, virtio-blk behind a root port" efi -drive "if=pflash,format=raw,unit=0,readonly=on,file=$ovmf" \
	-drive "if=pflash,format=raw,unit=1,file=$work/vars" -device pcie-root-port,id=rp -device virtio-blk-pci,drive=d,bus=rp,bootindex=1 &&
	if has "$work/log" '^boot: the variable is new' && ! cmp -s "$work/vars" /usr/share/OVMF/OVMF_VARS_4M.fd; then
		pass "OVMF writes a variable down"
	else
		fail "OVMF writes a variable down" "$work/log"
	fi
machine_flash=$(board q35,pflash0=code,pflash1=vars)
timeout -k 5 150 "$KAGE" run -machine "$machine_flash" -m 512M -smp 2 -accel soft -nographic -no-reboot -d guest_errors \
	-blockdev "file,node-name=codefile,filename=$ovmf,read-only=on" -blockdev raw,node-name=code,file=codefile,read-only=on \
	-blockdev "raw,node-name=vars,file.driver=file,file.filename=$work/vars" \
	-drive "file=$work/disk.iso,format=raw,if=none,id=d,readonly=on" -device virtio-scsi-pci,id=s -device scsi-hd,drive=d,bus=s.0,bootindex=1 </dev/null >"$work/log" 2>&1
if has "$work/log" 'GRUB for efi' && has "$work/log" '^boot: the variable is there' && has "$work/log" '^boot: done' && has "$work/log" '^kage: status 0$'; then
	pass "OVMF keeps its variables; flash memory by -blockdev, virtio-scsi"
else
	fail "OVMF keeps its variables; flash memory by -blockdev, virtio-scsi" "$work/log"
fi

# refused SAYS [options...]
refused() {
	_says=$1
	shift
	timeout 20 "$KAGE" run -accel soft -nographic "$@" </dev/null >"$work/log" 2>&1
	if [ $? = 1 ] && has "$work/log" "$_says" && [ "$(wc -l <"$work/log")" = 1 ]; then
		pass "refused: $_says"
	else
		fail "refused: $_says" "$work/log"
	fi
}
refused "Bus 'rp' not found" -machine q35 -device virtio-rng-pci,bus=rp
refused "parent device only allows plugging into slot 0" -machine q35 -device pcie-root-port,id=rp -device virtio-rng-pci,bus=rp,addr=1
refused "slot 31 function 0 not available for virtio-rng-pci, in use by ICH9 LPC" -machine q35 -device virtio-rng-pci,addr=1f
refused "only be on the root bus of PCI Express" -machine pc -device pcie-root-port,id=rp
refused "pflash1 requires pflash0" -machine q35 -drive "if=pflash,format=raw,unit=1,file=$work/vars"
refused "has no firmware; pc and q35 have" -machine microvm -drive "if=pflash,format=raw,file=$work/vars"
refused "in pieces of 4 KiB" -machine q35 -drive "if=pflash,format=raw,file=$work/initrd,readonly=on"
summary
