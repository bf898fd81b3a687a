"""The token: where it comes from, when it is replaced, and that nobody sees it."""

from __future__ import annotations

import asyncio
import os
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

import virtual_time
from tileferry.auth import LONGEST_AHEAD, REFRESH_AHEAD, Auth, Credentials
from tileferry.clock import Clock
from tileferry.errors import FatalError, TokenRefusedError, TransientError, UsageError
from tileferry.settings import AUTH_URLS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

TOKEN = "given-T0KEN-c0ffee"
SECRET = "app-S3CRET-c0ffee"
REFUSAL = TokenRefusedError("the API refuses the token (HTTP 403)")
INCURABLE = TokenRefusedError("the app needs the scope", curable=False)


@dataclass(slots=True)
class Bank:
    """An exchange by script: each step is a lifetime, or an error; tokens are numbered."""

    steps: list[float | BaseException | None] = field(default_factory=lambda: [86400.0])
    asked: list[str] = field(default_factory=list)
    day: float = 1_000_000.0

    async def exchange(self, secret: str) -> tuple[str, float | None]:
        """Hand out the next token after a while."""
        self.asked.append(secret)
        number = len(self.asked)
        step = self.steps[min(number, len(self.steps)) - 1]
        await asyncio.sleep(3)
        if isinstance(step, BaseException):
            raise step
        return f"access-{number}", step

    def auth(self, *, token: str | None = None, secret: str | None = SECRET) -> Auth:
        """A fresh Auth whose time of day is this bank's."""
        credentials = Credentials(token=token, secret_token=secret)
        return Auth(credentials, self.exchange, Clock(wall=lambda: self.day))


