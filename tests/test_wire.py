"""One HTTP exchange against a server that misbehaves on purpose, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import struct
import traceback
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aioresponses import aioresponses

import virtual_time
from tileferry.errors import Delivery, ImageChangedError, RejectedError, TileferryError, TransientError
from tileferry.model import ImageKind
from tileferry.multipart import Body
from tileferry.settings import Timing
from tileferry.wire import MAX_ANSWER_BYTES, Answer, _moving, exchange, host_of, open_session, post_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

TIMING = Timing(connect=5.0, answer=5.0)
QUERY = "signature=s3cr%2Bt&key=a%2Fb+c%20d"
SECRETS = ("s3cr", "T0KEN")
AUTHORIZATION = {"Authorization": "Bearer T0KEN", "Accept": "application/json"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
CHUNK = 65536

Conversation = "Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]"


@dataclass(slots=True)
class Server:
    """A raw server on loopback: what each connection does is a script, and all request heads are kept."""

    converse: Conversation
    port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def url(self, target: str = f"/up?{QUERY}") -> str:
        """The address of `target` on this server."""
        return f"http://127.0.0.1:{self.port}{target}"

    async def read_request(self, reader: asyncio.StreamReader) -> bytes:
        """One whole request; its head and body are kept. Raises `IncompleteReadError` at the end."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        length = int(self.headers(-1).get("content-length", "0"))
        self.bodies.append(await reader.readexactly(length))
        return head

    def headers(self, index: int) -> dict[str, str]:
        """The headers of one request, names in lower case."""
        lines = self.heads[index].decode("latin-1").split("\r\n")[1:-2]
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def target(self, index: int = -1) -> bytes:
        """What stood on one request line between method and version."""
        return self.heads[index].split(b"\r\n")[0].split(b" ", 1)[1].rsplit(b" ", 1)[0]

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.converse(reader, writer)
        writer.close()


@contextlib.asynccontextmanager
async def serving(make: Callable[[Server], Conversation]) -> AsyncIterator[Server]:
    """Serve the script that `make` builds; at the end all conversations are over and closed."""
    conversations: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
    server = Server(make)
    server.converse = make(server)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations[asyncio.ensure_future(server.accept(reader, writer))] = writer

    listener = socket.create_server(("127.0.0.1", 0))
    # A small window, so that a body that nobody reads soon comes to a halt.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
    server.port = listener.getsockname()[1]
    async with await asyncio.start_server(accept, sock=listener):
        try:
            yield server
        finally:
            for task, writer in conversations.items():
                task.cancel()
                writer.transport.abort()
            ended = await asyncio.gather(*conversations, return_exceptions=True)
    # Whatever else ended a conversation is a mistake in its script.
    assert not [error for error in ended if error and not isinstance(error, asyncio.CancelledError)]


def answering(*answers: bytes, reading: bool = True, then: str = "close") -> Callable[[Server], Conversation]:
    """Answer one request after the other with these bytes; then close, reset or hang."""

    def make(server: Server) -> Conversation:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in answers:
                if reading:
                    await server.read_request(reader)
                writer.write(answer)
                await writer.drain()
            await end(reader, writer, then)

        return converse

    return make


async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, how: str) -> None:
    """End a conversation."""
    if how == "hang":
        await asyncio.Event().wait()
    elif how == "reset":
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    elif how == "wait":
        await reader.read()


def stopping_after_head(how: str, answer: bytes = b"") -> Callable[[Server], Conversation]:
    """Read the head of a request and no more, answer it, and end."""

    def make(server: Server) -> Conversation:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            await end(reader, writer, how)

        return converse

    return make


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session as a run opens it."""
    async with open_session(timing=TIMING, connections=4, user_agent="tileferry/test") as session:
        yield session


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever goes wrong, nothing but our own error tells of it: no log record, least of all with a secret."""
    with caplog.at_level(logging.DEBUG):
        yield
    told = [record for record in caplog.get_records("call") if record.name != "asyncio" or record.levelno > 10]
    assert [record.getMessage() for record in told] == []


async def get(session: aiohttp.ClientSession, url: str, *, total: float = 600.0) -> Answer:
    """A GET with the token."""
    return await exchange(session, "GET", url, total=total, headers=AUTHORIZATION)


