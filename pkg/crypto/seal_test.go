package crypto

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestSealCountsAndOpens(t *testing.T) {
	s, o := benchStreams(t)
	props, payload := []byte{0x01, 0x01}, []byte("a payload that must not show")
	var buf []byte
	for want := range uint64(600) {
		buf = append(buf[:0], "head"...)
		n := s.Len(InnerLen(len(props), len(payload)))
		out, seq, err := s.Seal(buf, props, payload)
		if err != nil || seq != want || s.Next() != want+1 || len(out)-4 != n || string(out[:4]) != "head" {
			t.Fatalf("Seal %d: number %d, %d bytes of %d, %v", want, seq, len(out)-4, n, err)
		}
		if bytes.Contains(out, payload[:8]) {
			t.Fatal("the envelope shows the payload")
		}
		e := must(ParseEnvelope(out[4:]))(t)
		inner := must(o.Open(nil, &e))(t)
		gotProps, gotPayload, err := SplitInner(inner)
		if err != nil || e.Seq != want || e.Kid != s.Kid() || !bytes.Equal(gotProps, props) || !bytes.Equal(gotPayload, payload) {
			t.Fatalf("opened %d: %+v %q %q %v", want, e, gotProps, gotPayload, err)
		}
	}
}

func TestOpenInPlace(t *testing.T) {
	s, o := benchStreams(t)
	out, _, _ := s.Seal(nil, nil, []byte("in place"))
	e := must(ParseEnvelope(out))(t)
	inner := must(o.Open(e.Ciphertext[:0], &e))(t)
	if &inner[0] != &e.Ciphertext[0] || string(inner) != "\x00in place" {
		t.Errorf("opened to %q", inner)
	}
}

func TestNumbersNeverRepeat(t *testing.T) {
	s, _ := benchStreams(t)
	s.next = MaxSequence
	if _, seq, err := s.Seal(nil, nil, nil); seq != MaxSequence || err != nil {
		t.Fatalf("the last number: %d, %v", seq, err)
	}
	for range 3 {
		buf := []byte("x")
		if out, _, err := s.Seal(buf, nil, nil); !errors.Is(err, ErrExhausted) || string(out) != "x" {
			t.Fatalf("after the last number: %q, %v", out, err)
		}
		if _, r, err := s.SealRecorded(nil, nil, nil); !errors.Is(err, ErrExhausted) || r != (Resend{}) {
			t.Fatalf("recorded after the last number: %v, %v", r, err)
		}
	}
}

// A number is gone even when what follows goes wrong: here the AEAD panics on overlapping
// buffers, after the number was burned.
func TestNumberIsBurnedBeforeTheKeystream(t *testing.T) {
	s, _ := benchStreams(t)
	s.aead = panicAEAD{}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the AEAD was not called")
			}
		}()
		_, _, _ = s.Seal(nil, nil, []byte("x"))
	}()
	if s.Next() != 1 {
		t.Errorf("the next number is %d", s.Next())
	}
}

type panicAEAD struct{}

func (panicAEAD) NonceSize() int                         { return 12 }
func (panicAEAD) Overhead() int                          { return 16 }
func (panicAEAD) Seal(_, _, _, _ []byte) []byte          { panic("seal") }
func (panicAEAD) Open(_, _, _, _ []byte) ([]byte, error) { panic("open") }

func TestTooLargeBurnsNothing(t *testing.T) {
	s, _ := benchStreams(t)
	// Never touched: only the length counts, so one reserved range of zero pages does.
	huge := make([]byte, MaxInner)
	if _, _, err := s.Seal(nil, nil, huge); !errors.Is(err, ErrTooLarge) || s.Next() != 0 {
		t.Errorf("%v, next %d", err, s.Next())
	}
	if _, _, err := s.Seal(nil, huge, nil); !errors.Is(err, ErrTooLarge) || s.Next() != 0 {
		t.Errorf("%v, next %d", err, s.Next())
	}
}

