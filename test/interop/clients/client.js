// The client with mqtt.js. See ../wire.go for the commands and events.
'use strict'
const mqtt = require('mqtt')

const clients = new Map()

function tell (event) { process.stdout.write(JSON.stringify(event) + '\n') }

function sentProperties (p) {
  if (!p) return undefined
  const out = {}
  if (p.format !== undefined) out.payloadFormatIndicator = p.format === 1
  if (p.content_type) out.contentType = p.content_type
  if (p.response) out.responseTopic = p.response
  if (p.correlation) out.correlationData = Buffer.from(p.correlation, 'base64')
  if (p.expiry) out.messageExpiryInterval = p.expiry
  if (p.alias) out.topicAlias = p.alias
  if (p.delay) out.willDelayInterval = p.delay
  if (p.user) {
    out.userProperties = Object.create(null)
    for (const [k, v] of p.user) {
      const had = out.userProperties[k]
      out.userProperties[k] = had === undefined ? v : [].concat(had, v)
    }
  }
  return out
}

function receivedProperties (p) {
  if (!p) return undefined
  const out = {}
  if (p.payloadFormatIndicator !== undefined) out.format = Number(p.payloadFormatIndicator)
  if (p.contentType !== undefined) out.content_type = p.contentType
  if (p.responseTopic !== undefined) out.response = p.responseTopic
  if (p.correlationData !== undefined) out.correlation = p.correlationData.toString('base64')
  if (p.messageExpiryInterval !== undefined) out.expiry = p.messageExpiryInterval
  if (p.subscriptionIdentifier !== undefined) out.subids = [].concat(p.subscriptionIdentifier)
  if (p.userProperties !== undefined) {
    out.user = []
    for (const [k, v] of Object.entries(p.userProperties)) for (const one of [].concat(v)) out.user.push([k, one])
  }
  return Object.keys(out).length > 0 ? out : undefined
}

function connect (cmd) {
  const name = cmd.client
  const v5 = cmd.version === 5
  const options = {
    host: cmd.host,
    port: cmd.port,
    protocol: 'mqtt',
    protocolVersion: cmd.version,
    clientId: cmd.id,
    clean: !!cmd.clean,
    keepalive: cmd.alive,
    username: cmd.user,
    password: cmd.pass,
    reconnectPeriod: 0,
    resubscribe: false,
    connectTimeout: 20000
  }
  if (cmd.will) {
    options.will = { topic: cmd.will.topic, payload: Buffer.from(cmd.will.payload || '', 'base64'), qos: cmd.will.qos, retain: cmd.will.retain }
    if (v5) options.will.properties = sentProperties(cmd.will.props)
  }
  if (v5) {
    const o = cmd.options || {}
    options.properties = {}
    if (o.expiry) options.properties.sessionExpiryInterval = o.expiry
    if (o.alias_max) options.properties.topicAliasMaximum = o.alias_max
    if (o.receive) options.properties.receiveMaximum = o.receive
  }
  const client = mqtt.connect(options)
  clients.set(name, client)
  let answered = false
  let serverSaid = 0
  const answer = (reply) => {
    if (!answered) tell({ ev: 'reply', n: cmd.n, client: name, ...reply })
    answered = true
  }
  client.on('connect', (ack) => {
    const props = { ...ack.properties }
    delete props.assignedClientIdentifier
    answer({ code: v5 ? ack.reasonCode : ack.returnCode, present: ack.sessionPresent, props: v5 ? props : undefined })
  })
  client.on('error', (err) => answer({ code: typeof err.code === 'number' ? err.code : undefined, error: err.message }))
  client.on('disconnect', (packet) => { serverSaid = packet.reasonCode })
  client.on('close', () => {
    answer({ error: 'closed' })
    tell({ ev: 'lost', client: name, code: serverSaid })
  })
  client.on('message', (topic, payload, packet) => tell({
    ev: 'message',
    client: name,
    message: { topic, payload: payload.toString('base64'), qos: packet.qos, retain: packet.retain, props: receivedProperties(packet.properties) }
  }))
}

const handlers = {
  connect,
  subscribe (cmd, client, reply) {
    const filters = {}
    for (const f of cmd.filters) {
      filters[f.filter] = { qos: f.qos }
      if (client.options.protocolVersion === 5) Object.assign(filters[f.filter], { nl: !!f.no_local, rap: !!f.as_published, rh: f.handling || 0 })
    }
    const options = cmd.subid ? { properties: { subscriptionIdentifier: cmd.subid } } : {}
    client.subscribe(filters, options, (err, granted, packet) => reply({ error: err ? err.message : undefined, codes: packet ? Array.from(packet.granted) : undefined }))
  },
  unsubscribe (cmd, client, reply) {
    client.unsubscribe(cmd.filters.map((f) => f.filter), (err, packet) =>
      reply({ error: err ? err.message : undefined, codes: packet && packet.granted ? Array.from(packet.granted) : undefined }))
  },
  publish (cmd, client, reply) {
    const m = cmd.message
    const options = { qos: m.qos, retain: m.retain }
    if (client.options.protocolVersion === 5) options.properties = sentProperties(m.props)
    client.publish(m.topic, Buffer.from(m.payload || '', 'base64'), options, (err, packet) =>
      reply({ error: err ? err.message : undefined, code: packet && m.qos > 0 ? packet.reasonCode || 0 : undefined }))
  },
  disconnect (cmd, client, reply) {
    const options = client.options.protocolVersion === 5 ? { reasonCode: cmd.reason || 0 } : {}
    client.end(false, options, () => reply({}))
  }
}

require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const cmd = JSON.parse(line)
  const reply = (r) => tell({ ev: 'reply', n: cmd.n, client: cmd.client, ...r })
  try {
    handlers[cmd.do](cmd, clients.get(cmd.client), reply)
  } catch (e) {
    reply({ error: e.message })
  }
}).on('close', () => process.exit(0))
