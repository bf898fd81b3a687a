"""One HTTP exchange: bounded in time and size, no redirect followed, no second try behind our back.

The exceptions of the HTTP client become ours here and nowhere else. They are raised `from None`: the client's
own messages hold the URL, which for uploads is signed and therefore a secret, and its `repr` holds the headers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, AbstractStreamWriter, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.payload import AsyncIterablePayload
from yarl import URL

from tileferry.errors import Delivery, RejectedError, TransientError, printable
from tileferry.multipart import Body
from tileferry.settings import Timing

MAX_ANSWER_BYTES = 1024 * 1024
"""Longest answer that is read, in bytes. The longest that the API documents is a list of tiles, well below it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, the headers (names in lower case) and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@contextlib.asynccontextmanager
async def open_session(
    *, timing: Timing, connections: int, user_agent: str, public_only: bool = False
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session without cookies, credentials or default headers; with `public_only` it refuses private hosts."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_on_headers_sent)
    connector = aiohttp.TCPConnector(limit=connections, resolver=_PublicResolver() if public_only else None)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=timing.connect, sock_read=timing.answer
        ),
        # An answer that nobody asked to be compressed cannot blow up in memory.
        auto_decompress=False,
        headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
        middlewares=(_one_try,),
        trace_configs=[trace],
    ) as session:
        yield session


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    total: float,
    headers: Mapping[str, str] | None = None,
    json: bytes | None = None,
    on_leaving: Callable[[], None] | None = None,
) -> Answer:
    """Make one call with a small body or none and read its whole answer.

    `on_leaving` is called when the request goes out on its connection; `total` bounds the whole, in seconds.
    Raises `TransientError` for whatever prevents an answer.
    """
    sent = dict(headers or {})
    if json is not None:
        sent["Content-Type"] = "application/json"
    with _translated(url, Delivery.WHOLE):
        async with asyncio.timeout(total):
            async with session.request(
                method,
                URL(url, encoded=True),
                headers=sent,
                data=json,
                allow_redirects=False,
                trace_request_ctx=on_leaving,
            ) as response:
                return await _read(response)


async def post_body(
    session: aiohttp.ClientSession,
    url: str,
    body: Body,
    *,
    stall: float,
    total: float,
    on_leaving: Callable[[], None] | None = None,
) -> Answer:
    """POST `body` to `url` exactly as received and read the answer.

    A slow line may take as long as it needs, and so may a body that waits for its turn; only when no byte has left
    for `stall` seconds in which it could have is the attempt given up, or when all have left and the whole answer
    is not there within `total` more. Raises `TransientError`, whose `delivery` says how much may have arrived, or
    what `body` itself failed with.
    """
    tracker = aiohttp.UploadTracker()
    payload = _UploadPayload(body)
    answer: Answer | None = None
    try:
        with _translated(url, Delivery.WHOLE):
            async with (
                _moving(tracker, body.length, stall=stall, total=total, held_back=body.held_back),
                session.post(
                    URL(url, encoded=True),
                    data=payload,
                    # With an explicit length the body stays plain: many upload hosts refuse a chunked one (411).
                    headers={"Content-Type": body.content_type, "Content-Length": str(body.length)},
                    allow_redirects=False,
                    upload_tracker=tracker,
                    trace_request_ctx=on_leaving,
                ) as response,
            ):
                answer = await _read(response)
    except TransientError as exc:
        if body.failure is not None:
            raise body.failure from None
        if exc.delivery is Delivery.WHOLE and not body.handed_over:
            # The last byte never left our hands, so whatever arrived is not a whole body.
            exc.delivery = Delivery.PART
        raise
    finally:
        if answer is None:
            payload.abort()
    if answer.status < 300 and not body.handed_over:
        raise TransientError(
            f"{host_of(url)} accepted the picture before all of it had left", delivery=Delivery.PART, wall=False
        )
    return answer


def host_of(url: str) -> str:
    """The host and port of `url`, fit for messages: never its path or query."""
    parts = urlsplit(url)
    return parts.netloc.rsplit("@", 1)[-1]


async def _read(response: aiohttp.ClientResponse) -> Answer:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            response.close()
            raise TransientError(
                f"{response.url.host} answered with more than {MAX_ANSWER_BYTES // 1024} KB, "
                "which no answer of this API is",
                delivery=Delivery.WHOLE,
            )
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, headers, bytes(body))


