"""A telephony vendor on the PyPI package `websockets`: calls an agent, plays a file in packets of 10 or 20 ms to the
clock, records what comes back, says `stop` and waits for the close. 8 kHz PCM16 in and out.
"""

import argparse
import array
import asyncio
import base64
import json
import pathlib
import ssl
import time

import websockets
from websockets.asyncio.client import connect

UCID = "21990011223344556"


def ozonetel_start():
    yield json.dumps({"event": "start", "type": "text", "ucid": UCID, "did": "08040001234", "call_id": "9900112233"})
    # The false start of the sink behind the real vendor: 10 ms that claim 16 kHz and are not meant to be heard.
    yield json.dumps(ozonetel_media([999] * 160, 16000))


def ozonetel_media(samples, rate=8000):
    data = {"samples": samples, "bitsPerSample": 16, "sampleRate": rate, "channelCount": 1}
    data.update(numberOfFrames=len(samples), type="data")
    return {"event": "media", "type": "media", "ucid": UCID, "data": data}


def exotel_start():
    yield json.dumps({"event": "connected"})
    media_format = {"encoding": "raw/slin", "sample_rate": "8000", "bit_rate": "128kbps"}
    start = {"stream_sid": "s1", "call_sid": "c1", "account_sid": "a1", "from": "+911", "to": "+912"}
    start.update(custom_parameters="", media_format=media_format)
    yield json.dumps({"event": "start", "sequence_number": 1, "stream_sid": "s1", "start": start})


def exotel_media(samples, chunk):
    payload = base64.b64encode(array.array("h", samples).tobytes()).decode()
    media = {"chunk": chunk, "timestamp": str(20 * (chunk - 1)), "payload": payload}
    return {"event": "media", "sequence_number": chunk + 1, "stream_sid": "s1", "media": media}


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--dialect", choices=["ozonetel", "exotel"], required=True)
    parser.add_argument("--binary", action="store_true", help="JSON in binary messages")
    parser.add_argument("--play", type=pathlib.Path, required=True)
    parser.add_argument("--record", type=pathlib.Path, required=True)
    args = parser.parse_args()
    speech = array.array("h", args.play.read_bytes()).tolist()
    heard = array.array("h")
    marks, other, sizes = [], [], set()
    ozonetel = args.dialect == "ozonetel"
    dressed = str.encode if args.binary else str

    async with connect(args.url, ssl=ssl.create_default_context(cafile=args.ca)) as ws:
        all_heard = asyncio.Event()

        async def listen():
            try:
                async for text in ws:
                    message = json.loads(text)
                    if "data" in message:
                        samples = message["data"]["samples"]
                        assert message["data"]["sampleRate"] == 8000 and message["ucid"] == UCID, message
                        heard.extend(samples)
                        sizes.add(len(samples))
                        if "seqid" in message:
                            marks.append(message["seqid"])
                            ack = {"event": "mark", "type": "ack", "ucid": UCID, "seqid": message["seqid"]}
                            await ws.send(json.dumps({**ack, "timestamp": int(time.time() * 1000)}))
                    elif message.get("event") == "media":
                        assert message["stream_sid"] == "s1", message
                        samples = array.array("h", base64.b64decode(message["media"]["payload"], validate=True))
                        heard.extend(samples)
                        sizes.add(len(samples))
                    elif message.get("event") == "mark":
                        marks.append(message["mark"]["name"])
                        await ws.send(text)
                    else:
                        other.append(message.get("event") or message.get("command"))
                    if len(heard) >= len(speech):
                        all_heard.set()
            except websockets.ConnectionClosed:
                pass
            all_heard.set()

        listening = asyncio.create_task(listen())
        for message in ozonetel_start() if ozonetel else exotel_start():
            await ws.send(dressed(message))
        size = 80 if ozonetel else 160
        due = time.monotonic()
        for n in range(0, len(speech), size):
            samples = speech[n : n + size]
            media = ozonetel_media(samples) if ozonetel else exotel_media(samples, n // size + 1)
            await ws.send(dressed(json.dumps(media)))
            due += size / 8000
            await asyncio.sleep(max(0, due - time.monotonic()))
        await asyncio.wait_for(all_heard.wait(), 10)
        stop = {"event": "stop", "type": "text", "ucid": UCID}
        if not ozonetel:
            stop = {"event": "stop", "sequence_number": 9999, "stream_sid": "s1"}
            stop["stop"] = {"call_sid": "c1", "account_sid": "a1", "reason": "callended"}
        await ws.send(dressed(json.dumps(stop)))
        # The agent closes once it has heard that the call is over.
        await asyncio.wait_for(listening, 10)
    heard.tofile(args.record.open("wb"))
    print(
        f"ended=vendor code={ws.close_code} heard={len(heard)} marks={len(marks)} other={','.join(map(str, other)) or 'none'}"
        f" multiple={all(n % size == 0 for n in sizes)} extensions={len(ws.protocol.extensions)}",
        flush=True,
    )


asyncio.run(main())
