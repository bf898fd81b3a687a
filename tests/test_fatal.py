"""Answers after which nothing can go on: the run stops at once, hammers nobody, and loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from shop import EMULATOR, QUICK, Shop, identities, open_shop, statuses
from tileferry import Credentials, FatalError, Outcome, Pace, Status, TokenRefusedError
from tileferry.emulator import Fault, FaultKind
from tileferry.emulator.calls import Call as Seen
from tileferry.events import Call, CallEnded, Event


def _refusal(status: int, code: str) -> Fault:
    return Fault(FaultKind.STATUS, status=status, body=json.dumps({"errorCode": code}).encode())


@dataclass(frozen=True)
class Refusal:
    """An answer that ends a run, and words from the sentence that it ends with."""

    status: int
    code: str
    words: str


REFUSALS = [
    Refusal(402, "STORE_IS_SUSPENDED", "the store is suspended"),
    Refusal(402, "NOT_AVAILABLE_ON_CURRENT_PLAN", "upgrade the plan"),
    Refusal(402, "", "upgrade the plan"),
    Refusal(403, "INSUFFICIENT_APP_SCOPE", "the app needs the scope manage_instant_site"),
    Refusal(403, "INVALID_API_TOKEN", "the API refuses the token"),
    Refusal(401, "", "the API refuses the token"),
    Refusal(404, "STORE_NOT_FOUND", "check --store"),
]


def _own_secret(shop: Shop) -> Credentials:
    return Credentials(secret_token=shop.emulator.settings.secret_token, auth_url=shop.emulator.auth_url)


def _after(number: int, act: Callable[[], object], *, call: Call = Call.RESERVE) -> Callable[[Event], None]:
    """A listener that acts once, when so many calls of a kind have been answered."""
    seen = 0

    def listen(event: Event) -> None:
        nonlocal seen
        if isinstance(event, CallEnded) and event.call is call:
            seen += 1
            if seen == number:
                act()

    return listen


def _refused(shop: Shop) -> list[Seen]:
    """The API calls that came with a bad token, the first to be answered first."""
    return [call for call in shop.emulator.calls() if call.status == 403]


async def _check_resumable(shop: Shop, outcomes: list[Outcome], *, credentials: Credentials | None = None) -> None:
    """Every row had an outcome, and the next run brings all of them in, once."""
    rows = shop.pictures(len(outcomes))
    assert [outcome.line for outcome in outcomes] == [row.line for row in rows]
    assert set(statuses(outcomes)) <= {Status.PENDING, Status.UPLOADED}
    again = await shop.upload(rows, credentials=credentials)
    assert shop.ended is None
    assert set(statuses(again)) <= {Status.UPLOADED, Status.UNCHANGED}
    confirmed = [before.image_id for before in outcomes if before.status is Status.UPLOADED]
    assert confirmed == [
        after.image_id
        for before, after in zip(outcomes, again, strict=True)
        if before.status is Status.UPLOADED and after.status is Status.UNCHANGED
    ]
    assert shop.stored() == identities(rows)
    assert shop.emulator.truth().reposts == 0


async def test_a_wrong_token_is_sent_once(tmp_path: Path) -> None:
    """A token that was never good ends the run at the probe: exit code 3, one call in all."""
    async with open_shop(tmp_path) as shop:
        with pytest.raises(TokenRefusedError, match="refuses the token") as ended:
            await shop.upload(shop.pictures(20), credentials=Credentials(token="never-good"))
        assert ended.value.exit_code == 3
        assert shop.calls() == {"buckets": 1}
        assert shop.emulator.truth().bad_token_calls == 1


async def test_a_wrong_secret_is_sent_once(tmp_path: Path) -> None:
    """A secret token that cannot be exchanged ends the run after that one call."""
    async with open_shop(tmp_path) as shop:
        credentials = Credentials(secret_token="never-good", auth_url=shop.emulator.auth_url)
        with pytest.raises(TokenRefusedError, match="check ECWID_SECRET_TOKEN") as ended:
            await shop.upload(shop.pictures(20), credentials=credentials)
        assert ended.value.exit_code == 3
        assert shop.calls() == {"token": 1}


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.status} {refusal.code}")
async def test_a_refusal_at_the_start(refusal: Refusal, tmp_path: Path) -> None:
    """Token, scope, plan, suspended or unknown store: one call, exit code 3, and what the owner has to do."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script_always("any", _refusal(refusal.status, refusal.code))
        with pytest.raises(FatalError, match=refusal.words) as ended:
            await shop.upload(shop.pictures(20))
        assert ended.value.exit_code == 3
        assert shop.calls() == {"buckets": 1}


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.status} {refusal.code}")
@pytest.mark.parametrize("call", [Call.RESERVE, Call.RESULT])
async def test_a_refusal_in_the_middle(call: Call, refusal: Refusal, tmp_path: Path) -> None:
    """When the API refuses all from some call on, the run ends with that sentence and every row has an outcome."""
    async with open_shop(tmp_path) as shop:
        fault = _refusal(refusal.status, refusal.code)
        stop = _after(4, lambda: shop.emulator.script_always(call.value, fault), call=call)
        outcomes = await shop.upload(
            shop.pictures(12), settings=replace(shop.settings, pace=_narrow(2)), listeners=[stop]
        )
        assert shop.ended is not None
        assert refusal.words in str(shop.ended)
        assert shop.ended.exit_code == 3
        assert Status.PENDING in statuses(outcomes)
        # Those that were on their way when the first refusal came, and no more.
        refused = [event for event in shop.heard(CallEnded) if event.status == refusal.status]
        assert len(refused) <= 3
        shop.emulator.script_always(call.value, None)
        await _check_resumable(shop, outcomes)


