"""`tileferry confirm`: the results of images that earlier runs left on their way."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from tileferry.auth import Credentials
from tileferry.cli.screen import Screen, Taste, open_screen
from tileferry.cli.uploading import run_on, warn_of_readers
from tileferry.confirm import confirm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tileferry.cli.signals import Interruption
    from tileferry.settings import Settings


def collect(
    settings: Settings,
    taste: Taste,
    *,
    auth_url: str | None = None,
    token_file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Ask for what is outstanding and say in one line what came of it; returns the exit code.

    Raises `UsageError` when there is no token to ask with; what ends it later is said on the screen.
    """
    credentials = Credentials.from_environment(
        environment,
        store_id=settings.store_id,
        token_file=token_file,
        auth_url=auth_url or settings.api_url,
    )

    async def work(screen: Screen) -> int:
        try:
            ended = await confirm(settings, credentials, listeners=[screen.log])
        except asyncio.CancelledError:
            screen.note("stopped; what was collected is recorded")
            raise
        return 1 if ended.waiting else 0

    with open_screen(taste, environment) as screen:
        warn_of_readers(token_file, screen)

        async def interruptible(_interruption: Interruption) -> int:
            return await work(screen)

        return run_on(screen, interruptible, environment)
