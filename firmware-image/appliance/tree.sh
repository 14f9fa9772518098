#!/bin/sh
# Makes the tree of a slot: kernel, initramfs, modules, busybox, our own files and programs. Needs no root.
#
#	tree.sh ARCH SEALGATE DIR           e.g. tree.sh arm64 dist/sealgate-linux-arm64 build/root
#
# ARCH is Debian's name, SEALGATE the program for it. The loader is to start DIR/boot/vmlinuz with DIR/boot/initrd. Kernel, modules and busybox are Debian's, of packages that
# are kept in CACHE (default: dist/.cache).
set -eu
arch=$1 sealgate=$2 root=$3
here=$(dirname "$0")
PATH=$PATH:/usr/sbin:/sbin
: "${SOURCE_DATE_EPOCH:=$(git -C "$here" log -1 --format=%ct)}"
# shellcheck source-path=SCRIPTDIR source=architectures
. "$here/architectures"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
say() { echo "image: $arch: $*"; }

"$here/packages.sh" "$arch" "$tmp" "$kernel" busybox-static
busybox=$tmp/busybox-static/bin/busybox
# Which commands a busybox has, only one can tell that runs here; Debian configures all alike.
native=$(dpkg --print-architecture)
[ "$native" = "$arch" ] || "$here/packages.sh" "$native" "$tmp/native" busybox-static
version=$(basename "$tmp/$kernel/lib/modules/"*)
modules=$tmp/$kernel/lib/modules/$version
depmod -b "$tmp/$kernel" "$version"

# listed SECTION: what the list has for every architecture, and for this one.
listed() {
	sed -n -e "/^\[$1\]/,/^\[/{/^[^#[]/p}" -e "/^\[$1 $arch\]/,/^\[/{/^[^#[]/p}" "$here/modules"
}
# chosen SECTION: the modules of a section, and what they need, as paths below $modules. What the kernel has built in needs none.
chosen() {
	listed "$1" | while read -r m; do
		if [ -d "$modules/kernel/$m" ]; then (cd "$modules" && find "kernel/$m" -name '*.ko'); else echo "kernel/$m.ko"; fi
	done | grep -vxFf "$modules/modules.builtin" | sort -u | awk -v dep="$modules/modules.dep" '
		BEGIN { while ((getline line < dep) > 0) { split(line, part, ":"); needs[part[1]] = part[2] } }
		{ if (!($0 in needs)) { print "no such module: " $0 > "/dev/stderr"; exit 1 } print; n = split(needs[$0], all, " "); for (i = 1; i <= n; i++) print all[i] }'
}
# install_modules SECTIONS DIR
install_modules() {
	for section in $1; do chosen "$section" || exit 1; done >"$tmp/chosen"
	sort -u "$tmp/chosen" >"$tmp/list"
	mkdir -p "$2/lib/modules/$version"
	(cd "$modules" && cpio -pdm --quiet "$2/lib/modules/$version" <"$tmp/list")
	cp "$modules/modules.builtin" "$modules/modules.order" "$modules/modules.builtin.modinfo" "$2/lib/modules/$version/"
	depmod -b "$2" "$version"
}

say "initramfs"
ram=$tmp/ram
mkdir -p "$ram/bin"
cp "$busybox" "$ram/bin/"
cp "$here/initramfs-init" "$ram/init"
install_modules boot "$ram"

say "slot"
mkdir -p "$root"
root=$(cd "$root" && pwd)
cp -r "$here/root/." "$root/"
sed -i "s/^CONSOLE:/$console:/" "$root/etc/inittab"
for d in bin sbin usr/bin usr/sbin proc sys dev run tmp data boot var/lib; do mkdir -p "$root/$d"; done
cp "$busybox" "$root/bin/"
[ "$native" = "$arch" ] || busybox=$tmp/native/busybox-static/bin/busybox
"$busybox" --list-full | while read -r path; do
	[ -e "$root/$path" ] || { mkdir -p "$root/$(dirname "$path")" && ln -s /bin/busybox "$root/$path"; }
done
cp "$sealgate" "$root/usr/bin/sealgate"
[ -z "${VENDOR:-}" ] || cp "$VENDOR" "$root/usr/share/sealgate/vendor.crt"
for name in gatewayd controld sealctl; do ln -s sealgate "$root/usr/bin/$name"; done
ln -s /data/state "$root/var/lib/sealgate"
ln -s /run/resolv.conf "$root/etc/resolv.conf"
ln -s /run "$root/var/run"
install_modules "boot running" "$root"
cp "$tmp/$kernel/boot/vmlinu"[xz]"-$version" "$root/boot/vmlinuz"
# A kernel that does not unpack itself, as arm64's, GRUB unpacks: gzip in two thirds of the time that it takes for xz.
if [ "$(dd if="$root/boot/vmlinuz" bs=1 skip=56 count=4 status=none | tr -d '\0')" = ARMd ]; then
	gzip -9nf "$root/boot/vmlinuz" && mv "$root/boot/vmlinuz.gz" "$root/boot/vmlinuz"
fi
find "$ram" "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$ram" && find . | sort | cpio -o -H newc -R 0:0 --reproducible --quiet | gzip -9n) >"$root/boot/initrd"
touch -d "@$SOURCE_DATE_EPOCH" "$root/boot/initrd" "$root/boot"
