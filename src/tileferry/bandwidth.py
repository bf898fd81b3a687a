"""How fast pictures leave: so many bytes a second over all uploads together, smooth within a second.

Every body is cut into slices, and each slice waits for its turn. Turns are given in the order in which they are
asked for, so that uploads at the same time advance side by side, and a slice's turn comes when the one before it
has had its time. Only what leaves for the upload host is counted: bodies, not the API's small calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

SLICES_A_SECOND = 20
"""How smooth it is: a slice is what may leave within this fraction of a second."""

SMALLEST_SLICE = 1024
"""Bytes; smaller ones would cost more in headers than they are worth."""

LARGEST_SLICE = 256 * 1024
"""Bytes; however fast the line may be used, no more than this goes out in one go."""

CATCH_UP = 0.05
"""Seconds of delay (a busy processor, a late timer) that are made up for. Whatever happens, no second carries more
than the limit, this much of it, and one slice."""


class Unlimited:
    """No limit: what is to leave leaves at once and whole."""

    def slices(self, chunk: bytes) -> Sequence[bytes]:
        """`chunk` in pieces that are small enough to leave in one turn."""
        return (chunk,)

    async def turn(self, size: int) -> None:
        """Wait until `size` bytes may leave."""


class Bandwidth:
    """At most `bytes_a_second` for all that share it. The twin without a limit is `Unlimited`."""

    def __init__(self, bytes_a_second: float) -> None:
        self._rate = bytes_a_second
        self._slice = int(min(LARGEST_SLICE, max(SMALLEST_SLICE, bytes_a_second / SLICES_A_SECOND)))
        # Its waiters are served in the order in which they came, and one that is cancelled takes up no time.
        self._line = asyncio.Lock()
        self._free_at = 0.0

    def slices(self, chunk: bytes) -> Sequence[bytes]:
        """`chunk` in pieces that are small enough to leave in one turn."""
        return [chunk[start : start + self._slice] for start in range(0, len(chunk), self._slice)]

    async def turn(self, size: int) -> None:
        """Wait until `size` bytes may leave."""
        loop = asyncio.get_running_loop()
        async with self._line:
            if (wait := self._free_at - loop.time()) > 0:
                await asyncio.sleep(wait)
            self._free_at = max(self._free_at, loop.time() - CATCH_UP) + size / self._rate


def limited_to(bytes_a_second: float | None) -> Bandwidth | Unlimited:
    """What uploads share; `None` is no limit."""
    return Unlimited() if bytes_a_second is None else Bandwidth(bytes_a_second)
