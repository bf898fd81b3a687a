"""What the API's answers mean: every documented status and code, and bodies that nobody would document."""

from __future__ import annotations

import datetime
import email.utils
import json
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileferry import answers
from tileferry.answers import LONGEST_PAUSE, SHORTEST_PAUSE
from tileferry.errors import (
    Delivery,
    FatalError,
    RejectedError,
    SlotRefusedError,
    ThrottledError,
    TileferryError,
    TokenRefusedError,
    TransientError,
)
from tileferry.model import Rendition, Slot, StoredImage
from tileferry.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime.datetime(2024, 5, 17, 12, 0, tzinfo=datetime.UTC).timestamp()
PAUSE = 45.0
"""The default pause of these tests, in seconds."""


def answer(body: object = b"", status: int = 200, **headers: str) -> Answer:
    """An answer; a body that is not bytes is sent as JSON, and `_` in a header's name stands for `-`."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def error(status: int, code: str, message: str = "told by the API", **headers: str) -> Answer:
    """An answer with the documented error body."""
    return answer({"errorCode": code, "errorMessage": message}, status, **headers)


def api_error(given: Answer) -> TileferryError | None:
    """What `check_api` raises for an answer, if anything."""
    try:
        answers.check_api(given, about="tile t1", now=NOON, default_pause=PAUSE)
    except TileferryError as exc:
        return exc
    return None


def upload_error(given: Answer) -> TileferryError | None:
    """What `check_upload` raises for an answer, if anything."""
    try:
        answers.check_upload(given, host="up.example", now=NOON, default_pause=PAUSE)
    except TileferryError as exc:
        return exc
    return None


def http_date(offset: float) -> str:
    """The HTTP date that lies `offset` seconds from noon."""
    return email.utils.formatdate(NOON + offset, usegmt=True)


API_TABLE: list[tuple[Answer, type[TileferryError], str]] = [
    (error(400, "WRONG_PARAMETER"), RejectedError, "WRONG_PARAMETER: told by the API"),
    (error(400, "INCORRECT_IMAGE_SIZE"), RejectedError, "INCORRECT_IMAGE_SIZE"),
    (error(401, ""), TokenRefusedError, "refuses the token (HTTP 401"),
    (error(402, "NOT_AVAILABLE_ON_CURRENT_PLAN"), FatalError, "upgrade the plan"),
    (error(402, "STORE_IS_SUSPENDED"), FatalError, "suspended"),
    (answer(b"", 402), FatalError, "upgrade the plan"),
    (error(403, "INSUFFICIENT_APP_SCOPE"), TokenRefusedError, "manage_instant_site"),
    (error(403, "INVALID_API_TOKEN"), TokenRefusedError, "INVALID_API_TOKEN"),
    (answer(b"<html>", 403), TokenRefusedError, "HTTP 403"),
    (error(404, "STORE_NOT_FOUND"), FatalError, "--store"),
    (error(404, "TILE_NOT_FOUND"), RejectedError, "tile t1 is not in this store"),
    (answer(b"", 404), RejectedError, "`tileId`"),
    (error(408, "TIMEOUT"), TransientError, "HTTP 408"),
    (error(409, "CONSTRAINT_VIOLATION"), RejectedError, "CONSTRAINT_VIOLATION"),
    (answer(b"", 410), RejectedError, "HTTP 410"),
    (error(422, ""), RejectedError, "HTTP 422: told by the API"),
    (answer(b"", 425), TransientError, "HTTP 425"),
    (error(429, "RATE_LIMITED"), ThrottledError, "asks for a pause"),
    (error(500, "INTERNAL_ERROR"), TransientError, "INTERNAL_ERROR"),
    (answer(b"<html>Bad gateway</html>", 502), TransientError, "HTTP 502"),
    (answer(b"", 503), TransientError, "HTTP 503"),
    (answer(b"", 599), TransientError, "HTTP 599"),
    (answer(b"", 301, location="https://elsewhere.example/"), TransientError, "HTTP 301"),
    (answer(b"", 307), TransientError, "HTTP 307"),
    (answer(b"", 199), TransientError, "HTTP 199"),
]


@pytest.mark.parametrize(
    ("given", "kind", "told"), API_TABLE, ids=lambda value: str(value.status) if isinstance(value, Answer) else ""
)
def test_api_status(given: Answer, kind: type[TileferryError], told: str) -> None:
    """Each documented status and code becomes exactly one kind of error, with a sentence that tells it."""
    raised = api_error(given)
    assert type(raised) is kind
    assert told in str(raised)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_api_success(status: int) -> None:
    """Any 2xx of the API passes."""
    assert api_error(answer(b"anything", status)) is None


@pytest.mark.parametrize(
    ("given", "curable"),
    [
        (error(401, ""), True),
        (error(403, "INVALID_API_TOKEN"), True),
        (answer(b"", 403), True),
        (error(403, "INSUFFICIENT_APP_SCOPE"), False),
    ],
)
def test_token_refusal_is_curable_unless_the_scope_lacks(given: Answer, curable: bool) -> None:
    """Another token may cure a refused one, but no token of an app without the scope will do."""
    raised = api_error(given)
    assert isinstance(raised, TokenRefusedError)
    assert raised.curable is curable


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (answer(b"", 404), "tile not found"),
        (error(409, "CONSTRAINT_VIOLATION", "is taken"), "refused by the API (HTTP 409 CONSTRAINT_VIOLATION)"),
        (answer(b"", 422), "refused by the API (HTTP 422)"),
    ],
)
def test_rejections_are_grouped_by_a_short_reason(given: Answer, reason: str) -> None:
    """The reason, under which alike failures are counted, holds the code but not the message."""
    raised = api_error(given)
    assert isinstance(raised, RejectedError)
    assert raised.reason == reason


@pytest.mark.parametrize("check", [api_error, upload_error])
@pytest.mark.parametrize(
    ("given", "pause"),
    [
        (answer(b"", 429), PAUSE),
        (answer(b"", 429, retry_after="7"), 7.0),
        (answer(b"", 429, retry_after="-7"), PAUSE),
        (answer(b"", 429, retry_after="later"), PAUSE),
        (answer(b"", 503, retry_after="12.5"), 12.5),
    ],
)
def test_pause_is_taken_from_the_answer_or_the_default(
    check: Callable[[Answer], TileferryError | None], given: Answer, pause: float
) -> None:
    """A 429, and a 503 with a Retry-After, asks for a pause; without a usable number it is the default one."""
    raised = check(given)
    assert isinstance(raised, ThrottledError)
    assert raised.pause == pause
    assert not raised.wall


@pytest.mark.parametrize("check", [api_error, upload_error])
@pytest.mark.parametrize("header", ["", "-1", "soon", "nan"])
def test_unavailable_without_a_pause_is_an_ordinary_failure(
    check: Callable[[Answer], TileferryError | None], header: str
) -> None:
    """A 503 whose Retry-After is missing or makes no sense speaks against the host instead of pausing it."""
    raised = check(answer(b"", 503, retry_after=header))
    assert type(raised) is TransientError
    assert raised.wall


UPLOAD_TABLE: list[tuple[int, type[TileferryError], str]] = [
    (307, TransientError, "HTTP 307"),
    (400, RejectedError, "picture"),
    (401, SlotRefusedError, "slot"),
    (403, SlotRefusedError, "slot"),
    (404, SlotRefusedError, "slot"),
    (408, TransientError, "HTTP 408"),
    (409, SlotRefusedError, "slot"),
    (410, SlotRefusedError, "slot"),
    (411, RejectedError, "HTTP 411"),
    (413, RejectedError, "picture"),
    (415, RejectedError, "picture"),
    (422, RejectedError, "picture"),
    (425, TransientError, "HTTP 425"),
    (429, ThrottledError, "pause"),
    (500, TransientError, "HTTP 500"),
    (503, TransientError, "HTTP 503"),
    (199, TransientError, "HTTP 199"),
]


@pytest.mark.parametrize(("status", "kind", "told"), UPLOAD_TABLE)
def test_upload_status(status: int, kind: type[TileferryError], told: str) -> None:
    """The upload host's refusals concern the slot or the picture; all else may pass; each names the host."""
    raised = upload_error(answer(b"", status))
    assert type(raised) is kind
    assert told in str(raised)
    assert "up.example" in str(raised)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410])
