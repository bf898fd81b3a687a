"""Whatever fails in a single call: the image is stored once, and nothing is sent that is there already."""

from __future__ import annotations

import asyncio
import email.utils
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from shop import EMULATOR, QUICK, Shop, identities, identity, open_shop, statuses
from tileferry import BadRow, Outcome, Row, Status, answers
from tileferry.clock import Clock
from tileferry.emulator import Fault, FaultKind
from tileferry.events import Call, CallEnded, CoolDownBegan, OutageBegan

BRISK = replace(QUICK, settle=0.1)
"""Where it is known that no image will turn up."""

GONE = Fault(FaultKind.STATUS, status=404)
"""On a result: there is no such image."""

STORED_BUT_UNHEARD = [
    Fault(FaultKind.RESET_AFTER),
    Fault(FaultKind.STATUS_AFTER, status=500),
    Fault(FaultKind.STATUS_AFTER, status=502),
    Fault(FaultKind.STATUS_AFTER, status=503, headers={"Retry-After": "0.01"}),
    Fault(FaultKind.STATUS_AFTER, status=408),
    Fault(FaultKind.TRUNCATED),
    Fault(FaultKind.HANG_AFTER),
    Fault(FaultKind.ENDLESS, act=True),
    Fault(FaultKind.DRIP, seconds=1.0),
    Fault(FaultKind.WRONG_JSON),
    Fault(FaultKind.NOT_JSON),
    Fault(FaultKind.BODY, body=b"", act=True),
    Fault(FaultKind.BODY, body=b"<!DOCTYPE html><p>thanks", act=True),
    Fault(FaultKind.BODY, status=302, headers={"Location": "/elsewhere"}, act=True),
]
NOTHING_STORED = [
    Fault(FaultKind.RESET_BEFORE),
    Fault(FaultKind.RESET_WITHIN),
    Fault(FaultKind.STATUS, status=500),
    Fault(FaultKind.STATUS, status=503),
    Fault(FaultKind.STATUS, status=408),
    Fault(FaultKind.HANG),
    Fault(FaultKind.HTML),
    Fault(FaultKind.ENDLESS),
]
UNANSWERED = [
    Fault(FaultKind.RESET_BEFORE),
    Fault(FaultKind.STATUS, status=500),
    Fault(FaultKind.STATUS, status=502),
    Fault(FaultKind.STATUS, status=408),
    Fault(FaultKind.HANG),
    Fault(FaultKind.HTML),
    Fault(FaultKind.TRUNCATED),
    Fault(FaultKind.WRONG_JSON),
    Fault(FaultKind.NOT_JSON),
    Fault(FaultKind.ENDLESS),
    Fault(FaultKind.DRIP, seconds=0.5),
    *(Fault(FaultKind.BODY, body=body) for body in (b"", b"null", b"[]", b"{}", b'"x"', b"[" * 5000, b"\0\xff")),
    Fault(FaultKind.BODY, status=204),
    Fault(FaultKind.BODY, status=304),
]


def _name(fault: Fault) -> str:
    details = (fault.kind.value, fault.status, "act" if fault.act else None, fault.body and fault.body[:6])
    return " ".join(str(detail) for detail in details if detail)


async def _check_once(
    shop: Shop, row: Row, outcome: Outcome, *, uploads: int, slots: int = 1, reposts: int = 0
) -> None:
    """The row is in, its picture stored once, for so many uploads to so many slots."""
    # A call that was given up is over only when the emulator notices.
    async with asyncio.timeout(5):
        await shop.emulator.until("upload", uploads)
    truth = shop.emulator.truth()
    assert (outcome.status, outcome.error) == (Status.UPLOADED, "")
    assert shop.stored() == {identity(row)}
    assert truth.images[0].image_id == outcome.image_id
    assert (truth.calls["upload"], truth.slots, truth.reposts) == (uploads, slots, reposts)


