package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"time"

	"sealgate/pkg/control"
)

// The plot is a picture of the tables: three panels with logarithmic axes, members to the right. The same
// results give the same bytes.

const (
	panelWidth, panelHeight = 270, 300
	marginLeft, marginTop   = 58, 74
	pitch                   = panelWidth + 82 // from one panel to the next
	leastMembers            = 1               // decade at which the horizontal axis begins
	mostMembers             = 5.3             // and ends
	grid, ink, pale         = "#e4e4e4", "#222", "#666"
)

// curve is one scenario: how it is drawn, and what the legend calls it.
type curve struct {
	scenario, label, colour string
	mark                    func(x, y float64, colour string) string
}

func curves() []curve {
	return []curve{
		{scenarioBoot, "everybody boots", "#d55e00", ring},
		{scenarioRevoke, "revocation", "#0072b2", disc},
		{scenarioRotate, "scheduled rotation", "#007a56", square},
		{scenarioTakeover, "leader lost", "#8a4b8f", diamond},
	}
}

func ring(x, y float64, colour string) string {
	return fmt.Sprintf(`<circle cx="%.1f" cy="%.1f" r="5" fill="white" stroke="%s" stroke-width="2"/>`, x, y, colour)
}

func disc(x, y float64, colour string) string {
	return fmt.Sprintf(`<circle cx="%.1f" cy="%.1f" r="3.2" fill="%s"/>`, x, y, colour)
}

func square(x, y float64, colour string) string {
	return fmt.Sprintf(`<rect x="%.1f" y="%.1f" width="7" height="7" fill="%s"/>`, x-3.5, y-3.5, colour)
}

func diamond(x, y float64, colour string) string {
	return fmt.Sprintf(`<path d="M%.1f %.1fl4.5 4.5l-4.5 4.5l-4.5 -4.5z" fill="%s"/>`, x, y-4.5, colour)
}

// panel is one quantity.
type panel struct {
	x           float64 // of its left edge
	title, sub  string
	least, most int // decades of the vertical axis
	unit        func(decade int) string
	value       func(*row) (v float64, ok bool)
	promise     func(members float64) float64
	promised    string
}

func panels() []panel {
	return []panel{
		{title: "Messages", sub: "published by anybody, leases apart", least: 0, most: 6, unit: func(d int) string { return short(math.Pow10(d)) },
			value: func(r *row) (float64, bool) {
				n, _ := r.total()
				return float64(n - r.sent["lease"]), r.scenario != scenarioTakeover
			}},
		{title: "Keeper's work", sub: "processor time of the leader", least: -4, most: 2, unit: decadeOfSeconds,
			value:   func(r *row) (float64, bool) { return r.keeperCPU.Seconds(), r.scenario != scenarioTakeover },
			promise: func(members float64) float64 { return 60 * members / 100_000 }, promised: "60 s for 100,000"},
		{title: "Time", sub: "until everybody has what it needs", least: -1, most: 3, unit: decadeOfSeconds,
			value:   func(r *row) (float64, bool) { return r.took.Seconds(), r.scenario != scenarioRotate },
			promise: func(float64) float64 { return (3 * control.LeaseInterval).Seconds() }, promised: "a leader in 15 s"},
	}
}

func decadeOfSeconds(d int) string {
	switch v := time.Duration(math.Pow10(d+9) + 0.5); {
	case v < time.Millisecond:
		return fmt.Sprintf("%g ms", v.Seconds()*1e3)
	case v < time.Second:
		return fmt.Sprintf("%d ms", v.Milliseconds())
	default:
		return short(v.Seconds()) + " s"
	}
}

func short(f float64) string {
	switch {
	case f >= 1e6:
		return fmt.Sprintf("%g M", f/1e6)
	case f >= 1e3:
		return fmt.Sprintf("%g,000", f/1e3)
	}
	return fmt.Sprintf("%g", f)
}

