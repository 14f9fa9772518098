// Package cddl checks encoded messages against the CDDL (RFC 8610) in the specification, so
// that documents and code cannot drift apart. It knows the part of the language that
// Sealgate's specification uses: arrays with occurrences, integers, text and byte strings
// with sizes, booleans, literals, choices and names.
package cddl

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// Spec is a set of rules by name.
type Spec map[string]string

var fence = regexp.MustCompile("(?s)```cddl\n(.*?)```")

// Load reads the rules in all cddl blocks of a Markdown file.
func Load(path string) (Spec, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := Spec{}
	for _, m := range fence.FindAllStringSubmatch(string(b), -1) {
		if err := s.add(m[1]); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if len(s) == 0 {
		return nil, fmt.Errorf("%s: no cddl block", path)
	}
	return s, nil
}

var (
	comment = regexp.MustCompile(`;[^\n]*`)
	rule    = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*) += `)
)

func (s Spec) add(text string) error {
	text = comment.ReplaceAllString(text, "")
	starts := rule.FindAllStringSubmatchIndex(text, -1)
	for i, m := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		name := text[m[2]:m[3]]
		if _, twice := s[name]; twice {
			return fmt.Errorf("rule %s twice", name)
		}
		s[name] = strings.TrimSpace(text[m[1]:end])
	}
	return nil
}

// Check reports whether b is exactly one item that the rule describes.
func (s Spec) Check(name string, b []byte) error {
	body, ok := s[name]
	if !ok {
		return fmt.Errorf("no rule %s", name)
	}
	rest, err := s.match(body, b)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(rest) > 0 {
		return fmt.Errorf("%s: %d bytes too many", name, len(rest))
	}
	return nil
}

// match takes one item of the type off b.
func (s Spec) match(typ string, b []byte) ([]byte, error) {
	var errs []error
	for _, choice := range split(typ, '/') {
		rest, err := s.matchOne(choice, b)
		if err == nil {
			return rest, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (s Spec) matchOne(typ string, b []byte) ([]byte, error) {
	if body, ok := s[typ]; ok {
		rest, err := s.match(body, b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", typ, err)
		}
		return rest, nil
	}
	major, n, value, rest, err := head(b)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(typ, "[") {
		if major != 4 {
			return nil, fmt.Errorf("array expected, found major type %d", major)
		}
		return s.items(split(strings.TrimSuffix(typ[1:], "]"), ','), int(n), rest)
	}
	base, size, sized := strings.Cut(typ, " .size ")
	switch want := strings.TrimSpace(base); {
	case want == "uint" && major == 0:
	case want == "bool" && major == 7 && (n == 20 || n == 21):
	case (want == "tstr" && major == 3 || want == "bstr" && major == 2) && (!sized || within(strings.TrimSpace(size), n)):
	case strings.HasPrefix(want, `"`) && major == 3 && want == strconv.Quote(string(value)):
	case major == 0 && want == strconv.FormatUint(n, 10):
	default:
		return nil, fmt.Errorf("%s expected, found major type %d with argument %d", typ, major, n)
	}
	return rest, nil
}

var occurrence = regexp.MustCompile(`^(\d*)\*(\d*) +`)
var key = regexp.MustCompile(`^[a-z][a-z0-9-]*: +`)

// items takes n items off b that match the list.
func (s Spec) items(list []string, n int, b []byte) ([]byte, error) {
	for _, item := range list {
		least, most := 1, 1
		if m := occurrence.FindStringSubmatch(item); m != nil {
			item = item[len(m[0]):]
			least, _ = strconv.Atoi(m[1])
			if most, _ = strconv.Atoi(m[2]); m[2] == "" {
				most = n
			}
		}
		item = key.ReplaceAllString(item, "")
		count := 0
		for count < most && n > 0 {
			rest, err := s.match(item, b)
			if err != nil {
				return nil, fmt.Errorf("item %s: %w", item, err)
			}
			b, n, count = rest, n-1, count+1
		}
		if count < least {
			return nil, fmt.Errorf("item %s: %d times, %d needed", item, count, least)
		}
	}
	if n > 0 {
		return nil, fmt.Errorf("%d items too many", n)
	}
	return b, nil
}

// within reports whether n fits a size: "32" or "(1..63)".
func within(size string, n uint64) bool {
	from, to, ranged := strings.Cut(strings.Trim(size, "()"), "..")
	least, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		return false
	}
	if !ranged {
		return n == least
	}
	most, err := strconv.ParseUint(to, 10, 64)
	return err == nil && least <= n && n <= most
}

// split splits at sep outside brackets and quotes, and trims the parts.
func split(s string, sep byte) []string {
	var parts []string
	depth, quoted, from := 0, false, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '(':
			depth++
		case c == ']' || c == ')':
			depth--
		case c == sep && depth == 0:
			parts = append(parts, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	if last := strings.TrimSpace(s[from:]); last != "" {
		parts = append(parts, last)
	}
	return parts
}

// head reads one head and, of strings, the value.
func head(b []byte) (major byte, n uint64, value, rest []byte, err error) {
	if len(b) == 0 {
		return 0, 0, nil, nil, errors.New("item missing")
	}
	major, n = b[0]>>5, uint64(b[0]&0x1f)
	rest = b[1:]
	if n >= 24 && n <= 27 {
		size := 1 << (n - 24)
		if len(rest) < size {
			return 0, 0, nil, nil, errors.New("head cut off")
		}
		n = 0
		for _, c := range rest[:size] {
			n = n<<8 | uint64(c)
		}
		rest = rest[size:]
	}
	if major == 2 || major == 3 {
		if n > uint64(len(rest)) {
			return 0, 0, nil, nil, errors.New("string cut off")
		}
		value, rest = rest[:n], rest[n:]
	}
	return major, n, value, rest, nil
}
