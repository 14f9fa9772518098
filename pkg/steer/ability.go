package steer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"sealgate/bpf"
	"sealgate/pkg/steer/inpath"
)

// Ability is one thing that this kernel and this process can do, or cannot and why.
type Ability struct {
	Name    string // short, stable; see Abilities
	OK      bool
	Untried bool   // not OK for want of privilege: it may yet be there
	Detail  string // what it is for and, when not OK, what is missing; one line
}

// abilities in the order in which a mode needs them. Each is tried for real.
var abilities = []struct {
	name, use string
	try       func(*program) error
}{
	{"nf_tables", "the guard", func(*program) error { return installGuard([]uint16{1883}, nil) }},
	{"policy-route", "delivery to the gateway", func(*program) error { return installRoutes(wantedRules([]string{"sealgate0"}, []uint16{1883})) }},
	{"transparent", "the listener", tryListener},
	{"sk_assign", "the classifier", tryProgram},
	{"tcx", "attaching, first choice", tryTCX},
	{"bpffs", "attaching by tcx for good", func(*program) error { return tryBPFFS() }},
	{"clsact", "attaching, second choice", tryClsact},
	{"nft-bridge", "the guard of a bridge", func(*program) error { return tryBridgeGuard() }},
	{"nft-tproxy", "leading connections to the listener", func(*program) error { return tryInterception(ModeTProxy) }},
	{"nft-redirect", "leading connections to the listener", func(*program) error { return tryInterception(ModeRedirect) }},
	{"nfqueue", "packets in passing", func(*program) error { return tryQueue() }},
	{"conntrack", "forgetting connections from before", func(*program) error { return tryForget() }},
}

// modes are those that steer, the best first, with what each cannot do without. Of mode tc's ways to attach, one is
// enough: tcx with bpffs, or clsact.
var modes = []struct {
	mode  string
	needs [][]string
}{
	{ModeTC, [][]string{{"nf_tables", "policy-route", "transparent", "sk_assign", "clsact"},
		{"nf_tables", "policy-route", "transparent", "sk_assign", "tcx", "bpffs"}}},
	{ModeTProxy, [][]string{{"nf_tables", "policy-route", "transparent", "nft-tproxy"}}},
	{ModeRedirect, [][]string{{"nf_tables", "policy-route", "nft-redirect"}}},
	{ModeNFQueue, [][]string{{"nf_tables", "nfqueue"}}},
}

// Modes says of each mode that steers, the best first, whether all that it needs is in list; where not, Detail is that of
// what is missing. Mode listen needs nothing and is not among them.
func Modes(list []Ability) []Ability {
	verdicts := make([]Ability, 0, len(modes))
	for _, m := range modes {
		v := Ability{Name: m.mode}
		for _, needs := range m.needs {
			missing := slices.IndexFunc(list, func(a Ability) bool { return !a.OK && slices.Contains(needs, a.Name) })
			if missing < 0 {
				v = Ability{Name: m.mode, OK: true, Detail: "this kernel can"}
				break
			}
			if v.Detail == "" {
				v.Untried, v.Detail = list[missing].Untried, "this kernel cannot: "+list[missing].Name+": "+list[missing].Detail
			}
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// Abilities tries what the modes need, in an empty network namespace that goes again, and changes nothing outside.
func Abilities() []Ability {
	done := make(chan []Ability)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine, and the namespace with the thread
		done <- probe(unix.Unshare(unix.CLONE_NEWNET))
	}()
	return <-done
}

func probe(unshared error) []Ability {
	var p *program
	if unshared == nil {
		p, _ = loadProgram() // an error shows in tryProgram
	}
	if p != nil {
		defer p.close()
	}
	var list []Ability
	for _, a := range abilities {
		err := unshared
		if err == nil {
			err = a.try(p)
		}
		list = append(list, ability(a.name, a.use, err))
	}
	return list
}

func ability(name, use string, err error) Ability {
	switch {
	case err == nil:
		return Ability{Name: name, OK: true, Detail: use}
	case errors.Is(err, unix.EPERM):
		return Ability{Name: name, Untried: true, Detail: use + ": not tried: run as root to find out"}
	}
	return Ability{Name: name, Detail: fmt.Sprintf("%s: %v", use, err)}
}

func tryBridgeGuard() error {
	return installBridgeGuard(Options{Ports: []uint16{1883}, LAN: []string{"sealgate0"}, Uplink: []string{"sealgate1"}})
}

func tryListener(*program) error {
	l, err := openTransparent(context.Background())
	if err != nil {
		return err
	}
	return l.Close()
}

func tryProgram(p *program) error {
	if p != nil {
		return nil
	}
	_, err := loadProgram()
	return err
}

var errNoClassifier = errors.New("the classifier cannot be loaded")

func tryTCX(p *program) error {
	lo, err := interfaceByName("lo")
	if err != nil {
		return err
	}
	if p == nil {
		return errNoClassifier
	}
	l, err := bpf.AttachTCX(p.objects.SealgateSteer, lo.index, unix.BPF_TCX_INGRESS)
	if err != nil {
		return fmt.Errorf("kernel 6.6 or newer is needed: %w", err)
	}
	return l.Close()
}

// tryBPFFS does not mount: where there is none, Listen will try.
func tryBPFFS() error {
	if !isBPFFS(bpffsRoot) {
		_, err := os.ReadDir(bpffsRoot)
		return err
	}
	return sharedBPFFS()
}

func tryClsact(p *program) error {
	lo, err := interfaceByName("lo")
	if err != nil {
		return err
	}
	if p == nil {
		return errNoClassifier
	}
	return attachClsact(p.objects.SealgateSteer, lo, incoming)
}

func tryInterception(mode string) error {
	i := interception{mode: mode, lan: []string{"sealgate0"}, ports: []uint16{1883}, listener: redirectFirst}
	return i.install()
}

func tryForget() error {
	_, err := Forget(Options{Ports: []uint16{1883}})
	return err
}

func tryQueue() error {
	if err := installGuard([]uint16{1883}, []string{"sealgate0"}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	q, err := inpath.OpenQueue(queueNumber, listenerMark, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	err = q.Run(ctx, func([]byte, bool) {})
	if isMissing(err) {
		err = fmt.Errorf("%w (CONFIG_NETFILTER_NETLINK_QUEUE; OpenWrt: kmod-nfnetlink-queue)", err)
	}
	cancel()
	return errors.Join(err, q.Close())
}
