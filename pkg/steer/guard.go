package steer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The guard, in nft's own notation:
//
//	table inet sealgate {
//		set ports { type inet_service; elements = { 1883 } }
//		chain guard {
//			type filter hook forward priority filter - 10; policy accept;
//			meta l4proto tcp th dport @ports counter drop
//			ct state invalid meta l4proto tcp th dport @ports counter drop
//			meta nfproto ipv4 meta l4proto tcp ip frag-off & 0x3fff != 0 counter drop
//			meta nfproto ipv6 meta l4proto tcp exthdr frag exists counter drop
//			meta l4proto ah counter drop
//		}
//	}
//
// The first rule is the guard. The second never counts a packet: a rule with a ct expression makes the kernel put
// fragments together before routing, so that a port cannot hide in one. Where the kernel has no conntrack, fragments
// arrive as they are and the next two rules drop them. The last is for IPsec's authentication header, behind which
// nftables does not look for a port though nothing is encrypted there.
const (
	guardChain    = "guard"
	guardPortSet  = "ports"
	guardPriority = -10 // before the filter chains, whose flow offload would take later packets past us
)

// guard is what is to be in the table.
type guard struct {
	ports     []uint16
	conntrack bool     // the kernel can look at connections: fragments are put together
	lan       []string // mode nfqueue: the device side; see queuechain.go
	queue     expr.Any // how packets are queued; nil: they are not
}

// installGuard replaces the guard in one transaction: there is no moment without one. lan is for mode nfqueue, else nil.
func installGuard(ports []uint16, lan []string) error {
	queues := []expr.Any{nil}
	if lan != nil {
		queues = queueExpressions()
	}
	var err error
	for _, queue := range queues {
		for _, conntrack := range []bool{true, false} {
			g := guard{ports: ports, conntrack: conntrack, lan: lan, queue: queue}
			if err = g.write(); !errors.Is(err, unix.ENOENT) { // a part that this kernel does not have
				return guardError("install the guard", err)
			}
		}
	}
	if lan != nil && installGuard(ports, nil) == nil { // which drops what cannot be queued
		return fmt.Errorf("install the queue: %w: this kernel lacks nftables' queue (CONFIG_NFT_QUEUE or CONFIG_NFT_COMPAT with CONFIG_NETFILTER_XT_TARGET_NFQUEUE; OpenWrt: kmod-nft-queue, kmod-nfnetlink-queue)", err)
	}
	return guardError("install the guard", err)
}

func (g *guard) write() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := inetTable(tableName)
	set, err := replaceTable(c, t, g.ports)
	if err != nil {
		return err
	}
	if g.queue != nil {
		g.writeQueue(c, t, set)
	}
	chain := addChain(c, t, guardChain, nftables.ChainTypeFilter, nftables.ChainHookForward, guardPriority)
	rule := func(parts ...[]expr.Any) { appendRule(c, chain, append(parts, drop())...) }
	rule(isTCP(), toPorts(set))
	if g.conntrack {
		rule(isInvalid(), isTCP(), toPorts(set))
	}
	rule(isFamily(unix.NFPROTO_IPV4), isTCP(), isIPv4Fragment())
	rule(isFamily(unix.NFPROTO_IPV6), isTCP(), isIPv6Fragment())
	rule(isProtocol(unix.IPPROTO_AH))
	return c.Flush()
}

// replaceTable begins a transaction that puts a new table, with a set of ports, in the place of an old one.
func replaceTable(c *nftables.Conn, t *nftables.Table, ports []uint16) (*nftables.Set, error) {
	c.AddTable(t) // so that deleting it cannot fail
	c.DelTable(t)
	c.AddTable(t)
	// Without an ID of ours, the library counts them in a variable that all goroutines share.
	set := &nftables.Set{Table: t, ID: 1, Name: guardPortSet, KeyType: nftables.TypeInetService}
	var elements []nftables.SetElement
	for _, p := range sortedPorts(ports) {
		elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(p)})
	}
	return set, c.AddSet(set, elements)
}

func inetTable(name string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
}

