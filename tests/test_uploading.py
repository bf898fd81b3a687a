"""The main job: what is in the files is in the shop, once, and a second run costs next to nothing."""

from __future__ import annotations

import asyncio
import os
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from shop import EMULATOR, Shop, identities, identity, open_shop, statuses
from tileferry import BadRow, Outcome, Pace, Row, Status, images
from tileferry.emulator import Fault, FaultKind
from tileferry.events import Call, CallEnded, Event, RowEnded
from tileferry.model import MAX_IMAGE_BYTES, ImageKind, SourceImage
from tileferry.pool import ROWS_AT_ONCE

LARGE = images.CHUNK_BYTES * 2 + 4321
"""Bytes of a picture that is streamed."""

ODD_IDS = (
    *("a/b", "a+b", "100%", "why?", "a#b", "two words", "Überschrift", "日本語", "..", ".", "a%2Fb", "a&b=c;d"),
    *('"quoted"', "back\\slash", " padded ", "😀", "tile:1@x", "~", "line\nbreak"),
)

ODD_NAMES = (
    *('say "hi".jpg', "new\nline.jpg", "carriage\rreturn.jpg", "Müller & Söhne; a=b.jpg", "日本の写真.jpg"),
    *("percent%22.jpg", "back\\slash.jpg", "long" + "é" * 100 + ".jpg", "no ending", ".hidden", "😀.jpg"),
    os.fsdecode(b"latin-\xe9.jpg"),
)


async def test_every_kind_and_size_arrives_byte_for_byte(tmp_path: Path) -> None:
    """All four kinds, small ones and streamed ones, are stored with their files' digests, media types and ids."""
    async with open_shop(tmp_path) as shop:
        sizes = (None, images.CHUNK_BYTES, images.CHUNK_BYTES + 1, LARGE)
        rows = [
            shop.picture(f"{kind.name}-{size}", tile=kind.name, kind=kind, seed=seed, size=size, line=seed)
            for seed, (kind, size) in enumerate(((kind, size) for kind in ImageKind for size in sizes), 2)
        ]
        outcomes = await shop.upload(rows)
        assert statuses(outcomes) == [Status.UPLOADED] * len(rows)
        assert shop.stored() == identities(rows)
        truth = {image.image_id: image for image in shop.emulator.truth().images}
        for row, outcome in zip(rows, outcomes, strict=True):
            image = truth[outcome.image_id]
            assert (image.tile, image.digest, image.size) == (row.tile_id, outcome.digest, outcome.size)
            assert image.kind == ImageKind[row.tile_id].value
            assert (outcome.width, outcome.height) == (64, 64)
        assert shop.calls() == {"buckets": 1, "reserve": 16, "upload": 16, "result": shop.calls()["result"]}


async def test_the_largest_picture_is_taken(tmp_path: Path) -> None:
    """A picture of exactly 20 MB is uploaded; one byte more is refused before any call."""
    async with open_shop(tmp_path) as shop:
        largest = shop.picture("largest.jpg", size=MAX_IMAGE_BYTES)
        larger = shop.picture("larger.jpg", size=MAX_IMAGE_BYTES + 1, line=3)
        outcomes = await shop.upload([largest, larger])
        assert statuses(outcomes) == [Status.UPLOADED, Status.FAILED]
        assert outcomes[1].reason == "file too large"
        assert shop.stored() == {identity(largest)}
        assert shop.calls()["reserve"] == 1


async def test_a_second_run_makes_one_call(tmp_path: Path) -> None:
    """What is confirmed costs nothing: the same rows again are `unchanged`, with the same results, for a probe."""
    async with open_shop(tmp_path) as shop:
        rows = shop.pictures(6)
        first = await shop.upload(rows)
        before = shop.calls()
        second = await shop.upload(rows)
        assert statuses(second) == [Status.UNCHANGED] * 6
        assert shop.calls() - before == {"buckets": 1}
        facts = [(outcome.image_id, outcome.url, outcome.width, outcome.digest) for outcome in second]
        assert facts == [(outcome.image_id, outcome.url, outcome.width, outcome.digest) for outcome in first]
        assert all(outcome.attempts == 0 for outcome in second)


