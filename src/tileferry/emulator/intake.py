"""Takes in one upload's body: headers, form, size and picture are checked while it comes."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from aiohttp import hdrs

from tileferry.emulator.answers import CallError, wrong_parameter
from tileferry.emulator.multipart import MAX_HEAD_BYTES, FileReader, MultipartError, boundary_of
from tileferry.emulator.pictures import Picture, measure
from tileferry.emulator.store import Received
from tileferry.model import ImageKind

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

    from tileferry.emulator.shop import Shop

FLUSH_BYTES = 1024 * 1024
"""A body goes to disk in pieces of this size, so that is what an upload costs in memory."""

_MEDIA_TYPES = frozenset(kind.value for kind in ImageKind)


class _Spool:
    """A file that grows. `flush` and `finish` block: they belong into a thread, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pending = bytearray()
        self.size = 0
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self.pending += data
        self.size += len(data)

    def flush(self) -> None:
        with self.path.open("ab") as file:
            file.write(self.pending)
        self._digest.update(self.pending)
        self.pending.clear()

    def finish(self) -> tuple[str, Picture | None]:
        self.flush()
        with self.path.open("rb") as file:
            return self._digest.hexdigest(), measure(file)


async def receive(request: web.BaseRequest, shop: Shop) -> Received:
    """The picture in the request's body. Raises `CallError` for whatever is wrong with request or picture.

    What has been written is gone again when this raises.
    """
    reader = FileReader(_check_headers(request, shop.settings.max_image_bytes), shop.settings.field_name)
    spool = _Spool(shop.store.incoming())
    complete = False
    try:
        received = await _receive(request, shop, reader, spool)
        complete = True
    except MultipartError as exc:
        raise wrong_parameter(str(exc)) from exc
    finally:
        if not complete:
            spool.path.unlink(missing_ok=True)
    return received


async def _receive(request: web.BaseRequest, shop: Shop, reader: FileReader, spool: _Spool) -> Received:
    loop = asyncio.get_running_loop()
    async for data in request.content.iter_any():
        spool.add(reader.feed(data))
        if spool.size > shop.settings.max_image_bytes:
            raise _too_large(shop.settings.max_image_bytes)
        if len(spool.pending) >= FLUSH_BYTES:
            await loop.run_in_executor(shop.disk, spool.flush)
    head = reader.close()
    if not spool.size:
        raise wrong_parameter("The file is empty.")
    if head.media_type not in _MEDIA_TYPES:
        raise wrong_parameter("The part's Content-Type is none of " + ", ".join(sorted(_MEDIA_TYPES)) + ".")
    digest, picture = await loop.run_in_executor(shop.disk, spool.finish)
    if picture is None:
        raise CallError(422, "UNPROCESSABLE_ENTITY", "The file is no JPEG, PNG, GIF or WebP picture.")
    if picture.kind.value != head.media_type:
        raise CallError(
            422,
            "UNPROCESSABLE_ENTITY",
            f"The part's Content-Type is {head.media_type}, but the file is {picture.kind.value}.",
        )
    return Received(path=spool.path, digest=digest, size=spool.size, picture=picture, filename=head.filename)


def _check_headers(request: web.BaseRequest, limit: int) -> bytes:
    """The boundary, if the request's headers are those of a plain form upload within the limit."""
    headers = request.headers
    # A chunked body has no length; one with both never gets past the HTTP parser.
    if hdrs.CONTENT_LENGTH not in headers:
        raise CallError(411, "LENGTH_REQUIRED", "The upload needs a Content-Length and must not be chunked.")
    if headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
        raise CallError(415, "UNSUPPORTED_MEDIA_TYPE", "The upload must not be compressed.")
    content_type = headers.get(hdrs.CONTENT_TYPE, "")
    if not content_type.lower().startswith("multipart/"):
        raise CallError(415, "UNSUPPORTED_MEDIA_TYPE", "The upload must be multipart/form-data.")
    try:
        boundary = boundary_of(content_type)
    except MultipartError as exc:
        raise wrong_parameter(str(exc)) from exc
    # Two delimiters and one head are all that may come on top of the picture.
    if int(headers[hdrs.CONTENT_LENGTH]) > limit + MAX_HEAD_BYTES + 2 * len(boundary) + 16:
        raise _too_large(limit)
    return boundary


def _too_large(limit: int) -> CallError:
    return CallError(400, "INCORRECT_IMAGE_SIZE", f"The file is larger than {limit} bytes.")
