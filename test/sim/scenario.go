package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
)

// sample is how many members of each role run the real machine, at most.
const sample = 24

// limit is how long a scenario may take, in virtual time.
const limit = 30 * time.Minute

// The scenarios, in the order in which they run.
const (
	scenarioBoot     = "all boot"
	scenarioRotate   = "rotation"
	scenarioReturn   = "all reconnect"
	scenarioRevoke   = "revocation"
	scenarioQuiet    = "quiet"
	scenarioTakeover = "leader lost"
)

// row is what one scenario cost a fleet.
type row struct {
	scenario string
	traffic
	accepted, refused uint64        // Hellos, by the keepers
	took              time.Duration // virtual: until every member had what it needed
	sealing           time.Duration // virtual: until every sampled gateway sealed under the new epoch
	hellos            float64       // of a sampled member, on average
	shadowHellos      float64       // of a shadow, on average
}

// result is one fleet's rows.
type result struct {
	size
	rows   []row
	sample int // members that ran the real machine
}

func (r *result) row(scenario string) *row {
	for i := range r.rows {
		if r.rows[i].scenario == scenario {
			return &r.rows[i]
		}
	}
	return nil
}

// trial is a fleet at work.
type trial struct {
	*world
	size     size
	gateways []*node // the sampled ones
	members  []*node // with subscribers
}

func simulate(p *pool, s size) (*result, error) {
	runtime.LockOSThread() // processor time is a thread's
	defer runtime.UnlockOSThread()
	w, err := newWorld(p, nil)
	if err != nil {
		return nil, err
	}
	t := &trial{world: w, size: s}
	if err := t.populate(); err != nil {
		return nil, err
	}
	for _, k := range w.keepers {
		k.connect()
	}
	w.run(30*time.Second, nil)
	r := &result{size: s, sample: len(t.members)}
	for _, sc := range []struct {
		name string
		run  func(*row) error
	}{{scenarioBoot, t.boot}, {scenarioRotate, t.rotate}, {scenarioReturn, t.reconnect}, {scenarioRevoke, t.revoke}, {scenarioQuiet, t.quiet}, {scenarioTakeover, t.loseLeader}} {
		out, err := t.measure(sc.name, sc.run)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", sc.name, err)
		}
		if s.members() >= 10_000 {
			fmt.Fprintf(os.Stderr, "  %d gateways, %d subscribers: %s simulated\n", s.gateways, s.subscribers, sc.name)
		}
		r.rows = append(r.rows, *out)
	}
	return r, nil
}

// populate makes keepers, the sample and its shadows.
func (t *trial) populate() error {
	for i := range 3 {
		if _, err := t.add(crypto.RoleKeeper, fmt.Sprintf("keeper%d", i+1)); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		role  crypto.Role
		name  string
		count int
	}{{crypto.RoleGateway, "gw%d", t.size.gateways}, {crypto.RoleSubscriber, "sub%d", t.size.subscribers}} {
		var real []*node
		for i := range c.count {
			name := fmt.Sprintf(c.name, i)
			if i >= sample {
				if err := t.addShadow(real[i%sample], c.role, name); err != nil {
					return err
				}
				continue
			}
			n, err := t.add(c.role, name)
			if err != nil {
				return err
			}
			real = append(real, n)
		}
		t.members = append(t.members, real...)
		if c.role == crypto.RoleGateway {
			t.gateways = real
		}
	}
	return nil
}

// measure runs a scenario and takes down what it cost, with the two seconds after it.
func (t *trial) measure(name string, run func(*row) error) (*row, error) {
	t.phase++
	t.count.reset()
	before := t.keeperCounters()
	for _, n := range t.members {
		n.hellos = 0
	}
	out := &row{scenario: name}
	if err := run(out); err != nil {
		return nil, err
	}
	t.run(2*time.Second, nil)
	out.traffic = t.count
	after := t.keeperCounters()
	out.accepted = after[control.Counter{Kind: control.KindHello, Result: control.ResultAccepted}] - before[control.Counter{Kind: control.KindHello, Result: control.ResultAccepted}]
	out.refused = after[control.Counter{Kind: control.KindHello, Result: control.ResultRefused}] - before[control.Counter{Kind: control.KindHello, Result: control.ResultRefused}]
	hellos := 0
	for _, n := range t.members {
		hellos += n.hellos
	}
	out.hellos = float64(hellos) / float64(len(t.members))
	if len(t.shadows) > 0 {
		out.shadowHellos = float64(out.sent["hello"]-hellos) / float64(len(t.shadows))
	}
	return out, nil
}

func (t *trial) keeperCounters() map[control.Counter]uint64 {
	sum := map[control.Counter]uint64{}
	for _, k := range t.keepers {
		for c, n := range k.m.Status(t.now()).Counters {
			sum[c] += n
		}
	}
	return sum
}

