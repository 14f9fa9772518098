package docs

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sealgate/pkg/checkpoint"
	"sealgate/test/lab"
)

// section returns the part of a document below a heading, up to the next heading of the same or a higher level.
func section(t *testing.T, text, title string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^(#+) ` + regexp.QuoteMeta(title) + `$`).FindStringSubmatchIndex(text)
	if m == nil {
		t.Fatalf("docs/OPERATIONS.md has no section %q", title)
	}
	level := m[3] - m[2]
	rest := text[m[1]:]
	if next := regexp.MustCompile(`(?m)^#{1,` + string(rune('0'+level)) + `} `).FindStringIndex(rest); next != nil {
		rest = rest[:next[0]]
	}
	return rest
}

// alarms are the rows of a section's tables whose last column says what to do: what is shown, what it means, what to do.
func alarms(t *testing.T, text, title string) (rows [][3]string) {
	t.Helper()
	for _, table := range regexp.MustCompile(`(?m)(?:^\|.*\|\n)+`).FindAllString(section(t, text, title), -1) {
		lines := strings.Split(strings.TrimSpace(table), "\n")
		if !strings.HasSuffix(lines[0], "| do |") {
			continue
		}
		for _, line := range lines[2:] {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			if len(cells) != 3 || slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) == "" }) {
				t.Errorf("docs/OPERATIONS.md, %s: %q does not say what is shown, what it means and what to do", title, line)
				continue
			}
			rows = append(rows, [3]string(cells))
		}
	}
	if len(rows) == 0 {
		t.Fatalf("docs/OPERATIONS.md, %s, has no table that says what to do", title)
	}
	return rows
}

// explains reports whether a row begins with a word, as it is marked.
func explains(rows [][3]string, marked string) bool {
	return slices.ContainsFunc(rows, func(r [3]string) bool { return strings.Contains(r[0], marked) })
}

// words finds the first group of a pattern in a file of the tree.
func words(t *testing.T, file, pattern string, least int) (found []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, filepath.Join(lab.Root(t), file)), -1) {
		found = append(found, strings.TrimSpace(m[1]))
	}
	if len(found) < least {
		t.Fatalf("%s: only %q found", file, found)
	}
	return found
}

// Whatever `sealctl status`, `sealctl watch`, the page of LuCI, the log and the metrics can show as an alarm has a row in the operator's guide that says what it means
// and what to do.
func TestEveryAlarmSaysWhatToDo(t *testing.T) {
	text := read(t, filepath.Join(lab.Root(t), "docs/OPERATIONS.md"))
	status := alarms(t, text, "In sealctl status and LuCI")
	const statusGo, troubleGo = "cmd/sealctl/cli/status.go", "cmd/sealctl/cli/trouble.go"
	shown := slices.Concat(words(t, statusGo, `word\([^"]*"[^"]*", "([A-Z ]+)"\)`, 3), words(t, troubleGo, `word\([^"]*"[^"]*", "([A-Z ]+)"\)`, 1), words(t, statusGo, `"( [A-Z]+)"`, 1))
	for what := checkpoint.What(1); what.String() != "unknown"; what++ {
		if what.Alarm() {
			shown = append(shown, what.String())
		}
	}
	for _, w := range shown {
		if !explains(status, "`"+w+"`") {
			t.Errorf("docs/OPERATIONS.md does not explain `%s`, which `sealctl status` shows", w)
		}
	}
	const page = "firmware-image/openwrt/luci-app-sealgate/htdocs/luci-static/resources/view/sealgate/status.js"
	for _, w := range words(t, page, `(?:push\(|return )\[ _\('([^']+)'\)`, 9) {
		if !explains(status, "*"+strings.ReplaceAll(w, "%d", "3")+"*") {
			t.Errorf("docs/OPERATIONS.md does not explain *%s*, which the page Status shows", w)
		}
	}
	for title, source := range map[string][]string{
		"When the broker cannot be reached": words(t, "pkg/gateway/uplink/errors.go", `Reason\w+ += "([^"]+)"`, 8),
		"From gatewayd":                     words(t, "pkg/gateway/refusal.go", `refused\w+ += "([^"]+)"`, 8),
		"Looking on at a fleet":             words(t, "cmd/sealctl/watch/alarm.go", `(?m)^\tAlarm\w+ += "([a-z-]+)"`, 8),
	} {
		rows := alarms(t, text, title)
		for _, w := range source {
			if !explains(rows, "`"+w+"`") {
				t.Errorf("docs/OPERATIONS.md, %s, does not explain `%s`", title, w)
			}
		}
	}
	alarms(t, text, "What to watch")
	alarms(t, text, "From controld") // TestEventsAreWordedAsInTheLog has its words
	if explains(status, "`nothing`") || !explains(status, "`STALE`") {
		t.Error("this test cannot fail")
	}
}
