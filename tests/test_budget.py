"""The budget: never more calls than allowed in any minute, as many as allowed when there is work."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import virtual_time
from tileferry.budget import (
    CATCH_UP,
    CLIMB,
    LEASE_SECONDS,
    LEAST_SHARE,
    WINDOW,
    Budget,
    CoolDown,
    Turn,
    Urgency,
)
from tileferry.errors import LedgerError
from tileferry.events import CoolDownBegan
from tileferry.model import Lease

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tileferry.clock import Clock
    from tileferry.events import Event

MARGIN = 0.9
BLINK = 1e-3
"""Seconds; the virtual loop's turns take nanoseconds, so this covers thousands of them."""


@dataclass(slots=True)
class Desk:
    """A budget under test, with what it told and when calls left."""

    budget: Budget
    clock: Clock
    told: list[Event]
    departures: list[float]

    async def call(self, urgency: Urgency = Urgency.RESERVE, *, connecting: float = 0.0) -> None:
        """Make one call; its connection comes about after `connecting` seconds."""
        turn = await self.budget.turn(urgency)
        try:
            if connecting:
                await asyncio.sleep(connecting)
            self.leave(turn)
        finally:
            turn.give_back()

    def leave(self, turn: Turn) -> None:
        """Let the call leave now."""
        turn.left()
        self.departures.append(self.clock.now())


def desk(
    rate: int,
    *,
    margin: float = MARGIN,
    past: Sequence[Lease] = (),
    lease: Callable[[Lease], asyncio.Future[object]] | None = None,
) -> Desk:
    """A fresh budget on the running virtual loop."""
    clock = virtual_time.clock()
    told: list[Event] = []
    cool_down = CoolDown("api.example", clock, told.append)
    budget = Budget(rate, margin=margin, clock=clock, cool_down=cool_down, past=past, lease=lease)
    return Desk(budget, clock, told, [])


class Disk:
    """Where leases are recorded; each is on disk after `seconds`."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.leases: list[Lease] = []
        self.asked: list[asyncio.Future[object]] = []

    def record(self, lease: Lease) -> asyncio.Future[object]:
        """Record a lease."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[object] = loop.create_future()
        self.asked.append(done)
        if self.seconds < math.inf:
            loop.call_later(self.seconds, self.write, lease, done)
        return done

    def write(self, lease: Lease, done: asyncio.Future[object]) -> None:
        """The lease is on disk now."""
        self.leases.append(lease)
        done.set_result(None)


def most_in_any(span: float, departures: Sequence[float]) -> int:
    """The largest number of departures within any half-open span of that many seconds."""
    times = sorted(departures)
    return max((bisect_left(times, start + span) - index for index, start in enumerate(times)), default=0)


async def for_ever(desk: Desk, urgency: Urgency = Urgency.RESERVE) -> None:
    """Call without end."""
    while True:
        await desk.call(urgency)


