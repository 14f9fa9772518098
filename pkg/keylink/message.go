package keylink

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
	"sealgate/pkg/policy"
)

// Bounds of what a message may hold (docs/spec/keylink.md section 4).
const (
	MaxGroups   = policy.MaxGroups
	MaxKeys     = 4096 // of one group
	MaxCounters = 256
	MaxStreams  = 2048 // of one report
	MaxBurned   = 16   // ranges of one stream
	maxText     = 1024 // of a refusal, in bytes

	MaxCheckpoint = 1 << 18 // bytes of a checkpoint
	maxName       = 63
)

// Message types: the first item of every frame's array.
const (
	typeHello = iota
	typePolicy
	typeKeys
	typeStats
	typeUnknownKey
	typeReport
	typeRotate
	typeRotated
	typeAskStatus
	typeStatus
	typeRefusal
	typeCheckpoint
	typeHeard
	typeTopicKey
)

// Roles that a client names in its hello.
const (
	roleGateway = "gateway"
	roleAdmin   = "admin"
)

// message is one frame's content.
type message interface {
	append(b []byte) []byte
	name() string
}

type (
	// helloMsg is the first frame of a client.
	helloMsg struct {
		version uint64
		role    string
	}
	// policyMsg begins a snapshot.
	policyMsg struct {
		gateway string
		policy  []byte
	}
	// keysMsg is one group of a snapshot.
	keysMsg struct {
		group string
		keys  []crypto.Key
	}
	// statsMsg ends a snapshot; alone, it renews the authority, gauges and counters of the one before.
	statsMsg struct {
		epochs    map[string]EpochInfo
		authority map[string]Authority
		control   map[Counter]uint64
	}
	unknownKeyMsg struct {
		group string
		id    crypto.KeyID
	}
	reportMsg struct{ Report }
	rotateMsg struct{ group string }
	// rotatedMsg answers rotateMsg.
	rotatedMsg struct {
		group string
		epoch crypto.Epoch
	}
	askStatusMsg struct{}
	statusMsg    struct{ json []byte }
	// refusalMsg says in a sentence why the server did not do what was asked.
	refusalMsg struct{ text string }
	// checkpointMsg is a checkpoint that controld has verified, as its sender encoded it.
	checkpointMsg struct {
		from    string
		message []byte
	}
	// heardMsg says whether checkpoints are heard from now on; of those before, some may be missing.
	heardMsg struct{ yes bool }
	// topicKeyMsg is part of a snapshot, if there is a key.
	topicKeyMsg struct{ key *crypto.TopicKey }
)

func (helloMsg) name() string      { return "hello" }
func (policyMsg) name() string     { return "policy" }
func (keysMsg) name() string       { return "keys" }
func (statsMsg) name() string      { return "stats" }
func (unknownKeyMsg) name() string { return "unknown-key" }
func (reportMsg) name() string     { return "report" }
func (rotateMsg) name() string     { return "rotate" }
func (rotatedMsg) name() string    { return "rotated" }
func (askStatusMsg) name() string  { return "ask-status" }
func (statusMsg) name() string     { return "status" }
func (refusalMsg) name() string    { return "refusal" }
func (checkpointMsg) name() string { return "checkpoint" }
func (heardMsg) name() string      { return "heard" }
func (topicKeyMsg) name() string   { return "topic-key" }

func start(b []byte, items int, typ uint64) []byte {
	return dcbor.AppendUint(dcbor.AppendArray(b, items), typ)
}

func (m helloMsg) append(b []byte) []byte {
	b = dcbor.AppendUint(start(b, 3, typeHello), m.version)
	return dcbor.AppendText(b, m.role)
}

func (m policyMsg) append(b []byte) []byte {
	b = dcbor.AppendText(start(b, 3, typePolicy), m.gateway)
	return dcbor.AppendBytes(b, m.policy)
}

