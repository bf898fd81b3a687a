"""A ferry that does what a test says, and all that stands around it: rows, listeners, gates."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from tileferry.ferry import Ferry
from tileferry.model import BadRow, Outcome, Row, Status
from tileferry.pool import Pool
from tileferry.settings import Pace
from tileferry.transfer import Seat

Act = Callable[[int, Seat], Awaitable[None]]

NO_GRACE = 0.0
AMPLE_GRACE = 3600.0


async def at_once(_position: int, _seat: Seat) -> None:
    """A row that needs nothing."""


class Script:
    """A ferry that does with each row what the test says, and remembers."""

    def __init__(self, act: Act = at_once) -> None:
        self.act = act
        self.begun: list[int] = []
        self.seated = 0
        self.most_seated = 0
        self.left: list[int] = []

    async def carry(self, position: int, row: Row | BadRow, seat: Seat) -> Outcome:
        self.begun.append(position)
        self.sit_down()
        try:
            await self.act(position, seat)
        finally:
            self.seated -= 1
            seat.leave()
        return ended(row, Status.UPLOADED)

    def leave_pending(self, position: int, row: Row | BadRow, why: str) -> Outcome:
        self.left.append(position)
        return ended(row, Status.PENDING, why)

    def sit_down(self) -> None:
        self.seated += 1
        self.most_seated = max(self.most_seated, self.seated)

    def stand_up(self, seat: Seat) -> None:
        self.seated -= 1
        seat.leave()


class Delivery:
    """Whoever takes the outcomes; while `open` is not set it takes none."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, outcome: Outcome) -> None:
        await self.open.wait()
        self.outcomes.append(outcome)

    def by_status(self, status: Status, why: str = "") -> list[int]:
        """The lines of the rows that ended like this."""
        return sorted(
            outcome.line for outcome in self.outcomes if (outcome.status, outcome.error) == (status, why)
        )

    def lines(self) -> list[int]:
        """The lines of all rows that have an outcome; twice, if they have two."""
        return sorted(outcome.line for outcome in self.outcomes)


def ended(row: Row | BadRow, status: Status, error: str = "") -> Outcome:
    """The outcome of a row."""
    return Outcome(line=row.line, tile_id=row.tile_id, source=row.source, status=status, error=error)


def rows(number: int) -> list[Row]:
    """This many rows; the line of each is its position, so that they are easily told apart."""
    return [Row(line=line, tile_id="t", source="s", path=Path("s")) for line in range(number)]


def make_pool(script: Script, deliver: Delivery, *, places: int = 3, waiting: int = 1, grace: float = 0.0) -> Pool:
    """A pool over a scripted ferry."""
    return Pool(cast("Ferry", script), deliver, pace=Pace(concurrency=places, waiting=waiting), grace=grace)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Rows are read on the only thread there is, so that `settle` knows when it is idle; and no test hangs."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as executor:
        loop.set_default_executor(executor)
        alarm = loop.call_later(20, lambda: [task.cancel() for task in asyncio.all_tasks()])
        yield
        alarm.cancel()


async def settle() -> None:
    """Returns when everything that could go on without a test's leave has gone on."""
    for _ in range(10):
        await asyncio.to_thread(int)
        for _ in range(30):
            await asyncio.sleep(0)


class Gate:
    """What the rows of a test wait for."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, _position: int, _seat: Seat) -> None:
        await self.open.wait()
