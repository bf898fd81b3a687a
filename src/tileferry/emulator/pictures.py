"""Which picture some bytes are, and how large: read from the header alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tileferry.model import ImageKind

if TYPE_CHECKING:
    from typing import BinaryIO

EXTENSIONS = {ImageKind.JPEG: "jpg", ImageKind.PNG: "png", ImageKind.GIF: "gif", ImageKind.WEBP: "webp"}

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's kind and its size in pixels, as its header tells them."""

    kind: ImageKind
    width: int
    height: int


def measure(file: BinaryIO) -> Picture | None:
    """The picture that `file` holds from its beginning; `None` if that is none of the four kinds."""
    file.seek(0)
    head = file.read(32)
    try:
        if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
            return _picture(ImageKind.PNG, *struct.unpack_from(">II", head, 16))
        if head[:6] in {b"GIF87a", b"GIF89a"}:
            return _picture(ImageKind.GIF, *struct.unpack_from("<HH", head, 6))
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(head)
        if head.startswith(b"\xff\xd8\xff"):
            return _jpeg(file)
    except struct.error:
        return None
    return None


def _picture(kind: ImageKind, width: int, height: int) -> Picture | None:
    return Picture(kind, width, height) if width and height else None


def _webp(head: bytes) -> Picture | None:
    if head[12:16] == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", head, 24)
        width, height = low_width | high_width << 16, low_height | high_height << 16
        return _picture(ImageKind.WEBP, width + 1, height + 1)
    if head[12:16] == b"VP8L" and head[20:21] == b"\x2f":
        (bits,) = struct.unpack_from("<I", head, 21)
        return _picture(ImageKind.WEBP, (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if head[12:16] == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return _picture(ImageKind.WEBP, width & 0x3FFF, height & 0x3FFF)
    return None


def _jpeg(file: BinaryIO) -> Picture | None:
    """Walks from segment to segment: the size may come after a long preview or colour profile."""
    file.seek(2)
    while True:
        (mark,) = struct.unpack(">B", file.read(1))
        if mark != 0xFF:
            return None
        marker = 0xFF
        while marker == 0xFF:
            (marker,) = struct.unpack(">B", file.read(1))
        if marker in _WITHOUT_LENGTH:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _START_OF_FRAME:
            height, width = struct.unpack(">xHH", file.read(5))
            return _picture(ImageKind.JPEG, width, height)
        if length < 2 or marker == 0xDA:
            return None
        file.seek(length - 2, 1)