async def test_a_moved_file_is_no_new_picture(tmp_path: Path) -> None:
    """A file that was renamed or moved, its content being the same, is `unchanged`."""
    async with open_shop(tmp_path) as shop:
        row = shop.picture("old.jpg")
        await shop.upload([row])
        (tmp_path / "deeper").mkdir()
        moved = row.path.rename(tmp_path / "deeper" / "new.png")
        before = shop.calls()
        outcomes = await shop.upload([replace(row, source="deeper/new.png", path=moved)])
        assert statuses(outcomes) == [Status.UNCHANGED]
        assert shop.calls() - before == {"buckets": 1}


async def test_a_changed_file_is_a_new_picture(tmp_path: Path) -> None:
    """A file whose content changed since the last run is uploaded, beside what was there."""
    async with open_shop(tmp_path) as shop:
        row = shop.picture("hero.jpg", seed=1)
        old = identity(row)
        first = await shop.upload([row])
        second = await shop.upload([shop.picture("hero.jpg", seed=2)])
        assert statuses(second) == [Status.UPLOADED]
        assert shop.stored() == {old, identity(row)}
        assert second[0].image_id != first[0].image_id


async def test_two_rows_for_one_picture_share_it(tmp_path: Path) -> None:
    """Of several rows with the same tile and content, all in flight at once, one is sent; the others share it."""
    async with open_shop(tmp_path, replace(EMULATOR, latency=(0.02, 0.02))) as shop:
        rows = [shop.picture(f"{n}.jpg", seed=1, line=n) for n in range(2, 7)]
        outcomes = await shop.upload(rows)
        assert sorted(outcome.status.value for outcome in outcomes) == ["duplicate"] * 4 + ["uploaded"]
        assert len({(outcome.image_id, outcome.url) for outcome in outcomes}) == 1
        assert shop.stored() == {identity(rows[0])}
        assert shop.calls()["reserve"] == shop.calls()["upload"] == 1


async def test_a_row_for_a_picture_that_is_there_already_shares_it(tmp_path: Path) -> None:
    """A row whose picture an earlier row of the same run has brought to its end is its duplicate, for no call."""
    async with open_shop(tmp_path) as shop:
        row = shop.picture("hero.jpg")
        arrived = threading.Event()

        def listen(event: Event) -> None:
            if isinstance(event, RowEnded) and event.outcome.line == row.line:
                arrived.set()

        def rows() -> Iterator[Row | BadRow]:
            yield row
            # The rest of what is read in one go, so that the next row is asked for on its own.
            for line in range(3, ROWS_AT_ONCE + 2):
                yield BadRow(line=line, tile_id="", source="", problem="no tile")
            assert arrived.wait(20)
            yield replace(row, line=1000)

        outcomes = await shop.upload(rows(), listeners=[listen])
        assert (outcomes[0].status, outcomes[-1].status) == (Status.UPLOADED, Status.DUPLICATE)
        assert outcomes[-1].image_id == outcomes[0].image_id != ""
        assert shop.calls()["upload"] == 1


