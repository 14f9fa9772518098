package daemon

import (
	"context"
	"log/slog"
	"time"

	"sealgate/pkg/crypto"
)

const (
	expiryWarning = 30 * 24 * time.Hour // an identity that ends sooner is warned of
	expiryLook    = 24 * time.Hour      // between two looks at it
)

// watchExpiry warns once a day, from expiryWarning before, that the identity's certificates end. Other members
// refuse what it signs from then on, so that keys stop coming in and going out at the next rotation.
func watchExpiry(ctx context.Context, log *slog.Logger, id *crypto.Identity, now func() time.Time) {
	tick := time.NewTicker(expiryLook)
	defer tick.Stop()
	for {
		switch left := id.NotAfter().Sub(now()); {
		case left <= 0:
			log.Error("the identity's certificate has expired: other members refuse it; renew it and start controld again", "member", id.Member().String(), "until", id.NotAfter())
		case left <= expiryWarning:
			log.Warn("the identity's certificate expires soon; renew it and start controld again", "member", id.Member().String(), "until", id.NotAfter(), "days", int(left.Hours()/24))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
