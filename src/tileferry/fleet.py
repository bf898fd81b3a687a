"""Several stores in one run: each has a ledger, a token, a budget, a share of the workers and a run of its own.

The stores advance side by side. Each run reads the manifest for itself and takes its own rows, so that memory
depends neither on the manifest's length nor on how its stores are mixed. A store that is refused ends alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tileferry import history
from tileferry.auth import Credentials
from tileferry.bandwidth import limited_to
from tileferry.errors import FatalError, ManifestError, UsageError
from tileferry.events import Event, Listener, RowEnded, RunEnded, Summary, broadcast
from tileferry.model import BadRow, Outcome, Row, Status
from tileferry.pool import ROWS_AT_ONCE
from tileferry.run import OUTCOMES_AHEAD, Run, open_run
from tileferry.settings import Settings

LEAST_PLACES = 4
"""Workers for each store at least: with fewer, a slow upload or two would leave its budget unused."""

Rows = Callable[[], Iterable[Row | BadRow]]
"""The manifest's rows from the beginning, as often as asked."""


@dataclass(frozen=True, slots=True)
class Berth:
    """One store's part: its settings and what its API is convinced with."""

    settings: Settings
    credentials: Credentials

    @property
    def store_id(self) -> int:
        """The store."""
        return self.settings.store_id


