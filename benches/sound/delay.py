#!/usr/bin/env python3
"""How long a burst takes from the microphone's monitor to the speaker's: when each comes out of a parec of its own.

Both parecs wait alike, so what they add is in both times and not in the difference.
"""

import array
import os
import selectors
import statistics
import subprocess
import sys
import time

RATE = 48000
PIECE = 96  # bytes: 1 ms
LOUD = 3000


def record(source):
    return subprocess.Popen(
        ["parec", "-d", source, f"--rate={RATE}", "--channels=1", "--format=s16le", "--latency-msec=5"],
        stdout=subprocess.PIPE,
    )


def main():
    wav, seconds = sys.argv[1], float(sys.argv[2])
    ends = {name: record(f"{name}.monitor") for name in ("mic", "spk")}
    selector = selectors.DefaultSelector()
    begins = {name: [] for name in ends}
    rest = {name: b"" for name in ends}
    quiet = {name: 0 for name in ends}
    for name, end in ends.items():
        os.set_blocking(end.stdout.fileno(), False)
        selector.register(end.stdout, selectors.EVENT_READ, name)
    play = subprocess.Popen(["paplay", "--latency-msec=40", "-d", "mic", wav])
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for key, _ in selector.select(0.1):
            name = key.data
            data = os.read(key.fileobj.fileno(), 65536)
            now = time.monotonic()
            data = rest[name] + data
            whole = len(data) // PIECE * PIECE
            rest[name] = data[whole:]
            for at in range(0, whole, PIECE):
                if max(map(abs, array.array("h", data[at : at + PIECE]))) > LOUD:
                    if quiet[name] > 100:
                        begins[name].append(now - (len(data) - at) / PIECE / 1000)
                    quiet[name] = 0
                else:
                    quiet[name] += 1
    for process in (*ends.values(), play):
        process.kill()
        process.wait()
    delays = []
    for said in begins["mic"]:
        heard = [at for at in begins["spk"] if said < at < said + 0.4]
        if heard:
            delays.append((heard[0] - said) * 1000)
    if len(delays) < 10:
        sys.exit(f"delay.py: of {len(begins['mic'])} bursts {len(delays)} were heard")
    delays.sort()
    print(f"{len(delays)} {delays[0]:.1f} {statistics.median(delays):.1f} {delays[-1]:.1f}")


main()
