"""Several stores in one run: each with its own token, ledger and fate, sharing the workers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shop import EMULATOR, Shop, open_shop
from tileferry import (
    BadRow,
    Credentials,
    FatalError,
    ManifestError,
    Outcome,
    Pace,
    Row,
    Status,
    TokenRefusedError,
    UsageError,
)
from tileferry.emulator import CallKind
from tileferry.events import Event, RowBegan, RowEnded, RunEnded
from tileferry.fleet import Berth, Fleet, open_fleet

STORES = (1003, 2004, 3005)


@contextlib.asynccontextmanager
async def harbor(folder: Path) -> AsyncIterator[Shop]:
    """A shop whose emulator knows three stores."""
    async with open_shop(folder, replace(EMULATOR, store_ids=frozenset(STORES))) as shop:
        yield shop


def berth(shop: Shop, store_id: int, *, token: str | None = None, pace: Pace | None = None) -> Berth:
    """One store's settings and credentials; its ledger is beside the pictures."""
    settings = replace(
        shop.settings,
        store_id=store_id,
        ledger=shop.folder / f"ledger-{store_id}.sqlite3",
        pace=pace or shop.settings.pace,
    )
    return Berth(settings, Credentials(token=token or shop.emulator.issue_token(store_id)))


def cargo(shop: Shop, number: int) -> list[Row]:
    """Rows that go to the stores in turn."""
    return [
        replace(row, store_id=STORES[index % len(STORES)], extra={"storeId": str(STORES[index % len(STORES)])})
        for index, row in enumerate(shop.pictures(number))
    ]


async def sail(fleet: Fleet, rows: Iterable[Row | BadRow]) -> tuple[list[Outcome], FatalError | None]:
    """All outcomes as they came, and what ended the fleet."""
    outcomes = []
    kept = list(rows)
    try:
        async for outcome in fleet.upload(lambda: kept):
            outcomes.append(outcome)
    except FatalError as exc:
        return outcomes, exc
    return outcomes, None


async def test_each_store_gets_its_rows_and_its_ledger(tmp_path: Path) -> None:
    """Every row lands in its store, the results are in manifest order, and a second run changes nothing."""
    async with harbor(tmp_path) as shop:
        rows = cargo(shop, 20)
        berths = [berth(shop, store) for store in STORES]
        for status in (Status.UPLOADED, Status.UNCHANGED):
            async with open_fleet(berths) as fleet:
                came, ended = await sail(fleet, rows)
            results = list(fleet.outcomes())
            assert ended is None
            assert sorted(outcome.line for outcome in came) == [row.line for row in rows]
            assert [outcome.line for outcome in results] == [row.line for row in rows]
            assert {outcome.status for outcome in results} == {status}
            assert fleet.summary.rows == 20
            assert [store.rows for store in fleet.summary.stores] == [7, 7, 6]
        truth = shop.emulator.truth()
        assert {image.store for image in truth.images} == set(STORES)
        wanted = {(row.store_id, row.tile_id) for row in rows}
        assert {(image.store, image.tile) for image in truth.images} == wanted
        assert truth.calls[CallKind.UPLOAD] == 20


async def test_a_store_that_is_refused_ends_alone(tmp_path: Path) -> None:
    """A wrong token fails that store's rows with the reason, once asked for; the others are carried."""
    async with harbor(tmp_path) as shop:
        rows = cargo(shop, 12)
        berths = [berth(shop, 1003), berth(shop, 2004, token="wrong"), berth(shop, 3005)]
        events: list[Event] = []
        async with open_fleet(berths, listeners=[events.append]) as fleet:
            came, ended = await sail(fleet, rows)
        assert ended is None
        results = list(fleet.outcomes())
        assert [outcome.line for outcome in results] == [row.line for row in rows]
        failed = [outcome for outcome in results if outcome.status is Status.FAILED]
        assert [outcome.line for outcome in failed] == [row.line for row in rows if row.store_id == 2004]
        assert all(outcome.error.startswith("store 2004: the API refuses the token") for outcome in failed)
        assert sum(outcome.status is Status.UPLOADED for outcome in results) == 8
        assert len(came) == 12
        assert sum(isinstance(event, RowEnded) for event in events) == 12
        assert sum(isinstance(event, RunEnded) for event in events) == 1
        assert fleet.summary.count(Status.FAILED) == 4
        assert not fleet.summary.complete
        assert fleet.summary.failures == {"store 2004 ended early": 4}
        assert shop.emulator.truth().bad_token_calls == 1


async def test_a_store_whose_token_ends_midway_fails_its_rest(tmp_path: Path) -> None:
    """A token that is refused in the middle fails the rest of that store's rows; the others go on."""
    async with harbor(tmp_path) as shop:
        rows = cargo(shop, 30)
        token = shop.emulator.issue_token(2004)
        berths = [berth(shop, 1003), berth(shop, 2004, token=token), berth(shop, 3005)]
        begun = 0

        def revoke(event: Event) -> None:
            nonlocal begun
            begun += isinstance(event, RowBegan)
            if begun == 10:
                shop.emulator.expire_token(token)

        async with open_fleet(berths, listeners=[revoke]) as fleet:
            _, ended = await sail(fleet, rows)
        assert ended is None
        by_store = {
            store: [o.status for o in fleet.outcomes() if o.extra["storeId"] == str(store)] for store in STORES
        }
        assert set(by_store[1003]) == set(by_store[3005]) == {Status.UPLOADED}
        assert set(by_store[2004]) <= {Status.UPLOADED, Status.FAILED}
        assert fleet.summary.count(Status.PENDING) == 0
        assert fleet.summary.count(Status.FAILED) == by_store[2004].count(Status.FAILED) > 0


