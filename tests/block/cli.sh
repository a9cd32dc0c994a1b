#!/bin/sh
# SPDX-License-Identifier: MIT
# `kage img` beside qemu-img: the same arguments, the same output (human and JSON), the same exit status; images made by one and read by the other;
# and arguments and images that are refused: one line of error, no signal.
# Usage: cli.sh KAGE
set -u
kage=$(realpath "$1")
command -v qemu-img >/dev/null && command -v qemu-io >/dev/null || { echo "0 passed, 0 failed, 1 skipped"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
passed=0 failed=0

pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAIL: $*"; }

# What differs by right: the program's name, disk space, dates, and the order in which JSON has its members.
norm() {
	sed -e 's/^qemu-img: //; s/^kage img: //' -e 's/^disk size: .*/disk size/' -e 's/"actual-size": [0-9]*/"actual-size"/' \
		-e 's/[0-9]*-[0-9]*-[0-9]* [0-9:]* /DATE /' -e 's/"date-n*sec": [0-9]*/date/' -e 's/Run completed in .*/Run/' "$1"
}
norm_json() { norm "$1" | tr -d '{}[], \t' | sed '/^$/d' | sort; }

# same FLAVOUR ARGUMENTS...: both programs, on copies of the same directory.
same() {
	flavour=$1
	shift
	rm -rf "$work/q" "$work/k"
	cp -a "$work/start" "$work/q"
	cp -a "$work/start" "$work/k"
	# Kage wants the format of what it writes to, QEMU's snapshot verb does not know the option.
	format=
	[ "$1" != snapshot ] || format='-f qcow2'
	(cd "$work/q" && timeout 60 qemu-img "$@") >"$work/q.out" 2>"$work/q.err"
	qemu=$?
	verb=$1
	shift
	# shellcheck disable=SC2086
	(cd "$work/k" && timeout 60 "$kage" img "$verb" $format "$@") >"$work/k.out" 2>"$work/k.err"
	mine=$?
	case $flavour in
	json) norm_json q.out >q.norm && norm_json k.out >k.norm ;;
	*) norm q.out >q.norm && norm k.out >k.norm ;;
	esac
	if [ $qemu != $mine ] || { [ "$flavour" != status ] && ! cmp -s q.norm k.norm; }; then
		fail "kage img $verb $* (status $mine, qemu-img $qemu)"
		diff q.norm k.norm | head -20
		head -3 k.err
		return
	fi
	# Images that were changed hold the same, and are sound to the other.
	for changed in q/*.qcow2; do
		[ -s "$changed" ] || continue
		name=${changed#q/}
		if ! qemu-img check -q -f qcow2 "k/$name" >check.out 2>&1 && qemu-img check -q -f qcow2 "q/$name" >/dev/null 2>&1; then
			fail "kage img $verb $*: $name is not sound"
			head -5 check.out
			return
		fi
		if ! (cd k && qemu-img compare -q -f qcow2 -F qcow2 "$name" "../q/$name" >../compare.out 2>&1) && [ "$name" != broken.qcow2 ]; then
			fail "kage img $verb $*: $name holds something else"
			head -3 compare.out
			return
		fi
	done
	for changed in q/*.raw; do
		if [ -e "$changed" ] && ! cmp -s "$changed" "k/${changed#q/}"; then
			fail "kage img $verb $*: ${changed#q/} differs"
			return
		fi
	done
	pass
}

# refused ARGUMENTS...: status 1 (or 2, 63 where the verb says so), one line at least, nothing worse.
refused() {
	timeout 20 "$kage" img "$@" >out 2>err </dev/null
	status=$?
	if [ $status = 0 ] || [ $status -gt 63 ] || ! [ -s err ] || grep -Eq 'Sanitizer|runtime error:' err; then
		fail "kage img $*: status $status"
		head -3 err
	else
		pass
	fi
}

# ---- Images to begin with ----
mkdir start && cd start || exit 1
qemu-img create -q -f qcow2 base.qcow2 4M
qemu-io -f qcow2 -c 'write -P 1 0 1M' -c 'write -P 2 3M 200k' base.qcow2 >/dev/null
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 -o cluster_size=4k top.qcow2 5M
qemu-io -f qcow2 -c 'write -P 3 512k 64k' -c 'write -z 128k 64k' -c 'write -c -P 4 1M 4k' -c 'discard 256k 64k' top.qcow2 >/dev/null
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2 4M
qemu-io -f qcow2 -c 'write -P 5 2M 128k' -c 'write -z 3M 64k' mid.qcow2 >/dev/null
qemu-img create -q -f qcow2 snap.qcow2 4M
qemu-io -f qcow2 -c 'write -P 6 0 1M' snap.qcow2 >/dev/null
qemu-img snapshot -c one snap.qcow2
qemu-io -f qcow2 -c 'write -P 7 512k 1M' snap.qcow2 >/dev/null
qemu-img snapshot -c two snap.qcow2
qemu-img create -q -f qcow2 -o extended_l2=on,compression_type=zstd,lazy_refcounts=on ext.qcow2 4M
qemu-io -f qcow2 -c 'write -P 8 10k 100k' -c 'write -z 40k 4k' -c 'write -c -P 9 1M 64k' ext.qcow2 >/dev/null
qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 2M
qemu-io -f qcow2 -c 'write -P 9 64k 64k' old.qcow2 >/dev/null
qemu-img create -q -f qcow2 bitmap.qcow2 1M && qemu-img bitmap --add bitmap.qcow2 b0 && qemu-img bitmap --add --disable -g 4k bitmap.qcow2 b1
qemu-img create -q -f qcow2 -o cluster_size=4k bits.qcow2 1M && qemu-img bitmap --add -g 1k bits.qcow2 b
qemu-io -f qcow2 -c 'write 5k 3k' -c 'write 100k 1k' -c 'write -z 1000k 24k' bits.qcow2 >/dev/null
qemu-img bitmap --disable bits.qcow2 b
qemu-img create -q -f raw flat.raw 3M
qemu-io -f raw -c 'write -P 11 64k 1M' flat.raw >/dev/null
cp old.qcow2 broken.qcow2
cp old.qcow2 leak.qcow2
printf '\000\001' | dd of=leak.qcow2 bs=1 seek=$((0x20000 + 14)) conv=notrunc status=none
# A refcount that is too low, and one that is too high.
printf '\000\000' | dd of=broken.qcow2 bs=1 seek=$((0x20000 + 10)) conv=notrunc status=none
printf '\000\005' | dd of=broken.qcow2 bs=1 seek=$((0x20000 + 8)) conv=notrunc status=none
cd ..

# ---- The same as qemu-img ----
same text create -f qcow2 new.qcow2 10M
same text create -f qcow2 -o cluster_size=2M,refcount_bits=1 new.qcow2 1.5G
same text create -f qcow2 -o compat=0.10,preallocation=metadata new.qcow2 3M
same text create -f qcow2 -o extended_l2=on,compression_type=zstd,lazy_refcounts=on new.qcow2 3M
same text create -f qcow2 -b base.qcow2 -F qcow2 new.qcow2
same text create -q -f qcow2 -u -b nowhere.qcow2 -F qcow2 new.qcow2x 2M
same text create -f raw new.raw 1M
same text create -f qcow2 -o preallocation=falloc new.qcow2 1M
same status create -f qcow2 -o cluster_size=3k new.qcow2 1M
same status create -f qcow2 -o compat=0.10,extended_l2=on new.qcow2 1M
same status create -f qcow2 new.qcow2
for image in base top mid snap ext old bitmap; do
	same text info $image.qcow2
	same json info --output=json $image.qcow2
	same text check $image.qcow2
	same json check --output=json $image.qcow2
	same json map --output=json $image.qcow2
done
same text info flat.raw
same json info --output=json -f raw flat.raw
same json map --output=json -f raw flat.raw
same text info --backing-chain top.qcow2
same json info --backing-chain --output=json top.qcow2
same text map mid.qcow2
same text map snap.qcow2
same json map --output=json --start-offset=1M --max-length=512k top.qcow2
same status map top.qcow2
same text check broken.qcow2
same text check leak.qcow2
same text check -f qcow2 -r leaks leak.qcow2
same status check -f qcow2 -r all broken.qcow2
same status check flat.raw
same text snapshot -l snap.qcow2
for action in '-c three' '-a one' '-d one' '-d two' '-a two'; do
	# shellcheck disable=SC2086
	same text snapshot $action snap.qcow2
done
same status snapshot -a nosuch snap.qcow2
same text convert -O raw top.qcow2 out.raw
same text convert -f qcow2 -O qcow2 top.qcow2 out.qcow2
same text convert -O qcow2 -c ext.qcow2 out.qcow2
same text convert -O qcow2 -o compat=0.10,cluster_size=4k ext.qcow2 out.qcow2
same text convert -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 out.qcow2
same text convert -l one -O raw snap.qcow2 out.raw
same text convert -l snapshot.name=two -O qcow2 snap.qcow2 out.qcow2
same text convert -n -O raw flat.raw flat.raw2
same text convert -S 0 -O qcow2 flat.raw out.qcow2
same text dd if=top.qcow2 of=out.raw bs=64k count=9
same text dd if=top.qcow2 of=out.raw bs=64k skip=3
same text dd -f raw -O qcow2 if=flat.raw of=out.qcow2 bs=1M
same text compare base.qcow2 base.qcow2
same text compare base.qcow2 top.qcow2
same text compare top.qcow2 snap.qcow2
same status compare -s base.qcow2 top.qcow2
same status compare base.qcow2 nosuch.qcow2
same text commit -f qcow2 mid.qcow2
same text commit -f qcow2 -d mid.qcow2
same text commit -f qcow2 top.qcow2
same status commit -f qcow2 base.qcow2
same text rebase -f qcow2 -b '' top.qcow2
same text rebase -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
same text rebase -f qcow2 -u -b mid.qcow2 -F qcow2 top.qcow2
same text resize -f qcow2 base.qcow2 9M
same text resize -f qcow2 top.qcow2 +1M
same text resize -f qcow2 --shrink base.qcow2 -2M
same text resize -f qcow2 --preallocation=metadata base.qcow2 6M
same text resize -f raw flat.raw 4M
same status resize -f qcow2 base.qcow2 1M
same status resize -f qcow2 --shrink snap.qcow2 1M
same text bench -c 100 -d 8 -f qcow2 top.qcow2
same text bench -c 100 -d 8 -f raw -w -s 8k -S 16k --pattern=5 --flush-interval=10 flat.raw

for image in base.qcow2 top.qcow2 ext.qcow2 old.qcow2 bitmap.qcow2 flat.raw; do
	same text measure $image
	same json measure --output=json -O qcow2 $image
done
same text amend -f qcow2 -o compat=0.10 base.qcow2
same text amend -f qcow2 -o compat=0.10 snap.qcow2
same text amend -f qcow2 -o compat=0.10 mid.qcow2
same text amend -f qcow2 -o compat=1.1,lazy_refcounts=on,refcount_bits=64 old.qcow2
same text amend -f qcow2 -o refcount_bits=32 snap.qcow2
same text amend -q -f qcow2 -o size=9M,lazy_refcounts=on base.qcow2
same text amend -f qcow2 -o backing_file=base.qcow2 top.qcow2
for status in '-o compat=0.10 ext.qcow2' '-o lazy_refcounts=on old.qcow2' '-o refcount_bits=1 snap.qcow2' '-o refcount_bits=1 old.qcow2' \
	'-o cluster_size=4k base.qcow2' '-o backing_file= top.qcow2' 'base.qcow2' '-o nosuch=1 base.qcow2'; do
	# shellcheck disable=SC2086
	same status amend -f qcow2 $status
done
same text measure -O qcow2 --size 10G
same text measure -O raw --size 1000001
same text measure -O qcow2 -o cluster_size=2M,refcount_bits=1 --size 1T
same text measure -O qcow2 -o cluster_size=512,refcount_bits=64 snap.qcow2
same text measure -O qcow2 -o extended_l2=on,cluster_size=128k ext.qcow2
same text measure -O qcow2 -o preallocation=full base.qcow2
same text measure -O qcow2 -o compat=0.10 bitmap.qcow2
same text measure -O qcow2 -l one snap.qcow2
same json measure --output=json -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 top.qcow2
same text bitmap -f qcow2 --add base.qcow2 b
same text bitmap -f qcow2 --add -g 512 --disable base.qcow2 b
same text bitmap -f qcow2 --remove bitmap.qcow2 b0
same text bitmap -f qcow2 --clear --disable bitmap.qcow2 b0
same text bitmap -f qcow2 --enable bitmap.qcow2 b1
same text bitmap -f qcow2 --merge b0 bitmap.qcow2 b1
same text bitmap -f qcow2 --add --merge b1 -b bitmap.qcow2 -F qcow2 bits.qcow2 b9
for status in '--add bitmap.qcow2 b0' '--remove bitmap.qcow2 nosuch' '--add old.qcow2 b' '--merge nosuch bitmap.qcow2 b0' '--add -g 3k bitmap.qcow2 c' \
	'bitmap.qcow2 b0' '-g 4k --clear bitmap.qcow2 b0' '--merge b -b bits.qcow2 -F qcow2 base.qcow2 b'; do
	# shellcheck disable=SC2086
	same status bitmap -f qcow2 $status
done
same text info --image-opts driver=qcow2,file.filename=top.qcow2
same json info --output=json --image-opts driver=qcow2,file.driver=file,file.filename=snap.qcow2
same json map --output=json --image-opts driver=raw,file.filename=flat.raw
same text check --image-opts driver=qcow2,file.filename=ext.qcow2
same text compare --image-opts driver=qcow2,file.filename=base.qcow2 driver=qcow2,file.filename=top.qcow2
same text convert --image-opts -O raw driver=qcow2,file.filename=top.qcow2 out.raw
same text convert -n --target-image-opts top.qcow2 driver=qcow2,file.filename=ext.qcow2
same text resize --image-opts driver=qcow2,file.filename=base.qcow2 9M
same text measure --image-opts -O qcow2 driver=qcow2,file.filename=snap.qcow2
same status info --image-opts driver=nosuch,file.filename=top.qcow2
same status info --image-opts driver=qcow2
same status info -f qcow2 --image-opts driver=qcow2,file.filename=top.qcow2

# What a bitmap holds is the same to both: bits set by QEMU, read, merged and stored by Kage, and read by QEMU as an NBD server.
bits() { # IMAGE BITMAP: what has changed
	rm -f sock
	qemu-nbd -r -t -f qcow2 -k "$work/sock" -B "$2" "$1" &
	server=$!
	for _ in 1 2 3 4 5 6 7 8 9 10; do [ -S sock ] || sleep 0.2; done
	qemu-img map --output=json --image-opts "driver=nbd,server.type=unix,server.path=$work/sock,x-dirty-bitmap=qemu:dirty-bitmap:$2"
	kill $server
	wait $server
}
cp start/bits.qcow2 mine.qcow2
cp start/bits.qcow2 theirs.qcow2
"$kage" img bitmap -f qcow2 --add -g 4k --merge b mine.qcow2 wide && "$kage" img bitmap -f qcow2 --add -g 512 --merge b --disable mine.qcow2 fine
qemu-img bitmap -f qcow2 --add -g 4k --merge b theirs.qcow2 wide && qemu-img bitmap -f qcow2 --add -g 512 --merge b --disable theirs.qcow2 fine
for bitmap in b wide fine; do
	bits mine.qcow2 $bitmap >mine.bits 2>&1
	bits theirs.qcow2 $bitmap >theirs.bits 2>&1
	if cmp -s mine.bits theirs.bits && [ "$(wc -l <mine.bits)" -gt 2 ]; then pass; else fail "bitmap $bitmap: $(diff mine.bits theirs.bits | head -4)"; fi
done

# A bitmap that follows changes is marked when data changes, a frozen one stays.
cp start/bitmap.qcow2 marked.qcow2
"$kage" img bench -q -c 1 -w -f qcow2 marked.qcow2
if [ "$("$kage" img info marked.qcow2 | grep -c in-use)" = 1 ] && qemu-img check -q marked.qcow2 && qemu-img info marked.qcow2 | grep -q in-use; then
	pass
else
	fail "bitmaps after a write"
fi

# QEMU's lock keeps Kage out, and Kage's keeps QEMU out.
cp start/base.qcow2 locked.qcow2
mkfifo hold
qemu-io -f qcow2 locked.qcow2 <hold >/dev/null 2>&1 &
holder=$!
exec 9>hold
sleep 1
refused info locked.qcow2
grep -q 'lock' err && pass || fail "no word of the lock"
"$kage" img info -U locked.qcow2 >/dev/null 2>&1 && pass || fail "info -U of a locked image"
exec 9>&-
wait $holder

# ---- Refused ----
cp start/*.qcow2 start/flat.raw .
refused
refused nosuch
refused info
refused info nosuch.qcow2
refused info .
refused info --output=xml base.qcow2
refused info -f vmdk base.qcow2
refused create
refused create -f vmdk x 1M
refused create -f qcow2 x -1
refused create -f qcow2 x 1Q
refused create -f qcow2 x 99999999999999999999
refused create -f qcow2 -o nosuch=1 x 1M
refused create -f qcow2 -o refcount_bits=3 x 1M
refused create -f qcow2 -o preallocation=some x 1M
refused create -f qcow2 -b base.qcow2 x
refused create -f qcow2 -b nosuch.qcow2 -F qcow2 x
refused create -f qcow2 -o cluster_size=512 x 1E
refused create -f raw -b base.qcow2 -F qcow2 x 1M
refused create -f qcow2 /nonexistent/x 1M
refused resize base.qcow2 8M
refused resize -f qcow2 base.qcow2
refused resize -f qcow2 base.qcow2 8X
refused snapshot -c x base.qcow2
refused snapshot -f raw -c x flat.raw
refused snapshot -c a -d b -f qcow2 base.qcow2
refused convert base.qcow2
refused convert -O nosuch base.qcow2 x
refused convert -c -O raw base.qcow2 x
refused convert -l nosuch -O raw snap.qcow2 x
refused convert -O raw nosuch.qcow2 x
refused check -r some base.qcow2
refused commit -f qcow2 base.qcow2
refused commit mid.qcow2
refused rebase -f qcow2 mid.qcow2
refused rebase -f qcow2 -b nosuch.qcow2 -F qcow2 mid.qcow2
refused rebase -f qcow2 -b base.qcow2 mid.qcow2
refused map nosuch.qcow2
refused map --start-offset=x base.qcow2
refused bench -d 0 base.qcow2
refused bench -t odd base.qcow2
refused dd if=base.qcow2
refused dd bs=0 if=base.qcow2 of=x
refused amend -f raw -o size=1M flat.raw
refused amend -o compat=1.1 base.qcow2
refused amend -f qcow2 -o compat=0.10 bitmap.qcow2
refused bitmap base.qcow2 b
refused bitmap --add base.qcow2 b
refused bitmap -f raw --add flat.raw b
refused bitmap -f qcow2 --add base.qcow2
refused measure
refused measure --size 1G base.qcow2
refused measure -O nosuch --size 1G
refused measure -O qcow2 --size -1
refused measure -l x --size 1G
refused info --object secret,id=s,data=x base.qcow2
grep -q 'secret' err && pass || fail "no word of the secret"
refused info --object nosuch,id=s base.qcow2
refused info --image-opts driver=qcow2,file=node0
refused info --image-opts driver=qcow2,file.filename=base.qcow2,nosuch=1
refused info --image-opts driver=nbd,server.type=unix
refused info nbd:unix:/nonexistent/socket
refused info nbd:localhost
refused convert --target-image-opts base.qcow2 driver=qcow2,file.filename=x
refused dd nonsense if=base.qcow2 of=x
qemu-img create -q -f qcow2 -o data_file=data.bin ext-data.qcow2 1M
refused convert -O raw ext-data.qcow2 x
head -c 100 base.qcow2 >short.qcow2
refused check -f qcow2 short.qcow2
refused check -f qcow2 flat.raw
printf '\377' | dd of=mid.qcow2 bs=1 seek=75 conv=notrunc status=none
refused convert -O raw mid.qcow2 x

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