@pytest.mark.parametrize("fault", STORED_BUT_UNHEARD, ids=_name)
async def test_an_image_that_was_stored_is_not_sent_again(fault: Fault, tmp_path: Path) -> None:
    """When the host stores the picture but its answer is lost or wrong, the API is asked and nothing sent anew."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("upload", 1, fault)
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row])
        await _check_once(shop, row, outcome, uploads=1)


@pytest.mark.parametrize("fault", NOTHING_STORED, ids=_name)
async def test_an_image_that_was_not_stored_goes_to_the_same_slot(fault: Fault, tmp_path: Path) -> None:
    """When an upload fails and no image turns up, the body is sent again to the slot that is there already."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("upload", 1, fault)
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row], timing=BRISK)
        await _check_once(shop, row, outcome, uploads=2)


async def test_an_upload_that_moves_no_byte_is_given_up(tmp_path: Path) -> None:
    """A server that stops reading is left after `stall` seconds; no whole body left, so it goes again at once."""
    async with open_shop(tmp_path, replace(EMULATOR, receive_buffer=4096)) as shop:
        shop.emulator.script("upload", 1, Fault(FaultKind.STALL))
        row = shop.picture("large.jpg", size=12_000_000)
        # Were the image waited for, the test would take an hour.
        [outcome] = await shop.upload([row], timing=replace(QUICK, settle=3600.0))
        assert (outcome.status, outcome.error) == (Status.UPLOADED, "")
        assert shop.stored() == {identity(row)}
        assert [event.call for event in shop.heard(CallEnded)].count(Call.UPLOAD) == 2
        assert shop.emulator.truth().slots == 1
        assert shop.calls()["result"] <= 3


async def test_the_connection_of_a_stalled_upload_is_dropped(tmp_path: Path) -> None:
    """An upload that is given up does not leave its connection open: the server notices that nobody is there."""
    async with open_shop(tmp_path, replace(EMULATOR, receive_buffer=4096)) as shop:
        shop.emulator.script("upload", 1, Fault(FaultKind.STALL))
        await shop.upload([shop.picture("large.jpg", size=12_000_000)])
        async with asyncio.timeout(3):
            await shop.emulator.until("upload", 2)


@pytest.mark.parametrize("fault", UNANSWERED, ids=_name)
@pytest.mark.parametrize("call", ["buckets", "reserve", "result"])
async def test_a_call_without_a_good_answer_is_made_again(call: str, fault: Fault, tmp_path: Path) -> None:
    """Whatever comes instead of an answer to a probe, a reservation or a question, the call is made again."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script(call, 1, fault)
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row])
        reserved_unheard = call == "reserve" and shop.emulator.truth().slots == 2
        await _check_once(shop, row, outcome, uploads=1, slots=2 if reserved_unheard else 1)
        async with asyncio.timeout(5):
            await shop.emulator.until(call, 2)


async def test_a_reservation_whose_answer_is_lost_leaves_an_unused_slot(tmp_path: Path) -> None:
    """A slot that was reserved without our hearing of it stays empty; the picture goes to the next one, once."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("reserve", 1, Fault(FaultKind.RESET_AFTER))
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row])
        await _check_once(shop, row, outcome, uploads=1, slots=2)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410])
async def test_a_slot_that_is_refused_with_the_image_behind_it(status: int, tmp_path: Path) -> None:
    """When the second POST is refused because the image is there, the image counts and no slot is reserved."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("upload", 1, Fault(FaultKind.RESET_BEFORE))
        shop.emulator.script("upload", 2, Fault(FaultKind.SLOT_REFUSED, status=status, act=True))
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row])
        await _check_once(shop, row, outcome, uploads=2)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_slot_that_is_refused_with_nothing_behind_it(status: int, tmp_path: Path) -> None:
    """When the second POST is refused and no image turns up, and only then, a new slot is reserved."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("upload", 1, Fault(FaultKind.RESET_BEFORE))
        shop.emulator.script("upload", 2, Fault(FaultKind.SLOT_REFUSED, status=status))
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row], timing=BRISK)
        await _check_once(shop, row, outcome, uploads=3, slots=2)


