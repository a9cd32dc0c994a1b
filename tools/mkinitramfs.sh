#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds an initramfs: busybox, an /init (tools/guest-init.sh), and any files added.
# Usage: mkinitramfs.sh [-z] -o OUTPUT [-c COMMAND] [FILE[:GUEST-PATH[:MODE]]]...
#   -z            gzip it (a plain one boots faster)
#   -c COMMAND    run this instead of an interactive shell, then power off
# A file without a guest path goes to /bin with its own name and mode.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
compress=cat output= command=
while getopts zo:c: option; do
	case $option in
	z) compress="gzip -1n" ;;
	o) output=$OPTARG ;;
	c) command=$OPTARG ;;
	*) exit 1 ;;
	esac
done
shift $((OPTIND - 1))
[ -n "$output" ] || { echo "mkinitramfs: -o OUTPUT is missing" >&2; exit 1; }
[ -x "$cache/busybox" ] || "$here/fetch-guest.sh" busybox

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 1' INT TERM
mkdir -p "$root/bin" "$root/sbin" "$root/usr/bin" "$root/usr/sbin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" \
	"$root/etc" "$root/root" "$root/run" "$root/mnt"
chmod 1777 "$root/tmp"
cp "$cache/busybox" "$root/bin/busybox"
# /init needs these before busybox --install has run; the links of all applets are made in the guest.
for applet in sh mount mkdir; do ln -s busybox "$root/bin/$applet"; done
install -m 755 "$here/guest-init.sh" "$root/init"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
[ -z "$command" ] || printf '%s\n' "$command" >"$root/etc/kage.cmd"
for entry; do
	from=${entry%%:*}
	to=
	mode=
	case $entry in
	*:*:*) to=${entry#*:} mode=${to#*:} to=${to%%:*} ;;
	*:*) to=${entry#*:} ;;
	esac
	: "${to:=bin/$(basename "$from")}"
	mkdir -p "$root/$(dirname "$to")"
	cp -L "$from" "$root/$to"
	[ -z "$mode" ] || chmod "$mode" "$root/$to"
done
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) | $compress >"$output.new"
mv "$output.new" "$output"