func plot(results []*result) []byte {
	b := new(bytes.Buffer)
	all := panels()
	width, height := marginLeft+pitch*(len(all)-1)+panelWidth+24, marginTop+panelHeight+112
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="DejaVu Sans, Verdana, Helvetica, sans-serif" font-size="11" fill="%s">`+"\n", width, height, ink)
	fmt.Fprintf(b, "<title>What the control plane costs, by size of the fleet</title>\n")
	fmt.Fprintf(b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(b, `<text x="%d" y="24" font-size="15" font-weight="bold">What the control plane costs, by size of the fleet</text>`+"\n", marginLeft)
	sorted := slices.Clone(results)
	slices.SortStableFunc(sorted, func(x, y *result) int { return x.members() - y.members() })
	for i := range all {
		all[i].x = float64(marginLeft + i*pitch)
		all[i].axes(b)
		all[i].draw(b, sorted)
	}
	legend(b)
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// at is where a value stands; what is below the axis stands on it.
func (p *panel) at(members, value float64) (x, y float64) {
	x = p.x + panelWidth*(math.Log10(members)-leastMembers)/(mostMembers-leastMembers)
	level := (math.Log10(max(value, math.Pow10(p.least))) - float64(p.least)) / float64(p.most-p.least)
	return x, marginTop + panelHeight*(1-level)
}

func (p *panel) axes(b *bytes.Buffer) {
	fmt.Fprintf(b, `<text x="%.0f" y="%d"><tspan font-weight="bold">%s</tspan><tspan dx="7" fill="%s">%s</tspan></text>`+"\n", p.x, marginTop-14, p.title, pale, p.sub)
	for d := p.least; d <= p.most; d++ {
		_, y := p.at(10, math.Pow10(d))
		fmt.Fprintf(b, `<path d="M%.0f %.1fh%d" stroke="%s"/><text x="%.0f" y="%.1f" text-anchor="end">%s</text>`+"\n", p.x, y, panelWidth, grid, p.x-6, y+4, p.unit(d))
	}
	for d := leastMembers; float64(d) <= mostMembers; d++ {
		x, _ := p.at(math.Pow10(d), 1)
		fmt.Fprintf(b, `<path d="M%.1f %dv%d" stroke="%s"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x, marginTop, panelHeight, grid, x, marginTop+panelHeight+17, short(math.Pow10(d)))
	}
	fmt.Fprintf(b, `<text x="%.0f" y="%d" text-anchor="middle" fill="%s">members</text>`+"\n", p.x+panelWidth/2, marginTop+panelHeight+34, pale)
	if p.promise != nil {
		most := math.Pow(10, mostMembers)
		x1, y1 := p.at(math.Pow10(leastMembers), p.promise(math.Pow10(leastMembers)))
		x2, y2 := p.at(most, p.promise(most))
		fmt.Fprintf(b, `<path d="M%.1f %.1fL%.1f %.1f" stroke="%s" stroke-dasharray="5 4"/>`+"\n", x1, y1, x2, y2, pale)
		slope := math.Atan2(y2-y1, x2-x1) * 180 / math.Pi
		fmt.Fprintf(b, `<text transform="translate(%.1f %.1f) rotate(%.1f)" fill="%s">promised: %s</text>`+"\n", x1+0.05*(x2-x1), y1+0.05*(y2-y1)-5, slope, pale, p.promised)
	}
}

func (p *panel) draw(b *bytes.Buffer, sorted []*result) {
	for _, c := range curves() {
		line, marks := new(bytes.Buffer), new(bytes.Buffer)
		for _, r := range sorted {
			v, ok := p.value(r.row(c.scenario))
			if !ok {
				continue
			}
			x, y := p.at(float64(r.members()), v)
			fmt.Fprintf(line, "%.1f,%.1f ", x, y)
			marks.WriteString(c.mark(x, y, c.colour) + "\n")
		}
		if line.Len() > 0 {
			fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-opacity="0.45"/>`+"\n%s", bytes.TrimSpace(line.Bytes()), c.colour, marks)
		}
	}
}

func legend(b *bytes.Buffer) {
	x, y := float64(marginLeft)+6, float64(marginTop+panelHeight+66)
	for _, c := range curves() {
		fmt.Fprintf(b, `%s<text x="%.0f" y="%.0f">%s</text>`+"\n", c.mark(x, y-4, c.colour), x+12, y, c.label)
		x += 52 + 6.6*float64(len(c.label))
	}
	fmt.Fprintf(b, `<text x="%.0f" y="%.0f" fill="%s">Each mark is a fleet: 10, 1,000 or 100,000 subscribers with 1, 100, 1,000 or 10,000 gateways. A rotation is in use after the activation delay of the policy, 10 s.</text>`+"\n", float64(marginLeft), y+26, pale)
}
