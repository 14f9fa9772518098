package member

import (
	"crypto/rand"
	"log/slog"
	"testing"
	"time"

	"sealgate/pkg/control"
	"sealgate/pkg/crypto"
	"sealgate/pkg/session"
)

// TestLeasesPassAFullQueue: a whole fleet's questions fill a keeper's queue. The leader's lease gets in all the same, and not
// without bound.
func TestLeasesPassAFullQueue(t *testing.T) {
	caKey, caCert, err := crypto.NewCA("plant", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, cert, err := crypto.IssueMember(caKey, caCert, crypto.RoleGateway, "gw1", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := crypto.ParseIdentity(key, cert, caCert)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := crypto.NewTrust("plant", caCert)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := prepare(Config{Identity: id, Trust: trust, Log: slog.New(slog.DiscardHandler)}) // nothing is taken out of its queue
	if err != nil {
		t.Fatal(err)
	}
	lease := control.Lease{Boot: [16]byte{1}, Tick: 1, Groups: []control.LeaseGroup{{Name: "default", Generation: 1, Number: 1}}}
	signed, err := id.Sign(lease.Marshal(), string(control.KindLease))
	if err != nil {
		t.Fatal(err)
	}
	for range maxQueued + 44 {
		m.arrived(&session.Message{Topic: "sealgate/control", Payload: []byte("a Hello")})
	}
	if n := m.Counters().Dropped; n != 44 {
		t.Fatalf("%d dropped", n)
	}
	for range maxUrgent + 1 {
		m.arrived(&session.Message{Topic: "sealgate/control", Payload: signed})
	}
	if len(m.urgent) != maxUrgent || m.Counters().Dropped != 45 || len(m.inbox) != maxQueued {
		t.Errorf("%d leases wait, %d messages dropped, %d in the queue", len(m.urgent), m.Counters().Dropped, len(m.inbox))
	}
}
