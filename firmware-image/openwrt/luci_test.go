package openwrt

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/gateway"
	"sealgate/test/lab"
)

// page is what a view is opened with: what the router answers, and what is done once it stands.
type page struct {
	view string
	exec map[string]any            // command line to {code, stdout, stderr}, or a list of these, one after the other
	uci  map[string]map[string]any // sections of /etc/config/sealgate
	then string                    // JavaScript; poll() lets all that is polled for be asked again
}

type answer struct {
	Code   int    `json:"code"`
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
}

// opened is a page as the browser has it.
type opened struct {
	dom   string // HTML
	text  string // of the view, without tags
	calls []string
}

// browser is headless Chromium, by either of Debian's names.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium-headless-shell", "chromium"} {
		if path, ok := lab.FindTool(name); ok {
			return path
		}
	}
	return lab.NeedTool(t, "chromium-headless-shell")
}

var (
	viewPart  = regexp.MustCompile(`(?s)<div id="view">(.*)</div><pre id="calls">(.*?)</pre>`)
	tags      = regexp.MustCompile(`<[^>]*>`)
	spaces    = regexp.MustCompile(`\s+`)
	shotsPath = os.Getenv("SEALGATE_SCREENS") // where screenshots are put, for people to look at
)

// open opens the page in Chromium, with the stand-in for LuCI around the view.
func open(t *testing.T, name string, p page) opened {
	t.Helper()
	given, err := json.Marshal(map[string]any{"exec": p.exec, "uci": map[string]any{"sealgate": p.uci}, "then": p.then})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/luci-static/", http.FileServer(http.Dir("luci-app-sealgate/htdocs")))
	mux.Handle("/luci.js", http.FileServer(http.Dir("testdata/luci")))
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		b, _ := os.ReadFile("testdata/luci/page.html")
		fmt.Fprint(w, strings.NewReplacer("VIEW", p.view, "ANSWERS", strings.ReplaceAll(string(given), "<", `\u003c`)).Replace(string(b)))
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	args := []string{"--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=" + t.TempDir(), "--virtual-time-budget=10000", "--window-size=1000,1500"}
	look := func(more ...string) string {
		cmd := exec.CommandContext(lab.Within(t, 2*time.Minute), browser(t), append(slices.Concat(args, more), server.URL+"/")...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("chromium: %v\n%s", err, out)
		}
		return string(out)
	}
	if shotsPath != "" {
		look("--screenshot=" + filepath.Join(shotsPath, name+".png"))
	}
	return understand(t, look("--dump-dom"))
}

func understand(t *testing.T, dom string) (o opened) {
	t.Helper()
	found := viewPart.FindStringSubmatch(dom)
	if found == nil || !strings.Contains(dom, `data-done="yes"`) {
		t.Fatalf("the page did not come to its end:\n%s", dom)
	}
	o.dom = found[1]
	o.text = strings.TrimSpace(spaces.ReplaceAllString(html.UnescapeString(tags.ReplaceAllString(o.dom, " ")), " "))
	var calls [][]any
	if err := json.Unmarshal([]byte(html.UnescapeString(found[2])), &calls); err != nil {
		t.Fatal(err)
	}
	for _, call := range calls {
		b, _ := json.Marshal(call)
		o.calls = append(o.calls, string(b))
	}
	if strings.Contains(o.dom, `id="failed"`) {
		t.Fatalf("the view failed:\n%s", o.text)
	}
	return o
}

func (o opened) shows(t *testing.T, texts ...string) {
	t.Helper()
	for _, want := range texts {
		if !strings.Contains(o.text, want) {
			t.Errorf("the page does not show %q:\n%s", want, o.text)
		}
	}
}

const askStatus = "/usr/sbin/sealctl status --json"

