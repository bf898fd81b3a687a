"""Which call a request is, told by its raw path: ids are opaque and may hold escaped slashes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from tileferry.emulator.answers import CallError, wrong_parameter
from tileferry.emulator.calls import CallKind

_WELL_ESCAPED = re.compile(r"(?:[!-$&-.0-~]|%[0-9A-Fa-f]{2})+")
"""A path segment: visible ASCII but no slash, and no percent sign that escapes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What is called: `store` and `name` (tile, image, slot, page or file) as written, not yet decoded."""

    kind: CallKind
    methods: tuple[str, ...] = ("GET",)
    store: str = ""
    name: str = ""


def find_route(path: str) -> Route:
    """The route for a raw path without its query; `CallKind.OTHER` where there is none."""
    match path.split("/"):
        case ["", "api", "v1", "oauth", "token"] | ["", "instantsite", "oauth", "token"]:
            return Route(kind=CallKind.TOKEN, methods=("POST",))
        case ["", "api", "v1", store, *rest] if store:
            return _api_route(store, rest)
        case ["", "upload", slot] if slot:
            return Route(kind=CallKind.UPLOAD, methods=("POST",), name=slot)
        case ["", "bucket", _, *rest] if rest:
            return Route(kind=CallKind.BUCKET, name="/".join(rest))
        case ["", ""]:
            return Route(kind=CallKind.CONTROL, name="index")
        case ["", "_emulator", name]:
            return Route(kind=CallKind.CONTROL, methods=("GET", "POST"), name=name)
        case _:
            return Route(kind=CallKind.OTHER, methods=())


def _api_route(store: str, rest: list[str]) -> Route:
    match rest:
        case ["tile"]:
            return Route(kind=CallKind.TILES, store=store)
        case ["page"]:
            return Route(kind=CallKind.PAGES, store=store)
        case ["tile", tile, "image"] if tile:
            return Route(kind=CallKind.RESERVE, methods=("POST",), store=store, name=tile)
        case ["tile", tile] if tile:
            return Route(kind=CallKind.TILE, store=store, name=tile)
        case ["image", "bucket"]:
            return Route(kind=CallKind.BUCKETS, store=store)
        case ["image", image] if image:
            return Route(kind=CallKind.RESULT, store=store, name=image)
        case _:
            return Route(kind=CallKind.OTHER, methods=(), store=store)


def check_method(route: Route, method: str) -> None:
    """Refuse with 404 a path that nobody knows, with 405 a method that the path does not take."""
    if route.kind is CallKind.OTHER:
        raise CallError(404, "NOT_FOUND", "There is no such call.")
    if method not in route.methods:
        allowed = ", ".join(route.methods)
        raise CallError(405, "METHOD_NOT_ALLOWED", f"This call takes {allowed} only.", headers={"Allow": allowed})


def decoded(segment: str) -> str:
    """A path segment's meaning, decoded once. CallError with 400 where it is not properly escaped UTF-8."""
    if not _WELL_ESCAPED.fullmatch(segment):
        raise wrong_parameter("An id in the path is not percent-encoded.")
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise wrong_parameter("An id in the path is not percent-encoded UTF-8.") from None


def store_number(segment: str) -> int | None:
    """The store id in the path; `None` if it is no number that a store could have."""
    return int(segment) if re.fullmatch(r"[1-9][0-9]{0,17}", segment) else None
