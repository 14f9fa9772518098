package gateway

import (
	"encoding/binary"
	"slices"

	"sealgate/pkg/mqttparse"
	"sealgate/pkg/topic"
)

// wire is what the broker is to know a topic or filter of a device as. In the model's policy all that begins with s/ is hidden, or nothing is.
func (w *world) wire(name string) string {
	if w.names == nil || len(name) < 2 || name[:2] != "s/" {
		return name
	}
	return w.names.Hide(name)
}

// plain is the name that devices know a topic of the broker's by.
func (w *world) plain(wire []byte) []byte {
	at := slices.IndexFunc(modelTopics, func(name string) bool { return w.wire(name) == string(wire) })
	if at < 0 {
		return wire
	}
	return []byte(modelTopics[at])
}

// wireFilters is the packet that the broker is to get of SUBSCRIBE or UNSUBSCRIBE.
func (w *world) wireFilters(f mqttparse.Frame, v mqttparse.Version) []byte {
	body := slices.Clone(f.Body[:2])
	if v == mqttparse.V5 {
		body = append(body, 0)
	}
	for it := mqttparse.Filters(f, v); it.Next(); {
		filter := string(it.Filter())
		if _, inner, shared := topic.ShareFilter(filter); shared {
			filter = filter[:len(filter)-len(inner)] + w.wire(inner)
		} else {
			filter = w.wire(filter)
		}
		body = append(binary.BigEndian.AppendUint16(body, uint16(len(filter))), filter...)
		if f.Type() == mqttparse.SUBSCRIBE {
			body = append(body, it.Options())
		}
	}
	return append(mqttparse.AppendVarint([]byte{f.Raw[0]}, len(body)), body...)
}

// wireResponse gives the properties of a message that is not sealed as the broker is to get them.
func (w *world) wireResponse(block []byte) (out []byte) {
	for it := mqttparse.Properties(block); it.Next(); {
		if it.ID() != mqttparse.PropResponseTopic {
			out = append(out, it.Raw()...)
			continue
		}
		name := w.wire(string(it.Value()))
		out = append(binary.BigEndian.AppendUint16(append(out, mqttparse.PropResponseTopic), uint16(len(name))), name...)
	}
	return out
}
