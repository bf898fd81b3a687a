"""The ledger's file as it may be found: closed to us, damaged, somebody else's, far away, or not there."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tileferry import journal
from tileferry.errors import LedgerBusyError, LedgerError
from tileferry.journal import Work, connect_for_reading, network_file_system, open_journal

NOBODY = 65534


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


@pytest.fixture
def owned() -> Iterator[Path]:
    """A folder of somebody to whom permissions apply, which they do not to root."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() != 0:
            yield Path(name)
            return
        os.chown(name, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(0)


async def test_folder_and_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    """A missing folder is created for its owner alone, and so are the ledger and every file beside it."""
    path = tmp_path / "state" / "tileferry" / "ledger.sqlite3"
    before = os.umask(0)
    try:
        async with open_journal(path) as held:
            await held.write(lambda connection: connection.execute("CREATE TABLE notes (note)"))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {f"ledger.sqlite3{ending}": 0o600 for ending in ("", "-wal", "-shm", ".lock")}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def content(path: Path) -> bytes:
    """The file's bytes."""
    return path.read_bytes()


def _no_header(path: Path) -> None:
    path.write_bytes(b"\x00" * 100 + path.read_bytes()[100:])


def _other_bytes(path: Path, begin: int = 100) -> None:
    found = path.read_bytes()
    path.write_bytes(found[:begin] + b"\xa5" * (len(found) - begin))


def _picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" * 500)


def _other_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE runs (distance REAL)")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_no_header, "is not a tileferry ledger; give another --ledger."),
        (_other_bytes, "is damaged: put back a copy of it, or give another --ledger and expect what it does not "),
        (_picture, "is not a tileferry ledger; give another --ledger."),
        (_other_program, "is not a ledger but another program's database; give another --ledger."),
        (_folder, "cannot be opened: Is a directory; give another --ledger."),
    ],
)
async def test_an_unusable_file_is_a_clear_sentence(
    path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    """Whatever stands where the ledger should be, a person is told what it is and what to do; nothing is held."""
    await create(path)
    spoil(path)
    for _ in range(2):
        error = await refusal(path)
        assert str(error).startswith(f"the ledger {path} {sentence}")
        assert not isinstance(error, LedgerBusyError), "a failed opening keeps no lock"


async def test_damage_found_while_writing_is_a_clear_sentence(path: Path) -> None:
    """Damage behind the first pages shows when they are needed, and is named then."""
    async with open_journal(path) as held:
        await held.write(
            lambda connection: connection.executemany(
                "INSERT INTO buckets VALUES (?, 'u')", [(f"{number:0100}",) for number in range(2000)]
            )
        )
    _other_bytes(path, 12 * 4096)
    with pytest.raises(LedgerError, match="is damaged: put back a copy of it"):
        async with open_journal(path) as held:
            await held.write(
                lambda connection: connection.execute("SELECT sum(length(name)) FROM buckets").fetchall()
            )


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    """A database that belongs to another program is refused, not taken over, even if no table's name clashes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (address TEXT)")
    before = content(path)
    assert "is not a" in str(await refusal(path))
    assert content(path) == before


async def test_a_folder_that_may_not_be_written_is_a_clear_sentence(owned: Path) -> None:
    """In a folder where nothing may be created the ledger says that it cannot be opened, and why."""
    closed = owned / "closed"
    await asyncio.to_thread(closed.mkdir, 0o500)
    error = await refusal(closed / "ledger.sqlite3")
    assert "cannot be opened: Permission denied; give another --ledger." in str(error)


async def test_a_file_that_may_not_be_written_is_a_clear_sentence(owned: Path) -> None:
    """A ledger that is read-only says that it cannot be opened, and why."""
    path = owned / "ledger.sqlite3"
    await create(path)
    path.chmod(0o400)
    error = await refusal(path)
    assert "cannot be opened: Permission denied; give another --ledger." in str(error)


async def test_a_file_that_turns_read_only_is_a_clear_sentence(path: Path) -> None:
    """When writing is forbidden in the middle of a run, that is what the error says."""

    async def run() -> None:
        async with open_journal(path) as held:
            await held.write(lambda connection: connection.execute("PRAGMA query_only = ON"))
            await held.write(lambda connection: connection.execute("CREATE TABLE notes (note)"))

    with pytest.raises(LedgerError, match="is not writable; change its permissions or give another --ledger"):
        await run()


MOUNTS = """\
/dev/root / ext4 rw 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local xfs rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
me@server: /mnt/far fuse.sshfs rw 0 0
/dev/sdc1 /mnt/far/near ext4 rw 0 0
a line of another kind
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/ledger", None),
        ("/home/ann/ledger", "nfs4"),
        ("/home/ledger", "nfs4"),
        ("/home/local/ledger", None),
        ("/homes/ledger", None),
        ("/mnt/my share/ledger", "cifs"),
        ("/mnt/far/ledger", "fuse.sshfs"),
        ("/mnt/far/near/ledger", None),
    ],
)
def test_network_file_systems_are_recognized(tmp_path: Path, path: str, kind: str | None) -> None:
    """The innermost mount above a file tells whether it lies on a network file system."""
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert network_file_system(Path(path), mounts) == kind


def test_a_link_onto_a_network_file_system_is_recognized(tmp_path: Path) -> None:
    """What counts is where the file really lies, not the name of the link that leads there."""
    far = tmp_path / "far"
    far.mkdir()
    (tmp_path / "link").symlink_to(far)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/root / ext4 rw 0 0\nserver:/ {far} nfs rw 0 0\n")
    assert network_file_system(tmp_path / "link" / "ledger", mounts) == "nfs"


def test_a_system_without_mounts_has_no_network_file_systems(tmp_path: Path) -> None:
    """Where the system does not tell, nothing is assumed."""
    assert network_file_system(tmp_path / "ledger", tmp_path / "none") is None


def log_exists(path: Path) -> bool:
    """Whether there is a write-ahead log beside the file."""
    return path.with_name(path.name + "-wal").exists()


def add_bucket(name: str) -> Work[object]:
    """The work that adds one bucket."""
    return lambda connection: connection.execute("INSERT INTO buckets VALUES (?, '')", (name,))


async def test_on_a_network_file_system_no_memory_is_shared(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the ledger uses a rollback journal, also one that was created elsewhere, and works the same."""
    await create(path)
    monkeypatch.setattr(journal, "network_file_system", lambda _path: "nfs4")
    async with open_journal(path) as held:
        mode = await held.write(lambda connection: connection.execute("PRAGMA journal_mode").fetchone())
        assert mode == ("truncate",)
        await asyncio.gather(*(held.write(add_bucket(name)) for name in "abc"))
        with closing(connect_for_reading(path)) as reader:
            assert reader.execute("SELECT count(*) FROM buckets").fetchone() == (3,)
        assert not log_exists(path)