@contextlib.asynccontextmanager
async def cancelled_at_end(*tasks: asyncio.Task[None]) -> AsyncIterator[None]:
    """Cancel and await the tasks at the end."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("rate", "workers"), [(1, 3), (7, 3), (600, 16), (6000, 16)])
def test_busy_system_uses_the_budget_and_never_exceeds_it(rate: int, workers: int) -> None:
    """Ten busy minutes use at least 98 % of the rate, and no minute with its margin holds more than the rate."""

    async def main() -> list[float]:
        shop = desk(rate)
        tasks = [asyncio.create_task(for_ever(shop)) for _ in range(workers)]
        async with cancelled_at_end(*tasks):
            await asyncio.sleep(600)
        shop.budget.close()
        return shop.departures

    departures = virtual_time.run(main())
    assert most_in_any(WINDOW + MARGIN, departures) <= rate
    assert len(departures) >= int(0.98 * rate * 10)


def test_busy_processor_costs_no_budget() -> None:
    """Calls that leave late because the processor was busy are made up for, as long as the window allows it."""

    async def main() -> list[float]:
        shop = desk(600)
        tasks = [asyncio.create_task(for_ever(shop)) for _ in range(16)]
        async with cancelled_at_end(*tasks):
            for _ in range(600):
                await asyncio.sleep(0.3)
                virtual_time.block(0.7)
        return shop.departures

    departures = virtual_time.run(main())
    assert most_in_any(WINDOW + MARGIN, departures) <= 600
    assert len(departures) >= 0.98 * 6000


def test_fast_budget() -> None:
    """A rate of 100,000 a minute is reached too: neither timers nor rounding hold it back."""

    async def main() -> list[float]:
        shop = desk(100_000)
        tasks = [asyncio.create_task(for_ever(shop)) for _ in range(8)]
        async with cancelled_at_end(*tasks):
            await asyncio.sleep(12)
        return shop.departures

    departures = virtual_time.run(main())
    assert 0.98 * 20_000 <= len(departures) <= 20_000


def test_calls_leave_evenly_from_the_start() -> None:
    """A run does not begin with a burst: each call leaves one interval after the one before."""

    async def main() -> list[float]:
        shop = desk(600)
        await asyncio.gather(*(shop.call() for _ in range(30)))
        return shop.departures

    departures = virtual_time.run(main())
    gaps = [later - earlier for earlier, later in itertools.pairwise(departures)]
    assert departures[0] == pytest.approx(virtual_time.START, abs=BLINK)
    assert gaps == pytest.approx([(WINDOW + MARGIN) / 600] * 29, abs=BLINK)


def test_idle_time_is_not_saved_up() -> None:
    """After an idle hour no more calls leave at once than a second of delay makes up for."""

    async def main() -> list[float]:
        shop = desk(600)
        await asyncio.sleep(3600)
        await asyncio.gather(*(shop.call() for _ in range(100)))
        return shop.departures

    departures = virtual_time.run(main())
    at_once = sum(departure < departures[0] + BLINK for departure in departures)
    interval = (WINDOW + MARGIN) / 600
    assert at_once <= CATCH_UP / interval + 1
    assert departures[-1] - departures[at_once - 1] == pytest.approx((100 - at_once) * interval, abs=interval)


def test_urgent_calls_go_first() -> None:
    """While calls wait, results are served before reservations, and within each kind in order of arrival."""

    async def main() -> list[str]:
        shop = desk(60)
        served: list[str] = []

        async def caller(name: str, urgency: Urgency) -> None:
            await shop.call(urgency)
            served.append(name)

        wanted = [("a", Urgency.RESERVE), ("b", Urgency.RESERVE), ("c", Urgency.RESULT), ("d", Urgency.RESERVE)]
        wanted += [("e", Urgency.RESULT)]
        async with asyncio.TaskGroup() as group:
            for name, urgency in wanted:
                group.create_task(caller(name, urgency))
        return served

    # "a" finds the budget free and leaves at once; the others have to queue.
    assert virtual_time.run(main()) == ["a", "c", "e", "b", "d"]


def test_call_that_takes_long_to_leave_holds_its_place() -> None:
    """A call counts from when it leaves: slow connections cannot bunch up to more than the rate."""

    async def main() -> list[float]:
        shop = desk(10)
        # They are granted over a minute and all leave together at its end, when new ones are due already.
        slow = [asyncio.create_task(shop.call(connecting=60.0 - 6.09 * index)) for index in range(9)]
        fast = [asyncio.create_task(shop.call()) for _ in range(30)]
        async with cancelled_at_end(*slow, *fast):
            await asyncio.gather(*slow, *fast)
        return shop.departures

    departures = virtual_time.run(main())
    assert len(departures) == 39
    assert most_in_any(WINDOW + MARGIN, departures) <= 10


def test_no_call_is_granted_while_all_places_are_about_to_leave() -> None:
    """When the whole rate is on its way out, the next call waits for one of them, however long that takes."""

    async def main() -> tuple[bool, bool]:
        shop = desk(2)
        first, second = [await shop.budget.turn(Urgency.RESERVE) for _ in range(2)]
        third = asyncio.create_task(shop.call())
        await asyncio.sleep(1000)
        waited = not third.done()
        first.give_back()
        await asyncio.sleep(BLINK)
        went = third.done()
        second.left()
        await third
        return waited, went

    assert virtual_time.run(main()) == (True, True)


def test_leaving_and_giving_back_count_once() -> None:
    """A turn is settled once: saying `left` twice, or `give_back` after it, changes nothing."""

    async def main() -> list[float]:
        shop = desk(2, margin=0.0)
        turn = await shop.budget.turn(Urgency.RESERVE)
        shop.leave(turn)
        turn.left()
        turn.give_back()
        turn.give_back()
        await asyncio.gather(*(shop.call() for _ in range(5)))
        return shop.departures

    departures = virtual_time.run(main())
    assert most_in_any(WINDOW, departures) <= 2
    assert departures == pytest.approx([virtual_time.START + 30 * index for index in range(6)], abs=BLINK)


@pytest.mark.parametrize("rate", [1, 60])
def test_waiter_that_is_cancelled_costs_nobody_a_place(rate: int) -> None:
    """Those behind a caller that stops waiting move up: none of them leaves later than without it."""

    async def main(*, cancelling: bool) -> list[float]:
        shop = desk(rate)
        await shop.call()
        given_up = [asyncio.create_task(shop.call()) for _ in range(10)] if cancelling else []
        staying = [asyncio.create_task(shop.call()) for _ in range(5)]
        await asyncio.sleep(0)
        async with cancelled_at_end(*given_up):
            pass
        await asyncio.gather(*staying)
        return shop.departures

    assert virtual_time.run(main(cancelling=True)) == pytest.approx(
        virtual_time.run(main(cancelling=False)), abs=BLINK
    )


def test_waiter_that_is_cancelled_in_the_moment_of_its_turn_returns_it() -> None:
    """A turn granted to a caller that is cancelled before it wakes up is free again."""

    async def main() -> bool:
        shop = desk(2)
        first, second = [await shop.budget.turn(Urgency.RESERVE) for _ in range(2)]
        unlucky = asyncio.create_task(shop.call())
        await asyncio.sleep(1000)
        first.give_back()
        unlucky.cancel()
        await asyncio.gather(unlucky, return_exceptions=True)
        # With both places lost or taken, this one would wait for ever.
        await shop.call()
        second.give_back()
        return unlucky.cancelled() and len(shop.departures) == 1

    assert virtual_time.run(main())


@pytest.mark.parametrize("rate", [1, 2, 60])
def test_turn_that_is_given_back_is_free_again_at_once(rate: int) -> None:
    """A turn that was not used delays nobody: the next call leaves when it would have left without it."""

    async def main() -> list[float]:
        shop = desk(rate)
        turn = await shop.budget.turn(Urgency.RESERVE)
        turn.give_back()
        await shop.call()
        return shop.departures

    assert virtual_time.run(main()) == pytest.approx([virtual_time.START], abs=BLINK)


def test_turns_that_are_given_back_in_numbers_do_not_hold_up_the_queue() -> None:
    """A hundred callers that find their call pointless do not cost those behind them a hundred intervals."""

    async def main() -> float:
        shop = desk(60)

        async def pointless() -> None:
            (await shop.budget.turn(Urgency.RESULT)).give_back()

        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(pointless())
            group.create_task(shop.call())
        return shop.departures[0] - virtual_time.START

    assert virtual_time.run(main()) <= 2.0


def test_cool_down_lets_nothing_leave() -> None:
    """Nothing is granted while a cool-down lasts; afterwards the calls go on at their pace, with no burst."""

    async def main() -> tuple[list[float], float]:
        shop = desk(60)
        tasks = [asyncio.create_task(for_ever(shop)) for _ in range(4)]
        async with cancelled_at_end(*tasks):
            await asyncio.sleep(10)
            shop.budget.cool_down.begin(41.0)
            began = shop.clock.now()
            await asyncio.sleep(60)
        return shop.departures, began

    departures, began = virtual_time.run(main())
    assert not [departure for departure in departures if began < departure < began + 41.0]
    after = [departure for departure in departures if departure >= began + 41.0]
    assert after[0] == pytest.approx(began + 41.0, abs=BLINK)
    assert len(after) == pytest.approx(19, abs=2)


def test_cool_down_only_grows() -> None:
    """A second request for a pause lengthens the first one and never shortens it."""

    async def main() -> tuple[list[float], list[Event]]:
        shop = desk(60)
        cool_down = shop.budget.cool_down
        seen = [cool_down.remaining()]
        cool_down.begin(40.0)
        cool_down.begin(10.0)
        seen.append(cool_down.remaining())
        cool_down.begin(50.0)
        seen.append(cool_down.remaining())
        await cool_down.over()
        seen.append(shop.clock.now() - virtual_time.START)
        seen.append(cool_down.remaining())
        return seen, shop.told

    seen, told = virtual_time.run(main())
    assert seen == pytest.approx([0.0, 40.0, 50.0, 50.0, 0.0], abs=BLINK)
    assert told == [
        CoolDownBegan(host="api.example", seconds=40.0),
        CoolDownBegan(host="api.example", seconds=50.0),
    ]


def test_cool_down_that_grows_while_it_is_waited_for() -> None:
    """Who waits for the end of a cool-down waits for its new end when it grows."""

    async def main() -> float:
        shop = desk(60)
        shop.budget.cool_down.begin(5.0)
        waiting = asyncio.create_task(shop.budget.cool_down.over())
        await asyncio.sleep(3)
        shop.budget.cool_down.begin(10.0)
        await waiting
        return shop.clock.now() - virtual_time.START

    assert virtual_time.run(main()) == pytest.approx(13.0, abs=BLINK)


def test_patience_stands_still_while_cooling_down() -> None:
    """The time of a cool-down, overlapping requests counted once, is taken out of everyone's patience."""

    async def main() -> float:
        shop = desk(60)
        before = shop.clock.moving()
        shop.budget.cool_down.begin(20.0)
        await asyncio.sleep(10)
        shop.budget.cool_down.begin(20.0)
        await asyncio.sleep(50)
        return shop.clock.moving() - before

    assert virtual_time.run(main()) == pytest.approx(30.0, abs=BLINK)