// What the daemons really say is on the page, and what hostile devices call themselves is text.
func TestStatusPage(t *testing.T) {
	t.Parallel()
	p := lab.NewPlant(t, lab.PlantOptions{Loopback: true, Embedded: true})
	p.Up(t)
	p.AwaitEpoch(t, "default", 1)
	said := lab.MustRun(t, lab.Within(t, time.Minute), lab.Cmd{Path: p.Programs.Sealctl, Args: []string{"status", "--json", "--config", p.ConfFile}})
	var status map[string]any
	if err := json.Unmarshal([]byte(said), &status); err != nil {
		t.Fatal(err)
	}
	const evil = `<img src=x onerror="document.body.dataset.pwned=1">`
	gatewayd := status["gatewayd"].(map[string]any)
	traffic := gatewayd["traffic"].(map[string]any)
	traffic["devices"] = []any{map[string]any{"client": evil, "device": "192.0.2.7:40001", "broker": "10.0.0.1:8883", "seconds": 300, "up": 12345, "down": 3, "refused": 1}}
	status["controld"].(map[string]any)["alarms"], status["controld"].(map[string]any)["last_alarm"] = 3, "sender is revoked "+evil
	gatewayd["groups"].([]any)[0].(map[string]any)["stale"] = true
	traffic["checkpoints"] = gateway.CheckpointStatus{Groups: map[string]gateway.MissingStatus{"default": {Silent: []string{"gw3"}}}, Recent: []gateway.MissingEvent{
		{Event: "dropped", Group: "default", Gateway: "gw2", Topic: "plant/" + evil}, {Event: "heard", Group: "default", Gateway: "gw4"}}}
	b, _ := json.Marshal(status)
	o := open(t, "status", page{view: "sealgate/status", exec: map[string]any{askStatus: answer{Stdout: string(b)}, askEnrol: enrolState(true, -1, "")}})
	o.shows(t, "Gateway gw1 (plant)", "Devices are served yes", "Control broker connected", fmt.Sprint("Policy version ", gatewayd["policy_version"]),
		evil+" 192.0.2.7:40001 10.0.0.1:8883 5 min 12\u00a0345 3 1", "control plane, 3 times sender is revoked "+evil, "messages missing or withheld dropped default gw2 plant/"+evil,
		"a member is not heard silent default gw3", "checkpoints are not heard", "no word from a keeper Group default is sealed for ")
	if epoch := gatewayd["groups"].([]any)[0].(map[string]any)["sending"]; epoch == nil || !strings.Contains(o.text, "default "+epoch.(string)) {
		t.Errorf("the page does not show group default with epoch %v:\n%s", epoch, o.text)
	}
	if strings.Contains(o.text, "gw4") {
		t.Errorf("that a member is heard of again is shown as an alarm:\n%s", o.text)
	}
	if strings.Contains(o.dom, "<img") {
		t.Errorf("a device's name became HTML:\n%s", o.dom)
	}
	if want := []string{`["fs.exec","/usr/sbin/sealctl",["status","--json"]]`, `["fs.exec","/usr/sbin/sealgate-enrol",["--status"]]`, `["poll.add",5]`}; !slices.Equal(o.calls, want) {
		t.Errorf("calls %v, want %v", o.calls, want)
	}
}

func TestStatusPageWithoutDaemons(t *testing.T) {
	t.Parallel()
	half := answer{Code: 1, Stdout: `{"gatewayd":null,"controld":null,"errors":["gatewayd does not answer at 127.0.0.1:9883"]}`}
	o := open(t, "status-down", page{view: "sealgate/status", exec: map[string]any{askStatus: []any{answer{Code: 1, Stderr: "sealctl status: no such file"}, half}}})
	o.shows(t, "error sealctl status: no such file", "no: nothing of the devices leaves", "no policy yet", "no device is connected")
	o = open(t, "status-half", page{view: "sealgate/status", exec: map[string]any{askStatus: []any{answer{}, half}}, then: "await poll()"})
	o.shows(t, "error gatewayd does not answer at 127.0.0.1:9883")
	off, _ := json.Marshal(map[string]bool{"enabled": false, "enrolled": false})
	o = open(t, "status-off", page{view: "sealgate/status", exec: map[string]any{askStatus: half, askEnrol: answer{Stdout: string(off)}}})
	o.shows(t, "switched off Nothing is sealed.", "leaves in clear", "Devices are served no: switched off")
	o = open(t, "status-new", page{view: "sealgate/status", exec: map[string]any{askStatus: half, askEnrol: enrolState(false, -1, "")}})
	o.shows(t, "not enrolled Nothing of the devices leaves.", "Devices are served no: nothing of the devices leaves")
	if strings.Contains(o.text, "9883") {
		t.Errorf("what does not run on purpose is an error:\n%s", o.text)
	}
	o = open(t, "status-denied", page{view: "sealgate/status", exec: map[string]any{}})
	o.shows(t, "error Permission denied")
}

// Every option of the page is one that the package renders, in a section that the package's configuration has.
func TestSettingsPage(t *testing.T) {
	t.Parallel()
	sections := map[string]map[string]any{}
	for line := range strings.Lines(read(t, "sealgate/files/etc/config/sealgate")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "config" {
			sections[strings.Trim(f[2], "'")] = map[string]any{".type": f[1]}
		}
	}
	sections["main"]["enabled"], sections["main"]["fleet"] = "1", "plant"
	sections["steer"]["lan"], sections["steer"]["ports"] = []string{"br-lan", "br-sensors"}, []string{"1883"}
	sections["steer"]["mode"], sections["uplink"]["tls"] = "tc", "1"
	sections["control"]["broker"] = []string{"mqtts://broker.example:8883"}
	o := open(t, "settings", page{view: "sealgate/settings", uci: sections})
	o.shows(t, "Switched on", "br-lan br-sensors", "mqtts://broker.example:8883", "CA certificate", "Save & Apply")
	keys := read(t, "sealgate/files/usr/lib/sealgate/functions.sh")
	options := regexp.MustCompile(`data-name="([a-z_.]+)"`).FindAllStringSubmatch(o.dom, -1)
	if len(options) < 12 {
		t.Errorf("only %d options:\n%s", len(options), o.text)
	}
	for _, option := range options {
		if name := option[1]; name != "main.enabled" && !strings.Contains(keys, "\n"+strings.Replace(name, ".", " ", 1)+" ") {
			t.Errorf("option %s is not rendered into sealgate.toml", name)
		}
	}
	sections["uplink"]["tls"] = "0"
	if o := open(t, "settings-plain", page{view: "sealgate/settings", uci: sections}); strings.Contains(o.dom, "uplink.ca") {
		t.Error("without TLS a CA is asked for")
	}
}

