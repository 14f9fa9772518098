package watch

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// OPERATIONS.md names every alarm, every kind of change and every key of the JSON.
func TestOperationsNamesEverything(t *testing.T) {
	b, err := os.ReadFile("../../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "\n## Looking on at a fleet\n")
	text, _, _ = strings.Cut(text, "\n## ")
	source := ""
	for _, file := range []string{"alarm.go", "picture.go"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source += string(b)
	}
	var words []string
	for _, m := range regexp.MustCompile(`(?m)^\t(?:Alarm|Change)\w+ += "([a-z-]+)"`).FindAllStringSubmatch(source, -1) {
		words = append(words, m[1])
	}
	if len(words) < 15 {
		t.Fatalf("only %q found in the source", words)
	}
	for status := range alarming {
		words = append(words, string(status))
	}
	words = append(words, AlarmSilent, AlarmGap, AlarmDropped, AlarmWithheld, AlarmCrowded)
	for _, v := range []any{Picture{}, Link{}, Group{}, Gateway{}, Member{}, Alarm{}, Change{}} {
		for i := range reflect.TypeOf(v).NumField() {
			if key, _, _ := strings.Cut(reflect.TypeOf(v).Field(i).Tag.Get("json"), ","); key != "-" {
				words = append(words, key)
			}
		}
	}
	for _, w := range words {
		if !strings.Contains(text, "`"+w+"`") {
			t.Errorf("docs/OPERATIONS.md does not name `%s`", w)
		}
	}
}
