// Package dcbor encodes and decodes the deterministic CBOR that Sealgate's
// wire formats are made of: RFC 8949 section 4.2.1 (core deterministic
// encoding), restricted to unsigned and negative integers, byte and text
// strings, arrays, maps, tags and booleans.
//
// Encoding is by append functions that build a message in wire order.
// Decoding is by a [Reader] with a sticky error: callers read the fields they
// expect and look at the error once. Anything that the append functions would
// not have produced (longer heads than needed, indefinite lengths, floats,
// invalid UTF-8, trailing bytes) is refused, so whatever decodes re-encodes to the
// same bytes. Nothing is allocated on a declared length.
package dcbor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// Major types, RFC 8949 section 3.1, already shifted into the initial byte.
const (
	majorUint  = 0 << 5
	majorNeg   = 1 << 5
	majorBytes = 2 << 5
	majorText  = 3 << 5
	majorArray = 4 << 5
	majorMap   = 5 << 5
	majorTag   = 6 << 5
	simple     = 7 << 5
)

// ErrMalformed is wrapped by every error that a [Reader] reports.
var ErrMalformed = errors.New("malformed deterministic CBOR")

// HeadLen is the number of bytes that the head of an item with argument n takes.
func HeadLen(n uint64) int {
	switch {
	case n < 24:
		return 1
	case n <= math.MaxUint8:
		return 2
	case n <= math.MaxUint16:
		return 3
	case n <= math.MaxUint32:
		return 5
	}
	return 9
}

func appendHead(b []byte, major byte, n uint64) []byte {
	switch HeadLen(n) {
	case 1:
		return append(b, major|byte(n))
	case 2:
		return append(b, major|24, byte(n))
	case 3:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case 5:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

// AppendUint appends an unsigned integer.
func AppendUint(b []byte, v uint64) []byte { return appendHead(b, majorUint, v) }

// AppendInt appends a signed integer.
func AppendInt(b []byte, v int64) []byte {
	if v < 0 {
		return appendHead(b, majorNeg, uint64(^v))
	}
	return appendHead(b, majorUint, uint64(v))
}

// AppendBytes appends a byte string.
func AppendBytes(b, v []byte) []byte { return append(appendHead(b, majorBytes, uint64(len(v))), v...) }

// AppendBytesHead appends the head of a byte string of n bytes; the caller appends the bytes.
func AppendBytesHead(b []byte, n int) []byte { return appendHead(b, majorBytes, uint64(n)) }

// AppendText appends a text string. v must be valid UTF-8.
func AppendText[T ~string | ~[]byte](b []byte, v T) []byte {
	return append(appendHead(b, majorText, uint64(len(v))), v...)
}

// AppendArray appends the head of an array of n items.
func AppendArray(b []byte, n int) []byte { return appendHead(b, majorArray, uint64(n)) }

// AppendMap appends the head of a map of n pairs. The caller appends the pairs
// in the bytewise order of their encoded keys.
func AppendMap(b []byte, n int) []byte { return appendHead(b, majorMap, uint64(n)) }

// AppendTag appends a tag; the tagged item follows.
func AppendTag(b []byte, tag uint64) []byte { return appendHead(b, majorTag, tag) }

// AppendBool appends a boolean.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, simple|21)
	}
	return append(b, simple|20)
}

// Reader decodes items from the front of a buffer. The first error sticks: later calls
// return zero values. The zero Reader is empty.
type Reader struct {
	rest []byte
	off  int
	err  error
}

// NewReader returns a Reader over b. Byte strings it returns are views into b.
func NewReader(b []byte) *Reader { return &Reader{rest: b} }

// Err is the first error met, nil so far if there was none.
func (r *Reader) Err() error { return r.err }

// Fail records err, unless an earlier one stands.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Len is the number of bytes not yet read.
func (r *Reader) Len() int { return len(r.rest) }

// Done reports the sticky error, or that bytes are left over.
func (r *Reader) Done() error {
	if r.err == nil && len(r.rest) != 0 {
		r.malformed("%d trailing bytes", len(r.rest))
	}
	return r.err
}

func (r *Reader) malformed(format string, args ...any) {
	r.Fail(fmt.Errorf("%w at byte %d: %s", ErrMalformed, r.off, fmt.Sprintf(format, args...)))
}

func (r *Reader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.malformed("%d bytes declared, %d left", n, len(r.rest))
		return nil
	}
	v := r.rest[:n:n]
	r.rest, r.off = r.rest[n:], r.off+int(n)
	return v
}

