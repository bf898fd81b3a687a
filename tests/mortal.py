"""A tileferry that dies at a chosen moment, by SIGKILL, which nothing can catch.

Started as a program it reads cases from standard input, one JSON object a line, and carries out each in a child
process of its own (a fork, so that a hundred deaths take seconds). A case names the manifest, the settings, and at
which moment to die: the `count`-th of its kind (`MOMENTS`, or "any"), with 0 for never. For each case it answers
with a line that tells whether the child died and which moments it saw.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tileferry import Credentials, Pace, Settings, Timing, api, open_manifest, open_run, wire
from tileferry.journal import Journal
from tileferry.results import write_results

_P = ParamSpec("_P")
_T = TypeVar("_T")

MOMENTS = (
    "before commit",
    "after commit",
    "before call",
    "call leaving",
    "after call",
    "before upload",
    "within upload",
    "after upload",
)
"""Around each transaction of the ledger and each call over the wire, and within an upload's body."""


class Fate:
    """Counts moments and ends the process at the chosen one."""

    def __init__(self, moment: str, count: int) -> None:
        self._moment = moment
        self._count = count
        self.seen: Counter[str] = Counter()

    def comes(self, moment: str) -> None:
        """A moment has come."""
        for kind in (moment, "any"):
            self.seen[kind] += 1
            if kind == self._moment and self.seen[kind] == self._count:
                os.kill(os.getpid(), signal.SIGKILL)


def _around(fate: Fate, kind: str, function: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]:
    async def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        fate.comes(f"before {kind}")
        result = await function(*args, **kwargs)
        fate.comes(f"after {kind}")
        return result

    return wrapped


def doom(fate: Fate) -> None:
    """Let every ledger write and every wire event pass by `fate`."""
    commit = Journal._commit

    def mortal_commit(self: Journal, works: list[Callable[[sqlite3.Connection], object]]) -> list[object]:
        fate.comes("before commit")
        result = commit(self, works)
        fate.comes("after commit")
        return result

    leaving: Any = wire._on_headers_sent

    async def mortal_leaving(*args: object) -> None:
        fate.comes("call leaving")
        await leaving(*args)

    stream = wire.Body.stream

    async def mortal_stream(self: wire.Body) -> AsyncIterator[bytes]:
        async for chunk in stream(self):
            fate.comes("within upload")
            yield chunk

    replaced: dict[tuple[Any, str], object] = {
        (Journal, "_commit"): mortal_commit,
        (wire, "_on_headers_sent"): mortal_leaving,
        (wire.Body, "stream"): mortal_stream,
        (api, "exchange"): _around(fate, "call", api.exchange),
        (api, "post_body"): _around(fate, "upload", api.post_body),
    }
    for (owner, name), mortal in replaced.items():
        assert hasattr(owner, name)
        setattr(owner, name, mortal)


async def live(case: dict[str, Any]) -> None:
    """One run over the case's manifest, to its results file."""
    settings = Settings(
        store_id=case["store_id"],
        api_url=case["api_url"],
        ledger=Path(case["ledger"]),
        pace=Pace(rate=1_000_000, concurrency=case["concurrency"]),
        timing=Timing(**case["timing"]),
    )
    manifest = open_manifest(Path(case["manifest"]))
    async with open_run(settings, Credentials(token=case["token"])) as run:
        async for _ in run.upload(manifest.rows()):
            pass
        await run.flush()
        write_results(Path(case["results"]), run.outcomes(), manifest.extra_columns)


def carry_out(case: dict[str, Any]) -> dict[str, object]:
    """One case in a child process: whether it died, and the moments it saw if it lived."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        fate = Fate(case["moment"], case["count"])
        doom(fate)
        asyncio.run(live(case))
        os.write(writing, json.dumps(fate.seen).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        seen = told.read()
    _, status = os.waitpid(child, 0)
    return {
        "died": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "seen": json.loads(seen) if seen else {},
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(carry_out(json.loads(line))), flush=True)
