package policy

import (
	"bytes"
	"crypto/rand"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
)

// plant is a document with two groups that holds together.
func plant() *Document {
	a := DefaultGroup("line")
	a.Topics, a.Keepers = []string{"line/+/state", "line/+/alarm"}, []string{"gw1", "gw2"}
	a.Publish, a.Read = []string{"gw*"}, []string{"*"}
	b := DefaultGroup("office")
	b.Topics, b.Keepers, b.ClearRetained = []string{"office/#"}, []string{"srv"}, WordDeny
	return &Document{
		Fleet: "plant", Version: 7, Previous: [32]byte{1, 2}, Unmatched: WordDeny, Groups: []Group{a, b},
		RevokedNames: []string{"old-1"}, RevokedCerts: [][32]byte{{9}},
	}
}

func TestMatchPattern(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"*", "gw1", true},
		{"gw1", "gw1", true},
		{"gw1", "gw10", false},
		{"gw10", "gw1", false},
		{"line-*", "line-7", true},
		{"line-*", "line-", true},
		{"line-*", "aline-7", false},
		{"*-7", "line-7", true},
		{"*-7", "line-77", false},
		{"a*b*c", "axxbyyc", true},
		{"a*b*c", "acb", false},
		{"**", "x", true},
		{"", "", true},
		{"", "x", false},
		{"a*a", "a", false},
		{strings.Repeat("*a", 30), strings.Repeat("a", 60), true},
		{strings.Repeat("*a", 30) + "b", strings.Repeat("a", 60), false},
	}
	for _, tt := range tests {
		if got := MatchPattern(tt.pattern, tt.name); got != tt.want {
			t.Errorf("MatchPattern(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
}

func TestWhoMay(t *testing.T) {
	d := plant()
	line := d.Group("line")
	tests := []struct {
		role                  crypto.Role
		name                  string
		publish, read, keeper bool
	}{
		{crypto.RoleGateway, "gw1", true, true, true},
		{crypto.RoleGateway, "gw9", true, true, false},
		{crypto.RoleSubscriber, "app", false, true, false},
		{crypto.RoleSubscriber, "gw1", true, true, false}, // a subscriber by a keeper's name mints nothing
		{crypto.RoleKeeper, "gw2", false, false, true},
		{crypto.RoleOperator, "gw1", false, false, false},
		{crypto.RoleAuthority, "gw1", false, false, false},
	}
	for _, tt := range tests {
		m := crypto.Member{Fleet: "plant", Role: tt.role, Name: tt.name}
		if line.MayPublish(m) != tt.publish || line.MayRead(m) != tt.read || line.Keeper(m) != tt.keeper {
			t.Errorf("%s %s: publish %v, read %v, keeper %v", tt.role, tt.name, line.MayPublish(m), line.MayRead(m), line.Keeper(m))
		}
	}
	if r, ok := line.Rank("gw2"); r != 1 || !ok {
		t.Errorf("rank of gw2 is %d, %v", r, ok)
	}
	if _, ok := line.Rank("gw3"); ok {
		t.Error("gw3 has a rank")
	}
	if !d.Revoked(crypto.Member{Name: "old-1"}) || !d.Revoked(crypto.Member{Name: "x", CertHash: [32]byte{9}}) || d.Revoked(crypto.Member{Name: "gw1"}) {
		t.Error("Revoked is wrong")
	}
	if d.Group("none") != nil {
		t.Error("a group that does not exist was found")
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Document)
		want   string // in the error; "" for none
	}{
		{"as it is", func(*Document) {}, ""},
		{"no fleet", func(d *Document) { d.Fleet = "" }, "fleet: missing"},
		{"bad fleet", func(d *Document) { d.Fleet = "Plant" }, `fleet: "Plant" is not a name`},
		{"version 0", func(d *Document) { d.Version = 0 }, "version: 0"},
		{"no groups", func(d *Document) { d.Groups = nil }, "group: no group"},
		{"bad group name", func(d *Document) { d.Groups[0].Name = "-x" }, "group[0].name"},
		{"group twice", func(d *Document) { d.Groups[1].Name = "line" }, `group[1].name: "line" is used twice`},
		{"no topics", func(d *Document) { d.Groups[1].Topics = nil }, "group[1].topics: no topic filter"},
		{"bad filter", func(d *Document) { d.Groups[1].Topics = []string{"a/#/b"} }, `group[1].topics: "a/#/b"`},
		{"filter twice", func(d *Document) { d.Groups[1].Topics = []string{"x", "x"} }, `"x" is there twice`},
		{"shared filter", func(d *Document) { d.Groups[1].Topics = []string{"$share/g/x"} }, "shared subscription"},
		{"overlap", func(d *Document) { d.Groups[1].Topics = []string{"line/7/#"} }, `group[1].topics: "line/7/#" of group "office" overlaps "line/+/state" of group "line"`},
		{"bad pattern", func(d *Document) { d.Groups[0].Publish = []string{"gw?"} }, `group[0].publish: "gw?"`},
		{"no publishers is allowed", func(d *Document) { d.Groups[0].Publish = nil }, ""},
		{"no keeper", func(d *Document) { d.Groups[0].Keepers = nil }, "group[0].keepers"},
		{"keeper pattern", func(d *Document) { d.Groups[0].Keepers = []string{"gw*"} }, "patterns are not allowed here"},
		{"keeper twice", func(d *Document) { d.Groups[0].Keepers = []string{"a", "a"} }, `group[0].keepers: "a" is there twice`},
		{"9 keepers", func(d *Document) { d.Groups[0].Keepers = strings.Split("a b c d e f g h i", " ") }, "9 keepers, at most 8"},
		{"rotate too short", func(d *Document) { d.Groups[0].Rotate = time.Millisecond }, "group[0].rotate: 1ms is out of range: 1s to"},
		{"history too long", func(d *Document) { d.Groups[0].History = 9000 * time.Hour }, "group[0].history"},
		{"half a millisecond", func(d *Document) { d.Groups[0].Freshness = time.Hour + 1 }, "whole number of milliseconds"},
		{"activation at once is allowed", func(d *Document) { d.Groups[0].ActivateAfter = 0 }, ""},
		{"negative", func(d *Document) { d.Groups[0].ActivateAfter = -1 }, "group[0].activate_after"},
		{"clear word", func(d *Document) { d.Groups[0].ClearRetained = "yes" }, `group[0].clear_retained: "yes"`},
		{"pad too small", func(d *Document) { d.Groups[0].Pad = 15 }, "group[0].pad: 15"},
		{"pad too large", func(d *Document) { d.Groups[0].Pad = 65537 }, "group[0].pad: 65537"},
		{"pad negative", func(d *Document) { d.Groups[0].Pad = -1 }, "group[0].pad: -1"},
		{"hides without a number", func(d *Document) { d.Groups[0].HideTopics = true }, "topic_key: 0"},
		{"number too large", func(d *Document) { d.Groups[0].HideTopics, d.TopicKey = true, 1<<48 }, "topic_key: 281474976710656"},
		{"number without hiding", func(d *Document) { d.TopicKey = 1 }, "topic_key: 1, but no group"},
		{"hides", func(d *Document) { d.Groups[0].HideTopics, d.TopicKey = true, 1 }, ""},
		{"padded", func(d *Document) { d.Groups[0].Pad = 64 }, ""},
		{"unmatched word", func(d *Document) { d.Unmatched = "drop" }, `unmatched: "drop" is not a rule`},
		{"unmatched empty", func(d *Document) { d.Unmatched = "" }, "unmatched"},
		{"unmatched group", func(d *Document) { d.Unmatched = "seal:lime" }, `"seal:lime" names a group that does not exist`},
		{"unmatched seal", func(d *Document) { d.Unmatched = "seal:line" }, ""},
		{"revoked name", func(d *Document) { d.RevokedNames = []string{"*"} }, "revoked_names"},
		{"many revocations", func(d *Document) { d.RevokedCerts = make([][32]byte, MaxRevocations+1) }, "revoked_certificates: 4097"},
		{"many groups", func(d *Document) { d.Groups = make([]Group, MaxGroups+1) }, "257 groups, at most 256"},
		{"many filters", func(d *Document) { d.Groups[0].Topics = make([]string, MaxFilters) }, "1025 topic filters"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := plant()
			tt.change(d)
			err := d.Validate()
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			if _, err := d.Table(); err == nil {
				t.Error("an invalid document became a table")
			}
		})
	}
}

