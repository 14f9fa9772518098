package fleet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/pkg/control"
	sealcrypto "sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
	"sealgate/pkg/subscriber"
	"sealgate/test/lab"
)

// tpm is a signer like a TPM's: the key cannot be had, one signature is made at a time, and now and then the answer is
// that it should be tried again.
type tpm struct {
	mu    sync.Mutex
	key   *ecdsa.PrivateKey // guarded by mu
	asked int               // guarded by mu
	every int               // each such signature fails; 0: none
}

var errRetry = errors.New("TPM_RC_RETRY: the TPM was not able to start the command")

func newTPM(t *testing.T, every int) *tpm {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &tpm{key: key, every: every}
}

func (k *tpm) Public() crypto.PublicKey { return k.key.Public() }

func (k *tpm) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if opts.HashFunc() != crypto.SHA256 || len(digest) != 32 {
		return nil, errors.New("TPM_RC_SCHEME: ECDSA over SHA-256 only")
	}
	if k.asked++; k.every > 0 && k.asked%k.every == 0 {
		return nil, errRetry
	}
	return k.key.Sign(rand.Reader, digest, opts) // a TPM has randomness of its own
}

func (k *tpm) signatures() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked
}

// tokens is a fleet in which everybody's key, also the operator's, is in a TPM, under an intermediate of the works' own root.
type tokens struct {
	*fleet
	pki      *lab.PKI
	operator *sealcrypto.Identity
	doc      *policy.Document
	all      []*tpm // of the members
}

func newTokens(t *testing.T) *tokens {
	t.Helper()
	x := &tokens{fleet: &fleet{t: t, url: startBroker(t)}, pki: lab.NewPKI(t)}
	var err error
	if x.trust, err = sealcrypto.NewTrust("plant", x.pki.Root); err != nil {
		t.Fatal(err)
	}
	x.operator, _ = x.enrol(sealcrypto.RoleOperator, "olga", 0)
	g := policy.DefaultGroup(group)
	g.Topics, g.Publish, g.Read, g.Keepers = []string{"data/#"}, []string{"gw*", "pub"}, []string{"*"}, []string{"gw1", "gw2"}
	g.ActivateAfter, g.Checkpoint, g.Freshness = time.Second, time.Second, time.Minute // so a confirmation each five seconds
	x.doc = &policy.Document{Fleet: "plant", Version: 1, Unmatched: policy.WordDeny, Groups: []policy.Group{g}}
	x.signed = x.sign(x.doc, x.operator)
	for _, name := range []string{"gw1", "gw2", "gw3"} {
		id, k := x.enrol(sealcrypto.RoleGateway, name, 4)
		m, err := member.Start(t.Context(), member.Config{Identity: id, Trust: x.trust, Policy: x.signed, Broker: []string{x.url}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		x.members, x.all = append(x.members, m), append(x.all, k)
	}
	x.keeper = x.members[0]
	return x
}

// enrol certifies the key of a new token, of which each so-manyth signature fails.
func (x *tokens) enrol(role sealcrypto.Role, name string, every int) (*sealcrypto.Identity, *tpm) {
	x.t.Helper()
	k, end := newTPM(x.t, every), time.Now().AddDate(1, 0, 0)
	leaf, middle := x.pki.Certify(x.t, k.Public(), sealcrypto.MemberURI("plant", role, name), end, end)
	id, err := sealcrypto.NewIdentity(k, leaf, middle)
	if err != nil {
		x.t.Fatal(err)
	}
	return id, k
}

// client connects a subscriber's program.
func (x *tokens) client(name string, o subscriber.Options) *subscriber.Client {
	x.t.Helper()
	id, k := x.enrol(sealcrypto.RoleSubscriber, name, 4)
	x.all = append(x.all, k)
	o.Member, o.Broker, o.Log = &subscriber.Loaded{Identity: id, Trust: x.trust, Policy: x.signed}, x.url, slog.New(slog.DiscardHandler)
	ctx := lab.Within(x.t, 60*time.Second)
	c, err := subscriber.Connect(ctx, o)
	if err == nil {
		err = c.Ready(ctx)
	}
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { c.Close() })
	return c
}

// accepted reports whether messages of every kind have been taken by somebody.
func (x *tokens) accepted(more control.Status) bool {
	sum := maps.Clone(more.Counters)
	for _, m := range x.members {
		for c, n := range m.Status().Counters {
			sum[c] += n
		}
	}
	return !slices.ContainsFunc([]control.Kind{control.KindHello, control.KindGrant, control.KindEpoch, control.KindConfirm, control.KindLease, control.KindCheckpoint, control.KindPolicy},
		func(k control.Kind) bool { return sum[control.Counter{Kind: k, Result: control.ResultAccepted}] == 0 })
}

// TestTokensCarryTheFleet: each kind of control message is signed by a token, of which every fourth signature fails. Nobody notices,
// because a signer is asked once more; a token that fails for longer is in package control's tests.
func TestTokensCarryTheFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	x := newTokens(t)
	got := make(chan string, 16)
	reader := x.client("alice", subscriber.Options{ReadOnly: true, Handler: func(m *subscriber.Message) {
		if m.Status == subscriber.StatusOK {
			got <- string(m.Payload)
		}
	}})
	if err := reader.Subscribe(lab.Within(t, 30*time.Second), 1, "data/#"); err != nil {
		t.Fatal(err)
	}
	writer := x.client("pub", subscriber.Options{})
	through := func(text string) {
		t.Helper()
		if err := writer.Publish(lab.Within(t, 30*time.Second), "data/1", []byte(text), 1, false); err != nil {
			t.Fatal(err)
		}
		select {
		case have := <-got:
			if have != text {
				t.Fatalf("%q was opened, %q expected", have, text)
			}
		case <-lab.Within(t, 30*time.Second).Done():
			t.Fatalf("%q was not opened", text)
		}
	}
	through("first")
	before := x.newest()
	for limit := lab.Within(t, 60*time.Second); x.newest().Compare(before) <= 0 && limit.Err() == nil; {
		_, _ = x.keeper.Rotate(limit, group) // it may have to try again
	}
	x.await(sealcrypto.Epoch{PolicyVersion: 1, Generation: before.Generation, Number: before.Number + 1}, time.Minute)
	through("after a rotation")
	next := *x.doc
	next.Version, next.Previous, next.RevokedNames = 2, x.signed.Hash, []string{"mallory"}
	x.publishPolicy(x.sign(&next, x.operator))
	x.await(sealcrypto.Epoch{PolicyVersion: 2, Generation: before.Generation + 1, Number: 1}, time.Minute)
	through("after a revocation")
	x.until("every kind is signed, and taken", func() bool { return x.accepted(reader.Status()) })
	x.members[0].Close()
	x.keeper, x.members = x.members[1], x.members[1:]
	x.until("the second keeper leads", func() bool { s := x.keeper.Status(); return len(s.Groups) == 1 && s.Groups[0].Leading })
	through("after a takeover")
	for i, k := range x.all {
		if k.signatures() == 0 {
			t.Errorf("token %d was never asked", i)
		}
	}
}