async def test_an_unknown_store_ends_the_run(tmp_path: Path) -> None:
    """A store that the API does not know is no missing tile: the run ends after one call and says so."""
    async with open_shop(tmp_path) as shop:
        settings = replace(shop.settings, store_id=999, ledger=tmp_path / "other.sqlite3")
        with pytest.raises(FatalError, match="check --store"):
            await shop.upload(shop.pictures(3), settings=settings)
        assert shop.calls() == {"buckets": 1}


async def test_a_token_revoked_in_the_middle_is_not_hammered(tmp_path: Path) -> None:
    """After a given token is refused no further call is begun with it, however many workers there are."""
    async with open_shop(tmp_path, replace(EMULATOR, latency=(0.005, 0.02))) as shop:
        rows = shop.pictures(40)
        outcomes = await shop.upload(rows, listeners=[_after(20, shop.emulator.expire_token)])
        assert isinstance(shop.ended, TokenRefusedError)
        refused = _refused(shop)
        first = min(call.at + call.seconds for call in refused)
        # A moment, on a busy machine, in which the first refusal is on its way.
        assert [call for call in refused if call.at > first + 0.2] == []
        fresh = Credentials(token=shop.emulator.issue_token())
        await _check_resumable(shop, outcomes, credentials=fresh)


async def test_a_token_revoked_at_the_usual_rate_costs_three_calls(tmp_path: Path) -> None:
    """At the documented pace and a usual latency, a revoked token is sent three times at the most."""
    async with open_shop(tmp_path, replace(EMULATOR, latency=(0.05, 0.15), processing=(0.0, 0.0))) as shop:
        usual = replace(shop.settings, pace=Pace())
        rows = shop.pictures(8)
        outcomes = await shop.upload(rows, settings=usual, listeners=[_after(3, shop.emulator.expire_token)])
        assert isinstance(shop.ended, TokenRefusedError)
        assert 1 <= shop.emulator.truth().bad_token_calls <= 3
        await _check_resumable(shop, outcomes, credentials=Credentials(token=shop.emulator.issue_token()))


async def test_a_refused_token_is_replaced_once_for_all(tmp_path: Path) -> None:
    """With the app's secret, a token that is refused in the middle is exchanged once, whoever was refused."""
    async with open_shop(tmp_path, replace(EMULATOR, latency=(0.005, 0.01))) as shop:
        rows = shop.pictures(40)
        outcomes = await shop.upload(
            rows, credentials=_own_secret(shop), listeners=[_after(20, shop.emulator.expire_token)]
        )
        assert shop.ended is None
        assert statuses(outcomes) == [Status.UPLOADED] * 40
        assert shop.stored() == identities(rows)
        assert shop.calls()["token"] == 2
        # Each image had at most one call under way when the token was refused, and none was made with it again.
        assert 1 <= shop.emulator.truth().bad_token_calls <= len(rows)


