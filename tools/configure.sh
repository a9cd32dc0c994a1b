#!/bin/sh
# SPDX-License-Identifier: MIT
# Sets up a meson build directory, or reconfigures it when the list of source files has changed.
# Usage: configure.sh BUILD-DIR [meson options...]
set -eu
build=$1
shift
cd "$(dirname "$0")/.."

sources=$( (tools/list-sources.sh . engine preload vmm tests bench; find . -name meson.build -not -path './build*') | cksum)
stamp=$build/.sources
if [ ! -f "$build/build.ninja" ]; then
	meson setup "$build" "$@"
elif [ "$(cat "$stamp" 2>/dev/null)" != "$sources" ]; then
	meson setup --reconfigure "$build" "$@" >"$build/reconfigure.log" 2>&1 || { cat "$build/reconfigure.log" >&2; exit 1; }
fi
echo "$sources" >"$stamp"
