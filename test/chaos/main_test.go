// Package chaos sets a fleet of real members, over real TLS connections, against a broker that is malicious on demand, and against
// insiders who hold valid certificates. There is one scenario for each rule; each says what it expects, and what it saw
// becomes a line of the table that the run prints at its end.
//
// Members run in the testing process, on clocks that a scenario can move ahead; where processes have to die they are processes.
package chaos

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"sealgate/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// scenario is one rule put to the test.
type scenario struct {
	name   string
	rules  string // the labels of docs/spec that it puts to the test, such as F3; what has none there is left out
	expect string
	run    func(s *scene)
	alone  bool // it weighs memory, so nothing else may run
}

func scenarios() []scenario {
	var all []scenario
	for _, some := range [][]scenario{transportScenarios(), replayScenarios(), forgeryScenarios(), policyScenarios(), withholdingScenarios(), keeperScenarios(), dataScenarios(), floodScenarios(), crashScenarios(), receiverScenarios(), deviceScenarios(), enrolScenarios()} {
		all = append(all, some...)
	}
	return all
}

// together is how many scenarios run at once: for the most part they wait.
const together = 10

func TestChaos(t *testing.T) {
	all := scenarios()
	rows := make([]row, len(all))
	t.Cleanup(func() { printTable(rows) })
	run := func(i int) {
		t.Run(all[i].name, func(t *testing.T) {
			rows[i] = row{all[i].name, all[i].rules, all[i].expect, "FAILED", 0}
			s := newScene(t)
			start := time.Now()
			all[i].run(s)
			if s.end(); !t.Failed() {
				rows[i].seen = strings.Join(s.seen, "; ")
			}
			rows[i].took = time.Since(start)
		})
	}
	for i := range all {
		if all[i].alone {
			run(i)
		}
	}
	var group sync.WaitGroup
	places := make(chan struct{}, together)
	for i := range all {
		if all[i].alone {
			continue
		}
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			run(i)
		})
	}
	group.Wait()
}

type row struct {
	name, rules, expect, seen string
	took                      time.Duration
}

func printTable(rows []row) {
	fmt.Printf("\n%-48s | %-8s | %-66s | %s\n%s\n", "scenario", "rules", "expected", "seen", strings.Repeat("-", 180))
	for _, r := range rows {
		if r.name == "" {
			continue // left out by -run
		}
		fmt.Printf("%-48s | %-8s | %-66s | %s (%.1f s)\n", r.name, r.rules, r.expect, r.seen, r.took.Seconds())
	}
	fmt.Println()
}
