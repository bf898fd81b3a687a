"""However a run ends (drained, refused, cut short, cancelled), every row has exactly one outcome."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripted_ferry import AMPLE_GRACE, NO_GRACE, Act, Delivery, Gate, Script, make_pool, one_thread, rows, settle
from tileferry.errors import FatalError, LedgerError, ManifestError, OutageError, TokenRefusedError
from tileferry.model import Row, Status
from tileferry.pool import INTERRUPTED, NOT_BEGUN, ROWS_AT_ONCE
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


async def test_draining_begins_nothing_and_lets_the_rest_end(deliver: Delivery) -> None:
    """Those in flight end within the grace, and all the others are left as not begun, those unread included."""
    gate = Gate()
    script = Script(gate)
    pool = make_pool(script, deliver, grace=AMPLE_GRACE)
    run = asyncio.ensure_future(pool.run(iter(rows(300))))
    await settle()
    pool.drain()
    await settle()
    assert not run.done()
    assert deliver.outcomes == []
    gate.open.set()
    await run
    assert deliver.by_status(Status.UPLOADED) == [0, 1, 2]
    assert deliver.by_status(Status.PENDING, NOT_BEGUN) == list(range(3, 300))
    assert script.begun == [0, 1, 2]


async def test_the_grace_has_an_end(deliver: Delivery) -> None:
    """Whoever has not ended when the grace is over is stopped and left as not finished; the others are not."""
    gate = asyncio.Event()

    async def act(position: int, _seat: Seat) -> None:
        if position:
            await gate.wait()

    pool = make_pool(Script(act), deliver, grace=NO_GRACE)
    run = asyncio.ensure_future(pool.run(rows(10)))
    await settle()
    pool.drain()
    await run
    assert deliver.by_status(Status.UPLOADED) == [0]
    assert deliver.by_status(Status.PENDING, INTERRUPTED) == [1, 2, 3]
    assert deliver.by_status(Status.PENDING, NOT_BEGUN) == list(range(4, 10))
    assert pool.in_flight == 0


async def test_draining_after_the_last_row_was_begun(deliver: Delivery) -> None:
    """When all rows are begun already, draining still ends the run after the grace."""
    pool = make_pool(Script(Gate()), deliver, grace=NO_GRACE)
    run = asyncio.ensure_future(pool.run(rows(2)))
    await settle()
    pool.drain()
    pool.drain()
    await run
    assert deliver.by_status(Status.PENDING, INTERRUPTED) == [0, 1]


async def test_draining_before_the_run_begins_nothing(deliver: Delivery) -> None:
    """A run that is told to stop before it starts leaves every row as not begun."""
    script = Script()
    pool = make_pool(script, deliver)
    pool.drain()
    await pool.run(rows(200))
    assert script.begun == []
    assert deliver.by_status(Status.PENDING, NOT_BEGUN) == list(range(200))


async def test_draining_while_the_manifest_is_read_loses_no_row(deliver: Delivery) -> None:
    """Rows that are being read on the other thread when the run is told to stop are left as not begun."""
    slow = threading.Event()
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(2))

    def read() -> Iterator[Row]:
        for row in rows(100):
            if row.line == 70:
                loop.call_soon_threadsafe(reached.set)
                slow.wait(20)
            yield row

    script = Script()
    pool = make_pool(script, deliver)
    run = asyncio.ensure_future(pool.run(read()))
    await reached.wait()
    pool.drain()
    for _ in range(30):
        await asyncio.sleep(0)
    slow.set()
    await run
    assert deliver.by_status(Status.UPLOADED) == list(range(ROWS_AT_ONCE))
    assert deliver.by_status(Status.PENDING, NOT_BEGUN) == list(range(ROWS_AT_ONCE, 100))


async def test_an_outcome_on_its_way_to_a_slow_listener_outlives_the_grace(deliver: Delivery) -> None:
    """A row that has ended is never told as pending, even if the listener takes it after the grace."""
    deliver.open.clear()
    pool = make_pool(Script(), deliver, grace=NO_GRACE)
    run = asyncio.ensure_future(pool.run(rows(1)))
    await settle()
    pool.drain()
    await settle()
    deliver.open.set()
    await run
    assert deliver.by_status(Status.UPLOADED) == deliver.lines() == [0]


def fatal_at(position: int, error: FatalError) -> Act:
    """The row at `position` meets what is fatal; those before end, those after wait for ever."""

    async def act(here: int, _seat: Seat) -> None:
        if here == position:
            raise error
        if here > position:
            await asyncio.Event().wait()

    return act


@pytest.mark.parametrize("error", [TokenRefusedError("no"), OutageError("away"), LedgerError("full")])
async def test_a_fatal_error_is_raised_after_every_row_has_its_outcome(
    deliver: Delivery, error: FatalError
) -> None:
    """The run stops at once; rows under way are not finished, the others not begun, and then the error comes."""
    script = Script(fatal_at(4, error))
    with pytest.raises(type(error)) as caught:
        await make_pool(script, deliver).run(iter(rows(150)))
    assert caught.value is error
    assert deliver.by_status(Status.UPLOADED) == [0, 1, 2, 3]
    interrupted = deliver.by_status(Status.PENDING, f"{INTERRUPTED} ({error})")
    not_begun = deliver.by_status(Status.PENDING, f"{NOT_BEGUN} ({error})")
    assert interrupted + not_begun == list(range(4, 150))
    assert set(script.begun[4:]) <= set(interrupted)


async def test_of_several_fatal_errors_one_is_raised(deliver: Delivery) -> None:
    """When all workers meet the same wall, the caller gets one plain error and no group."""

    async def act(position: int, _seat: Seat) -> None:
        await gate.wait()
        raise TokenRefusedError(f"refused for {position}")

    gate = asyncio.Event()
    run = asyncio.ensure_future(make_pool(Script(act), deliver).run(rows(9)))
    await settle()
    gate.set()
    with pytest.raises(TokenRefusedError, match="refused for 0"):
        await run
    assert deliver.lines() == list(range(9))


async def test_a_fatal_error_during_the_grace_is_raised(deliver: Delivery) -> None:
    """Draining hides no fatal error, and every row still has its outcome."""

    async def act(position: int, _seat: Seat) -> None:
        await gate.wait()
        if position == 1:
            raise OutageError("away")
        await asyncio.Event().wait()

    gate = asyncio.Event()
    pool = make_pool(Script(act), deliver, grace=AMPLE_GRACE)
    run = asyncio.ensure_future(pool.run(rows(9)))
    await settle()
    pool.drain()
    await settle()
    gate.set()
    with pytest.raises(OutageError) as caught:
        await run
    assert deliver.by_status(Status.PENDING, f"{INTERRUPTED} ({caught.value})") == [0, 1, 2]
    assert deliver.by_status(Status.PENDING, f"{NOT_BEGUN} ({caught.value})") == list(range(3, 9))


async def test_a_fatal_error_loses_no_outcome_that_is_on_its_way(deliver: Delivery) -> None:
    """A row that ended while the listener was busy is still delivered, once and as it ended."""

    async def act(position: int, _seat: Seat) -> None:
        if position:
            await gate.wait()
            raise OutageError("away")

    gate = asyncio.Event()
    deliver.open.clear()
    run = asyncio.ensure_future(make_pool(Script(act), deliver).run(rows(5)))
    await settle()
    gate.set()
    await settle()
    deliver.open.set()
    with pytest.raises(OutageError):
        await run
    assert deliver.by_status(Status.UPLOADED) == [0]
    assert deliver.lines() == [0, 1, 2, 3, 4]


def breaking_off(number: int) -> Iterator[Row]:
    """A manifest that cannot be read any further after `number` rows."""
    yield from rows(number)
    raise ManifestError("line 9 cannot be read.")


@pytest.mark.parametrize("number", [0, 1, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 150])
async def test_a_manifest_that_breaks_off_is_carried_so_far(deliver: Delivery, number: int) -> None:
    """What was read of it is carried to its end, and then the error is raised."""
    with pytest.raises(ManifestError, match="line 9"):
        await make_pool(Script(), deliver).run(breaking_off(number))
    assert deliver.by_status(Status.UPLOADED) == deliver.lines() == list(range(number))


async def test_a_manifest_that_breaks_off_after_a_drain_is_said_so(deliver: Delivery) -> None:
    """Rows read after the run was told to stop are left as not begun, and the manifest's error is not lost."""
    pool = make_pool(Script(), deliver)
    pool.drain()
    with pytest.raises(ManifestError):
        await pool.run(breaking_off(100))
    assert deliver.by_status(Status.PENDING, NOT_BEGUN) == list(range(100))


