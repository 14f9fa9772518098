package keylink

import (
	"bytes"
	"encoding/hex"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"sealgate/pkg/crypto"
)

// samples is one message of each type.
func samples(t testing.TB) []message {
	secret, err := crypto.PayloadSecretFrom(bytes.Repeat([]byte{7}, crypto.SecretSize))
	if err != nil {
		t.Fatal(err)
	}
	topics, err := crypto.TopicKeyFrom(bytes.Repeat([]byte{7}, crypto.SecretSize))
	if err != nil {
		t.Fatal(err)
	}
	epoch := crypto.Epoch{PolicyVersion: 1, Generation: 2, Number: 3}
	key := crypto.Key{ID: crypto.KeyID{1, 2, 3, 4}, Epoch: epoch, Secret: secret, Send: true, NotAfter: 5 * time.Second}
	return []message{
		helloMsg{ProtocolVersion, roleGateway},
		policyMsg{"gw1", []byte{9, 9}},
		keysMsg{"default", []crypto.Key{key}},
		statsMsg{map[string]EpochInfo{"a": {epoch, time.Second}, "b": {}}, map[string]Authority{"a": {time.Second, time.Minute}}, map[Counter]uint64{{"grant", "sent"}: 1, {"hello", "refused"}: 2}},
		unknownKeyMsg{"default", crypto.KeyID{4, 3, 2, 1}},
		reportMsg{Report{true, map[string]crypto.Epoch{"a": epoch}, []Stream{{Group: "a", From: 1, Next: 300, Burned: []crypto.Range{{From: 7, To: 8}}, Final: true}}, []string{"a"}}},
		rotateMsg{"default"},
		rotatedMsg{"default", epoch},
		askStatusMsg{},
		statusMsg{[]byte("{}")},
		refusalMsg{"because"},
		checkpointMsg{"gw2", []byte{0x80}},
		heardMsg{true},
		topicKeyMsg{topics},
	}
}

