/* The socket of gatewayd's that a packet is given to: of a connection that it has, or its listener. */
#ifndef SEALGATE_SOCKET_H
#define SEALGATE_SOCKET_H

#include "packet.h"

struct map_def SEC("maps") steer_config_map = {
	.type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = sizeof(struct steer_config), .max_entries = 1,
};

/* Whether a socket that the packet's own addresses lead to is gatewayd's. Only TIME_WAIT cannot be asked: what it was
 * the connection of, nobody can send data on any more. */
INLINE int ours(struct bpf_sock *sk, __u32 mark)
{
	struct bpf_sock *full;

	switch (sk->state) {
	case BPF_TCP_LISTEN: /* a host's own server on a steered port */
		return 0;
	case BPF_TCP_TIME_WAIT:
		return 1;
	case BPF_TCP_NEW_SYN_RECV:
		full = get_listener_sock(sk);
		break;
	default:
		full = sk_fullsock(sk);
	}
	return full && full->mark == mark;
}

/* Assigns and releases. */
INLINE int assign(struct __sk_buff *skb, struct bpf_sock *sk)
{
	long err = sk_assign(skb, sk, 0);

	sk_release(sk);
	if (err)
		return drop(STEER_FAILED);
	count(STEER_ASSIGNED, 1);
	count(STEER_SEGMENTS, skb->gso_segs ? skb->gso_segs : 1);
	return TC_ACT_OK;
}

/* Our listener, looked up by its private port, so that no server of the host's on a steered port is in the way. The
 * mark tells it from a stranger that was given the same port after gatewayd died. */
INLINE int to_listener(struct __sk_buff *skb, struct steer_config *c)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk, *full;

	if (!c->port)
		return drop(STEER_NO_LISTENER);
	if (c->flags & STEER_LISTENER_IPV6) {
		t.ipv6.daddr[3] = htonl(1);
		t.ipv6.dport = htons((__u16)c->port);
		sk = skc_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
	} else {
		barrier();
		t.ipv4.daddr = htonl(0x7f000001);
		t.ipv4.dport = htons((__u16)c->port);
		sk = skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return drop(STEER_NO_LISTENER);
	full = sk_fullsock(sk);
	if (!full || full->state != BPF_TCP_LISTEN || full->mark != c->mark) {
		sk_release(sk);
		return drop(STEER_NO_LISTENER);
	}
	return assign(skb, sk);
}

/* The socket, if any, that the packet's own addresses lead to. The caller releases it. */
INLINE struct bpf_sock *find(struct __sk_buff *skb, struct packet *p)
{
	if (p->v6)
		return skc_lookup_tcp(skb, &p->tuple, sizeof(p->tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	barrier();
	return skc_lookup_tcp(skb, &p->tuple, sizeof(p->tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
}

/* A connection of ours that the packet belongs to, else our listener. */
INLINE int to_socket(struct __sk_buff *skb, struct packet *p, struct steer_config *c)
{
	struct bpf_sock *sk = find(skb, p);

	if (sk) {
		if (ours(sk, c->mark))
			return assign(skb, sk);
		sk_release(sk);
		count(STEER_FOREIGN, 1);
	}
	return to_listener(skb, c);
}

#endif
