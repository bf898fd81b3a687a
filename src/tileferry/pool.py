"""Bounded work over a stream of rows: who may begin, who may wait, and how it ends.

The producer waits before work is created: a row becomes a task only when a worker's place is free, and images
that wait for their result are bounded too. So memory does not depend on the manifest's length.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from tileferry.errors import FatalError, UsageError
from tileferry.ferry import Ferry
from tileferry.model import BadRow, Outcome, Row
from tileferry.settings import Pace
from tileferry.transfer import Seat

ROWS_AT_ONCE = 64
"""Manifest rows read in one go on another thread: some ten KB, and little waiting for the first."""

INTERRUPTED = "not finished when the run stopped; run the same command again, it goes on from here"
NOT_BEGUN = "not begun when the run stopped; run the same command again"

Numbered = tuple[int, Row | BadRow]


class Pool:
    """The rows of one run on their way through bounded workers.

    `deliver` is awaited with each outcome, as it comes; when it is cancelled it must not have had an
    effect. `drain` ends the run early but in order.
    """

    def __init__(
        self,
        ferry: Ferry,
        deliver: Callable[[Outcome], Awaitable[None]],
        *,
        pace: Pace,
        grace: float,
        places: asyncio.Semaphore | None = None,
    ) -> None:
        self._ferry = ferry
        self._deliver = deliver
        self._grace = grace
        self._places = places or asyncio.Semaphore(pace.concurrency)
        self._room = asyncio.Semaphore(pace.concurrency + pace.waiting)
        self._under_way: dict[asyncio.Task[None], Numbered] = {}
        self._undelivered: dict[int, Outcome] = {}
        self._draining = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Rows that are begun and not ended."""
        return len(self._under_way)

    def drain(self) -> None:
        """Begin no further row; those in flight have the grace to end, then they are left where they stand."""
        self._draining.set()

    async def run(self, rows: Iterable[Row | BadRow]) -> None:
        """Carry all rows. Returns when each has an outcome, be it "pending".

        Raises the `FatalError` that ended the run, after the outcomes of all rows are delivered.
        """
        source = _ReadAhead(rows)
        failure: FatalError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                intake = group.create_task(self._take_in(source, group))
                watch = group.create_task(self._stop_when_draining(intake))
                await asyncio.wait([intake])
                while self._under_way and not self._draining.is_set():
                    await asyncio.wait([*self._under_way, watch], return_when=asyncio.FIRST_COMPLETED)
                watch.cancel()
                if self._under_way:
                    await self._wind_down()
        except* FatalError as errors:
            failure = _first(errors)
        await self._leave_rest(source, failure)
        failure = failure or source.failure
        if failure is not None:
            raise failure

    async def _take_in(self, source: _ReadAhead, group: asyncio.TaskGroup) -> None:
        while source.rows or await source.more():
            await self._room.acquire()
            await self._places.acquire()
            numbered = source.rows.popleft()
            task = group.create_task(self._carry(*numbered))
            self._under_way[task] = numbered

    async def _carry(self, position: int, row: Row | BadRow) -> None:
        try:
            outcome = await self._ferry.carry(position, row, Seat(self._places))
            task = asyncio.current_task()
            if task is not None:
                self._under_way.pop(task, None)
            # From here on it is no row under way but an outcome, and must not be lost whatever ends the run.
            self._undelivered[position] = outcome
            await self._deliver(outcome)
            del self._undelivered[position]
        finally:
            # Only now, so that one who takes the outcomes slowly holds back those that would add to them.
            self._room.release()

    async def _stop_when_draining(self, intake: asyncio.Task[None]) -> None:
        await self._draining.wait()
        intake.cancel()

    async def _wind_down(self) -> None:
        """Give those in flight their grace, then stop them at whatever safe point they are."""
        await asyncio.wait(list(self._under_way), timeout=self._grace)
        for task in list(self._under_way):
            task.cancel()

    async def _leave_rest(self, source: _ReadAhead, failure: FatalError | None) -> None:
        because = "" if failure is None else f" ({failure})"
        for outcome in self._undelivered.values():
            await self._deliver(outcome)
        self._undelivered.clear()
        for position, row in self._under_way.values():
            await self._deliver(self._ferry.leave_pending(position, row, INTERRUPTED + because))
        self._under_way.clear()
        while source.rows or await source.more():
            await self._deliver(self._ferry.leave_pending(*source.rows.popleft(), NOT_BEGUN + because))


class _ReadAhead:
    """Rows that were read on another thread and wait to be begun.

    `failure` is what the manifest broke off with; what was read before it stays good.
    """

    def __init__(self, rows: Iterable[Row | BadRow]) -> None:
        self.rows: deque[Numbered] = deque()
        self.failure: UsageError | None = None
        self._source = enumerate(rows)
        self._reading = threading.Lock()

    async def more(self) -> bool:
        """Read some more rows; whether there were any.

        A cancelled reader's thread runs on. What it reads is kept all the same, and the next one waits for it.
        """
        await asyncio.to_thread(self._read)
        return bool(self.rows)

    def _read(self) -> None:
        with self._reading:
            try:
                for numbered in itertools.islice(self._source, ROWS_AT_ONCE):
                    self.rows.append(numbered)
            except UsageError as exc:
                self.failure = exc


def _first(errors: BaseExceptionGroup[FatalError]) -> FatalError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, FatalError) else FatalError(str(error))