async def trouble(call: Awaitable[object]) -> TransientError:
    """The transient error that a call ends with; neither it nor its traceback tells a secret."""
    with pytest.raises(TransientError) as caught:
        async with asyncio.timeout(10):
            await call
    assert_tells_no_secret(caught.value)
    return caught.value


def assert_tells_no_secret(error: TileferryError) -> None:
    """Nothing of a signed URL or a token is in an error, its `repr`, or its full traceback."""
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))
    assert not [secret for secret in SECRETS if secret in shown]
    assert error.__cause__ is None


async def endless(chunk: bytes = bytes(CHUNK)) -> AsyncIterator[bytes]:
    """A picture far larger than all buffers on the way together."""
    for _ in range(1000):
        yield chunk


def large_body() -> Body:
    """A streamed body far larger than all buffers on the way together."""
    return Body(field_name="file", filename="a.png", kind=ImageKind.PNG, size=1000 * CHUNK, content=endless())


def small_body(content: bytes = b"\x89PNG") -> Body:
    """A body at hand."""
    return Body(field_name="file", filename="a.png", kind=ImageKind.PNG, size=len(content), content=content)


async def post(session: aiohttp.ClientSession, url: str, body: Body, *, stall: float = 600.0) -> Answer:
    """POST a body."""
    return await post_body(session, url, body, stall=stall, total=600.0)


async def test_answer_is_status_headers_and_body(session: aiohttp.ClientSession) -> None:
    """The answer comes back whole: status, header names in lower case, and the body as it was sent."""
    raw = b"HTTP/1.1 404 No\r\nContent-Type: text/plain\r\nReTRY-After: 7\r\nContent-Length: 3\r\n\r\n\xff\x00!"
    async with serving(answering(raw)) as server:
        answer = await get(session, server.url())
    assert answer == Answer(
        404, {"content-type": "text/plain", "retry-after": "7", "content-length": "3"}, b"\xff\x00!"
    )


async def test_compressed_answer_is_left_alone(session: aiohttp.ClientSession) -> None:
    """Nobody asks for compression, and what comes compressed all the same is not unpacked: it could be a bomb."""
    raw = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"
    async with serving(answering(raw)) as server:
        answer = await get(session, server.url())
        assert answer.body == b"\x1f\x8b\x08\x00"
        assert server.headers(0)["accept-encoding"] == "identity"


async def test_get_sends_what_it_must_and_nothing_else(session: aiohttp.ClientSession) -> None:
    """A GET carries the token, the agent's name and no body, cookie or further header."""
    async with serving(answering(OK)) as server:
        await get(session, server.url())
        assert server.headers(0) == {
            "host": f"127.0.0.1:{server.port}",
            "authorization": "Bearer T0KEN",
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "tileferry/test",
        }


async def test_json_is_sent_as_given(session: aiohttp.ClientSession) -> None:
    """A JSON body is sent byte for byte, with its type and length."""
    async with serving(answering(OK)) as server:
        await exchange(session, "POST", server.url("/"), total=10.0, json=b'{"a": 1}')
        assert server.heads[0].startswith(b"POST / HTTP/1.1\r\n")
        assert server.bodies == [b'{"a": 1}']
        assert server.headers(0)["content-type"] == "application/json"
        assert server.headers(0)["content-length"] == "8"


async def test_cookies_are_not_kept(session: aiohttp.ClientSession) -> None:
    """A cookie that a server sets does not come back to it."""
    setting = b"HTTP/1.1 200 OK\r\nSet-Cookie: id=7\r\nContent-Length: 0\r\n\r\n"
    async with serving(answering(setting, OK)) as server:
        # By name: cookies of bare addresses are not kept by anyone.
        url = server.url().replace("127.0.0.1", "localhost")
        await get(session, url)
        await get(session, url)
        assert server.connections == 1
        assert "cookie" not in server.headers(1)


