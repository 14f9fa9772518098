package gateway

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"slices"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/policy"
	"sealgate/pkg/topic"
)

// oracle knows what a gateway may do with each packet, from the specification and from what it did before.
type oracle struct {
	w      *world
	nonces map[nonce][32]byte // what was sealed under each
	plain  map[string]sealedAs
	sites  map[siteKey]*siteSession
	ever   map[string]map[int]bool // by device and uid: delivered to the application
}

// nonce is what no two plaintexts may share: under one stream's key, one number.
type nonce struct {
	kid crypto.Kid
	seq uint64
}

// sealedAs is what an envelope holds.
type sealedAs struct {
	nonce
	props, payload string
}

// siteKey names a client at one process of a gateway.
type siteKey struct {
	g      *Gateway
	client string
}

// siteSession is what a gateway is to remember of a client between connections.
type siteSession struct {
	owner     *modelLine
	records   map[uint16]*sealedRecord
	forwarded map[string]*forwarded
	highest   map[crypto.Kid]uint64 // of what was forwarded without RETAIN
	refused   map[uint16]bool       // QoS 2 messages whose PUBREL is not for the device
	filters   map[string]*modelLine // by the connection that subscribed
	told      map[int]int           // messages forwarded, by uid
	known     map[int]map[string]bool
	// messages that went at QoS 0: the window knows them as delivered, also where they come again at QoS 1 or 2, for another subscription
	atMostOnce map[int]bool
}

// sealedRecord is a message of QoS 1 or 2 that the broker has not acknowledged.
type sealedRecord struct {
	envelope, topic, inner string
	generation             uint64
	old                    bool
}

type forwarded struct {
	live         bool            // without RETAIN
	acknowledged bool            // by the device, then
	atMostOnce   bool            // it went at QoS 0, then
	under        map[uint16]bool // packet identifiers that the device has not acknowledged; true: without RETAIN
}

// owed counts a message on its way to one session.
type owed struct {
	envelopes map[string]bool // at QoS 1 and 2, and not refused with a reason
	most      int             // deliveries that MQTT permits
	got       int
	excused   bool
}

func newOracle(w *world) *oracle {
	return &oracle{w: w, nonces: map[nonce][32]byte{}, plain: map[string]sealedAs{}, sites: map[siteKey]*siteSession{}, ever: map[string]map[int]bool{}}
}

func newSiteSession() *siteSession {
	return &siteSession{records: map[uint16]*sealedRecord{}, forwarded: map[string]*forwarded{}, highest: map[crypto.Kid]uint64{}, refused: map[uint16]bool{},
		filters: map[string]*modelLine{}, told: map[int]int{}, known: map[int]map[string]bool{}, atMostOnce: map[int]bool{}}
}

// learn notes an envelope that holds uid and returns how many there are. Two envelopes may hold the same message, and the device then
// reads it twice: at QoS 0 nobody can tell which of them a packet came from.
func (s *siteSession) learn(uid int, envelope string) int {
	if s.known[uid] == nil {
		s.known[uid] = map[string]bool{}
	}
	s.known[uid][envelope] = true
	return len(s.known[uid])
}

// lineChecks is what is expected of one connection.
type lineChecks struct {
	site      *siteSession
	up        []upExpected
	down      []downExpected
	connected bool // CONNECT has left
	clean     bool
	resumes   bool // the gateway has records of an earlier connection
	limit     int  // the device's Maximum Packet Size
	denied    int  // messages in up that policy denies
	refused   bool // the gateway ends the connection by right
	early     map[uint16]bool
	rogue     map[uint16]bool // packet identifiers that the device has acknowledged without reason
	acks      map[ackKey]int  // that the gateway may send the broker on its own
	refusals  map[ackKey]int  // and the device
	sent, got int             // bytes of the broker: under way, and with the gateway
	aliases   struct{ device, uplink, broker, downlink map[uint16]string }
}

type ackKey struct {
	t  mqttparse.Type
	id uint16
}

