package daemon

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"syscall"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/internal/httpd"
	"sealgate/pkg/boottime"
	"sealgate/pkg/keylink"
)

// listenMetrics opens the metrics server's socket, if it was not inherited; nil if there is to be none.
func listenMetrics(addr string, inherited net.Listener) (net.Listener, error) {
	if addr == "" || inherited != nil {
		return inherited, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, listenError("metrics.listen", addr, err)
	}
	return l, nil
}

// serveMetrics starts the metrics server on l, where that is not nil. It is closed by the function returned, which may be
// called again.
func (d *daemon) serveMetrics(l net.Listener) (closeServer func()) {
	if l == nil {
		return func() {}
	}
	d.log.Info("metrics server listens", "addr", l.Addr().String())
	s := httpd.New(l, map[string]httpd.Page{
		"/metrics": {ContentType: "text/plain; version=0.0.4; charset=utf-8", Write: d.writeMetrics},
		"/status":  {ContentType: "application/json", Write: d.writeStatus},
	})
	go s.Serve()
	return func() { s.Close() }
}

func listenError(key, addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: %s is taken: stop the program that listens there, or set another address", key, addr)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: %s: permission denied: ports below 1024 need CAP_NET_BIND_SERVICE", key, addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: %s is not an address of this machine", key, addr)
	}
	return fmt.Errorf("%s: %w", key, err)
}

// writeMetrics writes the Prometheus text format.
func (d *daemon) writeMetrics(w io.Writer) {
	d.gateway.Metrics().WritePrometheus(w)
	d.keys.writePrometheus(w)
	d.writeDevices(w)
	d.writeDropped(w)
}

// writePrometheus writes what is known from controld. The epochs that are sealed under are
// among the pipeline's own metrics.
func (k *keyState) writePrometheus(w io.Writer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range slices.SortedFunc(maps.Keys(k.control), func(a, b keylink.Counter) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Result, b.Result))
	}) {
		fmt.Fprintf(w, "sealgate_control_messages_total{type=%q,result=%q} %d\n", c.Type, c.Result, k.control[c])
	}
	fmt.Fprintf(w, "sealgate_controld_connected %d\n", one(k.connected))
	now := boottime.Now()
	for _, group := range slices.Sorted(maps.Keys(k.authority)) {
		fmt.Fprintf(w, "sealgate_fresh_seconds{group=%q} %.1f\n", group, k.authority[group].left(now).Seconds())
	}
}

// Status is the JSON at /status.
type Status struct {
	Version       string        `json:"version"`
	Gateway       string        `json:"gateway"`
	Ready         bool          `json:"ready"`              // devices are served
	Controld      bool          `json:"controld_connected"` // else the keys at hand are used
	PolicyVersion uint64        `json:"policy_version"`     // 0: none yet
	Groups        []GroupStatus `json:"groups"`
	Traffic       any           `json:"traffic"`

	Devices *DevicesStatus `json:"devices"` // null before steering has begun
}

// GroupStatus is what gatewayd knows of one group.
type GroupStatus struct {
	Name       string  `json:"name"`
	Epoch      string  `json:"epoch,omitempty"`   // version.generation.number, newest that controld knows
	Sending    string  `json:"sending,omitempty"` // sealed under; missing: nothing of this group leaves
	Keys       int     `json:"keys"`
	AgeSeconds float64 `json:"age_seconds"`
	Fresh      float64 `json:"fresh_seconds"` // until nothing is sealed any more unless controld says so; 0: nothing is
	Stale      bool    `json:"stale"`         // the warning about that stands
}

func (d *daemon) writeStatus(w io.Writer) {
	s := d.keys.status(boottime.Now())
	s.Version, s.Ready, s.Traffic = cmdenv.Version(), d.gateway.Ready(), d.gateway.Status()
	s.Devices = d.devicesStatus()
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(s)
}

func (k *keyState) status(now time.Duration) Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{Gateway: k.name, Controld: k.connected, Groups: []GroupStatus{}}
	if k.document == nil {
		return s
	}
	s.PolicyVersion = k.document.Version
	for i := range k.document.Groups {
		name := k.document.Groups[i].Name
		g := GroupStatus{Name: name, Keys: len(k.keys[name])}
		if e, ok := k.epochs[name]; ok {
			g.Epoch, g.AgeSeconds = e.Epoch.String(), (e.Age + now - k.epochsAt).Seconds()
		}
		a := k.authority[name]
		g.Fresh, g.Stale = a.left(now).Seconds(), a != nil && a.warned
		for _, key := range k.keys[name] {
			if key.Send && a.left(now) > 0 {
				g.Sending = key.Epoch.String()
				break
			}
		}
		s.Groups = append(s.Groups, g)
	}
	return s
}

// writeDropped writes what mode nfqueue did not carry.
func (d *daemon) writeDropped(w io.Writer) {
	s := d.steering.Load()
	if s == nil {
		return
	}
	dropped, ok := s.Dropped()
	if !ok {
		return
	}
	for _, v := range []struct {
		reason string
		n      uint64
	}{
		{"stranger", dropped.Strangers}, {"malformed", dropped.Malformed}, {"damaged", dropped.Damaged},
		{"full", dropped.Full}, {"unread", dropped.Unread}, {"unsent", dropped.Unsent},
	} {
		fmt.Fprintf(w, "sealgate_queue_dropped_total{reason=%q} %d\n", v.reason, v.n)
	}
}
