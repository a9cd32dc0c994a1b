#!/bin/sh
# SPDX-License-Identifier: MIT
# What goes wrong ends in one clear line and status 1; a guest that goes wrong ends as the architecture says, never kage.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz
kernel=$CACHE/cloud/vmlinuz

# refused NAME PATTERN kage-arguments...: status 1 and one line that matches
refused() {
	_name=$1 _pattern=$2
	shift 2
	timeout -k 5 20 "$KAGE" "$@" </dev/null >"$work/out" 2>&1
	_status=$?
	if [ $_status = 1 ] && [ "$(wc -l <"$work/out")" = 1 ] && grep -Eiq -- "$_pattern" "$work/out"; then
		pass "$_name: $(cat "$work/out")"
	else
		fail "$_name (status $_status, expected 1 and one line like $_pattern)" "$work/out"
	fi
}

head -c 100000 "$kernel" >"$work/truncated"
head -c 300 "$kernel" >"$work/header"
: >"$work/empty"
head -c 131072 /dev/zero >"$work/zeros"
awk 'BEGIN { srand(1); for (i = 0; i < 40000; i++) printf "%c", 32 + int(rand() * 90) }' >"$work/text"
# The payload itself damaged: the decompressor must notice.
{ head -c 1000000 "$kernel"; head -c 64 /dev/zero | tr '\0' U; tail -c +1000065 "$kernel"; } >"$work/damaged"
plain="-machine microvm -nographic -m 512M"

# shellcheck disable=SC2086
{
	refused "missing kernel" 'no-such-kernel' run $plain -kernel "$work/no-such-kernel"
	refused "truncated kernel" 'truncated' run $plain -kernel "$work/truncated"
	refused "kernel header only" 'header' run $plain -kernel "$work/header"
	refused "empty kernel" 'empty' run $plain -kernel "$work/empty"
	refused "text as kernel" 'text' run $plain -kernel "$work/text"
	refused "damaged kernel" 'damaged' run $plain -kernel "$work/damaged"
	refused "a directory as kernel" "$work" run $plain -kernel "$work"
	refused "missing initrd" 'no-such-initrd' run $plain -kernel "$kernel" -initrd "$work/no-such-initrd"
	refused "-m 0" '0|memory' run -machine microvm -nographic -m 0 -kernel "$kernel"
	refused "-m with letters" 'lots' run -machine microvm -nographic -m lots -kernel "$kernel"
	refused "a memory file that cannot be made" 'mem-path' run $plain -kernel "$kernel" -mem-path "$work/no-such-directory/file"
	refused "a memory file that cannot be as large" 'mem-path' run $plain -kernel "$kernel" -m 1G -mem-path /dev/null
	refused "more memory than a guest can have" 'memory' run -machine microvm -nographic -m 900000G -kernel "$kernel"
	refused "unknown option" 'frobnicate' run $plain -kernel "$kernel" -frobnicate
	refused "unknown device" 'flux-capacitor' run $plain -kernel "$kernel" -device flux-capacitor
	refused "unknown machine" 'abacus' run -machine abacus -kernel "$kernel"
	refused "unknown accelerator" 'steam' run $plain -accel steam -kernel "$kernel"
	refused "option without its value" 'kernel' run $plain -kernel
	refused "serial to an impossible file" 'serial|no/such' run $plain -kernel "$kernel" -serial file:/no/such/directory/file
	refused "too many processors" 'smp|cpu|processor' run $plain -kernel "$kernel" -smp 100000
	refused "no processors" 'smp.*0' run $plain -kernel "$kernel" -smp 0
	refused "a number of processors in letters" 'smp.*many' run $plain -kernel "$kernel" -smp many
	refused "a topology that does not come out" 'sockets.*cores.*threads' run $plain -kernel "$kernel" -smp 4,cores=3
	refused "more processors than there can be" 'maxcpus' run $plain -kernel "$kernel" -smp 4,maxcpus=2
	refused "an unknown level of topology" 'clusters' run $plain -kernel "$kernel" -smp 4,clusters=2
	refused "unknown processor" 'i4004' run $plain -kernel "$kernel" -cpu i4004
	refused "a feature that nobody has" 'rtm' run $plain -accel soft -kernel "$kernel" -cpu Haswell,enforce
	refused "a TSC that cannot be" 'tsc-frequency' run $plain -accel soft -kernel "$kernel" -cpu host,tsc-frequency=1M
	refused "a command line that is too long" 'append|command line|long' run $plain -kernel "$kernel" \
		-append "$(head -c 100000 /dev/zero | tr '\0' a)"
	refused "a property that a device does not have" 'pvpanic.*colour' run $plain -kernel "$kernel" -device pvpanic,colour=red
	refused "a port that is none" 'pvpanic.*port' run $plain -kernel "$kernel" -device pvpanic,ioport=0x10000
	refused "port 0" 'isa-debugcon.*iobase' run $plain -kernel "$kernel" -device isa-debugcon,iobase=0
	refused "a device twice" 'only one' run $plain -kernel "$kernel" -device isa-debug-exit -device isa-debug-exit
	refused "two devices at one port" 'isa-debugcon.*0x3f8.*serial' run $plain -kernel "$kernel" -device isa-debugcon,iobase=0x3f8
	refused "a debug port to nowhere" 'debugcon.*telegraph' run $plain -kernel "$kernel" -debugcon telegraph
	refused "a debug port to an impossible file" '-debugcon file:/no/such' run $plain -kernel "$kernel" -debugcon file:/no/such/directory/file
	refused "two debug ports" 'only one' run $plain -kernel "$kernel" -debugcon null -device isa-debugcon
	refused "terminal for two" 'stdio by multiple' run $plain -kernel "$kernel" -serial stdio -debugcon stdio
	refused "firmware for a board without" 'bios.*microvm' run $plain -kernel "$kernel" -bios "$work/text"
	refused "missing firmware" 'bios.*no-such-bios' run -machine pc -nographic -bios "$work/no-such-bios"
	refused "a directory as firmware" "bios.*$work" run -machine pc -nographic -bios "$work"
	refused "empty firmware" 'bios.*empty' run -machine pc -nographic -bios "$work/empty"
	refused "firmware of an odd size" 'bios.*text.*KiB' run -machine pc -nographic -bios "$work/text"
	# With 128 KiB of zeros as firmware nothing but -kernel is looked at.
	refused "a kernel that firmware cannot start" 'text.*bzImage' run -machine pc -nographic -bios "$work/zeros" -kernel "$work/text"
	refused "a kernel too large for the guest" 'memory' run -machine pc -nographic -bios "$work/zeros" -m 16M -kernel "$kernel"
	refused "unknown verb" 'levitate' levitate
	refused "no client for KVM" 'no program to run' kvm
	refused "a client that is not there" 'no-such-client' kvm -- "$work/no-such-client"
	refused "a static client" 'statically linked' kvm -- "$CACHE/busybox" true
	refused "a client that is text" 'not a program' kvm -- "$work/text"
	refused "an unknown option of kvm" 'levitate' kvm --levitate -- true
	refused "a device without an absolute path" '--path' kvm --path kvm -- true
}

