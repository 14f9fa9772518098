/* Inline between the ports of a bridge: what the classifier does there beside steering.
 *
 * The ports are isolated and an nftables table drops what the bridge would forward between them, so that nothing
 * crosses but what is sent across here: frames of the allowed kinds that are not steered. A steered packet is given to
 * the bridge as received by it; frames for the gateway itself and copies of broadcasts go the bridge's own way.
 *
 * Included by steer.c behind its parser.
 */
#ifndef SEALGATE_BRIDGE_H
#define SEALGATE_BRIDGE_H

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

/* A frame between the ports of a bridge. */
struct frame {
	struct ethhdr eth;
	__u32 uplink; /* it came in by a port on the broker's side */
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

/* TC_ACT_OK for a frame that has to be looked into, else the final verdict. */
INLINE int arrive(struct __sk_buff *skb, struct steer_bridge *b, struct frame *f)
{
	int known = 0;

#pragma unroll
	for (int i = 0; i < STEER_MAX_BRIDGE_PORTS; i++) {
		if (b->ports[i].index == skb->ifindex) {
			known = 1;
			f->uplink = b->ports[i].uplink;
		}
	}
	if (!known || skb_load(skb, 0, &f->eth, sizeof(f->eth)))
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

#endif
