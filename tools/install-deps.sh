#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs the Debian packages named that are not installed, after saying so. As an ordinary user it asks sudo.
# Where there is no dpkg (not a Debian), it does nothing: the build says what it lacks.
set -eu
command -v dpkg-query >/dev/null || exit 0

missing=
for package; do
	status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || :)
	[ "$status" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "These packages are missing, and there is no sudo to install them with:$missing" >&2
		exit 1
	fi
	sudo=sudo
fi
echo "Installing Debian packages:$missing" >&2
# shellcheck disable=SC2086
install() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >&2; }
$sudo apt-get update -q >&2 || echo "apt-get update failed; trying with the package lists there are" >&2
install
