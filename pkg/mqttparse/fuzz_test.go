package mqttparse

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever arrives, and in whatever pieces, the scanner agrees with the reference, and what
// the parsers accept is appended again byte for byte.
func fuzzScan(t *testing.T, d Direction, v Version, stream []byte) {
	const limit = 1 << 12
	if len(stream) > 1<<13 {
		return
	}
	want := reference(t, d, v, limit, stream)
	half := len(stream) / 2
	for _, pieces := range [][][]byte{{stream}, {stream[:half], stream[half:]}, single(stream)} {
		if got := streamed(t, d, v, limit, pieces...); !same(got, want) {
			t.Fatalf("in %d pieces:\n got %v\nwant %v", len(pieces), got, want)
		}
	}
	for _, p := range want.packets {
		switch f := (Frame{Raw: []byte(p), Body: bodyOf(p)}); f.Type() {
		case CONNECT:
			checkConnect(t, f)
		case PUBLISH:
			checkPublish(t, f, want.version)
		}
	}
}

func bodyOf(packet string) []byte {
	_, n := Varint([]byte(packet[1:]))
	return []byte(packet[1+n:])
}

func FuzzScanFromClient(f *testing.F) {
	f.Fuzz(func(t *testing.T, stream []byte) { fuzzScan(t, FromClient, 0, stream) })
}

func FuzzScanFromServer(f *testing.F) {
	f.Fuzz(func(t *testing.T, v byte, stream []byte) { fuzzScan(t, FromServer, V31+Version(v%3), stream) })
}

func FuzzParsePublish(f *testing.F) {
	f.Fuzz(func(t *testing.T, v, flags byte, body []byte) {
		checkPublish(t, makeFrame(0x30|flags&15, body), V31+Version(v%3))
	})
}

func FuzzParseConnect(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) { checkConnect(t, makeFrame(0x10, body)) })
}

func FuzzProperties(f *testing.F) {
	f.Fuzz(func(t *testing.T, ty byte, b []byte) {
		valid := ValidateProperties(Type(ty%16), b) == nil
		n := 0
		it := Properties(b)
		for it.Next() {
			it.Pair()
			if value := it.Value(); len(value) >= len(it.Raw()) || it.ID() != it.Raw()[0] || int(it.ID()) >= len(table) {
				t.Fatalf("property %x has value %x", it.Raw(), value)
			}
			it.Uint()
			n += len(it.Raw())
		}
		if (it.Err() == nil) != (n == len(b)) {
			t.Fatalf("walked %d of %d bytes, error %v", n, len(b), it.Err())
		}
		if valid && it.Err() != nil {
			t.Fatalf("block %x is valid, but walking it gives %v", b, it.Err())
		}
		// The scan of PUBLISH alone agrees with that of all packets.
		want, refused := scanProperties(PUBLISH, b)
		var got properties
		if ok := got.scanValid(b); ok != (refused == nil) || ok && got != want {
			t.Fatalf("block %x: %+v in a PUBLISH, which is valid: %v; in any packet %+v, error %v", b, got, ok, want, refused)
		}
	})
}

func TestFuzzCorpusIsThere(t *testing.T) {
	for _, target := range []string{"FuzzScanFromClient", "FuzzScanFromServer", "FuzzParsePublish", "FuzzParseConnect", "FuzzProperties"} {
		seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", target, "*"))
		if err != nil || len(seeds) < 3 {
			t.Errorf("%d seeds for %s (%v): the fuzz test would start from next to nothing", len(seeds), target, err)
		}
		for _, seed := range seeds {
			if b, err := os.ReadFile(seed); err != nil || !strings.HasPrefix(string(b), "go test fuzz v1\n") {
				t.Errorf("%s is no seed: %v", seed, err)
			}
		}
	}
}
