// Package policy is the fleet policy: which topics are sealed, into which group, who may
// write and read each group, who makes its keys, and who is no longer a member.
//
// An operator writes it as policy.toml ([ParseTOML]). Signing ([Document.Sign]) turns it
// into the one message that the whole fleet obeys: a deterministic CBOR array
// ([Document.Marshal], docs/spec/policy.md) inside a COSE_Sign1 of type "policy", signed
// by the fleet's certificate authority or by a member with role operator ([Verify]).
// Every member works from that signed document and from nothing else.
//
// The data path asks a [Table], built once for each document: what happens to a PUBLISH
// on this topic? It answers without allocating. Where nothing is known, nothing leaves:
// an unmatched topic gets exactly what the document's unmatched rule says, and a document
// that does not hold together is refused whole.
package policy

import (
	"slices"
	"time"

	"sealgate/pkg/crypto"
)

// Bounds of a document. A policy is carried in one retained MQTT message and kept in
// memory by routers, so everything in it is bounded.
const (
	MaxGroups      = 256       // groups in a document
	MaxFilters     = 1024      // topic filters in a document, all groups together
	MaxPatterns    = 64        // name patterns in one list of one group
	MinPad         = 16        // bytes, of a Pad that is not 0; the most is [crypto.MaxPad]
	MaxTopicKey    = 1<<48 - 1 // the largest number of a topic key
	MaxKeepers     = 8         // keepers of one group when the document names them
	DefaultKeepers = 3         // keepers that signing fills in when the document names none
	MaxRevocations = 4096      // revoked names and revoked certificates, each
	MaxEncoded     = 512 << 10 // bytes of an encoded document; a keylink frame holds one whole
)

// SealPrefix starts the unmatched rule that seals into a group: "seal:<group>".
const SealPrefix = "seal:"

// The other words of the unmatched rule, and of [Group.ClearRetained].
const (
	WordPass = "pass"
	WordDeny = "deny"
)

// Document is one version of a fleet's policy. Treat it as immutable once it is
// verified: tables and machines share it.
type Document struct {
	Fleet        string     // the fleet that obeys it
	Version      uint64     // grows with every signed document, from 1
	Previous     [32]byte   // SHA-256 of the signed message before; zero for the first
	Unmatched    string     // "seal:<group>", "pass" or "deny"
	Groups       []Group    // topic filters of different groups do not overlap
	RevokedNames []string   // member names, exact
	RevokedCerts [][32]byte // SHA-256 of the DER certificate
	TopicKey     uint64     // number of the key that topics are hidden under; 0 if no group hides any
}

// Group is a set of topics that share keys, writers and readers.
type Group struct {
	Name    string
	Topics  []string // MQTT topic filters (MQTT 5.0 section 4.7)
	Publish []string // patterns of the member names that may seal
	Read    []string // patterns of the member names that may open
	Keepers []string // exact names of the members that may mint keys, by rank

	Rotate        time.Duration // a new epoch this often
	History       time.Duration // how long a replaced epoch still opens messages
	Freshness     time.Duration // how long a gateway seals without a confirmation
	ActivateAfter time.Duration // between announcing an epoch and sealing under it
	Checkpoint    time.Duration // between two checkpoints of a gateway
	ClearRetained string        // "pass" or "deny" for a zero-length retained PUBLISH
	HideTopics    bool          // the broker sees tokens in place of topic names
	Pad           int           // bytes that lengths are hidden in multiples of; 0: not
}

// DefaultGroup is a group of that name with every value that policy.toml may leave out:
// everybody writes and reads, hourly rotation, a week of history. It has no topics and no
// keepers.
func DefaultGroup(name string) Group {
	return Group{
		Name:          name,
		Publish:       []string{"*"},
		Read:          []string{"*"},
		Rotate:        time.Hour,
		History:       7 * 24 * time.Hour,
		Freshness:     24 * time.Hour,
		ActivateAfter: 10 * time.Second,
		Checkpoint:    10 * time.Second,
		ClearRetained: WordPass,
	}
}

// Group returns the group of that name, nil if there is none.
func (d *Document) Group(name string) *Group {
	for i := range d.Groups {
		if d.Groups[i].Name == name {
			return &d.Groups[i]
		}
	}
	return nil
}

// TakesPart reports whether m may read or publish in any of the groups of these names.
func (d *Document) TakesPart(m crypto.Member, groups []string) bool {
	return slices.ContainsFunc(groups, func(name string) bool {
		g := d.Group(name)
		return g != nil && (g.MayRead(m) || g.MayPublish(m))
	})
}

// TopicsOf is filters that between them match every topic of which messages are sealed into the group, those that no group names included.
func (d *Document) TopicsOf(g *Group) []string {
	if d.Unmatched == SealPrefix+g.Name {
		return append(slices.Clone(g.Topics), "#")
	}
	return g.Topics
}

// Revoked reports whether the document revokes the member, by name or by certificate.
func (d *Document) Revoked(m crypto.Member) bool {
	return slices.Contains(d.RevokedNames, m.Name) || slices.Contains(d.RevokedCerts, m.CertHash)
}

// MayPublish reports whether m may seal messages of the group: a gateway or subscriber
// whose name one of the Publish patterns matches. Revocation is the caller's question
// ([Document.Revoked]).
func (g *Group) MayPublish(m crypto.Member) bool {
	return carriesData(m.Role) && matchAny(g.Publish, m.Name)
}

// MayRead reports whether m may hold the group's payload secrets: a gateway or subscriber
// whose name one of the Read patterns matches.
func (g *Group) MayRead(m crypto.Member) bool {
	return carriesData(m.Role) && matchAny(g.Read, m.Name)
}

// Rank is the position of the member name among the group's keepers, 0 first, and whether
// it is one.
func (g *Group) Rank(name string) (int, bool) {
	i := slices.Index(g.Keepers, name)
	return i, i >= 0
}

// Keeper reports whether m may mint the group's keys: a gateway or keeper whose name is
// in the group's list.
func (g *Group) Keeper(m crypto.Member) bool {
	_, named := g.Rank(m.Name)
	return named && (m.Role == crypto.RoleGateway || m.Role == crypto.RoleKeeper)
}

func carriesData(r crypto.Role) bool {
	return r == crypto.RoleGateway || r == crypto.RoleSubscriber
}

func matchAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return MatchPattern(p, name) })
}

// MatchPattern reports whether a name pattern matches a member name. A '*' stands for any
// run of characters, also none; every other character stands for itself.
func MatchPattern(pattern, name string) bool {
	// Greedy with one point to come back to: linear in practice, never exponential.
	star, mark := -1, 0
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
