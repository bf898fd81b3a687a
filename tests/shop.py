"""A shop on loopback for tests of whole runs: an emulator, pictures on disk, and a way to upload them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from benchmarks.pictures import make
from tileferry import (
    BadRow,
    Credentials,
    FatalError,
    Listener,
    Outcome,
    Pace,
    Row,
    Settings,
    Status,
    Summary,
    Timing,
    open_run,
)
from tileferry.clock import Clock
from tileferry.emulator import Emulator, EmulatorSettings
from tileferry.events import Event
from tileferry.model import ImageKind

_E = TypeVar("_E")

QUICK = Timing(
    first_result=0.02,
    settle=0.4,
    resend=1.5,
    backoff=0.005,
    backoff_limit=0.05,
    cool_down=0.05,
    probe=0.01,
    probe_limit=0.05,
    answer=0.4,
    stall=0.3,
    connect=2.0,
    patience=20.0,
    grace=5.0,
)
"""Waits so short that nobody notices, and long enough for a busy machine."""

LONGEST_RUN = 40.0
"""Seconds after which a run counts as hanging, which fails its test and not the whole suite."""

EMULATOR = EmulatorSettings(rate=None, processing=(0.0, 0.02))


@dataclass
class Shop:
    """`events`, `summary` and `ended` (what ended it early, if anything did) are those of the latest upload."""

    emulator: Emulator
    folder: Path
    settings: Settings
    credentials: Credentials
    events: list[Event] = field(default_factory=list)
    summary: Summary | None = None
    ended: FatalError | None = None

    def picture(
        self,
        name: str,
        *,
        tile: str = "hero",
        kind: ImageKind = ImageKind.JPEG,
        seed: int | None = None,
        size: int | None = None,
        line: int = 2,
    ) -> Row:
        """A picture on disk and the row that asks for it."""
        path = self.folder / name
        path.write_bytes(make(kind, seed=_seed(name) if seed is None else seed, approx_bytes=size))
        return Row(line=line, tile_id=tile, source=name, path=path)

    def pictures(self, number: int, *, tiles: int = 5) -> list[Row]:
        """So many different pictures over a few tiles."""
        return [
            self.picture(f"picture-{n}.jpg", tile=f"tile {n % tiles}", seed=n, line=n + 2) for n in range(number)
        ]

    async def upload(
        self,
        rows: Iterable[Row | BadRow],
        *,
        settings: Settings | None = None,
        timing: Timing | None = None,
        credentials: Credentials | None = None,
        listeners: Sequence[Listener] = (),
        clock: Clock | None = None,
    ) -> list[Outcome]:
        """One run over `rows`; the outcomes in manifest order. What ended it early is in `ended`."""
        settings = settings or self.settings
        self.events.clear()
        self.ended = None
        async with (
            asyncio.timeout(LONGEST_RUN),
            open_run(
                replace(settings, timing=timing or settings.timing),
                credentials or self.credentials,
                listeners=[self.events.append, *listeners],
                clock=clock,
            ) as run,
        ):
            try:
                async for _ in run.upload(rows):
                    pass
            except FatalError as exc:
                self.ended = exc
            await run.flush()
            outcomes = list(run.outcomes())
        self.summary = run.summary
        return outcomes

    def stored(self) -> set[tuple[str, str]]:
        """What the emulator has: (tile, digest); proves on the way that nothing is there twice."""
        truth = self.emulator.truth()
        assert truth.duplicates == ()
        return {(image.tile, image.digest) for image in truth.images}

    def calls(self) -> Counter[str]:
        """How many calls of each kind the emulator has seen."""
        return Counter({str(kind): number for kind, number in self.emulator.truth().calls.items()})

    def heard(self, kind: type[_E]) -> list[_E]:
        """The events of one kind in the latest upload."""
        return [event for event in self.events if isinstance(event, kind)]


@contextlib.asynccontextmanager
async def open_shop(
    folder: Path, emulator: EmulatorSettings = EMULATOR, *, clock: Callable[[], float] | None = None
) -> AsyncIterator[Shop]:
    """A shop whose files, ledger included, are in `folder`. `clock` is the emulator's."""
    async with Emulator(emulator) if clock is None else Emulator(emulator, clock=clock) as running:
        yield Shop(
            emulator=running,
            folder=folder,
            settings=Settings(
                store_id=emulator.store_id,
                api_url=running.api_url,
                ledger=folder / "ledger.sqlite3",
                field_name=emulator.field_name,
                pace=Pace(rate=1_000_000),
                timing=QUICK,
            ),
            credentials=Credentials(token=emulator.token, auth_url=running.auth_url),
        )


def identity(row: Row) -> tuple[str, str]:
    """What an upload of this row is known by: its tile, and the digest of its file as it is now."""
    return row.tile_id, hashlib.sha256(row.path.read_bytes()).hexdigest()


def identities(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """What a shop has stored when all `rows` are in it."""
    return {identity(row) for row in rows}


def statuses(outcomes: Iterable[Outcome]) -> list[Status]:
    """How the rows ended, in manifest order."""
    return [outcome.status for outcome in outcomes]


def _seed(name: str) -> int:
    return sum(ord(character) * (place + 1) for place, character in enumerate(name))
