package gateway

import "sealgate/pkg/mqttparse"

var (
	errAliasRange   = refuse(refusedAlias, 0x94, "topic alias above the Topic Alias Maximum (MQTT-3.3.2-9, MQTT-3.3.2-10)")
	errAliasUnknown = refuse(refusedAlias, 0x82, "topic alias without a topic that it was never set to (MQTT 5, 3.3.2.3.4)")
	errAliasBytes   = refuse(refusedAlias, 0x97, "the topics behind the topic aliases are too long together")
)

// aliasTable follows the MQTT 5 topic aliases of one direction. Policy and sealing need a message's full topic;
// the numbers stay those of the sender, whose next peer knows a topic by the same number once it has been told.
// Its zero value is empty.
type aliasTable struct {
	topics [][]byte // by alias - 1
	bytes  int
	told   uint64 // bit alias - 1: whoever gets the messages next has got topics[alias-1] with its number
}

const _ = uint(64 - maxAliases) // told has a bit for each

// named says how the topic of a PUBLISH goes on.
type named uint8

const (
	inFull   named = iota // as it came: the topic, perhaps with an alias to be set to it
	byAlias               // as it came: the alias alone, which the next peer knows
	expanded              // not as it came, by an alias alone, which the next peer does not know: topic and alias
)

// resolve gives the full topic of p, a view that is valid until the next call if p had none, and
// says how p goes on. limit is the receiver's Topic Alias Maximum.
func (t *aliasTable) resolve(p *mqttparse.Publish, limit int) (topic []byte, how named, err error) {
	i := int(p.TopicAlias) - 1
	switch {
	case i < 0:
		return p.Topic, inFull, nil
	case i >= min(limit, maxAliases):
		return nil, inFull, errAliasRange
	case len(p.Topic) > 0:
		return p.Topic, inFull, t.set(i, p.Topic)
	case i >= len(t.topics) || t.topics[i] == nil:
		return nil, inFull, errAliasUnknown
	case t.told>>i&1 == 0:
		return t.topics[i], expanded, nil
	}
	return t.topics[i], byAlias, nil
}

func (t *aliasTable) set(i int, topic []byte) error {
	for i >= len(t.topics) {
		t.topics = append(t.topics, nil)
	}
	if t.bytes += len(topic) - len(t.topics[i]); t.bytes > aliasBytes {
		return errAliasBytes
	}
	if cap(t.topics[i]) > 2*len(topic)+64 {
		t.topics[i] = nil // of a longer topic, which no longer counts
	}
	t.topics[i] = append(t.topics[i][:0], topic...)
	t.told &^= 1 << i
	return nil
}

// tell notes that p goes on, with what its alias stands for.
func (t *aliasTable) tell(p *mqttparse.Publish) {
	if p.TopicAlias != 0 {
		t.told |= 1 << (p.TopicAlias - 1)
	}
}
