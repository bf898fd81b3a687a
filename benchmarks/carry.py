"""One shop of five hundred pictures, carried whole: are the bytes right, and how much memory does it take?

    python -m benchmarks.carry

Pictures of all four kinds from 2 KB to 20 MB, under names in several scripts, over a few dozen tiles; some tiles
share a picture, and one tile has many. tileferry runs as its own command, twice, against the emulator in this
process; the emulator's truth is compared with the files. The second run must upload nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import hashlib
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.pictures import make
from tileferry.emulator import CallKind, Emulator, EmulatorSettings
from tileferry.model import MAX_IMAGE_BYTES, ImageKind

RUN = """
import resource, sys
from pathlib import Path
from tileferry.cli import main

code = main(sys.argv[1:])
status = Path("/proc/self/status")
if status.exists():
    # Counted since this program began; getrusage would include the process that it was started from.
    (peak,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
print(peak)
sys.exit(code)
"""
"""The command line, and then its peak memory in KB on standard output."""

WORDS = ("teapot", "Grüße", "чайник", "急須", "إبريق", "🍵", "with space", 'a "quote"', "per%cent", "plus+plus")


def sizes(number: int) -> list[int]:
    """Bytes for each picture, from 2 KB to exactly 20 MB; most are small."""
    return [round(2048 * (MAX_IMAGE_BYTES / 2048) ** ((n / (number - 1)) ** 2)) for n in range(number)]


def prepare(folder: Path, number: int) -> set[tuple[str, str]]:
    """The pictures and their manifest; returns (tile, digest) of all that must be stored."""
    kinds = list(ImageKind)
    wanted = set()
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("tileId", "path"))
        for n, size in enumerate(sizes(number)):
            kind = kinds[n % len(kinds)]
            content = make(kind, seed=n, approx_bytes=size)[:MAX_IMAGE_BYTES]
            path = folder / f"{WORDS[n % len(WORDS)]} {n}.{kind.name.lower()}"
            path.write_bytes(content)
            tiles = [f"tile/{n % 40}"] if n % 25 else ["gallery", "hero & more"]
            for tile in tiles:
                table.writerow((tile, path.name))
                wanted.add((tile, hashlib.sha256(content).hexdigest()))
    return wanted


async def upload(folder: Path, emulator: Emulator) -> tuple[float, float]:
    """One run of the command line; returns its seconds and its peak memory in MB."""
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, "upload", str(folder / "manifest.csv")),
        *("--store", str(emulator.settings.store_id), "--api-url", emulator.api_url),
        *("--ledger", str(folder / "ledger.sqlite3"), "--results", str(folder / "results.csv")),
        *("--rate", "100000", "--concurrency", "16"),
        env={**os.environ, "ECWID_TOKEN": emulator.settings.token},
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed with exit code {process.returncode}")
    return time.monotonic() - started, int(stdout) / 1024


async def carry(number: int) -> bool:
    """Both runs; prints the table and returns whether everything is as it should be."""
    with tempfile.TemporaryDirectory(prefix="tileferry-carry-") as name:
        folder = Path(name)
        wanted = await asyncio.to_thread(prepare, folder, number)
        total = sum(entry.stat().st_size for entry in os.scandir(folder))
        async with Emulator(EmulatorSettings(rate=None, processing=(0.3, 2.0))) as emulator:
            first, peak = await upload(folder, emulator)
            truth = emulator.truth()
            second, _ = await upload(folder, emulator)
            again = emulator.truth()
    stored = Counter((image.tile, image.digest) for image in truth.images)
    right = stored == Counter(wanted)
    rows: list[tuple[str, object]] = [
        ("pictures", f"{number} ({total / 1e6:.0f} MB)"),
        ("images wanted and stored", f"{len(wanted)} and {len(truth.images)}"),
        ("every digest equals its file's", right),
        ("first run", f"{first:.1f} s, {total / 1e6 / first:.0f} MB/s"),
        ("second run", f"{second:.1f} s"),
        ("uploads in the second run", again.calls[CallKind.UPLOAD] - truth.calls[CallKind.UPLOAD]),
        ("API calls in the second run", again.calls[CallKind.BUCKETS] - truth.calls[CallKind.BUCKETS]),
        ("peak memory of the first run", f"{peak:.0f} MB"),
    ]
    width = max(len(name) for name, _ in rows)
    print()
    for label, value in rows:
        print(f"{label:<{width}}  {value}")
    return right and again.calls[CallKind.UPLOAD] == truth.calls[CallKind.UPLOAD]


def main() -> int:
    """Read the options, carry, and tell by the exit code whether everything is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=500)
    return 0 if asyncio.run(carry(parser.parse_args().pictures)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
