"""What the ledger tells afterwards: runs, stages, and outcomes in manifest order."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tileferry.clock import Clock
from tileferry.errors import LedgerError
from tileferry.events import Summary
from tileferry.history import PastRun, open_history
from tileferry.journal import open_journal
from tileferry.ledger import Ledger, open_ledger
from tileferry.model import ImageKind, Outcome, Rendition, Slot, SourceImage, Stage, Status, StoredImage

STORED = StoredImage(
    "eu", (Rendition("webp-200x200", "s/a.webp", 200, 150), Rendition("original", "/s/a.jpg", 640, 480))
)


class Ticks:
    """A time of day that moves on by a minute with each look at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 60
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is to be."""
    return tmp_path / "ledger.sqlite3"


def image(digest: str) -> SourceImage:
    """A picture with this content."""
    return SourceImage(path=Path("a.jpg"), kind=ImageKind.JPEG, size=1000, digest=digest, mtime_ns=0)


async def bring_to(ledger: Ledger, stage: Stage, digest: str) -> int:
    """An image that came as far as `stage`."""
    upload_id = (await ledger.claim(2, "tile", image(digest))).upload_id
    if stage is not Stage.CLAIMED:
        await ledger.reserved(upload_id, Slot(f"id-{digest}", "https://upload.example/"))
    if stage is Stage.SENT:
        ledger.sent(upload_id)
    if stage is Stage.CONFIRMED:
        await ledger.confirmed(upload_id, STORED)
    if stage is Stage.FAILED:
        await ledger.failed(upload_id)
    return upload_id


def outcome(position: int, status: Status, digest: str) -> Outcome:
    """What the run said of a row when it ended."""
    return Outcome(
        line=position + 2,
        tile_id="tile",
        source=f"{position}.jpg",
        status=status,
        size=1000,
        digest=digest,
        attempts=position,
        seconds=0.5,
        error="no such tile." if status in {Status.FAILED, Status.PENDING} else "",
        reason="tile not found" if status in {Status.FAILED, Status.PENDING} else "",
        extra={"name": f"picture {position}"},
    )


@pytest.fixture(name="ledger")
async def two_runs(path: Path) -> None:
    """Two runs: the first ended, the second did not; one row of each status, ended out of order."""
    async with open_ledger(path, host="api.example", store_id=7, clock=Clock(wall=Ticks())) as ledger:
        await ledger.begin_run("spring.csv", ["name"])
        await ledger.learned_buckets({"eu": "https://old.example"})
        uploads = {stage: await bring_to(ledger, stage, stage.value) for stage in Stage}
        rows = [
            (Status.UPLOADED, Stage.CONFIRMED),
            (Status.FAILED, Stage.FAILED),
            (Status.DUPLICATE, Stage.CONFIRMED),
            (Status.PENDING, Stage.RESERVED),
            (Status.UPLOADED, Stage.SENT),
            (Status.UNCHANGED, Stage.CONFIRMED),
        ]
        for position, (status, stage) in reversed(list(enumerate(rows))):
            ledger.row_ended(position, outcome(position, status, stage.value), uploads[stage])
        ledger.row_ended(6, Outcome(line=8, tile_id="", source="", status=Status.FAILED, error="no tile."), None)
        await ledger.end_run(Summary(run_id=1, store_id=7, ledger=path))
        await ledger.begin_run("spring.csv")
        ledger.row_ended(0, outcome(0, Status.UNCHANGED, "confirmed"), uploads[Stage.CONFIRMED])
        await ledger.learned_buckets({"eu": "https://new.example"})


@pytest.mark.usefixtures("ledger")
def test_the_history_knows_whose_it_is(path: Path) -> None:
    """Host and store are told as the ledger was made for them."""
    with closing(open_history(path)) as past:
        assert past.origin() == ("api.example", 7)


@pytest.mark.usefixtures("ledger")
def test_the_history_counts_images_by_stage(path: Path) -> None:
    """Each image is counted once, however many rows and runs asked for it."""
    with closing(open_history(path)) as past:
        assert past.stages() == dict.fromkeys(Stage, 1)


@pytest.mark.usefixtures("ledger")
def test_runs_are_told_newest_first(path: Path) -> None:
    """Each run has its times, manifest, columns and its rows by status; one that goes on has no end."""
    with closing(open_history(path)) as past:
        second, first = past.runs()
        assert past.runs(limit=1) == [second]
    assert first == PastRun(
        run_id=1,
        started_at=60.0,
        ended_at=first.ended_at,
        process_id=first.process_id,
        manifest="spring.csv",
        extra_columns=("name",),
        statuses={
            Status.UPLOADED: 2,
            Status.FAILED: 2,
            Status.DUPLICATE: 1,
            Status.PENDING: 1,
            Status.UNCHANGED: 1,
        },
    )
    assert first.ended_at is not None
    assert first.ended_at > first.started_at
    assert (second.ended_at, second.statuses) == (None, {Status.UNCHANGED: 1})


@pytest.mark.usefixtures("ledger")
def test_outcomes_are_told_in_manifest_order(path: Path) -> None:
    """In whatever order rows ended, they come out as in the manifest, with all that was said of them."""
    with closing(open_history(path)) as past:
        found = list(past.outcomes(1))
    assert [(row.line, row.status) for row in found] == [
        (2, Status.UPLOADED),
        (3, Status.FAILED),
        (4, Status.DUPLICATE),
        (5, Status.PENDING),
        (6, Status.UPLOADED),
        (7, Status.UNCHANGED),
        (8, Status.FAILED),
    ]
    assert found[1] == outcome(1, Status.FAILED, "failed")
    assert found[3] == outcome(3, Status.PENDING, "reserved")


@pytest.mark.usefixtures("ledger")
def test_an_image_in_the_store_has_its_address_of_today(path: Path) -> None:
    """Id, size in pixels and the URL come with every row whose image is there, by the buckets as known today."""
    with closing(open_history(path)) as past:
        for row in list(past.outcomes(1)):
            if row.digest == "confirmed":
                assert (row.image_id, row.width, row.height) == ("id-confirmed", 640, 480)
                assert row.url == "https://new.example/s/a.jpg"


@pytest.mark.usefixtures("ledger")
def test_an_image_sent_but_not_confirmed_has_an_id_and_no_address(path: Path) -> None:
    """What was sent honestly counts as uploaded, but where it is to be found nobody has told."""
    with closing(open_history(path)) as past:
        row = list(past.outcomes(1))[4]
    assert (row.image_id, row.url, row.width, row.height) == ("id-sent", "", None, None)


@pytest.mark.usefixtures("ledger")
def test_a_row_that_did_not_get_through_has_no_address(path: Path) -> None:
    """Failed and pending rows show neither id nor URL, even when a slot was reserved for them."""
    with closing(open_history(path)) as past:
        rows = [row for row in past.outcomes(1) if row.status in {Status.FAILED, Status.PENDING}]
    assert [(row.image_id, row.url, row.width) for row in rows] == [("", "", None)] * 3


async def test_a_failed_row_shows_no_image_that_came_later(path: Path) -> None:
    """An image that failed in one run and got through in the next is no success of the first."""
    async with open_ledger(path, host="h", store_id=1, clock=Clock(wall=Ticks())) as ledger:
        await ledger.begin_run("spring.csv")
        await ledger.learned_buckets({"eu": "https://eu.example"})
        upload_id = await bring_to(ledger, Stage.FAILED, "d")
        ledger.row_ended(0, outcome(0, Status.FAILED, "d"), upload_id)
        await ledger.begin_run("spring.csv")
        await bring_to(ledger, Stage.CONFIRMED, "d")
    with closing(open_history(path)) as past:
        assert list(past.outcomes(1)) == [outcome(0, Status.FAILED, "d")]


async def test_a_bucket_that_nobody_named_makes_no_half_address(path: Path) -> None:
    """Without the bucket's address the URL stays empty; all else is told."""
    async with open_ledger(path, host="h", store_id=1, clock=Clock(wall=Ticks())) as ledger:
        await ledger.begin_run("spring.csv")
        ledger.row_ended(0, outcome(0, Status.UPLOADED, "d"), await bring_to(ledger, Stage.CONFIRMED, "d"))
    with closing(open_history(path)) as past:
        (row,) = past.outcomes(1)
    assert (row.image_id, row.url, row.width) == ("id-d", "", 640)


