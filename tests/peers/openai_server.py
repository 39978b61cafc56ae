"""OpenAI's Realtime server, played on the PyPI package `websockets`: a scripted conversation with whoever calls. Every
message that it is sent is checked against the types of OpenAI's own SDK (PyPI `openai`), and no key may be there that
those do not have.

The path is the shape, `/ga` or `/beta`. One call does all of it: the session, a greeting of one large message, a caller
who interrupts it, late deltas, a truncation, transcripts, keys.
"""

import argparse
import asyncio
import base64
import json
import pathlib
import sys

import websockets
from openai.types.beta.realtime import RealtimeClientEvent as BetaClientEvent
from openai.types.realtime import RealtimeClientEvent
from pydantic import BaseModel, TypeAdapter, ValidationError
from websockets.asyncio.server import serve

GA, BETA = TypeAdapter(RealtimeClientEvent), TypeAdapter(BetaClientEvent)
FORMATS = {"audio/pcm": 48, "audio/pcmu": 8, "audio/pcma": 8, "pcm16": 48, "g711_ulaw": 8, "g711_alaw": 8}


def say(**facts):
    print(" ".join(f"{key}={value}" for key, value in facts.items()), flush=True)


def unknown(model):
    """The keys that the SDK's types do not have, at any depth."""
    if isinstance(model, BaseModel):
        yield from (model.model_extra or {})
        for name in type(model).model_fields:
            yield from unknown(getattr(model, name))
    elif isinstance(model, list):
        for element in model:
            yield from unknown(element)


