package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/cmd/sealctl/screen"
	"sealgate/pkg/config"
	"sealgate/pkg/keylink"
)

// watchEvery is the pause between two pictures of --watch.
const watchEvery = 2 * time.Second

// statusFlags are the flags of `sealctl status`.
type statusFlags struct {
	daemonFlags
	addr        string
	json, watch bool
}

func statusCommand() *command {
	return &command{
		name: "status", args: "[flags]", short: "show the daemons of this machine: devices, streams, epochs, counters, alarms", run: runStatus,
		long: `
Ask gatewayd (metrics.listen) and controld (its socket) of this machine how they are. Exit code
1 if one that the configuration names does not answer.`,
	}
}

func runStatus(env cmdenv.Env, c *command, args []string) error {
	var f statusFlags
	o := newOptions(c)
	f.daemonFlags.register(o)
	o.text(&f.addr, "addr", "", "HOST:PORT", "where gatewayd serves /status (default: metrics.listen of the configuration)")
	o.yes(&f.json, "json", "print one JSON object: gatewayd, controld, errors")
	o.yes(&f.watch, "watch", "show it again every two seconds, until interrupted")
	if err := o.parse(env, args, 0, 0); err != nil {
		return err
	}
	if f.addr == "" && f.keylink == "" || o.given("config") {
		cfg, err := config.Load(f.config)
		if err != nil {
			return fmt.Errorf("%w; or name the daemons with --addr and --keylink", err)
		}
		if f.addr == "" {
			f.addr = cfg.Metrics.Listen
		}
		if f.keylink == "" {
			f.keylink = cfg.Keylink
		}
	}
	for {
		report := f.ask(env.Ctx)
		if err := f.print(env.Stdout, &report); err != nil {
			return fmt.Errorf("stdout: %w", err)
		}
		if !f.watch {
			for _, text := range report.Errors {
				env.Errorf("sealctl status: %s", text)
			}
			if len(report.Errors) > 0 {
				return errSilent
			}
			return nil
		}
		select {
		case <-time.After(watchEvery):
		case <-env.Ctx.Done():
			return nil
		}
	}
}

// statusReport is what --json prints: each daemon's own JSON, and what did not answer.
type statusReport struct {
	Gatewayd json.RawMessage `json:"gatewayd"` // null: not asked or no answer
	Controld json.RawMessage `json:"controld"`
	Errors   []string        `json:"errors"`
}

func (f *statusFlags) ask(ctx context.Context) statusReport {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r := statusReport{Errors: []string{}}
	if f.addr != "" {
		b, err := getStatus(ctx, f.addr)
		if err != nil {
			r.Errors = append(r.Errors, "gatewayd: "+err.Error())
		}
		r.Gatewayd = b
	}
	if f.keylink != "" {
		b, err := keylink.Status(ctx, f.keylink)
		if err != nil {
			r.Errors = append(r.Errors, "controld: "+reach(f.keylink, err).Error())
		}
		r.Controld = b
	}
	return r
}

// maxStatus bounds what is read from a daemon's status page.
const maxStatus = 8 << 20

