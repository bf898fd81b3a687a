"""Progress: folding events, fitting a line into a width, and when something is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tileferry.events import (
    BodySent,
    CoolDownBegan,
    DrainBegan,
    Event,
    OutageBegan,
    OutageEnded,
    OutageProbed,
    RowBegan,
    RowEnded,
    RunEnded,
    RunStarted,
    Summary,
)
from tileferry.model import Outcome, Status
from tileferry.progress import (
    REDRAW,
    REPORT,
    LiveProgress,
    NoProgress,
    PlainProgress,
    Progress,
    Standing,
    line,
)

ENDED = RunEnded(summary=Summary(run_id=1, store_id=1, ledger=Path("l")))
STARTED = RunStarted(run_id=1, store_id=1, api_url="u", ledger=Path("l"), concurrency=1, rate=1)


def began(number: int) -> RowBegan:
    return RowBegan(line=number, tile_id="t", source="s")


def ended(number: int, status: Status = Status.UPLOADED) -> RowEnded:
    return RowEnded(outcome=Outcome(line=number, tile_id="t", source="s", status=status))


class Hands:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("events", "total", "expected"),
    [
        ([], None, "0 done"),
        ([], 0, "0 of 0"),
        ([ended(1)], 4, "1 of 4 (25 %)"),
        ([began(1), began(2), BodySent(line=1, size=9)], None, "0 done  1 in flight  1 waiting for results"),
        ([began(1), BodySent(line=1, size=9), ended(1)], None, "1 done"),
        ([began(1), ended(1, Status.FAILED)], None, "1 done  1 failed"),
        ([began(1), ended(1, Status.PENDING)], None, "0 done"),
        ([ended(1, Status.UNCHANGED), ended(2, Status.DUPLICATE)], 1200, "2 of 1,200 (0 %)"),
        ([CoolDownBegan(host="h", seconds=40.2)], None, "0 done  cooling down, 41 s"),
        ([CoolDownBegan(host="h", seconds=0)], None, "0 done"),
        ([OutageBegan(host="api.example", problem="p")], None, "0 done  api.example is out of reach"),
        (
            [OutageBegan(host="api.example", problem="p"), OutageProbed(host="api.example", wait=12)],
            None,
            "0 done  api.example is out of reach, trying again in 12 s",
        ),
        ([OutageBegan(host="h", problem="p"), OutageEnded(host="h", seconds=3)], None, "0 done"),
        ([DrainBegan(grace=10, in_flight=0), OutageBegan(host="h", problem="p")], None, "0 done  stopping"),
        ([OutageBegan(host="\x1b[2J", problem="p")], None, r"0 done  \x1b[2J is out of reach"),
    ],
)
def test_the_line_tells_the_standing(events: list[Event], total: int | None, expected: str) -> None:
    """What is done, failed, under way and waiting, and why the run stands still, is said in one line."""
    standing = Standing(total=total)
    for event in events:
        standing.take(event, 1000.0)
    assert line(standing, 1000.0) == expected


def test_the_rate_is_that_of_the_last_minute() -> None:
    """A fast start long ago does not make a slow run look fast."""
    standing = Standing()
    standing.take(STARTED, 0.0)
    for number in range(600):
        standing.take(ended(number), number / 100)
    assert standing.rate(6.0) == pytest.approx(6000)
    for number in range(120):
        standing.take(ended(1000 + number), 6.0 + number)
    assert standing.rate(126.0) == pytest.approx(60, rel=0.1)
    assert len(standing.marks) < 70


def test_no_rate_is_told_too_early() -> None:
    """A rate from the first seconds would be a guess, so there is none."""
    standing = Standing()
    assert standing.rate(100.0) is None
    standing.take(STARTED, 100.0)
    assert standing.rate(104.0) is None
    assert standing.rate(106.0) == 0


@pytest.mark.parametrize("width", [200, 80, 60, 40, 20, 5])
def test_the_line_fits_and_drops_what_matters_least(width: int) -> None:
    """However narrow the window, the line fits it; what is done and why it stands still stay longest."""
    standing = Standing(total=50_000)
    standing.take(STARTED, 0.0)
    for number in range(1, 300):
        standing.take(began(number), 1.0)
    for number in range(1, 200):
        standing.take(BodySent(line=number, size=1), 2.0)
    for number in range(1, 100):
        standing.take(ended(number, Status.FAILED), 3.0)
    standing.take(CoolDownBegan(host="h", seconds=60), 10.0)
    text = line(standing, 10.0, width)
    assert len(text) <= width
    full = (
        "99 of 50,000 (0 %)  99 failed  594 a minute  100 in flight  100 waiting for results  cooling down, 60 s"
    )
    expected = {
        200: full,
        80: "99 of 50,000 (0 %)  99 failed  594 a minute  cooling down, 60 s",
        60: "99 of 50,000 (0 %)  99 failed  cooling down, 60 s",
        40: "99 of 50,000 (0 %)  99 failed",
        20: "99 of 50,000 (0 %)",
        5: "99 of",
    }
    assert text == expected[width]


def live(width: int = 80) -> tuple[LiveProgress, list[str], Hands]:
    written: list[str] = []
    clock = Hands()
    return LiveProgress(written.append, width=lambda: width, clock=clock), written, clock


def test_a_live_line_is_redrawn_in_place_and_not_too_often() -> None:
    """A burst of events costs one redraw; the next comes when the eye could follow."""
    progress, written, clock = live()
    for number in range(100):
        progress(ended(number))
    assert written == ["\r1 done\x1b[K"]
    clock.now += REDRAW
    progress.tick()
    assert written[1:] == ["\r100 done\x1b[K"]


def test_a_live_line_that_did_not_change_is_left_alone() -> None:
    """Nothing flickers while nothing happens, but a countdown goes on."""
    progress, written, clock = live()
    progress(CoolDownBegan(host="h", seconds=40))
    clock.now += 0.5
    progress.tick()
    clock.now += 0.6
    progress.tick()
    assert written == ["\r0 done  cooling down, 40 s\x1b[K", "\r0 done  cooling down, 39 s\x1b[K"]


def test_what_is_said_scrolls_past_above_the_live_line() -> None:
    """A failure is written where the line was, and the line follows below it, in one write."""
    progress, written, _clock = live()
    progress.say("before\n")
    progress.tick()
    progress.say("line 7  hero-1: not an image\n")
    assert written == ["before\n", "\r0 done\x1b[K", "\r\x1b[Kline 7  hero-1: not an image\n0 done"]


def test_the_live_line_goes_when_the_run_ends() -> None:
    """The summary starts on a clean line, and nothing is drawn after it."""
    progress, written, clock = live()
    progress.tick()
    progress(ENDED)
    clock.now += 10
    progress.tick()
    progress.close()
    progress.say("summary\n")
    assert written == ["\r0 done\x1b[K", "\r\x1b[K", "summary\n"]


def test_the_live_line_follows_the_window() -> None:
    """The line leaves the last column free and follows a resized window at the next redraw."""
    written: list[str] = []
    clock = Hands()
    widths = [80, 12]
    progress = LiveProgress(written.append, width=lambda: widths.pop(0), clock=clock)
    progress.expect(1000)
    progress(CoolDownBegan(host="h", seconds=1000))
    clock.now += 1
    progress.tick()
    assert written == ["\r0 of 1,000 (0 %)  cooling down, 1000 s\x1b[K", "\r0 of 1,000 \x1b[K"]


def test_plain_progress_reports_every_half_minute_without_control_characters() -> None:
    """In a log there is a line now and then, also while nothing happens, and no escape sequence."""
    written: list[str] = []
    clock = Hands()
    progress = PlainProgress(written.append, clock=clock)
    progress.expect(2)
    progress(began(1))
    assert written == []
    clock.now += REPORT
    progress.tick()
    progress.tick()
    assert written == ["0 of 2 (0 %)  0 a minute  1 in flight\n"]
    clock.now += REPORT
    progress(ended(1))
    assert written[1:] == ["1 of 2 (50 %)  1 a minute\n"]


def test_plain_progress_is_silent_after_the_end() -> None:
    """Nothing is reported once the summary is due."""
    written: list[str] = []
    clock = Hands()
    progress = PlainProgress(written.append, clock=clock)
    clock.now += REPORT
    progress(ENDED)
    progress.tick()
    progress.say("summary\n")
    assert written == ["summary\n"]


def test_no_progress_only_passes_on_what_is_said() -> None:
    """Quiet means quiet: nothing is shown that was not said."""
    written: list[str] = []
    progress: Progress = NoProgress(written.append)
    progress(STARTED)
    progress.expect(5)
    progress.tick()
    progress.say("line 1: failed\n")
    progress.close()
    assert written == ["line 1: failed\n"]
