#!/bin/sh
# SPDX-License-Identifier: MIT
# What `kage image debian` does: a Debian disk that boots, without loop devices, and without a mount outside of namespaces of its own.
# It is compiled into kage, which has checked the options and gives them in the environment (image.c has the table):
#   KAGE_IMAGE_{OUT,SIZE,HOSTNAME,USER,SSH_KEY,PACKAGES,FIRMWARE,MIRROR,SUITE,KERNEL,PASSWORD,ROOT_PASSWORD,CLOUD_INIT,FORMAT,CACHE,VERBOSE}
#   KAGE_IMAGE_SCRIPT  this text, for the parts that run by themselves: KAGE_IMAGE_KAGE  the kage that converts
# Without an argument it is the outer part: an ordinary process of whoever called it. It starts the steps, each in namespaces of its
# own, waits for them, shows where they are, and puts away what they leave when it is stopped.
set -eu

part=${1:-}
case $KAGE_IMAGE_FIRMWARE in
bios) bios=1 uefi= ;;
uefi) bios= uefi=1 ;;
*) bios=1 uefi=1 ;;
esac
# What is one kernel's on Debian is a meta package's here: upgrades follow it.
case $KAGE_IMAGE_KERNEL in
cloud) kernel=linux-image-cloud-amd64 ;;
*) kernel=linux-image-amd64 ;;
esac

# In sectors of 512 bytes. The root partition is the last on the disk, so that it can grow, and the first by number, as on Debian's cloud images.
bios_start=2048 bios_sectors=6144
efi_start=8192 efi_sectors=131072
root_start=139264
disk_sectors=$((KAGE_IMAGE_SIZE / 512))
root_sectors=$(((disk_sectors - root_start - 2048) / 2048 * 2048))

# ---- The steps, as root, or as root of a user namespace ----

packages() {
	list="systemd-sysv,udev,kmod,dbus,systemd-resolved,systemd-timesyncd,libpam-systemd,initramfs-tools,zstd,e2fsprogs,$kernel"
	list="$list,login,passwd,sudo,apt,ca-certificates,netbase,iproute2,iputils-ping,procps,less,nano,fdisk,grub2-common,grub-common"
	[ -z "$bios" ] || list="$list,grub-pc-bin"
	[ -z "$uefi" ] || list="$list,grub-efi-amd64-bin,grub-efi-amd64-signed,shim-signed,dosfstools"
	[ -z "$KAGE_IMAGE_SSH_KEY" ] || list="$list,openssh-server"
	[ -z "$KAGE_IMAGE_CLOUD_INIT" ] || list="$list,cloud-init"
	[ -z "$KAGE_IMAGE_PACKAGES" ] || list="$list,$KAGE_IMAGE_PACKAGES"
	# No languages but C's own, which is UTF-8.
	set -- --mode=root --variant=minbase --verbose "--include=$list" --aptopt='Acquire::Retries "3"' --aptopt='APT::Install-Recommends "false"' \
		--dpkgopt=force-unsafe-io \
		'--customize-hook=sh -c "$KAGE_IMAGE_SCRIPT" kage customize "$1"'
	if [ -n "$KAGE_IMAGE_CACHE" ]; then
		set -- "$@" --skip=download/empty --skip=essential/unlink \
			'--setup-hook=sh -c "$KAGE_IMAGE_SCRIPT" kage debs-in "$1"' '--customize-hook=sh -c "$KAGE_IMAGE_SCRIPT" kage debs-out "$1"'
	fi
	mmdebstrap "$@" "$KAGE_IMAGE_SUITE" "$work/root" ${KAGE_IMAGE_MIRROR:+"deb $KAGE_IMAGE_MIRROR $KAGE_IMAGE_SUITE main"}
}

