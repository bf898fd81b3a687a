"""How often a call may leave: so many in any minute, evenly, and none during a cool-down.

The kind of window that the API keeps is unknown, so the strictest reading holds: in *any* span of a minute no
more than `rate` calls leave. They leave evenly spaced, because a burst at the start is what other clients of the
same token would stumble over. A call counts from the moment it really leaves (its connection may have taken
seconds to come about), and while it is on its way there it holds its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence

from tileferry.clock import Clock
from tileferry.events import CoolDownBegan, Listener
from tileferry.model import Lease

WINDOW = 60.0
"""The span, in seconds, over which the API counts (documented: 600 requests a minute)."""

CATCH_UP = 1.0
"""Seconds of delay (a busy processor, a late timer) that are made up for; the window holds all the same."""


CLIMB = 600.0
"""Seconds from nothing to the whole rate, after a 429 had shown that others use the token too."""

RETREAT = 0.9
"""The share of what could be used before a 429 that is used after it."""

LEAST_SHARE = 0.05
"""The share of the rate that is used at least, whatever the others do."""

LEASE_SECONDS = 2.0
"""How far ahead calls are recorded: a run that is killed has at most so many seconds of calls counted in vain."""

MOST_LEASED = 500
"""Calls in one lease, however high the rate; it bounds what a kill costs where the rate is lifted."""


class Urgency(enum.IntEnum):
    """Who goes first when the budget is short: what ends an image before what begins one."""

    RESULT = 0
    UPLOAD = 1
    RESERVE = 2


class CoolDown:
    """A pause that the other side asked for; it only ever grows, and nobody's patience runs meanwhile."""

    def __init__(self, host: str, clock: Clock, tell: Listener) -> None:
        self._host = host
        self._clock = clock
        self._tell = tell
        self._until = 0.0
        self._still = contextlib.ExitStack()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float) -> None:
        """Let no call leave for `seconds` from now."""
        until = self._clock.now() + seconds
        if until <= self._until:
            return
        if self._timer is None:
            self._still.enter_context(self._clock.standing_still())
        else:
            self._timer.cancel()
        self._until = until
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end)
        self._tell(CoolDownBegan(host=self._host, seconds=seconds))

    def remaining(self) -> float:
        """Seconds until calls may leave again; zero if they may."""
        return max(0.0, self._until - self._clock.now()) if self._timer else 0.0

    async def over(self) -> None:
        """Wait until calls may leave."""
        await asyncio.sleep(self.remaining())
        if self.remaining() > 0:  # it grew meanwhile
            await self.over()

    def close(self) -> None:
        """Drop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._end()

    def _end(self) -> None:
        self._timer = None
        self._still.close()


class Turn:
    """The right to make one call. Say `left` when it leaves; `give_back` returns a right that was not used."""

    __slots__ = ("_left", "_settle")

    def __init__(self, settle: Callable[[bool], None]) -> None:
        self._settle = settle
        self._left = False

    def left(self) -> None:
        """The call is leaving now."""
        if not self._left:
            self._left = True
            self._settle(True)

    def give_back(self) -> None:
        """The call is over; if it never left, its place is free again."""
        if not self._left:
            self._left = True
            self._settle(False)


class Share:
    """How much of the rate to use: all of it, until a 429 tells that others use the same token.

    Then it is what could be used in the last minute, and climbs back slowly, to find out whether there is more.
    """

    def __init__(self, rate: int, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._base = float(rate)
        self._since = clock.now()

    def calls_a_minute(self) -> float:
        """The share as it is now."""
        climbing = max(0.0, self._clock.now() - self._since)
        return min(self._rate, self._base + climbing * self._rate / CLIMB)

    def reduce(self, used: int, pause: float) -> None:
        """There was no room for more than the `used` calls of the last minute; it climbs again after `pause`."""
        self._base = max(self._rate * LEAST_SHARE, min(self.calls_a_minute(), used) * RETREAT)
        self._since = self._clock.now() + pause


class Budget:
    """The calls of one token: at most `rate` in any `WINDOW` + `margin` seconds, the most urgent first.

    `past` are leases of earlier runs: what they allowed counts as made. `lease` records a new one and is done
    when that is on disk; so however often a run is killed and started again, the budget is not exceeded.
    """

    def __init__(
        self,
        rate: int,
        *,
        margin: float,
        clock: Clock,
        cool_down: CoolDown,
        past: Sequence[Lease] = (),
        lease: Callable[[Lease], asyncio.Future[object]] | None = None,
    ) -> None:
        self.cool_down = cool_down
        self._rate = rate
        self._span = WINDOW + margin
        self._share = Share(rate, clock)
        self._clock = clock
        self._next = clock.now()
        self._departures = self._made(past)
        self._leaving = 0
        self._numbers = itertools.count()
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._lease = lease
        self._leasing: asyncio.Future[object] | None = None
        self._leased = Lease(0, 0.0)
        self._recording = 0.0

    async def turn(self, urgency: Urgency) -> Turn:
        """Wait until one more call may leave."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (urgency, next(self._numbers), future))
        self._serve()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._settle(False)
            raise
        return Turn(self._settle)

    def throttled(self, pause: float) -> None:
        """The API asks for a pause: no call leaves meanwhile, and fewer afterwards."""
        if not self.cool_down.remaining():
            self._forget()
            self._share.reduce(sum(at > self._clock.now() - WINDOW for at in self._departures), pause)
        self.cool_down.begin(pause)
        # Nothing to catch up with afterwards: a burst would meet the next 429.
        self._next = max(self._next, self._clock.now() + self.cool_down.remaining())

    def close(self) -> None:
        """Drop the timers."""
        self.cool_down.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _made(self, past: Sequence[Lease]) -> deque[float]:
        """When the calls of earlier runs left, at the latest."""
        now, wall = self._clock.now(), self._clock.wall()
        # A clock that was set back must not put them into the future.
        return deque(sorted(now - max(0.0, wall - lease.until) for lease in past for _ in range(lease.calls)))

    def _settle(self, left: bool) -> None:
        self._leaving -= 1
        if left:
            self._departures.append(self._clock.now())
        else:
            self._next -= self._interval()
        self._serve()

    def _serve(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            if self._queue[0][2].done():
                heapq.heappop(self._queue)
                continue
            wait = self._wait()
            if wait is None:
                return
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._serve)
                return
            if not self._covered():
                return
            now = self._clock.now()
            self._next = max(self._next, now - CATCH_UP) + self._interval()
            self._leaving += 1
            heapq.heappop(self._queue)[2].set_result(None)

    def _interval(self) -> float:
        return self._span / self._share.calls_a_minute()

    def _wait(self) -> float | None:
        """Seconds until the next call may leave; `None` if that depends on one that is about to leave."""
        now = self._clock.now()
        self._forget()
        wait: float = max(0.0, self._next - now, self.cool_down.remaining())
        if len(self._departures) + self._leaving >= self._rate:
            if not self._departures:
                return None
            wait = max(wait, self._departures[0] + self._span - now)
        return wait

    def _forget(self) -> None:
        now = self._clock.now()
        while self._departures and self._departures[0] <= now - self._span:
            self._departures.popleft()

    def _covered(self) -> bool:
        """Take one call out of the lease; if that has run out, ask for another and come back later."""
        if self._lease is None:
            return True
        lease = self._leased
        if self._clock.wall() >= lease.until or not lease.calls:
            if self._leasing is None:
                wanted = Lease(
                    min(MOST_LEASED, math.ceil(self._rate * LEASE_SECONDS / WINDOW)),
                    self._clock.wall() + LEASE_SECONDS + self._recording,
                )
                self._leasing = self._lease(wanted)
                self._leasing.add_done_callback(functools.partial(self._covered_by, wanted, self._clock.now()))
            return False
        self._leased = Lease(lease.calls - 1, lease.until)
        return True

    def _covered_by(self, lease: Lease, asked_at: float, recorded: asyncio.Future[object]) -> None:
        self._leasing = None
        # On a slow disk the next lease begins so much later; else it might be over when it is on disk.
        self._recording = self._clock.now() - asked_at
        if recorded.cancelled():
            return
        if (failure := recorded.exception()) is not None:
            for _, _, waiting in self._queue:
                if not waiting.done():
                    waiting.set_exception(failure)
            return
        self._leased = lease
        self._serve()
