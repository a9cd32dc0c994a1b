#!/bin/sh
# SPDX-License-Identifier: MIT
# Proves that includes point one way:
#   engine: kvm -> vmx -> cpu <-> mmu, kvm -> apic, all -> arch
#   vmm:    cli -> monitor, gdb -> machine -> vcpu -> bus -> dev -> chardev -> util, machine -> virtio -> disk -> dev, block -> util, virtio and dev -> net,
#           display -> util, cli -> inspect -> util,
#           and of the engine only include/kage.h
# Prints each include that goes another way; status 1 if there is one.
set -eu
cd "$(dirname "$0")/.."

# Parts, and what each may include besides itself.
check() {
	# $1: root directory, $2: table of "part: allowed parts"
	printf '%s\n' "$2" | while IFS=: read -r part allowed; do
		[ -d "$1/$part" ] || continue
		grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' --include='*.[chS]' "$1/$part" | awk -v root="$1" \
			-v part="$part" -v allowed="$part $allowed" '
			BEGIN { n = split(allowed, a, " "); for (i = 1; i <= n; i++) ok[a[i]] = 1 }
			{
				place = $0; sub(/:[[:space:]]*#.*/, "", place)
				path = $0; sub(/^[^"]*"/, "", path); sub(/".*/, "", path)
				if (path ~ /\.\./) { print place ": \"" path "\" leaves its directory"; next }
				if (path == "kage.h") { if (!ok["kage.h"]) print place ": only kvm/ and the VMM include kage.h"; next }
				if (path !~ /\//) {
					# A plain name is a file beside the includer (Kage writes "part/file.h").
					next
				}
				to = path; sub(/\/.*/, "", to)
				if (!ok[to]) print place ": " root "/" part " must not include \"" path "\""
			}'
	done
}

bad=$(
	check engine "arch:
cpu:mmu arch
mmu:cpu arch
vmx:cpu mmu arch
apic:arch
kvm:vmx cpu mmu apic arch kage.h"
	check vmm "util:kage.h
chardev:util
block:util
mem:util kage.h
net:util
display:util
bus:dev util kage.h
dev:chardev net display util kage.h
disk:block dev util kage.h
virtio:disk block dev chardev net display util kage.h
vcpu:bus util kage.h
machine:vcpu bus virtio disk block dev chardev net display mem util kage.h
monitor:machine vcpu bus virtio disk block dev chardev net display util kage.h
gdb:machine vcpu bus dev chardev util kage.h
inspect:util kage.h
cli:machine monitor gdb vcpu bus virtio disk block dev chardev net display mem inspect util kage.h"
)
# The VMM must not reach the engine by its include path either.
bad="$bad$(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*["<](engine|arch|cpu|mmu|vmx|apic|kvm)/' --include='*.[ch]' vmm include || :)"

if [ -n "$bad" ]; then
	printf '%s\n' "$bad"
	exit 1
fi
