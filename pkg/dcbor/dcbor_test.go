package dcbor

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// appendixA holds the examples of RFC 8949 appendix A that lie in this package's subset. Each
// is written by append and read back by read, which reports what it found.
var appendixA = []struct {
	hex    string
	append func(b []byte) []byte
	read   func(r *Reader) any
	want   any
}{
	{"00", putUint(0), getUint, uint64(0)},
	{"01", putUint(1), getUint, uint64(1)},
	{"0a", putUint(10), getUint, uint64(10)},
	{"17", putUint(23), getUint, uint64(23)},
	{"1818", putUint(24), getUint, uint64(24)},
	{"1819", putUint(25), getUint, uint64(25)},
	{"1864", putUint(100), getUint, uint64(100)},
	{"1903e8", putUint(1000), getUint, uint64(1000)},
	{"1a000f4240", putUint(1000000), getUint, uint64(1000000)},
	{"1b000000e8d4a51000", putUint(1000000000000), getUint, uint64(1000000000000)},
	{"1bffffffffffffffff", putUint(math.MaxUint64), getUint, uint64(math.MaxUint64)},
	{"20", putInt(-1), getInt, int64(-1)},
	{"29", putInt(-10), getInt, int64(-10)},
	{"3863", putInt(-100), getInt, int64(-100)},
	{"3903e7", putInt(-1000), getInt, int64(-1000)},
	{"f4", func(b []byte) []byte { return AppendBool(b, false) }, getBool, false},
	{"f5", func(b []byte) []byte { return AppendBool(b, true) }, getBool, true},
	{"40", putBytes(""), getBytes, ""},
	{"4401020304", putBytes("\x01\x02\x03\x04"), getBytes, "\x01\x02\x03\x04"},
	{"60", putText(""), getText, ""},
	{"6161", putText("a"), getText, "a"},
	{"6449455446", putText("IETF"), getText, "IETF"},
	{"62225c", putText("\"\\"), getText, "\"\\"},
	{"62c3bc", putText("ü"), getText, "ü"},
	{"63e6b0b4", putText("水"), getText, "水"},
	{"64f0908591", putText("𐅑"), getText, "𐅑"},
	{"80", func(b []byte) []byte { return AppendArray(b, 0) }, walkAny, "[]"},
	{"83010203", func(b []byte) []byte { return AppendUint(AppendUint(AppendUint(AppendArray(b, 3), 1), 2), 3) }, walkAny, "[1 2 3]"},
	{"8301820203820405", nil, walkAny, "[1 [2 3] [4 5]]"},
	{"98190102030405060708090a0b0c0d0e0f101112131415161718181819", nil, walkAny,
		"[1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25]"},
	{"a0", func(b []byte) []byte { return AppendMap(b, 0) }, walkAny, "{}"},
	{"a201020304", func(b []byte) []byte {
		return AppendUint(AppendUint(AppendUint(AppendUint(AppendMap(b, 2), 1), 2), 3), 4)
	}, walkAny, "{1 2 3 4}"},
	{"a26161016162820203", nil, walkAny, `{"a" 1 "b" [2 3]}`},
	{"826161a161626163", nil, walkAny, `["a" {"b" "c"}]`},
	{"c11a514b67b0", func(b []byte) []byte { return AppendUint(AppendTag(b, 1), 1363896240) }, walkAny, "1(1363896240)"},
	{"d74401020304", func(b []byte) []byte { return AppendBytes(AppendTag(b, 23), []byte{1, 2, 3, 4}) }, walkAny, "23(h'01020304')"},
	{"d818456449455446", nil, walkAny, "24(h'6449455446')"},
}

func putUint(v uint64) func([]byte) []byte { return func(b []byte) []byte { return AppendUint(b, v) } }
func putInt(v int64) func([]byte) []byte   { return func(b []byte) []byte { return AppendInt(b, v) } }
func putBytes(v string) func([]byte) []byte {
	return func(b []byte) []byte { return AppendBytes(b, []byte(v)) }
}
func putText(v string) func([]byte) []byte { return func(b []byte) []byte { return AppendText(b, v) } }

func getUint(r *Reader) any  { return r.Uint() }
func getInt(r *Reader) any   { return r.Int() }
func getBool(r *Reader) any  { return r.Bool() }
func getBytes(r *Reader) any { return string(r.Bytes(100)) }
func getText(r *Reader) any  { return r.Text(100) }
func walkAny(r *Reader) any  { text, _ := walk(r, nil, 8); return text }

