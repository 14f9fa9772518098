// Package rewrite carries TCP connections whose packets pass through the gateway, and changes what they say.
//
// The connection stays one from end to end: device and broker shake hands with each other and keep their addresses,
// ports, sequence spaces, window scales and timestamps. Only the bytes in between are others, and more or fewer of
// them. For each direction there are two byte streams over the same initial sequence number: the original one, which
// its sender sends, and the transformed one, which its receiver gets. A Stream keeps both:
//
//	          original                               transformed
//	sender ──▶ acked … next ──▶ taken by whoever transforms ──▶ una … sent … end ──▶ receiver
//	       ◀── acked ◀──────────── marks (original, transformed) ◀──────────── una ◀──
//
// Transformed bytes are kept until the receiver acknowledges them, and an acknowledgement is translated back by marks,
// so the sender's own congestion control and retransmission rule the whole path. What the sender sends again, however
// it cuts it, is served from the kept bytes; nothing is transformed twice. Bytes that are held back, because a message
// is not whole yet, are acknowledged as soon as nothing else is under way: else a sender whose window is smaller than its
// message would wait for ever. Of those this package sends again itself, on a timer.
//
// There is no I/O and no clock here. Segments and a time go in, segments come out. A Flow is not safe for concurrent use.
package rewrite
