package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sealgate/pkg/config"
	"sealgate/pkg/steer"
)

// A gatewayd that is started with -takeover goes on with the sockets of the one that runs. The two speak over a unix socket
// whose name is in the kernel alone: it is there as long as somebody holds it, in the network namespace that is steered.
//
//	new                                   old
//	 sockets?  version, mode, addresses ->    who asks? root or our own user
//	           <-  sockets                     the name itself, the devices' listener, the metrics'
//	 steers, is confined, has keys              serves
//	 go        over which time ->              no longer accepts
//	           <-  gone                        its connections end, then it
//	 serves
//
// Until "go" the old one serves, and goes on to where the new one fails: its end of the connection closes. Where the old one
// ends first, the new one has the sockets and serves.

const (
	handoverVersion = 1
	wordTimeout     = 5 * time.Second  // for a word that needs no work
	keysTimeout     = 20 * time.Second // for policy and keys to come from controld
	goTimeout       = time.Minute      // from "sockets" to "go"
	goneTimeout     = 20 * time.Second // from "go" to "gone"
	maxWord         = 4 << 10

	nameTimeout = 500 * time.Millisecond // for a name that is held and not listened at to become free
	nameTries   = 50
)

// word is one message, one datagram of the connection.
type word struct {
	Version int           `json:"version"`
	Say     string        `json:"say"`
	Mode    string        `json:"mode,omitempty"`
	Listen  string        `json:"listen,omitempty"`  // steer.listen, of mode listen
	Rules   string        `json:"rules,omitempty"`   // steer.lan and steer.ports, of the modes in which they cannot change
	Metrics string        `json:"metrics,omitempty"` // metrics.listen
	Sockets []string      `json:"sockets,omitempty"` // what comes with it, in this order
	Ready   bool          `json:"ready,omitempty"`   // the old one has policy and keys
	Pid     int           `json:"pid,omitempty"`
	Over    time.Duration `json:"over,omitempty"` // in nanoseconds
	Reason  string        `json:"reason,omitempty"`
}

// What is said.
const (
	sayAsk     = "sockets?"
	saySockets = "sockets"
	sayGo      = "go"
	sayGone    = "gone"
	sayNo      = "no"
)

// Names of sockets.
const (
	socketName    = "name"
	socketDevices = "devices"
	socketMetrics = "metrics"
)

// handoverName is what gatewayds of one gateway are known by to one another: they share its keylink socket.
func handoverName(cfg *config.Config) string {
	return fmt.Sprintf("@sealgate-gatewayd-%x", sha256.Sum256([]byte(cfg.Keylink)))
}

// inheritance is what a gatewayd has of the one before it; without one, only the name.
type inheritance struct {
	name    *net.UnixListener // where the next one asks; nil: somebody else has it
	devices *net.TCPListener  // nil: to be opened
	metrics net.Listener      // likewise
	old     *net.UnixConn     // nil: there was none
	word    word              // that came with the sockets
}

// inherit takes the name, or the sockets of the gatewayd that has it. Nothing of what that one does changes by it.
func inherit(cfg *config.Config, takeover bool) (*inheritance, error) {
	addr := &net.UnixAddr{Name: handoverName(cfg), Net: "unixpacket"}
	for tries := 1; ; tries++ {
		l, err := net.ListenUnix("unixpacket", addr)
		if err == nil {
			return &inheritance{name: l}, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("handover: %w", err)
		}
		old, err := net.DialUnix("unixpacket", nil, addr)
		if errors.Is(err, unix.ECONNREFUSED) {
			if tries == nameTries { // a gatewayd listens from the moment that it has the name
				return &inheritance{word: word{Reason: "somebody holds its name and does not listen there"}}, nil
			}
			time.Sleep(nameTimeout / nameTries) // it has just gone
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("handover: reach the gatewayd that runs: %w", err)
		}
		in, err := inheritFrom(old, cfg, takeover)
		if err != nil {
			old.Close()
			return nil, err
		}
		return in, nil
	}
}

func inheritFrom(old *net.UnixConn, cfg *config.Config, takeover bool) (*inheritance, error) {
	peer, err := credentials(old)
	if err != nil {
		return nil, err
	}
	if !trusted(peer.Uid, cfg.User) {
		old.Close()
		return &inheritance{word: word{Reason: fmt.Sprintf("user %d, who is neither root nor gatewayd's, holds its name", peer.Uid)}}, nil
	}
	if !takeover {
		return nil, fmt.Errorf("a gatewayd with this keylink socket runs already: stop it, or start with -takeover to go on with its sockets")
	}
	if err := speak(old, asking(cfg), nil); err != nil {
		return nil, fmt.Errorf("handover: ask the gatewayd that runs: %w", err)
	}
	w, fds, err := listenTo(old, saySockets, wordTimeout)
	if err != nil {
		return nil, fmt.Errorf("handover: the gatewayd that runs goes on: %w", err)
	}
	in := &inheritance{old: old, word: w}
	if err := in.take(fds); err != nil {
		in.close()
		return nil, fmt.Errorf("handover: take the sockets of the gatewayd that runs: %w", err)
	}
	return in, nil
}

