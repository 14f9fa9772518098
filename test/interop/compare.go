package interop

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// steps sorts what was seen by step: the outcomes of commands in their order, then each client's messages topic by topic.
// Messages on a shared subscription come without order: nobody promises one.
func (l *transcript) steps() map[string][]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string][]string{}
	for s, lines := range l.results {
		all[s] = append(all[s], lines...)
	}
	for _, key := range slices.Sorted(maps.Keys(l.messages)) {
		s, where, _ := strings.Cut(key, " ")
		for _, line := range l.messages[key] {
			all[s] = append(all[s], where+" "+line)
		}
	}
	return all
}

// differences lists what stands in one of two steps only, each line with its sign.
func differences(direct, through []string) (out []string) {
	d, s := tally(direct), tally(through)
	for _, line := range slices.Sorted(maps.Keys(d)) {
		if n := d[line] - s[line]; n > 0 {
			out = append(out, fmt.Sprintf("- %s (%d times more direct)", line, n))
		}
	}
	for _, line := range slices.Sorted(maps.Keys(s)) {
		if n := s[line] - d[line]; n > 0 {
			out = append(out, fmt.Sprintf("+ %s (%d times more through Sealgate)", line, n))
		}
	}
	if len(out) == 0 && !slices.Equal(direct, through) {
		out = append(out, "the same in another order:\n  direct "+strings.Join(direct, "\n         ")+"\n  through "+strings.Join(through, "\n          "))
	}
	return out
}

func tally(lines []string) map[string]int {
	n := map[string]int{}
	for _, line := range lines {
		n[line]++
	}
	return n
}

// raised lists the limits of CONNACK that are higher through Sealgate than direct.
func raised(direct, through map[string]int) (out []string) {
	for name, n := range through {
		if most, ok := direct[name]; ok && n > most || !ok && name == "Topic Alias Maximum" && n > 0 {
			out = append(out, fmt.Sprintf("%s is %d, direct %d", name, n, most))
		}
	}
	return out
}

// total counts the messages.
func (l *transcript) total() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lines := range l.messages {
		n += len(lines)
	}
	return n
}

// missed lists what was waited for in vain.
func (l *transcript) missed() (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, lines := range l.results {
		for _, line := range lines {
			if strings.Contains(line, inVain) {
				out = append(out, s+": "+line)
			}
		}
	}
	return out
}
