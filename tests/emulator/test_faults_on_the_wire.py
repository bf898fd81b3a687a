"""Every fault as a client meets it, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from emulator.customer import BOUNDARY, GIF, Customer, form, serving
from tileferry.emulator import Fault, FaultKind
from tileferry.emulator.delivery import is_gone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Enter = Callable[..., Awaitable[Customer]]


def upload_head(url: str, length: int) -> bytes:
    """The head of a well-formed upload to that address."""
    address = URL(url, encoded=True)
    return (
        f"POST {address.raw_path_qs} HTTP/1.1\r\nHost: {address.authority}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def slot_url(customer: Customer) -> str:
    """The address of a new slot."""
    return str((await customer.reserve()).json["url"])


@pytest.mark.parametrize(
    ("kind", "stored"),
    [(FaultKind.RESET_BEFORE, 0), (FaultKind.RESET_WITHIN, 0), (FaultKind.RESET_AFTER, 1)],
)
async def test_a_reset_is_a_real_one(customer: Customer, kind: FaultKind, stored: int) -> None:
    """The client sees ECONNRESET and no byte of an answer; the picture is there only if it was after."""
    url = await slot_url(customer)
    customer.emulator.script("upload", 1, Fault(kind))
    reader, writer = await customer.raw(upload_head(url, len(form())) + form())
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()
    await customer.emulator.until("upload", 1)
    truth = customer.emulator.truth()
    assert (len(truth.images), truth.faults) == (stored, {kind: 1})
    assert customer.emulator.calls()[-1].status == 0


async def test_a_reset_within_comes_before_the_body_has_ended(customer: Customer) -> None:
    """Half of the announced body is enough to be reset."""
    url = await slot_url(customer)
    customer.emulator.script("upload", 1, Fault(FaultKind.RESET_WITHIN))
    reader, writer = await customer.raw(upload_head(url, 1000) + bytes(400))
    await writer.drain()
    writer.write(bytes(200))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("fault", "status", "stored"),
    [
        (Fault(FaultKind.STATUS), 500, 0),
        (Fault(FaultKind.STATUS, status=503, headers={"retry-after": "7"}, body=b"later"), 503, 0),
        (Fault(FaultKind.STATUS_AFTER, status=502), 502, 1),
        (Fault(FaultKind.THROTTLE, headers={"Retry-After": "soon"}), 429, 0),
        (Fault(FaultKind.HTML), 200, 0),
        (Fault(FaultKind.BODY, body=b"null"), 200, 0),
        (Fault(FaultKind.BODY, status=201, act=True), 201, 1),
        (Fault(FaultKind.SLOT_REFUSED), 410, 0),
        (Fault(FaultKind.SLOT_REFUSED, status=409, act=True), 409, 1),
        (Fault(FaultKind.NOT_JSON), 200, 1),
        (Fault(FaultKind.WRONG_JSON), 200, 1),
        (Fault(FaultKind.DRIP, seconds=0), 200, 1),
    ],
)
async def test_an_upload_is_answered_as_planned(
    customer: Customer, fault: Fault, status: int, stored: int
) -> None:
    """The planned status comes, and the picture is stored exactly where the fault says so."""
    url = await slot_url(customer)
    customer.emulator.script_next("upload", fault)
    reply = await customer.post(url)
    assert (reply.status, len(customer.emulator.truth().images)) == (status, stored)
    for name, value in fault.headers.items():
        assert reply.headers[name.lower()] == value
    if fault.body is not None:
        assert reply.body == fault.body
    if fault.kind is FaultKind.THROTTLE:
        assert customer.emulator.truth().refused_posts == 0
    assert (await customer.post(url)).status == (409 if stored else 200)


async def test_a_throttle_may_name_no_time(customer: Customer) -> None:
    """Without headers the 429 has no Retry-After."""
    customer.emulator.script_next("buckets", Fault(FaultKind.THROTTLE))
    reply = await customer.buckets()
    assert (reply.status, "retry-after" in reply.headers) == (429, False)


async def test_a_web_page_says_that_it_is_one(customer: Customer) -> None:
    """Its type is text/html, or its text is the one that was given."""
    customer.emulator.script_next("buckets", Fault(FaultKind.HTML), Fault(FaultKind.HTML, status=502, body=b"<p>"))
    reply = await customer.buckets()
    assert reply.headers["content-type"].startswith("text/html")
    assert b"<h1>" in reply.body
    given = await customer.buckets()
    assert (given.status, given.body) == (502, b"<p>")


async def test_wrong_json_keeps_the_outline(customer: Customer) -> None:
    """The names are right, each value is of another type; the slot is reserved all the same."""
    customer.emulator.script_next("reserve", Fault(FaultKind.WRONG_JSON))
    told = (await customer.reserve()).json
    assert {name: type(value) for name, value in told.items()} == {"url": int, "id": int}
    assert customer.emulator.truth().slots == 1


async def test_wrong_json_reaches_into_a_result(enter: Enter) -> None:
    """Lists become objects, numbers become lists, and a picture becomes an empty list."""
    customer = await enter(processing=(0, 0), set_shape="list")
    image_id = await customer.store()
    customer.emulator.script_next("result", Fault(FaultKind.WRONG_JSON))
    told = (await customer.result(image_id)).json
    assert told["set"] == {"0": 5}
    assert told["borderInfo"]["color"]["r"] == ["255"]
    customer.emulator.script_next("bucket", Fault(FaultKind.WRONG_JSON))
    bucket = (await customer.buckets()).json["urls"]["emu-1"]
    url = (await customer.result(image_id)).json["set"][0]["url"]
    assert (await customer.send("GET", f"{bucket}/{url}")).json == []


async def test_garbage_calls_itself_json(customer: Customer) -> None:
    """The type is JSON, the text is none."""
    customer.emulator.script_next("buckets", Fault(FaultKind.NOT_JSON))
    reply = await customer.buckets()
    assert reply.headers["content-type"] == "application/json"
    with pytest.raises(ValueError, match=r"codec|JSON|Expecting"):
        json.loads(reply.body)


async def test_a_drip_is_right_but_slow(customer: Customer) -> None:
    """Every byte of the right answer comes in the end, one by one."""
    whole = (await customer.buckets()).body
    customer.emulator.script_next("buckets", Fault(FaultKind.DRIP))
    assert (await customer.buckets()).body == whole


async def test_a_truncated_answer_breaks_off(customer: Customer) -> None:
    """The call is done, its answer ends before its Content-Length."""
    customer.emulator.script_next("reserve", Fault(FaultKind.TRUNCATED))
    with pytest.raises(aiohttp.ClientPayloadError):
        await customer.reserve()
    assert customer.emulator.truth().slots == 1


@pytest.mark.parametrize("act", [False, True])
async def test_an_endless_answer_goes_on_until_the_client_leaves(customer: Customer, act: bool) -> None:
    """More and more comes; when the client has had enough, the call is over."""
    customer.emulator.script_next("reserve", Fault(FaultKind.ENDLESS, seconds=0, act=act))
    url = URL(f"{customer.emulator.api_url}/1003/tile/cover/image")
    headers = {"Authorization": "Bearer emulator-token"}
    async with customer.session.post(
        url, json={"acceptHeader": "multipart/form-data"}, headers=headers
    ) as response:
        assert len(await response.content.readexactly(300_000)) == 300_000
        response.close()
    await customer.emulator.until("reserve", 1)
    assert customer.emulator.truth().slots == act


@pytest.mark.parametrize(
    ("kind", "stored"), [(FaultKind.HANG, 0), (FaultKind.HANG_AFTER, 1), (FaultKind.STALL, 0)]
)
async def test_a_hanging_call_ends_when_the_client_leaves(
    customer: Customer, kind: FaultKind, stored: int
) -> None:
    """No answer comes; the handler goes when the client does."""
    url = await slot_url(customer)
    customer.emulator.script_next("upload", Fault(kind))
    reader, writer = await customer.raw(upload_head(url, len(form())) + form())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read()
    assert "upload" not in customer.emulator.truth().calls
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        await customer.emulator.until("upload", 1)
    assert len(customer.emulator.truth().images) == stored
    assert customer.emulator.calls()[-1].status == 0


async def test_a_stall_takes_no_more_bytes(enter: Enter) -> None:
    """After the first kilobytes the client's bytes pile up on its own side; its reset ends the call."""
    customer = await enter(receive_buffer=8192)
    url = await slot_url(customer)
    customer.emulator.script_next("upload", Fault(FaultKind.STALL))
    _, writer = await customer.raw(upload_head(url, 20_000_000))
    writer.write(bytes(20_000_000))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await writer.drain()
    transport = writer.transport
    assert isinstance(transport, asyncio.WriteTransport)
    assert transport.get_write_buffer_size() > 5_000_000
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    async with asyncio.timeout(5):
        await customer.emulator.until("upload", 1)


