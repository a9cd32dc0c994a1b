#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints the .c and .S files under the given directories, one a line, sorted: what meson.build builds.
# Usage: list-sources.sh ROOT DIR...   (paths printed are relative to ROOT)
set -eu
cd "$1"
shift
for dir; do
	[ -d "$dir" ] && find "$dir" -name '*.[cS]' -type f
done | LC_ALL=C sort
