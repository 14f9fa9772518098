'use strict';
'require view';
'require fs';
'require poll';
'require dom';

// What `sealctl status --json` says. Names of clients, topics and groups come from devices and other members: E() takes a string for
// HTML and a list for text, so everything here is in lists.

// address is what is not to be broken over lines: an IP address and a port.
const address = /^[0-9a-f.:[\]]+:\d+$/;

function text(value) {
	return value == null || value === '' ? '–' : String(value);
}

function count(n) {
	return Math.round(n || 0).toLocaleString('en').replace(/,/g, '\u00a0');
}

function span(seconds) {
	if (seconds == null || seconds < 0)
		return '–';
	if (seconds < 120)
		return Math.round(seconds) + ' s';
	if (seconds < 7200)
		return Math.round(seconds / 60) + ' min';
	return Math.round(seconds / 3600) + ' h';
}

function table(titles, rows, none) {
	return E('table', { 'class': 'table' }, [
		E('tr', { 'class': 'tr table-titles' }, titles.map(function(title) { return E('th', { 'class': 'th' }, [ title ]); }))
	].concat(rows.length ? rows.map(function(row) {
		return E('tr', { 'class': 'tr' }, row.map(function(cell, i) {
			return E('td', { 'class': 'td', 'data-title': titles[i], 'style': address.test(cell) ? 'white-space:nowrap' : '' }, [ cell ]);
		}));
	}) : [ E('tr', { 'class': 'tr placeholder' }, [ E('td', { 'class': 'td', 'colspan': titles.length }, [ E('em', {}, [ none ]) ]) ]) ]));
}

function section(title, content) {
	return E('div', { 'class': 'cbi-section' }, [ E('h3', {}, [ title ]), content ]);
}

// messages adds up the verdicts of one direction; some of them, if they are named.
function messages(traffic, direction, verdicts) {
	let all = (traffic.messages || {})[direction] || {};
	return (verdicts || Object.keys(all)).reduce(function(sum, verdict) { return sum + (all[verdict] || 0); }, 0);
}

// facts is a table of names and values.
function facts(rows) {
	return E('table', { 'class': 'table' }, rows.map(function(row) {
		return E('tr', { 'class': 'tr' }, [ E('td', { 'class': 'td left', 'width': '33%' }, [ row[0] ]), E('td', { 'class': 'td left' }, [ row[1] ]) ]);
	}));
}

// idle says why nothing runs, if that is so by the router's own settings: then daemons that do not answer are no news.
function idle(state) {
	if (state.enabled === false)
		return [ _('switched off'), _('Nothing is sealed. Unless the router has not been started since it was switched off, MQTT of the devices leaves in clear. See Settings.') ];
	if (state.enrolled === false)
		return [ _('not enrolled'), _('Nothing of the devices leaves. See Enrolment.') ];
	return null;
}

function served(gatewayd, state) {
	if (gatewayd.ready)
		return _('yes');
	return state.enabled === false ? _('no: switched off') : _('no: nothing of the devices leaves');
}

function summary(gatewayd, controld, state) {
	let traffic = gatewayd.traffic || {};
	return facts([
		[ _('Gateway'), text(controld.member || gatewayd.gateway) + (controld.fleet ? ' (' + controld.fleet + ')' : '') ],
		[ _('Devices are served'), served(gatewayd, state) ],
		[ _('Control broker'), controld.connected ? _('connected') : _('not connected') ],
		[ _('Policy version'), text(gatewayd.policy_version || (controld.policy || {}).version) ],
		[ _('Sealed messages'), count(messages(traffic, 'up', [ 'seal', 'resend' ])) ],
		[ _('Opened messages'), count(messages(traffic, 'down', [ 'open' ])) ],
		[ _('Version'), text(gatewayd.version) ]
	]);
}

function groups(gatewayd, controld) {
	let leaders = {};
	(controld.groups || []).forEach(function(group) { leaders[group.name] = group.leader; });
	return table([ _('Group'), _('Sealed under epoch'), _('Age'), _('Leader'), _('Seals on without word for') ], (gatewayd.groups || []).map(function(group) {
		return [ text(group.name), group.sending ? group.sending : _('none: nothing of it leaves'), span(group.age_seconds), text(leaders[group.name]),
			(group.stale ? '⚠ ' : '') + span(group.fresh_seconds) ];
	}), _('no policy yet'));
}