func (m keysMsg) append(b []byte) []byte {
	b = dcbor.AppendText(start(b, 3, typeKeys), m.group)
	b = dcbor.AppendArray(b, len(m.keys))
	for i := range m.keys {
		k := &m.keys[i]
		b = dcbor.AppendArray(b, 5)
		b = dcbor.AppendBytes(b, k.ID[:])
		b = appendEpoch(b, k.Epoch)
		b = appendSecret(b, k.Secret)
		b = dcbor.AppendBool(b, k.Send)
		b = appendMillis(b, k.NotAfter)
	}
	return b
}

// appendSecret wipes the copy that it had to make.
func appendSecret(b []byte, s *crypto.PayloadSecret) []byte {
	secret := s.Bytes()
	b = dcbor.AppendBytes(b, secret)
	clear(secret)
	return b
}

func appendEpoch(b []byte, e crypto.Epoch) []byte {
	b = dcbor.AppendArray(b, 3)
	for _, v := range [...]uint64{e.PolicyVersion, e.Generation, e.Number} {
		b = dcbor.AppendUint(b, v)
	}
	return b
}

// appendMillis rounds up: a key lives the rest of its last millisecond, and no time
// other than zero becomes zero, which means "none".
func appendMillis(b []byte, d time.Duration) []byte {
	return dcbor.AppendUint(b, uint64((max(d, 0)+time.Millisecond-1)/time.Millisecond))
}

func (m statsMsg) append(b []byte) []byte {
	b = dcbor.AppendArray(start(b, 4, typeStats), len(m.epochs))
	for _, group := range slices.Sorted(maps.Keys(m.epochs)) {
		b = dcbor.AppendText(dcbor.AppendArray(b, 3), group)
		b = appendEpoch(b, m.epochs[group].Epoch)
		b = appendMillis(b, m.epochs[group].Age)
	}
	b = dcbor.AppendArray(b, len(m.authority))
	for _, group := range slices.Sorted(maps.Keys(m.authority)) {
		b = dcbor.AppendText(dcbor.AppendArray(b, 3), group)
		b = appendMillis(appendMillis(b, m.authority[group].Warn), m.authority[group].Lapse)
	}
	b = dcbor.AppendArray(b, len(m.control))
	for _, c := range slices.SortedFunc(maps.Keys(m.control), Counter.compare) {
		b = dcbor.AppendText(dcbor.AppendArray(b, 3), c.Type)
		b = dcbor.AppendText(b, c.Result)
		b = dcbor.AppendUint(b, m.control[c])
	}
	return b
}

func (c Counter) compare(o Counter) int {
	return cmp.Or(cmp.Compare(c.Type, o.Type), cmp.Compare(c.Result, o.Result))
}

func (m unknownKeyMsg) append(b []byte) []byte {
	b = dcbor.AppendText(start(b, 3, typeUnknownKey), m.group)
	return dcbor.AppendBytes(b, m.id[:])
}

func (m reportMsg) append(b []byte) []byte {
	b = dcbor.AppendBool(start(b, 5, typeReport), m.Ready)
	b = dcbor.AppendArray(b, len(m.Held))
	for _, group := range slices.Sorted(maps.Keys(m.Held)) {
		b = dcbor.AppendText(dcbor.AppendArray(b, 2), group)
		b = appendEpoch(b, m.Held[group])
	}
	b = dcbor.AppendArray(b, len(m.Streams))
	for i := range m.Streams {
		s := &m.Streams[i]
		b = dcbor.AppendText(dcbor.AppendArray(b, 8), s.Group)
		b = dcbor.AppendBytes(b, s.Topic[:])
		b = dcbor.AppendBytes(b, s.Key[:])
		b = dcbor.AppendBytes(b, s.Stream[:])
		b = dcbor.AppendUint(b, s.From)
		b = dcbor.AppendUint(b, s.Next)
		b = dcbor.AppendArray(b, len(s.Burned))
		for _, r := range s.Burned {
			b = dcbor.AppendUint(dcbor.AppendUint(dcbor.AppendArray(b, 2), r.From), r.To)
		}
		b = dcbor.AppendBool(b, s.Final)
	}
	b = dcbor.AppendArray(b, len(m.Listens))
	for _, group := range m.Listens {
		b = dcbor.AppendText(b, group)
	}
	return b
}

