/* Devices: who a steered packet is from, whether they are kept out, and what is counted of them. steer.c calls admit()
 * once, for every packet to a steered port.
 *
 * Nothing here adds to a map of devices. gatewayd does, when it accepts a connection, whose handshake proves the
 * address; so packets with made-up sources find no record, leave none, and push nobody's out. What keeps a device out
 * is in maps of their own that only gatewayd writes.
 *
 * Times are jiffies: the one clock that a program of no particular licence may read on every kernel, and the cheapest.
 */
#ifndef SEALGATE_DEVICES_H
#define SEALGATE_DEVICES_H

#include "packet.h"

/* Sizes of the maps. Those of devices take memory as they fill. */
#define STEER_MAX_DEVICES 4096
#define STEER_MAX_DENIED  2048 /* of each kind: twice what can be denied, so that any list can follow any other */
#define STEER_MAX_EVENTS   256

/* An address, IPv4 as ::ffff:a.b.c.d. */
struct steer_address {
	__be32 word[4];
};

/* The source address of the Ethernet frame, and two zeroes; all zero where the link has none. */
union steer_mac {
	__u8 byte[8];
	__u64 whole;
};

struct steer_device {
	__u64 packets; /* TCP segments to steered ports, let through to the look-up of a socket */
	__u64 bytes;   /* of their frames; segments that the kernel has joined count one header */
	__u64 limited; /* new connections dropped */
	__u64 seen;
	union steer_mac mac; /* of the last of them */
};

struct steer_net {
	__u32 bits; /* of the address, so 96 more for IPv4 */
	struct steer_address address;
};

struct steer_denied {
	__u64 packets, seen;
};

enum steer_event_kind {
	STEER_EVENT_NEW = 1, /* a SYN on its way to a socket */
	STEER_EVENT_DENIED,
	STEER_EVENT_LIMITED,
};

struct steer_event {
	struct steer_address address;
	union steer_mac mac;
	__u32 kind, port; /* port: the device's, in the machine's byte order */
};

struct map_def SEC("maps") steer_devices_map = {
	.type = BPF_MAP_TYPE_HASH, .key_size = sizeof(struct steer_address), .value_size = sizeof(struct steer_device),
	.max_entries = STEER_MAX_DEVICES, .flags = BPF_F_NO_PREALLOC,
};

/* Until when a device may make no new connection. */
struct map_def SEC("maps") steer_hold_map = {
	.type = BPF_MAP_TYPE_HASH, .key_size = sizeof(struct steer_address), .value_size = sizeof(__u64),
	.max_entries = STEER_MAX_DEVICES, .flags = BPF_F_NO_PREALLOC,
};

struct map_def SEC("maps") steer_deny_macs_map = {
	.type = BPF_MAP_TYPE_HASH, .key_size = sizeof(union steer_mac), .value_size = sizeof(struct steer_denied),
	.max_entries = STEER_MAX_DENIED, .flags = BPF_F_NO_PREALLOC,
};

struct map_def SEC("maps") steer_deny_nets_map = {
	.type = BPF_MAP_TYPE_LPM_TRIE, .key_size = sizeof(struct steer_net), .value_size = sizeof(struct steer_denied),
	.max_entries = STEER_MAX_DENIED, .flags = BPF_F_NO_PREALLOC,
};

/* What gatewayd is told of new connections. A queue and not a ring buffer, because it needs no newer kernel than the rest. */
struct map_def SEC("maps") steer_events_map = {
	.type = BPF_MAP_TYPE_QUEUE, .value_size = sizeof(struct steer_event), .max_entries = STEER_MAX_EVENTS,
};

/* The frame's header is where the packet's data begins if that says the protocol that the kernel knows the packet by, or
 * is of a VLAN: an interface can be told to leave the tag in (reorder_hdr off). */
INLINE __u64 source_mac(struct __sk_buff *skb)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	union steer_mac mac = {};

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return 0;
	if (eth->h_proto != (__be16)skb->protocol && eth->h_proto != htons(ETH_P_8021Q) && eth->h_proto != htons(ETH_P_8021AD))
		return 0;
	__builtin_memcpy(mac.byte, eth->h_source, sizeof(eth->h_source));
	return mac.whole;
}

INLINE void source_address(struct packet *p, struct steer_address *a)
{
	if (p->v6) {
		__builtin_memcpy(a->word, p->tuple.ipv6.saddr, sizeof(a->word));
		return;
	}
	a->word[0] = 0;
	a->word[1] = 0;
	a->word[2] = htonl(0xffff);
	a->word[3] = p->tuple.ipv4.saddr;
}

/* Only new connections are told of. */
INLINE void tell(struct packet *p, struct steer_net *n, __u64 mac, __u32 kind)
{
	struct steer_event e = { .address = n->address, .kind = kind };

	if (!p->syn)
		return;
	e.mac.whole = mac;
	e.port = ntohs(p->v6 ? p->tuple.ipv6.sport : p->tuple.ipv4.sport);
	if (map_push(&steer_events_map, &e, 0))
		count(STEER_UNTOLD, 1);
}

/* Whether a deny list has the source. */
INLINE int denied(struct steer_net *n, __u64 *mac, struct steer_config *c, __u32 segments)
{
	struct steer_denied *d = 0;

	if (c->flags & STEER_DENY_MACS)
		d = map_lookup(&steer_deny_macs_map, mac);
	if (!d && c->flags & STEER_DENY_NETS)
		d = map_lookup(&steer_deny_nets_map, n);
	if (!d)
		return 0;
	__sync_fetch_and_add(&d->packets, segments);
	d->seen = jiffies();
	return 1;
}

/* Whether gatewayd has asked to hear of no new connection of this device for the time being. */
INLINE int held(struct packet *p, struct steer_address *a, struct steer_config *c)
{
	__u64 *until;

	if (!p->syn || !(c->flags & STEER_HOLD))
		return 0;
	until = map_lookup(&steer_hold_map, a);
	return until && *until > jiffies();
}

/* TC_ACT_OK for a packet that may go on to a socket, else the final verdict. */
INLINE int admit(struct __sk_buff *skb, struct packet *p, struct steer_config *c)
{
	__u32 segments = skb->gso_segs ? skb->gso_segs : 1;
	struct steer_net n = { .bits = 128 };
	__u64 mac = source_mac(skb);
	struct steer_device *d;

	source_address(p, &n.address);
	if (denied(&n, &mac, c, segments)) {
		tell(p, &n, mac, STEER_EVENT_DENIED);
		return drop(STEER_DENIED);
	}
	d = map_lookup(&steer_devices_map, &n.address);
	if (held(p, &n.address, c)) {
		if (d)
			__sync_fetch_and_add(&d->limited, 1);
		tell(p, &n, mac, STEER_EVENT_LIMITED);
		return drop(STEER_LIMITED);
	}
	if (d) {
		__sync_fetch_and_add(&d->packets, segments);
		__sync_fetch_and_add(&d->bytes, skb->len);
		d->seen = jiffies();
		d->mac.whole = mac;
	}
	tell(p, &n, mac, STEER_EVENT_NEW);
	return TC_ACT_OK;
}

#endif