type upExpected struct {
	f      mqttparse.Frame
	p      mqttparse.Publish // with its topic in full, if it is one
	denied bool
	wire   []byte // as the broker is to get it, if it is no PUBLISH
}

type downExpected struct {
	f   mqttparse.Frame
	p   mqttparse.Publish
	m   *modelSend
	end int // bytes of the connection up to and with it
}

// begin mirrors which session a new connection gets (spec 6.3: "the same client in the same session").
func (l *modelLine) begin(con *mqttparse.Connect) {
	c := &l.checks
	c.clean, c.early, c.rogue, c.acks, c.refusals = con.CleanStart, map[uint16]bool{}, map[uint16]bool{}, map[ackKey]int{}, map[ackKey]int{}
	for _, m := range []*map[uint16]string{&c.aliases.device, &c.aliases.uplink, &c.aliases.broker, &c.aliases.downlink} {
		*m = map[uint16]string{}
	}
	if con.Version == mqttparse.V5 {
		c.limit = limitsOf(con.Properties).packet
	}
	sites, key := l.w.oracle.sites, l.siteKey()
	switch s := sites[key]; {
	case s == nil:
		c.site = newSiteSession()
		sites[key] = c.site
	case s.owner != nil:
		c.site = newSiteSession() // the other connection has it; kept once the broker accepts this one
	default:
		c.site = s
	}
	c.site.owner = l
	if con.CleanStart {
		clear(c.site.records)
		clear(c.site.refused)
		clear(c.site.filters)
	}
	c.resumes = len(c.site.records) > 0
}

func (l *modelLine) siteKey() siteKey { return siteKey{l.w.gateways[l.site], l.d.id} }

// gaveBack mirrors the end of a connection.
func (l *modelLine) gaveBack() {
	if l.w.oracle.sites[l.siteKey()] == l.checks.site {
		l.checks.site.owner = nil
		clear(l.checks.site.refused)
		for _, r := range l.checks.site.records {
			r.old = true
		}
	}
}

// ends holds the reason why a direction has ended against what was to be expected.
func (l *modelLine) ends(err error) {
	var r *refusal
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, errPeerGone) && !l.c.greeted():
		return
	case errors.As(err, &r) && r.reason == refusedDenied && l.v != mqttparse.V5:
		for _, u := range l.checks.up {
			if u.denied && u.p.QoS > 0 {
				l.checks.refused = true
				return
			}
		}
	}
	l.w.fail("%s: the gateway ends the connection: %v", l, err)
}

// resolve replaces an alias by what it stands for.
func resolve(p *mqttparse.Publish, aliases map[uint16]string) bool {
	if p.TopicAlias == 0 {
		return true
	}
	if len(p.Topic) > 0 {
		aliases[p.TopicAlias] = string(p.Topic)
	}
	p.Topic = []byte(aliases[p.TopicAlias])
	return len(p.Topic) > 0
}

// expectUp notes what the device sends.
func (l *modelLine) expectUp(packet []byte) {
	u := upExpected{f: frameOf(packet), wire: packet}
	l.tell("device sends", u.f)
	if u.f.Type() == mqttparse.PUBLISH {
		if err := mqttparse.ParsePublish(u.f, l.v, &u.p); err != nil {
			l.w.fail("%s: a defect of the model: %v", l, err)
		}
		resolve(&u.p, l.checks.aliases.device)
		d := l.w.table.Publish(u.p.Topic)
		u.denied = underPrefix(u.p.Topic, "sealgate") || d.Verdict == policy.Seal && !d.ClearRetained && isClear(&u.p)
		if !l.d.greeted && u.p.QoS > 0 {
			l.checks.early[u.p.PacketID] = true
		}
		if u.denied {
			l.checks.denied++
			if u.p.QoS > 0 && l.v == mqttparse.V5 {
				l.checks.refusals[ackKey{[]mqttparse.Type{0, mqttparse.PUBACK, mqttparse.PUBREC}[u.p.QoS], u.p.PacketID}]++
			}
		}
	}
	if t := u.f.Type(); t == mqttparse.SUBSCRIBE || t == mqttparse.UNSUBSCRIBE {
		u.wire = l.w.wireFilters(u.f, l.v)
	}
	l.checks.up = append(l.checks.up, l.parts(u)...)
}

