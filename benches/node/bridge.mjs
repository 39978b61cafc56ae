// AudioSocket to WebSocket the way a Node user would write it: the package `asterisk-audiosocket` with its own paced
// `play()`, and `ws`. Nothing is left out and nothing is added.
//
//   node bridge.mjs --listen 127.0.0.1:9092 --agent ws://127.0.0.1:8765/ws --dialect ozonetel [--ca ca.pem]

import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { AudioSocketServer, FRAME_BYTES } from 'asterisk-audiosocket';
import { WebSocket } from 'ws';

const { values: args } = parseArgs({
  options: {
    listen: { type: 'string' },
    agent: { type: 'string' },
    dialect: { type: 'string' },
    ca: { type: 'string' },
  },
});

// Each dialect: what is said first, the messages of one frame, and the PCM of a message.
const dialects = {
  binary: () => ({
    opening: [],
    send: (pcm) => [pcm],
    receive: (data, isBinary) => (isBinary ? data : null),
  }),
  ozonetel: (id) => ({
    opening: [{ event: 'start', type: 'text', ucid: id, did: '100', call_id: '200' }].map((m) => JSON.stringify(m)),
    send: (pcm) => {
      // A copy of its own, because a view of 16-bit numbers has to begin at an even byte.
      const samples = new Int16Array(Uint8Array.from(pcm).buffer);
      const messages = [];
      for (let at = 0; at < samples.length; at += 80) {
        const chunk = samples.subarray(at, at + 80);
        messages.push(
          JSON.stringify({
            event: 'media',
            type: 'media',
            ucid: id,
            data: {
              samples: Array.from(chunk),
              bitsPerSample: 16,
              sampleRate: 8000,
              channelCount: 1,
              numberOfFrames: chunk.length,
              type: 'data',
            },
          }),
        );
      }
      return messages;
    },
    receive: (data) => {
      const message = JSON.parse(data);
      if (!message.data?.samples) return null;
      return Buffer.from(Int16Array.from(message.data.samples).buffer);
    },
  }),
  exotel: (id) => {
    let chunk = 0;
    const format = { encoding: 'base64', sample_rate: '8000', bit_rate: '128kbps' };
    const start = { stream_sid: id, call_sid: id, account_sid: 'bench', from: '200', to: '100', media_format: format };
    return {
      opening: [
        { event: 'connected' },
        { event: 'start', sequence_number: '1', stream_sid: id, start },
      ].map((m) => JSON.stringify(m)),
      send: (pcm) => {
        chunk += 1;
        return [
          JSON.stringify({
            event: 'media',
            sequence_number: String(chunk + 1),
            stream_sid: id,
            media: { chunk: String(chunk), timestamp: String((chunk - 1) * 20), payload: pcm.toString('base64') },
          }),
        ];
      },
      receive: (data) => {
        const message = JSON.parse(data);
        return message.event === 'media' ? Buffer.from(message.media.payload, 'base64') : null;
      },
    };
  },
};

const tls = args.ca ? { ca: readFileSync(args.ca) } : {};
const [host, port] = args.listen.split(':');
const server = new AudioSocketServer({ host, port: Number(port) });

server.on('connection', (call) => {
  call.on('error', (error) => console.error(`bridge: line: ${error.message}`));
  call.on('id', (uuid) => {
    const dialect = dialects[args.dialect](uuid);
    const trunk = new WebSocket(args.agent, tls);
    let open = false;
    let rest = Buffer.alloc(0);

    trunk.on('open', () => {
      open = true;
      for (const message of dialect.opening) trunk.send(message);
    });
    trunk.on('message', (data, isBinary) => {
      const pcm = dialect.receive(data, isBinary);
      if (!pcm) return;
      // `play()` fills a short frame up with silence, so it is given whole frames only.
      rest = rest.length ? Buffer.concat([rest, pcm]) : pcm;
      const whole = rest.length - (rest.length % FRAME_BYTES);
      if (whole) {
        call.play(rest.subarray(0, whole));
        rest = rest.subarray(whole);
      }
    });
    trunk.on('error', (error) => console.error(`bridge: trunk: ${error.message}`));
    trunk.on('close', () => call.hangup());

    call.on('audio', (pcm) => {
      if (open) for (const message of dialect.send(pcm)) trunk.send(message);
    });
    call.on('hangup', () => trunk.close());
  });
});

await server.listen();
