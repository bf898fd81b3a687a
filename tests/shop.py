"""A shop on loopback for tests of whole runs: an emulator, pictures on disk, and a way to upload them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.pictures import make
from tileferry import Credentials, FatalError, Listener, Outcome, Pace, Row, Settings, Summary, Timing, open_run
from tileferry.emulator import Emulator, EmulatorSettings
from tileferry.events import Event
from tileferry.model import ImageKind

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

EMULATOR = EmulatorSettings(rate=None, processing=(0.0, 0.02))


@dataclass
class Shop:
    """`events` and `summary` are those of the latest upload."""

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
        rows: Iterable[Row],
        *,
        timing: Timing | None = None,
        listeners: Sequence[Listener] = (),
        **changes: object,
    ) -> list[Outcome]:
        """One run over `rows`; the outcomes in manifest order. What ended it early is in `ended`."""
        settings = replace(self.settings, timing=timing or self.settings.timing, **changes)  # type: ignore[arg-type]
        self.events.clear()
        self.ended = None
        async with open_run(
            settings, self.credentials, listeners=[self.events.append, *listeners]
        ) as run:
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


@contextlib.asynccontextmanager
async def open_shop(folder: Path, emulator: EmulatorSettings = EMULATOR) -> AsyncIterator[Shop]:
    """A shop whose files, ledger included, are in `folder`."""
    async with Emulator(emulator) as running:
        yield Shop(
            emulator=running,
            folder=folder,
            settings=Settings(
                store_id=emulator.store_id,
                api_url=running.api_url,
                ledger=folder / "ledger.sqlite3",
                pace=Pace(rate=1_000_000),
                timing=QUICK,
            ),
            credentials=Credentials(token=emulator.token),
        )


def _seed(name: str) -> int:
    return sum(ord(character) * (place + 1) for place, character in enumerate(name))
