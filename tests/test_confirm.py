"""Collecting the results of images that earlier runs left on their way: what is asked, and what is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

import virtual_time
from shop import EMULATOR, Shop, open_shop
from tileferry import confirm as confirming
from tileferry.api import Api, open_api
from tileferry.auth import Credentials
from tileferry.clock import Clock
from tileferry.confirm import confirm
from tileferry.delay import ResultDelay
from tileferry.errors import LedgerBusyError, LedgerError, RejectedError, TokenRefusedError, TransientError
from tileferry.events import ConfirmEnded, Event, Listener, ResultCollected, RetryPlanned
from tileferry.history import open_history
from tileferry.ledger import Ledger, Unfinished, open_ledger
from tileferry.model import ImageKind, Lease, Rendition, Slot, SourceImage, Stage, StoredImage
from tileferry.settings import Pace, Settings, Timing
from tileferry.transfer import Means

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STORED = StoredImage("eu-fra", (Rendition("original", "1.jpg", 10, 10),))


async def claimed(ledger: Ledger, number: int) -> int:
    """One more image in the ledger, begun and without a slot."""
    image = SourceImage(
        path=Path(f"{number}.jpg"), kind=ImageKind.JPEG, size=1, digest=f"{number:064}", mtime_ns=0
    )
    return (await ledger.claim(number, f"tile-{number}", image)).upload_id


async def left_at(ledger: Ledger, number: int, stage: Stage) -> int:
    """One more image in the ledger, left where an earlier run may leave it."""
    upload_id = await claimed(ledger, number)
    if stage is not Stage.CLAIMED:
        await ledger.reserved(upload_id, Slot(f"image/{number}", "https://upload.example/?s=1"))
    if stage in {Stage.SENT, Stage.CONFIRMED}:
        ledger.sent(upload_id)
    if stage is Stage.CONFIRMED:
        await ledger.confirmed(upload_id, STORED)
    if stage is Stage.FAILED:
        await ledger.failed(upload_id)
    return upload_id


@dataclass
class Days:
    """The time of day, as a test says."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_the_ledger_lists_what_is_outstanding(tmp_path: Path) -> None:
    """Images that are reserved or sent are listed, the oldest first, each with its age; all others are not."""
    days = Days()
    async with open_ledger(tmp_path / "l", host="h", store_id=1, clock=Clock(wall=days)) as ledger:
        await ledger.begin_run("m.csv")
        sent = await left_at(ledger, 1, Stage.SENT)
        days.now += 100
        for number, stage in enumerate((Stage.CLAIMED, Stage.CONFIRMED, Stage.FAILED), 2):
            await left_at(ledger, number, stage)
        reserved = await left_at(ledger, 5, Stage.RESERVED)
        days.now += 10
        assert await ledger.unfinished() == [
            Unfinished(upload_id=sent, tile_id="tile-1", image_id="image/1", stage=Stage.SENT, age=110),
            Unfinished(upload_id=reserved, tile_id="tile-5", image_id="image/5", stage=Stage.RESERVED, age=10),
        ]
        await ledger.slot_lost(reserved)
        await ledger.confirmed(sent, STORED)
        assert await ledger.unfinished() == []


# --- against the emulator


async def collect(shop: Shop, *, patience: float = 20.0, credentials: Credentials | None = None) -> ConfirmEnded:
    """Collect what is outstanding in a shop; what was heard meanwhile is in its events."""
    shop.events.clear()
    timing = replace(shop.settings.timing, patience=patience)
    return await confirm(
        replace(shop.settings, timing=timing),
        credentials or shop.credentials,
        listeners=[shop.events.append],
    )


async def test_hasty_uploads_are_collected_with_one_question_each(tmp_path: Path) -> None:
    """After `confirm=False`, each image costs one question; the upload's own results then have their addresses."""
    async with open_shop(tmp_path, replace(EMULATOR, processing=(0.0, 0.0))) as shop:
        rows = shop.pictures(5)
        sent = await shop.upload(rows, settings=replace(shop.settings, confirm=False))
        before = shop.calls()
        ended = await collect(shop)
        assert (ended.confirmed, ended.waiting) == (5, 0)
        assert ended.ledger == shop.settings.ledger_path
        assert shop.calls() - before == {"buckets": 1, "result": 5}
        assert {event.image_id for event in shop.heard(ResultCollected)} == {outcome.image_id for outcome in sent}
        assert {event.tile_id for event in shop.heard(ResultCollected)} == {row.tile_id for row in rows}
        with contextlib.closing(open_history(shop.settings.ledger_path)) as history:
            (run,) = history.runs()
            assert all(outcome.url and outcome.width for outcome in history.outcomes(run.run_id))


