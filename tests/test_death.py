"""SIGKILL at any moment: after the last restart there is one image per row, and nothing was paid for twice."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import itertools
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mortal import MOMENTS
from shop import EMULATOR, QUICK, Shop, open_shop
from tileferry.emulator import CallKind

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that is killed needs fork")

CONCURRENCY = 3


@dataclass
class Mortals:
    """Carries out runs in processes that may die."""

    process: asyncio.subprocess.Process

    async def run(self, shop: Shop, moment: str = "any", count: int = 0) -> dict[str, Any]:
        """One life over the shop's manifest, until the moment or its natural end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        case = {
            "moment": moment,
            "count": count,
            "manifest": str(shop.folder / "shop.csv"),
            "ledger": str(shop.settings.ledger),
            "results": str(shop.folder / "results.csv"),
            "api_url": shop.settings.api_url,
            "store_id": shop.settings.store_id,
            "token": shop.credentials.token,
            "concurrency": CONCURRENCY,
            "timing": asdict(replace(QUICK, settle=0.1)),
        }
        self.process.stdin.write(json.dumps(case).encode() + b"\n")
        await self.process.stdin.drain()
        told = await self.process.stdout.readline()
        return dict(json.loads(told))


@contextlib.asynccontextmanager
async def open_mortals() -> AsyncIterator[Mortals]:
    """The program that starts and mourns them."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("mortal.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Mortals(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


@contextlib.asynccontextmanager
async def open_stocked_shop(folder: Path, rows: int) -> AsyncIterator[Shop]:
    """A shop with a manifest of so many good rows (the last a duplicate of the first) and one bad one."""
    folder.mkdir(exist_ok=True)
    async with open_shop(folder, replace(EMULATOR, processing=(0.0, 0.01))) as shop:
        pictures = shop.pictures(rows - 1, tiles=3)
        with (folder / "shop.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("tileId", "path"))
            table.writerows((row.tile_id, row.source) for row in pictures)
            table.writerow((pictures[0].tile_id, pictures[0].source))
            table.writerow(("hero", "nowhere.jpg"))
        yield shop


def check_end(shop: Shop, rows: int) -> None:
    """Everything is where it belongs: one image per distinct row, and results that say so."""
    truth = shop.emulator.truth()
    assert truth.duplicates == ()
    assert len(truth.images) == rows - 1
    assert truth.reposts == 0
    with (shop.folder / "results.csv").open(encoding="utf-8", newline="") as file:
        results = list(csv.DictReader(file))
    assert [int(result["line"]) for result in results] == list(range(2, rows + 3))
    stored = {image.image_id: image.digest for image in truth.images}
    for result in results[:-1]:
        assert result["status"] in {"uploaded", "unchanged", "duplicate"}
        assert stored[result["image_id"]] == result["digest"]
    assert results[-1]["status"] == "failed"


@pytest.mark.parametrize("moment", MOMENTS)
async def test_death_at_every_moment_of_a_run(moment: str, tmp_path: Path) -> None:
    """Killed at the n-th moment of each kind, for every n, a second run ends with one image per row.

    It never sends a second body for a stored image, and reserves again at most what was in flight.
    """
    rows = 4
    deaths = 0
    async with open_mortals() as mortals:
        for count in itertools.count(1):
            async with open_stocked_shop(tmp_path / str(count), rows) as shop:
                if not (await mortals.run(shop, moment, count))["died"]:
                    # The run had fewer such moments: all of them have been died at.
                    check_end(shop, rows)
                    break
                deaths += 1
                assert not (await mortals.run(shop))["died"]
                check_end(shop, rows)
                assert shop.emulator.truth().calls[CallKind.RESERVE] <= rows - 1 + CONCURRENCY
    assert deaths >= rows - 1


async def test_a_hundred_deaths_in_one_migration(tmp_path: Path) -> None:
    """A migration that is killed at a hundred random moments ends with one image per row.

    Rows that are confirmed cost no call, so all those lives together ask at most about what was in flight.
    """
    rows = 250
    chance = random.Random(20)
    async with open_mortals() as mortals, open_stocked_shop(tmp_path, rows) as shop:
        deaths = 0
        while deaths < 100 and (await mortals.run(shop, "any", chance.randint(1, 50)))["died"]:
            deaths += 1
        assert deaths == 100
        await mortals.run(shop)
        check_end(shop, rows)
        before = shop.emulator.truth().calls
        assert before[CallKind.RESERVE] <= rows - 1 + deaths * CONCURRENCY
        await mortals.run(shop)
        after = shop.emulator.truth().calls
        assert {kind: after[kind] - before[kind] for kind in after} == {
            kind: int(kind is CallKind.BUCKETS) for kind in after
        }
