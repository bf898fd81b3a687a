"""One whole run, wired together: the front door for programs and for the command line.

async with open_run(settings, credentials) as run:
    async for outcome in run.upload(open_manifest(path).rows()):
        print(outcome.line, outcome.status.value, outcome.url or outcome.error)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

from tileferry import history
from tileferry.api import open_api
from tileferry.auth import Credentials
from tileferry.bandwidth import Bandwidth, Unlimited, limited_to
from tileferry.clock import Clock, minding_sleep
from tileferry.delay import ResultDelay
from tileferry.errors import OutageError, PatienceError
from tileferry.events import DrainBegan, Listener, RetryPlanned, RowEnded, RunEnded, RunStarted, Summary, broadcast
from tileferry.ferry import Ferry
from tileferry.ledger import open_ledger
from tileferry.model import BadRow, Outcome, Row
from tileferry.pool import Pool
from tileferry.retry import Trouble, persist
from tileferry.settings import Settings
from tileferry.tally import Tally
from tileferry.transfer import Means

OUTCOMES_AHEAD = 1000
"""Outcomes that may wait for whoever reads them, before the workers wait too."""


class Run:
    """A run that has its ledger and a proven token. Open it with `open_run`."""

    def __init__(
        self, means: Means, ferry: Ferry, tally: Tally, started: float, places: asyncio.Semaphore | None
    ) -> None:
        self._means = means
        self._tally = tally
        self._started = started
        self._ended: float | None = None
        self._draining = False
        self._work: asyncio.Task[None] | None = None
        self._results: asyncio.Queue[Outcome | None] = asyncio.Queue(OUTCOMES_AHEAD)
        self._pool = Pool(
            ferry,
            self._deliver,
            pace=means.settings.pace,
            grace=means.settings.timing.grace,
            places=places,
        )

    @property
    def summary(self) -> Summary:
        """The run in figures, as they stand."""
        until = self._means.clock.now() if self._ended is None else self._ended
        return self._tally.summary(seconds=until - self._started, interrupted=self._draining)

    async def upload(self, rows: Iterable[Row | BadRow]) -> AsyncIterator[Outcome]:
        """Carry all rows and yield their outcomes as they come; once in a run.

        `rows` is read on another thread, as far ahead as is needed. Raises the `FatalError` that ended the run,
        after the outcomes of all rows. Whoever stops listening early ends the run at once.
        """
        if self._work is not None:
            raise RuntimeError("a run uploads once; open another")
        # Owned by this run: awaited here, or in `close` where the caller stops listening early.
        self._work = asyncio.create_task(self._carry_all(rows))
        try:
            while (outcome := await self._results.get()) is not None:
                yield outcome
            await self._work
        finally:
            await self.close()

    def drain(self) -> None:
        """Begin no further row. Those in flight have `Timing.grace` to end; the others are left pending."""
        if not self._draining:
            self._draining = True
            self._means.tell(DrainBegan(grace=self._means.settings.timing.grace, in_flight=self._pool.in_flight))
            self._pool.drain()

    async def flush(self) -> None:
        """Everything that happened is on disk when this returns."""
        await self._means.ledger.flush()

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes so far in manifest order, from the ledger (after `flush`). Blocking: use a thread."""
        with contextlib.closing(history.open_history(self._means.ledger.path)) as past:
            yield from past.outcomes(self._means.ledger.run_id)

    async def close(self) -> None:
        """End the work at once, if it is still going on; what is recorded stays recorded."""
        if self._work is not None and self._ended is None:
            self._work.cancel()
            await asyncio.wait([self._work])
            self._ended = self._means.clock.now()

    async def _carry_all(self, rows: Iterable[Row | BadRow]) -> None:
        try:
            async with minding_sleep(self._means.clock):
                await self._pool.run(rows)
        finally:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                # However it ended, whoever reads the outcomes must not wait for more.
                await self._results.put(None)

    async def _deliver(self, outcome: Outcome) -> None:
        await self._results.put(outcome)
        self._means.tell(RowEnded(outcome=outcome))


@contextlib.asynccontextmanager
async def open_run(
    settings: Settings,
    credentials: Credentials,
    *,
    listeners: Sequence[Listener] = (),
    manifest: str = "",
    extra_columns: Sequence[str] = (),
    places: asyncio.Semaphore | None = None,
    bandwidth: Bandwidth | Unlimited | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Run]:
    """Open the ledger, prove the token with one call, and be ready to upload.

    `manifest` and `extra_columns` are kept with the run, for later exports. `places` are the workers', and
    `bandwidth` limits the uploads, where runs of several stores share them (`fleet`). Raises `LedgerBusyError` or
    `LedgerError` when the ledger cannot be used and `FatalError` when the API refuses.
    """
    clock = clock or Clock()
    started = clock.now()
    async with open_ledger(
        settings.ledger_path, host=settings.host, store_id=settings.store_id, clock=clock
    ) as ledger:
        run_id = await ledger.begin_run(manifest, extra_columns)
        tally = Tally(Summary(run_id=run_id, store_id=settings.store_id, ledger=ledger.path))
        tell = broadcast(tally, *listeners)
        tell(
            RunStarted(
                run_id=run_id,
                store_id=settings.store_id,
                api_url=settings.api_url,
                ledger=ledger.path,
                concurrency=settings.pace.concurrency,
                rate=settings.pace.rate,
            )
        )
        run: Run | None = None
        try:
            async with open_api(
                settings,
                credentials,
                clock=clock,
                tell=tell,
                past=await ledger.leases(),
                lease=ledger.lease,
            ) as api:
                means = Means(
                    settings=settings,
                    api=api,
                    ledger=ledger,
                    clock=clock,
                    delay=ResultDelay(settings.timing.first_result),
                    tell=tell,
                    bandwidth=bandwidth or limited_to(settings.pace.bandwidth),
                )
                ferry = Ferry(means, await probe(means))
                run = Run(means, ferry, tally, started, places)
                try:
                    yield run
                finally:
                    await run.close()
        finally:
            summary = (
                run.summary if run is not None else tally.summary(seconds=clock.now() - started, interrupted=False)
            )
            await ledger.end_run(summary)
            tell(RunEnded(summary=summary))


async def probe(means: Means) -> dict[str, str]:
    """One call that proves the token and tells where images will be found."""
    timing = means.settings.timing
    try:
        buckets = await persist(
            means.api.buckets,
            trouble=Trouble(timing, means.clock),
            timing=timing,
            on_retry=lambda error, wait: means.tell(
                RetryPlanned(line=0, step="probe", problem=str(error), wait=wait)
            ),
        )
    except PatienceError as exc:
        raise OutageError(f"the API gives no usable answer: {exc}") from exc
    await means.ledger.learned_buckets(buckets)
    return dict(buckets)
