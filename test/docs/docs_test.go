// Package docs holds the documents to the tree: their links lead somewhere, their configurations are accepted, and
// their commands are run as they are written, by a shell, with the programs that were built.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"sealgate/pkg/config"
	"sealgate/pkg/policy"
	"sealgate/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// documents returns every Markdown file of the tree, by its path from the top, with its text.
func documents(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	root := lab.Root(t)
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/spec/*.md", "test/*/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			found[strings.TrimPrefix(file, root+"/")] = read(t, file)
		}
	}
	if len(found) < 10 {
		t.Fatalf("only %d documents found below %s", len(found), root)
	}
	return found
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fenced returns the blocks of a document that are marked as in a language.
func fenced(text, language string) (blocks []string) {
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	mention = regexp.MustCompile("`(docs/[A-Za-z/]+\\.md)`")
)

// anchor is what a heading is called in a link.
func anchor(title string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, title)
}

// dead returns the links of a document that lead nowhere.
func dead(root, file, text string) (list []string) {
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		path, fragment, _ := strings.Cut(m[1], "#")
		if strings.Contains(path, "://") {
			continue
		}
		target := filepath.Join(root, file)
		if path != "" {
			target = filepath.Join(root, filepath.Dir(file), path)
		}
		b, err := os.ReadFile(target)
		if _, statErr := os.Stat(target); statErr != nil || fragment != "" && (err != nil || !hasAnchor(string(b), fragment)) {
			list = append(list, m[1])
		}
	}
	for _, m := range mention.FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			list = append(list, m[1])
		}
	}
	return list
}

func hasAnchor(text, fragment string) bool {
	return slices.ContainsFunc(heading.FindAllStringSubmatch(text, -1), func(m []string) bool { return anchor(m[1]) == fragment })
}

func TestLinksLeadSomewhere(t *testing.T) {
	root := lab.Root(t)
	for file, text := range documents(t) {
		for _, l := range dead(root, file, text) {
			t.Errorf("%s: %s leads nowhere", file, l)
		}
	}
	if got := dead(root, "README.md", "[a](nowhere.md) [b](README.md#nothing-of-that-name) `docs/NOWHERE.md` [c](docs/DECISIONS.md)"); len(got) != 3 {
		t.Errorf("of three dead links %q were found: this test cannot fail", got)
	}
}

// Every document can be reached from the README.
func TestEveryDocumentIsLinked(t *testing.T) {
	all := documents(t)
	for file := range all {
		if strings.HasPrefix(file, "docs/") && !strings.Contains(all["README.md"], "]("+file+")") {
			t.Errorf("README.md does not link %s", file)
		}
	}
}

// The operator finds a line of controld's log under the words that it has there: each event in the table is in the source.
func TestEventsAreWordedAsInTheLog(t *testing.T) {
	root := lab.Root(t)
	_, text, _ := strings.Cut(read(t, filepath.Join(root, "docs/OPERATIONS.md")), "| event | meaning | do |\n")
	text, _, _ = strings.Cut(text, "\n\n")
	files, err := filepath.Glob(filepath.Join(root, "pkg/control/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			source.WriteString(read(t, file))
		}
	}
	n := 0
	for line := range strings.Lines(text) {
		for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			n++
			if words := strings.TrimSuffix(m[1], " for"); !strings.Contains(source.String(), words) {
				t.Errorf("docs/OPERATIONS.md explains %q, which pkg/control never says", m[1])
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d events found", n)
	}
}

// goDocument is a mention of a document in a comment.
var goDocument = regexp.MustCompile(`docs/[A-Za-z/]+\.md`)

// Comments of the code name documents that there are.
func TestDocumentsNamedInCodeExist(t *testing.T) {
	root, n := lab.Root(t), 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasPrefix(path, filepath.Join(root, "test/docs/")) {
			return err
		}
		for _, name := range goDocument.FindAllString(read(t, path), -1) {
			n++
			if _, err := os.Stat(filepath.Join(root, name)); err != nil {
				t.Errorf("%s mentions %s, which does not exist", path, name)
			}
		}
		return nil
	})
	if err != nil || n < 5 {
		t.Errorf("%d mentions found, %v", n, err)
	}
}

// Each target that a document tells to make is in the Makefile.
func TestMakeTargetsExist(t *testing.T) {
	makefile := read(t, filepath.Join(lab.Root(t), "Makefile"))
	n := 0
	for file, text := range documents(t) {
		for _, m := range regexp.MustCompile("(?m)(?:`|^)make ([a-z-]+)").FindAllStringSubmatch(text, -1) {
			n++
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s: there is no target %q in the Makefile", file, m[1])
			}
		}
	}
	if n < 5 {
		t.Errorf("only %d mentions of make found", n)
	}
}

// accept parses a block of TOML as the file that it is: a fleet's policy, or the configuration of a gateway or of a keeper
// that runs alone.
func accept(file, block string) error {
	if strings.Contains(block, "[[group]]") {
		_, err := policy.ParseTOML([]byte(block))
		return err
	}
	roles := []config.Role{config.Controller}
	if strings.Contains(block, "[steer]") {
		roles = append(roles, config.Gateway)
	}
	_, err := config.Parse(file, []byte(block), roles...)
	return err
}

// Every configuration shown is one that the programs take.
func TestConfigurationsAreAccepted(t *testing.T) {
	n := 0
	for file, text := range documents(t) {
		for _, block := range fenced(text, "toml") {
			n++
			if err := accept(file, block); err != nil {
				t.Errorf("%s: %v\n%s", file, err, block)
			}
		}
	}
	if n < 2 {
		t.Errorf("only %d configurations found", n)
	}
	if accept("-", "fleet = \"x\"\nflavour = 1\n[steer]\nmode = \"tc\"\n") == nil || accept("-", "[[group]]\nflavour = 1\n") == nil {
		t.Error("an unknown key is accepted: this test cannot fail")
	}
}

// A lock file of npm holds hashes of packages, and must not say where to get them: that is each machine's own configuration.
func TestLockFilesNameNoHost(t *testing.T) {
	const file = "test/interop/clients/package-lock.json"
	for n, line := range strings.Split(read(t, filepath.Join("..", "..", file)), "\n") {
		if strings.Contains(line, "://") {
			t.Errorf("%s:%d: %s", file, n+1, strings.TrimSpace(line))
		}
	}
}

// Each statement of the specification of MQTT names the tests that hold it, and they exist.
func TestStatementsNameTheirTests(t *testing.T) {
	root := lab.Root(t)
	b, err := os.ReadFile(filepath.Join(root, "docs/spec/mqtt.md"))
	if err != nil {
		t.Fatal(err)
	}
	exists := map[string]bool{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(code, -1) {
			exists[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	for _, m := range name.FindAllStringSubmatch(string(b), -1) {
		if !exists[m[1]] {
			t.Errorf("docs/spec/mqtt.md names %s, which does not exist", m[1])
		}
	}
	statements := regexp.MustCompile(`(?m)^\d+\. `).Split(string(b), -1)[1:]
	for _, s := range statements {
		s, _, _ = strings.Cut(s, "\n\n")
		if !name.MatchString(s) {
			t.Errorf("no test is named that holds: %.80s…", s)
		}
	}
	if len(statements) < 20 {
		t.Errorf("only %d statements found", len(statements))
	}
}
