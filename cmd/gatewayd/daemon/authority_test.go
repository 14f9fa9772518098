package daemon

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"sealgate/pkg/crypto"
	"sealgate/pkg/gateway"
	"sealgate/pkg/keylink"
)

// What a gateway seals under while time passes, with and without word from controld, on a clock that the test moves.
func TestAuthority(t *testing.T) {
	one, two := testKey(t, "a", 1, true), testKey(t, "a", 2, true)
	until := func(lapse time.Duration) map[string]keylink.Authority {
		return map[string]keylink.Authority{"a": {Warn: lapse - 45*time.Minute, Lapse: lapse}}
	}
	whole := func(version uint64, k keys, lapse time.Duration) *keylink.Snapshot {
		s := snap(version, k)
		if s.Authority = nil; lapse > 0 {
			s.Authority = until(lapse)
		}
		return &s
	}
	type step struct {
		at      time.Duration
		whole   *keylink.Snapshot            // what controld sends, if it does
		renewed map[string]keylink.Authority // stats alone
		send    crypto.KeyID                 // after it; zero: nothing is sealed
		says    string                       // in a note; "": none is made
	}
	const m = time.Minute
	begin := step{at: 0, whole: whole(1, keys{"a": {one}}, 60*m), send: one.ID}
	tests := map[string][]step{
		"lapses while controld is away": {begin,
			{at: 14 * m, send: one.ID}, {at: 15 * m, send: one.ID, says: "in 45m0s nothing of it leaves"}, {at: 59 * m, send: one.ID},
			{at: 60 * m, says: "freshness limit has passed"}, {at: 90 * m}},
		"slept through the warning": {begin, {at: 60 * m, says: "freshness limit has passed"}, {at: 61 * m}},
		"renewed in time": {begin,
			{at: 16 * m, send: one.ID, says: "no keeper has confirmed"}, {at: 17 * m, renewed: until(77 * m), send: one.ID, says: "confirmed again"},
			{at: 60 * m, send: one.ID, says: "in 17m0s"}, {at: 77 * m, says: "freshness limit"}},
		"comes back after it lapsed":             {begin, {at: 60 * m, says: "freshness limit"}, {at: 70 * m, renewed: until(130 * m), send: one.ID, says: "confirmed again"}},
		"comes back with a new key":              {begin, {at: 60 * m, says: "freshness limit"}, {at: 70 * m, whole: whole(1, keys{"a": {two}}, 130*m), send: two.ID, says: "confirmed again"}},
		"a controld that begins without a word":  {begin, {at: 30 * m, whole: whole(1, nil, 0), send: one.ID, says: "in 30m0s"}, {at: 60 * m, says: "freshness limit"}},
		"a controld that nobody has confirmed":   {begin, {at: 30 * m, whole: whole(1, keys{"a": {receiveOnly(two)}}, 0), send: one.ID, says: "in 30m0s"}, {at: 60 * m, says: "freshness limit"}},
		"no authority was ever given":            {{at: 0, whole: whole(1, keys{"a": {one}}, 0)}, {at: m, renewed: until(60 * m), send: one.ID}},
		"another policy begins anew":             {begin, {at: m, whole: whole(2, keys{"a": {two}}, 0)}, {at: 2 * m, renewed: until(60 * m), send: two.ID}},
		"keys taken away leave no limit to pass": {begin, {at: m, whole: whole(1, keys{"a": nil}, 0)}, {at: 61 * m}},
		"what renews a refused snapshot renews nothing": {
			{at: 0, whole: whole(2, keys{"a": {one}}, 60*m), send: one.ID}, {at: m, whole: whole(1, keys{"a": {two}}, 90*m), send: one.ID},
			{at: 2 * m, renewed: until(120 * m), send: one.ID}, {at: 60 * m, says: "freshness limit"}},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			k := newKeyState("gw1")
			state := &gateway.State{}
			for _, s := range steps {
				if s.whole != nil {
					if next, _, _ := k.merge(*s.whole, s.at); next != nil {
						state = next
					}
				} else if s.renewed != nil {
					k.renew(s.renewed)
				}
				next, notes := k.enforce(s.at)
				if next != nil {
					state = next
				}
				if got := sends(state, "a"); got != s.send {
					t.Errorf("at %v: seals under %v, want %v", s.at, got, s.send)
				}
				checkNotes(t, s.at, notes, s.says)
				if g := k.status(s.at).Groups[0]; (g.Sending == "") != (s.send == crypto.KeyID{}) || (g.Fresh > 0) != (s.send != crypto.KeyID{}) {
					t.Errorf("at %v: the status says %+v", s.at, g)
				}
			}
		})
	}
}

func checkNotes(t *testing.T, at time.Duration, notes []note, want string) {
	t.Helper()
	switch {
	case want == "" && len(notes) > 0, want != "" && len(notes) != 1:
		t.Errorf("at %v: %d notes %v, want %q", at, len(notes), notes, want)
	case want != "" && !strings.Contains(notes[0].text, want):
		t.Errorf("at %v: %q, want %q", at, notes[0].text, want)
	}
}

// What has lapsed opens on.
func TestLapsedKeysOpen(t *testing.T) {
	one := testKey(t, "a", 1, true)
	k := newKeyState("gw1")
	mustMerge(t, k, snap(1, keys{"a": {one}}))
	state, notes := k.enforce(time.Hour)
	if state == nil || state.Keys.Send("a") != nil || state.Keys.Find("a", one.ID) == nil {
		t.Errorf("%+v", state)
	}
	if len(notes) != 1 || notes[0].level != slog.LevelError {
		t.Errorf("%v", notes)
	}
}

// The watch wakes for the next warning or end, and otherwise often enough to notice that a machine has slept.
func TestAuthorityIsDue(t *testing.T) {
	k := newKeyState("gw1")
	s := snap(1, keys{"a": {testKey(t, "a", 1, true)}})
	s.Authority = map[string]keylink.Authority{"a": {Warn: 300 * time.Millisecond, Lapse: 900 * time.Millisecond}}
	mustMerge(t, k, s)
	for now, want := range map[time.Duration]time.Duration{0: 300 * time.Millisecond, 300 * time.Millisecond: 900 * time.Millisecond, time.Second: time.Second + watchEvery} {
		if got := k.due(now); got != want {
			t.Errorf("at %v: due at %v, want %v", now, got, want)
		}
	}
}
