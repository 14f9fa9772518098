package gateway

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
)

// world is a few devices, two gateways and a broker, in one goroutine. All that happens is drawn from its seed, so that every run of
// the same steps is the same run.
type world struct {
	r          *rand.Rand // of the step that runs
	random     *seeded    // what the gateways take for randomness
	policy     *policy.Document
	table      *policy.Table
	names      *crypto.TopicKey // nil: this world hides no topics
	keys       map[string][]crypto.Key
	state      *State
	epoch      uint64
	generation uint64

	gateways [2]*Gateway
	broker   *modelBroker
	devices  []*modelDevice
	oracle   *oracle
	open_    []*modelLine
	dialled  *wire
	lines    int
	uid      int

	deliveries, resent, refusals int // that anything happened at all
	trace                        func(string)
}

// seeded gives the same bytes in every run.
type seeded struct{ r *rand.Rand }

func (s seeded) Read(p []byte) (int, error) {
	for i := 0; i < len(p); i += 8 {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], s.r.Uint64())
		copy(p[i:], b[:])
	}
	return len(p), nil
}

// broken is what was found wrong. Two of the same kind are the same finding.
type broken struct{ kind, text string }

func (b *broken) Error() string { return b.text }

func (w *world) fail(format string, args ...any) {
	panic(&broken{format, fmt.Sprintf(format, args...)})
}

func newWorld(seed uint64) *world {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{r: r, random: &seeded{rand.New(rand.NewPCG(seed, 2))}, policy: modelPolicy(seed&2 != 0), keys: map[string][]crypto.Key{}, generation: 1}
	var err error
	if w.table, err = w.policy.Table(); err != nil {
		w.fail("%v", err)
	}
	if seed&2 != 0 {
		if w.names, err = crypto.TopicKeyFrom(bytes.Repeat([]byte{7}, crypto.SecretSize)); err != nil {
			w.fail("%v", err)
		}
	}
	w.rotate(false)
	for site := range w.gateways {
		w.gateways[site] = w.newGateway(site)
	}
	w.broker, w.oracle = newModelBroker(w), newOracle(w)
	w.broker.perSub = seed&1 == 1
	for i := range 4 {
		w.devices = append(w.devices, &modelDevice{w: w, id: fmt.Sprintf("device%d", i+1), v: mqttparse.V311, in2: map[uint16]bool{}})
	}
	return w
}

// A step is a number of which all is drawn that it does. Left out, it changes no other one: so a failing run can be cut.
type step uint64

// actions by how often they come.
var actions = []struct {
	weight int
	name   string
	do     func(w *world, d *modelDevice, r *rand.Rand)
}{
	{200, "publish", func(_ *world, d *modelDevice, r *rand.Rand) { d.publish(r) }},
	{200, "carry all", func(_ *world, d *modelDevice, _ *rand.Rand) { d.hops(1 << 30) }},
	{200, "carry some", func(_ *world, d *modelDevice, r *rand.Rand) { d.hops(1 + r.IntN(100)) }},
	{150, "one hop", (*world).oneHop},
	{200, "acknowledge", func(_ *world, d *modelDevice, r *rand.Rand) { d.answer(r, r.IntN(2) == 0) }},
	{40, "send again", func(_ *world, d *modelDevice, r *rand.Rand) { d.again(r) }},
	{40, "subscribe", func(_ *world, d *modelDevice, r *rand.Rand) { d.subscribe(r, false) }},
	{15, "unsubscribe", func(_ *world, d *modelDevice, r *rand.Rand) { d.subscribe(r, true) }},
	{80, "connect", (*world).connect},
	{25, "drop", (*world).drop},
	{8, "disconnect", (*world).disconnect},
	{5, "ping", func(_ *world, d *modelDevice, _ *rand.Rand) {
		if d.can() {
			d.send([]byte{0xc0, 0})
		}
	}},
	{12, "rogue", func(_ *world, d *modelDevice, r *rand.Rand) { d.rogue(r) }},
	{3, "rotate", func(w *world, _ *modelDevice, _ *rand.Rand) { w.rotate(false) }},
	{1, "revoke", func(w *world, _ *modelDevice, _ *rand.Rand) { w.rotate(true) }},
	{1, "gateway dies", (*world).gatewayDies},
	{1, "device forgets", func(_ *world, d *modelDevice, r *rand.Rand) { d.amnesia(r) }},
	{1, "broker forgets", (*world).brokerForgets},
	{3, "rest", func(w *world, _ *modelDevice, r *rand.Rand) { w.rest(r) }},
}

