package netns

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestKills kills gatewayd and starts it again, over and over, while many publishers connect, publish and leave at random: nothing crosses
// in clear, no message that was acknowledged is missing, and devices are served again soon. `make kills` runs it in full.
func TestKills(t *testing.T) {
	t.Parallel()
	publishers, kills, span, away, most := 300, 5, 10*time.Second, time.Second, 15*time.Second
	if os.Getenv("SEALGATE_KILLS") == "full" {
		publishers, kills, span, away, most = 1000, 20, 2*time.Minute, 4*time.Second, 2*time.Second
	}
	p := newPlant(t)
	s := newScene(t, p, crowdOptions{
		Addr: p.DeviceAddr(), N: publishers, Needle: needle("kills"), Stay: 10 * time.Second, Away: away, Pause: 2 * time.Second,
	})
	var recoveries []recovery
	began := time.Now()
	for i := range kills {
		from, to := span*time.Duration(i)/time.Duration(kills), span*time.Duration(i+1)/time.Duration(kills)
		due := began.Add(from + rand.N((to-from)/2))
		s.crowd.await(t, "the next kill", func() bool { return time.Now().After(due) })
		recoveries = append(recoveries, s.kill(t))
	}
	s.crowd.await(t, "the end", func() bool { return time.Since(began) > span })
	s.settle(t)
	t.Logf("%d publishers, %d kills in %v\n%s", publishers, kills, time.Since(began).Round(time.Second), table(recoveries))
	for i, r := range recoveries {
		if r.first > most {
			t.Errorf("kill %d: the first device was served after %v, %v allowed", i+1, r.first, most)
		}
	}
}

// recovery is how long it took, from a kill, until messages were acknowledged on new connections.
type recovery struct {
	first time.Duration // one
	half  time.Duration // one of each of half the publishers
	acked int           // in total, when gatewayd was killed
}

func (s *scene) kill(t *testing.T) recovery {
	t.Helper()
	killed := time.Now()
	s.Gatewayd.Kill()
	dead := time.Now().UnixNano()
	s.StartGatewayd(t)
	r := recovery{acked: s.crowd.total}
	back, next := map[int]bool{}, len(s.crowd.acks)
	s.crowd.await(t, "messages after a kill", func() bool {
		for ; next < len(s.crowd.acks) && 2*len(back) < len(s.crowd.acked); next++ {
			a := s.crowd.acks[next]
			if a.connectedAt < dead {
				continue
			}
			back[a.publisher] = true
			r.half = time.Unix(0, a.at).Sub(killed)
			if r.first == 0 || r.half < r.first {
				r.first = r.half
			}
		}
		return 2*len(back) >= len(s.crowd.acked)
	})
	return r
}

func table(recoveries []recovery) string {
	var b strings.Builder
	var first, half []time.Duration
	fmt.Fprintf(&b, "%6s %20s %25s %25s\n", "kill", "acknowledged before", "first acknowledgement", "half the publishers")
	for i, r := range recoveries {
		fmt.Fprintf(&b, "%6d %20d %25v %25v\n", i+1, r.acked, r.first.Round(time.Millisecond), r.half.Round(time.Millisecond))
		first, half = append(first, r.first), append(half, r.half)
	}
	slices.Sort(first)
	slices.Sort(half)
	fmt.Fprintf(&b, "%6s %20s %25v %25v\n", "p50", "", first[len(first)/2].Round(time.Millisecond), half[len(half)/2].Round(time.Millisecond))
	fmt.Fprintf(&b, "%6s %20s %25v %25v", "worst", "", slices.Max(first).Round(time.Millisecond), slices.Max(half).Round(time.Millisecond))
	return b.String()
}
