package steer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// In the modes tproxy and redirect a second table takes the classifier's place. Listen writes it in one transaction; it
// stays when gatewayd dies, and Teardown removes it. In nft's own notation, the first and the second rule for each LAN
// interface:
//
//	table inet sealgate-steer {
//		set ports { type inet_service; elements = { 1883 } }
//		chain steer {                                          # mode tproxy
//			type filter hook prerouting priority mangle; policy accept;
//			iifname LAN meta l4proto tcp th dport @ports counter tproxy to :PORT accept
//			iifname LAN meta l4proto tcp th dport @ports counter drop
//		}
//		chain steer {                                          # mode redirect
//			type nat hook prerouting priority dstnat - 10; policy accept;
//			iifname LAN meta l4proto tcp th dport @ports counter redirect to :PORT
//		}
//		chain rest {                                           # mode redirect
//			type filter hook prerouting priority dstnat + 10; policy accept;
//			iifname LAN meta l4proto tcp th dport @ports counter drop
//		}
//		chain listener {
//			type filter hook input priority filter - 10; policy accept;
//			meta l4proto tcp th dport PORT [ct status & dnat == 0] counter drop
//		}
//	}
//
// What tproxy and redirect do not take is dropped here already: a packet for which there is no listener, and one of a
// connection that the kernel tracked before or takes for invalid, which no nat chain sees. Both expressions have the
// kernel put fragments together. The last chain keeps everybody from reaching the listener by its own port: a device's
// packets carry the port dialled (tproxy) or were translated (redirect).
const (
	steerTable    = tableName + "-steer"
	steerChain    = "steer"
	restChain     = "rest"
	listenerChain = "listener"
)

// statusDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const statusDNAT = 1 << 5

// interception is what is to be in the second table.
type interception struct {
	mode     string
	lan      []string
	ports    []uint16
	listener uint16
}

// install replaces the table in one transaction: there is no moment without one.
func (i *interception) install() error {
	c, err := nftables.New()
	if err != nil {
		return i.explain(err)
	}
	t := inetTable(steerTable)
	ports, err := replaceTable(c, t, i.ports)
	if err != nil {
		return i.explain(err)
	}
	if i.mode == ModeTProxy {
		i.writeTProxy(c, t, ports)
	} else {
		i.writeRedirect(c, t, ports)
	}
	chain := addChain(c, t, listenerChain, nftables.ChainTypeFilter, nftables.ChainHookInput, guardPriority)
	direct := append(isTCP(), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(i.listener)})
	if i.mode == ModeRedirect {
		status := masked(&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}, binaryutil.NativeEndian.PutUint32(statusDNAT))
		status[len(status)-1].(*expr.Cmp).Op = expr.CmpOpEq // none of the bits
		direct = append(direct, status...)
	}
	appendRule(c, chain, direct, drop())
	return i.explain(c.Flush())
}

// toListener loads the listener's port, for the expression that follows.
func (i *interception) toListener() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(i.listener)}}
}

func (i *interception) writeTProxy(c *nftables.Conn, t *nftables.Table, ports *nftables.Set) {
	const mangle = -150
	chain := addChain(c, t, steerChain, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, mangle)
	for _, name := range i.lan {
		appendRule(c, chain, isSteered(name, ports), i.toListener(),
			[]expr.Any{&expr.TProxy{RegPort: 1}, &expr.Verdict{Kind: expr.VerdictAccept}})
		appendRule(c, chain, isSteered(name, ports), drop())
	}
}

func (i *interception) writeRedirect(c *nftables.Conn, t *nftables.Table, ports *nftables.Set) {
	const dstnat = -100
	nat := addChain(c, t, steerChain, nftables.ChainTypeNAT, nftables.ChainHookPrerouting, dstnat-10)
	rest := addChain(c, t, restChain, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, dstnat+10)
	for _, name := range i.lan {
		appendRule(c, nat, isSteered(name, ports), i.toListener(), []expr.Any{&expr.Redir{RegisterProtoMin: 1}})
		appendRule(c, rest, isSteered(name, ports), drop())
	}
}

// explain says what a kernel lacks that refuses the table.
func (i *interception) explain(err error) error {
	doing := "write table inet " + steerTable
	if !isMissing(err) {
		return guardError(doing, err)
	}
	if i.mode == ModeTProxy {
		return fmt.Errorf("%s: %w: this kernel lacks nftables' tproxy (CONFIG_NFT_TPROXY; OpenWrt: kmod-nft-tproxy)", doing, err)
	}
	return fmt.Errorf("%s: %w: this kernel lacks nftables' redirect (CONFIG_NFT_REDIR, CONFIG_NFT_NAT, CONFIG_NFT_CT; OpenWrt: kmod-nft-nat)", doing, err)
}