class _UploadPayload(AsyncIterablePayload):
    """A body on its way, which can drop its connection.

    A connection that is merely closed first delivers what is queued, and to somebody who has stopped reading that
    takes for ever.
    """

    def __init__(self, body: Body) -> None:
        super().__init__(body.stream(), content_type=body.content_type)
        self._transport: asyncio.WriteTransport | None = None

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write the body, and remember whereto."""
        self._transport = getattr(writer, "transport", None)
        await super().write_with_length(writer, content_length)

    def abort(self) -> None:
        """Drop the connection with all that is queued in it."""
        if self._transport is None:
            return
        connection: socket.socket | None = self._transport.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            # What the kernel has queued goes with it: a reset, not a farewell.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


@contextlib.asynccontextmanager
async def _moving(
    tracker: aiohttp.UploadTracker,
    length: int,
    *,
    stall: float,
    total: float,
    held_back: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[None]:
    """Time out when no byte of the upload leaves for `stall` seconds, or the answer takes more than `total`.

    A span in which the body was held back, as `held_back` tells, says nothing about the connection.
    """
    loop = asyncio.get_running_loop()
    seen = (-1, 0.0)
    timer: asyncio.TimerHandle | None = None

    async with asyncio.timeout(None) as deadline:

        def look() -> None:
            nonlocal seen, timer
            written = tracker.bytes_written
            if written >= length:
                deadline.reschedule(loop.time() + total)
            elif (written, held_back()) == seen:
                deadline.reschedule(loop.time())
            else:
                seen = (written, held_back())
                timer = loop.call_later(stall, look)

        look()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()


@contextlib.contextmanager
def _translated(url: str, delivery: Delivery) -> Iterator[None]:
    host = host_of(url)
    try:
        yield
    except aiohttp.ClientConnectorDNSError as exc:
        if isinstance(exc.os_error, _PrivateAddressError):
            raise RejectedError(
                f"the upload address {host} lies inside this network; nothing was sent there",
                reason="upload address refused",
            ) from None
        raise TransientError(f"the address of {host} cannot be found (DNS)", unreachable=True) from None
    except (aiohttp.InvalidURL, UnicodeError):
        raise RejectedError(
            f"{printable(host)} is no possible host; nothing was sent there", reason="upload address refused"
        ) from None
    except aiohttp.ClientSSLError:
        raise TransientError(
            f"{host} shows a certificate that is not trusted; nothing was sent", unreachable=True
        ) from None
    except aiohttp.ConnectionTimeoutError:
        raise TransientError(f"no connection to {host} (timed out)", unreachable=True) from None
    except aiohttp.ClientConnectorError as exc:
        why = os.strerror(exc.os_error.errno) if exc.os_error.errno else "refused"
        raise TransientError(f"no connection to {host} ({why})", unreachable=True) from None
    except TimeoutError:
        raise TransientError(f"{host} did not answer in time", delivery=delivery) from None
    except aiohttp.ClientPayloadError:
        raise TransientError(f"the answer of {host} was cut short", delivery=delivery) from None
    except (aiohttp.ClientResponseError, HttpProcessingError):
        raise TransientError(f"the answer of {host} is not proper HTTP", delivery=delivery) from None
    except (aiohttp.ClientError, OSError):
        raise TransientError(f"the connection to {host} was lost", delivery=delivery) from None


async def _one_try(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep the client from repeating a GET by itself on a lost connection: each call is counted and judged."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise aiohttp.ClientConnectionError from None


async def _on_headers_sent(
    _session: aiohttp.ClientSession,
    context: object,
    _params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    on_leaving = getattr(context, "trace_request_ctx", None)
    if on_leaving is not None:
        on_leaving()


class _PrivateAddressError(OSError):
    """A name leads to private addresses only."""


class _PublicResolver(AbstractResolver):
    """Resolves names, but never to an address inside this machine or its network.

    The upload URL comes from outside; without this, an answer could make tileferry post to a neighbor.
    """

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The public addresses of `host`; raises `OSError` when there is none."""
        found = await self._resolver.resolve(host, port, family)
        public = [result for result in found if ipaddress.ip_address(result["host"]).is_global]
        if not public:
            raise _PrivateAddressError
        return public

    async def close(self) -> None:
        """Nothing is held."""
        await self._resolver.close()
