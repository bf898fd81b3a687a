"""What goes wrong on purpose: the kinds of faults, and the plan that says which call meets which."""

from __future__ import annotations

import enum
import math
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tileferry.emulator.calls import CallKind
from tileferry.emulator.chance import chance

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

ANY = "any"
"""Stands for every kind of call in a script."""


class FaultKind(enum.StrEnum):
    """The ways in which a call goes wrong. "Done" means that the slot is reserved, the picture stored."""

    RESET_BEFORE = "reset_before"
    """The connection is reset before the body is read. Nothing done."""
    RESET_WITHIN = "reset_within"
    """The connection is reset in the middle of the body. Nothing done."""
    RESET_AFTER = "reset_after"
    """Done, then the connection is reset without an answer."""
    STATUS = "status"
    """`status` (500 unless given), nothing done and the body not read."""
    STATUS_AFTER = "status_after"
    """Done, then `status` (500 unless given)."""
    THROTTLE = "throttle"
    """429 with the `headers` given and no others; nothing done."""
    HANG = "hang"
    """The body is read, nothing done, and no answer comes."""
    HANG_AFTER = "hang_after"
    """Done, and no answer comes."""
    STALL = "stall"
    """The body is not read beyond its first kilobytes, and no answer comes."""
    DRIP = "drip"
    """Done; the right answer, a byte every `seconds` (a thousandth unless given)."""
    HTML = "html"
    """200 with a web page, nothing done."""
    TRUNCATED = "truncated"
    """Done; the answer ends half-way before its Content-Length."""
    WRONG_JSON = "wrong_json"
    """Done; an answer whose values have the wrong types."""
    NOT_JSON = "not_json"
    """Done; an answer that is no JSON although it says so."""
    BODY = "body"
    """`status` (200 unless given) with exactly the `body` and `headers` given; done only with `act`."""
    ENDLESS = "endless"
    """An answer that never ends; done only with `act`."""
    SLOT_REFUSED = "slot_refused"
    """`status` (410 unless given) from the slot; the picture is stored all the same with `act`."""


UPLOAD_ONLY = frozenset({FaultKind.RESET_WITHIN, FaultKind.STALL, FaultKind.SLOT_REFUSED})
"""Faults that chance brings to uploads only: they need a body or a slot."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong; each `FaultKind` says which of the details it heeds.

    Raises `ValueError` for details that no answer can have.
    """

    kind: FaultKind
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    seconds: float | None = None
    act: bool = False

    def __post_init__(self) -> None:
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError(f"A fault's status is {self.status}; expected 200 to 599.")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"A fault's seconds are {self.seconds}; expected 0 or more.")


class FaultPlan:
    """Which call meets which fault: by script first, else by chance.

    Chance draws once per call from a source of its own for each kind of call, so that the n-th upload meets
    the same fault in every run with the same seed, whatever the other calls do meanwhile.
    """

    def __init__(self, *, rate: float, kinds: tuple[FaultKind, ...], seed: int) -> None:
        self._counts: Counter[str] = Counter()
        self._script: dict[tuple[str, int], Fault] = {}
        self._next: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self.set_chance(rate=rate, kinds=kinds, seed=seed)

    def set_chance(self, *, rate: float, kinds: tuple[FaultKind, ...], seed: int) -> None:
        """From now on let a share of `rate` (0 to 1) of the calls meet one of `kinds`.

        Raises `ValueError` for another rate.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"The share of faulty calls is {rate}; expected 0 to 1.")
        self._rate, self._kinds, self._seed = rate, kinds, seed
        self._sources: dict[str, random.Random] = {}

    def script(self, call: str, n: int, fault: Fault) -> None:
        """Let the `n`-th call of a kind (1 is the first since the start) meet `fault`.

        Raises `ValueError` for an unknown kind and for a call that is already over.
        """
        name = _checked(call)
        if n <= self._counts[name]:
            raise ValueError(f"Call {n} of kind {name} cannot be scripted: {self._counts[name]} are over.")
        self._script[name, n] = fault

    def script_next(self, call: str, *faults: Fault) -> None:
        """Let the next calls of a kind meet `faults`, one each and in order, after those already queued."""
        self._next[_checked(call)].extend(faults)

    def script_always(self, call: str, fault: Fault | None) -> None:
        """Let every call of a kind meet `fault` until this is taken back with `None`."""
        name = _checked(call)
        if fault is None:
            self._always.pop(name, None)
        else:
            self._always[name] = fault

    def draw(self, kind: CallKind) -> Fault | None:
        """The fault that the call which has just come in meets, if any."""
        names = (kind.value, ANY)
        self._counts.update(names)
        planned = [self._script.pop((name, self._counts[name]), None) for name in names]
        for fault in planned:
            if fault is not None:
                return fault
        for name in names:
            if self._next[name]:
                return self._next[name].popleft()
        for name in names:
            if name in self._always:
                return self._always[name]
        return self._by_chance(kind)

    def _by_chance(self, kind: CallKind) -> Fault | None:
        if not self._rate:
            return None
        source = self._sources.get(kind)
        if source is None:
            source = chance(self._seed, kind)
            self._sources[kind] = source
        if source.random() >= self._rate:
            return None
        fitting = [each for each in self._kinds if kind is CallKind.UPLOAD or each not in UPLOAD_ONLY]
        return _improvised(source.choice(fitting), source) if fitting else None


_HOSTILE_BODIES = (b"", b"null", b"[]", b"{}", b'"ok"', b"[" * 5000, b'{"id": ' * 2000, b"\x00\xff\xfe")


def _improvised(kind: FaultKind, source: random.Random) -> Fault:
    """A fault of that kind with details drawn by chance."""
    if kind in {FaultKind.STATUS, FaultKind.STATUS_AFTER}:
        return Fault(kind, status=source.choice((500, 502, 503, 504)))
    if kind is FaultKind.THROTTLE:
        return Fault(kind, headers={"Retry-After": "1"})
    if kind is FaultKind.BODY:
        return Fault(kind, body=source.choice(_HOSTILE_BODIES))
    if kind is FaultKind.SLOT_REFUSED:
        return Fault(kind, status=source.choice((403, 404, 409, 410)), act=source.random() < 0.5)
    return Fault(kind)


def _checked(call: str) -> str:
    known = [ANY, *(kind.value for kind in CallKind if kind is not CallKind.CONTROL)]
    if call not in known:
        raise ValueError(f"There is no call {call!r}; expected one of {', '.join(known)}.")
    return str(call)
