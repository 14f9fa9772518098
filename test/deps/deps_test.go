// Package deps holds Sealgate's import rules: which package may know which, and
// why. A break-in through the parser must meet no identity key, and a reader
// must be able to study the control protocol without meeting a socket; imports
// that point one way are what keeps both true.
package deps

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "sealgate/"

// A rule names packages (by prefix), what none of them may import, and why.
type rule struct {
	packages []string // matched as whole path or path prefix, relative to the module
	forbids  []string // module packages by relative path, others by import path; prefixes match
	direct   bool     // only direct imports count, not what they bring along
	because  string
}

var pureLeaves = []string{"pkg/dcbor", "pkg/mqttparse", "pkg/topic", "pkg/crypto", "pkg/policy", "pkg/control", "pkg/enrol", "pkg/rewrite"}

var rules = []rule{
	{
		packages: pureLeaves,
		forbids:  []string{"net", "os", "os/exec", "syscall", "golang.org/x/sys"},
		direct:   true,
		because:  "parsing, sealing and the control machine do no I/O: bytes and a time in, bytes out",
	},
	{
		packages: []string{"pkg/dcbor", "pkg/mqttparse", "pkg/topic"},
		forbids:  []string{"pkg", "time"},
		direct:   true,
		because:  "leaves know nothing of the rest and read no clock",
	},
	{
		packages: []string{"pkg/crypto"},
		forbids:  []string{"pkg/mqttparse", "pkg/topic", "pkg/policy", "pkg/control", "pkg/gateway", "pkg/member", "pkg/keylink", "pkg/steer", "pkg/config", "pkg/subscriber", "cmd", "bpf"},
		because:  "the envelope and the keys are understood by themselves",
	},
	{
		packages: []string{"pkg/policy"},
		forbids:  []string{"pkg/mqttparse", "pkg/control", "pkg/gateway", "pkg/member", "pkg/keylink", "pkg/steer", "pkg/config", "pkg/subscriber", "cmd", "bpf"},
		because:  "the fleet policy is a document, whoever applies it",
	},
	{
		packages: []string{"pkg/control", "pkg/member", "pkg/subscriber", "cmd/controld"},
		forbids:  []string{"pkg/mqttparse", "pkg/gateway", "pkg/steer", "bpf"},
		because:  "the program that holds the identity key and KEKs never meets a device's bytes or the kernel's steering",
	},
	{
		packages: []string{"pkg/gateway", "pkg/steer"},
		forbids:  []string{"pkg/control", "pkg/member", "pkg/subscriber", "pkg/keylink", "pkg/config", "cmd"},
		because:  "the data plane cannot take part in the control protocol",
	},
	{
		packages: []string{"cmd/gatewayd"},
		forbids:  []string{"pkg/control", "pkg/member", "pkg/subscriber", "github.com/eclipse/paho.mqtt.golang"},
		because:  "a break-in through the MQTT parser meets no identity key and no KEK",
	},
	{
		packages: []string{"pkg/enrol"},
		forbids:  []string{"pkg/mqttparse", "pkg/control", "pkg/member", "pkg/gateway", "pkg/steer", "pkg/keylink", "pkg/config", "pkg/subscriber", "cmd", "bpf"},
		because:  "becoming a member and being one are two protocols; either is understood by itself",
	},
	{
		packages: []string{"pkg/keylink"},
		forbids:  []string{"pkg/control", "pkg/member", "pkg/gateway", "pkg/steer", "pkg/mqttparse", "cmd"},
		because:  "the socket carries snapshots; it decides nothing",
	},
	{
		packages: []string{"pkg/rewrite", "pkg/steer/inpath"},
		forbids:  []string{"pkg/mqttparse", "pkg/crypto", "pkg/policy", "pkg/gateway"},
		because:  "who carries a connection does not know what is in it",
	},
	{
		packages: []string{"pkg", "bpf"},
		forbids:  []string{"cmd", "test"},
		because:  "only cmd wires; test support stays out of what ships",
	},
	{
		packages: []string{"cmd"},
		forbids:  []string{"test"},
		because:  "test support stays out of what ships",
	},
}

type listed struct {
	ImportPath   string
	Imports      []string
	Deps         []string
	TestImports  []string
	XTestImports []string
}

func (p listed) imports(direct bool) []string {
	if direct {
		return p.Imports
	}
	return p.Deps
}

func listPackages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps,TestImports,XTestImports", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// forbidden reports whether the import path falls under the rule's entry: an entry that is
// one of this module's top folders is relative to the module, any other is a whole import path.
func forbidden(path, entry string) bool {
	top, _, _ := strings.Cut(entry, "/")
	if slices.Contains([]string{"pkg", "cmd", "bpf", "test"}, top) {
		return under(path, module+entry)
	}
	if entry == "net" || entry == "os" {
		return path == entry // net/netip, net/url and os/signal are rules of their own
	}
	return under(path, entry)
}

func (r rule) violations(p listed) []string {
	var found []string
	for _, imported := range p.imports(r.direct) {
		for _, entry := range r.forbids {
			if forbidden(imported, entry) {
				found = append(found, imported)
			}
		}
	}
	return found
}

func TestImportsPointOneWay(t *testing.T) {
	packages := listPackages(t)
	if len(packages) < 10 {
		t.Fatalf("go list found only %d packages: the rules would hold for nothing", len(packages))
	}
	for _, r := range rules {
		matched := false
		for _, p := range packages {
			if !slices.ContainsFunc(r.packages, func(prefix string) bool { return under(p.ImportPath, module+prefix) }) {
				continue
			}
			matched = true
			for _, v := range r.violations(p) {
				t.Errorf("%s imports %s, but %s", p.ImportPath, v, r.because)
			}
		}
		if !matched {
			t.Errorf("rule %q matches no package: it guards nothing", r.because)
		}
	}
}

// A rule that cannot fail is worth nothing.
func TestRulesCanFail(t *testing.T) {
	bad := listed{ImportPath: module + "pkg/gateway", Deps: []string{"fmt", module + "pkg/control"}}
	for _, r := range rules {
		if slices.Contains(r.packages, "pkg/gateway") && len(r.violations(bad)) == 1 {
			return
		}
	}
	t.Fatal("no rule refuses pkg/gateway importing pkg/control")
}