func addChain(c *nftables.Conn, t *nftables.Table, name string, typ nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: typ, Hooknum: hook, Priority: &priority})
}

func appendRule(c *nftables.Conn, chain *nftables.Chain, parts ...[]expr.Any) {
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: slices.Concat(parts...)})
}

func drop() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

func isTCP() []expr.Any { return isProtocol(unix.IPPROTO_TCP) }

// isProtocol continues if that follows the IP header and what IPv6 extension headers nftables skips.
func isProtocol(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
	}
}

func isFamily(family byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
	}
}

func toPorts(set *nftables.Set) []expr.Any { return portIn(set, 2) }

// portIn continues if the TCP port at offset is in the set.
func portIn(set *nftables.Set, offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
	}
}

func isInvalid() []expr.Any {
	return masked(&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, binaryutil.NativeEndian.PutUint32(expr.CtStateBitINVALID))
}

func isIPv4Fragment() []expr.Any {
	return masked(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 6, Len: 2},
		binaryutil.BigEndian.PutUint16(0x3fff))
}

// masked loads a value and continues if any bit of the mask is set in it.
func masked(load expr.Any, mask []byte) []expr.Any {
	zero := make([]byte, len(mask))
	return []expr.Any{
		load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero},
	}
}

func isIPv6Fragment() []expr.Any {
	return []expr.Any{
		&expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_FRAGMENT, Len: 1, Op: expr.ExthdrOpIpv6, Flags: unix.NFT_EXTHDR_F_PRESENT},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}
}

func removeGuard() error { return guardError("remove the guard", removeTable(inetTable(tableName))) }

// removeTable deletes a table; one that is not there is no error.
func removeTable(t *nftables.Table) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.AddTable(t)
	c.DelTable(t)
	return c.Flush()
}

// readChain returns a chain and its rules; nil if it is not there.
func readChain(c *nftables.Conn, t *nftables.Table, name string) (*nftables.Chain, []*nftables.Rule, error) {
	chain, err := c.ListChain(t, name)
	if isAbsent(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	rules, err := c.GetRules(t, chain)
	return chain, rules, err
}

// Guarded tells whether a guard stands for the ports of o. Nothing to them has been forwarded since it was installed.
func Guarded(o Options) bool { return checkGuard(o.Ports) == nil }

// checkGuard tells whether the guard stands and covers the ports.
func checkGuard(ports []uint16) error {
	missing := fmt.Errorf("no guard: nftables has no complete table inet %s", tableName)
	c, err := nftables.New()
	if err != nil {
		return guardError("read the guard", err)
	}
	t := inetTable(tableName)
	chain, rules, err := readChain(c, t, guardChain)
	if err != nil {
		return guardError("read the guard", err)
	}
	if chain == nil || chain.Hooknum == nil || *chain.Hooknum != *nftables.ChainHookForward || len(rules) == 0 {
		return missing
	}
	elements, err := c.GetSetElements(&nftables.Set{Table: t, Name: guardPortSet})
	if err != nil {
		return guardError("read the guard", err)
	}
	for _, p := range ports {
		key := binaryutil.BigEndian.PutUint16(p)
		if !slices.ContainsFunc(elements, func(e nftables.SetElement) bool { return slices.Equal(e.Key, key) }) {
			return fmt.Errorf("the guard in table inet %s does not cover port %d", tableName, p)
		}
	}
	return nil
}

func guardError(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: run as root or with CAP_NET_ADMIN", doing, err)
	case isMissing(err):
		return fmt.Errorf("%s: %w: this kernel lacks nf_tables or a part of it (CONFIG_NF_TABLES_INET; OpenWrt: kmod-nft-core)", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// isAbsent tells whether what was asked for is not there. The library hands on the words of the kernel's error only.
func isAbsent(err error) bool {
	return err != nil && strings.HasSuffix(err.Error(), unix.ENOENT.Error())
}

// isMissing tells whether the kernel has refused for want of a part.
func isMissing(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
}

func sortedPorts(ports []uint16) []uint16 {
	return slices.Compact(slices.Sorted(slices.Values(ports)))
}