// walk reads whatever item comes next through the exported methods, at most depth levels deep, and
// returns it in diagnostic notation and appended to out again.
func walk(r *Reader, out []byte, depth int) (string, []byte) {
	if r.err != nil || len(r.rest) == 0 || depth == 0 {
		r.malformed("no item, or nested too deep")
		return "", out
	}
	switch r.rest[0] & 0xe0 {
	case majorUint:
		v := r.Uint()
		return fmt.Sprint(v), AppendUint(out, v)
	case majorNeg:
		v := r.Int()
		return fmt.Sprint(v), AppendInt(out, v)
	case majorBytes:
		v := r.Bytes(math.MaxInt)
		return fmt.Sprintf("h'%x'", v), AppendBytes(out, v)
	case majorText:
		v := r.Text(math.MaxInt)
		return fmt.Sprintf("%q", v), AppendText(out, v)
	case majorArray:
		n := r.Array(math.MaxInt)
		text, out := walkItems(r, AppendArray(out, n), n, depth)
		return "[" + text + "]", out
	case majorMap:
		n := r.Map(math.MaxInt / 2)
		text, out := walkItems(r, AppendMap(out, n), 2*n, depth)
		return "{" + text + "}", out
	case majorTag:
		peek := *r
		_, tag := peek.head()
		r.Tag(tag)
		text, out := walk(r, AppendTag(out, tag), depth-1)
		return fmt.Sprintf("%d(%s)", tag, text), out
	}
	v := r.Bool()
	return fmt.Sprint(v), AppendBool(out, v)
}

