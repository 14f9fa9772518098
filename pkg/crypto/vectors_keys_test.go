package crypto

import (
	"bytes"
	"errors"
	"fmt"
	"sealgate/test/spec"
	"testing"
)

// keyVector is one derivation: commitment, stream-id or ratchet.
type keyVector struct {
	Comment string `json:"comment"`
	Spec    string `json:"spec"`
	Derive  string `json:"derive"`
	Secret  octets `json:"secret,omitempty"`
	Group   string `json:"group,omitempty"`
	Gateway string `json:"gateway,omitempty"`
	Boot    octets `json:"boot,omitempty"`
	Random  octets `json:"random,omitempty"`
	Will    bool   `json:"will,omitempty"`
	Steps   int    `json:"steps,omitempty"`
	Output  octets `json:"output"`
}

func (v *keyVector) derive(t *testing.T) []byte {
	t.Helper()
	switch v.Derive {
	case "commitment":
		c := Commitment(must(PayloadSecretFrom(v.Secret))(t), v.Group)
		return c[:]
	case "stream-id":
		id := NewStreamID(v.Gateway, [16]byte(v.Boot), [16]byte(v.Random), v.Will)
		if id.Will() != v.Will {
			t.Errorf("stream %v: Will() is %v", id, id.Will())
		}
		return id[:]
	case "ratchet":
		k := must(KEKFrom(v.Secret))(t)
		for range v.Steps {
			k = k.Ratchet(v.Group)
		}
		return k.Bytes()
	}
	t.Fatalf("unknown derivation %q", v.Derive)
	return nil
}

func keyVectors(t *testing.T) map[string]any {
	all := make(map[string]any)
	add := func(name string, v keyVector) {
		v.Output = v.derive(t)
		all[name] = v
	}
	add("commitment", keyVector{Comment: "its first 4 bytes are the key id", Spec: "5.2", Derive: "commitment", Secret: seq32(0), Group: "default"})
	add("commitment-group", keyVector{Comment: "the same secret in another group", Spec: "5.2", Derive: "commitment", Secret: seq32(0), Group: "halle-größe"})
	for name, will := range map[string]bool{"stream-id": false, "stream-id-will": true} {
		add(name, keyVector{Comment: "the top bit tells a will", Spec: "5.3", Derive: "stream-id", Gateway: "gw1", Boot: vectorBoot[:], Random: vectorRandom[:], Will: will})
	}
	for _, n := range []int{1, 2, 1000} {
		add(fmt.Sprintf("ratchet-%d", n), keyVector{Comment: "KEK of a later epoch", Spec: "10.1", Derive: "ratchet", Secret: seq32(0x40), Group: "default", Steps: n})
	}
	return all
}

func TestVectorsKeys(t *testing.T) {
	spec.Each(t, vectorDir("keys"), func(t *testing.T, v *keyVector) {
		if got := v.derive(t); !bytes.Equal(got, v.Output) {
			t.Errorf("%s is %x, expected %x", v.Derive, got, v.Output)
		}
	})
}

// epochVector is a wrap of a payload secret. For expect "unwrap" the wrap must be refused.
type epochVector struct {
	Comment    string `json:"comment"`
	Spec       string `json:"spec"`
	Expect     string `json:"expect"` // ok | unwrap
	KEK        octets `json:"kek"`
	Fleet      string `json:"fleet"`
	Group      string `json:"group"`
	Generation uint64 `json:"generation"`
	Number     uint64 `json:"number"`
	Keeper     string `json:"keeper"`
	Salt       octets `json:"salt"`
	Commitment octets `json:"commitment"`
	Ciphertext octets `json:"ciphertext"`
	Secret     octets `json:"secret,omitempty"`
}

func (v *epochVector) context() WrapContext {
	return WrapContext{Fleet: v.Fleet, Group: v.Group, Generation: v.Generation, Number: v.Number, Keeper: v.Keeper}
}

func (v *epochVector) wrap(t *testing.T) {
	t.Helper()
	w := must(must(KEKFrom(v.KEK))(t).Wrap(bytes.NewReader(v.Salt), must(PayloadSecretFrom(v.Secret))(t), v.context()))(t)
	v.Commitment, v.Ciphertext = w.Commitment[:], w.Ciphertext[:]
}

