// Package screen shows what package watch has gathered: a whole picture (render.go), one line for a change (line.go), and a
// terminal on which the picture is drawn anew (terminal.go). Rendering is a function of the picture and the size of the screen.
package screen

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"sealgate/cmd/sealctl/watch"
)

// Size is that of a screen in characters. Zeros: as wide or as high as it takes.
type Size struct{ Width, Height int }

// Line is one line of a screen. What Strong emphasises also says so in words.
type Line struct {
	Text   string
	Strong bool
}

// section is a part of the picture with its least height, in which it is cut where there is no room.
type section struct {
	lines []Line
	least int
}

// Render draws a picture. No line is longer than the screen is wide, and there are no more lines than it is high.
func Render(p *watch.Picture, size Size) []Line {
	sections := []section{
		{header(p, size.Width), 2},
		{alarms(p, size.Width), 3},
		{plain(groups(p).lines(size.Width)), 3},
		{plain(gateways(p).lines(size.Width)), 3},
		{plain(members(p).lines(size.Width)), 3},
		{unseen(p, size.Width), 2},
	}
	// What gives way first: who was heard, what is not seen, the gateways, the groups, the alarms.
	if size.Height > 0 {
		fit(sections, []int{4, 5, 3, 2, 1}, size.Height)
	}
	var out []Line
	for _, s := range sections {
		if len(s.lines) > 0 && len(out) > 0 {
			out = append(out, Line{})
		}
		out = append(out, s.lines...)
	}
	if size.Height > 0 && len(out) > size.Height {
		out = out[:size.Height]
	}
	for i := range out {
		out[i].Text = Cut(out[i].Text, size.Width)
	}
	return out
}

// fit shortens sections until all of them, with an empty line between, are no higher than height: first to their least
// height, then away.
func fit(sections []section, order []int, height int) {
	over := func() int {
		sum := -1
		for _, s := range sections {
			if len(s.lines) > 0 {
				sum += len(s.lines) + 1
			}
		}
		return sum - height
	}
	for _, i := range order {
		if n, s := over(), &sections[i]; n > 0 && len(s.lines) > s.least {
			s.lines = shorten(s.lines, max(len(s.lines)-n, s.least))
		}
	}
	for _, i := range order {
		if over() > 0 {
			sections[i].lines = nil
		}
	}
}

// shorten leaves n lines, of which the last says how many there are more.
func shorten(lines []Line, n int) []Line {
	left := len(lines) - n + 1
	return append(lines[:n-1:n-1], Line{Text: fmt.Sprintf("... %d more", left)})
}

func plain(lines []string) (out []Line) {
	for i, text := range lines {
		out = append(out, Line{text, i == 0})
	}
	return out
}

// header is who looks at which fleet, how it is, and the connections.
func header(p *watch.Picture, width int) []Line {
	state := "OK"
	if n := len(p.Alarms); n == 1 {
		state = "1 ALARM"
	} else if n > 1 {
		state = fmt.Sprintf("%d ALARMS", n)
	}
	policy := "no policy"
	if p.Policy > 0 {
		policy = fmt.Sprintf("policy %d", p.Policy)
	}
	first := []string{"fleet " + p.Fleet, state, policy, "as " + p.Member, p.At.UTC().Format(time.DateTime) + " UTC"}
	var second []string
	for _, l := range p.Links {
		text := l.Name + " up " + short(l.For)
		if !l.Up {
			text = l.Name + " DOWN " + short(l.For)
		}
		second = append(second, text)
	}
	if p.Refused > 0 {
		second = append(second, fmt.Sprintf("refused %d", p.Refused))
	}
	if p.Dropped > 0 {
		second = append(second, fmt.Sprintf("not looked at %d", p.Dropped))
	}
	return []Line{
		{Cut(Plain(strings.Join(first, "  ")), width), true},
		{Cut(Plain(strings.Join(second, "  ")), width), false},
	}
}

