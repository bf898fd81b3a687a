"""The store's journal: one fact a line, in JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFact:
    """A slot was reserved. `query` is its signature."""

    slot: str
    store: int
    tile: str
    image_id: str
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFact:
    """A picture was stored in a slot, the first or in place of another. `stored_at` in Unix seconds."""

    slot: str
    digest: str
    size: int
    kind: str
    width: int
    height: int
    filename: str
    file: str
    stored_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PostFact:
    """A complete body came for a slot that took no more."""

    slot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFact:
    """The emulator listened on this port."""

    port: int


Fact = SlotFact | ImageFact | PostFact | PortFact

_KINDS: dict[str, type[Fact]] = {
    "slot": SlotFact,
    "image": ImageFact,
    "post": PostFact,
    "port": PortFact,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def line(fact: Fact) -> bytes:
    """The fact as a line of the journal."""
    return json.dumps({"fact": _NAMES[type(fact)], **asdict(fact)}).encode() + b"\n"


def read(path: Path) -> Iterator[Fact]:
    """The facts in the journal; a last line that was cut off by a crash is cut away.

    Raises `ValueError` with file and line for one that cannot be understood.
    """
    if not path.exists():
        return
    whole = 0
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                break
            whole += len(text)
            yield _fact(text, f"{path}, line {number}")
    if whole < path.stat().st_size:
        os.truncate(path, whole)


def _fact(text: bytes, where: str) -> Fact:
    try:
        value = json.loads(text)
        kind = _KINDS[value.pop("fact")]
        return kind(**value)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{where}: this is no journal of the emulator. Give it another folder, or remove this one."
        ) from None
