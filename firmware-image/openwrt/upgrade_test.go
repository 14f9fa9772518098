package openwrt

import (
	"strings"
	"testing"
)

// With opkg another version is a stop, other files and a start. The guard, the policy route and what fw4 is to put back stand meanwhile,
// and the keys are those of before; a removal takes no more away than the programs.
func TestUpgradeAndRemoval(t *testing.T) {
	t.Parallel()
	s, r := served(t, "tproxy")
	// What is looked at all the time from another shell: it ends at the first moment at which the way is not shut.
	s.do(`cat >/tmp/watch <<'END'
while [ ! -e /tmp/enough ]; do
	nft list chain inet sealgate guard >/dev/null 2>&1 && nft list table inet sealgate-steer >/dev/null 2>&1 && ip rule show | grep -q 'lookup 24225' || { echo open >/tmp/open; exit; }
	echo "$((n += 1))" >/tmp/looked
done
END
start-stop-daemon -S -b -m -p /var/run/watch.pid -x /bin/sh -- /tmp/watch`)
	epoch := s.sending("")
	before := s.do("cat /var/run/gatewayd.pid /var/run/controld.pid")

	s.do("PKG_UPGRADE=1 sh /usr/lib/opkg/info/sealgate.prerm upgrade; ! alive gatewayd && ! alive controld")
	r.unpack(t)
	s.do("PKG_UPGRADE=1 sh /usr/lib/opkg/info/sealgate.postinst configure")
	s.await(ready)
	if got := s.sending(""); got != epoch {
		t.Errorf("sealed under epoch %s before and under %s after", epoch, got)
	}
	if after := s.do("cat /var/run/gatewayd.pid /var/run/controld.pid"); after == before {
		t.Error("the daemons are those of before")
	}

	s.do("looked=$(cat /tmp/looked); sh /usr/lib/opkg/info/sealgate.prerm remove; ! alive gatewayd && ! alive controld; until [ $(cat /tmp/looked) -gt $((looked + 2)) ] || [ -e /tmp/open ]; do usleep 20000; done; touch /tmp/enough; end watch")
	if got := s.do("cat /tmp/open 2>/dev/null; nft list tables | sort; ip rule show | grep -c 'lookup 24225'"); got != "table inet sealgate\ntable inet sealgate-steer\n1\n" {
		t.Errorf("after the removal\n%s", got)
	}
	if got := s.do("cat /tmp/looked"); len(strings.TrimSpace(got)) < 2 {
		t.Errorf("looked at %s times", got)
	}
}
