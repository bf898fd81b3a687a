"""What the API's answers mean: typed records, or our errors. Pure: nothing here touches the network.

A body may be HTML, empty, cut short, of wrong types or absurdly deep; whatever it is, it becomes a record or
one of our errors, never a foreign one.
"""

from __future__ import annotations

import codecs
import email.utils
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import TypeVar

import msgspec

from tileferry.errors import (
    Delivery,
    FatalError,
    RejectedError,
    SlotRefusedError,
    ThrottledError,
    TokenRefusedError,
    TransientError,
    printable,
)
from tileferry.model import Rendition, Slot, StoredImage
from tileferry.wire import Answer

_T = TypeVar("_T")

MOST = 1e12
"""No width, height or lifetime is as large as this."""

LONGEST_PAUSE = 3600.0
"""Seconds; a longer Retry-After is cut to this. One call an hour hammers nobody."""

SHORTEST_PAUSE = 1.0
"""Seconds; a Retry-After of zero would be an invitation to hammer."""


class _Slot(msgspec.Struct):
    id: str | int
    url: str


class _Rendition(msgspec.Struct):
    url: str
    width: int | float | None = None
    height: int | float | None = None


class _Result(msgspec.Struct):
    bucket: str | None = None
    set: list[_Rendition | None] | dict[str, _Rendition | None] | None = None


class _Buckets(msgspec.Struct):
    urls: dict[str, str]


class _Token(msgspec.Struct):
    access_token: str = msgspec.field(name="accessToken")
    expires_in: int | float | None = msgspec.field(name="expiresIn", default=None)


class _Error(msgspec.Struct):
    code: object = msgspec.field(name="errorCode", default="")
    message: object = msgspec.field(name="errorMessage", default="")


def slot(answer: Answer) -> Slot:
    """The reserved slot (documented: `{"url", "id"}`). Raises `TransientError` when it is no slot."""
    found = _decoded(answer, _Slot)
    if not found.url or found.id == "":
        raise TransientError("the API answered with a slot that lacks its id or URL", wall=False)
    return Slot(str(found.id), found.url)


def is_missing(answer: Answer) -> bool:
    """Whether what was asked for is not there, in a store that is."""
    return answer.status == 404 and _error(answer).code != "STORE_NOT_FOUND"


def stored_image(answer: Answer) -> StoredImage | None:
    """The image, or `None` while it is not there: only a non-empty `set` means that it exists.

    `set` is documented as a list of renditions and was observed as a map by rendition name; both are taken.
    Raises `TransientError` when the answer is neither.
    """
    if is_missing(answer):
        return None
    found = _decoded(answer, _Result)
    if isinstance(found.set, dict):
        named = list(found.set.items())
    else:
        named = [(str(number), rendition) for number, rendition in enumerate(found.set or ())]
    renditions = tuple(
        Rendition(name, rendition.url, _pixels(rendition.width), _pixels(rendition.height))
        for name, rendition in named
        if rendition is not None and rendition.url
    )
    if not renditions or not found.bucket:
        return None
    return StoredImage(found.bucket, renditions)


def buckets(answer: Answer) -> Mapping[str, str]:
    """Address by bucket name (documented: `{"urls": {…}}`). Raises `TransientError` for anything else."""
    return {name: url.rstrip("/") for name, url in _decoded(answer, _Buckets).urls.items()}


def token(answer: Answer) -> tuple[str, float | None]:
    """An access token and its lifetime in seconds, if one is told.

    `expiresIn` is documented "in milliseconds, for example 86400", which contradicts itself; it is read as
    seconds. Raises `TransientError` for anything else.
    """
    found = _decoded(answer, _Token)
    if not found.access_token or re.search(r"[^\x21-\x7e]", found.access_token):
        raise TransientError("the API answered with an access token that is none", wall=False)
    return found.access_token, _positive(found.expires_in)


