package daemon

import (
	"reflect"
	"strings"

	"sealgate/pkg/config"
)

// reload reads the configuration again. Connections stay. What concerns new connections is
// taken over; what would need sockets, steering or buffers to be made anew is
// named and left as it was. A file that does not hold together changes nothing.
func (d *daemon) reload() {
	d.mu.Lock()
	defer d.mu.Unlock()
	next, err := config.Load(d.cfg.File, config.Gateway)
	if err == nil {
		err = next.CheckFiles(config.Gateway)
	}
	if err == nil {
		err = d.uplink.configure(next)
	}
	if err != nil {
		d.log.Error("reload refused, going on as before", "error", err)
		return
	}
	if keys := needRestart(d.cfg, next); len(keys) > 0 {
		d.log.Warn("reload: these changes need a restart and have no effect yet", "keys", strings.Join(keys, " "))
	}
	d.gateway.SetLimits(next.Limits.MaxConnections, next.Limits.ConnectTimeout)
	d.reloadDevices(next)
	d.log.Info("reload: the uplink's settings and limits hold for new connections")
}

// needRestart lists the changed keys that a running gatewayd cannot take over.
func needRestart(old, next *config.Config) []string {
	var keys []string
	for _, v := range []struct {
		key      string
		old, new any
	}{
		{"fleet", old.Fleet, next.Fleet},
		{"identity", old.Identity, next.Identity},
		{"keylink", old.Keylink, next.Keylink},
		{"user", old.User, next.User},
		{"[steer]", old.Steer, next.Steer},
		{"control.prefix", old.Control.Prefix, next.Control.Prefix},
		{"downlink.tell_status", old.Downlink.TellStatus, next.Downlink.TellStatus},
		{"limits.max_message", old.Limits.MaxMessage, next.Limits.MaxMessage},
		{"metrics.listen", old.Metrics.Listen, next.Metrics.Listen},
	} {
		if !reflect.DeepEqual(v.old, v.new) {
			keys = append(keys, v.key)
		}
	}
	return keys
}
