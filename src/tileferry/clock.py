"""Time as the run knows it, and when patience stands still."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

PULSE = 5.0
"""Seconds between two looks at whether the machine has been asleep."""


def loop_time() -> float:
    """The running event loop's own monotonic seconds, the ones that its timers obey."""
    return asyncio.get_running_loop().time()


@dataclass(slots=True, kw_only=True)
class Clock:
    """`now` counts seconds monotonically, `wall` is the time of day (Unix seconds).

    It also keeps account of the time in which the whole run stood still (a cool-down, an outage): patience does
    not run out meanwhile. Reasons that overlap count once.
    """

    now: Callable[[], float] = loop_time
    wall: Callable[[], float] = time.time
    _reasons: int = field(default=0, init=False)
    _since: float = field(default=0.0, init=False)
    _lost: float = field(default=0.0, init=False)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """While inside, nobody's patience runs."""
        if not self._reasons:
            self._since = self.now()
        self._reasons += 1
        try:
            yield
        finally:
            self._reasons -= 1
            if not self._reasons:
                self._lost += self.now() - self._since

    def lose(self, seconds: float) -> None:
        """Take the `seconds` that have just passed out of everyone's patience."""
        if not self._reasons:
            self._lost += seconds

    def moving(self) -> float:
        """Seconds that have passed while the run could move: what patience is measured in."""
        still = self.now() - self._since if self._reasons else 0.0
        return self.now() - self._lost - still


@contextlib.asynccontextmanager
async def minding_sleep(clock: Clock) -> AsyncIterator[None]:
    """Meanwhile, take the hours in which the whole machine slept out of everyone's patience."""

    async def feel_pulse() -> None:
        while True:
            before = clock.now()
            await asyncio.sleep(PULSE)
            overslept = clock.now() - before - PULSE
            if overslept > PULSE:
                clock.lose(overslept)

    pulse = asyncio.create_task(feel_pulse())
    try:
        yield
    finally:
        pulse.cancel()
        await asyncio.wait([pulse])
