package bypass

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
)

// outcome is what crossed at one site: for each state and row, how many frames on the broker's wire held its payload.
type outcome struct {
	mode    mode
	crossed [][]int
}

// judge reads the capture. All that crosses undefended must cross, or the rest proves nothing; nothing else may.
func (s *site) judge() *outcome {
	s.t.Helper()
	o := &outcome{mode: s.mode}
	all := rows()
	for range lifetime() {
		o.crossed = append(o.crossed, make([]int, len(all)))
	}
	s.payloads(func(i, state, row int, f []byte) {
		if i >= s.guarded {
			state = max(state, 1) // sent before, and sent again
		}
		if o.crossed[state][row]++; state > 0 && o.crossed[state][row] == 1 {
			s.t.Errorf("%s: %s: payload crosses in clear: %x", lifetime()[state].name, all[row], f)
		}
	})
	for i, r := range all {
		if proves := !r.bridge || s.mode.bridge; proves != (o.crossed[0][i] > 0) {
			s.t.Errorf("undefended: %s: crosses: %t", r, !proves)
		}
	}
	if leaked := s.wire.ToPort(steered, s.guarded); len(leaked) > 0 && !s.mode.passes {
		s.t.Errorf("%d frames to the steered port crossed after the set-up, the first: %x", len(leaked), leaked[0])
	}
	served := uint16(clearPort)
	if s.mode.passes {
		served = steered
	}
	if n := len(s.wire.ToPort(served, s.guarded)); n < 50 {
		s.t.Errorf("%d frames of the gateway's own were seen: the record does not show its uplink", n)
	}
	return o
}

// payloads calls f for each payload in each frame of the capture, with the frame's number and the payload's state and row.
func (s *site) payloads(f func(i, state, row int, frame []byte)) {
	for i, frame := range s.wire.Find(nil) {
		for _, m := range marked.FindAllSubmatch(frame, 1) {
			f(i, number(m[1]), number(m[2]), frame)
		}
	}
}

func number(text []byte) int {
	n, _ := strconv.Atoi(string(text))
	return n
}

// printed is the matrix: lines are shapes, columns modes, and a cell has a letter for each state, the large X where
// payload crossed in any family.
func printed(outcomes []*outcome) string {
	var s strings.Builder
	s.WriteString("States: ")
	for i, st := range lifetime()[1:] {
		fmt.Fprintf(&s, "%s%s %s", strings.Repeat(", ", min(i, 1)), st.letter, st.name)
	}
	s.WriteString(".\nA letter: no byte of the payload on the broker's wire. X: payload in clear.\n" +
		"-: a gateway of this kind does not let it pass without any defence either.\n\n")
	out := tabwriter.NewWriter(&s, 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "to the steered port\tIPv")
	for _, o := range outcomes {
		fmt.Fprintf(out, "\t%s", o.mode.name)
	}
	fmt.Fprintln(out)
	for i := range shapes {
		fmt.Fprintf(out, "%s\t%s", shapes[i].name, shapes[i].families())
		for _, o := range outcomes {
			fmt.Fprintf(out, "\t%s", o.cell(&shapes[i]))
		}
		fmt.Fprintln(out)
	}
	out.Flush()
	cells, crossed := count(outcomes)
	fmt.Fprintf(&s, "\n%d ways; %d cases over families, modes and states, each of which crosses undefended; %d with payload in clear.\n",
		len(shapes), cells, crossed)
	return s.String()
}

func (s *shape) families() string {
	switch s.family {
	case 4:
		return "4"
	case 6:
		return "6"
	}
	return "4 6"
}

func (o *outcome) cell(s *shape) string {
	var text strings.Builder
	for i, st := range lifetime()[1:] {
		letter := "-"
		for j, r := range rows() {
			switch {
			case r.shape != s || o.crossed[0][j] == 0:
			case o.crossed[i+1][j] > 0:
				letter = "X"
			case letter == "-":
				letter = st.letter
			}
		}
		text.WriteString(letter)
	}
	if strings.Trim(text.String(), "-") == "" {
		return "-"
	}
	return text.String()
}

// count counts what was proved, one for each row, mode and state, and where payload crossed.
func count(outcomes []*outcome) (cells, crossed int) {
	for _, o := range outcomes {
		for i, undefended := range o.crossed[0] {
			for _, state := range o.crossed[1:] {
				if undefended > 0 {
					cells++
				}
				if state[i] > 0 {
					crossed++
				}
			}
		}
	}
	return cells, crossed
}
