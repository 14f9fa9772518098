// Package spec binds documents to code: what a specification of docs/spec says of constants, tests and vectors is what the package that implements it has.
// Tests of those packages use it.
package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Text is a file as it stands.
func Text(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Constant is a row of a specification's table of constants: its name in the code, its value (a duration or a number), and what it means.
type Constant [3]any

// Constants holds the table of constants in a file to the code, both ways: the file has these rows and no others, and each exported constant of limits.go, in the
// package under test, has one.
func Constants(t *testing.T, file string, rows []Constant) {
	t.Helper()
	var want strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&want, "| %v | %s | %v |\n", r[0], value(r[1]), r[2])
	}
	if !strings.Contains(Text(t, file), "|---|---|---|\n"+want.String()+"\n") {
		t.Errorf("the table of constants in %s should read:\n%s", file, want.String())
	}
	for _, m := range regexp.MustCompile(`(?m)^\t([A-Z]\w+) +=`).FindAllStringSubmatch(Text(t, "limits.go"), -1) {
		if !strings.Contains(want.String(), "| "+m[1]+" |") {
			t.Errorf("%s of limits.go is missing in the table of constants", m[1])
		}
	}
}

// value is a constant as a specification writes it.
func value(v any) string {
	d, ok := v.(time.Duration)
	switch {
	case !ok:
		return fmt.Sprint(v)
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d%time.Second == 0:
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return fmt.Sprintf("%d ms", d/time.Millisecond)
}

// TestsExist holds that the tests a file names, which are at least so many, stand in the test files that the patterns match.
func TestsExist(t *testing.T, file string, atLeast int, patterns ...string) {
	t.Helper()
	var all strings.Builder
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no such files (%v)", pattern, err)
		}
		for _, f := range files {
			all.WriteString(Text(t, f))
		}
	}
	names := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(Text(t, file), -1)
	if len(names) < atLeast {
		t.Fatalf("%s names %d tests only", file, len(names))
	}
	for _, name := range names {
		if !strings.Contains(all.String(), "func "+name+"(") {
			t.Errorf("%s names %s, which does not exist", file, name)
		}
	}
}

// HasSection tells whether a text has a section of that number, as a heading: "### 4.2 …" or "## 4. …".
func HasSection(text, number string) bool {
	return regexp.MustCompile(`(?m)^##+ ` + regexp.QuoteMeta(number) + `\.? `).MatchString(text)
}
