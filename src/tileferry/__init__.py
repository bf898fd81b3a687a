"""tileferry: ferries images onto Ecwid Instant Site tiles, in bulk; nothing lost, nothing twice.

These names are the library; `run` shows how they go together. They are looked up when first used, so that the
command line can say `--help` without loading an HTTP client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tileferry.auth import Credentials
    from tileferry.errors import (
        FatalError,
        LedgerBusyError,
        LedgerError,
        ManifestError,
        OutageError,
        TileferryError,
        TokenRefusedError,
        UsageError,
    )
    from tileferry.events import Event, Listener, Summary
    from tileferry.fleet import Berth, Fleet, open_fleet
    from tileferry.manifest import Manifest, open_manifest
    from tileferry.model import BadRow, Outcome, Row, Status
    from tileferry.run import Run, open_run
    from tileferry.settings import Pace, Settings, Timing

__all__ = [
    "BadRow",
    "Berth",
    "Credentials",
    "Event",
    "FatalError",
    "Fleet",
    "LedgerBusyError",
    "LedgerError",
    "Listener",
    "Manifest",
    "ManifestError",
    "OutageError",
    "Outcome",
    "Pace",
    "Row",
    "Run",
    "Settings",
    "Status",
    "Summary",
    "TileferryError",
    "Timing",
    "TokenRefusedError",
    "UsageError",
    "open_fleet",
    "open_manifest",
    "open_run",
]

_HOMES = {
    "auth": ("Credentials",),
    "errors": (
        "FatalError",
        "LedgerBusyError",
        "LedgerError",
        "ManifestError",
        "OutageError",
        "TileferryError",
        "TokenRefusedError",
        "UsageError",
    ),
    "fleet": ("Berth", "Fleet", "open_fleet"),
    "events": ("Event", "Listener", "Summary"),
    "manifest": ("Manifest", "open_manifest"),
    "model": ("BadRow", "Outcome", "Row", "Status"),
    "run": ("Run", "open_run"),
    "settings": ("Pace", "Settings", "Timing"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
