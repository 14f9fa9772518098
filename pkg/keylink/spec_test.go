package keylink

import (
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"sealgate/test/cddl"
	"sealgate/test/spec"
)

const specFile = "../../docs/spec/keylink.md"

// Every message that the code makes is one that the specification describes, and the other
// way round every rule for a message has a message.
func TestSpecDescribesTheMessages(t *testing.T) {
	rules, err := cddl.Load(specFile)
	if err != nil {
		t.Fatal(err)
	}
	for typ, m := range samples(t) {
		b := m.append(nil)
		if err := rules.Check(m.name(), b); err != nil {
			t.Errorf("%s: %v", m.name(), err)
		}
		if !strings.HasPrefix(rules[m.name()], fmt.Sprintf("[%d", typ)) {
			t.Errorf("%s: rule %q does not begin with type %d", m.name(), rules[m.name()], typ)
		}
	}
	messages := 0
	for _, body := range rules {
		if regexp.MustCompile(`^\[\d+[,\]]`).MatchString(body) {
			messages++
		}
	}
	if messages != len(formats) {
		t.Errorf("%d messages are specified, the code knows %d", messages, len(formats))
	}
}

// The examples are what the code makes; with UPDATE_SPEC=1 they are written anew.
func TestSpecExamples(t *testing.T) {
	text := spec.Text(t, specFile)
	before, _, ok := strings.Cut(text, "```examples\n")
	if !ok {
		t.Fatal("no examples in the specification")
	}
	var want strings.Builder
	want.WriteString(before + "```examples\n")
	for _, m := range samples(t) {
		fmt.Fprintf(&want, "%-11s %s\n", m.name(), hex.EncodeToString(m.append(nil)))
	}
	want.WriteString("```\n")
	if os.Getenv("UPDATE_SPEC") == "1" {
		if err := os.WriteFile(specFile, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != want.String() {
		t.Errorf("the examples differ from what the code makes; UPDATE_SPEC=1 go test ./pkg/keylink writes them")
	}
}

// The bounds in the specification are those of the code.
func TestSpecBounds(t *testing.T) {
	text := spec.Text(t, specFile)
	for _, want := range []string{
		fmt.Sprintf("[0*%d key]", MaxKeys), fmt.Sprintf("[0*%d group-epoch]", MaxGroups), fmt.Sprintf("[0*%d counter]", MaxCounters),
		fmt.Sprintf("[0*%d stream]", MaxStreams), fmt.Sprintf("[0*%d range]", MaxBurned), fmt.Sprintf("version: %d", ProtocolVersion), fmt.Sprintf("At most %d connections", maxConns), "1 to 1,048,576", "2^43",
		fmt.Sprintf("Within %.0f seconds", helloTimeout.Seconds()), fmt.Sprintf("within %.0f seconds", adminTimeout.Seconds()),
		fmt.Sprintf("after %.1f s, doubling to %.1f s", firstPause.Seconds(), lastPause.Seconds()),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the specification does not say %q", want)
		}
	}
	if MaxFrame != 1048576 || maxMillis != 1<<43 {
		t.Error("a bound has changed: change the specification too")
	}
}
