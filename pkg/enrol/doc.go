// Package enrol lets a new router become a member of a fleet by a one-time ticket
// (docs/spec/enrol.md). The router makes its own key pair; what travels over the broker, which nobody
// trusts, is a request that the ticket's secret authenticates and an answer that the fleet's CA
// signs, both sealed.
//
// The package does no I/O. A [Ticket] is a line of text. A [Joiner] is the router's side, a
// machine that takes messages and a time and says what to publish. A [Desk] is the operator's side; it
// asks an [Office] for the tickets and for certificates. A [Book] is the state of all
// tickets, one file of the operator's. Package sealgate/pkg/enrol/online carries both sides over MQTT.
package enrol
