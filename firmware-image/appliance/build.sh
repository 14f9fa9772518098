#!/bin/sh
# Makes the appliance's disk image. Needs no root and no loop device.
#
#	build.sh OUT SEALGATE              e.g. build.sh dist/sealgate-x86_64.img dist/sealgate-linux-amd64
#
# OUT is the disk, OUT.slot the squashfs that an upgrade writes. Layout of the disk, an MBR's four partitions:
#	1  EFI system, FAT: loader, and the one kilobyte that says which slot is good
#	2  slot A   squashfs: kernel, initramfs, programs
#	3  slot B   the same; empty at first
#	4  data     ext4: identity, settings, state
# Kernel, modules and busybox are Debian's; their packages are kept in CACHE (default: .cache beside OUT).
set -eu
out=$1 sealgate=$2
here=$(dirname "$0")
PATH=$PATH:/usr/sbin:/sbin
cache=${CACHE:-$(dirname "$out")/.cache}
: "${SOURCE_DATE_EPOCH:=$(git -C "$here" log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH
mkdir -p "$cache"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
boot_mib=8 slot_mib=40 data_mib=64

say() { echo "image: $*"; }
missing=
for tool in mksquashfs mke2fs mcopy mformat sfdisk grub-mkimage grub-editenv depmod cpio apt-get dpkg-deb; do
	command -v $tool >/dev/null 2>&1 || missing="$missing $tool"
done
[ -z "$missing" ] || { echo "image: missing:$missing; Debian has them in squashfs-tools e2fsprogs mtools fdisk grub-common grub-pc-bin grub-efi-amd64-bin kmod cpio" >&2; exit 1; }

# package NAME: unpacks a Debian package into $tmp/NAME, from the cache or by apt-get.
package() {
	deb=$(find "$cache" -name "$1_*.deb" | head -n 1)
	if [ -z "$deb" ]; then
		say "fetching $1"
		(cd "$cache" && apt-get download "$1" >"$tmp/said" 2>&1) || (apt-get update >"$tmp/said" 2>&1 && cd "$cache" && apt-get download "$1" >"$tmp/said" 2>&1) ||
			{ cat "$tmp/said" >&2; echo "image: apt-get cannot fetch $1" >&2; exit 1; }
		deb=$(find "$cache" -name "$1_*.deb" | head -n 1)
	fi
	dpkg-deb -x "$deb" "$tmp/$1"
}
kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
package "$kernel"
package busybox-static
version=${kernel#linux-image-}
modules=$tmp/$kernel/lib/modules/$version

# chosen SECTION: the modules of a section of the list, and what they need, as paths below $modules.
depmod -b "$tmp/$kernel" "$version"
chosen() {
	sed -n "/^\[$1\]/,/^\[/{/^[^#[]/p}" "$here/modules" | while read -r m; do
		if [ -d "$modules/kernel/$m" ]; then (cd "$modules" && find "kernel/$m" -name '*.ko'); else echo "kernel/$m.ko"; fi
	done | sort -u | awk -v dep="$modules/modules.dep" '
		BEGIN { while ((getline line < dep) > 0) { split(line, part, ":"); needs[part[1]] = part[2] } }
		{ if (!($0 in needs)) { print "no such module: " $0 > "/dev/stderr"; exit 1 } print; n = split(needs[$0], all, " "); for (i = 1; i <= n; i++) print all[i] }' | sort -u
}
# install_modules SECTIONS DIR
install_modules() {
	for section in $1; do chosen "$section"; done | sort -u >"$tmp/list"
	mkdir -p "$2/lib/modules/$version"
	(cd "$modules" && cpio -pdm --quiet "$2/lib/modules/$version" <"$tmp/list")
	cp "$modules/modules.builtin" "$modules/modules.order" "$modules/modules.builtin.modinfo" "$2/lib/modules/$version/"
	depmod -b "$2" "$version"
}

say "initramfs"
ram=$tmp/ram
mkdir -p "$ram/bin"
cp "$tmp/busybox-static/bin/busybox" "$ram/bin/"
cp "$here/initramfs-init" "$ram/init"
install_modules boot "$ram"

say "slot"
root=$tmp/root
mkdir -p "$root"
cp -r "$here/root/." "$root/"
for d in bin sbin usr/bin usr/sbin proc sys dev run tmp data boot var/lib; do mkdir -p "$root/$d"; done
cp "$tmp/busybox-static/bin/busybox" "$root/bin/"
"$root/bin/busybox" --list-full | while read -r path; do
	[ -e "$root/$path" ] || { mkdir -p "$root/$(dirname "$path")" && ln -s /bin/busybox "$root/$path"; }
done
cp "$sealgate" "$root/usr/bin/sealgate"
for name in gatewayd controld sealctl; do ln -s sealgate "$root/usr/bin/$name"; done
ln -s /data/state "$root/var/lib/sealgate"
ln -s /run/resolv.conf "$root/etc/resolv.conf"
ln -s /run "$root/var/run"
install_modules "boot running" "$root"
cp "$tmp/$kernel/boot/vmlinuz-$version" "$root/boot/vmlinuz"
find "$ram" "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$ram" && find . | sort | cpio -o -H newc -R 0:0 --reproducible --quiet | gzip -9n) >"$root/boot/initrd"
mksquashfs "$root" "$tmp/slot" -comp xz -b 256K -all-root -no-progress -quiet
size=$(wc -c <"$tmp/slot")
[ "$size" -le $((slot_mib << 20)) ] || { echo "image: the slot of $size bytes does not fit $slot_mib MiB" >&2; exit 1; }

