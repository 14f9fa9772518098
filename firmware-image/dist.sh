#!/bin/sh
# Builds `sealgate`, the three programs in one file, for every architecture, and holds the size that it takes in a router's flash.
#
#	dist.sh OUT PLATFORM...        e.g. dist.sh dist linux/mipsle linux/arm64
#
# GO is the go command, LDFLAGS the linker's flags, FLAGS those of the compiler, MAX_FLASH the budget in bytes of what flash holds:
# a squashfs of the binary, with xz, as OpenWrt makes it. Needs mksquashfs for linux/mipsle; without it the size is not held, but in CI.
set -eu
out=$1
shift
mkdir -p "$out"

flash() { # flash FILE: prints its size in a squashfs
	tmp=$(mktemp -d)
	cp "$1" "$tmp/sealgate"
	mksquashfs "$tmp/sealgate" "$tmp/squashfs" -comp xz -b 256K -all-root -no-progress >"$tmp/said" 2>&1 || { cat "$tmp/said" >&2; rm -r "$tmp"; exit 1; }
	wc -c <"$tmp/squashfs"
	rm -r "$tmp"
}

for platform in "$@"; do
	file=$out/sealgate-$(echo "$platform" | tr / -)
	# shellcheck disable=SC2086 # lists of words
	GOOS=${platform%/*} GOARCH=${platform#*/} GOARM=7 GOMIPS=softfloat CGO_ENABLED=0 $GO build -trimpath -ldflags "$LDFLAGS" $FLAGS -o "$file" ./cmd/sealgate
	if command -v mksquashfs >/dev/null 2>&1; then
		size=$(flash "$file")
		printf '%-13s %9d bytes, %8d in flash\n' "$platform" "$(wc -c <"$file")" "$size"
		if [ "$platform" = linux/mipsle ] && [ "$size" -gt "$MAX_FLASH" ]; then
			echo "$platform takes more than the $MAX_FLASH bytes that it may" >&2
			exit 1
		fi
	elif [ "${CI:-}" = true ]; then
		echo "mksquashfs is missing: the size in flash cannot be held (Debian package squashfs-tools)" >&2
		exit 1
	else
		printf '%-13s %9d bytes; without mksquashfs the size in flash is not known\n' "$platform" "$(wc -c <"$file")"
	fi
done
cd "$out" && sha256sum sealgate-linux-* >SHA256SUMS