def test_second_cool_down_after_the_first() -> None:
    """A later cool-down works like the first one: it holds calls, and it holds patience."""

    async def main() -> tuple[float, float]:
        shop = desk(6000)
        for _ in range(2):
            shop.budget.cool_down.begin(5.0)
            await shop.call()
        return shop.clock.now() - virtual_time.START, shop.clock.moving() - virtual_time.START

    now, moving = virtual_time.run(main())
    assert now == pytest.approx(10.0, abs=BLINK)
    assert moving == pytest.approx(0.0, abs=BLINK)


def test_close_leaves_no_timer() -> None:
    """A closed budget has nothing pending on the loop, and patience runs again."""

    async def main() -> tuple[float, bool]:
        shop = desk(60)
        await shop.call()
        waiting = asyncio.create_task(shop.call())
        await asyncio.sleep(0)
        shop.budget.cool_down.begin(100.0)
        shop.budget.close()
        shop.budget.close()
        before = shop.clock.moving()
        await asyncio.sleep(30)
        async with cancelled_at_end(waiting):
            never = not waiting.done()
        return shop.clock.moving() - before, never

    moved, never = virtual_time.run(main())
    assert moved == pytest.approx(30.0, abs=BLINK)
    assert never


async def busy(shop: Desk, seconds: float, *, workers: int = 8) -> None:
    """Call as often as the budget allows for so many seconds, then stop dead."""
    tasks = [asyncio.create_task(for_ever(shop)) for _ in range(workers)]
    async with cancelled_at_end(*tasks):
        await asyncio.sleep(seconds)
    shop.budget.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 90), st.floats(0, 40)), min_size=2, max_size=6))
