"""How an answer leaves, or fails to: every fault as it looks on the wire.

A behavior gets the request and the act (what the call would do, with its answer) and decides whether, when
and how far either happens. It gives back what aiohttp has to finish and the status that the client was told,
0 for none. One that waits ends when the client leaves or the emulator stops.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from aiohttp import hdrs, web

from tileferry.emulator.answers import JSON, Answer
from tileferry.emulator.faults import Fault, FaultKind

LEFT = (OSError, web.RequestPayloadError)
"""What aiohttp raises when the client leaves while it is read from or written to."""

_STALL_BYTES = 16 * 1024
_LOOK_SECONDS = 0.05
_DRIP_SECONDS = 0.001
_ENDLESS_PIECE = b" " * 8192
_PAGE = b"<!doctype html><title>Please log in</title><h1>Please log in to use this network</h1>"

# On Windows the two members of struct linger are shorts.
_LINGER_ZERO = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

Act = Callable[[], Awaitable[Answer]]
Told = tuple[web.StreamResponse, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One request, the emulator's stop signal, and the act that the request asks for."""

    request: web.BaseRequest
    stop: asyncio.Event
    act: Act


async def deliver(line: Line, fault: Fault | None) -> Told:
    """Let the call happen as `fault` wants it, or as it should."""
    try:
        if fault is None:
            return _plain(await line.act())
        return await _BEHAVIORS[fault.kind](line, fault)
    except LEFT:
        return _reset(line)


def as_response(answer: Answer) -> web.Response:
    """The answer as aiohttp takes it."""
    headers = {hdrs.CONTENT_TYPE: answer.content_type, **answer.headers}
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _plain(answer: Answer) -> Told:
    return as_response(answer), answer.status


def _reset(line: Line) -> Told:
    """Drop the connection with an RST instead of the polite FIN."""
    transport = line.request.transport
    if transport is not None and not transport.is_closing():
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        transport.abort()
    # aiohttp wants an answer to finish; it notices that nobody is there to get it.
    return web.Response(), 0


async def _reset_before(line: Line, _fault: Fault) -> Told:
    return _reset(line)


