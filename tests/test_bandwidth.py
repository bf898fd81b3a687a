"""The bandwidth limit: how it is written, how smoothly it is kept, and that a paced upload is no stalled one."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import virtual_time
from shop import EMULATOR, identities, open_shop, statuses
from tileferry import Credentials
from tileferry.bandwidth import CATCH_UP, LARGEST_SLICE, SMALLEST_SLICE, Bandwidth, Unlimited, limited_to
from tileferry.clock import Clock
from tileferry.errors import UsageError
from tileferry.events import CallEnded, RetryPlanned
from tileferry.fleet import Berth, open_fleet
from tileferry.model import ImageKind, Status
from tileferry.multipart import Body
from tileferry.settings import Pace, bytes_a_second
from tileferry.wire import _moving

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

MB = 1024 * 1024


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("2M", 2 * MB),
        ("2m", 2 * MB),
        ("2Mi", 2 * MB),
        ("2MiB", 2 * MB),
        ("1.5M", 1.5 * MB),
        (".5M", 0.5 * MB),
        ("3.K", 3 * 1024),
        ("1G", 1024 * MB),
        ("512K", 512 * 1024),
        ("512", 512 * 1024),
        ("100000B", 100_000),
        ("1K", 1024),
        (" 2M ", 2 * MB),
        ("off", None),
        ("OFF", None),
        ("0", None),
        ("0M", None),
    ],
)
def test_limit_as_it_is_written(text: str, limit: float | None) -> None:
    """A limit is read as rclone reads it: in powers of 1024, KiB where no unit is named, `off` or 0 for none."""
    assert bytes_a_second(text) == limit
    assert Pace(bandwidth=limit).bandwidth == limit


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"\(empty\) is not understood"),
        ("fast", "fast is not understood"),
        ("2 M", "2 M is not understood"),
        ("2MB", "2MB is not understood"),
        ("-1M", "-1M is not understood"),
        ("1e6", "1e6 is not understood"),
        ("nan", "nan is not understood"),
        ("2M:1M", "2M:1M is not understood"),
        ("08:00,512k", "is not understood"),
        ("1,5M", "1,5M is not understood"),
        ("٣M", "is not understood"),
        ("2\x1bM", r"2\\x1bM is not understood"),
        ("1023B", "1023B is less than 1024 bytes a second"),
        ("0.5", "0.5 is less than 1024 bytes a second"),
    ],
)
def test_limit_that_makes_no_sense(text: str, told: str) -> None:
    """Anything else is a usage error that says what was typed and how a limit is written."""
    with pytest.raises(UsageError, match=told) as caught:
        bytes_a_second(text)
    assert "or off." in str(caught.value)


@pytest.mark.parametrize("limit", [1023, 0, -1, float("nan"), float("inf")])
def test_limit_of_a_program_is_checked_too(limit: float) -> None:
    """A program that sets a limit with which nothing would arrive is told so at once."""
    with pytest.raises(UsageError, match=r"^bandwidth is "):
        Pace(bandwidth=limit)


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        (1024, SMALLEST_SLICE),
        (20 * SMALLEST_SLICE, SMALLEST_SLICE),
        (2 * MB, 2 * MB // 20),
        (1e12, LARGEST_SLICE),
    ],
)
def test_slices_are_a_twentieth_of_a_second(limit: float, size: int) -> None:
    """A slice is what a twentieth of a second carries, but never tiny nor larger than what is read at once."""
    chunk = random.Random(0).randbytes(3 * size + 1)
    slices = list(Bandwidth(limit).slices(chunk))
    assert [len(piece) for piece in slices] == [size, size, size, 1]
    assert b"".join(slices) == chunk


def fullest(departures: list[tuple[float, int]], span: float = 1.0) -> int:
    """The most bytes that left within any span of so many seconds."""
    most = start = inside = 0
    for at, size in departures:
        inside += size
        while departures[start][0] <= at - span:
            inside -= departures[start][1]
            start += 1
        most = max(most, inside)
    return most


async def departing(limits: Bandwidth, name: int, size: int, left: list[tuple[float, int, int]]) -> None:
    """One upload of `size` bytes: notes when each slice of it leaves."""
    for piece in limits.slices(bytes(size)):
        await limits.turn(len(piece))
        left.append((asyncio.get_running_loop().time(), len(piece), name))


@pytest.mark.parametrize("limit", [1024, 10_000, 100_000, 2 * MB, 50 * MB])
@pytest.mark.parametrize("busy", [False, True], ids=["idle processor", "busy processor"])
def test_any_second_keeps_the_limit(limit: int, busy: bool) -> None:
    """No second carries more than 1.05 of the limit and a slice, though the loop may be held up at times."""
    chance = random.Random(limit)

    async def holding_up() -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.0, 2.0))
            virtual_time.block(chance.choice([0.001, 0.03, 0.4, 3.0]))

    async def main() -> list[tuple[float, int, int]]:
        limits = Bandwidth(limit)
        left: list[tuple[float, int, int]] = []
        nuisance = asyncio.create_task(holding_up()) if busy else None
        async with asyncio.TaskGroup() as group:
            for name in range(8):
                group.create_task(departing(limits, name, chance.randint(1, limit * 3), left))
                await asyncio.sleep(chance.uniform(0.0, 4.0))
        if nuisance is not None:
            nuisance.cancel()
            await asyncio.wait([nuisance])
        return left

    left = virtual_time.run(main())
    largest = max(size for _at, size, _name in left)
    assert fullest([(at, size) for at, size, _name in left]) <= limit * (1 + CATCH_UP) + largest


def test_the_limit_is_used() -> None:
    """As long as there is something to send, the line carries what it may: slices and timers cost nothing."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        left: list[tuple[float, int, int]] = []
        limits = Bandwidth(1 * MB)
        async with asyncio.TaskGroup() as group:
            for name in range(4):
                group.create_task(departing(limits, name, 5 * MB, left))
        return loop.time() - begun

    assert virtual_time.run(main()) == pytest.approx(20.0, abs=0.2)


