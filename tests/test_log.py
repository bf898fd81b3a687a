"""Log lines: which events are told, and how they read as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tileferry.events import (
    BodySent,
    Call,
    CallEnded,
    ConfirmEnded,
    CoolDownBegan,
    DrainBegan,
    Event,
    OutageBegan,
    OutageEnded,
    OutageProbed,
    ResultCollected,
    RetryPlanned,
    RowBegan,
    RowEnded,
    RunEnded,
    RunStarted,
    Summary,
)
from tileferry.log import CALLS, ROWS, RUN, LogFormat, error_line, json_line, make_log, sentence, size_text
from tileferry.model import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

NOON = 1_700_000_000.25

STARTED = RunStarted(
    run_id=7,
    store_id=1003,
    api_url="https://api.example/v1",
    ledger=Path("/tmp/l.sqlite3"),  # noqa: S108 - a name only
    concurrency=16,
    rate=6000,
)
BEGAN = RowBegan(line=7, tile_id="hero-1", source="images/x.jpg")
SENT = BodySent(line=7, size=2048)
UPLOADED = RowEnded(
    outcome=Outcome(line=7, tile_id="hero-1", source="images/x.jpg", status=Status.UPLOADED, image_id="i/1")
)
FAILED = RowEnded(
    outcome=Outcome(
        line=8, tile_id="hero-2", source="b.jpg", status=Status.FAILED, error="not an image", reason="r"
    )
)
PENDING = RowEnded(outcome=Outcome(line=9, tile_id="t", source="c.jpg", status=Status.PENDING, error="not begun"))
CALLED = CallEnded(call=Call.RESERVE, status=503, seconds=0.1234, problem="the API answered HTTP 503")
UNANSWERED = CallEnded(call=Call.UPLOAD, status=None, seconds=2.0, problem="the connection was lost")
RETRY = RetryPlanned(line=7, step="reserve", problem="HTTP 503", wait=1.5)
COOLING = CoolDownBegan(host="api.example", seconds=41.0)
OUTAGE = OutageBegan(host="api.example", problem="no connection")
PROBED = OutageProbed(host="api.example", wait=12.0)
BACK = OutageEnded(host="api.example", seconds=300.0)
DRAIN = DrainBegan(grace=10.0, in_flight=5)
COLLECTED = ResultCollected(tile_id="hero-1", image_id="img/1")
CONFIRMED = ConfirmEnded(store_id=1003, ledger=Path("l"), seconds=4.0, confirmed=1, sent=0, reserved=0)
ENDED = RunEnded(
    summary=Summary(
        run_id=7,
        store_id=1003,
        ledger=Path("l"),
        seconds=1.0,
        statuses={Status.UPLOADED: 2, Status.FAILED: 1},
        failures={"r": 1},
        calls={Call.RESERVE: 3},
    )
)
ALL: tuple[Event, ...] = (
    STARTED,
    BEGAN,
    SENT,
    UPLOADED,
    FAILED,
    PENDING,
    CALLED,
    UNANSWERED,
    RETRY,
    COOLING,
    OUTAGE,
    PROBED,
    BACK,
    DRAIN,
    COLLECTED,
    CONFIRMED,
    ENDED,
)


def told(
    events: Sequence[Event], *, form: LogFormat = LogFormat.JSON, verbosity: int = RUN, quiet: bool = False
) -> list[str]:
    lines: list[str] = []
    log = make_log(lines.append, form=form, verbosity=verbosity, quiet=quiet, clock=lambda: NOON)
    for event in events:
        log(event)
    assert all(line.endswith("\n") for line in lines)
    return [line[:-1] for line in lines]


def names(lines: Sequence[str]) -> list[str]:
    return [json.loads(line)["event"] for line in lines]


@pytest.mark.parametrize(
    ("verbosity", "quiet", "expected"),
    [
        (
            RUN,
            False,
            [STARTED, FAILED, COOLING, OUTAGE, BACK, DRAIN, CONFIRMED, ENDED],
        ),
        (
            ROWS,
            False,
            [
                STARTED,
                UPLOADED,
                FAILED,
                PENDING,
                RETRY,
                COOLING,
                OUTAGE,
                PROBED,
                BACK,
                DRAIN,
                COLLECTED,
                CONFIRMED,
                ENDED,
            ],
        ),
        (CALLS, False, list(ALL)),
        (RUN, True, [FAILED, CONFIRMED, ENDED]),
        (CALLS, True, [FAILED, CONFIRMED, ENDED]),
    ],
)
def test_verbosity_decides_which_events_are_told(verbosity: int, quiet: bool, expected: list[Event]) -> None:
    """By default the run and what fails; -v each row; -vv each call; quiet only failures and the end."""
    assert told(ALL, verbosity=verbosity, quiet=quiet) == [json_line(event, NOON) for event in expected]


def test_json_lines_follow_the_schema() -> None:
    """Every event becomes one object: time in UTC, snake_case name, the record's fields, enums by value."""
    lines = [json.loads(line) for line in told(ALL, verbosity=CALLS)]
    assert {line["time"] for line in lines} == {"2023-11-14T22:13:20.250Z"}
    assert [line["event"] for line in lines] == [
        "run_started",
        "row_began",
        "body_sent",
        "row_ended",
        "row_ended",
        "row_ended",
        "call_ended",
        "call_ended",
        "retry_planned",
        "cool_down_began",
        "outage_began",
        "outage_probed",
        "outage_ended",
        "drain_began",
        "result_collected",
        "confirm_ended",
        "run_ended",
    ]
    assert lines[0]["ledger"] == "/tmp/l.sqlite3"  # noqa: S108 - a name only
    assert lines[4]["outcome"] == {
        "line": 8,
        "tile_id": "hero-2",
        "source": "b.jpg",
        "status": "failed",
        "image_id": "",
        "url": "",
        "width": None,
        "height": None,
        "size": None,
        "digest": "",
        "attempts": 0,
        "seconds": 0.0,
        "error": "not an image",
        "reason": "r",
        "extra": {},
    }
    assert lines[6] == {
        "time": "2023-11-14T22:13:20.250Z",
        "event": "call_ended",
        "call": "reserve",
        "status": 503,
        "seconds": 0.123,
        "problem": "the API answered HTTP 503",
    }
    assert lines[-1]["summary"]["statuses"] == {"uploaded": 2, "failed": 1}
    assert lines[-1]["summary"]["calls"] == {"reserve": 3}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            STARTED,
            "store 1003 at https://api.example/v1: 16 at once, 6,000 API calls a minute, ledger /tmp/l.sqlite3",
        ),
        (BEGAN, "line 7  hero-1  images/x.jpg: begun"),
        (SENT, "line 7  2 KB sent, waiting for the result"),
        (UPLOADED, "line 7  hero-1  images/x.jpg: uploaded as i/1"),
        (FAILED, "line 8  hero-2  b.jpg: not an image"),
        (PENDING, "line 9  t  c.jpg: pending: not begun"),
        (RowBegan(line=4, tile_id="", source=""), "line 4  (no tile)  (no path): begun"),
        (CALLED, "reserve: HTTP 503 after 0.12 s: the API answered HTTP 503"),
        (UNANSWERED, "upload: no answer after 2.00 s: the connection was lost"),
        (CallEnded(call=Call.RESULT, status=200, seconds=0.1), "result: HTTP 200 after 0.10 s"),
        (RETRY, "line 7  reserve: HTTP 503; again in 1.5 s"),
        (COOLING, "api.example asks for a pause: cooling down for 41 s"),
        (OUTAGE, "api.example is out of reach (no connection); waiting for it"),
        (PROBED, "api.example is still out of reach; trying again in 12 s"),
        (BACK, "api.example is back after 300 s; going on"),
        (
            DRAIN,
            "stopping: nothing new is begun, 5 in flight get 10 s; the next Ctrl-C ends it at once",
        ),
        (RetryPlanned(line=0, step="probe", problem="HTTP 503", wait=1.5), "probe: HTTP 503; again in 1.5 s"),
        (COLLECTED, "hero-1: in the store as img/1"),
        (CONFIRMED, "store 1003: 1 result collected in 4.0 s, none is left waiting"),
        (
            replace(CONFIRMED, confirmed=0, sent=2, reserved=1),
            "store 1003: 0 results collected in 4.0 s, 3 still waiting "
            "(2 sent, 1 reserved and perhaps never sent); "
            "ask again later, or run the upload again: it goes on from there",
        ),
        (
            ENDED,
            "run 7 ended after 1.0 s: 2 uploaded, 0 unchanged, 0 duplicate, 1 failed, 0 pending",
        ),
    ],
)
def test_each_event_reads_as_a_sentence(event: Event, text: str) -> None:
    """A person can read every event without knowing the code."""
    assert sentence(event) == text


