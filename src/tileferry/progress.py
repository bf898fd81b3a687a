"""Where the run is: one line that is redrawn on a terminal, or a line every half minute anywhere else.

Events are folded into a `Standing`; what a person sees of it is made by pure functions. What happened (a
failed row, a pause) is told by `log`, which writes through `say` so that the two share one screen.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tileferry.errors import printable
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
)
from tileferry.model import Status

if TYPE_CHECKING:
    from collections.abc import Callable

REDRAW = 0.1
"""Seconds between two redraws of the line: quick enough to look alive, slow enough not to flicker."""

REPORT = 30.0
"""Seconds between two lines where nobody watches."""

RATE_SPAN = 60.0
"""The span, in seconds, over which the rate is measured."""

ERASE_LINE = "\r\x1b[K"


@dataclass(slots=True, kw_only=True)
class Standing:
    """The state of a run, folded from its events. Times are monotonic seconds.

    `total` is how many rows there are, if known; `in_flight` and `waiting` hold line numbers; `pauses` the
    end of each host's cool-down, `outages` the next probe of each host that is out of reach, once it is
    known.
    """

    total: int | None = None
    done: int = 0
    failed: int = 0
    in_flight: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    pauses: dict[str, float] = field(default_factory=dict)
    outages: dict[str, float | None] = field(default_factory=dict)
    draining: bool = False
    marks: deque[tuple[float, int]] = field(default_factory=deque)

    def take(self, event: Event, now: float) -> None:
        """Fold in one event that happened at `now`."""
        match event:
            case RowBegan():
                self.in_flight.add(event.line)
            case BodySent():
                self.in_flight.discard(event.line)
                self.waiting.add(event.line)
            case RowEnded():
                self.in_flight.discard(event.outcome.line)
                self.waiting.discard(event.outcome.line)
                self.done += event.outcome.status is not Status.PENDING
                self.failed += event.outcome.status is Status.FAILED
            case CoolDownBegan():
                self.pauses[event.host] = now + event.seconds
            case OutageBegan():
                self.outages[event.host] = None
            case OutageProbed():
                self.outages[event.host] = now + event.wait
            case OutageEnded():
                self.outages.pop(event.host, None)
            case DrainBegan():
                self.draining = True
            case _:
                pass
        self._mark(now)

    def rate(self, now: float) -> float | None:
        """Rows a minute of late, or `None` while it is too early to tell."""
        if not self.marks or now - self.marks[0][0] < 5:
            return None
        then, done = self.marks[0]
        return (self.done - done) / (now - then) * 60

    def _mark(self, now: float) -> None:
        if not self.marks or now - self.marks[-1][0] >= 1:
            self.marks.append((now, self.done))
        # The oldest mark that is kept is the last one before the span, so that the span is always covered.
        while len(self.marks) > 1 and self.marks[1][0] <= now - RATE_SPAN:
            self.marks.popleft()


def line(standing: Standing, now: float, width: int | None = None) -> str:
    """The state in one line of at most `width` columns; what matters least is left out first."""
    parts = list(_parts(standing, now))
    while width is not None and len(_joined(parts)) > width and len(parts) > 1:
        parts.remove(max(parts, key=lambda part: part[0]))
    return _joined(parts)[:width]


class Progress(Protocol):
    """A listener that shows where the run is, on a screen that it shares with what is said through `say`."""

    def __call__(self, event: Event) -> None:
        """Take in what happened."""

    def expect(self, total: int) -> None:
        """The manifest has `total` rows."""

    def tick(self) -> None:
        """Time has passed; called about twice a second."""

    def say(self, text: str) -> None:
        """Write whole lines."""

    def close(self) -> None:
        """Nothing is shown from now on."""


class NoProgress:
    """Shows nothing and only passes on what is said."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.say = write

    def __call__(self, event: Event) -> None:
        """Nothing to show."""

    def expect(self, total: int) -> None:
        """Nothing to show."""

    def tick(self) -> None:
        """Nothing to show."""

    def close(self) -> None:
        """Nothing is shown."""