def test_uploads_take_turns() -> None:
    """Uploads at the same time advance side by side: none is ever more than one slice ahead of another."""

    async def main() -> list[int]:
        left: list[tuple[float, int, int]] = []
        limits = Bandwidth(100_000)
        # The line is taken when they come; else the first would use the bit that is made up for alone.
        await limits.turn(100_000)
        async with asyncio.TaskGroup() as group:
            for name in range(5):
                group.create_task(departing(limits, name, 50_000, left))
        return [name for _at, _size, name in left]

    names = virtual_time.run(main())
    assert names == [0, 1, 2, 3, 4] * 10


def test_an_upload_that_is_given_up_takes_no_time_from_the_others() -> None:
    """Whoever is cancelled while waiting for a turn neither uses bandwidth nor holds up those behind."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        limits = Bandwidth(1024)
        await limits.turn(1024)
        begun = loop.time()
        doomed = [asyncio.create_task(limits.turn(100 * 1024)) for _ in range(3)]
        patient = asyncio.create_task(limits.turn(1))
        await asyncio.sleep(0.5)
        for task in doomed:
            task.cancel()
        await patient
        assert all(task.cancelled() for task in doomed)
        return loop.time() - begun

    assert virtual_time.run(main()) == pytest.approx(1.0 - CATCH_UP, abs=0.01)


def test_without_a_limit_nothing_is_cut_and_nothing_waits() -> None:
    """The absent twin leaves bodies whole and lets them go at once."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        limits = limited_to(None)
        assert isinstance(limits, Unlimited)
        assert list(limits.slices(bytes(MB))) == [bytes(MB)]
        await limits.turn(10**12)
        return loop.time() - begun

    assert virtual_time.run(main()) < 0.001


