"""The shape of the ledger's file, as plain functions from one version to the next."""

from __future__ import annotations

import sqlite3

from tileferry.errors import LedgerError

APPLICATION_ID = 0x74666572
"""What marks an SQLite file as ours ("tfer"), as SQLite's documentation suggests."""


def check(connection: sqlite3.Connection, name: str) -> int:
    """The version of the file, called `name` in messages; 0 for a new one. Changes nothing.

    Raises `LedgerError` when the file belongs to another program or to a newer tileferry.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (tables or version or application):
        raise LedgerError(
            f"the ledger {name} is not a ledger but another program's database; give another --ledger."
        )
    if version > len(_MIGRATIONS):
        raise LedgerError(
            f"the ledger {name} was written by a newer tileferry (its version is {version}, this one knows "
            f"{len(_MIGRATIONS)}); use that tileferry, or another --ledger."
        )
    return int(version)


def migrate(connection: sqlite3.Connection, name: str) -> None:
    """Bring the file to this program's version, in one transaction. Raises what `check` raises."""
    version = check(connection, name)
    if version == len(_MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for step in _MIGRATIONS[version:]:
        step(connection)
    connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
    connection.execute("COMMIT")


def storable(text: str) -> str | bytes:
    """`text` for SQLite; as bytes where it is no proper Unicode (a file name in another encoding)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def readable(value: str | bytes) -> str:
    """The text that `storable` was given."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogatepass")


def _version_1(connection: sqlite3.Connection) -> None:
    for statement in (
        # One row: which store, on which host, this ledger speaks of.
        "CREATE TABLE origin (host TEXT NOT NULL, store_id INTEGER NOT NULL)",
        """CREATE TABLE runs (
            id INTEGER PRIMARY KEY,
            started_at REAL NOT NULL,
            ended_at REAL,
            process_id INTEGER NOT NULL,
            manifest TEXT NOT NULL,
            extra_columns TEXT NOT NULL DEFAULT '[]',
            summary TEXT
        )""",
        # One row for each image that ever was to be: its identity is (store, tile, content).
        """CREATE TABLE uploads (
            id INTEGER PRIMARY KEY,
            tile_id NOT NULL,
            digest TEXT NOT NULL,
            size INTEGER NOT NULL,
            stage TEXT NOT NULL,
            slot_id INTEGER,
            stored TEXT,
            seen_run INTEGER,
            seen_line INTEGER,
            changed_at REAL NOT NULL,
            UNIQUE (tile_id, digest)
        )""",
        # Every slot ever reserved, so that each image that could exist has its id here. The URL is signed and
        # goes as soon as it has no more use.
        """CREATE TABLE slots (
            id INTEGER PRIMARY KEY,
            upload_id INTEGER NOT NULL REFERENCES uploads (id),
            image_id TEXT NOT NULL,
            url TEXT,
            reserved_at REAL NOT NULL,
            sent_at REAL,
            refused_at REAL
        )""",
        # What a file's content was when its size and time were these: spares reading it again.
        """CREATE TABLE files (
            path BLOB PRIMARY KEY,
            size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            digest TEXT NOT NULL,
            kind TEXT NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE rows (
            run_id INTEGER NOT NULL REFERENCES runs (id),
            position INTEGER NOT NULL,
            line INTEGER NOT NULL,
            tile_id NOT NULL,
            source NOT NULL,
            status TEXT NOT NULL,
            upload_id INTEGER REFERENCES uploads (id),
            size INTEGER,
            attempts INTEGER NOT NULL,
            seconds REAL NOT NULL,
            error TEXT NOT NULL,
            reason TEXT NOT NULL,
            extra TEXT,
            PRIMARY KEY (run_id, position)
        ) WITHOUT ROWID""",
        "CREATE TABLE buckets (name TEXT PRIMARY KEY, url TEXT NOT NULL) WITHOUT ROWID",
    ):
        connection.execute(statement)


def _version_2(connection: sqlite3.Connection) -> None:
    # Calls that may have been made lately, so that a run started again at once stays within the budget.
    connection.execute("CREATE TABLE leases (until REAL NOT NULL, calls INTEGER NOT NULL)")


_MIGRATIONS = (_version_1, _version_2)