async def test_slots_that_are_refused_again_and_again(tmp_path: Path) -> None:
    """Three refused slots end the row with that reason; the next run tries it anew."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script_always("upload", Fault(FaultKind.SLOT_REFUSED))
        row = shop.picture("hero.jpg")
        [refused] = await shop.upload([row], timing=replace(QUICK, settle=0.1))
        assert (refused.status, refused.reason) == (Status.FAILED, "upload slot refused")
        assert shop.emulator.truth().slots == 3
        shop.emulator.script_always("upload", None)
        [outcome] = await shop.upload([row])
        await _check_once(shop, row, outcome, uploads=4, slots=4)


async def test_a_used_slot_shows_its_image_late(tmp_path: Path) -> None:
    """A 409 for the second body says that the first one arrived: it is waited for, beyond `settle`."""
    async with open_shop(tmp_path, replace(EMULATOR, processing=(0.6, 0.6))) as shop:
        shop.emulator.script("upload", 1, Fault(FaultKind.RESET_AFTER))
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row], timing=replace(QUICK, settle=0.05))
        # The repeated body is what a processing time beyond `settle` costs; the 409 keeps it from being stored.
        await _check_once(shop, row, outcome, uploads=2, reposts=1)


async def test_a_used_slot_that_shows_no_image_is_never_replaced(tmp_path: Path) -> None:
    """A 409 with no image behind it fails the row when patience ends, without a second slot: it may be there."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("upload", 1, Fault(FaultKind.SLOT_REFUSED, status=409))
        row = shop.picture("hero.jpg")
        [refused] = await shop.upload([row], timing=replace(QUICK, patience=0.3))
        assert (refused.status, refused.reason) == (Status.FAILED, "slot used, image not shown")
        assert shop.emulator.truth().slots == 1
        [outcome] = await shop.upload([row])
        await _check_once(shop, row, outcome, uploads=2)


async def test_force_frees_a_row_from_a_used_slot(tmp_path: Path) -> None:
    """What the message of a used slot without an image advises works: `force` uploads it anew, to a new slot."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script_next("upload", *[Fault(FaultKind.SLOT_REFUSED, status=409)] * 2)
        row = shop.picture("hero.jpg")
        impatient = replace(QUICK, patience=0.3, settle=0.05)
        [refused] = await shop.upload([row], timing=impatient)
        assert "--force" in refused.error
        [still] = await shop.upload([row], timing=impatient)
        assert still.reason == refused.reason
        shop.emulator.script_next("upload", Fault(FaultKind.SLOT_REFUSED, status=409))
        [outcome] = await shop.upload([row], settings=replace(shop.settings, force=True, timing=impatient))
        assert shop.emulator.truth().slots == 2, outcome.error


async def test_a_result_that_takes_its_time(tmp_path: Path) -> None:
    """No result, then an empty one, then the image: it is asked for until it is there, and sent once."""
    async with open_shop(tmp_path, replace(EMULATOR, processing=(0.3, 0.3))) as shop:
        rows = shop.pictures(2)
        outcomes = await shop.upload(rows)
        assert statuses(outcomes) == [Status.UPLOADED] * 2
        assert shop.stored() == identities(rows)
        truth = shop.emulator.truth()
        assert (truth.calls["upload"], truth.slots) == (2, 2)
        seen = {call.status for call in shop.emulator.calls() if call.kind == "result"}
        assert seen == {200, 404}


async def test_a_result_that_never_comes(tmp_path: Path) -> None:
    """When patience ends the row says what is known; the next run asks first and, finding it, sends nothing."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script_always("result", GONE)
        row = shop.picture("hero.jpg")
        [waiting] = await shop.upload([row], timing=replace(QUICK, patience=0.3, resend=60))
        assert (waiting.status, waiting.reason) == (Status.FAILED, "sent, result not shown")
        assert "Run the same command again" in waiting.error
        shop.emulator.script_always("result", None)
        before = shop.calls()
        [outcome] = await shop.upload([row])
        await _check_once(shop, row, outcome, uploads=1)
        assert shop.calls() - before == {"buckets": 1, "result": 1}