func TestEveryTypeRoundTrips(t *testing.T) {
	all := samples(t)
	if len(all) != len(formats) {
		t.Fatalf("%d samples for %d message types", len(all), len(formats))
	}
	for typ, m := range all {
		b := m.append(nil)
		if int(b[1]) != typ {
			t.Errorf("%s: type %d on the wire, want %d", m.name(), b[1], typ)
		}
		got, err := decode(b)
		if err != nil {
			t.Errorf("%s: %v", m.name(), err)
			continue
		}
		if got.name() != m.name() || !bytes.Equal(got.append(nil), b) {
			t.Errorf("%s: came back as %s %x, want %x", m.name(), got.name(), got.append(nil), b)
		}
		for n := range b {
			if _, err := decode(b[:n]); err == nil {
				t.Errorf("%s: its first %d of %d bytes were accepted", m.name(), n, len(b))
			}
		}
		if _, err := decode(append(b, 0)); err == nil {
			t.Errorf("%s: a trailing byte was accepted", m.name())
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	tests := []struct{ name, hex, want string }{
		{"empty", "", "item missing"},
		{"no array", "00", "array expected"},
		{"unknown type", "810e", "message type 14 is not known"},
		{"listens twice", "85" + "05" + "f5" + "80" + "80" + "82" + "6161" + "6161", "names must ascend"},
		{"empty checkpoint", "83" + "0b" + "6161" + "40", "an empty checkpoint"},
		{"long checkpoint", "83" + "0b" + "6161" + "5a00040001", "262145"},
		{"items", "8306", "items"},
		{"items of rotate", "83066161f5", "has 3 items, 2 expected"},
		{"long group name", "82067840" + strings.Repeat("61", 64), "at most 63 allowed"},
		{"groups descend", "84" + "03" + "82" + "836162" + "83000000" + "00" + "836161" + "83000000" + "00" + "80" + "80", "names must ascend"},
		{"group twice", "84" + "03" + "82" + "836161" + "83000000" + "00" + "836161" + "83000000" + "00" + "80" + "80", "names must ascend"},
		{"authority descends", "84" + "03" + "80" + "82" + "836162" + "0001" + "836161" + "0001" + "80", "names must ascend"},
		{"counters descend", "84" + "03" + "80" + "80" + "82" + "8361626161" + "01" + "8361616161" + "01", "counters must ascend"},
		{"short secret", "83" + "02" + "6161" + "81" + "85" + "4401020304" + "83000000" + "41ff" + "f5" + "00", "payload secret"},
		{"short key id", "83" + "04" + "6161" + "43010203", "4 bytes expected"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := hex.DecodeString(tt.hex)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := decode(b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestFrames(t *testing.T) {
	var wire bytes.Buffer
	for _, m := range samples(t) {
		if err := writeMessage(&wire, m); err != nil {
			t.Fatal(err)
		}
	}
	big := statusMsg{bytes.Repeat([]byte{'x'}, MaxFrame-7)}
	if err := writeMessage(&wire, big); err != nil {
		t.Fatalf("a frame of nearly the limit: %v", err)
	}
	if err := writeMessage(io.Discard, statusMsg{make([]byte, MaxFrame)}); err == nil {
		t.Error("a frame over the limit was written")
	}
	r := iotest.OneByteReader(&wire)
	for range len(formats) + 1 {
		if _, err := readMessage(r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := readMessage(r); err != io.EOF {
		t.Errorf("after the last frame: %v, want EOF", err)
	}
	if _, err := readMessage(strings.NewReader("\x00\x00\x00\x05\x81")); err == nil || err == io.EOF {
		t.Errorf("a frame cut off: %v", err)
	}
}

// A peer that declares a long frame and sends little makes us hold little.
func TestFrameGrowsWithWhatArrives(t *testing.T) {
	head := "\x00\x10\x00\x00" + strings.Repeat("x", 100)
	b, err := readExactly(strings.NewReader(head[4:]), MaxFrame)
	if err == nil || cap(b) > readStep {
		t.Errorf("%d bytes held for 100 that arrived, error %v", cap(b), err)
	}
}

func TestTruncate(t *testing.T) {
	long := strings.Repeat("ä", maxText)
	if got := truncate(long); len(got) > maxText || !strings.HasPrefix(long, got) || len(got) < maxText-2 {
		t.Errorf("%d bytes", len(got))
	}
	if _, err := decode(refusalMsg{truncate("x" + long)}.append(nil)); err != nil {
		t.Error(err)
	}
}

func TestAssemblerRefuses(t *testing.T) {
	key, topics := samples(t)[2].(keysMsg), samples(t)[13]
	tests := []struct {
		name   string
		frames []message
	}{
		{"keys first", []message{key}},
		{"stats first", []message{statsMsg{}}},
		{"topic key first", []message{topicKeyMsg{}}},
		{"topic key twice", []message{policyMsg{"gw1", nil}, topics, topics}},
		{"group twice", []message{policyMsg{"gw1", nil}, key, key}},
		{"a client's message", []message{rotateMsg{"a"}}},
		{"refusal", []message{refusalMsg{"no"}}},
	}
	for _, tt := range tests {
		in := assembler{}
		var err error
		for _, m := range tt.frames {
			_, _, err = in.take(m)
		}
		if err == nil {
			t.Errorf("%s: accepted", tt.name)
		}
	}
}

const corpus = "testdata/fuzz/FuzzDecode"

// FuzzDecode: what is accepted encodes to the same bytes.
func FuzzDecode(f *testing.F) {
	for _, m := range samples(f) {
		f.Add(m.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(bytes.Clone(b))
		if err != nil {
			return
		}
		if got := m.append(nil); !bytes.Equal(got, b) {
			t.Errorf("accepted %x, encodes to %x", b, got)
		}
	})
}

// FuzzFrames: a stream of any bytes ends in an error or EOF, and holds no more than it brought.
func FuzzFrames(f *testing.F) {
	var wire bytes.Buffer
	for _, m := range samples(f) {
		if err := writeMessage(&wire, m); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(wire.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		in := assembler{}
		for {
			m, err := readMessage(r)
			if err != nil {
				return
			}
			_, _, _ = in.take(m)
		}
	})
}

func TestCorpusIsThere(t *testing.T) {
	if files, _ := filepath.Glob(corpus + "/*"); len(files) < len(formats) {
		t.Errorf("%s holds %d files, one a message type is the least", corpus, len(files))
	}
}
