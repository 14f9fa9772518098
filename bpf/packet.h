/* What a packet is: the parser, and the counters of what becomes of packets. */
#ifndef SEALGATE_PACKET_H
#define SEALGATE_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include "helpers.h"
#include "steer.h"

#define PROTO_HOPOPTS   0
#define PROTO_TCP       6
#define PROTO_ROUTING  43
#define PROTO_FRAGMENT 44
#define PROTO_AH       51
#define PROTO_DSTOPTS  60
#define PROTO_MOBILITY 135
#define PROTO_HIP      139
#define PROTO_SHIM6    140

#define IPV4_FRAGMENT 0x3fff /* more-fragments bit and offset */
#define VLAN_VID      0x0fff
#define HEADERS       256    /* enough for every header chain that is followed */

struct map_def SEC("maps") steer_ports_map = {
	.type = BPF_MAP_TYPE_HASH, .key_size = 2, .value_size = 1, .max_entries = STEER_MAX_PORTS,
};

struct map_def SEC("maps") steer_counters_map = {
	.type = BPF_MAP_TYPE_PERCPU_ARRAY, .key_size = 4, .value_size = 8, .max_entries = STEER_COUNTERS,
};

struct tag {
	__be16 tci, proto;
};

struct extension {
	__u8 next, length;
};

/* What parsing finds out about a packet that is ours. */
struct packet {
	struct bpf_sock_tuple tuple; /* as the packet has it: source is the device */
	__u32 l4;                    /* offset of the TCP header from the network header */
	__u8 v6, tagged;
	__u8 syn;                    /* it asks for a connection */
	__u8 tcp;                    /* the tuple is complete */
	__be32 proto;                /* of what is behind the Ethernet header and any VLAN tags */
};

INLINE void count(__u32 which, __u64 n)
{
	__u64 *c = map_lookup(&steer_counters_map, &which);

	if (c)
		*c += n;
}

INLINE int drop(__u32 reason)
{
	count(reason, 1);
	return TC_ACT_SHOT;
}

/* Copies len bytes at offset from the network header. Some drivers leave all but the Ethernet header in page
 * fragments, where the first attempt cannot reach. */
INLINE int load(struct __sk_buff *skb, __u32 offset, void *to, __u32 len)
{
	if (!skb_load_relative(skb, offset, to, len, BPF_HDR_START_NET))
		return 0;
	if (skb_pull(skb, skb->len < HEADERS ? skb->len : HEADERS))
		return -1;
	return skb_load_relative(skb, offset, to, len, BPF_HDR_START_NET) ? -1 : 0;
}

/* The parsers return TC_ACT_OK for TCP whose header is at p->l4, else the final verdict. */

