"""Answers that mean harm: they are bounded, refused, and one row's problem at most."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from shop import QUICK, Shop, identities, identity, open_shop, statuses
from tileferry import OutageError, Outcome, Pace, Settings, Status, api
from tileferry.addresses import check_upload_url
from tileferry.emulator import Fault, FaultKind
from tileferry.errors import RejectedError
from tileferry.settings import API_URL
from tileferry.wire import MAX_ANSWER_BYTES

PIECE = b" " * 65536


@dataclass
class Stranger:
    """A server that says anything: `greeting` to each call, then `piece` again and again while it is listened to.

    It remembers the head of each call and how many bytes it got rid of.
    """

    greeting: bytes
    piece: bytes = b""
    heads: list[bytes] = field(default_factory=list)
    said: int = 0
    url: str = ""
    _guests: dict[asyncio.StreamWriter, asyncio.Event] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = self._guests[writer] = asyncio.Event()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.greeting)
            await writer.drain()
            while self.piece and not writer.transport.is_closing():
                writer.write(self.piece)
                await writer.drain()
                self.said += len(self.piece)
            # Whatever the other side still has to say is no reason to leave without a word.
            await reader.read()
        writer.close()
        gone.set()

    async def leave(self) -> None:
        """Drop whoever is still there."""
        for writer, gone in self._guests.items():
            writer.transport.abort()
            await gone.wait()


@contextlib.asynccontextmanager
async def meet(stranger: Stranger) -> AsyncIterator[Stranger]:
    """The stranger listens at `url`, on loopback."""
    server = await asyncio.start_server(stranger.serve, "127.0.0.1", 0, limit=2**20)
    stranger.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield stranger
    finally:
        server.close()
        await stranger.leave()


def _head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: application/json", *lines, "", ""]).encode()


ENDLESS = {
    "two gigabytes": Stranger(_head("Content-Length: 2147483648"), PIECE),
    "no length": Stranger(_head("Connection: close"), PIECE),
    "chunks": Stranger(_head("Transfer-Encoding: chunked"), b"10000\r\n" + PIECE + b"\r\n"),
    "one chunk": Stranger(_head("Transfer-Encoding: chunked") + b"7fffffff\r\n", PIECE),
    "header line": Stranger(b"HTTP/1.1 200 OK\r\nX: ", PIECE),
    "header lines": Stranger(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "compressed": Stranger(_head("Content-Encoding: gzip"), gzip.compress(bytes(10_000_000))),
    "no HTTP": Stranger(b"", b"\0\xff" * 5000),
}


def _slot_at(url: str) -> Fault:
    return Fault(FaultKind.BODY, body=json.dumps({"id": "hostile", "url": url}).encode())


def _settings(shop: Shop, api_url: str, folder: Path) -> Settings:
    return replace(shop.settings, api_url=api_url, ledger=folder / "other.sqlite3")


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_endless_answer_of_the_api_is_bounded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the API pours out is read up to a bound, of bytes or of time, and the run ends with a sentence."""
    monkeypatch.setattr(api, "CALL_SECONDS", 0.3)
    stranger = Stranger(ENDLESS[kind].greeting, ENDLESS[kind].piece)
    async with open_shop(tmp_path) as shop, meet(stranger), asyncio.timeout(20):
        with pytest.raises(OutageError, match=r"KB|proper HTTP|cut short|lost|in time"):
            await shop.upload(
                shop.pictures(1),
                settings=_settings(shop, stranger.url, tmp_path),
                timing=replace(QUICK, patience=0.05, backoff_limit=0.02),
            )
        # What the system's buffers take on the way is nobody's memory; some megabytes a connection. The HTTP
        # client throws an endless line of a header away while it comes, until the call's time is over.
        assert kind == "header line" or stranger.said <= len(stranger.heads) * (MAX_ANSWER_BYTES + 12 * 2**20)


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_endless_answer_of_the_upload_host_is_one_rows_problem(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload host that pours out an endless answer costs its own row its patience; the others are uploaded."""
    monkeypatch.setattr(api, "CALL_SECONDS", 0.2)
    stranger = Stranger(ENDLESS[kind].greeting, ENDLESS[kind].piece)
    async with open_shop(tmp_path) as shop, meet(stranger), asyncio.timeout(20):
        shop.emulator.script("reserve", 1, _slot_at(f"{stranger.url}/?signature=s3cret"))
        rows = shop.pictures(3)
        one_by_one = replace(shop.settings, pace=Pace(concurrency=1, rate=1_000_000))
        outcomes = await shop.upload(
            rows, settings=one_by_one, timing=replace(QUICK, patience=0.5, settle=0.01, resend=0.1)
        )
        _check_first_refused(shop, outcomes, identities(rows[1:]))
        assert "s3cret" not in outcomes[0].error
        assert len(stranger.heads) >= 1


def _check_first_refused(shop: Shop, outcomes: list[Outcome], others: set[tuple[str, str]]) -> None:
    assert statuses(outcomes) == [Status.FAILED] + [Status.UPLOADED] * len(others)
    assert outcomes[0].error
    assert shop.stored() == others
    assert shop.ended is None


async def test_an_answer_that_never_ends_is_left_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that comes a little at a time, for ever, is given up when the call as a whole takes too long."""
    monkeypatch.setattr(api, "CALL_SECONDS", 0.2)
    drip = Fault(FaultKind.ENDLESS, seconds=0.05)
    async with open_shop(tmp_path) as shop, asyncio.timeout(10):
        for call in ("buckets", "reserve", "upload", "result"):
            shop.emulator.script(call, 1, drip)
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row])
        assert outcome.status is Status.UPLOADED
        assert shop.stored() == {identity(row)}


