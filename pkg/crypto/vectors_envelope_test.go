package crypto

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"sealgate/pkg/dcbor"
	"sealgate/test/spec"
)

// envelopeVector is one message. For expect "ok" the envelope is what sealing makes and opening
// takes; for all others it is what a receiver with this secret, group and topic refuses, and
// for "exhausted" it is what a sealer refuses to make.
type envelopeVector struct {
	Comment  string `json:"comment"`
	Spec     string `json:"spec"`
	Expect   string `json:"expect"` // ok | parse | kid | auth | inner | exhausted
	Secret   octets `json:"secret"`
	Group    string `json:"group"`
	Topic    string `json:"topic"`
	Stream   octets `json:"stream"`
	Seq      uint64 `json:"seq"`
	Props    octets `json:"props"`
	Payload  octets `json:"payload"`
	Pad      int    `json:"pad,omitempty"`       // the multiple that inner is padded to
	TopicKey octets `json:"topic_key,omitempty"` // the topic is hidden under it
	Name     string `json:"name,omitempty"`      // that the topic hides
	Key      octets `json:"key,omitempty"`
	BaseIV   octets `json:"base_iv,omitempty"`
	AAD      octets `json:"aad,omitempty"`
	Envelope octets `json:"envelope,omitempty"`
	Length   int    `json:"envelope_length,omitempty"` // with the digest: of a long envelope
	Digest   octets `json:"envelope_sha256,omitempty"`
}

var (
	vectorBoot   = [16]byte(seq32(0xa0))
	vectorRandom = [16]byte(seq32(0xb0))
)

func baseVector(spec, comment string) envelopeVector {
	id := NewStreamID("gw1", vectorBoot, vectorRandom, false)
	return envelopeVector{
		Comment: comment, Spec: spec, Expect: "ok", Secret: seq32(0), Group: "default",
		Topic: "plant/hall3/press7/temperature", Stream: id[:], Seq: 5, Props: octets{}, Payload: octets("21.5"),
	}
}

func (v *envelopeVector) sealer(t *testing.T) *SealStream {
	t.Helper()
	secret := must(PayloadSecretFrom(v.Secret))(t)
	s := must(NewSealStream(secret, v.Group, v.Topic, StreamID(v.Stream)))(t)
	s.next = v.Seq
	s.SetPad(v.Pad)
	if v.Name != "" {
		s.SetName(v.Name)
	}
	return s
}

// seal fills in what follows from the inputs.
func (v *envelopeVector) seal(t *testing.T) {
	t.Helper()
	s := v.sealer(t)
	key, iv, err := streamKeys(must(PayloadSecretFrom(v.Secret))(t), v.Group, v.Topic, StreamID(v.Stream))
	if err != nil {
		t.Fatal(err)
	}
	v.Key, v.BaseIV, v.AAD = key[:], iv[:], s.aad
	out, _, err := s.Seal(nil, v.Props, v.Payload)
	if err != nil {
		t.Fatal(err)
	}
	v.Envelope = out
	if len(out) > 700 {
		v.Envelope, v.Length, v.Digest = nil, len(out), digest(out)
	}
}

func envelopeVectors(t *testing.T) map[string]any {
	all := make(map[string]any)
	add := func(name string, v envelopeVector) {
		if all[name] != nil {
			t.Fatalf("two vectors %s", name)
		}
		all[name] = v
	}
	validVectors(t, add)
	parseVectors(t, add)
	authVectors(t, add)
	v := baseVector("8", "there is no number 2^40: the sealer refuses and starts a new stream")
	v.Expect, v.Seq = "exhausted", MaxSequence+1
	add("exhausted-2-40", v)
	return all
}