func walkItems(r *Reader, out []byte, n, depth int) (string, []byte) {
	var texts []string
	for range n {
		var text string
		if text, out = walk(r, out, depth-1); r.err != nil {
			break
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, " "), out
}

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestAppendixA(t *testing.T) {
	for _, tc := range appendixA {
		b := unhex(t, tc.hex)
		if tc.append != nil {
			if got := tc.append([]byte("x")); !bytes.Equal(got[1:], b) {
				t.Errorf("%v is written as %x, RFC 8949 has %s", tc.want, got[1:], tc.hex)
			}
		}
		r := NewReader(b)
		if got := tc.read(r); r.Done() != nil || got != tc.want {
			t.Errorf("%s reads as %v, want %v; error %v", tc.hex, got, tc.want, r.Err())
		}
		if _, again := walk(NewReader(b), nil, 8); !bytes.Equal(again, b) {
			t.Errorf("%s comes back as %x", tc.hex, again)
		}
		for cut := range b {
			r := NewReader(b[:cut])
			if walk(r, nil, 8); !errors.Is(r.Done(), ErrMalformed) {
				t.Errorf("%s cut to %d bytes is accepted", tc.hex, cut)
			}
		}
	}
}

func TestHeadLen(t *testing.T) {
	for n, want := range map[uint64]int{0: 1, 23: 1, 24: 2, 255: 2, 256: 3, 65535: 3, 65536: 5, math.MaxUint32: 5, math.MaxUint32 + 1: 9, math.MaxUint64: 9} {
		if got := HeadLen(n); got != want || len(AppendUint(nil, n)) != want {
			t.Errorf("HeadLen(%d) = %d, want %d; written in %d", n, got, want, len(AppendUint(nil, n)))
		}
		r := NewReader(AppendUint(nil, n))
		if got := r.Uint(); got != n || r.Done() != nil {
			t.Errorf("%d reads as %d, error %v", n, got, r.Err())
		}
	}
	for _, n := range []int64{math.MinInt64, -257, -256, -25, -24, -1, 0, math.MaxInt64} {
		r := NewReader(AppendInt(nil, n))
		if got := r.Int(); got != n || r.Done() != nil {
			t.Errorf("%d reads as %d, error %v", n, got, r.Err())
		}
	}
	if got := append(AppendBytesHead(nil, 3), "abc"...); !bytes.Equal(got, AppendBytes(nil, []byte("abc"))) {
		t.Errorf("AppendBytesHead gives %x", got)
	}
}

// One defect a row, and a word that the error has to have.
func TestRefusals(t *testing.T) {
	anything := func(r *Reader) { walk(r, nil, 8) }
	for _, tc := range []struct {
		name, hex string
		read      func(r *Reader)
		want      string
	}{
		{"empty", "", func(r *Reader) { r.Uint() }, "item missing"},
		{"uint in 1+1 below 24", "1817", anything, "shortest"},
		{"uint in 1+2 below 256", "1900ff", anything, "shortest"},
		{"uint in 1+4 below 65536", "1a0000ffff", anything, "shortest"},
		{"uint in 1+8 below 2^32", "1b00000000ffffffff", anything, "shortest"},
		{"negative not shortest", "3800", anything, "shortest"},
		{"length not shortest", "580101", anything, "shortest"},
		{"text length not shortest", "780161", anything, "shortest"},
		{"array length not shortest", "980100", anything, "shortest"},
		{"map length not shortest", "b8010000", anything, "shortest"},
		{"tag not shortest", "d80100", anything, "shortest"},
		{"reserved 28", "1c", anything, "reserved"},
		{"reserved 30", "5e", anything, "reserved"},
		{"indefinite bytes", "5f42010243030405ff", anything, "indefinite"},
		{"indefinite text", "7f657374726561646d696e67ff", anything, "indefinite"},
		{"indefinite array", "9fff", anything, "indefinite"},
		{"indefinite map", "bf61610161629f0203ffff", anything, "indefinite"},
		{"break", "ff", anything, "indefinite"},
		{"half float", "f93c00", anything, "boolean"},
		{"float", "fa47c35000", anything, "boolean"},
		{"double", "fb3ff199999999999a", anything, "boolean"},
		{"null", "f6", anything, "boolean"},
		{"undefined", "f7", anything, "boolean"},
		{"simple 16", "f0", anything, "boolean"},
		{"simple 255", "f8ff", anything, "boolean"},
		{"true in two bytes", "f815", anything, "shortest"},
		{"text not UTF-8", "61ff", anything, "UTF-8"},
		{"text with surrogate", "63eda080", anything, "UTF-8"},
		{"head cut off", "19ff", anything, "cut off"},
		{"bytes overrun", "4401", anything, "4 bytes declared, 1 left"},
		{"bytes overrun by all there is", "5bffffffffffffffff", func(r *Reader) { r.Bytes(math.MaxInt) }, "allowed"},
		{"bytes over the limit", "43010203", func(r *Reader) { r.Bytes(2) }, "at most 2"},
		{"text over the limit", "63616263", func(r *Reader) { r.Text(2) }, "at most 2"},
		{"array over the limit", "83010203", func(r *Reader) { r.Array(2) }, "at most 2"},
		{"array longer than the input", "9bffffffffffffffff", func(r *Reader) { r.Array(math.MaxInt) }, "bytes left"},
		{"map over the limit", "a201020304", func(r *Reader) { r.Map(1) }, "at most 1"},
		{"map longer than the input", "ba00ffffff", func(r *Reader) { r.Map(math.MaxInt) }, "bytes left"},
		{"array too short", "820102", func(r *Reader) { r.ArrayExact(3) }, "3 items expected, found 2"},
		{"array too long", "83010203", func(r *Reader) { r.ArrayExact(2) }, "at most 2"},
		{"exact bytes too short", "420102", func(r *Reader) { r.BytesExact(make([]byte, 3)) }, "3 bytes expected, found 2"},
		{"exact bytes too long", "43010203", func(r *Reader) { r.BytesExact(make([]byte, 2)) }, "at most 2"},
		{"uint over the limit", "0a", func(r *Reader) { r.UintMax(9) }, "limit of 9"},
		{"int beyond 64 bits", "1b8000000000000000", func(r *Reader) { r.Int() }, "64-bit"},
		{"negative int beyond 64 bits", "3b8000000000000000", func(r *Reader) { r.Int() }, "64-bit"},
		{"int wanted, text found", "6161", func(r *Reader) { r.Int() }, "64-bit integer expected"},
		{"uint wanted, negative found", "20", func(r *Reader) { r.Uint() }, "unsigned integer expected"},
		{"bytes wanted, text found", "6161", func(r *Reader) { r.Bytes(9) }, "byte string expected"},
		{"text wanted, bytes found", "4161", func(r *Reader) { r.Text(9) }, "text string expected"},
		{"array wanted, map found", "a0", func(r *Reader) { r.Array(9) }, "array expected"},
		{"map wanted, array found", "80", func(r *Reader) { r.Map(9) }, "map expected"},
		{"other tag", "c100", func(r *Reader) { r.Tag(2) }, "tag 2 expected, found 1"},
		{"bool wanted, uint found", "14", func(r *Reader) { r.Bool() }, "boolean expected"},
		{"trailing bytes", "0000", func(r *Reader) { r.Uint() }, "1 trailing"},
	} {
		r := NewReader(unhex(t, tc.hex))
		tc.read(r)
		if err := r.Done(); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s (%s): error %v, want one with %q", tc.name, tc.hex, err, tc.want)
		}
	}
}

