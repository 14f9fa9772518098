package crypto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"
)

// leaks returns the ways in which out shows the bytes of a secret.
func leaks(out string, secret []byte) bool {
	decimal := strings.Trim(fmt.Sprint(secret[:4]), "[]")
	goHex := strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", secret[:4]), "[]byte{"), "}")
	for _, form := range []string{string(secret[:4]), hex.EncodeToString(secret[:4]), strings.ToUpper(hex.EncodeToString(secret[:4])), decimal, strings.ReplaceAll(decimal, " ", ","), goHex} {
		if strings.Contains(out, form) {
			return true
		}
	}
	return false
}

func TestLeaksSeesALeak(t *testing.T) {
	b := seq32(0x67)
	for _, verb := range []string{"%v", "%x", "%X", "%s", "%#v", "%d"} {
		if !leaks(fmt.Sprintf(verb, b), b) {
			t.Errorf("%s is not seen as a leak", verb)
		}
	}
	if text, _ := json.Marshal([32]byte(b)); !leaks(string(text), b) {
		t.Error("a JSON array is not seen as a leak")
	}
}

func TestSecretsRedactThemselves(t *testing.T) {
	raw := seq32(0x67) // "ghij…": not to be taken for hex digits
	payload := must(PayloadSecretFrom(raw))(t)
	kek := must(KEKFrom(raw))(t)
	inbox := must(NewInboxKey())(t)
	inboxSeed := must((*inbox.key).Bytes())(t)
	sealer := must(NewSealStream(payload, "default", "t", StreamID{}))(t)
	opener := must(NewOpenStream(payload, "default", "t", StreamID{}))(t)
	identity := must(NewIdentity(edKey(0x12), newPKI(t).gw))(t)
	type nested struct {
		Shown  any
		hidden any
		list   []any
	}
	type byValue struct {
		Payload PayloadSecret
		kek     KEK
	}
	values := map[string]any{
		"payload": payload, "*payload": *payload, "kek": kek, "*kek": *kek, "inbox": inbox, "sealer": sealer, "opener": opener,
		"identity": identity, "*identity": *identity, "*inbox": *inbox, "by value": byValue{*payload, *kek}, "&by value": &byValue{*payload, *kek},
		"key": Key{Secret: payload}, "map": map[string]*KEK{"k": kek},
	}
	for name, v := range values {
		for _, v := range []any{v, nested{v, v, []any{v}}, &nested{v, v, []any{v}}, []any{v}, struct{ v any }{v}} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%08b", "%T"} {
				if out := fmt.Sprintf(verb, v); leaks(out, raw) || leaks(out, edKey(0x12).Seed()) || leaks(out, inboxSeed) {
					t.Errorf("%s: %s shows %s", name, verb, out)
				}
			}
		}
		var log bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(h).Info("x", "value", v, "nested", nested{Shown: v})
		}
		text, _ := json.Marshal(nested{Shown: v})
		if log.Write(text); leaks(log.String(), raw) {
			t.Errorf("%s: slog or json shows %s", name, log.String())
		}
	}
	if out := fmt.Sprintf("%v %s %x %#v", payload, kek, *kek, inbox); strings.Count(out, redactedText) != 4 {
		t.Errorf("printed as %s", out)
	}
}

func TestSecretsRefuseWhatTheyCannotHold(t *testing.T) {
	for _, n := range []int{0, 31, 33} {
		if _, err := PayloadSecretFrom(make([]byte, n)); err == nil {
			t.Errorf("payload secret of %d bytes accepted", n)
		}
		if _, err := KEKFrom(make([]byte, n)); err == nil {
			t.Errorf("KEK of %d bytes accepted", n)
		}
	}
	broken := iotest.ErrReader(io.ErrNoProgress)
	if _, err := NewPayloadSecret(broken); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("payload secret from a broken source: %v", err)
	}
	if _, err := NewKEK(bytes.NewReader(make([]byte, 31))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("KEK from a short source: %v", err)
	}
}

func TestErasedSecretsAreUnusable(t *testing.T) {
	s, k := must(PayloadSecretFrom(seq32(1)))(t), must(KEKFrom(seq32(1)))(t)
	held := (*s.b)[:]
	other := must(PayloadSecretFrom(seq32(1)))(t)
	if !s.Equal(other) || s.Equal(must(PayloadSecretFrom(seq32(2)))(t)) || !k.Equal(must(KEKFrom(seq32(1)))(t)) {
		t.Error("Equal is wrong")
	}
	s.Erase()
	k.Erase()
	s.Erase()
	if !bytes.Equal(held, make([]byte, 32)) || s.Bytes() != nil || k.Bytes() != nil || s.Equal(other) || s.Equal(s) {
		t.Error("something is left")
	}
	if _, err := NewSealStream(s, "g", "t", StreamID{}); !errors.Is(err, ErrErased) {
		t.Errorf("NewSealStream: %v", err)
	}
	if _, err := NewSealStream(nil, "g", "t", StreamID{}); !errors.Is(err, ErrErased) {
		t.Errorf("NewSealStream of nil: %v", err)
	}
	if _, err := k.Wrap(bytes.NewReader(seq32(0)), other, WrapContext{Fleet: "f", Group: "g", Keeper: "k"}); !errors.Is(err, ErrErased) {
		t.Errorf("Wrap: %v", err)
	}
	if _, err := k.Ratchet("g").Unwrap(&Wrap{}, WrapContext{Fleet: "f", Group: "g", Keeper: "k"}); !errors.Is(err, ErrErased) {
		t.Errorf("Unwrap: %v", err)
	}
	if Commitment(s, "g") != [32]byte{} || Commitment(nil, "g") != [32]byte{} {
		t.Error("an erased secret commits to something")
	}
}
