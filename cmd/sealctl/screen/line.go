package screen

import (
	"strconv"
	"strings"
	"time"

	"sealgate/cmd/sealctl/watch"
)

// ChangeLine writes a change in one line: its time, ALARM or OVER for alarms that begin or end, its name, and what is known of
// it as key=value.
func ChangeLine(c *watch.Change) string {
	words := []string{c.At.UTC().Format(time.RFC3339)}
	if c.Alarm {
		words = append(words, "ALARM")
	} else if c.Over {
		words = append(words, "OVER")
	}
	words = append(words, c.What)
	add := func(key, value string) {
		if value == "" {
			return
		}
		if strings.ContainsAny(value, ` "=`) || Plain(value) != value {
			value = strconv.Quote(value)
		}
		words = append(words, key+"="+value)
	}
	number := func(key string, n uint64) {
		if n > 0 {
			add(key, strconv.FormatUint(n, 10))
		}
	}
	add("group", c.Group)
	add("gateway", c.Gateway)
	add("member", c.Member)
	add("leader", c.Leader)
	add("was", c.Was)
	add("epoch", c.Epoch)
	number("version", c.Policy)
	add("topic", c.Topic)
	add("stream", c.Stream)
	if c.From != nil && c.To != nil {
		add("from", strconv.FormatUint(*c.From, 10))
		add("to", strconv.FormatUint(*c.To, 10))
	}
	number("streams", uint64(c.Streams))
	number("sealed", c.Sealed)
	number("count", c.Count)
	add("detail", c.Detail)
	return strings.Join(words, " ")
}
