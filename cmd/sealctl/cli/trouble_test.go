package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// table is what `sealctl status` prints of a gatewayd whose checkpoints are these.
func table(t *testing.T, checkpoints string) string {
	t.Helper()
	r := statusReport{Gatewayd: json.RawMessage(`{"gateway":"gw1","traffic":{"checkpoints":` + checkpoints + `}}`)}
	if !json.Valid(r.Gatewayd) {
		t.Fatalf("not JSON: %s", r.Gatewayd)
	}
	var out bytes.Buffer
	r.table(&out)
	return out.String()
}

func TestTroubleTable(t *testing.T) {
	const event = `{"event":"%s","seconds_ago":%d,"group":"default","gateway":"%s","topic":"%s","stream":"%s","from":%d,"to":%d}`
	var recent []string
	add := func(what string, ago int, gateway, topic, stream string, from, to int) {
		recent = append(recent, fmt.Sprintf(event, what, ago, gateway, topic, stream, from, to))
	}
	add("dropped", 90, "gw2", "plant/a", "aa", 1, 3)
	add("withheld", 80, "gw3", "", "", 7, 7)
	add("silent", 70, "gw3", "", "", 0, 0)
	add("heard", 60, "gw3", "", "", 0, 0)
	add("burned", 50, "gw2", "plant/b", "bb", 0, 0)
	add("dropped", 40, "gw2", "plant/a", "aa", 5, 5)
	add("unattributed", 30, "", `plant/\u001b[2Jc`+strings.Repeat("x", 99), "cc", 0, 9)
	got := table(t, `{"heard":true,"groups":{"default":{"silent":["gw4"],"dropped_messages":4}},"recent":[`+strings.Join(recent, ",")+`]}`)
	_, got, _ = strings.Cut(got, "checkpoints")
	var lines []string
	for line := range strings.Lines(got) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"heard messages dropped 4", "",
		"TROUBLE GROUP SENDER TOPIC STREAM NUMBERS AGO",
		"silent default gw4 - - - now",
		`unattributed default - plant/\x1b[2Jcxxxxxxxxxxxxxxxxxxxxxxxxx~ cc 0-9 30s`,
		"dropped default gw2 plant/a aa 5 40s",
		"withheld default gw3 - - 7 1m20s", "",
	}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func TestTroubleTableIsBounded(t *testing.T) {
	var silent []string
	for i := range 300 {
		silent = append(silent, fmt.Sprintf(`"gw%d"`, i))
	}
	got := table(t, `{"groups":{"default":{"silent":[`+strings.Join(silent, ",")+`]}}}`)
	if n := strings.Count(got, "silent "); n != maxTroubles || !strings.Contains(got, "and 284 more: --json") || !strings.Contains(got, "NOT HEARD") {
		t.Errorf("%d rows:\n%s", n, got)
	}
	if got := table(t, `{"heard":true,"groups":{},"recent":[]}`); strings.Contains(got, "checkpoints") {
		t.Errorf("no device listens:\n%s", got)
	}
}