INLINE int parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;

	if (load(skb, p->l4, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return drop(STEER_TRUNCATED);
	if (ip.protocol == PROTO_AH) /* encrypts nothing; not followed in IPv4 */
		return drop(STEER_EXTENSION);
	if (ip.protocol != PROTO_TCP)
		return TC_ACT_UNSPEC;
	if (ip.frag_off & htons(IPV4_FRAGMENT))
		return drop(STEER_FRAGMENT);
	p->tuple.ipv4.saddr = ip.saddr;
	p->tuple.ipv4.daddr = ip.daddr;
	p->l4 += ip.ihl * 4;
	return TC_ACT_OK;
}

/* Whether an IPv6 header of this kind is followed on the way to TCP. A fragment header is a case of its own. */
INLINE int is_extension(__u8 proto)
{
	switch (proto) {
	case PROTO_HOPOPTS:
	case PROTO_ROUTING:
	case PROTO_DSTOPTS:
	case PROTO_MOBILITY:
	case PROTO_HIP:
	case PROTO_SHIM6:
	case PROTO_AH:
		return 1;
	}
	return 0;
}

/* One IPv6 extension header: 0 and the next header in *next, or 1 when *next is not an extension header, or -1. */
INLINE int skip_extension(struct __sk_buff *skb, struct packet *p, __u8 *next)
{
	struct extension e;

	if (!is_extension(*next))
		return 1;
	if (load(skb, p->l4, &e, sizeof(e)))
		return -1;
	p->l4 += *next == PROTO_AH ? (e.length + 2) * 4 : (e.length + 1) * 8;
	*next = e.next;
	return 0;
}

/* A fragment header names the protocol of the first fragment's next header. UDP and the like are let through;
 * TCP, and anything that may still lead to TCP, is not. */
INLINE int parse_fragment(struct __sk_buff *skb, struct packet *p)
{
	struct extension e;

	if (load(skb, p->l4, &e, sizeof(e)))
		return drop(STEER_TRUNCATED);
	if (e.next == PROTO_TCP || e.next == PROTO_FRAGMENT || is_extension(e.next))
		return drop(STEER_FRAGMENT);
	return TC_ACT_UNSPEC;
}

INLINE int parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr ip;
	int more = 0;
	__u8 next;

	if (load(skb, p->l4, &ip, sizeof(ip)) || ip.version != 6)
		return drop(STEER_TRUNCATED);
	__builtin_memcpy(p->tuple.ipv6.saddr, &ip.saddr, 16);
	__builtin_memcpy(p->tuple.ipv6.daddr, &ip.daddr, 16);
	p->l4 += sizeof(ip);
	p->v6 = 1;
	next = ip.nexthdr;
#pragma unroll
	for (int i = 0; i < STEER_MAX_EXTENSIONS; i++) {
		more = skip_extension(skb, p, &next);
		if (more)
			break;
	}
	if (more < 0)
		return drop(STEER_TRUNCATED);
	if (next == PROTO_FRAGMENT)
		return parse_fragment(skb, p);
	if (next == PROTO_TCP)
		return TC_ACT_OK;
	return is_extension(next) ? drop(STEER_EXTENSION) : TC_ACT_UNSPEC;
}

INLINE int is_tag(__be32 proto)
{
	return proto == htons(ETH_P_8021Q) || proto == htons(ETH_P_8021AD);
}

/* The kernel has already taken the first VLAN tag off. A tag with VLAN 0 is a priority, not a VLAN. */
INLINE int parse(struct __sk_buff *skb, struct packet *p)
{
	struct tag tag;

	p->proto = skb->protocol;
	p->tagged = skb->vlan_present && (skb->vlan_tci & VLAN_VID);
#pragma unroll
	for (int i = 0; i < STEER_MAX_TAGS; i++) {
		if (!is_tag(p->proto))
			break;
		if (load(skb, p->l4, &tag, sizeof(tag)))
			return drop(STEER_TRUNCATED);
		p->proto = tag.proto;
		p->l4 += sizeof(tag);
		p->tagged = 1;
	}
	if (p->proto == htons(ETH_P_IP))
		return parse_ipv4(skb, p);
	if (p->proto == htons(ETH_P_IPV6))
		return parse_ipv6(skb, p);
	return is_tag(p->proto) ? drop(STEER_VLAN) : TC_ACT_UNSPEC;
}

/* Completes the tuple. TC_ACT_OK for a steered port, else the final verdict. */
INLINE int parse_tcp(struct __sk_buff *skb, struct packet *p)
{
	struct tcphdr tcp;
	__u16 port;

	if (load(skb, p->l4, &tcp, sizeof(tcp)))
		return drop(STEER_TRUNCATED);
	p->syn = tcp.syn && !tcp.ack;
	p->tcp = 1;
	if (p->v6) {
		p->tuple.ipv6.sport = tcp.source;
		p->tuple.ipv6.dport = tcp.dest;
	} else {
		p->tuple.ipv4.sport = tcp.source;
		p->tuple.ipv4.dport = tcp.dest;
	}
	port = ntohs(tcp.dest);
	return map_lookup(&steer_ports_map, &port) ? TC_ACT_OK : TC_ACT_UNSPEC;
}

#endif
