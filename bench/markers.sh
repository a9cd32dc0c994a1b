#!/bin/sh
# SPDX-License-Identifier: MIT
# Puts a table between two lines of a page, "<!-- NAME: begin -->" and "<!-- NAME: end -->"; where the page has none, behind its end,
# under the heading given. Usage: markers.sh PAGE NAME TABLE-FILE HEADING
set -eu
page=$1 begin="<!-- $2: begin -->" end="<!-- $2: end -->" table=$3 heading=$4
new=$(mktemp)
trap 'rm -f "$new"' EXIT
[ -f "$page" ] || : >"$page"
grep -qxF -- "$begin" "$page" || printf '%s%s\n\n%s\n%s\n' "$([ ! -s "$page" ] || printf '\n.')" "$heading" "$begin" "$end" | sed '1s/^\.//' >>"$page"
awk -v begin="$begin" -v end="$end" -v table="$table" '
	$0 == begin { print; while ((getline line < table) > 0) print line; skipping = 1; next }
	$0 == end { skipping = 0 }
	!skipping' "$page" >"$new"
cat "$new" >"$page"
