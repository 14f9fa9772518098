//go:build ignore

/* The steering classifier, attached to the ingress of every LAN interface of a routed gateway, or of every port of a
 * bridge that the gateway stands in (bridge.h).
 *
 * It answers one question a packet: is this TCP to a steered port? If not, the packet goes on as if the program were
 * not there (TC_ACT_UNSPEC, so that classifiers behind it still run). If so, the packet is handed to one of gatewayd's
 * own sockets or dropped; it is never let through. What cannot be told apart for certain (a fragment, a header that is
 * cut off, a chain of headers that is too long) counts as steered and is dropped.
 *
 * In the order a packet takes: parse (packet.h), ask whether its device is welcome (devices.h), find the socket and assign
 * (socket.h).
 */
#include "bridge.h"
#include "devices.h"
#include "packet.h"
#include "socket.h"

/* TC_ACT_OK when a socket of ours has the packet. */
INLINE int deliver(struct __sk_buff *skb, struct packet *p)
{
	struct steer_config *c;
	__u32 zero = 0;
	int verdict;

	c = map_lookup(&steer_config_map, &zero);
	if (!c)
		return drop(STEER_NO_LISTENER);
	if (p->tagged)
		return c->flags & STEER_PASS_TAGGED ? TC_ACT_UNSPEC : drop(STEER_VLAN);
	verdict = admit(skb, p, c);
	return verdict == TC_ACT_OK ? to_socket(skb, p, c) : verdict;
}

SEC("tc") int sealgate_steer(struct __sk_buff *skb)
{
	struct packet p = {};
	struct frame f = {};
	struct steer_bridge *b;
	__u32 zero = 0;
	int verdict;

	b = map_lookup(&steer_bridge_map, &zero);
	if (!b)
		return drop(STEER_BARRED);
	if (b->index) {
		verdict = arrive(skb, b, &f);
		if (verdict != TC_ACT_OK)
			return verdict;
	}
	verdict = parse(skb, &p);
	if (verdict == TC_ACT_OK)
		verdict = parse_tcp(skb, &p);
	if (f.leaves)
		return verdict == TC_ACT_SHOT || !p.tcp ? verdict : leave(skb, b, &f, &p);
	if (f.uplink && p.tcp && b->mark && returned(skb, b, &p))
		return into_bridge(skb, b);
	if (verdict == TC_ACT_UNSPEC && b->index)
		return forward(skb, b, &f, p.proto);
	if (verdict != TC_ACT_OK)
		return verdict;
	if (f.uplink)
		return drop(STEER_BARRED);
	verdict = deliver(skb, &p);
	/* TC_ACT_OK ends the chain: no classifier behind this one can send an assigned packet elsewhere. */
	if (verdict != TC_ACT_OK || !b->index)
		return verdict;
	if (b->mark)
		remember(&f, &p);
	return into_bridge(skb, b);
}
