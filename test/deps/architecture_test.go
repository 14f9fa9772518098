package deps

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// table returns the cells of the rows of the table in a section of docs/ARCHITECTURE.md.
func table(t *testing.T, section string) (rows [][]string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| ") {
			rows = append(rows, strings.Split(strings.Trim(line, "| \n"), " | "))
		}
	}
	if len(rows) < 5 {
		t.Fatalf("docs/ARCHITECTURE.md: section %q has a table of %d rows only", section, len(rows))
	}
	return rows[1:] // without its head
}

// quoted returns what stands in backquotes.
func quoted(cell string) (words []string) {
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		words = append(words, strings.TrimSuffix(m[1], "/"))
	}
	return words
}

// unlike compares two lists as sets.
func unlike(t *testing.T, what string, documented, real []string) {
	t.Helper()
	for _, w := range real {
		if !slices.Contains(documented, w) {
			t.Errorf("%s %s is not in docs/ARCHITECTURE.md", what, w)
		}
	}
	for _, w := range documented {
		if !slices.Contains(real, w) {
			t.Errorf("docs/ARCHITECTURE.md has %s %s, which does not exist", what, w)
		}
	}
}

// The folders of the document are those of the tree: each package directory below pkg, each command, and the top folders.
func TestDocumentedFoldersExist(t *testing.T) {
	var documented []string
	for _, row := range table(t, "Folders") {
		documented = append(documented, quoted(row[0])...)
	}
	real := []string{"bpf", "docs", "firmware-image", "test"}
	for _, p := range listPackages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		switch part := strings.Split(path, "/"); {
		case part[0] == "pkg", part[0] == "cmd" && len(part) == 2:
			real = append(real, path)
		}
	}
	unlike(t, "folder", documented, real)
	for _, dir := range documented {
		if _, err := os.Stat(filepath.Join("../..", dir)); err != nil {
			t.Error(err)
		}
	}
}

// requires returns the direct requirements of go.mod.
func requires(t *testing.T) (paths []string) {
	t.Helper()
	b, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(string(b), -1) {
		paths = append(paths, m[1])
	}
	return paths
}

// The dependencies of the document are those of go.mod, and each is imported.
func TestDocumentedDependenciesAreUsed(t *testing.T) {
	var documented []string
	for _, row := range table(t, "Dependencies") {
		documented = append(documented, quoted(row[0])...)
	}
	real := requires(t)
	if len(real) < 5 {
		t.Fatalf("go.mod: only %d requirements found", len(real))
	}
	unlike(t, "module", documented, real)
	imported := importedAnywhere(t)
	for _, path := range real {
		if !slices.ContainsFunc(imported, func(i string) bool { return under(i, path) }) {
			t.Errorf("go.mod requires %s, which nothing imports", path)
		}
	}
}

// importedAnywhere returns what the module's packages and their tests import.
func importedAnywhere(t *testing.T) (all []string) {
	t.Helper()
	for _, p := range listPackages(t) {
		all = slices.Concat(all, p.Imports, p.TestImports, p.XTestImports)
	}
	return all
}
