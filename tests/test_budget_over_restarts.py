"""The budget over restarts, clock changes and 429s: what is recorded before it is used is never used twice."""

from __future__ import annotations

import asyncio
import itertools
import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import virtual_time
from tileferry.budget import CLIMB, LEASE_SECONDS, LEAST_SHARE, WINDOW, Budget, CoolDown, Share, Urgency
from tileferry.clock import Clock
from tileferry.errors import LedgerError
from tileferry.ledger import LEASES_KEPT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tileferry.model import Lease

MARGIN = 0.9
RATE = 120
BLINK = 1e-3
"""Seconds; the virtual loop's turns take nanoseconds, so this covers thousands of them."""

WASTE = 2 * LEASE_SECONDS
"""Seconds of calls that a kill may cost: what is recorded and unused, and what counts later than it left."""


@dataclass(slots=True)
class Machine:
    """A computer on which a run is killed and started again: its time of day and its disk outlive the runs."""

    ahead: float = 0.0
    """By how many seconds the time of day is wrong."""
    writing: float = 0.01
    """Seconds until a lease is on disk."""
    leases: list[Lease] = field(default_factory=list)
    departures: list[float] = field(default_factory=list)
    clock: Clock = field(init=False)
    full: bool = False
    _writes: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.clock = Clock(now=loop.time, wall=lambda: loop.time() + self.ahead)

    def record(self, lease: Lease) -> asyncio.Future[object]:
        """Record a lease; it is lost if the run is killed before it is on disk."""
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        async def write() -> None:
            await asyncio.sleep(self.writing)
            if self.full:
                done.set_exception(LedgerError("the disk is full"))
                return
            self.leases.append(lease)
            done.set_result(None)

        task = asyncio.create_task(write())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return done

    def budget(self, rate: int = RATE) -> Budget:
        """A new run's budget, told what the ledger would tell it."""
        since = self.clock.wall() - LEASES_KEPT
        self.leases = [lease for lease in self.leases if lease.until >= since]
        cool_down = CoolDown("api.example", self.clock, lambda _: None)
        return Budget(
            rate, margin=MARGIN, clock=self.clock, cool_down=cool_down, past=self.leases, lease=self.record
        )

    async def kill_after(
        self, budget: Budget, seconds: float, *, connecting: float = 0.0, callers: int = 6
    ) -> None:
        """Call as often as `budget` lets for so many seconds, then end without a word, as if killed."""
        tasks = [asyncio.create_task(self.call(budget, connecting)) for _ in range(callers)]
        _, running = await asyncio.wait(tasks, timeout=seconds)
        for task in (*running, *self._writes):
            task.cancel()
        await asyncio.gather(*tasks, *self._writes, return_exceptions=True)
        budget.close()

    async def call(self, budget: Budget, connecting: float) -> None:
        """Call without end; each call leaves `connecting` seconds after its turn."""
        while True:
            turn = await budget.turn(Urgency.RESERVE)
            try:
                if connecting:
                    await asyncio.sleep(connecting)
                turn.left()
                self.departures.append(self.clock.now())
            finally:
                turn.give_back()


def most_in_any(span: float, departures: Sequence[float]) -> int:
    """The largest number of departures within any half-open span of that many seconds."""
    times = sorted(departures)
    return max((bisect_left(times, start + span) - index for index, start in enumerate(times)), default=0)


@dataclass(frozen=True, slots=True)
class Life:
    """One run: it lasts, is killed, and after a gap the next one begins on a clock set back meanwhile."""

    lasts: float
    gap: float
    writing: float
    connecting: float
    set_back: float


