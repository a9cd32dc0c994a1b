#!/bin/sh
# SPDX-License-Identifier: MIT
# `make test`: runs every meson test (unit, diff, guest, system), adds up what they counted, and ends with
# "N passed, N failed, N skipped" alone on a line. Status 1 if anything failed.
# A test program counts its own checks by printing such a line, or as cmocka does; one that prints none counts as one.
# Usage: run.sh BUILD-DIR [meson test options or names...]
set -u
cd "$(dirname "$0")/.." || exit 1
build=$1
shift
log=$build/meson-logs/testlog.txt
rm -f "$log"
# The guest's kernels are fetched once, before tests compete for the network.
tools/fetch-guest.sh || echo "No guest kernels: the tests that need them are skipped" >&2

meson test -C "$build" --no-rebuild --print-errorlogs "$@"
meson_status=$?
[ -s "$log" ] || { echo "The tests did not run" >&2; exit 1; }

awk -v meson_status="$meson_status" '
function finish() {
	if (!open) return
	ok = result ~ /exit status 0/
	skip = result ~ /exit status 77/
	if (p + f + s == 0) { if (ok) p = 1; else if (skip) s = 1; else f = 1 }
	else if (!ok && !skip && f == 0) f = 1	# it died after its last count
	passed += p; failed += f; skipped += s
	if (f) names = names "\n  " name
	open = 0
}
/^test: / { finish(); open = 1; name = $0; sub(/^test: */, "", name); p = f = s = 0; result = ""; next }
/^result: / && result == "" { result = $0; next }
/^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped\r?$/ { p += $1; f += $3; s += $5 }
/^\[  PASSED  \] [0-9]+ test\(s\)\.?/ { p += $4 }
/^\[  FAILED  \] .*: [0-9]+ test\(s\), listed below/ { n = $0; sub(/ test\(s\).*/, "", n); sub(/.* /, "", n); f += n }
/^\[  SKIPPED \] .*: [0-9]+ test\(s\), listed below/ { n = $0; sub(/ test\(s\).*/, "", n); sub(/.* /, "", n); s += n }
END {
	finish()
	if (meson_status != 0 && failed == 0) failed = 1
	if (names != "") print "\nFailed:" names
	printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
	exit failed != 0
}' "$log"
