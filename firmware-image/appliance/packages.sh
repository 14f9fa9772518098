#!/bin/sh
# Unpacks Debian packages of any architecture, whatever this machine's own is, and installs nothing.
#
#	packages.sh ARCH DIR PACKAGE...     e.g. packages.sh arm64 build linux-image-arm64 busybox-static
#
# Each goes to DIR/PACKAGE; of a kernel's package that stands for the newest, such as linux-image-arm64, the newest does. They come from where this machine's apt has its
# own from, by an apt with a state of its own in CACHE, which also verifies what it fetches; what is there already is not fetched again. Needs no root.
set -eu
arch=$1 dir=$2
shift 2
: "${CACHE:=dist/.cache}"
mkdir -p "$CACHE/$arch/lists/partial" "$CACHE/$arch/cache" "$dir"
state=$(cd "$CACHE/$arch" && pwd)
said=$(mktemp)
trap 'rm -f "$said"' EXIT
: >"$state/status" # nothing is installed

# apt PROGRAM ARGUMENTS: an apt for the architecture, which knows nothing of what this machine has installed.
apt() {
	program=$1
	shift
	"$program" -qq -o APT::Architecture="$arch" -o APT::Architectures="$arch" -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" \
		-o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# Lists of today are new enough; older ones do if there is no network.
if [ -z "$(find "$state/updated" -mtime -1 2>/dev/null)" ]; then
	echo "image: asking for Debian's packages for $arch"
	if apt apt-get update >"$said" 2>&1; then touch "$state/updated"; else
		cat "$said" >&2
		echo "image: apt-get update failed for $arch; going on with the lists that are there" >&2
	fi
fi

# fetched PACKAGE: the file of a package's newest version. What was kept must be what the signed lists have.
fetched() {
	apt apt-get download --print-uris "$1" >"$said" 2>&1 || return 1
	# A line: 'URI' FILE SIZE SHA256:SUM
	read -r _ file _ sum <"$said" || return 1
	[ "$sum" != "${sum#SHA256:}" ] || return 1
	right() { echo "${sum#SHA256:}  $state/$file" | sha256sum -c --status 2>/dev/null; }
	if ! right; then
		echo "image: fetching $file" >&2
		(cd "$state" && rm -f "$file" && apt apt-get download "$1" >"$said" 2>&1) && right || return 1
	fi
	echo "$state/$file"
}

for package in "$@"; do
	name=$package
	case $name in
	linux-image-[0-9]*.*) ;;
	linux-image-*)
		newest=$(apt apt-cache depends "$name" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1)
		name=${newest:-$name}
		;;
	esac
	deb=$(fetched "$name") || { cat "$said" >&2; echo "image: apt cannot fetch $name for $arch: is the network there, and does this machine's apt know Debian's archive?" >&2; exit 1; }
	dpkg-deb -x "$deb" "$dir/$package"
done