def test_slot_refusal_tells_its_status(status: int) -> None:
    """A refused slot carries the status, on which it depends whether the picture may be behind it."""
    raised = upload_error(answer(b"", status))
    assert isinstance(raised, SlotRefusedError)
    assert raised.status == status


@pytest.mark.parametrize(
    ("status", "headers", "delivery"),
    [
        (429, {}, Delivery.NOTHING),
        (503, {"retry_after": "5"}, Delivery.WHOLE),
        (500, {}, Delivery.WHOLE),
        (302, {}, Delivery.WHOLE),
        (408, {}, Delivery.WHOLE),
    ],
)
def test_upload_failures_tell_what_may_have_arrived(
    status: int, headers: dict[str, str], delivery: Delivery
) -> None:
    """Only a 429 says that nothing was taken; after any other failure the picture may be there."""
    raised = upload_error(answer(b"", status, **headers))
    assert isinstance(raised, TransientError)
    assert raised.delivery is delivery


@pytest.mark.parametrize("body", [b"", b"OK", b'{"id": 1}', b"<PostResponse/>", b"\x00\xff", b"a <html> inside"])
@pytest.mark.parametrize("status", [200, 201, 204])
def test_upload_success_whatever_its_body(status: int, body: bytes) -> None:
    """Any 2xx of the upload host is success; what it says does not matter."""
    assert upload_error(answer(body, status)) is None


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html><title>Hotel Wi-Fi", b"  \r\n<html lang=en>", b"<HTML>", b"<!doctype HTML>"]
)
def test_upload_answered_by_a_web_page_is_unclear(body: bytes) -> None:
    """A web page is a login page or a proxy's, not an upload's success: the picture's fate is unclear."""
    raised = upload_error(answer(body))
    assert type(raised) is TransientError
    assert (raised.delivery, raised.wall) == (Delivery.WHOLE, False)


