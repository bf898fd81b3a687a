"""What a run may do and how long it may wait: frozen, keyword-only, checked at birth.

No secret is ever part of the settings; the token lives in `auth` alone.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from tileferry.errors import UsageError, printable

API_URL = "https://vuega.ecwid.com/api/v1"
"""The real API (documented)."""

AUTH_URLS = (API_URL, "https://app.ecwid.com/instantsite")
"""The two documented homes of the token exchange; the first is the default."""

EMULATOR_HOST = "emulator"
"""The name under which a ledger knows the emulator, whose port differs from one start to the next."""

LEAST_BANDWIDTH = 1024
"""Bytes a second; with less, no picture would ever arrive."""

_BANDWIDTH = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:(?P<unit>[KMG])(?:iB?)?|(?P<bytes>B))?", re.IGNORECASE
)
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}

_FIELD_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address) can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_url(url: str, name: str) -> str:
    """`url` without its trailing slash, if a token may travel to it.

    Raises `UsageError` for anything but `https://` (or `http://` on loopback), or with a query or credentials.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        # Not quoted and not chained: what is no proper address may still hold a password.
        raise UsageError(f"{name} is not a web address; expected something like {API_URL}.") from None
    if not host or parts.scheme not in {"https", "http"} or re.search(r"[\x00-\x20\x7f]", url):
        raise UsageError(f"{name} is not a web address; expected something like {API_URL}.")
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise UsageError(f"{name} must not hold a user name, a password, a query or a fragment.")
    if parts.scheme == "http" and not is_loopback(host):
        raise UsageError(f"{name} would send the token unencrypted to {host}; use https://.")
    return url.rstrip("/")


def bytes_a_second(text: str) -> float | None:
    """A bandwidth limit as rclone writes it: `2M`, `1.5M`, `512K`, `100000B`; `off` or 0 is no limit (`None`).

    The units are powers of 1024, and a number without one counts KiB (documented by rclone). Raises `UsageError`
    for anything else, and for less than `LEAST_BANDWIDTH`.
    """
    if text.strip().lower() == "off":
        return None
    found = _BANDWIDTH.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"the bandwidth limit {printable(text) or '(empty)'} is not understood; write bytes a second as 512K "
            "or 1.5M (B, K, M or G, in powers of 1024), or off."
        )
    unit = 1 if found["bytes"] else _UNITS[(found["unit"] or "K").upper()]
    limit = float(found["number"]) * unit
    if 0 < limit < LEAST_BANDWIDTH:
        raise UsageError(
            f"the bandwidth limit {printable(text)} is less than {LEAST_BANDWIDTH} bytes a second, with which no "
            "picture would ever arrive; give more, or off."
        )
    return limit or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much happens at once.

    `concurrency`: uploads in flight; each holds at most a few chunks of `images.CHUNK_BYTES` in memory.
    `rate`: API calls a minute per token (documented: 600).
    `margin`: seconds added to the API's minute, for calls that bunch up on the way: calls that leave within
    60 s + margin never number more than `rate`.
    `count_uploads`: whether an upload counts as one of those calls too (unknown; observed clients do not care).
    `bandwidth`: bytes a second over all uploads together; `None` is no limit.
    `waiting`: images that may wait for their result at once; each costs some 10 KB, no worker and no file.
    """

    concurrency: int = 16
    rate: int = 600
    margin: float = 0.9
    count_uploads: bool = False
    bandwidth: float | None = None
    waiting: int = 2000

    def __post_init__(self) -> None:
        _check_range("concurrency", self.concurrency, 1, 1000, "workers")
        _check_range("rate", self.rate, 1, 10_000_000, "calls a minute")
        _check_range("margin", self.margin, 0, 60, "seconds")
        if self.bandwidth is not None:
            _check_range("bandwidth", self.bandwidth, LEAST_BANDWIDTH, 1e15, "bytes a second")
        _check_range("waiting", self.waiting, 1, 100_000, "images")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long to wait for what, in seconds.

    `patience`: how long one image may keep failing in passing before its row fails.
    `connect`: for a connection to come about.
    `answer`: from the last byte sent to the first byte of the answer, and between its bytes.
    `stall`: how long an upload may move no byte before it is given up (a slow line is no stall).
    `first_result`: from an accepted body to the first question for its result; adapts to what is seen.
    `settle`: how long after an unclear upload the image may still turn up before the body is sent again.
    `slot_lifetime`: how old a slot of an earlier run may be to be used again; 0: as old as the host takes it.
    `resend`: how long an accepted upload may show no result before it is sent to its slot once more.
    `backoff`: the first wait between two tries; it doubles, up to `backoff_limit`.
    `cool_down`: the pause after a 429 that names none that makes sense.
    `probe`: the first wait between two probes in an outage; it doubles, up to `probe_limit`.
    `max_outage`: how long the network or a host may be away before the run gives up, resumable.
    `grace`: what those in flight get to finish when the run is asked to stop.
    """

    patience: float = 900.0
    connect: float = 15.0
    answer: float = 60.0
    stall: float = 60.0
    first_result: float = 3.0
    settle: float = 20.0
    slot_lifetime: float = 0.0
    resend: float = 180.0
    backoff: float = 0.5
    backoff_limit: float = 60.0
    cool_down: float = 60.0
    probe: float = 1.0
    probe_limit: float = 60.0
    max_outage: float = 3600.0
    grace: float = 10.0

    def __post_init__(self) -> None:
        for item in fields(self):
            least = 0.001 if item.name in {"backoff", "probe"} else 0.0  # none at all would be hammering
            _check_range(item.name, getattr(self, item.name), least, 30 * 86400, "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run against one store.

    `ledger_host` is the host for which the ledger is kept; empty means the API's own.
    `field_name` is the multipart field of the file part (observed: `file`).
    Raises `UsageError` where a value makes no sense.
    """

    store_id: int
    api_url: str = API_URL
    ledger: Path | None = None
    ledger_host: str = ""
    confirm: bool = True
    force: bool = False
    field_name: str = "file"
    pace: Pace = field(default_factory=Pace)
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        _check_range("store", self.store_id, 1, 2**63 - 1, "as a store id")
        object.__setattr__(self, "api_url", checked_url(self.api_url, "the API URL"))
        if not _FIELD_NAME.fullmatch(self.field_name):
            raise UsageError("the upload field's name may hold letters, digits, '_', '.' and '-' only.")

    @property
    def host(self) -> str:
        """The API host as the ledger knows it: with its port, where that is not the usual one."""
        if self.ledger_host:
            return self.ledger_host
        parts = urlsplit(self.api_url)
        host = parts.hostname or ""
        usual = {"https": 443, "http": 80}[parts.scheme]
        return host if parts.port in {None, usual} else f"{host}:{parts.port}"

    @property
    def ledger_path(self) -> Path:
        """Where the ledger is: as given, or one file per API host and store in the user's state directory.

        Never derived from the manifest: one that is renamed every night must not upload everything again.
        """
        if self.ledger is not None:
            return self.ledger
        name = f"{self.host.replace(':', '_')}-{self.store_id}.sqlite3"
        return platformdirs.user_state_path("tileferry", appauthor=False) / name


def _check_range(name: str, value: float, low: float, high: float, unit: str) -> None:
    if not low <= value <= high:  # nor is anything true of "not a number"
        raise UsageError(f"{name} is {value}; expected {low:g} to {high:g} {unit}.")
