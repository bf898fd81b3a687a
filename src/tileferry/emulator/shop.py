"""All that one running emulator knows, handed from room to room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import Executor

    from tileferry.emulator.calls import CallLog
    from tileferry.emulator.faults import FaultPlan
    from tileferry.emulator.limits import RateLimit, Tokens
    from tileferry.emulator.settings import EmulatorSettings
    from tileferry.emulator.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """One running emulator. `clock` counts seconds; `disk` runs what would hold up the event loop.

    `stop` is set when the emulator stops: whoever waits, waits for it too.
    """

    settings: EmulatorSettings
    base_url: str
    clock: Callable[[], float]
    store: Store
    tokens: Tokens
    limits: RateLimit
    plan: FaultPlan
    log: CallLog
    stop: asyncio.Event
    disk: Executor