async def test_what_is_fatal_comes_before_what_is_wrong_with_the_manifest(deliver: Delivery) -> None:
    """Of both, the error that ended the run is raised."""
    with pytest.raises(TokenRefusedError):
        await make_pool(Script(fatal_at(0, TokenRefusedError("no"))), deliver).run(breaking_off(5))
    assert deliver.lines() == list(range(5))


async def test_cancellation_passes_through_and_leaves_no_task(deliver: Delivery) -> None:
    """Whoever cancels the run gets its cancellation, every row's task has ended, and no outcome is made up."""
    stopped: Counter[int] = Counter()

    async def act(position: int, _seat: Seat) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped[position] += 1

    others = asyncio.all_tasks()
    run = asyncio.ensure_future(make_pool(Script(act), deliver, grace=AMPLE_GRACE).run(rows(100)))
    await settle()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert stopped == {0: 1, 1: 1, 2: 1}
    assert asyncio.all_tasks() == others
    assert deliver.outcomes == []


async def test_cancellation_during_the_grace_ends_at_once(deliver: Delivery) -> None:
    """A second request to stop does not wait for the grace."""
    others = asyncio.all_tasks()
    pool = make_pool(Script(Gate()), deliver, grace=AMPLE_GRACE)
    run = asyncio.ensure_future(pool.run(rows(10)))
    await settle()
    pool.drain()
    await settle()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert asyncio.all_tasks() == others


async def test_a_mistake_of_the_program_is_not_taken_for_an_outcome(deliver: Delivery) -> None:
    """An error that nobody foresaw is not hidden, and leaves no task behind."""

    async def act(position: int, _seat: Seat) -> None:
        if position == 1:
            raise ZeroDivisionError
        await asyncio.Event().wait()

    others = asyncio.all_tasks()
    with pytest.raises(ExceptionGroup) as caught:
        await make_pool(Script(act), deliver).run(rows(10))
    assert caught.group_contains(ZeroDivisionError)
    assert asyncio.all_tasks() == others
