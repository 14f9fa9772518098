package interop

import (
	"errors"
	"fmt"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// paho3 is the client with paho.mqtt.golang, MQTT 3.1.1.
type paho3 struct {
	tell    func(event)
	mu      sync.Mutex
	clients map[string]mqtt.Client
}

func (p *paho3) do(c command) (event, error) {
	if c.Do == "connect" {
		return p.connect(c)
	}
	p.mu.Lock()
	client := p.clients[c.Client]
	p.mu.Unlock()
	switch c.Do {
	case "subscribe":
		return subscribe3(client, c)
	case "unsubscribe":
		var names []string
		for _, f := range c.Filters {
			names = append(names, f.Filter)
		}
		return event{}, wait3(client.Unsubscribe(names...))
	case "publish":
		m := c.Message
		return event{}, wait3(client.Publish(m.Topic, byte(m.QoS), m.Retain, m.Payload))
	case "disconnect":
		client.Disconnect(250)
		return event{}, nil
	}
	return event{}, fmt.Errorf("cannot %s", c.Do)
}

func (p *paho3) connect(c command) (event, error) {
	o := mqtt.NewClientOptions().AddBroker(fmt.Sprintf("tcp://%s:%d", c.Host, c.Port)).SetClientID(c.ID).SetProtocolVersion(4)
	o.SetCleanSession(c.Clean).SetKeepAlive(time.Duration(c.Alive) * time.Second).SetConnectTimeout(20 * time.Second)
	o.SetAutoReconnect(false).SetOrderMatters(true).SetUsername(c.User).SetPassword(c.Pass)
	if w := c.Will; w != nil {
		o.SetBinaryWill(w.Topic, w.Payload, byte(w.QoS), w.Retain)
	}
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		p.tell(event{Ev: "message", Client: c.Client, Message: &message{Topic: m.Topic(), Payload: m.Payload(), QoS: int(m.Qos()), Retain: m.Retained()}})
	})
	o.SetConnectionLostHandler(func(mqtt.Client, error) { p.tell(event{Ev: "lost", Client: c.Client}) })
	client := mqtt.NewClient(o)
	p.mu.Lock()
	p.clients[c.Client] = client
	p.mu.Unlock()
	token := client.Connect().(*mqtt.ConnectToken)
	err := wait3(token)
	reply := event{Code: int(token.ReturnCode()), Present: token.SessionPresent()}
	if reply.Code > 0 && reply.Code < packets.ErrNetworkError {
		err = packets.ConnErrors[token.ReturnCode()]
	}
	return reply, err
}

func subscribe3(client mqtt.Client, c command) (event, error) {
	filters := map[string]byte{}
	for _, f := range c.Filters {
		filters[f.Filter] = byte(f.QoS)
	}
	token := client.SubscribeMultiple(filters, nil).(*mqtt.SubscribeToken)
	err := wait3(token)
	var reply event
	for _, f := range c.Filters {
		if code, ok := token.Result()[f.Filter]; ok {
			reply.Codes = append(reply.Codes, int(code))
		}
	}
	return reply, err
}

func wait3(token mqtt.Token) error {
	if !token.WaitTimeout(patience) {
		return errors.New("no answer")
	}
	return token.Error()
}