func (d *modelDevice) hops(n int) {
	if d.line != nil {
		d.line.hops(n)
	}
}

func (w *world) oneHop(d *modelDevice, r *rand.Rand) {
	if d.line == nil {
		return
	}
	n := 1 << 30
	if r.IntN(2) == 0 {
		n = 1 + r.IntN(60)
	}
	[]func(int){d.line.up, d.line.broker, d.line.down, d.line.device}[r.IntN(4)](n)
}

// connect comes at any time; with a connection open it is a takeover.
func (w *world) connect(d *modelDevice, r *rand.Rand) {
	if d.line != nil && r.IntN(12) > 0 {
		return
	}
	if d.line != nil && r.IntN(2) == 0 {
		d.line.finish(r)
	}
	d.connect(r, r.IntN(6) == 0)
}

func (w *world) drop(d *modelDevice, r *rand.Rand) {
	if d.line != nil {
		d.line.finish(r)
	}
}

func (w *world) disconnect(d *modelDevice, r *rand.Rand) {
	if d.can() && d.greeted {
		d.send([]byte{0xe0, 0})
		d.ended = true
		if r.IntN(2) == 0 {
			d.line.finish(r)
		}
	}
}

func (w *world) gatewayDies(_ *modelDevice, r *rand.Rand) {
	site := r.IntN(len(w.gateways))
	for _, l := range append([]*modelLine(nil), w.open_...) {
		if l.site == site {
			l.die(r)
		}
	}
	w.gateways[site].stop()
	w.gateways[site] = w.newGateway(site)
}

func (w *world) brokerForgets(d *modelDevice, _ *rand.Rand) {
	if s := w.broker.sessions[d.id]; s != nil && s.line == nil {
		w.broker.drop(d.id)
	}
}

// sweep ends what one side has ended.
func (w *world) sweep(r *rand.Rand, all bool) {
	for _, l := range append([]*modelLine(nil), w.open_...) {
		if (l.upOver || l.downOver || l.b.closed || l.d.line != l || all && l.d.ended) && (all || r.IntN(3) == 0) {
			l.finish(r)
		}
	}
}

// rest brings every device back and lets everything arrive; then nothing may be missing.
func (w *world) rest(r *rand.Rand) {
	for range 3 { // a message under way may still end a connection
		w.sweep(r, true)
		for _, d := range w.devices {
			if d.line == nil {
				d.connect(r, false)
			}
		}
		w.calm(r)
	}
	for _, l := range w.open_ {
		if l.d.line == l && !l.b.closed && !l.upOver && l.session != nil {
			w.oracle.settled(l.session, l)
		}
	}
}

func (w *world) calm(r *rand.Rand) {
	for range 1000 {
		busy := false
		for _, d := range w.devices {
			d.answer(r, true)
			d.hops(1 << 30)
		}
		for _, d := range w.devices {
			busy = busy || d.line != nil && (d.line.busy() && !d.line.upOver && !d.line.b.closed || d.can() && len(d.pending) > 0)
		}
		if !busy {
			return
		}
	}
	w.fail("it does not come to rest")
}

// do takes one step.
func (w *world) do(s step) {
	r := rand.New(rand.NewPCG(uint64(s), 3))
	w.r = r
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	n := r.IntN(total)
	d := w.devices[r.IntN(len(w.devices))]
	for _, a := range actions {
		if n -= a.weight; n < 0 {
			if w.trace != nil {
				w.trace(a.name + " " + d.id)
			}
			a.do(w, d, r)
			break
		}
	}
	w.sweep(r, false)
}

