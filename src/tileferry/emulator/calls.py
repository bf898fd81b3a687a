"""The calls that came in: their kinds, one record each, and what is counted over them."""

from __future__ import annotations

import asyncio
import enum
import hashlib
from collections import Counter, deque
from dataclasses import dataclass


class CallKind(enum.StrEnum):
    """What a call is for, told by its method and path."""

    TOKEN = enum.auto()
    RESERVE = enum.auto()
    UPLOAD = enum.auto()
    RESULT = enum.auto()
    BUCKETS = enum.auto()
    TILES = enum.auto()
    TILE = enum.auto()
    PAGES = enum.auto()
    BUCKET = enum.auto()
    """A stored picture, fetched from the bucket's address."""
    CONTROL = enum.auto()
    """The emulator's own pages: never counted, never faulty."""
    OTHER = enum.auto()
    """A path that the API does not know."""

    @property
    def is_api(self) -> bool:
        """Whether the call needs the token and counts against its rate."""
        return self not in _NOT_API


_NOT_API = frozenset({CallKind.TOKEN, CallKind.UPLOAD, CallKind.BUCKET, CallKind.CONTROL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as it came in and was answered.

    `at` counts seconds since the emulator started, `seconds` how long the call took. `path` is raw, without
    the query (an upload's is its signature). `status` is 0 where nobody was answered. `token` is a
    fingerprint.
    """

    at: float
    seconds: float
    kind: CallKind
    method: str
    path: str
    status: int
    fault: str = ""
    token: str = ""


def fingerprint(token: str | None) -> str:
    """Eight characters by which a token is recognized without being told; empty for none."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()[:8] if token else ""


class CallLog:
    """The latest calls, and counts over all of them."""

    def __init__(self, kept: int) -> None:
        self.calls: deque[Call] = deque(maxlen=kept)
        self.by_kind: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self.by_fault: Counter[str] = Counter()
        self.peak = 0
        self.peak_uploads = 0
        self.bad_token_calls = 0
        self.token_leaks = 0
        self.refused_posts = 0
        self._running: Counter[str] = Counter()
        self._waiting: list[asyncio.Future[None]] = []

    def begin(self, kind: CallKind) -> None:
        """A call of that kind is being served from now on."""
        self._running[kind] += 1
        self.peak = max(self.peak, self._running.total())
        self.peak_uploads = max(self.peak_uploads, self._running[CallKind.UPLOAD])

    def end(self, call: Call) -> None:
        """The call is over, answered or not."""
        self._running[call.kind] -= 1
        self.calls.append(call)
        self.by_kind[call.kind] += 1
        self.by_status[call.status] += 1
        if call.fault:
            self.by_fault[call.fault] += 1
        # A 429 asks for a pause and refuses nothing.
        if call.kind is CallKind.UPLOAD and 400 <= call.status < 500 and call.status != 429:
            self.refused_posts += 1
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def until(self, kind: str, n: int) -> None:
        """Wait until `n` calls of that kind are over."""
        while self.by_kind[kind] < n:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
