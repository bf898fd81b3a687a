"""One row to its outcome where nothing need be transferred; no call is made for any of these."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from tileferry.api import Api
from tileferry.clock import Clock
from tileferry.delay import ResultDelay
from tileferry.events import Event, RowBegan
from tileferry.ferry import Ferry
from tileferry.history import open_history
from tileferry.ledger import Ledger, open_ledger
from tileferry.model import BadRow, ImageKind, Outcome, Rendition, Row, Slot, SourceImage, Status, StoredImage
from tileferry.settings import Settings
from tileferry.transfer import Means, Seat

STORED = StoredImage("eu", (Rendition("original", "a.png", 640, 480),))
SLOT = Slot("image-1", "https://upload.example/1")
PICTURE = b"\x89PNG\r\n\x1a\n and so on"
DIGEST = hashlib.sha256(PICTURE).hexdigest()
LONG_AGO = 1_600_000_000 * 10**9


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger in its first run."""
    async with open_ledger(tmp_path / "ledger", host="h", store_id=1, clock=Clock()) as ledger:
        await ledger.begin_run("spring.csv")
        yield ledger


@pytest.fixture
def told() -> list[Event]:
    """The events of a test."""
    return []


@pytest.fixture
def means(ledger: Ledger, told: list[Event]) -> Means:
    """Everything but an API: whoever calls it fails."""
    return Means(
        settings=Settings(store_id=1),
        api=cast("Api", None),
        ledger=ledger,
        clock=Clock(),
        delay=ResultDelay(1.0),
        tell=told.append,
    )


@pytest.fixture
def row(tmp_path: Path) -> Row:
    """A row whose picture is there and has not changed for long."""
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return Row(line=2, tile_id="tile", source="a.png", path=path, extra={"name": "Anna"})


def picture(row: Row) -> SourceImage:
    """The picture of `row` as an examination finds it."""
    return SourceImage(path=row.path, kind=ImageKind.PNG, size=len(PICTURE), digest=DIGEST, mtime_ns=LONG_AGO)


async def carry(means: Means, row: Row | BadRow) -> Outcome:
    """What becomes of the row; its place is free afterwards."""
    places = asyncio.Semaphore(1)
    await places.acquire()
    outcome = await Ferry(means, {"eu": "https://eu.example"}).carry(0, row, Seat(places))
    assert not places.locked()
    return replace(outcome, seconds=0.0)


async def earlier_run(ledger: Ledger, row: Row, *, confirmed: bool) -> None:
    """The row's image was uploaded in a run before this one."""
    upload_id = (await ledger.claim(row.line, row.tile_id, picture(row))).upload_id
    await ledger.reserved(upload_id, SLOT)
    ledger.sent(upload_id)
    if confirmed:
        await ledger.confirmed(upload_id, STORED)
    await ledger.begin_run("spring.csv")


UNCHANGED = Outcome(
    line=2,
    tile_id="tile",
    source="a.png",
    status=Status.UNCHANGED,
    image_id="image-1",
    url="https://eu.example/a.png",
    width=640,
    height=480,
    size=len(PICTURE),
    digest=DIGEST,
    extra={"name": "Anna"},
)


async def test_a_confirmed_image_is_unchanged(means: Means, row: Row, told: list[Event]) -> None:
    """It costs no call, and its row tells all that is known of the image."""
    await earlier_run(means.ledger, row, confirmed=True)
    assert await carry(means, row) == UNCHANGED
    assert told == [RowBegan(line=2, tile_id="tile", source="a.png")]


async def test_an_unchanged_file_is_not_read_again(means: Means, row: Row) -> None:
    """A file of known size and time is not even opened."""
    await earlier_run(means.ledger, row, confirmed=True)
    row.path.write_bytes(b"?" * len(PICTURE))
    os.utime(row.path, ns=(LONG_AGO, LONG_AGO))
    assert (await carry(means, row)).status is Status.UNCHANGED


async def test_a_moved_file_is_no_new_image(means: Means, row: Row) -> None:
    """Under another name the same content for the same tile is unchanged."""
    await earlier_run(means.ledger, row, confirmed=True)
    moved = replace(row, path=row.path.rename(row.path.with_name("b.png")), source="b.png")
    assert await carry(means, moved) == replace(UNCHANGED, source="b.png")


async def test_without_confirmation_a_sent_image_is_done(means: Means, row: Row) -> None:
    """Who does not want results confirmed gets the image's id, honestly without an address."""
    await earlier_run(means.ledger, row, confirmed=False)
    means = replace(means, settings=replace(means.settings, confirm=False))
    assert await carry(means, row) == replace(UNCHANGED, url="", width=None, height=None)


async def test_a_second_row_shares_the_image_of_the_first(means: Means, row: Row) -> None:
    """The same picture for the same tile, further down, is a duplicate with the same image id."""
    await earlier_run(means.ledger, row, confirmed=True)
    await carry(means, row)
    assert await carry(means, replace(row, line=9)) == replace(UNCHANGED, line=9, status=Status.DUPLICATE)


async def test_a_second_row_fails_with_the_first(means: Means, row: Row) -> None:
    """When the first did not get through the second does not either, and says where to look."""
    await means.ledger.failed((await means.ledger.claim(2, "tile", picture(row))).upload_id)
    outcome = await carry(means, replace(row, line=9))
    assert (outcome.status, outcome.image_id, outcome.reason) == (Status.FAILED, "", "duplicate of a failed row")
    assert "the same tile as line 2, which did not get through" in outcome.error


async def test_a_second_row_is_no_success_while_the_first_waits_in_vain(means: Means, row: Row) -> None:
    """When the first was sent but its result never showed, nobody may call the second one arrived."""
    upload_id = (await means.ledger.claim(2, "tile", picture(row))).upload_id
    await means.ledger.reserved(upload_id, SLOT)
    means.ledger.sent(upload_id)
    assert (await carry(means, replace(row, line=9))).status is Status.FAILED


async def test_a_bad_row_fails_with_its_problem(means: Means, told: list[Event]) -> None:
    """A row that cannot be understood is a failed row with what is wrong and all its cells."""
    bad = BadRow(line=3, tile_id="", source="a.png", problem="the tile is missing.", extra={"name": "Anna"})
    assert await carry(means, bad) == Outcome(
        line=3,
        tile_id="",
        source="a.png",
        status=Status.FAILED,
        error="the tile is missing.",
        reason="bad manifest row",
        extra={"name": "Anna"},
    )
    assert told == []


async def test_an_unfit_picture_fails_with_its_reason(means: Means, row: Row) -> None:
    """A file that is not there or is no picture is its row's failure, before any call."""
    row.path.write_text("<html>")
    assert (await carry(means, row)).reason == "not an image"
    row.path.unlink()
    assert (await carry(means, row)).reason == "file is missing"


async def test_every_outcome_is_recorded_as_told(means: Means, row: Row) -> None:
    """What a row's outcome says stands in the ledger too; the last word on a position counts."""
    await earlier_run(means.ledger, row, confirmed=True)
    await means.ledger.learned_buckets({"eu": "https://eu.example"})
    ferry = Ferry(means, {})
    pending = ferry.leave_pending(1, replace(row, line=3), "not begun.")
    await carry(means, row)
    await means.ledger.flush()
    with closing(open_history(means.ledger.path)) as past:
        first, second = past.outcomes(means.ledger.run_id)
    assert replace(first, seconds=0.0) == UNCHANGED
    assert second == pending
    assert (pending.status, pending.error, pending.reason) == (Status.PENDING, "not begun.", "not finished")
    assert pending.extra == {"name": "Anna"}