func epochVectors(t *testing.T) map[string]any {
	all := make(map[string]any)
	base := func(spec, comment string) *epochVector {
		v := &epochVector{
			Comment: comment, Spec: spec, Expect: "ok", KEK: seq32(0x40), Fleet: "plant", Group: "default",
			Generation: 3, Number: 17, Keeper: "gw1", Salt: seq32(0x80), Secret: seq32(0),
		}
		v.wrap(t)
		return v
	}
	all["ok"] = base("10.2", "epoch 17 of generation 3")
	large := base("10.2", "the largest numbers")
	large.Generation, large.Number = 1<<63, 1<<64-1
	large.wrap(t)
	all["ok-large"] = large
	for name, change := range map[string]func(v *epochVector){
		"fleet":      func(v *epochVector) { v.Fleet = "other" },
		"group":      func(v *epochVector) { v.Group = "other" },
		"generation": func(v *epochVector) { v.Generation++ },
		"number":     func(v *epochVector) { v.Number++ },
		"keeper":     func(v *epochVector) { v.Keeper = "gw2" },
		"salt":       func(v *epochVector) { v.Salt[0] ^= 1 },
		"kek":        func(v *epochVector) { v.KEK[31] ^= 1 },
		"ciphertext": func(v *epochVector) { v.Ciphertext[0] ^= 1 },
		"tag":        func(v *epochVector) { v.Ciphertext[47] ^= 1 },
	} {
		v := base("10.2", "one thing is not what it was wrapped with: "+name)
		v.Expect, v.Secret = "unwrap", nil
		change(v)
		all["unwrap-"+name] = v
	}
	v := base("10.3", "opens, but to another secret than the commitment's (F10)")
	v.Expect, v.Secret = "unwrap", nil
	v.Commitment[31] ^= 1
	all["unwrap-commitment"] = v
	return all
}

func TestVectorsEpoch(t *testing.T) {
	spec.Each(t, vectorDir("epoch"), func(t *testing.T, v *epochVector) {
		kek := must(KEKFrom(v.KEK))(t)
		w := Wrap{Salt: [32]byte(v.Salt), Commitment: [32]byte(v.Commitment), Ciphertext: [48]byte(v.Ciphertext)}
		s, err := kek.Unwrap(&w, v.context())
		if v.Expect != "ok" {
			if !errors.Is(err, ErrUnwrap) || s != nil {
				t.Fatalf("%s: unwrapped to %v, %v", v.Comment, s.Bytes(), err)
			}
			return
		}
		if err != nil || !bytes.Equal(s.Bytes(), v.Secret) {
			t.Fatalf("unwrapped to %x, %v", s.Bytes(), err)
		}
		if again := must(kek.Wrap(bytes.NewReader(v.Salt), s, v.context()))(t); again != w {
			t.Errorf("wrapped to %x", again.Ciphertext)
		}
	})
}

// windowVector is what a replay window says of numbers that arrive and are committed one
// after the other, and how many are missing in the end.
type windowVector struct {
	Comment string       `json:"comment"`
	Spec    string       `json:"spec"`
	Resume  *uint64      `json:"resume,omitempty"` // the floor left by a window given up
	Steps   []windowStep `json:"steps"`
	Missing uint64       `json:"missing"`
}

type windowStep struct {
	Seq     uint64 `json:"seq"`
	Verdict string `json:"verdict"`
	Gap     uint64 `json:"gap,omitempty"`
}

func (v *windowVector) run() {
	var w Window
	if v.Resume != nil {
		w.Resume(*v.Resume)
	}
	for i := range v.Steps {
		s := &v.Steps[i]
		s.Verdict, s.Gap = w.Check(s.Seq).String(), 0
		if gap, gapped := w.Commit(s.Seq); gapped {
			s.Gap = gap.Len()
		}
	}
	v.Missing, _ = w.Missing()
}

func windowVectors(*testing.T) map[string]any {
	steps := func(seqs ...uint64) (s []windowStep) {
		for _, n := range seqs {
			s = append(s, windowStep{Seq: n})
		}
		return s
	}
	floor := uint64(100)
	all := make(map[string]any)
	for name, v := range map[string]windowVector{
		"start":     {Comment: "the first message is a start, not a gap", Steps: steps(7, 8, 9)},
		"duplicate": {Comment: "each number is accepted once", Steps: steps(0, 0, 1, 0, 1, 2)},
		"gap":       {Comment: "a gap, half filled late", Steps: steps(0, 4, 2, 2)},
		"edge":      {Comment: "the lowest number of the window, and the one below it", Steps: steps(0, 2000, 17, 16, 17)},
		"jump":      {Comment: "a jump further than the window", Steps: steps(0, MaxSequence, MaxSequence-1, 0)},
		"before":    {Comment: "a number before the first is accepted once and fills no gap", Steps: steps(10, 9, 9, 11)},
		"resume":    {Comment: "a window given up at 100 leaves a floor (F17)", Resume: &floor, Steps: steps(99, 100, 103, 101)},
	} {
		v.Spec = "7.4"
		v.run()
		all[name] = v
	}
	return all
}

func TestVectorsWindow(t *testing.T) {
	spec.Each(t, vectorDir("window"), func(t *testing.T, v *windowVector) {
		got := *v
		got.Steps = append([]windowStep(nil), v.Steps...)
		got.run()
		for i, s := range v.Steps {
			if got.Steps[i] != s {
				t.Errorf("step %d is %+v, expected %+v", i, got.Steps[i], s)
			}
		}
		if got.Missing != v.Missing {
			t.Errorf("%d missing, expected %d", got.Missing, v.Missing)
		}
	})
}