// everybodyConnects brings the sample and its shadows to the broker, which hands them what it retains.
func (t *trial) everybodyConnects() {
	for _, n := range t.members {
		n.connect()
	}
	t.online = len(t.shadows)
	for _, msg := range t.retained {
		t.count.deliveries += t.online
		t.count.delivered += t.online * len(msg)
	}
}

// settled runs until the fleet is at epoch e and nobody waits for an answer.
func (t *trial) settled(out *row, e crypto.Epoch) error {
	start := t.mono
	took, ok := t.run(limit, func() bool {
		if out.sealing == 0 && t.sealing(e) {
			out.sealing = t.mono - start
		}
		return out.sealing > 0 && t.waiting == 0 && t.agree(e)
	})
	if out.took = took; !ok {
		return fmt.Errorf("after %v %d members still wait for an answer (sampled ones at epoch %v: %v, sealing: %v)", took, t.waiting, e, t.agree(e), out.sealing > 0)
	}
	return nil
}

// sealing reports whether every sampled gateway seals under epoch e or a newer one.
func (t *trial) sealing(e crypto.Epoch) bool {
	for _, n := range t.gateways {
		k := n.ring.Send(groupName)
		if k == nil || k.Epoch.Compare(e) < 0 {
			return false
		}
	}
	return true
}

// boot starts every member anew, without keys: after a power cut, or when a fleet is rolled out.
func (t *trial) boot(out *row) error {
	leader, err := t.mustLead()
	if err != nil {
		return err
	}
	t.everybodyConnects()
	return t.settled(out, leader.newest())
}

// rotate has the leader start an epoch, as the clock does every hour.
func (t *trial) rotate(out *row) error {
	leader, err := t.mustLead()
	if err != nil {
		return err
	}
	var refused error
	leader.do(func() { refused = leader.m.Rotate(t.now(), groupName) })
	if refused != nil {
		return refused
	}
	return t.settled(out, leader.newest())
}

// reconnect has the broker lose every member's connection and get it back.
func (t *trial) reconnect(out *row) error {
	leader, err := t.mustLead()
	if err != nil {
		return err
	}
	t.online = 0
	for _, n := range t.members {
		n.disconnect()
	}
	t.run(time.Second, nil)
	t.everybodyConnects()
	return t.settled(out, leader.newest())
}

// revoke publishes a policy that locks a member out.
func (t *trial) revoke(out *row) error {
	if _, err := t.mustLead(); err != nil {
		return err
	}
	before := t.signed
	next := *t.doc
	next.Version, next.Previous, next.RevokedNames = next.Version+1, before.Hash, []string{"stolen"}
	t.doc = &next
	if err := t.sign(); err != nil {
		return err
	}
	t.publish(control.PolicyTopic(prefix), t.signed.Raw, true)
	return t.settled(out, crypto.Epoch{PolicyVersion: next.Version})
}

// quietTime is how long nothing happens but what happens always.
const quietTime = 10 * time.Minute

// quiet lets time pass, in which gateways have their authority renewed and keepers show that they live.
func (t *trial) quiet(out *row) error {
	for range int(quietTime / time.Minute) {
		t.phase++ // a member renews at most once in a minute
		t.run(time.Minute, nil)
	}
	t.run(limit, func() bool { return t.waiting == 0 })
	out.took = quietTime
	return nil
}

// loseLeader cuts the leader off and waits for another keeper to lead.
func (t *trial) loseLeader(out *row) error {
	leader, err := t.mustLead()
	if err != nil {
		return err
	}
	leader.disconnect()
	took, ok := t.run(time.Minute, func() bool { return t.leader() != nil })
	if out.took = took; !ok {
		return errors.New("nobody has taken over within a minute")
	}
	return nil
}

// judge holds the results to what the protocol promises.
func judge(results []*result) error {
	var failed []error
	for _, r := range results {
		fail := func(format string, args ...any) {
			failed = append(failed, fmt.Errorf("%d gateways, %d subscribers: %s", r.gateways, r.subscribers, fmt.Sprintf(format, args...)))
		}
		rotate, revoke := r.row(scenarioRotate), r.row(scenarioRevoke)
		if n := rotate.sent["epoch"]; n != 1 {
			fail("a rotation took %d announcements, want 1", n)
		}
		if asked := rotate.sent["hello"] + rotate.sent["grant"] + rotate.sent["confirm"]; asked != 0 {
			fail("a rotation took %d questions and answers, want none", asked)
		}
		if n, most := revoke.sent["grant"], r.members()+4+r.members()/10; n > most {
			fail("a revocation took %d Grants, want %d at most", n, most)
		}
		if gap := r.row(scenarioTakeover).took; gap >= 3*control.LeaseInterval {
			fail("%v without a leader, want less than three leases (%v)", gap, 3*control.LeaseInterval)
		}
		if most := time.Minute * time.Duration(max(r.members(), 100_000)) / 100_000; revoke.keeperCPU >= most {
			fail("a revocation took %v of the keeper's core, want under a minute for 100,000 members", revoke.keeperCPU)
		}
	}
	return errors.Join(failed...)
}
