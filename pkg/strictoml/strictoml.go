// Package strictoml reads TOML files that people write by hand, and finds everything that
// is wrong with one, not only the first thing. A key that the destination does not know
// is a problem, not a comment: a misspelt key must not silently leave a default in force.
// Every problem names the file, the line and the key.
package strictoml

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Problem is one defect of a file.
type Problem struct {
	File string // as given to Decode
	Line int    // from 1; 0 if the key is not in the file
	Key  string // dotted, elements of arrays of tables by index: group[1].topics
	Text string // what is wrong, and what is allowed
}

// Error is the problem in one line: file:line: key: text.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(strings.ReplaceAll(p.Text, "\n", " "))
	return b.String()
}

// Problems are all defects of a file, by line. As an error they read one a line.
type Problems []Problem

// Error joins the problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].Error()
	}
	return strings.Join(lines, "\n")
}

// File is a decoded file: it knows where its keys are and collects what is wrong.
type File struct {
	name     string
	lines    map[string]int
	problems Problems
}

// Decode decodes b into v, a pointer to a struct with toml tags. Unknown keys become problems
// of the returned File. The error is for a file that cannot be decoded at all: bad
// syntax or a value of the wrong type, always a [Problems] with the line.
func Decode(name string, b []byte, v any) (*File, error) {
	f := &File{name: name, lines: locate(string(b))}
	md, err := toml.Decode(string(b), v)
	if err != nil {
		return nil, Problems{f.syntax(err)}
	}
	seen := make(map[string]bool)
	for _, k := range md.Undecoded() {
		key := strings.Join(k, ".")
		// A table that is unknown as a whole is reported once, by its own name.
		if parent := strings.Join(k[:len(k)-1], "."); seen[key] || seen[parent] {
			seen[key] = true
			continue
		}
		seen[key] = true
		at := f.find(key)
		f.problems = append(f.problems, Problem{name, f.lines[at], at, "unknown key: it would have no effect; correct or remove it"})
	}
	return f, nil
}

func (f *File) syntax(err error) Problem {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return Problem{f.name, parse.Position.Line, parse.LastKey, friendly(parse.Message)}
	}
	return f.typeError(strings.TrimPrefix(err.Error(), "toml: "))
}

// typeError takes apart what the decoder reports about a value of a wrong type, as text only:
// line 3 (last key "count"): incompatible types: ...
func (f *File) typeError(text string) Problem {
	p := Problem{File: f.name, Text: friendly(text)}
	var key string
	if n, _ := fmt.Sscanf(text, "line %d (last key %q):", &p.Line, &key); n == 2 {
		_, message, _ := strings.Cut(text, "): ")
		p.Key, p.Text = key, friendly(message)
	}
	return p
}

var kinds = map[string]string{
	"int64": "a whole number", "integer": "a whole number", "uint16": "a whole number", "uint64": "a whole number", "int": "a whole number",
	"string": "a string in quotes", "bool": "true or false", "boolean": "true or false", "slice": "a list", "[]any": "a list", "[]interface": "a list",
	"float64": "a number with a fraction", "float": "a number with a fraction",
	"map[string]any": "a table", "map[string]interface": "a table", "struct": "a table",
}

// friendly rewords what the decoder says about Go types, which no operator should have to know.
func friendly(message string) string {
	rest, ok := strings.CutPrefix(message, "incompatible types: TOML value has type ")
	found, wanted, ok2 := strings.Cut(rest, "; destination has type ")
	if !ok || !ok2 {
		return message
	}
	kind := func(s string) string { return cmp.Or(kinds[strings.Trim(s, "{}")], s) }
	return fmt.Sprintf("%s expected, found %s", kind(wanted), kind(found))
}

// Add records a problem with the value at key.
func (f *File) Add(key, format string, args ...any) {
	f.problems = append(f.problems, Problem{f.name, f.lines[key], key, fmt.Sprintf(format, args...)})
}

// Has reports whether the file sets key.
func (f *File) Has(key string) bool { return f.lines[key] > 0 }

// Err is all that is wrong with the file, by line, as a [Problems]; nil if nothing is.
func (f *File) Err() error {
	if len(f.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(f.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return f.problems
}

// find returns the first key in the file that is key but for the indexes of its tables.
func (f *File) find(key string) string {
	found := key
	for at, line := range f.lines {
		if withoutIndexes(at) == key && (f.lines[found] == 0 || line < f.lines[found]) {
			found = at
		}
	}
	return found
}

// withoutIndexes turns group[1].topics into group.topics.
func withoutIndexes(key string) string {
	for {
		before, rest, ok := strings.Cut(key, "[")
		_, after, ok2 := strings.Cut(rest, "]")
		if !ok || !ok2 {
			return key
		}
		key = before + after
	}
}