async def test_a_client_that_leaves_is_noticed_though_nobody_reads() -> None:
    """A closed connection is seen while bytes wait unread before its end."""
    accepted: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    class Deaf(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.pause_reading()
            accepted.set_result(transport)

    server = await asyncio.get_running_loop().create_server(Deaf, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"unread")
        transport = await accepted
        assert not is_gone(transport)
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(5):
            while not is_gone(transport):  # noqa: ASYNC110 - the system tells it by no event
                await asyncio.sleep(0)
        transport.abort()


@pytest.mark.parametrize("kind", [FaultKind.HANG, FaultKind.HANG_AFTER, FaultKind.STALL, FaultKind.ENDLESS])
async def test_stopping_ends_every_call_at_once(enter: Enter, kind: FaultKind) -> None:
    """A stop is prompt whatever hangs, and its clients see the connection go."""
    customer = await enter()
    url = await slot_url(customer)
    customer.emulator.script_always("upload", Fault(kind, seconds=0))
    waiting = [asyncio.create_task(customer.post(url)) for _ in range(5)]
    await serving(customer.emulator, 5)
    async with asyncio.timeout(1):
        await customer.emulator.stop()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, aiohttp.ClientError) for each in ended)


async def test_stopping_ends_a_drip(enter: Enter) -> None:
    """An answer that drips is cut off when the emulator stops."""
    customer = await enter()
    customer.emulator.script_next("buckets", Fault(FaultKind.DRIP, seconds=0))
    waiting = asyncio.create_task(customer.buckets())
    await serving(customer.emulator, 1)
    await customer.emulator.stop()
    with pytest.raises(aiohttp.ClientError):
        await waiting


