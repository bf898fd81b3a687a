"""The ledger's file: group commit, what is on disk when, and failures that are final."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest

from tileferry.errors import LedgerError
from tileferry.journal import Journal, Work, open_journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is to be."""
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """An open journal with a table to write in."""
    async with open_journal(path) as journal:
        await journal.write(lambda connection: connection.execute("CREATE TABLE notes (note NOT NULL)"))
        yield journal


@asynccontextmanager
async def doomed(path: Path, sentence: str = "the ledger") -> AsyncIterator[Journal]:
    """An open journal with a table to write in, which will fail, and then cannot be closed in silence either."""
    stack = AsyncExitStack()
    journal = await stack.enter_async_context(open_journal(path))
    try:
        await journal.write(lambda connection: connection.execute("CREATE TABLE notes (note NOT NULL)"))
        yield journal
    finally:
        with pytest.raises(LedgerError, match=sentence):
            await stack.aclose()


def note(text: object) -> Work[object]:
    """The work that adds one note."""
    return lambda connection: connection.execute("INSERT INTO notes VALUES (?)", (text,))


def notes(path: Path) -> list[object]:
    """The notes as another program sees them."""
    with closing(sqlite3.connect(path)) as connection:
        return [found for (found,) in connection.execute("SELECT note FROM notes ORDER BY rowid")]


async def record(journal: Journal) -> list[str]:
    """The statements that the journal executes from here on."""
    statements: list[str] = []
    await journal.write(lambda connection: connection.set_trace_callback(statements.append))
    statements.clear()
    return statements


async def fill_up(journal: Journal) -> None:
    """From here on the file has no room for more than a page or two, as on a full disk."""
    await journal.write(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchall())


TOO_MUCH = b"x" * 100_000


async def test_writes_that_come_together_share_a_transaction(journal: Journal) -> None:
    """A hundred concurrent writes take two transactions: the first one's, and one for all that came meanwhile."""
    statements = await record(journal)
    await asyncio.gather(*(journal.write(note(number)) for number in range(100)))
    assert statements.count("COMMIT") == 2
    assert notes(journal.path) == list(range(100))


async def test_a_write_returns_what_its_work_returned(journal: Journal) -> None:
    """Each of many writes in one transaction gets its own result."""

    def work(number: int) -> Work[int]:
        return lambda connection: connection.execute("SELECT ? * 2", (number,)).fetchone()[0]

    assert await asyncio.gather(*(journal.write(work(number)) for number in range(20))) == list(range(0, 40, 2))


async def test_a_write_is_on_disk_when_it_returns(journal: Journal, path: Path) -> None:
    """At the moment that a write returns, its transaction is over and another program sees the row."""
    statements = await record(journal)

    async def write_and_look(number: int) -> None:
        await journal.write(note(number))
        assert statements[-1] == "COMMIT"
        assert number in notes(path)

    for number in range(5):
        await write_and_look(number)


async def test_every_commit_is_forced_to_disk(journal: Journal) -> None:
    """Commits outlive a power cut: SQLite runs with full synchronization on a write-ahead log."""

    def settings(connection: sqlite3.Connection) -> list[object]:
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]

    assert await journal.write(settings) == [2, "wal"]


async def test_nothing_of_an_uncommitted_write_is_seen(journal: Journal, path: Path) -> None:
    """Other programs see nothing of a write while its transaction is open."""

    def work(connection: sqlite3.Connection) -> list[object]:
        connection.execute("INSERT INTO notes VALUES ('half')")
        return notes(path)

    assert await journal.write(work) == []
    assert notes(path) == ["half"]


async def test_posts_and_writes_keep_their_order(journal: Journal) -> None:
    """Changes are made in the order in which they were asked for, awaited or not."""
    waiting = []
    for number in range(0, 30, 3):
        journal.post(note(number))
        waiting.append(asyncio.ensure_future(journal.write(note(number + 1))))
        await asyncio.sleep(0)
        journal.post(note(number + 2))
    await asyncio.gather(*waiting)
    await journal.close()
    assert notes(journal.path) == list(range(30))


async def test_a_post_is_on_disk_before_the_journal_closes(path: Path) -> None:
    """Facts that nobody awaited are on disk once the journal is closed, those posted during a commit included."""
    async with open_journal(path) as journal:
        journal.post(lambda connection: connection.execute("CREATE TABLE notes (note)"))
        for number in range(10):
            journal.post(note(number))
    assert notes(path) == list(range(10))