BODIES = {
    "deep list": b"[" * 500_000,
    "deep object": b'{"url":' * 100_000,
    "deep and closed": b'{"id": "a", "url": "https://x.example/", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long number": b'{"id": ' + b"9" * 100_000 + b', "url": "https://x.example/"}',
    "lone surrogate": b'{"id": "\\ud800", "url": "https://x.example/\\udfff"}',
    "zeros": bytes(100_000),
    "too long": b" " * (MAX_ANSWER_BYTES + 1),
    "utf-16": '{"id": "a", "url": "https://x.example/"}'.encode("utf-16"),
}


@pytest.mark.parametrize("call", ["buckets", "reserve", "upload", "result"])
@pytest.mark.parametrize("body", BODIES)
async def test_a_hostile_body_is_an_answer_that_cannot_be_understood(call: str, body: str, tmp_path: Path) -> None:
    """Deep, huge, garbled: the call is made again, and nothing but an outcome comes of it."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script(call, 1, Fault(FaultKind.BODY, body=BODIES[body], act=True))
        row = shop.picture("hero.jpg")
        # A number may be an id, however long; its slot leads nowhere, and the next run is not at stake here.
        [outcome] = await shop.upload([row], timing=replace(QUICK, patience=1.0, settle=0.02, backoff_limit=0.01))
        assert shop.ended is None
        assert outcome.status in {Status.UPLOADED, Status.FAILED}
        if outcome.status is Status.FAILED:
            assert (call, body) in {("reserve", "deep and closed"), ("reserve", "long number")}


async def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """An answer that would unpack to a gigabyte is taken for what it is: nothing that can be understood."""
    bomb = gzip.compress(bytes(50_000_000))
    async with open_shop(tmp_path) as shop:
        for call in ("buckets", "reserve", "result"):
            shop.emulator.script(
                call, 1, Fault(FaultKind.BODY, body=bomb, headers={"Content-Encoding": "gzip"}, act=True)
            )
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row])
        assert outcome.status is Status.UPLOADED
        assert shop.stored() == {identity(row)}


REFUSED_ADDRESSES = {
    "file:///etc/passwd": "no web address",
    "ftp://files.example/x": "no web address",
    "javascript:alert(1)": "no web address",
    "//x.example/y": "no web address",
    "": "no web address",
    "not an address": "blanks",
    "https://": "no web address",
    "https:///path": "no web address",
    "https://[::1": "no web address",
    "https://x.example:99999/": "no web address",
    "http://x.example/upload": "not encrypted",
    "HTTP://X.EXAMPLE/": "not encrypted",
    "https://user:pass@x.example/": "user name",
    "https://user@x.example/": "user name",
    "https://@x.example/": "user name",
    "https://x.example/a b": "blanks",
    "https://x.example/\r\nHost: y": "control characters",
    "https://x.example/\x00": "control characters",
    "https://x.example\\@10.0.0.1/": "control characters",
    "https://localhost/": "inside this network",
    "https://127.0.0.1/": "inside this network",
    "https://127.8.8.8:8443/": "inside this network",
    "https://0.0.0.0/": "inside this network",
    "https://10.1.2.3/": "inside this network",
    "https://172.16.0.1/": "inside this network",
    "https://192.168.0.1/": "inside this network",
    "https://100.64.0.1/": "inside this network",
    "https://169.254.169.254/latest/meta-data/": "inside this network",
    "https://[::1]/": "inside this network",
    "https://[::]/": "inside this network",
    "https://[fd00::1]/": "inside this network",
    "https://[fe80::1]/": "inside this network",
    "https://[::ffff:127.0.0.1]/": "inside this network",
    "https://[::ffff:10.0.0.1]/": "inside this network",
}


@pytest.mark.parametrize("url", REFUSED_ADDRESSES)
def test_an_upload_address_that_cannot_be_trusted_is_refused(url: str) -> None:
    """No picture goes to a file, over plain HTTP, to a name with credentials, or into the own network."""
    with pytest.raises(RejectedError, match=REFUSED_ADDRESSES[url]) as refused:
        check_upload_url(url, api_url=API_URL)
    assert refused.value.reason == "upload address refused"
    assert not url or url not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["https://8.8.8.8/x", "https://bucket.s3.example/?a=%2B&b=%2f", "https://x.example:8443/", "HTTPS://X.COM"],
)
def test_an_upload_address_outside_is_taken(url: str) -> None:
    """A public https address is taken, whatever its query looks like."""
    check_upload_url(url, api_url=API_URL)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://10.0.0.1/upload",
        "http://x.example/upload",
        "https://169.254.169.254/",
        "http://me:too@127.0.0.1/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1/\u0085",
    ],
)
async def test_a_hostile_upload_address_is_one_rows_problem(url: str, tmp_path: Path) -> None:
    """A slot at such an address fails its own row with that reason, after one call; the others go on."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("reserve", 1, _slot_at(url))
        rows = shop.pictures(3)
        one_by_one = replace(shop.settings, pace=Pace(concurrency=1, rate=1_000_000))
        outcomes = await shop.upload(rows, settings=one_by_one)
        _check_first_refused(shop, outcomes, identities(rows[1:]))
        assert outcomes[0].reason == "upload address refused"
        assert (shop.calls()["reserve"], shop.calls()["upload"]) == (3, 2)


