package gateway

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
	"sealgate/pkg/topic"
)

// SUBSCRIBE and UNSUBSCRIBE where topics are hidden (envelope.md 17.5): a filter reaches the broker with tokens, as it is, both ways or,
// where this gateway will never know the topic key, not at all. The device is answered for its own filters, one code each.

// What may wait for the broker's answer on one connection. A packet alone may have any number of filters.
const (
	maxExpanded = 64
	maxShares   = 4096
)

// expansions are the packets of a connection that the broker answers with another number of codes than the device expects.
type expansions struct {
	mu sync.Mutex // guards what follows
	m  map[uint16][]share
	n  int // shares in m
}

// share is what has become of one of the device's filters.
type share struct {
	sent byte // filters that the broker got for it
	code byte // if none: what the device is told
}

func (x *expansions) add(id uint16, shares []share) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.n -= len(x.m[id])
	delete(x.m, id)
	if len(x.m) >= maxExpanded || len(x.m) > 0 && x.n+len(shares) > maxShares {
		return refuse(refusedMemory, quotaExceeded, "too many subscriptions wait for the broker's answer")
	}
	if x.m == nil {
		x.m = make(map[uint16][]share)
	}
	x.m[id] = shares
	x.n += len(shares)
	return nil
}

func (x *expansions) take(id uint16) []share {
	x.mu.Lock()
	defer x.mu.Unlock()
	shares := x.m[id]
	delete(x.m, id)
	x.n -= len(shares)
	return shares
}

// passFilters passes SUBSCRIBE or UNSUBSCRIBE, with the filters that the broker is to get.
func (u *upPath) passFilters(f mqttparse.Frame) error {
	if err := u.refresh(); err != nil {
		return err
	}
	if !u.state.Table.Hides() {
		return u.pass(f.Raw)
	}
	packet, shares, err := u.translate(f)
	if err != nil {
		return err
	}
	id, even, none := binary.BigEndian.Uint16(f.Body), true, true
	for _, s := range shares {
		even, none = even && s.sent == 1, none && s.sent == 0
	}
	switch {
	case none && len(shares) > 0:
		return u.answerFilters(f.Type(), id, shares)
	case len(packet) > len(f.Raw) && u.overBroker(len(packet)):
		return refuse(refusedTooLarge, packetTooLarge, "hidden topic filters make a packet longer than the broker's Maximum Packet Size")
	case !even:
		if err := u.c.expanded.add(id, shares); err != nil {
			return err
		}
	}
	return u.pass(packet)
}

// translate makes the packet for the broker, and tells what has become of each filter.
func (u *upPath) translate(f mqttparse.Frame) (packet []byte, shares []share, err error) {
	var list []byte
	rest := 0 // bytes of the device's list
	for it := mqttparse.Filters(f, u.c.version); it.Next(); {
		wires, code, err := u.wireFilters(string(it.Filter()))
		if err != nil {
			return nil, nil, err
		}
		rest += 2 + len(it.Filter())
		for _, w := range wires {
			list = append(binary.BigEndian.AppendUint16(list, uint16(len(w))), w...)
			if f.Type() == mqttparse.SUBSCRIBE {
				list = append(list, it.Options())
			}
		}
		shares = append(shares, share{byte(len(wires)), code})
	}
	if f.Type() == mqttparse.SUBSCRIBE {
		rest += len(shares)
	}
	head := f.Body[:len(f.Body)-rest] // packet identifier and properties
	packet = mqttparse.AppendVarint([]byte{f.Raw[0]}, len(head)+len(list))
	return append(append(packet, head...), list...), shares, nil
}

// wireFilters gives the filters that one of the device's reaches the broker as: none, one or two. If none, code says why.
func (u *upPath) wireFilters(filter string) (wires []string, code byte, err error) {
	if _, inner, _ := topic.ShareFilter(filter); underPrefix([]byte(inner), u.c.g.cfg.ControlPrefix) {
		return []string{filter}, 0, nil
	}
	wires, missing := u.state.Table.Wires(u.state.Keys.TopicKey(), filter)
	if missing {
		key, err := u.topicKey()
		if err != nil {
			return nil, 0, err
		}
		if wires, missing = u.state.Table.Wires(key, filter); missing {
			return wires, notAuthorized, nil
		}
	}
	if last := len(wires) - 1; last >= 0 && len(wires[last]) > crypto.MaxTopic { // the hidden one
		return wires[:last], filterInvalid, nil
	}
	return wires, 0, nil
}

