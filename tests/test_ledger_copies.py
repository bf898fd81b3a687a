"""The ledger's file as a power cut would leave it, at arbitrary moments."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tileferry import journal
from tileferry.journal import Work, open_journal

INSERT = "INSERT INTO buckets (name, url) VALUES (?, ?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is to be."""
    return tmp_path / "ledger.sqlite3"


def insert(*values: tuple[str, str]) -> Work[object]:
    """The work that adds these rows."""
    return lambda connection: connection.executemany(INSERT, values)


def size(path: Path) -> int:
    """Bytes of the file itself, without its log."""
    return path.stat().st_size


def copy(path: Path, to: Path) -> Path:
    """What is on disk at this moment; the shared memory would not survive, so it is left out."""
    to.mkdir()
    shutil.copy(path, to)
    log = path.with_name(path.name + "-wal")
    if log.exists():
        shutil.copy(log, to)
    return to / path.name


async def check(copied: Path, returned: int) -> int:
    """Open a copy as the next run would: it is sound, and the writes that had returned are in it, in order."""
    async with open_journal(copied) as held:
        sound = await held.write(lambda connection: connection.execute("PRAGMA integrity_check").fetchall())
        found = await held.write(
            lambda connection: connection.execute("SELECT name FROM buckets ORDER BY name").fetchall()
        )
        await held.write(insert(("goes on", "")))
    assert sound == [("ok",)]
    assert [int(name) for (name,) in found] == list(range(len(found)))
    assert len(found) >= returned
    return len(found)


async def test_a_copy_between_two_writes_has_all_of_them(path: Path, tmp_path: Path) -> None:
    """Whenever a write has returned, a copy of the files holds it, before and after the log is folded in."""
    copies: list[tuple[Path, int]] = []
    async with open_journal(path) as held:
        for number in range(60):
            url = os.urandom(60_000).hex()
            await held.write(insert((f"{number:05}", url)))
            if number % 6 == 0:
                copies.append((copy(path, tmp_path / f"copy{number}"), number + 1))
        assert size(path) > 1_000_000, "the log was folded into the file meanwhile"
    for copied, returned in copies:
        assert await check(copied, returned) == returned


async def test_a_copy_inside_a_transaction_has_all_before_it(path: Path, tmp_path: Path) -> None:
    """A cut between any two statements, or in the middle of a batch, leaves whole transactions only."""
    copies: list[tuple[Path, int]] = []
    returned = 0

    def cut(_statement: str) -> None:
        copies.append((copy(path, tmp_path / f"copy{len(copies)}"), returned))

    async with open_journal(path) as held:
        await held.write(lambda connection: connection.set_trace_callback(cut))
        for batch in range(4):
            names = [(f"{batch * 3 + number:05}", "u") for number in range(3)]
            await held.write(insert(*names))
            returned += 3
        await held.write(lambda connection: connection.set_trace_callback(None))
    assert len(copies) > 12
    for copied, before in copies:
        assert await check(copied, before) in {before, before + 3}


WRITER = """
import asyncio, os, sys
from pathlib import Path
from tileferry.journal import Work, open_journal

async def write():
    async with open_journal(Path(sys.argv[1])) as held:
        for number in range(1_000_000):
            values = (f"{number:07}", os.urandom(40_000).hex())
            await held.write(lambda c: c.execute("INSERT INTO buckets (name, url) VALUES (?, ?)", values))
            os.write(1, b"%d\\n" % number)

asyncio.run(write())
"""


def freeze_now_and_then(path: Path, tmp_path: Path) -> list[tuple[Path, int]]:
    """Copies of a ledger in use, each taken while its writer is frozen, with how many writes had returned."""
    copies: list[tuple[Path, int]] = []
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(journal.__file__).parents[1])},
    ) as writer:
        assert writer.stdout is not None
        told = writer.stdout.fileno()
        returned = 0
        for cut in range(12):
            while returned < 9 * (cut + 1):
                heard = os.read(told, 65536)
                assert heard, "the writer has died"
                returned += heard.count(b"\n")
            writer.send_signal(signal.SIGSTOP)
            os.waitpid(writer.pid, os.WUNTRACED)
            os.set_blocking(told, False)
            with contextlib.suppress(BlockingIOError):
                returned += os.read(told, 65536).count(b"\n")
            os.set_blocking(told, True)
            copies.append((copy(path, tmp_path / f"copy{cut}"), returned))
            writer.send_signal(signal.SIGCONT)
        writer.kill()
    return copies


async def test_a_power_cut_at_any_moment_loses_nothing(path: Path, tmp_path: Path) -> None:
    """However a writer is frozen, in a commit or while the log is folded in, all it called written is there."""
    copies = freeze_now_and_then(path, tmp_path)
    assert size(copies[-1][0]) > 1_000_000, "the log was folded into the file meanwhile"
    for copied, returned in copies:
        assert await check(copied, returned) <= returned + 1
    assert await check(path, copies[-1][1]) >= copies[-1][1]