TARGETS = [
    f"/up?{QUERY}",
    "/a%2Fb%2fc%20d%2Bd+e",
    "/x//y/./z/../w",
    "/;v=1?q=a;b&c='d'&e=\"f\"|{g}",
    "/%zz%?100%",
    "/?a=%E4%f6&b=%25%2525",
    "/?X-Amz-Signature=0aF%3D%3D&X-Amz-Date=20240517T120000Z&a&b=&=c",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("uploading", [False, True], ids=["exchange", "upload"])
async def test_url_is_used_byte_for_byte(session: aiohttp.ClientSession, target: str, uploading: bool) -> None:
    """What is signed stays signed: path and query stand on the request line exactly as they were received."""
    async with serving(answering(OK)) as server:
        url = server.url(target)
        await (post(session, url, small_body()) if uploading else get(session, url))
        assert server.target() == target.encode()


@pytest.mark.parametrize("streamed", [False, True])
async def test_upload_is_plain_and_anonymous(session: aiohttp.ClientSession, streamed: bool) -> None:
    """An upload has a real length, is not chunked, and carries neither token nor cookie nor anything unneeded."""
    content = bytes(range(256)) * 700

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), CHUNK):
            yield content[start : start + CHUNK]

    body = Body(
        field_name="file",
        filename="a.png",
        kind=ImageKind.PNG,
        size=len(content),
        content=chunks() if streamed else content,
    )
    async with serving(answering(OK)) as server:
        assert (await post(session, server.url(), body)).status == 200
        assert server.headers(0) == {
            "host": f"127.0.0.1:{server.port}",
            "content-type": body.content_type,
            "content-length": str(body.length),
            "accept": "*/*",
            "accept-encoding": "identity",
            "user-agent": "tileferry/test",
        }
        assert len(server.bodies[0]) == body.length
        assert content in server.bodies[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("uploading", [False, True], ids=["exchange", "upload"])
async def test_redirect_is_not_followed(session: aiohttp.ClientSession, status: int, uploading: bool) -> None:
    """A redirect is an answer like any other: neither token nor picture goes where it points."""
    raw = b"HTTP/1.1 %d Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status
    async with serving(answering(raw, OK)) as server:
        url = server.url()
        answer = await (post(session, url, small_body()) if uploading else get(session, url))
        assert (answer.status, len(server.heads)) == (status, 1)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_stale_connection_is_not_tried_again_behind_our_back(
    session: aiohttp.ClientSession, how: str
) -> None:
    """A GET that meets a dying connection fails: it is counted, judged and repeated by us, not by the client."""

    def make(server: Server) -> Conversation:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.read_request(reader)
            writer.write(OK)
            await server.read_request(reader)
            await end(reader, writer, how)

        return converse

    async with serving(make) as server:
        await get(session, server.url())
        error = await trouble(get(session, server.url()))
        assert (len(server.heads), server.connections) == (2, 1)
    assert "the connection to 127.0.0.1" in str(error)
    assert error.wall
    assert not error.unreachable


LENGTH_10 = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

MISBEHAVIOR: list[tuple[str, Callable[[Server], Conversation], str]] = [
    ("reset at once", answering(b"", reading=False, then="reset"), "was lost"),
    ("closed at once", answering(b"", reading=False), "was lost"),
    ("reset after the request", answering(b"", then="reset"), "was lost"),
    ("closed after the request", answering(b""), "was lost"),
    ("reset within the head", answering(b"HTTP/1.1 200 OK\r\nConte", then="reset"), "was lost"),
    ("closed within the head", answering(b"HTTP/1.1 200 OK\r\nConte"), ""),
    ("closed within the body", answering(LENGTH_10), "was cut short"),
    ("reset within the body", answering(LENGTH_10, then="reset"), ""),
    ("closed within a chunk", answering(CHUNKED + b"ff\r\n{"), "was cut short"),
    ("closed between chunks", answering(CHUNKED + b"1\r\n{\r\n"), "was cut short"),
    ("chunk that is none", answering(CHUNKED + b"zz\r\n{\r\n"), ""),
    ("another protocol", answering(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "is not proper HTTP"),
    ("a status that is none", answering(b"HTTP/1.1 twohundred OK\r\n\r\n"), "is not proper HTTP"),
    ("two lengths", answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), ""),
    ("a length that is none", answering(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "is not proper HTTP"),
    ("noise", answering(bytes(range(256)) * 8), "is not proper HTTP"),
    (
        "an endless header line",
        answering(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000, then="wait"),
        "not proper HTTP",
    ),
    ("endless headers", answering(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000, then="wait"), "not proper HTTP"),
]


@pytest.mark.parametrize(
    ("make", "told"), [case[1:] for case in MISBEHAVIOR], ids=[case[0] for case in MISBEHAVIOR]
)
@pytest.mark.parametrize("uploading", [False, True], ids=["exchange", "upload"])
async def test_misbehavior_is_transient(
    session: aiohttp.ClientSession, make: Callable[[Server], Conversation], told: str, uploading: bool
) -> None:
    """Whatever a server does to the connection is one kind of error, in one sentence, with the host and no URL."""
    async with serving(make) as server:
        url = server.url()
        error = await trouble(post(session, url, small_body()) if uploading else get(session, url))
        assert server.connections == 1
        assert f"127.0.0.1:{server.port}" in str(error)
    assert told in str(error)
    assert error.delivery is Delivery.WHOLE
    assert (error.wall, error.unreachable) == (True, False)


def flooding(head: bytes, piece: bytes, sent: list[int]) -> Callable[[Server], Conversation]:
    """Answer without end; `sent` counts the bytes of the answer."""

    def make(server: Server) -> Conversation:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.read_request(reader)
            writer.write(head)
            while True:
                writer.write(piece)
                sent.append(len(piece))
                await writer.drain()

        return converse

    return make


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (CHUNKED, b"8000\r\n" + bytes(0x8000) + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000000\r\n\r\n", bytes(0x8000)),
        (b"HTTP/1.0 200 OK\r\n\r\n", bytes(0x8000)),
    ],
    ids=["chunked", "two gigabytes", "until it closes"],
)
async def test_endless_answer_is_bounded(session: aiohttp.ClientSession, head: bytes, piece: bytes) -> None:
    """An answer that does not end is cut off after a megabyte, and its connection with it."""
    sent: list[int] = []
    async with serving(flooding(head, piece, sent)) as server:
        error = await trouble(get(session, server.url()))
    assert str(error) == "127.0.0.1 answered with more than 1024 KB, which no answer of this API is"
    assert error.delivery is Delivery.WHOLE
    assert sum(sent) < MAX_ANSWER_BYTES + 16 * 1024 * 1024


async def test_longest_answer_is_still_read(session: aiohttp.ClientSession) -> None:
    """The bound itself is within the bound."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MAX_ANSWER_BYTES
    async with serving(answering(head + bytes(MAX_ANSWER_BYTES))) as server:
        assert len((await get(session, server.url())).body) == MAX_ANSWER_BYTES


@pytest.mark.parametrize("uploading", [False, True], ids=["exchange", "upload"])
async def test_silence_is_given_up(uploading: bool) -> None:
    """A server that takes a request and says nothing is given up after the time for an answer."""
    async with (
        open_session(timing=Timing(answer=0.05), connections=1, user_agent="t") as session,
        serving(answering(b"", then="hang")) as server,
    ):
        url = server.url()
        error = await trouble(post(session, url, small_body()) if uploading else get(session, url))
    assert "did not answer in time" in str(error)
    assert error.delivery is Delivery.WHOLE


def dripping(server: Server) -> Conversation:
    """Answer one byte after the other without end, never silent and never done."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"{")
            await writer.drain()
            await asyncio.sleep(0.001)

    return converse


@pytest.mark.parametrize("uploading", [False, True], ids=["exchange", "upload"])
async def test_dripping_answer_is_given_up(session: aiohttp.ClientSession, uploading: bool) -> None:
    """An answer that comes byte by byte, so that it is never silent for long, is bounded as a whole."""
    async with serving(dripping) as server:
        if uploading:
            call = post_body(session, server.url(), small_body(), stall=0.05, total=0.05)
        else:
            call = get(session, server.url(), total=0.05)
        error = await trouble(call)
    assert "did not answer in time" in str(error)
    assert error.delivery is Delivery.WHOLE


async def test_upload_that_moves_no_byte_is_given_up(session: aiohttp.ClientSession) -> None:
    """When the server stops reading, the stalled upload is given up, and it is known not to be whole."""
    async with serving(stopping_after_head("hang")) as server:
        body = large_body()
        error = await trouble(post(session, server.url(), body, stall=0.05))
    assert "did not answer in time" in str(error)
    assert error.delivery is Delivery.PART
    assert not body.handed_over


@pytest.mark.parametrize(
    ("seconds", "rate", "length", "given_up"),
    [
        (3600, 10, 40_000, None),
        (3600, 0, 40_000, 60.0),
        (600, 10, 1_000, None),
    ],
    ids=["an hour on a slow line", "no byte", "all bytes"],
)
def test_slow_line_is_no_stall(seconds: float, rate: int, length: int, given_up: float | None) -> None:
    """Only an upload of which no byte leaves for the stated time is given up, however slow its line is."""

    async def main() -> float | None:
        loop = asyncio.get_running_loop()
        begun = loop.time()

        class Line:
            @property
            def bytes_written(self) -> int:
                return min(length, int((loop.time() - begun) * rate))

        try:
            async with _moving(Line(), length, stall=60.0, total=1800.0):  # type: ignore[arg-type]  # all it reads
                await asyncio.sleep(seconds)
        except TimeoutError:
            return loop.time() - begun
        return None

    ended = virtual_time.run(main())
    assert ended == (None if given_up is None else pytest.approx(given_up, abs=1.0))


async def test_connection_that_does_not_come_about() -> None:
    """A host that takes a connection and lets its encryption hang is unreachable after the time for that."""
    async with (
        open_session(timing=Timing(connect=0.05), connections=1, user_agent="t") as session,
        serving(answering(b"", reading=False, then="hang")) as server,
    ):
        error = await trouble(get(session, server.url().replace("http:", "https:")))
    assert "(timed out)" in str(error)
    assert (error.unreachable, error.delivery) == (True, Delivery.NOTHING)


async def test_host_that_does_not_speak_tls(session: aiohttp.ClientSession) -> None:
    """An address that is not encrypted although it should be gets nothing."""
    async with serving(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n", reading=False, then="wait")) as server:
        error = await trouble(post(session, server.url().replace("http:", "https:"), small_body()))
    assert (error.unreachable, error.delivery) == (True, Delivery.NOTHING)


@pytest.mark.parametrize("uploading", [False, True], ids=["exchange", "upload"])
async def test_refused_connection(session: aiohttp.ClientSession, uploading: bool) -> None:
    """Where nobody listens nothing was delivered, and the call is not said to have left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    left = Mock()
    url = f"http://127.0.0.1:{port}/up?{QUERY}"
    if uploading:
        call = post_body(session, url, small_body(), stall=5, total=5, on_leaving=left)
    else:
        call = exchange(session, "GET", url, total=5, on_leaving=left)
    error = await trouble(call)
    assert str(error).startswith(f"no connection to 127.0.0.1:{port} (")
    assert (error.unreachable, error.wall) == (True, True)
    left.assert_not_called()


async def test_refused_upload_delivered_nothing(session: aiohttp.ClientSession) -> None:
    """A picture whose connection never came about has not left, whether it is at hand or streamed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for body in (small_body(), large_body()):
        error = await trouble(post(session, f"http://127.0.0.1:{port}/", body))
        assert error.delivery is Delivery.NOTHING


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_upload_broken_off_in_the_middle_delivered_a_part(session: aiohttp.ClientSession, how: str) -> None:
    """When the connection breaks before the last byte was handed over, nothing whole can be there."""
    async with serving(stopping_after_head(how)) as server:
        error = await trouble(post(session, server.url(), large_body()))
    assert error.delivery is Delivery.PART


async def test_streamed_upload_whose_answer_is_lost_delivered_all(session: aiohttp.ClientSession) -> None:
    """When the server took every byte and its answer is lost, the picture may be there."""

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(CHUNK)

    body = Body(field_name="file", filename="a", kind=ImageKind.PNG, size=CHUNK, content=chunks())
    async with serving(answering(b"", then="reset")) as server:
        error = await trouble(post(session, server.url(), body))
        assert len(server.bodies[0]) == body.length
    assert error.delivery is Delivery.WHOLE


async def test_refusal_before_the_end_of_the_body_is_the_answer(session: aiohttp.ClientSession) -> None:
    """A server that refuses a picture without reading it all is understood."""
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with serving(stopping_after_head("wait", refusal)) as server:
        assert (await post(session, server.url(), large_body())).status == 413


async def test_success_before_the_end_of_the_body_is_none(session: aiohttp.ClientSession) -> None:
    """A 200 to a body of which not all has left cannot mean that the picture is there."""
    async with serving(stopping_after_head("wait", OK)) as server:
        error = await trouble(post(session, server.url(), large_body()))
    assert error.delivery is Delivery.PART


async def test_picture_that_cannot_be_read_is_the_reason(session: aiohttp.ClientSession) -> None:
    """When the picture fails while it is sent, that is what is raised, not the broken connection."""
    failure = ImageChangedError("a.png changed while it was being uploaded", reason="file changed")

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(CHUNK)
        raise failure

    body = Body(field_name="file", filename="a", kind=ImageKind.PNG, size=10 * CHUNK, content=chunks())
    async with serving(answering(OK)) as server:
        with pytest.raises(ImageChangedError) as caught:
            await post(session, server.url(), body)
        assert server.bodies == []
    assert caught.value is failure
    assert_tells_no_secret(failure)


async def test_leaving_is_told_once_when_the_request_goes_out(session: aiohttp.ClientSession) -> None:
    """The call is said to leave when its head goes out, once, also on a connection that is used again."""
    async with serving(answering(OK, OK)) as server:
        for _ in range(2):
            left = Mock()
            await exchange(session, "GET", server.url(), total=5, on_leaving=left)
            left.assert_called_once_with()
        assert server.connections == 1


async def test_cancellation_passes_through(session: aiohttp.ClientSession) -> None:
    """A call that is cancelled from outside ends as cancelled, not as a failure of the host."""
    asked = asyncio.Event()

    def make(server: Server) -> Conversation:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.read_request(reader)
            asked.set()
            await end(reader, writer, "hang")

        return converse

    async with serving(make) as server:
        for call in (get(session, server.url()), post(session, server.url(), small_body())):
            asked.clear()
            task = asyncio.ensure_future(call)
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.fixture
async def public_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that goes to public addresses only."""
    async with open_session(timing=TIMING, connections=1, user_agent="t", public_only=True) as session:
        yield session


async def test_name_that_leads_inside_is_refused(public_session: aiohttp.ClientSession) -> None:
    """A name that leads to this machine or its network is refused for good, before any connection."""
    async with serving(answering(OK)) as server:
        with pytest.raises(RejectedError) as caught:
            await post(public_session, f"http://localhost:{server.port}/up?{QUERY}", small_body())
        assert server.connections == 0
        assert "lies inside this network; nothing was sent there" in str(caught.value)
    assert caught.value.reason == "upload address refused"
    assert_tells_no_secret(caught.value)


INSIDE = [
    "10.0.0.1",
    "192.168.1.7",
    "172.16.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "127.0.0.1",
    "::1",
    "fe80::1",
    "fd00::1",
]


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str, error: OSError | None = None) -> None:
    """Let every name lead to these addresses, or fail."""

    async def resolve(*_args: object, **_kwargs: object) -> list[dict[str, object]]:
        if error is not None:
            raise error
        return [
            {"hostname": "h", "host": host, "port": 1, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for host in addresses
        ]

    monkeypatch.setattr("tileferry.wire.aiohttp.ThreadedResolver.resolve", resolve)


@pytest.mark.parametrize("addresses", [[address] for address in INSIDE] + [INSIDE])
async def test_private_addresses_are_refused(
    public_session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    """No name that leads only to private, link-local, shared or loopback addresses is connected to."""
    resolving_to(monkeypatch, *addresses)
    with pytest.raises(RejectedError, match=r"up\.example lies inside this network"):
        await post(public_session, "https://up.example/", small_body())


async def test_private_addresses_among_public_ones_are_left_out(
    public_session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name's addresses only the public ones are tried."""
    resolving_to(monkeypatch, "10.0.0.1", "8.8.8.8", "::1")
    tried: list[object] = []

    async def connect(*_args: object, addr_infos: list[tuple[object, ...]], **_kwargs: object) -> object:
        tried.extend(info[-1] for info in addr_infos)
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", connect)
    error = await trouble(post(public_session, "https://up.example/", small_body()))
    assert "(Network is unreachable)" in str(error)
    assert {address[0] for address in tried if isinstance(address, tuple)} == {"8.8.8.8"}


async def test_name_that_is_not_found(
    public_session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that cannot be resolved is an unreachable host."""
    resolving_to(monkeypatch, error=socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    error = await trouble(post(public_session, f"https://up.example/?{QUERY}", small_body()))
    assert str(error) == "the address of up.example cannot be found (DNS)"
    assert (error.unreachable, error.delivery) == (True, Delivery.NOTHING)


@pytest.mark.parametrize(
    "host",
    ["a" * 64 + ".example", "a..example", ".example", "\u202eexample", "127.1", "2130706433", "%00", "exa$mple"],
)
async def test_host_that_is_none_is_our_error(
    public_session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A host that cannot be one, as an upload address may hold, is one row's problem, never a foreign error."""
    resolve = socket.getaddrinfo

    def known(name: str, *args: object, **kwargs: object) -> object:
        name.encode("idna")
        return resolve("127.0.0.1", *args, **kwargs)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr("socket.getaddrinfo", known)
    with pytest.raises((TransientError, RejectedError)) as caught:
        await post(public_session, f"https://{host}/up?{QUERY}", small_body())
    assert_tells_no_secret(caught.value)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://up.example/a?b", "up.example"),
        ("https://up.example:8443/a?b", "up.example:8443"),
        ("https://user:pass@up.example/", "up.example"),
        ("http://[::1]:80/", "[::1]:80"),
    ],
)
def test_host_of(url: str, host: str) -> None:
    """Messages name the host and port of an address and nothing else of it."""
    assert host_of(url) == host


class CannedResponse(aiohttp.ClientResponse):
    """A canned response with the writer that the client's constructor asks for."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{**kwargs, "stream_writer": Mock(output_size=0)})  # type: ignore[arg-type]


@pytest.fixture
def canned() -> Iterator[Callable[..., None]]:
    """Has the next GET answered without any connection."""
    with aioresponses() as mocked:

        def can(**answer: object) -> None:
            mocked.get("https://api.example/v1", response_class=CannedResponse, **answer)

        yield can


KEY = ConnectionKey(
    "api.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)
REQUEST = SimpleNamespace(real_url=f"https://api.example/?{QUERY}", url="", method="GET", headers=AUTHORIZATION)

FOREIGN: list[tuple[BaseException, str, bool]] = [
    (
        aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "Name or service not known")),
        "the address of api.example cannot be found (DNS)",
        True,
    ),
    (
        aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("self-signed")),
        "api.example shows a certificate that is not trusted; nothing was sent",
        True,
    ),
    (aiohttp.ConnectionTimeoutError(QUERY), "no connection to api.example (timed out)", True),
    (
        aiohttp.ClientConnectorError(KEY, OSError(errno.EHOSTUNREACH, "No route to host")),
        "no connection to api.example (No route to host)",
        True,
    ),
    (aiohttp.ClientConnectorError(KEY, OSError(QUERY)), "no connection to api.example (refused)", True),
    (aiohttp.SocketTimeoutError(QUERY), "api.example did not answer in time", False),
    (TimeoutError(QUERY), "api.example did not answer in time", False),
    (aiohttp.ClientPayloadError(QUERY), "the answer of api.example was cut short", False),
    (aiohttp.ClientResponseError(REQUEST, ()), "the answer of api.example is not proper HTTP", False),
    (aiohttp.http_exceptions.LineTooLong(QUERY), "the answer of api.example is not proper HTTP", False),
    (aiohttp.ServerDisconnectedError(QUERY), "the connection to api.example was lost", False),
    (aiohttp.ClientOSError(errno.EPIPE, QUERY), "the connection to api.example was lost", False),
    (OSError(errno.ENETDOWN, QUERY), "the connection to api.example was lost", False),
]


@pytest.mark.parametrize(("foreign", "told", "unreachable"), FOREIGN, ids=lambda value: type(value).__name__)
async def test_foreign_errors_become_ours(
    session: aiohttp.ClientSession,
    canned: Callable[..., None],
    foreign: BaseException,
    told: str,
    unreachable: bool,
) -> None:
    """Each error of the HTTP client is one sentence of ours, told apart by whether the host was reached."""
    canned(exception=foreign)
    error = await trouble(get(session, "https://api.example/v1"))
    assert str(error) == told
    assert error.unreachable is unreachable
    assert error.delivery is (Delivery.NOTHING if unreachable else Delivery.WHOLE)


async def test_canned_answer(session: aiohttp.ClientSession, canned: Callable[..., None]) -> None:
    """An answer's parts arrive wherever it comes from."""
    canned(status=202, body=b"{}", headers={"X-Id": "7"})
    answer = await get(session, "https://api.example/v1")
    assert (answer.status, answer.headers["x-id"], answer.body) == (202, "7", b"{}")
