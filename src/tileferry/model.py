"""The facts that travel through a run, as frozen records."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_IMAGE_BYTES = 20 * 1024 * 1024
"""Largest file that the API takes: 20 MB, documented for Ecwid's image endpoints."""


class ImageKind(enum.Enum):
    """The picture formats that Ecwid's editor takes; the value is the media type."""

    JPEG = "image/jpeg"
    PNG = "image/png"
    GIF = "image/gif"
    WEBP = "image/webp"


class Stage(enum.Enum):
    """How far one image has come, as the ledger knows it."""

    CLAIMED = "claimed"
    RESERVED = "reserved"
    SENT = "sent"
    CONFIRMED = "confirmed"
    FAILED = "failed"


class Status(enum.Enum):
    """How one manifest row ended."""

    UPLOADED = "uploaded"
    UNCHANGED = "unchanged"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    PENDING = "pending"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One manifest row that asks for an upload.

    `line` is the line in the manifest where the row starts (1 is the first line of the file), `source` the
    path as it is written there, `path` where that leads, `extra` the further columns, untouched. `store_id` is
    there where the manifest names a store for each row.
    """

    line: int
    tile_id: str
    source: str
    path: Path
    extra: Mapping[str, str] = field(default_factory=dict)
    store_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """One manifest row that cannot be understood; it becomes a failed row and the others go on."""

    line: int
    tile_id: str
    source: str
    problem: str
    extra: Mapping[str, str] = field(default_factory=dict)
    store_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """One picture on disk, examined and fit for upload. `digest` is SHA-256 in lower-case hex.

    `mtime_ns` is the modification time that belongs to the digest, in nanoseconds.
    """

    path: Path
    kind: ImageKind
    size: int
    digest: str
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A reserved place for one image. The URL is signed, hence a secret: it is kept out of `repr`."""

    image_id: str
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """Leave to make so many API calls until a time of day (Unix seconds), recorded before the first of them."""

    calls: int
    until: float


@dataclass(frozen=True, slots=True)
class Rendition:
    """One size of a stored image, in pixels where known. `url` is relative to its bucket's address."""

    name: str
    url: str
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What the API tells of an image that exists: its bucket's name and at least one rendition."""

    bucket: str
    renditions: tuple[Rendition, ...]

    @property
    def original(self) -> Rendition:
        """The rendition called `original`, or else the one with the most pixels."""
        for rendition in self.renditions:
            if rendition.name == "original":
                return rendition
        return max(self.renditions, key=lambda rendition: (rendition.width or 0) * (rendition.height or 0))


def image_url(buckets: Mapping[str, str], image: StoredImage) -> str:
    """The full address of an image, given the address of each bucket (documented); empty if there is none."""
    address = buckets.get(image.bucket)
    return f"{address}/{image.original.url.lstrip('/')}" if address else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one manifest row ended: the line of the results file.

    `attempts` counts the calls made for this row, `seconds` the time since it was taken up. `error` is empty
    unless the row failed or is pending, and then a sentence; `reason` is its short label.
    """

    line: int
    tile_id: str
    source: str
    status: Status
    image_id: str = ""
    url: str = ""
    width: int | None = None
    height: int | None = None
    size: int | None = None
    digest: str = ""
    attempts: int = 0
    seconds: float = 0.0
    error: str = ""
    reason: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
