package control

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sealgate/pkg/checkpoint"
	"sealgate/pkg/crypto"
	"sealgate/pkg/policy"
)

// Checkpoints (spec 4.7, 6.11): what this member's data plane has sealed goes out signed, and what others
// say they sealed comes in verified. A checkpoint.Ledger makes events of it.

// StreamHead is what a data plane has sealed of one stream since it last said.
type StreamHead struct {
	Group  string
	Topic  [32]byte // SHA-256 of the topic name
	Key    crypto.KeyID
	Stream crypto.StreamID
	From   uint64 // the first number since the head before
	Next   uint64 // the number after the last one sealed
	Burned []crypto.Range
	Final  bool // the stream has ended
}

// ReceivedCheckpoint is a verified checkpoint of a member that may publish in its group.
type ReceivedCheckpoint struct {
	From    crypto.Member
	Message *checkpoint.Message
}

// checkpointState is what is to be said of a group at the end of its interval.
type checkpointState struct {
	at      time.Duration // the end of the interval; never: nothing was ever reported
	number  uint64        // of the next message
	heard   bool          // others' checkpoints are subscribed to
	pending map[crypto.Kid]*checkpoint.Stream
}

// Checkpoint takes the heads of streams that have changed since the last call, also if there are none: from the first
// call on the member publishes a checkpoint of each group it may publish in, at the policy's interval.
func (m *Machine) Checkpoint(now Time, heads []StreamHead) {
	m.at(now)
	if !m.checkpoints {
		m.checkpoints = true
		m.startCheckpoints()
	}
	for i := range heads {
		if g := m.groups[heads[i].Group]; g != nil && g.sender {
			m.addHead(g, &heads[i])
		}
	}
	m.settle()
}

// EndCheckpoints publishes what there is to say and that nothing more comes, so that nobody takes the silence that
// follows for a broker's doing. Call it before the last Take, while connected.
func (m *Machine) EndCheckpoints(now Time) {
	m.at(now)
	if m.connected && m.policy != nil && m.checkpoints {
		for _, g := range m.ordered() {
			if g.sender {
				m.publishCheckpoint(g, checkpoint.Ending)
			}
		}
	}
	m.checkpoints = false
	m.startCheckpoints()
	m.settle()
}

// addHead joins a head with what is pending of its stream.
func (m *Machine) addHead(g *group, h *StreamHead) {
	kid := crypto.NewKid(h.Key, h.Stream)
	s := g.checkpoint.pending[kid]
	if s == nil {
		i := slices.IndexFunc(g.keys, func(k *key) bool { return k.id == h.Key })
		if i < 0 || len(g.checkpoint.pending) >= MaxPendingStreams {
			m.counters[Counter{KindCheckpoint, ResultRefused}]++
			return
		}
		s = &checkpoint.Stream{Topic: checkpoint.TopicDigest(g.keys[i].secret, g.name, h.Topic), Kid: kid, From: h.From, Next: h.From}
		if g.checkpoint.pending == nil {
			g.checkpoint.pending = make(map[crypto.Kid]*checkpoint.Stream)
		}
		g.checkpoint.pending[kid] = s
	}
	s.From, s.Next = min(s.From, h.From), min(max(s.Next, h.Next), crypto.MaxSequence+1)
	s.Final = s.Final || h.Final
	for _, r := range h.Burned {
		s.Burned = addBurned(s.Burned, r)
	}
}

// addBurned appends a range behind the others, joined with the last one if they adjoin. Ranges that find no room are
// not told of: a receiver then takes them for a gap.
func addBurned(list []crypto.Range, r crypto.Range) []crypto.Range {
	n := len(list)
	switch {
	case r.To < r.From || n > 0 && r.To <= list[n-1].To:
		return list
	case n > 0 && r.From <= list[n-1].To+1:
		list[n-1].To = r.To
		return list
	case n >= checkpoint.MaxBurned:
		return list
	}
	return append(list, r)
}

// startCheckpoints begins or ends each group's interval, with a session or a policy. One that has passed
// begins anew at random: a fleet that comes back does not speak at once.
func (m *Machine) startCheckpoints() {
	for _, g := range m.groups {
		c, now := &g.checkpoint, m.now.Mono
		switch {
		case !m.checkpoints || !g.sender:
			c.at, c.pending = never, nil
		case c.at <= now || c.at > now+g.def.Checkpoint:
			c.at = now + m.jitter(g.def.Checkpoint)
		}
	}
}

// runCheckpoints publishes a group's checkpoint at the end of its interval.
func (m *Machine) runCheckpoints(g *group) {
	if g.checkpoint.at > m.now.Mono {
		return
	}
	g.checkpoint.at = never
	if g.sender {
		g.checkpoint.at = m.now.Mono + g.def.Checkpoint - m.jitter(g.def.Checkpoint/10)
		m.publishCheckpoint(g, checkpoint.Last)
	}
}

// publishCheckpoint publishes what is pending, in as many messages as it takes; one if there is nothing: that
// a member lives is news, too.
func (m *Machine) publishCheckpoint(g *group, last checkpoint.State) {
	streams := slices.SortedFunc(maps.Values(g.checkpoint.pending), func(a, b *checkpoint.Stream) int { return bytes.Compare(a.Kid[:], b.Kid[:]) })
	g.checkpoint.pending = nil
	topic := CheckpointTopic(m.cfg.Prefix, g.name, m.self.Name)
	for first := true; first || len(streams) > 0; first = false {
		n := min(len(streams), checkpoint.MaxStreams)
		msg := checkpoint.Message{Group: g.name, Boot: m.lease.boot, Number: g.checkpoint.number, State: checkpoint.More}
		for _, s := range streams[:n] {
			msg.Streams = append(msg.Streams, trimBurned(*s))
		}
		if n == len(streams) {
			msg.State = last
		}
		if _, err := m.publish(KindCheckpoint, g.name, topic, msg.Marshal(), false); err != nil {
			g.checkpoint.restore(streams) // the next one tells of them
			return
		}
		g.checkpoint.number++
		streams = streams[n:]
	}
}