def check_api(answer: Answer, *, about: str, now: float, default_pause: float) -> None:
    """Let a 2xx answer of the API pass; raise what any other one means (statuses and codes: documented).

    `about` names what was asked for, `now` is the time of day for a Retry-After that is a date.
    """
    status = answer.status
    if 200 <= status < 300:
        return
    error = _error(answer)
    told = f"HTTP {status}" + (f" {error.code}" if error.code else "")
    detail = f"{told}: {error.message}" if error.message else told
    pause = retry_after(answer.headers, now)
    if status == 429 or (status == 503 and pause is not None):
        raise ThrottledError(f"the API asks for a pause ({told})", pause=default_pause if pause is None else pause)
    if status in {408, 425} or status >= 500 or 300 <= status < 400 or status < 200:
        raise TransientError(f"the API answered {told}", delivery=Delivery.WHOLE)
    if status == 402:
        raise FatalError(_payment_sentence(error.code, detail))
    if status in {401, 403}:
        raise _refused_token(error.code, detail)
    if status == 404 and error.code == "STORE_NOT_FOUND":
        raise FatalError(f"the API knows no such store ({detail}); check --store.")
    if status == 404:
        raise RejectedError(
            f"{about} is not in this store ({told}); `tileId` must be the id of one of its tiles",
            reason="tile not found",
        )
    raise RejectedError(f"the API refuses {about} ({detail})", reason=f"refused by the API ({told})")


def check_upload(answer: Answer, *, host: str, now: float, default_pause: float) -> None:
    """Let a 2xx answer of the upload host pass; raise what any other one means.

    Its body is not relied on, except that a web page is nobody's answer to an upload: that was a login page of
    some network, or a proxy's, so the picture's fate is unclear. The upload host's answers are not documented.
    What says "not this picture" rejects the image, what says "not this slot" rejects the slot, and all else may
    pass.
    """
    status = answer.status
    told = f"HTTP {status}"
    if 200 <= status < 300:
        if (
            answer.body.removeprefix(codecs.BOM_UTF8)
            .lstrip()[:15]
            .lower()
            .startswith((b"<!doctype html", b"<html"))
        ):
            raise TransientError(f"{host} answered with a web page ({told})", delivery=Delivery.WHOLE, wall=False)
        return
    pause = retry_after(answer.headers, now)
    if status == 429 or (status == 503 and pause is not None):
        raise ThrottledError(
            f"{host} asks for a pause ({told})",
            pause=default_pause if pause is None else pause,
            delivery=Delivery.NOTHING if status == 429 else Delivery.WHOLE,
        )
    if status in {408, 425} or status >= 500 or status < 400:
        raise TransientError(f"{host} answered {told}", delivery=Delivery.WHOLE)
    if status in {401, 403, 404, 409, 410}:
        raise SlotRefusedError(f"{host} refuses the upload slot ({told})", status=status)
    error = _error(answer)
    detail = " ".join(filter(None, (told, error.code, error.message)))
    raise RejectedError(f"{host} refuses the picture ({detail})", reason=f"picture refused ({told})")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The pause that a Retry-After header asks for, in seconds; `None` where it is missing or makes no sense.

    It may be a number of seconds or an HTTP date (RFC 9110); `now` is the time of day.
    """
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(text)
            # HTTP dates are in universal time, said or unsaid.
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(max(seconds, SHORTEST_PAUSE), LONGEST_PAUSE)


def _decoded(answer: Answer, shape: type[_T]) -> _T:
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        kind = answer.headers.get("content-type", "no content type").split(";")[0]
        raise TransientError(
            f"the API's answer cannot be understood (HTTP {answer.status}, {printable(kind)}, "
            f"{len(answer.body)} bytes)",
            delivery=Delivery.WHOLE,
        ) from None


@dataclass(frozen=True, slots=True)
class _Told:
    """What an error body says, fit for messages; empty where it says nothing."""

    code: str = ""
    message: str = ""


def _error(answer: Answer) -> _Told:
    try:
        error = msgspec.json.decode(answer.body, type=_Error)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Told()
    code = error.code if isinstance(error.code, str) else ""
    message = error.message if isinstance(error.message, str) else ""
    return _Told(code=printable(code[:60]), message=printable(message[:200]))


def _payment_sentence(code: str, detail: str) -> str:
    if code == "STORE_IS_SUSPENDED":
        return f"the store is suspended ({detail}): its owner has to settle this with Ecwid in the control panel."
    return (
        f"the store's plan does not include this ({detail}): its owner has to upgrade the plan in the Ecwid "
        "control panel, under Billing & Plans."
    )


def _refused_token(code: str, detail: str) -> TokenRefusedError:
    if code == "INSUFFICIENT_APP_SCOPE":
        return TokenRefusedError(
            f"the token may not do this ({detail}): the app needs the scope manage_instant_site.", curable=False
        )
    return TokenRefusedError(f"the API refuses the token ({detail}): it is wrong, expired or of another store.")


def _pixels(number: float | None) -> int | None:
    found = _positive(number)
    return int(found) if found is not None else None


def _positive(number: float | None) -> float | None:
    """`number` if it is one that can be worked with; JSON's integers have no limit."""
    if number is None or not 0 < number < MOST:
        return None
    return float(number)
