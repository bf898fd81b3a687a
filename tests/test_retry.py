"""Trying again: the decision as a table, the loop on virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import virtual_time
from tileferry.errors import (
    Delivery,
    FatalError,
    PatienceError,
    RejectedError,
    ThrottledError,
    TransientError,
)
from tileferry.retry import Trouble, backoff, persist, wait_after
from tileferry.settings import Timing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tileferry.clock import Clock

TIMING = Timing(patience=100.0, backoff=1.0, backoff_limit=16.0)
BLINK = 1e-3
"""Seconds; covers thousands of the virtual loop's turns."""


@pytest.mark.parametrize(
    ("failures", "chance", "wait"),
    [
        (1, 0.0, 0.5),
        (1, 1.0, 1.0),
        (2, 0.0, 1.0),
        (2, 0.5, 1.5),
        (2, 1.0, 2.0),
        (4, 1.0, 8.0),
        (5, 1.0, 16.0),
        (6, 1.0, 16.0),
        (6, 0.0, 8.0),
        (10**6, 1.0, 16.0),
    ],
)
def test_backoff(failures: int, chance: float, wait: float) -> None:
    """The wait doubles from the first one up to its limit; at least half of it is certain, the rest is chance."""
    assert backoff(failures, TIMING, chance) == wait


@given(st.integers(1, 10**9), st.floats(0, 1), st.floats(0.001, 1e6), st.floats(0, 1e6))
def test_backoff_is_bounded(failures: int, chance: float, first: float, limit: float) -> None:
    """However many failures, the wait is never beyond its limit, never negative and never out of range."""
    assert 0 <= backoff(failures, Timing(backoff=first, backoff_limit=limit), chance) <= limit


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (TransientError("lost"), 8.0),
        (TransientError("lost", unreachable=True, delivery=Delivery.PART), 8.0),
        (ThrottledError("a pause", pause=30.0), 0.0),
        (None, 8.0),
    ],
)
def test_wait_after(error: BaseException | None, wait: float) -> None:
    """A pause that the other side asks for is kept by the budget; after all else there is a back-off."""
    assert wait_after(error, 4, TIMING, 1.0) == wait


@dataclass(slots=True)
class Story:
    """Attempts by script: each step is a result or an error, and all are kept account of."""

    steps: list[object]
    clock: Clock = field(default_factory=virtual_time.clock)
    tried: list[float] = field(default_factory=list)
    told: list[tuple[str, float]] = field(default_factory=list)
    lasting: float = 0.0
    on_attempt: Callable[[], None] | None = None

    async def attempt(self) -> object:
        """The next step."""
        self.tried.append(self.clock.now() - virtual_time.START)
        step = self.steps[min(len(self.tried), len(self.steps)) - 1]
        await asyncio.sleep(self.lasting)
        if self.on_attempt is not None:
            self.on_attempt()
        if isinstance(step, BaseException):
            raise step
        return step

    async def run(self, *, trouble: Trouble | None = None, timing: Timing = TIMING) -> object:
        """Persist through the script."""
        return await persist(
            self.attempt,
            trouble=trouble or Trouble(timing, self.clock),
            timing=timing,
            on_retry=lambda error, wait: self.told.append((str(error), wait)),
        )


