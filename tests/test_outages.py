"""A network, an API or an upload host that is away: the run says so once, waits, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shop import EMULATOR, QUICK, Shop, identities, open_shop, statuses
from tileferry import OutageError, Pace, Status, answers
from tileferry.emulator import Emulator, Fault, FaultKind
from tileferry.events import (
    Call,
    CallEnded,
    CoolDownBegan,
    Event,
    OutageBegan,
    OutageEnded,
    OutageProbed,
    RetryPlanned,
)

PATIENCE = 0.4
"""Seconds; every outage here lasts longer."""

WAITING = replace(QUICK, patience=PATIENCE, settle=0.05, probe=0.02, probe_limit=0.1, answer=0.3)
UNAVAILABLE = Fault(FaultKind.STATUS, status=503)
RESET = Fault(FaultKind.RESET_BEFORE)


class Outage:
    """A listener that begins an outage after so many uploads, and ends it after so many seconds of probing."""

    def __init__(self, begin: Callable[[], object], end: Callable[[], object], *, after: int = 5) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self._begin = begin
        self._end = end
        self._uploads_left = after
        self._probed = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case CallEnded(call=Call.UPLOAD):
                self._uploads_left -= 1
                if self._uploads_left == 0:
                    self._begin()
                    self.began.set()
            case OutageProbed():
                self._probed += event.wait
                # Only then has the wait that the last probe announced passed beyond everyone's patience.
                if self._probed > PATIENCE * 2 and not self.ended.is_set():
                    self._end()
                    self.ended.set()


def _check_overcome(shop: Shop, ended: list[Status], rows: int) -> None:
    """All rows are in, and the outage was announced once."""
    assert shop.ended is None
    assert ended == [Status.UPLOADED] * rows
    assert len(shop.heard(OutageBegan)) == len(shop.heard(OutageEnded)) == 1
    assert shop.heard(OutageEnded)[0].seconds > PATIENCE
    assert shop.emulator.truth().reposts == 0


def _during(shop: Shop, kind: type[Event]) -> list[Event]:
    """The events of a kind from the outage's announcement to its end."""
    kinds = [type(event) for event in shop.events]
    return [
        event
        for event in shop.events[kinds.index(OutageBegan) : kinds.index(OutageEnded)]
        if isinstance(event, kind)
    ]


@pytest.mark.parametrize("fault", [RESET, UNAVAILABLE, Fault(FaultKind.HTML)], ids=["reset", "503", "page"])
async def test_everything_fails_for_longer_than_patience(fault: Fault, tmp_path: Path) -> None:
    """When each call meets the same wall the run says so once, probes one at a time, and no row loses patience."""
    async with open_shop(tmp_path) as shop:
        rows = shop.pictures(40)
        outage = Outage(
            lambda: shop.emulator.script_always("any", fault),
            lambda: shop.emulator.script_always("any", None),
        )
        outcomes = await shop.upload(rows, timing=WAITING, listeners=[outage])
        assert shop.ended is None
        assert statuses(outcomes) == [Status.UPLOADED] * 40
        assert shop.stored() == identities(rows)
        assert shop.emulator.truth().reposts == 0
        for host in {event.host for event in shop.heard(OutageBegan)}:
            assert [event.host for event in shop.heard(OutageBegan)].count(host) == 1
            waits = [event.wait for event in shop.heard(OutageProbed) if event.host == host]
            assert waits == sorted(waits)
            assert max(waits, default=0.0) <= WAITING.probe_limit


class Restart:
    """Takes the emulator away and brings it back at the same address with the same store."""

    def __init__(self, shop: Shop) -> None:
        self.away = asyncio.Event()
        self.back = asyncio.Event()
        self._shop = shop

    async def happen(self) -> None:
        await self.away.wait()
        old = self._shop.emulator
        port = int(old.base_url.rpartition(":")[2])
        await old.stop()
        await self.back.wait()
        self._shop.emulator = Emulator(replace(old.settings, port=port))
        await self._shop.emulator.start()


@contextlib.asynccontextmanager
async def open_lasting_shop(folder: Path) -> AsyncIterator[Shop]:
    """A shop whose emulator may be stopped, and another started in its place."""
    async with open_shop(folder, replace(EMULATOR, folder=folder / "emulator")) as shop:
        try:
            yield shop
        finally:
            await shop.emulator.stop()


async def test_a_server_that_is_stopped_and_started_again(tmp_path: Path) -> None:
    """While nobody listens at the API's address the run waits; when it is back it goes on and doubles nothing."""
    async with open_lasting_shop(tmp_path) as shop, asyncio.timeout(30):
        rows = shop.pictures(40)
        restart = Restart(shop)
        outage = Outage(restart.away.set, restart.back.set, after=10)
        happening = asyncio.create_task(restart.happen())
        outcomes = await shop.upload(rows, timing=WAITING, listeners=[outage])
        await happening
        assert shop.ended is None
        assert [outcome.error for outcome in outcomes] == [""] * 40
        assert shop.stored() == identities(rows)
        assert shop.emulator.truth().reposts == 0
        hosts = [event.host for event in shop.heard(OutageBegan)]
        assert len(hosts) == len(set(hosts)) >= 1
        assert "127.0.0.1" in hosts[0] or hosts[0] == "the upload host"


