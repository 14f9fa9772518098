package interop

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"

	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
)

// paho5 is the client with paho.golang, MQTT 5.
type paho5 struct {
	tell     func(event)
	mu       sync.Mutex
	clients  map[string]*paho.Client
	sessions map[string]*state.State // by connection: a session that was taken over is not shared
}

func (p *paho5) do(c command) (event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if c.Do == "connect" {
		return p.connect(ctx, c)
	}
	p.mu.Lock()
	client := p.clients[c.Client]
	p.mu.Unlock()
	switch c.Do {
	case "subscribe":
		return subscribe5(ctx, client, c)
	case "unsubscribe":
		u := &paho.Unsubscribe{}
		for _, f := range c.Filters {
			u.Topics = append(u.Topics, f.Filter)
		}
		ack, err := client.Unsubscribe(ctx, u)
		if ack == nil {
			return event{}, err
		}
		return event{Codes: ints(ack.Reasons)}, err
	case "publish":
		ack, err := client.Publish(ctx, publish5(c.Message))
		if ack == nil {
			return event{}, err
		}
		return event{Code: int(ack.ReasonCode)}, err
	case "disconnect":
		return event{}, client.Disconnect(&paho.Disconnect{ReasonCode: byte(c.Reason)})
	}
	return event{}, fmt.Errorf("cannot %s", c.Do)
}

func (p *paho5) connect(ctx context.Context, c command) (event, error) {
	conn, err := net.Dial("tcp", net.JoinHostPort(c.Host, strconv.Itoa(c.Port)))
	if err != nil {
		return event{}, err
	}
	p.mu.Lock()
	if p.sessions[c.Client] == nil {
		p.sessions[c.Client] = state.NewInMemory()
	}
	session := p.sessions[c.Client]
	p.mu.Unlock()
	aliases := map[uint16]string{} // the library leaves them to the application
	client := paho.NewClient(paho.ClientConfig{
		ClientID: c.ID, Conn: conn, Session: session, PacketTimeout: patience,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			if alias := r.Packet.Properties.TopicAlias; alias != nil && r.Packet.Topic == "" {
				r.Packet.Topic = aliases[*alias]
			} else if alias != nil {
				aliases[*alias] = r.Packet.Topic
			}
			p.tell(event{Ev: "message", Client: c.Client, Message: received5(r.Packet)})
			return true, nil
		}},
		OnServerDisconnect: func(d *paho.Disconnect) { p.tell(event{Ev: "lost", Client: c.Client, Code: int(d.ReasonCode)}) },
		OnClientError:      func(error) { p.tell(event{Ev: "lost", Client: c.Client}) },
	})
	p.mu.Lock()
	p.clients[c.Client] = client
	p.mu.Unlock()
	ack, err := client.Connect(ctx, connect5(c))
	if ack == nil {
		return event{}, err
	}
	return event{Code: int(ack.ReasonCode), Present: ack.SessionPresent, Props: connAck5(ack.Properties)}, err
}

func connect5(c command) *paho.Connect {
	cp := &paho.Connect{ClientID: c.ID, CleanStart: c.Clean, KeepAlive: uint16(c.Alive), Properties: &paho.ConnectProperties{RequestProblemInfo: true}}
	if c.User != "" {
		cp.UsernameFlag, cp.PasswordFlag, cp.Username, cp.Password = true, true, c.User, []byte(c.Pass)
	}
	if o := c.Options; o != nil {
		cp.Properties.SessionExpiryInterval = present(uint32(o.Expiry))
		cp.Properties.TopicAliasMaximum = present(uint16(o.AliasMax))
		cp.Properties.ReceiveMaximum = present(uint16(o.Receive))
	}
	if w := c.Will; w != nil {
		cp.WillMessage = &paho.WillMessage{Topic: w.Topic, Payload: w.Payload, QoS: byte(w.QoS), Retain: w.Retain}
		p := sent5(w.Props)
		cp.WillProperties = &paho.WillProperties{PayloadFormat: p.PayloadFormat, MessageExpiry: p.MessageExpiry, ContentType: p.ContentType,
			ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData, User: p.User}
		if w.Props != nil {
			cp.WillProperties.WillDelayInterval = present(uint32(w.Props.Delay))
		}
	}
	return cp
}

func connAck5(p *paho.ConnackProperties) map[string]any {
	if p == nil {
		return nil
	}
	all := map[string]any{"retain": p.RetainAvailable, "wildcard": p.WildcardSubAvailable, "subid": p.SubIDAvailable, "shared": p.SharedSubAvailable}
	set(all, "expiry", p.SessionExpiryInterval)
	set(all, "max_packet", p.MaximumPacketSize)
	set(all, "receive", p.ReceiveMaximum)
	set(all, "alias_max", p.TopicAliasMaximum)
	set(all, "alive", p.ServerKeepAlive)
	set(all, "qos", p.MaximumQoS)
	return all
}

func set[N any](m map[string]any, name string, v *N) {
	if v != nil {
		m[name] = *v
	}
}

func present[N uint16 | uint32](v N) *N {
	if v == 0 {
		return nil
	}
	return &v
}

func subscribe5(ctx context.Context, client *paho.Client, c command) (event, error) {
	s := &paho.Subscribe{}
	if c.SubID != 0 {
		s.Properties = &paho.SubscribeProperties{SubscriptionIdentifier: &c.SubID}
	}
	for _, f := range c.Filters {
		s.Subscriptions = append(s.Subscriptions, paho.SubscribeOptions{Topic: f.Filter, QoS: byte(f.QoS), NoLocal: f.NoLocal,
			RetainAsPublished: f.AsIs, RetainHandling: byte(f.Handling)})
	}
	ack, err := client.Subscribe(ctx, s)
	if ack == nil {
		return event{}, err
	}
	return event{Codes: ints(ack.Reasons)}, err
}

func publish5(m *message) *paho.Publish {
	return &paho.Publish{Topic: m.Topic, Payload: m.Payload, QoS: byte(m.QoS), Retain: m.Retain, Properties: sent5(m.Props)}
}

func sent5(p *messageProps) *paho.PublishProperties {
	out := &paho.PublishProperties{}
	if p == nil {
		return out
	}
	if p.Format != nil {
		format := byte(*p.Format)
		out.PayloadFormat = &format
	}
	out.ContentType, out.ResponseTopic, out.CorrelationData = p.ContentType, p.Response, p.Correlation
	out.MessageExpiry, out.TopicAlias = present(uint32(p.Expiry)), present(uint16(p.Alias))
	for _, pair := range p.User {
		out.User.Add(pair[0], pair[1])
	}
	return out
}

func received5(m *paho.Publish) *message {
	out := &message{Topic: m.Topic, Payload: m.Payload, QoS: int(m.QoS), Retain: m.Retain}
	p := m.Properties
	if p == nil {
		return out
	}
	q := &messageProps{ContentType: p.ContentType, Response: p.ResponseTopic, Correlation: p.CorrelationData}
	if p.PayloadFormat != nil {
		format := int(*p.PayloadFormat)
		q.Format = &format
	}
	if p.MessageExpiry != nil {
		q.Expiry = int(*p.MessageExpiry)
	}
	if p.SubscriptionIdentifier != nil {
		q.SubIDs = []int{*p.SubscriptionIdentifier} // the library keeps the last one only
	}
	for _, u := range p.User {
		q.User = append(q.User, [2]string{u.Key, u.Value})
	}
	out.Props = q
	return out
}

func ints(b []byte) (out []int) {
	for _, v := range b {
		out = append(out, int(v))
	}
	return out
}
