package main

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"sealgate/pkg/crypto"
	"sealgate/test/lab"
)

// step prints one line of progress.
func step(what, format string, args ...any) {
	fmt.Printf("  ✓ %-10s %s\n", what, fmt.Sprintf(format, args...))
}

// check prints one line of judgement.
func check(ok bool, format string, args ...any) bool {
	mark := "✓"
	if !ok {
		mark = "✗"
	}
	fmt.Printf("  %s %s\n", mark, fmt.Sprintf(format, args...))
	return ok
}

const column = 38

// printTable shows each message as the sensor's wire, the broker and the subscriber saw it.
func printTable(sent, atBroker []message, atReader []opened) {
	rule := strings.Repeat("─", column)
	fmt.Printf("\n  %s  %s  %s\n", pad("on the sensor's wire"), pad("at the broker"), pad("at the subscriber"))
	fmt.Printf("  %s  %s  %s\n", rule, rule, rule)
	for i, m := range sent {
		broker, reader := "nothing", "nothing"
		detail := ""
		if i < len(atBroker) {
			broker, detail = head([]byte(atBroker[i].payload)), describe([]byte(atBroker[i].payload))
		}
		note := ""
		if i < len(atReader) {
			reader = atReader[i].Payload
			note = fmt.Sprintf("%s, number %d", atReader[i].Status, atReader[i].Seq)
			if atReader[i].Gateway != "" {
				note += ", sealed by " + atReader[i].Gateway
			}
		}
		fmt.Printf("  %s\n", m.topic)
		fmt.Printf("  %s  %s  %s\n", pad(m.payload), pad(broker), pad(reader))
		fmt.Printf("  %s  %s  %s\n", pad(fmt.Sprintf("%d bytes in clear", len(m.payload))), pad(detail), pad(note))
	}
	fmt.Println()
}

// pad cuts or fills text to a column.
func pad(s string) string {
	n := utf8.RuneCountInString(s)
	if n > column {
		return string([]rune(s)[:column-1]) + "…"
	}
	return s + strings.Repeat(" ", column-n)
}

// head is the first bytes of an envelope's ciphertext, in hexadecimal.
func head(b []byte) string {
	e, err := crypto.ParseEnvelope(b)
	if err != nil {
		return string(b)
	}
	return fmt.Sprintf("% x…", e.Ciphertext[:min(12, len(e.Ciphertext))])
}

func describe(b []byte) string {
	e, err := crypto.ParseEnvelope(b)
	if err != nil {
		return "not sealed: " + err.Error()
	}
	id := e.Kid.KeyID()
	return fmt.Sprintf("%d bytes sealed with key %x", len(b), id[:])
}

// judge checks everything that the demo claims.
func (d *demo) judge(atBroker []message, atReader []opened) bool {
	ok := true
	pieces, n := d.broker.Frames()
	sensorClear, brokerClear := count(d.sensor), count(d.broker)
	ok = check(sensorClear == len(messages), "the sensor's wire carried %d of %d payloads in clear", sensorClear, len(messages)) && ok
	ok = check(n > 0 && brokerClear == 0, "the broker's wire carried %d of them in clear, in %d recorded packets of %d bytes", brokerClear, pieces, n) && ok
	sealed, keys := 0, map[crypto.KeyID]bool{}
	for _, m := range atBroker {
		if e, err := crypto.ParseEnvelope([]byte(m.payload)); err == nil {
			sealed++
			keys[e.Kid.KeyID()] = true
		}
	}
	ok = check(len(atBroker) == len(messages) && sealed == len(messages), "the broker passed on %d messages, %d of them sealed", len(atBroker), sealed) && ok
	ok = check(len(keys) == 2, "they are sealed with %d keys: one from before and one from after the rotation", len(keys)) && ok
	right := 0
	for i, o := range atReader {
		if i < len(messages) && o.Status == "ok" && o.Topic == messages[i].topic && o.Payload == messages[i].payload {
			right++
		}
	}
	return check(len(atReader) == len(messages) && right == len(messages), "the subscriber printed %d of %d payloads right, and nothing else", right, len(messages)) && ok
}

// count is how many payloads a wire shows.
func count(w lab.Wire) int {
	n := 0
	for _, m := range messages {
		if w.Contains([]byte(m.payload)) {
			n++
		}
	}
	return n
}
