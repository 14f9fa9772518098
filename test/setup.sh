#!/bin/sh
# Installs the Debian packages that the tests and the demo use, only those that are missing. Without root, or without
# apt-get, it says what is missing and succeeds: tests that need it skip, and the demo falls back on what Go brings along.
# With the argument "demo" it installs no more than the demo uses; with "firmware" also what makes and boots the appliance's image.
set -eu
PATH=$PATH:/usr/sbin:/sbin

missing= wanted=
need() { # need PROGRAM PACKAGE
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
want() { # want PROGRAM PACKAGE: not every release has it
	command -v "$1" >/dev/null 2>&1 || wanted="$wanted $2"
}
need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
if [ "${1:-}" != demo ]; then
	need haproxy haproxy
	need nft nftables
	need ip iproute2
	need tc iproute2
	need iptables iptables
	need tcpdump tcpdump
	need gcc gcc
	need rabbitmq-server rabbitmq-server
	need node nodejs
	need npm npm
	need openssl openssl
	need mksquashfs squashfs-tools
	need shellcheck shellcheck
	need busybox busybox-static
	want chromium-headless-shell chromium-headless-shell # the pages of the web interface
	want clang-14 clang-14 # the compiler that the committed BPF objects are compared with
	want llvm-strip-14 llvm-14
	[ -x /usr/bin/python3 ] || missing="$missing python3"
	/usr/bin/python3 -c 'import cbor2' >/dev/null 2>&1 || missing="$missing python3-cbor2"
	/usr/bin/python3 -c 'import cryptography' >/dev/null 2>&1 || missing="$missing python3-cryptography"
	/usr/bin/python3 -c 'import paho.mqtt.client' >/dev/null 2>&1 || missing="$missing python3-paho-mqtt"
	[ -e /usr/include/linux/bpf.h ] || missing="$missing linux-libc-dev"
	[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
fi

if [ "${1:-}" = firmware ]; then
	need qemu-system-x86_64 qemu-system-x86
	need qemu-system-aarch64 qemu-system-arm
	need qemu-system-mipsel qemu-system-mips
	need sfdisk fdisk
	need mke2fs e2fsprogs
	need mcopy mtools
	need grub-mkimage grub-common
	need depmod kmod
	need cpio cpio
	need busybox busybox-static
	[ -e /usr/share/OVMF/OVMF_CODE.fd ] || missing="$missing ovmf"
	[ -e /usr/share/AAVMF/AAVMF_CODE.fd ] || missing="$missing qemu-efi-aarch64"
fi

# The client and the broker in JavaScript of test/interop, as its lock file has them; again when that has changed.
packages() {
	[ "${1:-}" != demo ] && command -v npm >/dev/null 2>&1 || return 0
	cd "$(dirname "$0")/interop/clients"
	cmp -s package-lock.json node_modules/installed-lock.json && return 0
	said=$(mktemp)
	if npm ci --ignore-scripts --no-audit --no-fund >"$said" 2>&1 </dev/null; then
		cp package-lock.json node_modules/installed-lock.json
	else
		tail -n 20 "$said"
		echo "npm ci could not install mqtt.js and aedes: what needs them is left out."
	fi
	rm -f "$said"
}

[ -n "$missing$wanted" ] || { packages "$@"; exit 0; }
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "Not installed:$missing$wanted. What needs them is left out; \`sudo make setup\` installs them."
	packages "$@"
	exit 0
fi

export DEBIAN_FRONTEND=noninteractive
export RUNLEVEL=1 # so that the packages' own services are not started
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "Installing what is missing:$missing$wanted"
if ! apt-get update >"$log" 2>&1 </dev/null; then
	tail -n 5 "$log"
	echo "apt-get update failed; going on with the package lists that are there."
fi
for package in $wanted; do
	if apt-cache show "$package" >/dev/null 2>&1; then missing="$missing $package"; else echo "This Debian has no $package: left out."; fi
done
[ -n "$missing" ] || { packages "$@"; exit 0; }
# shellcheck disable=SC2086 # a list of packages
if ! apt-get install -y --no-install-recommends $missing >"$log" 2>&1 </dev/null; then
	tail -n 20 "$log"
	echo "apt-get could not install$missing"
	exit 1
fi
packages "$@"