async def test_with_nothing_outstanding_no_call_is_made(tmp_path: Path) -> None:
    """What is confirmed is not asked about, and the token is not even tried."""
    async with open_shop(tmp_path) as shop:
        await shop.upload(shop.pictures(2))
        before = shop.calls()
        ended = await collect(shop, credentials=Credentials(token="wrong"))
        assert (ended.confirmed, ended.waiting) == (0, 0)
        assert shop.calls() == before
        assert shop.events == [ended]


async def test_slow_images_are_asked_about_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image whose processing is not done is asked about until it is there."""
    monkeypatch.setattr(confirming, "FIRST_WAIT", 0.02)
    async with open_shop(tmp_path, replace(EMULATOR, processing=(0.3, 0.3))) as shop:
        await shop.upload(shop.pictures(3), settings=replace(shop.settings, confirm=False))
        ended = await collect(shop)
        assert (ended.confirmed, ended.waiting) == (3, 0)


async def test_a_refused_token_ends_it_with_one_call(tmp_path: Path) -> None:
    """However many images are outstanding, a bad token is tried once, and nothing is lost by it."""
    async with open_shop(tmp_path, replace(EMULATOR, processing=(0.0, 0.0))) as shop:
        await shop.upload(shop.pictures(20), settings=replace(shop.settings, confirm=False))
        with pytest.raises(TokenRefusedError):
            await collect(shop, credentials=Credentials(token="wrong"))
        assert shop.emulator.truth().bad_token_calls == 1
        assert (await collect(shop)).confirmed == 20


async def test_a_token_that_is_refused_midway_ends_it_too(tmp_path: Path) -> None:
    """What is fatal is raised as it is, not in a group, after all that was under way has ended."""
    async with open_shop(tmp_path, replace(EMULATOR, processing=(0.0, 0.0))) as shop:
        await shop.upload(shop.pictures(30), settings=replace(shop.settings, confirm=False))
        token = shop.emulator.issue_token(shop.settings.store_id)

        def expire(event: Event) -> None:
            if isinstance(event, ResultCollected):
                shop.emulator.expire_token(token)

        settings = replace(shop.settings, pace=replace(shop.settings.pace, concurrency=2))
        with pytest.raises(TokenRefusedError):
            await confirm(settings, Credentials(token=token), listeners=[expire])
        assert shop.emulator.truth().bad_token_calls <= 2
        assert 0 < (await collect(shop)).confirmed < 30


async def test_the_calls_of_runs_before_and_after_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an upload used of the budget counts for confirm, and what confirm uses counts for the next run."""
    used: list[int] = []

    def opened(
        settings: Settings,
        credentials: Credentials,
        *,
        clock: Clock,
        tell: Listener,
        past: Sequence[Lease],
        lease: Callable[[Lease], asyncio.Future[object]],
    ) -> contextlib.AbstractAsyncContextManager[Api]:
        used.append(sum(lease.calls for lease in past))
        return open_api(settings, credentials, clock=clock, tell=tell, past=past, lease=lease)

    monkeypatch.setattr(confirming, "open_api", opened)
    async with open_shop(tmp_path, replace(EMULATOR, processing=(0.0, 0.0))) as shop:
        shop.settings = replace(shop.settings, pace=replace(shop.settings.pace, rate=60_000))
        await shop.upload(shop.pictures(2), settings=replace(shop.settings, confirm=False))
        await collect(shop)
        ledger_path, host, store_id = shop.settings.ledger_path, shop.settings.host, shop.settings.store_id
        async with open_ledger(ledger_path, host=host, store_id=store_id, clock=Clock()) as ledger:
            after = sum(lease.calls for lease in await ledger.leases())
        assert after > used[0] > 0


async def test_a_mistyped_store_leaves_no_ledger_behind(tmp_path: Path) -> None:
    """Without a ledger there is nothing to collect: a sentence says so, and none is made."""
    settings = Settings(store_id=7, ledger=tmp_path / "none.sqlite3")
    with pytest.raises(LedgerError, match="there is no ledger at"):
        await confirm(settings, Credentials(token="t"))
    assert list(tmp_path.iterdir()) == []


