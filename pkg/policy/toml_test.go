package policy

import (
	"strings"
	"testing"
	"time"
)

const example = `version = 1
unmatched = "deny"                         # seal:<group> | pass | deny
[[group]]
name = "default"
topics = ["#"]
publish = ["*"]
read = ["*"]
keepers = ["gw1"]
rotate = "1h"
history = "168h"
freshness = "24h"
clear_retained = "pass"
activate_after = "10s"
checkpoint = "10s"
`

func TestParseTOML(t *testing.T) {
	d, err := ParseTOML([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	g := d.Groups[0]
	if d.Version != 1 || d.Unmatched != "deny" || g.Name != "default" || g.Topics[0] != "#" || g.Keepers[0] != "gw1" ||
		g.Rotate != time.Hour || g.History != 168*time.Hour || g.Freshness != 24*time.Hour ||
		g.ActivateAfter != 10*time.Second || g.Checkpoint != 10*time.Second || g.ClearRetained != "pass" {
		t.Errorf("parsed as %+v", d)
	}
}

func TestParseTOMLDefaults(t *testing.T) {
	d, err := ParseTOML([]byte("[[group]]\nname = \"x\"\ntopics = [\"a\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultGroup("x")
	g := d.Groups[0]
	if d.Unmatched != WordDeny || d.Version != 0 || g.Rotate != want.Rotate || g.Publish[0] != "*" || len(g.Keepers) != 0 || g.ClearRetained != WordPass {
		t.Errorf("parsed as %+v", d)
	}
	if err := d.Validate(); err == nil {
		t.Error("a document without fleet and keepers is not one to sign")
	}
}

func TestParseTOMLPad(t *testing.T) {
	for text, want := range map[string]string{
		"pad = 64": "", "pad = 0": "", "pad = 3": "pad: 3: lengths", "pad = 4294967360": "pad: 2147483647",
		"pad = -9223372036854775808": "pad: -1", `pad = "64"`: "pad",
	} {
		d, err := ParseTOML([]byte("[[group]]\nname = \"x\"\ntopics = [\"a\"]\n" + text + "\n"))
		if want == "" && (err != nil || d.Groups[0].Pad != 64 && text != "pad = 0") {
			t.Errorf("%s: %+v, %v", text, d, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
}

func TestParseTOMLHideTopics(t *testing.T) {
	group := "[[group]]\nname = \"x\"\ntopics = [\"a\"]\n"
	for _, tt := range []struct {
		text string
		hide bool
		key  uint64
		want string
	}{
		{group + "hide_topics = true\n", true, 1, ""},
		{"topic_key = 7\n" + group + "hide_topics = true\n", true, 7, ""},
		{"topic_key = 7\n" + group, false, 0, ""},
		{group, false, 0, ""},
		{"topic_key = 0\n" + group + "hide_topics = true\n", false, 0, "topic_key: 0 is out of range"},
		{"topic_key = 281474976710656\n" + group, false, 0, "topic_key: 281474976710656"},
		{group + "hide_topics = 1\n", false, 0, "hide_topics"},
	} {
		d, err := ParseTOML([]byte(tt.text))
		if tt.want == "" && (err != nil || d.Groups[0].HideTopics != tt.hide || d.TopicKey != tt.key) {
			t.Errorf("%s: %+v, %v", tt.text, d, err)
		}
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: error %v, want one with %q", tt.text, err, tt.want)
		}
	}
}

func TestParseTOMLEmptyListsStayEmpty(t *testing.T) {
	d, err := ParseTOML([]byte("[[group]]\nname = \"x\"\ntopics = [\"a\"]\npublish = []\nread = []\n"))
	if err != nil {
		t.Fatal(err)
	}
	if g := d.Groups[0]; len(g.Publish) != 0 || len(g.Read) != 0 {
		t.Errorf("an empty list became %q and %q", g.Publish, g.Read)
	}
}

func TestParseTOMLProblems(t *testing.T) {
	const group = "[[group]]\nname = \"x\"\ntopics = [\"a\"]\n"
	tests := []struct{ name, text, want string }{
		{"empty", "", "policy.toml: group: no group"},
		{"unknown key", "versoin = 2\n" + group, "policy.toml:1: versoin: unknown key"},
		{"unknown group key", group + "rotat = \"1h\"\n", "policy.toml:4: group[0].rotat: unknown key"},
		{"syntax", "version = = 1\n", "policy.toml:1: version: "},
		{"wrong type", "version = \"1\"\n" + group, "policy.toml:1: version: a whole number expected, found a string in quotes"},
		{"negative version", "version = -1\n" + group, "policy.toml:1: version: -1"},
		{"bare duration", group + "rotate = \"60\"\n", `policy.toml:4: group[0].rotate: "60" is not a duration`},
		{"days", group + "history = \"7d\"\n", `policy.toml:4: group[0].history: "7d" is not a duration`},
		{"range", group + "rotate = \"1ms\"\n", "policy.toml:4: group[0].rotate: 1ms is out of range"},
		{"empty unmatched", "unmatched = \"\"\n" + group, `policy.toml:1: unmatched: "" is not a rule`},
		{"second group", group + "[[group]]\nname = \"y\"\ntopics = [\"+\"]\n", `policy.toml:6: group[1].topics: "+" of group "y" overlaps "a" of group "x"`},
		{"certificate", "revoked_certificates = [\"abc\"]\n" + group, `policy.toml:1: revoked_certificates: "abc" is not the SHA-256`},
		{"long certificate", "revoked_certificates = [\"" + strings.Repeat("a", 66) + "\"]\n" + group, "policy.toml:1: revoked_certificates"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseTOML([]byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// All problems are found in one go.
func TestParseTOMLFindsAll(t *testing.T) {
	_, err := ParseTOML([]byte("unmatched = \"x\"\nfoo = 1\n[[group]]\nname = \"A\"\ntopics = [\"a#\"]\nrotate = \"x\"\n"))
	if err == nil {
		t.Fatal("accepted")
	}
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 5 {
		t.Errorf("%d problems, want 5:\n%v", len(lines), err)
	}
}

// FuzzParseTOML: whatever is accepted can be signed once fleet, version and keepers are filled in.
func FuzzParseTOML(f *testing.F) {
	f.Add([]byte(example))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseTOML(b)
		if err != nil {
			return
		}
		d.Fleet, d.Version = "plant", max(d.Version, 1)
		for i := range d.Groups {
			if len(d.Groups[i].Keepers) == 0 {
				d.Groups[i].Keepers = []string{"gw1"}
			}
		}
		if err := d.Validate(); err != nil {
			t.Fatalf("accepted, yet not valid: %v", err)
		}
		if _, err := Unmarshal(d.Marshal()); err != nil {
			t.Errorf("accepted, yet its encoding is refused: %v", err)
		}
	})
}
