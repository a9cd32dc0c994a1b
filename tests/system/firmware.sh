#!/bin/sh
# SPDX-License-Identifier: MIT
# Board pc: SeaBIOS by itself, Debian kernels that it starts through the option ROM, a reset that comes up again through it;
# multiboot kernels on both boards, which say what they were told; test devices.
. "$(dirname "$0")/lib.sh"
need_guest
: "${TEST_KERNELS:=build/tests/system/kernels}"
seabios=/usr/share/seabios/bios-256k.bin
[ -e "$seabios" ] || { skip "$(basename "$0")" "the package seabios is not there"; summary; }

# ---- SeaBIOS alone ----

gave_up() { grep -q '^No bootable device' "$work/debug" 2>/dev/null; }
for processors in 1 4; do
	rm -f "$work/debug"
	watched="-machine $(board pc) -smp $processors -nographic -serial null -debugcon file:$work/debug"
	if watch 60 gave_up && has "$work/debug" "^Found $processors cpu\(s\)" && has "$work/debug" 'QEMU fw_cfg DMA interface supported' &&
		has "$work/debug" '^Found 3 PCI devices' && has "$work/debug" '^Moving pm_base to 0x600$' && has "$work/debug" '^table\(50434146\)='; then
		pass "SeaBIOS to 'No bootable device', $processors processors"
	else
		fail "SeaBIOS to 'No bootable device', $processors processors" "$work/debug"
	fi
done

# ---- Linux ----