def test_restarts_do_not_exceed_the_budget(runs: list[tuple[float, float]]) -> None:
    """However often a run is killed and started again, all runs together keep the window."""

    async def main() -> list[float]:
        disk = Disk()
        departures: list[float] = []
        for lasting, gap in runs:
            shop = desk(120, past=list(disk.leases), lease=disk.record)
            await busy(shop, lasting)
            departures += shop.departures
            await asyncio.sleep(gap)
        return departures

    assert most_in_any(WINDOW + MARGIN - BLINK, virtual_time.run(main())) <= 120


def test_recording_leases_costs_no_budget() -> None:
    """With a lease on disk before each few seconds of calls, a busy system still uses 98 % of the rate."""

    async def main() -> tuple[int, int]:
        disk = Disk()
        shop = desk(600, lease=disk.record)
        await busy(shop, 600)
        return len(shop.departures), len(disk.leases)

    calls, leases = virtual_time.run(main())
    assert calls >= 0.98 * 6000
    assert leases <= 600 / LEASE_SECONDS + 2


def test_no_call_leaves_before_its_lease_is_on_disk() -> None:
    """A call is recorded before it leaves; one lease is asked for however many wait for it."""

    async def main() -> tuple[list[float], int]:
        disk = Disk(seconds=1.0)
        shop = desk(600, lease=disk.record)
        await asyncio.gather(*(shop.call() for _ in range(5)))
        return shop.departures, len(disk.asked)

    departures, asked = virtual_time.run(main())
    assert departures[0] == pytest.approx(virtual_time.START + 1.0, abs=BLINK)
    assert asked == 1


