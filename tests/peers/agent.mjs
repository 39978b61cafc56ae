// Voice agents on the npm package `ws`, one behaviour a path: /binary/echo, /exotel/echo ...
//
// Prints `listening=PORT`, then lines of key=value. It offers permessage-deflate, which nobody has to take. What an
// agent heard is in OUT/DIALECT-BEHAVIOUR.raw (PCM16, 8 kHz).
import fs from 'node:fs'
import https from 'node:https'
import { pathToFileURL } from 'node:url'

const { WebSocketServer } = await import(new URL('ws/wrapper.mjs', pathToFileURL(`${process.env.PEERS}/node/node_modules/`)))
const [ca, speechFile, out] = process.argv.slice(2)
const speech = fs.readFileSync(speechFile)
const tls = { cert: fs.readFileSync(`${ca}/server.pem`), key: fs.readFileSync(`${ca}/server.key`) }

const server = https.createServer(tls)
const sockets = new WebSocketServer({ server, perMessageDeflate: true })

// Sends one message in pieces of these sizes, over and over.
function inPieces (ws, message, sizes, options) {
  let at = 0
  for (let n = 0; at < message.length; n += 1) {
    const size = Math.min(sizes[n % sizes.length], message.length - at)
    ws.send(message.subarray(at, at + size), { ...options, fin: at + size === message.length })
    at += size
  }
}

const media = payload => Buffer.from(JSON.stringify({ event: 'media', media: { payload: payload.toString('base64') } }))

const behaviours = {
  '/binary/echo': { message: (call, data) => call.ws.send(data) },
  // Cut where no sample ends, with empty fragments and pings in between.
  '/binary/pieces': {
    open: call => {
      inPieces(call.ws, speech, [1, 0, 3, 1001, 16385, 7], { binary: true })
      call.ws.ping('between')
    }
  },
  // The most that one message may have; a minute of speech.
  '/binary/largest': { open: call => call.ws.send(Buffer.alloc(1 << 20, speech)) },
  '/binary/too-large': { open: call => call.ws.send(Buffer.alloc((1 << 20) + 2, speech)) },
  '/binary/pings': {
    open: call => {
      call.pings = 0
      call.pinging = setInterval(() => call.ws.ping(`ping ${call.pings++}`), 20)
    },
    message: (call, data) => call.ws.send(data)
  },
  '/exotel/echo': {
    json: (call, message) => {
      if (message.event === 'media') call.ws.send(JSON.stringify({ event: 'media', media: { payload: message.media.payload } }))
    }
  },
  '/exotel/pieces': {
    start: call => {
      inPieces(call.ws, media(speech.subarray(0, 8000)), [1], { binary: false })
      inPieces(call.ws, media(speech.subarray(8000, 40000)), [127, 65536, 4096], { binary: true })
      inPieces(call.ws, media(speech.subarray(40000)), [8191, 1, 8193], { binary: false })
      call.ws.send(JSON.stringify({ event: 'mark', mark: { name: 'end' } }))
    }
  }
}

sockets.on('connection', (ws, request) => {
  const behaviour = behaviours[request.url]
  const heard = []
  const pongs = []
  const marks = []
  const call = { ws }
  let stops = 0
  ws.on('pong', data => pongs.push(data.toString()))
  ws.on('error', error => console.log(`error=${error.code ?? error.message}`))
  ws.on('message', (data, isBinary) => {
    if (isBinary) {
      heard.push(data)
      behaviour.message?.(call, data)
      return
    }
    const message = JSON.parse(data)
    if (message.event === 'start') behaviour.start?.(call)
    if (message.event === 'media') heard.push(Buffer.from(message.media.payload, 'base64'))
    if (message.event === 'mark') marks.push(message.mark.name)
    if (message.event === 'stop') stops += 1
    behaviour.json?.(call, message)
  })
  ws.on('close', code => {
    clearInterval(call.pinging)
    const pcm = Buffer.concat(heard)
    fs.writeFileSync(`${out}/${request.url.slice(1).replace('/', '-')}.raw`, pcm)
    const inOrder = pongs.every((pong, n) => pong === `ping ${n}` || pong === 'between')
    console.log(`ended=${request.url} code=${code} heard=${pcm.length / 2} stops=${stops} marks=${marks.join() || 'none'} ` +
      `pongs=${pongs.length} pings=${call.pings ?? 0} in_order=${inOrder} extensions=${ws.extensions || 'none'}`)
  })
  behaviour.open?.(call)
})

server.listen(0, '127.0.0.1', () => console.log(`listening=${server.address().port}`))
process.stdin.resume().on('end', () => process.exit(0))
