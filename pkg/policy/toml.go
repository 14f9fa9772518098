package policy

import (
	"encoding/hex"
	"math"
	"time"

	"sealgate/pkg/strictoml"
)

// FileName is the name that problems of a policy carry when [ParseTOML] is given bytes only.
const FileName = "policy.toml"

// tomlDocument is policy.toml as written. Pointers tell what is missing from what is empty.
type tomlDocument struct {
	Fleet        string      `toml:"fleet"`
	Version      *int64      `toml:"version"`
	Unmatched    string      `toml:"unmatched"`
	RevokedNames []string    `toml:"revoked_names"`
	RevokedCerts []string    `toml:"revoked_certificates"`
	TopicKey     *int64      `toml:"topic_key"`
	Groups       []tomlGroup `toml:"group"`
}

type tomlGroup struct {
	Name          string    `toml:"name"`
	Topics        []string  `toml:"topics"`
	Publish       *[]string `toml:"publish"`
	Read          *[]string `toml:"read"`
	Keepers       []string  `toml:"keepers"`
	Rotate        *string   `toml:"rotate"`
	History       *string   `toml:"history"`
	Freshness     *string   `toml:"freshness"`
	ActivateAfter *string   `toml:"activate_after"`
	Checkpoint    *string   `toml:"checkpoint"`
	ClearRetained *string   `toml:"clear_retained"`
	Pad           int64     `toml:"pad"`
	HideTopics    bool      `toml:"hide_topics"`
}

// ParseTOML reads policy.toml. Values that are left out get the defaults of [DefaultGroup],
// unmatched is "deny" and version 0. The fleet and the keepers may be missing: signing
// fills them in. The error is a [strictoml.Problems] with everything that is wrong, each
// with file, line and key; unknown keys are wrong.
func ParseTOML(b []byte) (*Document, error) { return ParseTOMLFile(FileName, b) }

// ParseTOMLFile is [ParseTOML] for a file of that name, which the problems show.
func ParseTOMLFile(name string, b []byte) (*Document, error) {
	var raw tomlDocument
	f, err := strictoml.Decode(name, b, &raw)
	if err != nil {
		return nil, err
	}
	d := &Document{Fleet: raw.Fleet, Unmatched: raw.Unmatched, RevokedNames: raw.RevokedNames}
	if !f.Has("unmatched") {
		d.Unmatched = WordDeny
	}
	switch {
	case raw.Version == nil:
	case *raw.Version < 0:
		f.Add("version", "%d is negative; leave it at what signing wrote", *raw.Version)
	default:
		d.Version = uint64(*raw.Version)
	}
	d.RevokedCerts = parseHashes(f, raw.RevokedCerts)
	for i := range raw.Groups {
		d.Groups = append(d.Groups, raw.Groups[i].group(f, i))
	}
	d.TopicKey = raw.topicKey(f, d)
	var p problems
	d.validate(&p)
	for _, one := range p {
		f.Add(one.key, "%s", one.text)
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	return d, nil
}

// topicKey is the number of the topic key: 1 if a group hides topics and none is given. A number given while none hides any
// waits until one does.
func (t *tomlDocument) topicKey(f *strictoml.File, d *Document) uint64 {
	switch {
	case t.TopicKey != nil && (*t.TopicKey < 1 || *t.TopicKey > MaxTopicKey):
		f.Add("topic_key", "%d is out of range: 1 to %d allowed", *t.TopicKey, int64(MaxTopicKey))
		return 1
	case !d.hides():
		return 0
	case t.TopicKey == nil:
		return 1
	}
	return uint64(*t.TopicKey)
}

func (t *tomlGroup) group(f *strictoml.File, i int) Group {
	g := DefaultGroup(t.Name)
	g.Topics, g.Keepers = t.Topics, t.Keepers
	for _, list := range []struct{ from, to *[]string }{{t.Publish, &g.Publish}, {t.Read, &g.Read}} {
		if list.from != nil {
			*list.to = *list.from
		}
	}
	if t.ClearRetained != nil {
		g.ClearRetained = *t.ClearRetained
	}
	g.HideTopics = t.HideTopics
	g.Pad = int(max(min(t.Pad, math.MaxInt32), -1)) // what does not fit is out of range
	for _, v := range []struct {
		key  string
		from *string
		to   *time.Duration
	}{
		{"rotate", t.Rotate, &g.Rotate},
		{"history", t.History, &g.History},
		{"freshness", t.Freshness, &g.Freshness},
		{"activate_after", t.ActivateAfter, &g.ActivateAfter},
		{"checkpoint", t.Checkpoint, &g.Checkpoint},
	} {
		if v.from == nil {
			continue
		}
		parsed, err := time.ParseDuration(*v.from)
		if err != nil {
			f.Add(groupKey(i, v.key), "%q is not a duration: write it like \"90s\", \"15m\" or \"168h\"", *v.from)
			continue
		}
		*v.to = parsed
	}
	return g
}

func parseHashes(f *strictoml.File, list []string) [][32]byte {
	var hashes [][32]byte
	for _, s := range list {
		var h [32]byte
		if n, err := hex.Decode(h[:], []byte(s[:min(len(s), 64)])); err != nil || n != 32 || len(s) != 64 {
			f.Add("revoked_certificates", "%q is not the SHA-256 of a certificate: 64 hexadecimal digits", s)
			continue
		}
		hashes = append(hashes, h)
	}
	return hashes
}