func alarms(p *watch.Picture, width int) []Line {
	t := table{columns: []column{{"ALARM", false, 0}, {"GROUP", false, 0}, {"GATEWAY", false, 0}, {"SINCE", true, 2}, {"TIMES", true, 3}, {"DETAIL", false, 1}}}
	for _, a := range p.Alarms {
		t.add("! "+a.What, orDash(a.Group), orDash(a.Gateway), short(a.Since), strconv.FormatUint(a.Count, 10), a.Detail)
	}
	var out []Line
	for _, text := range t.lines(width) {
		out = append(out, Line{text, true})
	}
	return out
}

func groups(p *watch.Picture) *table {
	t := &table{columns: []column{{"GROUP", false, 0}, {"LEADER", false, 0}, {"LEASE", true, 3}, {"EPOCH", false, 0}, {"AGE", true, 4}, {"NEXT", true, 1}, {"KEY", false, 2}, {"MESSAGES", true, 5}}}
	for _, g := range p.Groups {
		leader := orDash(g.Leader)
		switch {
		case g.Rival != "":
			leader += " AND " + g.Rival
		case g.LeaderBy == "announcement":
			leader += "?"
		}
		age := short(g.EpochAge)
		if g.Active > 0 {
			age = "active in " + short(g.Active)
		}
		next := short(g.Rotation)
		if g.EpochAge < 0 && g.Rotation >= 0 {
			next = "<" + next
		}
		t.add(g.Name, leader, short(g.Lease), orDash(g.Epoch), age, next, key(&g), count(g.Messages, g.Reads))
	}
	return t
}

// key says whether this member holds the newest key, and how many in all.
func key(g *watch.Group) string {
	switch {
	case !g.Reads:
		return "-"
	case g.KeyHeld:
		return fmt.Sprintf("held (%d)", g.Keys)
	}
	return fmt.Sprintf("MISSING (%d)", g.Keys)
}

func count(n uint64, known bool) string {
	if !known {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

func gateways(p *watch.Picture) *table {
	reads := make(map[string]bool)
	for _, g := range p.Groups {
		reads[g.Name] = g.Reads
	}
	t := &table{columns: []column{{"GATEWAY", false, 0}, {"GROUP", false, 3}, {"CHECKPOINT", true, 2}, {"STREAMS", true, 4}, {"SEALED", true, 1},
		{"A MINUTE", true, 5}, {"EPOCH", false, 6}, {"MISSING", true, 0}, {"IN ALL", true, 7}, {"BURNED", true, 8}, {"STATE", false, 1}}}
	for _, g := range p.Gateways {
		name := orDash(g.Name)
		rate := "-"
		if g.PerMinute >= 0 {
			rate = strconv.FormatInt(g.PerMinute, 10)
		}
		t.add(name, g.Group, short(g.Checkpoint), strconv.Itoa(g.Streams), strconv.FormatUint(g.Sealed, 10), rate, orDash(g.Epoch),
			count(g.Missing, reads[g.Group]), count(g.MissingTotal, reads[g.Group]), strconv.FormatUint(g.Burned, 10), state(&g))
	}
	return t
}

func state(g *watch.Gateway) string {
	switch {
	case g.Silent:
		return "SILENT"
	case g.Ended:
		return "ended"
	case g.Behind:
		return "BEHIND"
	case g.Name == "":
		return "unclaimed"
	}
	return "ok"
}

func members(p *watch.Picture) *table {
	t := &table{columns: []column{{"MEMBER", false, 0}, {"ROLE", false, 2}, {"HEARD", true, 0}, {"POLICY", true, 3}, {"ABOUT", false, 1}}}
	for _, m := range p.Members {
		version := "-"
		if m.Policy > 0 {
			version = strconv.FormatUint(m.Policy, 10)
		}
		t.add(m.Name, m.Role, short(m.Heard)+" ago", version, m.About)
	}
	return t
}

func unseen(p *watch.Picture, width int) (out []Line) {
	for i, text := range p.Unseen {
		if i == 0 {
			out = append(out, Line{Cut("NOT SEEN FROM HERE", width), true})
		}
		out = append(out, Line{Cut("- "+Plain(text), width), false})
	}
	return out
}

// Text joins lines without emphasis, for what is no terminal.
func Text(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}