// parts is what the broker gets of a packet: of one that deletes a retained message two, that and a sealed one for who listens (spec 3.2).
func (l *modelLine) parts(u upExpected) []upExpected {
	if u.f.Type() != mqttparse.PUBLISH || u.denied || !isClear(&u.p) || l.w.table.Publish(u.p.Topic).Verdict != policy.Seal {
		return []upExpected{u}
	}
	deletes, tells := u, u
	tells.p.Retain = false
	loose := &deletes.p
	if u.p.QoS == 2 {
		loose = &tells.p
	}
	loose.QoS, loose.PacketID, loose.Dup = 0, 0, false
	switch {
	case u.p.QoS < 2:
		return []upExpected{deletes, tells}
	case u.p.Dup:
		return []upExpected{deletes}
	}
	return []upExpected{tells, deletes}
}

func isClear(p *mqttparse.Publish) bool { return p.Retain && len(p.Payload) == 0 }

// checkUp looks at what the gateway writes to the broker: what the device has sent, in order, and nothing else but answers to
// messages that it refuses.
func (l *modelLine) checkUp(b []byte) {
	for _, f := range l.frames(b) {
		c := &l.checks
		if !c.connected {
			c.connected = true
			l.checkConnect(f)
			l.tell("to the broker", f)
			continue
		}
		i := slices.IndexFunc(c.up, func(u upExpected) bool { return !u.denied })
		switch {
		case i >= 0 && f.Type() == mqttparse.PUBLISH && c.up[i].f.Type() == mqttparse.PUBLISH:
			l.checkPublish(f, &c.up[i].p)
			l.tell("to the broker", f)
		case i >= 0 && (bytes.Equal(f.Raw, c.up[i].wire) || hushed(f, c.up[i].f)):
			l.tell("to the broker", f)
			l.acknowledges(f)
			l.subscribes(c.up[i].f)
		case l.answersItself(f):
			l.tell("answers the broker", f)
			continue
		default:
			l.w.fail("%s: the broker gets % x, which the device has not sent", l, f.Raw)
		}
		c.up, c.denied = c.up[i+1:], c.denied-i
	}
}

// frames cuts a write, which must be of whole packets.
func (l *modelLine) frames(b []byte) (all []mqttparse.Frame) {
	for len(b) > 0 {
		raw, n := firstFrame(b)
		if n == 0 {
			l.w.fail("%s: a write ends within a packet", l)
		}
		all = append(all, frameOf(bytes.Clone(raw)))
		b = b[n:]
	}
	return all
}

// acknowledges follows what the device has taken.
func (l *modelLine) acknowledges(f mqttparse.Frame) {
	if t := f.Type(); t != mqttparse.PUBACK && t != mqttparse.PUBREC && t != mqttparse.PUBCOMP {
		return
	}
	id, _, _ := mqttparse.ParseAck(f, l.v)
	for _, w := range l.checks.site.forwarded {
		if live, pending := w.under[id]; pending {
			w.acknowledged = w.acknowledged || live && f.Type() != mqttparse.PUBCOMP
			if f.Type() != mqttparse.PUBREC {
				delete(w.under, id)
			}
		}
	}
}

// hushed reports whether f is PUBCOMP without a reason code that the device has given: of a message that was refused the broker must not
// learn whether the device has it.
func hushed(f, sent mqttparse.Frame) bool {
	return f.Type() == mqttparse.PUBCOMP && sent.Type() == mqttparse.PUBCOMP && len(sent.Body) == 3 && bytes.Equal(f.Body, sent.Body[:2])
}

