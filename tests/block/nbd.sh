#!/bin/sh
# SPDX-License-Identifier: MIT
# `kage img` over NBD beside qemu-img, with nbdkit: raw and qcow2 exports, what lies where, backing files; a server that is slow, that fails now and then,
# that dies and comes back, and disks that are full: what fails says so, what was flushed is there, and an image is never worse than leaking.
# Usage: nbd.sh KAGE
set -u
kage=$(realpath "$1")
for tool in qemu-img qemu-io nbdkit; do
	command -v $tool >/dev/null || { echo "0 passed, 0 failed, 1 skipped"; exit 77; }
done
work=$(mktemp -d)
server='' mounted=
cleanup() {
	[ -z "$server" ] || kill "$server" 2>/dev/null
	[ -z "$mounted" ] || umount "$work/small"
	rm -rf "$work"
}
trap cleanup EXIT
cd "$work" || exit 1
passed=0 failed=0 skipped=0
uri="nbd+unix://?socket=$work/sock"

pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAIL: $*"; }
check() { # WHAT COMMAND...: it succeeds
	what=$1
	shift
	if timeout 60 "$@" >out 2>err </dev/null; then pass; else fail "$what: status $?: $(head -3 err)"; fi
}
refused() { # WHAT COMMAND...: it fails with a word, no signal
	what=$1
	shift
	timeout 60 "$@" >out 2>err </dev/null
	status=$?
	if [ $status = 0 ] || [ $status -gt 63 ] || ! [ -s err ]; then fail "$what: status $status"; else pass; fi
}
serve() { # nbdkit's arguments
	rm -f sock
	nbdkit -f -U "$work/sock" "$@" 2>server.log &
	server=$!
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		[ -S sock ] && return
		sleep 0.1
	done
	fail "nbdkit $*: $(head -2 server.log)"
}
stop() {
	kill "${1:--TERM}" "$server" 2>/dev/null
	wait "$server" 2>/dev/null
	server=
}
same() { # kage img and qemu-img say the same
	timeout 60 "$kage" img "$@" >k.out 2>k.err
	mine=$?
	timeout 60 qemu-img "$@" >q.out 2>q.err
	if [ $mine = $? ] && cmp -s k.out q.out; then pass; else fail "$*: $(diff k.out q.out | head -4)"; fi
}
# An image in a file is whole: nothing worse than leaks (3), for both.
whole() {
	qemu-img check -q -f qcow2 "$1" >/dev/null 2>&1
	theirs=$?
	"$kage" img check -q -f qcow2 "$1" >/dev/null 2>&1
	mine=$?
	case $theirs$mine in 00 | 33) pass ;; *) fail "$1 after $2: qemu-img check $theirs, kage img check $mine" ;; esac
}

# ---- A sound server ----
qemu-img create -q -f raw disk.raw 8M
qemu-io -f raw -c 'write -P 1 64k 1M' -c 'write -P 2 5M 100k' disk.raw >/dev/null
qemu-img convert -O qcow2 disk.raw disk.qcow2
serve file disk.raw
same info "$uri"
same info --output=json "nbd:unix:$work/sock"
same map --output=json "$uri"
same map "$uri"
check 'raw export' "$kage" img convert -O raw "$uri" out.raw
check 'its content' cmp out.raw disk.raw
check 'compare' "$kage" img compare "$uri" disk.qcow2
check 'an overlay' "$kage" img create -q -f qcow2 -b "$uri" -F raw over.qcow2
check 'written to' "$kage" img bench -q -w -c 100 -f qcow2 --pattern=3 over.qcow2
qemu-img convert -O raw over.qcow2 q.raw
check 'overlay read' "$kage" img convert -O raw over.qcow2 k.raw
check 'the same' cmp k.raw q.raw
check 'raw to export' "$kage" img convert -n -O raw over.qcow2 "$uri"
stop
check 'is what it was' cmp disk.raw k.raw

truncate -s 16M export
serve file export
check 'create' "$kage" img create -q -f qcow2 "$uri" 8M
check 'convert into it' "$kage" img convert -n -O qcow2 disk.raw "$uri"
same info "$uri"
same check "$uri"
same map --output=json "$uri"
check 'snapshot' "$kage" img snapshot -f qcow2 -c one "$uri"
check 'write' "$kage" img bench -q -w -c 200 -s 64k -f qcow2 --pattern=9 "$uri"
same check "$uri"
check 'its snapshot' "$kage" img convert -l one -O raw "$uri" out.raw
check 'is the disk of before' cmp out.raw disk.raw
stop
whole export 'sound server'
refused 'nobody there' "$kage" img info "$uri"

serve -r file export
refused 'read-only export' "$kage" img resize -f qcow2 "$uri" 9M
check 'read of it' "$kage" img info "$uri"
stop
serve --filter=blocksize-policy file export blocksize-minimum=4096 blocksize-preferred=65536 blocksize-maximum=1M blocksize-error-policy=error
check 'blocks of 4096' "$kage" img bench -q -w -c 200 -s 3k -f qcow2 --pattern=11 "$uri"
same check "$uri"
check 'unaligned' "$kage" img bench -q -w -c 50 -s 1000 -o 77 -f raw --pattern=0 "nbd:unix:$work/sock"
stop

