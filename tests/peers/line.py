"""A PBX whose AudioSocket messages are written and read by the PyPI package `asterisk-ai-voice-agent`.

No package plays Asterisk's side whole: those that know AudioSocket are servers. This one exports its codec, so the
socket and the clock are ours here and every byte is theirs.
"""

import argparse
import asyncio
import contextlib
import pathlib
import time
import uuid

from asterisk_ai_voice_agent.audiosocket import FRAME_BYTES, FRAME_SEC, Frame, FrameType, audio_frame, hangup_frame


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--uuid", type=uuid.UUID, required=True)
    parser.add_argument("--play", type=pathlib.Path, required=True)
    parser.add_argument("--record", type=pathlib.Path, required=True)
    parser.add_argument("--goodbye", choices=["hangup", "close"], default="hangup")
    args = parser.parse_args()
    speech = args.play.read_bytes()
    reader, writer = await asyncio.open_connection("127.0.0.1", args.port)
    heard, lengths = bytearray(), set()
    ended = "close"

    async def listen():
        nonlocal ended
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                frame = await Frame.read(reader)
                if frame.type == FrameType.HANGUP:
                    ended = "hangup"
                    return
                assert frame.type == FrameType.AUDIO, frame
                heard.extend(frame.payload)
                lengths.add(len(frame.payload))

    listening = asyncio.create_task(listen())
    writer.write(Frame(type=FrameType.UUID, payload=args.uuid.bytes).encode())
    due = time.monotonic()
    for n in range(0, len(speech), FRAME_BYTES):
        if listening.done():
            break
        writer.write(audio_frame(speech[n : n + FRAME_BYTES]).encode())
        due += FRAME_SEC
        await asyncio.sleep(max(0, due - time.monotonic()))
    by = "server" if listening.done() else "us"
    if by == "us":
        if args.goodbye == "hangup":
            writer.write(hangup_frame().encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            writer.write_eof()
        # The server answers a goodbye by closing.
        await asyncio.wait_for(listening, 10)
    writer.close()
    args.record.write_bytes(heard)
    print(f"ended=line by={by} with={ended} heard={len(heard) // 2} lengths={sorted(lengths)}", flush=True)


asyncio.run(main())
