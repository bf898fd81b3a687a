"""The ledger's versions: from nothing to the newest, whole or not at all, never back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tileferry import schema
from tileferry.errors import LedgerError
from tileferry.journal import open_journal
from tileferry.schema import migrate


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


def test_a_ledger_grows_from_nothing_to_the_newest_version() -> None:
    """An empty file gets every table and this program's version, and a second look changes nothing."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, "ledger")
        migrate(connection, "ledger")
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    assert {name for (name,) in found} >= {"origin", "runs", "uploads", "slots", "files", "rows", "buckets"}
    assert version == len(schema._MIGRATIONS)


async def test_a_ledger_of_a_newer_version_is_refused(path: Path) -> None:
    """What a newer tileferry wrote is not touched, and the sentence says which version would be needed."""
    await create(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    error = await refusal(path)
    assert f"a newer tileferry (its version is 99, this one knows {len(schema._MIGRATIONS)})" in str(error)
    assert "use that tileferry, or another --ledger" in str(error)


def _add_column(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE origin ADD COLUMN color TEXT")


def _fail(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE halfway (a)")
    connection.execute("INSERT INTO nowhere VALUES (1)")


async def test_a_migration_happens_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails leaves version, tables and content as they were; once mended, all steps are made."""
    async with open_journal(path) as held:
        await held.write(lambda connection: connection.execute("INSERT INTO origin VALUES ('h', 1)"))

    def look() -> tuple[object, ...]:
        with closing(sqlite3.connect(path)) as connection:
            return (
                connection.execute("PRAGMA user_version").fetchone(),
                connection.execute("SELECT * FROM origin").fetchall(),
                connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'halfway'").fetchone(),
            )

    first = schema._MIGRATIONS
    monkeypatch.setattr(schema, "_MIGRATIONS", (*first, _add_column, _fail))
    await refusal(path)
    assert look() == ((len(first),), [("h", 1)], (0,))
    monkeypatch.setattr(schema, "_MIGRATIONS", (*first, _add_column))
    await create(path)
    assert look() == ((len(first) + 1,), [("h", 1, None)], (0,))
