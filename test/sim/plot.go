package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// The plot is a picture of the tables: two panels with logarithmic axes, members to the right. The same
// results give the same bytes.

const (
	panelWidth, panelHeight = 380, 300
	marginLeft, marginTop   = 70, 60
	gap                     = 110
)

// curve is one scenario in a panel.
type curve struct {
	scenario, label, colour string
}

func curves() []curve {
	return []curve{
		{scenarioBoot, "everybody boots", "#b3541e"},
		{scenarioRevoke, "revocation", "#7a1f5c"},
		{scenarioRotate, "scheduled rotation, with confirmations", "#1f5f8b"},
	}
}

// panel is one of the two.
type panel struct {
	x            float64 // of its left edge
	title        string
	least, most  int // decades of the vertical axis
	unit         func(decade int) string
	value        func(*row) float64
	announcement bool // also draw what a rotation takes from the keeper: one message
}

func plot(results []*result) []byte {
	b := new(bytes.Buffer)
	width, height := 2*panelWidth+gap+marginLeft+40, panelHeight+marginTop+110
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(b, `<text x="%d" y="24" font-size="15">What the control plane costs, by size of the fleet (gateways and subscribers)</text>`+"\n", marginLeft)
	count := func(d int) string { return short(math.Pow10(d)) }
	seconds := func(d int) string {
		if d < 0 {
			return fmt.Sprintf("%g ms", math.Pow10(d+3))
		}
		return fmt.Sprintf("%g s", math.Pow10(d))
	}
	for _, p := range []panel{
		{marginLeft, "messages published", 0, 7, count, func(r *row) float64 { n, _ := r.total(); return float64(n) }, true},
		{marginLeft + panelWidth + gap, "keeper's processor time", -3, 3, seconds, func(r *row) float64 { return r.keeperCPU.Seconds() }, false},
	} {
		p.draw(b, results)
	}
	legend(b)
	b.WriteString("</svg>\n")
	return b.Bytes()
}

const leastMembers, mostMembers = 1, 6 // decades of the horizontal axis

func short(f float64) string {
	switch {
	case f >= 1e6:
		return fmt.Sprintf("%gM", f/1e6)
	case f >= 1e3:
		return fmt.Sprintf("%gk", f/1e3)
	}
	return fmt.Sprintf("%g", f)
}

func (p *panel) at(members int, value float64) (x, y float64) {
	x = p.x + panelWidth*(math.Log10(float64(members))-leastMembers)/(mostMembers-leastMembers)
	level := (math.Log10(max(value, math.Pow10(p.least))) - float64(p.least)) / float64(p.most-p.least)
	return x, marginTop + panelHeight*(1-level)
}

func (p *panel) draw(b *bytes.Buffer, results []*result) {
	fmt.Fprintf(b, `<text x="%.0f" y="%d" font-weight="bold">%s</text>`+"\n", p.x, marginTop-12, p.title)
	for d := p.least; d <= p.most; d++ {
		_, y := p.at(1, math.Pow10(d))
		fmt.Fprintf(b, `<line x1="%.0f" y1="%.1f" x2="%.0f" y2="%.1f" stroke="#ddd"/><text x="%.0f" y="%.1f" text-anchor="end">%s</text>`+"\n",
			p.x, y, p.x+panelWidth, y, p.x-6, y+4, p.unit(d))
	}
	for d := leastMembers; d <= mostMembers; d++ {
		x, _ := p.at(int(math.Pow10(d)), 1)
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#eee"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			x, marginTop, x, marginTop+panelHeight, x, marginTop+panelHeight+16, short(math.Pow10(d)))
	}
	fmt.Fprintf(b, `<text x="%.0f" y="%d" text-anchor="middle">members</text>`+"\n", p.x+panelWidth/2, marginTop+panelHeight+34)
	sorted := slices.Clone(results)
	slices.SortStableFunc(sorted, func(x, y *result) int { return x.members() - y.members() })
	for _, c := range curves() {
		for _, r := range sorted {
			x, y := p.at(r.members(), p.value(r.row(c.scenario)))
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s" fill-opacity="0.8"/>`+"\n", x, y, c.colour)
		}
	}
	if p.announcement {
		for _, r := range sorted {
			x, y := p.at(r.members(), float64(r.row(scenarioRotate).sent["epoch"]))
			fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="8" height="8" fill="#2e7d32"/>`+"\n", x-4, y-4)
		}
	}
}

func legend(b *bytes.Buffer) {
	y := marginTop + panelHeight + 62
	x := marginLeft
	for _, c := range curves() {
		fmt.Fprintf(b, `<circle cx="%d" cy="%d" r="4" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", x, y-4, c.colour, x+10, y, c.label)
		x += 40 + 7*len(c.label)
	}
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="8" height="8" fill="#2e7d32"/><text x="%d" y="%d">scheduled rotation, announcement only</text>`+"\n", x-4, y-8, x+10, y)
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="#555">A rotation also takes a question and an answer of each gateway: points above one another differ in the share of gateways.</text>`+"\n", marginLeft, y+24)
}
