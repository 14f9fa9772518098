/* Inline between the ports of a bridge: what the classifier does there beside steering.
 *
 * The ports are isolated and an nftables table drops what the bridge would forward between them, so that nothing
 * crosses but what is sent across here: frames of the allowed kinds that are not steered. A steered packet is given to
 * the bridge as received by it; frames for the gateway itself and copies of broadcasts go the bridge's own way.
 */
#ifndef SEALGATE_BRIDGE_H
#define SEALGATE_BRIDGE_H

#include "devices.h"
#include "packet.h"
#include "socket.h"

struct map_def SEC("maps") steer_bridge_map = {
	.type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = sizeof(struct steer_bridge), .max_entries = 1,
};

/* The kinds of frame that may cross. */
struct map_def SEC("maps") steer_types_map = {
	.type = BPF_MAP_TYPE_HASH, .key_size = 2, .value_size = 1, .max_entries = STEER_MAX_TYPES,
};

/* The port that a station was heard on last. The bridge's own table does not do: it never sees what crosses. */
struct map_def SEC("maps") steer_stations_map = {
	.type = BPF_MAP_TYPE_LRU_HASH, .key_size = 8, .value_size = 4, .max_entries = STEER_MAX_STATIONS,
};

/* The Ethernet addresses of devices and brokers, by their addresses: of those whose connections gatewayd has. */
struct map_def SEC("maps") steer_neighbours_map = {
	.type = BPF_MAP_TYPE_LRU_HASH, .key_size = sizeof(struct steer_address), .value_size = 8, .max_entries = STEER_MAX_NEIGHBOURS,
};

/* A frame between the ports of a bridge. */
struct frame {
	struct ethhdr eth;
	__u8 uplink; /* it came in by a port on the broker's side */
	__u8 leaves; /* the gateway itself sends it, by the bridge */
};

INLINE __u64 station(const __u8 *mac)
{
	__u64 key = 0;

	__builtin_memcpy(&key, mac, ETH_ALEN);
	return key;
}

/* Nobody can claim the bridge's own address. Whoever claims another station's gets frames of it that are not steered,
 * as from any bridge. */
INLINE void learn(struct __sk_buff *skb, struct steer_bridge *b, struct frame *f)
{
	__u64 key = station(f->eth.h_source);
	__u32 port = skb->ifindex, *heard;

	if (f->eth.h_source[0] & 1 || key == station(b->mac))
		return;
	heard = map_lookup(&steer_stations_map, &key);
	if (!heard)
		map_update(&steer_stations_map, &key, &port, BPF_ANY);
	else if (*heard != port)
		*heard = port;
}

/* Whether an interface is a port, and of which side. */
INLINE int is_port(struct steer_bridge *b, __u32 index, __u8 *uplink)
{
	int known = 0;

#pragma unroll
	for (int i = 0; i < STEER_MAX_BRIDGE_PORTS; i++) {
		if (b->ports[i].index == index) {
			known = 1;
			*uplink = b->ports[i].uplink;
		}
	}
	return known;
}

/* TC_ACT_OK for a frame that has to be looked into, else the final verdict. */
INLINE int arrive(struct __sk_buff *skb, struct steer_bridge *b, struct frame *f)
{
	if (skb_load(skb, 0, &f->eth, sizeof(f->eth)))
		return drop(STEER_BARRED);
	f->leaves = skb->ifindex == b->index;
	if (f->leaves)
		return TC_ACT_OK;
	if (!is_port(b, skb->ifindex, &f->uplink))
		return drop(STEER_BARRED);
	learn(skb, b, f);
	/* The broker's side may talk to the gateway as to any host. */
	return f->uplink && station(f->eth.h_dest) == station(b->mac) ? TC_ACT_UNSPEC : TC_ACT_OK;
}

/* Gives an assigned packet to the bridge as one that it has received for itself. */
INLINE int into_bridge(struct __sk_buff *skb, struct steer_bridge *b)
{
	if (skb_store(skb, 0, b->mac, ETH_ALEN, 0))
		return drop(STEER_FAILED);
	return redirect(b->index, BPF_F_INGRESS);
}