func validVectors(t *testing.T, add func(string, envelopeVector)) {
	ok := func(name, spec, comment string, change func(v *envelopeVector)) {
		v := baseVector(spec, comment)
		change(&v)
		v.seal(t)
		add("ok-"+name, v)
	}
	// 6/7, 238/239 and 65518/65519 are where the ciphertext's length takes one byte more.
	for _, n := range []int{0, 1, 6, 7, 23, 24, 238, 239, 255, 256, 65518, 65519, 65535, 65536} {
		ok(fmt.Sprintf("payload-%d", n), "4.4", fmt.Sprintf("payload of %d bytes", n), func(v *envelopeVector) { v.Payload = bytes.Repeat([]byte{0x61}, n) })
	}
	for _, n := range []uint64{0, 1, 23, 24, 255, 256, 65535, 65536, 1<<24 - 1, 1 << 24, 1<<32 - 1, 1 << 32, MaxSequence} {
		ok(fmt.Sprintf("seq-%d", n), "4.3", fmt.Sprintf("sequence number %d in %d bytes", n, pivLen(n)), func(v *envelopeVector) { v.Seq = n })
	}
	for _, n := range []int{1, 127, 128, 16383, 16384} {
		ok(fmt.Sprintf("props-%d", n), "3", fmt.Sprintf("%d bytes of properties: any bytes, they are not parsed here", n), func(v *envelopeVector) { v.Props = bytes.Repeat([]byte{0x01}, n) })
	}
	ok("props-mqtt5", "3", "payload format, content type, response topic, correlation data, a user property", func(v *envelopeVector) {
		v.Props = slices.Concat([]byte{0x01, 0x01}, text(0x03, "text/plain"), text(0x08, "plant/reply"), text(0x09, "\x00\x07"), text(0x26, "unit"), text(-1, "°C"))
	})
	ok("topic-utf8", "4.5", "topic and payload beyond ASCII", func(v *envelopeVector) { v.Topic, v.Payload = "werk/größe/温度/🌡", octets("21,5 °C") })
	ok("topic-300", "4.5", "topic of 300 bytes", func(v *envelopeVector) { v.Topic = strings.Repeat("t", 300) })
	ok("group-utf8", "4.5", "group beyond ASCII", func(v *envelopeVector) { v.Group = "halle-größe" })
	// 61/62 is where one byte of properties length, payload and 2 bytes of padding no longer fit 64.
	for _, n := range []int{0, 1, 13, 14, 61, 62, 125} {
		ok(fmt.Sprintf("pad-64-payload-%d", n), "3.1", fmt.Sprintf("payload of %d bytes, padded to a multiple of 64", n), func(v *envelopeVector) {
			v.Pad, v.Payload = 64, bytes.Repeat([]byte{0x61}, n)
		})
	}
	ok("pad-16-props", "3.1", "130 bytes of properties, whose length begins with 82, behind the padding", func(v *envelopeVector) {
		v.Pad, v.Props = 16, bytes.Repeat([]byte{0x01}, 130)
	})
	ok("pad-16-props-128", "3.1", "the length of the properties begins with 80, as padding does", func(v *envelopeVector) {
		v.Pad, v.Props = 16, bytes.Repeat([]byte{0x01}, 128)
	})
	ok("pad-none-props-16384", "3.1", "80 80 01 begins no padding: it is the length 16384", func(v *envelopeVector) { v.Props = bytes.Repeat([]byte{0x01}, 16384) })
	ok("pad-1000", "3.1", "a multiple that is no power of two", func(v *envelopeVector) { v.Pad = 1000 })
	ok("pad-payload-like", "3.1", "a payload that looks like padding", func(v *envelopeVector) { v.Pad, v.Payload = 16, octets{0x80, 0x80, 0x00} })
	hidden := func(v *envelopeVector, name string) {
		v.TopicKey, v.Name = seq32(0), name
		v.Topic = must(TopicKeyFrom(v.TopicKey))(t).Hide(name)
	}
	ok("hidden", "17.3", "a hidden topic: inner begins with its name", func(v *envelopeVector) { hidden(v, "plant//temperature") })
	ok("hidden-props", "17.3", "a hidden topic, with properties", func(v *envelopeVector) {
		hidden(v, "plant/hall3")
		v.Props = text(0x08, "plant/reply")
	})
	ok("hidden-pad-64", "17.3", "a hidden topic, and padding behind its name", func(v *envelopeVector) {
		hidden(v, "plant/hall3")
		v.Pad = 64
	})
	ok("hidden-long", "17.3", "a hidden topic whose length begins like padding", func(v *envelopeVector) {
		hidden(v, strings.Repeat("t", 0x8000))
		v.Pad = 16
	})
	ok("will", "5.3", "a will, in a stream of its own", func(v *envelopeVector) {
		id := NewStreamID("gw1", vectorBoot, vectorRandom, true)
		v.Stream, v.Seq, v.Payload = id[:], 0, octets("offline")
	})
}

