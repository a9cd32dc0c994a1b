#!/bin/sh
# SPDX-License-Identifier: MIT
# Fetches Debian's kernels and busybox for the guest, and unpacks them without installing anything:
#   CACHE/cloud/vmlinuz      linux-image-cloud-amd64
#   CACHE/generic/vmlinuz    linux-image-amd64
#   CACHE/busybox            busybox-static
#   CACHE/686/vmlinuz        linux-image-686, for i386 (no PAE)
#   CACHE/686-pae/vmlinuz    linux-image-686-pae, for i386
#   CACHE/i386/busybox       busybox-static, for i386
#   CACHE/memtest/x64.bin, ia32.bin    memtest86+
#   CACHE/cloud/modules/     of the cloud kernel: virtio over PCI and MMIO, its devices, SCSI, UEFI's variables
#   CACHE/generic/modules/   of the generic kernel: ATA, IDE and AHCI controllers, ext4 and ISO 9660
#   CACHE/debian/cloud.qcow2, vmlinuz-cloud, initrd-cloud    what `kage image debian` makes, and its kernel; root and debian have no passwords
#   CACHE/debian/generic.qcow2    the same with the generic kernel, for AHCI (debian-generic)
#   CACHE/installer/linux, initrd.gz    Debian's installer, of debian-installer-12-netboot-amd64
# CACHE is $CACHE, else $XDG_CACHE_HOME/kage or ~/.cache/kage. What is there already is kept.
# KAGE (build/kage) makes the Debian images, which are made anew when what makes them has changed.
# Usage: fetch-guest.sh [cloud|generic|busybox|686|686-pae|i386|memtest|modules|ata|debian|debian-generic|installer]...
# (all of them but debian-generic by default)
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
[ $# -gt 0 ] || set -- cloud generic busybox 686 686-pae i386 memtest modules ata debian installer
kage=${KAGE:-$top/build/kage}
case $kage in /*) ;; *) kage=$PWD/$kage ;; esac

# An image is made of the script's steps, of these options, and of Debian as it was that day.
image_options() { echo "--kernel $1 --size 3G --packages fio --hostname debian --user debian --password= --root-password="; }
image_key() { { image_options "$1"; sed '/^# ---- The outer part/,$d' "$top/vmm/cli/image/debian.sh"; } | cksum; }
have_image() { [ -s "$cache/debian/$1.qcow2" ] && [ "$(cat "$cache/debian/$1.key" 2>/dev/null)" = "$(image_key "$1")" ]; }

have() {
	case $1 in
	busybox) [ -x "$cache/busybox" ] ;;
	i386) [ -x "$cache/i386/busybox" ] ;;
	memtest) [ -s "$cache/memtest/ia32.bin" ] ;;
	modules) [ -s "$cache/cloud/modules/efivarfs.ko" ] ;;
	ata) [ -s "$cache/generic/modules/ahci.ko" ] ;;
	debian) have_image cloud ;;
	debian-generic) have_image generic ;;
	installer) [ -s "$cache/installer/initrd.gz" ] ;;
	*) [ -s "$cache/$1/vmlinuz" ] ;;
	esac
}

work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# apt-get as an ordinary user needs lists that somebody fetched: ones of our own if the system has none.
apt_options=
system_options=
prepare_apt() {
	if [ -n "$system_options" ]; then
		apt_options=$system_options
		return 0
	fi
	[ -n "$work" ] || work=$(mktemp -d "$cache/fetch.XXXXXX")
	if [ -z "$(apt-cache -q=2 --no-all-versions show busybox-static 2>/dev/null)" ] ||
		! (cd "$work" && apt-get download --print-uris busybox-static >/dev/null 2>&1); then
		echo "Fetching Debian's package lists" >&2
		if [ "$(id -u)" = 0 ]; then
			apt-get update -q >&2
		else
			mkdir -p "$work/lists/partial"
			apt_options="-o Dir::State::Lists=$work/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="
			# shellcheck disable=SC2086
			apt-get $apt_options update -q >&2
		fi
	fi
	# apt's own download user cannot write to a private directory; it then says so and downloads as root.
	apt_options="$apt_options -o APT::Sandbox::User=root"
	system_options=$apt_options
}

# i386 packages are looked up with a state of our own: the system's list of architectures stays as it is.
i386_options=
prepare_apt_i386() {
	[ -z "$i386_options" ] || return 0
	[ -n "$work" ] || work=$(mktemp -d "$cache/fetch.XXXXXX")
	mkdir -p "$work/i386/lists/partial" "$work/i386/archives/partial"
	: >"$work/i386/status"
	i386_options="-o APT::Architecture=i386 -o APT::Architectures=i386 -o Dir::State=$work/i386"
	i386_options="$i386_options -o Dir::State::status=$work/i386/status -o Dir::Cache=$work/i386 -o APT::Sandbox::User=root"
	echo "Fetching Debian's package lists for i386" >&2
	# Repositories without i386 packages are no error.
	# shellcheck disable=SC2086
	apt-get $i386_options update -q >&2 || :
}

# unpack PACKAGE DIRECTORY
unpack() {
	echo "Fetching $1" >&2
	rm -f "$work"/*.deb
	# shellcheck disable=SC2086
	(cd "$work" && apt-get $apt_options -q download "$1" >&2)
	dpkg-deb -x "$work"/*.deb "$2"
}

# The image that a meta package stands for today. $1: meta package.
real_kernel() {
	# shellcheck disable=SC2086
	apt-cache $apt_options depends --no-recommends --no-suggests "$1" |
		sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1
}

# make_debian KERNEL: the disk, and its kernel and initramfs for boards that start one themselves
make_debian() {
	[ -x "$kage" ] || {
		echo "fetch-guest: $kage is not there to make a Debian image with" >&2
		return 1
	}
	echo "Making a Debian image, once" >&2
	mkdir -p "$cache/debian"
	[ -n "$work" ] || work=$(mktemp -d "$cache/fetch.XXXXXX")
	# shellcheck disable=SC2046
	"$kage" image debian "$work/image.qcow2" --cache "$cache/debs" $(image_options "$1") >&2 || return 1
	"$kage" img convert -f qcow2 -O raw "$work/image.qcow2" "$work/image.raw" || return 1
	start=$(PATH=$PATH:/sbin:/usr/sbin sfdisk -d "$work/image.raw" | sed -n 's/.*raw1 *: *start= *\([0-9]*\),.*/\1/p')
	for file in vmlinuz initrd; do
		name=$(PATH=$PATH:/sbin:/usr/sbin debugfs -R 'ls -p /boot' "$work/image.raw?offset=$((start * 512))" 2>/dev/null | tr / '\n' | grep "^$file" | head -n 1)
		PATH=$PATH:/sbin:/usr/sbin debugfs -R "dump /boot/$name $work/$file" "$work/image.raw?offset=$((start * 512))" 2>/dev/null
		[ -s "$work/$file" ] && mv "$work/$file" "$cache/debian/$file-$1" || return 1
	done
	rm -f "$work/image.raw" "$cache/debian/disk.img"
	mv "$work/image.qcow2" "$cache/debian/$1.qcow2"
	image_key "$1" >"$cache/debian/$1.key"
}

