"""An event loop whose time is virtual: what would take minutes of waiting takes none.

When nothing is ready and the next timer lies ahead, time jumps there. As with a real clock, no two looks at the
loop's work happen at exactly the same moment: each turn of the loop takes a nanosecond.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

from tileferry.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from _typeshed import FileDescriptorLike

_T = TypeVar("_T")

START = 1000.0
"""What the virtual clock shows when a loop begins, in seconds."""

TICK_NS = 1
"""How long one turn of the loop takes, in virtual nanoseconds."""


class _JumpingSelector(selectors.BaseSelector):
    """A selector that lets virtual time pass instead of waiting for files."""

    def __init__(self) -> None:
        self.passed_ns = 0
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits and no timer is set: this would hang for ever")
        self.passed_ns += TICK_NS if ready else max(TICK_NS, round((timeout or 0.0) * 1e9))
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time. Work in threads or on sockets would be overtaken by it, so it suits neither."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return START + self._jumping.passed_ns / 1e9

    def block(self, seconds: float) -> None:
        """Let time pass as if a function had kept the processor for that long."""
        self._jumping.passed_ns += round(seconds * 1e9)


def run(main: Coroutine[object, object, _T]) -> _T:
    """Run `main` on a fresh virtual loop and return its result; nothing sleeps."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def block(seconds: float) -> None:
    """Keep the running virtual loop from doing anything for that long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.block(seconds)


def clock() -> Clock:
    """A clock that follows the running virtual loop, by day as well."""
    loop = asyncio.get_running_loop()
    return Clock(now=loop.time, wall=loop.time)