func text(id int, s string) []byte {
	b := []byte{byte(id), byte(len(s) >> 8), byte(len(s))}
	if id < 0 {
		b = b[1:]
	}
	return append(b, s...)
}

// parseVectors are well-formed in all but one place, and sealed well.
func parseVectors(t *testing.T, add func(string, envelopeVector)) {
	good := baseVector("", "")
	good.seal(t)
	e := good.Envelope
	head, kid, piv, ct := e[:10], e[10:22], e[22:25], e[25:]
	cat := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	b := func(s ...byte) []byte { return s }
	for name, c := range map[string]struct {
		spec, comment string
		bytes         []byte
	}{
		"empty":               {"4.1", "no bytes at all", b()},
		"plaintext":           {"4.1", "a message that never was sealed", []byte("21.5")},
		"plaintext-json":      {"4.1", "a longer one", []byte(`{"temperature": 21.5, "unit": "C", "sensor": "press7", "ok": true}`)},
		"untagged":            {"4.1", "tag 16 is missing", e[1:]},
		"tag-long":            {"4.1", "tag 16 in two bytes", cat(b(0xd8, 0x10), e[1:])},
		"tag-17":              {"4.1", "tag 17 (COSE_Mac0)", cat(b(0xd1), e[1:])},
		"tag-96":              {"4.1", "tag 96 (COSE_Encrypt)", cat(b(0xd8, 0x60), e[1:])},
		"array-4":             {"4.1", "array of 4 items", cat(b(0xd0, 0x84), e[2:], b(0x80))},
		"array-long":          {"4.1", "array head in two bytes", cat(b(0xd0, 0x98, 0x03), e[2:])},
		"array-indefinite":    {"4.1", "array of indefinite length", cat(b(0xd0, 0x9f), e[2:], b(0xff))},
		"trailing":            {"4.1", "a byte follows", cat(e, b(0))},
		"protected-empty":     {"4.2", "empty protected header", cat(e[:2], b(0x40), e[7:])},
		"protected-a128gcm":   {"4.2", "algorithm 1 (A128GCM)", cat(e[:2], b(0x43, 0xa1, 0x01, 0x01), e[7:])},
		"protected-long":      {"4.2", "24 in three bytes", cat(e[:2], b(0x45, 0xa1, 0x01, 0x19, 0x00, 0x18), e[7:])},
		"protected-map":       {"4.2", "a map that is not in a byte string", cat(e[:2], b(0xa1, 0x01, 0x18, 0x18), e[7:])},
		"protected-extra":     {"4.2", "a second label (crit)", cat(e[:2], b(0x47, 0xa2, 0x01, 0x18, 0x18, 0x02, 0x81, 0x04), e[7:])},
		"protected-head-long": {"4.2", "the string's length in two bytes", cat(e[:2], b(0x58, 0x04), e[3:])},
		"kid-missing":         {"4.3", "no kid", cat(e[:7], b(0xa1), piv, ct)},
		"kid-11":              {"4.3", "kid of 11 bytes", cat(e[:7], b(0xa2, 0x04, 0x4b), kid[:11], piv, ct)},
		"kid-13":              {"4.3", "kid of 13 bytes", cat(e[:7], b(0xa2, 0x04, 0x4d), kid, b(0), piv, ct)},
		"kid-text":            {"4.3", "kid as text", cat(e[:7], b(0xa2, 0x04, 0x6c), []byte("abcdefghijkl"), piv, ct)},
		"kid-long":            {"4.3", "kid with its length in two bytes", cat(e[:7], b(0xa2, 0x04, 0x58, 0x0c), kid, piv, ct)},
		"map-order":           {"4.3", "Partial IV before kid", cat(e[:7], b(0xa2), piv, b(0x04, 0x4c), kid, ct)},
		"map-duplicate":       {"4.3", "kid twice, no Partial IV", cat(e[:7], b(0xa2, 0x04, 0x4c), kid, b(0x04, 0x4c), kid, ct)},
		"map-extra":           {"4.3", "a third label", cat(e[:7], b(0xa3, 0x04, 0x4c), kid, piv, b(0x18, 0x20, 0x00), ct)},
		"map-indefinite":      {"4.3", "map of indefinite length", cat(e[:7], b(0xbf, 0x04, 0x4c), kid, piv, b(0xff), ct)},
		"piv-missing":         {"4.3", "no Partial IV", cat(e[:7], b(0xa1, 0x04, 0x4c), kid, ct)},
		"piv-empty":           {"4.3", "Partial IV of no bytes", cat(head, kid, b(0x06, 0x40), ct)},
		"piv-6":               {"4.3", "Partial IV of 6 bytes", cat(head, kid, b(0x06, 0x46, 1, 0, 0, 0, 0, 5), ct)},
		"piv-zero":            {"4.3", "Partial IV with a leading zero", cat(head, kid, b(0x06, 0x42, 0, 5), ct)},
		"piv-zeros":           {"4.3", "number 0 in two bytes", cat(head, kid, b(0x06, 0x42, 0, 0), ct)},
		"piv-integer":         {"4.3", "Partial IV as an integer", cat(head, kid, b(0x06, 0x05), ct)},
		"iv-full":             {"4.3", "label 5 (IV) in place of 6", cat(head, kid, b(0x05, 0x41, 5), ct)},
		"ciphertext-nil":      {"4.4", "detached ciphertext", cat(e[:25], b(0xf6))},
		"ciphertext-text":     {"4.4", "ciphertext as text", cat(e[:25], b(ct[0]|0x20), ct[1:])},
		"ciphertext-long":     {"4.4", "a length below 24 in two bytes", cat(e[:25], b(0x58, byte(len(ct)-1)), ct[1:])},
		"ciphertext-chunks":   {"4.4", "ciphertext of indefinite length", cat(e[:25], b(0x5f), ct, b(0xff))},
		"ciphertext-tag-only": {"4.4", "16 bytes: a tag without a plaintext", cat(head, kid, b(0x06, 0x42, 1, 0, 0x50), ct[len(ct)-16:])},
		"ciphertext-cut":      {"4.4", "the last byte is missing", e[:len(e)-1]},
		"ciphertext-huge":     {"4.4", "2^32-1 bytes announced", cat(e[:25], b(0x5a, 0xff, 0xff, 0xff, 0xff), ct[1:])},
		"ciphertext-64bit":    {"4.4", "a length in nine bytes", cat(e[:25], b(0x5b, 0, 0, 0, 0, 0, 0, 0, byte(len(ct)-1)), ct[1:])},
		"ciphertext-missing":  {"4.4", "the array ends early", e[:25]},
	} {
		v := baseVector(c.spec, c.comment)
		v.Expect, v.Envelope = "parse", c.bytes
		add("parse-"+name, v)
	}
}