def in_time(test: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    """Run an async test on virtual time."""

    def run() -> None:
        virtual_time.run(test())

    run.__doc__ = test.__doc__
    return run


@in_time
async def test_given_token_is_used_as_it_is() -> None:
    """A given token is handed out for ever, whatever the time of day, and nothing is exchanged."""
    bank = Bank()
    auth = bank.auth(token=TOKEN, secret=None)
    assert await auth.token() == TOKEN
    bank.day += 10 * 365 * 86400
    assert await auth.token() == TOKEN
    assert bank.asked == []


@in_time
async def test_given_token_goes_before_the_secret_one() -> None:
    """With both, the given token is used until it is refused; then one is exchanged."""
    bank = Bank()
    auth = bank.auth(token=TOKEN)
    assert await auth.token() == TOKEN
    assert bank.asked == []
    await auth.refused(TOKEN, REFUSAL)
    assert await auth.token() == "access-1"
    assert bank.asked == [SECRET]


@in_time
async def test_secret_token_is_exchanged_once_for_all() -> None:
    """However many workers ask at once, one exchange serves them all."""
    bank = Bank()
    auth = bank.auth()
    assert set(await asyncio.gather(*(auth.token() for _ in range(50)))) == {"access-1"}
    assert bank.asked == [SECRET]


@pytest.mark.parametrize(
    ("lifetime", "ahead"),
    [(86400.0, LONGEST_AHEAD), (1000.0, 1000.0 * REFRESH_AHEAD), (20.0, 2.0), (None, LONGEST_AHEAD)],
)
def test_token_is_replaced_ahead_of_its_end(lifetime: float | None, ahead: float) -> None:
    """A tenth of its lifetime, at most ten minutes, before its end a token is replaced; one untold lasts a day."""

    async def main() -> None:
        bank = Bank([lifetime])
        auth = bank.auth()
        assert await auth.token() == "access-1"
        bank.day += (lifetime or 86400.0) - ahead - 0.01
        assert await auth.token() == "access-1"
        bank.day += 0.02
        assert set(await asyncio.gather(*(auth.token() for _ in range(20)))) == {"access-2"}
        assert len(bank.asked) == 2

    virtual_time.run(main())


@in_time
async def test_lifetime_counts_by_the_time_of_day() -> None:
    """A machine that slept through a token's lifetime exchanges a new one, though its own seconds stood still."""
    bank = Bank()
    auth = bank.auth()
    await auth.token()
    bank.day += 2 * 86400
    assert await auth.token() == "access-2"


@in_time
async def test_refused_token_is_replaced_once_for_all() -> None:
    """Sixteen workers whose calls are refused with the same token cause a single exchange, and go on with it."""
    bank = Bank()
    auth = bank.auth()
    first = await auth.token()
    auth.accepted(first)
    await asyncio.gather(*(auth.refused(first, REFUSAL) for _ in range(16)))
    assert set(await asyncio.gather(*(auth.token() for _ in range(16)))) == {"access-2"}
    assert len(bank.asked) == 2


@in_time
async def test_refused_token_is_never_handed_out_again() -> None:
    """While a refused token is being replaced, those who ask wait for the new one."""
    bank = Bank()
    auth = bank.auth()
    first = await auth.token()
    auth.accepted(first)
    replacing = asyncio.create_task(auth.refused(first, REFUSAL))
    await asyncio.sleep(0)
    assert set(await asyncio.gather(*(auth.token() for _ in range(5)))) == {"access-2"}
    await replacing


@in_time
async def test_late_refusal_of_an_old_token_changes_nothing() -> None:
    """A call that was under way with the old token does not cost the new one."""
    bank = Bank()
    auth = bank.auth(token=TOKEN)
    await auth.refused(TOKEN, REFUSAL)
    await auth.refused(TOKEN, REFUSAL)
    assert await auth.token() == "access-1"
    assert len(bank.asked) == 1


@in_time
async def test_brand_new_token_that_is_refused_ends_it() -> None:
    """A token that was just exchanged and is refused at once is not replaced: that would be hammering."""
    bank = Bank()
    auth = bank.auth(token=TOKEN)
    await auth.refused(TOKEN, REFUSAL)
    new = await auth.token()
    with pytest.raises(TokenRefusedError) as caught:
        await auth.refused(new, REFUSAL)
    assert caught.value is REFUSAL
    with pytest.raises(TokenRefusedError):
        await auth.token()
    assert len(bank.asked) == 1


@in_time
async def test_success_of_an_old_token_proves_nothing_about_a_new_one() -> None:
    """That the old token had worked for hours does not keep a new one, refused at once, from ending it."""
    bank = Bank()
    auth = bank.auth(token=TOKEN)
    auth.accepted(TOKEN)
    await auth.refused(TOKEN, REFUSAL)
    with pytest.raises(TokenRefusedError):
        await auth.refused(await auth.token(), REFUSAL)
    assert len(bank.asked) == 1


@in_time
async def test_late_acceptance_of_an_old_token_proves_nothing_about_the_new_one() -> None:
    """Only a call made with the new token shows that it works."""
    bank = Bank()
    auth = bank.auth(token=TOKEN)
    await auth.refused(TOKEN, REFUSAL)
    auth.accepted(TOKEN)
    with pytest.raises(TokenRefusedError):
        await auth.refused(await auth.token(), REFUSAL)


@in_time
async def test_token_that_had_worked_is_replaced_each_time() -> None:
    """A token that was accepted before may be refused any number of times in a run's life: each is replaced."""
    bank = Bank()
    auth = bank.auth()
    for number in range(1, 6):
        token = await auth.token()
        assert token == f"access-{number}"
        auth.accepted(token)
        await auth.refused(token, REFUSAL)


@pytest.mark.parametrize(
    ("secret", "refusal"),
    [(None, REFUSAL), (SECRET, INCURABLE), (None, INCURABLE)],
    ids=["nothing to exchange", "incurable", "both"],
)
def test_refusal_for_good(secret: str | None, refusal: TokenRefusedError) -> None:
    """Where no other token can help, this and every later caller gets the refusal; nothing is exchanged."""

    async def main() -> None:
        bank = Bank()
        auth = bank.auth(token=TOKEN, secret=secret)
        token = await auth.token()
        auth.accepted(token)
        with pytest.raises(TokenRefusedError) as caught:
            await auth.refused(token, refusal)
        assert caught.value is refusal
        for _ in range(3):
            with pytest.raises(TokenRefusedError) as caught:
                await auth.token()
            assert caught.value is refusal
        assert bank.asked == []

    virtual_time.run(main())


@in_time
async def test_refused_secret_token_is_not_tried_again() -> None:
    """A secret token that is refused was sent once; everyone who asks afterwards gets the same refusal."""
    bank = Bank([REFUSAL])
    auth = bank.auth()
    ended = await asyncio.gather(*(auth.token() for _ in range(5)), return_exceptions=True)
    assert ended == [REFUSAL] * 5
    assert len(bank.asked) == 1


@pytest.mark.parametrize("problem", [TransientError("lost"), FatalError("suspended")])
def test_exchange_that_fails_otherwise_may_be_tried_again(problem: Exception) -> None:
    """When the exchange fails without a refusal, the caller gets that, and the next one tries anew."""

    async def main() -> None:
        bank = Bank([problem, 86400.0])
        auth = bank.auth()
        with pytest.raises(type(problem)):
            await auth.token()
        assert await auth.token() == "access-2"

    virtual_time.run(main())


@in_time
async def test_exchange_that_fails_after_a_refusal_does_not_bring_the_old_token_back() -> None:
    """A refused token stays unused even if its replacement could not be had at first."""
    bank = Bank([TransientError("lost"), 86400.0])
    auth = bank.auth(token=TOKEN)
    with pytest.raises(TransientError):
        await auth.refused(TOKEN, REFUSAL)
    assert await auth.token() == "access-2"


@in_time
async def test_refresh_that_fails_ahead_of_time_does_not_stop_the_run() -> None:
    """While the token is still good, an exchange that is out of reach for the moment holds up no call."""
    bank = Bank([1000.0, TransientError("lost"), 1000.0])
    auth = bank.auth()
    assert await auth.token() == "access-1"
    bank.day += 950
    assert await auth.token() == "access-1"
    bank.day += 60
    assert await auth.token() == "access-3"


@in_time
async def test_cancelled_exchange_leaves_it_to_another() -> None:
    """A worker that is cancelled while it exchanges does not block the others."""
    bank = Bank()
    auth = bank.auth()
    first, second = (asyncio.create_task(auth.token()) for _ in range(2))
    await asyncio.sleep(1)
    first.cancel()
    assert await second == "access-2"
    with pytest.raises(asyncio.CancelledError):
        await first


@pytest.mark.parametrize("text", [str, repr, "{!s}".format, "{!r}".format, lambda value: f"{value}"])
def test_no_secret_in_any_text(text: Callable[[object], str]) -> None:
    """Neither credentials nor the token's keeper show a secret when they are printed."""

    async def main() -> None:
        auth = Bank().auth(token=TOKEN)
        for shown in (text(Credentials(token=TOKEN, secret_token=SECRET)), text(auth)):
            assert "c0ffee" not in shown

    virtual_time.run(main())


@in_time
async def test_no_secret_in_errors() -> None:
    """Neither the errors nor their tracebacks tell a token or a secret."""
    bank = Bank([REFUSAL])
    errors: list[BaseException | None] = [None]
    errors += await asyncio.gather(bank.auth().token(), return_exceptions=True)
    auth = Bank().auth(token=TOKEN, secret=None)
    errors += await asyncio.gather(auth.refused(TOKEN, REFUSAL), auth.token(), return_exceptions=True)
    for bad in (f"{TOKEN} x", f"{TOKEN}\n", f"\t{SECRET}"):
        with pytest.raises(UsageError) as caught:
            Credentials(secret_token=bad)
        errors.append(caught.value)
    shown = "".join("".join(traceback.format_exception(error)) for error in errors if error is not None)
    assert "TokenRefusedError" in shown
    assert "UsageError" in shown
    assert "c0ffee" not in shown


@pytest.mark.parametrize(
    ("environment", "token", "secret"),
    [
        ({"ECWID_TOKEN": TOKEN}, TOKEN, None),
        ({"ECWID_SECRET_TOKEN": SECRET}, None, SECRET),
        ({"ECWID_TOKEN": TOKEN, "ECWID_SECRET_TOKEN": SECRET}, TOKEN, SECRET),
        ({"ECWID_TOKEN": f" {TOKEN}\r\n"}, TOKEN, None),
        ({"ECWID_TOKEN": " ", "ECWID_SECRET_TOKEN": SECRET}, None, SECRET),
        ({"ECWID_TOKEN": TOKEN, "OTHER": "x"}, TOKEN, None),
    ],
)
def test_credentials_from_environment(
    environment: Mapping[str, str], token: str | None, secret: str | None
) -> None:
    """The environment's variables are taken without the blanks around them; an empty one is none."""
    found = Credentials.from_environment(environment)
    assert (found.token, found.secret_token, found.auth_url) == (token, secret, AUTH_URLS[0])


@pytest.mark.parametrize(
    "environment", [{}, {"ECWID_TOKEN": ""}, {"ECWID_TOKEN": " ", "ECWID_SECRET_TOKEN": "\n"}]
)
def test_no_credentials_in_the_environment(environment: Mapping[str, str]) -> None:
    """Without any token the sentence names all three ways to give one."""
    with pytest.raises(UsageError) as caught:
        Credentials.from_environment(environment)
    for way in ("ECWID_TOKEN", "ECWID_SECRET_TOKEN", "--token-file"):
        assert way in str(caught.value)


@pytest.mark.parametrize("bad", ["two words", "line\nbreak", "t\u00f6ken", "nul\0", "\u200btoken", "“token”"])
@pytest.mark.parametrize("name", ["ECWID_TOKEN", "ECWID_SECRET_TOKEN"])
def test_text_that_is_no_token(name: str, bad: str) -> None:
    """A token that was cut, wrapped or pasted with typographic quotes is found before any call."""
    with pytest.raises(UsageError, match="the token holds blanks or characters that no token has"):
        Credentials.from_environment({name: bad})


def test_auth_url_is_checked() -> None:
    """The secret token is not sent just anywhere: the auth URL obeys the same rules as the API's."""
    assert Credentials(secret_token=SECRET, auth_url=AUTH_URLS[1] + "/").auth_url == AUTH_URLS[1]
    with pytest.raises(UsageError, match="the auth URL would send the token unencrypted"):
        Credentials.from_environment({"ECWID_SECRET_TOKEN": SECRET}, auth_url="http://auth.example")


def test_token_file_goes_first(tmp_path: Path) -> None:
    """A token file counts before the environment, and its final newline does not matter."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\r\n", encoding="utf-8")
    environment = {"ECWID_TOKEN": "other", "ECWID_SECRET_TOKEN": SECRET}
    found = Credentials.from_environment(environment, token_file=file)
    assert (found.token, found.secret_token) == (TOKEN, None)


def test_token_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    """A token saved by Notepad, which puts a byte-order mark before it, works."""
    file = tmp_path / "token.txt"
    file.write_bytes(b"\xef\xbb\xbf" + TOKEN.encode())
    assert Credentials.from_environment({}, token_file=file).token == TOKEN


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file or directory."),
        (b"", "is empty."),
        (b" \r\n", "is empty."),
        (b"\xff\xfe\x00t", "cannot be read: it is not text."),
        (b"one\ntwo\n", "holds blanks"),
        (b"TOKEN=abc def", "holds blanks"),
    ],
)
def test_unusable_token_file(tmp_path: Path, content: bytes | None, told: str) -> None:
    """A token file that is missing, empty, no text or something else is a sentence that says so."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=told.replace(".", r"\.")) as caught:
        Credentials.from_environment({"ECWID_TOKEN": TOKEN}, token_file=file)
    assert TOKEN not in str(caught.value)


def test_token_file_that_is_a_folder(tmp_path: Path) -> None:
    """A folder in place of the token file is named as such."""
    with pytest.raises(UsageError, match="Is a directory"):
        Credentials.from_environment({}, token_file=tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may read everything")
def test_token_file_that_may_not_be_read(tmp_path: Path) -> None:
    """A token file without read permission says so."""
    file = tmp_path / "token"
    file.write_text(TOKEN, encoding="utf-8")
    file.chmod(0)
    with pytest.raises(UsageError, match="Permission denied"):
        Credentials.from_environment({}, token_file=file)