def test_upload_answered_by_a_web_page_with_a_byte_order_mark_is_unclear() -> None:
    """A byte-order mark, which servers on Windows put before their pages, does not hide a web page."""
    assert type(upload_error(answer(b"\xef\xbb\xbf<!DOCTYPE html>"))) is TransientError


def test_picture_refusal_quotes_code_and_message() -> None:
    """What the upload host says against a picture reaches the person."""
    raised = upload_error(error(422, "NOT_AN_IMAGE", "cannot be decoded"))
    assert str(raised) == "up.example refuses the picture (HTTP 422 NOT_AN_IMAGE cannot be decoded)"


@pytest.mark.parametrize("check", [api_error, upload_error])
def test_messages_from_outside_are_harmless(check: Callable[[Answer], TileferryError | None]) -> None:
    """Control characters, direction overrides and endless texts of the other side never reach a terminal raw."""
    raised = check(error(422, "X\x1b[31m" + "Y" * 5000, "\u202egnp.exe\r\n" + "z" * 5000))
    text = str(raised)
    assert text.isprintable()
    assert "\\x1b[31m" in text
    assert len(text) < 400


@pytest.mark.parametrize(
    "body",
    [
        {"errorCode": "STORE_NOT_FOUND", "errorMessage": None},
        {"errorCode": "STORE_NOT_FOUND", "errorMessage": 404},
        {"errorCode": "STORE_NOT_FOUND", "errorMessage": {"en": "no such store"}},
    ],
)
def test_error_code_counts_whatever_its_message(body: object) -> None:
    """A message of an unexpected type does not hide the code, which decides whether the run can go on."""
    given = answer(body, 404)
    assert not answers.is_missing(given)
    assert type(api_error(given)) is FatalError


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "blank": b"  \n",
    "HTML": b"<!DOCTYPE html><html><body>Bad gateway</body></html>",
    "truncated": b'{"url": "https://up.exa',
    "number": b"7",
    "null": b"null",
    "string": b'"text"',
    "list": b"[]",
    "empty object": b"{}",
    "NaN": b'{"id": NaN, "url": "u", "urls": NaN, "accessToken": NaN, "set": NaN}',
    "infinity": b'{"id": Infinity, "url": "u", "urls": 1, "accessToken": 1, "set": Infinity}',
    "float beyond range": b'{"id": 1e999, "url": "u", "urls": 1e999, "accessToken": 1e999, "set": 1e999}',
    "integer of 5000 digits": b'{"id": %b, "url": "u", "urls": 1, "accessToken": 1, "set": 1}' % (b"9" * 5000),
    "wrong types": b'{"id": true, "url": 7, "urls": [], "accessToken": 7, "set": 7, "bucket": 7}',
    "wrong types within": b'{"id": [], "url": {}, "urls": {"eu": null}, "accessToken": [], "set": [{"url": 7}]}',
    "not UTF-8": b'{"id": "\xff\xfe", "url": "\xff", "urls": {"\xff": "\xff"}, "accessToken": "\xff", '
    b'"set": [{"url": "\xff"}]}',
    "byte-order mark": b"\xef\xbb\xbf" + b'{"id": "a", "url": "u"}',
    "UTF-16": '{"id": "a", "url": "u"}'.encode("utf-16"),
    "lone surrogate": b'{"id": "\\ud800", "url": "\\ud800", "urls": {"\\ud800": "u"}, '
    b'"accessToken": "\\ud800", "set": [{"url": "\\ud800"}]}',
    "100,000 brackets": b"[" * 100_000,
    "100,000 brackets in an unknown key": b'{"other": ' + b"[" * 100_000 + b"]" * 100_000 + b', "id": "a"}',
    "100,000 objects": b'{"set": ' * 100_000,
    "two values": b'{"id": "a", "url": "u"} {"id": "b", "url": "u"}',
    "NUL": b"\0" * 64,
}

