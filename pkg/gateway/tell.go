package gateway

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"sealgate/pkg/mqttparse"
)

// With Config.TellStatus a device of MQTT 5 reads in user properties what the gateway found out about a message (docs/spec/mqtt.md).
// Names that begin as these do are the gateway's then: nobody else's reach the device.
const (
	toldPrefix = "sealgate-"
	statusName = toldPrefix + "status" // "ok", or "gap" if messages before this one are missing
	gapName    = toldPrefix + "gap"    // beside "gap": how many
)

// tells reports whether messages are marked for this device.
func (d *downPath) tells() bool { return d.c.g.cfg.TellStatus && d.c.version == mqttparse.V5 }

// told gives outer with the status of a message of s before it. The result is valid until the next call.
func (d *downPath) told(s *openStream, p *mqttparse.Publish, seq uint64, outer []byte) []byte {
	b := d.marks[:0]
	if n := d.missing(s, p, seq); n > 0 {
		b = appendUserProperty(b, statusName, "gap")
		b = appendUserProperty(b, gapName, strconv.FormatUint(n, 10))
	} else {
		b = appendUserProperty(b, statusName, "ok")
	}
	d.marks = append(b, outer...)
	return d.marks
}

// unmark takes out of a message that is not sealed what only the gateway may say. It is then written anew, in full.
func (d *downPath) unmark(p *mqttparse.Publish) {
	if !d.tells() {
		return
	}
	if kept := withoutMarks(p.Properties); len(kept) < len(p.Properties) {
		p.Properties, d.named = kept, expanded
	}
}

func appendUserProperty(b []byte, name, value string) []byte {
	b = append(b, mqttparse.PropUserProperty)
	for _, s := range []string{name, value} {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	return b
}

// withoutMarks gives a valid property block without user properties that look like the gateway's: block itself if there are none.
func withoutMarks(block []byte) []byte {
	if !bytes.Contains(block, []byte(toldPrefix)) {
		return block
	}
	kept := make([]byte, 0, len(block))
	for it := mqttparse.Properties(block); it.Next(); {
		if it.ID() == mqttparse.PropUserProperty {
			if name, _ := it.Pair(); bytes.HasPrefix(name, []byte(toldPrefix)) {
				continue
			}
		}
		kept = append(kept, it.Raw()...)
	}
	return kept
}