/* 01:80:c2:00:00:00 to :0f, spanning tree and the like, which no bridge passes on (IEEE 802.1D 7.12.6). */
INLINE int reserved(const __u8 *mac)
{
	return mac[0] == 0x01 && mac[1] == 0x80 && mac[2] == 0xc2 && !mac[3] && !mac[4] && mac[5] < 0x10;
}

/* Sends a frame that is not steered where a bridge would: to the port of its station, else to all other ports. What may
 * be for the gateway too goes on into the bridge, which forwards nothing. */
INLINE int forward(struct __sk_buff *skb, struct steer_bridge *b, struct frame *f, __be32 proto)
{
	__u64 key = station(f->eth.h_dest);
	__u16 type = ntohs((__be16)proto);
	__u32 *heard;

	if (key == station(b->mac) || reserved(f->eth.h_dest))
		return TC_ACT_UNSPEC;
	if (!map_lookup(&steer_types_map, &type))
		return drop(STEER_BARRED);
	if (!(f->eth.h_dest[0] & 1)) {
		heard = map_lookup(&steer_stations_map, &key);
		if (heard)
			return *heard == skb->ifindex ? TC_ACT_SHOT : redirect(*heard, 0);
	}
#pragma unroll
	for (int i = 0; i < STEER_MAX_BRIDGE_PORTS; i++) {
		if (b->ports[i].index && b->ports[i].index != skb->ifindex)
			clone_redirect(skb, b->ports[i].index, 0);
	}
	return TC_ACT_UNSPEC;
}

INLINE void neighbour(struct steer_address *a, const __u8 *mac)
{
	__u64 key = station(mac), *known;

	known = map_lookup(&steer_neighbours_map, a);
	if (!known)
		map_update(&steer_neighbours_map, a, &key, BPF_ANY);
	else if (*known != key)
		*known = key;
}

/* Where device and broker of a steered packet are, as the device has it. */
INLINE void remember(struct frame *f, struct packet *p)
{
	struct steer_address a;

	source_address(p, &a);
	neighbour(&a, f->eth.h_source);
	if (p->v6)
		__builtin_memcpy(a.word, p->tuple.ipv6.daddr, sizeof(a.word));
	else
		a.word[3] = p->tuple.ipv4.daddr;
	neighbour(&a, f->eth.h_dest);
}

/* Whether a packet from the broker's side belongs to a connection that gatewayd has in a device's place, and is assigned
 * to it. The mark has it delivered here, though the address is the device's. */
INLINE int returned(struct __sk_buff *skb, struct steer_bridge *b, struct packet *p)
{
	struct bpf_sock *sk = find(skb, p);

	if (!sk)
		return 0;
	if (!ours(sk, b->mark)) {
		sk_release(sk);
		return 0;
	}
	skb->mark = b->mark;
	return assign(skb, sk) == TC_ACT_OK;
}

/* TCP that the gateway sends goes to the port of its station, past the bridge, which has not heard of stations whose
 * frames were given to it here. What gatewayd says to devices does not go to the broker's side. */
INLINE int leave(struct __sk_buff *skb, struct steer_bridge *b, struct frame *f, struct packet *p)
{
	const __u8 next_hop[ETH_ALEN] = STEER_NEXT_HOP;
	__u64 key = station(f->eth.h_dest), *mac;
	__u16 port = ntohs(p->v6 ? p->tuple.ipv6.sport : p->tuple.ipv4.sport);
	struct steer_address a = { .word = { 0, 0, htonl(0xffff), p->tuple.ipv4.daddr } };
	__u32 *heard;
	__u8 uplink = 0;

	if (key == station(next_hop)) {
		if (p->v6)
			__builtin_memcpy(a.word, p->tuple.ipv6.daddr, sizeof(a.word));
		mac = map_lookup(&steer_neighbours_map, &a);
		if (!mac || skb_store(skb, 0, mac, ETH_ALEN, 0))
			return drop(STEER_BARRED);
		key = *mac;
	}
	heard = map_lookup(&steer_stations_map, &key);
	if (!heard || !is_port(b, *heard, &uplink))
		return TC_ACT_UNSPEC; /* the bridge sends it to all ports, and the guard keeps it from the broker's */
	if (uplink && map_lookup(&steer_ports_map, &port))
		return drop(STEER_BARRED);
	return redirect(*heard, 0);
}

#endif