DECODERS: dict[str, Callable[[Answer], object]] = {
    "slot": answers.slot,
    "stored_image": answers.stored_image,
    "buckets": answers.buckets,
    "token": answers.token,
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("body", HOSTILE)
def test_hostile_body_is_a_transient_error(decoder: str, body: str) -> None:
    """Whatever the other side sends, it is a record or a transient error: never a foreign one, never deep."""
    if (decoder, body) == ("stored_image", "empty object"):
        assert answers.stored_image(answer(HOSTILE[body])) is None
        return
    with pytest.raises(TransientError) as caught:
        DECODERS[decoder](answer(HOSTILE[body], content_type="text/html; charset=utf-8"))
    assert len(str(caught.value)) < 200
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("body", HOSTILE)
@pytest.mark.parametrize("status", [400, 403, 404, 422, 500])
def test_hostile_error_body_does_not_change_the_verdict(body: str, status: int) -> None:
    """An error's status decides; what cannot be understood in its body is as good as none."""
    assert type(api_error(answer(HOSTILE[body], status))) is type(api_error(answer(b"", status)))
    assert type(upload_error(answer(HOSTILE[body], status))) is type(upload_error(answer(b"", status)))


@given(st.binary(max_size=200))
def test_any_bytes_become_a_record_or_our_error(body: bytes) -> None:
    """No body at all makes a decoder raise anything but our own error."""
    for decode in DECODERS.values():
        try:
            decode(answer(body))
        except TileferryError:
            continue


def test_incomprehensible_answer_says_what_it_was() -> None:
    """The sentence tells status, kind and length of what came, without its parameters or control characters."""
    with pytest.raises(TransientError) as caught:
        answers.slot(answer(b"<html>", 200, content_type="text/\x1bhtml; charset=x"))
    assert str(caught.value) == "the API's answer cannot be understood (HTTP 200, text/\\x1bhtml, 6 bytes)"
    assert caught.value.delivery is Delivery.WHOLE
    with pytest.raises(TransientError, match="no content type, 0 bytes"):
        answers.slot(answer(b""))


@pytest.mark.parametrize(
    ("body", "slot"),
    [
        ({"id": "i/1", "url": "https://up.example/?a=%2B"}, Slot("i/1", "https://up.example/?a=%2B")),
        ({"id": 42, "url": "u", "more": [1, {}]}, Slot("42", "u")),
        ({"id": 0, "url": "u"}, Slot("0", "u")),
        ({"id": "图片", "url": "u"}, Slot("图片", "u")),
        ({"id": 10**30, "url": "u"}, Slot(str(10**30), "u")),
    ],
)
def test_slot(body: object, slot: Slot) -> None:
    """A slot's id is an opaque text, also where the API sends a number; further keys do not matter."""
    assert answers.slot(answer(body)) == slot


def test_slot_with_duplicate_keys_takes_the_last() -> None:
    """Keys that occur twice are no error; the last one counts, as JSON readers agree."""
    assert answers.slot(answer(b'{"id": "a", "url": "u", "id": "b"}')) == Slot("b", "u")


@pytest.mark.parametrize("body", [{"id": "", "url": "u"}, {"id": "a", "url": ""}])
def test_slot_that_lacks_a_part_is_no_slot(body: object) -> None:
    """An empty id or URL is as good as none, and says nothing against the host."""
    with pytest.raises(TransientError, match="lacks its id or URL") as caught:
        answers.slot(answer(body))
    assert not caught.value.wall


A = Rendition("0", "a.webp", 200, 100)
B = Rendition("1", "b.webp", None, None)

SETS: list[tuple[object, tuple[Rendition, ...] | None]] = [
    ([{"url": "a.webp", "width": 200, "height": 100}, {"url": "b.webp"}], (A, B)),
    ([{"url": "a.webp", "width": 200.0, "height": 100.9}], (A,)),
    ([{"url": "b.webp", "width": None, "height": -1}], (Rendition("0", "b.webp", None, None),)),
    ([{"url": "b.webp", "width": 0, "height": 0}], (Rendition("0", "b.webp", None, None),)),
    ({"original": {"url": "o.jpg", "width": 9, "height": 8}}, (Rendition("original", "o.jpg", 9, 8),)),
    (
        {"original": {"url": "o.jpg", "width": 9, "height": 8}, "webp-200x200": {"url": "w"}},
        (Rendition("original", "o.jpg", 9, 8), Rendition("webp-200x200", "w", None, None)),
    ),
    ({"original": None, "webp-200x200": {"url": "w"}}, (Rendition("webp-200x200", "w", None, None),)),
    ({"original": None}, None),
    ({"original": {"url": ""}}, None),
    ([{"url": ""}], None),
    ([], None),
    ({}, None),
    (None, None),
]


@pytest.mark.parametrize(("given", "renditions"), SETS)
def test_set_in_either_shape(given: object, renditions: tuple[Rendition, ...] | None) -> None:
    """`set` is taken as list and as map; only one that holds a rendition with an address means an image."""
    expected = None if renditions is None else StoredImage("eu-fra", renditions)
    assert answers.stored_image(answer({"bucket": "eu-fra", "set": given, "borderInfo": {}})) == expected


def test_set_as_a_list_with_null_entries() -> None:
    """A null among the listed renditions is passed over, just as in a map."""
    stored = answers.stored_image(answer({"bucket": "b", "set": [None, {"url": "a"}]}))
    assert stored is not None
    assert [rendition.url for rendition in stored.renditions] == ["a"]


@pytest.mark.parametrize("body", [{"set": [{"url": "a"}]}, {"bucket": "", "set": [{"url": "a"}]}, {"bucket": "b"}])
def test_image_without_bucket_or_set_is_not_there_yet(body: object) -> None:
    """Before the bucket and the renditions are known, the image is still being processed."""
    assert answers.stored_image(answer(body)) is None


def test_absurd_width_is_harmless() -> None:
    """A width beyond all measure is no foreign error: at worst one answer that cannot be understood."""
    try:
        stored = answers.stored_image(answer({"bucket": "b", "set": [{"url": "a", "width": 10**400}]}))
    except TransientError:
        return
    assert stored is not None
    assert stored.original.url == "a"


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (answer(b"", 404), True),
        (answer(b"<html>", 404), True),
        (error(404, "IMAGE_NOT_FOUND"), True),
        (error(404, "STORE_NOT_FOUND"), False),
        (answer(b"{}", 200), False),
        (answer(b"", 410), False),
    ],
)
def test_missing(given: Answer, missing: bool) -> None:
    """A 404 means that the image is not there, unless it is the store that is not."""
    assert answers.is_missing(given) is missing
    if missing:
        assert answers.stored_image(given) is None


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"urls": {"eu": "https://cdn.example/", "us": "https://us.example"}}, True),
        ({"urls": {}}, False),
    ],
)
def test_buckets(body: object, found: bool) -> None:
    """Bucket addresses come by name, without a slash at their end."""
    expected = {"eu": "https://cdn.example", "us": "https://us.example"} if found else {}
    assert answers.buckets(answer(body)) == expected


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"accessToken": "abc", "tokenType": "bearer", "expiresIn": 86400}, ("abc", 86400.0)),
        ({"accessToken": "abc", "expiresIn": 1.5}, ("abc", 1.5)),
        ({"accessToken": "abc"}, ("abc", None)),
        ({"accessToken": "abc", "expiresIn": None}, ("abc", None)),
        ({"accessToken": "abc", "expiresIn": 0}, ("abc", None)),
        ({"accessToken": "abc", "expiresIn": -5}, ("abc", None)),
    ],
)
def test_token(body: object, found: tuple[str, float | None]) -> None:
    """An exchanged token and its lifetime in seconds; one that is no lifetime is none."""
    assert answers.token(answer(body)) == found


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Evil: 1", "t\u00f6ken", "a\0b", "\x7f"])
def test_token_that_fits_no_header_is_none(token: str) -> None:
    """A token that could not travel in a header, or would smuggle one in, is refused and not quoted."""
    with pytest.raises(TransientError) as caught:
        answers.token(answer({"accessToken": token}))
    assert str(caught.value) == "the API answered with an access token that is none"