function devices(gatewayd) {
	return table([ _('Client'), _('Device'), _('Broker'), _('Connected'), _('Up'), _('Down'), _('Refused') ], ((gatewayd.traffic || {}).devices || []).map(function(d) {
		return [ text(d.client), text(d.device), text(d.broker), span(d.seconds), count(d.up), count(d.down), count(d.refused) ];
	}), _('no device is connected'));
}

// alarms are what an honest fleet with an honest broker does not cause, and what keeps the daemons from answering.
function alarms(status, gatewayd, controld, state) {
	let why = idle(state);
	let rows = why ? [ why ] : (status.errors || []).map(function(error) { return [ _('error'), text(error) ]; });
	let traffic = gatewayd.traffic || {};
	(gatewayd.groups || []).forEach(function(group) {
		if (group.stale)
			rows.push([ _('no word from a keeper'), _('Group %s is sealed for %s more.').replace('%s', text(group.name)).replace('%s', span(group.fresh_seconds)) ]);
	});
	if (controld.alarms)
		rows.push([ _('control plane, %d times').replace('%d', count(controld.alarms)), text(controld.last_alarm) ]);
	[ 'forged', 'plaintext', 'replayed', 'unknown-key', 'expired-epoch' ].forEach(function(verdict) {
		let n = messages(traffic, 'down', [ verdict ]);
		if (n)
			rows.push([ _('messages from the broker, refused'), verdict + ': ' + count(n) ]);
	});
	[ 'deny', 'no-key', 'too-large' ].forEach(function(verdict) {
		let n = messages(traffic, 'up', [ verdict ]);
		if (n)
			rows.push([ _('messages of devices, not sent'), verdict + ': ' + count(n) ]);
	});
	Object.keys(traffic.uplink_errors || {}).forEach(function(reason) {
		if (traffic.uplink_errors[reason])
			rows.push([ _('the broker could not be reached'), reason + ': ' + count(traffic.uplink_errors[reason]) ]);
	});
	let checkpoints = traffic.checkpoints || {}, listening = Object.keys(checkpoints.groups || {});
	if (listening.length && !checkpoints.heard)
		rows.push([ _('checkpoints are not heard'), _('nobody notices what is missing') ]);
	listening.forEach(function(group) {
		(checkpoints.groups[group].silent || []).forEach(function(name) { rows.push([ _('a member is not heard'), [ 'silent', group, name ].join(' ') ]); });
	});
	(checkpoints.recent || []).filter(function(event) {
		return [ 'dropped', 'recovered', 'withheld', 'unattributed', 'disputed' ].indexOf(event.event) >= 0;
	}).forEach(function(event) {
		rows.push([ _('messages missing or withheld'), [ event.event, event.group, event.gateway, event.other, event.topic ].filter(Boolean).join(' ') ]);
	});
	return table([ _('Alarm'), _('Detail') ], rows, _('none'));
}

// parse reads what a program said; none is an empty answer.
function parse(said) {
	try {
		return JSON.parse(said.stdout) || {};
	} catch (error) {
		return { errors: [ said.stderr || _('sealctl status gave no answer') ] };
	}
}

function ask(program, args) {
	return fs.exec(program, args).catch(function(error) { return { stdout: '', stderr: String(error.message || error) }; }).then(parse);
}

return view.extend({
	load: function() {
		return Promise.all([ ask('/usr/sbin/sealctl', [ 'status', '--json' ]), ask('/usr/sbin/sealgate-enrol', [ '--status' ]) ]);
	},

	// picture makes the whole page of what sealctl said, and sealgate-enrol of the router's settings.
	picture: function(said) {
		let status = said[0], state = said[1], gatewayd = status.gatewayd || {}, controld = status.controld || {};
		return [
			section(_('Alarms'), alarms(status, gatewayd, controld, state)),
			section(_('Gateway'), summary(gatewayd, controld, state)),
			section(_('Groups'), groups(gatewayd, controld)),
			section(_('Devices'), devices(gatewayd))
		];
	},

	render: function(said) {
		let body = E('div', {}, this.picture(said));
		poll.add(L.bind(function() {
			return this.load().then(L.bind(function(said) { dom.content(body, this.picture(said)); }, this));
		}, this), 5);
		return E('div', { 'class': 'cbi-map' }, [ E('h2', {}, [ _('Sealgate') ]), body ]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
