package steer

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The guard of a bridge, in nft's own notation:
//
//	table bridge sealgate {
//		set ports { type inet_service; elements = { 1883 } }
//		chain forward {
//			type filter hook forward priority -210; policy accept;
//			iifname "lan0" counter drop       # for each port, of either side
//			oifname "lan0" counter drop
//		}
//		chain output {
//			type filter hook output priority -210; policy accept;
//			oifname "up0" meta l4proto tcp th sport @ports counter drop       # for each port of the broker's side
//		}
//	}
//
// The first chain keeps the bridge from passing on anything, of any kind. The second is for what gatewayd says to
// devices, opened messages: a bridge sends what is for an unknown station to all ports, and who claims a device's
// address on the broker's side would be sent it. The rules go by names, so they hold for ports and bridges that are made
// again, or are not made yet.
const (
	bridgeForward  = "forward"
	bridgeOutput   = "output"
	bridgePriority = -210 // before the chain filter of a bridge, -200
)

func bridgeGuardTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyBridge, Name: tableName}
}

// installBridgeGuard replaces the guard of the bridge in one transaction.
func installBridgeGuard(o Options) error {
	c, err := nftables.New()
	if err != nil {
		return guardError("install the guard of the bridge", err)
	}
	t := bridgeGuardTable()
	c.AddTable(t) // so that deleting it cannot fail
	c.DelTable(t)
	c.AddTable(t)
	set := &nftables.Set{Table: t, ID: 1, Name: guardPortSet, KeyType: nftables.TypeInetService}
	var elements []nftables.SetElement
	for _, p := range sortedPorts(o.Ports) {
		elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(p)})
	}
	if err := c.AddSet(set, elements); err != nil {
		return guardError("install the guard of the bridge", err)
	}
	chain := func(name string, hook *nftables.ChainHook) func(...[]expr.Any) {
		chain := c.AddChain(&nftables.Chain{
			Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRef(bridgePriority),
		})
		return func(parts ...[]expr.Any) {
			parts = append(parts, []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}})
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: slices.Concat(parts...)})
		}
	}
	forward := chain(bridgeForward, nftables.ChainHookForward)
	for _, name := range o.sides() {
		forward(isInterface(expr.MetaKeyIIFNAME, name))
		forward(isInterface(expr.MetaKeyOIFNAME, name))
	}
	output := chain(bridgeOutput, nftables.ChainHookOutput)
	for _, name := range o.Uplink {
		output(isInterface(expr.MetaKeyOIFNAME, name), isTCP(), portIn(set, 0))
	}
	return bridgeGuardError("install the guard of the bridge", c.Flush())
}

// removeBridgeGuard deletes the table; a table that is not there is no error, nor a kernel that cannot have one.
func removeBridgeGuard() error {
	c, err := nftables.New()
	if err != nil {
		return guardError("remove the guard of the bridge", err)
	}
	c.AddTable(bridgeGuardTable())
	c.DelTable(bridgeGuardTable())
	if err = c.Flush(); noBridgeFamily(err) {
		return nil
	}
	return guardError("remove the guard of the bridge", err)
}

func noBridgeFamily(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT)
}

func bridgeGuardError(doing string, err error) error {
	if noBridgeFamily(err) {
		return fmt.Errorf("%s: %w: this kernel lacks nf_tables for bridges (CONFIG_NF_TABLES_BRIDGE; OpenWrt: kmod-nft-bridge)", doing, err)
	}
	return guardError(doing, err)
}

// checkBridgeGuard tells whether the guard of the bridge stands, for these ports of the bridge.
func checkBridgeGuard(o Options) error {
	missing := fmt.Errorf("nftables has no complete table bridge %s for the ports of %s", tableName, o.Bridge)
	c, err := nftables.New()
	if err != nil {
		return guardError("read the guard of the bridge", err)
	}
	for name, want := range map[string]int{bridgeForward: 2 * len(o.sides()), bridgeOutput: len(o.Uplink)} {
		chain, err := c.ListChain(bridgeGuardTable(), name)
		if errors.Is(err, os.ErrNotExist) || noBridgeFamily(err) {
			return missing
		}
		if err != nil {
			return guardError("read the guard of the bridge", err)
		}
		rules, err := c.GetRules(bridgeGuardTable(), chain)
		if err != nil {
			return guardError("read the guard of the bridge", err)
		}
		if len(rules) != want {
			return missing
		}
	}
	return nil
}
