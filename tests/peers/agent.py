"""Voice agents on the PyPI package `websockets`, one behaviour a path: /ozonetel/echo, /exotel/marks ...

Prints `listening PORT`, then one line of key=value for whatever a test has to know. What an agent heard is in
OUT/DIALECT-BEHAVIOUR.raw (PCM16, 8 kHz). Times are CLOCK_MONOTONIC in nanoseconds.
"""

import argparse
import array
import asyncio
import base64
import json
import pathlib
import ssl
import sys
import time

import websockets
from websockets.asyncio.server import serve

RATE = 8000


def say(**facts):
    print(" ".join(f"{key}={value}" for key, value in facts.items()), flush=True)


class Call:
    """One connection: what was heard, and every control message in the order of its arrival."""

    def __init__(self, ws, speech, out):
        self.ws, self.speech = ws, speech
        self.path = ws.request.path
        self.out = out / (self.path.strip("/").replace("/", "-") + ".raw")
        self.heard = array.array("h")
        self.start = None
        self.marks = []
        self.stops = 0
        self.digits = ""
        self.wrong = []
        self.media = 0
        self.told = asyncio.Condition()

    async def listen(self):
        """Reads to the end of the connection."""
        dialect, behaviour = self.path.strip("/").split("/")
        read = {"ozonetel": self.on_ozonetel, "exotel": self.on_exotel}[dialect]
        try:
            async for message in self.ws:
                if isinstance(message, bytes):
                    self.wrong.append("binary")
                    continue
                await read(json.loads(message), behaviour == "echo")
                async with self.told:
                    self.told.notify_all()
        except websockets.ConnectionClosed:
            pass
        async with self.told:
            self.told.notify_all()

    async def until(self, is_so):
        async with self.told:
            await asyncio.wait_for(self.told.wait_for(is_so), 60)

    def report(self):
        self.heard.tofile(self.out.open("wb"))
        say(
            ended=self.path,
            code=self.ws.close_code,
            heard=len(self.heard),
            media=self.media,
            stops=self.stops,
            marks=",".join(self.marks) or "none",
            digits=self.digits or "none",
            wrong=",".join(self.wrong) or "none",
        )

    # Ozonetel

    async def on_ozonetel(self, message, echo):
        event = message.get("event")
        if event == "start":
            self.start = message
            if not (message["ucid"].isdigit() and message["type"] == "text"):
                self.wrong.append("start")
        elif event == "media":
            data = message["data"]
            self.media += 1
            if self.media == 1:
                # The vendor's false start: 10 ms that claim 16 kHz.
                if (data["sampleRate"], len(data["samples"])) != (16000, 160):
                    self.wrong.append("first")
                return
            if (data["sampleRate"], data["channelCount"], data["bitsPerSample"]) != (8000, 1, 16):
                self.wrong.append("format")
            if data["numberOfFrames"] != len(data["samples"]):
                self.wrong.append("count")
            if message["ucid"] != self.start["ucid"]:
                self.wrong.append("ucid")
            self.heard.extend(data["samples"])
            if echo:
                await self.ws.send(json.dumps(message))
        elif event == "mark":
            if message["type"] != "ack" or not isinstance(message["timestamp"], int):
                self.wrong.append("mark")
            self.marks.append(message["seqid"])
        elif event == "stop":
            self.stops += 1
        else:
            self.wrong.append(f"event:{event}")

    def packet(self, samples, **more):
        data = {
            "samples": list(samples),
            "bitsPerSample": 16,
            "sampleRate": RATE,
            "channelCount": 1,
            "numberOfFrames": len(samples),
            "type": "data",
        }
        return {"event": "media", "type": "media", "ucid": self.start["ucid"], "data": data, **more}

    async def ozonetel_echo(self):
        pass

    async def ozonetel_burst(self):
        """Everything at once, a seqid on each packet; all of it is heard, and each packet is acknowledged."""
        for n in range(0, len(self.speech), 400):
            packet = self.packet(self.speech[n : n + 400], seqid=f"{n // 400:08x}-0000-4000-8000-000000000000")
            await self.ws.send(json.dumps(packet))
        say(sent=self.path, packets=len(range(0, len(self.speech), 400)))

    async def ozonetel_clear(self):
        """10 s in 300 ms; a second later a clear, and after it another sentence."""
        ten_seconds = (self.speech * (10 * RATE // len(self.speech) + 1))[: 10 * RATE]
        began = time.monotonic()
        for second in range(10):
            for n in range(second * RATE, (second + 1) * RATE, 400):
                seqid = f"{n // 400:08x}-0000-4000-8000-000000000000"
                await self.ws.send(json.dumps(self.packet(ten_seconds[n : n + 400], seqid=seqid)))
            await asyncio.sleep(max(0, began + 0.03 * (second + 1) - time.monotonic()))
        await asyncio.sleep(1)
        await self.clear({"command": "clearBuffer"})
        await asyncio.sleep(0.5)
        await self.ws.send(json.dumps(self.packet([4242] * 800, seqid="after")))
        await self.until(lambda: "after" in self.marks)
        say(after=self.path)

    async def clear(self, message):
        asked = time.monotonic_ns()
        await self.ws.send(json.dumps(message))
        # Messages are read in order: the pong says that the clear was.
        await (await self.ws.ping())
        say(cleared=self.path, asked=asked, at=time.monotonic_ns())

    async def ozonetel_oddities(self):
        """One sentence in every shape that has been seen in the wild, with noise in between that nobody may hear."""
        speech, at = self.speech, 0

        def take(n):
            nonlocal at
            at += n
            return speech[at - n : at]

        send = self.ws.send
        await send(json.dumps({"type": "connected", "message": "hello"}))
        await send(json.dumps({"event": "weather", "type": "sunny", "samples": [1, 2, 3]}))
        no_event = self.packet(take(800))
        del no_event["event"]
        await send(json.dumps(no_event))
        no_type = self.packet(take(800))
        del no_type["type"]
        await send(json.dumps(no_type))
        words = self.packet(take(800))
        words["data"].update(sampleRate="8000", channelCount="1", bitsPerSample="16", numberOfFrames="800")
        await send(json.dumps(words))
        await send(json.dumps(self.packet(take(800))).encode())
        # One character a frame.
        await send(list(json.dumps(self.packet(take(80)))))
        spaced = {"data": self.packet(take(800))["data"], "event": "media", "ucid": 7, "seqid": 77, "x": {"y": [[]]}}
        await send(json.dumps(spaced, indent=2))
        await send('{"event":"media","type":"media","data":{"samples":[1,2,3')
        await send('{"event":"media","data":{"samples":[1,"two",3],"sampleRate":8000}}')
        await send("null")
        big = json.dumps(self.packet(take(16000)))
        say(big=self.path, bytes=len(big))
        await send(big)
        rest = json.dumps(self.packet(take(len(speech) - at), seqid='the-"last"-\u00e9'))
        await send([rest[n : n + 999] for n in range(0, len(rest), 999)])
        say(sent=self.path)

    async def ozonetel_disconnect(self):
        await self.sentence()
        await self.ws.send(json.dumps({"command": "callDisconnect"}))
        await self.ws.wait_closed()

    async def ozonetel_close(self):
        await self.sentence()
        await self.ws.close()

    async def ozonetel_fault(self):
        await self.sentence()
        await self.ws.close(1011, "out of tokens")

    async def ozonetel_abort(self):
        await self.sentence()
        self.ws.transport.abort()

    async def sentence(self):
        await self.ws.send(json.dumps(self.packet(self.speech[:4000])))

    # Exotel

    async def on_exotel(self, message, echo):
        event = message.get("event")
        if event == "connected":
            return
        n = int(message["sequence_number"])
        if n != getattr(self, "sequence", 0) + 1:
            self.wrong.append(f"sequence:{n}")
        self.sequence = n
        if event == "start":
            self.start = message
            start = message["start"]
            if start["media_format"]["sample_rate"] != "8000" or "streamSid" in start or "streamSid" in message:
                self.wrong.append("start")
            say(started=self.path, call_sid=start["call_sid"], account_sid=start["account_sid"])
        elif event == "media":
            self.media += 1
            media = message["media"]
            if int(media["chunk"]) != self.media or int(media["timestamp"]) != len(self.heard) * 1000 // RATE:
                self.wrong.append("media")
            self.heard.frombytes(base64.b64decode(media["payload"], validate=True))
            if echo:
                await self.ws.send(json.dumps(self.chunk(media["payload"])))
        elif event == "mark":
            self.marks.append(message["mark"]["name"])
        elif event == "dtmf":
            self.digits += message["dtmf"]["digit"]
        elif event == "stop":
            self.stops += 1
            if message["stop"]["call_sid"] != self.start["start"]["call_sid"]:
                self.wrong.append("stop")
        else:
            self.wrong.append(f"event:{event}")

    def chunk(self, payload):
        return {"event": "media", "stream_sid": self.start["stream_sid"], "media": {"payload": payload}}

    @staticmethod
    def coded(samples):
        return base64.b64encode(array.array("h", samples).tobytes()).decode()

    async def mark(self, name):
        await self.ws.send(
            json.dumps({"event": "mark", "stream_sid": self.start["stream_sid"], "mark": {"name": name}})
        )

    async def exotel_echo(self):
        pass

    async def exotel_marks(self):
        """Chunks of 3,200 bytes, a mark after each."""
        for n in range(0, len(self.speech), 1600):
            await self.ws.send(json.dumps(self.chunk(self.coded(self.speech[n : n + 1600]))))
            await self.mark(f"m{n // 1600}")
        say(sent=self.path, packets=len(range(0, len(self.speech), 1600)))

    async def exotel_clear(self):
        """10 s in three messages of at most 100,000 bytes; after a clear every mark comes back at once."""
        ten_seconds = (self.speech * (10 * RATE // len(self.speech) + 1))[: 10 * RATE]
        for n in range(0, len(ten_seconds), 32000):
            await self.ws.send(json.dumps(self.chunk(self.coded(ten_seconds[n : n + 32000]))))
            await self.mark(f"m{n // 32000}")
        await asyncio.sleep(1)
        await self.clear({"event": "clear", "stream_sid": self.start["stream_sid"]})
        await asyncio.sleep(0.5)
        await self.ws.send(json.dumps(self.chunk(self.coded([4242] * 800))))
        await self.mark("after")
        await self.until(lambda: "after" in self.marks)
        say(after=self.path)

    async def exotel_oddities(self):
        speech, at = self.speech, 0

        def take(n):
            nonlocal at
            at += n
            return self.coded(speech[at - n : at])

        send = self.ws.send
        await send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        await send(json.dumps({"type": "hello"}))
        await send(json.dumps({"event": "applause", "media": {"payload": "AAAA"}}))
        no_event = self.chunk(take(800))
        del no_event["event"]
        await send(json.dumps(no_event))
        camel = self.chunk(take(800))
        camel["streamSid"] = camel.pop("stream_sid")
        camel.update(sequenceNumber=7)
        camel["media"].update(chunk=1, timestamp="0", track="outbound")
        await send(json.dumps(camel))
        await send(json.dumps(self.chunk(take(800))).encode())
        await send(json.dumps({"event": "media", "payload": take(800)}))
        await send(json.dumps(self.chunk(take(800).rstrip("="))))
        await send(json.dumps(self.chunk(take(800))).replace("/", "\\/"))
        await send(list(json.dumps(self.chunk(take(160)))))
        await send('{"event":"media","media":{"payload":"AAA')
        await send(json.dumps(self.chunk("this is not base64!")))
        # The longest message that the vendor's page allows: 100,000 bytes of PCM would be 6 s; 32,000 are enough here.
        big = json.dumps(self.chunk(take(16000)))
        say(big=self.path, bytes=len(big))
        await send(big)
        rest = json.dumps(self.chunk(take(len(speech) - at)))
        await send([rest[n : n + 1001] for n in range(0, len(rest), 1001)])
        await self.ws.send(json.dumps({"event": "mark", "name": "flat"}))
        await self.mark('the-"last"-\u00e9')
        say(sent=self.path)

    async def exotel_close(self):
        await self.ws.send(json.dumps(self.chunk(self.coded(self.speech[:4000]))))
        await self.ws.close()


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ca", type=pathlib.Path, required=True)
    parser.add_argument("--speech", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    speech = array.array("h", args.speech.read_bytes()).tolist()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(args.ca / "server.pem", args.ca / "server.key")

    async def refuse(connection, request):
        if request.path == "/refuse":
            return connection.respond(403, "not on this number\n")
        return None

    async def on_call(ws):
        call = Call(ws, speech, args.out)
        if ws.protocol.extensions:
            call.wrong.append("extension")
        listening = asyncio.create_task(call.listen())
        try:
            await call.until(lambda: call.start or listening.done())
            await getattr(call, call.path.strip("/").replace("/", "_"))()
        except websockets.ConnectionClosed:
            call.wrong.append("cut")
        except TimeoutError:
            call.wrong.append("timeout")
        await listening
        call.report()

    # max_size is for what it reads; compression is on, as by default, and has to be declined by nobody.
    async with serve(on_call, "127.0.0.1", 0, ssl=tls, process_request=refuse) as server:
        say(listening=server.sockets[0].getsockname()[1])
        # It ends with the test that started it.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
