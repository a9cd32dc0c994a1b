#!/bin/sh
# SPDX-License-Identifier: MIT
# `make run`: boots Debian's kernel and a busybox initramfs in kage. Without an argument: a shell in the guest.
# With one: runs it there, powers off, and exits with its status.
# Environment: KAGE (the binary), KERNEL (cloud, generic or a file), MEM, KAGE_ARGS (more options), CACHE.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${KAGE:=build/kage}" "${KERNEL:=cloud}" "${MEM:=512M}" "${KAGE_ARGS:=}"
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
export CACHE
command=${1:-}

case $KERNEL in
cloud | generic)
	"$here/fetch-guest.sh" "$KERNEL" busybox
	kernel=$CACHE/$KERNEL/vmlinuz
	;;
*) kernel=$KERNEL ;;
esac

initrd=$CACHE/initramfs.cpio
if [ ! -s "$initrd" ] || [ "$here/guest-init.sh" -nt "$initrd" ] || [ "$here/mkinitramfs.sh" -nt "$initrd" ]; then
	"$here/mkinitramfs.sh" -o "$initrd"
fi

append="console=ttyS0 quiet panic=-1"
set -- run -machine microvm -m "$MEM" -kernel "$kernel" -initrd "$initrd" -nographic -no-reboot
if [ -z "$command" ]; then
	# A serial line has no size of its own: tell the guest ours.
	size=$(stty size 2>/dev/null | tr ' ' x) || size=
	[ -z "$size" ] || [ "$size" = 0x0 ] || append="$append kage.size=$size"
	append="$append kage.term=${TERM:-linux}"
	echo "Ctrl-a x leaves, Ctrl-a h helps; exit or Ctrl-d powers the guest off" >&2
	# shellcheck disable=SC2086
	exec "$KAGE" "$@" -append "$append" $KAGE_ARGS
fi

encoded=$(printf '%s\n' "$command" | base64 | tr -d '\n')
if [ ${#encoded} -gt 1500 ]; then
	echo "run: the command is too long for the kernel's command line" >&2
	exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The status goes around the pipe: kage's own is in the log's last line.
# shellcheck disable=SC2086
{ "$KAGE" "$@" -append "$append kage.cmd=$encoded" $KAGE_ARGS </dev/null; echo "kage-exit: $?"; } |
	tr -d '\r' | tee "$log" | grep -v -e '^kage: init$' -e '^kage: status ' -e '^kage-exit: ' || :
exit_status=$(sed -n 's/^kage-exit: //p' "$log" | tail -n 1)
[ "$exit_status" = 0 ] || exit "${exit_status:-1}"
status=$(sed -n 's/^kage: status //p' "$log" | tail -n 1)
[ -n "$status" ] || { echo "run: the guest ended without finishing the command" >&2; exit 1; }
exit "$status"