class Fleet:
    """The runs of several stores. Open it with `open_fleet`."""

    def __init__(
        self,
        berths: Sequence[Berth],
        *,
        listeners: Sequence[Listener],
        manifest: str,
        extra_columns: Sequence[str],
        default_store: int | None,
    ) -> None:
        self.berths = _sharing_rates(berths)
        self._listeners = listeners
        self._manifest = manifest
        self._extra_columns = extra_columns
        self._default_store = default_store
        self._runs: dict[int, Run] = {}
        self._ended: dict[int, FatalError] = {}
        self._stranded_rows: Counter[int] = Counter()
        self._rows: Rows = tuple
        self._draining = False
        self._work: asyncio.Task[None] | None = None
        self._results: asyncio.Queue[Outcome | None] = asyncio.Queue(OUTCOMES_AHEAD)
        # The line is one, however many stores it serves.
        self._bandwidth = limited_to(self.berths[0].settings.pace.bandwidth)
        concurrency = max(berth.settings.pace.concurrency for berth in berths)
        # A share each, not one pool: a store that waits for its own budget would soon sit on all places.
        self._places_each = max(LEAST_PLACES, concurrency // len(berths))

    @property
    def summary(self) -> Summary:
        """All stores in figures, as they stand; each store's own are in `stores`."""
        return _added([self._final_summary(berth) for berth in self.berths])

    async def upload(self, rows: Rows) -> AsyncIterator[Outcome]:
        """Carry the rows of all stores and yield their outcomes as they come; once.

        Raises a store's `FatalError` only if no store could start, and a `ManifestError` that ended them all.
        """
        if self._work is not None:
            raise RuntimeError("a fleet uploads once; open another")
        self._rows = rows
        # Owned by this fleet: awaited here, or in `close` where the caller stops listening early.
        self._work = asyncio.create_task(self._carry_all())
        try:
            while (outcome := await self._results.get()) is not None:
                yield outcome
            await self._work
        finally:
            await self.close()
        for failure in self._ended.values():
            if not self._runs or isinstance(failure, ManifestError):
                raise failure

    def drain(self) -> None:
        """Begin no further row in any store."""
        self._draining = True
        for run in self._runs.values():
            run.drain()

    async def flush(self) -> None:
        """Everything that happened is on disk: each run's ledger is closed when it ends."""

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes in manifest order, from all ledgers. Blocking: use a thread."""
        with contextlib.ExitStack() as ledgers:
            found = []
            for berth in self.berths:
                run = self._runs.get(berth.store_id)
                if run is None:
                    found.append(self._stranded(berth.store_id))
                    continue
                past = ledgers.enter_context(contextlib.closing(history.open_history(run.summary.ledger)))
                final = functools.partial(self._final, berth.store_id)
                found.append(map(final, past.outcomes(run.summary.run_id)))
            yield from heapq.merge(*found, key=lambda outcome: outcome.line)

    async def close(self) -> None:
        """End the work at once, if it is still going on; what is recorded stays recorded."""
        if self._work is not None and not self._work.done():
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _carry_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as stores:
                for berth in self.berths:
                    stores.create_task(self._carry(berth))
        finally:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                await self._results.put(None)

    async def _carry(self, berth: Berth) -> None:
        """One store's run; what refuses this store is no trouble of the others."""
        try:
            async with open_run(
                berth.settings,
                berth.credentials,
                listeners=[self._pass_on],
                manifest=self._manifest,
                extra_columns=self._extra_columns,
                places=asyncio.Semaphore(self._places_each),
                bandwidth=self._bandwidth,
            ) as run:
                self._runs[berth.store_id] = run
                if self._draining:
                    run.drain()
                async for outcome in run.upload(self._rows_of(berth.store_id)):
                    await self._results.put(outcome)
        except FatalError as exc:
            self._ended[berth.store_id] = exc
        if berth.store_id not in self._runs:
            await self._strand(berth)

    async def _strand(self, berth: Berth) -> None:
        """Tell the rows of a store whose run could not be opened, a few at a time."""
        stranded = self._stranded(berth.store_id)
        while some := await asyncio.to_thread(lambda: list(itertools.islice(stranded, ROWS_AT_ONCE))):
            for outcome in some:
                await self._results.put(outcome)
                self._stranded_rows[berth.store_id] += 1
                broadcast(*self._listeners)(RowEnded(outcome=outcome))

    def _pass_on(self, event: Event) -> None:
        """A store's events are everyone's, but for its end: the fleet ends when all have."""
        if not isinstance(event, RunEnded):
            broadcast(*self._listeners)(event)

    def _rows_of(self, store_id: int) -> Iterator[Row | BadRow]:
        first = self.berths[0].store_id
        for row in self._rows():
            home = row.store_id or self._default_store
            if home == store_id:
                yield row
            elif home is None and store_id == first:
                yield row if isinstance(row, BadRow) else _homeless(row)

    def _stranded(self, store_id: int) -> Iterator[Outcome]:
        """The rows of a store whose run could not even be opened."""
        for row in self._rows_of(store_id):
            pending = Outcome(
                line=row.line, tile_id=row.tile_id, source=row.source, status=Status.PENDING, extra=row.extra
            )
            yield self._final(store_id, pending)

    def _final(self, store_id: int, outcome: Outcome) -> Outcome:
        """What a row of a store that ended alone ends with: it failed, for the store's reason."""
        failure = self._ended.get(store_id)
        if failure is None or outcome.status is not Status.PENDING:
            return outcome
        return replace(
            outcome, status=Status.FAILED, error=f"store {store_id}: {failure}", reason=_reason(store_id)
        )

    def _final_summary(self, berth: Berth) -> Summary:
        run = self._runs.get(berth.store_id)
        if run is None:
            number = self._stranded_rows[berth.store_id]
            return Summary(
                run_id=0,
                store_id=berth.store_id,
                ledger=berth.settings.ledger_path,
                statuses={Status.FAILED: number} if number else {},
                failures={_reason(berth.store_id): number} if number else {},
            )
        summary = run.summary
        pending = summary.count(Status.PENDING)
        if berth.store_id not in self._ended or not pending:
            return summary
        statuses = {**summary.statuses, Status.PENDING: 0, Status.FAILED: summary.count(Status.FAILED) + pending}
        return replace(summary, statuses=statuses, failures={**summary.failures, _reason(berth.store_id): pending})


@contextlib.asynccontextmanager
async def open_fleet(
    berths: Sequence[Berth],
    *,
    listeners: Sequence[Listener] = (),
    manifest: str = "",
    extra_columns: Sequence[str] = (),
    default_store: int | None = None,
) -> AsyncIterator[Fleet]:
    """Be ready to upload to several stores; each is opened when the upload begins.

    `default_store` takes the rows that name none. Raises `UsageError` for no store, or one that is there twice.
    """
    if not berths:
        raise UsageError("the manifest names no store, and --store is not given.")
    if len({berth.store_id for berth in berths}) < len(berths):
        raise UsageError("a store is there twice.")
    fleet = Fleet(
        berths,
        listeners=listeners,
        manifest=manifest,
        extra_columns=extra_columns,
        default_store=default_store,
    )
    try:
        yield fleet
    finally:
        await fleet.close()
        broadcast(*listeners)(RunEnded(summary=fleet.summary))


def _sharing_rates(berths: Sequence[Berth]) -> list[Berth]:
    """The budget belongs to a token: stores that share one share its rate evenly."""
    tokens = Counter(_token_of(berth) for berth in berths)

    def share(berth: Berth) -> Berth:
        pace = berth.settings.pace
        fair = max(1, pace.rate // tokens[_token_of(berth)])
        return replace(berth, settings=replace(berth.settings, pace=replace(pace, rate=fair)))

    return [share(berth) for berth in berths]


def _token_of(berth: Berth) -> str:
    # An exchanged token is for one store, so each store that exchanges has one of its own.
    return berth.credentials.token or f"exchanged for store {berth.store_id}"


def _reason(store_id: int) -> str:
    return f"store {store_id} ended early"


def _homeless(row: Row) -> BadRow:
    return BadRow(
        line=row.line,
        tile_id=row.tile_id,
        source=row.source,
        problem=f"line {row.line}: the storeId is empty; name the store, or give --store for rows that name none",
        extra=row.extra,
    )


def _added(summaries: Sequence[Summary]) -> Summary:
    """All stores' figures in one."""
    return replace(
        summaries[0],
        run_id=0,
        store_id=0,
        seconds=max(summary.seconds for summary in summaries),
        statuses=dict(sum((Counter(summary.statuses) for summary in summaries), Counter())),
        failures=dict(sum((Counter(summary.failures) for summary in summaries), Counter())),
        sent_bytes=sum(summary.sent_bytes for summary in summaries),
        calls=dict(sum((Counter(summary.calls) for summary in summaries), Counter())),
        retries=sum(summary.retries for summary in summaries),
        throttled=sum(summary.throttled for summary in summaries),
        interrupted=any(summary.interrupted for summary in summaries),
        stores=tuple(summaries),
    )
