package steer

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// In mode nfqueue the guard's table has a second chain, before the guard:
//
//	chain queue {
//		type filter hook forward priority filter - 11; policy accept;
//		iifname LAN meta l4proto tcp th dport @ports queue num 24225
//		oifname LAN meta l4proto tcp th sport @ports queue num 24225
//	}
//
// There is no bypass flag: a packet that nobody takes from the queue is dropped. The program that takes it
// sends packets of its own instead, which are not forwarded ones; so the guard behind stands as in every other mode.
const (
	queueChain    = "queue"
	queueNumber   = 24225
	queuePriority = guardPriority - 1
)

// queueExpressions are the ways to queue a packet, the best first: the kernel's own expression, and that of iptables.
func queueExpressions() []expr.Any {
	info := xt.Unknown(make([]byte, 8)) // struct xt_NFQ_info_v3: number, how many, flags; padded
	copy(info, binaryutil.NativeEndian.PutUint16(queueNumber))
	copy(info[2:], binaryutil.NativeEndian.PutUint16(1))
	return []expr.Any{
		&expr.Queue{Num: queueNumber, Total: 1},
		&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info},
	}
}

func (g *guard) writeQueue(c *nftables.Conn, t *nftables.Table, ports *nftables.Set) {
	chain := c.AddChain(&nftables.Chain{
		Name: queueChain, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityRef(queuePriority),
	})
	for _, name := range g.lan {
		for _, way := range []struct {
			key    expr.MetaKey
			offset uint32
		}{{expr.MetaKeyIIFNAME, 2}, {expr.MetaKeyOIFNAME, 0}} {
			exprs := append(isInterface(way.key, name), isTCP()...)
			exprs = append(exprs, portIn(ports, way.offset)...)
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(exprs, &expr.Counter{}, g.queue)})
		}
	}
}

func isInterface(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, maxInterfaceName+1)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
	}
}

// checkQueue tells whether the chain that queues stands.
func checkQueue(lan []string) error {
	c, err := nftables.New()
	if err != nil {
		return guardError("read the guard", err)
	}
	chain, rules, err := readChain(c, inetTable(tableName), queueChain)
	if err != nil {
		return guardError("read the guard", err)
	}
	if chain == nil {
		return fmt.Errorf("nftables has no chain %s in table inet %s", queueChain, tableName)
	}
	const ways = 2
	if len(rules) != ways*len(lan) {
		return fmt.Errorf("chain %s in table inet %s is not for the interfaces of steer.lan", queueChain, tableName)
	}
	return nil
}

// relaxConntrack has the kernel's connection tracking take sequence numbers as they come: on one side of this
// gateway they count other bytes than on the other. A kernel without connection tracking needs nothing.
func relaxConntrack() error {
	if err := setKnob("netfilter/nf_conntrack_tcp_be_liberal"); err != nil {
		return fmt.Errorf("relax connection tracking: %w", err)
	}
	return nil
}

// setKnob writes 1 to a sysctl below net. One that is not there is no error.
func setKnob(name string) error {
	err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
