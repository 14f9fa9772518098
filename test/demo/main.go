// Command demo shows the main job on real parts: an unmodified publisher speaks plain MQTT to a broker's own address, a
// gateway on the way seals every payload, the broker passes on what it cannot read, and a subscriber with keys prints the
// plaintext, across a rotation of the keys. Every packet on the sensor's wire and on the broker's wire is recorded from
// before the gateway is set up until after it is gone, and the exit code is 0 only if the records, the broker's view and the
// subscriber's view are all as they should be.
//
// As root it works in three network namespaces and steers with tc-BPF. Without root it does the same over loopback, where
// the gateway listens like an ordinary proxy and relays stand in for the wires.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"sealgate/test/lab"
)

func main() {
	loopback := flag.Bool("loopback", false, "do without network namespaces, as without root")
	embedded := flag.Bool("embedded", false, "do without mosquitto's programs, as where they are not installed")
	flag.Parse()
	os.Exit(lab.Standalone("demo", func(t lab.T) {
		d := &demo{t: t}
		if !*embedded {
			d.tools = findTools()
		}
		d.run(!*loopback && lab.CanNamespace())
	}))
}

// policy is short of patience so that the rotation can be watched.
const policy = `version = 1
unmatched = "deny"
[[group]]
name = "default"
topics = ["factory/#"]
activate_after = "1s"
`

// messages is what the publisher says. The keys are rotated after the first half.
var messages = []message{
	{"factory/press1/temperature", `{"celsius":21.5,"sensor":"PT100-7"}`},
	{"factory/press1/state", "running, operator J. Miller"},
	{"factory/line2/count", "pieces=1041"},
	{"factory/press1/temperature", `{"celsius":21.9,"sensor":"PT100-7"}`},
	{"factory/press1/state", "stopped: door open"},
	{"factory/line2/count", "pieces=1042"},
}

type message struct{ topic, payload string }

// demo is one run.
type demo struct {
	t       lab.T
	plant   *lab.Plant
	tools   tools
	sensor  lab.Wire // what the publisher's side of the gateway saw
	broker  lab.Wire // what the broker's side saw
	pubAddr string   // where publishers connect
}

func (d *demo) run(namespaces bool) {
	t, start := d.t, time.Now()
	headline(namespaces)
	if namespaces {
		d.routed()
	} else {
		d.loopback()
	}
	d.fleet()
	d.start()
	broker := d.tools.observe(t, d.plant)
	reader := subscribe(t, d.plant)
	step("readers", "one at the broker itself, without keys; one with keys (sealctl sub)")
	half := len(messages) / 2
	d.publish(messages[:half])
	d.rotate()
	d.publish(messages[half:])
	atBroker := broker.await(t, len(messages))
	atReader := reader.await(t, len(messages))
	d.stop()
	printTable(messages, atBroker, atReader)
	if d.judge(atBroker, atReader) {
		fmt.Printf("\nAll of it is right. It took %.0f seconds.\n", time.Since(start).Seconds())
	} else {
		t.Errorf("\nNot all of it is right: see the lines marked ✗.")
	}
}

func headline(namespaces bool) {
	fmt.Print("\nSealgate: a plain publisher's message reaches a subscriber through a broker that cannot read it\n\n")
	if namespaces {
		return
	}
	fmt.Print("  Without root: no network namespaces and no steering. The gateway listens on loopback like an ordinary\n" +
		"  proxy (mode \"listen\"), the publisher is pointed at it, and recording relays stand in for the two wires.\n" +
		"  Run it as root to see it in line.\n\n")
}

// routed lays the networks, with captures running before anything else does.
func (d *demo) routed() {
	d.plant = lab.NewPlant(d.t, lab.PlantOptions{Policy: policy, Embedded: !d.tools.broker})
	step("networks", "sensor %s ── gateway (routes) ── uplink, broker %s", lab.SensorIP4, lab.BrokerIP4)
	d.sensor = lab.NewCapture(d.t, d.plant.Topo.Sensor, "eth0")
	d.broker = lab.NewCapture(d.t, d.plant.Topo.Uplink, "eth0")
	step("recording", "every packet on the sensor's wire and on the broker's wire, from here to the end")
	d.pubAddr = d.plant.DeviceAddr()
}

// loopback puts a recording relay before and behind the gateway.
func (d *demo) loopback() {
	d.plant = lab.NewPlant(d.t, lab.PlantOptions{Policy: policy, Loopback: true, Embedded: !d.tools.broker})
	sensor := lab.NewTap(d.t, d.plant.DeviceAddr())
	broker := lab.NewTap(d.t, d.plant.BrokerAddr())
	d.plant.Conf.Set("uplink", "broker", broker.Addr)
	d.plant.WriteConf(d.t)
	d.sensor, d.broker, d.pubAddr = sensor, broker, sensor.Addr
	step("recording", "both sides of the gateway, by relays")
}

func (d *demo) fleet() {
	step("broker", "%s with TLS on %s", d.tools.brokerName(), d.plant.BrokerAddr())
	step("fleet", "a certificate authority, gateway gw1, subscriber sub1, a signed policy (sealctl fleet, sealctl policy)")
}

// start brings the gateway up, and shows on the way that the port is shut before.
func (d *demo) start() {
	d.plant.Setup(d.t)
	if d.plant.Topo != nil {
		step("guard", "gatewayd -setup: what goes to port %d is dropped until a gateway serves it", d.plant.DevicePort)
		if err := d.plant.Probe(lab.Within(d.t, time.Second/2)); err == nil {
			d.t.Fatalf("a device got through to the broker though no gateway runs")
		}
		step("shut", "a device that connects to the broker now gets no answer")
	}
	d.plant.StartControld(d.t)
	d.plant.StartGatewayd(d.t)
	d.plant.AwaitReady(d.t)
	step("daemons", "controld made the first key with the fleet's policy, gatewayd serves devices")
}

func (d *demo) publish(messages []message) {
	for _, m := range messages {
		d.tools.publish(d.t, d.plant, d.pubAddr, m)
	}
	step("publish", "%d messages with %s to %s, all acknowledged by the broker", len(messages), d.tools.publisherName(), d.pubAddr)
}

func (d *demo) rotate() {
	before := d.plant.Epoch(d.t, "default")
	d.plant.Rotate(d.t, "default")
	d.plant.AwaitEpoch(d.t, "default", before+1)
	step("rotate", "sealctl rotate: epoch %d gives way to epoch %d", before, before+1)
}

// stop ends the gateway before the records are judged, so that they show its end too.
func (d *demo) stop() {
	for _, p := range []*lab.Proc{d.plant.Gatewayd, d.plant.Controld} {
		if err := p.Stop(lab.Within(d.t, 10*time.Second)); err != nil {
			d.t.Errorf("stop %s: %v", p.Name, err)
		}
	}
	for _, w := range []lab.Wire{d.sensor, d.broker} {
		if c, ok := w.(*lab.Capture); ok {
			if err := c.Stop(); err != nil {
				d.t.Errorf("the record is incomplete: %v", err)
			}
		}
	}
}
