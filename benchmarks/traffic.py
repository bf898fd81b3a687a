"""What an emulator's call log tells of its clients: figures, and a picture of calls per second over time."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from PIL import Image, ImageDraw, ImageFont

from tileferry.emulator import Call, CallKind

RATE = 600
"""API calls a minute and token (documented)."""

IMAGES_A_MINUTE = RATE / 2
"""What that allows at best: one call reserves, one confirms."""

THROTTLED = 429

GREEN, RED, BLUE, INK, PALE = (46, 125, 80), (200, 60, 50), (70, 110, 190), (40, 40, 40), (225, 225, 225)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1300, 330, 50, 20, 64, 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Seconds on the emulator's clock: from `steady` to `stop` is what is measured, `begun` is the first call.

    `settled`: an image reserved before this had its time to be confirmed before the stop.
    """

    begun: float
    steady: float
    settled: float
    stop: float

    @property
    def minutes(self) -> float:
        """How long the steady part is."""
        return (self.stop - self.steady) / 60

    def holds(self, at: float) -> bool:
        """Whether a moment lies in the steady part."""
        return self.steady <= at < self.stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One client, measured. Those per minute and `used` are of the steady part, the others of the whole.

    `used` is the share of the calls that were to be had. `calls_an_image` takes all calls for images that were
    begun early enough to be confirmed before the stop, whether they were (`unconfirmed` were not) or not.
    """

    calls: int
    passed_a_minute: float
    used: float
    throttled: int
    confirmed: int
    unconfirmed: int
    calls_an_image: float
    images_a_minute: float


def api_calls(calls: Iterable[Call]) -> list[Call]:
    """Those that count against the budget, in the order in which they came."""
    return sorted((call for call in calls if call.kind.is_api), key=lambda call: call.at)


def span_of(calls: Sequence[Call], *, stop: float, settling: float, warming: float) -> Span:
    """The span of a client that was asked to stop at `stop`."""
    begun = min((call.at for call in calls), default=0.0)
    settled = max(stop - settling, (begun + stop) / 2)
    return Span(begun=begun, steady=min(begun + warming, (begun + stop) / 2), settled=settled, stop=stop)


def measure(calls: Sequence[Call], confirmed: Mapping[str, str], span: Span, *, taken: int = 0) -> Figures:
    """One client's API calls in figures; `confirmed` has the image id of each tile that it says is done.

    `taken` calls of the steady part were made by others with the same token.
    """
    passed = sum(span.holds(call.at) and call.status != THROTTLED for call in calls)
    tiles = {image_id: tile for tile, image_id in confirmed.items()}
    reserved: dict[str, float] = {}
    spent: Counter[str] = Counter()
    shown: dict[str, float] = {}
    for call in calls:
        name = unquote(call.path.split("/")[5]) if call.kind in {CallKind.RESERVE, CallKind.RESULT} else ""
        # A question about an image that was never confirmed counts as one in vain, under its own name.
        tile = tiles.get(name, name) if call.kind is CallKind.RESULT else name
        spent[tile] += 1
        reserved.setdefault(tile, call.at)
        if call.kind is CallKind.RESULT and call.status != THROTTLED:
            shown[tile] = call.at + call.seconds
    early = {tile for tile, at in reserved.items() if at < span.settled}
    done = early & confirmed.keys()
    begun = {call.path for call in calls if call.kind is CallKind.RESERVE and call.at < span.settled}
    return Figures(
        calls=len(calls),
        passed_a_minute=passed / span.minutes,
        used=passed / (RATE * span.minutes - taken),
        throttled=sum(call.status == THROTTLED for call in calls),
        confirmed=len(confirmed),
        unconfirmed=len(begun) - len(done),
        calls_an_image=sum(spent[tile] for tile in early) / max(1, len(done)),
        images_a_minute=sum(span.holds(shown[tile]) for tile in confirmed if tile in shown) / span.minutes,
    )


def by_store(calls: Iterable[Call]) -> dict[int, list[Call]]:
    """The calls of each store, told by their paths."""
    found: defaultdict[int, list[Call]] = defaultdict(list)
    for call in calls:
        found[int(call.path.split("/")[3])].append(call)
    return dict(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Moments that are counted by the second and stacked in one color."""

    label: str
    color: tuple[int, int, int]
    moments: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot: its title and what is stacked in it, from the bottom up."""

    title: str
    series: Sequence[Series]


def panel(title: str, calls: Sequence[Call], *, others: Sequence[Call] = ()) -> Panel:
    """One client's calls, those refused with 429 on top; those of another program below."""
    passed = [call.at for call in calls if call.status != THROTTLED]
    refused = [call.at for call in (*calls, *others) if call.status == THROTTLED]
    taken = [call.at for call in others if call.status != THROTTLED]
    series = [Series(label="calls let through", color=GREEN, moments=passed)]
    if others:
        series.insert(0, Series(label="another program's", color=BLUE, moments=taken))
    return Panel(title=title, series=[*series, Series(label="refused with 429", color=RED, moments=refused)])


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Plot calls per second over time, one plot below the other, on the same axes; a PNG."""
    moments = [at for each in panels for series in each.series for at in series.moments]
    seconds = int(max(moments, default=0.0)) + 1
    counts = [[Counter(map(int, series.moments)) for series in each.series] for each in panels]
    top = max((sum(part[at] for part in parts) for parts in counts for at in range(seconds)), default=0)
    top = max(14, top + 2)
    picture = Image.new("RGB", (WIDTH, HEIGHT * len(panels)), "white")
    for number, (each, parts) in enumerate(zip(panels, counts, strict=True)):
        plot = Image.new("RGB", (WIDTH, HEIGHT), "white")
        _draw_panel(ImageDraw.Draw(plot), each, parts, seconds, top)
        picture.paste(plot, (0, HEIGHT * number))
    path.parent.mkdir(exist_ok=True)
    picture.save(path)


def _draw_panel(
    pen: ImageDraw.ImageDraw, shown: Panel, parts: Sequence[Counter[int]], seconds: int, top: int
) -> None:
    font, bold = ImageFont.load_default(14), ImageFont.load_default(18)
    floor, ceiling = HEIGHT - BOTTOM, TOP
    wide, high = (WIDTH - LEFT - RIGHT) / seconds, (floor - ceiling) / top
    for value in range(0, top + 1, 10 if top < 80 else 20):
        pen.line((LEFT, floor - value * high, WIDTH - RIGHT, floor - value * high), fill=PALE)
        pen.text((LEFT - 8, floor - value * high), str(value), fill=INK, font=font, anchor="rm")
    for at in range(seconds):
        base = 0
        for series, part in zip(shown.series, parts, strict=True):
            if part[at]:
                left = LEFT + at * wide
                box = (left, floor - (base + part[at]) * high, left + max(1, wide - 1), floor - base * high)
                pen.rectangle(box, fill=series.color)
            base += part[at]
    _draw_frame(pen, shown, seconds, wide, floor - RATE / 60 * high)
    pen.text((LEFT, 8), shown.title, fill=INK, font=bold)


def _draw_frame(pen: ImageDraw.ImageDraw, shown: Panel, seconds: int, wide: float, limit: float) -> None:
    """The limit as a dashed line, the time axis, and what the colors mean."""
    font = ImageFont.load_default(14)
    floor = HEIGHT - BOTTOM
    for left in range(LEFT, WIDTH - RIGHT, 12):
        pen.line((left, limit, left + 6, limit), fill=INK)
    pen.line((LEFT, floor, WIDTH - RIGHT, floor), fill=INK)
    step = next(step for step in itertools.chain((5, 10, 20, 30), itertools.count(60, 60)) if seconds / step <= 20)
    for at in range(0, seconds + 1, step):
        pen.line((LEFT + at * wide, floor, LEFT + at * wide, floor + 5), fill=INK)
        pen.text((LEFT + at * wide, floor + 8), str(at), fill=INK, font=font, anchor="mt")
    pen.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6), "seconds", fill=INK, font=font, anchor="mb")
    pen.text((8, TOP - 28), "calls per second", fill=INK, font=font)
    limit_label = f"{RATE} a minute"
    right = WIDTH - RIGHT - pen.textlength(limit_label, font=font)
    pen.text((right, 10), limit_label, fill=INK, font=font)
    pen.line((right - 30, 17, right - 20, 17), fill=INK)
    pen.line((right - 16, 17, right - 6, 17), fill=INK)
    right -= 50
    for series in reversed(shown.series):
        right -= pen.textlength(series.label, font=font)
        pen.text((right, 10), series.label, fill=INK, font=font)
        pen.rectangle((right - 18, 11, right - 6, 23), fill=series.color)
        right -= 40