def test_slow_disk_does_not_stop_the_run() -> None:
    """A disk that takes longer to record a lease than the lease lasts slows calls down but lets them leave."""

    async def main() -> int:
        disk = Disk(seconds=LEASE_SECONDS + 1.0)
        shop = desk(600, lease=disk.record)
        async with asyncio.timeout(120):
            await shop.call()
        return len(shop.departures)

    assert virtual_time.run(main()) == 1


def test_lease_that_cannot_be_recorded_stops_all_who_wait() -> None:
    """What cannot be recorded is not called: everyone waiting gets the ledger's error, and nothing leaves."""

    async def main() -> None:
        disk = Disk(seconds=math.inf)
        shop = desk(600, lease=disk.record)
        waiting = [asyncio.create_task(shop.call()) for _ in range(3)]
        await asyncio.sleep(1)
        waiting[0].cancel()
        await asyncio.sleep(1)
        disk.asked[0].set_exception(LedgerError("the disk is full"))
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [asyncio.CancelledError, LedgerError, LedgerError]
        assert shop.departures == []
        disk.seconds = 0.0
        await shop.call()
        assert len(disk.asked) == 2

    virtual_time.run(main())


def test_lease_that_is_given_up_grants_nothing() -> None:
    """When recording is cancelled, as at the end of a run, no call leaves on the strength of it."""

    async def main() -> list[float]:
        disk = Disk(seconds=math.inf)
        shop = desk(600, lease=disk.record)
        waiting = asyncio.create_task(shop.call())
        await asyncio.sleep(1)
        disk.asked[0].cancel()
        await asyncio.sleep(100)
        async with cancelled_at_end(waiting):
            return shop.departures

    assert virtual_time.run(main()) == []


@pytest.mark.parametrize(
    ("ended_ago", "first"),
    [(0.0, WINDOW + MARGIN), (20.0, WINDOW + MARGIN - 20.0), (61.0, 0.0), (-3600.0, WINDOW + MARGIN)],
    ids=["just now", "a while ago", "long ago", "in the future: the clock was set back"],
)
def test_lease_of_an_earlier_run_counts_as_used(ended_ago: float, first: float) -> None:
    """What an earlier run was allowed counts as called at its end, at the latest now, until the window is over."""

    async def main() -> float:
        past = [Lease(60, asyncio.get_running_loop().time() - ended_ago)]
        shop = desk(60, past=past)
        await shop.call()
        return shop.departures[0] - virtual_time.START

    assert virtual_time.run(main()) == pytest.approx(first, abs=BLINK)


def calls_a_minute(departures: Sequence[float], after: float) -> int:
    """How many calls left in the minute that begins `after` seconds from the start."""
    begins = virtual_time.START + after
    return sum(begins <= departure < begins + 60 for departure in departures)


def test_pace_is_lower_after_a_pause_and_climbs_back() -> None:
    """After a 429 fewer calls leave than had left before it; within the stated time it is the whole rate again."""

    async def main() -> list[float]:
        shop = desk(600)
        asyncio.get_running_loop().call_later(120, shop.budget.throttled, 30.0)
        await busy(shop, 150 + CLIMB + 120)
        return shop.departures

    departures = virtual_time.run(main())
    assert calls_a_minute(departures, 60) >= 588
    assert calls_a_minute(departures, 150) < 0.99 * calls_a_minute(departures, 60)
    assert calls_a_minute(departures, 150 + CLIMB) >= 588


def test_pace_follows_what_others_leave() -> None:
    """When a pause shows that only a third of the rate was to be had, the next minute uses about that much."""

    async def main() -> list[float]:
        shop = desk(600)
        # Within this minute the others took the rest.
        asyncio.get_running_loop().call_later(20, shop.budget.throttled, 10.0)
        await busy(shop, 90)
        return shop.departures

    departures = virtual_time.run(main())
    before = calls_a_minute(departures, -40)
    assert before < calls_a_minute(departures, 30) < before + 60


