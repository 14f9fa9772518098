package chaos

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sealgate/test/lab"
)

var (
	ruleLabel = regexp.MustCompile(`\bF[0-9]+\b`)
	ruleRow   = regexp.MustCompile(`(?m)^\| (F[0-9]+)\b.*\|$`)
	testName  = regexp.MustCompile(`\bTest[A-Z]\w+`)
)

// Each attack that docs/spec labels has a row in a table there that names its tests, which exist; the test prints them with the scenarios of
// the chaos table. A label that no specification knows is refused.
func TestEveryRuleIsPutToTheTest(t *testing.T) {
	held := make(map[string][]string)
	all := sources(t, "_test.go")
	files, err := filepath.Glob(filepath.Join(lab.Root(t), "docs/spec/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, label := range ruleLabel.FindAllString(string(b), -1) {
			if _, known := held[label]; !known {
				held[label] = nil // the loops below are to fill it
			}
		}
		for _, row := range ruleRow.FindAllStringSubmatch(string(b), -1) {
			names := testName.FindAllString(row[0], -1)
			if len(names) == 0 {
				t.Errorf("%s: no test of %s in %s", filepath.Base(file), row[1], row[0])
			}
			for _, name := range names {
				if !strings.Contains(all, "func "+name+"(") {
					t.Errorf("%s: %s does not exist", filepath.Base(file), name)
				}
			}
			held[row[1]] = append(held[row[1]], names...)
		}
	}
	for _, s := range scenarios() {
		for _, label := range strings.Fields(s.rules) {
			if _, known := held[label]; !known {
				t.Errorf("%s: docs/spec labels no attack %s", s.name, label)
			}
			held[label] = append(held[label], `"`+s.name+`"`)
		}
	}
	if len(held) < 10 {
		t.Fatalf("only %d labels found", len(held))
	}
	fmt.Printf("\n%-5s | %s\n%s\n", "rule", "tests, scenarios", strings.Repeat("-", 180))
	for _, label := range slices.SortedFunc(maps.Keys(held), func(a, b string) int { return len(a)*8 - len(b)*8 + strings.Compare(a, b) }) {
		if by := held[label]; !slices.ContainsFunc(by, testName.MatchString) {
			t.Errorf("no table of docs/spec names a test of %s", label)
		} else {
			fmt.Printf("%-5s | %s\n", label, strings.Join(by, ", "))
		}
	}
}

// sources is the text of all files of the tree with that ending.
func sources(t *testing.T, ending string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(lab.Root(t), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ending) {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
