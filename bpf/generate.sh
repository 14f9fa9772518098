#!/bin/sh
# Compiles steer.c for both byte orders and writes the Go code that embeds the objects. Run by `go generate ./bpf`.
# OUT names another directory to write to; CLANG and LLVM_STRIP other programs. The committed objects are clang 14's.
set -eu
cd "$(dirname "$0")"
GOPACKAGE=bpf exec go run github.com/cilium/ebpf/cmd/bpf2go \
	-cc "${CLANG:-clang-14}" -strip ./strip.sh \
	-target bpfel,bpfeb -output-dir "${OUT:-.}" \
	-cflags "-O2 -Wall -Wextra -Werror" Steer steer.c -- -Iinclude
