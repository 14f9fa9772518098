package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
)

const fleetName = "plant"

// epoch is when virtual time began.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// pool is the fleet's CA and the certificates of all members that were ever wanted. Making one
// takes as long as a Grant, so that fleets share them.
type pool struct {
	caKey, caCert []byte
	trust         *crypto.Trust
	authority     *crypto.Identity

	mu   sync.Mutex
	made map[string]*credential // guarded by mu
}

// credential is an identity in little memory.
type credential struct {
	key ed25519.PrivateKey
	der []byte
}

func newPool() (*pool, error) {
	p := &pool{made: map[string]*credential{}}
	var err error
	if p.caKey, p.caCert, err = crypto.NewCA(fleetName, rand.Reader, epoch); err != nil {
		return nil, err
	}
	if p.trust, err = crypto.NewTrust(fleetName, p.caCert); err != nil {
		return nil, err
	}
	p.authority, err = crypto.ParseAuthority(p.caKey, p.caCert)
	return p, err
}

func (p *pool) credential(role crypto.Role, name string) (*credential, error) {
	p.mu.Lock()
	known := p.made[name]
	p.mu.Unlock()
	if known != nil {
		return known, nil
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := crypto.CertifyMember(p.caKey, p.caCert, role, name, pub, rand.Reader, epoch)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(cert)
	if block == nil {
		return nil, fmt.Errorf("certificate of %s: no PEM", name)
	}
	c := &credential{key, block.Bytes}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made[name] = c
	return c, nil
}

func (p *pool) identity(role crypto.Role, name string) (*crypto.Identity, error) {
	c, err := p.credential(role, name)
	if err != nil {
		return nil, err
	}
	return c.identity()
}

func (c *credential) identity() (*crypto.Identity, error) {
	cert, err := x509.ParseCertificate(c.der)
	if err != nil {
		return nil, err
	}
	return crypto.NewIdentity(c.key, cert)
}

// shadow is a member without a machine. It follows a real one: when that asks the keepers
// something, the shadow asks the same, under its own name, nonce and inbox.
type shadow struct {
	w     *world
	who   *credential
	inbox [16]byte
	open  [2]*control.Hello // asked and not answered, by what is wanted
	tries [2]int
}

// addShadow makes a shadow of n with an inbox of its own.
func (w *world) addShadow(n *node, role crypto.Role, name string) error {
	c, err := w.pool.credential(role, name)
	if err != nil {
		return err
	}
	s := &shadow{w: w, who: c}
	w.rand.Read(s.inbox[:])
	w.shadows = append(w.shadows, s)
	w.inboxes[control.InboxTopic(prefix, s.inbox)] = s
	n.shadows = append(n.shadows, s)
	return nil
}

// follow has the shadows of n ask what n has just asked, once in each phase: their repetitions
// are their own. The sample is small, so the shadows spread over the time between two of its members.
func (w *world) follow(n *node, msg []byte) {
	payload, _, err := w.pool.trust.Verify(msg, string(control.KindHello), w.now().Wall)
	if err != nil {
		panic(fmt.Sprintf("a real member's Hello: %v", err))
	}
	h, err := control.ParseHello(payload)
	if err != nil {
		return // another message on the control topic
	}
	if n.copied[h.Want] == w.phase {
		return
	}
	n.copied[h.Want] = w.phase
	h.Public = bytes.Clone(h.Public)
	for _, s := range n.shadows {
		if s.open[h.Want] == nil {
			w.waiting++
		}
		s.open[h.Want], s.tries[h.Want] = h, 0
		w.after(w.jitter(control.GenerationJitter), func() { s.ask(h) })
	}
}

// ask publishes the Hello as the shadow's, and again later until it is answered.
func (s *shadow) ask(h *control.Hello) {
	if s.open[h.Want] != h {
		return
	}
	w := s.w
	own := *h
	own.Inbox = s.inbox
	w.rand.Read(own.Nonce[:])
	id, err := s.who.identity()
	if err != nil {
		panic(err)
	}
	msg, err := id.Sign(own.Marshal(), string(control.KindHello))
	if err != nil {
		panic(err)
	}
	w.publish(control.ControlTopic(prefix), msg, false)
	d := control.HelloBackoffMax
	if s.tries[h.Want] < 16 {
		d = min(control.HelloBackoffMin<<s.tries[h.Want], control.HelloBackoffMax)
	}
	s.tries[h.Want]++
	w.after(d/2+w.jitter(d), func() { s.ask(h) })
}

// answer takes what came to the shadow's inbox. A Grant answers for a Confirm too.
func (s *shadow) answer(kind string, size int) {
	s.w.count.deliveries++
	s.w.count.delivered += size
	if kind == "grant" {
		s.settle(control.WantKeys)
	}
	s.settle(control.WantConfirm)
}

func (s *shadow) settle(want control.Want) {
	if s.open[want] != nil {
		s.open[want] = nil
		s.w.waiting--
	}
}

// kindOf names a message by its topic, and on an inbox by its first CBOR item.
func kindOf(topic string, payload []byte) string {
	switch {
	case topic == control.PolicyTopic(prefix):
		return "policy"
	case strings.HasPrefix(topic, prefix+"/keys/"):
		return "epoch"
	case strings.HasPrefix(topic, prefix+"/checkpoint/"):
		return "checkpoint"
	case bytes.Contains(payload, []byte("\x65hello")):
		return "hello"
	case bytes.Contains(payload, []byte("\x65grant")):
		return "grant"
	case bytes.Contains(payload, []byte("\x67confirm")):
		return "confirm"
	case bytes.Contains(payload, []byte("\x65lease")):
		return "lease"
	}
	return "other"
}