const askEnrol = "/usr/sbin/sealgate-enrol --status"

func enrolState(enrolled bool, code any, said string) answer {
	b, _ := json.Marshal(map[string]any{"enabled": true, "enrolled": enrolled, "code": code, "said": said})
	return answer{Stdout: string(b)}
}

// A ticket goes into a file that only root reads, and nowhere else.
func TestEnrolPage(t *testing.T) {
	t.Parallel()
	const ticket = "sgt1-abcdefgh"
	o := open(t, "enrol", page{view: "sealgate/enrol", exec: map[string]any{
		askEnrol:                               []any{enrolState(false, -1, ""), enrolState(false, nil, "controld: joining <b>\n"), enrolState(true, 0, "controld: this machine is gateway gw1\n")},
		"/usr/sbin/sealgate-enrol --from-page": answer{},
	}, then: `
		const said = [ document.getElementById('enrol-word').textContent ];
		document.getElementById('ticket').value = ' ` + ticket + `\n';
		document.getElementById('enrol').click();
		await new Promise((r) => setTimeout(r, 100));
		said.push(document.getElementById('enrol-word').textContent, document.getElementById('enrol-said').innerHTML, document.getElementById('ticket').value);
		await poll();
		document.getElementById('view').append(E('pre', { 'id': 'seen' }, [ said.join('|') ]));`})
	o.shows(t, "This router is enrolled. controld: this machine is gateway gw1",
		"This router is not enrolled: nothing of the devices leaves.|Waiting for the operator to answer. This page may be left.|controld: joining &lt;b&gt; |")
	want := []string{`["fs.exec","/usr/sbin/sealgate-enrol",["--status"]]`, `["poll.add",3]`,
		`["fs.write","/var/run/sealgate-enrol/ticket","` + ticket + `\n",384]`, `["fs.exec","/usr/sbin/sealgate-enrol",["--from-page"]]`,
		`["fs.exec","/usr/sbin/sealgate-enrol",["--status"]]`, `["fs.exec","/usr/sbin/sealgate-enrol",["--status"]]`}
	if !slices.Equal(o.calls, want) {
		t.Errorf("calls\n\t%s\nwant\n\t%s", strings.Join(o.calls, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestEnrolPageRefuses(t *testing.T) {
	t.Parallel()
	for value, says := range map[string]string{"two words": "A ticket is one line without spaces.", "": "A ticket is one line without spaces.", "sgt1-x": "this router is being enrolled already"} {
		o := open(t, "enrol-refused", page{view: "sealgate/enrol", exec: map[string]any{
			askEnrol: enrolState(false, 1, "controld: ticket: its checksum does not fit\n"), "/usr/sbin/sealgate-enrol --from-page": answer{Code: 1, Stderr: "this router is being enrolled already"},
		}, then: fmt.Sprintf("document.getElementById('ticket').value = %q; document.getElementById('enrol').click(); await new Promise((r) => setTimeout(r, 100))", value)})
		o.shows(t, says, "It did not work.", "its checksum does not fit")
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The pages may call what they call, no more; and each view that the menu names is there.
func TestLuciRights(t *testing.T) {
	p, err := Luci(".", at)
	if err != nil {
		t.Fatal(err)
	}
	type rights struct {
		File map[string][]string `json:"file"`
		UCI  []string            `json:"uci"`
	}
	var acl map[string]struct {
		Read, Write rights
	}
	var menu map[string]struct {
		Action struct{ Type, Path string }
	}
	for _, f := range p.Files {
		into := map[string]any{"/usr/share/rpcd/acl.d/luci-app-sealgate.json": &acl, "/usr/share/luci/menu.d/luci-app-sealgate.json": &menu}[f.Path]
		if into != nil {
			if err := json.Unmarshal(f.Body, into); err != nil {
				t.Errorf("%s: %v", f.Path, err)
			}
		}
	}
	a := acl["luci-app-sealgate"]
	if want := map[string][]string{askStatus: {"exec"}, askEnrol: {"exec"}}; fmt.Sprint(a.Read.File) != fmt.Sprint(want) {
		t.Errorf("read: %v, want %v", a.Read.File, want)
	}
	if want := map[string][]string{"/var/run/sealgate-enrol/ticket": {"write"}, "/usr/sbin/sealgate-enrol --from-page": {"exec"}}; fmt.Sprint(a.Write.File) != fmt.Sprint(want) {
		t.Errorf("write: %v, want %v", a.Write.File, want)
	}
	views := 0
	for path, entry := range menu {
		if entry.Action.Type == "view" {
			views++
			if _, ok := modes(p)["/www/luci-static/resources/view/"+entry.Action.Path+".js"]; !ok {
				t.Errorf("menu %s names view %s, which is not in the package", path, entry.Action.Path)
			}
		}
	}
	if views != 3 || len(p.Files) != 5 {
		t.Errorf("%d views, files %v", views, modes(p))
	}
}
