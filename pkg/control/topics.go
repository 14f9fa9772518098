package control

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"sealgate/pkg/policy"
	"sealgate/pkg/topic"
)

// The control topics, all below the prefix (spec 2).
const (
	controlLevel    = "/control"
	inboxLevel      = "/inbox/"
	keysLevel       = "/keys/"
	policyLevel     = "/policy"
	checkpointLevel = "/checkpoint/"
)

// ControlTopic is where all members publish Hellos and keepers listen.
func ControlTopic(prefix string) string { return prefix + controlLevel }

// PolicyTopic carries the fleet policy, retained.
func PolicyTopic(prefix string) string { return prefix + policyLevel }

// KeysTopic carries a group's Epoch message, retained.
func KeysTopic(prefix, group string) string { return prefix + keysLevel + group }

// InboxTopic is where one session of one member receives Grants and Confirms.
func InboxTopic(prefix string, inbox [16]byte) string {
	return prefix + inboxLevel + hex.EncodeToString(inbox[:])
}

// groupOfKeysTopic is the inverse of KeysTopic.
func groupOfKeysTopic(prefix, name string) (string, bool) {
	g, ok := strings.CutPrefix(name, prefix+keysLevel)
	return g, ok && policy.ValidName(g)
}

// checkPrefix refuses a prefix under which the control topics would not be valid MQTT topic names.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return errors.New("control: the topic prefix is empty; \"sealgate\" is the usual one")
	}
	if strings.HasPrefix(prefix, "$") {
		return fmt.Errorf("control: the topic prefix %q starts with $, which is the broker's own: choose another", prefix)
	}
	if err := topic.ValidateName([]byte(prefix)); err != nil {
		return fmt.Errorf("control: the topic prefix %q: %w", prefix, err)
	}
	return nil
}
