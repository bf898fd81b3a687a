"""Arbitrary answers, failures and restarts against a model of the server.

Whatever happens: never two images for one identity, never a confirmed row without an image, never a row forgotten,
and the run ends.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.pictures import make
from tileferry import Outcome, Pace, Row, Settings, Status, Timing
from tileferry.api import Api
from tileferry.clock import Clock
from tileferry.delay import ResultDelay
from tileferry.errors import (
    Delivery,
    FatalError,
    RejectedError,
    SlotRefusedError,
    ThrottledError,
    TileferryError,
    TransientError,
)
from tileferry.ferry import Ferry
from tileferry.ledger import open_ledger
from tileferry.model import ImageKind, Rendition, Slot, StoredImage
from tileferry.multipart import Body
from tileferry.pool import Pool
from tileferry.transfer import Means
from virtual_time import START, VirtualLoop

_T = TypeVar("_T")

TIMING = Timing(patience=600.0, settle=20.0, resend=60.0)

SLOWEST_DOUBT = 15.0
"""Seconds that the server may take to show an image: less than `Timing.settle`, which is what that is for."""

EXAMPLES = int(os.environ.get("TILEFERRY_EXAMPLES", "150"))
"""How many stories are tried; the same ones every time, and more of them on demand."""

TILES = ("hero", "gallery")
PICTURES = tuple(make(ImageKind.PNG, width=8, height=8, seed=seed) for seed in range(2))


class InlineLoop(VirtualLoop):
    """A virtual loop on which work for threads is done at once, so that the same draws make the same run."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., _T], *args: object
    ) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = self.create_future()
        try:
            future.set_result(func(*args))
        except TileferryError as exc:
            future.set_exception(exc)
        return future


class CrashError(FatalError):
    """The run is over in the middle of a call."""


@dataclass
class Place:
    """One slot on the server."""

    tile: str
    refused: int | None = None
    digest: bytes | None = None
    shows_at: float = 0.0


