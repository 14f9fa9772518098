package interop

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"sealgate/test/lab"
)

// startMochi starts mochi-mqtt in this process.
func startMochi(t lab.T) int {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for mochi-mqtt: %v", err)
	}
	able := mochi.NewDefaultServerCapabilities()
	able.Compatibilities.NoInheritedPropertiesOnAck = true // else a publisher's properties come back to it in PUBACK
	server := mochi.New(&mochi.Options{Capabilities: able, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := server.AddHook(new(mochiAccess), nil); err != nil {
		t.Fatalf("start mochi-mqtt: %v", err)
	}
	if err := server.AddListener(listeners.NewNet("interop", l)); err != nil {
		t.Fatalf("start mochi-mqtt: %v", err)
	}
	if err := server.Serve(); err != nil {
		t.Fatalf("start mochi-mqtt: %v", err)
	}
	t.Cleanup(func() { server.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// mochiAccess refuses mallory and +/secret/#.
type mochiAccess struct{ mochi.HookBase }

func (h *mochiAccess) ID() string { return "interop" }

func (h *mochiAccess) Provides(b byte) bool {
	return bytes.Contains([]byte{mochi.OnConnectAuthenticate, mochi.OnACLCheck}, []byte{b})
}

func (h *mochiAccess) OnConnectAuthenticate(_ *mochi.Client, pk packets.Packet) bool {
	return string(pk.Connect.Username) != "mallory"
}

func (h *mochiAccess) OnACLCheck(_ *mochi.Client, topic string, _ bool) bool {
	levels := strings.Split(topic, "/")
	return len(levels) < 2 || levels[1] != "secret"
}

const natsConf = `server_name: interop
listen: "127.0.0.1:%d"
jetstream { store_dir: %q, max_memory_store: 64MB, max_file_store: 512MB }
mqtt { listen: "127.0.0.1:%d", ack_wait: "10s", max_ack_pending: 1000 }
authorization { users: [
  { user: anyone, password: none, permissions: { subscribe: { deny: ["*.secret.>", "*.secret"] } } }
] }
no_auth_user: anyone
`

// startNATS builds nats-server and starts it.
func startNATS(t lab.T) int {
	path := filepath.Join(t.TempDir(), "nats-server")
	build := exec.Command("go", "build", "-o", path, "github.com/nats-io/nats-server/v2")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	return started(t, func(dir string, port int) *lab.Proc {
		store, err := os.MkdirTemp("/dev/shm", "interop") // it writes files for each subscription, and waits while others keep the disk busy
		if err != nil {
			store = filepath.Join(dir, "store")
		}
		t.Cleanup(func() { os.RemoveAll(store) })
		conf := filepath.Join(dir, "nats.conf")
		write(t, conf, fmt.Sprintf(natsConf, lab.FreePort(t), store, port))
		return lab.Start(t, lab.Cmd{Path: path, Args: []string{"-c", conf}})
	})
}
