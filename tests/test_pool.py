"""Bounded work: how many rows work, how many wait, and how far the manifest is read ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest

from scripted_ferry import Delivery, Gate, Script, make_pool, one_thread, rows, settle
from tileferry.model import Row, Status
from tileferry.pool import ROWS_AT_ONCE
from tileferry.transfer import Seat


@pytest.fixture(autouse=True)
async def quiet_thread() -> AsyncIterator[None]:
    """Lets `settle` know when all is quiet."""
    with one_thread():
        yield


@pytest.fixture
def deliver() -> Delivery:
    """Where the outcomes go."""
    return Delivery()


async def test_every_row_is_carried_once_and_delivered(deliver: Delivery) -> None:
    """However many rows there are, each is begun once, by its position, and has one outcome."""
    script = Script()
    await make_pool(script, deliver).run(iter(rows(ROWS_AT_ONCE * 3 + 1)))
    assert script.begun == list(range(ROWS_AT_ONCE * 3 + 1))
    assert deliver.by_status(Status.UPLOADED) == script.begun
    assert script.left == []


async def test_a_manifest_without_rows_ends_at_once(deliver: Delivery) -> None:
    """Nothing to do is no error."""
    await make_pool(Script(), deliver).run([])
    assert deliver.outcomes == []


async def test_never_more_rows_work_than_there_are_places(deliver: Delivery) -> None:
    """With three places three rows work, and the next begins when one of them ends."""
    gate = Gate()
    script = Script(gate)
    pool = make_pool(script, deliver)
    run = asyncio.ensure_future(pool.run(rows(20)))
    await settle()
    assert (script.seated, script.begun, pool.in_flight) == (3, [0, 1, 2], 3)
    gate.open.set()
    await run
    assert (script.most_seated, pool.in_flight) == (3, 0)
    assert deliver.lines() == list(range(20))


async def test_images_that_wait_free_their_place_but_are_bounded(deliver: Delivery) -> None:
    """An image that waits for its result lets another one work, until as many wait as may."""
    gate = asyncio.Event()

    async def send_and_wait(_position: int, seat: Seat) -> None:
        script.stand_up(seat)
        await gate.wait()
        script.seated += 1

    script = Script(send_and_wait)
    run = asyncio.ensure_future(make_pool(script, deliver, places=2, waiting=5).run(rows(30)))
    await settle()
    assert script.begun == list(range(2 + 5))
    gate.set()
    await run
    assert deliver.lines() == list(range(30))


async def test_an_image_that_works_again_needs_a_place_again(deliver: Delivery) -> None:
    """Whoever stood up and has to send again waits for a free place like everybody else."""

    async def send_twice(_position: int, seat: Seat) -> None:
        script.stand_up(seat)
        await asyncio.sleep(0)
        await seat.take()
        script.sit_down()
        await asyncio.sleep(0)

    script = Script(send_twice)
    await make_pool(script, deliver, places=2, waiting=8).run(rows(100))
    assert script.most_seated == 2
    assert deliver.lines() == list(range(100))


async def test_rows_are_not_read_far_ahead(deliver: Delivery) -> None:
    """While the workers are busy the manifest is read one handful ahead of them and no further."""
    pulled = 0
    ahead: list[int] = []

    def count(found: Iterable[Row]) -> Iterator[Row]:
        nonlocal pulled
        for row in found:
            pulled += 1
            yield row

    async def look(_position: int, _seat: Seat) -> None:
        await gate.wait()
        ahead.append(pulled - len(script.begun))

    gate = asyncio.Event()
    script = Script(look)
    run = asyncio.ensure_future(make_pool(script, deliver).run(count(rows(1000))))
    await settle()
    assert pulled == ROWS_AT_ONCE
    gate.set()
    await run
    assert pulled == 1000
    assert max(ahead) <= ROWS_AT_ONCE


async def test_a_slow_listener_holds_the_workers_back(deliver: Delivery) -> None:
    """Rows whose outcome nobody takes count as under way, so memory does not grow with the manifest."""
    deliver.open.clear()
    script = Script()
    run = asyncio.ensure_future(make_pool(script, deliver, places=2, waiting=1).run(rows(500)))
    await settle()
    begun = len(script.begun)
    deliver.open.set()
    await run
    assert deliver.lines() == list(range(500))
    assert begun <= 2 + 1