machine=pc
# linux KERNEL PROCESSORS
linux() {
	if [ ! -e "$CACHE/$1/vmlinuz" ] || [ ! -e "$(guest_cache "$1")/busybox" ]; then
		skip "SeaBIOS starts the $1 kernel" "it could not be fetched"
		return
	fi
	guest_initrd "$work/initrd" "$1" "set -e
[ \$(nproc) = $2 ]
grep -Eiq '^ *0*100000-[0-9a-f]+ : System RAM\$' /proc/iomem
grep -Eiq '^ *0*f0000-0*fffff : System ROM\$' /proc/iomem
grep -Eiq '^ *0*fec00000-.* : IOAPIC 0\$' /proc/iomem
[ \"\$(cd /sys/bus/pci/devices && echo *)\" = '0000:00:00.0 0000:00:01.0 0000:00:01.3' ]
grep -q . /sys/class/dmi/id/bios_vendor
grep -q 'acpi\$' /proc/interrupts
[ \"\$(sed 's/.*word=//' /proc/cmdline)\" = 'last one' ]
dmesg | grep -q 'ACPI: Interpreter enabled'
! dmesg | grep -E 'ACPI.*(Error|Warning|BIOS (Error|Warning|bug))|Firmware (Bug|Warn)|BUG:|Oops|Call Trace|WARNING:|general protection'
echo script: done"
	rm -f "$work/debug"
	append='word=last one'
	boot 150 "$work/log" "$work/initrd" "$CACHE/$1/vmlinuz" -smp "$2" -debugcon "file:$work/debug"
	_status=$?
	append=
	if [ $_status = 0 ] && has "$work/log" '^script: done$' && has "$work/log" '^kage: status 0$' && has "$work/debug" '^Booting from ROM'; then
		pass "SeaBIOS starts the $1 kernel, $2 processors"
	else
		fail "SeaBIOS starts the $1 kernel, $2 processors (status $_status)" "$work/log"
	fi
}
linux cloud 1
linux cloud 4
linux 686 2

if [ -e "$CACHE/cloud/vmlinuz" ]; then
	guest_initrd "$work/initrd" cloud 'echo script: here; reboot -f; sleep 100'
	# count FILE REGEX: lines that match
	count() { cat "$1" 2>/dev/null | tr -d '\r' | grep -c "$2"; }
	came_up() { [ "$(count "$work/debug" '^Found QEMU fw_cfg')" -ge "$boots" ] && [ "$(count "$work/log" '^script: here$')" -ge "$boots" ]; }
	boots=3
	rm -f "$work/debug"
	watched="-machine $(board pc) -m 256M -nographic -debugcon file:$work/debug -kernel $CACHE/cloud/vmlinuz -initrd $work/initrd -append console=ttyS0"
	if watch 150 came_up; then pass "reboot: up again through SeaBIOS, $boots times"; else fail "reboot: up again through SeaBIOS" "$work/log"; fi

	boot 100 "$work/log" "$work/initrd" "$CACHE/cloud/vmlinuz"
	status=$?
	if [ $status = 0 ] && [ "$(count "$work/log" '^script: here$')" = 1 ]; then
		pass "reboot with -no-reboot"
	else
		fail "reboot with -no-reboot (status $status)" "$work/log"
	fi
else
	skip "reboot" "the cloud kernel could not be fetched"
fi

# ---- multiboot ----

# multi NAME STATUS MACHINE KERNEL CMDLINE [kage options...]: one run
multi() {
	_name=$1 _expected=$2 _machine=$3 _kernel=$TEST_KERNELS/$4 _cmdline=$5
	shift 5
	timeout -k 5 30 "$KAGE" run -machine "$(board "$_machine")" -m 64M -nographic -no-reboot -kernel "$_kernel" -append "$_cmdline" -device isa-debug-exit \
		"$@" </dev/null >"$work/log" 2>"$work/err"
	_status=$?
	cat "$work/err" >>"$work/log" # not in the middle of a line
	[ $_status = "$_expected" ] || { fail "$_name (status $_status, expected $_expected)" "$work/log"; return 1; }
}
# says NAME LINE...: the run has said each of these
says() {
	_name=$1
	shift
	for _line in "$@"; do
		tr -d '\r' <"$work/log" | grep -Fxq -- "$_line" || { fail "$_name: no line '$_line'" "$work/log"; return; }
	done
	pass "$_name"
}

if [ -e "$TEST_KERNELS/multiboot.bin" ]; then
	printf 'abc' >"$work/first"
	head -c 10000 /dev/zero >"$work/second"
	sum=$(printf '0x%x' $((97 * 31 * 31 + 98 * 31 + 99)))
	for machine in microvm pc; do
		for kernel in multiboot.elf multiboot.bin; do
			name="$kernel on $machine"
			multi "$name" 33 $machine $kernel 'one two=3' -initrd "$work/first arg=1 b,$work/second" &&
				says "$name" 'loader kage' "cmdline $TEST_KERNELS/$kernel one two=3" 'lower 0x27f' 'upper 0xfc00' 'memory 0x0 0x9fc00 0x1' \
					'memory 0x100000 0x3f00000 0x1' "module 0x3 $sum $work/first arg=1 b" "module 0x2710 0x0 $work/second" done
		done
		name="pc-testdev on $machine"
		multi "$name" 33 $machine multiboot.elf testdev -device pc-testdev && says "$name" 'testdev done' done

		name="debug port on $machine"
		rm -f "$work/debug"
		if multi "$name" 33 $machine multiboot.elf debug -device "isa-debugcon,iobase=0xe9,chardev=file:$work/debug"; then
			if [ "$(cat "$work/debug")" = 'kernel: debug port' ]; then pass "$name"; else fail "$name" "$work/debug"; fi
		fi
		name="pvpanic on $machine"
		multi "$name: panic" 0 $machine multiboot.elf panic -device pvpanic && says "$name: panic" 'kage: the guest has panicked'
		multi "$name: crash kernel" 33 $machine multiboot.elf crashload -device pvpanic &&
			says "$name: crash kernel" 'kage: the guest has panicked, and goes on in its crash kernel' done
		name="a panic that nobody takes on $machine"
		multi "$name" 35 $machine multiboot.elf panic && says "$name" 'FAIL: nothing follows a panic'
	done
else
	skip "multiboot kernels" "they were not built"
fi
summary
