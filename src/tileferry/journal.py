"""The ledger's file: who may hold it, and how changes get onto the disk.

One connection writes, on one thread. Changes that arrive while it is busy committing go together into the next
transaction (group commit), and whoever awaits a change goes on only when that transaction is on disk. Any
failure to record is final: nothing may be done that could not be recorded first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from tileferry.errors import LedgerBusyError, LedgerError, printable
from tileferry.schema import check, migrate, readable

_T = TypeVar("_T")

Work = Callable[[sqlite3.Connection], _T]

BUSY_SECONDS = 30.0
"""How long a transaction waits for a reader that blocks it; readers (`tileferry status`) are quick."""

NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs"})
"""Where WAL's shared memory does not work (SQLite's own documentation); a rollback journal does."""


class Journal:
    """The writing side of one ledger file. Open it with `open_journal`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, executor: ThreadPoolExecutor) -> None:
        self.path = path
        self._connection = connection
        self._executor = executor
        self._waiting: list[tuple[Work[object], asyncio.Future[object] | None]] = []
        self._committing: asyncio.Future[list[object]] | None = None
        self._failure: LedgerError | None = None

    async def write(self, work: Work[_T]) -> _T:
        """Do `work` inside the next transaction; returns its result when that is on disk.

        Raises `LedgerError` when it cannot be recorded, and then for ever after.
        """
        result: list[_T] = []
        await self.written(lambda connection: result.append(work(connection)))
        return result[0]

    def written(self, work: Work[object]) -> asyncio.Future[object]:
        """Do `work` inside the next transaction; the future is done when that is on disk, or failed for good."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self._failure is not None:
            future.set_exception(self._failure)
        else:
            self._enqueue(work, future)
        return future

    def post(self, work: Work[object]) -> None:
        """Do `work` inside the next transaction without waiting for it.

        For facts whose loss costs a question at most. A failure shows at the next `write` or `close`.
        """
        if self._failure is None:
            self._enqueue(work, None)

    async def close(self) -> None:
        """Write what is waiting, even when cancelled meanwhile: it is quick, and nothing said may be lost.

        Raises `LedgerError` when it cannot be written, and the cancellation afterwards.
        """
        cancelled: asyncio.CancelledError | None = None
        while self._committing is not None:
            try:
                await asyncio.wait([self._committing])
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled
        if self._failure is not None:
            raise self._failure

    def _enqueue(self, work: Work[object], future: asyncio.Future[object] | None) -> None:
        self._waiting.append((work, future))
        if self._committing is None:
            self._commit_waiting()

    def _commit_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        self._committing = asyncio.get_running_loop().run_in_executor(
            self._executor, self._commit, [work for work, _ in batch]
        )
        self._committing.add_done_callback(partial(self._committed, [future for _, future in batch]))

    def _commit(self, works: list[Work[object]]) -> list[object]:
        """One transaction; runs on the writer's thread."""
        with explained(self.path), _transaction(self._connection):
            return [work(self._connection) for work in works]

    def _committed(
        self, waiters: list[asyncio.Future[object] | None], committing: asyncio.Future[list[object]]
    ) -> None:
        self._committing = None
        failure = committing.exception()
        if failure is not None:
            self._failure = _as_ledger_error(failure, self.path)
            waiters += [future for _, future in self._waiting]
            self._waiting = []
        elif self._waiting:
            self._commit_waiting()
        for future in waiters:
            if future is None or future.done():
                continue
            if self._failure is not None:
                future.set_exception(self._failure)
            else:
                future.set_result(None)


@contextlib.asynccontextmanager
async def open_journal(path: Path) -> AsyncIterator[Journal]:
    """Open (or create) a ledger file and hold it; nobody else can write to it meanwhile.

    Raises `LedgerBusyError` when another run holds it and `LedgerError` when it cannot be used.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger") as executor:
        loop = asyncio.get_running_loop()
        lock, connection = await loop.run_in_executor(executor, _open, path)
        journal = Journal(path, connection, executor)
        try:
            try:
                yield journal
            finally:
                await journal.close()
        finally:
            await asyncio.shield(loop.run_in_executor(executor, _close, lock, connection))


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write and disturbs no run. Raises `LedgerError` when there is no ledger."""
    name = printable(str(path))
    with explained(path):
        if not os.path.lexists(path):
            raise LedgerError(f"there is no ledger at {name}: nothing has been uploaded with it yet.")
        if not path.is_file():
            raise LedgerError(f"{name} is not a file; give the ledger's file with --ledger.")
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        try:
            version = check(connection, name)
        except BaseException:
            connection.close()
            raise
        if not version:
            connection.close()
            raise LedgerError(f"the ledger {name} holds nothing yet: its first run did not begin.")
        return connection