// authVectors parse, but belong to another key or place, or were damaged, or hold a bad inner plaintext.
func authVectors(t *testing.T, add func(string, envelopeVector)) {
	bad := func(name, class, spec, comment string, change func(v *envelopeVector, e []byte) []byte) {
		v := baseVector(spec, comment)
		v.seal(t)
		e := v.Envelope
		v.Key, v.BaseIV, v.AAD = nil, nil, nil
		v.Envelope, v.Expect = change(&v, e), class
		add(class+"-"+name, v)
	}
	flip := func(at int, bit byte) func(*envelopeVector, []byte) []byte {
		return func(_ *envelopeVector, e []byte) []byte { e[(at+len(e))%len(e)] ^= bit; return e }
	}
	bad("other-key", "kid", "7.2", "a key id that the receiver does not know", flip(10, 1))
	bad("other-group", "kid", "7.2", "the topic is of another group than the key (F5)", func(v *envelopeVector, e []byte) []byte { v.Group = "other"; return e })
	bad("other-topic", "auth", "4.5", "brought to another topic of the same group", func(v *envelopeVector, e []byte) []byte { v.Topic = "plant/hall3/press8/temperature"; return e })
	bad("tag", "auth", "7.3", "one bit of the tag", flip(-1, 1))
	bad("ciphertext", "auth", "7.3", "one bit of the ciphertext", flip(26, 0x80))
	bad("seq", "auth", "4.3", "another sequence number", flip(24, 1))
	bad("stream", "auth", "5.4", "another stream id", flip(21, 1))
	bad("will-bit", "auth", "5.3", "the will bit of the stream id", flip(14, 0x80))
	bad("cut", "auth", "7.3", "shortened by one byte, lengths made to fit", func(_ *envelopeVector, e []byte) []byte { e[25]--; return e[:len(e)-1] })
	bad("no-context", "auth", "4.5", "sealed with an empty external_aad", resealed(t, func(_ *stream, v *envelopeVector) []byte {
		aad := dcbor.AppendText(dcbor.AppendArray(nil, 3), "Encrypt0")
		return dcbor.AppendBytes(dcbor.AppendBytes(aad, []byte(envelopeStart[3:7])), nil)
	}, nil))
	bad("version-2", "auth", "4.5", "sealed with protocol version 2 in external_aad", resealed(t, func(s *stream, _ *envelopeVector) []byte {
		return bytes.Replace(s.aad, append([]byte{0x84, 0x01}, 0x67), append([]byte{0x84, 0x02}, 0x67), 1)
	}, nil))
	for name, inner := range map[string][]byte{
		"overrun":         {0x05, 'a', 'b', 'c', 'd'},
		"long":            {0x80, 0x00, 'x'},
		"long-1":          {0x81, 0x00, 0x01, 'x'},
		"five-bytes":      {0x80, 0x80, 0x80, 0x80, 0x01, 'x'},
		"unterminated":    {0x80},
		"padding-only":    {0x80, 0x80, 0x00},
		"padding-open":    {0x80, 0x80, 0x80},
		"padding-bent":    {0x80, 0x81, 0x00, 0x00, 'x'},
		"padding-twice":   {0x80, 0x00, 0x80, 0x00, 0x00, 'x'},
		"padding-overrun": {0x80, 0x80, 0x00, 0x05, 'a', 'b', 'c', 'd'},
	} {
		bad(name, "inner", "3", "sealed well, but the length of the properties is malformed", resealed(t, nil, inner))
	}
	hiddenInnerVectors(t, bad)
}

