package subscriber_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"sealgate/pkg/subscriber"
)

// A program that prints a plant's measurements until it is interrupted.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	client, err := subscriber.Connect(ctx, subscriber.Options{
		Identity: "/etc/plant/identity", // made by `sealctl fleet add DIR --role subscriber --name NAME`
		Broker:   "mqtts://broker.example",
		CAFile:   "/etc/plant/broker-ca.pem",
		Handler: func(m *subscriber.Message) {
			switch m.Status {
			case subscriber.StatusOK:
				fmt.Printf("%s: %s\n", m.Topic, m.Payload)
			case subscriber.StatusGap:
				log.Printf("%s: messages %d to %d are missing", m.Topic, m.From, m.To)
			default:
				log.Printf("%s: %s", m.Topic, m.Status)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := client.Subscribe(ctx, 1, "plant/#"); err != nil {
		log.Fatal(err)
	}
	<-ctx.Done()
}

// Publishing works for members that the policy lets publish.
func ExampleClient_Publish() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := subscriber.Connect(ctx, subscriber.Options{Identity: "/etc/plant/identity", Broker: "mqtts://broker.example"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := client.Publish(ctx, "plant/valve/3", []byte("open"), 1, false); err != nil {
		log.Fatal(err)
	}
}

// By MQTT 5 a message can say what it is; that travels inside it, past the broker.
func ExampleClient_Send() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := subscriber.Connect(ctx, subscriber.Options{Version: 5, Identity: "/etc/plant/identity", Broker: "mqtts://broker.example"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	err = client.Send(ctx, &subscriber.Publication{
		Topic: "plant/valve/3", Payload: []byte(`{"open": true}`), QoS: 1, Expiry: time.Minute,
		Properties: subscriber.Properties{PayloadFormat: 1, ContentType: "application/json", ResponseTopic: "plant/answers/7"},
	})
	if err != nil {
		log.Fatal(err)
	}
}
