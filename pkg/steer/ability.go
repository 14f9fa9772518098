package steer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sealgate/pkg/steer/inpath"
)

// Ability is one thing that this kernel and this process can do, or cannot and why.
type Ability struct {
	Name   string // short, stable; see Abilities
	Mode   string // the mode that needs it; empty: each that steers
	OK     bool
	Detail string // what it is for and, when not OK, what is missing; one line
}

// abilities in the order in which a mode needs them. Each is tried for real.
var abilities = []struct {
	name, mode, use string
	try             func(*program) error
}{
	{"nf_tables", "", "the guard", func(*program) error { return installGuard([]uint16{1883}, nil) }},
	{"policy-route", ModeTC, "delivery to the gateway", func(*program) error { return installRoutes([]string{"sealgate0"}, []uint16{1883}) }},
	{"transparent", ModeTC, "the listener", tryListener},
	{"sk_assign", ModeTC, "the classifier", tryProgram},
	{"tcx", ModeTC, "attaching, first choice", tryTCX},
	{"bpffs", ModeTC, "attaching by tcx for good", func(*program) error { return tryBPFFS() }},
	{"clsact", ModeTC, "attaching, second choice", tryClsact},
	{"nfqueue", ModeNFQueue, "packets in passing", func(*program) error { return tryQueue() }},
}

// Abilities tries what the modes need, in an empty network namespace that goes again. For each: nf_tables. For mode tc:
// policy-route, transparent, sk_assign, and tcx with bpffs or else clsact. For mode nfqueue: nfqueue. It changes
// nothing outside.
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
		list = append(list, ability(a.name, a.mode, a.use, err))
	}
	return list
}

func ability(name, mode, use string, err error) Ability {
	switch {
	case err == nil:
		return Ability{name, mode, true, use}
	case errors.Is(err, unix.EPERM):
		return Ability{name, mode, false, fmt.Sprintf("%s: not tried: run as root to find out", use)}
	}
	return Ability{name, mode, false, fmt.Sprintf("%s: %v", use, err)}
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
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: lo.index, Program: p.objects.SealgateSteer, Attach: ebpf.AttachTCXIngress,
	})
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
	return attachClsact(p.objects.SealgateSteer, lo)
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
	err = q.Run(ctx, func([]byte) {})
	cancel()
	return errors.Join(err, q.Close())
}
