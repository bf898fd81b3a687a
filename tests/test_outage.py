"""Outages: when failures speak against a host, who probes it, and who waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

import virtual_time
from tileferry.errors import (
    Delivery,
    ImageChangedError,
    OutageError,
    RejectedError,
    SlotRefusedError,
    ThrottledError,
    TransientError,
)
from tileferry.events import OutageBegan, OutageEnded, OutageProbed
from tileferry.outage import FEWEST_FAILURES, MOST_FAILURES, Host
from tileferry.settings import Timing

if TYPE_CHECKING:
    from tileferry.clock import Clock
    from tileferry.events import Event

TIMING = Timing(probe=1.0, probe_limit=8.0, max_outage=3600.0)
BLINK = 1e-3
"""Seconds; covers thousands of the virtual loop's turns."""


def refused() -> TransientError:
    """What a host that is out of reach makes of a call."""
    return TransientError("no connection to api.example (refused)", unreachable=True)


def failing() -> TransientError:
    """What a host that answers with errors makes of a call."""
    return TransientError("the API answered HTTP 500", delivery=Delivery.WHOLE)


@dataclass(slots=True)
class Scene:
    """A host under test, with what it told and when calls were made."""

    host: Host
    clock: Clock
    told: list[Event]
    calls: list[tuple[float, object]]

    async def call(self, about: object, problem: Exception | None = None, *, lasting: float = 0.0) -> None:
        """Make one call that takes `lasting` seconds and ends with `problem`, if any."""
        async with self.host.attempt(about):
            self.calls.append((self.clock.now() - virtual_time.START, about))
            if lasting:
                await asyncio.sleep(lasting)
            if problem is not None:
                raise problem

    async def fail(self, about: object, problem: Exception | None = None, *, lasting: float = 0.0) -> None:
        """Make one call that fails, which concerns nobody further."""
        problem = problem or refused()
        with pytest.raises(type(problem)) as caught:
            await self.call(about, problem, lasting=lasting)
        assert caught.value is problem

    async def break_down(self) -> None:
        """Let as many calls fail as make an outage."""
        for number in range(FEWEST_FAILURES):
            await self.fail(f"breaking {number}")
        assert self.host.away

    def kinds(self) -> list[type[Event]]:
        """The kinds of event told so far."""
        return [type(event) for event in self.told]


def scene(*, concurrency: int = 1, timing: Timing = TIMING) -> Scene:
    """A fresh host on the running virtual loop."""
    clock = virtual_time.clock()
    told: list[Event] = []
    host = Host("api.example", concurrency=concurrency, timing=timing, clock=clock, tell=told.append)
    return Scene(host, clock, told, [])


@pytest.mark.parametrize(
    ("concurrency", "threshold"),
    [(1, FEWEST_FAILURES), (3, 3), (5, 5), (8, MOST_FAILURES), (16, MOST_FAILURES), (1000, MOST_FAILURES)],
)
def test_threshold_follows_the_workers(concurrency: int, threshold: int) -> None:
    """As many bad answers in a row as there are workers make an outage, within bounds; one less does not."""

    async def main() -> None:
        act = scene(concurrency=concurrency)
        for number in range(threshold - 1):
            await act.fail(number, failing())
        assert not act.host.away
        assert act.told == []
        await act.fail("last", failing())
        assert act.host.away
        assert act.told == [OutageBegan(host="api.example", problem="the API answered HTTP 500")]

    virtual_time.run(main())


def test_a_host_that_is_not_even_reached_is_away_sooner() -> None:
    """Where no connection comes about, a few failures tell, whoever and however many meet them."""

    async def main() -> None:
        act = scene(concurrency=16)
        for _ in range(FEWEST_FAILURES - 1):
            await act.fail("one and the same")
        await act.fail("one and the same", failing())
        for _ in range(FEWEST_FAILURES - 1):
            await act.fail("one and the same")
        assert not act.host.away
        await act.fail("one and the same")
        assert act.host.away

    virtual_time.run(main())


def test_success_between_failures_starts_the_count_anew() -> None:
    """Failures make an outage only in a row: each success in between forgets them."""

    async def main() -> bool:
        act = scene()
        for number in range(20):
            await act.fail(number)
            await act.fail(number)
            await act.call(number)
        return act.host.away

    assert not virtual_time.run(main())