def body(content: bytes, limits: Bandwidth | Unlimited, *, streamed: bool) -> Body:
    """A picture's body, from memory or as if from disk."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(content), 7000):
            yield content[start : start + 7000]

    return Body(
        field_name="file",
        filename="a.png",
        kind=ImageKind.PNG,
        size=len(content),
        content=chunks() if streamed else content,
        bandwidth=limits,
    )


@pytest.mark.parametrize("streamed", [False, True], ids=["at hand", "from disk"])
def test_a_body_leaves_slice_by_slice(streamed: bool) -> None:
    """A limited body is the same body, framing included, at the pace of the limit; its last byte goes last."""
    content = random.Random(1).randbytes(40_000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        paced = body(content, Bandwidth(10_000), streamed=streamed)
        begun = loop.time()
        pieces = []
        async for piece in paced.stream():
            assert len(piece) <= SMALLEST_SLICE
            pieces.append(piece)
            assert paced.handed_over is (sum(map(len, pieces)) == paced.length)
        assert content in b"".join(pieces)
        took = loop.time() - begun
        assert took == pytest.approx(paced.length / 10_000, abs=0.2)
        assert paced.held_back() == pytest.approx(took, abs=0.001)

    virtual_time.run(main())


@pytest.mark.parametrize("streamed", [False, True], ids=["at hand", "from disk"])
def test_a_body_whose_end_waits_is_not_handed_over(streamed: bool) -> None:
    """As long as its last bytes wait for their turn, nothing whole can have arrived, and the body says so."""

    async def main() -> None:
        limits = Bandwidth(1024)
        paced = body(bytes(3 * SMALLEST_SLICE), limits, streamed=streamed)
        stream = paced.stream()
        left = paced.length
        while left > SMALLEST_SLICE:
            left -= len(await anext(stream))
        await limits.turn(100 * 1024)
        last = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(1)
        assert not last.done()
        assert not paced.handed_over
        assert len(await last) == left
        assert paced.handed_over

    virtual_time.run(main())


def test_a_body_that_waits_says_for_how_long() -> None:
    """What a body tells of its waiting grows while it waits, and stands still while it could go on."""

    async def main() -> None:
        limits = Bandwidth(1024)
        paced = body(bytes(5000), limits, streamed=False)
        await limits.turn(10 * 1024)
        stream = paced.stream()
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(4)
        assert paced.held_back() == pytest.approx(4, abs=0.01)
        await first
        held = paced.held_back()
        assert held == pytest.approx(10 - CATCH_UP, abs=0.01)
        await asyncio.sleep(50)
        assert paced.held_back() == held

    virtual_time.run(main())


@pytest.mark.parametrize("dead_after", [None, 3], ids=["alive", "dead"])
def test_a_paced_upload_is_no_stalled_one(dead_after: int | None) -> None:
    """A body whose slices are minutes apart is not given up; one whose line is dead is, though it is limited."""
    stall = 10.0

    async def main() -> tuple[float, float] | None:
        loop = asyncio.get_running_loop()
        limits = Bandwidth(1024)
        paced = body(bytes(20 * 1024), limits, streamed=False)

        class Line:
            bytes_written = 0

        line = Line()
        died_at = 0.0

        async def competitor() -> None:
            while True:
                await limits.turn(100 * 1024)

        async def send() -> None:
            nonlocal died_at
            taken = 0
            async for piece in paced.stream():
                taken += 1
                if taken == dead_after:
                    died_at = loop.time()
                    await asyncio.Event().wait()
                line.bytes_written += len(piece)

        other = asyncio.create_task(competitor())
        try:
            async with _moving(  # all that is read of a tracker
                line,  # type: ignore[arg-type]
                paced.length,
                stall=stall,
                total=60.0,
                held_back=paced.held_back,
            ):
                await send()
        except TimeoutError:
            return died_at, loop.time()
        finally:
            other.cancel()
            await asyncio.wait([other])
        return None

    ended = virtual_time.run(main())
    if dead_after is None:
        assert ended is None
    else:
        assert ended is not None
        died_at, given_up_at = ended
        assert stall <= given_up_at - died_at <= 2 * stall + 0.1


async def test_a_whole_run_keeps_the_limit(tmp_path: Path) -> None:
    """A limited run uploads everything, small and streamed pictures alike, no faster than allowed.

    None is taken for stalled, though each takes longer than a stall may.
    """
    async with open_shop(tmp_path) as shop:
        rows = [
            shop.picture("large.jpg", size=400_000, line=2),
            *(
                shop.picture(f"{number}.png", kind=ImageKind.PNG, size=20_000, line=number)
                for number in range(3, 8)
            ),
        ]
        size = sum(row.path.stat().st_size for row in rows)
        limit = size / 1.2
        settings = replace(shop.settings, pace=replace(shop.settings.pace, bandwidth=limit, concurrency=3))
        timing = replace(settings.timing, stall=0.3)
        outcomes = await shop.upload(rows, settings=settings, timing=timing, clock=Clock())
        assert statuses(outcomes) == [Status.UPLOADED] * len(rows)
        assert shop.stored() == identities(rows)
        assert shop.heard(RetryPlanned) == []
        assert shop.calls()["upload"] == len(rows)
        assert shop.summary is not None
        assert shop.summary.seconds >= 1.2 - CATCH_UP - 0.05
        longest = max(event.seconds for event in shop.heard(CallEnded))
        assert longest > timing.stall


async def test_stores_share_one_limit(tmp_path: Path) -> None:
    """Several stores in one run keep the limit together, for the line is one."""
    stores = (1003, 2004, 3005)
    async with open_shop(tmp_path, replace(EMULATOR, store_ids=frozenset(stores))) as shop:
        rows = [
            replace(shop.picture(f"{store}.jpg", size=100_000, line=line), store_id=store)
            for line, store in enumerate(stores, 2)
        ]
        limit = sum(row.path.stat().st_size for row in rows) / 0.9
        berths = [
            Berth(
                replace(
                    shop.settings,
                    store_id=store,
                    ledger=tmp_path / f"{store}.sqlite3",
                    pace=replace(shop.settings.pace, bandwidth=limit),
                ),
                Credentials(token=shop.emulator.issue_token(store)),
            )
            for store in stores
        ]
        async with open_fleet(berths) as fleet:
            outcomes = [outcome async for outcome in fleet.upload(lambda: rows)]
        assert statuses(outcomes) == [Status.UPLOADED] * 3
        # With a limit of its own each would be done in a third of the time.
        assert fleet.summary.seconds >= 0.9 - CATCH_UP - 0.05