def test_pauses_never_stop_it_for_good() -> None:
    """However many 429s come, some share of the rate is used; requests within one pause count once."""

    async def main() -> tuple[list[float], list[float]]:
        once, often = desk(600), desk(600)
        for shop, times in ((once, 1), (often, 9)):
            for _ in range(times):
                shop.budget.throttled(5.0)
        await asyncio.gather(busy(once, 65), busy(often, 65))
        return once.departures, often.departures

    once, often = virtual_time.run(main())
    assert len(once) == len(often)
    assert len(once) >= 600 * LEAST_SHARE


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller of a made-up pattern; times are in seconds after the start, `None` means never."""

    arrives: float
    urgent: bool
    connecting: float
    cancelled_after: float | None
    uses: bool


CALLERS = st.builds(
    Caller,
    arrives=st.floats(0, 150),
    urgent=st.booleans(),
    connecting=st.sampled_from([0.0, 0.0, 0.3, 20.0, 70.0]),
    cancelled_after=st.none() | st.floats(0, 100),
    uses=st.booleans() | st.just(value=True),
)


async def act(shop: Desk, caller: Caller) -> None:
    """Do what the pattern says for one caller."""
    await asyncio.sleep(caller.arrives)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(caller.cancelled_after):
            turn = await shop.budget.turn(Urgency.RESULT if caller.urgent else Urgency.RESERVE)
            try:
                await asyncio.sleep(caller.connecting)
                if caller.uses:
                    shop.leave(turn)
            finally:
                turn.give_back()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rate=st.integers(1, 40),
    margin=st.sampled_from([0.0, 0.9, 5.0]),
    callers=st.lists(CALLERS, min_size=1, max_size=40),
    pauses=st.lists(st.tuples(st.floats(0, 150), st.floats(1, 90)), max_size=3),
)
def test_any_pattern_keeps_the_window_and_serves_everyone(
    rate: int, margin: float, callers: list[Caller], pauses: list[tuple[float, float]]
) -> None:
    """Whatever callers, cancellations, slow connections and pauses: the window holds, and nobody starves."""

    async def pause(shop: Desk, at: float, seconds: float) -> None:
        await asyncio.sleep(at)
        shop.budget.cool_down.begin(seconds)

    async def main() -> list[float]:
        shop = desk(rate, margin=margin)
        async with asyncio.timeout(100_000), asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(act(shop, caller))
            for at, seconds in pauses:
                group.create_task(pause(shop, at, seconds))
        return shop.departures

    departures = virtual_time.run(main())
    assert most_in_any(WINDOW + margin - BLINK, departures) <= rate
    assert len(departures) >= sum(caller.uses and caller.cancelled_after is None for caller in callers)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    arrivals=st.lists(st.tuples(st.floats(0, 30), st.booleans()), min_size=1, max_size=30),
    pauses=st.lists(st.tuples(st.floats(0, 60), st.floats(1, 30)), max_size=3),
)
def test_any_pattern_is_granted_outside_pauses_and_by_urgency(
    arrivals: list[tuple[float, bool]], pauses: list[tuple[float, float]]
) -> None:
    """No turn is granted within a pause, nor to a reservation while a result waits."""

    async def main() -> None:
        shop = desk(60)
        waiting = dict.fromkeys(Urgency, 0)
        paused_until = 0.0

        async def caller(arrives: float, urgency: Urgency) -> None:
            await asyncio.sleep(arrives)
            waiting[urgency] += 1
            arrived = shop.clock.now()
            turn = await shop.budget.turn(urgency)
            waiting[urgency] -= 1
            now = shop.clock.now()
            assert now >= paused_until - BLINK
            # A caller that found the budget free had nobody before it.
            assert urgency is Urgency.RESULT or not waiting[Urgency.RESULT] or now - arrived < BLINK
            shop.leave(turn)

        async def pause(at: float, seconds: float) -> None:
            nonlocal paused_until
            await asyncio.sleep(at)
            shop.budget.cool_down.begin(seconds)
            paused_until = max(paused_until, shop.clock.now() + seconds)

        async with asyncio.TaskGroup() as group:
            for arrives, urgent in arrivals:
                group.create_task(caller(arrives, Urgency.RESULT if urgent else Urgency.RESERVE))
            for at, seconds in pauses:
                group.create_task(pause(at, seconds))

    virtual_time.run(main())
