package steer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The policy route, for each LAN interface and port, in both families:
//
//	ip rule add iif LAN ipproto tcp dport PORT lookup 24225
//	ip route add local default dev lo table 24225
//
// It delivers the devices' packets to the local host whatever their destination. With a socket assigned by the
// classifier they reach gatewayd; without one, nobody. It names interfaces, so it survives their coming and going, and
// needs no packet mark, so that reverse path filtering works as before.

// families lists the address families that this kernel has.
func families() []int {
	if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
		return []int{unix.AF_INET}
	}
	return []int{unix.AF_INET, unix.AF_INET6}
}

// steeredFamilies leaves out IPv6 where it is switched off: the kernel then refuses the route, and forwards nothing.
// Should it be switched on later, the guard holds until the next Setup.
func steeredFamilies() []int {
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
	if err == nil && strings.TrimSpace(string(off)) == "1" {
		return []int{unix.AF_INET}
	}
	return families()
}

func familyName(family int) string {
	if family == unix.AF_INET {
		return "IPv4"
	}
	return "IPv6"
}

// ruleKey is what makes one of our rules.
type ruleKey struct {
	family int
	lan    string // the interface that packets come in by; "lo": they are sent from here
	port   uint16 // 0: of any protocol, with the mark of gatewayd's sockets
}

// table is the routing table that the rule leads to.
func (k ruleKey) table() uint32 {
	if k.lan == "lo" {
		return bridgeTable
	}
	return routeTable
}

func (k ruleKey) String() string {
	if k.port == 0 {
		return fmt.Sprintf("%s rule iif %s fwmark %#x lookup %d", familyName(k.family), k.lan, uint32(listenerMark), k.table())
	}
	return fmt.Sprintf("%s rule iif %s ipproto tcp dport %d lookup %d", familyName(k.family), k.lan, k.port, routeTable)
}

func (o *Options) wantedRules() map[ruleKey]bool {
	want := wantedRules(o.devices(), o.Ports)
	if o.SpoofSource {
		for _, family := range steeredFamilies() {
			want[ruleKey{family, o.Bridge, 0}], want[ruleKey{family, "lo", 0}] = true, true
		}
	}
	return want
}

func wantedRules(lan []string, ports []uint16) map[ruleKey]bool {
	want := make(map[ruleKey]bool)
	for _, family := range steeredFamilies() {
		for _, name := range lan {
			for _, port := range ports {
				want[ruleKey{family, name, port}] = true
			}
		}
	}
	return want
}

// installRoutes makes the rules and routes exactly those wanted. What is right already is left alone: a repeated Setup
// does not open a gap.
func installRoutes(want map[ruleKey]bool) error {
	lo, err := interfaceByName("lo")
	if err != nil {
		return fmt.Errorf("install the policy route: find the loopback interface: %w", err)
	}
	if err := setUp(lo); err != nil {
		return fmt.Errorf("install the policy route: bring up lo: %w", err)
	}
	for _, family := range steeredFamilies() {
		if err := replaceLocalRoute(family, lo); err != nil {
			return fmt.Errorf("install the policy route: local default dev lo table %d (%s): %w", routeTable, familyName(family), err)
		}
	}
	stale, err := compareRules(want)
	if err != nil {
		return err
	}
	if err := addRules(want); err != nil {
		return err
	}
	if err := deleteRules(stale); err != nil {
		return err
	}
	return addRules(want) // again: a stale rule that differs in its source alone, say, kept the kernel from taking ours
}

func addRules(keys map[ruleKey]bool) error {
	for key := range keys {
		if err := addRule(key); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("install the policy route: add %s: %w (kernel 4.17 or newer with IP_MULTIPLE_TABLES is needed)", key, err)
		}
	}
	return nil
}

// compareRules takes from want what is installed, and returns the rules to our table that should not be there.
func compareRules(want map[ruleKey]bool) (stale []rule, err error) {
	seen := make(map[ruleKey]bool)
	for _, family := range families() {
		rules, err := listRules(family)
		if err != nil {
			return nil, fmt.Errorf("list %s rules: %w", familyName(family), err)
		}
		for _, r := range rules {
			if !r.plain || seen[r.key] || !want[r.key] {
				stale = append(stale, r)
				continue
			}
			seen[r.key] = true
		}
	}
	for key := range seen {
		delete(want, key)
	}
	return stale, nil
}

func deleteRules(rules []rule) error {
	for _, r := range rules {
		if err := deleteRule(r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete rule %s: %w", r, err)
		}
	}
	return nil
}

// removeRoutes deletes every rule to our table and every route in it.
func removeRoutes() error {
	stale, err := compareRules(nil)
	if err != nil {
		return fmt.Errorf("remove the policy route: %w", err)
	}
	if err := deleteRules(stale); err != nil {
		return fmt.Errorf("remove the policy route: %w", err)
	}
	for _, family := range families() {
		routes, err := ourRoutes(family)
		if err != nil {
			return fmt.Errorf("remove the policy route: %w", err)
		}
		for _, r := range routes {
			if err := deleteRoute(r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove the policy route: delete a default route of ours (%s): %w", familyName(family), err)
			}
		}
	}
	return nil
}

func ourRoutes(family int) ([][]byte, error) {
	routes, err := listOurRoutes(family)
	if err != nil {
		return nil, fmt.Errorf("list %s routes: %w", familyName(family), err)
	}
	return routes, nil
}

// checkRoutes tells whether the policy route stands for all rules that are wanted.
func checkRoutes(want map[ruleKey]bool) error {
	if _, err := compareRules(want); err != nil {
		return err
	}
	for key := range want {
		return fmt.Errorf("no policy route: %s is missing", key)
	}
	for _, family := range steeredFamilies() {
		routes, err := ourRoutes(family)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(routes, isLocalRoute) {
			return fmt.Errorf("no policy route: table %d has no local default route for %s", routeTable, familyName(family))
		}
	}
	return nil
}

// checkSetup refuses to go on where Setup has not been run for these options.
func checkSetup(o Options) error {
	err := checkGuard(o.Ports)
	switch {
	case err != nil:
	case o.Mode == ModeNFQueue:
		err = checkQueue(o.LAN)
	default:
		err = checkRoutes(o.wantedRules())
	}
	if err == nil && o.bridged() {
		err = checkBridgeGuard(o)
	}
	if o.SpoofSource {
		if err := checkReversePath(o.Bridge); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("%w (%w): run `%s` first", ErrNotSetUp, err, o.command("-setup"))
	}
	return nil
}
