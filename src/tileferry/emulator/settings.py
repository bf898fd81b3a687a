"""How the emulator behaves: frozen, keyword-only, checked at birth."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tileferry.emulator.faults import FaultKind
from tileferry.model import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorSettings:
    """One emulator. Durations are seconds; a pair is a range from which each case draws with `seed`.

    Raises `ValueError` where a value makes no sense, above all for a host that is not this machine.

    Who may call
    `store_id`, `store_ids`: the stores that exist (`store_ids=None`: every one).
    `token`: good for every store. `secret_token`: exchanged for tokens that are good for one store.
    `token_lifetime`: `None`: `token` never expires and exchanged ones last a day, as documented.
    `rate`: API calls a token may make in any 60 seconds (documented: 600); `None` lifts the limit.
    `hammer_calls`, `hammer_block`: more than so many refused calls in a minute (documented: 20) block the
    token for so long (unknown; only "much longer" is documented).

    What exists
    `tiles`: `None`: every tile whose id does not start with "missing".
    `awkward_ids`: image ids hold what has to be escaped: slash, plus, percent, question mark, blank,
    non-ASCII.
    `folder`: pictures and a journal are kept there and found again by the next start; `None`: a temporary
    folder that goes with the emulator. With a folder, `port=0` takes the port of the last start again where
    it is free, so that upload addresses handed out earlier still lead here.

    How it answers
    `processing`: from a complete body to a result with a `set`; the first third of it there is none at all.
    `slow_share`, `slow_processing`: the share of images that take this long instead.
    `set_shape`: `set` as a map by rendition (observed) or as a list (documented).
    `latency`: before an API or upload call is looked at.
    `field_name`: the only multipart field taken (observed: `file`).
    `slot_posts`: whether a second body for the same slot is refused with 409 ("once") or replaces the first.
    `slot_lifetime`: from reservation to 410; `None`: never. A restart begins it anew.
    `fault_rate`, `fault_kinds`: the share of calls that go wrong by chance, and how.
    `calls_kept`: how many of the latest calls are remembered one by one.
    `receive_buffer`: the system's receive buffer in bytes for each connection; a small one makes stalls bite.
    """

    store_id: int = 1003
    store_ids: frozenset[int] | None = frozenset()
    token: str = field(default="emulator-token", repr=False)
    secret_token: str = field(default="emulator-secret", repr=False)
    token_lifetime: float | None = None
    rate: int | None = 600
    hammer_calls: int = 20
    hammer_block: float = 300.0
    tiles: frozenset[str] | None = None
    awkward_ids: bool = True
    folder: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    processing: tuple[float, float] = (0.3, 2.0)
    slow_share: float = 0.0
    slow_processing: tuple[float, float] = (2.0, 60.0)
    set_shape: Literal["map", "list"] = "map"
    latency: tuple[float, float] = (0.0, 0.0)
    field_name: str = "file"
    max_image_bytes: int = MAX_IMAGE_BYTES
    slot_posts: Literal["once", "many"] = "once"
    slot_lifetime: float | None = None
    fault_rate: float = 0.0
    fault_kinds: tuple[FaultKind, ...] = tuple(FaultKind)
    seed: int = 0
    calls_kept: int = 200_000
    receive_buffer: int | None = None

    def __post_init__(self) -> None:
        if not _is_loopback(self.host):
            raise ValueError(
                f"The emulator serves this machine only; {self.host!r} is no loopback address. Use 127.0.0.1."
            )
        if not self.token or not self.secret_token:
            raise ValueError("The emulator needs a token and a secret token; neither may be empty.")
        if self.set_shape not in {"map", "list"}:
            raise ValueError(f"set_shape is {self.set_shape!r}; expected 'map' or 'list'.")
        if self.slot_posts not in {"once", "many"}:
            raise ValueError(f"slot_posts is {self.slot_posts!r}; expected 'once' or 'many'.")
        _check("port", self.port, 0, 65535)
        _check("fault_rate", self.fault_rate, 0, 1)
        _check("slow_share", self.slow_share, 0, 1)
        _check("calls_kept", self.calls_kept, 0, 10_000_000)
        _check("max_image_bytes", self.max_image_bytes, 1, 2**40)
        _check("hammer_calls", self.hammer_calls, 1, 1_000_000)
        _check("hammer_block", self.hammer_block, 0, 1e9)
        for name, least in (("rate", 1), ("token_lifetime", 0), ("slot_lifetime", 0), ("receive_buffer", 1)):
            value = getattr(self, name)
            if value is not None:
                _check(name, value, least, 1e9)
        for name in ("processing", "slow_processing", "latency"):
            low, high = getattr(self, name)
            _check(name, low, 0, 1e9)
            _check(name, high, low, 1e9)

    def has_store(self, store: int) -> bool:
        """Whether the store exists."""
        return self.store_ids is None or store == self.store_id or store in self.store_ids

    def has_tile(self, tile: str) -> bool:
        """Whether the tile exists (in every store alike)."""
        return not tile.startswith("missing") if self.tiles is None else tile in self.tiles


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {value}; expected {low:g} to {high:g}.")
