#!/bin/sh
# SPDX-License-Identifier: MIT
# SIGKILL of kage, at a random time, under a guest that writes to its disk (guest-progs/diskload.c): the image has nothing worse than leaks, by
# qemu-img's check, and whatever the guest had flushed is there. KILLS (5) times, with an image of another kind each time, or, in turn, the
# one that was killed before.
. "$(dirname "$0")/lib.sh"
need_guest cloud/vmlinuz cloud/modules/virtio_scsi.ko
: "${KILLS:=5}" "${KILL_SEED:=$(date +%s)}"
load=$GUEST_PROGS/guest-diskload
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; rm -rf "$work"' EXIT

modules=
for module in "$CACHE"/cloud/modules/*.ko; do modules="$modules $module:lib/modules/$(basename "$module")"; done
cp "$load" "$work/diskload" && strip "$work/diskload"
# shellcheck disable=SC2086
guest_initrd "$work/initrd" cloud 'for m in virtio_ring virtio virtio_mmio virtio_blk scsi_common scsi_mod sd_mod virtio_scsi; do insmod /lib/modules/$m.ko; done
n=0
until [ -b /dev/vda ] || [ -b /dev/sda ]; do n=$((n + 1)); [ $n -lt 100 ] || exit 1; sleep 0.1; done
disk=/dev/vda
[ -b $disk ] || disk=/dev/sda
for word in $(cat /proc/cmdline); do case $word in seed=*) seed=${word#seed=} ;; esac; done
diskload write $disk $seed' $modules "$work/diskload"

blk="-device virtio-blk,drive=d,packed=on,num-queues=2"
scsi="-device virtio-scsi -device scsi-hd,drive=d"
# What the image is made with; what is said of the drive; the device. Several in turn on one image: the rounds of one line.
kinds() {
	cat <<-T
		qcow2|||$blk|2
		qcow2|-o cluster_size=4k,extended_l2=off|,discard=unmap|$scsi|1
		qcow2|-o lazy_refcounts=on|,cache=none|$blk|1
		raw|||$blk|1
		qcow2|-o extended_l2=on,cluster_size=128k|,discard=unmap,detect-zeroes=unmap|$blk|2
		qcow2|-b $work/base -F raw|,aio=threads|$blk|2
		qcow2|-o cluster_size=512||$scsi|2
		qcow2|-o compat=0.10|,cache=writethrough|$blk|1
		qcow2|-o refcount_bits=1,preallocation=metadata||$blk|2
	T
}
truncate -s 64M "$work/base"

# round FORMAT DRIVE-OPTIONS DEVICE...: a boot on what is there; true: whole
round() {
	format=$1 drive=$2
	shift 2
	seed=$((KILL_SEED + done_))
	: >"$work/log"
	"$KAGE" run -accel soft -m 256M -smp 2 -kernel "$CACHE/cloud/vmlinuz" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1 seed=$seed" -nographic \
		-drive "file=$work/image,format=$format,if=none,id=d$drive" "$@" </dev/null >"$work/log" 2>&1 &
	pid=$!
	n=0
	until grep -q 'diskload: flushed' "$work/log"; do
		n=$((n + 1))
		[ $n -lt 600 ] && kill -0 "$pid" 2>/dev/null || return 1
		sleep 0.1
	done
	sleep "$(awk -v seed=$seed 'BEGIN { srand(seed); printf "%.3f", rand() * 2.5 }')"
	kill -KILL "$pid"
	wait "$pid" 2>/dev/null
	pid=
	last=$(tr -d '\r' <"$work/log" | sed -n 's/^diskload: flushed \([0-9]*\)$/\1/p' | tail -n 1)
	[ -n "$last" ] || return 1
	if [ "$format" = qcow2 ]; then
		# Lazy refcounts are set right before they are looked at.
		if qemu-img info -f qcow2 "$work/image" | grep -q 'lazy refcounts: true'; then
			"$KAGE" img check -q -f qcow2 -r all "$work/image" >>"$work/log" 2>&1 || return 1
		fi
		qemu-img check -f qcow2 "$work/image" >>"$work/log" 2>&1
		case $? in 0 | 3) ;; *) return 1 ;; esac
	fi
	"$KAGE" img convert -f "$format" -O raw "$work/image" "$work/raw" >>"$work/log" 2>&1 && "$load" verify "$work/raw" "$seed" "$last" >>"$work/log" 2>&1
}

done_=0
while [ "$done_" -lt "$KILLS" ]; do
	kinds >"$work/kinds"
	while IFS='|' read -r format make drive device rounds <&3; do
		[ "$done_" -lt "$KILLS" ] || break
		rm -f "$work/image"
		# shellcheck disable=SC2086
		"$KAGE" img create -q -f "$format" $make "$work/image" 64M || { fail "an image with $make"; break; }
		while [ "$rounds" -gt 0 ] && [ "$done_" -lt "$KILLS" ]; do
			# shellcheck disable=SC2086
			if round "$format" "$drive" $device; then
				pass "killed behind $last flushes: $format $make$drive, $(tail -n 1 "$work/log")"
			else
				fail "killed (KILL_SEED=$KILL_SEED, $done_): $format $make$drive" "$work/log"
				break
			fi
			done_=$((done_ + 1)) rounds=$((rounds - 1))
		done
		[ "$failed" = 0 ] || break
	done 3<"$work/kinds"
	[ "$failed" = 0 ] || break
done
summary