def _open(path: Path) -> tuple[FileLock, sqlite3.Connection]:
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(path.with_name(path.name + ".lock"), timeout=0, mode=0o600, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise LedgerBusyError(_holder(path)) from None
        try:
            return lock, _connect(path)
        except BaseException:
            lock.release()
            raise


def _connect(path: Path) -> sqlite3.Connection:
    # Created by us and not by SQLite: readable by its owner only from the first moment on.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS)
    name = printable(str(path))
    try:
        check(connection, name)
        on_network = network_file_system(path) is not None
        connection.execute(f"PRAGMA journal_mode = {'TRUNCATE' if on_network else 'WAL'}")
        # FULL, not NORMAL: a commit must outlive a power cut, for it is what makes the next step permissible.
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection, name)
    except BaseException:
        connection.close()
        raise
    return connection


def _close(lock: FileLock, connection: sqlite3.Connection) -> None:
    connection.close()
    lock.release()


def _holder(path: Path) -> str:
    """Who holds the ledger, as well as its file can tell."""
    who = "another tileferry"
    with contextlib.suppress(LedgerError, sqlite3.Error):
        with contextlib.closing(connect_for_reading(path)) as connection:
            found = connection.execute(
                "SELECT process_id, manifest, datetime(started_at, 'unixepoch') FROM runs "
                "WHERE ended_at IS NULL ORDER BY id DESC LIMIT 1"
            ).fetchone()
        if found:
            manifest = printable(readable(found[1]))
            who = f"process {found[0]}, which has been uploading {manifest} since {found[2]} UTC,"
    return (
        f"the ledger {printable(str(path))} is held by {who} and one run at a time may use it; wait for it to end."
    )


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors (a full disk) have ended the transaction already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite or the disk say about the ledger at `path` into a `LedgerError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise _as_ledger_error(exc, path) from exc


def _as_ledger_error(error: BaseException, path: Path) -> LedgerError:
    if isinstance(error, LedgerError):
        return error
    name = printable(str(path))
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorname", "")
        for beginning, sentence in _SENTENCES.items():
            if code.startswith(beginning):
                return LedgerError(f"the ledger {name} {sentence}")
        return LedgerError(f"the ledger {name} cannot be used: {error}.")
    if isinstance(error, OSError):
        return LedgerError(f"the ledger {name} cannot be opened: {error.strerror}; give another --ledger.")
    return LedgerError(f"the ledger {name} cannot take this: {type(error).__name__}.")


_SENTENCES = {
    "SQLITE_FULL": "cannot grow, the disk is full: make room and run the same command again; nothing is lost.",
    "SQLITE_NOTADB": "is not a tileferry ledger; give another --ledger.",
    "SQLITE_CORRUPT": "is damaged: put back a copy of it, or give another --ledger and expect what it does not "
    "know to be uploaded again.",
    "SQLITE_READONLY": "is not writable; change its permissions or give another --ledger.",
    "SQLITE_CANTOPEN": "cannot be opened; check the permissions of its folder or give another --ledger.",
    "SQLITE_IOERR": "cannot be read or written, the disk reports an error: check the disk, then run the same "
    "command again.",
    "SQLITE_BUSY": "is locked by another program; close what has it open and run the same command again.",
    "SQLITE_ERROR": "is not a ledger that this tileferry can read; give another --ledger.",
}


def network_file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The kind of network file system that `path` lies on, if it does (known on Linux only)."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    # The kernel writes blanks and the like in mount points as octal escapes.
    kinds = {
        Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1])): fields[2]
        for fields in map(str.split, lines)
        if len(fields) > 2
    }
    home = path.resolve()
    for folder in (home, *home.parents):
        if folder in kinds:
            return kinds[folder] if kinds[folder] in NETWORK_FILE_SYSTEMS else None
    return None