func (m rotateMsg) append(b []byte) []byte {
	return dcbor.AppendText(start(b, 2, typeRotate), m.group)
}

func (m rotatedMsg) append(b []byte) []byte {
	return appendEpoch(dcbor.AppendText(start(b, 3, typeRotated), m.group), m.epoch)
}

func (askStatusMsg) append(b []byte) []byte { return start(b, 1, typeAskStatus) }

func (m statusMsg) append(b []byte) []byte {
	return dcbor.AppendBytes(start(b, 2, typeStatus), m.json)
}

func (m refusalMsg) append(b []byte) []byte {
	return dcbor.AppendText(start(b, 2, typeRefusal), m.text)
}

func (m checkpointMsg) append(b []byte) []byte {
	b = dcbor.AppendText(start(b, 3, typeCheckpoint), m.from)
	return dcbor.AppendBytes(b, m.message)
}

func (m heardMsg) append(b []byte) []byte { return dcbor.AppendBool(start(b, 2, typeHeard), m.yes) }

func (m topicKeyMsg) append(b []byte) []byte {
	key := m.key.Bytes()
	b = dcbor.AppendBytes(start(b, 2, typeTopicKey), key)
	clear(key)
	return b
}

// decode decodes one frame. What it accepts, append gives back byte for byte. The message
// keeps no view of b.
func decode(b []byte) (message, error) {
	r := dcbor.NewReader(b)
	items := r.Array(5)
	typ := r.Uint()
	if r.Err() != nil {
		return nil, fmt.Errorf("keylink: %w", r.Err())
	}
	if typ >= uint64(len(formats)) {
		return nil, fmt.Errorf("keylink: message type %d is not known: update the older of the two programs", typ)
	}
	f := formats[typ]
	if items != f.items {
		return nil, fmt.Errorf("keylink: message of type %d has %d items, %d expected", typ, items, f.items)
	}
	m := f.read(r)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("keylink: %s: %w", m.name(), err)
	}
	return m, nil
}

// formats is how each type is read, by type.
var formats = [...]struct {
	items int
	read  func(*dcbor.Reader) message
}{
	typeHello:      {3, func(r *dcbor.Reader) message { return helloMsg{r.Uint(), r.Text(maxName)} }},
	typePolicy:     {3, readPolicy},
	typeKeys:       {3, readKeys},
	typeStats:      {4, readStats},
	typeUnknownKey: {3, readUnknownKey},
	typeReport:     {5, readReport},
	typeRotate:     {2, func(r *dcbor.Reader) message { return rotateMsg{r.Text(maxName)} }},
	typeRotated:    {3, func(r *dcbor.Reader) message { return rotatedMsg{r.Text(maxName), readEpoch(r)} }},
	typeAskStatus:  {1, func(*dcbor.Reader) message { return askStatusMsg{} }},
	typeStatus:     {2, func(r *dcbor.Reader) message { return statusMsg{slices.Clone(r.Bytes(MaxFrame))} }},
	typeRefusal:    {2, func(r *dcbor.Reader) message { return refusalMsg{r.Text(maxText)} }},
	typeCheckpoint: {3, readCheckpoint},
	typeHeard:      {2, func(r *dcbor.Reader) message { return heardMsg{r.Bool()} }},
	typeTopicKey:   {2, readTopicKey},
}

func readTopicKey(r *dcbor.Reader) message {
	b := r.Bytes(crypto.SecretSize)
	if r.Err() != nil {
		return topicKeyMsg{}
	}
	k, err := crypto.TopicKeyFrom(b)
	if err != nil {
		r.Fail(err)
	}
	return topicKeyMsg{k}
}

func readPolicy(r *dcbor.Reader) message {
	return policyMsg{r.Text(maxName), slices.Clone(r.Bytes(policy.MaxEncoded))}
}

func readKeys(r *dcbor.Reader) message {
	m := keysMsg{group: r.Text(maxName)}
	for range r.Array(MaxKeys) {
		var k crypto.Key
		r.ArrayExact(5)
		r.BytesExact(k.ID[:])
		k.Epoch = readEpoch(r)
		secret := r.Bytes(crypto.SecretSize)
		k.Send = r.Bool()
		k.NotAfter = readMillis(r)
		if r.Err() == nil {
			var err error
			if k.Secret, err = crypto.PayloadSecretFrom(secret); err != nil {
				r.Fail(err)
			}
		}
		if r.Err() != nil {
			return keysMsg{}
		}
		m.keys = append(m.keys, k)
	}
	return m
}

