"""The emulator's own pages: the truth, the calls, faults on demand, and the pictures to look at."""

from __future__ import annotations

import html
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from tileferry.emulator.answers import JSON, Answer, CallError, json_answer, wrong_parameter
from tileferry.emulator.delivery import as_response
from tileferry.emulator.faults import Fault, FaultKind
from tileferry.emulator.store import BUCKET
from tileferry.emulator.truth import take_truth

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tileferry.emulator.faults import FaultPlan
    from tileferry.emulator.routes import Route
    from tileferry.emulator.shop import Shop

MAX_BODY_BYTES = 1024 * 1024
"""Longest list of faults (an arbitrary bound)."""

SHOWN = 1000
"""How many of the latest pictures the page lists."""


async def respond(shop: Shop, request: web.BaseRequest, route: Route) -> web.Response:
    """The answer to a call for one of the emulator's own pages."""
    try:
        return as_response(await _answer(shop, request, route.name))
    except CallError as refusal:
        return as_response(refusal.answer)


async def _answer(shop: Shop, request: web.BaseRequest, page: str) -> Answer:
    match request.method, page:
        case "GET", "index":
            return _index(shop)
        case "GET", "truth":
            return Answer(body=take_truth(shop).as_json().encode())
        case "GET", "calls":
            lines = (json.dumps(asdict(call)) + "\n" for call in shop.log.calls)
            return Answer(body="".join(lines).encode(), content_type="application/x-ndjson")
        case "POST", "faults":
            # A page from the web that is open in a browser cannot send this type without being asked first.
            if request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip() != JSON:
                raise wrong_parameter(f"The Content-Type must be {JSON}.")
            try:
                plan_from_json(shop.plan, await _body(request))
            except ValueError as exc:
                raise wrong_parameter(str(exc)) from exc
            return json_answer({"status": "planned"})
        case _:
            raise CallError(404, "NOT_FOUND", "There is no such page.")


async def _body(request: web.BaseRequest) -> bytes:
    body = bytearray()
    async for data in request.content.iter_any():
        body += data
        if len(body) > MAX_BODY_BYTES:
            raise wrong_parameter("The list of faults is too long.")
    return bytes(body)


def plan_from_json(plan: FaultPlan, text: bytes) -> None:
    """Plan the faults that a JSON object asks for. Raises `ValueError` with a sentence for what it cannot
    mean.

    `{"script": [{"call", "n", "fault"}], "next": [{"call", "faults"}], "always": [{"call", "fault" or null}],
    "chance": {"rate", "kinds", "seed"}}`, each optional; a fault is `{"kind", "status", "headers", "body",
    "seconds", "act"}` with all but `kind` optional.
    """
    try:
        asked: object = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("The faults are not JSON.") from None
    wishes = _fields(asked, {"script", "next", "always", "chance"})
    for wish in _items(wishes.get("script", []), {"call", "n", "fault"}):
        plan.script(_text(wish, "call"), _whole(wish, "n"), _fault(wish.get("fault")))
    for wish in _items(wishes.get("next", []), {"call", "faults"}):
        faults = wish.get("faults")
        if not isinstance(faults, list):
            raise _meaningless("faults must be a list.")
        plan.script_next(_text(wish, "call"), *(_fault(fault) for fault in faults))
    for wish in _items(wishes.get("always", []), {"call", "fault"}):
        fault = wish.get("fault")
        plan.script_always(_text(wish, "call"), None if fault is None else _fault(fault))
    if "chance" in wishes:
        wish = _fields(wishes["chance"], {"rate", "kinds", "seed"})
        kinds = wish.get("kinds", list(FaultKind))
        if not isinstance(kinds, list):
            raise _meaningless("kinds must be a list.")
        plan.set_chance(
            rate=_number(wish, "rate"),
            kinds=tuple(FaultKind(kind) for kind in kinds),
            seed=_whole({"seed": 0, **wish}, "seed"),
        )


def _fault(value: object) -> Fault:
    given = _fields(value, {"kind", "status", "headers", "body", "seconds", "act"})
    headers = _fields(given.get("headers", {}), None)
    return Fault(
        FaultKind(_text(given, "kind")),
        status=_whole(given, "status") if "status" in given else None,
        headers={name: _text(headers, name) for name in headers},
        body=_text(given, "body").encode() if "body" in given else None,
        seconds=_number(given, "seconds") if "seconds" in given else None,
        act=bool(given.get("act", False)),
    )


def _fields(value: object, names: set[str] | None) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _meaningless("An object was expected.")
    unknown = set() if names is None else value.keys() - names
    if names is not None and unknown:
        raise ValueError(f"{', '.join(sorted(unknown))} is unknown; expected {', '.join(sorted(names))}.")
    return value


def _items(value: object, names: set[str]) -> Iterator[dict[str, object]]:
    if not isinstance(value, list):
        raise _meaningless("A list was expected.")
    return (_fields(item, names) for item in value)


def _text(given: dict[str, object], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise _meaningless(f"{name} must be a text.")
    return value


def _whole(given: dict[str, object], name: str) -> int:
    value = given.get(name)
    if not isinstance(value, int):
        raise _meaningless(f"{name} must be a whole number.")
    return value


def _number(given: dict[str, object], name: str) -> float:
    value = given.get(name)
    if not isinstance(value, (int, float)):
        raise _meaningless(f"{name} must be a number.")
    return value


def _meaningless(message: str) -> ValueError:
    """For a value of the wrong type too: whoever sent it knows text only, no types."""
    return ValueError(message)


def _index(shop: Shop) -> Answer:
    """A plain page that lists the latest pictures, newest first."""
    images = list(shop.store.images.values())
    rows = []
    for stored in reversed(images[-SHOWN:]):
        link = f"/bucket/{BUCKET}/{stored.slot.slot}/original"
        cells = (
            str(stored.slot.store),
            stored.slot.tile,
            stored.fact.filename,
            f"{stored.fact.size:,} bytes",
        )
        shown = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr>{shown}<td><a href="{html.escape(link)}">{html.escape(stored.slot.image_id)}</a></td>')
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Emulated shop</title>'
        f"<h1>{len(images):,} stored images</h1>"
        f"<p>The latest {SHOWN:,} at most. See also <a href='/_emulator/truth'>the truth</a> and"
        " <a href='/_emulator/calls'>the calls</a>.</p>"
        f"<table><tr><th>Store<th>Tile<th>File<th>Size<th>Image</tr>{''.join(rows)}</table></html>"
    )
    headers = {"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff"}
    return Answer(body=page.encode("utf-8", "replace"), content_type="text/html; charset=utf-8", headers=headers)
