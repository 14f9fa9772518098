package crypto

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"io"

	"sealgate/pkg/dcbor"
)

// Topic hiding, spec 17: each level of a topic becomes a token that only members can make or recognise.

const (
	labelTopicKey = "sealgate v1 topic key"

	tokenMark  = '~'
	tokenBytes = 12
	// TokenSize is the length of a token in bytes: '~' and 12 bytes in base64url.
	TokenSize = 1 + tokenBytes*4/3
)

// TopicSecret is what the topic keys of a fleet are derived from. The operator draws it, and the keepers of the groups
// that hide topics hold it. It prints as "[redacted]".
type TopicSecret struct{ secret }

// NewTopicSecret draws a topic secret from rand.
func NewTopicSecret(rand io.Reader) (*TopicSecret, error) {
	s, err := newSecret(rand, "topic secret")
	if err != nil {
		return nil, err
	}
	return &TopicSecret{s}, nil
}

// TopicSecretFrom copies a topic secret from its 32 bytes.
func TopicSecretFrom(b []byte) (*TopicSecret, error) {
	s, err := secretFrom(b, "topic secret")
	if err != nil {
		return nil, err
	}
	return &TopicSecret{s}, nil
}

// Bytes returns a copy of the 32 bytes.
func (s *TopicSecret) Bytes() []byte {
	if s == nil {
		return nil
	}
	return s.clone()
}

// Key derives the fleet's topic key of a number, which the policy names (spec 17.1).
func (s *TopicSecret) Key(fleet string, number uint64) (*TopicKey, error) {
	if s == nil {
		return nil, ErrErased
	}
	info := dcbor.AppendText(dcbor.AppendText(dcbor.AppendArray(nil, 3), labelTopicKey), fleet)
	out, err := derive(&s.secret, nil, dcbor.AppendUint(info, number), SecretSize)
	if err != nil {
		return nil, fmt.Errorf("deriving topic key %d: %w", number, err)
	}
	defer clear(out)
	return TopicKeyFrom(out)
}

// TopicKey hides topic names: whoever holds it can make the tokens of any name, and find the name of a token by guessing. It
// prints as "[redacted]" and is safe for concurrent use.
type TopicKey struct{ secret }

// TopicKeyFrom copies a topic key from its 32 bytes.
func TopicKeyFrom(b []byte) (*TopicKey, error) {
	s, err := secretFrom(b, "topic key")
	if err != nil {
		return nil, err
	}
	return &TopicKey{s}, nil
}

// Bytes returns a copy of the 32 bytes, nil for a nil key.
func (k *TopicKey) Bytes() []byte {
	if k == nil {
		return nil
	}
	return k.clone()
}

// Equal compares two keys in constant time. Two nil keys are equal.
func (k *TopicKey) Equal(o *TopicKey) bool {
	if k == nil || o == nil {
		return k == o
	}
	return k.equal(&o.secret)
}

// Hide returns a topic name or topic filter with a token in place of each level (spec 17.2). Wildcards stay, and so does
// whatever begins with '$': of a shared subscription give the filter behind its name. The result may be longer than [MaxTopic].
func (k *TopicKey) Hide(topic string) string {
	b, err := k.secret.key()
	if err != nil || topic == "" || topic[0] == '$' {
		return topic
	}
	mac := hmac.New(sha256.New, b)
	out := make([]byte, 0, len(topic)+TokenSize)
	for start, i := 0, 0; i <= len(topic); i++ {
		if i < len(topic) && topic[i] != '/' {
			continue
		}
		out = appendToken(out, mac, topic[start:i])
		if i < len(topic) {
			out = append(out, '/')
		}
		start = i + 1
	}
	return string(out)
}

func appendToken(dst []byte, mac hash.Hash, level string) []byte {
	if level == "+" || level == "#" {
		return append(dst, level...)
	}
	mac.Reset()
	_, _ = io.WriteString(mac, level)
	var sum [sha256.Size]byte
	return base64.RawURLEncoding.AppendEncode(append(dst, tokenMark), mac.Sum(sum[:0])[:tokenBytes])
}

// LooksHidden reports whether every level of a topic name has the form of a token. It allocates nothing, and proves
// nothing.
func LooksHidden(name []byte) bool {
	for {
		if len(name) < TokenSize || name[0] != tokenMark {
			return false
		}
		for _, c := range name[1:TokenSize] {
			if !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
		if len(name) == TokenSize {
			return true
		}
		if name[TokenSize] != '/' {
			return false
		}
		name = name[TokenSize+1:]
	}
}
