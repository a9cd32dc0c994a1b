#!/bin/sh
# SPDX-License-Identifier: MIT
# Debian's installer starts, draws its first screen on the serial line, and goes on to the next when a key is pressed.
. "$(dirname "$0")/lib.sh"
need_guest installer/linux installer/initrd.gz

pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$work"' EXIT
mkfifo "$work/in"
timeout -k 5 300 "$KAGE" run -accel soft -machine "$(board pc)" -m 1G -kernel "$CACHE/installer/linux" -initrd "$CACHE/installer/initrd.gz" \
	-append 'console=ttyS0' -nographic -device virtio-rng <"$work/in" >"$work/log" 2>&1 &
pid=$!
exec 3>"$work/in"

# screen TITLE
screen() {
	_n=0
	until grep -aq "$1" "$work/log"; do
		_n=$((_n + 1))
		[ $_n -lt 580 ] && kill -0 $pid 2>/dev/null || return 1
		sleep 0.5
	done
}
if screen 'Select a language' && printf '\r' >&3 && screen 'Select your location'; then
	pass "the installer's first two screens"
else
	fail "the installer's first two screens" "$work/log"
fi
printf '\001x' >&3
wait $pid
status=$?
pid=
if [ $status = 0 ]; then
	pass "left by a key"
else
	fail "left by a key (status $status)"
fi
summary
