"""Who may call, and how often: tokens and the sliding minute."""

from __future__ import annotations

import math
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tileferry.emulator.settings import EmulatorSettings

WINDOW = 60.0
"""Seconds over which calls are counted (documented: a minute; that it slides is the strictest reading)."""

DAY = 86_400.0
"""Lifetime of an exchanged token in seconds (documented)."""


class Tokens:
    """The tokens that are good, each for one store or for all (`None`), until their time is over."""

    def __init__(self, settings: EmulatorSettings, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lifetime = settings.token_lifetime
        self._secret: str | None = settings.secret_token
        self._good: dict[str, tuple[int | None, float]] = {}
        lasting = math.inf if self._lifetime is None else self._lifetime
        self._good[settings.token] = (None, clock() + lasting)

    @property
    def lifetime(self) -> float:
        """Seconds for which an exchanged token is good."""
        return DAY if self._lifetime is None else self._lifetime

    def issue(self, store: int | None) -> str:
        """A new token, good for one store or for all."""
        token = f"emulated_{secrets.token_urlsafe(18)}"
        self._good[token] = (store, self._clock() + self.lifetime)
        return token

    def expire(self, token: str | None = None) -> None:
        """Refuse this token from now on, or all that are good so far."""
        if token is None:
            self._good.clear()
        else:
            self._good.pop(token, None)

    def revoke_secret(self) -> None:
        """Exchange nothing any more."""
        self._secret = None

    def is_secret(self, code: str) -> bool:
        """Whether `code` is the secret token of the app."""
        return self._secret is not None and secrets.compare_digest(code.encode(), self._secret.encode())

    def is_good(self, token: str | None, store: int | None) -> bool:
        """Whether a call to `store` may be made with `token`."""
        if token is None or token not in self._good:
            return False
        owner, until = self._good[token]
        return self._clock() < until and (owner is None or store is None or owner == store)

    def leaked_in(self, text: str) -> bool:
        """Whether one of the tokens stands in `text`."""
        return any(token in text for token in self._good)


@dataclass(slots=True)
class _Window:
    """One token's calls in the last minute: those that passed, all that came, those that were refused."""

    passed: deque[float] = field(default_factory=deque)
    seen: deque[float] = field(default_factory=deque)
    refused: deque[float] = field(default_factory=deque)
    blocked_until: float = -math.inf
    most: int = 0


class RateLimit:
    """At most `rate` calls in any 60 seconds for each token, and a long block for those who hammer."""

    def __init__(self, settings: EmulatorSettings, clock: Callable[[], float]) -> None:
        self._rate = settings.rate
        self._hammer_calls = settings.hammer_calls
        self._hammer_block = settings.hammer_block
        self._clock = clock
        self._windows: dict[str, _Window] = {}
        self.throttled = 0
        self.hammered = 0

    def admit(self, token: str) -> float | None:
        """Count a call with a good token. `None` if it may pass, else the seconds until one may."""
        now = self._clock()
        window = self._window(token)
        window.seen.append(now)
        _forget(window.seen, now)
        window.most = max(window.most, len(window.seen))
        _forget(window.passed, now)
        if now < window.blocked_until:
            return self._throttle(window.blocked_until - now)
        if self._rate is None or len(window.passed) < self._rate:
            if self._rate is not None:
                window.passed.append(now)
            return None
        if self._hammers(window, now):
            return self._throttle(self._hammer_block)
        return self._throttle(window.passed[0] + WINDOW - now)

    def refuse(self, token: str) -> float | None:
        """Count a call with a token that does not work. `None`, or the seconds for which it is blocked."""
        now = self._clock()
        window = self._window(token)
        if now < window.blocked_until:
            return self._throttle(window.blocked_until - now)
        return self._throttle(self._hammer_block) if self._hammers(window, now) else None

    @property
    def most(self) -> dict[str, int]:
        """By token: the most calls that came within any 60 seconds, refused ones included."""
        return {token: window.most for token, window in self._windows.items() if window.most}

    def _window(self, token: str) -> _Window:
        return self._windows.setdefault(token, _Window())

    def _hammers(self, window: _Window, now: float) -> bool:
        window.refused.append(now)
        _forget(window.refused, now)
        if self._rate is None or len(window.refused) <= self._hammer_calls:
            return False
        window.blocked_until = now + self._hammer_block
        self.hammered += 1
        return True

    def _throttle(self, seconds: float) -> float:
        self.throttled += 1
        return seconds


def _forget(times: deque[float], now: float) -> None:
    while times and now - times[0] >= WINDOW:
        times.popleft()