async def test_a_running_upload_is_not_disturbed(tmp_path: Path) -> None:
    """While another run holds the ledger, collecting is refused."""
    async with (
        open_shop(tmp_path) as shop,
        open_ledger(
            shop.settings.ledger_path, host=shop.settings.host, store_id=shop.settings.store_id, clock=Clock()
        ) as ledger,
    ):
        await ledger.begin_run("m.csv")
        with pytest.raises(LedgerBusyError):
            await collect(shop)


# --- when to ask, on virtual time


@dataclass
class Answering:
    """An API in the place of the real one, which shows each image from some time on.

    `shows` names when an image shows, in seconds from the beginning, or what asking for it raises.
    """

    shows: dict[str, float | Exception]
    latency: float = 0.0
    asked: dict[str, list[float]] = field(default_factory=dict)
    at_once: int = 0
    most_at_once: int = 0

    async def result(self, image_id: str) -> StoredImage | None:
        now = asyncio.get_running_loop().time() - virtual_time.START
        self.asked.setdefault(image_id, []).append(now)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.at_once -= 1
        shows = self.shows[image_id]
        if isinstance(shows, Exception):
            raise shows
        return STORED if now >= shows else None


@dataclass
class Book:
    """A ledger that only notes what is confirmed."""

    confirmed_: list[int] = field(default_factory=list)

    async def confirmed(self, upload_id: int, stored: StoredImage) -> None:
        assert stored == STORED
        self.confirmed_.append(upload_id)


TIMING = Timing(patience=60, settle=20, backoff=1.0, backoff_limit=8.0)


def means_with(
    api: Answering,
    book: Book,
    tell: Listener = lambda _event: None,
    *,
    timing: Timing = TIMING,
    concurrency: int = 16,
) -> Means:
    """What collecting takes, on the running virtual loop."""
    return Means(
        settings=Settings(store_id=1, timing=timing, pace=Pace(concurrency=concurrency)),
        api=cast("Api", api),
        ledger=cast("Ledger", book),
        clock=virtual_time.clock(),
        delay=ResultDelay(1.0),
        tell=tell,
    )


def asked(
    api: Answering, outstanding: Sequence[Unfinished], *, timing: Timing = TIMING, concurrency: int = 16
) -> tuple[list[str], Book, list[Event]]:
    """What is left after asking about all `outstanding`, by image id."""
    book = Book()
    heard: list[Event] = []

    async def main() -> list[Unfinished]:
        means = means_with(api, book, heard.append, timing=timing, concurrency=concurrency)
        return await confirming._collect(means, outstanding)

    return [image.image_id for image in virtual_time.run(main())], book, heard


def image(name: str, stage: Stage = Stage.SENT, *, age: float = 3600.0) -> Unfinished:
    """An image that waits."""
    return Unfinished(upload_id=len(name), tile_id="t", image_id=name, stage=stage, age=age)


@pytest.mark.parametrize(
    ("stage", "age", "shows", "patience", "found", "last"),
    [
        (Stage.SENT, 3600, 0, 60, True, 0),
        (Stage.SENT, 3600, 1, 60, True, 2),
        (Stage.SENT, 3600, 59, 60, True, 60),
        (Stage.SENT, 3600, 61, 60, False, 60),
        (Stage.SENT, 3600, 1, 0, False, 0),
        (Stage.SENT, 0, 1, 1, True, 1),
        (Stage.RESERVED, 3600, 1, 60, False, 0),
        (Stage.RESERVED, 3600, 0, 60, True, 0),
        (Stage.RESERVED, 5, 14, 60, True, 15),
        (Stage.RESERVED, 5, 16, 60, False, 15),
        (Stage.RESERVED, 5, 14, 3, False, 3),
    ],
)
def test_how_long_one_is_asked_about(
    stage: Stage, age: float, shows: float, patience: float, found: bool, last: float
) -> None:
    """What was sent is asked about for the patience; what may never have been, only while it could turn up."""
    api = Answering({"a": shows})
    left, book, heard = asked(api, [image("a", stage, age=age)], timing=replace(TIMING, patience=patience))
    assert left == ([] if found else ["a"])
    assert book.confirmed_ == ([1] if found else [])
    assert len(heard) == found
    assert api.asked["a"][0] == pytest.approx(0, abs=0.01)
    assert api.asked["a"][-1] == pytest.approx(last, abs=0.01)