func readEpoch(r *dcbor.Reader) crypto.Epoch {
	r.ArrayExact(3)
	return crypto.Epoch{PolicyVersion: r.Uint(), Generation: r.Uint(), Number: r.Uint()}
}

const maxMillis = 1 << 43 // more than 270 years, and no overflow of a time.Duration

func readMillis(r *dcbor.Reader) time.Duration {
	return time.Duration(r.UintMax(maxMillis)) * time.Millisecond
}

// ascending refuses a list of names that is not in strictly ascending order: one map,
// one encoding.
func ascending(r *dcbor.Reader, before *string, name string) {
	if r.Err() == nil && *before >= name {
		r.Fail(fmt.Errorf("%w: %q after %q: names must ascend", dcbor.ErrMalformed, name, *before))
	}
	*before = name
}

func readStats(r *dcbor.Reader) message {
	m := statsMsg{epochs: make(map[string]EpochInfo), authority: make(map[string]Authority), control: make(map[Counter]uint64)}
	before := ""
	for range r.Array(MaxGroups) {
		r.ArrayExact(3)
		group := r.Text(maxName)
		ascending(r, &before, group)
		m.epochs[group] = EpochInfo{readEpoch(r), readMillis(r)}
	}
	before = ""
	for range r.Array(MaxGroups) {
		r.ArrayExact(3)
		group := r.Text(maxName)
		ascending(r, &before, group)
		m.authority[group] = Authority{readMillis(r), readMillis(r)}
	}
	var last Counter
	for i := range r.Array(MaxCounters) {
		r.ArrayExact(3)
		c := Counter{r.Text(maxName), r.Text(maxName)}
		if i > 0 && r.Err() == nil && last.compare(c) >= 0 {
			r.Fail(fmt.Errorf("%w: counters must ascend", dcbor.ErrMalformed))
		}
		last = c
		m.control[c] = r.Uint()
	}
	return m
}

func readUnknownKey(r *dcbor.Reader) message {
	m := unknownKeyMsg{group: r.Text(maxName)}
	r.BytesExact(m.id[:])
	return m
}

func readReport(r *dcbor.Reader) message {
	m := reportMsg{Report{Ready: r.Bool(), Held: make(map[string]crypto.Epoch)}}
	before := ""
	for range r.Array(MaxGroups) {
		r.ArrayExact(2)
		group := r.Text(maxName)
		ascending(r, &before, group)
		m.Held[group] = readEpoch(r)
	}
	for range r.Array(MaxStreams) {
		s := readStream(r)
		if r.Err() != nil {
			return reportMsg{}
		}
		m.Streams = append(m.Streams, s)
	}
	before = ""
	for range r.Array(MaxGroups) {
		group := r.Text(maxName)
		ascending(r, &before, group)
		m.Listens = append(m.Listens, group)
	}
	return m
}

func readCheckpoint(r *dcbor.Reader) message {
	m := checkpointMsg{r.Text(maxName), slices.Clone(r.Bytes(MaxCheckpoint))}
	if r.Err() == nil && len(m.message) == 0 {
		r.Fail(fmt.Errorf("%w: an empty checkpoint", dcbor.ErrMalformed))
	}
	return m
}

func readStream(r *dcbor.Reader) (s Stream) {
	r.ArrayExact(8)
	s.Group = r.Text(maxName)
	r.BytesExact(s.Topic[:])
	r.BytesExact(s.Key[:])
	r.BytesExact(s.Stream[:])
	s.From, s.Next = r.Uint(), r.Uint()
	for range r.Array(MaxBurned) {
		r.ArrayExact(2)
		s.Burned = append(s.Burned, crypto.Range{From: r.Uint(), To: r.Uint()})
	}
	s.Final = r.Bool()
	return s
}
