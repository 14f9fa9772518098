package spec

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Vectors are a directory of test vectors: JSON, one case a file. They are for every implementation of the specification, so they stand
// outside the packages that make them.
type Vectors string

// Current holds the files to what the generator made, by file name without ".json"; with update, writes them.
func Current[T any](t *testing.T, dir Vectors, made map[string]T, update bool) {
	t.Helper()
	if update {
		if err := errors.Join(os.RemoveAll(string(dir)), os.MkdirAll(string(dir), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	for name, v := range made {
		path, want := filepath.Join(string(dir), name+".json"), encode(t, v)
		if update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator makes (%v): the format has changed, or run this test with -update", path, err)
		}
	}
	if files := dir.Files(t); len(files) != len(made) {
		t.Errorf("%d files in %s, the generator makes %d: run this test with -update", len(files), dir, len(made))
	}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Files are the paths of the cases, in order; at least one.
func (dir Vectors) Files(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(string(dir), "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors in %s (%v): run TestVectorsAreCurrent with -update", dir, err)
	}
	return files
}

// Read decodes a case, which has no other fields than T.
func Read[T any](t testing.TB, path string) *T {
	t.Helper()
	v := new(T)
	d := json.NewDecoder(strings.NewReader(Text(t, path)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

// Each runs f on every case.
func Each[T any](t *testing.T, dir Vectors, f func(t *testing.T, v *T)) {
	t.Helper()
	for _, path := range dir.Files(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".json"), func(t *testing.T) { f(t, Read[T](t, path)) })
	}
}

// Hex is bytes that JSON shows in hex; "61*65535" stands for the byte 61 repeated.
type Hex []byte

func (o Hex) MarshalJSON() ([]byte, error) {
	if n := len(o); n > 300 && bytes.Count(o, o[:1]) == n {
		return fmt.Appendf(nil, `"%02x*%d"`, o[0], n), nil
	}
	return json.Marshal(hex.EncodeToString(o))
}

func (o *Hex) UnmarshalJSON(b []byte) error {
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
