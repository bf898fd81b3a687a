"""One source image: open it, tell its kind and size, take its digest; is it fit for upload?

Memory: an image of up to `CHUNK_BYTES` is read once and kept for its upload; a larger one is streamed in chunks
of that size, one on its way and one held back. So a run holds at most 2 x `concurrency` x `CHUNK_BYTES` of picture
data, whatever the pictures' size.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import aiofiles

from tileferry.errors import ImageChangedError, ImageError, printable
from tileferry.model import MAX_IMAGE_BYTES, ImageKind, SourceImage

CHUNK_BYTES = 256 * 1024
"""Bytes read at once. Hashing that many takes some 0.2 ms, which the event loop does not feel."""

HEAD_BYTES = 512
"""Enough of a file's beginning to tell what it is."""

_LOOKS_LIKE = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file with `git lfs pull`"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"BM", "a BMP picture"),
    (b"\x00\x00\x01\x00", "an icon (ICO)"),
    (b"8BPS", "a Photoshop document"),
)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells quickly that a file is probably the same: its size and modification time (nanoseconds)."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Examined:
    """An image that is fit for upload, and its content where it is small enough to keep."""

    image: SourceImage
    content: bytes | None = field(repr=False)


def fingerprint(path: Path) -> Fingerprint:
    """The file's size and time, without opening it. Blocking. Raises `ImageError` when it is unfit already."""
    try:
        status = path.stat()
    except (OSError, ValueError) as exc:
        raise _unreadable(path, exc) from exc
    _check_status(path, status)
    return Fingerprint(status.st_size, status.st_mtime_ns)


def examine(path: Path) -> Examined:
    """Read the file once: kind, size, digest. Blocking. Raises `ImageError` when it is unfit for upload."""
    fingerprint(path)  # a folder, a pipe or a socket is named as such, and never opened
    try:
        with open(path, "rb", buffering=0, opener=_open_promptly) as file:
            return _examine_open(path, file)
    except (OSError, ValueError) as exc:
        raise _unreadable(path, exc) from exc


def sniff(head: bytes) -> ImageKind | None:
    """The kind of picture that begins like this, told by content and never by a file's name."""
    if head.startswith(b"\xff\xd8\xff"):
        return ImageKind.JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ImageKind.PNG
    if head.startswith((b"GIF87a", b"GIF89a")):
        return ImageKind.GIF
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return ImageKind.WEBP
    return None


async def read_chunks(image: SourceImage) -> AsyncGenerator[bytes, None]:
    """The image's content in chunks, proven to be what `image.digest` says before the last one is given out.

    Raises `ImageChangedError` instead of the last chunk when the file is something else by now, so that whoever
    streams it never completes a body with a different content.
    """
    digest = hashlib.sha256()
    read = 0
    held = b""
    try:
        async with aiofiles.open(image.path, "rb", buffering=0, opener=_open_promptly) as file:
            while chunk := await file.read(CHUNK_BYTES):
                digest.update(chunk)
                read += len(chunk)
                if read > image.size:
                    break
                if held:
                    yield held
                held = chunk
    except OSError as exc:
        raise ImageChangedError(
            f"{printable(str(image.path))} can no longer be read: {exc.strerror}.", reason="file changed"
        ) from exc
    if read != image.size or digest.hexdigest() != image.digest:
        raise changed(image.path)
    yield held


def changed(path: Path) -> ImageChangedError:
    """The error for a file that is no longer what it was."""
    return ImageChangedError(
        f"{printable(str(path))} changed while it was being uploaded; run the same command again when it is "
        "complete.",
        reason="file changed",
    )


def _open_promptly(path: str, flags: int) -> int:
    # A pipe that took the file's place would hold up whoever opens it until someone writes to it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _examine_open(path: Path, file: BinaryIO) -> Examined:
    for _ in range(2):
        before = os.fstat(file.fileno())
        _check_status(path, before)
        file.seek(0)
        head, digest, size, content = _read(path, file, before.st_size)
        after = os.fstat(file.fileno())
        if (size, after.st_size, after.st_mtime_ns) == (before.st_size, before.st_size, before.st_mtime_ns):
            kind = sniff(head)
            if kind is None:
                raise ImageError(
                    f"{printable(str(path))} is not a picture that tiles take: it looks like {looks_like(head)}. "
                    "JPEG, PNG, GIF and WebP are taken.",
                    reason="not an image",
                )
            image = SourceImage(path=path, kind=kind, size=size, digest=digest, mtime_ns=before.st_mtime_ns)
            return Examined(image, content)
    raise changed(path)


def _read(path: Path, file: BinaryIO, expected: int) -> tuple[bytes, str, int, bytes | None]:
    """The head, the digest, the size, and the content if it is small; stops as soon as it grows too large."""
    digest = hashlib.sha256()
    size = 0
    head = content = file.read(CHUNK_BYTES) or b""
    chunk = content
    while chunk:
        digest.update(chunk)
        size += len(chunk)
        if size > expected:
            break
        chunk = file.read(CHUNK_BYTES) or b""
    return head[:HEAD_BYTES], digest.hexdigest(), size, content if size == len(content) else None


def looks_like(head: bytes) -> str:
    """What a file that is no picture seems to be, in words."""
    for beginning, name in _LOOKS_LIKE:
        if head.startswith(beginning):
            return name
    if head[4:8] == b"ftyp":
        return "an AVIF picture" if head[8:12] in {b"avif", b"avis"} else "a HEIC picture or a video"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page; the download probably failed"
    if b"<svg" in text:
        return "an SVG drawing"
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "text"
    return "something unknown"


def _check_status(path: Path, status: os.stat_result) -> None:
    name = printable(str(path))
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name} is a folder; name one picture in it.", reason="not a file")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name} is not a regular file.", reason="not a file")
    if status.st_size == 0:
        raise ImageError(f"{name} is empty (0 bytes).", reason="file is empty")
    if status.st_size > MAX_IMAGE_BYTES:
        raise ImageError(
            f"{name} is too large: {status.st_size / 1024 / 1024:.1f} MB, and the API takes at most "
            f"{MAX_IMAGE_BYTES // 1024 // 1024} MB; reduce it.",
            reason="file too large",
        )


def _unreadable(path: Path, error: OSError | ValueError) -> ImageError:
    name = printable(str(path))
    if isinstance(error, ValueError):
        return ImageError(f"{name} is no possible file name.", reason="file is missing")
    match error.errno:
        case errno.ENOENT if path.is_symlink():
            return ImageError(f"{name} is a link that leads nowhere.", reason="file is missing")
        case errno.ENOENT | errno.ENOTDIR:
            return ImageError(f"{name} does not exist.", reason="file is missing")
        case errno.ELOOP:
            return ImageError(f"{name} is a link that leads in a circle.", reason="file is missing")
        case errno.EACCES | errno.EPERM:
            return ImageError(f"{name} may not be read: permission denied.", reason="file is unreadable")
        case errno.ENAMETOOLONG:
            return ImageError(f"{name} is longer than a file name can be.", reason="file is missing")
        case _:
            return ImageError(f"{name} cannot be read: {error.strerror}.", reason="file is unreadable")