// asking is what a gatewayd of this configuration asks.
func asking(cfg *config.Config) word {
	w := word{Say: sayAsk, Mode: cfg.Steer.Mode, Metrics: cfg.Metrics.Listen}
	switch w.Mode {
	case config.ModeListen:
		w.Listen = cfg.Steer.Listen
	case config.ModeTProxy, config.ModeRedirect:
		w.Rules = fmt.Sprint(cfg.Steer.LAN, cfg.Steer.Ports)
	}
	return w
}

// trusted reports whether a user may hand sockets to this process: who has them reads what devices say.
func trusted(uid uint32, account string) bool {
	if uid == 0 || int(uid) == os.Geteuid() {
		return true
	}
	u, err := user.Lookup(account)
	return err == nil && u.Uid == strconv.Itoa(int(uid))
}

// take makes listeners of the sockets that came.
func (in *inheritance) take(fds []int) (err error) {
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "inherited")
		l, e := net.FileListener(f) // a copy
		f.Close()
		switch l := l.(type) {
		case *net.UnixListener:
			in.name = l
		case *net.TCPListener:
			if i < len(in.word.Sockets) && in.word.Sockets[i] == socketDevices {
				in.devices = l
			} else {
				in.metrics = l
			}
		}
		err = errors.Join(err, e)
	}
	return err
}

// takeOver has the old one stop accepting, once this process has policy and keys, if that one has.
func (d *daemon) takeOver(ctx context.Context, in *inheritance, steering *steer.Steering) error {
	if in.word.Reason != "" {
		d.log.Warn("no later gatewayd can take over from this one: " + in.word.Reason)
	}
	if in.old == nil {
		return nil
	}
	if in.word.Ready && !d.awaitKeys(ctx, keysTimeout) {
		return fmt.Errorf("handover: no policy and keys from controld within %v: the gatewayd that runs (process %d) goes on", keysTimeout, in.word.Pid)
	}
	err := speak(in.old, word{Say: sayGo, Over: d.cfg.Limits.Drain}, nil)
	if err == nil || errors.Is(err, unix.EPIPE) { // what it said before it ended is there to be read
		_, _, err = listenTo(in.old, sayGone, goneTimeout)
	}
	if refused := (*refusedError)(nil); errors.As(err, &refused) {
		return fmt.Errorf("handover: the gatewayd that runs goes on: %w", err)
	}
	if err != nil {
		d.log.Warn("the gatewayd that ran did not say that it takes no more connections; going on without it", "process", in.word.Pid, "error", err)
	}
	in.old.Close()
	d.log.Info("taken over", "from", in.word.Pid, "drain", d.cfg.Limits.Drain)
	return steering.Reclaim() // it may have steered an interface that was made again meanwhile
}

func (in *inheritance) close() {
	if in.old != nil {
		in.old.Close()
	}
	if in.name != nil {
		in.name.Close()
	}
	if in.devices != nil {
		in.devices.Close()
	}
	if in.metrics != nil {
		in.metrics.Close()
	}
}

// refusedError is the other one's "no".
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return e.reason }

func speak(c *net.UnixConn, w word, fds []int) error {
	w.Version = handoverVersion
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	_ = c.SetWriteDeadline(time.Now().Add(wordTimeout))
	_, _, err = c.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	return err
}

// listenTo reads a word, which is to be the one expected, and the sockets with it.
func listenTo(c *net.UnixConn, say string, timeout time.Duration) (w word, fds []int, err error) {
	_ = c.SetReadDeadline(time.Now().Add(timeout))
	b, oob := make([]byte, maxWord), make([]byte, unix.CmsgSpace(3*4))
	n, noob, flags, _, err := c.ReadMsgUnix(b, oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return w, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:noob])
	for i := range messages {
		more, e := unix.ParseUnixRights(&messages[i])
		fds, err = append(fds, more...), errors.Join(err, e)
	}
	if err == nil && flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		err = errors.New("its word was cut off")
	}
	if err == nil {
		err = json.Unmarshal(b[:n], &w)
	}
	switch {
	case err != nil:
	case w.Say == sayNo:
		err = &refusedError{w.Reason}
	case w.Version != handoverVersion:
		err = &refusedError{fmt.Sprintf("it speaks version %d of handover, this one %d: stop it and start again", w.Version, handoverVersion)}
	case w.Say != say:
		err = &refusedError{fmt.Sprintf("it said %q, and not %q", w.Say, say)}
	}
	if err != nil {
		closeAll(fds)
		fds = nil
	}
	return w, fds, err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// copyOf makes a descriptor of a socket for the other process. (File would do the same, and its Fd make the socket block.)
func copyOf(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(controlErr, err)
}

// credentials are those of the process at the other end, as the kernel has them.
func credentials(c *net.UnixConn) (who *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(s uintptr) { who, err = unix.GetsockoptUcred(int(s), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(controlErr, err); err != nil {
		return nil, fmt.Errorf("handover: find out who is at the other end: %w", err)
	}
	return who, nil
}
