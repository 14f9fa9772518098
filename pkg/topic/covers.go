package topic

import "strings"

// Covers reports whether filter matches every topic name that other, a filter as well, matches. Shared subscriptions have
// to go through [ShareFilter] first.
func Covers(filter, other string) bool {
	f, o := strings.Split(filter, "/"), strings.Split(other, "/")
	for i, level := range f {
		switch {
		case level == "#":
			return i > 0 || !strings.HasPrefix(other, "$")
		case i >= len(o) || o[i] == "#":
			return false
		case level != o[i] && (level != "+" || i == 0 && strings.HasPrefix(o[i], "$")):
			return false
		}
	}
	return len(f) == len(o)
}
