"""Trying again what may pass: when, how often, and when to stop.

The loop is tenacity's; the decision and the waiting are ours, so that patience counts only the time in which the
run could move and starts anew with every step that succeeds.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_base

from tileferry.clock import Clock
from tileferry.errors import PatienceError, TransientError
from tileferry.settings import Timing

_T = TypeVar("_T")


class Trouble:
    """How long one image has been failing in passing, and how often in a row."""

    def __init__(self, timing: Timing, clock: Clock) -> None:
        self._timing = timing
        self._clock = clock
        self._since: float | None = None
        self.failures = 0

    def passed(self) -> None:
        """A step succeeded: patience starts anew."""
        self._since = None
        self.failures = 0

    def answered(self) -> None:
        """The other side answered, though the step is not done: the waits between tries begin anew."""
        self.failures = 0

    def another(self) -> None:
        """A step failed."""
        self.failures += 1
        if self._since is None:
            self._since = self._clock.moving()

    def lasted(self) -> float:
        """Seconds since the first failure in a row, without those in which the whole run stood still."""
        return 0.0 if self._since is None else self._clock.moving() - self._since

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self._since is not None and self.lasted() >= self._timing.patience


def backoff(failures: int, timing: Timing, chance: float) -> float:
    """Seconds to wait after so many failures in a row: doubling, bounded, and spread by `chance` in 0…1.

    Half of the wait is certain and half is chance, so that workers which failed together do not come back
    together.
    """
    wait = min(timing.backoff_limit, timing.backoff * 2.0 ** min(failures - 1, 30))
    return wait / 2 + wait / 2 * chance


def wait_after(error: BaseException | None, failures: int, timing: Timing, chance: float) -> float:
    """Seconds until the next try after `error`.

    After a request for a pause, or in an outage, there is nothing to add: no call leaves before that is over.
    """
    paced = isinstance(error, TransientError) and error.paced
    return 0.0 if paced else backoff(failures, timing, chance)


async def persist(
    attempt: Callable[[], Awaitable[_T]],
    *,
    trouble: Trouble,
    timing: Timing,
    on_retry: Callable[[TransientError, float], None],
) -> _T:
    """Call `attempt` until it succeeds or raises something that is not transient.

    It goes on from where it stands and says `trouble.passed()` when it comes further. Raises `PatienceError`
    when it fails in passing for longer than `timing.patience`.
    """

    def _stop(_state: RetryCallState) -> bool:
        return trouble.over

    def _before_sleep(state: RetryCallState) -> None:
        error = _error_of(state)
        if isinstance(error, TransientError):
            on_retry(error, state.next_action.sleep if state.next_action else 0.0)

    try:
        async for tried in AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            wait=_Wait(trouble, timing),
            stop=_stop,
            before_sleep=_before_sleep,
            reraise=True,
        ):
            with tried:
                return await attempt()
    except TransientError as exc:
        raise PatienceError(
            f"gave up after {timing.patience:.0f} seconds and {trouble.failures} failures in a row, the last one: "
            f"{exc}. Run the same command again: it asks first and goes on from here.",
            reason="gave up, try again",
        ) from exc
    raise AssertionError("the retry loop ends by returning or raising")


class _Wait(wait_base):
    def __init__(self, trouble: Trouble, timing: Timing) -> None:
        self._trouble = trouble
        self._timing = timing

    def __call__(self, retry_state: RetryCallState) -> float:
        # Counted here because tenacity asks for the wait before it asks whether to stop.
        self._trouble.another()
        chance = random.random()  # noqa: S311 - spreading retries is no cryptography
        return wait_after(_error_of(retry_state), self._trouble.failures, self._timing, chance)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
