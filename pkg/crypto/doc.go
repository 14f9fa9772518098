// Package crypto is the cryptography of Sealgate: the envelope that a sealed
// MQTT payload travels in, the key schedule below it, the keys of a fleet's groups and
// the way they are delivered, and the identities that sign the control protocol.
// docs/spec/envelope.md specifies every byte of it; comments here cite that
// document's sections as "spec 4.2".
//
// A publisher's messages on one topic are a stream. A [SealStream] has the
// stream's key, derived from the group's payload secret, and numbers what
// it seals from 0 on; an [OpenStream] is its counterpart at a receiver, and a
// [Window] tells fresh numbers from repeated ones. A [Keyring] is an immutable
// snapshot of the payload secrets a member holds. A [KEK] wraps payload secrets for
// a whole group in one message, and HPKE ([HPKESeal], [InboxKey]) brings a KEK to one
// member. An [Identity] signs control messages and a [Trust] verifies them.
//
// The package neither reads files nor opens connections nor looks at a
// clock: randomness comes from an io.Reader where a caller may want to choose it, and
// time is an argument. Types that hold a secret print as "[redacted]" whatever
// the verb or the encoder. Sealing and opening allocate nothing when the
// destination has room.
package crypto
