"""Ctrl-C and its kin: the first asks the run to stop in order, the second ends it at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from tileferry.cli.crash import report_background
from tileferry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask for an end: from the keyboard, from a program, from a terminal that vanished."""


class Interruption:
    """What signals have asked for so far. `number` is the first signal, or `None`.

    Until `drain_with` has named a way to end in order, there is nothing in flight and the first signal ends
    all.
    """

    def __init__(self, cancel: Callable[[], object]) -> None:
        self.number: int | None = None
        self._cancel = cancel
        self._drain: Callable[[], object] | None = None

    def drain_with(self, drain: Callable[[], object]) -> None:
        """From now on the first signal calls `drain`."""
        self._drain = drain

    def take(self, number: int) -> None:
        """A signal has come."""
        first = self.number is None
        if first:
            self.number = number
        if first and self._drain is not None:
            self._drain()
        else:
            self._cancel()

    @property
    def exit_code(self) -> int:
        """128 + the signal, as shells tell it: 130 for Ctrl-C, 143 for SIGTERM, 129 for a vanished
        terminal."""
        return 128 + (signal.SIGINT if self.number is None else self.number)


def run_interruptibly(
    work: Callable[[Interruption], Awaitable[int]], environment: Mapping[str, str] = os.environ
) -> int:
    """Run `work` on an event loop to its exit code; that of the signal when one ended it.

    Raises what `work` raises.
    """
    seen: list[Interruption] = []

    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine on a loop always runs in a task
        asyncio.get_running_loop().set_exception_handler(report_background)
        interruption = Interruption(task.cancel)
        seen.append(interruption)
        with _listening(interruption):
            return await work(interruption)

    try:
        with asyncio.Runner(loop_factory=loop_factory(environment)) as runner:
            return runner.run(main())
    except asyncio.CancelledError:
        if seen and seen[0].number is not None:
            return seen[0].exit_code
        raise
    except KeyboardInterrupt:
        # Where the loop cannot take signals (Windows), Ctrl-C has cancelled the work.
        return 130


def loop_factory(environment: Mapping[str, str]) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (`tileferry[fast]`), unless `TILEFERRY_LOOP=asyncio` says otherwise.

    Raises `UsageError` for another value, or for `uvloop` where it is missing.
    """
    wanted = environment.get("TILEFERRY_LOOP", "").strip().lower()
    if wanted not in {"", "asyncio", "uvloop"}:
        raise UsageError("TILEFERRY_LOOP must be asyncio or uvloop, or not be set.")
    if wanted == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        if wanted:
            raise UsageError(
                "TILEFERRY_LOOP asks for uvloop, which is not installed: pip install 'tileferry[fast]'."
            ) from None
        return None
    return uvloop.new_event_loop


@contextlib.contextmanager
def _listening(interruption: Interruption) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    heard = []
    try:
        for number in STOPPING:
            if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
                # nohup: the run is meant to outlive its terminal.
                continue
            try:
                loop.add_signal_handler(number, interruption.take, int(number))
            except (NotImplementedError, RuntimeError, ValueError):
                # Windows, or not the main thread: Ctrl-C still arrives as KeyboardInterrupt.
                break
            heard.append(number)
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
