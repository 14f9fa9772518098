package steer

// These repeat bpf/steer.h; TestLayout compares them through the kernel.

// MaxPorts is the largest number of steered ports.
const MaxPorts = 64

const (
	maxExtensions = 6 // IPv6 extension headers that the classifier follows
	maxTags       = 2 // VLAN tags that it follows behind the first
)

// classifierConfig is struct steer_config.
type classifierConfig struct {
	Port  uint32
	Mark  uint32
	Flags uint32
}

// MaxBridgePorts is the largest number of ports of a bridge, both sides together.
const MaxBridgePorts = 16

// MaxEthertypes is the largest number of kinds of frame that may cross a bridge beside the three that always do.
const MaxEthertypes = 13

// classifierBridge is struct steer_bridge.
type classifierBridge struct {
	Index uint32
	MAC   [6]byte
	_     [2]byte
	Mark  uint32
	Ports [MaxBridgePorts]classifierPort
}

type classifierPort struct {
	Index  uint32
	Uplink uint32
}

// Bits of classifierConfig.Flags.
const (
	flagListenerIPv6 = 1 << iota
	flagPassTagged
	flagDenyMACs
	flagDenyNets
	flagHold
)

// Indices of the counters.
const (
	countAssigned = iota
	countSegments
	countNoListener
	countFragment
	countTruncated
	countExtension
	countVLAN
	countFailed
	countBarred
	countForeign
	countDenied
	countLimited
	countUntold
	counters
)

// listenerMark is the SO_MARK of the listener, which accepted connections inherit: it is how the classifier tells a
// socket of ours from another program's. Setting it takes CAP_NET_ADMIN. The value stays clear of the bits that mwan3,
// pbr, sqm and Kubernetes use for routing; no rule of ours looks at it.
const listenerMark = 0x5e000000

// What Setup and Listen install carries these, so that Teardown and the next start recognise it.
const (
	tableName    = "sealgate" // nftables tables, families inet and, in a bridge, bridge
	routeTable   = 24225      // routing table of the policy route
	bridgeTable  = 24226      // routing table of what gatewayd sends by a bridge without an address
	rulePriority = 883        // of its ip rules: behind the local table (0), before everything a router usually has
	filterPref   = 0x53       // clsact filter preference: before qosify's, which start at 0x110
	filterHandle = 0x5e
	filterName   = "sealgate_steer"
	pinOutgoing  = ":out" // behind the interface in the name of a pinned link: what leaves; no interface's name has a colon
	bpffsRoot    = "/sys/fs/bpf"
	pinDirectory = "sealgate" // under bpffsRoot
)
