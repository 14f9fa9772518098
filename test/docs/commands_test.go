package docs

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealgate/test/embedded"
	"sealgate/test/lab"
)

// patience bounds every wait; nothing is asserted about time.
const patience = 60 * time.Second

// manual runs the commands of a document. What differs from the document are the names that only the reader can
// fill in: the broker's address, and where the files lie.
type manual struct {
	t       *testing.T
	dir     string // stands for the reader's directory; etc in it for /etc/sealgate
	env     []string
	replace *strings.Replacer
	router  *lab.Namespace // where steering is set up; nil without the rights
	lan     bool           // steering can be tried
	readers []*lab.Proc    // the subscribers that run
}

// newManual starts a broker and fills a directory with the configuration.
func newManual(t *testing.T, toml string) *manual {
	t.Helper()
	m := &manual{t: t, dir: shortDir(t)}
	ca := lab.NewCA(t, "broker CA")
	broker := embedded.Start(t, embedded.Options{TLS: &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, "broker", time.Time{}, "127.0.0.1").Pair}}})
	etc := filepath.Join(m.dir, "etc")
	m.replace = strings.NewReplacer("broker.example:8883", broker.Addr, "/etc/sealgate", etc)
	m.env = []string{
		"PATH=" + filepath.Dir(lab.Build(t).Sealctl) + ":" + os.Getenv("PATH"),
		"SSL_CERT_FILE=" + ca.File, // the documents' broker has a certificate that everybody trusts
	}
	if err := os.MkdirAll(etc, 0o700); err != nil {
		t.Fatal(err)
	}
	m.write("broker-ca.pem", read(t, ca.File))
	local := fmt.Sprintf("state = %q\nkeylink = %q\n", filepath.Join(m.dir, "state"), filepath.Join(m.dir, "keylink"))
	m.write("sealgate.toml", local+m.replace.Replace(toml)+"\n[metrics]\nlisten = \"\"\n")
	m.lan = lab.CanNamespace()
	lab.Require(noSkip{t}, m.lan, "steering is left out: root with the right to make network namespaces is needed")
	if m.lan {
		m.router = lab.NewNamespace(t, "router")
		uplink := lab.NewNamespace(t, "uplink")
		lab.Veth(t, m.router, "lan0", uplink, "eth0")
		lab.Veth(t, m.router, "up0", uplink, "eth1")
		t.Cleanup(func() { m.run(m.router, "gatewayd -teardown -config /etc/sealgate/sealgate.toml") })
	}
	return m
}

// noSkip makes a test that lacks something go on without it.
type noSkip struct{ *testing.T }

func (n noSkip) Skipf(format string, a ...any) { n.Logf(format, a...) }

// shortDir is a temporary directory with a name short enough for sockets in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "docs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (m *manual) write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, "etc", name), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// start gives a line to the shell.
func (m *manual) start(ns *lab.Namespace, line string) *lab.Proc {
	m.t.Helper()
	return lab.Start(m.t, lab.Cmd{NS: ns, Path: "/bin/sh", Args: []string{"-ec", m.replace.Replace(line)}, Env: m.env, Dir: m.dir})
}

// run runs a line that has to succeed.
func (m *manual) run(ns *lab.Namespace, line string) {
	m.t.Helper()
	p := m.start(ns, line)
	if code, err := p.Wait(lab.Within(m.t, patience)); code != 0 {
		m.t.Fatalf("%s\nexit %d, %v\n%s\n%s", line, code, err, strings.Join(p.Stdout(), "\n"), strings.Join(p.Stderr(), "\n"))
	}
}

// serve starts a line that runs on, and waits until standard error says that it does. The end of the test stops it.
func (m *manual) serve(ns *lab.Namespace, line, word string) *lab.Proc {
	m.t.Helper()
	p := m.start(ns, "exec "+strings.TrimSuffix(strings.TrimSpace(line), "&"))
	if err := p.AwaitLine(lab.Within(m.t, patience), word); err != nil {
		m.t.Fatalf("%s\nnever said %q: %v\n%s", line, word, err, strings.Join(p.Stderr(), "\n"))
	}
	want := 0
	if strings.Contains(line, " -C ") {
		want = 1 // stopped before so many messages came
	}
	m.t.Cleanup(func() {
		p.Signal(syscall.SIGTERM)
		if code, err := p.Wait(lab.Within(m.t, patience)); code != want {
			m.t.Errorf("%s\nstopped: exit %d, %v", line, code, err)
		}
	})
	return p
}