// restore takes back what could not be told.
func (c *checkpointState) restore(streams []*checkpoint.Stream) {
	c.pending = make(map[crypto.Kid]*checkpoint.Stream, len(streams))
	for _, s := range streams {
		c.pending[s.Kid] = s
	}
}

// trimBurned keeps the burned ranges within what the stream is said to have sealed.
func trimBurned(s checkpoint.Stream) checkpoint.Stream {
	s.Burned = slices.DeleteFunc(slices.Clone(s.Burned), func(r crypto.Range) bool { return r.From < s.From || r.To >= s.Next })
	if len(s.Burned) == 0 {
		s.Burned = nil
	}
	return s
}

// WantCheckpoints names the groups of which the checkpoints of others are wanted, in place of those named before. With
// Config.Checkpoints all are, whatever is named here. Of groups that this member may not read there are none.
func (m *Machine) WantCheckpoints(now Time, groups []string) {
	m.at(now)
	m.wanted = make(map[string]bool, len(groups))
	for _, name := range groups {
		m.wanted[name] = true
	}
	for _, g := range m.ordered() {
		if m.connected && g.subscribed {
			m.hearCheckpoints(g, m.wantsCheckpoints(g))
		}
	}
	m.settle()
}

func (m *Machine) wantsCheckpoints(g *group) bool {
	return (m.cfg.Checkpoints || m.wanted[g.name]) && g.def.MayRead(m.self)
}

// hearCheckpoints begins or ends the subscription to a group's checkpoints.
func (m *Machine) hearCheckpoints(g *group, yes bool) {
	topic := CheckpointTopic(m.cfg.Prefix, g.name, "+")
	switch {
	case yes == g.checkpoint.heard:
	case yes:
		m.out.Subscribe = append(m.out.Subscribe, topic)
	default:
		m.out.Unsubscribe = append(m.out.Unsubscribe, topic)
	}
	g.checkpoint.heard = yes
}

// receiveCheckpoint takes another member's checkpoint.
func (m *Machine) receiveCheckpoint(name, sender string, msg []byte) {
	g := m.groups[name]
	if g == nil || !m.wantsCheckpoints(g) {
		m.event(Event{Kind: KindCheckpoint, Result: ResultIgnored, Group: name, Detail: "not asked for"})
		return
	}
	payload, from, err := m.verify(msg, KindCheckpoint)
	var c *checkpoint.Message
	if err == nil {
		c, err = checkpoint.Parse(payload)
	}
	if err == nil {
		err = checkCheckpoint(g.def, c, name, sender, from)
	}
	if err != nil {
		m.refuse(KindCheckpoint, name, from, err)
		return
	}
	m.counters[Counter{KindCheckpoint, ResultAccepted}]++ // no event: there are many
	if len(m.out.Checkpoints) >= MaxCheckpoints {
		m.out.Checkpoints = append(m.out.Checkpoints[:0], m.out.Checkpoints[MaxCheckpoints/2:]...)
		m.alarm(Event{Kind: KindCheckpoint, Result: ResultNote, Detail: "checkpoints arrive faster than they are fetched; the oldest are lost"})
	}
	m.out.Checkpoints = append(m.out.Checkpoints, ReceivedCheckpoint{from, c})
}

// checkCheckpoint holds a checkpoint against the group and sender that its topic names.
func checkCheckpoint(g *policy.Group, c *checkpoint.Message, group, sender string, from crypto.Member) error {
	switch {
	case !g.MayPublish(from):
		return ErrNotEntitled
	case c.Group != group || from.Name != sender:
		return fmt.Errorf("checkpoint of %.80q in group %.80q on the topic of %.80q in group %s: %w", from.Name, c.Group, sender, group, ErrTopic)
	}
	return nil
}

// CheckpointTopic is where a member publishes its checkpoints of a group.
func CheckpointTopic(prefix, group, member string) string {
	return prefix + checkpointLevel + group + "/" + member
}

// ofCheckpointTopic is the inverse of CheckpointTopic.
func ofCheckpointTopic(prefix, topic string) (group, member string, ok bool) {
	rest, ok := strings.CutPrefix(topic, prefix+checkpointLevel)
	group, member, found := strings.Cut(rest, "/")
	return group, member, ok && found && policy.ValidName(group) && policy.ValidName(member)
}

// CheckpointInterval is the interval of a group's checkpoints by the policy in force, 0 if it has no such group.
func (m *Machine) CheckpointInterval(group string) time.Duration {
	if g := m.groups[group]; g != nil {
		return g.def.Checkpoint
	}
	return 0
}

// Digest returns the digest of a topic, given as the SHA-256 of its name, under a key of a keyring, as a
// checkpoint.Ledger asks for it.
func Digest(ring *crypto.Keyring, group string, id crypto.KeyID, topic [32]byte) (checkpoint.Digest, bool) {
	k := ring.Find(group, id)
	if k == nil {
		return checkpoint.Digest{}, false
	}
	return checkpoint.TopicDigest(k.Secret, group, topic), true
}
