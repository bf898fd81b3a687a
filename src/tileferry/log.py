"""Events → lines of text or JSON, each as it happens.

The schema of a JSON line: `time` (ISO 8601, UTC), `event` (the record's name in snake_case) and then the
record's own fields under their own names; enumerations by value, paths as text, durations in seconds, sizes
in bytes. The outcome of a row and the summary of a run are objects of their own. Fields may be added, never
renamed.
"""

from __future__ import annotations

import datetime
import enum
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from tileferry.errors import printable
from tileferry.events import (
    BodySent,
    CallEnded,
    ConfirmEnded,
    CoolDownBegan,
    DrainBegan,
    Event,
    Listener,
    OutageBegan,
    OutageEnded,
    OutageProbed,
    ResultCollected,
    RetryPlanned,
    RowBegan,
    RowEnded,
    RunEnded,
    RunStarted,
)
from tileferry.model import Outcome, Status

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

RUN, ROWS, CALLS = 0, 1, 2
"""Verbosity: the run and what fails; every row (`-v`); every call (`-vv`)."""


class LogFormat(enum.Enum):
    """How lines are written; `auto` is text."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


def make_log(
    write: Callable[[str], None],
    *,
    form: LogFormat = LogFormat.AUTO,
    verbosity: int = RUN,
    quiet: bool = False,
    clock: Callable[[], float] = time.time,
) -> Listener:
    """A listener that hands one line (with its end) for each event to `write`.

    `verbosity` is one of `RUN`, `ROWS`, `CALLS`; `quiet` leaves the failed rows and the end of the run. As
    text the end of the run is left out, because a summary follows it. `clock` is the time of day.
    """
    as_json = form is LogFormat.JSON

    def render(event: Event) -> str:
        if as_json:
            return json_line(event, clock())
        # Whoever looks at single rows wants to know when; in a short list of failures it is noise.
        return stamped_line(event, clock()) if verbosity > RUN else sentence(event)

    def log(event: Event) -> None:
        if level(event) > verbosity or (quiet and not _loud(event)):
            return
        if as_json or not isinstance(event, RunEnded):
            write(render(event) + "\n")

    return log


def level(event: Event) -> int:
    """From which verbosity on an event is told."""
    match event:
        case RowEnded(outcome=Outcome(status=Status.FAILED)):
            return RUN
        case RowEnded() | ResultCollected() | RetryPlanned() | OutageProbed():
            return ROWS
        case RowBegan() | BodySent() | CallEnded():
            return CALLS
        case _:
            return RUN


def json_line(event: Event, now: float) -> str:
    """The event as one line of JSON, without its end."""
    return _json({"time": _stamp(now), "event": event_name(event), **_fields(event)})


def error_line(message: str, exit_code: int, now: float) -> str:
    """What ended the run, or spoiled it, as one line of JSON: the event `error`, which is no record."""
    return _json({"time": _stamp(now), "event": "error", "message": message, "exit_code": exit_code})


def stamped_line(event: Event, now: float) -> str:
    """The event as one line for a person, after the local time of day, without its end."""
    stamp = datetime.datetime.fromtimestamp(now, datetime.UTC).astimezone().strftime("%H:%M:%S")
    return f"{stamp} {sentence(event)}"


def event_name(event: Event) -> str:
    """`RowEnded` → `row_ended`."""
    return re.sub(r"(?<=.)(?=[A-Z])", "_", type(event).__name__).lower()


def sentence(event: Event) -> str:
    """What happened, in one line of plain text that is safe on a terminal."""
    match event:
        case RunStarted():
            return (
                f"store {event.store_id} at {printable(event.api_url)}: {event.concurrency} at once, "
                f"{event.rate:,} API calls a minute, ledger {printable(str(event.ledger))}"
            )
        case RowBegan():
            return f"{_place(event.line, event.tile_id, event.source)}: begun"
        case BodySent():
            return f"line {event.line}  {size_text(event.size)} sent, waiting for the result"
        case RowEnded():
            return outcome_line(event.outcome)
        case CallEnded():
            answer = "no answer" if event.status is None else f"HTTP {event.status}"
            problem = f": {printable(event.problem)}" if event.problem else ""
            return f"{event.call.value}: {answer} after {event.seconds:.2f} s{problem}"
        case RetryPlanned():
            place = f"line {event.line}  " if event.line else ""
            return f"{place}{event.step}: {printable(event.problem)}; again in {event.wait:.1f} s"
        case ResultCollected():
            return f"{printable(event.tile_id)}: in the store as {printable(event.image_id)}"
        case ConfirmEnded():
            return f"store {event.store_id}: {_collected(event)}"
        case _:
            return _run_sentence(event)


def outcome_line(outcome: Outcome) -> str:
    """How one row ended, in one line."""
    place = _place(outcome.line, outcome.tile_id, outcome.source)
    if outcome.error:
        failed = outcome.status is Status.FAILED
        return f"{place}: " + ("" if failed else f"{outcome.status.value}: ") + printable(outcome.error)
    return f"{place}: " + outcome.status.value + (f" as {printable(outcome.image_id)}" if outcome.image_id else "")


def size_text(size: int) -> str:
    """A number of bytes for a person, in the powers of 1024 that the API's limit is told in."""
    if size < 1024:
        return f"{size} bytes"
    for power, unit in ((3, "GB"), (2, "MB")):
        if size >= 1024**power:
            return f"{size / 1024**power:,.1f} {unit}"
    return f"{size / 1024:.0f} KB"


