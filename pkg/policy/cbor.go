package policy

import (
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
)

// The first item of an encoded document: its format. A document is of the lowest that has what it needs, so that
// members who know no other understand it, and each document has one encoding.
const (
	formatPlain  = 1
	formatPad    = 2 // groups have a pad
	formatHide   = 3 // and may hide their topics
	formatNewest = formatHide
)

// Lengths that a decoder accepts for single strings.
const (
	maxName   = 63
	maxFilter = 65535 // MQTT 5.0 section 1.5.4
)

// Marshal encodes the document as the deterministic CBOR array that is signed
// (docs/spec/policy.md). Durations are in milliseconds. It does not validate: [Document.Sign]
// does.
func (d *Document) Marshal() []byte {
	b := dcbor.AppendArray(nil, documentItems[d.format()])
	b = dcbor.AppendUint(b, d.format())
	b = dcbor.AppendText(b, d.Fleet)
	b = dcbor.AppendUint(b, d.Version)
	b = dcbor.AppendBytes(b, d.Previous[:])
	b = dcbor.AppendText(b, d.Unmatched)
	b = dcbor.AppendArray(b, len(d.Groups))
	for i := range d.Groups {
		b = d.Groups[i].append(b, d.format())
	}
	b = appendTexts(b, d.RevokedNames)
	b = dcbor.AppendArray(b, len(d.RevokedCerts))
	for i := range d.RevokedCerts {
		b = dcbor.AppendBytes(b, d.RevokedCerts[i][:])
	}
	if d.format() >= formatHide {
		b = dcbor.AppendUint(b, d.TopicKey)
	}
	return b
}

// format is that of the document's encoding.
func (d *Document) format() uint64 {
	switch {
	case d.hides():
		return formatHide
	case slices.ContainsFunc(d.Groups, func(g Group) bool { return g.Pad != 0 }):
		return formatPad
	}
	return formatPlain
}

// The lengths of a document's and of a group's array in each format.
var (
	documentItems = [...]int{formatPlain: 8, formatPad: 8, formatHide: 9}
	groupItems    = [...]int{formatPlain: 11, formatPad: 12, formatHide: 13}
)

func (g *Group) append(b []byte, format uint64) []byte {
	b = dcbor.AppendArray(b, groupItems[format])
	b = dcbor.AppendText(b, g.Name)
	b = appendTexts(b, g.Topics)
	b = appendTexts(b, g.Publish)
	b = appendTexts(b, g.Read)
	b = appendTexts(b, g.Keepers)
	for _, d := range []time.Duration{g.Rotate, g.History, g.Freshness, g.ActivateAfter, g.Checkpoint} {
		b = dcbor.AppendUint(b, uint64(d.Milliseconds()))
	}
	b = dcbor.AppendText(b, g.ClearRetained)
	if format >= formatPad {
		b = dcbor.AppendUint(b, uint64(g.Pad))
	}
	if format >= formatHide {
		b = dcbor.AppendBool(b, g.HideTopics)
	}
	return b
}

func appendTexts(b []byte, list []string) []byte {
	b = dcbor.AppendArray(b, len(list))
	for _, s := range list {
		b = dcbor.AppendText(b, s)
	}
	return b
}

// Unmarshal decodes a document and validates it. What it accepts, [Document.Marshal] gives
// back byte for byte. The document keeps no view of b.
func Unmarshal(b []byte) (*Document, error) {
	if len(b) > MaxEncoded {
		return nil, fmt.Errorf("policy: %d bytes, at most %d allowed", len(b), MaxEncoded)
	}
	r := dcbor.NewReader(b)
	d := new(Document)
	items, format := r.Array(documentItems[formatNewest]), r.Uint()
	switch {
	case r.Err() != nil:
		return nil, fmt.Errorf("policy: %w", r.Err())
	case format < formatPlain || format > formatNewest:
		return nil, fmt.Errorf("policy: format version %d; this program knows up to version %d: update it", format, formatNewest)
	case items != documentItems[format]:
		return nil, fmt.Errorf("policy: %d items in a document of format version %d, %d expected", items, format, documentItems[format])
	}
	d.Fleet = r.Text(maxName)
	d.Version = r.Uint()
	r.BytesExact(d.Previous[:])
	d.Unmatched = r.Text(len(SealPrefix) + maxName)
	for range r.Array(MaxGroups) {
		d.Groups = append(d.Groups, readGroup(r, format))
	}
	d.RevokedNames = readTexts(r, MaxRevocations, maxName)
	for range r.Array(MaxRevocations) {
		var hash [32]byte
		r.BytesExact(hash[:])
		d.RevokedCerts = append(d.RevokedCerts, hash)
	}
	if format >= formatHide {
		d.TopicKey = r.Uint()
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if format != d.format() {
		return nil, fmt.Errorf("policy: format version %d for a document that a lower one is enough for: it would have two encodings", format)
	}
	if err := d.Validate(); err != nil {
		return nil, err
	}
	return d, nil
}

func readGroup(r *dcbor.Reader, format uint64) Group {
	var g Group
	if r.Err() != nil {
		return g
	}
	r.ArrayExact(groupItems[format])
	g.Name = r.Text(maxName)
	g.Topics = readTexts(r, MaxFilters, maxFilter)
	g.Publish = readTexts(r, MaxPatterns, maxName)
	g.Read = readTexts(r, MaxPatterns, maxName)
	g.Keepers = readTexts(r, MaxKeepers, maxName)
	for _, d := range []*time.Duration{&g.Rotate, &g.History, &g.Freshness, &g.ActivateAfter, &g.Checkpoint} {
		*d = time.Duration(r.UintMax(uint64(maxDuration/time.Millisecond))) * time.Millisecond
	}
	g.ClearRetained = r.Text(len(WordPass))
	if format >= formatPad {
		g.Pad = int(r.UintMax(crypto.MaxPad))
	}
	if format >= formatHide {
		g.HideTopics = r.Bool()
	}
	return g
}

// readTexts appends as it reads: what a peer declares costs nothing until it is there.
func readTexts(r *dcbor.Reader, items, length int) []string {
	var list []string
	for range r.Array(items) {
		list = append(list, r.Text(length))
		if r.Err() != nil {
			return nil
		}
	}
	return list
}
