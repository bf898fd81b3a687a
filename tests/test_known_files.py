"""Which files need not be read again, and which must be."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tileferry.clock import Clock
from tileferry.ledger import Ledger, open_ledger
from tileferry.model import ImageKind, SourceImage

NOON = 1_700_000_000.0
IMAGE = SourceImage(
    path=Path("/pictures/a.jpg"),
    kind=ImageKind.JPEG,
    size=1000,
    digest="d" * 64,
    mtime_ns=1_600_000_000_000_000_000,
)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger in its first run, at noon."""
    path = tmp_path / "ledger.sqlite3"
    async with open_ledger(path, host="h", store_id=1, clock=Clock(wall=lambda: NOON)) as ledger:
        await ledger.begin_run("spring.csv")
        yield ledger


async def test_a_file_that_did_not_change_need_not_be_read(ledger: Ledger) -> None:
    """A claimed file is known by path, size and time; if one of them differs it is not."""
    await ledger.claim(2, "tile", IMAGE)
    assert await ledger.known(IMAGE.path, IMAGE.size, IMAGE.mtime_ns) == IMAGE
    assert await ledger.known(IMAGE.path, IMAGE.size + 1, IMAGE.mtime_ns) is None
    assert await ledger.known(IMAGE.path, IMAGE.size, IMAGE.mtime_ns - 1) is None
    assert await ledger.known(Path("/pictures/b.jpg"), IMAGE.size, IMAGE.mtime_ns) is None


async def test_a_file_that_changed_is_known_by_its_new_content_only(ledger: Ledger) -> None:
    """The newest look at a file replaces the older one, its kind included."""
    changed = replace(IMAGE, digest="e" * 64, size=1001, mtime_ns=IMAGE.mtime_ns + 1, kind=ImageKind.PNG)
    await ledger.claim(2, "tile", IMAGE)
    await ledger.claim(3, "tile", changed)
    assert await ledger.known(IMAGE.path, IMAGE.size, IMAGE.mtime_ns) is None
    assert await ledger.known(changed.path, changed.size, changed.mtime_ns) == changed


@pytest.mark.parametrize(
    ("age", "remembered"), [(-3600.0, False), (0.0, False), (1.9, False), (2.0, True), (3600.0, True)]
)
async def test_a_file_changed_just_now_is_read_again(ledger: Ledger, age: float, remembered: bool) -> None:
    """What was changed within the last two seconds (or in the future) may change again within the same time."""
    racy = replace(IMAGE, mtime_ns=int((NOON - age) * 1e9))
    await ledger.claim(2, "tile", racy)
    assert (await ledger.known(racy.path, racy.size, racy.mtime_ns) is not None) is remembered


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", "café.jpg".encode(), b"a\nb.jpg", b"\xff\xfe.jpg"])
async def test_files_whose_names_are_no_utf_8_are_known(ledger: Ledger, name: bytes) -> None:
    """A file name is bytes: whatever they are, the file is recognized again, and no other for it."""
    named = replace(IMAGE, path=Path(os.fsdecode(b"/pictures/" + name)))
    await ledger.claim(2, "tile", named)
    assert ascii(await ledger.known(named.path, named.size, named.mtime_ns)) == ascii(named)
    assert await ledger.known(IMAGE.path, IMAGE.size, IMAGE.mtime_ns) is None