async def test_an_upload_that_was_accepted_and_lost_is_sent_again(tmp_path: Path) -> None:
    """An accepted picture that shows no result for `resend` seconds goes to its slot once more."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("upload", 1, Fault(FaultKind.BODY, body=b"{}"))
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row], timing=replace(QUICK, resend=0.2))
        await _check_once(shop, row, outcome, uploads=2)


async def test_a_picture_that_keeps_failing_ends_with_its_reason(tmp_path: Path) -> None:
    """Patience is measured per image: the row fails with the last problem, and the next run goes on from there."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script_always("upload", Fault(FaultKind.STATUS, status=500))
        row = shop.picture("hero.jpg")
        impatient = replace(QUICK, patience=0.3, settle=0.01)
        [failed] = await shop.upload([row], timing=impatient)
        assert (failed.status, failed.reason) == (Status.FAILED, "gave up, try again")
        assert "HTTP 500" in failed.error
        assert shop.heard(OutageBegan) == []
        shop.emulator.script_always("upload", None)
        uploads = shop.calls()["upload"]
        [outcome] = await shop.upload([row])
        await _check_once(shop, row, outcome, uploads=uploads + 1)


@pytest.mark.parametrize("status", [400, 411, 413, 415, 422])
async def test_a_refused_picture_fails_at_once(status: int, tmp_path: Path) -> None:
    """What says "not this picture" ends the row after one POST, with the answer as its reason."""
    async with open_shop(tmp_path) as shop:
        answer = b'{"errorCode": "WRONG", "errorMessage": "not this one"}'
        shop.emulator.script("upload", 1, Fault(FaultKind.STATUS, status=status, body=answer))
        [outcome] = await shop.upload([shop.picture("hero.jpg")])
        assert (outcome.status, outcome.reason) == (Status.FAILED, f"picture refused (HTTP {status})")
        assert "not this one" in outcome.error
        assert shop.calls()["upload"] == 1


NOW = 1_700_000_000.9
"""The time of day in the tests of Retry-After."""


@dataclass(frozen=True)
class Pause:
    """What a Retry-After says and how long the pause then is, in seconds."""

    header: str | None
    seconds: float


PAUSES = [
    Pause("0.15", 0.15),
    Pause(email.utils.formatdate(NOW + 0.1, usegmt=True), 0.1),
    Pause(email.utils.formatdate(NOW - 3600, usegmt=True), 0.05),
    Pause("-5", 0.05),
    Pause("soon", 0.05),
    Pause("", 0.05),
    Pause(None, 0.05),
    Pause("nan", 0.05),
    Pause("0", 0.01),
    Pause("99999999999", 0.3),
    Pause(email.utils.formatdate(NOW + 10**8, usegmt=True), 0.3),
]


