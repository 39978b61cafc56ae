// A telephony vendor on the npm package `ws`: calls an agent that echoes, plays a file to the clock in the frames of
// its dialect, records what comes back, says `stop` and waits for the close. 8 kHz PCM16 in and out.
//
//   vendor.mjs binary|exotel|ozonetel URL CA IN OUT
import fs from 'node:fs'
import { pathToFileURL } from 'node:url'

const { WebSocket } = await import(new URL('ws/wrapper.mjs', pathToFileURL(`${process.env.PEERS}/node/node_modules/`)))
const [dialect, url, ca, play, record] = process.argv.slice(2)
const speech = fs.readFileSync(play)
const ucid = '21990011223344556'
let sequence = 0

const samples = pcm => [...new Int16Array(pcm.buffer.slice(pcm.byteOffset, pcm.byteOffset + pcm.length))]
const packet = (numbers, sampleRate) => JSON.stringify({
  event: 'media',
  type: 'media',
  ucid,
  data: { samples: numbers, bitsPerSample: 16, sampleRate, channelCount: 1, numberOfFrames: numbers.length, type: 'data' }
})

const dialects = {
  binary: { bytes: 320, opening: [], media: pcm => pcm, stop: null },
  exotel: {
    bytes: 320,
    opening: [
      { event: 'connected' },
      {
        event: 'start',
        sequence_number: '1',
        stream_sid: 's1',
        start: {
          stream_sid: 's1',
          call_sid: 'c1',
          account_sid: 'a1',
          from: '+911',
          to: '+912',
          custom_parameters: { lane: 'sales' },
          media_format: { encoding: 'raw', sample_rate: '8000', bit_rate: '16' }
        }
      }
    ].map(message => JSON.stringify(message)),
    media: (pcm, n) => JSON.stringify({
      event: 'media',
      sequence_number: String((sequence += 1) + 1),
      stream_sid: 's1',
      media: { chunk: String(n + 1), timestamp: String(20 * n), payload: pcm.toString('base64') }
    }),
    stop: JSON.stringify({ event: 'stop', sequence_number: '9999', stream_sid: 's1', stop: { call_sid: 'c1', account_sid: 'a1', reason: 'callended' } })
  },
  ozonetel: {
    bytes: 160,
    // The first packet is 10 ms that claim 16 kHz and are not meant to be heard.
    opening: [JSON.stringify({ event: 'start', type: 'text', ucid, did: '1' }), packet(Array(160).fill(999), 16000)],
    media: pcm => packet(samples(pcm), 8000),
    stop: JSON.stringify({ event: 'stop', type: 'text', ucid, did: '1' })
  }
}
const { bytes, opening, media, stop } = dialects[dialect]

const ws = new WebSocket(url, { ca: fs.readFileSync(ca) })
const heard = []
let length = 0
let over = false
let played = false

function goodbye () {
  if (over || !played || length < speech.length) return
  over = true
  if (stop) ws.send(stop)
  else ws.close(1000)
}

ws.on('open', () => {
  opening.forEach(message => ws.send(message))
  const began = performance.now()
  let n = 0
  const next = () => {
    if (n * bytes >= speech.length) {
      played = true
      return goodbye()
    }
    ws.send(media(speech.subarray(n * bytes, (n + 1) * bytes), n))
    n += 1
    setTimeout(next, began + n * bytes / 16 - performance.now())
  }
  next()
})
ws.on('message', (data, isBinary) => {
  let pcm = data
  if (!isBinary) {
    const message = JSON.parse(data)
    if (message.data) pcm = Buffer.from(Int16Array.from(message.data.samples).buffer)
    else if (message.media) pcm = Buffer.from(message.media.payload, 'base64')
    else return console.log(`other=${message.event ?? message.command}`)
  }
  heard.push(pcm)
  length += pcm.length
  goodbye()
})
ws.on('error', error => console.log(`error=${error.message.replaceAll(' ', '-')}`))
ws.on('close', code => {
  fs.writeFileSync(record, Buffer.concat(heard))
  console.log(`ended=vendor code=${code} heard=${length / 2} extensions=${ws.extensions || 'none'}`)
})