async def test_a_client_may_leave_a_drip(customer: Customer) -> None:
    """A client that has had enough of a slow answer ends it."""
    customer.emulator.script_next("buckets", Fault(FaultKind.DRIP, seconds=0.001))
    request = b"GET /api/v1/1003/image/bucket HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer emulator-token\r\n\r\n"
    reader, writer = await customer.raw(request)
    await reader.readexactly(20)
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    async with asyncio.timeout(5):
        await customer.emulator.until("buckets", 1)
    assert customer.emulator.calls()[-1].fault == "drip"


async def test_a_fault_by_chance_stands_in_the_call_log(enter: Enter) -> None:
    """With a rate of one every call goes wrong, the emulator's own pages excepted."""
    customer = await enter(fault_rate=1.0, fault_kinds=(FaultKind.STATUS,))
    assert (await customer.buckets()).status >= 500
    assert (await customer.send("GET", f"{customer.emulator.base_url}/_emulator/truth")).status == 200
    assert [call.fault for call in customer.emulator.calls()] == ["status"]


async def test_a_fault_after_a_refused_call_keeps_the_refusal(customer: Customer) -> None:
    """An act that is refused does nothing, whatever fault follows."""
    customer.emulator.script_next("upload", Fault(FaultKind.STATUS_AFTER))
    url = await slot_url(customer)
    assert (await customer.post(url, form(GIF, media_type="image/png"))).status == 500
    assert customer.emulator.truth().images == ()
