"""The sliding minute and what happens to those who do not heed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tileferry.emulator import Fault, FaultKind
from tileferry.emulator.limits import RateLimit
from tileferry.emulator.settings import EmulatorSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from emulator.customer import Customer, FakeClock

    Enter = Callable[..., Awaitable[Customer]]


def limit(clock: FakeClock, rate: int | None = 3, hammer_calls: int = 20) -> RateLimit:
    """A limit that is easy to reach."""
    return RateLimit(EmulatorSettings(rate=rate, hammer_calls=hammer_calls, hammer_block=300), clock)


def test_no_span_of_sixty_seconds_holds_more_than_the_rate(clock: FakeClock) -> None:
    """Calls pass while the last 60 seconds have room, wherever those 60 seconds begin."""
    rate = limit(clock)
    passed = []
    for _ in range(100):
        clock.now += 7
        if rate.admit("a") is None:
            passed.append(clock.now)
    assert all(sum(begin <= time < begin + 60 for time in passed) <= 3 for begin in passed)
    # Three in each 63 seconds, the first multiple of 7 that the minute fits into.
    assert len(passed) == 34


def test_retry_after_is_when_a_call_may_pass(clock: FakeClock) -> None:
    """The seconds that are told are enough, and no fewer would be."""
    rate = limit(clock)
    for _ in range(3):
        clock.now += 10
        assert rate.admit("a") is None
    clock.now += 5
    assert rate.admit("a") == 35
    clock.now += 34.5
    assert rate.admit("a") == 0.5
    clock.now += 0.5
    assert rate.admit("a") is None
    assert rate.throttled == 2


def test_each_token_has_its_own_minute(clock: FakeClock) -> None:
    """One token's calls take nothing from another's."""
    rate = limit(clock)
    for _ in range(3):
        assert rate.admit("a") is None
    assert rate.admit("a") is not None
    assert rate.admit("b") is None
    assert rate.most == {"a": 4, "b": 1}


def test_hammering_is_blocked_for_longer(clock: FakeClock) -> None:
    """More than twenty refused calls in a minute block the token for the longer time, then it is free."""
    rate = limit(clock)
    waits = [rate.admit("a") for _ in range(24)]
    assert waits == [None] * 3 + [60] * 20 + [300]
    assert rate.hammered == 1
    clock.now += 299
    assert rate.admit("a") == 1
    clock.now += 1
    assert rate.admit("a") is None


def test_refused_calls_far_apart_are_no_hammering(clock: FakeClock) -> None:
    """Only the last minute's refusals count."""
    rate = limit(clock, rate=1, hammer_calls=2)
    for _ in range(10):
        rate.admit("a")
        clock.now += 25
    assert rate.hammered == 0


def test_a_token_that_does_not_work_is_blocked_too(clock: FakeClock) -> None:
    """A wrong token is refused twenty times and then blocked."""
    rate = limit(clock)
    assert [rate.refuse("x") for _ in range(22)] == [None] * 20 + [300, 300]


def test_without_a_rate_everything_passes_but_is_counted(clock: FakeClock) -> None:
    """Lifting the limit keeps the count of the busiest minute."""
    rate = limit(clock, rate=None)
    for _ in range(100):
        assert rate.admit("a") is None
        assert rate.refuse("b") is None
    clock.now += 60
    rate.admit("a")
    assert rate.most == {"a": 100}


async def test_over_the_rate_the_api_answers_429(enter: Enter, clock: FakeClock) -> None:
    """The API tells when to come back; uploads and the emulator's own pages do not count."""
    customer = await enter(rate=2)
    url = (await customer.reserve()).json["url"]
    assert (await customer.post(url)).status == 200
    clock.now += 0.5
    assert (await customer.buckets()).status == 200
    reply = await customer.buckets()
    assert reply.code == (429, "RATE_LIMITED")
    assert reply.headers["retry-after"] == "60"
    assert (await customer.send("GET", f"{customer.emulator.base_url}/_emulator/truth")).status == 200
    clock.now += 60
    assert (await customer.buckets()).status == 200
    truth = customer.emulator.truth()
    assert (truth.throttled, truth.hammered, truth.max_calls_in_window) == (1, 0, 3)


async def test_a_wrong_token_gets_its_block(enter: Enter) -> None:
    """After the allowed wrong calls even the exchange of a wrong secret is answered with 429."""
    customer = await enter(hammer_calls=1)
    customer.token = "wrong"
    assert [(await customer.buckets()).status for _ in range(2)] == [403, 429]
    query = "grant_type=authorization_code&site_id=1003&code=guess"
    url = f"{customer.emulator.auth_url}/oauth/token?{query}"
    replies = [await customer.send("POST", url) for _ in range(2)]
    assert [reply.status for reply in replies] == [403, 429]
    assert replies[1].headers["retry-after"] == "300"
    assert customer.emulator.truth().bad_token_calls == 4


async def test_a_fault_does_not_hide_the_limit(enter: Enter) -> None:
    """A call over the rate is answered with 429 even if it was meant to go wrong otherwise."""
    customer = await enter(rate=1)
    customer.emulator.script("buckets", 2, Fault(FaultKind.STATUS))
    assert [(await customer.buckets()).status for _ in range(2)] == [200, 429]
    assert customer.emulator.truth().faults == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "0.0.0.0"},  # noqa: S104 - refused, which is the point
        {"host": "example.com"},
        {"token": ""},
        {"port": 70_000},
        {"rate": 0},
        {"fault_rate": 1.5},
        {"processing": (2, 1)},
        {"latency": (float("nan"), 1)},
        {"set_shape": "tree"},
        {"slot_posts": "never"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    """Settings are checked at birth, above all that nobody but this machine is served."""
    with pytest.raises(ValueError, match=r"expected|loopback|empty"):
        EmulatorSettings(**wrong)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_every_loopback_address_is_taken(host: str) -> None:
    """Names and addresses that can only mean this machine are fine."""
    assert EmulatorSettings(host=host).host == host


def test_secrets_are_not_shown() -> None:
    """Neither token is in the settings' representation."""
    assert "hush" not in repr(EmulatorSettings(token="hush-1", secret_token="hush-2"))
