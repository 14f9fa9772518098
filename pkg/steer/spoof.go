package steer

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// In a bridge, gatewayd's connections to the broker may come from the devices' addresses (steer.spoof_source). Then the
// bridge needs no address of its own. There are the device's address and port in front of gatewayd and the device's
// address with another port behind it.
//
//	ip rule add iif br0 fwmark 0x5e000000 lookup 24225     what the classifier takes back from the broker's side
//	ip rule add iif lo  fwmark 0x5e000000 lookup 24226     what gatewayd sends, to devices and brokers
//	ip route add default via 169.254.94.1 dev br0 onlink table 24226
//	ip neigh add 169.254.94.1 lladdr 02:5e:a1:9a:7e:01 nud permanent dev br0
//
// The next hop does not exist. On the way out of the bridge the classifier puts in its place the Ethernet address of the
// device or the broker, as it was in the device's own packets: nobody has to be asked for it, and a broker of another
// subnet has that of the router which the device uses.
var (
	nextHop4   = netip.MustParseAddr("169.254.94.1")
	nextHop6   = netip.MustParseAddr("fe80::5e:a19a:7e01")
	nextHopMAC = [6]byte{0x02, 0x5e, 0xa1, 0x9a, 0x7e, 0x01} // STEER_NEXT_HOP
)

// SpoofControl is for the net.Dialer that connects to the broker in a device's place, its LocalAddr being the device's
// address and port 0. It takes CAP_NET_ADMIN.
func SpoofControl(network, _ string, c syscall.RawConn) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		s := int(fd)
		err = errors.Join(
			unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_MARK, listenerMark),
			unix.SetsockoptInt(s, unix.SOL_IP, unix.IP_TRANSPARENT, 1),
			unix.SetsockoptInt(s, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)) // one port serves many brokers
		if strings.HasSuffix(network, "6") {
			err = errors.Join(err, unix.SetsockoptInt(s, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1))
		}
	})
	if err = errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("connect from the device's address: %w", err)
	}
	return nil
}

// installNextHop routes what gatewayd sends by the bridge. The route goes when the bridge goes or is taken down.
func installNextHop(bridge iface) error {
	for _, family := range steeredFamilies() {
		hop := nextHop4
		if family == unix.AF_INET6 {
			hop = nextHop6
		}
		err := replaceNeighbour(family, bridge, hop, nextHopMAC)
		if err == nil {
			err = replaceNextHopRoute(family, bridge, hop)
		}
		switch {
		case errors.Is(err, unix.ENETDOWN):
			return fmt.Errorf("route by %s: it is down: `ip link set %s up`", bridge.name, bridge.name)
		case err != nil && family == unix.AF_INET6 && ipv6Off(bridge.name):
		case err != nil:
			return fmt.Errorf("route by %s (%s): %w", bridge.name, familyName(family), err)
		}
	}
	return nil
}

func ipv6Off(name string) bool { return readKnob("ipv6", name, "disable_ipv6") == "1" }

func readKnob(family, name, knob string) string {
	b, err := os.ReadFile("/proc/sys/net/" + family + "/conf/" + name + "/" + knob)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// removeNextHop leaves the route to removeRoutes.
func removeNextHop(bridge iface) error {
	var errs []error
	for family, hop := range map[int]netip.Addr{unix.AF_INET: nextHop4, unix.AF_INET6: nextHop6} {
		err := deleteNeighbour(family, bridge, hop)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EAFNOSUPPORT) {
			errs = append(errs, fmt.Errorf("remove the neighbour %s: %w", hop, err))
		}
	}
	return errors.Join(errs...)
}

// probeMTU has TCP find out what fits where packets vanish: a router that says so says it to the device.
func probeMTU() error {
	if err := setKnob("ipv4/tcp_mtu_probing"); err != nil {
		return fmt.Errorf("have TCP probe what fits: %w", err)
	}
	return nil
}

// checkReversePath refuses where the kernel holds sources against routes: a bridge without an address has none to the
// devices.
func checkReversePath(bridge string) error {
	for _, name := range []string{"all", "default", bridge} { // the default is that of a bridge that is made again
		if value := readKnob("ipv4", name, "rp_filter"); value != "0" && value != "" {
			return fmt.Errorf("steer.spoof_source: net.ipv4.conf.%s.rp_filter is %s; packets with devices' addresses need 0, for all, default and %s",
				name, value, bridge)
		}
	}
	return nil
}
