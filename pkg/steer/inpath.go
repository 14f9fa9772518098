package steer

import (
	"context"
	"log/slog"

	"sealgate/pkg/steer/inpath"
)

// maxFlows bounds the connections of mode nfqueue, those among them that are not established yet.
const maxFlows = 16384

// listenInPath is mode nfqueue.
func listenInPath(ctx context.Context, o Options, log *slog.Logger) (*Steering, error) {
	if err := needCapabilities("steer in mode nfqueue", capNetAdmin, capNetRaw); err != nil {
		return nil, err
	}
	if err := checkSetup(o); err != nil {
		return nil, err
	}
	q, err := inpath.OpenQueue(queueNumber, listenerMark, log)
	if err != nil {
		return nil, err
	}
	carrier := inpath.New(inpath.Config{Ports: o.Ports, MaxFlows: maxFlows, Send: q.Send, MTU: q.MTU})
	ctx, stop := context.WithCancel(ctx)
	s := &Steering{Listener: carrier, stop: stop, done: make(chan struct{}), queue: q, carrier: carrier}
	if err := q.Run(ctx, carrier.Packet); err != nil {
		stop()
		q.Close()
		return nil, err
	}
	if err := clearOthers(o.Mode); err != nil {
		log.Warn("cannot remove what another mode has left; it may keep devices cut off", "error", err.Error())
	}
	close(s.done)
	context.AfterFunc(ctx, carrier.Shut)
	return s, nil
}

// Dropped are packets of mode nfqueue that were not carried, by why.
type Dropped struct {
	Strangers uint64 // of connections that began before gatewayd; their sender is reset
	Malformed uint64 // fragments, what is cut off, what is signed
	Damaged   uint64 // with a wrong checksum
	Full      uint64 // SYN over the number of connections that are carried
	Unread    uint64 // times that the kernel had no room for those that it had for us
	Unsent    uint64 // the kernel did not take one of ours, or a verdict
}

// Dropped reads the counts. ok is false in other modes.
func (s *Steering) Dropped() (d Dropped, ok bool) {
	if s.carrier == nil {
		return Dropped{}, false
	}
	c, _ := s.carrier.Counts()
	d = Dropped{Strangers: c.Strangers, Malformed: c.Malformed, Damaged: c.Damaged, Full: c.Full}
	d.Unsent, d.Unread = s.queue.Failures()
	return d, true
}
