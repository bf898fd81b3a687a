"""Texts from outside are opaque to the ledger: whatever they hold does no harm and comes back as it was."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tileferry.clock import Clock
from tileferry.events import Summary
from tileferry.history import open_history
from tileferry.ledger import Ledger, open_ledger
from tileferry.model import ImageKind, Outcome, Slot, SourceImage, Status
from tileferry.schema import readable, storable

NOON = 1_700_000_000.0
CLOCK = Clock(wall=lambda: NOON)
SLOT = Slot("image-1", "https://upload.example/1?signature=secret-1")
IMAGE = SourceImage(
    path=Path("/pictures/a.jpg"),
    kind=ImageKind.JPEG,
    size=1000,
    digest="d" * 64,
    mtime_ns=1_600_000_000_000_000_000,
)

ODD_TEXTS = [
    pytest.param("", id="nothing"),
    pytest.param("half a pair \ud83d of signs", id="lone surrogate"),
    pytest.param("NUL \x00 in the middle", id="NUL"),
    pytest.param("🚢⛴️ née Ålesund", id="emoji"),
    pytest.param("x" * 10_000, id="long"),
    pytest.param("'; DROP TABLE uploads; --", id="SQL"),
    pytest.param("00123", id="zeros"),
    pytest.param("1e5", id="exponent"),
    pytest.param("\x1b[31mred\r\n\u202egnp", id="controls"),
]


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger in its first run."""
    async with open_ledger(tmp_path / "ledger.sqlite3", host="h", store_id=1, clock=CLOCK) as ledger:
        await ledger.begin_run("spring.csv")
        yield ledger


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_every_text_survives_being_stored(text: str) -> None:
    """What is stored is read back the same, proper Unicode or not."""
    assert ascii(readable(storable(text))) == ascii(text)


@pytest.mark.parametrize("text", ODD_TEXTS)
async def test_odd_texts_do_no_harm_as_tile_ids_and_image_ids(ledger: Ledger, text: str) -> None:
    """Ids and URLs are opaque: whatever they hold comes back unchanged and reaches no other image."""
    plain = await ledger.claim(2, "tile", IMAGE)
    claim = await ledger.claim(3, text, IMAGE)
    await ledger.reserved(claim.upload_id, Slot(text, f"https://u.example/{text}"))
    again = await ledger.claim(4, text, IMAGE)
    assert again.upload_id != plain.upload_id
    assert again.first_line == 3
    assert again.slot is not None
    assert ascii(again.slot.image_id) == ascii(text)
    assert ascii(again.slot.url) == ascii(f"https://u.example/{text}")


@pytest.mark.parametrize("text", ODD_TEXTS)
async def test_odd_texts_do_no_harm_in_a_row(tmp_path: Path, text: str) -> None:
    """Every text of an outcome, the reason of a failure and the further columns included, is kept as it was."""
    path = tmp_path / "ledger.sqlite3"
    odd = Outcome(
        line=2,
        tile_id=text,
        source=text,
        status=Status.FAILED,
        error=text,
        reason=text,
        extra={text: text},
    )
    async with open_ledger(path, host="h", store_id=1, clock=CLOCK) as ledger:
        await ledger.begin_run(text, [text])
        ledger.row_ended(0, odd, None)
    with closing(open_history(path)) as past:
        assert ascii(list(past.outcomes(1))) == ascii([odd])
        (run,) = past.runs()
    assert ascii((run.manifest, run.extra_columns)) == ascii((text, (text,)))


async def test_a_ledgers_own_name_may_be_no_utf_8(tmp_path: Path) -> None:
    """A run begins, ends and is read again in a ledger whose path is no proper Unicode."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.sqlite3"))
    async with open_ledger(path, host="h", store_id=7, clock=CLOCK) as ledger:
        await ledger.begin_run("spring.csv")
        await ledger.end_run(Summary(run_id=1, store_id=7, ledger=path))
    with closing(open_history(path)) as past:
        assert past.runs()[0].ended_at == NOON


async def test_upload_urls_are_in_no_repr(ledger: Ledger) -> None:
    """A signed URL is a secret: neither a slot nor a claim shows it."""
    claim = await ledger.claim(2, "tile", IMAGE)
    await ledger.reserved(claim.upload_id, SLOT)
    await ledger.begin_run("spring.csv")
    found = await ledger.claim(2, "tile", IMAGE)
    assert found.slot is not None
    assert found.slot.url == SLOT.url
    for text in (repr(found), str(found), repr(found.slot), f"{found.slot}"):
        assert "signature" not in text
        assert "image-1" in text
