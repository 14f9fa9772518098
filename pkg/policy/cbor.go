package policy

import (
	"fmt"
	"slices"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/dcbor"
)

// The first item of an encoded document: its format. A document without options is of the first, so that
// members who know no other understand it, and each document has one encoding.
const (
	formatPlain   = 1
	formatOptions = 2 // groups have options
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
	b := dcbor.AppendArray(nil, 8)
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
	return b
}

// format is that of the document's encoding.
func (d *Document) format() uint64 {
	if slices.ContainsFunc(d.Groups, func(g Group) bool { return g.Pad != 0 }) {
		return formatOptions
	}
	return formatPlain
}

// groupItems is the length of a group's array in each format.
var groupItems = [...]int{formatPlain: 11, formatOptions: 12}

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
	if format == formatOptions {
		b = dcbor.AppendUint(b, uint64(g.Pad))
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
	r.ArrayExact(8)
	format := r.Uint()
	if r.Err() == nil && (format < formatPlain || format > formatOptions) {
		return nil, fmt.Errorf("policy: format version %d; this program knows up to version %d: update it", format, formatOptions)
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
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if format != d.format() {
		return nil, fmt.Errorf("policy: format version %d for a document without options: it would have two encodings", format)
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
	if format == formatOptions {
		g.Pad = int(r.UintMax(crypto.MaxPad))
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
