package member

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A day later the time is noted, unless only a new policy may be written down.
func TestClockIsNoted(t *testing.T) {
	for _, rare := range []bool{false, true} {
		dir := t.TempDir()
		s, err := openStore(dir, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s.rare = rare
		s.tick(time.Unix(1_800_000_000, 0))
		if err := s.close(time.Unix(1_800_100_000, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, floorFile)); (err == nil) == rare {
			t.Errorf("rare %v: %v", rare, err)
		}
	}
}