// subscribes follows what the gateway knows of the device's subscriptions.
func (l *modelLine) subscribes(f mqttparse.Frame) {
	if t := f.Type(); t != mqttparse.SUBSCRIBE && t != mqttparse.UNSUBSCRIBE {
		return
	}
	for it := mqttparse.Filters(f, l.v); it.Next(); {
		if f.Type() == mqttparse.SUBSCRIBE {
			l.checks.site.filters[string(it.Filter())] = l
		} else {
			delete(l.checks.site.filters, string(it.Filter()))
		}
	}
}

// copies says how often one message may come for the subscriptions that the gateway knows.
func (s *siteSession) copies(name string) (n int) {
	for filter := range s.filters {
		if _, inner, shared := topic.ShareFilter(filter); shared {
			filter = inner
		}
		if topic.Match(filter, name) {
			n++
		}
	}
	return n
}

// answersItself notes that the gateway acknowledges in the device's place. The message that it refuses is looked for when it has
// dealt with all that it has.
func (l *modelLine) answersItself(f mqttparse.Frame) bool {
	id, _, err := mqttparse.ParseAck(f, l.v)
	if err != nil || f.Type() == mqttparse.PUBREL {
		return false
	}
	l.checks.acks[ackKey{f.Type(), id}]--
	return true
}

// dealtWith holds that what the gateway has read of the broker was passed on or may be kept from the device, and that nothing else was
// acknowledged in the device's place.
func (l *modelLine) dealtWith() {
	c := &l.checks
	for len(c.down) > 0 && c.down[0].end <= c.got {
		if !l.swallow(c.down[0]) {
			l.w.fail("%s: the device does not get % x", l, c.down[0].f.Raw[:min(len(c.down[0].f.Raw), 60)])
		}
		c.down = c.down[1:]
	}
	for k, n := range c.acks {
		if n < 0 {
			l.w.fail("%s: the gateway sends the broker %v of %d, which is the device's to send", l, k.t, k.id)
		}
	}
}

func (l *modelLine) checkConnect(f mqttparse.Frame) {
	var con mqttparse.Connect
	if err := mqttparse.ParseConnect(f, &con); err != nil {
		l.w.fail("%s: CONNECT for the broker: %v", l, err)
	}
	if con.CleanStart != l.checks.clean || string(con.ClientID) != l.d.id {
		l.w.fail("%s: another CONNECT for the broker", l)
	}
	name := l.w.plain(con.Will.Topic)
	if w := &con.Will; con.HasWill && l.w.table.Publish(name).Verdict == policy.Seal {
		if string(w.Topic) != l.w.wire(string(name)) {
			l.w.fail("%s: the will's topic is %s on the uplink", l, w.Topic)
		}
		s := l.unseal(name, w.Payload)
		if !s.kid.StreamID().Will() || uidOf([]byte(s.payload)) == 0 {
			l.w.fail("%s: the will is sealed as %q", l, s.payload)
		}
		l.fresh(s, string(w.Payload))
	}
}

// checkPublish holds a PUBLISH for the broker against what the device sent.
func (l *modelLine) checkPublish(f mqttparse.Frame, want *mqttparse.Publish) {
	var p mqttparse.Publish
	if err := mqttparse.ParsePublish(f, l.v, &p); err != nil || !resolve(&p, l.checks.aliases.uplink) {
		l.w.fail("%s: PUBLISH for the broker: %v", l, err)
	}
	if string(p.Topic) != l.w.wire(string(want.Topic)) || p.QoS != want.QoS || p.Dup != want.Dup || p.Retain != want.Retain || p.PacketID != want.PacketID {
		l.w.fail("%s: the broker gets %s, QoS %d, id %d, DUP %v, RETAIN %v; the device sent %s, QoS %d, id %d, DUP %v, RETAIN %v", l,
			p.Topic, p.QoS, p.PacketID, p.Dup, p.Retain, want.Topic, want.QoS, want.PacketID, want.Dup, want.Retain)
	}
	inner, outer := mqttparse.SplitProperties(want.Properties, nil, nil)
	d := l.w.table.Publish(want.Topic)
	if d.Verdict != policy.Seal {
		inner, outer = nil, l.w.wireResponse(want.Properties)
	}
	if outerOf(p.Properties) != outerOf(outer) {
		l.w.fail("%s: properties % x on the uplink, want % x", l, p.Properties, outer)
	}
	if d.Verdict != policy.Seal || isClear(want) {
		if !bytes.Equal(p.Payload, want.Payload) {
			l.w.fail("%s: payload %.40q on the uplink, the device sent %.40q", l, p.Payload, want.Payload)
		}
		return
	}
	s := l.unseal(want.Topic, p.Payload)
	if s.props != string(inner) || s.payload != string(want.Payload) {
		l.w.fail("%s: sealed %.40q with properties % x, the device sent %.40q with % x", l, s.payload, s.props, want.Payload, inner)
	}
	l.checkNumber(&p, s)
}