// The first error stays, and nothing is read behind it.
func TestErrorSticks(t *testing.T) {
	r := NewReader(unhex(t, "1817"+"0a"+"4101"+"6161"+"81f5"))
	r.Uint()
	first := r.Err()
	dst := []byte{7}
	r.BytesExact(dst)
	if v, u, s := r.Uint(), r.UintMax(99), r.Int(); v != 0 || u != 0 || s != 0 {
		t.Errorf("numbers %d, %d, %d after an error", v, u, s)
	}
	if b, s := r.Bytes(9), r.Text(9); b != nil || s != "" || dst[0] != 7 {
		t.Errorf("strings %x, %q, %x after an error", b, s, dst)
	}
	if a, m, v := r.Array(9), r.Map(9), r.Bool(); a != 0 || m != 0 || v {
		t.Errorf("counts %d, %d, boolean %v after an error", a, m, v)
	}
	r.Tag(0)
	r.ArrayExact(1)
	r.Fail(errors.New("later"))
	if first == nil || r.Done() != first {
		t.Errorf("error %v became %v", first, r.Err())
	}
}

func TestFailIsKept(t *testing.T) {
	r, mine := NewReader(unhex(t, "00")), errors.New("mine")
	r.Fail(mine)
	if r.Uint(); r.Done() != mine {
		t.Errorf("error %v", r.Err())
	}
	var zero Reader
	if zero.Done() != nil || zero.Len() != 0 {
		t.Error("the zero Reader is not empty")
	}
}

// Byte strings are views that cannot be grown into their neighbours.
func TestBytesAreViews(t *testing.T) {
	b := unhex(t, "4201020a")
	r := NewReader(b)
	v := r.Bytes(2)
	if cap(v) != 2 || &v[0] != &b[1] || r.Len() != 1 {
		t.Errorf("view of capacity %d, %d bytes left", cap(v), r.Len())
	}
}

func TestNothingAllocated(t *testing.T) {
	msg := AppendBool(AppendBytes(AppendInt(AppendArray(AppendTag(nil, 18), 3), -7), make([]byte, 40)), true)
	out := make([]byte, 0, 100)
	var key [40]byte
	if n := testing.AllocsPerRun(100, func() {
		r := Reader{rest: msg}
		r.Tag(18)
		r.ArrayExact(3)
		v := r.Int()
		r.BytesExact(key[:])
		ok := r.Bool()
		if r.Done() != nil || v != -7 || !ok {
			t.Error("message not read")
		}
		out = AppendBool(AppendBytes(AppendInt(AppendArray(AppendTag(out[:0], 18), 3), -7), key[:]), true)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	// A declared length alone costs nothing but the error.
	huge := unhex(t, "5b7fffffffffffffff")
	if n := testing.AllocsPerRun(100, func() {
		r := Reader{rest: huge}
		if r.Bytes(math.MaxInt) != nil || r.Err() == nil {
			t.Error("accepted")
		}
	}); n > 10 {
		t.Errorf("%v allocations for a refusal", n)
	}
}

func FuzzReencode(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(b)
		_, again := walk(r, nil, 16)
		if err := r.Done(); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v is not ErrMalformed", err)
			}
			return
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x comes back as %x", b, again)
		}
	})
}

func TestFuzzCorpusIsThere(t *testing.T) {
	seeds, err := filepath.Glob("testdata/fuzz/FuzzReencode/*")
	if err != nil || len(seeds) < 10 {
		t.Fatalf("%d seeds for FuzzReencode (%v): the fuzz test would start from next to nothing", len(seeds), err)
	}
	for _, seed := range seeds {
		if b, err := os.ReadFile(seed); err != nil || !strings.HasPrefix(string(b), "go test fuzz v1\n") {
			t.Errorf("%s is no seed: %v", seed, err)
		}
	}
}