// sign signs a policy and verifies it.
func (f *fleet) sign(doc *policy.Document, by *sealcrypto.Identity) *policy.Signed {
	f.t.Helper()
	raw, err := doc.Sign(by)
	if err != nil {
		f.t.Fatal(err)
	}
	signed, err := policy.Verify(f.trust, raw, time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	return signed
}

// publishPolicy puts a policy onto the broker, as `sealctl policy publish` does.
func (f *fleet) publishPolicy(p *policy.Signed) {
	f.t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(strings.Replace(f.url, "mqtt://", "tcp://", 1)).SetClientID("operator"))
	for _, do := range []func() mqtt.Token{c.Connect, func() mqtt.Token { return c.Publish(control.PolicyTopic(member.DefaultPrefix), 1, true, p.Raw) }} {
		if token := do(); !token.WaitTimeout(20*time.Second) || token.Error() != nil {
			f.t.Fatalf("publish the policy: %v", token.Error())
		}
	}
	c.Disconnect(250)
}

// newest is the newest epoch at the keeper.
func (f *fleet) newest() sealcrypto.Epoch {
	if k := f.keeper.State().Keys.Keys(group); len(k) > 0 {
		return k[0].Epoch
	}
	return sealcrypto.Epoch{}
}

// until waits until ok holds.
func (f *fleet) until(what string, ok func() bool) {
	f.t.Helper()
	limit, tick := lab.Within(f.t, time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.Done():
			f.t.Fatalf("never: %s", what)
		}
	}
}