// topicKey gives the topic key, and waits for one where there is none yet: nil if there will be none, because this gateway takes part in no
// group that hides its topics.
func (u *upPath) topicKey() (*crypto.TopicKey, error) {
	var deadline <-chan time.Time
	for {
		if k := u.state.Keys.TopicKey(); k != nil || !u.c.g.takesPart(u.state) {
			return k, nil
		}
		if deadline == nil {
			timer := time.NewTimer(keyWait)
			defer timer.Stop()
			deadline = timer.C
			if err := u.flush(); err != nil {
				return nil, err
			}
		}
		select {
		case <-u.box.replaced:
			if err := u.refresh(); err != nil {
				return nil, err
			}
		case <-deadline:
			return nil, refuse(refusedNoKey, serverBusy, "no topic key came in time to hide a topic filter under")
		case <-u.c.g.ctx.Done():
			return nil, errStopped
		}
	}
}

// takesPart reports whether this gateway may read or publish in a group that hides its topics.
func (g *Gateway) takesPart(s *State) bool {
	if s.Policy == nil {
		return true
	}
	return s.Policy.TakesPart(crypto.Member{Role: crypto.RoleGateway, Name: g.cfg.Gateway}, s.Table.Hiding())
}

// answerFilters answers a packet of which nothing is left for the broker.
func (u *upPath) answerFilters(t mqttparse.Type, id uint16, shares []share) error {
	if !u.c.greeted() { // nothing may come before CONNACK (MQTT-3.2.0-1)
		if err := u.waitConnAck(); err != nil {
			return err
		}
	}
	t++ // SUBACK, UNSUBACK
	body := binary.BigEndian.AppendUint16(nil, id)
	if u.c.version == mqttparse.V5 {
		body = append(body, 0) // no properties
	}
	answer := mqttparse.AppendVarint([]byte{byte(t) << 4}, len(body)+codesLen(t, u.c.version, shares))
	answer = append(answer, body...)
	answer = appendCodes(answer, t, u.c.version, shares, nil)
	if !u.reply.fits(len(answer)) {
		if err := u.flush(); err != nil {
			return err
		}
	}
	u.reply.room(len(answer))
	u.reply.b = append(u.reply.b, answer...)
	if t == mqttparse.SUBACK {
		u.c.granted(frameOf(answer))
	}
	return nil
}

// passCodes passes SUBACK or UNSUBACK with one code for each filter that the device gave.
func (d *downPath) passCodes(f mqttparse.Frame) error {
	if len(f.Body) >= 2 {
		if shares := d.c.expanded.take(binary.BigEndian.Uint16(f.Body)); shares != nil {
			var err error
			if f, err = joinAnswer(f, d.c.version, shares); err != nil {
				return err
			}
		}
	}
	if f.Type() == mqttparse.SUBACK {
		d.c.granted(f)
	}
	return d.pass(f)
}

// joinAnswer makes the device's answer of the broker's.
func joinAnswer(f mqttparse.Frame, v mqttparse.Version, shares []share) (mqttparse.Frame, error) {
	if _, _, err := mqttparse.ParseAck(f, v); err != nil {
		return f, brokerBroke(err)
	}
	_, codes, err := mqttparse.ParseSubAck(f, v) // UNSUBACK is laid out alike
	if err != nil {
		return f, brokerBroke(err)
	}
	t, sent := f.Type(), 0
	for _, s := range shares {
		sent += int(s.sent)
	}
	n := codesLen(t, v, shares)
	if n > 0 && len(codes) != sent {
		return f, refuse(refusedBroker, 0, fmt.Sprintf("the broker's %v has %d codes for %d topic filters (MQTT-3.8.4-5, MQTT-3.11.3-1)", t, len(codes), sent))
	}
	head := f.Body[:len(f.Body)-len(codes)]
	packet := mqttparse.AppendVarint([]byte{f.Raw[0]}, len(head)+n)
	return frameOf(appendCodes(append(packet, head...), t, v, shares, codes)), nil
}

func codesLen(t mqttparse.Type, v mqttparse.Version, shares []share) int {
	if t == mqttparse.UNSUBACK && v != mqttparse.V5 {
		return 0
	}
	return len(shares)
}

// appendCodes appends one code for each of the device's filters, made of the broker's for what it got of them.
func appendCodes(b []byte, t mqttparse.Type, v mqttparse.Version, shares []share, codes []byte) []byte {
	if codesLen(t, v, shares) == 0 {
		return b
	}
	for _, s := range shares {
		switch {
		case s.sent > 0:
			b = append(b, joinCodes(t, codes[:s.sent]))
			codes = codes[s.sent:]
		case t == mqttparse.UNSUBACK:
			b = append(b, noSubscription)
		case v != mqttparse.V5:
			b = append(b, 0x80)
		default:
			b = append(b, s.code)
		}
	}
	return b
}

// joinCodes makes one code of several: of SUBSCRIBE a refusal, or else the lower QoS; of UNSUBSCRIBE a success, if there is one.
func joinCodes(t mqttparse.Type, codes []byte) byte {
	code := codes[0]
	for _, c := range codes[1:] {
		switch {
		case t == mqttparse.UNSUBACK:
			code = min(code, c)
		case code >= 0x80:
		case c >= 0x80:
			code = c
		default:
			code = min(code, c)
		}
	}
	return code
}
