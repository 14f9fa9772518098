#!/bin/sh
# Makes the appliance's disk image. Needs no root and no loop device.
#
#	build.sh ARCH OUT SEALGATE         e.g. build.sh amd64 dist/sealgate-x86_64.img dist/sealgate-linux-amd64
#
# ARCH is Debian's name. OUT is the disk, OUT.slot the squashfs that an upgrade writes, of the tree that tree.sh makes. Layout of the disk, an MBR's four partitions:
#	1  EFI system, FAT: loader, and the one kilobyte that says which slot is good
#	2  slot A   squashfs: kernel, initramfs, programs
#	3  slot B   the same; empty at first
#	4  data     ext4: identity, settings, state
# Debian's packages are kept in CACHE (default: .cache beside OUT).
set -eu
arch=$1 out=$2 sealgate=$3
here=$(dirname "$0")
PATH=$PATH:/usr/sbin:/sbin
CACHE=${CACHE:-$(dirname "$out")/.cache}
: "${SOURCE_DATE_EPOCH:=$(git -C "$here" log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH CACHE
# shellcheck source-path=SCRIPTDIR source=architectures
. "$here/architectures"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
boot_mib=8 slot_mib=40 data_mib=64

say() { echo "image: $arch: $*"; }
missing=
for tool in mksquashfs mke2fs mcopy mformat sfdisk grub-mkimage grub-editenv depmod cpio apt-get dpkg-deb; do
	command -v $tool >/dev/null 2>&1 || missing="$missing $tool"
done
[ -z "$missing" ] || { echo "image: missing:$missing; Debian has them in squashfs-tools e2fsprogs mtools fdisk grub-common kmod cpio" >&2; exit 1; }

"$here/tree.sh" "$arch" "$sealgate" "$tmp/root"
# gzip, for xz takes a slow processor three seconds more to start, and saves 3 MiB. What is compressed already is not to be unpacked twice: GRUB reads it in small pieces, and
# would unpack a whole block for each.
mksquashfs "$tmp/root" "$tmp/slot" -comp gzip -b 256K -all-root -no-progress -quiet -action "uncompressed @ subpathname(boot)"
size=$(wc -c <"$tmp/slot")
[ "$size" -le $((slot_mib << 20)) ] || { echo "image: the slot of $size bytes does not fit $slot_mib MiB" >&2; exit 1; }

say "disk"
part() { # part FILE MIB-FROM-START: writes a partition into the disk
	dd if="$1" of="$tmp/disk" bs=1M seek="$2" conv=notrunc status=none
}
common="part_msdos fat squash4 normal configfile linux loadenv regexp echo reboot sleep test serial terminal boot minicmd"
# loader FORMAT MODULES FILE: makes GRUB for a way to boot.
loader() {
	# shellcheck disable=SC2086 # a list of words
	grub-mkimage -O "$1" -d "$tmp/$package/usr/lib/grub/$1" -o "$3" -p '(,msdos1)/sealgate' $common $2
}
mkdir "$tmp/efi"
for package in $loaders; do
	"$here/packages.sh" "$arch" "$tmp" "$package"
	case $package in
	grub-pc-bin) loader i386-pc "biosdisk smbios" "$tmp/core.img" ;;
	grub-efi-amd64-bin) loader x86_64-efi smbios "$tmp/efi/BOOTX64.EFI" ;;
	grub-efi-arm64-bin) loader arm64-efi gzio "$tmp/efi/BOOTAA64.EFI" ;;
	esac
done
grub-editenv "$tmp/state" create
grub-editenv "$tmp/state" set good=A
truncate -s "${boot_mib}M" "$tmp/fat"
mformat -i "$tmp/fat" -T $((boot_mib << 11)) -v SEALGATE -N 5ea19a7e ::
mmd -i "$tmp/fat" ::/EFI ::/EFI/BOOT ::/sealgate
[ -z "$loaders" ] || mcopy -i "$tmp/fat" "$tmp/efi/"* ::/EFI/BOOT/
sed "s/CONSOLE/$console/" "$here/grub.cfg" >"$tmp/grub.cfg"
mcopy -i "$tmp/fat" "$tmp/grub.cfg" ::/sealgate/grub.cfg
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
if [ -e "$tmp/core.img" ]; then
	dd if="$tmp/grub-pc-bin/usr/lib/grub/i386-pc/boot.img" of="$tmp/disk" bs=1 count=440 conv=notrunc status=none
	dd if="$tmp/core.img" of="$tmp/disk" bs=512 seek=1 conv=notrunc status=none
fi
part "$tmp/fat" $a
part "$tmp/slot" $b
part "$tmp/data" $d
mv "$tmp/disk" "$out"
mv "$tmp/slot" "$out.slot"
say "$out: slot $((size >> 10)) KiB, disk $((d + data_mib)) MiB"
