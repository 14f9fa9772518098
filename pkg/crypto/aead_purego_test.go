//go:build purego

package crypto

const aeadAllocs = 1 // see aead_test.go