async def test_an_error_in_the_body_still_writes_what_was_posted(path: Path) -> None:
    """A run that ends with an error leaves nothing unsaid in its ledger, and the error passes through."""

    async def run() -> None:
        async with open_journal(path) as journal:
            journal.post(lambda connection: connection.execute("CREATE TABLE notes (note)"))
            journal.post(note("last words"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run()
    assert notes(path) == ["last words"]


async def test_cancelling_a_waiter_does_no_harm(journal: Journal) -> None:
    """Whoever stops waiting takes nothing back: its write is made, and the others get their answers."""
    impatient = asyncio.ensure_future(journal.write(note("impatient")))
    queued = asyncio.ensure_future(journal.write(note("queued")))
    patient = asyncio.ensure_future(journal.write(note("patient")))
    await asyncio.sleep(0)
    impatient.cancel()
    queued.cancel()
    await patient
    with pytest.raises(asyncio.CancelledError):
        await impatient
    with pytest.raises(asyncio.CancelledError):
        await queued
    await journal.write(note("later"))
    assert notes(journal.path) == ["impatient", "queued", "patient", "later"]


async def test_a_cancelled_run_closes_its_journal_in_order(path: Path) -> None:
    """Cancellation passes through, what was posted is on disk, and the ledger can be opened again at once."""
    began = asyncio.Event()

    async def run() -> None:
        async with open_journal(path) as journal:
            await journal.write(lambda connection: connection.execute("CREATE TABLE notes (note)"))
            journal.post(note("on its way"))
            began.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(run())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with open_journal(path):
        assert notes(path) == ["on its way"]


async def test_a_second_cancellation_loses_nothing_that_was_posted(path: Path) -> None:
    """Whoever loses patience while the journal closes may end it, but what was said before is still recorded."""
    reached, slow = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def create(connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(reached.set)
        slow.wait(10)
        connection.execute("CREATE TABLE notes (note)")

    async def run() -> None:
        async with open_journal(path) as journal:
            journal.post(create)
            journal.post(note("last words"))
            await asyncio.Event().wait()

    task = asyncio.ensure_future(run())
    await reached.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    slow.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert notes(path) == ["last words"]


async def test_cancelling_the_opening_leaves_the_ledger_free(path: Path) -> None:
    """A run that is cancelled while it opens its ledger does not keep it."""
    task = asyncio.ensure_future(open_journal(path).__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with open_journal(path):
        pass


async def test_no_thread_outlives_the_journal(path: Path) -> None:
    """The writer's thread is gone when the journal is closed, also after a failure."""
    async with open_journal(path) as journal:
        assert (await journal.write(lambda _: threading.current_thread().name)).startswith("ledger")
    async with doomed(path) as journal:
        with pytest.raises(LedgerError):
            await journal.write(note(None))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("ledger")] == []


FULL = "cannot grow, the disk is full: make room and run the same command again; nothing is lost"


async def test_a_full_disk_is_said_so_and_final(path: Path) -> None:
    """When the disk is full the write says so, and so does every later one, even if there is room again."""
    async with doomed(path, FULL) as journal:
        await journal.write(note("before"))
        await fill_up(journal)
        for text in (TOO_MUCH, "small"):
            with pytest.raises(LedgerError, match=FULL):
                await journal.write(note(text))
    assert notes(path) == ["before"]


async def test_nothing_is_recorded_after_a_failure(path: Path) -> None:
    """What is posted after a failure is not recorded either: a ledger never tells the end without the middle."""
    async with doomed(path) as journal:
        with pytest.raises(LedgerError):
            await journal.write(note(None))
        journal.post(note("after"))
    assert notes(path) == []


async def test_a_failure_rejects_all_who_wait(path: Path) -> None:
    """A failing transaction rejects those in it, those who wait for the next one, and those who come later."""
    async with doomed(path, FULL) as journal:
        await fill_up(journal)
        texts = ("alone", TOO_MUCH, "with it", "and it")
        answers = await asyncio.gather(*(journal.write(note(text)) for text in texts), return_exceptions=True)
        assert [type(answer) for answer in answers[1:]] == [LedgerError] * 3
        with pytest.raises(LedgerError, match=FULL):
            await journal.write(note("later"))
    assert notes(path) == ["alone"]


async def test_a_failure_rejects_those_in_the_queue(path: Path) -> None:
    """Whoever waits for the transaction after the failing one is rejected too, and nothing of it is recorded."""
    async with doomed(path, FULL) as journal:
        await fill_up(journal)
        texts = (TOO_MUCH, "next", "next but one")
        answers = await asyncio.gather(*(journal.write(note(text)) for text in texts), return_exceptions=True)
        assert [type(answer) for answer in answers] == [LedgerError] * 3
    assert notes(path) == []


async def test_a_failed_post_shows_at_the_next_write(path: Path) -> None:
    """A fact that nobody awaited and that could not be recorded stops whoever wants to record the next one."""
    async with doomed(path, FULL) as journal:
        await fill_up(journal)
        journal.post(note(TOO_MUCH))
        with pytest.raises(LedgerError, match=FULL):
            await journal.write(note("small"))


async def test_a_failed_post_shows_at_the_end(path: Path) -> None:
    """If nothing is written after it, closing the journal says that a fact was not recorded."""
    async with doomed(path, FULL) as journal:
        await fill_up(journal)
        journal.post(note(TOO_MUCH))


async def test_a_failed_transaction_leaves_nothing_behind(path: Path) -> None:
    """Of the changes that share a transaction with one that fails, none is made."""
    async with doomed(path) as journal:
        first = asyncio.ensure_future(journal.write(note("first")))
        await asyncio.sleep(0)
        journal.post(note("good"))
        journal.post(note(None))
        await first
    assert notes(path) == ["first"]


async def test_a_mistake_of_the_program_is_a_ledger_error(path: Path) -> None:
    """Whatever goes wrong while recording ends in a `LedgerError` of one line, never in a bare exception."""

    def work(_connection: sqlite3.Connection) -> None:
        raise KeyError("a slip")

    async with doomed(path) as journal:
        with pytest.raises(LedgerError, match=r"cannot take this: KeyError") as caught:
            await journal.write(work)
    assert "\n" not in str(caught.value)
