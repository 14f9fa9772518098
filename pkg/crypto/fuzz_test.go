package crypto

import (
	"bytes"
	"testing"

	"sealgate/pkg/dcbor"
)

// FuzzParseEnvelope: whatever parses encodes to the same bytes again, and the
// parser of package dcbor agrees that it is what the specification says.
func FuzzParseEnvelope(f *testing.F) {
	seeds := 0
	for _, v := range envelopeSeeds(f) {
		f.Add(v)
		seeds++
	}
	if seeds < 50 {
		f.Fatalf("only %d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnvelope(b)
		ref, refOK := referenceParse(b)
		if (err == nil) != refOK {
			t.Fatalf("ParseEnvelope says %v, the reference parser %v", err, refOK)
		}
		if err != nil {
			if e.Ciphertext != nil || e.Seq != 0 || e.Kid != (Kid{}) {
				t.Fatal("something is returned with an error")
			}
			return
		}
		if e.Seq != ref.Seq || e.Kid != ref.Kid || !bytes.Equal(e.Ciphertext, ref.Ciphertext) {
			t.Fatalf("parsed to %+v, the reference to %+v", e, ref)
		}
		if again := AppendEnvelope(nil, &e); !bytes.Equal(again, b) {
			t.Fatalf("encodes to %x", again)
		}
		if envelopeLen(e.Seq, len(e.Ciphertext)-tagSize) != len(b) {
			t.Fatal("Len is wrong")
		}
	})
}

func envelopeSeeds(tb testing.TB) (seeds [][]byte) {
	tb.Helper()
	s, _ := benchStreams(tb)
	for _, n := range []int{0, 6, 7, 238, 239, 1000} {
		for _, seq := range []uint64{0, 255, 256, 1 << 16, 1 << 24, 1 << 32, MaxSequence} {
			s.next = seq
			out, _, err := s.Seal(nil, nil, make([]byte, n))
			if err != nil {
				tb.Fatal(err)
			}
			seeds = append(seeds, out)
		}
	}
	base := seeds[0]
	for i := range 30 {
		c := bytes.Clone(base)
		c[i] ^= 1
		seeds = append(seeds, c, base[:i])
	}
	return append(seeds, append(bytes.Clone(base), 0))
}

// referenceParse is the specification's section 4, read with the general decoder.
func referenceParse(b []byte) (e Envelope, ok bool) {
	r := dcbor.NewReader(b)
	r.Tag(16)
	r.ArrayExact(3)
	protected := r.Bytes(100)
	n := r.Map(2)
	l1 := r.Uint()
	r.BytesExact(e.Kid[:])
	l2 := r.Uint()
	piv := r.Bytes(5)
	e.Ciphertext = r.Bytes(MaxInner + tagSize)
	if r.Done() != nil || n != 2 || l1 != 4 || l2 != 6 || !bytes.Equal(protected, []byte{0xa1, 1, 0x18, 24}) {
		return e, false
	}
	if len(piv) == 0 || len(piv) > 1 && piv[0] == 0 || len(e.Ciphertext) < 17 {
		return e, false
	}
	for _, c := range piv {
		e.Seq = e.Seq<<8 | uint64(c)
	}
	return e, true
}

// FuzzSplitInner: whatever splits joins to the same bytes again, but for the padding before them (spec 3.1).
func FuzzSplitInner(f *testing.F) {
	for _, s := range []string{"", "\x00", "\x00x", "\x01ax", "\x80\x00", "\x80\x01", "\xff\xff\xff\x7f", "\x80\x80\x80\x80\x01", "\x80\x01" + string(make([]byte, 200)), "\x80\x00\x00", "\x80\x80\x80\x80\x80\x00\x01ax"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		props, payload, err := SplitInner(b)
		if err != nil {
			return
		}
		if again := append(append(appendVarint(nil, len(props)), props...), payload...); !bytes.HasSuffix(b, again) || !isPadding(b[:len(b)-len(again)]) {
			t.Fatalf("joins to %x", again)
		} else if InnerLen(len(props), len(payload)) != len(again) {
			t.Fatal("InnerLen is wrong")
		}
	})
}

// isPadding reports whether b is padding, or nothing.
func isPadding(b []byte) bool {
	return len(b) == 0 || len(b) > 1 && b[len(b)-1] == 0 && len(bytes.Trim(b[:len(b)-1], "\x80")) == 0
}

// FuzzParseSign1: whatever parses encodes to the same bytes again.
func FuzzParseSign1(f *testing.F) {
	for _, s := range []string{
		"\xd2\x84\x41\x00\xa0\x41x\x41y",
		"\xd2\x84" + "\x58\x2a\xa2\x01\x27\x18\x22\x82\x2f\x58\x20" + string(make([]byte, 32)) + "\xa1\x18\x21\x41x" + "\x45hello" + "\x58\x40" + string(make([]byte, 64)),
		"\xd2\x84" + "\x58\x2a\xa2\x01\x26\x18\x22\x82\x2f\x58\x20" + string(make([]byte, 32)) + "\xa1\x18\x21\x82\x41x\x41y" + "\x40" + "\x58\x40" + string(make([]byte, 64)),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseSign1(b)
		if err != nil {
			return
		}
		c := dcbor.AppendBytes([]byte{0xd2, 0x84}, encodeProtected(m.alg, m.hash))
		c = dcbor.AppendUint(dcbor.AppendMap(c, 1), labelChain)
		if len(m.chain) > 1 {
			c = dcbor.AppendArray(c, len(m.chain))
		}
		for _, der := range m.chain {
			c = dcbor.AppendBytes(c, der)
		}
		c = dcbor.AppendBytes(dcbor.AppendBytes(c, m.payload), m.signature)
		if !bytes.Equal(c, b) {
			t.Fatalf("encodes to %x", c)
		}
	})
}
