#!/bin/sh
# Makes a flashable OpenWrt image with Sealgate in it, by an unpacked ImageBuilder of OpenWrt's:
#
#	imagebuilder.sh PROFILE DIRECTORY [DEVICE]        e.g. imagebuilder.sh mt7621 .../openwrt-imagebuilder-24.10... ubnt_edgerouter-x
#
# PROFILE is a file in profiles/. PACKAGES_DIR (dist/openwrt) has the packages, .ipk up to 24.10, ARCH/*.apk from 25.12; OUT (dist/images) gets the image;
# EXTRA names further packages. FILES is a directory with further files, such as etc/sealgate/broker-ca.pem and etc/config/sealgate.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
profiles=$(cd "$here/profiles" && echo *)
die() { echo "imagebuilder.sh: $*" >&2; exit 1; }

[ $# -ge 2 ] || die "usage: imagebuilder.sh PROFILE DIRECTORY [DEVICE]; profiles: $profiles"
[ -f "$here/profiles/$1" ] || die "no profile $1; there are: $profiles"
builder=$2 DEVICE='' TARGET='' ARCH=''
# shellcheck source=/dev/null
. "$here/profiles/$1"
[ -z "${3:-}" ] || DEVICE=$3
if [ ! -f "$builder/Makefile" ] || [ ! -d "$builder/packages" ]; then die "$builder is not an unpacked ImageBuilder"; fi
[ -n "$DEVICE" ] || die "profile $1 needs a DEVICE; \`make info\` in $builder lists them"
if [ -f "$builder/.config" ] && ! grep -q "^CONFIG_TARGET_ARCH_PACKAGES=\"$ARCH\"" "$builder/.config"; then
	die "$builder is not for $TARGET ($ARCH)"
fi

# 25.12 and later have repositories in apk's form. The SDK does not name the architecture in a file's name, but in a folder's.
packages=${PACKAGES_DIR:-$root/dist/openwrt}
if [ -f "$builder/repositories" ]; then
	set -- "$packages/$ARCH"/sealgate-[0-9]*.apk "$packages/$ARCH"/luci-app-sealgate-[0-9]*.apk
else
	set -- "$packages"/sealgate_*_"$ARCH.ipk" "$packages"/luci-app-sealgate_*_all.ipk
fi
for file; do
	[ -f "$file" ] || die "there is no $file: run make ipk; .apk are made by OpenWrt's SDK with feed/25.12, for this in $packages/$ARCH"
	cp "$file" "$builder/packages/"
done

files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
cp -R "$here/image-files/." "$files/"
[ -z "${FILES:-}" ] || cp -R "$FILES/." "$files/"
out=${OUT:-$root/dist/images}
mkdir -p "$out"
make -C "$builder" image PROFILE="$DEVICE" PACKAGES="sealgate luci luci-app-sealgate procd-ujail ${EXTRA:-}" FILES="$files" BIN_DIR="$out"
