"""OpenAI's own Python SDK (PyPI `openai`) as the client of a Realtime server: sets up a session, plays a file to the
clock and records what comes back. Every message that comes is checked against the SDK's own types.
"""

import argparse
import asyncio
import base64
import pathlib
import warnings

import openai.types.beta.realtime as beta_types
import openai.types.realtime as ga_types
import websockets
from openai import AsyncOpenAI
from pydantic import BaseModel, TypeAdapter


def unknown(model):
    """The keys that the SDK's types do not have, at any depth."""
    if isinstance(model, BaseModel):
        yield from (model.model_extra or {})
        for name in type(model).model_fields:
            yield from unknown(getattr(model, name))
    elif isinstance(model, list):
        for element in model:
            yield from unknown(element)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--api", choices=["ga", "beta"], required=True)
    parser.add_argument("--sound", choices=["pcm", "pcmu"], required=True)
    parser.add_argument("--play", type=pathlib.Path, required=True, help="as it goes over the wire")
    parser.add_argument("--record", type=pathlib.Path, required=True)
    parser.add_argument("--interrupted", action="store_true", help="the server will hear us speak; tell what was heard")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    ga = args.api == "ga"
    types = TypeAdapter((ga_types if ga else beta_types).RealtimeServerEvent)
    client = AsyncOpenAI(api_key="none", base_url="http://127.0.0.1:9/v1", websocket_base_url=args.url)
    realtime = client.realtime if ga else client.beta.realtime
    frame = 960 if args.sound == "pcm" else 160
    speech = args.play.read_bytes()
    heard, kinds, extra, statuses = bytearray(), [], set(), []
    played = asyncio.Event()
    truncated = "none"

    async with realtime.connect(model="marble") as connection:

        async def next_event():
            event = types.validate_json(await connection.recv_bytes())
            extra.update(unknown(event))
            if not kinds or kinds[-1] != event.type:
                kinds.append(event.type)
            return event

        async def listen():
            nonlocal truncated
            try:
                while True:
                    event = await next_event()
                    if event.type in ("response.output_audio.delta", "response.audio.delta"):
                        heard.extend(base64.b64decode(event.delta, validate=True))
                    elif event.type == "input_audio_buffer.speech_started":
                        await connection.conversation.item.truncate(item_id="item_1", content_index=0, audio_end_ms=20)
                    elif event.type == "conversation.item.truncated":
                        truncated = f"{event.item_id}@{event.audio_end_ms}"
                    elif event.type == "response.done":
                        reason = event.response.status_details.reason or "none"
                        statuses.append(f"{event.response.status}/{reason}")
                        played.set()
                    elif event.type == "error":
                        statuses.append(f"error:{event.error.code}")
            except websockets.ConnectionClosed:
                pass
            played.set()

        assert (await next_event()).type == "session.created"
        if ga:
            sound = {"type": "audio/pcm", "rate": 24000} if args.sound == "pcm" else {"type": "audio/pcmu"}
            audio = {"input": {"format": sound}, "output": {"format": sound}}
            await connection.session.update(session={"type": "realtime", "audio": audio})
        else:
            sound = "pcm16" if args.sound == "pcm" else "g711_ulaw"
            await connection.session.update(session={"input_audio_format": sound, "output_audio_format": sound})
        updated = await next_event()
        assert updated.type == "session.updated", updated
        got = updated.session.audio.output.format.to_dict() if ga else updated.session.output_audio_format
        assert got == sound, got
        listening = asyncio.create_task(listen())
        loop = asyncio.get_running_loop()
        due = loop.time()
        at = 0
        while not played.is_set():
            # When the file is over the line goes on, silent, as a line does.
            audio = speech[at : at + frame] if at < len(speech) else (b"\0" if args.sound == "pcm" else b"\xff") * frame
            at += frame
            await connection.input_audio_buffer.append(audio=base64.b64encode(audio).decode())
            due += 0.02
            await asyncio.sleep(max(0, due - loop.time()))
            if not args.interrupted and at == len(speech):
                # An echo of silence would go on for ever.
                await asyncio.sleep(1)
                await connection.input_audio_buffer.commit()
                await asyncio.wait_for(played.wait(), 10)
        await asyncio.sleep(0.3)
        await connection.response.cancel()
        await asyncio.sleep(0.3)
        await connection.close()
        await asyncio.wait_for(listening, 10)
    args.record.write_bytes(heard)
    print(f"ended=client heard={len(heard)} extra={','.join(sorted(extra)) or 'none'} truncated={truncated} "
          f"statuses={','.join(statuses)} kinds={','.join(kinds)}", flush=True)


asyncio.run(main())