def test_text_at_rest_has_no_time_and_leaves_the_end_to_the_summary() -> None:
    """By default only the bare lines are written; the summary follows them."""
    assert told([FAILED, ENDED], form=LogFormat.AUTO) == ["line 8  hero-2  b.jpg: not an image"]


def test_verbose_text_is_stamped() -> None:
    """Whoever follows rows and calls sees when each thing happened."""
    (line,) = told([UPLOADED], form=LogFormat.TEXT, verbosity=ROWS)
    stamp, rest = line.split(" ", 1)
    assert stamp.count(":") == 2
    assert rest == sentence(UPLOADED)


HOSTILE = "\x1b]0;owned\x07\u202e\udc80\n"


@pytest.mark.parametrize("form", list(LogFormat))
def test_what_comes_from_outside_cannot_control_the_terminal(form: LogFormat) -> None:
    """Escape sequences, direction overrides and newlines in a manifest arrive as harmless text."""
    outcome = Outcome(
        line=1, tile_id=HOSTILE, source=HOSTILE, status=Status.FAILED, error=HOSTILE, image_id=HOSTILE
    )
    events: list[Event] = [
        RowEnded(outcome=outcome),
        RowBegan(line=1, tile_id=HOSTILE, source=HOSTILE),
        CallEnded(call=Call.RESULT, status=None, seconds=1, problem=HOSTILE),
        RetryPlanned(line=1, step="result", problem=HOSTILE, wait=1),
        CoolDownBegan(host=HOSTILE, seconds=1),
        OutageBegan(host=HOSTILE, problem=HOSTILE),
        OutageProbed(host=HOSTILE, wait=1),
        OutageEnded(host=HOSTILE, seconds=1),
        ResultCollected(tile_id=HOSTILE, image_id=HOSTILE),
    ]
    lines = told(events, form=form, verbosity=CALLS)
    assert len(lines) == len(events)
    assert all(line.isprintable() for line in lines)


def test_json_gives_hostile_text_back_unchanged() -> None:
    """A program that reads the log sees what the manifest really holds."""
    outcome = Outcome(line=1, tile_id=HOSTILE, source="", status=Status.FAILED)
    assert json.loads(json_line(RowEnded(outcome=outcome), NOON))["outcome"]["tile_id"] == HOSTILE


def test_an_error_is_a_json_line_too() -> None:
    """A log in JSON stays JSON to its last line, also when the run could not go on."""
    assert json.loads(error_line("the token is refused.", 3, NOON)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "event": "error",
        "message": "the token is refused.",
        "exit_code": 3,
    }


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KB"),
        (20 * 1024**2, "20.0 MB"),
        (1536 * 1024**3, "1,536.0 GB"),
    ],
)
def test_sizes_are_told_in_fitting_units(size: int, text: str) -> None:
    """A number of bytes is given in the unit that a person would use."""
    assert size_text(size) == text