async def test_the_upload_host_alone_is_away(tmp_path: Path) -> None:
    """While uploads fail the API goes on being used; the wall is met once by each, then by one probe at a time."""
    async with open_shop(tmp_path) as shop:
        rows = shop.pictures(30)
        outage = Outage(
            lambda: shop.emulator.script_always("upload", UNAVAILABLE),
            lambda: shop.emulator.script_always("upload", None),
        )
        outcomes = await shop.upload(rows, timing=WAITING, listeners=[outage])
        _check_overcome(shop, statuses(outcomes), 30)
        assert shop.stored() == identities(rows)
        assert shop.heard(OutageBegan)[0].host == "the upload host"
        # Those that had left before the wall was seen, and the probes.
        tried = [event for event in _during(shop, CallEnded) if getattr(event, "call", None) is Call.UPLOAD]
        assert len(tried) <= len(_during(shop, OutageProbed)) + shop.settings.pace.concurrency


async def test_probes_go_out_one_at_a_time(tmp_path: Path) -> None:
    """In an outage with slow answers no two uploads are on their way at once, whatever the number of workers."""
    async with open_shop(tmp_path, replace(EMULATOR, latency=(0.02, 0.02))) as shop:
        rows = shop.pictures(20)
        outage = Outage(
            lambda: shop.emulator.script_always("upload", UNAVAILABLE),
            lambda: shop.emulator.script_always("upload", None),
        )
        await shop.upload(rows, timing=WAITING, listeners=[outage])
        calls = [call for call in shop.emulator.calls() if call.kind == "upload" and call.status == 503]
        # The first ones had left before the wall was seen; the last ones are probes for certain.
        probes = sorted(calls, key=lambda call: call.at)[-5:]
        assert len(_during(shop, OutageProbed)) >= len(probes)
        for one, next_one in itertools.pairwise(probes):
            assert one.at + one.seconds <= next_one.at + 0.005


async def test_a_flapping_network(tmp_path: Path) -> None:
    """A network that comes and goes every few calls costs time but no row and no second image."""
    async with open_shop(tmp_path) as shop:
        calls = 0

        def flap(event: Event) -> None:
            nonlocal calls
            if isinstance(event, CallEnded):
                calls += 1
                if calls % 12 == 0:
                    shop.emulator.script_always("any", RESET if calls % 24 else None)

        rows = shop.pictures(40)
        outcomes = await shop.upload(rows, timing=replace(WAITING, patience=20.0), listeners=[flap])
        assert [outcome.error for outcome in outcomes] == [""] * 40
        assert shop.stored() == identities(rows)
        assert shop.emulator.truth().reposts == 0


@pytest.mark.parametrize("call", ["any", "upload"])
async def test_an_outage_that_lasts_too_long_ends_the_run(call: str, tmp_path: Path) -> None:
    """After `max_outage` the run ends with exit code 1 and a sentence; its rows are pending, and it resumes."""
    async with open_shop(tmp_path) as shop:
        rows = shop.pictures(30)
        outage = Outage(lambda: shop.emulator.script_always(call, UNAVAILABLE), lambda: None)
        outcomes = await shop.upload(rows, timing=replace(WAITING, max_outage=0.3), listeners=[outage])
        assert isinstance(shop.ended, OutageError)
        assert shop.ended.exit_code == 1
        assert "run the same command again" in str(shop.ended)
        assert Status.PENDING in statuses(outcomes)
        assert set(statuses(outcomes)) <= {Status.UPLOADED, Status.PENDING}
        assert len(outcomes) == 30
        shop.emulator.script_always(call, None)
        again = await shop.upload(rows)
        assert set(statuses(again)) <= {Status.UPLOADED, Status.UNCHANGED}
        assert shop.stored() == identities(rows)
        assert shop.emulator.truth().reposts == 0


@pytest.mark.parametrize("fault", [RESET, UNAVAILABLE], ids=["reset", "503"])
async def test_an_api_that_is_away_from_the_start(fault: Fault, tmp_path: Path) -> None:
    """An API that is away when the run begins is an outage like any other: it is waited for beyond patience."""
    async with open_shop(tmp_path) as shop, asyncio.timeout(20):
        shop.emulator.script_always("any", fault)
        outage = Outage(lambda: None, lambda: shop.emulator.script_always("any", None))
        outcomes = await shop.upload(shop.pictures(3), timing=WAITING, listeners=[outage])
        _check_overcome(shop, statuses(outcomes), 3)


@pytest.mark.parametrize("call", ["reserve", "upload", "result"])
async def test_patience_stands_still_in_a_cool_down(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses that the other side asks for do not count as failing, however long they are together."""
    monkeypatch.setattr(answers, "LONGEST_PAUSE", PATIENCE / 2)
    async with open_shop(tmp_path) as shop:
        pause = Fault(FaultKind.THROTTLE, headers={"Retry-After": "1"})
        shop.emulator.script_next(call, *[pause] * 4)
        narrow = replace(shop.settings, pace=Pace(concurrency=1, rate=1_000_000), timing=WAITING)
        rows = shop.pictures(2)
        outcomes = await shop.upload(rows, settings=narrow)
        assert [outcome.error for outcome in outcomes] == ["", ""]
        assert sum(event.seconds for event in shop.heard(CoolDownBegan)) > PATIENCE * 1.5
        assert shop.heard(OutageBegan) == []
        assert shop.stored() == identities(rows)


async def test_one_picture_that_keeps_failing_is_no_outage(tmp_path: Path) -> None:
    """A host that has something against one picture is not away: that row alone fails when its patience ends."""
    async with open_shop(tmp_path) as shop:
        first, *others = shop.pictures(10)
        await shop.upload(others)
        shop.emulator.script_always("upload", Fault(FaultKind.STATUS, status=500))
        outcomes = await shop.upload([first, *others], timing=replace(WAITING, settle=0.0))
        assert statuses(outcomes) == [Status.FAILED] + [Status.UNCHANGED] * 9
        assert outcomes[0].reason == "gave up, try again"
        assert shop.heard(OutageBegan) == []
        assert len(shop.heard(RetryPlanned)) >= 8
