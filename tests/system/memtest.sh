#!/bin/sh
# SPDX-License-Identifier: MIT
# memtest86+, loaded as a kernel, both of its binaries: one full pass over 64 MiB without errors. It never ends by itself:
# kage is stopped when the status line shows the first pass done, or an error. The two run side by side.
. "$(dirname "$0")/lib.sh"
need_guest memtest/x64.bin memtest/ia32.bin
: "${KAGE_TEST_MEMTEST_SECONDS:=900}"

# shows BITS REGEX: the screen on the serial line, escape sequences taken out, has shown it
shows() {
	sed 's/\x1b\[[0-9;?]*[A-Za-z]/\n/g' "$work/$1" | grep -Eaq -- "$2"
}

# one BITS: 0 if the pass ended well
one() {
	"$KAGE" run -machine microvm -m 64M -kernel "$CACHE/memtest/$1.bin" -append 'console=ttyS0,115200 nopause nobench' \
		-nographic </dev/null >"$work/$1" 2>&1 &
	_pid=$!
	# A shell that is told to go takes its kage along.
	trap 'kill $_pid 2>/dev/null; exit 1' INT TERM
	_n=0 _result=1
	while [ $_n -lt "$KAGE_TEST_MEMTEST_SECONDS" ] && kill -0 $_pid 2>/dev/null; do
		if shows "$1" 'Errors: *[1-9]'; then break; fi
		if shows "$1" 'Pass: *1 +Errors: *0 '; then
			_result=0
			break
		fi
		sleep 1
		_n=$((_n + 1))
	done
	kill $_pid 2>/dev/null
	wait $_pid
	echo "$_n seconds" >"$work/$1.time"
	return $_result
}

one x64 &
x64=$!
one ia32 &
ia32=$!
trap 'kill $x64 $ia32 2>/dev/null; exit 1' INT TERM
for bits in x64 ia32; do
	eval "wait \$$bits" && status=0 || status=$?
	sed 's/\x1b\[[0-9;?]*[A-Za-z]/\n/g' "$work/$bits" | grep -a . | tail -n 30 >"$work/screen"
	# A pass has eleven tests, but the screen is sent every two seconds: short ones may not be seen, the long ones must be.
	tests=$(sed 's/\x1b\[[0-9;?]*[A-Za-z]/\n/g' "$work/$bits" | grep -aoE '^ #[0-9]+ ' | sort -u | tr -d '\n')
	long=yes
	for number in 10 8 6; do
		case $tests in *"#$number "*) ;; *) long=no ;; esac
	done
	if [ "$status" = 0 ] && [ $long = yes ]; then
		pass "memtest86+ $bits: one pass in $(cat "$work/$bits.time")"
	else
		fail "memtest86+ $bits, after $(cat "$work/$bits.time"); tests seen:$tests" "$work/screen"
	fi
done
summary
