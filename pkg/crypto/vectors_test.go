package crypto

import (
	"crypto/sha256"
	"flag"
	"sealgate/test/spec"
	"testing"
)

// The test vectors are for every implementation of the specification, so they stand outside
// the package. One file holds one case; a case that must fail has one defect and
// names the class of the failure. The generators below are deterministic:
//
//	go test ./pkg/crypto -run TestVectors -update
var update = flag.Bool("update", false, "write test/vectors anew")

const allVectors = "../../test/vectors"

// generators makes the cases of each directory, by file name.
var generators = map[string]func(t *testing.T) map[string]any{
	"envelope": func(t *testing.T) map[string]any { return envelopeVectors(t) },
	"keys":     func(t *testing.T) map[string]any { return keyVectors(t) },
	"epoch":    func(t *testing.T) map[string]any { return epochVectors(t) },
	"sign1":    func(t *testing.T) map[string]any { return sign1Vectors(t) },
	"window":   func(t *testing.T) map[string]any { return windowVectors(t) },
	"mlkem":    func(t *testing.T) map[string]any { return mlkemVectors(t) },
	"topic":    func(t *testing.T) map[string]any { return topicVectors(t) },
	"hpke":     func(t *testing.T) map[string]any { return hpkeVectors(t) },
}

// TestVectorsAreCurrent compares the files with what the generators make, or writes them.
func TestVectorsAreCurrent(t *testing.T) {
	for dir, generate := range generators {
		t.Run(dir, func(t *testing.T) { spec.Current(t, vectorDir(dir), generate(t), *update) })
	}
}

// vectorDir holds the cases of a kind.
func vectorDir(kind string) spec.Vectors { return spec.Vectors(allVectors + "/" + kind) }

// octets is bytes of a case.
type octets = spec.Hex

// digest is the SHA-256 of bytes too long to write out.
func digest(b []byte) octets {
	sum := sha256.Sum256(b)
	return sum[:]
}

func seq32(first byte) []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
