"""Patience: it runs while the run can move, and stands still in a cool-down, an outage and a sleeping machine."""

from __future__ import annotations

import asyncio

import pytest

import virtual_time
from tileferry import Timing
from tileferry.clock import PULSE, minding_sleep
from tileferry.errors import PatienceError, TransientError
from tileferry.retry import Trouble, persist

HOURS = 3 * 3600.0


def test_reasons_to_stand_still_count_once() -> None:
    """Two overlapping reasons take their common span out of patience once, also while they last."""

    async def main() -> list[float]:
        clock = virtual_time.clock()
        begun = clock.moving()
        seen = []
        with clock.standing_still():
            await asyncio.sleep(10)
            with clock.standing_still():
                await asyncio.sleep(10)
            seen.append(clock.moving() - begun)
            clock.lose(5)
        await asyncio.sleep(3)
        seen.append(clock.moving() - begun)
        return seen

    assert virtual_time.run(main()) == pytest.approx([0.0, 3.0], abs=1e-6)


def test_a_laptop_that_slept_loses_no_patience() -> None:
    """Hours in which the whole machine slept are nobody's fault: an image that was being tried is tried on."""

    async def main() -> int:
        clock = virtual_time.clock()
        timing = Timing(patience=60.0, backoff=4.0, backoff_limit=4.0)
        tries = 0

        async def attempt() -> str:
            nonlocal tries
            tries += 1
            if tries == 3:
                virtual_time.block(HOURS)
                await asyncio.sleep(2 * PULSE)
            if tries < 6:
                raise TransientError("lost")
            return "there"

        async with minding_sleep(clock):
            trouble = Trouble(timing, clock)
            assert await persist(attempt, trouble=trouble, timing=timing, on_retry=lambda *_: None) == "there"
        return tries

    assert virtual_time.run(main()) == 6


def test_a_busy_moment_is_no_sleep() -> None:
    """A loop that is held up for a moment does not lengthen patience."""

    async def main() -> float:
        clock = virtual_time.clock()
        begun = clock.moving()
        async with minding_sleep(clock):
            virtual_time.block(PULSE / 2)
            await asyncio.sleep(2 * PULSE)
        return clock.moving() - begun

    assert virtual_time.run(main()) == pytest.approx(2.5 * PULSE, abs=1e-3)


def test_without_it_patience_would_have_run_out() -> None:
    """The counterpart: the same hours, spent awake with nothing but failures, end patience."""

    async def main() -> None:
        clock = virtual_time.clock()
        timing = Timing(patience=60.0)

        async def attempt() -> str:
            await asyncio.sleep(HOURS)
            raise TransientError("lost")

        async with minding_sleep(clock):
            trouble = Trouble(timing, clock)
            with pytest.raises(PatienceError):
                await persist(attempt, trouble=trouble, timing=timing, on_retry=lambda *_: None)

    virtual_time.run(main())