@pytest.fixture(autouse=True)
def _no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance always takes the longest wait."""
    monkeypatch.setattr("tileferry.retry.random.random", lambda: 1.0)


def test_success_at_once_is_returned() -> None:
    """What succeeds is tried once, and nobody is told of a retry."""

    async def main() -> Story:
        story = Story(["done"])
        assert await story.run() == "done"
        return story

    story = virtual_time.run(main())
    assert len(story.tried) == 1
    assert story.told == []


def test_none_is_a_result() -> None:
    """An attempt that returns nothing has succeeded."""

    async def main() -> object:
        return await Story([None]).run()

    assert virtual_time.run(main()) is None


def test_transient_failures_are_tried_again() -> None:
    """Failures in passing are tried again after waits that double, and each retry is told with error and wait."""

    async def main() -> Story:
        story = Story([TransientError("first"), TransientError("second"), TransientError("third"), "done"])
        assert await story.run() == "done"
        return story

    story = virtual_time.run(main())
    assert story.told == [("first", 1.0), ("second", 2.0), ("third", 4.0)]
    assert story.tried == pytest.approx([0, 1, 3, 7], abs=BLINK)


def test_throttled_is_tried_again_at_once() -> None:
    """After a request for a pause there is no wait of our own: the budget lets no call leave before it is over."""

    async def main() -> Story:
        story = Story([ThrottledError("a pause", pause=30.0), "done"])
        await story.run()
        return story

    story = virtual_time.run(main())
    assert story.told == [("a pause", 0.0)]
    assert story.tried == pytest.approx([0, 0], abs=BLINK)


@pytest.mark.parametrize(
    "error",
    [RejectedError("no such tile"), FatalError("suspended"), ZeroDivisionError(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_transient_passes_through(error: BaseException) -> None:
    """A refusal, a fatal error, a mistake of ours and a cancellation are raised as they are, at once."""

    async def main() -> Story:
        story = Story([TransientError("first"), error])
        with pytest.raises(type(error)) as caught:
            await story.run()
        assert caught.value is error
        return story

    story = virtual_time.run(main())
    assert len(story.tried) == 2
    assert [told for told, _ in story.told] == ["first"]


def test_cancellation_during_the_wait() -> None:
    """Who is cancelled while waiting for the next try ends at once, with no further try."""

    async def main() -> int:
        story = Story([TransientError("first")])
        task = asyncio.create_task(story.run())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(story.tried)

    assert virtual_time.run(main()) == 1


def test_patience_runs_out() -> None:
    """After `patience` seconds of nothing but failures it gives up, saying how long, how often and why."""

    async def main() -> Story:
        story = Story([TransientError("lost")], lasting=5.0)
        with pytest.raises(PatienceError) as caught:
            await story.run()
        assert caught.value.reason == "gave up, try again"
        assert isinstance(caught.value.__cause__, TransientError)
        text = str(caught.value)
        assert text.startswith("gave up after 100 seconds and ")
        assert f"{len(story.tried)} failures in a row, the last one: lost. Run the same command again" in text
        return story

    story = virtual_time.run(main())
    # Patience counts from the first failure and is looked at after each.
    first, last = story.tried[0] + 5.0, story.tried[-1] + 5.0
    assert 100.0 <= last - first < 100.0 + 5.0 + TIMING.backoff_limit
    assert len(story.told) == len(story.tried) - 1


def test_no_patience_means_one_try() -> None:
    """With a patience of zero the first failure is the last."""

    async def main() -> int:
        story = Story([TransientError("lost")])
        with pytest.raises(PatienceError):
            await story.run(timing=Timing(patience=0))
        return len(story.tried)

    assert virtual_time.run(main()) == 1


def test_time_that_stands_still_costs_no_patience() -> None:
    """Hours in which the whole run stood still do not count: only moving time does."""

    async def main() -> Story:
        story = Story([TransientError("lost"), TransientError("lost"), "done"])

        async def attempt() -> object:
            with story.clock.standing_still():
                await asyncio.sleep(7200)
            return await story.attempt()

        clock = story.clock
        ended = await persist(
            attempt, trouble=Trouble(TIMING, clock), timing=TIMING, on_retry=lambda _error, _wait: None
        )
        assert ended == "done"
        return story

    assert len(virtual_time.run(main()).tried) == 3


def test_lost_time_costs_no_patience() -> None:
    """Time that the clock was told to take out of patience is not held against an image."""

    async def main() -> tuple[float, bool]:
        clock = virtual_time.clock()
        trouble = Trouble(TIMING, clock)
        trouble.another()
        await asyncio.sleep(500)
        clock.lose(450)
        return trouble.lasted(), trouble.over

    lasted, over = virtual_time.run(main())
    assert lasted == pytest.approx(50.0, abs=BLINK)
    assert not over


def test_lost_time_within_a_standstill_counts_once() -> None:
    """What is lost while the run stands still anyway is not taken out twice."""

    async def main() -> float:
        clock = virtual_time.clock()
        with clock.standing_still():
            await asyncio.sleep(10)
            clock.lose(10)
        with clock.standing_still(), clock.standing_still():
            await asyncio.sleep(10)
        await asyncio.sleep(1)
        return clock.moving() - virtual_time.START

    assert virtual_time.run(main()) == pytest.approx(1.0, abs=BLINK)


def test_each_step_that_succeeds_restarts_patience() -> None:
    """An image that comes further now and then is given its whole patience, and short waits, at each step."""

    async def main() -> Story:
        story = Story([*[TransientError("lost")] * 40, "done"], lasting=20.0)
        trouble = Trouble(TIMING, story.clock)
        # The attempt says so itself when it comes further; here that is with every fourth one.
        story.on_attempt = lambda: trouble.passed() if len(story.tried) % 4 == 0 else None
        assert await story.run(trouble=trouble) == "done"
        return story

    story = virtual_time.run(main())
    assert len(story.tried) == 41
    assert max(wait for _, wait in story.told) <= 8.0


def test_trouble_without_patience_left_is_over_with_the_next_failure() -> None:
    """Patience goes on from earlier failures of the same image, not from zero, when persisting again."""

    async def main() -> int:
        story = Story([TransientError("lost")])
        trouble = Trouble(TIMING, story.clock)
        trouble.another()
        await asyncio.sleep(200)
        with pytest.raises(PatienceError):
            await story.run(trouble=trouble)
        return len(story.tried)

    assert virtual_time.run(main()) == 1


def test_trouble() -> None:
    """Trouble counts failures and their time; an answer shortens the waits, a success ends it."""

    async def main() -> None:
        trouble = Trouble(TIMING, virtual_time.clock())
        assert (trouble.failures, trouble.lasted(), trouble.over) == (0, 0.0, False)
        trouble.another()
        await asyncio.sleep(60)
        trouble.another()
        assert trouble.failures == 2
        assert trouble.lasted() == pytest.approx(60, abs=BLINK)
        trouble.answered()
        assert trouble.failures == 0
        assert trouble.lasted() == pytest.approx(60, abs=BLINK)
        await asyncio.sleep(40)
        assert trouble.over
        trouble.passed()
        assert (trouble.failures, trouble.lasted(), trouble.over) == (0, 0.0, False)

    virtual_time.run(main())
