"""The API's own calls: token, slot, result, buckets, tiles, pages."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from aiohttp import hdrs

from tileferry.emulator import documents
from tileferry.emulator.answers import JSON, Answer, CallError, json_answer, wrong_parameter
from tileferry.emulator.calls import CallKind, fingerprint
from tileferry.emulator.routes import check_method, decoded, store_number
from tileferry.emulator.store import BUCKET

if TYPE_CHECKING:
    from aiohttp import web

    from tileferry.emulator.routes import Route
    from tileferry.emulator.shop import Shop

MAX_BODY_BYTES = 64 * 1024
"""Longest request body outside of uploads (an arbitrary bound)."""

_FORM = "multipart/form-data"


def bearer(request: web.BaseRequest) -> str | None:
    """The token that the request brings, if it brings one in the documented way."""
    values = request.headers.getall(hdrs.AUTHORIZATION, [])
    if len(values) != 1 or not values[0].startswith("Bearer "):
        return None
    return values[0].removeprefix("Bearer ")


def gate(shop: Shop, route: Route, token: str | None) -> CallError | None:
    """Count an API call; what it is refused with, if its token does not let it pass."""
    if shop.tokens.is_good(token, store_number(route.store)):
        wait = shop.limits.admit(fingerprint(token))
    else:
        shop.log.bad_token_calls += 1
        wait = shop.limits.refuse(fingerprint(token))
        if wait is None:
            return CallError(403, "INVALID_API_TOKEN", "The token is missing, wrong or expired.")
    return None if wait is None else _throttled(wait)


def _throttled(wait: float) -> CallError:
    seconds = str(max(1, math.ceil(wait)))
    return CallError(429, "RATE_LIMITED", "There were too many calls.", headers={"Retry-After": seconds})


async def answer(shop: Shop, request: web.BaseRequest, route: Route, query: str) -> Answer:
    """The answer to a call that has passed the gate. Raises `CallError`."""
    check_method(route, request.method)
    store = _store(shop, route)
    if route.kind is CallKind.RESERVE:
        return await _reserve(shop, request, store, decoded(route.name), query)
    await _no_body(request)
    match route.kind:
        case CallKind.RESULT:
            _no_query(query)
            return _result(shop, store, decoded(route.name))
        case CallKind.BUCKETS:
            _no_query(query)
            return json_answer({"urls": {BUCKET: f"{shop.base_url}/bucket/{BUCKET}"}})
        case CallKind.TILE:
            _no_query(query)
            return json_answer(documents.tile(_tile(shop, decoded(route.name))))
        case CallKind.TILES:
            page = _listing(query, {"pageId", "lang"}).get("pageId", documents.HOME)
            tiles = documents.known_tiles(shop) if page == documents.HOME else []
            return json_answer({"tiles": [documents.tile(each, order) for order, each in enumerate(tiles)]})
        case _:
            _listing(query, set())
            return json_answer({"pages": [documents.page(documents.known_tiles(shop))]})


async def exchange(shop: Shop, request: web.BaseRequest, route: Route, query: str) -> Answer:
    """A new token for the app's secret one. Raises `CallError`."""
    check_method(route, request.method)
    await _no_body(request)
    values = _query(query, {"grant_type", "site_id", "code"})
    if values.get("grant_type") != "authorization_code":
        raise wrong_parameter("grant_type must be authorization_code.")
    store = store_number(values.get("site_id", ""))
    if store is None:
        raise wrong_parameter("site_id must be the store's number.")
    code = values.get("code", "")
    if not shop.tokens.is_secret(code):
        shop.log.bad_token_calls += 1
        wait = shop.limits.refuse(fingerprint(code))
        if wait is not None:
            raise _throttled(wait)
        raise CallError(403, "INVALID_API_TOKEN", "The secret token is not accepted.")
    if not shop.settings.has_store(store):
        raise CallError(404, "STORE_NOT_FOUND", "There is no such store.")
    lifetime = math.ceil(shop.tokens.lifetime)
    return json_answer({"accessToken": shop.tokens.issue(store), "tokenType": "bearer", "expiresIn": lifetime})


async def _reserve(shop: Shop, request: web.BaseRequest, store: int, tile: str, query: str) -> Answer:
    _no_query(query)
    if request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower() != JSON:
        raise CallError(415, "UNSUPPORTED_MEDIA_TYPE", f"The Content-Type must be {JSON}.")
    try:
        body: object = json.loads(await _body(request))
    except (ValueError, RecursionError):
        raise wrong_parameter("The body is not JSON.") from None
    if body != {"acceptHeader": _FORM}:
        raise wrong_parameter(f'The body must be {{"acceptHeader": "{_FORM}"}}.')
    slot = shop.store.reserve(store, _tile(shop, tile)).fact
    url = f"{shop.base_url}/upload/{slot.slot}?{slot.query}"
    return json_answer({"url": url, "id": slot.image_id})


def _result(shop: Shop, store: int, image_id: str) -> Answer:
    stored = shop.store.image(store, image_id)
    now = shop.store.now()
    if stored is None or now < stored.told_from:
        raise CallError(404, "NOT_FOUND", "There is no such image.")
    ready = now >= stored.ready_from
    return json_answer(documents.result(stored, shop.settings.set_shape, ready=ready))


def _store(shop: Shop, route: Route) -> int:
    store = store_number(route.store)
    if store is None or not shop.settings.has_store(store):
        raise CallError(404, "STORE_NOT_FOUND", "There is no such store.")
    return store


def _tile(shop: Shop, tile: str) -> str:
    if not shop.settings.has_tile(tile):
        raise CallError(404, "NOT_FOUND", "There is no such tile.")
    return tile


def _listing(query: str, optional: set[str]) -> dict[str, str]:
    values = _query(query, {"published", *optional})
    if values.get("published") not in {"true", "false"}:
        raise wrong_parameter("published must be true or false.")
    return values


def _query(query: str, names: set[str]) -> dict[str, str]:
    """The query's values, each of a known name and given once."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict") if query else []
    except ValueError:
        raise wrong_parameter("The query cannot be understood.") from None
    values = dict(pairs)
    if len(values) != len(pairs) or not values.keys() <= names:
        raise wrong_parameter("The query holds a name twice, or one that this call does not know.")
    return values


def _no_query(query: str) -> None:
    if query:
        raise wrong_parameter("This call takes no query; a question mark in an id has to be escaped.")


async def _body(request: web.BaseRequest) -> bytes:
    body = bytearray()
    async for data in request.content.iter_any():
        body += data
        if len(body) > MAX_BODY_BYTES:
            raise wrong_parameter("The body is too long for this call.")
    return bytes(body)


async def _no_body(request: web.BaseRequest) -> None:
    if await _body(request):
        raise wrong_parameter("This call takes no body.")