@dataclass
class Server:
    """The truth, and the misfortunes of the calls to it, drawn as they come; with `calm` there are none."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    calm: bool = False
    places: dict[str, Place] = field(default_factory=dict)
    lives: int = 0

    async def reserve(self, tile: str) -> Slot:
        """Reserve; or fail before, or after."""
        fate = self._fate("refuse", "lose question", "lose answer", "throttle")
        if fate == "lose question":
            raise TransientError("question lost")
        if fate == "throttle":
            raise ThrottledError("slow down", pause=1.0)
        if fate == "refuse":
            raise RejectedError("no such tile")
        image_id = f"image-{len(self.places)}"
        self.places[image_id] = Place(tile)
        if fate == "lose answer":
            raise TransientError("answer lost", delivery=Delivery.WHOLE)
        return Slot(image_id, f"https://upload.example/{image_id}?signature=x")

    async def upload(self, slot: Slot, body: Body) -> None:
        """Take the picture; or lose it, or the answer, or refuse it with or without keeping it."""
        place = self.places[slot.image_id]
        payload = b"".join([chunk async for chunk in body.stream()])
        if place.refused is not None:
            raise SlotRefusedError("slot gone", status=place.refused)
        if place.digest is not None:
            raise SlotRefusedError("slot used", status=409)
        fate = self._fate(
            "not reached",
            "part arrives",
            "lost on the way",
            "answer lost",
            "accepted and lost",
            "refused",
            "refused and kept",
            "throttle",
            "reject",
        )
        if fate == "not reached":
            raise TransientError("refused", unreachable=True)
        if fate == "throttle":
            raise ThrottledError("slow down", pause=1.0)
        if fate == "part arrives":
            raise TransientError("reset", delivery=Delivery.PART)
        if fate == "reject":
            raise RejectedError("not an image")
        if fate in {"refused", "refused and kept"}:
            place.refused = self.draw(st.sampled_from((401, 403, 404, 410)))
        if fate in {"fine", "answer lost", "refused and kept"}:
            place.digest = payload
            place.shows_at = self._now() + (0.0 if self.calm else self.draw(st.floats(0.0, SLOWEST_DOUBT)))
        if fate in {"refused", "refused and kept"}:
            raise SlotRefusedError("slot gone", status=place.refused or 410)
        if fate in {"lost on the way", "answer lost"}:
            raise TransientError("no answer", delivery=Delivery.WHOLE)

    async def result(self, image_id: str) -> StoredImage | None:
        """The truth, if the answer arrives."""
        if self._fate("lost", "throttle") != "fine":
            raise TransientError("answer lost")
        place = self.places[image_id]
        if place.digest is None or self._now() < place.shows_at:
            return None
        return StoredImage("eu", (Rendition("original", f"{image_id}.png", 8, 8),))

    def images(self) -> list[tuple[str, str]]:
        """(tile, what of) for each stored image; the framing of a body differs, the picture in it does not."""
        found = []
        for place in self.places.values():
            if place.digest is not None:
                (number,) = (n for n, picture in enumerate(PICTURES) if picture in place.digest)
                found.append((place.tile, str(number)))
        return found

    def _fate(self, *misfortunes: str) -> str:
        if self.calm:
            return "fine"
        fate: str = self.draw(st.sampled_from(("fine", "fine", "fine", *misfortunes, "crash")))
        if fate == "crash" and self.lives > 0:
            self.lives -= 1
            raise CrashError("the process dies")
        return "fine" if fate == "crash" else fate

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


async def one_run(server: Server, folder: Path, rows: list[Row]) -> tuple[list[Outcome], bool]:
    """One run; its outcomes, and whether it came to its end."""
    clock = Clock(wall=lambda: 1.8e9 + server._now() - START)
    outcomes: list[Outcome] = []

    async def deliver(outcome: Outcome) -> None:
        outcomes.append(outcome)

    async with open_ledger(folder / "ledger.sqlite3", host="h", store_id=1, clock=clock) as ledger:
        await ledger.begin_run("test")
        means = Means(
            settings=Settings(store_id=1, timing=TIMING, pace=Pace(concurrency=2)),
            api=cast(Api, server),
            ledger=ledger,
            clock=clock,
            delay=ResultDelay(TIMING.first_result),
            tell=lambda _event: None,
        )
        pool = Pool(Ferry(means, {"eu": "https://cdn.example"}), deliver, pace=means.settings.pace, grace=1.0)
        try:
            await pool.run(rows)
        except CrashError:
            return outcomes, False
    return outcomes, True


def on_virtual_time(work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` on a loop of its own."""

    async def main() -> None:
        await work()

    with asyncio.Runner(loop_factory=InlineLoop) as runner:
        runner.run(main())


def prepared(folder: Path, wanted: list[tuple[int, int]]) -> Iterator[Row]:
    """The pictures on disk, and a row for each (tile, picture)."""
    for number, picture in enumerate(PICTURES):
        (folder / f"{number}.png").write_bytes(picture)
    for line, (tile, number) in enumerate(wanted, start=2):
        path = folder / f"{number}.png"
        yield Row(line=line, tile_id=TILES[tile], source=path.name, path=path)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), wanted=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=4))
def test_never_two_images_and_never_one_too_few(data: st.DataObject, wanted: list[tuple[int, int]]) -> None:
    """However answers, failures and restarts follow each other, a calm run ends with one image per identity."""

    async def story() -> None:
        server = Server(data.draw, lives=3)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows = list(prepared(folder, wanted))
            ended = False
            while not ended:
                outcomes, ended = await one_run(server, folder, rows)
                assert sorted(outcome.line for outcome in outcomes) == [row.line for row in rows]
                images = server.images()
                assert len(images) == len(set(images)), "an image is there twice"
                for outcome in outcomes:
                    if outcome.status in {Status.UPLOADED, Status.UNCHANGED, Status.DUPLICATE}:
                        assert server.places[outcome.image_id].digest is not None
            server.calm = True
            outcomes, _ = await one_run(server, folder, rows)
            images = server.images()
            assert sorted(images) == sorted({(TILES[tile], str(number)) for tile, number in wanted})
            assert all(
                outcome.status in {Status.UPLOADED, Status.UNCHANGED, Status.DUPLICATE} for outcome in outcomes
            )

    on_virtual_time(story)