func TestResealIsIdenticalOrRefused(t *testing.T) {
	s, _ := benchStreams(t)
	props, payload := []byte{0x01, 0x01}, []byte("21.5")
	if _, _, err := s.Seal(nil, nil, payload); err != nil {
		t.Fatal(err)
	}
	first, r, err := s.SealRecorded(nil, props, payload)
	if err != nil || r.Seq() != 1 {
		t.Fatal(r.Seq(), err)
	}
	next := s.Next()
	again := must(s.Reseal([]byte("head"), r, props, payload))(t)
	if !bytes.Equal(again[4:], first) || s.Next() != next || len(first) != s.LenAt(1, InnerLen(len(props), len(payload))) {
		t.Errorf("sealed again to %x, first %x", again, first)
	}
	other := must(NewSealStream(must(PayloadSecretFrom(make([]byte, 32)))(t), "default", "other", StreamID{}))(t)
	if _, _, err := other.SealRecorded(nil, props, payload); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		s              *SealStream
		r              Resend
		props, payload []byte
	}{
		"other payload":      {s, r, props, []byte("21.6")},
		"longer payload":     {s, r, props, []byte("21.50")},
		"other properties":   {s, r, []byte{0x01, 0x00}, payload},
		"moved boundary":     {s, r, []byte{0x01, 0x01, '2'}, payload[1:]},
		"no properties":      {s, r, nil, payload},
		"zero record":        {s, Resend{}, props, payload},
		"other stream":       {other, r, props, payload},
		"number not burned":  {s, Resend{seq: 99, size: r.size, tag: r.tag}, props, payload},
		"another's number 0": {other, Resend{size: r.size, tag: r.tag}, props, payload},
	} {
		dst := append(make([]byte, 0, 200), "head"...)
		out, err := c.s.Reseal(dst, c.r, c.props, c.payload)
		if !errors.Is(err, ErrNotIdentical) || string(out) != "head" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		if left := dst[4:cap(dst)]; !bytes.Equal(left, make([]byte, len(left))) {
			t.Errorf("%s: % x is left in the buffer, made under a number that is another message's", name, left)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	s, o := benchStreams(t)
	sealed, _, _ := s.Seal(nil, nil, []byte("21.5"))
	good := must(ParseEnvelope(sealed))(t)
	try := func(name string, want error, e Envelope) {
		t.Helper()
		dst := append(make([]byte, 0, 100), "head"...)
		out, err := o.Open(dst, &e)
		if !errors.Is(err, want) || string(out) != "head" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		if bytes.Contains(dst[:cap(dst)], []byte("21.5")) {
			t.Errorf("%s: unauthenticated plaintext is left in the buffer", name)
		}
	}
	e := good
	e.Kid[11] ^= 1
	try("kid", ErrKid, e)
	e = good
	e.Seq++
	try("number", ErrForged, e)
	e.Seq = good.Seq + 1<<40 // the same low 40 bits, so the same nonce
	try("number over 2^40", ErrForged, e)
	e = good
	e.Ciphertext = nil
	try("nothing", ErrForged, e)
	e.Ciphertext = bytes.Clone(good.Ciphertext)
	e.Ciphertext[0] ^= 1
	try("ciphertext", ErrForged, e)
	o.failed = MaxForgeries
	try("too many forgeries", ErrExhausted, good)
}

func TestNamesAreBounded(t *testing.T) {
	secret := must(PayloadSecretFrom(seq32(0)))(t)
	for name, c := range map[string]struct{ group, topic string }{
		"empty group": {"", "t"}, "empty topic": {"g", ""}, "long group": {strings.Repeat("g", MaxGroup+1), "t"},
		"long topic": {"g", strings.Repeat("t", MaxTopic+1)}, "bad group": {"\xff", "t"}, "bad topic": {"g", "\xc0\x80"},
	} {
		if _, err := NewSealStream(secret, c.group, c.topic, StreamID{}); !errors.Is(err, ErrName) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewSealStream(secret, strings.Repeat("g", MaxGroup), strings.Repeat("t", MaxTopic), StreamID{}); err != nil {
		t.Error(err)
	}
}

// The key schedule separates everything that it takes in.
func TestDerivationsDiffer(t *testing.T) {
	secret := must(PayloadSecretFrom(seq32(0)))(t)
	seen := make(map[string]string)
	note := func(name string, b []byte) {
		if other, ok := seen[hex.EncodeToString(b[:16])]; ok {
			t.Errorf("%s and %s derive the same", name, other)
		}
		seen[hex.EncodeToString(b[:16])] = name
	}
	for name, c := range map[string]struct {
		group, topic string
		id           StreamID
	}{
		"base": {"g", "t", StreamID{1}}, "group": {"gt", "t", StreamID{1}}, "topic": {"g", "tt", StreamID{1}},
		"shifted": {"gt", "", StreamID{1}}, "id": {"g", "t", StreamID{2}},
	} {
		if c.topic == "" {
			c.topic = "x"
		}
		key, _, err := streamKeys(secret, c.group, c.topic, c.id)
		if err != nil {
			t.Fatal(err)
		}
		note(name, key[:])
	}
	c := Commitment(secret, "g")
	note("commitment", c[:])
	note("ratchet", must(KEKFrom(seq32(0)))(t).Ratchet("g").Bytes())
	if NewStreamID("a", [16]byte{}, [16]byte{}, false) == NewStreamID("a", [16]byte{}, [16]byte{1}, false) {
		t.Error("stream ids do not depend on the random bytes")
	}
}

// What a message costs must not grow with messages: the garbage collector of a router has
// better to do.
func TestHotPathAllocatesNothing(t *testing.T) {
	s, o := benchStreams(t)
	props, payload := make([]byte, 20), make([]byte, 1000)
	sealed, record, err := s.SealRecorded(nil, props, payload)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(sealed)
	forged[len(forged)-1] ^= 1
	dst := make([]byte, 0, 2000)
	secret := must(PayloadSecretFrom(make([]byte, 32)))(t)
	ring := must(NewKeyring(map[string][]Key{"default": {{ID: KeyIDOf(secret, "default"), Secret: secret, Send: true}}}))(t)
	var w Window
	id := s.Kid().KeyID()
	for name, f := range map[string]func(){
		"Seal":         func() { dst, _, _ = s.Seal(dst[:0], props, payload) },
		"SealRecorded": func() { dst, _, _ = s.SealRecorded(dst[:0], props, payload) },
		"Reseal":       func() { dst, _ = s.Reseal(dst[:0], record, props, payload) },
		"Open": func() {
			e, _ := ParseEnvelope(sealed)
			dst, _ = o.Open(dst[:0], &e)
			_, _, _ = SplitInner(dst)
		},
		"Open forged": func() {
			e, _ := ParseEnvelope(forged)
			if _, err := o.Open(dst[:0], &e); !errors.Is(err, ErrForged) {
				t.Fatal(err)
			}
		},
		"parse garbage": func() { _, _ = ParseEnvelope(payload) },
		"keyring":       func() { _, _ = ring.Find("default", id), ring.Send("default") },
		"window":        func() { w.Check(w.top + 2); w.Commit(w.top + 2) },
	} {
		if n := testing.AllocsPerRun(200, f); n > aeadAllocs {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func TestEnvelopeIsRecognised(t *testing.T) {
	s, _ := benchStreams(t)
	sealed, _, _ := s.Seal(nil, nil, []byte("x"))
	e := must(ParseEnvelope(sealed))(t)
	if !LooksSealed(sealed) || LooksSealed([]byte("21.5")) || LooksSealed(nil) || LooksSealed(sealed[:1]) {
		t.Error("LooksSealed is wrong")
	}
	if want := sealed[len(sealed)-4:]; e.Tag() != uint32(want[0])<<24|uint32(want[1])<<16|uint32(want[2])<<8|uint32(want[3]) || (&Envelope{}).Tag() != 0 {
		t.Errorf("the tag is %x", e.Tag())
	}
	if k := e.Kid; k.String() != k.KeyID().String()+k.StreamID().String() || NewKid(k.KeyID(), k.StreamID()) != k {
		t.Error("the kid's parts do not make it")
	}
	if _, err := ParseEnvelope([]byte("hello, plain world, longer than the shortest envelope")); !errors.Is(err, ErrEnvelope) || !strings.Contains(err.Error(), "spec 4.1") {
		t.Errorf("refused with %v", err)
	}
}
