"""What the ledger knows of each image, fact by fact, and that no text or clock confuses it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from tileferry.clock import Clock
from tileferry.errors import LedgerError
from tileferry.events import Call, Summary
from tileferry.ledger import LEASES_KEPT, RUNS_KEPT, Claim, Ledger, open_ledger
from tileferry.model import ImageKind, Lease, Outcome, Rendition, Slot, SourceImage, Stage, Status, StoredImage

NOON = 1_700_000_000.0
SLOT = Slot("image-1", "https://upload.example/1?signature=secret-1")
IMAGE = SourceImage(
    path=Path("/pictures/a.jpg"),
    kind=ImageKind.JPEG,
    size=1000,
    digest="d" * 64,
    mtime_ns=1_600_000_000_000_000_000,
)
STORED = StoredImage("eu", (Rendition("original", "a.jpg", 640, 480), Rendition("webp", "a.webp", None, None)))


class Days:
    """The time of day as a test sets it."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def days() -> Days:
    """The time of day that the ledgers of a test see."""
    return Days()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is to be."""
    return tmp_path / "ledger.sqlite3"


@asynccontextmanager
async def new_run(path: Path, days: Days) -> AsyncIterator[Ledger]:
    """The ledger in a run of its own."""
    async with open_ledger(path, host="api.example", store_id=7, clock=Clock(wall=days)) as ledger:
        await ledger.begin_run("spring.csv")
        yield ledger


@pytest.fixture
async def ledger(path: Path, days: Days) -> AsyncIterator[Ledger]:
    """A ledger in its first run."""
    async with new_run(path, days) as ledger:
        yield ledger


async def select(ledger: Ledger, query: str) -> list[tuple[object, ...]]:
    """What is in the ledger's file, all that was said so far included."""
    await ledger.flush()
    with closing(sqlite3.connect(ledger.path)) as connection:
        return connection.execute(query).fetchall()


async def next_claim(ledger: Ledger, *, force: bool = False) -> Claim:
    """The claim of the same image in the next run."""
    await ledger.begin_run("spring.csv")
    return await ledger.claim(2, "tile", IMAGE, force=force)


async def test_a_run_is_recorded_when_it_begins(ledger: Ledger) -> None:
    """Start, process, manifest and further columns are known from the beginning; the end is open."""
    run_id = await ledger.begin_run("autumn.csv", ["Name", "größe"])
    found = await select(ledger, "SELECT id, started_at, ended_at, process_id, manifest, extra_columns FROM runs")
    assert found[1:] == [(run_id, NOON, None, os.getpid(), "autumn.csv", '["Name", "gr\\u00f6\\u00dfe"]')]
    assert ledger.run_id == run_id == 2


async def test_a_run_that_ends_leaves_its_figures(ledger: Ledger, days: Days) -> None:
    """The end's time and the summary are in the ledger when a run is over, and only in that run."""
    await ledger.begin_run("autumn.csv")
    days.now += 60
    summary = Summary(
        run_id=2, store_id=7, ledger=ledger.path, statuses={Status.UPLOADED: 3}, calls={Call.RESERVE: 4}
    )
    await ledger.end_run(summary)
    (first, second) = await select(ledger, "SELECT ended_at, summary FROM runs ORDER BY id")
    assert first == (None, None)
    assert second[0] == NOON + 60
    assert '"statuses": {"uploaded": 3}' in str(second[1])
    assert '"calls": {"reserve": 4}' in str(second[1])


async def test_the_rows_of_old_runs_make_room_but_not_their_images(ledger: Ledger) -> None:
    """The rows of a few runs are kept; what is known of the images is kept for ever."""
    claim = await ledger.claim(2, "tile", IMAGE)
    await ledger.confirmed(claim.upload_id, STORED)
    for _ in range(RUNS_KEPT + 2):
        await ledger.begin_run("spring.csv")
        ledger.row_ended(0, outcome(), claim.upload_id)
    kept = await select(ledger, "SELECT run_id FROM rows ORDER BY run_id")
    assert kept == [(run_id,) for run_id in range(ledger.run_id - RUNS_KEPT + 1, ledger.run_id + 1)]
    assert (await ledger.claim(2, "tile", IMAGE)).stage is Stage.CONFIRMED


async def test_a_new_image_is_claimed_with_nothing_known(ledger: Ledger) -> None:
    """Nobody asked for it before: there is no slot, no image and no earlier line."""
    claim = await ledger.claim(2, "tile", IMAGE)
    assert claim == Claim(upload_id=claim.upload_id, stage=Stage.CLAIMED)


async def test_the_identity_of_an_image_is_tile_and_content(ledger: Ledger) -> None:
    """Another tile or another content is another image; another file name or time is not."""
    moved = replace(IMAGE, path=Path("/elsewhere/b.jpg"), mtime_ns=1)
    changed = replace(IMAGE, digest="e" * 64)
    claims = [
        await ledger.claim(2, "tile", IMAGE),
        await ledger.claim(3, "other", IMAGE),
        await ledger.claim(4, "tile", changed),
        await ledger.claim(5, "tile", moved),
    ]
    assert [claim.first_line for claim in claims] == [None, None, None, 2]
    assert len({claim.upload_id for claim in claims}) == 3