for part; do
	have "$part" && continue
	command -v apt-get >/dev/null || { echo "fetch-guest: there is no apt-get here to fetch $part with" >&2; exit 1; }
	case $part in
	686 | 686-pae | i386)
		prepare_apt_i386
		apt_options=$i386_options
		;;
	*)
		apt_options=
		prepare_apt
		;;
	esac
	rm -rf "$work/root"
	case $part in
	686) meta=linux-image-686 ;;
	686-pae) meta=linux-image-686-pae ;;
	i386)
		unpack busybox-static "$work/root"
		mkdir -p "$cache/i386"
		cp "$work/root/bin/busybox" "$work/busybox"
		mv "$work/busybox" "$cache/i386/busybox"
		continue
		;;
	memtest)
		unpack memtest86+ "$work/root"
		mkdir -p "$cache/memtest"
		for bits in x64 ia32; do
			cp "$work/root/boot/memtest86+$bits.bin" "$work/$bits.bin"
			mv "$work/$bits.bin" "$cache/memtest/$bits.bin"
		done
		continue
		;;
	modules)
		[ -s "$cache/cloud/package" ] || "$0" cloud
		unpack "$(cat "$cache/cloud/package")" "$work/root"
		mkdir -p "$cache/cloud/modules"
		for module in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_mmio virtio_blk failover \
			net_failover virtio_net virtio_console scsi_common scsi_mod sd_mod cdrom sr_mod \
			virtio_scsi virtio-rng efivarfs; do
			find "$work/root/lib/modules" -name "$module.ko" -exec mv {} "$cache/cloud/modules/" \;
		done
		continue
		;;
	ata)
		[ -s "$cache/generic/package" ] || "$0" generic
		unpack "$(cat "$cache/generic/package")" "$work/root"
		mkdir -p "$cache/generic/modules"
		for module in scsi_common scsi_mod crc64 crc64-rocksoft t10-pi sd_mod cdrom sr_mod libata ata_piix libahci crc16 mbcache jbd2 \
			crc32c_generic crct10dif_common crct10dif_generic crc-t10dif ext4 isofs ahci; do
			find "$work/root/lib/modules" -name "$module.ko" -exec mv {} "$cache/generic/modules/" \;
		done
		continue
		;;
	debian | debian-generic)
		# Tests that need it are skipped without it.
		kernel=cloud
		[ "$part" = debian ] || kernel=generic
		make_debian $kernel || echo "fetch-guest: no Debian image" >&2
		continue
		;;
	installer)
		unpack debian-installer-12-netboot-amd64 "$work/root"
		mkdir -p "$cache/installer"
		for file in linux initrd.gz; do
			find "$work/root" -path "*/text/debian-installer/amd64/$file" -exec cp {} "$work/$file" \;
			mv "$work/$file" "$cache/installer/$file"
		done
		rm -rf "$work/root"
		continue
		;;
	cloud) meta=linux-image-cloud-amd64 ;;
	generic) meta=linux-image-amd64 ;;
	busybox)
		unpack busybox-static "$work/root"
		cp "$work/root/bin/busybox" "$work/busybox"
		mv "$work/busybox" "$cache/busybox"
		continue
		;;
	*) echo "fetch-guest: no such part: $part (cloud, generic, busybox, 686, 686-pae, i386, memtest, modules, ata, debian, debian-generic, installer)" >&2; exit 1 ;;
	esac
	package=$(real_kernel "$meta")
	[ -n "$package" ] || { echo "fetch-guest: $meta does not say which kernel it stands for" >&2; exit 1; }
	unpack "$package" "$work/root"
	mkdir -p "$cache/$part"
	cp "$work"/root/boot/config-* "$cache/$part/config"
	cp "$work"/root/boot/vmlinuz-* "$cache/$part/vmlinuz.new"
	echo "$package" >"$cache/$part/package"
	mv "$cache/$part/vmlinuz.new" "$cache/$part/vmlinuz"
done
