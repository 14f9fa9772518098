package mqttparse_test

import (
	"fmt"

	"sealgate/pkg/mqttparse"
)

// A reader appends what arrives to its buffer, takes packets off the front until there is no
// whole one left, and keeps the rest.
func ExampleScanner() {
	arriving := [][]byte{
		[]byte("\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev\x30\x0a\x00\x04room21"),
		[]byte(".5\xc0\x00\x36\x00"),
	}
	var s mqttparse.Scanner
	s.Init(mqttparse.FromClient, 256<<10)
	var buf []byte
	for _, read := range arriving {
		buf = append(buf, read...)
		for {
			f, n, err := s.Next(buf)
			if err != nil {
				fmt.Println(err)
				return
			}
			if n == 0 {
				fmt.Println("at least", s.Need(), "bytes more")
				break
			}
			fmt.Println(f.Type(), len(f.Raw))
			if f.Type() == mqttparse.PUBLISH {
				var p mqttparse.Publish
				if err := mqttparse.ParsePublish(f, s.Version(), &p); err != nil {
					fmt.Println(err)
					return
				}
				fmt.Printf("%s: %s\n", p.Topic, p.Payload)
			}
			buf = buf[n:]
		}
	}
	// Output:
	// CONNECT 17
	// at least 2 bytes more
	// PUBLISH 12
	// room: 21.5
	// PINGREQ 2
	// MQTT: PUBLISH has QoS 3 [MQTT-3.3.1-4]
}