// hiddenInnerVectors are sealed well on a hidden topic, and name another one, or none.
func hiddenInnerVectors(t *testing.T, bad func(name, class, spec, comment string, change func(v *envelopeVector, e []byte) []byte)) {
	key := must(TopicKeyFrom(seq32(0)))(t)
	for name, inner := range map[string]string{
		"other":    "\x00\x0bplant/hall4\x0021.5",
		"none":     "\x00\x00\x0021.5",
		"cut":      "\x00\x0cplant/hall3",
		"one-byte": "\x00",
		"wildcard": "\x00\x07plant/+\x0021.5",
		"padded":   "\x80\x00\x00\x0bplant/hall3\x0021.5",
		"props":    "\x00\x0bplant/hall3\x0521.5",
	} {
		bad("name-"+name, "inner", "17.4", "sealed well on the hidden topic of plant/hall3, but inner does not say so, or is malformed behind it",
			func(v *envelopeVector, e []byte) []byte {
				v.TopicKey, v.Name, v.Topic = seq32(0), "plant/hall3", key.Hide("plant/hall3")
				return resealed(t, nil, []byte(inner))(v, e)
			})
	}
}

// resealed seals with raw primitives what a SealStream would not.
func resealed(t *testing.T, aad func(*stream, *envelopeVector) []byte, inner []byte) func(*envelopeVector, []byte) []byte {
	return func(v *envelopeVector, _ []byte) []byte {
		s := v.sealer(t)
		if inner == nil {
			inner = append([]byte{0}, v.Payload...)
		}
		ad := s.aad
		if aad != nil {
			if ad = aad(&s.stream, v); bytes.Equal(ad, s.aad) {
				t.Fatal("the additional data did not change")
			}
		}
		key, _, err := streamKeys(must(PayloadSecretFrom(v.Secret))(t), v.Group, v.Topic, StreamID(v.Stream))
		if err != nil {
			t.Fatal(err)
		}
		aead := must(chacha20poly1305.New(key[:]))(t)
		e := Envelope{Kid: s.Kid(), Seq: v.Seq, Ciphertext: aead.Seal(nil, s.at(v.Seq), inner, ad)}
		return AppendEnvelope(nil, &e)
	}
}