def test_the_waits_grow() -> None:
    """An image that never shows costs few questions: each wait is longer than the one before, up to the last."""
    api = Answering({"a": 1e9})
    asked(api, [image("a")], timing=replace(TIMING, patience=300))
    times = api.asked["a"]
    waits = [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)]
    assert waits[0] == pytest.approx(2.0, abs=0.01)
    assert waits[:-1] == sorted(waits[:-1])
    assert max(waits) <= 30.01
    assert len(times) <= 16


def test_only_those_that_are_not_there_are_asked_about_again() -> None:
    """Later rounds leave out what is there, and what cannot turn up any more."""
    names = {f"there-{number}": 0.0 for number in range(50)}
    api = Answering({**names, "late": 5.0, "never sent": 1e9})
    outstanding = [*map(image, names), image("late"), image("never sent", Stage.RESERVED)]
    left, book, _heard = asked(api, outstanding)
    assert left == ["never sent"]
    assert len(book.confirmed_) == 51
    assert {name: len(times) for name, times in api.asked.items()} == {
        **dict.fromkeys(names, 1),
        "late": 3,
        "never sent": 1,
    }


def test_only_so_many_are_asked_about_at_once() -> None:
    """However many wait, no more questions are on their way at once than uploads would be."""
    api = Answering({str(number): 0.0 for number in range(100)}, latency=0.3)
    left, _book, _heard = asked(api, [image(str(number)) for number in range(100)], concurrency=7)
    assert left == []
    assert api.most_at_once == 7


def test_patience_begins_when_all_were_asked_about_once() -> None:
    """With many images the first round outlasts the patience; each is asked about again all the same."""
    api = Answering({str(number): 1e9 for number in range(40)}, latency=10.0)
    left, _book, _heard = asked(api, [image(str(number)) for number in range(40)], concurrency=2)
    assert len(left) == 40
    assert all(len(times) > 1 for times in api.asked.values())


def test_passing_trouble_is_tried_again_and_told() -> None:
    """A question that fails in passing is repeated, and one that goes on failing leaves its image waiting."""
    api = Answering({"a": TransientError("HTTP 503"), "bb": 0.0})
    left, book, heard = asked(api, [image("a"), image("bb")], timing=replace(TIMING, patience=5))
    assert left == ["a"]
    assert book.confirmed_ == [2]
    assert len(api.asked["a"]) > 2
    retry = next(event for event in heard if isinstance(event, RetryPlanned))
    assert (retry.line, retry.step, retry.problem) == (0, "confirm", "HTTP 503")


def test_an_image_that_is_refused_leaves_the_others_alone() -> None:
    """The API may have something against one image; the others are collected."""
    api = Answering({"a": RejectedError("no"), "bb": 0.0})
    left, book, _heard = asked(api, [image("a"), image("bb")], timing=replace(TIMING, patience=0))
    assert left == ["a"]
    assert book.confirmed_ == [2]


def test_what_is_fatal_waits_for_nobody() -> None:
    """When one question shows that nothing can go on, the others on their way are given up at once."""

    class Refusing(Answering):
        async def result(self, image_id: str) -> StoredImage | None:
            if image_id == "a":
                await asyncio.sleep(1)
                raise TokenRefusedError("no")
            return await super().result(image_id)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        api = Refusing({"bb": 0.0}, latency=3600)
        with pytest.raises(TokenRefusedError):
            await confirming._collect(means_with(api, Book()), [image("a"), image("bb")])
        assert api.at_once == 0
        return loop.time() - virtual_time.START

    assert virtual_time.run(main()) == pytest.approx(1.0, abs=0.01)


def test_cancelling_leaves_no_question_behind() -> None:
    """Whoever stops it waits for nothing, and no task of it lives on."""

    async def main() -> set[asyncio.Task[object]]:
        means = means_with(Answering({"a": 0.0}, latency=3600), Book())
        work = asyncio.create_task(confirming._collect(means, [image("a")]))
        await asyncio.sleep(1)
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert virtual_time.run(main()) == set()