# Runs that are killed as soon as they have made a call are what exceeds a budget that does not remember.
LIVES = st.builds(
    Life,
    lasts=st.one_of(st.floats(0.0, 0.4), st.floats(0.0, 75.0)),
    gap=st.one_of(st.just(0.0), st.floats(0.0, 30.0)),
    writing=st.sampled_from([0.0, 0.01, 0.1]),
    connecting=st.sampled_from([0.0, 0.0, 0.05]),
    set_back=st.sampled_from([0.0, 0.0, 0.5, 30.0, 3600.0]),
)
BRIEF_LIVES = st.builds(
    Life,
    lasts=st.floats(0.02, 0.3),
    gap=st.floats(0.0, 0.1),
    writing=st.sampled_from([0.0, 0.01]),
    connecting=st.just(0.0),
    set_back=st.sampled_from([0.0, 0.5, 3600.0]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(LIVES, min_size=1, max_size=8), st.lists(BRIEF_LIVES, max_size=40), st.lists(LIVES, max_size=2))
def test_any_pattern_of_kills_keeps_the_window(before: list[Life], brief: list[Life], after: list[Life]) -> None:
    """However often it is killed within a minute, on whatever disk, with the clock set back: never too many."""

    async def main() -> list[float]:
        machine = Machine()
        for life in (*before, *brief, *after):
            machine.writing = life.writing
            await machine.kill_after(machine.budget(), life.lasts, connecting=life.connecting)
            await asyncio.sleep(life.gap)
            machine.ahead -= life.set_back
        return machine.departures

    assert most_in_any(WINDOW, virtual_time.run(main())) <= RATE


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.floats(0.1, 60), st.sampled_from([-86400.0, -5.0, 5.0, 61.0, 86400.0])), max_size=6),
)
def test_clock_that_jumps_during_a_run_changes_nothing(jumps: list[tuple[float, float]]) -> None:
    """The time of day may be set forward or back while a run goes on: the window holds, and the rate is used."""

    async def main() -> list[float]:
        machine = Machine()

        async def jump() -> None:
            for after, by in jumps:
                await asyncio.sleep(after)
                machine.ahead += by

        jumping = asyncio.create_task(jump())
        await machine.kill_after(machine.budget(), 400.0)
        await jumping
        return machine.departures

    departures = virtual_time.run(main())
    assert most_in_any(WINDOW, departures) <= RATE
    assert len(departures) >= 0.98 * RATE * 400 / 60


@pytest.mark.parametrize("kills", [1, 5, 20])
def test_restarts_waste_little(kills: int) -> None:
    """A kill costs what was recorded and not used, at most some seconds of calls, and nothing more."""

    async def main() -> int:
        machine = Machine()
        for _ in range(kills + 1):
            await machine.kill_after(machine.budget(), 1200.0 / (kills + 1))
        return len(machine.departures)

    lost = 1200.0 * RATE / 60 - virtual_time.run(main())
    assert lost <= 0.02 * 1200 * RATE / 60 + kills * WASTE * RATE / 60


@pytest.mark.parametrize("writing", [0.0, 0.05, 0.2])
def test_recording_costs_hardly_any_budget(writing: float) -> None:
    """A busy run that records every lease, even on a slow disk, uses 98 % of the documented rate."""

    async def main() -> int:
        machine = Machine(writing=writing)
        await machine.kill_after(machine.budget(600), 600.0)
        return len(machine.departures)

    assert virtual_time.run(main()) >= 0.98 * 6000


def test_every_call_is_covered_by_a_lease_of_its_time() -> None:
    """However seldom calls are made, each leaves before the end of a lease that was on disk by then."""

    async def main() -> list[bool]:
        machine = Machine()
        budget = machine.budget()
        covered = []
        for seconds in (0.0, 1.0, LEASE_SECONDS - 1.0, LEASE_SECONDS + 1.0, 2.0, 300.0, 0.5):
            await asyncio.sleep(seconds)
            turn = await budget.turn(Urgency.RESERVE)
            turn.left()
            covered.append(machine.leases[-1].until >= machine.clock.wall() - BLINK)
        budget.close()
        return covered

    assert all(virtual_time.run(main()))


