package crypto

import (
	"bytes"
	"sealgate/test/spec"
	"strings"
	"testing"
)

// topicVector is a topic key made of a topic secret, and a topic hidden under it.
type topicVector struct {
	Comment string `json:"comment"`
	Spec    string `json:"spec"`
	Secret  octets `json:"secret,omitempty"`
	Fleet   string `json:"fleet,omitempty"`
	Number  uint64 `json:"number,omitempty"`
	Key     octets `json:"key"`
	Topic   string `json:"topic"`
	Hidden  string `json:"hidden"`
}

func topicVectors(t *testing.T) map[string]any {
	all := make(map[string]any)
	for name, c := range map[string]struct{ topic, comment string }{
		"name":         {"plant/hall3/press7/temperature", "a topic name"},
		"equal-levels": {"a/b/a", "equal levels have equal tokens"},
		"empty-levels": {"/a//", "empty levels have a token as well"},
		"utf8":         {"werk/größe/温度", "beyond ASCII"},
		"plus":         {"plant/+/temperature", "a filter with +"},
		"hash":         {"plant/hall3/#", "a filter with #"},
		"wildcards":    {"+/#", "a filter of wildcards stays"},
		"dollar":       {"$SYS/broker/uptime", "the broker's own topics stay"},
		"dollar-later": {"a/$SYS", "a $ that is not the first character is nothing special"},
		"long-level":   {strings.Repeat("x", 300), "a long level"},
		"like-token":   {"~AAAAAAAAAAAAAAAA", "a name that looks hidden is hidden like others"},
	} {
		v := topicVector{Comment: c.comment, Spec: "17.2", Key: seq32(0), Topic: c.topic}
		v.Hidden = must(TopicKeyFrom(v.Key))(t).Hide(v.Topic)
		all[name] = v
	}
	for name, number := range map[string]uint64{"key-1": 1, "key-2": 2, "key-48": 1<<48 - 1} {
		v := topicVector{Comment: "a key of a number, for one fleet", Spec: "17.1", Secret: seq32(0x20), Fleet: "plant", Number: number, Topic: "a"}
		k := must(must(TopicSecretFrom(v.Secret))(t).Key(v.Fleet, number))(t)
		v.Key, v.Hidden = k.Bytes(), k.Hide("a")
		all[name] = v
	}
	return all
}

func TestVectorsTopic(t *testing.T) {
	spec.Each(t, vectorDir("topic"), func(t *testing.T, v *topicVector) {
		k := must(TopicKeyFrom(v.Key))(t)
		if v.Secret != nil {
			k = must(must(TopicSecretFrom(v.Secret))(t).Key(v.Fleet, v.Number))(t)
		}
		if !bytes.Equal(k.Bytes(), v.Key) || k.Hide(v.Topic) != v.Hidden {
			t.Errorf("key %x, hidden %q", k.Bytes(), k.Hide(v.Topic))
		}
	})
}