def _place(line: int, tile_id: str, source: str) -> str:
    return f"line {line}  {printable(tile_id) or '(no tile)'}  {printable(source) or '(no path)'}"


def _collected(event: ConfirmEnded) -> str:
    results = "1 result" if event.confirmed == 1 else f"{event.confirmed:,} results"
    if not event.waiting:
        return f"{results} collected in {event.seconds:.1f} s, none is left waiting"
    kinds = {"sent": event.sent, "reserved and perhaps never sent": event.reserved}
    told = ", ".join(f"{number:,} {kind}" for kind, number in kinds.items() if number)
    return (
        f"{results} collected in {event.seconds:.1f} s, {event.waiting:,} still waiting ({told}); ask again "
        "later, or run the upload again: it goes on from there"
    )


def _run_sentence(
    event: CoolDownBegan | OutageBegan | OutageProbed | OutageEnded | DrainBegan | RunEnded,
) -> str:
    match event:
        case CoolDownBegan():
            return f"{printable(event.host)} asks for a pause: cooling down for {event.seconds:.0f} s"
        case OutageBegan():
            return f"{printable(event.host)} is out of reach ({printable(event.problem)}); waiting for it"
        case OutageProbed():
            return f"{printable(event.host)} is still out of reach; trying again in {event.wait:.0f} s"
        case OutageEnded():
            return f"{printable(event.host)} is back after {event.seconds:.0f} s; going on"
        case DrainBegan():
            return (
                f"stopping: nothing new is begun, {event.in_flight} in flight get {event.grace:.0f} s; "
                "the next Ctrl-C ends it at once"
            )
        case RunEnded():
            summary = event.summary
            counts = ", ".join(f"{summary.count(status)} {status.value}" for status in Status)
            return f"run {summary.run_id} ended after {summary.seconds:.1f} s: {counts}"


def _loud(event: Event) -> bool:
    failed = isinstance(event, RowEnded) and event.outcome.status is Status.FAILED
    return failed or isinstance(event, RunEnded | ConfirmEnded)


def _stamp(now: float) -> str:
    stamp = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")


def _json(record: Mapping[str, Json]) -> str:
    """Readable JSON; all in escapes where a control character or a lone surrogate is."""
    line = json.dumps(record, ensure_ascii=False)
    return line if line.isprintable() else json.dumps(record)


def _fields(record: object) -> dict[str, Json]:
    if not is_dataclass(record):
        return {}
    return {item.name: _plain(getattr(record, item.name)) for item in fields(record)}


def _plain(value: object) -> Json:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return round(value, 3)
        case enum.Enum():
            return str(value.value)
        case Path():
            return str(value)
        case Mapping():
            return {str(_plain(key)): _plain(item) for key, item in value.items()}
        case _:
            return _fields(value)
