// Package bpf holds the steering classifier: steer.c, and the objects compiled from it for both byte orders with the Go
// code that loads them. The objects are committed so that no build needs clang; a test compiles steer.c again where
// clang is installed and compares byte for byte.
//
// The program needs no BTF, neither its own nor the kernel's, and no relocation against kernel types: it reads only
// __sk_buff and struct bpf_sock, whose layout is the kernel's stable interface.
package bpf

//go:generate sh generate.sh
