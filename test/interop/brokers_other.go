package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sealgate/test/lab"
)

// startAedes starts aedes on node.
func startAedes(t lab.T) (port int) {
	needNode(t)
	script := filepath.Join(lab.Root(t), "clients", "aedes.js")
	p := lab.Start(t, lab.Cmd{Path: lab.NeedTool(t, "node"), Args: []string{script}})
	err := p.Await(lab.Within(t, patience), func(stdout, _ []string) bool {
		for _, line := range stdout {
			text, ok := strings.CutPrefix(line, "listening ")
			if n, err := strconv.Atoi(text); ok && err == nil {
				port = n
			}
		}
		return port != 0
	})
	if err != nil {
		t.Fatalf("start aedes: %v", err)
	}
	return port
}

const rabbitConf = `listeners.tcp = none
mqtt.listeners.tcp.default = 127.0.0.1:%d
mqtt.allow_anonymous = true
mqtt.default_user = anyone
mqtt.default_pass = none
mqtt.exchange = amq.topic
load_definitions = %s
log.console = true
log.console.level = error
log.file = false
`

// rabbitDefinitions are what RabbitMQ begins with: one user, who must not read +/secret/#.
const rabbitDefinitions = `{
 "users": [{"name": "anyone", "password": "none", "tags": []}],
 "vhosts": [{"name": "/"}],
 "permissions": [{"user": "anyone", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
 "topic_permissions": [{"user": "anyone", "vhost": "/", "exchange": "amq.topic", "write": ".*", "read": "^(?![^.]*\\.secret(\\.|$))"}]
}`

// startRabbitMQ starts a node of its own name and directory, with a port mapper of its own: nothing of a RabbitMQ that
// runs on this machine is touched.
func startRabbitMQ(t lab.T) int {
	found, _ := filepath.Glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server")
	lab.Require(t, len(found) > 0, "needs rabbitmq-server; make setup installs it")
	return started(t, func(dir string, port int) *lab.Proc { return rabbitNode(t, found[len(found)-1], dir, port) })
}

func rabbitNode(t lab.T, program, dir string, port int) *lab.Proc {
	mapper := lab.FreePort(t)
	definitions, conf, plugins := filepath.Join(dir, "definitions.json"), filepath.Join(dir, "rabbitmq.conf"), filepath.Join(dir, "plugins")
	write(t, definitions, rabbitDefinitions)
	write(t, conf, fmt.Sprintf(rabbitConf, port, definitions))
	write(t, plugins, "[rabbitmq_mqtt].\n")
	write(t, filepath.Join(dir, "env"), "")
	env := []string{
		"HOME=" + dir, "ERL_EPMD_PORT=" + strconv.Itoa(mapper), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=interop" + strconv.Itoa(port) + "@localhost", "RABBITMQ_DIST_PORT=" + strconv.Itoa(lab.FreePort(t)),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_CONF_ENV_FILE=" + filepath.Join(dir, "env"), "RABBITMQ_CONFIG_FILE=" + conf, "RABBITMQ_ENABLED_PLUGINS_FILE=" + plugins,
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "mnesia"), "RABBITMQ_LOG_BASE=" + filepath.Join(dir, "log"), "RABBITMQ_LOGS=-",
		"RUNNING_UNDER_SYSTEMD=1", // the script becomes the node instead of watching over it
	}
	lab.Start(t, lab.Cmd{Path: lab.NeedTool(t, "epmd"), Env: env, Args: []string{"-address", "127.0.0.1", "-port", strconv.Itoa(mapper)}})
	return lab.Start(t, lab.Cmd{Path: program, Env: env, Dir: dir})
}

func write(t lab.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatalf("write %s: %v", filepath.Base(file), err)
	}
}

// started starts a broker, again with other ports when it ends at once: a port that was free need not be free any more.
func started(t lab.T, start func(dir string, port int) *lab.Proc) (port int) {
	t.Helper()
	var last *lab.Proc
	for range 3 {
		port = lab.FreePort(t)
		if last = start(t.TempDir(), port); accepts(t, last, port) {
			return port
		}
	}
	t.Fatalf("%s ended:\n%s", last.Name, strings.Join(append(last.Stdout(), last.Stderr()...), "\n"))
	return 0
}

// accepts waits until a broker accepts a session; false if it ends before.
func accepts(t lab.T, p *lab.Proc, port int) bool {
	t.Helper()
	ctx := lab.Within(t, 2*time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	o := mqtt.NewClientOptions().AddBroker(fmt.Sprintf("tcp://127.0.0.1:%d", port)).SetClientID("probe").SetAutoReconnect(false)
	for {
		select {
		case <-tick.C:
		case <-p.Done():
			return false
		case <-ctx.Done():
			t.Fatalf("%s accepts no session:\n%s", p.Name, strings.Join(append(p.Stdout(), p.Stderr()...), "\n"))
		}
		c := mqtt.NewClient(o)
		if token := c.Connect(); token.WaitTimeout(10*time.Second) && token.Error() == nil {
			c.Disconnect(0)
			return true
		}
	}
}
