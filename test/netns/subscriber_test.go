package netns

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"sealgate/test/lab"
)

// line is one object that `sealctl sub --json` prints.
type line struct {
	Topic, Payload, Status string
	Key                    string
}

// subscriber is a running `sealctl sub --json` beside the broker, whose lines are counted as they come.
type subscriber struct {
	proc     *lab.Proc
	read     int                       // lines taken in so far
	payloads map[string]map[string]int // payload to status to number of lines; lines without payload under ""
	keys     map[string]bool           // ids of the keys that opened something
	bad      []string                  // the first lines with a status other than ok and duplicate
}

func subscribe(t *testing.T, p *lab.Plant, filter string) *subscriber {
	t.Helper()
	s := &subscriber{payloads: map[string]map[string]int{}, keys: map[string]bool{}}
	s.proc = lab.Start(t, p.SealctlCmd("sub", "-t", filter, "-q", "1", "--json"))
	if err := s.proc.AwaitLine(lab.Within(t, 40*time.Second), "subscribed"); err != nil {
		t.Fatal(err)
	}
	return s
}

// await takes lines in until cond holds.
func (s *subscriber) await(ctx context.Context, cond func() bool) error {
	return s.proc.Await(ctx, func(stdout, _ []string) bool {
		for ; s.read < len(stdout); s.read++ {
			s.take(stdout[s.read])
		}
		return cond()
	})
}

func (s *subscriber) take(text string) {
	var l line
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		l.Status = "not JSON"
	}
	if s.payloads[l.Payload] == nil {
		s.payloads[l.Payload] = map[string]int{}
	}
	s.payloads[l.Payload][l.Status]++
	if l.Status == "ok" {
		s.keys[l.Key] = true
	}
	// What was killed cannot say what was sent last: "unattributed" is right then.
	if l.Status != "ok" && l.Status != "duplicate" && l.Status != "unattributed" && len(s.bad) < 10 {
		s.bad = append(s.bad, text)
	}
}

// phaseOpened reports whether a payload that starts with the needle was opened.
func (s *subscriber) phaseOpened(needle string) bool {
	for payload, statuses := range s.payloads {
		if strings.HasPrefix(payload, needle) && statuses["ok"] > 0 {
			return true
		}
	}
	return false
}

// opened is how often a payload was printed as opened.
func (s *subscriber) opened(payload string) int { return s.payloads[payload]["ok"] }
