"""The long chaos run: thousands of images, faults in a fifth of all calls, tokens that expire, and kills.

    python -m benchmarks.soak               (10,000 images, 20 % faults, a token every 20 s, a kill every 4 s)
    python -m benchmarks.soak --images 300 --kill-every 1 --seconds 120    (the short one)

tileferry runs as a process of its own, on its own defaults but for shorter waits; the emulator runs here. Each
time the process is killed it is started again, until it ends by itself. Then the emulator's truth is compared with
the files. All traffic is on loopback, and the whole stops by itself after `--seconds`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pictures import make
from tileferry.emulator import CallKind, Emulator, EmulatorSettings, FaultKind
from tileferry.model import ImageKind

WAITS = {
    "first_result": 0.3,
    "settle": 3.0,
    "resend": 10.0,
    "backoff": 0.05,
    "backoff_limit": 1.0,
    "cool_down": 0.2,
    "probe": 0.1,
    "probe_limit": 1.0,
    "answer": 2.0,
    "stall": 2.0,
    "connect": 2.0,
    "patience": 300.0,
}
"""Seconds (see `tileferry.Timing`): the real waits, some ten times shorter, since the emulator is near."""

RUN = """
import asyncio, json, os, sys
from pathlib import Path
from tileferry import Credentials, Pace, Settings, Timing, open_manifest, open_run

async def main(job):
    settings = Settings(
        store_id=job["store"], api_url=job["api_url"], ledger=Path(job["ledger"]),
        pace=Pace(rate=1_000_000, concurrency=32), timing=Timing(**job["waits"]),
    )
    credentials = Credentials(secret_token=os.environ["ECWID_SECRET_TOKEN"], auth_url=job["api_url"])
    counts = {}
    async with open_run(settings, credentials) as run:
        async for outcome in run.upload(open_manifest(Path(job["manifest"])).rows()):
            counts[outcome.status.value] = counts.get(outcome.status.value, 0) + 1
            if outcome.error:
                print(outcome.line, outcome.error, file=sys.stderr)
    print(json.dumps(counts))

asyncio.run(main(json.loads(sys.argv[1])))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one soak is made of."""

    images: int
    fault_rate: float
    token_seconds: float
    kill_every: float
    seconds: float
    seed: int


def prepare(folder: Path, images: int) -> set[tuple[str, str]]:
    """The pictures and their manifest; returns (tile, digest) of all that must be stored."""
    wanted = set()
    kinds = list(ImageKind)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("tileId", "path"))
        for number in range(images):
            # One in fifty is large enough to be streamed from disk.
            size = 400_000 if number % 50 == 0 else None
            content = make(kinds[number % 4], width=16, height=16, seed=number, approx_bytes=size)
            path = folder / f"{number}.picture"
            path.write_bytes(content)
            tile = f"tile {number % 97}"
            table.writerow((tile, path.name))
            wanted.add((tile, hashlib.sha256(content).hexdigest()))
    return wanted


async def migrate(plan: Plan, emulator: Emulator, folder: Path) -> tuple[int, dict[str, int]]:
    """Run until it ends by itself; returns how often it was killed and how its rows ended at last."""
    chance = random.Random(plan.seed)
    job = {
        "store": emulator.settings.store_id,
        "api_url": emulator.api_url,
        "ledger": str(folder / "ledger.sqlite3"),
        "manifest": str(folder / "manifest.csv"),
        "waits": WAITS,
    }
    kills = 0
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            RUN,
            json.dumps(job),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "ECWID_SECRET_TOKEN": emulator.settings.secret_token},
        )
        ending = asyncio.create_task(process.communicate())
        lifetime = plan.kill_every * chance.uniform(0.5, 1.5) if plan.kill_every else plan.seconds
        await asyncio.wait([ending], timeout=lifetime)
        if not ending.done():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            kills += 1
            await ending
            continue
        stdout, _ = await ending
        if process.returncode:
            raise SystemExit(f"the run failed with exit code {process.returncode}")
        return kills, json.loads(stdout)


async def soak(plan: Plan) -> bool:
    """One soak; prints its table and returns whether every promise held."""
    with tempfile.TemporaryDirectory(prefix="tileferry-soak-") as name:
        folder = Path(name)
        wanted = await asyncio.to_thread(prepare, folder, plan.images)
        settings = EmulatorSettings(
            rate=None,
            processing=(0.05, 0.5),
            token_lifetime=plan.token_seconds,
            fault_rate=plan.fault_rate,
            fault_kinds=tuple(FaultKind),
            seed=plan.seed,
        )
        started = time.monotonic()
        async with Emulator(settings) as emulator, asyncio.timeout(plan.seconds):
            kills, statuses = await migrate(plan, emulator, folder)
            truth = emulator.truth()
        seconds = time.monotonic() - started
    stored = Counter((image.tile, image.digest) for image in truth.images)
    duplicates = sum(number - 1 for number in stored.values())
    lost = len(wanted - stored.keys())
    api_calls = sum(
        number for kind, number in truth.calls.items() if kind not in {CallKind.UPLOAD, CallKind.CONTROL}
    )
    least = 2 * len(wanted)
    rows: list[tuple[str, object]] = [
        ("images", len(wanted)),
        ("stored", len(stored)),
        ("duplicates", duplicates),
        ("lost", lost),
        ("rows at the end", ", ".join(f"{number} {status}" for status, number in statuses.items())),
        ("faults", sum(truth.faults.values())),
        ("restarts after a kill", kills),
        ("tokens exchanged", truth.calls.get(CallKind.TOKEN, 0)),
        ("bodies posted again to a stored image", truth.reposts),
        ("API calls an image", f"{api_calls / len(wanted):.2f}"),
        ("API calls beyond two an image", api_calls - least),
        ("uploads an image", f"{truth.calls.get(CallKind.UPLOAD, 0) / len(wanted):.2f}"),
        ("token sent to the wrong place", truth.token_leaks),
        ("seconds", f"{seconds:.0f}"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return duplicates == 0 and lost == 0 and "failed" not in statuses and truth.token_leaks == 0


def main() -> int:
    """Read the options, soak, and tell by the exit code whether every promise held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--fault-rate", type=float, default=0.2)
    parser.add_argument("--token-seconds", type=float, default=20.0)
    parser.add_argument("--kill-every", type=float, default=4.0, help="seconds between kills; 0: never")
    parser.add_argument("--seconds", type=float, default=1800.0, help="the bound on the whole")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    plan = Plan(
        images=asked.images,
        fault_rate=asked.fault_rate,
        token_seconds=asked.token_seconds,
        kill_every=asked.kill_every,
        seconds=asked.seconds,
        seed=asked.seed,
    )
    return 0 if asyncio.run(soak(plan)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
