package daemon

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sealgate/pkg/crypto"
)

func TestExpiryIsWarnedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		caKey, caCert, err := crypto.NewCA("plant", rand.Reader, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		key, cert, err := crypto.IssueMember(caKey, caCert, crypto.RoleGateway, "node", rand.Reader, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		id, err := crypto.ParseIdentity(key, cert, caCert)
		if err != nil {
			t.Fatal(err)
		}
		log := new(locked)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go watchExpiry(ctx, slog.New(slog.NewTextHandler(log, nil)), id, time.Now)
		count := func(words string) int { return strings.Count(log.String(), words) }

		time.Sleep(time.Until(id.NotAfter()) - expiryWarning - time.Hour)
		synctest.Wait()
		if log.String() != "" {
			t.Fatalf("warned too early:\n%.500s", log)
		}
		time.Sleep(2 * 24 * time.Hour)
		synctest.Wait()
		if n := count("expires soon"); n != 2 || count("days=29") != 1 {
			t.Fatalf("%d warnings:\n%s", n, log)
		}
		time.Sleep(time.Until(id.NotAfter()) + 24*time.Hour)
		synctest.Wait()
		if count("has expired") == 0 || count("expires soon") > 31 {
			t.Fatalf("after the end:\n%s", log)
		}
	})
}