async def test_an_image_left_with_a_slot_is_taken_up_with_it(ledger: Ledger, days: Days) -> None:
    """After a crash the next run knows image id, upload URL and how long ago the slot was reserved."""
    claim = await ledger.claim(2, "tile", IMAGE)
    await ledger.reserved(claim.upload_id, SLOT)
    days.now += 30
    assert await next_claim(ledger) == Claim(
        upload_id=claim.upload_id, stage=Stage.RESERVED, image_id="image-1", slot=SLOT, age=30.0
    )


async def test_a_reservation_is_on_disk_when_it_returns(ledger: Ledger) -> None:
    """Before a body may leave, another program can read the image's id and upload URL in the file."""
    claim = await ledger.claim(2, "tile", IMAGE)
    await ledger.reserved(claim.upload_id, SLOT)
    with closing(sqlite3.connect(ledger.path)) as connection:
        found = connection.execute("SELECT image_id, url, stage FROM uploads JOIN slots ON slots.id = slot_id")
        assert found.fetchall() == [(SLOT.image_id, SLOT.url, "reserved")]


async def test_an_image_left_as_sent_counts_from_when_it_was_sent(ledger: Ledger, days: Days) -> None:
    """The age of an accepted body is counted from its acceptance, not from the reservation."""
    claim = await ledger.claim(2, "tile", IMAGE)
    await ledger.reserved(claim.upload_id, SLOT)
    days.now += 100
    ledger.sent(claim.upload_id)
    days.now += 20
    assert await next_claim(ledger) == Claim(
        upload_id=claim.upload_id, stage=Stage.SENT, image_id="image-1", slot=SLOT, age=20.0
    )


async def test_a_confirmed_image_is_known_and_its_upload_urls_are_gone(ledger: Ledger) -> None:
    """What the API told of it is kept, the id of every slot too, but no signed URL."""
    claim = await ledger.claim(2, "tile", IMAGE)
    await ledger.reserved(claim.upload_id, Slot("image-0", "https://upload.example/0"))
    await ledger.reserved(claim.upload_id, SLOT)
    await ledger.confirmed(claim.upload_id, STORED)
    assert await next_claim(ledger) == Claim(
        upload_id=claim.upload_id, stage=Stage.CONFIRMED, image_id="image-1", stored=STORED
    )
    assert await select(ledger, "SELECT image_id, url FROM slots") == [("image-0", None), ("image-1", None)]


async def test_confirming_one_image_leaves_the_others_alone(ledger: Ledger) -> None:
    """A fact about one image touches neither the stage nor the slot of another."""
    first = await ledger.claim(2, "tile", IMAGE)
    second = await ledger.claim(3, "other", IMAGE)
    await ledger.reserved(first.upload_id, SLOT)
    await ledger.reserved(second.upload_id, Slot("image-2", "https://upload.example/2"))
    await ledger.confirmed(second.upload_id, STORED)
    claim = await next_claim(ledger)
    assert (claim.stage, claim.slot) == (Stage.RESERVED, SLOT)


async def test_a_lost_slot_is_kept_in_mind_but_not_used_again(ledger: Ledger) -> None:
    """A refused slot's id stays in the ledger, its URL does not, and the image needs a new one."""
    claim = await ledger.claim(2, "tile", IMAGE)
    await ledger.reserved(claim.upload_id, SLOT)
    await ledger.slot_lost(claim.upload_id)
    assert await next_claim(ledger) == Claim(upload_id=claim.upload_id, stage=Stage.CLAIMED)
    assert await select(ledger, "SELECT image_id, url, refused_at FROM slots") == [("image-1", None, NOON)]


async def test_a_failed_image_keeps_its_slot(ledger: Ledger, days: Days) -> None:
    """The next run asks about the slot that a failed image had, instead of reserving another."""
    claim = await ledger.claim(2, "tile", IMAGE)
    await ledger.reserved(claim.upload_id, SLOT)
    await ledger.failed(claim.upload_id)
    days.now += 5
    assert await next_claim(ledger) == Claim(
        upload_id=claim.upload_id, stage=Stage.FAILED, image_id="image-1", slot=SLOT, age=5.0
    )


async def test_a_second_row_of_the_same_run_learns_of_the_first(ledger: Ledger) -> None:
    """It gets the line of the first and the image's state as it is then; a third one too."""
    first = await ledger.claim(2, "tile", IMAGE)
    assert (await ledger.claim(9, "tile", IMAGE)).first_line == 2
    await ledger.reserved(first.upload_id, SLOT)
    await ledger.confirmed(first.upload_id, STORED)
    third = await ledger.claim(12, "tile", IMAGE, force=True)
    assert (third.first_line, third.stage, third.stored) == (2, Stage.CONFIRMED, STORED)