async def test_tokens_that_are_revoked_again_and_again(tmp_path: Path) -> None:
    """However often the token is revoked, the run with the app's secret completes, with an exchange for each."""
    async with open_shop(tmp_path) as shop:
        times = 0

        def listen(event: Event) -> None:
            nonlocal times
            # Each token has then been good for something: one that never was would rightly end the run.
            if isinstance(event, CallEnded) and event.call is Call.RESERVE and event.status == 200:
                times += 1
                if times % 10 == 0:
                    shop.emulator.expire_token()

        rows = shop.pictures(60)
        narrow = replace(shop.settings, pace=_narrow(4))
        outcomes = await shop.upload(rows, settings=narrow, credentials=_own_secret(shop), listeners=[listen])
        assert shop.ended is None
        assert statuses(outcomes) == [Status.UPLOADED] * 60
        assert shop.stored() == identities(rows)
        assert 6 <= shop.calls()["token"] <= 7


async def test_tokens_that_expire_every_moment(tmp_path: Path) -> None:
    """Tokens that are good for fifteen hundredths of a second carry a run to its end."""
    async with open_shop(tmp_path, replace(EMULATOR, token_lifetime=0.15, processing=(0.05, 0.2))) as shop:
        rows = shop.pictures(30)
        narrow = replace(shop.settings, pace=_narrow(2))
        outcomes = await shop.upload(rows, settings=narrow, credentials=_own_secret(shop))
        assert shop.ended is None
        assert statuses(outcomes) == [Status.UPLOADED] * 30
        assert shop.stored() == identities(rows)
        assert shop.calls()["token"] >= 2


async def test_a_secret_revoked_in_the_middle_ends_the_run(tmp_path: Path) -> None:
    """When neither token nor secret is good any more, the run ends and both were sent a few times at the most."""
    async with open_shop(tmp_path) as shop:

        def revoke() -> None:
            shop.emulator.revoke_secret()
            shop.emulator.expire_token()

        narrow = replace(shop.settings, pace=_narrow(2))
        outcomes = await shop.upload(
            shop.pictures(20), settings=narrow, credentials=_own_secret(shop), listeners=[_after(5, revoke)]
        )
        assert isinstance(shop.ended, TokenRefusedError)
        assert shop.calls()["token"] == 2
        assert Status.PENDING in statuses(outcomes)
        await _check_resumable(shop, outcomes, credentials=Credentials(token=shop.emulator.issue_token()))


async def test_a_missing_scope_is_not_exchanged_away(tmp_path: Path) -> None:
    """A token that lacks the scope is not exchanged for another of the same app: that one would lack it too."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script_always("buckets", _refusal(403, "INSUFFICIENT_APP_SCOPE"))
        with pytest.raises(TokenRefusedError, match="manage_instant_site"):
            await shop.upload(shop.pictures(2), credentials=_own_secret(shop))
        assert shop.calls() == {"token": 1, "buckets": 1}


async def test_an_exchange_that_fails_in_passing_is_made_again(tmp_path: Path) -> None:
    """A reset, a 500 or nonsense in the place of a token is tried again and refuses nobody."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script_next(
            "token",
            Fault(FaultKind.RESET_BEFORE),
            Fault(FaultKind.STATUS, status=500),
            Fault(FaultKind.WRONG_JSON),
            Fault(FaultKind.BODY, body=b'{"accessToken": "two words"}'),
        )
        rows = shop.pictures(2)
        outcomes = await shop.upload(rows, credentials=_own_secret(shop), timing=QUICK)
        assert statuses(outcomes) == [Status.UPLOADED] * 2
        assert shop.calls()["token"] == 5


def _narrow(concurrency: int) -> Pace:
    return Pace(concurrency=concurrency, waiting=1, rate=1_000_000)
