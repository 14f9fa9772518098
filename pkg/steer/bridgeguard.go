package steer

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
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
	set, err := replaceTable(c, t, o.Ports)
	if err != nil {
		return guardError("install the guard of the bridge", err)
	}
	chain := func(name string, hook *nftables.ChainHook) func(...[]expr.Any) {
		chain := addChain(c, t, name, nftables.ChainTypeFilter, hook, bridgePriority)
		return func(parts ...[]expr.Any) { appendRule(c, chain, append(parts, drop())...) }
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
	err := removeTable(bridgeGuardTable())
	if noBridgeFamily(err) {
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
		chain, rules, err := readChain(c, bridgeGuardTable(), name)
		if err != nil && !noBridgeFamily(err) {
			return guardError("read the guard of the bridge", err)
		}
		if chain == nil || len(rules) != want {
			return missing
		}
	}
	return nil
}