@pytest.mark.parametrize("pause", PAUSES, ids=lambda pause: str(pause.header))
@pytest.mark.parametrize("call", ["reserve", "upload", "result"])
async def test_a_request_for_a_pause_is_heeded(
    call: str, pause: Pause, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a 429 nothing is called until Retry-After is over, or a sensible time where it makes no sense."""
    monkeypatch.setattr(answers, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(answers, "LONGEST_PAUSE", 0.3)
    headers = {} if pause.header is None else {"Retry-After": pause.header}
    async with open_shop(tmp_path) as shop:
        shop.emulator.script(call, 1, Fault(FaultKind.THROTTLE, headers=headers))
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row], clock=Clock(wall=lambda: NOW))
        await _check_once(shop, row, outcome, uploads=2 if call == "upload" else 1)
        assert [event.seconds for event in shop.heard(CoolDownBegan)] == [pytest.approx(pause.seconds, abs=1e-3)]
        throttled, after = [each for each in shop.emulator.calls() if each.kind == call][:2]
        assert throttled.status == 429
        assert after.at - throttled.at >= pause.seconds - 0.005


SOLE = [kind for kind in FaultKind if kind is not FaultKind.SLOT_REFUSED]
"""All faults but those after which a new slot may rightly be reserved."""


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_kind_of_fault_in_a_third_of_all_calls(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 30 % of all calls failing in every known way, each good picture is stored exactly once and confirmed.

    Bad rows fail with their own reasons, and no stored image is posted again. Only a slot that was called used
    while it was empty may keep its row from ending in the first run; the next one gets it in.
    """
    monkeypatch.setattr(answers, "LONGEST_PAUSE", 0.05)
    chaos = replace(EMULATOR, fault_rate=0.3, seed=seed, processing=(0.0, 0.05))
    async with open_shop(tmp_path, chaos) as shop:
        good = shop.pictures(60)
        bad: list[Row | BadRow] = [
            BadRow(line=101, tile_id="", source="x.jpg", problem="line 101 names no tile"),
            Row(line=102, tile_id="hero", source="nowhere.jpg", path=tmp_path / "nowhere.jpg"),
            shop.picture("lost.jpg", tile="missing tile", line=103),
        ]
        timing = replace(QUICK, patience=5.0)
        outcomes = await shop.upload([*good, *bad], timing=timing)
        unfinished = [outcome for outcome in outcomes[:60] if outcome.status is not Status.UPLOADED]
        assert {outcome.reason for outcome in unfinished} <= {"slot used, image not shown"}
        for _ in range(3):
            outcomes = await shop.upload([*good, *bad], timing=timing)
        assert set(statuses(outcomes[:60])) == {Status.UNCHANGED}
        reasons = [outcome.reason for outcome in outcomes[60:]]
        assert reasons == ["bad manifest row", "file is missing", "tile not found"]
        assert shop.stored() == identities(good)
        truth = shop.emulator.truth()
        assert truth.reposts == 0
        assert truth.token_leaks == 0
        assert len(truth.faults) >= 12


@pytest.mark.parametrize("seed", [4, 5])
async def test_faults_without_refused_slots_are_overcome_in_one_run(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without refused slots one run is enough, with one used slot for each picture whatever else fails."""
    monkeypatch.setattr(answers, "LONGEST_PAUSE", 0.05)
    chaos = replace(EMULATOR, fault_rate=0.3, fault_kinds=tuple(SOLE), seed=seed)
    async with open_shop(tmp_path, chaos) as shop:
        rows = shop.pictures(60)
        outcomes = await shop.upload(rows)
        assert [outcome.error for outcome in outcomes] == [""] * 60
        assert shop.stored() == identities(rows)
        truth = shop.emulator.truth()
        assert truth.reposts == 0
        assert {image.posted for image in truth.images} == {1}


async def test_faults_do_not_lose_what_a_hasty_run_left(tmp_path: Path) -> None:
    """Rows left unconfirmed are collected by a later run, even where every call fails once on the way."""
    async with open_shop(tmp_path) as shop:
        rows = shop.pictures(4)
        await shop.upload(rows, settings=replace(shop.settings, confirm=False))
        shop.emulator.script_next("result", *[Fault(FaultKind.RESET_BEFORE)] * 4)
        outcomes = await shop.upload(rows)
        assert all(outcome.url for outcome in outcomes)
        assert shop.stored() == identities(rows)
        assert shop.calls()["upload"] == 4


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_slot_of_an_earlier_run_that_is_too_old_is_asked_about_and_replaced(
    arrived: bool, tmp_path: Path
) -> None:
    """With a slot lifetime set, no body goes to an older slot; it is replaced only when no image is behind it."""
    async with open_shop(tmp_path) as shop:
        row = shop.picture("hero.jpg")
        fault = Fault(FaultKind.HANG_AFTER if arrived else FaultKind.RESET_BEFORE)
        shop.emulator.script_always("upload", fault)
        shop.emulator.script_always("result", Fault(FaultKind.STATUS, status=500))
        impatient = replace(QUICK, patience=0.6)
        [outcome] = await shop.upload([row], timing=impatient)
        assert outcome.status is Status.FAILED
        before = shop.calls()
        shop.emulator.script_always("upload", None)
        shop.emulator.script_always("result", None)
        [outcome] = await shop.upload([row], timing=replace(QUICK, slot_lifetime=0.001))
        assert outcome.status is Status.UPLOADED
        assert shop.stored() == identities([row])
        after = shop.calls()
        assert after["reserve"] - before["reserve"] == (0 if arrived else 1)
        assert after["upload"] - before["upload"] == (0 if arrived else 1)
