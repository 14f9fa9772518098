#!/bin/sh
# Called by bpf2go as `strip.sh -g OBJECT`. Type information goes too, not only debug information: no kernel needs it
# for this program, it doubles the object, and it names source paths.
set -eu
exec "${LLVM_STRIP:-llvm-strip-14}" -g --discard-all \
	--remove-section=.BTF --remove-section=.rel.BTF --remove-section=.BTF.ext --remove-section=.rel.BTF.ext \
	--remove-section=.llvm_addrsig "$2"