// getStatus asks gatewayd by plain HTTP/1.0: net/http's client would cost a router's flash most of a megabyte.
func getStatus(ctx context.Context, addr string) ([]byte, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("address %q: want host:port", addr)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("no answer at %s (%w); is gatewayd running, with this metrics.listen?", addr, err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	fmt.Fprintf(conn, "GET /status HTTP/1.0\r\nHost: %s\r\n\r\n", addr)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, fmt.Errorf("what answers at %s is not gatewayd: %w", addr, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil || resp.StatusCode != http.StatusOK || !json.Valid(b) {
		return nil, fmt.Errorf("what answers at %s is not gatewayd (HTTP status %d)", addr, resp.StatusCode)
	}
	return b, nil
}

func (f *statusFlags) print(w io.Writer, r *statusReport) error {
	var out bytes.Buffer
	if f.json {
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(false)
		if err := e.Encode(r); err != nil {
			return err
		}
	} else {
		if f.watch {
			out.WriteString("\x1b[H\x1b[2J")
		}
		r.table(&out)
		if f.watch {
			for _, text := range r.Errors {
				fmt.Fprintln(&out, text)
			}
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

// gatewaydStatus and controldStatus are what the table shows of the daemons' JSON.
type gatewaydStatus struct {
	Version  string `json:"version"`
	Gateway  string `json:"gateway"`
	Ready    bool   `json:"ready"`
	Controld bool   `json:"controld_connected"`
	Policy   uint64 `json:"policy_version"`
	Groups   []struct {
		Name    string  `json:"name"`
		Epoch   string  `json:"epoch"`
		Sending string  `json:"sending"`
		Keys    int     `json:"keys"`
		Age     float64 `json:"age_seconds"`
		Fresh   float64 `json:"fresh_seconds"`
		Stale   bool    `json:"stale"`
	} `json:"groups"`
	Traffic struct {
		Connections int                          `json:"connections"`
		Streams     int                          `json:"streams"`
		Messages    map[string]map[string]uint64 `json:"messages"`
		Gaps        uint64                       `json:"gap_messages"`
		Refused     map[string]uint64            `json:"refused"`
		Uplink      map[string]uint64            `json:"uplink_errors"`
		Checkpoints checkpointStatus             `json:"checkpoints"`
		Devices     []struct {
			Client  string `json:"client"`
			Device  string `json:"device"`
			Broker  string `json:"broker"`
			Seconds int64  `json:"seconds"`
			Up      uint64 `json:"up"`
			Down    uint64 `json:"down"`
			Refused uint64 `json:"refused"`
		} `json:"devices"`
	} `json:"traffic"`
	Sources *deviceStatus `json:"devices"`
}

type controldStatus struct {
	Fleet     string `json:"fleet"`
	Member    string `json:"member"`
	Role      string `json:"role"`
	Connected bool   `json:"connected"`
	Policy    struct {
		Version uint64 `json:"version"`
	} `json:"policy"`
	Groups []struct {
		Name      string  `json:"name"`
		Leader    string  `json:"leader"`
		Epoch     string  `json:"epoch"`
		Sending   string  `json:"sending"`
		Confirmed bool    `json:"confirmed"`
		Keys      int     `json:"keys"`
		Granted   int     `json:"granted"`
		Age       float64 `json:"age_seconds"`
		Fresh     float64 `json:"fresh_seconds"`
		Stale     bool    `json:"stale"`
	} `json:"groups"`
	Alarms    uint64 `json:"alarms"`
	LastAlarm string `json:"last_alarm"`
}

func (r *statusReport) table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	defer w.Flush()
	var g gatewaydStatus
	if r.Gatewayd != nil && json.Unmarshal(r.Gatewayd, &g) == nil {
		g.table(w)
	}
	var c controldStatus
	if r.Controld != nil && json.Unmarshal(r.Controld, &c) == nil {
		c.table(w)
	}
}

func (g *gatewaydStatus) table(w io.Writer) {
	fmt.Fprintf(w, "gatewayd\t%s\t%s\tpolicy %d\tcontrold %s\n", orDash(g.Gateway), word(g.Ready, "ready", "NOT READY"), g.Policy, word(g.Controld, "connected", "AWAY"))
	fmt.Fprintf(w, "connections\t%d\tstreams\t%d\tgaps %d\n", g.Traffic.Connections, g.Traffic.Streams, g.Traffic.Gaps)
	for _, direction := range sorted(g.Traffic.Messages) {
		fmt.Fprintf(w, "messages %s\t%s\n", direction, counts(g.Traffic.Messages[direction]))
	}
	fmt.Fprintf(w, "refused\t%s\n", counts(g.Traffic.Refused))
	fmt.Fprintf(w, "uplink errors\t%s\n", counts(g.Traffic.Uplink))
	g.Sources.line(w)
	g.Traffic.Checkpoints.table(w)
	if len(g.Groups) > 0 {
		fmt.Fprintf(w, "\nGROUP\tEPOCH\tSENDING\tFRESH\tKEYS\tAGE\n")
	}
	for _, x := range g.Groups {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", x.Name, orDash(x.Epoch), orDash(x.Sending), freshness(x.Fresh, x.Stale), x.Keys, age(x.Age))
	}
	if len(g.Traffic.Devices) > 0 {
		fmt.Fprintf(w, "\nCLIENT\tDEVICE\tBROKER\tCONNECTED\tUP\tDOWN\tREFUSED\n")
	}
	for _, d := range g.Traffic.Devices {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\n", orDash(screen.Plain(d.Client)), d.Device, d.Broker, age(float64(d.Seconds)), d.Up, d.Down, d.Refused)
	}
	g.Sources.table(w)
	fmt.Fprintln(w)
}

func (c *controldStatus) table(w io.Writer) {
	fmt.Fprintf(w, "controld\t%s/%s of %s\tcontrol broker %s\tpolicy %d\talarms %d\n", c.Role, c.Member, c.Fleet, word(c.Connected, "connected", "AWAY"), c.Policy.Version, c.Alarms)
	if c.LastAlarm != "" {
		fmt.Fprintf(w, "last alarm\t%s\n", c.LastAlarm)
	}
	if len(c.Groups) > 0 {
		fmt.Fprintf(w, "\nGROUP\tLEADER\tEPOCH\tSENDING\tCONFIRMED\tFRESH\tKEYS\tGRANTED\tAGE\n")
	}
	for _, x := range c.Groups {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", x.Name, orDash(x.Leader), orDash(x.Epoch), orDash(x.Sending), word(x.Confirmed, "yes", "no"),
			freshness(x.Fresh, x.Stale), x.Keys, x.Granted, age(x.Age))
	}
}

// freshness tells how long the authority to seal still lasts without another confirmation.
func freshness(seconds float64, stale bool) string {
	switch {
	case seconds < 0:
		return "always"
	case seconds == 0:
		return "-"
	case stale:
		return age(seconds) + " STALE"
	}
	return age(seconds)
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// counts shows the counters that are not zero.
func counts(m map[string]uint64) string {
	var parts []string
	for _, k := range sorted(m) {
		if m[k] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func age(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

func word(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
