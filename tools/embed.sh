#!/bin/sh
# SPDX-License-Identifier: MIT
# Writes a C file that has the bytes of a text as a string: const char NAME[].   Usage: embed.sh FILE NAME OUTPUT
set -eu
{
	echo "extern const char $2[];"
	echo "const char $2[] ="
	sed 's/[\\"]/\\&/g; s/	/\\t/g; s/^/    "/; s/$/\\n"/' "$1"
	echo '    ;'
} >"$3"