@pytest.mark.parametrize(
    "path", ["/é?ü", "/\U0001f600", "/%zz%", "/a?b?c#d", "?", "", "/" + "x" * 100_000, "/%0d%0aX:y"]
)
async def test_an_odd_upload_address_is_never_a_crash(path: str, tmp_path: Path) -> None:
    """An address that no server of ours would give ends as one row's outcome."""
    async with open_shop(tmp_path) as shop:
        shop.emulator.script("reserve", 1, _slot_at(shop.emulator.base_url + path))
        rows = shop.pictures(2)
        one_by_one = replace(shop.settings, pace=Pace(concurrency=1, rate=1_000_000))
        outcomes = await shop.upload(rows, settings=one_by_one, timing=replace(QUICK, patience=0.5, settle=0.01))
        assert shop.ended is None
        assert outcomes[1].status is Status.UPLOADED
        assert outcomes[0].status in {Status.UPLOADED, Status.FAILED}
        assert shop.emulator.truth().token_leaks == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", ["buckets", "reserve", "result"])
async def test_no_redirect_is_followed_with_the_token(call: str, status: int, tmp_path: Path) -> None:
    """A redirect from the API is no answer: the call is made again where it was, and nobody else hears of it."""
    async with open_shop(tmp_path) as shop, meet(Stranger(_head("Content-Length: 2") + b"{}")) as stranger:
        redirect = Fault(FaultKind.BODY, status=status, headers={"Location": f"{stranger.url}/api/v1"})
        shop.emulator.script(call, 1, redirect)
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row])
        assert outcome.status is Status.UPLOADED
        assert stranger.heads == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed_with_a_picture(status: int, tmp_path: Path) -> None:
    """A redirect from the upload host is not followed either: the API is asked, and the slot gets its picture."""
    async with open_shop(tmp_path) as shop, meet(Stranger(_head("Content-Length: 2") + b"{}")) as stranger:
        redirect = Fault(FaultKind.STATUS, status=status, headers={"Location": f"{stranger.url}/take/it"})
        shop.emulator.script("upload", 1, redirect)
        row = shop.picture("hero.jpg")
        [outcome] = await shop.upload([row], timing=replace(QUICK, settle=0.05))
        assert outcome.status is Status.UPLOADED
        assert shop.stored() == {identity(row)}
        assert stranger.heads == []


async def test_the_upload_host_never_sees_the_token(tmp_path: Path) -> None:
    """Wherever the API sends a picture, the token stays behind; nor do cookies travel from one call to another."""
    stranger = Stranger(b"HTTP/1.1 500 No\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    async with open_shop(tmp_path) as shop, meet(stranger):
        shop.emulator.script("reserve", 1, _slot_at(f"{stranger.url}/bucket?x=%2B%2f"))
        await shop.upload(
            [shop.picture("hero.jpg")],
            timing=replace(QUICK, patience=0.2, settle=0.01),
            credentials=shop.credentials,
        )
        assert len(stranger.heads) >= 2
        for head in stranger.heads:
            assert head.startswith(b"POST /bucket?x=%2B%2f HTTP/1.1\r\n")
            assert b"authorization" not in head.lower()
            assert b"cookie" not in head.lower()
            assert str(shop.credentials.token).encode() not in head


async def test_a_message_from_outside_cannot_rule_the_terminal(tmp_path: Path) -> None:
    """What the API says of a row is shown without its control characters, and not at any length."""
    async with open_shop(tmp_path) as shop:
        error = {"errorCode": "\x1b]0;owned\x07", "errorMessage": "\x1b[2J\u202egnp.exe\r\n" + "x" * 100_000}
        shop.emulator.script("reserve", 1, Fault(FaultKind.STATUS, status=400, body=json.dumps(error).encode()))
        [outcome] = await shop.upload([shop.picture("hero.jpg")])
        assert outcome.status is Status.FAILED
        for text in (outcome.error, outcome.reason):
            assert text.isprintable()
            assert len(text) < 2000
