//go:build purego || !amd64

package crypto

const aeadAllocs = 1 // see aead_test.go