class PlainProgress:
    """A line every `REPORT` seconds, without control characters: for logs, mail and pipes."""

    def __init__(self, write: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.say = write
        self.standing = Standing()
        self._clock = clock
        self._next = clock() + REPORT
        self._closed = False

    def __call__(self, event: Event) -> None:
        """Take in what happened and report when it is time."""
        self.standing.take(event, self._clock())
        if isinstance(event, RunEnded):
            self.close()
        self.tick()

    def expect(self, total: int) -> None:
        """The manifest has `total` rows."""
        self.standing.total = total

    def tick(self) -> None:
        """Report when it is time, also while nothing happens."""
        now = self._clock()
        if now >= self._next and not self._closed:
            self._next = now + REPORT
            self.say(line(self.standing, now) + "\n")

    def close(self) -> None:
        """Nothing is reported from now on; the summary follows."""
        self._closed = True


class LiveProgress:
    """One line at the bottom of a terminal, redrawn in place; what is said scrolls past above it.

    `width` tells the terminal's columns at this moment, because a window may be resized.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        width: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.standing = Standing()
        self._write = write
        self._width = width
        self._clock = clock
        self._drawn = ""
        self._drawn_at = -math.inf
        self._closed = False

    def __call__(self, event: Event) -> None:
        """Take in what happened; redraw unless that was done just now."""
        self.standing.take(event, self._clock())
        if isinstance(event, RunEnded):
            self.close()
        self.tick()

    def expect(self, total: int) -> None:
        """The manifest has `total` rows."""
        self.standing.total = total

    def tick(self) -> None:
        """Redraw where the line has changed, also while nothing happens: seconds count down."""
        now = self._clock()
        if self._closed or now - self._drawn_at < REDRAW:
            return
        self._drawn_at = now
        # The last column stays free: some terminals wrap as soon as it is filled.
        text = line(self.standing, now, max(self._width() - 1, 10))
        if text != self._drawn:
            # Erased after the text and not before it, so that nothing flickers.
            self._write(f"\r{text}\x1b[K")
            self._drawn = text

    def say(self, text: str) -> None:
        """Write whole lines above the line; one write, so that nothing gets in between."""
        self._write(f"{ERASE_LINE}{text}{self._drawn}" if self._drawn else text)

    def close(self) -> None:
        """Take the line away; what follows starts at the left."""
        if self._drawn:
            self._write(ERASE_LINE)
        self._drawn = ""
        self._closed = True


def _parts(standing: Standing, now: float) -> list[tuple[int, str]]:
    """The pieces of the line from left to right, each with a rank: the highest is left out first."""
    if standing.total is None:
        parts = [(0, f"{standing.done:,} done")]
    else:
        percent = f" ({100 * standing.done // standing.total} %)" if standing.total else ""
        parts = [(0, f"{standing.done:,} of {standing.total:,}{percent}")]
    if standing.failed:
        parts.append((1, f"{standing.failed:,} failed"))
    rate = standing.rate(now)
    if rate is not None:
        parts.append((3, f"{rate:,.0f} a minute"))
    if standing.in_flight:
        parts.append((5, f"{len(standing.in_flight):,} in flight"))
    if standing.waiting:
        parts.append((4, f"{len(standing.waiting):,} waiting for results"))
    state = _state(standing, now)
    if state:
        parts.append((2, state))
    return parts


def _state(standing: Standing, now: float) -> str:
    """Why the run stands still or comes to its end, if it does."""
    if standing.draining:
        return "stopping"
    if standing.outages:
        host, probe = next(iter(standing.outages.items()))
        again = f", trying again in {probe - now:.0f} s" if probe is not None and probe > now else ""
        return f"{printable(host)} is out of reach{again}"
    pause = max(standing.pauses.values(), default=now) - now
    return f"cooling down, {math.ceil(pause)} s" if pause > 0 else ""


def _joined(parts: list[tuple[int, str]]) -> str:
    return "  ".join(text for _rank, text in parts)