func removeInterception() error {
	return guardError("remove table inet "+steerTable, removeTable(inetTable(steerTable)))
}

// isSteered continues if a packet comes from a LAN interface and goes to one of the ports.
func isSteered(lan string, ports *nftables.Set) []expr.Any {
	return append(append(isInterface(expr.MetaKeyIIFNAME, lan), isTCP()...), toPorts(ports)...)
}

// intercept is begin for the modes tproxy and redirect: it leads devices' connections to the listener and returns the
// watcher that follows the gateway's own addresses. The rules carry interfaces' names, so that there is nothing to
// attach again.
func (s *Steering) intercept(l *net.TCPListener, o Options, log *slog.Logger) (*watcher, error) {
	for _, name := range o.LAN {
		if l, err := interfaceByName(name); err == nil {
			if err := refusePort(l); err != nil {
				return nil, err
			}
		}
	}
	w, err := newWatcher(nil, s.acceptor, log)
	if err != nil {
		return nil, err
	}
	i := interception{mode: o.Mode, lan: o.LAN, ports: o.Ports, listener: uint16(l.Addr().(*net.TCPAddr).Port)}
	if err := i.install(); err != nil {
		w.close()
		return nil, err
	}
	if o.Mode == ModeTProxy {
		warnBridged(o.LAN, log)
	}
	if o.Mode == ModeRedirect && o.Inherit == nil { // only a connection's first packet is redirected
		if n, err := Forget(o); err != nil {
			log.Warn("connections from before this start stay cut off until they end", "error", err.Error())
		} else if n > 0 {
			log.Info("the kernel has forgotten connections from before this start", "connections", n)
		}
	}
	return w, nil
}

// warnBridged names the bridges at which tproxy will not do: with br_netfilter the nftables rules see a packet before
// the bridge hands it up, and the socket chosen then is lost on the way. The policy route keeps such packets here, and
// the devices are reset.
func warnBridged(lan []string, log *slog.Logger) {
	for _, family := range []string{"iptables", "ip6tables"} {
		knob := "/proc/sys/net/bridge/bridge-nf-call-" + family
		on, err := os.ReadFile(knob)
		if err != nil || strings.TrimSpace(string(on)) != "1" {
			continue
		}
		for _, name := range lan {
			if l, err := interfaceByName(name); err == nil && l.kind == "bridge" {
				log.Warn("tproxy does not work on a bridge with br_netfilter: write 0 to the file, or use mode tc or redirect", "interface", name, "file", knob)
			}
		}
	}
}

// openListener opens what connections are led to in the mode.
func (o *Options) openListener(ctx context.Context) (*net.TCPListener, error) {
	switch o.Mode {
	case ModeTProxy:
		return openTProxied(ctx)
	case ModeRedirect:
		return openRedirected(ctx)
	}
	return openTransparent(ctx)
}

// openTProxied listens on every address, as tproxy looks for its socket at the interface's own, and on a port of the
// kernel's choice, which the table keeps shut.
func openTProxied(ctx context.Context) (*net.TCPListener, error) {
	l, err := listenTransparent(ctx, ":0")
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("open the transparent listener: %w: run gatewayd as root or with CAP_NET_ADMIN", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the transparent listener: %w", err)
	}
	return l, nil
}

// redirectPorts are where mode redirect listens: the first that is free. They lie below the ports that the kernel gives
// to whoever asks for any (net.ipv4.ip_local_port_range). So devices' connections do not reach another program that
// comes after gatewayd, as long as it does not ask for just these.
const redirectFirst, redirectPorts = 24225, 16

func openRedirected(ctx context.Context) (*net.TCPListener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // SO_ORIGINAL_DST is TCP's
	for n := range redirectPorts {
		l, err := lc.Listen(ctx, "tcp", fmt.Sprintf(":%d", redirectFirst+n))
		if err == nil {
			return l.(*net.TCPListener), nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("open the listener for redirected connections: %w", err)
		}
	}
	return nil, fmt.Errorf("open the listener for redirected connections: TCP ports %d to %d are all taken: `ss -ltnp` shows by whom",
		redirectFirst, redirectFirst+redirectPorts-1)
}
