/* What the steering classifier and the Go code that loads it share. The Go side repeats these numbers in
 * pkg/steer/layout.go; a test sends packets through the kernel and compares what each side makes of them. */
#ifndef SEALGATE_STEER_H
#define SEALGATE_STEER_H

#include <linux/types.h>

/* Steered ports, at most. */
#define STEER_MAX_PORTS 64

/* IPv6 extension headers that are followed; a packet with more is dropped. */
#define STEER_MAX_EXTENSIONS 6

/* VLAN tags that are followed behind the one that the kernel has already taken off. */
#define STEER_MAX_TAGS 2

/* Ports of a bridge, kinds of frame that may cross it, and stations that are remembered. */
#define STEER_MAX_BRIDGE_PORTS 16
#define STEER_MAX_TYPES        16
#define STEER_MAX_STATIONS     1024
#define STEER_MAX_NEIGHBOURS   4096

/* Where the bridge has no address: the next hop of all that gatewayd sends, whose place a station takes on the way out. */
#define STEER_NEXT_HOP { 0x02, 0x5e, 0xa1, 0x9a, 0x7e, 0x01 }

/* steer_config.flags */
#define STEER_LISTENER_IPV6 1 /* the listener is bound to ::1 and takes both families; else to 127.0.0.1 */
#define STEER_PASS_TAGGED   2 /* leave tagged packets to the VLAN interfaces on top, which are steered themselves */
#define STEER_DENY_MACS     4 /* steer_deny_macs_map holds something; the next two likewise */
#define STEER_DENY_NETS     8
#define STEER_HOLD         16

/* The one entry of steer_config_map. All in the machine's byte order. */
struct steer_config {
	__u32 port;  /* the private port that our listener is bound to; 0: there is none */
	__u32 mark;  /* SO_MARK of our listener, which its connections inherit: how a socket is known to be ours */
	__u32 flags;
};

/* The one entry of steer_bridge_map, where the gateway stands between the ports of a bridge. */
struct steer_bridge {
	__u32 index; /* the bridge's interface; 0: the gateway routes */
	__u8 mac[6];
	__u8 unused[2];
	__u32 mark; /* of gatewayd's sockets that have devices' addresses towards the broker; 0: there are none */
	struct {
		__u32 index;  /* 0: none */
		__u32 uplink; /* 1: the broker's side */
	} ports[STEER_MAX_BRIDGE_PORTS];
};

/* Indices into steer_counters_map. */
enum steer_counter {
	STEER_ASSIGNED,    /* packets handed to a socket */
	STEER_SEGMENTS,    /* TCP segments in them: one packet may hold many */
	STEER_NO_LISTENER, /* the rest but STEER_FOREIGN are dropped packets */
	STEER_FRAGMENT,
	STEER_TRUNCATED,
	STEER_EXTENSION,
	STEER_VLAN,
	STEER_FAILED,
	STEER_BARRED,      /* what may not cross the bridge: kinds of frame that are not allowed, steered ports from the uplink */
	STEER_FOREIGN,     /* packets of another program's socket, sent to our listener instead */
	STEER_DENIED,      /* dropped: the deny list has their source */
	STEER_LIMITED,     /* dropped: a new connection of a device that has made too many */
	STEER_UNTOLD,      /* events that found no room; nothing is dropped for it */
	STEER_COUNTERS,
};

#endif