@pytest.mark.parametrize(
    "problem",
    [
        ThrottledError("asks for a pause", pause=5),
        TransientError("a web page", wall=False),
        RejectedError("tile not found"),
        SlotRefusedError("slot refused", status=403),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_answers_never_count_as_failures(problem: Exception) -> None:
    """A host that answers, whatever it says, is there: such errors make no outage and forget earlier failures."""

    async def main() -> list[Event]:
        act = scene()
        for number in range(20):
            await act.fail(number, problem)
        for number in range(20):
            await act.fail(number)
            await act.fail(number)
            await act.fail(number, problem)
        return act.told

    assert virtual_time.run(main()) == []


def test_foreign_error_is_no_verdict() -> None:
    """What is neither the host's failure nor its answer passes through and counts for nothing."""

    async def main() -> bool:
        act = scene()
        for number in range(FEWEST_FAILURES - 1):
            await act.fail(number)
        await act.fail("ours", ZeroDivisionError())
        assert not act.host.away
        await act.fail("last")
        return act.host.away

    assert virtual_time.run(main())


@pytest.mark.parametrize(
    ("abouts", "problem", "away"),
    [
        (["one"] * 50, failing(), False),
        (["one"] * FEWEST_FAILURES, refused(), True),
        (["one", "two", "three"], failing(), True),
        (["one", "one", "two"], failing(), True),
        (["one", "two"], failing(), False),
    ],
    ids=["one image's own errors", "one image, unreachable", "three images", "two images", "too few"],
)
def test_one_image_alone_is_no_outage_unless_the_host_is_unreachable(
    abouts: list[str], problem: TransientError, away: bool
) -> None:
    """Errors that concern one image only may be its own fault; being out of reach is never an image's fault."""

    async def main() -> bool:
        act = scene()
        for about in abouts:
            await act.fail(about, problem)
        return act.host.away

    assert virtual_time.run(main()) is away


def test_probes_go_out_one_at_a_time_at_doubling_intervals() -> None:
    """While the host is away, one call goes out 1, 2, 4, 8, 8… seconds after the one before; others wait."""

    async def main() -> Scene:
        act = scene()
        await act.break_down()
        act.calls.clear()
        waiting = [asyncio.create_task(act.fail(number)) for number in range(6)]
        await asyncio.gather(*waiting)
        return act

    act = virtual_time.run(main())
    assert [at for at, _ in act.calls] == pytest.approx([1, 3, 7, 15, 23, 31], abs=BLINK)
    assert [event.wait for event in act.told if isinstance(event, OutageProbed)] == [2, 4, 8, 8, 8, 8]
    assert act.kinds()[0] is OutageBegan
    assert act.host.away


def test_slow_probe_is_the_only_call_under_way() -> None:
    """However long a probe takes, no other call goes out before its end."""

    async def main() -> Scene:
        act = scene()
        await act.break_down()
        act.calls.clear()
        await asyncio.gather(*(act.fail(number, lasting=100.0) for number in range(3)))
        return act

    assert [at for at, _ in virtual_time.run(main()).calls] == pytest.approx([1, 103, 207], abs=BLINK)


def test_success_of_a_probe_lets_all_pass() -> None:
    """When a probe succeeds the outage is over: it is told once, and all who waited go out at once."""

    async def main() -> Scene:
        act = scene()
        await act.break_down()
        act.calls.clear()
        await asyncio.gather(act.fail("probe 1"), *(act.call(number, lasting=5.0) for number in range(6)))
        return act

    act = virtual_time.run(main())
    assert [at for at, _ in act.calls] == pytest.approx([1, 3, 8, 8, 8, 8, 8], abs=BLINK)
    assert not act.host.away
    (ended,) = [event for event in act.told if isinstance(event, OutageEnded)]
    assert ended.seconds == pytest.approx(8.0, abs=BLINK)


@pytest.mark.parametrize("problem", [RejectedError("no such tile"), ThrottledError("a pause", pause=5)])
def test_answer_to_a_probe_ends_the_outage_even_if_it_is_no(problem: Exception) -> None:
    """A probe that is answered with a refusal shows that the host is back."""

    async def main() -> bool:
        act = scene()
        await act.break_down()
        await act.fail("probe", problem)
        return act.host.away

    assert not virtual_time.run(main())


def test_probe_whose_own_file_has_changed_proves_nothing() -> None:
    """A picture that changes under a probe is its own bad luck: the host has not answered, so it is still away."""

    async def main() -> bool:
        act = scene()
        await act.break_down()
        await act.fail("probe", ImageChangedError("a.png changed while it was being uploaded"))
        return act.host.away

    assert virtual_time.run(main())


def test_second_outage_begins_with_short_intervals_again() -> None:
    """After a host was back, the next outage is a new one: told again, probed from the first interval on."""

    async def main() -> Scene:
        act = scene()
        await act.break_down()
        for number in range(4):
            await act.fail(number)
        await act.call("back")
        await act.break_down()
        act.calls.clear()
        await act.fail("probe")
        return act

    act = virtual_time.run(main())
    began = virtual_time.START + act.calls[0][0] - act.clock.now()
    assert act.kinds().count(OutageBegan) == 2
    assert began == pytest.approx(0.0, abs=BLINK)
    assert [event.wait for event in act.told if isinstance(event, OutageProbed)][-1] == 2.0


def test_calls_that_were_under_way_when_the_host_went_away_are_no_probes() -> None:
    """Sixteen calls fail together: eight make the outage, and the rest neither count as probes nor delay them."""

    async def main() -> Scene:
        act = scene(concurrency=16)
        await asyncio.gather(*(act.fail(number, lasting=1.0) for number in range(16)))
        act.calls.clear()
        await asyncio.gather(*(act.fail(number) for number in range(3)))
        return act

    act = virtual_time.run(main())
    assert [at for at, _ in act.calls] == pytest.approx([2, 4, 8], abs=BLINK)
    assert act.kinds() == [OutageBegan, OutageProbed, OutageProbed, OutageProbed]


def test_late_success_of_an_earlier_call_ends_the_outage_for_those_who_wait() -> None:
    """A call from before the outage that succeeds shows that the host is there: nobody waits for a probe then."""

    async def main() -> Scene:
        act = scene(timing=Timing(probe=60.0, probe_limit=60.0))
        late = asyncio.create_task(act.call("late", lasting=10.0))
        await asyncio.sleep(0)
        await act.break_down()
        act.calls.clear()
        await asyncio.gather(late, act.call("a"), act.call("b"))
        return act

    act = virtual_time.run(main())
    assert not act.host.away
    assert [at for at, _ in act.calls] == pytest.approx([10, 10], abs=BLINK)


def test_outage_that_lasts_too_long_is_fatal_for_all_who_wait() -> None:
    """After `max_outage` every caller gets an OutageError that says how long, why, and what to do."""

    async def main() -> tuple[Scene, list[BaseException | None]]:
        act = scene(timing=Timing(probe=10.0, probe_limit=10.0, max_outage=65.0))
        await act.break_down()
        act.calls.clear()

        async def persist(about: int) -> None:
            while True:
                try:
                    await act.call(about, refused())
                except TransientError:
                    continue

        ended = await asyncio.gather(*(persist(number) for number in range(4)), return_exceptions=True)
        return act, ended

    act, ended = virtual_time.run(main())
    assert [type(error) for error in ended] == [OutageError] * 4
    assert "out of reach for 65 seconds (no connection to api.example (refused))" in str(ended[0])
    assert "run the same command again" in str(ended[0])
    assert [at for at, _ in act.calls] == pytest.approx([10, 20, 30, 40, 50, 60, 65], abs=BLINK)
    assert act.clock.now() - virtual_time.START < 66.0


def test_cancelled_probe_leaves_probing_to_another() -> None:
    """A probe that is cancelled, in its wait or under way, says nothing; the next one waiting goes instead."""

    async def main() -> Scene:
        act = scene()
        await act.break_down()
        act.calls.clear()
        tasks = [asyncio.create_task(act.call(name, lasting=5.0)) for name in ("waits", "calls", "stays")]
        await asyncio.sleep(0.5)
        tasks[0].cancel()
        await asyncio.sleep(2.0)
        tasks[1].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in ended[:2]] == [asyncio.CancelledError] * 2
        assert ended[2] is None
        return act

    act = virtual_time.run(main())
    assert [name for _, name in act.calls] == ["calls", "stays"]
    assert [at for at, _ in act.calls] == pytest.approx([1.5, 3.5], abs=BLINK)
    assert act.kinds() == [OutageBegan, OutageEnded]


def test_stale_passage() -> None:
    """A call that waited for something else while the host went away is not to be made, and proves nothing."""

    async def main() -> list[bool]:
        act = scene()
        async with act.host.attempt("early") as passage:
            before = passage.stale()
            await act.break_down()
            after = passage.stale()
        # It withdrew, so the host is still taken to be away.
        seen = [before, after, act.host.away]
        async with act.host.attempt("probe") as probe:
            seen.append(probe.stale())
        seen.append(act.host.away)
        return seen

    assert virtual_time.run(main()) == [False, True, True, False, False]


def test_patience_stands_still_during_an_outage() -> None:
    """From the first sign of an outage to its end nobody's patience runs."""

    async def main() -> float:
        act = scene()
        await asyncio.sleep(10)
        await act.break_down()
        await act.fail("probe", lasting=100.0)
        await act.call("back", lasting=100.0)
        await asyncio.sleep(10)
        return act.clock.moving() - virtual_time.START

    assert virtual_time.run(main()) == pytest.approx(20.0, abs=BLINK)


def test_close_ends_the_account_of_an_outage() -> None:
    """A host that is closed in the middle of an outage holds nobody's patience any more."""

    async def main() -> float:
        act = scene()
        await act.break_down()
        await asyncio.sleep(50)
        act.host.close()
        await asyncio.sleep(7)
        return act.clock.moving() - virtual_time.START

    assert virtual_time.run(main()) == pytest.approx(7.0, abs=BLINK)
