#!/bin/sh
# SPDX-License-Identifier: MIT
# The terminal: `make run` and its shell in a pty of script(1); job control, Ctrl-C, Ctrl-a x; settings restored on every way out.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz

# The command path of `make run`.
KAGE="$KAGE" "$top/tools/run.sh" 'echo sum $((40 + 2)); exit 7' >"$work/log" 2>&1
status=$?
if [ $status = 7 ] && has "$work/log" '^sum 42$'; then pass "run CMD"; else fail "run CMD (status $status)" "$work/log"; fi

if ! command -v script >/dev/null; then
	skip "terminal" "there is no script(1)"
	summary
fi

# session LOG SECONDS: the commands on stdin are typed; kage runs in a pty, with the settings printed before and after.
export KAGE top
session() {
	timeout -k 5 "$2" script -qec "$3" /dev/null >"$1" 2>&1
}
# wait_for LOG REGEX SECONDS
wait_for() {
	_n=0
	while [ $_n -lt $(($3 * 5)) ]; do
		has "$1" "$2" && return 0
		sleep 0.2
		_n=$((_n + 1))
	done
	return 1
}
cat >"$work/wrapped" <<'S'
stty -a | tr '\n' ' ' >"$WORK/before"
"$top/tools/run.sh"
echo "left: $?"
stty -a | tr '\n' ' ' >"$WORK/after"
S
WORK=$work
export WORK
restored() { [ -s "$work/after" ] && cmp -s "$work/before" "$work/after"; }

: >"$work/log"
{
	wait_for "$work/log" 'kage:.*# ' 60
	printf 'echo $((6 * 7))-typed\r'
	wait_for "$work/log" '^42-typed' 20
	printf 'sleep 1000\r'
	sleep 2
	printf '\003'
	printf 'echo after-$((1 + 1))-interrupt\r'
	wait_for "$work/log" '^after-2-interrupt' 20
	printf 'sleep 1000 & jobs; kill %%1; tty\r'
	wait_for "$work/log" '/dev/ttyS0' 20
	printf 'exit\r'
	wait_for "$work/log" '^left: ' 30
} | session "$work/log" 150 "sh $work/wrapped"
for line in '^42-typed' '^after-2-interrupt' 'Running.*sleep 1000' '^/dev/ttyS0' '^left: 0'; do
	if has "$work/log" "$line"; then pass "shell: $line"; else fail "shell: $line" "$work/log"; fi
done
if restored; then pass "terminal restored after power off"; else fail "terminal restored after power off" "$work/after"; fi

rm -f "$work/after"
: >"$work/log"
{
	wait_for "$work/log" 'kage:.*# ' 60
	printf '\001h'
	sleep 1
	printf '\001x'
	wait_for "$work/log" '^left: ' 30
} | session "$work/log" 120 "sh $work/wrapped"
if has "$work/log" '^left: 0'; then pass "Ctrl-a x leaves"; else fail "Ctrl-a x leaves" "$work/log"; fi
if restored; then pass "terminal restored after Ctrl-a x"; else fail "terminal restored after Ctrl-a x" "$work/after"; fi

# A line of error in a terminal leaves it as it was, too.
rm -f "$work/after"
cat >"$work/wrapped" <<'S'
stty -a | tr '\n' ' ' >"$WORK/before"
"$KAGE" run -machine microvm -nographic -kernel /no/such/kernel
echo "left: $?"
stty -a | tr '\n' ' ' >"$WORK/after"
S
session "$work/log" 30 "sh $work/wrapped" </dev/null
if has "$work/log" '^left: 1' && restored; then pass "terminal after an error"; else fail "terminal after an error" "$work/log"; fi
summary
