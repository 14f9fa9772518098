package subscriber

import (
	"container/list"

	"sealgate/pkg/crypto"
)

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
	tags    crypto.Tags
	element *list.Element // in Receiver.recent; nil while not remembered
}

// accept asks the window about an authenticated message and sets its status. A gap before it goes
// to m.Gap; m.late tells that the message fills one. Wills are sent when a connection
// dies, not in turn: theirs are no gaps.
func (s *stream) accept(m *Message, e *crypto.Envelope) {
	switch s.window.Check(e.Seq) {
	case crypto.Duplicate:
		m.Status = StatusDuplicate
		if s.tags.Conflict(&s.window, e.Seq, e.Tag()) {
			m.Status = StatusConflict
		}
		return
	case crypto.TooOld:
		m.Status = StatusReplayed
		return
	}
	m.Status = StatusOK
	will := s.id.kid.StreamID().Will()
	m.late = s.window.Fills(e.Seq) && !will
	gap, gapped := s.window.Commit(e.Seq)
	s.tags.Remember(&s.window, e.Seq, e.Tag())
	if gapped && !will {
		m.Gap = gap.Len()
	}
}

// judgeRetained tells what a retained message is, without moving the window.
func (s *stream) judgeRetained(e *crypto.Envelope) Status {
	top, started := s.window.Highest()
	switch {
	case !started || e.Seq > top:
		return StatusOK
	case s.tags.Conflict(&s.window, e.Seq, e.Tag()):
		return StatusConflict
	case e.Seq == top:
		return StatusDuplicate
	}
	return StatusStale
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
