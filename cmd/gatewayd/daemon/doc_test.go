package daemon_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sealgate/pkg/control"
	"sealgate/pkg/gateway"
)

func operations(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// undocumented returns the names in a page of metrics, and the values of their labels
// direction, verdict, reason, type and result, that the documentation does not mention.
func undocumented(doc, page string) []string {
	var missing []string
	for line := range strings.Lines(page) {
		name := strings.FieldsFunc(line, func(r rune) bool { return r == '{' || r == ' ' })[0]
		name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		words := []string{name}
		for _, m := range regexp.MustCompile(`(?:verdict|reason|type|result)="([^"]+)"`).FindAllStringSubmatch(line, -1) {
			words = append(words, m[1])
		}
		for _, w := range words {
			if !regexp.MustCompile("`"+regexp.QuoteMeta(w)+"[`{]").MatchString(doc) && !slices.Contains(missing, w) {
				missing = append(missing, w)
			}
		}
	}
	return missing
}

func TestDocumentationNamesEveryMetric(t *testing.T) {
	doc := operations(t)
	var page bytes.Buffer
	g := gateway.New(gateway.Config{})
	defer g.Close()
	g.Metrics().WritePrometheus(&page)
	io.WriteString(&page, "sealgate_controld_connected 1\n")
	for _, k := range []control.Kind{control.KindHello, control.KindGrant, control.KindEpoch, control.KindConfirm, control.KindPolicy, control.KindUnknown} {
		for _, r := range []control.Result{control.ResultSent, control.ResultAccepted, control.ResultRefused, control.ResultIgnored, control.ResultDeferred} {
			io.WriteString(&page, `sealgate_control_messages_total{type="`+string(k)+`",result="`+string(r)+"\"} 0\n")
		}
	}
	if missing := undocumented(doc, page.String()); len(missing) > 0 {
		t.Errorf("docs/OPERATIONS.md does not mention %q", missing)
	}
	if missing := undocumented(doc, "sealgate_nothing{reason=\"nowhere\"} 0\n"); len(missing) != 2 {
		t.Error("this test cannot fail")
	}
}

// Verdicts are listed by direction, and each that a message from the broker can be refused for has its line among the alarms.
func TestDocumentationNamesEveryVerdict(t *testing.T) {
	doc := operations(t)
	_, list, _ := strings.Cut(doc, "\nVerdicts up: ")
	list, _, _ = strings.Cut(list, "\n\n")
	up, down, _ := strings.Cut(list, "Verdicts down: ")
	var page bytes.Buffer
	g := gateway.New(gateway.Config{})
	defer g.Close()
	g.Metrics().WritePrometheus(&page)
	found := regexp.MustCompile(`sealgate_messages_total\{direction="(\w+)",verdict="([^"]+)"`).FindAllStringSubmatch(page.String(), -1)
	if len(found) < 20 {
		t.Fatalf("only %d verdicts found", len(found))
	}
	for _, m := range found {
		where := map[string]string{"up": up, "down": down}[m[1]]
		if !strings.Contains(where, "`"+m[2]+"`") {
			t.Errorf("docs/OPERATIONS.md does not list verdict %s of direction %s", m[2], m[1])
		}
		if m[1] == "down" && m[2] != "open" && m[2] != "pass" && m[2] != "clear" && !strings.Contains(doc, "`refused "+m[2]+"`") {
			t.Errorf("docs/OPERATIONS.md does not explain the line `refused %s`", m[2])
		}
	}
}

// Lines of the log have a reason that the documentation explains.
func TestDocumentationNamesEveryLine(t *testing.T) {
	doc := operations(t)
	files, err := filepath.Glob("../../../pkg/gateway/*.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`report\.warn\("([^"]+)",`).FindAllSubmatch(b, -1) {
			if lines++; !strings.Contains(doc, "`"+string(m[1])+"`") {
				t.Errorf("docs/OPERATIONS.md does not explain reason %q", m[1])
			}
		}
	}
	if lines < 3 {
		t.Fatalf("only %d lines found", lines)
	}
}

// Reasons that are counted only when they occur are read from the source.
func TestDocumentationNamesEveryReason(t *testing.T) {
	doc := operations(t)
	for file, pattern := range map[string]string{
		"../../../pkg/gateway/refusal.go":       `refused\w+ += "([^"]+)"`,
		"../../../pkg/gateway/uplink/errors.go": `Reason\w+ += "([^"]+)"`,
	} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindAllSubmatch(b, -1)
		if len(found) < 8 {
			t.Fatalf("%s: only %d reasons found", file, len(found))
		}
		for _, m := range found {
			if !strings.Contains(doc, "`"+string(m[1])+"`") {
				t.Errorf("docs/OPERATIONS.md does not mention reason %s", m[1])
			}
		}
	}
}