async def test_a_duplicate_of_a_failed_row_fails_too(tmp_path: Path) -> None:
    """When the row that was sent is refused, those that wait for the same picture point to it."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("upload", 1, Fault(FaultKind.STATUS, status=422))
        rows = [shop.picture(f"{n}.jpg", seed=1, line=n) for n in (2, 3)]
        outcomes = await shop.upload(rows)
        assert statuses(outcomes) == [Status.FAILED] * 2
        by_reason = {outcome.reason: outcome for outcome in outcomes}
        duplicate = by_reason.pop("duplicate of a failed row")
        [(_reason, refused)] = by_reason.items()
        assert f"line {refused.line}" in duplicate.error


async def test_one_picture_on_two_tiles_is_two_images(tmp_path: Path) -> None:
    """An image belongs to a tile: the same content on another tile is another image."""
    async with open_shop(tmp_path) as shop:
        rows = [shop.picture(f"{n}.jpg", tile=f"tile {n}", seed=1, line=n) for n in (2, 3)]
        outcomes = await shop.upload(rows)
        assert statuses(outcomes) == [Status.UPLOADED] * 2
        assert shop.stored() == identities(rows)
        assert outcomes[0].image_id != outcomes[1].image_id
        assert outcomes[0].digest == outcomes[1].digest


async def test_force_uploads_again(tmp_path: Path) -> None:
    """With `force` what is confirmed is sent once more, to a new image; the next plain run is happy with that."""
    async with open_shop(tmp_path) as shop:
        row = shop.picture("hero.jpg")
        [first] = await shop.upload([row])
        [again] = await shop.upload([row], settings=replace(shop.settings, force=True))
        assert again.status is Status.UPLOADED
        assert again.image_id != first.image_id
        assert len(shop.emulator.truth().images) == 2
        [after] = await shop.upload([row])
        assert (after.status, after.image_id) == (Status.UNCHANGED, again.image_id)


async def test_results_can_be_collected_later(tmp_path: Path) -> None:
    """Without `confirm` a row ends when it is accepted, with no URL; a later run asks for it and sends nothing."""
    async with open_shop(tmp_path) as shop:
        rows = shop.pictures(3)
        hasty = replace(shop.settings, confirm=False)
        outcomes = await shop.upload(rows, settings=hasty)
        assert [(outcome.status, outcome.url) for outcome in outcomes] == [(Status.UPLOADED, "")] * 3
        assert all(outcome.image_id for outcome in outcomes)
        assert shop.calls() == {"buckets": 1, "reserve": 3, "upload": 3}
        assert statuses(await shop.upload(rows, settings=hasty)) == [Status.UNCHANGED] * 3
        collected = await shop.upload(rows)
        assert [outcome.image_id for outcome in collected] == [outcome.image_id for outcome in outcomes]
        assert all(outcome.url for outcome in collected)
        assert (shop.calls()["reserve"], shop.calls()["upload"]) == (3, 3)
        assert shop.stored() == identities(rows)


async def test_bad_files_cost_no_call(tmp_path: Path) -> None:
    """Each kind of unfit file is a failed row with its own reason, and the API hears of none of them."""
    folder = tmp_path / "folder.jpg"
    folder.mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "page.png").write_text("<!DOCTYPE html><title>404</title>")
    with (tmp_path / "huge.jpg").open("wb") as huge:
        huge.write(b"\xff\xd8\xff")
        huge.truncate(MAX_IMAGE_BYTES + 1)
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = {
        "missing.jpg": "file is missing",
        "folder.jpg": "not a file",
        "empty.jpg": "file is empty",
        "text.jpg": "not an image",
        "page.png": "not an image",
        "huge.jpg": "file too large",
        "circle.jpg": "file is missing",
        "pipe.jpg": "not a file",
        "nul\0.jpg": "file is missing",
    }
    async with open_shop(tmp_path) as shop:
        rows: list[Row | BadRow] = [
            Row(line=line, tile_id="hero", source=name, path=tmp_path / name)
            for line, name in enumerate(expected, 2)
        ]
        rows.append(BadRow(line=99, tile_id="", source="x.jpg", problem="line 99 names no tile"))
        outcomes = await shop.upload(rows)
        assert statuses(outcomes) == [Status.FAILED] * len(rows)
        assert [outcome.reason for outcome in outcomes] == [*expected.values(), "bad manifest row"]
        assert all(outcome.error for outcome in outcomes)
        assert shop.calls() == {"buckets": 1}


async def test_a_missing_tile_fails_its_rows_only(tmp_path: Path) -> None:
    """A tile that the store does not have fails its row with that reason, and nothing is posted for it."""
    async with open_shop(tmp_path) as shop:
        good = shop.picture("good.jpg")
        lost = shop.picture("lost.jpg", tile="missing tile", line=3)
        outcomes = await shop.upload([good, lost])
        assert statuses(outcomes) == [Status.UPLOADED, Status.FAILED]
        assert outcomes[1].reason == "tile not found"
        assert "missing tile" in outcomes[1].error
        assert shop.calls()["upload"] == 1


async def test_odd_tile_ids_arrive_as_they_are(tmp_path: Path) -> None:
    """Tile ids are opaque: what means something to a URL reaches the API unharmed, and no id becomes another."""
    async with open_shop(tmp_path) as shop:
        rows = [shop.picture(f"{n}.jpg", tile=tile, seed=n, line=n) for n, tile in enumerate(ODD_IDS, 2)]
        outcomes = await shop.upload(rows)
        assert [outcome.error for outcome in outcomes] == [""] * len(rows)
        assert shop.stored() == identities(rows)


async def test_odd_file_names_arrive_in_strict_forms(tmp_path: Path) -> None:
    """Names with quotes, line ends, other scripts or bytes, or of great length, arrive; the pictures unharmed."""
    async with open_shop(tmp_path) as shop:
        rows = [shop.picture(name, tile=f"tile {n}", seed=n, line=n) for n, name in enumerate(ODD_NAMES, 2)]
        outcomes = await shop.upload(rows)
        assert [outcome.error for outcome in outcomes] == [""] * len(rows)
        assert shop.stored() == identities(rows)
        names = {image.tile: image.filename for image in shop.emulator.truth().images}
        changed = {row.source: names[row.tile_id] for row in rows if names[row.tile_id] != row.source}
        assert changed.pop(os.fsdecode(b"latin-\xe9.jpg")) == "latin-?.jpg"
        assert changed.pop("back\\slash.jpg") == "slash.jpg"
        # As in browsers, a percent sign is not escaped, so this name reads like an escaped quote.
        assert changed.pop("percent%22.jpg") == 'percent".jpg'
        [(long, shortened)] = changed.items()
        assert shortened.endswith(".jpg")
        assert long.startswith(shortened.removesuffix(".jpg"))


async def test_the_field_name_can_be_set(tmp_path: Path) -> None:
    """The form field of the picture is `file` unless the settings name another, which the host then gets."""
    async with open_shop(tmp_path, replace(EMULATOR, field_name="upload_1.x")) as shop:
        row = shop.picture("hero.jpg")
        [refused] = await shop.upload([row], settings=replace(shop.settings, field_name="file"))
        assert refused.status is Status.FAILED
        [taken] = await shop.upload([row])
        assert taken.status is Status.UPLOADED
        assert shop.stored() == {identity(row)}


@pytest.mark.parametrize("shape", ["map", "list"])
async def test_the_address_of_a_result_leads_to_the_picture(shape: Literal["map", "list"], tmp_path: Path) -> None:
    """Whichever shape `set` has, the row's URL gives the picture's own bytes and its size is the original's."""
    async with open_shop(tmp_path, replace(EMULATOR, set_shape=shape)) as shop:
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row])
        assert (outcome.width, outcome.height) == (64, 64)
        assert await asyncio.to_thread(_fetched, outcome.url) == row.path.read_bytes()


