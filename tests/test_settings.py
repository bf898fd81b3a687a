"""Settings: what is accepted, what is refused with which sentence, and where the ledger lies."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from tileferry.errors import UsageError
from tileferry.settings import (
    API_URL,
    AUTH_URLS,
    EMULATOR_HOST,
    Pace,
    Settings,
    Timing,
    checked_url,
    is_loopback,
)


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        (API_URL, API_URL),
        (AUTH_URLS[1], AUTH_URLS[1]),
        ("https://api.example/v1/", "https://api.example/v1"),
        ("https://api.example:8443/v1///", "https://api.example:8443/v1"),
        ("https://api.example", "https://api.example"),
        ("https://192.0.2.7/v1", "https://192.0.2.7/v1"),
        ("https://[2001:db8::1]/v1", "https://[2001:db8::1]/v1"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1:8080/api", "http://127.0.0.1:8080/api"),
        ("http://127.8.9.10", "http://127.8.9.10"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("HTTPS://api.example/V1", "HTTPS://api.example/V1"),
    ],
)
def test_good_url(url: str, checked: str) -> None:
    """An encrypted address, or a plain one of this very machine, is taken, without slashes at its end."""
    assert checked_url(url, "the API URL") == checked


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "is not a web address"),
        ("api.example/v1", "is not a web address"),
        ("//api.example/v1", "is not a web address"),
        ("ftp://api.example", "is not a web address"),
        ("file:///etc/passwd", "is not a web address"),
        ("https://", "is not a web address"),
        ("https:///v1", "is not a web address"),
        ("https://api.example:port", "is not a web address"),
        ("https://api.example:99999", "is not a web address"),
        ("https://[::1", "is not a web address"),
        ("https://api.example/a b", "is not a web address"),
        (" https://api.example", "is not a web address"),
        ("https://api.example/\r\nX-Evil: 1", "is not a web address"),
        ("https://api.example/\x00", "is not a web address"),
        ("https://user@api.example", "must not hold a user name"),
        ("https://user:pass@api.example", "must not hold a user name"),
        ("https://api.example@evil.example", "must not hold a user name"),
        ("https://api.example/v1?key=1", "a query"),
        ("https://api.example/v1#part", "a fragment"),
        ("http://api.example/v1", "would send the token unencrypted to api.example"),
        ("http://192.168.0.7", "unencrypted"),
        ("http://0.0.0.0", "unencrypted"),
        ("http://localhost.example", "unencrypted"),
        ("http://127.0.0.1.example", "unencrypted"),
        ("http://[2001:db8::1]", "unencrypted"),
    ],
)
def test_bad_url(url: str, told: str) -> None:
    """Whatever a token must not travel to is refused, with a sentence that names the setting."""
    with pytest.raises(UsageError, match=told) as caught:
        checked_url(url, "the API URL")
    assert str(caught.value).startswith("the API URL ")


@pytest.mark.parametrize("url", ["https://api.example/v1?", "https://api.example/v1#", "https://@api.example/v1"])
def test_url_with_an_empty_query_fragment_or_user_is_refused(url: str) -> None:
    """A lone `?` or `#` would swallow the path that is put behind it, so it counts as a query or fragment."""
    with pytest.raises(UsageError, match="must not hold"):
        checked_url(url, "the API URL")


@pytest.mark.parametrize("url", ["https://user:s3cret@api\uff0fexample/", "https://s3cret@[::1"])
def test_refused_url_is_not_quoted(url: str) -> None:
    """A password that someone put into a URL is in no message, nor in the traceback behind it."""
    with pytest.raises(UsageError) as caught:
        checked_url(url, "the API URL")
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 - an address to judge
        ("::", False),
        ("10.0.0.1", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """Only names and addresses that can mean nothing but this machine are loopback."""
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("kind", "name", "good", "bad"),
    [
        (Pace, "concurrency", [1, 1000], [0, -1, 1001, math.nan, math.inf]),
        (Pace, "rate", [1, 600, 10_000_000], [0, -600, 10_000_001, math.nan]),
        (Pace, "margin", [0, 0.9, 60], [-0.1, 61, math.nan]),
        (Pace, "waiting", [1, 100_000], [0, 100_001]),
        (Timing, "backoff", [0.001, 60], [0, -1, math.nan]),
        (Timing, "probe", [0.001, 60], [0, -1, math.nan]),
        *(
            (Timing, item.name, [0, 0.5, 30 * 86400], [-1, 30 * 86400 + 1, math.nan, math.inf])
            for item in dataclasses.fields(Timing)
            if item.name not in {"backoff", "probe"}
        ),
    ],
)
def test_numbers_are_checked_at_birth(
    kind: type[Pace | Timing], name: str, good: list[float], bad: list[float]
) -> None:
    """Each number is taken at the ends of its range and refused beyond, with a sentence that names it."""
    for value in good:
        given: dict[str, Any] = {name: value}
        assert getattr(kind(**given), name) == value
    for value in bad:
        given = {name: value}
        with pytest.raises(UsageError, match=f"^{name} is {value}; expected "):
            kind(**given)


@pytest.mark.parametrize("store", [0, -1, 2**63, 10**400], ids=["zero", "negative", "beyond 64 bits", "absurd"])
def test_store_id_that_is_none(store: int) -> None:
    """A store id that no store can have is refused with a sentence, however long it is."""
    with pytest.raises(UsageError, match=r"^store is "):
        Settings(store_id=store)


@pytest.mark.parametrize("name", ["file", "image_1", "a.b-c", "x" * 64])
def test_field_name(name: str) -> None:
    """The upload field may be renamed within what needs no quoting."""
    assert Settings(store_id=1, field_name=name).field_name == name


@pytest.mark.parametrize("name", ["", "a b", 'a"', "a\r\nb", "a;b", "\u00e4", "x" * 65, "a\n"])
def test_field_name_that_would_break_the_form(name: str) -> None:
    """A field name that could end its quotes or its line is refused."""
    with pytest.raises(UsageError, match="field"):
        Settings(store_id=1, field_name=name)


def test_settings_are_frozen() -> None:
    """Nothing about a run changes after its beginning."""
    settings = Settings(store_id=1)
    for record, name in ((settings, "store_id"), (settings.pace, "rate"), (settings.timing, "patience")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, 2)


def test_defaults_are_what_is_documented() -> None:
    """Out of the box: the real API, 600 calls a minute, 16 workers, 15 minutes of patience, an hour of outage."""
    settings = Settings(store_id=7)
    assert settings.api_url == "https://vuega.ecwid.com/api/v1"
    assert settings.field_name == "file"
    assert (settings.pace.rate, settings.pace.concurrency) == (600, 16)
    assert (settings.timing.patience, settings.timing.max_outage, settings.timing.grace) == (900, 3600, 10)


@pytest.mark.parametrize(
    ("api_url", "ledger_host", "host"),
    [
        (API_URL, "", "vuega.ecwid.com"),
        ("https://API.example/v1", "", "api.example"),
        ("https://api.example:8443/v1", "", "api.example:8443"),
        ("https://api.example:443/v1", "", "api.example"),
        ("https://api.example:/v1", "", "api.example"),
        ("http://localhost:80", "", "localhost"),
        ("http://127.0.0.1:40001", EMULATOR_HOST, "emulator"),
    ],
)
def test_host_as_the_ledger_knows_it(api_url: str, ledger_host: str, host: str) -> None:
    """One API host has one name, however its URL is written: a second one would upload everything again."""
    assert Settings(store_id=1, api_url=api_url, ledger_host=ledger_host).host == host


def test_ledger_path_follows_host_and_store_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each API host and store has a ledger of its own in the state directory; nothing else changes its place."""
    monkeypatch.setattr("tileferry.settings.platformdirs.user_state_path", lambda *_args, **_kwargs: tmp_path)
    first = Settings(store_id=1).ledger_path
    assert first == tmp_path / "vuega.ecwid.com-1.sqlite3"
    others = {
        Settings(store_id=2).ledger_path,
        Settings(store_id=1, api_url="https://api.example:8443").ledger_path,
        Settings(store_id=1, api_url="http://[::1]:8080").ledger_path,
        Settings(store_id=1, ledger_host=EMULATOR_HOST).ledger_path,
    }
    assert len({first, *others}) == 5
    assert {path.parent for path in others} == {tmp_path}
    assert not any(set(path.name) & set(':/\\*?"<>|') for path in others)
    same = Settings(
        store_id=1,
        api_url=API_URL + "/",
        confirm=False,
        force=True,
        field_name="photo",
        pace=Pace(rate=60),
        timing=Timing(patience=1),
    )
    assert same.ledger_path == first


def test_ledger_path_as_given() -> None:
    """A ledger that is named is used as it is."""
    assert Settings(store_id=1, ledger=Path("here.sqlite3")).ledger_path == Path("here.sqlite3")
