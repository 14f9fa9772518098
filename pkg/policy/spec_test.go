package policy

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/test/cddl"
	"sealgate/test/spec"
)

const specFile = "../../docs/spec/policy.md"

func TestSpecDescribesTheDocument(t *testing.T) {
	rules, err := cddl.Load(specFile)
	if err != nil {
		t.Fatal(err)
	}
	b := plant().Marshal()
	if err := rules.Check("policy", b); err != nil {
		t.Error(err)
	}
	d := plant()
	d.Groups[1].Pad = 64
	if err := rules.Check("policy", d.Marshal()); err != nil {
		t.Errorf("with an option: %v", err)
	}
	d.Groups[0].HideTopics, d.TopicKey = true, 3
	if err := rules.Check("policy", d.Marshal()); err != nil {
		t.Errorf("with hidden topics: %v", err)
	}
	if err := rules.Check("policy", bytes.Replace(b, []byte("\x64pass"), []byte("\x64past"), 1)); err == nil {
		t.Error("the rules accept a word that the code refuses")
	}
}

// The defaults that the specification names are those of the code.
func TestSpecNamesTheDefaults(t *testing.T) {
	text := strings.Join(strings.Fields(spec.Text(t, specFile)), " ")
	g := DefaultGroup("x")
	for word, ok := range map[string]bool{
		`rotate "1h"`:                  g.Rotate == time.Hour,
		`history "168h"`:               g.History == 168*time.Hour,
		`freshness "24h"`:              g.Freshness == 24*time.Hour,
		`activate_after "10s"`:         g.ActivateAfter == 10*time.Second,
		`checkpoint "10s"`:             g.Checkpoint == 10*time.Second,
		`clear_retained "pass"`:        g.ClearRetained == WordPass,
		"at most 524,288 bytes":        MaxEncoded == 524288,
		"[1*256 group]":                MaxGroups == 256,
		"at most 1024 filters":         MaxFilters == 1024,
		"[0*64 pattern]":               MaxPatterns == 64,
		"[1*8 name]":                   MaxKeepers == 8,
		"[0*4096 name]":                MaxRevocations == 4096,
		"1 to 2^48-1, if a group":      MaxTopicKey == 1<<48-1,
		"or 16 to 65,536 bytes":        MinPad == 16 && crypto.MaxPad == 65536,
		"the first three gateways and": DefaultKeepers == 3,
	} {
		if !ok || !strings.Contains(text, word) {
			t.Errorf("specification and code disagree about %s", word)
		}
	}
}