func TestCBORRoundTrip(t *testing.T) {
	d := plant()
	b := d.Marshal()
	got, err := Unmarshal(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, d) {
		t.Errorf("decoded %+v, want %+v", got, d)
	}
	if !bytes.Equal(got.Marshal(), b) {
		t.Error("encoding it again gives other bytes")
	}
	for n := range b {
		if _, err := Unmarshal(b[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes were accepted", n, len(b))
		}
	}
	if _, err := Unmarshal(append(b, 0)); err == nil {
		t.Error("a trailing byte was accepted")
	}
	b[1] = 4 // format version
	if _, err := Unmarshal(b); err == nil || !strings.Contains(err.Error(), "format version 4") {
		t.Errorf("another format version: %v", err)
	}
}

// A document with options is of format 2, and one of format 2 has options: there is one encoding of each.
func TestCBOROptions(t *testing.T) {
	d := plant()
	d.Groups[1].Pad = 64
	b := d.Marshal()
	got, err := Unmarshal(b)
	if err != nil || !reflect.DeepEqual(got, d) || b[1] != 2 {
		t.Fatalf("format %d: %+v, %v", b[1], got, err)
	}
	table, err := got.Table()
	if err != nil {
		t.Fatal(err)
	}
	if pad := table.Publish([]byte("office/x")).Pad; pad != 64 || table.MaxPad() != 64 || table.Publish([]byte("line/1/state")).Pad != 0 {
		t.Errorf("pads to %d, at most %d", pad, table.MaxPad())
	}
	none := bytes.Replace(b, []byte("\x64deny\x18\x40"), []byte("\x64deny\x00"), 1)
	if len(none) != len(b)-1 {
		t.Fatal("the option was not found")
	}
	if _, err := Unmarshal(none); err == nil || !strings.Contains(err.Error(), "two encodings") {
		t.Errorf("format 2 without options: %v", err)
	}
	b[1] = 1
	if _, err := Unmarshal(b); err == nil {
		t.Error("format 1 with options was accepted")
	}
}

// A document of a group that hides its topics is of format 3, and one of format 3 has such a group.
func TestCBORHidingTopics(t *testing.T) {
	d := plant()
	d.Groups[0].Pad, d.Groups[1].HideTopics, d.TopicKey = 64, true, 9
	b := d.Marshal()
	got, err := Unmarshal(b)
	if err != nil || !reflect.DeepEqual(got, d) || b[1] != 3 {
		t.Fatalf("format %d: %+v, %v", b[1], got, err)
	}
	none := bytes.Replace(b, []byte("\x64deny\x00\xf5"), []byte("\x64deny\x00\xf4"), 1)
	if _, err := Unmarshal(none); err == nil || !strings.Contains(err.Error(), "two encodings") {
		t.Errorf("format 3 without a group that hides: %v", err)
	}
	for format := byte(1); format <= 2; format++ {
		b[1] = format
		if _, err := Unmarshal(b); err == nil || !strings.Contains(err.Error(), "9 items in a document") {
			t.Errorf("format %d with a topic key: %v", format, err)
		}
	}
}

func TestLargestDocumentFitsItsBound(t *testing.T) {
	d := plant()
	for i := range MaxRevocations {
		d.RevokedCerts = append(d.RevokedCerts[:min(i, len(d.RevokedCerts))], [32]byte{byte(i), byte(i >> 8)})
	}
	d.RevokedNames = nil
	for range MaxRevocations {
		d.RevokedNames = append(d.RevokedNames, strings.Repeat("x", 63))
	}
	if n := len(d.Marshal()); n > MaxEncoded {
		t.Errorf("%d bytes with all revocations, over the bound of %d", n, MaxEncoded)
	}
	if _, err := Unmarshal(make([]byte, MaxEncoded+1)); err == nil {
		t.Error("an encoding over the bound was looked at")
	}
}

func TestTable(t *testing.T) {
	tests := []struct {
		unmatched, topic string
		want             Decision
	}{
		{WordDeny, "line/3/state", Decision{Verdict: Seal, Group: "line", ClearRetained: true}},
		{WordDeny, "office/door", Decision{Verdict: Seal, Group: "office"}},
		{WordDeny, "office", Decision{Verdict: Seal, Group: "office"}}, // '#' covers the parent level
		{WordDeny, "line/3/other", Decision{}},
		{WordPass, "line/3/other", Decision{Verdict: Pass, ClearRetained: true}},
		{"seal:office", "line/3/other", Decision{Verdict: Seal, Group: "office"}},
		{"seal:office", "$SYS/uptime", Decision{}},
		{WordPass, "$SYS/uptime", Decision{Verdict: Pass, ClearRetained: true}},
		{WordDeny, "$SYS/uptime", Decision{}},
		{"seal:office", "", Decision{Verdict: Seal, Group: "office"}},
	}
	for _, tt := range tests {
		d := plant()
		d.Unmatched = tt.unmatched
		table, err := d.Table()
		if err != nil {
			t.Fatal(err)
		}
		if got := table.Publish([]byte(tt.topic)); got != tt.want {
			t.Errorf("unmatched %s: Publish(%q) = %v, want %v", tt.unmatched, tt.topic, got, tt.want)
		}
		if got := table.Receive([]byte(tt.topic)); got != tt.want {
			t.Errorf("unmatched %s: Receive(%q) = %v, want %v", tt.unmatched, tt.topic, got, tt.want)
		}
	}
}

// "#" covers no topic of the broker's own (MQTT-4.7.2-1); a filter that names '$' does.
func TestTableDollarTopics(t *testing.T) {
	d := plant()
	d.Groups = d.Groups[:1]
	d.Groups[0].Topics = []string{"#"}
	table, err := d.Table()
	if err != nil {
		t.Fatal(err)
	}
	if got := table.Publish([]byte("$aws/things")); got.Verdict != Deny {
		t.Errorf("\"#\" took a '$' topic: %v", got)
	}
	d.Groups[0].Topics = []string{"#", "$aws/#"}
	if table, err = d.Table(); err != nil {
		t.Fatal(err)
	}
	if got := table.Publish([]byte("$aws/things")); got.Verdict != Seal {
		t.Errorf("\"$aws/#\" did not take its topic: %v", got)
	}
}

func TestTableAllocatesNothing(t *testing.T) {
	table, err := plant().Table()
	if err != nil {
		t.Fatal(err)
	}
	hit, miss, dollar := []byte("line/3/state"), []byte("nothing/of/ours"), []byte("$SYS/x")
	var sink Decision
	if n := testing.AllocsPerRun(200, func() {
		sink = table.Publish(hit)
		sink = table.Receive(miss)
		sink = table.Publish(dollar)
	}); n != 0 {
		t.Errorf("%v allocations for three lookups, 0 allowed", n)
	}
	_ = sink
}

func BenchmarkTablePublish(b *testing.B) {
	table, err := plant().Table()
	if err != nil {
		b.Fatal(err)
	}
	name := []byte("line/3/state")
	b.ReportAllocs()
	for b.Loop() {
		table.Publish(name)
	}
}

var now = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)

