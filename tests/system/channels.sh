#!/bin/sh
# SPDX-License-Identifier: MIT
# Consoles and channels by virtio: what Debian's cloud kernel writes to hvc0 arrives in a file, every line of it; a channel with a name
# carries a question and its answer. On both boards, and across a reboot.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz cloud/modules/virtio_console.ko

modules=
for module in "$CACHE"/cloud/modules/virtio*.ko; do modules="$modules $module:lib/modules/$(basename "$module")"; done
cat >"$work/script" <<'S'
set -e
for m in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_mmio virtio_console; do
	insmod /lib/modules/$m.ko
done
n=0
until [ -c /dev/hvc0 ] && [ -e /sys/class/virtio-ports/vport0p1/name ]; do n=$((n + 1)); [ $n -lt 100 ]; sleep 0.1; done
[ "$(cat /sys/class/virtio-ports/vport0p1/name)" = org.kage.test ]
stty -F /dev/hvc0 raw -echo
i=0
while [ $i -lt 2000 ]; do echo "line $i of the console"; i=$((i + 1)); done >/dev/hvc0
exec 3<>/dev/vport0p1
echo "question" >&3
read -r answer <&3
echo "$answer" | tr a-z A-Z >&3
exec 3>&-
echo "channels: $answer"
if [ "$answer" = again ]; then
	reboot -f
fi
S
guest_initrd "$work/initrd" cloud "$(cat "$work/script")" $modules

# answer N [TEXT]: when the N-th question has come
answer() {
	_n=0
	while [ "$(grep -c '^question$' "$work/log")" -lt "$1" ] && ! grep -q 'kage: status' "$work/serial" && [ $_n -lt 600 ]; do
		_n=$((_n + 1))
		sleep 0.2
	done 2>/dev/null
	[ -z "${2:-}" ] || echo "$2"
}

for machine in microvm pc; do
	rm -f "$work/console" "$work/serial"
	: >"$work/log"
	{ answer 1 again; answer 2 done; answer 3; } | timeout -k 5 150 "$KAGE" run -accel soft -machine $machine -m 512M -smp 2 \
		-kernel "$CACHE/cloud/vmlinuz" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1" -serial "file:$work/serial" -d guest_errors \
		-chardev "file,id=c,path=$work/console" -chardev stdio,id=p -device virtio-serial,id=vs -device virtconsole,chardev=c,bus=vs.0 \
		-device '{"driver":"virtserialport","chardev":"p","name":"org.kage.test"}' >"$work/log" 2>&1
	if has "$work/serial" '^channels: again' && has "$work/serial" '^channels: done' && has "$work/serial" '^kage: status 0$' &&
		[ "$(grep -c '^question$' "$work/log")" = 2 ] && has "$work/log" '^AGAIN$' && has "$work/log" '^DONE$' &&
		[ "$(tr -d '\r' <"$work/console" | grep -c '^line [0-9]* of the console$')" = 4000 ]; then
		pass "$machine: a console and a channel, twice"
	else
		cat "$work/serial" >>"$work/log"
		fail "$machine: a console and a channel, twice" "$work/log"
	fi
done
summary
