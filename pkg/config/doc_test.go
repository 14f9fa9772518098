package config

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// keysOf lists the keys of the file, dotted, with their defaults.
func keysOf(v reflect.Value, prefix string) map[string]any {
	keys := make(map[string]any)
	for i := range v.NumField() {
		name := prefix + v.Type().Field(i).Tag.Get("toml")
		if f := v.Field(i); f.Kind() == reflect.Struct {
			for k, d := range keysOf(f, name+".") {
				keys[k] = d
			}
		} else {
			keys[name] = f.Interface()
		}
	}
	return keys
}

// Every key is in the documentation, and beside it its default.
func TestDocumentationNamesEveryKey(t *testing.T) {
	b, err := os.ReadFile("../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "\n## Configuration")
	text, _, _ = strings.Cut(text, "\n## ")
	rows := make(map[string]string)
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, key := range strings.Split(cells[1], ",") {
			rows[strings.Trim(key, " `")] = cells[2]
		}
	}
	keys := keysOf(reflect.ValueOf(defaults()), "")
	if len(keys) < 25 {
		t.Fatalf("only %d keys found", len(keys))
	}
	for key, def := range keys {
		row, there := rows[key]
		if !there {
			t.Errorf("%s is not in the table of docs/OPERATIONS.md", key)
			continue
		}
		if key == "fleet" || key == "identity" || key == "uplink.port" || strings.HasPrefix(key, "control.") && reflect.ValueOf(def).IsZero() {
			continue // required, or made of other keys
		}
		if want := shown(def); !strings.Contains(row, want) {
			t.Errorf("%s: documented default %s, in the code %s", key, strings.TrimSpace(row), want)
		}
	}
}

// shown is a default as TOML shows it.
func shown(v any) string {
	switch v := v.(type) {
	case string, stringOrNumber:
		return fmt.Sprintf("%q", v)
	case stringOrList:
		return `""`
	case []int64:
		return strings.ReplaceAll(fmt.Sprint(v), " ", ", ")
	case []string:
		return "[" + strings.Join(v, ", ") + "]"
	}
	return fmt.Sprint(v)
}
