'use strict';
'require view';
'require fs';
'require ui';
'require poll';
'require dom';

// Enrolment by a one-time ticket. The ticket goes through a file that only root reads, is taken away before anything is done with it, and
// stands in no process list.

const tool = '/usr/sbin/sealgate-enrol';
const ticketFile = '/var/run/sealgate-enrol/ticket';
const ownerOnly = 0o600;

function status() {
	return fs.exec(tool, [ '--status' ]).then(function(said) { return JSON.parse(said.stdout); });
}

// word is how far it is: code is null while it runs, -1 if nothing was begun since the router started.
function word(state) {
	if (state.code == null)
		return _('Waiting for the operator to answer. This page may be left.');
	if (state.code > 0)
		return _('It did not work. The ticket is still good, unless the operator refused it.');
	if (state.enrolled)
		return state.enabled === false ? _('This router is enrolled, and switched off: see Settings.') : _('This router is enrolled.');
	return state.enabled === false ? _('This router is not enrolled, and not switched on: see Settings.') : _('This router is not enrolled: nothing of the devices leaves.');
}

return view.extend({
	load: function() {
		return status().catch(function(error) { return { enrolled: false, code: -1, said: String(error.message || error) }; });
	},

	picture: function(state) {
		return [
			E('p', { 'id': 'enrol-word' }, [ E('strong', {}, [ word(state) ]) ]),
			E('pre', { 'id': 'enrol-said' }, [ state.said || '' ])
		];
	},

	enrol: function() {
		let field = document.getElementById('ticket'), ticket = field.value.trim();
		if (!ticket || /\s/.test(ticket)) {
			ui.addNotification(null, E('p', {}, [ _('A ticket is one line without spaces.') ]), 'danger');
			return Promise.resolve();
		}
		return fs.write(ticketFile, ticket + '\n', ownerOnly).then(function() {
			field.value = '';
			return fs.exec(tool, [ '--from-page' ]);
		}).then(L.bind(function(said) {
			if (said.code)
				throw new Error(said.stderr || _('the tool failed'));
			return this.refresh();
		}, this)).catch(function(error) {
			ui.addNotification(null, E('p', {}, [ String(error.message || error) ]), 'danger');
		});
	},

	refresh: function() {
		return this.load().then(L.bind(function(state) { dom.content(this.body, this.picture(state)); }, this));
	},

	render: function(state) {
		this.body = E('div', { 'class': 'cbi-section' }, this.picture(state));
		poll.add(L.bind(this.refresh, this), 3);
		return E('div', { 'class': 'cbi-map' }, [
			E('h2', {}, [ _('Enrolment') ]),
			E('div', { 'class': 'cbi-map-descr' }, [ _('The operator makes a ticket with "sealctl fleet ticket", and answers with "sealctl fleet serve". Fleet and control broker must be set before.') ]),
			this.body,
			E('div', { 'class': 'cbi-section' }, [
				E('label', { 'for': 'ticket' }, [ _('Ticket') ]),
				E('textarea', { 'id': 'ticket', 'class': 'cbi-input-textarea', 'rows': 4, 'style': 'width:100%;box-sizing:border-box', 'spellcheck': 'false', 'autocomplete': 'off' }),
				E('button', { 'class': 'btn cbi-button-action important', 'id': 'enrol', 'click': ui.createHandlerFn(this, 'enrol') }, [ _('Enrol') ])
			])
		]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