@pytest.mark.usefixtures("ledger")
def test_an_unknown_run_has_no_rows(path: Path) -> None:
    """Asking for a run that never was yields nothing."""
    with closing(open_history(path)) as past:
        assert list(past.outcomes(99)) == []


async def test_the_history_is_open_to_readers_during_a_run(path: Path) -> None:
    """What is recorded so far can be read while the run that records it goes on."""
    async with open_ledger(path, host="h", store_id=1, clock=Clock(wall=Ticks())) as ledger:
        await ledger.begin_run("spring.csv")
        ledger.row_ended(0, outcome(0, Status.PENDING, ""), None)
        await ledger.flush()
        with closing(open_history(path)) as past:
            rows = past.outcomes(1)
            assert next(rows).line == 2
            ledger.row_ended(1, outcome(1, Status.PENDING, ""), None)
            await ledger.flush()
            assert past.stages() == {}
            assert past.runs()[0].statuses == {Status.PENDING: 2}


def test_a_history_of_nothing_is_a_clear_sentence(path: Path) -> None:
    """Where no ledger is, a person is told that nothing was uploaded with it yet."""
    with pytest.raises(LedgerError, match=r"there is no ledger at .*: nothing has been uploaded with it yet"):
        open_history(path)


async def test_a_ledger_that_never_learned_its_store_is_a_clear_sentence(path: Path) -> None:
    """A run that died between making the file and writing into it leaves a ledger that can still be asked."""
    async with open_journal(path):
        pass
    with pytest.raises(LedgerError), closing(open_history(path)) as past:
        past.origin()


@pytest.mark.usefixtures("ledger")
def test_a_ledger_of_a_newer_version_is_not_misread(path: Path) -> None:
    """A file that a newer tileferry wrote is refused for reading as it is for writing."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="newer tileferry"):
        open_history(path)


@pytest.mark.usefixtures("ledger")
def test_damage_found_while_reading_is_a_clear_sentence(path: Path) -> None:
    """A damaged file is a `LedgerError` for whoever reads it, never SQLite's own error."""
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'rows'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = b"\xa5" * size
    path.write_bytes(content)
    with closing(open_history(path)) as past, pytest.raises(LedgerError, match="is damaged"):
        list(past.outcomes(1))
