"""The listener that counts: what each event adds, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tileferry.events import (
    BodySent,
    Call,
    CallEnded,
    CoolDownBegan,
    DrainBegan,
    Event,
    OutageBegan,
    OutageEnded,
    OutageProbed,
    RetryPlanned,
    RowBegan,
    RowEnded,
    RunEnded,
    RunStarted,
    Summary,
)
from tileferry.model import Outcome, Status
from tileferry.tally import Tally

START = Summary(run_id=3, store_id=7, ledger=Path("/ledger"))


def ended(status: Status, reason: str = "") -> RowEnded:
    """A row that ended like this."""
    return RowEnded(outcome=Outcome(line=2, tile_id="t", source="s", status=status, reason=reason))


def call(call: Call, status: int | None) -> CallEnded:
    """A call that was answered like this."""
    return CallEnded(call=call, status=status, seconds=0.1)


def figures(*events: Event) -> Mapping[str, object]:
    """What of the summary is different after these events."""
    tally = Tally(START)
    for event in events:
        tally(event)
    summary = tally.summary(seconds=0.0, interrupted=False)
    return {
        name: getattr(summary, name)
        for name in Summary.__dataclass_fields__
        if getattr(summary, name) != getattr(START, name)
    }


@pytest.mark.parametrize(
    ("event", "counted"),
    [
        *((ended(status), {"statuses": {status: 1}}) for status in Status if status is not Status.FAILED),
        (ended(Status.FAILED, "not an image"), {"statuses": {Status.FAILED: 1}, "failures": {"not an image": 1}}),
        (ended(Status.PENDING, "not finished"), {"statuses": {Status.PENDING: 1}}),
        *((call(kind, 200), {"calls": {kind: 1}}) for kind in Call),
        (call(Call.RESULT, None), {"calls": {Call.RESULT: 1}}),
        (call(Call.RESERVE, 429), {"calls": {Call.RESERVE: 1}, "throttled": 1}),
        (call(Call.UPLOAD, 503), {"calls": {Call.UPLOAD: 1}}),
        (BodySent(line=2, size=1234), {"sent_bytes": 1234}),
        (RetryPlanned(line=2, step="reserve", problem="reset", wait=1.0), {"retries": 1}),
        (RowBegan(line=2, tile_id="t", source="s"), {}),
        (CoolDownBegan(host="h", seconds=60.0), {}),
        (OutageBegan(host="h", problem="reset"), {}),
        (OutageProbed(host="h", wait=2.0), {}),
        (OutageEnded(host="h", seconds=9.0), {}),
        (DrainBegan(grace=10.0, in_flight=3), {}),
        (RunEnded(summary=START), {}),
        (
            RunStarted(run_id=3, store_id=7, api_url="https://a", ledger=Path("/ledger"), concurrency=1, rate=600),
            {},
        ),
    ],
)
def test_each_event_counts_what_it_stands_for(event: Event, counted: Mapping[str, object]) -> None:
    """One event changes the figures that it is about, by what it says, and no other."""
    assert figures(event) == counted


def test_figures_add_up() -> None:
    """Many events make sums; failures are told with the most frequent reason first."""
    found = figures(
        ended(Status.FAILED, "tile not found"),
        ended(Status.FAILED, "not an image"),
        ended(Status.FAILED, "not an image"),
        ended(Status.UPLOADED),
        call(Call.RESERVE, 429),
        call(Call.RESERVE, 200),
        call(Call.UPLOAD, 429),
        BodySent(line=2, size=1000),
        BodySent(line=3, size=24),
    )
    assert found == {
        "statuses": {Status.FAILED: 3, Status.UPLOADED: 1},
        "failures": {"not an image": 2, "tile not found": 1},
        "calls": {Call.RESERVE: 2, Call.UPLOAD: 1},
        "throttled": 2,
        "sent_bytes": 1024,
    }
    assert list(found["failures"]) == ["not an image", "tile not found"]  # type: ignore[call-overload]


def test_a_summary_is_told_as_things_stand() -> None:
    """Time and interruption are as asked, the run's name as it began; later events change no earlier summary."""
    tally = Tally(START)
    tally(ended(Status.UPLOADED))
    first = tally.summary(seconds=1.5, interrupted=True)
    tally(ended(Status.UPLOADED))
    assert (first.run_id, first.store_id, first.ledger) == (3, 7, Path("/ledger"))
    assert (first.seconds, first.interrupted, first.count(Status.UPLOADED)) == (1.5, True, 1)
    assert tally.summary(seconds=2.0, interrupted=False).count(Status.UPLOADED) == 2


def test_the_summary_knows_the_budget_and_whether_all_is_done() -> None:
    """Calls to the upload host are not the API's; a run is complete when no row failed or is pending."""
    tally = Tally(START)
    for event in (ended(Status.UPLOADED), ended(Status.DUPLICATE), call(Call.UPLOAD, 200), call(Call.RESULT, 200)):
        tally(event)
    summary = tally.summary(seconds=0.0, interrupted=False)
    assert (summary.rows, summary.api_calls, summary.complete) == (2, 1, True)
    for status in (Status.FAILED, Status.PENDING):
        other = Tally(START)
        other(ended(status))
        assert not other.summary(seconds=0.0, interrupted=False).complete