async def test_a_row_of_an_earlier_run_is_no_first_row(ledger: Ledger) -> None:
    """The same row in the next run is not a duplicate of itself."""
    await ledger.claim(2, "tile", IMAGE)
    assert (await next_claim(ledger)).first_line is None
    assert (await ledger.claim(8, "tile", IMAGE)).first_line == 2


async def test_force_makes_a_confirmed_image_new(ledger: Ledger) -> None:
    """With force a confirmed image is uploaded again; the id of the one that exists stays in the ledger."""
    claim = await ledger.claim(2, "tile", IMAGE)
    await ledger.reserved(claim.upload_id, SLOT)
    await ledger.confirmed(claim.upload_id, STORED)
    assert await next_claim(ledger, force=True) == Claim(upload_id=claim.upload_id, stage=Stage.CLAIMED)
    assert await next_claim(ledger) == Claim(upload_id=claim.upload_id, stage=Stage.CLAIMED)
    assert await select(ledger, "SELECT image_id FROM slots") == [("image-1",)]


async def test_force_gives_up_a_slot_that_is_used_without_an_image(ledger: Ledger) -> None:
    """A row told "--force uploads it anew" (slot used, image not shown) gets a new slot with force."""
    claim = await ledger.claim(2, "tile", IMAGE)
    await ledger.reserved(claim.upload_id, SLOT)
    assert (await next_claim(ledger)).slot == SLOT
    assert await next_claim(ledger, force=True) == Claim(upload_id=claim.upload_id, stage=Stage.CLAIMED)


@pytest.mark.parametrize("fact", ["claimed", "reserved", "sent"])
async def test_a_clock_that_was_set_back_makes_no_negative_age(ledger: Ledger, days: Days, fact: str) -> None:
    """An image from the future is zero seconds old."""
    claim = await ledger.claim(2, "tile", IMAGE)
    if fact != "claimed":
        await ledger.reserved(claim.upload_id, SLOT)
    if fact == "sent":
        ledger.sent(claim.upload_id)
    days.now -= 86_400
    assert (await next_claim(ledger)).age == 0.0


async def test_buckets_are_known_as_told_last(ledger: Ledger) -> None:
    """A bucket's new address replaces the old one; those not mentioned stay."""
    await ledger.learned_buckets({"eu": "https://eu.example", "us": "https://us.example"})
    await ledger.learned_buckets({"eu": "https://eu2.example"})
    await ledger.learned_buckets({})
    assert await select(ledger, "SELECT name, url FROM buckets ORDER BY name") == [
        ("eu", "https://eu2.example"),
        ("us", "https://us.example"),
    ]


def outcome(**changes: object) -> Outcome:
    """An outcome like many."""
    plain = Outcome(
        line=2,
        tile_id="tile",
        source="a.jpg",
        status=Status.UPLOADED,
        size=1000,
        digest=IMAGE.digest,
        attempts=3,
        seconds=1.25,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


async def test_a_row_that_ends_twice_has_its_last_outcome(ledger: Ledger) -> None:
    """One row of a manifest has one outcome, the latest; rows on the same line are kept apart by position."""
    ledger.row_ended(0, outcome(status=Status.PENDING, error="stopped"), None)
    ledger.row_ended(0, outcome(), None)
    ledger.row_ended(1, outcome(), None)
    found = await select(ledger, "SELECT position, line, status, error FROM rows ORDER BY position")
    assert found == [(0, 2, "uploaded", ""), (1, 2, "uploaded", "")]


async def test_calls_of_the_last_minutes_are_known_to_the_next_run(path: Path, days: Days) -> None:
    """What may have been used of the budget is on disk before it is used, and forgotten when it is of no use."""
    async with new_run(path, days) as ledger:
        await ledger.lease(Lease(10, NOON + 5))
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT calls FROM leases").fetchall() == [(10,)]
        await ledger.lease(Lease(20, NOON + 60))
    days.now += 10 + LEASES_KEPT
    async with new_run(path, days) as ledger:
        assert await ledger.leases() == [Lease(20, NOON + 60)]
        days.now += 60
        await ledger.lease(Lease(30, days.now + 5))
        assert await ledger.leases() == [Lease(30, days.now + 5)]


async def test_flush_puts_everything_on_disk(ledger: Ledger) -> None:
    """After a flush all that was said, awaited or not, is in the file."""
    for position in range(50):
        ledger.row_ended(position, outcome(), None)
    await ledger.flush()
    with closing(sqlite3.connect(ledger.path)) as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (50,)


@pytest.mark.parametrize(("host", "store_id"), [("other.example", 7), ("api.example", 8)])
async def test_another_shops_ledger_is_refused(path: Path, days: Days, host: str, store_id: int) -> None:
    """A ledger belongs to one store on one host; the refusal names both, and the ledger stays usable."""
    async with new_run(path, days):
        pass
    with pytest.raises(LedgerError) as caught:
        async with open_ledger(path, host=host, store_id=store_id, clock=Clock(wall=days)):
            pass
    assert f"belongs to store 7 on api.example, not to store {store_id} on {host}; give another" in str(
        caught.value
    )
    async with new_run(path, days) as ledger:
        assert ledger.run_id == 2
