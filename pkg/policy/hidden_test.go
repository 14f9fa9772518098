package policy

import (
	"math/rand/v2"
	"strings"
	"testing"

	"sealgate/pkg/crypto"
	"sealgate/pkg/topic"
)

func topicKey(tb testing.TB) *crypto.TopicKey {
	tb.Helper()
	k, err := crypto.TopicKeyFrom([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// words makes a random topic of the levels given.
func words(rng *rand.Rand, levels []string) string {
	list := make([]string, 1+rng.IntN(5))
	for i := range list {
		list[i] = levels[rng.IntN(len(levels))]
	}
	return strings.Join(list, "/")
}

// A filter matches a name if and only if the hidden filter matches the hidden name: the broker routes as before.
func TestHidingKeepsMatching(t *testing.T) {
	k := topicKey(t)
	rng := rand.New(rand.NewPCG(1, 2))
	matched := 0
	for range 200_000 {
		filter := words(rng, []string{"a", "b", "", "$x", "größe", "+", "+", "#"})
		name := words(rng, []string{"a", "b", "", "$x", "größe"})
		if topic.ValidateFilter(filter) != nil || topic.ValidateName([]byte(name)) != nil {
			continue
		}
		hf, hn := k.Hide(filter), k.Hide(name)
		if err := topic.ValidateFilter(hf); err != nil {
			t.Fatalf("%q is hidden as %q: %v", filter, hf, err)
		}
		if err := topic.ValidateName([]byte(hn)); err != nil || name[0] != '$' && !crypto.LooksHidden([]byte(hn)) {
			t.Fatalf("%q is hidden as %q: %v", name, hn, err)
		}
		want := topic.Match(filter, name)
		if got := topic.Match(hf, hn); got != want {
			t.Fatalf("Match(%q, %q) is %v, hidden %v", filter, name, want, got)
		}
		if want {
			matched++
		}
	}
	if matched < 1000 {
		t.Errorf("only %d pairs matched", matched)
	}
}

func TestLooksHidden(t *testing.T) {
	token := topicKey(t).Hide("a")
	for name, want := range map[string]bool{
		token: true, token + "/" + token: true, "": false, "a": false, token + "/": false, "/" + token: false, token + "/a": false,
		token + "x": false, token[:len(token)-1]: false, "x" + token[1:]: false, token[:5] + "." + token[6:]: false, token + "//" + token: false,
		"~AAAAAAAAAAAAAAAA": true, "~-_-_-_-_-_-_-_-_": true,
	} {
		if got := crypto.LooksHidden([]byte(name)); got != want {
			t.Errorf("LooksHidden(%q) is %v", name, got)
		}
	}
}

// hiding is a document of a group that hides, one that does not, and a rule for the rest.
func hiding(unmatched string) *Document {
	d := plant()
	d.Unmatched, d.TopicKey = unmatched, 1
	d.Groups[0].HideTopics = true
	d.Groups[0].Topics = []string{"line/#", "$line/#"}
	return d
}

func TestTableOfHiddenTopics(t *testing.T) {
	k := topicKey(t)
	table, err := hiding("seal:line").Table()
	if err != nil {
		t.Fatal(err)
	}
	token := k.Hide("line/1")
	for name, want := range map[string]Decision{
		"line/1":   {Verdict: Seal, Group: "line", ClearRetained: true, Hide: true},
		"other":    {Verdict: Seal, Group: "line", ClearRetained: true, Hide: true},
		"$line/1":  {Verdict: Seal, Group: "line", ClearRetained: true},
		"$SYS/x":   {},
		"office/x": {Verdict: Seal, Group: "office"},
		token:      {},
	} {
		if got := table.Publish([]byte(name)); got != want {
			t.Errorf("Publish(%q) is %+v, want %+v", name, got, want)
		}
		if want.Hide = false; name == token {
			want = Decision{Verdict: Seal, Hide: true, ClearRetained: true}
		}
		if got := table.Receive([]byte(name)); got != want {
			t.Errorf("Receive(%q) is %+v, want %+v", name, got, want)
		}
	}
	for _, c := range []struct {
		group, wire, name string
		want              bool
	}{
		{"line", token, "line/1", true},
		{"line", k.Hide("other"), "other", true},
		{"office", token, "line/1", false},
		{"line", token, "line/2", false},
		{"line", k.Hide("office/x"), "office/x", false},
		{"line", k.Hide("line/+"), "line/+", false},
		{"line", k.Hide(token), token, false},
		{"line", "$line/1", "$line/1", false},
		{"line", k.Hide(""), "", false},
	} {
		if got := table.Hidden(k, c.group, c.wire, c.name); got != c.want {
			t.Errorf("Hidden(%q, %q, %q) is %v", c.group, c.wire, c.name, got)
		}
	}
	if table.Hidden(nil, "line", token, "line/1") {
		t.Error("without a key")
	}
	plain, err := plant().Table()
	if err != nil {
		t.Fatal(err)
	}
	if plain.Hides() || plain.Receive([]byte(token)) != (Decision{}) || len(plain.Hiding()) != 0 {
		t.Error("a fleet that hides nothing knows no hidden topics")
	}
}

func TestFilters(t *testing.T) {
	tests := []struct {
		unmatched, filter string
		plain, hide       bool
	}{
		{"deny", "line/1", false, true},
		{"deny", "line/#", false, true},
		{"deny", "+/1", true, true}, // may be office/1
		{"deny", "office/#", true, false},
		{"deny", "#", true, false}, // hidden it is the same
		{"deny", "+/+", true, false},
		{"deny", "$line/#", true, false},
		{"deny", "other/x", true, false},
		{"deny", "+/+/x", true, true},
		{"pass", "line/1", false, true},
		{"pass", "other/x", true, false},
		{"pass", "+/1", true, true},
		{"seal:line", "other/x", false, true},
		{"seal:line", "office/x", true, false},
		{"seal:line", "+/x", true, true},
		{"seal:office", "other/x", true, false},
	}
	for _, tt := range tests {
		table, err := hiding(tt.unmatched).Table()
		if err != nil {
			t.Fatal(err)
		}
		if plain, hide := table.Filters(tt.filter); plain != tt.plain || hide != tt.hide {
			t.Errorf("unmatched %s: Filters(%q) is %v, %v", tt.unmatched, tt.filter, plain, hide)
		}
	}
	if plain, hide := (*Table)(nil).Filters("a"); !plain || hide {
		t.Error("without a policy")
	}
}

// Whatever a filter matches reaches the client that subscribed to it, on the name it is published on, and only once.
func TestFiltersMissNothing(t *testing.T) {
	k := topicKey(t)
	rng := rand.New(rand.NewPCG(3, 4))
	hidden, delivered := 0, 0
	for range 200 {
		d := hiding([]string{"deny", "pass", "seal:line", "seal:office"}[rng.IntN(4)])
		d.Groups[0].Topics, d.Groups[1].Topics = nil, nil
		for range 4 {
			f := words(rng, []string{"a", "b", "c", "+", "#"})
			g := &d.Groups[rng.IntN(2)]
			if g.Topics = append(g.Topics, f); d.Validate() != nil {
				g.Topics = g.Topics[:len(g.Topics)-1]
			}
			for i := range d.Groups {
				if len(d.Groups[i].Topics) == 0 {
					d.Groups[i].Topics = []string{[]string{"only1/x", "only2/x"}[i]}
				}
			}
		}
		table, err := d.Table()
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			filter, name := words(rng, []string{"a", "b", "c", "+", "#"}), words(rng, []string{"a", "b", "c"})
			if topic.ValidateFilter(filter) != nil || !topic.Match(filter, name) {
				continue
			}
			dec := table.Publish([]byte(name))
			if dec.Verdict == Deny {
				continue
			}
			wire := name
			if dec.Hide {
				wire = k.Hide(name)
				hidden++
			}
			plain, hide := table.Filters(filter)
			times := 0
			if plain && topic.Match(filter, wire) {
				times++
			}
			if hide && topic.Match(k.Hide(filter), wire) {
				times++
			}
			if delivered++; times != 1 {
				t.Fatalf("%+v: %q on %q reaches a subscriber to %q %d times", d.Groups, name, wire, filter, times)
			}
		}
	}
	if hidden < 500 || delivered-hidden < 500 {
		t.Errorf("%d messages, %d hidden", delivered, hidden)
	}
}