def test_lease_that_fails_ends_all_who_wait() -> None:
    """When the disk fills up during a run, everyone who waits for a turn gets that error, none hangs or calls."""

    async def main() -> tuple[list[BaseException | None], int, int]:
        machine = Machine()
        budget = machine.budget(600)
        callers = [asyncio.create_task(machine.call(budget, 0.0)) for _ in range(6)]
        await asyncio.sleep(20.0)
        machine.full = True
        await asyncio.wait(callers, timeout=2 * LEASE_SECONDS + BLINK)
        called = len(machine.departures)
        await asyncio.sleep(60.0)
        budget.close()
        return [caller.exception() for caller in callers], called, len(machine.departures)

    errors, called, later = virtual_time.run(main())
    assert [str(error) for error in errors] == ["the disk is full"] * 6
    assert called == later


def test_share_climbs_evenly_and_never_beyond_the_rate() -> None:
    """After a 429 the share is below what was used; it stays there for the pause, then climbs to the whole."""

    async def main() -> list[float]:
        share = Share(600, virtual_time.clock())
        seen = [share.calls_a_minute()]
        share.reduce(300, 20.0)
        for _ in range(4):
            seen.append(share.calls_a_minute())
            await asyncio.sleep(20.0)
        await asyncio.sleep(CLIMB)
        return [*seen, share.calls_a_minute()]

    whole, reduced, after_pause, *climbing, last = virtual_time.run(main())
    assert whole == last == 600
    assert 250 <= reduced < 300
    assert after_pause == pytest.approx(reduced)
    steps = [later - earlier for earlier, later in itertools.pairwise((after_pause, *climbing))]
    assert steps == pytest.approx([20.0 * 600 / CLIMB] * 2, abs=0.1)


@given(st.lists(st.tuples(st.integers(0, 600), st.floats(0.0, 60.0), st.floats(0.0, 300.0)), max_size=10))
def test_share_stays_within_its_bounds(throttles: list[tuple[int, float, float]]) -> None:
    """Whatever 429s come, the share is never above the rate, never below its least, and each one lowers it."""

    async def main() -> None:
        share = Share(600, virtual_time.clock())
        for used, pause, gap in throttles:
            before = share.calls_a_minute()
            share.reduce(used, pause)
            after = share.calls_a_minute()
            assert 600 * LEAST_SHARE <= after <= 600
            assert after < before or after == 600 * LEAST_SHARE
            await asyncio.sleep(gap)

    virtual_time.run(main())


@pytest.mark.parametrize("others", [100, 300, 500])
def test_other_programs_are_given_way_to(others: int) -> None:
    """Beside another program the share settles near what is left: most of it is used, and 429s stay rare."""

    async def main() -> tuple[int, int, int]:
        loop = asyncio.get_running_loop()
        machine = Machine()
        budget = machine.budget(600)
        passed: list[tuple[float, bool]] = []
        window: deque[float] = deque()
        refused: list[float] = []
        paused_until = 0.0

        def ask(*, ours: bool) -> float:
            """The server: 600 in any sliding minute, else the seconds until one may pass."""
            now = loop.time()
            while window and window[0] <= now - 60.0:
                window.popleft()
            if len(window) < 600:
                window.append(now)
                passed.append((now, ours))
                return 0.0
            refused.append(now)
            return float(math.ceil(window[0] + 60.0 - now))

        async def ours() -> None:
            while True:
                turn = await budget.turn(Urgency.RESERVE)
                turn.left()
                if pause := ask(ours=True):
                    budget.throttled(pause)

        async def theirs() -> None:
            nonlocal paused_until
            while True:
                await asyncio.sleep(max(60.0 / others, paused_until - loop.time()))
                if pause := ask(ours=False):
                    paused_until = loop.time() + pause

        tasks = [asyncio.create_task(work) for work in (*(ours() for _ in range(4)), theirs())]
        await asyncio.sleep(1800.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        budget.close()
        late = [was_ours for at, was_ours in passed if at > virtual_time.START + 300.0]
        return late.count(True), late.count(False), most_in_any(60.0, refused)

    used, taken, refused_a_minute = virtual_time.run(main())
    left = 1500.0 * 600 / 60 - taken
    assert used >= 0.9 * left
    assert taken >= 0.8 * others * 1500 / 60
    assert refused_a_minute <= 20