# ---- A slow one, and ones that fail ----
pattern() { # the flushed part of an image is there
	timeout 60 "$kage" img convert -O raw "$1" out.raw >/dev/null 2>&1 && cmp -s -n 1048576 out.raw flushed.raw && pass || fail "$1 after $2: flushed data is gone"
}
qemu-img create -q -f raw flushed.raw 8M
qemu-io -f raw -c 'write -P 77 0 1M' flushed.raw >/dev/null
number=0
for fault in 'error-pwrite-rate=20%' 'error-pread-rate=20%' 'error-zero-rate=50%' 'error-pwrite=ENOSPC error-pwrite-rate=30%' 'error-rate=10%'; do
	for size in 512 4096 65536; do
		number=$((number + 1))
		rm -f export
		truncate -s 32M export
		qemu-img create -q -f qcow2 -o cluster_size=$size small.qcow2 8M
		qemu-io -f qcow2 -c 'write -P 77 0 1M' small.qcow2 >/dev/null
		dd if=small.qcow2 of=export conv=notrunc status=none
		# The faults begin when the file exists: behind the opening.
		rm -f faults
		# shellcheck disable=SC2086
		serve --filter=error file export $fault error-file="$work/faults"
		(sleep 0.0$((number % 5)); touch faults) &
		timeout 60 "$kage" img bench -q -w -c 300 -d 16 -s 12k -o 1M -S 20k --flush-interval=20 -f qcow2 --pattern=5 "$uri" >/dev/null 2>err
		status=$?
		wait $!
		[ $status -le 1 ] || fail "bench with $fault: status $status"
		stop
		whole export "$fault, clusters of $size"
		pattern export "$fault, clusters of $size"
	done
done
serve --filter=delay memory 8M delay-read=20ms delay-write=30ms
check 'slow server' "$kage" img bench -q -w -c 100 -d 32 -f raw "$uri"
stop

# ---- One that dies, and one that comes back ----
for signal in KILL TERM; do
	rm -f export
	truncate -s 32M export
	qemu-img create -q -f qcow2 small.qcow2 8M
	qemu-io -f qcow2 -c 'write -P 77 0 1M' small.qcow2 >/dev/null
	dd if=small.qcow2 of=export conv=notrunc status=none
	serve --filter=delay file export delay-write=1ms
	(sleep 0.4; kill -$signal "$server") &
	timeout 60 "$kage" img bench -q -w -c 100000 -d 16 -s 12k -o 1M --flush-interval=20 -f qcow2 --pattern=5 "$uri" >/dev/null 2>err
	status=$?
	[ $status = 1 ] && grep -q 'Input/output error' err && pass || fail "a server that dies: status $status, $(head -2 err)"
	wait
	server=
	whole export "SIG$signal of the server"
	pattern export "SIG$signal of the server"
done
rm -f export
truncate -s 32M export
serve --filter=delay file export delay-write=2ms
image="driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=$work/sock,file.reconnect-delay=20"
timeout 60 "$kage" img bench -q -w -c 2000 -d 4 -s 12k --pattern=5 --image-opts "$image" >/dev/null 2>err &
bench=$!
for _ in 1 2 3; do
	sleep 0.3
	stop -KILL
	sleep 0.1
	serve --filter=delay file export delay-write=2ms
done
wait $bench && pass || fail "reconnect: $(head -3 err)"
grep -q 'is back' err && pass || fail "reconnect: it was never away"
stop

# ---- Full disks ----
full() { # WHERE WHAT
	mkdir -p "$1"
	qemu-img create -q -f qcow2 "$1/disk.qcow2" 32M
	qemu-io -f qcow2 -c 'write -P 77 0 1M' "$1/disk.qcow2" >/dev/null
	timeout 60 "$kage" img bench -q -w -c 400 -d 8 -s 64k -o 1M --flush-interval=16 -f qcow2 --pattern=5 "$1/disk.qcow2" >/dev/null 2>err
	status=$?
	[ $status = 1 ] && grep -q 'No space left' err && pass || fail "$2: status $status, $(head -2 err)"
	whole "$1/disk.qcow2" "$2"
	pattern "$1/disk.qcow2" "$2"
	timeout 60 "$kage" img convert -O qcow2 disk.raw "$1/copy.qcow2" >/dev/null 2>err
	[ $? = 1 ] && grep -q 'No space left' err && pass || fail "$2: convert: $(head -2 err)"
}
mkdir small
if mount -t tmpfs -o size=6M tmpfs small 2>/dev/null; then
	mounted=1
	head -c 3M /dev/urandom >small/other
	full small 'a full tmpfs'
	umount small
	mounted=
else
	skipped=$((skipped + 1))
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
