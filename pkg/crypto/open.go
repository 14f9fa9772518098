package crypto

// OpenStream opens the envelopes of one stream (spec 7). It belongs to one
// goroutine. It prints as "[redacted]".
type OpenStream struct {
	stream
	failed uint64
}

// NewOpenStream prepares to open stream id of topic in group. Whoever calls it has found
// secret by the envelope's key id in the group that the topic belongs to (spec 7.2, F5).
func NewOpenStream(secret *PayloadSecret, group, topic string, id StreamID) (*OpenStream, error) {
	s, err := newStream(secret, group, topic, id)
	if err != nil {
		return nil, err
	}
	return &OpenStream{stream: s}, nil
}

// Open authenticates e and appends its inner plaintext to dst (see [SplitInner]).
// dst must not overlap the envelope, but may be e.Ciphertext[:0], which decrypts in place.
// Nothing is allocated when dst has room for len(e.Ciphertext)-16 bytes.
//
// Errors: [ErrKid] if e is of another stream, [ErrForged] if it does not
// authenticate, [ErrExhausted] after 2^36 forgeries (spec 8). dst is returned
// as it was then, and nothing unauthenticated is left in it.
func (o *OpenStream) Open(dst []byte, e *Envelope) ([]byte, error) {
	switch {
	case e.Kid != o.kid:
		return dst, ErrKid
	case e.Seq > MaxSequence || len(e.Ciphertext) < tagSize+1:
		return dst, ErrForged
	case o.failed >= MaxForgeries:
		return dst, ErrExhausted
	}
	out, err := o.aead.Open(dst, o.at(e.Seq), e.Ciphertext, o.aad)
	if err != nil {
		o.failed++
		return dst, ErrForged
	}
	return out, nil
}
