'use strict';
'require view';
'require form';

// /etc/config/sealgate: the options that most need. The others, as docs/OPERATIONS.md has them, may be set with uci and stay as they are.

function broker(map) {
	let s = map.section(form.NamedSection, 'uplink', 'uplink', _('Broker'), _('How the gateway reaches the broker that devices publish to.'));
	let o = s.option(form.DynamicList, 'broker', _('Address'), _('host:port. Empty: whatever address a device dials.'));
	o.placeholder = 'broker.example:8883';
	o = s.option(form.Flag, 'tls', _('TLS'), _('Without it topics, client ids and passwords can be read on the uplink; payloads stay sealed.'));
	o.default = '1';
	o.rmempty = false;
	o = s.option(form.Value, 'ca', _('CA certificate'), _('File of the authority that signed the broker\'s certificate. Empty: those that the router trusts.'));
	o.placeholder = '/etc/sealgate/broker-ca.pem';
	o.depends('tls', '1');
	o = s.option(form.Value, 'server_name', _('Name in the certificate'), _('Empty: the host or address that is dialled.'));
	o.datatype = 'hostname';
	o.depends('tls', '1');
}

function control(map) {
	let s = map.section(form.NamedSection, 'control', 'control', _('Control messages'), _('The broker over which the members of the fleet exchange keys.'));
	let o = s.option(form.DynamicList, 'broker', _('Address'), _('Empty: the broker above.'));
	o.placeholder = 'mqtts://broker.example:8883';
	o = s.option(form.Value, 'ca', _('CA certificate'));
	o.placeholder = '/etc/sealgate/broker-ca.pem';
	s.option(form.Value, 'username', _('User name'));
	o = s.option(form.Value, 'password_file', _('Password file'), _('A file, for controld\'s account alone, whose first line is the password.'));
	o.placeholder = '/etc/sealgate/password';
}

function steer(map) {
	let s = map.section(form.NamedSection, 'steer', 'steer', _('Devices'), _('How the traffic of devices is taken up.'));
	let o = s.option(form.ListValue, 'mode', _('Mode'));
	o.value('tc', _('tc: routed or in a bridge, by the kernel\'s classifier'));
	o.value('tproxy', _('tproxy: routed, by nftables'));
	o.value('redirect', _('redirect: routed, by nftables, if nothing else will do'));
	o.value('nfqueue', _('nfqueue: devices keep their own connection; no TLS, and in clear while the firewall is stopped'));
	o.value('listen', _('listen: an ordinary proxy that devices dial'));
	o.default = 'tc';
	o = s.option(form.Value, 'bridge', _('Bridge'), _('Set: the interfaces below are ports of this bridge, and nothing crosses it but through the gateway.'));
	o.placeholder = 'br-line';
	o.datatype = 'maxlength(15)';
	o.depends('mode', 'tc');
	o = s.option(form.DynamicList, 'lan', _('Device side'), _('Network interfaces that devices are behind.'));
	o.placeholder = 'br-lan';
	o.datatype = 'maxlength(15)';
	o = s.option(form.DynamicList, 'uplink', _('Broker side'));
	o.placeholder = 'wan';
	o.datatype = 'maxlength(15)';
	o = s.option(form.DynamicList, 'ports', _('TCP ports'), _('Plain MQTT to these ports is sealed, and never leaves in clear.'));
	o.placeholder = '1883';
	o.datatype = 'port';
}

return view.extend({
	render: function() {
		let map = new form.Map('sealgate', _('Sealgate'), _('What devices publish leaves sealed. Once this is switched on, nothing of them leaves in clear, and nothing at all before the router is enrolled.'));
		let s = map.section(form.NamedSection, 'main', 'sealgate', _('Gateway'));
		let o = s.option(form.Flag, 'enabled', _('Switched on'), _('Switching it off stops the gateway and leaves the way shut until the router starts again.'));
		o.rmempty = false;
		o = s.option(form.Value, 'fleet', _('Fleet'), _('The name that the operator gave it.'));
		o.datatype = 'maxlength(63)';
		steer(map);
		broker(map);
		control(map);
		s = map.section(form.NamedSection, 'limits', 'limits', _('Limits'));
		o = s.option(form.Value, 'max_connections', _('Devices at once'));
		o.datatype = 'range(1,1048576)';
		o.placeholder = '4096';
		o = s.option(form.Value, 'max_message', _('Largest message'));
		o.placeholder = '256KiB';
		return map.render();
	}
});
