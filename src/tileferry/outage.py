"""Telling one image's bad luck from a host that is away.

While a host is away nobody spends patience on it: calls wait here, one of them goes out as a probe at growing
intervals, and the first success lets all the others pass.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable

from tileferry.clock import Clock
from tileferry.errors import ImageError, LedgerError, OutageError, TileferryError, TransientError
from tileferry.events import Listener, OutageBegan, OutageEnded, OutageProbed
from tileferry.settings import Timing

MOST_FAILURES = 8
"""Failures in a row, with no success between, that make an outage however many workers there are."""

FEWEST_FAILURES = 3
"""Likewise, however few workers there are, or where the host is not even reached: two are everyday life."""


class Passage:
    """The leave to make one call to a host."""

    def __init__(self, host: Host, *, probing: bool) -> None:
        self._host = host
        self._probing = probing
        self.withdrawn = False

    def stale(self) -> bool:
        """Whether the host went away while this call was waiting for something else: do not make it then."""
        self.withdrawn = self._host.away and not self._probing
        return self.withdrawn


class Host:
    """One host that calls go to, and whether it is away."""

    def __init__(self, name: str, *, concurrency: int, timing: Timing, clock: Clock, tell: Listener) -> None:
        self.name = name
        self._threshold = max(FEWEST_FAILURES, min(concurrency, MOST_FAILURES))
        self._timing = timing
        self._clock = clock
        self._tell = tell
        self._failures = self._unreached = 0
        self._failed_for: set[Hashable] = set()
        self._away_since: float | None = None
        self._last_problem = ""
        self._probe_wait = 0.0
        self._probing = asyncio.Lock()
        self._back = asyncio.Event()
        self._still = contextlib.ExitStack()

    @property
    def away(self) -> bool:
        """Whether the host is taken to be out of reach."""
        return self._away_since is not None

    @contextlib.asynccontextmanager
    async def attempt(self, about: Hashable) -> AsyncIterator[Passage]:
        """Make one call inside; it waits here while the host is away. `about` names what the call is for.

        Raises `OutageError` when the host has been away for longer than allowed.
        """
        if self.away:
            async with self._probing:
                if self.away:
                    await self._until_probe()
                if self.away:
                    async with self._judged(about, probing=True) as passage:
                        yield passage
                    return
        async with self._judged(about, probing=False) as passage:
            yield passage

    def close(self) -> None:
        """End the account of an outage that is still going on."""
        self._still.close()

    @contextlib.asynccontextmanager
    async def _judged(self, about: Hashable, *, probing: bool) -> AsyncIterator[Passage]:
        passage = Passage(self, probing=probing)
        try:
            yield passage
        except TransientError as exc:
            if exc.wall:
                self._failed(about, exc, probing=probing)
                # In an outage the probes' intervals are the only waiting there is.
                exc.paced = self.away
            else:
                self._answered()
            raise
        except (ImageError, LedgerError):
            # Trouble of our own; the host was not heard.
            raise
        except TileferryError:
            self._answered()
            raise
        if not passage.withdrawn:
            self._answered()

    async def _until_probe(self) -> None:
        if self._away_since is None:
            return
        away = self._clock.now() - self._away_since
        left = self._timing.max_outage - away
        if left <= 0:
            raise OutageError(
                f"{self.name} has been out of reach for {away:.0f} seconds ({self._last_problem}). Everything "
                "done so far is recorded: run the same command again when it is back."
            )
        with contextlib.suppress(TimeoutError):
            # A call from before the outage may still come through, and then there is nothing to probe.
            await asyncio.wait_for(self._back.wait(), min(self._probe_wait, left))

    def _failed(self, about: Hashable, exc: TransientError, *, probing: bool) -> None:
        self._last_problem = str(exc)
        if self.away:
            if not probing:
                return
            self._probe_wait = min(self._probe_wait * 2, self._timing.probe_limit)
            self._tell(OutageProbed(host=self.name, wait=self._probe_wait))
            return
        self._failures += 1
        self._unreached = self._unreached + 1 if exc.unreachable else 0
        self._failed_for.add(about)
        # A host that answers, if only with errors, may have something against one image in particular; one
        # that cannot be reached has it against nobody.
        several = len(self._failed_for) > 1 or None in self._failed_for
        if self._unreached < FEWEST_FAILURES and not (several and self._failures >= self._threshold):
            return
        self._away_since = self._clock.now()
        self._back.clear()
        self._probe_wait = self._timing.probe
        self._still.enter_context(self._clock.standing_still())
        self._tell(OutageBegan(host=self.name, problem=self._last_problem))

    def _answered(self) -> None:
        self._failures = self._unreached = 0
        self._failed_for.clear()
        if self._away_since is not None:
            seconds = self._clock.now() - self._away_since
            self._away_since = None
            self._back.set()
            self._still.close()
            self._tell(OutageEnded(host=self.name, seconds=seconds))
