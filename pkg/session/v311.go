package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// v311 is a connection that speaks MQTT 3.1.1.
type v311 struct {
	client mqtt.Client
	guard  *guard
	conn   *Conn
}

// MQTT311 makes connections of MQTT 3.1.1, which is the [Protocol] unless another is asked for.
func MQTT311(ctx context.Context, cfg *Config, raw net.Conn, c *Conn) (link, error) {
	l := &v311{conn: c, guard: &guard{Conn: raw, limit: cfg.MaxPacket}}
	l.client = mqtt.NewClient(l.options(cfg))
	token := l.client.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		raw.Close()
		<-token.Done()
	}
	if err := token.Error(); err != nil {
		if seen := l.guard.err(); seen != nil {
			err = errors.Join(seen, err)
		}
		return nil, err
	}
	return l, nil
}

func (l *v311) options(cfg *Config) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions()
	o.Servers = []*url.URL{{Scheme: "tcp", Host: l.conn.broker.Addr}}
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return l.guard, nil })
	o.SetProtocolVersion(4).SetAutoReconnect(false).SetConnectRetry(false)
	o.SetCleanSession(cfg.CleanSession).SetKeepAlive(keepAlive).SetPingTimeout(keepAlive)
	o.SetConnectTimeout(connectTimeout).SetWriteTimeout(writeTimeout)
	o.SetUsername(cfg.Username).SetPassword(cfg.Password)
	o.SetClientID(orDefault(cfg.ClientID, randomClientID()))
	o.SetOrderMatters(true).SetAutoAckDisabled(true)
	o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { l.lost(err) })
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		cfg.Message(&Message{Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(), Retain: m.Retained(), Dup: m.Duplicate(), ack: m.Ack})
	})
	return o
}

// lost prefers what the guard has seen to what the library makes of it.
func (l *v311) lost(err error) {
	if seen := l.guard.err(); seen != nil {
		err = seen
	}
	l.conn.lost(err)
}

func (l *v311) publish(_ context.Context, m *Publication) outcome {
	if m.Expiry > 0 || !m.Properties.Empty() {
		return answered(fmt.Errorf("properties need MQTT 5: %w", ErrRefused))
	}
	return l.client.Publish(m.Topic, m.QoS, m.Retain, m.Payload)
}

func (l *v311) subscribe(ctx context.Context, filter string, qos byte) error {
	token := l.client.Subscribe(filter, qos, nil)
	if err := (&Delivery{token: token, conn: l.conn}).Wait(ctx); err != nil {
		return err
	}
	if t, ok := token.(*mqtt.SubscribeToken); ok {
		for _, code := range t.Result() {
			if code > 2 {
				return fmt.Errorf("%w; allow this user to read it in the broker's access list", ErrRefused)
			}
		}
	}
	return nil
}

func (l *v311) unsubscribe(ctx context.Context, filter string) error {
	return (&Delivery{token: l.client.Unsubscribe(filter), conn: l.conn}).Wait(ctx)
}

func (l *v311) goodbye() { l.client.Disconnect(250) }

func (l *v311) drop(err error) {
	l.guard.Close()
	l.conn.lost(err)
	go l.client.Disconnect(0) // paho does not notice a close from this side
}
