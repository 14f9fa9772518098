// The broker aedes on a port of its own choice on loopback, which it prints.
'use strict'
const aedes = require('aedes')()

// The name mallory is refused, and the topics +/secret/# are nobody's to read or write.
aedes.authenticate = (client, username, password, done) => {
  if (username !== 'mallory') return done(null, true)
  const err = new Error('refused')
  err.returnCode = 5
  done(err, false)
}
const secret = (topic) => topic.split('/')[1] === 'secret'
aedes.authorizeSubscribe = (client, sub, done) => done(null, secret(sub.topic) ? null : sub)

const server = require('net').createServer(aedes.handle)
server.listen(0, '127.0.0.1', () => console.log('listening ' + server.address().port))
