"""The API's own calls: who may make them, and what they answer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from emulator.customer import GIF, Customer, FakeClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Enter = Callable[..., Awaitable[Customer]]

JSON = {"Content-Type": "application/json"}
ASK = b'{"acceptHeader": "multipart/form-data"}'


@pytest.mark.parametrize("token", [None, "", "wrong"])
async def test_a_call_without_the_right_token_is_refused_and_counted(
    customer: Customer, token: str | None
) -> None:
    """A missing, empty or wrong token is answered with 403 INVALID_API_TOKEN and stands in the truth."""
    customer.token = token
    assert (await customer.buckets()).code == (403, "INVALID_API_TOKEN")
    assert customer.emulator.truth().bad_token_calls == 1


async def test_a_token_under_another_scheme_is_refused(customer: Customer) -> None:
    """Only the documented `Bearer` scheme counts."""
    url = f"{customer.emulator.api_url}/1003/image/bucket"
    reply = await customer.send("GET", url, headers={"Authorization": "Basic emulator-token"})
    assert reply.status == 403


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"{}", JSON, (400, "WRONG_PARAMETER")),
        (b'{"acceptHeader": "image/png"}', JSON, (400, "WRONG_PARAMETER")),
        (b'{"acceptHeader": "multipart/form-data", "more": 1}', JSON, (400, "WRONG_PARAMETER")),
        (b"not json", JSON, (400, "WRONG_PARAMETER")),
        (b"[" * 20_000, JSON, (400, "WRONG_PARAMETER")),
        (b" " * 70_000, JSON, (400, "WRONG_PARAMETER")),
        (ASK, {"Content-Type": "text/plain"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (ASK, {"Content-Type": "application/json; charset=utf-8"}, None),
    ],
)
async def test_reserving_asks_for_exactly_the_documented_body(
    customer: Customer, body: bytes, headers: dict[str, str], expected: tuple[int, str] | None
) -> None:
    """Anything but the documented acceptHeader as JSON is refused, and no slot comes of it."""
    reply = await customer.api("POST", "/1003/tile/cover/image", body=body, headers=headers)
    assert (reply.code if expected else reply.status) == (expected or 200)
    assert customer.emulator.truth().slots == (0 if expected else 1)


@pytest.mark.parametrize("tile", ["a/b", "a+b", "100%", "a?b#c", "two words", "ümläut 図", "%41", "a=b&c"])
async def test_a_tile_id_is_opaque(customer: Customer, tile: str) -> None:
    """A percent-encoded tile id arrives as it was meant, whatever it holds."""
    await customer.store(tile=tile)
    assert [image.tile for image in customer.emulator.truth().images] == [tile]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/1003/tile/%zz/image", 400),
        ("POST", "/1003/tile/%FF/image", 400),
        ("POST", "/1003/tile/a/b/image", 404),
        ("POST", "/1003/tile//image", 404),
        ("POST", "/1003/tile/missing-one/image", 404),
        ("POST", "/1003/tile/cover/image?x=1", 400),
        ("POST", "/9/tile/cover/image", 404),
        ("POST", "/abc/tile/cover/image", 404),
        ("GET", "/1003/tile/cover/image", 405),
        ("GET", "/1003/image/a?b", 400),
        ("GET", "/1003/image/unknown", 404),
        ("GET", "/1003/nothing", 404),
        ("GET", "/1003/tile", 400),
        ("GET", "/1003/tile?published=maybe", 400),
        ("GET", "/1003/tile?published=true&published=true", 400),
        ("GET", "/1003/tile?published=true&page=1", 400),
        ("GET", "/1003/page?published", 400),
        ("GET", "/1003/page?published=true&pageId=home", 400),
        ("DELETE", "/1003/image/a", 405),
    ],
)
async def test_what_the_api_does_not_know_is_refused(
    customer: Customer, method: str, path: str, status: int
) -> None:
    """Paths, methods and queries that the API does not have are errors with the documented body."""
    body = ASK if method == "POST" else None
    reply = await customer.api(method, path, body=body, headers=JSON if body else {})
    assert reply.status == status
    assert reply.json["errorMessage"]


async def test_a_body_where_none_belongs_is_refused(customer: Customer) -> None:
    """A GET with a body is a mistake."""
    assert (await customer.api("GET", "/1003/image/bucket", body=b"x")).code == (400, "WRONG_PARAMETER")


async def test_image_ids_have_to_be_escaped(customer: Customer) -> None:
    """Ids that are handed out hold what a careless client would get wrong."""
    image_id = (await customer.reserve()).json["id"]
    assert {"/", "+", "%", "?", " ", "ü"} <= set(image_id)
    careless = await customer.api("GET", f"/1003/image/{quote(image_id)}")
    assert careless.status == 404


async def test_image_ids_can_be_plain(enter: Enter) -> None:
    """Without awkward ids nothing has to be escaped."""
    customer = await enter(awkward_ids=False)
    image_id = (await customer.reserve()).json["id"]
    assert quote(image_id, safe="") == image_id


@pytest.mark.parametrize(("stores", "other"), [(frozenset[int](), 404), (frozenset({7}), 200), (None, 200)])
async def test_only_the_shops_that_exist_answer(enter: Enter, stores: frozenset[int] | None, other: int) -> None:
    """The main store always exists, further ones by the settings; else STORE_NOT_FOUND."""
    customer = await enter(store_ids=stores)
    assert (await customer.reserve()).status == 200
    assert (await customer.reserve(store=7)).status == other


async def test_an_image_is_known_to_its_own_store_only(enter: Enter) -> None:
    """An image id of one store means nothing in another."""
    customer = await enter(store_ids=None, processing=(0, 0))
    image_id = await customer.store()
    assert (await customer.result(image_id)).status == 200
    assert (await customer.result(image_id, store=8)).status == 404


@pytest.mark.parametrize("shape", ["map", "list"])
async def test_a_result_grows_from_nothing_to_a_set(enter: Enter, clock: FakeClock, shape: str) -> None:
    """404 for the first third of the processing time, then no `set` or an empty one, then all renditions."""
    customer = await enter(processing=(3, 3), set_shape=shape)
    ids = [await customer.store(), await customer.store(b"GIF89a" + bytes((9, 0, 9, 0)))]
    clock.now += 0.9
    assert [(await customer.result(each)).status for each in ids] == [404, 404]
    clock.now += 0.2
    unfinished = [(await customer.result(each)).json for each in ids]
    assert "set" not in unfinished[0]
    assert not unfinished[1]["set"]
    clock.now += 2
    told = (await customer.result(ids[0])).json
    renditions = list(told["set"].values()) if shape == "map" else told["set"]
    assert renditions[0] | {"url": ""} == {"url": "", "width": 4, "height": 3}
    assert len(renditions) == 5
    if shape == "map":
        assert {"original", "webp-200x200", "cropped-webp-1000x2000"} <= told["set"].keys()
    assert set(told["borderInfo"]["color"]) == {"r", "g", "b", "a"}


async def test_a_reserved_slot_without_a_body_has_no_result(customer: Customer) -> None:
    """An id that was reserved but never posted is not found."""
    assert (await customer.result((await customer.reserve()).json["id"])).status == 404


async def test_the_url_of_a_result_leads_to_the_picture(customer: Customer) -> None:
    """The bucket's address plus the rendition's url gives back the very bytes, with their media type."""
    image_id = await customer.store()
    told = (await customer.result(image_id)).json
    bucket = (await customer.buckets()).json["urls"][told["bucket"]]
    reply = await customer.send("GET", f"{bucket}/{told['set']['original']['url']}")
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, GIF, "image/gif")
    assert (await customer.send("GET", f"{bucket}/nothing/original")).status == 404
    assert (await customer.send("POST", f"{bucket}/nothing/original")).status == 405


async def test_tiles_and_pages_are_told_as_documented(enter: Enter) -> None:
    """The listing shows the tiles that exist, by page, and each of them alone."""
    customer = await enter(tiles=frozenset({"one", "two/2"}))
    listed = (await customer.api("GET", "/1003/tile?published=false")).json["tiles"]
    assert [tile["id"] for tile in listed] == ["one", "two/2"]
    elsewhere = await customer.api("GET", "/1003/tile?published=true&pageId=other&lang=en")
    assert elsewhere.json == {"tiles": []}
    assert (await customer.api("GET", "/1003/tile/two%2F2")).json["id"] == "two/2"
    assert (await customer.api("GET", "/1003/tile/three")).status == 404
    page = (await customer.api("GET", "/1003/page?published=true")).json["pages"][0]
    assert page["tileIds"] == ["one", "two/2"]


async def test_tiles_that_were_used_are_listed(customer: Customer) -> None:
    """Where every tile exists, the listing shows samples and those that images were put on."""
    await customer.reserve("mine")
    listed = (await customer.api("GET", "/1003/tile?published=true")).json["tiles"]
    assert "mine" in [tile["id"] for tile in listed]


EXCHANGE = "grant_type=authorization_code&site_id=1003&code=emulator-secret"


@pytest.mark.parametrize("home", ["/api/v1", "/instantsite"])
async def test_a_secret_token_is_exchanged_for_one_that_works(customer: Customer, home: str) -> None:
    """Both documented homes of the exchange give a token that is good for its store only."""
    url = f"{customer.emulator.base_url}{home}/oauth/token?{EXCHANGE}"
    told = (await customer.send("POST", url)).json
    assert (told["tokenType"], told["expiresIn"]) == ("bearer", 86400)
    customer.token = told["accessToken"]
    assert (await customer.buckets()).status == 200
    assert (await customer.reserve(store=5)).code == (403, "INVALID_API_TOKEN")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (EXCHANGE.replace("authorization_code", "draft_code"), 400),
        (EXCHANGE.replace("1003", "abc"), 400),
        (EXCHANGE.replace("1003", "77"), 404),
        (EXCHANGE.replace("emulator-secret", "guess"), 403),
        (EXCHANGE + "&more=1", 400),
        ("", 400),
    ],
)
async def test_an_exchange_that_is_wrong_gives_no_token(customer: Customer, query: str, status: int) -> None:
    """Every parameter of the exchange is checked."""
    assert (await customer.send("POST", f"{customer.emulator.auth_url}/oauth/token?{query}")).status == status


async def test_tokens_expire(enter: Enter, clock: FakeClock) -> None:
    """With a lifetime both the given and an exchanged token end; a new one can be had."""
    customer = await enter(token_lifetime=20)
    clock.now += 15
    assert (await customer.buckets()).status == 200
    exchanged = (await customer.send("POST", f"{customer.emulator.auth_url}/oauth/token?{EXCHANGE}")).json
    assert exchanged["expiresIn"] == 20
    clock.now += 15
    assert (await customer.buckets()).status == 403
    customer.token = exchanged["accessToken"]
    assert (await customer.buckets()).status == 200
    clock.now += 15
    assert (await customer.buckets()).status == 403


async def test_tokens_can_be_taken_away(customer: Customer) -> None:
    """A test can expire one token or all, issue new ones, and revoke the secret."""
    emulator = customer.emulator
    other = emulator.issue_token(1003)
    emulator.expire_token("emulator-token")
    assert (await customer.buckets()).status == 403
    customer.token = other
    assert (await customer.buckets()).status == 200
    emulator.expire_token()
    assert (await customer.buckets()).status == 403
    emulator.revoke_secret()
    assert (await customer.send("POST", f"{emulator.auth_url}/oauth/token?{EXCHANGE}")).status == 403