def _fetched(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - the emulator's own address
        content: bytes = answer.read()
    return content


Change = Callable[[Path], object]


def _other_content(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def _shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


CHANGES = [
    pytest.param(_other_content, id="other content"),
    pytest.param(_shorter, id="shorter"),
    pytest.param(_longer, id="longer"),
    pytest.param(Path.unlink, id="gone"),
]


def _when_reserved(change: Change, path: Path) -> Callable[[Event], None]:
    """Changes the file after the slot is reserved and before the picture is posted."""

    def listen(event: Event) -> None:
        if isinstance(event, CallEnded) and event.call is Call.RESERVE and path.exists():
            change(path)

    return listen


def _check_refused(outcome: Outcome, shop: Shop) -> None:
    assert outcome.status is Status.FAILED
    assert outcome.reason in {"file changed", "file is missing"}
    assert shop.stored() == set()


@pytest.mark.parametrize("change", CHANGES)
async def test_a_streamed_picture_that_changes_before_it_is_posted(change: Change, tmp_path: Path) -> None:
    """A large file that is another one by the time it is posted is never stored; its row fails and says why."""
    async with open_shop(tmp_path) as shop:
        row = shop.picture("large.jpg", size=LARGE)
        [outcome] = await shop.upload([row], listeners=[_when_reserved(change, row.path)])
        _check_refused(outcome, shop)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_streamed_picture_that_changes_while_it_is_posted(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file that changes when its first bytes have left is never stored under the digest of the old one.

    One that was unlinked stays readable to whoever has it open, so its old content may be completed.
    """
    read_chunks = images.read_chunks

    async def disturbed(image: SourceImage) -> AsyncIterator[bytes]:
        chunks = read_chunks(image)
        yield await anext(chunks)
        change(image.path)
        async for chunk in chunks:
            yield chunk

    monkeypatch.setattr(images, "read_chunks", disturbed)
    async with open_shop(tmp_path) as shop:
        row = shop.picture("large.jpg", size=LARGE)
        old = identity(row)
        [outcome] = await shop.upload([row])
        if outcome.status is Status.UPLOADED:
            assert change is Path.unlink
            assert shop.stored() == {old}
        else:
            _check_refused(outcome, shop)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_small_picture_that_changes_before_it_is_posted(change: Change, tmp_path: Path) -> None:
    """A small file is in memory from its examination on, so what was claimed is what is stored."""
    async with open_shop(tmp_path) as shop:
        row = shop.picture("small.jpg")
        old = identity(row)
        [outcome] = await shop.upload([row], listeners=[_when_reserved(change, row.path)])
        assert (outcome.status, outcome.digest) == (Status.UPLOADED, old[1])
        assert shop.stored() == {old}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_small_picture_that_changes_before_it_is_sent_again(change: Change, tmp_path: Path) -> None:
    """A small file that is another one when its body is needed again is not sent in the place of the old."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("upload", 1, Fault(FaultKind.RESET_BEFORE))
        row = shop.picture("small.jpg")

        def listen(event: Event) -> None:
            if isinstance(event, CallEnded) and event.call is Call.UPLOAD and row.path.exists():
                change(row.path)

        [outcome] = await shop.upload([row], listeners=[listen])
        _check_refused(outcome, shop)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_known_picture_that_changes_before_it_is_posted(change: Change, tmp_path: Path) -> None:
    """A file whose digest comes from the ledger is read anew before it is posted, and not sent if it changed."""
    async with open_shop(tmp_path) as shop:
        row = shop.picture("small.jpg")
        os.utime(row.path, (1_600_000_000, 1_600_000_000))
        shop.emulator.script("reserve", 1, Fault(FaultKind.STATUS, status=422))
        await shop.upload([row])
        [outcome] = await shop.upload([row], listeners=[_when_reserved(change, row.path)])
        assert shop.calls()["reserve"] == 2
        _check_refused(outcome, shop)


async def test_a_changed_picture_is_taken_up_by_the_next_run(tmp_path: Path) -> None:
    """A row that failed because its file changed is uploaded by the next run as what it is then."""
    async with open_shop(tmp_path) as shop:
        row = shop.picture("large.jpg", size=LARGE)
        await shop.upload([row], listeners=[_when_reserved(_other_content, row.path)])
        [outcome] = await shop.upload([row])
        assert outcome.status is Status.UPLOADED
        assert shop.stored() == {identity(row)}


async def test_memory_of_waiting_images_is_bounded_by_the_pace(tmp_path: Path) -> None:
    """With one worker and room for one waiting image, no more than two pictures are ever under way."""
    async with open_shop(tmp_path, replace(EMULATOR, processing=(0.02, 0.02))) as shop:
        rows = shop.pictures(8)
        under_way: list[int] = []
        most = 0

        def listen(event: Event) -> None:
            nonlocal most
            if isinstance(event, CallEnded) and event.call is Call.RESERVE:
                under_way.append(1)
            elif isinstance(event, RowEnded):
                under_way.pop()
            most = max(most, len(under_way))

        narrow = replace(shop.settings, pace=Pace(concurrency=1, waiting=1, rate=1_000_000))
        outcomes = await shop.upload(rows, settings=narrow, listeners=[listen])
        assert statuses(outcomes) == [Status.UPLOADED] * 8
        assert most == 2
        assert shop.emulator.truth().peak_uploads == 1
