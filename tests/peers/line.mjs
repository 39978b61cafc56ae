// The npm package `asterisk-audiosocket`, both ways round.
//
//   line.mjs serve echo|hangup       its server: what Asterisk dials. Prints `listening=PORT`.
//   line.mjs call PORT UUID IN OUT   Asterisk's side, written and read by its codec; the socket and the clock are ours.
import fs from 'node:fs'
import net from 'node:net'
import { pathToFileURL } from 'node:url'

const packages = pathToFileURL(`${process.env.PEERS}/node/node_modules/`)
const theirs = await import(new URL('asterisk-audiosocket/dist/index.js', packages))

async function serve (behaviour) {
  const server = new theirs.AudioSocketServer({ port: 0 })
  server.on('connection', call => {
    let frames = 0
    let odd = 0
    call.on('id', uuid => console.log(`call=${uuid}`))
    call.on('error', error => console.log(`error=${error.message.replaceAll(' ', '-')}`))
    call.on('audio', pcm => {
      frames += 1
      if (pcm.length !== theirs.FRAME_BYTES) odd += 1
      if (behaviour === 'hangup' && frames === 50) call.hangup()
      else call.play(pcm)
    })
    call.on('hangup', () => console.log(`ended=line frames=${frames} odd=${odd}`))
  })
  await server.listen()
  console.log(`listening=${server.address.port}`)
  process.stdin.resume().on('end', () => process.exit(0))
}

function call (port, uuid, play, record) {
  const speech = fs.readFileSync(play)
  const heard = []
  let ended = 'close'
  const socket = net.connect(Number(port), '127.0.0.1').setNoDelay(true)
  const parser = new theirs.FrameParser()
  let pacer
  socket.on('connect', () => {
    socket.write(theirs.encodeFrame(theirs.FrameType.UUID, Buffer.from(uuid.replaceAll('-', ''), 'hex')))
    const began = performance.now()
    let at = 0
    const next = () => {
      if (at >= speech.length) return socket.end(theirs.encodeHangup())
      socket.write(theirs.encodeAudio(speech.subarray(at, at + theirs.FRAME_BYTES)))
      at += theirs.FRAME_BYTES
      pacer = setTimeout(next, began + at / theirs.FRAME_BYTES * theirs.FRAME_MS - performance.now())
    }
    next()
  })
  socket.on('data', bytes => {
    parser.push(bytes)
    for (const frame of parser.drain()) {
      if (frame.type === theirs.FrameType.AUDIO) heard.push(frame.payload)
      else if (frame.type === theirs.FrameType.HANGUP) ended = 'hangup'
      else console.log(`odd=${frame.type}`)
    }
  })
  socket.on('error', error => console.log(`error=${error.code}`))
  socket.on('close', () => {
    clearTimeout(pacer)
    const pcm = Buffer.concat(heard)
    fs.writeFileSync(record, pcm)
    console.log(`ended=line with=${ended} heard=${pcm.length / 2}`)
  })
}

const [what, ...args] = process.argv.slice(2)
await { serve, call }[what](...args)