// head reads one head, refusing every encoding of its argument but the shortest.
func (r *Reader) head() (major byte, n uint64) {
	if r.err != nil {
		return 0, 0
	}
	if len(r.rest) == 0 {
		r.malformed("item missing")
		return 0, 0
	}
	first := r.rest[0]
	major, low := first&0xe0, first&0x1f
	if low < 24 {
		r.take(1)
		return major, uint64(low)
	}
	if low > 27 {
		r.malformed("initial byte %#02x is reserved or of indefinite length", first)
		return 0, 0
	}
	size := 1 << (low - 24)
	if len(r.rest) < 1+size {
		r.malformed("head cut off")
		return 0, 0
	}
	for _, c := range r.rest[1 : 1+size] {
		n = n<<8 | uint64(c)
	}
	if HeadLen(n) != 1+size {
		r.malformed("argument %d is not in its shortest form", n)
		return 0, 0
	}
	r.take(uint64(1 + size))
	return major, n
}

func (r *Reader) want(major byte, what string) uint64 {
	off := r.off
	got, n := r.head()
	if r.err == nil && got != major {
		r.off = off
		r.malformed("%s expected, found major type %d", what, got>>5)
		return 0
	}
	return n
}

// Uint reads an unsigned integer.
func (r *Reader) Uint() uint64 { return r.want(majorUint, "unsigned integer") }

// UintMax reads an unsigned integer of at most limit.
func (r *Reader) UintMax(limit uint64) uint64 {
	v := r.Uint()
	if v > limit {
		r.malformed("%d is over the limit of %d", v, limit)
		return 0
	}
	return v
}

// Int reads an integer that fits an int64.
func (r *Reader) Int() int64 {
	major, n := r.head()
	switch {
	case r.err != nil:
		return 0
	case n > math.MaxInt64 || major != majorUint && major != majorNeg:
		r.malformed("64-bit integer expected")
		return 0
	case major == majorNeg:
		return ^int64(n)
	}
	return int64(n)
}

// Bytes reads a byte string of at most limit bytes, as a view.
func (r *Reader) Bytes(limit int) []byte {
	return r.str(majorBytes, "byte string", limit)
}

// BytesExact reads a byte string into dst, which it must fill exactly.
func (r *Reader) BytesExact(dst []byte) {
	v := r.str(majorBytes, "byte string", len(dst))
	if r.err == nil && len(v) != len(dst) {
		r.malformed("byte string of %d bytes expected, found %d", len(dst), len(v))
		return
	}
	copy(dst, v)
}

// Text reads a text string of at most limit bytes.
func (r *Reader) Text(limit int) string {
	v := r.str(majorText, "text string", limit)
	if !utf8.Valid(v) {
		r.malformed("text string is not UTF-8")
		return ""
	}
	return string(v)
}

func (r *Reader) str(major byte, what string, limit int) []byte {
	n := r.want(major, what)
	if r.err != nil {
		return nil
	}
	if n > uint64(limit) {
		r.malformed("%s of %d bytes, at most %d allowed", what, n, limit)
		return nil
	}
	return r.take(n)
}

// Array reads an array's head and returns its number of items, at most limit.
// It never returns more items than there are bytes left.
func (r *Reader) Array(limit int) int { return r.count(majorArray, "array", limit) }

// ArrayExact reads the head of an array of exactly n items.
func (r *Reader) ArrayExact(n int) {
	if got := r.count(majorArray, "array", n); r.err == nil && got != n {
		r.malformed("array of %d items expected, found %d", n, got)
	}
}

// Map reads a map's head and returns its number of pairs, at most limit.
func (r *Reader) Map(limit int) int { return r.count(majorMap, "map", limit) }

func (r *Reader) count(major byte, what string, limit int) int {
	n := r.want(major, what)
	if r.err != nil {
		return 0
	}
	if n > uint64(limit) || n > uint64(len(r.rest)) {
		r.malformed("%s of %d items, at most %d allowed and %d bytes left", what, n, limit, len(r.rest))
		return 0
	}
	return int(n)
}

// Tag reads a tag, which must be tag.
func (r *Reader) Tag(tag uint64) {
	if got := r.want(majorTag, "tag"); r.err == nil && got != tag {
		r.malformed("tag %d expected, found %d", tag, got)
	}
}

// Bool reads a boolean.
func (r *Reader) Bool() bool {
	major, n := r.head()
	if r.err == nil && (major != simple || n != 20 && n != 21) {
		r.malformed("boolean expected")
	}
	return r.err == nil && n == 21
}