say "disk"
part() { # part FILE MIB-FROM-START: writes a partition into the disk
	dd if="$1" of="$tmp/disk" bs=1M seek="$2" conv=notrunc status=none
}
common="part_msdos fat squash4 normal configfile linux loadenv regexp echo reboot sleep test serial terminal boot minicmd"
# shellcheck disable=SC2086 # a list of words
{
	grub-mkimage -O i386-pc -o "$tmp/core.img" -p '(,msdos1)/sealgate' $common biosdisk
	grub-mkimage -O x86_64-efi -o "$tmp/boot.efi" -p '(,msdos1)/sealgate' $common
}
grub-editenv "$tmp/state" create
grub-editenv "$tmp/state" set good=A
truncate -s "${boot_mib}M" "$tmp/fat"
mformat -i "$tmp/fat" -T $((boot_mib << 11)) -v SEALGATE -N 5ea19a7e ::
mmd -i "$tmp/fat" ::/EFI ::/EFI/BOOT ::/sealgate
mcopy -i "$tmp/fat" "$tmp/boot.efi" ::/EFI/BOOT/BOOTX64.EFI
mcopy -i "$tmp/fat" "$here/grub.cfg" ::/sealgate/grub.cfg
mcopy -i "$tmp/fat" "$tmp/state" ::/sealgate/state
truncate -s "${data_mib}M" "$tmp/data"
mke2fs -q -t ext4 -L sealgate-data -m 0 "$tmp/data"

a=1
b=$((a + boot_mib)) c=$((a + boot_mib + slot_mib)) d=$((a + boot_mib + 2 * slot_mib))
truncate -s "$((d + data_mib))M" "$tmp/disk"
sfdisk -q "$tmp/disk" <<END
label: dos
label-id: 0x5ea19a7e
start=${a}MiB, size=${boot_mib}MiB, type=ef, bootable
start=${b}MiB, size=${slot_mib}MiB, type=83
start=${c}MiB, size=${slot_mib}MiB, type=83
start=${d}MiB, size=${data_mib}MiB, type=83
END
dd if=/usr/lib/grub/i386-pc/boot.img of="$tmp/disk" bs=1 count=440 conv=notrunc status=none
dd if="$tmp/core.img" of="$tmp/disk" bs=512 seek=1 conv=notrunc status=none
part "$tmp/fat" $a
part "$tmp/slot" $b
part "$tmp/data" $d
mv "$tmp/disk" "$out"
mv "$tmp/slot" "$out.slot"
say "$out: slot $((size >> 10)) KiB, disk $((d + data_mib)) MiB"
