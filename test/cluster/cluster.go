// Package cluster tests Sealgate on a broker that is a cluster: three nats-server processes that speak MQTT
// and keep every message and session on all three (JetStream, three replicas). It is a Go module of its
// own, so that nats-server and what it needs stay out of Sealgate's.
package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sealgate/test/lab"
)

// nodes is the size of the cluster: the smallest that outlives the loss of one.
const nodes = 3

// natsCluster is a running cluster.
type natsCluster struct {
	path  string
	confs [nodes]string
	addrs [nodes]string // where each speaks MQTT
	procs [nodes]*lab.Proc
}

const natsConf = `server_name: n%d
listen: "127.0.0.1:%d"
jetstream { store_dir: %q, max_memory_store: 64MB, max_file_store: 512MB }
cluster { name: plant, listen: "127.0.0.1:%d", routes: [%s] }
mqtt { listen: "127.0.0.1:%d", stream_replicas: %d, ack_wait: "5s", max_ack_pending: 1000 }
`

// startCluster builds nats-server and starts the nodes; it returns when each accepts MQTT sessions.
func startCluster(t lab.T) *natsCluster {
	t.Helper()
	c := &natsCluster{path: filepath.Join(t.TempDir(), "nats-server")}
	build := exec.Command("go", "build", "-o", c.path, "github.com/nats-io/nats-server/v2")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	var routes []string
	var peers [nodes]int
	for i := range peers {
		peers[i] = lab.FreePort(t)
		routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", peers[i]))
	}
	for i := range nodes {
		port := lab.FreePort(t)
		c.addrs[i] = fmt.Sprintf("127.0.0.1:%d", port)
		dir := t.TempDir()
		c.confs[i] = filepath.Join(dir, "nats.conf")
		text := fmt.Sprintf(natsConf, i+1, lab.FreePort(t), filepath.Join(dir, "store"), peers[i], strings.Join(routes, ", "), port, nodes)
		if err := os.WriteFile(c.confs[i], []byte(text), 0o600); err != nil {
			t.Fatalf("write a node's configuration: %v", err)
		}
	}
	for i := range nodes {
		c.start(t, i)
	}
	for i := range nodes {
		c.await(t, i)
	}
	return c
}

func (c *natsCluster) start(t lab.T, i int) {
	t.Helper()
	c.procs[i] = lab.Start(t, lab.Cmd{Path: c.path, Args: []string{"-c", c.confs[i]}})
}

// await waits until node i accepts an MQTT session, for which the cluster must have its quorum.
func (c *natsCluster) await(t lab.T, i int) {
	t.Helper()
	ctx := lab.Within(t, 60*time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := probe(ctx, c.addrs[i], fmt.Sprintf("probe%d", i))
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-c.procs[i].Done():
			t.Fatalf("node %d ended:\n%s", i+1, strings.Join(c.procs[i].Stderr(), "\n"))
		case <-ctx.Done():
			t.Fatalf("node %d accepts no session: %v\n%s", i+1, err, strings.Join(c.procs[i].Stderr(), "\n"))
		}
	}
}

// probe makes an MQTT 3.1.1 session and ends it.
func probe(ctx context.Context, addr, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	connect := "\x00\x04MQTT\x04\x02\x00\x3c\x00" + string(rune(len(id))) + id
	if _, err := conn.Write(append([]byte{0x10, byte(len(connect))}, connect...)); err != nil {
		return err
	}
	var ack [4]byte
	if _, err := io.ReadFull(conn, ack[:]); err != nil {
		return fmt.Errorf("read CONNACK: %w", err)
	}
	if ack[3] != 0 {
		return fmt.Errorf("CONNACK % x", ack)
	}
	_, err = conn.Write([]byte{0xe0, 0})
	return err
}

// urls lists the nodes for members and subscribers, from node first on.
func (c *natsCluster) urls(first int) (all []string) {
	for i := range nodes {
		all = append(all, "mqtt://"+c.addrs[(first+i)%nodes])
	}
	return all
}

// list is the same for uplink.broker.
func (c *natsCluster) list(first int) (all []string) {
	for _, u := range c.urls(first) {
		all = append(all, strings.TrimPrefix(u, "mqtt://"))
	}
	return all
}
