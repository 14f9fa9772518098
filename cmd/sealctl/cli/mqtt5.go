package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"sealgate/pkg/subscriber"
)

// mqtt5Flags are the flags about versions of MQTT and their properties, as mosquitto_pub and mosquitto_sub have them.
type mqtt5Flags struct {
	version    string
	expiry     string
	properties []property
}

// property is one -D COMMAND NAME VALUE; a user property has two values.
type property struct{ command, name, value, second string }

func (f *mqtt5Flags) register(o *options, commands string) {
	o.text(&f.version, "V protocol-version", "311", "5|311", "version of MQTT for messages (default 311)")
	o.text(&f.expiry, "x session-expiry-interval", "", "SECONDS", "with -V 5 and --client-id: how long the broker keeps the session (default: for ever)")
	o.properties(&f.properties, "D property", "COMMAND NAME VALUE", "with -V 5: a property of MQTT 5; commands: "+commands+" (docs/SUBSCRIBER.md)")
}

// check reads the version and refuses what it cannot carry.
func (f *mqtt5Flags) check(o *options) (version byte, err error) {
	switch f.version {
	case "5", "mqttv5":
		version = 5
	case "311", "mqttv311":
		version = 4
	default:
		return 0, usagef("-V %s: want 5 or 311", f.version)
	}
	if version != 5 && (len(f.properties) > 0 || o.given("x", "session-expiry-interval")) {
		return 0, usagef("-D and -x need MQTT 5: -V 5")
	}
	return version, nil
}

// connection applies the version, -x and the properties of command connect, and returns the others.
func (f *mqtt5Flags) connection(o *options) (change func(*subscriber.Options), rest []property, err error) {
	version, err := f.check(o)
	if err != nil {
		return nil, nil, err
	}
	var expiry, receive uint64
	all := f.properties
	if f.expiry != "" {
		all = append(all, property{command: "connect", name: "session-expiry-interval", value: f.expiry})
	}
	for _, p := range all {
		switch {
		case p.command != "connect":
			rest = append(rest, p)
			continue
		case p.name == "session-expiry-interval":
			expiry, err = p.number(1, math.MaxUint32)
		case p.name == "receive-maximum":
			receive, err = p.number(1, math.MaxUint16)
		default:
			err = usagef("-D connect %s: want session-expiry-interval or receive-maximum", p.name)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if expiry != 0 && !o.given("client-id") {
		return nil, nil, usagef("a session expiry interval needs --client-id ID, under which the broker keeps the session")
	}
	return func(opts *subscriber.Options) {
		opts.Version, opts.ReceiveMaximum = version, uint16(receive)
		opts.SessionExpiry = time.Duration(expiry) * time.Second
	}, rest, nil
}

// number reads a value from least to most.
func (p property) number(least, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(p.value, 10, 64)
	if err != nil || n < least || n > most {
		return 0, usagef("-D %s %s %q: want a number from %d to %d", p.command, p.name, p.value, least, most)
	}
	return n, nil
}

// publication puts the properties of command publish into a message.
func publication(m *subscriber.Publication, list []property) error {
	for _, p := range list {
		if p.command != "publish" {
			return usagef("-D %s: want connect or publish", p.command)
		}
		var n uint64
		var err error
		switch p.name {
		case "payload-format-indicator":
			n, err = p.number(0, 1)
			m.Properties.PayloadFormat = byte(n)
		case "message-expiry-interval":
			n, err = p.number(1, math.MaxUint32)
			m.Expiry = time.Duration(n) * time.Second
		case "content-type":
			m.Properties.ContentType = p.value
		case "response-topic":
			m.Properties.ResponseTopic = p.value
		case "correlation-data":
			m.Properties.CorrelationData = []byte(p.value)
		case "user-property":
			m.Properties.User = append(m.Properties.User, subscriber.UserProperty{Name: p.value, Value: p.second})
		default:
			err = usagef("-D publish %s: want payload-format-indicator, content-type, response-topic, correlation-data, user-property or message-expiry-interval", p.name)
		}
		if err != nil {
			return err
		}
	}
	if _, err := m.Properties.AppendTo(nil); err != nil {
		return usagef("-D publish: %v", err)
	}
	return nil
}

// take reads what follows -D COMMAND: a name and a value, of a user property two.
func (p *property) take(args []string) (rest []string, err error) {
	want := 2
	if len(args) > 0 && args[0] == "user-property" {
		want = 3
	}
	if len(args) < want {
		return nil, usagef("-D %s: want COMMAND NAME VALUE, or COMMAND user-property NAME VALUE", strings.Join(append([]string{p.command}, args...), " "))
	}
	p.name, p.value = args[0], args[1]
	if want == 3 {
		p.second = args[2]
	}
	return args[want:], nil
}

// properties adds a flag of three or four arguments.
func (o *options) properties(p *[]property, names, value, usage string) {
	for _, n := range o.show(names, value, usage) {
		o.fs.Func(n, usage, func(command string) error {
			if o.open != nil {
				return fmt.Errorf("-%s: COMMAND NAME VALUE is cut short", n)
			}
			*p = append(*p, property{command: command})
			o.open = &(*p)[len(*p)-1]
			return nil
		})
	}
}
