"""`tileferry emulator`: the Instant Site API on this machine, served until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from tileferry.cli.signals import Interruption, run_interruptibly
from tileferry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tileferry.emulator import EmulatorSettings


def emulate(settings: EmulatorSettings, environment: Mapping[str, str] = os.environ) -> int:
    """Serve until a signal comes; returns 0, because stopping is how it is meant to end.

    Raises `UsageError` when the port or the folder cannot be used.
    """
    stopped = asyncio.Event()

    async def work(interruption: Interruption) -> int:
        from tileferry.emulator import Emulator

        interruption.drain_with(stopped.set)
        emulator = Emulator(settings)
        try:
            await emulator.start()
        except (OSError, ValueError) as exc:
            raise UsageError(f"the emulator cannot start: {exc}; give another --port or --folder.") from exc
        try:
            _announce(emulator.api_url, settings)
            await stopped.wait()
        finally:
            await emulator.stop()
        return 0

    return run_interruptibly(work, environment)


def guide(api_url: str, settings: EmulatorSettings) -> str:
    """How to use the emulator that serves `api_url`, as lines to be pasted into another shell."""
    kept = f"Everything is kept in {settings.folder}.\n" if settings.folder else ""
    start = api_url.removesuffix("/api/v1")
    return (
        f"The emulator serves store {settings.store_id} at {api_url} until you press Ctrl-C.\n"
        f"{kept}"
        f"To look at the stored images, open {start}/ in a browser.\n"
        "To upload to it, run in another terminal:\n"
        f"  export ECWID_TOKEN={settings.token} ECWID_STORE_ID={settings.store_id}\n"
        f"  tileferry upload MANIFEST --api-url {api_url}\n"
    )


def _announce(api_url: str, settings: EmulatorSettings) -> None:
    """The address alone goes to standard output, for scripts; the rest is for people."""
    # It serves on when nobody listens to what it says.
    with contextlib.suppress(OSError):
        print(guide(api_url, settings), end="", file=sys.stderr, flush=True)  # noqa: T201 - a command speaks
    with contextlib.suppress(OSError):
        print(api_url, flush=True)  # noqa: T201 - a command's data
