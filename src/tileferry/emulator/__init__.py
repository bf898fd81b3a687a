"""The Instant Site API on loopback, strict and fault-injecting: for demos, tests and benchmarks.

It shares nothing with the client but the records in `tileferry.model`, so that a mistake in one cannot hide
in the other. A call is told apart by its raw path (`routes`), runs into the fault that is planned for it
(`faults`,
`delivery`), is answered by the API (`api`) or the upload host (`upload`), and is remembered (`calls`,
`store`,
`truth`).
"""

from __future__ import annotations

from tileferry.emulator.calls import Call, CallKind
from tileferry.emulator.faults import Fault, FaultKind
from tileferry.emulator.server import Emulator, serve
from tileferry.emulator.settings import EmulatorSettings
from tileferry.emulator.truth import Duplicate, ImageTruth, Truth

__all__ = [
    "Call",
    "CallKind",
    "Duplicate",
    "Emulator",
    "EmulatorSettings",
    "Fault",
    "FaultKind",
    "ImageTruth",
    "Truth",
    "serve",
]