// play runs steps and returns what was found wrong, and at which of them.
func play(seed uint64, steps []step, trace func(string)) (w *world, at int, found *broken) {
	w = newWorld(seed)
	w.trace = trace
	defer func() {
		for _, g := range w.gateways {
			g.stop()
		}
		switch p := recover().(type) {
		case nil:
		case *broken:
			found = p
		default:
			found = &broken{"panic", fmt.Sprintf("panic: %v at %s", p, panicPlace())}
		}
	}()
	for at = range steps {
		w.do(steps[at])
	}
	w.rest(w.r)
	return w, at, nil
}

func stepsOf(seed uint64, n int) []step {
	r := rand.New(rand.NewPCG(seed, 4))
	steps := make([]step, n)
	for i := range steps {
		steps[i] = step(r.Uint64())
	}
	return steps
}

// shrink leaves steps out as long as the run still fails in the same way.
func shrink(seed uint64, steps []step, kind string, patience time.Duration) []step {
	end := time.Now().Add(patience)
	for size := len(steps) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(steps) && time.Now().Before(end); {
			less := append(append([]step(nil), steps[:at]...), steps[at+size:]...)
			if _, _, err := play(seed, less, nil); err != nil && err.kind == kind {
				steps = less
			} else {
				at += size
			}
		}
	}
	return steps
}

// TestProperty plays random devices through two gateways before a broker that keeps to MQTT, and holds every packet that a gateway
// writes against what the specification says of it: what the device sent, in order, sealed under numbers that no other plaintext has;
// what the broker sent, in order, opened, or refused with a reason; identical envelopes for what is sent again within a session, fresh
// ones otherwise; acknowledgements of the other side's only. From end to end nothing that the broker had for a session is lost, and
// nothing is delivered more often than MQTT permits. In every second pair of worlds a group hides its topics.
//
// A run that fails prints its seed and a shortened list of what happened; SEALGATE_PROPERTY_SEED plays it again,
// SEALGATE_PROPERTY_STEPS says how many steps in all.
func TestProperty(t *testing.T) {
	const each = 4000
	total, seed := 100_000, uint64(time.Now().UnixNano())
	if testing.Short() {
		total = 8000
	}
	if s := os.Getenv("SEALGATE_PROPERTY_STEPS"); s != "" {
		total, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("SEALGATE_PROPERTY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal("SEALGATE_PROPERTY_SEED: ", err)
		}
	}
	t.Logf("seed %d: %d worlds of %d steps", seed, (total+each-1)/each, each)
	var deliveries, hidden, resent, refusals int
	for i := uint64(0); int(i)*each < total; i++ {
		steps := stepsOf(seed+i, each)
		w, at, err := play(seed+i, steps, nil)
		if err != nil {
			t.Fatalf("step %d of seed %d: %v\n%s", at, seed+i, err, story(seed+i, steps[:at+1], err.kind))
		}
		deliveries, resent, refusals = deliveries+w.deliveries, resent+w.resent, refusals+w.refusals
		if w.names != nil {
			hidden += w.deliveries
		}
	}
	t.Logf("%d deliveries, %d of them in worlds that hide topics, %d messages sent again identically, %d refused with a reason", deliveries, hidden, resent, refusals)
	if deliveries < total/10 || total > 4*each && hidden < total/40 || resent < total/1000 || refusals < total/1000 {
		t.Error("too little happened for this test to prove anything")
	}
}

// story is the shortened run, step by step.
func story(seed uint64, steps []step, kind string) string {
	steps = shrink(seed, steps, kind, 30*time.Second)
	var b strings.Builder
	_, _, err := play(seed, steps, func(s string) { fmt.Fprintf(&b, "  %s\n", s) })
	return fmt.Sprintf("shortened to %d steps, %v:\n%s", len(steps), err, b.String())
}
