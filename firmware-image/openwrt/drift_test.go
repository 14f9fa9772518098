package openwrt

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// unrendered are keys of sealgate.toml that UCI does not have, and why.
var unrendered = map[string]string{
	"main keylink": "always /var/run/sealgate/link/keylink.sock: init scripts and tools of the package rely on it",
	"main user":    "sealgate_body writes it, for it has a default here",
}

// kinds are what the renderer may make of a Go type of the file.
var kinds = map[string][]string{
	"string": {"text"}, "stringOrNumber": {"text"}, "bool": {"bool"}, "int64": {"number"}, "[]string": {"texts"}, "stringOrList": {"texts"}, "[]int64": {"numbers", "hexes"},
}

// keysInCode lists the keys of sealgate.toml as pkg/config decodes them, "SECTION KEY" to the Go type.
func keysInCode(t *testing.T) map[string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../../pkg/config/file.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	structs := map[string]*ast.StructType{}
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok {
			if s, ok := spec.Type.(*ast.StructType); ok {
				structs[spec.Name.Name] = s
			}
		}
		return true
	})
	keys := map[string]string{}
	var add func(section string, s *ast.StructType)
	add = func(section string, s *ast.StructType) {
		for _, field := range s.Fields.List {
			tag, err := strconv.Unquote(field.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			key, kind := reflect.StructTag(tag).Get("toml"), typeName(field.Type)
			if sub := structs[kind]; sub != nil {
				add(key, sub)
			} else {
				keys[section+" "+key] = kind
			}
		}
	}
	add("main", structs["file"])
	return keys
}

func typeName(e ast.Expr) string {
	if list, ok := e.(*ast.ArrayType); ok {
		return "[]" + typeName(list.Elt)
	}
	return e.(*ast.Ident).Name
}

// Whatever sealgate.toml may say, UCI may, and nothing else; in the right kind, and with its section in the configuration that is installed.
func TestRendererKnowsEveryKey(t *testing.T) {
	script := read(t, "sealgate/files/usr/lib/sealgate/functions.sh")
	_, table, _ := strings.Cut(script, "SEALGATE_KEYS='\n")
	table, _, _ = strings.Cut(table, "'")
	rendered := map[string]string{}
	for line := range strings.Lines(table) {
		words := strings.Fields(line)
		if len(words) != 3 {
			t.Fatalf("SEALGATE_KEYS: line %q", line)
		}
		rendered[words[0]+" "+words[1]] = words[2]
	}
	keys := keysInCode(t)
	if len(keys) < 40 {
		t.Fatalf("only %d keys found", len(keys))
	}
	installed := read(t, "sealgate/files/etc/config/sealgate")
	for key, kind := range keys {
		if reason := unrendered[key]; reason != "" {
			continue
		}
		if !slices.Contains(kinds[kind], rendered[key]) {
			t.Errorf("%s is %s in pkg/config and %q in SEALGATE_KEYS, want one of %v", key, kind, rendered[key], kinds[kind])
		}
		if section, _, _ := strings.Cut(key, " "); !strings.Contains(installed, "\nconfig "+section+" '"+section+"'\n") && section != "main" {
			t.Errorf("section %s is not in the configuration that is installed", section)
		}
	}
	for key := range rendered {
		if keys[key] == "" {
			t.Errorf("%s of SEALGATE_KEYS is no key of pkg/config", key)
		}
	}
}

// What the steering may find missing, by its documentation or its own words, the package brings along, and no other kernel module.
func TestDependsOnEveryModule(t *testing.T) {
	form := regexp.MustCompile(`kmod-[a-z0-9-]*[a-z0-9]`)
	named := map[string]bool{}
	collect := func(name string) {
		for _, module := range form.FindAllString(read(t, name), -1) {
			named[module] = true
		}
	}
	collect("../../docs/STEERING.md")
	err := fs.WalkDir(os.DirFS("../../pkg/steer"), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".go") {
			collect(filepath.Join("../../pkg/steer", name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	depends := form.FindAllString(field(read(t, "sealgate/control"), "Depends"), -1)
	slices.Sort(depends)
	if got := slices.Sorted(maps.Keys(named)); !slices.Equal(got, depends) {
		t.Errorf("named are %v\nthe package depends on %v", got, depends)
	}
}
