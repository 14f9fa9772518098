'use strict';
// A stand-in of ours for the part of LuCI's client side that the views use. What matters of it is kept: a bare string as an element's
// content is HTML, a list is text; a module's dependencies are named in 'require' lines at its head; a view loads, renders, and has a
// footer unless it says otherwise. Calls to the router are answered from `answers`, and recorded.

const calls = [];
const answers = JSON.parse(document.getElementById('answers').textContent);

function _(s) { return s; }

function append(node, content) {
	if (Array.isArray(content)) {
		for (const part of content) {
			if (part instanceof Node)
				node.appendChild(part);
			else if (part != null)
				node.appendChild(document.createTextNode(String(part)));
		}
	} else if (content instanceof Node)
		node.appendChild(content);
	else if (content != null)
		node.innerHTML = String(content);
	return node;
}

function E(tag, attributes, content) {
	if (Array.isArray(attributes) || attributes instanceof Node || typeof attributes !== 'object')
		[ attributes, content ] = [ {}, attributes ];
	const node = document.createElement(tag);
	for (const [ name, value ] of Object.entries(attributes || {})) {
		if (typeof value === 'function')
			node.addEventListener(name, value);
		else if (value != null)
			node.setAttribute(name, value);
	}
	return append(node, content);
}

function record(...call) { calls.push(call); }

const modules = {};
modules.dom = { content(node, content) { node.replaceChildren(); return append(node, content); } };
modules.view = { extend(members) { return Object.assign(Object.create({ load() {}, render() {} }), members); } };
modules.poll = { polls: [], add(f, seconds) { record('poll.add', seconds); this.polls.push(f); } };
modules.fs = {
	exec(command, args) {
		record('fs.exec', command, args);
		const answer = answers.exec[[ command, ...args ].join(' ')];
		const next = Array.isArray(answer) ? (answer.length > 1 ? answer.shift() : answer[0]) : answer;
		return next == null ? Promise.reject(new Error('Permission denied')) : Promise.resolve(next);
	},
	write(path, data, mode) { record('fs.write', path, data, mode); return Promise.resolve(); },
};
modules.ui = {
	createHandlerFn(self, f, ...args) {
		const handler = typeof f === 'string' ? self[f] : f;
		return (event) => Promise.resolve(handler.call(self, ...args, event));
	},
	addNotification(title, content, kind) {
		const note = E('div', { 'class': 'alert-message ' + (kind || '') }, [ content ]);
		document.getElementById('view').prepend(note);
	},
};

class Option {
	constructor(map, section, name, title, description) { Object.assign(this, { map, section, name, title, description, values: [], conditions: {} }); }
	value(key, title) { this.values.push([ key, title ]); }
	depends(name, value) { this.conditions[name] = value; }
	get current() { return (answers.uci[this.map.config][this.section] || {})[this.name]; }
	shown() { return Object.entries(this.conditions).every(([ name, value ]) => (answers.uci[this.map.config][this.section] || {})[name] === value); }
	input() { return E('input', { 'class': 'cbi-input-text', 'value': this.current ?? '', 'placeholder': this.placeholder }); }
	render() {
		if (!this.shown())
			return null;
		return E('div', { 'class': 'cbi-value', 'data-name': this.section + '.' + this.name, 'data-type': this.datatype }, [
			E('label', { 'class': 'cbi-value-title' }, [ this.title ]),
			E('div', { 'class': 'cbi-value-field' }, [ this.input(), E('div', { 'class': 'cbi-value-description' }, [ this.description ]) ]),
		]);
	}
}
class Flag extends Option {
	input() { return E('input', { 'type': 'checkbox', ...((this.current ?? this.default) === '1' ? { 'checked': '' } : {}) }); }
}
class ListValue extends Option {
	input() {
		return E('select', { 'class': 'cbi-input-select' }, this.values.map(([ key, title ]) => E('option', { 'value': key, ...(key === (this.current ?? this.default) ? { 'selected': '' } : {}) }, [ title ])));
	}
}
class DynamicList extends Option {
	input() {
		const items = [].concat(this.current ?? []);
		return E('div', { 'class': 'cbi-dynlist' }, items.map((item) => E('div', { 'class': 'item' }, [ item ])).concat(E('input', { 'class': 'cbi-input-text', 'placeholder': this.placeholder })));
	}
}
class NamedSection {
	constructor(map, name, type, title, description) {
		if (answers.uci[map.config][name]?.['.type'] !== type)
			throw new Error('/etc/config/' + map.config + ' has no section ' + name + ' of type ' + type);
		Object.assign(this, { map, name, title, description, options: [] });
	}
	option(Kind, ...args) { const o = new Kind(this.map, this.name, ...args); this.options.push(o); return o; }
	render() {
		return E('div', { 'class': 'cbi-section' }, [ E('h3', [ this.title ]), E('div', { 'class': 'cbi-section-descr' }, [ this.description ]), ...this.options.map((o) => o.render()) ]);
	}
}
class FormMap {
	constructor(config, title, description) { Object.assign(this, { config, title, description, sections: [] }); }
	section(Kind, ...args) { const s = new Kind(this, ...args); this.sections.push(s); return s; }
	render() {
		return Promise.resolve(E('div', { 'class': 'cbi-map' }, [ E('h2', [ this.title ]), E('div', { 'class': 'cbi-map-descr' }, [ this.description ]), ...this.sections.map((s) => s.render()) ]));
	}
}
modules.form = { Map: FormMap, NamedSection, Value: Option, Flag, ListValue, DynamicList };

const L = { bind: (f, self, ...args) => f.bind(self, ...args), resolveDefault: (p, value) => Promise.resolve(p).catch(() => value) };

// open loads a view as LuCI does: what it requires is named in its first lines, and handed to it by these names.
async function open(path) {
	const source = await (await fetch('/luci-static/resources/view/' + path + '.js')).text();
	const names = [];
	for (const line of source.split('\n')) {
		const found = line.match(/^'require ([a-z.]+)';$/);
		if (found)
			names.push(found[1]);
		else if (line && line !== "'use strict';")
			break;
	}
	for (const name of names)
		if (!modules[name])
			throw new Error('the stand-in has no module ' + name);
	const view = new Function('L', 'E', '_', ...names, source)(L, E, _, ...names.map((name) => modules[name]));
	const data = await view.load();
	append(document.getElementById('view'), [ await view.render(data) ]);
	if (view.handleSave !== null)
		append(document.getElementById('view'), [ E('div', { 'class': 'cbi-page-actions' }, [ E('button', { 'class': 'cbi-button-apply' }, [ 'Save & Apply' ]) ]) ]);
}

async function poll() {
	for (const f of modules.poll.polls)
		await f();
}

open(document.body.dataset.view).then(() => new Function('poll', 'return (async () => {' + (answers.then || '') + '})()')(poll)).catch((error) => {
	append(document.getElementById('view'), [ E('pre', { 'id': 'failed' }, [ String(error.stack || error) ]) ]);
}).finally(() => {
	document.getElementById('calls').textContent = JSON.stringify(calls);
	document.body.dataset.done = 'yes';
});
