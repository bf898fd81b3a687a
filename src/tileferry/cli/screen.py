"""What a person sees while a run is going on: which listeners there are, and the stream that they share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tileferry.cli.closing import Closing, one_line, plain_text, table_text
from tileferry.cli.output import Output
from tileferry.errors import ManifestError
from tileferry.log import CALLS, LogFormat, error_line, make_log
from tileferry.progress import LiveProgress, NoProgress, PlainProgress, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tileferry.events import Listener
    from tileferry.manifest import Manifest

TICK = 0.5
"""Seconds between two looks at the clock while nothing happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """How much a person wants to see, and in which form."""

    form: LogFormat = LogFormat.AUTO
    quiet: bool = False
    verbosity: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """Standard error during a run. `live` tells whether a line is redrawn there."""

    taste: Taste
    live: bool
    progress: Progress
    log: Listener

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Those who listen to the run; what happened is told before the line below it is redrawn."""
        return (self.log, self.progress)

    def note(self, text: str) -> None:
        """Say one thing that is no event; not where each line is JSON or only failures are wanted."""
        if not self.taste.quiet and self.taste.form is not LogFormat.JSON:
            self.progress.say(f"{text}\n")

    def warn(self, text: str, exit_code: int = 0) -> None:
        """Say what must not be missed; `exit_code` is what the program will end with because of it."""
        if self.taste.form is LogFormat.JSON:
            self.progress.say(error_line(text, exit_code, time.time()) + "\n")
        else:
            self.progress.say(f"tileferry: {text}\n")

    def conclude(self, closing: Closing) -> None:
        """The summary. In JSON the last event has held it."""
        self.progress.close()
        if self.taste.form is LogFormat.JSON:
            return
        if self.taste.quiet:
            self.progress.say(one_line(closing) + "\n")
        elif self.live:
            self.progress.say(table_text(closing, sys.stderr, columns()))
        else:
            self.progress.say(plain_text(closing))


@contextlib.contextmanager
def open_screen(taste: Taste, environment: Mapping[str, str] = os.environ) -> Iterator[Screen]:
    """Standard error as `taste` wants it; what was said is written when the block ends."""
    output = Output(sys.stderr)
    live = is_live(taste, environment)
    progress: Progress
    if live:
        progress = LiveProgress(output.write, width=columns)
    elif taste.quiet or taste.form is LogFormat.JSON:
        progress = NoProgress(output.write)
    else:
        progress = PlainProgress(output.write)
    log = make_log(progress.say, form=taste.form, verbosity=min(taste.verbosity, CALLS), quiet=taste.quiet)
    try:
        yield Screen(taste=taste, live=live, progress=progress, log=log)
    finally:
        progress.close()
        output.close()


def is_live(taste: Taste, environment: Mapping[str, str]) -> bool:
    """Whether a line can be redrawn in place: on a terminal that understands it, unless it is not wanted."""
    if taste.quiet or taste.form is LogFormat.JSON or environment.get("TERM") == "dumb":
        return False
    return sys.stderr is not None and sys.stderr.isatty()


def columns() -> int:
    """The terminal's width now; standard error is asked, because standard output may be a file."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return shutil.get_terminal_size().columns


@contextlib.contextmanager
def ticking(progress: Progress) -> Iterator[None]:
    """Let `progress` look at the clock while nothing happens, on the running loop."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def tick() -> None:
        progress.tick()
        timers[:] = [loop.call_later(TICK, tick)]

    tick()
    try:
        yield
    finally:
        timers[0].cancel()


@contextlib.contextmanager
def counting(manifest: Manifest, screen: Screen) -> Iterator[None]:
    """Tell a live line how many rows there are, counted aside so that the first upload does not wait for it."""
    stop = threading.Event()
    if screen.live and manifest.path.is_file():
        # A daemon: it may hang on a slow disk, and nothing depends on it.
        work = (manifest, screen.progress, stop)
        threading.Thread(target=count_rows, args=work, name="tileferry-count", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def count_rows(manifest: Manifest, progress: Progress, stop: threading.Event) -> None:
    """Tell `progress` the number of rows, unless `stop` is set before it is known."""
    number = 0
    # What is wrong with the manifest is told by whoever reads it for the uploads.
    with contextlib.suppress(ManifestError):
        for _row in manifest.rows():
            number += 1
            if stop.is_set():
                return
        progress.expect(number)
