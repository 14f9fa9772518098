package subscriber_test

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestDocumentListsEveryStatus holds docs/SUBSCRIBER.md to the words of the package, read from its source.
func TestDocumentListsEveryStatus(t *testing.T) {
	words := func(file, pattern string) (list []string) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(b, -1) {
			list = append(list, string(m[1]))
		}
		slices.Sort(list)
		return list
	}
	code := words("message.go", `(?m)^\tStatus\w+ +(?:Status )?= "([a-z-]+)"`)
	doc := words("../../docs/SUBSCRIBER.md", "(?m)^\\| `([a-z-]+)` \\| (?:opened|this number|a number|a retained|its key|an envelope|not an envelope|a report)")
	if len(code) < 11 || !slices.Equal(code, doc) {
		t.Errorf("the code has %q\nthe document %q", code, doc)
	}
}
