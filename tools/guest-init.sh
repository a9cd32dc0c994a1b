#!/bin/sh
# SPDX-License-Identifier: MIT
# /init of the guests that `make run`, the tests and the benchmarks boot. It runs the command of
# /etc/kage.cmd, or of kage.cmd=BASE64 on the kernel's command line, shows its status as
# "kage: status N" and powers off; without a command, it gives a shell on the console and powers off when that ends.
# The first line is what the boot benchmark waits for.
echo "kage: init"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts 2>/dev/null
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM="${TERM:-linux}"
/bin/busybox --install -s

power_off() {
	sync
	poweroff -f
	# Where the machine has no power switch, a reset ends it too (kage -no-reboot, qemu -no-reboot).
	sleep 5
	reboot -f
}

size=
term=
console=ttyS0
for word in $(cat /proc/cmdline); do
	case $word in
	kage.cmd=*) echo "${word#kage.cmd=}" | base64 -d >/etc/kage.cmd ;;
	kage.size=*) size=${word#kage.size=} ;;
	kage.term=*) term=${word#kage.term=} ;;
	console=*) console=${word#console=} console=${console%%,*} ;;
	esac
done
[ -z "$term" ] || export TERM="$term"
[ -c "/dev/$console" ] || console=console
hostname kage
ip link set lo up 2>/dev/null

if [ -s /etc/kage.cmd ]; then
	cd /root || exit
	sh /etc/kage.cmd </dev/null
	echo "kage: status $?"
	power_off
fi

[ -z "$size" ] || stty -F "/dev/$console" rows "${size%x*}" cols "${size#*x}" 2>/dev/null
printf 'export PS1="kage:\\w# "\n' >/etc/profile
# setsid -c makes the serial line the shell's controlling terminal: job control and Ctrl-C work.
cd /root || exit
setsid -c sh -l <"/dev/$console" >"/dev/$console" 2>&1
power_off