def test_absurd_token_lifetime_is_harmless() -> None:
    """A lifetime beyond all measure is no foreign error."""
    try:
        _, lifetime = answers.token(answer({"accessToken": "abc", "expiresIn": 10**400}))
    except TransientError:
        return
    assert lifetime is None or lifetime > 0


PAUSES: list[tuple[str, float | None]] = [
    ("7", 7.0),
    (" 7 ", 7.0),
    ("7.5", 7.5),
    ("0", SHORTEST_PAUSE),
    ("0.001", SHORTEST_PAUSE),
    ("3601", LONGEST_PAUSE),
    ("1e99", LONGEST_PAUSE),
    ("1e999", None),
    ("inf", None),
    ("nan", None),
    ("-1", None),
    ("-inf", None),
    ("9" * 5000, None),
    ("", None),
    ("soon", None),
    ("0x10", None),
    ("7, 7", None),
    (http_date(90), 90.0),
    (http_date(0), SHORTEST_PAUSE),
    (http_date(86400), LONGEST_PAUSE),
    (http_date(-1), None),
    ("Thu, 01 Jan 1970 00:00:00 GMT", None),
    ("Fri, 17 May 2024 14:00:30 +0200", 30.0),
    ("Friday, 17-May-24 12:00:30 GMT", 30.0),
    ("Fri, 17 May 99999 12:00:00 GMT", None),
    ("Fri, 17 May 2024 99:99:99 GMT", None),
    ("Fri, 17 May 2024 12:00:00 +9999999999", None),
]


@pytest.mark.parametrize(("header", "pause"), PAUSES)
def test_retry_after(header: str, pause: float | None) -> None:
    """Retry-After is read as seconds or as a date, kept within bounds, and dropped where it makes no sense."""
    assert answers.retry_after({"retry-after": header}, NOON) == pause


def test_retry_after_is_missing() -> None:
    """Without the header there is no pause."""
    assert answers.retry_after({}, NOON) is None


@pytest.mark.parametrize("header", ["Fri May 17 12:00:30 2024", "Fri, 17 May 2024 12:00:30 -0000"])
def test_retry_after_date_without_a_zone_is_in_universal_time(
    header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A date that names no zone is in universal time, as HTTP has it, wherever this machine stands."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        try:
            pause = answers.retry_after({"retry-after": header}, NOON)
        finally:
            patch.undo()
            time.tzset()
    assert pause == 30.0


@given(st.text(max_size=60), st.floats(min_value=0, max_value=4e9))
def test_retry_after_is_bounded_whatever_it_says(header: str, now: float) -> None:
    """No text makes the pause raise, negative, endless or a number that is none."""
    pause = answers.retry_after({"retry-after": header}, now)
    assert pause is None or SHORTEST_PAUSE <= pause <= LONGEST_PAUSE
