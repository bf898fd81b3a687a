"""Writing to a stream that may be slow, full or gone, without ever holding up or harming the run."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
from typing import TextIO

BACKLOG = 10_000
"""How many writes may wait for a stream that takes none (a paused terminal, a full pipe); more are left
out."""

LONGEST_CLOSE = 2.0
"""Seconds that closing waits for a stream that takes nothing."""


class Output:
    """A stream that a thread of its own writes to: `write` never blocks and never raises.

    A paused terminal would otherwise stop the event loop, and with it every upload. When the stream is gone
    (its reader, its terminal, its disk's free space), whatever else is written is dropped.
    """

    def __init__(self, stream: TextIO | None, *, backlog: int = BACKLOG) -> None:
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._backlog = backlog
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._left_out = 0
        self._gone = stream is None
        # A daemon, because one that is stuck in a write must not keep the program from ending.
        self._thread = threading.Thread(target=self._work, name="tileferry-output", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Have `text` written soon."""
        if self._gone:
            return
        if self._queue.qsize() >= self._backlog:
            self._left_out += 1
            return
        if self._left_out:
            self._queue.put(f"({self._left_out} lines were left out here: nobody read them in time)\n")
            self._left_out = 0
        self._queue.put(text)

    def close(self, longest: float = LONGEST_CLOSE) -> None:
        """Wait until all is written, but not longer than `longest` seconds."""
        self._queue.put(None)
        self._thread.join(longest)

    def _work(self) -> None:
        while (text := self._queue.get()) is not None:
            if self._gone:
                continue
            try:
                self._put(text)
            except (OSError, ValueError):
                # ValueError: the stream was closed by someone else.
                self._gone = True

    def _put(self, text: str) -> None:
        if self._stream is None:
            return
        if self._descriptor is None:
            self._stream.write(text)
            self._stream.flush()
            return
        # Past the stream's own buffer: its lock, held in a stuck write, would abort the program at its end.
        left = memoryview(text.encode(self._stream.encoding or "utf-8", "backslashreplace"))
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                # Some other program has made the shared terminal non-blocking.
                select.select([], [self._descriptor], [])


def _descriptor(stream: TextIO | None) -> int | None:
    """The file behind the stream, where bytes can be written to it directly."""
    if stream is None or os.name == "nt":
        return None
    with contextlib.suppress(OSError, ValueError):
        return stream.fileno()
    return None
