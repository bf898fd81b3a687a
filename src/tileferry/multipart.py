"""The body of one upload attempt: multipart/form-data with one file part and an exact length.

A body serves one attempt only. One that is used a second time would post an empty file, and a friendly server
would answer 200 to it; so each attempt builds its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import PurePath

from tileferry.bandwidth import Bandwidth, Unlimited
from tileferry.errors import TileferryError
from tileferry.model import ImageKind

MAX_FILENAME_BYTES = 200
"""Longest filename sent, in UTF-8 bytes: hosts commonly store names in 255 bytes and add some of their own."""


LONGEST_ENDING = 16
"""Bytes; what follows a name's last dot is kept where it is no longer than this."""


class Body:
    """One file part, framed. `content` is the whole picture, or its chunks where it is streamed from disk.

    Its bytes leave as `bandwidth` lets them. After an attempt `failure` tells why the picture could not be read,
    and `handed_over` whether its last byte was given to the connection: if not, nothing whole can have arrived on
    the other side.
    """

    def __init__(
        self,
        *,
        field_name: str,
        filename: str,
        kind: ImageKind,
        size: int,
        content: bytes | AsyncGenerator[bytes, None],
        bandwidth: Bandwidth | Unlimited | None = None,
    ) -> None:
        boundary = f"tileferry-{secrets.token_hex(16)}"
        disposition = f'form-data; name="{field_name}"; filename="{encoded_filename(filename)}"'
        self._head = (
            f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: {kind.value}\r\n\r\n"
        ).encode()
        self._content = content
        self._bandwidth = bandwidth or Unlimited()
        self._held = 0.0
        self._held_since: float | None = None
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.length = len(self._head) + size + len(self._tail)
        self.failure: TileferryError | None = None
        self.handed_over = False

    async def stream(self) -> AsyncIterator[bytes]:
        """What the HTTP client sends: `length` bytes, a small picture's at once."""
        if isinstance(self._content, bytes):
            *pieces, last = self._bandwidth.slices(b"".join((self._head, self._content, self._tail)))
            for piece in pieces:
                await self._turn(piece)
                yield piece
            await self._turn(last)
            self.handed_over = True
            yield last
            return
        await self._turn(self._head)
        yield self._head
        chunks = self._content
        try:
            # Closed here and now: an attempt that is given up must not keep the file open.
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    for piece in self._bandwidth.slices(chunk):
                        await self._turn(piece)
                        yield piece
        except TileferryError as exc:
            # The HTTP client wraps whatever its body raises; the reason must not get lost in that.
            self.failure = exc
            raise
        await self._turn(self._tail)
        self.handed_over = True
        yield self._tail

    def held_back(self) -> float:
        """Seconds for which it has waited for its turn so far: time in which no byte was meant to leave."""
        if self._held_since is None:
            return self._held
        return self._held + asyncio.get_running_loop().time() - self._held_since

    async def _turn(self, piece: bytes) -> None:
        self._held_since = asyncio.get_running_loop().time()
        try:
            await self._bandwidth.turn(len(piece))
        finally:
            self._held = self.held_back()
            self._held_since = None


def encoded_filename(filename: str) -> str:
    """`filename` as browsers send it: UTF-8, with quote, CR and LF percent-encoded (HTML standard).

    What cannot be text is replaced, a directory is dropped, and a name that is too long loses its middle part
    but keeps its ending.
    """
    name = filename.replace("\\", "/").rsplit("/", 1)[-1]
    name = name.encode("utf-8", "replace").decode("utf-8") or "image"
    ending = PurePath(name).suffix
    if len(_escaped(ending).encode()) > LONGEST_ENDING:
        ending = ""
    stem = _within(name.removesuffix(ending), MAX_FILENAME_BYTES - len(_escaped(ending).encode()))
    return stem + _escaped(ending)


def _within(text: str, limit: int) -> str:
    """As much of the beginning of `text` as fits into `limit` bytes when it is escaped."""
    fitting = ""
    for character in map(_escaped, text):
        limit -= len(character.encode())
        if limit < 0:
            break
        fitting += character
    return fitting


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A", "\0": "%00"})
