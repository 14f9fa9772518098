package bypass

import (
	"syscall"
	"time"

	"sealgate/test/lab"
)

// state is a state of a gateway, and how it comes there from the one before, under fire.
type state struct {
	letter string // in the matrix
	name   string
	serves bool // devices find somebody to talk to
	cuts   bool // nothing at all crosses a bridge: it is the classifier that passes on what is not steered
	enter  func(s *site)
}

// lifetime is what a gateway goes through.
func lifetime() []state {
	return []state{
		{name: "undefended", serves: true, enter: func(*site) {}},
		{letter: "n", name: "set up, daemon never started", cuts: true, enter: func(s *site) {
			s.Setup(s.t)
			s.guarded, _ = s.wire.Frames()
		}},
		{letter: "u", name: "daemon up", serves: true, enter: func(s *site) {
			s.StartControld(s.t)
			s.mode.start(s)
			s.awaitServed(s.volley)
		}},
		{letter: "l", name: "reload", serves: true, enter: func(s *site) {
			s.Gatewayd.Signal(syscall.SIGHUP)
			s.volley()
			if err := s.Gatewayd.AwaitLine(lab.Within(s.t, 40*time.Second), "reload:"); err != nil {
				s.t.Error(err)
			}
		}},
		{letter: "h", name: "handed over (nfqueue: stopped and started)", serves: true, enter: (*site).handOver},
		{letter: "k", name: "kill -9", enter: func(s *site) { s.Gatewayd.Kill() }},
		{letter: "r", name: "restart", serves: true, enter: func(s *site) {
			s.mode.start(s)
			s.awaitServed(s.volley)
		}},
		{letter: "i", name: "interface re-created", serves: true, enter: func(s *site) {
			s.Topo.CutLAN(s.t)
			s.Topo.LayLAN(s.t)
			s.awaitServed(s.volley)
		}},
		{letter: "x", name: "interface re-created after kill -9", cuts: true, enter: func(s *site) {
			s.Gatewayd.Kill()
			s.Topo.CutLAN(s.t)
			s.Topo.LayLAN(s.t)
		}},
		{letter: "a", name: "restart after that", serves: true, enter: func(s *site) {
			s.mode.start(s)
			s.awaitServed(s.volley)
		}},
	}
}

// handOver has a new gatewayd take over. The old one, which would go on with the connections that it has, is killed.
func (s *site) handOver() {
	s.t.Helper()
	old := s.Gatewayd
	if s.mode.passes {
		old.Signal(syscall.SIGTERM)
		s.volley()
		if _, err := old.Wait(lab.Within(s.t, time.Minute)); err != nil {
			s.t.Error(err)
		}
		s.mode.start(s)
	} else {
		s.mode.start(s, "-takeover")
		s.says("gatewayd runs")
	}
	s.awaitServed(s.volley)
	old.Kill()
}

// live takes the site through all states, and ends with all frames sent and the capture complete.
func (s *site) live() {
	s.t.Helper()
	s.settle() // from here on the neighbours know each other
	for i, st := range lifetime() {
		s.state, s.where = i, st.name
		st.enter(s)
		own := s.kept
		if st.serves {
			own = s.open()
			if s.kept == nil {
				s.kept = s.open()
			}
		}
		s.volley()
		s.inject(own)
		s.inject(s.kept)
		if !(st.cuts && s.mode.bridge) {
			s.settle()
		}
		if st.serves {
			s.kept = s.open() // what they are now, is old in the next state
		}
	}
	if err := s.wire.Stop(); err != nil {
		s.t.Fatal(err)
	}
}