# ended NAME STATUSES: kage left by itself or on SIGTERM (124), not by a signal of its own (139, 134) or SIGKILL (137)
ended() {
	_status=$?
	case " $2 " in
	*" $_status "*) pass "$1 (status $_status)" ;;
	*) fail "$1 (status $_status, expected one of $2)" "$work/log" ;;
	esac
}

# Linux resets by triple fault; with -no-reboot that ends kage.
"$top/tools/mkinitramfs.sh" -o "$work/initrd" -c 'reboot -f; sleep 100'
append="reboot=t"
boot 60 "$work/log" "$work/initrd" "$kernel"
ended "Linux triple-faults" "0"

# A panic reboots, too.
append="panic=-1 rdinit=/no/such/init root=/dev/no-such-root"
boot 60 "$work/log" "$work/initrd" "$kernel"
ended "Linux panics" "0"
append=

if command -v cc >/dev/null; then
	# elf NAME: a vmlinux of assembler text from stdin, loaded and entered at 16 MiB
	elf() { cc -nostdlib -static -Wl,-Ttext=0x1000000,--build-id=none -x assembler - -o "$work/$1" 2>"$work/cc.log"; }
	bare() { timeout -k 5 10 "$KAGE" run -machine microvm -nographic -m 64M -no-reboot -kernel "$work/$1" </dev/null >"$work/log" 2>&1; }

	printf '.globl _start\n_start: lidt 1f(%%rip)\nud2\n1: .fill 10,1,0\n' | elf triple || fail "build a guest" "$work/cc.log"
	bare triple
	ended "a guest that triple-faults" "0 1"

	seed=1
	while [ $seed -le 6 ]; do
		awk -v seed=$seed 'BEGIN { srand(seed); print ".globl _start\n_start:"
			for (i = 0; i < 4096; i++) print ".byte " int(rand() * 256) }' | elf garbage || fail "build a guest" "$work/cc.log"
		bare garbage
		ended "a guest that executes garbage, seed $seed" "0 1 124"
		seed=$((seed + 1))
	done
else
	skip "guests made by hand" "there is no C compiler"
fi
summary