// unseal opens what the gateway has sealed on the topic that devices know by name.
func (l *modelLine) unseal(name, payload []byte) sealedAs {
	group := l.w.table.Publish(name).Group
	env, err := crypto.ParseEnvelope(payload)
	if err != nil {
		l.w.fail("%s: on %s the broker reads %.60q: %v", l, name, payload, err)
	}
	key := l.w.state.Keys.Find(group, env.Kid.KeyID())
	if key == nil {
		l.w.fail("%s: sealed under an unknown key", l)
	}
	o, err := crypto.NewOpenStream(key.Secret, group, l.w.wire(string(name)), env.Kid.StreamID())
	if err != nil {
		l.w.fail("%v", err)
	}
	inner, err := o.Open(nil, &env)
	if err != nil {
		l.w.fail("%s: on %s: %v", l, name, err)
	}
	if group == "padded" && len(inner)%64 != 0 {
		l.w.fail("%s: on %s: an inner length of %d bytes", l, name, len(inner))
	}
	if l.w.table.Publish(name).Hide {
		var inside []byte
		if inside, inner, err = crypto.SplitName(inner); err != nil || string(inside) != string(name) {
			l.w.fail("%s: on %s: the name inside is %q, %v", l, name, inside, err)
		}
	}
	props, body, err := crypto.SplitInner(inner)
	if err != nil {
		l.w.fail("%s: on %s: %v", l, name, err)
	}
	return sealedAs{nonce{env.Kid, env.Seq}, string(props), string(body)}
}

// fresh holds that a number is used for the first time.
func (l *modelLine) fresh(s sealedAs, envelope string) {
	o := l.w.oracle
	if old, used := o.nonces[s.nonce]; used {
		word := "a second plaintext"
		if old == sha256.Sum256([]byte(s.props+"\x00"+s.payload)) {
			word = "the same plaintext, without being sent again"
		}
		l.w.fail("%s: NONCE USED TWICE: stream %v, number %d, for %s", l, s.kid, s.seq, word)
	}
	o.nonces[s.nonce] = sha256.Sum256([]byte(s.props + "\x00" + s.payload))
	o.plain[envelope] = s
}

// checkNumber holds a sealed message against the rule for sending again (spec 6.3).
func (l *modelLine) checkNumber(p *mqttparse.Publish, s sealedAs) {
	envelope, inner := string(p.Payload), s.props+"\x00"+s.payload
	records := l.checks.site.records
	if p.QoS > 0 && l.checks.resumes && !l.c.greeted() {
		l.w.fail("%s: message %d leaves before the broker has said whether the session is present", l, p.PacketID)
	}
	if r := records[p.PacketID]; p.QoS > 0 && r != nil && r.topic == string(p.Topic) && r.inner == inner && r.generation == l.w.generation {
		if r.envelope != envelope {
			l.w.fail("%s: message %d was sent again within its session, and its envelope is another", l, p.PacketID)
		}
		r.old = false
		l.w.resent++
		return
	}
	l.fresh(s, envelope)
	if p.QoS > 0 {
		records[p.PacketID] = &sealedRecord{envelope: envelope, topic: string(p.Topic), inner: inner, generation: l.w.generation}
	}
}