// openVector goes the way of a receiver, spec 7, and names the step that refused.
func openVector(t *testing.T, v *envelopeVector, envelope []byte) (class string, props, payload []byte) {
	t.Helper()
	secret := must(PayloadSecretFrom(v.Secret))(t)
	ring := must(NewKeyring(map[string][]Key{v.Group: {{ID: KeyIDOf(secret, v.Group), Secret: secret}}}))(t)
	e, err := ParseEnvelope(envelope)
	if err != nil {
		return wrapped(t, err, ErrEnvelope, "parse"), nil, nil
	}
	k := ring.Find(v.Group, e.Kid.KeyID())
	if k == nil {
		return "kid", nil, nil
	}
	o := must(NewOpenStream(k.Secret, v.Group, v.Topic, e.Kid.StreamID()))(t)
	inner, err := o.Open(nil, &e)
	if err != nil {
		return wrapped(t, err, ErrForged, "auth"), nil, nil
	}
	if v.TopicKey != nil {
		var name []byte
		name, inner, err = SplitName(inner)
		if err == nil && (bytes.ContainsAny(name, "+#") || must(TopicKeyFrom(v.TopicKey))(t).Hide(string(name)) != v.Topic) {
			err = ErrInner
		}
		if err != nil {
			return wrapped(t, err, ErrInner, "inner"), nil, nil
		}
	}
	if props, payload, err = SplitInner(inner); err != nil {
		return wrapped(t, err, ErrInner, "inner"), nil, nil
	}
	if e.Seq != v.Seq || e.Kid.StreamID() != StreamID(v.Stream) {
		t.Errorf("opened as %d of stream %v", e.Seq, e.Kid.StreamID())
	}
	return "ok", props, payload
}

func wrapped(t *testing.T, err, sentinel error, class string) string {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Errorf("error %q does not wrap %q", err, sentinel)
	}
	return class
}

func TestVectorsEnvelope(t *testing.T) {
	spec.Each(t, vectorDir("envelope"), func(t *testing.T, v *envelopeVector) {
		envelope := []byte(v.Envelope)
		if v.Expect == "ok" || v.Expect == "exhausted" {
			s := v.sealer(t)
			want := s.Len(InnerLen(len(v.Props), len(v.Payload)))
			out, seq, err := s.Seal(nil, v.Props, v.Payload)
			if v.Expect == "exhausted" {
				if !errors.Is(err, ErrExhausted) || len(out) != 0 {
					t.Fatalf("Seal returned %d bytes and %v", len(out), err)
				}
				return
			}
			if err != nil || seq != v.Seq || len(out) != want {
				t.Fatalf("Seal returned number %d, %d bytes of %d announced, %v", seq, len(out), want, err)
			}
			if sum := sha256.Sum256(out); v.Digest != nil && (len(out) != v.Length || !bytes.Equal(sum[:], v.Digest)) || v.Digest == nil && !bytes.Equal(out, envelope) {
				t.Fatalf("sealed to %x", out[:min(len(out), 100)])
			}
			envelope = out
		}
		class, props, payload := openVector(t, v, envelope)
		if class != v.Expect {
			t.Fatalf("%s: %s expected, got %s", v.Comment, v.Expect, class)
		}
		if class == "ok" && (!bytes.Equal(props, v.Props) || !bytes.Equal(payload, v.Payload)) {
			t.Fatalf("opened to %x and %x", props, payload)
		}
	})
}