class Call:
    def __init__(self, ws, args):
        self.ws, self.args = ws, args
        self.ga = ws.request.path.startswith("/ga")
        self.wrong = []
        self.got = asyncio.Queue()
        self.heard = bytearray()
        self.is_updated = False
        self.sent = 0
        if ws.request.headers.get("OpenAI-Beta") != (None if self.ga else "realtime=v1"):
            self.wrong.append("header")
        if "model=marble" not in ws.request.path:
            self.wrong.append("model")

    async def send(self, kind, **members):
        self.sent += 1
        await self.ws.send(json.dumps({"type": kind, "event_id": f"event_{self.sent}", **members}))

    async def listen(self):
        try:
            async for text in self.ws:
                try:
                    event = (GA if self.ga else BETA).validate_json(text)
                except ValidationError as error:
                    self.wrong.append(f"invalid:{text[:60]}:{error.error_count()}".replace(" ", "_"))
                    continue
                self.wrong += [f"key:{key}" for key in unknown(event)]
                if event.type == "input_audio_buffer.append":
                    if not self.is_updated:
                        self.wrong.append("early")
                    self.heard += base64.b64decode(event.audio, validate=True)
                else:
                    self.got.put_nowait(event)
        except websockets.ConnectionClosed:
            pass
        self.got.put_nowait(None)

    async def next(self, kind):
        event = await asyncio.wait_for(self.got.get(), 15)
        if event is None or event.type != kind:
            self.wrong.append(f"not_{kind}_but_{event and event.type}")
            raise EOFError
        return event

    def session(self, sound=None):
        """As the server tells it, in its shape."""
        if self.ga:
            sound = sound or {"type": "audio/pcm", "rate": 24000}
            detection = {"type": "server_vad", "create_response": True, "interrupt_response": True}
            audio = {"input": {"format": sound, "turn_detection": detection}, "output": {"format": sound, "voice": "marin"}}
            return {"type": "realtime", "object": "realtime.session", "id": "sess_1", "audio": audio}
        sound = sound or "pcm16"
        return {"id": "sess_1", "modalities": ["text", "audio"], "input_audio_format": sound, "output_audio_format": sound}

    async def speak(self, response, item, audio):
        kind = "response.output_audio.delta" if self.ga else "response.audio.delta"
        delta = base64.b64encode(audio).decode()
        await self.send(kind, response_id=response, item_id=item, output_index=0, content_index=0, delta=delta)

    async def respond(self, response, item, audio, transcript, status="completed"):
        await self.begin(response, item)
        await self.speak(response, item, audio)
        kind = "response.output_audio_transcript" if self.ga else "response.audio_transcript"
        of = {"response_id": response, "item_id": item, "output_index": 0, "content_index": 0}
        await self.send(f"{kind}.delta", delta=transcript, **of)
        await self.send(f"{kind}.done", transcript=transcript, **of)
        await self.end(response, status)

    async def begin(self, response, item):
        await self.send("response.created", response={"id": response, "status": "in_progress", "output": []})
        added = {"id": item, "type": "message", "role": "assistant", "content": []}
        await self.send("response.output_item.added", response_id=response, output_index=0, item=added)
        await self.send("conversation.item.added" if self.ga else "conversation.item.created", item=added)

    async def end(self, response, status, **details):
        details = {"type": status, **details}
        await self.send("response.done", response={"id": response, "status": status, "status_details": details})
        await self.send("rate_limits.updated", rate_limits=[])

    async def converse(self):
        await self.send("session.created", session=self.session())
        session = (await self.next("session.update")).session
        told = session.audio.input.format.type if self.ga else session.input_audio_format
        back = session.audio.output.format.type if self.ga else session.output_audio_format
        if told != back:
            self.wrong.append("formats")
        say(session=self.ws.request.path, sound=told, instructions=(session.instructions or "none").replace(" ", "_"))
        bytes_a_ms = FORMATS[told]
        # The caller speaks already; nothing of that may come before this.
        await asyncio.sleep(0.3)
        self.is_updated = True
        await self.send("session.updated", session=self.session(session.audio.input.format.to_dict() if self.ga else told))

        # The greeting, in one message; a second of it is heard, then the caller speaks.
        await self.next("response.create")
        speech = self.args.speech.read_bytes()
        await self.begin("resp_1", "item_1")
        await self.speak("resp_1", "item_1", speech)
        await asyncio.sleep(1)
        await self.send("input_audio_buffer.speech_started", audio_start_ms=1000, item_id="item_user")
        for _ in range(3):
            await self.speak("resp_1", "item_1", self.args.late.read_bytes())
        await self.end("resp_1", "cancelled", reason="turn_detected")
        cut = await self.next("conversation.item.truncate")
        if (cut.item_id, cut.content_index) != ("item_1", 0) or cut.audio_end_ms > len(speech) / bytes_a_ms:
            self.wrong.append("truncate")
        await self.send("conversation.item.truncated", item_id="item_1", content_index=0, audio_end_ms=cut.audio_end_ms)
        say(truncated=cut.audio_end_ms)
        transcribed = "conversation.item.input_audio_transcription"
        await self.send(f"{transcribed}.delta", item_id="item_user", content_index=0, delta="Stop")
        await self.send(f"{transcribed}.completed", item_id="item_user", content_index=0, transcript="Stop it.")
        error = {"type": "invalid_request_error", "code": "response_cancel_not_active", "message": "no response"}
        await self.send("error", error=error)
        await self.respond("resp_2", "item_2", self.args.after.read_bytes(), "As you wish.")
        say(after=self.ws.request.path)

        # A key, and after a pause its answer.
        item = (await self.next("conversation.item.create")).item
        if (item.role, item.content[0].type, item.content[0].text) != ("user", "input_text", "DTMF: 5"):
            self.wrong.append("key")
        await self.next("response.create")
        await self.respond("resp_3", "item_3", self.args.after.read_bytes(), "Five.")
        say(answered=self.ws.request.path)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--speech", type=pathlib.Path, required=True, help="the greeting, coded as on the wire")
    parser.add_argument("--late", type=pathlib.Path, required=True, help="what nobody may hear")
    parser.add_argument("--after", type=pathlib.Path, required=True)
    parser.add_argument("--heard", type=pathlib.Path, required=True, help="where the caller's voice goes")
    args = parser.parse_args()

    async def on_call(ws):
        call = Call(ws, args)
        listening = asyncio.create_task(call.listen())
        try:
            await call.converse()
        except (EOFError, websockets.ConnectionClosed):
            call.wrong.append("cut")
        except TimeoutError:
            call.wrong.append("timeout")
        await listening
        args.heard.write_bytes(call.heard)
        say(ended=ws.request.path, code=ws.close_code, heard=len(call.heard), wrong=",".join(call.wrong) or "none")

    async with serve(on_call, "127.0.0.1", 0) as server:
        say(listening=server.sockets[0].getsockname()[1])
        # It ends with the test that started it.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