async def _reset_within(line: Line, _fault: Fault) -> Told:
    await _read(line, (line.request.content_length or 0) // 2)
    return _reset(line)


async def _reset_after(line: Line, _fault: Fault) -> Told:
    await line.act()
    return _reset(line)


async def _status(_line: Line, fault: Fault) -> Told:
    return _plain(_answer_of(fault, 500))


async def _status_after(line: Line, fault: Fault) -> Told:
    await line.act()
    return _plain(_answer_of(fault, 500))


async def _throttle(_line: Line, fault: Fault) -> Told:
    return _plain(_answer_of(fault, 429))


async def _hang(line: Line, _fault: Fault) -> Told:
    await _read(line, None)
    return await _wait(line)


async def _hang_after(line: Line, _fault: Fault) -> Told:
    await line.act()
    return await _wait(line)


async def _stall(line: Line, _fault: Fault) -> Told:
    await _read(line, _STALL_BYTES)
    return await _wait(line)


async def _html(_line: Line, fault: Fault) -> Told:
    page = _PAGE if fault.body is None else fault.body
    return _plain(Answer(status=fault.status or 200, body=page, content_type="text/html; charset=utf-8"))


async def _body(line: Line, fault: Fault) -> Told:
    if fault.act:
        await line.act()
    return _plain(_answer_of(fault, 200))


async def _slot_refused(line: Line, fault: Fault) -> Told:
    if fault.act:
        await line.act()
    return _plain(_answer_of(fault, 410))


async def _wrong_json(line: Line, _fault: Fault) -> Told:
    answer = await line.act()
    body = json.dumps(_twisted(json.loads(answer.body))).encode() if answer.content_type == JSON else b"[]"
    return _plain(Answer(status=answer.status, body=body))


async def _not_json(line: Line, _fault: Fault) -> Told:
    answer = await line.act()
    return _plain(Answer(status=answer.status, body=b'{"id": "\xff\xfe\x00, oops'))


async def _drip(line: Line, fault: Fault) -> Told:
    answer = await line.act()
    pause = _DRIP_SECONDS if fault.seconds is None else fault.seconds
    response = await _begin(line, answer)
    for byte in answer.body:
        if line.stop.is_set():
            return _reset(line)
        await response.write(bytes((byte,)))
        await asyncio.sleep(pause)
    return response, answer.status


async def _truncated(line: Line, _fault: Fault) -> Told:
    answer = await line.act()
    response = await _begin(line, answer)
    await response.write(answer.body[: len(answer.body) // 2])
    response.force_close()
    return response, answer.status


async def _endless(line: Line, fault: Fault) -> Told:
    if fault.act:
        await line.act()
    response = web.StreamResponse(status=fault.status or 200, headers={hdrs.CONTENT_TYPE: JSON})
    response.enable_chunked_encoding()
    await response.prepare(line.request)
    while not line.stop.is_set():
        await response.write(_ENDLESS_PIECE)
        # Without a pause a fast reader would leave no time for anybody else.
        await asyncio.sleep(_DRIP_SECONDS if fault.seconds is None else fault.seconds)
    return _reset(line)


_BEHAVIORS: dict[FaultKind, Callable[[Line, Fault], Awaitable[Told]]] = {
    FaultKind.RESET_BEFORE: _reset_before,
    FaultKind.RESET_WITHIN: _reset_within,
    FaultKind.RESET_AFTER: _reset_after,
    FaultKind.STATUS: _status,
    FaultKind.STATUS_AFTER: _status_after,
    FaultKind.THROTTLE: _throttle,
    FaultKind.HANG: _hang,
    FaultKind.HANG_AFTER: _hang_after,
    FaultKind.STALL: _stall,
    FaultKind.DRIP: _drip,
    FaultKind.HTML: _html,
    FaultKind.TRUNCATED: _truncated,
    FaultKind.WRONG_JSON: _wrong_json,
    FaultKind.NOT_JSON: _not_json,
    FaultKind.BODY: _body,
    FaultKind.ENDLESS: _endless,
    FaultKind.SLOT_REFUSED: _slot_refused,
}


def _answer_of(fault: Fault, status: int) -> Answer:
    """The answer that the fault spells out, its body empty unless given."""
    headers = {name.title(): value for name, value in fault.headers.items()}
    content_type = headers.pop(hdrs.CONTENT_TYPE, JSON)
    return Answer(
        status=fault.status or status, body=fault.body or b"", content_type=content_type, headers=headers
    )


async def _begin(line: Line, answer: Answer) -> web.StreamResponse:
    headers = {hdrs.CONTENT_TYPE: answer.content_type, **answer.headers}
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.content_length = len(answer.body)
    await response.prepare(line.request)
    return response


async def _read(line: Line, enough: int | None) -> None:
    """Read that much of the body, or all of it, and throw it away."""
    seen = 0
    while enough is None or seen < enough:
        data = await line.request.content.readany()
        if not data:
            break
        seen += len(data)


async def _wait(line: Line) -> Told:
    """Answer nothing until the client has left or the emulator stops."""
    while not line.stop.is_set() and not is_gone(line.request.transport):
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await line.stop.wait()
        except TimeoutError:
            continue
    return _reset(line)


def is_gone(transport: asyncio.Transport | None) -> bool:
    """Whether the client has left, even if nothing is read from it any more and so nobody noticed."""
    if transport is None or transport.is_closing():
        return True
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))


def _twisted(value: object) -> object:
    """The same outline with every value of another type."""
    match value:
        case dict():
            return {name: _twisted(each) for name, each in cast("dict[str, object]", value).items()}
        case list():
            return {"0": len(value)}
        case str():
            return len(value)
        case _:
            return [str(value)]
