package subscriber

import (
	"container/list"

	"sealgate/pkg/crypto"
)

// windowSize is how many numbers a [crypto.Window] covers.
const windowSize = 1024

// streamID names a stream at the receiver. The topic is part of it: the stream id was drawn by the sender, and
// only together with the topic does it select a key (F6).
type streamID struct {
	kid   crypto.Kid
	topic string
}

// stream is the receiving end of one stream.
type stream struct {
	id      streamID
	group   string
	opener  *crypto.OpenStream
	window  crypto.Window
	started bool
	first   uint64 // the number it began with; nothing below was ever missing
	highest uint64
	floor   uint64 // with floored: numbers up to it were judged before the stream was evicted
	floored bool
	tags    tagRing
	element *list.Element // in Receiver.recent; nil while not remembered
}

// accept asks the window about an authenticated message and sets its status. A gap before it goes
// to m.Gap; m.late tells that the message fills one.
func (s *stream) accept(m *Message, e *crypto.Envelope) {
	if s.floored && e.Seq <= s.floor {
		m.Status = StatusReplayed
		return
	}
	switch verdict := s.window.Check(e.Seq); verdict {
	case crypto.Duplicate:
		m.Status = StatusDuplicate
		if tag, ok := s.tags.get(e.Seq); ok && tag != e.Tag() {
			m.Status = StatusConflict
		}
		return
	case crypto.TooOld:
		m.Status = StatusReplayed
		return
	}
	m.Status = StatusOK
	gap, gapped := s.window.Commit(e.Seq)
	will := s.id.kid.StreamID().Will()
	switch {
	case !s.started && s.floored && !will && e.Seq > s.floor+1:
		m.Gap = e.Seq - s.floor - 1 // what an evicted stream missed meanwhile
	case !s.started:
	case gapped && !will:
		m.Gap = gap.Len()
	case e.Seq < s.highest && e.Seq > s.first && !will:
		m.late = true
	}
	if !s.started {
		s.started, s.first, s.highest = true, e.Seq, e.Seq
		if s.floored {
			s.first = s.floor
		}
	}
	s.first, s.highest = min(s.first, e.Seq), max(s.highest, e.Seq)
	s.tags.put(e.Seq, s.highest, e.Tag())
}

// judgeRetained tells what a retained message is, without moving the window.
func (s *stream) judgeRetained(e *crypto.Envelope) Status {
	if s.floored && !s.started && e.Seq < s.floor || s.started && e.Seq < s.highest {
		return StatusStale
	}
	if s.started && e.Seq == s.highest {
		if tag, ok := s.tags.get(e.Seq); ok && tag != e.Tag() {
			return StatusConflict
		}
		return StatusDuplicate
	}
	return StatusOK
}

// top is the highest number that was judged.
func (s *stream) top() uint64 { return max(s.highest, s.floor) }

// tagRing remembers the authentication tags of the numbers in the window, to tell a
// repetition from another message under the same number. It grows with its stream.
type tagRing struct{ slots []tagSlot }

type tagSlot struct {
	seq  uint64
	tag  uint32
	used bool
}

func (t *tagRing) put(seq, highest uint64, tag uint32) {
	if len(t.slots) == 0 {
		t.slots = make([]tagSlot, 8)
	}
	if seq+windowSize <= highest {
		return
	}
	for len(t.slots) < windowSize {
		old := t.slots[seq%uint64(len(t.slots))]
		if !old.used || old.seq == seq {
			break
		}
		t.grow()
	}
	slot := &t.slots[seq%uint64(len(t.slots))]
	if !slot.used || slot.seq <= seq {
		*slot = tagSlot{seq, tag, true}
	}
}

// grow doubles the ring. Numbers that shared no slot before share none after.
func (t *tagRing) grow() {
	next := make([]tagSlot, 2*len(t.slots))
	for _, s := range t.slots {
		if s.used {
			next[s.seq%uint64(len(next))] = s
		}
	}
	t.slots = next
}

func (t *tagRing) get(seq uint64) (uint32, bool) {
	if len(t.slots) == 0 {
		return 0, false
	}
	s := t.slots[seq%uint64(len(t.slots))]
	return s.tag, s.used && s.seq == seq
}

// floors remembers how far evicted streams had come, so that a broker cannot make a receiver forget and
// then replay (F17). The oldest are given up when there are too many.
type floors struct {
	limit int
	at    map[streamID]uint64
	order []streamID // by age; may name some that are gone
}

func (f *floors) set(id streamID, top uint64) {
	if _, known := f.at[id]; !known {
		for len(f.at) >= f.limit && len(f.order) > 0 {
			delete(f.at, f.order[0])
			f.order = f.order[1:]
		}
		f.order = append(f.order, id)
	}
	f.at[id] = top
}

// forget removes the floor of a stream that is remembered in full again.
func (f *floors) forget(id streamID) {
	if _, known := f.at[id]; known {
		delete(f.at, id)
		f.compact()
	}
}

// prune drops the floors of streams whose key is gone: nothing of them can be opened.
func (f *floors) prune(alive func(streamID) bool) {
	for id := range f.at {
		if !alive(id) {
			delete(f.at, id)
		}
	}
	f.compact()
}

// compact keeps order from outgrowing what it orders.
func (f *floors) compact() {
	if len(f.order) < 2*len(f.at)+64 {
		return
	}
	kept := f.order[:0:0]
	for _, id := range f.order {
		if _, alive := f.at[id]; alive {
			kept = append(kept, id)
		}
	}
	f.order = kept
}
