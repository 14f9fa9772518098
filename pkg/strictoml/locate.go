package strictoml

import (
	"fmt"
	"strings"
)

// locate finds the line of each key. The decoder knows positions but keeps them to itself
// for keys that decode well. It is only asked about text that the decoder has accepted or
// for which the line is a help, not a promise, so it need not judge syntax: it has to
// step over strings, lists and comments.
func locate(text string) map[string]int {
	l := locator{lines: make(map[string]int), tables: make(map[string]int)}
	for n, line := range strings.Split(text, "\n") {
		l.line(n+1, line)
	}
	return l.lines
}

type locator struct {
	lines  map[string]int
	tables map[string]int // elements seen of each array of tables
	prefix string         // of the table that the line is in, with its final dot
	open   string         // closing delimiter of a multi-line string
	depth  int            // of lists that span lines
}

func (l *locator) line(n int, line string) {
	if l.open != "" || l.depth > 0 {
		l.skip(line)
		return
	}
	line = strings.TrimSpace(line)
	switch {
	case line == "" || line[0] == '#':
	case strings.HasPrefix(line, "[["):
		name := clean(before(line[2:], "]]"))
		l.prefix = fmt.Sprintf("%s[%d].", name, l.tables[name])
		l.tables[name]++
		l.set(name, n)
		l.set(strings.TrimSuffix(l.prefix, "."), n)
	case line[0] == '[':
		name := clean(before(line[1:], "]"))
		l.prefix = name + "."
		l.set(name, n)
	default:
		key, value, ok := strings.Cut(line, "=")
		if ok {
			l.set(l.prefix+clean(key), n)
			l.skip(value)
		}
	}
}

func (l *locator) set(key string, n int) {
	if l.lines[key] == 0 {
		l.lines[key] = n
	}
}

// skip walks over (part of) a value to learn whether it ends in this line.
func (l *locator) skip(s string) {
	for len(s) > 0 {
		if l.open != "" {
			i := strings.Index(s, l.open)
			if i < 0 {
				return
			}
			s, l.open = s[i+len(l.open):], ""
			continue
		}
		switch {
		case strings.HasPrefix(s, `"""`) || strings.HasPrefix(s, "'''"):
			l.open, s = s[:3], s[3:]
			continue
		case s[0] == '"' || s[0] == '\'':
			s = afterString(s)
			continue
		case s[0] == '#':
			return
		case s[0] == '[' || s[0] == '{':
			l.depth++
		case s[0] == ']' || s[0] == '}':
			l.depth = max(0, l.depth-1)
		}
		s = s[1:]
	}
}

// afterString returns what follows the one-line string that s begins with.
func afterString(s string) string {
	quote := s[0]
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quote == '"':
			i++
		case s[i] == quote:
			return s[i+1:]
		}
	}
	return ""
}

func before(s, sep string) string {
	s, _, _ = strings.Cut(s, sep)
	return s
}

// clean turns a key as written into the dotted form that problems show.
func clean(key string) string {
	parts := strings.Split(key, ".")
	for i, p := range parts {
		parts[i] = strings.Trim(strings.TrimSpace(p), `"'`)
	}
	return strings.Join(parts, ".")
}