func identity(t *testing.T, caKey, caCert []byte, role crypto.Role, name string) *crypto.Identity {
	t.Helper()
	key, cert, err := crypto.IssueMember(caKey, caCert, role, name, rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	id, err := crypto.ParseIdentity(key, cert, caCert)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestSignAndVerify(t *testing.T) {
	caKey, caCert, err := crypto.NewCA("plant", rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := crypto.NewTrust("plant", caCert)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := crypto.ParseAuthority(caKey, caCert)
	if err != nil {
		t.Fatalf("the CA as an identity: %v", err)
	}
	signers := []struct {
		name string
		id   *crypto.Identity
		ok   bool
	}{
		{"authority", ca, true},
		{"operator", identity(t, caKey, caCert, crypto.RoleOperator, "op"), true},
		{"gateway", identity(t, caKey, caCert, crypto.RoleGateway, "gw1"), false},
		{"keeper", identity(t, caKey, caCert, crypto.RoleKeeper, "srv"), false},
		{"subscriber", identity(t, caKey, caCert, crypto.RoleSubscriber, "app"), false},
	}
	for _, s := range signers {
		raw, err := plant().Sign(s.id)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		got, err := Verify(trust, raw, now)
		if !s.ok {
			if err == nil {
				t.Errorf("a policy signed by a %s was accepted", s.name)
			}
			continue
		}
		if err != nil {
			t.Errorf("signed by the %s: %v", s.name, err)
			continue
		}
		if !reflect.DeepEqual(got.Document, plant()) || !bytes.Equal(got.Raw, raw) {
			t.Errorf("signed by the %s: it came back different", s.name)
		}
		raw[len(raw)/2] ^= 1
		if _, err := Verify(trust, raw, now); err == nil {
			t.Errorf("signed by the %s: a changed byte was accepted", s.name)
		}
	}
	other := plant()
	other.Fleet = "elsewhere"
	raw, err := other.Sign(ca)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(trust, raw, now); err == nil || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("a policy of another fleet: %v", err)
	}
	if _, err := new(Document).Sign(ca); err == nil {
		t.Error("an invalid policy was signed")
	}
}

const corpus = "testdata/fuzz/FuzzUnmarshal"

// FuzzUnmarshal: what is accepted is valid and encodes to the same bytes.
func FuzzUnmarshal(f *testing.F) {
	f.Add(plant().Marshal())
	options := plant()
	options.Groups[0].Pad = 64
	f.Add(options.Marshal())
	options.Groups[1].HideTopics, options.TopicKey = true, 9
	f.Add(options.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Unmarshal(b)
		if err != nil {
			return
		}
		if !bytes.Equal(d.Marshal(), b) {
			t.Errorf("accepted %x, encodes to %x", b, d.Marshal())
		}
		if _, err := d.Table(); err != nil {
			t.Errorf("accepted, but no table: %v", err)
		}
	})
}

func TestCorpusIsThere(t *testing.T) {
	for _, dir := range []string{corpus, "testdata/fuzz/FuzzParseTOML"} {
		if files, _ := filepath.Glob(dir + "/*"); len(files) < 3 {
			t.Errorf("%s holds %d files: the fuzz target would start from nothing", dir, len(files))
		}
	}
}
