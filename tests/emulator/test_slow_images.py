"""Images that take longer to process than the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tileferry.emulator import EmulatorSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from emulator.customer import Customer, FakeClock

    Enter = Callable[..., Awaitable[Customer]]


async def test_a_share_of_the_images_is_slow(enter: Enter, clock: FakeClock) -> None:
    """Some images, about the share that was set, are still not told of when all others are."""
    customer = await enter(processing=(1, 1), slow_share=0.25, slow_processing=(60, 60))
    ids = [await customer.store() for _ in range(80)]
    clock.now += 1
    replies = await asyncio.gather(*(customer.result(each) for each in ids))
    slow = [reply.status for reply in replies].count(404)
    assert 8 <= slow <= 32
    clock.now += 59
    assert all([(await customer.result(each)).json["set"] for each in ids])


@pytest.mark.parametrize("wrong", [{"slow_share": 1.1}, {"slow_processing": (3.0, 2.0)}])
def test_shares_and_times_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    """A share is between 0 and 1, and a range has its smaller end first."""
    with pytest.raises(ValueError, match="expected"):
        EmulatorSettings(**wrong)
