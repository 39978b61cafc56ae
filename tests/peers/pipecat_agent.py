"""A voice agent with Pipecat's own serializers (PyPI `pipecat-ai`), on the PyPI package `websockets`.

Nobody tells it whom it talks to: Pipecat's detector reads that from the first two messages, as it does for most agents
that are built on it. Vonage it does not know, so that `websocket:connected` is read here.

A call: the caller's voice is echoed frame by frame until enough of it was heard; then come some seconds of one sample
in one message, an interruption while they are heard, and a tenth of a second of another sample. What was heard is in
OUT/DIALECT.raw (PCM16, 8 kHz).

Prints `listening=PORT`, then one line of key=value for whatever a test has to know.
"""

import argparse
import array
import asyncio
import json
import pathlib
import sys
import types

import websockets
from pipecat.frames.frames import InputAudioRawFrame, InputDTMFFrame, InterruptionFrame, OutputAudioRawFrame
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.exotel import ExotelFrameSerializer
from pipecat.serializers.plivo import PlivoFrameSerializer
from pipecat.serializers.telnyx import TelnyxFrameSerializer
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.serializers.vonage import VonageFrameSerializer
from websockets.asyncio.server import serve

RATE = 8000


def say(**facts):
    print(" ".join(f"{key}={value}" for key, value in facts.items()), flush=True)


class Opening:
    """A connection as Pipecat's detector wants it, FastAPI's; what it has read is kept."""

    def __init__(self, ws):
        self.ws, self.read = ws, []

    async def iter_text(self):
        while True:
            yield await self.next()

    async def next(self):
        self.read.append(await self.ws.recv())
        return self.read[-1]


class AsIfUnread(Opening):
    """The same, from its first message on."""

    def __init__(self, opening):
        super().__init__(opening.ws)
        self.unread = opening.read

    async def next(self):
        if not self.unread:
            return await super().next()
        self.read.append(self.unread.pop(0))
        return self.read[-1]


async def detect(ws):
    """The dialect, its serializer, and the messages that it took to know."""
    opening = Opening(ws)
    first = json.loads(await opening.next())
    if first.get("event") == "websocket:connected":
        sound, _, rate = first["content-type"].partition(";rate=")
        if sound != "audio/l16":
            raise ValueError(sound)
        params = VonageFrameSerializer.InputParams(vonage_sample_rate=int(rate), sample_rate=RATE)
        return "vonage", VonageFrameSerializer(params), opening.read
    opening = AsIfUnread(opening)
    dialect, call = await parse_telephony_websocket(opening)
    # To hang up it would ask the vendor's REST API.
    stays = {"sample_rate": RATE, "auto_hang_up": False}
    if dialect == "twilio":
        params = TwilioFrameSerializer.InputParams(**stays)
        serializer = TwilioFrameSerializer(call.stream_id, call.call_id, params=params)
    elif dialect == "telnyx":
        params = TelnyxFrameSerializer.InputParams(**stays)
        coding = call.outbound_encoding
        serializer = TelnyxFrameSerializer(call.stream_id, coding, coding, call.call_id, params=params)
    elif dialect == "plivo":
        params = PlivoFrameSerializer.InputParams(**stays)
        serializer = PlivoFrameSerializer(call.stream_id, call.call_id, params=params)
    elif dialect == "exotel":
        params = ExotelFrameSerializer.InputParams(sample_rate=RATE)
        serializer = ExotelFrameSerializer(call.stream_id, call.call_id, params=params)
    else:
        raise ValueError(dialect)
    if not (call.stream_id and call.call_id):
        raise ValueError("ids")
    return dialect, serializer, opening.read


class Call:
    def __init__(self, ws, args):
        self.ws, self.args = ws, args
        self.dialect = "unknown"
        self.serializer = None
        self.heard = array.array("h")
        self.voice = 0
        self.digits = ""
        self.wrong = []
        self.speaking = None

    async def listen(self):
        """Reads to the end of the connection."""
        try:
            self.dialect, self.serializer, read = await detect(self.ws)
            # Of a pipeline's setup a serializer reads this alone.
            await self.serializer.setup(types.SimpleNamespace(audio_in_sample_rate=RATE))
            for message in read:
                await self.take(message)
            async for message in self.ws:
                await self.take(message)
        except websockets.ConnectionClosed:
            pass
        except ValueError as error:
            self.wrong.append(f"detected:{error}".replace(" ", "_"))
        if self.speaking is not None:
            await self.speaking

    async def take(self, message):
        frame = await self.serializer.deserialize(message)
        if isinstance(frame, InputDTMFFrame):
            self.digits += frame.button.value
        elif isinstance(frame, InputAudioRawFrame):
            if (frame.sample_rate, frame.num_channels) != (RATE, 1):
                self.wrong.append("format")
            samples = array.array("h", frame.audio)
            self.heard.extend(samples)
            self.voice += sum(sample != 0 for sample in samples)
            if self.speaking is None:
                await self.say(frame.audio)
                if self.voice >= self.args.voice:
                    self.speaking = asyncio.create_task(self.be_interrupted())

    async def say(self, audio):
        await self.send(OutputAudioRawFrame(audio=audio, sample_rate=RATE, num_channels=1))

    async def send(self, frame):
        message = await self.serializer.serialize(frame)
        if message is None:
            self.wrong.append(f"unsaid:{type(frame).__name__}")
        else:
            await self.ws.send(message)

    async def be_interrupted(self):
        try:
            await self.say(array.array("h", [self.args.late] * (3 * RATE)).tobytes())
            await asyncio.sleep(0.5)
            await self.send(InterruptionFrame())
            await self.say(array.array("h", [self.args.after] * (RATE // 10)).tobytes())
            say(after=self.dialect)
        except websockets.ConnectionClosed:
            self.wrong.append("cut")

    def report(self):
        self.heard.tofile((self.args.out / f"{self.dialect}.raw").open("wb"))
        say(
            ended=self.dialect,
            path=self.ws.request.path,
            code=self.ws.close_code,
            heard=len(self.heard),
            voice=self.voice,
            digits=self.digits or "none",
            wrong=",".join(self.wrong) or "none",
        )


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--voice", type=int, required=True, help="samples of voice to echo")
    parser.add_argument("--late", type=int, required=True, help="the sample that is interrupted")
    parser.add_argument("--after", type=int, required=True, help="the sample that is said after it")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()

    async def on_call(ws):
        call = Call(ws, args)
        await call.listen()
        call.report()

    async with serve(on_call, "127.0.0.1", 0) as server:
        say(listening=server.sockets[0].getsockname()[1])
        # It ends with the test that started it.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
