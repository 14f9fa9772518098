#!/bin/sh
# Builds the committed tree in another folder and with an empty build cache, and compares with what `make dist` has made here.
#
#	reproduce.sh OUT PLATFORM
set -eu
built=$1/sealgate-$(echo "$2" | tr / -)
if [ -n "$(git status --porcelain)" ]; then
	echo "The tree has changes that are not committed: what is built from it cannot be compared."
	exit 0
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
git clone -q . "$tmp/another-folder"
GOCACHE=$tmp/cache make -s -C "$tmp/another-folder" dist PLATFORMS="$2" >"$tmp/said" || { cat "$tmp/said"; exit 1; }
cmp "$built" "$tmp/another-folder/dist/${built##*/}" || { echo "The same commit gives other bytes in another folder."; exit 1; }
echo "$2: the same bytes again, from another folder and an empty cache"
