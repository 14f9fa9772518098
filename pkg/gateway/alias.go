package gateway

var (
	errAliasRange   = refuse(refusedAlias, 0x94, "topic alias above the Topic Alias Maximum (MQTT-3.3.2-9, MQTT-3.3.2-10)")
	errAliasUnknown = refuse(refusedAlias, 0x82, "topic alias without a topic that it was never set to (MQTT 5, 3.3.2.3.4)")
	errAliasBytes   = refuse(refusedAlias, 0x97, "the topics behind the topic aliases are too long together")
)

// aliasTable resolves MQTT 5 topic aliases of one direction. Aliases end here: what goes on
// always carries the full topic. Its zero value is empty.
type aliasTable struct {
	topics [][]byte // by alias - 1
	bytes  int
}

// resolve applies a PUBLISH's alias and gives its full topic, a view that is valid until the
// next call if topic was empty. limit is the receiver's Topic Alias Maximum.
func (t *aliasTable) resolve(alias uint16, topic []byte, limit int) ([]byte, error) {
	i := int(alias) - 1
	switch {
	case alias == 0:
		return topic, nil
	case int(alias) > min(limit, maxAliases):
		return nil, errAliasRange
	case len(topic) == 0 && (i >= len(t.topics) || t.topics[i] == nil):
		return nil, errAliasUnknown
	case len(topic) == 0:
		return t.topics[i], nil
	}
	for i >= len(t.topics) {
		t.topics = append(t.topics, nil)
	}
	if t.bytes += len(topic) - len(t.topics[i]); t.bytes > aliasBytes {
		return nil, errAliasBytes
	}
	if cap(t.topics[i]) > 2*len(topic)+64 {
		t.topics[i] = nil // of a longer topic, which no longer counts
	}
	t.topics[i] = append(t.topics[i][:0], topic...)
	return topic, nil
}
