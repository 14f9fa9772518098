// Package topic validates and matches MQTT topic names and topic filters: section 4.7
// of MQTT 3.1.1 and MQTT 5, whose rules and clause numbers are the same unless noted.
//
// A name is cut at every '/' into levels, which may be empty. In a filter "+" stands for any one
// level and "#", always last, for any number of levels, none included: "a/#" matches "a". A
// wildcard in a filter's first level matches no name that begins with '$' (MQTT-4.7.2-1).
//
// Matching takes names and filters that were validated; for others the answer
// is unspecified, but there is always one.
package topic

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// MaxLen is the longest topic name or filter in bytes, MQTT-4.7.3-3.
const MaxLen = 1<<16 - 1

// Error says why a topic name or filter is not valid.
type Error struct {
	Clause string // as "MQTT-4.7.1-1"; the number in MQTT 3.1.1 where the versions differ
	Reason string // what is wrong, in a few words without any of the input
}

// Error returns the reason with its clause.
func (e *Error) Error() string { return e.Reason + " [" + e.Clause + "]" }

var (
	errEmpty     = &Error{"MQTT-4.7.3-1", "topic is empty"}
	errLong      = &Error{"MQTT-4.7.3-3", "topic is longer than 65535 bytes"}
	errUTF8      = &Error{"MQTT-1.5.3-1", "topic is not well-formed UTF-8"}
	errNUL       = &Error{"MQTT-4.7.3-2", "topic contains U+0000"}
	errWildcard  = &Error{"MQTT-4.7.1-1", "topic name contains a wildcard"}
	errHash      = &Error{"MQTT-4.7.1-2", "'#' is not alone in the last level of the topic filter"}
	errPlus      = &Error{"MQTT-4.7.1-3", "'+' is not alone in its level of the topic filter"}
	errShareName = &Error{"MQTT-4.8.2-1", "name of the shared subscription is empty or contains a wildcard"}
	errShare     = &Error{"MQTT-4.8.2-2", "shared subscription lacks the topic filter behind its name"}
)

// ValidateName checks a topic name, as PUBLISH carries it. The error is always an [*Error].
func ValidateName(b []byte) error {
	switch {
	case len(b) == 0:
		return errEmpty
	case len(b) > MaxLen:
		return errLong
	case !utf8.Valid(b):
		return errUTF8
	case bytes.IndexByte(b, 0) >= 0:
		return errNUL
	case bytes.IndexByte(b, '+') >= 0, bytes.IndexByte(b, '#') >= 0:
		return errWildcard
	}
	return nil
}

// ValidateFilter checks a topic filter, as SUBSCRIBE carries it; of a shared subscription
// both its name and its filter. The error is always an [*Error].
func ValidateFilter(s string) error {
	switch {
	case s == "":
		return errEmpty
	case len(s) > MaxLen:
		return errLong
	case !utf8.ValidString(s):
		return errUTF8
	case strings.IndexByte(s, 0) >= 0:
		return errNUL
	}
	if shared, ok := strings.CutPrefix(s, sharePrefix); ok {
		name, filter, _ := strings.Cut(shared, "/")
		switch {
		case name == "" || strings.ContainsAny(name, "+#"):
			return errShareName
		case filter == "":
			return errShare
		}
		s = filter
	}
	return validateLevels(s)
}

// validateLevels checks that every wildcard has a level of its own, and '#' the last one.
func validateLevels(s string) error {
	for more := true; more; {
		var level string
		level, s, more = strings.Cut(s, "/")
		switch {
		case level == "#" && more, level != "#" && strings.Contains(level, "#"):
			return errHash
		case level != "+" && strings.Contains(level, "+"):
			return errPlus
		}
	}
	return nil
}

const sharePrefix = "$share/"

// ShareFilter takes the filter of a shared subscription, "$share/group/filter" (MQTT 5
// section 4.8.2), apart. For any other filter it returns ok false and f as filter.
func ShareFilter(f string) (group, filter string, ok bool) {
	shared, ok := strings.CutPrefix(f, sharePrefix)
	if !ok {
		return "", f, false
	}
	group, filter, ok = strings.Cut(shared, "/")
	if !ok || group == "" || filter == "" {
		return "", f, false
	}
	return group, filter, true
}

// Match reports whether filter matches name. A shared subscription's filter has to go
// through [ShareFilter] first. It allocates nothing.
func Match[F, N ~string | ~[]byte](filter F, name N) bool {
	if len(filter) == 0 || len(name) == 0 || name[0] == '$' && wild(filter[0]) {
		return false
	}
	f, n := 0, 0 // both at the first byte of a level
	for {
		switch {
		case f < len(filter) && filter[f] == '#':
			return true
		case f < len(filter) && filter[f] == '+':
			f++
			for n < len(name) && name[n] != '/' {
				n++
			}
		default:
			for f < len(filter) && filter[f] != '/' && n < len(name) && name[n] == filter[f] {
				f++
				n++
			}
		}
		filterEnds, nameEnds := f == len(filter), n == len(name)
		switch {
		case filterEnds || nameEnds:
			// "a/#" matches its parent "a", section 4.7.1.2.
			parent := len(filter)-f == 2 && filter[f] == '/' && filter[f+1] == '#'
			return nameEnds && (filterEnds || parent)
		case filter[f] != '/' || name[n] != '/':
			return false
		}
		f++
		n++
	}
}

func wild(c byte) bool { return c == '+' || c == '#' }

// Overlap reports whether there is a valid topic name that both filters match. Shared
// subscriptions have to go through [ShareFilter] first.
func Overlap(a, b string) bool {
	if a == "" || b == "" || wild(a[0]) && b[0] == '$' || wild(b[0]) && a[0] == '$' {
		return false
	}
	moreA, moreB := true, true
	for first := true; ; first = false {
		var levelA, levelB string
		levelA, a, moreA = strings.Cut(a, "/")
		levelB, b, moreB = strings.Cut(b, "/")
		switch {
		case levelA == "#" || levelB == "#":
			return true
		case levelA != levelB && levelA != "+" && levelB != "+":
			return false
		case moreA && moreB:
			continue
		case moreA && a != "#" || moreB && b != "#":
			return false
		}
		// The name ends here. "/#" and "+" would share the empty name only, which is none.
		return !first || levelA != "" && levelB != ""
	}
}
