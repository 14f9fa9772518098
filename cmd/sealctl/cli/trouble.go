package cli

import (
	"fmt"
	"io"
	"strings"

	"sealgate/cmd/sealctl/screen"
)

// Bounds of what the table shows of checkpoints.
const (
	maxTroubles  = 16
	troubleTopic = 40 // columns
)

// checkpointStatus is what the table shows of the messages that others have sent to devices here; see gateway.CheckpointStatus.
type checkpointStatus struct {
	Heard  bool `json:"heard"`
	Groups map[string]struct {
		Silent  []string `json:"silent"`
		Dropped uint64   `json:"dropped_messages"`
	} `json:"groups"`
	Recent []trouble `json:"recent"`
}

// trouble is an event of a stream or of a sender.
type trouble struct {
	Event   string  `json:"event"`
	Seconds float64 `json:"seconds_ago"`
	Group   string  `json:"group"`
	Gateway string  `json:"gateway"`
	Other   string  `json:"other"`
	Topic   string  `json:"topic"`
	Stream  string  `json:"stream"`
	From    uint64  `json:"from"`
	To      uint64  `json:"to"`
}

// troubles are the newest event of each stream and sender that is none an honest fleet with an honest broker causes, the newest first. Who is silent
// now comes before.
func (c *checkpointStatus) troubles() (rows []trouble) {
	for _, group := range sorted(c.Groups) {
		for _, name := range c.Groups[group].Silent {
			rows = append(rows, trouble{Event: "silent", Seconds: -1, Group: group, Gateway: name})
		}
	}
	type subject struct{ group, stream, sender string }
	seen := make(map[subject]bool)
	for i := len(c.Recent) - 1; i >= 0; i-- {
		e := c.Recent[i]
		s := subject{group: e.Group, stream: e.Stream}
		switch e.Event {
		case "dropped", "recovered", "unattributed", "disputed":
		case "withheld":
			s.sender = e.Gateway
		default:
			continue
		}
		if !seen[s] {
			seen[s] = true
			rows = append(rows, e)
		}
	}
	return rows
}

// table shows how checkpoints stand, and a row for each stream and sender with trouble.
func (c *checkpointStatus) table(w io.Writer) {
	if len(c.Groups) == 0 {
		return // no device listens
	}
	var dropped uint64
	for _, g := range c.Groups {
		dropped += g.Dropped
	}
	fmt.Fprintf(w, "checkpoints\t%s\tmessages dropped\t%d\n", word(c.Heard, "heard", "NOT HEARD"), dropped)
	rows := c.troubles()
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\nTROUBLE\tGROUP\tSENDER\tTOPIC\tSTREAM\tNUMBERS\tAGO\n")
	for _, e := range rows[:min(len(rows), maxTroubles)] {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Event, e.Group, orDash(e.senders()), orDash(screen.Cut(screen.Plain(e.Topic), troubleTopic)), orDash(e.Stream), e.numbers(), e.ago())
	}
	if more := len(rows) - maxTroubles; more > 0 {
		fmt.Fprintf(w, "and %d more: --json\n", more)
	}
}

func (e *trouble) senders() string {
	return strings.Trim(e.Gateway+", "+e.Other, ", ")
}

func (e *trouble) numbers() string {
	switch {
	case e.Event == "silent" || e.Event == "disputed":
		return "-"
	case e.From == e.To:
		return fmt.Sprint(e.To)
	}
	return fmt.Sprintf("%d-%d", e.From, e.To)
}

func (e *trouble) ago() string {
	if e.Seconds < 0 {
		return "now"
	}
	return age(e.Seconds)
}
