package gateway

import (
	"sealgate/pkg/crypto"
	"sealgate/pkg/mqttparse"
)

// clear forwards a message that deletes a retained one. What deletes has no payload and so no envelope: it goes without the properties that
// describe content, as everybody could read them, and receivers of the fleet do not show it to anybody, as the broker could have made it up.
// Therefore a sealed message without payload and without RETAIN goes with it, which is what a subscriber gets of a clear (docs/spec/envelope.md,
// section 3.2).
//
// At QoS 0 and 1 the sealed message is the one that the broker acknowledges, and it comes second: when it has been acknowledged, both have
// arrived. A QoS 2 message must delete once, also if it is sent again: so there the sealed one is an addition, at QoS 0.
func (u *upPath) clear(s *sealStream, p *mqttparse.Publish) error {
	inner, outer := u.props.of(p)
	deletes, tells := *p, *p
	deletes.Properties, tells.Properties, tells.Retain = outer, outer, false
	loose := &deletes
	if p.QoS == 2 {
		loose = &tells
	}
	loose.QoS, loose.PacketID, loose.Dup = 0, 0, false
	if u.overBroker(mqttparse.PublishLen(u.c.version, &tells, s.seal.Len(crypto.InnerLen(len(inner), 0)))) {
		return errOverBroker // both or none
	}
	if p.QoS == 2 {
		if !p.Dup { // who listens has been told
			if err := u.sealOrRestart(s, &tells, inner); err != nil {
				return err
			}
		}
		return u.deletes(&deletes)
	}
	if err := u.deletes(&deletes); err != nil {
		return err
	}
	return u.sealOrRestart(s, &tells, inner)
}

func (u *upPath) deletes(p *mqttparse.Publish) error {
	u.tally.add(upClear)
	_, err := u.header(p, 0)
	return err
}
