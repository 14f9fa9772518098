package member

import (
	"context"

	"sealgate/pkg/control"
)

// OfferPolicy gives the member a signed policy that came by another way than the broker, such as a
// newer policy.cose put into the identity directory. It is verified and followed, or
// refused, by the rules for one that the broker has retained; the events of the log say which.
func (m *Member) OfferPolicy(ctx context.Context, raw []byte) error {
	if !m.ask(ctx, func(now control.Time) {
		m.machine.Receive(now, m.cfg.Prefix+"/policy", raw, true)
	}) {
		return m.ended(ctx)
	}
	return nil
}
