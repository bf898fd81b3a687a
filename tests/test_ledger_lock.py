"""One run at a time holds a ledger, and anybody may read it meanwhile."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tileferry import journal
from tileferry.errors import LedgerBusyError, LedgerError
from tileferry.journal import connect_for_reading, open_journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is to be."""
    return tmp_path / "ledger.sqlite3"


async def create(path: Path) -> None:
    """A ledger that was used and closed."""
    async with open_journal(path):
        pass


async def refusal(path: Path) -> LedgerError:
    """The error with which the ledger does not open."""
    with pytest.raises(LedgerError) as caught:
        await create(path)
    return caught.value


async def test_a_second_opening_in_the_same_process_is_refused(path: Path) -> None:
    """One run at a time: whoever comes second is told who holds the ledger, and the first is not disturbed."""
    async with open_journal(path) as first:
        await first.write(
            lambda connection: connection.execute(
                "INSERT INTO runs (started_at, process_id, manifest) VALUES (86400.0, 4711, 'spring.csv')"
            )
        )
        error = await refusal(path)
        await first.write(lambda connection: connection.execute("CREATE TABLE notes (note)"))
    assert isinstance(error, LedgerBusyError)
    assert error.exit_code == 4
    assert "process 4711, which has been uploading spring.csv since 1970-01-02 00:00:00 UTC" in str(error)
    assert str(path) in str(error)
    await create(path)


async def test_the_holder_is_never_a_run_that_has_ended(path: Path) -> None:
    """A holder that has begun no run yet is named in general terms, not mistaken for the run before."""
    async with open_journal(path) as held:
        await held.write(
            lambda connection: connection.execute(
                "INSERT INTO runs (started_at, ended_at, process_id, manifest) VALUES (1.0, 2.0, 4711, 'old.csv')"
            )
        )
        error = await refusal(path)
    assert "is held by another tileferry and one run at a time may use it; wait for it to end." in str(error)


@pytest.mark.parametrize(
    ("manifest", "shown"), [("a\x1b[31m.csv", "a\\x1b[31m.csv"), (b"caf\xed\xb3\xa9.csv", "caf\\udce9.csv")]
)
async def test_the_holders_manifest_does_no_harm_on_a_terminal(
    path: Path, manifest: str | bytes, shown: str
) -> None:
    """A manifest's name is shown with control characters escaped, also where it is no proper Unicode."""
    async with open_journal(path) as held:
        await held.write(
            lambda connection: connection.execute(
                "INSERT INTO runs (started_at, process_id, manifest) VALUES (0, 4711, ?)", (manifest,)
            )
        )
        error = await refusal(path)
    assert f"uploading {shown} since" in str(error)


HOLDER = """
import asyncio, sys
from pathlib import Path
from tileferry.clock import Clock
from tileferry.ledger import open_ledger

async def hold():
    async with open_ledger(Path(sys.argv[1]), host="h", store_id=1, clock=Clock()) as ledger:
        await ledger.begin_run("night.csv")
        print("ready", flush=True)
        sys.stdin.read()

asyncio.run(hold())
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the ledger until it is told to stop."""
    source = str(Path(journal.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


async def test_a_ledger_held_by_another_process_is_refused(path: Path) -> None:
    """While another tileferry uses the ledger, a second one is told its process id and manifest."""
    with holder(path) as process:
        error = await refusal(path)
        assert isinstance(error, LedgerBusyError)
        assert f"process {process.pid}, which has been uploading night.csv since" in str(error)
        process.communicate()
    assert process.returncode == 0
    await create(path)


async def test_a_killed_holder_is_no_obstacle(path: Path) -> None:
    """A lock left behind by a killed run does not keep the next one out, nor is anything lost."""
    with holder(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        async with open_journal(path) as held:
            found = await held.write(
                lambda connection: connection.execute("SELECT manifest, ended_at FROM runs").fetchall()
            )
    assert found == [("night.csv", None)]


def content(path: Path) -> bytes:
    """The file's bytes."""
    return path.read_bytes()


def _picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" * 500)


async def test_reading_does_not_disturb_a_run(path: Path) -> None:
    """A reader sees what is recorded so far, cannot write, and the run goes on writing beside it."""
    async with open_journal(path) as held:
        await held.write(lambda connection: connection.execute("INSERT INTO origin VALUES ('h', 1)"))
        with closing(connect_for_reading(path)) as reader:
            rows = reader.execute("SELECT name FROM sqlite_master")
            assert rows.fetchone(), "a statement that is under way keeps its snapshot"
            await held.write(lambda connection: connection.execute("UPDATE origin SET store_id = 2"))
            rows.close()
            assert reader.execute("SELECT store_id FROM origin").fetchone() == (2,)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("DELETE FROM origin")
        await held.write(lambda connection: connection.execute("UPDATE origin SET store_id = 3"))


async def test_reading_a_closed_ledger_adds_nothing_to_it(path: Path) -> None:
    """A ledger that nobody uses can be read, and its content is the same afterwards."""
    await create(path)
    before = content(path)
    with closing(connect_for_reading(path)) as reader:
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    assert content(path) == before


@pytest.mark.parametrize("name", ["none.sqlite3", "n" * 300, "missing/none.sqlite3"])
def test_reading_where_there_is_no_ledger_is_a_clear_sentence(tmp_path: Path, name: str) -> None:
    """A ledger that is not there, or cannot be, is said so in a sentence and not created."""
    with pytest.raises(LedgerError, match=r"^(there is no|the) ledger "):
        connect_for_reading(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_reading_a_folder_or_a_picture_is_a_clear_sentence(tmp_path: Path) -> None:
    """What is no ledger is not taken for one, nor for a broken disk."""
    _picture(tmp_path / "picture")
    with pytest.raises(LedgerError, match="is not a tileferry ledger"):
        connect_for_reading(tmp_path / "picture")
    with pytest.raises(LedgerError) as caught:
        connect_for_reading(tmp_path)
    assert "disk reports an error" not in str(caught.value)
