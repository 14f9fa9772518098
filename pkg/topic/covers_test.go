package topic

import "testing"

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		filter, other string
		want          bool
	}{
		{"#", "a/b", true}, {"#", "#", true}, {"#", "+/a", true}, {"#", "$SYS/x", false}, {"$SYS/#", "$SYS/x", true},
		{"a/#", "a/b/#", true}, {"a/#", "a/+", true}, {"a/#", "a", true}, {"a/#", "b", false}, {"a/#", "#", false},
		{"a/+", "a/b", true}, {"a/+", "a/+", true}, {"a/+", "a/#", false}, {"a/+", "a", false}, {"a/+", "a/b/c", false},
		{"+", "$SYS", false}, {"+/a", "$SYS/a", false}, {"a/+", "a/$b", true}, {"a/b", "a/b", true}, {"a/b", "a/+", false}, {"a", "a/b", false},
	} {
		if got := Covers(c.filter, c.other); got != c.want {
			t.Errorf("Covers(%q, %q) = %v", c.filter, c.other, got)
		}
	}
}

// A filter that covers another one matches whatever that matches.
func FuzzCovers(f *testing.F) {
	f.Add("a/#", "a/+", "a/b")
	f.Add("#", "$a", "$a")
	f.Add("+/b", "a/b", "a/b")
	f.Fuzz(func(t *testing.T, filter, other, name string) {
		if ValidateFilter(filter) != nil || ValidateFilter(other) != nil || ValidateName([]byte(name)) != nil {
			return
		}
		if Covers(filter, other) && Match(other, name) && !Match(filter, name) {
			t.Errorf("%q covers %q, which matches %q", filter, other, name)
		}
	})
}
