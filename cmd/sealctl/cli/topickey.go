package cli

import (
	"crypto/rand"
	"path/filepath"
	"slices"

	"sealgate/cmd/internal/cmdenv"
	"sealgate/pkg/crypto"
	"sealgate/pkg/member"
	"sealgate/pkg/policy"
)

// The fleet's topic secret (docs/spec/envelope.md 17.1) lies in topic.key, in the fleet's directory and in those of keepers of groups that hide
// their topics.

// needTopicSecret draws the secret when a policy needs it for the first time.
func (f *fleetDir) needTopicSecret(doc *policy.Document) error {
	if doc.TopicKey == 0 {
		return nil
	}
	s, err := member.LoadTopicSecret(f.dir)
	if err != nil || s != nil {
		return err
	}
	if s, err = crypto.NewTopicSecret(rand.Reader); err != nil {
		return err
	}
	return member.WriteTopicSecret(f.path(member.TopicFile), s)
}

// handTopicSecret puts the secret into a keeper's directory.
func (f *fleetDir) handTopicSecret(doc *policy.Document, e enrolled, dir string) error {
	m := crypto.Member{Fleet: f.name(), Role: e.role, Name: e.name, CertHash: e.cert}
	if doc.Revoked(m) || !slices.Contains(hidingKeepers(doc), e.name) {
		return nil
	}
	s, err := member.LoadTopicSecret(f.dir)
	if err != nil || s == nil {
		return err
	}
	return member.WriteTopicSecret(filepath.Join(dir, member.TopicFile), s)
}

// hidingKeepers returns the keepers of the groups that hide their topics.
func hidingKeepers(doc *policy.Document) (names []string) {
	for i := range doc.Groups {
		if doc.Groups[i].HideTopics {
			names = append(names, doc.Groups[i].Keepers...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// tellTopicSecret says who needs the secret.
func tellTopicSecret(env cmdenv.Env, f *fleetDir, doc *policy.Document) {
	if names := hidingKeepers(doc); len(names) > 0 {
		env.Errorf("topics are hidden under topic key %d: each of the keepers %q needs %s in its identity directory, or it grants no keys", doc.TopicKey, names, f.path(member.TopicFile))
	}
}