# Packages that were downloaded once. apt compares each with its hash before it takes it. What nothing has used for 90 days goes.
debs_in() {
	mkdir -p "$1/var/cache/apt/archives/partial"
	for deb in "$KAGE_IMAGE_CACHE"/*.deb; do
		[ ! -e "$deb" ] || cp "$deb" "$1/var/cache/apt/archives/"
	done
}
debs_out() {
	for deb in "$1"/var/cache/apt/archives/*.deb; do
		name=$(basename "$deb")
		if [ -e "$KAGE_IMAGE_CACHE/$name" ]; then
			! grep -q "^Package: ${name%%_*}\$" "$1/var/lib/dpkg/status" || touch "$KAGE_IMAGE_CACHE/$name"
		else
			cp "$deb" "$KAGE_IMAGE_CACHE/.new.$$" && mv "$KAGE_IMAGE_CACHE/.new.$$" "$KAGE_IMAGE_CACHE/$name"
		fi
	done
	find "$KAGE_IMAGE_CACHE" -maxdepth 1 -name '*.deb' -mtime +90 -delete
	rm -f "$1"/var/cache/apt/archives/*.deb
}

# In the new root, while mmdebstrap has mounted there what programs need.
customize() {
	root=$1
	chroot "$root" useradd -m -s /bin/bash -G sudo,adm,systemd-journal "$KAGE_IMAGE_USER"
	set_password "$KAGE_IMAGE_USER" "$KAGE_IMAGE_PASSWORD"
	if [ -n "${KAGE_IMAGE_ROOT_PASSWORD+set}" ]; then
		set_password root "$KAGE_IMAGE_ROOT_PASSWORD"
	else
		chroot "$root" passwd -q -l root
	fi
	echo "$KAGE_IMAGE_USER ALL=(ALL) NOPASSWD: ALL" >"$root/etc/sudoers.d/50-$KAGE_IMAGE_USER"
	chmod 440 "$root/etc/sudoers.d/50-$KAGE_IMAGE_USER"
	if [ -n "$KAGE_IMAGE_SSH_KEY" ]; then
		home=$root/home/$KAGE_IMAGE_USER
		mkdir -m 700 "$home/.ssh"
		cat "$KAGE_IMAGE_SSH_KEY" >"$home/.ssh/authorized_keys"
		chmod 600 "$home/.ssh/authorized_keys"
		chroot "$root" chown -R "$KAGE_IMAGE_USER:" "/home/$KAGE_IMAGE_USER/.ssh"
	fi
	chroot "$root" systemctl -q enable systemd-networkd systemd-resolved systemd-timesyncd
	if [ -n "$bios" ]; then
		mkdir -p "$root/boot/grub/i386-pc"
		cp "$root"/usr/lib/grub/i386-pc/*.mod "$root"/usr/lib/grub/i386-pc/*.lst "$root/boot/grub/i386-pc/"
		chroot "$root" grub-mkimage -O i386-pc -o /boot/grub/i386-pc/core.img -p '(,gpt1)/boot/grub' biosdisk part_gpt ext2 normal
		cp "$root/usr/lib/grub/i386-pc/boot.img" "$root/boot/grub/i386-pc/"
	fi
}

# set_password USER TEXT: an empty one lets in without asking
set_password() {
	if [ -n "$2" ]; then
		printf '%s:%s\n' "$1" "$2" | chroot "$root" chpasswd
	else
		chroot "$root" passwd -q -d "$1"
	fi
}

# Nothing is mounted there any more.
files() {
	root=$work/root
	root_uuid=$(cat "$work/root-uuid") efi_id=$(cat "$work/efi-id")
	rm -rf --one-file-system "$root"/dev/* "$root"/run/* "$root"/tmp/*
	rm -f "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$root"/etc/apt/apt.conf.d/99mmdebstrap
	echo "$KAGE_IMAGE_HOSTNAME" >"$root/etc/hostname"
	printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n' \
		"$KAGE_IMAGE_HOSTNAME" >"$root/etc/hosts"
	: >"$root/etc/machine-id" # systemd makes one up at the first boot
	rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
	ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
	echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
	{
		echo "UUID=$root_uuid / ext4 defaults,errors=remount-ro 0 1"
		[ -z "$uefi" ] || echo "UUID=$(echo "$efi_id" | sed 's/^..../&-/') /boot/efi vfat umask=0077,nofail 0 2"
	} >"$root/etc/fstab"
	[ -z "$uefi" ] || mkdir -p "$root/boot/efi"
	printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/80-dhcp.network"
	if [ -n "$KAGE_IMAGE_CLOUD_INIT" ]; then
		mkdir -p "$root/var/lib/cloud/seed/nocloud" "$root/etc/cloud/cloud.cfg.d"
		for name in user-data meta-data vendor-data network-config; do
			[ ! -e "$KAGE_IMAGE_CLOUD_INIT/$name" ] || cp "$KAGE_IMAGE_CLOUD_INIT/$name" "$root/var/lib/cloud/seed/nocloud/"
		done
		# Only what stands on the disk: no search for servers of clouds.
		echo 'datasource_list: [ NoCloud, None ]' >"$root/etc/cloud/cloud.cfg.d/90-nocloud.cfg"
	fi
	if [ -n "$KAGE_IMAGE_MIRROR" ] && [ "${KAGE_IMAGE_MIRROR#file:}" != "$KAGE_IMAGE_MIRROR" ]; then
		: >"$root/etc/apt/sources.list" # the host's directory is not there in the guest
	fi
	grub_files
}

grub_files() {
	mkdir -p "$root/etc/default" "$root/boot/grub"
	# For update-grub, which the next kernel's package calls.
	cat >"$root/etc/default/grub" <<-CFG
		GRUB_DEFAULT=0
		GRUB_TIMEOUT_STYLE=hidden
		GRUB_TIMEOUT=1
		GRUB_DISTRIBUTOR=Debian
		GRUB_CMDLINE_LINUX_DEFAULT=""
		GRUB_CMDLINE_LINUX="$cmdline"
		GRUB_TERMINAL="console serial"
		GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
		GRUB_DISABLE_OS_PROBER=true
	CFG
	version=$(cd "$root/boot" && ls vmlinuz-* | sort -V | tail -n 1)
	version=${version#vmlinuz-}
	cat >"$root/boot/grub/grub.cfg" <<-CFG
		# The first of its kind; update-grub writes the next.
		set default=0
		set timeout_style=hidden
		set timeout=1
		if [ "\$grub_platform" = pc ]; then
		  # UEFI's console is on the serial line anyway.
		  serial --unit=0 --speed=115200
		  terminal_input console serial
		  terminal_output console serial
		fi
		search --no-floppy --fs-uuid --set=root $root_uuid
		menuentry 'Debian GNU/Linux' --class debian --class gnu-linux {
		  linux /boot/vmlinuz-$version root=UUID=$root_uuid ro $cmdline
		  initrd /boot/initrd.img-$version
		}
		menuentry 'Debian GNU/Linux (rescue)' --class debian --class gnu-linux {
		  linux /boot/vmlinuz-$version root=UUID=$root_uuid ro single $cmdline
		  initrd /boot/initrd.img-$version
		}
	CFG
}
cmdline='console=tty0 console=ttyS0,115200'

filesystem() {
	files
	# One set of features wherever it is made, so that the guest's GRUB and fsck know all of them.
	cat >"$work/mke2fs.conf" <<-CFG
		[defaults]
		base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
		default_mntopts = acl,user_xattr
		blocksize = 4096
		inode_size = 256
		inode_ratio = 16384
		[fs_types]
		ext4 = {
		features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
		}
	CFG
	truncate -s "$KAGE_IMAGE_SIZE" "$work/disk"
	MKE2FS_CONFIG=$work/mke2fs.conf mke2fs -q -F -t ext4 -L root -U "$(cat "$work/root-uuid")" -d "$work/root" \
		-E "root_owner=0:0,offset=$((root_start * 512))" "$work/disk" "$((root_sectors / 2))k"
}

# put FILE SECTOR [COUNT-OF-BYTES]: into the disk
put() { dd if="$1" of="$work/disk" bs=512 seek="$2" conv=notrunc,sparse status=none; }
# le64 NUMBER: 8 bytes
le64() {
	_number=$1 _byte=0
	while [ $_byte -lt 8 ]; do
		# shellcheck disable=SC2059
		printf "\\$(printf %03o $((_number & 255)))"
		_number=$((_number >> 8)) _byte=$((_byte + 1))
	done
}

boot() {
	{
		echo 'label: gpt'
		echo "1: start=$root_start, size=$root_sectors, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root"
		[ -z "$bios" ] || echo "14: start=$bios_start, size=$bios_sectors, type=21686148-6449-6E6F-744E-656564454649, name=BIOS"
		[ -z "$uefi" ] || echo "15: start=$efi_start, size=$efi_sectors, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=EFI"
	} | sfdisk -q --no-reread --no-tell-kernel "$work/disk"
	[ -z "$bios" ] || boot_bios
	[ -z "$uefi" ] || boot_uefi
}

# What grub-bios-setup writes: boot.img's code into the first sector, and where the next one is at 5Ch of it; the core into the BIOS boot
# partition, in whose first sector the list of the others begins at 1F4h with their first (grub-core/boot/i386/pc, boot.S and diskboot.S).
boot_bios() {
	grub=$work/root/boot/grub/i386-pc
	[ "$(wc -c <"$grub/core.img")" -le $((bios_sectors * 512)) ] || die "GRUB's core does not fit"
	head -c 440 "$grub/boot.img" >"$work/boot"
	le64 $bios_start | dd of="$work/boot" bs=1 seek=92 conv=notrunc status=none
	dd if="$work/boot" of="$work/disk" conv=notrunc bs=440 count=1 status=none
	cp "$grub/core.img" "$work/core"
	le64 $((bios_start + 1)) | dd of="$work/core" bs=1 seek=500 conv=notrunc status=none
	put "$work/core" $bios_start
}

# Where firmware looks on a disk it does not know: Microsoft's shim there loads Debian's GRUB, both signed, from its own directory.
boot_uefi() {
	efi=$work/efi
	truncate -s $((efi_sectors * 512)) "$efi"
	mformat -i "$efi" -v EFI -N "$(cat "$work/efi-id")" -h 64 -s 32 -T $efi_sectors ::
	mmd -i "$efi" ::/EFI ::/EFI/BOOT ::/EFI/debian
	mcopy -i "$efi" "$work/root/usr/lib/shim/shimx64.efi.signed" ::/EFI/BOOT/BOOTX64.EFI
	mcopy -i "$efi" "$work/root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" ::/EFI/BOOT/grubx64.efi
	printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n' "$(cat "$work/root-uuid")" >"$work/grub.cfg"
	mcopy -i "$efi" "$work/grub.cfg" ::/EFI/debian/grub.cfg
	put "$efi" $efi_start
}

write() {
	if [ "$KAGE_IMAGE_FORMAT" = qcow2 ]; then
		"$KAGE_IMAGE_KAGE" img convert -f raw -O qcow2 "$work/disk" "$work/out"
		rm "$work/disk"
	else
		mv "$work/disk" "$work/out"
	fi
}

die() {
	echo "E: $1" >&2
	exit 1
}

case $part in
packages | filesystem | boot | write)
	work=$KAGE_IMAGE_WORK
	$part
	exit
	;;
customize | debs-in | debs-out)
	case $part in
	debs-in) debs_in "$2" ;;
	debs-out) debs_out "$2" ;;
	*) customize "$2" ;;
	esac
	exit
	;;
esac

# ---- The outer part ----

fail() {
	clear_line
	echo "kage: image: $1" >&2
	exit 1
}
terminal=
[ ! -t 2 ] || terminal=1
clear_line() { [ -z "$terminal" ] || printf '\r\033[K' >&2; }

need() {
	missing=
	for pair in mmdebstrap=mmdebstrap apt-get=apt mke2fs=e2fsprogs sfdisk=fdisk unshare=util-linux ${uefi:+mformat=mtools} dd=coreutils; do
		PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing="$missing ${pair#*=}"
	done
	[ -z "$missing" ] || fail "packages are missing that this needs; as root: apt-get install --no-install-recommends$missing"
	if [ "$(id -u)" = 0 ]; then
		# In a container root may have no right to mount: then there is nothing that namespaces would have to undo.
		enter=
		! unshare --mount true 2>/dev/null || enter='unshare --mount'
		[ -z "$enter" ] || ! unshare --mount --pid --fork --mount-proc true 2>/dev/null || enter='unshare --mount --pid --fork --kill-child --mount-proc'
		leave=
		return
	fi
	enter='unshare --user --map-auto --map-root-user --mount --pid --fork --kill-child --mount-proc'
	leave='unshare --user --map-auto --map-root-user'
	command -v newuidmap >/dev/null ||
		fail "as an ordinary user this needs newuidmap; as root: apt-get install uidmap, or run kage image as root"
	me=$(id -un)
	for file in /etc/subuid /etc/subgid; do
		grep -Eq "^($me|$(id -u)):[0-9]+:[0-9]{5,}" $file 2>/dev/null ||
			fail "$file has no range of ids for $me; as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $me, or run kage image as root"
	done
	why=$(unshare --user --map-auto --map-root-user true 2>&1) ||
		fail "no user namespace for an ordinary user here (${why#unshare: }); run kage image as root"
	$enter true 2>/dev/null || fail "no mount of /proc in a user namespace here; run kage image as root"
}

now() { date +%s; }
work= running=
finish() {
	trap '' INT TERM HUP
	if [ -n "$running" ]; then
		kill -KILL "-$running" 2>/dev/null || :
		wait "$running" 2>/dev/null || :
	fi
	# Files of other ids are their owner's only in the namespace.
	[ -z "$work" ] || $leave rm -rf --one-file-system "$work" || :
	work=
}
trap finish EXIT
trap 'clear_line; echo "kage: image: stopped; nothing is left behind" >&2; exit 130' INT TERM HUP

# step NUMBER PART TEXT
count=4
step() {
	begun=$(now)
	[ -n "$terminal" ] || echo "[$1/$count] $3" >&2
	: >"$work/log"
	# A process group of its own: Ctrl-C is ours alone, and what we stop is all of it.
	if [ -n "$KAGE_IMAGE_VERBOSE" ]; then
		setsid $enter sh -c "$KAGE_IMAGE_SCRIPT" kage "$2" >&2 </dev/null &
	else
		setsid $enter sh -c "$KAGE_IMAGE_SCRIPT" kage "$2" >"$work/log" 2>&1 </dev/null &
	fi
	running=$!
	while kill -0 "$running" 2>/dev/null; do
		if [ -n "$terminal" ] && [ -z "$KAGE_IMAGE_VERBOSE" ]; then
			last=$(tail -c 300 "$work/log" | tr '\r' '\n' | tail -n 1 | tr -cd '[:print:]' | cut -c1-50)
			printf '\r\033[K[%s/%s] %s  %s s  %s' "$1" "$count" "$3" $(($(now) - begun)) "$last" >&2
		fi
		sleep 0.3
	done
	status=0
	wait "$running" || status=$?
	running=
	if [ $status != 0 ]; then
		why=$(tr '\r' '\n' <"$work/log" | grep -aE '^(E|Err|mke2fs|sfdisk|kage|mformat|mcopy|dd|tar|chroot|cp|.*[Ee]rror|.*No space)[: ]' |
			grep -avE '^E: (run_chroot|setup|mmdebstrap) failed' | head -n 1 | cut -c1-300)
		[ -n "$why" ] || why=$(tail -n 1 "$work/log" | cut -c1-300)
		[ -n "$KAGE_IMAGE_VERBOSE" ] || why="${why:-it ended with status $status} (--verbose shows all)"
		fail "$2: ${why:-it ended with status $status}"
	fi
	clear_line
	echo "[$1/$count] $3: $(($(now) - begun)) s" >&2
}

PATH=$PATH:/usr/sbin:/sbin
export PATH LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
unset LANGUAGE
started=$(now)
need
directory=$(dirname "$KAGE_IMAGE_OUT")
[ -d "$directory" ] && [ -w "$directory" ] || fail "$directory: no directory that can be written to"
work=$(mktemp -d "$directory/.kage-image.XXXXXX") || exit 1
chmod 755 "$work"
work=$(cd "$work" && pwd)
export KAGE_IMAGE_WORK="$work"
if [ -n "$KAGE_IMAGE_CACHE" ]; then
	mkdir -p "$KAGE_IMAGE_CACHE" && KAGE_IMAGE_CACHE=$(cd "$KAGE_IMAGE_CACHE" && pwd) || exit 1
fi
cat /proc/sys/kernel/random/uuid >"$work/root-uuid"
cut -c1-8 /proc/sys/kernel/random/uuid | tr a-f A-F >"$work/efi-id"

step 1 packages "Installing Debian $KAGE_IMAGE_SUITE"
step 2 filesystem "Making its file system"
step 3 boot "Making it bootable"
enter=
step 4 write "Writing $KAGE_IMAGE_OUT"
mv "$work/out" "$KAGE_IMAGE_OUT"
finish

case $KAGE_IMAGE_FIRMWARE in
bios) by=BIOS ;;
uefi) by=UEFI ;;
both) by='BIOS and UEFI' ;;
esac
size=$(awk -v bytes="$KAGE_IMAGE_SIZE" 'BEGIN { printf "%.3g GiB", bytes / 2^30 }')
used=$(du -m "$KAGE_IMAGE_OUT" | cut -f1)
echo
echo "$KAGE_IMAGE_OUT: Debian $KAGE_IMAGE_SUITE that boots by $by; $size, of which $used MiB are used; $(($(now) - started)) s"
run=$KAGE_IMAGE_OUT
[ "$KAGE_IMAGE_FORMAT" = qcow2 ] || run="$run,format=raw"
echo "  run it    kage run $run"
if [ -n "$KAGE_IMAGE_PASSWORD" ]; then
	echo "  log in    as $KAGE_IMAGE_USER, password $KAGE_IMAGE_PASSWORD; sudo asks for none"
else
	echo "  log in    as $KAGE_IMAGE_USER, without a password; nor does sudo ask for one"
fi
echo "  leave     poweroff in it, or Ctrl-a x"
