"""The token: given, exchanged, refreshed; never shown.

A token that is given (`ECWID_TOKEN`) is used as it is. With an app's secret token (`ECWID_SECRET_TOKEN`) an access
token is exchanged, replaced ahead of its end, and replaced once more when the API refuses it. A token that was
refused is never sent again: hammering with one gets the account blocked for much longer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tileferry.clock import Clock
from tileferry.errors import TokenRefusedError, TransientError, UsageError, printable
from tileferry.settings import AUTH_URLS, checked_url

REFRESH_AHEAD = 0.1
"""The share of a token's lifetime before its end at which it is replaced."""

LONGEST_AHEAD = 600.0
"""Seconds; likewise, at the most."""

TRY_AGAIN = 30.0
"""Seconds until the next try to replace a token that is still good."""

Exchange = Callable[[str], Awaitable[tuple[str, float | None]]]
"""Exchanges an app's secret token for an access token and its lifetime in seconds, if one is told."""

_STORE_TOKEN = re.compile(r"([0-9]+)\s*=\s*(\S+)")

_TOKEN_TEXT = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the API is convinced with: an Instant Site token, or an app's secret token to exchange for one.

    Both are kept out of `repr`. `auth_url` is where the exchange happens; two homes of it are documented
    (`settings.AUTH_URLS`). Raises `UsageError` where neither or nonsense is given.
    """

    token: str | None = field(default=None, repr=False)
    secret_token: str | None = field(default=None, repr=False)
    auth_url: str = AUTH_URLS[0]

    def __post_init__(self) -> None:
        object.__setattr__(self, "auth_url", checked_url(self.auth_url, "the auth URL"))
        if not self.token and not self.secret_token:
            raise UsageError(
                "no token: set ECWID_TOKEN to an Instant Site token, or ECWID_SECRET_TOKEN to the app's secret "
                "token, or give --token-file."
            )
        for text in (self.token, self.secret_token):
            if text and not _TOKEN_TEXT.fullmatch(text):
                raise UsageError("the token holds blanks or characters that no token has; was it cut or wrapped?")

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str],
        *,
        store_id: int | None = None,
        token_file: Path | None = None,
        auth_url: str = AUTH_URLS[0],
    ) -> Credentials:
        """The credentials that `token_file` or else `environment` holds.

        For a store its own go first: `ECWID_TOKEN_<store>` and `ECWID_SECRET_TOKEN_<store>` before `ECWID_TOKEN`
        and `ECWID_SECRET_TOKEN`. Raises `UsageError` when there are none.
        """
        if token_file is not None:
            return cls(token=_read_token(token_file, store_id), auth_url=auth_url)
        for ending in ("" if store_id is None else f"_{store_id}", ""):
            token = environment.get(f"ECWID_TOKEN{ending}", "").strip()
            secret_token = environment.get(f"ECWID_SECRET_TOKEN{ending}", "").strip()
            if token or secret_token:
                return cls(token=token or None, secret_token=secret_token or None, auth_url=auth_url)
        return cls(auth_url=auth_url)


class Auth:
    """The access token that all workers share; it is replaced once for all of them."""

    def __init__(self, credentials: Credentials, exchange: Exchange, clock: Clock) -> None:
        self._token = credentials.token
        self._secret_token = credentials.secret_token
        self._exchange = exchange
        self._clock = clock
        self._replace_at: float | None = None
        self._ends_at = 0.0
        self._proven = False
        self._refusal: TokenRefusedError | None = None
        self._lock = asyncio.Lock()

    async def token(self) -> str:
        """A token to use now.

        Raises `TokenRefusedError` once a token was refused for good, and what the exchange raises.
        """
        if self._usable():
            return self._current()
        async with self._lock:
            if not self._usable():
                await self._replace_in_time()
            return self._current()

    def accepted(self, token: str) -> None:
        """The API has taken `token`."""
        if token == self._token:
            self._proven = True

    async def refused(self, token: str, refusal: TokenRefusedError) -> None:
        """The API has refused `token`: replace it, unless another worker has done so already.

        Raises `refusal` when there is nothing to replace it with, or when a brand-new token was refused too.
        """
        async with self._lock:
            if token != self._token:
                return
            fresh = self._replace_at is not None and not self._proven
            if self._secret_token is None or not refusal.curable or fresh:
                self._refusal = refusal
                raise refusal
            self._token = None
            await self._replace()

    def _usable(self) -> bool:
        if self._refusal is not None:
            return True
        # The time of day, not the loop's: a laptop that slept wakes up with an old token.
        return self._token is not None and (
            self._replace_at is None or self._clock.wall() < self._replace_at or self._secret_token is None
        )

    def _current(self) -> str:
        if self._refusal is not None:
            raise self._refusal
        if self._token is None:
            raise TokenRefusedError("the token was refused and could not be replaced.")
        return self._token

    async def _replace_in_time(self) -> None:
        """Replace the token; as long as the old one lasts, an exchange that fails in passing is no hurry."""
        try:
            await self._replace()
        except TransientError:
            now = self._clock.wall()
            if self._token is None or now >= self._ends_at:
                raise
            self._replace_at = min(now + TRY_AGAIN, self._ends_at)

    async def _replace(self) -> None:
        if self._secret_token is None:
            return
        now = self._clock.wall()
        try:
            self._token, lifetime = await self._exchange(self._secret_token)
        except TokenRefusedError as exc:
            self._refusal = exc
            raise
        lifetime = 86400.0 if lifetime is None else lifetime
        self._ends_at = now + lifetime
        self._replace_at = self._ends_at - min(lifetime * REFRESH_AHEAD, LONGEST_AHEAD)
        self._proven = False


def _read_token(path: Path, store_id: int | None) -> str:
    """The token in a file that holds it alone, or the store's in one with a line `store=token` for each."""
    name = printable(str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        detail = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise UsageError(f"the token file {name} cannot be read: {detail}.") from None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise UsageError(f"the token file {name} is empty.")
    matches = (_STORE_TOKEN.fullmatch(line) for line in lines)
    tokens: dict[str, str] = {found[1]: found[2] for found in matches if found}
    if not tokens:
        return "\n".join(lines)
    if store_id is None or str(store_id) not in tokens:
        raise UsageError(f"the token file {name} has tokens for single stores, but none for store {store_id}.")
    return tokens[str(store_id)]