// follow does what one line of a document says.
func (m *manual) follow(line string) {
	m.t.Helper()
	command, _, _ := strings.Cut(line, " # ")
	command = strings.TrimSpace(command)
	steering := strings.HasPrefix(command, "gatewayd") && !strings.Contains(command, "-check")
	switch {
	case strings.HasPrefix(command, "controld -join"): // on another router, which has no identity yet
		m.run(nil, "mv /etc/sealgate/identity /etc/sealgate/identity-of-gw1")
		m.run(nil, command)
	case command == "" || strings.HasPrefix(command, "#") || strings.HasPrefix(command, "make "):
		return // TestMakeTargetsExist looks at those
	case strings.HasPrefix(command, "PATH="):
		return // m.env does that
	case steering && !m.lan:
		m.t.Logf("left out: %s", command)
	case steering && strings.HasSuffix(command, "&"):
		m.serve(m.router, command, "gatewayd runs")
	case steering:
		m.run(m.router, command)
	case strings.HasPrefix(command, "sealctl fleet serve"):
		m.serve(nil, command, "routers can join")
	case strings.HasSuffix(command, "&"):
		m.serve(nil, command, "controld runs")
	case strings.HasPrefix(command, "sealctl sub"):
		m.readers = append(m.readers, m.serve(nil, command, "subscribed to"))
	default:
		m.run(nil, command)
	}
}

// walk follows all lines of the blocks; at the first that is for the router it brings the identity there, as the text says.
func (m *manual) walk(blocks []string, least int) {
	m.t.Helper()
	lines, moved := 0, false
	for _, block := range blocks {
		for line := range strings.Lines(block) {
			if strings.HasPrefix(line, "gatewayd") && !moved {
				m.run(nil, "cp -r plant/members/gw1 /etc/sealgate/identity")
				moved = true
			}
			m.follow(line)
			lines++
		}
	}
	if lines < least || !moved {
		m.t.Errorf("only %d lines of commands found", lines)
	}
}

// The README's commands, from the making of a fleet to the reader that has its keys.
func TestCommandsOfTheReadme(t *testing.T) {
	readme := read(t, filepath.Join(lab.Root(t), "README.md"))
	newManual(t, fenced(readme, "toml")[0]).walk(fenced(readme, "sh"), 15)
}

// The operator's guide, from top to bottom; the part about other PKIs has a test in cmd/gatewayd/daemon.
func TestCommandsOfOperations(t *testing.T) {
	text, _, found := strings.Cut(read(t, filepath.Join(lab.Root(t), "docs/OPERATIONS.md")), "\n## Bringing your own PKI")
	if !found {
		t.Fatal("docs/OPERATIONS.md has no section about other PKIs any more")
	}
	newManual(t, fenced(text, "toml")[0]).walk(fenced(text, "sh"), 15)
}

// The subscriber's guide, beside the fleet and the gateway of the operator's: what is published arrives at both readers.
func TestCommandsOfTheSubscribersGuide(t *testing.T) {
	root := lab.Root(t)
	operations := read(t, filepath.Join(root, "docs/OPERATIONS.md"))
	first, _, _ := strings.Cut(operations, "\n**6.")
	m := newManual(t, fenced(operations, "toml")[0])
	m.walk(fenced(first, "sh"), 10)
	for _, block := range fenced(read(t, filepath.Join(root, "docs/SUBSCRIBER.md")), "sh") {
		for line := range strings.Lines(block) {
			m.follow(line)
		}
	}
	if len(m.readers) != 3 {
		t.Fatalf("%d commands subscribe", len(m.readers))
	}
	for i, want := range []string{"sensors/7/set 21", `"payload":"21"`, `"content_type":"text/plain"`} {
		err := m.readers[i].Await(lab.Within(t, patience), func(stdout, _ []string) bool { return lab.HasLine(stdout, want) })
		if err != nil {
			t.Errorf("reader %d never printed %s: %v\n%s", i, want, err, strings.Join(m.readers[i].Stdout(), "\n"))
		}
	}
}
