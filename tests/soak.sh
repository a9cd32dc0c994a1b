#!/bin/sh
# SPDX-License-Identifier: MIT
# `make soak`: the self-verifying guest programs and boots of both kernels, over and over for SOAK_MINUTES (30).
# Stops at the first failure and keeps what it printed. Usage: soak.sh BUILD-DIR
set -u
cd "$(dirname "$0")/.." || exit 1
GUEST_PROGS=$1/tests/system/guest-progs
export GUEST_PROGS
: "${KAGE:=$1/kage}" "${SOAK_MINUTES:=30}"
export KAGE KAGE_TEST_BOOTS=3
tools/fetch-guest.sh || exit 1
end=$(($(date +%s) + SOAK_MINUTES * 60)) rounds=0
log=$(mktemp)
while [ "$(date +%s)" -lt "$end" ]; do
	for script in boot progs; do
		if ! tests/system/$script.sh >"$log" 2>&1; then
			cat "$log"
			echo "soak: $script failed in round $((rounds + 1)); its output is in $log"
			exit 1
		fi
	done
	rounds=$((rounds + 1))
	echo "soak: round $rounds passed"
done
rm -f "$log"
