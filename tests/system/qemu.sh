#!/bin/sh
# SPDX-License-Identifier: MIT
# Debian's QEMU, unmodified, on libkage by `kage kvm`: its boards boot Debian's kernel on one and four processors; disks over
# virtio; reboot, savevm and loadvm, migration, gdbstub, hotplug, clean exits; Debian from its disk to the login.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz cloud/modules/virtio_net.ko
: "${KAGE_TEST_BOOTS:=10}" "${TEST_TOOLS:=build/tests/system}"
for tool in qemu-system-x86_64 qemu-img mke2fs debugfs; do
	command -v $tool >/dev/null || { skip "$(basename "$0")" "$tool is not there"; summary; }
done
if [ ! -e "$(dirname "$KAGE")/preload/libkage-preload.so" ]; then
	skip "$(basename "$0")" "an instrumented build has no libkage-preload.so"
	summary
fi
kernel=$CACHE/cloud/vmlinuz
modules=
for module in "$CACHE"/cloud/modules/*.ko; do modules="$modules $module:lib/modules/$(basename "$module")"; done
# In the guest, with the modules in the order of their dependencies.
insert='for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_mmio virtio_blk failover net_failover virtio_net; do
[ ! -e /lib/modules/$m.ko ] || insmod /lib/modules/$m.ko || exit 1
done
await() { n=0; until eval "$1"; do n=$((n+1)); [ $n -lt 60 ] || return 1; sleep 0.5; done; }
calm() { ! dmesg | grep -E "BUG:|Oops|Call Trace|general protection|soft lockup|self-detected stall"; }'

# qemu SECONDS BOARD [options...]: to its end, with its output in $work/log; its exit status
qemu() {
	_limit=$1 _board=$2
	shift 2
	timeout -k 5 "$_limit" "$KAGE" kvm -- qemu-system-x86_64 -accel kvm -M "$_board" -cpu host -m 512M -nodefaults -no-user-config \
		-nographic -serial stdio -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1" "$@" \
		</dev/null >"$work/log" 2>&1
}
# complaints: what QEMU or the engine say, other than that the host has fewer processors
complaints() { tr -d '\r' <"$work/log" | grep -E '^(qemu-system|KVM: |kage: error)' | grep -Fv 'exceeds the recommended cpus supported by KVM'; }
# booted NAME: the status is 0, and the guest's script came to its end; QEMU itself said nothing
booted() {
	_status=$?
	if [ $_status = 0 ] && has "$work/log" '^script: done$' && has "$work/log" '^kage: status 0$' && ! complaints >/dev/null; then
		pass "$1"
	else
		fail "$1 (status $_status)" "$work/log"
	fi
}

# ---- A QEMU that is talked to: serial line and monitor are pipes ----

pid=
# None stays behind when its test has failed, or the script is stopped.
put_away() {
	[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null
	pid=
}
trap 'put_away; rm -rf "$work"' EXIT

# start BOARD [options...]: a kernel; start_disk: the disk $work/debian
start() {
	_board=$1
	shift
	run "$_board" -m 512M -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1" "$@"
}
start_disk() {
	_board=$1
	shift
	run "$_board" -m 1G -drive "file=$work/debian,if=virtio,format=qcow2" "$@"
}
run() {
	_board=$1
	shift
	put_away
	rm -f "$work/serial.in" "$work/mon.in" "$work/mon.out"
	mkfifo "$work/serial.in" "$work/mon.in" "$work/mon.out"
	: >"$work/log"
	cat "$work/mon.out" >"$work/mon" &
	reader=$!
	exec 4<>"$work/mon.in" 3<>"$work/serial.in"
	"$KAGE" kvm -- qemu-system-x86_64 -accel kvm -M "$_board" -cpu host -nodefaults -no-user-config -nographic -serial stdio \
		-chardev "pipe,id=mon,path=$work/mon" -mon mon "$@" <&3 >>"$work/log" 2>&1 &
	pid=$!
	log_from=1 mon_from=1
}
# The lines of a log from the given one on.
lines() { tr -d '\r' <"$2" 2>/dev/null | tail -n +"$1"; }
# await SECONDS REGEX, await_mon SECONDS REGEX: a new line of the serial line, of the monitor
await_in() {
	_left=$((_seconds * 10))
	while ! lines "$_from" "$_file" | grep -Eq -- "$_regex"; do
		_left=$((_left - 1))
		if [ $_left -le 0 ] || { ! kill -0 "$pid" 2>/dev/null && ! lines "$_from" "$_file" | grep -Eq -- "$_regex"; }; then
			echo "no line like $_regex" >>"$work/log"
			return 1
		fi
		sleep 0.1
	done
	_at=$(lines "$_from" "$_file" | grep -En -- "$_regex" | head -n 1 | cut -d: -f1)
	_from=$((_from + _at))
}
await() {
	_seconds=$1 _regex=$2 _file=$work/log _from=$log_from
	await_in || return 1
	log_from=$_from
}
await_mon() {
	_seconds=$1 _regex=$2 _file=$work/mon _from=$mon_from
	await_in || return 1
	mon_from=$_from
}
tell() { printf '%s\n' "$1" >&3; }
monitor() { printf '%s\n' "$1" >&4; }
# ended SECONDS: QEMU has left by itself; its status
ended() {
	_left=$(($1 * 10))
	while kill -0 "$pid" 2>/dev/null && [ $_left -gt 0 ]; do
		_left=$((_left - 1))
		sleep 0.1
	done
	kill -0 "$pid" 2>/dev/null && kill -9 "$pid"
	wait "$pid"
	_status=$?
	exec 3>&- 4>&-
	wait "$reader"
	pid=
	return $_status
}
# verdict NAME: of the commands before it
verdict() {
	if [ $? = 0 ]; then
		pass "$1"
	else
		fail "$1" "$work/log"
		put_away
	fi
}
leave() {
	monitor quit
	ended 20
}

# ---- Boards and processors ----

for board in microvm pc q35; do
	for processors in 1 4; do
		guest_initrd "$work/initrd" cloud "$insert
set -e
[ \$(nproc) = $processors ]
grep -q kvm-clock /sys/devices/system/clocksource/clocksource0/current_clocksource
dmesg | grep -q 'Hypervisor detected: KVM'
head -c 1000000 /dev/zero | sha256sum | grep -q ^d29751f2649b32ff572b5e0a9f541ea660a50f94ff0beedfb0b692b924cc8025
calm
echo script: done"
		qemu 90 $board -smp $processors
		booted "QEMU's board $board, $processors processors"
	done
done

# ---- Disks ----

mkdir "$work/tree"
seq 1 100000 >"$work/tree/numbers"
sum=$(md5sum <"$work/tree/numbers" | cut -c1-32)
# shellcheck disable=SC2086
guest_initrd "$work/initrd" cloud "$insert
set -e
await '[ -b /dev/vda ]'
mount -t ext4 /dev/vda /mnt
md5sum /mnt/numbers | grep -q ^$sum
seq 1 200000 >/mnt/written
sync
umount /mnt
mount -t ext4 /dev/vda /mnt
md5sum </mnt/written >/mnt/sum
umount /mnt
calm
echo script: done" $modules
for board in microvm pc q35; do
	mke2fs -q -t ext4 -d "$work/tree" "$work/disk" 32M >/dev/null
	bus=pci
	[ $board != microvm ] || bus=device
	qemu 90 $board -smp 2 -drive "file=$work/disk,if=none,id=disk,format=raw" -device virtio-blk-$bus,drive=disk
	booted "a disk over virtio, board $board"
	if [ "$(debugfs -R 'cat /sum' "$work/disk" 2>/dev/null | cut -c1-32)" = "$(seq 1 200000 | md5sum | cut -c1-32)" ] &&
		e2fsck -fn "$work/disk" >"$work/log" 2>&1; then
		pass "what the guest wrote, board $board"
	else
		fail "what the guest wrote, board $board" "$work/log"
	fi
done

# ---- Reboots by the guest ----

guest_initrd "$work/initrd" cloud 'echo script: here; reboot -f; sleep 100'
for board in pc q35; do
	start $board -smp 2
	await 60 '^script: here$' && await 60 '^script: here$' && await 60 '^script: here$' && leave
	verdict "reboot by the guest, three times, board $board"
done

# ---- A guest that counts: saved, loaded, migrated, stepped ----

qemu-img create -q -f qcow2 "$work/snapshots" 64M
guest_initrd "$work/initrd" cloud 'i=0; while i=$((i+1)); do echo count $i; sleep 0.1; done'
for processors in 1 4; do
	start pc -smp $processors -drive "file=$work/snapshots,if=virtio,format=qcow2"
	await 60 '^count 5$' && monitor 'savevm one' && monitor 'info snapshots' && await_mon 60 ' one .* ' && await 60 '^count 30$' &&
		monitor 'loadvm one' && await 60 '^count 1?[0-9]$' && await 60 '^count 32$' && leave
	verdict "savevm and loadvm, $processors processors"

	start q35 -smp $processors
	await 60 '^count 5$' && monitor "migrate \"exec:cat >$work/state\"" && await_mon 60 '^\(qemu\)' && monitor 'info migrate' &&
		await_mon 60 'status: completed' && leave
	verdict "migration to a file, $processors processors"
	start q35 -smp $processors -incoming "exec:cat $work/state"
	await 60 '^count [0-9]+$' && [ "$(lines 1 "$work/log" | sed -n 's/^count //p' | head -n 1)" -gt 4 ] && await 60 '^count 30$' && leave
	verdict "migration from it, $processors processors"
done

# steps NAME COUNT: single steps, after which the monitor shows the same RIP
steps() {
	"$TEST_TOOLS/gdbstep" "$work/gdb" "$2" >"$work/steps" 2>>"$work/log" && [ "$(wc -l <"$work/steps")" = $(($2 + 1)) ] &&
		[ "$(sort -u "$work/steps" | wc -l)" -gt 3 ] && monitor 'info registers' &&
		await_mon 10 "^(RIP=|EIP=)0*$(tail -n 1 "$work/steps") "
}
start pc -smp 1 -S -gdb "unix:$work/gdb,server=on,wait=off"
n=0
until [ -S "$work/gdb" ] || [ $n -gt 100 ]; do n=$((n + 1)); sleep 0.1; done
steps "from reset" 20 && [ "$(head -n 1 "$work/steps")" = fff0 ] && monitor cont && await 60 '^count 3$'
verdict "gdbstub: steps in real mode from reset, and on"
steps "in Linux" 200 && monitor cont && await 60 '^count 9$' && leave
verdict "gdbstub: steps in Linux, and on"

# ---- Hotplug ----

# shellcheck disable=SC2086
guest_initrd "$work/initrd" cloud "$insert
set -e
echo script: ready
await '[ -b /sys/block/vda/../../block/vda -o -d /sys/block/vda ] && [ -d /sys/class/net/eth0 ]'
dd if=/dev/vda bs=64k count=16 2>/dev/null | md5sum
ifconfig eth0 10.0.2.15 up
ping -c 2 -W 5 10.0.2.2 >/dev/null
echo script: plugged
await '[ ! -d /sys/block/vda ] && [ ! -d /sys/class/net/eth0 ]'
calm
echo script: done" $modules
for board in pc q35; do
	ports= disk_bus= net_bus=
	if [ $board = q35 ]; then
		ports="-device pcie-root-port,id=port1,slot=1 -device pcie-root-port,id=port2,slot=2"
		disk_bus=,bus=port1 net_bus=,bus=port2
	fi
	head -c 1048576 /dev/urandom >"$work/plugged"
	# shellcheck disable=SC2086
	start $board -smp 2 -netdev user,id=net $ports
	await 60 '^script: ready$' && monitor "drive_add 0 if=none,id=disk,format=raw,file=$work/plugged" &&
		monitor "device_add virtio-blk-pci,id=blk,drive=disk$disk_bus" && monitor "device_add virtio-net-pci,id=nic,netdev=net$net_bus" &&
		await 60 "^$(md5sum <"$work/plugged" | cut -c1-32)" && await 30 '^script: plugged$' && monitor 'device_del blk' &&
		monitor 'device_del nic' && await 60 '^script: done$' && ended 20
	verdict "hotplug of a disk and a network, board $board"
done

# ---- Ends ----

guest_initrd "$work/initrd" cloud 'echo script: here; sleep 1000'
start pc -smp 4
await 60 '^script: here$' && kill "$pid" && ended 20 && has "$work/log" 'terminating on signal 15'
verdict "SIGTERM: QEMU's own exit"
start pc -smp 4
await 60 '^script: here$' && monitor stop && monitor quit && ended 20
verdict "stop and quit"
"$KAGE" kvm -- qemu-system-x86_64 -accel kvm -M pc -cpu host -m 512M -nodefaults -display none -serial "file:$work/log" -kernel "$kernel" \
	-initrd "$work/initrd" -append 'console=ttyS0 quiet' -pidfile "$work/pid" -daemonize >"$work/out" 2>&1 && pid=$(cat "$work/pid") &&
	log_from=1 && await 60 '^script: here$' && kill "$pid"
verdict "-daemonize: the fork comes before KVM"
n=0
while kill -0 "$pid" 2>/dev/null && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.1; done
if kill -9 "$pid" 2>/dev/null; then fail "the daemon leaves on SIGTERM" "$work/log"; else pass "the daemon leaves on SIGTERM"; fi
pid=

# ---- Debian ----

if [ -s "$CACHE/debian/cloud.qcow2" ]; then
	"$KAGE" img create -q -f qcow2 -b "$CACHE/debian/cloud.qcow2" -F qcow2 "$work/debian"
	start_disk q35 -smp 4
	# The prompt is no whole line.
	await 60 'Command line: BOOT_IMAGE=' && await 120 '^Debian GNU/Linux 12 debian ttyS0' && tell root && await 60 '^.*root@debian' &&
		tell 'systemctl is-system-running --wait; findmnt -n -o SOURCE /; poweroff' && await 60 '^/dev/vda1' && ended 60
	verdict "Debian from its disk to the login, by SeaBIOS and GRUB"
else
	skip "Debian from its disk to the login" "there is no Debian image"
fi

# ---- One boot after the other ----

guest_initrd "$work/initrd" cloud 'uname -a; echo script: done'
n=1
while [ "$n" -le "$KAGE_TEST_BOOTS" ]; do
	qemu 60 microvm -smp $((n % 4 + 1))
	booted "boot $n"
	n=$((n + 1))
done
summary
