package crypto

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The test vectors are for every implementation of the specification, so they stand outside
// the package. One file holds one case; a case that must fail has one defect and
// names the class of the failure. The generators below are deterministic:
//
//	go test ./pkg/crypto -run TestVectors -update
const vectorDir = "../../test/vectors"

var update = flag.Bool("update", false, "write test/vectors anew")

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
		t.Run(dir, func(t *testing.T) {
			path := filepath.Join(vectorDir, dir)
			cases := generate(t)
			if *update {
				writeVectors(t, path, cases)
			}
			if onDisk := names(t, path); len(onDisk) != len(cases) {
				t.Errorf("%d files in %s, the generator makes %d: run this test with -update", len(onDisk), path, len(cases))
			}
			for name, c := range cases {
				got, err := os.ReadFile(filepath.Join(path, name+".json"))
				if err != nil {
					t.Errorf("%v: run this test with -update", err)
				} else if !bytes.Equal(got, encodeVector(t, c)) {
					t.Errorf("%s differs from what the generator makes: the format has changed, or run this test with -update", name)
				}
			}
		})
	}
}

func writeVectors(t *testing.T, path string, cases map[string]any) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range cases {
		if err := os.WriteFile(filepath.Join(path, name+".json"), encodeVector(t, c), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func encodeVector(t *testing.T, c any) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(c); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func names(t *testing.T, path string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(path, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

// eachVector runs f on every file of a directory, decoded into a fresh T.
func eachVector[T any](t *testing.T, dir string, f func(t *testing.T, v *T)) {
	t.Helper()
	files := names(t, filepath.Join(vectorDir, dir))
	if len(files) == 0 {
		t.Fatalf("no vectors in %s: run TestVectorsAreCurrent with -update", dir)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			v := new(T)
			d := json.NewDecoder(bytes.NewReader(b))
			d.DisallowUnknownFields()
			if err := d.Decode(v); err != nil {
				t.Fatal(err)
			}
			f(t, v)
		})
	}
}

// octets is bytes in hex; "61*65535" stands for the byte 61 repeated.
type octets []byte

func (o octets) MarshalJSON() ([]byte, error) {
	if n := len(o); n > 300 && bytes.Count(o, o[:1]) == n {
		return fmt.Appendf(nil, `"%02x*%d"`, o[0], n), nil
	}
	return json.Marshal(hex.EncodeToString(o))
}

func (o *octets) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	unit, count, repeated := strings.Cut(s, "*")
	v, err := hex.DecodeString(unit)
	if err == nil && repeated {
		var n int
		n, err = strconv.Atoi(count)
		v = bytes.Repeat(v, n)
	}
	*o = v
	return err
}

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
