"""The upload host and the bucket: signed addresses that must never see the token."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING

from aiohttp import hdrs

from tileferry.emulator.answers import Answer, CallError, json_answer, wrong_parameter
from tileferry.emulator.intake import receive
from tileferry.emulator.routes import check_method

if TYPE_CHECKING:
    from aiohttp import web

    from tileferry.emulator.routes import Route
    from tileferry.emulator.shop import Shop
    from tileferry.emulator.store import Slot


async def upload(shop: Shop, request: web.BaseRequest, route: Route, query: str) -> Answer:
    """Store the body in the slot that the address names. Raises `CallError`."""
    check_method(route, request.method)
    refuse_token(shop, request)
    slot = _slot(shop, route.name, query)
    received = await receive(request, shop)
    if not shop.store.keep(slot, received):
        raise CallError(409, "CONSTRAINT_VIOLATION", "The slot holds a picture already.")
    return json_answer({"status": "stored"})


async def picture(shop: Shop, request: web.BaseRequest, route: Route, query: str) -> Answer:
    """A stored picture's own bytes, whichever rendition the address asks for. Raises `CallError`."""
    check_method(route, request.method)
    refuse_token(shop, request)
    slot, _, rendition = route.name.partition("/")
    stored = shop.store.images.get(slot)
    if stored is None or not rendition or query:
        raise CallError(404, "NOT_FOUND", "There is no such picture.")
    path = shop.store.pictures / stored.fact.file
    body = await asyncio.get_running_loop().run_in_executor(shop.disk, path.read_bytes)
    return Answer(body=body, content_type=stored.fact.kind, headers={"X-Content-Type-Options": "nosniff"})


def refuse_token(shop: Shop, request: web.BaseRequest) -> None:
    """Refuse a call that brings a token where none belongs, and remember the leak. Raises `CallError`."""
    if hdrs.AUTHORIZATION in request.headers or shop.tokens.leaked_in(request.raw_path):
        shop.log.token_leaks += 1
        raise wrong_parameter("The token was sent to a host that must not see it.")


def _slot(shop: Shop, name: str, query: str) -> Slot:
    slot = shop.store.slots.get(name)
    if slot is None:
        raise CallError(404, "NOT_FOUND", "There is no such upload slot.")
    # Byte for byte: a query that was decoded and encoded again on its way is another query.
    given = query.encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(given, slot.fact.query.encode()):
        raise CallError(403, "SIGNATURE_DOES_NOT_MATCH", "The signature does not match.")
    if shop.store.is_over(slot):
        raise CallError(410, "GONE", "The upload slot has expired.")
    return slot
