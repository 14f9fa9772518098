package interop

import (
	"fmt"
	"os"
	"path/filepath"

	"sealgate/test/lab"
)

// broker is one broker of the matrix, and what it is able to do. It refuses the name mallory, and +/secret/# to all.
type broker struct {
	name           string
	v5             bool
	anyTopic       bool        // topics with spaces and empty levels
	refusesPublish bool        // by a reason code
	aliases        bool        // takes topic aliases
	copies         map[int]int // by version, of a message for a client with two subscriptions that match
	start          func(t lab.T) (port int)
}

var brokers = []*broker{
	{name: "mosquitto", v5: true, anyTopic: true, refusesPublish: true, aliases: true, copies: map[int]int{4: 1, 5: 2}, start: startMosquitto},
	{name: "mochi-mqtt", v5: true, anyTopic: true, refusesPublish: true, copies: map[int]int{4: 1, 5: 1}, start: startMochi},
	{name: "nats-server", copies: map[int]int{4: 2}, start: startNATS},
	{name: "RabbitMQ", copies: map[int]int{4: 1}, start: startRabbitMQ},
	{name: "aedes", anyTopic: true, copies: map[int]int{4: 1}, start: startAedes},
}

const dynsec = `{
 "defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true, "subscribe": true, "unsubscribe": true},
 "anonymousGroup": "anyone",
 "groups": [{"groupname": "anyone", "roles": [{"rolename": "most"}], "clients": []}],
 "roles": [{"rolename": "most", "acls": [
  {"acltype": "publishClientSend", "topic": "+/secret/#", "allow": false},
  {"acltype": "subscribePattern", "topic": "+/secret/#", "allow": false}]}],
 "clients": [{"username": "mallory", "password": "", "salt": "", "iterations": 1, "roles": []}]
}`

// dynsecPlugin is the plugin that refuses subscriptions: mosquitto's own access list grants them and withholds messages.
const dynsecPlugin = "mosquitto_dynamic_security.so"

func startMosquitto(t lab.T) int {
	found, err := filepath.Glob("/usr/lib/*/" + dynsecPlugin)
	lab.Require(t, err == nil && len(found) > 0, "needs "+dynsecPlugin+" of Debian's mosquitto; make setup installs it")
	file := filepath.Join(t.TempDir(), "dynsec.json")
	if err := os.WriteFile(file, []byte(dynsec), 0o600); err != nil {
		t.Fatalf("write the broker's access list: %v", err)
	}
	port := lab.FreePort(t)
	lab.Mosquitto(t, lab.BrokerOptions{Plain: port, Extra: fmt.Sprintf("plugin %s\nplugin_opt_config_file %s\n", found[0], file)})
	return port
}
