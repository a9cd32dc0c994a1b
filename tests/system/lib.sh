# SPDX-License-Identifier: MIT
# What the system tests share; sourced. Environment: KAGE (the binary), CACHE (fetched kernels), GUEST_PROGS (directory
# of the static guest programs), KAGE_TEST_MMU (ept or shadow, for all guests; default: kage's own). A script calls check/pass/fail/skip, and `summary` last.
# shellcheck shell=sh

: "${KAGE:=build/kage}"
CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kage}
export CACHE
top=$(cd "$(dirname "$0")/../.." && pwd)
passed=0 failed=0 skipped=0
# Other KVM clients get theirs from this.
[ -z "${KAGE_TEST_MMU:-}" ] || export KAGE_MMU="$KAGE_TEST_MMU"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

pass() {
	passed=$((passed + 1))
	echo "ok: $1"
}
# fail NAME [FILE]: with the end of what it printed
fail() {
	failed=$((failed + 1))
	echo "FAIL: $1"
	[ -z "${2:-}" ] || tail -n 30 "$2" | tr -d '\r' | sed 's/^/    /'
}
skip() {
	skipped=$((skipped + 1))
	echo "skip: $1: $2"
}
summary() {
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" = 0 ]
	exit
}

# need_guest: the whole script is skipped where kernels could not be fetched, or kage was not built.
need_guest() {
	if [ ! -x "$KAGE" ]; then
		fail "$KAGE is there"
		summary
	fi
	for part in busybox "$@"; do
		[ -e "$CACHE/$part" ] || { skip "$(basename "$0")" "$part could not be fetched"; summary; }
	done
}

# board NAME: with the MMU that is being tested
board() {
	case $1 in
	*,mmu=*) echo "$1" ;;
	*) echo "$1${KAGE_TEST_MMU:+,mmu=$KAGE_TEST_MMU}" ;;
	esac
}

# boot SECONDS LOG INITRD KERNEL [kage options...]: boots on $machine or microvm; kage's exit status.
boot() {
	_limit=$1 _log=$2 _initrd=$3 _kernel=$4
	shift 4
	timeout -k 5 "$_limit" "$KAGE" run -machine "$(board "${machine:-microvm}")" -m 512M -kernel "$_kernel" -initrd "$_initrd" \
		-append "console=ttyS0 quiet panic=-1${append:+ $append}" -nographic -no-reboot "$@" </dev/null >"$_log" 2>&1
}

# watch SECONDS COMMAND...: kage runs ("$watched": its arguments) until the command succeeds, then is told to leave; 0 if it did
watch() {
	_limit=$1
	shift
	# shellcheck disable=SC2086
	"$KAGE" run $watched </dev/null >"$work/log" 2>&1 &
	_pid=$!
	trap 'kill $_pid 2>/dev/null; exit 1' INT TERM
	_n=0 _seen=1
	while [ $_n -lt $((_limit * 5)) ] && kill -0 $_pid 2>/dev/null; do
		if "$@"; then
			_seen=0
			break
		fi
		sleep 0.2
		_n=$((_n + 1))
	done
	kill $_pid 2>/dev/null
	wait $_pid
	trap 'exit 1' INT TERM
	return $_seen
}

# guest_initrd OUTPUT KERNEL SCRIPT [mkinitramfs arguments...]: with the busybox of the kernel's own width
guest_initrd() {
	_output=$1 _kernel=$2 _script=$3
	shift 3
	CACHE=$(guest_cache "$_kernel") "$top/tools/mkinitramfs.sh" -o "$_output" -c "$_script" "$@"
}
guest_cache() {
	case $1 in
	686*) echo "$CACHE/i386" ;;
	*) echo "$CACHE" ;;
	esac
}

# Of a guest's script: write_data puts files under /mnt, several at a time, their sum, and reads them again from the disk.
guest_write_data='write_data() {
	i=0
	while [ $i -lt 8 ]; do
		dd if=/dev/urandom of=/mnt/data$i bs=64k count=40 2>/dev/null &
		i=$((i + 1))
	done
	wait
	sync
	echo 3 >/proc/sys/vm/drop_caches
	cat /mnt/data* | md5sum >/mnt/sum
	echo 3 >/proc/sys/vm/drop_caches
	[ "$(cat /mnt/data* | md5sum)" = "$(cat /mnt/sum)" ]
}'

# has LOG REGEX
has() {
	tr -d '\r' <"$1" | grep -Eq -- "$2"
}
