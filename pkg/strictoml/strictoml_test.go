package strictoml

import (
	"strings"
	"testing"
)

type sample struct {
	Name  string `toml:"name"`
	Count int64  `toml:"count"`
	Table struct {
		On   bool     `toml:"on"`
		List []string `toml:"list"`
	} `toml:"table"`
	Item []struct {
		Key string `toml:"key"`
	} `toml:"item"`
}

func TestDecodeProblems(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string // one a line
	}{
		{"clean", "name = \"x\"\ncount = 3\n", nil},
		{"unknown key", "name = \"x\"\n\nnmae = \"y\"\n", []string{`f.toml:3: nmae: unknown key`}},
		{"unknown key in table", "[table]\non = true\noff = 1\n", []string{`f.toml:3: table.off: unknown key`}},
		{"unknown table, reported once", "[tabel]\non = true\nlist = []\n", []string{`f.toml:1: tabel: unknown key`}},
		{"unknown key in the second item", "[[item]]\nkey = \"a\"\n[[item]]\nkey = \"b\"\nkye = \"c\"\n", []string{`f.toml:5: item[1].kye: unknown key`}},
		{"two unknown keys", "b1 = 1\nname = \"x\"\nb2 = 2\n", []string{`f.toml:1: b1: unknown key`, `f.toml:3: b2: unknown key`}},
		{"syntax", "name = \"x\"\ncount = = 3\n", []string{`f.toml:2: count: expected value`}},
		{"type", "\n\ncount = \"three\"\n", []string{`f.toml:3: count: a whole number expected, found a string in quotes`}},
		{"type of a list", "[table]\nlist = \"a\"\n", []string{`f.toml:2: table.list: a list expected, found a string in quotes`}},
		{"twice", "name = \"x\"\nname = \"y\"\n", []string{`f.toml:2: name: Key 'name' has already been defined`}},
		{"not text", "name = \"\xff\"\n", []string{`f.toml:1: `}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v sample
			f, err := Decode("f.toml", []byte(tt.text), &v)
			if err == nil {
				err = f.Err()
			}
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(tt.want) {
				t.Fatalf("problems %q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], tt.want[i]) {
					t.Errorf("problem %q, want it to begin %q", got[i], tt.want[i])
				}
			}
		})
	}
}

func TestLinesOfKeys(t *testing.T) {
	const text = `# a comment = 1
name = "a # b = c [x]"   # trailing = comment
count = 1

[table]
list = [          # spans
  "one = 1",      # lines
  "two]",
]
on = true
long = """
on = fake
"""
after = 'x'

[[item]]
key = "a"
[[item]]
"key" = "b"
`
	lines := locate(text)
	for key, want := range map[string]int{
		"name": 2, "count": 3, "table": 5, "table.list": 6, "table.on": 10, "table.long": 11, "table.after": 14,
		"item": 16, "item[0]": 16, "item[0].key": 17, "item[1].key": 19, "on": 0, "table.one": 0, "fake": 0,
	} {
		if lines[key] != want {
			t.Errorf("line of %q is %d, want %d", key, lines[key], want)
		}
	}
}

func TestAddAndHas(t *testing.T) {
	var v sample
	f, err := Decode("f.toml", []byte("count = 1\nname = \"x\"\n"), &v)
	if err != nil {
		t.Fatal(err)
	}
	if !f.Has("name") || f.Has("table.on") {
		t.Error("Has is wrong about name or table.on")
	}
	f.Add("name", "%q is\nwrong", "x")
	f.Add("count", "too small")
	f.Add("table.on", "missing")
	want := "f.toml: table.on: missing\nf.toml:1: count: too small\nf.toml:2: name: \"x\" is wrong"
	if got := f.Err().Error(); got != want {
		t.Errorf("problems:\n%s\nwant:\n%s", got, want)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "name = 'x'", "[table]\non = true\n", "[[item]]\nkey=\"\"\"\n\"\"\"", "[[", "= =", "a.b.c = {x = [1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var v sample
		if file, err := Decode("f", []byte(s), &v); err == nil {
			file.Add("name", "x")
			_ = file.Err().Error()
		} else if err.Error() == "" {
			t.Error("an error that says nothing")
		}
	})
}