async def test_only_if_no_store_can_start_it_is_an_error(tmp_path: Path) -> None:
    """With every token wrong there is nothing to go on with: the refusal is raised, and each row has failed."""
    async with harbor(tmp_path) as shop:
        rows = cargo(shop, 6)
        async with open_fleet([berth(shop, store, token="wrong") for store in STORES]) as fleet:
            came, ended = await sail(fleet, rows)
        assert isinstance(ended, TokenRefusedError)
        assert {outcome.status for outcome in came} == {Status.FAILED}
        assert len(list(fleet.outcomes())) == 6


async def test_rows_that_name_no_store(tmp_path: Path) -> None:
    """They go to the default store, and without one they fail with a sentence."""
    async with harbor(tmp_path) as shop:
        row = shop.picture("lost.jpg")
        berths = [berth(shop, 1003), berth(shop, 2004)]
        async with open_fleet(berths) as fleet:
            ((outcome,), _) = await sail(fleet, [row])
        assert (outcome.status, outcome.error.split(";")[0]) == (Status.FAILED, "line 2: the storeId is empty")
        async with open_fleet(berths, default_store=2004) as fleet:
            ((outcome,), _) = await sail(fleet, [row])
        assert outcome.status is Status.UPLOADED
        assert [image.store for image in shop.emulator.truth().images] == [2004]


async def test_workers_are_shared(tmp_path: Path) -> None:
    """All stores together never upload more at once than the workers there are, and each has its share."""
    async with open_shop(tmp_path, replace(EMULATOR, store_ids=frozenset(STORES), latency=(0.01, 0.02))) as shop:
        rows = cargo(shop, 30)
        pace = Pace(concurrency=12, rate=1_000_000)
        async with open_fleet([berth(shop, store, pace=pace) for store in STORES]) as fleet:
            await sail(fleet, rows)
        assert shop.emulator.truth().peak_uploads <= 12
        assert fleet.summary.count(Status.UPLOADED) == 30


async def test_a_shared_token_shares_its_rate(tmp_path: Path) -> None:
    """Stores that use one token divide its budget; a store with a token of its own keeps its whole rate."""
    async with harbor(tmp_path) as shop:
        pace = Pace(rate=600)
        berths = [
            berth(shop, 1003, token="same", pace=pace),
            berth(shop, 2004, token="same", pace=pace),
            berth(shop, 3005, token="own", pace=pace),
        ]
        async with open_fleet(berths) as fleet:
            assert [each.settings.pace.rate for each in fleet.berths] == [300, 300, 600]


async def test_a_manifest_that_breaks_off_ends_all(tmp_path: Path) -> None:
    """What was read before is carried in each store, then the manifest's error is raised."""
    async with harbor(tmp_path) as shop:
        rows = cargo(shop, 6)

        def broken() -> Iterator[Row | BadRow]:
            yield from rows
            raise ManifestError("line 9: a quote is opened here and never closed.")

        came = []
        async with open_fleet([berth(shop, store) for store in STORES]) as fleet:
            with pytest.raises(ManifestError):
                async for outcome in fleet.upload(broken):
                    came.append(outcome)
        assert [outcome.status for outcome in came] == [Status.UPLOADED] * 6


async def test_draining_stops_all_stores(tmp_path: Path) -> None:
    """Asked to stop before it began, no store begins a row, and every row is pending."""
    async with harbor(tmp_path) as shop:
        rows = cargo(shop, 9)
        async with open_fleet([berth(shop, store) for store in STORES]) as fleet:
            fleet.drain()
            came, ended = await sail(fleet, rows)
        assert ended is None
        assert [outcome.status for outcome in came] == [Status.PENDING] * 9
        assert fleet.summary.interrupted


async def test_nobody_listening_ends_the_work(tmp_path: Path) -> None:
    """Whoever stops listening ends all runs; the ledgers are free again."""
    async with harbor(tmp_path) as shop:
        rows = cargo(shop, 9)
        berths = [berth(shop, store) for store in STORES]
        async with open_fleet(berths) as fleet:
            outcomes = fleet.upload(lambda: rows)
            await anext(outcomes)
        async with open_fleet(berths) as fleet:
            came, _ = await sail(fleet, rows)
        assert len(came) == 9
        assert shop.stored()


async def test_what_makes_no_fleet(tmp_path: Path) -> None:
    """No store, or one that is there twice, is refused with a sentence; and a fleet uploads once."""
    async with harbor(tmp_path) as shop:
        with pytest.raises(UsageError, match="names no store"):
            async with open_fleet([]):
                pass
        with pytest.raises(UsageError, match="twice"):
            async with open_fleet([berth(shop, 1003), berth(shop, 1003)]):
                pass
        async with open_fleet([berth(shop, 1003)]) as fleet:
            await sail(fleet, [])
            with pytest.raises(RuntimeError):
                await anext(fleet.upload(list))
